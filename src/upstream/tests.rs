//! An upstream against registries on real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use url::Url;

use super::testing::{Origin, Reply, Seen, config, reply};
use super::*;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::oci::{INDEX_MEDIA_TYPE, MAX_MANIFEST_BYTES};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"layers":[]}"#;

pub(super) fn with_credentials(url: Url) -> config::Upstream {
    config::Upstream { username: Some("robot".to_owned()), password: Some(Secret::new("pass word&".to_owned())), ..config(url) }
}

pub(super) fn basic() -> String {
    format!("Basic {}", STANDARD.encode("robot:pass word&"))
}

pub(super) fn upstream(config: &config::Upstream) -> Upstream {
    upstream_at(config, Clock::system(), Metrics::new())
}

pub(super) fn upstream_at(config: &config::Upstream, clock: Clock, metrics: Metrics) -> Upstream {
    // Port 9 answers nobody: these tests need no name server.
    let resolver = dial::Resolver::with_config("127.0.0.1:9".parse().unwrap(), "", clock.clone(), metrics.clone()).unwrap();
    Upstream::new(config, resolver, dial::Proxies::none(), clock, metrics).unwrap()
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

fn manifest() -> Reply {
    reply(200, MANIFEST).with("content-type", IMAGE)
}

pub(super) fn is_wrong<T: std::fmt::Debug>(result: Result<T, UpstreamError>) -> bool {
    matches!(result, Err(UpstreamError::WrongAnswer(_)))
}

/// A registry that wants a token from its own `/token`; `issue` makes the answer to a token request.
async fn token_registry(
    issue: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Origin {
    Origin::start(move |seen| {
        if seen.target.starts_with("/token") {
            return issue(seen);
        }
        match seen.authorization().strip_prefix("Bearer ") {
            Some(token) if accepts(token) => manifest(),
            _ => {
                let host = seen.header("host").unwrap();
                reply(401, "{}").with("www-authenticate", format!(r#"Bearer realm="http://{host}/token",service="s v""#))
            }
        }
    })
    .await
}

pub(super) fn issued(token: &str) -> Reply {
    reply(200, format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

#[tokio::test]
async fn the_challenge_is_asked_once_and_each_scope_has_one_token() {
    let origin = token_registry(|_| issued("t1"), |token| token == "t1").await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    upstream.get_manifest(&name("a/b"), &tag("x")).await.unwrap();
    upstream.get_manifest(&name("a/b"), &tag("y")).await.unwrap();
    assert_eq!(origin.connections(), 1, "the connection is used again");
    let (repository, reference) = (name("c"), tag("x"));
    for result in join_all((0..8).map(|_| upstream.get_manifest(&repository, &reference))).await {
        result.unwrap();
    }
    let mut requests = origin.requests();
    assert_eq!(
        requests.drain(..6).collect::<Vec<_>>(),
        [
            "GET /v2/a/b/manifests/x",
            "GET /token?service=s+v&scope=repository%3Aa%2Fb%3Apull",
            "GET /v2/a/b/manifests/x",
            "GET /v2/a/b/manifests/y",
            "GET /token?service=s+v&scope=repository%3Ac%3Apull",
            "GET /v2/c/manifests/x",
        ]
    );
    assert_eq!(requests, ["GET /v2/c/manifests/x"; 7]);
    for seen in origin.seen() {
        let at_realm = seen.target.starts_with("/token");
        assert_eq!(seen.authorization() == basic(), at_realm, "{seen:?}");
    }
    assert_eq!(origin.seen()[0].header("accept"), Some(Manifest::ACCEPT));
    assert_eq!(origin.seen()[0].header("accept-encoding"), Some("identity"));
    assert_eq!(origin.seen()[0].header("user-agent"), Some(AGENT));
}

#[tokio::test]
async fn a_realm_that_knows_no_get_gets_a_form() {
    let script = |seen: &Seen| if seen.method == "GET" { reply(405, "") } else { reply(200, r#"{"access_token":"t"}"#) };
    let origin = token_registry(script, |token| token == "t").await;
    upstream(&with_credentials(origin.url("/"))).get_manifest(&name("a"), &tag("x")).await.unwrap();
    let post = origin.seen().into_iter().find(|seen| seen.method == "POST").unwrap();
    assert_eq!(
        post.body,
        "grant_type=password&service=s+v&scope=repository%3Aa%3Apull&client_id=outport&username=robot&password=pass+word%26"
    );
    assert_eq!(post.authorization(), "");

    let anonymous = upstream(&config(origin.url("/")));
    assert_eq!(anonymous.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Denied));
}

#[tokio::test]
async fn a_token_is_replaced_when_it_ends_and_when_it_is_refused() {
    let issues = Arc::new(AtomicUsize::new(0));
    let (counter, accepted) = (issues.clone(), issues.clone());
    // Only the token issued last is accepted.
    let origin = token_registry(
        move |_| issued(&format!("t{}", counter.fetch_add(1, Ordering::SeqCst) + 1)),
        move |token| token == format!("t{}", accepted.load(Ordering::SeqCst)),
    )
    .await;
    let clock = Clock::manual(Timestamp::from_ms(1_000_000));
    let upstream = upstream_at(&config(origin.url("/")), clock.clone(), Metrics::new());
    let ask = async || upstream.get_manifest(&name("a"), &tag("x")).await.unwrap();
    ask().await;
    clock.advance(Duration::from_secs(269));
    ask().await;
    assert_eq!((issues.load(Ordering::SeqCst), origin.requests().len()), (1, 4));
    clock.advance(Duration::from_secs(1));
    ask().await;
    assert_eq!((issues.load(Ordering::SeqCst), origin.requests().len()), (2, 6), "renewed without a 401");
    issues.fetch_add(1, Ordering::SeqCst);
    ask().await;
    assert_eq!((issues.load(Ordering::SeqCst), origin.requests().len()), (4, 9), "401, token, again");
}

#[tokio::test]
async fn a_realm_that_fails_or_babbles_is_not_trusted() {
    let babbles = token_registry(|_| reply(200, format!(r#"{{"token":"{}"}}"#, "t".repeat(65 * 1024))), |_| true).await;
    assert!(is_wrong(upstream(&config(babbles.url("/"))).get_manifest(&name("a"), &tag("x")).await));

    let fails = token_registry(|_| reply(500, ""), |_| true).await;
    let upstream = upstream(&config(fails.url("/")));
    for _ in 0..20 {
        assert!(matches!(upstream.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Unavailable { .. })));
    }
    assert_eq!(upstream.health().endpoints[0].circuit, Circuit::Open);
    assert_eq!(fails.requests().iter().filter(|request| request.contains("/token")).count(), 8);
}

#[tokio::test]
async fn a_realm_that_moves_is_found_again() {
    let realm = Arc::new(AtomicUsize::new(1));
    let current = realm.clone();
    let origin = Origin::start(move |seen| {
        let place = format!("/realm{}", current.load(Ordering::SeqCst));
        match seen.target.split('?').next() {
            Some(path) if path == place => issued("t"),
            Some(path) if path.starts_with("/realm") => reply(410, ""),
            _ if seen.authorization() == "Bearer t" => manifest(),
            _ => reply(401, "").with("www-authenticate", format!("Bearer realm=\"http://{}{place}\"", seen.header("host").unwrap())),
        }
    })
    .await;
    let upstream = upstream(&config(origin.url("/")));
    upstream.get_manifest(&name("a"), &tag("x")).await.unwrap();
    realm.store(2, Ordering::SeqCst);
    assert!(is_wrong(upstream.get_manifest(&name("b"), &tag("x")).await));
    upstream.get_manifest(&name("b"), &tag("x")).await.unwrap();
}

#[tokio::test]
async fn who_is_refused_with_a_fresh_token_is_denied() {
    let origin = token_registry(|_| issued("t"), |_| false).await;
    let upstream = upstream(&config(origin.url("/")));
    assert_eq!(upstream.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Denied));
    assert_eq!(origin.requests().len(), 3);

    let realm_denies = token_registry(|_| reply(401, ""), |_| true).await;
    let upstream = self::upstream(&config(realm_denies.url("/")));
    assert_eq!(upstream.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Denied));
    assert_eq!(realm_denies.requests().len(), 2);
    upstream.probe().await.unwrap();
}

#[tokio::test]
async fn basic_credentials_are_sent_once_asked_for() {
    let expected = basic();
    let origin = Origin::start(move |seen| {
        if seen.authorization() == expected { manifest() } else { reply(401, "").with("www-authenticate", r#"Basic realm="r""#) }
    })
    .await;
    let known = upstream(&with_credentials(origin.url("/prefix/")));
    for _ in 0..2 {
        known.get_manifest(&name("a"), &tag("x")).await.unwrap();
    }
    assert_eq!(origin.requests(), ["GET /prefix/v2/a/manifests/x"; 3]);
    let unknown = upstream(&config(origin.url("/")));
    assert_eq!(unknown.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Denied));
}

#[tokio::test]
async fn a_foreign_realm_gets_no_request_and_no_credential() {
    let thief = Origin::start_at("127.0.0.2:0", |_| issued("t")).await;
    for realm in [thief.url("/token").to_string(), "http://169.254.169.254/token".to_owned(), "https://auth.example.com/".to_owned()] {
        let challenge = format!(r#"Bearer realm="{realm}",service="s", Basic realm="b""#);
        let origin = Origin::start(move |_| reply(401, "").with("www-authenticate", &challenge)).await;
        // Even where the address itself could be dialled.
        let config = config::Upstream { private_networks: vec!["127.0.0.0/8".parse().unwrap()], ..with_credentials(origin.url("/")) };
        let result = upstream(&config).get_manifest(&name("a"), &tag("x")).await;
        assert!(is_wrong(result.clone()), "{realm}: {result:?}");
        assert_eq!(origin.requests().len(), 1);
        assert_eq!(origin.seen()[0].authorization(), "");
    }
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_redirect_to_another_origin_loses_the_credentials_and_keeps_the_range() {
    let cdn = Origin::start(|_| reply(206, "345").with("content-range", "bytes 3-5/6")).await;
    let target = cdn.url("/blob?signature=s3cret");
    let (expected, location) = (basic(), target.clone());
    let origin = Origin::start(move |seen| match seen.authorization() == expected {
        true if seen.target.contains("/blobs/") => {
            reply(307, "moved").with("location", format!("http://{}/here", seen.header("host").unwrap()))
        }
        true => reply(302, "").with("location", &location),
        false => reply(401, "").with("www-authenticate", "Basic realm=r"),
    })
    .await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    let mut transfer = upstream.get_blob(&name("a"), &Digest::sha256(b"012345"), 3).await.unwrap();
    assert_eq!((transfer.from, transfer.size_bytes), (3, Some(6)));
    assert_eq!(transfer.next().await.unwrap().unwrap(), "345");
    assert_eq!(transfer.next().await.unwrap(), None);
    assert_eq!(origin.seen()[2].authorization(), basic(), "the same origin keeps them");
    let [landed] = &cdn.seen()[..] else { panic!("one request to the other origin") };
    assert_eq!((landed.authorization(), landed.header("range")), ("", Some("bytes=3-")));
}

#[tokio::test]
async fn redirects_into_private_networks_are_refused() {
    let inside = Origin::start_at("127.0.0.2:0", |_| reply(200, "secret")).await;
    for location in [inside.url("/x?token=s3cret").to_string(), "http://169.254.169.254/latest?token=s3cret".to_owned()] {
        let origin = Origin::start(move |_| reply(302, "").with("location", &location)).await;
        let error = upstream(&config(origin.url("/"))).get_blob(&name("a"), &Digest::sha256(b""), 0).await.unwrap_err();
        assert!(matches!(error, UpstreamError::WrongAnswer(_)), "{error:?}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    assert!(inside.requests().is_empty());
}

#[tokio::test]
async fn what_a_redirects_target_refuses_is_no_word_of_the_registry() {
    for (status, wrong) in [(403, true), (404, true), (429, false), (500, false)] {
        let cdn = Origin::start(move |_| reply(status, "").with("retry-after", 30)).await;
        let location = cdn.url("/");
        let origin = Origin::start(move |_| reply(307, "").with("location", &location)).await;
        let upstream = upstream(&config(origin.url("/")));
        let error = upstream.get_blob(&name("a"), &Digest::sha256(b""), 0).await.unwrap_err();
        let expected =
            if wrong { matches!(error, UpstreamError::WrongAnswer(_)) } else { matches!(error, UpstreamError::Unavailable { .. }) };
        assert!(expected, "{status}: {error:?}");
        assert!(upstream.health().is_available(), "{status}");
        assert_eq!(cdn.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn redirects_end() {
    let origin = Origin::start(|seen| reply(301, "").with("location", format!("{}x", seen.target))).await;
    assert!(is_wrong(upstream(&config(origin.url("/"))).head_blob(&name("a"), &Digest::sha256(b"")).await));
    assert_eq!(origin.requests().len(), 6);
}

#[tokio::test]
async fn manifests_are_what_was_asked_for() {
    let origin = Origin::start(|_| manifest().with("docker-content-digest", Digest::sha256(MANIFEST))).await;
    let upstream = upstream(&config(origin.url("/")));
    let digest = Digest::sha256(MANIFEST);
    for reference in [tag("x"), Reference::Digest(digest)] {
        let fetched = upstream.get_manifest(&name("a"), &reference).await.unwrap();
        assert_eq!(fetched, FetchedManifest { digest, media_type: IMAGE.into(), bytes: MANIFEST.into() });
        let head = upstream.head_manifest(&name("a"), &reference).await.unwrap();
        assert_eq!(head, ManifestHead { digest: Some(digest), media_type: IMAGE.into(), size_bytes: Some(MANIFEST.len() as u64) });
    }
    assert!(is_wrong(upstream.get_manifest(&name("a"), &Reference::Digest(Digest::sha256(b"other"))).await));
    assert!(is_wrong(upstream.head_manifest(&name("a"), &Reference::Digest(Digest::sha256(b"other"))).await));
}

#[tokio::test]
async fn lies_about_manifests_are_wrong_answers() {
    let large = [b" ".repeat(MAX_MANIFEST_BYTES), MANIFEST.to_vec()].concat();
    let chunked = [format!("{:x}\r\n", large.len()).into_bytes(), large.clone(), b"\r\n0\r\n\r\n".to_vec()].concat();
    for (lie, answer) in [
        ("html", reply(200, "<html>log in</html>").with("content-type", "text/html")),
        ("no type", reply(200, MANIFEST)),
        ("html with a manifest's type", reply(200, "<html>").with("content-type", IMAGE)),
        ("digest of something else", manifest().with("docker-content-digest", Digest::sha256(b"other"))),
        ("no digest", manifest().with("docker-content-digest", "sha256:zz")),
        ("compressed", manifest().with("content-encoding", "gzip")),
        ("too large", reply(200, large).with("content-type", IMAGE)),
        ("too large and not told", reply(200, chunked).with("content-type", IMAGE).with("transfer-encoding", "chunked")),
        ("a part", reply(206, MANIFEST).with("content-type", IMAGE).with("content-range", "bytes 0-30/31")),
        ("another type inside", reply(200, format!(r#"{{"mediaType":"{INDEX_MEDIA_TYPE}","layers":[]}}"#)).with("content-type", IMAGE)),
    ] {
        let origin = Origin::start(move |_| answer.clone()).await;
        let result = upstream(&config(origin.url("/"))).get_manifest(&name("a"), &tag("x")).await;
        assert!(is_wrong(result.clone()), "{lie}: {result:?}");
        assert_eq!(origin.requests().len(), 1, "{lie}: asked again");
    }
}

#[tokio::test]
async fn a_broken_blob_is_taken_up_where_it_broke() {
    let origin = Origin::start(|seen| match seen.header("range") {
        None => reply(200, "0123456789").cut_after(4),
        Some("bytes=4-") => reply(206, "456789").with("content-range", "bytes 4-9/10"),
        Some("bytes=5-") => reply(200, "0123456789"),
        Some("bytes=6-") => reply(206, "56789").with("content-range", "bytes 5-9/10"),
        Some("bytes=7-") => reply(206, "789").with("content-range", "bytes 7-9/10").with("content-encoding", "gzip"),
        Some(_) => reply(416, ""),
    })
    .await;
    let upstream = upstream(&config(origin.url("/")));
    let (name, digest) = (name("a"), Digest::sha256(b"0123456789"));
    let mut transfer = upstream.get_blob(&name, &digest, 0).await.unwrap();
    assert_eq!((transfer.from, transfer.size_bytes), (0, Some(10)));
    assert_eq!(transfer.next().await.unwrap().unwrap(), "0123");
    assert!(matches!(transfer.next().await, Err(UpstreamError::Broken(_))));

    let mut rest = upstream.get_blob(&name, &digest, 4).await.unwrap();
    assert_eq!((rest.from, rest.size_bytes), (4, Some(10)));
    assert_eq!(rest.next().await.unwrap().unwrap(), "456789");
    assert_eq!(rest.next().await.unwrap(), None);
    let whole = upstream.get_blob(&name, &digest, 5).await.unwrap();
    assert_eq!((whole.from, whole.size_bytes), (0, Some(10)), "the range was ignored");
    for wrong in [6, 7, 8] {
        assert!(is_wrong(upstream.get_blob(&name, &digest, wrong).await), "from {wrong}");
    }
    assert_eq!(upstream.head_blob(&name, &digest).await, Ok(10));
}

#[tokio::test]
async fn a_body_that_stalls_is_broken_after_the_read_timeout_and_a_transfer_holds_its_permit() {
    let origin = Origin::start(|seen| if seen.method == "GET" { reply(200, "0123").stall_after(2) } else { reply(200, "0123") }).await;
    let config = config::Upstream { max_connections: 1, read_timeout: Duration::from_millis(200), ..config(origin.url("/")) };
    let upstream = upstream(&config);
    let (name, digest) = (name("a"), Digest::sha256(b"0123"));
    let mut transfer = upstream.get_blob(&name, &digest, 0).await.unwrap();
    assert!(matches!(upstream.head_blob(&name, &digest).await, Err(UpstreamError::Unavailable { .. })));
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(transfer.next().await.unwrap().unwrap(), "01");
    assert!(matches!(transfer.next().await, Err(UpstreamError::Broken(_))));
    drop(transfer);
    assert_eq!(upstream.head_blob(&name, &digest).await, Ok(4));
}

#[tokio::test]
async fn a_wait_that_the_upstream_asks_for_is_kept() {
    for status in [429, 503] {
        let origin = Origin::start(move |_| reply(status, "").with("retry-after", 30)).await;
        let upstream = upstream(&config(origin.url("/")));
        for _ in 0..3 {
            let result = upstream.get_manifest(&name("a"), &tag("x")).await;
            let Err(UpstreamError::Unavailable { retry_after: Some(wait), .. }) = result else { panic!("{result:?}") };
            assert!(wait > Duration::from_secs(28) && wait <= Duration::from_secs(30), "{wait:?}");
        }
        assert_eq!(origin.requests().len(), 1);
        assert!(!upstream.health().is_available());
        assert_eq!(upstream.health().endpoints[0].circuit, Circuit::Closed);
    }
}

#[tokio::test]
async fn rate_limits_are_read() {
    let origin = Origin::start(|_| manifest().with("ratelimit-limit", "100;w=21600").with("ratelimit-remaining", "76;w=21600")).await;
    let metrics = Metrics::new();
    let upstream = upstream_at(&config(origin.url("/")), Clock::system(), metrics.clone());
    upstream.head_manifest(&name("a"), &tag("x")).await.unwrap();
    assert_eq!(upstream.health().rate_limit.map(|told| (told.remaining, told.limit)), Some((76, Some(100))));
    let text = metrics.render();
    assert!(text.contains(r#"outport_upstream_rate_limit_remaining{upstream="up.test"} 76"#), "{text}");
    assert!(text.contains(r#"outport_upstream_requests_total{outcome="2xx",upstream="up.test"} 1"#), "{text}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_upstream_has_the_last_word() {
    let mirror = Origin::start(|seen| match &seen.target {
        target if target.contains("/here/") => manifest(),
        target if target.contains("/liar/") => reply(200, "<html>").with("content-type", "text/html"),
        target if target.contains("/private/") => reply(403, ""),
        _ => reply(404, ""),
    })
    .await;
    let main = Origin::start(|seen| match (seen.target.contains("/nowhere/"), seen.authorization() == basic()) {
        (true, _) => reply(404, ""),
        (false, true) => manifest(),
        (false, false) => reply(401, "").with("www-authenticate", "Basic realm=r"),
    })
    .await;
    let config = config::Upstream { mirrors: vec![mirror.url("/m")], ..with_credentials(main.url("/")) };
    let upstream = upstream(&config);
    for repository in ["here", "liar", "private", "elsewhere"] {
        upstream.get_manifest(&name(repository), &tag("x")).await.unwrap();
    }
    assert_eq!(upstream.get_manifest(&name("nowhere"), &tag("x")).await, Err(UpstreamError::Absent));
    assert_eq!(mirror.requests()[0], "GET /m/v2/here/manifests/x");
    assert!(mirror.seen().iter().all(|seen| seen.authorization().is_empty()));
    assert!(!main.requests().iter().any(|request| request.contains("/here/")));
    assert_eq!(mirror.requests().len(), 5);
}

#[tokio::test]
async fn what_breaks_at_a_mirror_goes_on_at_the_upstream() {
    let mirror = Origin::start(|_| reply(200, "0123").cut_after(2)).await;
    let main = Origin::start(|_| reply(206, "23").with("content-range", "bytes 2-3/4")).await;
    let upstream = upstream(&config::Upstream { mirrors: vec![mirror.url("/")], ..config(main.url("/")) });
    let (name, digest) = (name("a"), Digest::sha256(b"0123"));
    let mut transfer = upstream.get_blob(&name, &digest, 0).await.unwrap();
    assert_eq!(transfer.next().await.unwrap().unwrap(), "01");
    assert!(matches!(transfer.next().await, Err(UpstreamError::Broken(_))));
    let mut rest = upstream.get_blob(&name, &digest, 2).await.unwrap();
    assert_eq!(rest.next().await.unwrap().unwrap(), "23");
    assert_eq!((mirror.requests().len(), main.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_mirror_that_is_down_is_passed_over_and_its_circuit_opens() {
    let main = Origin::start(|_| manifest()).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = config::Upstream { mirrors: vec![format!("http://{gone}").parse().unwrap()], ..config(main.url("/")) };
    let metrics = Metrics::new();
    let upstream = upstream_at(&config, Clock::system(), metrics.clone());
    for _ in 0..20 {
        upstream.get_manifest(&name("a"), &tag("x")).await.unwrap();
    }
    let circuits: Vec<_> = upstream.health().endpoints.iter().map(|endpoint| endpoint.circuit).collect();
    assert_eq!(circuits, [Circuit::Open, Circuit::Closed]);
    let text = metrics.render();
    assert!(text.contains(r#"outport_upstream_requests_total{outcome="connect",upstream="up.test"} 8"#), "{text}");
    assert!(text.contains(r#"outport_upstream_breaker_open{upstream="up.test"} 0"#), "{text}");
}

#[tokio::test]
async fn nobody_waits_for_an_upstream_that_does_not_answer() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let metrics = Metrics::new();
    let config = config::Upstream { read_timeout: Duration::from_millis(100), ..config(url) };
    let upstream = upstream_at(&config, Clock::system(), metrics.clone());
    for _ in 0..2 {
        assert!(matches!(upstream.get_manifest(&name("a"), &tag("x")).await, Err(UpstreamError::Unavailable { retry_after: None, .. })));
    }
    let start = Instant::now();
    for _ in 0..100 {
        let result = upstream.get_manifest(&name("a"), &tag("x")).await;
        assert!(matches!(result, Err(UpstreamError::Unavailable { retry_after: Some(_), .. })), "{result:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(metrics.render().contains(r#"outport_upstream_breaker_open{upstream="up.test"} 1"#));
    assert!(metrics.render().contains(r#"outport_upstream_requests_total{outcome="timeout",upstream="up.test"} 2"#));
}

#[tokio::test]
async fn passing_faults_are_retried_within_a_budget() {
    let count = AtomicUsize::new(0);
    let origin =
        Origin::start(move |_| if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { reply(502, "") } else { manifest() }).await;
    let upstream = upstream(&config(origin.url("/")));
    upstream.get_manifest(&name("a"), &tag("x")).await.unwrap();
    assert_eq!(origin.requests().len(), 2);
    for _ in 1..100 {
        // Half of them fail once the budget is spent.
        let _ = upstream.get_manifest(&name("a"), &tag("x")).await;
    }
    let requests = origin.requests().len();
    assert!((110..=120).contains(&requests), "{requests} requests for 100 calls");
}

#[tokio::test]
async fn what_is_no_passing_fault_is_not_retried() {
    for (status, error) in [(404, Some(UpstreamError::Absent)), (403, Some(UpstreamError::Denied)), (500, None), (429, None), (418, None)] {
        let origin = Origin::start(move |_| reply(status, "")).await;
        let result = upstream(&config(origin.url("/"))).get_manifest(&name("a"), &tag("x")).await.unwrap_err();
        assert!(error.is_none_or(|error| error == result), "{status}: {result:?}");
        assert_eq!(origin.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn tags_come_from_all_pages_sorted() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/p/v2/a/tags/list?n=1000" => {
            reply(200, r#"{"name":"a","tags":["c","b",".bad"]}"#).with("link", r#"</v2/a/tags/list?last=c&n=2>; rel="next""#)
        }
        "/p/v2/a/tags/list?last=c&n=2" => reply(200, r#"{"name":"a","tags":["a","b"]}"#),
        "/p/v2/none/tags/list?n=1000" => reply(200, r#"{"name":"none","tags":null}"#),
        "/p/v2/far/tags/list?n=1000" => reply(200, r#"{"tags":["a"]}"#).with("link", r#"<http://127.0.0.2/x?last=a>; rel="next""#),
        "/p/v2/html/tags/list?n=1000" => reply(200, "<html>"),
        _ => reply(404, ""),
    })
    .await;
    let upstream = upstream(&config(origin.url("/p")));
    let tags = upstream.tags(&name("a")).await.unwrap();
    assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(upstream.tags(&name("none")).await, Ok(Vec::new()));
    assert_eq!(upstream.tags(&name("absent")).await, Err(UpstreamError::Absent));
    assert!(is_wrong(upstream.tags(&name("far")).await));
    assert!(is_wrong(upstream.tags(&name("html")).await));
}

#[tokio::test]
async fn an_endless_tag_list_is_refused() {
    let count = AtomicUsize::new(0);
    let many = (0..10_000).map(|n| format!(r#""t{n}""#)).collect::<Vec<_>>().join(",");
    let origin = Origin::start(move |_| {
        let next = format!(r#"<?last={}>; rel="next""#, count.fetch_add(1, Ordering::SeqCst));
        reply(200, format!(r#"{{"tags":[{many}]}}"#)).with("link", next)
    })
    .await;
    assert!(is_wrong(upstream(&config(origin.url("/"))).tags(&name("a")).await));
    assert_eq!(origin.requests().len(), 11);
}

#[tokio::test]
async fn referrers_come_from_the_api_or_from_the_fallback_tag() {
    let (subject, lonely) = (Digest::sha256(b"subject"), Digest::sha256(b"lonely"));
    let referrer = Digest::sha256(b"signature");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{IMAGE}","digest":"{referrer}","size":9}}]}}"#);
    let fallback = format!("/v2/old/manifests/sha256-{}", subject.hex());
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        target if target == fallback => reply(200, index.as_str()).with("content-type", INDEX_MEDIA_TYPE),
        target if target.starts_with("/v2/new/referrers/") => reply(200, index.as_str()).with("content-type", INDEX_MEDIA_TYPE),
        target if target.starts_with("/v2/odd/referrers/") => reply(200, "<html>").with("content-type", "text/html"),
        _ => reply(404, ""),
    })
    .await;
    let upstream = upstream(&config(origin.url("/")));
    for repository in ["new", "old"] {
        let found = upstream.referrers(&name(repository), &subject).await.unwrap();
        assert_eq!(found.iter().map(|found| found.digest).collect::<Vec<_>>(), [referrer], "{repository}");
    }
    assert_eq!(upstream.referrers(&name("old"), &lonely).await, Ok(Vec::new()));
    assert!(is_wrong(upstream.referrers(&name("odd"), &subject).await));
}

#[tokio::test]
async fn a_probe_is_content_with_any_registry() {
    let up = Arc::new(AtomicBool::new(true));
    let state = up.clone();
    let origin = Origin::start(move |_| if state.load(Ordering::SeqCst) { reply(200, "{}") } else { reply(500, "") }).await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    upstream.probe().await.unwrap();
    assert_eq!(origin.requests(), ["GET /v2/"]);
    up.store(false, Ordering::SeqCst);
    assert!(matches!(upstream.probe().await, Err(UpstreamError::Unavailable { .. })));
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nothing_from_the_others() {
    let origin = token_registry(|_| issued("t"), |token| token == "t").await;
    let upstream = Arc::new(upstream(&config(origin.url("/"))));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.get_manifest(&name("a"), &tag("x")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    calls.iter().step_by(2).for_each(|call| call.abort());
    for (index, call) in calls.into_iter().enumerate().filter(|(index, _)| index % 2 == 1) {
        call.await.unwrap().unwrap_or_else(|error| panic!("call {index}: {error}"));
    }
    let tokens = origin.requests().iter().filter(|request| request.contains("/token")).count();
    assert_eq!(tokens, 1);
    assert_eq!(upstream.health().endpoints[0].circuit, Circuit::Closed);
}

#[test]
fn what_is_allowed_is_not_denied() {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Pattern>>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    for (allow, deny, repository, allowed) in [
        (&[][..], &[][..], "a/b", true),
        (&["a/*"], &[], "a/b", true),
        (&["a/*"], &[], "b/b", false),
        (&["a/*"], &["a/b"], "a/b", false),
        (&[], &["a/**"], "a/b", false),
    ] {
        let config = config::Upstream { allow: patterns(allow), deny: patterns(deny), ..config("http://127.0.0.1".parse().unwrap()) };
        assert_eq!(upstream(&config).allows(&name(repository)), allowed, "{allow:?} {deny:?} {repository}");
    }
}
