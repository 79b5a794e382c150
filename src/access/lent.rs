//! Credentials that are not ours: what a caller lends for its own requests to an upstream that decides itself who reads what.

use std::fmt;
use std::sync::Arc;

use crate::oci::RepositoryName;

/// A caller's user name and password at an upstream. Cloning is cheap; nothing prints them.
#[derive(Clone, PartialEq, Eq)]
pub struct Lent(Arc<Pair>);

#[derive(PartialEq, Eq)]
struct Pair {
    username: String,
    password: String,
}

impl Lent {
    pub fn new(username: String, password: String) -> Lent {
        Lent(Arc::new(Pair { username, password }))
    }

    pub fn username(&self) -> &str {
        &self.0.username
    }

    pub fn password(&self) -> &str {
        &self.0.password
    }
}

impl fmt::Debug for Lent {
    /// Not even the name: some registries take a token in its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent(_)")
    }
}

/// The upstream has said that whoever has these credentials may read this repository. Made by who asked it.
#[derive(Clone, Debug)]
pub struct Vouched {
    pub repository: RepositoryName,
    pub lent: Lent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Action, Assignee, Assignment, Caller, NetworkRule, Policy, Role};

    #[test]
    fn where_an_upstream_decides_nothing_else_does() {
        let own = Assignment { role: Role::Owner, to: Assignee::Principal("owner".into()), repositories: None };
        let mut policy =
            Policy { assignments: [own].into_iter().collect(), decided_elsewhere: ["private.test".to_owned()].into(), ..Policy::default() };
        let (owner, name) = (Caller::named("owner"), |text: &str| text.parse::<RepositoryName>().unwrap());
        let (there, here) = (name("private.test/team/app"), name("other.test/team/app"));
        assert!(policy.authorize(&owner, &here, Action::Pull).is_ok() && policy.authorize(&owner, &there, Action::Pull).is_err());

        let lent = Lent::new("alice".to_owned(), "s3cret".to_owned());
        let vouched = |repository: &RepositoryName| Vouched { repository: repository.clone(), lent: lent.clone() };
        let judge = |policy: &Policy, repository, action, vouched: &Vouched| policy.authorize_vouched(&owner, repository, action, vouched);
        let access = judge(&policy, &there, Action::Pull, &vouched(&there)).unwrap();
        assert_eq!((access.repository(), access.lent()), (&there, Some(&lent)));
        assert!(!format!("{access:?}").contains("s3cret") && !format!("{access:?}").contains("alice"));
        assert!(judge(&policy, &there, Action::MetadataRead, &vouched(&there)).is_ok());
        for (repository, action, word) in
            [(&there, Action::Push, &there), (&there, Action::Delete, &there), (&there, Action::Pull, &here), (&here, Action::Pull, &here)]
        {
            assert!(judge(&policy, repository, action, &vouched(word)).is_err(), "{repository} {action:?}");
        }
        policy.rules = vec![NetworkRule { allow: vec!["10.0.0.0/8".parse().unwrap()], ..NetworkRule::default() }];
        assert!(judge(&policy, &there, Action::Pull, &vouched(&there)).is_err(), "from an address that no rule admits");
    }
}
