//! How fast copies may come from a peer: a bucket of tokens, one for each byte. Pure: the time is told.

use std::time::Duration;

use crate::clock::Timestamp;

/// How much may come at once after a quiet time, as time at the full rate.
const BURST: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// One peer's link.
#[derive(Debug)]
pub(super) struct Rate {
    /// Bytes a second; `None` for no bound.
    bytes_per_second: Option<u64>,
    /// May be less than none: a piece is let go when something is there, and what it took too much is waited for by the next.
    tokens: f64,
    filled_at: Timestamp,
}

impl Rate {
    pub fn new(bytes_per_second: Option<u64>) -> Rate {
        Rate { bytes_per_second, tokens: 0.0, filled_at: Timestamp::default() }
    }

    /// Takes so many bytes; or tells how long to wait before asking again.
    pub fn take(&mut self, bytes: usize, now: Timestamp) -> Result<(), Duration> {
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let rate = rate.max(1) as f64;
        let filled = rate * now.since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + filled).min(rate * BURST.as_secs_f64());
        self.filled_at = now;
        if self.tokens > 0.0 {
            self.tokens -= bytes as f64;
            return Ok(());
        }
        Err(Duration::from_secs_f64(-self.tokens / rate).max(SHORTEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that came in so many seconds from a time on, in pieces of 64 KiB.
    fn in_seconds(rate: &mut Rate, from_ms: u64, seconds: u64) -> u64 {
        const PIECE: usize = 64 << 10;
        let (mut now, end) = (Timestamp::from_ms(from_ms), Timestamp::from_ms(from_ms + seconds * 1_000));
        let mut bytes = 0;
        while now < end {
            match rate.take(PIECE, now) {
                Ok(()) => bytes += PIECE as u64,
                Err(wait) => now = now.plus(wait.max(Duration::from_millis(1))),
            }
        }
        bytes
    }

    #[test]
    fn a_link_carries_its_rate_and_no_more() {
        let mut link = Rate::new(Some(1 << 20));
        let bytes = in_seconds(&mut link, 1_000_000, 100);
        assert!((99 << 20..=102 << 20).contains(&bytes), "{bytes}");
        // After a long quiet time it is no more than a second's worth ahead.
        let bytes = in_seconds(&mut link, 900_000_000, 10);
        assert!((10 << 20..=12 << 20).contains(&bytes), "{bytes}");
        assert_eq!(Rate::new(None).take(usize::MAX, Timestamp::default()), Ok(()));
    }
}
