//! Segments for others to follow: of the own ledger, and of those that were imported, which a region passes on as it has them. So a
//! survivor gets from another what both have seen of a region that is gone.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::LedgerError;
use super::core::Core;
use super::identity::Origin;
use super::import::{self, MAX_IMPORT_BYTES, Object};
use super::pull::Segments;
use super::segment::{self, MAX_OBJECT_BYTES};
use crate::bucket::Key;

/// Segments of the own ledger that are read at one time.
const READ_AHEAD: usize = 32;
/// Imports that are looked through for one answer, at most.
const RELAYED_IMPORTS: usize = 8;

impl Core {
    /// See [`Ledger::segments_of`](super::Ledger::segments_of).
    pub async fn segments_of(self: &Arc<Core>, origin: &Origin, after: u64, max_bytes: usize) -> Result<Segments, LedgerError> {
        let at = self.index.read(|rows| Core::ledger_in(rows, origin))?;
        if at.seq <= after {
            return Ok(if at.seq == 0 && *origin != self.origin { Segments::Unknown } else { Segments::None });
        }
        let found = if *origin == self.origin { self.own_segments(after, at.seq).await? } else { self.relayed(origin, after).await? };
        let Some(found) = found else { return Ok(Segments::Trimmed) };
        let mut bytes = 0;
        let fitting = found.into_iter().enumerate().take_while(|(index, segment)| {
            bytes += segment.len();
            *index == 0 || bytes <= max_bytes
        });
        Ok(Segments::Some(fitting.map(|(_, segment)| segment).collect()))
    }

    /// `None` if the first of them was trimmed.
    async fn own_segments(&self, after: u64, last: u64) -> Result<Option<Vec<Bytes>>, LedgerError> {
        let reads = (after + 1..=last).take(READ_AHEAD).map(async |seq| self.bucket.read(&Key::Ledger(seq), MAX_OBJECT_BYTES).await);
        let mut found = Vec::new();
        for read in join_all(reads).await {
            let bytes = read?.ok_or_else(|| LedgerError::Broken("a segment that was folded is not there".into()))?;
            match segment::decode(&bytes) {
                Ok(segment::Object::Stub(_)) => return Ok(None),
                _ => found.push(bytes),
            }
        }
        Ok(Some(found))
    }

    /// What was imported of another ledger; `None` if that was trimmed.
    async fn relayed(self: &Arc<Core>, origin: &Origin, after: u64) -> Result<Option<Vec<Bytes>>, LedgerError> {
        let (mut next, mut found) = (after + 1, Vec::new());
        let Some((mut number, mut import)) = self.find(origin, next).await? else { return Ok(None) };
        // The first that it must be in, and a few behind it.
        for _ in 0..RELAYED_IMPORTS {
            for (seq, bytes) in segments_in(&import, origin) {
                if seq == next {
                    found.push(bytes);
                    next += 1;
                }
            }
            number += 1;
            match self.bucket.read(&Key::Import(number), MAX_IMPORT_BYTES).await? {
                Some(bytes) if self.imports()?.number >= number => import = bytes,
                _ => break,
            }
        }
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    /// The first import after which a segment is there: by bisection.
    async fn find(self: &Arc<Core>, origin: &Origin, seq: u64) -> Result<Option<(u64, Bytes)>, LedgerError> {
        let (mut low, mut high) = (1, self.imports()?.number);
        let mut found = None;
        while low <= high {
            let middle = low + (high - low) / 2;
            let bytes = self.bucket.read(&Key::Import(middle), MAX_IMPORT_BYTES).await?;
            let bytes = bytes.ok_or_else(|| LedgerError::Broken(format!("import {middle} is not there")))?;
            let is_covered = match import::decode(&bytes) {
                Ok(Object::Import(import)) => import.header.seen.covers(origin, seq),
                // What was trimmed is old.
                Ok(Object::Stub(_)) => false,
                Err(why) => return Err(LedgerError::Broken(format!("import {middle}: {why}"))),
            };
            if is_covered {
                found = Some((middle, bytes));
                high = middle - 1;
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }
}

/// The segments of one ledger that an import holds, with their numbers.
fn segments_in(import: &Bytes, origin: &Origin) -> Vec<(u64, Bytes)> {
    let Ok(Object::Import(import)) = import::decode(import) else { return Vec::new() };
    let mut found = Vec::new();
    for bytes in import.segments {
        if let Ok(segment::Object::Segment(segment)) = segment::decode(&bytes)
            && segment.header.origin == *origin
        {
            found.push((segment.header.seq, bytes));
        }
    }
    found
}
