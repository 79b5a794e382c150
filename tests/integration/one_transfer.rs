//! One upstream transfer for a blob, however many clients want it, whoever of them leaves, and however often it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::client::{Client, Compared};
use crate::harness::disk::wait_for_blob;
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::{Blob, digest_of};
use crate::harness::origin::Origin;
use crate::harness::script::{Fault, Match};

const MIB: u64 = 1 << 20;
/// What a fill and its readers may take in memory beyond an idle edge.
const MEMORY: u64 = 64 * MIB;

/// Beyond 200 clients it is their connections that count.
fn memory_for(clients: u64) -> u64 {
    MEMORY.max(clients * 96 * 1024)
}

/// Set by `tests/run --full`: the figures of the promise in place of those that a developer has time for.
fn is_full() -> bool {
    std::env::var_os("OUTPORT_FULL").is_some()
}

async fn edge_with(origin: &Origin, blob: &Blob) -> (EdgeProcess, String) {
    origin.push_blob("a/b", blob);
    let edge = Settings::new().upstream("origin.test", origin).spawn().await;
    (edge, format!("/v2/origin.test/a/b/blobs/{}", blob.digest()))
}

/// Gets the blob and compares every byte.
async fn get(client: Client, path: String, blob: Blob) -> Compared {
    let mut exchange = client.open("GET", &path, &[]).await.expect("a head");
    assert_eq!(exchange.status, 200);
    let compared = exchange.compare(&blob, 0).await.expect("a whole body");
    assert_eq!(compared.bytes, blob.size_bytes());
    compared
}

/// Watches the resident memory of a process until told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    highest: Arc<AtomicU64>,
    idle: u64,
}

impl Watch {
    fn start(edge: &EdgeProcess) -> Watch {
        let watch = Watch { stop: Arc::default(), highest: Arc::default(), idle: edge.resident_bytes() };
        let (stop, highest, resident) = (watch.stop.clone(), watch.highest.clone(), edge.memory());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                highest.fetch_max(resident.bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        watch
    }

    /// How much more than at the start was resident at some time.
    fn growth(&self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.highest.load(Ordering::Relaxed).saturating_sub(self.idle)
    }
}

/// So many clients pull one cold blob at once: one transfer, right bytes for all, the first of them before the transfer's end.
async fn crowd(clients: u64, size: u64, transfer_time: Duration) {
    let (origin, blob) = (Origin::start().await, Blob::seeded(512, size));
    let (edge, path) = edge_with(&origin, &blob).await;
    // Slow enough that everybody is there before its end.
    origin.script(Match::Blobs, Fault::Slow(size * 1000 / transfer_time.as_millis() as u64));
    let watch = Watch::start(&edge);
    let mut crowd = JoinSet::new();
    for _ in 0..clients {
        crowd.spawn(get(edge.client.clone(), path.clone(), blob.clone()));
    }
    let all = crowd.join_all().await;
    let growth = watch.growth();
    let ended_at = *origin.requests()[0].ended_at.get().expect("the transfer ended");
    assert_eq!(origin.count(&Match::Blobs.get()), 1);
    assert_eq!(all.len() as u64, clients);
    // What is small is verified before its first byte goes out.
    let late = all.iter().filter(|compared| size > 64 << 10 && compared.first_byte_at.expect("bytes") >= ended_at).count();
    assert_eq!(late, 0, "clients that got their first byte after the transfer's end");
    assert!(growth < memory_for(clients), "{} MiB more were resident", growth / MIB);
    let file = wait_for_blob(&edge.data_dir(), blob.digest()).await;
    assert_eq!(digest_of(&std::fs::read(file).expect("a cached file")), blob.digest());
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_200_of_one_cold_blob_are_one_transfer() {
    let (clients, size) = if is_full() { (200, 512 * MIB) } else { (200, 64 * MIB) };
    crowd(clients, size, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_depend_on_the_size_of_a_blob() {
    crowd(16, 512 * MIB, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_1000_of_a_small_blob_are_one_transfer() {
    crowd(1000, 20_000, Duration::from_secs(3)).await;
}

/// The same when the client that asked first leaves after a tenth.
async fn crowd_whose_first_leaves(clients: u64, size: u64, transfer_time: Duration) {
    let (origin, blob) = (Origin::start().await, Blob::seeded(3, size));
    let (edge, path) = edge_with(&origin, &blob).await;
    origin.script(Match::Blobs, Fault::Slow(size * 1000 / transfer_time.as_millis() as u64));
    let watch = Watch::start(&edge);
    let mut first = edge.client.open("GET", &path, &[]).await.expect("a head");
    let mut crowd = JoinSet::new();
    for _ in 1..clients {
        crowd.spawn(get(edge.client.clone(), path.clone(), blob.clone()));
    }
    let mut bytes = 0;
    while bytes < blob.size_bytes() / 10 {
        bytes += first.next().await.expect("its first tenth").len() as u64;
    }
    drop(first);
    assert_eq!(crowd.join_all().await.len() as u64, clients - 1);
    assert_eq!(origin.count(&Match::Blobs.get()), 1);
    let growth = watch.growth();
    assert!(growth < memory_for(clients), "{} MiB more were resident", growth / MIB);
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_1000_of_which_the_first_leaves() {
    crowd_whose_first_leaves(1000, 8 * MIB, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_200_of_which_the_first_leaves_at_a_tenth() {
    let size = if is_full() { 512 * MIB } else { 48 * MIB };
    crowd_whose_first_leaves(200, size, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_fill_goes_on_when_its_only_client_leaves() {
    let (origin, blob) = (Origin::start().await, Blob::seeded(4, 8 * MIB));
    let (edge, path) = edge_with(&origin, &blob).await;
    origin.script(Match::Blobs, Fault::Slow(8 * MIB));
    let mut only = edge.client.open("GET", &path, &[]).await.expect("a head");
    only.next().await.expect("a first part");
    drop(only);
    wait_for_blob(&edge.data_dir(), blob.digest()).await;
    get(edge.client.clone(), path, blob.clone()).await;
    assert_eq!(origin.count(&Match::Blobs.get()), 1);
    edge.finish().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_up_nobody() {
    let (origin, blob) = (Origin::start().await, Blob::seeded(5, 64 * MIB));
    let (edge, path) = edge_with(&origin, &blob).await;
    let mut slow = edge.client.open("GET", &path, &[]).await.expect("a head");
    let started = Instant::now();
    get(edge.client.clone(), path, blob.clone()).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(slow.compare(&blob, 0).await.expect("a whole body").bytes, blob.size_bytes());
    assert_eq!(origin.count(&Match::Blobs.get()), 1);
    edge.finish().await;
}

/// The connection to the origin breaks ten times, a twelfth of the blob after it began: the clients complete, and the origin sends not
/// more than `most_twelfths`.
async fn broken_ten_times(clients: u64, size: u64, fault: fn(u64) -> Fault, most_twelfths: u64) {
    let (origin, blob) = (Origin::start().await, Blob::seeded(6, size));
    let (edge, path) = edge_with(&origin, &blob).await;
    origin.script(Match::Blobs.get(), fault(size / 12).times(10));
    let watch = Watch::start(&edge);
    let mut crowd = JoinSet::new();
    for _ in 0..clients {
        crowd.spawn(get(edge.client.clone(), path.clone(), blob.clone()));
    }
    crowd.join_all().await;
    assert_eq!(origin.transfers(blob.digest()), 11);
    let ranges: Vec<_> = origin.requests().iter().map(|logged| logged.header("range").map(str::to_owned)).collect();
    assert!(ranges[0].is_none() && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    let sent = origin.sent_bytes(blob.digest());
    assert!(sent <= size / 12 * most_twelfths, "{sent} bytes were sent of {size}");
    let growth = watch.growth();
    assert!(growth < MEMORY, "{} MiB more were resident", growth / MIB);
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_cuts_ten_times_is_resumed_with_range() {
    let (clients, size) = if is_full() { (200, 504 * MIB) } else { (200, 48 * MIB) };
    broken_ten_times(clients, size, Fault::CutAfter, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_resets_ten_times_is_resumed_with_range() {
    // A reset takes away what was sent and not yet read.
    broken_ten_times(4, 48 * MIB, Fault::ResetAfter, 12 + 10).await;
}

#[tokio::test]
async fn head_and_ranges_of_a_cold_blob_fetch_it_once() {
    let (origin, blob) = (Origin::start().await, Blob::seeded(7, 8 * MIB));
    let (edge, path) = edge_with(&origin, &blob).await;
    let head = edge.client.head(&path).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(blob.size_bytes().to_string().as_str())));
    origin.script(Match::Blobs, Fault::Slow(16 * MIB));
    let ranged = |from: u64| {
        let (client, path, blob) = (edge.client.clone(), path.clone(), blob.clone());
        async move {
            let range = format!("bytes={from}-");
            let mut exchange = client.open("GET", &path, &[("Range", &range)]).await.expect("a head");
            assert_eq!(exchange.status, 206);
            assert_eq!(exchange.compare(&blob, from).await.expect("a whole part").bytes, blob.size_bytes() - from);
        }
    };
    tokio::join!(ranged(5 * MIB), ranged(0), ranged(MIB), get(edge.client.clone(), path.clone(), blob.clone()));
    assert_eq!(origin.transfers(blob.digest()), 1);
    assert!(origin.count(&Match::Blobs.head()) <= 1);
    edge.finish().await;
}
