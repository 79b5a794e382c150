//! Locks, set through `/acr/v1`: what they forbid by every route and in every region (row 62).

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::{Client, Response};
use crate::harness::edge::Settings;
use crate::harness::image::{Blob, Image};
use crate::harness::push::{push, push_blob, push_manifest};
use crate::harness::regions::{World, until};

const TWO: [&str; 2] = ["eu", "us"];
const NAME: &str = "team/app";

/// One who may change attributes, in a folder that lives as long as the test.
fn owner_table(folder: &TempDir) -> String {
    let file = folder.path().join("owner.password");
    std::fs::write(&file, "secret").expect("a writable folder");
    let principal = format!("[[principal]]\nname = \"owner\"\npassword_files = [\"{}\"]", file.display());
    format!("{principal}\n[[role]]\nrole = \"Contributor\"\nprincipals = [\"owner\"]")
}

fn owner(client: &Client) -> Client {
    client.without_headers().with_basic("owner", "secret")
}

async fn patch(client: &Client, path: &str, changes: Value) -> Response {
    let typed = [("Content-Type", "application/json")];
    owner(client).send_with("PATCH", &format!("/acr/v1/{path}"), &typed, changes.to_string().as_bytes()).await
}

/// Regions that see each other, with these tables besides their own.
async fn regions(tables: &str) -> World {
    let world = World::start(&TWO, tables).await;
    for region in TWO {
        let denied = || async { world.client(region).get("/v2/none/tags/list").await.status == 404 };
        until(&format!("{region} sees the other"), denied).await;
    }
    world
}

/// It is locked, and says so.
async fn locked(client: &Client, path: &str, changes: Value) -> Response {
    let answer = patch(client, path, changes.clone()).await;
    assert_eq!(answer.status, 200, "{path} {changes}: {}", answer.text());
    let told = answer.json();
    let attributes = [&told["tag"], &told["manifest"], &told].into_iter().find_map(|of| of.get("changeableAttributes"));
    for (name, value) in changes.as_object().expect("changes") {
        assert_eq!(attributes.map(|of| &of[name]), Some(value), "{path}: {told}");
    }
    answer
}

fn denied(answer: &Response, what: &str) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (403, Some("DENIED")), "{what}: {}", answer.text());
}

async fn delete(client: &Client, path: &str) -> Response {
    client.send_with("DELETE", path, &[], b"").await
}

fn typed(image: &Image) -> [(&str, &str); 1] {
    [("Content-Type", &image.manifest.media_type)]
}

/// By no route is a tag made something else or taken away. The other image's blobs are there.
async fn refuses_every_route(client: &Client, tag: &str, image: &Image, other: &Image) {
    let by_tag = push_manifest(client, NAME, Some(tag), &other.manifest).await;
    denied(&by_tag, "PUT by tag");
    let by_digest = format!("/v2/{NAME}/manifests/{}?tag=free&tag={tag}", other.digest());
    denied(&client.send_with("PUT", &by_digest, &typed(other), &other.manifest.bytes).await, "PUT by digest with ?tag=");
    assert_eq!(client.get(&format!("/v2/{NAME}/manifests/free")).await.status, 404, "all or nothing");
    denied(&delete(client, &format!("/v2/{NAME}/manifests/{tag}")).await, "DELETE by tag");
    denied(&delete(client, &format!("/v2/{NAME}/manifests/{}", image.digest())).await, "DELETE by digest");
    denied(&delete(client, &format!("/acr/v1/{NAME}/_tags/{tag}")).await, "DELETE by /acr/v1");
    denied(&delete(client, &format!("/acr/v1/{NAME}")).await, "DELETE of the repository");
    // A blob may come; it makes no tag another.
    let blob = &other.blobs[0];
    let mount = format!("/v2/{NAME}/blobs/uploads/?mount={}&from=other/app", blob.digest());
    assert_eq!(client.send_with("POST", &mount, &[], b"").await.status, 201);
    let read = client.get(&format!("/v2/{NAME}/manifests/{tag}")).await;
    assert_eq!((read.status, &read.body), (200, &image.manifest.bytes));
    // The same again is no change.
    assert_eq!(push_manifest(client, NAME, Some(tag), &image.manifest).await.status, 201);
}

#[tokio::test]
async fn row_62_a_locked_tag_is_changed_by_no_route_at_home_and_in_every_region() {
    let folder = TempDir::new().expect("a folder");
    let world = regions(&owner_table(&folder)).await;
    let (image, other) = (Image::new(1, &[2_000]), Image::new(2, &[2_000]));
    let [eu, us] = TWO.map(|region| world.client(region));
    push(eu, NAME, Some("release"), &image).await;
    for client in [eu, us] {
        push(client, "other/app", Some("v1"), &other).await;
    }
    for blob in &other.blobs {
        push_blob(eu, NAME, blob).await;
    }
    let lock = json!({"writeEnabled": false, "deleteEnabled": false});
    let answer = locked(eu, &format!("{NAME}/_tags/release"), lock).await;
    assert!(answer.header("outport-position").is_some_and(|at| at.starts_with("eu.")), "{:?}", answer.head);
    refuses_every_route(eu, "release", &image, &other).await;
    let tag_of = |client: &Client| {
        let client = owner(client);
        async move { client.get(&format!("/acr/v1/{NAME}/_tags/release")).await.json()["tag"].clone() }
    };
    until("us has the lock", || async { tag_of(us).await["changeableAttributes"]["writeEnabled"] == false }).await;
    refuses_every_route(us, "release", &image, &other).await;
    // Either alone keeps it from being deleted; what may be written moves.
    for (changes, is_moved) in
        [(json!({"writeEnabled": true, "deleteEnabled": false}), true), (json!({"writeEnabled": false, "deleteEnabled": true}), false)]
    {
        locked(eu, &format!("{NAME}/_tags/release"), changes.clone()).await;
        denied(&delete(eu, &format!("/v2/{NAME}/manifests/release")).await, "DELETE by tag");
        let moved = push_manifest(eu, NAME, Some("release"), &other.manifest).await;
        assert_eq!(moved.status == 201, is_moved, "{changes}: {}", moved.text());
        push_manifest(eu, NAME, Some("release"), &image.manifest).await;
    }
    // Unlocked there, it is free here.
    locked(us, &format!("{NAME}/_tags/release"), json!({"writeEnabled": true, "deleteEnabled": true})).await;
    until("eu has heard of it", || async { delete(eu, &format!("/v2/{NAME}/manifests/release")).await.status == 202 }).await;
    world.finish().await;
}

#[tokio::test]
async fn row_62_a_lock_beats_what_another_region_did_before_it_knew() {
    let folder = TempDir::new().expect("a folder");
    let world = regions(&owner_table(&folder)).await;
    let (image, other) = (Image::new(3, &[2_000]), Image::new(4, &[2_000]));
    let [eu, us] = TWO.map(|region| world.client(region));
    for tag in ["moved", "deleted", "gone"] {
        push(eu, NAME, Some(tag), &image).await;
    }
    let reads = |client: &Client, tag: &str| {
        let (client, target) = (client.clone(), format!("/v2/{NAME}/manifests/{tag}"));
        async move { client.get(&target).await.body }
    };
    until("us has all tags", || async { reads(us, "gone").await == image.manifest.bytes }).await;
    world.cut_off("us");
    for tag in ["moved", "deleted"] {
        locked(eu, &format!("{NAME}/_tags/{tag}"), json!({"writeEnabled": false})).await;
    }
    push(us, NAME, Some("moved"), &other).await;
    assert_eq!(delete(us, &format!("/v2/{NAME}/manifests/deleted")).await.status, 202);
    assert_eq!(delete(us, &format!("/v2/{NAME}/manifests/{}", image.digest())).await.status, 202);
    world.mend("us");
    for client in [eu, us] {
        let gone = || async { client.get(&format!("/v2/{NAME}/manifests/gone")).await.status == 404 };
        until("what was not locked is gone", gone).await;
        for tag in ["moved", "deleted"] {
            until(tag, || async { reads(client, tag).await == image.manifest.bytes }).await;
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn row_62_where_a_repository_has_a_home_its_locks_are_set_there() {
    let folder = TempDir::new().expect("a folder");
    let tables = format!("{}\n[[hosted]]\npattern = \"team/**\"\nhome = \"eu\"", owner_table(&folder));
    let world = regions(&tables).await;
    let (image, other) = (Image::new(5, &[2_000]), Image::new(6, &[2_000]));
    let [eu, us] = TWO.map(|region| world.client(region));
    push(us, NAME, Some("release"), &image).await;
    for client in [eu, us] {
        push(client, "other/app", Some("v1"), &other).await;
        for blob in &other.blobs {
            push_blob(client, NAME, blob).await;
        }
    }
    let answer = locked(us, &format!("{NAME}/_tags/release"), json!({"writeEnabled": false})).await;
    assert!(answer.header("outport-position").is_some_and(|at| at.starts_with("eu.")), "{:?}", answer.head);
    for client in [us, eu] {
        refuses_every_route(client, "release", &image, &other).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn row_62_a_locked_repository_takes_nothing_and_a_locked_manifest_stays() {
    let folder = TempDir::new().expect("a folder");
    let edge = Settings::new().open_to_pushes().table(&owner_table(&folder)).start().await;
    let (client, image, other) = (&edge.client, Image::new(7, &[2_000]), Image::new(8, &[2_000]));
    push(client, NAME, Some("v1"), &image).await;
    push(client, "other/app", Some("v1"), &other).await;
    // Deleting is forbidden by either, and its tags are free.
    locked(client, &format!("{NAME}/_manifests/{}", image.digest()), json!({"deleteEnabled": false})).await;
    for path in [format!("/v2/{NAME}/manifests/{}", image.digest()), format!("/acr/v1/{NAME}")] {
        denied(&delete(client, &path).await, &path);
    }
    push_manifest(client, NAME, Some("spare"), &image.manifest).await;
    assert_eq!(delete(client, &format!("/acr/v1/{NAME}/_tags/spare")).await.status, 202);
    locked(client, &format!("{NAME}/_manifests/{}", image.digest()), json!({"deleteEnabled": true})).await;
    // What the repository's own lock forbids.
    locked(client, NAME, json!({"writeEnabled": false})).await;
    denied(&push_manifest(client, NAME, Some("v2"), &image.manifest).await, "a new tag");
    denied(&delete(client, &format!("/v2/{NAME}/manifests/v1")).await, "an old tag");
    denied(&delete(client, &format!("/acr/v1/{NAME}")).await, "the whole");
    let blob = &other.blobs[1];
    let mount = format!("/v2/{NAME}/blobs/uploads/?mount={}&from=other/app", blob.digest());
    let begun = client.send_with("POST", &mount, &[], b"").await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let target = format!("{}&digest={}", begun.header("location").expect("a session"), blob.digest());
    denied(&client.send_with("PUT", &target, &[("Content-Type", "application/octet-stream")], &blob.bytes()).await, "a blob");
    denied(&patch(client, &format!("{NAME}/_tags/v1"), json!({"listEnabled": false})).await, "attributes of a tag");
    assert_eq!(push_manifest(client, NAME, Some("v1"), &image.manifest).await.status, 201, "the same again");
    locked(client, NAME, json!({"writeEnabled": true})).await;
    push(client, NAME, Some("v2"), &other).await;
    edge.finish().await;
}

#[tokio::test]
async fn what_must_not_be_read_is_refused_and_what_is_not_listed_is_left_out() {
    let folder = TempDir::new().expect("a folder");
    let edge = Settings::new().open_to_pushes().table(&owner_table(&folder)).start().await;
    let (client, image, other) = (&edge.client, Image::new(9, &[2_000]), Image::new(10, &[2_000]));
    for tag in ["a", "b"] {
        push(client, NAME, Some(tag), &image).await;
    }
    push(client, NAME, Some("c"), &other).await;
    let by = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    let status = |target: String| async move { client.get(&target).await.status };
    // A tag is one name among others.
    locked(client, &format!("{NAME}/_tags/a"), json!({"readEnabled": false, "listEnabled": false})).await;
    denied(&client.get(&by("a")).await, "a tag");
    assert_eq!(client.head(&by("a")).await.status, 403);
    assert_eq!((status(by("b")).await, status(by(image.digest())).await), (200, 200));
    assert_eq!(client.get(&format!("/v2/{NAME}/tags/list")).await.json()["tags"], json!(["b", "c"]));
    let listed = client.get(&format!("/acr/v1/{NAME}/_tags")).await.json();
    assert_eq!(listed["tags"].as_array().expect("a list").len(), 2, "{listed}");
    // It can still be seen by who asks for it.
    assert_eq!(status(format!("/acr/v1/{NAME}/_tags/a")).await, 200);
    locked(client, &format!("{NAME}/_tags/a"), json!({"readEnabled": true, "listEnabled": true})).await;
    // A manifest is locked under every name, also where blobs are.
    locked(client, &format!("{NAME}/_manifests/{}", image.digest()), json!({"readEnabled": false, "listEnabled": false})).await;
    for target in [by("a"), by("b"), by(image.digest()), format!("/v2/{NAME}/blobs/{}", image.digest())] {
        denied(&client.get(&target).await, &target);
    }
    assert_eq!(status(by("c")).await, 200);
    let listed = client.get(&format!("/acr/v1/{NAME}/_manifests")).await.json();
    assert_eq!(listed["manifests"].as_array().map(|all| all.len()), Some(1), "{listed}");
    // A repository is locked with all that is in it, also for a mount.
    let blob: &Blob = &other.blobs[0];
    locked(client, NAME, json!({"readEnabled": false, "listEnabled": false})).await;
    for target in [by("c"), by(other.digest()), format!("/v2/{NAME}/blobs/{}", blob.digest())] {
        denied(&client.get(&target).await, &target);
        assert_eq!(client.head(&target).await.status, 403, "{target}");
    }
    for from in [format!("&from={NAME}"), String::new()] {
        let mount = format!("/v2/thief/app/blobs/uploads/?mount={}{from}", blob.digest());
        assert_eq!(client.send_with("POST", &mount, &[], b"").await.status, 202, "{mount}");
    }
    for catalog in ["/v2/_catalog", "/acr/v1/_catalog"] {
        assert_eq!(client.get(catalog).await.json()["repositories"], json!([]), "{catalog}");
    }
    edge.finish().await;
}
