//! `GET /outport/v1/logs`: the last lines of this edge's log.
//!
//! `lines=N` (200, at most 1,000), `after=NUMBER` for what came later, `requests=no` without the lines of requests.

use http::Response;

use super::body::Payload;
use super::respond::json;
use super::route::{RouteError, parameter};
use crate::journal::{Excerpt, Journal, KEPT_LINES};

const LINES: usize = 200;

pub(super) fn excerpt(query: &str) -> Result<Excerpt, RouteError> {
    let lines = match parameter(query, "lines") {
        None => LINES,
        Some(text) => text.parse().ok().filter(|lines| (1..=KEPT_LINES).contains(lines)).ok_or(RouteError::Parameter("lines"))?,
    };
    let after = parameter(query, "after").map(|text| text.parse().map_err(|_| RouteError::Parameter("after"))).transpose()?;
    let with_requests = match parameter(query, "requests").as_deref() {
        None | Some("yes") => true,
        Some("no") => false,
        Some(_) => return Err(RouteError::Parameter("requests")),
    };
    Ok(Excerpt { after, lines, with_requests })
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
