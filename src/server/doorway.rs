//! The last step before the service: refuses what must not be served, counts what is in service, and holds answers to the rules that
//! belong to the connection. Nothing of an answer's body is copied or kept here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::head::MAX_TARGET_BYTES;
use super::refusal::Refusal;
use super::vitals::{Protocol, Vitals};
use crate::http::Connection;
use crate::metrics::Metrics;

/// One connection's way to the service.
pub struct Doorway<S> {
    pub service: Arc<S>,
    pub connection: Arc<Connection>,
    pub protocol: Protocol,
    pub vitals: Arc<Vitals>,
    pub metrics: Arc<Metrics>,
    requests: AtomicU64,
}

impl<S> Doorway<S> {
    pub fn new(service: Arc<S>, connection: Arc<Connection>, protocol: Protocol, vitals: Arc<Vitals>, metrics: Arc<Metrics>) -> Doorway<S> {
        Doorway { service, connection, protocol, vitals, metrics, requests: AtomicU64::new(0) }
    }

    /// Serves a request. It is in service from this call on, not from the first poll, until the answer's body is dropped.
    pub fn enter<F, B>(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answer<B>>, Infallible>> + use<S, F, B>
    where
        S: Fn(Request<Incoming>, Arc<Connection>) -> F,
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes>,
    {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket::new(&self.vitals, self.protocol);
        let (vitals, metrics, protocol) = (Arc::clone(&self.vitals), Arc::clone(&self.metrics), self.protocol);
        // Without this nobody can take the connection over, whatever `Upgrade` says.
        request.extensions_mut().remove::<OnUpgrade>();
        let refusal = self.refusal(number, &request);
        let (service, connection) = (Arc::clone(&self.service), Arc::clone(&self.connection));
        async move {
            // Called here and not before: the service's future is large, and would be moved from there to here.
            let served = match refusal {
                None => Some(service(request, connection).await),
                Some(_) => None,
            };
            // A body that turned out malformed overrules the answer.
            let late = (protocol == Protocol::Http1).then(|| vitals.refusal_of(number)).flatten();
            let tunnel = served.as_ref().filter(|response| opens_tunnel(response)).map(|_| Refusal::Tunnel);
            let refusal = refusal.or(late).or(tunnel);
            let closes = protocol == Protocol::Http1 && (refusal.is_some() || vitals.draining());
            let mut response = match (refusal, served) {
                (None, Some(response)) => response.map(Either::Left),
                (refusal, _) => {
                    metrics.connection_refused("malformed");
                    refusal.unwrap_or(Refusal::Malformed).response().map(|body| Either::Right(Full::new(body)))
                }
            };
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Answer { body, ticket }))
        }
    }

    fn refusal(&self, number: u64, request: &Request<Incoming>) -> Option<Refusal> {
        if let Some(refusal) = self.vitals.refusal_of(number).filter(|_| self.protocol == Protocol::Http1) {
            return Some(refusal);
        }
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES) {
            return Some(Refusal::TargetTooLong);
        }
        if !host_is_clear(request.version(), request.uri(), request.headers()) {
            return Some(Refusal::Malformed);
        }
        // Whoever asks for a tunnel may send its bytes before the answer: they are not to be read as requests, so the connection ends.
        (request.method() == Method::CONNECT).then_some(Refusal::Tunnel)
    }
}

/// Such an answer would hand the connection's bytes to somebody else (RFC 9110 section 7.8).
fn opens_tunnel<B>(response: &Response<B>) -> bool {
    response.status().is_informational()
}

/// Whether a request says exactly once for which host it is (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn host_is_clear(version: Version, target: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return false;
    }
    let Some(host) = host else {
        return match version {
            Version::HTTP_11 => false,
            Version::HTTP_2 => target.authority().is_some(),
            _ => true,
        };
    };
    if target.authority().is_none() && is_ordinary_host(host.as_bytes()) {
        return true;
    }
    let Some(host) = Authority::try_from(host.as_bytes()).ok().filter(|host| !host.as_str().contains('@')) else { return false };
    target.authority().is_none_or(|authority| same_host(authority, &host, target.scheme_str()))
}

/// Whether a host needs no parsing to be clear, as most do not: a name or an address of IPv4, with a port or without.
fn is_ordinary_host(host: &[u8]) -> bool {
    let (name, port) = match memchr::memchr(b':', host) {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, &b""[..]),
    };
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.iter().all(is_of_name) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// Equal but for letter case and a default port.
fn same_host(one: &Authority, other: &Authority, scheme: Option<&str>) -> bool {
    let default_port = match scheme {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    let port = |authority: &Authority| authority.port_u16().or(default_port);
    !one.as_str().contains('@') && one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// Counts one request as in service until it is dropped.
struct Ticket {
    vitals: Arc<Vitals>,
    protocol: Protocol,
}

impl Ticket {
    fn new(vitals: &Arc<Vitals>, protocol: Protocol) -> Ticket {
        vitals.request_begins(Instant::now());
        Ticket { vitals: Arc::clone(vitals), protocol }
    }

    /// On HTTP/1 the socket itself tells whether the client reads. On HTTP/2 a window can be shut while the socket is fine, so it is
    /// seen how long h2 holds a block. The bytes are the same, not a copy.
    fn watched(&self, block: Bytes) -> Bytes {
        match self.protocol {
            Protocol::Http1 => block,
            Protocol::Http2 => Bytes::from_owner(Held::new(block, &self.vitals)),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.vitals.request_ends(Instant::now());
    }
}

/// A block of an answer while h2 holds it.
struct Held {
    block: Bytes,
    vitals: Arc<Vitals>,
}

impl Held {
    fn new(block: Bytes, vitals: &Arc<Vitals>) -> Held {
        vitals.handed_out(Instant::now());
        Held { block, vitals: Arc::clone(vitals) }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.vitals.taken(Instant::now());
    }
}

pin_project! {
    /// An answer's body with the request's ticket.
    pub struct Answer<B> {
        #[pin]
        body: Either<B, Full<Bytes>>,
        ticket: Ticket,
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|block| this.ticket.watched(block)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the requests of HTTP/2 connections, each in a task of its own that ends after the request timeout: its stream is reset then, and
/// the others go on.
#[derive(Clone, Debug)]
pub struct Streams {
    pub request_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        let request_timeout = self.request_timeout;
        tokio::spawn(async move {
            if tokio::time::timeout(request_timeout, stream).await.is_err() {
                tracing::debug!("a request took longer than the request timeout");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_19_the_host_is_told_once() {
        let cases: &[(Version, &str, &[&str], bool)] = &[
            (Version::HTTP_11, "/v2/", &["a.test"], true),
            (Version::HTTP_11, "/v2/", &["a.test:5000"], true),
            (Version::HTTP_11, "/v2/", &["[::1]:5000"], true),
            (Version::HTTP_11, "/v2/", &[], false),
            (Version::HTTP_11, "/v2/", &[""], false),
            (Version::HTTP_11, "/v2/", &["a.test", "a.test"], false),
            (Version::HTTP_11, "/v2/", &["a.test, b.test"], false),
            (Version::HTTP_11, "/v2/", &["user@a.test"], false),
            (Version::HTTP_11, "/v2/", &["a.test/path"], false),
            (Version::HTTP_10, "/v2/", &[], true),
            (Version::HTTP_10, "/v2/", &["a", "b"], false),
            (Version::HTTP_11, "http://a.test/v2/", &["A.TEST:80"], true),
            (Version::HTTP_11, "http://a.test/v2/", &["b.test"], false),
            (Version::HTTP_11, "http://a.test:81/v2/", &["a.test"], false),
            (Version::HTTP_11, "http://b@a.test/v2/", &["a.test"], false),
            (Version::HTTP_2, "https://a.test/v2/", &[], true),
            (Version::HTTP_2, "https://a.test/v2/", &["a.test"], true),
            (Version::HTTP_2, "https://a.test/v2/", &["b.test"], false),
            (Version::HTTP_2, "/v2/", &[], false),
            (Version::HTTP_2, "/v2/", &["a.test"], true),
        ];
        for (version, target, hosts, clear) in cases {
            let mut headers = HeaderMap::new();
            for host in *hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            assert_eq!(host_is_clear(*version, &target.parse().unwrap(), &headers), *clear, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn an_ordinary_host_is_one_that_parses() {
        let texts = [
            "edge",
            "edge.example.com:5000",
            "10.0.0.1",
            "10.0.0.1:80",
            "edge:",
            "edge:65535",
            ":80",
            "",
            "a b",
            "[::1]:80",
            "a:b",
            "a:1:2",
        ];
        let others = (' '..='~').map(|character| format!("a{character}b")).chain((' '..='~').map(|character| format!("a:1{character}")));
        for host in texts.into_iter().map(str::to_owned).chain(others) {
            let is_parsed = Authority::try_from(host.as_bytes()).is_ok_and(|host| !host.as_str().contains('@'));
            assert!(is_parsed || !is_ordinary_host(host.as_bytes()), "{host}");
        }
        assert!(["edge", "edge.example.com:5000", "10.0.0.1:80"].iter().all(|host| is_ordinary_host(host.as_bytes())));
    }

    #[test]
    fn row_18_only_answers_that_tunnel_are_replaced() {
        for (status, tunnel) in [(101, true), (405, false), (200, false)] {
            let response = Response::builder().status(status).body(()).unwrap();
            assert_eq!(opens_tunnel(&response), tunnel, "{status}");
        }
    }
}
