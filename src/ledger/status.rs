//! `status.json`: what one node tells the next ones, so that they find at once what a listing would find. Advisory: it is
//! overwritten by whoever comes last, may be old or lost, and no decision rests on it but where to look first.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::core::Core;
use crate::bucket::{BucketError, Key, Through};

const MAX_STATUS_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The last snapshots that were verified, the oldest first.
    #[serde(default)]
    pub snapshots: Vec<Through>,
    /// What trimming has passed.
    #[serde(default)]
    pub trimmed: Through,
    /// Another program's.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Core {
    /// What was told last; nothing, if it cannot be read.
    pub async fn status(&self) -> Result<Status, BucketError> {
        match self.bucket.read(&Key::Status, MAX_STATUS_BYTES).await {
            Ok(found) => Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()),
            Err(BucketError::Broken(_)) => Ok(Status::default()),
            Err(why) => Err(why),
        }
    }

    pub async fn tell_status(&self, status: &Status) -> Result<(), BucketError> {
        let text = serde_json::to_vec(status).map_err(|why| BucketError::Broken(why.to_string()))?;
        self.bucket.put(&Key::Status, Bytes::from(text)).await
    }
}
