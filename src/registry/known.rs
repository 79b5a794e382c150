//! The same of an upstream's repository: what this edge holds of it. Nobody is asked, so nothing of it says what else there is.

use futures_util::{StreamExt, stream};

use super::listing::{Part, Selection};
use super::properties::{
    BATCH, Details, MANIFESTS_AT_ONCE, MAX_CONFIG_BYTES, ManifestProperties, RepositoryProperties, TagProperties, look_into, platform,
};
use super::{Listed, Registry};
use crate::cache::{CacheError, KnownManifest, KnownTag, Origin};
use crate::clock::Timestamp;
use crate::ledger::Attributes;
use crate::oci::{Digest, Tag};

/// Items of an upstream's repository that are looked at, at most.
const MAX_KNOWN: usize = 100_000;

/// An upstream's repository is what its upstream says: nothing is changed or deleted here.
const PROXIED: Attributes = Attributes { read: true, write: false, delete: false, list: true };

/// The upstream does not tell when a tag was set: it is as old as this edge's last look.
impl From<KnownTag> for TagProperties {
    fn from(known: KnownTag) -> TagProperties {
        let KnownTag { tag, digest, checked_at: at } = known;
        TagProperties { tag, digest, created_at: at, updated_at: at, attributes: PROXIED }
    }
}

impl Registry {
    pub(super) async fn known_repository(&self, origin: &Origin) -> Result<RepositoryProperties, CacheError> {
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

    pub(super) async fn known_tag_list(
        &self,
        origin: &Origin,
        part: &Part,
        of: Option<&Digest>,
    ) -> Result<Listed<TagProperties>, CacheError> {
        if !self.inner.cache.knows(&origin.repository).await {
            return Err(CacheError::Absent);
        }
        let at = match &part.after {
            Some(after) => self.known_tag_time(origin, &after.name).await,
            None => None,
        };
        let mut selection: Selection<TagProperties> = Selection::new(part, |_| at);
        self.each_known_tag(origin, |known| {
            if of.is_none_or(|digest| *digest == known.digest) {
                selection.offer(known.tag.clone().as_str(), known.checked_at, known.into());
            }
        })
        .await;
        Ok(selection.finish())
    }

    pub(super) async fn known_manifest_list(&self, origin: &Origin, part: &Part) -> Result<Listed<ManifestProperties>, CacheError> {
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

    pub(super) async fn known_properties(&self, origin: &Origin, known: KnownManifest, tags: Vec<Tag>) -> ManifestProperties {
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

    pub(super) async fn each_known_tag(&self, origin: &Origin, mut each: impl FnMut(KnownTag)) {
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
