//! The merge: what a segment does to the index. Pure: rows go in, changed rows come out; no clock, no input or output.
//!
//! Each ledger is folded in its own order, and two ledgers in any order against each other: the result is the same (`merge_laws.rs`
//! holds this). A segment that was folded already changes nothing.

mod contents;
mod control;
mod coverage;
mod forwards;
mod locks;
mod members;
#[cfg(test)]
mod merge_laws;
mod names;
mod repositories;
mod wanted;

use super::event::{Attributes, ControlKind, Event, Lockable, ManifestEvent};
use super::identity::{HybridTime, Origin, VersionVector};
use super::index::{IndexError, Overlay, Rows, Table, Value, Walk, key};
use super::planted::Planted;
use super::segment::Segment;
use super::state::{ImportsRow, LedgerRow, LockClaim, ManifestClaim, Moment, TagClaim};
use crate::oci::Digest;

pub(super) use control::in_force;
pub(super) use locks::{attributes, tag_lock};
pub(super) use members::{cut, standing};
pub(super) use names::{is_readable, manifest_claim};

/// A row, if it is there.
pub(super) fn row<T: Value>(rows: &dyn Rows, table: Table, key: &[u8]) -> Result<Option<T>, IndexError> {
    rows.get(table, key)?.map(|bytes| T::decode(&bytes)).transpose()
}

/// Where a ledger was folded to.
pub(super) fn ledger(rows: &dyn Rows, origin: &Origin) -> Result<Option<LedgerRow>, IndexError> {
    row(rows, Table::Ledgers, &key::origin(origin))
}

/// Where the imports were folded to.
pub(super) fn imports(rows: &dyn Rows) -> Result<Option<ImportsRow>, IndexError> {
    row(rows, Table::Imports, b"")
}

/// Notes that an import was folded. Its segments were, one by one.
pub(super) fn import(rows: &mut Overlay<'_>, row: &ImportsRow) {
    rows.put(Table::Imports, Vec::new(), row.encode());
}

/// Makes another region's rows this one's: with its own imports, and its own view of what it lacks.
pub(super) fn become_of(rows: &mut Overlay<'_>, home: &str, imports: &ImportsRow) -> Result<(), IndexError> {
    import(rows, imports);
    wanted::anew(rows, home)
}

/// What the writer of a ledger's last segment had seen.
pub(super) fn seen_by(rows: &dyn Rows, origin: &Origin) -> Result<VersionVector, IndexError> {
    Ok(row(rows, Table::Seen, &key::origin(origin))?.unwrap_or_default())
}

/// What the index knows of all ledgers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// The greatest clock that was folded.
    pub clock: HybridTime,
    /// The last segments of all ledgers but one's own.
    pub others: VersionVector,
}

pub(super) fn seen(rows: &dyn Rows, own: &Origin) -> Result<Seen, IndexError> {
    let mut seen = Seen::default();
    rows.scan(Table::Ledgers, &[], None, &mut |key, value| {
        let row = LedgerRow::decode(value)?;
        seen.clock = seen.clock.max(row.clock);
        let origin: Option<Origin> = std::str::from_utf8(key).ok().and_then(|text| text.parse().ok());
        let origin = origin.ok_or_else(|| IndexError::Damaged("a ledger's name cannot be read".into()))?;
        if origin != *own {
            seen.others.raise(origin, row.seq);
        }
        Ok(Walk::On)
    })?;
    Ok(seen)
}

/// How segments are folded: for which region, and with which mistake.
#[derive(Clone, Copy)]
pub(super) struct Folding<'a> {
    pub home: &'a str,
    pub planted: Planted,
}

/// Folds the next segment of its ledger, `hash` being that of its object. The caller has checked that it is the next.
pub(super) fn segment(rows: &mut Overlay<'_>, segment: &Segment, hash: Digest, folding: Folding<'_>) -> Result<(), IndexError> {
    let header = &segment.header;
    for (index, event) in (0..).zip(&segment.events) {
        let Folding { home, planted } = folding;
        let moment = Moment { origin: &header.origin, seq: header.seq, index, clock: header.clock, seen: &header.seen, home, planted };
        self::event(rows, &moment, event)?;
    }
    coverage::retire(rows, &header.origin, header.seq)?;
    let row = LedgerRow { seq: header.seq, hash, clock: header.clock, imports: header.imports };
    rows.put(Table::Ledgers, key::origin(&header.origin), row.encode());
    rows.put(Table::Seen, key::origin(&header.origin), header.seen.encode());
    Ok(())
}

/// Folds one event. Kinds that only later releases act upon change nothing yet: an index of theirs has another format and is made
/// anew from the ledger.
pub(super) fn event(rows: &mut Overlay<'_>, moment: &Moment<'_>, event: &Event) -> Result<(), IndexError> {
    match event {
        Event::Blob { digest, size_bytes, content } => contents::add(rows, moment, (digest, *size_bytes), content),
        Event::Copy { digest, size_bytes, place } => contents::add_place(rows, moment, (digest, *size_bytes), place),
        Event::Dead { places } | Event::Abandon { places } => contents::remove_places(rows, moment, places),
        Event::Link { repository, digest } => names::link(rows, moment, repository, digest),
        Event::Manifest(manifest) => {
            let ManifestEvent { repository, digest, content, created, facts } = manifest.as_ref();
            contents::add(rows, moment, (digest, facts.size_bytes), content)?;
            let created = created.unwrap_or(moment.clock.timestamp());
            names::manifest(rows, moment, (repository, digest), ManifestClaim { created, facts: facts.clone() })
        }
        Event::Tag { repository, tag, digest, created } => {
            let created = created.unwrap_or(moment.clock.timestamp());
            names::tag(rows, moment, (repository, tag), TagClaim { digest: *digest, created })
        }
        Event::Untag { repository, tag } => names::untag(rows, moment, repository, tag),
        Event::Delete { repository, digest, kind } => names::delete(rows, moment, (repository, digest), *kind),
        Event::Forwarded { repository, tag, digest, upstream } => {
            forwards::note(rows, moment, (repository, tag.as_ref(), upstream), *digest)
        }
        Event::Lock { repository, tag, digest, locked, attributes } => {
            let of = Lockable::named(tag.as_ref(), digest.as_ref(), *attributes);
            let attributes = attributes.unwrap_or(if *locked { Attributes::LOCKED } else { Attributes::default() });
            locks::lock(rows, moment, (repository, of), LockClaim { attributes, digest: *digest })
        }
        Event::Member { origin, standing } => members::stand(rows, moment, origin, *standing),
        Event::Lost { origin, cut } => members::lose(rows, origin, *cut),
        Event::Identity(record) => control::record(rows, moment, ControlKind::Identity, record),
        Event::Role(record) => control::record(rows, moment, ControlKind::Role, record),
        Event::Rule(record) => control::record(rows, moment, ControlKind::Rule, record),
        Event::PublicKey(record) => control::record(rows, moment, ControlKind::PublicKey, record),
        Event::Condemn { .. } | Event::Heartbeat {} | Event::Unknown(_) => Ok(()),
    }
}
