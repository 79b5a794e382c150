//! Several regions: what is pushed in one is there in all. One test for each row of the read table in replication.md, then pushes that
//! are spread over regions, copies, and what an acknowledgement promises.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Client, Response};
use crate::harness::image::{Blob, Image};
use crate::harness::pull::pull;
use crate::harness::push::{push, push_blob, push_manifest};
use crate::harness::regions::{Reach, World, metric, until};

const THREE: &[&str] = &["ap", "eu", "us"];
const TWO: &[&str] = &["eu", "us"];

/// So many times what must always be so is tried: a few, or 1,000 with `OUTPORT_FULL`.
fn rounds(few: usize) -> usize {
    if std::env::var_os("OUTPORT_FULL").is_some() { 1_000 } else { few }
}

/// Beyond what travels in the ledger.
const LARGE: u64 = 300_000;

fn image(seed: u64) -> Image {
    Image::new(seed, &[LARGE, 1_000])
}

async fn pulled(client: &Client, repository: &str, tag: &str, image: &Image) {
    pull(client, repository, tag, image).await.unwrap_or_else(|why| panic!("{why}"));
}

fn manifest_path(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

fn blob_path(repository: &str, blob: &Blob) -> String {
    format!("/v2/{repository}/blobs/{}", blob.digest())
}

fn later(answer: &Response) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("UNAVAILABLE")), "{}", answer.text());
    assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait > 0)));
}

/// Pushes a tag and returns the position of its manifest.
async fn push_tag(client: &Client, repository: &str, tag: &str, image: &Image) -> String {
    for blob in &image.blobs {
        push_blob(client, repository, blob).await;
    }
    let answer = push_manifest(client, repository, Some(tag), &image.manifest).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.header("outport-position").expect("a push has a position").to_owned()
}

/// Until a region's own index knows a tag: it is told without any other region's help then.
async fn known_in(world: &World, region: &str, repository: &str, tag: &str) {
    let target = format!("/v2/{repository}/tags/list");
    until(&format!("{repository}:{tag} is known in {region}"), || async {
        let tags = world.client(region).get(&target).await.json()["tags"].clone();
        tags.as_array().is_some_and(|tags| tags.contains(&Value::from(tag)))
    })
    .await;
}

#[tokio::test]
async fn known_and_reachable_is_read_through_whatever_the_region() {
    let world = World::start(THREE, "").await;
    let image = image(1);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    for region in ["us", "ap"] {
        known_in(&world, region, "team/app", "v1").await;
        let large = world.client(region).get(&blob_path("team/app", &image.blobs[1])).await;
        assert_eq!((large.status, large.header("outport-source")), (200, Some("region=eu")));
        pulled(world.client(region), "team/app", "v1", &image).await;
        // Nobody asked for a copy; what was read is cached.
        assert_eq!(world.bucket_bytes(region), 0);
        world.cut_off(region);
        pulled(world.client(region), "team/app", "v1", &image).await;
        world.mend(region);
    }
    world.finish().await;
}

#[tokio::test]
async fn known_and_not_reachable_is_503_until_it_can_be_reached() {
    let world = World::start(TWO, "").await;
    let image = image(2);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    known_in(&world, "us", "team/app", "v1").await;
    world.cut_off("eu");
    let client = world.client("us");
    // What travels in the ledger is there.
    assert_eq!(client.get(&manifest_path("team/app", "v1")).await.body, image.manifest.bytes);
    assert_eq!(client.get(&blob_path("team/app", &image.blobs[2])).await.status, 200);
    later(&client.get(&blob_path("team/app", &image.blobs[1])).await);
    assert_eq!(client.head(&blob_path("team/app", &image.blobs[1])).await.status, 200);
    world.mend("eu");
    until("the blob can be read again", || async { client.get(&blob_path("team/app", &image.blobs[1])).await.status == 200 }).await;
    world.finish().await;
}

#[tokio::test]
async fn unknown_and_denied_by_every_region_is_404_and_remembered() {
    let world = World::start(THREE, "").await;
    let client = world.client("us");
    let ask = |reference: &'static str| async move { client.get(&manifest_path("team/none", reference)).await };
    until("all regions can be asked", || async { ask("warm").await.status == 404 }).await;
    let asked = || metric(world.edge("us"), "outport_region_questions_total{outcome=\"denied\"}");
    let before = asked().await;
    for _ in 0..5 {
        let answer = ask("v1").await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (404, Some("MANIFEST_UNKNOWN")), "{}", answer.text());
    }
    assert_eq!(asked().await - before, 1.0);
    // Pushed meanwhile, it is found once the denial is forgotten at the latest.
    let image = image(3);
    push(world.client("eu"), "team/none", Some("v1"), &image).await;
    let took = until("the name is found", || async { ask("v1").await.status == 200 }).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    world.finish().await;
}

#[tokio::test]
async fn unknown_while_a_region_is_blind_is_503_for_a_pull_and_404_for_a_check_by_who_may_push() {
    let world = World::start(TWO, "").await;
    world.cut_off("eu");
    let (path, blob) = (manifest_path("team/app", "v1"), blob_path("team/app", &Blob::seeded(9, 10)));
    let client = world.client("us");
    for target in [&path, &blob] {
        later(&client.get(target).await);
        assert_eq!(client.head(target).await.status, 404, "{target}");
    }
    later(&client.get("/v2/team/app/tags/list").await);
    world.mend("eu");
    until("the region can tell again", || async { client.get(&path).await.status == 404 }).await;
    world.finish().await;
}

#[tokio::test]
async fn a_new_name_is_there_in_every_region_with_the_201() {
    let world = World::start(THREE, "").await;
    for number in 0..rounds(20) {
        let (image, tag) = (image(10_000 + number as u64), format!("v{number}"));
        let (from, to) = (THREE[number % 3], THREE[(number + 1) % 3]);
        push(world.client(from), "team/new", Some(&tag), &image).await;
        pulled(world.client(to), "team/new", &tag, &image).await;
        let repository = format!("team/new-{number}");
        push(world.client(from), &repository, Some("v1"), &image).await;
        pulled(world.client(to), &repository, "v1", &image).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_moved_tag_is_there_at_its_position_at_once_and_without_one_soon() {
    let world = World::start(THREE, "").await;
    let first = image(200);
    push(world.client("eu"), "team/app", Some("latest"), &first).await;
    known_in(&world, "us", "team/app", "latest").await;
    let path = manifest_path("team/app", "latest");
    for number in 0..rounds(15) {
        let image = image(20_000 + number as u64);
        let (from, to) = (THREE[number % 3], THREE[(number + 1) % 3]);
        let position = push_tag(world.client(from), "team/app", "latest", &image).await;
        assert!(position.starts_with(&format!("{from}.")), "{position}");
        let answer = world.client(to).get_with(&path, &[("Outport-Position", &position)]).await;
        assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes), "{position}: {}", answer.text());
        // Waiting takes time: not each time when there are many.
        if number % (rounds(15) / 15) != 0 {
            continue;
        }
        let third = THREE[(number + 2) % 3];
        let took = until("the tag moves everywhere", || async { world.client(third).get(&path).await.body == image.manifest.bytes }).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_position_that_cannot_be_reached_is_503_and_one_that_cannot_be_read_is_400() {
    let world = World::start(TWO, "").await;
    let (first, second) = (image(300), image(301));
    push(world.client("eu"), "team/app", Some("latest"), &first).await;
    known_in(&world, "us", "team/app", "latest").await;
    world.cut_off("us");
    let position = push_tag(world.client("eu"), "team/app", "latest", &second).await;
    let path = manifest_path("team/app", "latest");
    assert_eq!(world.client("us").get(&path).await.body, first.manifest.bytes);
    let asked = Instant::now();
    later(&world.client("us").get_with(&path, &[("Outport-Position", &position)]).await);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    world.mend("us");
    until("the position is reached", || async {
        world.client("us").get_with(&path, &[("Outport-Position", &position)]).await.body == second.manifest.bytes
    })
    .await;
    assert_eq!(world.client("us").get_with(&path, &[("Outport-Position", "nonsense")]).await.status, 400);
    world.finish().await;
}

#[tokio::test]
async fn lists_tell_what_other_regions_have() {
    let world = World::start(TWO, "").await;
    until("regions see each other", || async { world.client("us").get("/v2/none/tags/list").await.status == 404 }).await;
    let image = image(400);
    push(world.client("eu"), "team/listed", Some("v1"), &image).await;
    let tags = world.client("us").get("/v2/team/listed/tags/list").await;
    assert_eq!(tags.json()["tags"], serde_json::json!(["v1"]), "{}", tags.text());
    let signature = Image::artifact("application/x-signature", &image.manifest, "signed");
    push(world.client("eu"), "team/other", None, &signature).await;
    let referrers = world.client("us").get(&format!("/v2/team/other/referrers/{}", image.digest())).await;
    assert_eq!(referrers.json()["manifests"][0]["digest"], Value::from(signature.digest()), "{}", referrers.text());
    push(world.client("eu"), "team/third", Some("v1"), &image).await;
    let catalog = world.client("us").get("/v2/_catalog").await.json();
    assert!(catalog["repositories"].as_array().is_some_and(|names| names.contains(&Value::from("team/third"))), "{catalog}");
    world.finish().await;
}

#[tokio::test]
async fn a_push_is_spread_over_regions() {
    let world = World::start(THREE, "").await;
    for number in 0..rounds(15) {
        let image = image(50_000 + number as u64);
        // Each blob elsewhere, and the manifest where none of the large ones is.
        for (at, blob) in image.blobs.iter().enumerate() {
            push_blob(world.client(THREE[(number + at) % 3]), "team/split", blob).await;
        }
        for blob in &image.blobs {
            let there = world.client(THREE[(number + 2) % 3]).head(&blob_path("team/split", blob)).await;
            assert_eq!(there.status, 200, "{}", blob.digest());
        }
        let region = THREE[(number + 2) % 3];
        // On a machine that is busy with all these regions a disk may be too slow; who pushes tries again, and is never told of a blob that
        // is not there.
        until("the push is taken", || async {
            let answer = push_manifest(world.client(region), "team/split", Some("v1"), &image.manifest).await;
            assert!([201, 503].contains(&answer.status), "in {region}: {}", answer.text());
            answer.status == 201
        })
        .await;
        pulled(world.client(region), "team/split", "v1", &image).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_push_whose_blobs_may_be_in_a_blind_region_is_503_and_one_whose_are_nowhere_is_refused() {
    let world = World::start(TWO, "").await;
    let image = image(600);
    until("regions see each other", || async { world.client("us").get("/v2/none/tags/list").await.status == 404 }).await;
    let answer = push_manifest(world.client("us"), "team/split", Some("v1"), &image.manifest).await;
    assert_eq!((answer.status, answer.error_code().as_deref()), (404, Some("MANIFEST_BLOB_UNKNOWN")), "{}", answer.text());
    world.cut_off("eu");
    for blob in &image.blobs {
        push_blob(world.client("eu"), "team/split", blob).await;
    }
    later(&push_manifest(world.client("us"), "team/split", Some("v1"), &image.manifest).await);
    // What needs no other region goes on.
    push(world.client("us"), "team/own", Some("v1"), &image).await;
    world.mend("eu");
    until("the push is taken", || async {
        push_manifest(world.client("us"), "team/split", Some("v1"), &image.manifest).await.status == 201
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_blob_of_another_region_is_mounted() {
    let world = World::start(TWO, "").await;
    let image = image(700);
    push(world.client("eu"), "team/base", Some("v1"), &image).await;
    let layer = &image.blobs[1];
    let target = format!("/v2/team/derived/blobs/uploads/?mount={}&from=team/base", layer.digest());
    let mounted = world.client("us").send_with("POST", &target, &[], b"").await;
    assert_eq!(mounted.status, 201, "{}", mounted.text());
    let read = world.client("us").get(&blob_path("team/derived", layer)).await;
    assert_eq!((read.status, read.body), (200, layer.bytes()));
    world.finish().await;
}

#[tokio::test]
async fn what_is_deleted_in_one_region_stays_deleted_in_all() {
    let world = World::start(TWO, "").await;
    let image = image(800);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    // Deleted where it was never seen.
    let deleted = world.client("us").send_with("DELETE", &manifest_path("team/app", "v1"), &[], b"").await;
    assert_eq!(deleted.status, 202, "{}", deleted.text());
    assert_eq!(world.client("us").get(&manifest_path("team/app", "v1")).await.status, 404);
    until("it is gone there too", || async { world.client("eu").get(&manifest_path("team/app", "v1")).await.status == 404 }).await;
    world.finish().await;
}

#[tokio::test]
async fn a_region_is_followed_and_read_from_its_store_alone() {
    let world = World::start_reaching(TWO, "", Reach::Stores).await;
    for number in 0..5 {
        let (image, tag) = (image(900 + number), format!("v{number}"));
        push(world.client("eu"), "team/stored", Some(&tag), &image).await;
        pulled(world.client("us"), "team/stored", &tag, &image).await;
    }
    assert_eq!(world.client("us").get(&manifest_path("team/stored", "none")).await.status, 404);
    world.finish().await;
}

/// Copies that a region made, from wherever.
async fn copies(world: &World, region: &str) -> f64 {
    let mut made = 0.0;
    for from in THREE {
        made += metric(world.edge(region), &format!("outport_copies_total{{outcome=\"complete\",region=\"{from}\"}}")).await;
    }
    made
}

#[tokio::test]
async fn contents_are_copied_as_the_policy_says() {
    let tables = "[[hosted]]\npattern = \"all/**\"\nreplicate = \"all\"\n[[hosted]]\npattern = \"one/**\"\nreplicate = 1";
    let world = World::start(THREE, tables).await;
    let everywhere = image(1000);
    push(world.client("eu"), "all/app", Some("v1"), &everywhere).await;
    for region in ["us", "ap"] {
        known_in(&world, region, "all/app", "v1").await;
        until(&format!("{region} has a copy"), || async { copies(&world, region).await == 1.0 }).await;
    }
    world.cut_off("eu");
    for region in ["us", "ap"] {
        let large = world.client(region).get(&blob_path("all/app", &everywhere.blobs[1])).await;
        assert_eq!(large.status, 200, "{region}");
        pulled(world.client(region), "all/app", "v1", &everywhere).await;
    }
    world.mend("eu");
    let before = [world.bucket_bytes("us"), world.bucket_bytes("ap")];
    for number in 0..4 {
        push(world.client("eu"), "one/app", Some("v1"), &Image::new(1001 + number, &[LARGE])).await;
    }
    push(world.client("eu"), "lazy/app", Some("v1"), &Image::new(1010, &[LARGE])).await;
    let copied = || world.bucket_bytes("us") + world.bucket_bytes("ap") - before.iter().sum::<u64>();
    until("each content has one copy", || async { copied() == 4 * LARGE }).await;
    let pending = || metric(world.edge("eu"), "outport_oldest_unreplicated_push_seconds{what=\"bytes\"}");
    until("nothing waits to be copied", || async { pending().await == 0.0 }).await;
    assert_eq!(copied(), 4 * LARGE);
    world.finish().await;
}

#[tokio::test]
async fn an_acknowledged_push_is_held_by_another_region_and_else_it_is_not_acknowledged() {
    let tables = "[[hosted]]\npattern = \"safe/**\"\nacknowledge = { regions = 1 }";
    let world = World::start(THREE, tables).await;
    let first = image(1100);
    push(world.client("eu"), "safe/app", Some("v1"), &first).await;
    world.cut_off("eu");
    let mut held = 0;
    for region in ["us", "ap"] {
        let answers = [&first.blobs[1], &first.blobs[2]].map(|blob| blob_path("safe/app", blob));
        let mut whole = true;
        for target in &answers {
            whole &= world.client(region).get(target).await.status == 200;
        }
        held += usize::from(whole);
    }
    assert!(held >= 1, "no other region holds it");
    // Cut off, it is committed and not acknowledged; a push that is repeated waits again.
    let second = image(1101);
    for blob in &second.blobs {
        push_blob(world.client("eu"), "safe/app", blob).await;
    }
    let refused = push_manifest(world.client("eu"), "safe/app", Some("v2"), &second.manifest).await;
    later(&refused);
    assert!(refused.text().contains("committed here, not yet held by 1 other region"), "{}", refused.text());
    assert_eq!(world.client("eu").get(&manifest_path("safe/app", "v2")).await.status, 200);
    world.mend("eu");
    let repeated = push_manifest(world.client("eu"), "safe/app", Some("v2"), &second.manifest).await;
    assert_eq!(repeated.status, 201, "{}", repeated.text());
    world.finish().await;
}

#[tokio::test]
async fn lag_is_told_and_never_nothing_while_blind() {
    let world = World::start(TWO, "").await;
    push(world.client("eu"), "team/app", Some("v1"), &image(1200)).await;
    known_in(&world, "us", "team/app", "v1").await;
    let behind = || metric(world.edge("us"), "outport_peer_behind_seconds{region=\"eu\"}");
    until("nothing is behind", || async { behind().await == 0.0 }).await;
    assert!(metric(world.edge("us"), "outport_visible_lag_seconds_count{region=\"eu\"}").await > 0.0);
    world.cut_off("us");
    until("it is known to be blind", || async { behind().await > 0.0 }).await;
    for _ in 0..20 {
        assert!(behind().await >= 1.0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    push(world.client("eu"), "team/app", Some("v2"), &image(1201)).await;
    let unseen = || metric(world.edge("eu"), "outport_oldest_unreplicated_push_seconds{what=\"metadata\"}");
    until("the push is known to be nowhere else", || async { unseen().await > 0.0 }).await;
    world.mend("us");
    until("nothing is behind again", || async { behind().await == 0.0 }).await;
    known_in(&world, "us", "team/app", "v2").await;
    world.finish().await;
}
