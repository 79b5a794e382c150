//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::PathBuf;

/// One fault, or one warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Counted from 1; 0 when it lies in no line.
    pub line: usize,
    /// The key path such as `upstream[1].tag_ttl`; empty for the file as a whole.
    pub key: String,
    /// Never contains a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Every fault of a configuration, in the order of its lines. `Display` writes one line for each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// Where the text came from: a file's path, or `built-in configuration`.
    pub origin: String,
    /// At least one.
    pub problems: Vec<Problem>,
    /// The files that were read or missed on the way: a change of one of them may mend it.
    pub(super) files: Vec<(PathBuf, super::files::Stamp)>,
}

impl ConfigErrors {
    /// The lines of `Display`: `outport.toml:12: upstream[1].tag_ttl: "5x" is not a duration: ...`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|problem| located(&self.origin, problem))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

/// The problem with the place where it stands.
pub(super) fn located(origin: &str, problem: &Problem) -> String {
    match problem.line {
        0 => format!("{origin}: {problem}"),
        line => format!("{origin}:{line}: {problem}"),
    }
}
