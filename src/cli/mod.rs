//! The command line: one file or folder for each command.

mod admin;
mod ask;
mod audit;
mod check;
mod columns;
mod conflicts;
mod content;
mod credential_provider;
mod credentials;
pub mod demo;
mod forwards;
mod governing;
mod logging;
mod login;
mod logs;
mod mirror_config;
mod offload;
mod prefetch;
mod principal;
mod refresh;
mod region;
mod role;
mod rule;
mod search;
mod serve;
mod status;
mod top;
mod verify;
mod wait;
mod web;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit codes (sysexits.h where it has one).
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 64;
pub const UNAVAILABLE: u8 = 69;
pub const TRY_AGAIN: u8 = 75;

/// A registry pull-through proxy: serves images from its cache, and from the origin registries what it does not have.
#[derive(Debug, Parser)]
#[command(version, after_help = "Without a command the edge is started.\n\nExample:\n  outport --config /etc/outport/outport.toml serve")]
pub struct Arguments {
    /// The configuration; else $OUTPORT_CONFIG, else built-in defaults for a try on one machine
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the edge
    #[command(after_help = "Example:\n  outport --config outport.toml serve")]
    Serve,
    /// Check the configuration: every error at once, exit code 64 if there is one
    #[command(after_help = "Example:\n  outport --config outport.toml check")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// See three regions work together: everything in this process, nothing leaves this machine, nothing stays
    #[command(after_help = "Examples:\n  outport demo\n  outport demo --keep\n  outport demo --json | jq .measurements")]
    Demo(demo::Arguments),
    /// Fetch images whole before anyone asks for them
    #[command(after_help = "Examples:\n  outport prefetch --platform linux/amd64 docker.io/library/debian:12\n  outport prefetch --list")]
    Prefetch(prefetch::Arguments),
    /// Ask the upstream now what a tag points to
    #[command(after_help = "Example:\n  outport refresh docker.io/library/debian:12")]
    Refresh(refresh::Arguments),
    /// List the pushes that an edge has not passed on to their upstream yet, and why
    #[command(after_help = "Example:\n  outport --config outport.toml forwards")]
    Forwards(ask::Shown),
    /// The regions that replicate with each other: list them, join, leave, declare one lost, begin anew
    #[command(
        after_help = "Example:\n  outport --config outport.toml region list\n  outport --config outport.toml region lost us-east --yes"
    )]
    Region(region::Arguments),
    /// Wait until regions have an image: all its bytes, or the knowledge of it
    #[command(
        after_help = "Examples:\n  outport wait team/app:v1 --regions all --timeout 5m\n  outport wait team/app:v1 --regions us,ap --hold known\n\nExit codes: 0 they have it, 1 no such image, 64 usage, 69 the edge cannot be asked, 75 not in time"
    )]
    Wait(wait::Arguments),
    /// Show an edge, the other regions as it sees them, and what waits
    #[command(after_help = "Example:\n  outport --config outport.toml status")]
    Status(ask::Shown),
    /// Show what upstreams were spared: what clients got, and what the upstreams were asked for
    #[command(after_help = "Example:\n  outport --config outport.toml offload")]
    Offload(ask::Shown),
    /// Who is told what happens to images: list receivers, try one, show what became of events
    #[command(subcommand, after_help = webhook::EXAMPLES)]
    Webhook(webhook::Arguments),
    /// Search the record of who did what, in all regions
    #[command(
        after_help = "Examples:\n  outport --config outport.toml audit --since 2h --outcome denied\n  outport audit --repository 'team/**' --action push --json\n  outport audit --follow"
    )]
    Audit(audit::Arguments),
    /// Show the last lines of an edge's log, or search the logs of all edges and regions
    #[command(
        after_help = "Examples:\n  outport logs -n 50 --no-requests\n  outport logs --follow\n  outport logs --since 2h --level warn\n  outport logs --since 1d --principal ci --repository 'team/**' --status 5xx --json\n\nWhoever may read the audit record may read it. A search finds what edges with log.central = true have kept."
    )]
    Logs(logs::Arguments),
    /// Show who asks an edge how much: clients, principals and repositories
    #[command(
        after_help = "Examples:\n  outport --config outport.toml top\n  outport top --by client --measure bytes --window hour\n  outport top --watch\n\nA client is an address, of IPv6 a /64. Who has not signed in is no principal."
    )]
    Top(top::Arguments),
    /// List the tags that regions set without having seen each other's
    #[command(after_help = "Example:\n  outport --config outport.toml conflicts")]
    Conflicts(ask::Shown),
    /// Show repositories, or delete one whole
    #[command(
        subcommand,
        after_help = "Examples:\n  outport repo list\n  outport repo show team/app\n  outport repo delete team/old --yes"
    )]
    Repo(content::Repo),
    /// Show tags, or take one away
    #[command(subcommand, after_help = "Examples:\n  outport tag list team/app --newest\n  outport tag delete team/app:old")]
    Tag(content::Tag),
    /// Lock a repository, a tag or a manifest in every region: against writing and deleting, if nothing else is named
    #[command(
        after_help = "Examples:\n  outport lock team/app:v1\n  outport lock team/app --delete\n  outport lock team/app:beta --read --list"
    )]
    Lock(content::Lock),
    /// Unlock it: all that a lock keeps from being done, if nothing else is named
    #[command(after_help = "Example:\n  outport unlock team/app:v1")]
    Unlock(content::Lock),
    /// Sign in to a registry and leave a credential for docker, podman, skopeo and Helm
    #[command(
        after_help = "Examples:\n  outport login registry.example.com\n  az account get-access-token --query accessToken --output tsv | outport login registry.example.com --token-stdin\n\nThe credential goes to docker's config.json (in $DOCKER_CONFIG, else ~/.docker) or to the helper that it names.\n\nExit codes: 0 signed in, 1 refused, 64 usage, 69 a server cannot be asked, 75 it could not tell"
    )]
    Login(login::Arguments),
    /// Remove what login has left
    #[command(after_help = "Example:\n  outport logout registry.example.com")]
    Logout(login::LogoutArguments),
    /// Give the kubelet credentials for a pod's images: its credential provider plugin
    #[command(after_help = credential_provider::HELP)]
    CredentialProvider(credential_provider::Arguments),
    /// Principals for pipelines: create, list, disable, replace a secret
    ///
    /// Changing them takes the role Owner. The first owner comes from the configuration: a [[principal]], and a [[role]] with
    /// role = "Owner" and its name in principals.
    #[command(after_help = principal::EXAMPLES)]
    Principal(principal::Arguments),
    /// Who has which role: list, assign, revoke
    ///
    /// Assigning takes the role Owner. The first owner comes from the configuration: a [[principal]], and a [[role]] with
    /// role = "Owner" and its name in principals.
    #[command(after_help = role::EXAMPLES)]
    Role(role::Arguments),
    /// From where callers may come: list, add, remove network rules
    #[command(after_help = rule::EXAMPLES)]
    Rule(rule::Arguments),
    /// The admin user, off until it is enabled: it may do everything to every repository, and nothing else
    #[command(after_help = admin::EXAMPLES)]
    Admin(admin::Arguments),
    /// Hash every cached blob again; the edge must be stopped
    #[command(after_help = "Example:\n  outport --config outport.toml verify")]
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write what containerd, podman or docker need to pull through an edge
    #[command(
        after_help = "Example:\n  outport mirror-config --edge https://edge.example.com --output /etc/containerd/certs.d\n  outport mirror-config --edge https://edge.example.com --output /etc/containerd/certs.d --default-only --hold\n  outport mirror-config --edge https://eu.example.com --edge https://us.example.com --nearest --output /etc/containerd/certs.d\n  outport mirror-config --output /etc/containerd/certs.d --remove"
    )]
    MirrorConfig(mirror_config::Arguments),
}

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> ExitCode {
    let config = arguments.config.as_deref();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config),
        Command::Check { json } => check::run(config, json),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Prefetch(arguments) => prefetch::run(config, &arguments),
        Command::Refresh(arguments) => refresh::run(config, &arguments),
        Command::Forwards(arguments) => forwards::run(config, &arguments),
        Command::Region(arguments) => region::run(config, &arguments),
        Command::Wait(arguments) => wait::run(config, &arguments),
        Command::Status(arguments) => status::run(config, &arguments),
        Command::Offload(arguments) => offload::run(config, &arguments),
        Command::Webhook(arguments) => webhook::run(config, &arguments),
        Command::Audit(arguments) => audit::run(config, &arguments),
        Command::Logs(arguments) => logs::run(config, &arguments),
        Command::Top(arguments) => top::run(config, &arguments),
        Command::Conflicts(arguments) => conflicts::run(config, &arguments),
        Command::Repo(command) => content::repo(config, &command),
        Command::Tag(command) => content::tag(config, &command),
        Command::Lock(arguments) => content::lock(config, &arguments),
        Command::Unlock(arguments) => content::unlock(config, &arguments),
        Command::Login(arguments) => login::run(&arguments),
        Command::Logout(arguments) => login::run_logout(&arguments),
        Command::CredentialProvider(arguments) => credential_provider::run(&arguments),
        Command::Principal(arguments) => principal::run(config, &arguments),
        Command::Role(arguments) => role::run(config, &arguments),
        Command::Rule(arguments) => rule::run(config, &arguments),
        Command::Admin(arguments) => admin::run(config, &arguments),
        Command::Verify { json } => verify::run(config, json),
        Command::MirrorConfig(arguments) => mirror_config::run(config, &arguments),
    }
}
