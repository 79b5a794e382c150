//! Asking a running edge: one request to its registry listener.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use super::columns::in_query;
use super::{FAILED, TRY_AGAIN, UNAVAILABLE, USAGE};
use crate::clock::Clock;
use crate::config::{Config, process_environment};
use crate::dial;
use crate::metrics::Metrics;

/// The longest answer that is read: what a large repository had is a long list.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// A prefetch of a large image over a long link may take this long.
const ANSWER_TIME: Duration = Duration::from_secs(3600);

/// Entries of a list in one answer, and answers for one list.
const PAGE: usize = 100;
const MAX_PAGES: usize = 1_000;

/// Which edge to ask, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Edge {
    /// The edge's registry listener; else the configuration's public_url, else its listener on this machine
    #[arg(long, value_name = "URL")]
    edge: Option<url::Url>,
    /// Who asks; without it, nobody in particular
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// A file with the password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Certificate authorities beside the system's, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// What a command is told that only shows what an edge has.
#[derive(Debug, clap::Args)]
pub(super) struct Shown {
    #[command(flatten)]
    pub(super) edge: Edge,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Why an edge did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Usage(String),
    #[error("the edge cannot be asked: {0}")]
    Unavailable(String),
    /// The edge could not tell just now.
    #[error("{0}")]
    TryAgain(String),
    #[error("{0}")]
    Refused(String),
}

impl AskError {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            AskError::Usage(_) => USAGE,
            AskError::Unavailable(_) => UNAVAILABLE,
            AskError::TryAgain(_) => TRY_AGAIN,
            AskError::Refused(_) => FAILED,
        })
    }
}

impl Edge {
    /// Sends `question` to `path` of the edge and returns its JSON answer.
    pub(super) fn ask(&self, config: Option<&Path>, path: &str, question: &Value) -> Result<Value, AskError> {
        self.order(config, Method::POST, path, Some(question))
    }

    /// Sends a request with a body of JSON, or with none, to `path` of the edge and returns its JSON answer.
    pub(super) fn order(&self, config: Option<&Path>, method: Method, path: &str, body: Option<&Value>) -> Result<Value, AskError> {
        let request = Request::builder().method(method).uri(path);
        let request = match body {
            Some(body) => {
                let request = request.header(header::CONTENT_TYPE, "application/json");
                request.body(Full::new(Bytes::from(body.to_string())))
            }
            None => request.body(Full::default()),
        };
        self.run(config, request.map_err(usage)?)
    }

    /// Reads the JSON at `path` of the edge.
    pub(super) fn read(&self, config: Option<&Path>, path: &str) -> Result<Value, AskError> {
        self.order(config, Method::GET, path, None)
    }

    /// Changes what is at `path` of the edge, and returns what it is then.
    pub(super) fn change(&self, config: Option<&Path>, path: &str, question: &Value) -> Result<Value, AskError> {
        let request = Request::patch(path).header(header::CONTENT_TYPE, "application/json");
        self.run(config, request.body(Full::new(Bytes::from(question.to_string()))).map_err(usage)?)
    }

    /// Deletes what is at `path` of the edge.
    pub(super) fn delete(&self, config: Option<&Path>, path: &str) -> Result<Value, AskError> {
        self.run(config, Request::delete(path).body(Full::default()).map_err(usage)?)
    }

    fn run(&self, config: Option<&Path>, request: Request<Full<Bytes>>) -> Result<Value, AskError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| AskError::Unavailable(error.to_string()))?;
        runtime.block_on(self.send(config, request))
    }

    /// Reads all of a list, whose entries stand under `name` and are in order by `key`.
    pub(super) fn read_all(&self, config: Option<&Path>, path: &str, (name, key): (&str, &str)) -> Result<Vec<Value>, AskError> {
        let (mut found, mut last) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let answer = self.read(config, &format!("{path}?n={PAGE}&last={}", in_query(&last)))?;
            found.extend(answer[name].as_array().cloned().unwrap_or_default());
            let Some(end) = found.last().filter(|_| answer["more"] == true) else { break };
            last = end[key].as_str().unwrap_or_default().to_owned();
        }
        Ok(found)
    }

    /// Sends a request whose URI is a path of the edge.
    async fn send(&self, config: Option<&Path>, mut request: Request<Full<Bytes>>) -> Result<Value, AskError> {
        let base = match &self.edge {
            Some(url) => url.clone(),
            None => local_edge(config)?,
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = base.join(path).map_err(usage)?.as_str().parse().map_err(usage)?;
        let host = uri.host().ok_or_else(|| AskError::Usage(format!("{base} has no host")))?.to_owned();
        let settings = dial::Settings {
            ca_file: self.ca_file.clone(),
            // The operator names the edge, wherever it is.
            private_networks: ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect(),
            named_hosts: vec![host],
            connect_timeout: Duration::from_secs(10),
            read_timeout: ANSWER_TIME,
            max_connections: 1,
            max_idle: 1,
            server_name: None,
        };
        let unavailable = |error: dial::DialError| AskError::Unavailable(error.to_string());
        let resolver = dial::Resolver::new(Clock::system(), Metrics::new()).map_err(unavailable)?;
        let client = dial::Client::new(settings, resolver, dial::Proxies::none()).map_err(unavailable)?;
        *request.uri_mut() = uri;
        if let Some(credentials) = self.credentials()? {
            request.headers_mut().insert(header::AUTHORIZATION, credentials.parse().map_err(usage)?);
        }
        let answer = client.send(request).await.map_err(unavailable)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|error| AskError::Unavailable(error.to_string()))?.to_bytes();
        judge(status, &body)
    }

    fn credentials(&self) -> Result<Option<String>, AskError> {
        let Some((username, file)) = self.username.as_ref().zip(self.password_file.as_ref()) else { return Ok(None) };
        let password = std::fs::read_to_string(file).map_err(|error| AskError::Usage(format!("{}: {error}", file.display())))?;
        let pair = format!("{username}:{}", password.trim_end_matches(['\r', '\n']));
        Ok(Some(format!("Basic {}", STANDARD.encode(pair))))
    }
}

fn usage(error: impl std::fmt::Display) -> AskError {
    AskError::Usage(error.to_string())
}

/// The edge that the configuration describes.
fn local_edge(config: Option<&Path>) -> Result<url::Url, AskError> {
    let config = Config::load(config, &process_environment).map_err(usage)?;
    if let Some(url) = config.listen.public_url {
        return Ok(url);
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let mut address = config.listen.registry;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    format!("{scheme}://{address}").parse().map_err(usage)
}

fn judge(status: StatusCode, body: &[u8]) -> Result<Value, AskError> {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(json);
    }
    let message =
        json.pointer("/errors/0/message").and_then(Value::as_str).unwrap_or_else(|| status.canonical_reason().unwrap_or_default());
    let detail = json.pointer("/errors/0/detail").and_then(Value::as_str).map(|detail| format!(": {detail}")).unwrap_or_default();
    let message = format!("{}: {message}{detail}", status.as_u16());
    Err(match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => AskError::TryAgain(message),
        // The edge could not read what it was asked.
        StatusCode::BAD_REQUEST => AskError::Usage(message),
        _ => AskError::Refused(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        assert_eq!(judge(StatusCode::OK, b"{\"a\":1}").unwrap()["a"], 1);
        let denied = judge(StatusCode::UNAUTHORIZED, br#"{"errors":[{"code":"UNAUTHORIZED","message":"sign in"}]}"#).unwrap_err();
        assert_eq!(denied.to_string(), "401: sign in");
        let body = br#"{"errors":[{"code":"UNAVAILABLE","message":"not everywhere yet","detail":"us does not know it yet"}]}"#;
        let waiting = judge(StatusCode::SERVICE_UNAVAILABLE, body).unwrap_err();
        assert_eq!(waiting.to_string(), "503: not everywhere yet: us does not know it yet");
        for (status, code) in [(503, TRY_AGAIN), (429, TRY_AGAIN), (400, USAGE), (404, FAILED)] {
            let error = judge(StatusCode::from_u16(status).unwrap(), b"").unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::from(code), "{status}");
        }
    }
}
