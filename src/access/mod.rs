//! Who may do what, as pure decisions. Nothing here knows HTTP, passwords or time.
//!
//! Architecture invariant: use cases take an [`Access`], and only [`Policy::authorize`] makes one. A use case that has it in
//! hand knows that this caller may do this to this repository; one that has not cannot be called.

mod assignment;
mod certificate;
mod lent;
mod network;
mod pattern;
mod role;
mod scope;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use assignment::{Assignee, Assignment, Assignments};
pub use certificate::{CertificateName, CertificateNameError};
pub use lent::{Lent, Vouched};
pub use network::{NetworkRule, Otherwise, canonical, client_network, is_in, longest_that_holds};
pub use pattern::{Pattern, PatternError};
pub use role::{ACTIONS, Action, Operation, ROLES, Role, RoleError};
pub use scope::{CATALOG, REGISTRY, Scope, Scopes};

use crate::oci::RepositoryName;

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

/// Who is asking, from where, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub principal: Principal,
    /// Groups that the identity provider named.
    pub groups: Arc<[Arc<str>]>,
    /// The client's address, as trusted proxies told it.
    pub address: IpAddr,
    /// On which listener it came: 0 for the first one, then those beside it in their order.
    pub listener: usize,
    /// What the token that was presented is good for; `None` for credentials that are not limited.
    pub scopes: Option<Arc<Scopes>>,
    /// How the caller proved who it is, for the record: `basic`, `token`, `certificate`, ...
    pub proof: &'static str,
}

impl Caller {
    /// Somebody without groups, with credentials that are not limited.
    pub fn new(principal: Principal, address: IpAddr, proof: &'static str) -> Caller {
        Caller { principal, groups: Arc::default(), address: canonical(address), listener: 0, scopes: None, proof }
    }

    pub fn anonymous(address: IpAddr) -> Caller {
        Caller::new(Principal::Anonymous, address, "none")
    }

    /// By name, from this machine: what tests and the edge itself use.
    pub fn named(name: &str) -> Caller {
        Caller::new(Principal::Named(name.into()), IpAddr::V4(Ipv4Addr::LOCALHOST), "basic")
    }

    pub fn is_anonymous(&self) -> bool {
        self.principal == Principal::Anonymous
    }

    /// The same with all that it may do.
    fn without_scopes(&self) -> Caller {
        Caller { scopes: None, ..self.clone() }
    }

    /// By whose rights a list of repositories is made: a token for lists names none of those that are to be listed.
    pub fn of_lists(&self) -> Caller {
        if self.scopes.as_ref().is_some_and(|scopes| scopes.permit(Operation::List)) { self.without_scopes() } else { self.clone() }
    }
}

/// Proof that its holder may do `action` to `repository`, a full name that includes the upstream's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    repository: RepositoryName,
    action: Action,
    lent: Option<Lent>,
}

impl Access {
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// The caller's own credentials for the repository's upstream, where that decides.
    pub fn lent(&self) -> Option<&Lent> {
        self.lent.as_ref()
    }
}

/// Proof that its holder may do something to the registry as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(Operation);

impl Permit {
    pub fn operation(self) -> Operation {
        self.0
    }
}

/// The caller may not; `authenticate` tells whether other credentials could change that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not allowed")]
pub struct Denied {
    pub authenticate: bool,
    /// The token does not reach so far, while its holder does: another token would.
    pub insufficient_scope: bool,
}

impl Denied {
    fn to(caller: &Caller) -> Denied {
        Denied { authenticate: caller.is_anonymous(), insufficient_scope: false }
    }
}

/// What one principal, or everybody, may do by the short form in the configuration: patterns of full repository names. Push includes
/// pull.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    pub pull: Vec<Pattern>,
    pub push: Vec<Pattern>,
}

impl Grants {
    fn allow(&self, action: Action, repository: &RepositoryName) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(repository));
        match action {
            Action::Pull | Action::MetadataRead => matches(&self.push) || matches(&self.pull),
            Action::Push | Action::Delete => matches(&self.push),
            Action::MetadataWrite => false,
        }
    }
}

/// All that decides. What is not granted is denied.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub anonymous: Grants,
    pub principals: HashMap<Arc<str>, Grants>,
    pub assignments: Assignments,
    /// From where callers may come, and where roles count.
    pub rules: Vec<NetworkRule>,
    /// What holds instead on listeners that have rules of their own, by their number.
    pub listener_rules: HashMap<usize, Vec<NetworkRule>>,
    /// With what the names of repositories begin about which their upstream decides, and nothing else here.
    pub decided_elsewhere: HashSet<String>,
}

impl Policy {
    /// Decides about a repository. A named caller has what everybody has, its own grants, and its roles; a token never has more than
    /// its scopes.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn authorize(&self, caller: &Caller, repository: &RepositoryName, action: Action) -> Result<Access, Denied> {
        if !(self.admits(caller) && self.grants(caller, repository, action)) {
            return Err(Denied::to(caller));
        }
        if caller.scopes.as_ref().is_some_and(|scopes| !scopes.allow(repository, action)) {
            return Err(Denied { authenticate: true, insufficient_scope: true });
        }
        Ok(Access { repository: repository.clone(), action, lent: None })
    }

    /// Decides about the registry as a whole.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn permit(&self, caller: &Caller, operation: Operation) -> Result<Permit, Denied> {
        let has_role = |assignment: &Assignment| {
            assignment.repositories.is_none() && assignment.role.permits(operation) && self.counts(caller, assignment.role)
        };
        let by_grants = operation == Operation::List && (!caller.is_anonymous() || self.has_anonymous());
        if !(self.admits(caller) && (by_grants || self.assignments.of(caller).any(has_role))) {
            return Err(Denied::to(caller));
        }
        if caller.scopes.as_ref().is_some_and(|scopes| !scopes.permit(operation)) {
            return Err(Denied { authenticate: true, insufficient_scope: true });
        }
        Ok(Permit(operation))
    }

    /// Whether callers from this address are listened to at all.
    pub fn admits(&self, caller: &Caller) -> bool {
        network::admits(self.rules_for(caller), caller.address)
    }

    fn rules_for(&self, caller: &Caller) -> &[NetworkRule] {
        self.listener_rules.get(&caller.listener).unwrap_or(&self.rules)
    }

    /// Those of the scopes that the caller may have, each with the actions that it may do: what goes into a token.
    pub fn grant(&self, caller: &Caller, asked: &[Scope]) -> Scopes {
        let unlimited = caller.without_scopes();
        let may = |scope: &Scope| match scope {
            Scope::Repository { name, actions } => {
                let actions = actions.iter().copied().filter(|action| self.authorize(&unlimited, name, *action).is_ok());
                Some(Scope::Repository { name: name.clone(), actions: actions.collect() })
            }
            Scope::Catalog => self.permit(&unlimited, Operation::List).ok().map(|_| Scope::Catalog),
            // What it is good for is a question of roles, which is asked each time.
            Scope::Registry => (!unlimited.is_anonymous()).then_some(Scope::Registry),
        };
        Scopes::new(asked.iter().filter_map(may))
    }

    fn grants(&self, caller: &Caller, repository: &RepositoryName, action: Action) -> bool {
        let own = match &caller.principal {
            Principal::Anonymous => None,
            Principal::Named(name) => self.principals.get(name),
        };
        if self.is_decided_elsewhere(repository) {
            return false;
        }
        self.anonymous.allow(action, repository)
            || own.is_some_and(|grants| grants.allow(action, repository))
            || self
                .assignments
                .of(caller)
                .any(|assignment| assignment.role.allows(action) && self.counts(caller, assignment.role) && assignment.reaches(repository))
    }

    /// Whether the repository's upstream says who may read it. Nobody has anything there by grants, roles or tokens.
    pub fn is_decided_elsewhere(&self, repository: &RepositoryName) -> bool {
        self.decided_elsewhere.contains(repository.first_component())
    }

    /// Decides about a repository whose upstream has said that the holder of these credentials may read it.
    ///
    /// # Errors
    /// See [`Denied`]: nothing but reading is ever allowed like this.
    pub fn authorize_vouched(
        &self,
        caller: &Caller,
        repository: &RepositoryName,
        action: Action,
        vouched: &Vouched,
    ) -> Result<Access, Denied> {
        let reads = matches!(action, Action::Pull | Action::MetadataRead);
        if reads && self.admits(caller) && self.is_decided_elsewhere(repository) && vouched.repository == *repository {
            return Ok(Access { repository: repository.clone(), action, lent: Some(vouched.lent.clone()) });
        }
        Err(Denied { authenticate: false, insufficient_scope: false })
    }

    /// Whether a role counts where its holder is.
    fn counts(&self, caller: &Caller, role: Role) -> bool {
        network::admits_role(self.rules_for(caller), role, caller.address)
    }

    /// Whether somebody who signs in may do more than everybody.
    pub fn has_named(&self) -> bool {
        !(self.principals.is_empty() && self.assignments.is_empty())
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

    fn nobody() -> Caller {
        Caller::anonymous(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    #[test]
    fn nothing_is_allowed_unless_granted() {
        let policy = Policy {
            anonymous: grants(&["docker.io/**"], &[]),
            principals: [("ci".into(), grants(&["private/*"], &["team/**"]))].into(),
            ..Policy::default()
        };
        let (nobody, ci, stranger) = (nobody(), Caller::named("ci"), Caller::named("stranger"));
        for (caller, repository, action, allowed) in [
            (&nobody, "docker.io/library/alpine", Action::Pull, true),
            (&nobody, "docker.io/library/alpine", Action::MetadataRead, true),
            (&nobody, "docker.io/library/alpine", Action::Push, false),
            (&ci, "docker.io/library/alpine", Action::Pull, true),
            (&ci, "private/a", Action::Pull, true),
            (&ci, "private/a/b", Action::Pull, false),
            (&ci, "private/a", Action::Push, false),
            (&ci, "team/a/b", Action::Push, true),
            (&ci, "team/a/b", Action::Delete, true),
            (&ci, "team/a/b", Action::Pull, true),
            (&ci, "team/a/b", Action::MetadataWrite, false),
            (&stranger, "private/a", Action::Pull, false),
        ] {
            let verdict = policy.authorize(caller, &repository.parse().unwrap(), action);
            assert_eq!(verdict.is_ok(), allowed, "{caller:?} {action:?} {repository}");
            if let Err(denied) = verdict {
                assert_eq!(denied, Denied { authenticate: *caller == nobody, insufficient_scope: false });
            }
        }
    }

    fn assigned(role: Role, to: Assignee, repositories: Option<&[&str]>) -> Assignment {
        let repositories = repositories.map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect());
        Assignment { role, to, repositories }
    }

    #[test]
    fn roles_reach_as_far_as_they_are_assigned() {
        let policy = Policy {
            assignments: Assignments::from_iter([
                assigned(Role::AcrPush, Assignee::Group("builders".into()), Some(&["team/**"])),
                assigned(Role::Reader, Assignee::Principal("auditor".into()), None),
                assigned(Role::Owner, Assignee::Principal("half".into()), Some(&["half/*"])),
            ]),
            ..Policy::default()
        };
        let builder = Caller { groups: Arc::new(["builders".into()]), ..Caller::named("b") };
        let (auditor, half) = (Caller::named("auditor"), Caller::named("half"));
        for (caller, repository, action, allowed) in [
            (&builder, "team/a", Action::Push, true),
            (&builder, "team/a", Action::Delete, false),
            (&builder, "other/a", Action::Pull, false),
            (&auditor, "other/a", Action::Pull, true),
            (&auditor, "other/a", Action::Push, false),
            (&half, "half/a", Action::MetadataWrite, true),
            (&half, "other/a", Action::Pull, false),
            (&Caller::named("b"), "team/a", Action::Pull, false),
        ] {
            assert_eq!(
                policy.authorize(caller, &repository.parse().unwrap(), action).is_ok(),
                allowed,
                "{caller:?} {repository} {action:?}"
            );
        }
        for (caller, operation, allowed) in [
            (&auditor, Operation::ReadSettings, true),
            (&auditor, Operation::AssignRoles, false),
            (&builder, Operation::List, true),
            (&builder, Operation::ReadSettings, false),
            (&half, Operation::AssignRoles, false),
            (&nobody(), Operation::List, false),
        ] {
            assert_eq!(policy.permit(caller, operation).is_ok(), allowed, "{caller:?} {operation:?}");
        }
    }

    #[test]
    fn row_66_a_token_never_has_more_than_its_scopes_nor_than_its_holder() {
        let policy = Policy {
            assignments: [assigned(Role::AcrPull, Assignee::Principal("ci".into()), None)].into_iter().collect(),
            ..Policy::default()
        };
        let ci = Caller::named("ci");
        let asked = [Scope::parse("repository:team/a:pull,push"), Scope::parse("registry:catalog:*")].map(Option::unwrap);
        let scopes = policy.grant(&ci, &asked);
        assert_eq!(scopes, Scopes::new([Scope::parse("repository:team/a:pull"), Scope::parse("registry:catalog:*")].map(Option::unwrap)));
        let limited = Caller { scopes: Some(Arc::new(scopes)), ..ci.clone() };
        let judge = |repository: &str, action| policy.authorize(&limited, &repository.parse().unwrap(), action).map(drop);
        assert_eq!(judge("team/a", Action::Pull), Ok(()));
        assert_eq!(judge("team/b", Action::Pull), Err(Denied { authenticate: true, insufficient_scope: true }));
        assert_eq!(judge("team/a", Action::Push), Err(Denied { authenticate: false, insufficient_scope: false }));
        assert!(policy.permit(&limited, Operation::List).is_ok());
        // What was taken from its holder, a token has no longer.
        assert!(Policy::default().authorize(&limited, &"team/a".parse().unwrap(), Action::Pull).is_err());
    }

    #[test]
    fn who_comes_from_elsewhere_may_nothing() {
        let only =
            |roles: &[Role]| NetworkRule { allow: vec!["10.0.0.0/8".parse().unwrap()], roles: roles.to_vec(), ..NetworkRule::default() };
        let policy = |rule| Policy {
            anonymous: grants(&["open/*"], &[]),
            assignments: [assigned(Role::AcrPush, Assignee::Principal("ci".into()), None)].into_iter().collect(),
            rules: vec![rule],
            ..Policy::default()
        };
        // A listener with rules of its own.
        let private = NetworkRule { allow: vec!["192.0.2.0/24".parse().unwrap()], ..NetworkRule::default() };
        let beside = Policy { listener_rules: [(1, vec![private])].into(), ..policy(only(&[])) };
        for (listener, address, admitted) in
            [(0, "10.0.0.1", true), (0, "192.0.2.1", false), (1, "10.0.0.1", false), (1, "192.0.2.1", true), (2, "10.0.0.1", true)]
        {
            let caller = Caller { listener, ..Caller::anonymous(address.parse().unwrap()) };
            assert_eq!(beside.admits(&caller), admitted, "{listener} {address}");
        }
        let (near, far) = ("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let ci = |address| Caller { address, ..Caller::named("ci") };
        let may = |policy: &Policy, caller: &Caller, name: &str, action| policy.authorize(caller, &name.parse().unwrap(), action).is_ok();
        let all = policy(only(&[]));
        assert!(may(&all, &ci(near), "team/a", Action::Push) && may(&all, &Caller::anonymous(near), "open/a", Action::Pull));
        assert!(!may(&all, &ci(far), "team/a", Action::Push) && !may(&all, &Caller::anonymous(far), "open/a", Action::Pull));
        let pushes = policy(only(&[Role::AcrPush]));
        assert!(may(&pushes, &ci(near), "team/a", Action::Push) && !may(&pushes, &ci(far), "team/a", Action::Push));
        assert!(may(&pushes, &ci(far), "open/a", Action::Pull));
    }
}
