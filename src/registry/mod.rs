//! The use cases without HTTP: pull, discover, refresh.
//!
//! Each takes an [`Access`], the proof that its caller may do this to this repository. Only then is a digest looked at.

mod names;
pub mod push;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use names::{Addressing, Names, Target, UnknownNamespace};

use crate::access::Access;
pub use crate::cache::Prefetched;
use crate::cache::{Answer, Cache, CacheError, Origin, StoredManifest};
use crate::config::path_prefix;
use crate::oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::store::{Content, Store};
use crate::upstream::Upstream;

/// How many names the catalogue reads at a time while it looks for those that a caller may see.
const CATALOG_BATCH: usize = 256;
/// Names that one page of the catalogue looks at, at most: a caller who may see few of very many gets a short page with a link.
const MAX_CATALOG_SCAN: usize = 100_000;

/// How long a deep look waits for an upstream.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// Everything an edge can do for a caller. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    store: Store,
    /// By the path component that a full repository name begins with.
    upstreams: RwLock<Arc<HashMap<String, Arc<Upstream>>>>,
}

/// Which part of a sorted list is wanted: at most `limit` names that come after `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    pub last: Option<String>,
}

/// A part of a sorted list, and whether more follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    pub names: Vec<T>,
    pub more: bool,
}

/// What is known of a blob without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHead {
    pub size_bytes: u64,
}

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// What this edge knows of itself: quick, for every probe.
    Shallow,
    /// End to end: a write to the disk, an answer from each upstream.
    Deep,
}

/// Whether an edge can serve, and what of it cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    /// Reasons why this edge should get no requests. An upstream that is down is none: what is cached can be served.
    pub failing: Vec<String>,
    /// Parts that do not work and that this edge does without.
    pub impaired: Vec<String>,
}

impl Registry {
    pub fn new(cache: Cache, store: Store, upstreams: Vec<Arc<Upstream>>) -> Registry {
        let registry = Registry { inner: Arc::new(Inner { cache, store, upstreams: RwLock::default() }) };
        registry.set_upstreams(upstreams);
        registry
    }

    /// Replaces the upstreams; requests under way keep theirs.
    pub fn set_upstreams(&self, upstreams: Vec<Arc<Upstream>>) {
        let by_prefix = upstreams.into_iter().map(|upstream| (path_prefix(upstream.name()), upstream)).collect();
        *self.inner.upstreams.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_prefix);
    }

    fn upstreams(&self) -> Arc<HashMap<String, Arc<Upstream>>> {
        self.inner.upstreams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.upstreams().get(&path_prefix(name)).cloned()
    }

    /// The upstream's repository that an access is for. Nothing is hosted here yet, so any other name is absent.
    fn origin(&self, access: &Access) -> Result<Origin, CacheError> {
        let repository = access.repository();
        let prefix = repository.as_str().split('/').next().unwrap_or_default();
        let upstreams = self.upstreams();
        let (upstream, remote) = upstreams.get(prefix).zip(repository.without_components(1)).ok_or(CacheError::Absent)?;
        if !upstream.allows(&remote) {
            return Err(CacheError::Absent);
        }
        Ok(Origin { upstream: upstream.clone(), repository: repository.clone(), remote })
    }

    /// The manifest itself. Fetching one from an upstream starts fetching its blobs.
    pub async fn manifest(&self, access: &Access, reference: &Reference) -> Result<Answer<StoredManifest>, CacheError> {
        self.inner.cache.manifest(&self.origin(access)?, reference).await
    }

    /// A blob: complete, or still arriving. Small blobs are complete and verified when this returns, others have their first byte.
    pub async fn blob(&self, access: &Access, digest: &Digest) -> Result<Answer<Content>, CacheError> {
        self.inner.cache.blob(&self.origin(access)?, digest).await
    }

    /// A blob's size, without fetching it.
    pub async fn blob_head(&self, access: &Access, digest: &Digest) -> Result<Answer<BlobHead>, CacheError> {
        let size = self.inner.cache.blob_size(&self.origin(access)?, digest).await?;
        Ok(size.map(|size_bytes| BlobHead { size_bytes }))
    }

    /// Tags in lexical order.
    pub async fn tags(&self, access: &Access, page: &Page) -> Result<Answer<Listed<Tag>>, CacheError> {
        let tags = self.inner.cache.tags(&self.origin(access)?).await?;
        Ok(tags.map(|list| page.of(&list.items, Tag::as_str)))
    }

    /// Manifests whose subject is `digest`, all of them; an empty list when there are none.
    pub async fn referrers(&self, access: &Access, digest: &Digest) -> Result<Answer<Vec<Descriptor>>, CacheError> {
        let referrers = self.inner.cache.referrers(&self.origin(access)?, digest).await?;
        Ok(referrers.map(|list| list.items.clone()))
    }

    /// Repositories of which this edge holds something and that the caller may read, in lexical order.
    pub async fn catalog(&self, readable: impl Fn(&RepositoryName) -> bool, page: &Page) -> Listed<RepositoryName> {
        let (mut names, mut last, mut seen) = (Vec::new(), page.last.clone(), 0);
        while page.limit > 0 && seen < MAX_CATALOG_SCAN {
            let batch = self.inner.cache.repositories(last.as_deref(), CATALOG_BATCH).await;
            let Some(end) = batch.last() else { return Listed { names, more: false } };
            last = Some(end.to_string());
            seen += batch.len();
            for name in batch.into_iter().filter(|name| readable(name)) {
                if names.len() == page.limit {
                    return Listed { names, more: true };
                }
                names.push(name);
            }
        }
        Listed { more: page.limit > 0 && !names.is_empty(), names }
    }

    /// Forgets what is believed about a reference (time to live, absence) and asks the upstream now.
    pub async fn refresh(&self, access: &Access, reference: &Reference) -> Result<Answer<StoredManifest>, CacheError> {
        self.inner.cache.refresh(&self.origin(access)?, reference).await
    }

    /// Fetches an image whole, every platform or one (`os/architecture`).
    pub async fn prefetch(&self, access: &Access, reference: &Reference, platform: Option<&str>) -> Result<Prefetched, CacheError> {
        self.inner.cache.prefetch(&self.origin(access)?, reference, platform).await
    }

    /// Whether this edge can serve.
    pub async fn ready(&self, check: Check) -> Readiness {
        let mut readiness = Readiness::default();
        if check == Check::Shallow {
            return readiness;
        }
        if let Err(error) = self.inner.store.probe().await {
            readiness.impaired.push(format!("disk: {error}"));
        }
        let upstreams = self.upstreams();
        let probes = upstreams.values().map(async |upstream| match tokio::time::timeout(PROBE_TIME, upstream.probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("upstream {}: {error}", upstream.name())),
            Err(_) => Some(format!("upstream {}: no answer", upstream.name())),
        });
        readiness.impaired.extend(futures_util::future::join_all(probes).await.into_iter().flatten());
        readiness.impaired.sort();
        readiness
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        self.inner.cache.report();
    }
}

impl Page {
    /// This page of a sorted list; `last` need not be in it.
    fn of<T: Clone>(&self, sorted: &[T], name: impl Fn(&T) -> &str) -> Listed<T> {
        let start = self.last.as_ref().map_or(0, |last| sorted.partition_point(|item| name(item) <= last.as_str()));
        let rest = &sorted[start..];
        let names = &rest[..self.limit.min(rest.len())];
        Listed { names: names.to_vec(), more: self.limit > 0 && names.len() < rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let sorted = ["a", "c", "e"];
        let page = |limit, last: Option<&str>| {
            let listed = Page { limit, last: last.map(str::to_owned) }.of(&sorted, |name| name);
            (listed.names, listed.more)
        };
        assert_eq!(page(2, None), (vec!["a", "c"], true));
        assert_eq!(page(2, Some("c")), (vec!["e"], false));
        assert_eq!(page(2, Some("b")), (vec!["c", "e"], false));
        assert_eq!(page(2, Some("\u{10ffff}")), (vec![], false));
        assert_eq!(page(0, None), (vec![], false));
        assert_eq!(page(usize::MAX, None), (vec!["a", "c", "e"], false));
    }
}
