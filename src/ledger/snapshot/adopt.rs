//! Adopting the snapshot of another region, where only that has what comes next.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::make::{Made, Of, Packing};
use super::{Manifest, Snapshots};
use crate::bucket::{BucketError, Key, SnapshotPart};
use crate::ledger::core::{Core, End, FoldError};
use crate::ledger::identity::{Origin, VersionVector};
use crate::ledger::import::{self, Header};
use crate::ledger::importer::{Plan, attempt, folded};
use crate::ledger::index::{Changes, Index, IndexError, Memory, Overlay};
use crate::ledger::segment::{self, Object, READER};
use crate::ledger::state::ImportsRow;
use crate::ledger::{ImportError, Ledger, LedgerError, fold, query};

/// Imports that are read at one time.
const READ_AHEAD: usize = 16;

/// What became of an attempt to adopt a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The peer is followed from there.
    Adopted,
    /// The region has none that this program can use, or that brings what is missing here.
    None,
    /// Another import came between: look again, and try again if it is still needed.
    Overtaken,
}

impl From<BucketError> for ImportError {
    fn from(why: BucketError) -> ImportError {
        ImportError::Unavailable(why.to_string())
    }
}

impl Ledger {
    /// Takes the snapshot of another region over, when its segments that come next here were trimmed.
    ///
    /// # Errors
    /// It may have been adopted, or may still be.
    pub async fn adopt(&self, of: &Origin, snapshots: &impl Snapshots) -> Result<Adopted, ImportError> {
        self.0.core.adopt(of, snapshots).await
    }
}

impl Core {
    async fn adopt(self: &Arc<Core>, of: &Origin, snapshots: &impl Snapshots) -> Result<Adopted, ImportError> {
        self.catch_up().await?;
        let Some(manifest) = self.adoptable(of, snapshots).await? else { return Ok(Adopted::None) };
        let plan = self.plan_adoption(&manifest)?;
        let Some(scratch) = self.lay_out(snapshots, &manifest, &plan).await? else { return Ok(Adopted::None) };
        let sent = self.send(Packing::start(self, Of::Scratch(scratch))?).await;
        self.clear_away().await?;
        let (_, made) = sent?;
        let plan = match made {
            Made::New => plan,
            // One that was not brought to its end has the place: an import that holds nothing passes it.
            Made::Stood => self.plan_nothing()?,
        };
        let number = plan.number;
        let end = attempt(self, &plan).await;
        let is_ours = matches!(end, End::Committed) && made == Made::New;
        match end {
            End::Committed => folded(self, number, plan.bytes).await,
            End::Lost(theirs) => folded(self, number, theirs).await,
            End::Behind => {}
        }
        // The own segments that the peer had not seen are folded again.
        self.catch_up().await?;
        Ok(if is_ours { Adopted::Adopted } else { Adopted::Overtaken })
    }

    /// The peer's last snapshot, if it can be taken over.
    async fn adoptable(self: &Arc<Core>, of: &Origin, snapshots: &impl Snapshots) -> Result<Option<Manifest>, ImportError> {
        let ours = self.index.read(query::vector)?;
        for through in snapshots.list(of).await.map_err(ImportError::Unavailable)?.into_iter().rev() {
            let bytes = snapshots.part(of, through, SnapshotPart::Manifest).await.map_err(ImportError::Unavailable)?;
            let Some(manifest) = bytes.and_then(|bytes| Manifest::read(&bytes, of, through)) else { continue };
            if manifest.vector.get(of) <= ours.get(of) {
                continue;
            }
            let seen = manifest.vector.get(&self.origin);
            if seen > ours.get(&self.origin) {
                self.require(seen);
                return Err(ImportError::OwnBehind { seq: seen });
            }
            if self.are_whole(seen + 1, ours.get(&self.origin)).await? {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// Whether none of these own segments was trimmed. What is trimmed is trimmed from the oldest on.
    async fn are_whole(&self, from: u64, last: u64) -> Result<bool, BucketError> {
        if from > last {
            return Ok(true);
        }
        let bytes = self.bucket.read(&Key::Ledger(from), import::MAX_IMPORT_BYTES).await?.unwrap_or_default();
        Ok(matches!(segment::decode(&bytes), Ok(Object::Segment(_))))
    }

    /// The import that stands for the snapshot: the same at every node that takes the same one over.
    fn plan_adoption(&self, manifest: &Manifest) -> Result<Plan, ImportError> {
        let mut seen = self.index.read(|rows| fold::seen(rows, &self.origin))?.others;
        for (origin, seq) in manifest.vector.iter().filter(|(origin, _)| **origin != self.origin) {
            seen.raise(origin.clone(), seq);
        }
        self.planned_empty(seen, Some(manifest.origin.clone()), manifest.attempt.to_string())
    }

    fn plan_nothing(&self) -> Result<Plan, ImportError> {
        let seen = self.index.read(|rows| fold::seen(rows, &self.origin))?.others;
        self.planned_empty(seen, None, self.nonce())
    }

    fn planned_empty(&self, seen: VersionVector, adopts: Option<Origin>, nonce: String) -> Result<Plan, ImportError> {
        let at = self.imports()?;
        let node = adopts.as_ref().map_or_else(|| self.node.clone(), Origin::to_string);
        let number = at.number + 1;
        let header = Header { number, previous: at.hash, nonce: nonce.clone(), node, seen, adopts, least_reader: READER };
        let bytes = import::encode(&header, &[]).map_err(|why| ImportError::Unavailable(why.to_string()))?;
        Ok(Plan { number, nonce, bytes })
    }

    /// The peer's rows, each shard verified, as rows of this region, with what this region has and the peer had not. `None` if they are
    /// not what the manifest says, or what is to be added is no longer there.
    async fn lay_out(
        self: &Arc<Core>,
        snapshots: &impl Snapshots,
        manifest: &Manifest,
        plan: &Plan,
    ) -> Result<Option<Arc<Index>>, ImportError> {
        let place = self.scratch.clone();
        let of = self.origin.clone();
        let scratch = self.work(move |_| match place {
            Some(path) => Index::open(&path, &of).and_then(|index| index.clear().map(|()| index)),
            None => Index::in_memory(Memory::default(), &of),
        });
        let scratch = Arc::new(scratch.await??);
        for (number, shard) in manifest.shards.iter().enumerate() {
            let part =
                snapshots.part(&manifest.origin, manifest.through, manifest.shard(number)).await.map_err(ImportError::Unavailable)?;
            let Some(rows) = shard.rows_of(&part.unwrap_or_default()) else {
                tracing::error!(region = %manifest.origin.region, through = %manifest.through, "a peer's snapshot is damaged: it is not used");
                return Ok(None);
            };
            let mut changes = Changes::default();
            for row in rows {
                changes.put(row.table, row.key, row.value);
            }
            self.on(&scratch, move |index| index.commit(changes)).await?;
        }
        let (home, row) = (self.origin.region.clone(), imports_row(plan, manifest));
        self.on(&scratch, move |index| index.change(|rows| fold::become_of(rows, &home, &row))).await?;
        Ok(self.fold_rest(&scratch).await?.then_some(scratch))
    }

    /// Folds what was imported here and the peer had not seen, in the order in which it was imported: whose ledger was short, or came
    /// first, is not waited for until a peer's next snapshot has it, too. Whether that was all.
    async fn fold_rest(self: &Arc<Core>, scratch: &Arc<Index>) -> Result<bool, LedgerError> {
        let (ours, last) = (self.index.read(query::vector)?, self.imports()?.number);
        let is_all = || {
            let has = scratch.read(query::vector)?;
            Ok::<bool, IndexError>(ours.iter().all(|(of, seq)| *of == self.origin || has.covers(of, seq)))
        };
        let mut number = 0;
        while number < last && !is_all()? {
            let numbers = (number + 1..=last).take(READ_AHEAD);
            let read = try_join_all(numbers.map(async |number| self.bucket.read(&Key::Import(number), import::MAX_IMPORT_BYTES).await));
            let read: Vec<Bytes> = read.await?.into_iter().flatten().collect();
            number += READ_AHEAD as u64;
            let core = self.clone();
            self.on(scratch, move |index| index.change(|rows| core.fold_on(rows, &read))).await?;
        }
        Ok(is_all()?)
    }

    /// Folds what follows of some imports. What was trimmed, or lies behind a snapshot that was taken over, does not.
    fn fold_on(&self, rows: &mut Overlay<'_>, imports: &[Bytes]) -> Result<(), IndexError> {
        for bytes in imports {
            let Ok(import::Object::Import(import)) = import::decode(bytes) else { continue };
            for object in &import.segments {
                if let Err(FoldError::Index(why)) = self.fold_foreign(rows, object) {
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Removes what was laid out.
    async fn clear_away(self: &Arc<Core>) -> Result<(), LedgerError> {
        let Some(path) = self.scratch.clone() else { return Ok(()) };
        self.work(move |_| {
            if let Err(why) = std::fs::remove_file(&path) {
                tracing::warn!(%why, path = %path.display(), "a peer's snapshot was laid out there and is not needed any more");
            }
        })
        .await
    }

    async fn on(
        self: &Arc<Core>,
        scratch: &Arc<Index>,
        job: impl FnOnce(&Index) -> Result<(), IndexError> + Send + 'static,
    ) -> Result<(), LedgerError> {
        let scratch = scratch.clone();
        Ok(self.work(move |_| job(&scratch)).await??)
    }
}

fn imports_row(plan: &Plan, manifest: &Manifest) -> ImportsRow {
    ImportsRow { number: plan.number, hash: segment::hash(&plan.bytes), node: manifest.origin.to_string() }
}
