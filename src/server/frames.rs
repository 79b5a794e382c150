//! Counts what an HTTP/2 client's frames cost (RFC 9113 section 10.5). Pure: bytes in, verdict out.
//!
//! h2 itself bounds what is reset before it was served, CONTINUATION frames, header lists and small DATA frames. It does not bound
//! frames that only make it work: PING and SETTINGS (each is answered), PRIORITY, WINDOW_UPDATE, empty DATA, and resets of requests
//! that were being served. Those are paid for here from a purse that fills with time, or with bytes sent for WINDOW_UPDATE, which an
//! honest client sends in proportion to what it receives.

use tokio::time::Instant;

const PREFACE: usize = 24;
const HEADER: usize = 9;

/// Control frames that may come at once, and how many a second refill the purse.
const CONTROL_BURST: u64 = 512;
const CONTROL_RATE_PER_S: u64 = 128;
/// WINDOW_UPDATE frames that may come at once, beside the control frames' rate and one for each so many bytes sent.
const WINDOW_BURST: u64 = 4096;
const BYTES_PER_WINDOW_UPDATE: u64 = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The client sends more control frames than any honest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood;

/// What the frames of one read told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A request's head came to its end.
    pub head: bool,
    pub window_update: bool,
}

/// Follows the frames that a client sends.
#[derive(Debug)]
pub struct Frames {
    preface_left: usize,
    header: [u8; HEADER],
    header_len: usize,
    payload_left: u64,
    in_data: bool,
    in_header_block: bool,
    control: Purse,
    window: Purse,
}

impl Frames {
    pub fn new(now: Instant) -> Frames {
        Frames {
            preface_left: PREFACE,
            header: [0; HEADER],
            header_len: 0,
            payload_left: 0,
            in_data: false,
            in_header_block: false,
            control: Purse { coins: CONTROL_BURST, burst: CONTROL_BURST, filled_at: now },
            window: Purse { coins: WINDOW_BURST, burst: WINDOW_BURST, filled_at: now },
        }
    }

    /// Bytes were sent to the client, which it will allow again.
    pub fn sent(&mut self, bytes: u64) {
        self.window.add(bytes / BYTES_PER_WINDOW_UPDATE);
    }

    /// Whether the bytes stopped where a request's head, or a frame other than DATA, is not complete.
    pub fn mid_head(&self) -> bool {
        self.in_header_block || self.preface_left % PREFACE != 0 || self.header_len > 0 || (self.payload_left > 0 && !self.in_data)
    }

    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    /// [`Flood`]; the connection is to be closed.
    pub fn advance(&mut self, mut bytes: &[u8], now: Instant) -> Result<Seen, Flood> {
        let mut seen = Seen::default();
        bytes = skip(bytes, self.preface_left, |skipped| self.preface_left -= skipped);
        while !bytes.is_empty() {
            let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
            bytes = skip(bytes, left, |skipped| self.payload_left -= skipped as u64);
            for (slot, byte) in self.header.iter_mut().skip(self.header_len).zip(bytes) {
                *slot = *byte;
            }
            let taken = (HEADER - self.header_len).min(bytes.len());
            self.header_len += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.header_len == HEADER {
                self.header_len = 0;
                self.frame(&mut seen, now)?;
            }
        }
        Ok(seen)
    }

    fn frame(&mut self, seen: &mut Seen, now: Instant) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload_left = u64::from(u32::from_be_bytes([0, high, middle, low]));
        self.in_data = kind == DATA;
        match kind {
            HEADERS | CONTINUATION => {
                self.in_header_block = flags & END_HEADERS == 0;
                seen.head |= !self.in_header_block;
                Ok(())
            }
            DATA if self.payload_left > 0 || flags & END_STREAM != 0 => Ok(()),
            DATA | PRIORITY | RST_STREAM | SETTINGS | PING => self.control.pay(now),
            WINDOW_UPDATE => {
                seen.window_update = true;
                self.window.pay(now)
            }
            // Frames of kinds that nobody knows are ignored, but not for free.
            _ => self.control.pay(now),
        }
    }
}

/// Drops up to `left` bytes from the front.
fn skip(bytes: &[u8], left: usize, skipped: impl FnOnce(usize)) -> &[u8] {
    let count = left.min(bytes.len());
    skipped(count);
    bytes.get(count..).unwrap_or_default()
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

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_followed_byte_by_byte() {
        let now = Instant::now();
        let mut frames = Frames::new(now);
        assert!(!frames.mid_head());
        let mut bytes = vec![b'x'; PREFACE];
        bytes.extend(frame(SETTINGS, 0, b"123456"));
        bytes.extend(frame(HEADERS, 0, b"abc"));
        for byte in &bytes {
            assert_eq!(frames.advance(&[*byte], now), Ok(Seen::default()));
        }
        assert!(frames.mid_head());
        let mut rest = frame(CONTINUATION, END_HEADERS, b"def");
        rest.extend(frame(WINDOW_UPDATE, 0, b"0001"));
        rest.extend(&frame(DATA, 0, b"body")[..11]);
        assert_eq!(frames.advance(&rest, now), Ok(Seen { head: true, window_update: true }));
        assert!(!frames.mid_head(), "waiting for a body is no head");
    }

    #[test]
    fn floods_are_told_from_work() {
        let costly: &[(&str, Vec<u8>)] = &[
            ("ping", frame(PING, 0, b"12345678")),
            ("settings", frame(SETTINGS, 0, b"")),
            ("empty data", frame(DATA, 0, b"")),
            ("priority", frame(PRIORITY, 0, b"12345")),
            ("reset", frame(RST_STREAM, 0, b"1234")),
            ("unknown", frame(200, 0, b"")),
        ];
        for (name, bytes) in costly {
            let now = Instant::now();
            let mut frames = Frames::new(now);
            frames.preface_left = 0;
            assert!(frames.advance(&bytes.repeat(CONTROL_BURST as usize), now).is_ok(), "{name}");
            assert_eq!(frames.advance(bytes, now), Err(Flood), "{name}");
            assert!(frames.advance(bytes, now + Duration::from_secs(1)).is_ok(), "{name}: time pays");
        }
        let now = Instant::now();
        let mut frames = Frames::new(now);
        frames.preface_left = 0;
        let free = [frame(DATA, 0, b"x"), frame(DATA, END_STREAM, b""), frame(HEADERS, END_HEADERS, b"x")].concat();
        assert!(frames.advance(&free.repeat(10_000), now).is_ok());
        let window = frame(WINDOW_UPDATE, 0, b"0001");
        for _ in 0..20 {
            frames.sent(1 << 20);
            assert!(frames.advance(&window.repeat(WINDOW_BURST as usize), now).is_ok());
        }
        assert_eq!(frames.advance(&window, now), Err(Flood));
    }
}
