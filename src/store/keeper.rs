//! The one background task of a store: it commits the index, evicts, compares the folder with the index where that is needed, and
//! finds out when a disk takes writes again.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::disk::TRY_AGAIN_AFTER;
use super::index::{Ending, Evicted, IndexError, Shelf, Touches};
use super::layout::{BUCKETS, bucket};
use super::{Shared, Stop};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Changes are gathered for this long before they are committed.
const GATHER: Duration = Duration::from_millis(250);
/// The same while there is too much on the disk.
const GATHER_WHEN_OVER: Duration = Duration::from_millis(20);
/// How often uses alone are written down.
const TOUCHES_EVERY: Duration = Duration::from_secs(30);

/// What the task remembers from round to round.
#[derive(Debug)]
struct Keeper {
    shared: Arc<Shared>,
    touches_at: Instant,
    /// When a database that cannot be used is tried again.
    reopen_at: Instant,
    /// The next bucket to compare; `None` when there is no need.
    scan: Option<u16>,
}

/// Runs until the store is closed (then it commits what is left) or dropped.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let now = Instant::now();
    let mut keeper = Keeper { shared: shared.clone(), touches_at: now + TOUCHES_EVERY, reopen_at: now, scan: None };
    loop {
        if keeper.scan.is_none() {
            tokio::select! {
                _ = timeout(TRY_AGAIN_AFTER, shared.index.dirty.notified()) => {}
                () = stopped(&mut stop) => {}
            }
            let gather = if shared.over_budget() { GATHER_WHEN_OVER } else { GATHER };
            tokio::select! {
                () = sleep(gather) => {}
                () = shared.hurry.notified() => sleep(GATHER_WHEN_OVER).await,
                () = stopped(&mut stop) => {}
            }
        }
        let ending = match *stop.borrow() {
            Stop::No => Ending::NotYet,
            Stop::Close => Ending::Orderly,
            Stop::Drop => return,
        };
        let round = tokio::task::spawn_blocking(move || {
            keeper.round(ending);
            keeper
        });
        match round.await {
            Ok(back) => keeper = back,
            // The runtime is ending.
            Err(_) => return,
        }
        if ending == Ending::Orderly {
            return;
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<Stop>) {
    // An error would tell that the store is gone, which its own task outlives.
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

impl Keeper {
    fn round(&mut self, ending: Ending) {
        let shared = self.shared.clone();
        if shared.disk.probe_is_due() && shared.probe().is_ok() {
            shared.disk.took();
        }
        if !shared.index.is_open() && Instant::now() >= self.reopen_at {
            match shared.index.open() {
                Ok(()) => tracing::info!("the index can be written"),
                Err(why) => {
                    tracing::debug!(%why, "the index cannot be written yet");
                    self.reopen_at = Instant::now() + TRY_AGAIN_AFTER;
                }
            }
        }
        if shared.index.is_open() {
            if self.scan.is_none() && !shared.index.agrees() {
                self.scan = Some(0);
            }
            self.commit(ending);
        }
        if shared.index.is_open() && ending == Ending::NotYet {
            self.scan_bucket();
        } else {
            // Begun anew when the index is open again.
            self.scan = None;
        }
        if ending == Ending::Orderly {
            shared.index.close();
        }
    }

    fn commit(&mut self, ending: Ending) {
        let shared = &self.shared;
        let touches_are_due = shared.index.has_touches() && Instant::now() >= self.touches_at;
        let nothing_to_do = !touches_are_due && !shared.index.has_changes() && !shared.over_budget() && !shared.index.is_suspect();
        if nothing_to_do && ending == Ending::NotYet {
            return;
        }
        // With a margin, so that not each blob that comes has another one evicted.
        let limit = if shared.over_budget() { shared.max_bytes - shared.max_bytes / 100 } else { shared.max_bytes };
        let evictions = Cell::new(0_u64);
        let shelf = Shelf {
            exists: &|digest| !matches!(fs::symlink_metadata(shared.layout.blob(digest)), Err(error) if error.kind() == io::ErrorKind::NotFound),
            evict: &|digest| {
                let outcome = evict(shared, digest);
                evictions.set(evictions.get() + u64::from(outcome == Evicted::Gone));
                outcome
            },
            budget_bytes: limit.saturating_sub(shared.partial_bytes.load(Ordering::Relaxed)),
            now: shared.clock.now(),
        };
        // A scan that did not end has to be begun again by the next process.
        let ending = if shared.index.agrees() { ending } else { Ending::NotYet };
        let touches = if touches_are_due || ending == Ending::Orderly { Touches::Now } else { Touches::Later };
        match shared.index.commit(&shelf, touches, ending) {
            Ok(()) => {
                if touches_are_due {
                    self.touches_at = Instant::now() + TOUCHES_EVERY;
                }
                shared.metrics.cache_size("disk", shared.index.held_bytes(), shared.index.blobs());
                if evictions.get() > 0 && shared.over_budget() {
                    // One transaction evicts so many and no more.
                    shared.index.dirty.notify_one();
                }
            }
            Err(why) => self.failed(&why),
        }
    }

    /// The database cannot be used as it is: closed, and tried again later, or at once when a new one is to take its place.
    fn failed(&mut self, why: &IndexError) {
        tracing::warn!(%why, "the index cannot be used; changes wait in memory");
        let wait = match why {
            IndexError::Damaged(_) => {
                self.shared.index.discard();
                Duration::ZERO
            }
            IndexError::Disk(_) | IndexError::Locked => {
                self.shared.index.only_read();
                TRY_AGAIN_AFTER
            }
        };
        self.reopen_at = Instant::now() + wait;
        self.shared.index.dirty.notify_one();
    }

    /// Compares one folder with the index; the differences are committed by the next round.
    fn scan_bucket(&mut self) {
        let Some(number) = self.scan else { return };
        let (algorithm, first) = bucket(number);
        let shared = &self.shared;
        let Some(mut known) = shared.index.bucket(algorithm, first) else { return };
        match shared.layout.list(algorithm, first) {
            Ok(there) => {
                for digest in there {
                    let size = known.remove(&digest);
                    let Ok(found) = fs::symlink_metadata(shared.layout.blob(&digest)) else { continue };
                    if size != Some(found.len()) {
                        let modified_ms = u64::try_from(found.mtime()).unwrap_or(0).saturating_mul(1_000);
                        shared.index.found(digest, found.len(), Timestamp::from_ms(modified_ms).min(shared.clock.now()));
                    }
                }
                // Those that the listing missed because they came after it are still there when this is committed.
                for digest in known.into_keys() {
                    shared.index.blob_gone(digest);
                }
            }
            Err(error) => tracing::warn!(%error, "listing cached blobs"),
        }
        self.scan = (number + 1 < BUCKETS).then_some(number + 1);
        if self.scan.is_none() {
            shared.index.scanned();
            tracing::info!("the index agrees with the cache's folder");
            shared.index.dirty.notify_one();
        }
    }
}

fn evict(shared: &Shared, digest: &Digest) -> Evicted {
    if !shared.files.release(digest) {
        return Evicted::InUse;
    }
    match fs::remove_file(shared.layout.blob(digest)) {
        Ok(()) => {
            shared.metrics.cache_evicted("disk");
            Evicted::Gone
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Evicted::Gone,
        Err(error) => {
            shared.disk.refused("evicting a blob", &error);
            Evicted::Refused
        }
    }
}
