//! Counts what an HTTP/2 client's frames cost (RFC 9113 section 10.5). Pure: bytes in, verdict out.
//!
//! h2 itself bounds what is reset before it was served, CONTINUATION frames, header lists and small DATA frames. It does not bound
//! frames that only make it work: PING and SETTINGS (each is answered), PRIORITY, WINDOW_UPDATE, empty DATA, and resets of requests
//! that were being served. Those are paid for here from a purse that fills with time, or with bytes sent for WINDOW_UPDATE, which an
//! honest client sends in proportion to what it receives.

use tokio::time::Instant;

use super::walk::{self, FrameHead};

/// Control frames that may come at once, and how many a second refill the purse.
const CONTROL_BURST: u64 = 512;
const CONTROL_RATE_PER_S: u64 = 128;
/// WINDOW_UPDATE frames that may come at once, beside the control frames' rate and one for each so many bytes sent.
const WINDOW_BURST: u64 = 4096;
const BYTES_PER_WINDOW_UPDATE: u64 = 256;

/// The client sends more control frames than any honest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood;

/// What a client may still spend.
#[derive(Debug)]
pub struct Frames {
    control: Purse,
    window: Purse,
}

impl Frames {
    pub fn new(now: Instant) -> Frames {
        Frames {
            control: Purse { coins: CONTROL_BURST, burst: CONTROL_BURST, filled_at: now },
            window: Purse { coins: WINDOW_BURST, burst: WINDOW_BURST, filled_at: now },
        }
    }

    /// Bytes were sent to the client, which it will allow again.
    pub fn sent(&mut self, bytes: u64) {
        self.window.add(bytes / BYTES_PER_WINDOW_UPDATE);
    }

    /// Makes the client pay for a frame.
    ///
    /// # Errors
    /// [`Flood`]; the connection is to be closed.
    pub fn received(&mut self, frame: &FrameHead, now: Instant) -> Result<(), Flood> {
        match frame.kind {
            // Each is a request, or a part of one that h2 bounds.
            walk::HEADERS | walk::CONTINUATION => Ok(()),
            walk::DATA if frame.size_bytes > 0 || frame.flags & walk::END_STREAM != 0 => Ok(()),
            walk::WINDOW_UPDATE => self.window.pay(now),
            // Frames of kinds that nobody knows are ignored, but not for free.
            _ => self.control.pay(now),
        }
    }
}

#[derive(Debug)]
struct Purse {
    coins: u64,
    burst: u64,
    filled_at: Instant,
}

impl Purse {
    fn add(&mut self, coins: u64) {
        self.coins = self.coins.saturating_add(coins).min(self.burst);
    }

    fn pay(&mut self, now: Instant) -> Result<(), Flood> {
        let earned = now.saturating_duration_since(self.filled_at).as_millis() as u64 * CONTROL_RATE_PER_S / 1000;
        if earned > 0 {
            self.add(earned);
            self.filled_at = now;
        }
        self.coins = self.coins.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PRIORITY: u8 = 2;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, size_bytes: u32) -> FrameHead {
        FrameHead { kind, flags, stream: 1, size_bytes, word: 1 }
    }

    #[test]
    fn floods_are_told_from_work() {
        let costly = [(PING, 8), (SETTINGS, 0), (walk::DATA, 0), (PRIORITY, 5), (walk::RST_STREAM, 4), (200, 0)];
        for (kind, size_bytes) in costly {
            let now = Instant::now();
            let (mut frames, frame) = (Frames::new(now), frame(kind, 0, size_bytes));
            for _ in 0..CONTROL_BURST {
                assert_eq!(frames.received(&frame, now), Ok(()), "{kind}");
            }
            assert_eq!(frames.received(&frame, now), Err(Flood), "{kind}");
            assert_eq!(frames.received(&frame, now + Duration::from_secs(1)), Ok(()), "{kind}: time pays");
        }
        let now = Instant::now();
        let mut frames = Frames::new(now);
        for free in [frame(walk::DATA, 0, 1), frame(walk::DATA, walk::END_STREAM, 0), frame(walk::HEADERS, 0, 9)] {
            for _ in 0..10 * CONTROL_BURST {
                assert_eq!(frames.received(&free, now), Ok(()), "{free:?}");
            }
        }
        let update = frame(walk::WINDOW_UPDATE, 0, 4);
        for _ in 0..20 * WINDOW_BURST {
            frames.sent(BYTES_PER_WINDOW_UPDATE);
            assert_eq!(frames.received(&update, now), Ok(()), "an honest client");
        }
        for _ in 1..WINDOW_BURST {
            assert_eq!(frames.received(&update, now), Ok(()));
        }
        assert_eq!(frames.received(&update, now), Err(Flood));
    }
}
