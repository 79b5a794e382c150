//! Reading what was pushed to this region. The ledger says what there is, the cache has the bytes.
//!
//! A positive answer rests on a look at the ledger's tail at most 250 ms old; a negative one, and a list, which denies what is not in
//! it, on a look begun after the request came. While the bucket is away, what this node knows is served as stale, and what it does not know is 503.
//! What is unknown here other regions are asked for (`abroad`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::abroad::{blob_name, content_of, manifest_of};
use super::{Asking, BlobHead, Check, Listed, Page, Registry};
use crate::cache::{Answer, CacheError, Freshness, Source, StoredManifest};
use crate::ledger::{Attributes, BlobEntry, Ledger, LedgerError, Look, ManifestEntry, ReferrersQuery};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, PushedManifest, Reference, RepositoryName, Tag};
use crate::replication::Name;
use crate::store::Content;

/// Referrers of one page, at most: their descriptors must fit 4 MiB of JSON as well.
const MAX_REFERRERS: usize = 1_000;
/// What a descriptor has besides its texts.
const DESCRIPTOR_BYTES: usize = 256;

/// Which referrers are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ReferrersPage<'a> {
    pub subject: &'a Digest,
    pub artifact_type: Option<&'a str>,
    pub after: Option<&'a Digest>,
}

impl Registry {
    /// Asks the ledger, and once more after a fresh look when the answer is no.
    pub(super) async fn find<T>(
        &self,
        ask: impl Fn(&Ledger) -> Result<Option<T>, LedgerError>,
    ) -> Result<Option<(T, Freshness)>, CacheError> {
        let ledger = &self.region()?.ledger;
        let confirmed = ledger.confirm(Look::Recent).await;
        if let Some(found) = ask(ledger)? {
            return Ok(Some((found, if confirmed.is_ok() { Freshness::Fresh } else { Freshness::Stale })));
        }
        ledger.confirm(Look::Now).await?;
        Ok(ask(ledger)?.map(|found| (found, Freshness::Fresh)))
    }

    /// The ledger for a list, which says of everything that is not in it that it is not there: after a fresh look, or as it was last
    /// known.
    pub(super) async fn for_list(&self) -> Result<(&Ledger, Freshness), CacheError> {
        let ledger = &self.region()?.ledger;
        let confirmed = ledger.confirm(Look::Now).await;
        Ok((ledger, if confirmed.is_ok() { Freshness::Fresh } else { Freshness::Stale }))
    }

    pub(super) async fn hosted_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        asking: &Asking,
    ) -> Result<Answer<StoredManifest>, CacheError> {
        // With what a lock on the name leaves of what may be done to it.
        let ask = |ledger: &Ledger| match reference {
            Reference::Digest(digest) => Ok(ledger.manifest(repository, digest)?.map(|entry| (Attributes::default(), entry))),
            Reference::Tag(tag) => match ledger.tag(repository, tag)? {
                Some(of) => Ok(ledger.manifest(repository, &of.digest)?.map(|entry| (of.attributes, entry))),
                None => Ok(None),
            },
        };
        let name = || Name::Manifest(repository.clone(), reference.clone());
        let take = |known| manifest_of(known).map(|entry| (Attributes::default(), entry));
        let ((of_name, entry), freshness) = self.find_anywhere(asking, name, (ask, take)).await?.ok_or(CacheError::Absent)?;
        self.check_readable(repository, reference, of_name.and(entry.attributes))?;
        let (bytes, source) = self.bytes_of(&entry.digest, &entry.content).await?;
        let freshness = if matches!(reference, Reference::Digest(_)) { Freshness::Immutable } else { freshness };
        let value = StoredManifest::new(entry.digest, entry.facts.media_type.as_str().into(), bytes);
        Ok(Answer { value, source, freshness })
    }

    async fn hosted_entry(&self, repository: &RepositoryName, digest: &Digest, asking: &Asking) -> Result<BlobEntry, CacheError> {
        // A manifest may be asked for where blobs are.
        let ask = |ledger: &Ledger| match ledger.blob(repository, digest)? {
            Some(entry) => Ok(Some((Attributes::default(), entry))),
            None => Ok(ledger.manifest(repository, digest)?.map(|manifest| (manifest.attributes, manifest.content))),
        };
        let take = |known| content_of(known).map(|entry| (Attributes::default(), entry));
        let found = self.find_anywhere(asking, || blob_name(repository, digest), (ask, take)).await?;
        let (attributes, entry) = found.ok_or(CacheError::Absent)?.0;
        self.check_readable(repository, &Reference::Digest(*digest), attributes)?;
        Ok(entry)
    }

    /// No lock keeps it from being read: neither the repository's nor those that leave `own`.
    fn check_readable(&self, repository: &RepositoryName, reference: &Reference, own: Attributes) -> Result<(), CacheError> {
        if !self.region()?.ledger.attributes(repository)?.read {
            return Err(CacheError::Locked(repository.to_string()));
        }
        match (own.read, reference) {
            (true, _) => Ok(()),
            (false, Reference::Tag(tag)) => Err(CacheError::Locked(format!("{repository}:{tag}"))),
            (false, Reference::Digest(digest)) => Err(CacheError::Locked(format!("{repository}@{digest}"))),
        }
    }

    pub(super) async fn hosted_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        asking: &Asking,
    ) -> Result<Answer<Content>, CacheError> {
        let entry = self.hosted_entry(repository, digest, asking).await?;
        let (value, source) = self.inner.cache.hosted(&self.inner.region, digest, &entry).await?;
        Ok(Answer { value, source, freshness: Freshness::Immutable })
    }

    pub(super) async fn hosted_blob_head(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        asking: &Asking,
    ) -> Result<Answer<BlobHead>, CacheError> {
        let size_bytes = self.hosted_entry(repository, digest, asking).await?.size_bytes;
        Ok(Answer { value: BlobHead { size_bytes }, source: Source::Memory, freshness: Freshness::Immutable })
    }

    pub(super) async fn hosted_tags(
        &self,
        repository: &RepositoryName,
        page: &Page,
        asking: &Asking,
    ) -> Result<Answer<Listed<Tag>>, CacheError> {
        let wanted = page.limit.saturating_add(1);
        self.level_for(repository, asking).await?;
        let (ledger, freshness) = self.for_list().await?;
        if ledger.repository(repository)?.is_none() {
            // Of one that is not known nothing is known while the bucket is away.
            return Err(if freshness == Freshness::Stale { unknown() } else { CacheError::Absent });
        }
        let entries = ledger.listed_tags(repository, page.last.as_deref(), wanted)?;
        let more = page.limit > 0 && entries.len() > page.limit;
        let names = entries.into_iter().take(page.limit).map(|entry| entry.tag).collect();
        Ok(Answer { value: Listed { names, more }, source: Source::Memory, freshness })
    }

    /// A page of at most 4 MiB.
    pub(super) async fn hosted_referrers(
        &self,
        repository: &RepositoryName,
        page: ReferrersPage<'_>,
        asking: &Asking,
    ) -> Result<Answer<Listed<Descriptor>>, CacheError> {
        self.level_for(repository, asking).await?;
        let query = ReferrersQuery {
            repository,
            subject: page.subject,
            artifact_type: page.artifact_type,
            after: page.after,
            limit: MAX_REFERRERS + 1,
        };
        let (ledger, freshness) = self.for_list().await?;
        let entries = ledger.referrers(&query)?;
        let (mut names, mut size_bytes, count) = (Vec::new(), 0, entries.len());
        for entry in entries.into_iter().take(MAX_REFERRERS) {
            let descriptor = self.descriptor(entry).await?;
            size_bytes += size_of_descriptor(&descriptor);
            if size_bytes > MAX_MANIFEST_BYTES - DESCRIPTOR_BYTES && !names.is_empty() {
                break;
            }
            names.push(descriptor);
        }
        let more = names.len() < count;
        Ok(Answer { value: Listed { names, more }, source: Source::Memory, freshness })
    }

    /// A manifest as lists of referrers show it (distribution-spec, "Listing Referrers").
    async fn descriptor(&self, entry: ManifestEntry) -> Result<Descriptor, CacheError> {
        let annotations = match entry.facts.abridged {
            false => entry.facts.annotations,
            true => {
                let bytes = self.bytes_of(&entry.digest, &entry.content).await?.0;
                let manifest = PushedManifest::parse(&bytes, None).map_err(|error| CacheError::WrongAnswer(error.to_string()))?;
                Some(manifest.annotations)
            }
        };
        Ok(Descriptor {
            media_type: entry.facts.media_type,
            digest: entry.digest,
            size: entry.facts.size_bytes,
            urls: Vec::new(),
            platform: None,
            artifact_type: entry.facts.artifact_type,
            annotations,
        })
    }

    /// The whole of a manifest.
    pub(super) async fn bytes_of(&self, digest: &Digest, entry: &BlobEntry) -> Result<(Bytes, Source), CacheError> {
        let (content, source) = self.inner.cache.hosted(&self.inner.region, digest, entry).await?;
        Ok((content.bytes().await?, source))
    }

    /// Names of hosted repositories that come after `last`, with those of this edge's cache, in order.
    pub(super) async fn repositories(&self, last: Option<&str>, limit: usize) -> Vec<RepositoryName> {
        let cached = self.inner.cache.repositories(last, limit).await;
        if last.is_none() {
            self.level_for_catalog().await;
        }
        // What is known is listed while the bucket is away.
        let hosted = match self.for_list().await {
            Ok((ledger, _)) => ledger.listed_repositories(last, limit).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let all = cached.into_iter().chain(hosted.into_iter().map(|entry| entry.name)).map(|name| (name.to_string(), name));
        all.collect::<BTreeMap<_, _>>().into_values().take(limit).collect()
    }

    /// What does not work of the region, as far as `check` looks.
    pub(super) async fn region_impaired(&self, check: Check) -> Option<String> {
        match (self.region(), check) {
            (Err(why), _) => Some(format!("bucket: {why}")),
            (Ok(_), Check::Shallow) => None,
            (Ok(open), Check::Deep) => open.bucket.probe().await.err().map(|why| format!("bucket: {why}")),
        }
    }
}

fn unknown() -> CacheError {
    CacheError::Unavailable { why: "the region's bucket does not answer".to_owned(), retry_after: None }
}

fn size_of_descriptor(descriptor: &Descriptor) -> usize {
    serde_json::to_vec(descriptor).map_or(DESCRIPTOR_BYTES, |json| json.len() + 1)
}
