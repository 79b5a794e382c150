//! `outport webhook`: who is told what happens to images, and what came of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::FAILED;
use super::ask::{AskError, Edge, Shown};
use super::columns::{age, columns, in_query, list, word};
use crate::clock::{Clock, Timestamp};

const PATH: &str = "/outport/v1/webhooks";

pub(super) const EXAMPLES: &str = "Examples:\n  outport webhook list\n  outport webhook ping ci\n  outport webhook events ci --json | jq '.[] | select(.outcome != \"delivered\")'";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Show each receiver, what waits for it, and its last fault
    List(Shown),
    /// Send a receiver an event that says nothing: exit code 1 if it does not take it
    Ping {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show what became of the last events, the newest first
    Events {
        /// A receiver's name in the configuration; else of all
        name: Option<String>,
        #[command(flatten)]
        shown: Shown,
    },
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let config = config.map(PathBuf::from);
    let done = match arguments {
        Arguments::List(shown) => told(config.as_deref(), &shown.edge).map(|hooks| show_list(&hooks, shown.json)),
        Arguments::Ping { name, shown } => {
            let path = format!("{PATH}/{}/ping", in_query(name));
            shown.edge.order(config.as_deref(), http::Method::POST, &path, None).map(|delivery| show_ping(&delivery, shown.json))
        }
        Arguments::Events { name, shown } => {
            told(config.as_deref(), &shown.edge).and_then(|hooks| show_events(&hooks, name.as_deref(), shown.json))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("outport webhook: {error}");
        error.exit_code()
    })
}

fn told(config: Option<&Path>, edge: &Edge) -> Result<Vec<Value>, AskError> {
    Ok(list(&edge.read(config, PATH)?["webhooks"]).to_vec())
}

fn show_list(hooks: &[Value], json: bool) -> ExitCode {
    if json {
        println!("{}", json!({ "webhooks": hooks }));
    } else {
        print!("{}", listed(hooks, Clock::system().now()));
    }
    ExitCode::SUCCESS
}

fn show_ping(delivery: &Value, json: bool) -> ExitCode {
    let is_taken = delivery["outcome"] == "delivered";
    if json {
        println!("{delivery}");
    } else if is_taken {
        println!("it answered {}", delivery["status"]);
    } else {
        eprintln!("outport webhook: it did not take it: {}", word(&delivery["error"]));
    }
    if is_taken { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn show_events(hooks: &[Value], name: Option<&str>, json: bool) -> Result<ExitCode, AskError> {
    let chosen: Vec<&Value> = hooks.iter().filter(|hook| name.is_none_or(|name| hook["name"] == name)).collect();
    if let Some(name) = name.filter(|_| chosen.is_empty()) {
        return Err(AskError::Refused(format!("there is no webhook {name:?}")));
    }
    let events = events(&chosen);
    if json {
        println!("{}", Value::from(events));
    } else {
        print!("{}", table(&events, Clock::system().now()));
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(hooks: &[Value], now: Timestamp) -> String {
    if hooks.is_empty() {
        return "no webhooks\n".to_owned();
    }
    let heads = ["NAME", "URL", "ACTIONS", "WAITING", "LAST FAULT"].map(str::to_owned);
    let row = |hook: &Value| {
        let actions: Vec<&str> = list(&hook["actions"]).iter().map(word).collect();
        let oldest = age(&hook["oldest_ms"], now).map(|age| format!(", the oldest for {age}")).unwrap_or_default();
        let waiting = format!("{}{oldest}", hook["waiting"]);
        let fault = hook["error"].as_str().unwrap_or_default().to_owned();
        [word(&hook["name"]).to_owned(), word(&hook["url"]).to_owned(), actions.join(","), waiting, fault]
    };
    columns(&std::iter::once(heads).chain(hooks.iter().map(row)).collect::<Vec<_>>())
}

/// Of all these receivers, the newest first, each with its receiver's name.
fn events(hooks: &[&Value]) -> Vec<Value> {
    let named = |hook: &Value| {
        let name = hook["name"].clone();
        list(&hook["deliveries"])
            .iter()
            .cloned()
            .map(move |mut event| {
                event["webhook"] = name.clone();
                event
            })
            .collect::<Vec<_>>()
    };
    let mut events: Vec<Value> = hooks.iter().flat_map(|hook| named(hook)).collect();
    events.sort_by_key(|event| std::cmp::Reverse(event["ended_ms"].as_u64()));
    events
}

fn table(events: &[Value], now: Timestamp) -> String {
    if events.is_empty() {
        return "no events yet\n".to_owned();
    }
    let heads = ["WEBHOOK", "WHEN", "ACTION", "OF", "OUTCOME"].map(str::to_owned);
    let row = |event: &Value| {
        let of = match (event["repository"].as_str(), event["tag"].as_str(), event["digest"].as_str()) {
            (None, ..) => String::new(),
            (Some(repository), Some(tag), _) => format!("{repository}:{tag}"),
            (Some(repository), None, digest) => format!("{repository}@{}", digest.unwrap_or("?")),
        };
        let tries = match event["tries"].as_u64() {
            Some(tries) if tries > 1 => format!(" after {tries} tries"),
            _ => String::new(),
        };
        let why = event["error"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        let when = age(&event["ended_ms"], now).map_or_else(|| "?".to_owned(), |age| format!("{age} ago"));
        [
            word(&event["webhook"]).to_owned(),
            when,
            word(&event["action"]).to_owned(),
            of,
            format!("{}{tries}{why}", word(&event["outcome"])),
        ]
    };
    columns(&std::iter::once(heads).chain(events.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks() -> Vec<Value> {
        let taken = json!({"id": "1", "action": "push", "repository": "team/app", "tag": "v1", "digest": "sha256:1", "at_ms": 1_000,
            "ended_ms": 2_000, "tries": 3, "outcome": "delivered", "status": 200});
        let lost = json!({"id": "2", "action": "delete", "repository": "team/app", "digest": "sha256:1", "at_ms": 1_000,
            "ended_ms": 3_000, "tries": 12, "outcome": "attempts", "status": 503, "error": "503 Service Unavailable"});
        vec![
            json!({"name": "ci", "url": "https://ci.example.com/hook", "actions": ["push", "delete"], "repositories": [], "waiting": 0,
                "deliveries": [taken]}),
            json!({"name": "log", "url": "https://log.example.com/", "actions": ["delete"], "repositories": [], "waiting": 2,
                "oldest_ms": 1_000, "error": "503 Service Unavailable", "deliveries": [lost]}),
        ]
    }

    #[test]
    fn receivers_and_events_stand_in_tables() {
        assert_eq!(
            listed(&hooks(), Timestamp::from_ms(61_000)),
            "NAME  URL                          ACTIONS      WAITING               LAST FAULT\n\
             ci    https://ci.example.com/hook  push,delete  0\n\
             log   https://log.example.com/     delete       2, the oldest for 1m  503 Service Unavailable\n"
        );
        let all = hooks();
        assert_eq!(
            table(&events(&all.iter().collect::<Vec<_>>()), Timestamp::from_ms(63_000)),
            "WEBHOOK  WHEN     ACTION  OF                 OUTCOME\n\
             log      1m ago   delete  team/app@sha256:1  attempts after 12 tries: 503 Service Unavailable\n\
             ci       61s ago  push    team/app:v1        delivered after 3 tries\n"
        );
        assert_eq!(
            (listed(&[], Timestamp::default()), table(&[], Timestamp::default())),
            ("no webhooks\n".into(), "no events yet\n".into())
        );
    }

    #[test]
    fn a_receiver_that_there_is_not_is_told() {
        assert!(show_events(&hooks(), Some("none"), false).is_err());
        assert!(show_events(&hooks(), Some("ci"), true).is_ok());
    }
}
