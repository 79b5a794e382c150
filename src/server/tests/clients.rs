//! Who is at the other end: by the PROXY protocol, and by a certificate.

use http::Version;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::HandshakeKind;
use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::config::TrustedProxies;

const CLIENT: &str = "GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

async fn behind_balancer(mode: Mode, ranges: &[&str]) -> Edge {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let proxies = TrustedProxies { ranges, proxy_protocol: true, ..TrustedProxies::default() };
    Edge::start(Listening { proxies: Arc::new(proxies), ..mode.into() }, limits(), Metrics::new()).await
}

#[tokio::test]
async fn row_84_a_balancer_names_the_client_and_nobody_else_does() {
    let trusted = behind_balancer(Mode::Plain, &["127.0.0.1/32"]).await;
    for (line, client) in [("PROXY TCP4 203.0.113.9 10.0.0.1 5 443\r\n", "203.0.113.9"), ("PROXY UNKNOWN\r\n", "127.0.0.1")] {
        let answer = trusted.exchange(format!("{line}{CLIENT}")).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{client} nobody")), "{line}: {answer}");
    }
    assert_eq!(trusted.exchange(CLIENT).await, "");
    assert!(trusted.refused("malformed"));
    assert_eq!(trusted.exchange("PROXY TCP4 203.0.113.9 ").await, "");
    assert!(trusted.refused("header_timeout"));

    let untrusted = behind_balancer(Mode::Plain, &["127.0.0.2/32"]).await;
    let answer = untrusted.exchange(format!("PROXY TCP4 203.0.113.9 10.0.0.1 5 443\r\n{CLIENT}")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(untrusted.exchange(CLIENT).await.ends_with("127.0.0.1 nobody"));
    assert_eq!(untrusted.requests(), ["GET /client"]);
}

#[tokio::test]
async fn the_balancer_s_line_comes_before_tls() {
    let own = super::Identity::new(&["edge.test"]);
    let certificates = Certificates::load(&own.tls(), Metrics::new()).unwrap();
    let edge = behind_balancer(Mode::Tls(certificates), &["127.0.0.1/32"]).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"PROXY TCP6 2001:db8::9 ::1 5 443\r\n").await.unwrap();
    let name = ServerName::try_from("edge.test").unwrap();
    let mut stream = connector(&own.certificate, &["http/1.1"]).connect(name, stream).await.unwrap();
    stream.write_all(CLIENT.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("2001:db8::9 nobody"));
}

/// Issues certificates of clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A client that trusts `server` and shows a certificate for this name.
    fn client(&self, name: &str, server: &CertificateDer<'static>, alpn: &[&str]) -> TlsConnector {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.clone()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

struct Asking {
    edge: Edge,
    own: super::Identity,
    certificates: Certificates,
}

impl Asking {
    async fn new(authority: &Authority) -> Asking {
        let own = super::Identity::new(&["edge.test"]);
        let metrics = Metrics::new();
        let certificates = Certificates::load(&tls_asking(&own, authority), metrics.clone()).unwrap();
        Asking { edge: Edge::start(Mode::Tls(certificates.clone()), patient(), metrics).await, own, certificates }
    }

    async fn connect(&self, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        client.connect(ServerName::try_from("edge.test").unwrap(), self.edge.connect().await).await
    }

    /// Whom a new connection proves, and whether its session was a new one.
    async fn proved(&self, client: &TlsConnector) -> (String, HandshakeKind) {
        let mut stream = self.connect(client).await.unwrap();
        stream.write_all(CLIENT.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        (answer.rsplit(' ').next().unwrap().to_owned(), stream.get_ref().1.handshake_kind().unwrap())
    }
}

fn tls_asking(own: &super::Identity, authority: &Authority) -> Tls {
    let file = own.dir.path().join("clients.pem");
    std::fs::write(&file, authority.0.pem()).unwrap();
    Tls { client_ca_file: Some(file), ..own.tls() }
}

#[tokio::test]
async fn a_certificate_proves_its_holder_also_when_its_session_is_resumed() {
    let authority = Authority::new();
    let asking = Asking::new(&authority).await;
    let ci = authority.client("ci", &asking.own.certificate, &["http/1.1"]);
    assert_eq!(asking.proved(&ci).await, ("ci".to_owned(), HandshakeKind::Full));
    assert_eq!(asking.proved(&ci).await, ("ci".to_owned(), HandshakeKind::Resumed));
    assert_eq!(asking.proved(&authority.client("other", &asking.own.certificate, &[])).await.0, "nobody");
    assert_eq!(asking.proved(&connector(&asking.own.certificate, &[])).await.0, "nobody");
    let stranger = Authority::new().client("ci", &asking.own.certificate, &[]);
    // In TLS 1.3 a client learns of it with its first read.
    if let Ok(mut stream) = asking.connect(&stranger).await {
        let _ = stream.write_all(CLIENT.as_bytes()).await;
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    }
}

#[tokio::test]
async fn every_stream_of_an_http_2_connection_has_its_certificate() {
    let authority = Authority::new();
    let asking = Asking::new(&authority).await;
    let stream = asking.connect(&authority.client("ci", &asking.own.certificate, &["h2"])).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("https://edge.test/client").version(Version::HTTP_2).body(()).unwrap();
        send = send.ready().await.unwrap();
        let answer = send.send_request(request, true).unwrap().0.await.unwrap();
        let body = answer.into_body().data().await.unwrap().unwrap();
        assert!(body.ends_with(b" ci"), "{body:?}");
    }
    driving.abort();
}

#[tokio::test]
async fn with_other_authorities_the_old_certificates_end() {
    let (old, new) = (Authority::new(), Authority::new());
    let asking = Asking::new(&old).await;
    let ci = old.client("ci", &asking.own.certificate, &["http/1.1"]);
    assert_eq!(asking.proved(&ci).await.0, "ci");
    let mut kept = asking.connect(&ci).await.unwrap();
    kept.write_all(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_answer(&mut kept).await.unwrap().ends_with(" ci"));

    asking.certificates.reload(&tls_asking(&asking.own, &old)).unwrap();
    assert_eq!(asking.proved(&ci).await, ("ci".to_owned(), HandshakeKind::Resumed), "nothing has changed");
    asking.certificates.reload(&tls_asking(&asking.own, &new)).unwrap();
    kept.write_all(CLIENT.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut kept).await.ends_with(" nobody"), "an open connection goes on, and proves nothing");
    let refused = match asking.connect(&ci).await {
        Ok(mut stream) => {
            let _ = stream.write_all(CLIENT.as_bytes()).await;
            stream.read_to_end(&mut Vec::new()).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused, "its session is not resumed either");
    assert_eq!(asking.proved(&new.client("ci", &asking.own.certificate, &["http/1.1"])).await.0, "ci");
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_by_their_file() {
    let own = super::Identity::new(&["edge.test"]);
    for text in ["", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"] {
        let file = own.dir.path().join("clients.pem");
        std::fs::write(&file, text).unwrap();
        let told = Certificates::load(&Tls { client_ca_file: Some(file.clone()), ..own.tls() }, Metrics::new()).unwrap_err();
        assert!(matches!(told, super::super::ServerError::Certificate { file: named, .. } if named == file), "{text}");
    }
}
