//! What the commands have in common by which owners govern: an answer, as JSON or as people read it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::ask::{AskError, Edge, Shown};
use super::columns::in_query;
use crate::clock::{Clock, Timestamp};
use crate::config::show_duration;

/// Below which everything is that owners govern.
pub(super) const BELOW: &str = "/outport/v1";

/// What a command has found or done.
pub(super) struct Answer {
    pub(super) json: Value,
    /// What a script takes: rows, or a secret.
    pub(super) text: String,
    /// What is told to who watches, besides.
    pub(super) remark: String,
}

impl Answer {
    pub(super) fn new(json: Value, text: String) -> Answer {
        Answer { json, text, remark: String::new() }
    }
}

/// Prints what the command `name` came to.
pub(super) fn finish(name: &str, outcome: Result<Answer, AskError>, shown: &Shown) -> ExitCode {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("outport {name}: {error}");
            return error.exit_code();
        }
    };
    // Nobody may be reading.
    let _ = if shown.json { writeln!(std::io::stdout(), "{}", answer.json) } else { write!(std::io::stdout(), "{}", answer.text) };
    if !shown.json && !answer.remark.is_empty() {
        eprintln!("{}", answer.remark);
    }
    ExitCode::SUCCESS
}

/// All entries of a list, in rows.
pub(super) fn list(
    (edge, config): (&Edge, Option<&Path>),
    (name, key): (&str, &str),
    rows: impl FnOnce(&[Value]) -> String,
) -> Result<Answer, AskError> {
    let found = edge.read_all(config, &format!("{BELOW}/{name}"), (name, key))?;
    Ok(Answer::new(json!({ name: found }), rows(&found)))
}

/// One entry, as a list shows it.
pub(super) fn show((edge, config): (&Edge, Option<&Path>), path: &str, rows: impl FnOnce(&[Value]) -> String) -> Result<Answer, AskError> {
    let found = edge.read(config, path)?;
    let text = rows(std::slice::from_ref(&found));
    Ok(Answer::new(found, text))
}

/// Lets somebody sign in, or not any more.
pub(super) fn switch((edge, config): (&Edge, Option<&Path>), path: &str, enabled: bool) -> Result<Answer, AskError> {
    edge.order(config, Method::PATCH, path, Some(&json!({ "enabled": enabled }))).map(secrets)
}

/// Removes something.
pub(super) fn remove((edge, config): (&Edge, Option<&Path>), path: &str) -> Result<Answer, AskError> {
    let answer = edge.order(config, Method::DELETE, path, None)?;
    let remark = format!("done, at {}", word(&answer["position"]));
    Ok(Answer { json: answer, text: String::new(), remark })
}

/// The id of what was made.
pub(super) fn identified(answer: Value) -> Answer {
    let (text, remark) = (format!("{}\n", word(&answer["id"])), format!("done, at {}", word(&answer["position"])));
    Answer { text, remark, json: answer }
}

/// Where something of this name is.
pub(super) fn path(collection: &str, name: &str) -> String {
    format!("{BELOW}/{collection}/{}", in_query(name))
}

/// New secrets, one in each line, and which they are.
pub(super) fn secrets(answer: Value) -> Answer {
    let made: Vec<&Value> = answer["secrets"].as_array().into_iter().flatten().collect();
    let text = made.iter().map(|made| format!("{}\n", word(&made["secret"]))).collect();
    let numbers: Vec<String> = made.iter().map(|made| made["number"].to_string()).collect();
    let position = word(&answer["position"]);
    let remark = match numbers.as_slice() {
        [] => format!("done, at {position}"),
        numbers => format!("secret {} of {}, told this once; at {position}", numbers.join(" and "), word(&answer["name"])),
    };
    Answer { text, remark, json: answer }
}

/// How long it is until then.
pub(super) fn until(end_ms: &Value) -> String {
    let Some(end) = end_ms.as_u64().map(Timestamp::from_ms) else { return "never expires".to_owned() };
    let now = Clock::system().now();
    if end <= now {
        return "expired".to_owned();
    }
    let left = std::time::Duration::from_secs(end.since(now).as_secs().max(1));
    format!("expires in {}", show_duration(left))
}

/// Texts with commas between them.
pub(super) fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(word).collect::<Vec<_>>().join(",")
}

pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stand_alone_in_what_a_script_takes() {
        let made = secrets(json!({"name": "ci", "position": "eu@7", "secrets": [{"number": 2, "secret": "s3cret"}]}));
        assert_eq!((made.text.as_str(), made.remark.as_str()), ("s3cret\n", "secret 2 of ci, told this once; at eu@7"));
        let none = secrets(json!({"name": "ci", "position": "eu@8", "secrets": []}));
        assert_eq!((none.text.as_str(), none.remark.as_str()), ("", "done, at eu@8"));
    }

    #[test]
    fn ends_are_told_from_now() {
        let now = Clock::system().now().as_ms();
        assert_eq!(until(&Value::Null), "never expires");
        assert_eq!(until(&json!(now - 1)), "expired");
        let text = until(&json!(now + 90_500));
        assert!(text == "expires in 90s" || text == "expires in 89s", "{text}");
    }

    #[test]
    fn names_stand_in_paths() {
        assert_eq!(path("principals", "a@b.c"), "/outport/v1/principals/a%40b.c");
    }
}
