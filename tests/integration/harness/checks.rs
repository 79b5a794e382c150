//! The harness itself: its origin answers as a registry does, and each fault does what its name says.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::client::{Client, Closed};
use super::image::{Blob, Image, Manifest, digest_of, index_of};
use super::origin::{Origin, Setup};
use super::script::{Fault, Match};
use super::tls::Authority;
use super::token::{Guard, Scheme, TokenBy};

const SIZE: u64 = 3_000_000;

/// An origin with one blob in `a/b`.
async fn one_blob(setup: impl Into<Setup>) -> (Origin, Blob, Client, String) {
    let origin = Origin::with(setup).await;
    let blob = Blob::seeded(1, SIZE);
    origin.push_blob("a/b", &blob);
    let path = format!("/v2/a/b/blobs/{}", blob.digest());
    let client = Client::new(origin.address());
    (origin, blob, client, path)
}

/// How the GET of a body of `SIZE` bytes ended: how many right bytes came, and the error, if it was cut.
async fn read(client: &Client, path: &str, blob: &Blob) -> (u64, Option<ErrorKind>) {
    let mut exchange = client.open("GET", path, &[]).await.unwrap();
    let mut bytes = 0;
    loop {
        match exchange.next().await {
            Ok(part) if part.is_empty() => return (bytes, None),
            Ok(part) => {
                assert!(blob.matches(bytes, &part));
                bytes += part.len() as u64;
            }
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
}

#[tokio::test]
async fn an_origin_answers_as_a_registry() {
    let origin = Origin::start().await;
    let (amd64, arm64) = (Image::new(1, &[1000, 2000]), Image::new(2, &[10]));
    let index = index_of(&amd64, &arm64);
    origin.push_index("a/b", "v1", &index, [&amd64, &arm64]);
    origin.push("a/b", "v2", &amd64);
    origin.attach("a/b", &Image::artifact("application/x-signature", &index, "one"));
    let client = Client::new(origin.address());

    let answer = client.get("/v2/a/b/manifests/v1").await;
    assert_eq!((answer.status, answer.body.as_ref()), (200, index.bytes.as_ref()));
    assert_eq!(answer.header("docker-content-digest"), Some(index.digest.as_str()));
    assert_eq!(client.get(&format!("/v2/a/b/manifests/{}", arm64.digest())).await.body, arm64.manifest.bytes);
    for blob in amd64.blobs.iter().chain(&arm64.blobs) {
        let answer = client.get(&format!("/v2/a/b/blobs/{}", blob.digest())).await;
        assert_eq!((answer.status, digest_of(&answer.body)), (200, blob.digest().to_owned()));
    }
    assert_eq!(client.get("/v2/a/b/manifests/v3").await.status, 404);
    assert_eq!(client.get(&format!("/v2/other/blobs/{}", amd64.blobs[0].digest())).await.status, 404);

    let tags = client.get("/v2/a/b/tags/list?n=1").await;
    assert_eq!(tags.json()["tags"], serde_json::json!(["v1"]));
    assert_eq!(tags.header("link"), Some(r#"</v2/a/b/tags/list?n=1&last=v1>; rel="next""#));
    assert_eq!(client.get("/v2/a/b/tags/list?n=1&last=v1").await.json()["tags"], serde_json::json!(["v2"]));
    let referrers = client.get(&format!("/v2/a/b/referrers/{}", index.digest)).await.json();
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/x-signature");

    let head = client.head(&format!("/v2/a/b/blobs/{}", amd64.blobs[1].digest())).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1000"), 0));
    assert_eq!(origin.transfers(amd64.blobs[1].digest()), 1, "a HEAD is no transfer");
    assert_eq!(origin.sent_bytes(amd64.blobs[1].digest()), 1000);
}

#[tokio::test]
async fn without_the_referrers_api_the_fallback_tag_lists_them() {
    let origin = Origin::with(Setup { has_referrers_api: false, ..Setup::default() }).await;
    let image = Image::new(1, &[10]);
    origin.push("a", "v1", &image);
    for content in ["one", "two"] {
        origin.attach("a", &Image::artifact("application/x-signature", &image.manifest, content));
    }
    let client = Client::new(origin.address());
    assert_eq!(client.get(&format!("/v2/a/referrers/{}", image.digest())).await.status, 404);
    let index = client.get(&format!("/v2/a/manifests/{}", image.digest().replace(':', "-"))).await.json();
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn ranges_are_answered_exactly() {
    let (origin, blob, client, path) = one_blob(Guard::open()).await;
    let whole = blob.bytes();
    for (range, from, to) in [("bytes=10-19", 10, 20), ("bytes=2999990-", 2_999_990, SIZE), ("bytes=-5", SIZE - 5, SIZE)] {
        let answer = client.get_with(&path, &[("Range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, whole.slice(from as usize..to as usize), "{range}");
        assert_eq!(answer.header("content-range"), Some(format!("bytes {from}-{}/{SIZE}", to - 1).as_str()), "{range}");
    }
    assert_eq!(client.get_with(&path, &[("Range", "bytes=3000000-")]).await.status, 416);
    assert_eq!(client.get_with(&path, &[("Range", "lines=1-2")]).await.status, 200);
    assert_eq!(origin.requests()[0].header("range"), Some("bytes=10-19"));

    origin.script(Match::Blobs, Fault::WrongContentRange.times(1));
    let answer = client.get_with(&path, &[("Range", "bytes=10-19")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 0-9/3000000")));
    origin.script(Match::Blobs, Fault::IgnoreRange);
    assert_eq!(client.get_with(&path, &[("Range", "bytes=10-19")]).await.body, whole);
}

#[tokio::test]
async fn bodies_are_cut_reset_and_truncated() {
    let (origin, blob, client, path) = one_blob(Guard::open()).await;
    let cut = Some(ErrorKind::UnexpectedEof);
    origin.script(Match::blob(blob.digest()), Fault::CutAfter(1_500_000).times(2));
    assert_eq!(read(&client, &path, &blob).await, (1_500_000, cut));
    assert_eq!(read(&client, &path, &blob).await, (1_500_000, cut));
    assert_eq!(read(&client, &path, &blob).await, (SIZE, None));
    origin.clear();
    origin.script(Match::Blobs, Fault::ResetAfter(1000));
    assert_eq!(read(&client, &path, &blob).await.1, Some(ErrorKind::ConnectionReset));
    origin.clear();
    origin.script(Match::Blobs, Fault::TruncateUntilClose(1000));
    assert_eq!(read(&client, &path, &blob).await, (1000, None));
    origin.clear();
    origin.script(Match::Blobs, Fault::TruncateChunked(1000));
    assert_eq!(read(&client, &path, &blob).await, (1000, None));
    origin.clear();
    origin.script(Match::Blobs, Fault::WithoutLength);
    assert_eq!(read(&client, &path, &blob).await, (SIZE, None));
}

#[tokio::test]
async fn lies_are_told() {
    let (origin, blob, client, path) = one_blob(Guard::open()).await;
    let manifest = Manifest::raw("application/x", r#"{"schemaVersion": 2}"#);
    origin.push_manifest("a/b", Some("v1"), &manifest);
    for (fault, status) in [(Fault::WrongBytes, 200), (Fault::html(), 200), (Fault::Oversized(5_000_000), 200), (Fault::status(500), 500)] {
        origin.script(Match::Any, fault.clone());
        for path in [path.as_str(), "/v2/a/b/manifests/v1"] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, status, "{fault:?}");
            assert_ne!(digest_of(&answer.body), blob.digest(), "{fault:?}");
            assert_ne!(digest_of(&answer.body), manifest.digest, "{fault:?}");
        }
        origin.clear();
    }
    origin.script(Match::manifest("v1"), Fault::WrongDigestHeader);
    let answer = client.get("/v2/a/b/manifests/v1").await;
    assert_eq!(answer.body, manifest.bytes);
    assert_ne!(answer.header("docker-content-digest"), Some(manifest.digest.as_str()));
    origin.script(Match::blob(blob.digest()), Fault::redirect("http://127.0.0.9/x"));
    let answer = client.get(&path).await;
    assert_eq!((answer.status, answer.header("location")), (307, Some("http://127.0.0.9/x")));
    origin.clear();
    origin.script(Match::Manifests, Fault::rate_limit(100, 7));
    assert_eq!(client.get("/v2/a/b/manifests/v1").await.header("ratelimit-remaining"), Some("7;w=21600"));
    origin.script(Match::Registry, Fault::too_many(3).every_other());
    let statuses = [client.get("/v2/").await, client.get("/v2/").await, client.get("/v2/").await].map(|answer| answer.status);
    assert_eq!(statuses, [429, 200, 429]);
}

#[tokio::test]
async fn an_origin_stalls_and_crawls() {
    let (origin, blob, client, path) = one_blob(Guard::open()).await;
    origin.script(Match::Blobs, Fault::StallHead.times(1));
    let waited = Duration::from_millis(200);
    assert!(tokio::time::timeout(waited, client.open("GET", &path, &[])).await.is_err());
    origin.script(Match::Blobs, Fault::DelayHead(waited).times(1));
    assert!(client.get(&path).await.head_after >= waited);
    origin.script(Match::Blobs, Fault::StallAfter(1000).times(1));
    let mut exchange = client.open("GET", &path, &[]).await.unwrap();
    let first = exchange.next().await.unwrap();
    assert_eq!(first.len(), 1000);
    assert!(tokio::time::timeout(waited, exchange.next()).await.is_err());
    origin.script(Match::Blobs, Fault::Slow(10_000_000).times(1));
    let started = Instant::now();
    assert_eq!(read(&client, &path, &blob).await, (SIZE, None));
    assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_origin_goes_and_comes_back_on_its_port() {
    let (mut origin, blob, client, path) = one_blob(Guard::open()).await;
    origin.script(Match::Blobs, Fault::StallAfter(1000).times(1));
    let mut open = client.open("GET", &path, &[]).await.unwrap();
    open.next().await.unwrap();
    origin.stop().await;
    assert!(open.next().await.is_err());
    assert_eq!(client.try_get(&path).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    origin.resume().await;
    assert_eq!(read(&client, &path, &blob).await, (SIZE, None));

    origin.blackhole();
    let (text, closed) = client.raw(b"GET /v2/ HTTP/1.1\r\n\r\n", Duration::from_millis(200)).await.unwrap();
    assert_eq!((text.as_str(), closed), ("", Closed::No));
    origin.heal();
    assert_eq!(client.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn a_guarded_origin_wants_its_own_credentials() {
    let (origin, blob, client, path) = one_blob(Guard::new(Scheme::Bearer(TokenBy::Get)).with_public(&["open"])).await;
    origin.push_blob("open", &blob);
    let challenge = client.get(&path).await;
    assert_eq!(challenge.status, 401);
    let realm = format!(r#"Bearer realm="{}/token",service="origin",scope="repository:a/b:pull""#, origin.url());
    assert_eq!(challenge.header("www-authenticate"), Some(realm.as_str()));

    let token = "/token?service=origin&scope=repository:a/b:pull&scope=repository:open:pull";
    let bearer = |answer: &super::client::Response| format!("Bearer {}", answer.json()["token"].as_str().unwrap());
    let anonymous = bearer(&client.get(token).await);
    assert_eq!(client.get_with(&path, &[("Authorization", &anonymous)]).await.status, 401);
    let open = format!("/v2/open/blobs/{}", blob.digest());
    assert_eq!(client.get_with(&open, &[("Authorization", &anonymous)]).await.status, 200);
    assert_eq!(client.clone().with_basic("origin-user", "wrong").get(token).await.status, 401);
    let known = bearer(&client.clone().with_basic("origin-user", "origin-password").get(token).await);
    assert_eq!(client.get_with(&path, &[("Authorization", &known)]).await.status, 200);

    origin.set_guard(Guard::new(Scheme::Bearer(TokenBy::PostOnly)));
    assert_eq!(client.get(token).await.status, 405);
    let form = "grant_type=password&username=origin-user&password=origin-password&scope=repository:a/b:pull";
    let post = format!("POST /token HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{form}", form.len());
    let (text, _) = client.raw(post.as_bytes(), Duration::from_millis(200)).await.unwrap();
    assert!(text.contains("access_token"), "{text}");

    origin.set_guard(Guard::new(Scheme::Basic));
    assert_eq!(client.get(&path).await.header("www-authenticate"), Some(r#"Basic realm="origin""#));
    assert_eq!(client.clone().with_basic("origin-user", "origin-password").get(&path).await.status, 200);
    assert!(origin.authorizations().contains(&origin.guard().basic()));
}

#[tokio::test]
async fn an_origin_speaks_tls() {
    let authority = Authority::new("Origin's authority");
    let pair = authority.issue(&["origin.test"]);
    let (_origin, blob, client, path) = one_blob(Setup { tls: Some(pair), ..Setup::default() }).await;
    let trusting = client.clone().with_tls(authority.client(), "origin.test");
    assert_eq!(read(&trusting, &path, &blob).await, (SIZE, None));
    assert!(client.clone().with_tls(authority.client(), "other.test").try_get(&path).await.is_err());
    assert!(client.with_tls(Authority::new("Another").client(), "origin.test").try_get(&path).await.is_err());
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (origin, _, client, path) = one_blob(Guard::open()).await;
    let wire = client.connect().await.unwrap();
    let (first, wire) = wire.ask("HEAD", &path, "origin").await.unwrap();
    let (second, _) = wire.ask("GET", &path, "origin").await.unwrap();
    assert_eq!((first.status, second.body.len() as u64), (200, SIZE));
    assert_eq!(origin.count(&Match::Blobs), 2);
}
