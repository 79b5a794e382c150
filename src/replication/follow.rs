//! Following one other region: its segments come here as they are committed there.
//!
//! Every node follows. The one that wrote the last import goes on doing so; the others leave it some time, and import by themselves
//! what it then has not. Doing it twice is harmless: what is folded already is passed over.
//!
//! Of an old region the first segments are trimmed. Who comes late takes its last snapshot over, from its store, and goes on from there.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::gate::Haste;
use super::remote::{Remote, Standing, Through};
use super::sight::Sight;
use super::{Inner, Nodes, heart};
use crate::ledger::{Adopted, Foreign, Glance, ImportError, Ledger, LedgerError, Look, Origin, PullError, Pulled, Segments};

/// How long a peer's edge is asked to wait for something to tell. Not longer, for so long a cut line can look like a quiet one.
const LONG_POLL: Duration = Duration::from_secs(10);
/// After this time without a look at where a peer stands (its incarnation, what it has seen) there is one.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// And of one that was declared lost.
const LOOK_FOR_NEXT: Duration = Duration::from_secs(2);
/// How long an import is left to the node that wrote the last one, and as much again of it at random.
const LEFT_TO_OTHERS: Duration = Duration::from_millis(1_200);
const JITTER: f64 = 0.5;
/// Between two questions to a peer that has nothing new and does not let questions wait, the first time. After many it is the
/// configured interval, and to one that cannot be asked this: it is soon seen when it can be again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(3);
/// So long a peer that could not be asked is taken to be as blind as it was.
const BLIND_MEMORY: Duration = Duration::from_secs(1);
/// A snapshot that could not be taken over is tried again after this time: it is large.
const ADOPT_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long segments wait for what they need and its own region is known to have; and while a client waits for them.
const CAUSE_PATIENCE: Duration = Duration::from_secs(3);
const HASTY_CAUSE_PATIENCE: Duration = Duration::from_millis(500);
/// How long after what was imported is there its outcome may be told.
const OUTCOME_PATIENCE: Duration = Duration::from_millis(100);
/// Rounds of one catching up, at most: what is written meanwhile is not waited for, so that only a long history takes many.
const MAX_ROUNDS: usize = 64;

/// A peer and what is known of it.
pub(super) struct Link {
    pub remote: Box<dyn Remote>,
    sight: Mutex<Sight>,
    /// Somebody waits for what it has now.
    kicked: Notify,
    looked_at: Mutex<Option<Instant>>,
    lost_at: Mutex<Option<Instant>>,
    /// What comes next, of its ledger or of one that it relays, is in a snapshot only.
    is_trimmed: AtomicBool,
    not_adopted: Mutex<Option<(Instant, String)>>,
}

/// What a question to a peer brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    /// There was nothing new.
    Level,
}

/// Why a peer's ledger is not folded as far as it goes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum Blind {
    #[error("{0}")]
    Peer(String),
    /// It can be seen; what is seen cannot be kept here.
    #[error("{0}")]
    Own(String),
}

impl From<LedgerError> for Blind {
    fn from(why: LedgerError) -> Blind {
        Blind::Own(why.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub fn new(remote: Box<dyn Remote>, sight: Sight) -> Link {
        Link {
            remote,
            sight: Mutex::new(sight),
            kicked: Notify::new(),
            looked_at: Mutex::default(),
            lost_at: Mutex::default(),
            is_trimmed: AtomicBool::new(false),
            not_adopted: Mutex::default(),
        }
    }

    pub fn region(&self) -> &Arc<str> {
        self.remote.region()
    }

    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        lock(&self.sight)
    }

    /// What it has now is fetched and imported at once.
    pub fn kick(&self) {
        self.kicked.notify_one();
    }

    /// Follows for as long as the task lives.
    pub async fn follow(&self, inner: &Inner) {
        let ledger = inner.opened().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let asked = Instant::now();
            let most = match self.step(inner, ledger).await {
                Ok(Step::More) => {
                    pause = FIRST_PAUSE;
                    continue;
                }
                // It waited for us.
                Ok(Step::Level) if asked.elapsed() >= LONG_POLL / 2 => continue,
                Ok(Step::Level) => inner.settings.follow_interval,
                Err(why) => {
                    tracing::debug!(region = %self.region(), %why, "a region cannot be followed now");
                    LAST_PAUSE
                }
            };
            pause = pause.min(most);
            tokio::select! {
                () = sleep(pause.mul_f64(1.0 + JITTER * (fastrand::f64() - 0.5))) => {}
                () = self.kicked.notified() => self.kicked.notify_one(),
            }
            pause = (pause * 2).min(most);
        }
    }

    async fn step(&self, inner: &Inner, ledger: &Ledger) -> Result<Step, Blind> {
        // Where a ledger was given up another one begins.
        let is_over = self.sight().origin().is_some_and(|origin| ledger.cut(origin).is_ok_and(|cut| cut.is_some()));
        let (every, wait) = if is_over { (LOOK_FOR_NEXT, LOOK_FOR_NEXT) } else { (LOOK_EVERY, LONG_POLL) };
        let is_due = lock(&self.looked_at).is_none_or(|at| at.elapsed() >= every);
        // One that was lost is asked what does not wait: a question that waits would leave it out of sight for as long.
        let was_lost = lock(&self.lost_at).is_some();
        if is_due || was_lost {
            self.look(inner, ledger).await?;
        }
        let pulled = self.pull(inner, ledger, (wait, Haste::Paced)).await;
        if !self.is_trimmed.swap(false, Ordering::Relaxed) {
            return pulled;
        }
        match self.adopt(inner, ledger).await {
            Ok(()) => Ok(Step::More),
            // Its own ledger may go on all the same.
            Err(why) => pulled.map_err(|_| self.lost(why)),
        }
    }

    /// Takes over its last snapshot, which has what was trimmed. Only the task that follows does so: it is not dropped in the midst.
    async fn adopt(&self, inner: &Inner, ledger: &Ledger) -> Result<(), String> {
        if let Some((_, why)) = lock(&self.not_adopted).as_ref().filter(|(at, _)| at.elapsed() < ADOPT_AGAIN_AFTER) {
            return Err(why.clone());
        }
        let adopted = self.adopt_now(inner, ledger).await;
        if let Err(why) = &adopted {
            tracing::warn!(region = %self.region(), why, "what was trimmed in another region cannot be had from its snapshot");
        }
        *lock(&self.not_adopted) = adopted.clone().err().map(|why| (Instant::now(), why));
        adopted
    }

    async fn adopt_now(&self, inner: &Inner, ledger: &Ledger) -> Result<(), String> {
        let folded = |origin: &Origin| ledger.vector().map(|vector| vector.get(origin)).map_err(|why| why.to_string());
        let origin = self.sight().origin().cloned().ok_or("its incarnation is not known")?;
        let before = folded(&origin)?;
        // One after the other: the snapshot of one region may have all that another's would bring.
        let _alone = inner.adopting.lock().await;
        leave_to_others(inner, ledger, (&origin, before + 1)).await;
        if folded(&origin)? > before {
            return Ok(());
        }
        match ledger.adopt(&origin, &Through(&*self.remote)).await.map_err(|why| why.to_string())? {
            Adopted::Adopted => {
                // The others trim what all have, and know it from what each says.
                heart::remember(inner, ledger);
                tracing::info!(region = %self.region(), through = folded(&origin)?, "a region's snapshot was taken over");
                Ok(())
            }
            Adopted::Overtaken => Ok(()),
            Adopted::None => Err("what comes next was trimmed there, and none of its snapshots can be taken over".to_owned()),
        }
    }

    /// Asks where it stands.
    pub async fn look(&self, inner: &Inner, ledger: &Ledger) -> Result<Standing, Blind> {
        let standing = self.remote.status().await.map_err(|why| self.lost(why))?;
        *lock(&self.looked_at) = Some(Instant::now());
        let folded = ledger.vector()?.get(&standing.origin);
        let is_new = {
            let mut sight = self.sight();
            let is_new = sight.meets(&standing.origin, folded);
            sight.heard_of_us(standing.seen.get(ledger.origin()));
            sight.saw(standing.tail.unwrap_or(folded).max(folded), inner.clock.now());
            is_new
        };
        if is_new {
            tracing::info!(region = %self.region(), incarnation = %standing.origin.incarnation, "following a region");
        }
        *lock(&self.lost_at) = None;
        ledger.compare_with(&standing.seen);
        Box::pin(self.relay(inner, ledger, &standing)).await;
        Ok(standing)
    }

    /// What it has of regions that this one cannot see, it passes on.
    async fn relay(&self, inner: &Inner, ledger: &Ledger, standing: &Standing) {
        let is_hidden = |origin: &Origin| {
            let is_third = origin.region != ledger.origin().region && origin.region != *self.region();
            let seen = inner.links.iter().find(|link| *link.region() == origin.region);
            is_third && seen.is_none_or(|link| link.sight().is_hidden(inner.clock.now()))
        };
        let Ok(vector) = ledger.vector() else { return };
        for (origin, seq) in standing.seen.iter().filter(|(origin, seq)| vector.get(origin) < *seq && is_hidden(origin)) {
            for _ in 0..MAX_ROUNDS {
                let pulled = ledger.pull(&Through(&*self.remote), origin, Duration::ZERO).await;
                // What they name was not seen one by one.
                inner.copies.look_again();
                let is_there = ledger.vector().is_ok_and(|vector| vector.covers(origin, seq));
                // Once it can be seen it is followed itself, which is cheaper.
                let is_over = is_there || !is_hidden(origin);
                if pulled == Ok(Pulled::Trimmed) {
                    self.is_trimmed.store(true, Ordering::Relaxed);
                }
                if is_over || !matches!(pulled, Ok(Pulled::Some(_))) {
                    break;
                }
            }
        }
    }

    /// Asks once for what comes next, and imports it.
    async fn pull(&self, inner: &Inner, ledger: &Ledger, (wait, haste): (Duration, Haste)) -> Result<Step, Blind> {
        let known = self.sight().origin().cloned();
        let origin = match known {
            Some(origin) => origin,
            None => self.look(inner, ledger).await?.origin,
        };
        if self.sight().is_refused() {
            return Err(Blind::Peer(self.sight().blind(inner.clock.now()).unwrap_or_default()));
        }
        let after = ledger.vector()?.get(&origin);
        let (batch, haste) = tokio::select! {
            biased;
            batch = async {
                if !wait.is_zero() {
                    inner.gate.due().await;
                }
                self.remote.segments(&origin, after, wait).await
            } => (batch, haste),
            // Whoever came cannot wait for as long as this one can.
            () = self.kicked.notified(), if !wait.is_zero() => (self.remote.segments(&origin, after, Duration::ZERO).await, Haste::Now),
        };
        let batch = batch.map_err(|why| self.lost(why))?;
        *lock(&self.lost_at) = None;
        match batch.segments {
            Segments::Some(found) => {
                let last = after + found.len() as u64;
                self.sight().saw(batch.tail.unwrap_or(last).max(last), inner.clock.now());
                self.import(inner, ledger, (&origin, after, found), haste).await?;
                Ok(Step::More)
            }
            Segments::None => {
                let mut sight = self.sight();
                sight.folded(after, inner.clock.now());
                sight.saw(after, inner.clock.now());
                Ok(Step::Level)
            }
            Segments::Trimmed => Err(self.trimmed()),
            Segments::Unknown => {
                // It may have begun anew.
                let standing = self.look(inner, ledger).await?;
                if standing.origin == origin {
                    return Err(self.lost("it does not know its own ledger".to_owned()));
                }
                Ok(Step::More)
            }
        }
    }

    async fn import(
        &self,
        inner: &Inner,
        ledger: &Ledger,
        (origin, after, found): (&Origin, u64, Vec<bytes::Bytes>),
        haste: Haste,
    ) -> Result<(), Blind> {
        let last = after + found.len() as u64;
        let glances: Vec<Option<Glance>> = found.iter().map(|bytes| Glance::at(bytes)).collect();
        if let Some(Some(first)) = glances.first() {
            self.sight().dates(first.clock.timestamp());
        }
        let is_there = || ledger.vector().is_ok_and(|vector| vector.covers(origin, last));
        let mut haste = haste;
        if haste == Haste::Paced {
            tokio::select! {
                () = leave_to_others(inner, ledger, (origin, last)) => {}
                () = self.kicked.notified() => haste = Haste::Now,
            }
        }
        if !is_there() {
            let segments = (after + 1..).zip(found).map(|(seq, bytes)| Foreign { origin: origin.clone(), seq, bytes });
            // Each request of a client holds what it may have to do.
            let offered = Box::pin(self.offer(inner, ledger, segments.collect(), haste)).await;
            if !is_there() {
                self.after_refusal(inner, ledger, origin, offered).await?;
            }
        }
        let (now, reached) = (inner.clock.now(), ledger.vector()?.get(origin));
        self.sight().folded(reached, now);
        for (seq, glance) in (after + 1..=reached).zip(glances) {
            inner.saw_segment(self.region(), (origin, seq), glance, now);
        }
        Ok(())
    }

    /// Offers segments for import. Where what they need is on its way from its own region, they go along with it: far behind two regions
    /// that saw each other all the time, that is much less than to search the one for what it has of the other.
    async fn offer(&self, inner: &Inner, ledger: &Ledger, segments: Vec<Foreign>, haste: Haste) -> Result<(), ImportError> {
        let Some((origin, last)) = segments.last().map(|last| (last.origin.clone(), last.seq)) else { return Ok(()) };
        let reached = || ledger.vector().map_or(0, |vector| vector.get(&origin));
        let mut offered = inner.gate.offer(segments.clone(), haste).await;
        let (mut before, mut since) = (reached(), Instant::now());
        let patience = if haste == Haste::Now { HASTY_CAUSE_PATIENCE } else { CAUSE_PATIENCE };
        while before < last && since.elapsed() < patience {
            let Some((cause, seq)) = inner.coming(&offered, &origin) else { break };
            let mut along = pin!(inner.gate.offer(segments.clone(), Haste::Along));
            offered = tokio::select! {
                biased;
                outcome = &mut along => outcome,
                came = ledger.reached(&cause, seq, patience) => match timeout(OUTCOME_PATIENCE, along).await {
                    // Mostly these came along. If not, they were just too late.
                    Ok(outcome) => outcome,
                    Err(_) if came => inner.gate.offer(segments.clone(), haste).await,
                    Err(_) => break,
                },
                () = self.kicked.notified(), if haste == Haste::Paced => break,
            };
            if reached() > before {
                (before, since) = (reached(), Instant::now());
            }
        }
        offered
    }

    /// Not all of it was imported: causes are missing, or it cannot be.
    async fn after_refusal(&self, inner: &Inner, ledger: &Ledger, origin: &Origin, offered: Result<(), ImportError>) -> Result<(), Blind> {
        let pulled = match offered {
            Err(ImportError::Unavailable(why)) => return Err(Blind::Own(why)),
            // An error of what was offered together with it is another's: it has its own when it is alone.
            _ => ledger.pull(&Through(&*self.remote), origin, Duration::ZERO).await,
        };
        // With it came what it had seen, of other ledgers too.
        inner.copies.look_again();
        match pulled {
            Ok(Pulled::Trimmed) => Err(self.trimmed()),
            Ok(_) => Ok(()),
            Err(PullError::Source(why)) => Err(self.lost(why)),
            Err(PullError::Import(ImportError::Refused { origin: refused, why })) => {
                inner.refuse(&refused, &why);
                let why = if refused == *origin { why } else { format!("it has seen what is refused here of {refused}: {why}") };
                Err(self.lost(why))
            }
            Err(PullError::Import(why @ ImportError::OwnBehind { .. })) => Err(self.lost(why.to_string())),
            Err(why) => Err(Blind::Own(why.to_string())),
        }
    }

    /// Whoever follows takes its snapshot over.
    fn trimmed(&self) -> Blind {
        self.is_trimmed.store(true, Ordering::Relaxed);
        self.lost("what comes next was trimmed there: its snapshot is taken over first".to_owned())
    }

    /// It cannot be seen now.
    fn lost(&self, why: String) -> Blind {
        self.sight().lost(why.clone());
        *lock(&self.lost_at) = Some(Instant::now());
        Blind::Peer(why)
    }

    /// All that it had committed when this was called is folded here afterwards.
    pub async fn catch_up(&self, inner: &Inner) -> Result<(), Blind> {
        let is_lost = lock(&self.lost_at).is_some_and(|at| at.elapsed() < BLIND_MEMORY);
        if is_lost {
            let why = self.sight().blind(inner.clock.now());
            return Err(Blind::Peer(why.unwrap_or_else(|| "it did not answer a moment ago".to_owned())));
        }
        let ledger = inner.open_ledger()?;
        let standing = self.look(inner, &ledger).await?;
        for _ in 0..MAX_ROUNDS {
            if standing.tail.is_some_and(|tail| ledger.vector().is_ok_and(|vector| vector.get(&standing.origin) >= tail)) {
                return Ok(());
            }
            let pulled = self.pull(inner, &ledger, (Duration::ZERO, Haste::Now)).await;
            if self.is_trimmed.load(Ordering::Relaxed) {
                self.kick();
            }
            if pulled? == Step::Level {
                return Ok(());
            }
        }
        Err(Blind::Peer("there is too much to catch up with".to_owned()))
    }
}

/// Gives the node that wrote the last import the time to write the next.
async fn leave_to_others(inner: &Inner, ledger: &Ledger, (origin, seq): (&Origin, u64)) {
    if inner.settings.nodes == Nodes::One {
        return;
    }
    if ledger.imports().is_ok_and(|(number, _)| number == 0) {
        // Before the first import all are alike; or this node has not seen it.
        let _ = ledger.confirm(Look::Now).await;
    }
    if heart::is_importer(ledger) {
        return;
    }
    for _ in 0..2 {
        let patience = LEFT_TO_OTHERS.mul_f64(0.5 * (1.0 + JITTER * fastrand::f64()));
        if ledger.reached(origin, seq, patience).await {
            return;
        }
        // Nobody may have asked this node for anything meanwhile.
        let _ = ledger.confirm(Look::Now).await;
    }
}
