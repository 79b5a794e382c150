//! The only writer of blob files: a temporary file, hashed while it is written, verified, synced, and only then named.
//!
//! Hashing and writing happen in the blocking pool. While one batch is under way the next one accumulates; an idle writer takes
//! what there is at once, so that readers see the first bytes without delay.

use std::fs::File;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::content::Content;
use super::error::ContentError;
use super::growing::{Growing, Room, Slowest};
use super::stamp::Stamp;
use super::{Shared, lock};
use crate::oci::{Algorithm, Digest, Digester};

/// What may wait while a batch is being written.
const BATCH_BYTES: usize = 1 << 20;
/// How long a transfer that is not kept waits for a reader that takes nothing.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a transfer that is not kept waits, its window full, for a first reader.
const READER_LIMIT: Duration = Duration::from_secs(1);

/// Why a content was not taken in. The variants are what a caller treats differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// The bytes are not those of the digest, or more than were announced.
    #[error("the bytes do not match their digest")]
    Mismatch,
    /// Ended before all was here; before `finish` the transfer could have been resumed at `position`.
    #[error("{position} of {size_bytes} bytes arrived")]
    Short { position: u64, size_bytes: u64 },
    /// The disk does not take the bytes, and nobody reads them.
    #[error("the disk takes no writes and nobody reads")]
    NoReaders,
    /// The process is ending.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// One content on its way in. Dropping it before `finish` breaks the readers off.
#[derive(Debug)]
pub struct Ingest {
    pipe: Arc<Pipe>,
    digest: Digest,
    size_bytes: Option<u64>,
    accepted: u64,
}

/// Between the task that receives and the blocking thread that hashes and writes.
#[derive(Debug)]
struct Pipe {
    growing: Arc<Growing>,
    queue: Mutex<Queue>,
    /// The blocking thread has taken a batch, or has ended.
    taken: Notify,
}

#[derive(Debug)]
struct Queue {
    blocks: Vec<Bytes>,
    bytes: usize,
    /// Away while the blocking thread works.
    sink: Option<Sink>,
}

/// Where the bytes go.
pub(super) struct Sink {
    shared: Arc<Shared>,
    digester: Digester,
    target: Target,
    written: u64,
}

pub(super) enum Target {
    /// Nothing has been written yet.
    Unopened,
    File(Partial),
    /// Not kept: the disk takes no writes, or the content is larger than the cache.
    Passing,
}

/// A temporary file. Dropping it deletes it.
pub(super) struct Partial {
    shared: Arc<Shared>,
    file: Arc<File>,
    path: PathBuf,
    counted_bytes: u64,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Ingest {
    pub(super) fn new(shared: Arc<Shared>, digest: Digest, size_bytes: Option<u64>) -> Ingest {
        let growing = Arc::new(Growing::of_transfer(size_bytes, shared.metrics.clone()));
        let sink = Sink::new(shared, digest.algorithm(), Target::Unopened);
        let queue = Mutex::new(Queue { blocks: Vec::new(), bytes: 0, sink: Some(sink) });
        Ingest { pipe: Arc::new(Pipe { growing, queue, taken: Notify::new() }), digest, size_bytes, accepted: 0 }
    }

    /// What readers follow while it grows.
    pub fn content(&self) -> Content {
        Content::from_growing(self.pipe.growing.clone())
    }

    /// Bytes accepted so far: where to resume upstream.
    pub fn position(&self) -> u64 {
        self.accepted
    }

    /// Accepts the next bytes. Waits while the disk, or a transfer's slowest reader when it is not kept, is behind. When the future
    /// is dropped, `position` tells what was accepted.
    ///
    /// # Errors
    /// `Mismatch` at the first byte beyond the announced size; `NoReaders`; `Stopped`. Readers are told then, and nothing is kept.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), IngestError> {
        if self.size_bytes.is_some_and(|size| bytes.len() as u64 > size.saturating_sub(self.accepted)) {
            return Err(self.fail(IngestError::Mismatch));
        }
        while !bytes.is_empty() {
            let block = bytes.split_to(bytes.len().min(BATCH_BYTES));
            let count = block.len() as u64;
            self.accept(block).await?;
            self.accepted += count;
        }
        Ok(())
    }

    /// Verifies the whole, gives readers the withheld end, and makes the blob durable as far as the disk takes it.
    ///
    /// # Errors
    /// `Mismatch`, `Short`, `Stopped`: nothing is kept, and readers are told.
    pub async fn finish(self) -> Result<Content, IngestError> {
        let mut sink = self.idle().await?;
        if let Some(size_bytes) = self.size_bytes.filter(|size| self.accepted < *size) {
            discard(sink);
            return Err(self.fail(IngestError::Short { position: self.accepted, size_bytes }));
        }
        let digester = mem::replace(&mut sink.digester, Digester::new(self.digest.algorithm()));
        if digester.finish() != self.digest {
            discard(sink);
            return Err(self.fail(IngestError::Mismatch));
        }
        self.pipe.growing.verified();
        let digest = self.digest;
        let kept = tokio::task::spawn_blocking(move || sink.keep(digest)).await;
        Ok(kept.ok().flatten().unwrap_or_else(|| self.content()))
    }

    /// Gives up. Readers get [`ContentError::Broken`] with these words.
    pub fn abort(self, why: String) {
        self.pipe.growing.fail(ContentError::Broken(why));
    }

    async fn accept(&self, block: Bytes) -> Result<(), IngestError> {
        let growing = &self.pipe.growing;
        let mut waiting: Option<Waiting> = None;
        loop {
            self.check()?;
            let queued = {
                let mut queue = lock(&self.pipe.queue);
                let free = queue.bytes == 0 || queue.bytes + block.len() <= BATCH_BYTES;
                match free {
                    false => None,
                    true if !growing.passes_through() => Some(Room::Free),
                    true => Some(growing.room(queue.bytes + block.len())),
                }
                .map(|room| {
                    if let Room::Free = room {
                        queue.bytes += block.len();
                        queue.blocks.push(block.clone());
                        self.pipe.start(&mut queue);
                    }
                    room
                })
            };
            match queued {
                Some(Room::Free) => return Ok(()),
                None => self.pipe.taken.notified().await,
                Some(Room::NoReaders) => {
                    let now = waiting.take_if(|waiting| waiting.reader.is_none());
                    let now = waiting.insert(now.unwrap_or_else(|| Waiting { until: Instant::now() + READER_LIMIT, reader: None }));
                    if timeout_at(now.until, growing.reader_moved()).await.is_err() {
                        return Err(self.fail(IngestError::NoReaders));
                    }
                }
                Some(Room::Wait(slowest)) => {
                    let now = waiting.take_if(|waiting| waiting.reader.as_ref() == Some(&slowest));
                    let now = waiting.insert(now.unwrap_or_else(|| Waiting { until: Instant::now() + STALL_LIMIT, reader: Some(slowest) }));
                    if timeout_at(now.until, growing.reader_moved()).await.is_err()
                        && let Some(slowest) = &now.reader
                    {
                        growing.leave_behind(slowest);
                    }
                }
            }
        }
    }

    /// Waits until all that was accepted is hashed and written.
    async fn idle(&self) -> Result<Sink, IngestError> {
        loop {
            self.check()?;
            if let Some(sink) = lock(&self.pipe.queue).sink.take() {
                return Ok(sink);
            }
            self.pipe.taken.notified().await;
        }
    }

    /// An ingest that failed stays so.
    fn check(&self) -> Result<(), IngestError> {
        match self.pipe.growing.failure() {
            None => Ok(()),
            Some(ContentError::Mismatch) => Err(IngestError::Mismatch),
            Some(why) => Err(IngestError::Stopped(why.to_string())),
        }
    }

    fn fail(&self, why: IngestError) -> IngestError {
        self.pipe.growing.fail(match &why {
            IngestError::Mismatch => ContentError::Mismatch,
            IngestError::Short { .. } | IngestError::NoReaders | IngestError::Stopped(_) => ContentError::Broken(why.to_string()),
        });
        why
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a verdict this changes nothing.
        self.pipe.growing.fail(ContentError::Broken("the transfer was dropped".into()));
        if let Some(sink) = lock(&self.pipe.queue).sink.take() {
            discard(sink);
        }
    }
}

/// Deletes the temporary file, which is work for the blocking pool; without a runtime the process is ending.
pub(super) fn discard(sink: Sink) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(sink));
    }
}

/// What a transfer that is not kept waits for, and for how long.
struct Waiting {
    until: Instant,
    reader: Option<Slowest>,
}

impl Pipe {
    /// Sets a blocking thread to work unless one is.
    fn start(self: &Arc<Pipe>, queue: &mut Queue) {
        if let Some(sink) = queue.sink.take() {
            let work = Work { pipe: self.clone(), sink: Some(sink) };
            tokio::task::spawn_blocking(move || work.run());
        }
    }
}

/// The blocking thread's turn: it takes batches until there are no more.
struct Work {
    pipe: Arc<Pipe>,
    sink: Option<Sink>,
}

impl Work {
    fn run(mut self) {
        loop {
            let blocks = {
                let mut queue = lock(&self.pipe.queue);
                if queue.blocks.is_empty() || self.pipe.growing.failure().is_some() {
                    queue.sink = self.sink.take();
                    break;
                }
                queue.bytes = 0;
                mem::take(&mut queue.blocks)
            };
            self.pipe.taken.notify_one();
            if let Some(sink) = &mut self.sink {
                sink.write(blocks, &self.pipe.growing);
            }
        }
        self.pipe.taken.notify_one();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Never ran, because the runtime is ending.
        if self.sink.is_some() {
            self.pipe.growing.fail(ContentError::Broken("the process is ending".into()));
            self.pipe.taken.notify_one();
        }
    }
}

impl Sink {
    pub(super) fn new(shared: Arc<Shared>, algorithm: Algorithm, target: Target) -> Sink {
        Sink { shared, digester: Digester::new(algorithm), target, written: 0 }
    }

    /// The digest of what came so far.
    pub(super) fn digest(&self) -> Digest {
        self.digester.clone().finish()
    }

    /// Hashes and writes what nobody reads yet. A disk that does not take it is left alone from there on.
    pub(super) fn absorb(&mut self, mut blocks: Vec<Bytes>) {
        for block in &blocks {
            self.digester.update(block);
        }
        self.written += blocks.iter().map(|block| block.len() as u64).sum::<u64>();
        if let Target::Unopened = self.target {
            self.target = Partial::create(&self.shared, None).map_or(Target::Passing, Target::File);
        }
        if self.written > self.shared.max_bytes {
            self.target = Target::Passing;
        }
        if let Target::File(partial) = &mut self.target {
            match partial.write(&mut blocks).1 {
                Ok(()) => self.shared.disk.took(),
                Err(error) => {
                    self.shared.disk.refused("writing an upload's copy", &error);
                    self.target = Target::Passing;
                }
            }
        }
    }

    /// Hashes and writes a batch, then shows it to readers.
    fn write(&mut self, mut blocks: Vec<Bytes>, growing: &Growing) {
        for block in &blocks {
            self.digester.update(block);
        }
        let count: u64 = blocks.iter().map(|block| block.len() as u64).sum();
        if let Target::Unopened = self.target {
            self.open(growing);
        }
        if self.written + count > self.shared.max_bytes {
            // It would have to be evicted at once. Those who read the file's part hold it open.
            self.target = Target::Passing;
        }
        if let Target::File(partial) = &mut self.target {
            let (done, outcome) = partial.write(&mut blocks);
            growing.wrote(done);
            self.written += done;
            match outcome {
                Ok(()) => self.shared.disk.took(),
                Err(error) => {
                    self.shared.disk.refused("writing a blob", &error);
                    self.target = Target::Passing;
                }
            }
        }
        if !blocks.is_empty() {
            growing.pass_through();
            self.written += blocks.iter().map(|block| block.len() as u64).sum::<u64>();
            growing.hold(blocks);
        }
    }

    fn open(&mut self, growing: &Growing) {
        self.target = match Partial::create(&self.shared, growing.size_bytes()) {
            Some(partial) => {
                growing.set_file(partial.file.clone());
                Target::File(partial)
            }
            None => Target::Passing,
        };
    }

    /// Makes a verified content durable and known; `None` when the disk does not take it, which costs its readers nothing.
    pub(super) fn keep(mut self, digest: Digest) -> Option<Content> {
        if let Target::Unopened = self.target {
            // An empty content has met no file yet.
            self.target = Partial::create(&self.shared, Some(0)).map_or(Target::Passing, Target::File);
        }
        let Target::File(partial) = mem::replace(&mut self.target, Target::Passing) else { return None };
        match partial.keep(&digest) {
            Ok((file, stamp)) => {
                self.shared.disk.took();
                self.shared.files.insert(digest, file.clone(), stamp);
                self.shared.index.put_blob(digest, stamp.size_bytes, self.shared.clock.now());
                Some(Content::from_file(file, stamp))
            }
            Err(error) => {
                self.shared.disk.refused("making a blob durable", &error);
                None
            }
        }
    }
}

impl Partial {
    /// `None` when the content is larger than the cache, or the disk does not take a file.
    fn create(shared: &Arc<Shared>, size_bytes: Option<u64>) -> Option<Partial> {
        if size_bytes.is_some_and(|size| size > shared.max_bytes) || !shared.disk.worth_a_try() {
            return None;
        }
        let path = shared.layout.partial();
        match shared.disk.create(&path) {
            Ok(file) => Some(Partial { shared: shared.clone(), file: Arc::new(file), path, counted_bytes: 0 }),
            Err(error) => {
                shared.disk.refused("creating a file", &error);
                None
            }
        }
    }

    /// Writes what the disk takes and leaves the rest in `blocks`; tells how many bytes the file has more.
    fn write(&mut self, blocks: &mut Vec<Bytes>) -> (u64, std::io::Result<()>) {
        let before = self.counted_bytes;
        let mut outcome = Ok(());
        let mut whole = 0;
        for block in blocks.iter_mut() {
            let (done, end) = self.shared.disk.write(&self.file, block, self.counted_bytes);
            self.counted_bytes += done as u64;
            if end.is_err() {
                let _ = block.split_to(done);
                outcome = end;
                break;
            }
            whole += 1;
        }
        blocks.drain(..whole);
        let done = self.counted_bytes - before;
        self.shared.partial_bytes.fetch_add(done, Ordering::Relaxed);
        self.shared.wake_when_over();
        (done, outcome)
    }

    fn keep(self, digest: &Digest) -> std::io::Result<(Arc<File>, Stamp)> {
        self.shared.disk.sync(&self.file)?;
        let stamp = Stamp::of(&self.file)?.0;
        self.shared.layout.name(&self.path, digest)?;
        Ok((self.file.clone(), stamp))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.shared.partial_bytes.fetch_sub(self.counted_bytes, Ordering::Relaxed);
        // Gone already when the file got its name.
        let _ = std::fs::remove_file(&self.path);
    }
}
