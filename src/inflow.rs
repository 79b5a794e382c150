//! The body of a request on its way in: blocks of bounded size, taken one at a time, so that who takes them slowly slows the client.
//!
//! The least rate of a body is the server room's business, which cuts the connection. Then the task that reads here is dropped in
//! the midst of [`Inflow::next`] (HTTP/1), or gets [`InflowError::Left`] (HTTP/2): whoever writes bytes away must be whole at either
//! moment. Silence is this room's business: a rate that was kept for an hour buys no hour of waiting.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The largest block that is handed out.
pub const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// How long the client may send nothing while it is waited for.
pub const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Bytes that a client sends. Nothing is read before the first call of [`next`](Inflow::next), so `Expect: 100-continue` is answered
/// then and not earlier.
pub struct Inflow {
    body: UnsyncBoxBody<Bytes, Cause>,
    /// Came in one piece with what was handed out last.
    rest: Bytes,
    received_bytes: u64,
    most_bytes: u64,
    declared_bytes: Option<u64>,
    silence: Duration,
    /// How it ended; then nothing more is read.
    ended: Option<Result<(), InflowError>>,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflowError {
    /// The connection is gone, or its framing is broken. Nobody may be there to be answered.
    #[error("the client left before the body's end")]
    Left,
    #[error("the client sent nothing for too long")]
    Slow,
    #[error("the body is larger than {most_bytes} bytes")]
    TooLong { most_bytes: u64 },
}

impl Inflow {
    /// A body of which at most `most_bytes` are taken.
    pub fn new<B>(body: B, most_bytes: u64) -> Inflow
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        // The length that hyper knows is that of a Content-Length, which it holds the body to.
        let (declared_bytes, ended) = (body.size_hint().exact(), body.is_end_stream().then_some(Ok(())));
        let body = body.map_err(Into::into).boxed_unsync();
        Inflow { body, rest: Bytes::new(), received_bytes: 0, most_bytes, declared_bytes, silence: MAX_SILENCE, ended }
    }

    /// A body that is here already, for tests and for what is made of memory.
    pub fn whole(bytes: impl Into<Bytes>) -> Inflow {
        Inflow::new(http_body_util::Full::new(bytes.into()), u64::MAX)
    }

    /// With another limit, for who knows it only now.
    pub fn limited(self, most_bytes: u64) -> Inflow {
        Inflow { most_bytes: self.most_bytes.min(most_bytes), ..self }
    }

    /// From now on at most so many bytes more are taken.
    pub fn limit(&mut self, more_bytes: u64) {
        self.most_bytes = self.most_bytes.min(self.received_bytes.saturating_sub(self.rest.len() as u64).saturating_add(more_bytes));
    }

    /// With another patience than [`MAX_SILENCE`].
    pub fn with_patience(self, silence: Duration) -> Inflow {
        Inflow { silence, ..self }
    }

    /// What the head announced.
    pub fn declared_bytes(&self) -> Option<u64> {
        self.declared_bytes
    }

    /// Refuses a body that is announced as too long, before a byte of it is read.
    pub fn check_declared(&self) -> Result<(), InflowError> {
        match self.declared_bytes {
            Some(declared) if declared > self.most_bytes => Err(InflowError::TooLong { most_bytes: self.most_bytes }),
            _ => Ok(()),
        }
    }

    /// Bytes that came so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Whether the body came to its clean end. If not, the connection cannot be used again.
    pub fn is_drained(&self) -> bool {
        self.ended == Some(Ok(())) && self.rest.is_empty()
    }

    /// The next block, not empty and of at most [`MAX_BLOCK_BYTES`]; `None` at the body's clean end. An error is final. Nothing is
    /// lost when the call is given up and repeated.
    pub async fn next(&mut self) -> Result<Option<Bytes>, InflowError> {
        while self.rest.is_empty() {
            if let Some(ended) = self.ended {
                return ended.map(|()| None);
            }
            if let Err(error) = self.fill().await {
                self.ended = Some(Err(error));
            }
        }
        let block = self.rest.split_to(self.rest.len().min(MAX_BLOCK_BYTES));
        Ok(Some(block))
    }

    /// Waits for a piece or the end.
    async fn fill(&mut self) -> Result<(), InflowError> {
        self.check_declared()?;
        let frame = tokio::time::timeout(self.silence, self.body.frame()).await.map_err(|_| InflowError::Slow)?;
        let Some(frame) = frame else {
            self.ended = Some(Ok(()));
            return Ok(());
        };
        // Trailers say nothing to a registry.
        let Ok(piece) = frame.map_err(|_| InflowError::Left)?.into_data() else { return Ok(()) };
        let received_bytes = self.received_bytes.saturating_add(piece.len() as u64);
        if received_bytes > self.most_bytes {
            return Err(InflowError::TooLong { most_bytes: self.most_bytes });
        }
        self.received_bytes = received_bytes;
        self.rest = piece;
        Ok(())
    }

    /// The whole of a small body.
    pub async fn collect(mut self) -> Result<Bytes, InflowError> {
        let mut pieces = bytes::BytesMut::new();
        while let Some(block) = self.next().await? {
            pieces.extend_from_slice(&block);
        }
        Ok(pieces.freeze())
    }
}

impl fmt::Debug for Inflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflow").field("received_bytes", &self.received_bytes).field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::io;

    type Piece = Result<Frame<Bytes>, io::Error>;

    fn piece(size: usize) -> Piece {
        Ok(Frame::data(Bytes::from(vec![b'x'; size])))
    }

    fn inflow(pieces: Vec<Piece>, most_bytes: u64) -> Inflow {
        Inflow::new(StreamBody::new(stream::iter(pieces)), most_bytes)
    }

    /// The sizes of all blocks, and how it ended.
    async fn taken(mut inflow: Inflow) -> (Vec<usize>, Result<(), InflowError>) {
        let mut sizes = Vec::new();
        let end = loop {
            match inflow.next().await {
                Ok(Some(block)) => sizes.push(block.len()),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(inflow.next().await, end.map(|()| None), "an end is final");
        assert_eq!(inflow.is_drained(), end.is_ok());
        (sizes, end)
    }

    #[tokio::test]
    async fn blocks_are_bounded_and_never_empty() {
        let trailers = Ok(Frame::trailers(http::HeaderMap::new()));
        for (pieces, sizes) in [
            (vec![], vec![]),
            (vec![piece(3), piece(0), piece(4), trailers], vec![3, 4]),
            (vec![piece(MAX_BLOCK_BYTES), piece(MAX_BLOCK_BYTES * 2 + 1)], vec![MAX_BLOCK_BYTES, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES, 1]),
        ] {
            assert_eq!(taken(inflow(pieces, u64::MAX)).await, (sizes, Ok(())));
        }
        assert_eq!(Inflow::whole("bytes").collect().await.unwrap(), "bytes");
        assert!(Inflow::whole("").is_drained());
    }

    #[tokio::test]
    async fn row_45_what_is_too_long_is_refused_declared_or_not() {
        let too_long = Err(InflowError::TooLong { most_bytes: 10 });
        assert_eq!(taken(inflow(vec![piece(10)], 10)).await, (vec![10], Ok(())));
        assert_eq!(taken(inflow(vec![piece(6), piece(5)], 10)).await, (vec![6], too_long));
        let declared = Inflow::whole(vec![0; 11]).limited(10);
        assert_eq!(declared.declared_bytes(), Some(11));
        assert_eq!(declared.check_declared(), too_long);
        assert_eq!(taken(declared).await, (vec![], Err(InflowError::TooLong { most_bytes: 10 })));
    }

    #[tokio::test]
    async fn row_47_a_client_that_leaves_is_told_from_the_end() {
        let broken = vec![piece(5), Err(io::ErrorKind::UnexpectedEof.into()), piece(5)];
        assert_eq!(taken(inflow(broken, u64::MAX)).await, (vec![5], Err(InflowError::Left)));
    }

    #[tokio::test(start_paused = true)]
    async fn row_23_silence_ends_a_body() {
        let pieces = stream::iter([piece(5)]).chain(stream::pending());
        let silent = Inflow::new(StreamBody::new(pieces), u64::MAX).with_patience(Duration::from_secs(3));
        let started = tokio::time::Instant::now();
        assert_eq!(taken(silent).await, (vec![5], Err(InflowError::Slow)));
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_loses_nothing() {
        let late = stream::once(async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            piece(MAX_BLOCK_BYTES + 1)
        });
        let mut inflow = Inflow::new(StreamBody::new(Box::pin(late)), u64::MAX);
        for _ in 0..5 {
            assert!(tokio::time::timeout(Duration::from_secs(1), inflow.next()).await.is_err());
        }
        assert_eq!(inflow.next().await.unwrap().unwrap().len(), MAX_BLOCK_BYTES);
        assert_eq!(inflow.next().await.unwrap().unwrap().len(), 1);
        assert_eq!(inflow.next().await, Ok(None));
    }
}
