//! A client's body on its way to a sibling, one block at a time and only as the sibling takes them.
//!
//! The connection's task takes blocks from an [`Outflow`]; for each it asks the [`Feed`], which runs in the request's own task and alone
//! touches the client's body. So nothing is read from the client before there is a connection, a slow sibling slows the client, and
//! how the client's body ended is known here and not guessed from a broken connection. A body that did not come to its clean end
//! is cut, never ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PassError;
use crate::inflow::{Inflow, MAX_SILENCE};

/// How long a sibling may take no bytes while there are some for it. As long as it would itself wait for them.
const MAX_STALL: Duration = MAX_SILENCE;

/// The sending half: the body of a request.
pub(super) struct Outflow {
    wanted: mpsc::Sender<()>,
    blocks: mpsc::Receiver<Block>,
    size_bytes: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// A block was asked for and is not here yet.
    Waiting,
    Ended,
}

enum Block {
    Bytes(Bytes),
    /// The clean end. Without it the body is cut.
    End,
}

/// The client's body, or this edge's interest in it, ended early.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut")]
pub(super) struct Cut;

/// The reading half.
pub(super) struct Feed<'a> {
    inflow: &'a mut Inflow,
    wanted: mpsc::Receiver<()>,
    blocks: mpsc::Sender<Block>,
}

/// Of a body of which nothing was taken yet.
pub(super) fn outflow(inflow: &mut Inflow) -> (Outflow, Feed<'_>) {
    let (wanted, wants) = mpsc::channel(1);
    let (sender, blocks) = mpsc::channel(1);
    let size_bytes = inflow.declared_bytes();
    (Outflow { wanted, blocks, size_bytes, state: State::Idle }, Feed { inflow, wanted: wants, blocks: sender })
}

impl Body for Outflow {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.state {
            State::Ended => return Poll::Ready(None),
            State::Waiting => {}
            // Only a feed that is gone refuses: each want is answered before the next.
            State::Idle => match self.wanted.try_send(()) {
                Ok(()) => self.state = State::Waiting,
                Err(_) => return Poll::Ready(Some(Err(Cut))),
            },
        }
        match ready!(self.blocks.poll_recv(cx)) {
            Some(Block::Bytes(bytes)) => {
                self.state = State::Idle;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Block::End) => {
                self.state = State::Ended;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(Cut))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended || self.size_bytes == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.size_bytes.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Feed<'_> {
    /// Hands blocks over as they are asked for, until the body ends or nobody asks any more: the answer then says how it went.
    ///
    /// # Errors
    /// [`PassError::Inflow`] when the client's body ends badly; [`PassError::Broken`] when the sibling takes nothing.
    pub(super) async fn run(mut self) -> Result<(), PassError> {
        loop {
            match timeout(MAX_STALL, self.wanted.recv()).await {
                Ok(Some(())) => {}
                Ok(None) => return Ok(()),
                Err(_) => return Err(PassError::Broken(format!("it took no bytes for {MAX_STALL:?}"))),
            }
            let block = match self.inflow.next().await.map_err(PassError::Inflow)? {
                Some(bytes) => self.blocks.send(Block::Bytes(bytes)).await,
                None => {
                    // Gone or told: nothing is left to do either way.
                    let _ = self.blocks.send(Block::End).await;
                    return Ok(());
                }
            };
            if block.is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflow::InflowError;
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use std::io;
    use tokio::time::Instant;

    type Piece = Result<Frame<Bytes>, io::Error>;

    fn pieces(list: Vec<Piece>) -> Inflow {
        Inflow::new(StreamBody::new(stream::iter(list)), u64::MAX)
    }

    fn piece(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn blocks_pass_and_the_end_is_told() {
        for (mut inflow, size_bytes) in [(pieces(vec![piece("ab"), piece("c")]), None), (Inflow::whole("abc"), Some(3))] {
            let (outflow, feed) = outflow(&mut inflow);
            assert_eq!((outflow.size_hint().exact(), outflow.is_end_stream()), (size_bytes, false));
            let (fed, collected) = tokio::join!(feed.run(), outflow.collect());
            assert_eq!((fed, collected.unwrap().to_bytes()), (Ok(()), Bytes::from("abc")));
            assert!(inflow.is_drained());
        }
        let mut empty = Inflow::whole("");
        assert!(outflow(&mut empty).0.is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_ends_badly_is_cut() {
        let mut inflow = pieces(vec![piece("ab"), Err(io::ErrorKind::UnexpectedEof.into())]);
        let (mut outflow, feed) = outflow(&mut inflow);
        let taken = async {
            let first = outflow.frame().await.unwrap().unwrap().into_data().unwrap();
            (first, outflow.frame().await.map(|frame| frame.is_err()))
        };
        let (fed, taken) = tokio::join!(feed.run(), taken);
        assert_eq!((fed, taken), (Err(PassError::Inflow(InflowError::Left)), (Bytes::from("ab"), Some(true))));
    }

    #[tokio::test]
    async fn without_its_feed_a_body_is_cut() {
        let mut inflow = Inflow::whole("abc");
        let (mut outflow, feed) = outflow(&mut inflow);
        drop(feed);
        assert!(outflow.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn without_its_body_a_feed_ends() {
        let mut inflow = Inflow::whole("abc");
        let (outflow, feed) = outflow(&mut inflow);
        drop(outflow);
        assert_eq!(feed.run().await, Ok(()));
        assert_eq!(inflow.received_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let began = Instant::now();
        let mut inflow = pieces(Vec::new());
        let (_outflow, feed) = outflow(&mut inflow);
        assert!(matches!(feed.run().await, Err(PassError::Broken(_))));
        assert_eq!(began.elapsed(), MAX_STALL);
    }

    /// Both halves in one task, as a connection and a request on one thread have it.
    #[tokio::test]
    async fn nothing_is_read_ahead() {
        let endless = stream::repeat_with(|| piece("ab")).chain(stream::pending());
        let mut inflow = Inflow::new(StreamBody::new(endless), u64::MAX);
        let (mut outflow, feed) = outflow(&mut inflow);
        let taken = async {
            for _ in 0..3 {
                assert!(outflow.frame().await.unwrap().is_ok());
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = feed.run() => unreachable!("it is endless"),
            () = taken => {}
        }
        assert_eq!(inflow.received_bytes(), 6);
    }
}
