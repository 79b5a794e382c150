//! Content of the own region's repositories: from memory, from the disk, from a file of the bucket's on this machine, or from the
//! bucket, by one transfer that every reader follows. Who may read it the ledger has said before.

use super::flight::{Early, Flights};
use super::{Cache, CacheError, SMALL_BLOB_BYTES, Source};
use crate::bucket::{Bucket, BucketError};
use crate::ledger::BlobEntry;
use crate::oci::Digest;
use crate::region::{NotOpen, Reading};
use crate::store::Content;

impl Cache {
    /// A blob or manifest of the own region. A small one is complete and verified when this returns, any other has its first byte.
    ///
    /// # Errors
    /// `Unavailable` when its bytes cannot be reached now.
    pub async fn hosted(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Result<(Content, Source), CacheError> {
        if let Some(bytes) = &entry.inline {
            return Ok((Content::from_memory(bytes.clone()), Source::Memory));
        }
        if let Some((content, source)) = self.at_hand(bucket, digest, entry).await {
            match self.ready(&content).await {
                Ok(()) => return Ok((content, source)),
                Err(error) => tracing::warn!(%digest, %error, "a blob of this region was unreadable here"),
            }
        }
        let content = self.bring_from(bucket, digest, entry).await?;
        match self.ready(&content).await {
            // Nobody told a lie: the region's own bytes are damaged.
            Err(CacheError::WrongAnswer(why)) => Err(unavailable(&why)),
            outcome => outcome.map(|()| (content, Source::Bucket)),
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

    async fn bring_from(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Result<Content, CacheError> {
        let (cache, bucket, digest, entry) = (self.clone(), bucket.clone(), *digest, entry.clone());
        let under_way = self.inner.hosted.start(digest, |early| async move { cache.fill_from(&bucket, &digest, &entry, &early).await });
        Flights::<Digest, _>::value(under_way).await?
    }

    /// Readers get the content with its first bytes.
    async fn fill_from(
        &self,
        bucket: &Bucket,
        digest: &Digest,
        entry: &BlobEntry,
        early: &Early<Result<Content, CacheError>>,
    ) -> Option<Result<Content, CacheError>> {
        // Another transfer may have ended between the caller's look and this one's start.
        if let Some((content, _)) = self.blob_here(digest).await {
            return Some(Ok(content));
        }
        let mut reading = Reading::new(bucket, entry);
        let mut ingest = self.inner.store.ingest(*digest, Some(entry.size_bytes));
        let ended = |outcome| self.inner.metrics.fill_ended("bucket", outcome);
        loop {
            match reading.next().await {
                Ok(Some(bytes)) => {
                    if ingest.position() == 0 {
                        early.publish(Ok(ingest.content()));
                    }
                    if let Err(error) = ingest.write(bytes).await {
                        ended("broken");
                        return Some(Err(unavailable(&error.to_string())));
                    }
                }
                Ok(None) => {
                    let finished = ingest.finish().await;
                    ended(if finished.is_ok() { "complete" } else { "mismatch" });
                    return finished.err().map(|error| Err(unavailable(&error.to_string())));
                }
                Err(error) => {
                    ended(if ingest.position() > 0 { "broken" } else { "refused" });
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

impl From<BucketError> for CacheError {
    fn from(error: BucketError) -> CacheError {
        CacheError::Unavailable { why: error.to_string(), retry_after: error.retry_after() }
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
