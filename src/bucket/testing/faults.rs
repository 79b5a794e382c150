//! What can happen to one request, and how often.

use std::ops::Range;
use std::time::Duration;

use super::Verb;

/// What happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error, and nothing was done.
    ErrorBefore,
    /// An error, though it was done.
    ErrorAfter,
    /// 503 with a plea for fewer requests; nothing was done.
    Throttled,
    /// A create is answered "exists", and nothing was done: S3's 409 for two requests at once.
    FalseExists,
    /// A create is done and answered "exists": the client has sent it twice.
    ExistsAfter,
    /// It is done only after so long a time, whoever still waits.
    Late(Duration),
    /// It is done, and the answer never comes.
    Lost,
    /// It is not done, and no answer comes.
    Hang,
}

/// How often each fault happens to a node's requests, in a thousand, and how long requests take.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) error_before: u32,
    pub(crate) error_after: u32,
    pub(crate) throttled: u32,
    pub(crate) false_exists: u32,
    pub(crate) exists_after: u32,
    pub(crate) late: u32,
    pub(crate) lost: u32,
    pub(crate) hang: u32,
    /// How long a request is on its way, and as long again its answer.
    pub(crate) latency: Range<Duration>,
    /// How late the late ones are.
    pub(crate) lateness: Range<Duration>,
}

impl Faults {
    /// A store that works, at once.
    pub(crate) const NONE: Faults = Faults {
        error_before: 0,
        error_after: 0,
        throttled: 0,
        false_exists: 0,
        exists_after: 0,
        late: 0,
        lost: 0,
        hang: 0,
        latency: Duration::ZERO..Duration::ZERO,
        lateness: Duration::ZERO..Duration::ZERO,
    };

    /// Everything happens, though most requests succeed.
    pub(crate) const ROUGH: Faults = Faults {
        error_before: 40,
        error_after: 40,
        throttled: 20,
        false_exists: 30,
        exists_after: 30,
        late: 20,
        lost: 20,
        hang: 10,
        latency: Duration::from_millis(1)..Duration::from_millis(200),
        lateness: Duration::from_secs(10)..Duration::from_secs(3 * 3600),
    };

    /// What happens to the next request. Always as many draws, so that one change in a plan changes little else.
    pub(super) fn draw(&self, verb: Verb, random: &mut fastrand::Rng) -> Option<Fault> {
        let (mut dice, late) = (random.u32(0..1_000), between(&self.lateness, random));
        let creates = verb == Verb::Create;
        let faults = [
            (self.error_before, Fault::ErrorBefore),
            (self.error_after, Fault::ErrorAfter),
            (self.throttled, Fault::Throttled),
            (if creates { self.false_exists } else { 0 }, Fault::FalseExists),
            (if creates { self.exists_after } else { 0 }, Fault::ExistsAfter),
            (self.late, Fault::Late(late)),
            (self.lost, Fault::Lost),
            (self.hang, Fault::Hang),
        ];
        for (weight, fault) in faults {
            if dice < weight {
                return Some(fault);
            }
            dice -= weight;
        }
        None
    }
}

pub(super) fn between(range: &Range<Duration>, random: &mut fastrand::Rng) -> Duration {
    let (start, end) = (range.start.as_millis() as u64, range.end.as_millis() as u64);
    let drawn = random.u64(0..=u64::MAX);
    Duration::from_millis(if end > start { start + drawn % (end - start) } else { start })
}
