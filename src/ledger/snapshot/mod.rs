//! Snapshots: the fold through a segment and an import, written down, so that nobody needs the segments before.
//!
//! ```text
//! snapshots/<ledger>-<imports>/<attempt>-<number>   shards: the index's rows in order, compressed, about 4 MiB each when unpacked
//! snapshots/<ledger>-<imports>/manifest             created last: the hash, rows and bytes of each shard, and what they stand for
//! ```
//! # What is in one
//! All rows of the index but its own name: every row follows from the segments, none from the node (a region's own view, such as
//! what it wants to copy, follows from its name). Two nodes that fold the same make the same rows, in whatever order segments of
//! different regions came; so it does not matter who makes a snapshot, nor whether two do. Each attempt has names of its own for
//! its shards, and the one whose manifest was created counts.
//!
//! # Inline bytes
//! Manifests and configs travel in segments, so that trimming would lose them. Each snapshot holds them in its own shards, as rows
//! like all others, and not by reference to packs: then a snapshot is whole or it is not, whoever deletes what; no second kind of
//! object has to be collected, verified and kept as long as any snapshot names it; and a place that an index row names is never
//! moved under a reader. The price is that each snapshot writes them anew. It is paid every 20,000 segments, of which each holds
//! them once, so that at most doubles what was uploaded already. The last two verified snapshots are never deleted.
//!
//! # Beginning from one
//! A node whose next segment was trimmed, or that finds a snapshot far ahead of it, empties its index and loads the nearest
//! snapshot: named by `status.json`, which is advisory, else by a listing. A manifest that this program cannot read, that is another
//! ledger's, or whose last segment is not the bucket's own (it was set back) is passed over. Each shard is verified before a row of
//! it is taken; if one is wrong, all is thrown away and the next snapshot is tried. Until the last rows are in, which tell how far
//! the fold has come, the index has no name: a start finds it to be made anew. Nothing is folded meanwhile.
//!
//! # Newer programs
//! A segment with events that this program does not fold is never trimmed ([`super::trim`]), so that one which does finds them.
//! A program whose index has another format reads the rows of older snapshots, from this format on, or folds what is not trimmed.
//!
//! # A peer's snapshot
//! A region that joins a long history, or was away for long, finds its peer's segments trimmed. It adopts the peer's snapshot, the
//! fold of the vector `theirs`, if that covers all that it has imported. Then nothing need be merged claim by claim: the fold of
//! `theirs`, and behind it this region's own segments that the peer had not seen, is the fold of both, for the order of ledgers
//! does not matter. What is wanted is a region's own view, and made anew; imports are its own chain.
//!
//! So that every node takes this step at the same point, it is an import. The node writes the peer's rows as a snapshot of its own
//! region, at (the last own segment that the peer had seen, the *next* import), and then creates that import, which holds no segments
//! but names the vector. If another import wins the number, the snapshot does not continue into the bucket's imports, so nobody uses
//! it, and the step is tried again. Who folds such an import begins from that snapshot, or from one that covers it. Own segments
//! behind it must be whole, and stay so: a member that lacks them keeps them from being trimmed. A snapshot that an import stands
//! for is deleted only when others cover the import ([`super::trim`]).
//!
//! A region that has imported something which its peer's snapshot lacks cannot adopt it: it waits for a later one, or adopts that of
//! another peer. (The general merge of two states would be: of claims on a name, one in both stays, and one in one state alone stays
//! unless the vector of the other covers it; an event that a vector covers and a state lacks is dead.)

mod adopt;
mod load;
mod make;
mod shard;
mod tell;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use shard::{pack, unpack, without_last_row};

pub use adopt::Adopted;
pub use tell::Snapshots;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::core::Core;
use super::identity::{Origin, VersionVector};
use super::index;
use crate::bucket::{BucketError, Key, SnapshotPart, Through};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// What this program writes and reads.
const LAYOUT: u32 = 1;
/// Bytes of a manifest, at most: it has about 130 for each shard.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// What a snapshot stands for, and what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    layout: u32,
    /// The format of the index whose rows these are.
    index: u32,
    origin: Origin,
    through: Through,
    /// Of the last segment and the last import.
    hashes: (Digest, Digest),
    vector: VersionVector,
    #[serde(with = "ulid_text")]
    attempt: Ulid,
    pub made: Timestamp,
    node: String,
    shards: Vec<Shard>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shard {
    hash: Digest,
    rows: u64,
    size_bytes: u64,
}

mod ulid_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use ulid::Ulid;

    pub fn serialize<S: Serializer>(ulid: &Ulid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(ulid)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ulid, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Manifest {
    fn shard(&self, number: usize) -> SnapshotPart {
        SnapshotPart::Shard { attempt: self.attempt, number: u32::try_from(number).unwrap_or(u32::MAX) }
    }

    fn key(&self, number: usize) -> Key {
        Key::Snapshot(self.through, self.shard(number))
    }

    pub fn through(&self) -> Through {
        self.through
    }

    fn read(bytes: &[u8], origin: &Origin, through: Through) -> Option<Manifest> {
        let manifest: Option<Manifest> = serde_json::from_slice(bytes).ok();
        manifest.filter(|manifest| manifest.is_of(origin, through))
    }

    fn is_of(&self, origin: &Origin, through: Through) -> bool {
        (self.layout, self.index) == (LAYOUT, index::FORMAT) && self.origin == *origin && self.through == through
    }
}

impl Core {
    /// The manifest of a snapshot, if there is one that this program can use.
    pub async fn manifest(&self, through: Through) -> Result<Option<Manifest>, BucketError> {
        let key = Key::Snapshot(through, SnapshotPart::Manifest);
        let Some(bytes) = self.bucket.read(&key, MAX_MANIFEST_BYTES).await? else { return Ok(None) };
        let manifest = Manifest::read(&bytes, &self.origin, through);
        if manifest.is_none() {
            tracing::warn!(%through, "a snapshot is passed over: this program cannot use its manifest");
        }
        Ok(manifest)
    }

    /// Whether the snapshot continues into the bucket's own ledger and imports: a bucket that was set back has others.
    pub async fn continues(&self, manifest: &Manifest) -> Result<bool, BucketError> {
        let Through { ledger, imports } = manifest.through;
        Ok(self.has(&Key::Ledger(ledger), &manifest.hashes.0).await? && self.has(&Key::Import(imports), &manifest.hashes.1).await?)
    }
}
