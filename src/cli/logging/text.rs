//! A line of the log in text: when, how bad, from where, and its fields, as `tracing-subscriber` writes them without colours.
//!
//! Each request leaves such a line. The library asks for a style around every name and value, and formats every piece by itself: the
//! line took a sixth of all instructions of a warm manifest request. Here a text that needs no escapes is copied.

use std::fmt::{self, Write};
use std::io::Write as _;

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
        let mut fields = Fields(Vec::with_capacity(LINE_BYTES));
        write_now(&mut fields.0);
        fields.0.extend_from_slice(padded(*metadata.level()));
        fields.0.extend_from_slice(metadata.target().as_bytes());
        fields.0.push(b':');
        event.record(&mut fields);
        fields.0.push(b'\n');
        self.0.leave(&fields.0);
    }
}

/// A level with what stands around it: all of one width.
fn padded(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b" ERROR ",
        Level::WARN => b"  WARN ",
        Level::INFO => b"  INFO ",
        Level::DEBUG => b" DEBUG ",
        Level::TRACE => b" TRACE ",
    }
}

/// Writes fields, each with a space before it.
struct Fields(Vec<u8>);

impl Fields {
    #[inline]
    fn name(&mut self, field: &Field) -> &mut Vec<u8> {
        self.0.push(b' ');
        if !is_message(field) {
            self.0.extend_from_slice(field.name().as_bytes());
            self.0.push(b'=');
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
            line.push(b'"');
            line.extend_from_slice(value.as_bytes());
            line.push(b'"');
        } else {
            // Writing to memory cannot fail.
            let _ = write!(line, "{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field).extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field).extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        write_f64(self.name(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Also what is to be displayed as it is.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(OneLine(self.name(field)), "{value:?}");
    }
}

/// Times in milliseconds have three decimals. Where those are all that a number has, they are written as whole numbers are, which takes a
/// fraction of finding the shortest decimals that read back as the same number; they are the same.
fn write_f64(line: &mut Vec<u8>, value: f64) {
    // Up to 15 digits no two decimals are the same number.
    const MOST: f64 = 1e12;
    let thousandths = if (0.0..MOST).contains(&value) { (value * 1000.0 + 0.5) as u64 } else { u64::MAX };
    if thousandths as f64 / 1000.0 != value || thousandths == 0 {
        return line.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
    }
    line.extend_from_slice(itoa::Buffer::new().format(thousandths / 1000).as_bytes());
    let decimals = thousandths % 1000;
    let digits = [b'.', b'0' + (decimals / 100) as u8, b'0' + (decimals / 10 % 10) as u8, b'0' + (decimals % 10) as u8];
    line.extend_from_slice(&digits);
    // One decimal at least, and no zeros behind it.
    line.truncate(line.len() - usize::from(decimals % 10 == 0) - usize::from(decimals % 100 == 0));
}

/// Escapes what would end the line, or tell a terminal something.
struct OneLine<'a>(&'a mut Vec<u8>);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for character in text.chars() {
            if character.is_control() {
                self.0.extend(character.escape_default().map(|character| character as u8));
            } else {
                self.0.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everybody_writes_them() {
        let with_three_decimals =
            (0..3_000).chain((0..50).map(|power| (1 << power) + 1)).map(|thousandths: u64| thousandths as f64 / 1000.0);
        let others =
            [0.0, -0.0, -0.25, 0.0001, 0.1 + 0.2, 1.0005, 1e11, 999_999_999_999.999, 1e12, 1e16, f64::MAX, f64::MIN_POSITIVE, f64::NAN];
        for number in with_three_decimals.chain(others).chain([f64::INFINITY, f64::NEG_INFINITY]) {
            let mut written = Vec::new();
            write_f64(&mut written, number);
            assert_eq!(String::from_utf8(written).unwrap(), zmij::Buffer::new().format(number));
        }
    }
}
