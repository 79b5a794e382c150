//! What the ledger has that was not passed on: left by an earlier process, or pushed through another node.
//!
//! A repository is looked through when it has changed since the last look, and all are from time to time. Nodes that find a push leave
//! the one that took it some time to pass it on itself: only then, and each at a moment of its own, they see whether it is still to do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Inner;
use super::policy::Policies;
use super::queue::Key;
use crate::clock::Timestamp;
use crate::ledger::{Ledger, LedgerError, Look, RepositoryEntry, UnforwardedEntry, UnforwardedQuery};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// Between two looks at what has changed, and at everything.
const CHANGES_EVERY: Duration = Duration::from_secs(60);
const ALL_EVERY: Duration = Duration::from_secs(3_600);
/// The least time between two looks, whatever asks for one.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// How long another node's pushes are left to it: this, and as much again at random.
const COURTESY: Duration = Duration::from_secs(30);
/// The same at the start, when what is found is as likely this node's own.
const FIRST_COURTESY: Duration = Duration::from_millis(500);
/// Repositories, and names of one, that are read at a time.
const PAGE: usize = 256;
/// Repositories that were not looked through to their end for want of room; more are found by the next look at everything.
const MAX_UNFINISHED: usize = 10_000;

pub(super) async fn run(inner: Arc<Inner>) {
    let ledger = inner.region.opened().await.ledger.clone();
    let mut lookout = Lookout { courtesy: FIRST_COURTESY, ..Lookout::default() };
    let mut all_due = Instant::now();
    loop {
        if all_due <= Instant::now() {
            lookout.changed_after = Timestamp::default();
            all_due = Instant::now() + ALL_EVERY;
        }
        let policies = inner.policies();
        if !policies.are_idle() {
            // While the bucket is away, what the index knows is passed on all the same: as far as that goes without a bucket.
            let _ = ledger.confirm(Look::Recent).await;
            lookout = look(&inner, &ledger, policies, lookout).await;
        }
        sleep(LEAST_PAUSE).await;
        if timeout(CHANGES_EVERY, inner.look.notified()).await.is_ok() {
            all_due = Instant::now();
        }
    }
}

/// What one look leaves for the next.
#[derive(Debug, Default)]
struct Lookout {
    /// Repositories that were last changed before this have been looked through.
    changed_after: Timestamp,
    courtesy: Duration,
    /// Where to go on in those that were not looked through to their end.
    unfinished: BTreeMap<RepositoryName, Option<Reference>>,
}

/// Walking the index can take long, and blocks.
async fn look(inner: &Arc<Inner>, ledger: &Ledger, policies: Arc<Policies>, mut lookout: Lookout) -> Lookout {
    let (inner, ledger) = (inner.clone(), ledger.clone());
    let looked = tokio::task::spawn_blocking(move || {
        if let Err(error) = lookout.all(&inner, &ledger, &policies) {
            tracing::warn!(%error, "looking for pushes that were not passed on");
            lookout.changed_after = Timestamp::default();
        }
        inner.added.notify_one();
        lookout.courtesy = COURTESY;
        lookout
    });
    // It ends early only with the process; then everything is looked at again.
    looked.await.unwrap_or_default()
}

impl Lookout {
    fn all(&mut self, inner: &Inner, ledger: &Ledger, policies: &Policies) -> Result<(), LedgerError> {
        for (repository, after) in std::mem::take(&mut self.unfinished) {
            self.repository(inner, ledger, policies, (repository, after))?;
        }
        let since = self.changed_after;
        let (mut last, mut latest) = (None, since);
        loop {
            let page: Vec<RepositoryEntry> = ledger.repositories(last.as_ref().map(RepositoryName::as_str), PAGE)?;
            let Some(end) = page.last() else { break };
            last = Some(end.name.clone());
            for entry in page.into_iter().filter(|entry| entry.updated_at >= since) {
                latest = latest.max(entry.updated_at);
                self.repository(inner, ledger, policies, (entry.name, None))?;
            }
        }
        if self.unfinished.len() < MAX_UNFINISHED {
            self.changed_after = latest;
        }
        Ok(())
    }

    fn repository(
        &mut self,
        inner: &Inner,
        ledger: &Ledger,
        policies: &Policies,
        (repository, mut after): (RepositoryName, Option<Reference>),
    ) -> Result<(), LedgerError> {
        let Some(upstream) = policies.upstream(&repository).map(|upstream| upstream.name().clone()) else { return Ok(()) };
        loop {
            let query = UnforwardedQuery { repository: &repository, upstream: &upstream, after: after.as_ref(), limit: PAGE };
            let found = ledger.unforwarded(&query)?;
            let Some(end) = found.last() else { return Ok(()) };
            let next = end.reference.clone();
            let due = Instant::now() + self.courtesy.mul_f64(1.0 + fastrand::f64());
            for (digest, (tags, since)) in by_digest(found) {
                let key = Key { repository: repository.clone(), digest };
                if !inner.queue().find(key, tags.into_iter(), upstream.clone(), since, due) {
                    if self.unfinished.len() < MAX_UNFINISHED {
                        self.unfinished.insert(repository, after);
                    }
                    return Ok(());
                }
            }
            after = Some(next);
        }
    }
}

/// The names of each manifest, and when the first of them was pushed.
fn by_digest(found: Vec<UnforwardedEntry>) -> HashMap<Digest, (Vec<Tag>, Timestamp)> {
    let mut grouped: HashMap<Digest, (Vec<Tag>, Timestamp)> = HashMap::new();
    for UnforwardedEntry { reference, digest, pushed_at } in found {
        let (tags, since) = grouped.entry(digest).or_insert((Vec::new(), pushed_at));
        *since = pushed_at.min(*since);
        if let Reference::Tag(tag) = reference {
            tags.push(tag);
        }
    }
    grouped
}
