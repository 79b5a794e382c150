//! Looking for entries in one region: in this node's files, and in the objects of all its nodes. The newest first, hour by hour, until
//! there are enough, the time is over, or everything has been read.
//!
//! What other nodes have not sent yet is not found: it comes with their next file (`audit.ship_after`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use memchr::memmem::Finder;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use ulid::Ulid;

use super::entry::Entry;
use super::folder::Found;
use super::pack::unpack;
use super::query::{Filter, Mark, Query};
use super::ship::MAX_OBJECT_BYTES;
use crate::bucket::{Bucket, BucketError, ForeignBucket, Key, RecordFile, RecordKind};
use crate::clock::Timestamp;

/// Files that one search reads at one time: all of each is in memory meanwhile.
const READERS: usize = 4;
/// Files that one search reads, at most.
const MAX_FILES: usize = 10_000;

/// A root with record in it.
#[derive(Clone, Debug)]
pub(super) enum Shelf {
    Own(Bucket),
    Foreign(ForeignBucket),
}

impl Shelf {
    async fn days(&self, kind: RecordKind) -> Result<Vec<String>, BucketError> {
        match self {
            Shelf::Own(bucket) => bucket.record_days(kind).await,
            Shelf::Foreign(bucket) => bucket.record_days(kind).await,
        }
    }

    async fn list(&self, kind: RecordKind, day: &str) -> Result<Vec<RecordFile>, BucketError> {
        match self {
            Shelf::Own(bucket) => bucket.list_records(kind, day).await,
            Shelf::Foreign(bucket) => bucket.list_records(kind, day).await,
        }
    }

    async fn read(&self, kind: RecordKind, file: RecordFile) -> Result<Option<Bytes>, BucketError> {
        let key = Key::Record(kind, file);
        match self {
            Shelf::Own(bucket) => bucket.read(&key, MAX_OBJECT_BYTES).await,
            Shelf::Foreign(bucket) => bucket.read(&key, MAX_OBJECT_BYTES).await,
        }
    }
}

/// What one region has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding<E> {
    /// The newest first.
    pub(super) entries: Vec<Entry<E>>,
    /// Why there may be more that was not looked at.
    pub(super) lacking: Option<String>,
}

/// The newest entries so far. One that is met twice, in a file and in the object that it became, counts once.
struct Newest<E> {
    limit: usize,
    entries: BTreeMap<(Timestamp, Ulid), Entry<E>>,
}

impl<E> Newest<E> {
    fn add(&mut self, entry: Entry<E>) {
        self.entries.insert((entry.time, entry.id), entry);
        if self.entries.len() > self.limit {
            self.entries.pop_first();
        }
    }

    /// Whether nothing from before this hour could be among them.
    fn has_enough_since(&self, hour: u64) -> bool {
        self.entries.len() >= self.limit && self.entries.first_key_value().is_some_and(|((time, _), _)| time.hour() >= hour)
    }
}

/// Where entries lie, all of one hour.
#[derive(Clone, Debug)]
enum Source {
    Disk(PathBuf),
    Object(usize, RecordFile),
}

/// A search in one region.
pub(super) struct Search<'a, F> {
    pub(super) kind: RecordKind,
    pub(super) query: &'a Query<F>,
    /// The first moment that counts, and the first one that does not any more.
    pub(super) range: (Timestamp, Timestamp),
    pub(super) shelves: &'a [Shelf],
    /// Of this node, as they were before the shelves are looked at.
    pub(super) files: Vec<Found>,
    pub(super) deadline: Instant,
}

impl<F: Filter> Search<'_, F> {
    pub(super) async fn run(self) -> Finding<F::Event> {
        let mut newest = Newest { limit: self.query.limit, entries: BTreeMap::new() };
        let lacking = self.look(&mut newest).await.err();
        Finding { entries: newest.entries.into_values().rev().collect(), lacking }
    }

    /// The error says why there may be more.
    async fn look(&self, newest: &mut Newest<F::Event>) -> Result<(), String> {
        // What is here is told even when the bucket lets this search wait.
        self.look_here(newest).await?;
        let (mut trouble, mut days, mut read) = (None, BTreeSet::new(), 0);
        let (first, last) = (self.range.0.day(), self.range.1.day());
        for shelf in self.shelves {
            match self.in_time(shelf.days(self.kind)).await? {
                Ok(found) => days.extend(found.into_iter().filter(|day| first <= *day && *day <= last)),
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        for day in days.iter().rev() {
            for (hour, files) in self.hours(day, &mut trouble).await?.into_iter().rev() {
                if newest.has_enough_since(hour + 1) {
                    return trouble.map_or(Ok(()), Err);
                }
                read += files.len();
                if read > MAX_FILES {
                    return Err(format!("what is older than {day} was not looked at: there is too much"));
                }
                self.read_all(files, newest, &mut trouble).await?;
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Looks at this node's own files.
    async fn look_here(&self, newest: &mut Newest<F::Event>) -> Result<(), String> {
        let mut trouble = None;
        for found in self.files.iter().rev().filter(|found| self.may_have(found.file)) {
            if newest.has_enough_since(began(found.file).hour() + 1) {
                break;
            }
            self.read_all(vec![Source::Disk(found.path.clone())], newest, &mut trouble).await?;
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        timeout_at(self.deadline, work).await.map_err(|_| "the time was over before all of it was looked at".to_owned())
    }

    fn may_have(&self, file: Ulid) -> bool {
        (self.range.0.hour()..=self.range.1.hour()).contains(&began(file).hour())
    }

    /// What the shelves have of a day, by hours.
    async fn hours(&self, day: &str, trouble: &mut Option<String>) -> Result<BTreeMap<u64, Vec<Source>>, String> {
        let mut hours: BTreeMap<u64, Vec<Source>> = BTreeMap::new();
        for (at, shelf) in self.shelves.iter().enumerate() {
            match self.in_time(shelf.list(self.kind, day)).await? {
                Ok(files) => {
                    for file in files.into_iter().filter(|file| self.may_have(file.file)) {
                        hours.entry(began(file.file).hour()).or_default().push(Source::Object(at, file));
                    }
                }
                Err(error) => *trouble = Some(error.to_string()),
            }
        }
        Ok(hours)
    }

    async fn read_all(&self, sources: Vec<Source>, newest: &mut Newest<F::Event>, trouble: &mut Option<String>) -> Result<(), String> {
        let mut reading = stream::iter(sources.into_iter().map(|source| self.read(source))).buffer_unordered(READERS);
        while let Some(read) = self.in_time(reading.next()).await? {
            match read {
                Ok(entries) => entries.into_iter().for_each(|entry| newest.add(entry)),
                Err(why) => *trouble = Some(why),
            }
        }
        Ok(())
    }

    /// The newest of a file that match.
    async fn read(&self, source: Source) -> Result<Vec<Entry<F::Event>>, String> {
        let lines = match source {
            Source::Disk(path) => Lines::Plain(path),
            Source::Object(at, file) => {
                let shelf = self.shelves.get(at).ok_or("no such shelf")?;
                match shelf.read(self.kind, file).await.map_err(|error| error.to_string())? {
                    Some(packed) => Lines::Packed(packed),
                    // It was too old, and has been removed since.
                    None => return Ok(Vec::new()),
                }
            }
        };
        let (query, range) = (self.query.clone(), self.range);
        spawn_blocking(move || lines.read(&query, range)).await.map_err(|_| "the process is ending".to_owned())?
    }
}

fn began(file: Ulid) -> Timestamp {
    Timestamp::from_ms(file.timestamp_ms())
}

/// A file's content, to be read on a thread that may take its time.
enum Lines {
    Plain(PathBuf),
    Packed(Bytes),
}

impl Lines {
    fn read<F: Filter>(self, query: &Query<F>, (since, until): (Timestamp, Timestamp)) -> Result<Vec<Entry<F::Event>>, String> {
        let text = match self {
            Lines::Plain(path) => match std::fs::read(path) {
                Ok(text) => text,
                // It was shipped since, and is in the bucket.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error.to_string()),
            },
            Lines::Packed(packed) => unpack(&packed).ok_or("an object of the record cannot be unpacked")?,
        };
        let mut newest = Newest { limit: query.limit, entries: BTreeMap::new() };
        let marks = query.filter.marks();
        let marks = Marks::new(&marks);
        let promising = text.split(|byte| *byte == b'\n').filter(|line| marks.are_in(line));
        // A line that is still being written, or was cut, is none.
        for entry in promising.filter_map(Entry::read) {
            if since <= entry.time && entry.time < until && query.filter.matches(&entry.event) {
                newest.add(entry);
            }
        }
        Ok(newest.entries.into_values().collect())
    }
}

/// Of each mark the parts, of which a line has at least one.
struct Marks<'a>(Vec<Vec<Finder<'a>>>);

impl<'a> Marks<'a> {
    fn new(marks: &'a [Mark]) -> Marks<'a> {
        Marks(marks.iter().map(|mark| mark.0.iter().map(Finder::new).collect()).collect())
    }

    fn are_in(&self, line: &[u8]) -> bool {
        self.0.iter().all(|parts| parts.iter().any(|part| part.find(line).is_some()))
    }
}
