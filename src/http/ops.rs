//! The operators' listener: health, metrics, the console, and what the console asks: the same as on the registry's listener, by the same
//! rules.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};

use super::body::Payload;
use super::console::{self, File};
use super::error::Failure;
use super::respond::json;
use super::route::{RouteError, asks_deep};
use crate::registry::{Check, Readiness};

/// By which the console is known: no other site's page can send it without asking first (Fetch, "CORS-preflight fetch"), and is told no.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");
/// What the console asks of this edge.
const INTERFACES: [&str; 2] = ["/outport/v1/", "/acr/v1/"];

/// For those who have no browser.
const PAGE: &str = "outport\n\n/               the console, for browsers\n/livez          this process answers\n/readyz         this edge can serve (?deep=1: end to end)\n\
                    /metrics        Prometheus text format\n/status         the regions, how far behind they are, and what waits\n";

/// What the operators' listener is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpsAction {
    Alive,
    Ready(Check),
    Metrics,
    Status,
    Page,
    Console(&'static File),
}

pub fn route_ops(method: &Method, path: &str, query: &str) -> Result<OpsAction, RouteError> {
    let action = match path {
        "/livez" => OpsAction::Alive,
        "/readyz" => OpsAction::Ready(if asks_deep(query) { Check::Deep } else { Check::Shallow }),
        "/metrics" => OpsAction::Metrics,
        "/status" => OpsAction::Status,
        "/" => OpsAction::Page,
        _ => OpsAction::Console(console::find(path).ok_or(RouteError::Unknown)?),
    };
    if method == Method::GET || method == Method::HEAD { Ok(action) } else { Err(RouteError::Method { allow: "GET, HEAD" }) }
}

pub fn alive() -> Response<Payload> {
    text("ok\n".into(), "text/plain; charset=utf-8")
}

/// Browsers get the console.
pub fn page(headers: &HeaderMap) -> Response<Payload> {
    let takes_html = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("text/html"));
    if headers.get_all(header::ACCEPT).iter().any(takes_html) {
        return console::answer(&console::INDEX, headers);
    }
    text(PAGE.into(), "text/plain; charset=utf-8")
}

/// Whether it is for the interfaces that the console asks.
pub fn is_interface(path: &str) -> bool {
    INTERFACES.iter().any(|interface| path.starts_with(interface))
}

pub fn is_from_console(headers: &HeaderMap) -> bool {
    headers.get(REQUESTED_WITH).is_some_and(|value| value == "console")
}

/// Whether a page of another site, to which a browser leads somebody, may have sent it.
pub fn may_be_forged(head: &Parts) -> bool {
    !(head.method == Method::GET || head.method == Method::HEAD || is_from_console(&head.headers))
}

pub fn metrics(rendered: String) -> Response<Payload> {
    text(rendered, "text/plain; version=0.0.4; charset=utf-8")
}

/// 200 or 503, with what fails and what is impaired.
pub fn readiness(readiness: &Readiness) -> Response<Payload> {
    let ready = readiness.failing.is_empty();
    let verdict = serde_json::json!({ "ready": ready, "failing": readiness.failing, "impaired": readiness.impaired });
    let mut response = json(verdict.to_string().into());
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// The verdict alone, for listeners that anybody reaches.
pub fn without_reasons(readiness: Response<Payload>) -> Response<Payload> {
    let mut verdict = readiness.map(|_| Payload::Empty);
    verdict.headers_mut().remove(header::CONTENT_TYPE);
    verdict
}

pub fn refused(error: RouteError) -> Response<Payload> {
    Failure::from(error).into_response()
}

fn text(text: String, content_type: &'static str) -> Response<Payload> {
    let mut response = Response::new(Payload::Bytes(text.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_find_their_endpoints() {
        for (path, query, action) in [
            ("/livez", "", Ok(OpsAction::Alive)),
            ("/readyz", "", Ok(OpsAction::Ready(Check::Shallow))),
            ("/readyz", "deep=1", Ok(OpsAction::Ready(Check::Deep))),
            ("/metrics", "x", Ok(OpsAction::Metrics)),
            ("/status", "", Ok(OpsAction::Status)),
            ("/", "", Ok(OpsAction::Page)),
            ("/console/index.html", "", Ok(OpsAction::Console(&console::INDEX))),
            ("/console/", "", Err(RouteError::Unknown)),
            ("/console/../ops.rs", "", Err(RouteError::Unknown)),
            ("/v2/", "", Err(RouteError::Unknown)),
        ] {
            assert_eq!(route_ops(&Method::GET, path, query), action);
        }
        assert!(matches!(route_ops(&Method::POST, "/livez", ""), Err(RouteError::Method { .. })));
    }

    #[test]
    fn readiness_tells_its_reasons() {
        assert_eq!(readiness(&Readiness::default()).status(), StatusCode::OK);
        let response = readiness(&Readiness { failing: vec!["draining".into()], impaired: vec![] });
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(matches!(response.body(), Payload::Bytes(bytes) if bytes == r#"{"failing":["draining"],"impaired":[],"ready":false}"#));
    }
}
