//! Content on its way into the bucket, of a size that nobody knows yet, in bounded memory.
//!
//! What fits in one part is one request. More becomes parts that the store puts together at the end: one part is gathered while
//! `PARTS_IN_FLIGHT` are being sent. A key is used by one upload only, so a completion whose answer was lost is settled by looking.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};
use tokio::task::JoinSet;

use super::error::BucketError;
use super::local::FileUpload;
use super::wire::{Sending, Wire};

/// Parts of one upload that are being sent at one time.
const PARTS_IN_FLIGHT: usize = 2;
/// How many times larger than the configured size the parts up to this number are. S3 takes 10,000 parts; some stores compatible with
/// it want them equal, so that they grow only where content is larger than 5,000 parts of the configured size (40 GiB by default).
const GROWTH: &[(usize, usize)] = &[(5_000, 1), (7_500, 4), (10_000, 16)];

/// An upload to one key. Dropping it before [`finish`](Self::finish) gives it up in the background.
pub struct ObjectUpload(Kind);

impl std::fmt::Debug for ObjectUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectUpload").finish_non_exhaustive()
    }
}

enum Kind {
    Parts(PartsUpload),
    File(FileUpload),
}

impl ObjectUpload {
    pub(super) async fn begin(wire: &Wire, path: Path) -> Result<ObjectUpload, BucketError> {
        Ok(ObjectUpload(match &wire.sending {
            Sending::Files(folder) => Kind::File(FileUpload::begin(wire.clone(), folder, &path).await?),
            Sending::Parts(store) => Kind::Parts(PartsUpload::new(wire.clone(), store.clone(), path)),
        }))
    }

    /// Accepts the next bytes; waits while the store is behind. The bytes are accepted even if the future is dropped.
    ///
    /// # Errors
    /// Also those of bytes accepted earlier. After an error the upload is of no use any more.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BucketError> {
        match &mut self.0 {
            Kind::Parts(upload) => upload.write(bytes).await,
            Kind::File(upload) => upload.write(bytes).await,
        }
    }

    /// Makes the content durable under its key; its size.
    ///
    /// # Errors
    /// The content may or may not be there.
    pub async fn finish(self) -> Result<u64, BucketError> {
        match self.0 {
            Kind::Parts(upload) => upload.finish().await,
            Kind::File(upload) => upload.finish().await,
        }
    }

    /// Gives up. What was sent is removed as far as the store can be told to: the rest is for its lifecycle rule for unfinished parts.
    pub async fn abort(self) {
        match self.0 {
            Kind::Parts(mut upload) => {
                if let Some(given_up) = upload.give_up() {
                    given_up.abort().await;
                }
            }
            Kind::File(upload) => drop(upload),
        }
    }
}

struct PartsUpload {
    wire: Wire,
    store: Arc<dyn MultipartStore>,
    path: Path,
    /// None while everything may still fit in one request.
    id: Option<MultipartId>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    accepted: u64,
    next_index: usize,
    in_flight: JoinSet<Result<(usize, PartId), BucketError>>,
    sent: BTreeMap<usize, PartId>,
}

/// An upload that the store has to be told about.
struct GivenUp {
    wire: Wire,
    store: Arc<dyn MultipartStore>,
    path: Path,
    id: MultipartId,
}

impl PartsUpload {
    fn new(wire: Wire, store: Arc<dyn MultipartStore>, path: Path) -> PartsUpload {
        PartsUpload {
            wire,
            store,
            path,
            id: None,
            pending: Vec::new(),
            pending_bytes: 0,
            accepted: 0,
            next_index: 0,
            in_flight: JoinSet::new(),
            sent: BTreeMap::new(),
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), BucketError> {
        self.pending_bytes += bytes.len();
        self.accepted += bytes.len() as u64;
        self.pending.push(bytes);
        loop {
            let part_bytes = part_bytes(self.next_index, self.wire.part_bytes)?;
            // The last part is sent by `finish`, which must know that it is the last.
            if self.pending_bytes <= part_bytes {
                return Ok(());
            }
            self.send(part_bytes).await?;
        }
    }

    async fn finish(mut self) -> Result<u64, BucketError> {
        if self.id.is_none() {
            let payload = self.take(self.pending_bytes);
            self.wire.put(&self.path, payload).await?;
            return Ok(self.accepted);
        }
        self.send(self.pending_bytes).await?;
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        let Some(id) = self.id.clone() else { return Err(BucketError::Broken("an upload without parts".into())) };
        let sent: Vec<PartId> = self.sent.values().cloned().collect();
        match self.wire.complete(&*self.store, &self.path, &id, &sent).await {
            Ok(()) => {}
            Err(error) if !self.is_there().await? => return Err(error),
            // The answer was lost, or it is that of a second attempt.
            Err(_) => {}
        }
        self.id = None;
        Ok(self.accepted)
    }

    async fn is_there(&self) -> Result<bool, BucketError> {
        Ok(self.wire.head(&self.path).await?.is_some_and(|found| found.size == self.accepted))
    }

    /// Sends so many of the pending bytes as the next part. Everything that waits comes before anything is taken, so that a dropped
    /// future loses no bytes.
    async fn send(&mut self, bytes: usize) -> Result<(), BucketError> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.id.insert(self.wire.begin(&*self.store, &self.path).await?).clone(),
        };
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.settle_one().await?;
        }
        let payload = self.take(bytes);
        let (wire, store, path, index) = (self.wire.clone(), self.store.clone(), self.path.clone(), self.next_index);
        self.next_index += 1;
        self.in_flight.spawn(async move { wire.part(&*store, &path, &id, index, payload).await.map(|part| (index, part)) });
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), BucketError> {
        match self.in_flight.join_next().await {
            Some(Ok(outcome)) => outcome.map(|(index, part)| drop(self.sent.insert(index, part))),
            Some(Err(_)) => Err(BucketError::unavailable("the process is ending")),
            None => Ok(()),
        }
    }

    /// The first `bytes` of what is pending.
    fn take(&mut self, bytes: usize) -> PutPayload {
        self.pending_bytes -= bytes;
        let (mut taken, mut left) = (Vec::new(), bytes);
        let mut rest = std::mem::take(&mut self.pending).into_iter();
        for mut block in rest.by_ref() {
            if block.len() > left {
                taken.push(block.split_to(left));
                self.pending.push(block);
                break;
            }
            left -= block.len();
            taken.push(block);
        }
        self.pending.extend(rest);
        taken.into_iter().collect()
    }

    fn give_up(&mut self) -> Option<GivenUp> {
        self.in_flight.abort_all();
        let id = self.id.take()?;
        Some(GivenUp { wire: self.wire.clone(), store: self.store.clone(), path: self.path.clone(), id })
    }
}

impl GivenUp {
    async fn abort(self) {
        if let Err(error) = self.wire.abort(&*self.store, &self.path, &self.id).await {
            tracing::debug!(%error, path = %self.path, "parts of an upload are left to the bucket's lifecycle rule");
        }
    }
}

impl Drop for PartsUpload {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(given_up), Ok(runtime)) = (self.give_up(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(given_up.abort());
        }
    }
}

/// How large the part of this number is, unless it is the last.
fn part_bytes(index: usize, configured: usize) -> Result<usize, BucketError> {
    let growth = GROWTH.iter().find(|(end, _)| index < *end);
    growth.map(|(_, factor)| configured * factor).ok_or_else(|| {
        BucketError::Refused("the content has more parts than a store takes: a larger bucket.part_size makes room for it".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_equal_as_long_as_they_can_and_end_with_the_stores_limit() {
        const MIB: usize = 1 << 20;
        let sizes: Vec<u64> = (0..).map_while(|index| part_bytes(index, 8 * MIB).ok()).map(|size| size as u64).collect();
        assert_eq!(sizes.len(), 10_000);
        assert!(sizes[..5_000].iter().all(|size| *size == 8 << 20));
        assert!(sizes.is_sorted() && sizes[9_999] == 128 << 20);
        assert_eq!(sizes.iter().sum::<u64>() >> 30, 429);
    }
}
