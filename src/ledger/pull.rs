//! One round of following: from a source, all that another region's ledger has beyond what is folded here, causes first.

use std::time::Duration;

use bytes::Bytes;

use super::identity::Origin;
use super::importer::{Foreign, ImportError};
use super::{Ledger, LedgerError};

/// Ledgers whose causes are fetched in one round, at most: as deep as regions have seen each other.
const MAX_DEPTH: usize = 64;

/// What a source has of a ledger behind a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Segments {
    /// At least one; they follow one another.
    Some(Vec<Bytes>),
    /// Nothing yet.
    None,
    /// It was there, and only a snapshot has it now.
    Trimmed,
    /// The source knows no such ledger.
    Unknown,
}

/// Where segments come from: the edges of a region, or its store. A source also has what its region imported of others.
pub trait Source: Sync {
    /// Waits for something to be there, if there is nothing, for so long.
    fn segments(&self, origin: &Origin, after: u64, wait: Duration) -> impl Future<Output = Result<Segments, String>> + Send;
}

/// What a round brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// So many segments; there may be more.
    Some(usize),
    /// There is no more.
    None,
    /// Only a snapshot has what comes next, or what that has seen.
    Trimmed,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The source gave no answer.
    #[error("{0}")]
    Source(String),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Ledger {
    /// Fetches what a ledger has next and imports it. What its writer had seen and is missing here is fetched from the same source,
    /// which has it: no third region is needed.
    ///
    /// # Errors
    /// See [`ImportError`] for those after which going on is of no use.
    pub async fn pull(&self, source: &impl Source, origin: &Origin, wait: Duration) -> Result<Pulled, PullError> {
        let mut batch = match self.fetch(source, origin, wait).await? {
            Fetched::Some(batch) => batch,
            Fetched::Other(pulled) => return Ok(pulled),
        };
        let (count, last) = (batch.len(), batch.last().map_or(0, |last| last.seq));
        for _ in 0..MAX_DEPTH {
            let missing = match self.import(batch.clone()).await {
                Err(ImportError::Behind { origin: missing, .. }) => missing,
                outcome => return outcome.map(|()| Pulled::Some(count)).map_err(PullError::from),
            };
            // What is left over are causes of nothing here.
            if self.vector()?.get(origin) >= last {
                return Ok(Pulled::Some(count));
            }
            match self.fetch(source, &missing, Duration::ZERO).await? {
                Fetched::Some(causes) => batch.extend(causes),
                Fetched::Other(Pulled::Trimmed) => return Ok(Pulled::Trimmed),
                Fetched::Other(_) => return Err(PullError::Source(format!("it has not what it names of {missing}"))),
            }
        }
        Err(PullError::Source("its causes have no end".into()))
    }

    async fn fetch(&self, source: &impl Source, origin: &Origin, wait: Duration) -> Result<Fetched, PullError> {
        let after = self.vector()?.get(origin);
        Ok(match source.segments(origin, after, wait).await.map_err(PullError::Source)? {
            Segments::Some(found) => {
                let numbered = (after + 1..).zip(found);
                Fetched::Some(numbered.map(|(seq, bytes)| Foreign { origin: origin.clone(), seq, bytes }).collect())
            }
            Segments::None => Fetched::Other(Pulled::None),
            Segments::Trimmed => Fetched::Other(Pulled::Trimmed),
            Segments::Unknown => Fetched::Other(Pulled::Unknown),
        })
    }
}

enum Fetched {
    Some(Vec<Foreign>),
    Other(Pulled),
}
