//! The body of a request to an upstream: a few bytes, or content that streams from elsewhere and is opened anew for each try.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// What is handed to a connection at a time: little enough that on a slow line, too, something is taken within any patience.
const PIECE_BYTES: usize = 64 * 1024;

/// Content from its beginning, piece by piece; an error says in words why there is no more.
pub type ContentStream = BoxStream<'static, Result<Bytes, String>>;

/// Content that can be sent more than once.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pub size_bytes: u64,
    /// Opens it from its beginning.
    pub open: &'a (dyn Fn() -> ContentStream + Send + Sync),
}

/// A body on its way.
pub(super) struct Sending {
    source: Source,
    fate: Fate,
}

enum Source {
    Bytes(Bytes),
    Stream {
        pieces: ContentStream,
        /// What came of a piece and was not handed on yet.
        piece: Bytes,
        left_bytes: u64,
    },
}

/// What becomes of a body, for who waits for the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    taken_at: Option<Instant>,
    failed: Option<String>,
}

impl Fate {
    /// Returns when nothing of the body was taken for `patience`, from now on: only then is an answer late.
    pub(super) async fn untouched_for(&self, patience: Duration) {
        let mut until = Instant::now() + patience;
        loop {
            sleep_until(until).await;
            let taken_at = self.lock().taken_at;
            match taken_at.map(|last| last + patience).filter(|later| *later > until) {
                Some(later) => until = later,
                None => return,
            }
        }
    }

    /// Why the content ended before its end: nothing that the upstream did.
    pub(super) fn failed(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content could not be read. Ends the connection, so that nothing incomplete looks complete.
#[derive(Debug, thiserror::Error)]
#[error("the content could not be read")]
pub(super) struct Unreadable;

impl Sending {
    pub(super) fn bytes(bytes: Bytes) -> Sending {
        Sending { source: Source::Bytes(bytes), fate: Fate::default() }
    }

    pub(super) fn content(content: &Outgoing<'_>) -> Sending {
        if content.size_bytes == 0 {
            return Sending::bytes(Bytes::new());
        }
        let source = Source::Stream { pieces: (content.open)(), piece: Bytes::new(), left_bytes: content.size_bytes };
        Sending { source, fate: Fate::default() }
    }

    pub(super) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    fn fail(&mut self, why: String) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        self.fate.lock().failed = Some(why);
        self.source = Source::Bytes(Bytes::new());
        Poll::Ready(Some(Err(Unreadable)))
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Unreadable;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        let (pieces, piece, left_bytes) = match &mut self.source {
            Source::Bytes(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Source::Bytes(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Stream { pieces, piece, left_bytes } => (pieces, piece, left_bytes),
        };
        if *left_bytes == 0 {
            return Poll::Ready(None);
        }
        while piece.is_empty() {
            *piece = match ready!(pieces.poll_next_unpin(context)) {
                Some(Ok(bytes)) if bytes.len() as u64 <= *left_bytes => bytes,
                Some(Ok(_)) => return self.fail("the content is longer than it should be".to_owned()),
                Some(Err(why)) => return self.fail(why),
                None => return self.fail("the content is shorter than it should be".to_owned()),
            };
        }
        let next = piece.split_to(piece.len().min(PIECE_BYTES));
        *left_bytes -= next.len() as u64;
        self.fate.lock().taken_at = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Stream { left_bytes, .. } => *left_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;

    async fn sent(size_bytes: u64, pieces: &'static [Result<&'static str, &'static str>]) -> (Vec<usize>, Option<String>) {
        let open = move || -> ContentStream {
            let pieces = pieces.iter().map(|piece| piece.map(Bytes::from).map_err(str::to_owned));
            Box::pin(stream::iter(pieces))
        };
        let mut body = Sending::content(&Outgoing { size_bytes, open: &open });
        let (fate, mut frames) = (body.fate(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            frames.push(frame.data_ref().unwrap().len());
        }
        assert!(body.is_end_stream());
        (frames, fate.failed())
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_says_or_fails() {
        let long: &'static str = "x".repeat(150_000).leak();
        assert_eq!(sent(0, &[]).await, (vec![], None));
        assert_eq!(sent(5, &[Ok("ab"), Ok(""), Ok("cde")]).await, (vec![2, 3], None));
        assert_eq!(sent(150_000, vec![Ok(long)].leak()).await, (vec![65_536, 65_536, 18_928], None));
        for (pieces, why) in [
            (&[Ok("ab")] as &'static [_], "shorter"),
            (&[Ok("ab"), Ok("cdef")], "longer"),
            (&[Ok("ab"), Err("the bucket is away")], "bucket"),
        ] {
            let (frames, failed) = sent(5, pieces).await;
            assert_eq!(frames, [2]);
            assert!(failed.is_some_and(|failed| failed.contains(why)), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_late_only_after_the_last_piece() {
        let (fate, patience) = (Fate::default(), Duration::from_secs(10));
        let began = Instant::now();
        fate.untouched_for(patience).await;
        assert_eq!(began.elapsed(), patience);

        let taking = fate.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                sleep(Duration::from_secs(8)).await;
                taking.lock().taken_at = Some(Instant::now());
            }
        });
        let began = Instant::now();
        fate.untouched_for(patience).await;
        assert_eq!(began.elapsed(), Duration::from_secs(50));
    }
}
