//! The use cases without HTTP: pull, push, discover, delete, refresh.
//!
//! Each takes an [`Access`], the proof that its caller may do this to this repository. Only then is a digest looked at.

mod abroad;
mod hosted;
mod known;
mod listing;
mod locks;
mod names;
mod overview;
mod properties;
pub mod push;
mod receipts;
mod regions;
mod removal;
mod vouching;
mod watched;
mod witness;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use abroad::{Asking, Purpose};
pub use hosted::ReferrersPage;
pub use listing::{After, Order, Part};
pub use locks::{Changed, Changes};
pub use names::{Addressing, Names, Target, UnknownNamespace};
pub use overview::{Conflict, Overview};
pub use properties::{Details, ManifestProperties, Platform, RepositoryProperties, TagProperties};
pub use receipts::{Awaited, Breadth, Hold, Receipt, WaitError};
pub use regions::{Next, Told};
pub use removal::Removed;
pub use vouching::Vouching;
pub use watched::{Watched, WatchedImage};

use witness::Witnesses;

use crate::access::Access;
pub use crate::cache::Prefetched;
use crate::cache::{Answer, Cache, CacheError, Origin, StoredManifest};
use crate::clock::Clock;
use crate::config::{self, path_prefix};
use crate::forward::Forwarder;
pub use crate::forward::Pending;
use crate::oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::region::{NotOpen, Open, Peer, Region};
use crate::replication::{self, PeerLag, Replication, Superseded};
use crate::store::{Content, Store};
use crate::uploads::Uploads;
pub use crate::upstream::Glimpse;
use crate::upstream::Upstream;

/// How many names the catalogue reads at a time while it looks for those that a caller may see.
const CATALOG_BATCH: usize = 256;
/// Names that one page of the catalogue looks at, at most: a caller who may see few of very many gets a short page with a link.
const MAX_CATALOG_SCAN: usize = 100_000;

/// Entries of the list of what is on its way to upstreams, at most.
const MAX_FORWARDS: usize = 1_000;

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
    region: Region,
    uploads: Uploads,
    forwarder: Forwarder,
    replication: Replication,
    witnesses: Witnesses,
    /// The policies of hosted repositories; the first that matches counts.
    hosted: RwLock<Arc<[config::Hosted]>>,
    /// By the path component that a full repository name begins with.
    upstreams: RwLock<Arc<Upstreams>>,
}

/// The hasher's keys are of each process, and their names come from the configuration.
type Upstreams = HashMap<String, Arc<Upstream>, foldhash::fast::RandomState>;

/// Whose a repository is.
enum Home<'a> {
    Proxied(Origin),
    /// This region's own.
    Hosted(&'a RepositoryName),
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
    pub fn new(
        cache: Cache,
        store: Store,
        region: Region,
        uploads: Uploads,
        (forwarder, replication): (Forwarder, Replication),
        clock: Clock,
    ) -> Registry {
        let (hosted, upstreams) = (RwLock::new(Arc::default()), RwLock::default());
        let witnesses = Witnesses::new(region.peers(), clock);
        Registry { inner: Arc::new(Inner { cache, store, region, uploads, forwarder, replication, witnesses, hosted, upstreams }) }
    }

    /// Replaces the policies of hosted repositories. `acknowledge` is for those that none is for.
    pub fn set_hosted(&self, hosted: &[config::Hosted], acknowledge: config::Acknowledge) {
        self.inner.replication.set_policies(replication::Policies::new(hosted, acknowledge));
        *self.inner.hosted.write().unwrap_or_else(PoisonError::into_inner) = hosted.into();
    }

    fn allows_sparse(&self, repository: &RepositoryName) -> bool {
        self.policy(repository).is_some_and(|policy| policy.sparse_indexes)
    }

    /// The policy of a repository, if there is one for it.
    fn policy(&self, repository: &RepositoryName) -> Option<config::Hosted> {
        let policies = self.inner.hosted.read().unwrap_or_else(PoisonError::into_inner).clone();
        policies.iter().find(|policy| policy.pattern.matches(repository)).cloned()
    }

    fn region(&self) -> Result<&Open, NotOpen> {
        self.inner.region.get()
    }

    /// The other region of this name.
    pub fn peer(&self, region: &str) -> Option<&Peer> {
        self.inner.region.peer(region)
    }

    /// Replaces the upstreams; requests under way keep theirs.
    pub fn set_upstreams(&self, upstreams: Vec<Arc<Upstream>>) {
        let by_prefix = upstreams.into_iter().map(|upstream| (path_prefix(upstream.name()), upstream)).collect();
        *self.inner.upstreams.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_prefix);
    }

    fn upstreams(&self) -> Arc<Upstreams> {
        self.inner.upstreams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.upstreams().get(&path_prefix(name)).cloned()
    }

    /// Whether a repository is pushed here: whatever does not lie below an upstream's name. No upstream is ever asked about it.
    fn is_hosted(&self, repository: &RepositoryName) -> bool {
        !self.upstreams().contains_key(repository.first_component())
    }

    /// Whose the repository is that an access is for.
    fn home<'a>(&self, access: &'a Access) -> Result<Home<'a>, CacheError> {
        let repository = access.repository();
        let Some(mut origin) = self.proxied(repository)? else { return Ok(Home::Hosted(repository)) };
        match access.lent() {
            Some(lent) => origin.upstream = origin.upstream.as_seen_by(lent),
            // Nothing of an upstream that decides itself is read with other credentials than the caller's.
            None if origin.upstream.decides() => return Err(CacheError::Absent),
            None => {}
        }
        Ok(Home::Proxied(origin))
    }

    /// Where an upstream has a repository, as this edge itself asks for it; `None` of one that is hosted here.
    fn proxied(&self, repository: &RepositoryName) -> Result<Option<Origin>, CacheError> {
        let Some(upstream) = self.upstreams().get(repository.first_component()).cloned() else { return Ok(None) };
        let remote = repository.without_components(1).filter(|remote| upstream.allows(remote)).ok_or(CacheError::Absent)?;
        Ok(Some(Origin { upstream, repository: repository.clone(), remote }))
    }

    /// For what makes sense with an upstream only.
    fn origin(&self, access: &Access) -> Result<Origin, CacheError> {
        match self.home(access)? {
            Home::Proxied(origin) => Ok(origin),
            Home::Hosted(_) => Err(CacheError::Absent),
        }
    }

    /// A manifest that was read before and of which nothing has changed: at once, or not at all.
    pub fn manifest_at_once(&self, access: &Access, reference: &Reference) -> Option<Answer<StoredManifest>> {
        match self.home(access).ok()? {
            Home::Proxied(origin) => self.inner.cache.ready_manifest(&origin, reference),
            Home::Hosted(_) => None,
        }
    }

    /// The manifest itself. Fetching one from an upstream starts fetching its blobs.
    pub async fn manifest(&self, access: &Access, reference: &Reference, asking: &Asking) -> Result<Answer<StoredManifest>, CacheError> {
        match self.home(access)? {
            Home::Proxied(origin) => self.inner.cache.manifest(&origin, reference).await,
            Home::Hosted(repository) => self.hosted_manifest(repository, reference, asking).await,
        }
    }

    /// A blob: complete, or still arriving. Small blobs are complete and verified when this returns, others have their first byte.
    pub async fn blob(&self, access: &Access, digest: &Digest, asking: &Asking) -> Result<Answer<Content>, CacheError> {
        match self.home(access)? {
            Home::Proxied(origin) => self.inner.cache.blob(&origin, digest).await,
            Home::Hosted(repository) => self.hosted_blob(repository, digest, asking).await,
        }
    }

    /// A blob's size, without fetching it.
    pub async fn blob_head(&self, access: &Access, digest: &Digest, asking: &Asking) -> Result<Answer<BlobHead>, CacheError> {
        match self.home(access)? {
            Home::Proxied(origin) => Ok(self.inner.cache.blob_size(&origin, digest).await?.map(|size_bytes| BlobHead { size_bytes })),
            Home::Hosted(repository) => self.hosted_blob_head(repository, digest, asking).await,
        }
    }

    /// Tags in lexical order.
    pub async fn tags(&self, access: &Access, page: &Page, asking: &Asking) -> Result<Answer<Listed<Tag>>, CacheError> {
        match self.home(access)? {
            Home::Proxied(origin) => Ok(self.inner.cache.tags(&origin).await?.map(|list| page.of(&list.items, Tag::as_str))),
            Home::Hosted(repository) => self.hosted_tags(repository, page, asking).await,
        }
    }

    /// Manifests with this subject; an empty list when there are none. An upstream's come in one page.
    pub async fn referrers(
        &self,
        access: &Access,
        page: ReferrersPage<'_>,
        asking: &Asking,
    ) -> Result<Answer<Listed<Descriptor>>, CacheError> {
        match self.home(access)? {
            Home::Hosted(repository) => self.hosted_referrers(repository, page, asking).await,
            Home::Proxied(origin) => {
                let fits = |entry: &&Descriptor| page.artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted));
                let referrers = self.inner.cache.referrers(&origin, page.subject).await?;
                Ok(referrers.map(|list| Listed { names: list.items.iter().filter(fits).cloned().collect(), more: false }))
            }
        }
    }

    /// Repositories that are hosted, or of which this edge holds something, and that the caller may read, in lexical order.
    pub async fn catalog(&self, readable: impl Fn(&RepositoryName) -> bool, page: &Page) -> Listed<RepositoryName> {
        let (mut names, mut last, mut seen) = (Vec::new(), page.last.clone(), 0);
        while page.limit > 0 && seen < MAX_CATALOG_SCAN {
            let batch = self.repositories(last.as_deref(), CATALOG_BATCH).await;
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

    /// The same for this edge itself, with its own credentials: of an upstream that decides who reads what it fetches nothing.
    async fn prefetch_watched(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        platform: Option<&str>,
    ) -> Result<Prefetched, CacheError> {
        let origin = self.proxied(repository)?.ok_or(CacheError::Absent)?;
        if origin.upstream.decides() {
            let why = "its upstream decides who reads it, and nobody asks".to_owned();
            return Err(CacheError::Unavailable { why, retry_after: None });
        }
        self.inner.cache.prefetch(&origin, reference, platform).await
    }

    /// Whether this edge can serve.
    pub async fn ready(&self, check: Check) -> Readiness {
        let mut readiness = Readiness::default();
        readiness.impaired.extend(self.region_impaired(check).await);
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

    /// What is on its way to upstreams or has failed to get there, as far as this edge knows, of repositories that the caller may read.
    pub fn forwards(&self, readable: impl Fn(&RepositoryName) -> bool) -> Listed<Pending> {
        let mut names = self.inner.forwarder.pending(readable, MAX_FORWARDS + 1);
        let more = names.len() > MAX_FORWARDS;
        names.truncate(MAX_FORWARDS);
        Listed { names, more }
    }

    /// How far behind each other region this one is.
    pub fn lag(&self) -> Vec<PeerLag> {
        self.inner.replication.lag()
    }

    /// Tells when another incarnation of the own region is in force.
    pub fn superseded(&self) -> Superseded {
        self.inner.replication.superseded()
    }

    /// Brings the gauges up to date, before they are read.
    pub async fn report(&self) {
        self.inner.store.report().await;
        self.inner.cache.report();
        self.inner.forwarder.report();
        self.inner.replication.report();
    }
}

impl Page {
    /// This page of a sorted list; `last` need not be in it.
    pub fn of<T: Clone>(&self, sorted: &[T], name: impl Fn(&T) -> &str) -> Listed<T> {
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
