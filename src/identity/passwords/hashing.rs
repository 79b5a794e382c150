//! Argon2id (RFC 9106) on a bounded pool: a hash takes some ten milliseconds of a processor and 19 MiB, so it is never computed on
//! the executor, and never more of them at a time than leave processors for everybody else.

use std::sync::Arc;
use std::time::Duration;

use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Secret;

/// What a hash costs, after OWASP's Password Storage Cheat Sheet. A hash that would cost more is not verified: a record must not be
/// able to keep an edge busy. So these may be raised, and never lowered.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Who waits for the pool, at most.
const MAX_WAITING: usize = 64;
/// Hashes that are computed at a time, at most, whatever the machine has.
const MAX_RUNNING: usize = 8;
/// When somebody who found no place should come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait to be checked")]
pub struct Busy;

impl Busy {
    pub fn retry_after(self) -> Duration {
        RETRY_AFTER
    }
}

/// The pool.
#[derive(Debug)]
pub struct Hashing {
    running: Arc<Semaphore>,
    waiting: Semaphore,
    /// A hash that no password has, for those who have none.
    nobodys: Arc<str>,
}

impl Hashing {
    pub fn new() -> Hashing {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Hashing {
            running: Arc::new(Semaphore::new((processors / 2).clamp(1, MAX_RUNNING))),
            waiting: Semaphore::new(MAX_WAITING),
            nobodys: nobodys().into(),
        }
    }

    /// The hash that the password has, of those that somebody has. It costs two hashes whatever there is: who has none, or one only,
    /// and who does not exist are not told apart (row 70).
    pub async fn matching(&self, hashes: [Option<&str>; 2], password: &[u8]) -> Result<Option<Arc<str>>, Busy> {
        let hashes = hashes.map(|hash| hash.map_or_else(|| self.nobodys.clone(), Arc::from));
        let password = password.to_vec();
        self.run(move || {
            let verdicts = hashes.each_ref().map(|hash| has(hash, &password));
            hashes.into_iter().zip(verdicts).find_map(|(hash, is_so)| is_so.then_some(hash))
        })
        .await
    }

    /// A PHC string, with a salt of its own.
    pub async fn hash(&self, secret: &Secret) -> Result<String, Busy> {
        let secret = secret.clone();
        self.run(move || {
            let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("these parameters are within the algorithm's bounds");
            let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(secret.expose().as_bytes());
            hash.expect("the system gives a random salt").to_string()
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let running = self.enter().await?;
        let done = tokio::task::spawn_blocking(move || {
            // Kept to the end of the work, though the caller may have left.
            let _running = running;
            work()
        });
        done.await.map_err(|_| Busy)
    }

    async fn enter(&self) -> Result<OwnedSemaphorePermit, Busy> {
        let _place = self.waiting.try_acquire().map_err(|_| Busy)?;
        self.running.clone().acquire_owned().await.map_err(|_| Busy)
    }
}

/// Whether this is the password's hash. The comparison takes the same time whatever is equal.
fn has(hash: &str, password: &[u8]) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    let is_affordable = |params: Params| params.m_cost() <= MEMORY_KIB && params.t_cost() <= PASSES && params.p_cost() <= LANES;
    hash.algorithm == ARGON2ID_IDENT
        && Params::try_from(&hash).is_ok_and(is_affordable)
        && Argon2::default().verify_password(password, &hash).is_ok()
}

/// Costs what every hash costs.
fn nobodys() -> String {
    let (mut salt, mut output) = ([0; 16], [0; 32]);
    super::fill_random(&mut salt);
    super::fill_random(&mut output);
    let [salt, output] = [salt.as_slice(), &output].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${output}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_has_its_hash_and_no_other() {
        let hashing = Hashing::new();
        let (one, two) = (hashing.hash(&secret("one")).await.unwrap(), hashing.hash(&secret("two")).await.unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, hashing.hash(&secret("one")).await.unwrap(), "each has its own salt");
        for (password, expected) in [("one", Some(one.as_str())), ("two", Some(&two)), ("three", None), ("", None)] {
            let found = hashing.matching([Some(&one), Some(&two)], password.as_bytes()).await.unwrap();
            assert_eq!(found.as_deref(), expected, "{password}");
        }
        assert_eq!(hashing.matching([None, None], b"one").await.unwrap(), None);
    }

    #[tokio::test]
    async fn row_71_passwords_that_differ_after_byte_72_are_different() {
        let (hashing, long) = (Hashing::new(), "x".repeat(72));
        let hash = hashing.hash(&secret(&format!("{long}a"))).await.unwrap();
        for (end, is_same) in [("a", true), ("b", false), ("", false), ("aa", false), ("a\0", false)] {
            let found = hashing.matching([Some(&hash), None], format!("{long}{end}").as_bytes()).await.unwrap();
            assert_eq!(found.is_some(), is_same, "{end:?}");
        }
    }

    #[test]
    fn a_hash_that_costs_more_or_is_none_is_not_verified() {
        let costly = nobodys().replace("m=19456", "m=4194304");
        let passes = nobodys().replace("t=2", "t=4000000");
        let other = nobodys().replace("argon2id", "argon2d");
        let started = std::time::Instant::now();
        for hash in [costly.as_str(), &passes, &other, "", "$argon2id$", "plain"] {
            assert!(!has(hash, b"plain"), "{hash}");
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn row_69_the_pool_and_its_queue_are_bounded() {
        let hashing = Arc::new(Hashing::new());
        let held = hashing.running.clone().acquire_many_owned(hashing.running.available_permits() as u32).await.unwrap();
        let tasks: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let hashing = hashing.clone();
                tokio::spawn(async move { hashing.run(|| ()).await })
            })
            .collect();
        while hashing.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hashing.matching([None, None], b"x").await, Err(Busy));
        drop(held);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert_eq!(hashing.run(|| 1).await, Ok(1));
    }
}
