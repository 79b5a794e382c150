//! Whether an event holds against the state that it will follow: the first half of the invariants "blob before child manifest before
//! index before tag" and "a visible manifest has each reference".

use ulid::Ulid;

use super::event::{Content, ContentKind, Event, INLINE_BYTES, ManifestEvent};
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
        Event::Link { digest, .. } => {
            let content: Option<ContentRow> = row(rows, Table::Contents, &key::digest(digest))?;
            if content.is_some_and(|content| content.is_live()) { Ok(()) } else { Err(Rejected::BlobUnknown(*digest).into()) }
        }
        Event::Manifest(manifest) => {
            check_content(rows, &manifest.digest, &manifest.content, planted)?;
            if planted.is(Bug::ReferencesNotChecked) { Ok(()) } else { check_references(rows, manifest) }
        }
        Event::Tag { repository, tag, digest, .. } => {
            check_unlocked(rows, (repository, tag), Some(digest), planted)?;
            check_present(rows, repository, digest, ContentKind::Manifest)
        }
        Event::Untag { repository, tag } => {
            let is_there = rows.get(Table::Tags, &key::tag(repository, tag))?.is_some();
            check_unlocked(rows, (repository, tag), None, planted)?;
            if is_there { Ok(()) } else { Err(Rejected::TagUnknown(tag.clone()).into()) }
        }
        Event::Delete { repository, digest, kind } => {
            check_present(rows, repository, digest, *kind)?;
            check_unused(rows, repository, digest)?;
            check_unpinned(rows, repository, digest)
        }
        Event::Lock { repository, tag: Some(tag), digest: Some(digest), locked: true } => {
            check_unlocked(rows, (repository, tag), Some(digest), planted)?;
            check_present(rows, repository, digest, ContentKind::Manifest)
        }
        Event::Abandon { places } => places.iter().try_for_each(|place| check_unnamed(rows, place)),
        Event::Unknown(_) => Err(Rejected::Kind.into()),
        Event::Lock { .. }
        | Event::Condemn { .. }
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

/// A tag may change, or `becomes` what it is.
fn check_unlocked(
    rows: &dyn Rows,
    (repository, tag): (&RepositoryName, &Tag),
    becomes: Option<&Digest>,
    planted: Planted,
) -> Result<(), Refusal> {
    if planted.is(Bug::LockNotChecked) || !fold::is_locked(rows, repository, tag)? {
        return Ok(());
    }
    let is = super::query::tag(rows, repository, tag)?.map(|entry| entry.digest);
    // Nothing there yet: only a lock of the whole repository is in the way.
    if is.is_some() && becomes == is.as_ref() { Ok(()) } else { Err(Rejected::Locked(format!("{repository}:{tag}")).into()) }
}

/// No locked tag of the repository names it.
fn check_unpinned(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<(), Refusal> {
    let prefix = key::repository(repository);
    if fold::lock_on(rows, repository, None)?.is_some() {
        return Err(Rejected::Locked(repository.to_string()).into());
    }
    for text in rows.suffixes(Table::Locks, &prefix)? {
        let tag = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<Tag>().ok());
        let Some(tag) = tag else { continue };
        if fold::lock_on(rows, repository, Some(&tag))?.is_some_and(|lock| lock.digest.as_ref() == Some(digest)) {
            return Err(Rejected::Locked(format!("{repository}:{tag}")).into());
        }
    }
    Ok(())
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
