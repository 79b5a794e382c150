//! Names and targets, rows 1 to 12, and ranges, rows 31 to 36.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{APP, World, answers, get, request, statuses};
use crate::harness::disk::{all_written, files};
use crate::harness::edge::Settings;
use crate::harness::image::{Image, digest_of};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::Match;

const ENDINGS: [&str; 3] = ["manifests/v1", "tags/list", "blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"];

fn under(name: &str) -> impl Iterator<Item = Vec<u8>> + '_ {
    ENDINGS.iter().map(move |ending| get(format!("/v2/{name}/{ending}")))
}

#[tokio::test]
async fn rows_01_to_03_names_that_leave_their_place() {
    let world = World::plain().await;
    // What is refused is recorded, which begins a file of its own.
    let kept =
        || -> BTreeSet<_> { files(&world.edge.data_dir()).into_iter().filter(|path| !path.iter().any(|part| part == "audit")).collect() };
    all_written(&world.edge.data_dir()).await;
    let before = kept();
    let names = [
        "..",
        "../x",
        "a/../b",
        "%2e%2e",
        "a/%2E%2e/b",
        "..%2f",
        "a%2f..%2fb",
        "%252e",
        "%252e%252e%252fetc",
        ".",
        "origin.test/../../../etc/passwd",
        "origin.test/%2e%2e/app",
        "origin.test/app%2f..",
        "Library/alpine",
        "origin.test/App",
        "a..b",
        "a//b",
        "origin.test//app",
        "a/",
        "-a",
        "a_-b",
    ];
    for name in names {
        world.refuses(400, "NAME_INVALID", under(name)).await;
    }
    let targets = [
        "/%2F%2F..%2Fetc",
        "/v2/%2F%2F..%2Fetc/manifests/v1",
        "/v2/../../etc/passwd",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/v2/origin.test/app/tags/list/",
        "/v2/origin.test/app/manifests/v1/",
        "/v2/origin.test/app%2Fmanifests%2Fv1",
    ];
    world.refuses(400, "NAME_INVALID", targets.map(get)).await;
    assert_eq!(kept(), before, "no name made a file");
    world.finish_unasked().await;
}

#[tokio::test]
async fn row_04_the_longest_name() {
    let origin = Origin::start().await;
    let image = Image::new(4, &[1_000]);
    // With the upstream's name in front 255 bytes.
    let name = format!("{}/{}", "a".repeat(120), "b".repeat(255 - "origin.test/".len() - 121));
    origin.push(&name, "v1", &image);
    let edge = Settings::new().upstream_with("origin.test", &origin, "hosts = [\"hub.test\"]").start().await;
    pull(&edge.client, &format!("origin.test/{name}"), "v1", &image).await.expect("by prefix");
    assert_eq!(edge.client.get(&format!("/v2/{name}/manifests/v1?ns=origin.test")).await.body, image.manifest.bytes);
    assert_eq!(edge.client.clone().with("Host", "hub.test").get(&format!("/v2/{name}/manifests/v1")).await.body, image.manifest.bytes);
    let world = World { origin, image, edge };
    world.origin.forget_requests();
    world.refuses(400, "NAME_INVALID", under(&format!("origin.test/{name}b"))).await;
    world.refuses(400, "NAME_INVALID", under(&"a".repeat(256))).await;
    world.refuses(400, "NAME_INVALID", under(&"a/".repeat(1_000))).await;
    world.finish_unasked().await;
}

#[tokio::test]
async fn row_05_odd_bytes_are_refused_and_escaped_in_the_log() {
    let origin = Origin::start().await;
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    let names: [&[u8]; 14] = [
        b"mark%00",
        b"mark%0d%0aX-Evil:%20yes",
        b"mark%c0%af",
        b"mark%c0%ae%c0%ae",
        b"mark%e0%80%af",
        b"mark%ff",
        b"mark%ed%a0%80",
        b"m%d0%b0rk",
        "m\u{430}rk".as_bytes(),
        "mark\u{202e}".as_bytes(),
        b"mark\xff",
        b"mark\0",
        b"mark%zz",
        b"mark%1b[31m",
    ];
    for name in names {
        for ending in ENDINGS {
            let target = [b"/v2/origin.test/", name, b"/", ending.as_bytes()].concat();
            let (text, _) = edge.client.raw(&get(&target), super::WAIT).await.expect("a connection");
            let answers = answers(&text);
            let [answer] = answers.as_slice() else { panic!("{name:?}: {text:?}") };
            assert!(answer.status == 400 && answer.code().is_some(), "{name:?}: {text:?}");
            assert!(!answer.head.contains("x-evil"), "{text:?}");
        }
    }
    // What came last is in the log when this is.
    edge.client.get("/v2/the-last/manifests/one").await;
    let since = std::time::Instant::now();
    while !edge.log_text().contains("the-last") && since.elapsed() < super::WAIT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = edge.log_text();
    assert!(log.contains("the-last") && log.contains("mark"), "refusals are in the log");
    let wild = |c: &char| (c.is_control() && *c != '\n') || matches!(c, '\u{200e}'..='\u{202e}');
    assert_eq!(log.chars().find(wild), None, "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("X-Evil")), "{log}");
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

#[tokio::test]
async fn row_06_the_repository_that_was_authorized_is_the_one_that_is_read() {
    let origin = Origin::start().await;
    let open = ["blobs", "manifests", "tags/list", "manifests/blobs", "blobs/uploads", "referrers/x", "a/tags/list/manifests"];
    let images: Vec<Image> = (0..).zip(open).map(|(seed, _)| Image::new(600 + seed, &[1_000])).collect();
    for (name, image) in open.iter().zip(&images) {
        origin.push(name, "list", image);
    }
    let secret = Image::new(6, &[1_000]);
    for name in ["secret", "secret/manifests", "secret/blobs/manifests", "a"] {
        origin.push(name, "list", &secret);
    }
    let grants: Vec<String> = open.iter().map(|name| format!("\"origin.test/{name}\"")).collect();
    let access = format!("anonymous_pull = [\"canary.test/**\", {}]", grants.join(", "));
    let edge = Settings::new().access(&access).upstream("origin.test", &origin).start().await;
    for (name, image) in open.iter().zip(&images) {
        pull(&edge.client, &format!("origin.test/{name}"), "list", image).await.expect("what is open");
        let tags = edge.client.get(&format!("/v2/origin.test/{name}/tags/list")).await;
        assert_eq!(tags.json()["name"], format!("origin.test/{name}"), "{}", tags.text());
    }
    let closed = [
        "secret/manifests/list".to_owned(),
        "secret/tags/list".to_owned(),
        "secret/manifests/tags/list".to_owned(),
        "secret/manifests/manifests/list".to_owned(),
        "secret/blobs/manifests/manifests/list".to_owned(),
        format!("secret/blobs/{}", secret.blobs[1].digest()),
        format!("secret/manifests/blobs/{}", secret.blobs[1].digest()),
        "a/tags/list".to_owned(),
    ];
    for target in closed {
        let answer = edge.client.get(&format!("/v2/origin.test/{target}")).await;
        assert_eq!((answer.status, answer.error_code().as_deref()), (401, Some("UNAUTHORIZED")), "{target}");
    }
    let asked = origin.requests();
    let wrong: Vec<_> = asked.iter().filter(|logged| logged.route.repository().is_some_and(|name| !open.contains(&name))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    edge.finish().await;
}

#[tokio::test]
async fn rows_07_and_08_tags_and_digests_that_cannot_be() {
    let world = World::plain().await;
    let tags = [".a".to_owned(), "-a".into(), "t".repeat(129), "a%20b".into(), "b/c".into(), "a%2Fb".into(), "..".into()];
    world.refuses(404, "MANIFEST_UNKNOWN", tags.iter().map(|tag| get(format!("{APP}/manifests/{tag}")))).await;
    world.refuses(400, "MANIFEST_INVALID", tags.iter().map(|tag| request("PUT", format!("{APP}/manifests/{tag}")))).await;
    let upper = digest_of(b"x").to_uppercase().replace("SHA256", "sha256");
    let long = format!("{}0", digest_of(b"x"));
    let md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
    let digests = ["sha256:e3b0", &long, &upper, md5, "sha256:../x", "sha256:%2e%2e%2fx", "sha256:", ":", "sha256:..%2f..%2fetc"];
    for word in ["blobs", "manifests", "referrers"] {
        world.refuses(400, "DIGEST_INVALID", digests.map(|digest| get(format!("{APP}/{word}/{digest}")))).await;
    }
    world.refuses(400, "DIGEST_INVALID", ["blobs", "referrers"].map(|word| get(format!("{APP}/{word}/latest")))).await;
    let tag = "t".repeat(128);
    assert_eq!(world.client().get(&format!("{APP}/manifests/{tag}")).await.error_code().as_deref(), Some("MANIFEST_UNKNOWN"));
    assert_eq!(world.origin.count(&Match::manifest(&tag)), 1, "a tag of 128 characters can be");
    world.origin.forget_requests();
    world.finish_unasked().await;
}

#[tokio::test]
async fn row_09_long_targets_and_large_heads() {
    for world in [World::plain().await, World::over_tls().await] {
        let long = "a".repeat(64 * 1024);
        world.refuses(414, "UNSUPPORTED", [get(format!("/v2/{long}")), get(format!("/v2/?{long}")), format!("GET /{long}").into()]).await;
        let head = format!("GET {APP}/manifests/v1 HTTP/1.1\r\nHost: edge\r\n");
        let fields = [format!("Authorization: Basic {long}\r\n"), "A: b\r\n".repeat(10_000), format!("A{long}: b\r\n")];
        world.refuses(431, "UNSUPPORTED", fields.map(|fields| format!("{head}{fields}\r\n"))).await;
        world.finish_unasked().await;
    }
}

#[tokio::test]
async fn row_10_methods_that_there_are_not() {
    let world = World::plain().await;
    for method in ["TRACE", "JUNK", "PROPFIND", "get"] {
        for target in ["/v2/", "/v2/_catalog", &format!("{APP}/manifests/v1"), "/readyz", "/nowhere"] {
            world.refuses(405, "UNSUPPORTED", [request(method, target)]).await;
        }
    }
    let [manifest, tags, blob] = ENDINGS.map(|ending| format!("{APP}/{ending}"));
    let (uploads, session) = (format!("{APP}/blobs/uploads/"), format!("{APP}/blobs/uploads/0b1c"));
    for (target, methods) in [
        (manifest, &["POST", "PATCH", "OPTIONS"][..]),
        (tags, &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        (blob, &["POST", "PUT", "PATCH", "OPTIONS"]),
        (uploads, &["GET", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        (session, &["POST", "OPTIONS"]),
    ] {
        world.refuses(405, "UNSUPPORTED", methods.iter().map(|method| request(method, &target))).await;
    }
    world.refuses(405, "UNSUPPORTED", ["CONNECT edge:443 HTTP/1.1\r\nHost: edge:443\r\n\r\n"]).await;
    world.refuses(400, "UNSUPPORTED", [request("G@T", "/v2/"), request("", "/v2/")]).await;
    let (text, _) = world.client().raw(&request("TRACE", "/v2/"), super::WAIT).await.expect("an answer");
    assert!(answers(&text)[0].head.contains("\r\nallow: get, head"), "{text}");
    world.finish_unasked().await;
}

#[tokio::test]
async fn rows_11_and_12_pages_of_any_size_from_any_place() {
    let world = World::plain().await;
    for tag in ["v2", "v3", "w"] {
        world.origin.push("app", tag, &world.image);
    }
    let list = format!("{APP}/tags/list");
    let tags = async |query: &str| {
        let answer = world.client().get(&format!("{list}?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        if let Some(link) = answer.header("link") {
            assert!(link.starts_with("</v2/") && link.ends_with(">; rel=\"next\"") && link.matches('>').count() == 1, "{query}: {link}");
        }
        let tags = answer.json()["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().expect("text").to_owned()).collect();
        (tags, answer.header("link").map(str::to_owned))
    };
    let all: Vec<String> = ["v1", "v2", "v3", "w"].map(str::to_owned).to_vec();
    for n in ["4", "10000", "10001", "4294967297", "18446744073709551616", "99999999999999999999999999999999"] {
        assert_eq!(tags(&format!("n={n}")).await, (all.clone(), None), "{n}");
    }
    assert_eq!(tags("n=0").await, (Vec::new(), None));
    assert_eq!(tags("n=1&last=v1").await.0, ["v2"]);
    for endpoint in [&list, "/v2/_catalog"] {
        let words = ["-1", "", "many", "+5", "0x5", "5.0", "1e9", "%00", "NaN"];
        world.refuses(400, "PAGINATION_NUMBER_INVALID", words.map(|n| get(format!("{endpoint}?n={n}")))).await;
    }
    let long = "z".repeat(4_000);
    let wild =
        ["", "v1", "%00", "%0d%0aX-Evil:%20yes", "%ff%fe", "../../etc", "%zz", "%3E%3B%20rel=%22next%22", "zzz", &long, "%F0%9F%9A%A2"];
    for last in wild {
        let (page, _) = tags(&format!("last={last}&n=2")).await;
        assert!(page.len() <= 2 && page.is_sorted() && page.iter().all(|tag| all.contains(tag)), "{last}: {page:?}");
        let (text, _) = world.client().raw(&get(format!("/v2/_catalog?last={last}&n=2")), super::WAIT).await.expect("an answer");
        assert_eq!(statuses(&text), [200], "{last}: {text}");
        assert!(!answers(&text)[0].head.contains("x-evil"), "{text}");
    }
    world.edge.finish().await;
}

#[tokio::test]
async fn rows_31_to_36_parts_over_a_socket() {
    let world = World::plain().await;
    let (blob, size) = (&world.image.blobs[2], 300_000);
    let path = format!("{APP}/blobs/{}", blob.digest());
    let ask = async |fields: &[(&str, &str)]| world.client().get_with(&path, fields).await;
    for (range, from, to) in [("bytes=0-0", 0, 1), ("bytes=100-", 100, size), ("bytes=-7", size - 7, size), ("bytes=5-999999", 5, size)] {
        let answer = ask(&[("Range", range)]).await;
        assert_eq!((answer.status, answer.body), (206, blob.bytes().slice(from..to)), "{range}");
        assert_eq!(answer.head.header("content-range"), Some(format!("bytes {from}-{}/{size}", to - 1).as_str()), "{range}");
    }
    for range in ["bytes=300000-", "bytes=300000-300001", "bytes=99999999999-", "bytes=-0"] {
        let answer = ask(&[("Range", range)]).await;
        assert_eq!((answer.status, answer.error_code().is_some()), (416, true), "{range}: {}", answer.text());
        assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{range}");
    }
    let thousand = format!("bytes={}", vec!["0-299999"; 1_000].join(","));
    let overflows = ["bytes=99999999999999999999-", "bytes=99999999999999999999-99999999999999999999"];
    for range in
        ["bytes=5-2", "bytes=a-", "bytes=", "bytes=--5", "seconds=1-2", "bytes=0-1,5-2"].into_iter().chain(overflows).chain([&*thousand])
    {
        let answer = ask(&[("Range", range)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, size), "{range:.60}");
        assert_eq!(answer.body, blob.bytes(), "{range:.60}");
    }
    let etag = world.client().head(&path).await.header("etag").expect("an entity tag").to_owned();
    assert_eq!(ask(&[("If-None-Match", &etag)]).await.status, 304);
    assert_eq!(ask(&[("If-None-Match", &etag), ("Range", "bytes=0-1")]).await.status, 304, "conditions come first");
    assert_eq!(ask(&[("If-Range", &etag), ("Range", "bytes=0-1")]).await.status, 206);
    assert_eq!(ask(&[("If-Range", "\"other\""), ("Range", "bytes=0-1")]).await.status, 200);
    let double = ask(&[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]).await;
    assert!(matches!(double.status, 200 | 206), "{}", double.status);
    world.finish_unasked().await;
}
