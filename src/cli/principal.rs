//! `outport principal`: who signs in by a secret that the registry made.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::ask::{AskError, Shown};
use super::columns::columns;
use super::governing::{Answer, BELOW, finish, list, path, remove, secrets, show, switch, until, word};

pub(super) const EXAMPLES: &str = "Examples:\n  outport principal create ci --username root --password-file root.password > ci.secret\n  outport principal regenerate ci 2 --expires-in 90d --username root --password-file root.password\n  outport principal list --username root --password-file root.password";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all: the configuration's, those made at run time, the admin user
    #[command(after_help = "Example:\n  outport principal list --username root --password-file root.password")]
    List {
        #[command(flatten)]
        shown: Shown,
    },
    /// Show one
    #[command(after_help = "Example:\n  outport principal show ci --username root --password-file root.password")]
    Show(Named),
    /// Make one, and print its first secret: it is told this once
    #[command(
        after_help = "Example:\n  outport principal create ci --secret-expires-in 90d --username root --password-file root.password > ci.secret"
    )]
    Create {
        #[command(flatten)]
        named: Named,
        /// It signs in no more after this time
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
        /// Its first secret is good for this time
        #[arg(long, value_name = "DURATION")]
        secret_expires_in: Option<String>,
    },
    /// Let it sign in no more, until it is enabled
    #[command(after_help = "Example:\n  outport principal disable ci --username root --password-file root.password")]
    Disable(Named),
    /// Let it sign in again
    #[command(after_help = "Example:\n  outport principal enable ci --username root --password-file root.password")]
    Enable(Named),
    /// Delete it, its secrets and its roles
    #[command(after_help = "Example:\n  outport principal delete ci --username root --password-file root.password")]
    Delete(Named),
    /// Replace secret 1 or 2 and print the new one: the other one goes on working
    #[command(after_help = "Example:\n  outport principal regenerate ci 2 --username root --password-file root.password > ci.secret")]
    Regenerate {
        #[command(flatten)]
        secret: Secret,
        /// The new secret is good for this time
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// Remove secret 1 or 2: the other one goes on working
    #[command(after_help = "Example:\n  outport principal remove-secret ci 1 --username root --password-file root.password")]
    RemoveSecret(Secret),
}

#[derive(Debug, clap::Args)]
struct Named {
    name: String,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
struct Secret {
    #[command(flatten)]
    named: Named,
    /// 1 or 2
    #[arg(value_parser = clap::value_parser!(u8).range(1..=2))]
    number: u8,
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let shown = match &arguments.command {
        Command::List { shown } => shown,
        Command::Show(named) | Command::Disable(named) | Command::Enable(named) | Command::Delete(named) => &named.shown,
        Command::Create { named, .. } => &named.shown,
        Command::Regenerate { secret, .. } | Command::RemoveSecret(secret) => &secret.named.shown,
    };
    finish("principal", execute(config, &arguments.command, shown), shown)
}

fn execute(config: Option<&Path>, command: &Command, shown: &Shown) -> Result<Answer, AskError> {
    let edge = &shown.edge;
    let own = |named: &Named| path("principals", &named.name);
    let switch = |named: &Named, enabled: bool| switch((edge, config), &own(named), enabled);
    let remove = |path: &str| remove((edge, config), path);
    match command {
        Command::List { .. } => list((edge, config), ("principals", "name"), rows),
        Command::Show(named) => show((edge, config), &own(named), rows),
        Command::Create { named, expires_in, secret_expires_in } => {
            let mut question = json!({ "name": named.name });
            put(&mut question, "expires_in", expires_in);
            put(&mut question, "secret_expires_in", secret_expires_in);
            edge.ask(config, &format!("{BELOW}/principals"), &question).map(secrets)
        }
        Command::Disable(named) => switch(named, false),
        Command::Enable(named) => switch(named, true),
        Command::Delete(named) => remove(&own(named)),
        Command::Regenerate { secret, expires_in } => {
            let mut question = json!({});
            put(&mut question, "expires_in", expires_in);
            edge.ask(config, &format!("{}/secrets/{}", own(&secret.named), secret.number), &question).map(secrets)
        }
        Command::RemoveSecret(secret) => remove(&format!("{}/secrets/{}", own(&secret.named), secret.number)),
    }
}

/// A field that was given.
pub(super) fn put(question: &mut Value, field: &str, text: &Option<String>) {
    if let Some(text) = text {
        question[field] = json!(text);
    }
}

/// One row for each.
pub(super) fn rows(principals: &[Value]) -> String {
    let heads = ["NAME", "KIND", "", "EXPIRES", "SECRET 1", "SECRET 2"].map(str::to_owned);
    let row = |principal: &Value| {
        let secret = |number: u64| {
            let mut secrets = principal["secrets"].as_array().into_iter().flatten();
            secrets.find(|secret| secret["number"] == number).map_or_else(|| "-".to_owned(), |secret| until(&secret["expires_ms"]))
        };
        let standing = if principal["enabled"] == true { "enabled" } else { "disabled" };
        let is_fixed = principal["kind"] == "fixed";
        let [expires, first, second] =
            if is_fixed { ["-"; 3].map(str::to_owned) } else { [until(&principal["expires_ms"]), secret(1), secret(2)] };
        [word(&principal["name"]).to_owned(), word(&principal["kind"]).to_owned(), standing.to_owned(), expires, first, second]
    };
    columns(&std::iter::once(heads).chain(principals.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tell_which_secrets_there_are() {
        let principals = [
            json!({"name": "ci", "kind": "service", "enabled": false, "secrets": [{"number": 2, "created_ms": 1, "expires_ms": 2}]}),
            json!({"name": "root", "kind": "fixed", "enabled": true, "secrets": []}),
        ];
        let expected = "NAME  KIND               EXPIRES        SECRET 1  SECRET 2\n\
                        ci    service  disabled  never expires  -         expired\n\
                        root  fixed    enabled   -              -         -\n";
        assert_eq!(rows(&principals), expected);
    }
}
