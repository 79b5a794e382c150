//! The ledger as its callers see it.

mod locks;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use ulid::Ulid;

use super::core::{Core, Identity};
use super::index::{Index, Memory};
use super::segment::{self, Object, Stub};
use super::{
    AppendError, Content, ContentKind, ControlRecord, Event, Foreign, Ledger, LedgerError, Look, ManifestFacts, Origin, Place,
    ReferrersQuery, Regions, Rejected, Segments, Source, UnforwardedQuery, testing,
};
use crate::bucket::testing::{Fault, Faults, INCARNATION, SimulatedStore, Verb};
use crate::bucket::{Bucket, ForeignBucket};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

fn store() -> SimulatedStore {
    SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)))
}

fn one_node() -> Ledger {
    testing::ledger(&store().node(), "edge", Memory::default())
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

fn place(number: u128) -> Place {
    Place { origin: Origin::new("eu", INCARNATION), key: Ulid::from_parts(1, number) }
}

fn inline(text: &str) -> Content {
    Content::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

fn image(blobs: &[&str]) -> ManifestFacts {
    let blobs = blobs.iter().map(|blob| digest(blob)).collect();
    ManifestFacts { media_type: "image".into(), size_bytes: 2, blobs, ..ManifestFacts::default() }
}

fn manifest(repository: &str, of: &str, facts: ManifestFacts) -> Event {
    Event::manifest(name(repository), digest(of), inline("{}"), facts)
}

/// A blob, its link, a manifest and its tag.
async fn push(ledger: &Ledger, repository: &str, image_name: &str, as_tag: &str) {
    let blob = format!("{image_name} blob");
    let events = vec![Event::blob(digest(&blob), 4, inline("data")), Event::link(name(repository), digest(&blob))];
    ledger.append(events).await.unwrap();
    let tag = Event::tag(name(repository), tag(as_tag), digest(image_name));
    ledger.append(vec![manifest(repository, image_name, image(&[&blob])), tag]).await.unwrap();
}

async fn rejected(ledger: &Ledger, events: Vec<Event>) -> Rejected {
    match ledger.append(events).await {
        Err(AppendError::Rejected(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_appended_is_found_at_every_node() {
    let store = store();
    let [one, two] = ["one", "two"].map(|node| testing::ledger(&store.node(), node, Memory::default()));
    push(&one, "app", "v1", "latest").await;
    two.confirm(Look::Now).await.unwrap();
    assert_eq!(two.position().unwrap().to_string(), format!("{}@2", two.origin()));
    for ledger in [&one, &two] {
        let entry = ledger.tag(&name("app"), &tag("latest")).unwrap().unwrap();
        assert_eq!((entry.digest, entry.losers.len()), (digest("v1"), 0));
        let manifest = ledger.manifest(&name("app"), &digest("v1")).unwrap().unwrap();
        assert_eq!(manifest.content.inline.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(manifest.facts.blobs, [digest("v1 blob")]);
        assert_eq!(ledger.blob(&name("app"), &digest("v1 blob")).unwrap().unwrap().size_bytes, 4);
        assert_eq!(ledger.blob(&name("lib"), &digest("v1 blob")).unwrap(), None);
        assert!(ledger.places(&digest("v1 blob")).unwrap().is_some());
        assert_eq!(ledger.repositories_with(&digest("v1 blob"), 10).unwrap(), [name("app")]);
        assert_eq!(ledger.tags_of(&name("app"), &digest("v1")).unwrap(), [tag("latest")]);
        let repository = ledger.repository(&name("app")).unwrap().unwrap();
        assert_eq!((repository.tags, repository.manifests, repository.blobs), (1, 1, 1));
        assert_eq!(ledger.repositories(None, 10).unwrap(), [repository]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_hold_is_rejected_and_nothing_of_it_stays() {
    let ledger = one_node();
    push(&ledger, "app", "v1", "latest").await;
    let (app, lib) = (name("app"), name("lib"));
    let blob = digest("v1 blob");
    ledger.append(vec![Event::blob(digest("big"), 9, Content::Key(place(1)))]).await.unwrap();
    let index = ManifestFacts { manifests: vec![digest("v1")], ..ManifestFacts::default() };
    for (events, why) in [
        (vec![Event::link(lib.clone(), digest("none"))], Rejected::BlobUnknown(digest("none"))),
        (vec![Event::tag(app.clone(), tag("x"), digest("none"))], Rejected::ManifestUnknown(digest("none"))),
        (vec![Event::tag(lib.clone(), tag("x"), digest("v1"))], Rejected::ManifestUnknown(digest("v1"))),
        (vec![Event::untag(app.clone(), tag("none"))], Rejected::TagUnknown(tag("none"))),
        // Linked in another repository only: the same answer as for what does not exist.
        (vec![manifest("lib", "m", image(&["v1 blob", "none"]))], Rejected::ReferencesUnknown(vec![blob, digest("none")])),
        (vec![manifest("lib", "m", index.clone())], Rejected::ReferencesUnknown(vec![digest("v1")])),
        (vec![Event::delete(app.clone(), blob, ContentKind::Blob)], Rejected::InUse(digest("v1"))),
        (vec![Event::delete(lib.clone(), blob, ContentKind::Blob)], Rejected::BlobUnknown(blob)),
        (vec![Event::delete(lib.clone(), digest("v1"), ContentKind::Manifest)], Rejected::ManifestUnknown(digest("v1"))),
        (vec![Event::Abandon { places: vec![place(1)] }], Rejected::Named(place(1).key, digest("big"))),
        (vec![Event::blob(digest("other"), 9, Content::Key(place(1)))], Rejected::Named(place(1).key, digest("big"))),
        (vec![Event::blob(digest("wide"), 40_000, inline(&"x".repeat(33_000)))], Rejected::TooLarge),
        (vec![Event::Unknown("{\"x\":1}".into())], Rejected::Kind),
        // The first ones would hold.
        (vec![Event::link(lib.clone(), blob), Event::untag(app.clone(), tag("none"))], Rejected::TagUnknown(tag("none"))),
    ] {
        assert_eq!(rejected(&ledger, events.clone()).await, why, "{events:?}");
    }
    assert_eq!(ledger.position().unwrap().seq, 3);
    assert_eq!(ledger.blob(&lib, &blob).unwrap(), None);
    // Within one segment, later events see earlier ones.
    let events = vec![Event::link(lib.clone(), blob), manifest("lib", "m", image(&["v1 blob"])), Event::tag(lib, tag("x"), digest("m"))];
    ledger.append(events).await.unwrap();
    // A sparse index needs nothing.
    let sparse = ManifestFacts { sparse: true, manifests: vec![digest("none")], ..index };
    ledger.append(vec![manifest("app", "sparse", sparse)]).await.unwrap();
    // A retry names its place again.
    ledger.append(vec![Event::blob(digest("big"), 9, Content::Key(place(1)))]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deletes_take_what_they_name() {
    let ledger = one_node();
    push(&ledger, "app", "v1", "one").await;
    push(&ledger, "app", "v2", "two").await;
    let app = name("app");
    ledger.append(vec![Event::tag(app.clone(), tag("also"), digest("v1"))]).await.unwrap();
    let index = ManifestFacts { manifests: vec![digest("v1")], ..ManifestFacts::default() };
    ledger.append(vec![manifest("app", "index", index)]).await.unwrap();
    let delete = |of: &str| Event::delete(name("app"), digest(of), ContentKind::Manifest);
    assert_eq!(rejected(&ledger, vec![delete("v1")]).await, Rejected::InUse(digest("index")));
    ledger.append(vec![delete("index"), delete("v1")]).await.unwrap();
    let tags: Vec<Tag> = ledger.tags(&app, None, 10).unwrap().into_iter().map(|entry| entry.tag).collect();
    assert_eq!(tags, [tag("two")]);
    assert_eq!(ledger.tags_of(&app, &digest("v1")).unwrap(), []);
    assert_eq!(ledger.manifest(&app, &digest("v1")).unwrap(), None);
    ledger.append(vec![Event::delete(app.clone(), digest("v1 blob"), ContentKind::Blob)]).await.unwrap();
    assert_eq!(ledger.blob(&app, &digest("v1 blob")).unwrap(), None);
    assert!(ledger.repositories_with(&digest("v1 blob"), 1).unwrap().is_empty());
    // Its bytes are known still, and can be linked again.
    ledger.append(vec![Event::link(app.clone(), digest("v1 blob"))]).await.unwrap();
    ledger.append(vec![Event::untag(app.clone(), tag("two"))]).await.unwrap();
    assert_eq!(ledger.tags(&app, None, 10).unwrap(), []);
    ledger.append(vec![delete("v2")]).await.unwrap();
    assert_eq!((ledger.repository(&app).unwrap(), ledger.repositories(None, 10).unwrap().len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_place_is_never_named_and_a_named_one_never_abandoned() {
    let ledger = one_node();
    assert!(!ledger.is_named(place(1).key).unwrap());
    ledger.append(vec![Event::Abandon { places: vec![place(1)] }]).await.unwrap();
    let named = vec![Event::blob(digest("late"), 9, Content::Key(place(1)))];
    assert_eq!(rejected(&ledger, named).await, Rejected::Abandoned(place(1).key));
    assert!(!ledger.is_named(place(1).key).unwrap());
    ledger.append(vec![Event::blob(digest("blob"), 9, Content::Key(place(2)))]).await.unwrap();
    assert!(ledger.is_named(place(2).key).unwrap());
    assert_eq!(rejected(&ledger, vec![Event::Abandon { places: vec![place(2)] }]).await, Rejected::Named(place(2).key, digest("blob")));
}

#[tokio::test(start_paused = true)]
async fn lists_are_paged_by_what_they_are_sorted_by() {
    let ledger = one_node();
    push(&ledger, "app", "v1", "b").await;
    let app = name("app");
    let more = ["a", "c", "B"].map(|text| Event::tag(app.clone(), tag(text), digest("v1")));
    ledger.append(more.into()).await.unwrap();
    let page =
        |after, limit| -> Vec<String> { ledger.tags(&app, after, limit).unwrap().iter().map(|entry| entry.tag.to_string()).collect() };
    assert_eq!(page(None, 10), ["B", "a", "b", "c"]);
    assert_eq!(page(Some("a"), 1), ["b"]);
    assert_eq!(page(Some("aa"), 10), ["b", "c"]);
    assert_eq!(page(Some("c"), 10), Vec::<String>::new());
    assert_eq!(page(None, 0), Vec::<String>::new());
    for other in ["app/x", "apx", "zoo"] {
        push(&ledger, other, other, "t").await;
    }
    let repositories: Vec<String> = ledger.repositories(Some("app"), 2).unwrap().iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(repositories, ["app/x", "apx"]);
    let mut referrers = Vec::new();
    for number in 0..5 {
        let artifact_type = Some(if number == 0 { "sbom" } else { "signature" }.to_owned());
        let facts = ManifestFacts { subject: Some(digest("v1")), artifact_type, ..image(&[]) };
        referrers.push(digest(&format!("referrer {number}")));
        ledger.append(vec![manifest("app", &format!("referrer {number}"), facts)]).await.unwrap();
    }
    referrers.sort();
    let query = ReferrersQuery { repository: &app, subject: &digest("v1"), artifact_type: None, after: None, limit: 3 };
    let found = |query: &ReferrersQuery<'_>| -> Vec<Digest> { ledger.referrers(query).unwrap().iter().map(|entry| entry.digest).collect() };
    assert_eq!(found(&query), referrers[..3]);
    assert_eq!(found(&ReferrersQuery { after: Some(&referrers[2]), ..query }), referrers[3..]);
    assert_eq!(found(&ReferrersQuery { artifact_type: Some("sbom"), ..query }), [digest("referrer 0")]);
    assert_eq!(ledger.manifests(&app, None, 100).unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_passed_on_since_its_last_push_is_found() {
    let ledger = one_node();
    push(&ledger, "app", "v1", "a").await;
    push(&ledger, "app", "v2", "b").await;
    let app = name("app");
    let waiting = |upstream, after: Option<&Reference>, limit| -> Vec<(Reference, Digest)> {
        let found = ledger.unforwarded(&UnforwardedQuery { repository: &app, upstream, after, limit }).unwrap();
        found.into_iter().map(|entry| (entry.reference, entry.digest)).collect()
    };
    let by_digest = |of: &str| (Reference::Digest(digest(of)), digest(of));
    let by_tag = |text: &str, of: &str| (Reference::Tag(tag(text)), digest(of));
    let mut all = vec![by_digest("v1"), by_digest("v2")];
    all.sort_by_key(|(_, digest)| *digest);
    all.extend([by_tag("a", "v1"), by_tag("b", "v2")]);
    assert_eq!(waiting("origin", None, 10), all);
    for at in 0..4 {
        assert_eq!(waiting("origin", Some(&all[at].0), 2), all[at + 1..4.min(at + 3)], "behind {at}");
    }
    let forwarded = |text: Option<&str>, of| Event::forwarded(name("app"), text.map(tag), digest(of), "origin");
    ledger.append(vec![forwarded(None, "v1"), forwarded(Some("a"), "v1"), forwarded(Some("b"), "v1")]).await.unwrap();
    // "b" is another manifest here.
    assert_eq!(waiting("origin", None, 10), [by_digest("v2"), by_tag("b", "v2")]);
    assert_eq!(waiting("other", None, 10), all);
    for (reference, of) in all.iter().chain([&by_tag("c", "v1")]) {
        let found = ledger.unforwarded_name(&app, reference, "origin").unwrap().map(|entry| entry.digest);
        let waits = *reference == by_digest("v2").0 || *reference == by_tag("b", "v2").0;
        assert_eq!(found, waits.then_some(*of), "{reference}");
    }
    assert_eq!(ledger.forwarded(&app, &Reference::Tag(tag("b")), "origin").unwrap().map(|entry| entry.digest), Some(digest("v1")));
    assert_eq!(ledger.forwarded(&app, &Reference::Digest(digest("v2")), "origin").unwrap(), None);
    // Pushed once more, and moved there and back: to be passed on once more.
    ledger.append(vec![manifest("app", "v1", image(&["v1 blob"]))]).await.unwrap();
    ledger.append(vec![Event::tag(app.clone(), tag("a"), digest("v2"))]).await.unwrap();
    ledger.append(vec![Event::tag(app.clone(), tag("a"), digest("v1"))]).await.unwrap();
    assert_eq!(waiting("origin", None, 10), all);
    // Twice is as good as once, and what is gone here is nothing to pass on.
    ledger.append(vec![forwarded(None, "v1"), forwarded(None, "v1"), forwarded(Some("a"), "v1")]).await.unwrap();
    ledger.append(vec![Event::delete(app.clone(), digest("v2"), ContentKind::Manifest)]).await.unwrap();
    assert_eq!(waiting("origin", None, 10), []);
}

#[tokio::test(start_paused = true)]
async fn a_name_keeps_the_time_when_it_was_made() {
    let store = store();
    let node = store.node();
    let ledger = testing::ledger(&node, "edge", Memory::default());
    push(&ledger, "app", "v1", "latest").await;
    let first = ledger.tag(&name("app"), &tag("latest")).unwrap().unwrap();
    // Another node's clock is far ahead: the times follow the ledger's clock.
    push(&ledger, "app", "v2", "latest").await;
    let second = ledger.tag(&name("app"), &tag("latest")).unwrap().unwrap();
    assert_eq!(first.created_at, second.created_at);
    ledger.append(vec![Event::untag(name("app"), tag("latest"))]).await.unwrap();
    assert_eq!(ledger.tag(&name("app"), &tag("latest")).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn callers_that_come_together_share_a_segment_and_not_their_rejections() {
    let store = store();
    let node = store.node();
    let ledger = testing::ledger(&node, "edge", Memory::default());
    push(&ledger, "app", "v1", "latest").await;
    node.set_faults(Faults { latency: Duration::from_millis(20)..Duration::from_millis(21), ..Faults::NONE });
    let before = node.requests(Verb::Create);
    let callers = (0..100).map(|number| {
        let of = if number % 10 == 0 { digest("none") } else { digest("v1") };
        ledger.append(vec![Event::tag(name("app"), tag(&format!("t{number}")), of)])
    });
    let outcomes = futures_util::future::join_all(callers).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 90);
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(AppendError::Rejected(_)))).count(), 10);
    assert!(node.requests(Verb::Create) - before <= 2);
    assert_eq!(ledger.tags(&name("app"), None, 1_000).unwrap().len(), 91);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_one_segment_takes_several() {
    let ledger = one_node();
    let beat = |count| vec![Event::Heartbeat {}; count];
    let outcomes = futures_util::future::join_all((0..5).map(|_| ledger.append(beat(3_000)))).await;
    let mut numbers: Vec<u64> = outcomes.into_iter().map(|outcome| outcome.unwrap().seq).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(rejected(&ledger, beat(5_000)).await, Rejected::TooLarge);
    let wide = Event::Rule(ControlRecord { name: "x".repeat(2 << 20), content: None });
    assert_eq!(rejected(&ledger, vec![wide]).await, Rejected::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_leaves_one_segment() {
    let store = store();
    let node = store.node();
    let ledger = testing::ledger(&node, "edge", Memory::default());
    for (number, fault) in [
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::Throttled,
        Fault::FalseExists,
        Fault::ExistsAfter,
        Fault::Lost,
        Fault::Late(Duration::from_secs(7)),
    ]
    .into_iter()
    .enumerate()
    {
        node.plan(Verb::Create, fault.clone());
        let position = ledger.append(vec![Event::Heartbeat {}]).await;
        assert_eq!(position.map(|position| position.seq), Ok(number as u64 + 1), "{fault:?}");
    }
    assert_eq!(store.objects().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_in_time_and_the_attempt_goes_on_to_its_end() {
    let store = store();
    let node = store.node();
    let ledger = testing::ledger(&node, "edge", Memory::default());
    node.cut_off();
    let called = Instant::now();
    let outcome = ledger.append(vec![Event::Heartbeat {}]).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable { retry_after, .. }) if !retry_after.is_zero()), "{outcome:?}");
    assert!(called.elapsed() <= Duration::from_secs(10));
    // While that is known, nobody waits long.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let called = Instant::now();
    assert!(ledger.append(vec![Event::Heartbeat {}]).await.is_err());
    assert!(called.elapsed() <= Duration::from_secs(1));
    node.heal();
    tokio::time::sleep(Duration::from_secs(20)).await;
    // The first one's attempt had begun and lands; the second one's had not, and does not.
    assert_eq!(store.objects().len(), 1);
    assert_eq!(ledger.append(vec![Event::Heartbeat {}]).await.unwrap().seq, 2);
}

/// A node of a region among several.
fn region(store: &SimulatedStore, name: &str, incarnation: &str) -> Ledger {
    let (origin, clock) = (Origin::new(name, incarnation), Clock::manual(Timestamp::from_ms(1_700_000_000_000)));
    let bucket = Bucket::simulated_as(&store.node(), name, incarnation, clock.clone());
    let index = Index::in_memory(Memory::default(), &origin).unwrap();
    let identity = Identity { node: "edge".to_owned(), origin, regions: Regions::Many };
    Ledger::over(Core::new(bucket, index, identity, clock, Metrics::new()))
}

/// All that a region has written goes to another one.
async fn carry(from: &Ledger, to: &Ledger) {
    let (origin, after) = (from.origin(), to.vector().unwrap().get(from.origin()));
    let Segments::Some(found) = from.segments_of(origin, after, 1 << 20).await.unwrap() else { return };
    let segments = (after + 1..).zip(found).map(|(seq, bytes)| Foreign { origin: origin.clone(), seq, bytes });
    to.import(segments.collect()).await.unwrap();
}

fn lock(of: Option<&str>, to: Option<&str>, locked: bool) -> Event {
    Event::Lock { repository: name("app"), tag: of.map(tag), digest: to.map(digest), locked, attributes: None }
}

fn tagged(image_name: &str, as_tag: &str) -> Vec<Event> {
    vec![manifest("app", image_name, image(&[])), Event::tag(name("app"), tag(as_tag), digest(image_name))]
}

#[tokio::test(start_paused = true)]
async fn row_62_a_lock_holds_in_every_region_and_beats_what_had_not_seen_it() {
    let store = store();
    let (eu, us) = (region(&store, "eu", INCARNATION), region(&store, "us", "01ARZ3NDEKTSV4RRFFQ69G5FAX"));
    eu.append(tagged("v1", "release")).await.unwrap();
    carry(&eu, &us).await;
    // Locked in one region while the other, later and more often, moves the tag and takes it away.
    let mut locking = tagged("v1", "release");
    locking.push(lock(Some("release"), Some("v1"), true));
    eu.append(locking).await.unwrap();
    us.append(vec![Event::untag(name("app"), tag("release"))]).await.unwrap();
    for image_name in ["v2", "v3"] {
        us.append(tagged(image_name, "release")).await.unwrap();
    }
    carry(&eu, &us).await;
    carry(&us, &eu).await;
    for ledger in [&eu, &us] {
        let entry = ledger.tag(&name("app"), &tag("release")).unwrap().unwrap();
        assert_eq!((entry.digest, entry.is_locked, &*entry.losers), (digest("v1"), true, &[digest("v3")][..]), "{}", ledger.origin());
        assert_eq!(ledger.conflicts(10).unwrap(), [(name("app"), entry)]);
        // What lost stays.
        assert!(ledger.manifest(&name("app"), &digest("v3")).unwrap().is_some());
        let locked = Rejected::Locked("app:release".to_owned());
        for events in [
            tagged("v2", "release"),
            vec![Event::untag(name("app"), tag("release"))],
            vec![Event::delete(name("app"), digest("v1"), ContentKind::Manifest)],
        ] {
            assert_eq!(rejected(ledger, events.clone()).await, locked, "{events:?}");
        }
        // The same again is no change, and other tags are not locked.
        ledger.append(tagged("v1", "release")).await.unwrap();
        ledger.append(tagged("v2", &format!("next-{}", ledger.origin().region))).await.unwrap();
    }
    // What is unlocked moves again, everywhere; a lock of the repository holds for each tag, also one that is new.
    carry(&us, &eu).await;
    eu.append(vec![lock(Some("release"), None, false)]).await.unwrap();
    carry(&eu, &us).await;
    us.append(tagged("v2", "release")).await.unwrap();
    us.append(vec![lock(None, None, true)]).await.unwrap();
    carry(&us, &eu).await;
    for ledger in [&eu, &us] {
        assert_eq!(ledger.tag(&name("app"), &tag("release")).unwrap().unwrap().digest, digest("v2"));
        for events in [
            tagged("v3", "release"),
            tagged("v3", "new"),
            vec![Event::untag(name("app"), tag("next-eu"))],
            vec![Event::delete(name("app"), digest("v3"), ContentKind::Manifest)],
        ] {
            let why = rejected(ledger, events.clone()).await;
            assert!(matches!(why, Rejected::Locked(_)), "{events:?}: {why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_everything_and_is_passed_over_by_nobody() {
    let store = store();
    let node = store.node();
    let ledger = testing::ledger(&node, "edge", Memory::default());
    let path = |seq: u64| format!("eu.{INCARNATION}/ledger/{seq:020}");
    ledger.append(vec![Event::Heartbeat {}]).await.unwrap();
    store.plant(&path(2), "not a segment");
    assert!(matches!(ledger.append(vec![Event::Heartbeat {}]).await, Err(AppendError::Unavailable { .. })));
    assert!(matches!(ledger.confirm(Look::Now).await, Err(LedgerError::Broken(_))));
    store.remove(&path(2));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(ledger.append(vec![Event::Heartbeat {}]).await.unwrap().seq, 3);
    // Trimmed while we were away: there is no snapshot to begin from yet.
    let hash = Digest::sha256(b"x");
    store.plant(&path(4), segment::encode_stub(&Stub { trimmed: 4, hash }).unwrap());
    assert!(matches!(ledger.append(vec![Event::Heartbeat {}]).await, Err(AppendError::Unavailable { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_does_not_agree_with_its_bucket_is_made_anew() {
    let store = store();
    let (node, kept) = (store.node(), Memory::default());
    let first = testing::ledger(&node, "edge", kept.clone());
    push(&first, "app", "v1", "latest").await;
    push(&first, "app", "v2", "latest").await;
    drop(first);
    let path = |seq: u64| format!("eu.{INCARNATION}/ledger/{seq:020}");
    // The bucket is set back, and somebody else goes on from there.
    store.remove(&path(3));
    store.remove(&path(4));
    let other = testing::ledger(&store.node(), "other", Memory::default());
    push(&other, "app", "v3", "third").await;
    push(&other, "app", "v4", "fourth").await;
    push(&other, "app", "v5", "fifth").await;
    let again = testing::ledger(&node, "edge", kept);
    assert_eq!(again.tag(&name("app"), &tag("latest")).unwrap().unwrap().digest, digest("v2"));
    again.confirm(Look::Now).await.unwrap();
    let tags: Vec<String> = again.tags(&name("app"), None, 10).unwrap().iter().map(|entry| entry.tag.to_string()).collect();
    assert_eq!(tags, ["fifth", "fourth", "latest", "third"]);
    assert_eq!(again.tag(&name("app"), &tag("latest")).unwrap().unwrap().digest, digest("v1"));
    again.append(vec![Event::Heartbeat {}]).await.unwrap();
    // A stub of what was folded agrees.
    let objects = store.objects();
    let last = &objects[&path(9)];
    let Ok(Object::Segment(segment)) = segment::decode(last) else { panic!() };
    store.plant(&path(9), segment::encode_stub(&Stub { trimmed: segment.header.seq, hash: segment::hash(last) }).unwrap());
}

#[tokio::test]
async fn an_index_on_disk_is_kept_lost_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let store = store();
    let origin = Origin::new("eu", INCARNATION);
    let open = || testing::over(&store.node(), "edge", Index::open(&path, &origin).unwrap());
    let ledger = open();
    push(&ledger, "app", "v1", "latest").await;
    ledger.close().await.unwrap();
    push(&ledger, "app", "v2", "latest").await;
    drop(ledger);
    // Whatever a kill leaves is an older state, whole: position and rows agree.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = open();
    let expected = if again.position().unwrap().seq == 4 { "v2" } else { "v1" };
    assert_eq!(again.tag(&name("app"), &tag("latest")).unwrap().unwrap().digest, digest(expected));
    again.confirm(Look::Now).await.unwrap();
    assert_eq!(again.tag(&name("app"), &tag("latest")).unwrap().unwrap().digest, digest("v2"));
    drop(again);
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::remove_file(&path).unwrap();
    let anew = open();
    assert_eq!(anew.position().unwrap().seq, 0);
    anew.confirm(Look::Now).await.unwrap();
    assert_eq!(anew.position().unwrap().seq, 4);
    assert_eq!(anew.tag(&name("app"), &tag("latest")).unwrap().unwrap().digest, digest("v2"));
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_slow_store_gets_what_it_gives_in_a_moment() {
    const SEGMENTS: u64 = 300;
    let store = store();
    let writer = testing::ledger(&store.node(), "writer", Memory::default());
    for _ in 0..SEGMENTS {
        writer.append(vec![Event::Heartbeat {}]).await.unwrap();
    }
    let told = async |latency_ms: u64| {
        let node = store.node();
        let edge = testing::ledger(&node, "edge", Memory::default());
        edge.read_to_end(|_| ()).await.unwrap();
        // As after a start, with its index on disk.
        edge.0.core.recent.forget();
        let latency = Duration::from_millis(latency_ms);
        node.set_faults(Faults { latency: latency..latency + Duration::from_nanos(1), ..Faults::NONE });
        let (asked, began) = (node.requests(Verb::Read), Instant::now());
        let Segments::Some(found) = edge.segments_of(edge.origin(), 0, 1 << 20).await.unwrap() else { panic!("nothing") };
        (found.len(), node.requests(Verb::Read) - asked, began.elapsed())
    };
    assert_eq!(told(0).await.0, 256, "as many as one answer has");
    let (found, asked, took) = told(150).await;
    assert!((5..100).contains(&found) && asked == found as u64 && took < Duration::from_secs(1), "{found} {asked} {took:?}");
    // Those that follow ask for the same: it is read once.
    let node = store.node();
    let edge = testing::ledger(&node, "edge", Memory::default());
    edge.read_to_end(|_| ()).await.unwrap();
    edge.0.core.recent.forget();
    let asked = node.requests(Verb::Read);
    let told = futures_util::future::join_all((0..4).map(|_| edge.segments_of(edge.origin(), 0, 1 << 20))).await;
    assert!(told.iter().all(|told| matches!(told, Ok(Segments::Some(found)) if found.len() == 256)), "{told:?}");
    assert_eq!(node.requests(Verb::Read) - asked, 256);
    // Of one that is new hardly more is asked for than there is.
    let node = store.node();
    let other = testing::ledger(&node, "other", Memory::default());
    other.read_to_end(|_| ()).await.unwrap();
    let asked = node.requests(Verb::Read);
    let abroad = ForeignBucket::simulated(&node, "eu", INCARNATION);
    let found = Source::segments(&abroad, other.origin(), SEGMENTS - 1, Duration::ZERO).await.unwrap();
    assert!(matches!(found, Segments::Some(found) if found.len() == 1) && node.requests(Verb::Read) - asked <= 5);
}
