//! One address of an upstream, its own or a mirror's: how it is asked, with its credentials, its redirects, its health.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::breaker::{Admission, Breaker, Circuit, Verdict};
use super::challenge::{self, Challenge};
use super::error::{Failure, UpstreamError};
use super::sending::{Outgoing, Sending};
use super::tokens::{Credentials, Key, Tokens};
use super::wire::{Body, Wire, discard};
use super::{AGENT, headers, origin};
use crate::oci::RepositoryName;

const MAX_REDIRECTS: usize = 5;
/// Further tries of one request, where the budget allows them, and the wait before the first of them, doubled for each next.
const MAX_RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(100);
/// A `Retry-After` beyond this is cut: an upstream must not be able to silence itself for days by mistake.
const MAX_PAUSE: Duration = Duration::from_secs(3_600);
/// As much of a refusal's body as is read, in this time, and as much of its words as is shown.
const MAX_COMPLAINT_BYTES: usize = 16 * 1024;
const COMPLAINT_TIME: Duration = Duration::from_secs(1);
const MAX_COMPLAINT_CHARS: usize = 200;
/// For how long a mirror whose body broke is passed over.
const BROKEN_PAUSE: Duration = Duration::from_secs(10);

/// What an endpoint is to its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Tried first; what it lacks or does wrong, the next endpoint may do better. It is not asked twice.
    Mirror,
    /// The upstream itself: its answer is the answer.
    Main,
}

/// One request, in an endpoint's own terms.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below `/v2/`.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) accept: &'static str,
    /// The first byte wanted; beyond 0 it becomes a `Range`.
    pub(super) from: u64,
    /// To be authenticated for this.
    pub(super) scope: Scope<'a>,
    /// What a push brings along; what only asks brings nothing.
    pub(super) load: Option<Load<'a>>,
}

/// What a request needs leave for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// No credentials are sent.
    Nothing,
    Pull(&'a RepositoryName),
    /// To be known at all.
    Registry,
    Push {
        into: &'a RepositoryName,
        /// What a mount takes its blob from.
        from: Option<&'a RepositoryName>,
    },
}

impl Scope<'_> {
    /// What a challenge would ask for, so that its token can be had before the challenge.
    fn text(self) -> Option<String> {
        match self {
            Scope::Nothing => None,
            Scope::Registry => Some(String::new()),
            Scope::Pull(repository) => Some(format!("repository:{repository}:pull")),
            Scope::Push { into, from: None } => Some(format!("repository:{into}:pull,push")),
            Scope::Push { into, from: Some(from) } => Some(format!("repository:{into}:pull,push repository:{from}:pull")),
        }
    }
}

/// The content of a push.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) media_type: &'a str,
    pub(super) content: Outgoing<'a>,
    /// Where an upload goes on; it stands in for the path.
    pub(super) session: Option<&'a Session>,
    /// How long the answer may take once the content was taken, if longer than usual.
    pub(super) patience: Option<Duration>,
}

/// Where an upload goes on, as the answer to its beginning said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) url: Url,
    place: Place,
}

/// A successful answer (2xx). Its permit counts until the body is dropped.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) permit: OwnedSemaphorePermit,
}

/// What this endpoint wants to see, as its last challenge told.
enum Scheme {
    Basic(HeaderValue),
    Bearer { realm: Url, service: Option<String> },
}

pub(super) struct Endpoint {
    pub(super) role: Role,
    base: Url,
    wire: Arc<Wire>,
    token_hosts: Arc<[String]>,
    credentials: Option<Arc<Credentials>>,
    tokens: Tokens,
    scheme: Mutex<Option<Arc<Scheme>>>,
    breaker: Breaker,
    paused_until: Mutex<Option<Instant>>,
}

/// Where a request ended after its redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    Elsewhere,
}

/// An answer, and whose it is.
pub(super) struct Landed {
    pub(super) response: Response<Incoming>,
    place: Place,
    url: Url,
}

impl Endpoint {
    pub(super) fn new(
        role: Role,
        base: Url,
        wire: Arc<Wire>,
        token_hosts: Arc<[String]>,
        credentials: Option<Arc<Credentials>>,
    ) -> Endpoint {
        Endpoint {
            role,
            base,
            token_hosts,
            tokens: Tokens::new(wire.clone(), credentials.clone()),
            credentials,
            wire,
            scheme: Mutex::new(None),
            breaker: Breaker::new(),
            paused_until: Mutex::new(None),
        }
    }

    /// The same address, asked with other credentials. The circuit is the same: it is about the address. A wait that is asked for, and the
    /// tokens, are each caller's own.
    pub(super) fn with_credentials(&self, credentials: Option<Arc<Credentials>>) -> Endpoint {
        let mut other = Endpoint::new(self.role, self.base.clone(), self.wire.clone(), self.token_hosts.clone(), credentials);
        other.breaker = self.breaker.clone();
        other
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> url::Origin {
        self.base.origin()
    }

    /// The URL of `path` below `/v2/`, with the configured prefix before it.
    pub(super) fn url(&self, path: &str, query: Option<&str>) -> Result<Url, UpstreamError> {
        let text = format!("{}/v2/{path}", self.base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&text).map_err(|_| UpstreamError::wrong("its configured URL takes no path"))?;
        url.set_query(query);
        Ok(url)
    }

    /// Sends a request until it is answered, refused, or out of tries.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, UpstreamError> {
        let (landed, permit) = self.persistently(ask.path, || self.attempt(ask)).await?;
        Ok(self.answer(landed.response, permit))
    }

    /// Tries something until it succeeds, is refused, or is out of tries.
    pub(super) async fn persistently<T, Tried>(
        &self,
        path: &str,
        attempt: impl Fn() -> Tried,
    ) -> Result<(T, OwnedSemaphorePermit), UpstreamError>
    where
        Tried: Future<Output = Result<T, Failure>>,
    {
        // Before the permit, so that nobody waits for one in vain.
        if let Some(wait) = self.refuses() {
            return Err(refused(wait));
        }
        let permit = self.wire.permit().await?;
        self.wire.budget.earn();
        let mut retries = 0;
        loop {
            let failure = match attempt().await {
                Ok(done) => return Ok((done, permit)),
                Err(failure) => failure,
            };
            tracing::debug!(upstream = %self.wire.name, host = self.host(), path, error = %failure.error, "no answer");
            let again = failure.may_pass() && self.role == Role::Main && retries < MAX_RETRIES;
            if !again || !self.wire.budget.spend() {
                return Err(failure.error);
            }
            self.wire.metrics.upstream_retry(&self.wire.name);
            sleep(BACKOFF.mul_f64(f64::from(1_u32 << retries) * (0.5 + fastrand::f64() / 2.0))).await;
            retries += 1;
        }
    }

    /// Whether and how long requests fail at once: the circuit is open, or the upstream told to wait.
    pub(super) fn refuses(&self) -> Option<Duration> {
        self.pause().max(self.breaker.refuses())
    }

    pub(super) fn circuit(&self) -> Circuit {
        self.breaker.circuit()
    }

    /// The less, the better it did of late.
    pub(super) fn failures(&self) -> u32 {
        self.breaker.weight()
    }

    /// Its host, for logs and reports.
    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// What is left of a wait that the upstream asked for.
    pub(super) fn pause(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// A body from here broke in the middle. The rest of it is better asked elsewhere, if there is an elsewhere.
    pub(super) fn body_broke(&self) {
        if self.role == Role::Mirror {
            self.pause_for(BROKEN_PAUSE);
        }
    }

    fn pause_for(&self, time: Duration) {
        let until = Instant::now() + time.min(MAX_PAUSE);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = (*paused).max(Some(until));
    }

    fn admit(&self) -> Result<Admission, Failure> {
        let admission = self.pause().map_or_else(|| self.breaker.admit(), Err);
        admission.map_err(|wait| Failure::answer(refused(wait)))
    }

    /// One try, which the circuit learns from.
    pub(super) async fn attempt(&self, ask: &Ask<'_>) -> Result<Landed, Failure> {
        let admission = self.admit()?;
        let outcome = match self.authenticated(ask).await {
            Ok(landed) => self.judge(ask, landed).await,
            Err(failure) => Err(failure),
        };
        let before = self.circuit();
        admission.settle(outcome.as_ref().map_or_else(Failure::verdict, |_| Verdict::Alive));
        if let Err(Failure { error, .. }) = &outcome {
            if let UpstreamError::Unavailable { retry_after: Some(wait), .. } = error {
                self.pause_for(*wait);
            }
            if before == Circuit::Closed && self.circuit() == Circuit::Open {
                tracing::warn!(upstream = %self.wire.name, host = self.host(), %error, "the circuit opens");
            }
        }
        outcome
    }

    /// Sends with what the last challenge asked for, so that one round trip is enough; when that is refused, answers the new
    /// challenge and sends once more.
    async fn authenticated(&self, ask: &Ask<'_>) -> Result<Landed, Failure> {
        let scope = ask.scope.text().filter(|_| ask.place() == Place::Own);
        let first = match &scope {
            Some(scope) => self.known_authorization(scope).await?,
            None => None,
        };
        let landed = self.follow(ask, first.clone()).await?;
        let (Some(scope), StatusCode::UNAUTHORIZED, Place::Own) = (scope, landed.response.status(), landed.place) else {
            return Ok(landed);
        };
        let (head, incoming) = landed.response.into_parts();
        discard(incoming).await;
        match self.answer_challenge(&head.headers, scope, first.as_ref()).await? {
            Some(authorization) => self.follow(ask, Some(authorization)).await,
            None => Err(Failure::answer(UpstreamError::Denied)),
        }
    }

    async fn known_authorization(&self, scope: &str) -> Result<Option<HeaderValue>, Failure> {
        let scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match scheme.as_deref() {
            None => Ok(None),
            Some(Scheme::Basic(authorization)) => Ok(Some(authorization.clone())),
            Some(Scheme::Bearer { realm, service }) => {
                let key = Key { realm: realm.clone(), service: service.clone(), scope: scope.to_owned() };
                // A realm may have moved: the next request hears of it in a new challenge.
                let forget = |_: &Failure| self.remember(None);
                self.tokens.authorization(key, None).await.map(Some).inspect_err(forget)
            }
        }
    }

    /// What to send after a 401, and remembers the scheme. `None` when there is nothing to send that was not refused already.
    async fn answer_challenge(
        &self,
        headers: &HeaderMap,
        own_scope: String,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = values.flat_map(challenge::parse).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            let realm = origin::realm(realm, &self.base, &self.token_hosts).map_err(|error| {
                tracing::warn!(upstream = %self.wire.name, host = self.host(), %error, "token realm refused");
                Failure::wrong(format!("its token realm is refused: {error}"))
            })?;
            self.remember(Some(Scheme::Bearer { realm: realm.clone(), service: service.clone() }));
            let scope = scope.clone().unwrap_or(own_scope);
            return self.tokens.authorization(Key { realm, service: service.clone(), scope }, rejected).await.map(Some);
        }
        let basic = self.credentials.as_ref().filter(|_| challenges.contains(&Challenge::Basic)).map(|own| own.basic());
        if let Some(basic) = &basic {
            self.remember(Some(Scheme::Basic(basic.clone())));
        }
        Ok(basic.filter(|basic| Some(basic) != rejected))
    }

    fn remember(&self, scheme: Option<Scheme>) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = scheme.map(Arc::new);
    }

    /// Sends and follows redirects. Once the scheme, host or port has changed, no credential travels any further.
    async fn follow(&self, ask: &Ask<'_>, mut authorization: Option<HeaderValue>) -> Result<Landed, Failure> {
        let (mut url, mut place) = match ask.session() {
            Some(session) => (session.url.clone(), session.place),
            None => (self.url(ask.path, ask.query).map_err(Failure::answer)?, Place::Own),
        };
        let patience = ask.load.as_ref().and_then(|load| load.patience).unwrap_or_default().max(self.wire.read_timeout);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.wire.send_patiently(request(ask, &url, authorization.clone())?, patience).await?;
            if place == Place::Own
                && let Some(told) = headers::rate_limit(response.headers())
            {
                self.wire.note_rate_limit(told);
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Landed { response, place, url });
            }
            if ask.load.is_some() && !matches!(response.status().as_u16(), 307 | 308) {
                // These make a GET of it (RFC 9110, 15.4).
                return Err(Failure::wrong(format!("it answered a push with {}", response.status())));
            }
            let (head, incoming) = response.into_parts();
            discard(incoming).await;
            let location = headers::text(&head.headers, header::LOCATION).ok_or_else(|| Failure::wrong("a redirect to nowhere"))?;
            let target = origin::redirect(location, &url).map_err(|error| Failure::wrong(format!("a redirect is refused: {error}")))?;
            if target.origin() != url.origin() {
                authorization = None;
                place = Place::Elsewhere;
            }
            url = target;
        }
        Err(Failure::wrong(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// A successful answer as it is, any other as what it means.
    async fn judge(&self, ask: &Ask<'_>, landed: Landed) -> Result<Landed, Failure> {
        if landed.response.status().is_success() {
            return Ok(landed);
        }
        let Landed { response, place, .. } = landed;
        let (head, incoming) = response.into_parts();
        let complaint = match ask.load {
            Some(_) => complaint(Body { incoming, wire: self.wire.clone() }).await,
            None => {
                discard(incoming).await;
                String::new()
            }
        };
        let (status, retry_after) = (head.status, headers::retry_after(&head.headers, self.wire.clock.now()));
        let unavailable = |retry_after| UpstreamError::Unavailable { why: format!("it answered {status}"), retry_after };
        Err(match (status.as_u16(), place) {
            (404 | 410, Place::Own) => Failure::answer(UpstreamError::Absent),
            (401 | 403 | 451, Place::Own) => Failure::answer(UpstreamError::Denied),
            (429, Place::Own) => Failure::answer(unavailable(retry_after)),
            // What a redirect's target says concerns that target: no pause for the registry, no absence, no denial.
            (429, Place::Elsewhere) => Failure::answer(unavailable(None)),
            (502..=504, _) if retry_after.is_none() => Failure::passing(unavailable(None)),
            (500.., Place::Own) => Failure::lasting(unavailable(retry_after)),
            (500.., Place::Elsewhere) => Failure::lasting(unavailable(None)),
            (_, Place::Elsewhere) => Failure::wrong(format!("the target of a redirect answered {status}")),
            (_, Place::Own) => Failure::wrong(format!("it answered {status}{complaint}")),
        })
    }

    /// Where an upload goes on that was begun by this answer. One that leads away from the upstream gets no credentials there, unless
    /// the configuration lists the host.
    pub(super) fn session(&self, begun: &Landed) -> Result<Session, Failure> {
        let location = headers::text(begun.response.headers(), header::LOCATION);
        let location = location.ok_or_else(|| Failure::wrong("an upload begins without a Location"))?;
        let url = origin::redirect(location, &begun.url);
        let url = url.map_err(|error| Failure::wrong(format!("the Location of an upload is refused: {error}")))?;
        let trusted = begun.place == Place::Own && origin::is_trusted(&url, &self.base, &self.token_hosts);
        Ok(Session { url, place: if trusted { Place::Own } else { Place::Elsewhere } })
    }

    fn answer(&self, response: Response<Incoming>, permit: OwnedSemaphorePermit) -> Answer {
        let (head, incoming) = response.into_parts();
        Answer { status: head.status, headers: head.headers, body: Body { incoming, wire: self.wire.clone() }, permit }
    }
}

/// The answer while nothing is sent.
fn refused(wait: Duration) -> UpstreamError {
    UpstreamError::Unavailable { why: "it failed repeatedly, or told to come back later".to_owned(), retry_after: Some(wait) }
}

impl Ask<'_> {
    fn session(&self) -> Option<&Session> {
        self.load.as_ref().and_then(|load| load.session)
    }

    /// Where it goes at first.
    fn place(&self) -> Place {
        self.session().map_or(Place::Own, |session| session.place)
    }
}

/// What an upstream says about its refusal (distribution-spec, "Error Codes"), cut and fit to be shown.
async fn complaint(body: Body) -> String {
    let read = timeout(COMPLAINT_TIME, body.whole(MAX_COMPLAINT_BYTES)).await;
    let Ok(Ok(bytes)) = read else { return String::new() };
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |name: &str| json.pointer(&format!("/errors/0/{name}")).and_then(serde_json::Value::as_str).unwrap_or_default();
    let words = [text("code"), text("message")].join(" ");
    let shown: String = words.trim().chars().filter(|character| !character.is_control()).take(MAX_COMPLAINT_CHARS).collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

fn request(ask: &Ask<'_>, url: &Url, authorization: Option<HeaderValue>) -> Result<Request<Sending>, Failure> {
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(url.as_str())
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, ask.accept)
        .header(header::ACCEPT_ENCODING, "identity");
    if ask.from > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", ask.from));
    }
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let body = match &ask.load {
        Some(load) => {
            // Of no bytes, too: some demand the length of every POST (RFC 9110, 8.6).
            request = request.header(header::CONTENT_TYPE, load.media_type).header(header::CONTENT_LENGTH, load.content.size_bytes);
            Sending::content(&load.content)
        }
        None => Sending::bytes(Bytes::new()),
    };
    request.body(body).map_err(|_| Failure::wrong("a redirect to what is no URI"))
}
