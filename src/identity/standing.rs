//! Whether those who once proved who they are may still come in: a token outlives what happens to its subject.

use std::collections::HashMap;
use std::sync::Arc;

use super::claims::{Proof, Subject};
use super::control::Control;
use crate::clock::Timestamp;
use crate::config;

/// The principals that stand in the configuration and in the control plane.
#[derive(Debug, Default)]
pub(super) struct Standings(HashMap<Arc<str>, Standing>);

#[derive(Clone, Copy, Debug)]
struct Standing {
    is_enabled: bool,
    expires: Option<Timestamp>,
}

impl Standings {
    /// What the configuration says of a name counts.
    pub fn new(principals: &[config::Principal], control: &Control) -> Standings {
        let made = control.identities.iter().map(|(name, record)| {
            let standing = Standing { is_enabled: record.enabled, expires: record.expires };
            (name.clone(), standing)
        });
        let fixed = principals.iter().map(|principal| (principal.name.as_str().into(), Standing { is_enabled: true, expires: None }));
        Standings(made.chain(fixed).collect())
    }

    /// Who signed in with a password must still be there. Who came from a provider is never one of those who stand here: their names are
    /// not the provider's to give.
    pub fn admit(&self, subject: &Subject, now: Timestamp) -> bool {
        match self.0.get(&subject.name) {
            Some(_) if subject.proof == Proof::Oidc => false,
            Some(standing) => standing.is_enabled && standing.expires.is_none_or(|expires| now < expires),
            None => subject.proof != Proof::Basic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{IdentityKind, IdentityRecord};

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
        let fixed = config::Principal { name: "fixed".to_owned(), passwords: Vec::new(), pull: Vec::new(), push: Vec::new() };
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
            let subject = Subject { name: name.into(), groups: Arc::new([]), proof };
            assert_eq!(standings.admit(&subject, Timestamp::from_ms(now)), expected, "{name} {proof:?} {now}");
        }
    }
}
