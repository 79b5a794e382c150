//! `outport forwards`: what is on its way to upstreams, or has failed to get there.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::ask::Shown;
use crate::clock::{Clock, Timestamp};
use crate::config::show_duration;

pub(super) fn run(config: Option<&Path>, arguments: &Shown) -> ExitCode {
    match arguments.edge.read(config, "/outport/v1/forwards") {
        Ok(answer) if arguments.json => println!("{answer}"),
        Ok(answer) => print!("{}", shown(&answer, Clock::system().now())),
        Err(error) => {
            eprintln!("outport forwards: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

/// One line for each.
fn shown(answer: &Value, now: Timestamp) -> String {
    let forwards = answer["forwards"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text: String = forwards.iter().map(|forward| line(forward, now)).collect();
    if text.is_empty() {
        text.push_str("nothing waits\n");
    }
    if answer["more"] == true {
        text.push_str("... and more\n");
    }
    text
}

fn line(forward: &Value, now: Timestamp) -> String {
    let word = |name: &str| forward[name].as_str().unwrap_or("?");
    let reference = word("reference");
    let colon = if reference.contains(':') { '@' } else { ':' };
    let age = now.since(Timestamp::from_ms(forward["since_ms"].as_u64().unwrap_or_default()));
    let why = forward["last_error"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    format!(
        "{}{colon}{reference} -> {}: {} for {}, {} tries{why}\n",
        word("repository"),
        word("upstream"),
        word("standing"),
        show_duration(std::time::Duration::from_secs(age.as_secs())),
        forward["tries"]
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_what_waits_and_why() {
        let now = Timestamp::from_ms(130_500);
        let denied = json!({"repository": "team/app", "reference": "v1", "digest": "sha256:0", "upstream": "origin.example",
            "standing": "failed", "since_ms": 10_000, "tries": 3, "last_error": "the upstream denies access"});
        let waiting = json!({"repository": "team/app", "reference": "sha256:0", "digest": "sha256:0", "upstream": "origin.example",
            "standing": "waiting", "since_ms": 130_000, "tries": 0, "last_error": null});
        assert_eq!(
            shown(&json!({"forwards": [denied, waiting], "more": true}), now),
            "team/app:v1 -> origin.example: failed for 2m, 3 tries: the upstream denies access\n\
             team/app@sha256:0 -> origin.example: waiting for 0s, 0 tries\n... and more\n"
        );
        assert_eq!(shown(&json!({"forwards": [], "more": false}), now), "nothing waits\n");
    }
}
