//! Text in columns, sizes and bars: how commands show what an edge says.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::config::show_duration;

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
/// RFC 3986's unreserved characters may stand in a query as they are.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Rows whose columns stand under each other, without spaces at their ends.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A text in an answer; what should be there and is not shows.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// A list in an answer.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A terminal gets no control characters, whoever wrote the text.
pub(super) fn printable(text: &str) -> String {
    let escaped = |character: char| if matches!(character, ' '..='~') { vec![character] } else { character.escape_unicode().collect() };
    text.chars().flat_map(escaped).collect()
}

/// As people read sizes, with one decimal.
pub(super) fn size(bytes: u64) -> String {
    let unit = (0..UNITS.len()).rev().find(|unit| bytes >= 1 << (10 * unit)).unwrap_or_default();
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

/// How much is done; full only when all is.
pub(super) fn bar(done: u64, all: u64) -> String {
    const CELLS: u64 = 10;
    let filled =
        if all == 0 { CELLS } else { u64::try_from(u128::from(done.min(all)) * u128::from(CELLS) / u128::from(all)).unwrap_or(CELLS) };
    (0..CELLS).map(|cell| if cell < filled { '█' } else { '░' }).collect()
}

/// Whole seconds.
pub(super) fn seconds(ms: u64) -> String {
    show_duration(Duration::from_secs(ms / 1_000))
}

/// How long ago a moment in an answer was.
pub(super) fn age(at_ms: &Value, now: Timestamp) -> Option<String> {
    let since = now.since(Timestamp::from_ms(at_ms.as_u64()?));
    Some(show_duration(Duration::from_secs(since.as_secs())))
}

/// A value of a query's parameter.
pub(super) fn in_query(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, IN_QUERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bars_say_no_more_than_there_is() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (13_002_342, "12.3 MiB"), (u64::MAX, "16777215.9 TiB")] {
            assert_eq!(size(bytes), text);
        }
        for (done, all, text) in
            [(0, 0, "██████████"), (0, 5, "░░░░░░░░░░"), (4, 5, "████████░░"), (999, 1000, "█████████░"), (9, 5, "██████████")]
        {
            assert_eq!(bar(done, all), text, "{done}/{all}");
        }
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned);
        assert_eq!(columns(&[row(["a", "b"]), row(["long", ""])]), "a     b\nlong\n");
    }
}
