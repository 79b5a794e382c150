//! Events that supersede others which have not arrived here yet.
//!
//! A writer of another region may have seen segments that this node has not folded. What its event supersedes on a name is then
//! remembered, until the segments come: their claims on that name are dead on arrival. Of one's own region nothing is ever ahead.

use super::{ledger, row};
use crate::ledger::identity::Origin;
use crate::ledger::index::{IndexError, Overlay, Rows, Table, Value, Walk, key};
use crate::ledger::state::Moment;

/// What can be superseded: the claims on a name, or the tags of a manifest that was deleted.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Tag = 1,
    Manifest = 2,
    Link = 3,
    TagsOf = 4,
    Lock = 5,
    Control = 6,
}

/// A name, as this table's keys have it.
pub(super) fn subject(kind: Kind, key: &[u8]) -> Vec<u8> {
    let mut subject = Vec::with_capacity(1 + key.len());
    subject.push(kind as u8);
    subject.extend_from_slice(key);
    subject
}

/// Remembers what the event supersedes on a name beyond what was folded.
pub(super) fn cover(rows: &mut Overlay<'_>, subject: &[u8], moment: &Moment<'_>) -> Result<(), IndexError> {
    for (origin, seq) in moment.seen.iter() {
        let folded = ledger(rows, origin)?.map_or(0, |row| row.seq);
        let key = key::ahead(subject, origin);
        let until: u64 = row(rows, Table::Ahead, &key)?.unwrap_or_default();
        if seq <= folded || seq <= until {
            continue;
        }
        if until > 0 {
            rows.remove(Table::AheadUntil, key::ahead_until(origin, until, subject));
        }
        rows.put(Table::Ahead, key, seq.encode());
        rows.put(Table::AheadUntil, key::ahead_until(origin, seq, subject), Vec::new());
    }
    Ok(())
}

/// Whether an event that was folded before superseded this one on a name.
pub(super) fn is_ahead(rows: &dyn Rows, subject: &[u8], moment: &Moment<'_>) -> Result<bool, IndexError> {
    let until: Option<u64> = row(rows, Table::Ahead, &key::ahead(subject, moment.origin))?;
    Ok(until.is_some_and(|until| moment.seq <= until))
}

/// A segment was folded: what it was awaited for is done.
pub(super) fn retire(rows: &mut Overlay<'_>, origin: &Origin, seq: u64) -> Result<(), IndexError> {
    let prefix = key::ahead_of(origin);
    let mut done = Vec::new();
    rows.scan(Table::AheadUntil, &prefix, None, &mut |key, _| {
        let rest = key.get(prefix.len()..).unwrap_or_default();
        let (until, subject) = rest.split_first_chunk().ok_or_else(|| IndexError::Damaged("a key is too short".into()))?;
        let until = u64::from_be_bytes(*until);
        if until > seq {
            return Ok(Walk::Stop);
        }
        done.push((until, subject.to_vec()));
        Ok(Walk::On)
    })?;
    for (until, subject) in done {
        rows.remove(Table::Ahead, key::ahead(&subject, origin));
        rows.remove(Table::AheadUntil, key::ahead_until(origin, until, &subject));
    }
    Ok(())
}
