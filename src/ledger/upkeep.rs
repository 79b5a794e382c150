//! Upkeep: a timer by which some node makes the next snapshot when it is due, and trims what snapshots cover.
//!
//! Nobody is elected. Every node looks now and then, at times of its own; who finds the last snapshot old enough makes one. Two that
//! do it at once do it twice, which is harmless.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::core::Core;
use super::snapshot::Manifest;
use super::trim::Trimmed;
use super::{Ledger, LedgerError};
use crate::bucket::Through;

/// Between two looks of a node, on average; half of it is random.
const INTERVAL: Duration = Duration::from_secs(600);
/// A snapshot is due after so many segments and imports; and after a day, if there are some.
const DUE_PIECES: u64 = 20_000;
const DUE_TIME: Duration = Duration::from_secs(24 * 3600);
const DUE_PIECES_IN_TIME: u64 = 1_000;

/// What a look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkept {
    /// The snapshot that was made.
    pub snapshot: Option<Through>,
    pub trimmed: Trimmed,
}

/// The task, and what it has learnt.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Snapshots that were read as a whole and found right.
    verified: Mutex<Vec<Manifest>>,
    task: Mutex<Option<AbortHandle>>,
}

impl Upkeep {
    /// Starts the timer. It ends with the ledger.
    pub fn start(self: &Arc<Upkeep>, core: &Arc<Core>) {
        let (upkeep, of) = (self.clone(), core.clone());
        let task = core.spawn(async move {
            loop {
                sleep(of.jittered(INTERVAL)).await;
                if let Err(why) = upkeep.look(&of).await {
                    tracing::warn!(%why, "snapshots and trimming wait for the next time");
                }
            }
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    pub fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    async fn look(&self, core: &Arc<Core>) -> Result<Upkept, LedgerError> {
        let snapshot = if core.is_snapshot_due().await? { core.make_snapshot().await? } else { None };
        Ok(Upkept { snapshot, trimmed: self.trim(core).await? })
    }

    /// A round of trimming, and what the status tells of it.
    pub async fn trim(&self, core: &Arc<Core>) -> Result<Trimmed, LedgerError> {
        core.catch_up().await?;
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let verified = core.verified_snapshots(&known).await?;
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&verified);
        let told = core.status().await?;
        let mut status = told.clone();
        status.snapshots = verified.iter().map(Manifest::through).collect();
        // What was done so far is told even of a round that ended early.
        let outcome = core.trim(&verified, &mut status).await;
        if status != told {
            core.tell_status(&status).await?;
        }
        outcome
    }
}

impl Core {
    async fn is_snapshot_due(&self) -> Result<bool, LedgerError> {
        let now = self.folded_through()?;
        let known = self.status().await?.snapshots.last().copied();
        let last = match known {
            Some(through) => Some(through),
            // Nothing tells of one, so little is lost by looking for it: but not while there is nothing to make one of.
            None if pieces(now) < DUE_PIECES_IN_TIME => return Ok(false),
            None => self.listed_snapshots().await?.last().copied(),
        };
        let since = pieces(now).saturating_sub(last.map_or(0, pieces));
        let made = match last {
            Some(through) if since >= DUE_PIECES_IN_TIME => self.manifest(through).await?.map(|manifest| manifest.made),
            _ => None,
        };
        Ok(is_due(since, made.map(|made| self.clock.now().since(made))))
    }
}

/// So many segments and imports came since the last snapshot, which is so old, if there is one.
fn is_due(since: u64, age: Option<Duration>) -> bool {
    since >= DUE_PIECES || since >= DUE_PIECES_IN_TIME && age.is_none_or(|age| age > DUE_TIME)
}

fn pieces(through: Through) -> u64 {
    through.ledger.saturating_add(through.imports)
}

impl Ledger {
    /// Makes a snapshot if one is due, and trims: what a timer does now and then anyway. Twice, or on several nodes at once, is
    /// harmless.
    ///
    /// # Errors
    /// The rest waits for the next time.
    pub async fn upkeep(&self) -> Result<Upkept, LedgerError> {
        self.0.upkeep.look(&self.0.core).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::testing::SimulatedStore;
    use crate::clock::{Clock, Timestamp};
    use crate::ledger::index::Memory;
    use crate::ledger::{Event, testing};

    #[test]
    fn a_snapshot_is_due_after_many_segments_or_some_time() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        for (since, age, due) in [
            (0, None, false),
            (999, hours(1_000), false),
            (1_000, None, true),
            (1_000, hours(23), false),
            (1_000, hours(25), true),
            (19_999, hours(1), false),
            (20_000, hours(0), true),
        ] {
            assert_eq!(is_due(since, age), due, "{since} {age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_makes_what_is_due_once_and_asks_little_otherwise() {
        let store = SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)));
        let ledger = testing::ledger(&store.node(), "edge", Memory::default());
        assert_eq!(ledger.upkeep().await, Ok(Upkept::default()));
        for _ in 0..DUE_PIECES_IN_TIME {
            ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
        }
        let made = Some(Through { ledger: DUE_PIECES_IN_TIME, imports: 0 });
        assert_eq!(ledger.upkeep().await, Ok(Upkept { snapshot: made, trimmed: Trimmed::default() }));
        let other = testing::ledger(&store.node(), "other", Memory::default());
        assert_eq!(other.upkeep().await, Ok(Upkept::default()));
        assert_eq!(ledger.upkeep().await, Ok(Upkept::default()));
    }
}
