//! Locks. One of a tag that must not be changed pins it in every region to what it was, whatever was pushed there before the lock was
//! seen; what it overrides is listed as a conflict.

use super::coverage::{self, Kind, subject};
use super::names;
use super::row;
use crate::ledger::event::{Attributes, Lockable};
use crate::ledger::index::{IndexError, Overlay, Rows, Table, key};
use crate::ledger::planted::Bug;
use crate::ledger::state::{Claims, LockClaim, Moment};
use crate::oci::{Digest, RepositoryName, Tag};

pub(super) fn lock(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, of): (&RepositoryName, Lockable<'_>),
    claim: LockClaim,
) -> Result<(), IndexError> {
    let key = key::lock(repository, of);
    let own = subject(Kind::Lock, &key);
    let mut claims: Claims<LockClaim> = row(rows, Table::Locks, &key)?.unwrap_or_default();
    claims.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    if !coverage::is_ahead(rows, &own, moment)? {
        let digest = claim.digest.filter(|_| !moment.planted.is(Bug::LockDoesNotPin));
        claims.add(moment, LockClaim { digest, ..claim });
    }
    names::store(rows, Table::Locks, key, &claims);
    match of {
        Lockable::Tag(tag) => names::note_conflict(rows, repository, tag),
        Lockable::Repository | Lockable::Manifest(_) => Ok(()),
    }
}

/// What is deleted takes its lock with it, if whoever deleted it had seen that.
pub(super) fn unlock(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, of): (&RepositoryName, Lockable<'_>),
) -> Result<(), IndexError> {
    let key = key::lock(repository, of);
    let mut claims: Claims<LockClaim> = row(rows, Table::Locks, &key)?.unwrap_or_default();
    claims.supersede(moment);
    coverage::cover(rows, &subject(Kind::Lock, &key), moment)?;
    names::store(rows, Table::Locks, key, &claims);
    Ok(())
}

fn lock_on(rows: &dyn Rows, repository: &RepositoryName, of: Lockable<'_>) -> Result<Option<LockClaim>, IndexError> {
    let claims: Option<Claims<LockClaim>> = row(rows, Table::Locks, &key::lock(repository, of))?;
    Ok(claims.and_then(|claims| claims.winner().map(|claim| claim.value.clone())))
}

/// What its own lock leaves of what may be done to something: what its repository's takes is not counted.
pub(in crate::ledger) fn attributes(rows: &dyn Rows, repository: &RepositoryName, of: Lockable<'_>) -> Result<Attributes, IndexError> {
    Ok(lock_on(rows, repository, of)?.map(|lock| lock.attributes).unwrap_or_default())
}

/// The lock on a tag, the repository's own not counted.
pub(in crate::ledger) fn tag_lock(rows: &dyn Rows, repository: &RepositoryName, tag: &Tag) -> Result<Option<LockClaim>, IndexError> {
    lock_on(rows, repository, Lockable::Tag(tag))
}

/// What a lock pins a tag to.
pub(super) fn pinned(rows: &dyn Rows, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>, IndexError> {
    Ok(tag_lock(rows, repository, tag)?.and_then(|lock| lock.pins()))
}
