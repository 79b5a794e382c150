//! What a store must do before anything is kept in it, tried out at the start.
//!
//! The ledger's safety rests on create-if-absent, and a negative answer on "not found" being told. Stores that call themselves
//! compatible vary, and permissions do: what is missing is found here, and said, instead of being found by losing a push.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::path::Path;
use ulid::Ulid;

use super::error::{BucketError, Failure, OpenError};
use super::object::ObjectReader;
use super::wire::Wire;
use crate::clock::Timestamp;

/// How many create one key at once.
const RACERS: usize = 8;
/// How often the race is run again when it ended without a winner, as spurious conflicts make it.
const MAX_RACES: u32 = 5;
/// How far the store's clock and ours may differ before it is said. HTTP tells the time in whole seconds.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// After which time another process's probe was left behind.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// How many left-behind probes one start removes.
const MAX_REMOVED: usize = 100;
const MAX_PROBE_BYTES: u64 = 1 << 10;

fn probe_path(wire: &Wire, region: &str) -> Path {
    wire.path(&format!("{region}.probes/{}", wire.fresh_ulid()))
}

/// Tries the store out; what was created for that is removed.
pub(super) async fn examine(wire: &Wire, region: &str) -> Result<(), OpenError> {
    tell_absence(wire, region).await?;
    let mut path = probe_path(wire, region);
    let mut outcome = race(wire, &path).await;
    for _ in 1..MAX_RACES {
        if !matches!(outcome, Ok(Race::Undecided)) {
            break;
        }
        remove(wire, &path).await;
        path = probe_path(wire, region);
        outcome = race(wire, &path).await;
    }
    remove(wire, &path).await;
    // Another name: some stores take one update of a name in a second.
    let path = probe_path(wire, region);
    let outcome = match outcome {
        Ok(Race::Won) => examine_object(wire, &path).await,
        Ok(Race::Undecided) => Err(not_safe(format!("none of {RACERS} creates of a new key succeeded, {MAX_RACES} times"))),
        Err(error) => Err(error),
    };
    remove(wire, &path).await;
    outcome?;
    remove_abandoned(wire, region).await;
    Ok(())
}

/// Writes, reads and deletes a small object.
pub(super) async fn round_trip(wire: &Wire, region: &str) -> Result<(), BucketError> {
    let path = probe_path(wire, region);
    let bytes = Bytes::from_static(b"probe");
    wire.put(&path, bytes.clone().into()).await?;
    let read = wire.read(&path, MAX_PROBE_BYTES).await?;
    wire.delete(&path).await?;
    if read == Some(bytes) { Ok(()) } else { Err(BucketError::Broken("what was written is not what is read".into())) }
}

fn not_safe(why: impl Into<String>) -> OpenError {
    OpenError::Unsafe(why.into())
}

/// S3 without the permission to list answers 403 to what is not there, and so does a wrong password to everything.
async fn tell_absence(wire: &Wire, region: &str) -> Result<(), OpenError> {
    let path = probe_path(wire, region);
    match wire.read(&path, MAX_PROBE_BYTES).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(not_safe("it has content under a name that was never used")),
        Err(BucketError::Refused(why)) => {
            let written = wire.put(&path, Bytes::from_static(b"probe").into()).await;
            remove(wire, &path).await;
            match written {
                Ok(()) => Err(not_safe(format!(
                    "it does not tell what is not there, as S3 does without the permission to list (s3:ListBucket): {why}"
                ))),
                Err(_) => Err(BucketError::Refused(why).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

enum Race {
    Won,
    /// Nobody won, which decides nothing.
    Undecided,
}

/// Several create one key at once: one of them wins, and its bytes are what is read.
async fn race(wire: &Wire, path: &Path) -> Result<Race, OpenError> {
    let bytes: Vec<Bytes> = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}"))).collect();
    let outcomes = join_all(bytes.iter().map(|bytes| wire.create(path, bytes))).await;
    let mut winners = Vec::new();
    for (outcome, bytes) in outcomes.into_iter().zip(&bytes) {
        match outcome {
            Ok(()) => winners.push(bytes),
            Err(Failure::Exists) => {}
            Err(other) => return Err(other.into_error().into()),
        }
    }
    let [winner] = winners[..] else {
        return match winners.len() {
            0 => Ok(Race::Undecided),
            count => Err(not_safe(format!(
                "{count} of {RACERS} creates of one key succeeded: several nodes would overwrite each other's ledger on this store"
            ))),
        };
    };
    if wire.read(path, MAX_PROBE_BYTES).await?.as_ref() != Some(winner) {
        return Err(not_safe("what was created is not what is read: several nodes would lose each other's pushes on this store"));
    }
    match wire.create(path, &Bytes::from_static(b"late")).await {
        Err(Failure::Exists) => Ok(Race::Won),
        Ok(()) => Err(not_safe("it creates what exists: several nodes would overwrite each other's ledger on this store")),
        Err(other) => Err(other.into_error().into()),
    }
}

/// Writing, ranges, the clock and deleting.
async fn examine_object(wire: &Wire, path: &Path) -> Result<(), OpenError> {
    let before = wire.clock.now();
    wire.put(path, Bytes::from_static(b"0123456789").into()).await?;
    let after = wire.clock.now();
    let mut reader = ObjectReader::open(wire, path, 3..7).await?.ok_or_else(|| not_safe("what was written is not there"))?;
    let mut range = Vec::new();
    while let Some(bytes) = reader.next().await? {
        range.extend_from_slice(&bytes);
    }
    if range != b"3456" || reader.object_bytes() != 10 {
        return Err(not_safe("it does not serve ranges of what was written"));
    }
    let head = wire.head(path).await?.ok_or_else(|| not_safe("what was written is not there"))?;
    let modified_ms = u64::try_from(head.last_modified.timestamp_millis()).unwrap_or_default();
    compare_clocks(wire, before, Timestamp::from_ms(modified_ms), after);
    wire.delete(path).await?;
    match wire.read(path, MAX_PROBE_BYTES).await? {
        None => Ok(()),
        Some(_) => Err(not_safe("what was deleted is still there")),
    }
}

/// Nothing rests on the clocks' agreement but ages: of sessions, of leftovers, and signatures of requests.
fn compare_clocks(wire: &Wire, before: Timestamp, modified: Timestamp, after: Timestamp) {
    let (ahead, behind) = (modified.since(after), before.since(modified));
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    wire.metrics.bucket_clock_ahead.set(seconds(ahead) - seconds(behind));
    if ahead.max(behind) > CLOCK_TOLERANCE {
        let seconds = seconds(ahead) - seconds(behind);
        tracing::warn!(seconds, "the bucket's clock is ahead of this machine's (behind, if negative): set the one that is wrong");
    }
}

async fn remove(wire: &Wire, path: &Path) {
    if let Err(error) = wire.delete(path).await {
        tracing::debug!(%error, %path, "a probe is left behind");
    }
}

/// Removes what processes left that were killed while they tried.
async fn remove_abandoned(wire: &Wire, region: &str) {
    let (now, mut abandoned) = (wire.clock.now(), Vec::new());
    let folder = wire.path(&format!("{region}.probes"));
    let listed = wire.list(&folder, None, |object| {
        let created = object.location.filename().and_then(|name| name.parse::<Ulid>().ok());
        let is_old = created.is_some_and(|ulid| now.since(Timestamp::from_ms(ulid.timestamp_ms())) > ABANDONED_AFTER);
        if is_old && abandoned.len() < MAX_REMOVED {
            abandoned.push(object.location);
        }
    });
    if let Err(error) = listed.await {
        tracing::warn!(%error, "the bucket cannot be listed: what abandoned uploads leave will not be found");
    }
    for path in abandoned {
        remove(wire, &path).await;
    }
}
