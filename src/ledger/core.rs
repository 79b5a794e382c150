//! What the ledger's parts share: the bucket, the index, and the one way by which segments get from the one into the other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::fold::{self, Folding};
use super::identity::{HybridTime, Origin};
use super::import::{self, Import, MAX_IMPORT_BYTES};
use super::index::{Index, IndexError, Mended, Overlay, Rows};
use super::planted::{Bug, Planted};
use super::recent::Recent;
use super::segment::{self, MAX_OBJECT_BYTES, Object, Segment, SegmentError};
#[cfg(test)]
use super::simulation::Fuse;
use super::state::{ImportsRow, LedgerRow};
use super::{LedgerError, Regions};
use crate::bucket::{Bucket, BucketError, Created, Key, Through};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::Digest;

/// Segments read at one time while there are many to fold.
const READ_AHEAD: usize = 32;
/// A node that is behind, and finds a snapshot so many segments or imports ahead, begins from it. Once it reads so many at one time,
/// it looks.
const FAR_BEHIND: u64 = 10_000;
/// How often the index begins anew while it catches up once.
const MAX_RESTORES: u32 = 4;
const LEAP_READS: usize = 4;

pub(super) struct Core {
    pub bucket: Bucket,
    pub index: Index,
    pub origin: Origin,
    pub node: String,
    pub clock: Clock,
    pub metrics: Metrics,
    pub random: Mutex<fastrand::Rng>,
    pub planted: Planted,
    regions: Regions,
    /// What others have seen of the own ledger: before it is folded here, nothing may be appended.
    required: AtomicU64,
    pub recent: Recent,
    /// The same of imports.
    pub imported: Recent,
    /// Counts what was folded.
    folds: watch::Sender<u64>,
    /// One fold at a time, and none while the index is made anew.
    folding: Mutex<()>,
    /// A snapshot is loaded: nothing is folded until it is there, or thrown away.
    is_loading: AtomicBool,
    /// How often the index was emptied for a snapshot; and how often, when it was last caught up. While they differ it may lack what
    /// it had.
    loads: AtomicU64,
    settled: AtomicU64,
    /// One attempt to begin from a snapshot at a time.
    pub restoring: tokio::sync::Mutex<()>,
    /// Whether a snapshot far ahead was looked for since this process began.
    is_placed: AtomicBool,
    /// How far ahead a snapshot must be to be loaded by who could fold on.
    pub far_behind: u64,
    /// Where another region's snapshot is laid out; in memory if there is no place.
    pub scratch: Option<PathBuf>,
    /// How large shards of snapshots become, if not as large as they should.
    pub shard_bytes: Option<usize>,
    /// The index was compared with the bucket since this process, or a fault, began.
    is_compared: AtomicBool,
    #[cfg(test)]
    pub fuse: Fuse,
    #[cfg(test)]
    unfinished: Mutex<Vec<super::index::Changes>>,
}

/// Why a segment was not folded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoldError {
    #[error("segment {0}: {1}")]
    Segment(u64, SegmentError),
    #[error("{0} was trimmed, and there is no snapshot to begin from")]
    Trimmed(Key),
    #[error("import {0} stands for a snapshot that is not there")]
    Adopted(u64),
    #[error("the index is being loaded from a snapshot")]
    Loading,
    /// It does not follow the one that was folded before it.
    #[error("segment {0} does not follow the one before it: {1}")]
    Chain(u64, &'static str),
    #[error("import {0}: {1}")]
    Import(u64, String),
    #[error("import {0} does not follow the one before it")]
    ImportChain(u64),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Who this node is, in its ledger.
pub(super) struct Identity {
    pub node: String,
    pub origin: Origin,
    pub regions: Regions,
}

type Numbered = (u64, Bytes);

/// Segments of the own ledger and imports, as they were read, in order.
///
/// What an import brings may have seen any segment that stood before it was made. So segments come first, and an import before the first
/// one that names it: then no effect is ever without its cause, also while a whole history is folded.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    segments: Vec<Numbered>,
    imports: Vec<Numbered>,
    /// There is more of the own ledger than this. At its end come the imports that no segment names yet.
    has_more: bool,
}

impl Pieces {
    pub fn segment(seq: u64, bytes: Bytes) -> Pieces {
        Pieces { segments: vec![(seq, bytes)], ..Pieces::default() }
    }

    pub fn import(number: u64, bytes: Bytes) -> Pieces {
        Pieces { imports: vec![(number, bytes)], ..Pieces::default() }
    }
}

/// How far a fold came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folded {
    All,
    /// A segment of the own ledger names an import that is not folded yet.
    WaitsForImport,
    /// What was read was trimmed: the index began anew from a snapshot, and there may be more behind that.
    FromSnapshot,
}

/// A definite end of an attempt to create an object.
pub(super) enum End {
    Committed,
    /// Another's object has the number.
    Lost(Bytes),
    /// It was trimmed: this node is far behind.
    Behind,
}

/// Whose an object is that stands where one was to be created.
pub(super) enum Whose {
    Ours,
    Theirs,
    Trimmed,
}

impl Core {
    pub fn new(bucket: Bucket, index: Index, identity: Identity, clock: Clock, metrics: Metrics) -> Core {
        Core {
            bucket,
            index,
            origin: identity.origin,
            node: identity.node,
            clock,
            metrics,
            random: Mutex::new(fastrand::Rng::new()),
            planted: Planted::default(),
            regions: identity.regions,
            required: AtomicU64::new(0),
            recent: Recent::default(),
            imported: Recent::default(),
            folds: watch::Sender::new(0),
            folding: Mutex::new(()),
            is_loading: AtomicBool::new(false),
            loads: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            restoring: tokio::sync::Mutex::new(()),
            is_placed: AtomicBool::new(false),
            far_behind: FAR_BEHIND,
            scratch: None,
            shard_bytes: None,
            is_compared: AtomicBool::new(false),
            #[cfg(test)]
            fuse: Fuse::default(),
            #[cfg(test)]
            unfinished: Mutex::default(),
        }
    }

    /// Starts a task that lives no longer than its handle's owner wants.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        #[cfg(test)]
        let task = self.fuse.guard(task);
        tokio::spawn(task).abort_handle()
    }

    /// Does a piece of work on the index: away from the executor where it can block.
    pub async fn work<T: Send + 'static>(self: &Arc<Core>, job: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, LedgerError> {
        if !self.index.blocks() {
            return Ok(job(self));
        }
        let core = self.clone();
        let done = tokio::task::spawn_blocking(move || job(&core)).await;
        done.map_err(|_| LedgerError::Unavailable("the process is ending".into()))
    }

    /// Where the own ledger was folded to; number 0 before its first segment.
    pub fn position(&self) -> Result<LedgerRow, IndexError> {
        self.index.read(|rows| self.position_in(rows))
    }

    pub fn position_in(&self, rows: &dyn Rows) -> Result<LedgerRow, IndexError> {
        Core::ledger_in(rows, &self.origin)
    }

    /// Where a ledger was folded to.
    pub fn ledger_in(rows: &dyn Rows, origin: &Origin) -> Result<LedgerRow, IndexError> {
        let start = LedgerRow { seq: 0, hash: segment::no_segment(), clock: HybridTime::default(), imports: 0 };
        Ok(fold::ledger(rows, origin)?.unwrap_or(start))
    }

    /// Where the imports were folded to; number 0 before the first.
    pub fn imports_in(rows: &dyn Rows) -> Result<ImportsRow, IndexError> {
        let start = ImportsRow { number: 0, hash: segment::no_segment(), node: String::new() };
        Ok(fold::imports(rows)?.unwrap_or(start))
    }

    pub fn imports(&self) -> Result<ImportsRow, IndexError> {
        self.index.read(Core::imports_in)
    }

    pub fn folds(&self) -> watch::Receiver<u64> {
        self.folds.subscribe()
    }

    /// Others have seen so many segments of the own ledger.
    pub fn require(&self, seq: u64) {
        self.required.fetch_max(seq, Ordering::Relaxed);
    }

    /// Why nothing may be appended, as far as this node has folded: the region was declared lost, or its bucket was set back behind
    /// what others have seen of it, who have other segments with the numbers that would come next.
    pub fn fenced(&self) -> Result<Option<String>, IndexError> {
        let (required, seq) = (self.required.load(Ordering::Relaxed), self.position()?.seq);
        if seq < required && !self.planted.is(Bug::OwnTailNotCompared) {
            return Ok(Some(format!("others have seen segment {required} of this region, whose bucket ends at {seq}")));
        }
        let cut = self.index.read(|rows| fold::cut(rows, &self.origin))?;
        Ok(cut.map(|cut| format!("other regions declared this one lost behind segment {cut}")))
    }

    /// Folds all that is there: once this returns, everything that was committed before it was called is folded.
    pub async fn catch_up(self: &Arc<Core>) -> Result<(), LedgerError> {
        if self.work(Core::mend).await?? == Mended::Emptied {
            self.metrics.ledger_rebuilt("damaged");
        }
        let (mut reads, mut import_reads) = (1, 1);
        let (mut folded, mut fruitless, mut restores) = (Folded::All, 0, 0);
        // Imports that come behind segments which were not read yet.
        let mut held: Vec<Numbered> = Vec::new();
        loop {
            let loads = self.loads.load(Ordering::Acquire);
            self.compare().await?;
            let (at, imports) = (self.position()?, self.imports()?);
            let has_imports = self.regions == Regions::Many || imports.number > 0 || at.imports > 0 || folded == Folded::WaitsForImport;
            let segments = self.read_from(Key::Ledger, at.seq + 1, (reads, MAX_OBJECT_BYTES));
            held.retain(|(number, _)| *number > imports.number);
            if held.first().is_some_and(|(number, _)| *number > imports.number + 1) {
                held.clear();
            }
            let is_import_due = has_imports && (held.is_empty() || folded == Folded::WaitsForImport);
            let import_count = if is_import_due { import_reads } else { 0 };
            let next_import = imports.number + 1 + held.len() as u64;
            let imports = self.read_from(Key::Import, next_import, (import_count, MAX_IMPORT_BYTES));
            let (segments, imports) = futures_util::future::try_join(segments, imports).await?;
            let (has_more, has_more_imports) = (segments.len() == reads, is_import_due && imports.len() == import_count);
            fruitless = if folded == Folded::WaitsForImport && imports.is_empty() { fruitless + 1 } else { 0 };
            if fruitless > 1 {
                return Err(LedgerError::Broken(format!("segment {} names an import that is not there", at.seq + 1)));
            }
            held.extend(imports);
            folded = self.fold(Pieces { segments, imports: held.clone(), has_more }).await?;
            let is_end = !has_more && (is_import_due || !has_imports) && !has_more_imports && folded == Folded::All;
            // What was read belongs to an index that is no more, if a snapshot came between.
            if is_end && loads == self.loads.load(Ordering::Acquire) {
                self.settled.fetch_max(loads, Ordering::AcqRel);
                return Ok(());
            }
            restores += u32::from(folded == Folded::FromSnapshot);
            if restores > MAX_RESTORES {
                return Err(LedgerError::Broken("no snapshot leads to the end of the ledger".into()));
            }
            // The one may end long before the other.
            let next = |reads: usize, has_more| if has_more { (reads * 2).min(READ_AHEAD) } else { 1 };
            reads = next(reads, has_more);
            if is_import_due {
                import_reads = next(import_reads, has_more_imports);
            }
            if reads.max(import_reads) >= LEAP_READS {
                self.leap().await?;
            }
        }
    }

    /// The objects from a number on, without a gap.
    async fn read_from(
        &self,
        key: impl Fn(u64) -> Key,
        from: u64,
        (count, limit_bytes): (usize, u64),
    ) -> Result<Vec<Numbered>, BucketError> {
        let numbers = (from..).take(count);
        let reads = numbers.clone().map(async |number| self.bucket.read(&key(number), limit_bytes).await);
        let mut found = Vec::with_capacity(count);
        for (number, read) in numbers.zip(join_all(reads).await) {
            match read? {
                Some(bytes) => found.push((number, bytes)),
                None => break,
            }
        }
        Ok(found)
    }

    /// One try to create an object, which may stand there already: how it ended, or why that cannot be told.
    pub async fn create(&self, key: &Key, bytes: &Bytes, whose: impl Fn(&Bytes) -> Result<Whose, String>) -> Result<End, String> {
        match self.bucket.create(key, bytes.clone()).await {
            Ok(Created::Created) => return Ok(End::Committed),
            Ok(Created::Exists) if self.planted.is(Bug::ExistsTakenForOurs) => return Ok(End::Committed),
            Ok(Created::Exists) => {}
            Err(_) if self.planted.is(Bug::ErrorTakenForFailure) => return Ok(End::Behind),
            Err(why) => return Err(why.to_string()),
        }
        let read = self.bucket.read(key, MAX_IMPORT_BYTES).await.map_err(|why| why.to_string());
        if self.planted.is(Bug::UnreadableTakenForCommitted) && !matches!(read, Ok(Some(_))) {
            return Ok(End::Committed);
        }
        // A store may say that there is an object when two requests met and neither has landed.
        let found = read?.ok_or("the store says that it exists, and has nothing to read")?;
        Ok(match whose(&found)? {
            Whose::Ours => End::Committed,
            Whose::Theirs => End::Lost(found),
            Whose::Trimmed => End::Behind,
        })
    }

    /// Between two tries: half of it is random, so that nodes do not come in step.
    pub fn jittered(&self, pause: Duration) -> Duration {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        pause.mul_f64(0.5 + random.f64() / 2.0)
    }

    /// A writer's mark, so that it knows its own object when an answer was lost.
    pub fn nonce(&self) -> String {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{:032x}", random.u128(..))
    }

    /// Folds what was read, as far as it follows what is folded. Where it does not, and the index turns out to be the one that is
    /// wrong, it is empty afterwards.
    pub async fn fold(self: &Arc<Core>, pieces: Pieces) -> Result<Folded, LedgerError> {
        if pieces.segments.is_empty() && pieces.imports.is_empty() {
            return Ok(Folded::All);
        }
        let folded = self.work(move |core| core.fold_now(&pieces)).await?;
        #[cfg(test)]
        self.finish().await;
        match folded {
            Err(why @ FoldError::Adopted(number)) => {
                if self.restore(Through { ledger: 0, imports: number }).await? {
                    Ok(Folded::FromSnapshot)
                } else {
                    Err(why.into())
                }
            }
            Err(FoldError::Trimmed(key)) => {
                let beyond = match key {
                    Key::Import(number) => Through { ledger: 0, imports: number },
                    Key::Ledger(seq) => Through { ledger: seq, imports: 0 },
                    _ => Through::default(),
                };
                if self.restore(beyond).await? { Ok(Folded::FromSnapshot) } else { Err(FoldError::Trimmed(key).into()) }
            }
            Err(why @ (FoldError::Chain(..) | FoldError::ImportChain(_))) => {
                self.is_compared.store(false, Ordering::Relaxed);
                let before = (self.position()?.seq, self.imports()?.number);
                self.compare().await?;
                // Still there: the index agrees with the bucket, so the bucket's own chain is broken.
                if (self.position()?.seq, self.imports()?.number) >= before { Err(why.into()) } else { Ok(Folded::All) }
            }
            folded => Ok(folded?),
        }
    }

    fn fold_now(&self, pieces: &Pieces) -> Result<Folded, FoldError> {
        let folded = self.fold_read(pieces);
        if let Err(FoldError::Index(why)) = &folded {
            self.index.suspect(why.clone());
        }
        folded
    }

    fn fold_read(&self, pieces: &Pieces) -> Result<Folded, FoldError> {
        let started = Instant::now();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_loading() {
            return Err(FoldError::Loading);
        }
        let snapshot = self.index.snapshot()?;
        let mut rows = Overlay::new(snapshot.as_ref());
        let before = (self.position_in(&rows)?.seq, Core::imports_in(&rows)?.number);
        let outcome = self.fold_pieces(&mut rows, pieces);
        let after = (self.position_in(&rows)?.seq, Core::imports_in(&rows)?.number);
        let changes = rows.into_changes();
        drop(snapshot);
        if after != before {
            self.commit(changes)?;
            for (seq, bytes) in pieces.segments.iter().filter(|(seq, _)| (before.0 + 1..=after.0).contains(seq)) {
                self.recent.keep(*seq, bytes.clone());
            }
            for (number, bytes) in pieces.imports.iter().filter(|(number, _)| (before.1 + 1..=after.1).contains(number)) {
                self.imported.keep(*number, bytes.clone());
            }
            self.metrics.ledger_folded(after.0, after.0 - before.0, started.elapsed());
            self.folds.send_modify(|folds| *folds += 1);
        }
        outcome
    }

    fn folding(&self) -> Folding<'_> {
        Folding { home: &self.origin.region, planted: self.planted }
    }

    fn fold_pieces(&self, rows: &mut Overlay<'_>, pieces: &Pieces) -> Result<Folded, FoldError> {
        let mut imports = pieces.imports.iter();
        for (seq, bytes) in &pieces.segments {
            let at = self.position_in(rows)?;
            // Somebody else was faster; or the index was made anew meanwhile.
            if *seq != at.seq + 1 {
                continue;
            }
            let segment = self.next_segment(&at, *seq, bytes)?;
            while segment.header.imports > Core::imports_in(rows)?.number && !self.planted.is(Bug::ImportsNotAwaited) {
                let Some((number, bytes)) = imports.next() else { return Ok(Folded::WaitsForImport) };
                self.fold_import(rows, *number, bytes)?;
            }
            fold::segment(rows, &segment, segment::hash(bytes), self.folding())?;
        }
        if !pieces.has_more {
            for (number, bytes) in imports {
                self.fold_import(rows, *number, bytes)?;
            }
        }
        Ok(Folded::All)
    }

    /// What an import brings that was not folded yet.
    fn fold_import(&self, rows: &mut Overlay<'_>, number: u64, bytes: &Bytes) -> Result<(), FoldError> {
        let at = Core::imports_in(rows)?;
        if number != at.number + 1 {
            return Ok(());
        }
        let Import { header, segments } = match import::decode(bytes) {
            Ok(import::Object::Import(import)) => import,
            Ok(import::Object::Stub(_)) => return Err(FoldError::Trimmed(Key::Import(number))),
            Err(why) => return Err(FoldError::Import(number, why.to_string())),
        };
        if header.adopts.is_some() && header.previous == at.hash {
            return Err(FoldError::Adopted(number));
        }
        if header.number != number || (header.previous != at.hash && !self.planted.is(Bug::ChainNotChecked)) {
            return Err(FoldError::ImportChain(number));
        }
        for object in &segments {
            self.fold_foreign(rows, object).map_err(|why| FoldError::Import(number, why.to_string()))?;
        }
        fold::import(rows, &ImportsRow { number, hash: segment::hash(bytes), node: header.node });
        Ok(())
    }

    pub(super) fn fold_foreign(&self, rows: &mut Overlay<'_>, object: &Bytes) -> Result<(), FoldError> {
        let segment = match segment::decode(object) {
            Ok(Object::Segment(segment)) => segment,
            Ok(Object::Stub(stub)) => return Err(FoldError::Segment(stub.trimmed, SegmentError::Damaged("a stub was imported".into()))),
            Err(why) => return Err(FoldError::Segment(0, why)),
        };
        let (origin, seq) = (&segment.header.origin, segment.header.seq);
        let at = Core::ledger_in(rows, origin)?;
        // Two nodes may import the same.
        if seq <= at.seq {
            return Ok(());
        }
        if (seq != at.seq + 1 && !self.planted.is(Bug::GapImported))
            || (segment.header.previous != at.hash && !self.planted.is(Bug::ForeignChainNotChecked) && !self.planted.is(Bug::GapImported))
        {
            return Err(FoldError::Chain(seq, "it was imported all the same"));
        }
        Ok(fold::segment(rows, &segment, segment::hash(object), self.folding())?)
    }

    fn next_segment(&self, at: &LedgerRow, seq: u64, bytes: &[u8]) -> Result<Segment, FoldError> {
        let segment = match segment::decode(bytes) {
            Ok(Object::Segment(segment)) => segment,
            Ok(Object::Stub(_)) => return Err(FoldError::Trimmed(Key::Ledger(seq))),
            Err(why) => return Err(FoldError::Segment(seq, why)),
        };
        let header = &segment.header;
        let fault = if header.origin != self.origin || header.seq != seq {
            "it is another's"
        } else if header.previous != at.hash {
            "it names another hash"
        } else if header.clock <= at.clock {
            "its clock does not rise"
        } else if header.imports < at.imports {
            "it has seen less"
        } else {
            return Ok(segment);
        };
        if self.planted.is(Bug::ChainNotChecked) { Ok(segment) } else { Err(FoldError::Chain(seq, fault)) }
    }

    fn commit(&self, changes: super::index::Changes) -> Result<(), IndexError> {
        #[cfg(test)]
        if self.planted.is(Bug::FoldNotAtomic) {
            let (position, rest) = changes.split(super::index::Table::Ledgers);
            self.unfinished.lock().unwrap().push(rest);
            return self.index.commit(position);
        }
        self.index.commit(changes)
    }

    /// The second half of a planted commit.
    #[cfg(test)]
    async fn finish(&self) {
        if self.planted.is(Bug::FoldNotAtomic) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            for changes in std::mem::take(&mut *self.unfinished.lock().unwrap()) {
                self.index.commit(changes).unwrap();
            }
        }
    }

    /// Compares the index with the bucket, once: an index that is ahead of its bucket, or took another way, is thrown away.
    pub async fn compare(self: &Arc<Core>) -> Result<(), LedgerError> {
        if self.is_compared.load(Ordering::Relaxed) || self.planted.is(Bug::ChainNotChecked) {
            return Ok(());
        }
        let (at, imports) = (self.position()?, self.imports()?);
        let agrees = self.has(&Key::Ledger(at.seq), &at.hash).await? && self.has(&Key::Import(imports.number), &imports.hash).await?;
        if !agrees {
            tracing::warn!(seq = at.seq, imports = imports.number, "the ledger's index does not agree with the bucket: it is made anew");
            self.metrics.ledger_rebuilt("diverged");
            self.recent.forget();
            self.imported.forget();
            self.work(|core| {
                let _folding = core.folding.lock().unwrap_or_else(PoisonError::into_inner);
                // What was compared is gone already then.
                if core.is_loading() { Ok(()) } else { core.index.clear() }
            })
            .await??;
        }
        self.is_compared.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn mend(&self) -> Result<Mended, FoldError> {
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_loading() { Err(FoldError::Loading) } else { Ok(self.index.mend()?) }
    }

    /// A node that finds a snapshot far ahead of what it has begins from that; it looks once.
    async fn leap(self: &Arc<Core>) -> Result<(), LedgerError> {
        if self.is_placed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (at, last) = (self.folded_through()?, self.status().await?.snapshots.last().copied());
        let is_far = |last: &Through| last.ledger > at.ledger + self.far_behind || last.imports > at.imports + self.far_behind;
        if last.is_some_and(|last| is_far(&last) && last.ledger >= at.ledger && last.imports >= at.imports) {
            self.restore(last.unwrap_or_default()).await?;
        }
        self.is_placed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the index has all that it ever had.
    pub fn is_settled(&self) -> bool {
        self.loads.load(Ordering::Acquire) == self.settled.load(Ordering::Acquire)
    }

    pub fn is_loading(&self) -> bool {
        self.is_loading.load(Ordering::Acquire)
    }

    /// Empties the index for a snapshot. Blocks.
    pub fn begin_loading(&self) -> Result<(), IndexError> {
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_loading.store(true, Ordering::Release);
        self.loads.fetch_add(1, Ordering::AcqRel);
        if self.planted.is(Bug::LoadedOverOldRows) { Ok(()) } else { self.index.begin_loading() }
    }

    /// From here on segments are folded again, behind the snapshot or from the beginning.
    pub fn end_loading(&self) {
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_compared.store(false, Ordering::Relaxed);
        self.is_loading.store(false, Ordering::Release);
        self.folds.send_modify(|folds| *folds += 1);
    }

    /// Whether the bucket has this object, or had it before it was trimmed. Number 0 is before all.
    pub async fn has(&self, key: &Key, hash: &Digest) -> Result<bool, BucketError> {
        if matches!(key, Key::Ledger(0) | Key::Import(0)) {
            return Ok(true);
        }
        let Some(bytes) = self.bucket.read(key, MAX_IMPORT_BYTES).await? else { return Ok(false) };
        if segment::hash(&bytes) == *hash {
            return Ok(true);
        }
        let trimmed = match key {
            Key::Import(_) => match import::decode(&bytes) {
                Ok(import::Object::Stub(stub)) => Some(stub.hash),
                _ => None,
            },
            _ => match segment::decode(&bytes) {
                Ok(Object::Stub(stub)) => Some(stub.hash),
                _ => None,
            },
        };
        Ok(trimmed.as_ref() == Some(hash))
    }
}
