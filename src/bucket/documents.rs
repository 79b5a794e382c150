//! The small documents beside a root and in it, which are created once: written by whoever comes first, read by all.

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::error::{BucketError, Failure, OpenError};
use super::wire::Wire;

/// The layout that this program writes, and the versions of reader and writer that it is.
pub(super) const FORMAT: u32 = 1;
/// How often a create is judged by reading back before it is given up.
const MAX_ROUNDS: u32 = 5;
/// What these documents may measure.
const MAX_DOCUMENT_BYTES: u64 = 16 << 10;

/// What lies at the path in the end, whoever created it.
pub(super) async fn create_or_read<T>(wire: &Wire, path: &Path, document: &T) -> Result<T, OpenError>
where
    T: Serialize + for<'de> Deserialize<'de>,
{
    let bytes = Bytes::from(serde_json::to_vec(document).map_err(|error| OpenError::Format(error.to_string()))?);
    for _ in 0..MAX_ROUNDS {
        if let Err(Failure::Error(error @ BucketError::Refused(_))) = wire.create(path, &bytes).await {
            return Err(error.into());
        }
        // Neither "created" nor "exists" nor an error is the last word: what can be read is.
        if let Some(found) = read(wire, path).await? {
            return Ok(found);
        }
    }
    Err(BucketError::unavailable(format!("{path} was created and is not there")).into())
}

pub(super) async fn read<T: for<'de> Deserialize<'de>>(wire: &Wire, path: &Path) -> Result<Option<T>, OpenError> {
    let Some(bytes) = wire.read(path, MAX_DOCUMENT_BYTES).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| OpenError::Format(format!("{path}: {error}")))
}
