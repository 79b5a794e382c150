//! What waits to be passed on, when its turn is, and what became of it. Pure: the time is told.
//!
//! Bounded for each repository and each upstream, so that one that refuses everything does not keep the others from going on: what finds
//! no room stays in the ledger, and is found there later.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

pub(super) const MAX_OF_REPOSITORY: usize = 1_000;
pub(super) const MAX_OF_UPSTREAM: usize = 10_000;
/// Tags of one manifest.
const MAX_TAGS: usize = 1_000;
/// Between two tries while an upstream cannot be asked: the first, doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// For what an upstream refuses.
const FIRST_REFUSED_PAUSE: Duration = Duration::from_secs(600);
const LAST_REFUSED_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// An upstream that answers again is given what waited for it at once, but not more often than this.
const WAKE_PAUSE: Duration = Duration::from_secs(30);

/// A manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub repository: RepositoryName,
    pub digest: Digest,
}

/// How far something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its first turn is still to come, or its next.
    Waiting,
    /// On its way just now.
    Running,
    /// The upstream refused it. It is tried again rarely.
    Failed,
}

/// Something that an upstream has not got yet.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pending {
    pub repository: RepositoryName,
    /// A tag, or the digest of a manifest that waits for itself.
    #[serde(serialize_with = "as_text")]
    pub reference: Reference,
    pub digest: Digest,
    pub upstream: Arc<str>,
    pub standing: Standing,
    #[serde(rename = "since_ms")]
    pub since: Timestamp,
    pub tries: u32,
    pub last_error: Option<String>,
}

fn as_text<S: serde::Serializer>(reference: &Reference, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reference)
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Passed,
    /// There is nothing to pass on: deleted, moved, or done by another node.
    Gone,
    /// Not now.
    Unavailable {
        why: String,
        retry_after: Option<Duration>,
    },
    Refused(String),
}

impl Outcome {
    pub fn label(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Gone => "gone",
            Outcome::Unavailable { .. } => "unavailable",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// What is to be passed on now.
#[derive(Debug, PartialEq)]
pub(super) struct Turn {
    pub key: Key,
    pub tags: Vec<Tag>,
    pub upstream: Arc<str>,
}

#[derive(Debug)]
struct Job {
    tags: BTreeSet<Tag>,
    upstream: Arc<str>,
    since: Timestamp,
    due: Instant,
    standing: Standing,
    tries: u32,
    last_error: Option<String>,
    /// It was pushed again while it was on its way.
    again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: BTreeMap<Key, Job>,
    of_repository: HashMap<RepositoryName, usize>,
    of_upstream: HashMap<Arc<str>, usize>,
    /// Repositories of which something is on its way.
    busy: HashSet<RepositoryName>,
    /// When what waited for an upstream was last let go at once.
    woken_at: HashMap<Arc<str>, Instant>,
}

impl Queue {
    /// Something was pushed just now: its turn is at once, whatever it met before. Returns whether there was room.
    pub fn push(&mut self, key: Key, tags: impl Iterator<Item = Tag>, upstream: Arc<str>, since: Timestamp, now: Instant) -> bool {
        if !self.enter(key.clone(), tags, upstream, since, now) {
            return false;
        }
        if let Some(job) = self.jobs.get_mut(&key) {
            job.due = job.due.min(now);
            match job.standing {
                Standing::Running => job.again = true,
                Standing::Waiting | Standing::Failed => job.standing = Standing::Waiting,
            }
        }
        true
    }

    /// Something was found in the ledger: its turn is at `due`, unless it waits already. Returns whether there was room.
    pub fn find(&mut self, key: Key, tags: impl Iterator<Item = Tag>, upstream: Arc<str>, since: Timestamp, due: Instant) -> bool {
        self.enter(key, tags, upstream, since, due)
    }

    fn enter(&mut self, key: Key, tags: impl Iterator<Item = Tag>, upstream: Arc<str>, since: Timestamp, due: Instant) -> bool {
        if !self.jobs.contains_key(&key) {
            if !self.has_room(&key.repository, &upstream) {
                return false;
            }
            *self.of_repository.entry(key.repository.clone()).or_default() += 1;
            *self.of_upstream.entry(upstream.clone()).or_default() += 1;
        }
        let standing = Standing::Waiting;
        let new = || Job { tags: BTreeSet::new(), upstream, since, due, standing, tries: 0, last_error: None, again: false };
        let job = self.jobs.entry(key).or_insert_with(new);
        for tag in tags {
            if job.tags.len() >= MAX_TAGS && !job.tags.contains(&tag) {
                return false;
            }
            job.tags.insert(tag);
        }
        true
    }

    pub fn has_room(&self, repository: &RepositoryName, upstream: &Arc<str>) -> bool {
        self.of_repository.get(repository).is_none_or(|count| *count < MAX_OF_REPOSITORY)
            && self.of_upstream.get(upstream).is_none_or(|count| *count < MAX_OF_UPSTREAM)
    }

    /// The oldest that is due and whose repository is free; it is on its way from now on.
    pub fn take(&mut self, now: Instant) -> Option<Turn> {
        let due = self.jobs.iter().filter(|(key, job)| job.due <= now && !self.busy.contains(&key.repository));
        let key = due.min_by_key(|(_, job)| job.since).map(|(key, _)| key.clone())?;
        let job = self.jobs.get_mut(&key)?;
        job.standing = Standing::Running;
        job.again = false;
        self.busy.insert(key.repository.clone());
        Some(Turn { tags: job.tags.iter().cloned().collect(), upstream: job.upstream.clone(), key })
    }

    /// When `take` will have something, if nothing changes.
    pub fn next_due(&self) -> Option<Instant> {
        self.jobs.iter().filter(|(key, _)| !self.busy.contains(&key.repository)).map(|(_, job)| job.due).min()
    }

    /// What was on its way has ended.
    pub fn settle(&mut self, key: &Key, outcome: Outcome, now: Instant) {
        self.busy.remove(&key.repository);
        let Some(job) = self.jobs.get_mut(key) else { return };
        job.standing = Standing::Waiting;
        job.tries = job.tries.saturating_add(1);
        let pause = match outcome {
            Outcome::Passed | Outcome::Gone if job.again => Duration::ZERO,
            Outcome::Passed | Outcome::Gone => {
                let upstream = job.upstream.clone();
                self.remove(key);
                if outcome == Outcome::Passed {
                    self.wake(&upstream, now);
                }
                return;
            }
            Outcome::Unavailable { why, retry_after } => {
                job.last_error = Some(why);
                jittered(doubled(FIRST_PAUSE, LAST_PAUSE, job.tries)).max(retry_after.unwrap_or_default().min(LAST_REFUSED_PAUSE))
            }
            Outcome::Refused(why) => {
                job.last_error = Some(why);
                job.standing = Standing::Failed;
                jittered(doubled(FIRST_REFUSED_PAUSE, LAST_REFUSED_PAUSE, job.tries))
            }
        };
        // Pushed again meanwhile, it is another push.
        job.due = if job.again { now } else { now + pause };
    }

    /// An upstream answers: what waited for it need not wait longer. Not each time, for what fails again and again must not keep up with
    /// what goes well.
    fn wake(&mut self, upstream: &Arc<str>, now: Instant) {
        if self.woken_at.get(upstream).is_some_and(|last| *last + WAKE_PAUSE > now) {
            return;
        }
        self.woken_at.insert(upstream.clone(), now);
        let waiting = self.jobs.values_mut().filter(|job| job.upstream == *upstream && job.standing == Standing::Waiting && job.tries > 0);
        waiting.for_each(|job| job.due = job.due.min(now));
    }

    fn remove(&mut self, key: &Key) {
        let Some(job) = self.jobs.remove(key) else { return };
        lower(&mut self.of_repository, &key.repository);
        lower(&mut self.of_upstream, &job.upstream);
    }

    /// How much there is, and since when.
    pub fn extent(&self) -> (usize, Option<Timestamp>) {
        (self.jobs.len(), self.jobs.values().map(|job| job.since).min())
    }

    pub fn pending(&self, readable: impl Fn(&RepositoryName) -> bool, limit: usize) -> Vec<Pending> {
        let mut jobs: Vec<_> = self.jobs.iter().filter(|(key, _)| readable(&key.repository)).collect();
        jobs.sort_by_key(|(_, job)| job.since);
        jobs.into_iter().flat_map(|(key, job)| job.entries(key)).take(limit).collect()
    }
}

impl Job {
    /// One for each tag, or one for the manifest.
    fn entries(&self, key: &Key) -> impl Iterator<Item = Pending> {
        let itself = self.tags.is_empty().then_some(Reference::Digest(key.digest));
        itself.into_iter().chain(self.tags.iter().cloned().map(Reference::Tag)).map(|reference| Pending {
            repository: key.repository.clone(),
            reference,
            digest: key.digest,
            upstream: self.upstream.clone(),
            standing: self.standing,
            since: self.since,
            tries: self.tries,
            last_error: self.last_error.clone(),
        })
    }
}

fn lower<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn doubled(first: Duration, last: Duration, tries: u32) -> Duration {
    let factor = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(last)
}

/// So that what failed together does not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.25 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(repository: &str, number: u32) -> Key {
        Key { repository: repository.parse().unwrap(), digest: Digest::sha256(&number.to_be_bytes()) }
    }

    fn tags(texts: &[&str]) -> impl Iterator<Item = Tag> {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Tag>>().into_iter()
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn unavailable() -> Outcome {
        Outcome::Unavailable { why: "away".to_owned(), retry_after: None }
    }

    struct World {
        queue: Queue,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            World { queue: Queue::default(), now: Instant::now() }
        }

        fn push(&mut self, key: Key, texts: &[&str], since_ms: u64) -> bool {
            self.queue.push(key, tags(texts), "origin".into(), at(since_ms), self.now)
        }

        fn take(&mut self) -> Option<(Key, usize)> {
            self.queue.take(self.now).map(|turn| (turn.key, turn.tags.len()))
        }

        fn pending(&self) -> Vec<(String, Standing, u32)> {
            let pending = self.queue.pending(|_| true, 100);
            pending.into_iter().map(|entry| (entry.reference.to_string(), entry.standing, entry.tries)).collect()
        }
    }

    #[test]
    fn the_oldest_goes_first_and_one_of_a_repository_at_a_time() {
        let mut world = World::new();
        assert!(world.push(key("b", 1), &["x"], 2) && world.push(key("b", 2), &[], 1) && world.push(key("a", 1), &["x", "y"], 3));
        assert_eq!(world.take(), Some((key("b", 2), 0)));
        assert_eq!(world.take(), Some((key("a", 1), 2)));
        assert_eq!((world.take(), world.queue.next_due()), (None, None));
        world.queue.settle(&key("b", 2), Outcome::Passed, world.now);
        assert_eq!(world.take(), Some((key("b", 1), 1)));
        assert_eq!(world.queue.extent(), (2, Some(at(2))));
        world.queue.settle(&key("b", 1), Outcome::Gone, world.now);
        world.queue.settle(&key("a", 1), Outcome::Passed, world.now);
        assert_eq!(world.queue.extent(), (0, None));
        assert!(world.queue.of_repository.is_empty() && world.queue.of_upstream.is_empty() && world.queue.busy.is_empty());
    }

    #[test]
    fn pauses_grow_and_what_is_refused_comes_back_rarely() {
        for (outcome, first, last) in
            [(unavailable(), FIRST_PAUSE, LAST_PAUSE), (Outcome::Refused("denied".to_owned()), FIRST_REFUSED_PAUSE, LAST_REFUSED_PAUSE)]
        {
            let mut world = World::new();
            world.push(key("a", 1), &["x"], 1);
            for tries in 1..40 {
                world.take().unwrap();
                world.queue.settle(&key("a", 1), outcome.clone(), world.now);
                let pause = world.queue.next_due().unwrap() - world.now;
                let longest = first.saturating_mul(1 << (tries - 1).min(20)).min(last);
                assert!(pause <= longest && pause >= longest.mul_f64(0.74), "{outcome:?} {tries}: {pause:?}");
                assert!(world.take().is_none());
                world.now += pause;
            }
            assert_eq!(world.queue.pending(|_| true, 9)[0].tries, 39);
        }
        // Told to wait longer.
        let mut world = World::new();
        world.push(key("a", 1), &["x"], 1);
        world.take().unwrap();
        let wait = Some(Duration::from_secs(900));
        world.queue.settle(&key("a", 1), Outcome::Unavailable { why: String::new(), retry_after: wait }, world.now);
        assert_eq!(world.queue.next_due().unwrap() - world.now, Duration::from_secs(900));
    }

    #[test]
    fn an_upstream_that_answers_again_is_given_all_that_waited() {
        let mut world = World::new();
        for repository in ["a", "b", "c"] {
            world.push(key(repository, 1), &["x"], 1);
        }
        for outcome in [unavailable(), Outcome::Refused("no".to_owned()), Outcome::Passed] {
            let (key, _) = world.take().unwrap();
            world.queue.settle(&key, outcome, world.now);
        }
        assert_eq!(world.take(), Some((key("a", 1), 1)));
        assert_eq!(world.take(), None, "a refusal is not taken back by another's luck");
        // It fails again while others go well: it waits.
        world.queue.settle(&key("a", 1), unavailable(), world.now);
        world.push(key("c", 2), &["x"], 1);
        world.take().unwrap();
        world.queue.settle(&key("c", 2), Outcome::Passed, world.now);
        assert_eq!(world.take(), None);
    }

    #[test]
    fn a_new_push_has_its_turn_at_once_and_is_not_lost_on_the_way() {
        let mut world = World::new();
        world.push(key("a", 1), &["x"], 1);
        world.take().unwrap();
        world.queue.settle(&key("a", 1), Outcome::Refused("no".to_owned()), world.now);
        assert_eq!(world.pending(), [("x".to_owned(), Standing::Failed, 1)]);
        // Found again in the ledger, it waits on.
        assert!(world.queue.find(key("a", 1), tags(&["x"]), "origin".into(), at(1), world.now));
        assert_eq!(world.take(), None);
        world.push(key("a", 1), &["y"], 5);
        assert_eq!(world.take(), Some((key("a", 1), 2)));
        world.push(key("a", 1), &["z"], 6);
        assert_eq!(world.pending().len(), 3);
        world.queue.settle(&key("a", 1), Outcome::Passed, world.now);
        assert_eq!(world.take(), Some((key("a", 1), 3)));
        world.queue.settle(&key("a", 1), Outcome::Passed, world.now);
        assert_eq!(world.pending(), []);
    }

    #[test]
    fn one_that_refuses_everything_leaves_room_for_others() {
        let mut world = World::new();
        for number in 0..MAX_OF_REPOSITORY as u32 {
            assert!(world.push(key("a", number), &[], 1));
        }
        assert!(!world.push(key("a", 99_999), &[], 1));
        assert!(world.push(key("a", 0), &["more"], 1), "what waits already needs no room");
        assert!(world.push(key("b", 1), &[], 1));
        for number in 0..MAX_OF_UPSTREAM as u32 {
            world.push(key(&format!("r{}", number / 1_000), number), &[], 1);
        }
        assert!(!world.push(key("z", 1), &[], 1));
        assert!(world.queue.find(key("z", 1), tags(&[]), "other".into(), at(1), world.now));
        assert_eq!(world.queue.pending(|name| name.as_str() == "z", 100).len(), 1);
        assert_eq!(world.queue.pending(|_| true, 100).len(), 100);
    }
}
