//! Trimming: what nobody needs any more is overwritten with a stub, which keeps the number taken and the hash known.
//!
//! A segment of the own ledger, or an import, is trimmed when
//! - two verified snapshots cover it, so that one that turns out to be damaged loses nothing;
//! - every member has it: a segment that others have not imported yet is still to be fetched from here, and so is what this region
//!   imported, for who follows this region gets from it whatever its segments have seen. What a member has is what the last of its
//!   segments that was folded here says, so it is known late rather than early; an unreachable member delays trimming;
//! - this program folds every event in it. What it only keeps (an event of a later release) no snapshot has.
//!
//! Oldest first, a bounded number in each round, from where the status says that the last round ended; in doubt from the first,
//! which costs reads only. A stub is the same whoever writes it, so two nodes, or a write that lands late, do no harm: no segment is
//! ever removed, and create-if-absent finds the number taken (the ledger's second and third invariants).
//!
//! Snapshots older than the last two verified ones are deleted, with what attempts that came to nothing have left. One that is
//! being made is newer than those, or comes to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::LedgerError;
use super::core::Core;
use super::event::{Event, Standing};
use super::fold;
use super::identity::{Origin, VersionVector};
use super::import::{self, MAX_IMPORT_BYTES};
use super::index::{IndexError, Rows};
use super::planted::Bug;
use super::query;
use super::segment::{self, MAX_OBJECT_BYTES, Object, Segment, SegmentError, Stub};
use super::snapshot::Manifest;
use super::status::Status;
use crate::bucket::{Key, Through};

/// Objects trimmed in a round, of each kind, at most.
const MAX_TRIMMED: u64 = 2_000;
/// Objects that are read, then written, at one time.
const AT_ONCE: u64 = 16;
/// Objects of old snapshots deleted in a round, at most.
const MAX_DELETED: usize = 2_000;
/// Snapshots that must cover what is trimmed, and are kept.
const KEPT: usize = 2;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    pub segments: u64,
    pub imports: u64,
    /// Objects of old snapshots.
    pub deleted: usize,
}

/// What an object to be trimmed is.
enum Found {
    /// A stub; or one that is left as it is.
    Passed,
    Whole(Bytes),
    /// Some member needs it.
    Needed,
}

/// What each member has, by its last segment that was folded here.
struct Members(Vec<(Origin, VersionVector)>);

impl Members {
    /// The members of other regions: of each region the last incarnation that is known, unless it was removed or declared lost.
    fn of(rows: &dyn Rows, own: &Origin) -> Result<Members, IndexError> {
        let mut latest: BTreeMap<Arc<str>, Origin> = BTreeMap::new();
        let mut removed = Vec::new();
        let members = query::members(rows)?;
        let folded = query::vector(rows)?;
        let known = members.iter().map(|member| &member.origin).chain(folded.iter().map(|(origin, _)| origin));
        for origin in known.filter(|origin| origin.region != own.region) {
            let last = latest.entry(origin.region.clone()).or_insert_with(|| origin.clone());
            if *last < *origin {
                *last = origin.clone();
            }
        }
        removed.extend(members.into_iter().filter(|member| member.standing == Standing::Removed).map(|member| member.origin));
        let mut all = Vec::new();
        for origin in latest.into_values() {
            if !removed.contains(&origin) && fold::cut(rows, &origin)?.is_none() {
                let seen = fold::seen_by(rows, &origin)?;
                all.push((origin, seen));
            }
        }
        Ok(Members(all))
    }

    /// Whether all of them have a segment; whose it is has it.
    fn have(&self, of: &Origin, seq: u64) -> bool {
        self.0.iter().all(|(member, seen)| member == of || seen.covers(of, seq))
    }
}

/// Whether the fold of this program makes of the event all that there is to it.
fn is_folded(event: &Event) -> bool {
    match event {
        Event::Blob { .. }
        | Event::Link { .. }
        | Event::Manifest(_)
        | Event::Tag { .. }
        | Event::Untag { .. }
        | Event::Delete { .. }
        | Event::Lock { .. }
        | Event::Copy { .. }
        | Event::Dead { .. }
        | Event::Abandon { .. }
        | Event::Member { .. }
        | Event::Lost { .. }
        | Event::Forwarded { .. }
        | Event::Identity(_)
        | Event::Role(_)
        | Event::Rule(_)
        | Event::PublicKey(_)
        | Event::Heartbeat {} => true,
        Event::Condemn { .. } | Event::Unknown(_) => false,
    }
}

impl Core {
    /// One round. `verified` are the last verified snapshots, the oldest first.
    pub(super) async fn trim(self: &Arc<Core>, verified: &[Manifest], status: &mut Status) -> Result<Trimmed, LedgerError> {
        if verified.len() < self.covering() {
            return Ok(Trimmed::default());
        }
        let least = |of: fn(Through) -> u64| verified.iter().map(|manifest| of(manifest.through())).min().unwrap_or_default();
        let covered = Through { ledger: least(|through| through.ledger), imports: least(|through| through.imports) };
        let floor = match self.planted.is(Bug::TrimmedWithoutCover) {
            true => self.folded_through()?,
            false => covered,
        };
        let members = self.index.read(|rows| Members::of(rows, &self.origin))?;
        let segments = self.trim_kind(Key::Ledger, (&mut status.trimmed.ledger, floor.ledger), &members).await?;
        let imports = self.trim_kind(Key::Import, (&mut status.trimmed.imports, floor.imports), &members).await?;
        let done = Trimmed { segments, imports, deleted: self.delete_snapshots(verified, covered).await? };
        self.metrics.ledger_trimmed(done.segments, done.imports);
        Ok(done)
    }

    /// How many snapshots must cover what is trimmed.
    fn covering(&self) -> usize {
        if self.planted.is(Bug::TrimmedOnOneSnapshot) || self.planted.is(Bug::TrimmedWithoutCover) { 1 } else { KEPT }
    }

    /// Trims one kind, from where the last round ended up to the floor. How many objects became stubs.
    async fn trim_kind(&self, key: fn(u64) -> Key, (passed, floor): (&mut u64, u64), members: &Members) -> Result<u64, LedgerError> {
        let (mut count, last) = (0, floor.min(passed.saturating_add(MAX_TRIMMED)));
        let mut is_needed = false;
        while *passed < last && !is_needed {
            let numbers: Vec<u64> = (*passed + 1..=last.min(*passed + AT_ONCE)).collect();
            let found = try_join_all(numbers.iter().map(|number| self.find_whole(key(*number), *number, members))).await?;
            let (mut stubs, mut reached) = (Vec::new(), *passed);
            for (number, found) in numbers.into_iter().zip(found) {
                match found {
                    Found::Whole(stub) => stubs.push((number, stub)),
                    Found::Passed => {}
                    Found::Needed => {
                        is_needed = true;
                        break;
                    }
                }
                reached = number;
            }
            self.put_stubs(key, &stubs).await?;
            (*passed, count) = (reached, count + stubs.len() as u64);
        }
        Ok(count)
    }

    async fn put_stubs(&self, key: fn(u64) -> Key, stubs: &[(u64, Bytes)]) -> Result<(), LedgerError> {
        let puts = join_all(stubs.iter().map(async |(number, stub)| self.bucket.put(&key(*number), stub.clone()).await)).await;
        Ok(puts.into_iter().collect::<Result<(), _>>()?)
    }

    /// What stands at a number, with the stub that would take its place.
    async fn find_whole(&self, key: Key, number: u64, members: &Members) -> Result<Found, LedgerError> {
        let broken = |why: &dyn std::fmt::Display| LedgerError::Broken(format!("{key}, to be trimmed: {why}"));
        let bytes = self.bucket.read(&key, MAX_IMPORT_BYTES.max(MAX_OBJECT_BYTES)).await?.ok_or_else(|| broken(&"it is not there"))?;
        let segments = match key {
            Key::Import(_) => imported(&bytes),
            _ => segment::decode(&bytes).map(|object| match object {
                Object::Segment(segment) => Some(vec![segment]),
                Object::Stub(_) => None,
            }),
        };
        let Some(segments) = segments.map_err(|why| broken(&why))? else { return Ok(Found::Passed) };
        if !segments.iter().all(|segment| members.have(&segment.header.origin, segment.header.seq)) {
            return Ok(Found::Needed);
        }
        if !segments.iter().flat_map(|segment| &segment.events).all(is_folded) {
            return Ok(Found::Passed);
        }
        let stub = Stub { trimmed: number, hash: segment::hash(&bytes) };
        let stub = if let Key::Import(_) = key { import::encode_stub(&stub) } else { segment::encode_stub(&stub) };
        Ok(Found::Whole(stub.map_err(|why| broken(&why))?))
    }

    /// Deletes the snapshots that need not be kept. One that covers more imports than these do is what an import stands for.
    async fn delete_snapshots(&self, kept: &[Manifest], covered: Through) -> Result<usize, LedgerError> {
        let is_old = |through: Through| {
            let is_covered = through.ledger <= covered.ledger && through.imports <= covered.imports;
            is_covered && !kept.iter().any(|manifest| manifest.through() == through)
        };
        let listed = self.bucket.list_snapshots().await?;
        let old: Vec<Key> =
            listed.into_iter().filter(|(through, _)| is_old(*through)).map(|(through, part)| Key::Snapshot(through, part)).collect();
        // Manifests stand last in the order of keys: shards without one are taken for nothing, a manifest without shards is refused.
        for keys in old.iter().rev().take(MAX_DELETED).collect::<Vec<_>>().chunks(AT_ONCE as usize) {
            try_join_all(keys.iter().map(|key| self.bucket.delete(key))).await?;
        }
        Ok(old.len().min(MAX_DELETED))
    }

    /// The last two snapshots that are whole, the oldest first; as many as there are. `known` are those that were found whole before.
    pub(super) async fn verified_snapshots(&self, known: &[Manifest]) -> Result<Vec<Manifest>, LedgerError> {
        let mut verified = Vec::new();
        for through in self.listed_snapshots().await?.into_iter().rev() {
            let Some(manifest) = self.manifest(through).await? else { continue };
            let is_known = known.contains(&manifest) || self.planted.is(Bug::ShardNotVerified);
            if if is_known { self.continues(&manifest).await? } else { self.verify(&manifest).await? } {
                verified.insert(0, manifest);
            } else {
                tracing::error!(%through, "a snapshot is damaged: it counts for nothing");
                self.metrics.ledger_snapshot("refused");
            }
            if verified.len() == KEPT {
                break;
            }
        }
        Ok(verified)
    }
}

/// The segments of an import; `None` for a stub.
fn imported(bytes: &Bytes) -> Result<Option<Vec<Segment>>, SegmentError> {
    let import::Object::Import(import) = import::decode(bytes)? else { return Ok(None) };
    let mut segments = Vec::with_capacity(import.segments.len());
    for bytes in &import.segments {
        if let Object::Segment(segment) = segment::decode(bytes)? {
            segments.push(segment);
        }
    }
    Ok(Some(segments))
}
