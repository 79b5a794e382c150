//! One search in many regions: this one looks at its own record, and asks the others' edges; where none answers, it looks at their
//! store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::entry::Entry;
use super::query::{Filter, Query};
use super::search::{Finding, Search, Shelf};
use super::{Nature, Records, Shipper};
use crate::access::Permit;
use crate::clock::Timestamp;
use crate::peers::Caller;
use crate::region::Peer;

/// How long a search takes, at most.
const MAX_TIME: Duration = Duration::from_secs(8);
/// Bytes of the entries in one answer, at most: the oldest are left out of a longer one.
const MAX_ANSWER_BYTES: usize = 768 << 10;

/// What was found, the newest first, and where it was looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<E> {
    pub entries: Vec<Entry<E>>,
    /// Whether there may be older ones, since there are as many as were asked for, or as fit.
    pub more: bool,
    pub regions: Vec<Searched>,
}

/// How far one region was looked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    pub region: Arc<str>,
    /// Whether everything that could be among the newest was looked at.
    pub complete: bool,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Why nothing was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    #[error("no region {0:?} is configured here")]
    UnknownRegion(String),
    #[error("too many search at once")]
    TooMany,
}

impl Records {
    /// Looks in all regions that the query names, within a time. The permit is one for reading the record.
    ///
    /// # Errors
    /// A region that cannot be asked is none: the answer says so.
    pub async fn search<F: Filter>(&self, _permit: Permit, query: &Query<F>, within: Duration) -> Result<Answer<F::Event>, SearchError> {
        self.look(query, within).await
    }

    pub(super) async fn look<F: Filter>(&self, query: &Query<F>, within: Duration) -> Result<Answer<F::Event>, SearchError> {
        let Shipper { nature, region, clock, .. } = &self.0.shipper;
        let _place = self.0.searches.try_acquire().map_err(|_| SearchError::TooMany)?;
        let is_known = |name: &&String| ***name == *self.0.own || region.peer(name).is_some();
        if let Some(unknown) = query.regions.iter().find(|name| !is_known(name)) {
            return Err(SearchError::UnknownRegion(unknown.clone()));
        }
        let is_wanted = |name: &str| query.regions.is_empty() || query.regions.iter().any(|wanted| wanted == name);
        let (now, deadline) = (clock.now(), Instant::now() + within.min(MAX_TIME));
        let own = async { if is_wanted(&self.0.own) { Some(self.search_own(query, now, deadline).await) } else { None } };
        let peers = region.peers().iter().filter(|peer| is_wanted(peer.name()));
        let (own, others) = tokio::join!(own, join_all(peers.map(|peer| search_peer(nature, peer, query, (now, deadline)))));
        let own = own.map(|found| (self.0.own.clone(), found));
        Ok(merge(own.into_iter().chain(others).collect(), query.limit))
    }

    /// Looks in this region only: what another region asks, which has found out who may.
    ///
    /// # Errors
    /// [`SearchError::TooMany`]
    pub async fn search_here<F: Filter>(
        &self,
        _asker: &Caller,
        query: &Query<F>,
        within: Duration,
    ) -> Result<Answer<F::Event>, SearchError> {
        let within = query.within.map_or(within, |wanted| wanted.min(within));
        self.look(&Query { regions: vec![self.0.own.to_string()], ..query.clone() }, within).await
    }

    async fn search_own<F: Filter>(&self, query: &Query<F>, now: Timestamp, deadline: Instant) -> Finding<F::Event> {
        self.flush().await;
        // Before the bucket is looked at: what is shipped meanwhile is found at one of the two places at least.
        let Shipper { nature, folder, region, .. } = &self.0.shipper;
        let folder = folder.clone();
        let looked = spawn_blocking(move || folder.files()).await;
        let (files, mut lacking) = match looked {
            Ok(Ok(files)) => (files, None),
            Ok(Err(error)) => (Vec::new(), Some(format!("this node's files cannot be read: {error}"))),
            Err(_) => (Vec::new(), Some("the process is ending".to_owned())),
        };
        let mut shelves = Vec::new();
        match region.get() {
            Err(error) => lacking = Some(error.to_string()),
            Ok(open) => {
                shelves.push(Shelf::Own(open.bucket.clone()));
                match timeout_at(deadline, open.bucket.earlier_incarnations()).await {
                    Ok(Ok(earlier)) => shelves.extend(earlier.iter().map(|incarnation| Shelf::Foreign(open.bucket.earlier(incarnation)))),
                    Ok(Err(error)) => lacking = Some(error.to_string()),
                    Err(_) => lacking = Some("the bucket does not answer".to_owned()),
                }
            }
        }
        if self.0.intake.is_none() {
            lacking = lacking.or_else(|| Some(format!("nothing is recorded here: {} is off", nature.switch)));
        }
        let found = Search { kind: nature.kind, query, range: query.range(now), shelves: &shelves, files, deadline }.run().await;
        Finding { lacking: found.lacking.or(lacking), ..found }
    }
}

/// Asks a region's edges; where none answers, looks at its store.
async fn search_peer<F: Filter>(
    nature: &Nature,
    peer: &Peer,
    query: &Query<F>,
    (now, deadline): (Timestamp, Instant),
) -> (Arc<str>, Finding<F::Event>) {
    let name = peer.name().clone();
    // The half of the time is left for the way back, or for looking at the store.
    let within = deadline.saturating_duration_since(Instant::now()) / 2;
    let asked = match peer.edges() {
        None => Err("no edges of it are configured".to_owned()),
        Some(edges) => {
            let asked = query.fixed(now, within.mul_f64(0.75)).to_url();
            let answer =
                timeout(within, edges.search(nature.question, &asked)).await.map_err(|_| "its edges do not answer in time".to_owned());
            answer.and_then(|answer| answer.map_err(|error| error.to_string()))
        }
    };
    let why = match asked.and_then(|answer| serde_json::from_value::<Answer<F::Event>>(answer).map_err(|error| error.to_string())) {
        Ok(answer) => return (name.clone(), believed(&name, answer)),
        Err(why) => why,
    };
    let nothing = |why| Finding { entries: Vec::new(), lacking: Some(why) };
    let store = match timeout_at(deadline, peer.store()).await {
        Ok(Ok(None)) => return (name, nothing(why)),
        Ok(Ok(Some(store))) => store,
        Ok(Err(error)) => return (name, nothing(format!("{why}; its store: {error}"))),
        Err(_) => return (name, nothing(format!("{why}; its store does not answer"))),
    };
    let shelves = [Shelf::Foreign(store)];
    let kind = nature.kind;
    let found = Search { kind, query, range: query.range(now), shelves: &shelves, files: Vec::new(), deadline }.run().await;
    (name, found)
}

/// A region speaks for itself only.
fn believed<E>(name: &Arc<str>, answer: Answer<E>) -> Finding<E> {
    let lacking = answer.regions.into_iter().find(|searched| !searched.complete).map(|searched| searched.why.unwrap_or_default());
    Finding { entries: answer.entries.into_iter().filter(|entry| entry.region == *name).collect(), lacking }
}

fn merge<E: Serialize>(found: Vec<(Arc<str>, Finding<E>)>, limit: usize) -> Answer<E> {
    let (mut entries, mut regions) = (Vec::new(), Vec::new());
    for (region, found) in found {
        regions.push(Searched { region, complete: found.lacking.is_none(), why: found.lacking });
        entries.extend(found.entries);
    }
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.time, entry.id)));
    let mut more = entries.len() >= limit;
    entries.truncate(limit);
    let (mut size_bytes, mut line) = (0, Vec::new());
    let fitting = entries.iter().take_while(|entry| {
        line.clear();
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut line, entry);
        size_bytes += line.len();
        size_bytes <= MAX_ANSWER_BYTES
    });
    let count = fitting.count();
    more |= count < entries.len();
    entries.truncate(count);
    Answer { entries, more, regions }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Said, entry};
    use super::*;

    #[test]
    fn the_newest_of_all_regions_come_first_and_no_more_than_fit() {
        let of = |region: &str, times: &[u64]| {
            let entries = times.iter().map(|ms| Entry { region: region.into(), ..entry(*ms, "ci", &"a".repeat(300)) }).collect();
            (Arc::from(region), Finding::<Said> { entries, lacking: None })
        };
        let silent = (Arc::from("ap"), Finding { entries: Vec::new(), lacking: Some("no route".to_owned()) });
        let answer = merge(vec![of("eu", &[9, 4]), silent, of("us", &[7, 5])], 3);
        let times: Vec<u64> = answer.entries.iter().map(|entry| entry.time.as_ms()).collect();
        assert_eq!((times, answer.more), (vec![9, 7, 5], true));
        let told: Vec<_> = answer.regions.iter().map(|one| (&*one.region, one.complete, one.why.as_deref())).collect();
        assert_eq!(told, [("eu", true, None), ("ap", false, Some("no route")), ("us", true, None)]);
        let many: Vec<u64> = (0..5_000).rev().collect();
        let large = merge(vec![of("eu", &many)], 10_000);
        assert!(large.more && large.entries.len() < 5_000 && serde_json::to_vec(&large).unwrap().len() < 1 << 20);
        assert!(!merge(vec![of("eu", &[1])], 3).more);
    }

    #[test]
    fn a_region_speaks_for_itself_only() {
        let answer = Answer {
            entries: vec![Entry { region: "eu".into(), ..entry(1, "ci", "a") }, Entry { region: "us".into(), ..entry(2, "ci", "a") }],
            more: false,
            regions: vec![Searched { region: "us".into(), complete: true, why: None }],
        };
        let found = believed(&"us".into(), answer);
        assert_eq!((found.entries.len(), &*found.entries[0].region), (1, "us"));
    }
}
