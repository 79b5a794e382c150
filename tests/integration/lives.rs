//! The lives of a region: declared lost while it was only cut off, it begins anew and loses nothing; set back to an old backup, it takes
//! no pushes until an operator begins the new incarnation; and it leaves when others have what only it had.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::image::Image;
use crate::harness::pull::pull;
use crate::harness::push::{push, push_manifest};
use crate::harness::regions::{World, until};

const THREE: &[&str] = &["ap", "eu", "us"];
/// Beyond what travels in the ledger.
const LARGE: u64 = 300_000;

fn image(seed: u64) -> Image {
    Image::new(seed, &[LARGE, 1_000])
}

/// `outport region ...` with the configuration of a region's edge.
fn region(world: &World, of: &str, arguments: &[&str]) -> Output {
    let config = world.edge(of).config_path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outport"));
    command.arg("--config").arg(config).arg("region").args(arguments);
    command.output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Whether a push is acknowledged.
async fn takes_push(client: &Client, tag: &str, image: &Image) -> bool {
    for blob in &image.blobs {
        let target = format!("/v2/team/app/blobs/uploads/?digest={}", blob.digest());
        if client.send_with("POST", &target, &[("Content-Type", "application/octet-stream")], &blob.bytes()).await.status != 201 {
            return false;
        }
    }
    push_manifest(client, "team/app", Some(tag), &image.manifest).await.status == 201
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_declared_lost_begins_anew_and_loses_nothing() {
    let mut world = World::start(THREE, "").await;
    push(world.client("eu"), "team/app", Some("before"), &image(1)).await;
    for other in ["ap", "us"] {
        let client = world.client(other);
        until("the push is everywhere", || async { pull(client, "team/app", "before", &image(1)).await.is_ok() }).await;
    }
    world.cut_off("eu");
    push(world.client("eu"), "team/app", Some("apart"), &image(2)).await;
    let told = region(&world, "us", &["lost", "eu"]);
    assert_eq!(told.status.code(), Some(64), "without --yes nothing is done: {}", text(&told));
    let done = region(&world, "us", &["lost", "eu", "--yes"]);
    assert!(done.status.success(), "{}", text(&done));
    world.mend("eu");
    // It hears of it, takes no pushes, and its edge ends to start again.
    let mut superseded = world.edge("eu").superseded();
    tokio::time::timeout(Duration::from_secs(60), superseded.wait()).await.expect("it begins anew");
    world.restart("eu").await;
    for region in THREE {
        let client = world.client(region);
        for (tag, seed) in [("before", 1), ("apart", 2)] {
            until(&format!("{tag} is pulled in {region}"), || async { pull(client, "team/app", tag, &image(seed)).await.is_ok() }).await;
        }
    }
    until("it takes pushes again", || async { takes_push(world.client("eu"), "after", &image(3)).await }).await;
    until("and they are followed", || async { pull(world.client("ap"), "team/app", "after", &image(3)).await.is_ok() }).await;
    let listed = region(&world, "us", &["list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_else(|_| panic!("{}", text(&listed)));
    let standings: Vec<&str> = listed["regions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["region"] == "eu")
        .filter_map(|row| row["standing"].as_str())
        .collect();
    assert_eq!(standings, ["lost", "joined"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_set_back_takes_no_pushes_until_it_begins_anew() {
    let mut world = World::start(&["eu", "us"], "").await;
    push(world.client("eu"), "team/app", Some("old"), &image(1)).await;
    until("old is followed", || async { pull(world.client("us"), "team/app", "old", &image(1)).await.is_ok() }).await;
    let backup = world.edge("eu").data_dir().join("backup");
    copy_folder(&world.edge("eu").data_dir().join("bucket"), &backup);
    push(world.client("eu"), "team/app", Some("new"), &image(2)).await;
    until("new is followed", || async {
        let client = world.client("us");
        let answer = client.get("/v2/team/app/tags/list").await.json();
        answer["tags"].as_array().is_some_and(|tags| tags.len() == 2)
    })
    .await;
    until("new is there as a whole", || async { pull(world.client("us"), "team/app", "new", &image(2)).await.is_ok() }).await;
    world
        .restart_after("eu", |data_dir| {
            std::fs::remove_dir_all(data_dir.join("bucket")).unwrap();
            copy_folder(&data_dir.join("backup"), &data_dir.join("bucket"));
        })
        .await;
    until("it takes no pushes", || async { !takes_push(world.client("eu"), "refused", &image(3)).await }).await;
    let told = region(&world, "eu", &["renew"]);
    assert!(text(&told).contains("others have seen segment"), "{}", text(&told));
    let done = region(&world, "eu", &["renew", "--yes"]);
    assert!(done.status.success(), "{}", text(&done));
    world.restart("eu").await;
    until("it takes pushes again", || async { takes_push(world.client("eu"), "after", &image(4)).await }).await;
    for region in ["eu", "us"] {
        let client = world.client(region);
        for (tag, seed) in [("old", 1), ("after", 4)] {
            until(&format!("{tag} is pulled in {region}"), || async { pull(client, "team/app", tag, &image(seed)).await.is_ok() }).await;
        }
        // Its bytes are gone from eu's bucket; us had pulled it.
        let answer = client.get("/v2/team/app/tags/list").await.json();
        assert!(answer["tags"].as_array().unwrap().iter().any(|tag| tag == "new"), "{region}: {answer}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_leaves_when_others_have_what_only_it_had() {
    let world = World::start(&["eu", "us"], "").await;
    push(world.client("eu"), "team/app", Some("v1"), &image(1)).await;
    until("it is known elsewhere", || async { world.client("us").get("/v2/team/app/tags/list").await.status == 200 }).await;
    assert_eq!(world.bucket_bytes("us"), 0, "lazy repositories are not copied");
    let joined = region(&world, "us", &["join", "--timeout", "30s"]);
    assert!(joined.status.success(), "{}", text(&joined));
    let done = region(&world, "eu", &["leave", "--yes", "--timeout", "60s"]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(world.bucket_bytes("us") >= LARGE);
    world.cut_off("eu");
    pull(world.client("us"), "team/app", "v1", &image(1)).await.unwrap();
    world.finish().await;
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
