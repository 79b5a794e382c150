//! Lines on their way to the thread that writes them.
//!
//! A line is written where it lies until that thread takes it: at the end of one of a few trays, which threads choose by what they are, so
//! that they seldom meet. Trays are used again when they have been emptied. So a line costs its own bytes, and neither memory that one
//! thread asks for and another gives back, nor a message.

use std::array;
use std::fmt;
use std::hash::BuildHasher;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use foldhash::fast::RandomState;

const TRAYS: usize = 8;
/// What an empty tray keeps of its memory, at most.
const KEPT_BYTES: usize = 1 << 20;

/// Where lines are left. Each has a mark for whoever takes it. Cloning is cheap; all clones are one.
pub struct Trays<M>(Arc<Inner<M>>);

/// Takes what was left. There is one.
pub struct Taker<M> {
    shared: Arc<Inner<M>>,
    /// What was taken last.
    taken: [Tray<M>; TRAYS],
    /// Lines of it that still count as waiting.
    in_hand: usize,
}

/// So many lines wait that there is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

struct Inner<M> {
    trays: [Mutex<Tray<M>>; TRAYS],
    hasher: RandomState,
    room: usize,
    /// Lines that are not written yet.
    waiting: AtomicUsize,
    /// Lines so far, by which those of several trays are put in order.
    count: AtomicU64,
    is_asleep: AtomicBool,
    is_rung: AtomicBool,
    sleeper: Mutex<Option<Thread>>,
}

struct Tray<M> {
    bytes: Vec<u8>,
    lines: Vec<Place<M>>,
}

/// A line in a tray: it begins where the one before ends.
struct Place<M> {
    number: u64,
    end: usize,
    mark: M,
}

/// Room for one line, which is free again when this is dropped.
struct Claim<'a>(&'a AtomicUsize);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<M: Copy> Trays<M> {
    /// With room for so many lines.
    pub fn new(room: usize) -> (Trays<M>, Taker<M>) {
        let shared = Arc::new(Inner {
            trays: array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            room,
            waiting: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            is_rung: AtomicBool::new(false),
            sleeper: Mutex::default(),
        });
        (Trays(shared.clone()), Taker { shared, taken: array::from_fn(|_| Tray::default()), in_hand: 0 })
    }

    /// Leaves a line, which `write` appends. Never waits for what takes it.
    ///
    /// # Errors
    /// [`Full`]: then nothing is written.
    pub fn leave(&self, mark: M, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Full> {
        let inner = &*self.0;
        let place = Claim(&inner.waiting);
        if inner.waiting.fetch_add(1, Ordering::SeqCst) >= inner.room {
            return Err(Full);
        }
        {
            let mut tray = lock(&inner.trays[inner.hasher.hash_one(thread::current().id()) as usize % TRAYS]);
            let Tray { bytes, lines } = &mut *tray;
            // More is there only where a line broke off.
            bytes.truncate(lines.last().map_or(0, |line| line.end));
            write(bytes);
            lines.push(Place { number: inner.count.fetch_add(1, Ordering::Relaxed), end: bytes.len(), mark });
        }
        // The taker gives it back.
        mem::forget(place);
        // Whoever falls asleep says so first and looks at what waits afterwards: one of the two sees the other.
        if inner.is_asleep.load(Ordering::SeqCst) {
            inner.wake();
        }
        Ok(())
    }
}

impl<M> Trays<M> {
    /// Wakes the taker, though there may be no line.
    pub fn ring(&self) {
        self.0.is_rung.store(true, Ordering::SeqCst);
        self.0.wake();
    }
}

impl<M> Inner<M> {
    fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::SeqCst)
            && let Some(sleeper) = &*lock(&self.sleeper)
        {
            sleeper.unpark();
        }
    }
}

impl<M: Copy> Taker<M> {
    /// Returns when something waits, somebody rings, or the time is over, and now and then without a reason; true in the first case.
    pub fn wait(&self, time: Option<Duration>) -> bool {
        let inner = &*self.shared;
        *lock(&inner.sleeper) = Some(thread::current());
        inner.is_asleep.store(true, Ordering::SeqCst);
        if inner.waiting.load(Ordering::SeqCst) == 0 && !inner.is_rung.load(Ordering::SeqCst) {
            match time {
                Some(time) => thread::park_timeout(time),
                None => thread::park(),
            }
        }
        inner.is_asleep.store(false, Ordering::SeqCst);
        // Reading what was rung shows what was done before it.
        inner.is_rung.swap(false, Ordering::SeqCst);
        inner.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes all lines, in the order in which they were left. They count as waiting until the next call of [`put_away`](Taker::put_away).
    pub fn take(&mut self, mut each: impl FnMut(M, &[u8])) {
        for (tray, taken) in self.shared.trays.iter().zip(&mut self.taken) {
            taken.clear();
            mem::swap(&mut *lock(tray), taken);
        }
        let mut next = [0; TRAYS];
        let number = |tray: &Tray<M>, at: usize| tray.lines.get(at).map(|line| line.number);
        while let Some((_, which)) =
            self.taken.iter().enumerate().filter_map(|(which, tray)| Some((number(tray, next[which])?, which))).min()
        {
            let (tray, at) = (&self.taken[which], next[which]);
            let start = at.checked_sub(1).map_or(0, |before| tray.lines[before].end);
            let Place { end, mark, .. } = tray.lines[at];
            each(mark, &tray.bytes[start..end]);
            next[which] += 1;
            self.in_hand += 1;
        }
    }

    /// What was taken is written: there is room for as much again.
    pub fn put_away(&mut self) {
        self.shared.waiting.fetch_sub(mem::take(&mut self.in_hand), Ordering::SeqCst);
    }
}

impl<M> Tray<M> {
    fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.lines.shrink_to(KEPT_BYTES / size_of::<Place<M>>());
    }
}

impl<M> Default for Tray<M> {
    fn default() -> Tray<M> {
        Tray { bytes: Vec::new(), lines: Vec::new() }
    }
}

/// No step under a lock leaves what it guards half changed but for a line that broke off, which the next one sees.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M> Clone for Trays<M> {
    fn clone(&self) -> Trays<M> {
        Trays(self.0.clone())
    }
}

impl<M> fmt::Debug for Trays<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trays").field("waiting", &self.0.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn taken(taker: &mut Taker<u32>) -> Vec<(u32, String)> {
        let mut taken = Vec::new();
        taker.take(|mark, line| taken.push((mark, String::from_utf8(line.to_vec()).unwrap())));
        taker.put_away();
        taken
    }

    #[test]
    fn lines_are_taken_once_with_their_marks() {
        let (trays, mut taker) = Trays::new(10);
        assert_eq!(taken(&mut taker), []);
        for number in [1, 2] {
            trays.leave(number, |bytes| bytes.extend_from_slice(number.to_string().as_bytes())).unwrap();
        }
        assert_eq!(taken(&mut taker), [(1, "1".to_owned()), (2, "2".to_owned())]);
        assert_eq!(taken(&mut taker), []);
        trays.leave(3, |_| {}).unwrap();
        assert_eq!(taken(&mut taker), [(3, String::new())]);
    }

    #[test]
    fn what_has_no_room_is_not_taken_in_until_what_waits_is_written() {
        let (trays, mut taker) = Trays::new(2);
        let leave = |mark| trays.leave(mark, |bytes| bytes.push(b'x'));
        assert_eq!([leave(1), leave(2), leave(3)], [Ok(()), Ok(()), Err(Full)]);
        let mut count = 0;
        taker.take(|_, _| count += 1);
        assert_eq!((count, leave(4)), (2, Err(Full)), "it is in hand, and not written");
        taker.put_away();
        assert_eq!([leave(5), leave(6), leave(7)], [Ok(()), Ok(()), Err(Full)]);
        assert_eq!(taken(&mut taker).len(), 2);
    }

    #[test]
    fn a_line_that_breaks_off_is_none() {
        let (trays, mut taker) = Trays::new(1);
        let breaking = std::panic::AssertUnwindSafe(|| {
            trays.leave(1, |bytes| {
                bytes.extend_from_slice(b"half a li");
                panic!("in the middle");
            })
        });
        std::panic::catch_unwind(breaking).unwrap_err();
        trays.leave(2, |bytes| bytes.extend_from_slice(b"whole")).expect("it takes no room");
        assert_eq!(taken(&mut taker), [(2, "whole".to_owned())]);
    }

    #[test]
    fn of_many_threads_every_line_comes_once_and_in_the_order_of_each() {
        const THREADS: u32 = 4;
        const LINES: u32 = 20_000;
        let (trays, mut taker) = Trays::new(1_000);
        let (mut seen, mut longest) = (Vec::new(), Duration::ZERO);
        let (is_over, began) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (trays, is_over) = (trays.clone(), &is_over);
                scope.spawn(move || {
                    for line in 0..LINES {
                        let mark = thread << 24 | line;
                        while trays.leave(mark, |bytes| bytes.extend_from_slice(&mark.to_le_bytes())).is_err() {
                            thread::yield_now();
                            if is_over.load(Ordering::Relaxed) {
                                return;
                            }
                        }
                    }
                });
            }
            while seen.len() < (THREADS * LINES) as usize && began.elapsed() < Duration::from_secs(60) {
                let waits = Instant::now();
                taker.wait(Some(Duration::from_secs(10)));
                longest = longest.max(waits.elapsed());
                taker.take(|mark, line| seen.push(if line == mark.to_le_bytes() { mark } else { u32::MAX }));
                taker.put_away();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(longest < Duration::from_secs(10), "nobody woke it");
        assert_eq!(seen.len(), (THREADS * LINES) as usize);
        for thread in 0..THREADS {
            assert!(seen.iter().filter(|mark| **mark >> 24 == thread).map(|mark| mark & 0xff_ffff).eq(0..LINES));
        }
    }

    #[test]
    fn who_waits_is_woken_by_a_line_and_by_the_bell() {
        let (trays, taker) = Trays::new(10);
        trays.ring();
        assert!(!taker.wait(None), "it had rung before");
        assert!(!taker.wait(Some(Duration::ZERO)));
        let later = |work: fn(&Trays<u32>)| {
            let trays = trays.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                work(&trays);
            })
        };
        let ringing = later(Trays::ring);
        assert!(!taker.wait(None));
        ringing.join().unwrap();
        let leaving = later(|trays| trays.leave(1, |_| {}).unwrap());
        while !taker.wait(None) {}
        leaving.join().unwrap();
    }
}
