//! Who asks how much: the noisiest clients, principals and repositories, from bounded summaries; and what one client may take.
//!
//! Each answered request is noted once, on one of a few short lists, which its client chooses; requests of a client come in runs, and those
//! that differ in nothing but bytes are noted together. From there they are counted a little later, so that no answer waits for that; a
//! list that is full is counted by whoever fills it, and nothing is lost. A client is an address, or a network of
//! 64 bits where addresses are IPv6. Who has not signed in is no principal: those are told apart by address.
//!
//! Memory is bounded: by [`frequent`] and [`windows`] to 7 MiB when a million names of 40 bytes come by, which a test holds, and to some
//! 20 MiB if all were as long as names may be. An edge with few clients keeps a few KiB.

mod fair;
mod frequent;
mod windows;

use std::hash::Hash;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::access::{Permit, Principal, client_network};
use crate::clock::{Clock, Timestamp};
use crate::oci::RepositoryName;
pub use fair::{Client, Fair, Lane};
use windows::Windows;
pub use windows::{WINDOWS, Window};

/// Lists of what is not counted yet: so many that threads seldom meet; a power of two.
const LISTS: usize = 16;
/// What a list holds before it is counted by whoever filled it.
const LIST_LENGTH: usize = 512;
/// How long anything lies in a list.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// The longest name of a principal that is kept, in bytes: longer ones are counted by their beginning.
const MAX_NAME_BYTES: usize = 255;

/// What kind of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Client,
    Principal,
    Repository,
}

pub const KINDS: [By; 3] = [By::Client, By::Principal, By::Repository];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Requests,
    /// Of bodies, in both directions.
    Bytes,
}

/// What is noted of a request.
#[derive(Debug)]
pub struct Visit {
    pub client: IpAddr,
    pub principal: Principal,
    pub repository: Option<RepositoryName>,
    pub bytes: u64,
}

/// Requests that differ in nothing but bytes.
#[derive(Debug)]
struct Noted {
    visit: Visit,
    requests: u64,
}

/// The first of some names.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Each with its count, the largest first.
    pub names: Vec<(String, u64)>,
    /// Of all names.
    pub total: u64,
    /// What each count may lack.
    pub error: u64,
    pub since: Timestamp,
}

/// Counts what is asked of an edge. Clones are one.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    lists: [Mutex<Vec<Noted>>; LISTS],
    clients: Mutex<Kind<IpAddr>>,
    principals: Mutex<Kind<Arc<str>>>,
    repositories: Mutex<Kind<RepositoryName>>,
}

/// One kind of names by both measures.
#[derive(Debug)]
struct Kind<K> {
    requests: Windows<K>,
    bytes: Windows<K>,
}

/// The word is none of those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of {0}")]
pub struct UnknownWord(&'static str);

impl FromStr for By {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<By, UnknownWord> {
        KINDS.into_iter().find(|by| by.as_str() == text).ok_or(UnknownWord("client, principal, repository"))
    }
}

impl FromStr for Measure {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Measure, UnknownWord> {
        [Measure::Requests, Measure::Bytes].into_iter().find(|measure| measure.as_str() == text).ok_or(UnknownWord("requests, bytes"))
    }
}

impl FromStr for Window {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Window, UnknownWord> {
        WINDOWS.into_iter().find(|window| window.as_str() == text).ok_or(UnknownWord("minute, hour, day"))
    }
}

impl By {
    pub const fn as_str(self) -> &'static str {
        match self {
            By::Client => "client",
            By::Principal => "principal",
            By::Repository => "repository",
        }
    }
}

impl Measure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Measure::Requests => "requests",
            Measure::Bytes => "bytes",
        }
    }
}

impl Traffic {
    pub fn new(clock: Clock) -> Traffic {
        let now = clock.now();
        Traffic(Arc::new(Inner {
            lists: std::array::from_fn(|_| Mutex::default()),
            clients: Mutex::new(Kind::new(now)),
            principals: Mutex::new(Kind::new(now)),
            repositories: Mutex::new(Kind::new(now)),
            clock,
        }))
    }

    /// A request has been answered.
    pub fn note(&self, visit: Visit) {
        let number = list_of(visit.client);
        let mut list = lock(&self.0.lists[number]);
        if let Some(last) = list.last_mut().filter(|last| last.visit.is_like(&visit)) {
            last.requests += 1;
            last.visit.bytes = last.visit.bytes.saturating_add(visit.bytes);
            return;
        }
        list.push(Noted { visit, requests: 1 });
        if list.len() >= LIST_LENGTH {
            drop(list);
            self.count(number);
        }
    }

    /// Counts what is noted again and again.
    pub fn keep_counting(&self) -> AbortHandle {
        let traffic = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(COUNT_EVERY).await;
                for number in 0..LISTS {
                    traffic.count(number);
                    // A busy edge has much to count: others have their turn in between.
                    tokio::task::yield_now().await;
                }
            }
        })
        .abort_handle()
    }

    /// The first names of a kind, at most so many, with all that has been noted until now; for those who may read the audit record.
    pub fn ranking(&self, _permit: Permit, by: By, of: (Measure, Window), most: usize) -> Ranking {
        self.rank(by, of, most)
    }

    fn rank(&self, by: By, of: (Measure, Window), most: usize) -> Ranking {
        (0..LISTS).for_each(|number| self.count(number));
        let now = self.0.clock.now();
        match by {
            By::Client => lock(&self.0.clients).rank(now, of, most, |client| shown(*client)),
            By::Principal => lock(&self.0.principals).rank(now, of, most, |name| name.to_string()),
            By::Repository => lock(&self.0.repositories).rank(now, of, most, |name| name.to_string()),
        }
    }

    fn count(&self, number: usize) {
        let list = std::mem::take(&mut *lock(&self.0.lists[number]));
        if list.is_empty() {
            return;
        }
        let (now, noted) = (self.0.clock.now(), || list.iter().map(|Noted { visit, requests }| (visit, (*requests, visit.bytes))));
        lock(&self.0.clients).count(now, noted().map(|(visit, much)| (client_network(visit.client), much)));
        lock(&self.0.principals).count(now, noted().filter_map(|(visit, much)| Some((name(&visit.principal)?, much))));
        lock(&self.0.repositories).count(now, noted().filter_map(|(visit, much)| Some((visit.repository.clone()?, much))));
    }
}

impl<K: Eq + Hash + Ord + Clone> Kind<K> {
    fn new(now: Timestamp) -> Kind<K> {
        Kind { requests: Windows::new(now), bytes: Windows::new(now) }
    }

    fn advance(&mut self, now: Timestamp) {
        self.requests.advance(now);
        self.bytes.advance(now);
    }

    fn count(&mut self, now: Timestamp, noted: impl Iterator<Item = (K, (u64, u64))>) {
        self.advance(now);
        for (name, (requests, bytes)) in noted {
            self.requests.add(&name, requests);
            self.bytes.add(&name, bytes);
        }
    }

    fn rank(&mut self, now: Timestamp, (measure, window): (Measure, Window), most: usize, text: impl Fn(&K) -> String) -> Ranking {
        self.advance(now);
        let windows = match measure {
            Measure::Requests => &self.requests,
            Measure::Bytes => &self.bytes,
        };
        let (sum, since) = windows.last(window);
        let names = sum.first(most).into_iter().map(|(name, count)| (text(&name), count)).collect();
        Ranking { names, total: sum.total(), error: sum.error(), since }
    }
}

impl Visit {
    fn is_like(&self, other: &Visit) -> bool {
        self.client == other.client && self.principal == other.principal && self.repository == other.repository
    }
}

/// The list that a client chooses: neighbours in a network spread over all of them.
fn list_of(client: IpAddr) -> usize {
    // 2^64 over the golden ratio, whose multiples fall evenly (Knuth, "The Art of Computer Programming", 6.4).
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let network = match client {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    };
    (network.wrapping_mul(GOLDEN) >> (u64::BITS - LISTS.trailing_zeros())) as usize
}

/// Who signed in.
fn name(principal: &Principal) -> Option<Arc<str>> {
    match principal {
        Principal::Anonymous => None,
        Principal::Named(name) if name.len() <= MAX_NAME_BYTES => Some(name.clone()),
        Principal::Named(name) => {
            let fits = |(at, character): &(usize, char)| at + character.len_utf8() <= MAX_NAME_BYTES;
            Some(name.char_indices().take_while(fits).map(|(_, character)| character).collect::<String>().into())
        }
    }
}

/// An IPv6 network is told as one.
fn shown(client: IpAddr) -> String {
    match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(network) => format!("{network}/64"),
    }
}

/// No step under these locks leaves anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
