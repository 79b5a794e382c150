//! What is there, for the sweep of content that no event names, and for finding and removing snapshots: the only reader of
//! listings, whose order means nothing.

use std::time::Duration;

use object_store::path::Path;
use ulid::Ulid;

use super::Bucket;
use super::error::BucketError;
use super::key::{Key, SNAPSHOTS, SnapshotPart, Through};
use super::local::of_disk;
use super::wire::Sending;
use crate::clock::Timestamp;

/// How many keys one listing tells.
pub const MAX_LISTED: usize = 10_000;

/// A content that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedBlob {
    pub ulid: Ulid,
    pub size_bytes: u64,
    /// By the store's clock.
    pub modified: Timestamp,
}

/// An object of a snapshot that is there.
pub type ListedPart = (Through, SnapshotPart);

impl Bucket {
    /// The objects of all snapshots, sorted, at most [`MAX_LISTED`] of those that cover the most. For recovery, where nothing tells
    /// which there are, and for trimming.
    ///
    /// # Errors
    /// What the store answers. A listing may lack what was created or deleted while it was made.
    pub async fn list_snapshots(&self) -> Result<Vec<ListedPart>, BucketError> {
        let mut parts: Vec<ListedPart> = Vec::new();
        let found = |object: object_store::ObjectMeta| {
            let Some(Key::Snapshot(through, part)) = self.key(&object.location) else { return };
            parts.push((through, part));
            if parts.len() > 2 * MAX_LISTED {
                keep_last(&mut parts);
            }
        };
        self.wire().list(&self.root_path(SNAPSHOTS), None, found).await?;
        keep_last(&mut parts);
        Ok(parts)
    }

    /// The content of one of the [`BLOB_SHARDS`](super::BLOB_SHARDS) shards whose key is greater than `after`, in the order of their
    /// keys. There may be more when it is [`MAX_LISTED`] of them: ask again from the last.
    ///
    /// # Errors
    /// What the store answers. A listing may lack what was created or deleted while it was made.
    pub async fn list_blobs(&self, shard: u8, after: Option<Ulid>) -> Result<Vec<ListedBlob>, BucketError> {
        let folder = self.root_path(&Key::shard_folder(shard));
        let after = after.map(|ulid| self.path(&Key::Blob(ulid)));
        let mut blobs: Vec<ListedBlob> = Vec::new();
        let found = |object: object_store::ObjectMeta| {
            let Some(Key::Blob(ulid)) = self.key(&object.location) else { return };
            let modified = Timestamp::from_ms(u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default());
            blobs.push(ListedBlob { ulid, size_bytes: object.size, modified });
            if blobs.len() > 2 * MAX_LISTED {
                blobs.sort_unstable();
                blobs.truncate(MAX_LISTED);
            }
        };
        self.wire().list(&folder, after.as_ref(), found).await?;
        blobs.sort_unstable();
        blobs.truncate(MAX_LISTED);
        Ok(blobs)
    }

    /// Removes files of a local bucket that were on their way in when their process was killed: those to which nobody has written
    /// for so long. How many there were; other stores have none that could be found (their lifecycle rules remove unfinished parts).
    ///
    /// # Errors
    /// What the disk answers.
    pub async fn remove_staged(&self, older_than: Duration) -> Result<usize, BucketError> {
        let Sending::Files(folder) = &self.wire().sending else { return Ok(0) };
        let (folder, below, clock) = (folder.clone(), self.root_path(""), self.wire().clock.clone());
        match tokio::task::spawn_blocking(move || folder.remove_staged(&below, older_than, &clock)).await {
            Ok(removed) => removed.map_err(|error| of_disk(&error)),
            Err(_) => Err(BucketError::unavailable("the process is ending")),
        }
    }

    /// The key that a path of the store stands for.
    pub(super) fn key(&self, path: &Path) -> Option<Key> {
        let root = self.root_path("");
        path.as_ref().strip_prefix(root.as_ref())?.strip_prefix('/')?.parse().ok()
    }
}

fn keep_last(parts: &mut Vec<ListedPart>) {
    parts.sort_unstable();
    parts.drain(..parts.len().saturating_sub(MAX_LISTED));
}
