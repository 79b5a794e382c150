//! `[otlp]`: the collector that logs, traces and metrics are sent to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;
use url::Url;

use super::Secret;
use super::reader::Section;
use super::schema::{HOUR, MILLISECONDS_100, MINUTE, require_pem, seconds, secret_of_file, secret_of_variable, warn_of_plain_secret};

/// What can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Logs,
    Metrics,
}

/// All of them.
pub const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Logs, Signal::Metrics];

impl Signal {
    pub const fn as_str(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Logs => "logs",
            Signal::Metrics => "metrics",
        }
    }
}

/// A part of a whole, in hundredths: written `12.5%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share {
    percent: f64,
}

impl Share {
    pub const fn of_percent(percent: f64) -> Share {
        Share { percent }
    }

    /// From 0 to 1.
    pub fn fraction(self) -> f64 {
        self.percent / 100.0
    }
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Share, &'static str> {
        let percent = text.strip_suffix('%').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        let percent = percent.and_then(|number| number.parse::<f64>().ok()).filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(Share::of_percent).ok_or("not a share: a number from 0 to 100 and %, such as \"12.5%\"")
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent)
    }
}

/// The collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// Its OTLP/HTTP base: `/v1/traces` and so on come behind it.
    pub endpoint: Url,
    /// What each request says, by the names of headers in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// What is sent; empty means everything.
    pub signals: Vec<Signal>,
    /// Of the requests that belong to no trace, so many begin one.
    pub sample: Share,
    /// Between two readings of the metrics.
    pub interval: Duration,
    /// How long one try may take.
    pub timeout: Duration,
    /// Spans, and lines of the log, that wait, at most.
    pub queue: usize,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Networks, besides public ones, in which the collector may lie.
    pub private_networks: Vec<IpNet>,
}

impl Otlp {
    pub fn sends(&self, signal: Signal) -> bool {
        self.signals.is_empty() || self.signals.contains(&signal)
    }
}

/// Headers whose values do not belong into a configuration: those that are called so, or end so.
const SECRET_ENDINGS: &[&str] = &["authorization", "key", "token", "secret", "password"];

pub(super) fn read(mut section: Section<'_, '_, '_>) -> Option<Otlp> {
    let endpoint: Option<Url> = section.required("endpoint");
    let headers = read_headers(&mut section);
    if !headers.is_empty() {
        warn_of_plain_secret(&section, "endpoint", endpoint.as_slice(), "what the headers say");
    }
    let signals = section.list("signals");
    let sample = section.or("sample", Share::of_percent(10.0));
    let interval = section.bounded("interval", seconds(MINUTE), seconds(1)..=seconds(HOUR));
    let timeout = section.bounded("timeout", seconds(10), MILLISECONDS_100..=seconds(MINUTE));
    let queue = section.bounded("queue", 2_048, 1..=100_000);
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let private_networks = section.list("private_networks");
    section.finish();
    let ca_file = ca_file.map(|file| file.path);
    Some(Otlp { endpoint: endpoint?, headers, signals, sample, interval, timeout, queue, ca_file, private_networks })
}

fn read_headers(section: &mut Section<'_, '_, '_>) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, value) in section.entries::<String>("headers") {
        if SECRET_ENDINGS.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending)) {
            section.fault(
                "headers",
                format!("the value of {name:?} does not stand in the configuration: use headers_from_files or headers_from_env"),
            );
        }
        add(section, "headers", &mut headers, &name, Some(Secret::new(value)));
    }
    for (name, path) in section.entries::<PathBuf>("headers_from_files") {
        let value = section.open("headers_from_files", &path).and_then(|file| secret_of_file(section, "headers_from_files", &file));
        add(section, "headers_from_files", &mut headers, &name, value);
    }
    for (name, variable) in section.entries::<String>("headers_from_env") {
        let value = secret_of_variable(section, "headers_from_env", &variable);
        add(section, "headers_from_env", &mut headers, &name, value);
    }
    headers
}

fn add(section: &Section<'_, '_, '_>, key: &'static str, headers: &mut BTreeMap<String, Secret>, name: &str, value: Option<Secret>) {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        return section.fault(key, format!("{name:?} is not the name of a header"));
    };
    let of_the_message = [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::USER_AGENT, header::PROXY_AUTHORIZATION];
    if of_the_message.contains(&header) || header.as_str().starts_with("content-") {
        return section.fault(key, format!("{name:?} is set by outport itself"));
    }
    if headers.contains_key(header.as_str()) {
        section.fault(key, format!("{name:?} is given twice"));
    }
    let Some(value) = value else { return };
    if HeaderValue::from_str(value.expose()).is_err() {
        section.fault(key, format!("what {name:?} is to say is not the value of a header"));
    }
    headers.insert(header.as_str().to_owned(), value);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tests::{faults, parse};
    use crate::config::{Config, ConfigErrors};

    fn with(lines: &str) -> Result<Config, ConfigErrors> {
        let environment = |name: &str| match name {
            "KEY" => Some("a key".to_owned()),
            "LINES" => Some("a\nb".to_owned()),
            _ => None,
        };
        let text = format!("[otlp]\nendpoint = \"https://collector.example.com\"\n{lines}");
        Config::parse(&text, Path::new("/nowhere"), &environment)
    }

    #[test]
    fn nothing_is_sent_unless_somebody_says_where() {
        assert_eq!(parse("").unwrap().otlp, None);
        let otlp = with("").unwrap().otlp.unwrap();
        assert!(SIGNALS.iter().all(|signal| otlp.sends(*signal)));
        assert_eq!((otlp.sample.fraction(), otlp.queue, otlp.headers.len()), (0.1, 2_048, 0));
        let otlp = with("signals = ['logs']\nsample = '0.5%'\nheaders.X-Tenant = 'eu'\nheaders_from_env.x-api-key = 'KEY'").unwrap();
        assert!(!format!("{otlp:?}").contains("a key"));
        let otlp = otlp.otlp.unwrap();
        assert_eq!((otlp.sends(Signal::Traces), otlp.sends(Signal::Logs), otlp.sample.fraction()), (false, true, 0.005));
        let headers: Vec<_> = otlp.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("x-api-key", "a key"), ("x-tenant", "eu")]);
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_its_key() {
        for (lines, expected) in [
            ("signals = [\"profiles\"]", r#"otlp.signals[0]: "profiles" is not "traces", "logs" or "metrics""#),
            ("sample = 0.1", r#"otlp.sample: expected a share such as "10%", found a fraction"#),
            ("sample = '101%'", r#"otlp.sample: "101%" is not a share: a number from 0 to 100 and %"#),
            ("sample = '-1%'", r#"otlp.sample: "-1%" is not a share"#),
            ("sample = 'inf%'", r#"otlp.sample: "inf%" is not a share"#),
            ("sample = '1.2.3%'", r#"otlp.sample: "1.2.3%" is not a share"#),
            ("interval = '10ms'", r#"otlp.interval: "10ms" is out of bounds: "1s" to "1h""#),
            ("queue = 0", "otlp.queue: 0 is out of bounds: 1 to 100000"),
            ("headers.Authorization = 'hunter2'", r#"otlp.headers: the value of "Authorization" does not stand in the configuration"#),
            ("headers.\"a b\" = 'x'", r#"otlp.headers: "a b" is not the name of a header"#),
            ("headers.Content-Type = 'x'", r#"otlp.headers: "Content-Type" is set by outport itself"#),
            ("headers.x-a = 'x'\nheaders_from_env.X-A = 'KEY'", r#"otlp.headers_from_env: "X-A" is given twice"#),
            ("headers_from_env.x-a = 'LINES'", r#"otlp.headers_from_env: what "x-a" is to say is not the value of a header"#),
            ("headers_from_env.x-a = 'NONE'", r#"otlp.headers_from_env: the environment variable "NONE" is not set"#),
            ("headers_from_files.x-a = 'none'", "otlp.headers_from_files: cannot read /nowhere/none"),
        ] {
            let found = with(lines).unwrap_err().to_string();
            assert!(found.contains(expected) && !found.contains("hunter2"), "{lines}: {found}");
        }
        assert_eq!(faults("[otlp]"), ["1: otlp.endpoint: is missing"]);
        let found = faults("otlp.endpoint = 'http://a?token=hunter2'").concat();
        assert!(found.contains("otlp.endpoint: the URL must have no ?") && !found.contains("hunter2"), "{found}");
    }
}
