//! Tags, referrers and the catalogue: sorted, paged, cached, and complete whatever the upstream's pages or interfaces are.

use serde_json::json;

use crate::harness::edge::Settings;
use crate::harness::image::{INDEX, Image};
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;
use crate::harness::script::Match;
use crate::reads::one_image;

#[tokio::test]
async fn tag_lists_are_sorted_paged_and_cached() {
    let (origin, edge, image) = one_image("").await;
    for tag in ["b", "a", "C", "v10", "v2"] {
        origin.push("app", tag, &image);
    }
    let list = "/v2/origin.test/app/tags/list";
    let all = edge.client.get(list).await;
    assert_eq!((all.status, all.json()), (200, json!({"name": "origin.test/app", "tags": ["C", "a", "b", "v1", "v10", "v2"]})));
    assert_eq!(all.header("link"), None);
    let mut next = Some(format!("{list}?n=2"));
    let mut seen = Vec::new();
    while let Some(target) = next {
        let page = edge.client.get(&target).await;
        let tags = page.json()["tags"].as_array().cloned().unwrap_or_default();
        assert!(tags.len() <= 2, "{tags:?}");
        seen.extend(tags);
        next = page.header("link").map(|link| {
            let target = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\"")).expect("a link").0.to_owned();
            assert!(target.starts_with(list), "it leads back to this host: {target}");
            target
        });
    }
    assert_eq!(json!(seen), json!(["C", "a", "b", "v1", "v10", "v2"]));
    let empty = edge.client.get(&format!("{list}?n=0")).await;
    assert_eq!((empty.json()["tags"].clone(), empty.header("link")), (json!([]), None));
    assert_eq!(edge.client.get(&format!("{list}?last=v1")).await.json()["tags"], json!(["v10", "v2"]));
    assert_eq!(edge.client.get(&format!("{list}?last=%F0%9F%98%80zzz")).await.status, 200);
    for n in ["99999999999999999999", "-1", "many"] {
        let answer = edge.client.get(&format!("{list}?n={n}")).await;
        assert!(matches!(answer.status, 200 | 400), "{n}: {}", answer.status);
    }
    assert_eq!(origin.count(&Match::Tags), 1);
    let unknown = edge.client.get("/v2/origin.test/nothing/tags/list").await;
    assert_eq!((unknown.status, unknown.error_code().as_deref()), (404, Some("NAME_UNKNOWN")));
    edge.finish().await;
}

#[tokio::test]
async fn tag_lists_of_many_pages_are_read_to_their_end() {
    let (origin, edge, image) = one_image("").await;
    for number in 0..2_500 {
        origin.push_manifest("app", Some(&format!("t{number:05}")), &image.manifest);
    }
    let tags = edge.client.get("/v2/origin.test/app/tags/list").await.json()["tags"].as_array().map(Vec::len);
    assert_eq!(tags, Some(2_501));
    edge.finish().await;
}

/// Two signatures and an attestation of one image, seen through the edge.
async fn assert_referrers(setup: Setup) {
    let has_api = setup.has_referrers_api;
    let origin = Origin::with(setup).await;
    let image = Image::new(1, &[5_000]);
    origin.push("app", "v1", &image);
    let artifacts: Vec<_> =
        [("application/x-signature", "one"), ("application/x-signature", "two"), ("application/x-attestation", "three")]
            .map(|(artifact_type, content)| Image::artifact(artifact_type, &image.manifest, content))
            .into();
    artifacts.iter().for_each(|artifact| origin.attach("app", artifact));
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    let path = format!("/v2/origin.test/app/referrers/{}", image.digest());
    for _ in 0..3 {
        let answer = edge.client.get(&path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(INDEX)), "{}", answer.text());
        assert_eq!(answer.header("oci-filters-applied"), None);
        let json = answer.json();
        assert_eq!(json["mediaType"], INDEX);
        let mut digests: Vec<_> = json["manifests"].as_array().expect("a list").iter().map(|entry| entry["digest"].clone()).collect();
        digests.sort_by_key(ToString::to_string);
        let mut expected: Vec<_> = artifacts.iter().map(|artifact| json!(artifact.digest())).collect();
        expected.sort_by_key(ToString::to_string);
        assert_eq!(digests, expected);
        assert!(json["manifests"][0]["annotations"]["org.example.content"].is_string(), "{json}");
    }
    let filtered = edge.client.get(&format!("{path}?artifactType=application/x-attestation")).await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    let manifests = filtered.json()["manifests"].clone();
    assert_eq!((manifests.as_array().map(Vec::len), &manifests[0]["digest"]), (Some(1), &json!(artifacts[2].digest())));
    assert_eq!(origin.count(&Match::Referrers), 1);
    assert_eq!(origin.count(&Match::Manifests.get()), usize::from(!has_api));

    let none = edge.client.get(&format!("/v2/origin.test/app/referrers/sha256:{}", "1".repeat(64))).await;
    assert_eq!((none.status, none.json()["manifests"].clone()), (200, json!([])));
    pull(&edge.client, "origin.test/app", artifacts[0].digest(), &artifacts[0]).await.expect("a signature is pulled");
    edge.finish().await;
}

#[tokio::test]
async fn referrers_through_the_api() {
    assert_referrers(Setup::default()).await;
}

#[tokio::test]
async fn referrers_through_the_fallback_tag() {
    assert_referrers(Setup { has_referrers_api: false, ..Setup::default() }).await;
}

#[tokio::test]
async fn the_catalogue_lists_what_is_held() {
    let (origin, edge, image) = one_image("").await;
    origin.push("team/tool", "v1", &image);
    for repository in ["app", "team/tool"] {
        pull(&edge.client, &format!("origin.test/{repository}"), "v1", &image).await.expect("the image");
    }
    let names = edge.client.get("/v2/_catalog").await.json()["repositories"].clone();
    assert_eq!(names, json!(["origin.test/app", "origin.test/team/tool"]));
    let page = edge.client.get("/v2/_catalog?n=1").await;
    assert_eq!(page.json()["repositories"], json!(["origin.test/app"]));
    assert!(page.header("link").is_some_and(|link| link.starts_with("</v2/_catalog?")), "{:?}", page.head);
    edge.finish().await;
}
