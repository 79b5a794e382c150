//! Requests to the object store by path: bounded in time, tried again where that is harmless, sorted and counted.
//!
//! The client retries by itself what a server refuses for the moment (`connect.rs` bounds that). What is added here is the answer
//! that never comes: an attempt is given up after its patience, and made once more. So every call ends within twice its patience.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, MultipartId, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::{Instant, timeout};
use ulid::Ulid;

use super::error::{BucketError, Failure, judge};
use super::local::Folder;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How often a request is made whose answer does not come in time.
const ATTEMPTS: u32 = 2;
/// Bytes a second that a request with a body is trusted to move at least, beyond the time for its answer.
const LEAST_RATE_BYTES: u64 = 256 << 10;

/// The requests, by the names that the metrics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Create,
    Put,
    Read,
    Open,
    Head,
    Begin,
    Part,
    Complete,
    Abort,
    Delete,
    List,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Put => "put",
            Verb::Read => "read",
            Verb::Open => "open",
            Verb::Head => "head",
            Verb::Begin => "begin",
            Verb::Part => "part",
            Verb::Complete => "complete",
            Verb::Abort => "abort",
            Verb::Delete => "delete",
            Verb::List => "list",
        }
    }
}

/// How content larger than one request gets in.
#[derive(Clone)]
pub(super) enum Sending {
    /// In parts that the store puts together.
    Parts(Arc<dyn MultipartStore>),
    /// Into a file of this machine.
    Files(Folder),
}

/// One object store as everything in this room speaks to it.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) sending: Sending,
    /// In front of every path; no slash at either end.
    pub(super) prefix: String,
    pub(super) request_timeout: Duration,
    pub(super) part_bytes: usize,
    pub(super) clock: Clock,
    /// For names that nobody has; a simulation gives its seed.
    pub(super) random: Arc<Mutex<fastrand::Rng>>,
    pub(super) metrics: Metrics,
    /// The region whose store it is, if it is not our own: its requests are on another bill.
    pub(super) abroad: Option<Arc<str>>,
}

impl Wire {
    /// A path below the prefix.
    pub(super) fn path(&self, below: &str) -> Path {
        // Empty parts are left out, so that an empty prefix is none.
        Path::from(format!("{}/{below}", self.prefix))
    }

    /// A name that nobody has: the time, and random bits.
    pub(super) fn fresh_ulid(&self) -> Ulid {
        let bits = self.random.lock().unwrap_or_else(PoisonError::into_inner).u128(..);
        Ulid::from_parts(self.clock.now().as_ms(), bits)
    }

    pub(super) async fn create(&self, path: &Path, bytes: &Bytes) -> Result<(), Failure> {
        self.write(Verb::Create, PutMode::Create, path, bytes.clone().into()).await
    }

    pub(super) async fn put(&self, path: &Path, payload: PutPayload) -> Result<(), BucketError> {
        self.write(Verb::Put, PutMode::Overwrite, path, payload).await.map_err(Failure::into_error)
    }

    async fn write(&self, verb: Verb, mode: PutMode, path: &Path, payload: PutPayload) -> Result<(), Failure> {
        let bytes = payload.content_length() as u64;
        let request = || self.store.put_opts(path, payload.clone(), PutOptions::from(mode.clone()));
        match self.call(verb, self.patience(bytes), request).await {
            Ok(_) => {
                self.count_bytes("sent", bytes);
                Ok(())
            }
            // A write names no object that could be absent: the bucket itself is.
            Err(Failure::Absent) => Err(Failure::Error(Failure::Absent.into_error())),
            Err(other) => Err(other),
        }
    }

    /// The whole object, if it is not larger than the limit.
    pub(super) async fn read(&self, path: &Path, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        let patience = self.patience(limit_bytes.min(self.part_bytes as u64));
        let request = || async {
            let found = self.store.get(path).await?;
            match found.meta.size {
                size if size > limit_bytes => Ok(Err(size)),
                _ => found.bytes().await.map(Ok),
            }
        };
        match self.call(Verb::Read, patience, request).await {
            Ok(Ok(bytes)) => {
                self.count_bytes("received", bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(Err(size)) => Err(BucketError::Broken(format!("{path} has {size} bytes, more than {limit_bytes}"))),
            Err(Failure::Absent) => Ok(None),
            Err(other) => Err(other.into_error()),
        }
    }

    /// The head of an object's content; `None` if it is not there.
    pub(super) async fn open(&self, path: &Path, options: GetOptions) -> Result<Option<GetResult>, BucketError> {
        let request = || self.store.get_opts(path, options.clone());
        optional(self.call(Verb::Open, self.request_timeout, request).await)
    }

    pub(super) async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, BucketError> {
        optional(self.call(Verb::Head, self.request_timeout, || self.store.head(path)).await)
    }

    pub(super) async fn delete(&self, path: &Path) -> Result<(), BucketError> {
        optional(self.call(Verb::Delete, self.request_timeout, || self.store.delete(path)).await).map(|_| ())
    }

    /// Calls `found` for each object in a folder whose path is greater than `after`, in no order.
    pub(super) async fn list(&self, folder: &Path, after: Option<&Path>, mut found: impl FnMut(ObjectMeta)) -> Result<(), BucketError> {
        let started = Instant::now();
        let mut outcome = self.is_in_place().await;
        if outcome.is_ok() {
            outcome = self.read_listing(folder, after, &mut found).await;
        }
        self.count(Verb::List, &outcome, started);
        outcome.map_err(Failure::into_error)
    }

    /// The names of the folders in a folder, in no order.
    pub(super) async fn folders(&self, folder: &Path) -> Result<Vec<String>, BucketError> {
        let request = || self.store.list_with_delimiter(Some(folder));
        let listed = optional(self.call(Verb::List, self.request_timeout, request).await)?;
        let names = listed.into_iter().flat_map(|listed| listed.common_prefixes);
        Ok(names.filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    async fn read_listing(&self, folder: &Path, after: Option<&Path>, found: &mut impl FnMut(ObjectMeta)) -> Result<(), Failure> {
        let mut listing = match after {
            Some(after) => self.store.list_with_offset(Some(folder), after),
            None => self.store.list(Some(folder)),
        };
        loop {
            match self.next(&mut listing).await {
                // Not every server keeps to what it was asked for.
                Ok(Some(object)) if after.is_some_and(|after| object.location <= *after) => {}
                Ok(Some(object)) => found(object),
                // The end, or a folder that never was.
                Ok(None) | Err(Failure::Absent) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    pub(super) async fn begin(&self, parts: &dyn MultipartStore, path: &Path) -> Result<MultipartId, BucketError> {
        self.call(Verb::Begin, self.request_timeout, || parts.create_multipart(path)).await.map_err(Failure::into_error)
    }

    pub(super) async fn part(
        &self,
        parts: &dyn MultipartStore,
        path: &Path,
        id: &MultipartId,
        index: usize,
        payload: PutPayload,
    ) -> Result<PartId, BucketError> {
        let bytes = payload.content_length() as u64;
        let request = || parts.put_part(path, id, index, payload.clone());
        let part = self.call(Verb::Part, self.patience(bytes), request).await.map_err(Failure::into_error)?;
        self.count_bytes("sent", bytes);
        Ok(part)
    }

    pub(super) async fn complete(
        &self,
        parts: &dyn MultipartStore,
        path: &Path,
        id: &MultipartId,
        sent: &[PartId],
    ) -> Result<(), BucketError> {
        let request = || parts.complete_multipart(path, id, sent.to_vec());
        self.call(Verb::Complete, self.patience_of_completion(), request).await.map(|_| ()).map_err(Failure::into_error)
    }

    pub(super) async fn abort(&self, parts: &dyn MultipartStore, path: &Path, id: &MultipartId) -> Result<(), BucketError> {
        optional(self.call(Verb::Abort, self.request_timeout, || parts.abort_multipart(path, id)).await).map(|_| ())
    }

    /// The next of a stream, which must not stall.
    pub(super) async fn next<T>(&self, stream: &mut BoxStream<'static, object_store::Result<T>>) -> Result<Option<T>, Failure> {
        match timeout(self.request_timeout, stream.next()).await {
            Ok(next) => next.transpose().map_err(|error| judge(&error)),
            Err(_) => Err(Failure::Error(no_answer(self.request_timeout))),
        }
    }

    async fn call<T, F>(&self, verb: Verb, patience: Duration, request: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let started = Instant::now();
        let outcome = match self.is_in_place().await {
            Ok(()) => attempt(patience, request).await,
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            // There was no such object, or no such folder any more.
            Err(Failure::Absent) => Err(self.is_in_place().await.err().unwrap_or(Failure::Absent)),
            other => other,
        };
        self.count(verb, &outcome, started);
        outcome
    }

    async fn is_in_place(&self) -> Result<(), Failure> {
        match &self.sending {
            Sending::Parts(_) => Ok(()),
            Sending::Files(folder) => folder.is_in_place().await.map_err(Failure::Error),
        }
    }

    /// Counts what did not go through the client.
    pub(super) fn record<T>(&self, verb: Verb, outcome: &Result<T, BucketError>, started: Instant) {
        let word = outcome.as_ref().map_or_else(BucketError::outcome, |_| "done");
        self.count_request(verb, word, started);
    }

    fn count<T>(&self, verb: Verb, outcome: &Result<T, Failure>, started: Instant) {
        let word = outcome.as_ref().map_or_else(Failure::outcome, |_| "done");
        self.count_request(verb, word, started);
    }

    fn count_request(&self, verb: Verb, outcome: &'static str, started: Instant) {
        match &self.abroad {
            None => self.metrics.bucket_request(verb.as_str(), outcome, started.elapsed()),
            Some(region) => self.metrics.peer_bucket_request(region, verb.as_str(), outcome),
        }
    }

    pub(super) fn count_bytes(&self, direction: &'static str, bytes: u64) {
        match &self.abroad {
            None => self.metrics.bucket_bytes(direction, bytes),
            Some(region) => self.metrics.peer_bucket_bytes(region, bytes),
        }
    }

    /// How long one attempt may take that moves so many bytes.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        self.request_timeout + Duration::from_secs(bytes / LEAST_RATE_BYTES)
    }

    /// A store that puts thousands of parts together needs longer than for other answers.
    fn patience_of_completion(&self) -> Duration {
        self.request_timeout * 4
    }
}

async fn attempt<T, F: Future<Output = object_store::Result<T>>>(patience: Duration, request: impl Fn() -> F) -> Result<T, Failure> {
    for _ in 0..ATTEMPTS {
        if let Ok(answer) = timeout(patience, request()).await {
            return answer.map_err(|error| judge(&error));
        }
    }
    Err(Failure::Error(no_answer(patience)))
}

pub(super) fn no_answer(patience: Duration) -> BucketError {
    BucketError::unavailable(format!("no answer within {} ms", patience.as_millis()))
}

fn optional<T>(outcome: Result<T, Failure>) -> Result<Option<T>, BucketError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Absent) => Ok(None),
        Err(other) => Err(other.into_error()),
    }
}
