//! An edge: everything wired together. The only place that knows all rooms.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use ulid::Ulid;

use crate::access::{Grants, Policy};
use crate::audit::Audit;
use crate::bucket::{Bucket, OpenError};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{self, Config, Limits};
use crate::dial::{DialError, Outside, Proxies, Resolver};
use crate::forward::{Forwarder, Policies};
use crate::http::{Heads, Http, Locations, Meanings, Nearer, Operations, Owner, Site};
use crate::identity::governance::Fixed;
use crate::identity::{self, Control, Controls, Governance, Identity, KeyError, Oidc, Passwords, SigningKey, Sources};
use crate::journal::{Archive, Journal};
use crate::ledger::{self, IndexPlace, Ledger, LedgerError, Regions};
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::otlp::{self, Lines, Otlp};
use crate::peers::{RemoteEdges, Seal, Siblings, Tokens};
use crate::records::Setup;
use crate::region::{Peer, Region};
use crate::registry::{Names, Registry, Watched};
use crate::replication::{self, Nodes, Replication, Superseded};
use crate::server::{Certificates, Listening, Mode, Prompter, Server, ServerError};
use crate::store::{self, Store, StoreError};
use crate::traffic::Traffic;
use crate::uploads::{self, Uploads};
use crate::upstream::Upstream;
use crate::webhooks::{self, Webhooks};

/// How long the ops listener may take to end, after the registry listeners have.
const OPS_GRACE: Duration = Duration::from_secs(1);

/// How long transfers may take to reach the disk after the last client has gone. One that is far from its end is begun anew by
/// the next process.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// A running edge. Dropping it without [`Edge::shutdown`] leaves its listeners to the runtime's end.
pub struct Edge {
    /// The configuration in force.
    config: Arc<Mutex<Config>>,
    controls: Controls,
    governance: Governance,
    /// Follow the control plane, and put in force what it says.
    governing: [AbortHandle; 3],
    judges: Judges,
    outside: Outside,
    metrics: Metrics,
    store: Store,
    cache: Cache,
    region: Region,
    forwarder: Forwarder,
    replication: Replication,
    registry: Registry,
    audit: Audit,
    archive: Archive,
    operations: Operations,
    otlp: Otlp,
    /// Counts what is asked.
    counting: AbortHandle,
    http: Http,
    certificates: Option<Certificates>,
    listeners: Vec<Server>,
    ops: Server,
}

/// How long a start waits for the bucket. After that the edge serves what needs no bucket, and opening goes on.
const BUCKET_PATIENCE: Duration = Duration::from_secs(5);

/// Between attempts to take over from an earlier incarnation.
const INHERIT_PAUSE: Duration = Duration::from_secs(2);

/// Why an edge cannot start. An upstream or an object store that is down is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the cache cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// It answers, and cannot be used.
    #[error("the bucket cannot be used: {0}")]
    Bucket(#[from] OpenError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("tokens cannot be signed by this key: {0}")]
    Key(#[from] KeyError),
}

/// Where the cache lies, and how large it may become.
pub fn store_settings(config: &Config) -> store::Settings {
    store::Settings { dir: config.data_dir.join("cache"), max_bytes: config.cache.disk.0 }
}

impl Edge {
    /// Starts an edge. Listeners are bound when this returns.
    pub async fn start(config: Config, metrics: Metrics, journal: Journal) -> Result<Edge, StartError> {
        let clock = Clock::system();
        metrics.runs(&config.region, env!("CARGO_PKG_VERSION"));
        let store = Store::open(store_settings(&config), clock.clone(), metrics.clone()).await?;
        let resolver = Resolver::new(clock.clone(), metrics.clone())?;
        let outside = Outside { resolver, proxies: Proxies::from_environment(), clock: clock.clone(), metrics: metrics.clone() };
        let upstreams = config.upstreams.iter().map(|upstream| outside.upstream(upstream)).collect::<Result<Vec<_>, _>>()?;
        let cache = Cache::new(config.cache.clone(), store.clone(), clock.clone(), metrics.clone());
        let peers = config.peers.iter().map(|peer| outside.peer(peer, config.limits.request_timeout));
        let region = Region::with_peers(peers.collect::<Result<_, _>>()?);
        open_region(&config, region.clone(), clock.clone(), metrics.clone()).await?;
        let uploads = Uploads::start(region.clone(), store.clone(), upload_settings(&config), clock.clone(), metrics.clone());
        let forwarder = Forwarder::start(region.clone(), policies(&config, &upstreams), clock.clone(), metrics.clone());
        let replication = replication(&config, region.clone(), clock.clone(), metrics.clone());
        let tasks = (forwarder.clone(), replication.clone());
        let registry = Registry::new(cache.clone(), store.clone(), region.clone(), uploads, tasks, clock.clone());
        registry.set_upstreams(upstreams);
        registry.set_hosted(&config.hosted, config.acknowledge);
        let owner = match &config.siblings {
            Some(siblings) => Owner::Shared(outside.siblings(siblings, config.limits.request_timeout)?),
            None => Owner::Alone(Box::new(Seal::random())),
        };
        let locations = Locations::new(&config.region, owner);
        let controls = Controls::open(config.data_dir.join("control.json"));
        let sources = Sources { region: region.clone(), controls: controls.clone(), clock: clock.clone() };
        let tokens = identity::Tokens::new(&config.region, signing_key(&config.tokens, &config.data_dir)?, config.tokens.ttl, sources);
        let issuers = Issuers { tokens, oidc: outside.oidc(&config.oidc)? };
        let passwords = Passwords::new(controls.clone(), clock.clone(), metrics.clone());
        let governance = Governance::new(region.clone(), controls.clone(), passwords.clone(), Fixed::of(&config), clock.clone());
        let judges = Judges { issuers, passwords, registry: registry.clone() };
        let judged_by = site(&config, &controls.now(), &judges);
        let audit = audit(&config, region.clone(), clock.clone(), metrics.clone()).await;
        let archive = archive(&config, &journal, region.clone(), clock.clone(), &metrics).await;
        let operations = operations(&config, (region.clone(), registry.clone()), &outside)?;
        let traffic = Traffic::new(clock.clone());
        let counting = traffic.keep_counting();
        let use_cases = (registry.clone(), governance.clone(), audit.clone(), operations.clone(), traffic);
        let otlp = outside.otlp(&config)?;
        let told = (metrics.clone(), journal, archive.clone(), otlp.tracer().clone());
        let http = Http::new(use_cases, locations, judged_by, config.limits.request_timeout, told, clock.clone());
        otlp.send_metrics(refresh(http.clone()));

        let certificates = config.tls.as_ref().map(|tls| Certificates::load(tls, metrics.clone())).transpose()?;
        let mode = |tls: bool| match &certificates {
            Some(certificates) if tls => Mode::Tls(certificates.clone()),
            _ => Mode::Plain,
        };
        let main = (config.listen.registry, config.tls.is_some(), &config.listen.proxies);
        let also = config.listen.also.iter().map(|also| (also.address, also.tls, &also.proxies));
        let mut listeners = Vec::new();
        for (number, (address, tls, proxies)) in std::iter::once(main).chain(also).enumerate() {
            let (proxies, sendfile) = (Arc::new(proxies.clone()), config.listen.sendfile);
            let prompter = {
                let http = http.clone();
                Some(Prompter::new(move |head, connection| http.prompt(head, connection)))
            };
            let listening = Listening { mode: mode(tls), proxies, number, sendfile, prompter };
            let http = http.clone();
            let service = move |request, connection| {
                let http = http.clone();
                async move { http.registry(request, connection).await }
            };
            listeners.push(Server::bind(address, listening, config.limits.clone(), metrics.clone(), service).await?);
        }
        let service = {
            let http = http.clone();
            move |request, connection| {
                let http = http.clone();
                async move { http.ops(request, connection).await }
            }
        };
        // What the console asks is under the rules that hold where no listener has its own.
        let listening = Listening { number: listeners.len(), ..Mode::Plain.into() };
        let ops = Server::bind(config.listen.ops, listening, config.limits.clone(), metrics.clone(), service).await?;
        let config = Arc::new(Mutex::new(config));
        let governing =
            [controls.follow(region.clone()), judges.issuers.tokens.follow(), govern(&controls, &config, (http.clone(), judges.clone()))];
        Ok(Edge {
            config,
            controls,
            governance,
            governing,
            judges,
            outside,
            metrics,
            store,
            cache,
            region,
            forwarder,
            replication,
            registry,
            audit,
            archive,
            operations,
            otlp,
            counting,
            http,
            certificates,
            listeners,
            ops,
        })
    }

    /// The region as an operator's command reaches it, without an edge: its bucket, its ledger with an index in memory, its peers.
    ///
    /// # Errors
    /// The bucket does not answer, or cannot be used.
    pub async fn reach_region(config: &Config, metrics: Metrics) -> Result<Region, StartError> {
        let clock = Clock::system();
        let resolver = Resolver::new(clock.clone(), metrics.clone())?;
        let outside = Outside { resolver, proxies: Proxies::from_environment(), clock: clock.clone(), metrics: metrics.clone() };
        let peers = config.peers.iter().map(|peer| outside.peer(peer, config.limits.request_timeout));
        let region = Region::with_peers(peers.collect::<Result<_, _>>()?);
        let bucket = Bucket::open(&config.bucket, &config.region, clock.clone(), metrics.clone()).await?;
        let settings =
            ledger::Settings { index: IndexPlace::Memory, node: format!("operator-{}", Ulid::generate()), regions: Regions::Many };
        let ledger = Ledger::open(bucket.clone(), settings, clock, metrics).await?;
        region.open(bucket, ledger);
        Ok(region)
    }

    /// Lines of the process's log that come there go to the collector, if there is one.
    pub fn export_lines(&self, lines: &Lines) {
        self.otlp.send_lines(lines);
    }

    /// The address of the first registry listener.
    pub fn registry_address(&self) -> SocketAddr {
        self.listeners[0].local_address()
    }

    /// Tells when this edge can do nothing more for its region but end, and start in the incarnation that is in force then.
    pub fn superseded(&self) -> Superseded {
        self.registry.superseded()
    }

    pub fn ops_address(&self) -> SocketAddr {
        self.ops.local_address()
    }

    /// Takes over what can change while running: upstreams, access, principals, certificates. What cannot is named in the log. A
    /// certificate or upstream that cannot be used leaves everything as it was.
    pub fn reload(&self, new: Config) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if new.limits.deadline < config.cache.stale_after {
            return self.reject(&"limits.deadline is shorter than the cache.stale_after in force, which needs a restart to change");
        }
        let fixed = config.fixed_changes(&new);
        if !fixed.is_empty() {
            tracing::warn!(keys = fixed.join(", "), "changed, but takes effect only after a restart");
        }
        // An upstream that is configured as before goes on with its connections, tokens and health; one with certificate
        // authorities of its own is built anew, for the file may have changed.
        let upstream = |wanted: &config::Upstream| match self.registry.upstream(&wanted.name) {
            Some(same) if wanted.ca_file.is_none() && config.upstreams.contains(wanted) => Ok(same),
            _ => self.outside.upstream(wanted),
        };
        let upstreams = match new.upstreams.iter().map(upstream).collect::<Result<Vec<_>, _>>() {
            Ok(upstreams) => upstreams,
            Err(error) => return self.reject(&error),
        };
        let providers = match self.judges.issuers.oidc.prepare(&new.oidc) {
            Ok(providers) => providers,
            Err(error) => return self.reject(&error),
        };
        let receivers = match self.operations.webhooks.prepare(&new.webhooks) {
            Ok(receivers) => receivers,
            Err(error) => return self.reject(&error),
        };
        let key = match signing_key(&new.tokens, &config.data_dir) {
            Ok(key) => key,
            Err(error) => return self.reject(&StartError::from(error)),
        };
        if let Some((certificates, tls)) = self.certificates.as_ref().zip(new.tls.as_ref())
            && let Err(error) = certificates.reload(tls)
        {
            return self.reject(&error);
        }
        self.forwarder.set_policies(policies(&new, &upstreams));
        self.registry.set_upstreams(upstreams);
        self.registry.set_hosted(&new.hosted, new.acknowledge);
        self.judges.issuers.oidc.replace(providers);
        self.operations.webhooks.replace(receivers);
        self.operations.watched.replace(&new.prefetch, &Names::new(&new.upstreams));
        // What takes a restart stays as it is in force, and is named again at the next reload.
        let Limits { deadline, grace, client, .. } = new.limits;
        let limits = Limits { deadline, grace, client, ..config.limits.clone() };
        let Config { region, data_dir, listen, cache, bucket, siblings, peers, replication, log, audit, otlp, .. } = config.clone();
        *config = Config { region, data_dir, listen, cache, bucket, siblings, peers, replication, log, audit, otlp, limits, ..new };
        self.judges.issuers.tokens.reload(key, config.tokens.ttl);
        self.governance.set_fixed(Fixed::of(&config));
        self.http.reload(site(&config, &self.controls.now(), &self.judges));
        self.metrics.reload("config", "applied");
        tracing::info!("the configuration was reloaded");
    }

    /// Reports a configuration that is not taken over.
    pub fn reject(&self, why: &dyn std::fmt::Display) {
        self.metrics.reload("config", "rejected");
        tracing::error!("the new configuration is not used, the old one stays in force: {why}");
    }

    /// Stops accepting, lets requests finish within the grace period, and closes the cache.
    pub async fn shutdown(self) {
        self.http.drain();
        let grace = self.config.lock().unwrap_or_else(PoisonError::into_inner).limits.grace;
        let mut draining = tokio::task::JoinSet::new();
        for listener in self.listeners {
            draining.spawn(listener.drain(grace));
        }
        draining.join_all().await;
        self.ops.drain(OPS_GRACE).await;
        self.audit.close().await;
        self.counting.abort();
        self.governing.iter().for_each(AbortHandle::abort);
        self.operations.webhooks.stop();
        self.operations.watched.stop();
        self.forwarder.stop();
        self.replication.stop();
        let _ = tokio::time::timeout(SETTLE_TIME, self.cache.idle()).await;
        if let Ok(open) = self.region.get()
            && let Err(error) = open.ledger.close().await
        {
            tracing::debug!(%error, "the ledger's index was not written down: the next start folds more");
        }
        self.store.close().await;
        // Last, so that the lines of all this are in them.
        self.archive.close().await;
        self.otlp.close().await;
    }
}

/// What judges requests besides the configuration and the control plane.
#[derive(Clone)]
struct Judges {
    issuers: Issuers,
    passwords: Passwords,
    registry: Registry,
}

/// Whose tokens count.
#[derive(Clone)]
struct Issuers {
    /// The regions' own.
    tokens: identity::Tokens,
    /// Those of identity providers, which are exchanged for our own.
    oidc: Oidc,
}

impl Outside {
    fn siblings(&self, siblings: &config::Siblings, answer_timeout: Duration) -> Result<Siblings, DialError> {
        Siblings::new(siblings, answer_timeout, self.resolver.clone(), self.clock.clone(), self.metrics.clone())
    }

    fn peer(&self, peer: &config::Peer, answer_timeout: Duration) -> Result<Peer, DialError> {
        let Outside { resolver, clock, metrics, .. } = self.clone();
        let edges = RemoteEdges::new(peer, answer_timeout, resolver, clock.clone(), metrics.clone())?;
        Ok(Peer::new(peer, edges, clock, metrics))
    }

    fn oidc(&self, providers: &[config::Oidc]) -> Result<Oidc, DialError> {
        let Outside { resolver, proxies, clock, metrics } = self.clone();
        Oidc::start(providers, resolver, proxies, clock, metrics)
    }

    fn otlp(&self, config: &Config) -> Result<Otlp, DialError> {
        let identity = otlp::Identity { region: config.region.clone(), node: Ulid::generate().to_string() };
        Otlp::start(config.otlp.as_ref(), &identity, self.clone())
    }

    fn upstream(&self, upstream: &config::Upstream) -> Result<Arc<Upstream>, DialError> {
        let Outside { resolver, proxies, clock, metrics } = self.clone();
        Upstream::new(upstream, resolver, proxies, clock, metrics).map(Arc::new)
    }
}

/// What brings the gauges up to date.
fn refresh(http: Http) -> otlp::Refresh {
    Box::new(move || {
        let http = http.clone();
        Box::pin(async move { http.report().await })
    })
}

async fn audit(config: &Config, region: Region, clock: Clock, metrics: Metrics) -> Audit {
    Audit::start(&config.data_dir.join("audit"), config.audit.clone(), &config.region, region, clock, metrics).await
}

async fn archive(config: &Config, journal: &Journal, region: Region, clock: Clock, metrics: &Metrics) -> Archive {
    let (dir, keeping, counted) = (config.data_dir.join("log"), config.log.keeping.clone(), metrics.central_log.clone());
    journal.archive(Setup { dir: &dir, keeping, own: &config.region, region, clock, counted }).await
}

/// What goes on beside requests.
fn operations(config: &Config, (region, registry): (Region, Registry), outside: &Outside) -> Result<Operations, DialError> {
    let Outside { clock, metrics, .. } = outside;
    let watched = Watched::start(registry, &config.prefetch, &Names::new(&config.upstreams), clock.clone(), metrics.clone());
    let offload = Offload::start(metrics.clone(), clock.clone());
    let edges = if config.siblings.is_some() { webhooks::Edges::Several } else { webhooks::Edges::One };
    let settings = webhooks::Settings { region: config.region.clone(), edges, file: config.data_dir.join("webhooks.json") };
    Ok(Operations { webhooks: Webhooks::start(region, settings, &config.webhooks, outside.clone())?, watched, offload })
}

/// Begins to follow the other regions.
fn replication(config: &Config, region: Region, clock: Clock, metrics: Metrics) -> Replication {
    let settings = replication::Settings {
        follow_interval: config.replication.follow_interval,
        nodes: nodes(config),
        copies: config.replication.clone(),
    };
    let policies = replication::Policies::new(&config.hosted, config.acknowledge);
    Replication::start(region, &config.region, settings, policies, clock, metrics)
}

fn nodes(config: &Config) -> Nodes {
    if config.siblings.is_some() { Nodes::Several } else { Nodes::One }
}

fn upload_settings(config: &Config) -> uploads::Settings {
    uploads::Settings { max_blob_bytes: config.limits.max_blob.0, most_sessions: config.limits.uploads, ttl: config.limits.upload_ttl }
}

/// Opens the region. One that cannot be reached goes on being opened in the background.
///
/// # Errors
/// The bucket answers, and what it answers will not change by waiting.
async fn open_region(config: &Config, region: Region, clock: Clock, metrics: Metrics) -> Result<(), OpenError> {
    let (settings, name) = (config.bucket.clone(), config.region.clone());
    let regions = if config.peers.is_empty() { Regions::One } else { Regions::Many };
    let (index, nodes) = ((config.data_dir.join("ledger"), regions), nodes(config));
    let opening = Bucket::open(&settings, &name, clock.clone(), metrics.clone());
    let why = match tokio::time::timeout(BUCKET_PATIENCE, opening).await {
        Ok(Ok(bucket)) => match open_ledger(bucket.clone(), &index, clock.clone(), metrics.clone()).await {
            Some(ledger) => {
                // It goes on when it takes longer.
                let _ = tokio::time::timeout(BUCKET_PATIENCE, tokio::spawn(open_with_its_past(region, bucket, ledger, nodes))).await;
                return Ok(());
            }
            None => "its ledger cannot be opened".to_owned(),
        },
        Ok(Err(error)) if error.is_lasting() => return Err(error),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer yet".to_owned(),
    };
    tracing::warn!(%why, "the bucket cannot be opened yet: pushes and hosted repositories wait for it");
    region.failed(why);
    tokio::spawn(async move {
        let failed = |error: &OpenError| region.failed(error.to_string());
        match Bucket::open_patiently(&settings, &name, clock.clone(), metrics.clone(), failed).await {
            Err(error) => tracing::error!(%error, "the bucket cannot be used: pushes and hosted repositories stay unavailable"),
            Ok(bucket) => {
                if let Some(ledger) = open_ledger(bucket.clone(), &index, clock, metrics).await {
                    tracing::info!("the bucket is open");
                    open_with_its_past(region.clone(), bucket, ledger, nodes).await;
                }
            }
        }
    });
    Ok(())
}

/// Opens the region once it has taken over from its earlier incarnations, if there are any.
async fn open_with_its_past(region: Region, bucket: Bucket, ledger: Ledger, nodes: Nodes) {
    region.failed("it is taking over from an earlier incarnation".to_owned());
    while let Err(why) = replication::inherit(&region, &bucket, &ledger, nodes).await {
        tracing::warn!(%why, "this region has not taken over from an earlier incarnation yet: it stays unavailable");
        region.failed(format!("it has not taken over from an earlier incarnation yet: {why}"));
        tokio::time::sleep(INHERIT_PAUSE).await;
    }
    region.open(bucket, ledger);
}

/// On a disk that does not take the index it is kept in memory, and made anew at each start.
async fn open_ledger(bucket: Bucket, (dir, regions): &(PathBuf, Regions), clock: Clock, metrics: Metrics) -> Option<Ledger> {
    let regions = *regions;
    let settings = |index| ledger::Settings { index, node: Ulid::generate().to_string(), regions };
    let on_disk = match tokio::fs::create_dir_all(dir).await {
        Ok(()) => {
            let place = IndexPlace::File(dir.join("index"));
            Ledger::open(bucket.clone(), settings(place), clock.clone(), metrics.clone()).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match on_disk {
        Ok(ledger) => Some(ledger),
        Err(why) => {
            tracing::warn!(%why, "the ledger's index cannot be kept on the disk: it is kept in memory");
            let in_memory = Ledger::open(bucket, settings(IndexPlace::Memory), clock, metrics).await;
            in_memory.inspect_err(|error| tracing::error!(%error, "the ledger cannot be opened")).ok()
        }
    }
}

/// Where pushes are passed on to.
fn policies(config: &Config, upstreams: &[Arc<Upstream>]) -> Policies {
    Policies::new(&config.hosted, |name| upstreams.iter().find(|upstream| **upstream.name() == *name).cloned())
}

/// Judges requests by what the control plane says, whenever that changes.
fn govern(controls: &Controls, config: &Arc<Mutex<Config>>, (http, judges): (Http, Judges)) -> AbortHandle {
    let (mut changes, config) = (controls.changes(), config.clone());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let control = changes.borrow_and_update().clone();
            // Held meanwhile, so that a reload of the configuration and this one do not undo each other.
            let config = config.lock().unwrap_or_else(PoisonError::into_inner);
            http.reload(site(&config, &control, &judges));
        }
    })
    .abort_handle()
}

/// The key that signs tokens: the configured one, or one of this edge's own.
fn signing_key(settings: &config::Tokens, data_dir: &Path) -> Result<SigningKey, KeyError> {
    match &settings.private_key {
        Some(text) => SigningKey::from_pem(text),
        None => SigningKey::kept(&data_dir.join("token-key.pem")),
    }
}

/// What requests are judged by: the configuration, and what was made at run time.
fn site(config: &Config, control: &Control, judges: &Judges) -> Site {
    let Judges { issuers, passwords, registry } = judges;
    let access = &config.access;
    let anonymous = Grants { pull: access.anonymous_pull.clone(), push: access.anonymous_push.clone() };
    let principals = config.principals.iter().map(|principal| {
        let grants = Grants { pull: principal.pull.clone(), push: principal.push.clone() };
        (principal.name.as_str().into(), grants)
    });
    let (assignments, rules) = (config.roles.iter().cloned().collect(), config.rules.clone());
    let also = config.listen.also.iter().enumerate().filter(|(_, also)| !also.rules.is_empty());
    let listener_rules = also.map(|(index, also)| (index + 1, also.rules.clone())).collect();
    let elsewhere = config.upstreams.iter().filter(|upstream| upstream.authorize == config::Authorize::Upstream);
    let decided_elsewhere = elsewhere.map(config::Upstream::path_prefix).collect();
    let mut policy = Policy { anonymous, principals: principals.collect(), assignments, rules, listener_rules, decided_elsewhere };
    control.add_to(&mut policy);
    Site {
        names: Names::new(&config.upstreams),
        meanings: Meanings::default(),
        heads: Heads::default(),
        identity: Identity::new(&config.principals)
            .with_tokens(issuers.tokens.clone(), &config.principals, control)
            .with_providers(issuers.oidc.clone())
            .with_passwords(passwords.clone()),
        policy,
        tokens: Tokens::new(&config.peers),
        public_url: config.listen.public_url.clone(),
        vouching: registry.vouching(),
        deadline: config.limits.deadline,
        limits: config.limits.client,
        nearer: Nearer::new(&config.peers),
    }
}
