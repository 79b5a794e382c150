//! The control plane: what owners made at run time, as the ledger has it in every region. What stands in the configuration is fixed
//! and stands beside it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::access::{Assignee, Assignment, NetworkRule, Otherwise, Pattern, Policy, Role};
use crate::clock::Timestamp;
use crate::ledger::{ControlEntry, ControlKind, Ledger, LedgerError};

/// All of it at one moment. Records that cannot be read are left out and reported: they give nobody anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Control {
    pub identities: HashMap<Arc<str>, IdentityRecord>,
    /// By the names of the assignments.
    pub roles: Vec<(String, RoleRecord)>,
    pub rules: Vec<(String, RuleRecord)>,
    /// By key id.
    pub keys: HashMap<String, KeyRecord>,
}

/// Somebody who can prove who it is by a secret.
///
/// In the ledger each secret is a record of its own, [`secret_name`]: who replaces one, not having seen that another region disabled
/// its owner or replaced the other secret, undoes neither.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub kind: IdentityKind,
    pub enabled: bool,
    pub created: Timestamp,
    /// Nothing is accepted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The first and the second: either can be replaced alone.
    #[serde(default, skip_serializing_if = "has_none")]
    pub secrets: [Option<SecretRecord>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// For pipelines.
    Service,
    /// The registry's admin user: off until an owner turns it on.
    Admin,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Argon2id, as a PHC string.
    pub hash: String,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl fmt::Debug for SecretRecord {
    /// Without the hash, which is a secret too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRecord").field("created", &self.created).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Which of the two secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Number {
    #[serde(rename = "1")]
    First,
    #[serde(rename = "2")]
    Second,
}

/// By which secret somebody proved who it is. What takes its place is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretId {
    pub number: Number,
    pub created: Timestamp,
}

/// Both.
pub const NUMBERS: [Number; 2] = [Number::First, Number::Second];

/// The admin user's name.
pub const ADMIN: &str = "admin";

/// Somebody has a role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleRecord {
    pub role: String,
    /// A principal's name, or `group:` and a group's.
    pub to: String,
    /// Patterns; none at all: the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
}

/// From where callers may come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleRecord {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// `deny`, which is the default, or `allow`.
    pub default: String,
    pub roles: Vec<String>,
}

/// A key by which some region signs tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public key, as RFC 7517 writes it.
    pub jwk: serde_json::Value,
    pub region: String,
    /// Tokens that it signed are not believed any more from then on.
    pub until: Timestamp,
}

/// What begins the name of a group where a principal's could stand.
pub const GROUP: &str = "group:";

/// A principal's name, or `group:` and a group's.
pub fn assignee(text: &str) -> Assignee {
    match text.strip_prefix(GROUP) {
        Some(group) => Assignee::Group(group.into()),
        None => Assignee::Principal(text.into()),
    }
}

/// The name of a secret's record. No principal's name has a slash.
pub fn secret_name(principal: &str, number: Number) -> String {
    format!("{principal}/{}", number.as_str())
}

fn has_none(secrets: &[Option<SecretRecord>; 2]) -> bool {
    secrets.iter().all(Option::is_none)
}

impl Number {
    pub fn as_str(self) -> &'static str {
        match self {
            Number::First => "1",
            Number::Second => "2",
        }
    }

    /// `None` for what is neither `1` nor `2`.
    pub fn of_text(text: &str) -> Option<Number> {
        NUMBERS.into_iter().find(|number| number.as_str() == text)
    }

    pub fn index(self) -> usize {
        match self {
            Number::First => 0,
            Number::Second => 1,
        }
    }
}

impl IdentityRecord {
    /// Whether it may prove who it is at all.
    pub fn is_accepted_at(&self, now: Timestamp) -> bool {
        self.enabled && is_ahead(self.expires, now)
    }

    /// Whether this secret is still there, and good.
    pub fn has_at(&self, now: Timestamp, id: SecretId) -> bool {
        self.secrets[id.number.index()].as_ref().is_some_and(|secret| secret.created == id.created && is_ahead(secret.expires, now))
    }

    /// Which of the secrets that are good has this hash.
    pub fn secret_at(&self, now: Timestamp, hash: &str) -> Option<SecretId> {
        let number = NUMBERS.into_iter().find(|number| self.hashes_at(now)[number.index()] == Some(hash))?;
        Some(SecretId { number, created: self.secrets[number.index()].as_ref()?.created })
    }

    /// The hashes of the secrets that are good.
    pub fn hashes_at(&self, now: Timestamp) -> [Option<&str>; 2] {
        let is_accepted = self.is_accepted_at(now);
        self.secrets
            .each_ref()
            .map(|secret| secret.as_ref().filter(|secret| is_accepted && is_ahead(secret.expires, now)).map(|secret| &*secret.hash))
    }
}

/// Whether an end is still to come; what has none always lasts.
fn is_ahead(end: Option<Timestamp>, now: Timestamp) -> bool {
    end.is_none_or(|end| now < end)
}

impl RoleRecord {
    /// `None` if it names no role or no patterns.
    pub fn assignment(&self) -> Option<Assignment> {
        let parse = |texts: &Vec<String>| texts.iter().map(|text| text.parse::<Pattern>()).collect::<Result<Vec<_>, _>>();
        let repositories = self.repositories.as_ref().map(parse).transpose().ok()?;
        Some(Assignment { role: self.role.parse().ok()?, to: assignee(&self.to), repositories })
    }
}

impl RuleRecord {
    /// `None` if something in it cannot be read.
    pub fn rule(&self) -> Option<NetworkRule> {
        let ranges = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>().ok();
        let roles: Result<Vec<Role>, _> = self.roles.iter().map(|role| role.parse()).collect();
        let otherwise = match self.default.as_str() {
            "" | "deny" => Otherwise::Deny,
            "allow" => Otherwise::Allow,
            _ => return None,
        };
        Some(NetworkRule { allow: ranges(&self.allow)?, deny: ranges(&self.deny)?, otherwise, roles: roles.ok()? })
    }

    /// A rule that cannot be read lets nobody in: it was made to keep somebody out.
    fn rule_or_none_shall_pass(&self) -> NetworkRule {
        self.rule().unwrap_or_default()
    }
}

impl Control {
    /// # Errors
    /// The index cannot be read.
    pub fn read(ledger: &Ledger) -> Result<Control, LedgerError> {
        let keys = records(ledger, ControlKind::PublicKey)?.into_iter().collect();
        Ok(Control {
            identities: identities(ledger)?,
            roles: records(ledger, ControlKind::Role)?,
            rules: records(ledger, ControlKind::Rule)?,
            keys,
        })
    }

    /// Adds what it says to a policy, which has what the configuration says. Who is disabled has no roles, whatever it still has in
    /// hand. A principal that stands in the configuration under the same name is another one.
    pub fn add_to(&self, policy: &mut Policy) {
        policy.assignments.extend(self.roles.iter().filter_map(|(_, record)| record.assignment()));
        let rules: Vec<NetworkRule> = self.rules.iter().map(|(_, record)| record.rule_or_none_shall_pass()).collect();
        // Whoever is kept out at run time is kept out everywhere, whatever stands in the configuration for one listener.
        policy.listener_rules.values_mut().for_each(|own| own.extend_from_slice(&rules));
        policy.rules.extend(rules);
        if self.identities.get(ADMIN).is_some_and(|record| record.kind == IdentityKind::Admin) && !policy.principals.contains_key(ADMIN) {
            policy.assignments.extend(assignment_of_admin());
        }
        for (name, _) in self.identities.iter().filter(|(name, record)| !record.enabled && !policy.principals.contains_key(*name)) {
            policy.assignments.remove_principal(name);
        }
    }
}

/// As in Azure Container Registry the admin user does everything to repositories, and nothing to the registry's settings.
fn assignment_of_admin() -> Option<Assignment> {
    let all = "**".parse().ok()?;
    Some(Assignment { role: Role::Contributor, to: Assignee::Principal(ADMIN.into()), repositories: Some(vec![all]) })
}

/// Principals, with those of their secrets that there are.
fn identities(ledger: &Ledger) -> Result<HashMap<Arc<str>, IdentityRecord>, LedgerError> {
    let (secrets, principals): (Vec<_>, Vec<_>) =
        ledger.control(ControlKind::Identity)?.into_iter().partition(|entry| entry.name.contains('/'));
    let principals = readable(ControlKind::Identity, principals).map(|(name, record)| (name.into(), record));
    let mut identities: HashMap<Arc<str>, IdentityRecord> = principals.collect();
    for (name, secret) in readable::<SecretRecord>(ControlKind::Identity, secrets) {
        let Some((principal, number)) = name.rsplit_once('/') else { continue };
        if let Some((record, number)) = identities.get_mut(principal).zip(Number::of_text(number)) {
            record.secrets[number.index()] = Some(secret);
        }
    }
    Ok(identities)
}

fn records<T: DeserializeOwned>(ledger: &Ledger, kind: ControlKind) -> Result<Vec<(String, T)>, LedgerError> {
    Ok(readable(kind, ledger.control(kind)?).collect())
}

fn readable<T: DeserializeOwned>(kind: ControlKind, entries: Vec<ControlEntry>) -> impl Iterator<Item = (String, T)> {
    entries.into_iter().filter_map(move |entry| match serde_json::from_value(entry.content) {
        Ok(record) => Some((entry.name, record)),
        Err(why) => {
            tracing::warn!(name = %entry.name, ?kind, %why, "a record of the control plane cannot be read: it is left out");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{ACTIONS, Action, Caller, Grants, Operation};

    #[test]
    fn records_become_a_policy() {
        let role = |role: &str, to: &str, repositories: Option<&[&str]>| {
            let repositories = repositories.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
            ("x".to_owned(), RoleRecord { role: role.to_owned(), to: to.to_owned(), repositories })
        };
        let rule = |allow: &str, default: &str| {
            ("y".to_owned(), RuleRecord { allow: vec![allow.to_owned()], default: default.to_owned(), ..RuleRecord::default() })
        };
        let control = Control {
            roles: vec![role("AcrPull", "group:all", None), role("King", "ci", None), role("AcrPush", "ci", Some(&["team/**"]))],
            rules: vec![rule("10.0.0.0/8", "deny"), rule("nonsense", "allow")],
            ..Control::default()
        };
        let mut policy = Policy::default();
        control.add_to(&mut policy);
        assert_eq!(policy.rules[1], NetworkRule::default(), "what cannot be read lets nobody in");
        assert!(policy.assignments.has_group("all"));
        let ci = Caller::named("ci");
        assert!(policy.authorize(&ci, &"team/app".parse().unwrap(), Action::Push).is_err(), "rules that let nobody in hold");
        policy.rules.clear();
        let may = |action| policy.authorize(&ci, &"team/app".parse().unwrap(), action).is_ok();
        assert!(may(Action::Push) && !may(Action::Delete), "what is no role gives nothing");
    }

    fn identity(kind: IdentityKind, enabled: bool) -> IdentityRecord {
        IdentityRecord { kind, enabled, created: Timestamp::from_ms(1), expires: None, secrets: [None, None] }
    }

    #[test]
    fn who_is_disabled_has_no_roles() {
        let (assigned, repository) = (|to: &str| RoleRecord { role: "Owner".into(), to: to.into(), repositories: None }, "team/app");
        let roles = ["on", "off", "fixed"].map(|name| (name.to_owned(), assigned(name))).to_vec();
        let service = |enabled| identity(IdentityKind::Service, enabled);
        let identities = [("on".into(), service(true)), ("off".into(), service(false)), ("fixed".into(), service(false))].into();
        let control = Control { identities, roles, ..Control::default() };
        let mut policy = Policy { principals: [("fixed".into(), Grants::default())].into(), ..Policy::default() };
        policy.assignments.extend(assigned("off").assignment());
        control.add_to(&mut policy);
        for (name, allowed) in [("on", true), ("off", false), ("fixed", true)] {
            let pulls = policy.authorize(&Caller::named(name), &repository.parse().unwrap(), Action::Pull);
            assert_eq!(pulls.is_ok(), allowed, "{name}");
        }
    }

    #[test]
    fn the_admin_user_does_everything_to_repositories_and_nothing_to_settings() {
        let policy_with = |enabled, principals: &[&str]| {
            let control = Control { identities: [(ADMIN.into(), identity(IdentityKind::Admin, enabled))].into(), ..Control::default() };
            let principals = principals.iter().map(|name| ((*name).into(), Grants::default())).collect();
            let mut policy = Policy { principals, ..Policy::default() };
            control.add_to(&mut policy);
            policy
        };
        let admin = Caller::named(ADMIN);
        for (policy, allowed) in [(policy_with(true, &[]), true), (policy_with(false, &[]), false), (policy_with(true, &[ADMIN]), false)] {
            for action in ACTIONS {
                assert_eq!(policy.authorize(&admin, &"team/app".parse().unwrap(), action).is_ok(), allowed, "{action:?}");
            }
            for operation in [Operation::AssignRoles, Operation::ChangeSettings, Operation::ReadSettings, Operation::ReadAudit] {
                assert!(policy.permit(&admin, operation).is_err(), "{operation:?}");
            }
        }
    }

    #[test]
    fn secrets_end_with_their_time_and_their_owners() {
        let secret = |hash: &str, expires: Option<u64>| {
            Some(SecretRecord { hash: hash.into(), created: Timestamp::from_ms(1), expires: expires.map(Timestamp::from_ms) })
        };
        let secrets = [secret("first", Some(20)), secret("second", None)];
        let record = IdentityRecord { expires: Some(Timestamp::from_ms(30)), secrets, ..identity(IdentityKind::Service, true) };
        let disabled = IdentityRecord { enabled: false, ..record.clone() };
        for (record, now, hashes) in [
            (&record, 19, [Some("first"), Some("second")]),
            (&record, 20, [None, Some("second")]),
            (&record, 30, [None, None]),
            (&disabled, 19, [None, None]),
        ] {
            assert_eq!(record.hashes_at(Timestamp::from_ms(now)), hashes, "{now}");
        }
    }

    #[test]
    fn records_read_back() {
        let record = IdentityRecord {
            kind: IdentityKind::Service,
            enabled: true,
            created: Timestamp::from_ms(5),
            expires: None,
            secrets: [
                None,
                Some(SecretRecord { hash: "$argon2id$".into(), created: Timestamp::from_ms(6), expires: Some(Timestamp::from_ms(7)) }),
            ],
        };
        assert!(!format!("{record:?}").contains("argon2"), "row 88: nothing secret prints");
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<IdentityRecord>(&text).unwrap(), record);
    }
}
