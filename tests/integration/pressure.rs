//! An edge that runs short of something, or is stopped for a while: transfers in flight finish, and it recovers by itself.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};

use crate::harness::edge::Settings;
use crate::harness::image::{Blob, Image};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn out_of_file_descriptors() {
    let (origin, image, blob) = (Origin::start().await, Image::new(1, &[5_000, MIB]), Blob::seeded(2, 16 * MIB));
    origin.push("app", "v1", &image);
    origin.push_blob("app", &blob);
    origin.script(Match::blob(blob.digest()), Fault::Slow(8 * MIB));
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let mut download = edge.client.open("GET", &path, &[]).await.expect("a head");
    let room = edge.all_open_files() as u64 + 20;
    edge.limit(Resource::Nofile, Rlimit { current: Some(room), maximum: Some(room) });
    // More connections than it can take; what it does not accept waits in the kernel's queue.
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(edge.client.connect().await.expect("the kernel's queue"));
    }
    let used = edge.processor_time();
    let since = Instant::now();
    assert_eq!(download.compare(&blob, 0).await.expect("a transfer in flight finishes").bytes, blob.size_bytes());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = edge.processor_time().saturating_sub(used);
    assert!(busy < since.elapsed() / 2, "it backs off, and used {busy:?} of {:?}", since.elapsed());
    drop(idle);
    let since = Instant::now();
    while pull(&edge.client, "origin.test/app", "v1", &image).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not recover");
    }
    edge.finish().await;
}

#[tokio::test]
async fn stopped_for_a_while_and_continued() {
    let (origin, image, blob) = (Origin::start().await, Image::new(1, &[5_000, MIB]), Blob::seeded(2, 16 * MIB));
    origin.push("app", "v1", &image);
    origin.push_blob("app", &blob);
    origin.script(Match::blob(blob.digest()), Fault::Slow(8 * MIB));
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let mut download = edge.client.open("GET", &path, &[]).await.expect("a head");
    edge.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    edge.signal(Signal::CONT);
    assert_eq!(download.compare(&blob, 0).await.expect("it goes on").bytes, blob.size_bytes());
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    edge.finish().await;
}

/// Readers that never read hold little memory each, also while their blob is still coming.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_24_readers_that_never_read_hold_little_memory() {
    const READERS: u64 = 300;
    let (origin, blob) = (Origin::start().await, Blob::seeded(24, 128 * MIB));
    origin.push_blob("app", &blob);
    let edge = Settings::new().limits("write_timeout = \"3s\"").upstream("origin.test", &origin).spawn().await;
    let idle = edge.resident_bytes();
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(edge.client.open("GET", &path, &[]).await.expect("a head"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let each = edge.resident_bytes().saturating_sub(idle) / READERS;
    assert!(each < 96 << 10, "{} KiB for each reader", each >> 10);
    let since = Instant::now();
    while edge.connections().await > 8 {
        assert!(since.elapsed() < Duration::from_secs(15), "{} connections are still open", edge.connections().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(readers.remove(0).compare(&blob, 0).await.is_err(), "it was cut, not ended");
    edge.finish().await;
}

/// A crowd of connections that say nothing is shown out, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_connections_that_say_nothing_are_closed() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000]));
    origin.push("app", "v1", &image);
    let edge =
        Settings::new().limits("header_timeout = \"2s\"").limits("idle_timeout = \"2s\"").upstream("origin.test", &origin).spawn().await;
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(edge.client.connect().await.expect("a connection"));
    }
    for wire in &mut silent[..500] {
        wire.send(b"GET /v2/ HTTP/1.1\r\nHost: ed").await.expect("a part of a head");
    }
    let took = pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let since = Instant::now();
    while edge.connections().await > 8 {
        assert!(since.elapsed() < Duration::from_secs(10), "{} connections are still open", edge.connections().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    edge.finish().await;
}
