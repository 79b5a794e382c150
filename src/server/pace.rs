//! Does a request's body keep up with the least rate? Pure. Only time in which we wait for the client counts.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::walk::{self, FrameHead};
use crate::config::Limits;

/// The least rate of a body, after a first allowance.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    allowance: Duration,
    bytes_per_s: u64,
}

impl Rate {
    /// The first `header_timeout` of waiting is free. A rate of 0 asks for nothing.
    pub fn new(limits: &Limits) -> Rate {
        Rate { allowance: limits.header_timeout, bytes_per_s: limits.min_body_rate.0 }
    }
}

/// One body that is arriving.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    received_bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// From now on we wait for the client.
    pub fn wait(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// From now on the client waits for us.
    pub fn rest(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    pub fn receive(&mut self, bytes: u64) {
        self.received_bytes = self.received_bytes.saturating_add(bytes);
    }

    /// When the body is too slow unless more of it comes.
    pub fn deadline(&self, rate: Rate) -> Option<Instant> {
        let earned = Duration::from_millis(self.received_bytes.saturating_mul(1000).checked_div(rate.bytes_per_s)?);
        Some(self.waiting_since? + (rate.allowance + earned).saturating_sub(self.waited))
    }
}

/// The request bodies of an HTTP/2 connection, followed by the frames of both sides: a client is waited for while its windows are open.
#[derive(Debug)]
pub struct Bodies {
    rate: Rate,
    stream_window_bytes: i64,
    /// Bodies that are followed at one time, at most.
    most: usize,
    connection_window_bytes: i64,
    newest: u32,
    bodies: HashMap<u32, Body>,
}

#[derive(Debug)]
struct Body {
    window_bytes: i64,
    pace: Pace,
}

/// The connection's first window (RFC 9113 section 6.9.2).
const FIRST_CONNECTION_WINDOW_BYTES: i64 = 65_535;

impl Bodies {
    pub fn new(limits: &Limits, stream_window_bytes: u32) -> Bodies {
        Bodies {
            rate: Rate::new(limits),
            stream_window_bytes: stream_window_bytes.into(),
            most: usize::try_from(limits.streams).unwrap_or(usize::MAX),
            connection_window_bytes: FIRST_CONNECTION_WINDOW_BYTES,
            newest: 0,
            bodies: HashMap::new(),
        }
    }

    /// The client sent this frame.
    pub fn received(&mut self, frame: &FrameHead, now: Instant) {
        let ends = frame.flags & walk::END_STREAM != 0;
        match frame.kind {
            walk::HEADERS if frame.stream > self.newest => {
                self.newest = frame.stream;
                if !ends && self.bodies.len() < self.most {
                    self.bodies.insert(frame.stream, Body { window_bytes: self.stream_window_bytes, pace: Pace::default() });
                    self.judge(now);
                }
            }
            walk::DATA => {
                self.connection_window_bytes -= i64::from(frame.size_bytes);
                if let Some(body) = self.bodies.get_mut(&frame.stream) {
                    body.window_bytes -= i64::from(frame.size_bytes);
                    body.pace.receive(frame.size_bytes.into());
                }
                self.judge(now);
            }
            _ => {}
        }
        if frame.kind == walk::RST_STREAM || (ends && matches!(frame.kind, walk::HEADERS | walk::DATA)) {
            self.bodies.remove(&frame.stream);
        }
    }

    /// We sent this frame. Once the answer is complete nobody waits for the rest of the request.
    pub fn sent(&mut self, frame: &FrameHead, now: Instant) {
        let ends = frame.flags & walk::END_STREAM != 0;
        match frame.kind {
            walk::RST_STREAM => drop(self.bodies.remove(&frame.stream)),
            walk::HEADERS | walk::DATA if ends => drop(self.bodies.remove(&frame.stream)),
            walk::WINDOW_UPDATE => {
                let window = match self.bodies.get_mut(&frame.stream) {
                    Some(body) => &mut body.window_bytes,
                    None if frame.stream == 0 => &mut self.connection_window_bytes,
                    None => return,
                };
                *window += i64::from(frame.word);
                self.judge(now);
            }
            _ => {}
        }
    }

    /// When the slowest of them is too slow.
    pub fn deadline(&self) -> Option<Instant> {
        self.bodies.values().filter_map(|body| body.pace.deadline(self.rate)).min()
    }

    fn judge(&mut self, now: Instant) {
        for body in self.bodies.values_mut() {
            if body.window_bytes.min(self.connection_window_bytes) > 0 {
                body.pace.wait(now);
            } else {
                body.pace.rest(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, ClientLimits};

    fn limits(min_body_rate: u64) -> Limits {
        let second = Duration::from_secs(1);
        Limits {
            connections: 1,
            streams: 2,
            header_timeout: second,
            idle_timeout: second,
            write_timeout: second,
            request_timeout: second,
            min_body_rate: ByteSize(min_body_rate),
            max_blob: ByteSize(1 << 30),
            uploads: 10,
            upload_ttl: Duration::from_secs(60),
            deadline: second,
            grace: second,
            client: ClientLimits::default(),
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_waiting_for_the_client_counts() {
        let (began, rate) = (Instant::now(), Rate::new(&limits(100)));
        let mut pace = Pace::default();
        assert_eq!(pace.deadline(rate), None);
        pace.wait(began);
        assert_eq!(pace.deadline(rate), Some(began + s(1)), "the allowance");
        pace.receive(300);
        pace.rest(began + s(1));
        assert_eq!(pace.deadline(rate), None, "the client waits for us");
        pace.wait(began + s(60));
        assert_eq!(pace.deadline(rate), Some(began + s(63)), "the allowance is used up, three seconds are earned");
        assert_eq!(pace.deadline(Rate::new(&limits(0))), None, "no rate is asked for");
    }

    fn frame(kind: u8, flags: u8, stream: u32, size_bytes: u32) -> FrameHead {
        FrameHead { kind, flags, stream, size_bytes, word: size_bytes }
    }

    #[test]
    fn http2_bodies_wait_only_for_open_windows() {
        let now = Instant::now();
        let mut bodies = Bodies::new(&limits(100), 1_000);
        bodies.received(&frame(walk::HEADERS, walk::END_STREAM, 1, 9), now);
        assert_eq!(bodies.deadline(), None, "no body");
        bodies.received(&frame(walk::HEADERS, 0, 3, 9), now);
        assert_eq!(bodies.deadline(), Some(now + s(1)));
        bodies.received(&frame(walk::DATA, 0, 3, 1_000), now);
        assert_eq!(bodies.deadline(), None, "the stream's window is shut");
        bodies.sent(&frame(walk::WINDOW_UPDATE, 0, 3, 500), now + s(90));
        assert_eq!(bodies.deadline(), Some(now + s(101)));
        bodies.received(&frame(walk::DATA, 0, 1, 70_000), now + s(91));
        assert_eq!(bodies.deadline(), None, "the connection's window is shut");
        bodies.sent(&frame(walk::WINDOW_UPDATE, 0, 0, 70_000), now + s(92));
        assert!(bodies.deadline().is_some());
        bodies.sent(&frame(walk::HEADERS, walk::END_STREAM, 3, 9), now);
        assert_eq!(bodies.deadline(), None, "answered");
    }

    #[test]
    fn http2_bodies_end_and_are_bounded() {
        let now = Instant::now();
        for (kind, flags) in [(walk::DATA, walk::END_STREAM), (walk::HEADERS, walk::END_STREAM), (walk::RST_STREAM, 0)] {
            let mut bodies = Bodies::new(&limits(100), 1_000);
            for stream in [1, 3, 5, 7] {
                bodies.received(&frame(walk::HEADERS, 0, stream, 9), now);
            }
            assert_eq!(bodies.bodies.len(), 2);
            for stream in [1, 3] {
                bodies.received(&frame(kind, flags, stream, 4), now);
            }
            assert_eq!(bodies.deadline(), None, "{kind}");
        }
    }
}
