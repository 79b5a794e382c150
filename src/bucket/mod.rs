//! The region's object store: everything of one region lies under one root in it, which all edges of the region share.
//!
//! A layer of types over the client of many stores (S3, Azure Blob, Google Cloud Storage, a folder, memory): what may be done with
//! which [`Key`], what an answer means, and how long it may take. The ledger's safety rests on one operation, create-if-absent,
//! and on three habits that callers must keep:
//!
//! - **No error is definite.** A write that failed may have landed, now or hours later; whoever must know reads back.
//! - **"Exists" may be a mistake.** S3 tells a conflict of two requests as if there were an object, and a request that was sent again
//!   meets what its first sending created. The creator puts a nonce into the bytes and reads back.
//! - **Listings are for sweeping and for recovery.** Nothing that must be right asks for one: what it may lack costs time only.
//!
//! What lies in the roots of other regions is read through a [`ForeignBucket`], which cannot write.
//!
//! What a store does not do is found at the start and said ([`OpenError::Unsafe`]). `open.rs` has the layout beside the root.

#[cfg(test)]
mod abroad;
#[cfg(test)]
mod answers;
#[cfg(test)]
pub(crate) mod conformance;
mod connect;
mod documents;
mod error;
mod foreign;
mod incarnations;
mod key;
mod local;
mod object;
mod open;
mod probe;
mod records;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upload;
mod wire;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use ulid::Ulid;

pub use connect::check;
pub use error::{BucketError, OpenError};
pub use foreign::ForeignBucket;
pub use key::{BLOB_SHARDS, Key, KeyError, RecordFile, RecordKind, SnapshotPart, Through};
pub use object::ObjectReader;
pub use sweep::{ListedBlob, ListedPart, MAX_LISTED};
pub use upload::ObjectUpload;

use error::Failure;
use wire::{Sending, Wire};

/// One region's root in its object store. Cloning is cheap.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    wire: Wire,
    region: String,
    incarnation: String,
    /// `<region>.<incarnation>`
    root: String,
}

/// What a store says about a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    Created,
    /// By somebody else, by an earlier sending of the same request, or not at all: read it.
    Exists,
}

impl Bucket {
    fn new(wire: Wire, region: &str, incarnation: &str) -> Bucket {
        let root = format!("{region}.{incarnation}");
        Bucket(Arc::new(Inner { wire, region: region.to_owned(), incarnation: incarnation.to_owned(), root }))
    }

    pub fn region(&self) -> &str {
        &self.0.region
    }

    pub fn incarnation(&self) -> &str {
        &self.0.incarnation
    }

    /// A name for new content, which nobody else has: its time and random bits.
    pub fn fresh_ulid(&self) -> Ulid {
        self.wire().fresh_ulid()
    }

    /// Creates an object if there is none.
    ///
    /// # Errors
    /// It may or may not have landed, and may still do so later.
    pub async fn create(&self, key: &Key, bytes: Bytes) -> Result<Created, BucketError> {
        match self.wire().create(&self.path(key), &bytes).await {
            Ok(()) => Ok(Created::Created),
            Err(Failure::Exists) => Ok(Created::Exists),
            Err(other) => Err(other.into_error()),
        }
    }

    /// Creates an object or takes the place of one. Only for what is advisory, and for what is the same whoever writes it.
    ///
    /// # Errors
    /// It may or may not have landed, and may still do so later.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), BucketError> {
        self.wire().put(&self.path(key), bytes.into()).await
    }

    /// The whole of an object; `None` if there is none, which is confirmed.
    ///
    /// # Errors
    /// [`BucketError::Broken`] for one that is larger than the limit.
    pub async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        self.wire().read(&self.path(key), limit_bytes).await
    }

    /// A range of an object, piece by piece, cut at the object's end; `0..u64::MAX` is all of it. `None` if there is no such object.
    ///
    /// # Errors
    /// [`BucketError::Broken`] for a range that begins at the object's end or behind it.
    pub async fn open_object(&self, key: &Key, range: Range<u64>) -> Result<Option<ObjectReader>, BucketError> {
        ObjectReader::open(self.wire(), &self.path(key), range).await
    }

    /// Begins to send content of any size to a key that was never used.
    ///
    /// # Errors
    /// What the store answers; not every store is asked already.
    pub async fn upload(&self, key: &Key) -> Result<ObjectUpload, BucketError> {
        ObjectUpload::begin(self.wire(), self.path(key)).await
    }

    /// Removes an object; that there is none is fine.
    ///
    /// # Errors
    /// It may be there or not.
    pub async fn delete(&self, key: &Key) -> Result<(), BucketError> {
        self.wire().delete(&self.path(key)).await
    }

    /// Where a local bucket has an object, so that it is served from there. Whether it is there is not looked at.
    pub fn local_file(&self, key: &Key) -> Option<PathBuf> {
        match &self.wire().sending {
            Sending::Files(folder) => Some(folder.file(&self.path(key))),
            Sending::Parts(_) => None,
        }
    }

    /// Writes, reads and deletes a small object.
    ///
    /// # Errors
    /// What the store answers; [`BucketError::Broken`] if other bytes come back.
    pub async fn probe(&self) -> Result<(), BucketError> {
        probe::round_trip(self.wire(), self.region()).await
    }

    fn wire(&self) -> &Wire {
        &self.0.wire
    }

    fn path(&self, key: &Key) -> Path {
        self.root_path(&key.to_string())
    }

    fn root_path(&self, below: &str) -> Path {
        self.wire().path(&format!("{}/{below}", self.0.root))
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("store", &self.wire().store.to_string()).field("root", &self.0.root).finish()
    }
}
