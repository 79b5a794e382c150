//! Segments for others to follow: of the own ledger, and of those that were imported, which a region passes on as it has them. So a
//! survivor gets from another what both have seen of a region that is gone.
//!
//! An edge answers from its own region's bucket ([`Ledger::segments_of`](super::Ledger::segments_of)); where no edge answers, the
//! follower reads the other region's store itself (`ForeignBucket` is a [`Source`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::LedgerError;
use super::core::Core;
use super::identity::Origin;
use super::import::{self, MAX_IMPORT_BYTES, Object};
use super::pull::{Segments, Source};
use super::segment::{self, MAX_OBJECT_BYTES, is_stub};
use crate::bucket::{Bucket, BucketError, ForeignBucket, Key};

/// Segments of one answer, at most, and their bytes where nobody says.
const MAX_SEGMENTS: usize = 256;
const MAX_BYTES: usize = 4 << 20;
/// How many times as many each round of reading a ledger takes as the one before.
const READ_AHEAD_GROWTH: usize = 4;
/// After so long no further round begins.
const READ_TIME: Duration = Duration::from_millis(500);
/// Imports that are looked through at a time for an answer: they can be large.
const RELAYED_IMPORTS: usize = 8;

/// A region's root, to read from.
trait Objects: Sync {
    fn read(&self, key: Key, limit_bytes: u64) -> impl Future<Output = Result<Option<Bytes>, BucketError>> + Send;
}

impl Objects for Bucket {
    async fn read(&self, key: Key, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        Bucket::read(self, &key, limit_bytes).await
    }
}

impl Objects for ForeignBucket {
    async fn read(&self, key: Key, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        ForeignBucket::read(self, &key, limit_bytes).await
    }
}

/// The own root, of which segments that were read are kept for whoever asks next.
struct Kept<'a>(&'a Core);

impl Objects for Kept<'_> {
    async fn read(&self, key: Key, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        let Kept(Core { bucket, recent, .. }) = self;
        let Key::Ledger(seq) = key else { return bucket.read(&key, limit_bytes).await };
        if let Some(kept) = recent.get(seq) {
            return Ok(Some(kept));
        }
        let read = bucket.read(&key, limit_bytes).await?;
        if let Some(segment) = read.as_ref().filter(|segment| !is_stub(segment)) {
            recent.keep(seq, segment.clone());
        }
        Ok(read)
    }
}

impl Core {
    /// See [`Ledger::segments_of`](super::Ledger::segments_of).
    pub async fn segments_of(self: &Arc<Core>, origin: &Origin, after: u64, max_bytes: usize) -> Result<Segments, LedgerError> {
        let at = self.index.read(|rows| Core::ledger_in(rows, origin))?;
        if at.seq <= after {
            return Ok(if at.seq == 0 && *origin != self.origin { Segments::Unknown } else { Segments::None });
        }
        if *origin == self.origin {
            let is_kept = self.recent.get(after + 1).is_some();
            let _alone = if is_kept { None } else { Some(self.recent.reading.lock().await) };
            return Ok(own(&Kept(self), after, (at.seq, max_bytes)).await?);
        }
        relayed(&self.bucket, origin, after, (self.imports()?.number, max_bytes)).await
    }
}

/// Straight from another region's store. Nobody waits there: who asks comes again.
impl Source for ForeignBucket {
    async fn segments(&self, origin: &Origin, after: u64, _: Duration) -> Result<Segments, String> {
        if *origin == Origin::new(self.region(), self.incarnation()) {
            return own(self, after, (u64::MAX, MAX_BYTES)).await.map_err(|why| why.to_string());
        }
        let last = last_import(self).await.map_err(|why| why.to_string())?;
        relayed(self, origin, after, (last, MAX_BYTES)).await.map_err(|why| why.to_string())
    }
}

/// Segments of the root's own ledger, up to `last` and so many bytes. Mostly one is new: each round reads four times as many as the one
/// before, while all of them are there, so that one costs a handful of requests and many take a few rounds.
///
/// What there is after a moment is the answer: who asks a slow store for more than it gives in time would get nothing, and ask again.
async fn own(root: &impl Objects, after: u64, (last, max_bytes): (u64, usize)) -> Result<Segments, BucketError> {
    let Some(first) = root.read(Key::Ledger(after + 1), MAX_OBJECT_BYTES).await? else { return Ok(Segments::None) };
    if is_stub(&first) {
        return Ok(Segments::Trimmed);
    }
    let began = Instant::now();
    let mut bytes = first.len();
    let (mut found, mut round) = (vec![first], 1);
    while bytes < max_bytes && found.len() < MAX_SEGMENTS {
        round = (round * READ_AHEAD_GROWTH).min(MAX_SEGMENTS - found.len());
        let next = after + 1 + found.len() as u64;
        let numbers = (next..=last).take(round);
        let reads = join_all(numbers.map(|seq| root.read(Key::Ledger(seq), MAX_OBJECT_BYTES))).await;
        // What is here already goes first, whatever became of the rest.
        let whole = reads.into_iter().map_while(|read| read.ok().flatten().filter(|segment| !is_stub(segment)));
        let more: Vec<Bytes> = whole.collect();
        bytes += more.iter().map(Bytes::len).sum::<usize>();
        let is_end = more.len() < round;
        found.extend(more);
        if is_end || began.elapsed() >= READ_TIME {
            break;
        }
    }
    Ok(Segments::Some(fitting(found, max_bytes)))
}

/// The first of them, and what fits besides.
fn fitting(mut found: Vec<Bytes>, max_bytes: usize) -> Vec<Bytes> {
    let mut bytes = 0;
    let fits = found.iter().take_while(|segment| {
        bytes += segment.len();
        bytes <= max_bytes
    });
    let count = fits.count().max(1);
    found.truncate(count);
    found
}

/// What a root has imported of another ledger.
async fn relayed(root: &impl Objects, origin: &Origin, after: u64, (last, max_bytes): (u64, usize)) -> Result<Segments, LedgerError> {
    let mut next = after + 1;
    let (mut number, import) = match find(root, (origin, next), last).await? {
        Place::At(number, import) => (number, import),
        Place::Trimmed => return Ok(Segments::Trimmed),
        Place::Nowhere if after == 0 => return Ok(Segments::Unknown),
        Place::Nowhere => return Ok(Segments::None),
    };
    let began = Instant::now();
    let (mut found, mut bytes, mut imports) = (Vec::new(), 0, vec![import]);
    loop {
        for import in &imports {
            for segment in segments_in(import, origin, next) {
                bytes += segment.len();
                found.push(segment);
                next += 1;
            }
        }
        if bytes >= max_bytes || found.len() >= MAX_SEGMENTS || number >= last || began.elapsed() >= READ_TIME {
            break;
        }
        let numbers = (number + 1..=last).take(RELAYED_IMPORTS);
        let reads = join_all(numbers.map(|number| root.read(Key::Import(number), MAX_IMPORT_BYTES))).await;
        imports = reads.into_iter().map_while(|read| read.ok().flatten()).collect();
        if imports.is_empty() {
            break;
        }
        number += imports.len() as u64;
    }
    // Its import says that it is there or before: then it was folded from a snapshot, or trimmed.
    Ok(if found.is_empty() { Segments::Trimmed } else { Segments::Some(fitting(found, max_bytes)) })
}

enum Place {
    At(u64, Bytes),
    Trimmed,
    Nowhere,
}

/// The first import after which a segment is there: by bisection.
async fn find(root: &impl Objects, (origin, seq): (&Origin, u64), last: u64) -> Result<Place, LedgerError> {
    let (mut low, mut high) = (1, last);
    let (mut found, mut is_behind_stub) = (Place::Nowhere, false);
    while low <= high {
        let middle = low + (high - low) / 2;
        let bytes = root.read(Key::Import(middle), MAX_IMPORT_BYTES).await?;
        let bytes = bytes.ok_or_else(|| LedgerError::Broken(format!("import {middle} is not there")))?;
        let is_covered = match import::decode(&bytes) {
            Ok(Object::Import(import)) => import.header.seen.covers(origin, seq),
            // What was trimmed is old.
            Ok(Object::Stub(_)) => {
                is_behind_stub = true;
                false
            }
            Err(why) => return Err(LedgerError::Broken(format!("import {middle}: {why}"))),
        };
        if is_covered {
            found = Place::At(middle, bytes);
            high = middle - 1;
        } else {
            low = middle + 1;
        }
    }
    Ok(if matches!(found, Place::Nowhere) && is_behind_stub { Place::Trimmed } else { found })
}

/// The number of the last import of a root: by doubling, then by bisection. Imports have no gaps.
async fn last_import(root: &impl Objects) -> Result<u64, BucketError> {
    let mut high = 1;
    while root.read(Key::Import(high), MAX_IMPORT_BYTES).await?.is_some() {
        high *= 2;
    }
    let mut low = high / 2;
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if root.read(Key::Import(middle), MAX_IMPORT_BYTES).await?.is_some() { low = middle } else { high = middle }
    }
    Ok(low)
}

/// The segments of one ledger that an import holds, from a number on.
fn segments_in(import: &Bytes, origin: &Origin, mut next: u64) -> Vec<Bytes> {
    let Ok(Object::Import(import)) = import::decode(import) else { return Vec::new() };
    let mut found = Vec::new();
    for bytes in import.segments {
        if let Ok(segment::Object::Segment(segment)) = segment::decode(&bytes)
            && segment.header.origin == *origin
            && segment.header.seq == next
        {
            found.push(bytes);
            next += 1;
        }
    }
    found
}
