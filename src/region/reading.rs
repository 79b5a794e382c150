//! A content's bytes, from front to back: from the own region's bucket, else from another region that has it, through its edges or from
//! its store. Where a transfer broke it is taken up again, there or at the next place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::peer::rooted;
use super::{Open, Peer, Region};
use crate::bucket::{Bucket, BucketError, Key, ObjectReader};
use crate::ledger::{BlobEntry, Origin, Place};
use crate::oci::Digest;
use crate::peers::{PeerError, Transfer};

/// Breaks at one place without a byte in between, after which the next place is tried.
const MAX_BREAKS: u32 = 4;
/// The wait after a break, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The bytes are not verified: who collects them hashes them.
pub struct Reading {
    bucket: Bucket,
    digest: Digest,
    /// Where it may be had; the first is being read.
    spots: VecDeque<Spot>,
    stream: Option<Stream>,
    at_bytes: u64,
    size_bytes: u64,
    breaks: u32,
}

/// Where a content may be had.
enum Spot {
    Own(Key),
    /// Of an earlier incarnation of the own region.
    Earlier(Place),
    Edges(Peer),
    Store(Peer, Place),
}

/// What gives the bytes now.
enum Stream {
    Object(ObjectReader),
    Transfer(Transfer),
}

/// Nobody who may have the content gives it, or the rest of it, now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ReadError {
    pub why: String,
    pub retry_after: Option<Duration>,
    /// Whether asking at once again, at the same place, may help.
    passing: bool,
}

impl Reading {
    /// From the own bucket, and where that fails from the regions that are known to have it.
    pub fn new(region: &Region, open: &Open, digest: &Digest, entry: &BlobEntry) -> Reading {
        let mut reading = Reading::own(&open.bucket, digest, entry);
        let own = Origin::of(&open.bucket).region;
        let abroad = || entry.places.iter().filter(|place| place.origin.region != own);
        let known = |place: &Place| region.peer(&place.origin.region).cloned();
        let mut edges: Vec<Peer> = Vec::new();
        for peer in abroad().filter_map(known).filter(|peer| peer.edges().is_some()) {
            if edges.iter().all(|other| other.name() != peer.name()) {
                edges.push(peer);
            }
        }
        reading.spots.extend(edges.into_iter().map(Spot::Edges));
        reading.spots.extend(abroad().filter_map(|place| Some(Spot::Store(known(place)?, place.clone()))));
        reading
    }

    /// From the own bucket alone.
    pub fn own(bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Reading {
        let earlier = entry.earlier_in(bucket).cloned().map(Spot::Earlier);
        let spots = entry.keys_in(bucket).map(Spot::Own).chain(earlier).collect();
        Reading { bucket: bucket.clone(), digest: *digest, spots, stream: None, at_bytes: 0, size_bytes: entry.size_bytes, breaks: 0 }
    }

    /// The other region that the bytes come from; `None` for the own one.
    pub fn abroad(&self) -> Option<&Arc<str>> {
        match self.spots.front()? {
            Spot::Own(_) | Spot::Earlier(_) => None,
            Spot::Edges(peer) | Spot::Store(peer, _) => Some(peer.name()),
        }
    }

    /// The next bytes, never empty; `None` when all of the content has come.
    ///
    /// # Errors
    /// No place has the rest. Asking again gives no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        while self.at_bytes < self.size_bytes {
            let next = match &mut self.stream {
                Some(Stream::Object(object)) => object.next().await.map_err(ReadError::from),
                Some(Stream::Transfer(transfer)) => transfer.next().await.map_err(ReadError::from),
                None => match self.begin().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match next {
                Ok(Some(bytes)) => {
                    self.at_bytes += bytes.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) => self.broke(ReadError::lasting("an object is shorter than it should be")).await?,
                Err(error) => self.broke(error).await?,
            }
        }
        Ok(None)
    }

    /// Asks the first place for what is still to come.
    async fn begin(&mut self) -> Result<Stream, ReadError> {
        let rest = self.at_bytes..self.size_bytes;
        let absent = |what: &dyn std::fmt::Display| ReadError::lasting(format!("{what} is not there"));
        match self.spots.front() {
            None => Err(ReadError::lasting("no region that can be reached has it")),
            Some(Spot::Own(key)) => {
                let object = self.bucket.open_object(key, rest).await?;
                Ok(Stream::Object(object.ok_or_else(|| absent(key))?))
            }
            Some(Spot::Earlier(place)) => {
                let object = self.bucket.earlier(&place.origin.incarnation).open_object(&Key::Blob(place.key), rest).await?;
                Ok(Stream::Object(object.ok_or_else(|| absent(place))?))
            }
            Some(Spot::Edges(peer)) => {
                let edges = peer.edges().ok_or_else(|| ReadError::lasting("the region has no edges"))?;
                // Another of its edges was asked already.
                let transfer = edges.content(&self.digest, rest).await.map_err(|error| ReadError { passing: false, ..error.into() })?;
                Ok(Stream::Transfer(transfer))
            }
            Some(Spot::Store(peer, place)) => {
                let store = peer.store().await.map_err(|error| ReadError::lasting(format!("the store of {}: {error}", peer.name())))?;
                let store = store.ok_or_else(|| ReadError::lasting(format!("nothing else of {} can be asked", peer.name())))?;
                match rooted(&store, &place.origin).open_object(&Key::Blob(place.key), rest).await {
                    Ok(object) => Ok(Stream::Object(object.ok_or_else(|| absent(place))?)),
                    Err(error) => {
                        peer.forget_store().await;
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// Goes on from here, or from another place, or not.
    async fn broke(&mut self, error: ReadError) -> Result<(), ReadError> {
        self.stream = None;
        self.breaks += 1;
        // With nothing in hand yet another place is as good, and need not be waited for.
        let elsewhere = self.at_bytes == 0 && self.spots.len() > 1;
        if error.passing && !elsewhere && self.breaks <= MAX_BREAKS {
            sleep(FIRST_PAUSE * 2_u32.pow(self.breaks - 1)).await;
            return Ok(());
        }
        self.breaks = 0;
        self.spots.pop_front();
        if self.spots.is_empty() { Err(error) } else { Ok(()) }
    }
}

impl ReadError {
    fn lasting(why: impl Into<String>) -> ReadError {
        ReadError { why: why.into(), retry_after: None, passing: false }
    }
}

impl From<BucketError> for ReadError {
    fn from(error: BucketError) -> ReadError {
        let passing = matches!(error, BucketError::Unavailable { .. });
        ReadError { why: error.to_string(), retry_after: error.retry_after(), passing }
    }
}

impl From<PeerError> for ReadError {
    fn from(error: PeerError) -> ReadError {
        let passing = matches!(error, PeerError::Unavailable { .. });
        ReadError { why: error.to_string(), retry_after: error.retry_after(), passing }
    }
}

#[cfg(test)]
mod tests;
