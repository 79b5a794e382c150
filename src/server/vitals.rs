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
    body_due: Option<Instant>,
    draining: bool,
    flooded: bool,
    closing: Option<(Reason, Instant)>,
    /// Since when the write side is shut and we only read the rest away.
    lingering_since: Option<Instant>,
    /// HTTP/1: the number of the request that is to be refused, counted from 0.
    refused: Option<(u64, Refusal)>,
}

impl Vitals {
    pub fn new(limits: &Limits, protocol: Protocol, now: Instant) -> Vitals {
        Vitals {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            request_timeout: limits.request_timeout,
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
                body_due: None,
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

    /// When a request's body is too slow, if nothing more comes.
    pub fn body_due(&self, at: Option<Instant>) {
        self.signs().body_due = at;
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

    /// HTTP/1: whether nothing is in service, and the connection is to go on.
    pub fn is_between_requests(&self) -> bool {
        let signs = self.signs();
        signs.in_service == 0 && !signs.draining && signs.closing.is_none() && signs.refused.is_none()
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
            return due(now, since + FAREWELL, Verdict::Cut(Reason::Farewell)).unwrap_or_else(Verdict::Wait);
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
            signs.body_due.map(|at| (at, Verdict::Cut(Reason::SlowBody))),
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
}

/// The verdict when its time has come, else the time.
fn due(now: Instant, deadline: Instant, verdict: Verdict) -> Result<Verdict, Instant> {
    if now >= deadline { Ok(verdict) } else { Err(deadline) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, ClientLimits};

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(60);
    const WRITE: Duration = Duration::from_secs(30);
    const REQUEST: Duration = Duration::from_secs(3600);

    fn vitals(protocol: Protocol, now: Instant) -> Vitals {
        let limits = Limits {
            connections: 1,
            streams: 1,
            header_timeout: HEADER,
            idle_timeout: IDLE,
            write_timeout: WRITE,
            request_timeout: REQUEST,
            min_body_rate: ByteSize(0),
            max_blob: ByteSize(1 << 30),
            uploads: 10,
            upload_ttl: Duration::from_secs(60),
            deadline: HEADER,
            grace: HEADER,
            client: ClientLimits::default(),
        };
        Vitals::new(&limits, protocol, now)
    }

    /// What ends the connection, and how long after `now`, when nothing more happens.
    fn end(vitals: &Vitals, now: Instant) -> (Duration, Verdict) {
        let mut at = now;
        loop {
            match vitals.verdict(at) {
                Verdict::Wait(until) => {
                    assert!(until > at && until <= at + HEADER, "the next look is in good time");
                    at = until;
                }
                end => return (at - now, end),
            }
        }
    }

    #[test]
    fn each_silence_has_its_end() {
        type Story = fn(&Vitals, Instant);
        let cases: &[(&str, Story, Duration, Verdict)] = &[
            ("nothing came", |_, _| {}, HEADER, Verdict::Cut(Reason::HeaderTimeout)),
            ("a head began", |vitals, now| vitals.head_partial(now), HEADER, Verdict::Cut(Reason::HeaderTimeout)),
            ("a head came", |vitals, _| vitals.head_complete(true), IDLE, Verdict::Close(Reason::Idle)),
            ("in service", |vitals, now| vitals.request_begins(now), REQUEST, Verdict::Cut(Reason::RequestTimeout)),
            ("unread", |vitals, now| vitals.write_blocked(now), WRITE, Verdict::Cut(Reason::SlowReader)),
            ("slow", |vitals, now| vitals.body_due(Some(now + HEADER / 2)), HEADER / 2, Verdict::Cut(Reason::SlowBody)),
            ("draining", |vitals, _| vitals.drain(), DRAIN_QUIET, Verdict::Close(Reason::Farewell)),
            ("closing", |vitals, now| vitals.close(Reason::Idle, now), FAREWELL, Verdict::Cut(Reason::Farewell)),
            ("flooded", |vitals, _| vitals.flood(), Duration::ZERO, Verdict::Close(Reason::Flood)),
            ("flood told", |vitals, now| vitals.close(Reason::Flood, now), FLOOD_FAREWELL, Verdict::Cut(Reason::Farewell)),
            ("lingering", |vitals, now| vitals.linger(now), FAREWELL, Verdict::Cut(Reason::Farewell)),
        ];
        for (name, story, after, verdict) in cases {
            let now = Instant::now();
            let vitals = vitals(Protocol::Http1, now);
            story(&vitals, now);
            assert_eq!(end(&vitals, now), (*after, *verdict), "{name}");
        }
    }

    #[test]
    fn http2_waits_for_windows_and_for_its_own_goodbye() {
        let now = Instant::now();
        let vitals = vitals(Protocol::Http2, now);
        vitals.head_complete(true);
        vitals.request_begins(now);
        vitals.handed_out(now);
        vitals.request_ends(now);
        vitals.drain();
        assert_eq!(end(&vitals, now), (WRITE, Verdict::Cut(Reason::SlowReader)), "the last block is out");
        vitals.window_opened(now + HEADER);
        assert_eq!(end(&vitals, now), (HEADER + WRITE, Verdict::Cut(Reason::SlowReader)), "the client goes on");
        vitals.taken(now + WRITE);
        assert_eq!(end(&vitals, now), (WRITE + IDLE, Verdict::Close(Reason::Idle)), "GOAWAY was sent, streams may end in peace");
    }
}
