//! By which events a name is what it is here: who has folded them sees the same under it.

use super::event::Lockable;
use super::fold::{self, row};
use super::identity::{Origin, Position};
use super::index::{IndexError, Rows, Table, key};
use super::query::{self, TagEntry};
use super::state::{Claim, Claims, LockClaim, ManifestClaim, TagClaim};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// An event, by the segment that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEntry {
    pub origin: Origin,
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
}

/// A manifest that is visible under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    pub digest: Digest,
    /// The event that gave the name this manifest: a push.
    pub push: EventEntry,
    /// What else has to be folded before the name shows it.
    pub needs: Vec<EventEntry>,
}

impl NamedEntry {
    /// The position of the push.
    pub fn position(&self) -> Position {
        Position { origin: self.push.origin.clone(), seq: self.push.seq }
    }

    pub fn events(&self) -> impl Iterator<Item = &EventEntry> {
        std::iter::once(&self.push).chain(&self.needs)
    }
}

fn event<T>(claim: &Claim<T>) -> EventEntry {
    EventEntry { origin: claim.origin.clone(), seq: claim.seq, at: claim.clock.timestamp() }
}

pub(super) fn named(rows: &dyn Rows, repository: &RepositoryName, reference: &Reference) -> Result<Option<NamedEntry>, IndexError> {
    match reference {
        Reference::Digest(digest) => {
            let push = manifest(rows, repository, digest)?;
            Ok(push.map(|push| NamedEntry { digest: *digest, push, needs: Vec::new() }))
        }
        Reference::Tag(name) => {
            let Some(TagEntry { digest, .. }) = query::tag(rows, repository, name)? else { return Ok(None) };
            let Some(manifest) = manifest(rows, repository, &digest)? else { return Ok(None) };
            let mut events = tag(rows, repository, name, &digest)?;
            events.push(manifest);
            let push = events.remove(0);
            Ok(Some(NamedEntry { digest, push, needs: events }))
        }
    }
}

/// The event that a manifest stands by in a repository: its own, or the last one that brought its content where others need it.
fn manifest(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<Option<EventEntry>, IndexError> {
    if fold::manifest_claim(rows, repository, digest)?.is_none() {
        return Ok(None);
    }
    let key = key::in_repository(repository, digest);
    for table in [Table::Manifests, Table::Known] {
        let claims: Option<Claims<ManifestClaim>> = row(rows, table, &key)?;
        if let Some(winner) = claims.as_ref().and_then(Claims::winner) {
            return Ok(Some(event(winner)));
        }
    }
    Ok(None)
}

/// The claim that won a tag, and the lock that pins it to what it is.
fn tag(rows: &dyn Rows, repository: &RepositoryName, name: &Tag, digest: &Digest) -> Result<Vec<EventEntry>, IndexError> {
    let claims: Option<Claims<TagClaim>> = row(rows, Table::Tags, &key::tag(repository, name))?;
    let won = claims.as_ref().and_then(|claims| claims.as_slice().iter().rev().find(|claim| claim.value.digest == *digest));
    let locks: Option<Claims<LockClaim>> = row(rows, Table::Locks, &key::lock(repository, Lockable::Tag(name)))?;
    let lock = locks.as_ref().and_then(Claims::winner).filter(|lock| lock.value.pins().is_some());
    Ok(won.map(event).into_iter().chain(lock.map(event)).collect())
}
