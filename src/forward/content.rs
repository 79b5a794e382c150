//! Bytes of hosted content, from the ledger's entry or from the region's bucket, as a stream that can be opened again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use crate::bucket::{Bucket, BucketError, Key, ObjectReader};
use crate::ledger::BlobEntry;
use crate::upstream::ContentStream;

/// Breaks at one place without a byte in between, after which the next place is tried.
const MAX_BREAKS: u32 = 4;
/// The wait after a break, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The content from its beginning.
pub(super) fn open(bucket: &Bucket, entry: &BlobEntry) -> ContentStream {
    if let Some(bytes) = &entry.inline {
        return Box::pin(stream::iter([Ok(bytes.clone())]));
    }
    let own =
        entry.places.iter().filter(|place| *place.origin.region == *bucket.region() && *place.origin.incarnation == *bucket.incarnation());
    let keys = own.map(|place| Key::Blob(place.key)).collect();
    let reading = Reading { bucket: bucket.clone(), keys, object: None, at_bytes: 0, size_bytes: entry.size_bytes, breaks: 0 };
    Box::pin(stream::try_unfold(reading, async |mut reading| Ok(reading.next().await?.map(|bytes| (bytes, reading)))))
}

/// All of a content that is small.
///
/// # Errors
/// In words.
pub(super) async fn whole(bucket: &Bucket, entry: &BlobEntry, limit_bytes: usize) -> Result<Bytes, String> {
    let (mut pieces, mut whole) = (open(bucket, entry), BytesMut::new());
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
        if whole.len() > limit_bytes {
            return Err(format!("it has more than {limit_bytes} bytes"));
        }
    }
    Ok(whole.freeze())
}

struct Reading {
    bucket: Bucket,
    /// Where it lies in this region; the first is being read.
    keys: VecDeque<Key>,
    object: Option<ObjectReader>,
    at_bytes: u64,
    size_bytes: u64,
    breaks: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while self.at_bytes < self.size_bytes {
            let key = self.keys.front().ok_or("this region's bucket does not have it")?;
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
    async fn broke(&mut self, error: BucketError) -> Result<(), String> {
        self.object = None;
        self.breaks += 1;
        if matches!(error, BucketError::Unavailable { .. }) && self.breaks <= MAX_BREAKS {
            sleep(FIRST_PAUSE * 2_u32.pow(self.breaks - 1)).await;
            return Ok(());
        }
        self.breaks = 0;
        self.keys.pop_front();
        if self.keys.is_empty() { Err(error.to_string()) } else { Ok(()) }
    }
}
