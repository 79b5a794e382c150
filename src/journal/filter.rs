//! What is looked for among the lines in the buckets.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde_json::Value;

use super::OF_REQUESTS;
use super::event::{Event, Level};
use crate::access::Pattern;
use crate::oci::RepositoryName;
use crate::records::{self, Addresses, Mark};

/// The newest lines that fulfil all that is said.
pub type Query = records::Query<Filter>;

/// What must be so of a line. What it says of its fields only lines have that have such a field: those of requests, and some others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// So bad, or worse.
    pub level: Option<Level>,
    pub principal: Option<String>,
    pub repository: Option<Pattern>,
    /// The kind of request: `manifest`, `blob`, `push`, ...
    pub route: Option<String>,
    pub status: Option<Statuses>,
    /// Of the client.
    pub address: Option<Addresses>,
    /// A request's `X-Request-Id`.
    pub request: Option<String>,
    /// It stands in the message, the target or a field; capitals and small letters are the same.
    pub text: Option<String>,
    /// Not those of requests.
    pub no_requests: bool,
}

/// Statuses of answers: one, or a class such as `5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    One(u16),
    /// By their first digit.
    Class(u16),
}

/// Why a text names no statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("statuses are one such as 404, or a class such as 5xx")]
pub struct StatusesError;

impl Statuses {
    fn contain(self, status: u64) -> bool {
        match self {
            Statuses::One(one) => status == u64::from(one),
            Statuses::Class(digit) => status / 100 == u64::from(digit),
        }
    }

    /// What all of them begin with.
    fn digits(self) -> String {
        match self {
            Statuses::One(number) | Statuses::Class(number) => number.to_string(),
        }
    }
}

impl FromStr for Statuses {
    type Err = StatusesError;

    fn from_str(text: &str) -> Result<Statuses, StatusesError> {
        let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
        let number = |text: &str, range: std::ops::RangeInclusive<u16>| {
            let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|text| text.parse().ok()).filter(|number| range.contains(number)).ok_or(StatusesError)
        };
        match class {
            Some(digit) => number(digit, 1..=9).map(Statuses::Class),
            None => number(text, 100..=999).map(Statuses::One),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statuses::One(status) => write!(f, "{status}"),
            Statuses::Class(digit) => write!(f, "{digit}xx"),
        }
    }
}

impl records::Filter for Filter {
    type Event = Event;

    fn matches(&self, event: &Event) -> bool {
        let field = |name: &str| event.fields.get(name);
        let word = |name: &str| field(name).and_then(Value::as_str);
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| word(name) == Some(wanted.as_str()));
        let repository = || word("repository").and_then(|name| name.parse::<RepositoryName>().ok());
        let address = || word("client").and_then(|address| address.parse::<IpAddr>().ok());
        self.level.is_none_or(|level| event.level <= level)
            && !(self.no_requests && event.target == OF_REQUESTS)
            && is(&self.principal, "principal")
            && is(&self.route, "route")
            && is(&self.request, "id")
            && self.status.is_none_or(|statuses| field("status").and_then(Value::as_u64).is_some_and(|status| statuses.contain(status)))
            && self.repository.as_ref().is_none_or(|pattern| repository().is_some_and(|name| pattern.matches(&name)))
            && self.address.is_none_or(|addresses| address().is_some_and(|address| addresses.contain(address)))
            && self.text.as_ref().is_none_or(|text| says(event, &text.to_lowercase()))
    }

    fn marks(&self) -> Vec<Mark> {
        let level = self.level.map(|wanted| {
            let words: Vec<&str> = Level::ALL.into_iter().filter(|level| *level <= wanted).map(Level::as_str).collect();
            Mark::any_text("level", &words)
        });
        let text = |name: &str, wanted: &Option<String>| wanted.as_ref().map(|wanted| Mark::text(name, wanted));
        let repository = self.repository.as_ref().map(|pattern| Mark::repository("repository", pattern));
        let status = self.status.map(|statuses| Mark::digits("status", &statuses.digits()));
        let texts = [text("principal", &self.principal), text("route", &self.route), text("id", &self.request)];
        texts.into_iter().chain([level, repository, status]).flatten().collect()
    }

    fn words(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("level", self.level.map(|level| level.as_str().to_ascii_lowercase())),
            ("principal", self.principal.clone()),
            ("repository", self.repository.as_ref().map(|pattern| pattern.as_str().to_owned())),
            ("route", self.route.clone()),
            ("status", self.status.map(|statuses| statuses.to_string())),
            ("address", self.address.map(|addresses| addresses.to_string())),
            ("request", self.request.clone()),
            ("text", self.text.clone()),
            ("requests", self.no_requests.then(|| "no".to_owned())),
        ]
    }
}

fn says(event: &Event, text: &str) -> bool {
    let has = |found: &str| found.to_lowercase().contains(text);
    let in_field = |value: &Value| match value {
        Value::String(value) => has(value),
        other => has(&other.to_string()),
    };
    has(&event.message) || has(&event.target) || event.fields.values().any(in_field)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::records::Filter as _;

    fn event(level: Level, target: &str, message: &str, fields: Value) -> Event {
        let fields = fields.as_object().cloned().unwrap_or_default();
        Event { level, target: target.to_owned(), message: message.to_owned(), fields }
    }

    #[test]
    fn each_filter_is_heeded() {
        let fields = json!({"id": "r-1", "principal": "ci", "client": "10.0.0.1", "route": "manifest", "repository": "team/app",
            "status": 404, "cause": "No Route"});
        let request = event(Level::Info, OF_REQUESTS, "", fields);
        let other = event(Level::Warn, "outport::edge", "it is SO", Value::Null);
        let all = Filter::default;
        let some = |text: &str| Some(text.to_owned());
        for (filter, of_request, of_other) in [
            (all(), true, true),
            (Filter { level: Some(Level::Info), ..all() }, true, true),
            (Filter { level: Some(Level::Warn), ..all() }, false, true),
            (Filter { level: Some(Level::Error), ..all() }, false, false),
            (Filter { principal: some("ci"), ..all() }, true, false),
            (Filter { principal: some("c"), ..all() }, false, false),
            (Filter { repository: "team/**".parse().ok(), ..all() }, true, false),
            (Filter { repository: "team".parse().ok(), ..all() }, false, false),
            (Filter { route: some("manifest"), ..all() }, true, false),
            (Filter { status: "4xx".parse().ok(), ..all() }, true, false),
            (Filter { status: "404".parse().ok(), ..all() }, true, false),
            (Filter { status: "5xx".parse().ok(), ..all() }, false, false),
            (Filter { address: "10.0.0.0/8".parse().ok(), ..all() }, true, false),
            (Filter { address: "10.0.0.2".parse().ok(), ..all() }, false, false),
            (Filter { request: some("r-1"), ..all() }, true, false),
            (Filter { text: some("no ROUTE"), ..all() }, true, false),
            (Filter { text: some("is so"), ..all() }, false, true),
            (Filter { text: some("404"), ..all() }, true, false),
            (Filter { text: some("outport::"), ..all() }, true, true),
            (Filter { no_requests: true, ..all() }, false, true),
            (Filter { level: Some(Level::Warn), no_requests: true, text: some("gone"), ..all() }, false, false),
        ] {
            assert_eq!((filter.matches(&request), filter.matches(&other)), (of_request, of_other), "{filter:?}");
        }
    }

    #[test]
    fn statuses_are_one_or_a_class() {
        for (text, expected) in [("404", Ok(Statuses::One(404))), ("5xx", Ok(Statuses::Class(5))), ("2XX", Ok(Statuses::Class(2)))] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "xx", "40", "1000", "+404", "0xx", "55xx", "x5x", "\u{661}xx"] {
            assert_eq!(text.parse::<Statuses>(), Err(StatusesError), "{text}");
        }
        assert_eq!((Statuses::Class(5).to_string(), Statuses::One(404).to_string()), ("5xx".to_owned(), "404".to_owned()));
    }
}
