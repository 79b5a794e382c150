//! What one region reads in the root of another, in a store that they share and in one of its own.

use std::time::Duration;

use bytes::Bytes;

use super::conformance::{conforms_abroad, settings};
use super::testing::{Faults, INCARNATION, SimulatedStore, Verb};
use super::{Bucket, BucketError, ForeignBucket, Key, OpenError};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(1_700_000_000_000))
}

const ONE: Bytes = Bytes::from_static(b"one");
const WRITES: [Verb; 5] = [Verb::Create, Verb::Put, Verb::Begin, Verb::Part, Verb::Delete];

#[tokio::test(start_paused = true)]
async fn a_simulated_store_conforms_abroad() {
    let store = SimulatedStore::new(1, clock());
    let bucket = Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap();
    let node = store.node();
    node.set_faults(Faults { latency: Duration::from_millis(1)..Duration::from_millis(300), ..Faults::NONE });
    conforms_abroad(&bucket, &ForeignBucket::open_simulated(&node, "eu").await.unwrap()).await;
    assert!(WRITES.iter().all(|verb| node.requests(*verb) == 0), "a reader wrote");
}

#[tokio::test]
async fn memory_conforms_abroad() {
    let bucket = Bucket::open(&settings("memory://"), "eu", Clock::system(), Metrics::new()).await.unwrap();
    let foreign = ForeignBucket::open_over(bucket.wire().clone(), "eu").await.unwrap();
    conforms_abroad(&bucket, &foreign).await;
}

#[tokio::test]
async fn a_folder_conforms_abroad_and_is_never_made() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("bucket");
    let settings = settings(&format!("file://{}", place.display()));
    let open = || ForeignBucket::open(&settings, "eu", Clock::system(), Metrics::new());
    assert!(matches!(open().await, Err(OpenError::NotYet(_))));
    assert!(!place.exists(), "a reader made the folder");
    std::fs::create_dir(&place).unwrap();
    assert!(matches!(open().await, Err(OpenError::NotYet(_))));
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    let bucket = Bucket::open(&settings, "eu", Clock::system(), Metrics::new()).await.unwrap();
    conforms_abroad(&bucket, &open().await.unwrap()).await;
    let us = ForeignBucket::open(&settings, "us", Clock::system(), Metrics::new()).await;
    assert!(matches!(us, Err(OpenError::NotYet(_))), "{us:?}");
}

/// Real servers, as the conformance suite has them.
#[tokio::test]
async fn the_named_bucket_conforms_abroad() {
    let Ok(named) = std::env::var("OUTPORT_TEST_BUCKET") else { return };
    let (settings, region) = (settings(&named), format!("test-{}", fastrand::u32(..)));
    let open = || ForeignBucket::open(&settings, &region, Clock::system(), Metrics::new());
    assert!(matches!(open().await, Err(OpenError::NotYet(_))));
    let bucket = Bucket::open(&settings, &region, Clock::system(), Metrics::new()).await.unwrap();
    conforms_abroad(&bucket, &open().await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_told_apart_from_what_is_not_there_yet() {
    let (entry, format) = ("eu.incarnations/00000000000000000001", format!("eu.{INCARNATION}/format.json"));
    let named = format!(r#"{{"format":1,"region":"eu","incarnation":"{INCARNATION}"}}"#);
    let of = |reader: u32, writer: u32, region: &str| {
        format!(
            r#"{{"format":{writer},"least_reader":{reader},"least_writer":{writer},"region":"{region}","incarnation":"{INCARNATION}"}}"#
        )
    };
    for (entry_text, format_text, why) in [
        (None, None, "no incarnation"),
        (Some(named.clone()), None, "no format.json"),
        (Some("hello".to_owned()), None, "expected value"),
        (Some(named.replace("eu", "us")), None, "an entry of the incarnations"),
        (Some(named.clone()), Some(of(2, 2, "eu")), "a reader of version 2"),
        (Some(named.clone()), Some(of(1, 1, "us")), "belongs there"),
        // Who may only not write there may read.
        (Some(named.clone()), Some(of(1, 2, "eu")), ""),
    ] {
        let store = SimulatedStore::new(1, clock());
        let planted = entry_text.map(|text| (entry, text)).into_iter().chain(format_text.map(|text| (&*format, text)));
        for (path, text) in planted {
            store.plant(path, text);
        }
        let before = store.objects();
        match ForeignBucket::open_simulated(&store.node(), "eu").await {
            Ok(foreign) => assert_eq!((why, foreign.incarnation()), ("", INCARNATION)),
            Err(error) => {
                assert!(!why.is_empty() && error.to_string().contains(why), "{why}: {error}");
                assert_eq!(error.is_lasting(), !matches!(error, OpenError::NotYet(_)), "{error}");
            }
        }
        assert_eq!(store.objects(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_reached_is_not_a_region_that_is_not_there() {
    let store = SimulatedStore::new(1, clock());
    let node = store.node();
    node.cut_off();
    let error = ForeignBucket::open_simulated(&node, "eu").await.unwrap_err();
    assert!(matches!(error, OpenError::Bucket(BucketError::Unavailable { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn regions_share_a_store_or_have_one_each() {
    let (shared, other) = (SimulatedStore::new(1, clock()), SimulatedStore::new(2, clock()));
    let eu = Bucket::simulated_as(&shared.node(), "eu", "01ARZ3NDEKTSV4RRFFQ69G5FA1", clock());
    let us = Bucket::simulated_as(&shared.node(), "us", "01ARZ3NDEKTSV4RRFFQ69G5FA2", clock());
    let ap = Bucket::simulated_as(&other.node(), "ap", "01ARZ3NDEKTSV4RRFFQ69G5FA3", clock());
    for bucket in [&eu, &us, &ap] {
        bucket.create(&Key::Ledger(1), Bytes::from(bucket.region().to_owned())).await.unwrap();
    }
    for (store, bucket) in [(&shared, &eu), (&shared, &us), (&other, &ap)] {
        let foreign = ForeignBucket::simulated(&store.node(), bucket.region(), bucket.incarnation());
        assert_eq!(foreign.read(&Key::Ledger(1), 10).await, Ok(Some(Bytes::from(bucket.region().to_owned()))));
        assert_eq!(foreign.at_incarnation(INCARNATION).read(&Key::Ledger(1), 10).await, Ok(None));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_abroad_are_counted_for_their_region() {
    let store = SimulatedStore::new(1, clock());
    let bucket = Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap();
    bucket.create(&Key::Ledger(1), ONE).await.unwrap();
    let foreign = ForeignBucket::open_simulated(&store.node(), "eu").await.unwrap();
    let metrics = foreign.metrics();
    let before = metrics.render();
    foreign.read(&Key::Ledger(1), 10).await.unwrap();
    assert!(before.contains(r#"outport_peer_bucket_requests_total{outcome="absent",region="eu",verb="read"} 1"#), "{before}");
    let after = metrics.render();
    assert!(after.contains(r#"outport_peer_bucket_requests_total{outcome="done",region="eu",verb="read"} 3"#), "{after}");
    assert!(!after.contains("outport_bucket_requests_total{"), "{after}");
}
