//! Locks. One that names a digest pins the tag to it in every region, whatever was pushed there before the lock was seen; what it
//! overrides is listed as a conflict.

use super::coverage::{self, Kind, subject};
use super::names;
use super::row;
use crate::ledger::index::{IndexError, Overlay, Rows, Table, key};
use crate::ledger::planted::Bug;
use crate::ledger::state::{Claims, LockClaim, Moment};
use crate::oci::{Digest, RepositoryName, Tag};

pub(super) fn lock(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, tag): (&RepositoryName, Option<&Tag>),
    claim: LockClaim,
) -> Result<(), IndexError> {
    let key = key::lock(repository, tag);
    let own = subject(Kind::Lock, &key);
    let mut claims: Claims<LockClaim> = row(rows, Table::Locks, &key)?.unwrap_or_default();
    claims.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    if !coverage::is_ahead(rows, &own, moment)? {
        let digest = claim.digest.filter(|_| !moment.planted.is(Bug::LockDoesNotPin));
        claims.add(moment, LockClaim { digest, ..claim });
    }
    names::store(rows, Table::Locks, key, &claims);
    tag.map_or(Ok(()), |tag| names::note_conflict(rows, repository, tag))
}

/// The lock in force on a tag, the repository's own not counted.
pub(in crate::ledger) fn lock_on(rows: &dyn Rows, repository: &RepositoryName, tag: Option<&Tag>) -> Result<Option<LockClaim>, IndexError> {
    let claims: Option<Claims<LockClaim>> = row(rows, Table::Locks, &key::lock(repository, tag))?;
    Ok(claims.and_then(|claims| claims.winner().map(|claim| claim.value.clone())).filter(|claim| claim.locked))
}

/// Whether a tag must not become something else, or nothing.
pub(in crate::ledger) fn is_locked(rows: &dyn Rows, repository: &RepositoryName, tag: &Tag) -> Result<bool, IndexError> {
    Ok(lock_on(rows, repository, None)?.is_some() || lock_on(rows, repository, Some(tag))?.is_some())
}

/// What a lock pins a tag to.
pub(super) fn pinned(rows: &dyn Rows, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>, IndexError> {
    Ok(lock_on(rows, repository, Some(tag))?.and_then(|lock| lock.digest))
}
