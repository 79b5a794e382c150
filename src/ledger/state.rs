//! What the fold keeps: claims on names, and the rows of the other tables.
//!
//! A name (a tag, a manifest or a link in a repository) is a set of live claims. An event on a name supersedes every claim that its
//! writer had seen; claims that had not seen each other stay side by side, and the greatest wins. So live claims are an antichain,
//! and their set does not depend on the order in which regions' events arrive.

use super::event::{Attributes, ManifestFacts, Standing};
use super::identity::{HybridTime, Origin, Place, VersionVector};
use super::planted::{Bug, Planted};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// An event's identity and what its writer had seen.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    pub origin: &'a Origin,
    pub seq: u64,
    pub index: u32,
    pub clock: HybridTime,
    /// Of other ledgers; of its own, all that comes before it.
    pub seen: &'a VersionVector,
    /// The region whose index it is.
    pub home: &'a str,
    pub planted: Planted,
}

impl Moment<'_> {
    /// Whether the writer had seen the claim.
    pub fn covers<T>(&self, claim: &Claim<T>) -> bool {
        if claim.origin != *self.origin {
            return self.seen.covers(&claim.origin, claim.seq) || self.planted.is(Bug::DeleteTakesUnseen);
        }
        if self.planted.is(Bug::IndexNotCovered) {
            return claim.seq < self.seq;
        }
        (claim.seq, claim.index) < (self.seq, self.index)
    }
}

/// A live event on a name. The order of the fields is the order of claims: the greatest wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim<T> {
    pub clock: HybridTime,
    pub origin: Origin,
    pub seq: u64,
    pub index: u32,
    pub value: T,
}

impl<T> Claim<T> {
    fn rank(&self) -> (HybridTime, &Origin, u64, u32) {
        (self.clock, &self.origin, self.seq, self.index)
    }

    fn identity(&self) -> (&Origin, u64, u32) {
        (&self.origin, self.seq, self.index)
    }
}

/// The live claims on a name, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims<T>(Vec<Claim<T>>);

impl<T> Default for Claims<T> {
    fn default() -> Claims<T> {
        Claims(Vec::new())
    }
}

impl<T> Claims<T> {
    pub fn from_sorted(claims: Vec<Claim<T>>) -> Claims<T> {
        Claims(claims)
    }

    pub fn as_slice(&self) -> &[Claim<T>] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn winner(&self) -> Option<&Claim<T>> {
        self.0.last()
    }

    /// Removes the claims that the event covers.
    pub fn supersede(&mut self, moment: &Moment<'_>) {
        self.0.retain(|claim| !moment.covers(claim));
    }

    /// Removes the claims that the event covers and that are like this.
    pub fn supersede_those(&mut self, moment: &Moment<'_>, like: impl Fn(&T) -> bool) {
        self.0.retain(|claim| !(moment.covers(claim) && like(&claim.value)));
    }

    /// Forgets all but the winner.
    pub fn keep_greatest(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(1));
    }

    /// Adds the event's claim, once.
    pub fn add(&mut self, moment: &Moment<'_>, value: T) {
        let claim = Claim { clock: moment.clock, origin: moment.origin.clone(), seq: moment.seq, index: moment.index, value };
        if self.0.iter().any(|other| other.identity() == claim.identity()) {
            return;
        }
        let at = self.0.partition_point(|other| other.rank() < claim.rank());
        self.0.insert(at, claim);
    }
}

/// A tag's claim: the digest, and when the name was made.
#[derive(Clone, Debug, PartialEq)]
pub struct TagClaim {
    pub digest: Digest,
    pub created: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ManifestClaim {
    pub created: Timestamp,
    pub facts: ManifestFacts,
}

/// A lock of a tag, a manifest or a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct LockClaim {
    pub attributes: Attributes,
    /// What the tag was when it was locked: so it stays in every region, whatever was concurrent with the lock.
    pub digest: Option<Digest>,
}

impl LockClaim {
    /// What the tag is, whatever its claims say, while it must not be changed.
    pub fn pins(&self) -> Option<Digest> {
        self.digest.filter(|_| !self.attributes.write)
    }
}

/// What somebody made of a record of the control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlClaim {
    /// As JSON; `None`: it was removed.
    pub content: Option<Vec<u8>>,
}

/// A content that some event named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContentRow {
    pub size_bytes: u64,
    /// When an event first named it.
    pub since: Timestamp,
    /// Its bytes stand in the table of inline content.
    pub inline: bool,
    /// Sorted; neither dead nor abandoned.
    pub places: Vec<Place>,
}

impl ContentRow {
    /// Whether its bytes can be had.
    pub fn is_live(&self) -> bool {
        self.inline || !self.places.is_empty()
    }
}

/// A place that some event named.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlaceRow {
    /// Abandoned or dead: its bytes may be deleted at any time.
    pub gone: bool,
    pub named_by: Option<Digest>,
    /// When an event first named it.
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepositoryRow {
    pub created: Timestamp,
    pub updated: Timestamp,
    pub tags: u64,
    pub manifests: u64,
    pub links: u64,
}

/// What an upstream has under a name, and when that was noted. The order of the fields is the order of rows: the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardRow {
    pub clock: HybridTime,
    pub digest: Digest,
}

/// Whether an incarnation of a region is a member, by the last word on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberRow {
    pub clock: HybridTime,
    pub standing: Standing,
}

/// Where the imports were folded to.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportsRow {
    pub number: u64,
    pub hash: Digest,
    /// Who wrote the last one.
    pub node: String,
}

/// Where a ledger was folded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LedgerRow {
    pub seq: u64,
    pub hash: Digest,
    pub clock: HybridTime,
    /// What its last segment says of imports.
    pub imports: u64,
}
