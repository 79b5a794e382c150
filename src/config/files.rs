//! Reads the configuration's files, with a bound on their size, and remembers in which state each was found.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The largest configuration, certificate or secret file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What tells two states of a file apart: where it lies (a symbolic link is followed, so a swapped link shows), its size, and when its
/// content and its inode changed. `None` for a file that cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<[i128; 7]>);

impl Stamp {
    /// The state of the file now.
    pub(super) fn of(path: &Path) -> Stamp {
        Stamp(std::fs::metadata(path).ok().as_ref().map(Stamp::fields))
    }

    fn fields(found: &Metadata) -> [i128; 7] {
        [
            found.dev().into(),
            found.ino().into(),
            found.size().into(),
            found.mtime().into(),
            found.mtime_nsec().into(),
            found.ctime().into(),
            found.ctime_nsec().into(),
        ]
    }
}

/// Who may read a file, besides its owner and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    ByEveryone,
    ByFew,
}

/// The files that were asked for, each with its state just before it was read: a later change always shows.
#[derive(Debug, Default)]
pub(super) struct Files {
    seen: Vec<(PathBuf, Stamp)>,
}

impl Files {
    /// The whole file as text. The error is a sentence for the operator.
    pub(super) fn read(&mut self, path: &Path) -> Result<(String, Readable), String> {
        self.seen.push((path.to_owned(), Stamp::of(path)));
        read_bounded(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    pub(super) fn into_seen(self) -> Vec<(PathBuf, Stamp)> {
        self.seen
    }
}

fn read_bounded(path: &Path) -> io::Result<(String, Readable)> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let file = File::open(path)?;
    let readable = if file.metadata()?.mode() & 0o004 == 0 { Readable::ByFew } else { Readable::ByEveryone };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {}", super::ByteSize(MAX_FILE_BYTES))));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    Ok((text, readable))
}
