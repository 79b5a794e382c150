//! Regions with ledgers in memory, which are asked as a script has it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use super::remote::{Batch, Known, KnownEntry, Name, Remote, Standing, Through, Told};
use super::renewal::inherit_through;
use super::{CaughtUp, Nodes, Policies, Replication, Resolved, Settings};
use crate::bucket::testing::{INCARNATION, SimulatedStore};
use crate::bucket::{self, Bucket, ForeignBucket, Key, SnapshotPart};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Acknowledge, BucketPlace, Replicate};
use crate::ledger::{
    self, BlobEntry, Content, Event, IndexPlace, Ledger, Look, ManifestFacts, Origin, Place, Position, Pulled, Regions, Segments,
    Snapshots, VersionVector,
};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::region::Region;

/// A region of its own, in memory.
#[derive(Clone)]
struct Realm {
    bucket: Bucket,
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
}

impl Realm {
    async fn new(name: &str, clock: &Clock) -> Realm {
        let settings = config::Bucket {
            place: BucketPlace::Memory,
            options: BTreeMap::new(),
            ca_file: None,
            request_timeout: Duration::from_secs(5),
            part_size: config::ByteSize(5 << 20),
        };
        let metrics = Metrics::new();
        let bucket = Bucket::open(&settings, name, clock.clone(), metrics.clone()).await.unwrap();
        Realm::on(bucket, "edge", clock, metrics).await
    }

    /// A node of the region of a bucket.
    async fn on(bucket: Bucket, node: &str, clock: &Clock, metrics: Metrics) -> Realm {
        let settings = ledger::Settings { index: IndexPlace::Memory, node: node.to_owned(), regions: Regions::Many };
        let ledger = Ledger::open(bucket.clone(), settings, clock.clone(), metrics.clone()).await.unwrap();
        Realm { bucket, ledger, clock: clock.clone(), metrics }
    }

    fn origin(&self) -> Origin {
        self.ledger.origin().clone()
    }

    fn name(&self) -> Arc<str> {
        self.origin().region
    }

    /// A small manifest under a tag.
    async fn push(&self, repository: &str, tag: &str, text: &str) -> (Digest, Position) {
        let (digest, repository): (Digest, RepositoryName) = (Digest::sha256(text.as_bytes()), repository.parse().unwrap());
        let facts = ManifestFacts { media_type: "a/b".into(), size_bytes: text.len() as u64, ..ManifestFacts::default() };
        let manifest = Event::manifest(repository.clone(), digest, Content::Inline(Bytes::from(text.to_owned())), facts);
        let position = self.ledger.append(vec![manifest, Event::tag(repository, tag.parse().unwrap(), digest)]).await.unwrap();
        (digest, position)
    }

    /// A blob with a key of its own.
    async fn push_blob(&self, repository: &str, bytes: Bytes) -> Digest {
        let (digest, key) = (Digest::sha256(&bytes), Ulid::generate());
        self.bucket.put(&Key::Blob(key), bytes.clone()).await.unwrap();
        let place = Place { origin: self.origin(), key };
        let blob = Event::blob(digest, bytes.len() as u64, Content::Key(place));
        self.ledger.append(vec![blob, Event::link(repository.parse().unwrap(), digest)]).await.unwrap();
        digest
    }

    async fn knows(&self, repository: &str, tag: &str) -> bool {
        self.ledger.confirm(Look::Now).await.unwrap();
        self.ledger.tag(&repository.parse().unwrap(), &tag.parse().unwrap()).unwrap().is_some()
    }

    fn replication(&self, others: &[&Arc<Script>], policies: Policies, nodes: Nodes) -> Replication {
        let region = Region::default();
        region.open(self.bucket.clone(), self.ledger.clone());
        let remotes = others.iter().map(|script| Box::new(Far((*script).clone())) as Box<dyn Remote>).collect();
        let copies = config::Replication { bandwidth: None, hours: Vec::new(), follow_interval: Duration::from_secs(1) };
        let settings = Settings { follow_interval: Duration::from_secs(1), nodes, copies };
        Replication::over(region, &self.name(), remotes, (settings, policies), (self.clock.clone(), self.metrics.clone()))
    }

    fn follow(&self, others: &[&Arc<Script>]) -> Replication {
        self.replication(others, Policies::default(), Nodes::One)
    }
}

/// How a region is asked.
struct Script {
    realm: Realm,
    manner: Mutex<Manner>,
    asked: AtomicU64,
    /// Of those, for segments of a ledger that it only imported.
    asked_to_relay: AtomicU64,
    /// Of one answer with segments, about.
    answer_bytes: AtomicUsize,
    /// Where its snapshots can be read.
    store: Mutex<Option<ForeignBucket>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Manner {
    True,
    /// Nobody answers, at once.
    Away,
    /// Nobody answers, ever.
    Silent,
    /// Its segments are something else.
    Garbled,
    /// It answers no questions about names.
    Mute,
    /// It says that it has begun anew.
    Reborn(Origin),
}

impl Script {
    fn of(realm: &Realm) -> Arc<Script> {
        Arc::new(Script {
            realm: realm.clone(),
            manner: Mutex::new(Manner::True),
            asked: AtomicU64::new(0),
            asked_to_relay: AtomicU64::new(0),
            answer_bytes: AtomicUsize::new(1 << 20),
            store: Mutex::default(),
        })
    }

    fn turn(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn store(&self) -> Result<ForeignBucket, String> {
        self.store.lock().unwrap().clone().ok_or_else(|| "nobody tells of its snapshots".to_owned())
    }

    async fn manner(&self) -> Result<Manner, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let manner = self.manner.lock().unwrap().clone();
        match manner {
            Manner::Away => Err("no route".to_owned()),
            Manner::Silent => std::future::pending().await,
            other => Ok(other),
        }
    }
}

struct Far(Arc<Script>);

impl Remote for Far {
    fn region(&self) -> &Arc<str> {
        &self.0.realm.ledger.origin().region
    }

    fn status(&self) -> BoxFuture<'_, Result<Standing, String>> {
        async move {
            let manner = self.0.manner().await?;
            let ledger = &self.0.realm.ledger;
            ledger.confirm(Look::Now).await.unwrap();
            let seen = ledger.vector().unwrap();
            let (origin, tail) = match manner {
                Manner::Reborn(origin) => (origin, 0),
                _ => (ledger.origin().clone(), ledger.position().unwrap().seq),
            };
            Ok(Standing { origin, tail: Some(tail), seen })
        }
        .boxed()
    }

    fn segments<'a>(&'a self, origin: &'a Origin, after: u64, wait: Duration) -> BoxFuture<'a, Result<Batch, String>> {
        async move {
            let manner = self.0.manner().await?;
            let ledger = &self.0.realm.ledger;
            self.0.asked_to_relay.fetch_add(u64::from(origin != ledger.origin()), Ordering::Relaxed);
            let until = Instant::now() + wait;
            loop {
                ledger.confirm(Look::Now).await.unwrap();
                let found = ledger.segments_of(origin, after, self.0.answer_bytes.load(Ordering::Relaxed)).await.unwrap();
                match (found, &manner) {
                    (_, Manner::Reborn(new)) if new == origin => return Ok(Batch { segments: Segments::None, tail: Some(0) }),
                    (Segments::Some(_), Manner::Garbled) => {
                        return Ok(Batch { segments: Segments::Some(vec![Bytes::from_static(b"?")]), tail: None });
                    }
                    (Segments::None, _) if Instant::now() < until => {
                        sleep(Duration::from_millis(20)).await;
                        // Who waits notices when the line is cut.
                        self.0.manner().await?;
                    }
                    (segments, _) => return Ok(Batch { segments, tail: Some(ledger.vector().unwrap().get(origin)) }),
                }
            }
        }
        .boxed()
    }

    fn snapshots<'a>(&'a self, of: &'a Origin) -> BoxFuture<'a, Result<Vec<bucket::Through>, String>> {
        async move { self.0.store()?.list(of).await }.boxed()
    }

    fn snapshot_part<'a>(
        &'a self,
        of: &'a Origin,
        through: bucket::Through,
        part: SnapshotPart,
    ) -> BoxFuture<'a, Result<Option<Bytes>, String>> {
        async move { self.0.store()?.part(of, through, part).await }.boxed()
    }

    fn resolve<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Told> {
        async move {
            match self.0.manner().await {
                Ok(Manner::Mute) => return Told::Mute,
                Ok(_) => {}
                Err(why) => return Told::CannotTell(why),
            }
            let realm = &self.0.realm;
            realm.ledger.confirm(Look::Now).await.unwrap();
            let entry = match name {
                Name::Manifest(repository, Reference::Tag(tag)) => {
                    let found = realm.ledger.tag(repository, tag).unwrap();
                    found
                        .and_then(|found| realm.ledger.manifest(repository, &found.digest).unwrap())
                        .map(|found| KnownEntry::Manifest(Box::new(found)))
                }
                Name::Manifest(repository, Reference::Digest(digest)) => {
                    realm.ledger.manifest(repository, digest).unwrap().map(|found| KnownEntry::Manifest(Box::new(found)))
                }
                Name::Blob(repository, digest) => realm.ledger.blob(repository, digest).unwrap().map(KnownEntry::Blob),
            };
            entry.map_or(Told::Denied, |entry| Told::Found(Box::new(Known { region: realm.name(), entry })))
        }
        .boxed()
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(20), "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn names(caught_up: CaughtUp) -> Vec<String> {
    caught_up.blind.iter().map(ToString::to_string).collect()
}

const SECOND: Duration = Duration::from_secs(1);

fn tag_name(repository: &str, tag: &str) -> Name {
    Name::Manifest(repository.parse().unwrap(), Reference::Tag(tag.parse().unwrap()))
}

#[tokio::test]
async fn a_region_is_followed_as_it_is_written() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let replication = eu.follow(&[&Script::of(&us)]);
    for number in 0..3 {
        us.push("team/app", &format!("v{number}"), &format!("text {number}")).await;
        until("the tag is here", || async { eu.knows("team/app", &format!("v{number}")).await }).await;
    }
    let lag = replication.lag();
    assert_eq!((lag[0].region.as_ref(), lag[0].tail, lag[0].folded, lag[0].blind.clone()), ("us", 3, 3, None));
    assert!(eu.metrics.render().contains("outport_visible_lag_seconds_count{region=\"us\"} 3"));
}

#[tokio::test]
async fn catching_up_is_one_round_for_all_who_wait_and_names_the_blind() {
    let clock = Clock::system();
    let (eu, us, ap) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await, Realm::new("ap", &clock).await);
    let (us_script, ap_script) = (Script::of(&us), Script::of(&ap));
    let replication = eu.follow(&[&us_script, &ap_script]);
    assert_eq!(names(replication.catch_up(10 * SECOND).await), Vec::<String>::new());
    us.push("team/app", "v1", "one").await;
    ap.push("team/app", "v2", "two").await;
    let asked = us_script.asked.load(Ordering::Relaxed);
    let callers = (0..50).map(|_| replication.catch_up(10 * SECOND));
    for caught_up in futures_util::future::join_all(callers).await {
        assert_eq!(caught_up, CaughtUp::default());
    }
    assert!(us_script.asked.load(Ordering::Relaxed) - asked <= 8, "{}", us_script.asked.load(Ordering::Relaxed) - asked);
    let vector = eu.ledger.vector().unwrap();
    assert_eq!((vector.get(&us.origin()), vector.get(&ap.origin())), (1, 1));
    // One that never answers costs the patience of the caller and no more.
    us_script.turn(Manner::Silent);
    let began = Instant::now();
    assert_eq!(names(replication.catch_up(SECOND / 5).await), ["us"]);
    assert!(began.elapsed() < SECOND);
}

#[tokio::test]
async fn a_ledger_that_is_not_what_it_should_be_is_not_followed_until_the_region_begins_anew() {
    let clock = Clock::system();
    let (eu, us, ap) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await, Realm::new("ap", &clock).await);
    let script = Script::of(&us);
    script.turn(Manner::Garbled);
    us.push("team/app", "v1", "one").await;
    let replication = eu.follow(&[&script, &Script::of(&ap)]);
    until("the ledger is refused", || async { eu.metrics.render().contains("outport_peer_refused_total{region=\"us\"} 1") }).await;
    let lag = replication.lag();
    assert!(lag[0].blind.as_ref().is_some_and(|why| why.contains("segment 1")) && lag[0].behind_ms > 0, "{lag:?}");
    assert_eq!(names(replication.catch_up(SECOND).await), ["us"]);
    // Others are followed all the same.
    ap.push("team/app", "v2", "two").await;
    until("the other region's tag is here", || eu.knows("team/app", "v2")).await;
    script.turn(Manner::Reborn(Origin::new("us", "02")));
    sleep(SECOND + SECOND / 5).await;
    until("the new incarnation is followed", || async { names(replication.catch_up(SECOND).await).is_empty() }).await;
    assert_eq!(replication.lag()[0].incarnation.as_deref(), Some("02"));
}

/// Who has declared a region lost says in the same breath that it is no member any more. A new incarnation that hears of that before it
/// has looked at the old root takes over from it all the same.
#[tokio::test]
async fn what_only_a_lost_region_has_is_taken_over_though_others_removed_it() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let of_us = Script::of(&us);
    let (following, _) = (us.follow(&[&Script::of(&eu)]), eu.push("team/app", "v1", "seen").await);
    until("us has it", || async { us.knows("team/app", "v1").await }).await;
    following.stop();
    eu.push("team/app", "v2", "unseen").await;
    let (old, cut) = (eu.origin(), us.ledger.vector().unwrap().get(&eu.origin()));
    assert!(cut < eu.ledger.position().unwrap().seq);
    let removed = Event::Member { origin: old.clone(), standing: ledger::Standing::Removed };
    us.ledger.append(vec![Event::Lost { origin: old.clone(), cut }, removed]).await.unwrap();

    let anew = Realm::on(eu.bucket.begin_incarnation().await.unwrap(), "edge", &clock, Metrics::new()).await;
    for origin in [&old, &us.origin()] {
        while let Ok(Pulled::Some(_)) = anew.ledger.pull(&Through(&Far(of_us.clone())), origin, Duration::ZERO).await {}
    }
    assert!(anew.ledger.cut(&old).unwrap().is_some() && !anew.knows("team/app", "v2").await);
    let far = Far(of_us);
    // Once is enough, and twice does no harm.
    for _ in 0..2 {
        inherit_through(&[Through(&far)], &anew.bucket, &anew.ledger, Nodes::One).await.unwrap();
        assert!(anew.knows("team/app", "v2").await && anew.knows("team/app", "v1").await);
    }
}

#[tokio::test]
async fn what_a_region_cannot_see_another_one_relays() {
    let clock = Clock::system();
    let (eu, us, ap) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await, Realm::new("ap", &clock).await);
    ap.push("team/app", "far", "far").await;
    let seen_by_us = us.follow(&[&Script::of(&ap)]);
    assert_eq!(names(seen_by_us.catch_up(10 * SECOND).await), Vec::<String>::new());
    let away = Script::of(&ap);
    away.turn(Manner::Away);
    // Nothing that us wrote names it yet.
    let replication = eu.follow(&[&Script::of(&us), &away]);
    until("what ap wrote came through us", || eu.knows("team/app", "far")).await;
    // And what does is not here before its cause.
    ap.push("team/app", "farther", "farther").await;
    assert_eq!(names(seen_by_us.catch_up(10 * SECOND).await), Vec::<String>::new());
    us.push("team/app", "near", "near").await;
    until("what us wrote is here", || eu.knows("team/app", "near")).await;
    assert!(eu.knows("team/app", "farther").await);
    assert!(replication.lag()[1].blind.is_some());
}

/// What one has seen of the other comes from the other, and not, at the cost of a search, from what the one has imported.
#[tokio::test]
async fn regions_that_saw_each_other_all_the_time_are_caught_up_with_side_by_side() {
    const SEGMENTS: u64 = 200;
    let clock = Clock::system();
    let (eu, us, ap) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await, Realm::new("ap", &clock).await);
    let scripts = [Script::of(&eu), Script::of(&us)];
    for _ in 0..SEGMENTS {
        for (writer, other) in [(&eu, &scripts[1]), (&us, &scripts[0])] {
            writer.ledger.pull(&Through(&Far(other.clone())), &other.realm.origin(), Duration::ZERO).await.unwrap();
            writer.ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
        }
    }
    for script in &scripts {
        script.answer_bytes.store(16 << 10, Ordering::Relaxed);
    }
    let (replication, began) = (ap.follow(&[&scripts[0], &scripts[1]]), Instant::now());
    let has_all = || scripts.iter().all(|script| ap.ledger.vector().unwrap().get(&script.realm.origin()) >= SEGMENTS);
    until("all is here", || async { has_all() }).await;
    let told = |count: fn(&Script) -> &AtomicU64| scripts.iter().map(|script| count(script).load(Ordering::Relaxed)).sum::<u64>();
    let (relayed, imports) = (told(|script| &script.asked_to_relay), ap.ledger.imports().unwrap().0);
    println!("{SEGMENTS} segments of two regions: {relayed} questions to relay, {imports} imports, {:?}", began.elapsed());
    assert!(relayed <= 2 && imports <= SEGMENTS, "{relayed} questions to relay, {imports} imports");
    replication.stop();
}

/// A region whose first segments were trimmed, and what others read of its store.
async fn old_realm(clock: &Clock) -> (Realm, ForeignBucket) {
    let store = SimulatedStore::new(1, clock.clone());
    let bucket = Bucket::simulated_as(&store.node(), "us", INCARNATION, clock.clone());
    let realm = Realm::on(bucket, "edge", clock, Metrics::new()).await;
    for _ in 0..2 {
        realm.push("team/old", "latest", &format!("text {}", realm.ledger.position().unwrap().seq)).await;
        for _ in 0..1_000 {
            realm.ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
        }
        clock.advance(Duration::from_secs(25 * 3600));
        assert!(realm.ledger.upkeep().await.unwrap().snapshot.is_some());
    }
    // A node that was not there when they were written.
    let realm = Realm::on(realm.bucket.clone(), "later", clock, Metrics::new()).await;
    realm.ledger.confirm(Look::Now).await.unwrap();
    assert_eq!(realm.ledger.segments_of(&realm.origin(), 0, 1 << 20).await, Ok(Segments::Trimmed));
    (realm, ForeignBucket::simulated(&store.node(), "us", INCARNATION))
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_comes_with_the_snapshot_of_the_region() {
    let clock = Clock::manual(Timestamp::from_ms(1_700_000_000_000));
    let (us, store) = old_realm(&clock).await;
    let (eu, script) = (Realm::new("eu", &clock).await, Script::of(&us));
    eu.push("team/own", "v1", "one").await;
    let replication = eu.follow(&[&script]);
    // Without its snapshots it cannot be seen, and says why.
    let why = || replication.lag()[0].blind.clone().unwrap_or_default();
    until("the region is blind", || async { why().contains("nobody tells of its snapshots") }).await;
    assert_eq!(names(replication.catch_up(SECOND).await), ["us"]);
    assert!(!eu.knows("team/old", "latest").await);
    *script.store.lock().unwrap() = Some(store);
    // As long as it is left alone after it failed.
    sleep(30 * SECOND).await;
    until("its snapshot is here", || eu.knows("team/old", "latest")).await;
    assert!(eu.knows("team/own", "v1").await);
    // It says that it has it, or the others could trim nothing that comes after.
    sleep(3 * SECOND).await;
    clock.advance(Duration::from_secs(61));
    let (own, taken_over) = (eu.origin(), us.ledger.position().unwrap().seq);
    until("eu has told what it has", || async { eu.ledger.seen_by(&own).unwrap().get(&us.origin()) >= taken_over }).await;
    us.push("team/new", "v1", "two").await;
    until("it is followed from there", || eu.knows("team/new", "v1")).await;
    assert_eq!(names(replication.catch_up(SECOND).await), Vec::<String>::new());
    assert_eq!(replication.lag()[0].blind, None);
}

#[tokio::test]
async fn a_position_is_reached_or_not_in_time() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let script = Script::of(&us);
    let replication = eu.follow(&[&script]);
    let (_, position) = us.push("team/app", "v1", "one").await;
    assert!(replication.reach(&position, 5 * SECOND).await && eu.knows("team/app", "v1").await);
    let (_, own) = eu.push("team/own", "v1", "own").await;
    assert!(replication.reach(&own, Duration::from_millis(500)).await);
    assert!(!replication.reach(&"ap.01@1".parse().unwrap(), SECOND).await);
    script.turn(Manner::Away);
    let (_, position) = us.push("team/app", "v2", "two").await;
    let began = Instant::now();
    assert!(!replication.reach(&position, SECOND / 2).await);
    assert!(began.elapsed() < SECOND);
    script.turn(Manner::True);
    assert!(replication.reach(&position, 5 * SECOND).await);
}

/// A region that was lost counts from 1 again: what it acknowledges then is not what was here long ago under the same number.
#[tokio::test]
async fn a_position_of_a_new_incarnation_is_not_reached_by_what_the_lost_one_had() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let following = us.follow(&[&Script::of(&eu)]);
    for number in 1..=3 {
        eu.push("team/app", "v1", &format!("old {number}")).await;
    }
    let (_, seen) = eu.push("team/app", "v1", "seen").await;
    assert!(following.reach(&seen, 5 * SECOND).await);
    following.stop();
    let (_, unseen) = eu.push("team/app", "v1", "unseen").await;
    let old = eu.origin();
    us.ledger.append(vec![Event::Lost { origin: old.clone(), cut: seen.seq }]).await.unwrap();

    let anew = Realm::on(eu.bucket.begin_incarnation().await.unwrap(), "edge", &clock, Metrics::new()).await;
    let (_, first) = anew.push("team/app", "v2", "new").await;
    assert!(first.seq <= seen.seq && first.region() == seen.region());
    let script = Script::of(&anew);
    script.turn(Manner::Away);
    // It has just started: of the region it knows what its ledger has, which is the lost incarnation.
    let replication = us.follow(&[&script]);
    assert!(replication.reach(&seen, SECOND).await);
    assert!(!replication.reach(&first, SECOND / 2).await);
    // Nothing is waited for that cannot come.
    let began = Instant::now();
    assert!(!replication.reach(&unseen, 5 * SECOND).await && began.elapsed() < SECOND);
    script.turn(Manner::True);
    assert!(replication.reach(&first, 5 * SECOND).await && us.knows("team/app", "v2").await);

    // The region itself took over what lay behind the cut.
    let home = anew.follow(&[&Script::of(&us)]);
    until("its loss is known there", || async { home.reach(&unseen, SECOND / 10).await }).await;
    assert!(home.reach(&first, SECOND).await);
}

#[tokio::test]
async fn names_are_resolved_denied_for_a_moment_or_not_told() {
    let clock = Clock::manual(Timestamp::from_ms(1_700_000_000_000));
    let (eu, us, ap) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await, Realm::new("ap", &clock).await);
    let (us_script, ap_script) = (Script::of(&us), Script::of(&ap));
    let replication = eu.follow(&[&us_script, &ap_script]);
    let (digest, _) = us.push("team/app", "v1", "one").await;
    match replication.resolve(&tag_name("team/app", "v1")).await {
        Resolved::Found(known) => match known.entry {
            KnownEntry::Manifest(entry) => assert_eq!((known.region.as_ref(), entry.digest), ("us", digest)),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert_eq!(replication.resolve(&tag_name("team/app", "v2")).await, Resolved::Denied);
    us.push("team/app", "v2", "two").await;
    assert_eq!(replication.resolve(&tag_name("team/app", "v2")).await, Resolved::Denied);
    clock.advance(2 * SECOND);
    assert!(matches!(replication.resolve(&tag_name("team/app", "v2")).await, Resolved::Found(_)));
    for manner in [Manner::Away, Manner::Silent] {
        ap_script.turn(manner.clone());
        let began = Instant::now();
        // One that has it answers for all.
        assert!(matches!(replication.resolve(&tag_name("team/app", "v1")).await, Resolved::Found(_)));
        assert_eq!(replication.resolve(&tag_name("team/app", "none")).await, Resolved::Blind(vec!["ap".into()]), "{manner:?}");
        assert!(began.elapsed() < 2 * SECOND);
    }
    // Nobody answers questions there: it is read until now.
    ap_script.turn(Manner::Mute);
    ap.push("team/app", "mute", "mute").await;
    until("its ledger can be read again", || async { replication.resolve(&tag_name("team/app", "mute")).await == Resolved::Here }).await;
    assert!(eu.knows("team/app", "mute").await);
    assert_eq!(replication.resolve(&tag_name("team/app", "nothing")).await, Resolved::Denied);
}

#[tokio::test]
async fn the_node_that_imported_last_goes_on_and_another_takes_over_when_it_does_not() {
    let clock = Clock::system();
    let (one, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let two = Realm::on(one.bucket.clone(), "other edge", &clock, Metrics::new()).await;
    let script = Script::of(&us);
    us.push("team/app", "v0", "zero").await;
    let first = one.replication(&[&script], Policies::default(), Nodes::Several);
    until("the first tag is here", || one.knows("team/app", "v0")).await;
    let _second = two.replication(&[&script], Policies::default(), Nodes::Several);
    for number in 1..4 {
        us.push("team/app", &format!("v{number}"), &format!("text {number}")).await;
        until("the tag is on both nodes", || async {
            one.knows("team/app", &format!("v{number}")).await && two.knows("team/app", &format!("v{number}")).await
        })
        .await;
        assert_eq!(one.ledger.imports().unwrap().1, "edge");
    }
    drop(first);
    us.push("team/app", "v9", "nine").await;
    until("the other node imports", || two.knows("team/app", "v9")).await;
    assert_eq!(two.ledger.imports().unwrap().1, "other edge");
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_told_after_a_quiet_time_and_heartbeats_are_not_answered() {
    let clock = Clock::manual(Timestamp::from_ms(1_700_000_000_000));
    let ticking = clock.clone();
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(100)).await;
            ticking.advance(Duration::from_millis(100));
        }
    });
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let (_eu_follows, _us_follows) = (eu.follow(&[&Script::of(&us)]), us.follow(&[&Script::of(&eu)]));
    // Each says that it has joined, and, some time later, that it has heard so.
    sleep(200 * SECOND).await;
    let ends = || (eu.ledger.position().unwrap().seq, us.ledger.position().unwrap().seq);
    let (joined_eu, joined_us) = ends();
    us.push("team/app", "v1", "one").await;
    sleep(20 * SECOND).await;
    assert_eq!(ends(), (joined_eu, joined_us + 1));
    sleep(25 * SECOND).await;
    assert_eq!(ends(), (joined_eu + 1, joined_us + 1));
    sleep(300 * SECOND).await;
    assert_eq!(ends(), (joined_eu + 1, joined_us + 1));
    let mut told = VersionVector::default();
    told.raise(us.origin(), joined_us + 1);
    assert_eq!(us.ledger.seen_by(&eu.origin()).unwrap(), told);
}

#[tokio::test]
async fn a_push_is_held_when_a_region_has_its_bytes_and_knows_of_it() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let script = Script::of(&us);
    let replication = eu.follow(&[&script]);
    let (digest, position) = eu.push("team/app", "v1", "one").await;
    let repository = "team/app".parse().unwrap();
    let not_held = replication.hold((&repository, &digest), &position, 1, SECOND / 2).await.unwrap_err();
    assert_eq!(not_held.to_string(), "committed here, not yet held by 1 other regions: by none");
    let _follows = us.follow(&[&Script::of(&eu)]);
    replication.hold((&repository, &digest), &position, 1, 10 * SECOND).await.unwrap();
}

#[tokio::test]
async fn policies_that_want_no_copies_leave_contents_where_they_are() {
    let clock = Clock::system();
    let (eu, us) = (Realm::new("eu", &clock).await, Realm::new("us", &clock).await);
    let hosted = config::Hosted {
        pattern: "all/**".parse().unwrap(),
        forward_to: None,
        sparse_indexes: false,
        replicate: Replicate::All,
        acknowledge: Acknowledge::Store,
        home: None,
    };
    let policies = Policies::new(&[hosted], Acknowledge::Store);
    let replication = eu.replication(&[&Script::of(&us)], policies, Nodes::One);
    us.push_blob("lazy/app", Bytes::from(vec![1; 50_000])).await;
    let wanted = us.push_blob("all/app", Bytes::from(vec![2; 60_000])).await;
    // The bytes themselves are no script's: they stay wanted.
    until("the content is wanted", || async { replication.inner().copies.extent() == (1, 60_000) }).await;
    let entry: BlobEntry = eu.ledger.places(&wanted).unwrap().unwrap();
    assert!(!entry.is_in(&eu.bucket));
    until("the copy was tried", || async { eu.metrics.render().contains("outport_copies_total{outcome=\"broken\",region=\"us\"} 1") })
        .await;
}
