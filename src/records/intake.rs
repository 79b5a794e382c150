//! The way into a record: whoever has something to note leaves it in a bounded queue, and goes on.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Nature;
use super::entry::{Line, Note};
use super::trays::{Taker, Trays};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Recorded;

/// Entries that wait to be written, at most. What comes when there are so many is lost, and counted.
pub(super) const QUEUED: usize = 16 * 1024;
/// Who wants to be told that all is written: searches, of which there are fewer.
const ASKING: usize = 64;

/// What the writer is asked to do besides writing.
pub(super) enum Order {
    /// To be answered when everything before is written.
    Flush(oneshot::Sender<()>),
    End,
}

/// The other end, for the one that writes. Of each entry there is what happened, without its place, and when.
pub(super) struct Outlet {
    pub(super) lines: Taker<Timestamp>,
    pub(super) orders: Receiver<Order>,
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
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    name: &'static str,
    lines: Trays<Timestamp>,
    orders: SyncSender<Order>,
    /// The other end, while nobody writes.
    outlet: Mutex<Option<Outlet>>,
    /// Whether there was no room just now: said once.
    is_full: AtomicBool,
    tally: Arc<Tally>,
    clock: Clock,
    counted: Recorded,
}

impl Intake {
    pub fn new(nature: &Nature, clock: Clock, counted: Recorded) -> Intake {
        Intake::with_room(QUEUED, nature, clock, counted)
    }

    pub(super) fn with_room(room: usize, nature: &Nature, clock: Clock, counted: Recorded) -> Intake {
        let ((lines, taker), (orders, ordered)) = (Trays::new(room), sync_channel(ASKING));
        let outlet = Mutex::new(Some(Outlet { lines: taker, orders: ordered }));
        let is_full = AtomicBool::new(false);
        Intake(Arc::new(Inner { name: nature.name, lines, orders, outlet, is_full, tally: Arc::default(), clock, counted }))
    }

    /// Leaves something to be written, with the time that it is now. Never waits: where too many wait already, it is lost and counted.
    pub fn note(&self, event: &impl Note) {
        let inner = &*self.0;
        let left = inner.lines.leave(inner.clock.now(), |bytes| {
            let mut line = Line::behind(bytes);
            event.write(&mut line);
            line.end();
        });
        if left.is_err() {
            inner.tally.add(1);
            inner.counted.dropped("queue", 1);
        }
        let is_full = left.is_err();
        // What is said here may itself be something to note, which is lost then, and says nothing more.
        if is_full != inner.is_full.load(Ordering::Relaxed) && inner.is_full.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::error!("more comes than the {} can take: entries are lost", inner.name);
        }
    }

    /// Tells when what was noted before is written; `None` where so many ask that it takes long.
    pub(super) fn flush(&self) -> Option<oneshot::Receiver<()>> {
        let (done, flushed) = oneshot::channel();
        self.0.orders.try_send(Order::Flush(done)).ok()?;
        self.0.lines.ring();
        Some(flushed)
    }

    /// Tells the writer to end when it has written what was noted before. Blocks while too many ask it for something.
    pub(super) fn end(&self) {
        // Where nobody writes any more, nothing is to be ended.
        let _ = self.0.orders.send(Order::End);
        self.0.lines.ring();
    }

    pub(super) fn tally(&self) -> Arc<Tally> {
        self.0.tally.clone()
    }

    /// The other end, for the one that writes.
    pub(super) fn outlet(&self) -> Option<Outlet> {
        self.0.outlet.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nobody writes any more for now.
    pub(super) fn give_back(&self, outlet: Outlet) {
        *self.0.outlet.lock().unwrap_or_else(PoisonError::into_inner) = Some(outlet);
    }
}

impl Drop for Inner {
    /// Nobody can note anything any more: the writer need not wait for it.
    fn drop(&mut self) {
        let _ = self.orders.try_send(Order::End);
        self.lines.ring();
    }
}

impl fmt::Debug for Intake {
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
            intake.note(&said("ci", "a"));
        }
        assert!(metrics.render().contains(r#"outport_central_log_dropped_total{reason="queue"} 15"#), "{}", metrics.render());
        assert_eq!((intake.tally().take(), intake.tally().take()), (15, 0));
        let mut outlet = intake.outlet().unwrap();
        assert!(intake.outlet().is_none(), "one writes");
        let lines = |outlet: &mut Outlet| {
            let mut lines = Vec::new();
            outlet.lines.take(|_, line| lines.push(String::from_utf8(line.to_vec()).unwrap()));
            outlet.lines.put_away();
            lines
        };
        assert_eq!(lines(&mut outlet), [r#","who":"ci","what":"a"}"#; 10]);
        intake.give_back(outlet);
        intake.note(&said("ci", "b"));
        assert_eq!(lines(&mut intake.outlet().unwrap()).len(), 1);
    }

    #[test]
    fn who_asks_when_too_many_do_is_not_told() {
        let intake = Intake::new(&NATURE, Clock::system(), Metrics::new().central_log.clone());
        let asking: Vec<_> = (0..ASKING).map(|_| intake.flush().expect("there is room")).collect();
        assert!(intake.flush().is_none());
        drop(asking);
    }
}
