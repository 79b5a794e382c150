//! The record of who did what: one entry for each request that was authenticated. Where it is until somebody looks for it is the same
//! as of every record ([`crate::records`]).

mod event;
mod filter;
#[cfg(test)]
mod testing;

use std::ops::Deref;
use std::path::Path;

pub use event::{Event, Outcome, OutcomeError};
pub use filter::{Filter, Query};

use crate::bucket::{Bucket, BucketError, RecordKind};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::records::{self, Intake, Nature, Records, Setup};
use crate::region::Region;

/// What a search finds.
pub type Entry = records::Entry<Event>;

const NATURE: Nature = Nature { kind: RecordKind::Audit, name: "audit record", question: "audit", switch: "audit.enabled" };

/// The record of one edge. Cloning is cheap; all clones are one.
#[derive(Clone, Debug)]
pub struct Audit {
    records: Records,
    /// Whether pulls and lists that were allowed are recorded too.
    pulls: bool,
}

impl Audit {
    /// Begins to write into `dir`, and to send to the region's bucket what lies there. A disk that takes nothing yet keeps no edge from
    /// starting.
    pub async fn start(dir: &Path, settings: config::Audit, own: &str, region: Region, clock: Clock, metrics: Metrics) -> Audit {
        let config::Audit { enabled, pulls, keeping } = settings;
        let intake = enabled.then(|| Intake::new(&NATURE, clock.clone(), metrics.audit.clone()));
        let setup = Setup { dir, keeping, own, region, clock, counted: metrics.audit.clone() };
        Audit { records: Records::start(&NATURE, setup, intake).await, pulls }
    }

    /// Whether an event of this kind is recorded: so that nobody makes one in vain.
    pub fn wants(&self, action: &str, outcome: Outcome) -> bool {
        let is_routine = outcome != Outcome::Denied && matches!(action, "pull" | "list");
        self.records.intake().is_some() && (self.pulls || !is_routine)
    }

    /// Leaves an event to be written, with the time that it is now. Never waits: where too many wait already, it is lost and counted.
    pub fn record(&self, event: &Event) {
        if let Some(intake) = self.records.intake() {
            intake.note(event);
        }
    }
}

impl Deref for Audit {
    type Target = Records;

    fn deref(&self) -> &Records {
        &self.records
    }
}

/// Puts one entry into a region's bucket: of a command that goes at the bucket without an edge.
///
/// # Errors
/// It may be there or not.
pub async fn record_in(bucket: &Bucket, clock: &Clock, event: Event) -> Result<(), BucketError> {
    records::record_in(NATURE.kind, bucket, clock, event).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ByteSize, Keeping};

    #[tokio::test]
    async fn pulls_may_be_left_out_but_not_those_that_were_denied() {
        let place = tempfile::tempdir().unwrap();
        let keeping = Keeping {
            file_size: ByteSize(8 << 20),
            ship_after: Duration::from_secs(60),
            disk: ByteSize(64 << 20),
            keep: Duration::from_secs(86_400),
        };
        for (enabled, pulls, expected) in [(true, true, [true, true, true]), (true, false, [false, true, true]), (false, true, [false; 3])]
        {
            let settings = config::Audit { enabled, pulls, keeping: keeping.clone() };
            let audit = Audit::start(place.path(), settings, "eu", Region::default(), Clock::system(), Metrics::new()).await;
            let wants = [("pull", Outcome::Allowed), ("pull", Outcome::Denied), ("push", Outcome::Allowed)];
            assert_eq!(wants.map(|(action, outcome)| audit.wants(action, outcome)), expected);
            audit.close().await;
        }
    }
}
