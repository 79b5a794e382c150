//! The built-in roles, with the names and meaning that Azure Container Registry gives them.

use std::fmt;
use std::str::FromStr;

/// What a caller wants to do to a repository, or to the registry as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Reading manifests and blobs.
    Pull,
    /// Writing, and the operators' commands on cached content (prefetch, refresh).
    Push,
    /// Deleting manifests, blobs, tags and repositories.
    Delete,
    /// Listing tags and manifests, and reading their attributes.
    MetadataRead,
    /// Changing attributes: locks.
    MetadataWrite,
}

/// What a caller wants to know or change that belongs to no repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Listing the catalogue. Everybody may ask; what is listed is what the caller may see.
    List,
    /// Reading how the registry is doing and how it is set up.
    ReadSettings,
    /// Reading the audit record.
    ReadAudit,
    /// Changing network rules and the like.
    ChangeSettings,
    /// Making principals, replacing their secrets, and saying who has which role.
    AssignRoles,
}

/// A set of things that one may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    AcrPull,
    AcrPush,
    AcrDelete,
    Reader,
    Contributor,
    Owner,
}

/// Every role.
pub const ROLES: [Role; 6] = [Role::AcrPull, Role::AcrPush, Role::AcrDelete, Role::Reader, Role::Contributor, Role::Owner];
/// Every action.
pub const ACTIONS: [Action; 5] = [Action::Pull, Action::Push, Action::Delete, Action::MetadataRead, Action::MetadataWrite];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is AcrPull, AcrPush, AcrDelete, Reader, Contributor or Owner")]
pub struct RoleError;

impl Role {
    /// What it lets one do to a repository.
    pub fn allows(self, action: Action) -> bool {
        match self {
            Role::AcrPull | Role::Reader => matches!(action, Action::Pull | Action::MetadataRead),
            Role::AcrPush => matches!(action, Action::Pull | Action::Push | Action::MetadataRead),
            Role::AcrDelete => matches!(action, Action::Delete | Action::MetadataRead),
            Role::Contributor | Role::Owner => true,
        }
    }

    /// What it lets one do to the registry, when it is assigned on the registry and not on some repositories.
    pub fn permits(self, operation: Operation) -> bool {
        match self {
            Role::AcrPull | Role::AcrPush | Role::AcrDelete => operation == Operation::List,
            Role::Reader => matches!(operation, Operation::List | Operation::ReadSettings),
            Role::Contributor => operation != Operation::AssignRoles,
            Role::Owner => true,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Role::AcrPull => "AcrPull",
            Role::AcrPush => "AcrPush",
            Role::AcrDelete => "AcrDelete",
            Role::Reader => "Reader",
            Role::Contributor => "Contributor",
            Role::Owner => "Owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Role, RoleError> {
        ROLES.into_iter().find(|role| role.as_str() == text).ok_or(RoleError)
    }
}

impl Action {
    /// The word that token scopes use (distribution, "Token Scope Documentation"; Azure's `metadata_read`, `metadata_write`).
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "delete",
            Action::MetadataRead => "metadata_read",
            Action::MetadataWrite => "metadata_write",
        }
    }

    /// `None` for a word that is none of ours: it grants nothing.
    pub fn of_word(word: &str) -> Option<Action> {
        ACTIONS.into_iter().find(|action| action.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_lets_do_what_azure_says() {
        let may = |role: Role| -> String {
            let actions = ACTIONS.into_iter().map(|action| if role.allows(action) { '+' } else { '-' });
            let operations =
                [Operation::List, Operation::ReadSettings, Operation::ReadAudit, Operation::ChangeSettings, Operation::AssignRoles];
            actions.chain(operations.into_iter().map(|operation| if role.permits(operation) { '+' } else { '-' })).collect()
        };
        for (role, expected) in [
            // Pull, push, delete, read and write metadata; list, read settings and audit, change settings, assign roles.
            (Role::AcrPull, "+--+-+----"),
            (Role::AcrPush, "++-+-+----"),
            (Role::AcrDelete, "--++-+----"),
            (Role::Reader, "+--+-++---"),
            (Role::Contributor, "+++++++++-"),
            (Role::Owner, "++++++++++"),
        ] {
            assert_eq!(may(role), expected, "{role}");
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for text in ["", "owner", "AcrPull ", "acrpull"] {
            assert_eq!(text.parse::<Role>(), Err(RoleError), "{text:?}");
        }
    }

    #[test]
    fn words_of_scopes_are_actions() {
        for action in ACTIONS {
            assert_eq!(Action::of_word(action.as_str()), Some(action));
        }
        assert_eq!(Action::of_word("*"), None);
    }
}
