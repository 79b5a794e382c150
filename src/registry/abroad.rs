//! What is unknown here and may be known in another region: the second half of the read table (replication.md, "Read").
//!
//! | the name or digest is | answer |
//! |---|---|
//! | known, bytes reachable | they are read, through another region if need be (`cache/`) |
//! | known, bytes not reachable now | `Unavailable` |
//! | unknown here, and every other region denies it in time | `Absent` |
//! | unknown here, some region cannot tell | a pull: `Unavailable`; a check by who may push: `Absent` |
//! | asked for at a position that does not come here in time | what the position's region says |

use std::time::Duration;

use super::Registry;
use crate::cache::{CacheError, Freshness};
use crate::ledger::{BlobEntry, Ledger, LedgerError, ManifestEntry, Position};
use crate::oci::{Digest, RepositoryName};
use crate::replication::{CaughtUp, Known, KnownEntry, Name, Resolved};

/// How long a request with a position waits for it.
pub(super) const POSITION_PATIENCE: Duration = Duration::from_secs(2);
/// How long a list waits for what other regions have, and a push for what it refers to.
const LIST_PATIENCE: Duration = Duration::from_millis(500);
pub(super) const PUSH_PATIENCE: Duration = Duration::from_secs(3);

/// What a read is for, and what it must not be older than.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asking {
    pub purpose: Purpose,
    /// The state that the client has seen.
    pub position: Option<Position>,
}

/// What the answer "cannot tell" is to its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// It wants the content: it comes again.
    #[default]
    Pull,
    /// It may push, and only looks whether it must: "no" costs it a push, and "cannot tell" would keep it from pushing.
    Check,
}

/// What a name leads to, and how fresh that is.
pub(super) type Looked<T> = Option<(T, Freshness)>;

impl Registry {
    /// Asks the own ledger, and the other regions where it does not know: only then is the name made. `take` reads what another region
    /// says.
    pub(super) async fn find_anywhere<T>(
        &self,
        asking: &Asking,
        name: impl FnOnce() -> Name,
        (ask, take): (impl Fn(&Ledger) -> Result<Option<T>, LedgerError>, impl Fn(KnownEntry) -> Option<T>),
    ) -> Result<Looked<T>, CacheError> {
        let replication = &self.inner.replication;
        if let Some(position) = &asking.position
            && !replication.reach(position, POSITION_PATIENCE).await
        {
            let resolved = replication.resolve_in(position.region(), &name()).await;
            return self.judge(asking, resolved, (ask, take)).await;
        }
        match self.find(&ask).await? {
            Some(found) => Ok(Some(found)),
            None if !replication.has_peers() => Ok(None),
            None => self.judge(asking, replication.resolve(&name()).await, (ask, take)).await,
        }
    }

    async fn judge<T>(
        &self,
        asking: &Asking,
        resolved: Resolved,
        (ask, take): (impl Fn(&Ledger) -> Result<Option<T>, LedgerError>, impl Fn(KnownEntry) -> Option<T>),
    ) -> Result<Looked<T>, CacheError> {
        match resolved {
            Resolved::Found(known) => self.believe(asking, *known, (ask, take)).await,
            Resolved::Here => Ok(ask(&self.region()?.ledger)?.map(|found| (found, Freshness::Fresh))),
            Resolved::Denied => Ok(None),
            Resolved::Blind(regions) => blind(asking.purpose, &regions),
        }
    }

    /// A region may not have heard yet that something was deleted here. What it names is new here only if its content is: else the
    /// ledgers are brought level first, and the own one decides.
    async fn believe<T>(
        &self,
        asking: &Asking,
        known: Known,
        (ask, take): (impl Fn(&Ledger) -> Result<Option<T>, LedgerError>, impl Fn(KnownEntry) -> Option<T>),
    ) -> Result<Looked<T>, CacheError> {
        let ledger = &self.region()?.ledger;
        let is_content_known = match &known.entry {
            KnownEntry::Manifest(entry) => ledger.places(&entry.digest)?.is_some(),
            // Blobs are in many repositories; without a manifest none is visible.
            KnownEntry::Blob(_) => false,
        };
        if !is_content_known || asking.position.is_some() {
            return Ok(take(known.entry).map(|found| (found, Freshness::Fresh)));
        }
        let CaughtUp { blind: regions } = self.inner.replication.catch_up(PUSH_PATIENCE).await;
        match ask(ledger)? {
            Some(found) => Ok(Some((found, Freshness::Fresh))),
            None if regions.contains(&known.region) => blind(asking.purpose, &[known.region]),
            None => Ok(None),
        }
    }

    /// For a list of a repository that is unknown here: what other regions have of it, as far as that comes in time.
    ///
    /// # Errors
    /// It is unknown still, and some region cannot tell.
    pub(super) async fn level_for(&self, repository: &RepositoryName, asking: &Asking) -> Result<(), CacheError> {
        let replication = &self.inner.replication;
        if let Some(position) = &asking.position
            && !replication.reach(position, POSITION_PATIENCE).await
        {
            return Err(cannot_tell(std::slice::from_ref(position.region())));
        }
        let is_known = || self.region().map_err(CacheError::from).and_then(|open| Ok(open.ledger.repository(repository)?.is_some()));
        if !replication.has_peers() || is_known()? {
            return Ok(());
        }
        let CaughtUp { blind } = replication.catch_up(LIST_PATIENCE).await;
        if blind.is_empty() || is_known()? { Ok(()) } else { Err(cannot_tell(&blind)) }
    }

    /// For the list of all repositories: what other regions have, as far as that comes in time.
    pub(super) async fn level_for_catalog(&self) {
        if self.inner.replication.has_peers() {
            self.inner.replication.catch_up(LIST_PATIENCE).await;
        }
    }
}

fn blind<T>(purpose: Purpose, regions: &[std::sync::Arc<str>]) -> Result<Looked<T>, CacheError> {
    match purpose {
        Purpose::Pull => Err(cannot_tell(regions)),
        Purpose::Check => Ok(None),
    }
}

/// It may be in a region that cannot be asked.
fn cannot_tell(regions: &[std::sync::Arc<str>]) -> CacheError {
    CacheError::Unavailable { why: format!("not known here, and these regions cannot tell: {}", regions.join(", ")), retry_after: None }
}

pub(super) fn manifest_of(entry: KnownEntry) -> Option<ManifestEntry> {
    match entry {
        KnownEntry::Manifest(entry) => Some(*entry),
        KnownEntry::Blob(_) => None,
    }
}

/// A manifest may be asked for where blobs are.
pub(super) fn content_of(entry: KnownEntry) -> Option<BlobEntry> {
    match entry {
        KnownEntry::Manifest(entry) => Some(entry.content),
        KnownEntry::Blob(entry) => Some(entry),
    }
}

pub(super) fn blob_name(repository: &RepositoryName, digest: &Digest) -> Name {
    Name::Blob(repository.clone(), *digest)
}
