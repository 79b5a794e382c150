//! The ledger of a region: the ordered record of what was pushed there, and this node's index of it.
//!
//! The object store is the only engine. A region's ledger is a chain of numbered segments in its bucket, each made by a create that
//! only one writer can win; no leader, no lease. Every node folds the segments, in their order, into an index of its own, from which
//! all questions are answered. The index can be thrown away at any time.
//!
//! ```text
//! identity  origins, places, positions, the hybrid clock, version vectors
//! event     what a ledger says            segment   how that is written
//! state     claims on names               fold/     the merge: rows and a segment in, changed rows out; pure
//! index/    ordered tables on disk or in memory, committed together with the position
//! check     whether an event holds        draft     the next segment, from what callers want
//! append    attempts with definite ends   tail      looks at the end of the ledger, shared by callers
//! core      what they share               query     answers from the index
//! ```
//!
//! # Invariants
//! 1. A caller hears that its events are committed only when the segment that has them is read back or was created by us.
//! 2. One byte string for each (region, incarnation, seq), ever: bytes tried at a number are tried again until it has an owner.
//! 3. Segment N names the hash of N-1, and its clock is greater than everything its writer had folded.
//! 4. Each event held against the state that it follows ([`Rejected`] says what does not), so a manifest never names a blob that is
//!    not linked in its repository, nor a place that was abandoned.
//! 5. What was folded and the position are committed together; an index that does not agree with its bucket is thrown away.
//! 6. A rejection, like any negative answer, rests on a tail that was looked at after the caller came.
//!
//! Only the own region is followed yet. Formats and merge are those for many regions: `fold` takes segments of any origin.

mod append;
mod check;
mod core;
mod draft;
mod event;
#[cfg(test)]
mod figures;
mod fold;
mod identity;
mod index;
mod planted;
mod query;
mod segment;
#[cfg(test)]
mod simulation;
mod state;
mod tail;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ulid::Ulid;

pub use append::AppendError;
pub use check::Rejected;
pub use event::{Content, ContentKind, ControlRecord, Event, INLINE_BYTES, ManifestEvent, ManifestFacts, Standing};
pub use identity::{HybridTime, IdentityError, Origin, Place, Position, VersionVector};
pub use index::IndexError;
pub use query::{BlobEntry, ForwardEntry, ManifestEntry, ReferrersQuery, RepositoryEntry, TagEntry, UnforwardedEntry, UnforwardedQuery};
pub use tail::Look;

use self::core::{Core, FoldError, Identity};
use append::Appender;
use index::{Index, Memory, Rows};
use tail::Tail;

use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// How long opening waits for the index to be complete. Later, callers hear that it is not.
const OPENING: Duration = Duration::from_secs(10);

/// The own region's ledger. Cloning is cheap.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    appender: Appender,
    tail: Tail,
}

/// Where a node keeps its index, and its name in the ledger.
#[derive(Clone, Debug)]
pub struct Settings {
    pub index: IndexPlace,
    pub node: String,
}

#[derive(Clone, Debug)]
pub enum IndexPlace {
    Memory,
    /// A file in an existing folder, which only this process uses.
    File(PathBuf),
}

/// Why the ledger cannot tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The bucket gave no answer; what the index knows may be old.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// Something stands in the ledger that this program cannot fold. Somebody has to look.
    #[error("the ledger cannot be read: {0}")]
    Broken(String),
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl From<BucketError> for LedgerError {
    fn from(why: BucketError) -> LedgerError {
        match why {
            BucketError::Broken(why) => LedgerError::Broken(why),
            other => LedgerError::Unavailable(other.to_string()),
        }
    }
}

impl From<FoldError> for LedgerError {
    fn from(why: FoldError) -> LedgerError {
        match why {
            FoldError::Index(why) => LedgerError::Index(why),
            other => LedgerError::Broken(other.to_string()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.appender.stop();
        self.tail.stop();
    }
}

impl Ledger {
    /// Opens the index and folds what the bucket has since. A bucket that does not answer does not keep the node from starting.
    ///
    /// # Errors
    /// The index's file cannot be used.
    pub async fn open(bucket: Bucket, settings: Settings, clock: Clock, metrics: Metrics) -> Result<Ledger, LedgerError> {
        let origin = Origin::of(&bucket);
        let of = origin.clone();
        let index = match settings.index {
            IndexPlace::Memory => Index::in_memory(Memory::default(), &origin)?,
            IndexPlace::File(path) => tokio::task::spawn_blocking(move || Index::open(&path, &of))
                .await
                .map_err(|_| LedgerError::Unavailable("the process is ending".into()))??,
        };
        let ledger = Ledger::over(Core::new(bucket, index, Identity { node: settings.node, origin }, clock, metrics));
        match tokio::time::timeout(OPENING, ledger.0.core.catch_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(%why, "the ledger is opened as this node last knew it"),
            Err(_) => tracing::warn!("the ledger's index is still being made"),
        }
        Ok(ledger)
    }

    fn over(core: Core) -> Ledger {
        let core = Arc::new(core);
        Ledger(Arc::new(Inner { appender: Appender::start(core.clone()), tail: Tail::new(core.clone()), core }))
    }

    /// Commits the events, in this order, in one segment, or none of them.
    ///
    /// # Errors
    /// [`AppendError::Rejected`] when they do not hold against the state that they would follow; [`AppendError::Unavailable`] when
    /// it is not known in time what became of them.
    pub async fn append(&self, events: Vec<Event>) -> Result<Position, AppendError> {
        self.0.appender.append(events).await
    }

    /// Returns once the own tail was confirmed, and what it has is folded.
    ///
    /// # Errors
    /// In bounded time, and at once while the bucket is known to be away: what the index knows may then be served as stale.
    pub async fn confirm(&self, how: Look) -> Result<(), LedgerError> {
        self.0.tail.confirm(how).await
    }

    /// What this node has folded.
    pub fn position(&self) -> Result<Position, LedgerError> {
        let seq = self.0.core.position()?.seq;
        Ok(Position { region: self.0.core.origin.region.clone(), seq })
    }

    /// Forces the index to the disk, so that the next start folds little. Not needed for anything but speed.
    pub async fn close(&self) -> Result<(), LedgerError> {
        Ok(self.0.core.work(|core| core.index.flush()).await??)
    }

    pub fn tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<TagEntry>, LedgerError> {
        self.read(|rows| query::tag(rows, repository, tag))
    }

    /// Tags by name, those behind `after`.
    pub fn tags(&self, repository: &RepositoryName, after: Option<&str>, limit: usize) -> Result<Vec<TagEntry>, LedgerError> {
        self.read(|rows| query::tags(rows, repository, after, limit))
    }

    /// The tags that name this manifest.
    pub fn tags_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Tag>, LedgerError> {
        self.read(|rows| query::tags_of(rows, repository, digest))
    }

    pub fn manifest(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<ManifestEntry>, LedgerError> {
        self.read(|rows| query::manifest(rows, repository, digest))
    }

    /// Manifests by digest, those behind `after`.
    pub fn manifests(&self, repository: &RepositoryName, after: Option<&Digest>, limit: usize) -> Result<Vec<ManifestEntry>, LedgerError> {
        self.read(|rows| query::manifests(rows, repository, after, limit))
    }

    pub fn referrers(&self, query: &ReferrersQuery<'_>) -> Result<Vec<ManifestEntry>, LedgerError> {
        self.read(|rows| query::referrers(rows, query))
    }

    /// A blob that may be read through this repository.
    pub fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobEntry>, LedgerError> {
        self.read(|rows| query::blob(rows, repository, digest))
    }

    /// A content, whoever may see it: for mounts, and uploads that end with a known digest.
    pub fn places(&self, digest: &Digest) -> Result<Option<BlobEntry>, LedgerError> {
        self.read(|rows| query::content(rows, digest))
    }

    /// Repositories through which a blob may be read: for mounts that name none.
    pub fn repositories_with(&self, digest: &Digest, limit: usize) -> Result<Vec<RepositoryName>, LedgerError> {
        self.read(|rows| query::repositories_with(rows, digest, limit))
    }

    /// A repository that has manifests.
    pub fn repository(&self, name: &RepositoryName) -> Result<Option<RepositoryEntry>, LedgerError> {
        self.read(|rows| query::repository(rows, name))
    }

    /// Repositories that have manifests, by name, those behind `after`.
    pub fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryEntry>, LedgerError> {
        self.read(|rows| query::repositories(rows, after, limit))
    }

    /// Tags that were pushed twice by writers of which neither had seen the other.
    pub fn conflicts(&self, limit: usize) -> Result<Vec<(RepositoryName, TagEntry)>, LedgerError> {
        self.read(|rows| query::conflicts(rows, limit))
    }

    /// What was passed on to an upstream under a tag, or as a manifest of its own.
    pub fn forwarded(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        upstream: &str,
    ) -> Result<Option<ForwardEntry>, LedgerError> {
        self.read(|rows| query::forwarded(rows, repository, reference, upstream))
    }

    /// The name, if it stands here and an upstream was not given it since its last push.
    pub fn unforwarded_name(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        upstream: &str,
    ) -> Result<Option<UnforwardedEntry>, LedgerError> {
        self.read(|rows| query::unforwarded_name(rows, repository, reference, upstream))
    }

    /// What was pushed to a repository since it was last passed on to an upstream. Walks the whole repository where nothing was.
    pub fn unforwarded(&self, query: &UnforwardedQuery<'_>) -> Result<Vec<UnforwardedEntry>, LedgerError> {
        self.read(|rows| query::unforwarded(rows, query))
    }

    /// Whether a blob or manifest event has named this key. The sweep asks, after a look, before it abandons a key.
    pub fn is_named(&self, key: Ulid) -> Result<bool, LedgerError> {
        self.read(|rows| check::is_named(rows, key))
    }

    fn read<T>(&self, ask: impl FnOnce(&dyn Rows) -> Result<T, IndexError>) -> Result<T, LedgerError> {
        Ok(self.0.core.index.read(ask)?)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("origin", &self.0.core.origin).field("node", &self.0.core.node).finish()
    }
}
