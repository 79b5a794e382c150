//! What was folded, to be told to others: events with the node that wrote them.

use bytes::Bytes;

use super::core::Core;
use super::event::Event;
use super::identity::Origin;
use super::import::{self, MAX_IMPORT_BYTES};
use super::segment::{self, Object};
use super::{Ledger, LedgerError};
use crate::bucket::Key;
use crate::clock::Timestamp;

/// The events of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Chapter {
    pub origin: Origin,
    pub seq: u64,
    /// Whose callers had them committed.
    pub node: String,
    /// When, by that node's clock.
    pub at: Timestamp,
    pub events: Vec<Event>,
}

/// Segments of other regions that came here together.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The one of this region that brought them.
    pub node: String,
    pub chapters: Vec<Chapter>,
}

impl Chapter {
    /// `None` for what is no segment, or a stub of one.
    pub fn of(object: &[u8]) -> Option<Chapter> {
        let Ok(Object::Segment(segment)) = segment::decode(object) else { return None };
        let header = segment.header;
        Some(Chapter { origin: header.origin, seq: header.seq, node: header.node, at: header.clock.timestamp(), events: segment.events })
    }
}

impl Core {
    async fn read_import(&self, number: u64) -> Result<Option<Bytes>, LedgerError> {
        match self.imported.get(number) {
            Some(kept) => Ok(Some(kept)),
            None => Ok(self.bucket.read(&Key::Import(number), MAX_IMPORT_BYTES).await?),
        }
    }
}

impl Ledger {
    /// What an import brought; `None` where it was trimmed, or stands for a snapshot.
    ///
    /// # Errors
    /// The bucket does not give what stands in it.
    pub async fn import_at(&self, number: u64) -> Result<Option<Imported>, LedgerError> {
        let Some(bytes) = self.0.core.read_import(number).await? else { return Ok(None) };
        let Ok(import::Object::Import(import)) = import::decode(&bytes) else { return Ok(None) };
        let chapters = import.segments.iter().filter_map(|object| Chapter::of(object)).collect();
        Ok(Some(Imported { node: import.header.node, chapters }))
    }
}
