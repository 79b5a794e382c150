//! What is still to be done, for people who look.

use std::sync::{Arc, PoisonError};

use super::Replication;
use crate::clock::Timestamp;

/// What has not come here yet of what shall be here, and what has not gone from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Contents that are wanted here and wait, or are on their way.
    pub contents: usize,
    pub bytes: u64,
    /// When the oldest push was made here that some other region does not know of, and that some region shall hold and does not.
    pub oldest_unknown: Option<Timestamp>,
    pub oldest_unheld: Option<Timestamp>,
}

impl Replication {
    /// The own region's name.
    pub fn own_region(&self) -> &Arc<str> {
        &self.inner().own_name
    }

    pub fn pending(&self) -> Pending {
        let (contents, bytes) = self.inner().copies.extent();
        let oldest = *self.inner().oldest.lock().unwrap_or_else(PoisonError::into_inner);
        Pending { contents, bytes, oldest_unknown: oldest.metadata, oldest_unheld: oldest.bytes }
    }
}
