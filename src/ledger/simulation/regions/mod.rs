//! Several regions, each with a store of its own that misbehaves, nodes that crash and freeze, clocks that are off, ways between regions
//! that are cut; a region that is declared lost and was only cut off; a bucket that is set back to an old backup.

mod checks;
mod clients;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::event::Event;
use super::super::planted::Bug;
use super::super::{Look, Origin, VersionVector};
use super::Outcome;
use super::world::faults;
use crate::bucket::testing::Faults;
use clients::{Client, Pool};
use world::{Shared, Way, World};

pub(super) fn run(seed: u64, planted: Option<Bug>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(schedule(seed, planted))
}

/// What happens besides the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    None,
    /// A region is cut off, declared lost, and comes back.
    Loss,
    /// A bucket is set back, and its nodes ask the others before they write.
    Restore,
    /// A bucket is set back, and nobody can be asked.
    BlindRestore,
}

async fn schedule(seed: u64, planted: Option<Bug>) -> Outcome {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(seed, &mut random, planted);
    let pool = Arc::new(Mutex::new(Pool::default()));
    let turn = match random.u32(0..10) {
        0..=1 if world.regions.len() > 2 => Turn::Loss,
        2..=3 => Turn::Restore,
        4 => Turn::BlindRestore,
        _ => Turn::None,
    };
    phase(&world, &pool, &mut random).await;
    let region = random.usize(0..world.regions.len());
    match turn {
        Turn::None => {}
        Turn::Loss => lose(&world, &pool, region, &mut random).await,
        Turn::Restore | Turn::BlindRestore => restore(&world, region, turn, &mut random).await,
    }
    if turn != Turn::None {
        phase(&world, &pool, &mut random).await;
    }
    // Some come back at once, some later.
    if turn != Turn::None && random.bool() {
        come_back(&world, &pool, region, &mut random).await;
    }
    settle(&world, &pool, &mut random).await;
    checks::check(&world).await;
    let record = std::mem::take(&mut *world.record.lock().unwrap());
    Outcome { violations: record.violations, trace: record.trace.join("\n"), ..Outcome::default() }
}

/// Clients at work, while nodes, their ways to stores and to each other go wrong.
async fn phase(world: &Shared, pool: &Arc<Mutex<Pool>>, random: &mut fastrand::Rng) {
    for region in &world.regions {
        for node in &region.nodes {
            let node = node.lock().unwrap();
            node.client.set_faults(faults(random));
            node.abroad.iter().for_each(|way| way.set_faults(faults(random)));
        }
    }
    let clients: Vec<JoinHandle<()>> = (0..random.usize(2..=4))
        .map(|_| {
            let client = Client { world: world.clone(), pool: pool.clone(), random: random.fork() };
            tokio::spawn(client.run(random.u32(4..=9)))
        })
        .collect();
    while !clients.iter().all(JoinHandle::is_finished) {
        sleep(Duration::from_millis(random.u64(20..900))).await;
        trouble(world, random);
    }
    for client in clients {
        if let Err(why) = client.await {
            world.violation(format!("a client ended: {why}"));
        }
    }
}

fn trouble(world: &Shared, random: &mut fastrand::Rng) {
    let all = world.all_nodes();
    let at = all[random.usize(0..all.len())];
    let other = random.usize(0..world.regions.len());
    let is_blown = {
        let node = world.regions[at.0].nodes[at.1].lock().unwrap();
        match random.u32(0..16) {
            0 | 1 => node.fuse.light(random.u32(0..40)),
            2 => node.fuse.freeze(),
            3 => node.client.cut_off(),
            4..=6 => node.client.heal(),
            7..=9 => node.fuse.thaw(),
            _ => {}
        }
        node.fuse.is_blown()
    };
    match random.u32(0..10) {
        0 if other != at.0 => world.part(at.0, other),
        1 if other != at.0 => world.part_edges(at.0, other),
        // Who is to be declared lost stays away.
        2 | 3 if world.record.lock().unwrap().lost.is_none() => world.join_all(),
        _ => {}
    }
    if is_blown {
        world.restart(at, random.u32(0..3) > 0);
    }
}

/// A region is cut off from all others, which declare it lost; it goes on writing.
async fn lose(world: &Shared, pool: &Arc<Mutex<Pool>>, lost: usize, random: &mut fastrand::Rng) {
    heal(world);
    revive(world);
    let survivors: Vec<usize> = (0..world.regions.len()).filter(|region| *region != lost).collect();
    survivors.iter().for_each(|region| world.part(*region, lost));
    world.record.lock().unwrap().lost = Some(lost);
    world.quiet().await;
    let origin = world.regions[lost].origin();
    let nodes = world.all_nodes().into_iter().filter(|(region, _)| *region != lost);
    let mut cut = 0;
    for at in nodes {
        let ledger = world.ledger(at);
        let _ = ledger.confirm(Look::Now).await;
        cut = cut.max(ledger.vector().unwrap().get(&origin));
    }
    let mut client = Client { world: world.clone(), pool: pool.clone(), random: random.fork() };
    while client.append((survivors[0], 0), vec![Event::Lost { origin: origin.clone(), cut }]).await.is_err() {
        sleep(Duration::from_secs(5)).await;
    }
    // Only when all know of it may the lost one come back.
    let knows = |at: &(usize, usize)| world.ledger(*at).cut(&origin).unwrap().is_some();
    for at in world.all_nodes().into_iter().filter(|(region, _)| *region != lost) {
        let mut rounds = 0;
        while !knows(&at) && rounds < 100 {
            world.appended.tell();
            sleep(Duration::from_secs(5)).await;
            let _ = world.ledger(at).confirm(Look::Now).await;
            rounds += 1;
        }
    }
    // Each goes on for a while, apart.
    for (at, tag) in [((lost, 0), "a"), ((survivors[0], 0), "b")] {
        let _ = client.append(at, vec![Event::untag("app".parse().unwrap(), tag.parse().unwrap())]).await;
        let _ = client.append(at, vec![Event::Heartbeat {}]).await;
    }
}

/// The store of a region is set back to what it was some segments ago, while its nodes are down.
async fn restore(world: &Shared, region: usize, turn: Turn, random: &mut fastrand::Rng) {
    heal(world);
    revive(world);
    // A write that comes from before the backup and lands after it would need a new incarnation; and of what only some have seen
    // nobody could tell.
    world.quiet().await;
    if checks::drain(world).await.is_none() {
        return world.violation("the regions do not converge before a restore".to_owned());
    }
    let at = &world.regions[region];
    at.nodes.iter().for_each(|node| node.lock().unwrap().crash());
    world.quiet().await;
    let path = |folder: &str, number: u64| format!("{}/{folder}/{number:020}", at.origin());
    let count = |folder: &str| (1..).take_while(|number| at.store.objects().contains_key(&path(folder, *number))).count() as u64;
    let segments = count("ledger");
    let kept = segments.saturating_sub(random.u64(1..4));
    for number in kept + 1..=segments {
        at.store.remove(&path("ledger", number));
    }
    world.trace(format_args!("{} is set back from {segments} to {kept}", at.name));
    {
        let mut record = world.record.lock().unwrap();
        record.restored = Some((region, kept));
        record.is_forked = turn == Turn::BlindRestore;
    }
    if turn == Turn::BlindRestore {
        (0..world.regions.len()).filter(|other| *other != region).for_each(|other| world.part(region, other));
    }
    for number in 0..at.nodes.len() {
        world.restart((region, number), true);
    }
}

/// The region that is gone begins a new life, and takes over from the old one.
async fn come_back(world: &Shared, pool: &Arc<Mutex<Pool>>, region: usize, random: &mut fastrand::Rng) {
    heal(world);
    revive(world);
    let at = &world.regions[region];
    // Whoever writes under the old name has ended, and what was late has landed.
    at.nodes.iter().for_each(|node| node.lock().unwrap().crash());
    world.quiet().await;
    at.begin_anew();
    for number in 0..at.nodes.len() {
        world.restart((region, number), false);
    }
    let others: Vec<VersionVector> =
        (0..world.regions.len()).filter(|other| *other != region).map(|other| checks::imported(world, other)).collect();
    let (ledger, old) = (world.ledger((region, 0)), world.earlier((region, 0)));
    let ways: Vec<Way> = (0..world.regions.len()).filter(|other| *other != region).map(|other| world.way((region, 0), other)).collect();
    let outcome = ledger.recover(&old, &ways).await;
    let (here, origin) = (ledger.vector().unwrap(), Origin::new(old.region(), old.incarnation()));
    if others.iter().any(|other| other.get(&origin) > here.get(&origin)) {
        world.violation(format!("{} does not get from others what they have of it", at.name));
    }
    match outcome {
        Ok(recovered) => world.trace(format_args!("{} came back: {recovered:?}", at.name)),
        Err(why) => world.violation(format!("{} cannot come back: {why}", at.name)),
    }
    world.record.lock().unwrap().is_recovered = true;
    phase(world, pool, random).await;
}

fn heal(world: &Shared) {
    world.join_all();
    for region in &world.regions {
        for node in &region.nodes {
            let node = node.lock().unwrap();
            node.client.set_faults(Faults::NONE);
            node.client.heal();
            node.abroad.iter().for_each(|way| way.set_faults(Faults::NONE));
            node.fuse.thaw();
        }
    }
}

fn revive(world: &Shared) {
    for at in world.all_nodes() {
        if world.regions[at.0].nodes[at.1].lock().unwrap().fuse.is_blown() {
            world.restart(at, true);
        }
        world.regions[at.0].nodes[at.1].lock().unwrap().fuse.light(u32::MAX);
    }
}

/// Everything is well again, and what was under way lands.
async fn settle(world: &Shared, pool: &Arc<Mutex<Pool>>, random: &mut fastrand::Rng) {
    heal(world);
    for at in world.all_nodes() {
        let is_blown = world.regions[at.0].nodes[at.1].lock().unwrap().fuse.is_blown();
        if is_blown || random.u32(0..4) == 0 {
            world.restart(at, random.bool());
        } else {
            world.regions[at.0].nodes[at.1].lock().unwrap().fuse.light(u32::MAX);
        }
    }
    world.quiet().await;
    let gone = {
        let record = world.record.lock().unwrap();
        record.lost.or(record.restored.map(|(region, _)| region)).filter(|_| !record.is_recovered)
    };
    let mut client = Client { world: world.clone(), pool: pool.clone(), random: random.fork() };
    for at in world.all_nodes().into_iter().filter(|(region, _)| Some(*region) != gone) {
        let appended = timeout(Duration::from_secs(60), client.append(at, vec![Event::Heartbeat {}])).await;
        if !matches!(appended, Ok(Ok(()))) {
            world.violation(format!("edge-{} of region {} cannot append when all is well: {appended:?}", at.1, at.0));
        }
    }
}
