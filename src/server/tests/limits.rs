//! Bad input, rows 22 to 25: clients that are slow, and how many there may be.

use super::*;
use tokio::time::Instant;

/// The server ends this connection without an answer, in good time, for this reason.
async fn ends(edge: &Edge, stream: &mut (impl AsyncRead + Unpin), reason: &str) {
    let began = Instant::now();
    let answer = read_to_end(stream).await;
    assert_eq!(answer, "");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    gone(edge, 0).await;
    assert!(edge.refused(reason), "{}", edge.metrics.render());
}

/// Waits until so many connections are left.
async fn gone(edge: &Edge, left: i64) {
    let gone = tokio::time::timeout(Duration::from_secs(3), async {
        while edge.metrics.connections.get() != left {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    gone.await.unwrap();
}

#[tokio::test]
async fn row_22_slow_heads_are_cut() {
    let edge = Edge::plain(limits()).await;
    let mut stream = edge.connect().await;
    let (mut read, mut write) = stream.split();
    let dribble = async {
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n".iter().cycle() {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = ends(&edge, &mut read, "header_timeout") => {}
        () = dribble => panic!("the socket broke before its reader saw the end"),
    }
}

#[tokio::test]
async fn row_22_a_connection_that_says_nothing_is_cut() {
    let edge = Edge::plain(limits()).await;
    let mut stream = edge.connect().await;
    ends(&edge, &mut stream, "header_timeout").await;
}

#[tokio::test]
async fn row_22_a_later_head_has_its_own_time() {
    let edge = Edge::plain(Limits { idle_timeout: Duration::from_secs(10), ..limits() }).await;
    let mut stream = edge.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    stream.write_all(b"GET / HT").await.unwrap();
    ends(&edge, &mut stream, "header_timeout").await;
}

#[tokio::test]
async fn a_quiet_connection_is_closed() {
    let edge = Edge::plain(limits()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_answer(&mut stream).await.unwrap();
    ends(&edge, &mut stream, "idle").await;
}

#[tokio::test]
async fn row_23_slow_bodies_are_cut() {
    let edge = Edge::plain(Limits { min_body_rate: ByteSize(10_000), ..limits() }).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = stream.split();
    let dribble = async {
        while write.write_all(&[b'x'; 10]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = ends(&edge, &mut read, "slow_body") => {}
        () = dribble => panic!("the socket broke before its reader saw the end"),
    }
}

#[tokio::test]
async fn row_23_a_steady_body_may_take_its_time() {
    let edge = Edge::plain(Limits { min_body_rate: ByteSize(10_000), ..limits() }).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 30000\r\n\r\n").await.unwrap();
    for _ in 0..30 {
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(read_to_end(&mut stream).await.contains("30000 bytes"));
}

/// What a client that never read can still read after the cut was sent before; the rest was held by the server.
async fn held(edge: &Edge, stream: &mut (impl AsyncRead + Unpin)) -> usize {
    let cut = tokio::time::timeout(Duration::from_secs(5), async {
        while !edge.refused("slow_reader") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    cut.await.unwrap();
    gone(edge, 0).await;
    let handed_out = edge.seen.handed_out_bytes.load(Ordering::Relaxed);
    let mut arrived = Vec::new();
    let _ = stream.read_to_end(&mut arrived).await;
    let sent = arrived.iter().filter(|byte| **byte == b'x').count();
    handed_out.checked_sub(sent).unwrap()
}

#[tokio::test]
async fn row_24_who_never_reads_holds_little_plain() {
    let edge = Edge::plain(limits()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let held = held(&edge, &mut stream).await;
    assert!(held <= 32 * 1024, "{held} bytes");
}

#[tokio::test]
async fn row_24_who_never_reads_holds_little_under_tls() {
    let (edge, identity) = Edge::tls(limits()).await;
    let mut stream = tls_connect(&edge, &identity.certificate, "edge.test", &["http/1.1"]).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let held = held(&edge, &mut stream).await;
    assert!(held <= 128 * 1024, "{held} bytes");
}

#[tokio::test]
async fn row_25_idle_handshakes_are_cut() {
    let (edge, _) = Edge::tls(limits()).await;
    let mut stream = edge.connect().await;
    stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    ends(&edge, &mut stream, "header_timeout").await;
}

#[tokio::test]
async fn a_request_has_a_total_time() {
    let edge = Edge::plain(Limits { request_timeout: Duration::from_millis(300), ..limits() }).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    ends(&edge, &mut stream, "request_timeout").await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let edge = Edge::plain(Limits { connections: 2, ..patient() }).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (held, _also_held) = (edge.connect().await, edge.connect().await);
    gone(&edge, 2).await;
    let mut third = edge.connect().await;
    third.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), third.read_u8()).await;
    assert!(early.is_err(), "served beyond the limit");
    assert_eq!(edge.metrics.connections.get(), 2);
    drop(held);
    assert!(read_to_end(&mut third).await.starts_with("HTTP/1.1 200"));
}
