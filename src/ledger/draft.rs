//! The next segment, made from what callers want to append: each caller's events are checked against the state that they will
//! follow, the events of the callers before it included. One caller's rejection leaves the others alone.

use std::sync::Arc;

use bytes::Bytes;

use super::check::{self, Refusal, Rejected};
use super::core::Core;
use super::event::Event;
use super::fold;
use super::identity::{HybridTime, VersionVector};
use super::index::{IndexError, Overlay, Rows};
use super::planted::Bug;
use super::segment::{self, Header, MAX_EVENT_BYTES, MAX_EVENTS, READER};
use super::state::Moment;

/// A segment that can be tried, and what it means for each caller, in their order.
#[derive(Debug)]
pub(super) struct Draft {
    pub seq: u64,
    pub nonce: String,
    pub bytes: Bytes,
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Accepted,
    Rejected(Rejected),
    /// There was no room left.
    Deferred,
}

/// The lines that a draft has so far.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    bytes: usize,
    is_checked: bool,
}

impl Core {
    /// `lost_races` is how often another's segment took the number since these callers came.
    pub fn draft(&self, callers: &[Arc<Vec<Event>>], lost_races: u32) -> Result<Draft, IndexError> {
        self.index.read(|rows| self.draft_over(rows, callers, lost_races))
    }

    fn draft_over(&self, state: &dyn Rows, callers: &[Arc<Vec<Event>>], lost_races: u32) -> Result<Draft, IndexError> {
        let is_checked = lost_races == 0 || !self.planted.is(Bug::NotValidatedAgain);
        let mut rows = Overlay::new(state);
        let header = self.next_header(&rows)?;
        let mut lines = Lines { is_checked, ..Lines::default() };
        let mut verdicts = Vec::with_capacity(callers.len());
        for events in callers {
            // What follows one that found no room waits too: nobody is overtaken for ever.
            let verdict = match verdicts.last() {
                Some(Verdict::Deferred) => Verdict::Deferred,
                _ => self.take(&mut rows, &header, &mut lines, events)?,
            };
            verdicts.push(verdict);
        }
        if self.planted.is(Bug::RejectionLeaks)
            && let Some(rejected) = verdicts.iter().find(|verdict| matches!(verdict, Verdict::Rejected(_))).cloned()
        {
            verdicts.fill(rejected);
        }
        let bytes = segment::encode(&header, &lines.lines).map_err(|why| IndexError::Disk(why.to_string()))?;
        Ok(Draft { seq: header.seq, nonce: header.nonce, bytes, verdicts })
    }

    fn next_header(&self, rows: &dyn Rows) -> Result<Header, IndexError> {
        let at = self.position_in(rows)?;
        let seen = fold::seen(rows, &self.origin)?;
        let raised = HybridTime::after(seen.clock, self.clock.now());
        let wall = HybridTime { ms: self.clock.now().as_ms(), count: 0 };
        let nonce = self.nonce();
        Ok(Header {
            origin: self.origin.clone(),
            seq: at.seq + 1,
            previous: at.hash,
            nonce,
            node: self.node.clone(),
            clock: if self.planted.is(Bug::ClockNotRaised) { wall } else { raised },
            imports: Core::imports_in(rows)?.number,
            seen: if self.planted.is(Bug::ImportsNotSeen) { VersionVector::default() } else { seen.others },
            least_reader: READER,
        })
    }

    /// One caller's events: all of them or none.
    fn take(&self, rows: &mut Overlay<'_>, header: &Header, lines: &mut Lines, events: &[Event]) -> Result<Verdict, IndexError> {
        let mut own_lines = Vec::with_capacity(events.len());
        let mut own = Overlay::new(&*rows);
        let first = lines.lines.len();
        let mut rejected = None;
        for (index, event) in (first..).zip(events) {
            let mut event = event.clone();
            check::complete(&own, &mut event)?;
            match check::check(&own, &event, self.planted) {
                Ok(()) => {}
                Err(Refusal::Rejected(_)) if !lines.is_checked => {}
                Err(Refusal::Rejected(why)) => {
                    rejected = Some(why);
                    break;
                }
                Err(Refusal::Index(why)) => return Err(why),
            }
            own_lines.push(event.to_line().map_err(|why| IndexError::Disk(why.to_string()))?);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let moment = Moment {
                origin: &self.origin,
                seq: header.seq,
                index,
                clock: header.clock,
                seen: &header.seen,
                home: &self.origin.region,
                planted: self.planted,
            };
            fold::event(&mut own, &moment, &event)?;
        }
        let bytes: usize = own_lines.iter().map(|line| line.len() + 1).sum();
        if let Some(why) = rejected {
            if self.planted.is(Bug::RejectedCommitted) {
                lines.lines.extend(own_lines);
            }
            return Ok(Verdict::Rejected(why));
        }
        if own_lines.len() > MAX_EVENTS || bytes > MAX_EVENT_BYTES {
            return Ok(Verdict::Rejected(Rejected::TooLarge));
        }
        if first + own_lines.len() > MAX_EVENTS || lines.bytes + bytes > MAX_EVENT_BYTES {
            return Ok(Verdict::Deferred);
        }
        let changes = own.into_changes();
        rows.absorb(changes);
        lines.lines.extend(own_lines);
        lines.bytes += bytes;
        Ok(Verdict::Accepted)
    }
}
