//! A line of the log in text: when, how bad, from where, and its fields, as `tracing-subscriber` writes them without colours.
//!
//! Each request leaves such a line. The library asks for a style around every name and value, and formats every piece by itself: the
//! line took a sixth of all instructions of a warm manifest request. Here a text that needs no escapes is copied.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Sheet;
use crate::clock::write_now;
use crate::records::is_plain;

pub(super) struct TextLines(pub(super) Sheet);

/// What a request's line takes, about.
const LINE_BYTES: usize = 640;

impl<S: Subscriber> Layer<S> for TextLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields(String::with_capacity(LINE_BYTES));
        write_now(&mut fields.0);
        fields.0.push_str(padded(*metadata.level()));
        fields.0.push_str(metadata.target());
        fields.0.push(':');
        event.record(&mut fields);
        fields.0.push('\n');
        self.0.leave(fields.0.as_bytes());
    }
}

/// A level with what stands around it: all of one width.
fn padded(level: Level) -> &'static str {
    match level {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    }
}

/// Writes fields, each with a space before it.
struct Fields(String);

impl Fields {
    fn name(&mut self, field: &Field) -> &mut String {
        self.0.push(' ');
        if !is_message(field) {
            self.0.push_str(field.name());
            self.0.push('=');
        }
        &mut self.0
    }
}

fn is_message(field: &Field) -> bool {
    field.name() == "message"
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let line = self.name(field);
        if is_message(field) {
            let _ = OneLine(line).write_str(value);
        } else if is_plain(value) {
            line.push('"');
            line.push_str(value);
            line.push('"');
        } else {
            let _ = write!(line, "{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field).push_str(itoa::Buffer::new().format(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field).push_str(itoa::Buffer::new().format(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field).push_str(zmij::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field).push_str(if value { "true" } else { "false" });
    }

    /// Also what is to be displayed as it is.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(OneLine(self.name(field)), "{value:?}");
    }
}

/// Escapes what would end the line, or tell a terminal something.
struct OneLine<'a>(&'a mut String);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            self.0.push_str(text);
            return Ok(());
        }
        for character in text.chars() {
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}
