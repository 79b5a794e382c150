//! The embedded index: sizes and uses of blobs, for eviction, and the caller's records. The folder is the truth about which blobs
//! exist; this only has to agree with it in the long run.
//!
//! On a disk that takes no writes the database is read as it is: changes wait in memory, within bounds, and are seen by readers,
//! until they can be written.

mod commit;
#[cfg(test)]
mod figures;
mod format;
mod overlay;
mod pending;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use tokio::sync::Notify;

pub(super) use commit::{Ending, Evicted, Shelf};
use commit::{Hand, Round, Totals};
use format::{BLOB_BYTES, BLOBS, BlobEntry, ORDERLY, RECORDS, RecordEntry, TOTALS, blob_key, bucket_prefix, digest};
use overlay::Overlay;
pub(super) use pending::Touches;
use pending::{BlobChange, Pending, first_key};

use super::lock;
use crate::clock::{Clock, Timestamp};
use crate::oci::{Algorithm, Digest};

/// Memory for the database's pages.
const PAGE_CACHE_BYTES: usize = 32 << 20;
/// The most records kept.
const RECORDS_LIMIT: u64 = 4_000_000;
/// How precisely a record's last use is written down.
const RECORD_TOUCH: Duration = Duration::from_secs(3_600);

/// Why the database cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IndexError {
    #[error("another process has it open")]
    Locked,
    /// It is to be moved aside and built anew.
    #[error("damaged: {0}")]
    Damaged(String),
    /// To be tried again later.
    #[error("the disk refused: {0}")]
    Disk(String),
}

enum State {
    Closed,
    /// The disk takes no writes.
    Readable(Database),
    Writable(Database),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Closed => "Closed",
            State::Readable(_) => "Readable",
            State::Writable(_) => "Writable",
        })
    }
}

#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    clock: Clock,
    database: RwLock<State>,
    pending: Mutex<Pending>,
    hand: Mutex<Hand>,
    record_limit: u64,
    /// What the database counts.
    blob_bytes: AtomicU64,
    blobs: AtomicU64,
    /// The index agreed with the folder at its opening, or a scan has made it agree since.
    agrees: AtomicBool,
    /// A reader found the database unusable.
    suspect: Mutex<Option<IndexError>>,
    /// There is something to commit.
    pub dirty: Notify,
}

impl Index {
    pub fn new(path: PathBuf, clock: Clock) -> Index {
        Index {
            path,
            clock,
            database: RwLock::new(State::Closed),
            pending: Mutex::default(),
            hand: Mutex::default(),
            record_limit: RECORDS_LIMIT,
            blob_bytes: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            agrees: AtomicBool::new(false),
            suspect: Mutex::default(),
            dirty: Notify::new(),
        }
    }

    /// Opens the database, or a new one in place of one that is damaged. On a disk that takes no writes it is opened for reading,
    /// and the error says so. Blocks.
    pub fn open(&self) -> Result<(), IndexError> {
        // Readers wait: what they read from is going to be changed.
        let mut state = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.close_state(&mut state);
        let opened = match open(&self.path) {
            Err(IndexError::Damaged(why)) => {
                tracing::warn!(%why, "the index is damaged: it is built anew");
                self.move_aside().map_err(|error| IndexError::Disk(error.to_string()))?;
                open(&self.path)
            }
            opened => opened,
        };
        let (database, totals, orderly) = match opened {
            Err(why @ IndexError::Disk(_)) => {
                *state = open_readable(&self.path).map_or(State::Closed, State::Readable);
                return Err(why);
            }
            opened => opened?,
        };
        self.count(totals);
        self.agrees.store(orderly, Ordering::Relaxed);
        self.dirty.notify_one();
        *state = State::Writable(database);
        Ok(())
    }

    /// Whether changes can be committed.
    pub fn is_open(&self) -> bool {
        matches!(*self.database.read().unwrap_or_else(PoisonError::into_inner), State::Writable(_))
    }

    /// Closes the database, so that it can be opened again.
    pub fn close(&self) {
        self.close_state(&mut self.database.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// After a failed write, which ends the use of a database: goes on reading until it can be opened again.
    pub fn only_read(&self) {
        let mut state = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.close_state(&mut state);
        *state = open_readable(&self.path).map_or(State::Closed, State::Readable);
    }

    fn close_state(&self, state: &mut State) {
        *lock(&self.suspect) = None;
        if let State::Writable(database) = std::mem::replace(state, State::Closed)
            && let Err(why) = guarded(|| Ok(database.close()?))
        {
            tracing::warn!(%why, "closing the index");
        }
    }

    /// Moves a damaged database aside, so that the next opening makes a new one.
    pub fn discard(&self) {
        self.close();
        if let Err(error) = self.move_aside() {
            tracing::warn!(%error, "moving a damaged index aside");
        }
    }

    fn move_aside(&self) -> std::io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("damaged"))
    }

    /// A reader found the database unusable, which the next commit tells.
    pub fn is_suspect(&self) -> bool {
        lock(&self.suspect).is_some()
    }

    /// Whether the folder need not be compared with the index.
    pub fn agrees(&self) -> bool {
        if std::mem::take(&mut lock(&self.pending).incomplete) {
            self.agrees.store(false, Ordering::Relaxed);
        }
        self.agrees.load(Ordering::Relaxed)
    }

    /// A scan has compared every folder.
    pub fn scanned(&self) {
        self.agrees.store(true, Ordering::Relaxed);
    }

    /// Bytes of all blobs: those that the database counts, and those that it will.
    pub fn held_bytes(&self) -> u64 {
        self.blob_bytes.load(Ordering::Relaxed).saturating_add(lock(&self.pending).put_bytes())
    }

    /// Number of blobs that the database counts.
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    pub fn put_blob(&self, digest: Digest, size_bytes: u64, at: Timestamp) {
        self.change_blob(digest, BlobChange::Put { size_bytes, at });
    }

    /// The file is gone. What has become true again until the commit is left alone.
    pub fn blob_gone(&self, digest: Digest) {
        self.change_blob(digest, BlobChange::Gone);
    }

    fn change_blob(&self, digest: Digest, change: BlobChange) {
        lock(&self.pending).change_blob(digest, change);
        self.dirty.notify_one();
    }

    /// Whether the database knows the blob. Blocks.
    pub fn knows(&self, digest: &Digest) -> bool {
        self.read(|database| Ok(database.begin_read()?.open_table(BLOBS)?.get(blob_key(digest).as_slice())?.is_some())).unwrap_or(false)
    }

    pub fn touch(&self, digest: &Digest) {
        lock(&self.pending).touch(digest, self.clock.now());
    }

    pub fn put_record(&self, key: String, value: Option<Vec<u8>>) {
        lock(&self.pending).change_record(key, value);
        self.dirty.notify_one();
    }

    /// `Some(None)`: known to be removed. `None`: the database has to be asked.
    pub fn pending_record(&self, key: &str) -> Option<Option<Vec<u8>>> {
        lock(&self.pending).record(key)
    }

    /// A record in the database. Blocks.
    pub fn stored_record(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.read(|database| {
            let value = database.begin_read()?.open_table(RECORDS)?.get(key)?;
            Ok(value.and_then(|value| RecordEntry::decode(value.value()).map(|entry| (entry.touched, entry.value.to_vec()))))
        });
        let (touched, value) = found.flatten()?;
        let now = self.clock.now();
        if now.since(touched) >= RECORD_TOUCH {
            lock(&self.pending).touch_record(key, now);
        }
        Some(value)
    }

    /// The first records of a prefix, in the order of their keys' bytes. Blocks.
    pub fn records(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Vec<u8>)> {
        // In this order: what is committed in between is seen twice rather than not at all.
        let changes = lock(&self.pending).records(prefix, after);
        let stored = self.read(|database| {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let mut found = BTreeMap::new();
            for entry in records.range::<&str>((first_key(prefix, after), Bound::Unbounded))? {
                let (key, value) = entry?;
                if found.len() >= limit || !key.value().starts_with(prefix) {
                    break;
                }
                if !changes.contains_key(key.value())
                    && let Some(entry) = RecordEntry::decode(value.value())
                {
                    found.insert(key.value().to_owned(), entry.value.to_vec());
                }
            }
            Ok(found)
        });
        let mut all = stored.unwrap_or_default();
        all.extend(changes.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
        all.into_iter().take(limit).collect()
    }

    /// The blobs of a bucket, with their sizes. Blocks.
    pub fn bucket(&self, algorithm: Algorithm, first: u8) -> Option<BTreeMap<Digest, u64>> {
        self.read(|database| {
            let blobs = database.begin_read()?.open_table(BLOBS)?;
            let prefix = bucket_prefix(algorithm, first);
            let mut found = BTreeMap::new();
            for entry in blobs.range(prefix.as_slice()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                if let Some(digest) = digest(key.value()) {
                    found.insert(digest, BlobEntry::decode(value.value()).map_or(0, |entry| entry.size_bytes));
                }
            }
            Ok(found)
        })
    }

    /// A scan met this file, which the index does not have or has with another size.
    pub fn found(&self, digest: Digest, size_bytes: u64, at: Timestamp) {
        lock(&self.pending).change_blob(digest, BlobChange::Found { size_bytes, at });
    }

    pub fn has_changes(&self) -> bool {
        lock(&self.pending).has_changes()
    }

    pub fn has_touches(&self) -> bool {
        lock(&self.pending).has_touches()
    }

    /// Writes what waits, and evicts. After a failure the changes wait on. Blocks.
    pub fn commit(&self, shelf: &Shelf<'_>, touches: Touches, ending: Ending) -> Result<(), IndexError> {
        if let Some(why) = lock(&self.suspect).take() {
            return Err(why);
        }
        let state = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let State::Writable(database) = &*state else { return Err(IndexError::Disk("not open".into())) };
        let batch = lock(&self.pending).take(touches);
        let outcome = guarded(|| {
            let mut hand = lock(&self.hand);
            let touched = |digest: &Digest| lock(&self.pending).touched(digest);
            let round = Round { shelf, touched: &touched, record_limit: self.record_limit, ending, hand: &mut hand };
            commit::commit(database, &batch, round)
        });
        drop(batch);
        match outcome {
            Ok(totals) => {
                let mut pending = lock(&self.pending);
                pending.committed();
                self.count(totals);
                Ok(())
            }
            Err(why) => {
                lock(&self.pending).put_back();
                Err(why)
            }
        }
    }

    fn count(&self, totals: Totals) {
        self.blob_bytes.store(totals.blob_bytes, Ordering::Relaxed);
        self.blobs.store(totals.blobs, Ordering::Relaxed);
    }

    /// `None` when there is no usable database.
    fn read<T>(&self, ask: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Option<T> {
        let state = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let (State::Writable(database) | State::Readable(database)) = &*state else { return None };
        match guarded(|| ask(database)) {
            Ok(answer) => Some(answer),
            Err(why) => {
                if let State::Writable(_) = *state {
                    *lock(&self.suspect) = Some(why);
                    self.dirty.notify_one();
                }
                None
            }
        }
    }
}

fn open(path: &Path) -> Result<(Database, Totals, bool), IndexError> {
    guarded(|| {
        let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create(path)?;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let (counted, orderly) = {
            let blobs = transaction.open_table(BLOBS)?;
            transaction.open_table(RECORDS)?;
            let mut totals = transaction.open_table(TOTALS)?;
            // From here on, only an orderly end says so again.
            let orderly = totals.insert(ORDERLY, 0)?.is_some_and(|orderly| orderly.value() == 1);
            let blob_bytes = redb::ReadableTable::get(&totals, BLOB_BYTES)?.map_or(0, |bytes| bytes.value());
            (Totals { blob_bytes, blobs: blobs.len()? }, orderly)
        };
        transaction.commit()?;
        Ok((database, counted, orderly))
    })
}

/// A database as the file has it; `None` when it cannot be used.
fn open_readable(path: &Path) -> Option<Database> {
    let opened = guarded(|| {
        let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create_with_backend(Overlay::open(path)?)?;
        let tables = database.begin_read()?;
        tables.open_table(BLOBS)?;
        tables.open_table(RECORDS)?;
        Ok(database)
    });
    opened.inspect_err(|why| tracing::warn!(%why, "the index cannot even be read")).ok()
}

/// Runs a piece of work on the database. redb trusts a file that was closed in order, and panics where it finds it changed since:
/// that is damage, not a reason to end.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => IndexError::Locked,
            redb::Error::Io(error) if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                IndexError::Disk(error.to_string())
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => IndexError::Disk(error.to_string()),
            error => IndexError::Damaged(error.to_string()),
        }),
        Err(_) => Err(IndexError::Damaged("a page is not what the index wrote".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(index: &Index) -> Result<(), IndexError> {
        let evict = |_: &Digest| Evicted::InUse;
        let shelf = Shelf { exists: &|_| true, evict: &evict, budget_bytes: u64::MAX, now: Timestamp::from_ms(1) };
        index.commit(&shelf, Touches::Now, Ending::NotYet)
    }

    fn value(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn while_nothing_can_be_written_what_was_is_read_and_changes_wait() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::new(dir.path().join("index.redb"), Clock::manual(Timestamp::from_ms(1)));
        index.open().unwrap();
        for number in 0..1_000 {
            index.put_record(format!("old {number:03}"), value("1"));
        }
        commit(&index).unwrap();
        // As after a failed commit: without an orderly end.
        index.only_read();
        assert!(!index.is_open());
        index.put_record("new".into(), value("2"));
        index.put_record("old 000".into(), None);
        assert_eq!(index.stored_record("old 500"), value("1"));
        assert_eq!(index.records("old ", None, 2), [("old 001".into(), b"1".to_vec()), ("old 002".into(), b"1".to_vec())]);
        assert!(matches!(commit(&index), Err(IndexError::Disk(_))));
        assert_eq!(index.pending_record("new"), Some(value("2")));
        index.open().unwrap();
        commit(&index).unwrap();
        assert_eq!((index.pending_record("new"), index.stored_record("new")), (None, value("2")));
        assert_eq!(index.stored_record("old 000"), None);
    }

    #[test]
    fn reading_a_record_is_written_down_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_ms(1));
        let index = Index::new(dir.path().join("index.redb"), clock.clone());
        index.open().unwrap();
        index.put_record("key".into(), value("1"));
        commit(&index).unwrap();
        clock.advance(RECORD_TOUCH / 2);
        assert_eq!(index.stored_record("key"), value("1"));
        assert!(!index.has_touches());
        clock.advance(RECORD_TOUCH);
        assert_eq!(index.stored_record("key"), value("1"));
        assert!(index.has_touches());
        commit(&index).unwrap();
        assert_eq!(index.stored_record("key"), value("1"));
        assert!(!index.has_touches());
    }
}
