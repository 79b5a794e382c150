//! How fast the index on disk is: a million tags in 10,000 repositories with `OUTPORT_FULL`, a hundredth of that otherwise.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::event::{Content, Event, ManifestFacts};
use super::identity::{HybridTime, Origin, VersionVector};
use super::index::Index;
use super::segment::{self, Header, MAX_EVENTS, READER};
use super::{Look, testing};
use crate::bucket::testing::{INCARNATION, SimulatedStore};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, RepositoryName, Tag};

const TAGS: u64 = 100;

fn repository(number: u64) -> RepositoryName {
    format!("team-{:02}/service-{number:05}", number % 50).parse().unwrap()
}

fn tag(number: u64) -> Tag {
    format!("v1.{number}.0").parse().unwrap()
}

/// What pushing a repository's tags leaves in the ledger: ten images, each with a blob of its own.
fn events(of: u64) -> Vec<Event> {
    let name = repository(of);
    let mut events = Vec::new();
    for image in 0..10_u64 {
        let blob = Digest::sha256(format!("blob {of} {image}").as_bytes());
        let manifest = Digest::sha256(format!("manifest {of} {image}").as_bytes());
        events.push(Event::blob(blob, 1_000, Content::Inline(Bytes::from(vec![b'c'; 300]))));
        events.push(Event::link(name.clone(), blob));
        let facts = ManifestFacts { media_type: "image".into(), size_bytes: 400, blobs: vec![blob], ..ManifestFacts::default() };
        events.push(Event::manifest(name.clone(), manifest, Content::Inline(Bytes::from(vec![b'm'; 400])), facts));
        events.extend((0..TAGS / 10).map(|number| Event::tag(name.clone(), tag(image * TAGS / 10 + number), manifest)));
    }
    events
}

/// Writes the whole ledger into the store; how many segments it has.
fn plant(store: &SimulatedStore, repositories: u64) -> u64 {
    let (mut seq, mut previous) = (0, segment::no_segment());
    let mut waiting: Vec<String> = Vec::new();
    let mut waiting_bytes = 0;
    let mut write = |lines: &[String]| {
        seq += 1;
        let header = Header {
            origin: Origin::new("eu", INCARNATION),
            seq,
            previous,
            nonce: format!("{seq:032x}"),
            node: "edge".into(),
            clock: HybridTime { ms: 1_700_000_000_000 + seq, count: 0 },
            imports: 0,
            seen: VersionVector::default(),
            least_reader: READER,
        };
        let bytes = segment::encode(&header, lines).unwrap();
        previous = segment::hash(&bytes);
        store.plant(&format!("eu.{INCARNATION}/ledger/{seq:020}"), bytes);
    };
    for event in (0..repositories).flat_map(events) {
        let line = event.to_line().unwrap();
        if waiting.len() == MAX_EVENTS || waiting_bytes + line.len() + 1 > segment::MAX_EVENT_BYTES {
            write(&std::mem::take(&mut waiting));
            waiting_bytes = 0;
        }
        waiting_bytes += line.len() + 1;
        waiting.push(line);
    }
    write(&waiting);
    seq
}

/// The median and the 99th percentile of many timings.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn timed<T>(rounds: u64, mut ask: impl FnMut(u64) -> T) -> (Duration, Duration) {
    let time = |round| {
        let started = Instant::now();
        let answer = ask(round);
        let took = started.elapsed();
        drop(answer);
        took
    };
    percentiles((0..rounds).map(time).collect())
}

#[tokio::test]
async fn a_million_tags_are_listed_and_resolved() {
    let repositories: u64 = if std::env::var_os("OUTPORT_FULL").is_some() { 10_000 } else { 100 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let store = SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)));
    let segments = plant(&store, repositories);
    let ledger = testing::over(&store.node(), "edge", Index::open(&path, &Origin::new("eu", INCARNATION)).unwrap());
    let started = Instant::now();
    while ledger.confirm(Look::Now).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rebuilt = started.elapsed();
    ledger.close().await.unwrap();
    assert_eq!(ledger.position().unwrap().seq, segments);
    println!("{} tags in {repositories} repositories, {segments} segments: index made in {rebuilt:.1?}", repositories * TAGS);
    println!("index file: {} MiB", std::fs::metadata(&path).unwrap().len() >> 20);

    let mut random = fastrand::Rng::with_seed(1);
    let mut any = move || random.u64(0..repositories);
    let resolve = timed(10_000, |round| ledger.tag(&repository(any()), &tag(round % TAGS)).unwrap().unwrap());
    let mut random = fastrand::Rng::with_seed(2);
    let mut any = move || random.u64(0..repositories);
    let manifest = timed(10_000, |_| {
        let of = any();
        let digest = Digest::sha256(format!("manifest {of} 3").as_bytes());
        ledger.manifest(&repository(of), &digest).unwrap().unwrap()
    });
    let mut random = fastrand::Rng::with_seed(3);
    let mut any = move || random.u64(0..repositories);
    let list = timed(1_000, |_| assert_eq!(ledger.tags(&repository(any()), None, 1_000).unwrap().len() as u64, TAGS));
    let mut random = fastrand::Rng::with_seed(4);
    let mut any = move || random.u64(0..repositories);
    let page = timed(1_000, |_| ledger.tags(&repository(any()), Some("v1.5"), 20).unwrap());
    let catalogue = timed(100, |round| {
        let after = repository(round % repositories);
        ledger.repositories(Some(after.as_str()), 100).unwrap()
    });
    for (what, (p50, p99)) in [
        ("resolve a tag", resolve),
        ("a manifest with its bytes", manifest),
        ("list 100 tags", list),
        ("a page of 20 tags", page),
        ("a page of 100 repositories", catalogue),
    ] {
        println!("{what}: p50 {p50:?}, p99 {p99:?}");
    }
    assert!(resolve.1 < Duration::from_millis(1), "resolve p99 {:?}", resolve.1);

    let started = Instant::now();
    drop(ledger);
    let reopened = loop {
        match Index::open(&path, &Origin::new("eu", INCARNATION)) {
            Ok(index) => break index,
            // The task that held it is still ending.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    println!("opened again in {:?}", started.elapsed());
    let ledger = testing::over(&store.node(), "edge", reopened);
    assert_eq!(ledger.position().unwrap().seq, segments);
}
