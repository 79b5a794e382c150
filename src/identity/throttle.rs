//! How often somebody may try to sign in and fail, from one address and by one name.
//!
//! The generic cell rate algorithm (ITU-T I.371): of each the moment is kept at which all its attempts are forgotten. An attempt moves
//! that moment by a step, and is one too many when it lies too far ahead. Whoever succeeds gets the attempt back.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::access::client_network;
use crate::clock::{Clock, Timestamp};
use crate::oci::Digest;

/// Attempts of one address that fail: so many at once, and one more after each step. A node behind an address translation shares this
/// with its neighbours.
const OF_ADDRESS: Limit = Limit { at_once: 30, step: Duration::from_secs(1) };
/// Attempts by one name, from wherever.
const OF_NAME: Limit = Limit { at_once: 100, step: Duration::from_millis(200) };
/// Addresses, and names, that are kept.
const MAX_KEPT: usize = 16 * 1024;

#[derive(Clone, Copy, Debug)]
struct Limit {
    at_once: u32,
    step: Duration,
}

/// Counts failed attempts.
#[derive(Debug)]
pub struct Throttle {
    clock: Clock,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    addresses: Attempts<IpAddr>,
    /// By their hashes: a client's name can be long.
    names: Attempts<Digest>,
}

/// When all attempts are forgotten.
#[derive(Debug)]
struct Attempts<K>(HashMap<K, Timestamp>);

impl<K> Default for Attempts<K> {
    fn default() -> Attempts<K> {
        Attempts(HashMap::new())
    }
}

impl Throttle {
    pub fn new(clock: Clock) -> Throttle {
        Throttle { clock, kept: Mutex::default() }
    }

    /// Whether an attempt may be made.
    ///
    /// # Errors
    /// Not before this time has passed.
    pub fn check(&self, address: IpAddr, name: &[u8]) -> Result<(), Duration> {
        self.judge(address, name, |_, _, _, _| ())
    }

    /// Counts an attempt as one that fails, until [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// It must not be made before this time has passed; it was not counted.
    pub fn take(&self, address: IpAddr, name: &[u8]) -> Result<(), Duration> {
        self.judge(address, name, |kept, address, name, now| {
            kept.addresses.take(address, OF_ADDRESS, now);
            kept.names.take(name, OF_NAME, now);
        })
    }

    /// The attempt that was taken did not fail.
    pub fn give_back(&self, address: IpAddr, name: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.addresses.give_back(&client_network(address), OF_ADDRESS);
        kept.names.give_back(&Digest::sha256(name), OF_NAME);
    }

    fn judge(&self, address: IpAddr, name: &[u8], then: impl FnOnce(&mut Kept, IpAddr, Digest, Timestamp)) -> Result<(), Duration> {
        let (address, name, now) = (client_network(address), Digest::sha256(name), self.clock.now());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = kept.addresses.wait(&address, OF_ADDRESS, now).max(kept.names.wait(&name, OF_NAME, now));
        if !wait.is_zero() {
            return Err(wait);
        }
        then(&mut kept, address, name, now);
        Ok(())
    }
}

impl Limit {
    /// How far ahead the moment may lie at which all attempts are forgotten.
    fn most_ahead(self) -> Duration {
        self.step * self.at_once
    }
}

impl<K: Eq + Hash> Attempts<K> {
    /// How long it must be until the next attempt; zero for now.
    fn wait(&self, key: &K, limit: Limit, now: Timestamp) -> Duration {
        let ahead = self.0.get(key).map_or(Duration::ZERO, |forgotten| forgotten.since(now));
        // The clock may have been set back: nobody waits for more than what can be counted.
        (ahead.min(limit.most_ahead()) + limit.step).saturating_sub(limit.most_ahead())
    }

    fn take(&mut self, key: K, limit: Limit, now: Timestamp) {
        if self.0.len() >= MAX_KEPT && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let forgotten = self.0.entry(key).or_insert(now);
        *forgotten = (*forgotten).max(now).min(now.plus(limit.most_ahead())).plus(limit.step);
    }

    fn give_back(&mut self, key: &K, limit: Limit) {
        if let Some(forgotten) = self.0.get_mut(key) {
            let step_ms = u64::try_from(limit.step.as_millis()).unwrap_or(u64::MAX);
            *forgotten = Timestamp::from_ms(forgotten.as_ms().saturating_sub(step_ms));
        }
    }

    /// Drops what is forgotten, and where that is too little, the half that has tried least.
    fn make_room(&mut self, now: Timestamp) {
        self.0.retain(|_, forgotten| *forgotten > now);
        if self.0.len() > MAX_KEPT / 2 {
            let mut moments: Vec<Timestamp> = self.0.values().copied().collect();
            let median = *moments.select_nth_unstable(MAX_KEPT / 2).1;
            self.0.retain(|_, forgotten| *forgotten > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(Timestamp::from_ms(1_000_000));
        (Throttle::new(clock.clone()), clock)
    }

    fn at(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(number))
    }

    /// How many of so many attempts are let through.
    fn let_through(throttle: &Throttle, attempts: u32, address: impl Fn(u32) -> IpAddr, name: impl Fn(u32) -> String) -> u32 {
        (0..attempts).filter(|number| throttle.take(address(*number), name(*number).as_bytes()).is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn row_69_an_address_fails_a_bounded_number_of_times() {
        let (throttle, clock) = throttle();
        assert_eq!(let_through(&throttle, 1_000, |_| at(1), |number| number.to_string()), OF_ADDRESS.at_once);
        assert_eq!(throttle.take(at(1), b"new"), Err(OF_ADDRESS.step));
        assert_eq!(throttle.take(at(2), b"new"), Ok(()), "others are not held up");
        clock.advance(OF_ADDRESS.step);
        assert_eq!(let_through(&throttle, 10, |_| at(1), |number| number.to_string()), 1);
        clock.advance(OF_ADDRESS.most_ahead() * 2);
        assert_eq!(let_through(&throttle, 1_000, |_| at(1), |number| number.to_string()), OF_ADDRESS.at_once, "no more after a long time");
    }

    #[test]
    fn row_69_a_name_is_tried_a_bounded_number_of_times_from_wherever() {
        let (throttle, clock) = throttle();
        assert_eq!(let_through(&throttle, 1_000, at, |_| "ci".to_owned()), OF_NAME.at_once);
        assert_eq!(throttle.check(at(5_000), b"ci"), Err(OF_NAME.step));
        assert_eq!(throttle.check(at(5_000), b"other"), Ok(()));
        clock.advance(OF_NAME.step * 7);
        assert_eq!(let_through(&throttle, 100, |number| at(6_000 + number), |_| "ci".to_owned()), 7);
    }

    #[test]
    fn who_succeeds_is_not_counted_and_who_is_only_checked_is_not_either() {
        let (throttle, _) = throttle();
        for _ in 0..1_000 {
            throttle.check(at(1), b"ci").unwrap();
            throttle.take(at(1), b"ci").unwrap();
            throttle.give_back(at(1), b"ci");
        }
        assert_eq!(let_through(&throttle, 1_000, |_| at(1), |_| "ci".to_owned()), OF_ADDRESS.at_once);
    }

    #[test]
    fn a_network_of_one_client_is_one_address() {
        let (throttle, _) = throttle();
        let within = |number: u32| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(number)));
        assert_eq!(let_through(&throttle, 1_000, within, |number| number.to_string()), OF_ADDRESS.at_once);
        let mapped =
            |number: u32| if number.is_multiple_of(2) { at(9) } else { IpAddr::V6(std::net::Ipv4Addr::from_bits(9).to_ipv6_mapped()) };
        assert_eq!(let_through(&throttle, 1_000, mapped, |number| number.to_string()), OF_ADDRESS.at_once);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_longer() {
        let clock = Clock::manual(Timestamp::from_ms(10_000_000));
        let mut attempts = Attempts::<u8>::default();
        attempts.take(1, OF_ADDRESS, clock.now());
        let back = Timestamp::from_ms(1);
        assert_eq!(attempts.wait(&1, OF_ADDRESS, back), OF_ADDRESS.step);
        attempts.take(1, OF_ADDRESS, back);
        assert!(attempts.0[&1] <= back.plus(OF_ADDRESS.most_ahead() + OF_ADDRESS.step));
    }

    #[test]
    fn what_is_kept_is_bounded_and_who_tries_most_stays() {
        let (throttle, clock) = throttle();
        let_through(&throttle, 20, |_| at(0), |_| "busy".to_owned());
        let_through(&throttle, 3 * MAX_KEPT as u32, |number| at(number + 1), |number| number.to_string());
        let count = || throttle.kept.lock().unwrap().addresses.0.len();
        assert!(count() <= MAX_KEPT);
        assert_eq!(let_through(&throttle, 1_000, |_| at(0), |number| format!("n{number}")), OF_ADDRESS.at_once - 20);
        clock.advance(OF_ADDRESS.most_ahead() * 2);
        let_through(&throttle, MAX_KEPT as u32, |number| at(number + 1), |number| number.to_string());
        assert!(count() <= MAX_KEPT);
    }
}
