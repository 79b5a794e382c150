//! The whole schema of the configuration: what an operator may write, its defaults and its limits.
//!
//! `config/reference.toml` lists every key with its default; a test compares it with [`schema`]. Every fault is reported at once, with
//! its key path and line ([`ConfigErrors`]). Relative paths are taken from the configuration file's folder.

mod access;
mod audit;
mod bucket;
mod files;
mod load;
mod names;
mod oidc;
mod otlp;
mod peers;
mod prefetch;
mod problem;
mod proxies;
mod reader;
mod records;
mod schema;
mod secret;
mod tokens;
mod units;
mod value;
mod watch;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::access::{Assignment, NetworkRule, Pattern};
pub use access::{Access, Principal};
pub use audit::Audit;
pub use bucket::{Bucket, BucketPlace};
pub use load::{Environment, Loaded, process_environment};
pub use names::{is_principal, is_user, path_prefix};
pub use oidc::Oidc;
pub use otlp::{Otlp, SIGNALS, Share, Signal};
pub use peers::{Acknowledge, Hours, Peer, Replicate, Replication};
pub use prefetch::Prefetch;
pub use problem::{ConfigErrors, Problem};
pub use proxies::{ForwardingHeader, TrustedProxies};
pub use records::Keeping;
pub use secret::Secret;
pub use tokens::Tokens;
pub use units::{ByteSize, ByteSizeError, DurationError, parse_duration, show_duration};
pub use watch::Watcher;
pub use webhook::{KEY_PREFIX, WEBHOOK_ACTIONS, Webhook, WebhookAction};

/// A complete, validated configuration. Every field holds its final value: defaults are applied, secrets are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub region: String,
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub tls: Option<Tls>,
    pub cache: Cache,
    pub bucket: Bucket,
    /// What has happened when a push to a repository is answered that no `hosted` pattern matches.
    pub acknowledge: Acknowledge,
    /// Other edges of this region; `None` for one that stands alone.
    pub siblings: Option<Siblings>,
    /// The other regions.
    pub peers: Vec<Peer>,
    pub replication: Replication,
    pub upstreams: Vec<Upstream>,
    /// Policies of hosted repositories: the first whose pattern matches counts. Names without one have the defaults.
    pub hosted: Vec<Hosted>,
    /// Patterns that anyone may pull or push.
    pub access: Access,
    pub principals: Vec<Principal>,
    /// Who has which role, besides what owners assign at run time.
    pub roles: Vec<Assignment>,
    /// From where callers may come, besides what is ruled at run time.
    pub rules: Vec<NetworkRule>,
    /// Where people and workloads sign in.
    pub oidc: Vec<Oidc>,
    pub tokens: Tokens,
    pub limits: Limits,
    pub log: Log,
    pub audit: Audit,
    /// Where logs, traces and metrics are sent.
    pub otlp: Option<Otlp>,
    /// Who is told what happens to images.
    pub webhooks: Vec<Webhook>,
    /// Images that are kept here.
    pub prefetch: Vec<Prefetch>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// The registry listener: TLS when `[tls]` is there, else plain HTTP.
    pub registry: SocketAddr,
    /// Health, metrics: plain HTTP.
    pub ops: SocketAddr,
    /// How clients reach this edge, where that cannot be told from the request: scheme and authority.
    pub public_url: Option<url::Url>,
    /// Who stands before the registry listener.
    pub proxies: TrustedProxies,
    /// Further registry listeners, each plain or TLS.
    pub also: Vec<ListenAlso>,
    /// Whether plain listeners send files of the cache by `sendfile(2)`.
    pub sendfile: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenAlso {
    pub address: SocketAddr,
    pub tls: bool,
    pub proxies: TrustedProxies,
    /// From where callers may come on it, in place of the registry's rules; none: those hold here too.
    pub rules: Vec<NetworkRule>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// The default certificate first, then `[[tls.also]]`: the server name that the client asks for chooses.
    pub certificates: Vec<CertificateFiles>,
    /// The authorities whose certificates clients may show, PEM; without it none is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients are offered HTTP/2, before HTTP/1.1.
    pub http2: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Bytes of blobs on disk, at most.
    pub disk: ByteSize,
    /// Bytes of manifests, tag resolutions, small blobs and negative answers in memory, at most.
    pub memory: ByteSize,
    /// How many blobs of a manifest to fetch ahead of the client at a time, for each upstream; 0 turns it off.
    pub prefetch: usize,
    /// How long an absence that an upstream confirmed is believed.
    pub negative_ttl: Duration,
    /// How long a revalidation may hold up a client that could be answered with what is cached.
    pub stale_after: Duration,
}

/// An origin registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The `ns=` value and the path prefix: one path component such as `docker.io` or `registry.local:5000`.
    pub name: String,
    /// Host names of this edge whose whole name space is this upstream's.
    pub hosts: Vec<String>,
    /// Where it is: http or https, with an optional path prefix.
    pub url: url::Url,
    /// Tried before `url`, in order of health.
    pub mirrors: Vec<url::Url>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Who says which caller may read what.
    pub authorize: Authorize,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Networks, besides public ones, in which this upstream, its mirrors, its token realm and its redirect targets may lie. An
    /// address written literally in `url` or `mirrors` (and `localhost`) needs no mention.
    pub private_networks: Vec<IpNet>,
    /// Further registrable domains that may serve this upstream's tokens and get its credentials, such as `auth.example.net`.
    pub token_hosts: Vec<String>,
    pub tag_ttl: Duration,
    /// How long a yes of the upstream about a digest in a repository is believed before it is asked again.
    pub authorization_ttl: Duration,
    /// Repositories (without the upstream's name) that may be pulled; empty means all.
    pub allow: Vec<Pattern>,
    pub deny: Vec<Pattern>,
    /// Requests to it at one time, at most.
    pub max_connections: usize,
    /// How long to wait for a connection; for the head of an answer, or for the next bytes of a body.
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
}

/// Who decides about an upstream's repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorize {
    /// This edge, by its own principals and roles.
    Edge,
    /// The upstream itself, by the credentials that each caller has there.
    Upstream,
}

/// How the edges of one region reach one another, to pass requests of an upload to the edge that began it.
#[derive(Clone, Debug, PartialEq)]
pub struct Siblings {
    /// Where the others find this edge: scheme, host and port. It stands in the locations of this edge's uploads.
    pub advertise: url::Url,
    /// The name that their certificates are for; `None`: what each advertises.
    pub tls_name: Option<String>,
    /// A host name whose addresses are the region's edges.
    pub dns: Option<String>,
    /// The same for all edges of a region: proves one to the other, and signs the locations of uploads.
    pub token: Secret,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
}

/// How repositories that are pushed here are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Hosted {
    pub pattern: Pattern,
    /// The name of the upstream to which each push is passed on afterwards.
    pub forward_to: Option<String>,
    /// Whether an index may list manifests that are not here.
    pub sparse_indexes: bool,
    pub replicate: Replicate,
    pub acknowledge: Acknowledge,
    /// The region that alone says where tags lead: this one or a peer. Without one every region does.
    pub home: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections of clients at one time, at most; more wait in the kernel's queue.
    pub connections: usize,
    /// Streams of one HTTP/2 connection at one time, at most.
    pub streams: u32,
    /// How long a client may take for a TLS handshake or a request's head.
    pub header_timeout: Duration,
    /// How long a connection may stay open with nothing asked.
    pub idle_timeout: Duration,
    /// How long a client may refuse to take bytes that are ready for it.
    pub write_timeout: Duration,
    /// How long one request may take as a whole.
    pub request_timeout: Duration,
    /// Least rate of a request's body, in bytes a second, after the first seconds.
    pub min_body_rate: ByteSize,
    /// Bytes of one blob that is pushed, at most.
    pub max_blob: ByteSize,
    /// Upload sessions open on this edge at one time, at most.
    pub uploads: usize,
    /// How long an upload session may stay open with nothing sent.
    pub upload_ttl: Duration,
    /// How long a client waits for an answer that needs an upstream, before 503.
    pub deadline: Duration,
    /// How long requests may go on after SIGTERM.
    pub grace: Duration,
    pub client: ClientLimits,
}

/// What one client may take: a principal if it signed in, else an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Requests a second, before 429; 0 for no limit.
    pub requests: u32,
    /// Requests at once, before the rate counts.
    pub burst: u32,
    /// Bytes of answers a second; 0 for no limit.
    pub bandwidth: ByteSize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A tracing filter such as `info` or `outport=debug`.
    pub level: String,
    /// Whether lines are kept in the bucket too, for searches across regions.
    pub central: bool,
    pub keeping: Keeping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl ClientLimits {
    pub fn is_any(&self) -> bool {
        self.requests > 0 || self.bandwidth.0 > 0
    }
}

impl Upstream {
    /// The name as the first component of a path: no repository name has a colon, so `registry.local:5000` is written
    /// `registry.local_5000`.
    pub fn path_prefix(&self) -> String {
        names::path_prefix(&self.name)
    }
}

impl Config {
    /// The keys whose change takes effect only after a restart, out of those that differ: sockets are bound, the data folder is
    /// opened, and the caches and the log's form are laid out once. Everything else is taken over while running.
    pub fn fixed_changes(&self, new: &Config) -> Vec<&'static str> {
        // Taken apart in full, so that a new field does not compile until somebody has decided about it.
        let Config {
            region,
            data_dir,
            listen,
            tls,
            cache,
            bucket,
            acknowledge: _,
            siblings,
            peers,
            replication,
            upstreams: _,
            hosted: _,
            access: _,
            principals: _,
            roles: _,
            rules: _,
            oidc: _,
            tokens: _,
            limits,
            log,
            audit,
            otlp,
            webhooks: _,
            prefetch: _,
        } = self;
        let Listen { registry, ops, public_url: _, proxies, also, sendfile } = listen;
        // The http room judges each request by these limits as they are in force; all others are built into listeners.
        let Limits { deadline, grace, client, .. } = new.limits;
        let other_limits = Limits { deadline, grace, client, ..limits.clone() };
        let fixed = [
            ("region", *region != new.region),
            ("data_dir", *data_dir != new.data_dir),
            ("listen.registry", *registry != new.listen.registry),
            ("listen.ops", *ops != new.listen.ops),
            ("listen.trusted_proxies", *proxies != new.listen.proxies),
            ("listen.also", *also != new.listen.also),
            ("listen.sendfile", *sendfile != new.listen.sendfile),
            // The files may change; whether the registry listener speaks TLS may not.
            ("tls", tls.is_some() != new.tls.is_some()),
            ("cache", *cache != new.cache),
            ("bucket", *bucket != new.bucket),
            ("siblings", *siblings != new.siblings),
            ("peer", *peers != new.peers),
            ("replication", *replication != new.replication),
            ("limits", other_limits != new.limits),
            ("log.format", log.format != new.log.format),
            ("log.central", (log.central, &log.keeping) != (new.log.central, &new.log.keeping)),
            ("audit", *audit != new.audit),
            ("otlp", *otlp != new.otlp),
        ];
        fixed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests;
