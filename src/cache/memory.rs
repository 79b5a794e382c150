//! The first tier: records, manifests, small blobs and negative answers in memory, bounded by bytes.
//!
//! moka bounds the size only. Every expiry is a stored time that the reader judges by its `Clock`.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheError;
use super::records::{HeldRecord, Key, LinkRecord, ReferrersRecord, RepositoryRecord, TagRecord, TagsRecord, encode};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::Digest;

/// What an entry costs beside its own bytes: key, table and moka's bookkeeping, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Record(Key),
    Negative(Key),
    Bytes(Digest),
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

/// The memory tier. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// Each request asks four times. A name is hashed with a key that is random for each process, by a hasher that takes a fifth of
    /// the instructions of the standard library's.
    entries: moka::sync::Cache<Place, Entry, foldhash::fast::RandomState>,
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
        Memory { entries, metrics }
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
    }

    pub(super) fn forget_record(&self, key: &Key) {
        self.entries.invalidate(&Place::Record(key.clone()));
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
    }

    pub(super) fn forget_negative(&self, key: &Key) {
        self.entries.invalidate(&Place::Negative(key.clone()));
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
