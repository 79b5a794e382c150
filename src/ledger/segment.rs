//! The codec of a ledger's objects.
//!
//! ```text
//! byte 0    the version of this layout, 1
//! the rest  zlib of JSON lines: {"segment": header} and an event in each line after it,
//!           or {"stub": {"trimmed": seq, "hash": hash of what stood here}} alone
//! ```
//! A segment's hash is that of the object's bytes: the next segment names it, so a ledger is a chain.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::identity::{HybridTime, Origin, VersionVector};
use crate::oci::{Algorithm, Digest};

/// Bytes of the lines of a segment's events together, at most.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// Events of one segment, at most.
pub const MAX_EVENTS: usize = 4_096;
/// Bytes of an object, at most: deflate adds little to what it cannot compress.
pub const MAX_OBJECT_BYTES: u64 = 1024 * 1024 + 128 * 1024;
/// Bytes of an object when unpacked, at most: the events and the header with its version vector.
const MAX_UNPACKED_BYTES: u64 = 1024 * 1024 + 64 * 1024;
const LAYOUT: u8 = 1;
/// What this program can read: a segment may demand more of its readers.
pub const READER: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub origin: Origin,
    pub seq: u64,
    /// The hash of the segment before; [`no_segment`] before the first.
    pub previous: Digest,
    /// Random for each attempt, so that a writer knows its own segment when an answer was lost.
    pub nonce: String,
    pub node: String,
    pub clock: HybridTime,
    /// The number of the last import folded in.
    pub imports: u64,
    /// What that import fixes: the last segment of each other region that was folded. Written out, so that who reads this segment
    /// elsewhere need not read this region's imports.
    #[serde(default, skip_serializing_if = "VersionVector::is_empty")]
    pub seen: VersionVector,
    /// The least [`READER`] that may fold this segment.
    pub least_reader: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub header: Header,
    pub events: Vec<Event>,
}

/// What stands at a ledger's key.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Segment(Segment),
    Stub(Stub),
}

/// What trimming leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stub {
    pub trimmed: u64,
    pub hash: Digest,
}

/// Why bytes are not a segment that can be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    #[error("layout version {0} is not known")]
    Layout(u8),
    #[error("it demands reader version {0}")]
    Reader(u32),
    #[error("damaged: {0}")]
    Damaged(String),
    #[error("it is larger than a segment may be")]
    TooLarge,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First {
    Segment(Header),
    Stub(Stub),
}

/// The hash that the first segment names as that of the one before it.
pub fn no_segment() -> Digest {
    Digest::from_parts(Algorithm::Sha256, &[0; 32]).expect("sha256 has 32 bytes")
}

/// The hash by which the next segment names this object.
pub fn hash(object: &[u8]) -> Digest {
    Digest::sha256(object)
}

/// Encodes a segment from its events' lines, which the caller has counted: at most [`MAX_EVENTS`] and [`MAX_EVENT_BYTES`].
pub fn encode(header: &Header, lines: &[String]) -> Result<Bytes, SegmentError> {
    let event_bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    if lines.len() > MAX_EVENTS || event_bytes > MAX_EVENT_BYTES {
        return Err(SegmentError::TooLarge);
    }
    pack(&First::Segment(header.clone()), lines)
}

/// What trimming leaves.
pub fn encode_stub(stub: &Stub) -> Result<Bytes, SegmentError> {
    pack(&First::Stub(stub.clone()), &[])
}

fn pack(first: &First, lines: &[String]) -> Result<Bytes, SegmentError> {
    let first = serde_json::to_string(first).map_err(damaged)?;
    let mut encoder = ZlibEncoder::new(vec![LAYOUT], Compression::fast());
    for line in std::iter::once(&first).chain(lines) {
        encoder.write_all(line.as_bytes()).and_then(|()| encoder.write_all(b"\n")).map_err(damaged)?;
    }
    let object = encoder.finish().map_err(damaged)?;
    if object.len() as u64 > MAX_OBJECT_BYTES { Err(SegmentError::TooLarge) } else { Ok(object.into()) }
}

/// Whether this stands where a segment was trimmed.
pub fn is_stub(object: &[u8]) -> bool {
    matches!(decode(object), Ok(Object::Stub(_)))
}

pub fn decode(object: &[u8]) -> Result<Object, SegmentError> {
    if object.len() as u64 > MAX_OBJECT_BYTES {
        return Err(SegmentError::TooLarge);
    }
    let text = unpack(object)?;
    let mut lines = text.lines();
    let header = match serde_json::from_str(lines.next().unwrap_or_default()).map_err(damaged)? {
        First::Segment(header) => header,
        First::Stub(stub) => return Ok(Object::Stub(stub)),
    };
    if header.least_reader > READER {
        return Err(SegmentError::Reader(header.least_reader));
    }
    let mut events = Vec::new();
    for line in lines {
        if events.len() == MAX_EVENTS {
            return Err(SegmentError::TooLarge);
        }
        events.push(Event::from_line(line).map_err(damaged)?);
    }
    Ok(Object::Segment(Segment { header, events }))
}

fn unpack(object: &[u8]) -> Result<String, SegmentError> {
    let packed = match object.split_first() {
        Some((&LAYOUT, packed)) => packed,
        Some((layout, _)) => return Err(SegmentError::Layout(*layout)),
        None => return Err(SegmentError::Damaged("empty".into())),
    };
    let mut text = String::new();
    let mut bounded = ZlibDecoder::new(packed).take(MAX_UNPACKED_BYTES + 1);
    bounded.read_to_string(&mut text).map_err(damaged)?;
    if text.len() as u64 > MAX_UNPACKED_BYTES {
        return Err(SegmentError::TooLarge);
    }
    // Without its last line's end, something is missing.
    if text.ends_with('\n') { Ok(text) } else { Err(SegmentError::Damaged("cut short".into())) }
}

fn damaged(why: impl std::fmt::Display) -> SegmentError {
    SegmentError::Damaged(why.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn header(seq: u64) -> Header {
        Header {
            origin: Origin::new("eu", "01"),
            seq,
            previous: no_segment(),
            nonce: "00ff".into(),
            node: "edge-1".into(),
            clock: HybridTime { ms: 5, count: 1 },
            imports: 0,
            seen: VersionVector::default(),
            least_reader: 1,
        }
    }

    fn untag(number: u64) -> Event {
        Event::untag("app".parse().unwrap(), format!("t{number}").parse().unwrap())
    }

    fn lines(events: &[Event]) -> Vec<String> {
        events.iter().map(|event| event.to_line().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn a_segment_reads_back_as_written(seq: u64, numbers: Vec<u64>, seen in proptest::collection::vec((0..9_u8, any::<u64>()), 0..3)) {
            let mut header = header(seq);
            for (region, seq) in seen {
                header.seen.raise(Origin::new(&format!("r{region}"), "1"), seq);
            }
            let events: Vec<Event> = numbers.into_iter().map(untag).collect();
            let object = encode(&header, &lines(&events)).unwrap();
            prop_assert_eq!(decode(&object), Ok(Object::Segment(Segment { header, events })));
        }

        #[test]
        fn any_bytes_are_refused_without_harm(mut bytes: Vec<u8>, is_layout: bool) {
            if let (true, Some(first)) = (is_layout, bytes.first_mut()) {
                *first = LAYOUT;
            }
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_or_flipped_segment_is_refused(at in 0..10_000_usize, bit in 0..8_u32) {
            let events: Vec<Event> = (0..20).map(untag).collect();
            let object = encode(&header(1), &lines(&events)).unwrap().to_vec();
            let at = at % object.len();
            prop_assert!(decode(&object[..at]).is_err());
            let mut flipped = object.clone();
            flipped[at] ^= 1 << bit;
            // Some bits say nothing: the announced window, the padding of the last compressed byte. The hash over all bytes holds those.
            if let Ok(read) = decode(&flipped) {
                prop_assert_eq!(format!("{read:?}"), format!("{:?}", decode(&object)?));
            }
        }
    }

    #[test]
    fn limits_hold_for_writers_and_readers() {
        let many: Vec<String> = lines(&(0..4_097).map(untag).collect::<Vec<_>>());
        assert!(encode(&header(1), &many[..4_096]).is_ok());
        assert_eq!(encode(&header(1), &many), Err(SegmentError::TooLarge));
        assert_eq!(encode(&header(1), &["x".repeat(MAX_EVENT_BYTES)]), Err(SegmentError::TooLarge));
        // What cannot be compressed fits all the same.
        let random: String = {
            let mut rng = fastrand::Rng::with_seed(1);
            (0..MAX_EVENT_BYTES - 100).map(|_| char::from(rng.u8(35..127))).collect()
        };
        assert!(encode(&header(1), &[format!("{{\"x\":\"{}\"}}", random.replace('\\', "/"))]).is_ok());
        // A small object that unpacks to much is refused in bounded memory.
        let bomb = pack(&First::Segment(header(1)), &vec!["x".repeat(1_000); 100_000]).unwrap();
        assert_eq!(decode(&bomb), Err(SegmentError::TooLarge));
        assert_eq!(decode(&vec![LAYOUT; MAX_OBJECT_BYTES as usize + 1]), Err(SegmentError::TooLarge));
        let crowded = pack(&First::Segment(header(1)), &vec!["{\"heartbeat\":{}}".to_owned(); 4_097]).unwrap();
        assert_eq!(decode(&crowded), Err(SegmentError::TooLarge));
    }

    #[test]
    fn stubs_and_newer_writers_are_told_apart() {
        let stub = Stub { trimmed: 7, hash: Digest::sha256(b"x") };
        assert_eq!(decode(&encode_stub(&stub).unwrap()), Ok(Object::Stub(stub)));
        let newer = Header { least_reader: READER + 1, ..header(1) };
        assert_eq!(decode(&encode(&newer, &[]).unwrap()), Err(SegmentError::Reader(READER + 1)));
        assert_eq!(decode(&[2, 0]), Err(SegmentError::Layout(2)));
        let unknown = "{\"seal\":{}}".to_owned();
        let Ok(Object::Segment(segment)) = decode(&encode(&header(1), std::slice::from_ref(&unknown)).unwrap()) else { panic!() };
        assert_eq!(segment.events, [Event::Unknown(unknown)]);
    }
}
