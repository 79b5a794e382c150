//! One write transaction: a batch of changes, then eviction down to the budget.

use std::collections::HashMap;

use redb::{Database, ReadableTable, ReadableTableMetadata, Table};

use super::format::{BLOB_BYTES, BLOBS, BlobEntry, ORDERLY, RECORDS, RecordEntry, TOTALS, blob_key, digest};
use super::pending::{Batch, BlobChange, Touch};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Entries looked at to find one to evict.
const SAMPLE: usize = 32;
/// Evictions in one transaction; the next one goes on.
const EVICTIONS: usize = 1_000;
/// Samples without anything that can be evicted, until the next transaction tries again.
const FUTILE_SAMPLES: usize = 8;

/// What became of a file that was to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Evicted {
    Gone,
    InUse,
    /// The disk did not delete it.
    Refused,
}

/// The files, as the index sees them.
pub(in crate::store) struct Shelf<'a> {
    pub exists: &'a dyn Fn(&Digest) -> bool,
    pub evict: &'a dyn Fn(&Digest) -> Evicted,
    /// What the blobs may take together.
    pub budget_bytes: u64,
    pub now: Timestamp,
}

/// What a transaction knows beside the batch.
pub(super) struct Round<'a> {
    pub shelf: &'a Shelf<'a>,
    /// Uses that are not written down yet.
    pub touched: &'a dyn Fn(&Digest) -> Option<Touch>,
    pub record_limit: u64,
    pub ending: Ending,
    /// Where eviction looks next.
    pub hand: &'a mut Hand,
}

/// Whether this is the last transaction of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Ending {
    NotYet,
    Orderly,
}

/// Two wandering places: a fresh one among the blobs for each sample, and one that goes round the records.
#[derive(Debug, Default)]
pub(super) struct Hand {
    draws: u64,
    record: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub blob_bytes: u64,
    pub blobs: u64,
}

type Blobs<'txn> = Table<'txn, &'static [u8], &'static [u8]>;
type Records<'txn> = Table<'txn, &'static str, &'static [u8]>;

pub(super) fn commit(database: &Database, batch: &Batch, mut round: Round<'_>) -> Result<Totals, redb::Error> {
    let mut transaction = database.begin_write()?;
    // Recovery after a crash then does not walk the whole database (redb, "quick-repair").
    transaction.set_quick_repair(true);
    let totals = {
        let mut blobs = transaction.open_table(BLOBS)?;
        let mut records = transaction.open_table(RECORDS)?;
        let mut totals = transaction.open_table(TOTALS)?;
        let mut bytes = totals.get(BLOB_BYTES)?.map_or(0, |bytes| bytes.value());
        change_blobs(&mut blobs, batch, round.shelf, &mut bytes)?;
        touch_blobs(&mut blobs, &batch.touches)?;
        evict(&mut blobs, &mut round, &mut bytes)?;
        change_records(&mut records, batch, round.shelf.now)?;
        bound_records(&mut records, round.record_limit, round.hand)?;
        totals.insert(BLOB_BYTES, bytes)?;
        totals.insert(ORDERLY, u64::from(round.ending == Ending::Orderly))?;
        Totals { blob_bytes: bytes, blobs: blobs.len()? }
    };
    transaction.commit()?;
    Ok(totals)
}

fn entry(blobs: &Blobs<'_>, key: &[u8]) -> Result<Option<BlobEntry>, redb::Error> {
    Ok(blobs.get(key)?.and_then(|value| BlobEntry::decode(value.value())))
}

fn forget(blobs: &mut Blobs<'_>, key: &[u8], bytes: &mut u64) -> Result<(), redb::Error> {
    if let Some(value) = blobs.remove(key)? {
        *bytes = bytes.saturating_sub(BlobEntry::decode(value.value()).map_or(0, |old| old.size_bytes));
    }
    Ok(())
}

fn change_blobs(blobs: &mut Blobs<'_>, batch: &Batch, shelf: &Shelf<'_>, bytes: &mut u64) -> Result<(), redb::Error> {
    for (digest, change) in &batch.blobs {
        let key = blob_key(digest);
        match *change {
            BlobChange::Put { size_bytes, at } | BlobChange::Found { size_bytes, at } => {
                let old = entry(blobs, &key)?;
                let new =
                    BlobEntry { size_bytes, last_use: old.map_or(at, |old| old.last_use.max(at)), uses: old.map_or(1, |old| old.uses) };
                blobs.insert(key.as_slice(), new.encode().as_slice())?;
                *bytes = bytes.saturating_sub(old.map_or(0, |old| old.size_bytes)).saturating_add(size_bytes);
            }
            BlobChange::Gone => {
                if !(shelf.exists)(digest) {
                    forget(blobs, &key, bytes)?;
                }
            }
        }
    }
    Ok(())
}

fn touch_blobs(blobs: &mut Blobs<'_>, touches: &HashMap<Digest, Touch>) -> Result<(), redb::Error> {
    for (digest, touch) in touches {
        let key = blob_key(digest);
        if let Some(old) = entry(blobs, &key)? {
            blobs.insert(key.as_slice(), with_touch(old, Some(*touch)).encode().as_slice())?;
        }
    }
    Ok(())
}

fn with_touch(entry: BlobEntry, touch: Option<Touch>) -> BlobEntry {
    let Some(touch) = touch else { return entry };
    BlobEntry { last_use: entry.last_use.max(touch.last_use), uses: entry.uses.saturating_add(touch.uses), ..entry }
}

/// Evicts until the blobs fit: of a sample, always the one that is least worth keeping.
fn evict(blobs: &mut Blobs<'_>, round: &mut Round<'_>, bytes: &mut u64) -> Result<(), redb::Error> {
    let (mut evictions, mut futile) = (0, 0);
    while *bytes > round.shelf.budget_bytes && evictions < EVICTIONS && futile < FUTILE_SAMPLES {
        round.hand.draws += 1;
        let mut sample = sample(blobs, round.hand.draws)?;
        if sample.is_empty() {
            break;
        }
        for (_, entry, digest) in &mut sample {
            *entry = with_touch(*entry, digest.as_ref().and_then(|digest| (round.touched)(digest)));
        }
        sample.sort_by_cached_key(|(_, entry, _)| std::cmp::Reverse(worthlessness(entry, round.shelf.now)));
        let mut gone = None;
        for (key, _, digest) in &sample {
            match digest.as_ref().map_or(Evicted::Gone, |digest| (round.shelf.evict)(digest)) {
                Evicted::Gone => {
                    gone = Some(key);
                    break;
                }
                Evicted::InUse => {}
                Evicted::Refused => return Ok(()),
            }
        }
        match gone {
            Some(key) => {
                forget(blobs, key, bytes)?;
                evictions += 1;
            }
            None => futile += 1,
        }
    }
    Ok(())
}

/// Time since the last use, shortened by each doubling of the uses.
fn worthlessness(entry: &BlobEntry, now: Timestamp) -> u64 {
    let idle_ms = u64::try_from(now.since(entry.last_use).as_millis()).unwrap_or(u64::MAX);
    idle_ms.saturating_add(1_000) / u64::from(1 + entry.uses.max(1).ilog2())
}

/// An entry's key, what it says, and its digest where the key is one.
type Candidate = (Vec<u8>, BlobEntry, Option<Digest>);

/// Some entries from a random place on. Digests are uniform, so the digest of any number is such a place.
fn sample(blobs: &Blobs<'_>, number: u64) -> Result<Vec<Candidate>, redb::Error> {
    let start = blob_key(&Digest::sha256(&number.to_be_bytes()));
    let mut found = Vec::with_capacity(SAMPLE);
    for entry in blobs.range(start.as_slice()..)?.chain(blobs.range(..start.as_slice())?).take(SAMPLE) {
        let (key, value) = entry?;
        // What cannot be read is first to go.
        let unreadable = BlobEntry { size_bytes: 0, last_use: Timestamp::default(), uses: 0 };
        let decoded = BlobEntry::decode(value.value()).unwrap_or(unreadable);
        found.push((key.value().to_vec(), decoded, digest(key.value())));
    }
    Ok(found)
}

fn change_records(records: &mut Records<'_>, batch: &Batch, now: Timestamp) -> Result<(), redb::Error> {
    for (key, value) in &batch.records {
        match value {
            Some(value) => {
                records.insert(key.as_str(), RecordEntry { touched: now, value }.encode().as_slice())?;
            }
            None => {
                records.remove(key.as_str())?;
            }
        }
    }
    for (key, touched) in &batch.record_touches {
        let old = records.get(key.as_str())?.map(|value| value.value().to_vec());
        if let Some(entry) = old.as_deref().and_then(RecordEntry::decode) {
            records.insert(key.as_str(), RecordEntry { touched: *touched, ..entry }.encode().as_slice())?;
        }
    }
    Ok(())
}

/// Evicts the least recently touched of a sample until the records are few enough. Callers' keys are not uniform, so the samples
/// go round the table one after the other.
fn bound_records(records: &mut Records<'_>, limit: u64, hand: &mut Hand) -> Result<(), redb::Error> {
    while records.len()? > limit {
        let mut oldest: Option<(Timestamp, String)> = None;
        let mut last = None;
        for entry in records.range(hand.record.as_str()..)?.take(SAMPLE) {
            let (key, value) = entry?;
            let touched = RecordEntry::decode(value.value()).map_or(Timestamp::default(), |entry| entry.touched);
            if oldest.as_ref().is_none_or(|(at, _)| touched < *at) {
                oldest = Some((touched, key.value().to_owned()));
            }
            last = Some(key.value().to_owned());
        }
        // The last one is looked at again by the next sample; alone it means that the round is done.
        hand.record = last.filter(|last| *last != hand.record).unwrap_or_default();
        if let Some((_, key)) = oldest {
            records.remove(key.as_str())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;

    fn database() -> Database {
        redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap()
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn put(batch: &mut Batch, name: u32, size_bytes: u64, at_ms: u64) -> Digest {
        let digest = Digest::sha256(&name.to_be_bytes());
        batch.blobs.insert(digest, BlobChange::Put { size_bytes, at: at(at_ms) });
        digest
    }

    /// Commits a batch with everything deletable but `pinned`; what was evicted.
    fn run(database: &Database, batch: &Batch, budget_bytes: u64, pinned: &[Digest], hand: &mut Hand) -> (Totals, Vec<Digest>) {
        let evicted = RefCell::new(Vec::new());
        let evict = |digest: &Digest| match pinned.contains(digest) {
            true => Evicted::InUse,
            false => {
                evicted.borrow_mut().push(*digest);
                Evicted::Gone
            }
        };
        let shelf = Shelf { exists: &|_| false, evict: &evict, budget_bytes, now: at(1_000_000) };
        let round = Round { shelf: &shelf, touched: &|_| None, record_limit: 100, ending: Ending::NotYet, hand };
        let totals = commit(database, batch, round).unwrap();
        (totals, evicted.into_inner())
    }

    #[test]
    fn totals_follow_every_change() {
        let (database, mut hand) = (database(), Hand::default());
        let mut batch = Batch::default();
        let one = put(&mut batch, 1, 10, 1);
        put(&mut batch, 2, 20, 1);
        assert_eq!(run(&database, &batch, 1_000, &[], &mut hand).0, Totals { blob_bytes: 30, blobs: 2 });
        // The same again, and one with another size.
        put(&mut batch, 2, 25, 1);
        assert_eq!(run(&database, &batch, 1_000, &[], &mut hand).0, Totals { blob_bytes: 35, blobs: 2 });
        let mut gone = Batch::default();
        gone.blobs.insert(one, BlobChange::Gone);
        assert_eq!(run(&database, &gone, 1_000, &[], &mut hand).0, Totals { blob_bytes: 25, blobs: 1 });
        assert_eq!(run(&database, &gone, 1_000, &[], &mut hand).0, Totals { blob_bytes: 25, blobs: 1 });
    }

    #[test]
    fn eviction_prefers_the_old_and_the_rarely_used_and_spares_the_pinned() {
        let (database, mut hand) = (database(), Hand::default());
        let mut batch = Batch::default();
        let old = put(&mut batch, 0, 100, 1_000);
        let old_pinned = put(&mut batch, 1, 100, 500);
        let old_but_often = put(&mut batch, 2, 100, 1_000);
        batch.touches.insert(old_but_often, Touch { uses: 1_000_000, last_use: at(1_000) });
        let fresh: Vec<Digest> = (10..20).map(|name| put(&mut batch, name, 100, 900_000)).collect();
        let (totals, evicted) = run(&database, &batch, 1_250, &[old_pinned], &mut hand);
        assert_eq!((totals, evicted), (Totals { blob_bytes: 1_200, blobs: 12 }, vec![old]));
        let (totals, evicted) = run(&database, &Batch::default(), 150, &[old_pinned], &mut hand);
        assert_eq!(totals, Totals { blob_bytes: 100, blobs: 1 });
        assert_eq!(evicted.len(), 11);
        assert!(fresh.iter().all(|digest| evicted.contains(digest)) && !evicted.contains(&old_pinned));
        // Nothing but what is pinned: it ends, over the budget.
        assert_eq!(run(&database, &Batch::default(), 0, &[old_pinned], &mut hand).0.blobs, 1);
    }

    #[test]
    fn a_sample_of_many_finds_old_ones() {
        let (database, mut hand) = (database(), Hand::default());
        let mut batch = Batch::default();
        for name in 0..2_000 {
            put(&mut batch, name, 1, if name % 10 == 0 { 1_000 } else { 999_000 });
        }
        let (totals, evicted) = run(&database, &batch, 1_900, &[], &mut hand);
        assert_eq!((totals.blobs, evicted.len()), (1_900, 100));
        let old = (0..2_000_u32).step_by(10).map(|name| Digest::sha256(&name.to_be_bytes())).collect::<Vec<_>>();
        let right = evicted.iter().filter(|digest| old.contains(digest)).count();
        assert!(right >= 85, "{right} of 100");
    }

    #[test]
    fn records_are_bounded_and_the_touched_stay() {
        let (database, mut hand) = (database(), Hand::default());
        let mut batch = Batch::default();
        for number in 0..100 {
            batch.records.insert(format!("key {number:03}"), Some(vec![1]));
        }
        run(&database, &batch, 0, &[], &mut hand);
        let later = at(1_000_000).plus(Duration::from_secs(60));
        let kept = ["key 003", "key 050", "key 099"];
        let mut touch = Batch::default();
        touch.record_touches = kept.iter().map(|key| (key.to_string(), later)).collect();
        run(&database, &touch, 0, &[], &mut hand);
        let mut more = Batch::default();
        for number in 0..60 {
            more.records.insert(format!("new {number:03}"), Some(vec![2]));
        }
        run(&database, &more, 0, &[], &mut hand);
        let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
        let records = transaction.open_table(RECORDS).unwrap();
        assert_eq!(records.len().unwrap(), 100);
        for key in kept {
            assert_eq!(RecordEntry::decode(records.get(key).unwrap().unwrap().value()).map(|entry| entry.value.to_vec()), Some(vec![1]));
        }
    }
}
