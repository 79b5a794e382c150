//! What was pushed to a hosted repository is passed on to the upstream that its policy names, under the same name: so a region can take
//! pushes for an origin that is far. A client's push waits for none of it.
//!
//! ```text
//! policy   which upstream a repository goes to        queue    what waits, when its turn is, what became of it; pure
//! looking  what the ledger has that was not passed on errand   one manifest with all that it needs
//! content  hosted bytes as a stream
//! ```
//! In order: blobs, then the manifest; the manifests of an index, and a subject, before what refers to them; one manifest of a repository
//! at a time, so that an old tag never overtakes a new one. What an upstream took is noted in the ledger (`Event::Forwarded`): the node
//! that took the push may end at any time, and any node of the region goes on from there. Doing it twice is harmless, and rare: nodes
//! that only found a push in the ledger leave its own node some time.
//!
//! An upstream that cannot be asked is tried again with growing pauses; what it refuses (denied, invalid) is shown as failed, and tried
//! again rarely, or at once when it is pushed here again.
//!
//! Only pushes are passed on. A tag or manifest that is deleted here stays at the upstream: what is to be kept there is its owner's
//! decision, and a mistake here must not reach further than it has to.

mod content;
mod errand;
mod looking;
mod policy;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};

pub use policy::Policies;
pub use queue::{Pending, Standing};

use errand::Errand;
use queue::{Key, Outcome, Queue, Turn};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, RepositoryName, Tag};
use crate::region::Region;

/// Manifests on their way at one time.
const AT_ONCE: usize = 8;
/// How long nothing is looked for while nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// Passes pushes on, in the background. Cloning is cheap; dropping the last clone stops it.
#[derive(Clone, Debug)]
pub struct Forwarder(Arc<Tasks>);

#[derive(Debug)]
struct Tasks {
    inner: Arc<Inner>,
    running: [AbortHandle; 2],
}

#[derive(Debug)]
struct Inner {
    region: Region,
    policies: RwLock<Arc<Policies>>,
    queue: Mutex<Queue>,
    /// Something was added that may be due.
    added: Notify,
    /// The policies have changed: the ledger is to be looked through from its beginning.
    look: Notify,
    /// One at a time changes a list of referrers that lies under a tag.
    referrers: tokio::sync::Mutex<()>,
    clock: Clock,
    metrics: Metrics,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
    }
}

impl Forwarder {
    /// Begins as soon as the region is open, with what an earlier process left.
    pub fn start(region: Region, policies: Policies, clock: Clock, metrics: Metrics) -> Forwarder {
        let inner = Arc::new(Inner {
            region,
            policies: RwLock::new(Arc::new(policies)),
            queue: Mutex::default(),
            added: Notify::new(),
            look: Notify::new(),
            referrers: tokio::sync::Mutex::new(()),
            clock,
            metrics,
        });
        let running = [tokio::spawn(pass_on(inner.clone())).abort_handle(), tokio::spawn(looking::run(inner.clone())).abort_handle()];
        Forwarder(Arc::new(Tasks { inner, running }))
    }

    /// A manifest was pushed through this node, under these tags. Returns at once.
    pub fn note(&self, repository: &RepositoryName, digest: &Digest, tags: &[Tag]) {
        let inner = &self.0.inner;
        let Some(upstream) = inner.policies().upstream(repository).map(|upstream| upstream.name().clone()) else { return };
        let key = Key { repository: repository.clone(), digest: *digest };
        // What finds no room is found in the ledger by the next look: its repository has changed.
        inner.queue().push(key, tags.iter().cloned(), upstream, inner.clock.now(), Instant::now());
        inner.added.notify_one();
    }

    /// What this node knows to be on its way or to have failed, of the repositories that `readable` allows: the oldest first, at most
    /// `limit`.
    pub fn pending(&self, readable: impl Fn(&RepositoryName) -> bool, limit: usize) -> Vec<Pending> {
        self.0.inner.queue().pending(readable, limit)
    }

    /// Replaces the policies. What has begun is finished under the old ones.
    pub fn set_policies(&self, policies: Policies) {
        let inner = &self.0.inner;
        *inner.policies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
        inner.look.notify_one();
        inner.added.notify_one();
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        let inner = &self.0.inner;
        let (count, oldest) = inner.queue().extent();
        let age = oldest.map_or(Duration::ZERO, |since| inner.clock.now().since(since));
        inner.metrics.forwards_waiting(count, age);
    }

    /// Ends what is on its way; the next process takes it up again.
    pub fn stop(&self) {
        self.0.running.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    fn policies(&self) -> Arc<Policies> {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what is due, as far as there is room.
    fn start_due(self: &Arc<Inner>, running: &mut JoinSet<Outcome>, keys: &mut HashMap<Id, Key>) {
        while running.len() < AT_ONCE {
            let Some(Turn { key, tags, upstream }) = self.queue().take(Instant::now()) else { return };
            let target = self.policies().upstream(&key.repository).filter(|target| *target.name() == upstream).cloned();
            let Some(target) = target else {
                // The policy has changed; a look at the ledger finds what the new one wants.
                self.queue().settle(&key, Outcome::Gone, Instant::now());
                continue;
            };
            let (inner, errand_key) = (self.clone(), key.clone());
            let task = running.spawn(async move { Errand { inner: &inner, key: &errand_key, upstream: &target }.run(tags).await });
            keys.insert(task.id(), key);
        }
    }

    fn settle(&self, key: &Key, outcome: Outcome) {
        self.metrics.forward_ended(outcome.label());
        if let Outcome::Refused(why) | Outcome::Unavailable { why, .. } = &outcome {
            tracing::warn!(repository = %key.repository, digest = %key.digest, why, "a push could not be passed on");
        }
        self.queue().settle(key, outcome, Instant::now());
    }
}

async fn pass_on(inner: Arc<Inner>) {
    inner.region.opened().await;
    // Dropped with this task, and with it all that is on its way.
    let (mut running, mut keys) = (JoinSet::new(), HashMap::new());
    loop {
        inner.start_due(&mut running, &mut keys);
        let next = inner.queue().next_due().filter(|_| running.len() < AT_ONCE);
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = inner.added.notified() => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => (error.id(), Outcome::Unavailable { why: "it broke off".to_owned(), retry_after: None }),
                };
                if let Some(key) = keys.remove(&id) {
                    inner.settle(&key, outcome);
                }
            }
            () = sleep_until(next) => {}
        }
    }
}
