//! Who may do what, as pure decisions. Nothing here knows HTTP, passwords or time.
//!
//! Architecture invariant: use cases take an [`Access`], and only [`Policy::authorize`] makes one. A use case that has it in
//! hand knows that this caller may do this to this repository; one that has not cannot be called.

mod pattern;

use std::sync::Arc;

pub use pattern::{Pattern, PatternError};

use crate::oci::RepositoryName;

/// What a caller wants to do to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Pull,
    /// Writing, and the operators' commands on cached content (prefetch, refresh).
    Push,
}

/// Who is asking, as far as authentication established it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    Anonymous,
    Named(Arc<str>),
}

impl Principal {
    /// For logs: the name, or `anonymous`.
    pub fn as_str(&self) -> &str {
        match self {
            Principal::Anonymous => "anonymous",
            Principal::Named(name) => name,
        }
    }
}

/// Proof that its holder may do `action` to `repository`, a full name that includes the upstream's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    repository: RepositoryName,
    action: Action,
}

impl Access {
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }
}

/// The caller may not; `authenticate` tells whether other credentials could change that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not allowed")]
pub struct Denied {
    pub authenticate: bool,
}

/// What one principal, or everybody, may do: patterns of full repository names. Push includes pull.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    pub pull: Vec<Pattern>,
    pub push: Vec<Pattern>,
}

impl Grants {
    fn allow(&self, action: Action, repository: &RepositoryName) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(repository));
        matches(&self.push) || (action == Action::Pull && matches(&self.pull))
    }
}

/// All grants. What is not granted is denied.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub anonymous: Grants,
    pub principals: std::collections::HashMap<Arc<str>, Grants>,
}

impl Policy {
    /// Decides. A named principal has what everybody has, and its own grants.
    pub fn authorize(&self, principal: &Principal, repository: &RepositoryName, action: Action) -> Result<Access, Denied> {
        let own = match principal {
            Principal::Anonymous => None,
            Principal::Named(name) => self.principals.get(name),
        };
        if self.anonymous.allow(action, repository) || own.is_some_and(|grants| grants.allow(action, repository)) {
            Ok(Access { repository: repository.clone(), action })
        } else {
            Err(Denied { authenticate: *principal == Principal::Anonymous })
        }
    }

    /// Whether anonymous callers may do anything at all: without it, even the version check asks for credentials.
    pub fn has_anonymous(&self) -> bool {
        !(self.anonymous.pull.is_empty() && self.anonymous.push.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(pull: &[&str], push: &[&str]) -> Grants {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Grants { pull: parse(pull), push: parse(push) }
    }

    #[test]
    fn nothing_is_allowed_unless_granted() {
        let policy =
            Policy { anonymous: grants(&["docker.io/**"], &[]), principals: [("ci".into(), grants(&["private/*"], &["team/**"]))].into() };
        let (nobody, ci, stranger) = (Principal::Anonymous, Principal::Named("ci".into()), Principal::Named("stranger".into()));
        for (principal, repository, action, allowed) in [
            (&nobody, "docker.io/library/alpine", Action::Pull, true),
            (&nobody, "docker.io/library/alpine", Action::Push, false),
            (&nobody, "private/a", Action::Pull, false),
            (&ci, "docker.io/library/alpine", Action::Pull, true),
            (&ci, "private/a", Action::Pull, true),
            (&ci, "private/a/b", Action::Pull, false),
            (&ci, "private/a", Action::Push, false),
            (&ci, "team/a/b", Action::Push, true),
            (&ci, "team/a/b", Action::Pull, true),
            (&stranger, "private/a", Action::Pull, false),
        ] {
            let verdict = policy.authorize(principal, &repository.parse().unwrap(), action);
            assert_eq!(verdict.is_ok(), allowed, "{principal:?} {action:?} {repository}");
            if let Err(denied) = verdict {
                assert_eq!(denied.authenticate, *principal == nobody);
            }
        }
    }
}
