//! What lies in a region's root, and under which key: the persisted names, each with its round trip.
//!
//! Repository and tag names never appear in keys, so that every key has a bounded length and a known alphabet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// An object of a region's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// What the root is: created once, together with it.
    Format,
    /// A segment of the region's own events, by its number.
    Ledger(u64),
    /// Segments of other regions, by their place in the order of import.
    Import(u64),
    /// Content. A key is never used again.
    Blob(Ulid),
    /// Inline bytes that trimming the ledger would lose.
    Pack(Ulid),
    /// A part of the folded state.
    Snapshot(Through, SnapshotPart),
    /// Advisory, overwritten: never a base of any decision.
    Status,
    /// Content of an upstream, which may be lost.
    Proxied(Digest),
    /// A part of a record.
    Record(RecordKind, RecordFile),
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Who did what.
    Audit,
    /// The lines of the log.
    Log,
}

/// A part of a record: what one node wrote within one hour. The file's name has the time of its first entry, which is the day and the hour
/// under which it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordFile {
    pub file: Ulid,
    pub node: Ulid,
}

/// What a snapshot is the fold of: the segments of both kinds up to these numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Through {
    pub ledger: u64,
    pub imports: u64,
}

/// The objects of a snapshot. Several nodes may make one at once: each under a name of its own, and the manifest, which is created
/// last and once, says whose counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotPart {
    Shard { attempt: Ulid, number: u32 },
    Manifest,
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key of a region's root")]
pub struct KeyError;

/// How many parts content is spread over, by the last byte of its key: a listing asks for one of them.
pub const BLOB_SHARDS: u16 = 256;
/// Decimal digits of a number in a key: enough for all of `u64`, so that keys sort as their numbers do.
const NUMBER_DIGITS: usize = 20;
/// And of the number of a snapshot's shard.
const SHARD_DIGITS: usize = 6;
pub(super) const SNAPSHOTS: &str = "snapshots";
const MANIFEST: &str = "manifest";
const AUDIT: &str = "audit";
const LOG: &str = "log";
const RECORD_SUFFIX: &str = ".jsonl.gz";

impl Key {
    /// The folder of one shard of the content.
    pub(super) fn shard_folder(shard: u8) -> String {
        format!("blobs/{shard:02x}")
    }
}

impl RecordKind {
    /// Where it lies in a root.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            RecordKind::Audit => AUDIT,
            RecordKind::Log => LOG,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Format => f.write_str("format.json"),
            Key::Ledger(seq) => write!(f, "ledger/{seq:0NUMBER_DIGITS$}"),
            Key::Import(seq) => write!(f, "imports/{seq:0NUMBER_DIGITS$}"),
            Key::Blob(ulid) => write!(f, "{}/{ulid}", Key::shard_folder(shard_of(*ulid))),
            Key::Pack(ulid) => write!(f, "packs/{ulid}"),
            Key::Snapshot(through, part) => write!(f, "{SNAPSHOTS}/{through}/{part}"),
            Key::Status => f.write_str("status.json"),
            Key::Proxied(digest) => write!(f, "proxied/{:02x}/{digest}", digest.as_bytes().first().copied().unwrap_or_default()),
            Key::Record(kind, RecordFile { file, node }) => {
                let began = Timestamp::from_ms(file.timestamp_ms());
                write!(f, "{}/{}/{:02}/{file}-{node}{RECORD_SUFFIX}", kind.folder(), began.day(), began.hour() % 24)
            }
        }
    }
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0NUMBER_DIGITS$}-{:0NUMBER_DIGITS$}", self.ledger, self.imports)
    }
}

impl FromStr for Through {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Through, KeyError> {
        let (ledger, imports) = text.split_once('-').ok_or(KeyError)?;
        Ok(Through { ledger: number(ledger)?, imports: number(imports)? })
    }
}

impl fmt::Display for SnapshotPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotPart::Shard { attempt, number } => write!(f, "{attempt}-{number:0SHARD_DIGITS$}"),
            SnapshotPart::Manifest => f.write_str(MANIFEST),
        }
    }
}

impl FromStr for SnapshotPart {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<SnapshotPart, KeyError> {
        let Some((attempt, number)) = text.split_once('-') else {
            return if text == MANIFEST { Ok(SnapshotPart::Manifest) } else { Err(KeyError) };
        };
        Ok(SnapshotPart::Shard { attempt: ulid(attempt)?, number: number.parse().map_err(|_| KeyError)? })
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
        let key = match folder.split('/').next() {
            Some("") if name == "format.json" => Key::Format,
            Some("") if name == "status.json" => Key::Status,
            Some("ledger") => Key::Ledger(number(name)?),
            Some("imports") => Key::Import(number(name)?),
            Some("blobs") => Key::Blob(ulid(name)?),
            Some("packs") => Key::Pack(ulid(name)?),
            Some(SNAPSHOTS) => Key::Snapshot(folder.split('/').nth(1).ok_or(KeyError)?.parse()?, name.parse()?),
            Some("proxied") => Key::Proxied(name.parse().map_err(|_| KeyError)?),
            Some(AUDIT) => Key::Record(RecordKind::Audit, record_file(name)?),
            Some(LOG) => Key::Record(RecordKind::Log, record_file(name)?),
            _ => return Err(KeyError),
        };
        // One text for one key: other spellings of the number, the letters or the folder are not ours.
        if key.to_string() == text { Ok(key) } else { Err(KeyError) }
    }
}

fn record_file(name: &str) -> Result<RecordFile, KeyError> {
    let (file, node) = name.strip_suffix(RECORD_SUFFIX).and_then(|name| name.split_once('-')).ok_or(KeyError)?;
    Ok(RecordFile { file: ulid(file)?, node: ulid(node)? })
}

/// The last byte is of the random part, so that shards fill evenly.
fn shard_of(ulid: Ulid) -> u8 {
    ulid.to_bytes()[15]
}

fn number(text: &str) -> Result<u64, KeyError> {
    if text.len() == NUMBER_DIGITS { text.parse().map_err(|_| KeyError) } else { Err(KeyError) }
}

fn ulid(text: &str) -> Result<Ulid, KeyError> {
    text.parse().map_err(|_| KeyError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Key> {
        let ulid = || any::<u128>().prop_map(|bits| Ulid::from_bytes(bits.to_be_bytes()));
        prop_oneof![
            Just(Key::Format),
            Just(Key::Status),
            any::<u64>().prop_map(Key::Ledger),
            any::<u64>().prop_map(Key::Import),
            ulid().prop_map(Key::Blob),
            ulid().prop_map(Key::Pack),
            (any::<u64>(), any::<u64>()).prop_map(|(ledger, imports)| Key::Snapshot(Through { ledger, imports }, SnapshotPart::Manifest)),
            (any::<u64>(), any::<u64>(), ulid(), any::<u32>()).prop_map(|(ledger, imports, attempt, number)| {
                Key::Snapshot(Through { ledger, imports }, SnapshotPart::Shard { attempt, number })
            }),
            any::<Vec<u8>>().prop_map(|bytes| Key::Proxied(Digest::sha256(&bytes))),
            any::<Vec<u8>>().prop_map(|bytes| Key::Proxied(Digest::of(crate::oci::Algorithm::Sha512, &bytes))),
            (any::<bool>(), ulid(), ulid()).prop_map(|(is_log, file, node)| {
                Key::Record(if is_log { RecordKind::Log } else { RecordKind::Audit }, RecordFile { file, node })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_key_reads_back(key in key()) {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn a_key_is_a_path_as_it_stands(key in key()) {
            let text = key.to_string();
            prop_assert_eq!(object_store::path::Path::from(text.as_str()).to_string(), text);
        }

        #[test]
        fn numbered_keys_sort_as_their_numbers(a: u64, b: u64) {
            prop_assert_eq!(Key::Ledger(a).to_string().cmp(&Key::Ledger(b).to_string()), a.cmp(&b));
            let (one, two) = (Through { ledger: a, imports: b }, Through { ledger: b, imports: a });
            prop_assert_eq!(one.to_string().cmp(&two.to_string()), one.cmp(&two));
        }

        #[test]
        fn any_text_is_read_back_or_refused(text in "(ledger|imports|blobs|packs|proxied|snapshots|audit|log)?/?[0-9a-fA-F/]{0,4}/?.{0,30}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn keys_are_as_the_format_has_them() {
        let ulid = Ulid::from_bytes(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes());
        for (key, text) in [
            (Key::Format, "format.json".to_owned()),
            (Key::Status, "status.json".to_owned()),
            (Key::Ledger(7), "ledger/00000000000000000007".to_owned()),
            (Key::Import(u64::MAX), "imports/18446744073709551615".to_owned()),
            (
                Key::Record(RecordKind::Audit, RecordFile { file: Ulid::from_parts(1_795_949_111_120, 1), node: ulid }),
                "audit/2026-11-29/10/01M8KEH9TG0000000000000001-014D2PF2DBSQQG28T5CY4TQKFF.jsonl.gz".to_owned(),
            ),
            (
                Key::Record(RecordKind::Log, RecordFile { file: Ulid::from_parts(1_795_949_111_120, 1), node: ulid }),
                "log/2026-11-29/10/01M8KEH9TG0000000000000001-014D2PF2DBSQQG28T5CY4TQKFF.jsonl.gz".to_owned(),
            ),
            (Key::Blob(ulid), "blobs/ef/014D2PF2DBSQQG28T5CY4TQKFF".to_owned()),
            (Key::Pack(ulid), "packs/014D2PF2DBSQQG28T5CY4TQKFF".to_owned()),
            (
                Key::Snapshot(Through { ledger: 7, imports: 3 }, SnapshotPart::Manifest),
                "snapshots/00000000000000000007-00000000000000000003/manifest".to_owned(),
            ),
            (
                Key::Snapshot(Through { ledger: 7, imports: 3 }, SnapshotPart::Shard { attempt: ulid, number: 12 }),
                "snapshots/00000000000000000007-00000000000000000003/014D2PF2DBSQQG28T5CY4TQKFF-000012".to_owned(),
            ),
            (Key::Proxied(Digest::sha256(b"")), format!("proxied/e3/{}", Digest::sha256(b""))),
        ] {
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "/",
            "format.json/",
            "/format.json",
            "ledger/7",
            "ledger/+0000000000000000007",
            "ledger/x/00000000000000000007",
            "ledger/99999999999999999999",
            "blobs/ee/014D2PF2DBSQQG28T5CY4TQKFF",
            "blobs/ef/014d2pf2dbsqqg28t5cy4tqkff",
            "blobs/ef/014D2PF2DBSQQG28T5CY4TQKFF#1",
            "packs/x",
            "audit/2026-11-29/11/01M8KEH9TG0000000000000001-014D2PF2DBSQQG28T5CY4TQKFF.jsonl.gz",
            "audit/2026-11-29/10/01M8KEH9TG0000000000000001-014D2PF2DBSQQG28T5CY4TQKFF.jsonl",
            "logs/2026-11-29/10/01M8KEH9TG0000000000000001-014D2PF2DBSQQG28T5CY4TQKFF.jsonl.gz",
            "snapshots/manifest",
            "snapshots/7-3/manifest",
            "snapshots/00000000000000000007/manifest",
            "snapshots/00000000000000000007-00000000000000000003/x/manifest",
            "snapshots/00000000000000000007-00000000000000000003/014D2PF2DBSQQG28T5CY4TQKFF-12",
            "proxied/00/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(text.parse::<Key>(), Err(KeyError), "{text}");
        }
    }
}
