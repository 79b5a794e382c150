use std::collections::BTreeMap;

use super::search::{Search, Shelf};
use super::testing::{NATURE, Said, Speaker, entry, said};
use super::*;
use crate::bucket::testing::{SimulatedStore, Verb};
use crate::config::{self, ByteSize};
use crate::ledger::{self, Ledger};
use crate::metrics::Metrics;

const START_MS: u64 = 1_795_949_111_120;
const HOUR_MS: u64 = 3_600_000;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(START_MS))
}

fn keeping() -> Keeping {
    Keeping {
        file_size: ByteSize(8 << 20),
        ship_after: Duration::from_secs(60),
        disk: ByteSize(64 << 20),
        keep: Duration::from_secs(86_400),
    }
}

fn of(who: &str) -> Query<Speaker> {
    Query { filter: Speaker(Some(who.to_owned())), ..Query::default() }
}

/// What a node has shipped: one file with an entry at each of these times, all of one hour.
async fn shipped(bucket: &Bucket, node: u128, times: &[u64]) -> RecordFile {
    let mut lines = Vec::new();
    for ms in times {
        entry(*ms, &format!("node-{node}"), "hello").write_line(&mut lines);
    }
    let file = RecordFile { file: Ulid::from_parts(times[0], node), node: Ulid::from_parts(1, node) };
    bucket.create(&Key::Record(NATURE.kind, file), pack(&lines).into()).await.unwrap();
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

    async fn search(&self, query: Query<Speaker>, files: Vec<folder::Found>) -> (Vec<u64>, Option<String>) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let range = query.range(Timestamp::from_ms(START_MS));
        let found = Search { kind: NATURE.kind, query: &query, range, shelves: &self.shelves, files, deadline }.run().await;
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
    let of_one = Query { limit: 1_000, ..of("node-2") };
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
        entry(ms, "node-1", "hello").write_line(&mut lines);
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
    let broken = RecordFile { file: Ulid::from_parts(START_MS, 9), node: Ulid::from_parts(1, 9) };
    desk.bucket.create(&Key::Record(NATURE.kind, broken), Bytes::from_static(b"not gzip")).await.unwrap();
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

async fn found(records: &Records, query: &Query<Speaker>) -> Answer<Said> {
    records.look(query, Duration::from_secs(5)).await.unwrap()
}

fn setup<'a>(dir: &'a Path, region: Region, metrics: &Metrics) -> Setup<'a> {
    Setup { dir, keeping: keeping(), own: "eu", region, clock: Clock::system(), counted: metrics.central_log.clone() }
}

fn intake(metrics: &Metrics) -> Intake {
    Intake::new(&NATURE, Clock::system(), metrics.central_log.clone())
}

#[tokio::test]
async fn what_was_not_shipped_is_shipped_after_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let (dir, metrics) = (place.path().join("talk"), Metrics::new());
    let intake = intake(&metrics);
    // Before anybody writes it.
    intake.note(&said("ci", "early"));
    let records = Records::start(&NATURE, setup(&dir, Region::default(), &metrics), Some(intake.clone())).await;
    for _ in 0..2 {
        intake.note(&said("ci", "hello"));
    }
    let answer = found(&records, &Query::default()).await;
    assert_eq!((answer.entries.len(), answer.regions[0].complete), (3, false), "the bucket is not open: {answer:?}");
    records.report().await;
    assert!(!metrics.render().contains("outport_central_log_waiting_bytes 0"));
    records.close().await;
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "one file, and the node's name");
    // As a process that was killed: its file is still open.
    let open = Folder::new(dir.clone()).closed().unwrap().remove(0);
    std::fs::rename(&open.path, open.path.with_extension("open")).unwrap();
    // Between two writers.
    intake.note(&said("late", "hello"));

    let region = open_region(&place.path().join("bucket")).await;
    let records = Records::start(&NATURE, setup(&dir, region.clone(), &metrics), Some(intake)).await;
    for _ in 0..200 {
        if Folder::new(dir.clone()).closed().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(Folder::new(dir.clone()).closed().unwrap(), []);
    assert!(metrics.render().contains(r#"outport_central_log_shipments_total{outcome="shipped"} 1"#));
    let answer = found(&records, &of("ci")).await;
    assert_eq!((answer.entries.len(), answer.regions[0].complete), (3, true), "{answer:?}");
    assert!(answer.entries.iter().all(|entry| entry.node == answer.entries[0].node && entry.lost == 0));
    assert_eq!(found(&records, &of("late")).await.entries.len(), 1);

    record_in(NATURE.kind, &region.get().unwrap().bucket, &Clock::system(), said("operator", "hello")).await.unwrap();
    let answer = found(&records, &of("operator")).await;
    assert_eq!(answer.entries.len(), 1, "what went at the bucket directly is found too");
    records.close().await;
    records.report().await;
    assert!(metrics.render().contains("outport_central_log_waiting_bytes 0"));
}

#[tokio::test]
async fn where_nothing_is_recorded_there_is_no_folder_and_a_search_says_so() {
    let place = tempfile::tempdir().unwrap();
    let (dir, metrics) = (place.path().join("talk"), Metrics::new());
    let region = open_region(&place.path().join("bucket")).await;
    let records = Records::start(&NATURE, setup(&dir, region.clone(), &metrics), None).await;
    assert!(records.intake().is_none() && !dir.exists());
    record_in(NATURE.kind, &region.get().unwrap().bucket, &Clock::system(), said("operator", "hello")).await.unwrap();
    let answer = found(&records, &Query::default()).await;
    assert_eq!(answer.entries.len(), 1, "what lies in the bucket is found");
    assert_eq!(answer.regions[0].why.as_deref(), Some("nothing is recorded here: talk.enabled is off"));
    records.close().await;
}

#[tokio::test]
async fn a_search_is_one_of_few_and_in_regions_that_there_are() {
    let (place, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
    let records = Records::start(&NATURE, setup(place.path(), Region::default(), &metrics), None).await;
    let mars = Query { regions: vec!["mars".into()], ..Query::<Speaker>::default() };
    assert!(matches!(records.look(&mars, Duration::from_secs(1)).await, Err(SearchError::UnknownRegion(_))));
    let places = records.0.searches.try_acquire_many(MAX_SEARCHES as u32).unwrap();
    assert_eq!(records.look(&mars, Duration::from_secs(1)).await, Err(SearchError::TooMany));
    drop(places);
}
