//! The record of who did what: one entry for each request that was authenticated, kept on this node's disk until the region's bucket has
//! it, and searched across regions.
//!
//! # Promises
//! - Nobody waits for the record. A request leaves its event in a bounded queue ([`Audit::record`]); a thread of its own writes it.
//! - What is lost is counted, and the next entry says how many were lost before it: because more came at once than can be written, because
//!   the disk takes no writes, or because the bucket took nothing until `audit.disk` was full.
//! - An object in the bucket is created once and never written again; `audit/DAY/HOUR/FILE-NODE.jsonl.gz` has the entries of one node
//!   within one hour, as lines of JSON. [`Entry`] has the fields.
//! - A search is bounded in time and amount, and says what it did not look at.
//!
//! The record of an earlier incarnation of the region stays where it was written, and is searched there.

mod entry;
mod folder;
mod pack;
mod query;
mod regions;
mod search;
mod ship;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::timeout;
use ulid::Ulid;

pub use entry::{Entry, Event, Outcome};
pub use query::{Addresses, LIMIT, MAX_LIMIT, Moment, Query};
pub use regions::{Answer, SearchError, Searched};

use crate::bucket::{AuditFile, Bucket, BucketError, Key};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::region::Region;
use folder::Folder;
use pack::pack;
use ship::Shipper;
use writer::{Message, Noted, Parts, QUEUED, Tally, Writer};

/// How long the end of an edge waits until all is written, and then until the bucket has it. What it does not have then is sent by the
/// next process that starts in the same folder.
const END_TIME: Duration = Duration::from_secs(2);
/// How long a search waits until what was recorded before it is written, and the metrics until the folder was looked at.
const FLUSH_TIME: Duration = Duration::from_millis(500);
/// Searches at one time.
const MAX_SEARCHES: usize = 4;

/// The record of one edge. Cloning is cheap; all clones are one.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    own: Arc<str>,
    settings: config::Audit,
    /// `None` where nothing is recorded.
    queue: Option<SyncSender<Message>>,
    /// Whether the queue was full just now: said once.
    is_full: AtomicBool,
    tally: Arc<Tally>,
    shipper: Shipper,
    searches: Semaphore,
    thread: Mutex<Option<JoinHandle<()>>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Audit {
    /// Begins to write into `dir`, and to send to the region's bucket what lies there. A disk that takes nothing yet keeps no edge from
    /// starting.
    pub async fn start(dir: &Path, settings: config::Audit, own: &str, region: Region, clock: Clock, metrics: Metrics) -> Audit {
        let (own, folder): (Arc<str>, _) = (own.into(), Folder::new(dir.to_owned()));
        let fresh = Ulid::from_parts(clock.now().as_ms(), fastrand::u128(..));
        let prepared = {
            let folder = folder.clone();
            spawn_blocking(move || folder.prepare(fresh)).await
        };
        let node = match prepared {
            Ok(Ok(node)) => node,
            Ok(Err(error)) => {
                tracing::error!(%error, "the folder of the audit record cannot be used yet");
                fresh
            }
            Err(_) => fresh,
        };
        let (tally, closed) = (Arc::new(Tally::default()), Arc::new(Notify::new()));
        let parts = Parts {
            folder: folder.clone(),
            node,
            region: own.clone(),
            settings: settings.clone(),
            tally: tally.clone(),
            closed: closed.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let (queue, thread) = if settings.enabled { begin(parts) } else { (None, None) };
        let shipper = Shipper { folder, node, region, clock, metrics, keep: settings.keep };
        let shipping = shipper.clone();
        let tasks = [
            tokio::spawn(async move { shipping.ship(&closed).await }).abort_handle(),
            tokio::spawn(shipper.clone().retain()).abort_handle(),
        ];
        let searches = Semaphore::new(MAX_SEARCHES);
        let (is_full, thread) = (AtomicBool::new(false), Mutex::new(thread));
        Audit(Arc::new(Inner { own, settings, queue, is_full, tally, shipper, searches, thread, tasks }))
    }

    /// Whether an event of this kind is recorded: so that nobody makes one in vain.
    pub fn wants(&self, action: &str, outcome: Outcome) -> bool {
        let is_routine = outcome != Outcome::Denied && matches!(action, "pull" | "list");
        self.0.queue.is_some() && (self.0.settings.pulls || !is_routine)
    }

    /// Leaves an event to be written, with the time that it is now. Never waits: where too many wait already, it is lost and counted.
    pub fn record(&self, event: Event) {
        let Some(queue) = &self.0.queue else { return };
        let noted = Box::new(Noted { at: self.0.shipper.clock.now(), event });
        let sent = queue.try_send(Message::Noted(noted));
        if sent.is_err() {
            self.0.tally.add(1);
            self.0.shipper.metrics.audit_dropped("queue", 1);
        }
        // Once it is closed, nobody takes anything.
        let is_full = matches!(sent, Err(TrySendError::Full(_)));
        if is_full != self.0.is_full.load(Ordering::Relaxed) && self.0.is_full.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::error!("more comes than the audit record can take: entries are lost");
        }
    }

    /// Returns when what was recorded before is on the disk, or it takes too long.
    pub(crate) async fn flush(&self) {
        let Some(queue) = &self.0.queue else { return };
        let (done, flushed) = oneshot::channel();
        if queue.try_send(Message::Flush(done)).is_ok() {
            let _ = timeout(FLUSH_TIME, flushed).await;
        }
    }

    /// Sets the metrics that tell of what waits.
    pub async fn report(&self) {
        let folder = self.0.shipper.folder.clone();
        let looked = timeout(FLUSH_TIME, spawn_blocking(move || folder.files())).await;
        let Ok(Ok(Ok(files))) = looked else { return };
        let Shipper { clock, metrics, .. } = &self.0.shipper;
        let size_bytes = files.iter().map(|found| found.size_bytes).sum();
        let oldest = files.first().map(|found| crate::clock::Timestamp::from_ms(found.file.timestamp_ms()));
        metrics.audit_waiting(size_bytes, oldest.map_or(Duration::ZERO, |began| clock.now().since(began)));
    }

    /// Writes what waits and sends it, as far as that goes in a few seconds. What is recorded afterwards is lost.
    pub async fn close(&self) {
        let inner = &self.0;
        if let Some(queue) = &inner.queue {
            let thread = inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            let queue = queue.clone();
            let ending = spawn_blocking(move || {
                let _ = queue.send(Message::End);
                thread.map(JoinHandle::join)
            });
            if timeout(END_TIME, ending).await.is_err() {
                tracing::warn!("the audit record is not written to its end: its disk hangs");
            }
        }
        inner.tasks.iter().for_each(AbortHandle::abort);
        match timeout(END_TIME, inner.shipper.ship_all()).await {
            Ok(Ok(())) => {}
            _ => tracing::info!("the end of the audit record waits for the next start of this edge"),
        }
    }
}

fn begin(parts: Parts) -> (Option<SyncSender<Message>>, Option<JoinHandle<()>>) {
    let (queue, messages) = sync_channel(QUEUED);
    let writer = Writer::new(parts);
    match std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&messages)) {
        Ok(thread) => (Some(queue), Some(thread)),
        Err(error) => {
            tracing::error!(%error, "the thread of the audit record cannot be started: nothing is recorded");
            (None, None)
        }
    }
}

/// Puts one entry into a region's bucket: of a command that goes at the bucket without an edge.
///
/// # Errors
/// It may be there or not.
pub async fn record_in(bucket: &Bucket, clock: &Clock, event: Event) -> Result<(), BucketError> {
    let (time, id, node) = (clock.now(), bucket.fresh_ulid(), bucket.fresh_ulid());
    let mut line = Vec::new();
    Entry { time, id, region: bucket.region().into(), node, lost: 0, event }.write_line(&mut line);
    let file = AuditFile { file: Ulid::from_parts(time.as_ms(), id.random()), node };
    bucket.create(&Key::Audit(file), Bytes::from(pack(&line))).await.map(drop)
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("region", &self.0.own).field("settings", &self.0.settings).finish_non_exhaustive()
    }
}
