//! What a look-up found, and how: the value with its provenance.

use std::sync::Arc;

/// Where the bytes of an answer came from (`Outport-Source`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Memory,
    Disk,
    /// The own region's object store.
    Bucket,
    /// The other region of this name.
    Region(Arc<str>),
    /// The upstream of this name.
    Upstream(Arc<str>),
}

/// How old an answer may be (`Outport-Freshness`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Named by digest: it cannot change.
    Immutable,
    /// Within its time to live, or just fetched.
    Fresh,
    /// The upstream has just confirmed it.
    Revalidated,
    /// Past its time to live, and the upstream cannot be asked.
    Stale,
}

/// A value with its provenance.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub value: T,
    pub source: Source,
    pub freshness: Freshness,
}

impl<T> Answer<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: change(self.value), source: self.source, freshness: self.freshness }
    }
}
