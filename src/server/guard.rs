//! The connection as hyper sees it, above TLS: reads what the client sends before hyper does, and says goodbye so that the last answer
//! arrives. Writes pass through untouched.
//!
//! Between two requests of HTTP/1, while hyper waits for a head and has nothing to write, a head that came before may be answered here
//! ([`Prompting`]). hyper goes on waiting.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Flood, Frames};
use super::pace::{Bodies, Pace, Rate};
use super::prompt::Prompting;
use super::screen::{Screen, Standing};
use super::vitals::Vitals;
use super::walk::{self, FrameHead, Walk};
use crate::config::Limits;

/// Leave to send that a client gets for one request's body.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that are read and dropped after the write side was shut, at most.
const LINGER_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct Guard<T> {
    io: T,
    vitals: Arc<Vitals>,
    watch: Watch,
    farewell: Farewell,
}

#[derive(Debug)]
enum Watch {
    Http1(Http1),
    Http2(Http2),
    /// A flood: what comes is dropped.
    Flooded,
}

#[derive(Debug)]
struct Http1 {
    screen: Screen,
    /// Of the body that is arriving.
    pace: Pace,
    rate: Rate,
    prompting: Option<Prompting>,
}

#[derive(Debug)]
struct Http2 {
    client: Walk,
    server: Walk,
    frames: Frames,
    bodies: Bodies,
    last: Option<FrameHead>,
}

#[derive(Debug, Clone, Copy)]
enum Farewell {
    Open,
    /// The write side is shut; so many bytes more are read and dropped.
    Lingering(usize),
}

impl<T> Guard<T> {
    pub fn http1(io: T, vitals: Arc<Vitals>, prompting: Option<Prompting>, limits: &Limits) -> Guard<T> {
        let (screen, pace, rate) = (Screen::default(), Pace::default(), Rate::new(limits));
        Guard { io, vitals, watch: Watch::Http1(Http1 { screen, pace, rate, prompting }), farewell: Farewell::Open }
    }

    pub fn http2(io: T, vitals: Arc<Vitals>, limits: &Limits) -> Guard<T> {
        let http2 = Http2 {
            client: Walk::client(),
            server: Walk::server(),
            frames: Frames::new(Instant::now()),
            bodies: Bodies::new(limits, HTTP2_STREAM_WINDOW_BYTES),
            last: None,
        };
        Guard { io, vitals, watch: Watch::Http2(http2), farewell: Farewell::Open }
    }

    /// A client that still sends would have its socket reset by our close, and lose the answer: then the rest is read first.
    fn must_linger(&self) -> bool {
        match &self.watch {
            Watch::Http1(http1) => http1.screen.standing() != Standing::Head,
            Watch::Http2(_) | Watch::Flooded => true,
        }
    }

    /// Looks at what was written, as far as something depends on it.
    fn sent(&mut self, written: Poll<io::Result<usize>>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match (&mut self.watch, &written) {
            (Watch::Http1(Http1 { prompting: Some(prompting), .. }), _) => prompting.hyper_writes(),
            (Watch::Http2(http2), Poll::Ready(Ok(count))) => http2.sent(bufs, *count, &self.vitals),
            _ => {}
        }
        written
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Guard { io, vitals, watch, .. } = &mut *self;
        match watch {
            Watch::Http1(http1) => http1.poll_read(io, vitals, cx, buf),
            Watch::Http2(http2) => {
                let before = buf.filled().len();
                ready!(Pin::new(io).poll_read(cx, buf))?;
                if let Err(Flood) = http2.received(buf.filled().get(before..).unwrap_or_default(), vitals) {
                    vitals.flood();
                    *watch = Watch::Flooded;
                }
                Poll::Ready(Ok(()))
            }
            Watch::Flooded => drop_input(io, cx),
        }
    }
}

impl Http1 {
    fn poll_read<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        vitals: &Vitals,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(prompting) = &mut self.prompting {
                ready!(prompting.poll_send(io, vitals, cx))?;
            }
            let queued = self.screen.queued(buf.remaining());
            if !queued.is_empty() {
                buf.put_slice(queued);
                return Poll::Ready(Ok(()));
            }
            let before = self.screen.standing();
            match before {
                Standing::Head | Standing::Body => {}
                Standing::Refused => return drop_input(io, cx),
                Standing::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let filled = buf.filled().len();
            if Pin::new(&mut *io).poll_read(cx, buf)?.is_pending() {
                if before == Standing::Body {
                    self.pace.wait(Instant::now());
                    vitals.body_due(self.pace.deadline(self.rate));
                }
                return Poll::Pending;
            }
            let fresh = buf.filled().get(filled..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if before == Standing::Head
                && !self.screen.holds_head()
                && let Some(prompting) = &mut self.prompting
                && prompting.answers(fresh, vitals)
            {
                buf.set_filled(filled);
                continue;
            }
            let (arrived, heads) = (fresh.len(), self.screen.heads());
            let passing = self.screen.arrive(fresh);
            buf.set_filled(filled + passing);
            self.note(vitals, before, self.screen.heads() > heads, arrived);
            if passing > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes down what a read brought.
    fn note(&mut self, vitals: &Vitals, before: Standing, greeted: bool, arrived: usize) {
        if let Some((number, refusal)) = self.screen.refusal() {
            vitals.refuse(number, refusal);
        }
        if before == Standing::Body {
            self.pace.receive(arrived as u64);
            self.pace.rest(Instant::now());
            vitals.body_due(None);
        }
        if greeted || self.screen.standing() != Standing::Body {
            self.pace = Pace::default();
        }
        if self.screen.holds_head() {
            vitals.head_partial(Instant::now());
        } else if before == Standing::Head {
            vitals.head_complete(greeted || self.screen.refusal().is_some());
        }
    }
}

impl Http2 {
    fn received(&mut self, mut bytes: &[u8], vitals: &Vitals) -> Result<(), Flood> {
        let now = Instant::now();
        let mut greeted = false;
        while let Some(frame) = self.client.next(&mut bytes) {
            self.frames.received(&frame, now)?;
            self.bodies.received(&frame, now);
            if frame.kind == walk::WINDOW_UPDATE {
                vitals.window_opened(now);
            }
            greeted |= frame.ends_head();
            self.last = Some(frame);
        }
        if self.inside_head() {
            vitals.head_partial(now);
        } else {
            vitals.head_complete(greeted);
        }
        vitals.body_due(self.bodies.deadline());
        Ok(())
    }

    /// Whether the client stopped where a request's head, or a frame other than DATA, is not complete.
    fn inside_head(&self) -> bool {
        let inside = |last: FrameHead| last.begins_head() && !last.ends_head() || (last.kind != walk::DATA && self.client.inside_payload());
        self.client.inside_head() || self.last.is_some_and(inside)
    }

    /// The first `count` bytes of `bufs` were written.
    fn sent(&mut self, bufs: &[IoSlice<'_>], mut count: usize, vitals: &Vitals) {
        let now = Instant::now();
        self.frames.sent(count as u64);
        for buf in bufs {
            let (mut bytes, _) = buf.split_at(count.min(buf.len()));
            count -= bytes.len();
            while let Some(frame) = self.server.next(&mut bytes) {
                self.bodies.sent(&frame, now);
            }
        }
        vitals.body_due(self.bodies.deadline());
    }
}

/// Reads and drops until nothing is there. The end of the stream is not told: what is being answered goes out all the same.
fn drop_input<T: AsyncRead + Unpin, R>(io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
    let mut left = LINGER_BYTES;
    match ready!(poll_drop(io, cx, &mut left)) {
        Ok(()) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    }
}

/// Reads and drops up to `left` bytes; ready at the end of the stream or when they are used up.
fn poll_drop<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>, left: &mut usize) -> Poll<io::Result<()>> {
    let mut scratch = [0; 4096];
    while *left > 0 {
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buf))?;
        match buf.filled().len() {
            0 => break,
            dropped => *left = left.saturating_sub(dropped),
        }
    }
    Poll::Ready(Ok(()))
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.sent(written, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.sent(written, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if let Watch::Http1(Http1 { prompting: Some(prompting), .. }) = &mut self.watch {
            prompting.hyper_has_written();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Farewell::Open = self.farewell {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.must_linger() {
                return Poll::Ready(Ok(()));
            }
            self.farewell = Farewell::Lingering(LINGER_BYTES);
            self.vitals.linger(Instant::now());
        }
        let Guard { io, farewell: Farewell::Lingering(left), .. } = &mut *self else { return Poll::Ready(Ok(())) };
        // A client that is gone has said goodbye too.
        poll_drop(io, cx, left).map(|_| Ok(()))
    }
}
