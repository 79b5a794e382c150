//! Whether a file is the one that it was when it was verified.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Tells whether a file is what it was: a write through the file system changes at least the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size_bytes: u64,
    pub inode: u64,
    modified_s: i64,
    modified_ns: i64,
}

/// Whether a file still has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linked {
    Yes,
    Deleted,
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<(Stamp, Linked)> {
        let found = file.metadata()?;
        let stamp = Stamp { size_bytes: found.len(), inode: found.ino(), modified_s: found.mtime(), modified_ns: found.mtime_nsec() };
        Ok((stamp, if found.nlink() == 0 { Linked::Deleted } else { Linked::Yes }))
    }
}
