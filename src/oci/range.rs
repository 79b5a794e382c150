//! Ranges of bytes: of blobs that are read (the `Range` request header of RFC 9110, section 14, as far as registries' clients use
//! it), and of chunks that are uploaded (distribution-spec, "Pushing a blob in chunks", whose `Content-Range` and `Range` have no unit).

use std::ops::Range;

/// One range as a client wrote it, before the length of the content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-` or `bytes=first-last`, both inclusive.
    From { first: u64, last: Option<u64> },
    /// `bytes=-length`: the end of the content.
    Suffix { length: u64 },
}

/// What to answer to a request, given its `Range` header and the content's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// 200 with the whole: there was no range, or one that cannot be read, or several (section 14.2 lets a server ignore them,
    /// and a thousand overlapping ranges would otherwise be an amplifier).
    Whole,
    /// 206 with these bytes: start inclusive, end exclusive, never empty.
    Part(Range<u64>),
    /// 416 with `Content-Range: bytes */length`.
    Unsatisfiable,
}

/// A part with the length of the whole, for `Content-Range`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeParts {
    pub range: Range<u64>,
    pub size_bytes: u64,
}

impl std::fmt::Display for RangeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes {}-{}/{}", self.range.start, self.range.end - 1, self.size_bytes)
    }
}

impl ByteRange {
    /// Reads a header's value. `None` means that the header is to be ignored.
    pub fn parse(value: &str) -> Option<ByteRange> {
        let (unit, set) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return None;
        }
        match set.trim().split_once('-')? {
            ("", length) => Some(ByteRange::Suffix { length: position(length)? }),
            (first, "") => Some(ByteRange::From { first: position(first)?, last: None }),
            (first, last) => {
                let (first, last) = (position(first)?, position(last)?);
                (first <= last).then_some(ByteRange::From { first, last: Some(last) })
            }
        }
    }

    /// Applies the range to a content of `size_bytes`.
    pub fn resolve(self, size_bytes: u64) -> RangeOutcome {
        let (start, end) = match self {
            ByteRange::From { first, last } => (first, last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes))),
            ByteRange::Suffix { length } => (size_bytes.saturating_sub(length), size_bytes),
        };
        if start < end { RangeOutcome::Part(start..end) } else { RangeOutcome::Unsatisfiable }
    }
}

/// What the head of a request says about the piece of a blob in its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins; `None` for a body that is streamed to wherever the session stands (docker, containerd, podman and crane
    /// send it so, with neither a range nor, mostly, a length).
    pub first: Option<u64>,
    /// How long it is, where that is told.
    pub size_bytes: Option<u64>,
}

/// Why a chunk's head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// 416, like a chunk out of order: so has the registry that the specification grew out of ("Invalid Content-Range header
    /// format", Docker Registry HTTP API V2, "Chunked Upload").
    #[error("a chunk's Content-Range is written first-last, without a unit")]
    Range,
    /// 400 SIZE_INVALID.
    #[error("the Content-Range and the Content-Length are of different lengths")]
    Length,
}

impl Chunk {
    /// Reads the heads of PATCH and of the closing PUT. The specification's form alone is taken: it "MUST match the regular expression
    /// `^[0-9]+-[0-9]+$`". RFC 9110's `bytes a-b/*` is not: the reference implementation and zot refuse it, so no client sends it.
    pub fn parse(content_range: Option<&str>, content_length: Option<u64>) -> Result<Chunk, ChunkError> {
        let Some(text) = content_range else { return Ok(Chunk { first: None, size_bytes: content_length }) };
        let (first, last) = text.split_once('-').ok_or(ChunkError::Range)?;
        let (first, last) = (position(first).ok_or(ChunkError::Range)?, position(last).ok_or(ChunkError::Range)?);
        let size_bytes = last.checked_sub(first).and_then(|distance| distance.checked_add(1)).ok_or(ChunkError::Range)?;
        // Whoever counts the end as one more than the last byte is told so now, not by a digest that does not match.
        if content_length.is_some_and(|length| length != size_bytes) {
            return Err(ChunkError::Length);
        }
        Ok(Chunk { first: Some(first), size_bytes: Some(size_bytes) })
    }

    /// Whether it can be appended to what a session has.
    pub fn follows(&self, received_bytes: u64) -> bool {
        self.first.is_none_or(|first| first == received_bytes)
    }
}

/// What a session has of its blob, as its answers tell it: `Range: 0-<last>`. One that has nothing says `0-0`, as the reference
/// implementation does: the form has no way to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRange {
    pub received_bytes: u64,
}

impl std::fmt::Display for ReceivedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0-{}", self.received_bytes.saturating_sub(1))
    }
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn position(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_of_clients() {
        let part = |start, end| RangeOutcome::Part(start..end);
        for (header, outcome) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=4-", part(4, 10)),
            ("bytes=4-4", part(4, 5)),
            ("bytes=4-99", part(4, 10)),
            ("Bytes=4-6", part(4, 7)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-99", part(0, 10)),
            ("bytes=-0", RangeOutcome::Unsatisfiable),
            ("bytes=10-", RangeOutcome::Unsatisfiable),
            ("bytes=18446744073709551615-", RangeOutcome::Unsatisfiable),
            ("bytes=0-18446744073709551615", part(0, 10)),
        ] {
            assert_eq!(ByteRange::parse(header).unwrap().resolve(10), outcome, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "items=0-1",
            "bytes=0-1,2-3",
            "bytes=+1-2",
            "bytes=18446744073709551616-",
            "bytes=a-b",
        ] {
            assert_eq!(ByteRange::parse(header), None, "{header}");
        }
    }

    #[test]
    fn chunks_are_where_their_heads_say() {
        let chunk = |first, size_bytes| Ok(Chunk { first, size_bytes });
        for (range, length, expected) in [
            (None, None, chunk(None, None)),
            (None, Some(5), chunk(None, Some(5))),
            (Some("0-4"), Some(5), chunk(Some(0), Some(5))),
            (Some("5-5"), Some(1), chunk(Some(5), Some(1))),
            (Some("5-9"), None, chunk(Some(5), Some(5))),
            (Some("0-18446744073709551614"), None, chunk(Some(0), Some(u64::MAX))),
            // Row 38.
            (Some("0-5"), Some(5), Err(ChunkError::Length)),
            (Some("0-0"), Some(0), Err(ChunkError::Length)),
        ] {
            assert_eq!(Chunk::parse(range, length), expected, "{range:?} {length:?}");
        }
    }

    #[test]
    fn a_content_range_that_is_no_chunk_is_refused() {
        for header in [
            "",
            "-",
            "0",
            "0-",
            "-5",
            "5-2",
            "+0-1",
            "0-+1",
            " 0-1",
            "0-1 ",
            "0-1-2",
            "0-1,2-3",
            "bytes=0-1",
            "bytes 0-1/2",
            "bytes 0-1/*",
            "0-1/*",
            "0x0-0x1",
            "0-18446744073709551615",
            "0-18446744073709551616",
        ] {
            assert_eq!(Chunk::parse(Some(header), None), Err(ChunkError::Range), "{header:?}");
        }
    }

    #[test]
    fn a_chunk_follows_what_is_there() {
        for (first, received_bytes, follows) in
            [(None, 7, true), (Some(7), 7, true), (Some(0), 0, true), (Some(6), 7, false), (Some(8), 7, false)]
        {
            assert_eq!(Chunk { first, size_bytes: None }.follows(received_bytes), follows, "{first:?} {received_bytes}");
        }
        for (received_bytes, range) in [(0, "0-0"), (1, "0-0"), (10, "0-9"), (u64::MAX, "0-18446744073709551614")] {
            assert_eq!(ReceivedRange { received_bytes }.to_string(), range);
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_the_content(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Some(RangeOutcome::Part(part)) = ByteRange::parse(&header).map(|range| range.resolve(size)) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
