//! What must hold when a schedule has ended: the invariants of the ledger, and that every node's index says what the ledger means.

use std::collections::BTreeMap;

use super::super::check::Rejected;
use super::super::event::Event;
use super::super::fold::{self, Folding};
use super::super::index::{Memory, Overlay, Rows, Table, Walk};
use super::super::planted::Planted;
use super::super::segment::{self, Object, Segment};
use super::super::{AppendError, Ledger};
use super::model::Model;
use super::world::{Append, REGION, World};
use crate::oci::Digest;

/// All rows of an index, in order.
pub(super) type Dump = Vec<(&'static str, Vec<u8>, Vec<u8>)>;

pub(super) fn dump(rows: &dyn Rows) -> Dump {
    let mut all = Vec::new();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Identity) {
        rows.scan(table, &[], None, &mut |key, value| {
            all.push((table.name(), key.to_vec(), value.to_vec()));
            Ok(Walk::On)
        })
        .unwrap();
    }
    all
}

/// The ledger as the store has it, with each object's hash.
pub(super) struct History {
    segments: Vec<(Segment, Digest)>,
}

impl History {
    /// Reads the objects, and finds what is wrong with the chain.
    pub fn read(world: &World) -> History {
        let (objects, first) = (world.store.objects(), world.store.first_created());
        let count = world.segments();
        let mut segments = Vec::new();
        let (mut previous, mut clock) = (segment::no_segment(), Default::default());
        for seq in 1..=count {
            let path = World::ledger_path(seq);
            let (Some(stands), Some(bytes)) = (objects.get(&path), first.get(&path)) else {
                world.violation(format!("segment {seq} is missing though a later one stands"));
                break;
            };
            let is_stub =
                matches!(segment::decode(stands), Ok(Object::Stub(stub)) if stub.trimmed == seq && stub.hash == segment::hash(bytes));
            if stands != bytes && !is_stub {
                world.violation(format!("segment {seq} is neither what it was nor its stub"));
            }
            let Ok(Object::Segment(segment)) = segment::decode(bytes) else {
                world.violation(format!("segment {seq} cannot be read"));
                break;
            };
            let header = &segment.header;
            if header.seq != seq || header.previous != previous {
                world.violation(format!("segment {seq} does not follow the one before it"));
            }
            if header.clock <= clock {
                world.violation(format!("the clock of segment {seq} does not rise"));
            }
            (previous, clock) = (segment::hash(bytes), header.clock);
            segments.push((segment, previous));
        }
        History { segments }
    }

    /// Each caller was told the truth.
    pub fn check_appends(&self, world: &World) {
        let mut found: BTreeMap<&str, Vec<(u64, usize)>> = BTreeMap::new();
        for (segment, _) in &self.segments {
            for (index, event) in segment.events.iter().enumerate() {
                if let Event::Forwarded { upstream, .. } = event {
                    found.entry(upstream).or_default().push((segment.header.seq, index));
                }
            }
        }
        let record = world.record.lock().unwrap();
        let mut wrong = Vec::new();
        for append in &record.appends {
            let at = found.get(append.marker.as_str()).map(Vec::as_slice).unwrap_or_default();
            let is_whole = at.iter().all(|at| self.is_whole(append, *at));
            let forgotten = record.restored_to.filter(|_| append.is_before_restore);
            let right = match &append.outcome {
                Ok(position) if forgotten.is_some_and(|kept| position.seq > kept) => at.is_empty(),
                Ok(position) => at.len() == 1 && at[0].0 == position.seq,
                Err(AppendError::Rejected(_)) => at.is_empty(),
                Err(AppendError::Unavailable { .. }) => at.len() <= 1,
            };
            if !right || !is_whole {
                wrong.push(format!("{} was told {:?}, and stands at {at:?}, whole: {is_whole}", append.marker, append.outcome));
            }
        }
        drop(record);
        wrong.into_iter().for_each(|what| world.violation(what));
    }

    fn is_whole(&self, append: &Append, (seq, index): (u64, usize)) -> bool {
        let events = &self.segments[seq as usize - 1].0.events;
        let plain = |event: &Event| {
            let mut event = event.clone();
            match &mut event {
                Event::Tag { created, .. } => *created = None,
                Event::Manifest(manifest) => manifest.created = None,
                _ => {}
            }
            event
        };
        events[index..].iter().take(append.events.len()).map(plain).eq(append.events.iter().map(plain))
    }

    /// Every event held where it stands; and every rejection was right at some moment between call and answer.
    pub fn replay(&self, world: &World) -> Model {
        let record = world.record.lock().unwrap();
        let mut rejected: Vec<&Append> = record
            .appends
            .iter()
            .filter(|append| matches!(append.outcome, Err(AppendError::Rejected(_))) && !self.is_lost(&record, append))
            .collect();
        let mut model = Model::default();
        let mut wrong = Vec::new();
        rejected.retain(|append| append.from > 0 || model.takes_all(&append.events));
        for (segment, _) in &self.segments {
            let seq = segment.header.seq;
            for event in &segment.events {
                if !model.takes(event) {
                    wrong.push(format!("segment {seq} has an event that does not hold: {event:?}"));
                }
                model.fold(event);
                // The state after segment N may have rejected a caller who knew of N at most, and came back when N+1 stood.
                rejected.retain(|append| !(append.from <= seq && seq <= append.until) || model.takes_all(&append.events));
            }
        }
        wrong.extend(rejected.iter().map(|append| format!("{} was rejected without a reason: {:?}", append.marker, append.outcome)));
        drop(record);
        wrong.into_iter().for_each(|what| world.violation(what));
        model
    }

    /// What it was judged by is no more.
    fn is_lost(&self, record: &super::world::Record, append: &Append) -> bool {
        record.restored_to.is_some_and(|kept| append.is_before_restore && append.until > kept)
    }

    /// A fresh fold of the whole.
    pub fn fold(&self) -> Dump {
        let memory = Memory::default();
        for (segment, hash) in &self.segments {
            let snapshot = memory.snapshot();
            let mut rows = Overlay::new(&snapshot);
            fold::segment(&mut rows, segment, *hash, Folding { home: REGION, planted: Planted::default() }).unwrap();
            memory.commit(rows.into_changes());
        }
        dump(&memory.snapshot())
    }
}

/// A node's index against the fold and against the model.
pub(super) fn check_node(world: &World, (number, ledger): (usize, &Ledger), expected: &Dump, model: &Model) {
    let found = ledger.0.core.index.read(|rows| Ok(dump(rows))).unwrap();
    if found != *expected {
        let differs = found.iter().zip(expected).find(|(found, expected)| found != expected);
        let table = differs.map_or("their length", |(found, _)| found.0);
        world.violation(format!("the index of edge-{number} is not the ledger's fold: {table}"));
    }
    let mut tags = BTreeMap::new();
    for name in ["app", "lib"] {
        let repository = name.parse().unwrap();
        for entry in ledger.tags(&repository, None, 100).unwrap() {
            tags.insert((name.to_owned(), entry.tag.to_string()), entry.digest);
        }
        let manifests: Vec<Digest> = ledger.manifests(&repository, None, 10_000).unwrap().into_iter().map(|entry| entry.digest).collect();
        let expected: Vec<Digest> = model.manifests.keys().filter(|(of, _)| of == name).map(|(_, digest)| *digest).collect();
        if manifests != expected {
            world.violation(format!("edge-{number} lists other manifests in {name}"));
        }
    }
    if tags != model.tags {
        world.violation(format!("edge-{number} says {tags:?}, the rule says {:?}", model.tags));
    }
    if !ledger.conflicts(1).unwrap().is_empty() {
        world.violation(format!("edge-{number} sees a conflict in one region"));
    }
    check_servable(world, number, ledger, model);
}

/// Invariant 6: what is visible has each of its references at a place that is not gone.
fn check_servable(world: &World, number: usize, ledger: &Ledger, model: &Model) {
    for ((name, digest), facts) in &model.manifests {
        let repository = name.parse().unwrap();
        let is_there = |blob: &Digest| ledger.blob(&repository, blob).unwrap().is_some();
        if !facts.blobs.iter().all(is_there) {
            world.violation(format!("a blob of {digest} in {name} has no place at edge-{number}"));
        }
    }
}

/// How many segments were trimmed.
pub(super) fn trimmed(world: &World) -> usize {
    let objects = world.store.objects();
    (1..=world.segments()).filter(|seq| matches!(segment::decode(&objects[&World::ledger_path(*seq)]), Ok(Object::Stub(_)))).count()
}

/// What no caller of a simulation is ever rightly told.
pub(super) fn check_words(world: &World) {
    let record = world.record.lock().unwrap();
    let strange =
        record.appends.iter().find(|append| matches!(append.outcome, Err(AppendError::Rejected(Rejected::Kind | Rejected::TooLarge))));
    let strange = strange.map(|append| format!("{} was told {:?}", append.marker, append.outcome));
    drop(record);
    strange.into_iter().for_each(|what| world.violation(what));
}
