//! The thread that writes the record: a disk that hangs holds up nobody else.
//!
//! Entries gather for some milliseconds and are written together, so that a busy edge wakes the thread at most two hundred times a
//! second. What is written is synced within a second: a process that is killed loses what gathered, a machine that loses power a second
//! more.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use tokio::sync::Notify;
use ulid::Ulid;

use super::entry::Places;
use super::folder::{Folder, Found};
use super::intake::{Order, Outlet, Tally};
use super::trays::Taker;
use crate::clock::{Clock, Timestamp};
use crate::config::Keeping;
use crate::metrics::Recorded;

/// How long entries gather: the thread is woken less than for each, and what it does at a time keeps no request waiting for its core.
const GATHER: Duration = Duration::from_millis(5);
/// How long what was written may be in the kernel only.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// A disk that took no write is left alone for so long; what comes meanwhile is lost.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes that are written at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// What an entry takes, about.
const LINE_BYTES: usize = 640;

/// What the writer is made with.
pub(super) struct Parts {
    /// What the record is called.
    pub(super) name: &'static str,
    pub(super) folder: Folder,
    pub(super) node: Ulid,
    pub(super) region: Arc<str>,
    pub(super) keeping: Keeping,
    pub(super) tally: Arc<Tally>,
    /// Told of each file that is closed.
    pub(super) closed: Arc<Notify>,
    pub(super) clock: Clock,
    pub(super) counted: Recorded,
}

pub(super) struct Writer {
    parts: Parts,
    places: Places,
    /// This process's own part of the names of entries, and how many there were.
    process: u64,
    count: u32,
    open: Option<Open>,
    chunk: Chunk,
    /// When the disk last took no write.
    refused_at: Option<Timestamp>,
}

/// The file that entries go to.
struct Open {
    file: File,
    name: Ulid,
    size_bytes: u64,
    began: Timestamp,
    /// Since when something has been in the kernel only.
    unsynced: Option<Timestamp>,
}

/// Lines for one write.
#[derive(Default)]
struct Chunk {
    lines: Vec<u8>,
    count: u64,
    /// What its entries say was lost.
    lost: u64,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Writer {
        let places = Places::new(&parts.region, parts.node);
        Writer { parts, places, process: fastrand::u64(..), count: 0, open: None, chunk: Chunk::default(), refused_at: None }
    }

    /// Writes until it is told to end.
    pub(super) fn run(mut self, outlet: &mut Outlet) {
        let mut goes_on = true;
        while goes_on {
            if outlet.lines.wait(self.next_due()) {
                sleep(GATHER);
            }
            // What was noted before an order came is written before it is obeyed.
            let orders: Vec<Order> = outlet.orders.try_iter().collect();
            self.write(&mut outlet.lines);
            self.tick();
            for order in orders {
                match order {
                    // Who asked may have left.
                    Order::Flush(done) => drop(done.send(())),
                    Order::End => goes_on = false,
                }
            }
        }
        self.close();
    }

    /// Until something is to be done besides writing.
    fn next_due(&self) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let now = self.parts.clock.now();
        let until = |since: Timestamp, after: Duration| after.saturating_sub(now.since(since));
        let close = until(open.began, self.parts.keeping.ship_after);
        Some(open.unsynced.map_or(close, |since| close.min(until(since, SYNC_AFTER))))
    }

    pub(super) fn write(&mut self, lines: &mut Taker<Timestamp>) {
        lines.take(|at, event| self.add(at, event));
        self.put();
        lines.put_away();
    }

    fn add(&mut self, at: Timestamp, event: &[u8]) {
        self.count = self.count.wrapping_add(1);
        let id = Ulid::from_parts(at.as_ms(), u128::from(self.process & 0xffff_ffff_ffff) << 32 | u128::from(self.count));
        if !self.fits(at) {
            self.put();
            self.close();
            self.begin(at, id);
        } else if self.chunk.lines.len() >= CHUNK_BYTES {
            self.put();
        }
        let lost = self.parts.tally.take();
        self.chunk.lines.reserve(LINE_BYTES);
        self.places.write_line(&mut self.chunk.lines, (at, id), lost, event);
        self.chunk.count += 1;
        self.chunk.lost += lost;
    }

    fn fits(&self, time: Timestamp) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let size_bytes = open.size_bytes + self.chunk.lines.len() as u64;
            // All entries of a file are of one hour, by which it is found.
            open.began.hour() == time.hour() && size_bytes < self.parts.keeping.file_size.0
        })
    }

    /// Begins a file, with the time and the name of its first entry.
    fn begin(&mut self, began: Timestamp, name: Ulid) {
        let now = self.parts.clock.now();
        if self.refused_at.is_some_and(|at| now.since(at) < TRY_AGAIN_AFTER && now >= at) {
            return;
        }
        match self.parts.folder.create(name) {
            Ok(file) => self.open = Some(Open { file, name, size_bytes: 0, began, unsynced: None }),
            Err(error) => self.refused(&error),
        }
    }

    /// Writes what is in the chunk.
    fn put(&mut self) {
        if self.chunk.count > 0 {
            self.write_chunk();
        }
        self.chunk.clear();
    }

    fn write_chunk(&mut self) {
        let Some(open) = &mut self.open else { return self.give_up() };
        match open.file.write_all(&self.chunk.lines) {
            Ok(()) => {
                open.size_bytes += self.chunk.lines.len() as u64;
                open.unsynced.get_or_insert_with(|| self.parts.clock.now());
                self.parts.counted.written(self.chunk.count);
                if self.refused_at.take().is_some() {
                    tracing::info!("the disk takes the {} again", self.parts.name);
                }
            }
            Err(error) => {
                // What came of it is a part of a line.
                let _ = open.file.set_len(open.size_bytes);
                self.refused(&error);
                self.give_up();
                self.close();
            }
        }
    }

    fn give_up(&self) {
        self.parts.counted.dropped("disk", self.chunk.count);
        self.parts.tally.add(self.chunk.count + self.chunk.lost);
    }

    fn refused(&mut self, error: &io::Error) {
        if self.refused_at.replace(self.parts.clock.now()).is_none() {
            tracing::error!(%error, "the disk does not take the {}: its entries are lost until it does", self.parts.name);
        }
    }

    /// Syncs and closes what has been open for long enough.
    pub(super) fn tick(&mut self) {
        let now = self.parts.clock.now();
        let Some(open) = &mut self.open else { return };
        if open.unsynced.is_some_and(|since| now.since(since) >= SYNC_AFTER) {
            open.unsynced = None;
            // Once: after an error nobody knows what is on the disk (fsync(2), "EIO"). What comes goes to another file.
            if let Err(error) = open.file.sync_data() {
                self.refused(&error);
                return self.close();
            }
        }
        if now.since(open.began) >= self.parts.keeping.ship_after {
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.unsynced.is_some()
            && let Err(error) = open.file.sync_data()
        {
            self.refused(&error);
        }
        match self.parts.folder.close(open.name) {
            Ok(()) => self.parts.closed.notify_one(),
            // The next process closes it.
            Err(error) => tracing::warn!(%error, "a file of the {} stays open", self.parts.name),
        }
        if let Err(error) = self.make_room() {
            tracing::warn!(%error, "the folder of the {} cannot be read", self.parts.name);
        }
    }

    /// Where files have waited in vain for so long that there are too many, the oldest go.
    fn make_room(&self) -> io::Result<()> {
        let Parts { name, folder, keeping, tally, counted, .. } = &self.parts;
        let closed = folder.closed()?;
        let most_bytes = keeping.disk.0.saturating_sub(keeping.file_size.0);
        let mut size_bytes: u64 = closed.iter().map(|found| found.size_bytes).sum();
        for oldest in closed {
            if size_bytes <= most_bytes {
                break;
            }
            let count = lines(&oldest);
            folder.remove(&oldest)?;
            size_bytes -= oldest.size_bytes;
            tally.add(count);
            counted.dropped("space", count);
            tracing::error!(entries = count, "the bucket has not taken the {name} for too long: its oldest entries here are lost");
        }
        Ok(())
    }
}

impl Chunk {
    fn clear(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        *self = Chunk { lines, ..Chunk::default() };
    }
}

fn lines(found: &Found) -> u64 {
    std::fs::read(&found.path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::intake::Intake;
    use super::super::testing::{NATURE, Said, said};
    use super::*;
    use crate::config::ByteSize;
    use crate::metrics::Metrics;

    struct Desk {
        place: tempfile::TempDir,
        intake: Intake,
        outlet: Outlet,
        writer: Writer,
        clock: Clock,
        metrics: Metrics,
    }

    const MINUTE: Duration = Duration::from_secs(60);

    impl Desk {
        fn new(file_size: u64, disk: u64) -> Desk {
            let (place, clock, metrics) =
                (tempfile::tempdir().unwrap(), Clock::manual(Timestamp::from_ms(1_795_949_111_120)), Metrics::new());
            let keeping = Keeping { file_size: ByteSize(file_size), ship_after: MINUTE, disk: ByteSize(disk), keep: MINUTE };
            let intake = Intake::new(&NATURE, clock.clone(), metrics.central_log.clone());
            let outlet = intake.outlet().unwrap();
            let writer = Writer::new(Parts {
                name: "record of talk",
                folder: Folder::new(place.path().join("talk")),
                node: Ulid::from_parts(1, 1),
                region: "eu".into(),
                keeping,
                tally: intake.tally(),
                closed: Arc::default(),
                clock: clock.clone(),
                counted: metrics.central_log.clone(),
            });
            Desk { place, intake, outlet, writer, clock, metrics }
        }

        fn write(&mut self, count: usize) {
            let event = said("ci", &"a".repeat(300));
            (0..count).for_each(|_| self.intake.note(&event));
            self.writer.write(&mut self.outlet.lines);
        }

        fn files(&self) -> Vec<Found> {
            self.writer.parts.folder.files().unwrap()
        }

        fn entries(&self) -> Vec<Entry<Said>> {
            let texts: Vec<Vec<u8>> = self.files().iter().map(|found| std::fs::read(&found.path).unwrap()).collect();
            texts.iter().flat_map(|text| text.split_inclusive(|byte| *byte == b'\n')).map(|line| Entry::read(line).unwrap()).collect()
        }
    }

    #[test]
    fn a_file_ends_by_age_by_size_and_by_the_hour() {
        let mut desk = Desk::new(64 << 10, 1 << 20);
        let open = |desk: &Desk| desk.files().iter().filter(|found| !found.is_closed).count();
        desk.write(3);
        assert_eq!((desk.files().len(), open(&desk)), (1, 1));
        desk.clock.advance(MINUTE);
        desk.writer.tick();
        assert_eq!((desk.files().len(), open(&desk)), (1, 0), "by age");
        desk.write(300);
        let sizes: Vec<u64> = desk.files().iter().map(|found| found.size_bytes).collect();
        assert!(sizes.len() >= 3 && sizes[1..].iter().all(|size| *size < 65 << 10), "by size: {sizes:?}");
        let before = desk.files().len();
        desk.clock.advance(Duration::from_secs(3600));
        desk.write(1);
        assert_eq!(desk.files().len(), before + 1, "by the hour");
        let entries = desk.entries();
        assert_eq!(entries.len(), 304);
        let mut ids: Vec<Ulid> = entries.iter().map(|entry| entry.id).collect();
        ids.dedup();
        assert!(ids.len() == 304 && ids.is_sorted(), "in the order of writing, and all different");
        assert!(desk.metrics.render().contains("outport_central_log_written_total 304"));
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_entries_and_the_next_one_says_how_many() {
        let mut desk = Desk::new(64 << 10, 1 << 20);
        let dir = desk.place.path().join("talk");
        std::fs::write(&dir, "in the way").unwrap();
        desk.write(5);
        std::fs::remove_file(&dir).unwrap();
        desk.write(2);
        assert_eq!(desk.entries().len(), 0, "it is not tried at once again");
        desk.clock.advance(TRY_AGAIN_AFTER);
        desk.write(2);
        assert_eq!(desk.entries().iter().map(|entry| entry.lost).collect::<Vec<_>>(), [7, 0]);
        assert!(desk.metrics.render().contains(r#"outport_central_log_dropped_total{reason="disk"} 7"#));
    }

    /// As a disk without space does it: a part of what was to be written is there.
    #[test]
    fn a_write_that_fails_leaves_no_part_of_a_line() {
        let mut desk = Desk::new(64 << 10, 1 << 20);
        desk.write(1);
        let open = desk.writer.open.as_mut().unwrap();
        // A file that cannot be written to stands in for the disk.
        open.file = File::open(&desk.writer.parts.folder.files().unwrap()[0].path).unwrap();
        desk.write(4);
        assert_eq!(desk.entries().len(), 1);
        desk.clock.advance(TRY_AGAIN_AFTER);
        desk.write(1);
        assert_eq!(desk.entries().iter().map(|entry| entry.lost).collect::<Vec<_>>(), [0, 4]);
    }

    #[test]
    fn the_oldest_go_when_too_many_wait() {
        let mut desk = Desk::new(64 << 10, 256 << 10);
        desk.write(2_000);
        desk.writer.close();
        let (kept, size_bytes) = (desk.entries(), desk.files().iter().map(|found| found.size_bytes).sum::<u64>());
        assert!(size_bytes <= 192 << 10, "{size_bytes}");
        assert!(kept.len() < 2_000 && kept.windows(2).all(|two| two[0].id < two[1].id));
        desk.write(1);
        let lost: u64 = desk.entries().iter().map(|entry| entry.lost).sum();
        let dropped = format!(r#"outport_central_log_dropped_total{{reason="space"}} {}"#, 2_000 - kept.len());
        assert!(desk.metrics.render().contains(&dropped), "{}", desk.metrics.render());
        assert!(lost > 0, "the next entries tell of it");
    }

    #[test]
    fn the_thread_writes_what_it_was_given_and_ends() {
        let desk = Desk::new(64 << 10, 1 << 20);
        let Desk { place, intake, mut outlet, writer, .. } = desk;
        let folder = writer.parts.folder.clone();
        let thread = std::thread::spawn(move || writer.run(&mut outlet));
        for _ in 0..10 {
            intake.note(&said("ci", "a"));
        }
        intake.flush().unwrap().blocking_recv().unwrap();
        let text = std::fs::read_to_string(&folder.files().unwrap()[0].path).unwrap();
        assert_eq!(text.lines().count(), 10);
        drop(intake);
        thread.join().unwrap();
        assert!(folder.files().unwrap()[0].is_closed);
        drop(place);
    }
}
