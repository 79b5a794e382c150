//! One provider: its keys are fetched in the background, and those that are known go on being used while it is down.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use url::Url;

use super::keys::{self, Key};
use super::{OidcError, SignIn};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::dial::{self, Client, DialError, Proxies, Resolver};
use crate::metrics::Metrics;

/// Between fetches, while all is well: so long a key that the provider withdrew may still be believed.
pub(super) const REFRESH_EVERY: Duration = Duration::from_secs(10 * 60);
/// After a failed fetch, where nothing is known yet.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// Row 68: between two fetches that tokens with unknown keys bring about, at least; also after a failed fetch where keys are known.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// How long a fetch may take: two questions, each with its answer.
const FETCH_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(4);
const MAX_DISCOVERY_BYTES: usize = 128 * 1024;
const MAX_KEY_SET_BYTES: usize = 512 * 1024;
/// Where a provider describes itself (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// A provider and the task that follows it, which ends with it.
pub(super) struct Provider {
    state: Arc<State>,
    following: AbortHandle,
}

struct State {
    settings: config::Oidc,
    client: Client,
    known: watch::Sender<Known>,
    /// A token named a key that is not known.
    wanted: Notify,
    clock: Clock,
    metrics: Metrics,
}

/// What is known of a provider.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// `None` until it has answered once.
    described: Option<Arc<Described>>,
    /// When it was asked last.
    asked: Option<Timestamp>,
    /// How many fetches have ended.
    rounds: u64,
    is_asking: bool,
}

/// What a provider says of itself.
#[derive(Debug)]
struct Described {
    keys: Vec<Key>,
    device_authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
}

/// # Errors
/// Certificate authorities that cannot be read.
pub(super) fn client(settings: &config::Oidc, resolver: Resolver, proxies: Proxies) -> Result<Client, DialError> {
    let host = Url::parse(&settings.issuer).ok().and_then(|url| url.host_str().map(str::to_owned));
    let settings = dial::Settings {
        ca_file: settings.ca_file.clone(),
        private_networks: settings.private_networks.clone(),
        named_hosts: host.into_iter().collect(),
        connect_timeout: CONNECT_TIME,
        read_timeout: FETCH_TIME,
        max_connections: 2,
        max_idle: 0,
        server_name: None,
    };
    Client::new(settings, resolver, proxies)
}

impl Provider {
    /// Begins to fetch. `known` is what an earlier configuration of the same issuer had learned.
    pub(super) fn start(settings: config::Oidc, client: Client, known: Known, clock: Clock, metrics: Metrics) -> Provider {
        let known = Known { is_asking: false, ..known };
        let state = State { settings, client, known: watch::Sender::new(known), wanted: Notify::new(), clock, metrics };
        let state = Arc::new(state);
        let following = tokio::spawn(follow(state.clone())).abort_handle();
        Provider { state, following }
    }

    pub(super) fn settings(&self) -> &config::Oidc {
        &self.state.settings
    }

    pub(super) fn known(&self) -> Known {
        self.state.known.borrow().clone()
    }

    /// The key of this id. One that is not known is looked for at the provider, at most once a minute whoever asks.
    ///
    /// # Errors
    /// [`OidcError::Unavailable`] only if no key is known at all.
    pub(super) async fn key(&self, id: Option<&str>) -> Result<Key, OidcError> {
        let state = &self.state;
        let mut news = state.known.subscribe();
        let known = news.borrow_and_update().clone();
        if let Some(key) = known.key(id) {
            return Ok(key);
        }
        if known.is_asking || known.may_be_asked(state.clock.now()) {
            state.wanted.notify_one();
            let next = news.wait_for(|now| now.rounds > known.rounds);
            // Its end is told by what is known then.
            let _ = timeout(FETCH_TIME, next).await;
        }
        let known = state.known.borrow().clone();
        match known.key(id) {
            Some(key) => Ok(key),
            None if known.described.is_none() => Err(OidcError::Unavailable(state.settings.issuer.clone())),
            None => Err(OidcError::Refused("its key is none of the provider's")),
        }
    }

    /// Where people sign in, if the configuration says as what.
    pub(super) fn sign_in(&self) -> Option<SignIn> {
        let config::Oidc { issuer, client_id, audience, scope, .. } = self.settings();
        let described = self.known().described;
        Some(SignIn {
            issuer: issuer.clone(),
            client_id: client_id.clone()?,
            audience: audience.clone(),
            scope: scope.clone(),
            device_authorization_endpoint: described.as_ref().and_then(|described| described.device_authorization_endpoint.clone()),
            token_endpoint: described.as_ref().and_then(|described| described.token_endpoint.clone()),
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Known {
    fn key(&self, id: Option<&str>) -> Option<Key> {
        keys::find(&self.described.as_ref()?.keys, id).cloned()
    }

    /// A clock that was set back does not silence us.
    fn may_be_asked(&self, now: Timestamp) -> bool {
        self.asked.is_none_or(|asked| now < asked || now.since(asked) >= ASK_EVERY)
    }
}

async fn follow(state: Arc<State>) {
    loop {
        let pause = state.refresh().await;
        let wanted = async {
            loop {
                state.wanted.notified().await;
                // Whoever wanted it may have done so before the last answer came.
                if state.known.borrow().may_be_asked(state.clock.now()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = wanted => {}
        }
    }
}

impl State {
    /// Asks the provider, and tells how long to wait before it is asked again.
    async fn refresh(&self) -> Duration {
        self.known.send_modify(|known| (known.is_asking, known.asked) = (true, Some(self.clock.now())));
        let fetched = timeout(FETCH_TIME, self.fetch()).await.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
        let outcome = if fetched.is_ok() { "fetched" } else { "failed" };
        self.metrics.identity_provider(outcome);
        let pause = match &fetched {
            Ok(_) => REFRESH_EVERY,
            Err(why) => {
                let is_known = self.known.borrow().described.is_some();
                let issuer = &self.settings.issuer;
                if is_known {
                    tracing::warn!(issuer, why, "an identity provider does not tell its keys: those that are known go on being used");
                } else {
                    tracing::warn!(issuer, why, "an identity provider does not tell its keys: nobody can sign in with it yet");
                }
                if is_known { ASK_EVERY } else { RETRY_EVERY }
            }
        };
        self.known.send_modify(|known| {
            (known.is_asking, known.rounds) = (false, known.rounds + 1);
            if let Ok(described) = fetched {
                known.described = Some(Arc::new(described));
            }
        });
        pause
    }

    /// The error is a sentence for the log.
    async fn fetch(&self) -> Result<Described, String> {
        let issuer = &self.settings.issuer;
        let place = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
        let discovery: Discovery = serde_json::from_slice(&self.get(&place, MAX_DISCOVERY_BYTES).await?)
            .map_err(|why| format!("{place} does not describe a provider: {why}"))?;
        if discovery.issuer != *issuer {
            return Err(format!("it calls itself {:?}", discovery.issuer.chars().take(200).collect::<String>()));
        }
        // Keys that came by plain HTTP could be anybody's.
        if !discovery.jwks_uri.starts_with("https://") && !issuer.starts_with("http://") {
            return Err("its keys are not at an https:// URL".to_owned());
        }
        let keys = keys::read_set(&self.get(&discovery.jwks_uri, MAX_KEY_SET_BYTES).await?)?;
        let Discovery { device_authorization_endpoint, token_endpoint, .. } = discovery;
        Ok(Described { keys, device_authorization_endpoint, token_endpoint })
    }

    async fn get(&self, url: &str, most_bytes: usize) -> Result<Bytes, String> {
        let request = Request::get(url).header(header::ACCEPT, "application/json").header(header::ACCEPT_ENCODING, "identity");
        let request = request.body(Full::default()).map_err(|why| why.to_string())?;
        let answer = self.client.send(request).await.map_err(|why| why.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), most_bytes).collect().await.map_err(|why| format!("{url}: {why}"))?;
        Ok(body.to_bytes())
    }
}
