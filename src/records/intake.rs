//! The way into a record: whoever has something to note leaves it in a bounded queue, and goes on.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Nature;
use super::entry::Note;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Recorded;

/// Entries that wait to be written, at most. What comes when there are so many is lost, and counted.
pub(super) const QUEUED: usize = 16 * 1024;

/// What goes to the writer.
pub(super) enum Message<N> {
    Noted(Box<Noted<N>>),
    /// To be answered when everything before is written.
    Flush(oneshot::Sender<()>),
    End,
}

/// What happened, and when.
pub(super) struct Noted<N> {
    pub(super) at: Timestamp,
    pub(super) event: N,
}

/// Entries that were lost and of which no entry tells yet.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Cloning is cheap; all clones are one. It may be there before anything writes what it is given, and after: that waits in it, as much as
/// has room.
pub struct Intake<N>(Arc<Inner<N>>);

struct Inner<N> {
    name: &'static str,
    queue: SyncSender<Message<N>>,
    /// The queue's other end, while nobody writes.
    messages: Mutex<Option<Receiver<Message<N>>>>,
    /// Whether the queue was full just now: said once.
    is_full: AtomicBool,
    tally: Arc<Tally>,
    clock: Clock,
    counted: Recorded,
}

impl<N: Note> Intake<N> {
    pub fn new(nature: &Nature, clock: Clock, counted: Recorded) -> Intake<N> {
        Intake::with_room(QUEUED, nature, clock, counted)
    }

    pub(super) fn with_room(room: usize, nature: &Nature, clock: Clock, counted: Recorded) -> Intake<N> {
        let (queue, messages) = sync_channel(room);
        let (messages, is_full) = (Mutex::new(Some(messages)), AtomicBool::new(false));
        Intake(Arc::new(Inner { name: nature.name, queue, messages, is_full, tally: Arc::default(), clock, counted }))
    }

    /// Leaves something to be written, with the time that it is now. Never waits: where too many wait already, it is lost and counted.
    pub fn note(&self, event: N) {
        let inner = &*self.0;
        let sent = inner.queue.try_send(Message::Noted(Box::new(Noted { at: inner.clock.now(), event })));
        if sent.is_err() {
            inner.tally.add(1);
            inner.counted.dropped("queue", 1);
        }
        // Once it is closed, nobody takes anything.
        let is_full = matches!(sent, Err(TrySendError::Full(_)));
        // What is said here may itself be something to note, which is lost then, and says nothing more.
        if is_full != inner.is_full.load(Ordering::Relaxed) && inner.is_full.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::error!("more comes than the {} can take: entries are lost", inner.name);
        }
    }

    /// Tells when what was noted before is written; `None` where so much waits that it takes long.
    pub(super) fn flush(&self) -> Option<oneshot::Receiver<()>> {
        let (done, flushed) = oneshot::channel();
        self.0.queue.try_send(Message::Flush(done)).ok().map(|()| flushed)
    }

    /// Tells the writer to end when it has written what was noted before. Blocks while the queue is full.
    pub(super) fn end(&self) {
        // Where nobody writes any more, nothing is to be ended.
        let _ = self.0.queue.send(Message::End);
    }

    pub(super) fn tally(&self) -> Arc<Tally> {
        self.0.tally.clone()
    }

    /// The queue's other end, for the one that writes.
    pub(super) fn messages(&self) -> Option<Receiver<Message<N>>> {
        self.0.messages.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nobody writes any more for now.
    pub(super) fn give_back(&self, messages: Receiver<Message<N>>) {
        *self.0.messages.lock().unwrap_or_else(PoisonError::into_inner) = Some(messages);
    }
}

impl<N> Clone for Intake<N> {
    fn clone(&self) -> Intake<N> {
        Intake(self.0.clone())
    }
}

impl<N> fmt::Debug for Intake<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("name", &self.0.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NATURE, said};
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn nobody_waits_and_what_has_no_room_is_counted() {
        let metrics = Metrics::new();
        let intake = Intake::with_room(10, &NATURE, Clock::system(), metrics.central_log.clone());
        for _ in 0..25 {
            intake.note(said("ci", "a"));
        }
        assert!(intake.flush().is_none());
        assert!(metrics.render().contains(r#"outport_central_log_dropped_total{reason="queue"} 15"#), "{}", metrics.render());
        assert_eq!((intake.tally().take(), intake.tally().take()), (15, 0));
        let messages = intake.messages().unwrap();
        assert!(intake.messages().is_none(), "one writes");
        assert_eq!(messages.try_iter().count(), 10);
        intake.give_back(messages);
        intake.note(said("ci", "b"));
        assert_eq!(intake.messages().unwrap().try_iter().count(), 1);
    }
}
