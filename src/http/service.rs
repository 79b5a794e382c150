//! The two services that a server mounts: the registry's and the operators'.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio::sync::{Semaphore, watch};

use super::admit::{Call, Read, Site, Write};
use super::body::{Body, PLAIN_BLOCK_BYTES, Payload, TLS_BLOCK_BYTES, TLS_RECORD_BYTES, Way};
use super::challenge::challenge;
use super::command;
use super::conditional::is_unmodified;
use super::connection::Connection;
use super::console;
use super::error::{Failure, Subject};
use super::exchange;
use super::intake::{Reuse, drain, drain_rest, drain_unasked, json_body};
use super::locations::Locations;
use super::log::Record;
use super::logs;
use super::nearer::OUTPORT_NEARER;
use super::operations::{self, Operations};
use super::ops::{self, OpsAction};
use super::receipts;
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::respond::{self, Listing, ReferrersListing};
use super::route::{Command, Wanted};
use super::search;
use crate::access::Action;
use crate::audit::Audit;
use crate::cache::{Answer, StoredManifest};
use crate::clock::Clock;
use crate::identity::Governance;
use crate::inflow::Inflow;
use crate::journal::{Archive, Journal};
use crate::metrics::Metrics;
use crate::oci::{Digest, RepositoryName};
use crate::registry::{Asking, Check, Purpose, Readiness, ReferrersPage, Registry};
use crate::trace::{Part, Tracer};
use crate::traffic::{Fair, Lane, Traffic};

const OUTPORT_POSITION: HeaderName = HeaderName::from_static("outport-position");
pub(super) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// Answers to other regions that are held back at one time, each until there is something to tell.
const MAX_HELD_BACK: usize = 256;
/// Clients that wait for regions at one time.
const MAX_WAITERS: usize = 1_024;
/// Answers requests. Cloning is cheap; all clones are one.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    audit: Audit,
    operations: Operations,
    locations: Locations,
    governance: Governance,
    site: RwLock<Arc<Site>>,
    request_timeout: Duration,
    metrics: Metrics,
    clock: Clock,
    journal: Journal,
    archive: Archive,
    tracer: Tracer,
    ids: RequestIds,
    traffic: Traffic,
    fair: Fair,
    draining: watch::Sender<bool>,
    /// One for each answer that is held back until there is something to tell.
    held_back: Semaphore,
    /// One for each client that waits for regions.
    waiters: Semaphore,
}

impl Http {
    pub fn new(
        (registry, governance, audit, operations, traffic): (Registry, Governance, Audit, Operations, Traffic),
        locations: Locations,
        site: Site,
        request_timeout: Duration,
        (metrics, journal, archive, tracer): (Metrics, Journal, Archive, Tracer),
        clock: Clock,
    ) -> Http {
        Http(Arc::new(Inner {
            registry,
            governance,
            audit,
            operations,
            locations,
            site: RwLock::new(Arc::new(site)),
            request_timeout,
            fair: Fair::new(metrics.clone()),
            metrics,
            clock,
            journal,
            archive,
            tracer,
            ids: RequestIds::new(),
            traffic,
            draining: watch::Sender::new(false),
            held_back: Semaphore::new(MAX_HELD_BACK),
            waiters: Semaphore::new(MAX_WAITERS),
        }))
    }

    pub(super) fn registry_ref(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    pub(super) fn archive(&self) -> &Archive {
        &self.0.archive
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    pub(super) fn fair(&self) -> &Fair {
        &self.0.fair
    }

    pub(super) fn governance(&self) -> &Governance {
        &self.0.governance
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// As long as any one request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    pub(super) fn locations(&self) -> &Locations {
        &self.0.locations
    }

    /// Replaces names, identity and policy for the requests that begin from now on.
    pub fn reload(&self, site: Site) {
        *self.0.site.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    }

    /// From now on `/readyz` says no, so that load balancers send nobody; requests are answered all the same, and those that were
    /// held back until there is something to tell are answered at once.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Returns when this edge drains.
    pub(super) async fn drained(&self) {
        // It ends only with the edge.
        let _ = self.0.draining.subscribe().wait_for(|draining| *draining).await;
    }

    pub(super) fn held_back(&self) -> &Semaphore {
        &self.0.held_back
    }

    pub(super) fn waiters(&self) -> &Semaphore {
        &self.0.waiters
    }

    /// A request on a registry listener. The answer's head is ready when this returns; it never fails.
    pub fn registry<B>(&self, request: Request<B>, connection: Arc<Connection>) -> impl Future<Output = Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // On its way through a server a future is moved many times, and a connection has room for one all the time.
        match self.begin_part(request.headers()) {
            None => Either::Left(Box::pin(self.answer(request, connection, None))),
            Some(part) => Either::Right(Box::pin(part.clone().during(self.answer(request, connection, Some(part))))),
        }
    }

    async fn answer<B>(&self, request: Request<B>, connection: Arc<Connection>, part: Option<Part>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let site = self.site();
        // What was said was this.
        let said = connection.said.take();
        let is_first = !self.0.locations.is_passed_on(&head.headers);
        let mut record = self.begin_record((&head.method, &head.headers), &connection, is_first);
        record.belongs_to(part);
        // A connection has room for this future all the time, and each request moves it: what is not for reads lies elsewhere.
        let admitted = site.admit(&head, &connection, &mut record).await;
        let (admitted, lane) = if is_first { self.fairly(admitted, (&site, &head), &record) } else { (admitted, None) };
        let (reply, reuse) = match admitted {
            Ok(Call::Command(command)) => Box::pin(self.command(command, &site, &head, body, &mut record)).await,
            Ok(Call::Exchange) => Box::pin(self.exchange((&site, &head, &connection), body, &mut record)).await,
            Ok(Call::TokenForm) => Box::pin(self.token_form((&site, &head, &connection), body, &mut record)).await,
            Ok(Call::Write(write)) => {
                let taken = Box::pin(self.take_in(&write, (&site, &head), body, &mut record)).await;
                self.0.operations.note(&taken.0, &write.access, (&head, &record));
                taken
            }
            Ok(Call::Acr(call)) => {
                let answering = async {
                    let mut inflow = Inflow::new(body, u64::MAX);
                    let reply = self.acr(&call, (&site, &head), &mut inflow, &record).await;
                    self.0.operations.note(&reply, &call.access, (&head, &record));
                    (reply, drain_rest(&head, inflow).await)
                };
                Box::pin(answering).await
            }
            Ok(Call::Govern(permit, wanted)) => Box::pin(self.govern((permit, &wanted), (&site, record.caller()), &head, body)).await,
            Ok(Call::Read(read)) => {
                let reuse = drain(&head, body).await;
                let reply = match self.read_at_once(&read, &head, &mut record) {
                    Some(reply) => {
                        self.remember(&site, (&head, &read), said.filter(|_| is_first));
                        reply
                    }
                    None => within(site.deadline, Box::pin(self.read(&read, (&site, &head), &mut record))).await,
                };
                (reply, reuse)
            }
            Ok(call) => {
                let reuse = drain(&head, body).await;
                (Box::pin(self.call(call, &site, &head, &mut record)).await, reuse)
            }
            Err(failure) => {
                let reuse = if failure.status == StatusCode::UNAUTHORIZED {
                    Box::pin(drain_unasked(&head, body)).await
                } else {
                    drain(&head, body).await
                };
                (Err(failure), reuse)
            }
        };
        let reply = reply.unwrap_or_else(|mut failure| {
            record.refused(&failure);
            record.cause = failure.cause.take();
            let challenge = failure.challenge().and_then(|reason| challenge(reason, &site, (&head, &connection)));
            let mut response = failure.into_response();
            response.headers_mut().extend(challenge.map(|value| (header::WWW_AUTHENTICATE, value)));
            response
        });
        let nearer = site.nearer.to(record.client()).cloned();
        let mut answer = finish(reply, &head, reuse, (&connection, lane), record);
        answer.headers_mut().extend(nearer.map(|region| (OUTPORT_NEARER, region)));
        self.0.locations.vouch(&head.headers, answer.headers_mut());
        site.tokens.vouch(&head.headers, answer.headers_mut());
        answer
    }

    /// Begins the record of a request that asks for `method` with `headers`. What another edge of this region has passed on is in that one's
    /// records.
    pub(super) fn begin_record(&self, asked: (&Method, &HeaderMap), connection: &Connection, is_first: bool) -> Box<Record> {
        let request_id = self.0.ids.choose(asked.1, self.0.clock.now());
        // It is handed on until the answer's body ends, and it is large.
        let mut record = Box::new(Record::start(&self.0.metrics, asked, connection, request_id));
        record.written_to(self.0.journal.text());
        if is_first {
            record.audited_by(&self.0.audit);
            record.counted_by(&self.0.traffic);
        }
        record
    }

    /// The part of a trace that a request with these headers is, if it is one.
    pub(super) fn begin_part(&self, headers: &HeaderMap) -> Option<Part> {
        self.0.tracer.begin(headers)
    }

    /// A request that writes to a repository.
    async fn take_in<B>(
        &self,
        write: &Write,
        (site, head): (&Site, &Parts),
        body: B,
        record: &mut Record,
    ) -> (Result<Response<Payload>, Failure>, Reuse)
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut inflow = Inflow::new(body, u64::MAX);
        let declared_bytes = inflow.declared_bytes();
        let reply = within(self.0.request_timeout, self.write(write, (site, head), &mut inflow, record)).await;
        // A manifest is taken with its body.
        record.received(if write.wanted.is_manifest() { declared_bytes.unwrap_or_default() } else { inflow.received_bytes() });
        (reply, drain_rest(head, inflow).await)
    }

    /// A request on the operators' listener. It is in no log, unless the console asks what it could ask on a registry listener, too:
    /// probes and scrapes would fill it.
    pub async fn ops<B>(&self, request: Request<B>, connection: Arc<Connection>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let is_interface = ops::is_interface(head.uri.path());
        if is_interface && !ops::may_be_forged(&head) {
            let from_console = ops::is_from_console(&head.headers);
            let mut answer = Box::pin(self.registry(Request::from_parts(head, body), connection)).await;
            if from_console {
                // The console asks for a name and a password itself; a browser would open a window of its own.
                answer.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            return answer;
        }
        let reuse = drain(&head, body).await;
        let mut reply = match ops::route_ops(&head.method, head.uri.path(), head.uri.query().unwrap_or_default()) {
            _ if is_interface => Failure::forbidden().into_response(),
            Ok(OpsAction::Alive) => ops::alive(),
            Ok(OpsAction::Page) => ops::page(&head.headers),
            Ok(OpsAction::Console(file)) => console::answer(file, &head.headers),
            Ok(OpsAction::Metrics) => {
                self.report().await;
                ops::metrics(self.0.metrics.render())
            }
            Ok(OpsAction::Status) => receipts::status(&self.0.registry.overview().await),
            Ok(OpsAction::Ready(check)) => self.ready(check, self.site().deadline).await,
            Err(error) => ops::refused(error),
        };
        let request_id = self.0.ids.choose(&head.headers, self.0.clock.now());
        shared_headers(&mut reply, &head, reuse, &request_id);
        reply.map(|payload| Body::unrecorded(sent(payload, &head.method)))
    }

    /// Brings the gauges up to date, before they are read.
    pub async fn report(&self) {
        self.0.registry.report().await;
        let is_ready = self.ready(Check::Shallow, self.site().deadline).await.status() == StatusCode::OK;
        self.0.metrics.ready.set(is_ready.into());
        self.0.audit.report().await;
        self.0.archive.report().await;
        self.0.operations.report();
    }

    pub(super) fn site(&self) -> Arc<Site> {
        self.0.site.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ready(&self, check: Check, deadline: Duration) -> Response<Payload> {
        let asked = tokio::time::timeout(deadline, self.0.registry.ready(check)).await;
        let mut readiness =
            asked.unwrap_or_else(|_| Readiness { impaired: vec!["the check took too long".to_owned()], ..Readiness::default() });
        if *self.0.draining.borrow() {
            readiness.failing.insert(0, "draining".to_owned());
        }
        ops::readiness(&readiness)
    }

    async fn call(&self, call: Call, site: &Site, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
        // Of what is listed, the caller sees what it may.
        let visible = |action| {
            let caller = record.caller().of_lists();
            move |repository: &RepositoryName| site.policy.authorize(&caller, repository, action).is_ok()
        };
        match call {
            Call::Version => Ok(respond::version()),
            Call::Ready => Ok(ops::without_reasons(self.ready(Check::Shallow, site.deadline).await)),
            Call::Catalog(page) => {
                let listed = within(site.deadline, async { Ok(self.0.registry.catalog(visible(Action::Pull), &page).await) }).await?;
                Ok(respond::catalog(&listed, Listing { page: &page, ns: None }))
            }
            Call::AcrCatalog(page) => {
                let listing = async { Ok(self.0.registry.catalog(visible(Action::MetadataRead), &page).await) };
                let listed = within(site.deadline, listing).await?;
                Ok(respond::acr_catalog(&listed, Listing { page: &page, ns: None }))
            }
            Call::Forwards => Ok(respond::forwards(&self.0.registry.forwards(visible(Action::Pull)))),
            Call::Conflicts(page) => {
                let listed = self.0.registry.conflicts(visible(Action::Pull), &page);
                let listed = listed.map_err(|error| Failure::from_cache(error, Subject::Repository))?;
                Ok(respond::conflicts(&listed, &page))
            }
            Call::Overview => within(site.deadline, async { Ok(self.overview(record.caller()).await) }).await,
            Call::Audit(permit, query) => within(site.deadline, search::looked(self.audit(), permit, &query, site.deadline)).await,
            Call::Logs(excerpt) => Ok(logs::told(&self.0.journal, &excerpt)),
            Call::SearchLogs(permit, query) => within(site.deadline, search::looked(self.archive(), permit, &query, site.deadline)).await,
            Call::Webhooks(permit) => Ok(operations::webhooks(&self.0.operations, permit)),
            Call::Ping(permit, name) => operations::ping(&self.0.operations, permit, &name).await,
            Call::Offload => Ok(operations::offload(&self.0.operations, site)),
            Call::Watched => Ok(operations::watched(&self.0.operations, visible(Action::Pull))),
            Call::Top(permit, query) => Ok(self.top(permit, query)),
            Call::Wait(waiting) => self.wait(&waiting).await,
            Call::Peer(caller, question) => self.tell(&caller, &question, (site, head), record).await,
            Call::Token(request) => self.token(&request, (site, head), record).await,
            Call::SignIns => Ok(exchange::sign_ins(site)),
            Call::Read(_) | Call::Write(_) | Call::Acr(_) | Call::Command(_) | Call::TokenForm | Call::Exchange | Call::Govern(..) => {
                Err(Failure::bad_command("a command is a POST"))
            }
        }
    }

    /// What is warm is answered without a future that could wait: they are large, and each request would move one.
    fn read_at_once(&self, read: &Read, head: &Parts, record: &mut Record) -> Option<Result<Response<Payload>, Failure>> {
        let Wanted::Manifest(reference) = &read.wanted else { return None };
        if head.headers.contains_key(OUTPORT_POSITION) {
            return None;
        }
        let answer = self.0.registry.manifest_at_once(&read.access, reference)?;
        Some(manifest_answer(answer, head, record).map(|response| in_namespace(response, read, record)))
    }

    async fn read(&self, read: &Read, (site, head): (&Site, &Parts), record: &mut Record) -> Result<Response<Payload>, Failure> {
        let (registry, access) = (&self.0.registry, &read.access);
        let may_push = || site.policy.authorize(record.caller(), access.repository(), Action::Push).is_ok();
        let asking = &asking(head, may_push)?;
        let refused = |error| Failure::from_cache(error, read.wanted.subject());
        let response = match &read.wanted {
            Wanted::Manifest(reference) => {
                let answer = registry.manifest(access, reference, asking).await.map_err(refused)?;
                manifest_answer(answer, head, record)?
            }
            Wanted::Blob(digest) => self.blob((read, asking), digest, head, record).await?,
            Wanted::Receipt(reference) => receipts::shown(&Box::pin(registry.receipt(access, reference)).await.map_err(refused)?),
            Wanted::Tags(page) => {
                let answer = Box::pin(registry.tags(access, page, asking)).await.map_err(refused)?;
                record.found(&answer);
                respond::tags(answer, &read.name, Listing { page, ns: read.ns.as_deref() })
            }
            Wanted::Referrers { subject, artifact_type, last } => {
                let artifact_type = artifact_type.as_deref();
                let page = ReferrersPage { subject, artifact_type, after: last.as_ref() };
                let answer = Box::pin(registry.referrers(access, page, asking)).await.map_err(refused)?;
                record.found(&answer);
                respond::referrers(answer, ReferrersListing { name: &read.name, ns: read.ns.as_deref(), subject, artifact_type })
            }
        };
        Ok(in_namespace(response, read, record))
    }

    async fn blob(
        &self,
        (read, asking): (&Read, &Asking),
        digest: &Digest,
        head: &Parts,
        record: &mut Record,
    ) -> Result<Response<Payload>, Failure> {
        let refused = |error| Failure::from_cache(error, Subject::Blob);
        let is_conditional = head.headers.contains_key(header::IF_NONE_MATCH);
        if head.method == Method::HEAD || is_conditional && is_unmodified(&head.headers, &respond::etag(digest)) {
            let answer = self.0.registry.blob_head(&read.access, digest, asking).await.map_err(refused)?;
            record.found(&answer);
            return Ok(respond::blob_head(&answer, digest, &head.headers));
        }
        let answer = self.0.registry.blob(&read.access, digest, asking).await.map_err(refused)?;
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
        match json_body(site, head, body).await {
            (Ok(bytes), reuse) => (self.obey(command, site, &bytes, record).await, reuse),
            (Err(failure), reuse) => (Err(failure), reuse),
        }
    }

    async fn obey(&self, command: Command, site: &Site, body: &Bytes, record: &mut Record) -> Result<Response<Payload>, Failure> {
        let order = command::authorize(site, body, record)?;
        let registry = &self.0.registry;
        let refused = |error| Failure::from_cache(error, Subject::Manifest);
        match command {
            Command::Refresh => {
                let refreshing = async { registry.refresh(&order.access, &order.reference).await.map_err(refused) };
                let answer = within(site.deadline, refreshing).await?;
                record.found(&answer);
                Ok(respond::refreshed(&answer))
            }
            Command::Prefetch => {
                // A whole image takes as long as any one request may.
                let platform = order.platform.as_deref();
                let fetching = async { registry.prefetch(&order.access, &order.reference, platform).await.map_err(refused) };
                within(self.0.request_timeout, fetching).await.map(respond::prefetched)
            }
        }
    }
}

fn manifest_answer(answer: Answer<StoredManifest>, head: &Parts, record: &mut Record) -> Result<Response<Payload>, Failure> {
    record.found(&answer);
    record.is_about(&answer.value.digest);
    respond::manifest(answer, &head.headers)
}

/// Tells whose content it is where the client has asked for an upstream's by `ns`.
fn in_namespace(mut response: Response<Payload>, read: &Read, record: &Record) -> Response<Payload> {
    if let Some(upstream) = read.ns.as_ref().and(record.upstream.as_deref())
        && let Ok(value) = HeaderValue::from_str(upstream)
    {
        response.headers_mut().insert(OCI_NAMESPACE, value);
    }
    response
}

/// What a read is for, and what it must not be older than.
fn asking(head: &Parts, may_push: impl Fn() -> bool) -> Result<Asking, Failure> {
    let position = match head.headers.get(OUTPORT_POSITION) {
        None => None,
        Some(value) => Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(Failure::bad_position)?),
    };
    let purpose = if head.method == Method::HEAD && may_push() { Purpose::Check } else { Purpose::Pull };
    Ok(Asking { purpose, position })
}

/// "Cannot tell" comes in time for the client to try its next mirror.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::unavailable("the deadline passed", None)),
    }
}

/// Adds what every answer has and ties it to its connection and record.
fn finish(
    mut reply: Response<Payload>,
    head: &Parts,
    reuse: Reuse,
    (connection, lane): (&Connection, Option<Lane>),
    mut record: Box<Record>,
) -> Response<Body> {
    shared_headers(&mut reply, head, reuse, record.request_id());
    let (name, value) = respond::API_VERSION;
    reply.headers_mut().insert(name, value);
    record.named(&mut reply);
    record.answered(reply.status());
    let block_bytes = match (connection.tls, connection.crowded) {
        (false, _) => PLAIN_BLOCK_BYTES,
        (true, false) => TLS_BLOCK_BYTES,
        (true, true) => TLS_RECORD_BYTES,
    };
    let way = Way { block_bytes, outbox: connection.outbox.clone(), lane: lane.map(Box::new) };
    reply.map(|payload| Body::new(sent(payload, &head.method), way, record))
}

fn shared_headers(reply: &mut Response<Payload>, head: &Parts, reuse: Reuse, request_id: &str) {
    // RFC 9110, section 8.6: a 204 has none, a 304 only that of the content.
    let has_no_length = matches!(reply.status(), http::StatusCode::NOT_MODIFIED | http::StatusCode::NO_CONTENT);
    let size_bytes = reply.body().size_bytes();
    let headers = reply.headers_mut();
    if let Some(size_bytes) = size_bytes.filter(|_| !has_no_length) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| size_bytes.into());
    }
    let (name, value) = respond::NO_SNIFF;
    headers.insert(name, value);
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a server does with the futures: it spawns them.
    const _: fn(Http, Request<Incoming>, Arc<Connection>) = |http, request, connection| {
        drop(tokio::spawn(async move { http.registry(request, connection).await }));
    };

    /// What a connection holds all the time, and what a request takes while it is answered.
    #[test]
    fn a_request_is_small_while_it_is_answered() {
        const HELD_MOST: usize = 64;
        const TAKEN_MOST: usize = 4 * 1024;
        fn bytes_of<F>(_: impl Fn(&'static Http, Request<Incoming>, Arc<Connection>) -> F) -> usize {
            size_of::<F>()
        }
        let held = bytes_of(|http, request, connection| http.registry(request, connection));
        let taken = bytes_of(|http, request, connection| http.answer(request, connection, None));
        assert!(held <= HELD_MOST && taken <= TAKEN_MOST, "{held} {taken}");
    }

    /// Sends bytes on one connection and returns all that is answered until the server closes it. Each request is answered 200 when
    /// `serve` has done with its body.
    async fn conversation<F>(bytes: &[u8], serve: fn(Parts, Incoming) -> F) -> String
    where
        F: Future<Output = (Parts, Reuse)> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let (head, body) = request.into_parts();
                let (head, reuse) = serve(head, body).await;
                let mut reply = respond::version();
                shared_headers(&mut reply, &head, reuse, "id");
                Ok::<_, std::convert::Infallible>(reply.map(|payload| Body::unrecorded(sent(payload, &head.method))))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(socket), service).await
        });
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        // A reset after the answer is an end too.
        let _ = client.read_to_end(&mut received).await;
        let _ = server.await.unwrap();
        String::from_utf8(received).unwrap()
    }

    async fn drained(head: Parts, body: Incoming) -> (Parts, Reuse) {
        let reuse = drain(&head, body).await;
        (head, reuse)
    }

    /// As a push that is refused before its body is read.
    async fn refused(head: Parts, body: Incoming) -> (Parts, Reuse) {
        let reuse = drain_rest(&head, Inflow::new(body, u64::MAX)).await;
        (head, reuse)
    }

    /// As a request that has to come again with credentials.
    async fn challenged(head: Parts, body: Incoming) -> (Parts, Reuse) {
        let reuse = drain_unasked(&head, body).await;
        (head, reuse)
    }

    /// As a push that takes at most 10 bytes.
    async fn taken(head: Parts, body: Incoming) -> (Parts, Reuse) {
        let mut inflow = Inflow::new(body, 10);
        while let Ok(Some(_)) = inflow.next().await {}
        let reuse = drain_rest(&head, inflow).await;
        (head, reuse)
    }

    const SECOND: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn row_17_a_body_on_a_get_is_drained_or_the_connection_closed() {
        for (headers, body, answers) in [
            ("Content-Length: 5", "GET /", 2),
            ("Transfer-Encoding: chunked", "5\r\nGET /\r\n0\r\n\r\n", 2),
            ("X-None: 1", "", 2),
            ("Content-Length: 1000000", SECOND, 1),
            ("Content-Length: 5\r\nExpect: 100-continue", "", 1),
        ] {
            let bytes = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}{SECOND}");
            for received in [conversation(bytes.as_bytes(), drained).await, conversation(bytes.as_bytes(), refused).await] {
                assert_eq!(received.matches("HTTP/1.1 200 OK").count(), answers, "{headers}: {received}");
                assert!(received.ends_with("{}") && received.contains("connection: close"), "{received}");
                // Row 48: who is refused is not asked for the body.
                assert!(!received.contains("100 Continue"), "{received}");
            }
        }
    }

    #[tokio::test]
    async fn who_sent_a_part_of_a_blob_before_signing_in_gets_the_challenge_and_may_go_on() {
        let part = "x".repeat(4 << 20);
        for (headers, body, answers) in [
            (format!("Content-Length: {}", part.len()), part.as_str(), 2),
            ("Content-Length: 9000000".to_owned(), SECOND, 1),
            // Row 48: what is only offered is not asked for.
            (format!("Content-Length: {}\r\nExpect: 100-continue", part.len()), "", 1),
        ] {
            let bytes = format!("PATCH /v2/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}{SECOND}");
            let received = conversation(bytes.as_bytes(), challenged).await;
            assert_eq!(received.matches("HTTP/1.1 200 OK").count(), answers, "{headers}: {received}");
            assert!(!received.contains("100 Continue"), "{received}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_taken_leaves_the_connection_and_one_that_is_too_long_ends_it() {
        for (headers, body, answers, asked) in [
            ("Content-Length: 5", "01234", 2, false),
            ("Transfer-Encoding: chunked", "5\r\n01234\r\n0\r\n\r\n", 2, false),
            ("Content-Length: 5\r\nExpect: 100-continue", "01234", 2, true),
            // Row 45, chunked and declared.
            ("Transfer-Encoding: chunked", "b\r\n0123456789a\r\n0\r\n\r\n", 1, false),
            ("Content-Length: 11", "0123456789a", 1, false),
            ("Content-Length: 11\r\nExpect: 100-continue", "", 1, false),
        ] {
            let bytes = format!("PATCH /v2/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}{SECOND}");
            let received = conversation(bytes.as_bytes(), taken).await;
            assert_eq!(received.matches("HTTP/1.1 200 OK").count(), answers, "{headers}: {received}");
            assert_eq!(received.contains("100 Continue"), asked, "{headers}: {received}");
        }
    }

    #[tokio::test]
    async fn a_head_has_the_length_and_no_body() {
        let received = conversation(b"HEAD /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", drained).await;
        assert!(received.contains("content-length: 2\r\n") && received.ends_with("\r\n\r\n"), "{received}");
    }

    #[tokio::test(start_paused = true)]
    async fn cannot_tell_comes_within_the_deadline() {
        let never = std::future::pending::<Result<(), Failure>>();
        let failure = within(Duration::from_secs(3), never).await.unwrap_err();
        assert_eq!(failure.status, http::StatusCode::SERVICE_UNAVAILABLE);
        assert!(failure.into_response().headers().contains_key(header::RETRY_AFTER));
    }

    #[tokio::test]
    async fn every_answer_is_tied_to_its_record() {
        let (metrics, connection) = (Metrics::new(), Connection::plain("10.0.0.1:1".parse().unwrap()));
        let head = Request::get("/v2/").body(()).unwrap().into_parts().0;
        let record = Box::new(Record::start(&metrics, (&head.method, &head.headers), &connection, "id".to_owned()));
        let response = finish(respond::version(), &head, Reuse::Keep, (&connection, None), record);
        for (name, value) in [("x-request-id", "id"), ("docker-distribution-api-version", "registry/2.0"), ("content-length", "2")] {
            assert_eq!(response.headers()[name], value);
        }
        assert!(!response.headers().contains_key("connection"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
        assert!(metrics.render().contains(r#"outport_response_bytes_total{route="other",source="none"} 2"#));
    }
}
