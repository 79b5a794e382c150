//! Passwords of principals that were made at run time, and how often anybody may guess.
//!
//! A success is remembered for a while: docker sends its password with each request, and a hash for each would cost more than the
//! request. What is remembered ends when the secret is replaced, expires or its owner is disabled, for each time the record is looked
//! at. Whoever is remembered is not held up by what others do wrong from the same address or under the same name.

mod hashing;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand::SystemRandom;
use moka::future::Cache;

use super::AuthError;
use super::control::{Control, SecretId};
use super::throttle::Throttle;
use super::watch::Controls;
use crate::access::canonical;
use crate::clock::{Clock, Timestamp};
use crate::config::Secret;
use crate::metrics::Metrics;
pub use hashing::Busy;
use hashing::Hashing;

/// How long a success is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Successes that are remembered.
const MAX_REMEMBERED: u64 = 16 * 1024;
/// Of a secret that is made here.
const SECRET_BYTES: usize = 32;

/// Somebody says who it is.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub name: &'a [u8],
    pub password: &'a [u8],
    pub address: IpAddr,
    /// The name stands in the configuration: a record of the same name is nobody's.
    pub is_configured: bool,
}

/// Verifies passwords. Clones share what is remembered and counted; one lives as long as its edge.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    controls: Controls,
    clock: Clock,
    metrics: Metrics,
    throttle: Throttle,
    hashing: Hashing,
    /// Nobody else has it, now or after a restart.
    key: hmac::Key,
    remembered: Cache<Token, Proof>,
}

/// Stands for name, password and address: nobody reads them in memory.
type Token = [u8; 32];

/// What was proved.
#[derive(Clone, Debug)]
struct Proof {
    until: Timestamp,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    /// A password of the configuration, which is compared each time.
    Configuration,
    /// The secret with this hash.
    Hash(Arc<str>),
}

impl Passwords {
    pub fn new(controls: Controls, clock: Clock, metrics: Metrics) -> Passwords {
        Passwords(Arc::new(Inner {
            controls,
            throttle: Throttle::new(clock.clone()),
            clock,
            metrics,
            hashing: Hashing::new(),
            key: hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).expect("the system gives random bytes"),
            remembered: Cache::new(MAX_REMEMBERED),
        }))
    }

    /// The configuration knows the password. Where there was too much guessing it is good only for those who used it here before:
    /// else guessing would go on.
    ///
    /// # Errors
    /// [`AuthError::Throttled`]
    pub(super) async fn admit(&self, attempt: Attempt<'_>) -> Result<(), AuthError> {
        let token = self.token(attempt);
        let now = self.0.clock.now();
        if self.0.remembered.get(&token).await.is_some_and(|proof| now < proof.until) {
            return Ok(());
        }
        self.0.throttle.check(attempt.address, attempt.name).map_err(|retry_after| self.throttled(retry_after))?;
        self.0.remembered.insert(token, Proof { until: now.plus(REMEMBERED), by: By::Configuration }).await;
        Ok(())
    }

    /// The name of the principal whose secret the password is, and which of its secrets.
    ///
    /// # Errors
    /// It is nobody's; or there was too much guessing to look.
    pub(super) async fn verify(&self, attempt: Attempt<'_>) -> Result<(Arc<str>, SecretId), AuthError> {
        let token = self.token(attempt);
        if let Some(proof) = self.0.remembered.get(&token).await {
            if let Some(found) = self.still_proves(&proof, attempt) {
                self.0.metrics.password_check("remembered");
                return Ok(found);
            }
            self.0.remembered.invalidate(&token).await;
        }
        // Whoever comes with the same meanwhile waits for the same hash.
        let proof = self.0.remembered.try_get_with(token, self.prove(attempt)).await.map_err(|error| *error)?;
        self.still_proves(&proof, attempt).ok_or(AuthError::Refused)
    }

    async fn prove(&self, attempt: Attempt<'_>) -> Result<Proof, AuthError> {
        let Inner { controls, clock, metrics, throttle, hashing, .. } = &*self.0;
        throttle.take(attempt.address, attempt.name).map_err(|retry_after| self.throttled(retry_after))?;
        let (control, now) = (controls.now(), clock.now());
        let hashes = attempt.record(&control).map(|(_, record)| record.hashes_at(now)).unwrap_or_default();
        let found = hashing.matching(hashes, attempt.password).await.map_err(|busy| {
            // Nothing was guessed.
            throttle.give_back(attempt.address, attempt.name);
            self.throttled(busy.retry_after())
        })?;
        metrics.password_check("hashed");
        let hash = found.ok_or(AuthError::Refused)?;
        throttle.give_back(attempt.address, attempt.name);
        Ok(Proof { until: now.plus(REMEMBERED), by: By::Hash(hash) })
    }

    /// The principal and its secret, if what was proved is still one of its good ones.
    fn still_proves(&self, proof: &Proof, attempt: Attempt<'_>) -> Option<(Arc<str>, SecretId)> {
        let (control, now) = (self.0.controls.now(), self.0.clock.now());
        let By::Hash(proved) = &proof.by else { return None };
        let (name, record) = attempt.record(&control).filter(|_| now < proof.until)?;
        Some((name.clone(), record.secret_at(now, proved)?))
    }

    fn throttled(&self, retry_after: Duration) -> AuthError {
        self.0.metrics.password_check("throttled");
        AuthError::Throttled { retry_after }
    }

    fn token(&self, attempt: Attempt<'_>) -> Token {
        let mut context = hmac::Context::with_key(&self.0.key);
        let address = canonical(attempt.address).to_string();
        for part in [attempt.name, attempt.password, address.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut token = Token::default();
        token.copy_from_slice(context.sign().as_ref());
        token
    }

    /// The hash under which a secret is kept.
    ///
    /// # Errors
    /// Too many passwords wait to be checked.
    pub(super) async fn hash(&self, secret: &Secret) -> Result<String, Busy> {
        self.0.hashing.hash(secret).await
    }
}

impl Attempt<'_> {
    fn record<'a>(&self, control: &'a Control) -> Option<(&'a Arc<str>, &'a super::IdentityRecord)> {
        let name = std::str::from_utf8(self.name).ok().filter(|_| !self.is_configured)?;
        control.identities.get_key_value(name)
    }
}

/// A secret that nobody guesses: 43 letters, digits, `-` and `_`.
pub(super) fn new_secret() -> Secret {
    use base64::Engine;
    let mut bytes = [0; SECRET_BYTES];
    fill_random(&mut bytes);
    Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system gives random bytes");
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords(...)")
    }
}

#[cfg(test)]
mod tests;
