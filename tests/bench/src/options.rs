//! Options of the command line: `--name value`, all of them known and none twice.

use std::collections::HashMap;
use std::str::FromStr;

/// What was given, by name.
pub struct Options {
    usage: &'static str,
    given: HashMap<String, String>,
}

impl Options {
    /// Reads the command line. Ends the process with 64 and the usage when an option is unknown or has no value.
    pub fn from_command_line(usage: &'static str, known: &[&str]) -> Options {
        Options::read(std::env::args().skip(1), usage, known).unwrap_or_else(|fault| stop(&fault, usage))
    }

    fn read(mut words: impl Iterator<Item = String>, usage: &'static str, known: &[&str]) -> Result<Options, String> {
        let mut given = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").filter(|name| known.contains(name)).ok_or_else(|| format!("{word}: no such option"))?;
            let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
            if given.insert(name.to_owned(), value).is_some() {
                return Err(format!("{word}: given twice"));
            }
        }
        Ok(Options { usage, given })
    }

    /// A value, if it was given.
    pub fn optional<T: FromStr>(&self, name: &str) -> Option<T> {
        let text = self.given.get(name)?;
        Some(text.parse().unwrap_or_else(|_| stop(&format!("--{name} {text}: not understood"), self.usage)))
    }

    /// A value that must have been given.
    pub fn required<T: FromStr>(&self, name: &str) -> T {
        self.optional(name).unwrap_or_else(|| stop(&format!("--{name} is missing"), self.usage))
    }
}

fn stop(fault: &str, usage: &str) -> ! {
    eprintln!("{fault}\nusage: {usage}");
    std::process::exit(64)
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn read(words: &[&str]) -> Result<Options, String> {
        Options::read(words.iter().map(|word| word.to_string()), "", &["a", "b"])
    }

    #[test]
    fn options_are_known_and_single_and_have_values() {
        let options = read(&["--a", "7"]).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((options.optional::<u32>("a"), options.optional::<u32>("b")), (Some(7), None));
        for words in [&["--c", "1"][..], &["a"], &["--a"], &["--a", "1", "--a", "2"]] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
