//! Bytes of a blob, wherever they are: in memory, in a finished file, or in a file that still grows.

use std::ops::Range;

use bytes::Bytes;

/// A handle on the bytes of one blob. Cloning copies no bytes. While a handle on a file exists, eviction leaves the file alone.
#[derive(Clone, Debug)]
pub struct Content(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Memory(Bytes),
}

/// A part of a content, read from front to back.
#[derive(Debug)]
pub struct Region {
    content: Content,
    /// What is still to be read.
    rest: Range<u64>,
}

/// Why the bytes of a content cannot be had to their end. A body that meets it is cut, never ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContentError {
    #[error("the transfer broke: {0}")]
    Broken(String),
    #[error("the bytes do not match their digest")]
    Mismatch,
    #[error("reading failed: {0}")]
    Io(String),
}

impl Content {
    pub fn from_memory(bytes: Bytes) -> Content {
        Content(Kind::Memory(bytes))
    }

    /// Length of the whole; `None` while a transfer without a length is under way.
    pub fn size_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Memory(bytes) => Some(bytes.len() as u64),
        }
    }

    /// Waits until the first byte can be read, or the whole is known to be good, so that a status line is not sent too early.
    pub async fn started(&self) -> Result<(), ContentError> {
        Ok(())
    }

    /// Waits until the whole is here and verified.
    pub async fn complete(&self) -> Result<(), ContentError> {
        Ok(())
    }

    /// The part `range` of the whole.
    pub fn region(&self, range: Range<u64>) -> Region {
        Region { content: self.clone(), rest: range }
    }

    /// All of it, also when its length is not known yet.
    pub fn whole(&self) -> Region {
        self.region(0..self.size_bytes().unwrap_or(u64::MAX))
    }
}

impl Region {
    /// The next bytes, at most `max`; `None` at the end. Waits while the content grows. Dropping the future loses nothing.
    pub async fn next(&mut self, max: usize) -> Result<Option<Bytes>, ContentError> {
        let Kind::Memory(bytes) = &self.content.0;
        let end = self.rest.end.min(bytes.len() as u64).min(self.rest.start.saturating_add(max as u64));
        if self.rest.start >= end {
            return Ok(None);
        }
        let block = bytes.slice(self.rest.start as usize..end as usize);
        self.rest.start = end;
        Ok(Some(block))
    }
}
