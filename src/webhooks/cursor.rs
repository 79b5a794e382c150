//! `webhooks.json` in the data folder: up to where each receiver has been told, and under which names this edge has written.
//!
//! ```json
//! {"version": 1, "ledger": "eu.01J...", "nodes": ["01J..."], "marks": {"ci": {"segment": 7, "import": 3}}}
//! ```
//! It is replaced as a whole. Without it, or with one of another ledger, telling begins with what comes next.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ledger::Origin;

const VERSION: u32 = 1;
/// Names of this edge that are remembered, each of one process: what it had committed when it ended is told by a later one.
const MAX_NODES: usize = 32;
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Up to which own segment and which import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub segment: u64,
    pub import: u64,
}

impl Mark {
    pub fn max(self, other: Mark) -> Mark {
        Mark { segment: self.segment.max(other.segment), import: self.import.max(other.import) }
    }

    pub fn min(self, other: Mark) -> Mark {
        Mark { segment: self.segment.min(other.segment), import: self.import.min(other.import) }
    }

    /// The mark of an event that came from one of them has `u64::MAX` in the place of the other.
    pub fn of_segment(segment: u64) -> Mark {
        Mark { segment, import: u64::MAX }
    }

    pub fn of_import(import: u64) -> Mark {
        Mark { segment: u64::MAX, import }
    }

    /// The one before it.
    pub fn before(self) -> Mark {
        let before = |number: u64| if number == u64::MAX { number } else { number.saturating_sub(1) };
        Mark { segment: before(self.segment), import: before(self.import) }
    }

    /// Whether something that came from `other` is behind this.
    pub fn has(self, other: Mark) -> bool {
        let has = |own: u64, other: u64| other == u64::MAX || own >= other;
        has(self.segment, other.segment) && has(self.import, other.import)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cursor {
    version: u32,
    ledger: String,
    nodes: Vec<String>,
    pub marks: BTreeMap<String, Mark>,
    /// The file says the same.
    #[serde(skip)]
    is_written: bool,
}

impl Cursor {
    /// What stands in the file, if it is of this ledger; this edge's name is among the nodes then.
    pub fn open(path: &Path, origin: &Origin, node: &str) -> Cursor {
        let found: Option<Cursor> = read(path).filter(|found| found.version == VERSION && found.ledger == origin.to_string());
        let mut cursor = found.unwrap_or(Cursor { version: VERSION, ledger: origin.to_string(), ..Cursor::default() });
        if !cursor.wrote(node) {
            cursor.nodes.push(node.to_owned());
        }
        let surplus = cursor.nodes.len().saturating_sub(MAX_NODES);
        cursor.nodes.drain(..surplus);
        cursor
    }

    /// Whether this edge had this name.
    pub fn wrote(&self, node: &str) -> bool {
        self.nodes.iter().any(|name| name == node)
    }

    /// From now on these are the marks: written down, if anything has changed.
    pub fn note(&mut self, path: &Path, marks: BTreeMap<String, Mark>) -> io::Result<()> {
        if marks.is_empty() && self.marks.is_empty() || self.is_written && self.marks == marks {
            return Ok(());
        }
        (self.marks, self.is_written) = (marks, false);
        self.write(path)?;
        self.is_written = true;
        Ok(())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(beside, path)
    }
}

fn read(path: &Path) -> Option<Cursor> {
    if std::fs::metadata(path).ok()?.len() > MAX_FILE_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_for_its_ledger_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("webhooks.json");
        let origin = Origin::new("eu", "01");
        let mut first = Cursor::open(&path, &origin, "a");
        first.note(&path, BTreeMap::new()).unwrap();
        assert!(!path.exists(), "there is nothing to remember");
        first.note(&path, BTreeMap::from([("ci".into(), Mark { segment: 7, import: 3 })])).unwrap();
        let second = Cursor::open(&path, &origin, "b");
        assert_eq!(second.marks, first.marks);
        assert!(second.wrote("a") && second.wrote("b") && !second.wrote("c"));
        assert!(Cursor::open(&path, &Origin::new("eu", "02"), "b").marks.is_empty());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Cursor::open(&path, &origin, "b").marks.is_empty());
    }

    #[test]
    fn the_names_of_old_processes_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, origin) = (folder.path().join("webhooks.json"), Origin::new("eu", "01"));
        for number in 0..100 {
            Cursor::open(&path, &origin, &number.to_string()).write(&path).unwrap();
        }
        let cursor = Cursor::open(&path, &origin, "last");
        assert_eq!((cursor.nodes.len(), cursor.wrote("99"), cursor.wrote("5")), (MAX_NODES, true, false));
    }

    #[test]
    fn a_mark_has_what_came_before_it() {
        let at = Mark { segment: 7, import: 3 };
        for (other, has) in
            [(Mark::of_segment(7), true), (Mark::of_segment(8), false), (Mark::of_import(3), true), (Mark::of_import(4), false)]
        {
            assert_eq!(at.has(other), has, "{other:?}");
        }
        assert_eq!(at.min(Mark::of_segment(5).before()), Mark { segment: 4, import: 3 });
    }
}
