//! Opening a region's root: which incarnation it is, and whether this program understands it.
//!
//! ```text
//! <prefix>/<region>.incarnations/<n:020>      created, never removed: {format, region, incarnation}, n from 1 without gaps
//! <prefix>/<region>.<incarnation>/format.json  created once: {format, least_reader, least_writer, region, incarnation}
//! <prefix>/<region>.probes/<ulid>              passing
//! ```
//! The last of the incarnations is the one in force. Whoever begins a new one creates the next number; create-if-absent lets one
//! of several win, and the others read who did. So there is nothing to overwrite, and no listing is asked for: finding the one in
//! force takes a read of each, of which there is one unless a region was declared lost or restored.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::Bucket;
use super::connect::connect;
use super::error::{BucketError, Failure, OpenError};
use super::key::Key;
use super::probe;
use super::wire::Wire;
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;

/// The layout that this program writes, and the versions of reader and writer that it is.
const FORMAT: u32 = 1;
/// How many incarnations a region may have had.
const MAX_INCARNATIONS: u64 = 1_000;
/// How often a create is judged by reading back before it is given up.
const MAX_ROUNDS: u32 = 5;
/// What these small documents may measure.
const MAX_DOCUMENT_BYTES: u64 = 16 << 10;
/// Between attempts of [`Bucket::open_patiently`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// `format.json`. Keys of a newer version are ignored if its least versions allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    /// The version of the layout's writer.
    format: u32,
    /// Who may read it, and who may write to it: programs of these versions or above.
    least_reader: u32,
    least_writer: u32,
    region: String,
    incarnation: String,
}

/// An entry of the list of incarnations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Incarnation {
    format: u32,
    region: String,
    incarnation: String,
}

impl Bucket {
    /// Makes the client, examines the store, and finds the region's root or creates it. Several nodes may do so at once: all find one
    /// root.
    ///
    /// # Errors
    /// See [`OpenError::is_lasting`]. A store that cannot be reached is no reason not to start: what is cached and what comes from
    /// upstreams needs no bucket. Try again then, with [`open_patiently`](Self::open_patiently).
    pub async fn open(settings: &config::Bucket, region: &str, clock: Clock, metrics: Metrics) -> Result<Bucket, OpenError> {
        Bucket::open_over(connect(settings, clock, metrics)?, region).await
    }

    /// Tries until the bucket is open, at intervals that grow to half a minute; tells each failure.
    ///
    /// # Errors
    /// Those that are lasting.
    pub async fn open_patiently(
        settings: &config::Bucket,
        region: &str,
        clock: Clock,
        metrics: Metrics,
        mut failed: impl FnMut(&OpenError),
    ) -> Result<Bucket, OpenError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match Bucket::open(settings, region, clock.clone(), metrics.clone()).await {
                Err(error) if !error.is_lasting() => failed(&error),
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) async fn open_over(wire: Wire, region: &str) -> Result<Bucket, OpenError> {
        probe::examine(&wire, region).await?;
        let incarnation = find_or_begin(&wire, region).await?;
        let bucket = Bucket::new(wire, region, &incarnation);
        agree_on_format(&bucket).await?;
        Ok(bucket)
    }
}

fn entry_path(wire: &Wire, region: &str, number: u64) -> Path {
    wire.path(&format!("{region}.incarnations/{number:020}"))
}

/// The incarnation in force; the first one is begun if there is none.
async fn find_or_begin(wire: &Wire, region: &str) -> Result<String, OpenError> {
    let mut in_force = None;
    for number in 1..=MAX_INCARNATIONS {
        match read_document::<Incarnation>(wire, &entry_path(wire, region, number)).await? {
            Some(entry) => in_force = Some(known_entry(entry, region)?),
            None if number == 1 => in_force = Some(begin(wire, region).await?),
            None => break,
        }
    }
    in_force.ok_or_else(|| OpenError::Format("the list of incarnations has no end".into()))
}

fn known_entry(entry: Incarnation, region: &str) -> Result<String, OpenError> {
    let is_name = entry.incarnation.parse::<Ulid>().is_ok();
    match entry {
        Incarnation { format: FORMAT, region: named, incarnation } if named == region && is_name => Ok(incarnation),
        other => Err(OpenError::Format(format!("an entry of the incarnations of {region:?} is {other:?}"))),
    }
}

async fn begin(wire: &Wire, region: &str) -> Result<String, OpenError> {
    let incarnation = wire.fresh_ulid().to_string();
    let entry = Incarnation { format: FORMAT, region: region.to_owned(), incarnation };
    known_entry(create_or_read(wire, &entry_path(wire, region, 1), &entry).await?, region)
}

async fn agree_on_format(bucket: &Bucket) -> Result<(), OpenError> {
    let (region, incarnation) = (bucket.region().to_owned(), bucket.incarnation().to_owned());
    let ours = Format { format: FORMAT, least_reader: FORMAT, least_writer: FORMAT, region, incarnation };
    let path = bucket.path(&Key::Format);
    let wire = bucket.wire();
    let found = match read_document(wire, &path).await? {
        Some(found) => found,
        None => create_or_read(wire, &path, &ours).await?,
    };
    judge_format(&found, &ours)
}

fn judge_format(found: &Format, ours: &Format) -> Result<(), OpenError> {
    if found.least_reader > FORMAT || found.least_writer > FORMAT {
        return Err(OpenError::Format(format!(
            "it needs a reader of version {} and a writer of version {}; this program is {FORMAT}: use a newer one",
            found.least_reader, found.least_writer
        )));
    }
    if found.format == 0 || (&found.region, &found.incarnation) != (&ours.region, &ours.incarnation) {
        return Err(OpenError::Format(format!("its format.json is {found:?}, and {ours:?} belongs there")));
    }
    Ok(())
}

/// What lies at the path in the end, whoever created it.
async fn create_or_read<T: Serialize + for<'de> Deserialize<'de>>(wire: &Wire, path: &Path, document: &T) -> Result<T, OpenError> {
    let bytes = Bytes::from(serde_json::to_vec(document).map_err(|error| OpenError::Format(error.to_string()))?);
    for _ in 0..MAX_ROUNDS {
        if let Err(Failure::Error(error @ BucketError::Refused(_))) = wire.create(path, &bytes).await {
            return Err(error.into());
        }
        // Neither "created" nor "exists" nor an error is the last word: what can be read is.
        if let Some(found) = read_document(wire, path).await? {
            return Ok(found);
        }
    }
    Err(BucketError::unavailable(format!("{path} was created and is not there")).into())
}

async fn read_document<T: for<'de> Deserialize<'de>>(wire: &Wire, path: &Path) -> Result<Option<T>, OpenError> {
    let Some(bytes) = wire.read(path, MAX_DOCUMENT_BYTES).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| OpenError::Format(format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_refused_with_what_is_wrong() {
        let format = |format, least_reader, least_writer, region: &str| Format {
            format,
            least_reader,
            least_writer,
            region: region.into(),
            incarnation: "I".into(),
        };
        let ours = format(1, 1, 1, "eu");
        assert_eq!(judge_format(&ours, &ours), Ok(()));
        // A newer writer that keeps the old ones in.
        assert_eq!(judge_format(&format(2, 1, 1, "eu"), &ours), Ok(()));
        for (found, why) in [
            (format(2, 2, 2, "eu"), "use a newer one"),
            (format(2, 1, 2, "eu"), "a writer of version 2"),
            (format(0, 1, 1, "eu"), "belongs there"),
            (format(1, 1, 1, "us"), "belongs there"),
        ] {
            let error = judge_format(&found, &ours).unwrap_err();
            assert!(error.is_lasting() && error.to_string().contains(why), "{error}");
        }
    }
}
