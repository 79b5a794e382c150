//! What was passed on to upstreams: of each name the latest that an upstream took. The greatest wins, so that no order matters.

use super::row;
use crate::ledger::index::{IndexError, Overlay, Table, Value, key};
use crate::ledger::state::{ForwardRow, Moment};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

pub(super) fn note(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, tag, upstream): (&RepositoryName, Option<&Tag>, &str),
    digest: Digest,
) -> Result<(), IndexError> {
    let reference = tag.map_or(Reference::Digest(digest), |tag| Reference::Tag(tag.clone()));
    let key = key::forward(repository, &reference, upstream);
    let new = ForwardRow { clock: moment.clock, digest };
    let known: Option<ForwardRow> = row(rows, Table::Forwards, &key)?;
    rows.put(Table::Forwards, key, known.map_or(new, |known| known.max(new)).encode());
    Ok(())
}
