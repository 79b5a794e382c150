//! A registry's client beside an edge: pushes and pulls as docker or podman do, and checks every byte.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};

use super::DemoError;
use super::image::{Blob, Image, MANIFEST};
use crate::clock::Clock;
use crate::dial;
use crate::metrics::Metrics;
use crate::oci::Digest;

/// The longest answer that is read: more than any content here has.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(20);
const MAX_CONNECTIONS: usize = 128;

/// The request's and the answer's header: a place in a region's ledger.
pub(super) const POSITION: &str = "Outport-Position";

/// Sends requests to one listener. Clones share connections.
#[derive(Clone)]
pub(super) struct Client {
    http: dial::Client,
    base: String,
}

pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The answer, if it has this status.
    pub fn expect(self, what: &str, status: StatusCode) -> Result<Answer, DemoError> {
        if self.status == status {
            return Ok(self);
        }
        let found = format!("{} {}", self.status, String::from_utf8_lossy(&self.body));
        Err(DemoError::wrong(what, status, found.trim_end()))
    }

    /// The body; null where it is something else than JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.body)
    }
}

/// An image that came whole and right.
pub(super) struct Pulled {
    pub took: Duration,
    /// Where the manifest came from, and how fresh the edge calls it.
    pub source: String,
    pub freshness: String,
}

impl Client {
    /// A client that reaches this machine only.
    pub fn new(base: String) -> Result<Client, DemoError> {
        let settings = dial::Settings {
            ca_file: None,
            private_networks: Vec::new(),
            named_hosts: vec!["127.0.0.1".to_owned()],
            connect_timeout: CONNECT_TIME,
            read_timeout: ANSWER_TIME,
            max_connections: MAX_CONNECTIONS,
            max_idle: MAX_CONNECTIONS,
            server_name: None,
        };
        let resolver = dial::Resolver::new(Clock::system(), Metrics::new())?;
        Ok(Client { http: dial::Client::new(settings, resolver, dial::Proxies::none())?, base })
    }

    /// The same client, for another listener.
    pub fn at(&self, base: String) -> Client {
        Client { http: self.http.clone(), base }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, DemoError> {
        self.send(Method::GET, path, headers, Bytes::new()).await
    }

    pub async fn head(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, DemoError> {
        self.send(Method::HEAD, path, headers, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Answer, DemoError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.http.send(request.body(Full::new(body)).map_err(DemoError::broken)?).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(DemoError::broken)?.to_bytes();
        Ok(Answer { status, headers, body })
    }

    /// Pushes an image and returns the position of its manifest.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String, DemoError> {
        try_join_all(image.blobs.iter().map(|blob| self.push_blob(repository, blob))).await?;
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.send(Method::PUT, &path, &[(header::CONTENT_TYPE.as_str(), MANIFEST)], image.manifest.bytes.clone()).await?;
        let answer = answer.expect(&format!("a push of {repository}:{tag}"), StatusCode::CREATED)?;
        Ok(answer.header(POSITION).to_owned())
    }

    async fn push_blob(&self, repository: &str, blob: &Blob) -> Result<(), DemoError> {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", blob.digest);
        let kind = (header::CONTENT_TYPE.as_str(), "application/octet-stream");
        let answer = self.send(Method::POST, &path, &[kind], blob.bytes.clone()).await?;
        answer.expect(&format!("a push of a blob to {repository}"), StatusCode::CREATED).map(drop)
    }

    pub async fn manifest(&self, repository: &str, reference: &str, headers: &[(&str, &str)]) -> Result<Answer, DemoError> {
        let accept = [(header::ACCEPT.as_str(), MANIFEST)];
        self.get(&format!("/v2/{repository}/manifests/{reference}"), &[headers, &accept].concat()).await
    }

    /// Pulls the manifest, then everything that it names, and checks that it is `image`.
    pub async fn pull(&self, repository: &str, reference: &str, image: &Image) -> Result<Pulled, DemoError> {
        let started = Instant::now();
        let what = format!("a pull of {repository}:{reference} from {}", self.base);
        let manifest = self.manifest(repository, reference, &[]).await?.expect(&what, StatusCode::OK)?;
        if manifest.digest() != image.manifest.digest {
            return Err(DemoError::wrong(&what, image.manifest.digest, manifest.digest()));
        }
        try_join_all(image.blobs.iter().map(|blob| self.pull_blob(repository, blob.digest))).await?;
        let header = |name| manifest.header(name).to_owned();
        Ok(Pulled { took: started.elapsed(), source: header("outport-source"), freshness: header("outport-freshness") })
    }

    async fn pull_blob(&self, repository: &str, digest: Digest) -> Result<(), DemoError> {
        let what = format!("a pull of a blob of {repository} from {}", self.base);
        let answer = self.get(&format!("/v2/{repository}/blobs/{digest}"), &[]).await?.expect(&what, StatusCode::OK)?;
        if answer.digest() == digest { Ok(()) } else { Err(DemoError::wrong(&what, digest, answer.digest())) }
    }
}
