//! What is pushed to a hosted repository that goes to an upstream arrives there, whatever happens on the way, and nothing is hidden.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Image, index_of};
use crate::harness::origin::{Origin, Setup};
use crate::harness::push::{push, push_manifest};
use crate::harness::script::{Fault, Match};
use crate::harness::token::{Guard, Scheme, TokenBy};

/// How long something may take to arrive that nothing keeps from it any more: a circuit that opened is closed by then.
const ARRIVAL: Duration = Duration::from_secs(40);

/// An edge whose `team/**` goes to the origin; everybody may pull and push.
fn settings(origin: &Origin) -> Settings {
    let settings = Settings::new().access("anonymous_pull = [\"**\"]\nanonymous_push = [\"**\"]");
    let password = settings.file("origin.password", "origin-password");
    let credentials = format!("username = \"origin-user\"\npassword_file = \"{}\"", password.display());
    settings.upstream_with("origin.test", origin, &credentials).table("[[hosted]]\npattern = \"team/**\"\nforward_to = \"origin.test\"")
}

async fn origin() -> Origin {
    Origin::with(Setup::from(Guard::new(Scheme::Bearer(TokenBy::Get)))).await
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < ARRIVAL, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn forwards(client: &Client) -> Vec<Value> {
    let answer = client.get("/outport/v1/forwards").await;
    assert_eq!((answer.status, answer.json()["more"].clone()), (200, Value::Bool(false)), "{}", answer.text());
    answer.json()["forwards"].as_array().expect("a list").clone()
}

async fn until_none_waits(client: &Client) {
    until("something still waits", async || forwards(client).await.is_empty()).await;
}

async fn assert_metric(edge: &TestEdge, line: &str) {
    let metrics = edge.metrics().await;
    assert!(metrics.contains(line), "no {line} in\n{metrics}");
}

#[tokio::test]
async fn images_indexes_and_artifacts_arrive_as_they_were_pushed() {
    let origin = origin().await;
    let edge = settings(&origin).start().await;
    let (amd64, arm64) = (Image::new(1, &[1_000, 3_000_000, 200_000]), Image::new(2, &[50_000]));
    let index = index_of(&amd64, &arm64);
    push(&edge.client, "team/app", None, &amd64).await;
    push(&edge.client, "team/app", None, &arm64).await;
    assert_eq!(push_manifest(&edge.client, "team/app", Some("v1"), &index).await.status, 201);
    let signature = Image::artifact("application/example.signature", &index, "signed");
    push(&edge.client, "team/app", None, &signature).await;
    let own = Image::new(3, &[1_000]);
    push(&edge.client, "elsewhere/app", Some("v1"), &own).await;
    until_none_waits(&edge.client).await;
    assert_eq!(origin.manifest("team/app", "v1").as_ref(), Some(&index));
    for image in [&amd64, &arm64, &signature] {
        assert!(origin.has("team/app", image.digest(), image), "{}", image.digest());
    }
    assert!(origin.manifest("elsewhere/app", "v1").is_none());
    // A blob that the origin has in another of these repositories is not sent again.
    let puts = origin.count(&Match::Uploads.put());
    push(&edge.client, "team/copy", Some("v2"), &amd64).await;
    until_none_waits(&edge.client).await;
    assert!(origin.has("team/copy", "v2", &amd64));
    assert_eq!(origin.count(&Match::Uploads.put()), puts);
    // Deletions stay here.
    assert_eq!(edge.client.send_with("DELETE", "/v2/team/copy/manifests/v2", &[], b"").await.status, 202);
    until_none_waits(&edge.client).await;
    assert!(origin.has("team/copy", "v2", &amd64));
    assert_metric(&edge, "outport_forward_pending 0\n").await;
    edge.finish().await;
}

#[tokio::test]
async fn an_origin_that_was_away_gets_everything() {
    let mut origin = origin().await;
    let edge = settings(&origin).start().await;
    origin.stop().await;
    let images: Vec<Image> = (10..13).map(|seed| Image::new(seed, &[1_000, 400_000])).collect();
    for (number, image) in images.iter().enumerate() {
        push(&edge.client, &format!("team/app-{number}"), Some("v1"), image).await;
    }
    until("it was not tried", async || forwards(&edge.client).await.iter().all(|forward| forward["tries"].as_u64() > Some(0))).await;
    let waiting = forwards(&edge.client).await;
    assert_eq!(waiting.len(), 3);
    for forward in &waiting {
        assert_eq!((forward["upstream"].as_str(), forward["reference"].as_str()), (Some("origin.test"), Some("v1")), "{forward}");
        assert!(forward["last_error"].is_string() && forward["since_ms"].is_u64(), "{forward}");
    }
    assert_metric(&edge, "outport_forward_pending 3\n").await;
    origin.resume().await;
    until_none_waits(&edge.client).await;
    for (number, image) in images.iter().enumerate() {
        assert!(origin.has(&format!("team/app-{number}"), "v1", image));
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_killed_edge_goes_on_where_it_was() {
    let origin = origin().await;
    let mut edge = settings(&origin).spawn().await;
    origin.blackhole();
    let images: Vec<Image> = (20..23).map(|seed| Image::new(seed, &[1_000, 400_000])).collect();
    for (number, image) in images.iter().enumerate() {
        push(&edge.client, "team/app", Some(&format!("v{number}")), image).await;
    }
    edge.kill();
    origin.heal();
    assert!(origin.manifest("team/app", "v0").is_none());
    edge.start_again().await;
    for (number, image) in images.iter().enumerate() {
        until("an image is missing", async || origin.has("team/app", &format!("v{number}"), image)).await;
    }
    until_none_waits(&edge.client).await;
    // What is done is done: nothing is passed on again.
    edge.kill();
    origin.forget_requests();
    edge.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_denies_is_shown_and_not_hammered() {
    let origin = origin().await;
    let edge = settings(&origin)
        .access("anonymous_pull = [\"team/**\", \"canary.test/**\"]\nanonymous_push = [\"**\"]")
        .principal("stranger", "a password of some length", "other/**")
        .start()
        .await;
    origin.script(Match::Method("POST", Box::new(Match::Uploads)), Fault::status(403));
    let image = Image::new(30, &[1_000]);
    push(&edge.client, "team/app", Some("v1"), &image).await;
    until("it is not shown", async || forwards(&edge.client).await.iter().any(|forward| forward["standing"] == "failed")).await;
    let shown = forwards(&edge.client).await.remove(0);
    assert_eq!((shown["tries"].as_u64(), shown["repository"].as_str()), (Some(1), Some("team/app")), "{shown}");
    assert!(shown["last_error"].as_str().is_some_and(|why| why.contains("denies")), "{shown}");
    let before = origin.requests().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(origin.requests().len(), before, "it is tried again and again");
    assert_metric(&edge, r#"outport_forwards_total{outcome="refused"} 1"#).await;
    // It was pushed here all the same.
    assert_eq!(edge.client.get("/v2/team/app/manifests/v1").await.status, 200);

    let address = format!("http://{}", edge.client.address());
    let asked = tokio::task::block_in_place(|| Command::new(env!("CARGO_BIN_EXE_outport")).args(["forwards", "--edge", &address]).output());
    let asked = asked.expect("our own program");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.starts_with("team/app:v1 -> origin.test: failed for ") && said.contains("denies"), "{said}{asked:?}");

    // Pushed once more, after the origin's owner has given leave.
    origin.clear();
    push(&edge.client, "team/app", Some("v1"), &image).await;
    until_none_waits(&edge.client).await;
    assert!(origin.has("team/app", "v1", &image));
    edge.finish().await;
}

#[tokio::test]
async fn who_may_not_read_a_repository_is_not_told_of_its_pushes() {
    let origin = origin().await;
    let edge = settings(&origin)
        .access("anonymous_pull = [\"canary.test/**\"]")
        .principal("stranger", "a password of some length", "other/**")
        .principal("pusher", "a password of some length", "team/**\"]\npush = [\"team/**")
        .start()
        .await;
    origin.blackhole();
    let as_who = |name| edge.client.clone().with_basic(name, "a password of some length");
    push(&as_who("pusher"), "team/app", Some("v1"), &Image::new(40, &[1_000])).await;
    for (client, count) in [(as_who("pusher"), 1), (as_who("stranger"), 0), (edge.client.clone(), 0)] {
        assert_eq!(forwards(&client).await.len(), count);
    }
    origin.heal();
    until_none_waits(&as_who("pusher")).await;
    edge.finish().await;
}
