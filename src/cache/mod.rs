//! The one look-up order (memory, disk, bucket, upstream), single-flight fill, prefetch, freshness.
//!
//! What is cached is kept by digest; what may be served is kept by repository. A *link* says that an upstream showed a digest in a
//! repository, and when. Without a link a digest that lies on the disk is not there for that repository: the upstream is asked. And
//! its word is not enough: bytes that another upstream brought are not shown for it, it has to send them once itself.
//!
//! Times: a tag is believed for the upstream's `tag_ttl`, a link for its `authorization_ttl`, an absence for `negative_ttl`. Past
//! its time an answer is revalidated, once for all who wait, and served stale when the upstream cannot be asked. An upstream that
//! answers 401, 403 or 404 can be asked: its refusal is an answer.

mod answer;
mod blobs;
mod fill;
mod flight;
mod hosted;
mod known;
mod lists;
mod manifests;
mod memory;
mod prefetch;
mod records;
mod standing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub use answer::{Answer, Freshness, Source};
use bytes::Bytes;
use http::HeaderMap;
pub use known::{KnownManifest, KnownTag};
pub use prefetch::Prefetched;
pub use records::ListRecord;
use tokio::time::Instant;

use self::fill::Asked;
use self::flight::{Abandoned, Flights};
use self::hosted::Reach;
use self::memory::{Memory, Negative, Record};
use self::prefetch::Prefetches;
use self::records::{Key, ReferrersRecord, RepositoryRecord, TagsRecord};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::store::{Content, ContentError, Store};
use crate::upstream::{Upstream, UpstreamError};

/// Blobs up to this size are verified before the first byte of an answer, and kept in memory.
pub const SMALL_BLOB_BYTES: u64 = 64 * 1024;

/// A longer record, such as a very long list, lives in memory only: on the disk records are bounded by number.
const MAX_RECORD_BYTES: usize = 256 * 1024;

/// How long clients with a stale answer at hand do not wait for an upstream that has just let one wait in vain.
const SLOW_UPSTREAM_TIME: Duration = Duration::from_secs(10);

/// A manifest as it is served: the exact bytes and type that the upstream sent. Cloning copies no bytes.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: Arc<str>,
    pub bytes: Bytes,
    /// What stands before it in an answer from memory, once somebody has made that.
    pub prepared: Arc<OnceLock<Prepared>>,
}

/// The head of a manifest's answers from memory, but for what belongs to one request.
#[derive(Debug)]
pub struct Prepared {
    /// Of the answers whose head it is.
    pub freshness: Freshness,
    pub headers: HeaderMap,
    /// The same as HTTP/1.1 writes it: the status line and each header's, without the empty one at the end.
    pub lines: Bytes,
}

impl StoredManifest {
    pub fn new(digest: Digest, media_type: Arc<str>, bytes: Bytes) -> StoredManifest {
        StoredManifest { digest, media_type, bytes, prepared: Arc::default() }
    }
}

impl PartialEq for StoredManifest {
    fn eq(&self, other: &StoredManifest) -> bool {
        (self.digest, &self.media_type, &self.bytes) == (other.digest, &other.media_type, &other.bytes)
    }
}

/// Why a look-up has no answer. The variants are what callers treat differently.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CacheError {
    /// Confirmed: the upstream says so, or will not show it (denied and absent look the same).
    #[error("absent")]
    Absent,
    /// It cannot be told: the upstream did not answer, refused for load, or the deadline passed.
    #[error("unavailable: {why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
    /// The upstream answered something that is not true or not possible.
    #[error("wrong answer: {0}")]
    WrongAnswer(String),
    /// It is there, and a lock on this keeps it from being read, whoever asks.
    #[error("{0} is locked: it is not read")]
    Locked(String),
}

/// A repository of an upstream.
#[derive(Clone, Debug)]
pub struct Origin {
    pub upstream: Arc<Upstream>,
    /// The name that clients and grants use, with the upstream's name in front.
    pub repository: RepositoryName,
    /// The name at the upstream.
    pub remote: RepositoryName,
}

impl Origin {
    fn source(&self) -> Source {
        Source::Upstream(self.upstream.name().clone())
    }
}

/// The cache of one edge. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: config::Cache,
    memory: Memory,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    /// Manifests being fetched or revalidated.
    manifests: Flights<(RepositoryName, Reference), Result<Answer<StoredManifest>, CacheError>>,
    /// Digests whose place in a repository the upstream is being asked about.
    confirmations: Flights<Key, Result<Option<u64>, CacheError>>,
    /// Blobs of which it is being found out whether this repository has them.
    admissions: Flights<(RepositoryName, Digest), Result<Answer<Content>, CacheError>>,
    /// Blobs on their way, by upstream: one transfer, whoever waits.
    transfers: Flights<(Arc<str>, Digest), Asked>,
    /// Content that regions have on its way here, by where it may come from.
    hosted: Flights<(Digest, Reach), Result<(Content, Source), CacheError>>,
    tags: Flights<Key, Result<Arc<TagsRecord>, CacheError>>,
    referrers: Flights<Key, Result<Arc<ReferrersRecord>, CacheError>>,
    prefetches: Prefetches,
    /// Upstreams that have let a client wait in vain, and until when nobody waits again. At most two entries for each upstream: requests, lists.
    slow: Mutex<HashMap<Arc<str>, Instant>>,
}

impl Cache {
    pub fn new(settings: config::Cache, store: Store, clock: Clock, metrics: Metrics) -> Cache {
        let inner = Inner {
            memory: Memory::new(settings.memory.0, metrics.clone()),
            prefetches: Prefetches::new(settings.prefetch),
            settings,
            store,
            clock,
            metrics,
            manifests: Flights::default(),
            confirmations: Flights::default(),
            admissions: Flights::default(),
            transfers: Flights::default(),
            hosted: Flights::default(),
            tags: Flights::default(),
            referrers: Flights::default(),
            slow: Mutex::default(),
        };
        Cache { inner: Arc::new(inner) }
    }

    /// Waits until no transfer is under way: what clients have been given whole may still be on its way to the disk.
    pub async fn idle(&self) {
        self.inner.transfers.idle().await;
        self.inner.hosted.idle().await;
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        self.inner.memory.report();
    }

    /// Repositories of which something is held, in lexical order: at most `limit` that come after `last`.
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Vec<RepositoryName> {
        let prefix = records::REPOSITORY_PREFIX;
        let after = last.map(|name| format!("{prefix}{name}"));
        let found = self.inner.store.records(prefix, after.as_deref(), limit).await;
        found.iter().filter_map(|(key, _)| key.strip_prefix(prefix)?.parse().ok()).collect()
    }

    /// A record, from memory or from the disk.
    async fn record<R: Record>(&self, key: &Key) -> Option<Arc<R>> {
        if let Some(record) = self.inner.memory.record(key) {
            return Some(record);
        }
        let record: Arc<R> = Arc::new(records::decode(&self.inner.store.record(&key.to_string()).await?)?);
        Some(self.inner.memory.recall_record(key, record))
    }

    fn put_record<R: Record>(&self, key: &Key, record: R) -> Arc<R> {
        let (record, text) = (Arc::new(record), key.to_string());
        let bytes = records::encode(&record);
        if bytes.len() <= MAX_RECORD_BYTES {
            self.inner.store.put_record(text, bytes);
        } else {
            self.inner.store.remove_record(text);
        }
        self.inner.memory.put_record(key, record.clone());
        record
    }

    fn forget_record(&self, key: &Key) {
        self.inner.store.remove_record(key.to_string());
        self.inner.memory.forget_record(key);
    }

    /// The refusal that is remembered for `key`, while it is believed.
    fn refusal(&self, key: &Key) -> Option<CacheError> {
        let negative = self.inner.memory.negative(key)?;
        (self.inner.clock.now() < negative.until).then(|| negative.error.clone())
    }

    /// What an upstream's error about `key` means for callers. Answers (absence, refusal, nonsense) are remembered for a while; a
    /// refusal closes the repository: what was confirmed before needs a new yes. What one caller was refused is no answer to others.
    async fn refused(&self, origin: &Origin, key: &Key, error: UpstreamError) -> CacheError {
        let now = self.inner.clock.now();
        let error = match error {
            UpstreamError::Absent | UpstreamError::Denied if origin.upstream.is_view() => return CacheError::Absent,
            UpstreamError::Absent => CacheError::Absent,
            UpstreamError::Denied => {
                // Of a repository that never showed anything there is nothing to close, and nothing to remember.
                let repository = Key::Repository(origin.repository.clone());
                if self.record::<RepositoryRecord>(&repository).await.is_some() {
                    self.put_record(&repository, RepositoryRecord { closed_at: Some(now) });
                }
                CacheError::Absent
            }
            UpstreamError::Unavailable { why, retry_after } => return CacheError::Unavailable { why, retry_after },
            UpstreamError::Broken(why) => return CacheError::Unavailable { why, retry_after: None },
            UpstreamError::WrongAnswer(why) => CacheError::WrongAnswer(why),
        };
        let until = now.plus(self.inner.settings.negative_ttl);
        self.inner.memory.put_negative(key, Negative { error: error.clone(), until });
        error
    }

    /// Waits for a revalidation as long as a client should that could be answered with what is cached: `stale_after`, or not at
    /// all while the upstream is known to be slow. `None` when that was too short; the revalidation goes on.
    async fn patiently<V>(&self, upstream: &Arc<str>, revalidation: impl Future<Output = V>) -> Option<V> {
        let now = Instant::now();
        let slow =
            |inner: &Inner| inner.slow.lock().unwrap_or_else(PoisonError::into_inner).get(upstream).is_some_and(|until| now < *until);
        let patience = if slow(&self.inner) { Duration::ZERO } else { self.inner.settings.stale_after };
        let result = tokio::time::timeout(patience, revalidation).await.ok();
        let mut slow = self.inner.slow.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Some(_) => slow.remove(upstream),
            None if patience.is_zero() => None,
            None => slow.insert(upstream.clone(), now + SLOW_UPSTREAM_TIME),
        };
        result
    }
}

impl From<Abandoned> for CacheError {
    fn from(abandoned: Abandoned) -> CacheError {
        CacheError::Unavailable { why: abandoned.to_string(), retry_after: None }
    }
}

impl From<ContentError> for CacheError {
    fn from(error: ContentError) -> CacheError {
        match error {
            ContentError::Mismatch => CacheError::WrongAnswer(error.to_string()),
            other => CacheError::Unavailable { why: other.to_string(), retry_after: None },
        }
    }
}
