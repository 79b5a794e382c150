//! What is looked for in a record.

use std::fmt::Debug;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::entry::Line;
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

impl Addresses {
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.contains(&canonical(address))
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Addresses {
    type Err = AddressesError;

    fn from_str(text: &str) -> Result<Addresses, AddressesError> {
        let one = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(canonical(address)));
        text.parse().ok().or_else(one).map(Addresses).ok_or(AddressesError)
    }
}

/// A part of a line that is there if an event matches; one of these. To look for it costs far less than to read the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(pub(super) Vec<Vec<u8>>);

impl Mark {
    /// A field that is this text.
    pub fn text(name: &str, value: &str) -> Mark {
        Mark::any_text(name, &[value])
    }

    /// A field that is one of these texts.
    pub fn any_text(name: &str, values: &[&str]) -> Mark {
        let part = |value: &&str| {
            let mut field = Vec::new();
            Line::behind(&mut field).text(name, value);
            // Without its comma: it may be the first.
            field.split_off(1)
        };
        Mark(values.iter().map(part).collect())
    }

    /// A field with a repository's name that matches.
    pub fn repository(name: &str, pattern: &Pattern) -> Mark {
        // Names have nothing in them that is written otherwise.
        let beginning = pattern.as_str().split('*').next().unwrap_or_default();
        Mark(vec![format!("\"{name}\":\"{beginning}").into_bytes()])
    }

    /// A field with a number that begins with these digits.
    pub fn digits(name: &str, digits: &str) -> Mark {
        Mark(vec![format!("\"{name}\":{digits}").into_bytes()])
    }
}

/// What must be so of an event.
pub trait Filter: Clone + Debug + Default + Send + Sync + 'static {
    type Event: Clone + Debug + Serialize + DeserializeOwned + Send + 'static;

    fn matches(&self, event: &Self::Event) -> bool;

    /// What a line has in it, all of these, if its event matches.
    fn marks(&self) -> Vec<Mark>;

    /// Its parameters in a URL.
    fn words(&self) -> Vec<(&'static str, Option<String>)>;
}

/// The newest entries that fulfil all that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<F> {
    /// From then on.
    pub since: Option<Moment>,
    /// Before then.
    pub until: Option<Moment>,
    pub filter: F,
    /// Entries, at most.
    pub limit: usize,
    /// In these regions; in all where none is named.
    pub regions: Vec<String>,
    /// How long the search may take, if whoever asks has less time than this edge gives itself.
    pub within: Option<Duration>,
}

impl<F: Default> Default for Query<F> {
    fn default() -> Query<F> {
        Query { since: None, until: None, filter: F::default(), limit: LIMIT, regions: Vec::new(), within: None }
    }
}

impl<F: Filter> Query<F> {
    /// The first moment that counts, and the first one that does not any more.
    pub(super) fn range(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let since = self.since.map_or(Timestamp::default(), |since| since.at(now));
        (since, self.until.map_or(Timestamp::from_ms(u64::MAX), |until| until.at(now)))
    }

    /// The same for another region, whose clock is another.
    pub(super) fn fixed(&self, now: Timestamp, within: Duration) -> Query<F> {
        let fix = |moment: Option<Moment>| moment.map(|moment| Moment::At(moment.at(now)));
        Query { since: fix(self.since), until: fix(self.until), regions: Vec::new(), within: Some(within), ..self.clone() }
    }

    /// As it stands in a URL behind the question mark.
    pub fn to_url(&self) -> String {
        let moment = |moment: Moment| match moment {
            Moment::At(time) => time.rfc3339(),
            Moment::Ago(time) => crate::config::show_duration(time),
        };
        let mut pairs = vec![("since", self.since.map(moment)), ("until", self.until.map(moment))];
        pairs.extend(self.filter.words());
        pairs.extend([
            ("limit", Some(self.limit.to_string())),
            ("region", Some(self.regions.join(",")).filter(|names| !names.is_empty())),
            ("within", self.within.map(crate::config::show_duration)),
        ]);
        let given = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, IN_QUERY))).collect::<Vec<_>>().join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Speaker;
    use super::*;

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
        let query = Query { since: "1h".parse().ok(), filter: Speaker(Some("a b".into())), regions: vec!["us".into()], ..Query::default() };
        let fixed = query.fixed(Timestamp::from_ms(1_795_949_111_000), Duration::from_secs(3));
        assert_eq!(fixed.to_url(), "since=2026-11-29T09%3A45%3A11.000Z&who=a%20b&limit=100&within=3s");
        assert_eq!(query.to_url(), "since=1h&who=a%20b&limit=100&region=us");
    }

    #[test]
    fn marks_are_parts_of_lines() {
        let parts = |mark: Mark| mark.0.into_iter().map(|part| String::from_utf8(part).unwrap()).collect::<Vec<_>>();
        assert_eq!(parts(Mark::text("who", "a\"b")), [r#""who":"a\"b""#]);
        assert_eq!(parts(Mark::any_text("level", &["ERROR", "WARN"])), [r#""level":"ERROR""#, r#""level":"WARN""#]);
        for (pattern, beginning) in [("team/app", "team/app"), ("team/**", "team/"), ("**/app", "")] {
            assert_eq!(parts(Mark::repository("repository", &pattern.parse().unwrap())), [format!(r#""repository":"{beginning}"#)]);
        }
        assert_eq!(parts(Mark::digits("status", "5")), [r#""status":5"#]);
    }
}
