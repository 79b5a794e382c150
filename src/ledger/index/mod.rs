//! The embedded index: the fold of the ledger, in a database file or in memory. It holds nothing that the ledger does not: when it
//! is lost, damaged, of another format or of another ledger, it is thrown away and made anew.

mod disk;
pub(super) mod key;
mod memory;
mod rows;
mod value;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub(super) use rows::{Changes, Overlay, Rows, Table, Walk};
pub(super) use value::Value;

use super::identity::Origin;
use disk::Disk;
pub(super) use memory::Memory;

/// Changes with every meaning of the fold, so that an index of another program is not read as one of this.
pub(super) const FORMAT: u32 = 3;

/// Why the index cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is to be thrown away and made anew.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// To be tried again later.
    #[error("the index's disk refused: {0}")]
    Disk(String),
}

/// What mending did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    Kept,
    /// The ledger is to be folded from its beginning.
    Emptied,
}

#[derive(Debug)]
pub(super) struct Index {
    rows: Backend,
    /// What a reader or writer met: it ends the use of a database.
    suspect: Mutex<Option<IndexError>>,
    identity: Vec<u8>,
}

#[derive(Debug)]
enum Backend {
    Memory(Memory),
    Disk(Disk),
}

impl Index {
    /// The index of this ledger in a file, made anew when it is another's. Blocks.
    pub fn open(path: &Path, origin: &Origin) -> Result<Index, IndexError> {
        Index::over(Backend::Disk(Disk::open(path)?), origin)
    }

    pub fn in_memory(rows: Memory, origin: &Origin) -> Result<Index, IndexError> {
        Index::over(Backend::Memory(rows), origin)
    }

    fn over(rows: Backend, origin: &Origin) -> Result<Index, IndexError> {
        let identity = format!("{FORMAT} {origin}").into_bytes();
        let index = Index { rows, suspect: Mutex::default(), identity };
        if index.snapshot()?.get(Table::Identity, b"")? != Some(index.identity.clone()) {
            index.clear()?;
        }
        Ok(index)
    }

    /// All rows as they are now.
    pub fn snapshot(&self) -> Result<Box<dyn Rows>, IndexError> {
        self.watched(match &self.rows {
            Backend::Memory(memory) => Ok(Box::new(memory.snapshot())),
            Backend::Disk(disk) => disk.snapshot().map(|snapshot| Box::new(snapshot) as Box<dyn Rows>),
        })
    }

    /// Asks a consistent state; a failure is remembered.
    pub fn read<T>(&self, ask: impl FnOnce(&dyn Rows) -> Result<T, IndexError>) -> Result<T, IndexError> {
        self.watched(match &self.rows {
            Backend::Memory(memory) => ask(&memory.snapshot()),
            Backend::Disk(disk) => disk.shared().and_then(|snapshot| ask(snapshot.as_ref())),
        })
    }

    /// Makes the changes, all or none. Blocks.
    pub fn commit(&self, changes: Changes) -> Result<(), IndexError> {
        self.watched(match &self.rows {
            Backend::Memory(memory) => {
                memory.commit(changes);
                Ok(())
            }
            Backend::Disk(disk) => disk.commit(changes),
        })
    }

    /// Reads the rows and makes the changes that follow from them. Blocks; nobody else must change it meanwhile.
    pub fn change(&self, make: impl FnOnce(&mut Overlay<'_>) -> Result<(), IndexError>) -> Result<(), IndexError> {
        let snapshot = self.snapshot()?;
        let mut rows = Overlay::new(snapshot.as_ref());
        make(&mut rows)?;
        let changes = rows.into_changes();
        drop(snapshot);
        self.commit(changes)
    }

    /// Forces what was committed to the disk. Blocks.
    pub fn flush(&self) -> Result<(), IndexError> {
        match &self.rows {
            Backend::Memory(_) => Ok(()),
            Backend::Disk(disk) => disk.flush(),
        }
    }

    /// Throws everything away: the ledger is folded from its beginning again. Blocks.
    pub fn clear(&self) -> Result<(), IndexError> {
        self.begin_loading()?;
        self.finish_loading(Changes::default())
    }

    /// Throws everything away, and what it stands for too: a start before the loading is finished finds it to be made anew. Blocks.
    pub fn begin_loading(&self) -> Result<(), IndexError> {
        match &self.rows {
            Backend::Memory(memory) => {
                memory.clear();
                Ok(())
            }
            Backend::Disk(disk) => disk.clear(),
        }
    }

    /// Commits the last rows, by which it is complete. Blocks.
    pub fn finish_loading(&self, mut last: Changes) -> Result<(), IndexError> {
        last.put(Table::Identity, Vec::new(), self.identity.clone());
        self.commit(last)
    }

    /// Makes it usable again after a failure: what is damaged is thrown away, and a file that its disk refused is opened anew.
    /// Blocks.
    pub fn mend(&self) -> Result<Mended, IndexError> {
        let met = self.suspect.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.watched(match (met, &self.rows) {
            (None, _) => Ok(Mended::Kept),
            (Some(IndexError::Disk(_)), Backend::Disk(disk)) => disk.reopen().map(|()| Mended::Kept),
            (Some(why), _) => {
                tracing::warn!(%why, "the ledger's index is thrown away");
                self.clear().map(|()| Mended::Emptied)
            }
        })
    }

    /// Something was met that ends the use of the database as it is.
    pub fn suspect(&self, why: IndexError) {
        *self.suspect.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Whether its work can hold up a thread.
    pub fn blocks(&self) -> bool {
        matches!(self.rows, Backend::Disk(_))
    }

    fn watched<T>(&self, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(why) = &outcome {
            self.suspect(why.clone());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &Index, key: &str) {
        let snapshot = index.snapshot().unwrap();
        let mut overlay = Overlay::new(snapshot.as_ref());
        overlay.put(Table::Tags, key.into(), b"1".to_vec());
        let changes = overlay.into_changes();
        drop(snapshot);
        index.commit(changes).unwrap();
    }

    fn keys(index: &Index) -> Vec<Vec<u8>> {
        index.read(|rows| rows.suffixes(Table::Tags, b"")).unwrap()
    }

    #[test]
    fn what_was_forced_is_there_again_and_another_ledgers_index_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.redb");
        let origin = Origin::new("eu", "1");
        let index = Index::open(&path, &origin).unwrap();
        put(&index, "a");
        index.flush().unwrap();
        put(&index, "b");
        drop(index);
        let kept = keys(&Index::open(&path, &origin).unwrap());
        assert!(kept.starts_with(&[b"a".to_vec()]), "{kept:?}");
        assert!(keys(&Index::open(&path, &Origin::new("eu", "2")).unwrap()).is_empty());
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.redb");
        let origin = Origin::new("eu", "1");
        for garbage in [b"not a database at all".repeat(1_000), Vec::from([0; 8_192])] {
            std::fs::write(&path, garbage).unwrap();
            let index = Index::open(&path, &origin).unwrap();
            put(&index, "a");
            assert_eq!(keys(&index), [b"a".to_vec()]);
        }
        // Flipped pages in a file that looks whole: told as damage, then made anew.
        let index = Index::open(&path, &origin).unwrap();
        for number in 0..2_000 {
            put(&index, &format!("{number:05}"));
        }
        index.flush().unwrap();
        drop(index);
        let mut bytes = std::fs::read(&path).unwrap();
        let start = bytes.len() / 8;
        bytes[start..].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let index = Index::open(&path, &origin).unwrap();
        if index.read(|rows| rows.suffixes(Table::Tags, b"")).is_err() {
            index.mend().unwrap();
        }
        put(&index, "z");
        assert!(keys(&index).contains(&b"z".to_vec()));
    }

    #[test]
    fn both_backends_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::new("eu", "1");
        let both = [Index::open(&dir.path().join("ledger.redb"), &origin).unwrap(), Index::in_memory(Memory::default(), &origin).unwrap()];
        let [disk, memory] = both.map(|index| {
            for key in ["b", "a", "ab", "c"] {
                put(&index, key);
            }
            (keys(&index), index.read(|rows| rows.suffixes(Table::Tags, b"a")).unwrap(), index.blocks())
        });
        assert_eq!((disk.0, disk.1), (memory.0, memory.1));
        assert!(disk.2 && !memory.2);
    }
}
