//! What runs in the background: sessions expire, and bytes that an upload left in the bucket go.
//!
//! A key that no event names is first abandoned in the ledger, which from then on refuses events that name it, and only then deleted: an
//! upload whose last step was slow loses, and never an acknowledged one. Several nodes may do this at once.

use std::sync::Weak;
use std::time::Duration;

use super::Inner;
use crate::bucket::{BLOB_SHARDS, Bucket, BucketError, Key};
use crate::ledger::{AppendError, Event, Ledger, LedgerError, Look, Origin, Place};

/// The bounds of how often expired sessions are looked for.
const EXPIRE_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// The least time between two sweeps: they are the only ones that list the bucket.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Keys that one event abandons, at most.
const MAX_ABANDONED: usize = 500;

pub(super) async fn expire(inner: Weak<Inner>) {
    loop {
        let Some(pause) = inner.upgrade().map(|inner| (inner.settings.ttl / 4).clamp(EXPIRE_EVERY.0, EXPIRE_EVERY.1)) else { return };
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.expire();
    }
}

pub(super) async fn sweep(inner: Weak<Inner>) {
    loop {
        // Spread, so that the nodes of a region rarely sweep together.
        let Some(pause) = inner.upgrade().map(|inner| inner.settings.ttl.max(SWEEP_EVERY)) else { return };
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        let Some(inner) = inner.upgrade() else { return };
        let Ok(open) = inner.region.get() else { continue };
        match sweep_once(&inner, &open.bucket, &open.ledger).await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "removed what abandoned uploads left in the bucket"),
            Err(error) => tracing::warn!(%error, "sweeping abandoned uploads"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SweepError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// How many keys were removed.
pub(super) async fn sweep_once(inner: &Inner, bucket: &Bucket, ledger: &Ledger) -> Result<usize, SweepError> {
    let mut removed = bucket.remove_staged(inner.settings.ttl).await?;
    for shard in 0..BLOB_SHARDS {
        let Ok(shard) = u8::try_from(shard) else { break };
        let mut after = None;
        loop {
            let listed = bucket.list_blobs(shard, after).await?;
            let Some(last) = listed.last() else { break };
            after = Some(last.ulid);
            let now = inner.clock.now();
            // Both clocks must agree that it is old: the key has this node's or a sibling's time, the object the store's.
            let old = |ms| now.since(crate::clock::Timestamp::from_ms(ms)) > inner.settings.ttl;
            let old_keys = listed.iter().filter(|blob| old(blob.modified.as_ms()) && old(blob.ulid.timestamp_ms())).map(|blob| blob.ulid);
            let candidates: Vec<_> = old_keys.collect();
            if !candidates.is_empty() {
                removed += remove_unnamed(bucket, ledger, candidates).await?;
            }
        }
    }
    Ok(removed)
}

async fn remove_unnamed(bucket: &Bucket, ledger: &Ledger, candidates: Vec<ulid::Ulid>) -> Result<usize, SweepError> {
    ledger.confirm(Look::Now).await?;
    let mut unnamed = Vec::new();
    for key in candidates {
        if !ledger.is_named(key)? {
            unnamed.push(key);
        }
    }
    let origin = Origin::of(bucket);
    for keys in unnamed.chunks(MAX_ABANDONED) {
        let places = keys.iter().map(|key| Place { origin: origin.clone(), key: *key }).collect();
        ledger.append(vec![Event::Abandon { places }]).await?;
        for key in keys {
            bucket.delete(&Key::Blob(*key)).await?;
        }
    }
    Ok(unnamed.len())
}
