//! A server to which edges send something, by hand: it reads whole requests, and hangs, refuses or takes them as a test wants.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{Head, read_head};

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Inbox {
    pub address: SocketAddr,
    state: Arc<State>,
}

/// Gets a request's head, its body, and the status that it will be answered.
type Take = dyn Fn(&Head, &[u8], Option<u16>) + Send + Sync;

struct State {
    /// The statuses of the next answers; then 200.
    next: Mutex<VecDeque<u16>>,
    is_hanging: AtomicBool,
    take: Box<Take>,
}

impl Inbox {
    /// `take` gets every request, with the status that it will be answered; `None` while it hangs. Where `take` panics, the connection
    /// ends without an answer.
    pub async fn open(address: SocketAddr, take: impl Fn(&Head, &[u8], Option<u16>) + Send + Sync + 'static) -> Inbox {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let state = State { next: Mutex::default(), is_hanging: AtomicBool::default(), take: Box::new(take) };
        let inbox = Inbox { address: listener.local_addr().expect("it is bound"), state: Arc::new(state) };
        let serving = inbox.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                // Whoever hangs up has its own reasons.
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        inbox
    }

    /// The next requests are answered so; those after them with 200.
    pub fn answer(&self, statuses: &[u16]) {
        *self.state.next.lock().expect("no panic meanwhile") = statuses.iter().copied().collect();
    }

    /// Whether requests are read and never answered. Those that hang already go on hanging until their client gives up.
    pub fn set_hanging(&self, is_hanging: bool) {
        self.state.is_hanging.store(is_hanging, Ordering::SeqCst);
    }

    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufStream::new(stream);
        while let Some(head) = read_head(&mut stream).await? {
            let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let is_hanging = self.state.is_hanging.load(Ordering::SeqCst);
            let status = self.state.next.lock().expect("no panic meanwhile").pop_front().unwrap_or(200);
            let status = (!is_hanging).then_some(status);
            (self.state.take)(&head, &body, status);
            let Some(status) = status else { std::future::pending().await };
            stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}
