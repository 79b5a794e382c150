//! What is to be copied, and whose turn is next. Pure: the time is told.
//!
//! What a client waits for goes first. Then small contents before large ones, and of one class the oldest; and between the repositories
//! and peers that have something of that class, whoever was served longest ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::oci::{Digest, RepositoryName};
use crate::replication::policy::Urgency;

/// What waits, at most; what finds no room is found in the ledger later.
pub(super) const MAX_WAITING: usize = 20_000;
/// Of one repository, so that one that is copied for the first time leaves room to the others.
const MAX_OF_LANE: usize = 10_000;
/// Between two tries: the first pause, doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// Up to these sizes contents are of a class each; all others are of the last.
const CLASS_BYTES: [u64; 3] = [1 << 20, 16 << 20, 256 << 20];

/// The class of the smallest contents: they do not wait for room among the large ones.
pub(super) const SMALLEST: u8 = 0;

/// Contents that compete with each other and not with those of other lanes: of one repository, from one peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lane {
    pub peer: Arc<str>,
    pub repository: RepositoryName,
}

/// Something to copy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub digest: Digest,
    pub size_bytes: u64,
    pub lane: Lane,
    pub pushed_at: Timestamp,
    pub urgency: Urgency,
}

/// What may be begun now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Most {
    /// Contents of up to this class, and what a client waits for.
    Class(u8),
    /// Only what a client waits for.
    Awaited,
}

impl Most {
    fn allows(self, urgency: Urgency, class: u8) -> bool {
        match self {
            _ if urgency == Urgency::Awaited => true,
            Most::Class(most) => class <= most,
            Most::Awaited => false,
        }
    }
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is here, or nobody wants it here any more.
    Settled,
    Again,
}

/// Where something stands in its lane: the first is next.
type Rank = (Urgency, u8, Timestamp, Digest);

#[derive(Debug)]
struct Job {
    wanted: Wanted,
    /// Its next try is not before this.
    due: Instant,
    tries: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: HashMap<Digest, Job>,
    /// Those whose time has come.
    ready: BTreeMap<Lane, BTreeSet<Rank>>,
    /// Those whose time is still to come.
    later: BTreeSet<(Instant, Digest)>,
    /// In how many steps each lane was served last; a lane that was never served is 0.
    served: HashMap<Lane, u64>,
    steps: u64,
    running: HashMap<Digest, u8>,
}

pub(super) fn class(size_bytes: u64) -> u8 {
    let class = CLASS_BYTES.iter().position(|most| size_bytes <= *most).unwrap_or(CLASS_BYTES.len());
    u8::try_from(class).unwrap_or(u8::MAX)
}

fn rank(wanted: &Wanted) -> Rank {
    (wanted.urgency, class(wanted.size_bytes), wanted.pushed_at, wanted.digest)
}

impl Queue {
    /// Its turn is not before `due`, unless it waits already: then not before the earlier of the two. Returns whether there was room.
    pub fn push(&mut self, wanted: Wanted, due: Instant) -> bool {
        if let Some(job) = self.jobs.get(&wanted.digest) {
            if self.running.contains_key(&wanted.digest) || (job.due <= due && job.wanted.urgency <= wanted.urgency) {
                return true;
            }
            let (tries, due) = (job.tries, job.due.min(due));
            self.remove(&wanted.digest);
            self.enter(Job { wanted, due, tries });
            return true;
        }
        let of_lane = self.ready.get(&wanted.lane).map_or(0, BTreeSet::len);
        if self.jobs.len() >= MAX_WAITING || of_lane >= MAX_OF_LANE {
            return false;
        }
        self.enter(Job { wanted, due, tries: 0 });
        true
    }

    fn enter(&mut self, job: Job) {
        self.later.insert((job.due, job.wanted.digest));
        self.jobs.insert(job.wanted.digest, job);
    }

    fn remove(&mut self, digest: &Digest) -> Option<Job> {
        let job = self.jobs.remove(digest)?;
        self.later.remove(&(job.due, *digest));
        if let Some(ranks) = self.ready.get_mut(&job.wanted.lane) {
            ranks.remove(&rank(&job.wanted));
            if ranks.is_empty() {
                self.ready.remove(&job.wanted.lane);
            }
        }
        Some(job)
    }

    /// What is next, if anything is due; it is running from now on.
    pub fn take(&mut self, now: Instant, most: Most) -> Option<Wanted> {
        self.wake(now);
        let served = |lane: &Lane| self.served.get(lane).copied().unwrap_or_default();
        let heads = self.ready.iter().filter_map(|(lane, ranks)| {
            let (urgency, class, _, digest) = ranks.first()?;
            most.allows(*urgency, *class).then_some(((*urgency, *class, served(lane)), lane, *digest))
        });
        let (_, lane, digest) = heads.min_by(|(a, _, _), (b, _, _)| a.cmp(b))?;
        let lane = lane.clone();
        self.steps += 1;
        if self.served.len() > MAX_WAITING {
            self.served.clear();
        }
        self.served.insert(lane, self.steps);
        let mut job = self.remove(&digest)?;
        let wanted = job.wanted.clone();
        job.tries += 1;
        self.running.insert(digest, class(wanted.size_bytes));
        self.jobs.insert(digest, job);
        Some(wanted)
    }

    /// Those whose time has come compete from now on.
    fn wake(&mut self, now: Instant) {
        while let Some((due, digest)) = self.later.first().copied()
            && due <= now
        {
            self.later.pop_first();
            if let Some(job) = self.jobs.get(&digest) {
                self.ready.entry(job.wanted.lane.clone()).or_default().insert(rank(&job.wanted));
            }
        }
    }

    pub fn settle(&mut self, digest: &Digest, outcome: Outcome, now: Instant) {
        if self.running.remove(digest).is_none() {
            return;
        }
        let Some(mut job) = self.jobs.remove(digest) else { return };
        if outcome == Outcome::Again {
            job.due = now + pause(job.tries);
            self.enter(job);
        }
    }

    /// When something becomes due that is not yet.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    pub fn running_large(&self) -> usize {
        self.running.values().filter(|class| **class > SMALLEST).count()
    }

    /// How many contents wait or are on their way, their bytes, and when the oldest of them was pushed.
    pub fn extent(&self) -> (usize, u64, Option<Timestamp>) {
        let bytes = self.jobs.values().map(|job| job.wanted.size_bytes).sum();
        (self.jobs.len(), bytes, self.jobs.values().map(|job| job.wanted.pushed_at).min())
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const ANY: Most = Most::Class(u8::MAX);

    fn wanted(name: &str, repository: &str, size_bytes: u64, pushed_ms: u64) -> Wanted {
        Wanted {
            digest: Digest::sha256(name.as_bytes()),
            size_bytes,
            lane: Lane { peer: "eu".into(), repository: repository.parse().unwrap() },
            pushed_at: Timestamp::from_ms(pushed_ms),
            urgency: Urgency::Ordinary,
        }
    }

    fn order(queue: &mut Queue, now: Instant) -> Vec<Digest> {
        std::iter::from_fn(|| queue.take(now, ANY)).map(|wanted| wanted.digest).collect()
    }

    fn digests(names: &[&str]) -> Vec<Digest> {
        names.iter().map(|name| Digest::sha256(name.as_bytes())).collect()
    }

    #[test]
    fn awaited_then_small_then_old() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let awaited = Wanted { urgency: Urgency::Awaited, ..wanted("awaited", "a", 900 * MIB, 9) };
        for each in [
            wanted("large", "a", 900 * MIB, 1),
            wanted("small and young", "a", 9, 7),
            wanted("small and old", "a", 10, 2),
            awaited,
            wanted("middle", "a", 3 * MIB, 1),
        ] {
            assert!(queue.push(each, now));
        }
        assert_eq!(order(&mut queue, now), digests(&["awaited", "small and old", "small and young", "middle", "large"]));
    }

    #[test]
    fn repositories_and_peers_take_turns() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for number in 0..3 {
            queue.push(wanted(&format!("a{number}"), "a", 1, number), now);
            queue.push(wanted(&format!("b{number}"), "b", 1, 100 + number), now);
        }
        let other = wanted("c", "a", 1, 500);
        queue.push(Wanted { lane: Lane { peer: "us".into(), ..other.lane.clone() }, ..other }, now);
        let order = order(&mut queue, now);
        let at = |name: &str| order.iter().position(|digest| *digest == Digest::sha256(name.as_bytes())).unwrap();
        assert!(at("b0") < 3 && at("c") < 3 && at("a0") < 3, "{order:?}");
        assert!(at("a1") < 6 && at("b1") < 6);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_what_is_settled_is_gone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(wanted("x", "a", 1, 1), now);
        let digest = queue.take(now, ANY).unwrap().digest;
        assert_eq!((queue.running.len(), queue.take(now, ANY)), (1, None));
        // Found once more while it is on its way: not twice.
        assert!(queue.push(wanted("x", "a", 1, 1), now));
        queue.settle(&digest, Outcome::Again, now);
        assert_eq!((queue.take(now, ANY), queue.next_due()), (None, Some(now + FIRST_PAUSE)));
        let later = now + FIRST_PAUSE;
        assert!(queue.take(later, ANY).is_some());
        queue.settle(&digest, Outcome::Again, later);
        assert_eq!(queue.next_due(), Some(later + 2 * FIRST_PAUSE));
        // Pushed again, it is due again.
        queue.push(wanted("x", "a", 1, 1), later);
        assert!(queue.take(later, ANY).is_some());
        queue.settle(&digest, Outcome::Settled, later);
        assert_eq!((queue.extent(), queue.next_due()), ((0, 0, None), None));
    }

    #[test]
    fn large_ones_can_be_left_out_and_an_awaited_one_not() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(wanted("large", "a", 900 * MIB, 1), now);
        assert_eq!((queue.take(now, Most::Class(SMALLEST)), queue.take(now, Most::Awaited)), (None, None));
        queue.push(Wanted { urgency: Urgency::Awaited, ..wanted("large", "a", 900 * MIB, 1) }, now);
        assert!(queue.take(now, Most::Awaited).is_some());
        assert_eq!((queue.running.len(), queue.running_large()), (1, 1));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let pushed = (0..MAX_WAITING + 5).filter(|number| queue.push(wanted(&number.to_string(), "a", 1, 1), now)).count();
        assert_eq!(pushed, MAX_WAITING);
        assert_eq!(queue.extent().0, MAX_WAITING);
    }
}
