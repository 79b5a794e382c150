//! Whether those who once proved who they are may still come in: a token outlives what happens to its subject.

use std::collections::HashMap;
use std::sync::Arc;

use super::claims::{Proof, Subject};
use super::control::{Control, IdentityRecord};
use crate::clock::Timestamp;
use crate::config;

/// The principals that stand in the control plane, and those of the configuration, which have no record.
#[derive(Debug, Default)]
pub(super) struct Standings(HashMap<Arc<str>, Option<IdentityRecord>>);

impl Standings {
    /// What the configuration says of a name counts.
    pub fn new(principals: &[config::Principal], control: &Control) -> Standings {
        let made = control.identities.iter().map(|(name, record)| (name.clone(), Some(record.clone())));
        let fixed = principals.iter().map(|principal| (principal.name.as_str().into(), None));
        Standings(made.chain(fixed).collect())
    }

    /// Who signed in with a password must still be there, and so must the secret, if it can be replaced at run time. Who came from a
    /// provider is never one of those who stand here: their names are not the provider's to give.
    pub fn admit(&self, subject: &Subject, now: Timestamp) -> bool {
        match self.0.get(&subject.name) {
            Some(_) if subject.proof == Proof::Oidc => false,
            // A secret was another's, who had this name at run time.
            Some(None) => subject.secret.is_none(),
            Some(Some(record)) => record.is_accepted_at(now) && subject.secret.is_none_or(|secret| record.has_at(now, secret)),
            None => subject.proof != Proof::Basic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{IdentityKind, Number, SecretId, SecretRecord};

    #[test]
    fn who_is_gone_disabled_or_expired_is_not_admitted() {
        let record = |enabled, expires: Option<u64>| IdentityRecord {
            kind: IdentityKind::Service,
            enabled,
            created: Timestamp::default(),
            expires: expires.map(Timestamp::from_ms),
            secrets: [None, None],
        };
        let identities = [("made", record(true, None)), ("disabled", record(false, None)), ("expiring", record(true, Some(10)))];
        let identities = identities.into_iter().map(|(name, record)| (name.into(), record)).collect();
        let fixed = config::Principal {
            name: "fixed".to_owned(),
            passwords: Vec::new(),
            certificates: Vec::new(),
            pull: Vec::new(),
            push: Vec::new(),
        };
        let standings = Standings::new(&[fixed], &Control { identities, ..Control::default() });
        for (name, proof, now, expected) in [
            ("fixed", Proof::Basic, 0, true),
            ("made", Proof::Basic, 0, true),
            ("disabled", Proof::Basic, 0, false),
            ("disabled", Proof::Oidc, 0, false),
            ("fixed", Proof::Oidc, 0, false),
            ("made", Proof::Oidc, 0, false),
            ("expiring", Proof::Basic, 9, true),
            ("expiring", Proof::Basic, 10, false),
            ("removed", Proof::Basic, 0, false),
            ("someone@example.com", Proof::Oidc, 0, true),
            ("device", Proof::Certificate, 0, true),
        ] {
            let subject = Subject { name: name.into(), groups: Arc::new([]), proof, secret: None };
            assert_eq!(standings.admit(&subject, Timestamp::from_ms(now)), expected, "{name} {proof:?} {now}");
        }
    }

    #[test]
    fn what_a_secret_proved_ends_with_it() {
        let secret = |created: u64, expires: Option<u64>| {
            let expires = expires.map(Timestamp::from_ms);
            Some(SecretRecord { hash: String::new(), created: Timestamp::from_ms(created), expires })
        };
        let secrets = [secret(1, None), secret(2, Some(10))];
        let record = IdentityRecord { kind: IdentityKind::Service, enabled: true, created: Timestamp::from_ms(1), expires: None, secrets };
        let standings = Standings::new(&[], &Control { identities: [("made".into(), record)].into(), ..Control::default() });
        for (number, created, now, expected) in [
            (Number::First, 1, 0, true),
            (Number::First, 2, 0, false),
            (Number::Second, 2, 9, true),
            (Number::Second, 2, 10, false),
            (Number::Second, 1, 0, false),
        ] {
            let secret = Some(SecretId { number, created: Timestamp::from_ms(created) });
            let subject = Subject { name: "made".into(), groups: Arc::new([]), proof: Proof::Basic, secret };
            assert_eq!(standings.admit(&subject, Timestamp::from_ms(now)), expected, "{secret:?} {now}");
        }
    }
}
