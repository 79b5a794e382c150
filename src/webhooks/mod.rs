//! Webhooks: receivers are told of pushes and deletions, of conflicts, and of images that this region holds whole.
//!
//! ```text
//! telling   from what was folded to events         event     the envelope, and ids that are the same each time
//! queue     what waits for one receiver; pure      hook      the sending
//! signing   Standard Webhooks' signatures          cursor    up to where each receiver has been told
//! ```
//! Nothing that a client waits for is done here: events come from the ledger, after the client was answered.
//!
//! # What is promised
//! Each event is sent until a receiver takes it, as often and as long as its webhook says. The edge that committed a push tells of it; so
//! with several edges in a region each event is sent once where nothing fails. An edge that ends, or is killed, goes on at its next start
//! where it was, if its data folder is still there: receivers then hear some events twice. An event has the same id each time: receivers
//! drop ids that they know. Events come in any order. Lost are those that are dropped (counted in `outport_webhook_dropped_total`), what
//! an edge had not told whose folder is gone or whose region begins a new incarnation, and conflicts that are resolved within a second.

mod cursor;
mod event;
mod hook;
mod queue;
mod signing;
mod telling;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep;

pub use event::Request;
pub use hook::Shown;
pub use queue::Delivery;

use cursor::{Cursor, Mark};
use hook::Hook;
use telling::{Remembered, Teller};

use crate::access::Permit;
use crate::config::{self, WEBHOOK_ACTIONS, WebhookAction};
use crate::dial::{DialError, Outside};
use crate::ledger::{Chapter, Ledger, LedgerError, Origin, Position, Segments};
use crate::oci::RepositoryName;
use crate::region::Region;

/// Between a fold and a look at what it brought: what comes at the same time, and the request that made it, are known then.
const SETTLE: Duration = Duration::from_millis(750);
/// How often what the receivers have taken is written down, at least.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of segments that are read at a time.
const READ_BYTES: usize = 1 << 20;
/// Segments that are passed over at a time where they were trimmed.
const TRIMMED_STEP: u64 = 256;
/// Requests that are remembered until their events are told.
const MAX_NOTED: usize = 4_096;

/// How many edges this region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Everything that is committed in the region is this one's.
    One,
    Several,
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub region: String,
    pub edges: Edges,
    /// Where it is kept up to where the receivers have been told.
    pub file: PathBuf,
}

/// The receivers. Cloning is cheap; dropping the last clone ends the telling.
#[derive(Clone)]
pub struct Webhooks(Arc<Tasks>);

struct Tasks {
    inner: Arc<Inner>,
    reading: AbortHandle,
}

struct Inner {
    region: Region,
    settings: Settings,
    outside: Outside,
    hooks: RwLock<Hooks>,
    cursor: Mutex<Option<Cursor>>,
    noted: Noted,
    /// Other receivers.
    changed: Notify,
}

type Hooks = Arc<[Arc<Hook>]>;

/// Receivers that are ready to be told.
pub struct Prepared(Vec<(config::Webhook, Ready)>);

enum Ready {
    Same(Arc<Hook>),
    New(Box<crate::dial::Client>),
}

/// Requests by what came of them: the ledger does not tell who asked.
#[derive(Debug, Default)]
struct Noted(Mutex<VecDeque<(Position, RepositoryName, Request)>>);

impl Noted {
    fn note(&self, position: Position, repository: RepositoryName, request: Request) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_NOTED {
            noted.pop_front();
        }
        noted.push_back((position, repository, request));
    }

    /// The request, as far as it is known here.
    fn request(&self, (origin, seq): (&Origin, u64), repository: &RepositoryName, method: &str) -> Request {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = noted.iter().rev().find(|(at, of, _)| at.seq == seq && at.origin == *origin && of == repository);
        found.map_or_else(|| Request { method: method.to_owned(), ..Request::default() }, |(_, _, request)| request.clone())
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Webhooks {
    /// Begins as soon as the region is open.
    ///
    /// # Errors
    /// Certificate authorities that cannot be read.
    pub fn start(region: Region, settings: Settings, hooks: &[config::Webhook], outside: Outside) -> Result<Webhooks, DialError> {
        let (cursor, noted, changed) = (Mutex::default(), Noted::default(), Notify::new());
        let none = RwLock::new(Arc::from([]));
        let inner = Arc::new(Inner { region, settings, outside, hooks: none, cursor, noted, changed });
        // Before anything is read or written down: whom the cursor speaks of, and nobody else, is told what came before.
        inner.replace(inner.prepare(hooks)?);
        let reading = tokio::spawn(read(inner.clone())).abort_handle();
        Ok(Webhooks(Arc::new(Tasks { inner, reading })))
    }

    /// Makes receivers of a new configuration, for [`replace`](Self::replace). One that is configured as before goes on; with certificate
    /// authorities of its own it is made anew, for the file may have changed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn prepare(&self, wanted: &[config::Webhook]) -> Result<Prepared, DialError> {
        self.0.inner.prepare(wanted)
    }

    /// From now on these are the receivers. What waits for one of the same name goes on waiting.
    pub fn replace(&self, prepared: Prepared) {
        self.0.inner.replace(prepared);
    }

    /// A request had something committed at a position. Returns at once.
    pub fn note(&self, position: &Position, repository: &RepositoryName, request: impl FnOnce() -> Request) {
        if !self.0.inner.hooks().is_empty() {
            self.0.inner.noted.note(position.clone(), repository.clone(), request());
        }
    }

    /// How each stands, in the order of the configuration.
    pub fn shown(&self, _: Permit) -> Vec<Shown> {
        self.0.inner.hooks().iter().map(|hook| hook.shown()).collect()
    }

    /// Sends an event that says nothing to the receiver of this name, if there is one.
    pub async fn ping(&self, _: Permit, name: &str) -> Option<Delivery> {
        let inner = &self.0.inner;
        let hook = inner.hooks().iter().find(|hook| hook.name() == name)?.clone();
        Some(hook.ping(&inner.settings.region).await)
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        self.0.inner.hooks().iter().for_each(|hook| hook.report());
    }

    /// Ends the telling; the next process goes on where this one was.
    pub fn stop(&self) {
        self.0.reading.abort();
        self.0.inner.save();
    }
}

impl Inner {
    fn hooks(&self) -> Hooks {
        self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cursor(&self) -> MutexGuard<'_, Option<Cursor>> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, wanted: &[config::Webhook]) -> Result<Prepared, DialError> {
        let present = self.hooks();
        let prepared = wanted.iter().map(|wanted| {
            let same = present.iter().find(|hook| hook.settings() == wanted && wanted.ca_file.is_none());
            let ready = match same {
                Some(same) => Ready::Same(same.clone()),
                None => {
                    let Outside { resolver, proxies, .. } = self.outside.clone();
                    Ready::New(Box::new(hook::client(wanted, resolver, proxies)?))
                }
            };
            Ok((wanted.clone(), ready))
        });
        prepared.collect::<Result<_, _>>().map(Prepared)
    }

    fn replace(&self, prepared: Prepared) {
        let earlier = self.hooks();
        let hooks: Hooks = prepared.0.into_iter().map(|(settings, ready)| self.made(settings, ready, &earlier)).collect();
        for gone in earlier.iter().filter(|earlier| hooks.iter().all(|hook| hook.name() != earlier.name())) {
            gone.end();
        }
        *self.hooks.write().unwrap_or_else(PoisonError::into_inner) = hooks;
        self.begin();
        self.changed.notify_one();
    }

    fn made(&self, settings: config::Webhook, ready: Ready, earlier: &Hooks) -> Arc<Hook> {
        let client = match ready {
            Ready::Same(same) => return same,
            Ready::New(client) => *client,
        };
        let before = earlier.iter().find(|hook| hook.name() == settings.name);
        let hook = Hook::start(settings, client, self.outside.clock.clone(), self.outside.metrics.clone());
        before.into_iter().for_each(|before| hook.inherit(before));
        Arc::new(hook)
    }

    /// Who was told something by an earlier process is told what came since; others, what comes from now on.
    fn begin(&self) {
        let Ok(open) = self.region.get() else { return };
        let Ok(now) = end(&open.ledger) else { return };
        let mut held = self.cursor();
        let cursor = held.get_or_insert_with(|| Cursor::open(&self.settings.file, open.ledger.origin(), open.ledger.node()));
        for hook in self.hooks().iter() {
            hook.begin(cursor.marks.get(hook.name()).copied().unwrap_or(now));
        }
        drop(held);
        self.save();
    }

    fn is_own(&self, node: &str) -> bool {
        self.settings.edges == Edges::One || self.cursor().as_ref().is_some_and(|cursor| cursor.wrote(node))
    }

    /// Writes down up to where the receivers have been told, if that has changed.
    fn save(&self) {
        let marks = self.hooks().iter().filter_map(|hook| Some((hook.name().to_owned(), hook.settled()?))).collect();
        let mut cursor = self.cursor();
        let Some(cursor) = cursor.as_mut() else { return };
        if let Err(error) = cursor.note(&self.settings.file, marks) {
            tracing::warn!(%error, "up to where webhooks were told is not written down: after a restart they may be told again");
        }
    }

    /// Tells what stands in the ledger up to a mark, to each receiver that has not taken it in.
    async fn tell(&self, ledger: &Ledger, upto: Mark, told: &mut Remembered) -> Result<(), LedgerError> {
        let hooks = self.hooks();
        let wanted: HashSet<_> = WEBHOOK_ACTIONS.into_iter().filter(|action| hooks.iter().any(|hook| hook.wants(*action))).collect();
        let Some(mut at) = hooks.iter().filter_map(|hook| hook.taken()).reduce(Mark::min) else { return Ok(()) };
        let mut teller = Teller { ledger, noted: &self.noted, wanted, told };
        while at.segment < upto.segment {
            match ledger.segments_of(ledger.origin(), at.segment, READ_BYTES).await? {
                Segments::Some(found) => {
                    for bytes in found {
                        at.segment += 1;
                        let chapter = Chapter::of(&bytes).filter(|chapter| self.is_own(&chapter.node));
                        let events = chapter.map_or_else(|| Ok(Vec::new()), |chapter| teller.own(&chapter))?;
                        for hook in hooks.iter() {
                            events.iter().for_each(|event| hook.offer(event, Mark::of_segment(at.segment)));
                            hook.took(Mark { segment: at.segment, import: 0 });
                        }
                    }
                }
                Segments::Trimmed => {
                    at.segment = (at.segment + TRIMMED_STEP).min(upto.segment);
                    tracing::warn!(segment = at.segment, "what was committed here was trimmed before webhooks told it");
                    hooks.iter().for_each(|hook| hook.took(Mark { segment: at.segment, import: 0 }));
                }
                Segments::None | Segments::Unknown => break,
            }
        }
        if ![WebhookAction::Available, WebhookAction::Conflict].iter().any(|action| teller.wanted.contains(action)) {
            hooks.iter().for_each(|hook| hook.took(Mark { segment: 0, import: upto.import }));
            return Ok(());
        }
        while at.import < upto.import {
            at.import += 1;
            let imported = ledger.import_at(at.import).await?.filter(|imported| self.is_own(&imported.node));
            let events = imported.map_or_else(|| Ok(Vec::new()), |imported| teller.imported(&imported))?;
            for hook in hooks.iter() {
                events.iter().for_each(|event| hook.offer(event, Mark::of_import(at.import)));
                hook.took(Mark { segment: 0, import: at.import });
            }
        }
        Ok(())
    }
}

/// What is folded here.
fn end(ledger: &Ledger) -> Result<Mark, LedgerError> {
    Ok(Mark { segment: ledger.position()?.seq, import: ledger.imports()?.0 })
}

async fn read(inner: Arc<Inner>) {
    let ledger = inner.region.opened().await.ledger.clone();
    inner.begin();
    let (mut folds, mut told) = (ledger.folds(), Remembered::default());
    loop {
        folds.mark_unchanged();
        let upto = end(&ledger);
        sleep(SETTLE).await;
        let telling = async { inner.tell(&ledger, upto?, &mut told).await };
        if let Err(why) = telling.await {
            tracing::debug!(%why, "what webhooks are to tell cannot be read now");
        }
        inner.save();
        tokio::select! {
            // It ends only with the ledger.
            _ = folds.changed() => {}
            () = inner.changed.notified() => {}
            () = sleep(SAVE_EVERY) => {}
        }
    }
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.inner.hooks().iter().map(|hook| hook.name().to_owned()).collect();
        f.debug_struct("Webhooks").field("names", &names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_noted_within_bounds() {
        let (noted, repository): (_, RepositoryName) = (Noted::default(), "team/app".parse().unwrap());
        let (eu, us) = (Origin::new("eu", "01"), Origin::new("us", "01"));
        let request = |id: &str| Request { id: id.to_owned(), ..Request::default() };
        for seq in 0..=MAX_NOTED as u64 {
            noted.note(Position { origin: eu.clone(), seq }, repository.clone(), request(&seq.to_string()));
        }
        assert_eq!(noted.request((&eu, 7), &repository, "PUT"), request("7"));
        let unknown = Request { method: "PUT".to_owned(), ..Request::default() };
        assert_eq!(noted.request((&eu, 0), &repository, "PUT"), unknown);
        assert_eq!(noted.request((&us, 7), &repository, "PUT"), unknown);
        assert_eq!(noted.request((&eu, 7), &"team/other".parse().unwrap(), "PUT"), unknown);
    }
}
