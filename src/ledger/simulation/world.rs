//! Nodes over one store, and what was seen of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::super::core::{Core, Identity};
use super::super::event::Event;
use super::super::identity::Origin;
use super::super::index::{Index, Memory};
use super::super::planted::{Bug, Planted};
use super::super::{AppendError, Ledger, Position, Regions};
use super::fuse::Fuse;
use crate::bucket::Bucket;
use crate::bucket::testing::{Faults, INCARNATION, SimulatedNode, SimulatedStore};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

pub(super) const REGION: &str = "eu";
/// When simulations begin, in Unix time.
pub(super) const START_MS: u64 = 1_700_000_000_000;
/// Longer than any request is late.
pub(super) const QUIET: Duration = Duration::from_secs(4 * 3600);

pub(super) struct World {
    pub store: SimulatedStore,
    pub nodes: Vec<Mutex<Node>>,
    pub record: Mutex<Record>,
    pub metrics: Metrics,
    planted: Option<Bug>,
    pub started: Instant,
}

pub(super) struct Node {
    name: String,
    pub client: SimulatedNode,
    clock: Clock,
    ticked: Instant,
    memory: Memory,
    pub ledger: Ledger,
    pub fuse: Fuse,
    random: fastrand::Rng,
}

/// What a restarted node finds of its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Index,
    Nothing,
}

/// One caller's append, and how it ended.
#[derive(Debug)]
pub(super) struct Append {
    pub marker: String,
    pub events: Vec<Event>,
    /// The greatest acknowledged number when it was called; how many segments stood in the store when it returned.
    pub from: u64,
    pub until: u64,
    pub outcome: Result<Position, AppendError>,
    /// Before the store was set back.
    pub is_before_restore: bool,
}

#[derive(Default)]
pub(super) struct Record {
    pub appends: Vec<Append>,
    pub numbered: u64,
    /// The greatest acknowledged number, each with the time from which it was acknowledged.
    pub acknowledged: Vec<(Instant, u64)>,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub restored_to: Option<u64>,
    /// A shard of a snapshot is not what it was: one in a schedule.
    pub is_shard_damaged: bool,
}

impl Record {
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.last().map_or(0, |(_, seq)| *seq)
    }

    pub fn acknowledged_at(&self, at: Instant) -> u64 {
        self.acknowledged.iter().rev().find(|(since, _)| *since <= at).map_or(0, |(_, seq)| *seq)
    }
}

impl World {
    pub fn new(seed: u64, nodes: usize, random: &mut fastrand::Rng, planted: Option<Bug>) -> World {
        let clock = Clock::manual(Timestamp::from_ms(START_MS));
        let store = SimulatedStore::new(seed, clock);
        let metrics = Metrics::new();
        let nodes =
            (0..nodes).map(|number| Mutex::new(Node::new(format!("edge-{number}"), &store, random.fork(), &metrics, planted))).collect();
        World { store, nodes, record: Mutex::default(), metrics, planted, started: Instant::now() }
    }

    pub fn trace(&self, line: impl std::fmt::Display) {
        let at = self.started.elapsed().as_millis();
        self.record.lock().unwrap().trace.push(format!("{at} {line}"));
    }

    pub fn violation(&self, what: String) {
        self.record.lock().unwrap().violations.push(what);
    }

    /// A caller was told how its append ended.
    pub fn record(&self, append: Append) {
        let mut record = self.record.lock().unwrap();
        if let Ok(position) = &append.outcome {
            let greatest = record.acknowledged().max(position.seq);
            record.acknowledged.push((Instant::now(), greatest));
        }
        record.appends.push(append);
    }

    pub fn ledger_path(seq: u64) -> String {
        format!("{REGION}.{INCARNATION}/ledger/{seq:020}")
    }

    /// How many segments stand in the store.
    pub fn segments(&self) -> u64 {
        let prefix = format!("{REGION}.{INCARNATION}/ledger/");
        self.store.objects().keys().filter(|path| path.starts_with(&prefix)).count() as u64
    }

    /// Makes a snapshot through a node and trims, beside everything else.
    pub fn upkeep(self: &Arc<World>, number: usize) {
        let (world, ledger) = (self.clone(), self.ledger(number));
        let core = ledger.0.core.clone();
        core.clone().spawn(async move {
            let made = core.make_snapshot().await;
            let trimmed = ledger.0.upkeep.trim(&core).await;
            world.trace(format_args!("upkeep through edge-{number}: {made:?}, {trimmed:?}"));
        });
    }

    /// A shard of some snapshot loses its last row: it still reads as a shard.
    pub fn damage_shard(&self, random: &mut fastrand::Rng) {
        let shards = self.store.objects().into_iter().filter(|(path, _)| path.contains("/snapshots/") && !path.ends_with("manifest"));
        let shards: Vec<_> = shards.collect();
        let mut record = self.record.lock().unwrap();
        if record.is_shard_damaged || shards.is_empty() {
            return;
        }
        record.is_shard_damaged = true;
        let (path, bytes) = &shards[random.usize(0..shards.len())];
        self.store.plant(path, super::super::snapshot::without_last_row(bytes));
    }

    /// The node's ledger as it is now, with its clock brought up to date.
    pub fn ledger(&self, node: usize) -> Ledger {
        let mut node = self.nodes[node].lock().unwrap();
        node.tick();
        node.ledger.clone()
    }

    pub fn restart(&self, number: usize, kept: Kept) {
        self.trace(format_args!("edge-{number} restarts with {kept:?}"));
        let running = self.started.elapsed();
        self.nodes[number].lock().unwrap().restart((kept, running), &self.metrics, self.planted);
    }
}

impl Node {
    fn new(name: String, store: &SimulatedStore, mut random: fastrand::Rng, metrics: &Metrics, planted: Option<Bug>) -> Node {
        let client = store.node();
        let (clock, memory, fuse) = (skewed(&mut random, Duration::ZERO), Memory::default(), Fuse::default());
        let ledger = open(&name, &client, (&clock, &memory, &fuse), metrics, (random.u64(..), planted));
        Node { name, client, clock, ticked: Instant::now(), memory, ledger, fuse, random }
    }

    fn tick(&mut self) {
        self.clock.advance(self.ticked.elapsed());
        self.ticked = Instant::now();
    }

    /// It ends where it stands: what was under way in the network goes on, nothing else does.
    pub fn crash(&mut self) {
        self.fuse.blow();
        self.ledger.0.appender.stop();
        self.ledger.0.tail.stop();
    }

    fn restart(&mut self, (kept, running): (Kept, Duration), metrics: &Metrics, planted: Option<Bug>) {
        self.crash();
        self.memory = match kept {
            Kept::Index => self.memory.fork(),
            Kept::Nothing => Memory::default(),
        };
        self.fuse = Fuse::default();
        self.ticked = Instant::now();
        // Its clock may be wrong in another way now.
        self.clock = skewed(&mut self.random, running);
        let seed = self.random.u64(..);
        self.ledger = open(&self.name, &self.client, (&self.clock, &self.memory, &self.fuse), metrics, (seed, planted));
    }
}

/// A clock that is up to ten minutes off.
pub(super) fn skewed(random: &mut fastrand::Rng, since_start: Duration) -> Clock {
    let minutes_off = random.u64(0..=20) * 60_000;
    Clock::manual(Timestamp::from_ms(START_MS - 600_000 + minutes_off).plus(since_start))
}

fn open(
    name: &str,
    client: &SimulatedNode,
    (clock, memory, fuse): (&Clock, &Memory, &Fuse),
    metrics: &Metrics,
    (seed, planted): (u64, Option<Bug>),
) -> Ledger {
    let bucket = Bucket::simulated(client, REGION, clock.clone());
    let origin = Origin::new(REGION, INCARNATION);
    let index = Index::in_memory(memory.clone(), &origin).expect("memory does not fail");
    let identity = Identity { node: name.to_owned(), origin, regions: Regions::One };
    let mut core = Core::new(bucket, index, identity, clock.clone(), metrics.clone());
    core.random = Mutex::new(fastrand::Rng::with_seed(seed));
    core.planted = Planted(planted);
    core.fuse = fuse.clone();
    // Small histories have several shards, and leaps, too.
    (core.shard_bytes, core.far_behind) = (Some(1_500), 2);
    Ledger::over(core)
}

pub(super) fn faults(random: &mut fastrand::Rng) -> Faults {
    match random.u32(0..4) {
        0 => Faults { latency: Duration::from_millis(1)..Duration::from_millis(60), ..Faults::NONE },
        1 => Faults { late: 120, lost: 60, ..Faults::ROUGH },
        _ => Faults::ROUGH,
    }
}

/// What all parts of a schedule share.
pub(super) type Shared = Arc<World>;
