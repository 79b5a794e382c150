//! Regions with a store each, their nodes, the ways between them, and what was seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::core::{Core, Identity};
use super::super::super::event::Event;
use super::super::super::identity::Origin;
use super::super::super::index::{Index, Memory};
use super::super::super::planted::{Bug, Planted};
use super::super::super::{AppendError, Ledger, Look, Position, PullError, Regions, Segments, Source};
use super::super::fuse::Fuse;
use super::super::world::{QUIET, START_MS, skewed};
use crate::bucket::testing::{INCARNATION, SimulatedNode, SimulatedStore};
use crate::bucket::{Bucket, ForeignBucket};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

const NAMES: [&str; 3] = ["ap", "eu", "us"];
/// The incarnation of a region that began anew.
pub(super) const SECOND: &str = "01BX5ZZKBKACTAV9WEVGEMMVRZ";
/// Between looks while nothing happens.
const SELDOM: Duration = Duration::from_secs(1_200);
/// How long one round of following may take.
const ROUND: Duration = Duration::from_secs(20);
/// Of one answer of a node of another region.
const ANSWER_BYTES: usize = 64 << 10;

pub(super) type Shared = Arc<World>;

pub(super) struct World {
    pub regions: Vec<Region>,
    /// Ways between regions' edges that are cut, from one to another.
    cut: Mutex<Vec<(usize, usize)>>,
    pub record: Mutex<Record>,
    random: Mutex<fastrand::Rng>,
    /// While hours pass in which late writes land, followers seldom look.
    is_quiet: AtomicBool,
    /// Changes with each append.
    pub appended: Appended,
    metrics: Metrics,
    planted: Option<Bug>,
    pub started: Instant,
}

pub(super) struct Region {
    pub name: &'static str,
    /// Its lives so far; the last is the present one.
    lives: Mutex<Vec<Origin>>,
    pub store: SimulatedStore,
    pub nodes: Vec<Mutex<Node>>,
}

pub(super) struct Node {
    pub client: SimulatedNode,
    /// Its ways to the stores of all regions; that to the own one is not used.
    pub abroad: Vec<SimulatedNode>,
    stores: Vec<ForeignBucket>,
    clock: Clock,
    ticked: Instant,
    memory: Memory,
    pub ledger: Ledger,
    pub fuse: Fuse,
    random: fastrand::Rng,
    followers: Vec<AbortHandle>,
}

/// One caller's append, and how it ended.
#[derive(Debug)]
pub(super) struct Append {
    pub region: usize,
    pub origin: Origin,
    pub marker: String,
    pub events: Vec<Event>,
    pub outcome: Result<Position, AppendError>,
}

#[derive(Default)]
pub(super) struct Record {
    pub appends: Vec<Append>,
    pub numbered: u64,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    /// Declared lost.
    pub lost: Option<usize>,
    /// Set back to an old backup, to this segment.
    pub restored: Option<(usize, u64)>,
    /// Set back while it could ask nobody: what it writes then nobody follows.
    pub is_forked: bool,
    /// It took over in a new incarnation.
    pub is_recovered: bool,
}

impl Region {
    pub fn origin(&self) -> Origin {
        self.lives.lock().unwrap().last().expect("a region has begun").clone()
    }

    pub fn lives(&self) -> Vec<Origin> {
        self.lives.lock().unwrap().clone()
    }

    /// From now on its nodes start in a new incarnation.
    pub fn begin_anew(&self) {
        self.lives.lock().unwrap().push(Origin::new(self.name, SECOND));
    }
}

impl World {
    pub fn new(seed: u64, random: &mut fastrand::Rng, planted: Option<Bug>) -> Shared {
        let count = random.usize(2..=3);
        let metrics = Metrics::new();
        let clock = Clock::manual(Timestamp::from_ms(START_MS));
        let stores: Vec<SimulatedStore> = (0..count).map(|at| SimulatedStore::new(seed ^ at as u64, clock.clone())).collect();
        let regions = (0..count).map(|at| {
            let origin = Origin::new(NAMES[at], INCARNATION);
            let nodes = (0..random.usize(1..=2)).map(|_| {
                let abroad = stores.iter().map(SimulatedStore::node).collect();
                Mutex::new(Node::new(&origin, stores[at].node(), abroad, random.fork(), (&metrics, planted)))
            });
            let nodes = nodes.collect();
            Region { name: NAMES[at], lives: Mutex::new(vec![origin]), store: stores[at].clone(), nodes }
        });
        let world = Arc::new(World {
            regions: regions.collect(),
            cut: Mutex::default(),
            record: Mutex::default(),
            random: Mutex::new(random.fork()),
            is_quiet: AtomicBool::new(false),
            appended: Appended::default(),
            metrics,
            planted,
            started: Instant::now(),
        });
        for (region, node) in world.all_nodes() {
            world.start_following(region, node);
        }
        world
    }

    pub fn all_nodes(&self) -> Vec<(usize, usize)> {
        let of = |(region, at): (usize, &Region)| (0..at.nodes.len()).map(move |node| (region, node)).collect::<Vec<_>>();
        self.regions.iter().enumerate().flat_map(of).collect()
    }

    pub fn trace(&self, line: impl std::fmt::Display) {
        let at = self.started.elapsed().as_millis();
        self.record.lock().unwrap().trace.push(format!("{at} {line}"));
    }

    pub fn violation(&self, what: String) {
        self.record.lock().unwrap().violations.push(what);
    }

    /// A node's ledger as it is now, with its clock brought up to date.
    pub fn ledger(&self, (region, node): (usize, usize)) -> Ledger {
        let mut node = self.regions[region].nodes[node].lock().unwrap();
        node.tick();
        node.ledger.clone()
    }

    /// Cuts the ways between two regions: between their edges, and from their edges to the other's store.
    pub fn part(&self, one: usize, other: usize) {
        self.trace(format_args!("{} and {} are parted", NAMES[one], NAMES[other]));
        self.cut.lock().unwrap().extend([(one, other), (other, one)]);
        for (from, to) in [(one, other), (other, one)] {
            self.regions[from].nodes.iter().for_each(|node| node.lock().unwrap().abroad[to].cut_off());
        }
    }

    /// Cuts only what goes between edges: stores are still read.
    pub fn part_edges(&self, one: usize, other: usize) {
        self.trace(format_args!("edges of {} and {} are parted", NAMES[one], NAMES[other]));
        self.cut.lock().unwrap().extend([(one, other), (other, one)]);
    }

    pub fn join_all(&self) {
        self.cut.lock().unwrap().clear();
        for region in &self.regions {
            for node in &region.nodes {
                node.lock().unwrap().abroad.iter().for_each(SimulatedNode::heal);
            }
        }
    }

    pub fn is_parted(&self, one: usize, other: usize) -> bool {
        self.cut.lock().unwrap().contains(&(one, other))
    }

    /// So long that whatever is late has landed.
    pub async fn quiet(&self) {
        self.is_quiet.store(true, Ordering::Relaxed);
        sleep(QUIET).await;
        self.is_quiet.store(false, Ordering::Relaxed);
        sleep(SELDOM).await;
    }

    pub fn restart(self: &Arc<World>, at: (usize, usize), keeps_index: bool) {
        self.trace(format_args!("edge-{} of {} restarts", at.1, NAMES[at.0]));
        let running = self.started.elapsed();
        {
            let region = &self.regions[at.0];
            let mut node = region.nodes[at.1].lock().unwrap();
            node.restart(&region.origin(), (keeps_index, running), (&self.metrics, self.planted));
        }
        self.start_following(at.0, at.1);
    }

    /// What a node reads of its own region's earlier life.
    pub fn earlier(&self, (region, node): (usize, usize)) -> ForeignBucket {
        let region = &self.regions[region];
        let client = region.nodes[node].lock().unwrap().client.clone();
        ForeignBucket::simulated(&client, region.name, INCARNATION)
    }

    pub fn way(self: &Arc<World>, from: (usize, usize), to: usize) -> Way {
        Way { world: self.clone(), from, to }
    }

    fn start_following(self: &Arc<World>, region: usize, number: usize) {
        let mut node = self.regions[region].nodes[number].lock().unwrap();
        let peers = (0..self.regions.len()).filter(|peer| *peer != region);
        let followers = peers.map(|peer| {
            let way = Way { world: self.clone(), from: (region, number), to: peer };
            let random = node.random.fork();
            node.ledger.0.core.spawn(follow(way, node.ledger.clone(), random))
        });
        node.followers = followers.collect();
    }

    fn random(&self, below: u64) -> u64 {
        self.random.lock().unwrap().u64(0..below)
    }
}

/// A node follows another region for ever.
async fn follow(way: Way, ledger: Ledger, mut random: fastrand::Rng) {
    let mut last = None;
    let mut heard = way.world.appended.count();
    loop {
        // As a long poll is answered.
        let _ = timeout(Duration::from_secs(random.u64(3..20)), way.world.appended.since(heard)).await;
        heard = way.world.appended.count();
        sleep(Duration::from_millis(random.u64(10..400))).await;
        if way.world.is_quiet.load(Ordering::Relaxed) {
            sleep(SELDOM).await;
        }
        let (name, node, origin) = (NAMES[way.from.0], way.from.1, way.world.regions[way.to].origin());
        match timeout(ROUND, ledger.pull(&way, &origin, Duration::ZERO)).await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(PullError::Import(why))) if last.replace(why.clone()).as_ref() != Some(&why) => {
                way.world.trace(format_args!("edge-{node} of {name} follows {origin}: {why}"))
            }
            Ok(Err(_)) => {}
        }
    }
}

/// Something was appended somewhere. Who waits is woken in the order in which it came, which `watch` leaves to chance.
#[derive(Default)]
pub(super) struct Appended {
    count: AtomicU64,
    notify: Notify,
}

impl Appended {
    pub fn tell(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.notify.notify_waiters();
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    async fn since(&self, heard: u64) {
        let told = self.notify.notified();
        if self.count() == heard {
            told.await;
        }
    }
}

/// How one node gets segments of another region.
pub(super) struct Way {
    world: Shared,
    from: (usize, usize),
    to: usize,
}

impl Way {
    async fn through_an_edge(&self, number: usize, origin: &Origin, after: u64) -> Result<Segments, String> {
        sleep(Duration::from_millis(5 + self.world.random(150))).await;
        let ledger = self.world.ledger((self.to, number));
        ledger.confirm(Look::Now).await.map_err(|why| why.to_string())?;
        let found = ledger.segments_of(origin, after, ANSWER_BYTES).await.map_err(|why| why.to_string())?;
        sleep(Duration::from_millis(5 + self.world.random(150))).await;
        if self.world.is_parted(self.from.0, self.to) { Err("the way is cut".into()) } else { Ok(found) }
    }
}

impl Source for Way {
    async fn segments(&self, origin: &Origin, after: u64, wait: Duration) -> Result<Segments, String> {
        let peer = &self.world.regions[self.to];
        let number = self.world.random(peer.nodes.len() as u64) as usize;
        let is_blown = peer.nodes[number].lock().unwrap().fuse.is_blown();
        if !self.world.is_parted(self.from.0, self.to) && !is_blown && self.world.random(3) > 0 {
            return self.through_an_edge(number, origin, after).await;
        }
        let store = self.world.regions[self.from.0].nodes[self.from.1].lock().unwrap().stores[self.to].clone();
        store.at_incarnation(&peer.origin().incarnation).segments(origin, after, wait).await
    }
}

impl Node {
    fn new(
        origin: &Origin,
        client: SimulatedNode,
        abroad: Vec<SimulatedNode>,
        mut random: fastrand::Rng,
        (metrics, planted): (&Metrics, Option<Bug>),
    ) -> Node {
        let (clock, memory, fuse) = (skewed(&mut random, Duration::ZERO), Memory::default(), Fuse::default());
        let ledger = open(origin, &client, (&clock, &memory, &fuse), metrics, (random.u64(..), planted));
        let stores = abroad.iter().zip(NAMES).map(|(client, name)| ForeignBucket::simulated(client, name, INCARNATION)).collect();
        Node { client, abroad, stores, clock, ticked: Instant::now(), memory, ledger, fuse, random, followers: Vec::new() }
    }

    fn tick(&mut self) {
        self.clock.advance(self.ticked.elapsed());
        self.ticked = Instant::now();
    }

    pub fn crash(&mut self) {
        self.fuse.blow();
        self.ledger.0.appender.stop();
        self.ledger.0.importer.stop();
        self.ledger.0.tail.stop();
        self.followers.drain(..).for_each(|follower| follower.abort());
    }

    fn restart(&mut self, origin: &Origin, (keeps_index, running): (bool, Duration), (metrics, planted): (&Metrics, Option<Bug>)) {
        self.crash();
        self.memory = if keeps_index { self.memory.fork() } else { Memory::default() };
        self.fuse = Fuse::default();
        self.ticked = Instant::now();
        self.clock = skewed(&mut self.random, running);
        let seed = self.random.u64(..);
        self.ledger = open(origin, &self.client, (&self.clock, &self.memory, &self.fuse), metrics, (seed, planted));
    }
}

fn open(
    origin: &Origin,
    client: &SimulatedNode,
    (clock, memory, fuse): (&Clock, &Memory, &Fuse),
    metrics: &Metrics,
    (seed, planted): (u64, Option<Bug>),
) -> Ledger {
    let bucket = Bucket::simulated_as(client, &origin.region, &origin.incarnation, clock.clone());
    let index = Index::in_memory(memory.clone(), origin).expect("memory does not fail");
    let identity = Identity { node: format!("edge-{seed:x}"), origin: origin.clone(), regions: Regions::Many };
    let mut core = Core::new(bucket, index, identity, clock.clone(), metrics.clone());
    core.random = Mutex::new(fastrand::Rng::with_seed(seed));
    core.planted = Planted(planted);
    core.fuse = fuse.clone();
    Ledger::over(core)
}
