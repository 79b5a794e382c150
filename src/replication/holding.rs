//! Which other regions hold all the bytes of a push: for a repository whose acknowledgement promises that some do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Inner, Replication};
use crate::ledger::{BlobEntry, Ledger, LedgerError, Position};
use crate::oci::{Digest, RepositoryName};

/// Between two questions to the peers: copies tell of themselves, but what travels in the ledger is only told when asked for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// Manifests below an index that are looked at, at most.
const MAX_MANIFESTS: usize = 10_000;

/// A push is committed here, and not held by as many other regions as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("committed here, not yet held by {wanted} other regions: {}", names(.held))]
pub struct NotHeld {
    pub wanted: usize,
    pub held: Vec<Arc<str>>,
}

fn names(held: &[Arc<str>]) -> String {
    match held {
        [] => "by none".to_owned(),
        held => format!("by {}", held.join(", ")),
    }
}

impl Replication {
    /// Waits until so many other regions hold all the bytes of a manifest that was committed at a position.
    ///
    /// # Errors
    /// They do not in time, or it cannot be told.
    pub async fn hold(
        &self,
        (repository, digest): (&RepositoryName, &Digest),
        position: &Position,
        others: usize,
        within: Duration,
    ) -> Result<(), NotHeld> {
        let (inner, deadline) = (self.inner(), Instant::now() + within);
        let mut held = Vec::new();
        let waiting = async {
            let Ok(open) = inner.region.get() else { return };
            let mut pause = FIRST_PAUSE;
            loop {
                match inner.holders(&open.ledger, (repository, digest), position.seq) {
                    Ok(holders) => held = holders,
                    Err(why) => tracing::debug!(%why, "which regions hold a push cannot be told"),
                }
                if held.len() >= others {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
                // So many wait together for one round.
                self.catch_up(LAST_PAUSE).await;
            }
        };
        let _ = timeout_at(deadline, waiting).await;
        if held.len() >= others { Ok(()) } else { Err(NotHeld { wanted: others, held }) }
    }
}

impl Inner {
    /// The other regions that hold all the bytes of a manifest, as far as is known here.
    fn holders(&self, ledger: &Ledger, (repository, digest): (&RepositoryName, &Digest), seq: u64) -> Result<Vec<Arc<str>>, LedgerError> {
        let contents = contents(ledger, repository, digest)?;
        let holds = |region: &Arc<str>, entry: &BlobEntry| {
            entry.inline.is_some() || entry.places.iter().any(|place| place.origin.region == *region)
        };
        let has_all = |region: &Arc<str>| contents.iter().all(|entry| holds(region, entry));
        let links = self.links.iter().filter(|link| self.seen_of_us(ledger, link) >= seq && has_all(link.region()));
        Ok(links.map(|link| link.region().clone()).collect())
    }
}

/// A manifest and all that it needs.
fn contents(ledger: &Ledger, repository: &RepositoryName, digest: &Digest) -> Result<Vec<BlobEntry>, LedgerError> {
    let (mut found, mut waiting, mut seen) = (Vec::new(), vec![*digest], HashSet::new());
    while let Some(next) = waiting.pop() {
        if !seen.insert(next) || seen.len() > MAX_MANIFESTS {
            continue;
        }
        // What a sparse index names may not be there.
        let Some(entry) = ledger.manifest(repository, &next)? else { continue };
        found.push(entry.content);
        for blob in entry.facts.blobs.iter().filter(|blob| !seen.contains(*blob)) {
            found.extend(ledger.places(blob)?);
        }
        waiting.extend(entry.facts.manifests);
    }
    Ok(found)
}
