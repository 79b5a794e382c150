//! Looks at the tail of the own ledger: whether anything was committed since. Many callers share one look; none owns it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::LedgerError;
use super::core::Core;
use super::planted::Bug;

/// How old a look may be that a positive answer rests on.
const RECENT: Duration = Duration::from_millis(250);
/// How long a caller waits for a look; and how long, when the last one failed.
const DEADLINE: Duration = Duration::from_secs(2);
const DEADLINE_IN_OUTAGE: Duration = Duration::from_millis(500);
/// How long after a failed look nobody waits for another one. One is made all the same, beside the callers, after a pause.
const FAILURE_MEMORY: Duration = Duration::from_secs(1);
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Which look a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Begun at most 250 ms ago: for positive answers.
    Recent,
    /// Begun after the call: for negative answers.
    Now,
}

pub(super) struct Tail {
    core: Arc<Core>,
    looks: Arc<Mutex<Looks>>,
}

#[derive(Default)]
struct Looks {
    /// The number of the last look that was asked for, and of the last one that has begun to read.
    asked: u64,
    begun: u64,
    /// When the last successful look began.
    confirmed: Option<Instant>,
    /// When a look failed last, and why; forgotten with the next success.
    failed: Option<(Instant, LedgerError)>,
    under_way: Option<UnderWay>,
}

#[derive(Clone)]
struct UnderWay {
    number: u64,
    begun: Instant,
    /// Those who wait for it are woken in the order in which they came: one seed has one trace.
    outcome: Arc<SetOnce<Result<(), LedgerError>>>,
    task: AbortHandle,
}

/// Tells a look's outcome, also when it is ended before it has one.
struct Tell(Arc<SetOnce<Result<(), LedgerError>>>);

impl Drop for Tell {
    fn drop(&mut self) {
        // Mostly it has been told.
        let _ = self.0.set(Err(LedgerError::Unavailable("the node is ending".into())));
    }
}

impl Looks {
    /// The look that has no outcome yet.
    fn pending(&self) -> Option<&UnderWay> {
        self.under_way.as_ref().filter(|look| look.outcome.get().is_none())
    }

    fn patience(&self) -> Duration {
        if self.failed.is_some() { DEADLINE_IN_OUTAGE } else { DEADLINE }
    }
}

fn too_slow() -> LedgerError {
    LedgerError::Unavailable("the bucket does not answer in time".into())
}

fn lock(looks: &Mutex<Looks>) -> MutexGuard<'_, Looks> {
    looks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tail {
    pub fn new(core: Arc<Core>) -> Tail {
        Tail { core, looks: Arc::default() }
    }

    /// Returns once the tail was confirmed.
    ///
    /// # Errors
    /// At once while the bucket is known to be away, else in bounded time.
    pub async fn confirm(&self, how: Look) -> Result<(), LedgerError> {
        let called = Instant::now();
        let (number, oldest) = {
            let looks = lock(&self.looks);
            let number = looks.begun + u64::from(!self.core.planted.is(Bug::StaleLook));
            let oldest = called.checked_sub(RECENT).unwrap_or(called);
            // A snapshot that was loaded since may stand before what that look had.
            let is_recent = looks.confirmed.is_some_and(|begun| begun >= oldest) && self.core.is_settled();
            if how == Look::Recent && is_recent {
                return Ok(());
            }
            (number, oldest)
        };
        let serves = |look: &UnderWay| match how {
            Look::Recent => look.begun >= oldest,
            Look::Now => look.number >= number,
        };
        loop {
            if let Some(why) = self.known_failure(called) {
                return Err(why);
            }
            let look = self.look();
            let deadline = called + lock(&self.looks).patience();
            let outcome = timeout_at(deadline, look.outcome.wait()).await.map_err(|_| too_slow())?.clone();
            // What an earlier look found does not matter to who needs a later one.
            if serves(&look) {
                return outcome;
            }
        }
    }

    /// Why nobody needs to wait: a look failed a moment ago, or one has been under way for longer than anybody waits. Looks go on
    /// beside the callers, not too often.
    fn known_failure(&self, called: Instant) -> Option<LedgerError> {
        let (failed, is_slow) = {
            let looks = lock(&self.looks);
            let age = |since: Instant| called.saturating_duration_since(since);
            (looks.failed.clone().map(|(at, why)| (age(at), why)), looks.pending().is_some_and(|look| age(look.begun) >= looks.patience()))
        };
        match failed {
            _ if is_slow => Some(too_slow()),
            Some((age, why)) if age < FAILURE_MEMORY => {
                if age >= FAILURE_PAUSE {
                    self.look();
                }
                Some(why)
            }
            _ => None,
        }
    }

    /// The look that is under way, or a new one.
    fn look(&self) -> UnderWay {
        let mut looks = lock(&self.looks);
        if let Some(look) = looks.pending() {
            return look.clone();
        }
        looks.asked += 1;
        let (number, begun) = (looks.asked, Instant::now());
        let outcome = Arc::new(SetOnce::new());
        let tell = Tell(outcome.clone());
        let (core, shared) = (self.core.clone(), self.looks.clone());
        let task = self.core.spawn(async move {
            // Until here, who comes may share it.
            lock(&shared).begun = number;
            let outcome = core.catch_up().await;
            core.metrics.tail_look(if outcome.is_ok() { "confirmed" } else { "failed" });
            let mut looks = lock(&shared);
            match &outcome {
                Ok(()) => {
                    looks.confirmed = looks.confirmed.max(Some(begun));
                    looks.failed = None;
                }
                Err(why) => looks.failed = Some((Instant::now(), why.clone())),
            }
            drop(looks);
            // Nobody else tells it while this goes on.
            let _ = tell.0.set(outcome);
        });
        let look = UnderWay { number, begun, outcome, task };
        looks.under_way = Some(look.clone());
        look
    }

    /// Ends the look that is under way: this node is ending.
    pub fn stop(&self) {
        if let Some(look) = lock(&self.looks).under_way.take() {
            look.task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
