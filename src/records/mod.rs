//! Records: what happens on an edge, entry by entry, kept on this node's disk until the region's bucket has it, and searched across
//! regions. Who did what is one ([`crate::bucket::RecordKind::Audit`]), the log's lines are another.
//!
//! # Promises
//! - Nobody waits for a record. What happened is left as a line, in bounded memory ([`Intake::note`]); a thread of its own puts it on the disk.
//! - What is lost is counted, and the next entry says how many were lost before it: because more came at once than can be written, because
//!   the disk takes no writes, or because the bucket took nothing until the record's part of the disk was full.
//! - An object in the bucket is created once and never written again; `audit/DAY/HOUR/FILE-NODE.jsonl.gz` (of the log `log/...`) has the
//!   entries of one node within one hour, as lines of JSON. [`Entry`] has the fields.
//! - A search is bounded in time and amount, and says what it did not look at.
//!
//! The record of an earlier incarnation of the region stays where it was written, and is searched there.

mod entry;
mod folder;
mod intake;
mod pack;
mod query;
mod regions;
mod search;
mod ship;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trays;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::timeout;
use ulid::Ulid;

pub use entry::{AddressText, Entry, Line, Note, is_plain};
pub use intake::Intake;
pub use query::{Addresses, AddressesError, Filter, LIMIT, MAX_LIMIT, Mark, Moment, MomentError, Query};
pub use regions::{Answer, SearchError, Searched};
pub use trays::{Full, Taker, Trays};

use crate::bucket::{Bucket, BucketError, Key, RecordFile, RecordKind};
use crate::clock::{Clock, Timestamp};
use crate::config::Keeping;
use crate::metrics::Recorded;
use crate::region::Region;
use folder::Folder;
use intake::Outlet;
use pack::pack;
use ship::Shipper;
use writer::{Parts, Writer};

/// How long the end of an edge waits until all is written, and then until the bucket has it. What it does not have then is sent by the
/// next process that starts in the same folder.
const END_TIME: Duration = Duration::from_secs(2);
/// How long a search waits until what was noted before it is written, and the metrics until the folder was looked at.
const FLUSH_TIME: Duration = Duration::from_millis(500);
/// Searches at one time.
const MAX_SEARCHES: usize = 4;

/// What tells one record from another.
#[derive(Debug)]
pub struct Nature {
    pub kind: RecordKind,
    /// What it is called in the log; the end of its threads' names, too.
    pub name: &'static str,
    /// What edges of other regions ask: `/outport/v1/peer/QUESTION`.
    pub question: &'static str,
    /// The key of the configuration that turns it on.
    pub switch: &'static str,
}

/// What a record is begun with.
pub struct Setup<'a> {
    /// Where its files wait for the bucket.
    pub dir: &'a Path,
    pub keeping: Keeping,
    /// The own region's name.
    pub own: &'a str,
    pub region: Region,
    pub clock: Clock,
    pub counted: Recorded,
}

/// A record of one edge. Cloning is cheap; all clones are one.
#[derive(Clone)]
pub struct Records(Arc<Inner>);

struct Inner {
    own: Arc<str>,
    /// `None` where nothing is recorded.
    intake: Option<Intake>,
    shipper: Shipper,
    searches: Semaphore,
    thread: Mutex<Option<Thread>>,
    tasks: [AbortHandle; 2],
}

/// It ends with what it has not read.
type Thread = JoinHandle<Outlet>;

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Records {
    /// Begins to write what comes through the intake, if there is one, and to send to the region's bucket what lies there. A disk that
    /// takes nothing yet keeps no edge from starting.
    pub async fn start(nature: &'static Nature, setup: Setup<'_>, intake: Option<Intake>) -> Records {
        let Setup { dir, keeping, own, region, clock, counted } = setup;
        let (own, folder): (Arc<str>, _) = (own.into(), Folder::new(dir.to_owned()));
        let fresh = Ulid::from_parts(clock.now().as_ms(), fastrand::u128(..));
        let prepared = {
            let (folder, records) = (folder.clone(), intake.is_some());
            // Where nothing is recorded, and nothing was, there is no folder.
            spawn_blocking(move || if records || folder.exists() { folder.prepare(fresh) } else { Ok(fresh) }).await
        };
        let node = match prepared {
            Ok(Ok(node)) => node,
            Ok(Err(error)) => {
                tracing::error!(%error, "the folder of the {} cannot be used yet", nature.name);
                fresh
            }
            Err(_) => fresh,
        };
        let closed = Arc::new(Notify::new());
        let keep = keeping.keep;
        let thread = intake.as_ref().and_then(|intake| {
            let (name, folder, region, tally) = (nature.name, folder.clone(), own.clone(), intake.tally());
            let (closed, clock, counted) = (closed.clone(), clock.clone(), counted.clone());
            begin(Parts { name, folder, node, region, keeping, tally, closed, clock, counted }, intake)
        });
        let shipper = Shipper { nature, folder, node, region, clock, counted, keep };
        let shipping = shipper.clone();
        let tasks = [
            tokio::spawn(async move { shipping.ship(&closed).await }).abort_handle(),
            tokio::spawn(shipper.clone().retain()).abort_handle(),
        ];
        let (searches, thread) = (Semaphore::new(MAX_SEARCHES), Mutex::new(thread));
        Records(Arc::new(Inner { own, intake, shipper, searches, thread, tasks }))
    }

    /// The way in; `None` where nothing is recorded.
    pub fn intake(&self) -> Option<&Intake> {
        self.0.intake.as_ref()
    }

    /// Returns when what was noted before is on the disk, or it takes too long.
    async fn flush(&self) {
        if let Some(flushed) = self.0.intake.as_ref().and_then(Intake::flush) {
            let _ = timeout(FLUSH_TIME, flushed).await;
        }
    }

    /// Sets the metrics that tell of what waits.
    pub async fn report(&self) {
        let folder = self.0.shipper.folder.clone();
        let looked = timeout(FLUSH_TIME, spawn_blocking(move || folder.files())).await;
        let Ok(Ok(Ok(files))) = looked else { return };
        let Shipper { clock, counted, .. } = &self.0.shipper;
        let size_bytes = files.iter().map(|found| found.size_bytes).sum();
        let oldest = files.first().map(|found| Timestamp::from_ms(found.file.timestamp_ms()));
        counted.waiting(size_bytes, oldest.map_or(Duration::ZERO, |began| clock.now().since(began)));
    }

    /// Writes what waits and sends it, as far as that goes in a few seconds. What is noted afterwards waits for another start with the
    /// same intake.
    pub async fn close(&self) {
        let Inner { intake, shipper, thread, tasks, .. } = &*self.0;
        let name = shipper.nature.name;
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((intake, thread)) = intake.clone().zip(thread) {
            let ending = spawn_blocking(move || {
                intake.end();
                if let Ok(outlet) = thread.join() {
                    intake.give_back(outlet);
                }
            });
            if timeout(END_TIME, ending).await.is_err() {
                tracing::warn!("the {name} is not written to its end: its disk hangs");
            }
        }
        tasks.iter().for_each(AbortHandle::abort);
        match timeout(END_TIME, shipper.ship_all()).await {
            Ok(Ok(())) => {}
            _ => tracing::info!("the end of the {name} waits for the next start of this edge"),
        }
    }
}

fn begin(parts: Parts, intake: &Intake) -> Option<Thread> {
    let name = parts.name;
    let Some(mut outlet) = intake.outlet() else {
        tracing::error!("an earlier thread of the {name} has not ended: nothing is recorded");
        return None;
    };
    let run = move || {
        Writer::new(parts).run(&mut outlet);
        outlet
    };
    let thread = std::thread::Builder::new().name(name.replace(' ', "-")).spawn(run);
    thread.inspect_err(|error| tracing::error!(%error, "the thread of the {name} cannot be started: nothing is recorded")).ok()
}

/// Puts one entry into a region's bucket: of a command that goes at the bucket without an edge.
///
/// # Errors
/// It may be there or not.
pub async fn record_in<N: Note>(kind: RecordKind, bucket: &Bucket, clock: &Clock, event: N) -> Result<(), BucketError> {
    let (time, id, node) = (clock.now(), bucket.fresh_ulid(), bucket.fresh_ulid());
    let mut line = Vec::new();
    Entry { time, id, region: bucket.region().into(), node, lost: 0, event }.write_line(&mut line);
    let file = RecordFile { file: Ulid::from_parts(time.as_ms(), id.random()), node };
    bucket.create(&Key::Record(kind, file), Bytes::from(pack(&line))).await.map(drop)
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { own, shipper, .. } = &*self.0;
        f.debug_struct("Records").field("region", own).field("nature", shipper.nature).finish_non_exhaustive()
    }
}
