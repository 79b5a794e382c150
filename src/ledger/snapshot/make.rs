//! Making a snapshot: one state of the index, shard by shard into the bucket, each read back; then the manifest.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::shard::{self, MAX_SHARD_BYTES, Packed};
use super::{LAYOUT, MAX_MANIFEST_BYTES, Manifest, Shard};
use crate::bucket::{BucketError, Key, SnapshotPart, Through};
use crate::ledger::core::Core;
use crate::ledger::index::{self, Index, IndexError, Rows, Walk};
use crate::ledger::segment;
use crate::ledger::{LedgerError, query};

/// Shards that wait to be sent, at most.
const SHARDS_AHEAD: usize = 2;
/// How often an object is written whose end is not known.
const MAX_WRITES: u32 = 4;

/// Whose rows are packed.
pub(super) enum Of {
    Own,
    Scratch(Arc<Index>),
}

impl Of {
    fn index<'a>(&'a self, core: &'a Core) -> &'a Index {
        match self {
            Of::Own => &core.index,
            Of::Scratch(index) => index,
        }
    }
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    New,
    /// There is one already at its place.
    Stood,
}

/// What is packed, in this order: once the head, then shards.
enum Part {
    Head(Box<Manifest>),
    Shard(Packed),
}

type Thread = (mpsc::Receiver<Part>, JoinHandle<Result<(), IndexError>>);

/// One state of the index being packed: in a thread of its own where that can block, else at once.
pub(super) struct Packing {
    ready: VecDeque<Part>,
    thread: Option<Thread>,
}

impl Packing {
    /// Packs the rows of an index: the own one, or one that was laid out for this.
    pub(super) fn start(core: &Arc<Core>, of: Of) -> Result<Packing, IndexError> {
        if !of.index(core).blocks() {
            let mut ready = VecDeque::new();
            of.index(core).read(|rows| {
                core.pack(rows, &mut |part| {
                    ready.push_back(part);
                    Walk::On
                })
            })?;
            return Ok(Packing { ready, thread: None });
        }
        let (tell, parts) = mpsc::channel(SHARDS_AHEAD);
        let core = core.clone();
        let thread = tokio::task::spawn_blocking(move || {
            of.index(&core).read(|rows| core.pack(rows, &mut |part| if tell.blocking_send(part).is_ok() { Walk::On } else { Walk::Stop }))
        });
        Ok(Packing { ready: VecDeque::new(), thread: Some((parts, thread)) })
    }

    async fn next(&mut self) -> Result<Option<Part>, LedgerError> {
        let Some((parts, _)) = &mut self.thread else { return Ok(self.ready.pop_front()) };
        if let Some(part) = parts.recv().await {
            return Ok(Some(part));
        }
        let Some((_, thread)) = self.thread.take() else { return Ok(None) };
        thread.await.map_err(|_| LedgerError::Unavailable("the process is ending".into()))??;
        Ok(None)
    }
}

impl Core {
    /// A manifest without shards yet.
    pub(super) fn head(&self, rows: &dyn Rows) -> Result<Manifest, IndexError> {
        let (at, imports) = (self.position_in(rows)?, Core::imports_in(rows)?);
        Ok(Manifest {
            layout: LAYOUT,
            index: index::FORMAT,
            origin: self.origin.clone(),
            through: Through { ledger: at.seq, imports: imports.number },
            hashes: (at.hash, imports.hash),
            vector: query::vector(rows)?,
            attempt: self.bucket.fresh_ulid(),
            made: self.clock.now(),
            node: self.node.clone(),
            shards: Vec::new(),
        })
    }

    fn pack(&self, rows: &dyn Rows, take: &mut dyn FnMut(Part) -> Walk) -> Result<(), IndexError> {
        match take(Part::Head(Box::new(self.head(rows)?))) {
            Walk::On => shard::pack(rows, self.shard_bytes, &mut |packed| take(Part::Shard(packed))),
            Walk::Stop => Ok(()),
        }
    }

    /// Makes a snapshot of what is folded here, unless there is one. `None` if nothing is.
    ///
    /// # Errors
    /// It may have become one or not. What is left of one that did not is removed by trimming, when it is old.
    pub async fn make_snapshot(self: &Arc<Core>) -> Result<Option<Through>, LedgerError> {
        let packing = Packing::start(self, Of::Own)?;
        let (through, _) = self.send(packing).await?;
        Ok(Some(through).filter(|through| *through != Through::default()))
    }

    pub(super) async fn send(self: &Arc<Core>, mut packing: Packing) -> Result<(Through, Made), LedgerError> {
        let Some(Part::Head(mut manifest)) = packing.next().await? else { return Ok((Through::default(), Made::Stood)) };
        let through = manifest.through;
        if through == Through::default() || self.manifest(through).await?.is_some() {
            return Ok((through, Made::Stood));
        }
        while let Some(Part::Shard(packed)) = packing.next().await? {
            let shard = Shard { hash: segment::hash(&packed.bytes), rows: packed.rows, size_bytes: packed.bytes.len() as u64 };
            let key = manifest.key(manifest.shards.len());
            if self.write_back(&key, &packed.bytes, MAX_SHARD_BYTES).await? != packed.bytes {
                return Err(LedgerError::Broken(format!("{key} is not what was written")));
            }
            manifest.shards.push(shard);
        }
        let bytes = Bytes::from(serde_json::to_vec(&manifest).map_err(|why| LedgerError::Broken(why.to_string()))?);
        let stands = self.write_back(&Key::Snapshot(through, SnapshotPart::Manifest), &bytes, MAX_MANIFEST_BYTES).await?;
        if stands != bytes {
            // Another node was faster.
            self.delete_shards(&manifest).await;
        }
        self.metrics.ledger_snapshot(if stands == bytes { "made" } else { "overtaken" });
        Ok((through, if stands == bytes { Made::New } else { Made::Stood }))
    }

    /// Creates an object, and tells what stands there in the end.
    async fn write_back(&self, key: &Key, bytes: &Bytes, limit_bytes: u64) -> Result<Bytes, BucketError> {
        let mut outcome = Ok(());
        for _ in 0..MAX_WRITES {
            outcome = self.bucket.create(key, bytes.clone()).await.map(|_| ());
            match self.bucket.read(key, limit_bytes).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(why) => outcome = Err(why),
            }
        }
        let absent = || BucketError::Broken(format!("{key} was created and is not there"));
        Err(outcome.err().unwrap_or_else(absent))
    }

    async fn delete_shards(&self, manifest: &Manifest) {
        for number in 0..manifest.shards.len() {
            if let Err(why) = self.bucket.delete(&manifest.key(number)).await {
                tracing::debug!(%why, "a shard of no snapshot is left to trimming");
            }
        }
    }
}
