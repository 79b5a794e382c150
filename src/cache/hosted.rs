//! Content of the own region's repositories: from memory, from the disk, from a file of the bucket's on this machine, or from the
//! bucket, by one transfer that every reader follows. Who may read it the ledger has said before.

use std::time::Duration;

use super::flight::{Early, Flights};
use super::{Cache, CacheError, SMALL_BLOB_BYTES, Source};
use crate::bucket::{Bucket, BucketError, Key};
use crate::ledger::BlobEntry;
use crate::oci::Digest;
use crate::region::NotOpen;
use crate::store::{Content, Ingest, IngestError};

/// Breaks of a transfer from the bucket without a single byte in between, after which it is given up.
const MAX_FRUITLESS_BREAKS: u32 = 4;
/// The wait after a break; it doubles with each further one that is fruitless.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Cache {
    /// A blob or manifest of the own region. A small one is complete and verified when this returns, any other has its first byte.
    ///
    /// # Errors
    /// `Unavailable` when its bytes cannot be reached now.
    pub async fn hosted(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Result<(Content, Source), CacheError> {
        if let Some(bytes) = &entry.inline {
            return Ok((Content::from_memory(bytes.clone()), Source::Memory));
        }
        if let Some((content, source)) = self.at_hand(bucket, digest, entry).await {
            match self.ready(&content).await {
                Ok(()) => return Ok((content, source)),
                Err(error) => tracing::warn!(%digest, %error, "a blob of this region was unreadable here"),
            }
        }
        let content = self.bring_from(bucket, digest, entry).await?;
        match self.ready(&content).await {
            // Nobody told a lie: the region's own bytes are damaged.
            Err(CacheError::WrongAnswer(why)) => Err(unavailable(&why)),
            outcome => outcome.map(|()| (content, Source::Bucket)),
        }
    }

    async fn ready(&self, content: &Content) -> Result<(), CacheError> {
        match content.size_bytes() {
            Some(size) if size <= SMALL_BLOB_BYTES => content.complete().await?,
            _ => content.started().await?,
        }
        Ok(())
    }

    async fn at_hand(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Option<(Content, Source)> {
        if let Some(here) = self.blob_here(digest).await {
            return Some(here);
        }
        let path = own_keys(bucket, entry).find_map(|key| bucket.local_file(&key))?;
        let content = self.inner.store.bucket_file(digest, path).await?;
        Some((self.remembered(digest, content).await?, Source::Bucket))
    }

    async fn bring_from(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Result<Content, CacheError> {
        let (cache, bucket, digest, entry) = (self.clone(), bucket.clone(), *digest, entry.clone());
        let under_way = self.inner.hosted.start(digest, |early| async move { cache.fill_from(&bucket, &digest, &entry, &early).await });
        Flights::<Digest, _>::value(under_way).await?
    }

    async fn fill_from(
        &self,
        bucket: &Bucket,
        digest: &Digest,
        entry: &BlobEntry,
        early: &Early<Result<Content, CacheError>>,
    ) -> Option<Result<Content, CacheError>> {
        // Another transfer may have ended between the caller's look and this one's start.
        if let Some((content, _)) = self.blob_here(digest).await {
            return Some(Ok(content));
        }
        let mut last = unavailable("the bucket does not have it");
        for key in own_keys(bucket, entry) {
            let mut ingest = self.inner.store.ingest(*digest, Some(entry.size_bytes));
            match pump(bucket, &key, entry.size_bytes, &mut ingest, early).await {
                Ok(()) => {
                    let finished = ingest.finish().await;
                    let outcome = if finished.is_ok() { "complete" } else { "mismatch" };
                    self.inner.metrics.fill_ended("bucket", outcome);
                    return finished.err().map(|error| Err(unavailable(&format!("{key}: {error}"))));
                }
                Err((Begun::Yes, error)) => {
                    self.inner.metrics.fill_ended("bucket", "broken");
                    ingest.abort(error.to_string());
                    return None;
                }
                Err((Begun::No, error)) => last = error,
            }
        }
        self.inner.metrics.fill_ended("bucket", "refused");
        Some(Err(last))
    }
}

/// Whether readers follow already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Yes,
    No,
}

/// Moves an object into the ingest; taken up again where it breaks. Readers get the content with its first bytes.
async fn pump(
    bucket: &Bucket,
    key: &Key,
    size_bytes: u64,
    ingest: &mut Ingest,
    early: &Early<Result<Content, CacheError>>,
) -> Result<(), (Begun, CacheError)> {
    let (mut begun, mut fruitless) = (Begun::No, 0);
    loop {
        let before = ingest.position();
        let broken = match bucket.open_object(key, before..size_bytes).await {
            Ok(None) => return Err((begun, unavailable(&format!("{key} is not in the bucket")))),
            Err(error) => error,
            Ok(Some(mut object)) => loop {
                match object.next().await {
                    Ok(None) if ingest.position() >= size_bytes => return Ok(()),
                    Ok(None) => break BucketError::Broken(format!("{key} is shorter than it should be")),
                    Ok(Some(bytes)) => {
                        if begun == Begun::No {
                            begun = Begun::Yes;
                            early.publish(Ok(ingest.content()));
                        }
                        ingest.write(bytes).await.map_err(|error| (begun, of_ingest(&error)))?;
                    }
                    Err(error) => break error,
                }
            },
        };
        fruitless = if ingest.position() > before { 1 } else { fruitless + 1 };
        if !matches!(broken, BucketError::Unavailable { .. }) || fruitless > MAX_FRUITLESS_BREAKS {
            return Err((begun, broken.into()));
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(fruitless - 1)).await;
    }
}

/// The keys of the own bucket that have it.
fn own_keys(bucket: &Bucket, entry: &BlobEntry) -> impl Iterator<Item = Key> {
    let own = |origin: &crate::ledger::Origin| *origin.region == *bucket.region() && *origin.incarnation == *bucket.incarnation();
    entry.places.iter().filter(move |place| own(&place.origin)).map(|place| Key::Blob(place.key)).collect::<Vec<_>>().into_iter()
}

fn unavailable(why: &str) -> CacheError {
    CacheError::Unavailable { why: why.to_owned(), retry_after: None }
}

fn of_ingest(error: &IngestError) -> CacheError {
    unavailable(&error.to_string())
}

impl From<BucketError> for CacheError {
    fn from(error: BucketError) -> CacheError {
        let retry_after = match &error {
            BucketError::Unavailable { retry_after, .. } => *retry_after,
            BucketError::Refused(_) | BucketError::Broken(_) => None,
        };
        CacheError::Unavailable { why: error.to_string(), retry_after }
    }
}

impl From<NotOpen> for CacheError {
    fn from(error: NotOpen) -> CacheError {
        unavailable(&error.to_string())
    }
}

impl From<crate::ledger::LedgerError> for CacheError {
    fn from(error: crate::ledger::LedgerError) -> CacheError {
        unavailable(&error.to_string())
    }
}
