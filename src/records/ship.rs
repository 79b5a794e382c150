//! Closed files go to the bucket; what is old there goes away.
//!
//! An object is created once and never written again. Where nobody can tell whether it was created, it is read: the file here goes only
//! when the bucket has it. A bucket that is away or hangs makes files wait, and nobody else.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use ulid::Ulid;

use super::Nature;
use super::folder::{Folder, Found};
use super::pack::{pack, unpack};
use crate::bucket::{Bucket, BucketError, Created, Key, RecordFile};
use crate::clock::Clock;
use crate::metrics::Recorded;
use crate::region::Region;

/// How often it is looked whether files wait, when nobody tells.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The wait after a failure, doubled with each further one up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Of an object.
pub(super) const MAX_OBJECT_BYTES: u64 = 32 << 20;
/// About how often a node looks for what is too old.
const REMOVE_EVERY: Duration = Duration::from_secs(3600);
/// Files that it removes then, at most.
const MAX_REMOVED: u64 = 20_000;

/// Why a file still waits.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShipError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("the file cannot be read: {0}")]
    Disk(#[from] std::io::Error),
    #[error("something else lies under its name in the bucket")]
    Taken,
    #[error("{0}")]
    NotOpen(String),
}

/// Sends one node's files.
#[derive(Clone)]
pub(super) struct Shipper {
    pub(super) nature: &'static Nature,
    pub(super) folder: Folder,
    pub(super) node: Ulid,
    pub(super) region: Region,
    pub(super) clock: Clock,
    pub(super) counted: Recorded,
    pub(super) keep: Duration,
}

impl Shipper {
    /// Sends files as they are closed, for as long as it is let.
    pub(super) async fn ship(self, closed: &Notify) {
        let (mut pause, mut failures) = (Duration::ZERO, 0_u32);
        loop {
            tokio::select! {
                // While the bucket takes nothing, a further file is no reason to ask it.
                () = closed.notified(), if failures == 0 => {}
                () = sleep(pause) => {}
            }
            pause = match self.ship_all().await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("the bucket takes the {} again", self.nature.name);
                    }
                    failures = 0;
                    LOOK_EVERY
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the {} waits: the bucket does not take it", self.nature.name);
                    }
                    failures = failures.saturating_add(1);
                    (FIRST_PAUSE * 2_u32.saturating_pow(failures - 1).min(64)).min(LONGEST_PAUSE)
                }
            };
        }
    }

    /// Sends all files that are closed, the oldest first.
    pub(super) async fn ship_all(&self) -> Result<(), ShipError> {
        let closed = self.blocking(|folder| folder.closed()).await?;
        if closed.is_empty() {
            return Ok(());
        }
        let open = self.region.get().map_err(|error| ShipError::NotOpen(error.to_string()))?;
        for found in closed {
            match self.ship_one(&open.bucket, &found).await {
                Ok(bytes) => self.counted.shipment("shipped", bytes),
                Err(error) => {
                    self.counted.shipment("failed", 0);
                    return Err(error);
                }
            }
            self.blocking(move |folder| folder.remove(&found)).await?;
        }
        Ok(())
    }

    /// Returns when the bucket has it; its size there.
    pub(super) async fn ship_one(&self, bucket: &Bucket, found: &Found) -> Result<u64, ShipError> {
        let packed = packed_at_leisure(found.path.clone()).await?;
        let key = Key::Record(self.nature.kind, RecordFile { file: found.file, node: self.node });
        if bucket.create(&key, packed.clone()).await? == Created::Exists {
            // By an earlier try, whose answer was lost; or not at all.
            match bucket.read(&key, MAX_OBJECT_BYTES).await? {
                None => return Err(BucketError::Unavailable { why: "it met a conflict".to_owned(), retry_after: None }.into()),
                // Another version of this program packs otherwise.
                Some(there) if there == packed || unpack(&there) == unpack(&packed) => {}
                Some(_) => {
                    let new = Ulid::from_parts(found.file.timestamp_ms(), bucket.fresh_ulid().random());
                    let file = found.file;
                    self.blocking(move |folder| folder.rename(file, new)).await?;
                    return Err(ShipError::Taken);
                }
            }
        }
        Ok(packed.len() as u64)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Folder) -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
        let folder = self.folder.clone();
        spawn_blocking(move || work(&folder)).await.unwrap_or_else(|_| Err(std::io::Error::other("the process is ending")))
    }

    /// Removes what is too old, now and then. All nodes do; where one just was, the others find nothing.
    pub(super) async fn retain(self) {
        loop {
            sleep(REMOVE_EVERY.mul_f64(0.5 + fastrand::f64())).await;
            let Ok(open) = self.region.get() else { continue };
            match self.remove_old(&open.bucket).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "removed what was too old of the {}", self.nature.name),
                Err(error) => tracing::warn!(%error, "what is too old of the {} stays for now", self.nature.name),
            }
        }
    }

    /// Removes days that are too old as a whole; how many files.
    pub(super) async fn remove_old(&self, bucket: &Bucket) -> Result<u64, BucketError> {
        let first_kept = self.clock.now().minus(self.keep).day();
        let mut removed = 0;
        for day in bucket.record_days(self.nature.kind).await?.into_iter().filter(|day| *day < first_kept) {
            loop {
                let files = bucket.list_records(self.nature.kind, &day).await?;
                if files.is_empty() {
                    break;
                }
                for file in files {
                    if removed == MAX_REMOVED {
                        return Ok(removed);
                    }
                    bucket.delete(&Key::Record(self.nature.kind, file)).await?;
                    removed += 1;
                    self.counted.removed(1);
                }
            }
            bucket.forget_record_day(self.nature.kind, &day).await;
        }
        Ok(removed)
    }
}

/// On a thread of its own that lets all others go first: packing takes tenths of a second, and no request is to wait for its core.
async fn packed_at_leisure(path: PathBuf) -> std::io::Result<Bytes> {
    const LAST: i32 = 19;
    let (done, packed) = oneshot::channel();
    std::thread::Builder::new().name("pack".to_owned()).spawn(move || {
        // In Linux it is the calling thread's alone (nice(2)); where it is refused, packing goes on as everybody else.
        let _ = rustix::process::nice(LAST);
        // Who waits for it may have left.
        let _ = done.send(std::fs::read(&path).map(|lines| Bytes::from(pack(&lines))));
    })?;
    packed.await.unwrap_or_else(|_| Err(std::io::Error::other("the thread that packs has ended")))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::testing::{NATURE, entry};
    use super::*;
    use crate::bucket::RecordKind;
    use crate::bucket::testing::{Fault, Faults, SimulatedNode, SimulatedStore, Verb};
    use crate::clock::Timestamp;
    use crate::metrics::Metrics;

    const START_MS: u64 = 1_795_949_111_120;

    #[tokio::test]
    async fn packing_lets_others_go_first_and_holds_back_itself_only() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let (before, place) = (priority(), tempfile::tempdir().unwrap());
        let path = place.path().join("lines");
        std::fs::write(&path, b"{}\n").unwrap();
        assert_eq!(unpack(&packed_at_leisure(path.clone()).await.unwrap()).as_deref(), Some(&b"{}\n"[..]));
        assert_eq!(priority(), before);
        std::fs::remove_file(&path).unwrap();
        assert!(packed_at_leisure(path).await.is_err());
    }

    struct Desk {
        place: tempfile::TempDir,
        shipper: Shipper,
        bucket: Bucket,
        store: SimulatedStore,
        node: SimulatedNode,
        clock: Clock,
    }

    impl Desk {
        fn new() -> Desk {
            let (place, clock) = (tempfile::tempdir().unwrap(), Clock::manual(Timestamp::from_ms(START_MS)));
            let store = SimulatedStore::new(7, clock.clone());
            let node = store.node();
            let bucket = Bucket::simulated(&node, "eu", clock.clone());
            let shipper = Shipper {
                nature: &NATURE,
                folder: Folder::new(place.path().join("talk")),
                node: Ulid::from_parts(1, 1),
                region: Region::default(),
                clock: clock.clone(),
                counted: Metrics::new().central_log.clone(),
                keep: Duration::from_secs(90 * 86_400),
            };
            Desk { place, shipper, bucket, store, node, clock }
        }

        fn file(&self, number: u64) -> Found {
            let (folder, name) = (&self.shipper.folder, Ulid::from_parts(START_MS + number, u128::from(number)));
            let mut line = Vec::new();
            entry(START_MS + number, "ci", "hello").write_line(&mut line);
            folder.create(name).unwrap().write_all(&line).unwrap();
            folder.close(name).unwrap();
            folder.files().unwrap().into_iter().find(|found| found.file == name).unwrap()
        }

        /// As the shipper's rounds do it.
        async fn ship(&self) -> Result<(), ShipError> {
            for found in self.shipper.folder.closed().unwrap() {
                self.shipper.ship_one(&self.bucket, &found).await?;
                self.shipper.folder.remove(&found).unwrap();
            }
            Ok(())
        }

        fn shipped(&self) -> Vec<String> {
            self.store.objects().values().map(|packed| String::from_utf8(unpack(packed).unwrap()).unwrap()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_goes_when_the_bucket_has_it_and_not_before() {
        for fault in
            [Fault::ErrorBefore, Fault::ErrorAfter, Fault::Throttled, Fault::FalseExists, Fault::ExistsAfter, Fault::Lost, Fault::Hang]
        {
            let desk = Desk::new();
            let found = desk.file(1);
            desk.node.plan(Verb::Create, fault.clone());
            let mut tries = 0;
            while desk.ship().await.is_err() {
                tries += 1;
                assert!(found.path.exists() && tries < 5, "{fault:?}");
            }
            assert!(!found.path.exists(), "{fault:?}");
            assert_eq!(desk.shipped().len(), 1, "{fault:?}");
            assert_eq!(desk.shipped()[0].lines().count(), 1);
            assert_eq!(desk.node.requests(Verb::Put), 0, "nothing is ever written over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_goes_wrong_each_entry_is_shipped_once() {
        let desk = Desk::new();
        desk.node.set_faults(Faults::ROUGH);
        for number in 0..40 {
            desk.file(number);
            let _ = desk.ship().await;
        }
        desk.node.set_faults(Faults::NONE);
        desk.ship().await.unwrap();
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(desk.shipped().len(), 40);
        assert_eq!(desk.shipper.folder.files().unwrap(), []);
        drop(desk.place);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_there_already_is_not_written_over() {
        let desk = Desk::new();
        let found = desk.file(1);
        let path = format!(
            "eu.{}/{}",
            desk.bucket.incarnation(),
            Key::Record(RecordKind::Log, RecordFile { file: found.file, node: desk.shipper.node })
        );
        desk.store.plant(&path, pack(b"something else\n"));
        assert!(matches!(desk.ship().await, Err(ShipError::Taken)));
        desk.ship().await.unwrap();
        assert_eq!(desk.shipped().len(), 2, "it found another name");
        assert!(desk.shipped().contains(&"something else\n".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn days_that_are_too_old_go_and_others_stay() {
        let desk = Desk::new();
        for days_ago in [0, 1, 89, 90, 91, 92, 400] {
            let file = Ulid::from_parts(START_MS - days_ago * 86_400_000, 1);
            let file = RecordFile { file, node: desk.shipper.node };
            for kind in [RecordKind::Log, RecordKind::Audit] {
                desk.bucket.create(&Key::Record(kind, file), Bytes::from_static(b"x")).await.unwrap();
            }
        }
        assert_eq!(desk.shipper.remove_old(&desk.bucket).await, Ok(3));
        let days = async |kind| desk.bucket.record_days(kind).await.unwrap().len();
        assert_eq!((days(RecordKind::Log).await, days(RecordKind::Audit).await), (4, 7), "each has its own age");
        desk.clock.advance(Duration::from_secs(86_400));
        assert_eq!(desk.shipper.remove_old(&desk.bucket).await, Ok(1));
    }
}
