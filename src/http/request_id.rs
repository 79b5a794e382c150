//! `X-Request-Id`: the client's, where it is fit to be repeated, else one of ours.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, HeaderName};

use crate::clock::Timestamp;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_CHARS: usize = 64;
/// Of ours.
const CHARS: usize = 26;
/// Crockford's base 32, as ULIDs use it.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes identifiers of a ULID's form: 48 bits of time, then 48 that are this process's own, then a counter. Sorted by time, unique
/// across edges, and not meant to be secret.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    counter: AtomicU32,
}

impl RequestIds {
    pub fn new() -> RequestIds {
        // The standard library's hasher keys are random for each process and instance.
        RequestIds { process: RandomState::new().hash_one(0) >> 16, counter: AtomicU32::new(0) }
    }

    /// The identifier of a request that came with `headers` at `now`.
    pub fn choose(&self, headers: &HeaderMap, now: Timestamp) -> String {
        let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
        given.filter(|text| is_fit(text)).map_or_else(|| self.next(now), str::to_owned)
    }

    fn next(&self, now: Timestamp) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        // Ten characters are 50 bits and eight are 40: no number has to be as wide as the whole.
        let parts = [(now.as_ms(), 0..10), (self.process >> 8, 10..18), ((self.process & 0xff) << 32 | u64::from(count), 18..CHARS)];
        let mut id = [0; CHARS];
        for (mut bits, places) in parts {
            for place in id[places].iter_mut().rev() {
                *place = ALPHABET[bits as usize & 31];
                bits >>= 5;
            }
        }
        str::from_utf8(&id).expect("the alphabet is ASCII").to_owned()
    }
}

fn is_fit(text: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    !text.is_empty() && text.len() <= MAX_CHARS && text.bytes().all(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(given: &str) -> String {
        let headers = [(X_REQUEST_ID, given.parse().unwrap())].into_iter().collect();
        RequestIds::new().choose(&headers, Timestamp::from_ms(1_469_918_176_385))
    }

    #[test]
    fn a_fit_identifier_is_the_clients() {
        assert_eq!(chosen("01ARYZ-x.y_z"), "01ARYZ-x.y_z");
        for unfit in ["", "a b", "\u{1b}[2J", "a\"b", &"x".repeat(65)] {
            let value = http::HeaderValue::from_bytes(unfit.as_bytes());
            let Ok(value) = value else { continue };
            let headers = [(X_REQUEST_ID, value)].into_iter().collect();
            assert_eq!(RequestIds::new().choose(&headers, Timestamp::default()).len(), 26, "{unfit}");
        }
    }

    #[test]
    fn ours_have_a_ulids_form_and_are_unique() {
        let (ids, none, now) = (RequestIds::new(), HeaderMap::new(), Timestamp::from_ms(1_469_918_176_385));
        let (first, second) = (ids.choose(&none, now), ids.choose(&none, now));
        // The time's part as the ULID specification's own example has it.
        assert!(first.starts_with("01ARYZ6S41") && first.len() == 26, "{first}");
        assert!(first < second);
        assert_ne!(first[10..], RequestIds::new().choose(&none, now)[10..]);
    }
}
