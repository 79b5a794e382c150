//! The keys: which there are, their defaults and bounds, and what must not stand together. `config/reference.toml` is its mirror.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;
use url::Url;

use super::access::{self, Access};
use super::files::Readable;
use super::oidc;
use super::peers::{self, Regions};
use super::proxies;
use super::reader::{FileContent, Section};
use super::records;
use super::units::ByteSize;
use super::{
    Acknowledge, Authorize, Cache, CertificateFiles, ClientLimits, Config, Hosted, Limits, Listen, ListenAlso, Log, LogFormat, Replicate,
    Secret, Siblings, Tls, Upstream, names, tokens, value,
};
use crate::access::Pattern;

pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) const fn mebibytes(count: u64) -> ByteSize {
    ByteSize(count << 20)
}

pub(super) const MILLISECONDS_100: Duration = Duration::from_millis(100);
pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Reads the whole document. The result holds defaults in place of what was wrong: it counts only if no fault was reported.
pub(super) fn read(mut root: Section<'_, '_, '_>) -> Config {
    let region = root.or("region", "local".to_owned());
    if !names::is_label(&region) {
        root.fault("region", format!("{region:?} is not a region: 1 to 63 lower-case letters, digits and hyphens inside"));
    }
    let data_dir = root.path_or("data_dir", "./outport-data");
    let tls = root.optional_section("tls").map(read_tls);
    let access = access::read(root.section("access"));
    let listen = read_listen(root.section("listen"), tls.as_ref(), &access);
    let limits = read_limits(root.section("limits"));
    let cache = read_cache(root.section("cache"), &limits);
    let peers = peers::read(&mut root, &region);
    let regions = Regions { own: &region, peers: &peers };
    let (bucket, acknowledge) = super::bucket::read(root.section("bucket"), &data_dir, regions);
    let replication = peers::read_replication(root.section("replication"));
    let log = read_log(root.section("log"));
    let audit = super::audit::read(root.section("audit"));
    let otlp = root.optional_section("otlp").and_then(super::otlp::read);
    let webhooks = super::webhook::read(&mut root);
    let siblings = root.optional_section("siblings").and_then(read_siblings);
    let upstreams = read_upstreams(&mut root);
    let prefetch = super::prefetch::read(&mut root, &upstreams);
    let hosted = read_hosted(&mut root, &HostedContext { upstreams: &upstreams, regions, acknowledge });
    let asks_for_certificates = tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    let principals = access::read_principals(&mut root, asks_for_certificates);
    let roles = access::read_roles(&mut root, &principals);
    let rules = access::read_rules(&mut root, "rule");
    let oidc = oidc::read(&mut root);
    let tokens = tokens::read(root.section("tokens"));
    root.finish();
    Config {
        region,
        data_dir,
        listen,
        tls,
        cache,
        bucket,
        acknowledge,
        siblings,
        peers,
        replication,
        upstreams,
        hosted,
        access,
        principals,
        roles,
        rules,
        oidc,
        tokens,
        limits,
        log,
        audit,
        otlp,
        webhooks,
        prefetch,
    }
}

fn read_listen(mut section: Section<'_, '_, '_>, tls: Option<&Tls>, access: &Access) -> Listen {
    let registry = section.or("registry", SocketAddr::from(([127, 0, 0, 1], 5000)));
    let ops = section.or("ops", SocketAddr::from(([127, 0, 0, 1], 5001)));
    let public_url: Option<Url> = section.optional("public_url");
    if public_url.as_ref().is_some_and(|url| url.path() != "/") {
        section.fault("public_url", "has a path: only a scheme, a host and a port are possible");
    }
    if tls.is_none() {
        warn_of_plain_http(&section, "registry", registry);
    }
    let mut taken = vec![("listen.registry".to_owned(), registry)];
    claim(&section, "ops", ops, &mut taken);
    let also: Vec<ListenAlso> = section.sections("also").into_iter().filter_map(|each| read_also(each, tls, &mut taken)).collect();
    let anybody_pushes = !access.anonymous_push.is_empty();
    let also_off_loopback = also.iter().any(|each| !each.address.ip().is_loopback());
    for (key, off_loopback) in [("registry", !registry.ip().is_loopback()), ("also", also_off_loopback)] {
        if off_loopback && anybody_pushes {
            section.warn(key, "is off loopback while access.anonymous_push lets anybody push");
        }
    }
    let proxies = proxies::read(&mut section);
    let sendfile = section.or("sendfile", true);
    section.finish();
    Listen { registry, ops, public_url, proxies, also, sendfile }
}

fn read_also(mut section: Section<'_, '_, '_>, tls: Option<&Tls>, taken: &mut Vec<(String, SocketAddr)>) -> Option<ListenAlso> {
    let address = section.required("address");
    let with_tls = section.or("tls", false);
    if with_tls && tls.is_none() {
        section.fault("tls", "is true, but there is no [tls] with a certificate");
    }
    if let Some(address) = address {
        claim(&section, "address", address, taken);
        if !with_tls {
            warn_of_plain_http(&section, "address", address);
        }
    }
    let proxies = proxies::read(&mut section);
    let rules = access::read_rules(&mut section, "rules");
    section.finish();
    Some(ListenAlso { address: address?, tls: with_tls, proxies, rules })
}

/// Two listeners cannot have one address. Port 0 is never the same twice.
fn claim(section: &Section<'_, '_, '_>, key: &'static str, address: SocketAddr, taken: &mut Vec<(String, SocketAddr)>) {
    let overlap = |other: SocketAddr| {
        let same_family = other.is_ipv4() == address.is_ipv4();
        let same_ip = other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified();
        address.port() != 0 && other.port() == address.port() && same_family && same_ip
    };
    if let Some((name, other)) = taken.iter().find(|(_, other)| overlap(*other)) {
        section.fault(key, format!("{address} is taken by {name} ({other})"));
    }
    taken.push((format!("{}.{key}", section.path()), address));
}

fn warn_of_plain_http(section: &Section<'_, '_, '_>, key: &'static str, address: SocketAddr) {
    if !address.ip().is_loopback() {
        section.warn(key, format!("{address} is off loopback and speaks plain HTTP: passwords and images travel unprotected"));
    }
}

fn read_tls(mut section: Section<'_, '_, '_>) -> Tls {
    let mut certificates: Vec<CertificateFiles> = read_certificate(&mut section).into_iter().collect();
    for mut also in section.sections("also") {
        certificates.extend(read_certificate(&mut also));
        also.finish();
    }
    // One that cannot be read is a fault by itself, and no reason to complain about principals that have certificates.
    let named: Option<PathBuf> = section.optional("client_ca_file");
    let client_ca = named.as_ref().and_then(|path| section.open("client_ca_file", path));
    require_pem(&section, "client_ca_file", client_ca.as_ref(), "CERTIFICATE-----");
    let http2 = section.or("http2", true);
    section.finish();
    Tls { certificates, client_ca_file: client_ca.map(|file| file.path).or(named), http2 }
}

fn read_certificate(section: &mut Section<'_, '_, '_>) -> Option<CertificateFiles> {
    let (cert, key) = (section.required_file("cert_file"), section.required_file("key_file"));
    require_pem(section, "cert_file", cert.as_ref(), "CERTIFICATE-----");
    require_pem(section, "key_file", key.as_ref(), "PRIVATE KEY-----");
    if key.as_ref().is_some_and(|file| file.readable == Readable::ByEveryone) {
        section.warn("key_file", READABLE_BY_EVERYONE);
    }
    Some(CertificateFiles { cert_file: cert?.path, key_file: key?.path })
}

const READABLE_BY_EVERYONE: &str = "can be read by every user of this machine: take that right away (chmod o-r)";

/// A PEM file has a line that begins with `-----BEGIN` (RFC 7468) and names its content. Whether that content is sound is for TLS to say.
pub(super) fn require_pem(section: &Section<'_, '_, '_>, key: &'static str, file: Option<&FileContent>, content: &str) {
    let Some(file) = file else { return };
    if !file.text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(content)) {
        section.fault(key, format!("{} is not PEM: it has no line -----BEGIN ... {content}", file.path.display()));
    }
}

fn read_cache(mut section: Section<'_, '_, '_>, limits: &Limits) -> Cache {
    let cache = Cache {
        disk: section.bounded("disk", mebibytes(20 << 10), mebibytes(1)..=mebibytes(1 << 30)),
        memory: section.bounded("memory", mebibytes(256), mebibytes(1)..=mebibytes(1 << 20)),
        prefetch: section.bounded("prefetch", 8, 0..=64),
        negative_ttl: section.bounded("negative_ttl", seconds(30), seconds(0)..=seconds(HOUR)),
        stale_after: section.bounded("stale_after", Duration::from_millis(1500), MILLISECONDS_100..=seconds(MINUTE)),
    };
    if cache.stale_after > limits.deadline {
        section.fault("stale_after", "is longer than limits.deadline, so that nothing stale would ever be served");
    }
    section.finish();
    cache
}

/// The least bandwidth: below it nothing would flow evenly.
const MIN_BANDWIDTH_BYTES: u64 = 64 << 10;

fn read_limits(mut section: Section<'_, '_, '_>) -> Limits {
    let limits = Limits {
        connections: section.bounded("connections", 4096, 1..=1_000_000),
        streams: section.bounded("streams", 128, 1..=10_000),
        header_timeout: section.bounded("header_timeout", seconds(10), MILLISECONDS_100..=seconds(10 * MINUTE)),
        idle_timeout: section.bounded("idle_timeout", seconds(2 * MINUTE), seconds(1)..=seconds(DAY)),
        write_timeout: section.bounded("write_timeout", seconds(30), MILLISECONDS_100..=seconds(HOUR)),
        request_timeout: section.bounded("request_timeout", seconds(6 * HOUR), seconds(1)..=seconds(7 * DAY)),
        min_body_rate: section.bounded("min_body_rate", ByteSize(1 << 10), ByteSize(0)..=mebibytes(1 << 10)),
        // 5 TiB is S3's largest object.
        max_blob: section.bounded("max_blob", mebibytes(1 << 20), mebibytes(1)..=mebibytes(5 << 20)),
        uploads: section.bounded("uploads", 1000, 1..=100_000),
        upload_ttl: section.bounded("upload_ttl", seconds(HOUR), seconds(1)..=seconds(7 * DAY)),
        deadline: section.bounded("deadline", seconds(10), MILLISECONDS_100..=seconds(5 * MINUTE)),
        grace: section.bounded("grace", seconds(30), seconds(0)..=seconds(HOUR)),
        client: ClientLimits {
            requests: section.bounded("client_requests", 0, 0..=1_000_000),
            burst: section.bounded("client_burst", 100, 1..=1_000_000),
            bandwidth: section.bounded("client_bandwidth", ByteSize(0), ByteSize(0)..=mebibytes(1 << 20)),
        },
    };
    if (1..MIN_BANDWIDTH_BYTES).contains(&limits.client.bandwidth.0) {
        section.fault("client_bandwidth", "is less than 64KiB, of which one block of an answer is the half");
    }
    if limits.deadline > limits.request_timeout {
        section.fault("deadline", "is longer than limits.request_timeout");
    }
    section.finish();
    limits
}

/// What signs and what proves must not be guessed.
const MIN_TOKEN_BYTES: usize = 16;

fn read_siblings(mut section: Section<'_, '_, '_>) -> Option<Siblings> {
    let advertise = read_advertise(&mut section);
    let tls_name: Option<String> = section.optional("tls_name");
    if tls_name.as_ref().is_some_and(|name| !names::is_host(name) || name.contains(':')) {
        section.fault("tls_name", "is not a host name without a port");
    }
    let dns: Option<String> = section.optional("dns");
    if dns.as_ref().is_some_and(|name| !names::is_host(name) || name.contains(':')) {
        section.fault("dns", "is not a host name without a port");
    }
    let token = read_token(&mut section, TokenNeed::Always);
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    section.finish();
    Some(Siblings { advertise: advertise?, tls_name, dns, token: token?, ca_file: ca_file.map(|file| file.path) })
}

/// Edges that have one configuration differ in this: so a variable may hold it.
fn read_advertise(section: &mut Section<'_, '_, '_>) -> Option<Url> {
    let written: Option<Url> = section.optional("advertise");
    let variable: Option<String> = section.optional("advertise_env");
    let (key, advertise) = match (written, variable) {
        (Some(_), Some(_)) => {
            section.fault("advertise_env", "stands beside advertise: only one of them is possible");
            return None;
        }
        (Some(url), None) => ("advertise", url),
        (None, Some(variable)) => ("advertise_env", url_of_variable(section, "advertise_env", &variable)?),
        (None, None) => {
            section.fault("advertise", "is missing: write it, or name a variable in advertise_env");
            return None;
        }
    };
    if advertise.path() != "/" {
        section.fault(key, "has a path: only a scheme, a host and a port are possible");
    }
    warn_of_plain_secret(section, key, std::slice::from_ref(&advertise), "the token");
    Some(advertise)
}

fn url_of_variable(section: &Section<'_, '_, '_>, key: &'static str, variable: &str) -> Option<Url> {
    let text = secret_of_variable(section, key, variable)?;
    let read = value::read(&DeValue::String(text.expose().into()));
    read.map_err(|why: String| section.fault(key, format!("the environment variable {variable}: {why}"))).ok()
}

/// Whether a token may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenNeed {
    Always,
    IfGiven,
}

pub(super) fn read_token(section: &mut Section<'_, '_, '_>, need: TokenNeed) -> Option<Secret> {
    let given = read_secret(section, TOKEN);
    match &given {
        Given::Nothing if need == TokenNeed::Always => section.fault(TOKEN.file, "is missing: name a file, or a variable in token_env"),
        Given::Secret(token) if token.expose().len() < MIN_TOKEN_BYTES => {
            section.fault(TOKEN.file, format!("is too short: a token has at least {MIN_TOKEN_BYTES} characters"));
        }
        _ => {}
    }
    given.into_secret()
}

/// What the tables of hosted repositories refer to.
struct HostedContext<'a> {
    upstreams: &'a [Upstream],
    regions: Regions<'a>,
    /// Where a table says nothing.
    acknowledge: Acknowledge,
}

fn read_hosted(root: &mut Section<'_, '_, '_>, context: &HostedContext<'_>) -> Vec<Hosted> {
    let mut patterns = Owners::new();
    root.sections("hosted").into_iter().filter_map(|section| read_one_hosted(section, context, &mut patterns)).collect()
}

fn read_one_hosted(mut section: Section<'_, '_, '_>, context: &HostedContext<'_>, patterns: &mut Owners) -> Option<Hosted> {
    let HostedContext { upstreams, regions, acknowledge } = *context;
    let pattern: Option<Pattern> = section.required("pattern");
    if let Some(pattern) = &pattern {
        let prefix = pattern.as_str().split('/').next().unwrap_or_default();
        if let Some(upstream) = upstreams.iter().find(|upstream| upstream.path_prefix() == prefix) {
            section
                .fault("pattern", format!("repositories below {prefix:?} are the upstream {:?}'s: nothing is hosted there", upstream.name));
        } else if let Some(earlier) = note(patterns, pattern.as_str().to_owned(), section.path()) {
            section.fault("pattern", format!("{:?} stands already in {earlier}", pattern.as_str()));
        }
    }
    let forward_to: Option<String> = section.optional("forward_to");
    if let Some(name) = forward_to.as_ref().filter(|name| upstreams.iter().all(|upstream| upstream.name != **name)) {
        section.fault("forward_to", format!("{name:?} is no upstream of this configuration"));
    }
    let sparse_indexes = section.or("sparse_indexes", false);
    let replicate = section.or("replicate", Replicate::Lazy);
    regions.check_replicate(&section, replicate);
    let acknowledge = section.or("acknowledge", acknowledge);
    regions.check_acknowledge(&section, acknowledge);
    let home: Option<String> = section.optional("home");
    regions.check_home(&section, home.as_deref());
    section.finish();
    Some(Hosted { pattern: pattern?, forward_to, sparse_indexes, replicate, acknowledge, home })
}

fn read_log(mut section: Section<'_, '_, '_>) -> Log {
    let log = Log {
        format: section.or("format", LogFormat::Text),
        level: section.or("level", "info".to_owned()),
        central: section.or("central", false),
        keeping: records::read(&mut section, mebibytes(256), 30),
    };
    if let Err(why) = tracing_subscriber::EnvFilter::builder().parse(&log.level) {
        section.fault("level", format!("{:?} is not a filter such as \"info\" or \"warn,outport=debug\": {why}", log.level));
    } else if let Some(word) = misspelt_level(&log.level) {
        section.fault("level", format!("{word:?} is not a level: off, error, warn, info, debug or trace"));
    }
    section.finish();
    log
}

/// A bare word that is no level. The filter would take it for a part of the program, and log nothing else.
fn misspelt_level(filter: &str) -> Option<&str> {
    let mut directives = filter.split(',').map(str::trim);
    directives.find(|directive| !directive.contains('=') && directive.parse::<tracing_subscriber::filter::LevelFilter>().is_err())
}

/// What may be there only once, and who has it: the key path of the owner by the thing's name.
pub(super) type Owners = HashMap<String, String>;

/// Notes that `owner` has `name`; the earlier owner, if there is one.
pub(super) fn note(owners: &mut Owners, name: String, owner: &str) -> Option<String> {
    match owners.entry(name) {
        Entry::Occupied(earlier) => Some(earlier.get().clone()),
        Entry::Vacant(free) => {
            free.insert(owner.to_owned());
            None
        }
    }
}

fn read_upstreams(root: &mut Section<'_, '_, '_>) -> Vec<Upstream> {
    let (mut prefixes, mut hosts) = (Owners::new(), Owners::new());
    root.sections("upstream").into_iter().filter_map(|section| read_upstream(section, &mut prefixes, &mut hosts)).collect()
}

fn read_upstream(mut section: Section<'_, '_, '_>, prefixes: &mut Owners, taken_hosts: &mut Owners) -> Option<Upstream> {
    let name = read_upstream_name(&mut section, prefixes);
    let hosts = read_hosts(&mut section, taken_hosts);
    let url: Option<Url> = section.required("url");
    let mirrors: Vec<Url> = section.list("mirrors");
    let username: Option<String> = section.optional("username");
    if username.as_ref().is_some_and(|name| name.is_empty() || name.contains(':')) {
        section.fault("username", "is empty or has a colon, which ends a user name (RFC 7617)");
    }
    let password = read_secret(&mut section, PASSWORD);
    match (&username, &password) {
        (Some(_), Given::Nothing) => section.fault("username", "has no password: add password_file or password_env"),
        (None, Given::Broken | Given::Secret(_)) => section.fault("username", "is missing, though there is a password"),
        _ => {}
    }
    if matches!(password, Given::Secret(_)) {
        warn_of_plain_secret(&section, "url", url.as_slice(), "the password");
        warn_of_plain_secret(&section, "mirrors", &mirrors, "the password");
    }
    let authorize = section.or("authorize", Authorize::Edge);
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let private_networks = section.list("private_networks");
    let token_hosts = read_token_hosts(&mut section);
    let tag_ttl = section.bounded("tag_ttl", seconds(5 * MINUTE), seconds(0)..=seconds(30 * DAY));
    // Where the upstream decides for each caller, what it withdraws from one must not stay open for a day.
    let authorization_default = if authorize == Authorize::Edge { seconds(DAY) } else { seconds(5 * MINUTE) };
    let authorization_ttl = section.bounded("authorization_ttl", authorization_default, seconds(0)..=seconds(DAY));
    let (allow, deny) = (section.list("allow"), section.list("deny"));
    let max_connections = section.bounded("max_connections", 64, 1..=4096);
    let connect_timeout = section.bounded("connect_timeout", seconds(5), MILLISECONDS_100..=seconds(MINUTE));
    let read_timeout = section.bounded("read_timeout", seconds(15), MILLISECONDS_100..=seconds(10 * MINUTE));
    section.finish();
    Some(Upstream {
        name: name?,
        hosts,
        url: url?,
        mirrors,
        username,
        password: password.into_secret(),
        authorize,
        ca_file: ca_file.map(|file| file.path),
        private_networks,
        token_hosts,
        tag_ttl,
        authorization_ttl,
        allow,
        deny,
        max_connections,
        connect_timeout,
        read_timeout,
    })
}

fn read_upstream_name(section: &mut Section<'_, '_, '_>, prefixes: &mut Owners) -> Option<String> {
    let name: String = section.required("name")?;
    if !names::is_upstream(&name) {
        section.fault(
            "name",
            format!("{name:?} is not an upstream's name: one path component such as \"docker.io\" or \"registry.local:5000\""),
        );
    } else if let Some(earlier) = note(prefixes, names::path_prefix(&name), section.path()) {
        // `a:1` and `a_1` have the same path prefix.
        section.fault("name", format!("{name:?} stands already in {earlier}"));
    }
    Some(name)
}

fn read_hosts(section: &mut Section<'_, '_, '_>, taken: &mut Owners) -> Vec<String> {
    let hosts: Vec<String> = section.list("hosts");
    for (index, host) in hosts.iter().enumerate() {
        if !names::is_host(host) {
            section.fault_at("hosts", index, format!("{host:?} is not a host name, with a port or without"));
        } else if let Some(earlier) = note(taken, host.to_ascii_lowercase(), section.path()) {
            section.fault_at("hosts", index, format!("{host:?} stands already in {earlier}"));
        }
    }
    hosts
}

fn read_token_hosts(section: &mut Section<'_, '_, '_>) -> Vec<String> {
    let hosts: Vec<String> = section.list("token_hosts");
    for (index, host) in hosts.iter().enumerate().filter(|(_, host)| !names::is_host(host) || host.contains(':')) {
        section.fault_at("token_hosts", index, format!("{host:?} is not a host name without a port"));
    }
    hosts
}

pub(super) fn warn_of_plain_secret(section: &Section<'_, '_, '_>, key: &'static str, urls: &[Url], secret: &str) {
    let local = |url: &Url| url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
    if urls.iter().any(|url| url.scheme() == "http" && !local(url)) {
        section.warn(key, format!("is plain HTTP: {secret} travels unprotected"));
    }
}

/// The keys that may lead to one secret, and the one that people write it into.
#[derive(Clone, Copy)]
pub(super) struct SecretKeys {
    pub inline: &'static str,
    pub file: &'static str,
    pub variable: &'static str,
    /// With its article.
    pub what: &'static str,
}

const PASSWORD: SecretKeys = SecretKeys { inline: "password", file: "password_file", variable: "password_env", what: "a password" };
const TOKEN: SecretKeys = SecretKeys { inline: "token", file: "token_file", variable: "token_env", what: "a token" };

/// A secret, as far as it could be read.
pub(super) enum Given {
    Nothing,
    /// Its fault is reported already.
    Broken,
    Secret(Secret),
}

impl Given {
    pub fn into_secret(self) -> Option<Secret> {
        match self {
            Given::Secret(secret) => Some(secret),
            Given::Nothing | Given::Broken => None,
        }
    }
}

pub(super) fn read_secret(section: &mut Section<'_, '_, '_>, keys: SecretKeys) -> Given {
    let SecretKeys { inline, file, variable, what } = keys;
    let instead = format!("{what} does not stand in the configuration: name its file in {file}, or its variable in {variable}");
    section.refuse(inline, &instead);
    let path: Option<PathBuf> = section.optional(file);
    let name: Option<String> = section.optional(variable);
    let secret = match (&path, &name) {
        (None, None) => return Given::Nothing,
        (Some(_), Some(_)) => {
            section.fault(variable, format!("stands beside {file}: only one of them is possible"));
            None
        }
        (Some(path), None) => section.open(file, path).and_then(|content| secret_of_file(section, file, &content)),
        (None, Some(name)) => secret_of_variable(section, variable, name),
    };
    secret.map_or(Given::Broken, Given::Secret)
}

pub(super) fn secret_of_file(section: &Section<'_, '_, '_>, key: &'static str, file: &FileContent) -> Option<Secret> {
    if file.readable == Readable::ByEveryone {
        section.warn(key, format!("{} {READABLE_BY_EVERYONE}", file.path.display()));
    }
    let text = without_newline(&file.text);
    if text.is_empty() {
        section.fault(key, format!("{} is empty", file.path.display()));
        return None;
    }
    Some(Secret::new(text.to_owned()))
}

pub(super) fn secret_of_variable(section: &Section<'_, '_, '_>, key: &'static str, name: &str) -> Option<Secret> {
    if !names::is_variable(name) {
        // Not repeated: somebody may have written the password itself.
        section.fault(key, "is not the name of an environment variable");
        return None;
    }
    let text = section.variable(key, name)?;
    let text = without_newline(&text);
    if text.is_empty() {
        section.fault(key, format!("the environment variable {name} is empty"));
        return None;
    }
    Some(Secret::new(text.to_owned()))
}

/// Editors and `echo` end a file with a newline that is no part of the secret. Inner ones stay: some registries take a JSON document.
fn without_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
