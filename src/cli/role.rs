//! `outport role`: who may do what.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::ask::{AskError, Shown};
use super::columns::columns;
use super::governing::{Answer, BELOW, finish, identified, list, path, remove, word, words};

pub(super) const EXAMPLES: &str = "Examples:\n  outport role assign AcrPush ci --repository 'team/**' --username root --password-file root.password\n  outport role list --username root --password-file root.password";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all assignments: the configuration's, and those made at run time
    #[command(after_help = "Example:\n  outport role list --username root --password-file root.password")]
    List {
        #[command(flatten)]
        shown: Shown,
    },
    /// Assign a role, and print the assignment's id
    #[command(
        after_help = "Examples:\n  outport role assign AcrPush ci --repository 'team/**' --username root --password-file root.password\n  outport role assign Reader group:auditors --username root --password-file root.password"
    )]
    Assign {
        /// AcrPull (pull), AcrPush (pull and push), AcrDelete (delete), Reader (pull, list, read settings), Contributor (all but assigning
        /// roles) or Owner (all)
        role: String,
        /// A principal's name, or group:NAME
        principal: String,
        /// A pattern of full names; may be given more than once; without any, the registry as a whole
        #[arg(long = "repository", value_name = "PATTERN")]
        repositories: Vec<String>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Take an assignment back
    #[command(after_help = "Example:\n  outport role revoke 01K5M2Y3Z4A5B6C7D8E9F0G1H2 --username root --password-file root.password")]
    Revoke {
        id: String,
        #[command(flatten)]
        shown: Shown,
    },
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let shown = match &arguments.command {
        Command::List { shown } | Command::Assign { shown, .. } | Command::Revoke { shown, .. } => shown,
    };
    finish("role", execute(config, &arguments.command, shown), shown)
}

fn execute(config: Option<&Path>, command: &Command, shown: &Shown) -> Result<Answer, AskError> {
    let edge = &shown.edge;
    match command {
        Command::List { .. } => list((edge, config), ("roles", "id"), rows),
        Command::Assign { role, principal, repositories, .. } => {
            let mut question = json!({ "role": role, "principal": principal });
            if !repositories.is_empty() {
                question["repositories"] = json!(repositories);
            }
            edge.ask(config, &format!("{BELOW}/roles"), &question).map(identified)
        }
        Command::Revoke { id, .. } => remove((edge, config), &path("roles", id)),
    }
}

fn rows(roles: &[Value]) -> String {
    let heads = ["ID", "ROLE", "PRINCIPAL", "REPOSITORIES"].map(str::to_owned);
    let row = |role: &Value| {
        let repositories = if role["repositories"].is_null() { "the registry".to_owned() } else { words(&role["repositories"]) };
        [word(&role["id"]).to_owned(), word(&role["role"]).to_owned(), word(&role["principal"]).to_owned(), repositories]
    };
    columns(&std::iter::once(heads).chain(roles.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tell_how_far_a_role_reaches() {
        let roles = [
            json!({"id": "config-1", "role": "Owner", "principal": "root", "repositories": null, "fixed": true}),
            json!({"id": "01A", "role": "AcrPush", "principal": "group:dev", "repositories": ["team/**", "lab/*"], "fixed": false}),
        ];
        let expected = "ID        ROLE     PRINCIPAL  REPOSITORIES\n\
                        config-1  Owner    root       the registry\n\
                        01A       AcrPush  group:dev  team/**,lab/*\n";
        assert_eq!(rows(&roles), expected);
    }
}
