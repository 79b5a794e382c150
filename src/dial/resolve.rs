//! Names to addresses. Time to live is honoured while DNS works; while it does not, the last good addresses are used however old.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::timeout;

use super::DialError;
use super::target::Host;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

/// Names whose last good addresses are remembered.
const MAX_NAMES: u64 = 1_024;
/// Addresses of a name that are used, of both families.
const MAX_ADDRESSES: usize = 16;
/// Nobody waits longer than this for DNS where a last good answer is at hand.
const STALE_AFTER: Duration = Duration::from_secs(1);
/// For how long a stale or half answer is used before DNS is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A longer time to live is cut to this.
const MAX_TTL: Duration = Duration::from_secs(3_600);
/// How long an answer of one family waits for the other's: RFC 8305, 3 for IPv6; longer for IPv4, without which a dead IPv6
/// could not be survived.
const WAIT_FOR_V6: Duration = Duration::from_millis(50);
const WAIT_FOR_V4: Duration = Duration::from_millis(500);
const HOSTS_FILE: &str = "/etc/hosts";

/// The process' resolver; clones share its table of last good addresses.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dns: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
    /// By lower-case name. moka bounds the number; freshness is a stored time.
    last_good: moka::sync::Cache<String, Remembered>,
    clock: Clock,
    metrics: Metrics,
}

#[derive(Clone, Debug)]
struct Remembered {
    addresses: Arc<[IpAddr]>,
    from: Timestamp,
    until: Timestamp,
    /// How its use is counted: `cached`, or `stale` once DNS failed to renew it.
    outcome: &'static str,
}

impl Remembered {
    /// Also false when the clock was set back to before the answer.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As old as its time to live.
    TimeToLive,
    /// DNS is asked, whatever is remembered.
    Now,
}

/// What DNS says about a name, of one family or of both.
enum Verdict {
    Found {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// The name does not exist, or has no address.
    Absent,
    Failed(String),
}

impl Resolver {
    /// With the system's configuration: `/etc/resolv.conf` and `/etc/hosts`, each read once, here. Without a name server in the
    /// former the one of this machine is asked (resolv.conf(5)): an edge must start while DNS is broken.
    ///
    /// # Errors
    /// [`DialError::System`] when `/etc/hosts` is there and cannot be read.
    pub fn new(clock: Clock, metrics: Metrics) -> Result<Resolver, DialError> {
        let system = |why: &dyn std::fmt::Display| DialError::System { why: why.to_string() };
        let (config, options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name server is configured, the one of this machine is asked");
            let local = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]);
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        });
        let hosts = if Path::new(HOSTS_FILE).exists() { Hosts::from_system().map_err(|error| system(&error))? } else { Hosts::default() };
        Resolver::build(config, options, hosts, clock, metrics)
    }

    /// With one name server and the text of a hosts file (`hosts(5)`) in place of the system's, for tests.
    ///
    /// # Errors
    /// [`DialError::System`]
    pub fn with_config(server: SocketAddr, hosts: &str, clock: Clock, metrics: Metrics) -> Result<Resolver, DialError> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let servers = vec![NameServerConfig::new(server.ip(), true, connections.to_vec())];
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts.as_bytes()).map_err(|error| DialError::System { why: error.to_string() })?;
        Resolver::build(ResolverConfig::from_name_servers(servers), ResolverOpts::default(), table, clock, metrics)
    }

    fn build(config: ResolverConfig, options: ResolverOpts, hosts: Hosts, clock: Clock, metrics: Metrics) -> Result<Resolver, DialError> {
        let (domain, mut search, servers) = config.into_parts();
        search.extend(domain.filter(|_| search.is_empty()));
        let ndots = options.ndots;
        // The search list, the hosts file and the cache are kept here: hickory would let a search domain's NXDOMAIN stand for
        // a name that timed out, ask DNS for the family that a hosts line does not have, and judge expiry by its own clock.
        let mut builder = TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.options_mut().cache_size = 0;
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        let dns = builder.build().map_err(|error| DialError::System { why: error.to_string() })?;
        let last_good = moka::sync::Cache::new(MAX_NAMES);
        Ok(Resolver(Arc::new(Inner { dns, hosts, search, ndots, last_good, clock, metrics })))
    }

    /// All addresses of a host as a URL writes it, IPv4-mapped ones as IPv4: to be compared with others, not to be dialled, since no
    /// policy has judged them.
    ///
    /// # Errors
    /// [`DialError::Target`] for what is no host; [`DialError::Absent`]; [`DialError::Resolve`] after at most `patience`.
    pub async fn addresses(&self, host: &str, freshness: Freshness, patience: Duration) -> Result<Vec<IpAddr>, DialError> {
        match Host::parse(host).map_err(|why| DialError::Target { target: host.to_owned(), why })? {
            Host::Name(name) => {
                let found = self.0.resolve(&name, freshness, patience).await?;
                Ok(found.iter().map(IpAddr::to_canonical).collect())
            }
            literal => Ok(self.resolve(&literal, patience).await?.iter().map(IpAddr::to_canonical).collect()),
        }
    }

    /// The addresses to try, IPv6 first and the families in turn; at least one.
    ///
    /// # Errors
    /// [`DialError::Absent`], or [`DialError::Resolve`] after at most `patience`.
    pub(super) async fn resolve(&self, host: &Host, patience: Duration) -> Result<Vec<IpAddr>, DialError> {
        match host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Local(_) => Ok(vec![IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), IpAddr::from([127, 0, 0, 1])]),
            Host::Name(name) => self.0.resolve(name, Freshness::TimeToLive, patience).await.map(|addresses| in_turn(&addresses)),
        }
    }
}

impl Inner {
    async fn resolve(&self, name: &str, freshness: Freshness, patience: Duration) -> Result<Arc<[IpAddr]>, DialError> {
        let last = self.last_good.get(name);
        if freshness == Freshness::TimeToLive
            && let Some(last) = &last
            && last.is_fresh(self.clock.now())
        {
            self.metrics.dns_lookup(last.outcome);
            return Ok(last.addresses.clone());
        }
        let patience = if last.is_some() { patience.min(STALE_AFTER) } else { patience };
        let verdict = timeout(patience, self.look_up(name)).await;
        match verdict.unwrap_or_else(|_| Verdict::Failed("no answer in time".to_owned())) {
            Verdict::Found { addresses, ttl } => {
                self.metrics.dns_lookup("answered");
                Ok(self.remember(name, addresses.into(), ttl, "cached"))
            }
            Verdict::Absent => {
                self.last_good.invalidate(name);
                self.metrics.dns_lookup("absent");
                Err(DialError::Absent { host: name.to_owned() })
            }
            Verdict::Failed(why) => match last {
                Some(last) => {
                    tracing::warn!(host = name, why, "DNS failed, the last good addresses are used");
                    self.metrics.dns_lookup("stale");
                    Ok(self.remember(name, last.addresses, ASK_AGAIN_AFTER, "stale"))
                }
                None => {
                    self.metrics.dns_lookup("failed");
                    Err(DialError::Resolve { host: name.to_owned(), why })
                }
            },
        }
    }

    fn remember(&self, name: &str, addresses: Arc<[IpAddr]>, ttl: Duration, outcome: &'static str) -> Arc<[IpAddr]> {
        let from = self.clock.now();
        let remembered = Remembered { addresses: addresses.clone(), from, until: from.plus(ttl.min(MAX_TTL)), outcome };
        self.last_good.insert(name.to_owned(), remembered);
        addresses
    }

    /// The hosts file first, then DNS for the candidates in turn. Absent means that every candidate was confirmed absent.
    async fn look_up(&self, name: &str) -> Verdict {
        let Ok(name) = Name::from_ascii(name) else { return Verdict::Failed("not a DNS name".to_owned()) };
        if let Some(addresses) = self.in_hosts(&name) {
            return Verdict::Found { addresses, ttl: MAX_TTL };
        }
        let mut failed = None;
        for candidate in self.candidates(name) {
            match self.both_families(&candidate).await {
                Verdict::Absent => {}
                Verdict::Failed(why) => failed = Some(why),
                found @ Verdict::Found { .. } => return found,
            }
        }
        failed.map_or(Verdict::Absent, Verdict::Failed)
    }

    /// The full names that a name may stand for, by the rules of `resolv.conf(5)`: as it is first when it has `ndots` dots.
    fn candidates(&self, mut itself: Name) -> Vec<Name> {
        let is_complete = itself.is_fqdn();
        let searched = self.search.iter().filter_map(|domain| itself.clone().append_domain(domain).ok());
        let mut candidates: Vec<Name> = if is_complete { Vec::new() } else { searched.collect() };
        let first = is_complete || usize::from(itself.num_labels()) > self.ndots;
        itself.set_fqdn(true);
        candidates.insert(if first { 0 } else { candidates.len() }, itself);
        candidates
    }

    async fn both_families(&self, name: &Name) -> Verdict {
        let (v6, v4) = (self.family(name, RecordType::AAAA), self.family(name, RecordType::A));
        tokio::pin!(v6, v4);
        let late = || Verdict::Failed("one family's answer was late".to_owned());
        let (v6, v4) = tokio::select! {
            biased;
            v6 = &mut v6 => match v6 {
                Verdict::Found { .. } => (v6, timeout(WAIT_FOR_V4, v4).await.unwrap_or_else(|_| late())),
                Verdict::Absent | Verdict::Failed(_) => (v6, v4.await),
            },
            v4 = &mut v4 => match v4 {
                Verdict::Found { .. } => (timeout(WAIT_FOR_V6, v6).await.unwrap_or_else(|_| late()), v4),
                Verdict::Absent | Verdict::Failed(_) => (v6.await, v4),
            },
        };
        merged(v6, v4)
    }

    /// A name of the hosts file is not asked for in DNS, whichever family it has there.
    fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let lookups = [RecordType::AAAA, RecordType::A].map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        let records = lookups.iter().flatten().flat_map(|lookup| lookup.answers());
        let addresses: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    async fn family(&self, name: &Name, kind: RecordType) -> Verdict {
        match self.dns.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let addresses: Vec<IpAddr> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                // The shortest of the chain: an alias may live shorter than the address that it leads to.
                let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                match addresses.is_empty() {
                    true => Verdict::Absent,
                    false => Verdict::Found { addresses, ttl: Duration::from_secs(ttl.into()) },
                }
            }
            Err(error) if error.is_no_records_found() => Verdict::Absent,
            Err(error) => Verdict::Failed(error.to_string()),
        }
    }
}

/// Both families' verdicts as one: an address of either will do, but half an answer is soon asked for again.
fn merged(v6: Verdict, v4: Verdict) -> Verdict {
    match (v6, v4) {
        (Verdict::Found { mut addresses, ttl }, Verdict::Found { addresses: more, ttl: other }) => {
            addresses.extend(more);
            Verdict::Found { addresses, ttl: ttl.min(other) }
        }
        (found @ Verdict::Found { .. }, Verdict::Absent) | (Verdict::Absent, found @ Verdict::Found { .. }) => found,
        (Verdict::Found { addresses, ttl }, Verdict::Failed(_)) | (Verdict::Failed(_), Verdict::Found { addresses, ttl }) => {
            Verdict::Found { addresses, ttl: ttl.min(ASK_AGAIN_AFTER) }
        }
        (Verdict::Absent, Verdict::Absent) => Verdict::Absent,
        (Verdict::Failed(why), _) | (_, Verdict::Failed(why)) => Verdict::Failed(why),
    }
}

/// RFC 8305, 4: the families in turn, IPv6 first.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut v6 = addresses.iter().copied().filter(IpAddr::is_ipv6);
    let mut v4 = addresses.iter().copied().filter(IpAddr::is_ipv4);
    let mut ordered = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            break;
        }
        ordered.extend(pair.into_iter().flatten());
    }
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::testing::{NameServer, Reply};

    const PATIENCE: Duration = Duration::from_millis(800);

    struct World {
        server: NameServer,
        clock: Clock,
        metrics: Metrics,
        resolver: Resolver,
    }

    async fn world(hosts: &str) -> World {
        let (server, clock, metrics) = (NameServer::start().await, Clock::manual(Timestamp::from_ms(1_000_000)), Metrics::new());
        let resolver = Resolver::with_config(server.address, hosts, clock.clone(), metrics.clone()).unwrap();
        World { server, clock, metrics, resolver }
    }

    impl World {
        /// The addresses as text, or the error's label and variant.
        async fn resolve(&self, name: &str) -> Result<Vec<String>, DialError> {
            let addresses = self.resolver.resolve(&Host::parse(name).unwrap(), PATIENCE).await?;
            Ok(addresses.iter().map(ToString::to_string).collect())
        }

        fn counted(&self, outcome: &str) -> bool {
            self.metrics.render().contains(&format!(r#"outport_dns_lookups_total{{outcome="{outcome}"}} "#))
        }
    }

    #[tokio::test]
    async fn families_come_in_turn_and_the_time_to_live_is_honoured() {
        let world = world("").await;
        world.server.set("a.example.", RecordType::A, Reply::Addresses(&["192.0.2.1", "192.0.2.2"], 60));
        world.server.set("a.example.", RecordType::AAAA, Reply::Addresses(&["2001:db8::1"], 30));
        let expected = ["2001:db8::1", "192.0.2.1", "192.0.2.2"];
        assert_eq!(world.resolve("A.example").await.unwrap(), expected);
        assert_eq!(world.server.queries(), 2);
        world.clock.advance(Duration::from_secs(29));
        assert_eq!(world.resolve("a.example").await.unwrap(), expected);
        assert_eq!(world.server.queries(), 2);
        assert!(world.counted("answered") && world.counted("cached"));
        world.clock.advance(Duration::from_secs(1));
        world.server.set_both("a.example.", Reply::Addresses(&["192.0.2.9"], 0));
        world.server.set("a.example.", RecordType::AAAA, Reply::NoName);
        assert_eq!(world.resolve("a.example").await.unwrap_or_default(), ["192.0.2.9"]);
        assert_eq!(world.server.queries(), 4);
    }

    #[tokio::test]
    async fn all_addresses_of_a_host_are_told_and_again_on_demand() {
        let many: &[&str] = &[
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.3",
            "10.0.0.4",
            "10.0.0.5",
            "10.0.0.6",
            "10.0.0.7",
            "10.0.0.8",
            "10.0.0.9",
            "10.0.0.10",
            "10.0.0.11",
            "10.0.0.12",
            "10.0.0.13",
            "10.0.0.14",
            "10.0.0.15",
            "10.0.0.16",
            "10.0.0.17",
            "10.0.0.18",
        ];
        let world = world("").await;
        world.server.set("a.example.", RecordType::A, Reply::Addresses(&many[..17], 60));
        let count = async |freshness| world.resolver.addresses("A.example", freshness, PATIENCE).await.map(|found| found.len());
        assert_eq!(count(Freshness::TimeToLive).await, Ok(17));
        world.server.set("a.example.", RecordType::A, Reply::Addresses(many, 60));
        assert_eq!((count(Freshness::TimeToLive).await, count(Freshness::Now).await), (Ok(17), Ok(18)));
        assert_eq!(count(Freshness::TimeToLive).await, Ok(18));
        let literal = world.resolver.addresses("[::ffff:10.0.0.1]", Freshness::Now, PATIENCE).await;
        assert_eq!(literal, Ok(vec![IpAddr::from([10, 0, 0, 1])]));
        assert!(matches!(world.resolver.addresses("127.1", Freshness::Now, PATIENCE).await, Err(DialError::Target { .. })));
    }

    #[tokio::test]
    async fn the_last_good_addresses_serve_while_dns_fails_however_old() {
        for failure in [Reply::Silence, Reply::Failure] {
            let world = world("").await;
            world.server.set("a.example.", RecordType::A, Reply::Addresses(&["192.0.2.1"], 5));
            assert_eq!(world.resolve("a.example").await.unwrap(), ["192.0.2.1"]);
            world.clock.advance(Duration::from_secs(1_000_000));
            world.server.set_both("a.example.", failure);
            assert_eq!(world.resolve("a.example").await.unwrap(), ["192.0.2.1"]);
            assert!(world.counted("stale"));
            // The next one does not wait for DNS again.
            let asked = world.server.queries();
            assert_eq!(world.resolve("a.example").await.unwrap(), ["192.0.2.1"]);
            assert_eq!(world.server.queries(), asked);
            // DNS is back.
            world.clock.advance(ASK_AGAIN_AFTER);
            world.server.set("a.example.", RecordType::A, Reply::Addresses(&["192.0.2.7"], 5));
            world.server.set("a.example.", RecordType::AAAA, Reply::Addresses(&[], 5));
            assert_eq!(world.resolve("a.example").await.unwrap(), ["192.0.2.7"]);
        }
    }

    #[tokio::test]
    async fn an_absent_name_is_absent_even_if_it_was_there() {
        let world = world("").await;
        world.server.set("a.example.", RecordType::A, Reply::Addresses(&["192.0.2.1"], 0));
        assert!(world.resolve("a.example").await.is_ok());
        world.server.set_both("a.example.", Reply::NoName);
        let absent = Err(DialError::Absent { host: "a.example".to_owned() });
        assert_eq!(world.resolve("a.example").await, absent);
        // And what was remembered is forgotten.
        world.server.set_both("a.example.", Reply::Failure);
        assert!(matches!(world.resolve("a.example").await, Err(DialError::Resolve { .. })));
        assert!(world.counted("absent") && world.counted("failed"));
    }

    #[tokio::test]
    async fn a_name_never_seen_fails_when_dns_is_silent() {
        let world = world("").await;
        world.server.set_both("a.example.", Reply::Silence);
        let began = tokio::time::Instant::now();
        assert!(matches!(world.resolve("a.example").await, Err(DialError::Resolve { .. })));
        assert!(began.elapsed() < Duration::from_secs(2));
        // One family absent, the other unknown: nobody can tell.
        world.server.set("a.example.", RecordType::AAAA, Reply::NoName);
        assert!(matches!(world.resolve("a.example").await, Err(DialError::Resolve { .. })));
    }

    #[tokio::test]
    async fn a_family_that_does_not_answer_is_not_waited_for() {
        let world = world("").await;
        world.server.set("a.example.", RecordType::A, Reply::Addresses(&["192.0.2.1"], 3_600));
        world.server.set("a.example.", RecordType::AAAA, Reply::Silence);
        let began = tokio::time::Instant::now();
        assert_eq!(world.resolve("a.example").await.unwrap(), ["192.0.2.1"]);
        assert!(began.elapsed() < PATIENCE);
        // Half an answer is soon asked for again.
        world.clock.advance(ASK_AGAIN_AFTER);
        world.server.set("a.example.", RecordType::AAAA, Reply::Addresses(&["2001:db8::1"], 60));
        assert_eq!(world.resolve("a.example").await.unwrap(), ["2001:db8::1", "192.0.2.1"]);
    }

    #[tokio::test]
    async fn hosts_and_localhost_need_no_dns() {
        let world = world("192.0.2.5 registry.local mirror # comment\n2001:db8::5 registry.local\n").await;
        assert_eq!(world.resolve("registry.local").await.unwrap(), ["2001:db8::5", "192.0.2.5"]);
        assert_eq!(world.resolve("mirror").await.unwrap(), ["192.0.2.5"]);
        assert_eq!(world.resolve("localhost").await.unwrap(), ["::1", "127.0.0.1"]);
        assert_eq!(world.resolve("192.0.2.8").await.unwrap(), ["192.0.2.8"]);
        assert_eq!(world.server.queries(), 0);
    }

    #[tokio::test]
    async fn the_search_list_is_used_by_the_rules_and_never_hides_a_failure() {
        let server = NameServer::start().await;
        let mut config = ResolverConfig::from_parts(None, vec![Name::from_ascii("corp.example.").unwrap()], Vec::new());
        let mut connection = ConnectionConfig::udp();
        connection.port = server.address.port();
        config.add_name_server(NameServerConfig::new(server.address.ip(), true, vec![connection]));
        let build = || Resolver::build(config.clone(), ResolverOpts::default(), Hosts::default(), Clock::system(), Metrics::new()).unwrap();
        let candidates =
            |name: &str| build().0.candidates(Name::from_ascii(name).unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(candidates("hub"), ["hub.corp.example.", "hub."]);
        assert_eq!(candidates("hub.example"), ["hub.example.", "hub.example.corp.example."]);
        assert_eq!(candidates("hub."), ["hub."]);

        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"192.0.2.5 hub"[..]).unwrap();
        let with_hosts = Resolver::build(config.clone(), ResolverOpts::default(), hosts, Clock::system(), Metrics::new()).unwrap();
        server.set("hub.corp.example.", RecordType::A, Reply::Addresses(&["192.0.2.1"], 60));
        let found = build().resolve(&Host::parse("hub").unwrap(), PATIENCE).await.unwrap();
        assert_eq!(found, [IpAddr::from([192, 0, 2, 1])]);
        let found = with_hosts.resolve(&Host::parse("hub").unwrap(), PATIENCE).await.unwrap();
        assert_eq!(found, [IpAddr::from([192, 0, 2, 5])]);
        // The name itself cannot be told, and only its search variant is confirmed absent.
        server.set_both("hub.example.", Reply::Failure);
        let error = build().resolve(&Host::parse("hub.example").unwrap(), PATIENCE).await;
        assert!(matches!(error, Err(DialError::Resolve { .. })), "{error:?}");
    }

    #[test]
    fn an_answer_from_the_future_is_not_fresh() {
        let at = Timestamp::from_ms;
        let remembered = Remembered { addresses: Arc::new([]), from: at(5_000), until: at(9_000), outcome: "cached" };
        for (now, fresh) in [(4_999, false), (5_000, true), (8_999, true), (9_000, false)] {
            assert_eq!(remembered.is_fresh(at(now)), fresh, "{now}");
        }
    }
}
