//! The one look-up order (memory, disk, upstream), single-flight fill, prefetch, freshness.

mod answer;

use std::time::Duration;

pub use answer::{Answer, Freshness, Source};
use bytes::Bytes;

use crate::oci::Digest;

/// A manifest as it is served: the exact bytes and type that the upstream sent. Cloning copies no bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: std::sync::Arc<str>,
    pub size_bytes: u64,
    /// `None` when only the head is known: a HEAD request that upstream answered by HEAD.
    pub bytes: Option<Bytes>,
}

/// Why a look-up has no answer. The variants are what callers treat differently.
#[derive(Clone, Debug, thiserror::Error)]
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
}
