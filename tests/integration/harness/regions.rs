//! Regions in one process, an edge and a bucket each, and between every two of them a line that can be cut.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::client::Client;
use super::edge::{Settings, TestEdge, own_addresses};

/// What regions may take to come to a state that they come to by themselves.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a region reaches the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Edges,
    /// Their stores, with nobody to ask.
    Stores,
}

/// One direction of a way between two regions: connections that it carries end when it is cut.
struct Line {
    address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    is_open: watch::Sender<bool>,
}

impl Line {
    async fn lay() -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let (address, target, is_open) = (listener.local_addr().expect("it is bound"), Arc::new(OnceLock::new()), watch::Sender::new(true));
        tokio::spawn(carry(listener, target.clone(), is_open.clone()));
        Line { address, target, is_open }
    }
}

async fn carry(listener: TcpListener, target: Arc<OnceLock<SocketAddr>>, is_open: watch::Sender<bool>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let (target, mut cut) = (target.clone(), is_open.subscribe());
        tokio::spawn(async move {
            let Some(target) = target.get().filter(|_| *cut.borrow()) else { return };
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = cut.wait_for(|is_open| !is_open) => {}
            }
        });
    }
}

/// Regions, by name.
pub struct World {
    edges: BTreeMap<&'static str, TestEdge>,
    lines: BTreeMap<(&'static str, &'static str), Line>,
}

impl World {
    /// Each region's edge has these tables besides its own.
    pub async fn start(names: &[&'static str], tables: &str) -> World {
        World::start_reaching(names, tables, Reach::Edges).await
    }

    pub async fn start_reaching(names: &[&'static str], tables: &str, reach: Reach) -> World {
        World::start_each(names, |_| tables.to_owned(), reach).await
    }

    /// Regions whose configurations differ.
    pub async fn start_each(names: &[&'static str], tables: impl Fn(&str) -> String, reach: Reach) -> World {
        World::start_with(names, |name, settings| settings.open_to_pushes().table(&tables(name)), reach).await
    }

    /// Regions whose settings are completed, and which are closed to pushes unless that opens them.
    pub async fn start_with(names: &[&'static str], complete: impl Fn(&str, Settings) -> Settings, reach: Reach) -> World {
        let mut lines = BTreeMap::new();
        for from in names {
            for to in names.iter().filter(|to| *to != from) {
                lines.insert((*from, *to), Line::lay().await);
            }
        }
        let bare: BTreeMap<_, _> =
            names.iter().map(|name| (*name, complete(name, Settings::new().in_region(name, own_addresses())))).collect();
        let buckets: BTreeMap<&str, PathBuf> = bare.iter().map(|(name, settings)| (*name, settings.data_path().join("bucket"))).collect();
        let mut edges = BTreeMap::new();
        for (name, settings) in bare {
            let (token, mut settings) = (settings.file("peer-token", "a token of all regions"), settings);
            for ((_, to), line) in lines.iter().filter(|((from, _), _)| *from == name) {
                let way = match reach {
                    Reach::Edges => format!("edges = [\"http://{}\"]\ntoken_file = \"{}\"", line.address, token.display()),
                    Reach::Stores => format!("[peer.bucket]\nurl = \"file://{}\"", buckets[to].display()),
                };
                settings = settings.table(&format!("[[peer]]\nregion = \"{to}\"\n{way}"));
            }
            let edge = settings.start().await;
            for (_, line) in lines.iter().filter(|((_, to), _)| *to == name) {
                line.target.set(edge.address()).expect("each edge starts once");
            }
            edges.insert(name, edge);
        }
        World { edges, lines }
    }

    pub fn edge(&self, region: &str) -> &TestEdge {
        &self.edges[region]
    }

    /// The region's edge ends and starts again, perhaps in a new incarnation.
    pub async fn restart(&mut self, region: &str) {
        self.restart_after(region, |_| ()).await;
    }

    /// Between its end and its start something happens to its folder.
    pub async fn restart_after(&mut self, region: &str, change: impl FnOnce(&std::path::Path)) {
        let edge = self.edges.get_mut(region).expect("a region of this world");
        edge.restart_after(change).await;
    }

    pub fn client(&self, region: &str) -> &Client {
        &self.edge(region).client
    }

    /// Nobody reaches the region, and it reaches nobody.
    pub fn cut_off(&self, region: &str) {
        self.switch(region, false);
    }

    pub fn mend(&self, region: &str) {
        self.switch(region, true);
    }

    fn switch(&self, region: &str, is_open: bool) {
        for (_, line) in self.lines.iter().filter(|((from, to), _)| *from == region || *to == region) {
            line.is_open.send_replace(is_open);
        }
    }

    /// Bytes of the contents in a region's bucket that have keys of their own.
    pub fn bucket_bytes(&self, region: &str) -> u64 {
        let bucket = self.edge(region).data_dir().join("bucket");
        let root =
            std::fs::read_dir(&bucket).expect("a bucket").flatten().map(|entry| entry.path()).find(|path| path.join("blobs").exists());
        root.map_or(0, |root| size_of(&root.join("blobs")))
    }

    /// Ends a test: the edges still work, and stop when they are told to.
    pub async fn finish(self) {
        for (_, edge) in self.edges {
            edge.finish().await;
        }
    }
}

fn size_of(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let size = |entry: &std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size_of(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.iter().map(size).sum()
}

/// Waits for something that comes by itself.
pub async fn until<F: Future<Output = bool>>(what: &str, is_so: impl FnMut() -> F) -> Duration {
    until_within(PATIENCE, what, is_so).await
}

pub async fn until_within<F: Future<Output = bool>>(patience: Duration, what: &str, mut is_so: impl FnMut() -> F) -> Duration {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

/// The value of the metric whose line begins so.
pub async fn metric(edge: &TestEdge, start: &str) -> f64 {
    let metrics = edge.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(start)).and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or(0.0)
}
