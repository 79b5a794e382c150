//! The node's disk: content-addressed blobs, the only writer, eviction, and the embedded index.
//!
//! A disk that takes no writes is no error: what is there is served, and what comes in passes through memory to those who read it.

mod content;
mod disk;
mod draft;
mod error;
mod files;
mod growing;
mod index;
mod ingest;
mod keeper;
mod layout;
mod resident;
mod stamp;
mod verify;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

pub use content::{Content, FilePart, MAX_PART_BYTES, Piece, Region};
use disk::Disk;
pub use draft::{Draft, GivenUp, Keeping};
pub use error::ContentError;
use files::{Lookup, OpenFiles};
use index::{Index, IndexError};
pub use ingest::{Ingest, IngestError};
use layout::Layout;
pub use verify::VerifyReport;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Algorithm, Digest};

/// How long a disk may take to tell how full it is.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// Where the blobs are, and how much they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A folder of the store's own; made when it is absent.
    pub dir: PathBuf,
    /// What all blobs may take together, those that are being written included.
    pub max_bytes: u64,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    #[error("{dir} has the layout of version {version}, which this program does not know")]
    Format { dir: PathBuf, version: u8 },
    /// Only from `probe`: a store works on without writing.
    #[error("the disk takes no writes: {0}")]
    Unwritable(#[source] io::Error),
}

/// The blobs and records on this node's disk. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store(Arc<Owner>);

/// Ends the background task with the last clone.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the store, its ingests and its background task have in common.
#[derive(Debug)]
struct Shared {
    layout: Layout,
    disk: Disk,
    files: OpenFiles,
    index: Index,
    clock: Clock,
    metrics: Metrics,
    max_bytes: u64,
    /// Bytes in temporary files.
    partial_bytes: AtomicU64,
    verifications: Semaphore,
    stop: watch::Sender<Stop>,
    /// The same for loops in the blocking pool.
    stopping: AtomicBool,
    /// There is more on the disk than there should be.
    hurry: Notify,
}

/// How the background task is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// With everything written down.
    Close,
    /// At once, as after a crash.
    Drop,
}

impl Store {
    /// Opens the store of a folder. A disk that is read-only or full is not an error: the store works without writing until the disk
    /// takes writes again.
    ///
    /// # Errors
    /// `Locked` when another process has the folder; `Format` when a newer program wrote it.
    pub async fn open(settings: Settings, clock: Clock, metrics: Metrics) -> Result<Store, StoreError> {
        metrics.cache_limit("disk", settings.max_bytes);
        let layout = Layout::new(settings.dir.clone());
        let index = Index::new(layout.index(), clock.clone());
        let shared = Arc::new(Shared {
            layout,
            disk: Disk::new(metrics.clone()),
            files: OpenFiles::new(),
            index,
            clock,
            metrics,
            max_bytes: settings.max_bytes,
            partial_bytes: AtomicU64::new(0),
            verifications: Semaphore::new(verify::VERIFICATIONS),
            stop: watch::Sender::new(Stop::No),
            stopping: AtomicBool::new(false),
            hurry: Notify::new(),
        });
        let opening = shared.clone();
        let opened = tokio::task::spawn_blocking(move || opening.open(&settings.dir)).await;
        opened.unwrap_or_else(|stopped| Err(StoreError::Unwritable(io::Error::other(stopped))))?;
        let keeper = tokio::spawn(keeper::keep(shared.clone()));
        Ok(Store(Arc::new(Owner { shared, keeper: Mutex::new(Some(keeper)) })))
    }

    /// The blob of this digest, whole, in a file. One that this process has not verified yet can be read while that is made good,
    /// up to its last byte. `None`: not here.
    pub async fn blob(&self, digest: &Digest) -> Option<Content> {
        let shared = &self.0.shared;
        let content = match shared.files.get(digest) {
            Lookup::Found(content) => Some(content),
            Lookup::Unknown | Lookup::Outdated => {
                let (shared, digest) = (shared.clone(), *digest);
                tokio::task::spawn_blocking(move || verify::open(&shared, digest)).await.ok().flatten()
            }
        };
        if content.is_some() {
            shared.index.touch(digest);
        }
        content
    }

    /// Begins to take a blob in: `size_bytes` is its length where that is known. Never fails for want of a disk.
    pub fn ingest(&self, digest: Digest, size_bytes: Option<u64>) -> Ingest {
        Ingest::new(self.0.shared.clone(), digest, size_bytes)
    }

    /// Begins to take in a content whose digest its end will tell.
    pub fn draft(&self, algorithm: Algorithm, keeping: Keeping) -> Draft {
        Draft::new(self.0.shared.clone(), algorithm, keeping)
    }

    /// A blob that lies in a file of the bucket's on this machine: served from there under the rules for cached files (verified when this
    /// process first opens it), but never evicted, moved or deleted.
    pub async fn bucket_file(&self, digest: &Digest, path: PathBuf) -> Option<Content> {
        if let Lookup::Found(content) = self.0.shared.files.get(digest) {
            return Some(content);
        }
        let (shared, digest) = (self.0.shared.clone(), *digest);
        tokio::task::spawn_blocking(move || verify::open_of_bucket(&shared, digest, &path)).await.ok().flatten()
    }

    /// Takes a file of the bucket's for verified: its bytes have just been hashed on their way in, and are these.
    pub async fn adopt(&self, digest: &Digest, path: PathBuf) {
        let (shared, digest) = (self.0.shared.clone(), *digest);
        let adopted = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(path)?;
            let (stamp, _) = stamp::Stamp::of(&file)?;
            shared.files.insert(digest, Arc::new(file), stamp);
            Ok::<_, io::Error>(())
        });
        if let Ok(Err(error)) = adopted.await {
            tracing::warn!(%digest, %error, "opening a blob that has just come");
        }
    }

    /// Notes a use that a tier above answered, so that eviction does not take the most used for unused.
    pub fn touch(&self, digest: &Digest) {
        self.0.shared.index.touch(digest);
    }

    /// The record of this key, also one that is not written down yet.
    pub async fn record(&self, key: &str) -> Option<Vec<u8>> {
        let shared = &self.0.shared;
        if let Some(pending) = shared.index.pending_record(key) {
            return pending;
        }
        let (shared, key) = (shared.clone(), key.to_owned());
        tokio::task::spawn_blocking(move || shared.index.stored_record(&key)).await.ok().flatten()
    }

    /// Keeps a record: at once for readers, within about a second durably. Records are bounded in number; when there are too many,
    /// ones that were not read for long go.
    pub fn put_record(&self, key: String, value: Vec<u8>) {
        self.0.shared.index.put_record(key, Some(value));
    }

    pub fn remove_record(&self, key: String) {
        self.0.shared.index.put_record(key, None);
    }

    /// The first `limit` records whose keys begin with `prefix` and come after `after`, in the order of their keys' bytes.
    pub async fn records(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Vec<u8>)> {
        let (shared, prefix, after) = (self.0.shared.clone(), prefix.to_owned(), after.map(str::to_owned));
        tokio::task::spawn_blocking(move || shared.index.records(&prefix, after.as_deref(), limit)).await.unwrap_or_default()
    }

    /// Hashes every blob and takes bad ones out of the way.
    pub async fn verify(&self) -> VerifyReport {
        let shared = self.0.shared.clone();
        let stopped = VerifyReport { stopped: true, ..VerifyReport::default() };
        tokio::task::spawn_blocking(move || verify::verify_all(&shared)).await.unwrap_or(stopped)
    }

    /// Writes, reads and deletes a tiny file.
    ///
    /// # Errors
    /// `Unwritable`.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let shared = self.0.shared.clone();
        let probed = tokio::task::spawn_blocking(move || shared.probe()).await;
        probed.unwrap_or_else(|stopped| Err(io::Error::other(stopped))).map_err(StoreError::Unwritable)
    }

    /// Brings the gauges of the disk up to date, unless it hangs.
    pub async fn report(&self) {
        let dir = self.0.shared.layout.root().to_owned();
        let asked = tokio::task::spawn_blocking(move || disk::space(&dir));
        if let Ok(Ok(Ok((bytes, free_bytes)))) = tokio::time::timeout(REPORT_PATIENCE, asked).await {
            self.0.shared.metrics.disk_space(bytes, free_bytes);
        }
    }

    /// Writes the index down and lets go of the folder. Blobs that are open can still be read.
    pub async fn close(&self) {
        self.0.stop(Stop::Close);
        let keeper = lock(&self.0.keeper).take();
        if let Some(keeper) = keeper {
            // Only an ending runtime ends it early.
            let _ = keeper.await;
        }
    }
}

impl Owner {
    /// The first word counts.
    fn stop(&self, how: Stop) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.stop.send_if_modified(|stop| {
            let first = *stop == Stop::No;
            if first {
                *stop = how;
            }
            first
        });
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop(Stop::Drop);
    }
}

impl Shared {
    /// The lock first: what is in partial/ may belong to another process.
    fn open(&self, dir: &std::path::Path) -> Result<(), StoreError> {
        if let Err(error) = self.layout.prepare() {
            self.disk.refused("making the cache's folders", &error);
        }
        match self.layout.other_format() {
            Ok(None) => {}
            Ok(Some(version)) => return Err(StoreError::Format { dir: dir.to_owned(), version }),
            Err(error) => self.disk.refused("writing the cache's format", &error),
        }
        match self.index.open() {
            Ok(()) => {}
            Err(IndexError::Locked) => return Err(StoreError::Locked(dir.to_owned())),
            // Not the blobs' concern: whether they can be written shows by itself.
            Err(why) => tracing::warn!(%why, "the index cannot be opened; its changes wait in memory"),
        }
        if let Err(error) = self.layout.empty_partial().and_then(|()| self.probe()) {
            self.disk.refused("opening the cache", &error);
        }
        self.metrics.cache_size("disk", self.index.held_bytes(), self.index.blobs());
        Ok(())
    }

    /// Whether the disk takes a file now; makes the folders where that was not possible before.
    fn probe(&self) -> io::Result<()> {
        self.layout.prepare()?;
        self.disk.probe(&self.layout.partial())
    }

    fn over_budget(&self) -> bool {
        self.index.held_bytes().saturating_add(self.partial_bytes.load(Ordering::Relaxed)) > self.max_bytes
    }

    /// Has the background task evict soon when there is too much on the disk.
    fn wake_when_over(&self) {
        if self.over_budget() {
            self.index.dirty.notify_one();
            self.hurry.notify_one();
        }
    }
}

/// Locks. A thread that panicked left nothing half done that the next one could not go on with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
