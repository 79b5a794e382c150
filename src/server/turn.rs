//! How much a connection sends before it is others' turn: a reader that is as fast as this edge would never let anybody else go first.
//! Who has sent that much goes to the end of the runtime's queue.
//!
//! The fewer connections send at a time, the longer are their turns, because each turn costs the kernel and the runtime a little; the
//! more, the shorter, because a small request that comes meanwhile waits for a round of them. On one core (2026-11-30): eight plain
//! pulls reach 0.82 of nginx with 256 KiB a turn, 0.91 with 1 MiB. 64 pulls lose a twentieth with 192 KiB and a sixth with 128 KiB,
//! with which the p99 of a manifest beside them is three times the idle one in place of four to five.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all senders of one worker thread send in a round, until each has the shortest turn.
const ROUND_BYTES: usize = 8 << 20;
/// The shortest turn, and that of connections that copy, and seal, each byte: there a turn is little beside the work. Who sends less at
/// a time, because its reader is slower or its answers are small, does not count as a sender.
const LEAST_BYTES: usize = 256 << 10;
/// The longest, for who hands parts of files to the kernel.
const MOST_BYTES: usize = 1 << 20;

/// The senders of a listener.
#[derive(Debug)]
pub struct Turns {
    senders: AtomicUsize,
    workers: usize,
    most_bytes: usize,
}

/// One connection's turns.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    sent_bytes: usize,
    /// Among the senders.
    counted: bool,
}

impl Turns {
    /// For so many threads that run connections. `sends_files`: they hand parts of files to the kernel.
    pub fn new(workers: usize, sends_files: bool) -> Arc<Turns> {
        let most_bytes = if sends_files { MOST_BYTES } else { LEAST_BYTES };
        Arc::new(Turns { senders: AtomicUsize::new(0), workers, most_bytes })
    }

    /// The turns of a connection more.
    pub fn turn(self: &Arc<Turns>) -> Turn {
        Turn { turns: Arc::clone(self), sent_bytes: 0, counted: false }
    }
}

impl Turn {
    /// Whether it is others' turn.
    pub fn is_over(&self) -> bool {
        // Small answers never touch what all connections share.
        self.sent_bytes >= LEAST_BYTES && self.sent_bytes >= self.bytes()
    }

    /// How long a turn is now. As much may be sent at once, whatever went out before: parts of files are to begin where pages begin.
    pub fn bytes(&self) -> usize {
        // Exactness is not needed: it may be the number of a moment ago.
        let senders = self.turns.senders.load(Ordering::Relaxed).max(1);
        (ROUND_BYTES.saturating_mul(self.turns.workers) / senders).clamp(LEAST_BYTES, self.turns.most_bytes)
    }

    /// So many bytes went out.
    pub fn sent(&mut self, count: usize) {
        self.sent_bytes += count;
        if !self.counted && self.sent_bytes >= LEAST_BYTES {
            self.counted = true;
            self.turns.senders.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Others go first; it wants to go on.
    pub fn pass(&mut self) {
        self.sent_bytes = 0;
    }

    /// It waits, for its reader or for the next request: others go first, and small answers do not add up to a turn.
    pub fn end(&mut self) {
        self.sent_bytes = 0;
        if std::mem::take(&mut self.counted) {
            self.turns.senders.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(turns: &Arc<Turns>, count: usize) -> Vec<Turn> {
        let begin = |_| {
            let mut turn = turns.turn();
            turn.sent(LEAST_BYTES);
            turn.pass();
            turn
        };
        (0..count).map(begin).collect()
    }

    #[test]
    fn the_more_send_the_shorter_are_their_turns() {
        for (count, workers, bytes) in [
            (0, 1, MOST_BYTES),
            (8, 1, MOST_BYTES),
            (16, 1, MOST_BYTES / 2),
            (32, 1, LEAST_BYTES),
            (1_000, 1, LEAST_BYTES),
            (32, 2, MOST_BYTES / 2),
            (64, 8, MOST_BYTES),
        ] {
            for (sends_files, bytes) in [(true, bytes), (false, LEAST_BYTES)] {
                let turns = Turns::new(workers, sends_files);
                let all = senders(&turns, count);
                assert_eq!(turns.turn().bytes(), bytes, "{count} senders, {workers} workers");
                assert!(all.iter().all(|turn| turn.bytes() == bytes));
            }
        }
    }

    #[test]
    fn a_turn_ends_and_begins_again() {
        let mut turn = Turns::new(1, false).turn();
        turn.sent(LEAST_BYTES - 1);
        assert!(!turn.is_over());
        turn.sent(1);
        assert!(turn.is_over());
        turn.pass();
        assert!(!turn.is_over());
    }

    #[test]
    fn only_who_sends_counts() {
        let turns = Turns::new(1, true);
        let count = || turns.senders.load(Ordering::Relaxed);
        let mut small = turns.turn();
        for _ in 0..100 {
            small.sent(LEAST_BYTES - 1);
            small.end();
        }
        assert_eq!(count(), 0);
        let mut all = senders(&turns, 3);
        assert_eq!(count(), 3);
        all[0].sent(MOST_BYTES);
        all[0].pass();
        assert_eq!(count(), 3, "a sender is counted once");
        all[0].end();
        all[0].end();
        assert_eq!(count(), 2);
        drop(all);
        assert_eq!(count(), 0);
    }
}
