//! The log, for whoever cannot look at where it goes: `GET /outport/v1/logs`, `outport logs`, the console.
//!
//! The last lines of this process are always here ([`Journal`]). Bounded: so many lines, each cut at a length. Lines of requests lie by
//! themselves, or a busy edge would show nothing else.
//!
//! With `log.central` all lines of all edges are kept in the regions' buckets, too, and searched there ([`Archive`]): one more of the
//! [`crate::records`]. They are JSON, whatever `log.format` says; `log.level` holds for them as for the others.

mod event;
mod filter;
mod text;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use memchr::memmem;
use serde::Serialize;
use serde_json::{Map, Value};

pub use event::{Draft, Event, Level, LevelError};
pub use filter::{Filter, Query, Statuses, StatusesError};
pub use text::{TextLine, TextLog};

use crate::bucket::RecordKind;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::records::{Intake, Nature, Records, Setup};

/// Lines of each kind that are kept, and the bytes of one.
pub const KEPT_LINES: usize = 1_000;
const MAX_LINE_BYTES: usize = 2 * 1024;
/// By which a line of a request is known. (A line that only speaks of it is kept among them: it is shown all the same.)
pub const OF_REQUESTS: &str = "outport::access";

const NATURE: Nature = Nature { kind: RecordKind::Log, name: "central log", question: "logs", switch: "log.central" };

/// Lines that the regions' buckets keep.
pub type Archive = Records;

/// One handle; clones share the same lines.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    rings: Arc<Mutex<Rings>>,
    central: Option<Intake>,
    /// Where requests leave their lines without an event, if the log is nothing but text.
    text: Arc<OnceLock<TextLog>>,
}

#[derive(Debug, Default)]
struct Rings {
    next: u64,
    /// As they were written: nearly all of them nobody ever reads.
    requests: VecDeque<(u64, Vec<u8>)>,
    others: VecDeque<(u64, Vec<u8>)>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Only what came later; from the newest lines if nothing is named.
    pub after: Option<u64>,
    pub lines: usize,
    pub with_requests: bool,
}

/// Lines in the order in which they were written.
#[derive(Debug, PartialEq, Serialize)]
pub struct Told {
    /// What to ask for next as `after`.
    pub next: u64,
    pub lines: Vec<Line>,
}

/// A line as far as it can be read: one that was cut is all message.
#[derive(Debug, PartialEq, Serialize)]
pub struct Line {
    pub number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub message: String,
    /// Of a log in JSON; one in text has them in its message.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Journal {
    /// One whose lines are for the archive, too. It is there before an edge is, and when one edge ends and another begins.
    pub fn with_archive(clock: Clock, metrics: &Metrics) -> Journal {
        Journal { rings: Arc::default(), text: Arc::default(), central: Some(Intake::new(&NATURE, clock, metrics.central_log.clone())) }
    }

    /// Where lines for the archive go; `None` where nobody wants them.
    pub fn central(&self) -> Option<&Intake> {
        self.central.as_ref()
    }

    /// From now on requests leave their lines there: as long as the log lasts, all that becomes of them is lines in text.
    pub fn write_requests_to(&self, log: TextLog) {
        // There is one log in a process.
        let _ = self.text.set(log);
    }

    pub fn text(&self) -> Option<&TextLog> {
        self.text.get()
    }

    /// Begins to keep the lines for the archive.
    pub async fn archive(&self, setup: Setup<'_>) -> Archive {
        Records::start(&NATURE, setup, self.central.clone()).await
    }

    /// Keeps a line as it was written.
    pub fn keep(&self, line: &[u8]) {
        let line = line[..line.len().min(MAX_LINE_BYTES)].trim_ascii_end();
        let mut rings = self.rings();
        rings.next += 1;
        let number = rings.next;
        let is_of_requests = is_of_requests(line);
        let ring = if is_of_requests { &mut rings.requests } else { &mut rings.others };
        // The memory of the line that goes is that of the one that comes.
        let oldest = if ring.len() == KEPT_LINES { ring.pop_front() } else { None };
        let mut kept = oldest.map(|(_, text)| text).unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(line);
        ring.push_back((number, kept));
    }

    /// The newest lines, or the next ones after a number.
    pub fn tell(&self, asked: &Excerpt) -> Told {
        let rings = self.rings();
        let after = asked.after.unwrap_or(0);
        let newer = |ring: &VecDeque<(u64, Vec<u8>)>| {
            let first = ring.partition_point(|(number, _)| *number <= after);
            ring.iter().skip(first).cloned().collect::<Vec<_>>()
        };
        let mut found = newer(&rings.others);
        if asked.with_requests {
            found.extend(newer(&rings.requests));
            found.sort_unstable_by_key(|(number, _)| *number);
        }
        // Who follows misses nothing; who begins sees the end.
        let (skipped, next) = match asked.after {
            Some(_) => (0, found.get(asked.lines.wrapping_sub(1)).map(|(number, _)| *number)),
            None => (found.len().saturating_sub(asked.lines), None),
        };
        let next = next.unwrap_or(rings.next);
        drop(rings);
        let lines = found.iter().skip(skipped).take(asked.lines).map(|(number, line)| read(*number, &String::from_utf8_lossy(line)));
        Told { next, lines: lines.collect() }
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_requests(line: &[u8]) -> bool {
    // A line in text has it behind a time and a level, which are all of one width.
    const TARGET_AT: usize = "2026-11-30T01:02:03.500000Z  INFO ".len();
    let in_text = line.get(TARGET_AT..).is_some_and(|rest| rest.starts_with(OF_REQUESTS.as_bytes()));
    in_text || memmem::find(line, OF_REQUESTS.as_bytes()).is_some()
}

fn read(number: u64, line: &str) -> Line {
    json_line(number, line).or_else(|| text_line(number, line)).unwrap_or_else(|| Line {
        number,
        at_ms: None,
        level: None,
        target: None,
        message: line.to_owned(),
        fields: Map::new(),
    })
}

/// `{"timestamp":...,"level":...,"target":...,"message":...}` and its fields beside them.
fn json_line(number: u64, line: &str) -> Option<Line> {
    let mut fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let at_ms = Some(milliseconds(&text("timestamp")?)?);
    let (level, target, message) = (text("level"), text("target"), text("message").unwrap_or_default());
    Some(Line { number, at_ms, level, target, message, fields })
}

/// `TIME LEVEL TARGET: MESSAGE`
fn text_line(number: u64, line: &str) -> Option<Line> {
    let (time, rest) = line.split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let (target, message) = rest.split_once(": ")?;
    let (level, target) = (Some(level.to_owned()), Some(target.to_owned()));
    Some(Line { number, at_ms: Some(milliseconds(time)?), level, target, message: message.to_owned(), fields: Map::new() })
}

fn milliseconds(time: &str) -> Option<u64> {
    Timestamp::of_rfc3339(time).map(Timestamp::as_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(lines: &[&str]) -> Journal {
        let journal = Journal::default();
        lines.iter().for_each(|line| journal.keep(line.as_bytes()));
        journal
    }

    fn newest(lines: usize) -> Excerpt {
        Excerpt { after: None, lines, with_requests: true }
    }

    fn messages(told: &Told) -> Vec<&str> {
        told.lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn lines_are_read_in_both_forms_and_kept_whole_where_they_have_none() {
        let journal = journal(&[
            "2026-11-30T01:02:03.500000Z  WARN outport::cache: it is full: really bytes=7\n",
            "{\"timestamp\":\"2026-11-30T01:02:03.500000Z\",\"level\":\"INFO\",\"message\":\"m\",\"bytes\":7,\"target\":\"outport::edge\"}\n",
            "no line of ours\n",
            "",
        ]);
        let told = journal.tell(&newest(10));
        let at_ms = Some(1_796_000_523_500);
        let text = |text: &str| Some(text.to_owned());
        let read = |number, at_ms, level, target, message: &str, fields: Value| Line {
            number,
            at_ms,
            level,
            target,
            message: message.to_owned(),
            fields: fields.as_object().cloned().unwrap_or_default(),
        };
        assert_eq!(
            told.lines,
            [
                read(1, at_ms, text("WARN"), text("outport::cache"), "it is full: really bytes=7", Value::Null),
                read(2, at_ms, text("INFO"), text("outport::edge"), "m", serde_json::json!({"bytes": 7})),
                read(3, None, None, None, "no line of ours", Value::Null),
                read(4, None, None, None, "", Value::Null),
            ]
        );
        assert_eq!(told.next, 4);
    }

    #[test]
    fn who_follows_misses_nothing_and_who_begins_sees_the_end() {
        let lines: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
        let journal = journal(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(messages(&journal.tell(&newest(3))), ["8", "9", "10"]);
        let mut asked = Excerpt { after: Some(2), lines: 3, with_requests: true };
        let mut seen = Vec::new();
        loop {
            let told = journal.tell(&asked);
            if told.lines.is_empty() {
                assert_eq!(told.next, 10);
                break;
            }
            seen.extend(told.lines.iter().map(|line| line.number));
            asked.after = Some(told.next);
        }
        assert_eq!(seen, (3..=10).collect::<Vec<_>>());
        assert_eq!(messages(&journal.tell(&newest(0))), Vec::<&str>::new());
    }

    #[test]
    fn requests_push_nothing_else_out_and_all_is_bounded() {
        let journal = journal(&["2026-11-30T01:02:03Z ERROR outport::edge: here"]);
        let long = format!("2026-11-30T01:02:03Z  INFO outport::access: {}", "\u{e9}".repeat(MAX_LINE_BYTES));
        (0..2 * KEPT_LINES).for_each(|_| journal.keep(long.as_bytes()));
        assert_eq!(messages(&journal.tell(&newest(usize::MAX)))[0], "here");
        let rings = journal.rings();
        assert_eq!((rings.requests.len(), rings.others.len()), (KEPT_LINES, 1));
        assert!(rings.requests.iter().all(|(_, line)| line.len() <= MAX_LINE_BYTES));
        drop(rings);
        let without = Excerpt { with_requests: false, ..newest(10) };
        assert_eq!(journal.tell(&without).lines.len(), 1);
    }
}
