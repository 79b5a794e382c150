//! Client certificates over real TLS: whom they prove, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::SanType;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::client::Client;
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::tls::{Authority, Pair};

/// The edge's own certificate comes from one authority, those of its clients from another.
struct Authorities {
    edge: Authority,
    clients: Authority,
}

const TARGET: &str = "/v2/origin.test/app/manifests/v1";

impl Authorities {
    fn new() -> Authorities {
        Authorities { edge: Authority::new("Edge's authority"), clients: Authority::new("Clients' authority") }
    }

    fn settings(&self, origin: &Origin) -> Settings {
        let (own, clients) = (self.edge.issue(&["edge.test"]), self.clients.pem());
        let settings = Settings::new();
        let files = [("tls.crt", &own.certificate_pem), ("tls.key", &own.key_pem), ("clients.crt", &clients)];
        let [cert, key, clients] = files.map(|(name, text)| settings.file(name, text).display().to_string());
        settings
            .access("anonymous_pull = [\"canary.test/**\"]")
            .with_tls(&self.edge, "edge.test")
            .table(&format!("[tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\nclient_ca_file = \"{clients}\""))
            .upstream("origin.test", origin)
    }

    fn showing(&self, client: &Client, own: &Pair) -> Client {
        client.clone().with_tls(self.edge.client_showing(own), "edge.test")
    }
}

async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.push("app", "v1", &Image::new(6, &[100]));
    origin
}

fn certified(name: &str, certificates: &str) -> String {
    format!("[[principal]]\nname = \"{name}\"\ncertificates = {certificates}\npull = [\"origin.test/**\"]")
}

#[tokio::test]
async fn a_certificate_proves_a_principal() {
    let (authorities, origin) = (Authorities::new(), origin().await);
    let spiffe = SanType::URI("spiffe://example.com/robot".try_into().expect("a URI"));
    let (ci, robot, named, nobody) = (
        authorities.clients.issue(&["ci"]),
        authorities.clients.issue_with(&["anything"], vec![spiffe]),
        authorities.clients.issue(&["build-7.example.com"]),
        authorities.clients.issue(&["nobody"]),
    );
    let pinned = authorities.clients.issue(&["pinned"]);
    let edge = authorities
        .settings(&origin)
        .table(&certified("ci", "[\"CN=ci\"]"))
        .table(&certified("robot", "[\"spiffe://example.com/robot\", \"dns:build-7.example.com\"]"))
        .table(&certified("pinned", &format!("[\"{}\"]", fingerprint(&pinned))))
        .pusher("by-password", "[\"origin.test/**\"]", "[]")
        .pusher("without-leave", "[]", "[]")
        .start()
        .await;
    for (own, expected) in [(&ci, 200), (&robot, 200), (&named, 200), (&pinned, 200), (&nobody, 401)] {
        assert_eq!(authorities.showing(&edge.client, own).get(TARGET).await.status, expected, "{}", own.certificate_pem);
    }
    assert_eq!(edge.client.get(TARGET).await.status, 401, "to show none is possible");
    // What a request says itself goes before what its connection says.
    for (name, password, expected) in [("by-password", "secret", 200), ("by-password", "wrong", 401), ("without-leave", "secret", 404)] {
        let client = authorities.showing(&edge.client, &ci).with_basic(name, password);
        assert_eq!(client.get(TARGET).await.status, expected, "{name}");
    }
    // The same names by an authority that is not ours are nobody's.
    let stranger = Authority::new("Clients' authority").issue(&["ci"]);
    assert!(authorities.showing(&edge.client, &stranger).try_get(TARGET).await.is_err(), "its handshake fails");
    let metrics = edge.metrics().await;
    assert!(!metrics.contains(r#"outport_authentications_total{outcome="accepted"} 0"#), "{metrics}");
    edge.finish().await;
}

fn fingerprint(pair: &Pair) -> String {
    let der = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).expect("our own PEM");
    outport::oci::Digest::sha256(&der).to_string()
}

/// How long an edge may take to notice a changed file.
const NOTICE_TIME: Duration = Duration::from_secs(10);

async fn until(edge: &EdgeProcess, client: &Client, status: Option<u16>) {
    let since = Instant::now();
    while client.try_get(TARGET).await.ok().map(|answer| answer.status) != status {
        assert!(since.elapsed() < NOTICE_TIME, "not {status:?} within {NOTICE_TIME:?}:\n{}", edge.log_text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn with_the_authority_its_certificates_end_whatever_the_connection() {
    let (authorities, origin) = (Authorities::new(), origin().await);
    let ci = authorities.clients.issue(&["ci"]);
    let edge = authorities.settings(&origin).table(&certified("ci", "[\"CN=ci\"]")).spawn().await;
    // One configuration for all connections, so that sessions are resumed.
    let config: Arc<ClientConfig> = authorities.edge.client_showing(&ci);
    let client = edge.client.clone().with_tls(config, "edge.test");
    let kept = client.connect().await.expect("a connection");
    let (answer, kept) = kept.ask("GET", TARGET, "edge.test").await.expect("an answer");
    assert_eq!(answer.status, 200);
    for _ in 0..3 {
        assert_eq!(client.get(TARGET).await.status, 200, "a resumed session proves the same");
    }
    let successor = Authority::new("Clients' next authority");
    edge.replace_file("clients.crt", &successor.pem());
    until(&edge, &client, None).await;
    let (answer, _) = kept.ask("GET", TARGET, "edge.test").await.expect("the connection itself goes on");
    assert_eq!(answer.status, 401);
    let next = edge.client.clone().with_tls(authorities.edge.client_showing(&successor.issue(&["ci"])), "edge.test");
    until(&edge, &next, Some(200)).await;
    // A file that cannot be used leaves those that are in force.
    edge.replace_file("clients.crt", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(next.get(TARGET).await.status, 200);
    edge.finish().await;
}

#[tokio::test]
async fn who_is_taken_out_of_the_configuration_is_out_at_once() {
    let (authorities, origin) = (Authorities::new(), origin().await);
    let ci = authorities.clients.issue(&["ci"]);
    let mut edge = authorities.settings(&origin).table(&certified("ci", "[\"CN=ci\"]")).spawn().await;
    let client = authorities.showing(&edge.client, &ci);
    let (answer, kept) = client.connect().await.expect("a connection").ask("GET", TARGET, "edge.test").await.expect("an answer");
    assert_eq!(answer.status, 200);
    edge.rewrite(|text| *text = text.replace("CN=ci", "CN=other"));
    until(&edge, &client, Some(401)).await;
    let (answer, _) = kept.ask("GET", TARGET, "edge.test").await.expect("the connection itself goes on");
    assert_eq!(answer.status, 401);
    edge.finish().await;
}
