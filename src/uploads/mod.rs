//! Uploads: sessions of this node in which a blob arrives, in one piece or many, until its digest is named.
//!
//! A session belongs to the node that began it, to one caller and to one repository; for anybody else it does not exist. Bytes are
//! hashed while they come and stream to the bucket, and to this node's disk unless the bucket lies there, at once. What fits the
//! ledger stays in memory. A finished upload is [`Uploaded`]: durable, and known to nobody until the ledger names it.
//!
//! # Invariants
//! 1. Writing happens in tasks of its own, a batch at a time: a request that is dropped in its midst leaves a session whole, and
//!    `received_bytes` tells what can be gone on from.
//! 2. One request at a time writes to a session; a second one is told where the first had begun.
//! 3. What a session holds is bounded: two batches and the parts that the bucket's upload has in flight.
//! 4. Bytes in the bucket that no session and no event names are abandoned in the ledger first, then deleted (`sweep`).

mod session;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ulid::Ulid;

use session::Session;
pub use session::Uploaded;

use crate::access::Principal;
use crate::clock::Clock;
use crate::inflow::{Inflow, InflowError};
use crate::metrics::Metrics;
use crate::oci::{Algorithm, Chunk, Digest, RepositoryName, SessionId};
use crate::region::{NotOpen, Region};
use crate::store::Store;

/// Bytes that are hashed and written at a time.
const BATCH_BYTES: usize = 1 << 20;
/// When to come back if too many sessions are open.
const CROWDED: Duration = Duration::from_secs(10);

/// The bounds of uploads.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_blob_bytes: u64,
    pub most_sessions: usize,
    /// A session that nobody uses for so long is gone.
    pub ttl: Duration,
}

/// Why an upload does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    #[error("no such upload session")]
    Unknown,
    #[error("the chunk does not follow the {received_bytes} bytes that are here")]
    OutOfOrder { received_bytes: u64 },
    #[error("the body has not the length that was announced")]
    Length,
    #[error("a blob has at most {most_bytes} bytes")]
    TooLarge { most_bytes: u64 },
    #[error("too many upload sessions are open")]
    TooMany { retry_after: Duration },
    #[error(transparent)]
    Inflow(#[from] InflowError),
    #[error("the content's digest is {found}")]
    Mismatch { found: Digest },
    #[error("{why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
}

impl UploadError {
    fn unavailable(why: impl std::fmt::Display) -> UploadError {
        UploadError::Unavailable { why: why.to_string(), retry_after: None }
    }
}

impl From<NotOpen> for UploadError {
    fn from(error: NotOpen) -> UploadError {
        UploadError::unavailable(error)
    }
}

/// Whose session, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub principal: Principal,
    pub repository: RepositoryName,
}

/// Where a chunk's location said that the session is, for clients whose chunks do not say it themselves.
pub type Offset = Option<u64>;

/// The uploads of one node. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    region: Region,
    store: Store,
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Uploads {
    /// Sessions expire, and abandoned keys are swept, for as long as a clone exists.
    pub fn start(region: Region, store: Store, settings: Settings, clock: Clock, metrics: Metrics) -> Uploads {
        let uploads = Uploads(Arc::new(Inner { region, store, settings, clock, metrics, sessions: Mutex::default() }));
        tokio::spawn(sweep::expire(Arc::downgrade(&uploads.0)));
        tokio::spawn(sweep::sweep(Arc::downgrade(&uploads.0)));
        uploads
    }

    /// Begins a session for content whose digest will probably be of this algorithm.
    pub fn begin(&self, owner: Owner, algorithm: Algorithm) -> Result<SessionId, UploadError> {
        // Without its bucket no byte could be kept: told before the client sends any.
        self.0.region.get()?;
        let id: SessionId = Ulid::generate().to_string().parse().map_err(|_| UploadError::Unknown)?;
        let session = Arc::new(Session::new(owner, algorithm, self.0.clock.now()));
        self.0.expire();
        let mut sessions = self.0.sessions();
        if sessions.len() >= self.0.settings.most_sessions {
            return Err(UploadError::TooMany { retry_after: CROWDED });
        }
        sessions.insert(id.clone(), session);
        self.0.metrics.uploads_open.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        Ok(id)
    }

    /// How many bytes of a session are here.
    pub fn received_bytes(&self, owner: &Owner, id: &SessionId) -> Result<u64, UploadError> {
        Ok(self.session(owner, id)?.received_bytes())
    }

    /// Takes in a chunk and tells how many bytes are here then. What came of one that breaks is kept.
    pub async fn append(&self, owner: &Owner, id: &SessionId, part: (Chunk, Offset), inflow: &mut Inflow) -> Result<u64, UploadError> {
        let session = self.session(owner, id)?;
        let work = session.lock()?;
        let outcome = self.take_in(&session, work, part, inflow).await;
        self.after_writing(&session, id, &outcome);
        outcome.map(|()| session.received_bytes())
    }

    /// Takes in the last chunk, or none, and checks the whole.
    pub async fn finish(
        &self,
        owner: &Owner,
        id: &SessionId,
        part: (Chunk, Offset),
        digest: &Digest,
        inflow: &mut Inflow,
    ) -> Result<Uploaded, UploadError> {
        let session = self.session(owner, id)?;
        let work = session.lock()?;
        let taken_in = self.take_in(&session, work, part, inflow).await;
        self.after_writing(&session, id, &taken_in);
        taken_in?;
        let mut work = session.lock()?;
        let (inner, id, digest) = (self.0.clone(), id.clone(), *digest);
        // The session ends with its work, also when nobody waits for it any more: a client whose answer was lost finds none.
        let ended = tokio::spawn(async move {
            let outcome = session::complete(&inner, &session, &mut work, digest).await;
            inner.end(&id, if outcome.is_ok() { "complete" } else { "failed" });
            outcome
        });
        ended.await.unwrap_or_else(|_| Err(UploadError::unavailable("the process is ending")))
    }

    /// Takes in a blob that is at hand or comes in one body, without a session that others could see.
    pub async fn whole(&self, owner: Owner, digest: &Digest, inflow: &mut Inflow) -> Result<Uploaded, UploadError> {
        let id = self.begin(owner.clone(), digest.algorithm())?;
        // A request that is dropped leaves a session that expires.
        let outcome = self.finish(&owner, &id, (Chunk::default(), None), digest, inflow).await;
        if outcome.is_err() {
            self.0.end(&id, "failed");
        }
        outcome
    }

    pub fn cancel(&self, owner: &Owner, id: &SessionId) -> Result<(), UploadError> {
        self.session(owner, id)?;
        self.0.end(id, "cancelled");
        Ok(())
    }

    /// A session that is somebody else's or another repository's is none.
    fn session(&self, owner: &Owner, id: &SessionId) -> Result<Arc<Session>, UploadError> {
        let session = self.0.sessions().get(id).cloned();
        let now = self.0.clock.now();
        session.filter(|session| *session.owner() == *owner && !session.is_expired(now, self.0.settings.ttl)).ok_or(UploadError::Unknown)
    }

    /// What the bucket lost has nothing to go on from; any other session stands.
    fn after_writing(&self, session: &Session, id: &SessionId, outcome: &Result<(), UploadError>) {
        match outcome {
            Err(UploadError::Unavailable { .. }) => self.0.end(id, "failed"),
            _ => session.touch(self.0.clock.now()),
        }
    }

    async fn take_in(
        &self,
        session: &Arc<Session>,
        work: session::Work,
        (chunk, offset): (Chunk, Offset),
        inflow: &mut Inflow,
    ) -> Result<(), UploadError> {
        let received_bytes = session.received_bytes();
        // Where nothing comes, an older location is as good.
        let offset = offset.filter(|_| inflow.declared_bytes() != Some(0));
        if chunk.first.or(offset).is_some_and(|first| first != received_bytes) {
            return Err(UploadError::OutOfOrder { received_bytes });
        }
        let most_bytes = self.0.settings.max_blob_bytes;
        let room = most_bytes.saturating_sub(received_bytes);
        let declared = chunk.size_bytes.or(inflow.declared_bytes());
        if declared.is_some_and(|declared| declared > room) {
            return Err(UploadError::TooLarge { most_bytes });
        }
        inflow.limit(declared.unwrap_or(room));
        match session::pour(self.0.clone(), session.clone(), work, inflow).await {
            Err(UploadError::Inflow(InflowError::TooLong { .. })) if declared.is_some() => Err(UploadError::Length),
            Err(UploadError::Inflow(InflowError::TooLong { .. })) => Err(UploadError::TooLarge { most_bytes }),
            Ok(()) if declared.is_some_and(|declared| session.received_bytes() - received_bytes != declared) => Err(UploadError::Length),
            outcome => outcome,
        }
    }
}

impl Inner {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dropping a session gives up what it has in the bucket and on the disk.
    fn end(&self, id: &SessionId, outcome: &'static str) {
        let mut sessions = self.sessions();
        if sessions.remove(id).is_some() {
            self.metrics.upload_ended(outcome);
            self.metrics.uploads_open.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        }
    }

    /// Ends the sessions that nobody uses any more.
    fn expire(&self) {
        let now = self.clock.now();
        let gone: Vec<SessionId> =
            self.sessions().iter().filter(|(_, session)| session.is_expired(now, self.settings.ttl)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.end(&id, "expired");
        }
    }
}

/// Gathers what has come, up to a batch; and how the body ended, if it did.
async fn gather(inflow: &mut Inflow) -> (Vec<Bytes>, Option<Result<(), InflowError>>) {
    let (mut blocks, mut gathered) = (Vec::new(), 0);
    while gathered < BATCH_BYTES {
        match inflow.next().await {
            Ok(Some(block)) => {
                gathered += block.len();
                blocks.push(block);
            }
            Ok(None) => return (blocks, Some(Ok(()))),
            Err(error) => return (blocks, Some(Err(error))),
        }
    }
    (blocks, None)
}
