//! This region's snapshots as others read them, and where a region reads those of another.

use bytes::Bytes;

use super::MAX_MANIFEST_BYTES;
use super::shard::MAX_SHARD_BYTES;
use crate::bucket::{ForeignBucket, Key, SnapshotPart, Through};
use crate::ledger::identity::Origin;
use crate::ledger::{Ledger, LedgerError};

/// Where the snapshots of another region are read: at its edges, or in its store.
pub trait Snapshots: Sync {
    /// Those of one of its ledgers, the latest last.
    fn list(&self, of: &Origin) -> impl Future<Output = Result<Vec<Through>, String>> + Send;

    /// An object of one of them, whole; `None` if there is none. It is not verified.
    fn part(&self, of: &Origin, through: Through, part: SnapshotPart) -> impl Future<Output = Result<Option<Bytes>, String>> + Send;
}

/// The root of the ledger that is asked for.
impl Snapshots for ForeignBucket {
    async fn list(&self, _: &Origin) -> Result<Vec<Through>, String> {
        Ok(whole(self.list_snapshots().await.map_err(|why| why.to_string())?))
    }

    async fn part(&self, _: &Origin, through: Through, part: SnapshotPart) -> Result<Option<Bytes>, String> {
        self.read(&Key::Snapshot(through, part), limit_bytes(part)).await.map_err(|why| why.to_string())
    }
}

impl Ledger {
    /// The snapshots of the own ledger, the latest last.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn snapshots(&self) -> Result<Vec<Through>, LedgerError> {
        Ok(self.0.core.listed_snapshots().await?)
    }

    /// An object of one of them, whole; `None` if there is none.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn snapshot_part(&self, through: Through, part: SnapshotPart) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.0.core.bucket.read(&Key::Snapshot(through, part), limit_bytes(part)).await?)
    }
}

/// Those of which the manifest is there, which is created last.
pub(super) fn whole(parts: impl IntoIterator<Item = (Through, SnapshotPart)>) -> Vec<Through> {
    parts.into_iter().filter(|(_, part)| *part == SnapshotPart::Manifest).map(|(through, _)| through).collect()
}

fn limit_bytes(part: SnapshotPart) -> u64 {
    match part {
        SnapshotPart::Manifest => MAX_MANIFEST_BYTES,
        SnapshotPart::Shard { .. } => MAX_SHARD_BYTES,
    }
}
