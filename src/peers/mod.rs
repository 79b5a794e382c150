//! The other edges: those of this region, and those of other regions.
//!
//! # Siblings
//! An upload lives in one edge, its owner, and its location names that edge under a [`Seal`]. A load balancer knows nothing of it: a
//! sibling that gets the next request passes it on to the owner, as it is, and hands the owner's answer back. The owner authorizes
//! it again by the client's own credentials: a sibling is trusted with nothing but where an upload lives.
//!
//! What callers may rely on:
//! - **Never twice.** A request that came from a sibling ([`Siblings::knows`]) is not passed on, and none is sent again: each goes over a
//!   connection of its own, so that an owner that is gone is found out before the first byte of the body is asked for, not guessed
//!   from a connection that broke.
//! - **[`PassError::Gone`] is sure:** nobody takes connections there, or who does is no sibling of ours and proved it by its answer.
//!   The upload is lost with its owner. What cannot be told is [`PassError::Broken`].
//!
//! # Peers
//! [`RemoteEdges`] asks the edges of one other region, and [`Tokens`] knows who asks here. What is said is in [`protocol`]. A request is
//! tried at one edge after the other where that repeats nothing; only an answer that bears the peer's mark is believed.

mod badge;
mod headers;
mod members;
mod outflow;
mod pass;
pub mod protocol;
mod remote;
mod seal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};
use ipnet::IpNet;
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::dial::{self, DialError, Proxies, Resolver};
use crate::inflow::{Inflow, InflowError};
use crate::metrics::Metrics;
use badge::Badge;
pub use badge::OUTPORT_SIBLING;
use members::Members;
use outflow::Outflow;
pub use remote::{Batch, PeerError, RemoteEdges, Segments, Transfer, Wanted};
pub use seal::{MAX_SEALED_CHARS, MAX_TEXT_BYTES, Seal};
pub use tokens::{Caller, Tokens};

/// Looking up and connecting to a sibling, which is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests on their way to siblings at one time. Each holds a connection, and of its body what waits in that connection: some
/// hundred KiB at most.
const MAX_PASSES: usize = 1_024;
/// Where siblings and peers may lie besides the public internet: private networks, and this machine. A cloud platform's own addresses, which
/// are link-local, are not among them.
const NETWORKS: [&str; 7] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "127.0.0.0/8", "::1/128"];

/// The edges of this region. Cloning is cheap.
#[derive(Clone)]
pub struct Siblings(Arc<Inner>);

struct Inner {
    own: Url,
    seal: Seal,
    badge: Badge,
    members: Members,
    client: dial::Client<Outflow>,
    metrics: Metrics,
}

/// The head of a request to pass on, as the client sent it.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// This edge's, under which the owner logs it too.
    pub request_id: &'a str,
}

/// Why there is no answer of the owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// The owner is no sibling, or takes no connection, or somebody else is there now: its uploads are lost.
    #[error("the edge that began the upload is gone")]
    Gone,
    /// Nobody can tell what became of the request.
    #[error("passing the request to its edge failed: {0}")]
    Broken(String),
    /// The client's body ended badly. The owner saw it cut.
    #[error(transparent)]
    Inflow(InflowError),
}

impl Siblings {
    /// `answer_timeout` is for the whole of a request once there is a connection: as long as the owner itself would give it. Siblings
    /// are never reached through a proxy.
    ///
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn new(
        settings: &config::Siblings,
        answer_timeout: Duration,
        resolver: Resolver,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Siblings, DialError> {
        let own_host = settings.advertise.host_str().unwrap_or_default();
        let dialled = dial::Settings {
            ca_file: settings.ca_file.clone(),
            private_networks: networks(),
            named_hosts: vec![own_host.to_owned()],
            connect_timeout: CONNECT_TIMEOUT,
            read_timeout: answer_timeout,
            max_connections: MAX_PASSES,
            // A connection of an owner that died last minute would take a request, and then nobody could tell.
            max_idle: 0,
            server_name: settings.tls_name.clone(),
        };
        Ok(Siblings(Arc::new(Inner {
            own: settings.advertise.clone(),
            seal: Seal::from_token(&settings.token),
            badge: Badge::new(&settings.token),
            members: Members::new(settings.dns.as_deref(), own_host, resolver.clone(), clock),
            client: dial::Client::new(dialled, resolver, Proxies::none())?,
            metrics,
        })))
    }

    /// Where others reach this edge: what the locations of its uploads name as owner.
    pub fn own(&self) -> &Url {
        &self.0.own
    }

    /// Seals a text so that every sibling can open it and nobody else can make it. See [`Seal::seal`].
    pub fn seal(&self, text: &str) -> String {
        self.0.seal.seal(text)
    }

    pub fn open(&self, sealed: &str) -> Option<String> {
        self.0.seal.open(sealed)
    }

    /// Whether a request comes from a sibling. Such a request is never passed on again.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        self.0.badge.is_on_request(headers)
    }

    /// Marks an answer as this edge's, if the request with the headers `asked` came from a sibling: every answer, also one that refuses.
    /// An answer without the mark is taken for a stranger's.
    pub fn vouch(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if self.knows(asked) {
            self.0.badge.put_on_answer(answer);
        }
    }

    /// Passes a request on to the sibling at `owner`, which a seal named, and returns its answer. The body, of which nothing was taken
    /// yet, streams as fast as the owner takes it; nothing is read of it before there is a connection. It need not be drained
    /// afterwards: an owner may answer early.
    ///
    /// # Errors
    /// See [`PassError`].
    pub async fn pass(&self, owner: &Url, request: Passed<'_>, body: &mut Inflow) -> Result<Response<Bytes>, PassError> {
        let mut counted = Counted { metrics: &self.0.metrics, outcome: "left" };
        let answer = self.0.pass(owner, request, body).await;
        counted.outcome = match &answer {
            Ok(_) => "answered",
            Err(PassError::Gone) => "gone",
            Err(PassError::Broken(_)) => "broken",
            Err(PassError::Inflow(_)) => "left",
        };
        answer
    }
}

impl fmt::Debug for Siblings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Siblings").field("own", &self.0.own.as_str()).finish_non_exhaustive()
    }
}

/// Counts a request once, also one that is given up in the midst because its client left.
struct Counted<'a> {
    metrics: &'a Metrics,
    outcome: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.sibling_request(self.outcome);
    }
}

fn networks() -> Vec<IpNet> {
    NETWORKS.iter().filter_map(|network| network.parse().ok()).collect()
}
