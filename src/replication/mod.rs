//! Other regions: what they have comes here, what they know can be asked for, and how far behind this region is can be seen.
//!
//! ```text
//! remote   what another region is asked          follow   its ledger comes here, segment by segment
//! gate     the one door of imports               rounds   catching up, shared by those who need it
//! asking   names that are unknown here           sight    what is known of a peer, and the lag; pure
//! policy   who holds a copy of what; pure        copy/    contents come here as the policies want
//! backlog  what was pushed here and is not elsewhere     pending  what operators are told of both
//! ```
//! Nothing here is needed for a push or a read of what this region has. A peer that is away costs those who ask for what is unknown
//! here the time to find out, bounded, and nobody else anything.

mod asking;
mod backlog;
mod copy;
mod follow;
mod gate;
mod heart;
mod holding;
mod peer;
mod pending;
mod policy;
mod remote;
mod renewal;
mod rounds;
mod sight;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

pub use asking::Resolved;
pub use holding::NotHeld;
pub use pending::Pending;
pub use policy::{Policies, Policy};
pub use remote::{Known, KnownEntry, Name, Standing as PeerStanding};
pub use renewal::{Superseded, inherit};
pub use sight::PeerLag;
pub use survey::{Surveyed, survey};

use asking::Questions;
use backlog::{Backlog, Oldest};
use copy::Copies;
use follow::{Blind, Link};
use gate::Gate;
use heart::News;
use remote::{Remote, Told};
use rounds::Rounds;
use sight::Sight;

use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::ledger::{Glance, ImportError, Ledger, LedgerError, Look, Origin, Position, Standing};
use crate::metrics::Metrics;
use crate::oci::Reference;
use crate::region::Region;

/// Conflicts that are counted, at most.
const MAX_CONFLICTS: usize = 10_000;
/// So many segments of a region are missing where it pays to wait for the next of them, and not to have them searched for elsewhere.
const FAR_BEHIND: u64 = 32;

/// The other regions. Cloning is cheap; dropping the last clone stops what goes on here.
#[derive(Clone)]
pub struct Replication(Arc<Tasks>);

struct Tasks {
    inner: Arc<Inner>,
    superseded: watch::Receiver<bool>,
    running: Mutex<Vec<AbortHandle>>,
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How old what is known of another region may be where questions cannot wait.
    pub follow_interval: Duration,
    pub nodes: Nodes,
    /// How fast copies come, and when.
    pub copies: config::Replication,
}

/// How many edges this region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    One,
    Several,
}

/// What a round of catching up came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// Regions of which it is not known what they have.
    pub blind: Vec<Arc<str>>,
}

pub(super) struct Inner {
    region: Region,
    own_name: Arc<str>,
    links: Vec<Arc<Link>>,
    settings: Settings,
    policies: RwLock<Arc<Policies>>,
    gate: Gate,
    /// Held by the one that takes a snapshot over.
    adopting: tokio::sync::Mutex<()>,
    /// For each link, in a round, whether it is level: not known yet, yes, or no.
    rounds: Rounds<Vec<Option<bool>>>,
    questions: Questions,
    news: Mutex<News>,
    copies: Copies,
    oldest: Mutex<Oldest>,
    clock: Clock,
    metrics: Metrics,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tasks {
    fn stop(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
    }
}

impl Replication {
    /// Begins as soon as the own region is open. `own_name` is its name.
    pub fn start(region: Region, own_name: &str, settings: Settings, policies: Policies, clock: Clock, metrics: Metrics) -> Replication {
        let remotes = region.peers().iter().map(|peer| Box::new(peer.clone()) as Box<dyn Remote>).collect();
        Replication::over(region, own_name, remotes, (settings, policies), (clock, metrics))
    }

    fn over(
        region: Region,
        own_name: &str,
        remotes: Vec<Box<dyn Remote>>,
        (settings, policies): (Settings, Policies),
        (clock, metrics): (Clock, Metrics),
    ) -> Replication {
        let link = |remote: Box<dyn Remote>| {
            let sight = Sight::new(remote.region(), clock.now());
            Arc::new(Link::new(remote, sight))
        };
        let inner = Arc::new(Inner {
            gate: Gate::start(region.clone()),
            adopting: tokio::sync::Mutex::default(),
            region,
            own_name: own_name.into(),
            links: remotes.into_iter().map(link).collect(),
            copies: Copies::new(&settings.copies),
            settings,
            policies: RwLock::new(Arc::new(policies)),
            rounds: Rounds::default(),
            questions: Questions::new(clock.clone()),
            news: Mutex::default(),
            oldest: Mutex::default(),
            clock,
            metrics,
        });
        let mut running = Vec::new();
        let (tell, superseded) = watch::channel(false);
        // A region that is alone has nothing to do here.
        if !inner.links.is_empty() {
            running.extend(inner.links.iter().map(|link| {
                let (inner, link) = (inner.clone(), link.clone());
                tokio::spawn(async move { link.follow(&inner).await }).abort_handle()
            }));
            running.push(tokio::spawn(heart::beat(inner.clone())).abort_handle());
            running.push(tokio::spawn(renewal::watch(inner.clone(), tell)).abort_handle());
            running.push(tokio::spawn(copy::run(inner.clone())).abort_handle());
            running.push(tokio::spawn(copy::look(inner.clone())).abort_handle());
            running.push(tokio::spawn(watch_backlog(inner.clone())).abort_handle());
        }
        Replication(Arc::new(Tasks { inner, superseded, running: Mutex::new(running) }))
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    /// The name of this region.
    pub fn own_name(&self) -> &Arc<str> {
        &self.inner().own_name
    }

    /// Tells when another incarnation of this region is in force.
    pub fn superseded(&self) -> Superseded {
        Superseded::new(self.0.superseded.clone())
    }

    /// Whether there are other regions.
    pub fn has_peers(&self) -> bool {
        !self.inner().links.is_empty()
    }

    /// Folds what all peers had committed when this was called, as far as that is possible in time.
    pub async fn catch_up(&self, within: Duration) -> CaughtUp {
        let inner = self.inner();
        if inner.links.is_empty() {
            return CaughtUp::default();
        }
        let deadline = Instant::now() + within;
        let mut round = self.join_round();
        let is_complete = |levels: &Vec<Option<bool>>| !levels.is_empty() && levels.iter().all(Option::is_some);
        let _ = timeout_at(deadline, round.wait_for(is_complete)).await;
        let levels = round.borrow().clone();
        let is_level = |at: usize| levels.get(at).copied().flatten().unwrap_or(false);
        let blind = inner.links.iter().enumerate().filter(|(at, _)| !is_level(*at));
        CaughtUp { blind: blind.map(|(_, link)| link.region().clone()).collect() }
    }

    fn join_round(&self) -> watch::Receiver<Vec<Option<bool>>> {
        let inner = self.inner().clone();
        self.inner().rounds.join(move |tell| {
            let inner = inner.clone();
            async move {
                tell.send_replace(vec![None; inner.links.len()]);
                let tell = &tell;
                let caught = inner.links.iter().enumerate().map(|(at, link)| {
                    let inner = &inner;
                    async move {
                        let outcome = link.catch_up(inner).await;
                        if let Err(why) = &outcome {
                            tracing::debug!(region = %link.region(), %why, "a region could not be caught up with");
                        }
                        tell.send_modify(|levels| levels[at] = Some(outcome.is_ok()));
                    }
                });
                futures_util::future::join_all(caught).await;
            }
        })
    }

    /// What the peers have now is fetched soon, and nobody waits for it.
    pub fn kick(&self) {
        self.inner().links.iter().for_each(|link| link.kick());
    }

    /// Whether this node has folded a position, its own region's or another's, in time.
    pub async fn reach(&self, position: &Position, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        timeout_at(deadline, self.inner().reach(position, deadline)).await.unwrap_or(false)
    }

    /// Asks all other regions about a name that is unknown here.
    pub async fn resolve(&self, name: &Name) -> Resolved {
        if self.inner().links.is_empty() {
            return Resolved::Denied;
        }
        let resolved = self.inner().questions.ask(self.inner(), name).await;
        if let Resolved::Found(known) = &resolved {
            // It will be asked for again, and what it refers to will be.
            self.inner().links.iter().filter(|link| *link.region() == known.region).for_each(|link| link.kick());
        }
        resolved
    }

    /// Asks one region about a name, whatever is known here.
    pub async fn resolve_in(&self, region: &str, name: &Name) -> Resolved {
        let blind = || Resolved::Blind(vec![region.into()]);
        let Some(link) = self.inner().links.iter().find(|link| **link.region() == *region) else { return blind() };
        match tokio::time::timeout(asking::PATIENCE, link.remote.resolve(name)).await {
            Ok(Told::Found(known)) => Resolved::Found(known),
            Ok(Told::Denied) => Resolved::Denied,
            Ok(Told::Mute | Told::CannotTell(_)) | Err(_) => blind(),
        }
    }

    /// The policy of a repository.
    pub fn policy(&self, repository: &crate::oci::RepositoryName) -> Policy {
        self.inner().policies().of(repository)
    }

    /// Replaces the policies.
    pub fn set_policies(&self, policies: Policies) {
        *self.inner().policies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
        self.inner().copies.look_again();
    }

    /// How far behind each other region this one is.
    pub fn lag(&self) -> Vec<PeerLag> {
        let now = self.inner().clock.now();
        let vector = self.inner().open_ledger().ok().and_then(|ledger| ledger.vector().ok());
        let lag_of = |link: &Arc<Link>| {
            let mut sight = link.sight();
            // What came by way of another region is folded too.
            if let Some((vector, origin)) = vector.as_ref().zip(sight.origin().cloned()) {
                sight.reached(vector.get(&origin), now);
            }
            sight.lag(now)
        };
        self.inner().links.iter().map(lag_of).collect()
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        let inner = self.inner();
        let region = inner.region.get();
        inner.metrics.region_open.set(region.is_ok().into());
        // A ledger that cannot be read for a moment says nothing new.
        if let Some(fenced) = region.ok().and_then(|open| open.ledger.fenced().ok()) {
            inner.metrics.ledger_fenced.set(fenced.is_some().into());
        }
        if inner.links.is_empty() {
            return;
        }
        for lag in self.lag() {
            inner.metrics.peer_behind(&lag.region, lag.behind_events, Duration::from_millis(lag.behind_ms));
            inner.metrics.peer_visible(&lag.region, lag.blind.is_none());
        }
        let (now, oldest) = (inner.clock.now(), *inner.oldest.lock().unwrap_or_else(PoisonError::into_inner));
        let age = |since: Option<Timestamp>| since.map_or(Duration::ZERO, |since| now.since(since));
        inner.metrics.oldest_unreplicated_push("metadata", age(oldest.metadata));
        inner.metrics.oldest_unreplicated_push("bytes", age(oldest.bytes));
        let (contents, bytes) = inner.copies.extent();
        inner.metrics.copies_waiting(contents, bytes);
    }

    /// Ends what goes on; the next process takes it up again.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Inner {
    fn policies(&self) -> Arc<Policies> {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The own ledger, once there is one.
    async fn opened(&self) -> &Ledger {
        &self.region.opened().await.ledger
    }

    fn open_ledger(&self) -> Result<Ledger, Blind> {
        self.region.get().map(|open| open.ledger.clone()).map_err(|why| Blind::Own(why.to_string()))
    }

    /// Whether a region drains: the others get what it alone has.
    fn somebody_leaves(&self, ledger: &Ledger) -> bool {
        ledger.members().is_ok_and(|members| members.iter().any(|member| member.standing == Standing::Leaving))
    }

    /// The regions that copies are counted in: those of the configuration that did not leave.
    fn members(&self, ledger: &Ledger) -> Result<BTreeSet<Arc<str>>, LedgerError> {
        let known = ledger.members()?;
        let has_left = |name: &Arc<str>| {
            let mut of_it = known.iter().filter(|member| member.origin.region == *name).peekable();
            of_it.peek().is_some() && of_it.all(|member| member.standing != Standing::Joined)
        };
        let configured = self.links.iter().map(|link| link.region().clone());
        Ok(configured.filter(|name| !has_left(name)).chain([self.own_name.clone()]).collect())
    }

    /// The last segment of this region that a peer is known to have folded.
    fn seen_of_us(&self, ledger: &Ledger, link: &Link) -> u64 {
        let (told, origin) = {
            let sight = link.sight();
            (sight.seen_of_us(), sight.origin().cloned())
        };
        let wrote = origin.and_then(|origin| ledger.seen_by(&origin).ok()).map_or(0, |seen| seen.get(ledger.origin()));
        told.max(wrote)
    }

    /// What segments of a ledger wait for, if it is of another ledger that is seen to have it, and much else that is missing here. The
    /// last few are had sooner from who names them.
    fn coming(&self, offered: &Result<(), ImportError>, waiting: &Origin) -> Option<(Origin, u64)> {
        let Err(ImportError::Behind { origin: cause, seq }) = offered else { return None };
        let brings = |link: &Arc<Link>| {
            let sight = link.sight();
            let is_far = sight.behind_events() >= FAR_BEHIND && sight.tail() >= *seq;
            sight.origin() == Some(cause) && is_far && sight.blind(self.clock.now()).is_none()
        };
        (cause != waiting && self.links.iter().any(brings)).then(|| (cause.clone(), *seq))
    }

    /// A ledger is not followed any further.
    fn refuse(&self, origin: &Origin, why: &str) {
        let Some(link) = self.links.iter().find(|link| *link.region() == origin.region) else { return };
        if link.sight().refused(why.to_owned()) {
            tracing::error!(ledger = %origin, why, "the ledger of a region is not followed any further");
            self.metrics.peer_refused(&origin.region);
        }
    }

    /// A segment of another region is folded here.
    fn saw_segment(&self, region: &str, (origin, seq): (&Origin, u64), glance: Option<Glance>, now: Timestamp) {
        let Some(glance) = glance else { return };
        self.metrics.visible_lag(region, now.since(glance.clock.timestamp()));
        if !glance.is_heartbeat {
            self.news.lock().unwrap_or_else(PoisonError::into_inner).heard(origin, seq);
        }
        self.copies.note(glance.contents);
    }

    /// Whether the own ledger knows a name, as far as it is folded.
    fn knows(&self, name: &Name) -> bool {
        let Ok(open) = self.region.get() else { return false };
        let ledger = &open.ledger;
        let known = match name {
            Name::Manifest(repository, Reference::Digest(digest)) => ledger.manifest(repository, digest).map(|found| found.is_some()),
            Name::Manifest(repository, Reference::Tag(tag)) => ledger.tag(repository, tag).map(|found| found.is_some()),
            Name::Blob(repository, digest) => ledger.blob(repository, digest).map(|found| found.is_some()),
        };
        known.unwrap_or(false)
    }

    async fn reach(&self, position: &Position, deadline: Instant) -> bool {
        let Ok(open) = self.region.get() else { return false };
        let ledger = &open.ledger;
        let (origin, seq) = (&position.origin, position.seq);
        let is_there = || ledger.vector().is_ok_and(|vector| vector.covers(origin, seq));
        // What a lost ledger holds behind its cut is taken over by the region's next incarnation, under other positions.
        let is_cut_off = || ledger.cut(origin).is_ok_and(|cut| cut.is_some_and(|cut| seq > cut));
        let own = ledger.origin();
        if *position.region() == own.region {
            let is_here = || is_there() || (origin != own && is_cut_off());
            return is_here() || (ledger.confirm(Look::Now).await.is_ok() && is_here());
        }
        let Some(link) = self.links.iter().find(|link| link.region() == position.region()) else { return false };
        loop {
            if is_there() {
                return true;
            }
            // Then only the region itself can tell.
            if is_cut_off() {
                return false;
            }
            let caught_up = link.catch_up(self).await;
            // An edge there may not have seen yet what another one committed; or it is away.
            if is_there() || (caught_up.is_err() && Instant::now() >= deadline) {
                return is_there();
            }
            sleep(reach_pause()).await;
        }
    }
}

/// Between two tries to reach a position.
const fn reach_pause() -> Duration {
    Duration::from_millis(100)
}

async fn watch_backlog(inner: Arc<Inner>) {
    let ledger = inner.opened().await.clone();
    let mut backlog = Backlog::default();
    loop {
        match backlog.look(&inner, &ledger).await {
            Ok(oldest) => *inner.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest,
            Err(why) => tracing::debug!(%why, "what is not elsewhere yet cannot be told"),
        }
        if let Ok(conflicts) = ledger.conflicts(MAX_CONFLICTS) {
            inner.metrics.conflicts(conflicts.len());
        }
        sleep(backlog::LOOK_EVERY).await;
    }
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peers: Vec<_> = self.inner().links.iter().map(|link| link.region()).collect();
        f.debug_struct("Replication").field("peers", &peers).finish_non_exhaustive()
    }
}
