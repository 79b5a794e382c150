//! An origin registry in this process, which follows a script and remembers every request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::image::{Blob, INDEX, Image, Manifest, referrer_entry};
use super::script::{Fault, Match, Phase, Route, Rule, Script};
use super::serve::{Request, connection};
use super::tls::Pair;
use super::token::{Guard, Tokens};

/// A running origin. It ends when it is dropped.
pub struct Origin {
    state: Arc<State>,
    /// The accept loop, with all its connections; `None` while stopped.
    accepting: Option<JoinHandle<()>>,
    tls: Option<TlsAcceptor>,
}

/// How an origin is set up, where that is not what most tests want: open, plain, with the referrers API.
#[derive(Clone, Debug)]
pub struct Setup {
    pub guard: Guard,
    pub tls: Option<Pair>,
    pub has_referrers_api: bool,
    /// The loopback address where it listens.
    pub host: Ipv4Addr,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { guard: Guard::open(), tls: None, has_referrers_api: true, host: Ipv4Addr::LOCALHOST }
    }
}

impl From<Guard> for Setup {
    fn from(guard: Guard) -> Setup {
        Setup { guard, ..Setup::default() }
    }
}

/// A request that came, and what became of it.
#[derive(Debug)]
pub struct Logged {
    pub method: String,
    pub route: Route,
    /// With the query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// 0 while nothing was answered.
    pub status: AtomicU16,
    /// Bytes of the body that were sent.
    pub sent_bytes: AtomicU64,
    /// When the answer's last byte had been sent.
    pub ended_at: OnceLock<Instant>,
}

impl Logged {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }
}

/// What connections share.
pub struct State {
    address: SocketAddr,
    scheme: &'static str,
    guard: Mutex<Guard>,
    pub tokens: Tokens,
    pub has_referrers_api: bool,
    pub content: Mutex<Content>,
    /// Uploads that were begun.
    pub sessions: Mutex<BTreeSet<String>>,
    numbered: AtomicU64,
    rules: Mutex<Vec<Arc<Rule>>>,
    log: Mutex<Vec<Arc<Logged>>>,
    is_answering: watch::Sender<bool>,
}

impl State {
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn guard(&self) -> Guard {
        self.guard.lock().expect("no panic while the guard is held").clone()
    }

    /// A number that no session has had.
    pub fn next_session(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed)
    }

    pub fn log(&self, request: &Request) -> Arc<Logged> {
        let query = request.head.start.split(' ').nth(1).unwrap_or_default();
        let logged = Arc::new(Logged {
            method: request.method.clone(),
            route: request.route.clone(),
            target: query.to_owned(),
            headers: request.head.headers.clone(),
            status: AtomicU16::new(0),
            sent_bytes: AtomicU64::new(0),
            ended_at: OnceLock::new(),
        });
        self.log.lock().expect("no panic while the log is held").push(logged.clone());
        logged
    }

    /// The faults that strike this request, each counted.
    pub fn strikes(&self, phase: Phase, request: &Request) -> Vec<Fault> {
        let rules = self.rules.lock().expect("no panic while rules are held").clone();
        rules.iter().filter_map(|rule| rule.strikes(phase, &request.method, &request.route)).collect()
    }

    /// Returns when the origin is not a black hole.
    pub async fn answering(&self) {
        // The sender lives in `self`.
        let _ = self.is_answering.subscribe().wait_for(|answering| *answering).await;
    }
}

/// What an origin holds, by repository.
#[derive(Debug, Default)]
pub struct Content(HashMap<String, Repository>);

#[derive(Debug, Default)]
struct Repository {
    blobs: HashMap<String, Blob>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

impl Content {
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Blob> {
        self.0.get(repository)?.blobs.get(digest).cloned()
    }

    pub fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        let repository = self.0.get(repository)?;
        repository.manifests.get(repository.tags.get(reference).map_or(reference, String::as_str))
    }

    pub fn tags(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.0.get(repository)?.tags.keys().cloned().collect())
    }

    pub fn keep_blob(&mut self, repository: &str, blob: Blob) {
        self.0.entry(repository.to_owned()).or_default().blobs.insert(blob.digest().to_owned(), blob);
    }

    pub fn keep_manifest(&mut self, repository: &str, tag: Option<&str>, manifest: Manifest) {
        let repository = self.0.entry(repository.to_owned()).or_default();
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), manifest.digest.clone());
        }
        repository.manifests.insert(manifest.digest.clone(), manifest);
    }

    pub fn referrers(&self, repository: &str, subject: &str) -> Vec<Value> {
        let manifests = self.0.get(repository).into_iter().flat_map(|repository| repository.manifests.values());
        manifests.filter(|manifest| manifest.json()["subject"]["digest"] == subject).map(referrer_entry).collect()
    }
}

impl Origin {
    pub async fn start() -> Origin {
        Origin::with(Setup::default()).await
    }

    pub async fn with(setup: impl Into<Setup>) -> Origin {
        let setup = setup.into();
        let listener = TcpListener::bind((setup.host, 0)).await.expect("a free port");
        let state = State {
            address: listener.local_addr().expect("a bound listener"),
            scheme: if setup.tls.is_some() { "https" } else { "http" },
            guard: Mutex::new(setup.guard),
            tokens: Tokens::default(),
            has_referrers_api: setup.has_referrers_api,
            content: Mutex::default(),
            sessions: Mutex::default(),
            numbered: AtomicU64::new(1),
            rules: Mutex::default(),
            log: Mutex::default(),
            is_answering: watch::Sender::new(true),
        };
        let mut origin = Origin { state: Arc::new(state), accepting: None, tls: setup.tls.map(|pair| TlsAcceptor::from(pair.server())) };
        origin.accept(listener);
        origin
    }

    fn accept(&mut self, listener: TcpListener) {
        let (state, tls) = (self.state.clone(), self.tls.clone());
        self.accepting = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => { connections.spawn(serve(state.clone(), tls.clone(), stream)); }
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
    }

    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    pub fn url(&self) -> String {
        self.state.url()
    }

    /// Refuses connections and ends those that are open.
    pub async fn stop(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
            // Cancelled is what it shall be.
            let _ = task.await;
        }
    }

    /// Listens again, on the same port.
    pub async fn resume(&mut self) {
        for _ in 0..100 {
            if let Ok(listener) = TcpListener::bind(self.state.address).await {
                return self.accept(listener);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the port {} is taken", self.state.address);
    }

    /// Accepts connections and never answers, on those that are open neither.
    pub fn blackhole(&self) {
        self.state.is_answering.send_replace(false);
    }

    /// Ends `blackhole`; requests that wait are answered.
    pub fn heal(&self) {
        self.state.is_answering.send_replace(true);
    }

    /// From now on this fault strikes these requests.
    pub fn script(&self, matching: Match, script: impl Into<Script>) {
        self.state.rules.lock().expect("no panic while rules are held").push(Arc::new(Rule::new(matching, script.into())));
    }

    /// Ends all faults of the script.
    pub fn clear(&self) {
        self.state.rules.lock().expect("no panic while rules are held").clear();
    }

    pub fn guard(&self) -> Guard {
        self.state.guard()
    }

    pub fn set_guard(&self, guard: Guard) {
        *self.state.guard.lock().expect("no panic while the guard is held") = guard;
    }

    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in &image.blobs {
            self.push_blob(repository, blob);
        }
        self.push_manifest(repository, Some(tag), &image.manifest);
    }

    /// An index of images for two platforms, under a tag.
    pub fn push_index(&self, repository: &str, tag: &str, index: &Manifest, images: [&Image; 2]) {
        for image in images {
            self.push_untagged(repository, image);
        }
        self.push_manifest(repository, Some(tag), index);
    }

    pub fn push_untagged(&self, repository: &str, image: &Image) {
        for blob in &image.blobs {
            self.push_blob(repository, blob);
        }
        self.push_manifest(repository, None, &image.manifest);
    }

    pub fn push_blob(&self, repository: &str, blob: &Blob) {
        self.content().keep_blob(repository, blob.clone());
    }

    pub fn push_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Manifest) {
        self.content().keep_manifest(repository, tag, manifest.clone());
    }

    /// An artifact with a subject; without the referrers API the fallback tag lists it.
    pub fn attach(&self, repository: &str, artifact: &Image) {
        self.push_untagged(repository, artifact);
        if self.state.has_referrers_api {
            return;
        }
        let subject = artifact.manifest.json()["subject"]["digest"].as_str().expect("an artifact has a subject").to_owned();
        let entries = self.content().referrers(repository, &subject);
        let index = Manifest::new(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}));
        self.push_manifest(repository, Some(&subject.replace(':', "-")), &index);
    }

    pub fn delete_tag(&self, repository: &str, tag: &str) {
        if let Some(repository) = self.content().0.get_mut(repository) {
            repository.tags.remove(tag);
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.state.content.lock().expect("no panic while content is held")
    }

    /// What was pushed here over HTTP, or put here by a test.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        self.content().manifest(repository, reference).cloned()
    }

    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.content().blob(repository, digest).is_some()
    }

    /// Whether all of an image is here under this tag.
    pub fn has(&self, repository: &str, tag: &str, image: &Image) -> bool {
        let blobs = image.blobs.iter().all(|blob| self.has_blob(repository, blob.digest()));
        blobs && self.manifest(repository, tag).as_ref() == Some(&image.manifest)
    }

    /// All requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Arc<Logged>> {
        self.state.log.lock().expect("no panic while the log is held").clone()
    }

    /// How many requests of this kind came, refused ones included.
    pub fn count(&self, matching: &Match) -> usize {
        self.requests().iter().filter(|logged| matching.fits(&logged.method, &logged.route)).count()
    }

    /// How many GETs of this blob were answered with bytes of it.
    pub fn transfers(&self, digest: &str) -> usize {
        let matching = Match::blob(digest).get();
        let fits = |logged: &&Arc<Logged>| matching.fits(&logged.method, &logged.route) && matches!(logged.status(), 200 | 206);
        self.requests().iter().filter(fits).count()
    }

    /// How many bytes of this blob were sent.
    pub fn sent_bytes(&self, digest: &str) -> u64 {
        let matching = Match::blob(digest);
        self.requests().iter().filter(|logged| matching.fits(&logged.method, &logged.route)).map(|logged| logged.sent_bytes()).sum()
    }

    /// All values of Authorization that came, without repetition.
    pub fn authorizations(&self) -> BTreeSet<String> {
        self.requests().iter().filter_map(|logged| logged.header("authorization").map(str::to_owned)).collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.state.log.lock().expect("no panic while the log is held").clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
    }
}

async fn serve(state: Arc<State>, tls: Option<TlsAcceptor>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A second handle on the socket, to reset it after the stream is gone.
    let socket = rustix::io::dup(&stream)?;
    let wants_reset = match tls {
        Some(acceptor) => connection(state, Box::new(acceptor.accept(stream).await?)).await,
        None => connection(state, Box::new(stream)).await,
    };
    if wants_reset {
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    Ok(())
}
