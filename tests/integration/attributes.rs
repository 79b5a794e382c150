//! `/acr/v1`: what there is of repositories, tags and manifests, in pages and in order, and deleting a repository whole.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::{Client, Response};
use crate::harness::edge::Settings;
use crate::harness::image::{Image, index_of};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::push::{push, push_manifest};
use crate::harness::regions::until;

const NAME: &str = "team/app";

async fn get(client: &Client, path: &str) -> Value {
    let answer = client.get(&format!("/acr/v1/{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Response {
    client.send_with(method, &format!("/acr/v1/{path}"), &[("Content-Type", "application/json")], body.to_string().as_bytes()).await
}

/// All pages of a list, as Azure's clients follow them: the names in each.
async fn pages(client: &Client, path: &str, list: &str, name: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(format!("/acr/v1/{path}")));
    while let Some(target) = next.take() {
        let answer = client.get(&target).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let names =
            answer.json()[list].as_array().expect("a list").iter().map(|item| item[name].as_str().unwrap_or("?").to_owned()).collect();
        pages.push(names);
        next = answer.header("link").map(|link| link[1..link.find('>').expect("a link")].to_owned());
        assert!(pages.len() < 20, "{path} has no end");
    }
    pages
}

#[tokio::test]
async fn a_hosted_repository_is_told_and_listed() {
    let edge = Settings::new().open_to_pushes().start().await;
    let client = &edge.client;
    let images: Vec<Image> = (0..3).map(|seed| Image::new(20 + seed, &[2_000, 30_000])).collect();
    // Set in another order than that of their names.
    for (tag, image) in [("b", &images[0]), ("c", &images[1]), ("a", &images[2])] {
        push(client, NAME, Some(tag), image).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let index = index_of(&images[0], &images[1]);
    assert_eq!(push_manifest(client, NAME, Some("index"), &index).await.status, 201);
    let told = get(client, NAME).await;
    assert_eq!((&told["imageName"], &told["manifestCount"], &told["tagCount"]), (&json!(NAME), &json!(4), &json!(4)));
    assert_eq!(told["registry"], json!(client.address().to_string()));
    let all = json!({"deleteEnabled": true, "writeEnabled": true, "readEnabled": true, "listEnabled": true});
    assert_eq!(told["changeableAttributes"], all);
    assert!(told["createdTime"].as_str() <= told["lastUpdateTime"].as_str() && told["createdTime"].as_str().unwrap().ends_with('Z'));
    // A name whose slashes are encoded, as Azure's clients send it.
    assert_eq!(get(client, "team%2Fapp").await, told);
    let tag = get(client, "team%2Fapp/_tags/b").await["tag"].clone();
    assert_eq!((&tag["name"], &tag["digest"]), (&json!("b"), &json!(images[0].digest())));
    let manifest = get(client, &format!("team%2Fapp/_manifests/{}", images[0].digest().replace(':', "%3A"))).await["manifest"].clone();
    let size: u64 = images[0].blobs.iter().map(|blob| blob.size_bytes()).sum();
    for (name, value) in [
        ("architecture", json!("amd64")),
        ("os", json!("linux")),
        ("imageSize", json!(size)),
        ("mediaType", json!(images[0].manifest.media_type)),
        ("configMediaType", json!("application/vnd.oci.image.config.v1+json")),
        ("tags", json!(["b"])),
    ] {
        assert_eq!(manifest[name], value, "{name}: {manifest}");
    }
    let manifest = get(client, &format!("{NAME}/_manifests/{}", index.digest)).await["manifest"].clone();
    assert_eq!(manifest["references"][1], json!({"digest": images[1].digest(), "architecture": "arm64", "os": "linux"}));
    // Lists in every order and in pages.
    for (query, expected) in [
        ("", vec![vec!["a", "b", "c", "index"]]),
        ("?n=3", vec![vec!["a", "b", "c"], vec!["index"]]),
        ("?n=2&orderby=timeasc", vec![vec!["b", "c"], vec!["a", "index"]]),
        ("?n=3&orderby=timedesc", vec![vec!["index", "a", "c"], vec!["b"]]),
        ("?last=b&orderby=none", vec![vec!["c", "index"]]),
        (&format!("?digest={}", images[1].digest()), vec![vec!["c"]]),
    ] {
        assert_eq!(pages(client, &format!("{NAME}/_tags{query}"), "tags", "name").await, expected, "{query}");
    }
    let mut digests: Vec<String> = images.iter().map(|image| image.digest().to_owned()).chain([index.digest.clone()]).collect();
    let in_time: Vec<String> = digests.clone();
    digests.sort();
    assert_eq!(pages(client, &format!("{NAME}/_manifests?n=1"), "manifests", "digest").await.concat(), digests);
    assert_eq!(pages(client, &format!("{NAME}/_manifests?n=3&orderby=timeasc"), "manifests", "digest").await.concat(), in_time);
    for (path, status) in [
        ("none/here", 404),
        ("none/here/_tags", 404),
        ("none/here/_manifests", 404),
        ("team/app/_tags/none", 404),
        ("team/app/_tags?orderby=size", 400),
        ("team/app/_tags?n=-1", 400),
    ] {
        assert_eq!(client.get(&format!("/acr/v1/{path}")).await.status, status, "{path}");
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_repository_is_deleted_whole() {
    let edge = Settings::new().open_to_pushes().start().await;
    let client = &edge.client;
    let images: Vec<Image> = (0..4).map(|seed| Image::new(30 + seed, &[1_000])).collect();
    for image in &images {
        push(client, NAME, Some(&format!("v-{}", &image.digest()[7..12])), image).await;
    }
    // An index that needs two of them, and one above it.
    let index = index_of(&images[0], &images[1]);
    assert_eq!(push_manifest(client, NAME, Some("index"), &index).await.status, 201);
    push(client, "team/other", Some("v1"), &images[0]).await;
    let answer = client.send_with("DELETE", &format!("/acr/v1/{NAME}"), &[], b"").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert!(answer.header("outport-position").is_some());
    let told = answer.json();
    assert_eq!((told["manifestsDeleted"].as_array().unwrap().len(), told["tagsDeleted"].as_array().unwrap().len()), (5, 5), "{told}");
    for path in [format!("/acr/v1/{NAME}"), format!("/v2/{NAME}/tags/list"), format!("/v2/{NAME}/manifests/index")] {
        assert_eq!(client.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(client.send_with("DELETE", &format!("/acr/v1/{NAME}"), &[], b"").await.status, 404);
    pull(client, "team/other", "v1", &images[0]).await.expect("what another repository has stays");
    push(client, NAME, Some("v1"), &images[0]).await;
    assert_eq!(get(client, NAME).await["tagCount"], json!(1));
    edge.finish().await;
}

#[tokio::test]
async fn of_an_upstreams_repository_is_told_what_is_held_here_and_nothing_is_changed() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("owner.password"), "secret").expect("a writable folder");
    let (origin, image) = (Origin::start().await, Image::new(40, &[2_000]));
    for tag in ["v1", "never-asked-for"] {
        origin.push("lib/tool", tag, &image);
    }
    let table = format!("[[principal]]\nname = \"owner\"\npassword_files = [\"{}/owner.password\"]", folder.path().display());
    let role = "[[role]]\nrole = \"Contributor\"\nprincipals = [\"owner\"]";
    let edge = Settings::new().upstream("origin.test", &origin).table(&table).table(role).start().await;
    let (client, name) = (edge.client.clone().with_basic("owner", "secret"), "origin.test/lib/tool");
    assert_eq!(client.get(&format!("/acr/v1/{name}")).await.status, 404, "nothing is held yet");
    pull(&client, name, "v1", &image).await.expect("a pull");
    // Nobody is asked for any of it.
    origin.blackhole();
    // The configuration counts as held a moment after its last byte was served; until then its platform is left out.
    let first = async || get(&client, &format!("{name}/_manifests")).await["manifests"][0].clone();
    until("the configuration is held", async || first().await["architecture"] == json!("amd64")).await;
    let told = get(&client, name).await;
    assert_eq!((&told["imageName"], &told["manifestCount"], &told["tagCount"]), (&json!(name), &json!(1), &json!(1)), "{told}");
    assert_eq!(told["changeableAttributes"]["writeEnabled"], json!(false));
    assert_eq!(pages(&client, &format!("{name}/_tags?orderby=timedesc"), "tags", "name").await, [["v1"]]);
    let manifest = first().await;
    assert_eq!((&manifest["digest"], &manifest["tags"]), (&json!(image.digest()), &json!(["v1"])), "{manifest}");
    let tag = get(&client, "lib%2Ftool/_tags/v1?ns=origin.test").await;
    assert_eq!(tag["tag"]["digest"], json!(image.digest()));
    for (method, path) in [
        ("PATCH", name.to_owned()),
        ("PATCH", format!("{name}/_tags/v1")),
        ("PATCH", format!("{name}/_manifests/{}", image.digest())),
        ("DELETE", name.to_owned()),
        ("DELETE", format!("{name}/_tags/v1")),
    ] {
        let answer = send(&client, method, &path, &json!({"writeEnabled": false})).await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (405, Some("UNSUPPORTED")), "{method} {path}: {}", answer.text());
    }
    edge.finish().await;
}

#[tokio::test]
async fn attributes_are_for_those_who_may() {
    let edge = Settings::new()
        .access("anonymous_pull = [\"canary.test/**\"]")
        .pusher("ci", "[\"team/*\"]", "[]")
        .pusher("stranger", "[\"else/*\"]", "[]")
        .pusher("owner", "[]", "[]")
        .table("[[role]]\nrole = \"Contributor\"\nprincipals = [\"owner\"]")
        .start()
        .await;
    let by = |user: &str| edge.client.clone().with_basic(user, "secret");
    let (owner, ci, stranger, nobody) = (by("owner"), by("ci"), by("stranger"), edge.client.clone());
    push(&owner, NAME, Some("v1"), &Image::new(50, &[1_000])).await;
    let change = json!({"writeEnabled": false});
    for path in [NAME.to_owned(), format!("{NAME}/_tags/v1"), format!("{NAME}/_tags"), format!("{NAME}/_manifests")] {
        let told = |client: Client| {
            let path = path.clone();
            async move { client.get(&format!("/acr/v1/{path}")).await.status }
        };
        let all = [told(owner.clone()).await, told(ci.clone()).await, told(stranger.clone()).await, told(nobody.clone()).await];
        assert_eq!(all, [200, 200, 404, 401], "{path}");
    }
    for (client, patched, deleted) in [(&nobody, 401, 401), (&stranger, 404, 404), (&ci, 403, 403)] {
        assert_eq!(send(client, "PATCH", NAME, &change).await.status, patched);
        assert_eq!(send(client, "PATCH", &format!("{NAME}/_tags/v1"), &change).await.status, patched);
        assert_eq!(send(client, "DELETE", NAME, &change).await.status, deleted);
    }
    // Row 82: what is denied is as what is absent.
    let (denied, absent) = (stranger.get(&format!("/acr/v1/{NAME}")).await, owner.get("/acr/v1/none/here").await);
    assert_eq!((denied.status, denied.body), (absent.status, absent.body));
    // Row 74: a body with anything else in it.
    for body in [json!({"writeEnabled": false, "owner": "me"}), json!([]), json!({"writeEnabled": "no"})] {
        assert_eq!(send(&owner, "PATCH", NAME, &body).await.status, 400, "{body}");
    }
    assert_eq!(owner.send_with("PATCH", &format!("/acr/v1/{NAME}"), &[], b"{}").await.status, 415);
    assert_eq!(get(&owner, "_catalog").await["repositories"], json!([NAME]));
    assert_eq!(get(&stranger, "_catalog").await["repositories"], json!([]));
    edge.finish().await;
}
