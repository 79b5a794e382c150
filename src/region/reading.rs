//! A content's bytes from the region's bucket, from front to back: taken up again where a transfer broke, or from another place.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::bucket::{Bucket, BucketError, Key, ObjectReader};
use crate::ledger::BlobEntry;

/// Breaks at one place without a byte in between, after which the next place is tried.
const MAX_BREAKS: u32 = 4;
/// The wait after a break, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The bytes are not verified: who collects them hashes them.
pub struct Reading {
    bucket: Bucket,
    /// Where it lies in this region; the first is being read.
    keys: VecDeque<Key>,
    object: Option<ObjectReader>,
    at_bytes: u64,
    size_bytes: u64,
    breaks: u32,
}

impl Reading {
    pub fn new(bucket: &Bucket, entry: &BlobEntry) -> Reading {
        let keys = entry.keys_in(bucket).collect();
        Reading { bucket: bucket.clone(), keys, object: None, at_bytes: 0, size_bytes: entry.size_bytes, breaks: 0 }
    }

    /// The next bytes, never empty; `None` when all of the content has come.
    ///
    /// # Errors
    /// No place has the rest. Asking again gives no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BucketError> {
        while self.at_bytes < self.size_bytes {
            let key = self.keys.front().ok_or_else(|| BucketError::Broken("this region's bucket does not have it".to_owned()))?;
            let read = match &mut self.object {
                Some(object) => object.next().await,
                None => match self.bucket.open_object(key, self.at_bytes..self.size_bytes).await {
                    Ok(Some(object)) => {
                        self.object = Some(object);
                        continue;
                    }
                    Ok(None) => Err(BucketError::Broken(format!("{key} is not there"))),
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(Some(bytes)) => {
                    self.at_bytes += bytes.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) => self.broke(BucketError::Broken("an object is shorter than it should be".to_owned())).await?,
                Err(error) => self.broke(error).await?,
            }
        }
        Ok(None)
    }

    /// Goes on from here, or from another place, or not.
    async fn broke(&mut self, error: BucketError) -> Result<(), BucketError> {
        self.object = None;
        self.breaks += 1;
        if matches!(error, BucketError::Unavailable { .. }) && self.breaks <= MAX_BREAKS {
            sleep(FIRST_PAUSE * 2_u32.pow(self.breaks - 1)).await;
            return Ok(());
        }
        self.breaks = 0;
        self.keys.pop_front();
        if self.keys.is_empty() { Err(error) } else { Ok(()) }
    }
}
