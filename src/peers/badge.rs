//! How an edge knows a request, or an answer, for a sibling's.
//!
//! Not the token itself goes over the wire but a value derived from it, one for requests and another for answers. An address that was a
//! sibling's yesterday may be anybody's today: whoever gets a request there learns nothing that seals locations, and cannot answer
//! as a sibling by sending back what it got.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::seal::derive;
use crate::config::Secret;

/// In a request: it comes from a sibling and is not passed on again. In its answer: a sibling gave it.
pub const OUTPORT_SIBLING: HeaderName = HeaderName::from_static("outport-sibling");
const OF_REQUESTS: &str = "outport, requests of siblings, 1";
const OF_ANSWERS: &str = "outport, answers of siblings, 1";

/// What proves one edge to another.
#[derive(Debug)]
pub(super) struct Badge {
    /// Both are marked as sensitive: they do not print.
    asking: HeaderValue,
    answering: HeaderValue,
}

impl Badge {
    pub(super) fn new(token: &Secret) -> Badge {
        Badge { asking: value(token, OF_REQUESTS), answering: value(token, OF_ANSWERS) }
    }

    pub(super) fn put_on_request(&self, headers: &mut HeaderMap) {
        headers.insert(OUTPORT_SIBLING, self.asking.clone());
    }

    pub(super) fn put_on_answer(&self, headers: &mut HeaderMap) {
        headers.insert(OUTPORT_SIBLING, self.answering.clone());
    }

    pub(super) fn is_on_request(&self, headers: &HeaderMap) -> bool {
        bears(headers, &self.asking)
    }

    pub(super) fn is_on_answer(&self, headers: &HeaderMap) -> bool {
        bears(headers, &self.answering)
    }
}

fn value(token: &Secret, purpose: &str) -> HeaderValue {
    let text = URL_SAFE_NO_PAD.encode(derive(token, purpose));
    let mut value = HeaderValue::try_from(text).expect("base64 is printable ASCII");
    value.set_sensitive(true);
    value
}

/// Once, and compared in a time that does not tell where it differs.
fn bears(headers: &HeaderMap, value: &HeaderValue) -> bool {
    let mut given = headers.get_all(OUTPORT_SIBLING).iter();
    match (given.next(), given.next()) {
        (Some(only), None) => verify_slices_are_equal(only.as_bytes(), value.as_bytes()).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn badge(token: &str) -> Badge {
        Badge::new(&Secret::new(token.to_owned()))
    }

    fn bearing(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (OUTPORT_SIBLING, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn only_who_has_the_token_is_known() {
        let (ours, mut asked, mut answered) = (badge("0123456789abcdef"), HeaderMap::new(), bearing(&["forged"]));
        ours.put_on_request(&mut asked);
        ours.put_on_answer(&mut answered);
        assert!(ours.is_on_request(&asked) && badge("0123456789abcdef").is_on_answer(&answered));
        assert!(!badge("0123456789abcdeF").is_on_request(&asked));
        assert!(!ours.is_on_answer(&asked) && !ours.is_on_request(&answered), "the one is not the other");
        let good = asked[OUTPORT_SIBLING].to_str().unwrap();
        for forged in [&[][..], &[""], &["0123456789abcdef"], &[&good[1..]], &[good, good], &["", good], &[&good.to_lowercase()]] {
            assert!(!ours.is_on_request(&bearing(forged)), "{forged:?}");
        }
    }

    #[test]
    fn nothing_of_it_prints() {
        let (ours, mut headers) = (badge("0123456789abcdef"), HeaderMap::new());
        ours.put_on_request(&mut headers);
        let good = headers[OUTPORT_SIBLING].to_str().unwrap();
        assert!(!good.contains("0123456789abcdef"));
        for printed in [format!("{ours:?}"), format!("{headers:?}")] {
            assert!(!printed.contains(good) && !printed.contains("0123456789abcdef"), "{printed}");
        }
    }
}
