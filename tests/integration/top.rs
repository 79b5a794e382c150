//! Who asks how much, told to those who may know; and no client takes more than its share.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::push::push;
use crate::harness::regions::{metric, until};

const MIB: u64 = 1 << 20;
/// What many clients come through.
const PROXY: &str = "127.0.0.2";

/// An edge with an operator, whose password is `secret`; `ci` and `noisy` may push and pull.
fn settings() -> Settings {
    Settings::new()
        .pusher("operator", "[]", "[]")
        .pusher("ci", "[\"**\"]", "[\"team/**\"]")
        .pusher("noisy", "[\"**\"]", "[\"team/**\"]")
        .table("[[role]]\nrole = \"Contributor\"\nprincipals = [\"operator\"]")
}

fn signed_in(edge: &TestEdge, name: &str) -> Client {
    edge.client.clone().with_basic(name, "secret")
}

/// All three tables, as the operator sees them, who comes from an address of its own.
async fn top(edge: &TestEdge, query: &str) -> Vec<Value> {
    let answer = signed_in(edge, "operator").from("127.0.0.9").get(&format!("/outport/v1/top?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["tables"].as_array().expect("a list").clone()
}

fn count(table: &Value, name: &str) -> u64 {
    let names = table["names"].as_array().expect("a list");
    names.iter().find(|found| found["name"] == name).and_then(|found| found["count"].as_u64()).unwrap_or_default()
}

#[tokio::test]
async fn every_answered_request_counts_for_its_client_principal_and_repository() {
    let edge = settings().start().await;
    let (ci, image) = (signed_in(&edge, "ci").from("127.0.0.5"), Image::new(1, &[50_000]));
    push(&ci, "team/app", Some("v1"), &image).await;
    let before = top(&edge, "n=100").await;
    for _ in 0..7 {
        assert_eq!(ci.get("/v2/team/app/manifests/v1").await.status, 200);
    }
    assert_eq!(ci.get("/v2/team/other/manifests/none").await.status, 404);
    assert_eq!(ci.get("/readyz").await.status, 200);
    assert_eq!(edge.client.clone().from("127.0.0.6").get("/v2/").await.status, 401);
    let after = top(&edge, "n=100").await;
    for (number, (name, requests)) in [("127.0.0.5", 8), ("ci", 8), ("team/app", 7)].into_iter().enumerate() {
        assert_eq!(count(&after[number], name) - count(&before[number], name), requests, "{name} in {after:?}");
        assert_eq!(after[number]["error"], 0);
    }
    assert_eq!((count(&after[0], "127.0.0.6"), count(&after[1], "anonymous"), count(&after[2], "team/other")), (1, 0, 1));
    let bytes = top(&edge, "n=1&measure=bytes&window=day&by=repository").await;
    assert_eq!(bytes.len(), 1);
    let (pushed, least) = (count(&bytes[0], "team/app"), 50_000 + 8 * image.manifest.bytes.len() as u64);
    assert!((least..least + 10_000).contains(&pushed), "{pushed} of {least}: {bytes:?}");
    edge.finish().await;
}

#[tokio::test]
async fn who_may_not_read_the_audit_record_is_told_nothing() {
    let edge = settings().table("[[role]]\nrole = \"Reader\"\nprincipals = [\"ci\"]").start().await;
    for (name, expected) in [("ci", (403, "DENIED")), ("noisy", (403, "DENIED"))] {
        let answer = signed_in(&edge, name).get("/outport/v1/top").await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (expected.0, Some(expected.1)), "{name}");
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
    assert_eq!(edge.client.get("/outport/v1/top").await.status, 401);
    // The operators' listener asks who they are, too.
    assert_eq!((edge.ops.get("/top").await.status, edge.ops.get("/outport/v1/top").await.status), (404, 401));
    let operator = signed_in(&edge, "operator");
    assert_eq!(operator.get("/outport/v1/top?by=tag").await.status, 400);
    assert_eq!(operator.post("/outport/v1/top", &Value::Null).await.status, 405);
    edge.finish().await;
}

/// Requests of many clients on one connection from the proxy.
async fn ask_as(proxy: &Client, clients: impl Iterator<Item = (Ipv4Addr, Option<&str>)>) -> io::Result<()> {
    let mut wire = proxy.connect().await?;
    for (address, authorization) in clients {
        let signed = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let head = format!("GET /v2/canary.test/bird/manifests/v1 HTTP/1.1\r\nHost: edge\r\nX-Forwarded-For: {address}\r\n{signed}\r\n");
        wire.send(head.as_bytes()).await?;
        let (answer, more) = wire.exchange("GET", Instant::now()).await?.whole_and_more().await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        wire = more;
    }
    Ok(())
}

/// What ten seconds see of 100,000 clients at one request in 100 s, and of one at a request a second: `traffic::tests` has all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_hundred_times_the_others_rate_is_first() {
    const CONNECTIONS: u32 = 4;
    const SEEN: u32 = 10_000;
    let edge = settings().listen(&format!("trusted_proxies = [\"{PROXY}/32\"]")).start().await;
    let (proxy, noisy) = (edge.client.clone().from(PROXY), "Basic bm9pc3k6c2VjcmV0");
    let others = (0..CONNECTIONS).map(|connection| {
        let numbers = (connection..SEEN).step_by(CONNECTIONS as usize);
        // The noisy one comes once for each thousand of the others.
        let clients = numbers.flat_map(move |number| {
            let other = (Ipv4Addr::from_bits(0x0a00_0000 + number * 10), None);
            let also = (number % 1_000 == 500).then_some((Ipv4Addr::new(198, 51, 100, 7), Some(noisy)));
            [Some(other), also].into_iter().flatten()
        });
        ask_as(&proxy, clients)
    });
    futures_util::future::try_join_all(others).await.expect("every request is answered");
    for window in ["minute", "hour"] {
        let tables = top(&edge, &format!("n=2&window={window}")).await;
        for (table, name) in tables.iter().zip(["198.51.100.7", "noisy"]) {
            let (first, second) = (&table["names"][0], table["names"][1]["count"].as_u64().unwrap_or_default());
            assert_eq!(first["name"], name, "{table}");
            assert!(first["count"].as_u64().is_some_and(|count| count >= 3 * second.min(3)), "{table}");
        }
    }
    edge.finish().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_others_notice_nothing() {
    let edge = settings().limits("client_requests = 1").limits("client_burst = 5").start().await;
    let many = async |client: Client, target: &str| {
        let (mut answered, mut refused) = (0, Vec::new());
        for _ in 0..40 {
            match client.get(target).await {
                answer if answer.status == 200 => answered += 1,
                answer => refused.push(answer),
            }
        }
        (answered, refused)
    };
    let path = "/v2/canary.test/bird/manifests/v1";
    let (answered, refused) = many(edge.client.clone().from("127.0.0.5"), path).await;
    assert!(answered >= 5 && !refused.is_empty(), "{answered} answered");
    for answer in &refused {
        assert_eq!(
            (answer.status, answer.error_code().as_deref(), answer.header("retry-after")),
            (429, Some("TOOMANYREQUESTS"), Some("1"))
        );
    }
    // A principal is the same one wherever it comes from, and another one than the address.
    let ci = |address: &str| signed_in(&edge, "ci").from(address);
    assert_eq!(ci("127.0.0.5").get(path).await.status, 200);
    let (_, refused_too) = many(ci("127.0.0.6"), path).await;
    assert!(!refused_too.is_empty());
    assert_eq!(edge.client.clone().from("127.0.0.6").get(path).await.status, 200);
    // As of a mirror: containerd repeats a 429 at once, and turns to the next mirror after a 503.
    let (_, refused) = many(edge.client.clone().from("127.0.0.7"), "/v2/bird/manifests/v1?ns=canary.test").await;
    assert!(refused.iter().all(|answer| answer.status == 503 && answer.header("retry-after").is_some()) && !refused.is_empty());
    // Health checks come as often as they like.
    let (checked, none) = many(edge.client.clone().from("127.0.0.5"), "/readyz").await;
    assert_eq!((checked, none.len()), (40, 0));
    assert!(metric(&edge, r#"outport_limited_total{what="requests"}"#).await > 2.0);
    edge.finish().await;
}

async fn pull_slowly(client: &Client, image: &Image) -> Duration {
    let blob = image.blobs.iter().max_by_key(|blob| blob.size_bytes()).expect("a blob");
    let mut exchange = client.open("GET", &format!("/v2/origin.test/app/blobs/{}", blob.digest()), &[]).await.expect("an answer");
    let started = Instant::now();
    let compared = exchange.compare(blob, 0).await.expect("it is whole");
    assert_eq!(compared.bytes, blob.size_bytes());
    started.elapsed()
}

/// By blocks where the bandwidth is small, by parts of files where it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_no_more_bytes_than_its_share() {
    for (bandwidth, size) in [(MIB, 3 * MIB), (16 * MIB, 48 * MIB)] {
        let (origin, image) = (Origin::start().await, Image::new(3, &[size]));
        origin.push("app", "v1", &image);
        let limits = format!("client_bandwidth = \"{bandwidth}B\"");
        let edge = settings().upstream("origin.test", &origin).limits(&limits).start().await;
        let own = |last: u8| edge.client.clone().from(&format!("127.0.0.{last}"));
        pull_slowly(&own(5), &image).await;
        // A second's worth goes at once; two answers to one client share the rest, and another client has its own.
        let (one, other) = (own(6), own(7));
        let (first, second, alone) = tokio::join!(pull_slowly(&one, &image), pull_slowly(&one, &image), pull_slowly(&other, &image));
        let least = |bytes: u64| Duration::from_secs_f64((bytes - bandwidth - MIB) as f64 / bandwidth as f64);
        assert!(first.max(second) >= least(2 * size), "{first:?} and {second:?} for {} MiB", 2 * size / MIB);
        assert!(alone >= least(size), "{alone:?} for {} MiB", size / MIB);
        assert!(metric(&edge, r#"outport_limited_total{what="bytes"}"#).await > 0.0);
        edge.finish().await;
    }
}

#[tokio::test]
async fn limits_are_reloaded() {
    let mut edge = settings().limits("client_burst = 1").spawn().await;
    let client = edge.client.clone().from("127.0.0.5");
    for _ in 0..10 {
        assert_eq!(client.get("/v2/canary.test/bird/manifests/v1").await.status, 200);
    }
    edge.rewrite(|text| *text = text.replace("client_burst = 1", "client_burst = 1\nclient_requests = 1"));
    until("the limit holds", || async { client.get("/v2/canary.test/bird/manifests/v1").await.status == 429 }).await;
    edge.rewrite(|text| *text = text.replace("client_requests = 1", "client_requests = 0"));
    until("it does not any more", || async {
        let asked = (client.get("/v2/canary.test/bird/manifests/v1").await, client.get("/v2/canary.test/bird/manifests/v1").await);
        (asked.0.status, asked.1.status) == (200, 200)
    })
    .await;
}
