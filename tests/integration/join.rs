//! Regions that join a long history: 100,000 pushes with `OUTPORT_FULL` (which is soon
//! done where TMPDIR is in memory), of which most segments are trimmed when the last region comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outport::config::{Config, process_environment};
use outport::edge::Edge;
use outport::ledger::{Content, Event, Ledger, ManifestFacts};
use outport::metrics::Metrics;
use outport::oci::{Digest, RepositoryName};
use serde_json::json;

use crate::harness::client::Client;
use crate::harness::edge::{Settings, TestEdge, own_addresses};
use crate::harness::image::{Blob, Image, Manifest};
use crate::harness::push::push_blob;
use crate::harness::regions::until_within;

const NAMES: [&str; 3] = [FIRST, "us", "ap"];
const FIRST: &str = "eu";
const REPOSITORIES: usize = 100;
/// A snapshot is made every so many segments (`ledger/upkeep.rs`), and the segments behind the last but one are kept.
const SNAPSHOT_EVERY: u64 = 20_000;
/// What trimming leaves of a segment has some 130 bytes, and a push several hundred.
const STUB_MOST_BYTES: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(900);

fn is_full() -> bool {
    std::env::var_os("OUTPORT_FULL").is_some()
}

/// From the start of a joining region's edge to its first right answer, and between two of them later: what is promised, where this test
/// has the machine to itself. Among all the others (on two cores, a build in the dev profile) it only has to come.
fn first_pull_most() -> Duration {
    Duration::from_secs(if is_full() { 5 } else { 60 })
}

/// All manifests of a repository share its blobs, and each has a text of its own.
struct History {
    images: Vec<Image>,
    pushes: usize,
}

impl History {
    fn new(pushes: usize) -> History {
        let image = |number| {
            let blob = |what: &str| Blob::held(format!("{what} of {number}"));
            Image::of(blob("config"), vec![blob("layer")])
        };
        History { images: (0..REPOSITORIES).map(image).collect(), pushes }
    }

    fn repository(number: usize) -> String {
        format!("team/service-{:03}", number % REPOSITORIES)
    }

    fn manifest(&self, number: usize) -> Manifest {
        let of = &self.images[number % REPOSITORIES].manifest;
        let mut content = of.json();
        content["annotations"] = json!({ "org.opencontainers.image.version": number.to_string() });
        Manifest::new(&of.media_type, &content)
    }

    /// As the registry does when a manifest is pushed, without HTTP before it: one segment for each, which is the most that they can be.
    async fn push(&self, ledger: &Ledger, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let (repository, manifest) = (History::repository(number), self.manifest(number));
            let (name, tag) = (repository.parse::<RepositoryName>().expect("a name"), format!("v{number}").parse().expect("a tag"));
            let digest: Digest = manifest.digest.parse().expect("a digest");
            let blobs = manifest.references().iter().map(|digest| digest.parse().expect("a digest")).collect();
            let size_bytes = manifest.bytes.len() as u64;
            let facts = ManifestFacts { media_type: manifest.media_type, size_bytes, blobs, ..ManifestFacts::default() };
            let events = vec![Event::manifest(name.clone(), digest, Content::Inline(manifest.bytes), facts), Event::tag(name, tag, digest)];
            ledger.append(events).await.expect("the bucket is there");
        }
    }

    /// One push, read whole.
    async fn pull(&self, client: &Client, number: usize) -> Result<(), String> {
        let (repository, manifest) = (History::repository(number), self.manifest(number));
        let answer = client.try_get(&format!("/v2/{repository}/manifests/v{number}")).await.map_err(|error| error.to_string())?;
        if answer.status != 200 || answer.body != manifest.bytes {
            return Err(format!("v{number}: {} {}", answer.status, answer.text()));
        }
        for blob in &self.images[number % REPOSITORIES].blobs {
            let answer = client.try_get(&format!("/v2/{repository}/blobs/{}", blob.digest())).await.map_err(|error| error.to_string())?;
            if answer.status != 200 || answer.body != blob.bytes() {
                return Err(format!("a blob of v{number}: {}", answer.status));
            }
        }
        Ok(())
    }

    /// As engines do: what is 503 is asked for again.
    async fn pull_patiently(&self, client: &Client, number: usize) {
        let began = Instant::now();
        while let Err(why) = self.pull(client, number).await {
            assert!(began.elapsed() < first_pull_most() && why.contains(": 503"), "{why}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn any(&self) -> usize {
        fastrand::usize(0..self.pushes)
    }
}

fn settings(name: &str, addresses: &BTreeMap<&str, [SocketAddr; 2]>) -> Settings {
    let mut settings = Settings::new().open_to_pushes().in_region(name, addresses[name]);
    let token = settings.file("peer-token", "a token of all regions");
    // Who joins knows whom it joins; what there is of a third region comes through it.
    for (other, [registry, _]) in addresses.iter().filter(|(other, _)| **other != name && (name == FIRST || **other == FIRST)) {
        let way = format!("edges = [\"http://{registry}\"]\ntoken_file = \"{}\"", token.display());
        settings = settings.table(&format!("[[peer]]\nregion = \"{other}\"\n{way}"));
    }
    settings
}

/// The ledger of a region as another node of it has it.
async fn ledger_of(edge: &TestEdge) -> Ledger {
    let path = edge.config_path();
    let text = std::fs::read_to_string(&path).expect("our own file");
    let config = Config::parse(&text, path.parent().expect("a folder"), &process_environment).expect("our own configuration");
    let region = Edge::reach_region(&config, Metrics::new()).await.expect("the bucket is there");
    region.get().expect("it is open").ledger.clone()
}

/// Whole segments and bytes of a region's ledger in its bucket.
fn kept(edge: &TestEdge) -> (u64, u64) {
    let bucket = edge.data_dir().join("bucket");
    let roots = std::fs::read_dir(bucket).expect("a bucket").map(|entry| entry.expect("an entry").path());
    let folders = roots.map(|root| root.join("ledger")).filter(|folder| folder.is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
    let sizes: Vec<u64> = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).collect();
    (sizes.iter().filter(|size| **size > STUB_MOST_BYTES).count() as u64, sizes.iter().sum())
}

/// Starts a region's edge and tells how long its first pull took from there.
async fn join(history: &History, name: &'static str, addresses: &BTreeMap<&str, [SocketAddr; 2]>) -> TestEdge {
    let began = Instant::now();
    let edge = settings(name, addresses).start().await;
    let mut last = String::new();
    while let Err(why) = history.pull(&edge.client, history.any()).await {
        assert!(began.elapsed() < first_pull_most(), "the first pull of {name} is not there after {:?}: {why}", began.elapsed());
        last = why;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{name}: first pull {:.2?} after its start {last}", began.elapsed());
    // What an operator does meanwhile.
    let joining = Command::new(env!("CARGO_BIN_EXE_outport"))
        .args(["--config".as_ref(), edge.config_path().as_os_str()])
        .args(["region", "join", "--timeout", "15m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // Pulls go on while it joins.
    for _ in 0..100 {
        history.pull_patiently(&edge.client, history.any()).await;
    }
    let joined = tokio::task::spawn_blocking(|| joining.wait_with_output()).await.expect("it is waited for").expect("it ends");
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    println!("{name}: {} after {:.1?}", String::from_utf8_lossy(&joined.stdout).trim(), began.elapsed());
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_joins_a_long_history_serves_at_once() {
    let history = History::new(if is_full() { 100_000 } else { 2_000 });
    let addresses: BTreeMap<&str, [SocketAddr; 2]> = NAMES.iter().map(|name| (*name, own_addresses())).collect();
    let eu = settings(FIRST, &addresses).start().await;
    for (number, image) in history.images.iter().enumerate() {
        for blob in &image.blobs {
            push_blob(&eu.client, &History::repository(number), blob).await;
        }
    }
    let ledger = ledger_of(&eu).await;
    let (began, step) = (Instant::now(), SNAPSHOT_EVERY as usize);
    for first in (0..history.pushes).step_by(step) {
        history.push(&ledger, first..history.pushes.min(first + step)).await;
        // What a timer does now and then.
        ledger.upkeep().await.expect("the bucket is there");
    }
    println!("{} pushes in {:.0?}: {:?} segments and bytes", history.pushes, began.elapsed(), kept(&eu));
    let us = join(&history, "us", &addresses).await;
    ledger.upkeep().await.expect("the bucket is there");
    println!("after trimming: {:?} segments and bytes", kept(&eu));
    if is_full() {
        // Since the last but one snapshot, and what came behind the last.
        until_within(PATIENCE, "what snapshots cover is trimmed", || async {
            ledger.upkeep().await.is_ok() && kept(&eu).0 <= 2 * SNAPSHOT_EVERY + 1_000
        })
        .await;
    }
    let ap = join(&history, "ap", &addresses).await;
    // It has all of it itself, whoever ends.
    eu.finish().await;
    us.finish().await;
    for _ in 0..100 {
        history.pull(&ap.client, history.any()).await.expect("the last region has it all");
    }
    ap.finish().await;
}
