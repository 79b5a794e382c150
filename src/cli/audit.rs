//! `outport audit`: who did what, in all regions.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::ask::Shown;
use super::columns::{columns, printable, size};
use super::search::{Window, entries, follow, notes};
use crate::access::Pattern;
use crate::audit::{Entry, Filter, Outcome, Query};
use crate::records::{Addresses, LIMIT, MAX_LIMIT};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    window: Window,
    /// Who; "anonymous" for those who did not sign in
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// What: pull, push, delete, list, authenticate, lock, role, ...
    #[arg(long, value_name = "WORD")]
    action: Option<String>,
    /// A pattern of full names of repositories, such as "team/**"
    #[arg(long, value_name = "PATTERN")]
    repository: Option<Pattern>,
    /// allowed, denied or failed
    #[arg(long, value_name = "WORD")]
    outcome: Option<Outcome>,
    /// An address, or a range of addresses
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Addresses>,
    /// Entries, at most: the newest
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT, value_parser = limit)]
    limit: usize,
    /// Go on and show what is added, as it appears
    #[arg(long)]
    follow: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=MAX_LIMIT).contains(count)).ok_or_else(|| format!("a number from 1 to {MAX_LIMIT}"))
}

impl Arguments {
    fn query(&self) -> Query {
        let filter = Filter {
            principal: self.principal.clone(),
            action: self.action.clone(),
            repository: self.repository.clone(),
            outcome: self.outcome,
            address: self.address,
        };
        self.window.query(filter, self.limit)
    }
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let ask = |query: &Query| arguments.shown.edge.read(config, &format!("/outport/v1/audit?{}", query.to_url()));
    let query = arguments.query();
    let done = if arguments.follow {
        follow(query, ask, |new| show(arguments, new))
    } else {
        ask(&query).map(|answer| show_answer(arguments, &answer))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outport audit: {error}");
            error.exit_code()
        }
    }
}

fn show_answer(arguments: &Arguments, answer: &Value) {
    if arguments.shown.json {
        println!("{answer}");
    } else {
        print!("{}", table(&entries(answer)));
        eprint!("{}", notes(answer, "--limit"));
    }
}

fn show(arguments: &Arguments, entries: &[Entry]) {
    if arguments.shown.json {
        entries.iter().for_each(|entry| println!("{}", serde_json::json!(entry)));
    } else {
        print!("{}", rows(entries));
    }
}

const HEADS: [&str; 8] = ["TIME", "REGION", "PRINCIPAL", "ADDRESS", "ACTION", "WHAT", "OUTCOME", ""];

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no such entries\n".to_owned();
    }
    let rows: Vec<[String; 8]> = std::iter::once(HEADS.map(str::to_owned)).chain(entries.iter().map(row)).collect();
    columns(&rows)
}

fn rows(entries: &[Entry]) -> String {
    columns(&entries.iter().map(row).collect::<Vec<_>>())
}

fn row(entry: &Entry) -> [String; 8] {
    let event = &entry.event;
    let repository = event.repository.as_ref().map_or("", |name| name.as_str());
    let what = match &event.reference {
        Some(name) if repository.is_empty() => name.clone(),
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let note = match (event.why.as_ref().or(event.detail.as_ref()), event.bytes) {
        (Some(text), _) => text.to_string(),
        (None, 0) => String::new(),
        (None, bytes) => size(bytes),
    };
    let cells = [
        entry.time.rfc3339(),
        entry.region.to_string(),
        event.principal.as_str().to_owned(),
        event.address.map_or_else(String::new, |address| address.to_string()),
        event.action.to_string(),
        what,
        event.outcome.as_str().to_owned(),
        note,
    ];
    cells.map(|cell| printable(&cell))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        let entry = json!({
            "time": "2026-11-29T10:45:11.120Z", "id": "01M8KEH9TG0000000000000001", "region": "eu", "node": "01M8KEH9TG0000000000000002",
            "request": "r", "principal": "ci", "proof": "basic", "address": "10.0.0.1", "action": "push", "route": "push",
            "method": "PUT", "repository": "team/app", "reference": "v1", "bytes": 2048, "took_ms": 3, "status": 201,
            "outcome": "allowed",
        });
        let mut assigned = entry.clone();
        for (field, value) in
            [("action", json!("role")), ("reference", json!("01AB")), ("detail", json!(r#"{"role":"AcrPull","to":"ci"}"#))]
        {
            assigned[field] = value;
        }
        assigned.as_object_mut().unwrap().remove("repository");
        let mut denied = entry.clone();
        for (field, value) in [("principal", json!("anonymous")), ("outcome", json!("denied")), ("why", json!("who\u{1b}[2J?"))] {
            denied[field] = value;
        }
        json!({ "entries": [entry, denied, assigned], "more": true, "regions": [
            { "region": "eu", "complete": true }, { "region": "us", "complete": false, "why": "no route" },
        ] })
    }

    #[test]
    fn entries_stand_in_a_table_and_what_is_lacking_is_said() {
        assert_eq!(
            table(&entries(&answer())),
            "TIME                      REGION  PRINCIPAL  ADDRESS   ACTION  WHAT         OUTCOME\n\
             2026-11-29T10:45:11.120Z  eu      ci         10.0.0.1  push    team/app:v1  allowed  2.0 KiB\n\
             2026-11-29T10:45:11.120Z  eu      anonymous  10.0.0.1  push    team/app:v1  denied   who\\u{1b}[2J?\n\
             2026-11-29T10:45:11.120Z  eu      ci         10.0.0.1  role    01AB         allowed  {\"role\":\"AcrPull\",\"to\":\"ci\"}\n"
        );
        assert_eq!(
            notes(&answer(), "--limit"),
            "there may be more in us: no route\nthere may be older entries: --until and --limit show more\n"
        );
        assert_eq!(table(&[]), "no such entries\n");
    }
}
