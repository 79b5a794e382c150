//! The index in memory: for `memory://`, for trials and for simulation.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use super::IndexError;
use super::rows::{Changes, Rows, Table, Visit, Walk, first};

type Tables = [BTreeMap<Vec<u8>, Vec<u8>>; Table::ALL.len()];

/// Clones share their rows.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Arc<Tables>>>);

/// The rows as they were.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Tables>);

impl Memory {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub fn commit(&self, changes: Changes) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Copies them only while a snapshot of before is still read.
        let tables = Arc::make_mut(&mut tables);
        for (table, changes) in changes.tables() {
            let rows = &mut tables[table as usize];
            for (key, change) in changes {
                match change {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
    }

    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// A copy that goes its own way: what a crash leaves.
    #[cfg(test)]
    pub fn fork(&self) -> Memory {
        Memory(Arc::new(Mutex::new(self.snapshot().0)))
    }
}

impl Rows for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0[table as usize].get(key).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), IndexError> {
        for (key, value) in self.0[table as usize].range::<[u8], _>((first(prefix, after), Bound::Unbounded)) {
            if !key.starts_with(prefix) || visit(key, value)? == Walk::Stop {
                break;
            }
        }
        Ok(())
    }
}
