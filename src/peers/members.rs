//! Which hosts are edges of this region.
//!
//! That a sibling sealed an owner's address is the proof; this is the second look, for regions that have a name in DNS: a token that
//! leaked does not make this edge connect to any address of the inner network. It must not hurt who grows, shrinks and restarts: an
//! address that is not known yet is asked for at once, and one that DNS no longer lists, as of an edge that drains, is known for a
//! while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync;

use crate::clock::{Clock, Timestamp};
use crate::dial::{DialError, Freshness, Resolver};

/// The longest wait for DNS.
const PATIENCE: Duration = Duration::from_secs(1);
/// An address that is not known has DNS asked anew, this often at most.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long an address is known after DNS last listed it.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Addresses known at one time. A region has some tens of edges.
const MAX_KNOWN: usize = 1_024;

pub(super) struct Members {
    /// The name whose addresses are the region's edges; without one the seal decides alone.
    name: Option<String>,
    own_host: String,
    resolver: Resolver,
    clock: Clock,
    /// When DNS last listed each address.
    known: Mutex<HashMap<IpAddr, Timestamp>>,
    /// The last question beyond the resolver's cache. Held while it is asked, so that many who miss ask once.
    asked: sync::Mutex<Option<Asked>>,
}

struct Asked {
    at: Timestamp,
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    Stranger,
}

impl Members {
    pub(super) fn new(name: Option<&str>, own_host: &str, resolver: Resolver, clock: Clock) -> Members {
        let lower = |host: &str| host.to_ascii_lowercase();
        let (name, own_host) = (name.map(lower), lower(own_host));
        Members { name, own_host, resolver, clock, known: Mutex::default(), asked: sync::Mutex::default() }
    }

    /// Judges a host as a URL writes it.
    ///
    /// # Errors
    /// Why nobody can tell.
    pub(super) async fn judge(&self, host: &str) -> Result<Standing, String> {
        let Some(name) = &self.name else { return Ok(Standing::Member) };
        let host = host.to_ascii_lowercase();
        if host == self.own_host || host == *name {
            return Ok(Standing::Member);
        }
        let addresses = match self.resolver.addresses(&host, Freshness::TimeToLive, PATIENCE).await {
            Ok(addresses) => addresses,
            Err(DialError::Absent { .. } | DialError::Target { .. }) => return Ok(Standing::Stranger),
            Err(error) => return Err(error.to_string()),
        };
        let learned = self.learn(name, Freshness::TimeToLive).await;
        if self.knows(&addresses) {
            return Ok(Standing::Member);
        }
        learned?;
        self.ask_again(name).await?;
        Ok(if self.knows(&addresses) { Standing::Member } else { Standing::Stranger })
    }

    fn knows(&self, addresses: &[IpAddr]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        addresses.iter().any(|address| known.get(address).is_some_and(|at| now.since(*at) < KNOWN_FOR))
    }

    /// A name that is absent lists nobody.
    async fn learn(&self, name: &str, freshness: Freshness) -> Result<(), String> {
        let listed = match self.resolver.addresses(name, freshness, PATIENCE).await {
            Ok(listed) => listed,
            Err(DialError::Absent { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let now = self.clock.now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, at| now.since(*at) < KNOWN_FOR);
        for address in listed {
            if known.len() < MAX_KNOWN || known.contains_key(&address) {
                known.insert(address, now);
            }
        }
        Ok(())
    }

    /// Asks DNS whatever is remembered, unless somebody just did.
    async fn ask_again(&self, name: &str) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        let now = self.clock.now();
        // Also asked again when the clock was set back.
        if let Some(last) = asked.as_ref().filter(|last| last.at <= now && now.since(last.at) < ASK_AGAIN_AFTER) {
            return last.failure.clone().map_or(Ok(()), Err);
        }
        let failure = self.learn(name, Freshness::Now).await.err();
        *asked = Some(Asked { at: now, failure: failure.clone() });
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::testing::{NameServer, Reply};
    use crate::metrics::Metrics;

    struct World {
        server: NameServer,
        clock: Clock,
        members: Members,
    }

    const TTL_S: u32 = 300;

    /// An edge at 10.0.0.1, with the given siblings in DNS.
    async fn world(siblings: &'static [&'static str]) -> World {
        let (server, clock) = (NameServer::start().await, Clock::manual(Timestamp::from_ms(1_000_000)));
        let resolver = Resolver::with_config(server.address, "10.0.0.2 two.local\n10.0.0.9 nine.local", clock.clone(), Metrics::new());
        let world = World { members: Members::new(Some("Edges.local"), "10.0.0.1", resolver.unwrap(), clock.clone()), server, clock };
        world.list(siblings);
        world
    }

    impl World {
        fn list(&self, siblings: &'static [&'static str]) {
            use hickory_resolver::proto::rr::RecordType::{A, AAAA};
            self.server.set("edges.local.", AAAA, Reply::Addresses(&[], TTL_S));
            self.server.set("edges.local.", A, Reply::Addresses(siblings, TTL_S));
        }

        async fn is_member(&self, host: &str) -> bool {
            self.members.judge(host).await.unwrap() == Standing::Member
        }
    }

    #[tokio::test]
    async fn members_are_what_the_name_lists() {
        let world = world(&["10.0.0.2", "10.0.0.3"]).await;
        for (host, expected) in [
            ("10.0.0.1", true),
            ("edges.local", true),
            ("10.0.0.2", true),
            ("[::ffff:10.0.0.3]", true),
            ("two.local", true),
            ("nine.local", false),
            ("10.0.0.4", false),
            ("169.254.169.254", false),
            ("[::1]", false),
            ("localhost", false),
            ("unknown.local", false),
            ("167772162", false),
        ] {
            assert_eq!(world.is_member(host).await, expected, "{host}");
        }
    }

    #[tokio::test]
    async fn without_a_name_the_seal_decides() {
        let world = world(&[]).await;
        let members = Members::new(None, "10.0.0.1", world.members.resolver.clone(), world.clock.clone());
        assert_eq!(members.judge("10.9.9.9").await, Ok(Standing::Member));
        assert_eq!(world.server.queries(), 0);
    }

    #[tokio::test]
    async fn a_new_edge_is_known_at_once_and_strangers_ask_once_a_second() {
        let world = world(&["10.0.0.2"]).await;
        assert!(world.is_member("10.0.0.2").await);
        let before = world.server.queries();
        world.list(&["10.0.0.2", "10.0.0.3"]);
        assert!(world.is_member("10.0.0.3").await, "long before the time to live has passed");
        assert_eq!(world.server.queries(), before + 2);
        for _ in 0..10 {
            assert!(!world.is_member("10.0.0.4").await);
        }
        assert_eq!(world.server.queries(), before + 2);
        world.clock.advance(ASK_AGAIN_AFTER);
        let many = futures_util::future::join_all((0..10).map(|_| world.is_member("10.0.0.4"))).await;
        assert_eq!((many, world.server.queries()), (vec![false; 10], before + 4));
    }

    #[tokio::test]
    async fn an_edge_that_drains_is_known_for_a_while() {
        let world = world(&["10.0.0.2"]).await;
        assert!(world.is_member("10.0.0.2").await);
        world.list(&["10.0.0.3"]);
        world.clock.advance(KNOWN_FOR - Duration::from_secs(1));
        assert!(world.is_member("10.0.0.2").await);
        world.clock.advance(Duration::from_secs(1));
        assert!(!world.is_member("10.0.0.2").await);
    }

    #[tokio::test]
    async fn while_dns_fails_nobody_new_can_be_judged() {
        let world = world(&["10.0.0.2"]).await;
        world.server.set_both("edges.local.", Reply::Failure);
        assert!(world.members.judge("10.0.0.3").await.is_err());
        assert!(world.is_member("10.0.0.1").await);
        world.list(&["10.0.0.2"]);
        assert!(world.is_member("10.0.0.2").await);
        world.server.set_both("edges.local.", Reply::NoName);
        world.clock.advance(KNOWN_FOR);
        assert!(!world.is_member("10.0.0.2").await, "a name that is gone lists nobody");
    }
}
