//! Certificates and configurations replaced, good and bad, and an edge told to stop: nobody's request fails.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::harness::client::Client;
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::{Blob, Image};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::regions::until;
use crate::harness::script::{Fault, Match};
use crate::harness::tls::Authority;

const MIB: u64 = 1 << 20;
/// How long an edge may take to notice a changed file.
const NOTICE_TIME: Duration = Duration::from_secs(10);

/// Waits until the metrics contain a line.
async fn wait_for_metric(edge: &EdgeProcess, line: &str) {
    let since = Instant::now();
    while !edge.metrics().await.lines().any(|found| found == line) {
        assert!(since.elapsed() < NOTICE_TIME, "{line} is not among\n{}", edge.metrics().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Pulls over and over until told to stop; any failure fails the test. Returns how often.
fn keep_pulling(client: &Client, image: &Image, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (client, image, stop) = (client.clone(), image.clone(), stop.clone());
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            pull(&client, "origin.test/app", "v1", &image).await.expect("no request fails");
            count += 1;
        }
        count
    })
}

/// The serial number's place in a certificate is known to no one here; its bytes as a whole tell it apart.
async fn served_certificate(edge: &EdgeProcess, authority: &Authority) -> Vec<u8> {
    let stream = tokio::net::TcpStream::connect(edge.address()).await.expect("a connection");
    let name = rustls::pki_types::ServerName::try_from("edge.test").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(authority.client()).connect(name, stream).await.expect("a trusted certificate");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_under_load() {
    let authority = Authority::new("Edge's authority");
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000, MIB]));
    origin.push("app", "v1", &image);
    let first = authority.issue(&["edge.test"]);
    let settings = Settings::new();
    let (cert, key) = (settings.file("tls.crt", &first.certificate_pem), settings.file("tls.key", &first.key_pem));
    let edge = settings
        .table(&format!("[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"", cert.display(), key.display()))
        .with_tls(&authority, "edge.test")
        .upstream("origin.test", &origin)
        .spawn()
        .await;
    let before = served_certificate(&edge, &authority).await;
    let stop = Arc::new(AtomicBool::new(false));
    let pulling: Vec<_> = (0..4).map(|_| keep_pulling(&edge.client, &image, &stop)).collect();

    // A key that does not belong to the certificate is not taken over.
    let second = authority.issue(&["edge.test"]);
    edge.replace_file("tls.key", &second.key_pem);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(served_certificate(&edge, &authority).await, before);
    edge.replace_file("tls.crt", "no certificate");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(served_certificate(&edge, &authority).await, before);
    assert!(edge.metrics().await.contains(r#"outcome="rejected""#), "a bad certificate is reported");

    edge.replace_file("tls.crt", &second.certificate_pem);
    let since = Instant::now();
    while served_certificate(&edge, &authority).await == before {
        assert!(since.elapsed() < NOTICE_TIME, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for pulling in pulling {
        assert!(pulling.await.expect("no request fails") > 0);
    }
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_replaced_under_load() {
    let (origin, added, image) = (Origin::start().await, Origin::start().await, Image::new(1, &[5_000, MIB]));
    origin.push("app", "v1", &image);
    added.push("app", "v1", &image);
    let mut edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    let stop = Arc::new(AtomicBool::new(false));
    let pulling: Vec<_> = (0..4).map(|_| keep_pulling(&edge.client, &image, &stop)).collect();
    let good = edge.config_text();

    edge.rewrite(|text| text.push_str("\nnonsense = = 1\n"));
    edge.signal(Signal::HUP);
    wait_for_metric(&edge, r#"outport_config_reloads_total{outcome="rejected",what="config"} 1"#).await;
    // Lines gather for a moment before they are written.
    until("the log says so", async || edge.log_text().contains("stays in force")).await;
    edge.rewrite(|text| *text = format!("{good}\n[[upstream]]\nname = \"broken.test\"\nurl = \"ftp://broken\"\n"));
    edge.signal(Signal::HUP);
    wait_for_metric(&edge, r#"outport_config_reloads_total{outcome="rejected",what="config"} 2"#).await;

    let url = added.url();
    edge.rewrite(|text| *text = format!("{good}\n[[upstream]]\nname = \"added.test\"\nurl = \"{url}\"\n"));
    edge.signal(Signal::HUP);
    wait_for_metric(&edge, r#"outport_config_reloads_total{outcome="applied",what="config"} 1"#).await;
    pull(&edge.client, "added.test/app", "v1", &image).await.expect("the added upstream's image");

    edge.rewrite(|text| *text = good.clone());
    wait_for_metric(&edge, r#"outport_config_reloads_total{outcome="applied",what="config"} 2"#).await;
    assert_eq!(edge.client.get("/v2/added.test/app/manifests/v1").await.status, 404, "a removed upstream is gone");
    stop.store(true, Ordering::Relaxed);
    for pulling in pulling {
        assert!(pulling.await.expect("no request fails") > 0);
    }
    edge.finish().await;
}

#[tokio::test]
async fn passwords_and_grants_follow_a_reload() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000]));
    origin.push("app", "v1", &image);
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]").principal("alice", "first-password", "origin.test/**");
    let mut edge = settings.upstream("origin.test", &origin).spawn().await;
    let with = |edge: &EdgeProcess, password: &str| edge.client.clone().with_basic("alice", password);
    pull(&with(&edge, "first-password"), "origin.test/app", "v1", &image).await.expect("alice's image");
    edge.replace_file("alice.password", "second-password");
    let since = Instant::now();
    while with(&edge, "first-password").get("/v2/").await.status != 401 {
        assert!(since.elapsed() < NOTICE_TIME, "the old password still works");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pull(&with(&edge, "second-password"), "origin.test/app", "v1", &image).await.expect("alice's image");
    edge.rewrite(|text| *text = text.replace("pull = [\"origin.test/**\"]", "pull = [\"origin.test/other/**\"]"));
    edge.signal(Signal::HUP);
    wait_for_metric(&edge, r#"outport_config_reloads_total{outcome="applied",what="config"} 2"#).await;
    assert_eq!(with(&edge, "second-password").get("/v2/origin.test/app/manifests/v1").await.status, 404);
    edge.finish().await;
}

#[tokio::test]
async fn a_bad_configuration_does_not_start() {
    let (registry, ops) = ("127.0.0.1:0", "127.0.0.1:0");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("outport.toml");
    std::fs::write(&file, format!("[listen]\nregistry = \"{registry}\"\nops = \"{ops}\"\ncolour = \"red\"\n[cache]\ndisk = \"5x\"\n"))
        .expect("a file");
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_outport")).arg("serve").arg("--config").arg(&file).output().expect("it runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("listen.colour") && text.contains("cache.disk"), "all faults at once, with their places: {text}");
}

/// Downloads that are under way, and requests that come, when the edge is told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_no_request() {
    const CLIENTS: usize = 8;
    let (origin, image, blob) = (Origin::start().await, Image::new(1, &[5_000, MIB]), Blob::seeded(9, 24 * MIB));
    origin.push("app", "v1", &image);
    origin.push_blob("app", &blob);
    origin.script(Match::blob(blob.digest()), Fault::Slow(8 * MIB));
    let mut edge = Settings::new().limits("grace = \"20s\"").upstream("origin.test", &origin).spawn().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");

    let told = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, told, answered, image) = (edge.client.clone(), told.clone(), answered.clone(), image.clone());
        clients.spawn(async move { ask_until_gone(&client, &image, &told, &answered).await });
    }
    let mut downloads = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, blob) = (edge.client.clone(), blob.clone());
        let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
        downloads.spawn(async move {
            let mut exchange = client.open("GET", &path, &[]).await.expect("a head");
            exchange.compare(&blob, 0).await.expect("a download under way is finished").bytes
        });
    }
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    told.store(true, Ordering::SeqCst);
    edge.signal(Signal::TERM);
    for bytes in downloads.join_all().await {
        assert_eq!(bytes, blob.size_bytes());
    }
    clients.join_all().await;
    assert!(answered.load(Ordering::Relaxed) > 0);
    assert!(edge.wait(Duration::from_secs(20)).await.success());
    edge.start_again().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    edge.finish().await;
}

/// Asks on connections that are used again, as engines do, until no connection can be had. A request that was begun before the
/// signal must be answered; later ones may find no connection, or one that was closed before the request was read.
async fn ask_until_gone(client: &Client, image: &Image, told: &AtomicBool, answered: &AtomicU64) {
    let host = client.address().to_string();
    loop {
        let mut wire = match client.connect().await {
            Ok(wire) => wire,
            Err(error) => {
                assert!(told.load(Ordering::SeqCst), "no connection before the signal: {error}");
                return;
            }
        };
        for _ in 0..50 {
            let before_the_signal = !told.load(Ordering::SeqCst);
            match wire.ask("GET", "/v2/origin.test/app/manifests/v1", &host).await {
                Ok((answer, again)) => {
                    assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        break;
                    }
                    wire = again;
                }
                Err(error) => {
                    assert!(!before_the_signal, "a request begun before the signal failed: {error}");
                    let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(closed.contains(&error.kind()), "{error}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn the_grace_period_ends() {
    let (origin, blob) = (Origin::start().await, Blob::seeded(9, 8 * MIB));
    origin.push_blob("app", &blob);
    origin.script(Match::blob(blob.digest()), Fault::StallAfter(MIB));
    let mut edge = Settings::new().limits("grace = \"1s\"").upstream("origin.test", &origin).spawn().await;
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let mut exchange = edge.client.open("GET", &path, &[]).await.expect("a head");
    edge.signal(Signal::TERM);
    assert!(exchange.compare(&blob, 0).await.is_err(), "what cannot be completed is cut, never ended");
    assert!(edge.wait(Duration::from_secs(10)).await.success());
    edge.start_again().await;
    edge.finish().await;
}
