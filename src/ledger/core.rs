//! What the ledger's parts share: the bucket, the index, and the one way by which segments get from the one into the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::AbortHandle;

use super::LedgerError;
use super::fold;
use super::identity::{HybridTime, Origin};
use super::index::{Index, IndexError, Mended, Overlay, Rows};
use super::planted::{Bug, Planted};
use super::segment::{self, MAX_OBJECT_BYTES, Object, Segment, SegmentError};
#[cfg(test)]
use super::simulation::Fuse;
use super::state::LedgerRow;
use crate::bucket::{Bucket, BucketError, Key};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Segments read at one time while there are many to fold.
const READ_AHEAD: usize = 32;

pub(super) struct Core {
    pub bucket: Bucket,
    pub index: Index,
    pub origin: Origin,
    pub node: String,
    pub clock: Clock,
    pub metrics: Metrics,
    pub random: Mutex<fastrand::Rng>,
    pub planted: Planted,
    /// One fold at a time, and none while the index is made anew.
    folding: Mutex<()>,
    /// The index was compared with the bucket since this process, or a fault, began.
    is_compared: AtomicBool,
    #[cfg(test)]
    pub fuse: Fuse,
    #[cfg(test)]
    unfinished: Mutex<Vec<super::index::Changes>>,
}

/// Why a segment was not folded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoldError {
    #[error("segment {0}: {1}")]
    Segment(u64, SegmentError),
    #[error("segment {0} was trimmed, and there is no snapshot to begin from")]
    Trimmed(u64),
    /// It does not follow the one that was folded before it.
    #[error("segment {0} does not follow the one before it: {1}")]
    Chain(u64, &'static str),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Who this node is, in its ledger.
pub(super) struct Identity {
    pub node: String,
    pub origin: Origin,
}

impl Core {
    pub fn new(bucket: Bucket, index: Index, identity: Identity, clock: Clock, metrics: Metrics) -> Core {
        Core {
            bucket,
            index,
            origin: identity.origin,
            node: identity.node,
            clock,
            metrics,
            random: Mutex::new(fastrand::Rng::new()),
            planted: Planted::default(),
            folding: Mutex::new(()),
            is_compared: AtomicBool::new(false),
            #[cfg(test)]
            fuse: Fuse::default(),
            #[cfg(test)]
            unfinished: Mutex::default(),
        }
    }

    /// Starts a task that lives no longer than its handle's owner wants.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        #[cfg(test)]
        let task = self.fuse.guard(task);
        tokio::spawn(task).abort_handle()
    }

    /// Does a piece of work on the index: away from the executor where it can block.
    pub async fn work<T: Send + 'static>(self: &Arc<Core>, job: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, LedgerError> {
        if !self.index.blocks() {
            return Ok(job(self));
        }
        let core = self.clone();
        let done = tokio::task::spawn_blocking(move || job(&core)).await;
        done.map_err(|_| LedgerError::Unavailable("the process is ending".into()))
    }

    /// Where the own ledger was folded to; number 0 before its first segment.
    pub fn position(&self) -> Result<LedgerRow, IndexError> {
        self.index.read(|rows| self.position_in(rows))
    }

    pub fn position_in(&self, rows: &dyn Rows) -> Result<LedgerRow, IndexError> {
        let start = LedgerRow { seq: 0, hash: segment::no_segment(), clock: HybridTime::default(), imports: 0 };
        Ok(fold::ledger(rows, &self.origin)?.unwrap_or(start))
    }

    /// Folds all that is there: once this returns, everything that was committed before it was called is folded.
    pub async fn catch_up(self: &Arc<Core>) -> Result<(), LedgerError> {
        if self.work(|core| core.index.mend()).await?? == Mended::Emptied {
            self.metrics.ledger_rebuilt("damaged");
        }
        let mut reads = 1;
        loop {
            self.compare().await?;
            let from = self.position()?.seq + 1;
            let found = self.read_from(from, reads).await?;
            let is_tail = found.len() < reads;
            self.fold(found).await?;
            if is_tail {
                return Ok(());
            }
            reads = (reads * 2).min(READ_AHEAD);
        }
    }

    /// The segments from a number on, without a gap.
    async fn read_from(&self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, BucketError> {
        let numbers = (from..).take(count);
        let reads = numbers.clone().map(async |seq| self.bucket.read(&Key::Ledger(seq), MAX_OBJECT_BYTES).await);
        let mut found = Vec::with_capacity(count);
        for (seq, read) in numbers.zip(join_all(reads).await) {
            match read? {
                Some(bytes) => found.push((seq, bytes)),
                None => break,
            }
        }
        Ok(found)
    }

    /// Folds segments that were read, as far as they follow what is folded. Where they do not, and the index turns out to be the one
    /// that is wrong, it is empty afterwards.
    pub async fn fold(self: &Arc<Core>, segments: Vec<(u64, Bytes)>) -> Result<(), LedgerError> {
        if segments.is_empty() {
            return Ok(());
        }
        let folded = self.work(move |core| core.fold_now(&segments)).await?;
        #[cfg(test)]
        self.finish().await;
        match folded {
            Err(FoldError::Chain(seq, why)) => {
                self.is_compared.store(false, Ordering::Relaxed);
                let before = self.position()?.seq;
                self.compare().await?;
                // Still there: the index agrees with the bucket, so the bucket's own chain is broken.
                if self.position()?.seq >= before { Err(FoldError::Chain(seq, why).into()) } else { Ok(()) }
            }
            folded => Ok(folded?),
        }
    }

    fn fold_now(&self, segments: &[(u64, Bytes)]) -> Result<(), FoldError> {
        let folded = self.fold_read(segments);
        if let Err(FoldError::Index(why)) = &folded {
            self.index.suspect(why.clone());
        }
        folded
    }

    fn fold_read(&self, segments: &[(u64, Bytes)]) -> Result<(), FoldError> {
        let started = Instant::now();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.index.snapshot()?;
        let mut rows = Overlay::new(snapshot.as_ref());
        let mut at = self.position_in(&rows)?;
        let before = at.seq;
        let mut outcome = Ok(());
        for (seq, bytes) in segments {
            // Somebody else was faster; or the index was made anew meanwhile.
            if *seq != at.seq + 1 {
                continue;
            }
            let segment = match self.next_segment(&at, *seq, bytes) {
                Ok(segment) => segment,
                Err(why) => {
                    outcome = Err(why);
                    break;
                }
            };
            fold::segment(&mut rows, &segment, segment::hash(bytes), self.planted)?;
            at = self.position_in(&rows)?;
        }
        let changes = rows.into_changes();
        drop(snapshot);
        if at.seq > before {
            self.commit(changes)?;
            self.metrics.ledger_folded(at.seq, at.seq - before, started.elapsed());
        }
        outcome
    }

    fn next_segment(&self, at: &LedgerRow, seq: u64, bytes: &[u8]) -> Result<Segment, FoldError> {
        let segment = match segment::decode(bytes) {
            Ok(Object::Segment(segment)) => segment,
            Ok(Object::Stub(_)) => return Err(FoldError::Trimmed(seq)),
            Err(why) => return Err(FoldError::Segment(seq, why)),
        };
        let header = &segment.header;
        let fault = if header.origin != self.origin || header.seq != seq {
            "it is another's"
        } else if header.previous != at.hash {
            "it names another hash"
        } else if header.clock <= at.clock {
            "its clock does not rise"
        } else {
            return Ok(segment);
        };
        if self.planted.is(Bug::ChainNotChecked) { Ok(segment) } else { Err(FoldError::Chain(seq, fault)) }
    }

    fn commit(&self, changes: super::index::Changes) -> Result<(), IndexError> {
        #[cfg(test)]
        if self.planted.is(Bug::FoldNotAtomic) {
            let (position, rest) = changes.split(super::index::Table::Ledgers);
            self.unfinished.lock().unwrap().push(rest);
            return self.index.commit(position);
        }
        self.index.commit(changes)
    }

    /// The second half of a planted commit.
    #[cfg(test)]
    async fn finish(&self) {
        if self.planted.is(Bug::FoldNotAtomic) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            for changes in std::mem::take(&mut *self.unfinished.lock().unwrap()) {
                self.index.commit(changes).unwrap();
            }
        }
    }

    /// Compares the index with the bucket, once: an index that is ahead of its bucket, or took another way, is thrown away.
    pub async fn compare(self: &Arc<Core>) -> Result<(), LedgerError> {
        if self.is_compared.load(Ordering::Relaxed) || self.planted.is(Bug::ChainNotChecked) {
            return Ok(());
        }
        let at = self.position()?;
        if at.seq > 0 && !self.has(&at).await? {
            tracing::warn!(seq = at.seq, "the ledger's index does not agree with the bucket: it is made anew");
            self.metrics.ledger_rebuilt("diverged");
            self.work(|core| {
                let _folding = core.folding.lock().unwrap_or_else(PoisonError::into_inner);
                core.index.clear()
            })
            .await??;
        }
        self.is_compared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the bucket has this segment.
    async fn has(&self, at: &LedgerRow) -> Result<bool, BucketError> {
        let Some(bytes) = self.bucket.read(&Key::Ledger(at.seq), MAX_OBJECT_BYTES).await? else { return Ok(false) };
        if segment::hash(&bytes) == at.hash {
            return Ok(true);
        }
        Ok(matches!(segment::decode(&bytes), Ok(Object::Stub(stub)) if stub.hash == at.hash))
    }
}
