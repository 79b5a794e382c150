//! Importing: segments of other regions are committed to the own bucket, verbatim, before anything is made of them.
//!
//! What an import holds is checked before it is created, for it can never be taken back: that each segment is the next of its ledger
//! and names the hash of the one before, and that all that its writer had seen stands in an import already, or before it in this one.
//! So a region never shows an effect without its cause, and whoever follows this region finds here whatever its segments name.
//!
//! Attempts at a number end only as those of [`append`](super::append) do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::LedgerError;
use super::append::{FIRST_PAUSE, LAST_PAUSE};
use super::core::{Core, End, Pieces, Whose};
use super::fold;
use super::identity::Origin;
use super::import::{self, Header, MAX_SEGMENT_BYTES, MAX_SEGMENTS, Object};
use super::index::{IndexError, Rows};
use super::planted::Bug;
use super::segment::{self, READER, Segment};
use super::state::LedgerRow;
use crate::bucket::Key;

/// Callers that wait, at most.
const QUEUE_CALLERS: usize = 64;
/// How long a caller waits for its outcome.
const DEADLINE: Duration = Duration::from_secs(30);

/// A segment of another region's ledger, verbatim.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    pub origin: Origin,
    pub seq: u64,
    pub bytes: Bytes,
}

/// Why segments were not imported, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Something must be imported before: the segment with this number, and all before it.
    #[error("segment {seq} of {origin} is missing")]
    Behind { origin: Origin, seq: u64 },
    /// It is not what it should be: this ledger must not be followed any further, and somebody has to look.
    #[error("the ledger of {origin} cannot be followed: {why}")]
    Refused { origin: Origin, why: String },
    /// Others have seen more of this region's own ledger than stands in its bucket: it was set back, and takes no pushes any more.
    #[error("others have seen segment {seq} of this region, which its bucket does not have")]
    OwnBehind { seq: u64 },
    /// They may have been imported, or may still be.
    #[error("the bucket is unavailable: {0}")]
    Unavailable(String),
}

impl From<LedgerError> for ImportError {
    fn from(why: LedgerError) -> ImportError {
        ImportError::Unavailable(why.to_string())
    }
}

impl From<IndexError> for ImportError {
    fn from(why: IndexError) -> ImportError {
        ImportError::Unavailable(why.to_string())
    }
}

struct Request {
    segments: Vec<Foreign>,
    tell: oneshot::Sender<Result<(), ImportError>>,
}

pub(super) struct Importer {
    queue: mpsc::Sender<Request>,
    task: AbortHandle,
}

impl Importer {
    pub fn start(core: Arc<Core>) -> Importer {
        let (queue, requests) = mpsc::channel(QUEUE_CALLERS);
        let task = core.spawn(run(core.clone(), requests));
        Importer { queue, task }
    }

    pub async fn import(&self, segments: Vec<Foreign>) -> Result<(), ImportError> {
        let (tell, outcome) = oneshot::channel();
        let unavailable = |why: &str| ImportError::Unavailable(why.to_owned());
        self.queue.try_send(Request { segments, tell }).map_err(|_| unavailable("too many wait already"))?;
        match timeout(DEADLINE, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(unavailable("the node is ending")),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }

    /// Ends the attempt that is under way, as a crash would.
    pub fn stop(&self) {
        self.task.abort();
    }
}

async fn run(core: Arc<Core>, mut requests: mpsc::Receiver<Request>) {
    // What a fresh index does not know yet may forbid an import: that a region was declared lost.
    let mut knows_own = false;
    while let Some(Request { segments, tell }) = requests.recv().await {
        // In no attempt yet, and nobody waits.
        if tell.is_closed() {
            continue;
        }
        let outcome = match knows_own {
            true => settle(&core, &Arc::new(segments)).await,
            false => match core.catch_up().await {
                Ok(()) => {
                    knows_own = true;
                    settle(&core, &Arc::new(segments)).await
                }
                Err(why) => Err(why.into()),
            },
        };
        let _ = tell.send(outcome);
    }
}

/// Brings what a caller has to its end: as many imports as it takes.
async fn settle(core: &Arc<Core>, segments: &Arc<Vec<Foreign>>) -> Result<(), ImportError> {
    let mut is_fresh = false;
    loop {
        core.compare().await?;
        let planned = core.work({
            let segments = segments.clone();
            move |core| core.index.read(|rows| Ok(core.plan(rows, &segments)))
        });
        let plan = match planned.await?? {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok(()),
            // What this node has folded may be old.
            Err(ImportError::Behind { .. } | ImportError::OwnBehind { .. }) if !is_fresh => {
                core.catch_up().await?;
                is_fresh = true;
                continue;
            }
            Err(why) => {
                if let ImportError::OwnBehind { seq } = why {
                    core.require(seq);
                }
                return Err(why);
            }
        };
        match attempt(core, &plan).await {
            End::Committed => folded(core, plan.number, plan.bytes).await,
            End::Lost(theirs) => folded(core, plan.number, theirs).await,
            End::Behind => {
                core.catch_up().await?;
                if core.imports()?.number < plan.number {
                    return Err(ImportError::Unavailable("this node is too far behind".into()));
                }
            }
        }
    }
}

/// Tries until there is a definite end.
pub(super) async fn attempt(core: &Arc<Core>, plan: &Plan) -> End {
    let whose = |found: &Bytes| match import::decode(found) {
        Ok(Object::Import(import)) if import.header.nonce == plan.nonce => Ok(Whose::Ours),
        Ok(Object::Import(_)) if core.planted.is(Bug::ImportRaceTakenForWon) => Ok(Whose::Ours),
        Ok(Object::Import(_)) => Ok(Whose::Theirs),
        // Ours landed long ago, and was folded and trimmed by others.
        Ok(Object::Stub(stub)) if stub.hash == segment::hash(&plan.bytes) => Ok(Whose::Ours),
        Ok(Object::Stub(_)) => Ok(Whose::Trimmed),
        Err(why) => Err(why.to_string()),
    };
    let (key, mut pause) = (Key::Import(plan.number), FIRST_PAUSE);
    loop {
        match core.create(&key, &plan.bytes, whose).await {
            Ok(end) => {
                core.metrics.import_attempt(if matches!(end, End::Committed) { "committed" } else { "lost" });
                return end;
            }
            Err(why) => tracing::debug!(%why, number = plan.number, "an import has no definite outcome; it is tried again"),
        }
        core.metrics.import_attempt("unsettled");
        sleep(core.jittered(pause)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

pub(super) async fn folded(core: &Arc<Core>, number: u64, bytes: Bytes) {
    let folded = core.fold(Pieces::import(number, bytes)).await;
    let is_there = core.imports().is_ok_and(|at| at.number >= number);
    if (folded.is_err() || !is_there)
        && let Err(why) = core.catch_up().await
    {
        tracing::warn!(%why, number, "a committed import is not folded yet");
        sleep(FIRST_PAUSE).await;
    }
}

/// An import that can be tried.
pub(super) struct Plan {
    pub number: u64,
    pub nonce: String,
    pub bytes: Bytes,
}

/// Where ledgers will be once what is planned is folded.
struct Ahead<'a> {
    rows: &'a dyn Rows,
    at: HashMap<Origin, LedgerRow>,
}

/// What an import will hold, so far.
struct Planning<'a> {
    ahead: Ahead<'a>,
    taken: Vec<&'a Foreign>,
    bytes: u64,
}

impl Ahead<'_> {
    fn at(&self, origin: &Origin) -> Result<LedgerRow, IndexError> {
        self.at.get(origin).map_or_else(|| Core::ledger_in(self.rows, origin), |at| Ok(*at))
    }
}

impl Core {
    /// The next import, of as much as fits, in an order in which causes come first; `None` when everything was folded already.
    fn plan(&self, rows: &dyn Rows, segments: &[Foreign]) -> Result<Option<Plan>, ImportError> {
        let mut planning = Planning { ahead: Ahead { rows, at: HashMap::new() }, taken: Vec::new(), bytes: 0 };
        let mut ledgers: BTreeMap<&Origin, VecDeque<&Foreign>> = BTreeMap::new();
        for foreign in segments {
            ledgers.entry(&foreign.origin).or_default().push_back(foreign);
        }
        let mut refusals = Vec::new();
        loop {
            refusals.clear();
            let before = planning.taken.len();
            for waiting in ledgers.values_mut() {
                refusals.extend(self.take_next(&mut planning, waiting, segments).err());
            }
            if planning.taken.len() == before {
                break;
            }
        }
        if !planning.taken.is_empty() {
            return self.planned(rows, &planning).map(Some);
        }
        // What is missing and not among these tells the caller more than what is.
        let is_among = |why: &ImportError| match why {
            ImportError::Behind { origin, seq } => segments.iter().any(|foreign| foreign.origin == *origin && foreign.seq == *seq),
            _ => false,
        };
        let at = refusals.iter().position(|why| !is_among(why)).unwrap_or_default();
        if refusals.is_empty() { Ok(None) } else { Err(refusals.swap_remove(at)) }
    }

    /// Takes what can come next of one ledger.
    fn take_next<'a>(
        &self,
        planning: &mut Planning<'a>,
        waiting: &mut VecDeque<&'a Foreign>,
        batch: &[Foreign],
    ) -> Result<(), ImportError> {
        while let Some(foreign) = waiting.front() {
            if let Some((segment, row)) = self.next_foreign(&planning.ahead, foreign)? {
                self.check_causes(&planning.ahead, &segment)?;
                self.check_cut(planning.ahead.rows, &segment, batch)?;
                let bytes = planning.bytes + foreign.bytes.len() as u64;
                let is_full = planning.taken.len() == MAX_SEGMENTS || bytes > MAX_SEGMENT_BYTES;
                if is_full && !planning.taken.is_empty() {
                    return Ok(());
                }
                planning.bytes = bytes;
                planning.taken.push(foreign);
                planning.ahead.at.insert(foreign.origin.clone(), row);
            }
            waiting.pop_front();
        }
        Ok(())
    }

    fn planned(&self, rows: &dyn Rows, planning: &Planning<'_>) -> Result<Plan, ImportError> {
        let imports = Core::imports_in(rows)?;
        let mut seen = fold::seen(rows, &self.origin)?.others;
        for (origin, at) in &planning.ahead.at {
            seen.raise(origin.clone(), at.seq);
        }
        let (number, nonce) = (imports.number + 1, self.nonce());
        let header = Header {
            number,
            previous: imports.hash,
            nonce: nonce.clone(),
            node: self.node.clone(),
            seen,
            adopts: None,
            least_reader: READER,
        };
        let segments: Vec<Bytes> = planning.taken.iter().map(|foreign| foreign.bytes.clone()).collect();
        let bytes = import::encode(&header, &segments).map_err(|why| ImportError::Unavailable(why.to_string()))?;
        Ok(Plan { number, nonce, bytes })
    }

    /// A segment that is the next of its ledger, and where that ledger is then; `None` for one that was folded already.
    fn next_foreign(&self, ahead: &Ahead<'_>, foreign: &Foreign) -> Result<Option<(Segment, LedgerRow)>, ImportError> {
        let Foreign { origin, seq, bytes } = foreign;
        let refused = |why: &str| ImportError::Refused { origin: origin.clone(), why: format!("segment {seq}: {why}") };
        if *origin == self.origin {
            return Err(refused("it is this region's own"));
        }
        let (at, hash) = (ahead.at(origin)?, segment::hash(bytes));
        if *seq <= at.seq {
            let is_same = *seq < at.seq || at.hash == hash;
            return if is_same { Ok(None) } else { Err(refused("there is another one with this number")) };
        }
        if *seq > at.seq + 1 && !self.planted.is(Bug::GapImported) {
            return Err(ImportError::Behind { origin: origin.clone(), seq: at.seq + 1 });
        }
        let segment = match segment::decode(bytes) {
            Ok(segment::Object::Segment(segment)) => segment,
            Ok(segment::Object::Stub(_)) => return Err(refused("it was trimmed")),
            Err(why) => return Err(refused(&why.to_string())),
        };
        let header = &segment.header;
        if header.origin != *origin || header.seq != *seq {
            return Err(refused("it says that it is another"));
        }
        let is_chained = header.previous == at.hash && header.clock > at.clock;
        if !is_chained && !self.planted.is(Bug::ForeignChainNotChecked) && !self.planted.is(Bug::GapImported) {
            return Err(refused("it does not follow the one before it"));
        }
        let row = LedgerRow { seq: *seq, hash, clock: header.clock, imports: header.imports };
        Ok(Some((segment, row)))
    }

    /// Nothing that its writer had seen is missing here.
    fn check_causes(&self, ahead: &Ahead<'_>, segment: &Segment) -> Result<(), ImportError> {
        if self.planted.is(Bug::CausesNotAwaited) {
            return Ok(());
        }
        for (origin, seq) in segment.header.seen.iter() {
            let at = ahead.at(origin)?;
            if seq <= at.seq {
                continue;
            }
            if *origin != self.origin {
                return Err(ImportError::Behind { origin: origin.clone(), seq: at.seq + 1 });
            }
            if !self.planted.is(Bug::OwnTailNotCompared) {
                return Err(ImportError::OwnBehind { seq });
            }
        }
        Ok(())
    }

    /// Of a region that was declared lost nothing counts behind the cut, unless a survivor, or the region itself in its next life, has
    /// imported it and says so here.
    fn check_cut(&self, rows: &dyn Rows, segment: &Segment, batch: &[Foreign]) -> Result<(), ImportError> {
        let (origin, seq) = (&segment.header.origin, segment.header.seq);
        // An own earlier life is this region's to go on with: what it then writes has seen it.
        if origin.region == self.origin.region {
            return Ok(());
        }
        let Some(cut) = fold::cut(rows, origin)?.filter(|cut| seq > *cut) else { return Ok(()) };
        let has_seen = |foreign: &Foreign| match segment::decode(&foreign.bytes) {
            Ok(segment::Object::Segment(other)) => other.header.seen.covers(origin, seq),
            _ => false,
        };
        if self.planted.is(Bug::CutIgnored) || batch.iter().any(has_seen) {
            return Ok(());
        }
        Err(ImportError::Refused { origin: origin.clone(), why: format!("it was declared lost behind segment {cut}") })
    }
}
