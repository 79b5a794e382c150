//! Whether an event holds against the state that it will follow: the first half of the invariants "blob before child manifest before
//! index before tag" and "a visible manifest has each reference".

use ulid::Ulid;

use super::event::{Content, ContentKind, Event, INLINE_BYTES, Lockable, ManifestEvent};
use super::fold::{self, row};
use super::identity::Place;
use super::index::{IndexError, Rows, Table, Value, key};
use super::planted::{Bug, Planted};
use super::state::{Claims, ContentRow, ManifestClaim, PlaceRow, TagClaim};
use crate::oci::{Digest, RepositoryName, Tag};

/// Why events are not appended: they do not hold against the state that they would follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("no blob {0} is here")]
    BlobUnknown(Digest),
    #[error("no manifest {0} is in the repository")]
    ManifestUnknown(Digest),
    #[error("no tag {0} is in the repository")]
    TagUnknown(Tag),
    /// Blobs without a link and manifests that are not in the repository.
    #[error("the manifest refers to {} that the repository does not have", list(.0))]
    ReferencesUnknown(Vec<Digest>),
    #[error("the manifest {0} refers to it")]
    InUse(Digest),
    /// It, or a tag that names it, or its whole repository.
    #[error("{0} is locked")]
    Locked(String),
    /// What was to be locked has become something else meanwhile.
    #[error("{0} was moved meanwhile")]
    Moved(Tag),
    #[error("the key {0} was abandoned")]
    Abandoned(Ulid),
    /// It holds another content, or one that must not be abandoned.
    #[error("the key {0} holds {1}")]
    Named(Ulid, Digest),
    #[error("more than one segment, or more than travels inline")]
    TooLarge,
    #[error("this kind of event cannot be appended")]
    Kind,
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ")
}

/// Why an event was not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    Rejected(Rejected),
    Index(IndexError),
}

impl From<Rejected> for Refusal {
    fn from(why: Rejected) -> Refusal {
        Refusal::Rejected(why)
    }
}

impl From<IndexError> for Refusal {
    fn from(why: IndexError) -> Refusal {
        Refusal::Index(why)
    }
}

/// Fills in what only the state can tell: when a name was made that the event moves or repeats.
pub(super) fn complete(rows: &dyn Rows, event: &mut Event) -> Result<(), IndexError> {
    match event {
        Event::Tag { repository, tag, created, .. } => {
            let claims: Option<Claims<TagClaim>> = row(rows, Table::Tags, &key::tag(repository, tag))?;
            *created = claims.as_ref().and_then(Claims::winner).map(|claim| claim.value.created);
        }
        Event::Manifest(manifest) => {
            let key = key::in_repository(&manifest.repository, &manifest.digest);
            let claims: Option<Claims<ManifestClaim>> = row(rows, Table::Manifests, &key)?;
            manifest.created = claims.as_ref().and_then(Claims::winner).map(|claim| claim.value.created);
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn check(rows: &dyn Rows, event: &Event, planted: Planted) -> Result<(), Refusal> {
    match event {
        Event::Blob { digest, content, .. } => check_content(rows, digest, content, planted),
        Event::Copy { digest, place, .. } => check_place(rows, digest, place, planted),
        Event::Link { repository, digest } => {
            let content: Option<ContentRow> = row(rows, Table::Contents, &key::digest(digest))?;
            if !content.is_some_and(|content| content.is_live()) {
                return Err(Rejected::BlobUnknown(*digest).into());
            }
            check_pushable(rows, repository, digest, ContentKind::Blob)
        }
        Event::Manifest(manifest) => {
            check_content(rows, &manifest.digest, &manifest.content, planted)?;
            check_pushable(rows, &manifest.repository, &manifest.digest, ContentKind::Manifest)?;
            if planted.is(Bug::ReferencesNotChecked) { Ok(()) } else { check_references(rows, manifest) }
        }
        Event::Tag { repository, tag, digest, .. } => {
            if !planted.is(Bug::LockNotChecked) {
                check_movable(rows, (repository, tag), digest)?;
            }
            check_present(rows, repository, digest, ContentKind::Manifest)
        }
        Event::Untag { repository, tag } => {
            let is_there = rows.get(Table::Tags, &key::tag(repository, tag))?.is_some();
            if !planted.is(Bug::LockNotChecked) {
                check_deletable(rows, (repository, tag))?;
            }
            if is_there { Ok(()) } else { Err(Rejected::TagUnknown(tag.clone()).into()) }
        }
        Event::Delete { repository, digest, kind } => {
            check_present(rows, repository, digest, *kind)?;
            check_unused(rows, repository, digest)?;
            check_unpinned(rows, repository, digest, *kind)
        }
        Event::Lock { repository, tag, digest, attributes, .. } => {
            check_lock(rows, repository, Lockable::named(tag.as_ref(), digest.as_ref(), *attributes), digest.as_ref())
        }
        Event::Abandon { places } => places.iter().try_for_each(|place| check_unnamed(rows, place)),
        Event::Unknown(_) => Err(Rejected::Kind.into()),
        Event::Condemn { .. }
        | Event::Dead { .. }
        | Event::Member { .. }
        | Event::Lost { .. }
        | Event::Heartbeat {}
        | Event::Identity(_)
        | Event::Role(_)
        | Event::Rule(_)
        | Event::PublicKey(_)
        | Event::Forwarded { .. } => Ok(()),
    }
}

fn check_content(rows: &dyn Rows, digest: &Digest, content: &Content, planted: Planted) -> Result<(), Refusal> {
    match content {
        Content::Inline(bytes) if bytes.len() > INLINE_BYTES => Err(Rejected::TooLarge.into()),
        Content::Inline(_) => Ok(()),
        Content::Key(place) => check_place(rows, digest, place, planted),
    }
}

/// A place may be named once more for the same content: a caller that was told "unavailable" tries again.
fn check_place(rows: &dyn Rows, digest: &Digest, place: &Place, planted: Planted) -> Result<(), Refusal> {
    let known: PlaceRow = row(rows, Table::Places, &key::place(place))?.unwrap_or_default();
    if known.gone && !planted.is(Bug::AbandonedAccepted) {
        return Err(Rejected::Abandoned(place.key).into());
    }
    match known.named_by {
        Some(other) if other != *digest => Err(Rejected::Named(place.key, other).into()),
        _ => Ok(()),
    }
}

/// What an event named holds content that may be in use; only a collection takes it away.
fn check_unnamed(rows: &dyn Rows, place: &Place) -> Result<(), Refusal> {
    let known: PlaceRow = row(rows, Table::Places, &key::place(place))?.unwrap_or_default();
    known.named_by.map_or(Ok(()), |digest| Err(Rejected::Named(place.key, digest).into()))
}

fn is_present(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest, kind: ContentKind) -> Result<bool, IndexError> {
    match kind {
        ContentKind::Manifest => Ok(fold::manifest_claim(rows, repository, digest)?.is_some()),
        ContentKind::Blob => fold::is_readable(rows, repository, digest),
    }
}

fn check_present(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest, kind: ContentKind) -> Result<(), Refusal> {
    if is_present(rows, repository, digest, kind)? {
        return Ok(());
    }
    Err(Refusal::Rejected(match kind {
        ContentKind::Manifest => Rejected::ManifestUnknown(*digest),
        ContentKind::Blob => Rejected::BlobUnknown(*digest),
    }))
}

fn check_references(rows: &dyn Rows, manifest: &ManifestEvent) -> Result<(), Refusal> {
    let facts = &manifest.facts;
    let manifests = if facts.sparse { [].as_slice() } else { facts.manifests.as_slice() };
    let needed = facts.blobs.iter().map(|digest| (digest, ContentKind::Blob));
    let needed = needed.chain(manifests.iter().map(|digest| (digest, ContentKind::Manifest)));
    let mut unknown = Vec::new();
    for (digest, kind) in needed {
        let content: Option<ContentRow> = row(rows, Table::Contents, &key::digest(digest))?;
        let is_live = content.is_some_and(|content| content.is_live());
        if !is_live || !is_present(rows, &manifest.repository, digest, kind)? {
            unknown.push(*digest);
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(Rejected::ReferencesUnknown(unknown).into()) }
}

/// No manifest of the repository, but itself, may need it.
fn check_unused(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<(), Refusal> {
    let needing = rows.suffixes(Table::Needs, &key::in_repository(repository, digest))?;
    match needing.first().and_then(|rest| key::split_digest(rest)) {
        Some((manifest, _)) => Err(Rejected::InUse(manifest).into()),
        None => Ok(()),
    }
}

/// Nothing comes into a repository that must not be written to; what is there may be said again.
fn check_pushable(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest, kind: ContentKind) -> Result<(), Refusal> {
    if fold::attributes(rows, repository, Lockable::Repository)?.write || is_present(rows, repository, digest, kind)? {
        return Ok(());
    }
    Err(Rejected::Locked(repository.to_string()).into())
}

/// A tag may be moved, or becomes what it is.
fn check_movable(rows: &dyn Rows, (repository, tag): (&RepositoryName, &Tag), becomes: &Digest) -> Result<(), Refusal> {
    let of_repository = fold::attributes(rows, repository, Lockable::Repository)?;
    if of_repository.and(fold::attributes(rows, repository, Lockable::Tag(tag))?).write {
        return Ok(());
    }
    // Nothing there yet: only a lock of the whole repository, or one that outlived its tag, is in the way.
    let is = super::query::tag(rows, repository, tag)?.map(|entry| entry.digest);
    if is.as_ref() == Some(becomes) { Ok(()) } else { Err(Rejected::Locked(format!("{repository}:{tag}")).into()) }
}

fn check_deletable(rows: &dyn Rows, (repository, tag): (&RepositoryName, &Tag)) -> Result<(), Refusal> {
    let of_repository = fold::attributes(rows, repository, Lockable::Repository)?;
    let attributes = of_repository.and(fold::attributes(rows, repository, Lockable::Tag(tag))?);
    if attributes.may_delete() { Ok(()) } else { Err(Rejected::Locked(format!("{repository}:{tag}")).into()) }
}

/// Neither the repository, nor the content itself, nor a tag that names it keeps it from being deleted.
fn check_unpinned(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest, kind: ContentKind) -> Result<(), Refusal> {
    let locked = |what: String| Err(Rejected::Locked(what).into());
    if !fold::attributes(rows, repository, Lockable::Repository)?.may_delete() {
        return locked(repository.to_string());
    }
    if kind == ContentKind::Blob {
        return Ok(());
    }
    if !fold::attributes(rows, repository, Lockable::Manifest(digest))?.may_delete() {
        return locked(format!("{repository}@{digest}"));
    }
    for tag in super::query::tags_of(rows, repository, digest)? {
        if !fold::attributes(rows, repository, Lockable::Tag(&tag))?.may_delete() {
            return locked(format!("{repository}:{tag}"));
        }
    }
    Ok(())
}

/// What is locked is there, and is what the lock says. In a repository that must not be written to, no other attributes change either
/// (as Azure Container Registry has it).
fn check_lock(rows: &dyn Rows, repository: &RepositoryName, of: Lockable<'_>, digest: Option<&Digest>) -> Result<(), Refusal> {
    let is_frozen = || Ok::<_, IndexError>(!fold::attributes(rows, repository, Lockable::Repository)?.write);
    match of {
        Lockable::Repository => Ok(()),
        _ if is_frozen()? => Err(Rejected::Locked(repository.to_string()).into()),
        Lockable::Manifest(digest) => check_present(rows, repository, digest, ContentKind::Manifest),
        Lockable::Tag(tag) => match (super::query::tag(rows, repository, tag)?, digest) {
            (Some(is), Some(digest)) if is.digest != *digest => Err(Rejected::Moved(tag.clone()).into()),
            (Some(_), _) => Ok(()),
            (None, _) => Err(Rejected::TagUnknown(tag.clone()).into()),
        },
    }
}

/// Whether any event has named the key, or abandoned it.
pub(super) fn is_named(rows: &dyn Rows, key: Ulid) -> Result<bool, IndexError> {
    let mut is_named = false;
    rows.scan(Table::Places, &key::place_prefix(key), None, &mut |_, value| {
        is_named |= PlaceRow::decode(value)?.named_by.is_some();
        Ok(super::index::Walk::On)
    })?;
    Ok(is_named)
}
