//! The circuit to one address of an upstream: after repeated failures nobody waits for it, until one request finds it well again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Weight of failures in a row, without a success between, that opens the circuit: eight faults, which come at once and cost
/// nobody a wait (an upstream of whose answers half are errors stays in use), or two timeouts, which cost their callers all of it.
const THRESHOLD: u32 = 8;
const FAULT_WEIGHT: u32 = 1;
const TIMEOUT_WEIGHT: u32 = 4;
/// How long the circuit stays open: the first time, doubled each time that the trial fails, up to the longest.
const SHORTEST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// A caller that gave up after waiting this long has met a slow upstream; one that left sooner says nothing about it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a circuit does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// They go through.
    Closed,
    /// They fail at once.
    Open,
    /// One goes through as a trial, the others fail at once.
    HalfOpen,
}

/// How a request ended, as far as it tells whether the upstream is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, whatever the answer.
    Alive,
    /// No connection, a broken one, or a server error.
    Fault,
    Timeout,
}

#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `weight` of the failures since the last success.
    Closed {
        weight: u32,
    },
    /// `times` in a row, at least 1.
    Open {
        until: Instant,
        times: u32,
    },
    Trial {
        times: u32,
    },
}

/// Leave to make one request. To be told its outcome; dropped without (its caller went away), it judges by the time that passed.
#[derive(Debug)]
pub(super) struct Admission {
    breaker: Breaker,
    since: Instant,
    rank: Rank,
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Ordinary,
    /// The one request that a half-open circuit lets through.
    Trial,
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker { state: Arc::new(Mutex::new(State::Closed { weight: 0 })) }
    }

    /// Asks for leave.
    ///
    /// # Errors
    /// How long the circuit stays open.
    pub(super) fn admit(&self) -> Result<Admission, Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(wait) = refusal(*state, now) {
            return Err(wait);
        }
        let mut rank = Rank::Ordinary;
        if let State::Open { times, .. } = *state {
            *state = State::Trial { times };
            rank = Rank::Trial;
        }
        Ok(Admission { breaker: self.clone(), since: now, rank, told: false })
    }

    /// How long `admit` would refuse; `None` when it would not.
    pub(super) fn refuses(&self) -> Option<Duration> {
        refusal(*self.lock(), Instant::now())
    }

    pub(super) fn circuit(&self) -> Circuit {
        match *self.lock() {
            State::Closed { .. } => Circuit::Closed,
            State::Open { until, .. } if until > Instant::now() => Circuit::Open,
            State::Open { .. } | State::Trial { .. } => Circuit::HalfOpen,
        }
    }

    /// The failures since the last success; an open circuit is worse than any closed one.
    pub(super) fn weight(&self) -> u32 {
        match *self.lock() {
            State::Closed { weight } => weight,
            State::Open { .. } | State::Trial { .. } => THRESHOLD,
        }
    }

    fn settle(&self, verdict: Verdict) {
        let mut state = self.lock();
        let added = match verdict {
            Verdict::Alive => 0,
            Verdict::Fault => FAULT_WEIGHT,
            Verdict::Timeout => TIMEOUT_WEIGHT,
        };
        *state = match *state {
            _ if added == 0 => State::Closed { weight: 0 },
            State::Closed { weight } if weight + added < THRESHOLD => State::Closed { weight: weight + added },
            State::Closed { .. } => opened(1),
            State::Trial { times } => opened(times.saturating_add(1)),
            // A request from before the circuit opened: it is known already.
            State::Open { until, times } => State::Open { until, times },
        };
    }

    /// The trial's caller left before its outcome was known: the next caller may try.
    fn abandon(&self) {
        let mut state = self.lock();
        if let State::Trial { times } = *state {
            *state = State::Open { until: Instant::now(), times };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each state is written whole: one left by a panic is sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(state: State, now: Instant) -> Option<Duration> {
    match state {
        State::Closed { .. } => None,
        State::Open { until, .. } => Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero()),
        State::Trial { .. } => Some(PATIENCE),
    }
}

/// Open for a while that nobody can predict to the second, so that edges do not come back all at once.
fn opened(times: u32) -> State {
    let doubled = SHORTEST_OPEN.saturating_mul(1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX));
    let time = doubled.min(LONGEST_OPEN).mul_f64(0.8 + 0.2 * fastrand::f64());
    State::Open { until: Instant::now() + time, times }
}

impl Admission {
    pub(super) fn settle(mut self, verdict: Verdict) {
        self.told = true;
        self.breaker.settle(verdict);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        if self.since.elapsed() >= PATIENCE {
            self.breaker.settle(Verdict::Timeout);
        } else if self.rank == Rank::Trial {
            self.breaker.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn fail(breaker: &Breaker, verdict: Verdict, times: u32) {
        for _ in 0..times {
            breaker.admit().unwrap().settle(verdict);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_the_circuit_and_timeouts_sooner() {
        let breaker = Breaker::new();
        fail(&breaker, Verdict::Fault, THRESHOLD - 1);
        assert_eq!(breaker.circuit(), Circuit::Closed);
        fail(&breaker, Verdict::Alive, 1);
        fail(&breaker, Verdict::Fault, THRESHOLD);
        assert_eq!(breaker.circuit(), Circuit::Open);
        assert!(breaker.admit().unwrap_err() <= SHORTEST_OPEN);

        let breaker = Breaker::new();
        fail(&breaker, Verdict::Timeout, 2);
        assert_eq!(breaker.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn one_trial_at_a_time_closes_it_or_opens_it_for_longer() {
        let breaker = Breaker::new();
        fail(&breaker, Verdict::Timeout, 2);
        let mut shortest = Duration::ZERO;
        for _ in 0..6 {
            let wait = breaker.admit().unwrap_err();
            assert!(wait <= LONGEST_OPEN);
            advance(wait).await;
            assert_eq!(breaker.circuit(), Circuit::HalfOpen);
            let trial = breaker.admit().unwrap();
            assert!(breaker.admit().is_err(), "a second trial beside the first");
            trial.settle(Verdict::Fault);
            let next = breaker.refuses().unwrap();
            assert!(next >= shortest.min(LONGEST_OPEN.mul_f64(0.8)), "{next:?}");
            shortest = next;
        }
        advance(LONGEST_OPEN).await;
        breaker.admit().unwrap().settle(Verdict::Alive);
        assert_eq!(breaker.circuit(), Circuit::Closed);
        fail(&breaker, Verdict::Fault, THRESHOLD - 1);
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_does_not_wedge_the_trial() {
        let breaker = Breaker::new();
        fail(&breaker, Verdict::Timeout, 2);
        advance(LONGEST_OPEN).await;
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().settle(Verdict::Alive);
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_give_up_after_a_wait_count_as_timeouts() {
        let breaker = Breaker::new();
        for _ in 0..2 {
            let admission = breaker.admit().unwrap();
            advance(PATIENCE).await;
            drop(admission);
        }
        assert_eq!(breaker.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_when_it_opened_does_not_prolong_it() {
        let breaker = Breaker::new();
        let early = breaker.admit().unwrap();
        fail(&breaker, Verdict::Fault, THRESHOLD);
        let wait = breaker.refuses().unwrap();
        early.settle(Verdict::Timeout);
        assert_eq!(breaker.refuses(), Some(wait));
        advance(wait).await;
        assert!(breaker.admit().is_ok());
    }
}
