//! The life signs of one connection, and the one place that decides from them that it must end.
//!
//! The socket, the guard and the doorway write down what they see; the connection's task asks for the [`Vitals::verdict`] each time it
//! ran, and sleeps until the earliest deadline, at the latest for the shortest of the timeouts. What other tasks write down (those of
//! HTTP/2 requests) begins deadlines that lie a whole timeout ahead, so none is missed, and nobody has to be woken for them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Refusal;
use crate::config::Limits;

/// How long a connection that drains may stay quiet: time for a request that is already on its way.
const DRAIN_QUIET: Duration = Duration::from_millis(500);
/// How long an ended connection may take to say goodbye: to write out its last bytes and to have the client's read and dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// The same for one that floods us: time for the GOAWAY frame to leave.
const FLOOD_FAREWELL: Duration = Duration::from_millis(250);

/// Why the server ends a connection. The words are the metric's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    HeaderTimeout,
    Idle,
    SlowBody,
    SlowReader,
    RequestTimeout,
    Flood,
    /// Quiet while the server drains, or too slow to say goodbye: nothing to count.
    Farewell,
}

impl Reason {
    /// The metric's label; `None` is not counted.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Reason::HeaderTimeout => Some("header_timeout"),
            Reason::Idle => Some("idle"),
            Reason::SlowBody => Some("slow_body"),
            Reason::SlowReader => Some("slow_reader"),
            Reason::RequestTimeout => Some("request_timeout"),
            Reason::Flood => Some("flood"),
            Reason::Farewell => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is due; look again at this time.
    Wait(Instant),
    /// Ask the protocol to end the connection, and go on until it has.
    Close(Reason),
    /// Drop the connection.
    Cut(Reason),
}

/// Which protocol the connection speaks: some rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
pub struct Vitals {
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    request_timeout: Duration,
    min_body_rate: u64,
    signs: Mutex<Signs>,
}

#[derive(Debug)]
struct Signs {
    protocol: Protocol,
    /// Whether a first head has arrived.
    greeted: bool,
    /// Since when a head is arriving that is not complete.
    head_since: Option<Instant>,
    in_service: usize,
    /// When the last request ended, or the connection began.
    quiet_since: Instant,
    /// HTTP/1 only: when the request in service began. HTTP/2 requests have their own clocks, see `streams`.
    serving_since: Option<Instant>,
    /// Since when the socket takes no byte though there are some.
    write_blocked_since: Option<Instant>,
    /// HTTP/2: blocks of answers that the protocol holds because the client does not take them yet.
    handed_out: usize,
    /// HTTP/2: when the client last took one, or gave leave to send more.
    taken_at: Instant,
    body: Option<Arriving>,
    draining: bool,
    flooded: bool,
    closing: Option<(Reason, Instant)>,
    /// Since when the write side is shut and we only read the rest away.
    lingering_since: Option<Instant>,
    /// HTTP/1: the number of the request that is to be refused, counted from 0.
    refused: Option<(u64, Refusal)>,
}

/// A request body on HTTP/1. Only time in which we wait for the client counts.
#[derive(Clone, Copy, Debug, Default)]
struct Arriving {
    received_bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Vitals {
    pub fn new(limits: &Limits, protocol: Protocol, now: Instant) -> Vitals {
        Vitals {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            request_timeout: limits.request_timeout,
            min_body_rate: limits.min_body_rate.0,
            signs: Mutex::new(Signs {
                protocol,
                greeted: false,
                head_since: None,
                in_service: 0,
                quiet_since: now,
                serving_since: None,
                write_blocked_since: None,
                handed_out: 0,
                taken_at: now,
                body: None,
                draining: false,
                flooded: false,
                closing: None,
                lingering_since: None,
                refused: None,
            }),
        }
    }

    /// No step under the lock can leave the signs half written, so a panic elsewhere does not spoil them.
    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of a head is here and the rest is not.
    pub fn head_partial(&self, now: Instant) {
        self.signs().head_since.get_or_insert(now);
    }

    /// No head is arriving: the last one is complete.
    pub fn head_complete(&self, greeted: bool) {
        let mut signs = self.signs();
        signs.head_since = None;
        signs.greeted |= greeted;
    }

    /// HTTP/1: the guard waits for bytes of a request's body.
    pub fn body_waits(&self, now: Instant) {
        self.signs().body.get_or_insert_default().waiting_since.get_or_insert(now);
    }

    /// HTTP/1: bytes of a request's body came.
    pub fn body_received(&self, bytes: usize, now: Instant) {
        let mut signs = self.signs();
        let body = signs.body.get_or_insert_default();
        body.received_bytes = body.received_bytes.saturating_add(bytes as u64);
        if let Some(since) = body.waiting_since.take() {
            body.waited += now.saturating_duration_since(since);
        }
    }

    /// HTTP/1: no request body is awaited.
    pub fn body_ended(&self) {
        self.signs().body = None;
    }

    pub fn write_blocked(&self, now: Instant) {
        self.signs().write_blocked_since.get_or_insert(now);
    }

    pub fn write_moved(&self, now: Instant) {
        let mut signs = self.signs();
        if signs.write_blocked_since.take().is_some() {
            signs.quiet_since = now;
        }
    }

    /// HTTP/2: the protocol holds another block of an answer.
    pub fn handed_out(&self, now: Instant) {
        let mut signs = self.signs();
        if signs.handed_out == 0 {
            signs.taken_at = now;
        }
        signs.handed_out += 1;
    }

    /// HTTP/2: the protocol let go of a block: it is sent, or its stream is gone.
    pub fn taken(&self, now: Instant) {
        let mut signs = self.signs();
        signs.handed_out = signs.handed_out.saturating_sub(1);
        signs.taken_at = now;
        signs.quiet_since = now;
    }

    /// HTTP/2: the client allowed more to be sent.
    pub fn window_opened(&self, now: Instant) {
        self.signs().taken_at = now;
    }

    pub fn request_begins(&self, now: Instant) {
        let mut signs = self.signs();
        signs.in_service += 1;
        signs.serving_since = Some(now);
    }

    pub fn request_ends(&self, now: Instant) {
        let mut signs = self.signs();
        signs.in_service = signs.in_service.saturating_sub(1);
        signs.quiet_since = now;
        signs.serving_since = None;
    }

    /// HTTP/1: request `number` of this connection must be answered with `refusal`.
    pub fn refuse(&self, number: u64, refusal: Refusal) {
        self.signs().refused.get_or_insert((number, refusal));
    }

    pub fn refusal_of(&self, number: u64) -> Option<Refusal> {
        self.signs().refused.filter(|(refused, _)| *refused == number).map(|(_, refusal)| refusal)
    }

    pub fn drain(&self) {
        self.signs().draining = true;
    }

    pub fn draining(&self) -> bool {
        self.signs().draining
    }

    /// The protocol was asked to end the connection.
    pub fn close(&self, reason: Reason, now: Instant) {
        self.signs().closing.get_or_insert((reason, now));
    }

    /// HTTP/2: the client sends more control frames than any honest one.
    pub fn flood(&self) {
        self.signs().flooded = true;
    }

    /// The write side is shut; what the client still sends is read and dropped.
    pub fn linger(&self, now: Instant) {
        self.signs().lingering_since.get_or_insert(now);
    }

    /// What is due at `now`.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let signs = self.signs();
        if let Some(since) = signs.lingering_since {
            return due(now, since + FAREWELL, Verdict::Cut(Reason::Farewell)).unwrap_or_else(|at| Verdict::Wait(at));
        }
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.write_timeout);
        let mut next = now + if signs.draining { shortest.min(DRAIN_QUIET) } else { shortest };
        for (deadline, verdict) in self.deadlines(&signs).into_iter().flatten() {
            match due(now, deadline, verdict) {
                Ok(verdict) => return verdict,
                Err(at) => next = next.min(at),
            }
        }
        Verdict::Wait(next)
    }

    fn deadlines(&self, signs: &Signs) -> [Option<(Instant, Verdict)>; 6] {
        [
            signs.head_since.map(|since| (since + self.header_timeout, Verdict::Cut(Reason::HeaderTimeout))),
            signs.write_blocked_since.map(|since| (since + self.write_timeout, Verdict::Cut(Reason::SlowReader))),
            (signs.handed_out > 0).then(|| (signs.taken_at + self.write_timeout, Verdict::Cut(Reason::SlowReader))),
            signs.body.and_then(|body| self.body_deadline(body)).map(|at| (at, Verdict::Cut(Reason::SlowBody))),
            signs
                .serving_since
                .filter(|_| signs.protocol == Protocol::Http1)
                .map(|since| (since + self.request_timeout, Verdict::Cut(Reason::RequestTimeout))),
            self.end_deadline(signs),
        ]
    }

    /// When a connection on which nothing happens ends, and when one that was asked to end must have done so.
    fn end_deadline(&self, signs: &Signs) -> Option<(Instant, Verdict)> {
        match signs.closing {
            None if signs.flooded => return Some((signs.quiet_since, Verdict::Close(Reason::Flood))),
            Some((Reason::Flood, since)) => return Some((since + FLOOD_FAREWELL, Verdict::Cut(Reason::Farewell))),
            _ => {}
        }
        let waits_for_client = signs.head_since.is_some() || signs.write_blocked_since.is_some() || signs.handed_out > 0;
        if signs.in_service > 0 || waits_for_client {
            return None;
        }
        let (allowed, verdict) = match (signs.closing, signs.draining, signs.greeted) {
            (Some((_, since)), ..) => return Some((signs.quiet_since.max(since) + FAREWELL, Verdict::Cut(Reason::Farewell))),
            // HTTP/2 was told to go away, and goes when its streams have ended.
            (None, true, _) if signs.protocol == Protocol::Http1 => (DRAIN_QUIET, Verdict::Close(Reason::Farewell)),
            (None, _, true) => (self.idle_timeout, Verdict::Close(Reason::Idle)),
            (None, _, false) => (self.header_timeout, Verdict::Cut(Reason::HeaderTimeout)),
        };
        Some((signs.quiet_since + allowed, verdict))
    }

    /// The first `header_timeout` of waiting is free, then each second must have brought its bytes. A rate of 0 asks for nothing.
    fn body_deadline(&self, body: Arriving) -> Option<Instant> {
        let earned = Duration::from_millis(body.received_bytes.saturating_mul(1000).checked_div(self.min_body_rate)?);
        Some(body.waiting_since? + (self.header_timeout + earned).saturating_sub(body.waited))
    }
}

/// The verdict when its time has come, else the time.
fn due(now: Instant, deadline: Instant, verdict: Verdict) -> Result<Verdict, Instant> {
    if now >= deadline { Ok(verdict) } else { Err(deadline) }
}
