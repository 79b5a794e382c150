//! Repositories with a home: one region sets their tags and takes them away, whichever region is asked to.

use tokio::join;

use crate::harness::client::{Client, Response};
use crate::harness::image::Image;
use crate::harness::push::{push_blob, push_manifest};
use crate::harness::regions::{Reach, World, metric, until};

const TWO: &[&str] = &["eu", "us"];
const HOME_IS_EU: &str = "[[hosted]]\npattern = \"team/**\"\nhome = \"eu\"";

fn image(seed: u64) -> Image {
    Image::new(seed, &[2_000])
}

fn manifest_path(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// Regions that see each other.
async fn world(tables: &str) -> World {
    let world = World::start(TWO, tables).await;
    for region in TWO {
        let denied = || async { world.client(region).get("/v2/none/tags/list").await.status == 404 };
        until(&format!("{region} sees the other"), denied).await;
    }
    world
}

async fn push_blobs(client: &Client, repository: &str, image: &Image) {
    for blob in &image.blobs {
        push_blob(client, repository, blob).await;
    }
}

/// Pushes an image under a tag; the answer is that of the manifest.
async fn push_tag(client: &Client, repository: &str, tag: &str, image: &Image) -> Response {
    push_blobs(client, repository, image).await;
    push_manifest(client, repository, Some(tag), &image.manifest).await
}

fn done_in(region: &str, status: u16, answer: &Response) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let position = answer.header("outport-position").expect("what is done has a position");
    assert!(position.starts_with(&format!("{region}.")), "{position}");
}

fn home_is_away(answer: &Response) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("UNAVAILABLE")), "{}", answer.text());
    assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait > 0)));
    assert!(answer.text().contains("its home, region eu"), "{}", answer.text());
}

#[tokio::test]
async fn names_change_in_the_home_and_are_seen_at_once_where_they_were_pushed() {
    let world = world(HOME_IS_EU).await;
    let [eu, us] = TWO else { unreachable!("two regions") };
    for number in 0..6 {
        let (image, region) = (image(number), [us, eu][number as usize % 2]);
        let answer = push_tag(world.client(region), "team/app", "latest", &image).await;
        done_in("eu", 201, &answer);
        assert_eq!(answer.header("location"), Some("/v2/team/app/manifests/latest"));
        // It moved, and is the new one here with the answer.
        let read = world.client(region).get(&manifest_path("team/app", "latest")).await;
        assert_eq!(read.body, image.manifest.bytes, "in {region}");
        for other in TWO {
            let is_seen = || async { world.client(other).get(&manifest_path("team/app", "latest")).await.body == image.manifest.bytes };
            until(&format!("the tag is seen in {other}"), is_seen).await;
        }
    }
    let image = image(5);
    let client = world.client("us");
    // By digest with tags besides, and by digest alone.
    let target = format!("{}?tag=v1&tag=v2", manifest_path("team/app", image.digest()));
    let typed = [("Content-Type", &*image.manifest.media_type)];
    let answer = client.send_with("PUT", &target, &typed, &image.manifest.bytes).await;
    done_in("eu", 201, &answer);
    done_in("us", 201, &push_manifest(client, "team/app", None, &image.manifest).await);
    for tag in ["v1", "v2"] {
        assert_eq!(client.get(&manifest_path("team/app", tag)).await.body, image.manifest.bytes);
    }
    done_in("eu", 202, &client.send_with("DELETE", &manifest_path("team/app", "v1"), &[], b"").await);
    assert_eq!(client.get(&manifest_path("team/app", "v1")).await.status, 404);
    done_in("eu", 202, &client.send_with("DELETE", &manifest_path("team/app", image.digest()), &[], b"").await);
    for region in TWO {
        let is_gone = || async { world.client(region).get(&manifest_path("team/app", "v2")).await.status == 404 };
        until(&format!("the manifest is gone in {region}"), is_gone).await;
    }
    // What the home refuses, it refuses whoever passes it on.
    let unknown = client.send_with("DELETE", &manifest_path("team/app", "none"), &[], b"").await;
    assert_eq!((unknown.status, unknown.error_code().as_deref()), (404, Some("MANIFEST_UNKNOWN")), "{}", unknown.text());
    // Other repositories have none.
    done_in("us", 201, &push_tag(client, "other/app", "v1", &image).await);
    world.finish().await;
}

#[tokio::test]
async fn regions_that_push_a_tag_at_once_never_conflict() {
    let world = world(HOME_IS_EU).await;
    for number in 0..10 {
        let images = [image(100 + number), image(200 + number)];
        let (eu, us) = (world.client("eu"), world.client("us"));
        push_blobs(eu, "team/app", &images[0]).await;
        push_blobs(us, "team/app", &images[1]).await;
        let (first, second) = join!(
            push_manifest(eu, "team/app", Some("latest"), &images[0].manifest),
            push_manifest(us, "team/app", Some("latest"), &images[1].manifest)
        );
        done_in("eu", 201, &first);
        done_in("eu", 201, &second);
        let read = |region: &'static str| world.client(region).get("/v2/team/app/manifests/latest");
        let agree = || async { read("eu").await.body == read("us").await.body };
        until("both regions tell the same", agree).await;
    }
    // Where regions set a tag for themselves, there is one.
    world.cut_off("us");
    for (region, seed) in [("eu", 300), ("us", 301)] {
        done_in(region, 201, &push_tag(world.client(region), "other/app", "latest", &image(seed)).await);
    }
    world.mend("us");
    for region in TWO {
        let conflicts = || async { metric(world.edge(region), "outport_tag_conflicts").await };
        until(&format!("the one conflict is counted in {region}"), || async { conflicts().await > 0.0 }).await;
        assert_eq!(conflicts().await, 1.0, "{region}");
    }
    world.finish().await;
}

#[tokio::test]
async fn without_the_home_tags_wait_and_digests_go_on() {
    let world = world(HOME_IS_EU).await;
    let (first, second) = (image(400), image(401));
    done_in("eu", 201, &push_tag(world.client("us"), "team/app", "v1", &first).await);
    world.cut_off("eu");
    let us = world.client("us");
    push_blobs(us, "team/app", &second).await;
    home_is_away(&push_manifest(us, "team/app", Some("v1"), &second.manifest).await);
    let tagged = format!("{}?tag=v2", manifest_path("team/app", second.digest()));
    home_is_away(&us.send_with("PUT", &tagged, &[("Content-Type", &*second.manifest.media_type)], &second.manifest.bytes).await);
    for reference in ["v1", first.digest()] {
        home_is_away(&us.send_with("DELETE", &manifest_path("team/app", reference), &[], b"").await);
    }
    done_in("us", 201, &push_manifest(us, "team/app", None, &second.manifest).await);
    assert_eq!(us.get(&manifest_path("team/app", second.digest())).await.body, second.manifest.bytes);
    assert_eq!(us.get(&manifest_path("team/app", "v1")).await.body, first.manifest.bytes);
    // The home needs nobody.
    done_in("eu", 201, &push_tag(world.client("eu"), "team/app", "v3", &first).await);
    world.mend("eu");
    until("the home is reached", || async { push_manifest(us, "team/app", Some("v1"), &second.manifest).await.status == 201 }).await;
    assert_eq!(us.get(&manifest_path("team/app", "v1")).await.body, second.manifest.bytes);
    world.finish().await;
}

#[tokio::test]
async fn a_home_whose_edges_are_not_known_is_away() {
    let world = World::start_reaching(TWO, HOME_IS_EU, Reach::Stores).await;
    let image = image(500);
    home_is_away(&push_tag(world.client("us"), "team/app", "v1", &image).await);
    done_in("us", 201, &push_manifest(world.client("us"), "team/app", None, &image.manifest).await);
    done_in("eu", 201, &push_tag(world.client("eu"), "team/app", "v1", &image).await);
    world.finish().await;
}

#[tokio::test]
async fn what_was_passed_on_is_not_passed_on_again() {
    // Each takes the other for the home.
    let other = |name: &str| if name == "eu" { "us" } else { "eu" };
    let tables = |name: &str| format!("[[hosted]]\npattern = \"team/**\"\nhome = \"{}\"", other(name));
    let world = World::start_each(TWO, tables, Reach::Edges).await;
    let image = image(600);
    push_blobs(world.client("us"), "team/app", &image).await;
    // The answer is the other region's, which would have passed it back.
    let answer = push_manifest(world.client("us"), "team/app", Some("v1"), &image.manifest).await;
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("UNAVAILABLE")), "{}", answer.text());
    assert!(answer.text().contains("its home, region us"), "{}", answer.text());
    world.finish().await;
}
