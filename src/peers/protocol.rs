//! What edges of different regions say to each other, as both sides write and read it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::oci::Digest;

/// Bytes of the segments in one answer, at most; one segment is always sent, however large.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// Segments in one answer, at most.
pub const MAX_BATCH_SEGMENTS: usize = 256;
/// How long an answer may be held back until there is something to tell.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// What stands before each segment: its length.
const FRAME_HEAD_BYTES: usize = 4;

/// Where a region stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub region: String,
    pub incarnation: String,
    /// The last segment of its own ledger.
    pub seq: u64,
    pub clock: ClockReading,
    /// The last of its imports.
    pub imports: u64,
    /// The last segment of every ledger that it has, by `region.incarnation`.
    pub seen: BTreeMap<String, u64>,
}

/// A hybrid clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    pub ms: u64,
    pub count: u32,
}

/// What a region knows of a manifest or a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub digest: Digest,
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// The bytes themselves, of what is small.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub inline: Option<Bytes>,
    /// As the ledger writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    /// Of a manifest: when it was pushed, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
    /// Of a manifest: what the ledger says of it, as the ledger writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn to_base64<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
        None => serializer.serialize_none(),
    }
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)).transpose()
}

/// Segments one behind the other, each after its length.
pub fn frame(segments: &[Bytes]) -> Bytes {
    let size_bytes = segments.iter().map(|segment| FRAME_HEAD_BYTES + segment.len()).sum();
    let mut framed = BytesMut::with_capacity(size_bytes);
    for segment in segments {
        framed.put_u32(u32::try_from(segment.len()).unwrap_or(u32::MAX));
        framed.put_slice(segment);
    }
    framed.freeze()
}

/// The segments of [`frame`]; `None` for what was not made so: too short, too many, or none at all.
pub fn unframe(mut framed: Bytes) -> Option<Vec<Bytes>> {
    let mut segments = Vec::new();
    while !framed.is_empty() {
        if framed.len() < FRAME_HEAD_BYTES || segments.len() == MAX_BATCH_SEGMENTS {
            return None;
        }
        let length = framed.get_u32() as usize;
        if length > framed.len() {
            return None;
        }
        segments.push(framed.split_to(length));
    }
    (!segments.is_empty()).then_some(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_read_back(segments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..20)) {
            let segments: Vec<Bytes> = segments.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(unframe(frame(&segments)), Some(segments));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = unframe(bytes.into());
        }
    }

    #[test]
    fn what_is_cut_or_too_much_is_none() {
        let whole = frame(&[Bytes::from_static(b"abc"), Bytes::from_static(b"de")]);
        for end in (0..whole.len()).filter(|end| *end != 7) {
            assert_eq!(unframe(whole.slice(..end)), None, "{end}");
        }
        assert_eq!(unframe(frame(&vec![Bytes::new(); MAX_BATCH_SEGMENTS])).map(|segments| segments.len()), Some(MAX_BATCH_SEGMENTS));
        assert_eq!(unframe(frame(&vec![Bytes::new(); MAX_BATCH_SEGMENTS + 1])), None);
    }

    #[test]
    fn what_was_found_reads_back() {
        let found = Found {
            digest: Digest::sha256(b"{}"),
            media_type: Some("a/b".to_owned()),
            size_bytes: 2,
            inline: Some(Bytes::from_static(b"{}")),
            places: vec!["eu.01/01J0Q4Z2V7B8C9D0E1F2G3H4J5".to_owned()],
            created_ms: Some(5),
            facts: Some(serde_json::json!({ "media_type": "a/b" })),
        };
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Found>(&text).unwrap(), found);
        assert!(text.contains(r#""inline":"e30=""#) && text.contains(r#""mediaType":"a/b""#), "{text}");
        let bare = format!(r#"{{"digest":"{}","size":5}}"#, found.digest);
        let read: Found = serde_json::from_str(&bare).unwrap();
        assert_eq!((&read.inline, read.places.len(), serde_json::to_string(&read).unwrap()), (&None, 0, bare));
    }
}
