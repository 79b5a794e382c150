//! One suite for every kind of store: what the rooms above build on.
//!
//! It runs here over memory, a folder and the simulated store. Against a real server it runs when `OUTPORT_TEST_BUCKET` names one:
//! a URL as `[bucket] url`, then options, all separated by `;`:
//! `OUTPORT_TEST_BUCKET='s3://test/x;endpoint=http://127.0.0.1:5555;allow_http=true' cargo test --lib the_named_bucket`.

use bytes::Bytes;
use futures_util::future::join_all;
use ulid::Ulid;

use super::{BLOB_SHARDS, Bucket, BucketError, Created, ForeignBucket, Key, ObjectReader, RecordFile, RecordKind, SnapshotPart, Through};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;

const LIMIT_BYTES: u64 = 1 << 20;

/// Runs the suite in a bucket of its own. `part_bytes` is the size of its parts.
pub(crate) async fn conforms(bucket: &Bucket, part_bytes: usize) {
    creates_once(bucket).await;
    overwrites_and_deletes(bucket).await;
    reads_ranges(bucket).await;
    for size in [0, 1, part_bytes, part_bytes + 1, 3 * part_bytes + 7] {
        uploads(bucket, size).await;
    }
    gives_up_uploads(bucket, part_bytes).await;
    lists(bucket).await;
    lists_snapshots(bucket).await;
    lists_records(bucket).await;
    bucket.probe().await.unwrap();
}

/// What a reader of another region sees of an opened bucket, through a client of its own.
pub(crate) async fn conforms_abroad(bucket: &Bucket, foreign: &ForeignBucket) {
    let incarnation = foreign.incarnation().to_owned();
    assert_eq!((foreign.region(), incarnation.as_str()), (bucket.region(), bucket.incarnation()));
    let key = Key::Ledger(1);
    assert_eq!(foreign.read(&key, LIMIT_BYTES).await, Ok(None));
    assert!(foreign.open_object(&key, 0..u64::MAX).await.unwrap().is_none());
    bucket.create(&key, text("0123456789")).await.unwrap();
    assert_eq!(foreign.read(&key, LIMIT_BYTES).await, Ok(Some(text("0123456789"))));
    assert!(matches!(foreign.read(&key, 2).await, Err(BucketError::Broken(_))));
    assert_eq!(all_of(foreign.open_object(&key, 4..7).await.unwrap().unwrap()).await, b"456");
    let manifest = (Through { ledger: 1, imports: 0 }, SnapshotPart::Manifest);
    bucket.create(&Key::Snapshot(manifest.0, manifest.1), text("x")).await.unwrap();
    assert_eq!(foreign.list_snapshots().await, Ok(vec![manifest]));
    bucket.delete(&Key::Snapshot(manifest.0, manifest.1)).await.unwrap();
    let file = RecordFile { file: bucket.fresh_ulid(), node: bucket.fresh_ulid() };
    bucket.create(&Key::Record(RecordKind::Log, file), text("x")).await.unwrap();
    let days = foreign.record_days(RecordKind::Log).await.unwrap();
    assert_eq!(foreign.list_records(RecordKind::Log, &days[0]).await, Ok(vec![file]));
    bucket.delete(&Key::Record(RecordKind::Log, file)).await.unwrap();
    let next = bucket.begin_incarnation().await.unwrap();
    assert_eq!((next.is_in_force().await, bucket.is_in_force().await), (Ok(true), Ok(false)));
    assert_eq!(foreign.incarnation_now().await, Ok(next.incarnation().to_owned()));
    assert_eq!(foreign.at_incarnation(next.incarnation()).read(&key, LIMIT_BYTES).await, Ok(None));
    // What the older one left stays readable.
    assert_eq!(foreign.at_incarnation(&incarnation).read(&key, LIMIT_BYTES).await, Ok(Some(text("0123456789"))));
    bucket.delete(&key).await.unwrap();
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn creates_once(bucket: &Bucket) {
    let key = Key::Ledger(1);
    assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(None));
    assert_eq!(bucket.create(&key, text("one")).await, Ok(Created::Created));
    assert_eq!(bucket.create(&key, text("two")).await, Ok(Created::Exists));
    assert_eq!(bucket.create(&key, text("one")).await, Ok(Created::Exists));
    assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(Some(text("one"))));
    assert!(matches!(bucket.read(&key, 2).await, Err(BucketError::Broken(_))));
    bucket.delete(&key).await.unwrap();
}

async fn overwrites_and_deletes(bucket: &Bucket) {
    let key = Key::Status;
    for status in ["first", "second", ""] {
        bucket.put(&key, text(status)).await.unwrap();
        assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(Some(text(status))));
    }
    bucket.delete(&key).await.unwrap();
    bucket.delete(&key).await.unwrap();
    assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(None));
    assert!(bucket.open_object(&key, 0..u64::MAX).await.unwrap().is_none());
    assert!(bucket.open_object(&key, 3..3).await.unwrap().is_none());
}

async fn reads_ranges(bucket: &Bucket) {
    let key = Key::Pack(bucket.fresh_ulid());
    bucket.create(&key, text("0123456789")).await.unwrap();
    for (range, expected) in [
        (0..u64::MAX, "0123456789"),
        (4..u64::MAX, "456789"),
        (4..7, "456"),
        (9..10, "9"),
        (8..1_000, "89"),
        (5..5, ""),
        (0..10, "0123456789"),
    ] {
        let reader = bucket.open_object(&key, range.clone()).await.unwrap().unwrap();
        assert_eq!(reader.object_bytes(), 10);
        assert_eq!(all_of(reader).await, expected.as_bytes(), "{range:?}");
    }
    for range in [10..11, 20..u64::MAX] {
        let outcome = bucket.open_object(&key, range.clone()).await.map(|found| found.is_some());
        assert!(matches!(outcome, Err(BucketError::Broken(_))), "{range:?}: {outcome:?}");
    }
    bucket.delete(&key).await.unwrap();
}

pub(crate) async fn all_of(mut reader: ObjectReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    assert!(reader.remaining().is_empty());
    all
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(size: usize) -> Bytes {
    (0..size).map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8).collect()
}

async fn uploads(bucket: &Bucket, size: usize) {
    let (key, content) = (Key::Blob(bucket.fresh_ulid()), pattern(size));
    let mut upload = bucket.upload(&key).await.unwrap();
    let mut rest = content.clone();
    while !rest.is_empty() {
        upload.write(rest.split_to(rest.len().min(40_000))).await.unwrap();
    }
    assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(None), "nothing shows before the end");
    assert_eq!(upload.finish().await, Ok(size as u64));
    let reader = bucket.open_object(&key, 0..u64::MAX).await.unwrap().unwrap();
    assert_eq!(reader.object_bytes(), size as u64);
    assert!(all_of(reader).await == content, "{size} bytes come back as they were");
    if let Some(file) = bucket.local_file(&key) {
        assert!(std::fs::read(file).unwrap() == content);
    }
    bucket.delete(&key).await.unwrap();
}

async fn gives_up_uploads(bucket: &Bucket, part_bytes: usize) {
    for is_dropped in [true, false] {
        let key = Key::Blob(bucket.fresh_ulid());
        let mut upload = bucket.upload(&key).await.unwrap();
        upload.write(pattern(2 * part_bytes)).await.unwrap();
        if is_dropped {
            drop(upload)
        } else {
            upload.abort().await
        }
        assert_eq!(bucket.read(&key, LIMIT_BYTES).await, Ok(None));
    }
}

async fn lists(bucket: &Bucket) {
    let mut keys: Vec<_> = (0..20).map(|_| bucket.fresh_ulid()).collect();
    keys.sort_unstable();
    for (at, ulid) in keys.iter().enumerate() {
        bucket.create(&Key::Blob(*ulid), pattern(at)).await.unwrap();
    }
    let mut listed = Vec::new();
    for shard in 0..BLOB_SHARDS {
        let shard = u8::try_from(shard).unwrap();
        let blobs = bucket.list_blobs(shard, None).await.unwrap();
        assert!(blobs.is_sorted());
        if let Some(first) = blobs.first() {
            assert_eq!(bucket.list_blobs(shard, Some(first.ulid)).await.unwrap(), blobs[1..]);
        }
        listed.extend(blobs);
    }
    listed.sort_unstable();
    let sizes: Vec<u64> = listed.iter().map(|blob| blob.size_bytes).collect();
    assert_eq!(listed.iter().map(|blob| blob.ulid).collect::<Vec<_>>(), keys);
    assert_eq!(sizes, (0..20).collect::<Vec<u64>>());
    for ulid in keys {
        bucket.delete(&Key::Blob(ulid)).await.unwrap();
    }
}

async fn lists_snapshots(bucket: &Bucket) {
    assert_eq!(bucket.list_snapshots().await, Ok(Vec::new()));
    let attempt = bucket.fresh_ulid();
    let of = |ledger, imports, part| (Through { ledger, imports }, part);
    let shard = |number| SnapshotPart::Shard { attempt, number };
    let parts = [of(9, 1, shard(0)), of(9, 1, shard(1)), of(9, 1, SnapshotPart::Manifest), of(10, 0, shard(0))];
    for (through, part) in parts.iter().rev() {
        bucket.create(&Key::Snapshot(*through, *part), text("x")).await.unwrap();
    }
    assert_eq!(bucket.list_snapshots().await, Ok(parts.to_vec()));
    for (through, part) in parts {
        bucket.delete(&Key::Snapshot(through, part)).await.unwrap();
    }
}

async fn lists_records(bucket: &Bucket) {
    let node = bucket.fresh_ulid();
    let file = |hours: u64| RecordFile { file: Ulid::from_parts(1_795_949_111_120 + hours * 3_600_000, 1), node };
    let files = [file(0), file(1), file(24)];
    let kinds = [RecordKind::Audit, RecordKind::Log];
    for (kind, other) in kinds.into_iter().zip(kinds.into_iter().rev()) {
        assert_eq!(bucket.record_days(kind).await, Ok(Vec::new()));
        for file in files.iter().rev() {
            bucket.create(&Key::Record(kind, *file), text("x")).await.unwrap();
        }
        assert_eq!(bucket.record_days(kind).await, Ok(vec!["2026-11-29".to_owned(), "2026-11-30".to_owned()]));
        assert_eq!(bucket.list_records(kind, "2026-11-29").await, Ok(files[..2].to_vec()));
        assert_eq!(bucket.list_records(kind, "2026-12-01").await, Ok(Vec::new()));
        assert_eq!(bucket.list_records(other, "2026-11-29").await, Ok(Vec::new()), "each lies by itself");
        for file in files {
            bucket.delete(&Key::Record(kind, file)).await.unwrap();
        }
    }
}

/// The settings that an operator would write: `url;option=value;option=value`.
pub(crate) fn settings(text: &str) -> config::Bucket {
    let (url, options) = text.split_once(';').unwrap_or((text, ""));
    let mut document = format!("[bucket]\nurl = '{url}'\npart_size = '5MiB'\n[bucket.options_from_env]\n");
    let options: Vec<(&str, &str)> = options.split(';').filter_map(|option| option.split_once('=')).collect();
    for (at, (name, _)) in options.iter().enumerate() {
        document.push_str(&format!("{name} = 'OPTION_{at}'\n"));
    }
    let environment = |name: &str| Some(options.get(name.strip_prefix("OPTION_")?.parse::<usize>().ok()?)?.1.to_owned());
    config::Config::parse(&document, std::path::Path::new("/nowhere"), &environment).unwrap().bucket
}

#[tokio::test]
async fn memory_conforms() {
    let bucket = Bucket::open(&settings("memory://"), "eu", Clock::system(), Metrics::new()).await.unwrap();
    conforms(&bucket, 5 << 20).await;
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&format!("file://{}/bucket", folder.path().display()));
    let bucket = Bucket::open(&settings, "eu", Clock::system(), Metrics::new()).await.unwrap();
    conforms(&bucket, 1 << 20).await;
}

/// Real servers, named from outside: see the head of this file.
#[tokio::test]
async fn the_named_bucket_conforms() {
    let Ok(named) = std::env::var("OUTPORT_TEST_BUCKET") else { return };
    let settings = settings(&named);
    let region = format!("test-{}", fastrand::u32(..));
    let nodes = (0..RACING_NODES).map(|_| Bucket::open(&settings, &region, Clock::system(), Metrics::new()));
    let buckets: Vec<Bucket> = join_all(nodes).await.into_iter().map(Result::unwrap).collect();
    assert!(buckets.iter().all(|bucket| bucket.incarnation() == buckets[0].incarnation()), "{buckets:?}");
    conforms(&buckets[0], 5 << 20).await;
}

/// How many nodes open a new region at once.
const RACING_NODES: usize = 8;
