//! The own region as this edge reaches it: its bucket and its ledger, once they are open; and the other regions, each with its edges
//! and its store. An object store that is away when an edge starts keeps nothing from starting; what needs the region is answered 503
//! until it is back.

mod peer;
mod reading;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::SetOnce;

pub use peer::{Peer, Via, found, found_manifest};
pub use reading::{ReadError, Reading};

use crate::bucket::Bucket;
use crate::ledger::Ledger;

/// Clones are the same region.
#[derive(Clone, Debug, Default)]
pub struct Region(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: SetOnce<Open>,
    why_not: Mutex<String>,
    /// Known from the configuration, also while the region is not open.
    peers: Vec<Peer>,
}

/// What an open region has.
#[derive(Debug)]
pub struct Open {
    pub bucket: Bucket,
    pub ledger: Ledger,
}

/// The region is not open yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the region's bucket is not open: {0}")]
pub struct NotOpen(String);

impl Region {
    /// A region that is not open yet, with these others beside it.
    pub fn with_peers(peers: Vec<Peer>) -> Region {
        Region(Arc::new(Inner { peers, ..Inner::default() }))
    }

    /// The other regions, in the order of the configuration.
    pub fn peers(&self) -> &[Peer] {
        &self.0.peers
    }

    /// The other region of this name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.0.peers.iter().find(|peer| **peer.name() == *name)
    }

    /// From now on the region is there. Only the first time counts.
    pub fn open(&self, bucket: Bucket, ledger: Ledger) {
        let _ = self.0.open.set(Open { bucket, ledger });
    }

    /// Opening failed, and is tried again.
    pub fn failed(&self, why: String) {
        *self.0.why_not.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Returns once it is open.
    pub async fn opened(&self) -> &Open {
        self.0.open.wait().await
    }

    /// # Errors
    /// It is not open yet.
    pub fn get(&self) -> Result<&Open, NotOpen> {
        self.0.open.get().ok_or_else(|| NotOpen(self.0.why_not.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_not_open_says_why() {
        let region = Region::default();
        region.failed("no route".to_owned());
        assert_eq!(region.get().unwrap_err().to_string(), "the region's bucket is not open: no route");
    }
}
