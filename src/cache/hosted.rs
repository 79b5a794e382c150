//! Content of hosted repositories: from memory, from the disk, from a file of the bucket's on this machine, or by one transfer that
//! every reader follows, from the own region's bucket or from another region. Who may read it the ledger has said before.

use super::flight::{Early, Flights};
use super::{Cache, CacheError, SMALL_BLOB_BYTES, Source};
use crate::bucket::Bucket;
use crate::ledger::BlobEntry;
use crate::oci::Digest;
use crate::region::{NotOpen, ReadError, Reading, Region};
use crate::store::Content;

/// Where a content may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// From the own region alone. Transfers of this kind wait for no other region, so that two regions that ask each other never wait
    /// in a circle.
    Own,
    /// From any region.
    Everywhere,
}

impl Cache {
    /// A blob or manifest of a hosted repository. A small one is complete and verified when this returns, any other has its first byte.
    ///
    /// # Errors
    /// `Unavailable` when its bytes cannot be reached now.
    pub async fn hosted(&self, region: &Region, digest: &Digest, entry: &BlobEntry) -> Result<(Content, Source), CacheError> {
        if let Some(here) = self.here(&region.get()?.bucket, digest, entry).await {
            return Ok(here);
        }
        self.reach(region, digest, entry, Reach::Everywhere).await
    }

    /// The same, for another region: only what this one has; `None` if it has nothing of it.
    ///
    /// # Errors
    /// `Unavailable` when this region has it and it cannot be reached now.
    pub async fn hosted_here(&self, region: &Region, digest: &Digest, entry: &BlobEntry) -> Result<Option<(Content, Source)>, CacheError> {
        let bucket = &region.get()?.bucket;
        if let Some(here) = self.here(bucket, digest, entry).await {
            return Ok(Some(here));
        }
        if !entry.is_in(bucket) {
            return Ok(None);
        }
        self.reach(region, digest, entry, Reach::Own).await.map(Some)
    }

    /// What needs no transfer.
    async fn here(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Option<(Content, Source)> {
        if let Some(bytes) = &entry.inline {
            return Some((Content::from_memory(bytes.clone()), Source::Memory));
        }
        let (content, source) = self.at_hand(bucket, digest, entry).await?;
        match self.ready(&content).await {
            Ok(()) => Some((content, source)),
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob of this region was unreadable here");
                None
            }
        }
    }

    async fn reach(&self, region: &Region, digest: &Digest, entry: &BlobEntry, reach: Reach) -> Result<(Content, Source), CacheError> {
        let (content, source) = self.join(region, digest, entry, reach).await?;
        match self.ready(&content).await {
            // Nobody told a lie: a region's own bytes are damaged.
            Err(CacheError::WrongAnswer(why)) => Err(unavailable(&why)),
            outcome => outcome.map(|()| (content, source)),
        }
    }

    async fn ready(&self, content: &Content) -> Result<(), CacheError> {
        match content.size_bytes() {
            Some(size) if size <= SMALL_BLOB_BYTES => content.complete().await?,
            _ => content.started().await?,
        }
        Ok(())
    }

    async fn at_hand(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Option<(Content, Source)> {
        if let Some(here) = self.blob_here(digest).await {
            return Some(here);
        }
        let path = entry.keys_in(bucket).find_map(|key| bucket.local_file(&key))?;
        let content = self.inner.store.bucket_file(digest, path).await?;
        Some((self.remembered(digest, content).await?, Source::Bucket))
    }

    async fn join(&self, region: &Region, digest: &Digest, entry: &BlobEntry, reach: Reach) -> Result<(Content, Source), CacheError> {
        let (cache, region, digest, entry) = (self.clone(), region.clone(), *digest, entry.clone());
        let filling = |early| async move { cache.fill_from(&region, &digest, (&entry, reach), &early).await };
        let under_way = self.inner.hosted.start((digest, reach), filling);
        Flights::<(Digest, Reach), _>::value(under_way).await?
    }

    /// Readers get the content with its first bytes.
    async fn fill_from(
        &self,
        region: &Region,
        digest: &Digest,
        (entry, reach): (&BlobEntry, Reach),
        early: &Early<Result<(Content, Source), CacheError>>,
    ) -> Option<Result<(Content, Source), CacheError>> {
        // Another transfer may have ended between the caller's look and this one's start.
        if let Some(here) = self.blob_here(digest).await {
            return Some(Ok(here));
        }
        let open = match region.get() {
            Ok(open) => open,
            Err(error) => return Some(Err(error.into())),
        };
        let mut reading = match reach {
            Reach::Own => Reading::own(&open.bucket, digest, entry),
            Reach::Everywhere => Reading::new(region, open, digest, entry),
        };
        let mut ingest = self.inner.store.ingest(*digest, Some(entry.size_bytes));
        let ended = |reading: &Reading, outcome| {
            self.inner.metrics.fill_ended(if reading.abroad().is_some() { "region" } else { "bucket" }, outcome);
        };
        loop {
            match reading.next().await {
                Ok(Some(bytes)) => {
                    if ingest.position() == 0 {
                        let source = reading.abroad().map_or(Source::Bucket, |name| Source::Region(name.clone()));
                        early.publish(Ok((ingest.content(), source)));
                    }
                    if let Err(error) = ingest.write(bytes).await {
                        ended(&reading, "broken");
                        return Some(Err(unavailable(&error.to_string())));
                    }
                }
                Ok(None) => {
                    let finished = ingest.finish().await;
                    ended(&reading, if finished.is_ok() { "complete" } else { "mismatch" });
                    return finished.err().map(|error| Err(unavailable(&error.to_string())));
                }
                Err(error) => {
                    ended(&reading, if ingest.position() > 0 { "broken" } else { "refused" });
                    ingest.abort(error.to_string());
                    return Some(Err(error.into()));
                }
            }
        }
    }
}

fn unavailable(why: &str) -> CacheError {
    CacheError::Unavailable { why: why.to_owned(), retry_after: None }
}

impl From<ReadError> for CacheError {
    fn from(error: ReadError) -> CacheError {
        CacheError::Unavailable { why: error.why, retry_after: error.retry_after }
    }
}

impl From<NotOpen> for CacheError {
    fn from(error: NotOpen) -> CacheError {
        unavailable(&error.to_string())
    }
}

impl From<crate::ledger::LedgerError> for CacheError {
    fn from(error: crate::ledger::LedgerError) -> CacheError {
        unavailable(&error.to_string())
    }
}
