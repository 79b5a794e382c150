//! Tokens: issued by any edge of any region, and good at every one.
//!
//! A token is verified once. What it said is remembered under a hash of it, so that the next request that bears it costs that hash and
//! one look-up; whether it still holds is judged each time by the clock and by whether the keys are still those by which it was judged.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::claims::{self, Claims, Issue, Kind, MintError, Proof, Subject};
use super::control::KeyRecord;
use super::keyring::{Keyring, Verifier};
use super::keys::SigningKey;
use super::watch::Controls;
use crate::access::{Caller, Principal, Scopes, canonical};
use crate::clock::{Clock, Timestamp};
use crate::config::Secret;
use crate::ledger::{AppendError, ControlRecord, Event, Ledger, Look};
use crate::oci::Digest;
use crate::region::Region;

/// How long a refresh token is good.
pub const REFRESH_TTL: Duration = Duration::from_secs(3 * 3_600);

/// Tokens whose verdicts are remembered, at most.
const MAX_VERDICTS: u64 = 10_000;
/// Between two looks at the ledger for keys that nobody here knows, at least.
const LOOK_PAUSE: Duration = Duration::from_millis(300);
/// How long such a look may take.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether a key has to be published again.
const PUBLISH_EVERY: Duration = Duration::from_secs(60);
/// Between a region's opening and the first publication where there are other regions: whether they have seen more of this region's
/// ledger than stands in its bucket, so that nothing may be appended to it, has to be heard first.
const HEAR_TIME: Duration = Duration::from_secs(10);
/// After a publication that failed.
const PUBLISH_PAUSE: Duration = Duration::from_secs(5);
/// Between a key's publication and its first token: so long other edges and regions have to learn of it.
const SPREAD_TIME: Duration = Duration::from_secs(10);

/// Issues and verifies. Clones are one.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    region: Region,
    controls: Controls,
    clock: Clock,
    keyring: RwLock<Keyring>,
    ttl: RwLock<Duration>,
    /// By moka's rules only the number is bounded.
    verdicts: moka::sync::Cache<Digest, Arc<Verdict>>,
    /// When the last look for an unknown key began. Held while one is under way.
    look: Mutex<Option<Instant>>,
    /// How many looks have begun.
    looks: AtomicU64,
    /// Another key is to sign.
    replaced: Notify,
}

/// Where tokens learn of other edges' keys.
#[derive(Clone, Debug)]
pub struct Sources {
    pub region: Region,
    pub controls: Controls,
    pub clock: Clock,
}

/// What a token that was verified says.
#[derive(Debug)]
pub(super) struct Verdict {
    /// `None`: everybody.
    pub subject: Option<Subject>,
    principal: Principal,
    groups: Arc<[Arc<str>]>,
    scopes: Arc<Scopes>,
    from: Timestamp,
    until: Timestamp,
    /// The keys by which it was judged.
    epoch: u64,
}

/// A token that was just issued.
#[derive(Debug)]
pub struct AccessToken {
    pub token: Secret,
    pub issued: Timestamp,
    pub ttl: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tokens").field(self.read().own()).finish()
    }
}

impl Tokens {
    /// Signs with this key for this region; access tokens are good for `ttl`.
    pub fn new(region: &str, key: SigningKey, ttl: Duration, sources: Sources) -> Tokens {
        let Sources { region: handle, controls, clock } = sources;
        let mut keyring = Keyring::new(region, key);
        keyring.know(&controls.now().keys);
        Tokens(Arc::new(Inner {
            region: handle,
            controls,
            clock,
            keyring: RwLock::new(keyring),
            ttl: RwLock::new(ttl),
            verdicts: moka::sync::Cache::new(MAX_VERDICTS),
            look: Mutex::new(None),
            looks: AtomicU64::new(0),
            replaced: Notify::new(),
        }))
    }

    /// Takes over another key, which signs once it is published and others had time to learn of it, and another lifetime.
    pub fn reload(&self, key: SigningKey, ttl: Duration) {
        *self.0.ttl.write().unwrap_or_else(PoisonError::into_inner) = ttl;
        self.change(|keyring| keyring.replace(key));
        self.0.replaced.notify_one();
    }

    /// A token for the registry, good for no more than `scopes`; without a subject it is everybody's.
    ///
    /// # Errors
    /// [`MintError::TooLong`] for too many scopes or groups; [`MintError::Signing`].
    pub fn access_token(&self, subject: Option<&Subject>, scopes: &Scopes) -> Result<AccessToken, MintError> {
        let (issued, ttl) = (self.0.clock.now(), *self.0.ttl.read().unwrap_or_else(PoisonError::into_inner));
        let token = self.mint(Kind::Access, subject, scopes, ttl)?;
        Ok(AccessToken { token, issued, ttl })
    }

    /// A token for the token endpoint, which gives its subject access tokens for it.
    ///
    /// # Errors
    /// As [`Tokens::access_token`].
    pub fn refresh_token(&self, subject: &Subject) -> Result<Secret, MintError> {
        self.mint(Kind::Refresh, Some(subject), &Scopes::default(), REFRESH_TTL)
    }

    fn mint(&self, kind: Kind, subject: Option<&Subject>, scopes: &Scopes, ttl: Duration) -> Result<Secret, MintError> {
        let (keyring, controls) = (self.read(), &self.0.clock);
        let issue = Issue { region: keyring.region(), now: controls.now(), ttl };
        Claims::new(kind, subject, scopes, issue).sign(kind, keyring.own()).map(Secret::new)
    }

    /// What an access token says, if it is one and good now.
    pub(super) async fn verify(&self, token: &str) -> Option<Arc<Verdict>> {
        let (digest, now) = (Digest::sha256(token.as_bytes()), self.0.clock.now());
        if let Some(verdict) = self.0.verdicts.get(&digest)
            && verdict.holds(now, self.read().epoch())
        {
            return Some(verdict);
        }
        // Of all that come this is one in thousands: it needs no room in the others.
        let (claims, verifier, epoch) = Box::pin(self.judge(token, Kind::Access)).await?;
        let verdict = Arc::new(Verdict::new(&claims, &verifier, epoch));
        if !verdict.holds(now, epoch) {
            return None;
        }
        self.0.verdicts.insert(digest, verdict.clone());
        Some(verdict)
    }

    /// Whose refresh token this is, if it is one and good now.
    pub async fn redeem(&self, token: &str) -> Option<Subject> {
        let (claims, verifier, epoch) = self.judge(token, Kind::Refresh).await?;
        let verdict = Verdict::new(&claims, &verifier, epoch);
        verdict.subject.clone().filter(|_| verdict.holds(self.0.clock.now(), epoch))
    }

    /// What a token says whatever the time is, the key that signed it, and the keys' epoch before that was looked for.
    async fn judge(&self, token: &str, kind: Kind) -> Option<(Claims, Verifier, u64)> {
        let id = claims::key_id(token)?;
        let (verifier, epoch) = match self.find(&id) {
            Some(found) => found,
            None => {
                self.look().await;
                self.find(&id)?
            }
        };
        let claims = claims::read(token, kind, &verifier.key)?;
        // A region issues in its own name only.
        (*claims.iss == *verifier.region).then_some((claims, verifier, epoch))
    }

    fn find(&self, id: &str) -> Option<(Verifier, u64)> {
        let keyring = self.read();
        Some((keyring.find(id)?, keyring.epoch()))
    }

    /// Looks at the ledger for keys that were published a moment ago. All that ask while a look waits for its turn share it, so that
    /// made-up key ids cost a few looks in a second, however many they are.
    async fn look(&self) {
        let asked = self.0.looks.load(Ordering::Relaxed);
        let Ok(open) = self.0.region.get() else { return };
        let mut last = self.0.look.lock().await;
        if self.0.looks.load(Ordering::Relaxed) > asked {
            return;
        }
        if let Some(last) = *last {
            sleep_until(last + LOOK_PAUSE).await;
        }
        *last = Some(Instant::now());
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        // What cannot be looked at, or not in time, leaves the key unknown.
        let _ = timeout(LOOK_TIME, open.ledger.confirm(Look::Now)).await;
        self.learn(&open.ledger);
    }

    fn learn(&self, ledger: &Ledger) {
        if let Err(why) = self.0.controls.refresh(ledger) {
            tracing::warn!(%why, "the keys of tokens stay as they were");
        }
        self.know(&self.0.controls.now().keys);
    }

    fn know(&self, records: &HashMap<String, KeyRecord>) {
        self.change(|keyring| keyring.know(records));
    }

    /// Begins to follow the keys of others and to publish the own ones. The task goes on for as long as the process does, or until it
    /// is aborted.
    pub fn follow(&self) -> AbortHandle {
        let tokens = self.clone();
        tokio::spawn(async move {
            tokio::join!(tokens.follow_keys(), tokens.publish_keys());
        })
        .abort_handle()
    }

    async fn follow_keys(&self) {
        let mut changes = self.0.controls.changes();
        while changes.changed().await.is_ok() {
            let control = changes.borrow_and_update().clone();
            self.know(&control.keys);
        }
    }

    async fn publish_keys(&self) {
        let open = self.0.region.opened().await;
        if !self.0.region.peers().is_empty() {
            sleep(HEAR_TIME).await;
        }
        let mut is_told = false;
        loop {
            match self.publish(&open.ledger).await {
                Err(why) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%why, "the key that signs tokens cannot be published yet: other edges do not know its tokens");
                    }
                    sleep(PUBLISH_PAUSE).await;
                }
                Ok(()) if self.read().next().is_some() => {
                    sleep(SPREAD_TIME).await;
                    self.change(|keyring| keyring.promote(self.0.clock.now()));
                }
                Ok(()) => {
                    is_told = false;
                    // Woken or not, there is a look.
                    let _ = timeout(PUBLISH_EVERY, self.0.replaced.notified()).await;
                }
            }
        }
    }

    /// Returns when everything that is due is in the ledger.
    async fn publish(&self, ledger: &Ledger) -> Result<(), AppendError> {
        self.learn(ledger);
        let due = self.read().due(self.0.clock.now());
        if due.is_empty() {
            return Ok(());
        }
        let event = |(name, record): (Arc<str>, Option<KeyRecord>)| {
            let content = record.map(|record| serde_json::json!(record));
            Event::PublicKey(ControlRecord { name: name.to_string(), content })
        };
        ledger.append(due.into_iter().map(event).collect()).await?;
        self.learn(ledger);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Keyring)) {
        change(&mut self.0.keyring.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Keyring> {
        self.0.keyring.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }
}

impl Verdict {
    fn new(claims: &Claims, verifier: &Verifier, epoch: u64) -> Verdict {
        let (subject, (from, until)) = (claims.subject(), claims.bounds());
        let principal = subject.as_ref().map_or(Principal::Anonymous, |subject| Principal::Named(subject.name.clone()));
        let groups = subject.as_ref().map(|subject| subject.groups.clone()).unwrap_or_default();
        let (scopes, until) = (Arc::new(claims.scopes()), until.min(verifier.until));
        Verdict { subject, principal, groups, scopes, from, until, epoch }
    }

    /// Who bears the token.
    pub fn caller(&self, address: IpAddr) -> Caller {
        Caller {
            principal: self.principal.clone(),
            groups: self.groups.clone(),
            address: canonical(address),
            listener: 0,
            scopes: Some(self.scopes.clone()),
            proof: Proof::of_token(self.subject.as_ref().map(|subject| subject.proof)),
        }
    }

    fn holds(&self, now: Timestamp, epoch: u64) -> bool {
        self.epoch == epoch && self.from <= now && now < self.until
    }
}

#[cfg(test)]
mod tests;
