//! Origins that answer what is not true: nothing of it is stored, no client completes it, and no credential goes astray
//! (hardening rows 76 to 81).

use std::time::Duration;

use std::net::Ipv4Addr;

use crate::harness::client::Client;
use crate::harness::disk::{assert_not_cached, contains, wait_for_blob};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Blob, Image, MANIFEST, Manifest};
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};
use crate::harness::tls::Authority;
use crate::harness::token::{Guard, Scheme, TokenBy};

/// A blob that is streamed to the client as it comes.
const LARGE: u64 = 3_000_000;
/// A blob that is verified before the first byte of the answer.
const SMALL: u64 = 10_000;

/// An edge before an origin that has one image, with a small and a large layer, in `a/b`.
async fn edge_before(origin: &Origin) -> (TestEdge, Image) {
    let image = Image::new(79, &[SMALL, LARGE]);
    origin.push("a/b", "v1", &image);
    let edge = Settings::new().cache("negative_ttl = \"0s\"").upstream("origin.test", origin).start().await;
    (edge, image)
}

fn blob_path(blob: &Blob) -> String {
    format!("/v2/origin.test/a/b/blobs/{}", blob.digest())
}

/// Asks for a blob and expects that it is not completed: cut short, or refused as a wrong or missing answer.
async fn assert_never_completed(client: &Client, path: &str) {
    // What is cut is what shall happen; only a whole answer can be wrong.
    if let Ok(answer) = client.try_get(path).await {
        assert!(matches!(answer.status, 502 | 503), "{path}: {} with {} bytes", answer.status, answer.body.len());
        assert!(answer.error_code().is_some(), "{path}: {}", answer.text());
    }
}

/// After the origin has come to its senses the same edge gives the right bytes and keeps them.
async fn assert_recovers(edge: TestEdge, origin: &Origin, image: &Image) {
    origin.clear();
    pull(&edge.client, "origin.test/a/b", "v1", image).await.expect("an honest origin's image is pulled");
    wait_for_blob(&edge.data_dir(), image.blobs[2].digest()).await;
    edge.finish().await;
}

/// Every layer meets this fault.
async fn layers_meet(fault: Fault) {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Blobs, fault.clone());
    for blob in &image.blobs[1..] {
        for _ in 0..2 {
            assert_never_completed(&edge.client, &blob_path(blob)).await;
            assert_not_cached(&edge.data_dir(), blob.digest()).await;
        }
    }
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn row_79_wrong_bytes_of_the_right_length() {
    layers_meet(Fault::WrongBytes).await;
}

#[tokio::test]
async fn row_79_a_small_blob_of_wrong_bytes_is_502() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Blobs, Fault::WrongBytes);
    let answer = edge.client.get(&blob_path(&image.blobs[1])).await;
    assert_eq!((answer.status, answer.error_code().is_some()), (502, true), "{}", answer.text());
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn row_79_a_large_blob_of_wrong_bytes_is_cut_before_its_end() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Blobs, Fault::WrongBytes);
    let mut exchange = edge.client.open("GET", &blob_path(&image.blobs[2]), &[]).await.expect("a head");
    assert_eq!((exchange.status, exchange.header("content-length")), (200, Some(LARGE.to_string().as_str())));
    let mut bytes = 0;
    let error = loop {
        match exchange.next().await {
            Ok(part) if part.is_empty() => break None,
            Ok(part) => bytes += part.len() as u64,
            Err(error) => break Some(error),
        }
    };
    assert!(error.is_some() && bytes < LARGE, "{bytes} bytes came, {error:?}");
    assert_not_cached(&edge.data_dir(), image.blobs[2].digest()).await;
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn truncation_without_a_length_by_a_clean_end() {
    layers_meet(Fault::TruncateChunked(SMALL / 2)).await;
}

#[tokio::test]
async fn truncation_without_a_length_by_closing() {
    layers_meet(Fault::TruncateUntilClose(SMALL / 2)).await;
}

#[tokio::test]
async fn truncation_with_a_length() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    let large = &image.blobs[2];
    // The first transfer gives a third, those that resume it nothing.
    origin.script(Match::Blobs, Fault::CutAfter(0));
    origin.script(Match::Blobs, Fault::CutAfter(LARGE / 3).times(1));
    assert_never_completed(&edge.client, &blob_path(large)).await;
    assert_not_cached(&edge.data_dir(), large.digest()).await;
    assert!(origin.count(&Match::blob(large.digest())) < 10, "a transfer that brings nothing is given up");
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn a_resumed_transfer_from_another_place_is_not_spliced_in() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    let large = &image.blobs[2];
    origin.script(Match::Blobs, Fault::WrongContentRange);
    origin.script(Match::Blobs, Fault::CutAfter(LARGE / 3).times(1));
    assert_never_completed(&edge.client, &blob_path(large)).await;
    assert_not_cached(&edge.data_dir(), large.digest()).await;
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn a_resumed_transfer_that_ignores_its_range_completes() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Blobs, Fault::IgnoreRange);
    origin.script(Match::blob(image.blobs[2].digest()), Fault::CutAfter(LARGE / 3).times(1));
    pull(&edge.client, "origin.test/a/b", "v1", &image).await.expect("what came twice is skipped");
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn row_80_html_with_200() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Any, Fault::html());
    let subject = format!("/v2/origin.test/a/b/referrers/{}", image.digest());
    let by_digest = format!("/v2/origin.test/a/b/manifests/{}", image.digest());
    let paths = ["/v2/origin.test/a/b/manifests/v1", "/v2/origin.test/a/b/tags/list", &by_digest, &subject, &blob_path(&image.blobs[1])];
    for path in paths {
        let answer = edge.client.get(path).await;
        assert_eq!((answer.status, answer.error_code().is_some()), (502, true), "{path}: {}", answer.text());
    }
    // A transfer that failed is told first, and its temporary file goes a moment later.
    for _ in 0..100 {
        if !contains(&edge.data_dir(), "guest network") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!contains(&edge.data_dir(), "guest network"));
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn row_80_an_oversized_manifest() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Manifests, Fault::Oversized(5 << 20));
    assert_eq!(edge.client.get("/v2/origin.test/a/b/manifests/v1").await.status, 502);
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn a_manifest_of_the_largest_size_is_served() {
    let origin = Origin::start().await;
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    let mut bytes = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).to_string();
    bytes.extend(std::iter::repeat_n(' ', (4 << 20) - bytes.len()));
    let manifest = Manifest::raw(MANIFEST, bytes);
    origin.push_manifest("a/b", Some("large"), &manifest);
    let answer = edge.client.get("/v2/origin.test/a/b/manifests/large").await;
    assert_eq!((answer.status, answer.body.len()), (200, 4 << 20));
    assert_eq!(answer.body, manifest.bytes);
    edge.finish().await;
}

#[tokio::test]
async fn row_81_a_digest_header_that_does_not_match_the_body() {
    let origin = Origin::start().await;
    let (edge, image) = edge_before(&origin).await;
    origin.script(Match::Manifests, Fault::WrongDigestHeader);
    assert_eq!(edge.client.get("/v2/origin.test/a/b/manifests/v1").await.status, 502);
    origin.clear();
    origin.script(Match::Manifests, Fault::WrongBytes);
    for reference in ["v1", image.digest()] {
        assert_eq!(edge.client.get(&format!("/v2/origin.test/a/b/manifests/{reference}")).await.status, 502, "{reference}");
    }
    assert_recovers(edge, &origin, &image).await;
}

/// An origin at another address of the loopback network, which no configuration names.
async fn trap() -> Origin {
    let trap = Origin::with(Setup { host: Ipv4Addr::new(127, 0, 0, 2), ..Setup::default() }).await;
    trap.push("a/b", "v1", &Image::new(79, &[SMALL, LARGE]));
    trap
}

#[tokio::test]
async fn row_77_a_redirect_to_a_private_address_is_refused() {
    let (origin, trap) = (Origin::start().await, trap().await);
    let (edge, image) = edge_before(&origin).await;
    let blob = &image.blobs[1];
    let path = format!("/v2/a/b/blobs/{}", blob.digest());
    let (port, plain) = (trap.address().port(), trap.url());
    let targets =
        [plain, format!("http://[::ffff:127.0.0.2]:{port}"), format!("http://2130706434:{port}"), "http://169.254.169.254".into()];
    for target in targets {
        origin.clear();
        origin.script(Match::Blobs, Fault::redirect(&format!("{target}{path}")));
        let answer = edge.client.get(&blob_path(blob)).await;
        assert!(matches!(answer.status, 502 | 503), "{target}: {}", answer.status);
        assert_not_cached(&edge.data_dir(), blob.digest()).await;
    }
    assert_eq!(trap.requests().len(), 0);
    assert_recovers(edge, &origin, &image).await;
}

#[tokio::test]
async fn row_78_a_redirect_to_another_origin_gets_no_credentials() {
    let (origin, storage) = (Origin::with(Guard::new(Scheme::Basic)).await, trap().await);
    let image = Image::new(79, &[SMALL, LARGE]);
    origin.push("a/b", "v1", &image);
    let settings = Settings::new();
    let password = settings.file("password", "origin-password");
    let lines = format!(
        "username = \"origin-user\"\npassword_file = \"{}\"\nprivate_networks = [\"127.0.0.0/8\"]\ntag_ttl = \"0s\"",
        password.display()
    );
    let edge = settings.upstream_with("origin.test", &origin, &lines).start().await;
    for blob in &image.blobs {
        let target = format!("{}/v2/a/b/blobs/{}?signature=1", storage.url(), blob.digest());
        origin.script(Match::blob(blob.digest()), Fault::redirect(&target));
    }
    pull(&edge.client, "origin.test/a/b", "v1", &image).await.expect("a redirect that the configuration allows is followed");
    assert!(storage.requests().len() >= image.blobs.len());
    assert_eq!(storage.authorizations().len(), 0, "{:?}", storage.authorizations());
    assert!(origin.authorizations().contains(&origin.guard().basic()));
    edge.finish().await;
}

#[tokio::test]
async fn row_76_a_foreign_token_realm_gets_nothing() {
    let authority = Authority::new("A trap's authority");
    let host = Ipv4Addr::new(127, 0, 0, 2);
    let secure_trap = Setup { tls: Some(authority.issue(&["127.0.0.2"])), host, ..Guard::new(Scheme::Bearer(TokenBy::Get)).into() };
    let (plain, secure) = (trap().await, Origin::with(secure_trap).await);
    let realms = [
        format!("{}/token", plain.url()),
        format!("http://[::ffff:127.0.0.2]:{}/token", plain.address().port()),
        format!("{}/token", secure.url()),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://tokens.example.net/token".into(),
        "https://origin-user@127.0.0.1/token".into(),
        "file:///etc/passwd".into(),
    ];
    for realm in realms {
        let guard = Guard { realm: Some(realm.clone()), ..Guard::new(Scheme::Bearer(TokenBy::Get)) };
        let origin = Origin::with(guard).await;
        origin.push("a/b", "v1", &Image::new(79, &[SMALL]));
        let settings = Settings::new();
        let (password, ca) = (settings.file("password", "origin-password"), settings.file("ca.crt", &authority.pem()));
        let lines = format!("username = \"origin-user\"\npassword_file = \"{}\"\n", password.display());
        // The same where the trap could be reached, and is trusted: that it is another host is enough.
        let reachable = format!("{lines}ca_file = \"{}\"\nprivate_networks = [\"127.0.0.0/8\"]", ca.display());
        let settings = settings.upstream_with("origin.test", &origin, &lines).upstream_with("reachable.test", &origin, &reachable);
        let edge = settings.start().await;
        for name in ["origin.test", "reachable.test"] {
            let answer = edge.client.get(&format!("/v2/{name}/a/b/manifests/v1")).await;
            assert_eq!(answer.status, 502, "{realm} for {name}: {}", answer.text());
            assert!(!answer.text().contains("127.0.0.2"), "a client learns nothing of the realm: {}", answer.text());
        }
        assert_eq!(origin.authorizations().len(), 0, "{realm}");
        edge.finish().await;
    }
    assert_eq!((plain.requests().len(), secure.requests().len()), (0, 0));
}

#[tokio::test]
async fn each_upstream_sees_its_own_credentials_only() {
    let guards = ["one", "two"].map(|name| Guard {
        username: format!("user-{name}"),
        password: format!("password-{name}"),
        ..Guard::new(Scheme::Bearer(TokenBy::Get))
    });
    let mut settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]").principal("alice", "alice-password", "**");
    let (mut origins, image) = (Vec::new(), Image::new(1, &[SMALL]));
    for guard in guards {
        let password = settings.file(&format!("{}.txt", guard.username), &guard.password);
        let name = format!("{}.test", guard.username);
        let lines = format!("username = \"{}\"\npassword_file = \"{}\"", guard.username, password.display());
        let origin = Origin::with(guard).await;
        origin.push("a/b", "v1", &image);
        settings = settings.upstream_with(&name, &origin, &lines);
        origins.push((name, origin));
    }
    let edge = settings.start().await;
    let alice = edge.client.clone().with_basic("alice", "alice-password");
    for (name, _) in &origins {
        pull(&alice, &format!("{name}/a/b"), "v1", &image).await.expect("each upstream's image is pulled");
    }
    for (name, origin) in &origins {
        let basic = origin.guard().basic();
        for authorization in origin.authorizations() {
            assert!(authorization == basic || authorization.starts_with("Bearer origin-token-"), "{name} saw {authorization}");
        }
        assert!(origin.authorizations().contains(&basic), "{name}");
    }
    edge.finish().await;
}

#[tokio::test]
async fn what_is_cached_outlives_an_upstream_that_talks_nonsense() {
    let origin = Origin::start().await;
    let image = Image::new(79, &[SMALL, LARGE]);
    origin.push("a/b", "v1", &image);
    let edge = Settings::new().upstream_with("origin.test", &origin, "tag_ttl = \"0s\"\nauthorization_ttl = \"0s\"").start().await;
    pull(&edge.client, "origin.test/a/b", "v1", &image).await.expect("an honest origin's image is pulled");
    origin.script(Match::Any, Fault::html());
    for _ in 0..3 {
        pull(&edge.client, "origin.test/a/b", "v1", &image).await.expect("what is cached");
        let answer = edge.client.get("/v2/origin.test/a/b/manifests/v1").await;
        assert_eq!(answer.header("outport-freshness"), Some("stale"), "{:?}", answer.head);
    }
    edge.finish().await;
}
