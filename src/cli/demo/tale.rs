//! What is told while it happens, and the table of what was measured.

use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub step: usize,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// What to hold it against.
    pub beside: String,
}

impl Row {
    fn shown(&self) -> String {
        match self.unit {
            "ms" => show_ms(self.value),
            unit => format!("{} {unit}", self.value),
        }
    }
}

/// Writes as it goes. What cannot be written is not missed: the steps go on, and the exit code tells how they went.
pub(super) struct Tale<'a> {
    out: &'a mut (dyn Write + Send),
    started: Instant,
    step: usize,
    rows: Vec<Row>,
}

impl<'a> Tale<'a> {
    pub fn new(out: &'a mut (dyn Write + Send)) -> Tale<'a> {
        Tale { out, started: Instant::now(), step: 0, rows: Vec::new() }
    }

    /// Begins the next step.
    pub fn step(&mut self, what: &str) {
        self.step += 1;
        let text = format!("\n{}. {what}", self.step);
        self.line(&text);
    }

    pub fn say(&mut self, what: &str) {
        self.line(&format!("   {what}"));
    }

    pub fn time(&mut self, what: &str, took: Duration, beside: &str) {
        self.measured(what, took.as_secs_f64() * 1e3, "ms", beside);
    }

    pub fn count(&mut self, what: &str, count: usize, unit: &'static str, beside: &str) {
        self.measured(what, count as f64, unit, beside);
    }

    fn measured(&mut self, what: &str, value: f64, unit: &'static str, beside: &str) {
        let row = Row { step: self.step, what: what.to_owned(), value, unit, beside: beside.to_owned() };
        let beside = if beside.is_empty() { String::new() } else { format!("   ({beside})") };
        self.line(&format!("   {what}: {}{beside}", row.shown()));
        self.rows.push(row);
    }

    pub fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Ends with the table.
    pub fn finish(mut self) -> Vec<Row> {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        self.line("\nstep  what was measured");
        for row in std::mem::take(&mut self.rows) {
            let text = format!("{:>4}  {:width$}  {:>14}  {}", row.step, row.what, row.shown(), row.beside);
            self.line(text.trim_end());
            self.rows.push(row);
        }
        let took = show_ms(self.started.elapsed().as_secs_f64() * 1e3);
        self.line(&format!("\nEvery step came out right, in {took}."));
        self.rows
    }
}

/// Three digits are enough to compare by.
fn show_ms(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_the_digits_that_count() {
        for (ms, text) in [(0.04, "0.0 ms"), (9.94, "9.9 ms"), (9.96, "10 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (12_345.0, "12.35 s")]
        {
            assert_eq!(show_ms(ms), text);
        }
    }

    #[test]
    fn the_table_repeats_what_was_told() {
        let mut out = Vec::new();
        let mut tale = Tale::new(&mut out);
        tale.step("begin");
        tale.time("a pull", Duration::from_millis(12), "cold");
        tale.step("go on");
        tale.count("transfers", 4, "of 4", "");
        let rows = tale.finish();
        assert_eq!(rows.iter().map(|row| (row.step, row.value)).collect::<Vec<_>>(), [(1, 12.0), (2, 4.0)]);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("1. begin\n   a pull: 12 ms   (cold)\n"), "{text}");
        assert!(text.contains("\n   1  a pull              12 ms  cold\n   2  transfers          4 of 4\n"), "{text}");
    }
}
