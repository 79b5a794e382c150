//! The files of the record on this node's disk, until the bucket has them. Blocking.
//!
//! A file is written under `NAME.open` and gets the name `NAME.jsonl` when it is closed; `NAME` is a ULID with the time of its first
//! entry. All its entries are of one hour. What a killed process left open is closed by the next one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ulid::Ulid;

const OPEN: &str = "open";
const CLOSED: &str = "jsonl";
/// The file with this node's name in the record.
const NODE: &str = "node";

/// In the data folder, `audit/` or `log/`.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    dir: PathBuf,
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) file: Ulid,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) is_closed: bool,
}

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Folder {
        Folder { dir }
    }

    /// Whether an earlier process recorded something.
    pub(super) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Makes the folder, closes what an earlier process left open, and tells the node's name: always the same in one folder, as long as
    /// its disk can be read and written.
    pub(super) fn prepare(&self, fresh: Ulid) -> io::Result<Ulid> {
        self.make()?;
        for left in self.files()?.into_iter().filter(|found| !found.is_closed) {
            if left.size_bytes == 0 {
                std::fs::remove_file(&left.path)?;
            } else {
                self.close(left.file)?;
            }
        }
        let path = self.dir.join(NODE);
        if let Some(node) = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(node);
        }
        std::fs::write(&path, format!("{fresh}\n"))?;
        Ok(fresh)
    }

    /// Nobody else reads what is recorded.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// Begins a file.
    pub(super) fn create(&self, file: Ulid) -> io::Result<File> {
        self.make()?;
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.path(file, OPEN))
    }

    /// From now on it changes no more.
    pub(super) fn close(&self, file: Ulid) -> io::Result<()> {
        std::fs::rename(self.path(file, OPEN), self.path(file, CLOSED))?;
        File::open(&self.dir)?.sync_all()
    }

    /// Gives a closed file another name.
    pub(super) fn rename(&self, file: Ulid, new: Ulid) -> io::Result<()> {
        std::fs::rename(self.path(file, CLOSED), self.path(new, CLOSED))
    }

    /// Takes a file away; that it is gone already is fine.
    pub(super) fn remove(&self, found: &Found) -> io::Result<()> {
        match std::fs::remove_file(&found.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All files, the oldest first.
    pub(super) fn files(&self) -> io::Result<Vec<Found>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut files: Vec<Found> = entries.filter_map(|entry| found(&entry.ok()?.path())).collect();
        files.sort_unstable();
        Ok(files)
    }

    /// Those that wait for the bucket.
    pub(super) fn closed(&self) -> io::Result<Vec<Found>> {
        Ok(self.files()?.into_iter().filter(|found| found.is_closed).collect())
    }

    fn path(&self, file: Ulid, suffix: &str) -> PathBuf {
        self.dir.join(format!("{file}.{suffix}"))
    }
}

fn found(path: &Path) -> Option<Found> {
    let is_closed = match path.extension()?.to_str()? {
        OPEN => false,
        CLOSED => true,
        _ => return None,
    };
    let file = path.file_stem()?.to_str()?.parse().ok()?;
    // It may have gone meanwhile.
    let size_bytes = path.metadata().ok()?.len();
    Some(Found { file, path: path.to_owned(), size_bytes, is_closed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_left_open_is_closed_and_the_node_keeps_its_name() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().join("talk"));
        let (one, two, empty) = (Ulid::from_parts(1, 1), Ulid::from_parts(2, 1), Ulid::from_parts(3, 1));
        assert_eq!(folder.prepare(one).unwrap(), one);
        for file in [two, one] {
            folder.create(file).unwrap().write_all(b"{}\n").unwrap();
        }
        folder.create(empty).unwrap();
        folder.close(two).unwrap();
        std::fs::write(place.path().join("talk/readme.txt"), "").unwrap();
        let open = |folder: &Folder| folder.files().unwrap().iter().map(|found| (found.file, found.is_closed)).collect::<Vec<_>>();
        assert_eq!(open(&folder), [(one, false), (two, true), (empty, false)]);
        assert_eq!(folder.prepare(two).unwrap(), one, "its name is the one that it began with");
        assert_eq!(open(&folder), [(one, true), (two, true)]);
        assert!(folder.create(one).is_ok(), "open and closed are different files");
    }
}
