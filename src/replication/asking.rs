//! Names that are unknown here: all other regions are asked at once. Those who ask for the same name share one question, and what all
//! of them denied is remembered for a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::follow::Link;
use super::remote::{Known, Name, Told};
use crate::clock::{Clock, Timestamp};
use crate::trace;

/// How long all regions have to answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// How long it is believed that a name is nowhere.
const DENIED_FOR: Duration = Duration::from_secs(2);
const MAX_DENIALS: u64 = 10_000;

/// What is known elsewhere of a name that is unknown here.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    Found(Box<Known>),
    /// Its region was read until now, and this one knows all that it knows: look again.
    Here,
    /// Every region looked, and none has it.
    Denied,
    /// None of those that answered has it; these could not tell.
    Blind(Vec<Arc<str>>),
}

type Answer = watch::Receiver<Option<Resolved>>;

#[derive(Debug)]
pub(super) struct Questions {
    open: Mutex<HashMap<Name, Answer>>,
    denials: Denials,
}

/// Names that were nowhere a moment ago. moka bounds their number.
#[derive(Debug)]
struct Denials {
    denied: moka::sync::Cache<Name, Timestamp>,
    clock: Clock,
}

impl Denials {
    fn new(clock: Clock) -> Denials {
        Denials { denied: moka::sync::Cache::new(MAX_DENIALS), clock }
    }

    fn remember(&self, name: Name) {
        self.denied.insert(name, self.clock.now());
    }

    fn holds(&self, name: &Name) -> bool {
        self.denied.get(name).is_some_and(|at| self.clock.now().since(at) < DENIED_FOR)
    }
}

impl Questions {
    pub fn new(clock: Clock) -> Questions {
        Questions { open: Mutex::default(), denials: Denials::new(clock) }
    }

    /// Asks all regions, or joins who asks already.
    pub async fn ask(&self, inner: &Arc<Inner>, name: &Name) -> Resolved {
        if self.denials.holds(name) {
            return Resolved::Denied;
        }
        let mut answer = self.join(inner, name);
        let told = answer.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| Resolved::Blind(inner.links.iter().map(|link| link.region().clone()).collect()))
    }

    fn join(&self, inner: &Arc<Inner>, name: &Name) -> Answer {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = open.get(name) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        open.insert(name.clone(), answer.clone());
        let (inner, name) = (inner.clone(), name.clone());
        tokio::spawn(trace::carried(async move {
            let resolved = ask_all(&inner, &name).await;
            let questions = &inner.questions;
            if resolved == Resolved::Denied {
                questions.denials.remember(name.clone());
            }
            questions.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            tell.send_replace(Some(resolved));
        }));
        answer
    }
}

/// The first region that has it answers for all.
async fn ask_all(inner: &Arc<Inner>, name: &Name) -> Resolved {
    let deadline = Instant::now() + PATIENCE;
    let mut asked: FuturesUnordered<_> = inner.links.iter().map(|link| ask_one(inner, link, name, deadline)).collect();
    let (mut blind, mut is_read) = (Vec::new(), false);
    while let Some((region, told)) = asked.next().await {
        match told {
            Told::Found(known) => {
                inner.metrics.region_asked("found");
                return Resolved::Found(known);
            }
            Told::Denied => {}
            Told::Mute => is_read = true,
            Told::CannotTell(why) => {
                tracing::debug!(%region, why, "a region cannot tell of a name");
                blind.push(region);
            }
        }
    }
    inner.metrics.region_asked(if blind.is_empty() { "denied" } else { "blind" });
    match (blind.is_empty(), is_read && inner.knows(name)) {
        (_, true) => Resolved::Here,
        (true, false) => Resolved::Denied,
        (false, false) => Resolved::Blind(blind),
    }
}

/// `Mute` means that its ledger is folded here as far as it goes.
async fn ask_one(inner: &Arc<Inner>, link: &Arc<Link>, name: &Name, deadline: Instant) -> (Arc<str>, Told) {
    let asked = async {
        match link.remote.resolve(name).await {
            Told::Mute => match link.catch_up(inner).await {
                Ok(()) => Told::Mute,
                Err(why) => Told::CannotTell(why.to_string()),
            },
            told => told,
        }
    };
    let told = timeout_at(deadline, asked).await.unwrap_or_else(|_| Told::CannotTell("no answer in time".to_owned()));
    (link.region().clone(), told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_holds_for_two_seconds() {
        let clock = Clock::manual(Timestamp::from_ms(1));
        let denials = Denials::new(clock.clone());
        let name = Name::Blob("a".parse().unwrap(), crate::oci::Digest::sha256(b"x"));
        assert!(!denials.holds(&name));
        denials.remember(name.clone());
        for (after_ms, holds) in [(0, true), (1_999, true), (1, false)] {
            clock.advance(Duration::from_millis(after_ms));
            assert_eq!(denials.holds(&name), holds, "{after_ms}");
        }
    }
}
