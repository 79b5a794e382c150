//! The store as its callers see it, on real files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::timeout;

use super::disk::Fault;
use super::growing::WINDOW_BYTES;
use super::*;
use crate::clock::Timestamp;

const MIB: usize = 1 << 20;
/// Long enough for a task that could go on to do so.
const A_MOMENT: Duration = Duration::from_millis(50);

struct Place {
    dir: TempDir,
    clock: Clock,
    metrics: Metrics,
}

impl Place {
    fn new() -> Place {
        let clock = Clock::manual(Timestamp::from_ms(1_000_000_000));
        Place { dir: tempfile::tempdir().unwrap(), clock, metrics: Metrics::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    async fn try_open(&self, max_bytes: u64) -> Result<Store, StoreError> {
        Store::open(Settings { dir: self.path(), max_bytes }, self.clock.clone(), self.metrics.clone()).await
    }

    async fn open(&self) -> Store {
        self.try_open(u64::MAX).await.unwrap()
    }

    /// Opens again once the task of a dropped store has let go.
    async fn reopen(&self) -> Store {
        for _ in 0..500 {
            match self.try_open(u64::MAX).await {
                Err(StoreError::Locked(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                opened => return opened.unwrap(),
            }
        }
        panic!("the folder stays locked");
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn blob_files(&self) -> usize {
        files_below(&self.path().join("blobs"))
    }
}

fn files_below(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

fn bytes(seed: u64, count: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

async fn all(mut region: Region, max: usize) -> Result<Vec<u8>, ContentError> {
    let mut whole = Vec::new();
    while let Some(block) = region.next(max).await? {
        whole.extend_from_slice(&block);
    }
    Ok(whole)
}

async fn put(store: &Store, bytes: &Bytes) -> Digest {
    let digest = Digest::sha256(bytes);
    let mut ingest = store.ingest(digest, Some(bytes.len() as u64));
    ingest.write(bytes.clone()).await.unwrap();
    ingest.finish().await.unwrap();
    digest
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// What the database counts, once nothing waits.
async fn counted(store: &Store, blobs: u64, held_bytes: u64) {
    let index = &store.0.shared.index;
    eventually(&format!("{blobs} blobs of {held_bytes} bytes"), || {
        index.is_open() && index.agrees() && !index.has_changes() && (index.blobs(), index.held_bytes()) == (blobs, held_bytes)
    })
    .await;
}

fn flip(path: &Path, offset: u64) {
    // The clock of file times ticks every few milliseconds.
    std::thread::sleep(Duration::from_millis(20));
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_follow_one_growing_blob() {
    let place = Place::new();
    let store = place.open().await;
    let whole = bytes(1, 3 * MIB + 7);
    let size = whole.len() as u64;
    let mut ingest = store.ingest(Digest::sha256(&whole), None);
    let content = ingest.content();
    assert_eq!(content.size_bytes(), None);
    let ranges = [0..u64::MAX, 0..size, 5..6, size - 1..size, 1_000_000..2_500_000, size - 3..u64::MAX, size..u64::MAX];
    let readers: Vec<_> = (0..56)
        .map(|number| {
            let range = ranges[number % ranges.len()].clone();
            let region = content.region(range.clone());
            tokio::spawn(async move { (range, all(region, 1_000 + number * 9_000).await) })
        })
        .collect();
    for piece in whole.chunks(37_777) {
        ingest.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(ingest.position(), size);
    let kept = ingest.finish().await.unwrap();
    for reader in readers {
        let (range, read) = reader.await.unwrap();
        let part = &whole[range.start as usize..range.end.min(size) as usize];
        assert!(read.unwrap() == part, "{range:?}");
    }
    assert_eq!((content.size_bytes(), kept.size_bytes()), (Some(size), Some(size)));
    assert!(all(kept.whole(), MIB).await.unwrap() == whole);
    assert!(all(store.blob(&Digest::sha256(&whole)).await.unwrap().whole(), MIB).await.unwrap() == whole);
    assert_eq!(files_below(&place.path().join("partial")), 0);
}

#[tokio::test]
async fn first_bytes_are_read_at_once_and_the_last_one_once_verified() {
    let place = Place::new();
    let store = place.open().await;
    let digest = Digest::sha256(b"0123456789");
    let mut ingest = store.ingest(digest, Some(10));
    let content = ingest.content();
    assert!(timeout(A_MOMENT, content.started()).await.is_err());
    ingest.write(Bytes::from_static(b"0123456789")).await.unwrap();
    content.started().await.unwrap();
    let mut region = content.whole();
    assert_eq!(region.next(100).await.unwrap().unwrap(), "012345678");
    assert!(timeout(A_MOMENT, region.next(100)).await.is_err());
    assert!(timeout(A_MOMENT, content.complete()).await.is_err());
    assert!(store.blob(&digest).await.is_none());
    ingest.finish().await.unwrap();
    assert_eq!(region.next(100).await.unwrap().unwrap(), "9");
    assert_eq!(region.next(100).await.unwrap(), None);
    content.complete().await.unwrap();
}

#[tokio::test]
async fn what_does_not_verify_leaves_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let digest = Digest::sha256(b"0123456789");
    // Wrong bytes; more than announced; fewer; given up; dropped.
    for (size, sent) in [(Some(10), "012345678x"), (Some(9), "0123456789"), (Some(10), "01234")] {
        let mut ingest = store.ingest(digest, size);
        let content = ingest.content();
        let written = ingest.write(Bytes::from_static(sent.as_bytes())).await;
        let outcome = match written {
            Ok(()) => ingest.finish().await.map(|_| ()),
            Err(why) => Err(why),
        };
        let expected = match sent.len() {
            5 => IngestError::Short { position: 5, size_bytes: 10 },
            _ => IngestError::Mismatch,
        };
        assert_eq!(outcome, Err(expected), "{sent}");
        let read = all(content.whole(), 100).await.unwrap_err();
        assert_eq!(read == ContentError::Mismatch, sent.len() == 10, "{read}");
        assert_eq!(content.complete().await, Err(read));
    }
    let mut ingest = store.ingest(digest, None);
    let content = ingest.content();
    ingest.write(Bytes::from_static(b"012")).await.unwrap();
    ingest.abort("reset by peer".into());
    assert_eq!(all(content.whole(), 100).await, Err(ContentError::Broken("reset by peer".into())));
    let mut ingest = store.ingest(digest, None);
    let content = ingest.content();
    ingest.write(Bytes::from_static(b"012")).await.unwrap();
    drop(ingest);
    assert!(matches!(content.complete().await, Err(ContentError::Broken(_))));

    assert!(store.blob(&digest).await.is_none());
    assert_eq!(place.blob_files(), 0);
    eventually("partial/ is empty", || files_below(&place.path().join("partial")) == 0).await;
    eventually("nothing is counted", || store.0.shared.partial_bytes.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let place = Place::new();
    let store = place.open().await;
    for size in [None, Some(0)] {
        let ingest = store.ingest(Digest::sha256(b""), size);
        let content = ingest.content();
        assert!(timeout(A_MOMENT, content.started()).await.is_err());
        ingest.finish().await.unwrap();
        content.started().await.unwrap();
        assert!(all(content.whole(), 10).await.unwrap().is_empty());
    }
    assert_eq!(store.blob(&Digest::sha256(b"")).await.unwrap().size_bytes(), Some(0));
}

#[tokio::test]
async fn a_file_deleted_behind_our_back_is_a_miss_and_its_readers_read_on() {
    let place = Place::new();
    let store = place.open().await;
    let whole = bytes(0, 200_000);
    let digest = put(&store, &whole).await;
    counted(&store, 1, 200_000).await;
    let mut region = store.blob(&digest).await.unwrap().whole();
    let mut read = region.next(1_000).await.unwrap().unwrap().to_vec();
    fs::remove_file(store.0.shared.layout.blob(&digest)).unwrap();
    assert!(store.blob(&digest).await.is_none());
    read.extend(all(region, 50_000).await.unwrap());
    assert!(read == whole);
    counted(&store, 0, 0).await;
}

#[tokio::test]
async fn a_flipped_byte_is_never_completed() {
    for size in [50_000, 5 * MIB] {
        for offset in [0, size as u64 / 2, size as u64 - 1] {
            let place = Place::new();
            let mut store = place.open().await;
            let whole = bytes(offset, size);
            let digest = put(&store, &whole).await;
            if offset != 0 {
                store.close().await;
                store = place.open().await;
            } else {
                assert!(store.blob(&digest).await.is_some());
            }
            flip(&store.0.shared.layout.blob(&digest), offset);
            if let Some(content) = store.blob(&digest).await {
                assert!(size > 64 * 1024);
                assert_eq!(all(content.whole(), 100_000).await, Err(ContentError::Mismatch));
                assert_eq!(content.complete().await, Err(ContentError::Mismatch));
            }
            assert!(store.blob(&digest).await.is_none());
            assert_eq!(place.metric("outport_cache_corrupt_total"), Some(1.0));
            assert_eq!(files_below(&place.path().join("quarantine")), 1);
            counted(&store, 0, 0).await;
            // Fetched again, it is as good as new.
            put(&store, &whole).await;
            assert!(all(store.blob(&digest).await.unwrap().whole(), MIB).await.unwrap() == whole);
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_good_file_of_an_earlier_process_is_verified_once_and_served() {
    let place = Place::new();
    let store = place.open().await;
    let whole = bytes(3, 2 * MIB);
    let digest = put(&store, &whole).await;
    store.close().await;
    let store = place.open().await;
    let first = store.blob(&digest).await.unwrap();
    assert!(all(first.whole(), MIB).await.unwrap() == whole);
    first.complete().await.unwrap();
    let mut sendable = store.blob(&digest).await.unwrap().whole();
    assert!(sendable.next_piece(MIB).await.unwrap().is_some_and(|piece| piece.size_bytes() > 0));
    let long = Digest::of(crate::oci::Algorithm::Sha512, b"sha512");
    let mut ingest = store.ingest(long, Some(6));
    ingest.write(Bytes::from_static(b"sha512")).await.unwrap();
    ingest.finish().await.unwrap();
    store.close().await;
    let store = place.open().await;
    assert_eq!(all(store.blob(&long).await.unwrap().whole(), 10).await.unwrap(), b"sha512");
    assert_eq!(store.verify().await, VerifyReport { blobs: 2, size_bytes: 2 * MIB as u64 + 6, ..VerifyReport::default() });
}

#[tokio::test]
async fn verify_finds_what_look_ups_did_not() {
    let place = Place::new();
    let store = place.open().await;
    let good = put(&store, &bytes(1, 100_000)).await;
    let bad = put(&store, &bytes(2, 100_000)).await;
    flip(&store.0.shared.layout.blob(&bad), 99_999);
    assert_eq!(store.verify().await, VerifyReport { blobs: 1, size_bytes: 100_000, quarantined: vec![bad], stopped: false });
    assert!(store.blob(&bad).await.is_none());
    assert!(store.blob(&good).await.is_some());
    counted(&store, 1, 100_000).await;
}

#[tokio::test]
async fn an_index_that_is_gone_or_damaged_is_built_anew() {
    for damage in ["gone", "head", "pages", "cut"] {
        let place = Place::new();
        let store = place.open().await;
        let mut digests = Vec::new();
        for seed in 0..20 {
            digests.push(put(&store, &bytes(seed, 1_000 + seed as usize)).await);
        }
        store.put_record("key".into(), b"value".to_vec());
        store.close().await;
        let index = place.path().join("index.redb");
        let file = fs::OpenOptions::new().write(true).open(&index).unwrap();
        let length = file.metadata().unwrap().len();
        match damage {
            "gone" => fs::remove_file(&index).unwrap(),
            "head" => file.write_all_at(&[0xa5; 512], 0).unwrap(),
            "pages" => file.write_all_at(&vec![0xa5; length as usize - 4_096], 4_096).unwrap(),
            _ => file.set_len(5_000).unwrap(),
        }
        let store = place.open().await;
        for digest in &digests {
            assert!(store.blob(digest).await.is_some(), "{damage}");
        }
        counted(&store, 20, 20 * 1_000 + 190).await;
        assert_eq!(store.record("key").await, None, "{damage}");
        store.put_record("key".into(), b"new".to_vec());
        store.close().await;
        assert_eq!(place.open().await.record("key").await.as_deref(), Some(&b"new"[..]), "{damage}");
    }
}

#[tokio::test]
async fn after_a_crash_the_folder_is_right() {
    let place = Place::new();
    let store = place.open().await;
    let gone = put(&store, &bytes(1, 1_000)).await;
    let kept = put(&store, &bytes(2, 2_000)).await;
    counted(&store, 2, 3_000).await;
    let late = put(&store, &bytes(3, 4_000)).await;
    let path = store.0.shared.layout.blob(&gone);
    drop(store);
    fs::remove_file(path).unwrap();
    fs::write(place.path().join("partial/77"), b"half").unwrap();
    let store = place.reopen().await;
    counted(&store, 2, 6_000).await;
    assert!(store.blob(&gone).await.is_none());
    assert!(store.blob(&kept).await.is_some() && store.blob(&late).await.is_some());
    assert_eq!(files_below(&place.path().join("partial")), 0);
    store.close().await;
    // After an orderly end there is nothing to compare.
    let store = place.open().await;
    assert!(store.0.shared.index.agrees());
    assert_eq!((store.0.shared.index.blobs(), store.0.shared.index.held_bytes()), (2, 6_000));
}

#[tokio::test]
async fn eviction_keeps_to_the_budget_and_spares_the_used() {
    let place = Place::new();
    let store = place.try_open(1_000_000).await.unwrap();
    let pinned = put(&store, &bytes(0, 100_000)).await;
    let pin = store.blob(&pinned).await.unwrap();
    let often = put(&store, &bytes(1, 100_000)).await;
    for _ in 0..5_000 {
        assert!(store.blob(&often).await.is_some());
    }
    for seed in 2..30 {
        place.clock.advance(Duration::from_secs(60));
        put(&store, &bytes(seed, 100_000)).await;
        let (shared, name) = (&store.0.shared, format!("the budget holds at {seed}"));
        eventually(&name, || !shared.over_budget()).await;
    }
    counted(&store, 10, 1_000_000).await;
    assert_eq!(place.blob_files(), 10);
    assert!(store.blob(&pinned).await.is_some() && store.blob(&often).await.is_some());
    assert!(all(pin.whole(), 10_000).await.unwrap() == bytes(0, 100_000));
    assert_eq!(place.metric("outport_cache_evictions_total{tier=\"disk\"}"), Some(20.0));
    assert_eq!(place.metric("outport_cache_bytes{tier=\"disk\"}"), Some(1_000_000.0));
    assert_eq!(place.metric("outport_cache_limit_bytes{tier=\"disk\"}"), Some(1_000_000.0));
}

#[tokio::test]
async fn what_is_larger_than_the_cache_passes_through() {
    let place = Place::new();
    let store = place.try_open(MIB as u64).await.unwrap();
    let small = put(&store, &bytes(1, 1_000)).await;
    for size in [None, Some(3 * MIB as u64)] {
        let whole = bytes(9, 3 * MIB);
        let digest = Digest::sha256(&whole);
        let mut ingest = store.ingest(digest, size);
        let content = ingest.content();
        let reader = tokio::spawn(all(content.whole(), 100_000));
        for piece in whole.chunks(100_000) {
            ingest.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        ingest.finish().await.unwrap();
        assert!(reader.await.unwrap().unwrap() == whole);
        assert!(store.blob(&digest).await.is_none());
    }
    assert!(store.blob(&small).await.is_some());
    assert_eq!(place.metric("outport_disk_unwritable"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_no_writes_lets_blobs_pass_and_recovers() {
    for fault in [Fault::ReadOnly, Fault::FullAt(0), Fault::FullAt(300_001), Fault::Sync] {
        let place = Place::new();
        let store = place.open().await;
        let before = put(&store, &bytes(0, 1_000)).await;
        *lock(&store.0.shared.disk.fault) = Some(fault);
        let whole = bytes(7, MIB);
        let digest = Digest::sha256(&whole);
        let mut ingest = store.ingest(digest, Some(whole.len() as u64));
        let reader = tokio::spawn(all(ingest.content().whole(), 70_000));
        for piece in whole.chunks(50_000) {
            ingest.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let content = ingest.finish().await.unwrap();
        assert!(reader.await.unwrap().unwrap() == whole, "{fault:?}");
        // It is small enough to be read again from memory and what there is of a file.
        assert!(all(content.whole(), 70_000).await.unwrap() == whole, "{fault:?}");
        assert!(store.blob(&digest).await.is_none(), "{fault:?}");
        assert!(store.blob(&before).await.is_some(), "{fault:?}");
        assert_eq!(place.metric("outport_disk_unwritable"), Some(1.0), "{fault:?}");
        assert_eq!(store.probe().await.is_err(), matches!(fault, Fault::ReadOnly | Fault::FullAt(0)), "{fault:?}");
        *lock(&store.0.shared.disk.fault) = None;
        // By itself, and for what comes next.
        eventually("the disk takes writes", || {
            place.clock.advance(Duration::from_secs(1));
            place.metric("outport_disk_unwritable") == Some(0.0)
        })
        .await;
        put(&store, &whole).await;
        assert!(store.blob(&digest).await.is_some(), "{fault:?}");
        store.probe().await.unwrap();
        store.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn folders_that_cannot_be_made_are_made_later() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::write(place.path().join("partial"), b"in the way").unwrap();
    let store = place.open().await;
    assert_eq!(place.metric("outport_disk_unwritable"), Some(1.0));
    assert!(store.probe().await.is_err());
    let digest = put(&store, &bytes(1, 1_000)).await;
    assert!(store.blob(&digest).await.is_none());
    fs::remove_file(place.path().join("partial")).unwrap();
    eventually("the disk takes writes", || place.metric("outport_disk_unwritable") == Some(0.0)).await;
    put(&store, &bytes(1, 1_000)).await;
    assert!(store.blob(&digest).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_an_index_changes_wait_and_are_seen() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    // Opening a folder for writing fails like a read-only disk does.
    fs::create_dir(place.path().join("index.redb")).unwrap();
    let store = place.open().await;
    store.put_record("a".into(), b"1".to_vec());
    let digest = put(&store, &bytes(1, 1_000)).await;
    assert_eq!(store.record("a").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(store.records("", None, 10).await.len(), 1);
    assert!(store.blob(&digest).await.is_some());
    fs::remove_dir(place.path().join("index.redb")).unwrap();
    counted(&store, 1, 1_000).await;
    store.close().await;
    assert_eq!(place.open().await.record("a").await.as_deref(), Some(&b"1"[..]));
}

#[tokio::test(start_paused = true)]
async fn passing_through_a_reader_that_stands_still_is_left_behind() {
    let place = Place::new();
    let store = place.open().await;
    *lock(&store.0.shared.disk.fault) = Some(Fault::FullAt(2 * MIB as u64));
    let whole = bytes(5, 2 * WINDOW_BYTES);
    let mut ingest = store.ingest(Digest::sha256(&whole), Some(whole.len() as u64));
    let content = ingest.content();
    // One reads on; one stands still within the file; one is slower than the writer but moves.
    let fast = tokio::spawn(all(content.whole(), 1_000_000));
    let slow = {
        let mut region = content.whole();
        tokio::spawn(async move {
            let mut read = Vec::new();
            while let Some(block) = region.next(3_000_000).await? {
                read.extend_from_slice(&block);
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            Ok::<_, ContentError>(read)
        })
    };
    let mut still = content.whole();
    let first = tokio::spawn(async move {
        let block = still.next(1_000).await;
        (still, block)
    });
    let mut pieces = whole.chunks(100_000);
    ingest.write(Bytes::copy_from_slice(pieces.next().unwrap())).await.unwrap();
    let (mut still, block) = first.await.unwrap();
    assert_eq!(block.unwrap().unwrap(), whole[..1_000]);
    let began = tokio::time::Instant::now();
    for piece in pieces {
        ingest.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(10));
    ingest.finish().await.unwrap();
    assert!(fast.await.unwrap().unwrap() == whole);
    assert!(slow.await.unwrap().unwrap() == whole);
    // What is in the file is still there; what was only in memory is not.
    let mut read = 1_000;
    let why = loop {
        match still.next(100_000).await {
            Ok(block) => read += block.unwrap().len(),
            Err(why) => break why,
        }
    };
    assert_eq!((read, why), (2 * MIB, ContentError::Lagged));
}

#[tokio::test(start_paused = true)]
async fn passing_through_to_nobody_ends() {
    let place = Place::new();
    let store = place.open().await;
    *lock(&store.0.shared.disk.fault) = Some(Fault::ReadOnly);
    let whole = bytes(5, WINDOW_BYTES + MIB);
    let mut ingest = store.ingest(Digest::sha256(&whole), None);
    let content = ingest.content();
    let mut outcome = Ok(());
    for piece in whole.chunks(100_000) {
        outcome = ingest.write(Bytes::copy_from_slice(piece)).await;
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(IngestError::NoReaders));
    assert!(ingest.position() as usize >= WINDOW_BYTES - MIB && ingest.position() as usize <= WINDOW_BYTES + MIB);
    assert!(matches!(content.complete().await, Err(ContentError::Broken(_))));
}

#[tokio::test]
async fn records_are_seen_at_once_listed_in_order_and_kept() {
    let place = Place::new();
    let store = place.open().await;
    for number in [3, 1, 2] {
        store.put_record(format!("tag/{number}"), vec![number]);
    }
    store.put_record("other".into(), vec![9]);
    assert_eq!(store.record("tag/1").await, Some(vec![1]));
    eventually("written down", || !store.0.shared.index.has_changes()).await;
    store.put_record("tag/2".into(), vec![22]);
    store.put_record("tag/4".into(), vec![4]);
    store.remove_record("tag/3".into());
    let list = |limit: usize, after: Option<&'static str>| {
        let store = store.clone();
        async move { store.records("tag/", after, limit).await.into_iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>() }
    };
    assert_eq!(list(10, None).await, ["tag/1=[1]", "tag/2=[22]", "tag/4=[4]"]);
    assert_eq!(list(2, None).await, ["tag/1=[1]", "tag/2=[22]"]);
    assert_eq!(list(2, Some("tag/1")).await, ["tag/2=[22]", "tag/4=[4]"]);
    assert_eq!(list(2, Some("a")).await, ["tag/1=[1]", "tag/2=[22]"]);
    assert!(list(2, Some("tag/4")).await.is_empty() && list(0, None).await.is_empty());
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.record("tag/2").await, Some(vec![22]));
    assert_eq!(store.record("tag/3").await, None);
    assert_eq!(store.records("", None, 10).await.len(), 4);
}

#[tokio::test]
async fn a_folder_has_one_owner_and_one_format() {
    let place = Place::new();
    let store = place.open().await;
    assert!(matches!(place.try_open(1).await, Err(StoreError::Locked(_))));
    store.close().await;
    fs::write(place.path().join("format"), [200]).unwrap();
    assert!(matches!(place.try_open(1).await, Err(StoreError::Format { version: 200, .. })));
}

#[tokio::test]
async fn a_hundred_thousand_entries_open_at_once() {
    let place = Place::new();
    let store = place.open().await;
    for number in 0..100_000_u32 {
        store.0.shared.index.put_blob(Digest::sha256(&number.to_be_bytes()), 1, place.clock.now());
    }
    store.close().await;
    let began = std::time::Instant::now();
    let store = place.open().await;
    let took = began.elapsed();
    assert_eq!((store.0.shared.index.blobs(), store.0.shared.index.held_bytes()), (100_000, 100_000));
    assert!(took < Duration::from_secs(1), "{took:?}");
}
