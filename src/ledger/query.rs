//! Answers from the index: each is a look-up or one range of one table.

use bytes::Bytes;

use super::event::{Attributes, ControlKind, Lockable, ManifestFacts, Standing};
use super::fold::{self, row};
use super::identity::{Origin, Place, VersionVector};
use super::index::{IndexError, Rows, Table, Value, Walk, key};
use super::state::{
    Claim, Claims, ContentRow, ControlClaim, ForwardRow, LockClaim, ManifestClaim, MemberRow, PlaceRow, RepositoryRow, TagClaim,
};
use crate::bucket::{Bucket, Key};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

#[derive(Clone, Debug, PartialEq)]
pub struct TagEntry {
    pub tag: Tag,
    pub digest: Digest,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Other claims on the name that had not seen this one and lost.
    pub losers: Vec<Digest>,
    /// It must not become something else, or must not go: by its own lock or the repository's.
    pub is_locked: bool,
    /// What its own lock leaves of what may be done to it.
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ManifestEntry {
    pub digest: Digest,
    pub facts: ManifestFacts,
    pub created_at: Timestamp,
    /// When it was last pushed.
    pub updated_at: Timestamp,
    pub content: BlobEntry,
    /// What its own lock leaves of what may be done to it.
    pub attributes: Attributes,
}

/// Where a content's bytes are; nowhere, for a manifest all of whose places are gone.
#[derive(Clone, Debug, PartialEq)]
pub struct BlobEntry {
    pub size_bytes: u64,
    pub inline: Option<Bytes>,
    pub places: Vec<Place>,
}

impl BlobEntry {
    /// Where this bucket has it.
    pub fn keys_in(&self, bucket: &Bucket) -> impl Iterator<Item = Key> {
        let own = Origin::of(bucket);
        self.places.iter().filter(move |place| place.origin == own).map(|place| Key::Blob(place.key))
    }

    /// Where earlier incarnations of the bucket's region have it, in the same store.
    pub fn earlier_in(&self, bucket: &Bucket) -> impl Iterator<Item = &Place> {
        let own = Origin::of(bucket);
        self.places.iter().filter(move |place| place.origin.region == own.region && place.origin != own)
    }

    /// Whether this region can serve it by itself.
    pub fn is_in(&self, bucket: &Bucket) -> bool {
        self.inline.is_some() || self.places.iter().any(|place| *place.origin.region == *bucket.region())
    }
}

/// A region as the ledgers speak of it.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberEntry {
    pub origin: Origin,
    pub standing: Standing,
    /// What it had folded when it wrote its last segment that was folded here.
    pub seen: VersionVector,
}

/// A record of the control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlEntry {
    pub name: String,
    pub content: serde_json::Value,
}

/// Content of a repository that this region does not hold itself.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedEntry {
    pub digest: Digest,
    pub repository: RepositoryName,
    pub size_bytes: u64,
    /// When a region first named it.
    pub since: Timestamp,
    pub places: Vec<Place>,
}

/// Where a list of wanted content goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedKey(Vec<u8>);

impl WantedEntry {
    pub fn key(&self) -> WantedKey {
        WantedKey(key::linked(&self.digest, &self.repository))
    }
}

/// When a place was named, and whether its bytes may be gone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlaceEntry {
    pub since: Timestamp,
    pub is_gone: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryEntry {
    pub name: RepositoryName,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// What its lock leaves of what may be done to it and to all that is in it.
    pub attributes: Attributes,
}

/// What an upstream has under a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardEntry {
    pub digest: Digest,
    /// When that was noted.
    pub at: Timestamp,
}

/// A name whose last push an upstream has not been given yet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnforwardedEntry {
    pub reference: Reference,
    pub digest: Digest,
    pub pushed_at: Timestamp,
}

fn unreadable<E>(_: E) -> IndexError {
    IndexError::Damaged("a key cannot be read".into())
}

/// A text in a key.
fn parse<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, IndexError> {
    std::str::from_utf8(bytes).map_err(unreadable)?.parse().map_err(unreadable)
}

fn digest_of(bytes: &[u8]) -> Result<Digest, IndexError> {
    key::split_digest(bytes).map(|(digest, _)| digest).ok_or_else(|| unreadable(()))
}

fn tag_entry(tag: Tag, claims: &Claims<TagClaim>, locks: Locks) -> Option<TagEntry> {
    let (winner, pinned) = (claims.winner(), locks.tag.as_ref().and_then(LockClaim::pins));
    let digest = pinned.or(winner.map(|winner| winner.value.digest))?;
    // What a lock pins may have no claim any more: it was pushed over, or deleted, where the lock was not seen.
    let told = claims.as_slice().iter().rev().find(|claim| claim.value.digest == digest).or(winner);
    let attributes = locks.tag.map(|lock| lock.attributes).unwrap_or_default();
    let losers = claims.as_slice().iter().map(|claim| claim.value.digest).filter(|loser| *loser != digest).collect();
    Some(TagEntry {
        tag,
        digest,
        created_at: told.map_or(Timestamp::default(), |claim| claim.value.created),
        updated_at: told.map_or(Timestamp::default(), |claim| claim.clock.timestamp()),
        losers,
        is_locked: !locks.repository.and(attributes).may_delete(),
        attributes,
    })
}

/// The locks that bear on a tag.
struct Locks {
    tag: Option<LockClaim>,
    repository: Attributes,
}

fn repository_attributes(rows: &dyn Rows, repository: &RepositoryName) -> Result<Attributes, IndexError> {
    fold::attributes(rows, repository, Lockable::Repository)
}

pub(super) fn tag(rows: &dyn Rows, repository: &RepositoryName, tag: &Tag) -> Result<Option<TagEntry>, IndexError> {
    let claims: Option<Claims<TagClaim>> = row(rows, Table::Tags, &key::tag(repository, tag))?;
    let locks = Locks { tag: fold::tag_lock(rows, repository, tag)?, repository: repository_attributes(rows, repository)? };
    Ok(tag_entry(tag.clone(), &claims.unwrap_or_default(), locks))
}

pub(super) fn tags(rows: &dyn Rows, repository: &RepositoryName, after: Option<&str>, limit: usize) -> Result<Vec<TagEntry>, IndexError> {
    tags_that(rows, (repository, after), limit, |_| true)
}

/// Without those that a lock keeps out of lists.
pub(super) fn listed_tags(
    rows: &dyn Rows,
    repository: &RepositoryName,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<TagEntry>, IndexError> {
    tags_that(rows, (repository, after), limit, |entry| entry.attributes.list)
}

fn tags_that(
    rows: &dyn Rows,
    (repository, after): (&RepositoryName, Option<&str>),
    limit: usize,
    fits: impl Fn(&TagEntry) -> bool,
) -> Result<Vec<TagEntry>, IndexError> {
    let prefix = key::repository(repository);
    let after = after.map(|after| key::tag_text(repository, after));
    let of_repository = repository_attributes(rows, repository)?;
    page(rows, (Table::Tags, &prefix, after.as_deref()), limit, |key, value| {
        let name: Tag = parse(&key[prefix.len()..])?;
        let locks = Locks { tag: fold::tag_lock(rows, repository, &name)?, repository: of_repository };
        Ok(tag_entry(name, &Claims::decode(value)?, locks).filter(&fits))
    })
}

/// The records of a kind that were not removed: their names and contents.
pub(super) fn control(rows: &dyn Rows, kind: ControlKind) -> Result<Vec<ControlEntry>, IndexError> {
    let (mut found, prefix) = (Vec::new(), key::control(kind, ""));
    rows.scan(Table::Control, &prefix, None, &mut |key, value| {
        let claims: Claims<ControlClaim> = Claims::decode(value)?;
        let Some(content) = fold::in_force(&claims) else { return Ok(Walk::On) };
        let damaged = |_| IndexError::Damaged("a record of the control plane cannot be read".into());
        let name = std::str::from_utf8(&key[prefix.len()..]).map_err(|_| IndexError::Damaged("a record's name is no text".into()))?;
        found.push(ControlEntry { name: name.to_owned(), content: serde_json::from_slice(content).map_err(damaged)? });
        Ok(Walk::On)
    })?;
    Ok(found)
}

/// The tags whose winner is this manifest.
pub(super) fn tags_of(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Tag>, IndexError> {
    let mut found = Vec::new();
    for text in rows.suffixes(Table::TagsOf, &key::in_repository(repository, digest))? {
        let name: Tag = parse(&text)?;
        if tag(rows, repository, &name)?.is_some_and(|entry| entry.digest == *digest) {
            found.push(name);
        }
    }
    Ok(found)
}

pub(super) fn manifest(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<Option<ManifestEntry>, IndexError> {
    let claim = fold::manifest_claim(rows, repository, digest)?;
    claim.map_or(Ok(None), |claim| manifest_entry(rows, (repository, digest), claim).map(Some))
}

fn manifest_entry(
    rows: &dyn Rows,
    (repository, digest): (&RepositoryName, &Digest),
    claim: Claim<ManifestClaim>,
) -> Result<ManifestEntry, IndexError> {
    let updated_at = claim.clock.timestamp();
    let ManifestClaim { created, facts } = claim.value;
    let gone = BlobEntry { size_bytes: facts.size_bytes, inline: None, places: Vec::new() };
    let content = content(rows, digest)?.unwrap_or(gone);
    let attributes = fold::attributes(rows, repository, Lockable::Manifest(digest))?;
    Ok(ManifestEntry { digest: *digest, facts, created_at: created, updated_at, content, attributes })
}

pub(super) fn manifests(
    rows: &dyn Rows,
    repository: &RepositoryName,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<ManifestEntry>, IndexError> {
    let prefix = key::repository(repository);
    let after = after.map(|after| key::in_repository(repository, after));
    page(rows, (Table::Manifests, &prefix, after.as_deref()), limit, |key, value| {
        let claims: Claims<ManifestClaim> = Claims::decode(value)?;
        let digest = digest_of(&key[prefix.len()..])?;
        claims.winner().map_or(Ok(None), |claim| manifest_entry(rows, (repository, &digest), claim.clone()).map(Some))
    })
}

/// Whether another manifest of the repository refers to it, of those that `counts` is true of.
pub(super) fn is_needed(
    rows: &dyn Rows,
    repository: &RepositoryName,
    digest: &Digest,
    counts: impl Fn(&Digest) -> bool,
) -> Result<bool, IndexError> {
    let prefix = key::in_repository(repository, digest);
    let mut is_needed = false;
    rows.scan(Table::Needs, &prefix, None, &mut |key, _| {
        is_needed = counts(&digest_of(&key[prefix.len()..])?);
        Ok(if is_needed { Walk::Stop } else { Walk::On })
    })?;
    Ok(is_needed)
}

/// Manifests of the repository that need this content.
pub(super) fn needing(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest, limit: usize) -> Result<Vec<Digest>, IndexError> {
    let prefix = key::in_repository(repository, digest);
    let mut found = Vec::new();
    rows.scan(Table::Needs, &prefix, None, &mut |key, _| {
        if found.len() < limit {
            found.push(digest_of(&key[prefix.len()..])?);
        }
        Ok(if found.len() < limit { Walk::On } else { Walk::Stop })
    })?;
    Ok(found)
}

/// What was last said of a manifest, whether or not it is still there.
pub(super) fn known_facts(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<Option<ManifestFacts>, IndexError> {
    let known: Option<Claims<ManifestClaim>> = row(rows, Table::Known, &key::in_repository(repository, digest))?;
    Ok(known.as_ref().and_then(Claims::winner).map(|claim| claim.value.facts.clone()))
}

/// The first of a repository's locks, its own included, that keeps something from being deleted: what it is on.
pub(super) fn lock_against_deletion(rows: &dyn Rows, repository: &RepositoryName) -> Result<Option<String>, IndexError> {
    let prefix = key::repository(repository);
    let mut found = None;
    rows.scan(Table::Locks, &prefix, None, &mut |key, value| {
        let claims: Claims<LockClaim> = Claims::decode(value)?;
        if claims.winner().is_none_or(|lock| lock.value.attributes.may_delete()) {
            return Ok(Walk::On);
        }
        let (of, is_there) = match &key[prefix.len()..] {
            [] => (repository.to_string(), true),
            rest => match key::split_digest(rest) {
                Some((digest, _)) => (format!("{repository}@{digest}"), manifest(rows, repository, &digest)?.is_some()),
                None => {
                    let name: Tag = parse(rest)?;
                    (format!("{repository}:{name}"), tag(rows, repository, &name)?.is_some())
                }
            },
        };
        // A lock outlives what it is on only where somebody deleted that who had not seen it.
        found = is_there.then_some(of);
        Ok(if is_there { Walk::Stop } else { Walk::On })
    })?;
    Ok(found)
}

/// What its lock leaves of what may be done to a repository and all that is in it.
pub(super) fn attributes(rows: &dyn Rows, repository: &RepositoryName) -> Result<Attributes, IndexError> {
    repository_attributes(rows, repository)
}

/// What a list of referrers is asked for.
#[derive(Clone, Copy, Debug)]
pub struct ReferrersQuery<'a> {
    pub repository: &'a RepositoryName,
    pub subject: &'a Digest,
    pub artifact_type: Option<&'a str>,
    pub after: Option<&'a Digest>,
    pub limit: usize,
}

pub(super) fn referrers(rows: &dyn Rows, query: &ReferrersQuery<'_>) -> Result<Vec<ManifestEntry>, IndexError> {
    let prefix = key::in_repository(query.repository, query.subject);
    let after = query.after.map(|after| key::two_digests(query.repository, query.subject, after));
    page(rows, (Table::Referrers, &prefix, after.as_deref()), query.limit, |key, _| {
        let entry = manifest(rows, query.repository, &digest_of(&key[prefix.len()..])?)?.filter(|entry| entry.attributes.list);
        Ok(entry.filter(|entry| query.artifact_type.is_none_or(|wanted| entry.facts.artifact_type.as_deref() == Some(wanted))))
    })
}

/// What is known of a content, whoever may see it; `None` also when all its places are gone.
pub(super) fn content(rows: &dyn Rows, digest: &Digest) -> Result<Option<BlobEntry>, IndexError> {
    let key = key::digest(digest);
    let Some(content) = row::<ContentRow>(rows, Table::Contents, &key)?.filter(ContentRow::is_live) else { return Ok(None) };
    let inline = if content.inline { rows.get(Table::Inline, &key)?.map(Bytes::from) } else { None };
    Ok(Some(BlobEntry { size_bytes: content.size_bytes, inline, places: content.places }))
}

/// A blob, if it may be read through this repository.
pub(super) fn blob(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobEntry>, IndexError> {
    if fold::is_readable(rows, repository, digest)? { content(rows, digest) } else { Ok(None) }
}

/// Repositories through which a blob may be read.
pub(super) fn repositories_with(rows: &dyn Rows, digest: &Digest, limit: usize) -> Result<Vec<RepositoryName>, IndexError> {
    let prefix = key::digest(digest);
    page(rows, (Table::Linked, &prefix, None), limit, |key, _| parse(&key[prefix.len()..]).map(Some))
}

fn repository_entry(rows: &dyn Rows, name: RepositoryName, row: RepositoryRow) -> Result<Option<RepositoryEntry>, IndexError> {
    // Blobs alone are an unfinished push.
    if row.manifests == 0 {
        return Ok(None);
    }
    Ok(Some(RepositoryEntry {
        attributes: repository_attributes(rows, &name)?,
        name,
        created_at: row.created,
        updated_at: row.updated,
        tags: row.tags,
        manifests: row.manifests,
        blobs: row.links,
    }))
}

pub(super) fn repository(rows: &dyn Rows, name: &RepositoryName) -> Result<Option<RepositoryEntry>, IndexError> {
    let found: Option<RepositoryRow> = row(rows, Table::Repositories, name.as_str().as_bytes())?;
    found.map_or(Ok(None), |row| repository_entry(rows, name.clone(), row))
}

pub(super) fn repositories(rows: &dyn Rows, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryEntry>, IndexError> {
    page(rows, (Table::Repositories, b"", after.map(str::as_bytes)), limit, |key, value| {
        repository_entry(rows, parse(key)?, RepositoryRow::decode(value)?)
    })
}

/// Without those that a lock keeps out of lists.
pub(super) fn listed_repositories(rows: &dyn Rows, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryEntry>, IndexError> {
    page(rows, (Table::Repositories, b"", after.map(str::as_bytes)), limit, |key, value| {
        let entry = repository_entry(rows, parse(key)?, RepositoryRow::decode(value)?)?;
        Ok(entry.filter(|entry| entry.attributes.list))
    })
}

/// Names whose claims had not seen each other, with the winner first.
pub(super) fn conflicts(rows: &dyn Rows, limit: usize) -> Result<Vec<(RepositoryName, TagEntry)>, IndexError> {
    conflicts_after(rows, None, limit)
}

/// The same, those behind a tag, which need not be one.
pub(super) fn conflicts_after(
    rows: &dyn Rows,
    after: Option<(&RepositoryName, &str)>,
    limit: usize,
) -> Result<Vec<(RepositoryName, TagEntry)>, IndexError> {
    let after = after.map(|(repository, tag)| key::tag_text(repository, tag));
    page(rows, (Table::Conflicts, b"", after.as_deref()), limit, |key, _| {
        let (repository, name) = key.split_at(key.iter().position(|byte| *byte == 0).ok_or_else(|| unreadable(()))?);
        let repository = parse(repository)?;
        let entry = tag(rows, &repository, &parse(&name[1..])?)?;
        // Two may have pushed the same.
        Ok(entry.filter(|entry| !entry.losers.is_empty()).map(|entry| (repository, entry)))
    })
}

/// Incarnations of regions that some event speaks of, the own one included.
pub(super) fn members(rows: &dyn Rows) -> Result<Vec<MemberEntry>, IndexError> {
    let mut found = Vec::new();
    rows.scan(Table::Members, &[], None, &mut |key, value| {
        let origin: Origin = parse(key)?;
        let MemberRow { standing, .. } = MemberRow::decode(value)?;
        let seen = fold::seen_by(rows, &origin)?;
        found.push(MemberEntry { origin, standing, seen });
        Ok(Walk::On)
    })?;
    Ok(found)
}

/// Content that this region does not hold itself, by digest, behind `after`.
pub(super) fn wanted(rows: &dyn Rows, after: Option<&WantedKey>, limit: usize) -> Result<Vec<WantedEntry>, IndexError> {
    page(rows, (Table::Wanted, b"", after.map(|after| after.0.as_slice())), limit, |key, _| {
        let (digest, name) = key::split_digest(key).ok_or_else(|| unreadable(()))?;
        let content: Option<ContentRow> = row(rows, Table::Contents, &key::digest(&digest))?;
        let repository = parse(name)?;
        let live = content.filter(ContentRow::is_live);
        Ok(live.map(|ContentRow { size_bytes, since, places, .. }| WantedEntry { digest, repository, size_bytes, since, places }))
    })
}

/// How many contents only one region has, and their bytes. Walks all contents.
pub(super) fn held_alone(rows: &dyn Rows, region: &str) -> Result<(u64, u64), IndexError> {
    let (mut contents, mut bytes) = (0, 0);
    rows.scan(Table::Contents, &[], None, &mut |_, value| {
        let content = ContentRow::decode(value)?;
        let is_alone = !content.inline && content.is_live() && content.places.iter().all(|place| *place.origin.region == *region);
        if is_alone {
            contents += 1;
            bytes += content.size_bytes;
        }
        Ok(Walk::On)
    })?;
    Ok((contents, bytes))
}

/// What is known of a place.
pub(super) fn place(rows: &dyn Rows, place: &Place) -> Result<Option<PlaceEntry>, IndexError> {
    let found: Option<PlaceRow> = row(rows, Table::Places, &key::place(place))?;
    Ok(found.map(|row| PlaceEntry { since: row.since, is_gone: row.gone }))
}

/// The latest incarnation of a region whose ledger was folded here. Incarnations' names sort by the time they were begun.
pub(super) fn incarnation_of(rows: &dyn Rows, region: &str) -> Result<Option<Origin>, IndexError> {
    let mut last = None;
    rows.scan(Table::Ledgers, format!("{region}.").as_bytes(), None, &mut |key, _| {
        last = Some(parse(key)?);
        Ok(Walk::On)
    })?;
    Ok(last)
}

/// Every ledger that was folded, with its last segment.
pub(super) fn vector(rows: &dyn Rows) -> Result<VersionVector, IndexError> {
    let mut vector = VersionVector::default();
    rows.scan(Table::Ledgers, &[], None, &mut |key, value| {
        vector.raise(parse(key)?, super::state::LedgerRow::decode(value)?.seq);
        Ok(Walk::On)
    })?;
    Ok(vector)
}

pub(super) fn forwarded(
    rows: &dyn Rows,
    repository: &RepositoryName,
    reference: &Reference,
    upstream: &str,
) -> Result<Option<ForwardEntry>, IndexError> {
    let found: Option<ForwardRow> = row(rows, Table::Forwards, &key::forward(repository, reference, upstream))?;
    Ok(found.map(|row| ForwardEntry { digest: row.digest, at: row.clock.timestamp() }))
}

/// What of a repository is to be passed on to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct UnforwardedQuery<'a> {
    pub repository: &'a RepositoryName,
    pub upstream: &'a str,
    /// Manifests come first, by digest, then tags, by name; those behind this one.
    pub after: Option<&'a Reference>,
    pub limit: usize,
}

impl UnforwardedQuery<'_> {
    /// The name of a claim, unless what was passed on is as new and the same.
    fn entry<T>(&self, rows: &dyn Rows, reference: Reference, claim: (&Claim<T>, Digest)) -> Result<Option<UnforwardedEntry>, IndexError> {
        let (claim, digest) = claim;
        let found: Option<ForwardRow> = row(rows, Table::Forwards, &key::forward(self.repository, &reference, self.upstream))?;
        if found.is_some_and(|row| row.digest == digest && row.clock >= claim.clock) {
            return Ok(None);
        }
        Ok(Some(UnforwardedEntry { reference, digest, pushed_at: claim.clock.timestamp() }))
    }
}

/// The name, if it stands here and an upstream was not given it since its last push.
pub(super) fn unforwarded_name(
    rows: &dyn Rows,
    repository: &RepositoryName,
    reference: &Reference,
    upstream: &str,
) -> Result<Option<UnforwardedEntry>, IndexError> {
    let query = UnforwardedQuery { repository, upstream, after: None, limit: 1 };
    match reference {
        Reference::Digest(digest) => {
            let claims: Option<Claims<ManifestClaim>> = row(rows, Table::Manifests, &key::in_repository(repository, digest))?;
            let winner = claims.as_ref().and_then(Claims::winner);
            winner.map_or(Ok(None), |claim| query.entry(rows, reference.clone(), (claim, *digest)))
        }
        Reference::Tag(tag) => {
            let claims: Option<Claims<TagClaim>> = row(rows, Table::Tags, &key::tag(repository, tag))?;
            let winner = claims.as_ref().and_then(Claims::winner);
            winner.map_or(Ok(None), |claim| query.entry(rows, reference.clone(), (claim, claim.value.digest)))
        }
    }
}

pub(super) fn unforwarded(rows: &dyn Rows, query: &UnforwardedQuery<'_>) -> Result<Vec<UnforwardedEntry>, IndexError> {
    let prefix = key::repository(query.repository);
    let mut found = Vec::new();
    if !matches!(query.after, Some(Reference::Tag(_))) {
        let after = match query.after {
            Some(Reference::Digest(digest)) => Some(key::in_repository(query.repository, digest)),
            _ => None,
        };
        found = page(rows, (Table::Manifests, &prefix, after.as_deref()), query.limit, |key, value| {
            let digest = digest_of(&key[prefix.len()..])?;
            match Claims::<ManifestClaim>::decode(value)?.winner() {
                Some(claim) => query.entry(rows, Reference::Digest(digest), (claim, digest)),
                None => Ok(None),
            }
        })?;
    }
    let after = match query.after {
        Some(Reference::Tag(tag)) => Some(key::tag(query.repository, tag)),
        _ => None,
    };
    found.extend(page(rows, (Table::Tags, &prefix, after.as_deref()), query.limit - found.len(), |key, value| {
        let tag = Reference::Tag(parse(&key[prefix.len()..])?);
        match Claims::<TagClaim>::decode(value)?.winner() {
            Some(claim) => query.entry(rows, tag, (claim, claim.value.digest)),
            None => Ok(None),
        }
    })?);
    Ok(found)
}

/// The first rows of a range that are made into something.
fn page<T>(
    rows: &dyn Rows,
    (table, prefix, after): (Table, &[u8], Option<&[u8]>),
    limit: usize,
    mut make: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, IndexError>,
) -> Result<Vec<T>, IndexError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    rows.scan(table, prefix, after, &mut |key, value| {
        found.extend(make(key, value)?);
        Ok(if found.len() >= limit { Walk::Stop } else { Walk::On })
    })?;
    Ok(found)
}
