//! The two services that a server mounts: the registry's and the operators'.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::admit::{Call, Read, Site};
use super::body::{Body, PLAIN_BLOCK_BYTES, Payload, TLS_BLOCK_BYTES};
use super::command::{self, MAX_COMMAND_BYTES};
use super::conditional::is_unmodified;
use super::connection::Connection;
use super::error::{Failure, Subject};
use super::log::Record;
use super::ops::{self, OpsAction};
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::respond::{self, Listing};
use super::route::{Command, Wanted};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::registry::{Check, Registry};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// A body that no read needs is taken in, so that its connection can go on, up to this many bytes and this time.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Answers requests. Cloning is cheap; all clones are one.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    site: RwLock<Arc<Site>>,
    limits: config::Limits,
    metrics: Metrics,
    clock: Clock,
    ids: RequestIds,
    draining: AtomicBool,
}

/// Whether a connection can carry another request after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    Keep,
    /// Bytes of this request's body are still to come: nothing behind them may be read as a request.
    Close,
}

impl Http {
    pub fn new(registry: Registry, site: Site, limits: &config::Limits, metrics: Metrics, clock: Clock) -> Http {
        Http(Arc::new(Inner {
            registry,
            site: RwLock::new(Arc::new(site)),
            limits: limits.clone(),
            metrics,
            clock,
            ids: RequestIds::new(),
            draining: AtomicBool::new(false),
        }))
    }

    /// Replaces names, identity and policy for the requests that begin from now on.
    pub fn reload(&self, site: Site) {
        *self.0.site.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    }

    /// From now on `/readyz` says no, so that load balancers send nobody; requests are answered all the same.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// A request on a registry listener. The answer's head is ready when this returns; it never fails.
    pub async fn registry<B>(&self, request: Request<B>, connection: Arc<Connection>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let site = self.site();
        let request_id = self.0.ids.choose(&head.headers, self.0.clock.now());
        let mut record = Record::start(&self.0.metrics, &head, &connection, request_id);
        let (reply, reuse) = match site.admit(&head, &connection, &mut record) {
            Ok(Call::Command(command)) => self.command(command, &site, &head, body, &mut record).await,
            Ok(call) => {
                let reuse = drain(&head, body).await;
                (self.call(call, &head, &mut record).await, reuse)
            }
            Err(failure) => (Err(failure), drain(&head, body).await),
        };
        let reply = reply.unwrap_or_else(|mut failure| {
            record.cause = failure.cause.take();
            failure.into_response()
        });
        finish(reply, &head, reuse, &connection, record)
    }

    /// A request on the operators' listener. It is in no log: probes and scrapes would fill it.
    pub async fn ops<B>(&self, request: Request<B>, _connection: Arc<Connection>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let reuse = drain(&head, body).await;
        let mut reply = match ops::route_ops(&head.method, head.uri.path(), head.uri.query().unwrap_or_default()) {
            Ok(OpsAction::Alive) => ops::alive(),
            Ok(OpsAction::Page) => ops::page(),
            Ok(OpsAction::Metrics) => ops::metrics(self.0.metrics.render()),
            Ok(OpsAction::Ready(check)) => self.ready(check).await,
            Err(error) => ops::refused(error),
        };
        let request_id = self.0.ids.choose(&head.headers, self.0.clock.now());
        shared_headers(&mut reply, &head, reuse, &request_id);
        reply.map(|payload| Body::unrecorded(sent(payload, &head.method)))
    }

    fn site(&self) -> Arc<Site> {
        self.0.site.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ready(&self, check: Check) -> Response<Payload> {
        let asked = tokio::time::timeout(self.0.limits.deadline, self.0.registry.ready(check)).await;
        let mut readiness = asked.unwrap_or_else(|_| crate::registry::Readiness { reasons: vec!["the check took too long".to_owned()] });
        if self.0.draining.load(Ordering::Relaxed) {
            readiness.reasons.insert(0, "draining".to_owned());
        }
        ops::readiness(&readiness)
    }

    async fn call(&self, call: Call, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
        match call {
            Call::Version => Ok(respond::version()),
            Call::Ready => Ok(self.ready(Check::Shallow).await),
            Call::Catalog(page) => {
                let listed = within(self.0.limits.deadline, async { Ok(self.0.registry.catalog(record.principal(), &page).await) }).await?;
                Ok(respond::catalog(&listed, Listing { page: &page, ns: None }))
            }
            Call::Read(read) => within(self.0.limits.deadline, self.read(&read, head, record)).await,
            Call::Command(_) => Err(Failure::bad_command("a command is a POST")),
        }
    }

    async fn read(&self, read: &Read, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
        let (registry, access) = (&self.0.registry, &read.access);
        let refused = |error| Failure::from_cache(error, read.wanted.subject());
        let mut response = match &read.wanted {
            Wanted::Manifest(reference) => self.manifest(read, reference, head, record).await?,
            Wanted::Blob(digest) => self.blob(read, digest, head, record).await?,
            Wanted::Tags(page) => {
                let answer = registry.tags(access, page).await.map_err(refused)?;
                record.found(&answer);
                respond::tags(answer, &read.name, Listing { page, ns: read.ns.as_deref() })
            }
            Wanted::Referrers { subject, artifact_type } => {
                let answer = registry.referrers(access, subject).await.map_err(refused)?;
                record.found(&answer);
                respond::referrers(answer, artifact_type.as_deref())
            }
        };
        if let Some(upstream) = read.ns.as_ref().and(record.upstream.as_deref())
            && let Ok(value) = HeaderValue::from_str(upstream)
        {
            response.headers_mut().insert(OCI_NAMESPACE, value);
        }
        Ok(response)
    }

    async fn manifest(&self, read: &Read, reference: &Reference, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
        let refused = |error| Failure::from_cache(error, Subject::Manifest);
        let answer = if head.method == Method::HEAD {
            self.0.registry.manifest_head(&read.access, reference).await.map_err(refused)?
        } else {
            self.0.registry.manifest(&read.access, reference).await.map_err(refused)?
        };
        if head.method != Method::HEAD && answer.value.bytes.is_none() {
            return Err(Failure::unavailable("only the manifest's head is known", None));
        }
        record.found(&answer);
        respond::manifest(answer, &head.headers)
    }

    async fn blob(&self, read: &Read, digest: &Digest, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
        let refused = |error| Failure::from_cache(error, Subject::Blob);
        if head.method == Method::HEAD || is_unmodified(&head.headers, &respond::etag(digest)) {
            let answer = self.0.registry.blob_head(&read.access, digest).await.map_err(refused)?;
            record.found(&answer);
            return Ok(respond::blob_head(&answer, digest, &head.headers));
        }
        let answer = self.0.registry.blob(&read.access, digest).await.map_err(refused)?;
        record.found(&answer);
        answer.value.started().await?;
        if head.version < Version::HTTP_11 && answer.value.size_bytes().is_none() {
            // HTTP/1.0 knows no chunks: without a length, a cut body would look like a whole one.
            answer.value.complete().await?;
        }
        respond::blob(answer, digest, &head.headers)
    }

    async fn command<B>(
        &self,
        command: Command,
        site: &Site,
        head: &Parts,
        body: B,
        record: &mut Record,
    ) -> (Result<Response<Payload>, Failure>, Reuse)
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_json = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b';').next() == Some(b"application/json");
        if !head.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
            // No page of another origin can send this type without asking first.
            return (Err(Failure::not_json()), drain(head, body).await);
        }
        match tokio::time::timeout(self.0.limits.deadline, command_body(body)).await {
            Ok(Ok(bytes)) => (self.obey(command, site, &bytes, record).await, Reuse::Keep),
            Ok(Err(failure)) => (Err(failure), Reuse::Close),
            Err(_) => (Err(Failure::bad_command("the body did not come")), Reuse::Close),
        }
    }

    async fn obey(&self, command: Command, site: &Site, body: &Bytes, record: &mut Record) -> Result<Response<Payload>, Failure> {
        let order = command::authorize(site, body, record)?;
        let (registry, limits) = (&self.0.registry, &self.0.limits);
        let refused = |error| Failure::from_cache(error, Subject::Manifest);
        match command {
            Command::Refresh => {
                let refreshing = async { registry.refresh(&order.access, &order.reference).await.map_err(refused) };
                let answer = within(limits.deadline, refreshing).await?;
                record.found(&answer);
                Ok(respond::refreshed(&answer))
            }
            Command::Prefetch => {
                // A whole image takes as long as any one request may.
                let platform = order.platform.as_deref();
                let fetching = async { registry.prefetch(&order.access, &order.reference, platform).await.map_err(refused) };
                within(limits.request_timeout, fetching).await.map(respond::prefetched)
            }
        }
    }
}

/// "Cannot tell" comes in time for the client to try its next mirror.
async fn within<T>(time: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::unavailable("the deadline passed", None)),
    }
}

async fn command_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MAX_COMMAND_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::body_too_large()),
        Err(_) => Err(Failure::bad_command("the body did not come whole")),
    }
}

/// Takes in a small body that nobody reads. One that is larger, slow, or only offered (`Expect: 100-continue`) is left alone.
async fn drain<B>(head: &Parts, body: B) -> Reuse
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.is_end_stream() {
        return Reuse::Keep;
    }
    if head.headers.contains_key(header::EXPECT) || body.size_hint().lower() > DRAIN_BYTES as u64 {
        return Reuse::Close;
    }
    let mut body = std::pin::pin!(Limited::new(body, DRAIN_BYTES));
    let emptied = async {
        loop {
            match body.frame().await {
                None => return Reuse::Keep,
                Some(Ok(_)) => {}
                Some(Err(_)) => return Reuse::Close,
            }
        }
    };
    tokio::time::timeout(DRAIN_TIME, emptied).await.unwrap_or(Reuse::Close)
}

/// Adds what every answer has and ties it to its connection and record.
fn finish(mut reply: Response<Payload>, head: &Parts, reuse: Reuse, connection: &Connection, mut record: Record) -> Response<Body> {
    shared_headers(&mut reply, head, reuse, record.request_id());
    reply.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    record.answered(reply.status());
    let block_bytes = if connection.tls { TLS_BLOCK_BYTES } else { PLAIN_BLOCK_BYTES };
    reply.map(|payload| Body::new(sent(payload, &head.method), block_bytes, record))
}

fn shared_headers(reply: &mut Response<Payload>, head: &Parts, reuse: Reuse, request_id: &str) {
    let (has_no_length, size_bytes) = (reply.status() == http::StatusCode::NOT_MODIFIED, reply.body().size_bytes());
    let headers = reply.headers_mut();
    if let Some(size_bytes) = size_bytes.filter(|_| !has_no_length) {
        headers.entry(header::CONTENT_LENGTH).or_insert(size_bytes.into());
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(request_id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, request_id);
    }
    // HTTP/2 has no such header: its streams do not run into each other.
    if reuse == Reuse::Close && head.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What goes on the wire: nothing after the head of an answer to HEAD.
fn sent(payload: Payload, method: &Method) -> Payload {
    if method == Method::HEAD { Payload::Empty } else { payload }
}
