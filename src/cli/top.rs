//! `outport top`: who asks an edge how much.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::ask::{AskError, Shown};
use super::columns::{columns, list, printable, size, word};
use crate::clock::{Clock, Timestamp};
use crate::config::show_duration;
use crate::http::{MAX_NAMES, NAMES};
use crate::traffic::{By, Measure, Window};

/// Between two looks while it is watched.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The cursor goes home, and what stands on the screen goes (ECMA-48).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    shown: Shown,
    /// client, principal or repository; else all three
    #[arg(long, value_name = "WORD")]
    by: Option<By>,
    /// requests or bytes
    #[arg(long, value_name = "WORD", default_value = "requests")]
    measure: Measure,
    /// The last minute, hour or day
    #[arg(long, value_name = "WORD", default_value = "minute")]
    window: Window,
    /// Names in each table, at most
    #[arg(short = 'n', value_name = "COUNT", default_value_t = NAMES, value_parser = count)]
    most: usize,
    /// Go on and show it anew every two seconds
    #[arg(long)]
    watch: bool,
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=MAX_NAMES).contains(count)).ok_or_else(|| format!("a number from 1 to {MAX_NAMES}"))
}

impl Arguments {
    fn path(&self) -> String {
        let by = self.by.map(|by| format!("&by={}", by.as_str())).unwrap_or_default();
        format!("/outport/v1/top?measure={}&window={}&n={}{by}", self.measure.as_str(), self.window.as_str(), self.most)
    }
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    match show(config, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outport top: {error}");
            error.exit_code()
        }
    }
}

/// Watched, it ends with an error, or when somebody ends it.
fn show(config: Option<&Path>, arguments: &Arguments) -> Result<(), AskError> {
    let clears = arguments.watch && !arguments.shown.json && std::io::stdout().is_terminal();
    loop {
        let answer = arguments.shown.edge.read(config, &arguments.path())?;
        if clears {
            print!("{CLEAR}");
        }
        if arguments.shown.json {
            println!("{answer}");
        } else {
            print!("{}", screen(&answer, Clock::system().now()));
        }
        if !arguments.watch {
            return Ok(());
        }
        sleep(WATCH_EVERY);
        if !clears && !arguments.shown.json {
            println!();
        }
    }
}

fn screen(answer: &Value, now: Timestamp) -> String {
    let is_bytes = answer["measure"] == Measure::Bytes.as_str();
    list(&answer["tables"]).iter().map(|found| table(found, is_bytes, now)).collect::<Vec<_>>().join("\n")
}

fn table(found: &Value, is_bytes: bool, now: Timestamp) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let amount = |count: u64| if is_bytes { size(count) } else { count.to_string() };
    let (total, error) = (number(&found["total"]), number(&found["error"]));
    let names = list(&found["names"]);
    let since = now.since(Timestamp::from_ms(number(&found["since_ms"])));
    let since = show_duration(Duration::from_secs(since.as_secs().max(1)));
    let heads = [word(&found["by"]).to_uppercase(), if is_bytes { "BYTES" } else { "REQUESTS" }.to_owned(), "SHARE".to_owned()];
    let row = |name: &Value| {
        let share = format!("{:.1} %", name["share"].as_f64().unwrap_or_default() * 100.0);
        [printable(word(&name["name"])), amount(number(&name["count"])), share]
    };
    let all = [format!("all, in {since}"), amount(total), String::new()];
    let mut text = columns(&std::iter::once(heads).chain(names.iter().map(row)).chain([all]).collect::<Vec<_>>());
    if error > 0 {
        text.push_str(&format!("each may have {} more than is counted\n", amount(error)));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    fn answer(measure: &str) -> Value {
        let names = json!([{"name": "10.0.0.1", "count": 2_048, "share": 0.5}, {"name": "\u{1b}[2J", "count": 1, "share": 0.000_2}]);
        json!({"measure": measure, "window": "minute", "tables": [
            {"by": "client", "names": names, "total": 4_096, "error": 7, "since_ms": 1_000},
            {"by": "principal", "names": [], "total": 0, "error": 0, "since_ms": 1_000},
        ]})
    }

    #[test]
    fn tables_stand_below_each_other() {
        assert_eq!(
            screen(&answer("requests"), Timestamp::from_ms(61_000)),
            "CLIENT      REQUESTS  SHARE\n\
             10.0.0.1    2048      50.0 %\n\
             \\u{1b}[2J   1         0.0 %\n\
             all, in 1m  4096\n\
             each may have 7 more than is counted\n\n\
             PRINCIPAL   REQUESTS  SHARE\n\
             all, in 1m  0\n"
        );
        let bytes = screen(&answer("bytes"), Timestamp::from_ms(61_000));
        assert!(bytes.contains("BYTES") && bytes.contains("2.0 KiB") && bytes.contains("each may have 7 B more"), "{bytes}");
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_is_asked_for_stands_in_the_path() {
        let path = |arguments: &[&str]| Line::try_parse_from(["top"].iter().chain(arguments)).map(|line| line.arguments.path()).ok();
        let is = |path: &str| Some(format!("/outport/v1/top?{path}"));
        assert_eq!(path(&[]), is("measure=requests&window=minute&n=10"));
        assert_eq!(
            path(&["--by", "principal", "--measure", "bytes", "--window", "day", "-n", "3"]),
            is("measure=bytes&window=day&n=3&by=principal")
        );
        for wrong in [["--by", "tag"], ["--measure", "time"], ["--window", "year"], ["-n", "0"], ["-n", "101"]] {
            assert_eq!(path(&wrong), None, "{wrong:?}");
        }
    }
}
