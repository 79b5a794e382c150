//! How an edge knows a request, or an answer, for a sibling's or for a peer's.
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
/// The same between the edges of two regions.
pub(super) const OUTPORT_PEER: HeaderName = HeaderName::from_static("outport-peer");

/// What the values are for: each serves one purpose only.
const OF_SIBLINGS: Purposes = Purposes { requests: "outport, requests of siblings, 1", answers: "outport, answers of siblings, 1" };
const OF_PEERS: Purposes = Purposes { requests: "outport, requests of peers, 1", answers: "outport, answers of peers, 1" };

struct Purposes {
    requests: &'static str,
    answers: &'static str,
}

/// What proves one edge to another.
#[derive(Debug)]
pub(super) struct Badge {
    header: HeaderName,
    /// Both are marked as sensitive: they do not print.
    asking: HeaderValue,
    answering: HeaderValue,
}

impl Badge {
    pub(super) fn new(token: &Secret) -> Badge {
        Badge::with(OUTPORT_SIBLING, token, &OF_SIBLINGS)
    }

    /// What proves an edge of one region to one of another.
    pub(super) fn of_peers(token: &Secret) -> Badge {
        Badge::with(OUTPORT_PEER, token, &OF_PEERS)
    }

    fn with(header: HeaderName, token: &Secret, purposes: &Purposes) -> Badge {
        Badge { header, asking: value(token, purposes.requests), answering: value(token, purposes.answers) }
    }

    pub(super) fn put_on_request(&self, headers: &mut HeaderMap) {
        headers.insert(self.header.clone(), self.asking.clone());
    }

    pub(super) fn put_on_answer(&self, headers: &mut HeaderMap) {
        headers.insert(self.header.clone(), self.answering.clone());
    }

    pub(super) fn is_on_request(&self, headers: &HeaderMap) -> bool {
        self.bears(headers, &self.asking)
    }

    pub(super) fn is_on_answer(&self, headers: &HeaderMap) -> bool {
        self.bears(headers, &self.answering)
    }

    /// Takes off what is for one hop only.
    pub(super) fn take_off(&self, headers: &mut HeaderMap) {
        headers.remove(&self.header);
    }

    /// Once, and compared in a time that does not tell where it differs.
    fn bears(&self, headers: &HeaderMap, value: &HeaderValue) -> bool {
        let mut given = headers.get_all(&self.header).iter();
        match (given.next(), given.next()) {
            (Some(only), None) => verify_slices_are_equal(only.as_bytes(), value.as_bytes()).is_ok(),
            _ => false,
        }
    }
}

fn value(token: &Secret, purpose: &str) -> HeaderValue {
    let text = URL_SAFE_NO_PAD.encode(derive(token, purpose));
    let mut value = HeaderValue::try_from(text).expect("base64 is printable ASCII");
    value.set_sensitive(true);
    value
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
        let (peers, mut of_peers) = (Badge::of_peers(&Secret::new("0123456789abcdef".to_owned())), HeaderMap::new());
        peers.put_on_request(&mut of_peers);
        assert!(peers.is_on_request(&of_peers) && !ours.is_on_request(&of_peers) && !peers.is_on_request(&asked));
        assert_ne!(of_peers[OUTPORT_PEER], asked[OUTPORT_SIBLING]);
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
