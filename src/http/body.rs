//! The bodies of answers. At most one block of a blob is in memory for each answer: the next one is read when the connection has
//! let go of the last, so a reader that never reads costs one block, whatever the blob's size.
//!
//! Architecture invariant: a body that cannot be completed ends with an error, on which hyper closes an HTTP/1.1 connection and
//! resets an HTTP/2 stream. It never ends cleanly before its last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::log::{Ending, Record};
use super::outbox::Outbox;
use crate::store::{ContentError, MAX_PART_BYTES, Piece, Region};
use crate::traffic::Lane;

/// Bytes of a block on a plain connection.
pub const PLAIN_BLOCK_BYTES: usize = 32 * 1024;
/// Bytes in a TLS record: so many that the sealed record, with its head (5), type (1) and tag (16; RFC 8446, section 5.2), fills 16 KiB of
/// memory and no more: one byte above, allocators give it a quarter more.
pub const TLS_RECORD_BYTES: usize = 16 * 1024 - 22;
/// Bytes of a block under TLS. Each connection may hold one beside as much that is sealed: one of many holds half of that.
pub const TLS_BLOCK_BYTES: usize = 2 * TLS_RECORD_BYTES;

/// What an answer consists of, before it is tied to a connection and a log record.
#[derive(Debug)]
pub enum Payload {
    Empty,
    Bytes(Bytes),
    Region { region: Region, size_bytes: Option<u64> },
}

impl Payload {
    /// Length of the whole; `None` while it is not known.
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            Payload::Empty => Some(0),
            Payload::Bytes(bytes) => Some(bytes.len() as u64),
            Payload::Region { size_bytes, .. } => *size_bytes,
        }
    }
}

/// Why a body was cut.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The content has another length than was announced.
    #[error("the content has not the announced length")]
    Length,
}

/// The body of a response.
pub struct Body {
    state: State,
    sent_bytes: u64,
    /// Written when the body ends, is cut or is dropped.
    record: Option<Box<Record>>,
}

enum State {
    Done,
    Bytes(Bytes),
    Region(Blocks),
}

type Reading = Pin<Box<dyn Future<Output = (Region, Result<Option<Piece>, ContentError>)> + Send>>;

/// How a body leaves its connection.
#[derive(Clone, Debug)]
pub struct Way {
    /// Bytes of a block that is read.
    pub block_bytes: usize,
    /// Takes parts of files, where the connection sends them as they are.
    pub outbox: Option<Outbox>,
    /// Where other answers to the same client go, too, when its bytes are limited.
    pub lane: Option<Box<Lane>>,
}

impl Way {
    fn plain() -> Way {
        Way { block_bytes: PLAIN_BLOCK_BYTES, outbox: None, lane: None }
    }
}

/// A region on its way, block by block.
struct Blocks {
    /// Between two blocks; `None` while one is read.
    region: Option<Region>,
    reading: Option<Reading>,
    /// Until the client may have more.
    pause: Option<Pin<Box<Sleep>>>,
    slot: Arc<Slot>,
    way: Way,
    /// What is still to come, where the length is known.
    rest_bytes: Option<u64>,
}

impl Body {
    /// A body that appears in no log.
    pub fn unrecorded(payload: Payload) -> Body {
        Body::build(payload, Way::plain(), None)
    }

    /// A body that writes its record at the end.
    pub fn new(payload: Payload, way: Way, record: Box<Record>) -> Body {
        Body::build(payload, way, Some(record))
    }

    fn build(payload: Payload, way: Way, record: Option<Box<Record>>) -> Body {
        let state = match payload {
            Payload::Empty | Payload::Region { size_bytes: Some(0), .. } => State::Done,
            Payload::Bytes(bytes) if bytes.is_empty() => State::Done,
            Payload::Bytes(bytes) => {
                // It is in memory, and few: what comes after it waits for it.
                if let Some(lane) = &way.lane {
                    lane.spend(bytes.len() as u64);
                }
                State::Bytes(bytes)
            }
            Payload::Region { region, size_bytes } => State::Region(Blocks {
                region: Some(region),
                reading: None,
                pause: None,
                slot: Arc::default(),
                way,
                rest_bytes: size_bytes,
            }),
        };
        Body { state, sent_bytes: 0, record }
    }

    /// Whether nothing follows what has just been taken out.
    fn is_last(&self) -> bool {
        match &self.state {
            State::Done | State::Bytes(_) => true,
            State::Region(blocks) => blocks.rest_bytes == Some(0),
        }
    }

    fn finish(&mut self, ending: Ending) {
        self.state = State::Done;
        if let Some(mut record) = self.record.take() {
            record.finish(self.sent_bytes, ending);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.state {
            State::Done => None,
            State::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            State::Region(blocks) => ready!(blocks.poll_next(cx)).transpose(),
        };
        match next {
            Some(Ok(bytes)) => {
                self.sent_bytes += bytes.len() as u64;
                if self.is_last() {
                    self.finish(Ending::Complete);
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => {
                self.finish(Ending::Cut);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.finish(Ending::Complete);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Done => SizeHint::with_exact(0),
            State::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            State::Region(blocks) => blocks.rest_bytes.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Body {
    /// A client that leaves early takes its connection along; the record is written all the same.
    fn drop(&mut self) {
        let ending = if matches!(self.state, State::Done) { Ending::Complete } else { Ending::Left };
        self.finish(ending);
    }
}

impl Blocks {
    /// The next block, once the last one has been let go.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if self.region.is_some() {
            ready!(self.poll_turn(cx));
        }
        if let Some(mut region) = self.region.take_if(|_| self.slot.poll_free(cx).is_ready()) {
            let block_bytes = self.way.block_bytes;
            let sends_files = self.way.outbox.is_some() && self.way.lane.as_ref().is_none_or(|lane| lane.carries(MAX_PART_BYTES));
            self.reading = Some(Box::pin(async move {
                let piece = match sends_files {
                    true => region.next_piece(block_bytes).await,
                    false => region.next(block_bytes).await.map(|block| block.map(Piece::Bytes)),
                };
                (region, piece)
            }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let (region, piece) = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        self.region = Some(region);
        let block = piece?.map(|piece| self.sendable(piece)).transpose()?;
        Poll::Ready(self.account(block))
    }

    /// Whether the client may have more of its bytes now.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lane) = &self.way.lane else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let wait = lane.wait();
            if wait.is_zero() {
                return Poll::Ready(());
            }
            lane.waits();
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    /// The bytes themselves, or what stands in for them.
    fn sendable(&self, piece: Piece) -> Result<Bytes, BodyError> {
        match piece {
            Piece::Bytes(bytes) => Ok(bytes),
            Piece::File(part) => self.way.outbox.as_ref().and_then(|outbox| outbox.put(part)).ok_or(BodyError::Length),
        }
    }

    /// Holds the content to the length that was announced.
    fn account(&mut self, block: Option<Bytes>) -> Result<Option<Bytes>, BodyError> {
        match (block, &mut self.rest_bytes) {
            (None, None | Some(0)) => Ok(None),
            (None, Some(_)) => Err(BodyError::Length),
            (Some(block), rest) => {
                if let Some(rest) = rest {
                    *rest = rest.checked_sub(block.len() as u64).ok_or(BodyError::Length)?;
                }
                if let Some(lane) = &self.way.lane {
                    lane.spend(block.len() as u64);
                }
                Ok(Some(self.slot.clone().fill(block)))
            }
        }
    }
}

/// The place for the one block of an answer that may be outstanding.
#[derive(Default)]
struct Slot {
    taken: AtomicBool,
    body: AtomicWaker,
}

/// A block that frees its slot when the connection lets go of it.
struct Block {
    bytes: Bytes,
    slot: Arc<Slot>,
}

impl Slot {
    fn fill(self: Arc<Slot>, bytes: Bytes) -> Bytes {
        self.taken.store(true, Ordering::Release);
        Bytes::from_owner(Block { bytes, slot: self })
    }

    fn poll_free(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken.load(Ordering::Acquire) {
            // Looked at again after registering: the block may have gone in between.
            self.body.register(cx.waker());
            if self.taken.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.slot.taken.store(false, Ordering::Release);
        self.slot.body.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Content;
    use futures_util::task::noop_waker_ref;
    use http_body::Body as _;
    use http_body_util::BodyExt;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn bytes_of(count: usize) -> Bytes {
        (0..count).map(|at| at as u8).collect()
    }

    fn blocks_of(block_bytes: usize) -> Way {
        Way { block_bytes, outbox: None, lane: None }
    }

    fn payload(have: usize, announced: Option<u64>) -> Payload {
        let content = Content::from_memory(bytes_of(have));
        Payload::Region { region: content.region(0..announced.unwrap_or(u64::MAX)), size_bytes: announced }
    }

    fn poll(body: &mut Body) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(noop_waker_ref()));
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    /// Copies what comes, as a connection does: who kept the blocks would wait for the second one forever.
    async fn drained(mut body: Body) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        bytes
    }

    #[tokio::test]
    async fn the_bytes_are_exact() {
        for size in [0, 1, 9, 10, 11, 1000] {
            for announced in [Some(size as u64), None] {
                let body = Body::build(payload(size, announced), blocks_of(10), None);
                assert_eq!(body.size_hint().exact(), announced);
                assert_eq!(drained(body).await, bytes_of(size), "{size} {announced:?}");
            }
        }
        let whole = Body::unrecorded(Payload::Bytes(bytes_of(5)));
        assert_eq!(whole.size_hint().exact(), Some(5));
        assert_eq!(drained(whole).await, bytes_of(5));
        assert!(Body::unrecorded(Payload::Empty).is_end_stream());
    }

    #[test]
    fn row_24_one_block_is_outstanding() {
        let mut body = Body::build(payload(100, Some(100)), blocks_of(10), None);
        let Poll::Ready(Some(Ok(first))) = poll(&mut body) else { panic!("a block is ready") };
        let part = first.slice(3..5);
        assert!(poll(&mut body).is_pending());
        drop(first);
        assert!(poll(&mut body).is_pending(), "a part of the block is still held");
        drop(part);
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(second))) if second == bytes_of(20)[10..]));
    }

    #[test]
    fn letting_go_of_a_block_wakes_the_body() {
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Count>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = count.clone().into();
        let cx = &mut Context::from_waker(&waker);
        let mut body = Body::build(payload(100, None), blocks_of(10), None);
        let first = Pin::new(&mut body).poll_frame(cx);
        assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        drop(first);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn content_of_another_length_than_announced_is_an_error() {
        let mut short = Body::build(payload(5, Some(10)), blocks_of(10), None);
        assert!(matches!(poll(&mut short), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(poll(&mut short), Poll::Ready(Some(Err(BodyError::Length)))));
        let region = Content::from_memory(bytes_of(20)).region(0..20);
        let mut long = Body::build(Payload::Region { region, size_bytes: Some(10) }, blocks_of(20), None);
        assert!(matches!(poll(&mut long), Poll::Ready(Some(Err(BodyError::Length)))));
        assert!(matches!(poll(&mut long), Poll::Ready(None)));
    }

    /// Serves one body through hyper on a real socket and returns all that the client received.
    async fn through_hyper(have: usize, announced: Option<u64>) -> Vec<u8> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |_| async move {
                let body = Body::build(payload(have, announced), Way::plain(), None);
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(socket), service).await
        });
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        let _ = server.await.unwrap();
        received
    }

    fn has(received: &[u8], wanted: &[u8]) -> bool {
        received.windows(wanted.len()).any(|window| window == wanted)
    }

    #[tokio::test]
    async fn large_bodies_pass_through_hyper_whole() {
        let received = through_hyper(1_000_000, Some(1_000_000)).await;
        assert!(has(&received, b"content-length: 1000000\r\n"));
        assert_eq!(&received[received.len() - 1_000_000..], &bytes_of(1_000_000)[..]);
        assert!(through_hyper(1_000_000, None).await.ends_with(b"\r\n0\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_cut() {
        let received = through_hyper(40_000, Some(50_000)).await;
        assert!(has(&received, b"content-length: 50000\r\n"));
        let head = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(received.len() - head < 50_000);
    }
}
