//! A long, thin way between two addresses of this machine, in user space: what enters it leaves it later, no faster than its rate, and
//! not at all while it is cut. Needs no rights and no kernel modules, unlike netem.
//!
//! It carries TCP connections, not packets: nothing is lost or overtaken on the way. A connection costs a round trip before its first
//! byte, as a handshake does. One that is cut ends at both sides, and those who try again are turned away.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that enter at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks of one connection that are on their way in one direction, at most.
const CHUNKS_UNDERWAY: usize = 64;
/// How long what enters may wait for those before it. The timer is no more exact than a millisecond: without any, a fast link would
/// be idle in between.
const MAX_QUEUE: Duration = Duration::from_millis(5);

/// How long and how thin a way is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub one_way: Duration,
    pub bytes_per_s: f64,
}

/// A way that is entered at `address`. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    way: Arc<Way>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Way {
    shape: Shape,
    /// Where it leads to; connections wait until that is known.
    end: watch::Sender<Option<SocketAddr>>,
    is_open: watch::Sender<bool>,
    there: Lane,
    back: Lane,
}

/// One direction, which all connections share.
#[derive(Debug)]
struct Lane {
    free_at: Mutex<Instant>,
}

impl Link {
    /// A way whose end is not known yet.
    pub async fn lay(shape: Shape) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (end, is_open) = (watch::Sender::new(None), watch::Sender::new(true));
        let way = Arc::new(Way { shape, end, is_open, there: Lane::idle(), back: Lane::idle() });
        let accepting = tokio::spawn(accept(listener, way.clone())).abort_handle();
        Ok(Link { address, way, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn lead_to(&self, end: SocketAddr) {
        self.way.end.send_replace(Some(end));
    }

    pub fn cut(&self) {
        self.way.is_open.send_replace(false);
    }

    pub fn mend(&self) {
        self.way.is_open.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Lane {
    fn idle() -> Lane {
        Lane { free_at: Mutex::new(Instant::now()) }
    }

    /// When so many bytes, which come now, have entered.
    fn enter(&self, count: usize, shape: Shape) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(count as f64 / shape.bytes_per_s);
        *free_at
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) if *way.is_open.borrow() => drop(connections.spawn(carry(near, way.clone()))),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(MAX_QUEUE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until both sides have ended it, or the way is cut.
async fn carry(near: TcpStream, way: Arc<Way>) {
    let mut is_open = way.is_open.subscribe();
    tokio::select! {
        crossed = cross_both(near, &way) => {
            if let Err(error) = crossed {
                tracing::debug!(%error, "a connection of a link broke");
            }
        }
        _ = is_open.wait_for(|is_open| !is_open) => {}
    }
}

async fn cross_both(near: TcpStream, way: &Way) -> io::Result<()> {
    sleep(way.shape.one_way * 2).await;
    let mut end = way.end.subscribe();
    let end = end.wait_for(Option::is_some).await.map_err(io::Error::other)?.to_owned();
    let far = TcpStream::connect(end.ok_or(io::ErrorKind::NotConnected)?).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(cross(near_in, far_out, way.shape, &way.there), cross(far_in, near_out, way.shape, &way.back))?;
    Ok(())
}

/// A chunk and when it arrives; an empty one is the end.
type Crossing = (Instant, Bytes);

async fn cross(from: OwnedReadHalf, to: OwnedWriteHalf, shape: Shape, lane: &Lane) -> io::Result<()> {
    let (underway, arrivals) = mpsc::channel(CHUNKS_UNDERWAY);
    tokio::try_join!(enter(from, underway, shape, lane), leave(arrivals, to))?;
    Ok(())
}

async fn enter(mut from: OwnedReadHalf, underway: mpsc::Sender<Crossing>, shape: Shape, lane: &Lane) -> io::Result<()> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let count = from.read_buf(&mut chunk).await?;
        let entered = lane.enter(count, shape);
        if underway.send((entered + shape.one_way, chunk.freeze())).await.is_err() || count == 0 {
            return Ok(());
        }
        sleep_until(entered - MAX_QUEUE).await;
    }
}

async fn leave(mut arrivals: mpsc::Receiver<Crossing>, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some((due, chunk)) = arrivals.recv().await {
        sleep_until(due).await;
        to.write_all(&chunk).await?;
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_WAY: Duration = Duration::from_millis(50);
    const FAST: Shape = Shape { one_way: ONE_WAY, bytes_per_s: 1e9 };
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Sends back what it gets, and closes when the other side does.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn link(shape: Shape) -> Link {
        let link = Link::lay(shape).await.unwrap();
        link.lead_to(echo().await);
        link
    }

    async fn there_and_back(stream: &mut TcpStream, count: usize) -> io::Result<Duration> {
        let started = Instant::now();
        let (mut from, mut to) = stream.split();
        let sent = vec![7; count];
        let mut received = vec![0; count];
        tokio::time::timeout(PATIENCE, async { tokio::try_join!(to.write_all(&sent), from.read_exact(&mut received)) })
            .await
            .map_err(io::Error::other)??;
        assert!(sent == received);
        Ok(started.elapsed())
    }

    #[tokio::test]
    async fn bytes_take_their_time_and_the_first_a_handshake_more() {
        let link = link(FAST).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        let first = there_and_back(&mut stream, 10).await.unwrap();
        let second = there_and_back(&mut stream, 10).await.unwrap();
        assert!(first >= ONE_WAY * 4 && second >= ONE_WAY * 2 && second < ONE_WAY * 4, "{first:?}, {second:?}");
    }

    #[tokio::test]
    async fn connections_share_the_rate() {
        let link = link(Shape { one_way: Duration::from_millis(1), bytes_per_s: 2e6 }).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(TcpStream::connect(link.address()).await.unwrap());
        }
        let started = Instant::now();
        for took in futures_util::future::join_all(streams.iter_mut().map(|stream| there_and_back(stream, 500_000))).await {
            took.unwrap();
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(480) && took < Duration::from_secs(3), "1 MB at 2 MB/s: {took:?}");
    }

    #[tokio::test]
    async fn an_end_is_carried_behind_the_last_byte() {
        let link = link(FAST).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.unwrap().unwrap();
        assert_eq!(all, b"last");
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_on_its_way_and_turns_away_who_comes_until_it_is_mended() {
        let link = link(FAST).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        there_and_back(&mut stream, 10).await.unwrap();
        link.cut();
        assert!(there_and_back(&mut stream, 10).await.is_err());
        let turned_away = async { there_and_back(&mut TcpStream::connect(link.address()).await?, 10).await };
        assert!(turned_away.await.is_err());
        link.mend();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        there_and_back(&mut stream, 10).await.unwrap();
    }

    #[tokio::test]
    async fn connections_wait_until_it_is_known_where_the_way_leads_to() {
        let link = Link::lay(FAST).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        let (took, ()) = tokio::join!(there_and_back(&mut stream, 10), async {
            sleep(ONE_WAY * 6).await;
            link.lead_to(echo().await);
        });
        assert!(took.unwrap() >= ONE_WAY * 8);
    }
}
