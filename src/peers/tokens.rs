//! How an edge knows a request of another region's edge, and proves its answers to it.
//!
//! A peer's own requests bear the token that both regions share. A client's request that a peer passes on bears the client's
//! credentials instead, and beside them a value derived from that token. Every answer to either bears another such value: a load
//! balancer, a proxy, or an edge of somebody else's that says 404 is not taken for the region that denies something.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::Tag;
use http::{HeaderMap, header};

use super::badge::Badge;
use super::seal::derive;
use crate::config::{self, Secret};

/// What the comparison of tokens is made with: values of one length, whatever was sent.
const OF_BEARERS: &str = "outport, bearers of peers, 1";

/// The tokens of the configured peers. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<[Known]>);

#[derive(Debug)]
struct Known {
    region: Arc<str>,
    bearer: Tag,
    badge: Badge,
}

/// The proof that a request comes from an edge of a peer: only [`Tokens`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<str>);

impl Caller {
    /// The peer.
    pub fn region(&self) -> &Arc<str> {
        &self.0
    }
}

impl Tokens {
    pub fn new(peers: &[config::Peer]) -> Tokens {
        let known = peers.iter().filter_map(|peer| {
            let token = peer.token.as_ref()?;
            Some(Known { region: peer.region.as_str().into(), bearer: derive(token, OF_BEARERS), badge: Badge::of_peers(token) })
        });
        Tokens(known.collect())
    }

    /// Whether nobody can be known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who asks, if the request bears the token of a peer. Each token is looked at, whichever it is.
    pub fn judge(&self, headers: &HeaderMap) -> Option<Caller> {
        if self.is_empty() {
            return None;
        }
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(only), None) = (given.next(), given.next()) else { return None };
        let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let given = derive(&Secret::new(token.to_owned()), OF_BEARERS);
        let matching = |known: &&Known| verify_slices_are_equal(known.bearer.as_ref(), given.as_ref()).is_ok();
        let matching: Vec<&Known> = self.0.iter().filter(matching).collect();
        matching.first().map(|known| Caller(known.region.clone()))
    }

    /// Whether a client's request was passed on by a peer. Such a request is never passed on to another region again.
    pub fn has_passed(&self, headers: &HeaderMap) -> bool {
        self.0.iter().any(|known| known.badge.is_on_request(headers))
    }

    /// Marks an answer as this region's, if a peer asked for it or passed it on.
    pub fn vouch(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let asker = match self.judge(asked) {
            Some(caller) => self.0.iter().find(|known| known.region == caller.0),
            None => self.0.iter().find(|known| known.badge.is_on_request(asked)),
        };
        if let Some(known) = asker {
            known.badge.put_on_answer(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn peer(region: &str, token: Option<&str>) -> config::Peer {
        let token = token.map(|token| Secret::new(token.to_owned()));
        config::Peer { region: region.to_owned(), bucket: None, edges: Vec::new(), token, ca_file: None, clients: Vec::new() }
    }

    fn asked(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_peer_is_known_by_its_token_alone() {
        let tokens = Tokens::new(&[peer("us", Some("0123456789abcdef")), peer("ap", Some("fedcba9876543210")), peer("none", None)]);
        for (values, region) in [
            (&["Bearer 0123456789abcdef"][..], Some("us")),
            (&["bearer fedcba9876543210"], Some("ap")),
            (&["Bearer 0123456789abcdeF"], None),
            (&["Bearer 0123456789abcdef "], None),
            (&["Bearer "], None),
            (&["Bearer"], None),
            (&["Basic 0123456789abcdef"], None),
            (&["0123456789abcdef"], None),
            (&[], None),
            (&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"], None),
        ] {
            assert_eq!(tokens.judge(&asked(values)).as_ref().map(|caller| &**caller.region()), region, "{values:?}");
        }
        assert!(!tokens.is_empty() && Tokens::default().is_empty());
        assert_eq!(Tokens::default().judge(&asked(&["Bearer 0123456789abcdef"])), None);
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn answers_are_vouched_for_to_peers_only() {
        let token = Secret::new("0123456789abcdef".to_owned());
        let (tokens, badge) = (Tokens::new(&[peer("us", Some(token.expose()))]), Badge::of_peers(&token));
        let mut passed = HeaderMap::new();
        badge.put_on_request(&mut passed);
        assert!(tokens.has_passed(&passed) && !tokens.has_passed(&asked(&["Bearer 0123456789abcdef"])));
        for (asked, vouched) in [(asked(&["Bearer 0123456789abcdef"]), true), (passed, true), (asked(&["Bearer x"]), false)] {
            let mut answer = HeaderMap::new();
            tokens.vouch(&asked, &mut answer);
            assert_eq!(badge.is_on_answer(&answer), vouched);
            assert_eq!(answer.len(), usize::from(vouched));
        }
    }
}
