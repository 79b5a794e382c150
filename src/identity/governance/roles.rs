//! Who has which role.

use serde::Serialize;
use ulid::Ulid;

use super::{Changed, Governance, GovernanceError, demand, fixed_id, refuse_beyond, refuse_fixed, removed, written};
use crate::access::{self, Assignee, Assignment, Operation, Pattern, Permit};
use crate::config::is_principal;
use crate::identity::control::{GROUP, RoleRecord};
use crate::ledger::Event;

/// Assignments that are made at run time, at most.
const MAX_ASSIGNMENTS: usize = 4_096;
/// Patterns of one assignment, at most.
const MAX_PATTERNS: usize = 64;
/// The longest name of a group, in bytes.
const MAX_GROUP_BYTES: usize = 256;

/// An assignment, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Role {
    pub id: String,
    pub role: String,
    /// A principal's name, or `group:` and a group's.
    pub principal: String,
    /// `null`: the registry as a whole.
    pub repositories: Option<Vec<String>>,
    /// It stands in the configuration.
    pub fixed: bool,
}

impl Governance {
    /// All assignments: those of the configuration, and those that were made at run time, by id.
    pub fn roles(&self, permit: Permit) -> Result<Vec<Role>, GovernanceError> {
        demand(permit, Operation::ReadSettings)?;
        let fixed = self.fixed();
        let mut all: Vec<Role> = (0..).zip(&fixed.roles).map(|(index, role)| of_configuration(fixed_id(index), role)).collect();
        all.extend(self.control().roles.iter().map(|(id, record)| shown(id, record)));
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    /// # Errors
    /// There is none of this id.
    pub fn role(&self, permit: Permit, id: &str) -> Result<Role, GovernanceError> {
        self.roles(permit)?.into_iter().find(|role| role.id == id).ok_or_else(|| unknown(id))
    }

    /// Assigns a role; what is assigned already is not assigned twice. Returns the id.
    ///
    /// # Errors
    /// There is no such role, or what it is for can be nobody or nothing.
    pub async fn assign(&self, permit: Permit, record: RoleRecord) -> Result<Changed<String>, GovernanceError> {
        validate(&record)?;
        let change = self.begin(permit, Operation::AssignRoles).await?;
        if let Some((id, _)) = change.control.roles.iter().find(|(_, same)| *same == record) {
            let id = id.clone();
            return change.keep(id);
        }
        refuse_beyond(change.control.roles.len(), MAX_ASSIGNMENTS, "assignments")?;
        let id = Ulid::generate().to_string();
        change.append(vec![Event::Role(written(&id, &record))], id).await
    }

    /// # Errors
    /// There is none of this id, or it stands in the configuration.
    pub async fn revoke(&self, permit: Permit, id: &str) -> Result<Changed, GovernanceError> {
        refuse_fixed(id)?;
        let change = self.begin(permit, Operation::AssignRoles).await?;
        if !change.control.roles.iter().any(|(own, _)| own == id) {
            return Err(unknown(id));
        }
        change.append(vec![Event::Role(removed(id))], ()).await
    }
}

fn unknown(id: &str) -> GovernanceError {
    GovernanceError::Unknown(format!("assignment {id}"))
}

fn validate(record: &RoleRecord) -> Result<(), GovernanceError> {
    let invalid = |why: String| Err(GovernanceError::Invalid(why));
    if let Err(why) = record.role.parse::<access::Role>() {
        return invalid(why.to_string());
    }
    let is_somebody = match record.to.strip_prefix(GROUP) {
        Some(group) => (1..=MAX_GROUP_BYTES).contains(&group.len()) && !group.chars().any(char::is_control),
        None => is_principal(&record.to),
    };
    if !is_somebody {
        return invalid(format!("{:?} is neither a principal's name nor group:NAME", record.to));
    }
    let Some(patterns) = &record.repositories else { return Ok(()) };
    if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
        return invalid(format!("there are 1 to {MAX_PATTERNS} patterns, or none for the registry as a whole"));
    }
    match patterns.iter().find_map(|text| text.parse::<Pattern>().err().map(|why| (text, why))) {
        Some((text, why)) => invalid(format!("{text:?}: {why}")),
        None => Ok(()),
    }
}

fn of_configuration(id: String, assignment: &Assignment) -> Role {
    let principal = match &assignment.to {
        Assignee::Principal(name) => name.to_string(),
        Assignee::Group(group) => format!("{GROUP}{group}"),
    };
    let texts = |patterns: &Vec<Pattern>| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    Role { id, role: assignment.role.to_string(), principal, repositories: assignment.repositories.as_ref().map(texts), fixed: true }
}

fn shown(id: &str, record: &RoleRecord) -> Role {
    let RoleRecord { role, to, repositories } = record.clone();
    Role { id: id.to_owned(), role, principal: to, repositories, fixed: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::governance::Fixed;
    use crate::identity::governance::testing::{World, permit};

    fn record(role: &str, to: &str, repositories: Option<&[&str]>) -> RoleRecord {
        let repositories = repositories.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
        RoleRecord { role: role.into(), to: to.into(), repositories }
    }

    #[tokio::test]
    async fn roles_are_assigned_once_and_revoked() {
        let world = World::new().await;
        let assign = |record| world.governance.assign(permit(Operation::AssignRoles), record);
        let first = assign(record("AcrPush", "ci", Some(&["team/**"]))).await.unwrap();
        assert_eq!(first.position.seq, 1);
        let again = assign(record("AcrPush", "ci", Some(&["team/**"]))).await.unwrap();
        assert_eq!((again.made.as_str(), again.position), (first.made.as_str(), first.position));
        let other = assign(record("AcrPull", "group:all of us", None)).await.unwrap();
        let listed = || world.governance.roles(permit(Operation::ReadSettings)).unwrap();
        assert_eq!(listed().len(), 2);
        let shown = world.governance.role(permit(Operation::ReadSettings), &other.made).unwrap();
        assert_eq!((shown.principal.as_str(), shown.repositories, shown.fixed), ("group:all of us", None, false));
        world.governance.revoke(permit(Operation::AssignRoles), &first.made).await.unwrap();
        assert_eq!(listed().len(), 1);
        let twice = world.governance.revoke(permit(Operation::AssignRoles), &first.made).await;
        assert_eq!(twice.map(drop), Err(unknown(&first.made)));
    }

    #[tokio::test]
    async fn what_is_no_assignment_is_refused() {
        let world = World::new().await;
        let many = vec!["a"; MAX_PATTERNS + 1];
        for record in [
            record("King", "ci", None),
            record("owner", "ci", None),
            record("Owner", "", None),
            record("Owner", "a b", None),
            record("Owner", "group:", None),
            record("Owner", "group:a\nb", None),
            record("Owner", "ci", Some(&[])),
            record("Owner", "ci", Some(&["A"])),
            record("Owner", "ci", Some(&many)),
        ] {
            let refused = world.governance.assign(permit(Operation::AssignRoles), record.clone()).await;
            assert!(matches!(refused, Err(GovernanceError::Invalid(_))), "{record:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_is_configured_is_shown_and_fixed() {
        let world = World::new().await;
        let assignment = record("Owner", "root", Some(&["team/**"])).assignment().unwrap();
        world.governance.set_fixed(Fixed { roles: vec![assignment], ..Fixed::default() });
        let shown = world.governance.roles(permit(Operation::ReadSettings)).unwrap();
        let expected = Role {
            id: "config-1".into(),
            role: "Owner".into(),
            principal: "root".into(),
            repositories: Some(vec!["team/**".into()]),
            fixed: true,
        };
        assert_eq!(shown, [expected]);
        let refused = world.governance.revoke(permit(Operation::AssignRoles), "config-1").await;
        assert!(matches!(refused, Err(GovernanceError::Conflict(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn only_who_assigns_roles_assigns_them() {
        let world = World::new().await;
        for operation in [Operation::ChangeSettings, Operation::ReadSettings] {
            let refused = world.governance.assign(permit(operation), record("Owner", "ci", None)).await;
            assert_eq!(refused.map(drop), Err(GovernanceError::Denied));
        }
    }
}
