//! Answers that are given before hyper has read the request: which heads are asked about, and how the answer leaves.
//!
//! hyper must neither be in the middle of a request nor have bytes of an answer that are not written yet, or the two would run into each
//! other. The first is told by the vitals: a request is in service from the moment hyper has read its head until hyper has taken the last
//! of its answer. The second is told by hyper's own calls: what it takes it writes in the same turn of its loop, before it reads again, and
//! when its buffer is empty it asks for a flush.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::Prompter;
use super::vitals::Vitals;
use crate::http::{Connection, Prompt};

/// What answers the heads of one connection.
pub struct Prompting {
    prompter: Prompter,
    connection: Arc<Connection>,
    /// What hyper has begun to write is not all written.
    is_hyper_writing: bool,
    answer: Option<Prompt>,
}

impl std::fmt::Debug for Prompting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompting").field("is_hyper_writing", &self.is_hyper_writing).finish_non_exhaustive()
    }
}

impl Prompting {
    pub fn new(prompter: Prompter, connection: Arc<Connection>) -> Prompting {
        Prompting { prompter, connection, is_hyper_writing: false, answer: None }
    }

    pub fn hyper_writes(&mut self) {
        self.is_hyper_writing = true;
    }

    pub fn hyper_has_written(&mut self) {
        self.is_hyper_writing = false;
    }

    /// Whether what has just arrived, where a head may begin, is answered here. Then it is in service until the answer is sent.
    pub fn answers(&mut self, fresh: &[u8], vitals: &Vitals) -> bool {
        if self.is_hyper_writing || !vitals.is_between_requests() {
            return false;
        }
        self.answer = (self.prompter.0)(fresh, &self.connection);
        if self.answer.is_some() {
            vitals.head_complete(true);
            vitals.request_begins(Instant::now());
        }
        self.answer.is_some()
    }

    /// Sends the answer, if there is one.
    pub fn poll_send<T: AsyncWrite + Unpin>(&mut self, io: &mut T, vitals: &Vitals, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        while !answer.is_sent() {
            let [head, body] = answer.rest();
            match ready!(Pin::new(&mut *io).poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => answer.advance(count),
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.answer = None;
        vitals.request_ends(Instant::now());
        Poll::Ready(Ok(()))
    }
}
