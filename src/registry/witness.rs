//! What other regions have folded, as they say themselves when somebody wants to know.
//!
//! However many want to know, a region is asked once at a time, and what it said serves everybody for as long as each finds it fresh.
//! What a region has folded it keeps: an old report proves what is known there, and nothing of what is not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::ledger::{Origin, VersionVector};
use crate::peers::protocol::Status;
use crate::region::Peer;

/// How long a region may take to say where it stands.
const PATIENCE: Duration = Duration::from_millis(500);
/// Events of which it is remembered when a region was first seen to know them, at most.
const MAX_FIRSTS: usize = 4_096;

/// The other regions, each with what it said last.
#[derive(Debug)]
pub(super) struct Witnesses {
    all: Vec<Witness>,
    clock: Clock,
    firsts: Mutex<Firsts>,
}

#[derive(Debug)]
struct Witness {
    peer: Peer,
    /// Held by the one who asks: others wait for what it hears.
    asking: tokio::sync::Mutex<()>,
    heard: Mutex<Heard>,
}

/// What is known of one region by asking it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    pub asked_at: Option<Timestamp>,
    /// The last time that it answered.
    pub at: Option<Timestamp>,
    pub origin: Option<Origin>,
    pub seen: VersionVector,
    /// Why there was no answer the last time.
    pub silent: Option<String>,
}

impl Heard {
    fn is_fresh(&self, now: Timestamp, fresh_for: Duration) -> bool {
        self.asked_at.is_some_and(|at| now.since(at) < fresh_for)
    }

    fn takes(&mut self, told: Result<(Origin, VersionVector), String>, now: Timestamp) {
        self.asked_at = Some(now);
        match told {
            Ok((origin, seen)) => *self = Heard { origin: Some(origin), seen, at: Some(now), silent: None, ..*self },
            Err(why) => self.silent = Some(why),
        }
    }
}

impl Witnesses {
    pub fn new(peers: &[Peer], clock: Clock) -> Witnesses {
        let witness = |peer: &Peer| Witness { peer: peer.clone(), asking: tokio::sync::Mutex::default(), heard: Mutex::default() };
        Witnesses { all: peers.iter().map(witness).collect(), clock, firsts: Mutex::default() }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn regions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.iter().map(|witness| witness.peer.name())
    }

    /// What each region says, at most so old, in their order. One without edges cannot be asked, and says nothing.
    pub async fn hear(&self, fresh_for: Duration) -> Vec<Option<Heard>> {
        let heard = self.all.iter().map(|witness| async move {
            witness.peer.edges()?;
            Some(witness.hear(&self.clock, fresh_for).await)
        });
        futures_util::future::join_all(heard).await
    }

    /// When this edge first saw that a region knows an event; nothing if it knew it when it was first looked at.
    pub fn first_known(&self, region: &str, event: (&Origin, u64), is_known: bool) -> Option<Timestamp> {
        let mut firsts = lock(&self.firsts);
        firsts.note((region.into(), event.0.clone(), event.1), is_known, self.clock.now())
    }
}

impl Witness {
    async fn hear(&self, clock: &Clock, fresh_for: Duration) -> Heard {
        let _asking = self.asking.lock().await;
        let heard = lock(&self.heard).clone();
        if heard.is_fresh(clock.now(), fresh_for) {
            return heard;
        }
        let told = match tokio::time::timeout(PATIENCE, self.ask()).await {
            Ok(told) => told,
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        let mut heard = lock(&self.heard);
        heard.takes(told, clock.now());
        heard.clone()
    }

    async fn ask(&self) -> Result<(Origin, VersionVector), String> {
        let Some(edges) = self.peer.edges() else { return Err("none of its edges is configured".to_owned()) };
        let status = edges.status().await.map_err(|why| why.to_string())?;
        report(&status)
    }
}

fn report(status: &Status) -> Result<(Origin, VersionVector), String> {
    let mut seen = VersionVector::default();
    for (origin, seq) in &status.seen {
        seen.raise(origin.parse().map_err(|_| "it names a ledger that has no name".to_owned())?, *seq);
    }
    Ok((Origin::new(&status.region, &status.incarnation), seen))
}

/// An event as a region knows it.
type Known = (Arc<str>, Origin, u64);

/// When regions were first seen to know events; the oldest are forgotten.
#[derive(Debug, Default)]
struct Firsts {
    by_event: HashMap<Known, First>,
    order: VecDeque<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    NotYet,
    /// Before this edge looked.
    Before,
    At(Timestamp),
}

impl Firsts {
    fn note(&mut self, known: Known, is_known: bool, now: Timestamp) -> Option<Timestamp> {
        let next = match (self.by_event.get(&known), is_known) {
            (None, true) => First::Before,
            (None | Some(First::NotYet), false) => First::NotYet,
            (Some(First::NotYet), true) => First::At(now),
            (Some(first), _) => *first,
        };
        if self.by_event.insert(known.clone(), next).is_none() {
            self.order.push_back(known);
            if self.order.len() > MAX_FIRSTS
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_event.remove(&oldest);
            }
        }
        match next {
            First::At(at) => Some(at),
            First::NotYet | First::Before => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_ms(seconds * 1_000)
    }

    #[test]
    fn silence_takes_nothing_back() {
        let (origin, mut seen) = (Origin::new("us", "1"), VersionVector::default());
        seen.raise(Origin::new("eu", "1"), 7);
        let mut heard = Heard::default();
        heard.takes(Ok((origin.clone(), seen.clone())), at(1));
        heard.takes(Err("no route".to_owned()), at(3));
        assert_eq!((heard.at, &heard.origin, &heard.seen), (Some(at(1)), &Some(origin), &seen));
        assert_eq!(heard.silent.as_deref(), Some("no route"));
        // A question that was in vain is not asked again at once either.
        assert!(heard.is_fresh(at(3), Duration::from_secs(1)) && !heard.is_fresh(at(4), Duration::from_secs(1)));
    }

    #[test]
    fn only_what_was_seen_to_happen_has_a_time() {
        let event = |seq| -> Known { ("us".into(), Origin::new("eu", "1"), seq) };
        let mut firsts = Firsts::default();
        for (seq, is_known, now, first) in [
            (1, true, 1, None),
            (1, true, 2, None),
            (2, false, 1, None),
            (2, true, 5, Some(at(5))),
            (2, true, 9, Some(at(5))),
            // What a region forgets, as when it begins anew, it knew all the same.
            (2, false, 10, Some(at(5))),
        ] {
            assert_eq!(firsts.note(event(seq), is_known, at(now)), first, "{seq} {now}");
        }
        for seq in 0..MAX_FIRSTS as u64 {
            firsts.note(event(100 + seq), true, at(1));
        }
        assert_eq!((firsts.by_event.len(), firsts.order.len()), (MAX_FIRSTS, MAX_FIRSTS));
        assert_eq!(firsts.note(event(2), true, at(11)), None);
    }
}
