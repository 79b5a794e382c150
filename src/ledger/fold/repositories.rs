//! Times and counts of repositories. A repository without content keeps its row, so that its times do not depend on the order in
//! which regions' events arrive; it is not listed.

use super::row;
use crate::ledger::index::{IndexError, Overlay, Table, Value};
use crate::ledger::state::{Moment, RepositoryRow};
use crate::oci::RepositoryName;

#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Tags,
    Manifests,
    Links,
}

/// An event touched a name of a repository, which had no claim before or has none after it.
pub(super) fn count(
    rows: &mut Overlay<'_>,
    repository: &RepositoryName,
    moment: &Moment<'_>,
    counted: Counted,
    (was_empty, is_empty): (bool, bool),
) -> Result<(), IndexError> {
    let key = repository.as_str().as_bytes();
    let at = moment.clock.timestamp();
    let new = RepositoryRow { created: at, updated: at, tags: 0, manifests: 0, links: 0 };
    let mut repository: RepositoryRow = row(rows, Table::Repositories, key)?.unwrap_or(new);
    repository.created = repository.created.min(at);
    repository.updated = repository.updated.max(at);
    let count = match counted {
        Counted::Tags => &mut repository.tags,
        Counted::Manifests => &mut repository.manifests,
        Counted::Links => &mut repository.links,
    };
    match (was_empty, is_empty) {
        (true, false) => *count += 1,
        (false, true) => *count = count.saturating_sub(1),
        _ => {}
    }
    rows.put(Table::Repositories, key.to_vec(), repository.encode());
    Ok(())
}
