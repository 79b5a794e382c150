//! Edges under test: in this process, or as a process of their own that can be killed and measured.

use std::fmt::Write;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outport::config::{Config, process_environment};
use outport::edge::Edge;
use outport::journal::Journal;
use outport::metrics::Metrics;
use outport::replication::Superseded;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use rustls::ClientConfig;
use tempfile::TempDir;

use super::client::Client;
use super::image::Image;
use super::origin::Origin;
use super::pull::pull;
use super::tls::Authority;

/// How long an edge may take to start.
const START_TIME: Duration = Duration::from_secs(20);
/// How long connections and files may take to close after a test.
const SETTLE_TIME: Duration = Duration::from_secs(20);
/// Files that may be open after a test beyond those at its start: connections to upstreams that are kept for the next request.
const SPARE_FILES: usize = 24;

/// The configuration of an edge under test. Anyone may pull, unless a test says otherwise; a canary upstream is always there.
pub struct Settings {
    dir: TempDir,
    region: String,
    /// Where its listeners are, if not at any free port.
    addresses: Option<[SocketAddr; 2]>,
    data_dir: Option<PathBuf>,
    listen: String,
    access: String,
    cache: String,
    limits: String,
    log: String,
    /// The upstreams, principals and whatever else stands in tables of its own.
    tables: String,
    /// How clients reach the registry listener, when it speaks TLS.
    tls: Option<(Arc<ClientConfig>, String)>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new()
    }
}

impl Settings {
    pub fn new() -> Settings {
        Settings {
            dir: TempDir::with_prefix("outport-test-").expect("a folder for temporary files"),
            region: "test".into(),
            addresses: None,
            data_dir: None,
            listen: String::new(),
            access: "anonymous_pull = [\"**\"]".into(),
            cache: "prefetch = 0\n".into(),
            limits: String::new(),
            log: "level = \"info\"\n".into(),
            tables: String::new(),
            tls: None,
        }
    }

    /// The region's name, and where the edge is: others have to know both before it starts.
    pub fn in_region(mut self, name: &str, addresses: [SocketAddr; 2]) -> Settings {
        (self.region, self.addresses) = (name.into(), Some(addresses));
        self
    }

    /// Clients of the registry listener trust this authority and ask for this server name.
    pub fn with_tls(mut self, authority: &Authority, server_name: &str) -> Settings {
        self.tls = Some((authority.client(), server_name.to_owned()));
        self
    }

    fn client(&self, registry: SocketAddr) -> Client {
        let client = Client::new(registry);
        match &self.tls {
            Some((config, name)) => client.with_tls(config.clone(), name),
            None => client,
        }
    }

    /// An upstream of this name at an origin.
    pub fn upstream(self, name: &str, origin: &Origin) -> Settings {
        self.upstream_with(name, origin, "")
    }

    /// With further lines of its table.
    pub fn upstream_with(self, name: &str, origin: &Origin, lines: &str) -> Settings {
        self.upstream_at(name, &origin.url(), lines)
    }

    pub fn upstream_at(mut self, name: &str, url: &str, lines: &str) -> Settings {
        write!(self.tables, "[[upstream]]\nname = \"{name}\"\nurl = \"{url}\"\n{lines}\n").expect("text can grow");
        self
    }

    /// Someone with one password and these patterns.
    pub fn principal(self, name: &str, password: &str, pull: &str) -> Settings {
        let file = self.file(&format!("{name}.password"), password);
        self.table(&format!("[[principal]]\nname = \"{name}\"\npassword_files = [\"{}\"]\npull = [\"{pull}\"]", file.display()))
    }

    /// Anybody may push as well. What is pushed lies in a folder of the edge's own, unless a table says where.
    pub fn open_to_pushes(self) -> Settings {
        self.access("anonymous_pull = [\"**\"]\nanonymous_push = [\"**\"]")
    }

    /// Someone with the password `secret` and these lists of patterns, in TOML.
    pub fn pusher(self, name: &str, pull: &str, push: &str) -> Settings {
        let file = self.file(&format!("{name}.password"), "secret");
        let file = file.display();
        self.table(&format!("[[principal]]\nname = \"{name}\"\npassword_files = [\"{file}\"]\npull = {pull}\npush = {push}"))
    }

    /// A file beside the configuration.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a writable folder");
        path
    }

    /// A line of `[listen]`.
    pub fn listen(mut self, line: &str) -> Settings {
        set(&mut self.listen, line);
        self
    }

    /// A line of `[cache]`; the line of the same key that stands there is replaced.
    pub fn cache(mut self, line: &str) -> Settings {
        set(&mut self.cache, line);
        self
    }

    pub fn limits(mut self, line: &str) -> Settings {
        set(&mut self.limits, line);
        self
    }

    pub fn log(mut self, line: &str) -> Settings {
        set(&mut self.log, line);
        self
    }

    /// The lines of `[access]`, in place of those that let everybody pull.
    pub fn access(mut self, lines: &str) -> Settings {
        self.access = lines.into();
        self
    }

    /// A whole table. `{registry}` in it becomes the address of the registry listener.
    pub fn table(mut self, text: &str) -> Settings {
        writeln!(self.tables, "{text}").expect("text can grow");
        self
    }

    /// Keeps the cache elsewhere than beside the configuration.
    pub fn data_dir(mut self, path: &Path) -> Settings {
        self.data_dir = Some(path.to_owned());
        self
    }

    pub fn data_path(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    fn text(&self, registry: SocketAddr, ops: SocketAddr) -> String {
        let Settings { region, listen, access, cache, limits, log, tables, .. } = self;
        let tables = tables.replace("{registry}", &registry.to_string());
        format!(
            "region = \"{region}\"\ndata_dir = \"{}\"\n[listen]\nregistry = \"{registry}\"\nops = \"{ops}\"\n{listen}[access]\n{access}\n\
             [cache]\n{cache}[limits]\n{limits}[log]\n{log}{tables}",
            self.data_path().display()
        )
    }

    /// Starts an edge in this process.
    pub async fn start(self) -> TestEdge {
        TestEdge::start(self).await
    }

    /// Starts an edge as a process.
    pub async fn spawn(self) -> EdgeProcess {
        EdgeProcess::start(self).await
    }
}

/// Puts a line `key = value` in place of the one with its key.
fn set(lines: &mut String, line: &str) {
    let key = line.split('=').next().unwrap_or_default().trim();
    let others = lines.lines().filter(|old| old.split('=').next().unwrap_or_default().trim() != key);
    *lines = others.chain([line]).fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    });
}

/// An upstream that nothing is wrong with, to see that the edge still works.
struct Canary {
    origin: Origin,
    image: Image,
}

/// The name of the canary's upstream.
const CANARY: &str = "canary.test";

impl Canary {
    async fn new() -> Canary {
        let (origin, image) = (Origin::start().await, Image::new(4711, &[1000, 200_000]));
        origin.push("bird", "v1", &image);
        Canary { origin, image }
    }

    async fn sings(&self, client: &Client) {
        pull(client, &format!("{CANARY}/bird"), "v1", &self.image).await.expect("the canary is pulled");
    }
}

/// An edge in this process.
pub struct TestEdge {
    edge: Option<Edge>,
    settings: Settings,
    canary: Canary,
    /// Asks the registry listener.
    pub client: Client,
    /// Asks the ops listener.
    pub ops: Client,
}

impl TestEdge {
    async fn start(settings: Settings) -> TestEdge {
        let canary = Canary::new().await;
        let settings = settings.upstream(CANARY, &canary.origin);
        let edge = start_edge(&settings).await;
        let (client, ops) = (settings.client(edge.registry_address()), Client::new(edge.ops_address()));
        TestEdge { edge: Some(edge), settings, canary, client, ops }
    }

    /// Shuts the edge down and starts it again on the same cache.
    pub async fn restart(&mut self) {
        self.restart_after(|_| ()).await;
    }

    /// Between its end and its start something happens to its folder.
    pub async fn restart_after(&mut self, change: impl FnOnce(&Path)) {
        self.stop().await;
        change(&self.settings.data_path());
        let edge = start_edge(&self.settings).await;
        (self.client, self.ops) = (self.settings.client(edge.registry_address()), Client::new(edge.ops_address()));
        self.edge = Some(edge);
    }

    async fn stop(&mut self) {
        if let Some(edge) = self.edge.take() {
            edge.shutdown().await;
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// Tells when it can only end and start again, in another incarnation of its region.
    pub fn superseded(&self) -> Superseded {
        self.edge.as_ref().expect("it runs").superseded()
    }

    /// Writes its configuration into a file, for commands that read one.
    pub fn config_path(&self) -> PathBuf {
        let ops = self.ops.address();
        self.settings.file("outport.toml", &self.settings.text(self.address(), ops))
    }

    /// Where everything of the edge lies on the disk.
    pub fn data_dir(&self) -> PathBuf {
        self.settings.data_path()
    }

    pub async fn metrics(&self) -> String {
        self.ops.get("/metrics").await.text()
    }

    /// Ends a test: the edge still works, and stops when it is told to.
    pub async fn finish(mut self) {
        self.canary.sings(&self.client.without_headers()).await;
        self.stop().await;
    }
}

async fn start_edge(settings: &Settings) -> Edge {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let [registry, ops] = settings.addresses.unwrap_or([any, any]);
    let text = settings.text(registry, ops);
    let config = Config::parse(&text, settings.dir.path(), &process_environment).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    Edge::start(config, Metrics::new(), Journal::default()).await.unwrap_or_else(|error| panic!("the edge does not start: {error}"))
}

/// An edge as a process of its own. It is killed when this is dropped.
pub struct EdgeProcess {
    child: Child,
    settings: Settings,
    canary: Canary,
    registry: SocketAddr,
    /// Open files when it had just started and answered.
    baseline_files: usize,
    pub client: Client,
    pub ops: Client,
}

impl EdgeProcess {
    async fn start(settings: Settings) -> EdgeProcess {
        let canary = Canary::new().await;
        let settings = settings.upstream(CANARY, &canary.origin);
        let [registry, ops_address] = settings.addresses.unwrap_or_else(own_addresses);
        settings.file("outport.toml", &settings.text(registry, ops_address));
        let child = spawn(settings.dir.path());
        let (client, ops) = (settings.client(registry), Client::new(ops_address));
        let mut edge = EdgeProcess { child, settings, canary, registry, baseline_files: 0, client, ops };
        edge.wait_until_ready().await;
        edge.baseline_files = edge.open_files();
        edge
    }

    async fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while !self.ops.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
            assert!(started.elapsed() < START_TIME, "the edge is not ready after {START_TIME:?}:\n{}", self.log_text());
            if let Some(status) = self.child.try_wait().expect("our own child") {
                panic!("the edge ended with {status}:\n{}", self.log_text());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.canary.sings(&self.client.without_headers()).await;
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after `kill` or `wait`, on the same ports and cache.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.settings.dir.path());
        self.wait_until_ready().await;
        self.baseline_files = self.open_files();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process has a number")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child");
    }

    /// Gives it less of something.
    pub fn limit(&self, resource: Resource, limit: Rlimit) {
        prlimit(Some(self.pid()), resource, limit).expect("our own child");
    }

    /// Processor time that it has used, in user and kernel.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The fields behind the name, which may contain anything: user and system time are the 12th and 13th, in hundredths.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
    }

    /// Connections of clients that it says are open.
    pub async fn connections(&self) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix("outport_connections "));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no outport_connections in\n{metrics}"))
    }

    pub fn all_open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Waits for its end after a signal.
    pub async fn wait(&mut self, time: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(started.elapsed() < time, "the edge has not ended within {time:?}:\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Replaces the configuration file; addresses and cache stay as they are.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut String)) {
        let mut text = self.config_text();
        change(&mut text);
        self.replace_file("outport.toml", &text);
    }

    pub fn config_text(&self) -> String {
        std::fs::read_to_string(self.settings.dir.path().join("outport.toml")).expect("our own file")
    }

    /// A file beside the configuration, renamed into its place as editors and orchestrators do.
    pub fn replace_file(&self, name: &str, text: &str) {
        let new = self.settings.file(&format!("{name}.new"), text);
        std::fs::rename(new, self.settings.dir.path().join(name)).expect("a writable folder");
    }

    pub fn data_dir(&self) -> PathBuf {
        self.settings.data_path()
    }

    /// Everything that it wrote to standard output and error since the test began.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.settings.dir.path().join("log")).unwrap_or_default()
    }

    pub async fn metrics(&self) -> String {
        self.ops.get("/metrics").await.text()
    }

    pub fn resident_bytes(&self) -> u64 {
        self.memory().bytes()
    }

    /// A view on its memory that can be taken to another thread.
    pub fn memory(&self) -> Memory {
        Memory { process: self.child.id() }
    }

    /// Open files and connections, less the blobs, cached or a bucket's, that are kept open for the next reader: the store bounds those.
    pub fn open_files(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())) else { return 0 };
        let targets = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        // Not those on their way in, which have a number behind their names.
        let is_kept = |target: &str| target.contains("/blobs/") && !target.contains('#');
        targets.filter(|target| !is_kept(&target.to_string_lossy())).count()
    }

    /// Ends a test: the edge still works, its files are closed, and it stops when it is told to.
    pub async fn finish(mut self) {
        self.canary.sings(&self.client.without_headers()).await;
        let started = Instant::now();
        while self.open_files() > self.baseline_files + SPARE_FILES {
            let open = self.open_files();
            assert!(started.elapsed() < SETTLE_TIME, "{open} files are open, {} were at the start", self.baseline_files);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.signal(Signal::TERM);
        let status = self.wait(Duration::from_secs(40)).await;
        assert!(status.success(), "the edge ended with {status}:\n{}", self.log_text());
    }

    pub fn address(&self) -> SocketAddr {
        self.registry
    }
}

/// The memory of a process.
pub struct Memory {
    process: u32,
}

impl Memory {
    /// What is resident, less the parts of files that are seen through a mapping: those are the page cache's.
    pub fn bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }
}

impl Drop for EdgeProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<_> = log.lines().filter(|line| !line.contains("outport::access")).collect();
            eprintln!("the end of the edge's log, without the requests:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn spawn(dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a writable folder");
    Command::new(env!("CARGO_BIN_EXE_outport"))
        .args(["serve", "--config"])
        .arg(dir.join("outport.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the binary that cargo has built")
}

/// Two addresses that no other edge of these tests uses: a host of its own in 127/8, so that a port stays free over a restart.
pub fn own_addresses() -> [SocketAddr; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let host = Ipv4Addr::new(127, 10 + (std::process::id() % 200) as u8, high, low);
    [SocketAddr::from((host, 5000)), SocketAddr::from((host, 5001))]
}
