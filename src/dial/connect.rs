//! Makes connections: resolve, check, race the addresses, encrypt, tunnel.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::error::Wait;
use super::link::{Link, Route};
use super::policy::Policy;
use super::proxy::{self, Proxies};
use super::target::{Host, Target, Transport};
use super::{DialError, Resolver, tls};

/// RFC 8305, 5: how long an address is tried alone before the next is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// A peer that vanished is noticed after about a minute, also on an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The pool's door to the network: a service from URI to connection.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    policy: Policy,
    resolver: Resolver,
    proxies: Proxies,
    tls: TlsConnector,
    /// What certificates must be for, where it is not the host that is dialled.
    named: Option<Host>,
    connect_timeout: Duration,
}

impl Connector {
    /// With TLS goes the name that certificates must be for, where it is not the host that is dialled.
    pub(super) fn new(
        policy: Policy,
        resolver: Resolver,
        proxies: Proxies,
        (tls, named): (TlsConnector, Option<Host>),
        connect_timeout: Duration,
    ) -> Connector {
        Connector(Arc::new(Inner { policy, resolver, proxies, tls, named, connect_timeout }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Link>, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let deadline = Instant::now() + inner.connect_timeout;
            within(deadline, Wait::Connection, inner.connect(uri, deadline)).await
        })
    }
}

impl Inner {
    async fn connect(&self, uri: Uri, deadline: Instant) -> Result<TokioIo<Link>, DialError> {
        let target = Target::of(&uri)?;
        match self.proxies.intercept(&uri) {
            Some(proxy) => self.through(&proxy, uri, &target).await,
            None => self.directly(&target, deadline).await,
        }
    }

    async fn directly(&self, target: &Target, deadline: Instant) -> Result<TokioIo<Link>, DialError> {
        let addresses = self.addresses(&target.host).await?;
        let addresses = self.policy.admitted(&target.host, &addresses)?;
        let wire = reach(target, addresses).await?;
        let link = match target.transport {
            Transport::Plain => Link::new(wire, Route::Direct),
            Transport::Tls => {
                let handshake = tls::handshake(&self.tls, self.named(target), wire);
                Link::new(within(deadline, Wait::Handshake, handshake).await?, Route::Direct)
            }
        };
        Ok(TokioIo::new(link))
    }

    /// The proxy's own address comes from the environment and is dialled wherever it is. The proxy resolves the target's name,
    /// so that of the target only what is no name can be judged here.
    async fn through(&self, proxy: &Intercept, uri: Uri, target: &Target) -> Result<TokioIo<Link>, DialError> {
        if !matches!(target.host, Host::Name(_)) {
            self.policy.admitted(&target.host, &self.addresses(&target.host).await?)?;
        }
        let next = Target::of(proxy.uri()).map_err(|_| DialError::Proxy {
            proxy: proxy.uri().host().unwrap_or_default().to_owned(),
            why: "only http:// and https:// proxies are spoken".to_owned(),
        })?;
        let wire = reach(&next, self.addresses(&next.host).await?).await?;
        let link = match next.transport {
            Transport::Plain => Link::new(wire, Route::Forwarded),
            Transport::Tls => Link::new(tls::handshake(&self.tls, &next.host, wire).await?, Route::Forwarded),
        };
        match target.transport {
            Transport::Plain => Ok(TokioIo::new(link)),
            Transport::Tls => {
                let tunnel = proxy::tunnel(TokioIo::new(link), proxy, uri).await?;
                let encrypted = tls::handshake(&self.tls, self.named(target), tunnel.into_inner()).await?;
                Ok(TokioIo::new(Link::new(encrypted, Route::Direct)))
            }
        }
    }

    fn named<'a>(&'a self, target: &'a Target) -> &'a Host {
        self.named.as_ref().unwrap_or(&target.host)
    }

    /// Resolution may take most of the time for connecting, but leaves the connection some.
    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, DialError> {
        self.resolver.resolve(host, self.connect_timeout * 3 / 4).await
    }
}

/// What is given up last is what was waited for: an inner wait with the same deadline is asked first.
async fn within<T>(deadline: Instant, wait: Wait, work: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    timeout_at(deadline, work).await.unwrap_or(Err(DialError::Timeout(wait)))
}

/// A TCP connection to the first of the addresses that takes one.
async fn reach(target: &Target, addresses: Vec<IpAddr>) -> Result<TcpStream, DialError> {
    let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, target.port));
    let raced = race(sockets, open).await;
    raced.map_err(|error| DialError::Connect { host: target.host.to_string(), kind: error.kind(), why: error.to_string() })
}

/// Happy eyeballs (RFC 8305, 5): an attempt begins when the one before has failed or is `ATTEMPT_DELAY` old; the first to
/// succeed wins, and the others are dropped with their sockets.
async fn race<T, A>(addresses: impl Iterator<Item = SocketAddr>, attempt: impl Fn(SocketAddr) -> A) -> io::Result<T>
where
    A: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.peekable();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        attempts.extend(waiting.next().map(&attempt));
        tokio::select! {
            ended = attempts.next() => match ended {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.peek().is_some() => {}
        }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Mutex;

    use tokio::time::timeout;

    use super::*;

    /// What becomes of an attempt.
    #[derive(Clone, Copy)]
    enum Fate {
        Connects,
        Fails,
        Hangs,
    }

    /// Races addresses of the given fates; tells who won, after how long, and who was tried.
    async fn raced(fates: &[Fate]) -> (io::Result<u16>, Duration, Vec<u16>) {
        let tried = Mutex::new(Vec::new());
        let addresses = (0_u16..).take(fates.len()).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let attempt = |address: SocketAddr| {
            tried.lock().unwrap().push(address.port());
            let fate = fates[usize::from(address.port())];
            async move {
                match fate {
                    Fate::Connects => ready(Ok(address.port())).await,
                    Fate::Fails => Err(io::ErrorKind::ConnectionRefused.into()),
                    Fate::Hangs => pending().await,
                }
            }
        };
        let began = Instant::now();
        let won = timeout(Duration::from_secs(60), race(addresses, attempt)).await;
        let won = won.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        (won, began.elapsed(), tried.lock().unwrap().clone())
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_race_by_the_clock() {
        use Fate::{Connects, Fails, Hangs};
        let ms = Duration::from_millis;
        for (fates, winner, after, tried) in [
            (&[Connects, Connects][..], Ok(0), ms(0), &[0][..]),
            (&[Fails, Connects], Ok(1), ms(0), &[0, 1]),
            (&[Hangs, Connects], Ok(1), ms(251), &[0, 1]),
            (&[Hangs, Fails, Connects], Ok(2), ms(251), &[0, 1, 2]),
            (&[Hangs, Hangs, Connects], Ok(2), ms(502), &[0, 1, 2]),
            (&[Fails, Fails], Err(io::ErrorKind::ConnectionRefused), ms(0), &[0, 1]),
            (&[], Err(io::ErrorKind::AddrNotAvailable), ms(0), &[]),
            (&[Hangs], Err(io::ErrorKind::TimedOut), ms(60_001), &[0]),
        ] {
            let (won, took, attempted) = raced(fates).await;
            assert_eq!(won.map_err(|error| error.kind()), winner);
            assert!(took <= after + ms(1), "{took:?} for {after:?}");
            assert_eq!(attempted, tried);
        }
    }
}
