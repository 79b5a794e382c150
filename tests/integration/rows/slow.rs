//! Clients that take their time, rows 22 to 25, at the whole edge: its configured limits reach its sockets.

use std::time::{Duration, Instant};

use outport::config::{Config, process_environment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{APP, MIB, with_certificate};
use crate::harness::client::Client;
use crate::harness::disk::wait_for_blob;
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::tls::Authority;

/// The limit of these tests, and when the edge must have acted on it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(1);
const CLOSED_BY: Duration = Duration::from_secs(4);

/// Sends `first` at once and then a byte of `drip` five times a second. Returns what came back until the edge closed, and when it did.
async fn drip(client: &Client, first: &str, drip: &'static str) -> (String, Duration) {
    let stream = TcpStream::connect(client.address()).await.expect("a connection");
    let (mut read, mut write) = stream.into_split();
    write.write_all(first.as_bytes()).await.expect("an open connection");
    let since = Instant::now();
    let dripping = tokio::spawn(async move {
        for byte in drip.bytes().cycle() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        // Nothing to drip: silence on an open connection.
        std::future::pending::<()>().await;
    });
    let mut back = Vec::new();
    // It may be reset: what was said before counts.
    let _ = tokio::time::timeout(Duration::from_secs(20), read.read_to_end(&mut back)).await;
    dripping.abort();
    (String::from_utf8_lossy(&back).into_owned(), since.elapsed())
}

#[tokio::test]
async fn rows_22_23_and_25_slow_heads_bodies_and_handshakes_are_closed() {
    let defaults = Config::parse("", std::path::Path::new("."), &process_environment).expect("the defaults").limits;
    assert!(defaults.header_timeout <= Duration::from_secs(10) && defaults.min_body_rate.0 > 0);
    let limits = |settings: Settings| settings.limits("header_timeout = \"1s\"").limits("min_body_rate = \"1KiB\"");
    let authority = Authority::new("Edge's authority");
    let origin = Origin::start().await;
    let plain = limits(Settings::new()).upstream("origin.test", &origin).start().await;
    let tls = limits(with_certificate(Settings::new(), &authority, &["edge.test"])).start().await;
    let request = format!("GET {APP}/manifests/v1 HTTP/1.1\r\nHost: edge\r\n");
    let keep = format!("GET /v2/ HTTP/1.1\r\nHost: edge\r\n\r\n{request}");
    let command = "POST /outport/v1/refresh HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n{";
    let chunked = format!("{request}Transfer-Encoding: chunked\r\n\r\n");
    let hello = "\x16\x03\x01\x02\x00\x01";
    let cases = [
        (&plain.client, "row 22: nothing", "", "", 0),
        (&plain.client, "row 22: a slow head", request.as_str(), "X-Slow: y\r\n", 0),
        (&plain.client, "row 22: a slow target", "GET /v2/", "a", 0),
        (&plain.client, "row 22: a second head", keep.as_str(), "X-Slow: y\r\n", 1),
        (&plain.client, "row 23: a slow body", command, " ", 0),
        (&plain.client, "row 23: a slow chunk", chunked.as_str(), "1", 0),
        (&tls.client, "row 25: no handshake", "", "", 0),
        (&tls.client, "row 25: half a handshake", hello, "", 0),
        (&tls.client, "row 25: a slow handshake", hello, "\0", 0),
    ];
    let all = cases.map(async |(client, what, first, byte, served)| {
        let (back, after) = drip(client, first, byte).await;
        let good = back.matches("HTTP/1.1 200").count();
        assert_eq!(good, served, "{what}: {back}");
        assert!(after >= LIMIT / 2 && after < CLOSED_BY, "{what}: closed after {after:?}: {back}");
    });
    futures_util::future::join_all(all).await;
    plain.finish().await;
    tls.finish().await;
}

/// How much memory readers that never read take more than quiet connections, and that they are sent away in the end.
async fn readers_that_never_read(settings: Settings, each_bytes: u64) {
    const READERS: u64 = 250;
    /// What the task of a request takes besides the answer's buffers.
    const TASK_BYTES: u64 = 16 * 1024;
    let (origin, image) = (Origin::start().await, Image::new(24, &[32 * MIB]));
    origin.push("app", "v1", &image);
    let edge = settings.limits("write_timeout = \"5s\"").upstream("origin.test", &origin).spawn().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    wait_for_blob(&edge.data_dir(), image.blobs[1].digest()).await;
    let files = edge.open_files();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let wire = edge.client.connect().await.expect("a connection");
        readers.push(wire.ask("GET", "/v2/", "edge").await.expect("an answer").1);
    }
    let quiet = edge.resident_bytes();
    let request = format!("GET {APP}/blobs/{} HTTP/1.1\r\nHost: edge\r\n\r\n", image.blobs[1].digest());
    for wire in &mut readers {
        wire.send(request.as_bytes()).await.expect("an open connection");
    }
    let mut most = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(edge.resident_bytes().saturating_sub(quiet) / READERS);
    }
    assert!(most <= each_bytes + TASK_BYTES, "a reader that never reads takes {} KiB", most / 1024);
    assert_they_go(&edge, files).await;
    drop(readers);
    edge.finish().await;
}

/// Their connections are closed although they hold them open.
async fn assert_they_go(edge: &EdgeProcess, files: usize) {
    let since = Instant::now();
    while edge.open_files() > files + 2 {
        assert!(since.elapsed() < Duration::from_secs(20), "{} files are open, {files} were before", edge.open_files());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn row_24_readers_that_never_read_hold_little_plain() {
    readers_that_never_read(Settings::new(), 32 * 1024).await;
}

#[tokio::test]
async fn row_24_readers_that_never_read_hold_little_under_tls() {
    let authority = Authority::new("Edge's authority");
    readers_that_never_read(with_certificate(Settings::new(), &authority, &["edge.test"]), 128 * 1024).await;
}
