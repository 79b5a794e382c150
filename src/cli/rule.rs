//! `outport rule`: from where callers may come.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::ask::{AskError, Shown};
use super::columns::columns;
use super::governing::{Answer, BELOW, finish, identified, list, path, remove, word, words};

pub(super) const EXAMPLES: &str = "Examples:\n  outport rule add --allow 10.0.0.0/8 --allow 2001:db8::/32 --username root --password-file root.password\n  outport rule list --username root --password-file root.password";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all rules: the configuration's, and those made at run time
    #[command(after_help = "Example:\n  outport rule list --username root --password-file root.password")]
    List {
        #[command(flatten)]
        shown: Shown,
    },
    /// Add a rule, and print its id; all rules must let a caller in, and of the ranges of a rule that hold its address the longest decides
    #[command(
        after_help = "Examples:\n  outport rule add --allow 10.0.0.0/8 --username root --password-file root.password\n  outport rule add --deny 192.0.2.0/24 --default allow --username root --password-file root.password\n  outport rule add --allow 10.1.0.0/16 --role AcrPush --username root --password-file root.password"
    )]
    Add {
        /// A range that is let in; may be given more than once
        #[arg(long, value_name = "RANGE")]
        allow: Vec<String>,
        /// A range that is not; may be given more than once
        #[arg(long, value_name = "RANGE")]
        deny: Vec<String>,
        /// What holds for all other addresses: deny or allow
        #[arg(long, value_name = "deny|allow", default_value = "deny")]
        default: String,
        /// A role that counts only where this rule lets the caller in; may be given more than once; without any, the registry as a whole
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Add it though it keeps out the address from which this is asked
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// Remove a rule
    #[command(after_help = "Example:\n  outport rule remove 01K5M2Y3Z4A5B6C7D8E9F0G1H2 --username root --password-file root.password")]
    Remove {
        id: String,
        #[command(flatten)]
        shown: Shown,
    },
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let shown = match &arguments.command {
        Command::List { shown } | Command::Add { shown, .. } | Command::Remove { shown, .. } => shown,
    };
    finish("rule", execute(config, &arguments.command, shown), shown)
}

fn execute(config: Option<&Path>, command: &Command, shown: &Shown) -> Result<Answer, AskError> {
    let edge = &shown.edge;
    match command {
        Command::List { .. } => list((edge, config), ("rules", "id"), rows),
        Command::Add { allow, deny, default, roles, force, .. } => {
            let question = json!({ "allow": allow, "deny": deny, "default": default, "roles": roles, "force": force });
            edge.ask(config, &format!("{BELOW}/rules"), &question).map(identified)
        }
        Command::Remove { id, .. } => remove((edge, config), &path("rules", id)),
    }
}

fn rows(rules: &[Value]) -> String {
    let heads = ["ID", "ALLOW", "DENY", "DEFAULT", "FOR"].map(str::to_owned);
    let row = |rule: &Value| {
        let or = |text: String, none: &str| if text.is_empty() { none.to_owned() } else { text };
        let lists = [&rule["allow"], &rule["deny"]].map(|ranges| or(words(ranges), "-"));
        let [allow, deny] = lists;
        let roles = or(words(&rule["roles"]), "the registry");
        [word(&rule["id"]).to_owned(), allow, deny, word(&rule["default"]).to_owned(), roles]
    };
    columns(&std::iter::once(heads).chain(rules.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tell_what_a_rule_is_for() {
        let rules = [
            json!({"id": "01A", "allow": ["10.0.0.0/8"], "deny": [], "default": "deny", "roles": [], "fixed": false}),
            json!({"id": "01B", "allow": [], "deny": ["192.0.2.0/24"], "default": "allow", "roles": ["AcrPush"], "fixed": false}),
        ];
        let expected = "ID   ALLOW       DENY          DEFAULT  FOR\n\
                        01A  10.0.0.0/8  -             deny     the registry\n\
                        01B  -           192.0.2.0/24  allow    AcrPush\n";
        assert_eq!(rows(&rules), expected);
    }
}
