//! Appending: any node, no leader. One attempt at a time in a node; who comes meanwhile goes together with the next one.
//!
//! An attempt at a number ends only with a definite outcome: our segment stands there, or another's does. Until then the same bytes
//! are tried at the same number again, whatever callers do: a write whose answer was lost may land hours later. A caller that does not
//! wait for the end is told "unavailable", which leaves open what became of its events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::LedgerError;
use super::check::Rejected;
use super::core::{Core, End, Pieces, Whose};
use super::draft::{Draft, Verdict};
use super::event::{Content, Event};
use super::identity::Position;
use super::planted::Bug;
use super::segment::{self, Object};
use crate::bucket::Key;

/// Callers that wait, at most, and the bytes of their events together.
const QUEUE_CALLERS: usize = 1_024;
const QUEUE_BYTES: usize = 64 << 20;
/// Callers of one segment, at most.
const BATCH_CALLERS: usize = 512;
/// How long a caller waits for its outcome; and how long, while the bucket is known to give none.
const DEADLINE: Duration = Duration::from_secs(10);
const DEADLINE_IN_OUTAGE: Duration = Duration::from_secs(1);
/// Between two tries at one number.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(20);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(5);
/// When a caller that was told "unavailable" should come again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why events were not appended, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended, and with this state nothing will be.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// They may have been appended, or may still be.
    #[error("the ledger is unavailable: {why}")]
    Unavailable { why: String, retry_after: Duration },
}

impl AppendError {
    fn unavailable(why: impl std::fmt::Display) -> AppendError {
        AppendError::Unavailable { why: why.to_string(), retry_after: RETRY_AFTER }
    }
}

type Outcome = Result<Position, AppendError>;

/// A caller that waits.
struct Request {
    events: Arc<Vec<Event>>,
    tell: oneshot::Sender<Outcome>,
    /// Its share of the queue's bytes.
    _room: OwnedSemaphorePermit,
}

pub(super) struct Appender {
    queue: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    /// The last try had no definite outcome.
    in_outage: Arc<AtomicBool>,
    core: Arc<Core>,
    task: AbortHandle,
}

impl Appender {
    pub fn start(core: Arc<Core>) -> Appender {
        let (queue, requests) = mpsc::channel(QUEUE_CALLERS);
        let in_outage = Arc::new(AtomicBool::new(false));
        let writer = Writer { core: core.clone(), in_outage: in_outage.clone() };
        let task = core.spawn(writer.run(requests));
        Appender { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)), in_outage, core, task }
    }

    pub async fn append(&self, events: Vec<Event>) -> Outcome {
        let started = Instant::now();
        let outcome = self.queued(events).await;
        let word = match &outcome {
            Ok(_) => "committed",
            Err(AppendError::Rejected(_)) => "rejected",
            Err(AppendError::Unavailable { .. }) => "unavailable",
        };
        self.core.metrics.ledger_append(word, started.elapsed());
        outcome
    }

    async fn queued(&self, events: Vec<Event>) -> Outcome {
        let bytes: usize = events.iter().map(weight_bytes).sum();
        let weight = u32::try_from(bytes.min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let full = |_| AppendError::unavailable("too many wait already");
        let room = self.room.clone().try_acquire_many_owned(weight).map_err(full)?;
        let (tell, outcome) = oneshot::channel();
        let request = Request { events: Arc::new(events), tell, _room: room };
        self.queue.try_send(request).map_err(|_| AppendError::unavailable("too many wait already"))?;
        let deadline = if self.in_outage.load(Ordering::Relaxed) { DEADLINE_IN_OUTAGE } else { DEADLINE };
        match timeout(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AppendError::unavailable("the node is ending")),
            Err(_) => Err(AppendError::unavailable("the bucket does not answer in time")),
        }
    }

    /// Ends the attempt that is under way, as a crash would.
    pub fn stop(&self) {
        self.task.abort();
    }
}

/// About as many bytes as an event has in memory and as a line.
fn weight_bytes(event: &Event) -> usize {
    const PLAIN: usize = 512;
    match event {
        Event::Blob { content: Content::Inline(bytes), .. } => PLAIN + 2 * bytes.len(),
        Event::Manifest(manifest) => match &manifest.content {
            Content::Inline(bytes) => PLAIN + 3 * bytes.len(),
            Content::Key(_) => PLAIN + 128 * (manifest.facts.blobs.len() + manifest.facts.manifests.len()),
        },
        _ => PLAIN,
    }
}

/// The node's one writer.
struct Writer {
    core: Arc<Core>,
    in_outage: Arc<AtomicBool>,
}

impl Writer {
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting: Vec<Request> = Vec::new();
        loop {
            if waiting.is_empty() {
                let Some(request) = requests.recv().await else { return };
                waiting.push(request);
            }
            while waiting.len() < BATCH_CALLERS
                && let Ok(request) = requests.try_recv()
            {
                waiting.push(request);
            }
            waiting = self.settle(waiting).await;
        }
    }

    /// Brings a batch to its end; those for whom there was no room come back.
    async fn settle(&self, mut batch: Vec<Request>) -> Vec<Request> {
        let mut lost_races = 0;
        loop {
            // Nobody waits for them any more, and they are in no attempt.
            batch.retain(|request| !request.tell.is_closed());
            if batch.is_empty() {
                return batch;
            }
            match self.fenced().await {
                Ok(None) => {}
                Ok(Some(why)) => return refuse(batch, &why),
                Err(why) => return refuse(batch, &why),
            }
            let mut draft = match self.draft(&batch, lost_races).await {
                Ok(draft) => draft,
                Err(why) => return refuse(batch, &why),
            };
            if !draft.verdicts.contains(&Verdict::Accepted) && !self.core.planted.is(Bug::RejectedOnOldState) {
                // A rejection needs the true tail, which otherwise the commit proves.
                match self.core.catch_up().await {
                    Ok(()) if self.core.position().is_ok_and(|at| at.seq + 1 == draft.seq) => {}
                    Ok(()) => continue,
                    Err(why) => return refuse(batch, &why),
                }
            } else if draft.verdicts.contains(&Verdict::Accepted) {
                match self.attempt(&mut draft, &batch).await {
                    End::Committed => self.folded(draft.seq, &draft.bytes).await,
                    End::Lost(theirs) => {
                        self.folded(draft.seq, &theirs).await;
                        lost_races += 1;
                        continue;
                    }
                    End::Behind if self.core.planted.is(Bug::ErrorTakenForFailure) => {
                        draft.verdicts.fill(Verdict::Rejected(Rejected::Kind));
                    }
                    // None of these events stand anywhere: a stub of ours would have told. What does is in a snapshot.
                    End::Behind => match self.core.catch_up().await {
                        Ok(()) if self.core.position().is_ok_and(|at| at.seq >= draft.seq) => continue,
                        Ok(()) => return refuse(batch, &"this node is too far behind"),
                        Err(why) => return refuse(batch, &why),
                    },
                }
            }
            return self.answer(&draft, batch);
        }
    }

    /// Why this region takes nothing, after another look if it seems so.
    async fn fenced(&self) -> Result<Option<String>, LedgerError> {
        self.core.compare().await?;
        if self.core.fenced()?.is_none() {
            return Ok(None);
        }
        self.core.catch_up().await?;
        Ok(self.core.fenced()?)
    }

    async fn draft(&self, batch: &[Request], lost_races: u32) -> Result<Draft, LedgerError> {
        self.core.compare().await?;
        if self.core.is_loading() {
            return Err(LedgerError::Unavailable("the index is being loaded from a snapshot".into()));
        }
        let callers: Vec<_> = batch.iter().map(|request| request.events.clone()).collect();
        Ok(self.core.work(move |core| core.draft(&callers, lost_races)).await??)
    }

    /// Folds what stands at a number now. A failure does not undo a commit: the next look finds the segment.
    async fn folded(&self, seq: u64, bytes: &Bytes) {
        let folded = self.core.fold(Pieces::segment(seq, bytes.clone())).await;
        let is_there = self.core.position().is_ok_and(|at| at.seq >= seq);
        if (folded.is_err() || !is_there)
            && let Err(why) = self.core.catch_up().await
        {
            tracing::warn!(%why, seq, "a committed segment is not folded yet");
            // Not in a tight circle with the index's disk, or with a segment that cannot be read.
            sleep(FIRST_PAUSE).await;
        }
    }

    fn answer(&self, draft: &Draft, batch: Vec<Request>) -> Vec<Request> {
        let position = Position { origin: self.core.origin.clone(), seq: draft.seq };
        let mut deferred = Vec::new();
        for (request, verdict) in batch.into_iter().zip(&draft.verdicts) {
            // Whoever does not wait any more is not told.
            let _ = match verdict {
                Verdict::Accepted => request.tell.send(Ok(position.clone())),
                Verdict::Rejected(why) => request.tell.send(Err(why.clone().into())),
                Verdict::Deferred => {
                    deferred.push(request);
                    continue;
                }
            };
        }
        deferred
    }

    /// Tries the draft until it has a definite end.
    async fn attempt(&self, draft: &mut Draft, batch: &[Request]) -> End {
        let key = Key::Ledger(draft.seq);
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.core.create(&key, &draft.bytes, |found| self.whose(found, draft)).await {
                Ok(End::Committed) => return self.ended("committed", End::Committed),
                Ok(End::Behind) if self.core.planted.is(Bug::ErrorTakenForFailure) => return End::Behind,
                Ok(end) => return self.ended("lost", end),
                Err(why) => why,
            };
            self.core.metrics.ledger_attempt("unsettled");
            if !self.in_outage.swap(true, Ordering::Relaxed) {
                tracing::warn!(%why, seq = draft.seq, "an append has no definite outcome; it is tried again");
            }
            sleep(self.core.jittered(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
            if self.core.planted.is(Bug::NumberReusedWithOtherBytes)
                && let Ok(other) = self.draft(batch, 0).await
                && other.seq == draft.seq
            {
                *draft = other;
            }
        }
    }

    fn ended(&self, word: &'static str, end: End) -> End {
        self.in_outage.store(false, Ordering::Relaxed);
        self.core.metrics.ledger_attempt(word);
        end
    }

    /// Something stands at the number: whose it is, if that can be told.
    fn whose(&self, found: &Bytes, draft: &Draft) -> Result<Whose, String> {
        match segment::decode(found) {
            Ok(Object::Segment(segment)) if segment.header.nonce == draft.nonce => Ok(Whose::Ours),
            Ok(Object::Segment(segment)) if self.is_namesake(&segment.header.node) => Ok(Whose::Ours),
            Ok(Object::Segment(_)) => Ok(Whose::Theirs),
            // Ours landed long ago, and was folded and trimmed by others.
            Ok(Object::Stub(stub)) if stub.hash == segment::hash(&draft.bytes) => Ok(Whose::Ours),
            Ok(Object::Stub(_)) => Ok(Whose::Trimmed),
            Err(why) => Err(why.to_string()),
        }
    }

    fn is_namesake(&self, node: &str) -> bool {
        self.core.planted.is(Bug::NonceNotChecked) && node == self.core.node
    }
}

/// Nobody's events are in an attempt: all are told.
fn refuse(batch: Vec<Request>, why: &impl std::fmt::Display) -> Vec<Request> {
    for request in batch {
        let _ = request.tell.send(Err(AppendError::unavailable(why)));
    }
    Vec::new()
}
