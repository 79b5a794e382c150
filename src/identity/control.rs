//! The control plane: what owners made at run time, as the ledger has it in every region. What stands in the configuration is fixed
//! and stands beside it.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::access::{Assignee, Assignment, NetworkRule, Otherwise, Pattern, Policy, Role};
use crate::clock::Timestamp;
use crate::ledger::{ControlKind, Ledger, LedgerError};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub kind: IdentityKind,
    pub enabled: bool,
    pub created: Timestamp,
    /// Nothing is accepted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The first and the second: either can be replaced alone.
    #[serde(default)]
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Argon2id, as a PHC string.
    pub hash: String,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

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
        let identities = records(ledger, ControlKind::Identity)?.into_iter().map(|(name, record)| (name.into(), record)).collect();
        let keys = records(ledger, ControlKind::PublicKey)?.into_iter().collect();
        Ok(Control { identities, roles: records(ledger, ControlKind::Role)?, rules: records(ledger, ControlKind::Rule)?, keys })
    }

    /// Adds what it says to a policy.
    pub fn add_to(&self, policy: &mut Policy) {
        policy.assignments.extend(self.roles.iter().filter_map(|(_, record)| record.assignment()));
        let rules: Vec<NetworkRule> = self.rules.iter().map(|(_, record)| record.rule_or_none_shall_pass()).collect();
        // Whoever is kept out at run time is kept out everywhere, whatever stands in the configuration for one listener.
        policy.listener_rules.values_mut().for_each(|own| own.extend_from_slice(&rules));
        policy.rules.extend(rules);
    }
}

fn records<T: DeserializeOwned>(ledger: &Ledger, kind: ControlKind) -> Result<Vec<(String, T)>, LedgerError> {
    let entries = ledger.control(kind)?.into_iter();
    Ok(entries
        .filter_map(|entry| match serde_json::from_value(entry.content) {
            Ok(record) => Some((entry.name, record)),
            Err(why) => {
                tracing::warn!(name = %entry.name, ?kind, %why, "a record of the control plane cannot be read: it is left out");
                None
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(policy.assignments.len(), 2, "what is no role gives nothing");
        assert_eq!(policy.assignments[0].to, Assignee::Group("all".into()));
        assert_eq!(policy.rules[1], NetworkRule::default(), "what cannot be read lets nobody in");
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
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<IdentityRecord>(&text).unwrap(), record);
    }
}
