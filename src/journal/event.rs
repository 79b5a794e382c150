//! A line of the log as it lies in the bucket: as somebody writes it, and as it is read again. The names of its fields are a contract, as
//! are those of [`Entry`](crate::records::Entry).

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::records::{Line, Note};

/// Bytes of one text in a line, at most: what is longer is cut.
const MAX_TEXT_BYTES: usize = 4 * 1024;
/// What the fields of a request's line take, about.
const FIELDS_BYTES: usize = 448;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The word for no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is error, warn, info, debug or trace")]
pub struct LevelError;

impl Level {
    pub(super) const ALL: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Level, LevelError> {
        Level::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text)).ok_or(LevelError)
    }
}

/// A line that is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub level: Level,
    /// Which part of the program wrote it; `outport::access` of requests.
    pub target: String,
    /// Lines of requests have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What stood beside the message, under its names.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// A line that is written, piece by piece: already in the form in which it will lie.
#[derive(Debug)]
pub struct Draft {
    level: Level,
    target: &'static str,
    message: String,
    /// An object in JSON without its end.
    fields: Vec<u8>,
}

impl Draft {
    pub fn new(level: Level, target: &'static str) -> Draft {
        Draft { level, target, message: String::new(), fields: Vec::with_capacity(FIELDS_BYTES) }
    }

    pub fn message(&mut self, text: &str) {
        cut(text).clone_into(&mut self.message);
    }

    pub fn text(&mut self, name: &str, value: &str) {
        Line::go_on(&mut self.fields).text(name, cut(value));
    }

    pub fn number(&mut self, name: &str, value: u64) {
        Line::go_on(&mut self.fields).number(name, value);
    }

    /// Any other value; one that has no form in JSON is null.
    pub fn value<T: Serialize>(&mut self, name: &str, value: &T) {
        Line::go_on(&mut self.fields).value(name, value);
    }
}

impl Note for Draft {
    fn write(&self, line: &mut Line<'_>) {
        line.text("level", self.level.as_str());
        line.text("target", self.target);
        if !self.message.is_empty() {
            line.text("message", &self.message);
        }
        if !self.fields.is_empty() {
            line.unfinished("fields", &self.fields);
        }
    }
}

/// The beginning of what is too long.
fn cut(text: &str) -> &str {
    if text.len() <= MAX_TEXT_BYTES {
        return text;
    }
    // A character has at most four bytes.
    let end = (MAX_TEXT_BYTES - 3..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::clock::Timestamp;
    use crate::records::Entry;

    fn line(event: Draft) -> Vec<u8> {
        let time = Timestamp::from_ms(1_795_949_111_120);
        let mut line = Vec::new();
        Entry { time, id: Ulid::from_parts(1, 1), region: "eu".into(), node: Ulid::from_parts(1, 2), lost: 0, event }.write_line(&mut line);
        line
    }

    #[test]
    fn a_draft_reads_back_and_the_names_of_its_fields_are_a_contract() {
        let mut request = Draft::new(Level::Info, "outport::access");
        request.text("id", "request-1");
        request.number("status", 200);
        request.value("whole_ms", &0.25);
        request.value("left", &-1_i64);
        let written = line(request);
        let text = String::from_utf8(written.clone()).unwrap();
        let expected = r#""level":"INFO","target":"outport::access","fields":{"id":"request-1","status":200,"whole_ms":0.25,"left":-1}}"#;
        assert!(text.ends_with(&format!(",{expected}\n")), "{text}");
        let read = Entry::<Event>::read(&written).unwrap();
        assert_eq!((read.event.level, read.event.fields["status"].as_u64(), &*read.event.message), (Level::Info, Some(200), ""));
        let told = serde_json::json!({"level": "INFO", "target": "outport::access",
            "fields": {"id": "request-1", "status": 200, "whole_ms": 0.25, "left": -1}});
        assert_eq!(serde_json::json!(read.event), told);

        let mut other = Draft::new(Level::Warn, "outport::edge");
        other.message("it \"is\" so\n");
        let read = Entry::<Event>::read(&line(other)).unwrap().event;
        assert_eq!(
            read,
            Event { level: Level::Warn, target: "outport::edge".into(), message: "it \"is\" so\n".into(), fields: Map::new() }
        );
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut draft = Draft::new(Level::Error, "outport::edge");
        draft.message(&"\u{e9}".repeat(MAX_TEXT_BYTES));
        draft.text("why", &"a".repeat(10 * MAX_TEXT_BYTES));
        let read = Entry::<Event>::read(&line(draft)).unwrap().event;
        assert_eq!((read.message.len(), read.fields["why"].as_str().unwrap().len()), (MAX_TEXT_BYTES, MAX_TEXT_BYTES));
    }

    #[test]
    fn levels_have_words() {
        assert_eq!(("warn".parse(), "WARN".parse(), "loud".parse::<Level>()), (Ok(Level::Warn), Ok(Level::Warn), Err(LevelError)));
        assert!(Level::Error < Level::Warn && Level::Debug < Level::Trace);
    }
}
