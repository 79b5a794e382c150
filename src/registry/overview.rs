//! What operators see of this edge and its regions at one glance, and the list of conflicts.

use std::sync::Arc;

use serde::Serialize;

use super::{Listed, Page, Registry};
use crate::cache::CacheError;
use crate::clock::Timestamp;
use crate::ledger::{Ledger, LedgerError, Standing};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::replication::{PeerLag, Pending};

/// Conflicts that are read at a time, and that one page looks at, at most: a caller who may see few of many gets a short page.
const CONFLICT_BATCH: usize = 256;
const MAX_CONFLICT_SCAN: usize = 10_000;

/// A tag that was set by regions of which neither had seen the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conflict {
    pub repository: RepositoryName,
    pub tag: Tag,
    /// What the tag is in every region.
    pub winner: Digest,
    pub updated_at_ms: u64,
    /// What else it was to be; it can be pulled by its digest.
    pub losers: Vec<Digest>,
    pub is_locked: bool,
}

impl Conflict {
    /// Where a list goes on behind it.
    pub fn key(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// An edge and what it sees of the regions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    pub version: &'static str,
    pub region: Arc<str>,
    /// What the ledger says; nothing while the region's bucket is not open.
    pub ledger: Option<Standpoint>,
    /// Why the ledger says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    pub peers: Vec<PeerOverview>,
    pub backlog: Backlog,
}

/// What the own ledger says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standpoint {
    pub incarnation: Arc<str>,
    pub node: String,
    pub position: String,
    /// The number of the last import.
    pub imports: u64,
    /// Why this region takes no pushes.
    pub fenced: Option<String>,
    pub members: Vec<Member>,
    pub conflicts: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    pub region: Arc<str>,
    pub incarnation: Arc<str>,
    pub standing: Standing,
}

/// Another region, as this edge sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerOverview {
    pub region: Arc<str>,
    pub incarnation: Option<Arc<str>>,
    pub behind_events: u64,
    pub behind_ms: u64,
    /// The last segment that is known to be there, and the last one that is folded here.
    pub tail: u64,
    pub folded: u64,
    /// Of this region's, the last one that it is known to have folded.
    pub seen_of_us: u64,
    pub visible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind_since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
}

/// What is still to come here, and what still to go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Backlog {
    pub contents: usize,
    pub bytes: u64,
    /// How long ago the oldest push was made here that some other region does not know of.
    pub oldest_unknown_ms: Option<u64>,
    /// The same of one whose bytes some region shall hold and does not.
    pub oldest_unheld_ms: Option<u64>,
}

impl Overview {
    /// For those of whom nothing is known: reasons speak of addresses.
    pub fn without_reasons(mut self) -> Overview {
        self.closed = self.closed.map(|_| "the region's bucket is not open".to_owned());
        self.peers.iter_mut().for_each(|peer| peer.blind = None);
        self
    }
}

impl Registry {
    /// Tags that regions set without having seen each other's, of repositories that the caller may read, in order.
    ///
    /// # Errors
    /// The region is not open.
    pub fn conflicts(&self, readable: impl Fn(&RepositoryName) -> bool, page: &Page) -> Result<Listed<Conflict>, CacheError> {
        let ledger = &self.region()?.ledger;
        let mut last = page.last.as_deref().and_then(split_key);
        let (mut names, mut seen) = (Vec::new(), 0);
        while page.limit > 0 && seen < MAX_CONFLICT_SCAN {
            let after = last.as_ref().map(|(repository, tag)| (repository, tag.as_str()));
            let batch = ledger.conflicts_after(after, CONFLICT_BATCH)?;
            let Some((repository, entry)) = batch.last() else { return Ok(Listed { names, more: false }) };
            last = Some((repository.clone(), entry.tag.to_string()));
            seen += batch.len();
            for (repository, entry) in batch.into_iter().filter(|(repository, _)| readable(repository)) {
                if names.len() == page.limit {
                    return Ok(Listed { names, more: true });
                }
                names.push(Conflict {
                    repository,
                    tag: entry.tag,
                    winner: entry.digest,
                    updated_at_ms: entry.updated_at.as_ms(),
                    losers: entry.losers,
                    is_locked: entry.is_locked,
                });
            }
        }
        Ok(Listed { more: page.limit > 0 && !names.is_empty(), names })
    }

    /// This edge and what it sees of the regions: asks nobody.
    pub fn overview(&self) -> Overview {
        let now = self.inner.witnesses.now();
        let told = match self.region() {
            Ok(open) => standpoint(&open.ledger).map_err(|why| why.to_string()),
            Err(why) => Err(why.to_string()),
        };
        let (ledger, closed) = match told {
            Ok(ledger) => (Some(ledger), None),
            Err(why) => (None, Some(why)),
        };
        let replication = &self.inner.replication;
        Overview {
            version: env!("CARGO_PKG_VERSION"),
            region: replication.own_region().clone(),
            ledger,
            closed,
            peers: replication.lag().into_iter().map(peer).collect(),
            backlog: backlog(replication.pending(), now),
        }
    }
}

fn split_key(text: &str) -> Option<(RepositoryName, String)> {
    let (repository, tag) = text.rsplit_once(':')?;
    Some((repository.parse().ok()?, tag.to_owned()))
}

fn standpoint(ledger: &Ledger) -> Result<Standpoint, LedgerError> {
    let members = ledger.members()?.into_iter().map(|member| {
        let (region, incarnation) = (member.origin.region, member.origin.incarnation);
        Member { region, incarnation, standing: member.standing }
    });
    Ok(Standpoint {
        incarnation: ledger.origin().incarnation.clone(),
        node: ledger.node().to_owned(),
        position: ledger.position()?.to_string(),
        imports: ledger.imports()?.0,
        fenced: ledger.fenced()?,
        members: members.collect(),
        conflicts: ledger.conflicts(MAX_CONFLICT_SCAN)?.len(),
    })
}

fn peer(lag: PeerLag) -> PeerOverview {
    PeerOverview {
        region: lag.region,
        incarnation: lag.incarnation,
        behind_events: lag.behind_events,
        behind_ms: lag.behind_ms,
        tail: lag.tail,
        folded: lag.folded,
        seen_of_us: lag.seen_of_us,
        visible: lag.blind.is_none(),
        blind_since_ms: lag.blind.as_ref().map(|_| lag.seen_at.as_ms()),
        blind: lag.blind,
    }
}

fn backlog(pending: Pending, now: Timestamp) -> Backlog {
    let age = |since: Option<Timestamp>| since.map(|since| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX));
    Backlog {
        contents: pending.contents,
        bytes: pending.bytes,
        oldest_unknown_ms: age(pending.oldest_unknown),
        oldest_unheld_ms: age(pending.oldest_unheld),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_behind_what_it_ended_with() {
        let conflict = Conflict {
            repository: "team/app".parse().unwrap(),
            tag: "v1".parse().unwrap(),
            winner: Digest::sha256(b"1"),
            updated_at_ms: 7,
            losers: vec![Digest::sha256(b"2")],
            is_locked: false,
        };
        assert_eq!(split_key(&conflict.key()), Some(("team/app".parse().unwrap(), "v1".to_owned())));
        for text in ["", "team/app", ":v1", "TEAM:v1"] {
            assert_eq!(split_key(text), None, "{text:?}");
        }
    }

    #[test]
    fn ages_are_told_and_reasons_only_to_those_who_are_known() {
        let pending = Pending { contents: 2, bytes: 9, oldest_unknown: Some(Timestamp::from_ms(1_000)), oldest_unheld: None };
        let backlog = backlog(pending, Timestamp::from_ms(3_500));
        assert_eq!((backlog.oldest_unknown_ms, backlog.oldest_unheld_ms), (Some(2_500), None));
        let lag = PeerLag {
            region: "us".into(),
            incarnation: None,
            tail: 3,
            folded: 1,
            behind_events: 2,
            behind_ms: 5_000,
            blind: Some("10.0.0.1: refused".to_owned()),
            seen_at: Timestamp::from_ms(7),
            seen_of_us: 0,
        };
        let overview = Overview {
            version: "0",
            region: "eu".into(),
            ledger: None,
            closed: Some("10.0.0.2: refused".to_owned()),
            peers: vec![peer(lag)],
            backlog,
        };
        assert!(serde_json::to_string(&overview).unwrap().contains("10.0.0.1"));
        let told = serde_json::to_string(&overview.without_reasons()).unwrap();
        assert!(told.contains("\"visible\":false,\"blind_since_ms\":7") && !told.contains("10.0.0"), "{told}");
    }
}
