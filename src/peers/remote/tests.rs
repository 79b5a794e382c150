//! The edges of another region, played by hand.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::net::TcpListener;

use super::super::protocol::frame;
use super::{AVOIDED_FOR, Batch, PeerError, RemoteEdges, Segments, Wanted};
use crate::clock::{Clock, Timestamp};
use crate::config::Secret;
use crate::dial::{DialError, Wait};
use crate::inflow::Inflow;
use crate::oci::Digest;
use crate::peers::badge::Badge;
use crate::peers::testing::{Played, TOKEN, answer, edges, vouched};
use crate::peers::{PassError, Passed};

/// One edge that gives one answer.
async fn answering(answer: String) -> (RemoteEdges, Played) {
    let played = Played::new(vec![answer]).await;
    (edges(&[played.address], Clock::system()), played)
}

/// Where nobody takes connections.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn only_who_bears_the_mark_denies() {
    let (repository, digest) = ("team/app".parse().unwrap(), Digest::sha256(b"x"));
    let found = format!(r#"{{"digest":"{digest}","size":1}}"#);
    let unavailable = |retry_after| PeerError::Unavailable { why: String::new(), retry_after };
    for (answer, expected) in [
        (vouched("200 OK", "", &found), Ok(digest)),
        (answer("200 OK", "", &found), Err(PeerError::Broken(String::new()))),
        (vouched("200 OK", "", "{}"), Err(PeerError::Broken(String::new()))),
        (vouched("404 Not Found", "", ""), Err(PeerError::Denied)),
        (answer("404 Not Found", "", ""), Err(PeerError::Broken(String::new()))),
        (answer("401 Unauthorized", "", ""), Err(PeerError::Refused(String::new()))),
        (answer("503 Service Unavailable", "retry-after: 7\r\n", ""), Err(unavailable(Some(Duration::from_secs(7))))),
        (answer("429 Too Many Requests", "", ""), Err(unavailable(None))),
        (vouched("405 Method Not Allowed", "", ""), Err(PeerError::Refused(String::new()))),
        (vouched("302 Found", "location: /x\r\n", ""), Err(PeerError::Broken(String::new()))),
    ] {
        let (edges, played) = answering(answer.clone()).await;
        let resolved = edges.resolve(&repository, Wanted::Blob(&digest)).await.map(|found| found.digest);
        let shown = resolved.clone().map_err(|error| match error {
            PeerError::Refused(_) => PeerError::Refused(String::new()),
            PeerError::Broken(_) => PeerError::Broken(String::new()),
            PeerError::Unavailable { retry_after, .. } => unavailable(retry_after),
            PeerError::Denied => PeerError::Denied,
        });
        assert_eq!(shown, expected, "{answer}: {resolved:?}");
        let heard = played.heard();
        let hex = digest.to_string().split_off("sha256:".len());
        let target = format!("get /outport/v1/resolve?repository=team%2fapp&blob=sha256%3a{hex} http/1.1\r\n");
        assert!(heard[0].starts_with(&target) && heard[0].contains(&format!("authorization: bearer {TOKEN}\r\n")), "{heard:?}");
    }
}

#[tokio::test]
async fn snapshots_are_read_as_they_are() {
    let (edges, played) = answering(vouched("200 OK", "", r#"["1-0","7-3"]"#)).await;
    assert_eq!(edges.snapshots("us.01").await, Ok(vec!["1-0".to_owned(), "7-3".to_owned()]));
    assert!(played.heard()[0].starts_with("get /outport/v1/ledger/us.01/snapshots http/1.1\r\n"));
    let (edges, played) = answering(vouched("200 OK", "", "rows")).await;
    assert_eq!(edges.snapshot_part("us.01", "7-3", "manifest").await, Ok(Bytes::from_static(b"rows")));
    assert!(played.heard()[0].starts_with("get /outport/v1/ledger/us.01/snapshots/7-3/manifest http/1.1\r\n"));
    let (edges, _played) = answering(vouched("404 Not Found", "", "")).await;
    assert_eq!(edges.snapshot_part("us.01", "7-3", "manifest").await, Err(PeerError::Denied));
}

#[tokio::test]
async fn an_edge_that_is_gone_comes_last_for_a_while() {
    let status = r#"{"region":"us","incarnation":"01","seq":3,"clock":{"ms":1,"count":0},"imports":0,"seen":{"us.01":3}}"#;
    let good = || vouched("200 OK", "", status);
    let (dead, alive, clock) = (nobody().await, Played::new(vec![good(), good(), good()]).await, Clock::manual(Timestamp::from_ms(1_000)));
    let us = edges(&[dead, alive.address], clock.clone());
    assert_eq!(us.status().await.unwrap().seq, 3);
    let order = || us.in_order().iter().filter_map(|edge| edge.url.port()).collect::<Vec<u16>>();
    assert_eq!(order(), [alive.address.port(), dead.port()]);
    assert_eq!(us.status().await.unwrap().seen["us.01"], 3);
    clock.advance(AVOIDED_FOR);
    assert_eq!(order(), [dead.port(), alive.address.port()]);
    let alone = edges(&[dead], clock);
    for _ in 0..2 {
        assert!(matches!(alone.status().await, Err(PeerError::Unavailable { .. })));
    }
    let (renamed, _played) = answering(vouched("200 OK", "", &status.replace("\"us\"", "\"eu\""))).await;
    assert!(matches!(renamed.status().await, Err(PeerError::Broken(_))));
}

/// Two regions that start together: who refused a connection may be there a moment later.
#[tokio::test]
async fn an_edge_that_refused_is_asked_again_when_no_other_answers() {
    let (starting, clock) = (nobody().await, Clock::manual(Timestamp::from_ms(1_000)));
    let mute = Played::new(vec![answer("503 Service Unavailable", "", ""); 2]).await;
    let us = edges(&[starting, mute.address], clock);
    assert!(matches!(us.segments("us.01", 0, None).await, Err(PeerError::Unavailable { .. })));
    let _started = Played::at(starting, vec![vouched("204 No Content", "", "")]).await;
    assert_eq!(us.segments("us.01", 0, None).await.unwrap().segments, Segments::None);
    assert_eq!(mute.heard().len(), 2);
}

/// To find out that nobody is there takes time, which whoever asks may not have.
#[tokio::test]
async fn an_edge_that_does_not_answer_a_call_is_left_out() {
    let (gone, clock) = (nobody().await, Clock::manual(Timestamp::from_ms(1_000)));
    let us = edges(&[gone], clock.clone());
    us.failed(&us.0.edges[0], &DialError::Timeout(Wait::Connection));
    assert!(us.in_order().is_empty());
    clock.advance(AVOIDED_FOR);
    assert_eq!(us.in_order().len(), 1);
}

/// What one edge cannot tell, another may.
#[tokio::test]
async fn the_next_edge_is_asked_after_one_that_cannot_tell() {
    let first = Played::new(vec![answer("503 Service Unavailable", "", ""), vouched("404 Not Found", "", "")]).await;
    let second = Played::new(vec![vouched("204 No Content", "", "")]).await;
    let us = edges(&[first.address, second.address], Clock::system());
    assert_eq!(us.segments("us.01", 0, None).await.unwrap().segments, Segments::None);
    assert_eq!(us.segments("us.01", 0, None).await.unwrap().segments, Segments::Unknown);
    assert_eq!((first.heard().len(), second.heard().len()), (2, 1));
}

#[tokio::test]
async fn segments_come_as_they_are() {
    let framed = String::from_utf8(frame(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]).to_vec()).unwrap();
    for (answer, expected) in [
        (
            vouched("200 OK", "outport-position: us.01@9\r\n", &framed),
            Ok(Batch { segments: Segments::Some(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]), tail: Some(9) }),
        ),
        (vouched("200 OK", "", &framed[..5]), Err(())),
        (vouched("200 OK", "", ""), Err(())),
        (vouched("204 No Content", "outport-position: us.01@7\r\n", ""), Ok(Batch { segments: Segments::None, tail: Some(7) })),
        (vouched("410 Gone", "", ""), Ok(Batch { segments: Segments::Trimmed, tail: None })),
        (vouched("404 Not Found", "", ""), Ok(Batch { segments: Segments::Unknown, tail: None })),
        (answer("410 Gone", "", ""), Err(())),
    ] {
        let (edges, played) = answering(answer).await;
        let batch = edges.segments("us.01J0", 7, Some(Duration::from_secs(99))).await;
        assert_eq!(batch.map_err(|error| assert!(matches!(error, PeerError::Broken(_)), "{error}")), expected);
        assert!(played.heard()[0].starts_with("get /outport/v1/ledger/us.01j0?after=7&wait=30 http/1.1\r\n"), "{:?}", played.heard());
    }
}

#[tokio::test]
async fn a_part_of_a_content_is_the_part_that_was_asked_for() {
    let digest = Digest::sha256(b"0123456789");
    for (answer, from, came) in [
        (vouched("206 Partial Content", "content-range: bytes 4-9/10\r\n", "456789"), 4, Ok("456789")),
        (vouched("206 Partial Content", "content-range: bytes 3-9/10\r\n", "3456789"), 4, Err("broken")),
        (vouched("206 Partial Content", "", "456789"), 4, Err("broken")),
        (vouched("200 OK", "", "0123456789"), 0, Ok("0123456789")),
        (vouched("200 OK", "", "0123456789"), 4, Err("broken")),
        (answer("206 Partial Content", "content-range: bytes 4-9/10\r\n", "456789"), 4, Err("broken")),
        (vouched("404 Not Found", "", ""), 4, Err("denied")),
        // Cut: the rest is asked for anew.
        (vouched("206 Partial Content", "content-range: bytes 4-9/10\r\n", "456789").replace("4567", ""), 4, Err("unavailable")),
    ] {
        let (edges, played) = answering(answer).await;
        let reading = async {
            let (mut transfer, mut whole) = (edges.content(&digest, from..10).await?, Vec::new());
            while let Some(bytes) = transfer.next().await? {
                whole.extend_from_slice(&bytes);
            }
            Ok::<_, PeerError>(String::from_utf8(whole).unwrap())
        };
        let read = reading.await;
        assert_eq!(read.as_deref().map_err(PeerError::outcome), came, "{read:?}");
        assert!(played.heard()[0].contains(&format!("range: bytes={from}-9\r\n")), "{:?}", played.heard());
    }
}

/// Passes a PUT with a body and the client's own credentials.
async fn pass(edges: &RemoteEdges) -> Result<(u16, Bytes), PassError> {
    let (uri, mut headers) = ("/v2/a/manifests/v1?x=%2F".parse::<Uri>().unwrap(), HeaderMap::new());
    for (name, value) in [("authorization", "Basic eDp5"), ("host", "near.example"), ("outport-peer", "forged"), ("content-type", "a/b")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let passed = Passed { method: &Method::PUT, uri: &uri, headers: &headers, request_id: "id-1" };
    let mut body = Inflow::whole("body");
    let answer = edges.pass(passed, &mut body).await?;
    assert!(!answer.headers().contains_key("outport-peer"));
    Ok((answer.status().as_u16(), answer.into_body()))
}

#[tokio::test]
async fn a_request_is_passed_on_to_the_first_edge_that_is_there() {
    let (dead, alive) = (nobody().await, Played::new(vec![vouched("201 Created", "location: /v2/x\r\n", "kept")]).await);
    assert_eq!(pass(&edges(&[dead, alive.address], Clock::system())).await, Ok((201, Bytes::from("kept"))));
    let heard = alive.heard().remove(0);
    let mark = {
        let mut mark = HeaderMap::new();
        Badge::of_peers(&Secret::new(TOKEN.to_owned())).put_on_request(&mut mark);
        mark["outport-peer"].to_str().unwrap().to_ascii_lowercase()
    };
    assert!(heard.starts_with("put /v2/a/manifests/v1?x=%2f http/1.1\r\n") && heard.ends_with("\r\n\r\nbody"), "{heard}");
    for line in [
        "authorization: basic edp5",
        &format!("host: {}", alive.address),
        &format!("outport-peer: {mark}"),
        "x-request-id: id-1",
        "content-length: 4",
    ] {
        assert!(heard.contains(&format!("\r\n{line}\r\n")), "{line} is not in {heard}");
    }
    assert_eq!(pass(&edges(&[dead], Clock::system())).await, Err(PassError::Gone));
    let (stranger, _played) = answering(answer("404 Not Found", "", "")).await;
    assert!(matches!(pass(&stranger).await, Err(PassError::Broken(_))));
    let (cut, _played) = answering("HTTP/1.1".to_owned()).await;
    assert!(matches!(pass(&cut).await, Err(PassError::Broken(_))), "nobody can tell what became of it");
}
