//! `outport logs`: the last lines of an edge's log, or a search among the lines of all edges and regions that keep them.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Map, Value};

use super::ask::{AskError, Shown};
use super::columns::{list, printable, word};
use super::search::{Window, entries, follow, notes};
use crate::access::Pattern;
use crate::clock::Timestamp;
use crate::journal::{Event, Filter, KEPT_LINES, Level, Query, Statuses};
use crate::records::{Addresses, Entry};

/// Between two looks while the last lines are followed.
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
    #[command(flatten)]
    wanted: Wanted,
}

/// What only a search heeds.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Search (where log.central keeps the lines of all edges)")]
struct Wanted {
    #[command(flatten)]
    window: Window,
    /// So bad, or worse: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    level: Option<Level>,
    /// Requests of somebody; "anonymous" for those who did not sign in
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// A pattern of full names of repositories, such as "team/**"
    #[arg(long, value_name = "PATTERN")]
    repository: Option<Pattern>,
    /// Kinds of requests: manifest, blob, upload, push, delete, tags, ...
    #[arg(long, value_name = "WORD")]
    route: Option<String>,
    /// Requests that were answered so: a status, or a class such as 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<Statuses>,
    /// Requests from an address, or a range of addresses
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Addresses>,
    /// The request of this X-Request-Id
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Lines that say this
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

impl Arguments {
    /// `None` where nothing is said that only a search heeds.
    fn query(&self) -> Option<Query> {
        let wanted = &self.wanted;
        let filter = Filter {
            level: wanted.level,
            principal: wanted.principal.clone(),
            repository: wanted.repository.clone(),
            route: wanted.route.clone(),
            status: wanted.status,
            address: wanted.address,
            request: wanted.request.clone(),
            text: wanted.text.clone(),
            no_requests: false,
        };
        let is_search = wanted.window.is_any() || filter != Filter::default();
        is_search.then(|| wanted.window.query(Filter { no_requests: self.no_requests, ..filter }, self.lines.into()))
    }
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let ask = |query: &Query| arguments.shown.edge.read(config, &format!("/outport/v1/logs?{}", query.to_url()));
    let done = match arguments.query() {
        None => show_last(config, arguments),
        Some(query) if arguments.follow => follow(query, ask, |new| show(arguments, new)),
        Some(query) => ask(&query).map(|answer| show_answer(arguments, &answer)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outport logs: {error}");
            error.exit_code()
        }
    }
}

/// Ends with an error, or when somebody ends it, where it is followed.
fn show_last(config: Option<&Path>, arguments: &Arguments) -> Result<(), AskError> {
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

/// As in a log, the newest last.
fn show_answer(arguments: &Arguments, answer: &Value) {
    if arguments.shown.json {
        println!("{answer}");
    } else {
        let found: Vec<_> = entries(answer).into_iter().rev().collect();
        show(arguments, &found);
        eprint!("{}", notes(answer, "--lines"));
    }
}

fn show(arguments: &Arguments, entries: &[Entry<Event>]) {
    for entry in entries {
        println!("{}", if arguments.shown.json { serde_json::json!(entry).to_string() } else { text_of(entry) });
    }
}

/// As it was written, whatever the log's format.
fn text(line: &Value) -> String {
    let message = printable(word(&line["message"]));
    let Some(at_ms) = line["at_ms"].as_u64() else { return message };
    let (time, level, target) = (Timestamp::from_ms(at_ms).rfc3339(), word(&line["level"]), word(&line["target"]));
    let mut text = format!("{time} {level:>5} {target}: {message}");
    append(&mut text, line["fields"].as_object());
    text
}

/// The same, with its region.
fn text_of(entry: &Entry<Event>) -> String {
    let Event { level, target, message, fields } = &entry.event;
    let (time, region) = (entry.time.rfc3339(), printable(&entry.region));
    let mut text = format!("{time} {region} {:>5} {}:", level.as_str(), printable(target));
    if !message.is_empty() {
        text.push(' ');
        text.push_str(&printable(message));
    }
    append(&mut text, Some(fields));
    if entry.lost > 0 {
        text.push_str(&format!(" ({} lines before it were lost)", entry.lost));
    }
    text
}

fn append(text: &mut String, fields: Option<&Map<String, Value>>) {
    for (name, value) in fields.into_iter().flatten() {
        text.push_str(&format!(" {}={}", printable(name), printable(&value.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(words: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from([&["logs"], words].concat()).map(|line| line.arguments)
    }

    #[test]
    fn a_line_is_shown_as_it_was_written() {
        let line = json!({"number": 1, "at_ms": 1_795_949_111_120_u64, "level": "WARN", "target": "outport::edge", "message": "it is so",
            "fields": {"why": "\u{1b}[2J"}});
        assert_eq!(text(&line), "2026-11-29T10:45:11.120Z  WARN outport::edge: it is so why=\"\\u001b[2J\"");
        assert_eq!(text(&json!({"number": 2, "message": "as it was"})), "as it was");
    }

    #[test]
    fn a_line_that_is_found_is_shown_with_its_region() {
        let entry = json!({"time": "2026-11-29T10:45:11.120Z", "id": "01M8KEH9TG0000000000000001", "region": "eu",
            "node": "01M8KEH9TG0000000000000002", "level": "INFO", "target": "outport::access",
            "fields": {"principal": "ci", "status": 404}});
        let mut worse = entry.clone();
        for (name, value) in [("level", json!("WARN")), ("message", json!("so\n")), ("lost", json!(7)), ("fields", json!({}))] {
            worse[name] = value;
        }
        let shown: Vec<String> = entries(&json!({"entries": [entry, worse]})).iter().map(text_of).collect();
        assert_eq!(
            shown,
            [
                "2026-11-29T10:45:11.120Z eu  INFO outport::access: principal=\"ci\" status=404",
                "2026-11-29T10:45:11.120Z eu  WARN outport::access: so\\u{a} (7 lines before it were lost)"
            ]
        );
    }

    #[test]
    fn a_search_is_what_only_a_search_heeds() {
        for words in [&[][..], &["--no-requests", "-n", "7"], &["--follow"]] {
            assert_eq!(parsed(words).unwrap().query(), None, "{words:?}");
        }
        let query = parsed(&["--since", "1h", "--status", "5xx", "--level", "warn", "--no-requests", "-n", "7"]).unwrap().query();
        assert_eq!(query.unwrap().to_url(), "since=1h&level=warn&status=5xx&requests=no&limit=7");
        assert!(parsed(&["--region", "eu", "--follow"]).unwrap().query().is_some());
        for words in [&["--level", "loud"][..], &["--status", "5"], &["--until", "1h", "--follow"], &["--since", "then"]] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }
}
