//! The list of a region's incarnations: which one is in force, and how one begins.
//!
//! Entries are created, never removed, with numbers from 1 without gaps; the last one is in force. Create-if-absent lets one of
//! several that begin the next one win, and the others read who did. So there is nothing to overwrite, and no listing is asked
//! for: finding the one in force takes a read of each, of which there is one unless a region was declared lost or restored.

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::documents::{FORMAT, create_or_read, read};
use super::error::OpenError;
use super::wire::Wire;

/// How many incarnations a region may have had.
const MAX_INCARNATIONS: u64 = 1_000;

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Incarnation {
    format: u32,
    region: String,
    incarnation: String,
}

/// The one in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InForce {
    pub number: u64,
    pub incarnation: String,
}

pub(super) fn entry_path(wire: &Wire, region: &str, number: u64) -> Path {
    wire.path(&format!("{region}.incarnations/{number:020}"))
}

/// The last of the list; `None` if there is none yet, which is confirmed.
pub(super) async fn in_force(wire: &Wire, region: &str) -> Result<Option<InForce>, OpenError> {
    let mut last = None;
    for number in 1..=MAX_INCARNATIONS {
        let Some(entry) = read(wire, &entry_path(wire, region, number)).await? else { break };
        last = Some(InForce { number, incarnation: known_entry(entry, region)? });
    }
    Ok(last)
}

/// The whole list.
pub(super) async fn all(wire: &Wire, region: &str) -> Result<Vec<String>, OpenError> {
    let mut all = Vec::new();
    for number in 1..=MAX_INCARNATIONS {
        let Some(entry) = read(wire, &entry_path(wire, region, number)).await? else { break };
        all.push(known_entry(entry, region)?);
    }
    Ok(all)
}

/// The one in force; the first one is begun if there is none.
pub(super) async fn find_or_begin(wire: &Wire, region: &str) -> Result<InForce, OpenError> {
    match in_force(wire, region).await? {
        Some(found) => Ok(found),
        None => begin(wire, region, 1).await,
    }
}

/// Begins the incarnation of this number, or finds that somebody has. Tells the one in force then, which may be a later one.
pub(super) async fn begin(wire: &Wire, region: &str, number: u64) -> Result<InForce, OpenError> {
    if number > MAX_INCARNATIONS {
        return Err(OpenError::Format(format!("{region:?} has had {MAX_INCARNATIONS} incarnations")));
    }
    let entry = Incarnation { format: FORMAT, region: region.to_owned(), incarnation: wire.fresh_ulid().to_string() };
    known_entry(create_or_read(wire, &entry_path(wire, region, number), &entry).await?, region)?;
    in_force(wire, region).await?.ok_or_else(|| list_is_gone(region))
}

pub(super) fn list_is_gone(region: &str) -> OpenError {
    OpenError::Format(format!("the list of the incarnations of {region:?} is gone"))
}

fn known_entry(entry: Incarnation, region: &str) -> Result<String, OpenError> {
    let is_name = entry.incarnation.parse::<Ulid>().is_ok();
    match entry {
        Incarnation { format: FORMAT, region: named, incarnation } if named == region && is_name => Ok(incarnation),
        other => Err(OpenError::Format(format!("an entry of the incarnations of {region:?} is {other:?}"))),
    }
}
