//! What this node knows of another region's ledger, and how far behind it this region is. Pure: the time is told.
//!
//! The rule that makes lag worth looking at: who cannot see says so. While a peer's tail cannot be seen, the lag is the time since it
//! last could, and never nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::ledger::Origin;

/// How long after the last look at a tail nothing is said of it: looks come more often than this while nothing is in the way.
const OVERDUE: Duration = Duration::from_secs(15);
/// The least that is told of a peer that cannot be seen.
const LEAST_BLIND: Duration = Duration::from_secs(1);

/// One peer, as this node sees it.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    region: Arc<str>,
    /// Its incarnation, once it is known.
    origin: Option<Origin>,
    /// The last segment that is known to be there, and the last one that is folded here.
    tail: u64,
    folded: u64,
    /// When its tail was last seen; the start, before that.
    seen_at: Timestamp,
    /// When the oldest segment that is not folded here was committed, as far as that is known.
    oldest: Option<Timestamp>,
    trouble: Option<Trouble>,
    /// The last segment of this region that it has folded.
    seen_of_us: u64,
}

/// Why a peer cannot be seen.
#[derive(Clone, Debug, PartialEq)]
enum Trouble {
    /// It was not asked yet.
    Unasked,
    /// Now.
    Unreachable(String),
    /// Until somebody has looked.
    Refused(String),
}

/// How far this region is behind another one.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PeerLag {
    pub region: Arc<str>,
    pub incarnation: Option<Arc<str>>,
    /// The last segment that is known to be there, and the last one that is folded here.
    pub tail: u64,
    pub folded: u64,
    pub behind_events: u64,
    /// The age of the oldest segment that is not folded here, or how long the tail could not be seen.
    pub behind_ms: u64,
    /// Why its tail cannot be seen.
    pub blind: Option<String>,
    /// When it was last seen; the start of the process, before that.
    pub seen_at: Timestamp,
    /// The last segment of this region that it has folded, as far as it told.
    pub seen_of_us: u64,
}

impl Sight {
    pub fn new(region: &str, now: Timestamp) -> Sight {
        Sight {
            region: region.into(),
            origin: None,
            tail: 0,
            folded: 0,
            seen_at: now,
            oldest: None,
            trouble: Some(Trouble::Unasked),
            seen_of_us: 0,
        }
    }

    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    pub fn tail(&self) -> u64 {
        self.tail
    }

    pub fn behind_events(&self) -> u64 {
        self.tail.saturating_sub(self.folded)
    }

    pub fn seen_of_us(&self) -> u64 {
        self.seen_of_us
    }

    /// Its ledger is this one from now on. Returns whether it was another, or none.
    pub fn meets(&mut self, origin: &Origin, folded: u64) -> bool {
        if self.origin.as_ref() == Some(origin) {
            return false;
        }
        self.origin = Some(origin.clone());
        (self.tail, self.folded, self.oldest) = (folded, folded, None);
        // A refusal was another ledger's.
        self.trouble = Some(Trouble::Unasked);
        true
    }

    /// Its tail was seen. What is new there, and not folded, is at most as old as this sight of it, until more is known.
    pub fn saw(&mut self, tail: u64, now: Timestamp) {
        self.tail = self.tail.max(tail);
        self.seen_at = now;
        if self.tail > self.folded {
            self.oldest = self.oldest.or(Some(now));
        }
        if !self.is_refused() {
            self.trouble = None;
        }
    }

    /// The next segment that is to be folded was committed then.
    pub fn dates(&mut self, committed: Timestamp) {
        self.oldest = Some(committed);
    }

    pub fn folded(&mut self, seq: u64, now: Timestamp) {
        self.folded = self.folded.max(seq);
        self.tail = self.tail.max(self.folded);
        self.oldest = (self.tail > self.folded).then_some(now);
    }

    /// So far its ledger is folded here, whoever did it.
    pub fn reached(&mut self, seq: u64, now: Timestamp) {
        if seq > self.folded {
            self.folded(seq, now);
        }
    }

    pub fn heard_of_us(&mut self, seq: u64) {
        self.seen_of_us = self.seen_of_us.max(seq);
    }

    pub fn lost(&mut self, why: String) {
        if !self.is_refused() {
            self.trouble = Some(Trouble::Unreachable(why));
        }
    }

    /// This ledger is not followed any further. Returns whether that is new.
    pub fn refused(&mut self, why: String) -> bool {
        let is_new = !self.is_refused();
        self.trouble = Some(Trouble::Refused(why));
        is_new
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Refused(_)))
    }

    pub fn blind(&self, now: Timestamp) -> Option<String> {
        match &self.trouble {
            Some(Trouble::Unasked) => Some("it was not asked yet".to_owned()),
            Some(Trouble::Unreachable(why) | Trouble::Refused(why)) => Some(why.clone()),
            None if now.since(self.seen_at) > OVERDUE => Some("its tail was not seen for long".to_owned()),
            None => None,
        }
    }

    /// It was asked in vain: others may have seen more of it.
    pub fn is_hidden(&self, now: Timestamp) -> bool {
        self.blind(now).is_some() && !matches!(self.trouble, Some(Trouble::Unasked | Trouble::Refused(_)))
    }

    pub fn behind(&self, now: Timestamp) -> Duration {
        let unfolded = self.oldest.filter(|_| self.tail > self.folded).map_or(Duration::ZERO, |since| now.since(since));
        match self.blind(now) {
            Some(_) => unfolded.max(now.since(self.seen_at)).max(LEAST_BLIND),
            None => unfolded,
        }
    }

    pub fn lag(&self, now: Timestamp) -> PeerLag {
        PeerLag {
            region: self.region.clone(),
            incarnation: self.origin.as_ref().map(|origin| origin.incarnation.clone()),
            tail: self.tail,
            folded: self.folded,
            behind_events: self.behind_events(),
            behind_ms: u64::try_from(self.behind(now).as_millis()).unwrap_or(u64::MAX),
            blind: self.blind(now),
            seen_at: self.seen_at,
            seen_of_us: self.seen_of_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000 + seconds * 1_000)
    }

    fn seconds(sight: &Sight, now: u64) -> u64 {
        sight.behind(at(now)).as_secs()
    }

    #[test]
    fn lag_is_never_nothing_while_the_tail_cannot_be_seen() {
        let mut sight = Sight::new("us", at(0));
        // Not asked yet, and for how long.
        assert_eq!((seconds(&sight, 0), seconds(&sight, 7)), (1, 7));
        sight.meets(&Origin::new("us", "1"), 0);
        sight.saw(0, at(8));
        assert_eq!((seconds(&sight, 8), sight.blind(at(8))), (0, None));
        sight.lost("no route".into());
        assert_eq!((seconds(&sight, 8), seconds(&sight, 68)), (1, 60));
        assert_eq!(sight.lag(at(68)).blind.as_deref(), Some("no route"));
        sight.saw(0, at(70));
        assert_eq!(seconds(&sight, 70), 0);
        // A look that does not end tells nothing either.
        assert_eq!(seconds(&sight, 86), 16);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_segment_that_is_not_folded() {
        let mut sight = Sight::new("us", at(0));
        sight.meets(&Origin::new("us", "1"), 3);
        sight.saw(5, at(10));
        assert_eq!((seconds(&sight, 12), sight.lag(at(12)).behind_events), (2, 2));
        sight.dates(at(9));
        assert_eq!(seconds(&sight, 12), 3);
        sight.folded(5, at(12));
        assert_eq!((seconds(&sight, 12), sight.lag(at(12)).behind_events), (0, 0));
    }

    #[test]
    fn what_is_folded_by_way_of_others_is_not_behind() {
        let mut sight = Sight::new("us", at(0));
        sight.meets(&Origin::new("us", "1"), 3);
        sight.saw(5, at(10));
        // Nothing new, and the age of what waits stays as it is.
        sight.reached(3, at(12));
        assert_eq!((seconds(&sight, 12), sight.lag(at(12)).behind_events), (2, 2));
        sight.reached(5, at(13));
        assert_eq!((seconds(&sight, 13), sight.lag(at(13)).behind_events), (0, 0));
    }

    #[test]
    fn a_refused_ledger_stays_refused_until_there_is_another() {
        let mut sight = Sight::new("us", at(0));
        sight.meets(&Origin::new("us", "1"), 3);
        assert!(sight.refused("its chain is broken".into()));
        assert!(!sight.refused("its chain is broken".into()));
        sight.saw(9, at(1));
        sight.lost("no route".into());
        assert_eq!(sight.blind(at(1)).as_deref(), Some("its chain is broken"));
        assert!(!sight.meets(&Origin::new("us", "1"), 3) && sight.meets(&Origin::new("us", "2"), 0));
        sight.saw(1, at(2));
        assert_eq!((sight.blind(at(2)), sight.lag(at(2)).behind_events), (None, 1));
    }
}
