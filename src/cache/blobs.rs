//! Blobs: from memory, from the disk, or from a transfer that every reader follows.

use super::records::{Key, Kind};
use super::{Answer, Cache, CacheError, Freshness, Origin, SMALL_BLOB_BYTES, Source};
use crate::oci::Digest;
use crate::store::Content;

impl Cache {
    /// A blob of a repository. A small one is complete and verified when this returns, any other has its first byte.
    pub async fn blob(&self, origin: &Origin, digest: &Digest) -> Result<Answer<Content>, CacheError> {
        if let Some(refusal) = self.barred(&blob_key(origin, digest)).await {
            return Err(refusal);
        }
        let answer = match self.standing(origin, Kind::Blob, digest).await? {
            Some((_, freshness)) => {
                if freshness == Freshness::Stale {
                    self.inner.metrics.stale_answer(origin.upstream.name());
                }
                self.linked_blob(origin, digest, freshness).await?
            }
            None => {
                let (cache, owned, digest) = (self.clone(), origin.clone(), *digest);
                let key = (origin.repository.clone(), digest);
                self.inner.admissions.join(key, || async move { cache.admit(&owned, &digest).await }).await??
            }
        };
        let ready = match answer.value.size_bytes() {
            Some(size) if size <= SMALL_BLOB_BYTES => answer.value.complete().await,
            _ => answer.value.started().await,
        };
        match ready {
            Ok(()) => Ok(answer),
            // A transfer that failed has left its reason; a file that turned out to be corrupt is gone, and fetched anew.
            Err(error) if answer.source == Source::Disk => {
                tracing::warn!(%digest, %error, "a cached blob was unreadable");
                Ok(Answer { value: self.transfer(origin, digest).await?, source: origin.source(), freshness: answer.freshness })
            }
            Err(error) => Err(self.refusal(&blob_key(origin, digest)).unwrap_or_else(|| error.into())),
        }
    }

    /// The size of a blob, without fetching it.
    pub async fn blob_size(&self, origin: &Origin, digest: &Digest) -> Result<Answer<u64>, CacheError> {
        if let Some(refusal) = self.barred(&blob_key(origin, digest)).await {
            return Err(refusal);
        }
        let unknown = || CacheError::Unavailable { why: "the upstream does not tell the blob's size".to_owned(), retry_after: None };
        let Some((link, freshness)) = self.standing(origin, Kind::Blob, digest).await? else {
            let value = self.confirm(origin, Kind::Blob, digest).await?.ok_or_else(unknown)?;
            return Ok(Answer { value, source: origin.source(), freshness: Freshness::Immutable });
        };
        if freshness == Freshness::Stale {
            self.inner.metrics.stale_answer(origin.upstream.name());
        }
        if let Some(value) = link.size_bytes {
            return Ok(Answer { value, source: Source::Memory, freshness });
        }
        // It came, or is coming, without a length: its end tells it.
        let content = self.linked_blob(origin, digest, freshness).await?;
        content.value.complete().await?;
        let value = content.value.size_bytes().ok_or_else(unknown)?;
        Ok(Answer { value, source: content.source, freshness })
    }

    /// A blob that the upstream has shown in this repository.
    async fn linked_blob(&self, origin: &Origin, digest: &Digest, freshness: Freshness) -> Result<Answer<Content>, CacheError> {
        // A link is the upstream's word; bytes that another upstream brought are not its to show.
        if self.holds(origin, digest).await
            && let Some((value, source)) = self.blob_here(digest).await
        {
            return Ok(Answer { value, source, freshness });
        }
        Ok(Answer { value: self.transfer(origin, digest).await?, source: origin.source(), freshness })
    }

    /// Finds out whether a repository has a blob. When its bytes came from this upstream before, or are coming now, a HEAD is
    /// enough; else the transfer itself is the question.
    async fn admit(&self, origin: &Origin, digest: &Digest) -> Result<Answer<Content>, CacheError> {
        // The admission before this one may have ended, with a link, between this caller's look and its turn.
        if let Some((_, freshness)) = self.standing(origin, Kind::Blob, digest).await? {
            return self.linked_blob(origin, digest, freshness).await;
        }
        let coming = self.inner.transfers.is_running(&(origin.upstream.name().clone(), *digest));
        if coming || (self.holds(origin, digest).await && self.blob_here(digest).await.is_some()) {
            self.confirm(origin, Kind::Blob, digest).await?;
            return self.linked_blob(origin, digest, Freshness::Immutable).await;
        }
        let value = self.transfer(origin, digest).await?;
        Ok(Answer { value, source: origin.source(), freshness: Freshness::Immutable })
    }

    /// A blob whose bytes are in memory or on the disk, whoever may see them.
    pub(super) async fn blob_here(&self, digest: &Digest) -> Option<(Content, Source)> {
        if let Some(bytes) = self.inner.memory.bytes(digest) {
            self.inner.store.touch(digest);
            return Some((Content::from_memory(bytes), Source::Memory));
        }
        let content = self.inner.store.blob(digest).await?;
        Some((self.remembered(digest, content).await?, Source::Disk))
    }

    /// A small content is taken into memory; `None` when its file is bad.
    pub(super) async fn remembered(&self, digest: &Digest, content: Content) -> Option<Content> {
        match content.size_bytes().filter(|size| *size <= SMALL_BLOB_BYTES) {
            None => Some(content),
            Some(_) => {
                let bytes = content.bytes().await.ok()?;
                self.inner.memory.put_bytes(*digest, bytes.clone());
                Some(Content::from_memory(bytes))
            }
        }
    }
}

pub(super) fn blob_key(origin: &Origin, digest: &Digest) -> Key {
    Key::Link(origin.repository.clone(), Kind::Blob, *digest)
}
