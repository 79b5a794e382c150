//! Whoever runs a registry, or has a repository, cannot claim what others have by naming its digest (hardening row 82).

use std::time::Duration;

use serde_json::json;

use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Blob, Image};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

/// Longer than an edge takes to serve what it has.
const A_WHILE: Duration = Duration::from_secs(1);

/// An edge that holds an image of `origin.test`, and `evil.test`, which says yes to every HEAD about its content.
async fn claimed() -> (TestEdge, Origin, Origin, Image) {
    let (origin, evil, image) = (Origin::start().await, Origin::start().await, Image::new(1, &[5_000, 300_000]));
    origin.push("app", "v1", &image);
    evil.push_untagged("x", &image);
    let settings = Settings::new().limits("deadline = \"2s\"").upstream("origin.test", &origin).upstream("evil.test", &evil);
    let edge = settings.start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    (edge, origin, evil, image)
}

#[tokio::test]
async fn row_82_a_yes_to_head_gives_no_bytes_of_another_upstream() {
    let (edge, _origin, evil, image) = claimed().await;
    evil.script(Match::Blobs.get(), Fault::WrongBytes);
    for blob in &image.blobs {
        let path = format!("/v2/evil.test/x/blobs/{}", blob.digest());
        assert_eq!(edge.client.head(&path).await.status, 200, "its word is all that HEAD passes on");
        let got = edge.client.try_get(&path).await;
        assert!(got.as_ref().map_or(true, |answer| answer.status != 200), "{got:?}");
        assert!(evil.transfers(blob.digest()) > 0, "it has to bring the bytes itself");
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_82_a_transfer_that_only_begins_gives_no_bytes_of_another_upstream() {
    let (edge, _origin, evil, image) = claimed().await;
    evil.script(Match::Blobs.get(), Fault::StallAfter(10));
    let blob = &image.blobs[2];
    let path = format!("/v2/evil.test/x/blobs/{}", blob.digest());
    let begun = edge.client.open("GET", &path, &[]).await;
    let second = tokio::time::timeout(A_WHILE, edge.client.try_get(&path)).await;
    assert!(!matches!(&second, Ok(Ok(answer)) if answer.status == 200), "{second:?}");
    drop(begun);
    edge.finish().await;
}

#[tokio::test]
async fn row_82_a_refresh_gives_no_manifest_of_another_upstream() {
    let (edge, _origin, evil, image) = claimed().await;
    evil.script(Match::Manifests.get(), Fault::status(500));
    let question = json!({ "image": format!("evil.test/x@{}", image.digest()) });
    let refreshed = edge.client.post("/outport/v1/refresh", &question).await;
    assert_ne!(refreshed.status, 200, "{}", refreshed.text());
    assert_ne!(edge.client.get(&format!("/v2/evil.test/x/manifests/{}", image.digest())).await.status, 200);
    edge.finish().await;
}

/// Two repositories of one upstream, of which only `owner` has the blob.
async fn neighbours() -> (TestEdge, Origin, Blob) {
    let (origin, blob) = (Origin::start().await, Blob::seeded(9, 3_000_000));
    origin.push_blob("owner", &blob);
    origin.push("stranger", "v1", &Image::new(2, &[10]));
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    (edge, origin, blob)
}

#[tokio::test]
async fn row_82_a_transfer_for_one_repository_is_not_joined_through_another() {
    let (edge, origin, blob) = neighbours().await;
    origin.script(Match::blob(blob.digest()).get(), Fault::Slow(3_000_000));
    let mut owner = edge.client.open("GET", &format!("/v2/origin.test/owner/blobs/{}", blob.digest()), &[]).await.expect("a head");
    let stranger = edge.client.get(&format!("/v2/origin.test/stranger/blobs/{}", blob.digest())).await;
    assert_eq!(stranger.status, 404);
    assert_eq!(owner.compare(&blob, 0).await.expect("a whole body").bytes, blob.size_bytes());
    edge.finish().await;
}

#[tokio::test]
async fn a_no_to_one_repository_is_no_answer_to_another() {
    let (edge, origin, blob) = neighbours().await;
    origin.script(Match::repository("stranger"), Fault::DelayHead(A_WHILE));
    let (client, path) = (edge.client.clone(), format!("/v2/origin.test/stranger/blobs/{}", blob.digest()));
    let stranger = tokio::spawn(async move { client.get(&path).await.status });
    tokio::time::sleep(A_WHILE / 4).await;
    let owner = edge.client.get(&format!("/v2/origin.test/owner/blobs/{}", blob.digest())).await;
    assert_eq!((owner.status, owner.body.len() as u64), (200, blob.size_bytes()), "{}", owner.status);
    assert_eq!(stranger.await.expect("an answer"), 404);
    edge.finish().await;
}
