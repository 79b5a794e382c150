//! Which incarnations of regions are members: the last word counts. And where those end that were declared lost: the greatest cut
//! counts, so that what any survivor has imported stays.

use super::row;
use crate::ledger::event::Standing;
use crate::ledger::identity::Origin;
use crate::ledger::index::{IndexError, Overlay, Rows, Table, Value, key};
use crate::ledger::state::{MemberRow, Moment};

pub(super) fn stand(rows: &mut Overlay<'_>, moment: &Moment<'_>, origin: &Origin, standing: Standing) -> Result<(), IndexError> {
    let key = key::origin(origin);
    let known: Option<MemberRow> = row(rows, Table::Members, &key)?;
    let rank = |row: &MemberRow| (row.clock, row.standing as u8);
    let new = MemberRow { clock: moment.clock, standing };
    if known.is_none_or(|known| rank(&known) < rank(&new)) {
        rows.put(Table::Members, key, new.encode());
    }
    Ok(())
}

pub(super) fn lose(rows: &mut Overlay<'_>, origin: &Origin, cut: u64) -> Result<(), IndexError> {
    let known = self::cut(rows, origin)?.unwrap_or_default();
    rows.put(Table::Cuts, key::origin(origin), known.max(cut).encode());
    Ok(())
}

/// How an incarnation stands, by the last word on it.
pub(in crate::ledger) fn standing(rows: &dyn Rows, origin: &Origin) -> Result<Option<Standing>, IndexError> {
    let known: Option<MemberRow> = row(rows, Table::Members, &key::origin(origin))?;
    Ok(known.map(|known| known.standing))
}

/// The last segment of a lost ledger that counts.
pub(in crate::ledger) fn cut(rows: &dyn Rows, origin: &Origin) -> Result<Option<u64>, IndexError> {
    row(rows, Table::Cuts, &key::origin(origin))
}
