//! The `Range` request header (RFC 9110, section 14), as far as registries' clients use it: one range of bytes.

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

    proptest! {
        #[test]
        fn a_part_lies_inside_the_content(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Some(RangeOutcome::Part(part)) = ByteRange::parse(&header).map(|range| range.resolve(size)) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
