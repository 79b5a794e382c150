//! Scopes of tokens: `repository:NAME:pull,push` and `registry:catalog:*` (distribution, "Token Scope Documentation").

use std::collections::BTreeSet;
use std::fmt;

use super::role::{Action, Operation};
use crate::oci::RepositoryName;

/// The scope by which the catalogue is listed.
pub const CATALOG: &str = "registry:catalog:*";

/// What a token is good for, or is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Repository { name: RepositoryName, actions: BTreeSet<Action> },
    Catalog,
}

impl Scope {
    /// `None` for what names nothing that could be granted: such a scope is left out of a token, as other registries do. `*` stands for
    /// all actions.
    pub fn parse(text: &str) -> Option<Scope> {
        if text == CATALOG {
            return Some(Scope::Catalog);
        }
        // A name may have a colon where it has a registry's port, which none of ours has; actions have none.
        let (name, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
        let actions = match actions {
            "*" => super::ACTIONS.into_iter().collect(),
            words => words.split(',').filter_map(Action::of_word).collect(),
        };
        Some(Scope::Repository { name: name.parse().ok()?, actions })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Catalog => f.write_str(CATALOG),
            Scope::Repository { name, actions } => {
                let words: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
                write!(f, "repository:{name}:{}", words.join(","))
            }
        }
    }
}

/// All that a token is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Scopes {
        Scopes(scopes.into_iter().collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    pub fn allow(&self, repository: &RepositoryName, action: Action) -> bool {
        // Who may pull may know what there is to pull: Docker's clients ask for no scope of its own for the list of tags.
        let is_enough =
            |actions: &BTreeSet<Action>| actions.contains(&action) || action == Action::MetadataRead && actions.contains(&Action::Pull);
        self.0.iter().any(|scope| matches!(scope, Scope::Repository { name, actions } if name == repository && is_enough(actions)))
    }

    /// Only the catalogue has a scope: what else belongs to no repository is not done with a limited token.
    pub fn permit(&self, operation: Operation) -> bool {
        operation == Operation::List && self.0.contains(&Scope::Catalog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back() {
        for text in ["repository:team/app:pull", "repository:a:pull,push,delete", "registry:catalog:*", "repository:a:metadata_read"] {
            assert_eq!(Scope::parse(text).unwrap().to_string(), text);
        }
        let all = "repository:a:pull,push,delete,metadata_read,metadata_write";
        assert_eq!(Scope::parse("repository:a:*").unwrap().to_string(), all);
        assert_eq!(Scope::parse("repository:a:pull,fly").unwrap().to_string(), "repository:a:pull");
        for text in ["", "repository", "repository:a", "repository:A:pull", "registry:catalog:pull", "pull:a:repository"] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_named_is_not_allowed() {
        let scopes = Scopes::new([Scope::parse("repository:team/app:pull").unwrap()]);
        let allows = |name: &str, action| scopes.allow(&name.parse().unwrap(), action);
        assert!(allows("team/app", Action::Pull) && allows("team/app", Action::MetadataRead));
        assert!(!allows("team/app", Action::Push) && !allows("team/other", Action::Pull) && !allows("team/app", Action::MetadataWrite));
        assert!(!scopes.permit(Operation::List));
    }
}
