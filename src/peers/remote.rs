//! The edges of one other region, as a client sees them.
//!
//! They are asked in the configured order. One that let a request wait in vain comes last for a few seconds, and one that takes no
//! connections is left out for as long; but where that was said at once, which costs nothing, it is asked when nobody else has
//! answered: it may only just have started. Which of them answers makes no difference: all read the same store and the same ledger.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_RANGE, HeaderName, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::badge::Badge;
use super::outflow::Outflow;
use super::pass::{Failed, exchange, forwarded, target};
use super::protocol::{Found, MAX_BATCH_BYTES, MAX_BATCH_SEGMENTS, MAX_WAIT, Status, unframe};
use super::{MAX_PASSES, PassError, Passed, networks};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::dial::{self, DialError, Proxies, Resolver, Wait};
use crate::inflow::Inflow;
use crate::metrics::Metrics;
use crate::oci::{Digest, RangeParts, Reference, RepositoryName};
use crate::trace;

/// Looking up and connecting to an edge that may be on another continent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From there to the head of an answer, beyond what the edge was asked to wait; also the longest silence within a body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests to one region without an answer yet, at one time.
const MAX_REQUESTS: usize = 256;
/// Connections to one edge that are kept for the next request.
const MAX_IDLE: usize = 16;
/// How long an edge that takes no connections is not asked, or after all others, and one that let a request wait is asked last.
const AVOIDED_FOR: Duration = Duration::from_secs(3);
/// An answer that nobody waited for any longer was slow if it had this time.
const SLOW_AFTER: Duration = Duration::from_millis(300);
/// Of an answer in JSON: a manifest's facts, and 32 KiB of content in base64.
const MAX_JSON_BYTES: usize = 2 << 20;
/// Of an answer with segments: the last one may go over the limit of the others.
const MAX_FRAMED_BYTES: usize = 2 * MAX_BATCH_BYTES + 4 * MAX_BATCH_SEGMENTS;
/// Of an object of a snapshot: as the ledger bounds them.
const MAX_SNAPSHOT_PART_BYTES: usize = 16 << 20;
const OUTPORT_POSITION: HeaderName = HeaderName::from_static("outport-position");
/// RFC 3986's unreserved characters may stand in a path or query as they are.
const IN_TARGET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

type Cause = Box<dyn std::error::Error + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, Cause>;

/// The edges of one other region. Cloning is cheap.
#[derive(Clone)]
pub struct RemoteEdges(Arc<Inner>);

struct Inner {
    region: Arc<str>,
    edges: Vec<Edge>,
    /// Marked as sensitive: it does not print.
    bearer: HeaderValue,
    badge: Badge,
    client: dial::Client,
    /// Without kept connections: an edge that is gone is found out before the first byte of a client's body is asked for.
    passing: dial::Client<Outflow>,
    clock: Clock,
    metrics: Metrics,
}

struct Edge {
    url: Url,
    /// It takes no connections, and to find that out takes time; until then it is not asked. Milliseconds of the clock, as below.
    dead_until_ms: AtomicU64,
    /// It said at once that it takes no connections.
    refusing_until_ms: AtomicU64,
    slow_until_ms: AtomicU64,
}

/// Why a region's edges do not say what they were asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The region has no such thing: confirmed.
    #[error("the region does not have it")]
    Denied,
    /// They do not let us: the tokens differ, or they do not know the question. Somebody has to change something.
    #[error("the region refuses: {0}")]
    Refused(String),
    /// No usable answer in time. Later there may be one.
    #[error("the region is unavailable: {why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
    /// What was answered cannot be, or somebody else answered.
    #[error("broken answer of the region: {0}")]
    Broken(String),
}

impl PeerError {
    pub(crate) fn unavailable(why: impl Into<String>) -> PeerError {
        PeerError::Unavailable { why: why.into(), retry_after: None }
    }

    /// When the region wants to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            PeerError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The metrics' word for it.
    fn outcome(&self) -> &'static str {
        match self {
            PeerError::Denied => "denied",
            PeerError::Refused(_) => "refused",
            PeerError::Unavailable { .. } => "unavailable",
            PeerError::Broken(_) => "broken",
        }
    }
}

/// What comes next in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segments {
    /// One after the other, at least one, verbatim and unverified.
    Some(Vec<Bytes>),
    /// Nothing now.
    None,
    /// The first of them is no longer there.
    Trimmed,
    /// The ledger is not known there.
    Unknown,
}

/// An answer about a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub segments: Segments,
    /// The last segment that the ledger has there, where that was told.
    pub tail: Option<u64>,
}

/// What is to be resolved in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    Manifest(&'a Reference),
    Blob(&'a Digest),
}

impl RemoteEdges {
    /// `None` for a region whose edges are not configured. `answer_timeout` is for requests that are passed on. Peers are never reached
    /// through a proxy.
    ///
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn new(
        peer: &config::Peer,
        answer_timeout: Duration,
        resolver: Resolver,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Option<RemoteEdges>, DialError> {
        let Some(token) = peer.token.as_ref().filter(|_| !peer.edges.is_empty()) else { return Ok(None) };
        let hosts = peer.edges.iter().filter_map(|url| url.host_str().map(str::to_owned));
        let dialled = dial::Settings {
            ca_file: peer.ca_file.clone(),
            private_networks: networks(),
            named_hosts: hosts.collect(),
            connect_timeout: CONNECT_TIMEOUT,
            read_timeout: ANSWER_TIMEOUT,
            max_connections: MAX_REQUESTS,
            max_idle: MAX_IDLE,
            server_name: None,
        };
        let passing = dial::Settings { read_timeout: answer_timeout, max_connections: MAX_PASSES, max_idle: 0, ..dialled.clone() };
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| DialError::Target { target: peer.region.clone(), why: "its token is no header value" })?;
        bearer.set_sensitive(true);
        Ok(Some(RemoteEdges(Arc::new(Inner {
            region: peer.region.as_str().into(),
            edges: peer.edges.iter().map(Edge::new).collect(),
            bearer,
            badge: Badge::of_peers(token),
            client: dial::Client::new(dialled, resolver.clone(), Proxies::none())?,
            passing: dial::Client::new(passing, resolver, Proxies::none())?,
            clock,
            metrics,
        }))))
    }

    /// The region's name, as configured.
    pub fn region(&self) -> &Arc<str> {
        &self.0.region
    }

    /// Where the region stands.
    ///
    /// # Errors
    /// Any but `Denied`.
    pub async fn status(&self) -> Result<Status, PeerError> {
        let status: Status = self.json("/outport/v1/ledger".to_owned()).await?;
        if *status.region == **self.region() {
            Ok(status)
        } else {
            Err(PeerError::Broken(format!("the region there calls itself {:?}", status.region)))
        }
    }

    /// What follows segment `after` in the ledger of an origin (`region.incarnation`), the region's own or one that it imported. With
    /// `wait` the answer is held back until there is something, at most so long.
    ///
    /// # Errors
    /// Any but `Denied`.
    pub async fn segments(&self, origin: &str, after: u64, wait: Option<Duration>) -> Result<Batch, PeerError> {
        let wait = wait.map(|wait| wait.min(MAX_WAIT)).filter(|wait| wait.as_secs() > 0);
        let held = wait.map(|wait| format!("&wait={}", wait.as_secs())).unwrap_or_default();
        let path = format!("/outport/v1/ledger/{}?after={after}{held}", encoded(origin));
        let asked = Asked { path, range: None, wait };
        let answer = match self.ask(&asked).await {
            Ok(answer) => answer,
            Err(PeerError::Denied) => return Ok(Batch { segments: Segments::Unknown, tail: None }),
            Err(error) => return Err(error),
        };
        let tail = answer.headers().get(OUTPORT_POSITION).and_then(|value| value.to_str().ok()?.rsplit_once('@')?.1.parse().ok());
        let segments = match answer.status() {
            StatusCode::OK => {
                let framed = read_whole(answer.into_body(), MAX_FRAMED_BYTES).await?;
                Segments::Some(
                    unframe(framed).ok_or_else(|| PeerError::Broken("the segments are not framed as they should be".to_owned()))?,
                )
            }
            StatusCode::NO_CONTENT => Segments::None,
            StatusCode::GONE => Segments::Trimmed,
            other => return Err(unexpected(other)),
        };
        Ok(Batch { segments, tail })
    }

    /// The names of the snapshots of its own ledger, the latest last. `Denied` for the ledger of another.
    ///
    /// # Errors
    /// Any.
    pub async fn snapshots(&self, origin: &str) -> Result<Vec<String>, PeerError> {
        self.json(snapshots_path(origin)).await
    }

    /// An object of one of them, whole. Nobody has verified it.
    ///
    /// # Errors
    /// Any.
    pub async fn snapshot_part(&self, origin: &str, snapshot: &str, part: &str) -> Result<Bytes, PeerError> {
        let path = format!("{}/{}/{}", snapshots_path(origin), encoded(snapshot), encoded(part));
        let answer = self.ask(&Asked { path, range: None, wait: None }).await?;
        match answer.status() {
            StatusCode::OK => read_whole(answer.into_body(), MAX_SNAPSHOT_PART_BYTES).await,
            other => Err(unexpected(other)),
        }
    }

    /// What the region knows of a manifest or blob. It asks nobody else.
    ///
    /// # Errors
    /// Any.
    pub async fn resolve(&self, repository: &RepositoryName, wanted: Wanted<'_>) -> Result<Found, PeerError> {
        let wanted = match wanted {
            Wanted::Manifest(reference) => format!("reference={}", encoded(&reference.to_string())),
            Wanted::Blob(digest) => format!("blob={}", encoded(&digest.to_string())),
        };
        self.json(format!("/outport/v1/resolve?repository={}&{wanted}", encoded(repository.as_str()))).await
    }

    /// A part of a content, from the region's memory, disks or store. Nobody has verified it.
    ///
    /// # Errors
    /// Any.
    pub async fn content(&self, digest: &Digest, range: Range<u64>) -> Result<Transfer, PeerError> {
        let path = format!("/outport/v1/content/{digest}");
        let answer = self.ask(&Asked { path, range: Some(range.clone()), wait: None }).await?;
        let told = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let exact = match answer.status() {
            StatusCode::PARTIAL_CONTENT => told.and_then(|told| told.rsplit_once('/')).is_some_and(|(part, size)| {
                let expected = RangeParts { range: range.clone(), size_bytes: size.parse().unwrap_or_default() };
                expected.to_string() == format!("{part}/{size}")
            }),
            StatusCode::OK => range.start == 0 && answer.body().size_hint().exact().is_none_or(|size_bytes| size_bytes == range.end),
            other => return Err(unexpected(other)),
        };
        if !exact {
            return Err(PeerError::Broken("another part of the content was sent".to_owned()));
        }
        let (region, metrics) = (self.0.region.clone(), self.0.metrics.clone());
        Ok(Transfer { body: answer.into_body(), left_bytes: range.end - range.start, region, metrics })
    }

    /// Looks through a record of the region: `question` says which. `query` is what stands behind the question mark; the answer is the
    /// records room's.
    ///
    /// # Errors
    /// Any.
    pub async fn search(&self, question: &str, query: &str) -> Result<serde_json::Value, PeerError> {
        self.json(format!("/outport/v1/peer/{question}?{query}")).await
    }

    /// Passes a client's request on as it is, with its own credentials, and returns the answer. The body, of which nothing was taken
    /// yet, streams as fast as it is taken; nothing of it is read before there is a connection.
    ///
    /// # Errors
    /// See [`PassError`]; `Gone` when none of the edges takes connections.
    pub async fn pass(&self, passed: Passed<'_>, inflow: &mut Inflow) -> Result<Response<Bytes>, PassError> {
        let mut counted = Counted::begin(&self.0);
        let answer = self.pass_to_any(passed, inflow).await;
        counted.outcome = match &answer {
            Ok(_) => "answered",
            Err(PassError::Gone) => "unavailable",
            Err(PassError::Broken(_)) => "broken",
            Err(PassError::Inflow(_)) => "left",
        };
        answer
    }

    async fn pass_to_any(&self, passed: Passed<'_>, inflow: &mut Inflow) -> Result<Response<Bytes>, PassError> {
        for edge in self.in_order() {
            let uri =
                target(&edge.url, passed).ok_or_else(|| PassError::Broken("the edge has no address that can be dialled".to_owned()))?;
            let mut headers = forwarded(passed);
            // The other region's load balancers go by its own names.
            headers.remove(http::header::HOST);
            self.0.badge.put_on_request(&mut headers);
            match exchange(&self.0.passing, &self.0.badge, (passed, uri, headers), inflow).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Stranger) => return Err(PassError::Broken("who answers there is no edge of that region".to_owned())),
                Err(Failed::Pass(error)) => return Err(error),
                // Nobody has seen anything of it.
                Err(Failed::Dial(error)) if error.nobody_is_there() && inflow.received_bytes() == 0 => self.failed(edge, &error),
                Err(Failed::Dial(error)) => return Err(PassError::Broken(error.to_string())),
            }
        }
        Err(PassError::Gone)
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, path: String) -> Result<T, PeerError> {
        let answer = self.ask(&Asked { path, range: None, wait: None }).await?;
        if answer.status() != StatusCode::OK {
            return Err(unexpected(answer.status()));
        }
        let body = read_whole(answer.into_body(), MAX_JSON_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| PeerError::Broken(error.to_string()))
    }

    /// Asks one edge after the other until one says something definite.
    async fn ask(&self, asked: &Asked) -> Result<Response<AnswerBody>, PeerError> {
        let mut counted = Counted::begin(&self.0);
        let mut last = PeerError::unavailable("none of its edges took connections a moment ago");
        for edge in self.in_order() {
            match self.ask_one(edge, asked).await {
                Ok(answer) => {
                    counted.outcome = "answered";
                    return Ok(answer);
                }
                Err(PeerError::Denied) => {
                    counted.outcome = "denied";
                    return Err(PeerError::Denied);
                }
                Err(error) => last = error,
            }
        }
        counted.outcome = last.outcome();
        Err(last)
    }

    async fn ask_one(&self, edge: &Edge, asked: &Asked) -> Result<Response<AnswerBody>, PeerError> {
        let (mut request, mut again) = (self.request(edge, asked)?, self.request(edge, asked)?);
        let patience = ANSWER_TIMEOUT + asked.wait.unwrap_or_default();
        let mut trying = Trying { edge, clock: &self.0.clock, began: Instant::now(), judges: asked.wait.is_none() };
        let whom = ("outport.peer", &*self.0.region);
        let mut call = trace::call(&mut request, whom);
        let mut answer = self.0.client.send_until(request, sleep(patience)).await;
        if let Err(error @ DialError::Broken { .. }) = &answer {
            // A kept connection may have been closed meanwhile.
            call.ended(Err(error.label()));
            call = trace::call(&mut again, whom);
            answer = self.0.client.send_until(again, sleep(patience)).await;
        }
        call.ended(answer.as_ref().map(Response::status).map_err(DialError::label));
        trying.judges = false;
        let answer = answer.map_err(|error| {
            self.failed(edge, &error);
            PeerError::unavailable(error.to_string())
        })?;
        edge.refusing_until_ms.store(0, Ordering::Relaxed);
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PeerError::Refused("the token is another one there".to_owned())),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(PeerError::Unavailable { why: format!("an edge there answered {status}"), retry_after })
            }
            // What follows is believed, and anybody could say it.
            _ if !self.0.badge.is_on_answer(answer.headers()) => {
                Err(PeerError::Broken("who answers there is no edge of that region".to_owned()))
            }
            StatusCode::NOT_FOUND => Err(PeerError::Denied),
            _ if status.is_client_error() && status != StatusCode::GONE => {
                Err(PeerError::Refused(format!("an edge there answered {status}")))
            }
            _ => Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync())),
        }
    }

    fn request(&self, edge: &Edge, asked: &Asked) -> Result<Request<Full<Bytes>>, PeerError> {
        let url = edge.url.as_str().trim_end_matches('/');
        let mut request =
            Request::get(format!("{url}{}", asked.path)).body(Full::default()).map_err(|error| PeerError::Broken(error.to_string()))?;
        request.headers_mut().insert(AUTHORIZATION, self.0.bearer.clone());
        if let Some(range) = &asked.range {
            let value = HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            request.headers_mut().insert(RANGE, value.map_err(|error| PeerError::Broken(error.to_string()))?);
        }
        Ok(request)
    }

    /// Those that take connections, as far as is known, the slow ones behind the others, and at the end those that refused one.
    fn in_order(&self) -> Vec<&Edge> {
        let now = self.0.clock.now();
        let mut edges: Vec<&Edge> = self.0.edges.iter().filter(|edge| !is_before(now, &edge.dead_until_ms)).collect();
        edges.sort_by_key(|edge| (is_before(now, &edge.refusing_until_ms), is_before(now, &edge.slow_until_ms)));
        edges
    }

    fn failed(&self, edge: &Edge, error: &DialError) {
        tracing::debug!(region = %self.0.region, edge = edge.url.as_str(), %error, "an edge of another region did not answer");
        let until = self.0.clock.now().plus(AVOIDED_FOR).as_ms();
        match error {
            // This side's own limit.
            DialError::Timeout(Wait::Slot) => {}
            DialError::Timeout(Wait::Head) | DialError::Broken { .. } => edge.slow_until_ms.store(until, Ordering::Relaxed),
            DialError::Connect { kind: io::ErrorKind::ConnectionRefused, .. } => edge.refusing_until_ms.store(until, Ordering::Relaxed),
            _ => edge.dead_until_ms.store(until, Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for RemoteEdges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edges: Vec<&str> = self.0.edges.iter().map(|edge| edge.url.as_str()).collect();
        f.debug_struct("RemoteEdges").field("region", &self.0.region).field("edges", &edges).finish_non_exhaustive()
    }
}

impl Edge {
    fn new(url: &Url) -> Edge {
        Edge { url: url.clone(), dead_until_ms: AtomicU64::new(0), refusing_until_ms: AtomicU64::new(0), slow_until_ms: AtomicU64::new(0) }
    }
}

fn is_before(now: Timestamp, until_ms: &AtomicU64) -> bool {
    now.as_ms() < until_ms.load(Ordering::Relaxed)
}

/// A question that can be put to any edge, and put again.
struct Asked {
    path: String,
    range: Option<Range<u64>>,
    /// How long the answer may be held back.
    wait: Option<Duration>,
}

/// A request that is under way. When its asker gives up, the edge is known to be slow.
struct Trying<'a> {
    edge: &'a Edge,
    clock: &'a Clock,
    began: Instant,
    judges: bool,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if self.judges && self.began.elapsed() >= SLOW_AFTER {
            self.edge.slow_until_ms.store(self.clock.now().plus(AVOIDED_FOR).as_ms(), Ordering::Relaxed);
        }
    }
}

/// Counts a request once, also one that is given up in its midst.
struct Counted<'a> {
    edges: &'a Inner,
    outcome: &'static str,
}

impl<'a> Counted<'a> {
    fn begin(edges: &'a Inner) -> Counted<'a> {
        Counted { edges, outcome: "left" }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.edges.metrics.peer_request(&self.edges.region, self.outcome);
    }
}

/// A content on its way. Dropping it ends the transfer.
pub struct Transfer {
    body: AnswerBody,
    left_bytes: u64,
    region: Arc<str>,
    metrics: Metrics,
}

impl Transfer {
    /// The next bytes, never empty; `None` when all that was asked for has come.
    ///
    /// # Errors
    /// `Unavailable` when the body broke or nothing came for too long: the rest can be asked for anew. `Broken` when it is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let Some(bytes) = next_bytes(&mut self.body).await? else {
            return if self.left_bytes == 0 { Ok(None) } else { Err(PeerError::unavailable("the content ended early")) };
        };
        let count = bytes.len() as u64;
        self.left_bytes = self.left_bytes.checked_sub(count).ok_or_else(|| PeerError::Broken("more came than was asked for".to_owned()))?;
        self.metrics.peer_bytes(&self.region, count);
        Ok(Some(bytes))
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("region", &self.region).field("left_bytes", &self.left_bytes).finish_non_exhaustive()
    }
}

/// The next bytes of a body, never empty.
async fn next_bytes(body: &mut AnswerBody) -> Result<Option<Bytes>, PeerError> {
    loop {
        let frame = timeout(ANSWER_TIMEOUT, body.frame()).await;
        let Some(frame) = frame.map_err(|_| PeerError::unavailable("its answer stopped coming"))? else { return Ok(None) };
        match frame.map_err(|error| PeerError::unavailable(format!("its answer broke: {error}")))?.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            _ => {}
        }
    }
}

async fn read_whole(mut body: AnswerBody, limit_bytes: usize) -> Result<Bytes, PeerError> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = next_bytes(&mut body).await? {
        if whole.len() + bytes.len() > limit_bytes {
            return Err(PeerError::Broken(format!("its answer has more than {limit_bytes} bytes")));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

fn snapshots_path(origin: &str) -> String {
    format!("/outport/v1/ledger/{}/snapshots", encoded(origin))
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, IN_TARGET)
}

fn unexpected(status: StatusCode) -> PeerError {
    PeerError::Broken(format!("{status} is no answer to this"))
}

/// Seconds only: edges write no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
