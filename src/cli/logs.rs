//! `outport logs`: the last lines of an edge's log.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::ask::{AskError, Shown};
use super::columns::{list, printable, word};
use crate::clock::Timestamp;
use crate::journal::KEPT_LINES;

/// Between two looks while it is followed.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    shown: Shown,
    /// Lines, at most: the newest
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=KEPT_LINES as i64))]
    lines: u16,
    /// Leave out the lines of requests
    #[arg(long)]
    no_requests: bool,
    /// Go on and show what is added
    #[arg(long)]
    follow: bool,
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    match show(config, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outport logs: {error}");
            error.exit_code()
        }
    }
}

/// Ends with an error, or when somebody ends it, where it is followed.
fn show(config: Option<&Path>, arguments: &Arguments) -> Result<(), AskError> {
    let requests = if arguments.no_requests { "no" } else { "yes" };
    let mut target = format!("/outport/v1/logs?requests={requests}&lines={}", arguments.lines);
    loop {
        let answer = arguments.shown.edge.read(config, &target)?;
        for line in list(&answer["lines"]) {
            println!("{}", if arguments.shown.json { line.to_string() } else { text(line) });
        }
        if !arguments.follow {
            return Ok(());
        }
        target = format!("/outport/v1/logs?requests={requests}&lines={KEPT_LINES}&after={}", answer["next"]);
        sleep(FOLLOW_EVERY);
    }
}

/// As it was written, whatever the log's format.
fn text(line: &Value) -> String {
    let message = printable(word(&line["message"]));
    let Some(at_ms) = line["at_ms"].as_u64() else { return message };
    let mut text = format!("{} {:>5} {}: {message}", Timestamp::from_ms(at_ms).rfc3339(), word(&line["level"]), word(&line["target"]));
    for (name, value) in line["fields"].as_object().into_iter().flatten() {
        text.push_str(&format!(" {name}={}", printable(&value.to_string())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_shown_as_it_was_written() {
        let line = json!({"number": 1, "at_ms": 1_795_949_111_120_u64, "level": "WARN", "target": "outport::edge", "message": "it is so",
            "fields": {"why": "\u{1b}[2J"}});
        assert_eq!(text(&line), "2026-11-29T10:45:11.120Z  WARN outport::edge: it is so why=\"\\u001b[2J\"");
        assert_eq!(text(&json!({"number": 2, "message": "as it was"})), "as it was");
    }
}
