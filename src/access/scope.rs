//! Scopes of tokens: `repository:NAME:pull,push` and `registry:catalog:*` (distribution, "Token Scope Documentation").

use std::collections::BTreeSet;
use std::fmt;

use super::role::{Action, Operation};
use crate::oci::RepositoryName;

/// The scope by which the catalogue is listed.
pub const CATALOG: &str = "registry:catalog:*";

/// The scope by which everything else that belongs to no repository is done, as far as its bearer's roles go.
pub const REGISTRY: &str = "registry:outport:*";

/// What a token is good for, or is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Repository { name: RepositoryName, actions: BTreeSet<Action> },
    Catalog,
    Registry,
}

impl Scope {
    /// `None` for what names nothing that could be granted: such a scope is left out of a token, as other registries do. `*` stands for
    /// all actions.
    pub fn parse(text: &str) -> Option<Scope> {
        if text == CATALOG {
            return Some(Scope::Catalog);
        }
        if text == REGISTRY {
            return Some(Scope::Registry);
        }
        // A name may have a colon where it has a registry's port, which none of ours has; actions have none.
        let (name, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
        let actions = match actions {
            "*" => super::ACTIONS.into_iter().collect(),
            words => words.split(',').filter_map(Action::of_word).collect(),
        };
        Some(Scope::Repository { name: name.parse().ok()?, actions })
    }

    fn is_good_for_something(&self) -> bool {
        !matches!(self, Scope::Repository { actions, .. } if actions.is_empty())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Catalog => f.write_str(CATALOG),
            Scope::Registry => f.write_str(REGISTRY),
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

    pub fn permit(&self, operation: Operation) -> bool {
        self.0.contains(&Scope::Registry) || operation == Operation::List && self.0.contains(&Scope::Catalog)
    }
}

impl fmt::Display for Scopes {
    /// As RFC 6749, section 3.3, writes them; what lets nothing be done is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().filter(|scope| scope.is_good_for_something()).map(Scope::to_string).collect();
        f.write_str(&texts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back() {
        for text in [
            "repository:team/app:pull",
            "repository:a:pull,push,delete",
            "registry:catalog:*",
            "registry:outport:*",
            "repository:a:metadata_read",
        ] {
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
    fn scopes_in_a_line_have_spaces_between() {
        let scopes = ["repository:a:pull", "repository:b:", "registry:catalog:*"].map(|text| Scope::parse(text).unwrap());
        assert_eq!(Scopes::new(scopes).to_string(), "repository:a:pull registry:catalog:*");
    }

    #[test]
    fn what_is_not_named_is_not_allowed() {
        let scopes = Scopes::new([Scope::parse("repository:team/app:pull").unwrap()]);
        let allows = |name: &str, action| scopes.allow(&name.parse().unwrap(), action);
        assert!(allows("team/app", Action::Pull) && allows("team/app", Action::MetadataRead));
        assert!(!allows("team/app", Action::Push) && !allows("team/other", Action::Pull) && !allows("team/app", Action::MetadataWrite));
        assert!(!scopes.permit(Operation::List));
        let (catalog, registry) = (Scopes::new([Scope::Catalog]), Scopes::new([Scope::Registry]));
        assert!(catalog.permit(Operation::List) && !catalog.permit(Operation::AssignRoles));
        assert!(registry.permit(Operation::List) && registry.permit(Operation::AssignRoles));
    }
}
