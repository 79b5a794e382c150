//! Takes keys out of TOML tables, collects every fault with its key path and line, and records which keys there are.
//!
//! serde stops at the first fault, and its defaults cannot be listed; this reader does neither. What a section has not been asked for
//! when it is finished is an unknown key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::{Files, Readable};
use super::problem::Problem;
use super::value::{Value, found, read};

/// One key that the code reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRecord {
    /// Its path, with `[]` for any position in a list of tables: `upstream[].tag_ttl`.
    pub(super) shape: String,
    /// Its default as TOML; `None` when it has none.
    pub(super) default: Option<String>,
    /// The least and the greatest value.
    pub(super) bounds: Option<(String, String)>,
}

/// What all sections of one document share.
pub(super) struct Reader<'e> {
    /// The offset of each line's end.
    line_ends: Vec<usize>,
    base_dir: PathBuf,
    environment: &'e dyn Fn(&str) -> Option<String>,
    files: RefCell<Files>,
    faults: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    keys: RefCell<Vec<KeyRecord>>,
}

/// What a document has brought to light.
pub(super) struct Findings {
    pub(super) faults: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) files: Files,
    #[cfg_attr(not(test), expect(dead_code, reason = "config/reference.toml is compared with it"))]
    pub(super) keys: Vec<KeyRecord>,
}

impl<'e> Reader<'e> {
    pub(super) fn new(text: &str, base_dir: &Path, environment: &'e dyn Fn(&str) -> Option<String>, files: Files) -> Reader<'e> {
        Reader {
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            base_dir: base_dir.to_owned(),
            environment,
            files: RefCell::new(files),
            faults: RefCell::default(),
            warnings: RefCell::default(),
            keys: RefCell::default(),
        }
    }

    /// Everything found, in the order of the lines.
    pub(super) fn into_findings(self) -> Findings {
        let (mut faults, mut warnings) = (self.faults.into_inner(), self.warnings.into_inner());
        faults.sort();
        warnings.sort();
        Findings { faults, warnings, files: self.files.into_inner(), keys: self.keys.into_inner() }
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }

    pub(super) fn fault(&self, line: usize, key: impl Into<String>, message: impl Into<String>) {
        self.faults.borrow_mut().push(Problem { line, key: key.into(), message: message.into() });
    }

    fn warn(&self, line: usize, key: String, message: String) {
        self.warnings.borrow_mut().push(Problem { line, key, message });
    }

    fn record(&self, shape: String, default: Option<String>, bounds: Option<(String, String)>) {
        self.keys.borrow_mut().push(KeyRecord { shape, default, bounds });
    }

    /// The document's root.
    pub(super) fn root<'r, 'i>(&'r self, table: DeTable<'i>) -> Section<'r, 'e, 'i> {
        Section { reader: self, path: String::new(), shape: String::new(), line: 0, table, lines: HashMap::new() }
    }
}

/// One table, from which keys are taken.
pub(super) struct Section<'r, 'e, 'i> {
    reader: &'r Reader<'e>,
    /// As the operator would write it, with positions: `upstream[1]`.
    path: String,
    /// Without positions: `upstream[]`.
    shape: String,
    line: usize,
    table: DeTable<'i>,
    /// Each key that was asked for, with the line where it stands (or the section's, if it is not there).
    lines: HashMap<&'static str, usize>,
}

impl<'r, 'e, 'i> Section<'r, 'e, 'i> {
    /// The value, or its default. Only for keys that may be left out.
    pub(super) fn or<T: Value>(&mut self, key: &'static str, default: T) -> T {
        self.reader.record(join(&self.shape, key), Some(default.show()), None);
        self.take_as(key).unwrap_or(default)
    }

    /// The value, or its default; a value outside the bounds is a fault.
    pub(super) fn bounded<T: Value + PartialOrd>(&mut self, key: &'static str, default: T, bounds: RangeInclusive<T>) -> T {
        let (least, greatest) = (bounds.start().show(), bounds.end().show());
        self.reader.record(join(&self.shape, key), Some(default.show()), Some((least.clone(), greatest.clone())));
        match self.take_as::<T>(key) {
            Some(value) if !bounds.contains(&value) => {
                self.fault(key, format!("{} is out of bounds: {least} to {greatest}", value.show()));
                default
            }
            value => value.unwrap_or(default),
        }
    }

    /// The value of a key that may be left out and has no default.
    pub(super) fn optional<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.reader.record(join(&self.shape, key), None, None);
        self.take_as(key)
    }

    /// The value of a key that must be there; `None` after a fault.
    pub(super) fn required<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let there = self.table.contains_key(key);
        let value = self.optional(key);
        if !there {
            self.fault(key, "is missing");
        }
        value
    }

    /// A list of values of one type, empty by default. Wrong elements are faults and left out.
    pub(super) fn list<T: Value>(&mut self, key: &'static str) -> Vec<T> {
        self.reader.record(join(&self.shape, key), Some("[]".to_owned()), None);
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(elements) = value.into_inner() else {
            self.fault(key, format!("expected a list, each element {}", T::WHAT));
            return Vec::new();
        };
        let mut values = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            match read(element.get_ref()) {
                Ok(value) => values.push(value),
                Err(why) => {
                    let line = self.reader.line_at(element.span().start);
                    self.reader.fault(line, format!("{}[{index}]", join(&self.path, key)), why);
                }
            }
        }
        values
    }

    /// A table whose keys are the operator's to choose, each with a value of one type; empty if it is left out. Wrong values are faults.
    pub(super) fn entries<T: Value>(&mut self, key: &'static str) -> Vec<(String, T)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Table(table) = value.into_inner() else {
            self.fault(key, format!("expected a table [{}], each value {}", join(&self.path, key), T::WHAT));
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (name, value) in &table {
            let (line, name) = (self.reader.line_at(name.span().start), name.get_ref().to_string());
            self.reader.record(join(&join(&self.shape, key), &name), None, None);
            match read(value.get_ref()) {
                Ok(value) => entries.push((name, value)),
                Err(why) => self.reader.fault(line, join(&join(&self.path, key), &bare_or_quoted(&name)), why),
            }
        }
        entries
    }

    /// A path, taken from the configuration file's folder if it is relative.
    pub(super) fn path_or(&mut self, key: &'static str, default: &str) -> PathBuf {
        let path = self.or(key, PathBuf::from(default));
        if path.as_os_str().is_empty() {
            self.fault(key, "is empty");
        }
        self.reader.base_dir.join(path)
    }

    /// A file that must be named and readable, with its content.
    pub(super) fn required_file(&mut self, key: &'static str) -> Option<FileContent> {
        let path = self.required::<PathBuf>(key)?;
        self.open(key, &path)
    }

    /// A file that may be named; then it must be readable.
    pub(super) fn optional_file(&mut self, key: &'static str) -> Option<FileContent> {
        let path = self.optional::<PathBuf>(key)?;
        self.open(key, &path)
    }

    /// How many files the key's list names, and those that could be read; the others are faults.
    pub(super) fn files(&mut self, key: &'static str) -> (usize, Vec<FileContent>) {
        let paths: Vec<PathBuf> = self.list(key);
        let name = join(&self.path, key);
        let files = paths.iter().enumerate().filter_map(|(index, path)| self.open_as(key, format!("{name}[{index}]"), path)).collect();
        (paths.len(), files)
    }

    /// The file that the key names; `None` after a fault.
    pub(super) fn open(&self, key: &'static str, path: &Path) -> Option<FileContent> {
        self.open_as(key, join(&self.path, key), path)
    }

    fn open_as(&self, key: &'static str, name: String, path: &Path) -> Option<FileContent> {
        let path = self.reader.base_dir.join(path);
        match self.reader.files.borrow_mut().read(&path) {
            Ok((text, readable)) => Some(FileContent { path, text, readable }),
            Err(why) => {
                self.reader.fault(self.line_of(key), name, why);
                None
            }
        }
    }

    /// The environment variable of this name, which a key refers to.
    pub(super) fn variable(&self, key: &'static str, name: &str) -> Option<String> {
        let value = (self.reader.environment)(name);
        if value.is_none() {
            self.fault(key, format!("the environment variable {name:?} is not set"));
        }
        value
    }

    /// A table that may be left out: then all its keys have their defaults.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r, 'e, 'i> {
        self.optional_section(key).unwrap_or_else(|| self.enter(key, String::new(), self.line_of(key), DeTable::new()))
    }

    /// A table that makes a difference by being there.
    pub(super) fn optional_section(&mut self, key: &'static str) -> Option<Section<'r, 'e, 'i>> {
        let value = self.take(key)?;
        match value.into_inner() {
            DeValue::Table(table) => Some(self.enter(key, String::new(), self.line_of(key), table)),
            other => {
                self.fault(key, format!("expected a table [{}], found {}", join(&self.path, key), found(&other)));
                None
            }
        }
    }

    /// A list of tables.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'r, 'e, 'i>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let expected = format!("expected a list of tables, each beginning with [[{}]]", join(&self.path, key));
        let DeValue::Array(elements) = value.into_inner() else {
            self.fault(key, expected);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            let line = self.reader.line_at(element.span().start);
            match element.into_inner() {
                DeValue::Table(table) => sections.push(self.enter(key, format!("[{index}]"), line, table)),
                _ => self.fault(key, expected.clone()),
            }
        }
        sections
    }

    /// A list of tables, or a single one.
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Vec<Section<'r, 'e, 'i>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Table(_)) => {
                let only = self.optional_section(key);
                only.map(|only| Section { shape: format!("{}[]", only.shape), ..only }).into_iter().collect()
            }
            _ => self.sections(key),
        }
    }

    fn enter(&self, key: &str, position: String, line: usize, table: DeTable<'i>) -> Section<'r, 'e, 'i> {
        let brackets = if position.is_empty() { "" } else { "[]" };
        let path = format!("{}{position}", join(&self.path, key));
        let shape = format!("{}{brackets}", join(&self.shape, key));
        Section { reader: self.reader, path, shape, line, table, lines: HashMap::new() }
    }

    /// Refuses a key that people expect, and says what to write instead. Its value is not repeated.
    pub(super) fn refuse(&mut self, key: &'static str, instead: &str) {
        if self.take(key).is_some() {
            self.fault(key, instead);
        }
        self.lines.remove(key);
    }

    /// A fault of the key's value.
    pub(super) fn fault(&self, key: &'static str, message: impl Into<String>) {
        self.reader.fault(self.line_of(key), join(&self.path, key), message);
    }

    /// A fault of one element of the key's list.
    pub(super) fn fault_at(&self, key: &'static str, index: usize, message: impl Into<String>) {
        self.reader.fault(self.line_of(key), format!("{}[{index}]", join(&self.path, key)), message);
    }

    pub(super) fn warn(&self, key: &'static str, message: impl Into<String>) {
        self.reader.warn(self.line_of(key), join(&self.path, key), message.into());
    }

    /// The key path of this section.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let (line, name) = (self.reader.line_at(key.span().start), key.get_ref());
            let message = match nearest(name, self.lines.keys().copied()) {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => "unknown key".to_owned(),
            };
            self.reader.fault(line, join(&self.path, &bare_or_quoted(name)), message);
        }
    }

    fn line_of(&self, key: &'static str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        let entry = self.table.remove_entry(key);
        let line = entry.as_ref().map_or(self.line, |(key, _)| self.reader.line_at(key.span().start));
        self.lines.insert(key, line);
        entry.map(|(_, value)| value)
    }

    fn take_as<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        read(value.get_ref()).map_err(|why| self.fault(key, why)).ok()
    }
}

/// A file that the configuration names.
pub(super) struct FileContent {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) readable: Readable,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// The longest key for which a likely spelling is looked for.
const MAX_SUGGESTED_CHARS: usize = 40;

/// The known key that is nearest to what was written, if a third of its letters or fewer differ.
fn nearest(written: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if written.chars().count() > MAX_SUGGESTED_CHARS {
        return None;
    }
    let near = known.map(|key| (distance(written, key), key)).filter(|(distance, key)| *distance <= key.len().div_ceil(3));
    near.min().map(|(_, key)| key)
}

/// Levenshtein's distance: how many letters to insert, delete or replace.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(to.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(letter != other)).min(above + 1).min(left + 1);
            (diagonal, *cell) = (above, left);
        }
    }
    // The first column is never written, so an empty target costs the whole of `from`.
    if to.is_empty() { from.chars().count() } else { row.last().copied().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        for (written, suggestion) in [("tag_tll", Some("tag_ttl")), ("mirror", Some("mirrors")), ("completely", None), ("", None)] {
            assert_eq!(nearest(written, ["tag_ttl", "mirrors", "url"].into_iter()), suggestion, "{written}");
        }
        for (from, to, expected) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0), ("ab", "ba", 2)] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
