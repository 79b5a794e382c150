//! What this edge knows of an upstream's repository without asking: the records of its cache, as lists with attributes show them.
//! Nothing of it says what else the upstream has.

use std::sync::Arc;

use bytes::Bytes;

use super::records::{self, Key, Kind, LinkRecord, RepositoryRecord, TagRecord};
use super::{Cache, Freshness, Origin};
use crate::clock::Timestamp;
use crate::oci::{Digest, RepositoryName, Tag};

/// A tag, and where it pointed when the upstream was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTag {
    pub tag: Tag,
    pub digest: Digest,
    pub checked_at: Timestamp,
}

/// A manifest that the upstream showed in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownManifest {
    pub digest: Digest,
    pub media_type: Option<Arc<str>>,
    pub size_bytes: Option<u64>,
    pub confirmed_at: Timestamp,
}

impl Cache {
    /// When the upstream last refused to show a repository of which something is held: what was seen before no longer counts. `None`
    /// where nothing is held.
    async fn known(&self, repository: &RepositoryName) -> Option<Arc<RepositoryRecord>> {
        self.record(&Key::Repository(repository.clone())).await
    }

    /// Whether anything of a repository is held.
    pub async fn knows(&self, repository: &RepositoryName) -> bool {
        self.known(repository).await.is_some()
    }

    pub async fn known_tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<KnownTag> {
        let record = self.record::<TagRecord>(&Key::Tag(repository.clone(), tag.clone())).await?;
        let known = KnownTag { tag: tag.clone(), digest: record.digest, checked_at: record.checked_at };
        (!self.is_closed_since(repository, known.checked_at).await).then_some(known)
    }

    pub async fn known_manifest(&self, repository: &RepositoryName, digest: &Digest) -> Option<KnownManifest> {
        let record = self.record::<LinkRecord>(&Key::Link(repository.clone(), Kind::Manifest, *digest)).await?;
        let known = manifest(*digest, &record);
        (!self.is_closed_since(repository, known.confirmed_at).await).then_some(known)
    }

    /// Tags behind `after` in the order of their names, at most so many, and where the list goes on.
    pub async fn known_tags(&self, repository: &RepositoryName, after: Option<&str>, limit: usize) -> (Vec<KnownTag>, Option<String>) {
        self.list_known(&format!("tag\0{repository}\0"), (repository, after, limit), |name, bytes| {
            let record: TagRecord = records::decode(bytes)?;
            let tag = KnownTag { tag: name.parse().ok()?, digest: record.digest, checked_at: record.checked_at };
            Some((tag.checked_at, tag))
        })
        .await
    }

    /// Manifests behind `after` in the order of their digests, at most so many, and where the list goes on.
    pub async fn known_manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> (Vec<KnownManifest>, Option<String>) {
        self.list_known(&format!("manifest\0{repository}\0"), (repository, after, limit), |name, bytes| {
            let record: LinkRecord = records::decode(bytes)?;
            Some((record.confirmed_at, manifest(name.parse().ok()?, &record)))
        })
        .await
    }

    /// The records under a prefix, each with the time from which it counts.
    async fn list_known<T>(
        &self,
        prefix: &str,
        (repository, after, limit): (&RepositoryName, Option<&str>, usize),
        read: impl Fn(&str, &[u8]) -> Option<(Timestamp, T)>,
    ) -> (Vec<T>, Option<String>) {
        let closed_at = self.known(repository).await.and_then(|record| record.closed_at);
        let after = after.map(|name| format!("{prefix}{name}"));
        let found = self.inner.store.records(prefix, after.as_deref(), limit).await;
        let last = found.last().filter(|_| found.len() == limit).and_then(|(key, _)| key.strip_prefix(prefix)).map(str::to_owned);
        let known = found.iter().filter_map(|(key, bytes)| read(key.strip_prefix(prefix)?, bytes));
        let counts = |at: &Timestamp| closed_at.is_none_or(|closed_at| closed_at < *at);
        (known.filter(|(at, _)| counts(at)).map(|(_, item)| item).collect(), last)
    }

    /// The bytes of a manifest that is known, if they are in memory or on the disk.
    pub async fn known_manifest_bytes(&self, repository: &RepositoryName, digest: &Digest) -> Option<Bytes> {
        let link = self.record::<LinkRecord>(&Key::Link(repository.clone(), Kind::Manifest, *digest)).await?;
        Some(self.manifest_here(digest, &link, Freshness::Stale).await?.value.bytes)
    }

    /// The bytes of a blob that the upstream showed in the repository, if it sent them and they are in memory or on the disk; `None`
    /// for one that is larger than so many bytes, too.
    pub async fn known_blob_bytes(&self, origin: &Origin, digest: &Digest, max_bytes: u64) -> Option<Bytes> {
        self.record::<LinkRecord>(&Key::Link(origin.repository.clone(), Kind::Blob, *digest)).await?;
        if !self.holds(origin, digest).await {
            return None;
        }
        let (content, _) = self.blob_here(digest).await?;
        if content.size_bytes()? > max_bytes {
            return None;
        }
        content.bytes().await.ok()
    }
}

fn manifest(digest: Digest, record: &LinkRecord) -> KnownManifest {
    KnownManifest { digest, media_type: record.media_type.clone(), size_bytes: record.size_bytes, confirmed_at: record.confirmed_at }
}
