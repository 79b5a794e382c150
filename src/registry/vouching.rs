//! Upstreams that say themselves which caller may read what: they are asked, with the caller's own credentials.

use std::collections::HashMap;
use std::sync::Arc;

use super::Registry;
use crate::access::{Lent, Vouched};
use crate::cache::CacheError;
use crate::oci::RepositoryName;
use crate::upstream::{Glimpse, Upstream, UpstreamError};

/// The upstreams that decide. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Vouching(Arc<HashMap<String, Arc<Upstream>>>);

impl Registry {
    /// Those of the upstreams in force.
    pub fn vouching(&self) -> Vouching {
        let deciding = self
            .upstreams()
            .iter()
            .filter(|(_, upstream)| upstream.decides())
            .map(|(prefix, upstream)| (prefix.clone(), upstream.clone()))
            .collect();
        Vouching(Arc::new(deciding))
    }
}

impl Vouching {
    /// Whether the upstream of this name decides.
    pub fn is_up_to(&self, upstream: &str) -> bool {
        self.0.values().any(|deciding| **deciding.name() == *upstream)
    }

    /// Asks a repository's upstream whether the holder of these credentials may read it, by what is wanted of it.
    ///
    /// # Errors
    /// [`CacheError::Absent`] if not, or if there is nothing; the others if it cannot be told.
    pub async fn ask(&self, lent: Lent, repository: &RepositoryName, wanted: Glimpse<'_>) -> Result<Vouched, CacheError> {
        let upstream = self.0.get(repository.first_component()).ok_or(CacheError::Absent)?;
        let remote = repository.without_components(1).filter(|remote| upstream.allows(remote)).ok_or(CacheError::Absent)?;
        upstream.vouches(&lent, &remote, wanted).await.map_err(meaning)?;
        Ok(Vouched { repository: repository.clone(), lent })
    }

    /// Asks an upstream whether it knows these credentials at all.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_for_entry(&self, lent: &Lent, upstream: &str) -> Result<(), CacheError> {
        let upstream = self.0.values().find(|deciding| **deciding.name() == *upstream).ok_or(CacheError::Absent)?;
        upstream.welcomes(lent).await.map_err(meaning)
    }
}

fn meaning(error: UpstreamError) -> CacheError {
    match error {
        UpstreamError::Absent | UpstreamError::Denied => CacheError::Absent,
        UpstreamError::Unavailable { why, retry_after } => CacheError::Unavailable { why, retry_after },
        UpstreamError::Broken(why) => CacheError::Unavailable { why, retry_after: None },
        UpstreamError::WrongAnswer(why) => CacheError::WrongAnswer(why),
    }
}
