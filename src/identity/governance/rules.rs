//! From where callers may come.

use ipnet::IpNet;
use serde::Serialize;
use ulid::Ulid;

use super::{Changed, Governance, GovernanceError, demand, fixed_id, refuse_beyond, refuse_fixed, removed, written};
use crate::access::{Caller, NetworkRule, Operation, Otherwise, Permit, Policy};
use crate::identity::control::RuleRecord;
use crate::ledger::Event;

/// Rules that are made at run time, at most: each is looked at with each request.
const MAX_RULES: usize = 256;
/// Ranges of one rule, at most.
const MAX_RANGES: usize = 256;

/// A rule, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    pub id: String,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// `deny` or `allow`.
    pub default: String,
    /// Empty: the registry as a whole.
    pub roles: Vec<String>,
    /// It stands in the configuration.
    pub fixed: bool,
}

/// What becomes of a rule that keeps out who adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is refused.
    Careful,
    Forced,
}

impl Governance {
    /// All rules: those of the configuration, and those that were made at run time, by id.
    pub fn rules(&self, permit: Permit) -> Result<Vec<Rule>, GovernanceError> {
        demand(permit, Operation::ReadSettings)?;
        let fixed = self.fixed();
        let mut all: Vec<Rule> = (0..).zip(&fixed.rules).map(|(index, rule)| of_configuration(fixed_id(index), rule)).collect();
        all.extend(self.control().rules.iter().map(|(id, record)| shown(id, record)));
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    /// # Errors
    /// There is none of this id.
    pub fn rule(&self, permit: Permit, id: &str) -> Result<Rule, GovernanceError> {
        self.rules(permit)?.into_iter().find(|rule| rule.id == id).ok_or_else(|| unknown(id))
    }

    /// Adds a rule; one that is there already is not added twice. Returns the id.
    ///
    /// # Errors
    /// It cannot be read, or lets nobody in; or the caller could take it away no more, and it is not forced.
    pub async fn add_rule(
        &self,
        permit: Permit,
        record: RuleRecord,
        (caller, policy): (&Caller, &Policy),
        force: Force,
    ) -> Result<Changed<String>, GovernanceError> {
        let rule = validate(&record)?;
        if force == Force::Careful && keeps_out(caller, policy, rule) {
            let why = format!("this rule would keep you out, who come from {}; it can be forced", caller.address);
            return Err(GovernanceError::Conflict(why));
        }
        let change = self.begin(permit, Operation::ChangeSettings).await?;
        if let Some((id, _)) = change.control.rules.iter().find(|(_, same)| *same == record) {
            let id = id.clone();
            return change.keep(id);
        }
        refuse_beyond(change.control.rules.len(), MAX_RULES, "rules")?;
        let id = Ulid::generate().to_string();
        change.append(vec![Event::Rule(written(&id, &record))], id).await
    }

    /// # Errors
    /// There is none of this id, or it stands in the configuration.
    pub async fn remove_rule(&self, permit: Permit, id: &str) -> Result<Changed, GovernanceError> {
        refuse_fixed(id)?;
        let change = self.begin(permit, Operation::ChangeSettings).await?;
        if !change.control.rules.iter().any(|(own, _)| own == id) {
            return Err(unknown(id));
        }
        change.append(vec![Event::Rule(removed(id))], ()).await
    }
}

fn unknown(id: &str) -> GovernanceError {
    GovernanceError::Unknown(format!("rule {id}"))
}

/// Whether who adds the rule could not remove it from the same address.
fn keeps_out(caller: &Caller, policy: &Policy, rule: NetworkRule) -> bool {
    let mut with_it = policy.clone();
    with_it.rules.push(rule);
    with_it.permit(caller, Operation::ChangeSettings).is_err()
}

fn validate(record: &RuleRecord) -> Result<NetworkRule, GovernanceError> {
    let invalid = |why: String| Err(GovernanceError::Invalid(why));
    if record.allow.len().saturating_add(record.deny.len()) > MAX_RANGES {
        return invalid(format!("a rule has at most {MAX_RANGES} ranges"));
    }
    if let Some(text) = record.allow.iter().chain(&record.deny).find(|text| text.parse::<IpNet>().is_err()) {
        return invalid(format!("{text:?} is no range of addresses, as 10.0.0.0/8 is one"));
    }
    let Some(rule) = record.rule() else {
        return invalid("default is \"deny\" or \"allow\", and roles are roles' names".to_owned());
    };
    if rule.allow.is_empty() && rule.otherwise == Otherwise::Deny {
        return invalid("this rule lets nobody in: name ranges to allow, or set the default to \"allow\"".to_owned());
    }
    Ok(rule)
}

fn of_configuration(id: String, rule: &NetworkRule) -> Rule {
    let texts = |ranges: &[IpNet]| ranges.iter().map(IpNet::to_string).collect();
    Rule {
        id,
        allow: texts(&rule.allow),
        deny: texts(&rule.deny),
        default: word(rule.otherwise).to_owned(),
        roles: rule.roles.iter().map(ToString::to_string).collect(),
        fixed: true,
    }
}

fn word(otherwise: Otherwise) -> &'static str {
    match otherwise {
        Otherwise::Deny => "deny",
        Otherwise::Allow => "allow",
    }
}

fn shown(id: &str, record: &RuleRecord) -> Rule {
    let RuleRecord { allow, deny, default, roles } = record.clone();
    let default = if default.is_empty() { word(Otherwise::Deny).to_owned() } else { default };
    Rule { id: id.to_owned(), allow, deny, default, roles, fixed: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Assignee, Assignment, Principal, Role};
    use crate::identity::governance::Fixed;
    use crate::identity::governance::testing::{World, permit};

    fn record(allow: &[&str], deny: &[&str], default: &str, roles: &[&str]) -> RuleRecord {
        let [allow, deny, roles] = [allow, deny, roles].map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
        RuleRecord { allow, deny, default: default.into(), roles }
    }

    /// An owner, and what is in force for it.
    fn owner_at(address: &str) -> (Caller, Policy) {
        let caller = Caller::new(Principal::Named("root".into()), address.parse().unwrap(), "basic");
        let assignment = Assignment { role: Role::Owner, to: Assignee::Principal("root".into()), repositories: None };
        (caller, Policy { assignments: [assignment].into_iter().collect(), ..Policy::default() })
    }

    async fn add(world: &World, record: RuleRecord, force: Force) -> Result<Changed<String>, GovernanceError> {
        let (caller, policy) = owner_at("10.0.0.7");
        world.governance.add_rule(permit(Operation::ChangeSettings), record, (&caller, &policy), force).await
    }

    #[tokio::test]
    async fn rules_are_added_once_and_removed() {
        let world = World::new().await;
        let first = add(&world, record(&["10.0.0.0/8"], &[], "", &[]), Force::Careful).await.unwrap();
        let again = add(&world, record(&["10.0.0.0/8"], &[], "", &[]), Force::Careful).await.unwrap();
        assert_eq!((first.position.seq, &first.made), (1, &again.made));
        let shown = world.governance.rule(permit(Operation::ReadSettings), &first.made).unwrap();
        assert_eq!((shown.allow, shown.default.as_str(), shown.fixed), (vec!["10.0.0.0/8".to_owned()], "deny", false));
        world.governance.remove_rule(permit(Operation::ChangeSettings), &first.made).await.unwrap();
        assert_eq!(world.governance.rules(permit(Operation::ReadSettings)).unwrap(), []);
        let twice = world.governance.remove_rule(permit(Operation::ChangeSettings), &first.made).await;
        assert_eq!(twice.map(drop), Err(unknown(&first.made)));
    }

    #[tokio::test]
    async fn who_would_be_kept_out_is_asked_to_force_it() {
        let world = World::new().await;
        for refused in [
            record(&["192.0.2.0/24"], &[], "", &[]),
            record(&[], &["10.0.0.0/8"], "allow", &[]),
            record(&["192.0.2.0/24"], &[], "", &["Owner"]),
        ] {
            let outcome = add(&world, refused.clone(), Force::Careful).await;
            assert!(matches!(&outcome, Err(GovernanceError::Conflict(why)) if why.contains("10.0.0.7")), "{refused:?}: {outcome:?}");
            add(&world, refused, Force::Forced).await.unwrap();
        }
        add(&world, record(&["192.0.2.0/24"], &[], "", &["AcrPush"]), Force::Careful).await.expect("it is not about owners");
    }

    #[tokio::test]
    async fn what_is_no_rule_is_refused_though_it_is_forced() {
        let world = World::new().await;
        let many = vec!["10.0.0.0/8"; MAX_RANGES + 1];
        for record in [
            record(&[], &[], "", &[]),
            record(&[], &["10.0.0.0/8"], "deny", &[]),
            record(&["10.0.0.0"], &[], "", &[]),
            record(&["10.0.0.0/33"], &[], "", &[]),
            record(&["10.0.0.0/8"], &[], "maybe", &[]),
            record(&["10.0.0.0/8"], &[], "", &["King"]),
            record(&many, &[], "", &[]),
        ] {
            let refused = add(&world, record.clone(), Force::Forced).await;
            assert!(matches!(refused, Err(GovernanceError::Invalid(_))), "{record:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_is_configured_is_shown_and_fixed() {
        let world = World::new().await;
        let rule = record(&["10.0.0.0/8"], &["10.1.0.0/16"], "allow", &["AcrPush"]).rule().unwrap();
        world.governance.set_fixed(Fixed { rules: vec![rule], ..Fixed::default() });
        let shown = world.governance.rule(permit(Operation::ReadSettings), "config-1").unwrap();
        assert_eq!((shown.default.as_str(), shown.roles, shown.fixed), ("allow", vec!["AcrPush".to_owned()], true));
        let refused = world.governance.remove_rule(permit(Operation::ChangeSettings), "config-1").await;
        assert!(matches!(refused, Err(GovernanceError::Conflict(_))), "{refused:?}");
    }
}
