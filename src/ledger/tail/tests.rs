use std::time::Duration;

use super::super::index::Memory;
use super::*;
use crate::bucket::testing::{Fault, Faults, SimulatedNode, SimulatedStore, Verb};
use crate::clock::{Clock, Timestamp};
use crate::ledger::{Event, testing};

fn node() -> (SimulatedNode, crate::ledger::Ledger) {
    let store = SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)));
    let node = store.node();
    (node.clone(), testing::ledger(&node, "edge", Memory::default()))
}

fn slow() -> Faults {
    Faults { latency: Duration::from_millis(50)..Duration::from_millis(51), ..Faults::NONE }
}

#[tokio::test(start_paused = true)]
async fn callers_share_looks_and_a_negative_answer_needs_a_new_one() {
    let (node, ledger) = node();
    node.set_faults(slow());
    let many = (0..50).map(|_| ledger.confirm(Look::Now));
    assert!(futures_util::future::join_all(many).await.into_iter().all(|looked| looked.is_ok()));
    assert_eq!(node.requests(Verb::Read), 1);
    // For 250 ms from its beginning it serves positive answers.
    ledger.confirm(Look::Recent).await.unwrap();
    assert_eq!(node.requests(Verb::Read), 1);
    ledger.confirm(Look::Now).await.unwrap();
    assert_eq!(node.requests(Verb::Read), 2);
    tokio::time::sleep(Duration::from_millis(251)).await;
    ledger.confirm(Look::Recent).await.unwrap();
    assert_eq!(node.requests(Verb::Read), 3);
    // Who comes while a look is under way waits for the next one, and all of those share it.
    let first = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.confirm(Look::Now).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let many = (0..50).map(|_| ledger.confirm(Look::Now));
    assert!(futures_util::future::join_all(many).await.into_iter().all(|looked| looked.is_ok()));
    first.await.unwrap().unwrap();
    assert_eq!(node.requests(Verb::Read), 5);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_whole_history_to_read_does_so_while_something_comes() {
    let store = SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)));
    let writer = testing::ledger(&store.node(), "writer", Memory::default());
    for _ in 0..400 {
        writer.append(vec![Event::Heartbeat {}]).await.unwrap();
    }
    let node = store.node();
    node.set_faults(Faults { latency: Duration::from_millis(300)..Duration::from_millis(301), ..Faults::NONE });
    let reader = testing::ledger(&node, "reader", Memory::default());
    assert!(reader.confirm(Look::Now).await.is_err(), "nobody who asks an edge would wait so long");
    let told = std::sync::atomic::AtomicU64::new(0);
    reader.read_to_end(|vector| _ = told.fetch_max(vector.segments(), std::sync::atomic::Ordering::Relaxed)).await.unwrap();
    assert_eq!(reader.position().unwrap().seq, 400);
    assert!(told.into_inner() > 0, "how far it is was told");
    node.cut_off();
    let called = Instant::now();
    assert!(reader.read_to_end(|_| ()).await.is_err());
    assert!(called.elapsed() > Duration::from_secs(60) && called.elapsed() < Duration::from_secs(90), "{:?}", called.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_away_is_told_in_time_and_then_at_once() {
    let (node, ledger) = node();
    ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
    node.cut_off();
    let called = Instant::now();
    assert!(matches!(ledger.confirm(Look::Now).await, Err(LedgerError::Unavailable(_))));
    assert!(called.elapsed() <= Duration::from_secs(2));
    // From then on hardly anybody waits, for half a minute in which looks go on beside the callers.
    let mut waits = Vec::new();
    for _ in 0..300 {
        let called = Instant::now();
        assert!(ledger.confirm(Look::Recent).await.is_err());
        waits.push(called.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(waits.iter().filter(|wait| wait.is_zero()).count() > 290, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(500)), "{waits:?}");
    assert!(node.requests(Verb::Read) > 3);
    assert_eq!(ledger.position().unwrap().seq, 1);
    node.heal();
    tokio::time::sleep(Duration::from_secs(15)).await;
    ledger.confirm(Look::Now).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_look_cannot_read_it_does_not_pass_over() {
    let (node, ledger) = node();
    ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
    for fault in [Fault::ErrorBefore, Fault::Throttled] {
        node.plan(Verb::Read, fault);
        let looked = ledger.confirm(Look::Now).await;
        assert!(matches!(looked, Err(LedgerError::Unavailable(_))), "{looked:?}");
        tokio::time::sleep(Duration::from_secs(5)).await;
        ledger.confirm(Look::Now).await.unwrap();
    }
}
