//! A region's new incarnation takes over what the one before it has written.
//!
//! A region that was declared lost, or whose bucket was set back, must not write under its old name again: others may have other
//! segments with the numbers that would come next. Its next incarnation has an empty ledger. It imports the old ledger as it imports
//! those of other regions: first what the others have of it, then the rest from the old root. What it writes afterwards has seen all
//! of that, so the others import it too, and the cut of a loss ends there: nothing that was acknowledged is lost, and every event
//! keeps its place among those of other regions.
//!
//! Segments of the old root that differ from those which others have under the same numbers were written after the bucket was set
//! back and nobody could be asked. Their events are appended anew.

use std::time::Duration;

use bytes::Bytes;

use super::event::{Event, Standing};
use super::identity::Origin;
use super::pull::{PullError, Pulled, Segments, Source};
use super::segment::{self, Object};
use super::{AppendError, ImportError, Ledger, LedgerError};
use crate::bucket::{BucketError, ForeignBucket, Key};

/// Bytes of one answer about what was imported.
const MAX_BYTES: usize = 4 << 20;

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last segment of the old ledger that was imported.
    pub imported: u64,
    /// Segments whose events were appended anew.
    pub appended: u64,
    /// Of those, how many do not hold any more.
    pub rejected: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What others have of the old ledger must come first.
    #[error("no other region can be asked")]
    Alone,
    #[error("the old root cannot be read: {0}")]
    Root(#[from] BucketError),
}

impl Ledger {
    /// Takes over what stands in the root of an earlier incarnation, and before that what other regions have of it. Doing it again, or
    /// in two nodes, does no harm.
    ///
    /// # Errors
    /// It can be tried again. No other region can be asked: [`RecoverError::Alone`].
    pub async fn recover(&self, old: &ForeignBucket, others: &[impl Source]) -> Result<Recovered, RecoverError> {
        let origin = Origin::new(old.region(), old.incarnation());
        self.confirm(super::Look::Now).await?;
        let mut asked = 0;
        for other in others {
            asked += u32::from(self.pull_all(other, &origin).await.is_ok());
        }
        if asked == 0 && !others.is_empty() {
            return Err(RecoverError::Alone);
        }
        loop {
            match self.pull(old, &origin, Duration::ZERO).await {
                Ok(Pulled::Some(_)) => {}
                // Refused: what follows differs from what others have.
                Ok(_) | Err(PullError::Import(ImportError::Refused { .. })) => break,
                Err(why) => return Err(why.into()),
            }
        }
        let mut recovered = Recovered { imported: self.vector()?.get(&origin), ..Recovered::default() };
        let common = self.common(old, &origin).await?;
        self.append_diverged(old, (&origin, common), &mut recovered).await?;
        let members = |origin: &Origin, standing| Event::Member { origin: origin.clone(), standing };
        self.append(vec![members(&origin, Standing::Removed), members(self.origin(), Standing::Joined)]).await?;
        Ok(recovered)
    }

    async fn pull_all(&self, other: &impl Source, origin: &Origin) -> Result<(), PullError> {
        while let Pulled::Some(_) = self.pull(other, origin, Duration::ZERO).await? {}
        Ok(())
    }

    /// The last segment that the old root and the imports both have, and have alike.
    async fn common(&self, old: &ForeignBucket, origin: &Origin) -> Result<u64, RecoverError> {
        let mut seq = self.vector()?.get(origin);
        while seq > 0 && !self.is_same(old, origin, seq).await? {
            seq -= 1;
        }
        Ok(seq)
    }

    async fn is_same(&self, old: &ForeignBucket, origin: &Origin, seq: u64) -> Result<bool, RecoverError> {
        let (there, here) = (old.read(&Key::Ledger(seq), segment::MAX_OBJECT_BYTES).await?, self.imported(origin, seq).await?);
        Ok(match (there, here) {
            (Some(there), Some(here)) => there == here,
            // What was trimmed is older than any fork.
            (Some(_), None) => true,
            (None, _) => false,
        })
    }

    async fn imported(&self, origin: &Origin, seq: u64) -> Result<Option<Bytes>, LedgerError> {
        match self.segments_of(origin, seq - 1, MAX_BYTES).await? {
            Segments::Some(found) => Ok(found.into_iter().next()),
            _ => Ok(None),
        }
    }

    /// Appends the events of the old root's segments that nobody else will ever have.
    async fn append_diverged(
        &self,
        old: &ForeignBucket,
        (origin, common): (&Origin, u64),
        recovered: &mut Recovered,
    ) -> Result<(), RecoverError> {
        for after in common.. {
            let Segments::Some(found) = old.segments(origin, after, Duration::ZERO).await.map_err(PullError::Source)? else { break };
            let Some(Ok(Object::Segment(segment))) = found.first().map(|bytes| segment::decode(bytes)) else { break };
            let events: Vec<Event> = segment.events.into_iter().filter(is_for_good).collect();
            if events.is_empty() {
                continue;
            }
            recovered.appended += 1;
            match self.append(events).await {
                Ok(_) => {}
                Err(AppendError::Rejected(why)) => {
                    tracing::warn!(%why, segment = after + 1, "events of the old incarnation do not hold any more");
                    recovered.rejected += 1;
                }
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }
}

/// What means something still when it is said again, later.
fn is_for_good(event: &Event) -> bool {
    !matches!(event, Event::Heartbeat {} | Event::Member { .. } | Event::Lost { .. } | Event::Condemn { .. } | Event::Unknown(_))
}
