use std::collections::BTreeMap;

use super::search::{Search, Shelf};
use super::testing::{entry, pull};
use super::*;
use crate::bucket::testing::{SimulatedStore, Verb};
use crate::clock::Timestamp;
use crate::config::ByteSize;
use crate::ledger::{self, Ledger};

const START_MS: u64 = 1_795_949_111_120;
const HOUR_MS: u64 = 3_600_000;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(START_MS))
}

fn settings() -> config::Audit {
    config::Audit {
        enabled: true,
        pulls: true,
        file_size: ByteSize(8 << 20),
        ship_after: Duration::from_secs(60),
        disk: ByteSize(64 << 20),
        keep: Duration::from_secs(86_400),
    }
}

/// What a node has shipped: one file with an entry at each of these times, all of one hour.
async fn shipped(bucket: &Bucket, node: u128, times: &[u64]) -> AuditFile {
    let mut lines = Vec::new();
    for ms in times {
        entry(*ms, pull(&format!("node-{node}"), "team/app")).write_line(&mut lines);
    }
    let file = AuditFile { file: Ulid::from_parts(times[0], node), node: Ulid::from_parts(1, node) };
    bucket.create(&Key::Audit(file), pack(&lines).into()).await.unwrap();
    file
}

struct Desk {
    store: SimulatedStore,
    node: crate::bucket::testing::SimulatedNode,
    shelves: Vec<Shelf>,
    bucket: Bucket,
}

impl Desk {
    fn new() -> Desk {
        let store = SimulatedStore::new(3, clock());
        let node = store.node();
        let bucket = Bucket::simulated(&node, "eu", clock());
        Desk { store, node, shelves: vec![Shelf::Own(bucket.clone())], bucket }
    }

    async fn search(&self, query: Query, files: Vec<folder::Found>) -> (Vec<u64>, Option<String>) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let range = query.range(Timestamp::from_ms(START_MS));
        let found = Search { query: &query, range, shelves: &self.shelves, files, deadline }.run().await;
        (found.entries.iter().map(|entry| entry.time.as_ms() - START_MS).collect(), found.lacking)
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_all_nodes_are_found_without_reading_what_is_older() {
    let desk = Desk::new();
    for hours in 0..30 {
        let at = START_MS + hours * HOUR_MS;
        shipped(&desk.bucket, 1, &[at, at + 2]).await;
        shipped(&desk.bucket, 2, &[at + 1, at + 3]).await;
    }
    let last = 29 * HOUR_MS;
    let few = Query { limit: 5, ..Query::default() };
    let before = desk.node.requests(Verb::Read);
    let found = desk.search(few, Vec::new()).await;
    assert_eq!(found, (vec![last + 3, last + 2, last + 1, last, last - HOUR_MS + 3], None));
    assert_eq!(desk.node.requests(Verb::Read) - before, 4, "two hours of two nodes");
    let of_one = Query { principal: Some("node-2".into()), limit: 1_000, ..Query::default() };
    assert_eq!(desk.search(of_one, Vec::new()).await.0.len(), 60);
    let at = |ms| Some(Moment::At(Timestamp::from_ms(START_MS + ms)));
    let between = Query { since: at(HOUR_MS + 1), until: at(2 * HOUR_MS + 2), ..Query::default() };
    assert_eq!(desk.search(between, Vec::new()).await.0, [2 * HOUR_MS + 1, 2 * HOUR_MS, HOUR_MS + 3, HOUR_MS + 2, HOUR_MS + 1]);
    assert_eq!(desk.store.objects().len(), 60);
}

/// A file is searched while it is on its way into the bucket.
#[tokio::test(start_paused = true)]
async fn what_lies_here_and_in_the_bucket_counts_once() {
    let (desk, place) = (Desk::new(), tempfile::tempdir().unwrap());
    let file = shipped(&desk.bucket, 1, &[START_MS, START_MS + 1]).await;
    let path = place.path().join("file.jsonl");
    let mut lines = Vec::new();
    for ms in [START_MS, START_MS + 1, START_MS + 2] {
        entry(ms, pull("node-1", "team/app")).write_line(&mut lines);
    }
    // The last line is still being written.
    std::fs::write(&path, &lines[..lines.len() - 9]).unwrap();
    let here = folder::Found { file: file.file, path: path.clone(), size_bytes: 1, is_closed: true };
    let found = desk.search(Query::default(), vec![here.clone()]).await;
    assert_eq!(found, (vec![1, 0], None));
    desk.node.cut_off();
    let (found, lacking) = desk.search(Query::default(), vec![here.clone()]).await;
    assert_eq!(found, [1, 0], "what is here is found while the bucket hangs");
    assert!(lacking.is_some(), "and it is said that there may be more");
    // Shipped since it was looked for.
    std::fs::remove_file(path).unwrap();
    desk.node.heal();
    assert_eq!(desk.search(Query::default(), vec![here]).await, (vec![1, 0], None));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_none_of_ours_is_passed_over_and_said() {
    let desk = Desk::new();
    shipped(&desk.bucket, 1, &[START_MS]).await;
    let broken = AuditFile { file: Ulid::from_parts(START_MS, 9), node: Ulid::from_parts(1, 9) };
    desk.bucket.create(&Key::Audit(broken), Bytes::from_static(b"not gzip")).await.unwrap();
    let (found, lacking) = desk.search(Query::default(), Vec::new()).await;
    assert_eq!(found, [0]);
    assert!(lacking.unwrap().contains("cannot be unpacked"));
}

/// An open region in a folder.
async fn open_region(folder: &Path) -> Region {
    let settings = config::Bucket {
        place: config::BucketPlace::File(folder.to_owned()),
        options: BTreeMap::new(),
        ca_file: None,
        request_timeout: Duration::from_secs(5),
        part_size: ByteSize(5 << 20),
    };
    let (clock, metrics, region) = (Clock::system(), Metrics::new(), Region::default());
    let bucket = Bucket::open(&settings, "eu", clock.clone(), metrics.clone()).await.unwrap();
    let index = ledger::Settings { index: ledger::IndexPlace::Memory, node: "edge".to_owned(), regions: ledger::Regions::One };
    let ledger = Ledger::open(bucket.clone(), index, clock, metrics).await.unwrap();
    region.open(bucket, ledger);
    region
}

async fn found(audit: &Audit, query: &Query) -> Answer {
    audit.look(query, Duration::from_secs(5)).await.unwrap()
}

#[tokio::test]
async fn what_was_not_shipped_is_shipped_after_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let (dir, metrics) = (place.path().join("audit"), Metrics::new());
    let start = |region| Audit::start(&dir, settings(), "eu", region, Clock::system(), metrics.clone());
    let audit = start(Region::default()).await;
    for _ in 0..3 {
        audit.record(pull("ci", "team/app"));
    }
    let answer = found(&audit, &Query::default()).await;
    assert_eq!((answer.entries.len(), answer.regions[0].complete), (3, false), "the bucket is not open: {answer:?}");
    audit.report().await;
    assert!(!metrics.render().contains("outport_audit_waiting_bytes 0"));
    audit.close().await;
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "one file, and the node's name");
    // As a process that was killed: its file is still open.
    let open = Folder::new(dir.clone()).closed().unwrap().remove(0);
    std::fs::rename(&open.path, open.path.with_extension("open")).unwrap();

    let region = open_region(&place.path().join("bucket")).await;
    let audit = start(region.clone()).await;
    for _ in 0..200 {
        if Folder::new(dir.clone()).files().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(Folder::new(dir.clone()).files().unwrap(), []);
    audit.report().await;
    let rendered = metrics.render();
    for line in ["outport_audit_waiting_bytes 0", r#"outport_audit_shipments_total{outcome="shipped"} 1"#] {
        assert!(rendered.contains(line), "{line} is not in {rendered}");
    }
    let answer = found(&audit, &Query::default()).await;
    assert_eq!((answer.entries.len(), answer.regions[0].complete), (3, true), "{answer:?}");
    assert!(answer.entries.iter().all(|entry| entry.node == answer.entries[0].node && entry.lost == 0));

    record_in(&region.get().unwrap().bucket, &Clock::system(), pull("operator", "a")).await.unwrap();
    let answer = found(&audit, &Query { principal: Some("operator".into()), ..Query::default() }).await;
    assert_eq!(answer.entries.len(), 1, "what went at the bucket directly is found too");
    audit.close().await;
}

#[tokio::test]
async fn nobody_waits_for_a_writer_that_hangs() {
    let place = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let (queue, messages) = sync_channel(10);
    let shipper = Shipper {
        folder: Folder::new(place.path().to_owned()),
        node: Ulid::from_parts(1, 1),
        region: Region::default(),
        clock: clock(),
        metrics: metrics.clone(),
        keep: Duration::from_secs(1),
    };
    let nothing = || tokio::spawn(async {}).abort_handle();
    let audit = Audit(Arc::new(Inner {
        own: "eu".into(),
        settings: settings(),
        queue: Some(queue),
        is_full: AtomicBool::new(false),
        tally: Arc::default(),
        shipper,
        searches: Semaphore::new(1),
        thread: Mutex::default(),
        tasks: [nothing(), nothing()],
    }));
    for _ in 0..25 {
        audit.record(pull("ci", "a"));
    }
    assert!(metrics.render().contains(r#"outport_audit_dropped_total{reason="queue"} 15"#), "{}", metrics.render());
    let place_taken = audit.0.searches.try_acquire().unwrap();
    assert_eq!(audit.look(&Query::default(), Duration::from_secs(1)).await, Err(SearchError::TooMany));
    drop((place_taken, messages));
    assert!(matches!(
        audit.look(&Query { regions: vec!["mars".into()], ..Query::default() }, Duration::from_secs(1)).await,
        Err(SearchError::UnknownRegion(_))
    ));
}

#[tokio::test]
async fn pulls_may_be_left_out_but_not_those_that_were_denied() {
    let place = tempfile::tempdir().unwrap();
    let start = |settings| async { Audit::start(place.path(), settings, "eu", Region::default(), Clock::system(), Metrics::new()).await };
    for (enabled, pulls, expected) in [(true, true, [true, true, true]), (true, false, [false, true, true]), (false, true, [false; 3])] {
        let audit = start(config::Audit { enabled, pulls, ..settings() }).await;
        let wants = [("pull", Outcome::Allowed), ("pull", Outcome::Denied), ("push", Outcome::Allowed)];
        assert_eq!(wants.map(|(action, outcome)| audit.wants(action, outcome)), expected);
        audit.close().await;
    }
}
