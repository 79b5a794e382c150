//! Bytes of a blob, wherever they are: in memory, in a finished file, or in a file that still grows.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::ContentError;
use super::growing::{Follower, Growing, Step};
use super::lock;
use super::resident::{bring_in, is_resident};
use super::stamp::Stamp;

/// The most that is read from a file at once, however much is asked for.
const READ_BYTES: usize = 1 << 20;
/// The most of a file that is handed to a sender at once: it costs no memory, but the last look at the file waits for it.
pub const MAX_PART_BYTES: u64 = 1 << 20;

/// A handle on the bytes of one blob. Cloning copies no bytes. While a handle on a file exists, eviction leaves the file alone.
#[derive(Clone, Debug)]
pub struct Content(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Memory(Bytes),
    /// A file whose bytes were verified while it bore this stamp.
    File(Arc<File>, Stamp),
    /// A transfer or a verification under way.
    Growing(Arc<Growing>),
}

/// The next piece of a region, for a sender.
#[derive(Clone, Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// For a sender that hands it to the kernel: the pages are in memory, so that doing so waits for no disk.
    File(FilePart),
}

/// A part of a file that is only ever unlinked, never changed.
#[derive(Clone, Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub range: Range<u64>,
}

impl Piece {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::File(part) => part.range.end - part.range.start,
        }
    }
}

/// A part of a content, read from front to back.
#[derive(Debug)]
pub struct Region {
    content: Content,
    /// What is still to be read.
    rest: Range<u64>,
    /// The last block's buffer: used again once the block is dropped.
    buffer: Arc<Spare>,
    /// The place in a growing content, once the reading has begun.
    follower: Option<Follower>,
}

impl Content {
    pub fn from_memory(bytes: Bytes) -> Content {
        Content(Kind::Memory(bytes))
    }

    pub(super) fn from_file(file: Arc<File>, stamp: Stamp) -> Content {
        Content(Kind::File(file, stamp))
    }

    pub(super) fn from_growing(growing: Arc<Growing>) -> Content {
        Content(Kind::Growing(growing))
    }

    /// Length of the whole; `None` while a transfer without a length is under way.
    pub fn size_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Memory(bytes) => Some(bytes.len() as u64),
            Kind::File(_, stamp) => Some(stamp.size_bytes),
            Kind::Growing(growing) => growing.size_bytes(),
        }
    }

    /// Waits until the first byte can be read, or the whole is known to be good, so that a status line is not sent too early.
    ///
    /// # Errors
    /// What broke it before that.
    pub async fn started(&self) -> Result<(), ContentError> {
        match &self.0 {
            Kind::Memory(_) | Kind::File(..) => Ok(()),
            Kind::Growing(growing) => growing.started().await,
        }
    }

    /// Waits until the whole is here and verified.
    ///
    /// # Errors
    /// What broke it before that.
    pub async fn complete(&self) -> Result<(), ContentError> {
        match &self.0 {
            Kind::Memory(_) | Kind::File(..) => Ok(()),
            Kind::Growing(growing) => growing.complete().await,
        }
    }

    /// The part `range` of the whole.
    pub fn region(&self, range: Range<u64>) -> Region {
        Region { content: self.clone(), rest: range, buffer: Arc::default(), follower: None }
    }

    /// All the bytes of a small content, once they are verified.
    ///
    /// # Errors
    /// What broke it.
    pub async fn bytes(&self) -> Result<Bytes, ContentError> {
        if let Kind::Memory(bytes) = &self.0 {
            return Ok(bytes.clone());
        }
        let mut region = self.whole();
        let mut bytes = BytesMut::with_capacity(usize::try_from(self.size_bytes().unwrap_or_default()).unwrap_or_default().min(READ_BYTES));
        while let Some(block) = region.next(READ_BYTES).await? {
            bytes.extend_from_slice(&block);
        }
        Ok(bytes.freeze())
    }

    /// All of it, also when its length is not known yet.
    pub fn whole(&self) -> Region {
        self.region(0..self.size_bytes().unwrap_or(u64::MAX))
    }
}

impl Region {
    /// The next bytes, at most `max` (and at least one, when `max` is not 0); `None` at the end. Waits while the content grows.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The content cannot be had to its end; asking again gives no more.
    pub async fn next(&mut self, max: usize) -> Result<Option<Bytes>, ContentError> {
        match self.piece(max, Takes::Bytes).await? {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            // Not given to who takes bytes.
            Some(Piece::File(_)) | None => Ok(None),
        }
    }

    /// The same for a sender that takes parts of files, which may be much larger than `max`.
    ///
    /// # Errors
    /// As of `next`.
    pub async fn next_piece(&mut self, max: usize) -> Result<Option<Piece>, ContentError> {
        self.piece(max, Takes::FileParts).await
    }

    async fn piece(&mut self, max: usize, takes: Takes) -> Result<Option<Piece>, ContentError> {
        if self.rest.is_empty() || max == 0 {
            return Ok(None);
        }
        let piece = match &self.content.0 {
            Kind::Memory(bytes) => {
                self.within(bytes.len() as u64, max).map(|part| Piece::Bytes(bytes.slice(part.start as usize..part.end as usize)))
            }
            Kind::File(file, stamp) => {
                let end = self.rest.end.min(stamp.size_bytes);
                match self.within(stamp.size_bytes, max) {
                    None => None,
                    Some(part) => match takes.of_file(file, part.start..end.saturating_sub(max as u64)).await {
                        Some(sendable) => Some(Piece::File(sendable)),
                        None => {
                            let last = part.end >= end;
                            let block = read(file, part.start, (part.end - part.start) as usize, &self.buffer).await?;
                            // Whoever changed the file since it was verified also changed its stamp: then this answer is not
                            // completed. The last block is always read, so that all others have been sent by now.
                            if last && Stamp::of(file).map_err(unreadable)?.0 != *stamp {
                                return Err(ContentError::Mismatch);
                            }
                            Some(Piece::Bytes(block))
                        }
                    },
                }
            }
            Kind::Growing(growing) => {
                let growing = growing.clone();
                let follower = self.follower.get_or_insert_with(|| growing.follow(self.rest.start));
                match growing.step(follower, self.rest.clone(), takes.most(max)).await? {
                    Step::End => None,
                    Step::Held(mut block) => Some(Piece::Bytes(block.split_to(block.len().min(max)))),
                    Step::File(file, part) => match takes.of_file(&file, part.clone()).await {
                        Some(sendable) => Some(Piece::File(sendable)),
                        None => {
                            let count = usize::try_from(part.end - part.start).unwrap_or(max).min(max);
                            Some(Piece::Bytes(read(&file, part.start, count, &self.buffer).await?))
                        }
                    },
                }
            }
        };
        match &piece {
            Some(piece) => self.rest.start += piece.size_bytes(),
            None => self.rest.start = self.rest.end,
        }
        if let (Some(follower), Kind::Growing(growing)) = (&self.follower, &self.content.0) {
            growing.moved(follower, if self.rest.is_empty() { u64::MAX } else { self.rest.start });
        }
        Ok(piece)
    }

    /// The next part to read of a whole of `size_bytes`; `None` at its end.
    fn within(&self, size_bytes: u64, max: usize) -> Option<Range<u64>> {
        let end = self.rest.end.min(size_bytes).min(self.rest.start.saturating_add(max as u64));
        (self.rest.start < end).then_some(self.rest.start..end)
    }
}

/// What a reader takes.
#[derive(Clone, Copy)]
enum Takes {
    Bytes,
    FileParts,
}

impl Takes {
    /// The most that is asked of a growing content at once.
    fn most(self, max: usize) -> usize {
        match self {
            Takes::Bytes => max,
            Takes::FileParts => max.max(MAX_PART_BYTES as usize),
        }
    }

    /// The front of `part`, if it is to be sent as it lies in the file. What only the disk has is brought into memory first: a thousand
    /// that wait for a disk hold no block each.
    async fn of_file(self, file: &Arc<File>, part: Range<u64>) -> Option<FilePart> {
        let range = part.start..part.end.min(part.start.saturating_add(MAX_PART_BYTES));
        if !matches!(self, Takes::FileParts) || range.is_empty() {
            return None;
        }
        let sendable = match is_resident(file, &range) {
            Some(false) => {
                let (file, range) = (file.clone(), range.clone());
                // Where this comes to nothing, the part is read, block by block: what the disk says is said then.
                tokio::task::spawn_blocking(move || bring_in(&file, range.clone()).is_ok() && is_resident(&file, &range) == Some(true))
                    .await
                    .unwrap_or(false)
            }
            known => known == Some(true),
        };
        sendable.then(|| FilePart { file: file.clone(), range })
    }
}

/// Memory for a block that nobody has just now. It was written once, so that it need not be cleared for each block.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<u8>>);

impl Spare {
    /// At least `count` bytes of whatever was there.
    fn take(&self, count: usize) -> Vec<u8> {
        let mut memory = std::mem::take(&mut *lock(&self.0));
        if memory.len() < count {
            // Fresh memory is clear as it comes from the kernel.
            memory = vec![0; count];
        }
        memory
    }
}

/// A block, whose memory goes back where it came from.
struct Block {
    memory: Vec<u8>,
    size_bytes: usize,
    home: Arc<Spare>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.size_bytes]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        *lock(&self.home.0) = std::mem::take(&mut self.memory);
    }
}

/// Reads up to `count` bytes at `offset`, at least one: at once when the page cache has them, else in the blocking pool, so that
/// no disk holds up an executor thread (preadv2(2), `RWF_NOWAIT`).
async fn read(file: &Arc<File>, offset: u64, count: usize, spare: &Arc<Spare>) -> Result<Bytes, ContentError> {
    let count = count.min(READ_BYTES);
    let mut memory = spare.take(count);
    let home = spare.clone();
    let block = match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut memory[..count])], offset, ReadWriteFlags::NOWAIT) {
        Ok(0) => return Err(ContentError::Io("the file is shorter than it was".into())),
        Ok(size_bytes) => Block { memory, size_bytes, home },
        // Not cached, or a file system that cannot tell (older overlay file systems).
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => {
            let file = file.clone();
            let read = tokio::task::spawn_blocking(move || {
                file.read_exact_at(&mut memory[..count], offset).map(|()| Block { memory, size_bytes: count, home })
            });
            read.await.map_err(|stopped| ContentError::Io(stopped.to_string()))?.map_err(unreadable)?
        }
        Err(error) => return Err(unreadable(error.into())),
    };
    Ok(Bytes::from_owner(block))
}

fn unreadable(error: io::Error) -> ContentError {
    ContentError::Io(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn all(mut region: Region, max: usize) -> Result<Vec<u8>, ContentError> {
        let mut whole = Vec::new();
        while let Some(block) = region.next(max).await? {
            assert!(!block.is_empty() && block.len() <= max);
            whole.extend_from_slice(&block);
        }
        Ok(whole)
    }

    #[tokio::test]
    async fn memory_and_file_read_alike() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let stamp = Stamp::of(&file).unwrap().0;
        for content in [Content::from_memory(bytes.clone().into()), Content::from_file(Arc::new(file), stamp)] {
            assert_eq!(content.size_bytes(), Some(100_000));
            content.started().await.unwrap();
            content.complete().await.unwrap();
            assert!(all(content.whole(), 4_096).await.unwrap() == bytes);
            for range in [0..1, 99_999..100_000, 50_000..50_000, 7..70_001, 99_990..u64::MAX, 100_000..200_000] {
                let end = range.end.min(100_000) as usize;
                assert_eq!(all(content.region(range.clone()), 999).await.unwrap(), bytes[range.start as usize..end], "{range:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_changed_is_never_completed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        let content = Content::from_file(Arc::new(file.try_clone().unwrap()), Stamp::of(&file).unwrap().0);
        let mut region = content.whole();
        assert_eq!(region.next(5_000).await.unwrap().map(|block| block.len()), Some(5_000));
        // The clock of file times ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        file.write_at(&[2], 9_000).unwrap();
        assert_eq!(region.next(5_000).await, Err(ContentError::Mismatch));
        file.set_len(100).unwrap();
        assert!(matches!(region.next(5_000).await, Err(ContentError::Io(_))));
    }

    #[tokio::test]
    async fn what_the_page_cache_does_not_have_is_read_too() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let content = Content::from_file(Arc::new(file.try_clone().unwrap()), Stamp::of(&file).unwrap().0);
        assert!(all(content.whole(), 1_000_000).await.unwrap() == bytes);
    }

    /// Nothing of it is read into this process but the last block, which is also where the file is looked at once more.
    #[tokio::test]
    async fn what_the_page_cache_does_not_have_is_sent_as_it_lies_in_the_file_too() {
        const SIZE_BYTES: u64 = 5 << 20;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; SIZE_BYTES as usize]).unwrap();
        file.sync_all().unwrap();
        let forget = |file: &File| rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let can_tell = is_resident(&file, &(0..1)).is_some();
        let file = Arc::new(file);
        let mut region = Content::from_file(file.clone(), Stamp::of(&file).unwrap().0).whole();
        let (mut sent, mut read) = (0, 0);
        forget(&file);
        while let Some(piece) = region.next_piece(10_000).await.unwrap() {
            match piece {
                Piece::File(part) => {
                    assert_eq!(part.range.start, sent);
                    assert_eq!(is_resident(&file, &part.range), Some(true));
                    sent += part.range.end - part.range.start;
                }
                Piece::Bytes(block) => read += block.len() as u64,
            }
            forget(&file);
        }
        assert_eq!(sent + read, SIZE_BYTES);
        assert_eq!(read, if can_tell { 10_000 } else { SIZE_BYTES });
    }

    #[tokio::test]
    async fn buffers_are_used_again_once_their_blocks_are_gone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 300_000]).unwrap();
        let mut region = Content::from_file(Arc::new(file.try_clone().unwrap()), Stamp::of(&file).unwrap().0).whole();
        let first = region.next(100_000).await.unwrap().unwrap().as_ptr();
        let second = region.next(100_000).await.unwrap().unwrap().as_ptr();
        assert_eq!(first, second);
    }
}
