//! The headers of an upstream's answer, read once into values. Pure.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName};

use crate::clock::Timestamp;
use crate::oci::{Digest, DigestError};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// The longest query that a `Link` may carry.
const MAX_QUERY_BYTES: usize = 4 * 1024;

/// How many requests an upstream still allows, as it last told (Docker Hub's `ratelimit-remaining: 76;w=21600`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub remaining: u64,
    /// Requests in a window.
    pub limit: Option<u64>,
    pub window: Option<Duration>,
}

/// `Content-Range: bytes first-last/size` (RFC 9110, 14.4): both ends inclusive, `last >= first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// `None` for `*`.
    pub(super) size_bytes: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(value: &str) -> Option<ContentRange> {
        let (unit, rest) = value.trim().split_once(' ')?;
        let (range, size) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let size_bytes = if size == "*" { None } else { Some(number(size)?) };
        let fits = unit.eq_ignore_ascii_case("bytes") && first <= last && size_bytes.is_none_or(|size| last < size);
        fits.then_some(ContentRange { first, last, size_bytes })
    }
}

pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The media type, empty where it is missing or unreadable.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    text(headers, header::CONTENT_TYPE).unwrap_or_default()
}

/// `Content-Length` as one number; `None` where it is missing. (hyper refuses one that is no number.)
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(text(headers, header::CONTENT_LENGTH)?)
}

/// Whether the body is the content itself, not a compressed form of it.
pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The digest that the upstream gives for the content.
///
/// # Errors
/// When the header is there and cannot be read.
pub(super) fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, DigestError> {
    match headers.get(CONTENT_DIGEST) {
        None => Ok(None),
        Some(value) => value.to_str().map_err(|_| DigestError::Form)?.trim().parse().map(Some),
    }
}

/// `Retry-After`, seconds or a date (RFC 9110, 10.2.3), as a wait from `now`.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = text(headers, header::RETRY_AFTER)?.trim();
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_millis(now.as_ms())))
}

pub(super) fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let (remaining, window) = quota(text(headers, REMAINING)?)?;
    let limit = text(headers, LIMIT).and_then(quota);
    let window = window.or(limit.and_then(|(_, window)| window));
    Some(RateLimit { remaining, limit: limit.map(|(limit, _)| limit), window })
}

/// `76;w=21600`: a number of requests, and the window in seconds.
fn quota(value: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = value.split(';').map(str::trim);
    let requests = number(parts.next()?)?;
    let window = parts.find_map(|part| number(part.strip_prefix("w=")?)).map(Duration::from_secs);
    Some((requests, window))
}

/// The target of the `Link` header with `rel="next"` (RFC 8288, as the distribution specification uses it).
pub(super) fn next_link(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split([';', ',']).map(str::trim).any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            })
        });
        (is_next && target.len() <= MAX_QUERY_BYTES).then_some(target)
    })
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn content_ranges() {
        let range = |first, last, size_bytes| Some(ContentRange { first, last, size_bytes });
        for (value, expected) in [
            ("bytes 5-9/10", range(5, 9, Some(10))),
            ("Bytes 0-0/*", range(0, 0, None)),
            ("bytes 5-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes */10", None),
            ("items 0-1/2", None),
            ("bytes=0-1/2", None),
            ("bytes 0-18446744073709551616/*", None),
            ("bytes +0-1/2", None),
            ("bytes -1/2", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(value), expected, "{value}");
        }
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = Timestamp::from_ms(784_111_777_000);
        for (value, expected) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let found = retry_after(&headers(&[("retry-after", value)]), now);
            assert_eq!(found, expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn docker_hubs_limits() {
        let told = headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")]);
        let window = Some(Duration::from_secs(21_600));
        assert_eq!(rate_limit(&told), Some(RateLimit { remaining: 76, limit: Some(100), window }));
        assert_eq!(rate_limit(&headers(&[("ratelimit-remaining", "3")])), Some(RateLimit { remaining: 3, limit: None, window: None }));
        assert_eq!(rate_limit(&headers(&[("ratelimit-remaining", "x")])), None);
    }

    #[test]
    fn the_next_page_is_the_link_that_says_so() {
        for (value, expected) in [
            (r#"</v2/a/tags/list?last=b&n=1>; rel="next""#, Some("/v2/a/tags/list?last=b&n=1")),
            (r#"<?last=b>;REL=next"#, Some("?last=b")),
            (r#"</x>; rel="prev""#, None),
            (r#"</x>; title="rel=next""#, None),
            ("/x; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_link(&headers(&[("link", value)])), expected, "{value}");
        }
    }

    #[test]
    fn digests_and_codings() {
        let digest = Digest::sha256(b"");
        assert_eq!(content_digest(&headers(&[("docker-content-digest", &digest.to_string())])), Ok(Some(digest)));
        assert_eq!(content_digest(&headers(&[])), Ok(None));
        assert!(content_digest(&headers(&[("docker-content-digest", "md5:00")])).is_err());
        assert!(is_identity(&headers(&[("content-encoding", "Identity")])));
        assert!(!is_identity(&headers(&[("content-encoding", "gzip")])));
    }
}
