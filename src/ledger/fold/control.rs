//! Records of the control plane: who there is, what they may do, from where, and by which keys tokens are signed.
//!
//! Whoever removes a record has the last word over changes that had not seen the removal: what was revoked does not come back by
//! itself.

use super::coverage::{self, Kind, subject};
use super::names;
use super::row;
use crate::ledger::event::{ControlKind, ControlRecord};
use crate::ledger::index::{IndexError, Overlay, Table, key};
use crate::ledger::state::{Claims, ControlClaim, Moment};

pub(super) fn record(rows: &mut Overlay<'_>, moment: &Moment<'_>, kind: ControlKind, record: &ControlRecord) -> Result<(), IndexError> {
    let key = key::control(kind, &record.name);
    let own = subject(Kind::Control, &key);
    let mut claims: Claims<ControlClaim> = row(rows, Table::Control, &key)?.unwrap_or_default();
    claims.supersede(moment);
    coverage::cover(rows, &own, moment)?;
    if !coverage::is_ahead(rows, &own, moment)? {
        claims.add(moment, ControlClaim { content: record.content.as_ref().map(|content| content.to_string().into_bytes()) });
    }
    names::store(rows, Table::Control, key, &claims);
    Ok(())
}

/// What a record is now.
pub(in crate::ledger) fn in_force(claims: &Claims<ControlClaim>) -> Option<&[u8]> {
    let is_removed = claims.as_slice().iter().any(|claim| claim.value.content.is_none());
    claims.winner().filter(|_| !is_removed).and_then(|claim| claim.value.content.as_deref())
}
