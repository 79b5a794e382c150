//! Fetching ahead: a manifest that came from an upstream makes the edge fetch its blobs before the client asks for them.
//!
//! Over a long link a client's few connections wait for one round trip after another; the edge has the whole list at once. A client
//! that asks for a blob never waits for its turn here: it joins the transfer, or starts it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::{Answer, Cache, CacheError, Origin};
use crate::oci::{Descriptor, Digest, Manifest, Platform, Reference};
use crate::store::Content;
use crate::trace;
use crate::upstream::Upstream;

/// Manifests whose blobs are fetched ahead at one time; beyond it clients fetch for themselves.
const MAX_MANIFESTS_AHEAD: usize = 64;

/// Manifests of one index that a prefetch follows.
const MAX_PLATFORMS: usize = 128;

/// The turns of transfers that no client has asked for yet.
#[derive(Debug)]
pub(super) struct Prefetches {
    /// Transfers ahead at a time for one upstream; 0 turns fetching ahead off.
    width: usize,
    turns: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    manifests: Arc<Semaphore>,
}

/// What a prefetch brought: all blobs of the image, those that were here before included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Prefetched {
    pub manifests: usize,
    pub blobs: usize,
    pub bytes: u64,
}

impl Prefetches {
    pub(super) fn new(width: usize) -> Prefetches {
        Prefetches { width, turns: Mutex::default(), manifests: Arc::new(Semaphore::new(MAX_MANIFESTS_AHEAD)) }
    }

    /// Transfers ahead at a time for this upstream: at least half of its connections are for clients.
    fn width(&self, upstream: &Upstream) -> usize {
        self.width.min(upstream.max_connections() / 2)
    }

    /// The turns for one upstream; one in all when fetching ahead is off and an operator asks for it.
    fn turns(&self, upstream: &Upstream) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(upstream.name().clone()).or_insert_with(|| Arc::new(Semaphore::new(self.width(upstream).max(1)))).clone()
    }
}

impl Cache {
    /// Starts to fetch the blobs of a manifest, and does not wait. An index has none: the client chooses its platform next.
    pub(super) fn fetch_ahead(&self, origin: &Origin, manifest: &Manifest) {
        let blobs: Vec<Digest> = manifest.blobs().map(|blob| blob.digest).collect();
        if self.inner.prefetches.width(&origin.upstream) == 0 || blobs.is_empty() {
            return;
        }
        let Ok(place) = self.inner.prefetches.manifests.clone().try_acquire_owned() else { return };
        let (cache, origin) = (self.clone(), origin.clone());
        tokio::spawn(trace::carried(async move {
            let _place = place;
            if let Err(error) = cache.fetch_all(&origin, blobs).await {
                tracing::debug!(repository = %origin.repository, %error, "fetching ahead ended early");
            }
        }));
    }

    /// Fetches an image whole: the manifest, of an index each platform's or the one asked for (`os/architecture`), and all blobs.
    pub async fn prefetch(&self, origin: &Origin, reference: &Reference, platform: Option<&str>) -> Result<Prefetched, CacheError> {
        let mut brought = Prefetched::default();
        let mut blobs: HashMap<Digest, u64> = HashMap::new();
        let mut images = Vec::new();
        match self.parsed(origin, reference, &mut brought).await? {
            Manifest::Index(index) => {
                let wanted = index.manifests.into_iter().filter(|child| platform.is_none_or(|wanted| is_platform(child, wanted)));
                for child in wanted.take(MAX_PLATFORMS) {
                    images.push(self.parsed(origin, &Reference::Digest(child.digest), &mut brought).await?);
                }
            }
            image @ Manifest::Image(_) => images.push(image),
        }
        for image in &images {
            blobs.extend(image.blobs().map(|blob| (blob.digest, blob.size)));
        }
        brought.blobs = blobs.len();
        // Sizes are what the manifest claims.
        brought.bytes = blobs.values().fold(brought.bytes, |sum, size| sum.saturating_add(*size));
        self.fetch_all(origin, blobs.into_keys().collect()).await?;
        Ok(brought)
    }

    async fn parsed(&self, origin: &Origin, reference: &Reference, brought: &mut Prefetched) -> Result<Manifest, CacheError> {
        let manifest = self.manifest(origin, reference).await?.value;
        brought.manifests += 1;
        brought.bytes += manifest.bytes.len() as u64;
        Manifest::parse(&manifest.bytes, &manifest.media_type).map_err(|error| CacheError::WrongAnswer(error.to_string()))
    }

    /// Brings blobs to this edge, `width` at a time for an upstream, in order. Fails with the first failure, after all were tried.
    async fn fetch_all(&self, origin: &Origin, blobs: Vec<Digest>) -> Result<(), CacheError> {
        let mut first = Ok(());
        let mut note = |done: Result<Result<(), CacheError>, _>| {
            if let (Ok(()), failed @ Err(_)) = (&first, done.unwrap_or_else(|_: JoinError| Err(abandoned()))) {
                first = failed;
            }
        };
        let turns = self.inner.prefetches.turns(&origin.upstream);
        let mut under_way = JoinSet::new();
        for digest in blobs {
            // The semaphore is never closed.
            let Ok(turn) = turns.clone().acquire_owned().await else { break };
            while let Some(done) = under_way.try_join_next() {
                note(done);
            }
            let (cache, origin) = (self.clone(), origin.clone());
            under_way.spawn(trace::carried(async move {
                let _turn = turn;
                cache.bring(&origin, &digest).await
            }));
        }
        while let Some(done) = under_way.join_next().await {
            note(done);
        }
        first
    }

    async fn bring(&self, origin: &Origin, digest: &Digest) -> Result<(), CacheError> {
        let joined = self.inner.transfers.is_running(&(origin.upstream.name().clone(), *digest));
        let Answer { value, source, .. }: Answer<Content> = self.blob(origin, digest).await?;
        if !joined && matches!(source, super::Source::Upstream(_)) {
            self.inner.metrics.prefetched();
        }
        Ok(value.complete().await?)
    }
}

fn abandoned() -> CacheError {
    super::flight::Abandoned.into()
}

fn is_platform(child: &Descriptor, wanted: &str) -> bool {
    child.platform.as_ref().is_some_and(|Platform { architecture, os, variant }| {
        let plain = format!("{os}/{architecture}");
        wanted == plain || variant.as_ref().is_some_and(|variant| wanted == format!("{plain}/{variant}"))
    })
}
