//! How the index's keys and values are written. Numbers are big-endian, so that keys sort by value.
//!
//! ```text
//! blobs    algorithm (1: sha256, 2: sha512), hash  ->  version 1, size_bytes u64, last_use_ms u64, uses u32
//! records  the caller's key, UTF-8                 ->  version 1, touched_ms u64, the caller's bytes
//! totals   name                                    ->  u64
//! ```

use redb::TableDefinition;

use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

pub(super) const BLOBS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("blobs");
pub(super) const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
pub(super) const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");

/// In `totals`: the sizes of all blobs together.
pub(super) const BLOB_BYTES: &str = "blob_bytes";
/// In `totals`: 1 after an orderly end, when the index is known to agree with the folder.
pub(super) const ORDERLY: &str = "orderly";

/// The version of both values.
const VERSION: u8 = 1;

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobEntry {
    pub size_bytes: u64,
    pub last_use: Timestamp,
    pub uses: u32,
}

impl BlobEntry {
    pub fn encode(&self) -> [u8; 21] {
        let mut value = [0; 21];
        value[0] = VERSION;
        value[1..9].copy_from_slice(&self.size_bytes.to_be_bytes());
        value[9..17].copy_from_slice(&self.last_use.as_ms().to_be_bytes());
        value[17..].copy_from_slice(&self.uses.to_be_bytes());
        value
    }

    /// `None` for what this version did not write.
    pub fn decode(value: &[u8]) -> Option<BlobEntry> {
        let (&VERSION, rest) = value.split_first()? else { return None };
        let (size_bytes, rest) = rest.split_first_chunk()?;
        let (last_use, rest) = rest.split_first_chunk()?;
        Some(BlobEntry {
            size_bytes: u64::from_be_bytes(*size_bytes),
            last_use: Timestamp::from_ms(u64::from_be_bytes(*last_use)),
            uses: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// A caller's record with the time of its last use, as precisely as that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordEntry<'a> {
    pub touched: Timestamp,
    pub value: &'a [u8],
}

impl<'a> RecordEntry<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(9 + self.value.len());
        value.push(VERSION);
        value.extend_from_slice(&self.touched.as_ms().to_be_bytes());
        value.extend_from_slice(self.value);
        value
    }

    pub fn decode(value: &'a [u8]) -> Option<RecordEntry<'a>> {
        let (&VERSION, rest) = value.split_first()? else { return None };
        let (touched, value) = rest.split_first_chunk()?;
        Some(RecordEntry { touched: Timestamp::from_ms(u64::from_be_bytes(*touched)), value })
    }
}

/// The key of a blob.
pub(super) fn blob_key(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(65);
    key.push(algorithm_byte(digest.algorithm()));
    key.extend_from_slice(digest.as_bytes());
    key
}

pub(super) fn digest(key: &[u8]) -> Option<Digest> {
    let (first, hash) = key.split_first()?;
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|algorithm| algorithm_byte(*algorithm) == *first)?;
    Digest::from_parts(algorithm, hash)
}

/// What the keys of the blobs of one bucket begin with.
pub(super) fn bucket_prefix(algorithm: Algorithm, first: u8) -> [u8; 2] {
    [algorithm_byte(algorithm), first]
}

fn algorithm_byte(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(size_bytes: u64, last_use_ms: u64, uses: u32, value: Vec<u8>, name: Vec<u8>) {
            let last_use = Timestamp::from_ms(last_use_ms);
            let blob = BlobEntry { size_bytes, last_use, uses };
            prop_assert_eq!(BlobEntry::decode(&blob.encode()), Some(blob));
            let record = RecordEntry { touched: last_use, value: &value };
            let written = record.encode();
            prop_assert_eq!(RecordEntry::decode(&written), Some(record));
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let of = Digest::of(algorithm, &name);
                let key = blob_key(&of);
                prop_assert!(key.starts_with(&bucket_prefix(algorithm, of.as_bytes()[0])));
                prop_assert_eq!(digest(&key), Some(of));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, version in any::<bool>()) {
            let mut value = bytes;
            if let (true, Some(first)) = (version, value.first_mut()) {
                *first = VERSION;
            }
            prop_assert!(BlobEntry::decode(&value).is_none_or(|entry| entry.encode() == value.as_slice()));
            prop_assert!(RecordEntry::decode(&value).is_none_or(|entry| entry.encode() == value));
            prop_assert!(digest(&value).is_none_or(|found| blob_key(&found) == value));
        }
    }
}
