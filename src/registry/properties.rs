//! What there is of repositories, tags and manifests, with times, sizes and what locks leave of what may be done to them: for lists
//! with attributes. Of what is hosted the ledger says it, of an upstream's what this edge holds of it, and nobody is asked.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::Instant;

use super::listing::{Order, Part, Selection};
use super::{Asking, Home, Listed, Registry};
use crate::access::Access;
use crate::cache::{CacheError, Freshness};
use crate::clock::Timestamp;
use crate::ledger::{Attributes, Ledger, ManifestEntry, TagEntry};
use crate::oci::{Descriptor, Digest, Manifest, RepositoryName, Tag};

/// Items that are read at a time.
pub(super) const BATCH: usize = 1_000;
/// Manifests of one page that are looked into at one time, and for how long at most: what is not told by then is left out.
pub(super) const MANIFESTS_AT_ONCE: usize = 8;
const DETAIL_TIME: Duration = Duration::from_secs(2);
/// The largest image configuration that is looked into.
pub(super) const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryProperties {
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: u64,
    pub manifests: u64,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TagProperties {
    pub tag: Tag,
    pub digest: Digest,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ManifestProperties {
    pub digest: Digest,
    pub media_type: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: Vec<Tag>,
    pub attributes: Attributes,
    pub details: Details,
}

/// What stands in a manifest and in its configuration, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Of an image: its configuration and layers. Of an index: its own bytes.
    pub image_size_bytes: Option<u64>,
    pub config_media_type: Option<String>,
    pub platform: Option<Platform>,
    /// Of an index: the manifests that it lists.
    pub references: Vec<(Digest, Option<Platform>)>,
}

/// For what an image is made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
}

impl From<TagEntry> for TagProperties {
    fn from(entry: TagEntry) -> TagProperties {
        let TagEntry { tag, digest, created_at, updated_at, attributes, .. } = entry;
        TagProperties { tag, digest, created_at, updated_at, attributes }
    }
}

impl Registry {
    /// # Errors
    /// `Absent` after a look at the ledger; `Unavailable` where that fails and nothing is known.
    pub async fn repository_properties(&self, access: &Access) -> Result<RepositoryProperties, CacheError> {
        match self.home(access)? {
            Home::Hosted(repository) => {
                self.level_for(repository, &Asking::default()).await?;
                let (entry, _) = self.find(|ledger| ledger.repository(repository)).await?.ok_or(CacheError::Absent)?;
                let (created_at, updated_at) = (entry.created_at, entry.updated_at);
                let (tags, manifests, attributes) = (entry.tags, entry.manifests, entry.attributes);
                Ok(RepositoryProperties { created_at, updated_at, tags, manifests, attributes })
            }
            Home::Proxied(origin) => self.known_repository(&origin).await,
        }
    }

    /// # Errors
    /// As for a repository.
    pub async fn tag_properties(&self, access: &Access, tag: &Tag) -> Result<TagProperties, CacheError> {
        match self.home(access)? {
            Home::Hosted(repository) => {
                self.level_for(repository, &Asking::default()).await?;
                let (entry, _) = self.find(|ledger| ledger.tag(repository, tag)).await?.ok_or(CacheError::Absent)?;
                Ok(entry.into())
            }
            Home::Proxied(origin) => {
                let known = self.inner.cache.known_tag(&origin.repository, tag).await;
                known.map(TagProperties::from).ok_or(CacheError::Absent)
            }
        }
    }

    /// # Errors
    /// As for a repository.
    pub async fn manifest_properties(&self, access: &Access, digest: &Digest) -> Result<ManifestProperties, CacheError> {
        let until = Instant::now() + DETAIL_TIME;
        match self.home(access)? {
            Home::Hosted(repository) => {
                self.level_for(repository, &Asking::default()).await?;
                let (entry, _) = self.find(|ledger| ledger.manifest(repository, digest)).await?.ok_or(CacheError::Absent)?;
                self.hosted_properties(repository, entry, until).await
            }
            Home::Proxied(origin) => {
                let known = self.inner.cache.known_manifest(&origin.repository, digest).await.ok_or(CacheError::Absent)?;
                let mut tags = Vec::new();
                self.each_known_tag(&origin, |tag| tags.extend((tag.digest == *digest).then_some(tag.tag))).await;
                Ok(self.known_properties(&origin, known, tags).await)
            }
        }
    }

    /// Tags that no lock keeps out of lists, those of one manifest where its digest is given. In the order of times the whole
    /// repository is walked for each page.
    ///
    /// # Errors
    /// As for a repository.
    pub async fn tag_list(&self, access: &Access, part: &Part, of: Option<&Digest>) -> Result<Listed<TagProperties>, CacheError> {
        match self.home(access)? {
            Home::Hosted(repository) => self.hosted_tag_list(repository, part, of).await,
            Home::Proxied(origin) => self.known_tag_list(&origin, part, of).await,
        }
    }

    /// Manifests that no lock keeps out of lists. In the order of times the whole repository is walked for each page.
    ///
    /// # Errors
    /// As for a repository.
    pub async fn manifest_list(&self, access: &Access, part: &Part) -> Result<Listed<ManifestProperties>, CacheError> {
        match self.home(access)? {
            Home::Hosted(repository) => self.hosted_manifest_list(repository, part).await,
            Home::Proxied(origin) => self.known_manifest_list(&origin, part).await,
        }
    }

    async fn hosted_tag_list(
        &self,
        repository: &RepositoryName,
        part: &Part,
        of: Option<&Digest>,
    ) -> Result<Listed<TagProperties>, CacheError> {
        let ledger = self.ledger_for_list(repository).await?;
        let at_of = |name: &str| Some(ledger.tag(repository, &name.parse().ok()?).ok()??.updated_at);
        let mut selection: Selection<TagProperties> = Selection::new(part, at_of);
        if let Some(digest) = of {
            for tag in ledger.tags_of(repository, digest)? {
                let listed = ledger.tag(repository, &tag)?.filter(|entry| entry.attributes.list);
                listed.into_iter().for_each(|entry| offer(&mut selection, entry));
            }
            return Ok(selection.finish());
        }
        let by_name = part.order == Order::ByName;
        let mut last = part.after.as_ref().filter(|_| by_name).map(|after| after.name.clone());
        loop {
            let wanted = if by_name { BATCH.min(part.limit + 1) } else { BATCH };
            let batch = ledger.listed_tags(repository, last.as_deref(), wanted)?;
            let is_end = batch.len() < wanted;
            last = batch.last().map(|entry| entry.tag.to_string()).or(last);
            batch.into_iter().for_each(|entry| offer(&mut selection, entry));
            if is_end || selection.is_full() {
                return Ok(selection.finish());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn hosted_manifest_list(&self, repository: &RepositoryName, part: &Part) -> Result<Listed<ManifestProperties>, CacheError> {
        let ledger = self.ledger_for_list(repository).await?;
        let at_of = |name: &str| Some(ledger.manifest(repository, &name.parse().ok()?).ok()??.updated_at);
        let mut selection: Selection<ManifestEntry> = Selection::new(part, at_of);
        let by_name = part.order == Order::ByName;
        let mut last: Option<Digest> = part.after.as_ref().filter(|_| by_name).and_then(|after| after.name.parse().ok());
        loop {
            let wanted = if by_name { BATCH.min(part.limit + 1) } else { BATCH };
            let batch = ledger.manifests(repository, last.as_ref(), wanted)?;
            let is_end = batch.len() < wanted;
            last = batch.last().map(|entry| entry.digest).or(last);
            for entry in batch.into_iter().filter(|entry| entry.attributes.list) {
                selection.offer(&entry.digest.to_string(), entry.updated_at, entry);
            }
            if is_end || selection.is_full() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let Listed { names: entries, more } = selection.finish();
        let until = Instant::now() + DETAIL_TIME;
        let told = stream::iter(entries).map(|entry| self.hosted_properties(repository, entry, until)).buffered(MANIFESTS_AT_ONCE);
        let names = told.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Listed { names, more })
    }

    /// The ledger, if the repository is there, after a fresh look.
    async fn ledger_for_list(&self, repository: &RepositoryName) -> Result<&Ledger, CacheError> {
        self.level_for(repository, &Asking::default()).await?;
        let (ledger, freshness) = self.for_list().await?;
        match (ledger.repository(repository)?, freshness) {
            (Some(_), _) => Ok(ledger),
            (None, Freshness::Stale) => Err(CacheError::Unavailable { why: "the bucket does not answer".to_owned(), retry_after: None }),
            (None, _) => Err(CacheError::Absent),
        }
    }

    async fn hosted_properties(
        &self,
        repository: &RepositoryName,
        entry: ManifestEntry,
        until: Instant,
    ) -> Result<ManifestProperties, CacheError> {
        let tags = self.region()?.ledger.tags_of(repository, &entry.digest)?;
        let looking = async {
            let (bytes, _) = self.bytes_of(&entry.digest, &entry.content).await.ok()?;
            let (details, config) = look_into(&bytes, &entry.facts.media_type)?;
            let platform = match config {
                Some(config) => self.hosted_platform(repository, &config).await,
                None => None,
            };
            Some(Details { platform, ..details })
        };
        let details = tokio::time::timeout_at(until, looking).await.ok().flatten().unwrap_or_default();
        Ok(ManifestProperties {
            digest: entry.digest,
            media_type: Some(entry.facts.media_type),
            created_at: entry.created_at,
            updated_at: entry.updated_at,
            tags,
            attributes: entry.attributes,
            details,
        })
    }

    async fn hosted_platform(&self, repository: &RepositoryName, config: &Descriptor) -> Option<Platform> {
        let entry = self.region().ok()?.ledger.blob(repository, &config.digest).ok()??;
        if entry.size_bytes > MAX_CONFIG_BYTES {
            return None;
        }
        let (bytes, _) = self.bytes_of(&config.digest, &entry).await.ok()?;
        platform(&bytes)
    }
}

fn offer(selection: &mut Selection<TagProperties>, entry: TagEntry) {
    selection.offer(entry.tag.clone().as_str(), entry.updated_at, entry.into());
}

/// What a manifest tells by itself, and where it has its configuration.
pub(super) fn look_into(bytes: &Bytes, media_type: &str) -> Option<(Details, Option<Descriptor>)> {
    Some(match Manifest::parse(bytes, media_type).ok()? {
        Manifest::Image(image) => {
            let parts = image.config.iter().chain(&image.layers);
            let image_size_bytes = parts.fold(0_u64, |sum, part| sum.saturating_add(part.size));
            let config_media_type = image.config.as_ref().map(|config| config.media_type.clone());
            (Details { image_size_bytes: Some(image_size_bytes), config_media_type, ..Details::default() }, image.config)
        }
        Manifest::Index(index) => {
            let references = index.manifests.into_iter().map(|child| {
                let platform = child.platform.map(|platform| Platform { architecture: platform.architecture, os: platform.os });
                (child.digest, platform)
            });
            (Details { image_size_bytes: Some(bytes.len() as u64), references: references.collect(), ..Details::default() }, None)
        }
    })
}

/// What a configuration says (image-spec 1.1, config.md); charts and the like say nothing.
pub(super) fn platform(config: &Bytes) -> Option<Platform> {
    serde_json::from_slice::<Platform>(config).ok().filter(|platform| !(platform.architecture.is_empty() && platform.os.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_tells_its_size_its_configuration_and_its_platforms() {
        let (config, layer) = (Digest::sha256(b"config"), Digest::sha256(b"layer"));
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let image = json!({"schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": "a/config", "digest": config, "size": 7}, "layers": [{"mediaType": "l", "digest": layer, "size": 30}]});
        let (details, told) = look_into(&image.to_string().into(), media_type).unwrap();
        assert_eq!((details.image_size_bytes, details.config_media_type.as_deref()), (Some(37), Some("a/config")));
        assert_eq!(told.map(|config| config.digest), Some(config));
        let media_type = "application/vnd.oci.image.index.v1+json";
        let child = json!({"mediaType": "m", "digest": layer, "size": 1, "platform": {"architecture": "arm64", "os": "linux"}});
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [child]}).to_string();
        let (details, told) = look_into(&index.clone().into(), media_type).unwrap();
        let arm64 = Platform { architecture: "arm64".to_owned(), os: "linux".to_owned() };
        assert_eq!((details.references, told), (vec![(layer, Some(arm64.clone()))], None));
        assert_eq!(details.image_size_bytes, Some(index.len() as u64));
        assert_eq!(platform(&Bytes::from_static(br#"{"architecture":"arm64","os":"linux","config":{}}"#)), Some(arm64));
        for config in ["{}", r#"{"name":"chart"}"#, "not json", "[]"] {
            assert_eq!(platform(&config.to_owned().into()), None, "{config}");
        }
        assert_eq!(look_into(&Bytes::from_static(b"{}"), "text/html"), None);
    }
}
