//! The index in a database file of this node. It can be made anew from the ledger, so most commits are not forced to the disk: a
//! kill leaves it as it was at a forced one, rows and position together, and the ledger is folded on from there.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};

use super::IndexError;
use super::rows::{Changes, Rows, Table, Visit, Walk, first};

/// Memory for the database's pages.
const PAGE_CACHE_BYTES: usize = 64 << 20;
/// A commit is forced to the disk after so many that were not, with so many rows, or so long after the last one that was: until then
/// the file grows, since nothing in it is used again.
const UNFORCED_COMMITS: u32 = 64;
const UNFORCED_ROWS: usize = 100_000;
const UNFORCED_TIME: Duration = Duration::from_secs(5);

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// `None` after a failure, until it is opened anew.
    database: RwLock<Option<Database>>,
    /// What readers share until something is committed: a transaction and its tables take longer to open than rows to read. Locked
    /// before the database where both are.
    shared: RwLock<Option<Arc<Snapshot>>>,
    unforced: Mutex<Unforced>,
}

#[derive(Debug)]
struct Unforced {
    commits: u32,
    rows: usize,
    since: Instant,
}

impl Unforced {
    fn none() -> Unforced {
        Unforced { commits: 0, rows: 0, since: Instant::now() }
    }
}

/// How a commit is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    Now,
    WhenDue,
}

impl Disk {
    /// Opens the file, or a new one in place of one that is damaged. Blocks.
    pub fn open(path: &Path) -> Result<Disk, IndexError> {
        let database = match open(path) {
            Err(IndexError::Damaged(why)) => {
                tracing::warn!(%why, "the ledger's index is damaged: it is built anew");
                set_aside(path)?;
                open(path)?
            }
            opened => opened?,
        };
        let unforced = Mutex::new(Unforced::none());
        Ok(Disk { path: path.to_owned(), database: RwLock::new(Some(database)), shared: RwLock::default(), unforced })
    }

    /// The rows as they are now, for a short look.
    pub fn shared(&self) -> Result<Arc<Snapshot>, IndexError> {
        if let Some(snapshot) = &*self.shared.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(snapshot.clone());
        }
        // Taken under the lock: a commit that it does not see forgets it afterwards.
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(snapshot) => Ok(snapshot.clone()),
            None => Ok(shared.insert(Arc::new(self.snapshot()?)).clone()),
        }
    }

    fn forget_shared(&self) {
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn snapshot(&self) -> Result<Snapshot, IndexError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        let transaction = guarded(|| Ok(database.begin_read()?))?;
        Ok(Snapshot { transaction, tables: std::array::from_fn(|_| OnceLock::new()) })
    }

    /// Makes the changes, all or none. Blocks.
    pub fn commit(&self, changes: Changes) -> Result<(), IndexError> {
        self.write(changes, Force::WhenDue)
    }

    /// Forces what was committed to the disk. Blocks.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.write(Changes::default(), Force::Now)
    }

    fn write(&self, changes: Changes, force: Force) -> Result<(), IndexError> {
        let written = self.write_changes(changes, force);
        self.forget_shared();
        written
    }

    fn write_changes(&self, changes: Changes, force: Force) -> Result<(), IndexError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        let is_forced = self.is_forced(force, changes.len());
        guarded(|| {
            let mut transaction = database.begin_write()?;
            if is_forced {
                // Recovery after a kill then does not walk the whole database (redb, "quick-repair").
                transaction.set_quick_repair(true);
            } else {
                transaction.set_durability(Durability::None)?;
            }
            for (table, changes) in changes.tables().filter(|(_, changes)| !changes.is_empty()) {
                let mut rows = transaction.open_table(definition(table))?;
                for (key, change) in changes {
                    match change {
                        Some(value) => rows.insert(key.as_slice(), value.as_slice())?,
                        None => rows.remove(key.as_slice())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        })
    }

    fn is_forced(&self, force: Force, rows: usize) -> bool {
        let mut unforced = self.unforced.lock().unwrap_or_else(PoisonError::into_inner);
        unforced.commits += 1;
        unforced.rows += rows;
        let is_due = unforced.commits > UNFORCED_COMMITS || unforced.rows > UNFORCED_ROWS || unforced.since.elapsed() > UNFORCED_TIME;
        let is_forced = force == Force::Now || is_due;
        if is_forced {
            *unforced = Unforced::none();
        }
        is_forced
    }

    /// Opens the file again, as it was when it was last forced to the disk. Blocks.
    pub fn reopen(&self) -> Result<(), IndexError> {
        // A transaction that is left would keep the file locked.
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = None;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *database = Some(open(&self.path)?);
        Ok(())
    }

    /// Throws everything away, the file included. Blocks.
    pub fn clear(&self) -> Result<(), IndexError> {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = None;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(IndexError::Disk(error.to_string())),
            _ => {}
        }
        *database = Some(open(&self.path)?);
        Ok(())
    }
}

fn closed() -> IndexError {
    IndexError::Disk("it is not open".into())
}

/// Where somebody may want to look at it.
fn set_aside(path: &Path) -> Result<(), IndexError> {
    fs::rename(path, path.with_extension("damaged")).map_err(|error| IndexError::Disk(error.to_string()))
}

fn open(path: &Path) -> Result<Database, IndexError> {
    guarded(|| {
        let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create(path)?;
        // A full disk can still be read.
        let tables = database.begin_read()?;
        let is_complete = Table::ALL.into_iter().all(|table| tables.open_table(definition(table)).is_ok());
        if !is_complete {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            for table in Table::ALL {
                transaction.open_table(definition(table))?;
            }
            transaction.commit()?;
        }
        Ok(database)
    })
}

/// The rows as they were; tables are opened when they are first read.
pub struct Snapshot {
    transaction: ReadTransaction,
    tables: [OnceLock<ReadOnlyTable<&'static [u8], &'static [u8]>>; Table::ALL.len()],
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    fn table(&self, table: Table) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, redb::Error> {
        let cell = &self.tables[table as usize];
        if cell.get().is_none() {
            // Another reader may have filled it meanwhile, with the same.
            let _ = cell.set(self.transaction.open_table(definition(table))?);
        }
        cell.get().ok_or(redb::Error::DatabaseClosed)
    }
}

impl Rows for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        guarded(|| Ok(self.table(table)?.get(key)?.map(|value| value.value().to_vec())))
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), IndexError> {
        // The visitor's own failure is not the database's.
        let mut failed = None;
        guarded(|| {
            for row in self.table(table)?.range::<&[u8]>((first(prefix, after), Bound::Unbounded))? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                match visit(key.value(), value.value()) {
                    Ok(Walk::On) => {}
                    Ok(Walk::Stop) => break,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            Ok(())
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// Runs a piece of work on the database. redb trusts a file that was closed in order, and panics where it finds it changed since:
/// that is damage, not a reason to end.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => IndexError::Disk("another process has it open".into()),
            redb::Error::Io(error) if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                IndexError::Disk(error.to_string())
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => IndexError::Disk(error.to_string()),
            error => IndexError::Damaged(error.to_string()),
        }),
        Err(_) => Err(IndexError::Damaged("a page is not what the index wrote".into())),
    }
}
