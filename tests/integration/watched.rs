//! Images that the configuration keeps on an edge, and what that and every other hit spares the origin.

use std::time::Duration;

use serde_json::Value;

use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Image, index_of};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::regions::{metric, until};

/// The first image of the list, as the edge tells.
async fn watched(edge: &TestEdge) -> Value {
    edge.client.get("/outport/v1/prefetch").await.json()["images"][0].clone()
}

#[tokio::test]
async fn images_are_fetched_once_and_kept_as_their_tag_moves() {
    let (mut origin, image) = (Origin::start().await, Image::new(1, &[300_000, 1_000]));
    origin.push("app", "v1", &image);
    let list = "[[prefetch]]\nimages = [\"origin.test/app:v1\"]\nevery = \"1s\"";
    let edge = Settings::new().upstream_with("origin.test", &origin, "tag_ttl = \"0s\"").table(list).start().await;
    until("it is here", || async { watched(&edge).await["blobs"] == 3 }).await;
    let again = watched(&edge).await["held_ms"].clone();
    until("it is looked at again", || async { watched(&edge).await["held_ms"] != again }).await;
    for blob in &image.blobs {
        assert_eq!(origin.transfers(blob.digest()), 1);
    }
    // The tag moves, and nobody asks for it.
    let moved = Image::new(2, &[400_000]);
    origin.push("app", "v1", &moved);
    until("the new one is here", || async { moved.blobs.iter().all(|blob| origin.transfers(blob.digest()) == 1) }).await;
    until("all of it", || async { watched(&edge).await["blobs"] == 2 }).await;
    origin.stop().await;
    pull(&edge.client, "origin.test/app", "v1", &moved).await.expect("it is served without its origin");
    assert!(metric(&edge, "outport_watched_prefetches_total{outcome=\"held\"}").await >= 3.0);
    assert_eq!(metric(&edge, "outport_watched_images").await, 1.0);
    edge.finish().await;
}

#[tokio::test]
async fn of_an_index_only_the_wanted_platform_is_fetched_and_a_failure_is_told() {
    let origin = Origin::start().await;
    let (amd64, arm64) = (Image::new(1, &[10_000]), Image::new(2, &[10_000]));
    origin.push_index("app", "v1", &index_of(&amd64, &arm64), [&amd64, &arm64]);
    let list = "[[prefetch]]\nimages = [\"origin.test/none:v1\", \"origin.test/app:v1\"]\nplatform = \"linux/arm64\"\nevery = \"1s\"";
    let edge = Settings::new().upstream("origin.test", &origin).table(list).start().await;
    until("one is fetched", || async { arm64.blobs.iter().all(|blob| origin.transfers(blob.digest()) == 1) }).await;
    assert!(amd64.blobs.iter().all(|blob| origin.transfers(blob.digest()) == 0));
    until("the other one failed", || async { watched(&edge).await["failures"].as_u64() > Some(1) }).await;
    let none = watched(&edge).await;
    assert!(none["error"].is_string() && none["held_ms"].is_null(), "{none}");
    assert!(metric(&edge, "outport_watched_prefetches_total{outcome=\"failed\"}").await > 1.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(metric(&edge, "outport_watched_oldest_success_seconds").await >= 1.0);
    edge.finish().await;
}

#[tokio::test]
async fn what_an_upstream_was_spared_is_told() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[300_000, 1_000]));
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).upstream("idle.test", &origin).start().await;
    for _ in 0..4 {
        pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
        // Who joins a transfer reads what comes from the origin.
        until("all of it is here", || async { metric(&edge, "outport_fills_in_flight").await == 0.0 }).await;
    }
    let once: u64 = image.blobs.iter().map(|blob| blob.size_bytes()).sum::<u64>() + image.manifest.bytes.len() as u64;
    let report = edge.client.get("/outport/v1/offload").await.json();
    let of = |name: &str| report["upstreams"].as_array().unwrap().iter().find(|one| one["upstream"] == name).unwrap()["last_day"].clone();
    let spared = of("origin.test");
    assert_eq!(spared["bytes"], 4 * once, "{spared}");
    assert_eq!(spared["upstream_bytes"], once, "{spared}");
    assert_eq!(spared["saved_bytes"], 3 * once, "{spared}");
    assert_eq!(spared["upstream_requests"].as_u64(), Some(origin.requests().len() as u64), "{spared}");
    let ratio = spared["hit_ratio"].as_f64().unwrap();
    assert!((0.7..1.0).contains(&ratio), "{spared}");
    assert_eq!((of("idle.test")["requests"].as_u64(), of("idle.test").get("hit_ratio")), (Some(0), None));
    edge.finish().await;
}
