//! `outport region`: the life of regions. It reads and writes the own region's bucket as one more node would, so it needs no edge that
//! runs, and who may use the bucket may use it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use super::{FAILED, TRY_AGAIN, UNAVAILABLE, USAGE};
use crate::access::Principal;
use crate::audit::{self, Outcome, record_in};
use crate::clock::Clock;
use crate::config::{Config, process_environment};
use crate::edge::Edge;
use crate::ledger::{Event, Ledger, Origin, Recovered, Standing, VersionVector};
use crate::metrics::Metrics;
use crate::region::{Open, Region};
use crate::replication::{Nodes, Surveyed, inherit, survey};

/// Between two looks while something is waited for.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the regions, how they stand, and how much of this one they have seen
    #[command(after_help = "Example:\n  outport --config outport.toml region list")]
    List,
    /// Check that this region and its peers reach each other, and wait until its edges have what the others had; they serve meanwhile
    #[command(after_help = "Example:\n  outport --config outport.toml region join --timeout 10m")]
    Join(Patience),
    /// Drain this region: others copy what only it has; then it is no member any more, and its edges can be stopped
    #[command(after_help = "Example:\n  outport --config outport.toml region leave --yes --timeout 2h")]
    Leave {
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        patience: Patience,
    },
    /// Declare another region lost: nothing of it counts any more but what a survivor has
    #[command(after_help = "Example:\n  outport --config outport.toml region lost us-east --yes")]
    Lost {
        region: String,
        #[command(flatten)]
        sure: Sure,
        /// A region that cannot be asked either; what only it has seen of the lost one may come back later
        #[arg(long, value_name = "REGION")]
        without: Vec<String>,
    },
    /// Begin a new incarnation of this region, as after its bucket was set back to a backup; its edges restart in it by themselves
    #[command(after_help = "Example:\n  outport --config outport.toml region renew --yes")]
    Renew(Sure),
}

#[derive(Debug, clap::Args)]
struct Sure {
    /// Do it: without this, what would be done is told
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct Patience {
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text).map_err(|why| why.to_string())
}

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
enum RegionError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    TryAgain(String),
    #[error("{0}")]
    Failed(String),
}

impl RegionError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            RegionError::Usage(_) => USAGE,
            RegionError::Unavailable(_) => UNAVAILABLE,
            RegionError::TryAgain(_) => TRY_AGAIN,
            RegionError::Failed(_) => FAILED,
        })
    }
}

fn unavailable(why: impl std::fmt::Display) -> RegionError {
    RegionError::Unavailable(why.to_string())
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let config = match Config::load(config, &process_environment) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(USAGE);
        }
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unavailable)
        .and_then(|runtime| runtime.block_on(execute(&config, arguments)));
    match outcome {
        Ok(answer) => {
            let text = if arguments.json { answer.json.to_string() } else { answer.text };
            // Nobody may be reading.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("outport region: {error}");
            error.exit_code()
        }
    }
}

/// What is printed.
struct Answer {
    text: String,
    json: Value,
}

async fn execute(config: &Config, arguments: &Arguments) -> Result<Answer, RegionError> {
    let region = Edge::reach_region(config, Metrics::new()).await.map_err(unavailable)?;
    let open = region.get().map_err(unavailable)?;
    let told = |vector: &VersionVector| progress(&format!("reading what the bucket has: {} segments so far", vector.segments()));
    open.ledger.read_to_end(told).await.map_err(unavailable)?;
    let began = Instant::now();
    let done = match &arguments.command {
        Command::List => list(&region, open).await,
        Command::Join(patience) => join(&region, open, patience.timeout).await,
        Command::Leave { sure, patience } => leave(open, sure, patience.timeout).await,
        Command::Lost { region: name, sure, without } => lost(&region, open, (name, without), sure).await,
        Command::Renew(sure) => renew(config, &region, open, sure).await,
    };
    if let Some(event) = event(&arguments.command, done.as_ref().err(), began.elapsed())
        && config.audit.enabled
        && let Err(error) = record_in(&open.bucket, &Clock::system(), event).await
    {
        eprintln!("outport region: the audit record has no entry of this: {error}");
    }
    done
}

/// What a command that changes something leaves in the audit record: who may use the bucket needs no other right.
fn event(command: &Command, error: Option<&RegionError>, took: Duration) -> Option<audit::Event> {
    let (word, of) = match command {
        Command::List | Command::Join(_) => return None,
        Command::Leave { sure, .. } if sure.yes => ("leave", None),
        Command::Lost { region, sure, .. } if sure.yes => ("lost", Some(region.clone())),
        Command::Renew(sure) if sure.yes => ("renew", None),
        Command::Leave { .. } | Command::Lost { .. } | Command::Renew(_) => return None,
    };
    Some(audit::Event {
        request: Ulid::generate().to_string(),
        principal: Principal::Named("operator".into()),
        proof: "bucket".into(),
        address: None,
        agent: None,
        action: "region".into(),
        route: word.into(),
        method: "command".into(),
        upstream: None,
        repository: None,
        reference: of,
        digest: None,
        detail: None,
        bytes: 0,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        status: 0,
        outcome: if error.is_some() { Outcome::Failed } else { Outcome::Allowed },
        why: error.map(|error| error.to_string().into()),
    })
}

async fn list(region: &Region, open: &Open) -> Result<Answer, RegionError> {
    let asked = survey(region).await;
    let (own, vector) = (open.ledger.origin(), open.ledger.vector().map_err(unavailable)?);
    let members = open.ledger.members().map_err(unavailable)?;
    let mut rows = Vec::new();
    let mut origins: Vec<Origin> = members.iter().map(|member| member.origin.clone()).collect();
    origins.extend(vector.iter().map(|(origin, _)| origin.clone()));
    origins.sort();
    origins.dedup();
    for origin in origins {
        let standing = members.iter().find(|member| member.origin == origin).map(|member| member.standing);
        let cut = open.ledger.cut(&origin).map_err(unavailable)?;
        let now = asked.iter().find(|asked| *asked.region == *origin.region && origin != *own);
        let told = now.map(|now| now.standing.as_ref());
        rows.push(json!({
            "region": &*origin.region,
            "incarnation": &*origin.incarnation,
            "standing": words(standing, cut),
            "folded_here": vector.get(&origin),
            "ends_at": told.and_then(|told| told.ok()).filter(|standing| standing.origin == origin).and_then(|standing| standing.tail),
            "has_of_this_one": told.and_then(|told| told.ok()).map(|standing| standing.seen.get(own)),
            "cannot_be_asked": told.and_then(|told| told.err()),
            "lost_behind": cut,
        }));
    }
    Ok(Answer { text: table(&rows, own), json: json!({ "region": &*own.region, "regions": rows }) })
}

fn words(standing: Option<Standing>, cut: Option<u64>) -> &'static str {
    match (standing, cut) {
        (_, Some(_)) => "lost",
        (Some(Standing::Joined), None) => "joined",
        (Some(Standing::Leaving), None) => "leaving",
        (Some(Standing::Removed), None) => "removed",
        (None, None) => "unknown",
    }
}

fn table(rows: &[Value], own: &Origin) -> String {
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    let mut lines =
        vec![format!("{:<12} {:<26} {:<9} {:>10} {:>10} {:>12}", "REGION", "INCARNATION", "STANDING", "FOLDED", "ENDS AT", "HAS OF OURS")];
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let is_own = text("region") == *own.region && text("incarnation") == *own.incarnation;
        let note = match row["cannot_be_asked"].as_str() {
            Some(why) => format!("  cannot be asked: {why}"),
            None if is_own => "  this region".to_owned(),
            None => String::new(),
        };
        lines.push(format!(
            "{:<12} {:<26} {:<9} {:>10} {:>10} {:>12}{note}",
            text("region"),
            text("incarnation"),
            text("standing"),
            number(&row["folded_here"]),
            number(&row["ends_at"]),
            number(&row["has_of_this_one"]),
        ));
    }
    lines.join("\n")
}

/// Who was asked and where they stand, or who could not be.
fn all_reached(asked: &[Surveyed], without: &[String]) -> Result<BTreeMap<String, VersionVector>, RegionError> {
    let mut seen = BTreeMap::new();
    for Surveyed { region, standing } in asked.iter().filter(|asked| !without.contains(&asked.region.to_string())) {
        match standing {
            Ok(standing) => drop(seen.insert(region.to_string(), standing.seen.clone())),
            Err(why) => return Err(RegionError::TryAgain(format!("{region} cannot be asked: {why}"))),
        }
    }
    Ok(seen)
}

async fn join(region: &Region, open: &Open, timeout: Duration) -> Result<Answer, RegionError> {
    if region.peers().is_empty() {
        return Err(RegionError::Usage("there is no [[peer]] in the configuration to join".to_owned()));
    }
    let asked = survey(region).await;
    all_reached(&asked, &[])?;
    let mut goal = VersionVector::default();
    for standing in asked.iter().filter_map(|asked| asked.standing.as_ref().ok()) {
        goal.raise(standing.origin.clone(), standing.tail.unwrap_or_default());
    }
    let deadline = Instant::now() + timeout;
    loop {
        // A snapshot that was taken over takes long to read.
        open.ledger.read_to_end(|_| ()).await.map_err(unavailable)?;
        let vector = open.ledger.vector().map_err(unavailable)?;
        let (have, want) = goal.iter().fold((0, 0), |(have, want), (origin, seq)| (have + vector.get(origin).min(seq), want + seq));
        progress(&format!("{have} of {want} segments of {} regions", region.peers().len()));
        if have >= want {
            let text = format!("\rjoined: this region has what the others had when it was asked ({want} segments)");
            return Ok(Answer { text, json: json!({ "joined": true, "segments": want }) });
        }
        if Instant::now() >= deadline {
            return Err(RegionError::TryAgain(format!("{have} of {want} segments are here: are edges of this region running?")));
        }
        sleep(PAUSE).await;
    }
}

async fn leave(open: &Open, sure: &Sure, timeout: Duration) -> Result<Answer, RegionError> {
    let own = open.ledger.origin().clone();
    let (contents, bytes) = open.ledger.held_alone().map_err(unavailable)?;
    if !sure.yes {
        return Err(RegionError::Usage(format!(
            "{} would take no more pushes, and others would copy {contents} contents ({bytes} bytes) that only it has. Say --yes to do it",
            own.region
        )));
    }
    stand(&open.ledger, &own, Standing::Leaving).await?;
    let deadline = Instant::now() + timeout;
    loop {
        // A snapshot that was taken over takes long to read.
        open.ledger.read_to_end(|_| ()).await.map_err(unavailable)?;
        let (contents, bytes) = open.ledger.held_alone().map_err(unavailable)?;
        progress(&format!("{contents} contents ({bytes} bytes) are nowhere else yet"));
        if contents == 0 {
            break;
        }
        if Instant::now() >= deadline {
            return Err(RegionError::TryAgain(format!("{contents} contents ({bytes} bytes) are nowhere else yet; it goes on leaving")));
        }
        sleep(PAUSE).await;
    }
    stand(&open.ledger, &own, Standing::Removed).await?;
    let text = format!("\r{} has left: others have all that it had. Its edges can be stopped", own.region);
    Ok(Answer { text, json: json!({ "left": &*own.region }) })
}

async fn stand(ledger: &Ledger, origin: &Origin, standing: Standing) -> Result<(), RegionError> {
    let event = Event::Member { origin: origin.clone(), standing };
    ledger.append(vec![event]).await.map(drop).map_err(unavailable)
}

async fn lost(region: &Region, open: &Open, (name, without): (&str, &[String]), sure: &Sure) -> Result<Answer, RegionError> {
    let own = open.ledger.origin();
    if *own.region == *name {
        return Err(RegionError::Usage("a region is declared lost by another one".to_owned()));
    }
    let known = open.ledger.incarnation_of(name).map_err(unavailable)?;
    let origin = known.ok_or_else(|| RegionError::Failed(format!("nothing of {name} was ever seen here")))?;
    let asked: Vec<Surveyed> = survey(region).await.into_iter().filter(|asked| *asked.region != *name).collect();
    let seen = all_reached(&asked, without)?;
    let here = open.ledger.vector().map_err(unavailable)?.get(&origin);
    let cut = seen.values().map(|seen| seen.get(&origin)).fold(here, u64::max);
    if !sure.yes {
        return Err(RegionError::Usage(format!(
            "{name} would be lost behind segment {cut}, the last that {} regions have of it. Say --yes to do it",
            seen.len() + 1
        )));
    }
    let events = vec![Event::Lost { origin: origin.clone(), cut }, Event::Member { origin: origin.clone(), standing: Standing::Removed }];
    open.ledger.append(events).await.map_err(unavailable)?;
    let text = format!("{name} is lost behind segment {cut}; when it comes back it begins anew, and takes its later pushes with it");
    Ok(Answer { text, json: json!({ "lost": origin.to_string(), "cut": cut }) })
}

async fn renew(config: &Config, region: &Region, open: &Open, sure: &Sure) -> Result<Answer, RegionError> {
    for standing in survey(region).await.into_iter().filter_map(|asked| asked.standing.ok()) {
        open.ledger.compare_with(&standing.seen);
    }
    let fenced = open.ledger.fenced().map_err(unavailable)?;
    if !sure.yes {
        let why = fenced.unwrap_or_else(|| "nothing asks for it".to_owned());
        return Err(RegionError::Usage(format!("a new incarnation of {} would begin ({why}). Say --yes to do it", open.ledger.origin())));
    }
    open.bucket.begin_incarnation().await.map_err(unavailable)?;
    let anew = Edge::reach_region(config, Metrics::new()).await.map_err(unavailable)?;
    let Open { bucket, ledger } = anew.get().map_err(unavailable)?;
    let inherited = inherit(&anew, bucket, ledger, Nodes::One).await;
    let inherited =
        inherited.map_err(|why| RegionError::TryAgain(format!("{} began, and has not taken over yet: {why}", bucket.incarnation())))?;
    let sum = |of: fn(&Recovered) -> u64| inherited.iter().map(of).sum::<u64>();
    let (imported, appended, rejected) = (sum(|one| one.imported), sum(|one| one.appended), sum(|one| one.rejected));
    let text = format!(
        "{} begins anew as {}: {imported} segments of before, {appended} of them appended again, {rejected} of those do not hold any more",
        bucket.region(),
        bucket.incarnation(),
    );
    let json = json!({ "incarnation": bucket.incarnation(), "imported": imported, "appended": appended, "rejected": rejected });
    Ok(Answer { text, json })
}

/// Tells how far it is, to somebody who watches.
fn progress(text: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}
