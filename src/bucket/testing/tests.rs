//! The simulated store keeps its own promises.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Fault, Faults, PART_BYTES, SimulatedNode, SimulatedStore, Verb};
use crate::bucket::conformance::{conforms, pattern};
use crate::bucket::{Bucket, BucketError, Created, Key};
use crate::clock::{Clock, Timestamp};

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(1_700_000_000_000))
}

fn world(seed: u64) -> (SimulatedStore, SimulatedNode, Bucket) {
    let store = SimulatedStore::new(seed, clock());
    let node = store.node();
    let bucket = Bucket::simulated(&node, "eu", clock());
    (store, node, bucket)
}

const ONE: Bytes = Bytes::from_static(b"one");

#[tokio::test(start_paused = true)]
async fn the_simulated_store_conforms() {
    let (store, node, bucket) = world(1);
    node.set_faults(Faults { latency: Duration::from_millis(1)..Duration::from_millis(300), ..Faults::NONE });
    conforms(&bucket, PART_BYTES).await;
    // Even the aborts that a dropped upload leaves to the background.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.unfinished_uploads(), 0);
    assert!(store.objects().is_empty(), "{:?}", store.objects().keys());
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    for (fault, outcome, is_there) in [
        (Fault::ErrorBefore, "unavailable", false),
        (Fault::ErrorAfter, "unavailable", true),
        (Fault::Throttled, "unavailable", false),
        (Fault::FalseExists, "Exists", false),
        (Fault::ExistsAfter, "Exists", true),
        // The first sending has no answer in time; the second meets what the first has done, or does it.
        (Fault::Lost, "Exists", true),
        (Fault::Hang, "Created", true),
    ] {
        let (store, node, bucket) = world(1);
        node.plan(Verb::Create, fault.clone());
        let told = match bucket.create(&Key::Ledger(1), ONE).await {
            Ok(created) => format!("{created:?}"),
            Err(error) => error.outcome().to_owned(),
        };
        assert_eq!((told.as_str(), store.objects().len() == 1), (outcome, is_there), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_request_takes_its_effect_though_nobody_waits() {
    let (store, node, bucket) = world(1);
    let hour = Duration::from_secs(3600);
    node.plan(Verb::Put, Fault::Late(hour));
    node.plan(Verb::Put, Fault::ErrorBefore);
    let started = Instant::now();
    assert!(matches!(bucket.put(&Key::Status, ONE).await, Err(BucketError::Unavailable { .. })));
    assert!(started.elapsed() < Duration::from_secs(11), "{:?}", started.elapsed());
    assert!(store.objects().is_empty());
    tokio::time::sleep(hour).await;
    assert_eq!(store.objects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_does_nothing_while_the_other_goes_on() {
    let (store, node, bucket) = world(1);
    let other = Bucket::simulated(&store.node(), "eu", clock());
    node.cut_off();
    for _ in 0..10 {
        assert!(matches!(bucket.create(&Key::Ledger(1), ONE).await, Err(BucketError::Unavailable { .. })));
        assert!(matches!(bucket.read(&Key::Ledger(1), 10).await, Err(BucketError::Unavailable { .. })));
    }
    assert_eq!(other.create(&Key::Ledger(1), ONE).await, Ok(Created::Created));
    node.heal();
    assert_eq!(bucket.read(&Key::Ledger(1), 10).await, Ok(Some(ONE)));
    assert_eq!(store.requests(Verb::Create), node.requests(Verb::Create) + 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_survives_lost_answers() {
    let (store, node, bucket) = world(1);
    let content = pattern(5 * PART_BYTES);
    for (verb, fault) in [(Verb::Begin, Fault::Lost), (Verb::Part, Fault::Lost), (Verb::Part, Fault::Hang), (Verb::Complete, Fault::Lost)] {
        node.plan(verb, fault);
    }
    let key = Key::Blob(bucket.fresh_ulid());
    let mut upload = bucket.upload(&key).await.unwrap();
    upload.write(content.clone()).await.unwrap();
    // The second completion is told that there is no such upload: the object itself tells that it was the first.
    assert_eq!(upload.finish().await, Ok(content.len() as u64));
    assert_eq!(bucket.read(&key, 1 << 20).await, Ok(Some(content)));
    // The first beginning, whose answer was lost, is what a lifecycle rule is for.
    assert_eq!(store.unfinished_uploads(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_leaves_nothing() {
    for verb in [Verb::Begin, Verb::Part, Verb::Complete] {
        let (store, node, bucket) = world(1);
        node.plan(verb, Fault::ErrorBefore);
        let key = Key::Blob(bucket.fresh_ulid());
        let mut upload = bucket.upload(&key).await.unwrap();
        let outcome = match upload.write(pattern(5 * PART_BYTES)).await {
            Ok(()) => upload.finish().await,
            Err(error) => {
                drop(upload);
                Err(error)
            }
        };
        assert!(matches!(outcome, Err(BucketError::Unavailable { .. })), "{verb:?}: {outcome:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((store.objects().len(), store.unfinished_uploads()), (0, 0), "{verb:?}");
    }
}

/// What a rough day does, told as text.
async fn rough_day(seed: u64) -> String {
    let (store, first, bucket) = world(seed);
    let second = store.node();
    let other = Bucket::simulated(&second, "eu", clock());
    first.set_faults(Faults::ROUGH);
    second.set_faults(Faults::ROUGH);
    let mut told = String::new();
    for seq in 0..60 {
        let key = Key::Ledger(seq);
        let (one, two) = tokio::join!(bucket.create(&key, ONE), other.create(&key, ONE));
        let listed = bucket.list_blobs(0, None).await;
        told.push_str(&format!("{one:?} {two:?} {listed:?} {}\n", bucket.fresh_ulid()));
    }
    format!("{told}{:?} {:?}", store.objects().keys(), store.requests(Verb::Create))
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_story() {
    let story = rough_day(7).await;
    assert_eq!(story, rough_day(7).await);
    assert_ne!(story, rough_day(8).await);
    for word in ["Created", "Exists", "Unavailable"] {
        assert!(story.contains(word), "{story}");
    }
}
