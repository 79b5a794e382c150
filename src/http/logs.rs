//! `GET /outport/v1/logs`: the last lines of this edge's log, or what is found among those that the regions' buckets keep.
//!
//! The last lines: `lines=N` (200, at most 1,000), `after=NUMBER` for what came later, `requests=no` without the lines of requests.
//!
//! A search, where something is said that only a search heeds: `level` (so bad, or worse), `principal`, `repository` (a pattern), `route`
//! (the kind of request), `status` (`404`, `5xx`), `address` (one, or a range), `request` (its id), `text`, `requests=no`, and what every
//! search has: `since`, `until`, `limit`, `region`, `within`. It answers as the search of the audit record does.

use http::Response;

use super::body::Payload;
use super::respond::json;
use super::route::{Action, RouteError, has, parameter};
use super::search::{read, wanted};
use crate::journal::{Excerpt, Filter, Journal, KEPT_LINES, Query};

const LINES: usize = 200;
/// Parameters of the last lines only.
const OF_EXCERPTS: [&str; 2] = ["lines", "after"];
/// Parameters of searches only.
const OF_SEARCHES: [&str; 13] =
    ["since", "until", "level", "principal", "repository", "route", "status", "address", "request", "text", "limit", "region", "within"];

pub(super) fn action(query: &str) -> Result<Action, RouteError> {
    if !OF_SEARCHES.iter().any(|name| has(query, name)) {
        return excerpt(query).map(Action::Logs);
    }
    match OF_EXCERPTS.into_iter().find(|name| has(query, name)) {
        Some(name) => Err(RouteError::Parameter(name)),
        None => search(query).map(Action::SearchLogs),
    }
}

/// What other regions ask is always a search. In a box, since every other request has room for it, too.
pub(super) fn search(query: &str) -> Result<Box<Query>, RouteError> {
    let filter = Filter {
        level: read(query, "level")?,
        principal: parameter(query, "principal"),
        repository: read(query, "repository")?,
        route: parameter(query, "route"),
        status: read(query, "status")?,
        address: read(query, "address")?,
        request: parameter(query, "request"),
        text: parameter(query, "text"),
        no_requests: !with_requests(query)?,
    };
    wanted(query, filter).map(Box::new)
}

fn with_requests(query: &str) -> Result<bool, RouteError> {
    match parameter(query, "requests").as_deref() {
        None | Some("yes") => Ok(true),
        Some("no") => Ok(false),
        Some(_) => Err(RouteError::Parameter("requests")),
    }
}

fn excerpt(query: &str) -> Result<Excerpt, RouteError> {
    let lines = match parameter(query, "lines") {
        None => LINES,
        Some(text) => text.parse().ok().filter(|lines| (1..=KEPT_LINES).contains(lines)).ok_or(RouteError::Parameter("lines"))?,
    };
    let after = parameter(query, "after").map(|text| text.parse().map_err(|_| RouteError::Parameter("after"))).transpose()?;
    Ok(Excerpt { after, lines, with_requests: with_requests(query)? })
}

pub(super) fn told(journal: &Journal, asked: &Excerpt) -> Response<Payload> {
    json(serde_json::json!(journal.tell(asked)).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_or_named() {
        for (query, expected) in [
            ("", Ok(Excerpt { after: None, lines: 200, with_requests: true })),
            ("lines=5&after=7&requests=no", Ok(Excerpt { after: Some(7), lines: 5, with_requests: false })),
            ("requests=yes", Ok(Excerpt { after: None, lines: 200, with_requests: true })),
            ("lines=0", Err(RouteError::Parameter("lines"))),
            ("lines=1001", Err(RouteError::Parameter("lines"))),
            ("lines=many", Err(RouteError::Parameter("lines"))),
            ("after=-1", Err(RouteError::Parameter("after"))),
            ("requests=maybe", Err(RouteError::Parameter("requests"))),
        ] {
            assert_eq!(excerpt(query), expected, "{query}");
        }
    }
}
