//! Finds the configuration, reads it and judges it.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::files::{Files, Stamp};
use super::problem::{ConfigErrors, Problem, located};
use super::reader::{Findings, Reader};
use super::{Config, schema};

/// Where an environment variable's value is asked for.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variable that names the configuration file when no argument does.
const FILE_VARIABLE: &str = "OUTPORT_CONFIG";
/// What is used without any file. Its relative paths begin in the working directory.
const EMBEDDED: &str = include_str!("../../config/default.toml");
const EMBEDDED_ORIGIN: &str = "built-in configuration";

/// The variables of this process. One that is not UTF-8 counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A good configuration and what was learned while it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is allowed but hardly wanted, in the order of the lines.
    pub warnings: Vec<Problem>,
    /// A file's path, or `built-in configuration`.
    pub origin: String,
    /// Every file that was read, in the state it had just before.
    pub(super) files: Vec<(PathBuf, Stamp)>,
}

impl Loaded {
    /// Loads `path`, else the file that `OUTPORT_CONFIG` names, else the embedded default.
    ///
    /// # Errors
    /// All faults of the file, of the files it refers to and of the variables it refers to.
    pub fn load(path: Option<&Path>, environment: Environment<'_>) -> Result<Loaded, ConfigErrors> {
        let named = environment(FILE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let Some(path) = path.map(Path::to_owned).or(named) else {
            return parse(EMBEDDED_ORIGIN.to_owned(), EMBEDDED, Path::new(""), environment, Files::default());
        };
        let (origin, mut files) = (path.display().to_string(), Files::default());
        match files.read(&path) {
            Ok((text, _)) => parse(origin, &text, path.parent().unwrap_or(Path::new("")), environment, files),
            Err(message) => {
                let problems = vec![Problem { line: 0, key: String::new(), message }];
                Err(ConfigErrors { origin, problems, files: files.into_seen() })
            }
        }
    }

    /// What this becomes when a room finds a key unusable that reads well.
    pub fn refused(self, key: &str, message: String) -> ConfigErrors {
        let problems = vec![Problem { line: 0, key: key.to_owned(), message }];
        ConfigErrors { origin: self.origin, problems, files: self.files }
    }

    /// The warnings, each with the place where it stands.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().map(|warning| located(&self.origin, warning))
    }
}

impl Config {
    /// [`Loaded::load`] without what was learned on the way.
    ///
    /// # Errors
    /// The same.
    pub fn load(path: Option<&Path>, environment: Environment<'_>) -> Result<Config, ConfigErrors> {
        Loaded::load(path, environment).map(|loaded| loaded.config)
    }

    /// Reads a configuration from a text. Relative paths in it begin in `base_dir`.
    ///
    /// # Errors
    /// All faults of the text, and of what it refers to.
    pub fn parse(text: &str, base_dir: &Path, environment: Environment<'_>) -> Result<Config, ConfigErrors> {
        parse("configuration".to_owned(), text, base_dir, environment, Files::default()).map(|loaded| loaded.config)
    }
}

fn parse(origin: String, text: &str, base_dir: &Path, environment: Environment<'_>, files: Files) -> Result<Loaded, ConfigErrors> {
    let (config, findings) = read(text, base_dir, environment, files);
    let Findings { faults, warnings, files, .. } = findings;
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings, origin, files: files.into_seen() }),
        _ => Err(ConfigErrors { origin, problems: faults, files: files.into_seen() }),
    }
}

/// Everything that a text says. Without a configuration there is a fault of its syntax: guesses at its meaning would mislead.
pub(super) fn read(text: &str, base_dir: &Path, environment: Environment<'_>, files: Files) -> (Option<Config>, Findings) {
    let reader = Reader::new(text, base_dir, environment, files);
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        // `message` leaves out the line's text, which could be a secret.
        reader.fault(fault.span().map_or(0, |span| reader.line_at(span.start)), "", fault.message());
    }
    let config = faults.is_empty().then(|| schema::read(reader.root(document.into_inner())));
    (config, reader.into_findings())
}
