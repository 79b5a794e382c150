//! What another region is asked, whoever answers: its edges or its store, and in tests a script.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::bucket::{self, SnapshotPart};
use crate::ledger::{self, BlobEntry, ManifestEntry, Origin, Segments, Snapshots, VersionVector};
use crate::oci::{Digest, Reference, RepositoryName};

/// Another region.
pub(super) trait Remote: Send + Sync {
    fn region(&self) -> &Arc<str>;

    /// Where it stands, after a look that begins now.
    fn status(&self) -> BoxFuture<'_, Result<Standing, String>>;

    /// What follows a number in a ledger that it has: its own, or one that it imported. It may wait for something to be there.
    fn segments<'a>(&'a self, origin: &'a Origin, after: u64, wait: Duration) -> BoxFuture<'a, Result<Batch, String>>;

    /// The snapshots of one of its own ledgers, the latest last.
    fn snapshots<'a>(&'a self, of: &'a Origin) -> BoxFuture<'a, Result<Vec<bucket::Through>, String>>;

    /// An object of one of them; `None` if there is none.
    fn snapshot_part<'a>(
        &'a self,
        of: &'a Origin,
        through: bucket::Through,
        part: SnapshotPart,
    ) -> BoxFuture<'a, Result<Option<Bytes>, String>>;

    /// What it knows of a name, after a look that begins now.
    fn resolve<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Told>;
}

/// Where a region stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub origin: Origin,
    /// The last segment of its ledger, where that was told.
    pub tail: Option<u64>,
    /// What it has folded of all ledgers, as far as it tells.
    pub seen: VersionVector,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub segments: Segments,
    pub tail: Option<u64>,
}

/// What can be known in one region and not in another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    Manifest(RepositoryName, Reference),
    Blob(RepositoryName, Digest),
}

/// What another region says of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub region: Arc<str>,
    pub entry: KnownEntry,
}

#[derive(Clone, Debug, PartialEq)]
pub enum KnownEntry {
    Manifest(Box<ManifestEntry>),
    Blob(BlobEntry),
}

/// What a region answers when it is asked about a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    Found(Box<Known>),
    /// It looked, and there is none.
    Denied,
    CannotTell(String),
    /// It has nobody who answers questions: what it has must be read.
    Mute,
}

/// A region as a source of the ledger's.
pub(super) struct Through<'a>(pub &'a dyn Remote);

impl ledger::Source for Through<'_> {
    async fn segments(&self, origin: &Origin, after: u64, wait: Duration) -> Result<Segments, String> {
        Ok(self.0.segments(origin, after, wait).await?.segments)
    }
}

impl Snapshots for Through<'_> {
    async fn list(&self, of: &Origin) -> Result<Vec<bucket::Through>, String> {
        self.0.snapshots(of).await
    }

    async fn part(&self, of: &Origin, through: bucket::Through, part: SnapshotPart) -> Result<Option<Bytes>, String> {
        self.0.snapshot_part(of, through, part).await
    }
}
