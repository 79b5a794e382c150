//! Content of a repository that this region does not hold itself: what copying has to do. It follows from links, places and inline
//! bytes, so that no order matters.

use super::row;
use crate::ledger::index::{IndexError, Overlay, Rows, Table, key};
use crate::ledger::state::{ContentRow, Moment};
use crate::oci::{Digest, RepositoryName};

/// Whether this region can serve it without any other.
fn is_here(rows: &dyn Rows, home: &str, digest: &Digest) -> Result<bool, IndexError> {
    let content: Option<ContentRow> = row(rows, Table::Contents, &key::digest(digest))?;
    Ok(content.is_some_and(|content| content.inline || content.places.iter().any(|place| *place.origin.region == *home)))
}

/// A repository may have the content, or has it no longer.
pub(super) fn refer(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (repository, digest): (&RepositoryName, &Digest),
) -> Result<(), IndexError> {
    let key = key::linked(digest, repository);
    let is_linked = rows.get(Table::Linked, &key)?.is_some();
    let is_manifest = rows.get(Table::Manifests, &key::in_repository(repository, digest))?.is_some();
    if (is_linked || is_manifest) && !is_here(rows, moment.home, digest)? {
        rows.put(Table::Wanted, key, Vec::new());
    } else {
        rows.remove(Table::Wanted, key);
    }
    Ok(())
}

/// The content's places or bytes have changed.
pub(super) fn place(rows: &mut Overlay<'_>, moment: &Moment<'_>, digest: &Digest) -> Result<(), IndexError> {
    let prefix = key::digest(digest);
    let (table, is_here) = match is_here(rows, moment.home, digest)? {
        true => (Table::Wanted, true),
        false => (Table::Linked, false),
    };
    for name in rows.suffixes(table, &prefix)? {
        let key = [prefix.as_slice(), &name].concat();
        if is_here {
            rows.remove(Table::Wanted, key);
        } else {
            rows.put(Table::Wanted, key, Vec::new());
        }
    }
    Ok(())
}

/// Makes anew what a region wants, of rows that were another region's.
pub(super) fn anew(rows: &mut Overlay<'_>, home: &str) -> Result<(), IndexError> {
    for key in rows.suffixes(Table::Wanted, b"")? {
        rows.remove(Table::Wanted, key);
    }
    let mut named = rows.suffixes(Table::Linked, b"")?;
    for key in rows.suffixes(Table::Manifests, b"")? {
        // A repository's name ends with a zero byte.
        let end = key.iter().position(|byte| *byte == 0).ok_or_else(unreadable)?;
        let (name, digest) = (&key[..end], &key[end + 1..]);
        named.push([digest, name].concat());
    }
    for key in named {
        let (digest, _) = key::split_digest(&key).ok_or_else(unreadable)?;
        if !is_here(rows, home, &digest)? {
            rows.put(Table::Wanted, key, Vec::new());
        }
    }
    Ok(())
}

fn unreadable() -> IndexError {
    IndexError::Damaged("a key is not what the index wrote".into())
}
