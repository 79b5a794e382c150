//! Whether a digest may be served from a repository: its link, and the upstream's yes behind it.

use std::sync::Arc;

use super::flight::Flights;
use super::records::{HeldRecord, Key, Kind, LinkRecord, RepositoryRecord};
use super::{Cache, CacheError, Freshness, Origin};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepositoryName};

impl Cache {
    /// The link of a digest in a repository, once it is valid: an aged one is confirmed first. `None` when there is no link, which
    /// says nothing about the upstream.
    pub(super) async fn standing(
        &self,
        origin: &Origin,
        kind: Kind,
        digest: &Digest,
    ) -> Result<Option<(Arc<LinkRecord>, Freshness)>, CacheError> {
        let key = Key::Link(origin.repository.clone(), kind, *digest);
        let Some(link) = self.record::<LinkRecord>(&key).await else { return Ok(None) };
        let closed = self.is_closed_since(&origin.repository, link.confirmed_at).await;
        if !closed && self.inner.clock.now().since(link.confirmed_at) < origin.upstream.authorization_ttl() {
            return Ok(Some((link, Freshness::Immutable)));
        }
        if !closed && matches!(self.refusal(&key), Some(CacheError::WrongAnswer(_))) {
            // It has just spoken nonsense and is not asked again so soon.
            return Ok(Some((link, Freshness::Stale)));
        }
        let confirmation = self.start_confirmation(origin, kind, digest);
        let confirmed = if closed { Some(confirmation.await) } else { self.patiently(origin.upstream.name(), confirmation).await };
        match confirmed {
            Some(Ok(_)) => Ok(self.record(&key).await.map(|link| (link, Freshness::Immutable))),
            Some(Err(CacheError::Absent)) => Err(CacheError::Absent),
            Some(Err(error)) if closed => Err(error),
            // The upstream cannot be asked, and its last word was yes.
            Some(Err(_)) | None => Ok(Some((link, Freshness::Stale))),
        }
    }

    /// The refusal remembered for a link. Nonsense takes nothing back that the upstream has shown before.
    pub(super) async fn barred(&self, key: &Key) -> Option<CacheError> {
        match self.refusal(key)? {
            CacheError::WrongAnswer(_) if self.record::<LinkRecord>(key).await.is_some() => None,
            refusal => Some(refusal),
        }
    }

    /// Asks the upstream whether this repository has this digest, and links it. One question at a time; the answer is its size,
    /// if told.
    pub(super) async fn confirm(&self, origin: &Origin, kind: Kind, digest: &Digest) -> Result<Option<u64>, CacheError> {
        self.start_confirmation(origin, kind, digest).await
    }

    fn start_confirmation(
        &self,
        origin: &Origin,
        kind: Kind,
        digest: &Digest,
    ) -> impl Future<Output = Result<Option<u64>, CacheError>> + Send + use<> {
        let key = Key::Link(origin.repository.clone(), kind, *digest);
        let (cache, origin, digest) = (self.clone(), origin.clone(), *digest);
        let asked = self.inner.confirmations.start(key.clone(), |_| async move {
            let head = match kind {
                Kind::Blob => origin.upstream.head_blob(&origin.remote, &digest).await.map(|size_bytes| (None, Some(size_bytes))),
                Kind::Manifest => origin
                    .upstream
                    .head_manifest(&origin.remote, &Reference::Digest(digest))
                    .await
                    .map(|head| (Some(head.media_type), head.size_bytes)),
            };
            Some(match head {
                Ok((media_type, size_bytes)) => {
                    cache.link(&origin, kind, &digest, media_type, size_bytes);
                    cache.note_repository(&origin).await;
                    Ok(size_bytes)
                }
                Err(error) => {
                    let error = cache.refused(&origin, &key, error).await;
                    if error == CacheError::Absent {
                        cache.forget_record(&key);
                    }
                    Err(error)
                }
            })
        });
        async { Flights::<Key, _>::value(asked).await? }
    }

    /// Notes that the upstream has just shown this digest in this repository.
    pub(super) fn link(&self, origin: &Origin, kind: Kind, digest: &Digest, media_type: Option<Arc<str>>, size_bytes: Option<u64>) {
        let key = Key::Link(origin.repository.clone(), kind, *digest);
        let confirmed_at = self.inner.clock.now();
        self.put_record(&key, LinkRecord { media_type, size_bytes, confirmed_at });
        self.inner.memory.forget_negative(&key);
    }

    /// Notes that a repository exists, for the catalogue.
    pub(super) async fn note_repository(&self, origin: &Origin) {
        let key = Key::Repository(origin.repository.clone());
        if self.record::<RepositoryRecord>(&key).await.is_none() {
            self.put_record(&key, RepositoryRecord::default());
        }
    }

    /// Whether the upstream has refused to show this repository at or after `time`.
    pub(super) async fn is_closed_since(&self, repository: &RepositoryName, time: Timestamp) -> bool {
        let record = self.record::<RepositoryRecord>(&Key::Repository(repository.clone())).await;
        record.and_then(|record| record.closed_at).is_some_and(|closed_at| closed_at >= time)
    }

    /// Whether the bytes of this digest once came from this upstream, through whichever of its repositories.
    pub(super) async fn holds(&self, origin: &Origin, digest: &Digest) -> bool {
        self.record::<HeldRecord>(&Key::Held(origin.upstream.name().clone(), *digest)).await.is_some()
    }
}
