//! Finding the nearest snapshot, verifying it, and beginning from it.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::shard::{self, MAX_SHARD_BYTES, Row};
use super::tell::whole;
use super::{Manifest, Shard};
#[cfg(test)]
use crate::bucket::SnapshotPart;
use crate::bucket::{BucketError, Through};
use crate::ledger::LedgerError;
use crate::ledger::core::Core;
use crate::ledger::index::{Changes, IndexError, Table};
use crate::ledger::planted::Bug;
use crate::ledger::segment;

/// Shards read at one time.
const READ_AHEAD: usize = 4;
/// The tables that tell how far the fold has come: their rows are taken last.
const LAST: [Table; 3] = [Table::Ledgers, Table::Imports, Table::Seen];

/// What became of an attempt to begin from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    Whole,
    /// A shard is not what the manifest says: nothing of it stays.
    Refused,
}

/// Ends the loading, however it ends: what is not whole is thrown away.
struct Loading<'a> {
    core: &'a Core,
    is_whole: bool,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.core.index.suspect(IndexError::Damaged("a snapshot was not loaded to its end".into()));
        }
        self.core.end_loading();
    }
}

impl Core {
    /// Begins anew from the nearest snapshot that covers more than `beyond` in one respect and no less in the other. Whether there
    /// was one; without, the index is as it was, or empty.
    ///
    /// # Errors
    /// What the bucket or the index's disk answers.
    pub async fn restore(self: &Arc<Core>, beyond: Through) -> Result<bool, LedgerError> {
        let _restoring = self.restoring.lock().await;
        if covers(self.folded_through()?, beyond) {
            // Somebody was faster.
            return Ok(true);
        }
        let mut known = self.status().await?.snapshots;
        if self.planted.is(Bug::SnapshotWithoutManifest) {
            known.clear();
        }
        let mut tried = Vec::new();
        for listed in [false, true] {
            let mut found = if listed { self.listed_snapshots().await? } else { known.clone() };
            found.retain(|through| covers(*through, beyond) && !tried.contains(through));
            found.sort_unstable();
            for through in found.into_iter().rev() {
                tried.push(through);
                if self.restore_from(through).await? == Loaded::Whole {
                    tracing::info!(%through, "the ledger's index begins from a snapshot");
                    self.metrics.ledger_rebuilt("snapshot");
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What this index is the fold of.
    pub fn folded_through(&self) -> Result<Through, IndexError> {
        self.index.read(|rows| Ok(Through { ledger: self.position_in(rows)?.seq, imports: Core::imports_in(rows)?.number }))
    }

    /// The snapshots that a listing finds, sorted.
    pub async fn listed_snapshots(&self) -> Result<Vec<Through>, BucketError> {
        let listed = self.bucket.list_snapshots().await?.into_iter();
        #[cfg(test)]
        if self.planted.is(Bug::SnapshotWithoutManifest) {
            let mut found: Vec<Through> = listed.map(|(through, _)| through).collect();
            found.dedup();
            return Ok(found);
        }
        Ok(whole(listed))
    }

    async fn restore_from(self: &Arc<Core>, through: Through) -> Result<Loaded, LedgerError> {
        let manifest = match self.manifest(through).await? {
            Some(manifest) => manifest,
            #[cfg(test)]
            None if self.planted.is(Bug::SnapshotWithoutManifest) => match self.presume(through).await? {
                Some(presumed) => presumed,
                None => return Ok(Loaded::Refused),
            },
            None => return Ok(Loaded::Refused),
        };
        if !self.continues(&manifest).await? {
            return Ok(Loaded::Refused);
        }
        let loaded = self.load(&manifest).await?;
        if loaded == Loaded::Refused {
            tracing::error!(%through, "a snapshot is damaged: it is not used");
            self.metrics.ledger_snapshot("refused");
        }
        Ok(loaded)
    }

    /// Takes all rows of a snapshot into an empty index. No other fold happens meanwhile.
    async fn load(self: &Arc<Core>, manifest: &Manifest) -> Result<Loaded, LedgerError> {
        let mut loading = Loading { core: self, is_whole: false };
        self.work(|core| core.begin_loading()).await??;
        let mut last = Changes::default();
        let numbers: Vec<usize> = (0..manifest.shards.len()).collect();
        for numbers in numbers.chunks(READ_AHEAD) {
            let shards = try_join_all(numbers.iter().map(|number| self.shard(manifest, *number))).await?;
            let mut changes = Changes::default();
            for rows in shards {
                let Some(rows) = rows else { return self.refuse_load(loading).await };
                for Row { table, key, value } in rows {
                    let of = if LAST.contains(&table) { &mut last } else { &mut changes };
                    of.put(table, key, value);
                }
            }
            self.work(|core| core.index.commit(changes)).await??;
        }
        self.work(|core| core.index.finish_loading(last)).await??;
        let is_there = self.folded_through()? == manifest.through;
        if !is_there || (self.position()?.hash, self.imports()?.hash) != manifest.hashes {
            return self.refuse_load(loading).await;
        }
        loading.is_whole = true;
        Ok(Loaded::Whole)
    }

    async fn refuse_load(self: &Arc<Core>, mut loading: Loading<'_>) -> Result<Loaded, LedgerError> {
        self.work(|core| core.index.clear()).await??;
        loading.is_whole = true;
        Ok(Loaded::Refused)
    }

    /// The rows of a shard; `None` if it is not there or not what the manifest says.
    async fn shard(&self, manifest: &Manifest, number: usize) -> Result<Option<Vec<Row>>, BucketError> {
        let Some(expected) = manifest.shards.get(number) else { return Ok(None) };
        let bytes = match self.bucket.read(&manifest.key(number), MAX_SHARD_BYTES).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(BucketError::Broken(_)) => return Ok(None),
            Err(why) => return Err(why),
        };
        if self.planted.is(Bug::ShardNotVerified) {
            return Ok(shard::unpack(&bytes));
        }
        Ok(expected.rows_of(&bytes))
    }

    /// Whether a snapshot is whole and continues into the bucket's ledger: reads all of it.
    pub async fn verify(&self, manifest: &Manifest) -> Result<bool, BucketError> {
        if !self.continues(manifest).await? {
            return Ok(false);
        }
        for number in 0..manifest.shards.len() {
            if self.shard(manifest, number).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A planted mistake: shards that lie there are taken for a whole.
    #[cfg(test)]
    async fn presume(&self, through: Through) -> Result<Option<Manifest>, LedgerError> {
        let mut attempts = std::collections::BTreeMap::<_, usize>::new();
        for (of, part) in self.bucket.list_snapshots().await? {
            if let (true, SnapshotPart::Shard { attempt, .. }) = (of == through, part) {
                *attempts.entry(attempt).or_default() += 1;
            }
        }
        let Some((attempt, count)) = attempts.pop_last() else { return Ok(None) };
        let bytes = self.bucket.read(&crate::bucket::Key::Ledger(through.ledger), MAX_SHARD_BYTES).await?.unwrap_or_default();
        let hash = match segment::decode(&bytes) {
            Ok(segment::Object::Stub(stub)) => stub.hash,
            _ => segment::hash(&bytes),
        };
        let hashes = (hash, segment::no_segment());
        let mut manifest = Manifest { through, attempt, hashes, ..self.index.read(|rows| self.head(rows))? };
        for number in 0..count {
            let bytes = self.bucket.read(&manifest.key(number), MAX_SHARD_BYTES).await?.unwrap_or_default();
            let rows = shard::unpack(&bytes).map_or(0, |rows| rows.len() as u64);
            manifest.shards.push(super::Shard { hash: segment::hash(&bytes), rows, size_bytes: bytes.len() as u64 });
        }
        Ok(Some(manifest))
    }
}

impl Shard {
    /// The rows, if the bytes are what the manifest says.
    pub(super) fn rows_of(&self, bytes: &[u8]) -> Option<Vec<Row>> {
        let is_right = bytes.len() as u64 == self.size_bytes && segment::hash(bytes) == self.hash;
        if is_right { shard::unpack(bytes).filter(|rows| rows.len() as u64 == self.rows) } else { None }
    }
}

/// Whether who stands at `through` needs nothing up to `beyond`.
fn covers(through: Through, beyond: Through) -> bool {
    through.ledger >= beyond.ledger && through.imports >= beyond.imports
}
