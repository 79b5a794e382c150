//! `[access]`, `[[principal]]`, `[[role]]` and `[[rule]]`: who may do what, and from where.

use ipnet::IpNet;

use super::reader::Section;
use super::schema::{Owners, note, secret_of_file, secret_of_variable};
use super::{Secret, names};
use crate::access::{Assignee, Assignment, NetworkRule, Otherwise, Pattern, Role};

/// What everybody may do, as patterns of full repository names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub anonymous_pull: Vec<Pattern>,
    pub anonymous_push: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    pub name: String,
    /// One or two, so that one can be replaced while the other works.
    pub passwords: Vec<Secret>,
    pub pull: Vec<Pattern>,
    pub push: Vec<Pattern>,
}

/// What stands before a group's name where a principal's could stand.
const GROUP: &str = "group:";

pub(super) fn read(mut section: Section<'_, '_, '_>) -> Access {
    let access = Access { anonymous_pull: section.list("anonymous_pull"), anonymous_push: section.list("anonymous_push") };
    section.finish();
    access
}

pub(super) fn read_principals(root: &mut Section<'_, '_, '_>) -> Vec<Principal> {
    let mut names = Owners::new();
    root.sections("principal").into_iter().filter_map(|section| read_principal(section, &mut names)).collect()
}

fn read_principal(mut section: Section<'_, '_, '_>, taken: &mut Owners) -> Option<Principal> {
    let name: Option<String> = section.required("name");
    if let Some(name) = &name {
        if !names::is_user(name) {
            section.fault(
                "name",
                format!("{name:?} is not a principal's name: 1 to 128 letters, digits and . _ @ + -, and not \"anonymous\""),
            );
        } else if let Some(earlier) = note(taken, name.clone(), section.path()) {
            section.fault("name", format!("{name:?} stands already in {earlier}"));
        }
    }
    let passwords = read_passwords(&mut section);
    let (pull, push) = (section.list("pull"), section.list("push"));
    section.finish();
    Some(Principal { name: name?, passwords, pull, push })
}

/// The most passwords of a principal: the old one and the new one.
const MAX_PASSWORDS: usize = 2;

fn read_passwords(section: &mut Section<'_, '_, '_>) -> Vec<Secret> {
    section.refuse(
        "password",
        "a password does not stand in the configuration: name its file in password_files, or its variable in password_envs",
    );
    section.refuse("password_file", "write password_files = [...]");
    section.refuse("password_env", "write password_envs = [...]");
    let (named_files, files) = section.files("password_files");
    let variables: Vec<String> = section.list("password_envs");
    match named_files + variables.len() {
        0 => section.fault("password_files", "is missing: name one file or two, or variables in password_envs"),
        1..=MAX_PASSWORDS => {}
        count => section.fault("password_files", format!("{count} passwords: at most {MAX_PASSWORDS}, with those of password_envs")),
    }
    let mut secrets: Vec<Secret> = files.iter().filter_map(|file| secret_of_file(section, "password_files", file)).collect();
    secrets.extend(variables.iter().filter_map(|name| secret_of_variable(section, "password_envs", name)));
    secrets
}

/// `[[role]]`: one assignment for each that it names.
pub(super) fn read_roles(root: &mut Section<'_, '_, '_>, known: &[Principal]) -> Vec<Assignment> {
    root.sections("role").into_iter().flat_map(|section| read_role(section, known)).collect()
}

fn read_role(mut section: Section<'_, '_, '_>, known: &[Principal]) -> Vec<Assignment> {
    let role: Option<Role> = section.required("role");
    let assignees: Vec<String> = section.list("principals");
    if assignees.is_empty() {
        section.fault("principals", "is missing: name principals, or groups as \"group:NAME\"");
    }
    for (index, name) in assignees.iter().enumerate() {
        match name.strip_prefix(GROUP) {
            Some("") => section.fault_at("principals", index, "a group has a name"),
            Some(_) => {}
            None if !names::is_principal(name) => section.fault_at("principals", index, format!("{name:?} is not a principal's name")),
            // One who signs in at a provider, or was made at run time, stands in no table.
            None if !known.iter().any(|principal| principal.name == *name) => {
                section.warn("principals", format!("{name:?} has no [[principal]] table: it must come from elsewhere"));
            }
            None => {}
        }
    }
    let patterns: Vec<Pattern> = section.list("repositories");
    let repositories = Some(patterns).filter(|patterns| !patterns.is_empty());
    section.finish();
    let Some(role) = role else { return Vec::new() };
    let to = |name: &String| match name.strip_prefix(GROUP) {
        Some(group) => Assignee::Group(group.into()),
        None => Assignee::Principal(name.as_str().into()),
    };
    assignees.iter().map(|name| Assignment { role, to: to(name), repositories: repositories.clone() }).collect()
}

pub(super) fn read_rules(root: &mut Section<'_, '_, '_>) -> Vec<NetworkRule> {
    root.sections("rule").into_iter().map(read_rule).collect()
}

fn read_rule(mut section: Section<'_, '_, '_>) -> NetworkRule {
    let (allow, deny): (Vec<IpNet>, Vec<IpNet>) = (section.list("allow"), section.list("deny"));
    let otherwise = section.or("default", Otherwise::Deny);
    let roles = section.list("roles");
    if allow.is_empty() && otherwise == Otherwise::Deny {
        section.fault("allow", "lets nobody in: name ranges, or set default = \"allow\"");
    }
    section.finish();
    NetworkRule { allow, deny, otherwise, roles }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{faults, parse};

    #[test]
    fn roles_and_rules_are_read() {
        let text = r#"
            [[role]]
            role = "AcrPush"
            principals = ["group:builders", "someone@example.com"]
            repositories = ["team/**"]
            [[role]]
            role = "Reader"
            principals = ["group:all of us"]
            [[rule]]
            allow = ["10.0.0.0/8"]
            roles = ["AcrPush"]
            [[rule]]
            deny = ["192.0.2.0/24"]
            default = "allow"
        "#;
        let config = parse(text).unwrap();
        let shown: Vec<String> =
            config.roles.iter().map(|each| format!("{} {:?} {:?}", each.role, each.to, each.repositories.is_some())).collect();
        let expected =
            [r#"AcrPush Group("builders") true"#, r#"AcrPush Principal("someone@example.com") true"#, r#"Reader Group("all of us") false"#];
        assert_eq!(shown, expected);
        assert_eq!(config.rules[0].roles, [Role::AcrPush]);
        assert_eq!(config.rules[1].otherwise, Otherwise::Allow);
    }

    #[test]
    fn what_is_wrong_with_roles_and_rules_is_told() {
        for (text, expected) in [
            (
                "[[role]]\nrole = \"King\"\nprincipals = [\"ci\"]",
                r#"role[0].role: "King" is none of the roles AcrPull, AcrPush, AcrDelete, Reader, Contributor, Owner"#,
            ),
            ("[[role]]\nrole = \"Owner\"", r#"role[0].principals: is missing: name principals, or groups as "group:NAME""#),
            ("[[role]]\nrole = \"Owner\"\nprincipals = [\"group:\"]", "role[0].principals[0]: a group has a name"),
            ("[[role]]\nrole = \"Owner\"\nprincipals = [\"a b\"]", r#"role[0].principals[0]: "a b" is not a principal's name"#),
            ("[[rule]]\ndeny = [\"10.0.0.0/8\"]", r#"rule[0].allow: lets nobody in: name ranges, or set default = "allow""#),
        ] {
            let found = faults(text);
            assert!(found.len() == 1 && found[0].ends_with(&format!(" {expected}")), "{text}: {found:?}");
        }
    }
}
