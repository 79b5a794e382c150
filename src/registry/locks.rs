//! Locks: what may be done to a repository, a tag or a manifest is changed, in the ledger, so that it holds in every region and
//! whatever the request came by. Who refuses what a lock forbids is the ledger's append, for what is written, and `hosted`, for what is
//! read.

use super::Registry;
use super::properties::{ManifestProperties, RepositoryProperties, TagProperties};
use super::push::PushError;
use crate::access::Access;
use crate::cache::CacheError;
use crate::ledger::{AppendError, Attributes, Content, ContentKind, Event, ManifestEntry, Position, Rejected};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// How often a lock is tried again whose tag was moved meanwhile.
const ATTEMPTS: u32 = 4;

/// Which attributes are to become what; the others stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub read: Option<bool>,
    pub write: Option<bool>,
    pub delete: Option<bool>,
    pub list: Option<bool>,
}

impl Changes {
    fn of(self, attributes: Attributes) -> Attributes {
        Attributes {
            read: self.read.unwrap_or(attributes.read),
            write: self.write.unwrap_or(attributes.write),
            delete: self.delete.unwrap_or(attributes.delete),
            list: self.list.unwrap_or(attributes.list),
        }
    }
}

/// What something is after its attributes were changed, and where that stands; nowhere, when nothing was to be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed<T> {
    pub properties: T,
    pub position: Option<Position>,
}

impl Registry {
    /// # Errors
    /// `Proxied`; `RepositoryUnknown`; `Unavailable`.
    pub async fn change_repository(&self, access: &Access, changes: Changes) -> Result<Changed<RepositoryProperties>, PushError> {
        let repository = self.pushed_here(access)?;
        let absent = |error| absent_is(error, PushError::RepositoryUnknown);
        let before = self.repository_properties(access).await.map_err(absent)?.attributes;
        let attributes = changes.of(before);
        let mut position = None;
        if attributes != before {
            let event = Event::lock_repository(repository.clone(), attributes);
            position = Some(self.region()?.ledger.append(vec![event]).await?);
        }
        Ok(Changed { properties: self.repository_properties(access).await.map_err(absent)?, position })
    }

    /// A tag that is locked is said again with its manifest: a region that deletes it and has not seen the lock takes nothing away.
    ///
    /// # Errors
    /// `Proxied`; `ManifestUnknown`; `Denied` in a repository that must not be written to; `Unavailable`.
    pub async fn change_tag(&self, access: &Access, tag: &Tag, changes: Changes) -> Result<Changed<TagProperties>, PushError> {
        let repository = self.pushed_here(access)?;
        let absent = |error| absent_is(error, PushError::ManifestUnknown);
        let mut position = None;
        for attempt in 1.. {
            let before = self.tag_properties(access, tag).await.map_err(absent)?;
            let attributes = changes.of(before.attributes);
            if attributes == before.attributes {
                break;
            }
            let mut events = vec![Event::lock_tag(repository.clone(), tag.clone(), before.digest, attributes)];
            if !attributes.may_delete() {
                events.extend(self.said_again(repository, &before.digest)?);
                events.push(Event::tag(repository.clone(), tag.clone(), before.digest));
            }
            match self.region()?.ledger.append(events).await {
                Err(AppendError::Rejected(Rejected::Moved(_))) if attempt < ATTEMPTS => {}
                appended => {
                    position = Some(appended.map_err(unknown_is_absent)?);
                    break;
                }
            }
        }
        Ok(Changed { properties: self.tag_properties(access, tag).await.map_err(absent)?, position })
    }

    /// # Errors
    /// As for a tag.
    pub async fn change_manifest(
        &self,
        access: &Access,
        digest: &Digest,
        changes: Changes,
    ) -> Result<Changed<ManifestProperties>, PushError> {
        let repository = self.pushed_here(access)?;
        let absent = |error| absent_is(error, PushError::ManifestUnknown);
        let before = self.manifest_properties(access, digest).await.map_err(absent)?.attributes;
        let attributes = changes.of(before);
        let mut position = None;
        if attributes != before {
            let mut events = vec![Event::lock_manifest(repository.clone(), *digest, attributes)];
            if !attributes.may_delete() {
                events.extend(self.said_again(repository, digest)?);
            }
            position = Some(self.region()?.ledger.append(events).await.map_err(unknown_is_absent)?);
        }
        Ok(Changed { properties: self.manifest_properties(access, digest).await.map_err(absent)?, position })
    }

    /// The event by which a manifest is there, once more.
    fn said_again(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<Event>, PushError> {
        let Some(entry) = self.region()?.ledger.manifest(repository, digest)? else { return Ok(None) };
        let ManifestEntry { facts, content, .. } = entry;
        let place = || content.places.first().cloned().map(Content::Key);
        let said = content.inline.clone().map(Content::Inline).or_else(place);
        Ok(said.map(|content| Event::manifest(repository.clone(), *digest, content, facts)))
    }

    /// What takes a manifest or a tag away. A tag that goes with its manifest leaves no lock behind that only keeps it from being read
    /// or listed.
    pub(super) fn removal(&self, repository: &RepositoryName, reference: &Reference) -> Result<Vec<Event>, PushError> {
        let digest = match reference {
            Reference::Tag(tag) => return Ok(vec![Event::untag(repository.clone(), tag.clone())]),
            Reference::Digest(digest) => digest,
        };
        let ledger = &self.region()?.ledger;
        let mut events = Vec::new();
        for tag in ledger.tags_of(repository, digest)? {
            let is_locked = ledger.tag(repository, &tag)?.is_some_and(|entry| entry.attributes != Attributes::default());
            events.extend(is_locked.then(|| Event::untag(repository.clone(), tag)));
        }
        events.push(Event::delete(repository.clone(), *digest, ContentKind::Manifest));
        Ok(events)
    }
}

fn absent_is(error: CacheError, absent: PushError) -> PushError {
    if error == CacheError::Absent { absent } else { error.into() }
}

fn unknown_is_absent(error: AppendError) -> PushError {
    match error {
        AppendError::Rejected(Rejected::TagUnknown(_) | Rejected::ManifestUnknown(_)) => PushError::ManifestUnknown,
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let hidden = Attributes { list: false, ..Attributes::default() };
        let changes = Changes { write: Some(false), list: Some(true), ..Changes::default() };
        assert_eq!(changes.of(hidden), Attributes { write: false, ..Attributes::default() });
        assert_eq!(Changes::default().of(hidden), hidden);
    }
}
