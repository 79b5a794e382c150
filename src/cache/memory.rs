//! The first tier: records, manifests, small blobs and negative answers in memory, bounded by bytes.
//!
//! moka bounds the size only. Every expiry is a stored time that the reader judges by its `Clock`.
//!
//! A warm manifest is one look-up: what its answer hangs on is put together once and kept as [`Ready`]. It holds until any record about its
//! repository changes, which is told by a count ([`Turn`]): nobody has to know what it was made of to take it back.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{HeldRecord, Key, LinkRecord, ReferrersRecord, RepositoryRecord, TagRecord, TagsRecord, encode};
use super::{CacheError, StoredManifest};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName};

/// What an entry costs beside its own bytes: key, table and moka's bookkeeping, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// What is prepared of an answer's head, about.
const PREPARED_BYTES: usize = 1536;
/// How often the disk is told that a manifest in memory is used.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Counts of changes: repositories that share one take each other's answers back, which costs a look at the records.
const TURNS: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Record(Key),
    Negative(Key),
    Bytes(Digest),
    Ready(RepositoryName, Reference),
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Tag(Arc<TagRecord>),
    Link(Arc<LinkRecord>),
    Held(Arc<HeldRecord>),
    Repository(Arc<RepositoryRecord>),
    Tags(Arc<TagsRecord>),
    Referrers(Arc<ReferrersRecord>),
    Negative(Arc<Negative>),
    Bytes(Bytes),
    Ready(Arc<Ready>),
}

/// A record of a kind that the memory tier keeps beside its bytes on disk.
pub(super) trait Record: Serialize + DeserializeOwned {
    fn into_entry(this: Arc<Self>) -> Entry;
    fn from_entry(entry: Entry) -> Option<Arc<Self>>;
}

/// A refusal that is believed until a time.
#[derive(Clone, Debug)]
pub(super) struct Negative {
    pub error: CacheError,
    pub until: Timestamp,
}

/// A manifest and what its answer hangs on.
#[derive(Debug)]
pub(super) struct Ready {
    pub manifest: StoredManifest,
    /// When the upstream last said so.
    pub since: Timestamp,
    turn: Turn,
    /// When the disk was last told that it is used, in milliseconds since 1970.
    told: AtomicU64,
}

impl Ready {
    /// Whether the disk is to be told of a use: not of each, since all that tell it something meet there.
    pub(super) fn is_used(&self, now: Timestamp) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        let is_due = now.since(Timestamp::from_ms(told)) >= TELL_EVERY;
        is_due && self.told.compare_exchange(told, now.as_ms(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// How often the records about a repository had changed when they were read. Whoever puts something together from them asks for it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// The memory tier. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// A name is hashed with a key that is random for each process, by a hasher that takes a fifth of
    /// the instructions of the standard library's.
    entries: moka::sync::Cache<Place, Entry, foldhash::fast::RandomState>,
    turns: Arc<[AtomicU64]>,
    hasher: foldhash::fast::RandomState,
    metrics: Metrics,
}

impl Memory {
    pub(super) fn new(max_bytes: u64, metrics: Metrics) -> Memory {
        metrics.cache_limit("memory", max_bytes);
        let evictions = metrics.clone();
        let entries = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, entry: &Entry| u32::try_from(entry.size_bytes()).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    evictions.cache_evicted("memory");
                }
            })
            .build_with_hasher(foldhash::fast::RandomState::default());
        let turns = (0..TURNS).map(|_| AtomicU64::new(0)).collect();
        Memory { entries, turns, hasher: foldhash::fast::RandomState::default(), metrics }
    }

    /// Brings the gauges up to date.
    pub(super) fn report(&self) {
        self.entries.run_pending_tasks();
        self.metrics.cache_size("memory", self.entries.weighted_size(), self.entries.entry_count());
    }

    pub(super) fn record<R: Record>(&self, key: &Key) -> Option<Arc<R>> {
        self.entries.get(&Place::Record(key.clone())).and_then(R::from_entry)
    }

    /// Keeps what was read from the disk, unless something newer has come in the meantime; returns what is kept.
    pub(super) fn recall_record<R: Record>(&self, key: &Key, read: Arc<R>) -> Arc<R> {
        let kept = self.entries.entry(Place::Record(key.clone())).or_insert_with(|| R::into_entry(read.clone()));
        R::from_entry(kept.into_value()).unwrap_or(read)
    }

    pub(super) fn put_record<R: Record>(&self, key: &Key, record: Arc<R>) {
        self.entries.insert(Place::Record(key.clone()), R::into_entry(record));
        self.changed(key);
    }

    pub(super) fn forget_record(&self, key: &Key) {
        self.entries.invalidate(&Place::Record(key.clone()));
        self.changed(key);
    }

    /// What is ready about a repository holds no longer. Comes behind the change: whoever has asked for the turn before that may have
    /// read what was.
    fn changed(&self, key: &Key) {
        if let Some(repository) = key.repository() {
            self.count(repository).fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn turn(&self, repository: &RepositoryName) -> Turn {
        Turn(self.count(repository).load(Ordering::Acquire))
    }

    fn count(&self, repository: &RepositoryName) -> &AtomicU64 {
        &self.turns[self.hasher.hash_one(repository) as usize % TURNS]
    }

    /// What is ready under a reference, while nothing about its repository has changed.
    pub(super) fn ready(&self, repository: &RepositoryName, reference: &Reference) -> Option<Arc<Ready>> {
        match self.entries.get(&Place::Ready(repository.clone(), reference.clone())) {
            Some(Entry::Ready(ready)) if ready.turn == self.turn(repository) => Some(ready),
            _ => None,
        }
    }

    /// Keeps an answer that was put together from the records of this turn.
    pub(super) fn put_ready(
        &self,
        (repository, reference): (&RepositoryName, &Reference),
        turn: Turn,
        since: Timestamp,
        manifest: StoredManifest,
    ) {
        let ready = Arc::new(Ready { manifest, since, turn, told: AtomicU64::new(0) });
        self.entries.insert(Place::Ready(repository.clone(), reference.clone()), Entry::Ready(ready));
    }

    pub(super) fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        match self.entries.get(&Place::Bytes(*digest)) {
            Some(Entry::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn put_bytes(&self, digest: Digest, bytes: Bytes) {
        self.entries.insert(Place::Bytes(digest), Entry::Bytes(bytes));
    }

    pub(super) fn negative(&self, key: &Key) -> Option<Arc<Negative>> {
        match self.entries.get(&Place::Negative(key.clone())) {
            Some(Entry::Negative(negative)) => Some(negative),
            _ => None,
        }
    }

    pub(super) fn put_negative(&self, key: &Key, negative: Negative) {
        self.entries.insert(Place::Negative(key.clone()), Entry::Negative(Arc::new(negative)));
        self.changed(key);
    }

    pub(super) fn forget_negative(&self, key: &Key) {
        self.entries.invalidate(&Place::Negative(key.clone()));
        self.changed(key);
    }
}

macro_rules! records {
    ($($variant:ident($record:ty)),*) => {
        $(impl Record for $record {
            fn into_entry(this: Arc<Self>) -> Entry {
                Entry::$variant(this)
            }

            fn from_entry(entry: Entry) -> Option<Arc<Self>> {
                match entry {
                    Entry::$variant(record) => Some(record),
                    _ => None,
                }
            }
        })*
    };
}
records!(Tag(TagRecord), Link(LinkRecord), Held(HeldRecord), Repository(RepositoryRecord), Tags(TagsRecord), Referrers(ReferrersRecord));

impl Entry {
    fn size_bytes(&self) -> usize {
        let own = match self {
            Entry::Tag(_) | Entry::Link(_) | Entry::Held(_) | Entry::Repository(_) | Entry::Negative(_) => 0,
            Entry::Tags(list) => list.items.iter().map(|tag| tag.as_str().len() + 32).sum(),
            // As text, doubled for what strings and maps cost beside it.
            Entry::Referrers(list) => encode(&**list).len() * 2,
            Entry::Bytes(bytes) => bytes.len(),
            // They may be all that is left of it in memory.
            Entry::Ready(ready) => ready.manifest.bytes.len() + PREPARED_BYTES,
        };
        own + ENTRY_OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Kind;
    use super::*;

    #[test]
    fn memory_stays_within_its_bound() {
        let memory = Memory::new(100_000, Metrics::new());
        for number in 0..1_000_u32 {
            let bytes = Bytes::from(vec![0; 1_000]);
            memory.put_bytes(Digest::sha256(&number.to_le_bytes()), bytes);
        }
        memory.report();
        assert!(memory.entries.weighted_size() <= 100_000);
        assert!(memory.metrics.render().contains(r#"outport_cache_evictions_total{tier="memory"}"#));
    }

    #[test]
    fn what_is_ready_holds_until_anything_about_its_repository_changes() {
        let memory = Memory::new(1_000_000, Metrics::new());
        let (repository, tag, digest): (RepositoryName, _, _) = ("a/b".parse().unwrap(), "latest".parse().unwrap(), Digest::sha256(b"m"));
        let reference = Reference::Tag(tag);
        let manifest = || StoredManifest::new(digest, "application/json".into(), Bytes::from_static(b"m"));
        let record = Arc::new(LinkRecord { media_type: None, size_bytes: Some(1), confirmed_at: Timestamp::default() });
        let negative = || Negative { error: CacheError::Absent, until: Timestamp::default() };
        let of = |name: &str| Key::Link(name.parse().unwrap(), Kind::Blob, digest);
        let is_ready = || memory.ready(&repository, &reference).is_some_and(|ready| ready.manifest == manifest());
        let prepare = |turn| memory.put_ready((&repository, &reference), turn, Timestamp::default(), manifest());
        assert!(!is_ready());
        let changes: [&dyn Fn(); 4] = [
            &|| memory.put_record(&of("a/b"), record.clone()),
            &|| memory.forget_record(&of("a/b")),
            &|| memory.put_negative(&of("a/b"), negative()),
            &|| memory.forget_negative(&of("a/b")),
        ];
        for change in changes {
            prepare(memory.turn(&repository));
            assert!(is_ready());
            change();
            assert!(!is_ready());
            // What was read before the change is put there after it.
            let before = memory.turn(&repository);
            change();
            prepare(before);
            assert!(!is_ready());
        }
        prepare(memory.turn(&repository));
        memory.put_record(&Key::Held("upstream".into(), digest), Arc::new(HeldRecord));
        memory.put_bytes(digest, Bytes::new());
        assert!(is_ready() && memory.ready(&repository, &Reference::Digest(digest)).is_none());
    }

    #[test]
    fn kinds_do_not_meet() {
        let memory = Memory::new(100_000, Metrics::new());
        let digest = Digest::sha256(b"");
        memory.put_bytes(digest, Bytes::from_static(b"x"));
        let key = Key::Link("a/b".parse().unwrap(), Kind::Blob, digest);
        assert!(memory.record::<LinkRecord>(&key).is_none());
        let link = Arc::new(LinkRecord { media_type: None, size_bytes: Some(1), confirmed_at: Timestamp::default() });
        memory.put_record(&key, link.clone());
        assert_eq!(memory.record(&key), Some(link));
        memory.forget_record(&key);
        assert!(memory.record::<LinkRecord>(&key).is_none());
    }
}
