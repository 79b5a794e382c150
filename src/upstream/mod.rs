//! Origin registries: client, challenge and tokens, health.
//!
//! One [`Upstream`] for each that is configured. It asks its mirrors and then itself, each with a health of its own: a circuit
//! that opens after repeated failures, and the waits that it told. A request is `attempt` (once through the circuit) around
//! `authenticated` (token or password) around `follow` (redirects) in `endpoint`, and what its answer claims is checked in
//! `content` and `lists`.
//!
//! Architecture invariants. Credentials go to the origin of `url` and to realms that `origin::realm` lets pass, nowhere else.
//! A caller's own credentials (`callers`) go where the configured ones would. Nothing here remembers content: every call is at least one request, unless the upstream is known not to answer.

mod breaker;
mod budget;
mod callers;
pub mod challenge;
mod content;
mod endpoint;
mod error;
mod headers;
mod lists;
mod origin;
mod push;
mod sending;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::Semaphore;
use url::Url;

pub use breaker::Circuit;
use budget::Budget;
use callers::Callers;
pub use callers::Glimpse;
pub use content::{BlobTransfer, FetchedManifest, ManifestHead};
use endpoint::{Ask, Endpoint, Role, Scope};
pub use error::UpstreamError;
pub use headers::RateLimit;
pub use push::{BlobPush, BlobPushed, ManifestPush, SubjectNoted};
pub use sending::{ContentStream, Outgoing};
use tokens::Credentials;
use wire::Wire;

use crate::access::Pattern;
use crate::clock::Clock;
use crate::config;
use crate::dial::{self, DialError};
use crate::metrics::Metrics;
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag};

/// What this program calls itself.
const AGENT: &str = concat!("outport/", env!("CARGO_PKG_VERSION"));

/// An origin registry with its mirrors. Repositories are named as the upstream names them, without a prefix. Every call is a
/// few requests, of which each wait is bounded by `connect_timeout` or `read_timeout`; the caller bounds the whole, and may drop
/// any future at any time: a circuit learns from callers that gave up, too.
pub struct Upstream {
    wire: Arc<Wire>,
    mirrors: Vec<Arc<Endpoint>>,
    main: Arc<Endpoint>,
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    tag_ttl: Duration,
    authorization_ttl: Duration,
    max_connections: usize,
    whose: Whose,
}

/// With whose credentials an upstream is asked.
enum Whose {
    /// The edge's own.
    Edge,
    /// Each caller's: it says itself which of them may read what.
    EachCaller(Box<Callers>),
    /// Those of one caller, as whose this is the view.
    OneCaller,
}

/// How an upstream is, as far as its answers told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The mirrors, then the upstream itself.
    pub endpoints: Vec<EndpointHealth>,
    pub rate_limit: Option<RateLimit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    pub host: String,
    pub circuit: Circuit,
    /// How long requests to it will fail at once: its circuit is open, or it told to wait.
    pub refuses_for: Option<Duration>,
}

impl Health {
    /// Whether a request would be sent at all.
    pub fn is_available(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.refuses_for.is_none())
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(self.name()).finish()
    }
}

impl Upstream {
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn new(
        config: &config::Upstream,
        resolver: dial::Resolver,
        proxies: dial::Proxies,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Upstream, DialError> {
        let named_hosts = config.mirrors.iter().chain([&config.url]).filter_map(|url| url.host_str()).map(str::to_owned).collect();
        let settings = dial::Settings {
            ca_file: config.ca_file.clone(),
            private_networks: config.private_networks.clone(),
            named_hosts,
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            max_connections: config.max_connections,
            max_idle: config.max_connections,
            server_name: None,
        };
        let wire = Arc::new(Wire {
            name: config.name.as_str().into(),
            client: dial::Client::new(settings, resolver, proxies)?,
            clock,
            metrics,
            budget: Budget::new(),
            permits: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            rate_limit: Mutex::new(None),
        });
        let credentials = config.username.clone().zip(config.password.clone());
        let credentials = credentials.map(|(username, password)| Arc::new(Credentials { username, password }));
        let token_hosts: Arc<[String]> = config.token_hosts.clone().into();
        let endpoint = |role, url: &Url| {
            let own = credentials.clone().filter(|_| url.origin() == config.url.origin());
            Arc::new(Endpoint::new(role, bare(url), wire.clone(), token_hosts.clone(), own))
        };
        Ok(Upstream {
            mirrors: config.mirrors.iter().map(|url| endpoint(Role::Mirror, url)).collect(),
            main: endpoint(Role::Main, &config.url),
            wire,
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            // A tag is also a yes about what it points to.
            tag_ttl: config.tag_ttl.min(config.authorization_ttl),
            max_connections: config.max_connections,
            authorization_ttl: config.authorization_ttl,
            whose: match config.authorize {
                config::Authorize::Edge => Whose::Edge,
                config::Authorize::Upstream => Whose::EachCaller(Box::new(Callers::new())),
            },
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.wire.name
    }

    /// How long a tag is believed.
    pub fn tag_ttl(&self) -> Duration {
        self.tag_ttl
    }

    /// Requests to it at one time, at most.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// How long a yes about a digest in a repository is believed.
    pub fn authorization_ttl(&self) -> Duration {
        self.authorization_ttl
    }

    /// Whether the configuration lets this repository be pulled. The calls below do not ask again.
    pub fn allows(&self, repository: &RepositoryName) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(repository));
        (self.allow.is_empty() || matches(&self.allow)) && !matches(&self.deny)
    }

    /// A manifest, verified, by one GET without a HEAD before it.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Broken`: a manifest is small, and asked for again as a whole.
    pub async fn get_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<FetchedManifest, UpstreamError> {
        self.first_of(|endpoint| async move { content::manifest(&endpoint, repository, reference).await }).await
    }

    /// What HEAD tells: free of charge where pulls are counted.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Broken`.
    pub async fn head_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<ManifestHead, UpstreamError> {
        self.first_of(|endpoint| async move { content::manifest_head(&endpoint, repository, reference).await }).await
    }

    /// Begins a transfer of a blob from its byte `from`; returns when the head of the answer is here. A redirect's target is
    /// never remembered: taking up a broken transfer asks the registry again.
    ///
    /// # Errors
    /// Any [`UpstreamError`]; `Broken` comes from the transfer's `next` only.
    pub async fn get_blob(&self, repository: &RepositoryName, digest: &Digest, from: u64) -> Result<BlobTransfer, UpstreamError> {
        self.first_of(|endpoint| content::blob(endpoint, repository, digest, from)).await
    }

    /// The size of a blob.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Broken`.
    pub async fn head_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64, UpstreamError> {
        self.first_of(|endpoint| async move { content::blob_head(&endpoint, repository, digest).await }).await
    }

    /// All tags, sorted.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Broken`; `WrongAnswer` also for a list beyond the bounds in `lists`.
    pub async fn tags(&self, repository: &RepositoryName) -> Result<Vec<Tag>, UpstreamError> {
        self.first_of(|endpoint| async move { lists::tags(&endpoint, repository).await }).await
    }

    /// The manifests whose subject is `digest`, by the referrers API, or by the fallback tag where that is not there; none for a
    /// manifest that has none, or that the upstream does not know.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Broken` and `Absent`.
    pub async fn referrers(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Descriptor>, UpstreamError> {
        match self.first_of(|endpoint| async move { lists::referrers(&endpoint, repository, digest).await }).await {
            Err(UpstreamError::Absent) => {}
            told => return told,
        }
        let Some(tag) = lists::fallback_tag(digest) else { return Ok(Vec::new()) };
        match self.get_manifest(repository, &Reference::Tag(tag)).await {
            Ok(fallback) => match Manifest::parse(&fallback.bytes, &fallback.media_type) {
                Ok(Manifest::Index(index)) => Ok(index.manifests),
                // Somebody's image that happens to have this tag.
                Ok(Manifest::Image(_)) | Err(_) => Ok(Vec::new()),
            },
            Err(UpstreamError::Absent) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether a registry answers: `GET /v2/` without credentials, for which a challenge is as good as a welcome.
    ///
    /// # Errors
    /// [`UpstreamError::Unavailable`] or [`UpstreamError::WrongAnswer`].
    pub async fn probe(&self) -> Result<(), UpstreamError> {
        let ask = &Ask { method: Method::GET, path: "", query: None, accept: "*/*", from: 0, scope: Scope::Nothing, load: None };
        let answer = self.first_of(|endpoint| async move {
            match endpoint.ask(ask).await {
                Ok(answer) => {
                    wire::discard(answer.body.incoming).await;
                    Ok(())
                }
                Err(UpstreamError::Denied) => Ok(()),
                Err(UpstreamError::Absent) => Err(UpstreamError::wrong("there is no registry")),
                Err(error) => Err(error),
            }
        });
        answer.await
    }

    /// Pushes a blob, if it is not there; to the upstream itself, whatever its mirrors.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Absent`; `Broken` says that the content could not be read.
    pub async fn push_blob(&self, repository: &RepositoryName, blob: &BlobPush<'_>) -> Result<BlobPushed, UpstreamError> {
        self.pushing(push::blob(&self.main, repository, blob)).await
    }

    /// Pushes a manifest, whose references are there.
    ///
    /// # Errors
    /// Any [`UpstreamError`] but `Absent` and `Broken`.
    pub async fn push_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        manifest: &ManifestPush<'_>,
    ) -> Result<SubjectNoted, UpstreamError> {
        self.pushing(push::manifest(&self.main, repository, reference, manifest)).await
    }

    /// Lists a manifest under its subject's fallback tag: for an upstream that has not noted the subject itself.
    ///
    /// # Errors
    /// As [`push_manifest`](Self::push_manifest).
    pub async fn list_referrer(&self, repository: &RepositoryName, subject: &Digest, referrer: &Descriptor) -> Result<(), UpstreamError> {
        self.pushing(push::list_referrer(&self.main, repository, subject, referrer)).await
    }

    async fn pushing<T>(&self, push: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        if self.main.refuses().is_some() {
            self.wire.metrics.upstream_request(self.name(), "breaker", Duration::ZERO);
        }
        let outcome = push.await;
        self.report_circuits();
        outcome
    }

    pub fn health(&self) -> Health {
        let endpoints = self.endpoints().map(|endpoint| EndpointHealth {
            host: endpoint.host().to_owned(),
            circuit: endpoint.circuit(),
            refuses_for: endpoint.refuses(),
        });
        let rate_limit = *self.wire.rate_limit.lock().unwrap_or_else(PoisonError::into_inner);
        Health { endpoints: endpoints.collect(), rate_limit }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.mirrors.iter().chain([&self.main])
    }

    /// Asks the mirrors that are well, the best first, then the upstream itself. A mirror's yes is an answer; whatever else it
    /// says, it may only lack what the upstream has. The upstream's word is final.
    async fn first_of<T, Asked>(&self, ask: impl Fn(Arc<Endpoint>) -> Asked) -> Result<T, UpstreamError>
    where
        Asked: Future<Output = Result<T, UpstreamError>>,
    {
        let mut mirrors: Vec<&Arc<Endpoint>> = self.mirrors.iter().filter(|mirror| mirror.refuses().is_none()).collect();
        mirrors.sort_by_key(|mirror| mirror.failures());
        for mirror in mirrors {
            match ask(mirror.clone()).await {
                Ok(answer) => {
                    self.report_circuits();
                    return Ok(answer);
                }
                Err(error) => tracing::debug!(upstream = %self.name(), mirror = mirror.host(), %error, "passed over"),
            }
        }
        if self.main.refuses().is_some() {
            self.wire.metrics.upstream_request(self.name(), "breaker", Duration::ZERO);
        }
        let answer = ask(self.main.clone()).await;
        self.report_circuits();
        answer
    }

    fn report_circuits(&self) {
        let open = self.endpoints().all(|endpoint| endpoint.circuit() != Circuit::Closed);
        self.wire.metrics.upstream_breaker(self.name(), open);
    }
}

/// A configured URL as requests are built on it.
fn bare(url: &Url) -> Url {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.set_fragment(None);
    // Both fail only for a URL that has no host, and so no credentials.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare
}
