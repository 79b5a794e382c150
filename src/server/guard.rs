//! The connection as hyper sees it, above TLS: reads what the client sends before hyper does, and says goodbye so that the last answer
//! arrives. Writes pass through untouched.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::Frames;
use super::screen::{Screen, Standing};
use super::vitals::{Protocol, Vitals};

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
    Http1(Screen),
    Http2(Frames),
    /// A flood: what comes is dropped.
    Flooded,
}

#[derive(Debug, Clone, Copy)]
enum Farewell {
    Open,
    /// The write side is shut; so many bytes more are read and dropped.
    Lingering(usize),
}

impl<T> Guard<T> {
    pub fn new(io: T, vitals: Arc<Vitals>, protocol: Protocol) -> Guard<T> {
        let watch = match protocol {
            Protocol::Http1 => Watch::Http1(Screen::default()),
            Protocol::Http2 => Watch::Http2(Frames::new(Instant::now())),
        };
        Guard { io, vitals, watch, farewell: Farewell::Open }
    }

    /// A client that still sends would have its socket reset by our close, and lose the answer: then the rest is read first.
    fn must_linger(&self) -> bool {
        match &self.watch {
            Watch::Http1(screen) => screen.standing() != Standing::Head,
            Watch::Http2(_) | Watch::Flooded => true,
        }
    }

    fn sent(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Watch::Http2(frames), Poll::Ready(Ok(count))) = (&mut self.watch, &written) {
            frames.sent(*count as u64);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Guard { io, vitals, watch, .. } = &mut *self;
        match watch {
            Watch::Http1(screen) => poll_screened(io, vitals, screen, cx, buf),
            Watch::Http2(frames) => {
                let before = buf.filled().len();
                ready!(Pin::new(io).poll_read(cx, buf))?;
                let now = Instant::now();
                match frames.advance(buf.filled().get(before..).unwrap_or_default(), now) {
                    Ok(seen) => {
                        if frames.mid_head() {
                            vitals.head_partial(now);
                        } else {
                            vitals.head_complete(seen.head);
                        }
                        if seen.window_update {
                            vitals.window_opened(now);
                        }
                    }
                    Err(_) => {
                        vitals.flood();
                        *watch = Watch::Flooded;
                    }
                }
                Poll::Ready(Ok(()))
            }
            Watch::Flooded => drop_input(io, cx),
        }
    }
}

fn poll_screened<T: AsyncRead + Unpin>(
    io: &mut T,
    vitals: &Vitals,
    screen: &mut Screen,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let queued = screen.queued(buf.remaining());
        if !queued.is_empty() {
            buf.put_slice(queued);
            return Poll::Ready(Ok(()));
        }
        let before = screen.standing();
        match before {
            Standing::Head | Standing::Body => {}
            Standing::Refused => return drop_input(io, cx),
            Standing::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
        let filled = buf.filled().len();
        if Pin::new(&mut *io).poll_read(cx, buf)?.is_pending() {
            if before == Standing::Body {
                vitals.body_waits(Instant::now());
            }
            return Poll::Pending;
        }
        let fresh = buf.filled().get(filled..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let arrived = fresh.len();
        let heads = screen.heads();
        let passing = screen.arrive(fresh);
        buf.set_filled(filled + passing);
        note(vitals, screen, before, screen.heads() > heads, arrived);
        if passing > 0 {
            return Poll::Ready(Ok(()));
        }
    }
}

/// Writes down what a read brought.
fn note(vitals: &Vitals, screen: &Screen, before: Standing, greeted: bool, arrived: usize) {
    if let Some((number, refusal)) = screen.refusal() {
        vitals.refuse(number, refusal);
    }
    if before == Standing::Body {
        vitals.body_received(arrived, Instant::now());
    }
    if before == Standing::Body && (greeted || screen.standing() != Standing::Body) {
        vitals.body_ended();
    }
    if screen.holds_head() {
        vitals.head_partial(Instant::now());
    } else if before == Standing::Head {
        vitals.head_complete(greeted || screen.refusal().is_some());
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
        self.sent(written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
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
