//! One session: its bytes so far, and their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, OwnedMutexGuard};
use ulid::Ulid;

use super::{Inner, Owner, UploadError, gather};
use crate::bucket::{Bucket, BucketError, Key, ObjectUpload};
use crate::clock::Timestamp;
use crate::inflow::Inflow;
use crate::ledger::{Content, INLINE_BYTES, Origin, Place};
use crate::oci::{Algorithm, Digest, Digester};
use crate::store::{Draft, GivenUp, Keeping};

/// A request that writes holds this.
pub(super) type Work = OwnedMutexGuard<Stage>;

#[derive(Debug)]
pub(super) struct Session {
    owner: Owner,
    algorithm: Algorithm,
    /// What can be gone on from.
    received_bytes: AtomicU64,
    /// Milliseconds since the epoch.
    used_at: AtomicU64,
    stage: Arc<Mutex<Stage>>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Stage {
    /// So few that the ledger can carry them.
    Small(BytesMut),
    Large(Box<Large>),
    /// A write failed: there is nothing to go on from.
    Broken,
    /// Another request has finished it, or tried to.
    Ended,
}

#[derive(Debug)]
pub(super) struct Large {
    key: Ulid,
    object: ObjectUpload,
    draft: Draft,
}

/// A blob that is complete and verified, and that no event names yet. Dropping it leaves its bytes in the bucket to the sweep.
#[derive(Debug)]
pub struct Uploaded {
    pub digest: Digest,
    pub size_bytes: u64,
    /// For the ledger's `blob` event.
    pub content: Content,
    /// This node's copy, if there is to be one.
    draft: Option<Draft>,
}

impl Session {
    pub fn new(owner: Owner, algorithm: Algorithm, now: Timestamp) -> Session {
        Session {
            owner,
            algorithm,
            received_bytes: AtomicU64::new(0),
            used_at: AtomicU64::new(now.as_ms()),
            stage: Arc::new(Mutex::new(Stage::Small(BytesMut::new()))),
        }
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Acquire)
    }

    pub fn touch(&self, now: Timestamp) {
        self.used_at.store(now.as_ms(), Ordering::Release);
    }

    /// Nobody used it for so long, and nobody does now.
    pub fn is_expired(&self, now: Timestamp, ttl: Duration) -> bool {
        now.since(Timestamp::from_ms(self.used_at.load(Ordering::Acquire))) >= ttl && self.stage.try_lock().is_ok()
    }

    /// One request at a time.
    pub fn lock(&self) -> Result<Work, UploadError> {
        let busy = |_| UploadError::OutOfOrder { received_bytes: self.received_bytes() };
        self.stage.clone().try_lock_owned().map_err(busy)
    }
}

/// Takes a body in to its end. The next batch is gathered while the last one is written.
pub(super) async fn pour(inner: Arc<Inner>, session: Arc<Session>, work: Work, inflow: &mut Inflow) -> Result<(), UploadError> {
    let (mut idle, mut writing) = (Some(work), None);
    loop {
        let (batch, ended) = gather(inflow).await;
        if let Some(written) = writing.take() {
            idle = Some(settle(written).await?);
        }
        if let Some(work) = idle.take_if(|_| !batch.is_empty()) {
            session.touch(inner.clock.now());
            writing = Some(tokio::spawn(write(inner.clone(), session.clone(), work, batch)));
        }
        if let Some(ended) = ended {
            if let Some(written) = writing {
                settle(written).await?;
            }
            return Ok(ended?);
        }
    }
}

type Written = (Work, Result<(), UploadError>);

async fn settle(written: tokio::task::JoinHandle<Written>) -> Result<Work, UploadError> {
    let (work, outcome) = written.await.map_err(|_| UploadError::unavailable("the process is ending"))?;
    outcome.map(|()| work)
}

async fn write(inner: Arc<Inner>, session: Arc<Session>, mut work: Work, batch: Vec<Bytes>) -> Written {
    let count: u64 = batch.iter().map(|block| block.len() as u64).sum();
    let outcome = work.take(&inner, session.algorithm, batch).await;
    match &outcome {
        Ok(()) => {
            session.received_bytes.fetch_add(count, Ordering::AcqRel);
        }
        // What of the batch landed is not known.
        Err(_) => *work = Stage::Broken,
    }
    (work, outcome)
}

impl Stage {
    async fn take(&mut self, inner: &Inner, algorithm: Algorithm, batch: Vec<Bytes>) -> Result<(), UploadError> {
        let count: usize = batch.iter().map(Bytes::len).sum();
        if let Stage::Small(bytes) = self {
            if bytes.len() + count <= INLINE_BYTES {
                batch.iter().for_each(|block| bytes.extend_from_slice(block));
                return Ok(());
            }
            let first = std::mem::take(bytes).freeze();
            let mut large = Large::begin(inner, algorithm).await?;
            large.write(vec![first]).await?;
            *self = Stage::Large(Box::new(large));
        }
        match self {
            Stage::Large(large) => large.write(batch).await,
            Stage::Ended => Err(UploadError::Unknown),
            Stage::Small(_) | Stage::Broken => Err(UploadError::unavailable("an earlier write of this session failed")),
        }
    }
}

impl Large {
    async fn begin(inner: &Inner, algorithm: Algorithm) -> Result<Large, UploadError> {
        let bucket = &inner.region.get()?.bucket;
        let key = bucket.fresh_ulid();
        let object = bucket.upload(&Key::Blob(key)).await?;
        // A local bucket's own file is what will be served.
        let keeping = if bucket.local_file(&Key::Blob(key)).is_some() { Keeping::HashOnly } else { Keeping::Copy };
        Ok(Large { key, object, draft: inner.store.draft(algorithm, keeping) })
    }

    /// Hashes and writes at the same time.
    async fn write(&mut self, blocks: Vec<Bytes>) -> Result<(), UploadError> {
        let Large { object, draft, .. } = self;
        let to_bucket = async {
            for block in blocks.clone() {
                object.write(block).await?;
            }
            Ok::<_, UploadError>(())
        };
        let (sent, hashed) = tokio::join!(to_bucket, draft.write(blocks.clone()));
        sent?;
        Ok(hashed?)
    }
}

/// Ends a session: checks the digest and makes the bytes durable.
pub(super) async fn complete(inner: &Inner, session: &Session, work: &mut Work, digest: Digest) -> Result<Uploaded, UploadError> {
    let size_bytes = session.received_bytes();
    match std::mem::replace(&mut **work, Stage::Ended) {
        Stage::Ended => Err(UploadError::Unknown),
        Stage::Broken => Err(UploadError::unavailable("an earlier write of this session failed")),
        Stage::Small(bytes) => {
            let found = Digest::of(digest.algorithm(), &bytes);
            if found != digest {
                return Err(UploadError::Mismatch { found });
            }
            Ok(Uploaded { digest, size_bytes, content: Content::Inline(bytes.freeze()), draft: None })
        }
        Stage::Large(large) => {
            let Large { key, object, draft } = *large;
            let bucket = &inner.region.get()?.bucket;
            let found = draft.digest()?;
            if digest.algorithm() == session.algorithm && found != digest {
                object.abort().await;
                return Err(UploadError::Mismatch { found });
            }
            object.finish().await?;
            let uploaded = Uploaded { digest, size_bytes, content: Content::Key(place(bucket, key)), draft: Some(draft) };
            if digest.algorithm() == session.algorithm {
                return Ok(uploaded);
            }
            // Named by an algorithm that the client had not announced: read once more.
            let found = digest_of(bucket, key, size_bytes, digest.algorithm()).await?;
            if found == digest {
                return Ok(Uploaded { draft: None, ..uploaded });
            }
            uploaded.discard(bucket).await;
            Err(UploadError::Mismatch { found })
        }
    }
}

async fn digest_of(bucket: &Bucket, key: Ulid, size_bytes: u64, algorithm: Algorithm) -> Result<Digest, UploadError> {
    let gone = || UploadError::unavailable("what was uploaded is gone");
    let mut object = bucket.open_object(&Key::Blob(key), 0..size_bytes).await?.ok_or_else(gone)?;
    let mut digester = Digester::new(algorithm);
    while let Some(bytes) = object.next().await? {
        let hashing = tokio::task::spawn_blocking(move || {
            digester.update(&bytes);
            digester
        });
        digester = hashing.await.map_err(|_| UploadError::unavailable("the process is ending"))?;
    }
    Ok(digester.finish())
}

fn place(bucket: &Bucket, key: Ulid) -> Place {
    Place { origin: Origin::of(bucket), key }
}

impl Uploaded {
    /// The ledger has named it: this node keeps what it has at hand of it.
    pub async fn keep(self, bucket: &Bucket, store: &crate::store::Store) {
        match (&self.content, self.draft) {
            (Content::Inline(_), _) => {}
            (Content::Key(place), draft) => match bucket.local_file(&Key::Blob(place.key)) {
                Some(path) => store.adopt(&self.digest, path).await,
                None => {
                    if let Some(draft) = draft {
                        draft.keep().await;
                    }
                }
            },
        }
    }

    /// It is not needed: the region has these bytes already, or they are wrong. No event may have named it.
    pub async fn discard(self, bucket: &Bucket) {
        if let Content::Key(place) = &self.content
            && let Err(error) = bucket.delete(&Key::Blob(place.key)).await
        {
            tracing::debug!(%error, key = %place.key, "left to the sweep");
        }
    }
}

impl From<BucketError> for UploadError {
    fn from(error: BucketError) -> UploadError {
        UploadError::Unavailable { why: error.to_string(), retry_after: error.retry_after() }
    }
}

impl From<GivenUp> for UploadError {
    fn from(error: GivenUp) -> UploadError {
        UploadError::unavailable(error)
    }
}
