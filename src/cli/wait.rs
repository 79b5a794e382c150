//! `outport wait`: ends when regions have an image. A gate for pipelines.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ask::{AskError, Edge};
use super::columns::{age, bar, columns, in_query, size};
use crate::clock::{Clock, Timestamp};
use crate::config::{DurationError, parse_duration};

/// How long one question takes at most: on a terminal what is missing is shown after each.
const STEP: Duration = Duration::from_secs(1);
const LONG_STEP: Duration = Duration::from_secs(60);
/// Between two questions at least, should the edge not wait.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image
    #[arg(required_unless_present = "position", conflicts_with = "position")]
    image: Option<String>,
    /// Instead of an image the Outport-Position that a push was answered with, as REGION.INCARNATION@N
    #[arg(long, conflicts_with = "hold")]
    position: Option<String>,
    /// In all regions, in so many (the edge's own counts), or in these, with commas between them
    #[arg(long, default_value = "all", value_name = "all|N|NAME,NAME")]
    regions: String,
    /// What a region must have: the knowledge of the image, or all its bytes
    #[arg(long, value_enum, default_value_t = Hold::Bytes)]
    hold: Hold,
    /// How long to wait
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    edge: Edge,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Known,
    Bytes,
}

fn duration(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text)
}

impl Arguments {
    /// Where to ask for so long.
    fn path(&self, time: Duration) -> String {
        let what = match (&self.image, &self.position) {
            (_, Some(position)) => format!("position={}", in_query(position)),
            (image, None) => {
                let hold = if self.hold == Hold::Known { "known" } else { "bytes" };
                format!("image={}&hold={hold}", in_query(image.as_deref().unwrap_or_default()))
            }
        };
        format!("/outport/v1/wait?{what}&regions={}&timeout={}ms", in_query(&self.regions), time.as_millis())
    }

    fn name(&self) -> &str {
        self.position.as_deref().or(self.image.as_deref()).unwrap_or_default()
    }
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    match wait(config, arguments) {
        Ok(receipt) if arguments.json => println!("{receipt}"),
        Ok(receipt) => print!("{}", shown(&receipt, Clock::system().now())),
        Err(error) => {
            eprintln!("outport wait: {}: {error}", arguments.name());
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

/// Asks until the time is over: an edge that cannot tell just now may later.
fn wait(config: Option<&Path>, arguments: &Arguments) -> Result<Value, AskError> {
    let mut progress = Progress::start();
    let deadline = Instant::now() + arguments.timeout;
    loop {
        let asked = Instant::now();
        let left = deadline.saturating_duration_since(asked);
        let answer = arguments.edge.read(config, &arguments.path(left.min(progress.step())));
        match answer {
            Err(AskError::TryAgain(why)) if Instant::now() < deadline => progress.show(&why),
            answer => {
                progress.clear();
                return answer;
            }
        }
        let pause = PAUSE.saturating_sub(asked.elapsed()).min(deadline.saturating_duration_since(Instant::now()));
        std::thread::sleep(pause);
    }
}

/// One line on a terminal that says what is missing, and since when.
struct Progress {
    is_terminal: bool,
    started: Instant,
}

impl Progress {
    fn start() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), started: Instant::now() }
    }

    fn step(&self) -> Duration {
        if self.is_terminal { STEP } else { LONG_STEP }
    }

    fn show(&mut self, what: &str) {
        self.write(&format!("{:>4}s  {what}", self.started.elapsed().as_secs()));
    }

    fn clear(&mut self) {
        self.write("");
    }

    /// Replaces the line. A terminal that is gone is none of ours.
    fn write(&mut self, line: &str) {
        if self.is_terminal {
            let mut stderr = std::io::stderr();
            let _ = write!(stderr, "\r\x1b[2K{line}");
            let _ = stderr.flush();
        }
    }
}

/// The image, and one line for each region.
fn shown(receipt: &Value, now: Timestamp) -> String {
    let position = receipt["position"].as_str().unwrap_or("?");
    let head = match receipt["digest"].as_str() {
        Some(digest) => format!("{digest}, {}, pushed as {position}\n", size(receipt["bytes_total"].as_u64().unwrap_or_default())),
        None => format!("{position}\n"),
    };
    let regions = receipt["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<[String; 4]> = regions.iter().map(|region| row(region, now)).collect();
    head + &columns(&rows)
}

fn row(region: &Value, now: Timestamp) -> [String; 4] {
    let known = match (region["known"].as_bool(), age(&region["known_at_ms"], now)) {
        (None, _) => match age(&region["blind_since_ms"], now) {
            Some(since) => format!("not heard of for {since}"),
            None => "cannot tell".to_owned(),
        },
        (Some(false), _) => "not known".to_owned(),
        (Some(true), Some(since)) => format!("known for {since}"),
        (Some(true), None) => "known".to_owned(),
    };
    let (bytes, bar) = match (region["bytes_held"].as_u64(), region["bytes_total"].as_u64()) {
        (Some(held), Some(total)) => (format!("{} of {}", size(held), size(total)), bar(held, total)),
        _ => Default::default(),
    };
    [region["region"].as_str().unwrap_or("?").to_owned(), known, bytes, bar]
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Option<Arguments> {
        Alone::try_parse_from(std::iter::once("wait").chain(line.split_whitespace())).ok().map(|alone| alone.arguments)
    }

    #[test]
    fn arguments_become_a_question() {
        for (line, path) in [
            ("team/app:v1", Some("/outport/v1/wait?image=team%2Fapp%3Av1&hold=bytes&regions=all&timeout=300000ms")),
            (
                "team/app --hold known --regions us,ap --timeout 1500ms",
                Some("/outport/v1/wait?image=team%2Fapp&hold=known&regions=us%2Cap&timeout=1500ms"),
            ),
            ("--position eu.01@7 --timeout 1s", Some("/outport/v1/wait?position=eu.01%407&regions=all&timeout=1000ms")),
            ("", None),
            ("a --position eu.01@7", None),
            ("a --timeout 5", None),
        ] {
            assert_eq!(parsed(line).map(|arguments| arguments.path(arguments.timeout)).as_deref(), path, "{line}");
        }
    }

    #[test]
    fn a_receipt_has_a_line_for_each_region() {
        let regions = json!([
            {"region": "eu", "visible": true, "known": true, "known_at_ms": 1_000, "bytes_held": 2048, "bytes_total": 2048},
            {"region": "us-east", "visible": true, "known": false, "bytes_held": 1024, "bytes_total": 2048},
            {"region": "ap", "visible": false, "known": null, "blind_since_ms": 4_000, "bytes_held": 0, "bytes_total": 2048},
        ]);
        let image = json!({"digest": "sha256:0", "position": "eu.01@7", "bytes_total": 2048, "regions": regions});
        assert_eq!(
            shown(&image, Timestamp::from_ms(9_000)),
            "sha256:0, 2.0 KiB, pushed as eu.01@7\n\
             eu       known for 8s         2.0 KiB of 2.0 KiB  ██████████\n\
             us-east  not known            1.0 KiB of 2.0 KiB  █████░░░░░\n\
             ap       not heard of for 5s  0 B of 2.0 KiB      ░░░░░░░░░░\n"
        );
        let position = json!({"position": "eu.01@7", "regions": [{"region": "eu", "visible": true, "known": true}]});
        assert_eq!(shown(&position, Timestamp::from_ms(0)), "eu.01@7\neu  known\n");
    }
}
