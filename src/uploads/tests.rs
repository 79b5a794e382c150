use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::bucket::Key;
use crate::clock::Timestamp;
use crate::config;
use crate::ledger::{Content, Event, IndexPlace, Ledger, Place};
use crate::store;

/// A node over a bucket in a folder.
struct Node {
    uploads: Uploads,
    region: Region,
    store: Store,
    clock: Clock,
    folder: tempfile::TempDir,
}

const TTL: Duration = Duration::from_secs(60);

async fn node(most_sessions: usize) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_ms(1_800_000_000_000));
    let metrics = Metrics::new();
    let text = format!("[bucket]\nurl = 'file://{}'", folder.path().join("bucket").display());
    let settings = config::Config::parse(&text, folder.path(), &|_| None).unwrap().bucket;
    let bucket = crate::bucket::Bucket::open(&settings, "eu", clock.clone(), metrics.clone()).await.unwrap();
    let in_memory = crate::ledger::Settings { index: IndexPlace::Memory, node: "a".to_owned(), regions: crate::ledger::Regions::One };
    let ledger = Ledger::open(bucket.clone(), in_memory, clock.clone(), metrics.clone()).await.unwrap();
    let region = Region::default();
    region.open(bucket, ledger);
    let cache = store::Settings { dir: folder.path().join("cache"), max_bytes: 1 << 30 };
    let store = Store::open(cache, clock.clone(), metrics.clone()).await.unwrap();
    let settings = Settings { max_blob_bytes: 10_000_000, most_sessions, ttl: TTL };
    let uploads = Uploads::start(region.clone(), store.clone(), settings, clock.clone(), metrics);
    Node { uploads, region, store, clock, folder }
}

fn owner(name: &str) -> Owner {
    Owner { principal: Principal::Named(name.into()), repository: "a/b".parse().unwrap() }
}

fn bytes(count: usize) -> Bytes {
    (0..count).map(|at| (at / 7) as u8).collect()
}

const NOWHERE: (Chunk, Offset) = (Chunk { first: None, size_bytes: None }, None);

fn at(first: u64) -> (Chunk, Offset) {
    (Chunk { first: Some(first), size_bytes: None }, None)
}

impl Node {
    /// How many files the bucket has for blobs.
    fn objects(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
            entries.iter().map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        let roots = std::fs::read_dir(self.folder.path().join("bucket")).unwrap().flatten();
        roots.map(|root| count(&root.path().join("blobs"))).sum()
    }
}

#[tokio::test]
async fn a_blob_in_pieces_is_one_object_and_is_served_from_it() {
    let node = node(10).await;
    let (whole, me) = (bytes(3_000_000), owner("me"));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    for part in [0..1, 1..40_000, 40_000..2_500_000] {
        let received = node.uploads.append(&me, &id, at(part.start as u64), &mut Inflow::whole(whole.slice(part.clone()))).await.unwrap();
        assert_eq!(received, part.end as u64);
        assert_eq!(node.uploads.received_bytes(&me, &id), Ok(received));
    }
    let digest = Digest::sha256(&whole);
    let rest = &mut Inflow::whole(whole.slice(2_500_000..));
    let uploaded = node.uploads.finish(&me, &id, NOWHERE, &digest, rest).await.unwrap();
    assert_eq!((uploaded.digest, uploaded.size_bytes), (digest, 3_000_000));
    let Content::Key(Place { key, .. }) = uploaded.content.clone() else { panic!("too large for the ledger") };
    assert_eq!(node.uploads.received_bytes(&me, &id), Err(UploadError::Unknown), "a session ends once");
    let bucket = &node.region.get().unwrap().bucket;
    let path = bucket.local_file(&Key::Blob(key)).unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    uploaded.keep(bucket, &node.store).await;
    assert_eq!(node.store.bucket_file(&digest, path).await.unwrap().size_bytes(), Some(3_000_000));
    assert_eq!(node.objects(), 1, "not kept twice on one disk");
}

#[tokio::test]
async fn a_small_blob_stays_in_memory_whatever_algorithm_names_it() {
    let node = node(10).await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let (whole, me) = (bytes(32 * 1024), owner("me"));
        let digest = Digest::of(algorithm, &whole);
        let uploaded = node.uploads.whole(me.clone(), &digest, &mut Inflow::whole(whole.clone())).await.unwrap();
        assert_eq!(uploaded.content, Content::Inline(whole.clone()));
        // Announced as another algorithm than it is named by, and too large for memory.
        let whole = bytes(100_000);
        let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
        let digest = Digest::of(algorithm, &whole);
        let uploaded = node.uploads.finish(&me, &id, NOWHERE, &digest, &mut Inflow::whole(whole)).await.unwrap();
        assert_eq!(uploaded.digest, digest);
    }
    assert_eq!(node.objects(), 2);
}

#[tokio::test]
async fn row_37_wrong_bytes_leave_nothing() {
    let node = node(10).await;
    for count in [10, 200_000] {
        for named in [Algorithm::Sha256, Algorithm::Sha512] {
            let me = owner("me");
            let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
            let wrong = Digest::of(named, b"other");
            let error = node.uploads.finish(&me, &id, NOWHERE, &wrong, &mut Inflow::whole(bytes(count))).await.unwrap_err();
            assert_eq!(error, UploadError::Mismatch { found: Digest::of(named, &bytes(count)) });
            assert_eq!(node.uploads.received_bytes(&me, &id), Err(UploadError::Unknown));
        }
    }
    assert_eq!(node.objects(), 0);
}

#[tokio::test]
async fn row_39_chunks_follow_one_another() {
    let (node, me) = (node(10).await, owner("me"));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    assert_eq!(node.uploads.append(&me, &id, at(0), &mut Inflow::whole(bytes(10))).await, Ok(10));
    for wrong in [at(0), at(11), (Chunk::default(), Some(0))] {
        let error = node.uploads.append(&me, &id, wrong, &mut Inflow::whole(bytes(5))).await;
        assert_eq!(error, Err(UploadError::OutOfOrder { received_bytes: 10 }), "{wrong:?}");
    }
    assert_eq!(node.uploads.append(&me, &id, (Chunk::default(), Some(10)), &mut Inflow::whole(bytes(5))).await, Ok(15));
}

#[tokio::test]
async fn row_38_a_length_is_held_to() {
    let (node, me) = (node(10).await, owner("me"));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    let announced = |first, size_bytes| (Chunk { first: Some(first), size_bytes: Some(size_bytes) }, None);
    // In chunks of HTTP/1.1, whose end hyper does not hold to the range.
    let body = |count: usize| Inflow::new(StreamBody::new(stream::iter([Ok::<_, std::io::Error>(Frame::data(bytes(count)))])), u64::MAX);
    assert_eq!(node.uploads.append(&me, &id, announced(0, 20), &mut body(30)).await, Err(UploadError::Length));
    let here = node.uploads.received_bytes(&me, &id).unwrap();
    assert_eq!(node.uploads.append(&me, &id, announced(here, 20), &mut body(10)).await, Err(UploadError::Length));
    let here = node.uploads.received_bytes(&me, &id).unwrap();
    assert_eq!(node.uploads.append(&me, &id, announced(here, 10), &mut body(10)).await, Ok(here + 10));
}

#[tokio::test]
async fn row_41_a_session_is_one_callers_and_one_repositorys() {
    let (node, me) = (node(10).await, owner("me"));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    let elsewhere = Owner { repository: "a/c".parse().unwrap(), ..me.clone() };
    for stranger in [owner("you"), elsewhere] {
        assert_eq!(node.uploads.received_bytes(&stranger, &id), Err(UploadError::Unknown));
        assert_eq!(node.uploads.cancel(&stranger, &id), Err(UploadError::Unknown));
        let tried = node.uploads.append(&stranger, &id, NOWHERE, &mut Inflow::whole(bytes(5))).await;
        assert_eq!(tried, Err(UploadError::Unknown));
    }
    assert_eq!(node.uploads.received_bytes(&me, &id), Ok(0));
    node.uploads.cancel(&me, &id).unwrap();
    assert_eq!(node.uploads.cancel(&me, &id), Err(UploadError::Unknown));
}

#[tokio::test]
async fn row_43_one_request_at_a_time_writes() {
    let (node, me) = (node(10).await, owner("me"));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    let pieces = stream::iter([Ok::<_, std::io::Error>(Frame::data(bytes(5)))]).chain(stream::pending());
    let mut slow = Inflow::new(StreamBody::new(pieces), u64::MAX);
    let first = {
        let (uploads, me, id) = (node.uploads.clone(), me.clone(), id.clone());
        tokio::spawn(async move { uploads.append(&me, &id, NOWHERE, &mut slow).await })
    };
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = node.uploads.append(&me, &id, NOWHERE, &mut Inflow::whole(bytes(5))).await;
    assert_eq!(second, Err(UploadError::OutOfOrder { received_bytes: 0 }));
    // The first one's connection is cut: the session stands, with what was written of it.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let here = node.uploads.received_bytes(&me, &id).unwrap();
    assert_eq!(node.uploads.append(&me, &id, at(here), &mut Inflow::whole(bytes(5))).await, Ok(here + 5));
}

#[tokio::test]
async fn row_45_a_blob_has_its_greatest_size() {
    let (node, me) = (node(10).await, owner("me"));
    let too_large = Err(UploadError::TooLarge { most_bytes: 10_000_000 });
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    assert_eq!(node.uploads.append(&me, &id, NOWHERE, &mut Inflow::whole(bytes(9_999_999))).await, Ok(9_999_999));
    assert_eq!(node.uploads.append(&me, &id, NOWHERE, &mut Inflow::whole(bytes(2))).await, too_large);
    let pieces = stream::iter([Ok::<_, std::io::Error>(Frame::data(bytes(2)))]);
    assert_eq!(node.uploads.append(&me, &id, NOWHERE, &mut Inflow::new(StreamBody::new(pieces), u64::MAX)).await, too_large);
}

#[tokio::test]
async fn row_46_sessions_are_few_and_expire_with_what_they_hold() {
    let (node, me) = (node(3).await, owner("me"));
    let ids: Vec<_> = (0..3).map(|_| node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap()).collect();
    for id in &ids {
        node.uploads.append(&me, id, NOWHERE, &mut Inflow::whole(bytes(2_000_000))).await.unwrap();
    }
    assert_eq!(node.uploads.begin(me.clone(), Algorithm::Sha256), Err(UploadError::TooMany { retry_after: CROWDED }));
    assert_eq!(node.objects(), 3);
    node.clock.advance(TTL);
    assert_eq!(node.uploads.received_bytes(&me, &ids[0]), Err(UploadError::Unknown));
    assert!(node.uploads.begin(me.clone(), Algorithm::Sha256).is_ok());
    for _ in 0..100 {
        if node.objects() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} objects are left", node.objects());
}

#[tokio::test]
async fn row_47_a_client_that_leaves_can_go_on_from_what_is_told() {
    let (node, me, whole) = (node(10).await, owner("me"), bytes(2_000_000));
    let id = node.uploads.begin(me.clone(), Algorithm::Sha256).unwrap();
    let pieces = [Ok(Frame::data(whole.slice(..1_500_000))), Err(std::io::Error::other("gone"))];
    let broken = node.uploads.append(&me, &id, at(0), &mut Inflow::new(StreamBody::new(stream::iter(pieces)), u64::MAX)).await;
    assert_eq!(broken, Err(UploadError::Inflow(InflowError::Left)));
    let here = node.uploads.received_bytes(&me, &id).unwrap();
    assert_eq!(here, 1_500_000);
    let rest = &mut Inflow::whole(whole.slice(here as usize..));
    assert!(node.uploads.finish(&me, &id, at(here), &Digest::sha256(&whole), rest).await.is_ok());
}

#[tokio::test]
async fn what_no_event_names_is_abandoned_and_goes() {
    let (node, me) = (node(10).await, owner("me"));
    let open = node.region.get().unwrap();
    let mut uploaded = Vec::new();
    for count in [100_000, 100_001, 100_002] {
        let whole = bytes(count);
        uploaded.push(node.uploads.whole(me.clone(), &Digest::sha256(&whole), &mut Inflow::whole(whole.clone())).await.unwrap());
    }
    let named = &uploaded[0];
    open.ledger.append(vec![Event::blob(named.digest, named.size_bytes, named.content.clone())]).await.unwrap();
    let sweep = || sweep::sweep_once(&node.uploads.0, &open.bucket, &open.ledger);
    assert_eq!(sweep().await.unwrap(), 0, "too fresh to be taken for abandoned");
    // The files' times are the system's, which the manual clock is behind.
    node.clock.advance(Duration::from_secs(100 * 365 * 24 * 3600));
    assert_eq!(sweep().await.unwrap(), 2);
    assert_eq!(node.objects(), 1);
    let late = Event::blob(uploaded[1].digest, uploaded[1].size_bytes, uploaded[1].content.clone());
    assert!(open.ledger.append(vec![late]).await.is_err(), "an abandoned key is refused");
    assert_eq!(sweep().await.unwrap(), 0);
}
