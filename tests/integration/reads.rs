//! What clients read, and what of it costs an upstream request: the promises of protocol.md, "Reading" and "Filling the cache".

use std::time::Duration;

use serde_json::json;

use crate::harness::client::{Client, Response};
use crate::harness::disk::wait_for_blob;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Blob, INDEX, Image, MANIFEST, Manifest, index_of};
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

const MIB: u64 = 1 << 20;

/// An edge before an origin with one image of a small and a large layer, as `app:v1`.
async fn one_image(lines: &str) -> (Origin, TestEdge, Image) {
    let origin = Origin::start().await;
    let image = Image::new(1, &[5_000, 2 * MIB]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream_with("origin.test", &origin, lines).start().await;
    (origin, edge, image)
}

const V1: &str = "/v2/origin.test/app/manifests/v1";

fn blob_path(blob: &Blob) -> String {
    format!("/v2/origin.test/app/blobs/{}", blob.digest())
}

fn freshness(answer: &Response) -> &str {
    answer.header("outport-freshness").unwrap_or_default()
}

fn source(answer: &Response) -> &str {
    answer.header("outport-source").unwrap_or_default()
}

#[tokio::test]
async fn three_ways_of_addressing_are_one_content_and_one_transfer() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[5_000, 2 * MIB]);
    origin.push("library/alpine", "v1", &image);
    let edge = Settings::new().upstream_with("docker.io", &origin, "hosts = [\"hub.example.com\"]").start().await;
    let layer = image.blobs[2].digest();
    let ways: [(&str, &str, &str); 7] = [
        ("library/alpine", "?ns=docker.io", "edge"),
        ("library/alpine", "?ns=docker.io:443", "edge"),
        ("alpine", "?ns=docker.io", "edge"),
        ("docker.io/library/alpine", "", "edge"),
        ("docker.io/alpine", "", "edge:5000"),
        ("library/alpine", "", "hub.example.com"),
        ("alpine", "", "HUB.example.com:8443"),
    ];
    for (name, query, host) in ways {
        let client = edge.client.clone().with("Host", host);
        let manifest = client.get(&format!("/v2/{name}/manifests/v1{query}")).await;
        assert_eq!((manifest.status, &manifest.body), (200, &image.manifest.bytes), "{name}{query} at {host}");
        let blob = client.get(&format!("/v2/{name}/blobs/{layer}{query}")).await;
        assert_eq!((blob.status, blob.body), (200, image.blobs[2].bytes()), "{name}{query} at {host}");
        let echoed = query.strip_prefix("?ns=");
        assert_eq!(manifest.header("oci-namespace"), echoed.map(|_| "docker.io"), "{name}{query} at {host}");
    }
    assert_eq!((origin.count(&Match::Manifests.get()), origin.transfers(layer)), (1, 1));
    edge.finish().await;
}

#[tokio::test]
async fn row_75_a_namespace_is_a_key_and_never_an_address() {
    let (origin, edge, _) = one_image("").await;
    let address = origin.address();
    for ns in [
        "unknown.example.com".to_owned(),
        address.to_string(),
        format!("user@{address}"),
        "user@origin.test".into(),
        "2130706433".into(),
        String::new(),
        "origin.test/x".into(),
        "origin.test%00".into(),
    ] {
        let answer = edge.client.get(&format!("/v2/app/manifests/v1?ns={ns}")).await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (404, Some("NAME_UNKNOWN")), "{ns}");
    }
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

#[tokio::test]
async fn what_no_upstream_claims_reaches_no_upstream() {
    let (origin, edge, image) = one_image("").await;
    for path in ["/v2/app/manifests/v1", "/v2/team/app/tags/list", &format!("/v2/app/blobs/{}", image.blobs[1].digest())] {
        assert_eq!(edge.client.get(path).await.status, 404, "{path}");
    }
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

#[tokio::test]
async fn a_head_on_a_manifest_says_what_a_get_would() {
    let (origin, edge, image) = one_image("").await;
    for warm in [false, true] {
        for reference in ["v1", image.digest()] {
            let head = edge.client.head(&format!("/v2/origin.test/app/manifests/{reference}")).await;
            assert_eq!(head.status, 200, "{reference}");
            assert_eq!(head.header("docker-content-digest"), Some(image.digest()), "{reference}");
            assert_eq!(head.header("content-length"), Some(image.manifest.bytes.len().to_string().as_str()), "{reference}");
            assert_eq!(head.header("content-type"), Some(MANIFEST), "{reference}");
        }
        if !warm {
            assert_eq!(edge.client.get(V1).await.body, image.manifest.bytes);
        }
    }
    assert!(origin.count(&Match::Manifests.get()) <= 1);
    let head = edge.client.head(&blob_path(&image.blobs[1])).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("5000")));
    assert_eq!(head.header("docker-content-digest"), Some(image.blobs[1].digest()));
    edge.finish().await;
}

#[tokio::test]
async fn a_manifest_digest_asked_among_blobs_is_found_among_manifests() {
    let (_origin, edge, image) = one_image("").await;
    assert_eq!(edge.client.get(&format!("/v2/origin.test/app/blobs/{}", image.digest())).await.status, 404);
    let answer = edge.client.get(&format!("/v2/origin.test/app/manifests/{}", image.digest())).await;
    assert_eq!((answer.status, answer.body), (200, image.manifest.bytes));
    edge.finish().await;
}

#[tokio::test]
async fn bytes_and_type_are_returned_exactly_and_without_coding() {
    let (origin, edge, image) = one_image("").await;
    let odd = Manifest::raw(
        MANIFEST,
        format!("{{\n\t\"schemaVersion\" : 2, \"mediaType\": \"{MANIFEST}\",\r\n \"layers\":[] , \"x\":\"é\"}}\n\n"),
    );
    origin.push_manifest("app", Some("odd"), &odd);
    for (path, bytes) in
        [("manifests/odd".to_owned(), odd.bytes.clone()), (format!("blobs/{}", image.blobs[2].digest()), image.blobs[2].bytes())]
    {
        let client = edge.client.clone().with("Accept-Encoding", "zstd, gzip, br");
        for accept in ["*/*", INDEX, "application/vnd.docker.distribution.manifest.v1+json"] {
            let answer = client.get_with(&format!("/v2/origin.test/app/{path}"), &[("Accept", accept)]).await;
            assert_eq!((answer.status, answer.header("content-encoding"), &answer.body), (200, None, &bytes), "{path} {accept}");
        }
    }
    assert_eq!(edge.client.get("/v2/origin.test/app/manifests/odd").await.header("content-type"), Some(MANIFEST));
    assert_eq!(origin.count(&Match::manifest("odd").get()), 1, "a manifest is cached by its digest, whatever Accept said");
    for logged in origin.requests() {
        assert!(logged.header("accept-encoding").is_none_or(|coding| coding == "identity"), "{:?}", logged.headers);
    }
    edge.finish().await;
}

/// The answers to ranges are the same wherever the bytes come from.
async fn assert_ranges(client: &Client, blob: &Blob) {
    let (path, whole, size) = (blob_path(blob), blob.bytes(), blob.size_bytes());
    let exact = [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, size),
        ("bytes=-7", size - 7, size),
        ("bytes=-99999999999", 0, size),
        ("bytes=10-99999999999", 10, size),
    ];
    for (range, from, to) in exact {
        let answer = client.get_with(&path, &[("Range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), Some(format!("bytes {from}-{}/{size}", to - 1).as_str()), "{range}");
        assert_eq!(answer.header("content-length"), Some((to - from).to_string().as_str()), "{range}");
        assert_eq!(answer.body, whole.slice(from as usize..to as usize), "{range}");
    }
    for range in [format!("bytes={size}-"), format!("bytes={size}-{size}"), "bytes=99999999999-".into(), "bytes=-0".into()] {
        let answer = client.get_with(&path, &[("Range", &range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (416, Some(format!("bytes */{size}").as_str())), "{range}");
    }
    for range in ["bytes=5-2", "bytes=a-b", "bytes=", "lines=1-2", "bytes=99999999999999999999999-", "bytes=1", "bytes=--5"] {
        let answer = client.get_with(&path, &[("Range", range)]).await;
        assert!(answer.status == 200 && answer.body == whole || answer.status == 416, "{range}: {}", answer.status);
    }
}

#[tokio::test]
async fn rows_31_to_34_ranges_of_a_cached_blob() {
    let (_origin, edge, image) = one_image("").await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for blob in &image.blobs[1..] {
        wait_for_blob(&edge.data_dir(), blob.digest()).await;
        assert_ranges(&edge.client, blob).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_33_a_thousand_overlapping_ranges_are_not_amplified() {
    let (_origin, edge, image) = one_image("").await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    let ranges = format!("bytes={}", vec!["0-1000000"; 1000].join(","));
    let answer = edge.client.get_with(&blob_path(&image.blobs[2]), &[("Range", &ranges)]).await;
    assert!(matches!(answer.status, 200 | 416), "{}", answer.status);
    assert!(answer.body.len() as u64 <= 2 * MIB);
    edge.finish().await;
}

#[tokio::test]
async fn row_35_a_range_of_a_cold_blob() {
    let (origin, edge, image) = one_image("").await;
    let blob = &image.blobs[2];
    origin.script(Match::Blobs, Fault::Slow(4 * MIB));
    let answer = edge.client.get_with(&blob_path(blob), &[("Range", "bytes=1000000-1000099")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 1000000-1000099/2097152")));
    assert_eq!(answer.body, blob.bytes().slice(1_000_000..1_000_100));
    let whole = edge.client.get(&blob_path(blob)).await;
    assert_eq!((whole.status, whole.body), (200, blob.bytes()), "a fragment is never taken for the whole");
    wait_for_blob(&edge.data_dir(), blob.digest()).await;
    assert_ranges(&edge.client, blob).await;
    assert_eq!(origin.transfers(blob.digest()), 1);
    edge.finish().await;
}

#[tokio::test]
async fn a_range_of_a_cold_blob_does_not_wait_for_what_is_behind_it() {
    let (origin, edge, image) = one_image("").await;
    origin.script(Match::Blobs, Fault::StallAfter(MIB));
    let answer = edge.client.get_with(&blob_path(&image.blobs[2]), &[("Range", "bytes=0-99")]).await;
    assert_eq!((answer.status, answer.body.len()), (206, 100));
    edge.finish().await;
}

#[tokio::test]
async fn a_parallel_pull_in_open_ended_ranges_that_are_closed_early() {
    let (origin, edge, image) = one_image("").await;
    let blob = &image.blobs[2];
    origin.script(Match::Blobs, Fault::Slow(8 * MIB));
    let quarter = blob.size_bytes() / 4;
    let mut parts = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (client, blob) = (edge.client.clone(), blob.clone());
        parts.spawn(async move {
            let from = number * quarter;
            let mut exchange = client.open("GET", &blob_path(&blob), &[("Range", &format!("bytes={from}-"))]).await.expect("a head");
            assert_eq!(exchange.status, 206);
            let mut got = 0;
            while got < quarter {
                let part = exchange.next().await.expect("bytes");
                assert!(blob.matches(from + got, &part));
                got += part.len() as u64;
            }
        });
    }
    parts.join_all().await;
    assert_eq!(origin.transfers(blob.digest()), 1);
    edge.finish().await;
}

#[tokio::test]
async fn row_36_conditional_requests() {
    let (origin, edge, image) = one_image("").await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for path in [V1.to_owned(), blob_path(&image.blobs[2])] {
        let etag = edge.client.head(&path).await.header("etag").expect("an entity tag").to_owned();
        for condition in [etag.as_str(), "*", &format!("\"x\", W/{etag}")] {
            let answer = edge.client.get_with(&path, &[("If-None-Match", condition)]).await;
            assert_eq!((answer.status, answer.body.len(), answer.header("etag")), (304, 0, Some(etag.as_str())), "{path} {condition}");
        }
        assert_eq!(edge.client.get_with(&path, &[("If-None-Match", "\"x\"")]).await.status, 200, "{path}");
    }
    let path = blob_path(&image.blobs[2]);
    let etag = edge.client.head(&path).await.header("etag").expect("an entity tag").to_owned();
    for (condition, status) in [(etag.as_str(), 206), ("\"x\"", 200), ("Mon, 23 Nov 2026 00:00:00 GMT", 200)] {
        let answer = edge.client.get_with(&path, &[("Range", "bytes=0-9"), ("If-Range", condition)]).await;
        assert_eq!(answer.status, status, "{condition}");
    }
    assert_eq!(origin.transfers(image.blobs[2].digest()), 1);
    edge.finish().await;
}

#[tokio::test]
async fn no_status_line_before_the_upstreams_first_byte() {
    let (origin, edge, image) = one_image("read_timeout = \"500ms\"").await;
    origin.script(Match::Blobs, Fault::StallAfter(0));
    for blob in &image.blobs[1..] {
        let answer = edge.client.get(&blob_path(blob)).await;
        assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    }
    edge.finish().await;
}

#[tokio::test]
async fn the_first_byte_goes_out_when_it_arrives() {
    let (origin, edge, image) = one_image("read_timeout = \"3s\"").await;
    origin.script(Match::Blobs, Fault::StallAfter(MIB));
    let mut exchange = edge.client.open("GET", &blob_path(&image.blobs[2]), &[]).await.expect("a head");
    assert!(exchange.head_after < Duration::from_secs(1), "{:?}", exchange.head_after);
    let mut got = 0;
    while got < MIB - 64 * 1024 {
        let part = tokio::time::timeout(Duration::from_secs(2), exchange.next()).await.expect("what has come is passed on").expect("bytes");
        assert!(image.blobs[2].matches(got, &part));
        got += part.len() as u64;
    }
    drop(exchange);
    edge.finish().await;
}

#[tokio::test]
async fn a_blob_without_a_length_is_served_and_cached() {
    let (origin, edge, image) = one_image("").await;
    origin.script(Match::Blobs.get(), Fault::WithoutLength);
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for blob in &image.blobs[1..] {
        wait_for_blob(&edge.data_dir(), blob.digest()).await;
        assert_eq!(edge.client.head(&blob_path(blob)).await.header("content-length"), Some(blob.size_bytes().to_string().as_str()));
        assert_eq!(origin.transfers(blob.digest()), 1);
    }
    assert_ranges(&edge.client, &image.blobs[2]).await;
    edge.finish().await;
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
    let second = edge.client.get(&layer).await;
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

#[tokio::test]
async fn an_index_and_its_platforms() {
    let origin = Origin::start().await;
    let (amd64, arm64) = (Image::new(1, &[5_000]), Image::new(2, &[6_000]));
    let index = index_of(&amd64, &arm64);
    origin.push_index("app", "v1", &index, [&amd64, &arm64]);
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    let answer = edge.client.get(V1).await;
    assert_eq!((answer.header("content-type"), &answer.body), (Some(INDEX), &index.bytes));
    for image in [&amd64, &arm64] {
        let answer = edge.client.get(&format!("/v2/origin.test/app/manifests/{}", image.digest())).await;
        assert_eq!((answer.header("content-type"), &answer.body), (Some(MANIFEST), &image.manifest.bytes));
        for blob in &image.blobs {
            assert_eq!(edge.client.get(&blob_path(blob)).await.body, blob.bytes());
        }
    }
    edge.finish().await;
}

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

#[tokio::test]
async fn the_manifest_makes_the_edge_fetch_its_blobs_ahead() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[200_000; 12]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().cache("prefetch = 4").upstream("origin.test", &origin).start().await;
    assert_eq!(edge.client.get(V1).await.status, 200);
    for blob in &image.blobs[1..] {
        wait_for_blob(&edge.data_dir(), blob.digest()).await;
    }
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for blob in &image.blobs {
        assert_eq!(origin.transfers(blob.digest()), 1);
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_client_that_pulls_while_the_edge_prefetches_causes_no_second_transfer() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[2 * MIB; 6]);
    origin.push("app", "v1", &image);
    origin.script(Match::Blobs, Fault::Slow(8 * MIB));
    let edge = Settings::new().cache("prefetch = 4").upstream("origin.test", &origin).start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for blob in &image.blobs {
        assert_eq!(origin.transfers(blob.digest()), 1);
    }
    edge.finish().await;
}

#[tokio::test]
async fn the_upstreams_rate_limit_is_published() {
    let (origin, edge, _) = one_image("").await;
    origin.script(Match::Manifests, Fault::rate_limit(100, 76));
    assert_eq!(edge.client.get(V1).await.status, 200);
    let metrics = edge.metrics().await;
    assert!(metrics.contains(r#"outport_upstream_rate_limit_remaining{upstream="origin.test"} 76"#), "{metrics}");
    edge.finish().await;
}
