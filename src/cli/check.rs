//! `outport check`: reads the configuration as `serve` would, and reports everything that is wrong with it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{FAILED, USAGE};
use crate::bucket;
use crate::config::{Config, ConfigErrors, Environment, Loaded, Problem, process_environment};

/// Checks the configuration that `serve` would use with this `--config`. Text about faults and warnings goes to the error output, the
/// summary to the output; with `json` everything goes to the output as one document. Exit code 0 when good, 64 when not, 1 when the
/// result cannot be written.
pub fn run(config_path: Option<&Path>, json: bool) -> ExitCode {
    let verdict = Verdict::reach(config_path, &process_environment);
    let written = match json {
        true => verdict.write_json(&mut io::stdout()),
        false => verdict.write_text(&mut io::stdout(), &mut io::stderr()),
    };
    match (written, &verdict.outcome) {
        (Err(_), _) => ExitCode::from(FAILED),
        (Ok(()), Ok(_)) => ExitCode::SUCCESS,
        (Ok(()), Err(_)) => ExitCode::from(USAGE),
    }
}

struct Verdict {
    outcome: Result<Loaded, ConfigErrors>,
}

impl Verdict {
    fn reach(config_path: Option<&Path>, environment: Environment<'_>) -> Verdict {
        let outcome = Loaded::load(config_path, environment).and_then(|loaded| match bucket::check(&loaded.config.bucket) {
            Ok(()) => Ok(loaded),
            Err(error) => Err(loaded.refused("bucket", error.to_string())),
        });
        Verdict { outcome }
    }

    fn write_text(&self, output: &mut dyn Write, errors: &mut dyn Write) -> io::Result<()> {
        match &self.outcome {
            Ok(loaded) => {
                for warning in loaded.warning_lines() {
                    writeln!(errors, "warning: {warning}")?;
                }
                writeln!(output, "{}: configuration is good: {}", loaded.origin, summary(&loaded.config))
            }
            Err(faults) => faults.lines().try_for_each(|line| writeln!(errors, "{line}")),
        }
    }

    fn write_json(&self, output: &mut dyn Write) -> io::Result<()> {
        let document = match &self.outcome {
            Ok(loaded) => json!({
                "good": true,
                "origin": loaded.origin,
                "errors": [],
                "warnings": problems(&loaded.warnings),
                "upstreams": loaded.config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>(),
                "principals": loaded.config.principals.iter().map(|principal| principal.name.as_str()).collect::<Vec<_>>(),
                "listeners": listeners(&loaded.config),
            }),
            Err(faults) => json!({ "good": false, "origin": faults.origin, "errors": problems(&faults.problems), "warnings": [] }),
        };
        writeln!(output, "{document}")
    }
}

fn summary(config: &Config) -> String {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, {}, {}",
        count(config.upstreams.len(), "upstream"),
        count(config.principals.len(), "principal"),
        listeners(config).join(", ")
    )
}

/// The registry listeners as URLs, as far as an address tells.
fn listeners(config: &Config) -> Vec<String> {
    let shown = |tls: bool, address: std::net::SocketAddr| format!("{}://{address}", if tls { "https" } else { "http" });
    let also = config.listen.also.iter().map(|also| shown(also.tls, also.address));
    std::iter::once(shown(config.tls.is_some(), config.listen.registry)).chain(also).collect()
}

fn problems(problems: &[Problem]) -> Vec<Value> {
    problems.iter().map(|problem| json!({ "line": problem.line, "key": problem.key, "message": problem.message })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output and the error output for a configuration file with this text.
    fn check(text: &str) -> (String, String, Value) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outport.toml");
        std::fs::write(&path, text).unwrap();
        let verdict = Verdict::reach(Some(&path), &|_| None);
        let (mut output, mut errors, mut document) = (Vec::new(), Vec::new(), Vec::new());
        verdict.write_text(&mut output, &mut errors).unwrap();
        verdict.write_json(&mut document).unwrap();
        let shown = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&format!("{}/", folder.path().display()), "");
        (shown(output), shown(errors), serde_json::from_slice(&document).unwrap())
    }

    #[test]
    fn a_good_configuration_is_summed_up() {
        let (output, errors, document) = check("[[upstream]]\nname = 'a.io'\nurl = 'https://a.io'\n[listen]\nregistry = '0.0.0.0:80'\n");
        assert_eq!(output, "outport.toml: configuration is good: 1 upstream, 0 principals, http://0.0.0.0:80\n");
        assert!(errors.starts_with("warning: outport.toml:5: listen.registry: 0.0.0.0:80 is off loopback"), "{errors}");
        assert_eq!((&document["good"], &document["upstreams"]), (&json!(true), &json!(["a.io"])));
        assert_eq!(document["warnings"][0]["key"], "listen.registry");
    }

    #[test]
    fn every_fault_of_a_wrong_one_has_its_line() {
        let (output, errors, document) = check("region = 5\ncolour = 1\n");
        assert_eq!(output, "");
        assert_eq!(errors, "outport.toml:1: region: expected a text, found an integer\noutport.toml:2: colour: unknown key\n");
        assert_eq!(document["good"], false);
        assert_eq!(document["errors"][1], json!({ "line": 2, "key": "colour", "message": "unknown key" }));
    }

    #[test]
    fn options_that_the_bucket_does_not_have_are_faults() {
        let (_, errors, document) = check("[bucket]\nurl = 's3://images'\noptions = { colour = 'red' }\n");
        assert_eq!(errors, "outport.toml: bucket: not usable: s3://images has no option \"colour\"\n");
        assert_eq!(document["good"], false);
    }

    #[test]
    fn the_exit_code_tells() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
        std::fs::write(&good, "").unwrap();
        std::fs::write(&bad, "x = 1").unwrap();
        let code = |path: &Path| run(Some(path), true);
        assert_eq!(format!("{:?}", code(&good)), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(format!("{:?}", code(&bad)), format!("{:?}", ExitCode::from(USAGE)));
        assert_eq!(format!("{:?}", code(&folder.path().join("none"))), format!("{:?}", ExitCode::from(USAGE)));
    }
}
