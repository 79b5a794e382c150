//! Bytes of hosted content, from the ledger's entry or from a region that has it, as a stream that can be opened again.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};

use crate::ledger::BlobEntry;
use crate::oci::Digest;
use crate::region::{Open, Reading, Region};
use crate::upstream::ContentStream;

/// The content from its beginning.
pub(super) fn open((region, open): (&Region, &Open), digest: &Digest, entry: &BlobEntry) -> ContentStream {
    if let Some(bytes) = &entry.inline {
        return Box::pin(stream::iter([Ok(bytes.clone())]));
    }
    let reading = Reading::new(region, open, digest, entry);
    Box::pin(stream::try_unfold(reading, async |mut reading| {
        let next = reading.next().await.map_err(|error| error.to_string())?;
        Ok(next.map(|bytes| (bytes, reading)))
    }))
}

/// All of a content that is small.
///
/// # Errors
/// In words.
pub(super) async fn whole(from: (&Region, &Open), digest: &Digest, entry: &BlobEntry, limit_bytes: usize) -> Result<Bytes, String> {
    let (mut pieces, mut whole) = (open(from, digest, entry), BytesMut::new());
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
        if whole.len() > limit_bytes {
            return Err(format!("it has more than {limit_bytes} bytes"));
        }
    }
    Ok(whole.freeze())
}
