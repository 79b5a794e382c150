//! Single flight: one run of a piece of work for each key, whoever waits for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::trace::{self, Context};

/// Pieces of work under way at one time: each outlives its callers, who may be many and gone.
const MAX_RUNNING: usize = 16_384;

/// Work under way, by key. The work runs in a task of its own: callers that leave do not stop it, and it is forgotten when it ends.
///
/// It belongs to the trace of who began it; the traces of those that join refer to that.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    running: Running<K, V>,
}

type Running<K, V> = Arc<Mutex<HashMap<K, Flight<V>>>>;

/// One piece of work.
#[derive(Debug)]
struct Flight<V> {
    result: watch::Receiver<Option<V>>,
    /// Of who began it.
    context: Option<Context>,
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Flights { running: self.running.clone() }
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Flights { running: Arc::default() }
    }
}

/// The work ended without a result: it panicked, there is too much of it, or the program is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was abandoned")]
pub(super) struct Abandoned;

/// Lets work under way publish its value before it ends.
#[derive(Debug)]
pub(super) struct Early<V>(Arc<watch::Sender<Option<V>>>);

impl<V> Early<V> {
    pub(super) fn publish(&self, value: V) {
        let _ = self.0.send(Some(value));
    }
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// Waits for the value of the work under way for `key`, or starts it. Its bound is the work's own: each piece has its timeouts.
    pub(super) async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<V, Abandoned>
    where
        F: Future<Output = V> + Send + 'static,
    {
        Self::value(self.start(key, |_| {
            let work = work();
            async { Some(work.await) }
        }))
        .await
    }

    /// Waits for what `start` gave.
    pub(super) async fn value(mut result: watch::Receiver<Option<V>>) -> Result<V, Abandoned> {
        let value = result.wait_for(Option::is_some).await.map_err(|_| Abandoned)?;
        value.clone().ok_or(Abandoned)
    }

    /// Waits until nothing is under way.
    pub(super) async fn idle(&self) {
        loop {
            let some = self.running.lock().unwrap_or_else(PoisonError::into_inner).values().next().map(|flight| flight.result.clone());
            let Some(mut result) = some else { return };
            // Its channel closes when the work has ended.
            while result.changed().await.is_ok() {}
        }
    }

    /// Whether there is work under way for `key`.
    pub(super) fn is_running(&self, key: &K) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Starts the work unless it is under way, and does not wait. The work may publish its value early, or give it at its end.
    pub(super) fn start<F>(&self, key: K, work: impl FnOnce(Early<V>) -> F) -> watch::Receiver<Option<V>>
    where
        F: Future<Output = Option<V>> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(under_way) = running.get(&key) {
                under_way.context.iter().for_each(trace::link);
                return under_way.result.clone();
            }
            if running.len() >= MAX_RUNNING {
                // Its sender goes with this return: the caller is told that the work was abandoned.
                return receiver;
            }
            let context = trace::current().map(|part| part.context().clone());
            running.insert(key.clone(), Flight { result: receiver.clone(), context });
        }
        // Unlocked before the spawn: a runtime that is ending drops the task, and its landing, at once.
        let landing = Landing { running: self.running.clone(), key };
        let sender = Arc::new(sender);
        let work = trace::carried(work(Early(sender.clone())));
        tokio::spawn(async move {
            let value = work.await;
            // Forgotten first, so that who asks after the end starts anew.
            drop(landing);
            if value.is_some() {
                let _ = sender.send(value);
            }
        });
        receiver
    }
}

/// Forgets a piece of work when it ends, also when it panics.
struct Landing<K: Eq + Hash, V> {
    running: Running<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_one_run_and_none_owns_it() {
        let (flights, runs) = (Flights::<u8, usize>::default(), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let runs = runs.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                runs.fetch_add(1, Ordering::Relaxed) + 1
            }
        };
        let leaves = tokio::time::timeout(Duration::from_millis(10), flights.join(1, work)).await;
        assert!(leaves.is_err());
        let (a, b) = tokio::join!(flights.join(1, work), flights.join(1, work));
        assert_eq!((a, b), (Ok(1), Ok(1)));
        assert_eq!(flights.join(1, work).await, Ok(2), "what has ended is run again");
        assert!(flights.running.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_can_be_had_before_the_work_ends() {
        let flights = Flights::<u8, u8>::default();
        let early = flights.start(1, |early| async move {
            early.publish(7);
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        });
        assert_eq!(Flights::<u8, u8>::value(early).await, Ok(7));
        assert!(flights.is_running(&1));
        assert_eq!(flights.join(1, || async { 8 }).await, Ok(7), "who comes while it goes on gets the early value");
        flights.idle().await;
        assert!(!flights.is_running(&1));
    }

    #[tokio::test]
    async fn a_panic_abandons_and_leaves_no_trace() {
        let flights = Flights::<u8, u8>::default();
        assert_eq!(flights.join(1, || async { panic!("planted") }).await, Err(Abandoned));
        assert_eq!(flights.join(1, || async { 7 }).await, Ok(7));
    }
}
