//! Whether an event holds against the state that it will follow: the first half of the invariants "blob before child manifest before
//! index before tag" and "a visible manifest has each reference".

use ulid::Ulid;

use super::event::{Content, ContentKind, Event, INLINE_BYTES, ManifestEvent};
use super::fold::row;
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
        Event::Tag { repository, digest, .. } => check_present(rows, repository, digest, ContentKind::Manifest),
        Event::Untag { repository, tag } => {
            let is_there = rows.get(Table::Tags, &key::tag(repository, tag))?.is_some();
            if is_there { Ok(()) } else { Err(Rejected::TagUnknown(tag.clone()).into()) }
        }
        Event::Delete { repository, digest, kind } => {
            check_present(rows, repository, digest, *kind)?;
            check_unused(rows, repository, digest)
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
    let table = match kind {
        ContentKind::Manifest => Table::Manifests,
        ContentKind::Blob => Table::Links,
    };
    Ok(rows.get(table, &key::in_repository(repository, digest))?.is_some())
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

/// Whether any event has named the key, or abandoned it.
pub(super) fn is_named(rows: &dyn Rows, key: Ulid) -> Result<bool, IndexError> {
    let mut is_named = false;
    rows.scan(Table::Places, &key::place_prefix(key), None, &mut |_, value| {
        is_named |= PlaceRow::decode(value)?.named_by.is_some();
        Ok(super::index::Walk::On)
    })?;
    Ok(is_named)
}
