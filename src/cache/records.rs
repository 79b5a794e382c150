//! What the cache remembers across restarts, beside the blobs: its records' keys and formats.
//!
//! A value is a version byte and JSON. One that cannot be read (an older or newer release wrote it) counts as absent: the cache is
//! disposable.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::oci::{Descriptor, Digest, RepositoryName, Tag};

const VERSION: u8 = 1;

/// Where a tag pointed when the upstream was last asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TagRecord {
    pub digest: Digest,
    pub checked_at: Timestamp,
}

/// The upstream said yes to this digest in this repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LinkRecord {
    /// The Content-Type of a manifest; a blob has none.
    pub media_type: Option<Arc<str>>,
    /// `None` while the upstream has not told it.
    pub size_bytes: Option<u64>,
    pub confirmed_at: Timestamp,
}

/// The bytes of this digest came from this upstream: it need not send them again for another of its repositories. Bytes that
/// another upstream brought do not count, or whoever runs a registry could claim the content of another one by its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HeldRecord;

/// What is known of a repository as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RepositoryRecord {
    /// When the upstream last refused to show it: a yes from before no longer counts.
    pub closed_at: Option<Timestamp>,
}

/// A list that the upstream gave: tags or referrers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct ListRecord<T> {
    pub items: Vec<T>,
    pub checked_at: Timestamp,
}

pub(super) type TagsRecord = ListRecord<Tag>;
pub(super) type ReferrersRecord = ListRecord<Descriptor>;

/// By which route a digest is reached: an upstream may answer to one and not to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Manifest,
    Blob,
}

/// What a record is about. On disk a key is a kind and its parts, joined by NUL, which no name, tag or digest contains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Tag(RepositoryName, Tag),
    Link(RepositoryName, Kind, Digest),
    Held(Arc<str>, Digest),
    Repository(RepositoryName),
    Tags(RepositoryName),
    Referrers(RepositoryName, Digest),
}

impl Key {
    /// The repository that it is about; none for what is an upstream's as a whole.
    pub(super) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Key::Tag(repository, _) | Key::Link(repository, ..) | Key::Repository(repository) | Key::Tags(repository) => Some(repository),
            Key::Referrers(repository, _) => Some(repository),
            Key::Held(..) => None,
        }
    }
}

/// Before the names of all repositories, for the catalogue.
pub(super) const REPOSITORY_PREFIX: &str = "repository\0";

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Tag(repository, tag) => write!(f, "tag\0{repository}\0{tag}"),
            Key::Link(repository, Kind::Manifest, digest) => write!(f, "manifest\0{repository}\0{digest}"),
            Key::Link(repository, Kind::Blob, digest) => write!(f, "blob\0{repository}\0{digest}"),
            Key::Held(upstream, digest) => write!(f, "held\0{upstream}\0{digest}"),
            Key::Repository(repository) => write!(f, "{REPOSITORY_PREFIX}{repository}"),
            Key::Tags(repository) => write!(f, "tags\0{repository}"),
            Key::Referrers(repository, subject) => write!(f, "referrers\0{repository}\0{subject}"),
        }
    }
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record).expect("records have string keys and write to memory");
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes.split_first()? {
        (&VERSION, json) => serde_json::from_slice(json).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_read_back(hash in any::<[u8; 32]>(), ms in any::<u64>(), size in any::<Option<u64>>(), media_type in proptest::option::of(".{0,40}")) {
            let digest = Digest::sha256(&hash);
            let (tag, at) = (TagRecord { digest, checked_at: Timestamp::from_ms(ms) }, Timestamp::from_ms(ms));
            prop_assert_eq!(decode::<TagRecord>(&encode(&tag)), Some(tag));
            let link = LinkRecord { media_type: media_type.map(Into::into), size_bytes: size, confirmed_at: at };
            prop_assert_eq!(decode::<LinkRecord>(&encode(&link)), Some(link));
            let repository = RepositoryRecord { closed_at: Some(at) };
            prop_assert_eq!(decode::<RepositoryRecord>(&encode(&repository)), Some(repository));
            let tags = TagsRecord { items: vec!["latest".parse().unwrap()], checked_at: at };
            prop_assert_eq!(decode::<TagsRecord>(&encode(&tags)), Some(tags));
        }

        #[test]
        fn what_cannot_be_read_is_absent(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(decode::<TagRecord>(&bytes), None);
        }
    }
}
