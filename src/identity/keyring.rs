//! The keys that one edge signs and verifies tokens with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::claims::LEEWAY;
use super::control::KeyRecord;
use super::keys::{PublicKey, SigningKey};
use super::tokens::REFRESH_TTL;
use crate::clock::Timestamp;

/// How long a published key is believed if it is not published again.
const KEY_LIFE: Duration = Duration::from_secs(48 * 3_600);
/// A key that has less than this left is published again.
const RENEW_BEFORE: Duration = Duration::from_secs(24 * 3_600);

/// Own keys and those of all edges of all regions.
#[derive(Debug)]
pub(super) struct Keyring {
    region: Arc<str>,
    /// The one that signs.
    own: SigningKey,
    /// The one that will, once others have had time to learn of it.
    next: Option<SigningKey>,
    /// Those that did, and until when tokens of theirs can be good.
    retired: Vec<(PublicKey, Timestamp)>,
    /// As the control plane has them.
    records: HashMap<String, KeyRecord>,
    known: HashMap<Arc<str>, Verifier>,
    /// Another number whenever a token may be judged differently from before.
    epoch: u64,
}

/// What verifies tokens of one key.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    pub key: PublicKey,
    /// The region that may issue with it.
    pub region: Arc<str>,
    pub until: Timestamp,
}

/// What the control plane has to be told; `None`: the record is removed.
pub(super) type Due = Vec<(Arc<str>, Option<KeyRecord>)>;

impl Keyring {
    pub fn new(region: &str, own: SigningKey) -> Keyring {
        let (retired, records, known) = (Vec::new(), HashMap::new(), HashMap::new());
        Keyring { region: region.into(), own, next: None, retired, records, known, epoch: 0 }
    }

    /// Whose keys these are.
    pub fn region(&self) -> &str {
        &self.region
    }

    pub fn own(&self) -> &SigningKey {
        &self.own
    }

    pub fn next(&self) -> Option<&SigningKey> {
        self.next.as_ref()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The key of this id. Own keys are good whatever the control plane says: it may be away.
    pub fn find(&self, id: &str) -> Option<Verifier> {
        let own = |key: &PublicKey, until| Verifier { key: key.clone(), region: self.region.clone(), until };
        let forever = Timestamp::from_ms(u64::MAX);
        let mut signing = [Some(&self.own), self.next.as_ref()].into_iter().flatten().map(SigningKey::public);
        let mut retired = self.retired.iter();
        signing
            .find(|key| **key.id() == *id)
            .map(|key| own(key, forever))
            .or_else(|| retired.find(|(key, _)| **key.id() == *id).map(|(key, until)| own(key, *until)))
            .or_else(|| self.known.get(id).cloned())
    }

    /// Takes over what the control plane says.
    pub fn know(&mut self, records: &HashMap<String, KeyRecord>) {
        if self.records == *records {
            return;
        }
        self.known = records.iter().filter_map(|(name, record)| verifier(name, record)).collect();
        self.records = records.clone();
        self.epoch += 1;
    }

    /// Another key is to sign from [`Keyring::promote`] on.
    pub fn replace(&mut self, key: SigningKey) {
        self.next = Some(key).filter(|key| key.public().id() != self.own.public().id());
        self.epoch += 1;
    }

    /// The next key signs from now on, if it is published. Tokens of the last one are good for as long as any of them can be.
    pub fn promote(&mut self, now: Timestamp) {
        let Some(next) = self.next.take_if(|next| self.known.contains_key(next.public().id())) else { return };
        self.retired.retain(|(key, until)| *until > now && key.id() != next.public().id());
        let last = std::mem::replace(&mut self.own, next);
        self.retired.push((last.public().clone(), now.plus(REFRESH_TTL).plus(LEEWAY)));
        self.epoch += 1;
    }

    /// What is to be published now.
    pub fn due(&self, now: Timestamp) -> Due {
        let record = |key: &PublicKey, until| Some(KeyRecord { jwk: key.jwk(), region: self.region.to_string(), until });
        let until = |key: &PublicKey| self.known.get(key.id()).map(|known| known.until);
        let signing = [Some(&self.own), self.next.as_ref()].into_iter().flatten().map(SigningKey::public);
        let renewed = signing
            .filter(|key| until(key).is_none_or(|until| until < now.plus(RENEW_BEFORE)))
            .map(|key| (key.id().clone(), record(key, now.plus(KEY_LIFE))));
        let shortened = self
            .retired
            .iter()
            .filter(|(key, end)| until(key).is_some_and(|until| until > *end))
            .map(|(key, end)| (key.id().clone(), record(key, *end)));
        let is_over = |record: &KeyRecord| record.region == *self.region && record.until.plus(LEEWAY) < now;
        let is_own = |name: &str| *name == **self.own.public().id();
        let over = self.records.iter().filter(|(name, record)| is_over(record) && !is_own(name));
        renewed.chain(shortened).chain(over.map(|(name, _)| (name.as_str().into(), None))).collect()
    }
}

/// A record that cannot be read, or has another key's name, verifies nothing.
fn verifier(name: &str, record: &KeyRecord) -> Option<(Arc<str>, Verifier)> {
    match PublicKey::from_jwk(&record.jwk) {
        Ok(key) if **key.id() == *name => {
            let (region, until) = (record.region.as_str().into(), record.until);
            Some((key.id().clone(), Verifier { key, region, until }))
        }
        Ok(_) => {
            tracing::warn!(name, "a published key has the name of another: it is left out");
            None
        }
        Err(why) => {
            tracing::warn!(name, %why, "a published key cannot be used: it is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000_000_000);

    fn key() -> SigningKey {
        SigningKey::generate().unwrap().0
    }

    /// As the control plane has it once everything that was due was told.
    fn told(records: &mut HashMap<String, KeyRecord>, due: Due) {
        for (name, record) in due {
            match record {
                Some(record) => records.insert(name.to_string(), record),
                None => records.remove(&*name),
            };
        }
    }

    #[test]
    fn the_own_key_is_published_and_renewed_in_time() {
        let (mut ring, mut records) = (Keyring::new("eu", key()), HashMap::new());
        let id = ring.own().public().id().clone();
        assert_eq!(ring.due(NOW).len(), 1);
        told(&mut records, ring.due(NOW));
        assert_eq!((records[&*id].region.as_str(), records[&*id].until), ("eu", NOW.plus(KEY_LIFE)));
        ring.know(&records);
        assert!(ring.due(NOW).is_empty() && ring.due(NOW.plus(KEY_LIFE - RENEW_BEFORE)).is_empty());
        let later = NOW.plus(KEY_LIFE - RENEW_BEFORE).plus(Duration::from_secs(1));
        told(&mut records, ring.due(later));
        assert_eq!(records[&*id].until, later.plus(KEY_LIFE));
    }

    #[test]
    fn keys_overlap_when_they_are_replaced() {
        let (mut ring, mut records) = (Keyring::new("eu", key()), HashMap::new());
        let (first, second) = (ring.own().public().id().clone(), key());
        told(&mut records, ring.due(NOW));
        ring.know(&records);
        ring.replace(second.clone());
        assert_eq!(*ring.own().public().id(), first, "others have to learn of the new one first");
        told(&mut records, ring.due(NOW));
        ring.know(&records);
        assert_eq!(records.len(), 2);
        ring.promote(NOW);
        assert_eq!(ring.own().public().id(), second.public().id());
        let end = NOW.plus(REFRESH_TTL).plus(LEEWAY);
        assert_eq!(ring.find(&first).unwrap().until, end);
        told(&mut records, ring.due(NOW));
        ring.know(&records);
        assert_eq!(records[&*first].until, end, "elsewhere it is believed no longer than here");
        let over = end.plus(LEEWAY).plus(Duration::from_secs(1));
        assert!(ring.due(over).iter().any(|(name, record)| *name == first && record.is_none()));
    }

    #[test]
    fn the_same_key_again_is_no_other() {
        let own = key();
        let mut ring = Keyring::new("eu", own.clone());
        ring.replace(key());
        ring.replace(own);
        assert!(ring.next().is_none());
    }

    #[test]
    fn a_record_with_the_name_of_another_key_verifies_nothing() {
        let (ours, theirs) = (key(), key());
        let record = KeyRecord { jwk: theirs.public().jwk(), region: "us".into(), until: NOW };
        let mut ring = Keyring::new("eu", key());
        ring.know(&[(ours.public().id().to_string(), record.clone())].into());
        assert!(ring.find(ours.public().id()).is_none());
        ring.know(&[(theirs.public().id().to_string(), record)].into());
        assert_eq!(&*ring.find(theirs.public().id()).unwrap().region, "us");
        ring.know(&HashMap::new());
        assert!(ring.find(theirs.public().id()).is_none());
    }

    #[test]
    fn keys_of_other_regions_are_theirs_to_remove() {
        let record = KeyRecord { jwk: key().public().jwk(), region: "us".into(), until: Timestamp::from_ms(1) };
        let mut ring = Keyring::new("eu", key());
        ring.know(&[("x".to_owned(), record)].into());
        assert!(ring.due(NOW).iter().all(|(_, record)| record.is_some()));
    }
}
