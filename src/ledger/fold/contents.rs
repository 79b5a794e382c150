//! Contents and their places: sets that only grow, of places named and of places gone, so that no order matters.

use super::row;
use crate::ledger::event::Content;
use crate::ledger::identity::Place;
use crate::ledger::index::{IndexError, Overlay, Table, Value, key};
use crate::ledger::state::{ContentRow, PlaceRow};
use crate::oci::Digest;

pub(super) fn add(rows: &mut Overlay<'_>, digest: &Digest, size_bytes: u64, content: &Content) -> Result<(), IndexError> {
    let bytes = match content {
        Content::Key(place) => return add_place(rows, digest, size_bytes, place),
        Content::Inline(bytes) => bytes,
    };
    let content_key = key::digest(digest);
    let mut content: ContentRow = row(rows, Table::Contents, &content_key)?.unwrap_or_default();
    content.size_bytes = content.size_bytes.max(size_bytes);
    if !content.inline {
        content.inline = true;
        rows.put(Table::Inline, content_key.clone(), bytes.to_vec());
    }
    rows.put(Table::Contents, content_key, content.encode());
    Ok(())
}

pub(super) fn add_place(rows: &mut Overlay<'_>, digest: &Digest, size_bytes: u64, place: &Place) -> Result<(), IndexError> {
    let place_key = key::place(place);
    let mut known: PlaceRow = row(rows, Table::Places, &place_key)?.unwrap_or_default();
    // A key is never reused, so one digest names it; of two, which nobody may append, the least, in whatever order they come.
    known.named_by = Some(known.named_by.map_or(*digest, |other| other.min(*digest)));
    rows.put(Table::Places, place_key, known.encode());
    let content_key = key::digest(digest);
    let mut content: ContentRow = row(rows, Table::Contents, &content_key)?.unwrap_or_default();
    content.size_bytes = content.size_bytes.max(size_bytes);
    if let (false, Err(at)) = (known.gone, content.places.binary_search(place)) {
        content.places.insert(at, place.clone());
    }
    rows.put(Table::Contents, content_key, content.encode());
    Ok(())
}

/// Abandoned or dead.
pub(super) fn remove_places(rows: &mut Overlay<'_>, places: &[Place]) -> Result<(), IndexError> {
    for place in places {
        let place_key = key::place(place);
        let mut known: PlaceRow = row(rows, Table::Places, &place_key)?.unwrap_or_default();
        known.gone = true;
        rows.put(Table::Places, place_key, known.encode());
        let Some(digest) = known.named_by else { continue };
        let content_key = key::digest(&digest);
        let Some(mut content) = row::<ContentRow>(rows, Table::Contents, &content_key)? else { continue };
        content.places.retain(|other| other != place);
        rows.put(Table::Contents, content_key, content.encode());
    }
    Ok(())
}
