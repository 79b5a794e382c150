//! `outport demo`: three regions and an origin in this process, far from one another, and what happens between them.
//!
//! ```text
//! story   the steps, and what must come out of each     tale     what is told, and the table
//! world   four edges with real configurations           link     the distance between them
//! client  a client beside an edge                       image    what it pushes and pulls
//! folder  where all of it lies, for as long as it runs
//! ```
//! Nothing here is known to the edges: they are started as `serve` starts one, and spoken to over HTTP.

mod client;
mod folder;
mod image;
mod link;
mod story;
mod tale;
mod world;

use std::fmt::{Debug, Display};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

pub use folder::Folder;
pub use tale::Row;
use tale::Tale;

use super::FAILED;
use crate::dial::DialError;
use crate::edge::StartError;
use world::{ORIGIN, REGIONS, World};

/// How long what is left may take to end.
const END_TIME: Duration = Duration::from_secs(2);
/// As a shell tells it of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the measurements as JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the configuration of the region eu, and do nothing
    #[arg(long, conflicts_with_all = ["json", "keep"])]
    show_config: bool,
}

/// Why the story did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step came out otherwise than it says.
    #[error("{what}\n  expected: {expected}\n  found:    {found}")]
    Wrong { what: String, expected: String, found: String },
    /// What a step stands on failed.
    #[error("{0}")]
    Broken(String),
    #[error("a temporary folder and free ports are needed: {0}")]
    Io(#[from] io::Error),
    #[error("a request failed: {0}")]
    Dial(#[from] DialError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl DemoError {
    fn wrong(what: &str, expected: impl Display, found: impl Display) -> DemoError {
        DemoError::Wrong { what: what.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }

    fn broken(error: impl Debug + Display) -> DemoError {
        DemoError::Broken(error.to_string())
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    without_proxies().map_err(DemoError::from).and_then(|()| run_here(arguments)).unwrap_or_else(|error| {
        eprintln!("outport: {error}");
        ExitCode::from(FAILED)
    })
}

fn run_here(arguments: &Arguments) -> Result<ExitCode, DemoError> {
    let runtime = tokio::runtime::Runtime::new()?;
    // Signals first: from here on none leaves a folder behind.
    let interrupted = {
        let _inside = runtime.enter();
        interruption()?
    };
    let folder = Folder::create()?;
    let code = runtime.block_on(until_interrupted(arguments, &folder, interrupted));
    // The folder goes when nothing writes there any more.
    runtime.shutdown_timeout(END_TIME);
    code
}

/// All of it stays on this machine. A proxy that the environment names would be asked for the origin, which it cannot reach: this
/// program is started again without it.
fn without_proxies() -> io::Result<()> {
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    if names.iter().all(|name| std::env::var_os(name).is_none_or(|value| value.is_empty())) {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1));
    for name in names {
        again.env_remove(name);
    }
    Err(again.exec())
}

/// Ends with the first SIGINT or SIGTERM after this call.
fn interruption() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn until_interrupted(arguments: &Arguments, folder: &Folder, interrupted: impl Future<Output = ()>) -> Result<ExitCode, DemoError> {
    let mut interrupted = std::pin::pin!(interrupted);
    let done = tokio::select! {
        done = play(arguments, folder) => done?,
        () = &mut interrupted => return Ok(ExitCode::from(INTERRUPTED)),
    };
    if let Some(played) = done {
        interrupted.await;
        played.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what the arguments say. What is returned shall go on running.
async fn play(arguments: &Arguments, folder: &Folder) -> Result<Option<Played>, DemoError> {
    if arguments.show_config {
        print!("{}", World::lay_out(folder.path()).await?.config("eu"));
        return Ok(None);
    }
    let (mut quiet, mut spoken) = (io::sink(), io::stdout());
    let mut played = perform(folder, if arguments.json { &mut quiet } else { &mut spoken }).await?;
    if arguments.json {
        println!("{}", serde_json::json!({ "measurements": played.rows }));
    }
    if !arguments.keep {
        played.stop().await;
        return Ok(None);
    }
    played.world.start_edge(ORIGIN).await?;
    // Standard output has nothing but JSON on it where that is asked for.
    let mut out: Box<dyn Write> = if arguments.json { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let _ = writeln!(out, "{}", invitation(&played.world, folder));
    Ok(Some(played))
}

/// A story that came to its end, and its edges.
pub struct Played {
    world: World,
    pub rows: Vec<Row>,
}

impl Played {
    /// Stops all edges.
    pub async fn stop(self) {
        self.world.stop().await;
    }
}

/// Tells the whole story in `folder`.
///
/// # Errors
/// A step came out otherwise than it says, or could not be done.
pub async fn perform(folder: &Folder, out: &mut (dyn Write + Send)) -> Result<Played, DemoError> {
    let mut tale = Tale::new(out);
    let mut world = World::lay_out(folder.path()).await?;
    story::tell(&mut world, &mut tale).await?;
    Ok(Played { world, rows: tale.finish() })
}

fn invitation(world: &World, folder: &Folder) -> String {
    let places = REGIONS.into_iter().chain([ORIGIN]).map(|name| {
        let (registry, ops) = (world.client(name).base(), world.ops_address(name));
        format!("  {name:6}  registry {registry}   health and metrics {ops}")
    });
    let host = |name| world.client(name).base().trim_start_matches("http://").to_owned();
    format!(
        "\nEverything goes on, with the origin started again, until Ctrl-C:\n{}\n\n\
         Try, with an image of your own:\n\
         \x20 podman push --tls-verify=false IMAGE {}/team/mine:1\n\
         \x20 podman pull --tls-verify=false {}/team/mine:1\n\n\
         The configurations and the buckets are in {}",
        places.collect::<Vec<_>>().join("\n"),
        host("eu"),
        host("ap"),
        folder.path().display()
    )
}
