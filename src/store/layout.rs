//! Where everything lies below the cache's folder, and the steps that make a file durable there.
//!
//! ```text
//! format                       one byte: the version of this layout
//! blobs/sha256/ab/<hex>        whole, verified, immutable; `ab` are the first two digits of <hex>
//! partial/<number>             what is being written; emptied at start
//! quarantine/<algorithm>-<hex> files that did not match their name, the newest few
//! index.redb                   see `index`
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::stamp::Stamp;
use crate::oci::{Algorithm, Digest};

/// The version of the layout.
const FORMAT: u8 = 1;
/// Files that stay in quarantine for somebody to look at.
const QUARANTINE_FILES: usize = 8;
/// A larger file that does not match its name is removed at once.
const QUARANTINE_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    next_partial: AtomicU64,
}

/// The folders that blobs are spread over, by algorithm and first byte: a scan does one at a time.
pub(super) const BUCKETS: u16 = 512;

/// A bucket by its number.
pub(super) fn bucket(number: u16) -> (Algorithm, u8) {
    (if number < 256 { Algorithm::Sha256 } else { Algorithm::Sha512 }, (number % 256) as u8)
}

impl Layout {
    pub fn new(root: PathBuf) -> Layout {
        Layout { root, next_partial: AtomicU64::new(0) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folders.
    pub fn prepare(&self) -> io::Result<()> {
        for folder in ["blobs/sha256", "blobs/sha512", "partial", "quarantine"] {
            DirBuilder::new().recursive(true).mode(0o750).create(self.root.join(folder))?;
        }
        Ok(())
    }

    /// The version of the layout that is there, as far as it is another one; a new folder gets this version.
    pub fn other_format(&self) -> io::Result<Option<u8>> {
        let path = self.root.join("format");
        match fs::read(&path) {
            Ok(bytes) if bytes.first() == Some(&FORMAT) => Ok(None),
            // An empty file is left by a crash between its creation and its first byte.
            Ok(bytes) if !bytes.is_empty() => Ok(bytes.first().copied()),
            Ok(_) => fs::write(&path, [FORMAT]).map(|()| None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(&path, [FORMAT]).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Removes what an earlier process left half written.
    pub fn empty_partial(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("partial"))? {
            // Best effort: a name that is left is overwritten.
            let _ = fs::remove_file(entry?.path());
        }
        Ok(())
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
    }

    /// A new name in `partial/`.
    pub fn partial(&self) -> PathBuf {
        self.root.join("partial").join(self.next_partial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Gives a written and synced file its name, for good: rename, then fsync of the folder (and of its parent when it is new).
    pub fn name(&self, partial: &Path, digest: &Digest) -> io::Result<()> {
        let path = self.blob(digest);
        let folder = path.parent().unwrap_or(&self.root);
        if let Err(error) = fs::rename(partial, &path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
            sync_folder(folder.parent().unwrap_or(&self.root))?;
            fs::rename(partial, &path)?;
        }
        // A name that may not last is taken back, so that nothing lies there uncounted.
        sync_folder(folder).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })
    }

    /// Takes a file whose bytes are not what its name says out of the way. Another file that has taken its place stays.
    pub fn quarantine(&self, digest: &Digest, stamp: Stamp) -> io::Result<()> {
        let path = self.blob(digest);
        if fs::metadata(&path)?.ino() != stamp.inode {
            return Ok(());
        }
        let folder = self.root.join("quarantine");
        let kept = stamp.size_bytes <= QUARANTINE_FILE_BYTES
            && fs::rename(&path, folder.join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))).is_ok();
        if !kept {
            return fs::remove_file(&path);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // The rename above changed this time.
            let found = entry.metadata()?;
            files.push(((found.ctime(), found.ctime_nsec()), entry.path()));
        }
        files.sort();
        for (_, path) in files.iter().rev().skip(QUARANTINE_FILES) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The digests in a bucket, in no order.
    pub fn list(&self, algorithm: Algorithm, first: u8) -> io::Result<Vec<Digest>> {
        let folder = self.root.join("blobs").join(algorithm.as_str()).join(format!("{first:02x}"));
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let digest = entry?.file_name().to_str().and_then(|hex| format!("{}:{hex}", algorithm.as_str()).parse::<Digest>().ok());
            found.extend(digest.filter(|digest| digest.as_bytes().first() == Some(&first)));
        }
        Ok(found)
    }
}

/// Makes the names in a folder durable (fsync(2): a file's own fsync does not).
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("cache"));
        layout.prepare().unwrap();
        (dir, layout)
    }

    #[test]
    fn a_file_gets_its_name_and_is_listed_in_its_bucket() {
        let (_dir, layout) = layout();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"x");
            let partial = layout.partial();
            fs::write(&partial, b"x").unwrap();
            layout.name(&partial, &digest).unwrap();
            assert_eq!(fs::read(layout.blob(&digest)).unwrap(), b"x");
            assert!(layout.blob(&digest).to_string_lossy().contains(&format!("/{}/{}/", algorithm.as_str(), &digest.hex()[..2])));
            let found: Vec<Digest> =
                (0..BUCKETS).map(bucket).filter(|b| b.0 == algorithm).flat_map(|(a, first)| layout.list(a, first).unwrap()).collect();
            assert_eq!(found, [digest]);
        }
    }

    #[test]
    fn another_format_is_told_and_a_crash_in_between_is_not_one() {
        let (_dir, layout) = layout();
        assert_eq!(layout.other_format().unwrap(), None);
        assert_eq!(layout.other_format().unwrap(), None);
        let path = layout.root.join("format");
        fs::write(&path, []).unwrap();
        assert_eq!(layout.other_format().unwrap(), None);
        assert_eq!(fs::read(&path).unwrap(), [FORMAT]);
        fs::write(&path, [9]).unwrap();
        assert_eq!(layout.other_format().unwrap(), Some(9));
    }

    #[test]
    fn the_quarantine_is_bounded_and_spares_a_new_file() {
        let (_dir, layout) = layout();
        let mut last = None;
        for number in 0..12_u8 {
            let digest = Digest::sha256(&[number]);
            let partial = layout.partial();
            fs::write(&partial, b"wrong").unwrap();
            layout.name(&partial, &digest).unwrap();
            let stamp = Stamp::of(&File::open(layout.blob(&digest)).unwrap()).unwrap().0;
            layout.quarantine(&digest, stamp).unwrap();
            assert!(!layout.blob(&digest).exists());
            last = Some((digest, stamp));
        }
        assert_eq!(fs::read_dir(layout.root.join("quarantine")).unwrap().count(), QUARANTINE_FILES);
        let (digest, old) = last.unwrap();
        fs::write(layout.blob(&digest), b"new").unwrap();
        layout.quarantine(&digest, old).unwrap();
        assert!(layout.blob(&digest).exists());
    }
}
