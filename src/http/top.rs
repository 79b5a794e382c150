//! `GET /outport/v1/top`: who asks this edge how much; and the limits of what one client may take.
//!
//! Whoever may read the audit record may ask: both tell who does what from where. The operators' listener does not tell it, which asks
//! nobody who they are.
//!
//! A request counts for its client whatever becomes of it, and is refused before anything is done for it. Not counted are health checks,
//! which every load balancer makes, edges of other regions, which have bounds of their own and must not fall behind, and what another edge
//! of this region passed on: that one has counted it. A client on this machine is one like any other: whoever wants it to count by whom it
//! speaks for names it in `listen.trusted_proxies`.

use http::Response;
use http::request::Parts;

use super::admit::{Call, Site};
use super::body::Payload;
use super::error::Failure;
use super::log::Record;
use super::respond;
use super::route::{RouteError, parameter};
use super::service::Http;
use crate::access::{Caller, Permit};
use crate::traffic::{By, Client, KINDS, Lane, Measure, Window};

/// Names in one table, when the question does not say, and at most.
pub const NAMES: usize = 10;
pub const MAX_NAMES: usize = 100;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// `None` for all kinds.
    pub by: Option<By>,
    pub measure: Measure,
    pub window: Window,
    pub most: usize,
}

/// `by` (client, principal, repository), `measure` (requests, bytes), `window` (minute, hour, day), `n`; all may be left out.
pub fn query(query: &str) -> Result<Query, RouteError> {
    Ok(Query {
        by: read(query, "by")?,
        measure: read(query, "measure")?.unwrap_or_default(),
        window: read(query, "window")?.unwrap_or_default(),
        most: read(query, "n")?.map_or(NAMES, |most: usize| most.clamp(1, MAX_NAMES)),
    })
}

fn read<T: std::str::FromStr>(query: &str, name: &'static str) -> Result<Option<T>, RouteError> {
    parameter(query, name).map(|text| text.parse().map_err(|_| RouteError::Parameter(name))).transpose()
}

impl Http {
    pub(super) fn top(&self, permit: Permit, query: Query) -> Response<Payload> {
        let Query { by, measure, window, most } = query;
        let kinds = KINDS.into_iter().filter(|kind| by.is_none_or(|by| by == *kind));
        let tables = kinds.map(|by| {
            let ranking = self.traffic().ranking(permit, by, (measure, window), most);
            let share = |count: u64| count as f64 / ranking.total.max(1) as f64;
            let names =
                ranking.names.iter().map(|(name, count)| serde_json::json!({ "name": name, "count": count, "share": share(*count) }));
            serde_json::json!({
                "by": by.as_str(),
                "names": names.collect::<Vec<_>>(),
                "total": ranking.total,
                "error": ranking.error,
                "since_ms": ranking.since.as_ms(),
            })
        });
        let (measure, window, tables) = (measure.as_str(), window.as_str(), tables.collect::<Vec<_>>());
        respond::json(serde_json::json!({ "measure": measure, "window": window, "tables": tables }).to_string().into())
    }

    /// What was admitted, if its client does not ask too often; and by which its answer goes, if bytes are limited.
    pub(super) fn fairly(
        &self,
        admitted: Result<Call, Failure>,
        (site, head): (&Site, &Parts),
        record: &Record,
    ) -> (Result<Call, Failure>, Option<Lane>) {
        if !site.limits.is_any() || matches!(admitted, Ok(Call::Ready | Call::Peer(..))) {
            return (admitted, None);
        }
        let client = share_of(record.caller());
        match self.fair().take(&site.limits, &client) {
            Ok(()) => (admitted, self.fair().lane(&site.limits, &client)),
            Err(wait) => {
                self.fair().refused();
                let of_a_mirror = parameter(head.uri.query().unwrap_or_default(), "ns").is_some();
                (Err(Failure::too_many_requests(wait, of_a_mirror)), None)
            }
        }
    }
}

/// Whose share a request is of. All whom an upstream vouches for have one name.
pub(super) fn share_of(caller: &Caller) -> Client {
    if caller.proof == "upstream" { Client::address(caller.address) } else { Client::of(&caller.principal, caller.address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read() {
        let all = Query { by: None, measure: Measure::Requests, window: Window::Minute, most: NAMES };
        for (text, expected) in [
            ("", all),
            ("n=0", Query { most: 1, ..all }),
            ("n=1000&other=1", Query { most: MAX_NAMES, ..all }),
            (
                "by=principal&measure=bytes&window=day&n=3",
                Query { by: Some(By::Principal), measure: Measure::Bytes, window: Window::Day, most: 3 },
            ),
            ("by=repository&window=hour", Query { by: Some(By::Repository), window: Window::Hour, ..all }),
        ] {
            assert_eq!(query(text), Ok(expected), "{text}");
        }
        for (name, value) in [("by", "tag"), ("by", ""), ("measure", "time"), ("window", "year"), ("n", "-1"), ("n", "x")] {
            assert_eq!(query(&format!("{name}={value}")), Err(RouteError::Parameter(name)), "{value}");
        }
    }

    #[test]
    fn those_whom_an_upstream_vouches_for_have_their_own_shares() {
        let one = Caller { proof: "upstream", ..Caller::named("upstream:docker.io") };
        let other = Caller { address: "10.0.0.2".parse().unwrap(), ..one.clone() };
        assert_ne!(share_of(&one), share_of(&other));
        let ci = Caller::named("ci");
        assert_eq!(share_of(&ci), share_of(&Caller { address: other.address, ..ci.clone() }));
    }
}
