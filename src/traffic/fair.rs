//! What one client may take: so many requests a second, and so many bytes.
//!
//! Both by the generic cell rate algorithm (ITU-T I.371): of each client the moment is kept at which all that it took is paid for. A request
//! moves it by a step and is one too many when it lies too far ahead; what is refused is not counted, so that who asks too often goes on
//! at its rate. Bytes are not refused: the next ones wait. A client is a principal if it signed in, wherever it comes from, else an
//! address, or a network of 64 bits.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::lock;
use crate::access::{Principal, client_network};
use crate::config::ClientLimits;
use crate::metrics::Metrics;

/// Parts of each table, so that clients seldom wait for each other.
const SHARDS: usize = 16;
/// Clients in a part, at most: of a million names 65,536 stay, or fewer.
const MAX_CLIENTS: usize = 4_096;
/// What a client did not take of its bandwidth for up to so long, it may have at once.
const UNUSED: Duration = Duration::from_secs(1);

/// Whose share it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Principal(Arc<str>),
    Address(IpAddr),
}

impl Client {
    pub fn of(principal: &Principal, address: IpAddr) -> Client {
        match principal {
            Principal::Named(name) => Client::Principal(name.clone()),
            Principal::Anonymous => Client::address(address),
        }
    }

    pub fn address(address: IpAddr) -> Client {
        Client::Address(client_network(address))
    }
}

/// What clients have taken.
#[derive(Debug)]
pub struct Fair {
    metrics: Metrics,
    epoch: Instant,
    hasher: RandomState,
    requests: [Mutex<HashMap<Client, Paid, RandomState>>; SHARDS],
    bytes: [Mutex<HashMap<Client, Arc<AtomicU64>, RandomState>>; SHARDS],
}

/// When all is paid for, in nanoseconds after the epoch.
type Paid = u64;

impl Fair {
    pub fn new(metrics: Metrics) -> Fair {
        Fair {
            metrics,
            epoch: Instant::now(),
            hasher: RandomState::default(),
            requests: std::array::from_fn(|_| Mutex::default()),
            bytes: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// One more request of a client.
    ///
    /// # Errors
    /// It must not be made before this time has passed.
    pub fn take(&self, limits: &ClientLimits, client: &Client) -> Result<(), Duration> {
        let Some(step) = NANOSECONDS.checked_div(limits.requests.into()) else { return Ok(()) };
        let most_ahead = step.saturating_mul(u64::from(limits.burst.max(1)));
        let now = self.now();
        let mut clients = lock(&self.requests[self.shard(client)]);
        let known = clients.get(client).copied();
        // Where the limits were lowered, nobody waits for more than what counts now.
        let paid = known.unwrap_or(now).clamp(now, now.saturating_add(most_ahead));
        let wait = (paid - now + step).saturating_sub(most_ahead);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        if known.is_none() && clients.len() >= MAX_CLIENTS {
            make_room(&mut clients, now, |paid| Some(*paid));
        }
        clients.insert(client.clone(), paid + step);
        Ok(())
    }

    /// A request is refused because its client asks too often.
    pub fn refused(&self) {
        self.metrics.limited("requests");
    }

    /// By which the bytes for a client go, if they are limited.
    pub fn lane(&self, limits: &ClientLimits, client: &Client) -> Option<Lane> {
        if limits.bandwidth.0 == 0 {
            return None;
        }
        let now = self.now();
        let mut clients = lock(&self.bytes[self.shard(client)]);
        let paid = match clients.get(client) {
            Some(paid) => paid.clone(),
            None => {
                if clients.len() >= MAX_CLIENTS {
                    // What a body goes by is not forgotten.
                    make_room(&mut clients, now, |paid| (Arc::strong_count(paid) == 1).then(|| paid.load(Ordering::Relaxed)));
                }
                clients.entry(client.clone()).or_default().clone()
            }
        };
        Some(Lane { metrics: self.metrics.clone(), epoch: self.epoch, paid, bytes_per_s: limits.bandwidth.0 })
    }

    fn shard(&self, client: &Client) -> usize {
        // The lower bits choose the place within a map.
        (self.hasher.hash_one(client) >> 32) as usize % SHARDS
    }

    fn now(&self) -> Paid {
        nanoseconds(self.epoch.elapsed())
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Drops whoever owes nothing, and where those are too few, the half that owes least. `paid` is `None` for one that must stay.
fn make_room<V>(clients: &mut HashMap<Client, V, RandomState>, now: Paid, paid: impl Fn(&V) -> Option<Paid>) {
    clients.retain(|_, client| paid(client).is_none_or(|paid| paid > now));
    if clients.len() > MAX_CLIENTS / 2 {
        let mut owed: Vec<Paid> = clients.values().filter_map(&paid).collect();
        if owed.is_empty() {
            return;
        }
        let middle = owed.len() / 2;
        let median = *owed.select_nth_unstable(middle).1;
        clients.retain(|_, client| paid(client).is_none_or(|paid| paid > median));
    }
}

/// The bytes of one client, in all its answers together.
#[derive(Clone, Debug)]
pub struct Lane {
    metrics: Metrics,
    epoch: Instant,
    paid: Arc<AtomicU64>,
    bytes_per_s: u64,
}

impl Lane {
    /// So many bytes go.
    pub fn spend(&self, bytes: u64) {
        let (now, cost) = (nanoseconds(self.epoch.elapsed()), self.cost(bytes));
        let spend = |paid: u64| Some(paid.max(now).saturating_add(cost));
        // It always gives a new value.
        let _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }

    /// How long the next bytes have to wait; zero if they may go.
    pub fn wait(&self) -> Duration {
        let ahead = self.paid.load(Ordering::Relaxed).saturating_sub(nanoseconds(self.epoch.elapsed()));
        Duration::from_nanos(ahead).saturating_sub(UNUSED)
    }

    /// A body waits.
    pub fn waits(&self) {
        self.metrics.limited("bytes");
    }

    /// Whether so many bytes in one piece would go evenly enough.
    pub fn carries(&self, bytes: u64) -> bool {
        self.cost(bytes) <= nanoseconds(UNUSED / 4)
    }

    /// The time that so many bytes take.
    fn cost(&self, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * u128::from(NANOSECONDS) / u128::from(self.bytes_per_s);
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    fn limits(requests: u32, burst: u32, bandwidth: u64) -> ClientLimits {
        ClientLimits { requests, burst, bandwidth: ByteSize(bandwidth) }
    }

    fn client(number: u32) -> Client {
        Client::address(std::net::Ipv4Addr::from_bits(number).into())
    }

    fn fair() -> Fair {
        Fair::new(Metrics::new())
    }

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_its_burst_and_then_its_rate() {
        let (fair, limits) = (fair(), limits(10, 5, 0));
        let many = |count: usize| (0..count).filter(|_| fair.take(&limits, &client(1)).is_ok()).count();
        assert_eq!(many(100), 5);
        assert_eq!(fair.take(&limits, &client(1)), Err(Duration::from_millis(100)));
        assert_eq!(fair.take(&limits, &client(2)), Ok(()), "others have their own");
        pass(100).await;
        assert_eq!(many(100), 1);
        pass(250).await;
        assert_eq!(many(100), 2);
        pass(10_000).await;
        assert_eq!(many(100), 5, "what was not used is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_nothing_is_kept_and_lowered_ones_hold_at_once() {
        let fair = fair();
        assert!((0..1_000).all(|_| fair.take(&limits(0, 5, 0), &client(1)).is_ok()));
        assert!(fair.lane(&limits(0, 5, 0), &client(1)).is_none());
        assert!(fair.requests.iter().all(|clients| lock(clients).is_empty()));
        assert!((0..1_000).all(|_| fair.take(&limits(1, 1_000, 0), &client(1)).is_ok()));
        assert_eq!(fair.take(&limits(10, 1, 0), &client(1)), Err(Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_their_turn() {
        let (fair, limits) = (fair(), limits(0, 0, 1_000));
        let (lane, same) = (fair.lane(&limits, &client(1)).unwrap(), fair.lane(&limits, &client(1)).unwrap());
        lane.spend(1_000);
        assert_eq!((lane.wait(), same.wait()), (Duration::ZERO, Duration::ZERO), "a second's worth goes at once");
        same.spend(500);
        assert_eq!((lane.wait(), same.wait()), (Duration::from_millis(500), Duration::from_millis(500)));
        assert_eq!(fair.lane(&limits, &client(2)).unwrap().wait(), Duration::ZERO);
        assert_eq!([250, 251].map(|bytes| lane.carries(bytes)), [true, false]);
        pass(500).await;
        assert_eq!(lane.wait(), Duration::ZERO);
        lane.spend(u64::MAX);
        assert!(lane.wait() > Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn many_clients_leave_no_more_than_there_is_room_for() {
        let (fair, limits) = (fair(), limits(1, 10, 1_000_000));
        let noisy = client(u32::MAX);
        while fair.take(&limits, &noisy).is_ok() {}
        let held = fair.lane(&limits, &noisy).unwrap();
        held.spend(5_000_000);
        for number in 0..200_000 {
            assert_eq!(fair.take(&limits, &client(number)), Ok(()));
            fair.lane(&limits, &client(number)).unwrap().spend(1);
        }
        for shard in 0..SHARDS {
            assert!(lock(&fair.requests[shard]).len() <= MAX_CLIENTS && lock(&fair.bytes[shard]).len() <= MAX_CLIENTS);
        }
        assert!(fair.take(&limits, &noisy).is_err(), "who owes most is not forgotten");
        assert_eq!(fair.lane(&limits, &noisy).unwrap().wait(), held.wait());
    }

    #[test]
    fn a_client_is_its_principal_or_its_network() {
        let (one, other) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:1".parse().unwrap());
        let ci = Principal::Named("ci".into());
        assert_eq!(Client::of(&Principal::Anonymous, one), Client::of(&Principal::Anonymous, other));
        assert_eq!(Client::of(&ci, one), Client::of(&ci, "10.0.0.1".parse().unwrap()));
        assert_ne!(Client::of(&ci, one), Client::of(&Principal::Anonymous, one));
    }
}
