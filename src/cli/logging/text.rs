//! A line of the log in text: when, how bad, from where, and its fields, as `tracing-subscriber` writes them without colours.
//!
//! Each request leaves such a line. The library asks for a style around every name and value, and formats every piece by itself: the
//! line took a sixth of all instructions of a warm manifest request. Here a text that needs no escapes is copied.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::written_at;

pub(super) struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        write!(writer, "{} {:>5} {}:", written_at(), metadata.level(), metadata.target())?;
        let mut fields = Fields { writer, outcome: Ok(()) };
        event.record(&mut fields);
        fields.outcome?;
        fields.writer.write_char('\n')
    }
}

/// Writes fields, each with a space before it.
struct Fields<'a> {
    writer: Writer<'a>,
    outcome: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let writer = &mut self.writer;
        self.outcome = self.outcome.and_then(|()| {
            writer.write_char(' ')?;
            if !is_message(field) {
                writer.write_str(field.name())?;
                writer.write_char('=')?;
            }
            value(writer)
        });
    }
}

fn is_message(field: &Field) -> bool {
    field.name() == "message"
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if is_message(field) {
            self.write(field, |writer| OneLine(writer).write_str(value));
        } else if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.write(field, |writer| {
                writer.write_char('"')?;
                writer.write_str(value)?;
                writer.write_char('"')
            });
        } else {
            self.write(field, |writer| write!(writer, "{value:?}"));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, |writer| write!(writer, "{value}"));
    }

    /// Also what is to be displayed as it is.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, |writer| write!(OneLine(writer), "{value:?}"));
    }
}

/// Escapes what would end the line, or tell a terminal something.
struct OneLine<'a, 'b>(&'a mut Writer<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_str(text);
        }
        for piece in text.split_inclusive(char::is_control) {
            let mut characters = piece.chars();
            match characters.next_back().filter(|last| last.is_control()) {
                Some(control) => {
                    self.0.write_str(characters.as_str())?;
                    write!(self.0, "{}", control.escape_default())?;
                }
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}
