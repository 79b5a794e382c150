//! Which regions hold a copy of what: pure, and the same in every region that has the same members and policies, so that none has to
//! ask another.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::access::Pattern;
use crate::config::{self, Acknowledge, Replicate};
use crate::oci::{Digest, RepositoryName};

/// The policies of hosted repositories, as far as copies go: the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    patterns: Vec<(Pattern, Policy)>,
    otherwise: Policy,
}

/// One repository's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub replicate: Replicate,
    pub acknowledge: Acknowledge,
}

/// How much a copy presses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// A client waits for it.
    Awaited,
    Ordinary,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { replicate: Replicate::Lazy, acknowledge: Acknowledge::Store }
    }
}

impl Policies {
    /// `acknowledge` is for repositories that no pattern matches.
    pub fn new(hosted: &[config::Hosted], acknowledge: Acknowledge) -> Policies {
        let policy = |each: &config::Hosted| Policy { replicate: each.replicate, acknowledge: each.acknowledge };
        let patterns = hosted.iter().map(|each| (each.pattern.clone(), policy(each))).collect();
        Policies { patterns, otherwise: Policy { acknowledge, ..Policy::default() } }
    }

    pub fn of(&self, repository: &RepositoryName) -> Policy {
        self.patterns.iter().find(|(pattern, _)| pattern.matches(repository)).map_or(self.otherwise, |(_, policy)| *policy)
    }

    /// Whether nothing is copied, whatever the repository.
    pub(super) fn are_lazy(&self) -> bool {
        self.patterns.iter().map(|(_, policy)| *policy).chain([self.otherwise]).all(|policy| policy == Policy::default())
    }
}

impl Policy {
    pub(super) fn urgency(self) -> Urgency {
        match self.acknowledge {
            Acknowledge::Store => Urgency::Ordinary,
            Acknowledge::Regions(_) => Urgency::Awaited,
        }
    }

    /// How many regions hold it in all, with so many known, the one that was pushed to counted: never fewer than an acknowledgement
    /// waits for.
    fn holders(self, known: usize) -> usize {
        let wanted = match self.replicate {
            Replicate::Lazy => 0,
            Replicate::All => known,
            Replicate::Regions(others) => others,
        };
        let awaited = match self.acknowledge {
            Acknowledge::Store => 0,
            Acknowledge::Regions(others) => others,
        };
        wanted.max(awaited).saturating_add(1).min(known)
    }
}

/// The regions that are still to get a copy, the one that shall begin first in front. A region that holds one already is never among
/// them, so that an order in which copies end changes nothing for those that have not.
pub(super) fn chosen<'a>(
    policy: Policy,
    digest: &Digest,
    members: &'a BTreeSet<Arc<str>>,
    holding: &BTreeSet<Arc<str>>,
) -> Vec<&'a Arc<str>> {
    let holding_members = members.iter().filter(|member| holding.contains(*member)).count();
    let wanted = policy.holders(members.len().max(1)).saturating_sub(holding_members);
    let mut others: Vec<_> = members.iter().filter(|member| !holding.contains(*member)).collect();
    others.sort_by_cached_key(|member| weight(digest, member));
    others.truncate(wanted);
    others
}

/// Rendezvous: each region has its own order of all contents, and a member that comes or goes changes only its own part.
fn weight(digest: &Digest, region: &str) -> Digest {
    Digest::sha256(format!("{digest} {region}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn policy(replicate: Replicate, acknowledge: Acknowledge) -> Policy {
        Policy { replicate, acknowledge }
    }

    #[test]
    fn as_many_regions_are_chosen_as_the_policy_wants() {
        let all = members(&["ap", "eu", "us"]);
        for (replicate, acknowledge, holding, count) in [
            (Replicate::Lazy, Acknowledge::Store, &["eu"][..], 0),
            (Replicate::All, Acknowledge::Store, &["eu"], 2),
            (Replicate::All, Acknowledge::Store, &["eu", "us"], 1),
            (Replicate::All, Acknowledge::Store, &["ap", "eu", "us"], 0),
            (Replicate::Regions(1), Acknowledge::Store, &["eu"], 1),
            (Replicate::Regions(1), Acknowledge::Store, &["eu", "us"], 0),
            (Replicate::Regions(9), Acknowledge::Store, &["eu"], 2),
            (Replicate::Lazy, Acknowledge::Regions(1), &["eu"], 1),
            (Replicate::Regions(1), Acknowledge::Regions(2), &["eu"], 2),
            // A region that left holds a copy that nobody counts on.
            (Replicate::Regions(1), Acknowledge::Store, &["gone", "eu"], 1),
        ] {
            let held = members(holding);
            let policy = policy(replicate, acknowledge);
            let chosen = chosen(policy, &Digest::sha256(b"x"), &all, &held);
            assert_eq!(chosen.len(), count, "{policy:?} {holding:?}");
            assert!(chosen.iter().all(|region| !held.contains(*region)));
        }
    }

    #[test]
    fn who_is_first_depends_on_the_digest_and_whoever_ends_first_changes_nobody_else() {
        let all = members(&["a", "b", "c", "d"]);
        let two_more = policy(Replicate::Regions(2), Acknowledge::Store);
        let mut firsts = BTreeSet::new();
        for number in 0..50_u8 {
            let digest = Digest::sha256(&[number]);
            let both = chosen(two_more, &digest, &all, &members(&["a"]));
            firsts.insert(both[0].clone());
            let second = chosen(two_more, &digest, &all, &members(&["a", both[1]]));
            assert_eq!(second, [both[0]]);
        }
        assert_eq!(firsts, members(&["b", "c", "d"]));
    }

    #[test]
    fn the_first_policy_that_matches_counts() {
        let hosted = |pattern: &str, replicate| config::Hosted {
            pattern: pattern.parse().unwrap(),
            forward_to: None,
            sparse_indexes: false,
            replicate,
            acknowledge: Acknowledge::Store,
            home: None,
        };
        let policies = Policies::new(&[hosted("team/a", Replicate::Lazy), hosted("team/**", Replicate::All)], Acknowledge::Store);
        for (name, replicate) in [("team/a", Replicate::Lazy), ("team/b", Replicate::All), ("other", Replicate::Lazy)] {
            assert_eq!(policies.of(&name.parse().unwrap()).replicate, replicate, "{name}");
        }
        assert!(!policies.are_lazy() && Policies::default().are_lazy());
    }
}
