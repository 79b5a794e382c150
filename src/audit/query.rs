//! What is looked for in the record.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::entry::{Entry, Outcome};
use crate::access::{Pattern, canonical};
use crate::clock::Timestamp;
use crate::config::parse_duration;

/// Entries in one answer, at most, and when nobody says.
pub const MAX_LIMIT: usize = 1_000;
pub const LIMIT: usize = 100;
/// RFC 3986's unreserved characters may stand in a query as they are.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A moment, as people say it: `2026-11-29T10:45:11Z`, or `2h` for so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    Ago(Duration),
}

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a moment is a time such as 2026-11-29T10:45:11Z, or how long it is ago, such as 2h")]
pub struct MomentError;

impl Moment {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::At(time) => time,
            Moment::Ago(time) => now.minus(time),
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Moment, MomentError> {
        let ago = || parse_duration(text).ok().map(Moment::Ago);
        Timestamp::of_rfc3339(text).map(Moment::At).or_else(ago).ok_or(MomentError)
    }
}

/// Addresses: one, or those of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses(IpNet);

/// Why a text names no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("addresses are one such as 10.0.0.7, or a range such as 10.0.0.0/8")]
pub struct AddressesError;

impl FromStr for Addresses {
    type Err = AddressesError;

    fn from_str(text: &str) -> Result<Addresses, AddressesError> {
        let one = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(canonical(address)));
        text.parse().ok().or_else(one).map(Addresses).ok_or(AddressesError)
    }
}

/// The newest entries that fulfil all that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// From then on.
    pub since: Option<Moment>,
    /// Before then.
    pub until: Option<Moment>,
    pub principal: Option<String>,
    pub action: Option<String>,
    pub repository: Option<Pattern>,
    pub outcome: Option<Outcome>,
    pub address: Option<Addresses>,
    /// Entries, at most.
    pub limit: usize,
    /// In these regions; in all where none is named.
    pub regions: Vec<String>,
    /// How long the search may take, if whoever asks has less time than this edge gives itself.
    pub within: Option<Duration>,
}

impl Default for Query {
    fn default() -> Query {
        Query {
            since: None,
            until: None,
            principal: None,
            action: None,
            repository: None,
            outcome: None,
            address: None,
            limit: LIMIT,
            regions: Vec::new(),
            within: None,
        }
    }
}

impl Query {
    /// The first moment that counts, and the first one that does not any more.
    pub(super) fn range(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let since = self.since.map_or(Timestamp::default(), |since| since.at(now));
        (since, self.until.map_or(Timestamp::from_ms(u64::MAX), |until| until.at(now)))
    }

    /// The same for another region, whose clock is another.
    pub(super) fn fixed(&self, now: Timestamp, within: Duration) -> Query {
        let fix = |moment: Option<Moment>| moment.map(|moment| Moment::At(moment.at(now)));
        Query { since: fix(self.since), until: fix(self.until), regions: Vec::new(), within: Some(within), ..self.clone() }
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.principal, event.principal.as_str())
            && is(&self.action, &event.action)
            && self.outcome.is_none_or(|outcome| outcome == event.outcome)
            && self.repository.as_ref().is_none_or(|pattern| event.repository.as_ref().is_some_and(|name| pattern.matches(name)))
            && self.address.is_none_or(|Addresses(range)| event.address.is_some_and(|address| range.contains(&canonical(address))))
    }

    /// As it stands in a URL behind the question mark.
    pub fn to_url(&self) -> String {
        let moment = |moment: Moment| match moment {
            Moment::At(time) => time.rfc3339(),
            Moment::Ago(time) => crate::config::show_duration(time),
        };
        let pairs = [
            ("since", self.since.map(moment)),
            ("until", self.until.map(moment)),
            ("principal", self.principal.clone()),
            ("action", self.action.clone()),
            ("repository", self.repository.as_ref().map(|pattern| pattern.as_str().to_owned())),
            ("outcome", self.outcome.map(|outcome| outcome.as_str().to_owned())),
            ("address", self.address.map(|Addresses(range)| range.to_string())),
            ("limit", Some(self.limit.to_string())),
            ("region", Some(self.regions.join(",")).filter(|names| !names.is_empty())),
            ("within", self.within.map(crate::config::show_duration)),
        ];
        let given = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, IN_QUERY))).collect::<Vec<_>>().join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Event;
    use super::super::testing::{entry, pull};
    use super::*;

    #[test]
    fn each_filter_is_heeded() {
        let at_home = entry(1_000, pull("ci", "team/app"));
        let away = entry(1_000, Event { address: None, repository: None, outcome: Outcome::Denied, ..pull("bob", "a") });
        let all = Query::default;
        for (query, matches_home, matches_away) in [
            (all(), true, true),
            (Query { principal: Some("ci".into()), ..all() }, true, false),
            (Query { principal: Some("c".into()), ..all() }, false, false),
            (Query { action: Some("pull".into()), ..all() }, true, true),
            (Query { action: Some("push".into()), ..all() }, false, false),
            (Query { repository: "team/**".parse().ok(), ..all() }, true, false),
            (Query { repository: "team".parse().ok(), ..all() }, false, false),
            (Query { outcome: Some(Outcome::Denied), ..all() }, false, true),
            (Query { address: "10.0.0.1".parse().ok(), ..all() }, true, false),
            (Query { address: "10.0.0.0/8".parse().ok(), ..all() }, true, false),
            (Query { address: "::ffff:10.0.0.1".parse().ok(), ..all() }, true, false),
            (Query { address: "192.0.2.0/24".parse().ok(), ..all() }, false, false),
            (Query { principal: Some("ci".into()), outcome: Some(Outcome::Denied), ..all() }, false, false),
        ] {
            assert_eq!((query.matches(&at_home), query.matches(&away)), (matches_home, matches_away), "{query:?}");
        }
    }

    #[test]
    fn moments_are_times_or_so_long_ago() {
        let now = Timestamp::from_ms(1_795_949_111_000);
        for (text, ms) in [("2h", 1_795_941_911_000), ("2026-11-29T10:45:11Z", 1_795_949_111_000), ("99999d", 0)] {
            assert_eq!(text.parse::<Moment>().unwrap().at(now).as_ms(), ms, "{text}");
        }
        for text in ["", "yesterday", "2026-11-29", "2"] {
            assert_eq!(text.parse::<Moment>(), Err(MomentError), "{text}");
        }
    }

    #[test]
    fn another_region_gets_moments_of_this_ones_clock() {
        let query = Query { since: "1h".parse().ok(), repository: "a/**".parse().ok(), regions: vec!["us".into()], ..Query::default() };
        let fixed = query.fixed(Timestamp::from_ms(1_795_949_111_000), Duration::from_secs(3));
        assert_eq!(fixed.to_url(), "since=2026-11-29T09%3A45%3A11.000Z&repository=a%2F%2A%2A&limit=100&within=3s");
        assert_eq!(query.to_url(), "since=1h&repository=a%2F%2A%2A&limit=100&region=us");
    }
}
