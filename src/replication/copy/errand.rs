//! One content, from another region to a fresh key of the own bucket: hashed on its way, and named in the ledger when it is whole.

use std::sync::Arc;

use super::queue::{Outcome, Wanted};
use crate::bucket::{Bucket, BucketError, Key};
use crate::ledger::{AppendError, BlobEntry, Event, LedgerError, Look, Origin, Place};
use crate::oci::Digester;
use crate::region::{Open, ReadError, Reading};
use crate::replication::Inner;
use crate::replication::policy::chosen;

/// Why it is not here.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] BucketError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("what came is something else")]
    Mismatch,
}

impl Stopped {
    fn label(&self) -> &'static str {
        match self {
            Stopped::Mismatch => "mismatch",
            _ => "broken",
        }
    }
}

pub(super) async fn run(inner: &Inner, wanted: &Wanted) -> Outcome {
    let Ok(open) = inner.region.get() else { return Outcome::Again };
    match copy(inner, open, wanted).await {
        Ok(Copied::Whole) => {
            inner.metrics.copy_ended(&wanted.lane.peer, "complete");
            Outcome::Settled
        }
        Ok(Copied::Needless) => {
            inner.metrics.copy_ended(&wanted.lane.peer, "needless");
            Outcome::Settled
        }
        Err(why) => {
            inner.metrics.copy_ended(&wanted.lane.peer, why.label());
            tracing::warn!(digest = %wanted.digest, region = %wanted.lane.peer, %why, "a content could not be copied");
            Outcome::Again
        }
    }
}

enum Copied {
    Whole,
    /// It is here, or nobody wants it here any more.
    Needless,
}

async fn copy(inner: &Inner, open: &Open, wanted: &Wanted) -> Result<Copied, Stopped> {
    let Some(entry) = still_wanted(inner, open, wanted).await? else { return Ok(Copied::Needless) };
    let key = open.bucket.fresh_ulid();
    fetch(inner, open, (wanted, &entry), &Key::Blob(key)).await?;
    let place = Place { origin: Origin::of(&open.bucket), key };
    if still_wanted(inner, open, wanted).await?.is_none() {
        discard(&open.bucket, &Key::Blob(key)).await;
        return Ok(Copied::Needless);
    }
    let copied = Event::Copy { digest: wanted.digest, size_bytes: entry.size_bytes, place };
    match open.ledger.append(vec![copied]).await {
        Ok(_) => Ok(Copied::Whole),
        Err(AppendError::Rejected(_)) => {
            discard(&open.bucket, &Key::Blob(key)).await;
            Ok(Copied::Needless)
        }
        // It may be named: then the next try finds it here, and the sweep leaves it. Else the sweep takes it.
        Err(error) => Err(error.into()),
    }
}

/// What is known of it, if it is not here and shall be: another node, or another region, may have been faster.
async fn still_wanted(inner: &Inner, open: &Open, wanted: &Wanted) -> Result<Option<BlobEntry>, LedgerError> {
    // While the bucket is away nothing can be copied; the upload will say so.
    let _ = open.ledger.confirm(Look::Recent).await;
    let Some(entry) = open.ledger.places(&wanted.digest)? else { return Ok(None) };
    let policy = inner.policies().of(&wanted.lane.repository);
    let holding = entry.places.iter().map(|place| place.origin.region.clone()).collect();
    let members = inner.members(&open.ledger)?;
    let is_ours = chosen(policy, &wanted.digest, &members, &holding).contains(&&inner.own_name);
    Ok(Some(entry).filter(|entry| is_ours && !entry.is_in(&open.bucket)))
}

/// A transfer that breaks goes on at its byte, there or at another place of the content.
async fn fetch(inner: &Inner, open: &Open, (wanted, entry): (&Wanted, &BlobEntry), key: &Key) -> Result<(), Stopped> {
    let mut reading = Reading::new(&inner.region, open, &wanted.digest, entry);
    let mut object = open.bucket.upload(key).await?;
    let mut digester = Digester::new(wanted.digest.algorithm());
    while let Some(bytes) = reading.next().await? {
        let from: Arc<str> = reading.abroad().unwrap_or(&wanted.lane.peer).clone();
        inner.copies.admit(&from, bytes.len(), &inner.clock).await;
        inner.metrics.copied_bytes(&from, bytes.len() as u64);
        digester.update(&bytes);
        object.write(bytes).await?;
    }
    if digester.finish() != wanted.digest {
        object.abort().await;
        return Err(Stopped::Mismatch);
    }
    object.finish().await?;
    Ok(())
}

/// Nothing names it.
async fn discard(bucket: &Bucket, key: &Key) {
    if let Err(error) = bucket.delete(key).await {
        tracing::debug!(%error, %key, "a needless copy is left to the sweep");
    }
}
