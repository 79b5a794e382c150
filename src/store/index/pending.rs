//! Changes to the index that are not committed yet. Readers see them; the writer takes them batch by batch.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// Records' keys and values that wait for a commit. Beyond it a new value is replaced by its removal: a miss is always true.
const RECORD_BYTES: usize = 64 << 20;
/// Changes of each kind that wait for a commit. Beyond it they are dropped; an index that misses them is made good by a scan.
const CHANGES: usize = 256 * 1024;
/// Uses of blobs that wait for a commit. Beyond it they are dropped: eviction then judges by older ones.
const TOUCHES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlobChange {
    Put {
        size_bytes: u64,
        at: Timestamp,
    },
    /// The file was there when a scan came by; another change of the same blob knows better.
    Found {
        size_bytes: u64,
        at: Timestamp,
    },
    /// The file is gone, if it still is when the change is committed.
    Gone,
}

impl BlobChange {
    fn bytes(self) -> u64 {
        match self {
            BlobChange::Put { size_bytes, .. } => size_bytes,
            BlobChange::Found { .. } | BlobChange::Gone => 0,
        }
    }
}

/// Uses of a blob since they were last written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    pub uses: u32,
    pub last_use: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub blobs: HashMap<Digest, BlobChange>,
    pub touches: HashMap<Digest, Touch>,
    /// `None` removes.
    pub records: BTreeMap<String, Option<Vec<u8>>>,
    pub record_touches: BTreeMap<String, Timestamp>,
    record_bytes: usize,
    put_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    current: Batch,
    /// What the writer is committing: still to be seen by readers.
    committing: Option<Arc<Batch>>,
    /// Changes were dropped.
    pub incomplete: bool,
}

impl Batch {
    fn change_blob(&mut self, digest: Digest, change: BlobChange) {
        if let Some(old) = self.blobs.insert(digest, change) {
            self.put_bytes -= old.bytes();
        }
        self.put_bytes += change.bytes();
    }

    fn change_record(&mut self, key: String, value: Option<Vec<u8>>) {
        let bytes = record_bytes(&key, value.as_ref());
        let freed = self.records.get(&key).map_or(0, |old| record_bytes(&key, old.as_ref()));
        let value = value.filter(|_| self.record_bytes - freed + bytes <= RECORD_BYTES);
        self.record_bytes = self.record_bytes - freed + record_bytes(&key, value.as_ref());
        self.record_touches.remove(&key);
        self.records.insert(key, value);
    }

    /// Whether there is anything that should not wait long.
    fn has_changes(&self) -> bool {
        !self.blobs.is_empty() || !self.records.is_empty()
    }
}

fn record_bytes(key: &str, value: Option<&Vec<u8>>) -> usize {
    key.len() + value.map_or(0, Vec::len)
}

impl Pending {
    pub fn change_blob(&mut self, digest: Digest, change: BlobChange) {
        let known = self.current.blobs.get(&digest);
        // What a look-up or a scan saw may be older than a file that has come since.
        let stale = matches!(change, BlobChange::Found { .. })
            && (known.is_some() || self.committing.as_ref().is_some_and(|batch| batch.blobs.contains_key(&digest)));
        if stale {
            return;
        }
        if known.is_none() && self.current.blobs.len() >= CHANGES {
            self.incomplete = true;
            return;
        }
        self.current.change_blob(digest, change);
    }

    pub fn touch(&mut self, digest: &Digest, now: Timestamp) {
        if let Some(touch) = self.current.touches.get_mut(digest) {
            *touch = Touch { uses: touch.uses.saturating_add(1), last_use: now };
        } else if self.current.touches.len() < TOUCHES {
            self.current.touches.insert(*digest, Touch { uses: 1, last_use: now });
        }
    }

    pub fn touched(&self, digest: &Digest) -> Option<Touch> {
        self.current.touches.get(digest).copied()
    }

    pub fn change_record(&mut self, key: String, value: Option<Vec<u8>>) {
        if self.current.records.len() < CHANGES || self.current.records.contains_key(&key) {
            self.current.change_record(key, value);
        }
    }

    pub fn touch_record(&mut self, key: &str, now: Timestamp) {
        if self.current.record_touches.len() < TOUCHES && !self.current.records.contains_key(key) {
            self.current.record_touches.insert(key.to_owned(), now);
        }
    }

    /// `Some(None)`: removed. `None`: ask the database.
    pub fn record(&self, key: &str) -> Option<Option<Vec<u8>>> {
        let committing = self.committing.as_ref();
        self.current.records.get(key).or_else(|| committing.and_then(|batch| batch.records.get(key))).cloned()
    }

    /// The changes to keys of `prefix` after `after`.
    pub fn records(&self, prefix: &str, after: Option<&str>) -> BTreeMap<String, Option<Vec<u8>>> {
        let from = first_key(prefix, after);
        let batches = self.committing.as_deref().into_iter().chain([&self.current]);
        let changes = batches
            .flat_map(|batch| batch.records.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix)));
        changes.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub fn has_touches(&self) -> bool {
        !self.current.touches.is_empty() || !self.current.record_touches.is_empty()
    }

    pub fn has_changes(&self) -> bool {
        self.current.has_changes()
    }

    /// Sizes of the blobs that the database does not count yet.
    pub fn put_bytes(&self) -> u64 {
        self.current.put_bytes + self.committing.as_ref().map_or(0, |batch| batch.put_bytes)
    }

    /// Takes what waits, for a commit that ends with `committed` or `put_back`.
    pub fn take(&mut self, touches: Touches) -> Arc<Batch> {
        let mut batch = std::mem::take(&mut self.current);
        if touches == Touches::Later {
            self.current.touches = std::mem::take(&mut batch.touches);
            self.current.record_touches = std::mem::take(&mut batch.record_touches);
        }
        let batch = Arc::new(batch);
        self.committing = Some(batch.clone());
        batch
    }

    pub fn committed(&mut self) {
        self.committing = None;
    }

    /// The commit failed: its changes wait again, below those that came since.
    pub fn put_back(&mut self) {
        let Some(batch) = self.committing.take() else { return };
        let newer = std::mem::replace(&mut self.current, (*batch).clone());
        for (digest, change) in newer.blobs {
            self.change_blob(digest, change);
        }
        for (key, value) in newer.records {
            self.change_record(key, value);
        }
        self.current.touches.extend(newer.touches);
        self.current.record_touches.extend(newer.record_touches);
    }
}

/// Whether a commit takes the uses along, which can wait for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Touches {
    Now,
    Later,
}

/// Where a listing begins.
pub(super) fn first_key<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        Some(_) | None => Bound::Included(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn readers_see_the_newest_change_wherever_it_waits() {
        let mut pending = Pending::default();
        pending.change_record("a".into(), value("1"));
        pending.change_record("b".into(), value("1"));
        pending.take(Touches::Now);
        pending.change_record("b".into(), None);
        assert_eq!(pending.record("a"), Some(value("1")));
        assert_eq!(pending.record("b"), Some(None));
        assert_eq!(pending.record("c"), None);
        assert_eq!(pending.records("", None).into_iter().collect::<Vec<_>>(), [("a".into(), value("1")), ("b".into(), None)]);
        pending.put_back();
        assert_eq!(pending.record("a"), Some(value("1")));
        assert_eq!(pending.record("b"), Some(None));
        pending.take(Touches::Now);
        pending.committed();
        assert_eq!(pending.record("a"), None);
    }

    #[test]
    fn what_waits_is_bounded_and_an_old_value_never_survives() {
        let mut pending = Pending::default();
        for number in 0..100 {
            pending.change_record(format!("{number}"), Some(vec![0; 1 << 20]));
        }
        let kept = (0..100).filter(|number| pending.record(&number.to_string()).is_some_and(|value| value.is_some())).count();
        assert_eq!(kept, 63);
        assert_eq!(pending.record("99"), Some(None));
        pending.change_record("0".into(), None);
        pending.change_record("99".into(), value("x"));
        assert_eq!(pending.record("99"), Some(value("x")));
    }

    #[test]
    fn a_scan_does_not_overrule_what_happened_since() {
        let mut pending = Pending::default();
        let (digest, at) = (Digest::sha256(b"x"), Timestamp::from_ms(5));
        pending.change_blob(digest, BlobChange::Put { size_bytes: 7, at });
        pending.change_blob(digest, BlobChange::Found { size_bytes: 9, at });
        assert_eq!(pending.put_bytes(), 7);
        pending.take(Touches::Now);
        pending.change_blob(digest, BlobChange::Found { size_bytes: 9, at });
        assert!(!pending.has_changes());
        assert_eq!(pending.put_bytes(), 7);
        pending.committed();
        pending.change_blob(digest, BlobChange::Put { size_bytes: 7, at });
        pending.change_blob(digest, BlobChange::Gone);
        assert_eq!(pending.put_bytes(), 0);
    }
}
