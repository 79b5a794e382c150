//! Contents come here as the policies of their repositories want it.
//!
//! What is to be copied is noted as segments of other regions come, and found in the ledger's index at the start, from time to time,
//! and when the policies change: nothing is lost by a restart. One node of a region copies, the one that imports; the others leave it
//! some time. Doing it twice costs a transfer, and the second copy is dropped.

mod errand;
mod queue;
mod rate;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::policy::{Policies, Urgency, chosen};
use super::{Inner, Nodes, heart};
use crate::config;
use crate::ledger::{BlobEntry, Ledger, LedgerError, WantedEntry};
use crate::oci::{Digest, RepositoryName};
use queue::{Lane, Outcome, Queue, SMALLEST, Wanted};
use rate::Rate;

/// Transfers at one time, and those of them that are not small.
const AT_ONCE: usize = 12;
const LARGE_AT_ONCE: usize = 6;
/// How long nothing is begun while nothing is due, and how often the hours are looked at.
const IDLE: Duration = Duration::from_secs(15);
/// Between two looks at all that the index has.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const LOOK_WHILE_LEAVING: Duration = Duration::from_secs(10);
const LEAST_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long copies are left to the node that imports: this, and as much again at random. One that a client waits for is not left long.
const COURTESY: Duration = Duration::from_secs(30);
const AWAITED_COURTESY: Duration = Duration::from_secs(3);
/// Contents that were noted and not judged yet, at most.
const MAX_NOTED: usize = 20_000;
/// Contents that are read from the index at a time.
const PAGE: usize = 256;

/// What is copied, and what waits for it.
pub(super) struct Copies {
    queue: Mutex<Queue>,
    /// By region.
    rates: Mutex<HashMap<Arc<str>, Rate>>,
    settings: config::Replication,
    noted: Mutex<Vec<(RepositoryName, Digest)>>,
    /// Something was noted.
    added: Notify,
    /// Something is wanted.
    begin: Notify,
    /// Everything is to be looked at again.
    look: Notify,
}

impl Copies {
    pub fn new(settings: &config::Replication) -> Copies {
        Copies {
            queue: Mutex::default(),
            rates: Mutex::default(),
            settings: settings.clone(),
            noted: Mutex::default(),
            added: Notify::new(),
            begin: Notify::new(),
            look: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Repositories have contents that they had not.
    pub fn note(&self, contents: Vec<(RepositoryName, Digest)>) {
        if contents.is_empty() {
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() + contents.len() > MAX_NOTED {
            self.look.notify_one();
        } else {
            noted.extend(contents);
        }
        self.added.notify_one();
    }

    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// How many contents wait or are on their way, and their bytes.
    pub fn extent(&self) -> (usize, u64) {
        let (contents, bytes, _) = self.queue().extent();
        (contents, bytes)
    }

    /// Waits until so many bytes may come from a region.
    async fn admit(&self, region: &Arc<str>, bytes: usize, clock: &crate::clock::Clock) {
        loop {
            let taken = {
                let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
                let rate = rates.entry(region.clone()).or_insert_with(|| Rate::new(self.settings.bandwidth.map(|size| size.0)));
                rate.take(bytes, clock.now())
            };
            match taken {
                Ok(()) => return,
                Err(wait) => sleep(wait).await,
            }
        }
    }
}

/// What decides over what is wanted here.
struct Judge {
    policies: Arc<Policies>,
    members: BTreeSet<Arc<str>>,
    own: Arc<str>,
    courtesy: bool,
}

impl Judge {
    fn new(inner: &Inner, ledger: &Ledger) -> Result<Judge, LedgerError> {
        let courtesy = inner.settings.nodes == Nodes::Several && !heart::is_importer(ledger);
        Ok(Judge { policies: inner.policies(), members: inner.members(ledger)?, own: inner.own_name.clone(), courtesy })
    }

    /// `None` for what shall not be here, or is.
    fn wanted(&self, (repository, digest): (RepositoryName, Digest), entry: &WantedEntry) -> Option<Wanted> {
        let policy = self.policies.of(&repository);
        let holding: BTreeSet<Arc<str>> = entry.places.iter().map(|place| place.origin.region.clone()).collect();
        let peer = entry.places.first()?.origin.region.clone();
        let chosen = chosen(policy, &digest, &self.members, &holding);
        chosen.contains(&&self.own).then(|| Wanted {
            digest,
            size_bytes: entry.size_bytes,
            lane: Lane { peer, repository },
            pushed_at: entry.since,
            urgency: policy.urgency(),
        })
    }

    fn due(&self, wanted: &Wanted) -> Instant {
        let courtesy = if wanted.urgency == Urgency::Awaited { AWAITED_COURTESY } else { COURTESY };
        Instant::now() + if self.courtesy { courtesy.mul_f64(1.0 + fastrand::f64()) } else { Duration::ZERO }
    }
}

/// Looks for what is wanted here: what was noted, at once; and everything, from time to time.
pub(super) async fn look(inner: Arc<Inner>) {
    let ledger = inner.opened().await.clone();
    let mut all_due = Instant::now();
    loop {
        // Who leaves has what nobody else has: then even the lazy copy.
        let somebody_leaves = inner.somebody_leaves(&ledger);
        if inner.policies().are_lazy() && !somebody_leaves {
            inner.copies.noted.lock().unwrap_or_else(PoisonError::into_inner).clear();
        } else {
            let everything = all_due <= Instant::now();
            if everything {
                all_due = Instant::now() + if somebody_leaves { LOOK_WHILE_LEAVING } else { LOOK_EVERY };
            }
            let (inner, ledger) = (inner.clone(), ledger.clone());
            // Walking the index can take long, and blocks.
            let looked = tokio::task::spawn_blocking(move || {
                let noted = judge_noted(&inner, &ledger);
                noted.and_then(|()| if everything { judge_all(&inner, &ledger) } else { Ok(()) })
            });
            if let Ok(Err(why)) = looked.await {
                tracing::warn!(%why, "looking for what is to be copied");
            }
        }
        tokio::select! {
            () = inner.copies.look.notified() => {
                all_due = Instant::now();
                sleep(LEAST_LOOK_PAUSE).await;
            }
            () = inner.copies.added.notified() => {}
            () = sleep(LOOK_WHILE_LEAVING) => {}
        }
    }
}

fn judge_noted(inner: &Inner, ledger: &Ledger) -> Result<(), LedgerError> {
    let noted = std::mem::take(&mut *inner.copies.noted.lock().unwrap_or_else(PoisonError::into_inner));
    if noted.is_empty() {
        return Ok(());
    }
    let judge = Judge::new(inner, ledger)?;
    for (repository, digest) in noted {
        let Some(BlobEntry { size_bytes, inline: None, places }) = ledger.places(&digest)? else { continue };
        let since = inner.clock.now();
        let entry = WantedEntry { digest, repository: repository.clone(), size_bytes, since, places };
        enter(inner, &judge, (repository, digest), &entry);
    }
    Ok(())
}

fn judge_all(inner: &Inner, ledger: &Ledger) -> Result<(), LedgerError> {
    let judge = Judge::new(inner, ledger)?;
    let mut after = None;
    loop {
        let page = ledger.wanted(after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key());
        for entry in page {
            if !enter(inner, &judge, (entry.repository.clone(), entry.digest), &entry) {
                return Ok(());
            }
        }
    }
}

/// Whether there was room.
fn enter(inner: &Inner, judge: &Judge, content: (RepositoryName, Digest), entry: &WantedEntry) -> bool {
    let Some(wanted) = judge.wanted(content, entry) else { return true };
    let due = judge.due(&wanted);
    let entered = inner.copies.queue().push(wanted, due);
    inner.copies.begin.notify_one();
    entered
}

/// Copies what is due, so many at a time.
pub(super) async fn run(inner: Arc<Inner>) {
    inner.opened().await;
    // Dropped with this task, and with it all that is on its way.
    let (mut running, mut digests) = (JoinSet::new(), HashMap::new());
    loop {
        start_due(&inner, &mut running, &mut digests);
        let idle = Instant::now() + IDLE;
        let next = inner.copies.queue().next_due().filter(|_| running.len() < AT_ONCE).map_or(idle, |due| due.min(idle));
        tokio::select! {
            () = inner.copies.begin.notified() => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => (error.id(), Outcome::Again),
                };
                if let Some(digest) = digests.remove(&id) {
                    inner.copies.queue().settle(&digest, outcome, Instant::now());
                }
            }
            () = sleep_until(next) => {}
        }
    }
}

fn start_due(inner: &Arc<Inner>, running: &mut JoinSet<Outcome>, digests: &mut HashMap<Id, Digest>) {
    let is_open = inner.copies.settings.copies_at(inner.clock.now());
    while running.len() < AT_ONCE {
        let wanted = {
            let mut queue = inner.copies.queue();
            let most_class = if queue.running_large() < LARGE_AT_ONCE { u8::MAX } else { SMALLEST };
            queue.take(Instant::now(), if is_open { queue::Most::Class(most_class) } else { queue::Most::Awaited })
        };
        let Some(wanted) = wanted else { return };
        let (inner, digest) = (inner.clone(), wanted.digest);
        let task = running.spawn(async move { errand::run(&inner, &wanted).await });
        digests.insert(task.id(), digest);
    }
}
