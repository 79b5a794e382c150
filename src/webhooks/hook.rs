//! One receiver: what waits for it, and the sending.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::cursor::Mark;
use super::event::{self, Event};
use super::queue::{Delivery, Dropped, Limits, Outcome, Queue};
use super::signing::Signer;
use crate::clock::Clock;
use crate::config::{self, WebhookAction};
use crate::dial::{self, Client, DialError, Proxies, Resolver};
use crate::metrics::Metrics;

/// Events on their way to one receiver at one time.
const AT_ONCE: usize = 4;
/// How long nothing is looked for while nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);
/// What a receiver says besides its status is of no interest: so much of it is read, and for so long, that the connection can be used
/// again.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const ANSWER_TIME: Duration = Duration::from_secs(1);

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("outport/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A receiver. Dropping it ends the sending.
pub(super) struct Hook {
    state: Arc<State>,
    running: AbortHandle,
}

struct State {
    settings: config::Webhook,
    signer: Signer,
    client: Client,
    queue: Mutex<Queue>,
    added: Notify,
    clock: Clock,
    metrics: Metrics,
}

/// How it stands, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    pub name: String,
    /// Without its query, which may be a secret.
    pub url: String,
    pub actions: Vec<&'static str>,
    pub repositories: Vec<String>,
    pub waiting: usize,
    /// When the oldest that waits happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// The last fault of what still waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What became of the last ones, the newest first.
    pub deliveries: Vec<Delivery>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// # Errors
/// Certificate authorities that cannot be read.
pub(super) fn client(settings: &config::Webhook, resolver: Resolver, proxies: Proxies) -> Result<Client, DialError> {
    let settings = dial::Settings {
        ca_file: settings.ca_file.clone(),
        private_networks: settings.private_networks.clone(),
        named_hosts: settings.url.host_str().map(str::to_owned).into_iter().collect(),
        connect_timeout: settings.timeout,
        read_timeout: settings.timeout,
        max_connections: AT_ONCE + 1,
        max_idle: AT_ONCE,
        server_name: None,
    };
    Client::new(settings, resolver, proxies)
}

impl Hook {
    pub fn start(settings: config::Webhook, client: Client, clock: Clock, metrics: Metrics) -> Hook {
        let limits = Limits { waiting: settings.queue, attempts: settings.attempts, max_age: settings.max_age };
        let (signer, queue) = (Signer::new(&settings.secret), Mutex::new(Queue::new(limits)));
        let state = Arc::new(State { settings, signer, client, queue, added: Notify::new(), clock, metrics });
        let running = tokio::spawn(send_all(state.clone())).abort_handle();
        Hook { state, running }
    }

    pub fn name(&self) -> &str {
        &self.state.settings.name
    }

    pub fn settings(&self) -> &config::Webhook {
        &self.state.settings
    }

    pub fn wants(&self, action: WebhookAction) -> bool {
        self.state.wants(action)
    }

    pub fn begin(&self, mark: Mark) {
        self.state.queue().begin(mark);
    }

    pub fn taken(&self) -> Option<Mark> {
        self.state.queue().taken()
    }

    pub fn took(&self, mark: Mark) {
        self.state.queue().took(mark);
    }

    pub fn settled(&self) -> Option<Mark> {
        self.state.queue().settled()
    }

    /// Takes an event in, if it is for this receiver and was not taken in before. Returns at once.
    pub fn offer(&self, event: &Arc<Event>, mark: Mark) {
        let (state, now) = (&self.state, (Instant::now(), self.state.clock.now()));
        let mut queue = state.queue();
        if queue.taken().is_none_or(|taken| taken.has(mark)) || !state.fits(event) {
            return;
        }
        if now.1.since(event.at) > state.settings.max_age {
            return state.count_dropped(Dropped::Age, 1);
        }
        let dropped = queue.push(event.clone(), mark, now);
        dropped.into_iter().for_each(|why| state.count_dropped(why, 1));
        state.added.notify_one();
    }

    /// Takes over what waits under an earlier configuration.
    pub fn inherit(&self, earlier: &Hook) {
        let (state, now) = (&self.state, (Instant::now(), self.state.clock.now()));
        earlier.running.abort();
        let dropped = state.queue().inherit(&mut earlier.state.queue(), |event| state.fits(event), now);
        state.count_dropped(Dropped::Queue, dropped);
        state.added.notify_one();
    }

    /// Its webhook is no more.
    pub fn end(&self) {
        self.running.abort();
        self.state.count_dropped(Dropped::Removed, self.state.queue().len());
        self.state.metrics.webhook_waiting(self.name(), 0, Duration::ZERO);
    }

    /// Sends one event that says nothing, past the queue, and once.
    pub async fn ping(&self, region: &str) -> Delivery {
        let (state, at) = (&self.state, self.state.clock.now());
        let id = event::uuid(&format!("{:032x}", fastrand::u128(..)));
        let outcome = state.attempt(&id, event::ping(&id, at, region)).await;
        state.metrics.webhook_delivery(self.name(), outcome.label());
        let (status, error) = match &outcome {
            Outcome::Delivered(status) => (Some(*status), None),
            Outcome::Failed { status, why, .. } => (*status, Some(why.clone())),
            Outcome::Gone => (Some(410), Some("410 Gone".to_owned())),
        };
        let delivery = Delivery {
            id,
            action: "ping",
            repository: None,
            tag: None,
            digest: None,
            at_ms: at.as_ms(),
            ended_ms: state.clock.now().as_ms(),
            tries: 1,
            outcome: outcome.label(),
            status,
            error,
        };
        state.queue().show(delivery.clone());
        delivery
    }

    pub fn shown(&self) -> Shown {
        let config::Webhook { name, url, actions, repositories, .. } = self.settings();
        let mut url = url.clone();
        url.set_query(None);
        let queue = self.state.queue();
        Shown {
            name: name.clone(),
            url: url.to_string(),
            actions: config::WEBHOOK_ACTIONS
                .into_iter()
                .filter(|action| actions.is_empty() || actions.contains(action))
                .map(WebhookAction::as_str)
                .collect(),
            repositories: repositories.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            waiting: queue.len(),
            oldest_ms: queue.oldest().map(|at| at.as_ms()),
            error: queue.last_error(),
            deliveries: queue.shown(),
        }
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        let state = &self.state;
        let (waiting, oldest) = {
            let queue = state.queue();
            (queue.len(), queue.oldest())
        };
        let age = oldest.map_or(Duration::ZERO, |since| state.clock.now().since(since));
        state.metrics.webhook_waiting(self.name(), waiting, age);
    }
}

impl State {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, action: WebhookAction) -> bool {
        self.settings.actions.is_empty() || self.settings.actions.contains(&action)
    }

    fn fits(&self, event: &Event) -> bool {
        let patterns = &self.settings.repositories;
        self.wants(event.action) && (patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&event.repository)))
    }

    fn count_dropped(&self, why: Dropped, count: usize) {
        if count > 0 {
            self.metrics.webhook_dropped(&self.settings.name, why.label(), count as u64);
            tracing::warn!(webhook = self.settings.name, why = why.label(), count, "events were dropped: a receiver is not told of them");
        }
    }

    fn settle(&self, number: u64, outcome: Outcome) {
        self.metrics.webhook_delivery(&self.settings.name, outcome.label());
        if let Outcome::Failed { why, .. } = &outcome {
            tracing::debug!(webhook = self.settings.name, why, "a receiver did not take an event");
        }
        let now = (Instant::now(), self.clock.now());
        let dropped = self.queue().settle(number, outcome, now, fastrand::f64());
        dropped.into_iter().for_each(|why| self.count_dropped(why, 1));
    }

    async fn attempt(&self, id: &str, body: Bytes) -> Outcome {
        let failed = |why| Outcome::Failed { status: None, why, retry_after: None };
        let request = match self.request(id, body) {
            Ok(request) => request,
            Err(why) => return failed(why),
        };
        let answer = match timeout(self.settings.timeout, self.client.send(request)).await {
            Err(_) => return failed("no answer in time".to_owned()),
            Ok(Err(error)) => return failed(error.to_string()),
            Ok(Ok(answer)) => answer,
        };
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let rest = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let _ = timeout(ANSWER_TIME, rest.collect()).await;
        match status {
            StatusCode::GONE => Outcome::Gone,
            status if status.is_success() => Outcome::Delivered(status.as_u16()),
            // A redirect is none of ours to follow: the event is signed for its receiver.
            status => Outcome::Failed { status: Some(status.as_u16()), why: status.to_string(), retry_after },
        }
    }

    fn request(&self, id: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let uri: Uri = self.settings.url.as_str().parse().map_err(|_| "the URL cannot be asked for".to_owned())?;
        let now_s = self.clock.now().as_ms() / 1_000;
        let mut request = Request::post(uri)
            .header(header::CONTENT_TYPE, JSON)
            .header(header::USER_AGENT, USER_AGENT)
            .header(ID, id)
            .header(TIMESTAMP, now_s)
            .header(SIGNATURE, self.signer.sign(id, now_s, &body))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        if let Some(authorization) = &self.settings.authorization {
            let mut value = HeaderValue::from_str(authorization.expose()).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// In seconds; a date is left to our own pauses.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

async fn send_all(state: Arc<State>) {
    // Dropped with this task, and with it all that is on its way.
    let (mut running, mut numbers): (JoinSet<Outcome>, HashMap<Id, u64>) = (JoinSet::new(), HashMap::new());
    loop {
        while running.len() < AT_ONCE {
            let Some(turn) = state.queue().take(Instant::now()) else { break };
            let (sending, number) = (state.clone(), turn.number);
            let task = running.spawn(async move { sending.attempt(&turn.event.id, turn.event.body.clone()).await });
            numbers.insert(task.id(), number);
        }
        let next = state.queue().next_due().filter(|_| running.len() < AT_ONCE).unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = state.added.notified() => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => (error.id(), Outcome::Failed { status: None, why: "it broke off".to_owned(), retry_after: None }),
                };
                if let Some(number) = numbers.remove(&id) {
                    state.settle(number, outcome);
                }
            }
            () = sleep_until(next) => {}
        }
    }
}
