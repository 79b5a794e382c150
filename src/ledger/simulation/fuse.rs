//! A node's life in a simulation: all its tasks are polled through its fuse, so that it can end or stand still between any two awaits.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

#[derive(Clone, Debug, Default)]
pub(in crate::ledger) struct Fuse(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// How often its tasks are polled before it ends.
    left: Option<u32>,
    is_blown: bool,
    is_frozen: bool,
    wakers: Vec<Waker>,
}

pub(in crate::ledger) struct Guarded<F> {
    fuse: Fuse,
    task: Pin<Box<F>>,
}

impl Fuse {
    pub fn guard<F: Future<Output = ()>>(&self, task: F) -> Guarded<F> {
        Guarded { fuse: self.clone(), task: Box::pin(task) }
    }

    /// After so many polls the node does nothing any more.
    pub fn light(&self, polls: u32) {
        self.0.lock().unwrap().left = Some(polls);
    }

    pub fn blow(&self) {
        self.0.lock().unwrap().is_blown = true;
    }

    pub fn is_blown(&self) -> bool {
        self.0.lock().unwrap().is_blown
    }

    pub fn freeze(&self) {
        self.0.lock().unwrap().is_frozen = true;
    }

    pub fn thaw(&self) {
        let mut state = self.0.lock().unwrap();
        state.is_frozen = false;
        state.wakers.drain(..).for_each(Waker::wake);
    }

    /// Whether a task may go on now.
    fn burns(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap();
        if state.is_frozen {
            state.wakers.push(context.waker().clone());
        }
        if state.is_frozen || state.is_blown {
            return false;
        }
        match state.left {
            Some(0) => state.is_blown = true,
            Some(left) => state.left = Some(left - 1),
            None => {}
        }
        !state.is_blown
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.fuse.burns(context) {
            return Poll::Pending;
        }
        self.task.as_mut().poll(context)
    }
}
