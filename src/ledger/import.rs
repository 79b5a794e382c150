//! The codec of `imports/<number>`: segments of other regions, verbatim, in the order in which this region folds them.
//!
//! ```text
//! byte 0        the version of this layout, 1
//! then          frames: a big-endian u32 length, and so many bytes
//! first frame   JSON: {"import": header}, or {"stub": {"trimmed": number, "hash": hash of what stood here}} alone
//! the others    a segment's object each, as its own region wrote it
//! ```
//! Imports are a chain, as ledgers are: each names the hash of the one before it. Each also tells the last segments of all other
//! ledgers that stand in it or before it, so that whoever looks for a segment finds its import by bisection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::identity::{Origin, VersionVector};
use super::segment::{MAX_OBJECT_BYTES, READER, SegmentError, Stub};
use crate::oci::Digest;

/// Segments of one import, at most, and their bytes together; one always fits.
pub const MAX_SEGMENTS: usize = 256;
pub const MAX_SEGMENT_BYTES: u64 = 4 << 20;
/// Bytes of an object, at most, with its header: a version vector of a thousand incarnations.
pub const MAX_IMPORT_BYTES: u64 = MAX_SEGMENT_BYTES + MAX_OBJECT_BYTES + MAX_HEADER_BYTES;
const MAX_HEADER_BYTES: u64 = 256 * 1024;
const LAYOUT: u8 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub number: u64,
    /// The hash of the import before; [`no_segment`](super::segment::no_segment) before the first.
    pub previous: Digest,
    pub nonce: String,
    pub node: String,
    /// The last segments of the other ledgers, this import's own included.
    pub seen: VersionVector,
    /// Holds no segments: it stands for a snapshot of this region's, made of that of another, which had all that was imported
    /// here before and more. `snapshot/` says how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<Origin>,
    pub least_reader: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub header: Header,
    pub segments: Vec<Bytes>,
}

/// What stands at an import's key.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Import(Import),
    Stub(Stub),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First {
    Import(Header),
    Stub(Stub),
}

pub fn encode(header: &Header, segments: &[Bytes]) -> Result<Bytes, SegmentError> {
    let bytes: u64 = segments.iter().map(|segment| segment.len() as u64).sum();
    if segments.len() > MAX_SEGMENTS || (segments.len() > 1 && bytes > MAX_SEGMENT_BYTES) || bytes > MAX_SEGMENT_BYTES + MAX_OBJECT_BYTES {
        return Err(SegmentError::TooLarge);
    }
    pack(&First::Import(header.clone()), segments)
}

/// What trimming leaves.
pub fn encode_stub(stub: &Stub) -> Result<Bytes, SegmentError> {
    pack(&First::Stub(stub.clone()), &[])
}

fn pack(first: &First, segments: &[Bytes]) -> Result<Bytes, SegmentError> {
    let first = serde_json::to_vec(first).map_err(|why| SegmentError::Damaged(why.to_string()))?;
    let length = 1 + segments.iter().map(|segment| 4 + segment.len()).sum::<usize>() + 4 + first.len();
    let mut object = BytesMut::with_capacity(length);
    object.put_u8(LAYOUT);
    for frame in std::iter::once(first.as_slice()).chain(segments.iter().map(AsRef::as_ref)) {
        object.put_u32(u32::try_from(frame.len()).map_err(|_| SegmentError::TooLarge)?);
        object.put_slice(frame);
    }
    Ok(object.freeze())
}

pub fn decode(object: &Bytes) -> Result<Object, SegmentError> {
    if object.len() as u64 > MAX_IMPORT_BYTES {
        return Err(SegmentError::TooLarge);
    }
    let mut rest = object.clone();
    match rest.split_first() {
        Some((&LAYOUT, _)) => rest.advance(1),
        Some((layout, _)) => return Err(SegmentError::Layout(*layout)),
        None => return Err(SegmentError::Damaged("empty".into())),
    }
    let first = frame(&mut rest)?;
    let header = match serde_json::from_slice(&first).map_err(|why| SegmentError::Damaged(why.to_string()))? {
        First::Import(header) => header,
        First::Stub(stub) => return Ok(Object::Stub(stub)),
    };
    if header.least_reader > READER {
        return Err(SegmentError::Reader(header.least_reader));
    }
    let mut segments = Vec::new();
    while !rest.is_empty() {
        if segments.len() == MAX_SEGMENTS {
            return Err(SegmentError::TooLarge);
        }
        segments.push(frame(&mut rest)?);
    }
    Ok(Object::Import(Import { header, segments }))
}

fn frame(rest: &mut Bytes) -> Result<Bytes, SegmentError> {
    let cut = || SegmentError::Damaged("cut short".into());
    if rest.len() < 4 {
        return Err(cut());
    }
    let length = rest.get_u32() as usize;
    if length > rest.len() { Err(cut()) } else { Ok(rest.split_to(length)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::ledger::segment::no_segment;

    fn header(number: u64) -> Header {
        let mut seen = VersionVector::default();
        seen.raise(Origin::new("us", "01"), number);
        Header { number, previous: no_segment(), nonce: "00ff".into(), node: "edge-1".into(), seen, adopts: None, least_reader: 1 }
    }

    proptest! {
        #[test]
        fn an_import_reads_back_as_written(number: u64, segments: Vec<Vec<u8>>) {
            let import = Import { header: header(number), segments: segments.into_iter().map(Bytes::from).collect() };
            let object = encode(&import.header, &import.segments).unwrap();
            prop_assert_eq!(decode(&object), Ok(Object::Import(import)));
        }

        #[test]
        fn any_bytes_and_any_cut_are_refused_without_harm(mut bytes: Vec<u8>, at in 0..1_000_usize) {
            if let Some(first) = bytes.first_mut() {
                *first = LAYOUT;
            }
            prop_assert!(decode(&Bytes::from(bytes)).is_err());
            let object = encode(&header(1), &[Bytes::from_static(b"abc")]).unwrap();
            let whole = object.len() - 7;
            // A cut between two frames is for the chain of hashes to find.
            let at = at % object.len();
            prop_assert_eq!(decode(&object.slice(..at)).is_ok(), at == whole);
        }
    }

    #[test]
    fn limits_and_newer_writers() {
        let many = vec![Bytes::from_static(b"x"); MAX_SEGMENTS + 1];
        assert_eq!(encode(&header(1), &many), Err(SegmentError::TooLarge));
        let large = Bytes::from(vec![0; MAX_SEGMENT_BYTES as usize / 2 + 1]);
        assert_eq!(encode(&header(1), &[large.clone(), large.clone()]), Err(SegmentError::TooLarge));
        assert!(encode(&header(1), &[large]).is_ok());
        let newer = Header { least_reader: READER + 1, ..header(1) };
        assert_eq!(decode(&encode(&newer, &[]).unwrap()), Err(SegmentError::Reader(READER + 1)));
        assert_eq!(decode(&Bytes::from_static(&[2, 0])), Err(SegmentError::Layout(2)));
        let stub = Stub { trimmed: 3, hash: no_segment() };
        assert_eq!(decode(&encode_stub(&stub).unwrap()), Ok(Object::Stub(stub)));
    }
}
