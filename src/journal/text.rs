//! A line of the log in text: when, how bad, from where, and its fields, as `tracing-subscriber` writes them without colours.
//!
//! Each request leaves such a line. The library asks for a style around every name and value, and formats every piece by itself: the
//! line took a sixth of all instructions of a warm manifest request. Here a text that needs no escapes is copied.
//!
//! A request's line may also be written without an event ([`TextLog`]): an event's fields are visited through four layers, which takes two
//! thirds of the line.

use std::fmt::{self, Write};
use std::io::Write as _;
use std::sync::Arc;

use tracing::Level;

use crate::clock::write_now;
use crate::metrics::Metrics;
use crate::records::{AddressText, Trays, is_plain};

/// The name of what is no field but said.
pub const MESSAGE: &str = "message";

/// Where lines in text lie until the log's thread writes them. Cloning is cheap.
#[derive(Clone)]
pub struct TextLog(Arc<Inner>);

struct Inner {
    lines: Trays<()>,
    metrics: Metrics,
}

impl fmt::Debug for TextLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextLog")
    }
}

impl TextLog {
    pub fn new(lines: Trays<()>, metrics: Metrics) -> TextLog {
        TextLog(Arc::new(Inner { lines, metrics }))
    }

    /// Leaves a line, or drops and counts it where there is no room. `fields` must not log.
    pub fn leave(&self, (level, target): (Level, &str), fields: impl FnOnce(&mut TextLine<'_>)) {
        let write = |bytes: &mut Vec<u8>| {
            let mut line = TextLine::begin(bytes, level, target);
            fields(&mut line);
            line.end();
        };
        self.count(self.0.lines.leave((), write).is_ok());
    }

    /// The same with one that is written already.
    pub fn leave_written(&self, line: &[u8]) {
        self.count(self.0.lines.leave((), |bytes| bytes.extend_from_slice(line)).is_ok());
    }

    fn count(&self, is_left: bool) {
        if !is_left {
            self.0.metrics.log_dropped.inc();
        }
    }
}

/// A line that is being written, at the end of what is there.
pub struct TextLine<'a>(&'a mut Vec<u8>);

impl<'a> TextLine<'a> {
    pub fn begin(bytes: &'a mut Vec<u8>, level: Level, target: &str) -> TextLine<'a> {
        write_now(bytes);
        bytes.extend_from_slice(padded(level));
        bytes.extend_from_slice(target.as_bytes());
        bytes.push(b':');
        TextLine(bytes)
    }

    pub fn end(self) {
        self.0.push(b'\n');
    }

    #[inline]
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.0.push(b' ');
        if name != MESSAGE {
            self.0.extend_from_slice(name.as_bytes());
            self.0.push(b'=');
        }
        self.0
    }

    /// A text between quotes; a message stands without.
    #[inline]
    pub fn text(&mut self, name: &str, value: &str) {
        if name == MESSAGE {
            return self.display(name, format_args!("{value}"));
        }
        let line = self.name(name);
        if is_plain(value) {
            line.push(b'"');
            line.extend_from_slice(value.as_bytes());
            line.push(b'"');
        } else {
            // Writing to memory cannot fail.
            let _ = write!(line, "{value:?}");
        }
    }

    /// The same, where there is one.
    #[inline]
    pub fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    #[inline]
    pub fn number(&mut self, name: &str, value: u64) {
        self.name(name).extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub fn signed(&mut self, name: &str, value: i64) {
        self.name(name).extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub fn float(&mut self, name: &str, value: f64) {
        write_f64(self.name(name), value);
    }

    pub fn flag(&mut self, name: &str, value: bool) {
        self.name(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub fn address(&mut self, name: &str, value: AddressText) {
        value.write(self.name(name));
    }

    /// Without quotes, on one line.
    pub fn display(&mut self, name: &str, value: impl fmt::Display) {
        let _ = write!(OneLine(self.name(name)), "{value}");
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
