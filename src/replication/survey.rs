//! Asking all other regions where they stand, once: what an operator decides upon.

use std::sync::Arc;

use futures_util::future::join_all;

use super::remote::{Remote, Standing};
use crate::region::Region;

/// What one region says, or why it does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Surveyed {
    pub region: Arc<str>,
    pub standing: Result<Standing, String>,
}

/// Asks every peer, at its edges or in its store.
pub async fn survey(region: &Region) -> Vec<Surveyed> {
    join_all(region.peers().iter().map(async |peer| Surveyed { region: peer.name().clone(), standing: peer.status().await })).await
}
