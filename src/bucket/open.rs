//! Opening a region's root: which incarnation it is, and whether this program understands it.
//!
//! ```text
//! <prefix>/<region>.incarnations/<n:020>      created, never removed: {format, region, incarnation}, n from 1 without gaps
//! <prefix>/<region>.<incarnation>/format.json  created once: {format, least_reader, least_writer, region, incarnation}
//! <prefix>/<region>.probes/<ulid>              passing
//! ```
//! The last of the incarnations is the one in force (`incarnations.rs`). A root that one incarnation has left stays as it is: places
//! in it are named by what other regions hold, and its segments by the ledgers that have imported them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connect::connect;
use super::documents::{self, FORMAT, create_or_read};
use super::error::OpenError;
use super::key::Key;
use super::wire::Wire;
use super::{Bucket, incarnations, probe};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;

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
        let found = incarnations::find_or_begin(&wire, region).await?;
        let bucket = Bucket::new(wire, region, &found.incarnation);
        agree_on_format(&bucket).await?;
        Ok(bucket)
    }

    /// Whether this incarnation is still the region's last. One that is not takes no events any more: whoever follows the region has
    /// gone on to the next.
    ///
    /// # Errors
    /// It cannot be told now, or the list is not what it was.
    pub async fn is_in_force(&self) -> Result<bool, OpenError> {
        let found = incarnations::in_force(self.wire(), self.region()).await?.ok_or_else(|| incarnations::list_is_gone(self.region()))?;
        Ok(found.incarnation == self.incarnation())
    }

    /// Begins the incarnation after this one, unless somebody has: the root of the one that is in force then. Doing it twice, or on
    /// several nodes at once, begins one.
    ///
    /// # Errors
    /// It may have begun or not: ask again.
    pub async fn begin_incarnation(&self) -> Result<Bucket, OpenError> {
        let (wire, region) = (self.wire(), self.region());
        let last = incarnations::in_force(wire, region).await?.ok_or_else(|| incarnations::list_is_gone(region))?;
        let found = match last.incarnation == self.incarnation() {
            true => incarnations::begin(wire, region, last.number + 1).await?,
            false => last,
        };
        let bucket = Bucket::new(wire.clone(), region, &found.incarnation);
        agree_on_format(&bucket).await?;
        Ok(bucket)
    }
}

/// Reads the format of another region's root; `None` if it has none yet.
pub(super) async fn may_be_read(wire: &Wire, region: &str, incarnation: &str) -> Result<Option<()>, OpenError> {
    let path = wire.path(&format!("{region}.{incarnation}/{}", Key::Format));
    let Some(found) = documents::read::<Format>(wire, &path).await? else { return Ok(None) };
    judge_reader(&found)?;
    judge_names(&found, region, incarnation).map(Some)
}

async fn agree_on_format(bucket: &Bucket) -> Result<(), OpenError> {
    let (region, incarnation) = (bucket.region().to_owned(), bucket.incarnation().to_owned());
    let ours = Format { format: FORMAT, least_reader: FORMAT, least_writer: FORMAT, region, incarnation };
    let path = bucket.path(&Key::Format);
    let wire = bucket.wire();
    let found = match documents::read(wire, &path).await? {
        Some(found) => found,
        None => create_or_read(wire, &path, &ours).await?,
    };
    judge_format(&found, bucket.region(), bucket.incarnation())
}

fn judge_format(found: &Format, region: &str, incarnation: &str) -> Result<(), OpenError> {
    judge_reader(found)?;
    if found.least_writer > FORMAT {
        return Err(OpenError::Format(format!(
            "it needs a writer of version {}; this program is {FORMAT}: use a newer one",
            found.least_writer
        )));
    }
    judge_names(found, region, incarnation)
}

fn judge_reader(found: &Format) -> Result<(), OpenError> {
    match found.least_reader > FORMAT {
        true => Err(OpenError::Format(format!(
            "it needs a reader of version {}; this program is {FORMAT}: use a newer one",
            found.least_reader
        ))),
        false => Ok(()),
    }
}

fn judge_names(found: &Format, region: &str, incarnation: &str) -> Result<(), OpenError> {
    match found.format != 0 && (found.region.as_str(), found.incarnation.as_str()) == (region, incarnation) {
        true => Ok(()),
        false => Err(OpenError::Format(format!("its format.json is {found:?}, and that of {region}.{incarnation} belongs there"))),
    }
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
        let judge = |found: &Format| judge_format(found, "eu", "I");
        assert_eq!(judge(&format(1, 1, 1, "eu")), Ok(()));
        // A newer writer that keeps the old ones in.
        assert_eq!(judge(&format(2, 1, 1, "eu")), Ok(()));
        for (found, why) in [
            (format(2, 2, 2, "eu"), "use a newer one"),
            (format(2, 1, 2, "eu"), "a writer of version 2"),
            (format(0, 1, 1, "eu"), "belongs there"),
            (format(1, 1, 1, "us"), "belongs there"),
        ] {
            let error = judge(&found).unwrap_err();
            assert!(error.is_lasting() && error.to_string().contains(why), "{error}");
        }
    }
}
