//! Claims on names, and the tables that follow from them: reverse tags, conflicts, referrers, needs, and the repositories' counts.

use super::coverage::{self, Kind, subject};
use super::repositories::{self, Counted};
use super::{locks, row, wanted};
use crate::ledger::event::{ContentKind, Lockable, ManifestFacts};
use crate::ledger::index::{IndexError, Overlay, Rows, Table, Value, Walk, key};
use crate::ledger::planted::Bug;
use crate::ledger::state::{Claim, Claims, ManifestClaim, Moment, TagClaim};
use crate::oci::{Digest, RepositoryName, Tag};

type TagName<'a> = (&'a RepositoryName, &'a Tag);
type DigestName<'a> = (&'a RepositoryName, &'a Digest);

fn claims<T: Value>(rows: &dyn Rows, table: Table, key: &[u8]) -> Result<Claims<T>, IndexError> {
    Ok(row(rows, table, key)?.unwrap_or_default())
}

pub(super) fn store<T: Value>(rows: &mut Overlay<'_>, table: Table, key: Vec<u8>, claims: &Claims<T>) {
    if claims.is_empty() {
        rows.remove(table, key);
    } else {
        rows.put(table, key, claims.encode());
    }
}

pub(super) fn tag(rows: &mut Overlay<'_>, moment: &Moment<'_>, name: TagName<'_>, claim: TagClaim) -> Result<(), IndexError> {
    let key = key::tag(name.0, name.1);
    let own = subject(Kind::Tag, &key);
    let deletes = subject(Kind::TagsOf, &key::in_repository(name.0, &claim.digest));
    let before: Claims<TagClaim> = claims(rows, Table::Tags, &key)?;
    let mut after = before.clone();
    after.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    if !coverage::is_ahead(rows, &own, moment)? && !coverage::is_ahead(rows, &deletes, moment)? {
        after.add(moment, claim);
    }
    store_tag(rows, moment, name, (&before, &after))
}

pub(super) fn untag(rows: &mut Overlay<'_>, moment: &Moment<'_>, repository: &RepositoryName, tag: &Tag) -> Result<(), IndexError> {
    let key = key::tag(repository, tag);
    let before: Claims<TagClaim> = claims(rows, Table::Tags, &key)?;
    let mut after = before.clone();
    after.supersede(moment);
    coverage::cover(rows, &subject(Kind::Tag, &key), moment)?;
    locks::unlock(rows, moment, (repository, Lockable::Tag(tag)))?;
    store_tag(rows, moment, (repository, tag), (&before, &after))
}

/// Writes a tag's claims and what follows from them.
fn store_tag(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, tag): TagName<'_>,
    (before, after): (&Claims<TagClaim>, &Claims<TagClaim>),
) -> Result<(), IndexError> {
    let key = key::tag(repository, tag);
    for claim in before.as_slice() {
        rows.remove(Table::TagsOf, key::tag_of(repository, &claim.value.digest, tag));
    }
    for claim in after.as_slice() {
        rows.put(Table::TagsOf, key::tag_of(repository, &claim.value.digest, tag), Vec::new());
    }
    store(rows, Table::Tags, key, after);
    note_conflict(rows, repository, tag)?;
    repositories::count(rows, repository, moment, Counted::Tags, (before.is_empty(), after.is_empty()))
}

/// Whether claims on a tag, or a lock and a claim, had not seen each other.
pub(super) fn note_conflict(rows: &mut Overlay<'_>, repository: &RepositoryName, tag: &Tag) -> Result<(), IndexError> {
    let key = key::tag(repository, tag);
    let live: Claims<TagClaim> = claims(rows, Table::Tags, &key)?;
    let pinned = locks::pinned(rows, repository, tag)?;
    let is_overridden = |claim: &Claim<TagClaim>| pinned.is_some_and(|digest| claim.value.digest != digest);
    let is_conflict = live.as_slice().len() > 1 || live.as_slice().iter().any(is_overridden);
    if is_conflict {
        rows.put(Table::Conflicts, key, Vec::new());
    } else {
        rows.remove(Table::Conflicts, key);
    }
    Ok(())
}

pub(super) fn manifest(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, digest): DigestName<'_>,
    claim: ManifestClaim,
) -> Result<(), IndexError> {
    let key = key::in_repository(repository, digest);
    let own = subject(Kind::Manifest, &key);
    let before: Claims<ManifestClaim> = claims(rows, Table::Manifests, &key)?;
    let mut after = before.clone();
    after.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    let mut known: Claims<ManifestClaim> = claims(rows, Table::Known, &key)?;
    known.add(moment, claim.clone());
    known.keep_greatest();
    rows.put(Table::Known, key, known.encode());
    if !coverage::is_ahead(rows, &own, moment)? {
        after.add(moment, claim);
    }
    store_manifest(rows, moment, (repository, digest), (&before, &after))
}

/// What is to be said of a manifest: its greatest live claim, or, when it was deleted by somebody who had not seen that a tag or an
/// index of the repository names it, what was last said of it.
pub(in crate::ledger) fn manifest_claim(
    rows: &dyn Rows,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Claim<ManifestClaim>>, IndexError> {
    let key = key::in_repository(repository, digest);
    let live: Claims<ManifestClaim> = claims(rows, Table::Manifests, &key)?;
    if let Some(winner) = live.winner() {
        return Ok(Some(winner.clone()));
    }
    let is_named = has_any(rows, Table::Needs, &key)? || has_any(rows, Table::TagsOf, &key)?;
    let known: Claims<ManifestClaim> = if is_named { claims(rows, Table::Known, &key)? } else { Claims::default() };
    Ok(known.winner().cloned())
}

/// Whether a blob may be read through this repository: it is linked, or a manifest here needs it.
pub(in crate::ledger) fn is_readable(rows: &dyn Rows, repository: &RepositoryName, digest: &Digest) -> Result<bool, IndexError> {
    let key = key::in_repository(repository, digest);
    Ok(rows.get(Table::Links, &key)?.is_some() || has_any(rows, Table::Needs, &key)?)
}

fn has_any(rows: &dyn Rows, table: Table, prefix: &[u8]) -> Result<bool, IndexError> {
    let mut has_any = false;
    rows.scan(table, prefix, None, &mut |_, _| {
        has_any = true;
        Ok(Walk::Stop)
    })?;
    Ok(has_any)
}

/// Writes a manifest's claims and what follows from them: from the winner, should claims of the same bytes differ at all.
fn store_manifest(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, digest): DigestName<'_>,
    (before, after): (&Claims<ManifestClaim>, &Claims<ManifestClaim>),
) -> Result<(), IndexError> {
    let facts = |claims: &Claims<ManifestClaim>| claims.winner().map(|claim| claim.value.facts.clone());
    let (old, new) = (facts(before), facts(after));
    if old != new {
        for (table, key) in old.iter().flat_map(|facts| derived(repository, digest, facts)) {
            rows.remove(table, key);
        }
        for (table, key) in new.iter().flat_map(|facts| derived(repository, digest, facts)) {
            rows.put(table, key, Vec::new());
        }
    }
    store(rows, Table::Manifests, key::in_repository(repository, digest), after);
    wanted::refer(rows, moment, (repository, digest))?;
    repositories::count(rows, repository, moment, Counted::Manifests, (before.is_empty(), after.is_empty()))
}

/// The rows of other tables that a manifest causes.
fn derived(repository: &RepositoryName, digest: &Digest, facts: &ManifestFacts) -> Vec<(Table, Vec<u8>)> {
    let needs = if facts.sparse { [].as_slice() } else { facts.manifests.as_slice() };
    let needs = facts.blobs.iter().chain(needs).map(|needed| (Table::Needs, key::two_digests(repository, needed, digest)));
    let referrer = facts.subject.iter().map(|subject| (Table::Referrers, key::two_digests(repository, subject, digest)));
    needs.chain(referrer).collect()
}

pub(super) fn link(rows: &mut Overlay<'_>, moment: &Moment<'_>, repository: &RepositoryName, digest: &Digest) -> Result<(), IndexError> {
    let key = key::in_repository(repository, digest);
    let own = subject(Kind::Link, &key);
    let before: Claims<()> = claims(rows, Table::Links, &key)?;
    let mut after = before.clone();
    after.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    if !coverage::is_ahead(rows, &own, moment)? {
        after.add(moment, ());
    }
    store_link(rows, moment, (repository, digest), (&before, &after))
}

fn store_link(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, digest): DigestName<'_>,
    (before, after): (&Claims<()>, &Claims<()>),
) -> Result<(), IndexError> {
    if after.is_empty() {
        rows.remove(Table::Linked, key::linked(digest, repository));
    } else {
        rows.put(Table::Linked, key::linked(digest, repository), Vec::new());
    }
    store(rows, Table::Links, key::in_repository(repository, digest), after);
    wanted::refer(rows, moment, (repository, digest))?;
    repositories::count(rows, repository, moment, Counted::Links, (before.is_empty(), after.is_empty()))
}

/// Removes what the event covers: a blob's link, or a manifest and the tags that name it.
pub(super) fn delete(rows: &mut Overlay<'_>, moment: &Moment<'_>, name: DigestName<'_>, kind: ContentKind) -> Result<(), IndexError> {
    let key = key::in_repository(name.0, name.1);
    match kind {
        ContentKind::Blob => {
            let before: Claims<()> = claims(rows, Table::Links, &key)?;
            let mut after = before.clone();
            after.supersede(moment);
            coverage::cover(rows, &subject(Kind::Link, &key), moment)?;
            store_link(rows, moment, name, (&before, &after))
        }
        ContentKind::Manifest => {
            let before: Claims<ManifestClaim> = claims(rows, Table::Manifests, &key)?;
            let mut after = before.clone();
            after.supersede(moment);
            coverage::cover(rows, &subject(Kind::Manifest, &key), moment)?;
            locks::unlock(rows, moment, (name.0, Lockable::Manifest(name.1)))?;
            store_manifest(rows, moment, name, (&before, &after))?;
            if moment.planted.is(Bug::DeleteLeavesTags) {
                return Ok(());
            }
            coverage::cover(rows, &subject(Kind::TagsOf, &key), moment)?;
            delete_tags_of(rows, moment, name, &key)
        }
    }
}

fn delete_tags_of(rows: &mut Overlay<'_>, moment: &Moment<'_>, name: DigestName<'_>, prefix: &[u8]) -> Result<(), IndexError> {
    for text in rows.suffixes(Table::TagsOf, prefix)? {
        let tag: Tag = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| IndexError::Damaged("a tag cannot be read".into()))?;
        let before: Claims<TagClaim> = claims(rows, Table::Tags, &key::tag(name.0, &tag))?;
        let mut after = before.clone();
        after.supersede_those(moment, |claim| claim.digest == *name.1);
        store_tag(rows, moment, (name.0, &tag), (&before, &after))?;
    }
    Ok(())
}
