//! The use cases without HTTP: pull, discover, refresh.

mod names;

use std::sync::Arc;

pub use names::{Addressing, Names, Target, UnknownNamespace};

use crate::access::{Access, Principal};
use crate::cache::{Answer, CacheError, StoredManifest};
use crate::oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::store::Content;

/// Everything an edge can do for a caller.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<()>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHead {
    pub size_bytes: u64,
}

impl Registry {
    /// The manifest itself. Fetching one from an upstream starts fetching its blobs.
    pub async fn manifest(&self, access: &Access, reference: &Reference) -> Result<Answer<StoredManifest>, CacheError> {
        let _ = (access, reference, &self.inner);
        Err(CacheError::Absent)
    }

    /// As much of a manifest as a HEAD answers: its `bytes` may be missing.
    pub async fn manifest_head(&self, access: &Access, reference: &Reference) -> Result<Answer<StoredManifest>, CacheError> {
        self.manifest(access, reference).await
    }

    /// A blob: complete, or still arriving. Small blobs are complete and verified when this returns, others have their first byte.
    pub async fn blob(&self, access: &Access, digest: &Digest) -> Result<Answer<Content>, CacheError> {
        let _ = (access, digest);
        Err(CacheError::Absent)
    }

    pub async fn blob_head(&self, access: &Access, digest: &Digest) -> Result<Answer<BlobHead>, CacheError> {
        let _ = (access, digest);
        Err(CacheError::Absent)
    }

    /// Tags in lexical order.
    pub async fn tags(&self, access: &Access, page: &Page) -> Result<Answer<Listed<Tag>>, CacheError> {
        let _ = (access, page);
        Err(CacheError::Absent)
    }

    /// Manifests whose subject is `digest`, all of them; never `Absent` for a repository that the caller may read.
    pub async fn referrers(&self, access: &Access, digest: &Digest) -> Result<Answer<Vec<Descriptor>>, CacheError> {
        let _ = (access, digest);
        Err(CacheError::Absent)
    }

    /// Repositories of which this edge holds something and that `principal` may pull, in lexical order.
    pub async fn catalog(&self, principal: &Principal, page: &Page) -> Listed<RepositoryName> {
        let _ = (principal, page);
        Listed { names: Vec::new(), more: false }
    }

    /// Forgets what is believed about a reference (time to live, absence) and asks the upstream now.
    pub async fn refresh(&self, access: &Access, reference: &Reference) -> Result<Answer<StoredManifest>, CacheError> {
        self.manifest(access, reference).await
    }

    /// Fetches an image whole, every platform or one (`os/architecture`), and returns how many blobs and bytes are here now.
    pub async fn prefetch(&self, access: &Access, reference: &Reference, platform: Option<&str>) -> Result<Prefetched, CacheError> {
        let _ = (access, reference, platform);
        Err(CacheError::Absent)
    }

    /// Whether this edge can serve.
    pub async fn ready(&self, check: Check) -> Readiness {
        let _ = check;
        Readiness::default()
    }
}

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// What this edge knows of itself: quick, for every probe.
    Shallow,
    /// End to end: a write and read on the disk, an answer from the upstreams.
    Deep,
}

/// Why an edge cannot serve; no reason means that it can. Reasons are short words for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    pub reasons: Vec<String>,
}

/// What a prefetch brought: all blobs of the image, those that were here before included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Prefetched {
    pub blobs: usize,
    pub bytes: u64,
}
