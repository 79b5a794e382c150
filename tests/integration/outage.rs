//! Upstreams that do not answer: what is cached is served, nobody waits in vain, and nobody else notices.

use std::time::{Duration, Instant};

use crate::harness::client::Response;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

/// A stale answer comes within two seconds.
const STALE_TIME: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_millis(500);
const IMAGES: u64 = 5;

/// Settings under which every answer but a digest's bytes is to be asked again at once.
fn settings(origin: &Origin, other: &Origin) -> Settings {
    Settings::new()
        .limits("deadline = \"3s\"")
        .cache("negative_ttl = \"0s\"")
        .upstream_with("origin.test", origin, "tag_ttl = \"0s\"\nauthorization_ttl = \"0s\"")
        .upstream_with("other.test", other, "tag_ttl = \"0s\"\nauthorization_ttl = \"0s\"")
}

fn images() -> Vec<Image> {
    (0..IMAGES).map(|seed| Image::new(seed, &[1000, 200_000])).collect()
}

/// An edge with two upstreams that have the same images; those of the first are cached.
async fn warm_edge(origin: &Origin, other: &Origin) -> (TestEdge, Vec<Image>) {
    let images = images();
    for (number, image) in images.iter().enumerate() {
        origin.push("app", &format!("v{number}"), image);
        other.push("app", &format!("v{number}"), image);
    }
    let edge = settings(origin, other).start().await;
    for (number, image) in images.iter().enumerate() {
        pull(&edge.client, "origin.test/app", &format!("v{number}"), image).await.expect("a sound upstream's image");
    }
    (edge, images)
}

fn assert_unavailable(answer: &Response) {
    assert_eq!((answer.status, answer.error_code().is_some()), (503, true), "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.head);
    assert!(answer.after < DEADLINE + SLACK, "{:?}", answer.after);
}

/// What holds whatever ails the first upstream.
async fn assert_outage_is_borne(edge: &TestEdge, images: &[Image]) {
    for (number, image) in images.iter().enumerate() {
        let took = pull(&edge.client, "origin.test/app", &format!("v{number}"), image).await.expect("a cached image");
        assert!(took < STALE_TIME, "image {number} took {took:?}");
    }
    let stale = edge.client.get("/v2/origin.test/app/manifests/v0").await;
    assert_eq!(stale.header("outport-freshness"), Some("stale"), "{:?}", stale.head);
    assert!(stale.header("warning").is_some_and(|warning| warning.starts_with("299 - \"stale")), "{:?}", stale.head);
    assert!(stale.after < Duration::from_millis(500), "nobody waits again, and this took {:?}", stale.after);

    // While somebody waits for what is not cached, the other upstream is as quick as ever.
    let uncached = "/v2/origin.test/app/manifests/not-cached".to_owned();
    let client = edge.client.clone();
    let waiting = tokio::spawn(async move { client.get(&uncached).await });
    for (number, image) in images.iter().enumerate() {
        let took = pull(&edge.client, "other.test/app", &format!("v{number}"), image).await.expect("the other upstream's image");
        assert!(took < SLACK, "image {number} of the other upstream took {took:?}");
    }
    assert_unavailable(&waiting.await.expect("no panic"));
    let absent = format!("/v2/origin.test/app/blobs/sha256:{}", "1".repeat(64));
    assert_unavailable(&edge.client.get(&absent).await);
    assert_unavailable(&edge.client.get("/v2/origin.test/other/tags/list").await);
}

#[tokio::test]
async fn upstream_blackholed() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (edge, images) = warm_edge(&origin, &other).await;
    origin.blackhole();
    assert_outage_is_borne(&edge, &images).await;
    edge.finish().await;
}

#[tokio::test]
async fn upstream_hanging() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (edge, images) = warm_edge(&origin, &other).await;
    origin.script(Match::Any, Fault::StallHead);
    assert_outage_is_borne(&edge, &images).await;
    edge.finish().await;
}

#[tokio::test]
async fn upstream_429() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (edge, images) = warm_edge(&origin, &other).await;
    origin.script(Match::Any, Fault::too_many(30));
    assert_outage_is_borne(&edge, &images).await;
    edge.finish().await;
}

#[tokio::test]
async fn upstream_500() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (edge, images) = warm_edge(&origin, &other).await;
    origin.script(Match::Any, Fault::status(500));
    assert_outage_is_borne(&edge, &images).await;
    edge.finish().await;
}

#[tokio::test]
async fn upstream_gone_from_its_port() {
    let (mut origin, other) = (Origin::start().await, Origin::start().await);
    let (edge, images) = warm_edge(&origin, &other).await;
    origin.stop().await;
    assert_outage_is_borne(&edge, &images).await;
    origin.resume().await;
    edge.finish().await;
}

#[tokio::test]
async fn upstream_gone_from_the_name_service_and_the_edge_restarted() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let images = images();
    for (number, image) in images.iter().enumerate() {
        origin.push("app", &format!("v{number}"), image);
        other.push("app", &format!("v{number}"), image);
    }
    let edge = settings(&origin, &other).data_dir(folder.path()).start().await;
    for (number, image) in images.iter().enumerate() {
        pull(&edge.client, "origin.test/app", &format!("v{number}"), image).await.expect("a sound upstream's image");
    }
    edge.finish().await;
    let ttl = "tag_ttl = \"0s\"\nauthorization_ttl = \"0s\"";
    let edge = Settings::new()
        .limits("deadline = \"3s\"")
        .cache("negative_ttl = \"0s\"")
        .data_dir(folder.path())
        .upstream_at("origin.test", "http://registry.invalid", ttl)
        .upstream_with("other.test", &other, ttl)
        .start()
        .await;
    assert_outage_is_borne(&edge, &images).await;
    edge.finish().await;
}

#[tokio::test]
async fn the_edge_starts_while_its_upstream_is_down() {
    let (mut origin, other) = (Origin::start().await, Origin::start().await);
    let (mut edge, images) = warm_edge(&origin, &other).await;
    origin.stop().await;
    edge.restart().await;
    assert_outage_is_borne(&edge, &images).await;
    assert_eq!(edge.ops.get("/readyz").await.status, 200, "an upstream that is down makes no edge unready");
    origin.resume().await;
    edge.finish().await;
}

#[tokio::test]
async fn an_upstream_that_was_never_there_is_503() {
    let edge = Settings::new().limits("deadline = \"3s\"").upstream_at("gone.test", "http://registry.invalid", "").start().await;
    assert_unavailable(&edge.client.get("/v2/gone.test/app/manifests/v1").await);
    edge.finish().await;
}

#[tokio::test]
async fn half_of_the_answers_5xx_cost_a_fifth_more_requests_at_most() {
    const REQUESTS: u64 = 100;
    let origin = Origin::start().await;
    let edge = Settings::new().cache("negative_ttl = \"0s\"").upstream("origin.test", &origin).start().await;
    let images: Vec<_> = (0..REQUESTS).map(|seed| Image::new(seed, &[])).collect();
    for image in &images {
        origin.push_untagged("app", image);
    }
    origin.script(Match::Registry, Fault::status(503).every_other());
    let mut answered = 0;
    for image in &images {
        let answer = edge.client.get(&format!("/v2/origin.test/app/manifests/{}", image.digest())).await;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
        answered += u64::from(answer.status == 200);
    }
    let sent = origin.count(&Match::Registry) as u64;
    assert!(sent <= REQUESTS * 12 / 10, "{sent} requests for {REQUESTS}");
    assert!(answered >= REQUESTS * 2 / 5, "{answered} of {REQUESTS} were answered");
    edge.finish().await;
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let origin = Origin::start().await;
    let edge = Settings::new().cache("negative_ttl = \"0s\"").upstream("origin.test", &origin).start().await;
    let image = Image::new(1, &[1000]);
    origin.push("app", "v1", &image);
    origin.script(Match::Any, Fault::too_many(3));
    assert_unavailable(&edge.client.get("/v2/origin.test/app/manifests/v1").await);
    let (asked, since) = (origin.requests().len(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        assert_unavailable(&edge.client.get("/v2/origin.test/app/manifests/v1").await);
        assert_unavailable(&edge.client.get("/v2/origin.test/app/tags/list").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(origin.requests().len(), asked, "not asked before its time");
    origin.clear();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("asked after its time");
    edge.finish().await;
}

#[tokio::test]
async fn one_slow_upstream_does_not_slow_the_others() {
    let (slow, other) = (Origin::start().await, Origin::start().await);
    slow.script(Match::Any, Fault::DelayHead(Duration::from_secs(10)));
    let image = Image::new(1, &[1000, 100_000]);
    slow.push("app", "v1", &image);
    other.push("app", "v1", &image);
    let edge = Settings::new()
        .upstream_with("slow.test", &slow, "tag_ttl = \"0s\"")
        .upstream_with("other.test", &other, "tag_ttl = \"0s\"\nauthorization_ttl = \"0s\"")
        .start()
        .await;
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            let client = edge.client.clone();
            tokio::spawn(async move { client.try_get(&format!("/v2/slow.test/app{number}/manifests/v1")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut times = Vec::new();
    for _ in 0..100 {
        times.push(pull(&edge.client, "other.test/app", "v1", &image).await.expect("the other upstream's image"));
    }
    times.sort_unstable();
    assert!(times[98] < Duration::from_millis(500), "{:?}", &times[90..]);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    edge.finish().await;
}

#[tokio::test]
async fn the_breaker_opens_and_closes_again() {
    let (mut origin, other) = (Origin::start().await, Origin::start().await);
    let edge = settings(&origin, &other).start().await;
    let image = Image::new(1, &[1000]);
    origin.push("app", "v1", &image);
    origin.stop().await;
    for _ in 0..6 {
        assert_unavailable(&edge.client.get("/v2/origin.test/app/manifests/v1").await);
    }
    let open = r#"outport_upstream_breaker_open{upstream="origin.test"} 1"#;
    assert!(edge.metrics().await.contains(open), "{}", edge.metrics().await);
    let answer = edge.client.get("/v2/origin.test/app/manifests/v1").await;
    assert!(answer.after < Duration::from_millis(100), "an open circuit answers at once, and this took {:?}", answer.after);
    origin.resume().await;
    let since = Instant::now();
    while pull(&edge.client, "origin.test/app", "v1", &image).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(15), "the circuit stays open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(edge.metrics().await.contains(r#"outport_upstream_breaker_open{upstream="origin.test"} 0"#));
    edge.finish().await;
}
