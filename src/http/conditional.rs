//! What a GET's conditions and range make of a whole answer (RFC 9110, sections 13 and 14): pure.

use std::ops::Range;

use http::HeaderMap;
use http::header;

use crate::oci::{ByteRange, RangeOutcome};

/// What to send of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portion {
    /// 200.
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// Whether `If-None-Match` names this entity tag (with its quotes): then the answer is 304, whatever range was asked.
pub fn is_unmodified(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // The comparison is the weak one (section 13.1.2); our own tags hold no comma.
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Applies `Range` and `If-Range` to a content of `size_bytes`. While the length is not known, the whole is all there is to give.
pub fn portion(headers: &HeaderMap, etag: &str, size_bytes: Option<u64>) -> Portion {
    let (Some(range), Some(size_bytes)) = (single_range(headers), size_bytes) else { return Portion::Whole };
    // A date in If-Range cannot match either: blobs have no modification time (section 13.1.5).
    if headers.get(header::IF_RANGE).is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Portion::Whole;
    }
    match range.resolve(size_bytes) {
        RangeOutcome::Whole => Portion::Whole,
        RangeOutcome::Part(part) => Portion::Part(part),
        RangeOutcome::Unsatisfiable => Portion::Unsatisfiable,
    }
}

/// The range, where there is exactly one that can be read.
fn single_range(headers: &HeaderMap) -> Option<ByteRange> {
    let mut values = headers.get_all(header::RANGE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => ByteRange::parse(value.to_str().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"sha256:abc\"";

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn ranged(range: &str) -> Portion {
        portion(&headers(&[(header::RANGE, range)]), ETAG, Some(10))
    }

    #[test]
    fn row_31_single_and_suffix_ranges_are_exact() {
        for (range, part) in [("bytes=0-0", 0..1), ("bytes=4-", 4..10), ("bytes=2-5", 2..6), ("bytes=-3", 7..10), ("bytes=-99", 0..10)] {
            assert_eq!(ranged(range), Portion::Part(part), "{range}");
        }
    }

    #[test]
    fn row_32_past_the_end_is_unsatisfiable() {
        for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
            assert_eq!(ranged(range), Portion::Unsatisfiable, "{range}");
        }
    }

    #[test]
    fn row_33_many_ranges_do_not_amplify() {
        let many = format!("bytes={}", vec!["0-"; 1000].join(","));
        assert_eq!(ranged(&many), Portion::Whole);
        let mut twice = headers(&[(header::RANGE, "bytes=0-1")]);
        twice.append(header::RANGE, "bytes=2-3".parse().unwrap());
        assert_eq!(portion(&twice, ETAG, Some(10)), Portion::Whole);
    }

    #[test]
    fn row_34_unreadable_ranges_are_ignored() {
        for range in ["bytes=5-2", "bytes=18446744073709551616-", "bytes=--1", "pages=1-2", "bytes=\u{e9}"] {
            assert_eq!(ranged(range), Portion::Whole, "{range}");
        }
    }

    #[test]
    fn row_35_a_range_of_an_unknown_length_is_answered_with_the_whole() {
        assert_eq!(portion(&headers(&[(header::RANGE, "bytes=4-")]), ETAG, None), Portion::Whole);
    }

    #[test]
    fn row_36_conditions_decide_before_ranges() {
        for (value, unmodified) in [
            (ETAG, true),
            ("*", true),
            ("\"x\", \"sha256:abc\"", true),
            ("W/\"sha256:abc\"", true),
            ("\"x\"", false),
            ("sha256:abc", false),
        ] {
            assert_eq!(is_unmodified(&headers(&[(header::IF_NONE_MATCH, value)]), ETAG), unmodified, "{value}");
        }
        assert!(!is_unmodified(&HeaderMap::new(), ETAG));
        for (condition, expected) in
            [(ETAG, Portion::Part(4..10)), ("\"x\"", Portion::Whole), ("Wed, 21 Oct 2015 07:28:00 GMT", Portion::Whole)]
        {
            let headers = headers(&[(header::RANGE, "bytes=4-"), (header::IF_RANGE, condition)]);
            assert_eq!(portion(&headers, ETAG, Some(10)), expected, "{condition}");
        }
    }
}
