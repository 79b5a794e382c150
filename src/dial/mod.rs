//! Outgoing connections: resolver, address policy, TLS, proxies, pool.
//!
//! One [`Client`] for each upstream, with its own pool, policy and roots; one [`Resolver`] for all. A client follows no redirect,
//! adds no credential but the proxy's, to the proxy, and never retries a request that the server may have seen.

mod connect;
mod error;
mod link;
mod policy;
mod proxy;
mod resolve;
mod target;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use connect::Connector;
pub use error::{DialError, Sent, Wait};
use policy::Policy;
pub use proxy::Proxies;
pub use resolve::Resolver;
use target::{Target, Transport};

/// Registries and load balancers close idle connections after 60 s and more; ours go first, so that few requests meet a
/// connection that is about to close.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// How one upstream is dialled.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Certificate authorities beside the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// Networks outside the public internet that may be dialled.
    pub private_networks: Vec<IpNet>,
    /// The hosts that the configuration writes literally, as in its URLs, IPv6 with or without brackets. An address literal or
    /// `localhost` among them may be dialled by itself, wherever it is; a DNS name opens nothing.
    pub named_hosts: Vec<String>,
    /// For resolution, TCP, proxy and TLS together; also the longest wait for one of `max_connections`.
    pub connect_timeout: Duration,
    /// From having a connection to the head of the answer.
    pub read_timeout: Duration,
    /// Requests that wait for a connection or a head at one time, and idle connections kept for each host, at most.
    pub max_connections: usize,
}

/// Sends requests to one upstream and to the hosts that it refers to. Clones share one pool.
///
/// Bodies are not counted against `max_connections`: who reads bodies bounds them, since a reader that holds a slot while it
/// asks for a token could block itself.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    proxies: Proxies,
    slots: Arc<Semaphore>,
    connect_timeout: Duration,
    read_timeout: Duration,
}

impl Client {
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn new(settings: Settings, resolver: Resolver, proxies: Proxies) -> Result<Client, DialError> {
        let tls = tls::connector(settings.ca_file.as_deref())?;
        let policy = Policy::new(settings.private_networks, &settings.named_hosts);
        let connector = Connector::new(policy, resolver, proxies.clone(), tls, settings.connect_timeout);
        // retry_canceled_requests stays on, as it is by default: a request that met a closing connection before its first byte
        // was written goes to another one.
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.max_connections)
            .build(connector);
        Ok(Client {
            http,
            proxies,
            slots: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            connect_timeout: settings.connect_timeout,
            read_timeout: settings.read_timeout,
        })
    }

    /// Sends a request whose URI is absolute and returns when the head of its answer is here. The body has no time limit: its
    /// reader sets one. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// Any [`DialError`] but `CaFile` and `System`.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, DialError> {
        let target = Target::of(request.uri())?;
        self.authorize_to_proxy(&mut request, &target);
        let slot = timeout(self.connect_timeout, self.slots.acquire()).await;
        let Ok(Ok(_slot)) = slot else { return Err(DialError::Timeout(Wait::Slot)) };

        let mut connection = capture_connection(&mut request);
        let head_is_late = async {
            drop(connection.wait_for_connection_metadata().await);
            sleep(self.read_timeout).await;
        };
        tokio::select! {
            biased;
            answer = self.http.request(request) => answer.map_err(|error| DialError::from_client(&error)),
            () = head_is_late => Err(DialError::Timeout(Wait::Head)),
        }
    }

    /// A proxy reads the head of a plain request itself; of an encrypted one it sees only the tunnel's. The header goes nowhere
    /// else, whoever set it.
    fn authorize_to_proxy(&self, request: &mut Request<Full<Bytes>>, target: &Target) {
        request.headers_mut().remove(PROXY_AUTHORIZATION);
        if target.transport == Transport::Plain
            && let Some(proxy) = self.proxies.intercept(request.uri())
            && let Some(credentials) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
        }
    }
}
