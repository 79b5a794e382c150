//! Uploads that are wrong, hostile, late or cut, rows 37 to 51, over HTTP against whole edges. What single rooms promise of them is
//! tested in those rooms.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use futures_util::future::join_all;
use outport::oci::Digest;

use super::{WAIT, answers, refuses, statuses};
use crate::harness::client::{Client, Closed, Response};
use crate::harness::disk::files;
use crate::harness::edge::{Settings, TestEdge};
use crate::specification::lab::{Lab, and, expect, location, refused, sha512};

const UNKNOWN: &str = "BLOB_UPLOAD_UNKNOWN";
const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");

/// An edge that hosts in a folder of its own what anybody pushes, and a repository of it.
async fn hosted(settings: Settings) -> (TestEdge, Lab) {
    let edge = settings.open_to_pushes().start().await;
    let lab = Lab::new(edge.client.clone(), "rows/app".to_owned());
    (edge, lab)
}

/// Bytes that no other length's begin with.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at / 3 + count) as u8).collect()
}

/// Everything that uploads have written: in the bucket's folder, whole or on its way in, and what is half written in the cache.
fn written(edge: &TestEdge) -> Vec<PathBuf> {
    let of_bucket = files(&edge.data_dir().join("bucket")).into_iter().filter(|path| path.to_string_lossy().contains("/blobs/"));
    of_bucket.chain(files(&edge.data_dir().join("cache/partial"))).collect()
}

async fn wait_until(what: &str, time: Duration, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < time, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pulled(lab: &Lab, bytes: &[u8]) {
    let answer = lab.get(format!("blobs/{}", Digest::sha256(bytes))).await;
    expect(&answer, 200);
    assert!(answer.body == bytes, "other bytes");
}

/// The status of a session: how many bytes it has.
async fn received(lab: &Lab, session: &str) -> usize {
    let status = lab.send("GET", session, &[], b"").await;
    expect(&status, 204);
    let range = status.header("range").expect("a Range");
    // "0-0" is said of nothing and of one byte; the tests here have one byte nowhere.
    range.strip_prefix("0-").and_then(|last| last.parse().ok()).map_or(0, |last: usize| if last == 0 { 0 } else { last + 1 })
}

/// All that can be done to a session, each with the status and the body that it is answered.
async fn everything(lab: &Lab, session: &str, headers: &[(&str, &str)]) -> Vec<Response> {
    let close = and(session, &format!("digest={}", Digest::sha256(b"x")));
    let mut all = Vec::new();
    for (method, target, body) in [("GET", session, &b""[..]), ("PATCH", session, b"x"), ("PUT", &close, b"x"), ("DELETE", session, b"")] {
        all.push(lab.send(method, target, headers, body).await);
    }
    all
}

#[track_caller]
fn all_unknown(answers: &[Response]) {
    let different: BTreeSet<_> = answers.iter().map(Response::text).collect();
    answers.iter().for_each(|answer| refused(answer, 404, UNKNOWN));
    assert_eq!(different.len(), 1, "{different:?}");
}

fn basic(name: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{name}:secret")))
}

#[tokio::test]
async fn row_37_a_wrong_digest_keeps_nothing() {
    let (edge, lab) = hosted(Settings::new()).await;
    for bytes in [bytes(10), bytes(300_000)] {
        for named in [Digest::sha256(b"other"), sha512(b"other")] {
            let session = lab.begin().await;
            refused(&lab.close(&session, &named, &[], &bytes).await, 400, "DIGEST_INVALID");
            all_unknown(&everything(&lab, &session, &[]).await);
            let whole = lab.at(format!("blobs/uploads/?digest={named}"));
            refused(&lab.send("POST", &whole, &[], &bytes).await, 400, "DIGEST_INVALID");
            for digest in [named, Digest::sha256(&bytes), sha512(&bytes)] {
                assert!(!lab.has_blob(&digest).await);
            }
        }
    }
    wait_until("nothing is kept", WAIT, || written(&edge).is_empty()).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_38_a_length_that_does_not_match() {
    let (edge, lab) = hosted(Settings::new()).await;
    let (session, whole) = (lab.begin().await, bytes(20));
    // In chunks of HTTP/1.1, whose lengths say nothing of the range.
    for body in [&b"5\r\nabcde\r\n0\r\n\r\n"[..], b"f\r\nabcdefghijklmno\r\n0\r\n\r\n"] {
        let here = received(&lab, &session).await;
        let range = format!("{here}-{}", here + 9);
        let answer = lab.send_framed("PATCH", &session, &[CHUNKED, ("Content-Range", &range)], body).await;
        refused(&answer.expect("an answer"), 400, "SIZE_INVALID");
    }
    let declared = lab.patch(&lab.begin().await, "0-9", &whole).await;
    refused(&declared, 400, "SIZE_INVALID");
    expect(&lab.close(&lab.begin().await, &Digest::sha256(&whole), &[], &whole).await, 201);
    pulled(&lab, &whole).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_39_a_chunk_out_of_order() {
    let (edge, lab) = hosted(Settings::new()).await;
    let whole = bytes(200_000);
    let first = lab.patch(&lab.begin().await, "0-99999", &whole[..100_000]).await;
    expect(&first, 202);
    for range in ["0-99999", "100001-200000", "99999-199998"] {
        let answer = lab.patch(&location(&first), range, &whole[..100_000]).await;
        refused(&answer, 416, "BLOB_UPLOAD_INVALID");
        assert_eq!(answer.header("range"), Some("0-99999"), "where it goes on");
    }
    expect(&lab.patch(&location(&first), "100000-199999", &whole[100_000..]).await, 202);
    expect(&lab.close(&location(&first), &Digest::sha256(&whole), &[], b"").await, 201);
    pulled(&lab, &whole).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_40_an_unknown_or_expired_session() {
    let (edge, lab) = hosted(Settings::new().limits("upload_ttl = \"1s\"")).await;
    let (unused, mut used) = (lab.begin().await, lab.begin().await);
    let expired = location(&lab.patch(&lab.begin().await, "0-4", b"01234").await);
    for round in 0..6 {
        let range = format!("{}-{}", round * 2, round * 2 + 1);
        let answer = lab.patch(&used, &range, b"ab").await;
        expect(&answer, 202);
        used = location(&answer);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (path, state) = expired.split_once('?').expect("a state");
    let id = path.rsplit('/').next().expect("an id");
    let mut all = Vec::new();
    for session in [
        unused.clone(),
        expired.clone(),
        path.to_owned(),
        format!("{path}?"),
        format!("{path}?_state="),
        lab.at(format!("blobs/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV?{state}")),
        lab.at(format!("blobs/uploads/{}?{state}", id.to_lowercase())),
        lab.at("blobs/uploads/00000000-0000-0000-0000-000000000000"),
        lab.at("blobs/uploads/x?_state=%00"),
    ] {
        all.extend(everything(&lab, &session, &[]).await);
    }
    all_unknown(&all);
    // One in use does not expire.
    expect(&lab.close(&used, &Digest::sha256(b"abababababab"), &[], b"").await, 201);
    edge.finish().await;
}

#[tokio::test]
async fn row_41_anothers_session() {
    let grants = "[\"team/**\"]";
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]");
    let edge = settings.pusher("victim", grants, grants).pusher("thief", grants, grants).start().await;
    let lab = Lab::new(edge.client.clone(), "team/app".to_owned());
    let (victim, thief) = (basic("victim"), basic("thief"));
    let (victim, thief) = ([("Authorization", victim.as_str())], [("Authorization", thief.as_str())]);
    let begun = lab.send("POST", &lab.at("blobs/uploads/"), &victim, b"").await;
    expect(&begun, 202);
    let first = lab.send("PATCH", &location(&begun), &victim, b"the victim's ").await;
    expect(&first, 202);
    let session = location(&first);
    let mut all = everything(&lab, &session, &thief).await;
    all.extend(everything(&lab, &session.replacen("team/app", "team/other", 1), &victim).await);
    all.extend(everything(&lab, &session.replacen("team/app", "team/other", 1), &thief).await);
    all.extend(everything(&lab, &lab.at("blobs/uploads/none"), &thief).await);
    all_unknown(&all);
    for answer in everything(&lab, &session, &[]).await {
        refused(&answer, 401, "UNAUTHORIZED");
    }
    let whole = b"the victim's own bytes";
    let digest = Digest::sha256(whole);
    let closed = lab.send("PUT", &and(&session, &format!("digest={digest}")), &victim, b"own bytes").await;
    expect(&closed, 201);
    let answer = lab.send("GET", &lab.at(format!("blobs/{digest}")), &victim, b"").await;
    assert_eq!(&answer.body[..], whole);
    edge.finish().await;
}

#[tokio::test]
async fn row_42_a_state_that_was_changed() {
    let (mut edge, lab) = hosted(Settings::new()).await;
    let first = lab.patch(&lab.begin().await, "0-4", b"01234").await;
    let (session, other) = (location(&first), lab.begin().await);
    let (path, query) = session.split_once('?').expect("a state");
    let state = query.strip_prefix("_state=").expect("a state");
    let mut changed: Vec<String> = (0..state.len())
        .map(|at| {
            let mut text = state.as_bytes().to_vec();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(text).expect("ASCII")
        })
        .collect();
    changed.extend([
        state[1..].to_owned(),
        state[..state.len() - 1].to_owned(),
        format!("{state}A"),
        format!("A{state}"),
        state.repeat(50),
    ]);
    changed.push(other.split_once("_state=").expect("a state").1.to_owned());
    let mut all = Vec::new();
    for state in changed {
        all.extend(everything(&lab, &format!("{path}?_state={state}"), &[]).await);
    }
    all_unknown(&all);
    expect(&lab.close(&session, &Digest::sha256(b"0123456789"), &[("Content-Range", "5-9")], b"56789").await, 201);
    // What another process sealed is no state of this one's.
    edge.restart().await;
    let lab = Lab::new(edge.client.clone(), lab.name.clone());
    all_unknown(&everything(&lab, &other, &[]).await);
    edge.finish().await;
}

fn patch_head(client: &Client, session: &str, length: usize) -> String {
    format!("PATCH {session} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", client.address())
}

#[tokio::test]
async fn row_43_two_patches_at_once() {
    let (edge, lab) = hosted(Settings::new()).await;
    let whole = bytes(2_000_000);
    let session = lab.begin().await;
    let mut first = edge.client.connect().await.expect("a connection");
    first.send(patch_head(&edge.client, &session, whole.len()).as_bytes()).await.expect("a head");
    first.send(&whole[..1_900_000]).await.expect("a part");
    wait_until("the first one writes", WAIT, || !written(&edge).is_empty()).await;
    for range in ["0-4", "1900000-1900004", "1048576-1048580"] {
        refused(&lab.patch(&session, range, b"01234").await, 416, "BLOB_UPLOAD_INVALID");
    }
    first.send(&whole[1_900_000..]).await.expect("the rest");
    let answer = first.exchange("PATCH", Instant::now()).await.expect("an answer").whole().await.expect("an answer");
    expect(&answer, 202);
    expect(&lab.close(&location(&answer), &Digest::sha256(&whole), &[], b"").await, 201);
    pulled(&lab, &whole).await;

    for round in 0..10 {
        let session = lab.begin().await;
        let size = if round % 2 == 0 { 1_000 } else { 400_000 };
        let bodies = [bytes(size), vec![round; size]];
        let range = format!("0-{}", size - 1);
        let tried = join_all(bodies.iter().map(|body| lab.patch(&session, &range, body))).await;
        let winner = tried.iter().position(|answer| answer.status == 202).expect("one goes on");
        refused(&tried[1 - winner], 416, "BLOB_UPLOAD_INVALID");
        expect(&lab.close(&location(&tried[winner]), &Digest::sha256(&bodies[winner]), &[], b"").await, 201);
    }
    edge.finish().await;
}

/// The bytes of a closing PUT.
fn closing_put(client: &Client, session: &str, digest: &Digest, body: &[u8]) -> Vec<u8> {
    let target = and(session, &format!("digest={digest}"));
    let head = format!("PUT {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", client.address(), body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn row_44_the_final_put_repeated() {
    let (edge, lab) = hosted(Settings::new()).await;
    for size in [1_000, 1_500_000] {
        let (session, whole) = (lab.begin().await, bytes(size));
        let digest = Digest::sha256(&whole);
        expect(&lab.close(&session, &digest, &[], &whole).await, 201);
        for body in [&whole[..], b""] {
            refused(&lab.close(&session, &digest, &[], body).await, 404, UNKNOWN);
        }
        pulled(&lab, &whole).await;
        // At once: the second one finds the session at work, or gone.
        let (session, whole) = (lab.begin().await, bytes(size + 1));
        let digest = Digest::sha256(&whole);
        let tried = join_all((0..4).map(|_| lab.close(&session, &digest, &[], &whole))).await;
        let told: Vec<u16> = tried.iter().map(|answer| answer.status).collect();
        assert!(told.contains(&201) && told.iter().all(|status| matches!(status, 201 | 404 | 416)), "{told:?}");
        pulled(&lab, &whole).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_44_the_final_put_repeated_after_its_answer_was_lost() {
    let (edge, lab) = hosted(Settings::new()).await;
    for round in 0..24 {
        let whole = bytes(60_000 + round * 100_000);
        let session = location(&lab.send("PATCH", &lab.begin().await, &[], &whole).await);
        // By an algorithm that was not announced it takes longer: what was written is read once more.
        let digest = if round % 2 == 0 { Digest::sha256(&whole) } else { sha512(&whole) };
        let mut lost = edge.client.connect().await.expect("a connection");
        lost.send(&closing_put(&edge.client, &session, &digest, b"")).await.expect("a request");
        tokio::time::sleep(Duration::from_millis(round as u64 / 2)).await;
        drop(lost);
        let since = Instant::now();
        let again = loop {
            let again = lab.close(&session, &digest, &[], b"").await;
            // The lost one is still at work.
            if again.status != 416 {
                break again;
            }
            assert!(since.elapsed() < WAIT, "the session stays busy");
        };
        assert!(matches!(again.status, 201 | 404), "round {round}: {} {}", again.status, again.text());
        if lab.has_blob(&digest).await {
            assert!(lab.get(format!("blobs/{digest}")).await.body == whole[..], "other bytes");
        }
        expect(&lab.close(&lab.begin().await, &digest, &[], &whole).await, 201);
        assert!(lab.get(format!("blobs/{digest}")).await.body == whole[..], "other bytes");
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_45_over_the_maximum() {
    let (edge, lab) = hosted(Settings::new().limits("max_blob = \"1MiB\"")).await;
    let most = 1 << 20;
    let digest = Digest::sha256(b"whatever");
    let (session, whole) = (lab.begin().await, bytes(most));
    let begun = location(&lab.send("PATCH", &session, &[], &whole[..most - 10]).await);
    let head = |method: &str, target: &str, fields: &str| format!("{method} {target} HTTP/1.1\r\nHost: edge\r\n{fields}\r\n\r\n");
    let (monolithic, closing) = (lab.at(format!("blobs/uploads/?digest={digest}")), and(&begun, &format!("digest={digest}")));
    let chunks: Vec<u8> = (0..24).flat_map(|_| [&b"10000\r\n"[..], &[7; 0x1_0000], b"\r\n"].concat()).collect();
    let mut requests = Vec::new();
    for (method, target) in [("POST", &monolithic), ("PATCH", &begun), ("PUT", &closing)] {
        // Declared: not a byte of it is waited for.
        requests.push(head(method, target, "Content-Length: 2000000").into_bytes());
        requests.push(head(method, target, "Content-Length: 99999999999999999").into_bytes());
        requests.push([head(method, target, "Transfer-Encoding: chunked").as_bytes(), &chunks].concat());
    }
    let range = format!("Content-Range: {}-{}\r\nTransfer-Encoding: chunked", most - 10, most);
    requests.push([head("PATCH", &begun, &range).as_bytes(), &chunks].concat());
    refuses(&edge.client, (413, "SIZE_INVALID"), requests).await;

    let here = received(&lab, &begun).await;
    assert!((most - 10..=most).contains(&here), "{here}");
    let other = location(&lab.send("PATCH", &lab.begin().await, &[], &whole[..500_000]).await);
    expect(&lab.close(&other, &Digest::sha256(&whole), &[], &whole[500_000..]).await, 201);
    pulled(&lab, &whole).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_46_abandoned_sessions() {
    // In the bucket's folder; and, with the bucket elsewhere, as copies on this node's disk.
    for bucket in ["", "[bucket]\nurl = \"memory://\""] {
        let settings = Settings::new().limits("uploads = 5").limits("upload_ttl = \"1s\"").table(bucket);
        let (edge, lab) = hosted(settings).await;
        for _ in 0..5 {
            expect(&lab.send("PATCH", &lab.begin().await, &[], &bytes(1_500_000)).await, 202);
        }
        assert_eq!(written(&edge).len(), 5, "{:?}", written(&edge));
        let digest = Digest::sha256(b"x");
        for query in ["".to_owned(), format!("?digest={digest}"), format!("?mount={digest}&from=none"), format!("?mount={digest}")] {
            let answer = lab.send("POST", &lab.at(format!("blobs/uploads/{query}")), &[], b"").await;
            refused(&answer, 429, "TOOMANYREQUESTS");
            let wait: u64 = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
            assert!((1..=60).contains(&wait), "{wait}");
        }
        wait_until("the disk is reclaimed", WAIT, || written(&edge).is_empty()).await;
        assert!(edge.metrics().await.contains("outport_uploads_open 0"));
        let whole = bytes(100_000);
        expect(&lab.close(&lab.begin().await, &Digest::sha256(&whole), &[], &whole).await, 201);
        pulled(&lab, &whole).await;
        edge.finish().await;
    }
}

#[tokio::test]
async fn row_47_a_disconnect_in_mid_chunk() {
    let (edge, lab) = hosted(Settings::new()).await;
    for sent in [10_000, 1_200_000, 2_900_000] {
        let (session, whole) = (lab.begin().await, bytes(3_000_000 + sent));
        let mut cut = edge.client.connect().await.expect("a connection");
        cut.send(patch_head(&edge.client, &session, whole.len()).as_bytes()).await.expect("a head");
        cut.send(&whole[..sent]).await.expect("a part");
        // A whole batch is on its way to the disk before the client goes.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(cut);
        let since = Instant::now();
        let resumed = loop {
            let here = received(&lab, &session).await;
            assert!(here <= sent, "{here} of {sent} bytes");
            let range = format!("{here}-{}", whole.len() - 1);
            let resumed = lab.patch(&session, &range, &whole[here..]).await;
            if resumed.status != 416 {
                assert!(sent < 1 << 20 || here >= 1 << 20, "{here} of {sent} bytes are known");
                break resumed;
            }
            assert!(since.elapsed() < WAIT, "the session stays busy");
        };
        expect(&resumed, 202);
        expect(&lab.close(&location(&resumed), &Digest::sha256(&whole), &[], b"").await, 201);
        pulled(&lab, &whole).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_48_expect_continue_without_a_right() {
    let settings = Settings::new().access("anonymous_pull = [\"team/**\", \"canary.test/**\"]");
    let edge = settings.pusher("writer", "[]", "[\"team/**\"]").pusher("reader", "[\"team/**\"]", "[]").start().await;
    let lab = Lab::new(edge.client.clone(), "team/app".to_owned());
    let digest = Digest::sha256(&bytes(100_000));
    let targets = [
        ("POST", lab.at(format!("blobs/uploads/?digest={digest}"))),
        ("PATCH", lab.at("blobs/uploads/x?_state=y")),
        ("PUT", lab.at(format!("blobs/uploads/x?_state=y&digest={digest}"))),
        ("PUT", lab.at("manifests/v1")),
    ];
    let request = |method: &str, target: &str, user: Option<&str>| {
        let authorization = user.map(|name| format!("Authorization: {}\r\n", basic(name))).unwrap_or_default();
        format!("{method} {target} HTTP/1.1\r\nHost: edge\r\n{authorization}Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n")
    };
    let asked = |user: Option<&'static str>| targets.iter().map(move |(method, target)| request(method, target, user));
    refuses(&edge.client, (401, "UNAUTHORIZED"), asked(None)).await;
    refuses(&edge.client, (403, "DENIED"), asked(Some("reader"))).await;
    // One answer, and no invitation to send before it.
    refuses(&edge.client, (404, UNKNOWN), asked(Some("writer")).skip(1).take(2)).await;
    let wrong = request("POST", &targets[0].1, None).replace("Expect", "Authorization: Basic eDp5\r\nExpect");
    refuses(&edge.client, (401, "UNAUTHORIZED"), [wrong]).await;
    // Who may push is invited.
    let allowed = request("POST", &targets[0].1, Some("writer")).replace("Host: edge", "Host: edge\r\nConnection: close");
    let (text, closed) = edge.client.raw(&[allowed.as_bytes(), &bytes(100_000)].concat(), WAIT).await.expect("a connection");
    assert_eq!((statuses(&text), closed), (vec![100, 201], Closed::ByServer), "{text}");
    edge.finish().await;
}

#[tokio::test]
async fn row_49_an_encoded_upload_is_not_inflated() {
    let (edge, lab) = hosted(Settings::new()).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &vec![0; 10 << 20]).expect("memory");
    let bomb = gzip.finish().expect("memory");
    let digests = [Digest::sha256(&bomb), Digest::sha256(&vec![0; 10 << 20])];
    for encoding in ["gzip", "GZIP", "zstd", "identity, gzip", "x"] {
        let encoded = [("Content-Encoding", encoding)];
        let session = lab.begin().await;
        refused(&lab.send("PATCH", &session, &encoded, &bomb).await, 415, "UNSUPPORTED");
        assert_eq!(received(&lab, &session).await, 0);
        for digest in &digests {
            refused(&lab.close(&session, digest, &encoded, &bomb).await, 415, "UNSUPPORTED");
            let whole = lab.at(format!("blobs/uploads/?digest={digest}"));
            refused(&lab.send("POST", &whole, &encoded, &bomb).await, 415, "UNSUPPORTED");
            assert!(!lab.has_blob(digest).await);
        }
        refused(&lab.send("PUT", &lab.at("manifests/v1"), &encoded, &bomb).await, 415, "UNSUPPORTED");
        expect(&lab.send("DELETE", &session, &[], b"").await, 204);
    }
    expect(&lab.close(&lab.begin().await, &digests[0], &[("Content-Encoding", "identity")], &bomb).await, 201);
    pulled(&lab, &bomb).await;
    edge.finish().await;
}

/// An answer without what is another in every one: lengths stand for ids and states.
fn likeness(answer: &Response) -> String {
    let head = answer.head.headers.iter().map(|(name, value)| match name.as_str() {
        "location" | "docker-upload-uuid" | "x-request-id" => format!("{name}: {}", value.len()),
        "date" => name.clone(),
        _ => format!("{name}: {value}"),
    });
    format!("{} {:?} {}", answer.status, head.collect::<Vec<_>>(), answer.text())
}

/// An edge with a blob in `lib/app` and another in `secret/app`. `writer` may push to `open/**` and pull from `lib/**`.
async fn with_a_secret() -> (TestEdge, Lab, [Digest; 2]) {
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]\nanonymous_push = []");
    let edge =
        settings.pusher("owner", "[]", "[\"lib/**\", \"secret/**\"]").pusher("writer", "[\"lib/**\"]", "[\"open/**\"]").start().await;
    let lab = Lab::new(edge.client.clone(), "open/app".to_owned());
    let owner = basic("owner");
    let mut digests = [Digest::sha256(b""); 2];
    for (digest, repository) in digests.iter_mut().zip(["lib", "secret"]) {
        let bytes = bytes(100_000 + repository.len());
        *digest = Digest::sha256(&bytes);
        let target = format!("/v2/{repository}/app/blobs/uploads/?digest={digest}");
        expect(&lab.send("POST", &target, &[("Authorization", owner.as_str())], &bytes).await, 201);
    }
    (edge, lab, digests)
}

/// What a mount is answered; if it is 201, the blob is there, and otherwise not.
async fn mount(lab: &Lab, digest: &Digest, from: &str) -> Response {
    let writer = basic("writer");
    let writer = [("Authorization", writer.as_str())];
    let answer = lab.send("POST", &lab.at(format!("blobs/uploads/?mount={digest}{from}")), &writer, b"").await;
    let there = lab.send("HEAD", &lab.at(format!("blobs/{digest}")), &writer, b"").await.status;
    assert_eq!(there == 200, answer.status == 201, "{there} after {}", answer.status);
    answer
}

#[tokio::test]
async fn row_50_a_mount_from_what_may_not_be_read() {
    let (edge, lab, [readable, secret]) = with_a_secret().await;
    let absent = Digest::sha256(b"absent");
    let mut likenesses = BTreeSet::new();
    for from in ["secret/app", "secret/none", "nowhere", "lib/none", "canary.test/bird", "canary.test/none", "open/none"] {
        for digest in [absent, secret, readable] {
            let answer = mount(&lab, &digest, &format!("&from={from}")).await;
            expect(&answer, 202);
            likenesses.insert(likeness(&answer));
        }
    }
    assert_eq!(likenesses.len(), 1, "{likenesses:#?}");
    expect(&mount(&lab, &secret, "&from=lib/app").await, 202);
    expect(&mount(&lab, &readable, "&from=lib/app").await, 201);
    edge.finish().await;
}

#[tokio::test]
async fn row_51_a_mount_without_from() {
    let (edge, lab, [readable, secret]) = with_a_secret().await;
    let (hidden, absent) = (mount(&lab, &secret, "").await, mount(&lab, &Digest::sha256(b"absent"), "").await);
    expect(&hidden, 202);
    assert_eq!(likeness(&hidden), likeness(&absent));
    let mounted = mount(&lab, &readable, "").await;
    expect(&mounted, 201);
    assert_eq!(mounted.header("docker-content-digest"), Some(readable.to_string().as_str()));
    // Every answer is of the specification's form, also where nothing was asked for.
    let (text, _) = edge.client.raw(b"POST /v2/open/app/blobs/uploads/ HTTP/1.0\r\n\r\n", WAIT).await.expect("a connection");
    assert_eq!(answers(&text)[0].code().as_deref(), Some("UNAUTHORIZED"), "{text}");
    edge.finish().await;
}
