//! How the index grows: ten million blobs with `OUTPORT_FULL`, a hundredth of that otherwise. Their files are not there: it is the
//! database that is measured, with what an edge asks of it when it starts, serves and evicts.

use std::time::{Duration, Instant};

use super::*;

const TEN_MILLION: u64 = 10_000_000;
/// Blobs that come in one transaction, as on an edge that is very busy.
const BATCH: u64 = 20_000;
const BLOB_SIZE_BYTES: u64 = 4_096;
/// What an edge may take until it can serve.
const OPEN_MOST: Duration = Duration::from_secs(5);

fn blob(number: u64) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

fn commit(index: &Index, budget_bytes: u64, ending: Ending) {
    let evict = |_: &Digest| Evicted::Gone;
    let shelf = Shelf { exists: &|_| true, evict: &evict, budget_bytes, now: Timestamp::from_ms(1_000_000) };
    index.commit(&shelf, Touches::Now, ending).unwrap();
}

/// Memory of this process that belongs to no file, in bytes.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn ten_million_blobs_are_opened_looked_up_and_evicted() {
    let blobs = if std::env::var_os("OUTPORT_FULL").is_some() { TEN_MILLION } else { TEN_MILLION / 100 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let fresh = || Index::new(path.clone(), Clock::manual(Timestamp::from_ms(1_000_000)));
    let index = fresh();
    index.open().unwrap();
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for first in (0..blobs).step_by(BATCH as usize) {
        for number in first..first + BATCH {
            index.put_blob(blob(number), BLOB_SIZE_BYTES, Timestamp::from_ms(number));
        }
        let began = Instant::now();
        commit(&index, u64::MAX, Ending::NotYet);
        slowest = slowest.max(began.elapsed());
    }
    let filled = started.elapsed();
    commit(&index, u64::MAX, Ending::Orderly);
    drop(index);

    let (started, before) = (Instant::now(), anonymous_bytes());
    let index = fresh();
    index.open().unwrap();
    let opened = started.elapsed();
    assert_eq!((index.blobs(), index.held_bytes(), index.agrees()), (blobs, blobs * BLOB_SIZE_BYTES, true));
    let mut random = fastrand::Rng::with_seed(1);
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20_000 {
        let (began, digest) = (Instant::now(), blob(random.u64(0..blobs)));
        assert!(index.knows(&digest));
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let grown = anonymous_bytes().saturating_sub(before);
    // A thousand have to go, which is one transaction.
    let (started, most) = (Instant::now(), index.held_bytes() - 1_000 * BLOB_SIZE_BYTES);
    commit(&index, most, Ending::NotYet);
    let evicted = started.elapsed();
    assert_eq!((index.blobs(), index.held_bytes()), (blobs - 1_000, most));

    println!("{blobs} blobs: written in {filled:.1?}, {BATCH} at a time, the slowest in {slowest:.1?}");
    println!("index file: {} MiB", fs::metadata(&path).unwrap().len() >> 20);
    println!("opened in {opened:.1?}; with 20,000 look-ups it takes {} MiB", grown >> 20);
    println!("a look-up: p50 {:?}, p99 {:?}; a thousand evicted in {evicted:.1?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    assert!(opened < OPEN_MOST, "{opened:?}");
}
