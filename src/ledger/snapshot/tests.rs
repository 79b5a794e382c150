//! Snapshots and trimming as nodes meet them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Manifest;
use crate::bucket::testing::{Fault, INCARNATION, SimulatedStore, Verb};
use crate::bucket::{Bucket, ForeignBucket, Key, Through};
use crate::clock::{Clock, Timestamp};
use crate::ledger::core::{Core, Identity};
use crate::ledger::import;
use crate::ledger::index::{Index, Memory, Table, Walk};
use crate::ledger::segment::{self, Object};
use crate::ledger::trim::Trimmed;
use crate::ledger::{
    Adopted, AppendError, Content, Event, Foreign, ImportError, Ledger, LedgerError, Look, Origin, Place, Regions, Segments, Standing,
};
use crate::metrics::Metrics;
use crate::oci::Digest;

const OTHER: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAX";

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(1_700_000_000_000))
}

fn store() -> SimulatedStore {
    SimulatedStore::new(1, clock())
}

/// A node of a region whose snapshots have small shards.
fn node(store: &SimulatedStore, region: &str, index: impl FnOnce(&Origin) -> Index) -> Ledger {
    let incarnation = if region == "eu" { INCARNATION } else { OTHER };
    let origin = Origin::new(region, incarnation);
    let bucket = Bucket::simulated_as(&store.node(), region, incarnation, clock());
    let index = index(&origin);
    let identity = Identity { node: "edge".into(), origin, regions: Regions::Many };
    let mut core = Core::new(bucket, index, identity, clock(), Metrics::new());
    core.shard_bytes = Some(200);
    Ledger::over(core)
}

fn fresh(store: &SimulatedStore) -> Ledger {
    node(store, "eu", in_memory)
}

fn in_memory(origin: &Origin) -> Index {
    Index::in_memory(Memory::default(), origin).unwrap()
}

fn core(ledger: &Ledger) -> Arc<Core> {
    ledger.0.core.clone()
}

type Dump = Vec<(&'static str, Vec<u8>, Vec<u8>)>;

fn dump(ledger: &Ledger) -> Dump {
    let mut all = Vec::new();
    core(ledger)
        .index
        .read(|rows| {
            for table in Table::ALL.into_iter().filter(|table| *table != Table::Identity) {
                rows.scan(table, &[], None, &mut |key, value| {
                    all.push((table.name(), key.to_vec(), value.to_vec()));
                    Ok(Walk::On)
                })?;
            }
            Ok(())
        })
        .unwrap();
    all
}

/// Row for row, whatever way their indexes were made.
fn assert_same(one: &Ledger, two: &Ledger, what: &str) {
    assert!(dump(one) == dump(two), "other rows, {what}");
}

async fn blobs(ledger: &Ledger, names: std::ops::Range<u32>) {
    for name in names {
        let text = format!("blob {name}");
        let content = Content::Inline(Bytes::from(text.clone()));
        ledger.append(vec![Event::blob(Digest::sha256(text.as_bytes()), text.len() as u64, content)]).await.unwrap();
    }
}

async fn snapshot(ledger: &Ledger) -> Through {
    core(ledger).make_snapshot().await.unwrap().unwrap()
}

async fn trim(ledger: &Ledger) -> Trimmed {
    ledger.0.upkeep.trim(&core(ledger)).await.unwrap()
}

/// Twelve segments; snapshots through 5 and 9; what both cover is trimmed.
async fn trimmed(store: &SimulatedStore) -> Ledger {
    let ledger = fresh(store);
    blobs(&ledger, 0..5).await;
    snapshot(&ledger).await;
    blobs(&ledger, 5..9).await;
    snapshot(&ledger).await;
    blobs(&ledger, 9..12).await;
    assert_eq!(trim(&ledger).await, Trimmed { segments: 5, ..Trimmed::default() });
    ledger
}

fn paths(store: &SimulatedStore, part: &str) -> Vec<String> {
    store.objects().into_keys().filter(|path| path.contains(part)).collect()
}

fn stubs(store: &SimulatedStore) -> Vec<u64> {
    let is_stub = |seq: &u64| {
        let bytes = &store.objects()[&format!("eu.{INCARNATION}/ledger/{seq:020}")];
        matches!(segment::decode(bytes), Ok(Object::Stub(stub)) if stub.trimmed == *seq)
    };
    (1..=paths(store, "eu.01ARZ3NDEKTSV4RRFFQ69G5FAV/ledger/").len() as u64).filter(is_stub).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_begins_from_a_snapshot_where_the_ledger_was_trimmed() {
    let store = store();
    let old = trimmed(&store).await;
    assert_eq!(stubs(&store), [1, 2, 3, 4, 5]);
    let folder = tempfile::tempdir().unwrap();
    let on_disk = |origin: &Origin| Index::open(&folder.path().join("index"), origin).unwrap();
    for (new, advisory) in [(fresh(&store), true), (node(&store, "eu", on_disk), true), (fresh(&store), false)] {
        if !advisory {
            store.remove(&format!("eu.{INCARNATION}/status.json"));
        }
        new.confirm(Look::Now).await.unwrap();
        assert_eq!(new.position().unwrap().seq, 12);
        assert_same(&new, &old, "");
        let entry = new.places(&Digest::sha256(b"blob 0")).unwrap().unwrap();
        assert_eq!(entry.inline.as_deref(), Some(b"blob 0".as_slice()));
    }
    // It goes on, and the others follow.
    let new = fresh(&store);
    blobs(&new, 12..13).await;
    old.confirm(Look::Now).await.unwrap();
    assert_same(&new, &old, "");
    // Who follows from another region is told.
    assert_eq!(new.segments_of(new.origin(), 0, 1 << 20).await, Ok(Segments::Trimmed));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_refused_as_a_whole_and_the_other_one_is_used() {
    let shards = |store: &SimulatedStore, of: &str| {
        let mut paths = paths(store, of);
        paths.retain(|path| !path.ends_with("manifest"));
        paths
    };
    let newest = "/snapshots/00000000000000000009-";
    for damage in ["cut", "lost", "row", "manifest", "no manifest"] {
        let store = store();
        let old = trimmed(&store).await;
        let (last, manifest) = (shards(&store, newest).pop().unwrap(), paths(&store, newest).pop().unwrap());
        let bytes = store.objects()[&last].clone();
        match damage {
            "cut" => store.plant(&last, bytes.slice(..bytes.len() - 1)),
            "lost" => store.remove(&last),
            "row" => store.plant(&last, super::without_last_row(&bytes)),
            "manifest" => store.plant(&manifest, "{}"),
            _ => store.remove(&manifest),
        }
        let new = fresh(&store);
        new.confirm(Look::Now).await.unwrap();
        assert_same(&new, &old, damage);
        // The older one too: nothing is made up, and nothing of it stays.
        for path in shards(&store, "/snapshots/00000000000000000005-") {
            store.remove(&path);
        }
        let new = fresh(&store);
        assert!(matches!(new.confirm(Look::Now).await, Err(LedgerError::Broken(_))), "{damage}");
        assert!(dump(&new).is_empty(), "{damage}");
        assert!(matches!(new.append(vec![Event::Heartbeat {}]).await, Err(AppendError::Unavailable { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_format_or_of_a_bucket_that_was_set_back_is_passed_over() {
    for change in ["layout", "index", "origin", "through", "set back"] {
        let store = store();
        let old = trimmed(&store).await;
        let path = paths(&store, "00000000000000000009-00000000000000000000/manifest").pop().unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&store.objects()[&path]).unwrap();
        match change {
            "layout" => manifest.layout += 1,
            "index" => manifest.index += 1,
            "origin" => manifest.origin = Origin::new("us", INCARNATION),
            "through" => manifest.through.ledger += 1,
            _ => manifest.hashes.0 = Digest::sha256(b"another segment"),
        }
        store.plant(&path, serde_json::to_vec(&manifest).unwrap());
        let new = fresh(&store);
        new.confirm(Look::Now).await.unwrap();
        assert_same(&new, &old, change);
        // Nor does it count for trimming.
        store.remove(&format!("eu.{INCARNATION}/status.json"));
        assert_eq!(trim(&new).await, Trimmed::default(), "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_make_one_snapshot() {
    let store = store();
    let [one, two] = [fresh(&store), fresh(&store)];
    blobs(&one, 0..6).await;
    two.confirm(Look::Now).await.unwrap();
    let (one_core, two_core) = (core(&one), core(&two));
    let made = tokio::join!(one_core.make_snapshot(), two_core.make_snapshot());
    let through = Through { ledger: 6, imports: 0 };
    assert_eq!(made, (Ok(Some(through)), Ok(Some(through))));
    let manifest = core(&one).manifest(through).await.unwrap().unwrap();
    assert_eq!(paths(&store, "/snapshots/").len(), manifest.shards.len() + 1, "the other one's shards are gone");
    assert!(manifest.shards.len() > 2 && core(&two).verify(&manifest).await.unwrap());
    // Once more makes nothing, and nothing is made of nothing.
    let before = store.objects();
    assert_eq!(snapshot(&two).await, through);
    assert_eq!(store.objects(), before);
    assert_eq!(core(&node(&store, "us", in_memory)).make_snapshot().await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_survives_lost_answers_or_is_none() {
    for verb in [Verb::Create, Verb::Read] {
        for fault in [Fault::ErrorBefore, Fault::ErrorAfter, Fault::ExistsAfter, Fault::FalseExists, Fault::Lost] {
            if verb == Verb::Read && matches!(fault, Fault::ExistsAfter | Fault::FalseExists) {
                continue;
            }
            let store = store();
            let client = store.node();
            let bucket = Bucket::simulated(&client, "eu", clock());
            let origin = Origin::new("eu", INCARNATION);
            let identity = Identity { node: "edge".into(), origin: origin.clone(), regions: Regions::One };
            let ledger = Ledger::over(Core::new(bucket, in_memory(&origin), identity, clock(), Metrics::new()));
            blobs(&ledger, 0..3).await;
            client.plan(verb, fault.clone());
            let made = core(&ledger).make_snapshot().await;
            let manifest = core(&ledger).manifest(Through { ledger: 3, imports: 0 }).await.unwrap();
            assert_eq!(made.is_ok(), manifest.is_some(), "{verb:?} {fault:?}: {made:?}");
            if let Some(manifest) = manifest {
                assert!(core(&ledger).verify(&manifest).await.unwrap());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_broken_off_leaves_nothing() {
    let store = store();
    trimmed(&store).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let origin = Origin::new("eu", INCARNATION);
    for on_disk in [true, false] {
        let new = node(&store, "eu", |origin| if on_disk { Index::open(&path, origin).unwrap() } else { in_memory(origin) });
        let core = core(&new);
        // Requests stop while shards are read.
        core.begin_loading().unwrap();
        assert!(matches!(new.confirm(Look::Now).await, Err(LedgerError::Unavailable(_))));
        assert!(matches!(new.append(vec![Event::Heartbeat {}]).await, Err(AppendError::Unavailable { .. })));
        core.end_loading();
        tokio::time::sleep(Duration::from_secs(2)).await;
        new.confirm(Look::Now).await.unwrap();
        assert_eq!(new.position().unwrap().seq, 12);
    }
    // As a kill leaves it: rows, and no name.
    let index = Index::open(&path, &origin).unwrap();
    index.begin_loading().unwrap();
    let mut changes = crate::ledger::index::Changes::default();
    changes.put(Table::Tags, b"half".to_vec(), b"1".to_vec());
    index.commit(changes).unwrap();
    index.flush().unwrap();
    drop(index);
    let index = Index::open(&path, &origin).unwrap();
    assert!(index.read(|rows| rows.suffixes(Table::Tags, b"")).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_far_behind_leaps_and_one_that_is_not_folds() {
    for (far_behind, leaps) in [(20, true), (40, false)] {
        let store = store();
        let old = fresh(&store);
        blobs(&old, 0..30).await;
        snapshot(&old).await;
        trim(&old).await;
        blobs(&old, 30..32).await;
        let new = node(&store, "eu", in_memory);
        let client = store.node();
        let bucket = Bucket::simulated(&client, "eu", clock());
        let origin = new.origin().clone();
        let identity = Identity { node: "edge".into(), origin: origin.clone(), regions: Regions::One };
        let mut core = Core::new(bucket, in_memory(&origin), identity, clock(), Metrics::new());
        core.far_behind = far_behind;
        let new = Ledger::over(core);
        new.confirm(Look::Now).await.unwrap();
        assert_same(&new, &old, "");
        let is_restored = new.0.core.metrics.render().contains(r#"outport_ledger_rebuilds_total{reason="snapshot"} 1"#);
        assert_eq!(is_restored, leaps);
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_trimmed_when_two_snapshots_cover_it_and_no_event_would_be_lost() {
    let store = store();
    let ledger = fresh(&store);
    blobs(&ledger, 0..2).await;
    ledger.append(vec![Event::Condemn { places: Vec::new() }]).await.unwrap();
    blobs(&ledger, 2..4).await;
    assert_eq!(trim(&ledger).await, Trimmed::default());
    snapshot(&ledger).await;
    assert_eq!((trim(&ledger).await, stubs(&store)), (Trimmed::default(), vec![]), "one is not enough");
    blobs(&ledger, 4..6).await;
    snapshot(&ledger).await;
    assert_eq!(trim(&ledger).await, Trimmed { segments: 4, ..Trimmed::default() });
    assert_eq!(stubs(&store), [1, 2, 4, 5], "what is only kept stays");
    let before = store.objects();
    // Once more, and by a node that has forgotten where it was: the same stubs.
    assert_eq!(trim(&ledger).await, Trimmed::default());
    store.remove(&format!("eu.{INCARNATION}/status.json"));
    assert_eq!(trim(&fresh(&store)).await, Trimmed::default());
    assert_eq!(store.objects(), before);
    // The third one: the first is deleted, and what both others cover is trimmed.
    blobs(&ledger, 6..8).await;
    snapshot(&ledger).await;
    let done = trim(&ledger).await;
    assert_eq!((done.segments, done.deleted > 2), (2, true));
    assert!(paths(&store, "/snapshots/00000000000000000005-").is_empty());
    assert_eq!(stubs(&store), [1, 2, 4, 5, 6, 7]);
    let new = fresh(&store);
    new.confirm(Look::Now).await.unwrap();
    assert_same(&new, &ledger, "");
}

/// All segments of a region, as another one would fetch them.
fn segments(store: &SimulatedStore, of: &Ledger, after: u64) -> Vec<Foreign> {
    let origin = of.origin().clone();
    let all = paths(store, &format!("{origin}/ledger/")).into_iter().map(|path| store.objects()[&path].clone());
    let numbered = (1..).zip(all).filter(|(seq, _)| *seq > after);
    numbered.map(|(seq, bytes)| Foreign { origin: origin.clone(), seq, bytes }).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_member_has_not_imported_is_not_trimmed() {
    let store = store();
    let (eu, us) = (fresh(&store), node(&store, "us", in_memory));
    blobs(&eu, 0..4).await;
    us.import(segments(&store, &eu, 0)).await.unwrap();
    blobs(&us, 10..12).await;
    eu.import(segments(&store, &us, 0)).await.unwrap();
    blobs(&eu, 4..8).await;
    snapshot(&eu).await;
    blobs(&eu, 8..9).await;
    snapshot(&eu).await;
    // What the other region's last segment has seen.
    assert_eq!(trim(&eu).await, Trimmed { segments: 4, imports: 1, ..Trimmed::default() });
    assert_eq!(stubs(&store), [1, 2, 3, 4]);
    us.import(segments(&store, &eu, 4)).await.unwrap();
    assert_eq!(trim(&eu).await, Trimmed::default(), "that it has them is not known here yet");
    blobs(&us, 12..13).await;
    eu.import(segments(&store, &us, 2)).await.unwrap();
    assert_eq!(trim(&eu).await, Trimmed { segments: 4, ..Trimmed::default() });
    // A node begins from a snapshot with imports in it.
    let new = fresh(&store);
    new.confirm(Look::Now).await.unwrap();
    assert_same(&new, &eu, "");
    assert_eq!(new.segments_of(us.origin(), 0, 1 << 20).await, Ok(Segments::Trimmed));
    assert!(matches!(new.segments_of(us.origin(), 2, 1 << 20).await, Ok(Segments::Some(found)) if found.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_any_more_holds_nothing_up() {
    let gone = Origin::new("us", OTHER);
    for (event, waits) in [
        (Event::Member { origin: gone.clone(), standing: Standing::Joined }, true),
        (Event::Member { origin: gone.clone(), standing: Standing::Leaving }, true),
        (Event::Member { origin: gone.clone(), standing: Standing::Removed }, false),
        (Event::Lost { origin: gone.clone(), cut: 0 }, false),
        // Its region goes on in a newer life, which has seen nothing yet.
        (Event::Member { origin: Origin::new("us", "01ZZZZZZZZZZZZZZZZZZZZZZZZ"), standing: Standing::Joined }, true),
    ] {
        let store = store();
        let ledger = fresh(&store);
        ledger.append(vec![event.clone()]).await.unwrap();
        snapshot(&ledger).await;
        blobs(&ledger, 0..1).await;
        snapshot(&ledger).await;
        assert_eq!(trim(&ledger).await.segments, u64::from(!waits), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_at_a_trimmed_number_goes_on_behind_the_snapshot() {
    let store = store();
    let old = fresh(&store);
    blobs(&old, 0..2).await;
    // It sleeps over the rest.
    let late = fresh(&store);
    late.confirm(Look::Now).await.unwrap();
    for names in [2..5, 5..9] {
        blobs(&old, names).await;
        snapshot(&old).await;
    }
    trim(&old).await;
    assert_eq!(stubs(&store), [1, 2, 3, 4, 5]);
    blobs(&late, 9..10).await;
    assert_eq!(late.position().unwrap().seq, 10);
    old.confirm(Look::Now).await.unwrap();
    assert_same(&late, &old, "");
}

#[tokio::test(start_paused = true)]
async fn our_own_stub_is_our_own_success() {
    let store = store();
    let [one, two] = [fresh(&store), fresh(&store)];
    let draft = core(&one).draft(&[Arc::new(vec![Event::Heartbeat {}])], 0).unwrap();
    let stub = segment::Stub { trimmed: 1, hash: segment::hash(&draft.bytes) };
    assert_ne!(segment::hash(&core(&two).draft(&[Arc::new(vec![Event::Heartbeat {}])], 0).unwrap().bytes), stub.hash);
    store.plant(&format!("eu.{INCARNATION}/{}", Key::Ledger(1)), segment::encode_stub(&stub).unwrap());
    assert!(core(&one).has(&Key::Ledger(1), &stub.hash).await.unwrap());
    assert!(!core(&one).has(&Key::Ledger(1), &Digest::sha256(b"other")).await.unwrap());
}

fn abroad(store: &SimulatedStore, region: &str) -> ForeignBucket {
    let incarnation = if region == "eu" { INCARNATION } else { OTHER };
    ForeignBucket::simulated(&store.node(), region, incarnation)
}

/// The rows that are the same in all regions.
fn shared(ledger: &Ledger) -> Dump {
    let own = [Table::Imports.name(), Table::Wanted.name()];
    dump(ledger).into_iter().filter(|(table, ..)| !own.contains(table)).collect()
}

fn wanted(ledger: &Ledger) -> usize {
    dump(ledger).iter().filter(|(table, ..)| *table == Table::Wanted.name()).count()
}

/// A region with a history that was trimmed, and content that has a place there only.
async fn old_region(store: &SimulatedStore) -> Ledger {
    let eu = fresh(store);
    let (digest, key) = (Digest::sha256(b"large"), Place { origin: eu.origin().clone(), key: ulid::Ulid::from_parts(1, 1) });
    let name: crate::oci::RepositoryName = "app".parse().unwrap();
    eu.append(vec![Event::blob(digest, 9, Content::Key(key)), Event::link(name, digest)]).await.unwrap();
    blobs(&eu, 0..4).await;
    snapshot(&eu).await;
    blobs(&eu, 4..8).await;
    snapshot(&eu).await;
    blobs(&eu, 8..10).await;
    assert_eq!(trim(&eu).await.segments, 5);
    eu
}

#[tokio::test(start_paused = true)]
async fn a_region_joins_a_trimmed_history_by_the_snapshot_of_its_peer() {
    for on_disk in [false, true] {
        let store = store();
        let eu = old_region(&store).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adopted");
        let mut us = node(&store, "us", in_memory);
        if on_disk {
            let bucket = Bucket::simulated_as(&store.node(), "us", OTHER, clock());
            let identity = Identity { node: "edge".into(), origin: us.origin().clone(), regions: Regions::Many };
            let index = Index::open(&folder.path().join("index"), us.origin()).unwrap();
            let mut core = Core::new(bucket, index, identity, clock(), Metrics::new());
            core.scratch = Some(path.clone());
            us = Ledger::over(core);
        }
        let other = node(&store, "us", in_memory);
        // It has taken pushes already, and another node has folded them.
        blobs(&us, 100..102).await;
        other.confirm(Look::Now).await.unwrap();
        // Who folded them just now has them still.
        assert!(matches!(eu.segments_of(eu.origin(), 0, 1 << 20).await, Ok(Segments::Some(_))));
        eu.0.core.recent.forget();
        assert_eq!(eu.segments_of(eu.origin(), 0, 1 << 20).await, Ok(Segments::Trimmed));
        assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, Ok(Adopted::Adopted));
        assert!(!path.exists(), "what was laid out is cleared away");
        assert_eq!(us.vector().unwrap().get(eu.origin()), 9);
        assert_eq!(us.position().unwrap().seq, 2, "its own pushes are there");
        assert!(us.places(&Digest::sha256(b"blob 101")).unwrap().is_some());
        assert_eq!((wanted(&eu), wanted(&us)), (0, 1), "its own view of what it lacks");
        // From there it follows, and is followed: both say the same.
        us.import(segments(&store, &eu, 9)).await.unwrap();
        blobs(&us, 102..103).await;
        eu.import(segments(&store, &us, 0)).await.unwrap();
        us.confirm(Look::Now).await.unwrap();
        assert!(shared(&us) == shared(&eu), "regions differ");
        // Nodes that were there before, and new ones, take the same step.
        for node in [other, node(&store, "us", in_memory)] {
            node.confirm(Look::Now).await.unwrap();
            assert_same(&node, &us, "");
        }
        // What it relays begins behind the snapshot.
        assert_eq!(us.segments_of(eu.origin(), 0, 1 << 20).await, Ok(Segments::Trimmed));
        assert!(matches!(us.segments_of(eu.origin(), 9, 1 << 20).await, Ok(Segments::Some(found)) if found.len() == 2));
        // Its own snapshots and trimming go on, and what the import stands for is kept until they cover it.
        snapshot(&us).await;
        blobs(&us, 103..104).await;
        assert_eq!(trim(&us).await, Trimmed { imports: 1, ..Trimmed::default() });
        snapshot(&us).await;
        assert!(trim(&us).await.deleted > 0);
        let new = node(&store, "us", in_memory);
        new.confirm(Look::Now).await.unwrap();
        assert_same(&new, &us, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_lacks_what_was_imported_or_is_damaged_is_not_adopted() {
    for case in ["damaged", "imported more, and trimmed", "own trimmed", "set back", "none"] {
        let store = store();
        let (eu, us) = (old_region(&store).await, node(&store, "us", in_memory));
        blobs(&us, 100..102).await;
        let mut expected = Ok(Adopted::None);
        match case {
            "damaged" => {
                for path in paths(&store, "/snapshots/").into_iter().filter(|path| !path.ends_with("manifest")) {
                    let bytes = super::without_last_row(&store.objects()[&path]);
                    store.plant(&path, bytes);
                }
            }
            "imported more, and trimmed" => {
                let ap = node(&store, "ap", in_memory);
                blobs(&ap, 200..201).await;
                us.import(segments(&store, &ap, 0)).await.unwrap();
                let path = format!("{}/imports/{:020}", us.origin(), 1);
                let stub = segment::Stub { trimmed: 1, hash: segment::hash(&store.objects()[&path]) };
                store.plant(&path, import::encode_stub(&stub).unwrap());
            }
            "own trimmed" => {
                let path = format!("{}/ledger/{:020}", us.origin(), 1);
                let stub = segment::Stub { trimmed: 1, hash: segment::hash(&store.objects()[&path]) };
                store.plant(&path, segment::encode_stub(&stub).unwrap());
            }
            "set back" => {
                eu.import(segments(&store, &us, 0)).await.unwrap();
                snapshot(&eu).await;
                store.remove(&format!("{}/ledger/{:020}", us.origin(), 2));
                expected = Err(ImportError::OwnBehind { seq: 2 });
            }
            _ => paths(&store, "eu.01ARZ3NDEKTSV4RRFFQ69G5FAV/snapshots/").iter().for_each(|path| store.remove(path)),
        }
        let us = if case == "set back" { node(&store, "us", in_memory) } else { us };
        let before = dump(&us);
        assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, expected, "{case}");
        if case != "set back" {
            assert!(dump(&us) == before, "{case}");
        }
    }
}

/// Of three regions that meet, the short ledger of one is imported before the snapshot of another is taken over, which lacks it.
#[tokio::test(start_paused = true)]
async fn what_was_imported_before_a_snapshot_is_taken_over_stays() {
    let store = store();
    let (eu, us, ap) = (old_region(&store).await, node(&store, "us", in_memory), node(&store, "ap", in_memory));
    blobs(&ap, 200..202).await;
    us.import(segments(&store, &ap, 0)).await.unwrap();
    blobs(&us, 100..101).await;
    let other = node(&store, "us", in_memory);
    assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, Ok(Adopted::Adopted));
    for node in [&us, &other, &node(&store, "us", in_memory)] {
        node.confirm(Look::Now).await.unwrap();
        let vector = node.vector().unwrap();
        assert_eq!((vector.get(eu.origin()), vector.get(ap.origin()), vector.get(us.origin())), (9, 2, 1));
        for blob in ["blob 201", "blob 3", "blob 100"] {
            assert!(node.places(&Digest::sha256(blob.as_bytes())).unwrap().is_some(), "{blob}");
        }
    }
    // Both regions go on and say the same.
    us.import(segments(&store, &eu, 9)).await.unwrap();
    eu.import([segments(&store, &ap, 0), segments(&store, &us, 0)].concat()).await.unwrap();
    assert!(shared(&us) == shared(&eu), "regions differ");
    // The same once more brings nothing.
    assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, Ok(Adopted::None));
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_was_overtaken_is_tried_again() {
    let store = store();
    let (eu, us, other) = (old_region(&store).await, node(&store, "us", in_memory), node(&store, "us", in_memory));
    blobs(&us, 100..101).await;
    // Both take the same step: one import, whoever made it.
    let peer = abroad(&store, "eu");
    let both = tokio::join!(us.adopt(eu.origin(), &peer), other.adopt(eu.origin(), &peer));
    assert!(matches!(both, (Ok(Adopted::Adopted), Ok(_)) | (Ok(_), Ok(Adopted::Adopted))), "{both:?}");
    us.confirm(Look::Now).await.unwrap();
    other.confirm(Look::Now).await.unwrap();
    assert_same(&us, &other, "");
    assert_eq!(us.vector().unwrap().get(eu.origin()), 9);
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_was_broken_off_is_passed() {
    let store = store();
    let (eu, us) = (old_region(&store).await, node(&store, "us", in_memory));
    blobs(&us, 100..101).await;
    // A node made the snapshot, of an older state of the peer, and ended before its import.
    let place = Through { ledger: 0, imports: 1 };
    let mut left = core(&eu).manifest(Through { ledger: 5, imports: 0 }).await.unwrap().unwrap();
    (left.origin, left.through) = (us.origin().clone(), place);
    let key = Key::Snapshot(place, crate::bucket::SnapshotPart::Manifest);
    store.plant(&format!("{}/{key}", us.origin()), serde_json::to_vec(&left).unwrap());
    assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, Ok(Adopted::Overtaken));
    assert_eq!(us.adopt(eu.origin(), &abroad(&store, "eu")).await, Ok(Adopted::Adopted));
    let new = node(&store, "us", in_memory);
    new.confirm(Look::Now).await.unwrap();
    assert_same(&new, &us, "");
    assert_eq!(us.vector().unwrap().get(eu.origin()), 9);
}
