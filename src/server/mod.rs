//! The listeners: accept loops, connection limits, TLS and its reload, drain. It knows nothing of registries.
//!
//! A connection's bytes pass ([`proxy_protocol`]) -> [`socket`] -> (TLS) -> [`guard`] -> hyper -> [`doorway`] -> the service. A request of
//! HTTP/1.1 that came before, byte for byte, may be answered in the guard ([`prompt`]): then hyper sees nothing of it.
//!
//! # Where each timer lives
//! | what | from | limit | where |
//! |---|---|---|---|
//! | a load balancer's header | accept | `header_timeout` | `connection` |
//! | TLS handshake | accept, or that header | `header_timeout` | `connection`, around the handshake |
//! | first head, no byte of it needed | the handshake's end | `header_timeout` | `vitals` |
//! | any head, complete | its first byte | `header_timeout` | `vitals`, told by `guard` |
//! | nothing asked | the last answer's end | `idle_timeout` | `vitals`, told by `doorway` and `socket` |
//! | the socket takes no byte | the first refused write | `write_timeout` | `vitals`, told by `socket` |
//! | HTTP/2: all windows shut | the last block handed to h2 | `write_timeout` | `vitals`, told by `doorway` and `guard` |
//! | request body | waiting for the client only, after a first `header_timeout` | `min_body_rate` | `pace`; `vitals` cuts |
//! | whole request, HTTP/1 | its head | `request_timeout` | `vitals`; the connection is cut |
//! | whole request, HTTP/2 | its head | `request_timeout` | `doorway::Streams`; the stream is reset |
//! | goodbye: last bytes out, the client's rest read away | shutdown | a second | `vitals` |
//!
//! hyper's own timers are set but not used for these: its head timer would also run between requests.
//!
//! # What a client that does not read can hold
//! One block of the answer's body, which the http room bounds, and beside it: hyper's buffer of the answer's head (HTTP/1), 64 KiB in
//! rustls under TLS, 64 KiB in h2 for each stream. Reading: 64 KiB for HTTP/1 (32 in hyper, a head in the guard), 1 MiB of request bodies for HTTP/2.
//!
//! # What hyper is not trusted with
//! Heads and chunked framing of HTTP/1 are judged as bytes before hyper sees them (`head`, `chunks`, `screen`), control frames of
//! HTTP/2 are counted (`frames`). What is refused is answered by the `doorway` in the specification's JSON. The exceptions are h2's
//! own: an oversized HTTP/2 head is answered 431 without a body, and broken frames end the stream or connection.

mod accept;
mod chunks;
mod connection;
mod doorway;
mod frames;
mod guard;
mod head;
mod pace;
mod prompt;
pub mod proxy_protocol;
mod refusal;
mod screen;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod turn;
mod vitals;
mod walk;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{Limits, TrustedProxies};
use crate::http::outbox::StandIn;
use crate::http::{Connection, Prompt};
use crate::metrics::Metrics;
use connection::Site;
pub use tls::Certificates;
use turn::Turns;

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: u32 = 4096;

/// What a listener speaks.
#[derive(Clone, Debug)]
pub enum Mode {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/2 or HTTP/1.1 under TLS, as the client chooses.
    Tls(Certificates),
}

/// How a listener meets its clients.
#[derive(Clone, Debug)]
pub struct Listening {
    pub mode: Mode,
    /// Who stands before it.
    pub proxies: Arc<TrustedProxies>,
    /// By which its connections are told apart from other listeners'.
    pub number: usize,
    /// Whether it lets the kernel send files, where there is no TLS.
    pub sendfile: bool,
    /// Who knows answers by their requests' heads.
    pub prompter: Option<Prompter>,
}

/// Answers the head of an HTTP/1.1 request that came before, byte for byte, if it can; otherwise it hears of no more than that somebody
/// has asked. Cloning is cheap.
#[derive(Clone)]
pub struct Prompter(Arc<AnswerHead>);

type AnswerHead = dyn Fn(&[u8], &Connection) -> Option<Prompt> + Send + Sync;

impl Prompter {
    pub fn new(answer: impl Fn(&[u8], &Connection) -> Option<Prompt> + Send + Sync + 'static) -> Prompter {
        Prompter(Arc::new(answer))
    }
}

impl Listening {
    /// Whether the kernel sends files here: under TLS all bytes have to be sealed first.
    fn sends_files(&self) -> bool {
        self.sendfile && matches!(self.mode, Mode::Plain)
    }
}

impl fmt::Debug for Prompter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prompter")
    }
}

impl From<Mode> for Listening {
    /// The first one, with nobody before it.
    fn from(mode: Mode) -> Listening {
        Listening { mode, proxies: Arc::default(), number: 0, sendfile: true, prompter: None }
    }
}

/// Why a listener or its certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("{}: {reason}", file.display())]
    Certificate { file: PathBuf, reason: String },
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No new connections; those that are still there are cut at this time.
    Draining(Instant),
}

/// A running listener. Dropped without [`drain`](Self::drain), it cuts all its connections.
#[derive(Debug)]
pub struct Server {
    local_address: SocketAddr,
    phase: watch::Sender<Phase>,
    listening: JoinHandle<()>,
}

impl Server {
    /// Listens on `address` and serves each request with `service`. `limits.connections` counts this listener's connections; more wait
    /// in the kernel's queue.
    ///
    /// # Errors
    /// [`ServerError::Bind`].
    pub async fn bind<S, F, B>(
        address: SocketAddr,
        listening: impl Into<Listening>,
        limits: Limits,
        metrics: Metrics,
        service: S,
    ) -> Result<Server, ServerError>
    where
        S: Fn(Request<Incoming>, Arc<Connection>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bound = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local_address, listener) = bound.map_err(|source| ServerError::Bind { address, source })?;
        let (phase, seen) = watch::channel(Phase::Open);
        let listening = listening.into();
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let site = Arc::new(Site {
            turns: Turns::new(workers, listening.sends_files()),
            listening,
            limits,
            metrics: Arc::new(metrics),
            service: Arc::new(service),
            phase: seen,
            stand_in: StandIn::default(),
        });
        let listening = tokio::spawn(run(listener, site));
        Ok(Server { local_address, phase, listening })
    }

    /// The address, with the port that the kernel chose for port 0.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Ends the listener: takes what already waits in the kernel's queue and closes the socket. Requests in service finish; answers
    /// from now on close their HTTP/1 connection, HTTP/2 clients get GOAWAY, quiet connections close after half a second in which
    /// a request that was on its way is still served. What is left after `grace` is cut.
    pub async fn drain(self, grace: Duration) {
        self.phase.send_replace(Phase::Draining(Instant::now() + grace));
        // The task only ends early when the runtime does.
        let _ = self.listening.await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the old connections' last packets.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until the phase changes, then waits for those that are open.
async fn run<S, F, B>(listener: TcpListener, site: Arc<Site<S>>)
where
    S: Fn(Request<Incoming>, Arc<Connection>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let permits = Arc::new(Semaphore::new(site.limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut open = JoinSet::new();
    let mut phase = site.phase.clone();
    let until = loop {
        tokio::select! {
            biased;
            ended = phase.wait_for(|phase| *phase != Phase::Open) => match ended.as_deref() {
                Ok(Phase::Draining(until)) => break *until,
                // The server was dropped: so are the connections, with `open`.
                Ok(Phase::Open) | Err(_) => return,
            },
            Some(_) = open.join_next() => {}
            (permit, (stream, peer)) = take(&listener, &permits) => { open.spawn(hold(permit, Arc::clone(&site).serve(stream, peer))); }
        }
    };
    for (permit, (stream, peer)) in take_the_rest(listener, &permits) {
        open.spawn(hold(permit, Arc::clone(&site).serve(stream, peer)));
    }
    let ended = tokio::time::timeout_at(until, async { while open.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = open.len(), "the grace period is over: connections are cut");
    }
    open.shutdown().await;
}

/// The next connection, once there is room for it.
async fn take(listener: &TcpListener, permits: &Arc<Semaphore>) -> (OwnedSemaphorePermit, (TcpStream, SocketAddr)) {
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
        // Nobody closes the semaphore; if somebody did there would never be room again.
        return std::future::pending().await;
    };
    (permit, accept::next(|| listener.accept()).await)
}

/// Closes the listener after taking the clients that connected before, as far as there is room: the kernel would reset them.
fn take_the_rest(listener: TcpListener, permits: &Arc<Semaphore>) -> Vec<(OwnedSemaphorePermit, (TcpStream, SocketAddr))> {
    let mut rest = Vec::new();
    // Asked directly, because the runtime may not know yet of the newest ones. The listener does not block.
    let Ok(listener) = listener.into_std() else { return rest };
    while let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        let accepted = listener.accept().and_then(|(stream, peer)| {
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, peer))
        });
        match accepted {
            Ok(accepted) => rest.push((permit, accepted)),
            Err(_) => break,
        }
    }
    rest
}

async fn hold(permit: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(permit);
}
