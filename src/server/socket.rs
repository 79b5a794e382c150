//! The socket itself, below TLS: sees whether bytes really leave, and sends parts of files without copying them (`sendfile(2)`).
//!
//! A plain connection's `poll_write_vectored` gets the slices of the answer's body exactly as the body handed them out, because nothing
//! between hyper and this type copies or splits them; the outbox tells which of them stand in for a part of a file.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::turn::Turn;
use super::vitals::Vitals;
use crate::http::outbox::{Next, Outbox, Then};
use crate::store::FilePart;

/// A client's socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    turn: Turn,
    /// Set once the protocol is known; during a TLS handshake another timer watches.
    vitals: Arc<OnceLock<Arc<Vitals>>>,
    outbox: Option<Outbox>,
}

impl Socket {
    /// The second value is where the connection's vitals are to be put.
    pub fn new(stream: TcpStream, turn: Turn, outbox: Option<Outbox>) -> (Socket, Arc<OnceLock<Arc<Vitals>>>) {
        let vitals = Arc::new(OnceLock::new());
        (Socket { stream, turn, vitals: Arc::clone(&vitals), outbox }, vitals)
    }

    /// Sends within this connection's turn.
    fn poll_in_turn(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.turn.is_over() {
            self.turn.pass();
            // A task that is woken while it runs goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let sent = self.poll_send(cx, bufs);
        match &sent {
            Poll::Ready(Ok(count)) => self.turn.sent(*count),
            Poll::Pending => self.turn.end(),
            Poll::Ready(Err(_)) => {}
        }
        self.note(&sent);
        sent
    }

    /// Writes bytes, or a part of a file where its stand-in comes first.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let filled = bufs.iter().position(|buf| !buf.is_empty()).map_or(bufs, |first| &bufs[first..]);
        match self.outbox.as_ref().map(|outbox| outbox.next(filled.iter().map(|buf| &**buf))) {
            None | Some(Next::Bytes { then_a_part: Then::Nothing, .. }) => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
            Some(Next::Bytes { slices, then_a_part: Then::Part }) => self.poll_write_before_a_part(cx, &filled[..slices]),
            Some(Next::Part(part, most)) => self.poll_send_file(cx, &part, most),
            Some(Next::Lost) => Poll::Ready(Err(io::Error::other("a part of a file has lost its place among the bytes"))),
        }
    }

    /// The head of an answer shares a packet with its body (`MSG_MORE`).
    fn poll_write_before_a_part(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let send = || {
            let mut no_control = rustix::net::SendAncillaryBuffer::default();
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(&self.stream, bufs, &mut no_control, flags)?)
        };
        self.poll_io(cx, send)
    }

    fn poll_send_file(&self, cx: &mut Context<'_>, part: &FilePart, most: usize) -> Poll<io::Result<usize>> {
        let count = most.min(self.turn.bytes()).min(usize::try_from(part.range.end - part.range.start).unwrap_or(most));
        let send = || {
            let mut offset = part.range.start;
            match rustix::fs::sendfile(&self.stream, &*part.file, Some(&mut offset), count)? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
                sent => Ok(sent),
            }
        };
        let sent = ready!(self.poll_io(cx, send))?;
        if let Some(outbox) = &self.outbox {
            outbox.sent(sent as u64);
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_io<T>(&self, cx: &mut Context<'_>, mut work: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, &mut work) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn note<T>(&self, written: &Poll<io::Result<T>>) {
        if let Some(vitals) = self.vitals.get() {
            match written {
                Poll::Pending => vitals.write_blocked(Instant::now()),
                Poll::Ready(_) => vitals.write_moved(Instant::now()),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            self.turn.end();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_in_turn(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_in_turn(cx, bufs)
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::http::outbox::StandIn;
    use crate::server::turn::Turns;

    async fn connected() -> (Socket, Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let outbox = Outbox::new(&StandIn::default());
        (Socket::new(listener.accept().await.unwrap().0, Turns::new(1, true).turn(), Some(outbox.clone())).0, outbox, client)
    }

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    /// More than a socket takes at once, so that parts go out in pieces.
    const LARGE_BYTES: usize = 1 << 20;

    #[tokio::test]
    async fn parts_of_files_go_out_in_the_place_of_what_stands_in_for_them() {
        let (mut socket, outbox, mut client) = connected().await;
        let whole: Vec<u8> = (0..LARGE_BYTES + 1_000).map(|at| (at / 7) as u8).collect();
        let file = file_of(&whole);
        let received = tokio::spawn(async move {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.map(|_| received)
        });
        for round in 0..3_u64 {
            let stand_in = outbox.put(FilePart { file: file.clone(), range: round..round + LARGE_BYTES as u64 }).unwrap();
            let mut slices = [IoSlice::new(b"head"), IoSlice::new(&[]), IoSlice::new(&stand_in), IoSlice::new(b"tail")];
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let written = socket.write_vectored(rest).await.unwrap();
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        drop(socket);
        let mut expected = Vec::new();
        for round in 0..3 {
            expected.extend_from_slice(b"head");
            expected.extend_from_slice(&whole[round..round + LARGE_BYTES]);
            expected.extend_from_slice(b"tail");
        }
        assert!(received.await.unwrap().unwrap() == expected);
    }

    /// A reader that takes everything at once lets others go first now and then.
    #[tokio::test]
    async fn nobody_sends_for_longer_than_a_turn() {
        let (mut socket, outbox, client) = connected().await;
        let reading = tokio::task::spawn_blocking(move || {
            let mut stream = client.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            io::copy(&mut stream, &mut io::sink()).unwrap()
        });
        socket.turn = Turns::new(1, false).turn();
        let turn_bytes = socket.turn.bytes();
        let file = file_of(&vec![1; LARGE_BYTES]);
        for _ in 0..8 {
            let stand_in = outbox.put(FilePart { file: file.clone(), range: 0..LARGE_BYTES as u64 }).unwrap();
            let mut rest = &stand_in[..];
            while !rest.is_empty() {
                let sent = std::future::poll_fn(|cx| {
                    let mut sent = 0;
                    while let Poll::Ready(count) = Pin::new(&mut socket).poll_write(cx, &rest[sent..]) {
                        sent += count.unwrap();
                        if sent == rest.len() {
                            break;
                        }
                    }
                    if sent == 0 { Poll::Pending } else { Poll::Ready(sent) }
                });
                let sent = sent.await;
                assert!(sent <= turn_bytes, "{sent} bytes in a turn of {turn_bytes}");
                rest = &rest[sent..];
            }
        }
        drop(socket);
        assert_eq!(reading.await.unwrap(), 8 * LARGE_BYTES as u64);
    }

    /// A client of many small answers never waits for another's turn, however much they are together.
    #[tokio::test]
    async fn small_answers_do_not_add_up() {
        const ANSWER_BYTES: usize = 40 << 10;
        let (mut socket, _, mut client) = connected().await;
        let mut answer = vec![1; ANSWER_BYTES];
        for _ in 0..4 * LARGE_BYTES / ANSWER_BYTES {
            let nothing =
                std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending()));
            assert!(nothing.await, "the client has asked for no more");
            let sent = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_write(cx, &answer)));
            assert!(matches!(sent.await, Poll::Ready(Ok(ANSWER_BYTES))));
            client.read_exact(&mut answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_stands_in_never_leaves() {
        let (mut socket, outbox, mut client) = connected().await;
        let copied = outbox.put(FilePart { file: file_of(&[1; 100]), range: 0..100 }).unwrap().to_vec();
        assert!(socket.write_all(&copied).await.is_err());
        assert!(socket.write_all(b"anything").await.is_err());
        drop(socket);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert!(received.is_empty());
    }

    #[tokio::test]
    async fn a_file_that_was_cut_breaks_the_connection() {
        let (mut socket, outbox, _client) = connected().await;
        let file = file_of(&[1; 100]);
        let stand_in = outbox.put(FilePart { file: file.clone(), range: 0..100 }).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(socket.write_all(&stand_in).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
