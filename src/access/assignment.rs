//! Who has which role on what.

use std::collections::HashMap;
use std::sync::Arc;

use super::pattern::Pattern;
use super::role::Role;
use super::{Caller, Principal};
use crate::oci::RepositoryName;

/// To whom a role is assigned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Assignee {
    Principal(Arc<str>),
    /// All whose identity provider names this group.
    Group(Arc<str>),
}

/// Somebody has a role, on the registry or on some repositories.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub role: Role,
    pub to: Assignee,
    /// `None`: on the registry, which is all repositories and what belongs to none.
    pub repositories: Option<Vec<Pattern>>,
}

impl Assignment {
    pub(super) fn reaches(&self, repository: &RepositoryName) -> bool {
        self.repositories.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(repository)))
    }
}

/// All assignments, found by to whom they are: a request costs what its caller has, and not what all have.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    to_principals: HashMap<Arc<str>, Vec<Assignment>>,
    to_groups: HashMap<Arc<str>, Vec<Assignment>>,
}

impl Assignments {
    pub fn is_empty(&self) -> bool {
        self.to_principals.is_empty() && self.to_groups.is_empty()
    }

    /// Whether membership in a group gives anybody anything.
    pub fn has_group(&self, group: &str) -> bool {
        self.to_groups.contains_key(group)
    }

    /// What a caller has, by its name and its groups.
    pub(super) fn of<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a Assignment> {
        let own = match &caller.principal {
            Principal::Anonymous => None,
            Principal::Named(name) => self.to_principals.get(name),
        };
        let groups = caller.groups.iter().filter_map(|group| self.to_groups.get(group));
        own.into_iter().chain(groups).flatten()
    }

    /// Takes away what a principal has by its name.
    pub fn remove_principal(&mut self, name: &str) {
        self.to_principals.remove(name);
    }
}

impl Extend<Assignment> for Assignments {
    fn extend<T: IntoIterator<Item = Assignment>>(&mut self, assignments: T) {
        for assignment in assignments {
            let (of, name) = match &assignment.to {
                Assignee::Principal(name) => (&mut self.to_principals, name),
                Assignee::Group(name) => (&mut self.to_groups, name),
            };
            of.entry(name.clone()).or_default().push(assignment);
        }
    }
}

impl FromIterator<Assignment> for Assignments {
    fn from_iter<T: IntoIterator<Item = Assignment>>(assignments: T) -> Assignments {
        let mut all = Assignments::default();
        all.extend(assignments);
        all
    }
}
