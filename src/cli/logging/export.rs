//! Lines of the log for the collector of `[otlp]`, with their fields as they are.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::Clock;
use crate::otlp::{Line, Lines, is_exporting};
use crate::trace::{self, Value};

/// Of a text in a line so much is exported.
const MAX_TEXT_BYTES: usize = 4 * 1024;

pub(super) struct Export {
    lines: Lines,
    clock: Clock,
}

impl Export {
    pub(super) fn new(lines: Lines) -> Export {
        Export { lines, clock: Clock::system() }
    }
}

impl<S: Subscriber> Layer<S> for Export {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !is_exported(metadata.target()) || is_exporting() {
            return;
        }
        let mut line = Line {
            at_ns: self.clock.now_ns(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            attributes: Vec::new(),
            context: trace::current().map(|part| part.context().clone()),
        };
        event.record(&mut Fields(&mut line));
        self.lines.push(line);
    }
}

/// What other crates log may be about the exporting itself, in tasks of their own: it would be exported, and logged again.
fn is_exported(target: &str) -> bool {
    let is_of = |room: &str| target.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    is_of("outport") && !is_of("outport::otlp")
}

struct Fields<'a>(&'a mut Line);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.attributes.push((field.name(), value.into()));
    }

    fn text(&mut self, field: &Field, text: &str) {
        let text = cut(text).to_owned();
        if field.name() == "message" {
            self.0.message = text;
        } else {
            self.add(field, text);
        }
    }
}

/// As much of a text as is exported.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT_BYTES)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    /// Also what is to be displayed as it is.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!((cut(""), cut("a")), ("", "a"));
        let long = "\u{20ac}".repeat(MAX_TEXT_BYTES);
        assert_eq!(cut(&long).len(), MAX_TEXT_BYTES - MAX_TEXT_BYTES % 3);
    }

    #[test]
    fn what_the_exporting_itself_leaves_is_not_exported() {
        for (target, expected) in [
            ("outport::access", true),
            ("outport", true),
            ("outport::otlp", false),
            ("outport::otlp::collector", false),
            ("outport::otlpx", true),
            ("outports", false),
            ("hyper_util::client::legacy::pool", false),
            ("", false),
        ] {
            assert_eq!(is_exported(target), expected, "{target}");
        }
    }
}
