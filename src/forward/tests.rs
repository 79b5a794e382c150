//! Pushes in a ledger in memory, passed on to a registry on a real socket.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use super::{Forwarder, Pending, Policies, Standing};
use crate::bucket::{Bucket, Key};
use crate::clock::Clock;
use crate::config::{self, BucketPlace};
use crate::dial;
use crate::ledger::{Content, ContentKind, Event, IndexPlace, Ledger, Look, ManifestFacts, Origin as RegionLife, Place, Settings};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::region::Region;
use crate::upstream::Upstream;
use crate::upstream::testing::{Origin, Registry, reply};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const ORIGIN: &str = "origin.example";

/// A region with one ledger, and an upstream.
struct World {
    bucket: Bucket,
    ledger: Ledger,
    registry: Registry,
    origin: Origin,
    metrics: Metrics,
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

impl World {
    async fn new() -> World {
        let settings = config::Bucket {
            place: BucketPlace::Memory,
            options: BTreeMap::new(),
            ca_file: None,
            request_timeout: Duration::from_secs(5),
            part_size: config::ByteSize(5 << 20),
        };
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let bucket = Bucket::open(&settings, "eu", clock.clone(), metrics.clone()).await.unwrap();
        let settings = Settings { index: IndexPlace::Memory, node: "edge".to_owned(), regions: crate::ledger::Regions::One };
        let ledger = Ledger::open(bucket.clone(), settings, clock, metrics.clone()).await.unwrap();
        let registry = Registry::default();
        let origin = registry.start().await;
        World { bucket, ledger, registry, origin, metrics }
    }

    fn upstream(&self) -> std::sync::Arc<Upstream> {
        let config = config::Upstream { name: ORIGIN.to_owned(), ..crate::upstream::testing::config(self.origin.url("/")) };
        let resolver = dial::Resolver::with_config("127.0.0.1:9".parse().unwrap(), "", Clock::system(), Metrics::new()).unwrap();
        Upstream::new(&config, resolver, dial::Proxies::none(), Clock::system(), self.metrics.clone()).unwrap().into()
    }

    /// `team/**` goes to the origin, but for `team/own`.
    fn forwarder(&self) -> Forwarder {
        let hosted = |pattern: &str, to: Option<&str>| config::Hosted {
            pattern: pattern.parse().unwrap(),
            forward_to: to.map(str::to_owned),
            sparse_indexes: false,
            replicate: config::Replicate::Lazy,
            acknowledge: config::Acknowledge::Store,
            home: None,
        };
        let hosted = [hosted("team/own", None), hosted("team/**", Some(ORIGIN))];
        let policies = Policies::new(&hosted, |wanted| (wanted == ORIGIN).then(|| self.upstream()));
        let region = Region::default();
        region.open(self.bucket.clone(), self.ledger.clone());
        Forwarder::start(region, policies, Clock::system(), self.metrics.clone())
    }

    /// A large blob in the bucket, a small one in the ledger, and a manifest of both that has a subject if one is named.
    async fn image(&self, repository: &str, text: &str, tags: &[&str], subject: Option<Digest>) -> Digest {
        let repository = name(repository);
        let (large, small) = (Bytes::from(format!("{text} large ").repeat(30_000)), Bytes::from(format!("{text} small")));
        let key = Ulid::generate();
        self.bucket.put(&Key::Blob(key), large.clone()).await.unwrap();
        let place = Place { origin: RegionLife::new(self.bucket.region(), self.bucket.incarnation()), key };
        let blobs = [Digest::sha256(&large), Digest::sha256(&small)];
        let facts = ManifestFacts { blobs: blobs.to_vec(), subject, ..ManifestFacts::default() };
        let mut events = vec![
            Event::blob(blobs[0], large.len() as u64, Content::Key(place)),
            Event::blob(blobs[1], small.len() as u64, Content::Inline(small)),
        ];
        events.extend(blobs.map(|blob| Event::link(repository.clone(), blob)));
        self.manifest(events, &repository, format!("manifest {text}"), facts, tags).await
    }

    async fn manifest(
        &self,
        mut events: Vec<Event>,
        repository: &RepositoryName,
        text: String,
        facts: ManifestFacts,
        tags: &[&str],
    ) -> Digest {
        let digest = digest(&text);
        let facts = ManifestFacts { media_type: IMAGE.to_owned(), size_bytes: text.len() as u64, ..facts };
        events.push(Event::manifest(repository.clone(), digest, Content::Inline(text.into()), facts));
        events.extend(tags.iter().map(|text| Event::tag(repository.clone(), tag(text), digest)));
        self.ledger.append(events).await.unwrap();
        digest
    }

    fn has(&self, repository: &str, reference: &str) -> bool {
        self.registry.has(&format!("/v2/{repository}/manifests/{reference}")).is_some()
    }

    /// What was PUT and how, in its order; blobs without their session.
    fn puts(&self) -> Vec<String> {
        let puts = self.origin.requests().into_iter().filter_map(|request| request.strip_prefix("PUT ").map(str::to_owned));
        puts.map(|target| target.split('?').next().unwrap().replace("/v2/up/1", "blob")).collect()
    }

    async fn noted(&self, repository: &str, reference: &str) -> Option<Digest> {
        let reference: Reference = reference.parse().unwrap();
        self.ledger.confirm(Look::Now).await.unwrap();
        self.ledger.forwarded(&name(repository), &reference, ORIGIN).unwrap().map(|entry| entry.digest)
    }
}

fn pending(forwarder: &Forwarder) -> Vec<Pending> {
    forwarder.pending(|_| true, 100)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn until_idle(forwarder: &Forwarder) {
    until("something still waits", || pending(forwarder).is_empty()).await;
}

#[tokio::test]
async fn what_is_pushed_arrives_whole_and_is_noted() {
    let world = World::new().await;
    let forwarder = world.forwarder();
    let image = world.image("team/app", "one", &["v1", "latest"], None).await;
    let other = world.image("team/own", "two", &["v1"], None).await;
    forwarder.note(&name("team/app"), &image, &[tag("v1"), tag("latest")]);
    forwarder.note(&name("team/own"), &other, &[tag("v1")]);
    assert_eq!(pending(&forwarder).len(), 2);
    until_idle(&forwarder).await;
    let puts = world.puts();
    assert_eq!(puts[..2], ["blob", "blob"]);
    assert_eq!(puts[2..], ["/v2/team/app/manifests/latest", "/v2/team/app/manifests/v1"]);
    assert_eq!(world.registry.has("/v2/team/app/manifests/v1"), Some((IMAGE.to_owned(), "manifest one".to_owned())));
    let large = "one large ".repeat(30_000);
    assert_eq!(world.registry.has(&digest(&large).to_string()).unwrap().1, large);
    for reference in ["v1", "latest", &image.to_string()] {
        assert_eq!(world.noted("team/app", reference).await, Some(image), "{reference}");
    }
    assert!(!world.has("team/own", "v1"));
    // Nothing is left for the next process.
    let before = world.origin.requests().len();
    drop(forwarder);
    let again = world.forwarder();
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!((pending(&again).len(), world.origin.requests().len()), (0, before));
}

#[tokio::test]
async fn a_later_process_finds_what_was_left_in_its_order() {
    let world = World::new().await;
    let app = name("team/app");
    let one = world.image("team/app", "one", &[], None).await;
    let two = world.image("team/app", "two", &[], Some(one)).await;
    let facts = ManifestFacts { manifests: vec![two, one], ..ManifestFacts::default() };
    let index = world.manifest(Vec::new(), &app, "index".to_owned(), facts, &["v1"]).await;
    let stray = world.image("team/app", "stray", &[], Some(digest("never pushed"))).await;
    // Deleted here before it went anywhere.
    let gone = world.image("team/app", "gone", &["gone"], None).await;
    world.ledger.append(vec![Event::delete(app.clone(), gone, ContentKind::Manifest)]).await.unwrap();
    let forwarder = world.forwarder();
    until("the index is not there", || world.has("team/app", "v1")).await;
    until("the stray is not there", || world.has("team/app", &stray.to_string())).await;
    until_idle(&forwarder).await;
    let puts = world.puts();
    let at = |reference: &str| puts.iter().position(|put| *put == format!("/v2/team/app/manifests/{reference}")).unwrap();
    assert!(at(&one.to_string()) < at(&two.to_string()) && at(&two.to_string()) < at("v1"), "{puts:?}");
    assert!(!world.has("team/app", "gone"));
    // The registry notes no subjects: the list lies under a tag.
    let listed = world.registry.has(&format!("/v2/team/app/manifests/sha256-{}", one.hex())).unwrap().1;
    assert!(listed.contains(&two.to_string()), "{listed}");
    assert_eq!(world.noted("team/app", &index.to_string()).await, Some(index));
}

#[tokio::test]
async fn an_upstream_that_is_away_gets_it_later() {
    let world = World::new().await;
    let forwarder = world.forwarder();
    for _ in 0..3 {
        world.registry.once("HEAD", "/v2/", reply(500, ""));
    }
    let image = world.image("team/app", "one", &["v1"], None).await;
    forwarder.note(&name("team/app"), &image, &[tag("v1")]);
    until("nothing was tried", || pending(&forwarder).first().is_some_and(|entry| entry.tries > 0)).await;
    let entry = pending(&forwarder).remove(0);
    assert_eq!((entry.standing, entry.reference, entry.upstream.as_ref()), (Standing::Waiting, Reference::Tag(tag("v1")), ORIGIN));
    assert!(entry.last_error.unwrap().contains("500"));
    forwarder.report();
    assert!(world.metrics.render().contains("outport_forward_pending 1\n"));
    until_idle(&forwarder).await;
    assert!(world.has("team/app", "v1"));
    forwarder.report();
    let metrics = world.metrics.render();
    assert!(
        metrics.contains("outport_forward_pending 0\n") && metrics.contains(r#"outport_forwards_total{outcome="passed"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_refusal_is_shown_and_not_repeated_until_it_is_pushed_again() {
    let world = World::new().await;
    let forwarder = world.forwarder();
    world.registry.once("PUT", "manifests", reply(400, r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no such platform"}]}"#));
    let image = world.image("team/app", "one", &["v1"], None).await;
    forwarder.note(&name("team/app"), &image, &[tag("v1")]);
    until("it was not refused", || pending(&forwarder).first().is_some_and(|entry| entry.standing == Standing::Failed)).await;
    let entry = pending(&forwarder).remove(0);
    assert!(entry.last_error.as_deref().unwrap().contains("MANIFEST_INVALID no such platform"), "{entry:?}");
    assert_eq!(forwarder.pending(|name| name.as_str() == "team/other", 10), []);
    let before = world.origin.requests().len();
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!((pending(&forwarder).remove(0).tries, world.origin.requests().len()), (1, before));
    forwarder.note(&name("team/app"), &image, &[tag("v1")]);
    until_idle(&forwarder).await;
    assert!(world.has("team/app", "v1"));
}

#[tokio::test]
async fn a_tag_that_moved_on_its_way_goes_where_it_points_now() {
    let world = World::new().await;
    let forwarder = world.forwarder();
    let one = world.image("team/app", "one", &["v1"], None).await;
    let two = world.image("team/app", "two", &["v1"], None).await;
    // In the wrong order, and of a time when `one` had the tag.
    forwarder.note(&name("team/app"), &two, &[tag("v1")]);
    forwarder.note(&name("team/app"), &one, &[tag("v1")]);
    until_idle(&forwarder).await;
    assert_eq!(world.registry.has("/v2/team/app/manifests/v1").unwrap().1, "manifest two");
    assert!(world.has("team/app", &one.to_string()));
    assert_eq!(world.noted("team/app", "v1").await, Some(two));
    // Another repository's blobs are mounted.
    world.registry.mounts.lock().unwrap().push("from=team/app".to_owned());
    let before = world.puts().len();
    let copy = world.image("team/copy", "one", &["v9"], None).await;
    world.registry.kept.lock().unwrap().retain(|path, _| path.starts_with("/v2/"));
    forwarder.note(&name("team/copy"), &copy, &[tag("v9")]);
    until_idle(&forwarder).await;
    assert_eq!(world.puts()[before..], ["/v2/team/copy/manifests/v9"]);
}

#[tokio::test]
async fn policies_that_change_are_followed() {
    let world = World::new().await;
    let forwarder = world.forwarder();
    forwarder.set_policies(Policies::default());
    let image = world.image("team/app", "one", &["v1"], None).await;
    forwarder.note(&name("team/app"), &image, &[tag("v1")]);
    sleep(Duration::from_millis(100)).await;
    assert_eq!((pending(&forwarder).len(), world.origin.requests().len()), (0, 0));
    // What the ledger has is found under the new ones.
    let hosted = config::Hosted {
        pattern: "**".parse().unwrap(),
        forward_to: Some(ORIGIN.to_owned()),
        sparse_indexes: false,
        replicate: config::Replicate::Lazy,
        acknowledge: config::Acknowledge::Store,
        home: None,
    };
    forwarder.set_policies(Policies::new(&[hosted], |_| Some(world.upstream())));
    until("nothing was found", || !pending(&forwarder).is_empty()).await;
    forwarder.note(&name("team/app"), &image, &[tag("v1")]);
    until_idle(&forwarder).await;
    assert!(world.has("team/app", "v1"));
    forwarder.stop();
    let image = world.image("team/app", "two", &["v2"], None).await;
    forwarder.note(&name("team/app"), &image, &[tag("v2")]);
    sleep(Duration::from_millis(100)).await;
    assert!(!world.has("team/app", "v2"));
}
