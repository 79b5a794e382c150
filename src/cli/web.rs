//! Questions to servers that a person or a cluster names: registries, and the identity providers that these name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;
use url::form_urlencoded::Serializer;

use super::{FAILED, TRY_AGAIN, UNAVAILABLE, USAGE};
use crate::clock::Clock;
use crate::dial;
use crate::metrics::Metrics;

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// From the question to the end of the answer. The kubelet waits for a minute.
const ANSWER_TIME: Duration = Duration::from_secs(25);
/// Characters of what a server says that are shown.
const MAX_SHOWN_CHARS: usize = 300;

/// Why a command that signs somebody in did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("{0}")]
    Usage(String),
    #[error("{0} cannot be asked: {1}")]
    Unavailable(String, String),
    /// It could not tell just now.
    #[error("{0} answers {1}")]
    TryAgain(String, String),
    #[error("{0} answers {1}")]
    Refused(String, String),
    #[error("{0}")]
    Failed(String),
}

impl WebError {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            WebError::Usage(_) => USAGE,
            WebError::Unavailable(..) => UNAVAILABLE,
            WebError::TryAgain(..) => TRY_AGAIN,
            WebError::Refused(..) | WebError::Failed(_) => FAILED,
        })
    }
}

/// A registry as its user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    /// As it stands before the names of its images, and in credential stores: a host, and a port or none.
    pub(super) host: String,
    base: Url,
}

/// How a registry is reached.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Reach {
    /// Certificate authorities beside the system's, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Ask the registry by HTTP without TLS
    #[arg(long)]
    pub(super) plain_http: bool,
}

impl Registry {
    /// `HOST` or `HOST:PORT`; also as a URL, whose scheme then counts.
    pub(super) fn parse(text: &str, reach: &Reach) -> Result<Registry, WebError> {
        let wrong = || WebError::Usage(format!("{text:?} is not a registry such as registry.example.com or registry.example.com:5000"));
        let scheme = if reach.plain_http { "http" } else { "https" };
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
        let base: Url = with_scheme.parse().map_err(|_| wrong())?;
        let is_bare = base.path() == "/" && base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_bare || !base.username().is_empty() || base.password().is_some() {
            return Err(wrong());
        }
        let name = base.host_str().ok_or_else(wrong)?;
        // Where the port is the scheme's own, it stands only if it was written.
        let written = with_scheme.split_once("://").map_or("", |(_, rest)| rest.trim_end_matches('/'));
        let host = if written.is_empty() { name.to_owned() } else { written.to_ascii_lowercase() };
        Ok(Registry { host, base })
    }

    pub(super) fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }
}

/// An answer of any status; `Null` for one that is no JSON.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) json: Value,
}

pub(super) struct Web(dial::Client);

impl Web {
    /// Whoever uses it names the servers, wherever they are.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Web, WebError> {
        let settings = dial::Settings {
            ca_file: ca_file.map(Path::to_owned),
            private_networks: ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect(),
            named_hosts: Vec::new(),
            connect_timeout: CONNECT_TIME,
            read_timeout: ANSWER_TIME,
            max_connections: 1,
            max_idle: 1,
            server_name: None,
        };
        let failed = |why: dial::DialError| WebError::Usage(why.to_string());
        let resolver = dial::Resolver::new(Clock::system(), Metrics::new()).map_err(failed)?;
        Ok(Web(dial::Client::new(settings, resolver, dial::Proxies::from_environment()).map_err(failed)?))
    }

    pub(super) async fn get(&self, url: &Url) -> Result<Answer, WebError> {
        self.send(url, Request::get(url.as_str()).body(Full::default())).await
    }

    pub(super) async fn post(&self, url: &Url, fields: &[(&str, &str)]) -> Result<Answer, WebError> {
        let form = Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(url.as_str()).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(url, request.body(Full::new(Bytes::from(form)))).await
    }

    async fn send(&self, url: &Url, request: http::Result<Request<Full<Bytes>>>) -> Result<Answer, WebError> {
        let host = url.host_str().unwrap_or_default();
        let unavailable = |why: &dyn std::fmt::Display| WebError::Unavailable(host.to_owned(), why.to_string());
        let mut request = request.map_err(|why| unavailable(&why))?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
        let asking = async {
            let answer = self.0.send(request).await.map_err(|why| unavailable(&why))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|why| unavailable(&why))?;
            Ok(Answer { status, json: serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null) })
        };
        timeout(ANSWER_TIME, asking).await.unwrap_or_else(|_| Err(unavailable(&"no answer in time")))
    }
}

impl Answer {
    /// The JSON of a success; else what `host` says is wrong.
    pub(super) fn success(self, host: &str) -> Result<Value, WebError> {
        if self.status.is_success() {
            return Ok(self.json);
        }
        let said = ["/errors/0/message", "/error_description", "/error"];
        let said = said.iter().find_map(|place| self.json.pointer(place)).and_then(Value::as_str);
        let said = said.map(|said| format!(": {}", shown(said))).unwrap_or_default();
        let told = format!("{}{said}", self.status.as_u16());
        Err(match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => WebError::TryAgain(host.to_owned(), told),
            _ => WebError::Refused(host.to_owned(), told),
        })
    }
}

/// What a server says, as a terminal may show it.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_SHOWN_CHARS).collect()
}

/// Exchanges a provider's token at a registry for one of its refresh tokens.
pub(super) async fn exchange(web: &Web, registry: &Registry, token: &str) -> Result<String, WebError> {
    let fields = [("grant_type", "access_token"), ("service", registry.host.as_str()), ("access_token", token)];
    let answer = web.post(&registry.at("/oauth2/exchange"), &fields).await?.success(&registry.host)?;
    let token = answer.get("refresh_token").and_then(Value::as_str).filter(|token| !token.is_empty());
    token.map(str::to_owned).ok_or_else(|| WebError::Failed(format!("{} answers without a refresh token", registry.host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_written_in_several_ways() {
        let plain = Reach { plain_http: true, ..Reach::default() };
        for (text, reach, host, url) in [
            ("registry.example.com", Reach::default(), "registry.example.com", "https://registry.example.com/v2/"),
            ("Registry.example.com:5000", Reach::default(), "registry.example.com:5000", "https://registry.example.com:5000/v2/"),
            ("registry.example.com:443", Reach::default(), "registry.example.com:443", "https://registry.example.com/v2/"),
            ("127.0.0.1:5000", plain.clone(), "127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("http://[::1]:5000/", Reach::default(), "[::1]:5000", "http://[::1]:5000/v2/"),
            ("https://a.example", plain, "a.example", "https://a.example/v2/"),
        ] {
            let registry = Registry::parse(text, &reach).unwrap();
            assert_eq!((registry.host.as_str(), registry.at("/v2/").as_str()), (host, url), "{text}");
        }
        for text in ["", "a/b", "ftp://a", "user@a", "a?b", "a:b", "https://"] {
            assert!(matches!(Registry::parse(text, &Reach::default()), Err(WebError::Usage(_))), "{text}");
        }
    }

    #[test]
    fn what_a_server_says_is_shown_without_control_characters() {
        let refused = |status: u16, json| Answer { status: StatusCode::from_u16(status).unwrap(), json }.success("a").unwrap_err();
        let said = refused(401, serde_json::json!({ "errors": [{ "message": "no\u{1b}[2J\n" }] }));
        assert_eq!(said.to_string(), "a answers 401: no[2J");
        assert_eq!(refused(400, serde_json::json!({ "error": "invalid_grant" })).to_string(), "a answers 400: invalid_grant");
        for (status, code) in [(503, TRY_AGAIN), (429, TRY_AGAIN), (404, FAILED)] {
            assert_eq!(refused(status, Value::Null).exit_code(), ExitCode::from(code), "{status}");
        }
    }
}
