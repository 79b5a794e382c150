//! Rounds that many callers share: each caller needs one that begins after its call, and none owns it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// `P` is how far a round has come; it begins with its default.
#[derive(Debug)]
pub(super) struct Rounds<P>(Arc<Mutex<State<P>>>);

#[derive(Debug)]
struct State<P> {
    is_running: bool,
    /// The round that has not begun.
    next: Option<watch::Sender<P>>,
}

impl<P> Default for Rounds<P> {
    fn default() -> Rounds<P> {
        Rounds(Arc::new(Mutex::new(State { is_running: false, next: None })))
    }
}

fn lock<P>(state: &Mutex<State<P>>) -> MutexGuard<'_, State<P>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whatever ends a round, the next caller begins another.
struct Running<P>(Arc<Mutex<State<P>>>);

impl<P> Drop for Running<P> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_running = false;
        // Its callers are told that it will not be.
        state.next = None;
    }
}

impl<P: Clone + Default + Send + Sync + 'static> Rounds<P> {
    /// What a round that begins from now on tells. `round` makes one; every caller's does the same.
    pub fn join<F, R>(&self, round: F) -> watch::Receiver<P>
    where
        F: Fn(watch::Sender<P>) -> R + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let mut state = lock(&self.0);
        let told = state.next.get_or_insert_with(|| watch::Sender::new(P::default())).subscribe();
        if !state.is_running {
            state.is_running = true;
            let running = Running(self.0.clone());
            tokio::spawn(async move {
                while let Some(tell) = running.next() {
                    round(tell).await;
                }
            });
        }
        told
    }
}

impl<P> Running<P> {
    /// From here on, who comes waits for the round after.
    fn next(&self) -> Option<watch::Sender<P>> {
        let mut state = lock(&self.0);
        let next = state.next.take();
        // In the same step, so that nobody joins what nobody runs.
        state.is_running = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_share_a_round_that_begins_after_they_came() {
        let (rounds, count) = (Rounds::<Option<Instant>>::default(), Arc::new(AtomicU64::new(0)));
        let join = || {
            let count = count.clone();
            rounds.join(move |tell| {
                let count = count.clone();
                async move {
                    let begun = Instant::now();
                    count.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(100)).await;
                    tell.send_replace(Some(begun));
                }
            })
        };
        let start = Instant::now();
        let mut callers = Vec::new();
        for after_ms in [0, 10, 50, 120] {
            sleep(start + Duration::from_millis(after_ms) - Instant::now()).await;
            callers.push((Instant::now(), join()));
        }
        for (came, mut told) in callers {
            let begun = told.wait_for(Option::is_some).await.unwrap().unwrap();
            assert!(begun >= came);
        }
        // The first, one for the two that came during it, and one for the last.
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}
