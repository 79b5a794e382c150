//! Contents and their places: sets that only grow, of places named and of places gone, so that no order matters.

use super::{row, wanted};
use crate::clock::Timestamp;
use crate::ledger::event::Content;
use crate::ledger::identity::Place;
use crate::ledger::index::{IndexError, Overlay, Table, Value, key};
use crate::ledger::state::{ContentRow, Moment, PlaceRow};
use crate::oci::Digest;

type Sized<'a> = (&'a Digest, u64);

/// The earlier of two times; one that is not known yet is the later.
fn earlier(known: Timestamp, at: Timestamp) -> Timestamp {
    if known == Timestamp::default() { at } else { known.min(at) }
}

pub(super) fn add(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (digest, size_bytes): Sized<'_>,
    content: &Content,
) -> Result<(), IndexError> {
    let bytes = match content {
        Content::Key(place) => return add_place(rows, moment, (digest, size_bytes), place),
        Content::Inline(bytes) => bytes,
    };
    let content_key = key::digest(digest);
    let mut content: ContentRow = row(rows, Table::Contents, &content_key)?.unwrap_or_default();
    content.size_bytes = content.size_bytes.max(size_bytes);
    content.since = earlier(content.since, moment.clock.timestamp());
    if !content.inline {
        content.inline = true;
        rows.put(Table::Inline, content_key.clone(), bytes.to_vec());
    }
    rows.put(Table::Contents, content_key, content.encode());
    wanted::place(rows, moment, digest)
}

pub(super) fn add_place(
    rows: &mut Overlay<'_>,
    moment: &Moment<'_>,
    (digest, size_bytes): Sized<'_>,
    place: &Place,
) -> Result<(), IndexError> {
    let place_key = key::place(place);
    let mut known: PlaceRow = row(rows, Table::Places, &place_key)?.unwrap_or_default();
    // A key is never reused, so one digest names it; of two, which nobody may append, the least, in whatever order they come.
    known.named_by = Some(known.named_by.map_or(*digest, |other| other.min(*digest)));
    known.since = earlier(known.since, moment.clock.timestamp());
    rows.put(Table::Places, place_key, known.encode());
    let content_key = key::digest(digest);
    let mut content: ContentRow = row(rows, Table::Contents, &content_key)?.unwrap_or_default();
    content.size_bytes = content.size_bytes.max(size_bytes);
    content.since = earlier(content.since, moment.clock.timestamp());
    if let (false, Err(at)) = (known.gone, content.places.binary_search(place)) {
        content.places.insert(at, place.clone());
    }
    rows.put(Table::Contents, content_key, content.encode());
    wanted::place(rows, moment, digest)
}

/// Abandoned or dead.
pub(super) fn remove_places(rows: &mut Overlay<'_>, moment: &Moment<'_>, places: &[Place]) -> Result<(), IndexError> {
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
        wanted::place(rows, moment, &digest)?;
    }
    Ok(())
}
