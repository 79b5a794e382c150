//! `outport admin`: the admin user and its two passwords.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::ask::{AskError, Shown};
use super::governing::{Answer, BELOW, finish, secrets, show, switch};
use super::principal::{put, rows};

pub(super) const EXAMPLES: &str = "Examples:\n  outport admin enable --username root --password-file root.password\n  outport admin regenerate 1 --username root --password-file root.password > admin.password";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show whether it is enabled
    #[command(after_help = "Example:\n  outport admin show --username root --password-file root.password")]
    Show {
        #[command(flatten)]
        shown: Shown,
    },
    /// Let it sign in; the first time both passwords are made and printed: they are told this once
    #[command(after_help = "Example:\n  outport admin enable --username root --password-file root.password")]
    Enable {
        #[command(flatten)]
        shown: Shown,
    },
    /// Let it sign in no more, until it is enabled
    #[command(after_help = "Example:\n  outport admin disable --username root --password-file root.password")]
    Disable {
        #[command(flatten)]
        shown: Shown,
    },
    /// Replace password 1 or 2 and print the new one: the other one goes on working
    #[command(after_help = "Example:\n  outport admin regenerate 2 --username root --password-file root.password > admin.password")]
    Regenerate {
        /// 1 or 2
        #[arg(value_parser = clap::value_parser!(u8).range(1..=2))]
        number: u8,
        /// The new password is good for this time
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
        #[command(flatten)]
        shown: Shown,
    },
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let shown = match &arguments.command {
        Command::Show { shown } | Command::Enable { shown } | Command::Disable { shown } | Command::Regenerate { shown, .. } => shown,
    };
    finish("admin", execute(config, &arguments.command, shown), shown)
}

fn execute(config: Option<&Path>, command: &Command, shown: &Shown) -> Result<Answer, AskError> {
    let (edge, own) = (&shown.edge, format!("{BELOW}/admin"));
    let switch = |enabled: bool| switch((edge, config), &own, enabled);
    match command {
        Command::Show { .. } => show((edge, config), &own, rows),
        Command::Enable { .. } => switch(true),
        Command::Disable { .. } => switch(false),
        Command::Regenerate { number, expires_in, .. } => {
            let mut question = json!({});
            put(&mut question, "expires_in", expires_in);
            edge.ask(config, &format!("{own}/passwords/{number}"), &question).map(secrets)
        }
    }
}
