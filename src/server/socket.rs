//! The socket itself, below TLS: sees whether bytes really leave.
//!
//! This is also the place for sending a cached file without copying it: a plain connection's `poll_write_vectored` gets the slices of
//! the answer's body exactly as the body handed them out, because nothing between hyper and this type copies or splits them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::vitals::Vitals;

/// A client's socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Set once the protocol is known; during a TLS handshake another timer watches.
    vitals: Arc<OnceLock<Arc<Vitals>>>,
}

impl Socket {
    /// The second value is where the connection's vitals are to be put.
    pub fn new(stream: TcpStream) -> (Socket, Arc<OnceLock<Arc<Vitals>>>) {
        let vitals = Arc::new(OnceLock::new());
        (Socket { stream, vitals: Arc::clone(&vitals) }, vitals)
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Some(vitals) = self.vitals.get() {
            match &written {
                Poll::Pending => vitals.write_blocked(Instant::now()),
                Poll::Ready(_) => vitals.write_moved(Instant::now()),
            }
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
