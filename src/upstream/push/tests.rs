//! Pushes to registries on real sockets.

use std::sync::Mutex;
use std::time::Duration;

use super::super::testing::{Origin, Registry, Seen, config, reply};
use super::super::tests::{basic, is_wrong, issued, name, tag, upstream, with_credentials};
use super::*;
use crate::oci::Manifest;
use crate::upstream::Upstream;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const TEXT: &str = "the bytes of a layer";

fn text() -> ContentStream {
    // In two pieces.
    Box::pin(stream::iter([&TEXT.as_bytes()[..5], &TEXT.as_bytes()[5..]].map(|piece| Ok(Bytes::from_static(piece)))))
}

async fn push(upstream: &Upstream, from: Option<&str>) -> Result<BlobPushed, UpstreamError> {
    let (digest, from) = (Digest::sha256(TEXT.as_bytes()), from.map(name));
    let content = Outgoing { size_bytes: TEXT.len() as u64, open: &text };
    upstream.push_blob(&name("a/b"), &BlobPush { digest: &digest, content, from: from.as_ref() }).await
}

fn digest() -> String {
    Digest::sha256(TEXT.as_bytes()).to_string()
}

fn unavailable(result: &Result<BlobPushed, UpstreamError>) -> bool {
    matches!(result, Err(UpstreamError::Unavailable { .. }))
}

#[tokio::test]
async fn a_blob_is_sent_once_and_then_found() {
    let registry = Registry::default();
    let origin = registry.start().await;
    let upstream = upstream(&config(origin.url("/")));
    assert_eq!(push(&upstream, None).await, Ok(BlobPushed::Sent));
    assert_eq!(push(&upstream, None).await, Ok(BlobPushed::Present));
    let head = format!("HEAD /v2/a/b/blobs/{}", digest());
    let put = format!("PUT /v2/up/1?state=s&digest={}", digest().replace(':', "%3A"));
    assert_eq!(origin.requests(), [head.as_str(), "POST /v2/a/b/blobs/uploads/", &put, &head]);
    let seen = origin.seen();
    assert_eq!((seen[1].header("content-length"), seen[1].body.as_str()), (Some("0"), ""));
    assert_eq!((seen[2].header("content-length"), seen[2].header("content-type")), (Some("20"), Some(OCTETS)));
    assert_eq!(seen[2].header("transfer-encoding"), None);
    assert_eq!(registry.has(&digest()).unwrap().1, TEXT);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_blob_is_mounted_where_that_is_possible_and_sent_where_not() {
    let registry = Registry::default();
    let origin = registry.start().await;
    let upstream = upstream(&config(origin.url("/")));
    registry.mounts.lock().unwrap().push("from=c/d".to_owned());
    assert_eq!(push(&upstream, Some("c/d")).await, Ok(BlobPushed::Mounted));
    // 202: the session that comes instead is used; a refusal is not the last word.
    for refusal in [None, Some(reply(401, "")), Some(reply(400, "")), Some(reply(404, ""))] {
        registry.kept.lock().unwrap().clear();
        refusal.into_iter().for_each(|refusal| registry.once("POST", "from=e", refusal));
        assert_eq!(push(&upstream, Some("e")).await, Ok(BlobPushed::Sent));
    }
    assert_eq!(origin.requests().iter().filter(|request| request.starts_with("POST")).count(), 1 + 1 + 2 * 3);
}

/// Asks for a token from its own `/token`, and counts a token as refused when `accepts` says so.
async fn guarded(registry: &Registry, accepts: impl Fn(&Seen, &str) -> bool + Send + Sync + 'static) -> Origin {
    let (registry, issued_count) = (registry.clone(), Mutex::new(0));
    Origin::start(move |seen| {
        if seen.target.starts_with("/token") {
            let mut count = issued_count.lock().unwrap();
            *count += 1;
            return issued(&format!("t{count}"));
        }
        match seen.authorization().strip_prefix("Bearer ") {
            Some(token) if accepts(seen, token) => registry.answer(seen),
            _ => {
                let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, seen.header("host").unwrap());
                reply(401, "{}").with("www-authenticate", realm)
            }
        }
    })
    .await
}

#[tokio::test]
async fn one_token_for_pushing_serves_all_and_a_mount_has_its_own() {
    let registry = Registry::default();
    let origin = guarded(&registry, |_, _| true).await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    push(&upstream, None).await.unwrap();
    let bytes = Bytes::from_static(b"{}");
    let manifest = ManifestPush { digest: &Digest::sha256(&bytes), media_type: IMAGE, bytes: &bytes };
    assert_eq!(upstream.push_manifest(&name("a/b"), &tag("v1"), &manifest).await, Ok(SubjectNoted::No));
    registry.kept.lock().unwrap().clear();
    push(&upstream, Some("c")).await.unwrap();
    let tokens: Vec<String> = origin.requests().into_iter().filter(|request| request.contains("/token")).collect();
    assert_eq!(
        tokens,
        [
            "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush",
            "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull",
        ]
    );
    assert!(origin.seen().iter().filter(|seen| seen.target.starts_with("/token")).all(|seen| seen.authorization() == basic()));
    assert_eq!(registry.has(&digest()).unwrap().1, TEXT);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_is_replaced_and_the_content_opened_again() {
    let registry = Registry::default();
    let origin = guarded(&registry, |seen, token| seen.method != "PUT" || token != "t1").await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    assert_eq!(push(&upstream, None).await, Ok(BlobPushed::Sent));
    let puts: Vec<Seen> = origin.seen().into_iter().filter(|seen| seen.method == "PUT").collect();
    assert_eq!(puts.iter().map(Seen::authorization).collect::<Vec<_>>(), ["Bearer t1", "Bearer t2"]);
    assert!(puts.iter().all(|put| put.body == TEXT));
}

#[tokio::test]
async fn who_may_not_push_is_denied_after_one_more_token() {
    let registry = Registry::default();
    let origin = guarded(&registry, |seen, _| seen.method == "HEAD").await;
    let upstream = upstream(&with_credentials(origin.url("/")));
    assert_eq!(push(&upstream, None).await, Err(UpstreamError::Denied));
    assert_eq!(origin.requests().iter().filter(|request| request.starts_with("POST")).count(), 2);
}

#[tokio::test]
async fn a_try_that_breaks_is_made_again_with_a_session_of_its_own() {
    for (what, method, target, fault) in [
        ("502 at the end", "PUT", "/v2/up/1", Some(reply(502, ""))),
        ("503 at the beginning", "POST", "uploads", Some(reply(503, ""))),
        ("the session is lost", "PUT", "/v2/up/1", Some(reply(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#))),
        ("the connection is cut in the middle", "", "", None),
    ] {
        let registry = Registry::default();
        let origin = registry.start().await;
        let upstream = upstream(&config(origin.url("/")));
        match fault {
            Some(fault) => registry.once(method, target, fault),
            None => origin.cut_a_body_after(7),
        }
        assert_eq!(push(&upstream, None).await, Ok(BlobPushed::Sent), "{what}");
        assert_eq!(origin.requests().iter().filter(|request| request.starts_with("POST")).count(), 2, "{what}");
        assert_eq!(registry.has(&digest()).unwrap().1, TEXT);
    }
}

#[tokio::test]
async fn what_lasts_is_told_and_not_repeated() {
    for (method, status, told) in [("POST", 500, None), ("PUT", 500, None), ("POST", 429, Some(7)), ("PUT", 503, Some(7))] {
        let registry = Registry::default();
        let origin = registry.start().await;
        let upstream = upstream(&config(origin.url("/")));
        let fault = reply(status, "");
        let fault = if let Some(seconds) = told { fault.with("retry-after", seconds) } else { fault };
        registry.once(method, "/v2/", fault);
        let result = push(&upstream, None).await;
        let Err(UpstreamError::Unavailable { retry_after, .. }) = result else { panic!("{method} {status}: {result:?}") };
        assert_eq!(retry_after, told.map(Duration::from_secs), "{method} {status}");
        assert_eq!(origin.requests().iter().filter(|request| request.starts_with("POST")).count(), 1);
        // It told to wait: nothing is sent meanwhile.
        let before = origin.requests().len();
        assert_eq!(unavailable(&push(&upstream, None).await), told.is_some());
        assert_eq!(origin.requests().len() == before, told.is_some());
    }
}

#[tokio::test]
async fn a_refusal_says_what_the_upstream_said() {
    let registry = Registry::default();
    let origin = registry.start().await;
    let upstream = upstream(&config(origin.url("/")));
    let digest = Digest::sha256(b"something else");
    let content = Outgoing { size_bytes: TEXT.len() as u64, open: &text };
    let blob = BlobPush { digest: &digest, content, from: None };
    let Err(UpstreamError::WrongAnswer(why)) = upstream.push_blob(&name("a"), &blob).await else { panic!("wrong bytes") };
    assert_eq!(why, "it answered 400 Bad Request: DIGEST_INVALID otherbytes");
    for (method, answer) in [
        ("POST", reply(404, "{}")),
        ("POST", reply(301, "").with("location", "/v2/x")),
        ("POST", reply(202, "")),
        ("POST", reply(202, "").with("location", "ftp://127.0.0.1/")),
        ("POST", reply(202, "").with("location", "http://user@127.0.0.1/")),
        ("POST", reply(201, "")),
        ("PUT", reply(202, "")),
        ("PUT", reply(201, "").with("docker-content-digest", digest)),
        ("PUT", reply(413, "")),
    ] {
        let what = format!("{method} {answer:?}");
        registry.once(method, "/v2/", answer);
        assert!(is_wrong(push(&upstream, None).await), "{what}");
    }
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credential_and_a_private_one_nothing() {
    let registry = Registry::default();
    let storage = registry.start().await;
    let origin = guarded(&registry, |_, _| true).await;
    *registry.elsewhere.lock().unwrap() = format!("http://{}", storage.address);
    let away = upstream(&with_credentials(origin.url("/")));
    assert_eq!(push(&away, None).await, Ok(BlobPushed::Sent));
    assert_eq!(storage.seen().iter().map(Seen::authorization).collect::<Vec<_>>(), [""]);
    assert_eq!(registry.has(&digest()).unwrap().1, TEXT);
    // Asked for credentials there: not given.
    registry.kept.lock().unwrap().clear();
    registry.once("PUT", "/v2/up/1", reply(401, "").with("www-authenticate", format!(r#"Bearer realm="{}""#, origin.url("/token"))));
    assert!(is_wrong(push(&away, None).await));
    assert_eq!(storage.seen().last().unwrap().authorization(), "");

    let listed = with_credentials(origin.url("/"));
    let listed = upstream(&crate::config::Upstream { token_hosts: vec!["127.0.0.1".to_owned()], ..listed });
    assert_eq!(push(&listed, None).await, Ok(BlobPushed::Sent));
    assert!(storage.seen().last().unwrap().authorization().starts_with("Bearer "));

    registry.kept.lock().unwrap().clear();
    *registry.elsewhere.lock().unwrap() = "http://127.0.0.2:9".to_owned();
    let result = push(&away, None).await;
    assert!(matches!(&result, Err(UpstreamError::WrongAnswer(why)) if why.contains("127.0.0.2")), "{result:?}");
}

#[tokio::test]
async fn content_that_cannot_be_read_is_not_the_upstreams_fault() {
    let registry = Registry::default();
    let origin = registry.start().await;
    let upstream = upstream(&config(origin.url("/")));
    let open = || -> ContentStream { Box::pin(stream::iter([Ok(Bytes::from_static(b"half")), Err("the bucket is away".to_owned())])) };
    let digest = Digest::sha256(TEXT.as_bytes());
    let blob = BlobPush { digest: &digest, content: Outgoing { size_bytes: TEXT.len() as u64, open: &open }, from: None };
    for _ in 0..10 {
        assert_eq!(upstream.push_blob(&name("a"), &blob).await, Err(UpstreamError::Broken("the bucket is away".to_owned())));
    }
    assert!(upstream.health().is_available());
    assert_eq!(registry.has(&digest.to_string()), None);
}

#[tokio::test]
async fn a_manifest_is_put_as_it_is_and_its_subject_listed_where_nobody_else_does() {
    let registry = Registry::default();
    let origin = registry.start().await;
    let upstream = upstream(&config(origin.url("/")));
    let bytes = Bytes::from_static(b"{ \"schemaVersion\": 2 }\n");
    let digest = Digest::sha256(&bytes);
    let manifest = ManifestPush { digest: &digest, media_type: IMAGE, bytes: &bytes };
    let (repository, reference) = (name("a/b"), tag("v1"));
    registry.once("PUT", "manifests", reply(502, ""));
    assert_eq!(upstream.push_manifest(&repository, &reference, &manifest).await, Ok(SubjectNoted::No));
    assert_eq!(registry.has("/v2/a/b/manifests/v1"), Some((IMAGE.to_owned(), String::from_utf8(bytes.to_vec()).unwrap())));
    let by_digest = Reference::Digest(digest);
    registry.once("PUT", "manifests", reply(201, "").with("oci-subject", digest));
    assert_eq!(upstream.push_manifest(&repository, &by_digest, &manifest).await, Ok(SubjectNoted::Yes));
    registry.once("PUT", "manifests", reply(201, "").with("docker-content-digest", Digest::sha256(b"")));
    assert!(is_wrong(upstream.push_manifest(&repository, &by_digest, &manifest).await));

    let referrer = |of: &[u8]| Descriptor { artifact_type: Some("a/b".to_owned()), ..described(of) };
    for of in [b"one", b"two", b"one"] {
        upstream.list_referrer(&repository, &digest, &referrer(of)).await.unwrap();
    }
    let (media_type, index) = registry.has(&format!("/v2/a/b/manifests/sha256-{}", digest.hex())).unwrap();
    let Ok(Manifest::Index(index)) = Manifest::parse(index.as_bytes(), &media_type) else { panic!("{index}") };
    assert_eq!(index.manifests, [referrer(b"one"), referrer(b"two")]);
}

fn described(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: IMAGE.to_owned(),
        digest: Digest::sha256(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    }
}
