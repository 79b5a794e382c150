//! Whether the disk takes writes, and the few calls that tell.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock;
use crate::metrics::Metrics;

/// How long a disk that refused a write is left alone.
pub(super) const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The size of the file system that has a folder, and what of it a process without privileges may still take, in bytes.
pub(super) fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let told = rustix::fs::statvfs(dir)?;
    Ok((told.f_blocks.saturating_mul(told.f_frsize), told.f_bavail.saturating_mul(told.f_frsize)))
}

/// The state of the disk as the last write told it.
#[derive(Debug)]
pub(super) struct Disk {
    refused_at: Mutex<Option<Instant>>,
    metrics: Metrics,
    #[cfg(test)]
    pub fault: Mutex<Option<Fault>>,
}

/// What a test makes the disk do.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No space after so many bytes of a file.
    FullAt(u64),
    Sync,
    ReadOnly,
}

impl Disk {
    pub fn new(metrics: Metrics) -> Disk {
        Disk {
            refused_at: Mutex::default(),
            metrics,
            #[cfg(test)]
            fault: Mutex::default(),
        }
    }

    /// False while the disk is known to take no writes; true again, for a try, some seconds later.
    pub fn worth_a_try(&self) -> bool {
        lock(&self.refused_at).is_none_or(|at| at.elapsed() >= TRY_AGAIN_AFTER)
    }

    /// Whether the last write failed, some seconds ago.
    pub fn probe_is_due(&self) -> bool {
        lock(&self.refused_at).is_some_and(|at| at.elapsed() >= TRY_AGAIN_AFTER)
    }

    /// A write failed: what comes now is not kept.
    pub fn refused(&self, doing: &'static str, why: &dyn std::fmt::Display) {
        if lock(&self.refused_at).replace(Instant::now()).is_none() {
            tracing::warn!(doing, %why, "the cache's disk takes no writes: blobs pass through uncached");
        }
        self.metrics.disk_unwritable.set(1);
    }

    /// A write succeeded.
    pub fn took(&self) {
        if lock(&self.refused_at).take().is_some() {
            tracing::info!("the cache's disk takes writes again");
        }
        self.metrics.disk_unwritable.set(0);
    }

    pub fn create(&self, path: &Path) -> io::Result<File> {
        #[cfg(test)]
        if *lock(&self.fault) == Some(Fault::ReadOnly) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        // A name in partial/ is used once in a process; what an earlier one left there is overwritten.
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o640).open(path)
    }

    /// Writes what the disk takes of `bytes` and tells how much that was, with the error that stopped it.
    pub fn write(&self, file: &File, bytes: &[u8], offset: u64) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            #[cfg(test)]
            let rest = match *lock(&self.fault) {
                Some(Fault::FullAt(full)) if offset + done as u64 >= full => return (done, Err(io::ErrorKind::StorageFull.into())),
                Some(Fault::FullAt(full)) => &rest[..rest.len().min((full - offset) as usize - done)],
                _ => rest,
            };
            match file.write_at(rest, offset + done as u64) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    /// Once. After an error nobody knows what is on the disk, so the file is worthless (fsync(2), "EIO").
    pub fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        if *lock(&self.fault) == Some(Fault::Sync) {
            return Err(io::Error::other("injected"));
        }
        file.sync_all()
    }

    /// Writes, reads and deletes a tiny file.
    pub fn probe(&self, path: &Path) -> io::Result<()> {
        let outcome = self.create(path).and_then(|file| {
            const WORDS: &[u8] = b"outport was here";
            self.write(&file, WORDS, 0).1?;
            let mut back = [0; WORDS.len()];
            file.read_exact_at(&mut back, 0)?;
            if back == WORDS { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        let removed = std::fs::remove_file(path);
        outcome.and(removed)
    }
}
