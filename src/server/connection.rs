//! One client's connection, from its handshake to its end.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::doorway::{Doorway, Streams};
use super::guard::{Guard, HTTP2_STREAM_WINDOW_BYTES};
use super::head::MAX_HEAD_BYTES;
use super::prompt::Prompting;
use super::socket::Socket;
use super::turn::Turns;
use super::vitals::{Protocol, Reason, Verdict, Vitals};
use super::{Listening, Mode, Phase, proxy_protocol};
use crate::access::{canonical, is_in};
use crate::config::Limits;
use crate::http::Connection;
use crate::http::outbox::{Outbox, StandIn};
use crate::metrics::Metrics;

/// hyper's buffer for a whole head; of an answer it queues one block of the body whatever its size, and no second one beyond this.
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;
const _: () = assert!(HTTP1_BUFFER_BYTES > MAX_HEAD_BYTES, "a head that the guard passes must fit");
/// Sealed bytes that rustls holds for a client that does not read: a whole block, so that no crumb of it makes a record of its own.
const TLS_BUFFER_BYTES: usize = 2 * CROWDED_TLS_BUFFER_BYTES;
const CROWDED_TLS_BUFFER_BYTES: usize = 16 * 1024;
/// With so many connections open, the next ones count as a crowd.
const CROWD: i64 = 256;
/// Bytes that h2 holds for one stream whose window is shut.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Leave to send that a client gets for all request bodies of a connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// All fields of an HTTP/2 head, decoded: more is answered 431 by h2, or ends the connection.
const HTTP2_HEADER_LIST_BYTES: u32 = 32 * 1024;

/// What all connections of a listener share.
pub struct Site<S> {
    pub listening: Listening,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub service: Arc<S>,
    pub phase: watch::Receiver<Phase>,
    pub stand_in: StandIn,
    pub turns: Arc<Turns>,
}

impl<S, F, B> Site<S>
where
    S: Fn(Request<Incoming>, Arc<Connection>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves a connection until it ends.
    pub async fn serve(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr) {
        let _open = Open::new(&self.metrics);
        // Small answers must not wait for acknowledgements; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        let Listening { mode, proxies, number, .. } = &self.listening;
        let Some(client) = self.client(&mut stream, peer.ip()).await else { return };
        let outbox = self.listening.sends_files().then(|| Outbox::new(&self.stand_in));
        let (socket, vitals_slot) = Socket::new(stream, self.turns.turn(), outbox.clone());
        let crowded = self.metrics.connections.get() > CROWD;
        let proxies = Arc::clone(proxies);
        let mut connection = Connection { client, proxies, listener: *number, crowded, outbox, ..Connection::plain(peer) };
        match mode {
            Mode::Plain => {
                let vitals = self.vitals(Protocol::Http1);
                let _ = vitals_slot.set(Arc::clone(&vitals));
                self.http1(socket, connection, vitals).await;
            }
            Mode::Tls(certificates) => {
                let terms = certificates.terms();
                let buffer_bytes = if crowded { CROWDED_TLS_BUFFER_BYTES } else { TLS_BUFFER_BYTES };
                let handshake = TlsAcceptor::from(Arc::clone(&terms.config))
                    .accept_with(socket, |session| session.set_buffer_limit(Some(buffer_bytes)));
                let Ok(shaken) = tokio::time::timeout(self.limits.header_timeout, handshake).await else {
                    return self.metrics.connection_refused("header_timeout");
                };
                let Ok(stream) = shaken.inspect_err(|error| tracing::debug!(%peer, %error, "no TLS handshake")) else { return };
                let (_, session) = stream.get_ref();
                connection.tls = true;
                connection.server_name = session.server_name().map(str::to_ascii_lowercase);
                connection.certificate = terms.client_certificate(session);
                // Held for the whole connection they would keep old authorities in force.
                drop(terms);
                let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
                let vitals = self.vitals(protocol);
                let _ = vitals_slot.set(Arc::clone(&vitals));
                match protocol {
                    Protocol::Http1 => self.http1(stream, connection, vitals).await,
                    Protocol::Http2 => self.http2(stream, connection, vitals).await,
                }
            }
        }
    }

    /// Who is at the other end: the peer, or whom a trusted one names by the PROXY protocol. `None` if one that has to name somebody
    /// does not, and the connection ends.
    async fn client(&self, stream: &mut TcpStream, peer: IpAddr) -> Option<IpAddr> {
        let proxies = &self.listening.proxies;
        if !(proxies.proxy_protocol && is_in(&proxies.ranges, peer)) {
            return Some(canonical(peer));
        }
        let refusal = match tokio::time::timeout(self.limits.header_timeout, proxy_protocol::read(stream)).await {
            Ok(Ok(named)) => return Some(named.unwrap_or_else(|| canonical(peer))),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a trusted proxy does not speak the PROXY protocol");
                "malformed"
            }
            Err(_) => "header_timeout",
        };
        self.metrics.connection_refused(refusal);
        None
    }

    fn vitals(&self, protocol: Protocol) -> Arc<Vitals> {
        Arc::new(Vitals::new(&self.limits, protocol, Instant::now()))
    }

    async fn http1<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T, connection: Connection, vitals: Arc<Vitals>) {
        let connection = Arc::new(connection);
        let prompting = self.listening.prompter.clone().map(|prompter| Prompting::new(prompter, Arc::clone(&connection)));
        let guard = TokioIo::new(Guard::http1(stream, Arc::clone(&vitals), prompting, &self.limits));
        let doorway = self.doorway(connection, Protocol::Http1, &vitals);
        let protocol = http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper would count the quiet time between requests as a slow head; the vitals tell the two apart.
            .header_read_timeout(None)
            .max_buf_size(HTTP1_BUFFER_BYTES)
            // Blocks of a body go out as they are, never copied into a buffer: the outbox depends on it.
            .writev(true)
            .serve_connection(guard, service_fn(move |request| doorway.enter(request)));
        self.run(pin!(protocol), http1::Connection::graceful_shutdown, &vitals, Protocol::Http1).await;
    }

    async fn http2<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T, connection: Connection, vitals: Arc<Vitals>) {
        let guard = TokioIo::new(Guard::http2(stream, Arc::clone(&vitals), &self.limits));
        let doorway = self.doorway(Arc::new(connection), Protocol::Http2, &vitals);
        let protocol = http2::Builder::new(Streams { request_timeout: self.limits.request_timeout })
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(HTTP2_HEADER_LIST_BYTES)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .serve_connection(guard, service_fn(move |request| doorway.enter(request)));
        self.run(pin!(protocol), http2::Connection::graceful_shutdown, &vitals, Protocol::Http2).await;
    }

    fn doorway(&self, connection: Arc<Connection>, protocol: Protocol, vitals: &Arc<Vitals>) -> Doorway<S> {
        Doorway::new(Arc::clone(&self.service), connection, protocol, Arc::clone(vitals), Arc::clone(&self.metrics))
    }

    /// Runs a connection until it ends by itself, or its vitals say so.
    async fn run<C, E>(&self, mut protocol: Pin<&mut C>, shut: fn(Pin<&mut C>), vitals: &Vitals, kind: Protocol)
    where
        C: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        let mut phase = self.phase.clone();
        let mut drained = pin!(phase.wait_for(|phase| *phase != Phase::Open));
        let mut draining = false;
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now()));
        std::future::poll_fn(|cx| {
            if !draining && drained.as_mut().poll(cx).is_ready() {
                draining = true;
                vitals.drain();
                // HTTP/1 connections end after their next answer, or when they stay quiet: the vitals see to that.
                if kind == Protocol::Http2 {
                    shut(protocol.as_mut());
                }
            }
            loop {
                if let Poll::Ready(ended) = protocol.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                    return Poll::Ready(());
                }
                match vitals.verdict(Instant::now()) {
                    Verdict::Wait(until) => match wait(alarm.as_mut(), until, cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(()) => {}
                    },
                    Verdict::Close(reason) => {
                        self.count(reason);
                        vitals.close(reason, Instant::now());
                        shut(protocol.as_mut());
                    }
                    Verdict::Cut(reason) => {
                        self.count(reason);
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    }

    fn count(&self, reason: Reason) {
        if let Some(word) = reason.word() {
            self.metrics.connection_refused(word);
        }
    }
}

/// Sleeps until `until`, or until an earlier time for which the alarm is set already: then there is nothing to do but look again.
fn wait(mut alarm: Pin<&mut Sleep>, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if alarm.is_elapsed() || until < alarm.deadline() {
        alarm.as_mut().reset(until);
    }
    alarm.poll(cx)
}

/// Counts a connection as open while it lives.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Open {
        metrics.connections.inc();
        Open(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
