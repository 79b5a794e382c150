//! Three regions and an origin in one process, far from one another: four edges, and a link wherever one of them reaches another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use ulid::Ulid;

use super::DemoError;
use super::client::Client;
use super::link::{Link, Shape};
use crate::config::{Loaded, process_environment};
use crate::edge::Edge;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::oci::Digest;

pub(super) const REGIONS: [&str; 3] = ["eu", "us", "ap"];
pub(super) const ORIGIN: &str = "origin";
/// What the origin is called in the names of images.
pub(super) const UPSTREAM: &str = "registry.example";

/// How far places are from one another: milliseconds one way.
const DISTANCES_MS: [(&str, &str, u64); 6] =
    [("eu", "us", 40), ("eu", "ap", 70), ("us", "ap", 60), ("eu", ORIGIN, 20), ("us", ORIGIN, 30), ("ap", ORIGIN, 65)];
pub(super) const RATE_MBIT_PER_S: f64 = 400.0;

/// The places, and the links between them by where they begin and end.
pub(super) struct World {
    folder: PathBuf,
    token: String,
    links: BTreeMap<(&'static str, &'static str), Link>,
    places: BTreeMap<&'static str, Place>,
}

/// An edge and its clients.
struct Place {
    edge: Option<Edge>,
    client: Client,
    ops: Client,
}

/// How long it takes from one place to another.
pub(super) fn one_way(from: &str, to: &str) -> Duration {
    let found = DISTANCES_MS.iter().find(|(a, b, _)| (*a, *b) == (from, to) || (*a, *b) == (to, from));
    Duration::from_millis(found.map_or(0, |(_, _, ms)| *ms))
}

impl World {
    /// Lays the links and writes the configurations; no edge runs yet.
    pub async fn lay_out(folder: &Path) -> Result<World, DemoError> {
        let token = format!("{}{}", Ulid::generate(), Ulid::generate());
        let mut world = World { folder: folder.to_owned(), token, links: BTreeMap::new(), places: BTreeMap::new() };
        for from in REGIONS {
            for to in REGIONS.into_iter().chain([ORIGIN]).filter(|to| *to != from) {
                let shape = Shape { one_way: one_way(from, to), bytes_per_s: RATE_MBIT_PER_S * 1e6 / 8.0 };
                world.links.insert((from, to), Link::lay(shape).await?);
            }
        }
        std::fs::write(folder.join("peer-token"), &world.token)?;
        for name in REGIONS.into_iter().chain([ORIGIN]) {
            std::fs::write(world.config_file(name), world.config(name))?;
        }
        Ok(world)
    }

    fn config_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    /// The configuration of a place, as an operator would write it.
    pub fn config(&self, name: &str) -> String {
        let mut text = format!(
            "region = \"{name}\"\ndata_dir = \"{name}\"\n\n\
             [listen]\nregistry = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\n\
             [access]\nanonymous_pull = [\"**\"]\nanonymous_push = [\"**\"]\n\n\
             [limits]\ngrace = \"500ms\"\n"
        );
        let mut add = |table: String| text.extend(["\n", &table]);
        for to in REGIONS.into_iter().chain([ORIGIN]) {
            let Some((_, link)) = self.links.iter().find(|(ends, _)| **ends == (name, to)) else { continue };
            let url = format!("http://{}", link.address());
            add(match to {
                ORIGIN => format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurl = \"{url}\"\ntag_ttl = \"1s\"\n"),
                peer => format!("[[peer]]\nregion = \"{peer}\"\nedges = [\"{url}\"]\ntoken_file = \"peer-token\"\n"),
            });
        }
        if name != ORIGIN {
            add("# What is pushed here is copied to every region; all else lies where it is pushed and where it is pulled.\n\
                 [[hosted]]\npattern = \"everywhere/**\"\nreplicate = \"all\"\n"
                .to_owned());
        }
        text
    }

    pub async fn start(&mut self) -> Result<(), DemoError> {
        for name in [ORIGIN].into_iter().chain(REGIONS) {
            self.start_edge(name).await?;
        }
        Ok(())
    }

    /// Starts one edge, for the first time or again.
    pub async fn start_edge(&mut self, name: &'static str) -> Result<(), DemoError> {
        let loaded = Loaded::load(Some(&self.config_file(name)), &process_environment).map_err(DemoError::broken)?;
        let edge = Edge::start(loaded.config, Metrics::new(), Journal::default()).await?;
        self.links.iter().filter(|((_, to), _)| *to == name).for_each(|(_, link)| {
            link.lead_to(edge.registry_address());
            link.mend();
        });
        let client = Client::new(format!("http://{}", edge.registry_address()))?;
        let ops = client.at(format!("http://{}", edge.ops_address()));
        self.places.insert(name, Place { edge: Some(edge), client, ops });
        Ok(())
    }

    /// A client beside the edge of a place.
    pub fn client(&self, name: &str) -> &Client {
        &self.places[name].client
    }

    pub fn ops_address(&self, name: &str) -> &str {
        self.places[name].ops.base()
    }

    /// Nobody reaches the place, and it reaches nobody.
    pub fn cut_off(&self, name: &str) {
        self.links_of(name).for_each(Link::cut);
    }

    pub fn mend(&self, name: &str) {
        self.links_of(name).for_each(Link::mend);
    }

    fn links_of(&self, name: &str) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |((from, to), _)| *from == name || *to == name).map(|(_, link)| link)
    }

    /// Stops one edge as SIGTERM does.
    pub async fn stop_edge(&mut self, name: &str) {
        self.cut_off(name);
        if let Some(edge) = self.places.get_mut(name).and_then(|place| place.edge.take()) {
            edge.shutdown().await;
        }
    }

    pub async fn stop(mut self) {
        let edges = self.places.values_mut().filter_map(|place| place.edge.take());
        futures_util::future::join_all(edges.map(Edge::shutdown)).await;
    }

    /// The sum of a place's metrics of this name that have all these labels, if there are any.
    pub async fn metric(&self, name: &str, metric: &str, labels: &[(&str, &str)]) -> Result<Option<f64>, DemoError> {
        let answer = self.places[name].ops.get("/metrics", &[]).await?.expect("the metrics", StatusCode::OK)?;
        Ok(sum(&String::from_utf8_lossy(&answer.body), metric, labels))
    }

    /// How far behind another region one is, in seconds, and how many segments of it are not folded.
    pub async fn behind(&self, name: &str, other: &str) -> Result<(f64, f64), DemoError> {
        let of_other = [("region", other)];
        let seconds = self.metric(name, "outport_peer_behind_seconds", &of_other).await?;
        let segments = self.metric(name, "outport_peer_behind_events", &of_other).await?;
        seconds.zip(segments).ok_or_else(|| DemoError::wrong(&format!("the lag of {name} behind {other}"), "a figure", "none"))
    }

    /// Whether a region has bytes of its own with this digest; other regions ask so.
    pub async fn holds(&self, name: &str, digest: &Digest) -> Result<bool, DemoError> {
        let bearer = format!("Bearer {}", self.token);
        let path = format!("/outport/v1/content/{digest}");
        let answer = self.client(name).head(&path, &[("Authorization", &bearer)]).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            other => Err(DemoError::wrong("whether a region holds a content", "200 or 404", other)),
        }
    }
}

fn sum(text: &str, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (named, value) = line.rsplit_once(' ')?;
        let (name, found) = named.split_once('{').unwrap_or((named, ""));
        let is_asked = name == metric && labels.iter().all(|(label, value)| found.contains(&format!("{label}=\"{value}\"")));
        is_asked.then(|| value.parse::<f64>().ok())?
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or_default() + value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn metrics_are_summed_over_what_was_not_asked_for() {
        let text = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 0.5\na{x=\"2\",y=\"2\"} 7\nab 9\nc 4\n";
        for (metric, labels, found) in [
            ("a", &[("x", "1")][..], Some(3.5)),
            ("a", &[("x", "1"), ("y", "3")], Some(0.5)),
            ("a", &[], Some(10.5)),
            ("a", &[("x", "9")], None),
            ("c", &[], Some(4.0)),
            ("none", &[], None),
        ] {
            assert_eq!(sum(text, metric, labels), found, "{metric}{labels:?}");
        }
    }

    #[tokio::test]
    async fn the_configurations_are_good_ones() {
        let folder = crate::cli::demo::Folder::create().unwrap();
        let world = World::lay_out(folder.path()).await.unwrap();
        for name in REGIONS.into_iter().chain([ORIGIN]) {
            let config = Config::load(Some(&world.config_file(name)), &|_| None).unwrap();
            assert_eq!((config.region.as_str(), config.peers.len()), (name, if name == ORIGIN { 0 } else { 2 }));
        }
        assert_eq!((one_way("ap", "eu"), one_way("eu", "ap")), (Duration::from_millis(70), Duration::from_millis(70)));
    }
}
