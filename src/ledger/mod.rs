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
//! import    how other regions' segments are written here
//! importer  attempts at imports           pull      one round of following another region, causes first
//! relay     segments for others to follow  query     answers from the index
//! chapter   what was folded, to be told    whole     what a manifest needs, and who has all of it
//! recent    those that were folded last, in memory
//! recover   a new incarnation takes over from the one before it
//! snapshot/ the fold written down         trim      stubs in place of what nobody needs any more
//! upkeep    the timer of both             status    where to look first
//! glance    what a follower wants to know of a segment
//! core      what they share
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
//! 7. What a segment names as seen stands in the own region's bucket, and no segment of another region is imported before what its
//!    writer had seen: an effect is never visible without its cause.

mod append;
mod chapter;
mod check;
mod core;
mod draft;
mod event;
#[cfg(test)]
mod figures;
mod fold;
mod glance;
mod identity;
mod import;
mod importer;
mod index;
mod named;
mod planted;
mod pull;
mod query;
mod recent;
mod recover;
mod relay;
mod segment;
#[cfg(test)]
mod simulation;
mod snapshot;
mod state;
mod status;
mod tail;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trim;
mod upkeep;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use ulid::Ulid;

pub use append::AppendError;
pub use chapter::{Chapter, Imported};
pub use check::Rejected;
pub use event::{
    Attributes, Content, ContentKind, ControlKind, ControlRecord, Event, INLINE_BYTES, ManifestEvent, ManifestFacts, Standing,
};
pub use glance::Glance;
pub use identity::{HybridTime, IdentityError, Origin, Place, Position, VersionVector};
pub use importer::{Foreign, ImportError};
pub use index::IndexError;
pub use named::{EventEntry, NamedEntry};
pub use pull::{PullError, Pulled, Segments, Source};
pub use query::{
    BlobEntry, ControlEntry, ForwardEntry, ManifestEntry, MemberEntry, PlaceEntry, ReferrersQuery, RepositoryEntry, TagEntry,
    UnforwardedEntry, UnforwardedQuery, WantedEntry, WantedKey,
};
pub use recover::{RecoverError, Recovered};
pub use snapshot::{Adopted, Snapshots};
pub use tail::Look;
pub use trim::Trimmed;
pub use upkeep::Upkept;

use self::core::{Core, FoldError, Identity};
use append::Appender;
use importer::Importer;
use index::{Index, Memory, Rows};
use tail::Tail;
use upkeep::Upkeep;

use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// How long opening waits for the index to be complete. Later, callers hear that it is not.
const OPENING: Duration = Duration::from_secs(10);

/// Who reads a whole history gives up when nothing has come for so long, and looks after pauses like this how far it is.
const STALL: Duration = Duration::from_secs(60);
const READ_PAUSE: Duration = Duration::from_millis(200);

/// The own region's ledger. Cloning is cheap.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    appender: Appender,
    importer: Importer,
    tail: Tail,
    upkeep: Arc<Upkeep>,
}

/// Where a node keeps its index, and its name in the ledger.
#[derive(Clone, Debug)]
pub struct Settings {
    pub index: IndexPlace,
    pub node: String,
    pub regions: Regions,
}

/// Whether there are other regions. A region that is alone, and always was, has no imports to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regions {
    One,
    Many,
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
            FoldError::Loading => LedgerError::Unavailable(why.to_string()),
            other => LedgerError::Broken(other.to_string()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.appender.stop();
        self.importer.stop();
        self.tail.stop();
        self.upkeep.stop();
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
        let scratch = match &settings.index {
            IndexPlace::Memory => None,
            IndexPlace::File(path) => Some(path.with_extension("adopted")),
        };
        let index = match settings.index {
            IndexPlace::Memory => Index::in_memory(Memory::default(), &origin)?,
            IndexPlace::File(path) => tokio::task::spawn_blocking(move || Index::open(&path, &of))
                .await
                .map_err(|_| LedgerError::Unavailable("the process is ending".into()))??,
        };
        let mut core = Core::new(bucket, index, Identity { node: settings.node, origin, regions: settings.regions }, clock, metrics);
        core.scratch = scratch;
        let ledger = Ledger::over(core);
        ledger.0.upkeep.start(&ledger.0.core);
        match tokio::time::timeout(OPENING, ledger.0.core.catch_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(%why, "the ledger is opened as this node last knew it"),
            Err(_) => tracing::warn!("the ledger's index is still being made"),
        }
        Ok(ledger)
    }

    fn over(core: Core) -> Ledger {
        let core = Arc::new(core);
        let (appender, importer) = (Appender::start(core.clone()), Importer::start(core.clone()));
        Ledger(Arc::new(Inner { appender, importer, tail: Tail::new(core.clone()), upkeep: Arc::default(), core }))
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

    /// Reads all that there is, however long that takes, while something comes: who begins without an index has a whole history to
    /// read, and [`confirm`](Self::confirm) is for those who wait a moment. `told` hears how far it is.
    ///
    /// # Errors
    /// Nothing has come for a minute.
    pub async fn read_to_end(&self, told: impl Fn(&VersionVector)) -> Result<(), LedgerError> {
        let (mut has, mut since) = (self.vector()?, Instant::now());
        while let Err(why) = self.confirm(Look::Now).await {
            let vector = self.vector()?;
            if vector != has {
                (has, since) = (vector, Instant::now());
                told(&has);
            } else if self.0.core.is_loading() {
                since = Instant::now();
            } else if since.elapsed() > STALL {
                return Err(why);
            }
            sleep(READ_PAUSE).await;
        }
        Ok(())
    }

    /// What this node has folded.
    pub fn position(&self) -> Result<Position, LedgerError> {
        let seq = self.0.core.position()?.seq;
        Ok(Position { origin: self.0.core.origin.clone(), seq })
    }

    /// Whose ledger it is.
    pub fn origin(&self) -> &Origin {
        &self.0.core.origin
    }

    /// This node's name in the ledger and in imports.
    pub fn node(&self) -> &str {
        &self.0.core.node
    }

    /// Every ledger that is folded here, the own one included, with its last segment.
    pub fn vector(&self) -> Result<VersionVector, LedgerError> {
        self.read(query::vector)
    }

    /// The clock of a ledger's last segment that is folded here.
    pub fn clock_of(&self, origin: &Origin) -> Result<HybridTime, LedgerError> {
        self.read(|rows| Ok(Core::ledger_in(rows, origin)?.clock))
    }

    /// The number of the last import that is folded here, and the node that wrote it.
    pub fn imports(&self) -> Result<(u64, String), LedgerError> {
        let at = self.0.core.imports()?;
        Ok((at.number, at.node))
    }

    /// Commits segments of other regions to this region's bucket and folds them; those that were folded already are passed over.
    /// They may be of several ledgers: whatever can come next is taken first.
    ///
    /// # Errors
    /// See [`ImportError`]; some of them may have been imported all the same.
    pub async fn import(&self, segments: Vec<Foreign>) -> Result<(), ImportError> {
        self.0.importer.import(segments).await
    }

    /// Segments of the own ledger, or of another one that were imported, behind a number: at least one, however large, and no more
    /// than so many bytes. Rests on what this node has folded: [`confirm`](Self::confirm) first.
    ///
    /// # Errors
    /// The bucket does not give what stands in it.
    pub async fn segments_of(&self, origin: &Origin, after: u64, max_bytes: usize) -> Result<Segments, LedgerError> {
        self.0.core.segments_of(origin, after, max_bytes).await
    }

    /// Changes with each fold, of whatever ledger.
    pub fn folds(&self) -> watch::Receiver<u64> {
        self.0.core.folds()
    }

    /// Waits until a segment of a ledger is folded here. Somebody else must look for it.
    pub async fn reached(&self, origin: &Origin, seq: u64, within: Duration) -> bool {
        let mut folds = self.folds();
        let is_there = || self.vector().is_ok_and(|vector| vector.covers(origin, seq));
        let told = async {
            while !is_there() {
                if folds.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(within, told).await.unwrap_or(false)
    }

    /// The latest incarnation of a region whose ledger is folded here.
    pub fn incarnation_of(&self, region: &str) -> Result<Option<Origin>, LedgerError> {
        self.read(|rows| query::incarnation_of(rows, region))
    }

    /// The records of a kind in the control plane, by name; those that were removed are not among them.
    pub fn control(&self, kind: ControlKind) -> Result<Vec<ControlEntry>, LedgerError> {
        self.read(|rows| query::control(rows, kind))
    }

    /// Incarnations of regions that joined, are leaving or were removed.
    pub fn members(&self) -> Result<Vec<MemberEntry>, LedgerError> {
        self.read(query::members)
    }

    /// How an incarnation of a region stands, if anything was ever said of it.
    pub fn standing(&self, origin: &Origin) -> Result<Option<Standing>, LedgerError> {
        self.read(|rows| fold::standing(rows, origin))
    }

    /// What the writer of a ledger's last segment that is folded here had seen.
    pub fn seen_by(&self, origin: &Origin) -> Result<VersionVector, LedgerError> {
        self.read(|rows| fold::seen_by(rows, origin))
    }

    /// Where a ledger ends that was declared lost.
    pub fn cut(&self, origin: &Origin) -> Result<Option<u64>, LedgerError> {
        self.read(|rows| fold::cut(rows, origin))
    }

    /// Content that this region does not hold itself, by digest, behind `after`.
    pub fn wanted(&self, after: Option<&WantedKey>, limit: usize) -> Result<Vec<WantedEntry>, LedgerError> {
        self.read(|rows| query::wanted(rows, after, limit))
    }

    /// How many contents only this region has, and their bytes: what others must copy before it may leave. Walks all contents.
    pub fn held_alone(&self) -> Result<(u64, u64), LedgerError> {
        self.read(|rows| query::held_alone(rows, &self.origin().region))
    }

    /// What is known of a place.
    pub fn place(&self, place: &Place) -> Result<Option<PlaceEntry>, LedgerError> {
        self.read(|rows| query::place(rows, place))
    }

    /// Compares what another region has seen of this one with the own tail: a bucket that was set back to an old backup must not be
    /// written to, for others have other segments with the numbers that would come next.
    pub fn compare_with(&self, seen: &VersionVector) {
        self.0.core.require(seen.get(self.origin()));
    }

    /// Why this region takes no pushes, if it does not, as far as this node has folded.
    pub fn fenced(&self) -> Result<Option<String>, LedgerError> {
        Ok(self.0.core.fenced()?)
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

    /// The same without those that a lock keeps out of lists.
    pub fn listed_tags(&self, repository: &RepositoryName, after: Option<&str>, limit: usize) -> Result<Vec<TagEntry>, LedgerError> {
        self.read(|rows| query::listed_tags(rows, repository, after, limit))
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

    /// Whether another manifest of the repository refers to it, of those that `counts` is true of.
    pub fn is_needed(&self, repository: &RepositoryName, digest: &Digest, counts: impl Fn(&Digest) -> bool) -> Result<bool, LedgerError> {
        self.read(|rows| query::is_needed(rows, repository, digest, counts))
    }

    /// What a repository's lock leaves of what may be done to it and to all that is in it, whether or not there is such a repository.
    pub fn attributes(&self, repository: &RepositoryName) -> Result<Attributes, LedgerError> {
        self.read(|rows| query::attributes(rows, repository))
    }

    /// What is locked in a repository so that it cannot be deleted, or the repository itself: the first that is found. Walks all locks
    /// of the repository.
    pub fn lock_against_deletion(&self, repository: &RepositoryName) -> Result<Option<String>, LedgerError> {
        self.read(|rows| query::lock_against_deletion(rows, repository))
    }

    /// Those that no lock keeps out of lists.
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

    /// What was last said of a manifest, whether or not it is still there.
    pub fn known_facts(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<ManifestFacts>, LedgerError> {
        self.read(|rows| query::known_facts(rows, repository, digest))
    }

    /// Manifests of the repository that need this content, by digest.
    pub fn needing(&self, repository: &RepositoryName, digest: &Digest, limit: usize) -> Result<Vec<Digest>, LedgerError> {
        self.read(|rows| query::needing(rows, repository, digest, limit))
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

    /// The same without those that a lock keeps out of lists.
    pub fn listed_repositories(&self, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryEntry>, LedgerError> {
        self.read(|rows| query::listed_repositories(rows, after, limit))
    }

    /// Tags that were pushed twice by writers of which neither had seen the other.
    pub fn conflicts(&self, limit: usize) -> Result<Vec<(RepositoryName, TagEntry)>, LedgerError> {
        self.read(|rows| query::conflicts(rows, limit))
    }

    /// The same in order, by repository and tag, those behind `after`.
    pub fn conflicts_after(
        &self,
        after: Option<(&RepositoryName, &str)>,
        limit: usize,
    ) -> Result<Vec<(RepositoryName, TagEntry)>, LedgerError> {
        self.read(|rows| query::conflicts_after(rows, after, limit))
    }

    /// The manifest under a name, and the events that make it visible there.
    pub fn named(&self, repository: &RepositoryName, reference: &Reference) -> Result<Option<NamedEntry>, LedgerError> {
        self.read(|rows| named::named(rows, repository, reference))
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
