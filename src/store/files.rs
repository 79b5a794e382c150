//! The open files: a bounded table of blobs whose bytes this process has verified, or is verifying.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex};

use super::content::Content;
use super::growing::Growing;
use super::lock;
use super::stamp::{Linked, Stamp};
use crate::oci::Digest;

/// Files that stay open though nobody reads them; fewer where the process may have few descriptors.
const OPEN_FILES: usize = 4_096;
/// The part of the process's descriptors that these may take: one in so many.
const DESCRIPTORS_PART: u64 = 4;
/// How many entries in use are passed over, at most, to find one that can be closed.
const PASSED_OVER: usize = 64;

#[derive(Debug)]
pub(super) struct OpenFiles {
    table: Mutex<Table>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Digest, Entry>,
    /// From the least recently used.
    order: BTreeMap<u64, Digest>,
    next_use: u64,
}

#[derive(Debug)]
struct Entry {
    file: Arc<File>,
    stamp: Stamp,
    /// Present until the file is verified.
    verifying: Option<Arc<Growing>>,
    last_use: u64,
}

/// What the table knows of a digest.
pub(super) enum Lookup {
    Found(Content),
    Unknown,
    /// The file was deleted or changed since it was opened.
    Outdated,
}

impl Entry {
    fn content(&self) -> Content {
        match &self.verifying {
            Some(growing) => Content::from_growing(growing.clone()),
            None => Content::from_file(self.file.clone(), self.stamp),
        }
    }

    /// A reader or a verification has it.
    fn in_use(&self) -> bool {
        self.verifying.is_some() || Arc::strong_count(&self.file) > 1
    }
}

impl OpenFiles {
    pub fn new() -> OpenFiles {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = descriptors.map_or(OPEN_FILES, |count| usize::try_from(count / DESCRIPTORS_PART).unwrap_or(OPEN_FILES));
        OpenFiles { table: Mutex::default(), limit: limit.min(OPEN_FILES) }
    }

    pub fn get(&self, digest: &Digest) -> Lookup {
        let mut table = lock(&self.table);
        let Some(entry) = table.entries.get(digest) else { return Lookup::Unknown };
        if !matches!(Stamp::of(&entry.file), Ok((stamp, Linked::Yes)) if stamp == entry.stamp) {
            table.remove(digest);
            return Lookup::Outdated;
        }
        let content = entry.content();
        table.touch(digest);
        Lookup::Found(content)
    }

    /// Enters a verified file in place of what was there.
    pub fn insert(&self, digest: Digest, file: Arc<File>, stamp: Stamp) {
        lock(&self.table).insert(digest, Entry { file, stamp, verifying: None, last_use: 0 }, self.limit);
    }

    /// Enters a file that is to be verified, unless another look-up has entered the same file meanwhile. `Some` asks the caller to
    /// verify it.
    pub fn insert_unverified(&self, digest: Digest, file: Arc<File>, stamp: Stamp) -> (Content, Option<Arc<Growing>>) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get(&digest).filter(|entry| entry.stamp == stamp) {
            return (entry.content(), None);
        }
        let growing = Arc::new(Growing::of_file(file.clone(), stamp.size_bytes));
        table.insert(digest, Entry { file, stamp, verifying: Some(growing.clone()), last_use: 0 }, self.limit);
        (Content::from_growing(growing.clone()), Some(growing))
    }

    /// The verification of `growing` has found the file good.
    pub fn verified(&self, digest: &Digest, growing: &Arc<Growing>) {
        if let Some(entry) = lock(&self.table).entries.get_mut(digest)
            && entry.verifying.as_ref().is_some_and(|other| Arc::ptr_eq(other, growing))
        {
            entry.verifying = None;
        }
    }

    /// Forgets the file with this stamp; another one of the same digest stays.
    pub fn remove_exactly(&self, digest: &Digest, stamp: Stamp) {
        let mut table = lock(&self.table);
        if table.entries.get(digest).is_some_and(|entry| entry.stamp == stamp) {
            table.remove(digest);
        }
    }

    /// Forgets a file so that it can be deleted; false when somebody uses it.
    pub fn release(&self, digest: &Digest) -> bool {
        let mut table = lock(&self.table);
        let free = table.entries.get(digest).is_none_or(|entry| !entry.in_use());
        if free {
            table.remove(digest);
        }
        free
    }
}

impl Table {
    fn insert(&mut self, digest: Digest, mut entry: Entry, limit: usize) {
        self.remove(&digest);
        entry.last_use = self.next_use;
        self.order.insert(self.next_use, digest);
        self.next_use += 1;
        self.entries.insert(digest, entry);
        for _ in 0..PASSED_OVER {
            if self.entries.len() <= limit {
                break;
            }
            let Some((_, oldest)) = self.order.first_key_value().map(|(at, digest)| (*at, *digest)) else { break };
            // What is in use cannot be closed; its readers are bounded by the connections.
            if self.entries.get(&oldest).is_some_and(Entry::in_use) {
                self.touch(&oldest);
            } else {
                self.remove(&oldest);
            }
        }
    }

    fn touch(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.get_mut(digest) {
            self.order.remove(&entry.last_use);
            entry.last_use = self.next_use;
            self.order.insert(self.next_use, *digest);
            self.next_use += 1;
        }
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.order.remove(&entry.last_use);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Arc<File>, Stamp) {
        let file = tempfile::NamedTempFile::new().unwrap().into_file();
        let stamp = Stamp::of(&file).unwrap().0;
        (Arc::new(file), stamp)
    }

    fn known(files: &OpenFiles, name: &[u8]) -> bool {
        lock(&files.table).entries.contains_key(&Digest::sha256(name))
    }

    #[test]
    fn the_table_closes_the_least_recently_used_that_nobody_reads() {
        let files = OpenFiles { table: Mutex::default(), limit: 2 };
        let (read, stamp) = file();
        files.insert(Digest::sha256(b"read"), read.clone(), stamp);
        for name in [b"one", b"two", b"six"] {
            let (file, stamp) = file();
            files.insert(Digest::sha256(name), file, stamp);
        }
        assert!(known(&files, b"read") && known(&files, b"six"));
        assert!(!known(&files, b"one") && !known(&files, b"two"));
        assert!(!files.release(&Digest::sha256(b"read")));
        drop(read);
        assert!(files.release(&Digest::sha256(b"read")));
        assert!(!known(&files, b"read"));
        assert_eq!(lock(&files.table).order.len(), 1);
    }

    #[test]
    fn a_deleted_file_is_outdated() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let file = named.reopen().unwrap();
        let (files, digest) = (OpenFiles::new(), Digest::sha256(b"x"));
        let stamp = Stamp::of(&file).unwrap().0;
        files.insert(digest, Arc::new(file), stamp);
        assert!(matches!(files.get(&digest), Lookup::Found(_)));
        drop(named);
        assert!(matches!(files.get(&digest), Lookup::Outdated));
        assert!(matches!(files.get(&digest), Lookup::Unknown));
    }
}
