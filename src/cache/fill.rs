//! The transfer of a blob from its upstream: one at a time, followed by all who want it, owned by none of them.

use std::sync::Arc;
use std::time::Duration;

use super::blobs::blob_key;
use super::flight::{Early, Flights};
use super::records::{HeldRecord, Key, Kind, LinkRecord};
use super::{Cache, CacheError, Origin};
use crate::metrics::Metrics;
use crate::oci::{Digest, RepositoryName};
use crate::store::{Content, Ingest, IngestError};
use crate::upstream::{BlobTransfer, UpstreamError};

/// Breaks without a single byte in between, after which a transfer is given up.
const MAX_FRUITLESS_BREAKS: u32 = 4;
/// Breaks in all, after which a transfer is given up.
const MAX_BREAKS: u32 = 100;
/// The wait after the first break in a row; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often a caller waits for a transfer that turns out to be another repository's and to fail.
const MAX_TURNS: usize = 4;

/// What came of a transfer, and through which repository the upstream was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    through: RepositoryName,
    content: Result<Content, CacheError>,
}

/// How a transfer ended, other than well.
#[derive(Debug)]
enum Failure {
    /// The upstream's last word.
    Upstream(UpstreamError),
    /// The bytes were wrong, or nobody was there to take them.
    Ingest(IngestError),
}

/// A transfer that is counted while it exists.
struct InFlight(Metrics);

impl InFlight {
    fn new(metrics: &Metrics) -> InFlight {
        metrics.fills_in_flight.inc();
        InFlight(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fills_in_flight.dec();
    }
}

impl Cache {
    /// Joins the transfer of a blob, or starts it. Returns when the upstream's answer has begun.
    ///
    /// A transfer is asked for through one repository. Who joins it for another one needs the upstream's yes for that one, and does
    /// not take the no that was for the other.
    pub(super) async fn transfer(&self, origin: &Origin, digest: &Digest) -> Result<Content, CacheError> {
        for _ in 0..MAX_TURNS {
            let asked = self.join_transfer(origin, digest).await?;
            if asked.through == origin.repository {
                return asked.content;
            }
            match asked.content {
                Ok(content) => {
                    if self.record::<LinkRecord>(&blob_key(origin, digest)).await.is_none() {
                        self.confirm(origin, Kind::Blob, digest).await?;
                    }
                    return Ok(content);
                }
                Err(CacheError::Absent | CacheError::WrongAnswer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let why = "transfers through other repositories are in the way".to_owned();
        Err(CacheError::Unavailable { why, retry_after: None })
    }

    async fn join_transfer(&self, origin: &Origin, digest: &Digest) -> Result<Asked, CacheError> {
        let (cache, origin, digest) = (self.clone(), origin.clone(), *digest);
        let key = (origin.upstream.name().clone(), digest);
        let under_way = self.inner.transfers.start(key, |early| async move {
            let through = origin.repository.clone();
            let content = cache.run_transfer(&origin, &digest, &early).await?;
            Some(Asked { through, content })
        });
        Ok(Flights::<(Arc<str>, Digest), _>::value(under_way).await?)
    }

    /// Publishes the growing content as soon as the upstream's answer begins. The value returned is for a transfer that did not
    /// come that far, or was not needed.
    async fn run_transfer(&self, origin: &Origin, digest: &Digest, early: &Early<Asked>) -> Option<Result<Content, CacheError>> {
        // Another transfer may have ended between the caller's look and this one's start.
        if self.record::<LinkRecord>(&blob_key(origin, digest)).await.is_some()
            && self.holds(origin, digest).await
            && let Some((content, _)) = self.blob_here(digest).await
        {
            return Some(Ok(content));
        }
        let _in_flight = InFlight::new(&self.inner.metrics);
        let outcome = match origin.upstream.get_blob(&origin.remote, digest, 0).await {
            Err(error) => Err(Failure::Upstream(error)),
            Ok(transfer) => {
                let mut ingest = self.inner.store.ingest(*digest, transfer.size_bytes);
                self.link(origin, Kind::Blob, digest, None, transfer.size_bytes);
                early.publish(Asked { through: origin.repository.clone(), content: Ok(ingest.content()) });
                match self.pump(origin, digest, transfer, &mut ingest).await {
                    Ok(()) => ingest.finish().await.map_err(Failure::Ingest),
                    Err(failure) => {
                        // Noted before readers learn of it, so that they find the reason.
                        let error = self.failed(origin, digest, failure).await;
                        ingest.abort(error.to_string());
                        return None;
                    }
                }
            }
        };
        match outcome {
            Ok(content) => {
                self.link(origin, Kind::Blob, digest, None, content.size_bytes());
                self.put_record(&Key::Held(origin.upstream.name().clone(), *digest), HeldRecord);
                self.note_repository(origin).await;
                self.inner.metrics.fill_ended(origin.upstream.name(), "complete");
                None
            }
            Err(failure) => Some(Err(self.failed(origin, digest, failure).await)),
        }
    }

    /// Counts and remembers a failure, and takes back the link: the bytes were never seen whole.
    async fn failed(&self, origin: &Origin, digest: &Digest, failure: Failure) -> CacheError {
        let (outcome, error) = match failure {
            Failure::Ingest(error @ IngestError::Mismatch) => ("mismatch", UpstreamError::WrongAnswer(error.to_string())),
            Failure::Ingest(error) => ("broken", UpstreamError::Broken(error.to_string())),
            Failure::Upstream(error @ (UpstreamError::Absent | UpstreamError::Denied)) => ("refused", error),
            Failure::Upstream(error) => ("broken", error),
        };
        self.inner.metrics.fill_ended(origin.upstream.name(), outcome);
        tracing::debug!(upstream = %origin.upstream.name(), %digest, outcome, %error, "a transfer failed");
        self.forget_record(&blob_key(origin, digest));
        self.refused(origin, &blob_key(origin, digest), error).await
    }

    /// Moves the whole body into the ingest. A transfer that breaks is taken up again where it broke.
    async fn pump(&self, origin: &Origin, digest: &Digest, first: BlobTransfer, ingest: &mut Ingest) -> Result<(), Failure> {
        let size_bytes = first.size_bytes;
        let (mut transfer, mut breaks, mut fruitless) = (Some(first), 0, 0);
        loop {
            let before = ingest.position();
            let broken = match transfer.take() {
                Some(mut transfer) => match copy(&mut transfer, ingest).await {
                    Ok(()) if size_bytes.is_none_or(|size| ingest.position() >= size) => return Ok(()),
                    Ok(()) => UpstreamError::Broken("the body ended early".to_owned()),
                    Err(Failure::Upstream(error)) => error,
                    Err(failure) => return Err(failure),
                },
                None => match origin.upstream.get_blob(&origin.remote, digest, ingest.position()).await {
                    Ok(resumed) => {
                        self.inner.metrics.fills_resumed.inc();
                        transfer = Some(resumed);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            breaks += 1;
            fruitless = if ingest.position() > before { 1 } else { fruitless + 1 };
            let lasting = !matches!(broken, UpstreamError::Broken(_) | UpstreamError::Unavailable { .. });
            // Without a length, an end that came too early cannot be told from the true one: only the digest can.
            if lasting || breaks > MAX_BREAKS || fruitless > MAX_FRUITLESS_BREAKS {
                return Err(Failure::Upstream(broken));
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(fruitless - 1)).await;
        }
    }
}

/// Copies one body, less what the ingest has already: an upstream that ignores Range begins at the start again.
async fn copy(transfer: &mut BlobTransfer, ingest: &mut Ingest) -> Result<(), Failure> {
    let mut at = transfer.from;
    while let Some(mut bytes) = transfer.next().await.map_err(Failure::Upstream)? {
        let known = ingest.position().saturating_sub(at).min(bytes.len() as u64);
        at += bytes.len() as u64;
        let fresh = bytes.split_off(known as usize);
        if !fresh.is_empty() {
            ingest.write(fresh).await.map_err(Failure::Ingest)?;
        }
    }
    Ok(())
}
