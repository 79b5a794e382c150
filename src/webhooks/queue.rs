//! What waits for one receiver, when its turn is, and what became of the last ones. Pure: the time is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::cursor::Mark;
use super::event::Event;
use crate::clock::Timestamp;

/// Between two tries: the first, doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// Deliveries that ended and are shown.
const MAX_SHOWN: usize = 50;

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has it: the status that it answered.
    Delivered(u16),
    Failed {
        status: Option<u16>,
        why: String,
        retry_after: Option<Duration>,
    },
    /// 410: it wants no such event again.
    Gone,
}

impl Outcome {
    /// Of this try, as the metrics have it.
    pub fn label(&self) -> &'static str {
        match self {
            Outcome::Delivered(_) => "delivered",
            Outcome::Failed { .. } => "failed",
            Outcome::Gone => "gone",
        }
    }
}

/// Why an event is not tried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// There was no room for all that waited.
    Queue,
    /// It was tried as often as it may be.
    Attempts,
    /// It is too old.
    Age,
    Gone,
    /// Its webhook was taken out of the configuration.
    Removed,
}

impl Dropped {
    pub fn label(self) -> &'static str {
        match self {
            Dropped::Queue => "queue",
            Dropped::Attempts => "attempts",
            Dropped::Age => "age",
            Dropped::Gone => "gone",
            Dropped::Removed => "removed",
        }
    }
}

/// What became of an event, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delivery {
    pub id: String,
    pub action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it happened, and when this became of it.
    pub at_ms: u64,
    pub ended_ms: u64,
    pub tries: u32,
    /// `delivered`, or why it is tried no more: `queue`, `attempts`, `age`, `gone`, `removed`.
    pub outcome: &'static str,
    /// What was answered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is to be sent now.
#[derive(Debug)]
pub(super) struct Turn {
    pub number: u64,
    pub event: Arc<Event>,
}

#[derive(Debug)]
struct Job {
    event: Arc<Event>,
    /// Where it came from.
    mark: Mark,
    due: Instant,
    tries: u32,
    is_running: bool,
    last_error: Option<(Option<u16>, String)>,
}

/// Of one receiver.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    jobs: BTreeMap<u64, Job>,
    next: u64,
    ended: VecDeque<Delivery>,
    /// What an earlier process had passed, or this one has taken in; `None` until it is known where to begin.
    taken: Option<Mark>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub waiting: usize,
    pub attempts: u32,
    pub max_age: Duration,
}

impl Queue {
    pub fn new(limits: Limits) -> Queue {
        Queue { limits, jobs: BTreeMap::new(), next: 0, ended: VecDeque::new(), taken: None }
    }

    /// Adds an event; returns whether one had to go for it, the oldest that is not on its way.
    pub fn push(&mut self, event: Arc<Event>, mark: Mark, (now, at): (Instant, Timestamp)) -> Option<Dropped> {
        let job = Job { event, mark, due: now, tries: 0, is_running: false, last_error: None };
        self.jobs.insert(self.next, job);
        self.next += 1;
        if self.jobs.len() <= self.limits.waiting {
            return None;
        }
        let oldest = self.jobs.iter().find(|(_, job)| !job.is_running).map(|(number, _)| *number)?;
        self.drop_job(oldest, Dropped::Queue, at);
        Some(Dropped::Queue)
    }

    /// The oldest that is due; it is on its way from now on.
    pub fn take(&mut self, now: Instant) -> Option<Turn> {
        let (number, job) = self.jobs.iter_mut().find(|(_, job)| !job.is_running && job.due <= now)?;
        job.is_running = true;
        Some(Turn { number: *number, event: job.event.clone() })
    }

    /// When `take` will have something, if nothing changes.
    pub fn next_due(&self) -> Option<Instant> {
        self.jobs.values().filter(|job| !job.is_running).map(|job| job.due).min()
    }

    /// What was on its way has ended. Half of a pause is random (`chance` of 1), so that not all come again at one time.
    pub fn settle(&mut self, number: u64, outcome: Outcome, (now, at): (Instant, Timestamp), chance: f64) -> Option<Dropped> {
        let limits = self.limits;
        let job = self.jobs.get_mut(&number)?;
        job.is_running = false;
        job.tries += 1;
        let (why, status, retry_after) = match outcome {
            Outcome::Delivered(status) => {
                self.end(number, "delivered", Some(status), at);
                return None;
            }
            Outcome::Gone => ("410 Gone".to_owned(), Some(410), None),
            Outcome::Failed { status, why, retry_after } => (why, status, retry_after),
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << (job.tries - 1).min(16)).min(LAST_PAUSE).mul_f64(0.5 + chance / 2.0);
        let pause = pause.max(retry_after.unwrap_or_default().min(LAST_PAUSE));
        job.due = now + pause;
        job.last_error = Some((status, why));
        let dropped = if status == Some(410) {
            Dropped::Gone
        } else if job.tries >= limits.attempts {
            Dropped::Attempts
        } else if at.plus(pause).since(job.event.at) > limits.max_age {
            Dropped::Age
        } else {
            return None;
        };
        self.drop_job(number, dropped, at);
        Some(dropped)
    }

    /// Events behind this are for it. Only the first time counts.
    pub fn begin(&mut self, mark: Mark) {
        self.taken.get_or_insert(mark);
    }

    /// Events up to here have been added, or are of no interest.
    pub fn took(&mut self, mark: Mark) {
        self.taken = self.taken.map(|taken| taken.max(mark));
    }

    pub fn taken(&self) -> Option<Mark> {
        self.taken
    }

    /// Up to here everything has come to its end: a process that begins here again forgets nothing.
    pub fn settled(&self) -> Option<Mark> {
        Some(self.jobs.values().fold(self.taken?, |least, job| least.min(job.mark.before())))
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How long the oldest waits.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.jobs.values().map(|job| job.event.at).min()
    }

    /// What became of the last ones, the newest first.
    pub fn shown(&self) -> Vec<Delivery> {
        self.ended.iter().rev().cloned().collect()
    }

    /// The last fault of what still waits, with the status if there was one.
    pub fn last_error(&self) -> Option<String> {
        self.jobs.values().rev().find_map(|job| job.last_error.as_ref().map(|(_, why)| why.clone()))
    }

    /// Something that was sent beside the queue has ended.
    pub fn show(&mut self, delivery: Delivery) {
        if self.ended.len() >= MAX_SHOWN {
            self.ended.pop_front();
        }
        self.ended.push_back(delivery);
    }

    /// Takes over what waited under an earlier configuration; returns how many found no room.
    pub fn inherit(&mut self, earlier: &mut Queue, fits: impl Fn(&Event) -> bool, (now, at): (Instant, Timestamp)) -> usize {
        self.ended.append(&mut earlier.ended);
        let mut dropped = 0;
        for (_, job) in std::mem::take(&mut earlier.jobs).into_iter().filter(|(_, job)| fits(&job.event)) {
            dropped += usize::from(self.push(job.event, job.mark, (now, at)).is_some());
        }
        self.taken = earlier.taken;
        dropped
    }

    fn drop_job(&mut self, number: u64, why: Dropped, at: Timestamp) {
        self.end(number, why.label(), None, at);
    }

    fn end(&mut self, number: u64, outcome: &'static str, status: Option<u16>, at: Timestamp) {
        let Some(job) = self.jobs.remove(&number) else { return };
        let Event { id, action, repository, tag, digest, at: happened, .. } = job.event.as_ref();
        let (last_status, error) = job.last_error.map_or((None, None), |(status, why)| (status, Some(why)));
        self.show(Delivery {
            id: id.clone(),
            action: action.as_str(),
            repository: Some(repository.to_string()),
            tag: tag.as_ref().map(ToString::to_string),
            digest: digest.as_ref().map(ToString::to_string),
            at_ms: happened.as_ms(),
            ended_ms: at.as_ms(),
            tries: job.tries,
            outcome,
            status: status.or(last_status),
            error: error.filter(|_| outcome != "delivered"),
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::WebhookAction;

    const LIMITS: Limits = Limits { waiting: 3, attempts: 4, max_age: Duration::from_secs(3_600) };

    fn event(number: u64) -> Arc<Event> {
        Arc::new(Event {
            id: number.to_string(),
            action: WebhookAction::Push,
            repository: "team/app".parse().unwrap(),
            tag: None,
            digest: None,
            at: Timestamp::from_ms(1_000),
            body: Bytes::new(),
        })
    }

    fn mark(segment: u64) -> Mark {
        Mark { segment, import: 0 }
    }

    fn failed() -> Outcome {
        Outcome::Failed { status: Some(503), why: "503".to_owned(), retry_after: None }
    }

    fn queue(count: u64) -> (Queue, (Instant, Timestamp)) {
        let (mut queue, now) = (Queue::new(LIMITS), (Instant::now(), Timestamp::from_ms(1_000)));
        queue.begin(mark(0));
        for number in 1..=count {
            assert_eq!(queue.push(event(number), mark(number), now), None);
            queue.took(mark(number));
        }
        (queue, now)
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room_but_not_what_is_on_its_way() {
        let (mut queue, now) = queue(3);
        assert_eq!(queue.take(now.0).unwrap().event.id, "1");
        assert_eq!(queue.push(event(4), mark(4), now), Some(Dropped::Queue));
        assert_eq!(queue.len(), 3);
        assert_eq!((queue.shown()[0].id.as_str(), queue.shown()[0].outcome), ("2", "queue"));
    }

    #[test]
    fn pauses_grow_and_end() {
        let (mut queue, (mut now, at)) = queue(1);
        for (tries, (chance, seconds)) in [(1.0, 1.0), (1.0, 2.0), (0.0, 2.0)].into_iter().enumerate() {
            let turn = queue.take(now).unwrap();
            assert_eq!(queue.take(now).map(|turn| turn.number), None, "it is on its way");
            assert_eq!(queue.settle(turn.number, failed(), (now, at), chance), None, "{tries}");
            assert_eq!(queue.next_due(), Some(now + Duration::from_secs_f64(seconds)));
            assert!(queue.take(now).is_none());
            now += Duration::from_secs_f64(seconds);
        }
        let turn = queue.take(now).unwrap();
        assert_eq!(queue.settle(turn.number, failed(), (now, at), 1.0), Some(Dropped::Attempts));
        let shown = queue.shown();
        assert_eq!((shown[0].outcome, shown[0].tries, shown[0].status), ("attempts", 4, Some(503)));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn what_is_too_old_or_not_wanted_is_dropped() {
        let (mut queue, (now, at)) = queue(3);
        let old = queue.take(now).unwrap();
        assert_eq!(queue.settle(old.number, failed(), (now, at.plus(LIMITS.max_age)), 1.0), Some(Dropped::Age));
        let gone = queue.take(now).unwrap();
        assert_eq!(queue.settle(gone.number, Outcome::Gone, (now, at), 1.0), Some(Dropped::Gone));
        let busy = queue.take(now).unwrap();
        let asked = Outcome::Failed { status: Some(429), why: "429".into(), retry_after: Some(Duration::from_secs(90)) };
        assert_eq!(queue.settle(busy.number, asked, (now, at), 1.0), None);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(90)));
    }

    #[test]
    fn nothing_is_passed_that_has_not_come_to_its_end() {
        let (mut queue, now) = queue(3);
        assert_eq!((queue.taken(), queue.settled()), (Some(mark(3)), Some(mark(0))));
        let (first, second) = (queue.take(now.0).unwrap(), queue.take(now.0).unwrap());
        queue.settle(second.number, Outcome::Delivered(200), now, 1.0);
        assert_eq!(queue.settled(), Some(mark(0)));
        queue.settle(first.number, Outcome::Delivered(200), now, 1.0);
        assert_eq!(queue.settled(), Some(mark(2)));
        let third = queue.take(now.0).unwrap();
        queue.settle(third.number, Outcome::Delivered(204), now, 1.0);
        assert_eq!((queue.settled(), queue.len()), (Some(mark(3)), 0));
    }

    #[test]
    fn a_new_configuration_takes_over_what_waits() {
        let (mut earlier, now) = queue(3);
        let running = earlier.take(now.0).unwrap();
        let mut later = Queue::new(Limits { waiting: 2, ..LIMITS });
        assert_eq!(later.inherit(&mut earlier, |event| event.id != "3", now), 0);
        assert_eq!((later.len(), later.taken(), later.settled()), (2, Some(mark(3)), Some(mark(0))));
        // What was on its way is sent again, and the earlier one has nothing to say of it.
        assert_eq!(later.take(now.0).unwrap().event.id, "1");
        assert_eq!(earlier.settle(running.number, Outcome::Delivered(200), now, 1.0), None);
        assert_eq!(earlier.len(), 0);
    }

    #[test]
    fn only_the_last_ones_are_shown() {
        let (mut queue, now) = (Queue::new(LIMITS), (Instant::now(), Timestamp::from_ms(1_000)));
        for number in 0..200 {
            queue.push(event(number), mark(number), now);
        }
        assert_eq!((queue.shown().len(), queue.len(), queue.shown()[0].id.as_str()), (MAX_SHOWN, 3, "196"));
    }
}
