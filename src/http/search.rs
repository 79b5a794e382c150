//! Searches of records over HTTP: what all of them can be asked, and how they answer.

use std::str::FromStr;
use std::time::Duration;

use http::Response;

use super::body::Payload;
use super::error::Failure;
use super::respond;
use super::route::{RouteError, parameter};
use crate::access::Permit;
use crate::config::parse_duration;
use crate::peers::Caller;
use crate::records::{Answer, Filter, LIMIT, MAX_LIMIT, Query, Records, SearchError};

/// Names of regions in one search, at most.
const MAX_REGIONS: usize = 64;
/// Of the time that the client waits, this part is for looking: the rest is for the answer.
const SHARE_OF_TIME: f64 = 0.8;

/// `since`, `until` (each a time of RFC 3339, or how long ago), `limit`, `region` (names with commas between them), all of which may be
/// left out.
pub fn wanted<F>(query: &str, filter: F) -> Result<Query<F>, RouteError> {
    let within = match parameter(query, "within") {
        None => None,
        Some(text) => Some(parse_duration(&text).map_err(|_| RouteError::Parameter("within"))?),
    };
    let regions: Vec<String> = parameter(query, "region").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
    if regions.len() > MAX_REGIONS || regions.iter().any(String::is_empty) {
        return Err(RouteError::Parameter("region"));
    }
    let limit = read(query, "limit")?.map_or(LIMIT, |limit: usize| limit.clamp(1, MAX_LIMIT));
    Ok(Query { since: read(query, "since")?, until: read(query, "until")?, filter, limit, regions, within })
}

/// A parameter that may be left out.
pub fn read<T: FromStr>(query: &str, name: &'static str) -> Result<Option<T>, RouteError> {
    parameter(query, name).map(|text| text.parse().map_err(|_| RouteError::Parameter(name))).transpose()
}

/// The answer to somebody who may read the record.
pub(super) async fn looked<F: Filter>(
    records: &Records,
    permit: Permit,
    query: &Query<F>,
    deadline: Duration,
) -> Result<Response<Payload>, Failure> {
    answered(records.search(permit, query, deadline.mul_f64(SHARE_OF_TIME)).await)
}

/// The answer to an edge of another region.
pub(super) async fn looked_here<F: Filter>(
    records: &Records,
    caller: &Caller,
    query: &Query<F>,
    deadline: Duration,
) -> Result<Response<Payload>, Failure> {
    answered(records.search_here(caller, query, deadline.mul_f64(SHARE_OF_TIME)).await)
}

fn answered<E: serde::Serialize>(found: Result<Answer<E>, SearchError>) -> Result<Response<Payload>, Failure> {
    match found {
        Ok(answer) => Ok(respond::json(serde_json::json!(answer).to_string().into())),
        Err(error @ SearchError::UnknownRegion(_)) => Err(Failure::bad_question(error.to_string())),
        Err(SearchError::TooMany) => Err(Failure::too_many_waiting()),
    }
}
