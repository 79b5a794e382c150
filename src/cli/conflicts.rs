//! `outport conflicts`: tags that regions set without having seen each other's.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::{AskError, Edge, Shown};
use super::columns::{age, in_query, word};
use crate::clock::{Clock, Timestamp};

/// In one answer of the edge, and in all.
const PAGE: usize = 1_000;
const MAX_PAGES: usize = 100;

pub(super) fn run(config: Option<&Path>, arguments: &Shown) -> ExitCode {
    match read(config, &arguments.edge) {
        Ok(conflicts) if arguments.json => println!("{}", json!({ "conflicts": conflicts })),
        Ok(conflicts) => print!("{}", shown(&conflicts, Clock::system().now())),
        Err(error) => {
            eprintln!("outport conflicts: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

fn read(config: Option<&Path>, edge: &Edge) -> Result<Vec<Value>, AskError> {
    let (mut found, mut last) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let answer = edge.read(config, &format!("/outport/v1/conflicts?n={PAGE}&last={}", in_query(&last)))?;
        let page = answer["conflicts"].as_array().cloned().unwrap_or_default();
        found.extend(page);
        let Some(end) = found.last().filter(|_| answer["more"] == true) else { break };
        last = format!("{}:{}", word(&end["repository"]), word(&end["tag"]));
    }
    Ok(found)
}

/// One line for each.
fn shown(conflicts: &[Value], now: Timestamp) -> String {
    if conflicts.is_empty() {
        return "no conflicts\n".to_owned();
    }
    conflicts.iter().map(|conflict| line(conflict, now)).collect()
}

fn line(conflict: &Value, now: Timestamp) -> String {
    let losers: Vec<&str> = conflict["losers"].as_array().into_iter().flatten().map(word).collect();
    let age = age(&conflict["updated_at_ms"], now).map(|age| format!(" since {age} ago")).unwrap_or_default();
    let lock = if conflict["is_locked"] == true { ", locked" } else { "" };
    format!(
        "{}:{} is {}{age}{lock}; it was also set to {}\n",
        word(&conflict["repository"]),
        word(&conflict["tag"]),
        word(&conflict["winner"]),
        losers.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_winner_and_the_others() {
        let conflict = json!({"repository": "team/app", "tag": "v1", "winner": "sha256:1", "updated_at_ms": 1_000,
            "losers": ["sha256:2", "sha256:3"], "is_locked": false});
        assert_eq!(
            shown(&[conflict], Timestamp::from_ms(61_000)),
            "team/app:v1 is sha256:1 since 1m ago; it was also set to sha256:2, sha256:3\n"
        );
        assert_eq!(shown(&[], Timestamp::default()), "no conflicts\n");
    }
}
