//! Manifests: by digest, which never changes, and by tag, which is believed for a while.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::flight::Flights;
use super::memory::Turn;
use super::records::{Key, Kind, LinkRecord, TagRecord};
use super::{Answer, Cache, CacheError, Freshness, Origin, Source, StoredManifest};
use crate::clock::Timestamp;
use crate::oci::{Digest, MAX_MANIFEST_BYTES, Manifest, Reference, Tag};
use crate::upstream::{FetchedManifest, UpstreamError};

type Found = Result<Answer<StoredManifest>, CacheError>;

impl Cache {
    /// The manifest that `reference` names. One that is fetched makes the edge fetch its blobs ahead of the client.
    pub async fn manifest(&self, origin: &Origin, reference: &Reference) -> Found {
        match self.ready_manifest(origin, reference) {
            Some(answer) => Ok(answer),
            None => Box::pin(self.look_up(origin, reference)).await,
        }
    }

    async fn look_up(&self, origin: &Origin, reference: &Reference) -> Found {
        let turn = self.inner.memory.turn(&origin.repository);
        let key = manifest_key(origin, reference);
        match reference {
            Reference::Tag(tag) => self.manifest_by_tag(origin, tag, self.refusal(&key), turn).await,
            Reference::Digest(digest) => match self.barred(&key).await {
                Some(refusal) => Err(refusal),
                None => self.manifest_by_digest(origin, digest, turn).await,
            },
        }
    }

    /// An answer that was given before, while nothing has changed and the upstream's word is young enough.
    pub fn ready_manifest(&self, origin: &Origin, reference: &Reference) -> Option<Answer<StoredManifest>> {
        let ready = self.inner.memory.ready(&origin.repository, reference)?;
        let (believed, freshness) = match reference {
            Reference::Tag(_) => (origin.upstream.tag_ttl(), Freshness::Fresh),
            Reference::Digest(_) => (origin.upstream.authorization_ttl(), Freshness::Immutable),
        };
        let now = self.inner.clock.now();
        if now.since(ready.since) >= believed {
            return None;
        }
        if ready.is_used(now) {
            self.inner.store.touch(&ready.manifest.digest);
        }
        Some(Answer { value: ready.manifest.clone(), source: Source::Memory, freshness })
    }

    /// The next one who asks has the same answer at one look-up.
    fn make_ready(&self, origin: &Origin, reference: &Reference, (turn, since): (Turn, Timestamp), answer: &Answer<StoredManifest>) {
        if answer.source == Source::Memory {
            // By a tag and by its digest it is not as fresh.
            let manifest = StoredManifest { prepared: Arc::default(), ..answer.value.clone() };
            self.inner.memory.put_ready((&origin.repository, reference), turn, since, manifest);
        }
    }

    /// Forgets what is believed about `reference`, asks the upstream now, and tells what it says. Nothing stale is served.
    pub async fn refresh(&self, origin: &Origin, reference: &Reference) -> Found {
        self.inner.memory.forget_negative(&manifest_key(origin, reference));
        match reference {
            // Only what this repository has shown before can be confirmed by HEAD: bytes that lie here may be another upstream's.
            Reference::Digest(digest) if self.record::<LinkRecord>(&manifest_key(origin, reference)).await.is_some() => {
                self.confirm(origin, Kind::Manifest, digest).await?;
                self.tagged_manifest(origin, digest, Freshness::Immutable).await
            }
            Reference::Digest(_) => self.fetch(origin, reference).await,
            Reference::Tag(tag) => match self.record::<TagRecord>(&manifest_key(origin, reference)).await {
                Some(known) => self.revalidate(origin, tag, known).await,
                None => self.fetch(origin, reference).await,
            },
        }
    }

    async fn manifest_by_digest(&self, origin: &Origin, digest: &Digest, turn: Turn) -> Found {
        if let Some((link, freshness)) = self.standing(origin, Kind::Manifest, digest).await?
            && let Some(answer) = self.manifest_here(digest, &link, freshness).await
        {
            if freshness == Freshness::Stale {
                self.inner.metrics.stale_answer(origin.upstream.name());
            } else {
                self.make_ready(origin, &Reference::Digest(*digest), (turn, link.confirmed_at), &answer);
            }
            return Ok(answer);
        }
        self.fetch(origin, &Reference::Digest(*digest)).await
    }

    /// `refusal` is what the upstream's last word about this tag is remembered as, if it was none of use.
    async fn manifest_by_tag(&self, origin: &Origin, tag: &Tag, refusal: Option<CacheError>, turn: Turn) -> Found {
        let key = Key::Tag(origin.repository.clone(), tag.clone());
        let known = match (self.record::<TagRecord>(&key).await, refusal) {
            (Some(known), None) => known,
            (None, None) => return self.fetch(origin, &Reference::Tag(tag.clone())).await,
            // It is not asked again so soon, and what was true before it spoke nonsense is better than nothing.
            (Some(known), Some(CacheError::WrongAnswer(_))) if !self.is_closed_since(&origin.repository, known.checked_at).await => {
                return self.stale_manifest(origin, &known).await;
            }
            (_, Some(refusal)) => return Err(refusal),
        };
        let closed = self.is_closed_since(&origin.repository, known.checked_at).await;
        if !closed && self.inner.clock.now().since(known.checked_at) < origin.upstream.tag_ttl() {
            return match self.tagged_manifest(origin, &known.digest, Freshness::Fresh).await {
                // What it pointed to is gone: only the upstream knows where it points now.
                Err(CacheError::Absent) => self.fetch(origin, &Reference::Tag(tag.clone())).await,
                Ok(answer) => {
                    self.make_ready(origin, &Reference::Tag(tag.clone()), (turn, known.checked_at), &answer);
                    Ok(answer)
                }
                Err(error) => Err(error),
            };
        }
        let revalidation = self.revalidate(origin, tag, known.clone());
        let revalidated = if closed { Some(revalidation.await) } else { self.patiently(origin.upstream.name(), revalidation).await };
        match revalidated {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(CacheError::Absent)) => Err(CacheError::Absent),
            Some(Err(error)) if closed => Err(error),
            Some(Err(_)) | None => self.stale_manifest(origin, &known).await,
        }
    }

    async fn stale_manifest(&self, origin: &Origin, known: &TagRecord) -> Found {
        let answer = self.tagged_manifest(origin, &known.digest, Freshness::Stale).await?;
        self.inner.metrics.stale_answer(origin.upstream.name());
        Ok(answer)
    }

    /// The manifest of a tag whose digest is known: from here, or fetched by that digest.
    async fn tagged_manifest(&self, origin: &Origin, digest: &Digest, freshness: Freshness) -> Found {
        let key = Key::Link(origin.repository.clone(), Kind::Manifest, *digest);
        if let Some(link) = self.record::<LinkRecord>(&key).await
            && let Some(answer) = self.manifest_here(digest, &link, freshness).await
        {
            return Ok(answer);
        }
        Ok(Answer { freshness, ..self.fetch(origin, &Reference::Digest(*digest)).await? })
    }

    /// A linked manifest whose bytes are in memory or on the disk.
    pub(super) async fn manifest_here(&self, digest: &Digest, link: &LinkRecord, freshness: Freshness) -> Option<Answer<StoredManifest>> {
        let media_type = link.media_type.clone()?;
        let (bytes, source) = match self.inner.memory.bytes(digest) {
            Some(bytes) => {
                self.inner.store.touch(digest);
                (bytes, Source::Memory)
            }
            None => (self.manifest_on_disk(digest).await?, Source::Disk),
        };
        Some(Answer { value: StoredManifest::new(*digest, media_type, bytes), source, freshness })
    }

    async fn manifest_on_disk(&self, digest: &Digest) -> Option<Bytes> {
        let content = self.inner.store.blob(digest).await?;
        let size = usize::try_from(content.size_bytes()?).ok().filter(|size| *size <= MAX_MANIFEST_BYTES)?;
        let (mut bytes, mut region) = (BytesMut::with_capacity(size), content.whole());
        // A file whose bytes turn out to be wrong ends in an error, and is a miss.
        while let Some(block) = region.next(size.max(1)).await.ok()? {
            bytes.extend_from_slice(&block);
        }
        let bytes = bytes.freeze();
        self.inner.memory.put_bytes(*digest, bytes.clone());
        Some(bytes)
    }

    /// Asks by HEAD whether a tag still points where it did, and fetches what it points to if not.
    fn revalidate(&self, origin: &Origin, tag: &Tag, known: Arc<TagRecord>) -> impl Future<Output = Found> + Send + use<> {
        let reference = Reference::Tag(tag.clone());
        let (cache, origin) = (self.clone(), origin.clone());
        let flights = &self.inner.manifests;
        let asked = flights.start((origin.repository.clone(), reference.clone()), |_| async move {
            Some(match origin.upstream.head_manifest(&origin.remote, &reference).await {
                Ok(head) if head.digest == Some(known.digest) => {
                    cache.link(&origin, Kind::Manifest, &known.digest, Some(head.media_type), head.size_bytes);
                    cache.point(&origin, &reference, known.digest);
                    cache.tagged_manifest(&origin, &known.digest, Freshness::Revalidated).await
                }
                // It has moved, or this upstream does not tell digests by HEAD, or knows no HEAD.
                Ok(_) | Err(UpstreamError::WrongAnswer(_)) => cache.fetch_now(&origin, &reference).await,
                Err(error) => Err(cache.lost(&origin, &reference, error).await),
            })
        });
        async { Flights::<(crate::oci::RepositoryName, Reference), Found>::value(asked).await? }
    }

    /// Fetches a manifest from the upstream: once, however many wait.
    async fn fetch(&self, origin: &Origin, reference: &Reference) -> Found {
        let (cache, owned_origin, owned_reference) = (self.clone(), origin.clone(), reference.clone());
        let key = (origin.repository.clone(), reference.clone());
        self.inner.manifests.join(key, || async move { cache.fetch_now(&owned_origin, &owned_reference).await }).await?
    }

    async fn fetch_now(&self, origin: &Origin, reference: &Reference) -> Found {
        match origin.upstream.get_manifest(&origin.remote, reference).await {
            Ok(fetched) => Ok(self.keep(origin, reference, fetched).await),
            Err(error) => Err(self.lost(origin, reference, error).await),
        }
    }

    /// The upstream does not show what `reference` names: what was known of it ends, unless it could not be asked.
    async fn lost(&self, origin: &Origin, reference: &Reference, error: UpstreamError) -> CacheError {
        let key = manifest_key(origin, reference);
        let error = self.refused(origin, &key, error).await;
        if error == CacheError::Absent {
            self.forget_record(&key);
        }
        error
    }

    /// Remembers a manifest that has just come from the upstream, and starts to fetch its blobs.
    async fn keep(&self, origin: &Origin, reference: &Reference, fetched: FetchedManifest) -> Answer<StoredManifest> {
        let FetchedManifest { digest, media_type, bytes } = fetched;
        let freshness = match reference {
            Reference::Tag(_) => Freshness::Fresh,
            Reference::Digest(_) => Freshness::Immutable,
        };
        self.inner.memory.put_bytes(digest, bytes.clone());
        self.link(origin, Kind::Manifest, &digest, Some(media_type.clone()), Some(bytes.len() as u64));
        self.point(origin, reference, digest);
        self.note_repository(origin).await;
        if let Ok(manifest) = Manifest::parse(&bytes, &media_type) {
            self.fetch_ahead(origin, &manifest);
        }
        self.write_behind(digest, bytes.clone());
        let value = StoredManifest::new(digest, media_type, bytes);
        Answer { value, source: origin.source(), freshness }
    }

    /// Notes where a tag points now.
    fn point(&self, origin: &Origin, reference: &Reference, digest: Digest) {
        if let Reference::Tag(_) = reference {
            let key = manifest_key(origin, reference);
            self.put_record(&key, TagRecord { digest, checked_at: self.inner.clock.now() });
            self.inner.memory.forget_negative(&key);
        }
    }

    /// Puts a manifest on the disk without keeping its reader waiting. Losing it costs one more fetch.
    fn write_behind(&self, digest: Digest, bytes: Bytes) {
        let mut ingest = self.inner.store.ingest(digest, Some(bytes.len() as u64));
        tokio::spawn(async move {
            let written = match ingest.write(bytes).await {
                Ok(()) => ingest.finish().await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::debug!(%digest, %error, "a manifest was not written to the disk");
            }
        });
    }
}

/// The record that `reference` is about.
fn manifest_key(origin: &Origin, reference: &Reference) -> Key {
    let repository = origin.repository.clone();
    match reference {
        Reference::Tag(tag) => Key::Tag(repository, tag.clone()),
        Reference::Digest(digest) => Key::Link(repository, Kind::Manifest, *digest),
    }
}
