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
use crate::cache::{CacheError, Freshness, KnownManifest, KnownTag, Origin};
use crate::clock::Timestamp;
use crate::ledger::{Attributes, Ledger, ManifestEntry, TagEntry};
use crate::oci::{Descriptor, Digest, Manifest, RepositoryName, Tag};

/// Items that are read at a time.
const BATCH: usize = 1_000;
/// Items of an upstream's repository that are looked at, at most.
const MAX_KNOWN: usize = 100_000;
/// Manifests of one page that are looked into at one time, and for how long at most: what is not told by then is left out.
const MANIFESTS_AT_ONCE: usize = 8;
const DETAIL_TIME: Duration = Duration::from_secs(2);
/// The largest image configuration that is looked into.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// An upstream's repository is what its upstream says: nothing is changed or deleted here.
const PROXIED: Attributes = Attributes { read: true, write: false, delete: false, list: true };

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

/// The upstream does not tell when a tag was set: it is as old as this edge's last look.
impl From<KnownTag> for TagProperties {
    fn from(known: KnownTag) -> TagProperties {
        let KnownTag { tag, digest, checked_at: at } = known;
        TagProperties { tag, digest, created_at: at, updated_at: at, attributes: PROXIED }
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

    async fn known_repository(&self, origin: &Origin) -> Result<RepositoryProperties, CacheError> {
        if !self.inner.cache.knows(&origin.repository).await {
            return Err(CacheError::Absent);
        }
        let (mut times, mut tags, mut manifests) = (Times::default(), 0, 0);
        self.each_known_tag(origin, |known| {
            times.see(known.checked_at);
            tags += 1;
        })
        .await;
        self.each_known_manifest(origin, |known| {
            times.see(known.confirmed_at);
            manifests += 1;
        })
        .await;
        let Times { first: created_at, last: updated_at } = times;
        Ok(RepositoryProperties { created_at, updated_at, tags, manifests, attributes: PROXIED })
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
        let mut selection: Selection<TagProperties>;
        match self.home(access)? {
            Home::Hosted(repository) => {
                let ledger = self.ledger_for_list(repository).await?;
                let at_of = |name: &str| Some(ledger.tag(repository, &name.parse().ok()?).ok()??.updated_at);
                selection = Selection::new(part, at_of);
                let offer = |selection: &mut Selection<TagProperties>, entry: TagEntry| {
                    selection.offer(&entry.tag.to_string(), entry.updated_at, entry.into());
                };
                if let Some(digest) = of {
                    for tag in ledger.tags_of(repository, digest)? {
                        let listed = ledger.tag(repository, &tag)?.filter(|entry| entry.attributes.list);
                        listed.into_iter().for_each(|entry| offer(&mut selection, entry));
                    }
                } else {
                    let mut last = part.after.as_ref().filter(|_| part.order == Order::ByName).map(|after| after.name.clone());
                    loop {
                        let wanted = if part.order == Order::ByName { BATCH.min(part.limit + 1) } else { BATCH };
                        let batch = ledger.listed_tags(repository, last.as_deref(), wanted)?;
                        let Some(end) = batch.last().map(|entry| entry.tag.to_string()) else { break };
                        let is_end = batch.len() < wanted;
                        batch.into_iter().for_each(|entry| offer(&mut selection, entry));
                        if is_end || selection.is_full() {
                            break;
                        }
                        last = Some(end);
                        tokio::task::yield_now().await;
                    }
                }
            }
            Home::Proxied(origin) => {
                if !self.inner.cache.knows(&origin.repository).await {
                    return Err(CacheError::Absent);
                }
                let at = match &part.after {
                    Some(after) => self.known_tag_time(&origin, &after.name).await,
                    None => None,
                };
                selection = Selection::new(part, |_| at);
                self.each_known_tag(&origin, |known| {
                    if of.is_none_or(|digest| *digest == known.digest) {
                        selection.offer(&known.tag.to_string(), known.checked_at, known.clone().into());
                    }
                })
                .await;
            }
        }
        Ok(selection.finish())
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

    async fn known_manifest_list(&self, origin: &Origin, part: &Part) -> Result<Listed<ManifestProperties>, CacheError> {
        if !self.inner.cache.knows(&origin.repository).await {
            return Err(CacheError::Absent);
        }
        let at = match part.after.as_ref().map(|after| after.name.parse()) {
            Some(Ok(digest)) => self.inner.cache.known_manifest(&origin.repository, &digest).await.map(|known| known.confirmed_at),
            _ => None,
        };
        let mut selection: Selection<KnownManifest> = Selection::new(part, |_| at);
        self.each_known_manifest(origin, |known| selection.offer(&known.digest.to_string(), known.confirmed_at, known.clone())).await;
        let Listed { names: known, more } = selection.finish();
        let mut tags: Vec<Vec<Tag>> = vec![Vec::new(); known.len()];
        self.each_known_tag(origin, |tag| {
            if let Some(at) = known.iter().position(|manifest| manifest.digest == tag.digest) {
                tags[at].push(tag.tag);
            }
        })
        .await;
        let told = stream::iter(known.into_iter().zip(tags)).map(|(known, tags)| self.known_properties(origin, known, tags));
        Ok(Listed { names: told.buffered(MANIFESTS_AT_ONCE).collect().await, more })
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

    async fn known_properties(&self, origin: &Origin, known: KnownManifest, tags: Vec<Tag>) -> ManifestProperties {
        let KnownManifest { digest, media_type, confirmed_at: at, .. } = known;
        let looking = async {
            let bytes = self.inner.cache.known_manifest_bytes(&origin.repository, &digest).await?;
            let (details, config) = look_into(&bytes, media_type.as_deref()?)?;
            let config = match config {
                Some(config) => self.inner.cache.known_blob_bytes(origin, &config.digest, MAX_CONFIG_BYTES).await,
                None => None,
            };
            Some(Details { platform: config.as_ref().and_then(platform), ..details })
        };
        let details = looking.await.unwrap_or_default();
        let media_type = media_type.as_deref().map(str::to_owned);
        ManifestProperties { digest, media_type, created_at: at, updated_at: at, tags, attributes: PROXIED, details }
    }

    async fn known_tag_time(&self, origin: &Origin, name: &str) -> Option<Timestamp> {
        self.inner.cache.known_tag(&origin.repository, &name.parse().ok()?).await.map(|known| known.checked_at)
    }

    async fn each_known_tag(&self, origin: &Origin, mut each: impl FnMut(KnownTag)) {
        let (mut seen, mut last) = (0, None);
        while seen < MAX_KNOWN {
            let (batch, next) = self.inner.cache.known_tags(&origin.repository, last.as_deref(), BATCH).await;
            batch.into_iter().for_each(&mut each);
            let Some(next) = next else { break };
            (seen, last) = (seen + BATCH, Some(next));
        }
    }

    async fn each_known_manifest(&self, origin: &Origin, mut each: impl FnMut(KnownManifest)) {
        let (mut seen, mut last) = (0, None);
        while seen < MAX_KNOWN {
            let (batch, next) = self.inner.cache.known_manifests(&origin.repository, last.as_deref(), BATCH).await;
            batch.into_iter().for_each(&mut each);
            let Some(next) = next else { break };
            (seen, last) = (seen + BATCH, Some(next));
        }
    }
}

/// The first and the last of what was seen.
#[derive(Default)]
struct Times {
    first: Timestamp,
    last: Timestamp,
}

impl Times {
    fn see(&mut self, at: Timestamp) {
        let is_first = self.first == Timestamp::default();
        self.first = if is_first { at } else { self.first.min(at) };
        self.last = self.last.max(at);
    }
}

/// What a manifest tells by itself, and where it has its configuration.
fn look_into(bytes: &Bytes, media_type: &str) -> Option<(Details, Option<Descriptor>)> {
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
fn platform(config: &Bytes) -> Option<Platform> {
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
