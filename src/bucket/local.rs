//! A bucket that is a folder of this machine: streamed uploads, and where its files lie.
//!
//! The client's own upload syncs a whole file at its end, which for a large one takes longer than a push may; this one has the disk
//! write while bytes arrive. Small objects go through the client, which syncs file and folder and creates by hard link, as this
//! does. A name that ends in `#` and digits is a file on its way in; the client's listings leave such names out.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::error::BucketError;
use super::wire::{Verb, Wire, no_answer};
use crate::clock::{Clock, Timestamp};

/// What is gathered for one write, and is in memory at most twice for each upload.
const WRITE_BYTES: usize = 1 << 20;
/// How much is written before the disk is made to keep it, so that little is left to do at the end.
const SYNC_BYTES: u64 = 64 << 20;

/// The bucket's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: Arc<PathBuf>,
    /// Device and number of the folder that was opened.
    identity: (u64, u64),
}

impl Folder {
    /// `root` is absolute and without links, as the client has it.
    pub(super) fn open(root: PathBuf) -> io::Result<Folder> {
        let identity = identity(&std::fs::metadata(&root)?);
        Ok(Folder { root: Arc::new(root), identity })
    }

    pub(super) fn file(&self, path: &object_store::path::Path) -> PathBuf {
        self.root.join(path.as_ref())
    }

    /// Fails if the folder is not the one that was opened: its disk was taken away. Writing would begin an empty bucket in its place,
    /// and reading would find nothing in it.
    pub(super) async fn is_in_place(&self) -> Result<(), BucketError> {
        match tokio::fs::metadata(&*self.root).await {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Ok(_) => Err(BucketError::unavailable(format!("{} is another folder than it was", self.root.display()))),
            Err(error) => Err(BucketError::unavailable(format!("{}: {error}", self.root.display()))),
        }
    }

    /// Removes files on their way in below a folder that nobody has written to for so long. Blocking.
    pub(super) fn remove_staged(&self, below: &object_store::path::Path, older_than: Duration, clock: &Clock) -> io::Result<usize> {
        let mut folders = vec![self.file(below)];
        let mut removed = 0;
        while let Some(folder) = folders.pop() {
            for entry in read_folder(&folder)? {
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if is_staged(&path) && age(&path, clock).is_some_and(|age| age > older_than) {
                    std::fs::remove_file(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

fn identity(found: &std::fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn read_folder(folder: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        // It was removed meanwhile, or never was.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_staged(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// How long ago a file was written to; `None` once it is gone.
fn age(path: &Path, clock: &Clock) -> Option<Duration> {
    let modified = std::fs::metadata(path).and_then(|found| found.modified()).ok()?;
    let since_epoch = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(clock.now().since(Timestamp::default().plus(since_epoch)))
}

/// Content on its way into a file.
pub(super) struct FileUpload {
    wire: Wire,
    staged: Arc<Staged>,
    target: PathBuf,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    written: u64,
    synced: u64,
    /// One write and one sync at a time.
    writing: Option<JoinHandle<io::Result<()>>>,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// A file under its passing name. Dropping it removes the name.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FileUpload {
    pub(super) async fn begin(wire: Wire, folder: &Folder, path: &object_store::path::Path) -> Result<FileUpload, BucketError> {
        let started = Instant::now();
        let target = folder.file(path);
        let staging = target.clone();
        let outcome = match folder.is_in_place().await {
            Ok(()) => in_time(&wire, blocking(move || stage(&staging))).await,
            Err(error) => Err(error),
        };
        wire.record(Verb::Begin, &outcome, started);
        let (staged, pending) = (Arc::new(outcome?), Vec::new());
        Ok(FileUpload { wire, staged, target, pending, pending_bytes: 0, written: 0, synced: 0, writing: None, syncing: None })
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), BucketError> {
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        if self.pending_bytes >= WRITE_BYTES {
            let wire = self.wire.clone();
            in_time(&wire, self.flush()).await?;
        }
        Ok(())
    }

    /// Makes the content durable and gives it its name; its size.
    pub(super) async fn finish(mut self) -> Result<u64, BucketError> {
        let (started, wire) = (Instant::now(), self.wire.clone());
        let outcome = in_time(&wire, self.publish()).await;
        wire.record(Verb::Complete, &outcome, started);
        outcome?;
        wire.count_bytes("sent", self.written);
        Ok(self.written)
    }

    async fn publish(&mut self) -> Result<(), BucketError> {
        self.flush().await?;
        settle(&mut self.writing).await?;
        settle(&mut self.syncing).await?;
        let (staged, target) = (self.staged.clone(), self.target.clone());
        blocking(move || publish(&staged, &target)).await
    }

    /// Hands what is pending to the disk once it has taken what came before.
    async fn flush(&mut self) -> Result<(), BucketError> {
        settle(&mut self.writing).await?;
        if self.written - self.synced >= SYNC_BYTES {
            settle(&mut self.syncing).await?;
            let staged = self.staged.clone();
            self.syncing = Some(tokio::task::spawn_blocking(move || staged.file.sync_data()));
            self.synced = self.written;
        }
        let (staged, blocks) = (self.staged.clone(), std::mem::take(&mut self.pending));
        self.written += std::mem::take(&mut self.pending_bytes) as u64;
        self.writing = Some(tokio::task::spawn_blocking(move || write_all(&staged.file, &blocks)));
        Ok(())
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        // The last owner removes the file, which is work for the blocking pool; without a runtime the process is ending.
        let staged = self.staged.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(staged));
        }
    }
}

/// A disk that hangs is an unavailable bucket. Slow ones take their time for a sync.
async fn in_time<T>(wire: &Wire, work: impl Future<Output = Result<T, BucketError>>) -> Result<T, BucketError> {
    let patience = wire.patience(SYNC_BYTES);
    timeout(patience, work).await.unwrap_or_else(|_| Err(no_answer(patience)))
}

/// Waits for a task of the disk. When the waiting is given up, the task is still there to be waited for.
async fn settle(task: &mut Option<JoinHandle<io::Result<()>>>) -> Result<(), BucketError> {
    let Some(running) = task else { return Ok(()) };
    let outcome = running.await;
    *task = None;
    flatten(outcome)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, BucketError> {
    flatten(tokio::task::spawn_blocking(work).await)
}

fn flatten<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, BucketError> {
    match outcome {
        Ok(done) => done.map_err(|error| of_disk(&error)),
        Err(_) => Err(BucketError::unavailable("the process is ending")),
    }
}

/// An error of the disk, as the client's errors are sorted.
pub(super) fn of_disk(error: &io::Error) -> BucketError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BucketError::Refused(error.to_string()),
        io::ErrorKind::AlreadyExists => BucketError::Broken("the key is taken".into()),
        _ => BucketError::unavailable(error.to_string()),
    }
}

/// A new file beside the target, with the first free number.
fn stage(target: &Path) -> io::Result<Staged> {
    create_folder(target.parent().unwrap_or(Path::new("/")))?;
    let mut number = 1_u32;
    loop {
        let mut path = target.as_os_str().to_owned();
        path.push(format!("#{number}"));
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok(Staged { file, path: path.into() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn write_all(mut file: &File, blocks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = blocks.iter().filter(|block| !block.is_empty()).map(|block| IoSlice::new(block)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The name appears only with all bytes on the disk, and never takes another file's place.
fn publish(staged: &Staged, target: &Path) -> io::Result<()> {
    staged.file.sync_all()?;
    std::fs::hard_link(&staged.path, target)?;
    std::fs::remove_file(&staged.path)?;
    sync_folder(target.parent().unwrap_or(Path::new("/")))
}

/// Creates a folder and those above it, each durable in the one above.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_folder(above)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(above)?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
