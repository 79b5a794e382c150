//! A content that grows, or whose file is being verified: what a writer and its readers share.
//!
//! The last byte is withheld until the whole is verified, so that nobody completes bytes that turn out to be wrong. Bytes are in
//! the file, or, when the disk does not take them, in a bounded window of memory that follows the writer.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::error::ContentError;
use super::lock;
use crate::metrics::Metrics;

/// What memory holds of a transfer that passes through because the disk does not take it.
pub(super) const WINDOW_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Growing {
    /// What the caller of the ingest said; `None` when it could not tell.
    size_bytes: Option<u64>,
    /// Where its readers are counted, if it is a transfer.
    waiters: Option<Metrics>,
    file: OnceLock<Arc<File>>,
    progress: watch::Sender<Progress>,
    window: Mutex<Window>,
    /// From here on bytes go through the window.
    passing: AtomicBool,
    /// A reader of the window has moved on or gone.
    moved: Notify,
}

#[derive(Clone, Debug)]
struct Progress {
    /// The bytes in the file, from the first.
    in_file: u64,
    /// The bytes that were ever readable, the withheld one too.
    written: u64,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Running,
    Verified,
    Failed(ContentError),
}

impl Progress {
    fn readable(&self) -> u64 {
        match self.stage {
            Stage::Verified => self.written,
            Stage::Running | Stage::Failed(_) => self.written.saturating_sub(1),
        }
    }
}

/// The newest bytes of a transfer that passes through, as they came.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    held_bytes: usize,
    blocks: VecDeque<Bytes>,
    readers: Vec<Weak<Cursor>>,
}

/// Where a reader is; `u64::MAX` once it needs nothing more.
#[derive(Debug)]
struct Cursor(AtomicU64);

/// A reader's place, known to the writer while it exists.
#[derive(Debug)]
pub(super) struct Follower {
    progress: watch::Receiver<Progress>,
    cursor: Arc<Cursor>,
    growing: Weak<Growing>,
    waiters: Option<Metrics>,
}

/// What a reader does next.
pub(super) enum Step {
    End,
    Held(Bytes),
    /// Read this part of the file.
    File(Arc<File>, Range<u64>),
}

/// Whether the window takes more.
pub(super) enum Room {
    Free,
    NoReaders,
    /// The slowest reader still needs the oldest bytes.
    Wait(Slowest),
}

#[derive(Clone)]
pub(super) struct Slowest {
    cursor: Weak<Cursor>,
    position: u64,
}

impl Growing {
    /// A transfer that begins.
    pub fn of_transfer(size_bytes: Option<u64>, metrics: Metrics) -> Growing {
        Growing { waiters: Some(metrics), ..Growing::new(size_bytes) }
    }

    fn new(size_bytes: Option<u64>) -> Growing {
        Growing {
            size_bytes,
            waiters: None,
            file: OnceLock::new(),
            progress: watch::Sender::new(Progress { in_file: 0, written: 0, stage: Stage::Running }),
            window: Mutex::default(),
            passing: AtomicBool::new(false),
            moved: Notify::new(),
        }
    }

    /// A file that is all there and is being verified.
    pub fn of_file(file: Arc<File>, size_bytes: u64) -> Growing {
        let growing = Growing::new(Some(size_bytes));
        growing.set_file(file);
        growing.wrote(size_bytes);
        growing
    }

    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes.or_else(|| {
            let progress = self.progress.borrow();
            matches!(progress.stage, Stage::Verified).then_some(progress.written)
        })
    }

    pub async fn started(&self) -> Result<(), ContentError> {
        self.reached(|progress| progress.readable() > 0 || matches!(progress.stage, Stage::Verified)).await?;
        // A window that has moved on: nobody can begin at the first byte any more.
        let in_file = self.progress.borrow().in_file;
        if lock(&self.window).start > in_file { Err(ContentError::Lagged) } else { Ok(()) }
    }

    pub async fn complete(&self) -> Result<(), ContentError> {
        self.reached(|progress| matches!(progress.stage, Stage::Verified)).await
    }

    async fn reached(&self, enough: impl Fn(&Progress) -> bool) -> Result<(), ContentError> {
        let mut follower = self.progress.subscribe();
        let progress = follower.wait_for(|progress| matches!(progress.stage, Stage::Failed(_)) || enough(progress)).await;
        match progress.as_deref() {
            Ok(Progress { stage: Stage::Failed(why), .. }) => Err(why.clone()),
            Ok(_) => Ok(()),
            Err(gone) => Err(ContentError::Broken(gone.to_string())),
        }
    }

    // The reader's side.

    pub fn follow(self: &Arc<Growing>, position: u64) -> Follower {
        let cursor = Arc::new(Cursor(AtomicU64::new(position)));
        let mut window = lock(&self.window);
        window.readers.retain(|reader| reader.strong_count() > 0);
        window.readers.push(Arc::downgrade(&cursor));
        if let Some(metrics) = &self.waiters {
            metrics.fill_waiters.inc();
        }
        Follower { progress: self.progress.subscribe(), cursor, growing: Arc::downgrade(self), waiters: self.waiters.clone() }
    }

    /// Waits until a byte of `rest` can be read. Dropping the future loses nothing.
    pub async fn step(&self, follower: &mut Follower, rest: Range<u64>, max: usize) -> Result<Step, ContentError> {
        loop {
            let (readable, in_file) = {
                let progress = follower.progress.borrow_and_update();
                match &progress.stage {
                    Stage::Failed(why) => return Err(why.clone()),
                    Stage::Verified if rest.start >= progress.written => return Ok(Step::End),
                    Stage::Verified | Stage::Running => (progress.readable(), progress.in_file),
                }
            };
            let end = rest.end.min(readable).min(rest.start.saturating_add(max as u64));
            if rest.start < end.min(in_file) {
                let file = self.file.get().ok_or_else(|| ContentError::Io("the file is not open".into()))?;
                return Ok(Step::File(file.clone(), rest.start..end.min(in_file)));
            }
            if rest.start < end {
                return lock(&self.window).block(rest.start..end).map(Step::Held).ok_or(ContentError::Lagged);
            }
            follower.progress.changed().await.map_err(|gone| ContentError::Broken(gone.to_string()))?;
        }
    }

    /// A reader has been given all before `position`.
    pub fn moved(&self, follower: &Follower, position: u64) {
        follower.cursor.0.store(position, Ordering::Release);
        if self.passes_through() {
            self.moved.notify_one();
        }
    }

    // The writer's side.

    /// Opens the file to readers. Only the first one counts.
    pub fn set_file(&self, file: Arc<File>) {
        let _ = self.file.set(file);
    }

    /// The file now holds `count` bytes more.
    pub fn wrote(&self, count: u64) {
        self.progress.send_modify(|progress| {
            progress.in_file += count;
            progress.written += count;
        });
    }

    /// From now on bytes go through memory.
    pub fn pass_through(&self) {
        if !self.passing.swap(true, Ordering::AcqRel) {
            lock(&self.window).start = self.progress.borrow().written;
        }
    }

    pub fn passes_through(&self) -> bool {
        self.passing.load(Ordering::Acquire)
    }

    /// Puts bytes into the window. The writer has asked for room before.
    pub fn hold(&self, blocks: Vec<Bytes>) {
        let count: usize = blocks.iter().map(Bytes::len).sum();
        {
            let mut window = lock(&self.window);
            window.held_bytes += count;
            window.blocks.extend(blocks);
        }
        self.progress.send_modify(|progress| progress.written += count as u64);
    }

    /// Makes room in the window for `count` bytes, as far as no reader needs what goes.
    pub fn room(&self, count: usize) -> Room {
        let mut window = lock(&self.window);
        if window.held_bytes + count <= WINDOW_BYTES {
            return Room::Free;
        }
        window.readers.retain(|reader| reader.strong_count() > 0);
        let readers = window.readers.iter().filter_map(Weak::upgrade).map(|cursor| (cursor.0.load(Ordering::Acquire), cursor));
        let slowest = readers.filter(|(position, _)| *position != u64::MAX).min_by_key(|(position, _)| *position);
        let Some((position, slowest)) = slowest else { return Room::NoReaders };
        while window.held_bytes + count > WINDOW_BYTES {
            match window.blocks.front().map(Bytes::len) {
                Some(oldest) if window.start + oldest as u64 <= position => window.drop_oldest(),
                _ => return Room::Wait(Slowest { cursor: Arc::downgrade(&slowest), position }),
            }
        }
        Room::Free
    }

    /// Waits until a reader has moved or gone.
    pub async fn reader_moved(&self) {
        self.moved.notified().await;
    }

    /// No longer waits for a reader that has not moved since it was found to be the slowest. True when it was left behind.
    pub fn leave_behind(&self, slowest: &Slowest) -> bool {
        let stuck = slowest.cursor.upgrade().is_some_and(|cursor| cursor.0.load(Ordering::Acquire) == slowest.position);
        if stuck {
            lock(&self.window).readers.retain(|reader| !Weak::ptr_eq(reader, &slowest.cursor));
        }
        stuck
    }

    /// The whole is good: the withheld byte goes out.
    pub fn verified(&self) {
        self.end(Stage::Verified);
    }

    /// It will never be whole. A verdict that was given before stays.
    pub fn fail(&self, why: ContentError) {
        self.end(Stage::Failed(why));
    }

    pub fn failure(&self) -> Option<ContentError> {
        match &self.progress.borrow().stage {
            Stage::Failed(why) => Some(why.clone()),
            Stage::Running | Stage::Verified => None,
        }
    }

    fn end(&self, stage: Stage) {
        self.progress.send_if_modified(|progress| {
            let running = matches!(progress.stage, Stage::Running);
            if running {
                progress.stage = stage;
            }
            running
        });
    }
}

impl PartialEq for Slowest {
    fn eq(&self, other: &Slowest) -> bool {
        Weak::ptr_eq(&self.cursor, &other.cursor) && self.position == other.position
    }
}

impl Window {
    /// The front of `part`, as much as one block has; `None` when its first byte is gone.
    fn block(&self, part: Range<u64>) -> Option<Bytes> {
        let mut offset = part.start.checked_sub(self.start)?;
        for block in &self.blocks {
            let length = block.len() as u64;
            if offset < length {
                let end = length.min(offset + (part.end - part.start));
                return Some(block.slice(offset as usize..end as usize));
            }
            offset -= length;
        }
        None
    }

    fn drop_oldest(&mut self) {
        if let Some(block) = self.blocks.pop_front() {
            self.start += block.len() as u64;
            self.held_bytes -= block.len();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // The writer may be waiting for this reader.
        self.cursor.0.store(u64::MAX, Ordering::Release);
        if let Some(growing) = self.growing.upgrade() {
            growing.moved.notify_one();
        }
        if let Some(metrics) = &self.waiters {
            metrics.fill_waiters.dec();
        }
    }
}
