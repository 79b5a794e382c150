//! How long an answer is believed, how it is revalidated, and how it tells of its age.

use std::time::Duration;

use serde_json::json;

use crate::harness::client::Response;
use crate::harness::disk::wait_for_blob;
use crate::harness::edge::Settings;
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::script::{Fault, Match};
use crate::reads::{V1, blob_path, one_image};

fn freshness(answer: &Response) -> &str {
    answer.header("outport-freshness").unwrap_or_default()
}

fn source(answer: &Response) -> &str {
    answer.header("outport-source").unwrap_or_default()
}

#[tokio::test]
async fn answers_tell_where_they_come_from() {
    let (_origin, mut edge, image) = one_image("").await;
    let first = edge.client.get(V1).await;
    assert_eq!((source(&first), freshness(&first)), ("upstream=origin.test", "fresh"));
    let second = edge.client.get(V1).await;
    assert_eq!((source(&second), freshness(&second)), ("memory", "fresh"));
    let layer = blob_path(&image.blobs[2]);
    let first = edge.client.get(&layer).await;
    assert_eq!((source(&first), freshness(&first)), ("upstream=origin.test", "immutable"));
    wait_for_blob(&edge.data_dir(), image.blobs[2].digest()).await;
    // The file has its name a moment before the edge notes where it came from.
    let mut second = edge.client.get(&layer).await;
    for _ in 0..50 {
        if source(&second) == "disk" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        second = edge.client.get(&layer).await;
    }
    assert_eq!((source(&second), freshness(&second)), ("disk", "immutable"));
    edge.restart().await;
    let third = edge.client.get(V1).await;
    assert_eq!((source(&third), freshness(&third)), ("disk", "fresh"), "a restart costs no upstream request");
    edge.finish().await;
}

#[tokio::test]
async fn a_tag_is_believed_for_its_time_and_then_revalidated_with_head() {
    let (origin, edge, image) = one_image("tag_ttl = \"1s\"").await;
    for _ in 0..10 {
        assert_eq!(edge.client.get(V1).await.status, 200);
        assert_eq!(edge.client.head(V1).await.status, 200);
    }
    assert_eq!(origin.count(&Match::Manifests), 1, "within its time nobody is asked");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = edge.client.clone();
        crowd.spawn(async move { client.get(V1).await });
    }
    for answer in crowd.join_all().await {
        assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes));
        assert!(matches!(freshness(&answer), "revalidated" | "fresh"), "{:?}", answer.head);
    }
    assert_eq!((origin.count(&Match::Manifests.get()), origin.count(&Match::Manifests.head())), (1, 1), "one revalidation, by HEAD");

    let moved = Image::new(2, &[10]);
    origin.push("app", "v1", &moved);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(edge.client.get(V1).await.body, moved.manifest.bytes, "a tag that moved is followed");
    assert_eq!(edge.client.get(&format!("/v2/origin.test/app/manifests/{}", image.digest())).await.body, image.manifest.bytes);
    edge.finish().await;
}

#[tokio::test]
async fn a_tag_that_was_deleted_is_gone_after_its_time() {
    let (origin, edge, image) = one_image("tag_ttl = \"1s\"").await;
    assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes);
    origin.delete_tag("app", "v1");
    assert_eq!(edge.client.get(V1).await.status, 200, "within its time it is believed");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(edge.client.get(V1).await.status, 404);
    assert_eq!(
        edge.client.get(&format!("/v2/origin.test/app/manifests/{}", image.digest())).await.status,
        200,
        "its digest is still there"
    );
    edge.finish().await;
}

#[tokio::test]
async fn an_upstream_without_head_is_revalidated_by_get() {
    let (origin, edge, image) = one_image("tag_ttl = \"0s\"").await;
    origin.script(Match::Manifests.head(), Fault::status(405));
    for _ in 0..3 {
        assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes);
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_stale_answer_carries_a_warning() {
    let (origin, edge, image) = one_image("tag_ttl = \"0s\"").await;
    assert_eq!(edge.client.get(V1).await.header("warning"), None);
    origin.script(Match::Any, Fault::status(500));
    for method in ["GET", "HEAD"] {
        let answer = edge.client.send(method, V1, &[]).await.expect("an answer");
        assert_eq!((answer.status, freshness(&answer)), (200, "stale"), "{method}");
        let warning = answer.header("warning").unwrap_or_default();
        assert!(warning.starts_with("299 - \"stale: ") && warning.ends_with('"'), "{method}: {warning}");
    }
    origin.clear();
    let since = std::time::Instant::now();
    while freshness(&edge.client.get(V1).await) == "stale" {
        assert!(since.elapsed() < Duration::from_secs(15), "it stays stale");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes);
    edge.finish().await;
}

#[tokio::test]
async fn an_absence_is_believed_briefly_and_refresh_ends_it() {
    let origin = Origin::start().await;
    let settings = Settings::new().cache("negative_ttl = \"1s\"").access("anonymous_pull = [\"**\"]\nanonymous_push = [\"**\"]");
    let edge = settings.upstream("origin.test", &origin).start().await;
    let image = Image::new(1, &[5_000]);
    for _ in 0..10 {
        let answer = edge.client.get(V1).await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (404, Some("MANIFEST_UNKNOWN")));
    }
    assert_eq!(origin.count(&Match::Manifests), 1);
    origin.push("app", "v1", &image);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes, "after its time it is asked again");

    let absent = "/v2/origin.test/app/manifests/v2";
    assert_eq!(edge.client.get(absent).await.status, 404);
    origin.push("app", "v2", &image);
    let refreshed = edge.client.post("/outport/v1/refresh", &json!({"image": "origin.test/app:v2"})).await;
    assert_eq!((refreshed.status, refreshed.json()["digest"].as_str()), (200, Some(image.digest())), "{}", refreshed.text());
    assert_eq!(edge.client.get(absent).await.status, 200);

    let moved = Image::new(2, &[10]);
    origin.push("app", "v1", &moved);
    assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes, "within its time a tag is believed");
    let refreshed = edge.client.post("/outport/v1/refresh", &json!({"image": "origin.test/app:v1"})).await;
    assert_eq!(refreshed.json()["digest"].as_str(), Some(moved.digest()), "{}", refreshed.text());
    assert_eq!(edge.client.get(V1).await.body, moved.manifest.bytes);
    edge.finish().await;
}

#[tokio::test]
async fn refresh_is_for_those_who_may_push() {
    let (origin, edge, _) = one_image("").await;
    let answer = edge.client.post("/outport/v1/refresh", &json!({"image": "origin.test/app:v1"})).await;
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}
