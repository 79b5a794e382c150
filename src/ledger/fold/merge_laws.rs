//! The merge does not depend on the order in which ledgers arrive: several regions write, seeing each other's segments now and then,
//! and every interleaving of their ledgers, with repetitions, folds to the same rows. What a tag is, is said again as the rule has it.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use ulid::Ulid;

use super::{Folding, ledger, row, segment};
use crate::clock::Timestamp;
use crate::ledger::event::{Attributes, Content, ContentKind, ControlRecord, Event, ManifestFacts, Standing};
use crate::ledger::identity::{HybridTime, Origin, Place, VersionVector};
use crate::ledger::index::{Changes, Memory, Overlay, Rows, Table, Walk, key};
use crate::ledger::planted::{Bug, Planted};
use crate::ledger::query;
use crate::ledger::segment::{Header, Segment, no_segment};
use crate::ledger::snapshot;
use crate::ledger::state::{Claims, TagClaim};
use crate::oci::{Digest, RepositoryName, Tag};

const REGIONS: usize = 3;
const TAGS: [&str; 2] = ["a", "b"];

/// Ledgers of several regions, as they may have come to be.
struct History {
    ledgers: Vec<Vec<Segment>>,
}

fn origin(region: usize) -> Origin {
    Origin::new(["eu", "us", "ap"][region], "1")
}

fn repository() -> RepositoryName {
    "app".parse().unwrap()
}

fn tag(random: &mut fastrand::Rng) -> Tag {
    TAGS[random.usize(0..TAGS.len())].parse().unwrap()
}

fn digest(random: &mut fastrand::Rng) -> Digest {
    Digest::sha256(&[random.u8(0..3)])
}

/// A place and what it holds: a key is never used for another content.
fn place(random: &mut fastrand::Rng) -> (Place, Digest) {
    let number = random.u8(0..6);
    let place = Place { origin: origin(random.usize(0..REGIONS)), key: Ulid::from_parts(1, number.into()) };
    (place, Digest::sha256(&[number % 3]))
}

fn event(random: &mut fastrand::Rng) -> Event {
    let digest = digest(random);
    match random.u32(0..17) {
        0..=3 => Event::tag(repository(), tag(random), digest),
        4 => Event::untag(repository(), tag(random)),
        5 => Event::delete(repository(), digest, ContentKind::Manifest),
        6 => Event::delete(repository(), digest, ContentKind::Blob),
        7 => Event::link(repository(), digest),
        8 => {
            let (place, digest) = place(random);
            Event::blob(digest, 4, Content::Key(place))
        }
        9 => Event::Abandon { places: vec![place(random).0] },
        10 => Event::forwarded(repository(), random.bool().then(|| tag(random)), digest, "origin.example"),
        11 => {
            let (place, digest) = place(random);
            Event::Copy { digest, size_bytes: 4, place }
        }
        12 => {
            let attributes = Attributes { read: random.bool(), write: random.bool(), delete: random.bool(), list: random.bool() };
            let attributes = random.bool().then_some(attributes);
            let tag = random.bool().then(|| tag(random));
            Event::Lock { repository: repository(), tag, digest: Some(digest), locked: random.bool(), attributes }
        }
        13 => Event::Member { origin: origin(random.usize(0..REGIONS)), standing: Standing::Joined },
        15 => {
            let content = random.bool().then(|| serde_json::json!(random.u8(..)));
            Event::Role(ControlRecord { name: random.u8(0..2).to_string(), content })
        }
        14 => Event::Lost { origin: origin(random.usize(0..REGIONS)), cut: random.u64(0..5) },
        _ => {
            let facts = ManifestFacts { subject: Some(digest), blobs: vec![digest], ..ManifestFacts::default() };
            Event::manifest(repository(), digest, Content::Inline(Bytes::from_static(b"{}")), facts)
        }
    }
}

impl History {
    /// Regions take turns at random: one imports some segments of another, or writes one of its own.
    fn random(seed: u64) -> History {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ledgers: Vec<Vec<Segment>> = vec![Vec::new(); REGIONS];
        let mut seen = [[0_usize; REGIONS]; REGIONS];
        for _ in 0..random.usize(3..25) {
            let (own, other) = (random.usize(0..REGIONS), random.usize(0..REGIONS));
            if own != other && random.bool() {
                seen[own][other] = random.usize(seen[own][other]..=ledgers[other].len());
                continue;
            }
            let wall = Timestamp::from_ms(random.u64(1_000..1_010));
            let written = write(own, &ledgers, &seen[own], wall, (0..random.usize(1..4)).map(|_| event(&mut random)).collect());
            ledgers[own].push(written);
        }
        History { ledgers }
    }

    /// All segments in an order in which a follower may meet them: each ledger in its own order, some segments twice.
    fn interleaved(&self, seed: u64) -> Vec<&Segment> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut next = [0; REGIONS];
        let mut order: Vec<&Segment> = Vec::new();
        loop {
            let open: Vec<usize> = (0..REGIONS).filter(|region| next[*region] < self.ledgers[*region].len()).collect();
            let Some(region) = random.choice(&open) else { return order };
            order.push(&self.ledgers[*region][next[*region]]);
            next[*region] += 1;
            if random.u32(0..4) == 0 {
                order.push(order[random.usize(0..order.len())]);
            }
        }
    }

    fn events(&self) -> impl Iterator<Item = (&Header, usize, &Event)> {
        let segments = self.ledgers.iter().flatten();
        segments.flat_map(|segment| segment.events.iter().enumerate().map(|(index, event)| (&segment.header, index, event)))
    }

    /// The rule itself: a claim lives unless an event on its name, or a delete of its manifest, had seen it; the greatest wins.
    fn claims_by_the_rule(&self, name: &Tag) -> Vec<Digest> {
        let claim = |event: &Event| match event {
            Event::Tag { tag, digest, .. } if tag == name => Some(*digest),
            _ => None,
        };
        let mut live: Vec<_> = Vec::new();
        for (at, index, event) in self.events() {
            let Some(digest) = claim(event) else { continue };
            let ends = |event: &Event| match event {
                Event::Tag { tag, .. } | Event::Untag { tag, .. } => tag == name,
                Event::Delete { digest: of, kind: ContentKind::Manifest, .. } => *of == digest,
                _ => false,
            };
            let is_dead = self.events().any(|(by, by_index, event)| {
                let has_seen = match by.origin == at.origin {
                    true => (at.seq, index) < (by.seq, by_index),
                    false => by.seen.covers(&at.origin, at.seq),
                };
                has_seen && ends(event)
            });
            if !is_dead {
                live.push(((at.clock, at.origin.clone(), at.seq, index), digest));
            }
        }
        live.sort();
        live.into_iter().map(|(_, digest)| digest).collect()
    }
}

impl History {
    /// The lock of a tag in force, said again: the greatest that no lock or untag had seen, if it keeps the tag from being moved.
    fn pinned_by_the_rule(&self, name: &Tag) -> Option<Digest> {
        let locks = || self.events().filter(|(_, _, event)| matches!(event, Event::Lock { tag: Some(tag), .. } if tag == name));
        let untags = || self.events().filter(|(_, _, event)| matches!(event, Event::Untag { tag, .. } if tag == name));
        let live = locks().filter(|(at, index, _)| {
            !locks().chain(untags()).any(|(by, by_index, _)| match by.origin == at.origin {
                true => (at.seq, *index) < (by.seq, by_index),
                false => by.seen.covers(&at.origin, at.seq),
            })
        });
        let winner = live.max_by_key(|(at, index, _)| (at.clock, at.origin.clone(), at.seq, *index));
        match winner {
            Some((_, _, Event::Lock { locked: true, digest, attributes: None, .. })) => *digest,
            Some((_, _, Event::Lock { digest, attributes: Some(Attributes { write: false, .. }), .. })) => *digest,
            _ => None,
        }
    }
}

/// A region's next segment: its clock exceeds all that it has seen.
fn write(own: usize, ledgers: &[Vec<Segment>], seen: &[usize; REGIONS], wall: Timestamp, events: Vec<Event>) -> Segment {
    let mut vector = VersionVector::default();
    let mut folded = ledgers[own].last().map_or(HybridTime::default(), |last| last.header.clock);
    for (other, count) in seen.iter().enumerate().filter(|(other, count)| *other != own && **count > 0) {
        vector.raise(origin(other), *count as u64);
        folded = folded.max(ledgers[other][count - 1].header.clock);
    }
    let header = Header {
        origin: origin(own),
        seq: ledgers[own].len() as u64 + 1,
        previous: no_segment(),
        nonce: String::new(),
        node: String::new(),
        clock: HybridTime::after(folded, wall),
        imports: 0,
        seen: vector,
        least_reader: 1,
    };
    Segment { header, events }
}

/// Folds what comes, as a follower does: what it has it passes over.
fn fold_all(order: &[&Segment], planted: Planted) -> Memory {
    fold_on(Memory::default(), order, planted)
}

fn fold_on(memory: Memory, order: &[&Segment], planted: Planted) -> Memory {
    for next in order {
        let snapshot = memory.snapshot();
        let mut rows = Overlay::new(&snapshot);
        let folded = ledger(&rows, &next.header.origin).unwrap().map_or(0, |row| row.seq);
        if next.header.seq <= folded {
            continue;
        }
        segment(&mut rows, next, no_segment(), Folding { home: "eu", planted }).unwrap();
        let changes = rows.into_changes();
        drop(snapshot);
        memory.commit(changes);
    }
    memory
}

fn dump(memory: &Memory) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let rows = memory.snapshot();
    let mut all = Vec::new();
    for table in Table::ALL {
        rows.scan(table, &[], None, &mut |key, value| {
            all.push((table.name(), key.to_vec(), value.to_vec()));
            Ok(Walk::On)
        })
        .unwrap();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_order_of_arrival_folds_to_the_same(seed: u64, one: u64, two: u64) {
        let history = History::random(seed);
        let first = fold_all(&history.interleaved(one), Planted::default());
        let second = fold_all(&history.interleaved(two), Planted::default());
        prop_assert_eq!(dump(&first), dump(&second));
        // What was awaited has come.
        prop_assert!(!dump(&first).iter().any(|(table, ..)| table.starts_with("ahead")));
    }

    /// A snapshot made anywhere on the way, and the rest folded behind it: row for row what the whole folds to.
    #[test]
    fn a_snapshot_and_the_rest_fold_to_the_whole(seed: u64, order: u64, at: u64, full_bytes in 1..2_000_usize) {
        let history = History::random(seed);
        let order = history.interleaved(order);
        let (before, rest) = order.split_at(at as usize % (order.len() + 1));
        let (mut changes, mut shards) = (Changes::default(), Vec::new());
        snapshot::pack(&fold_all(before, Planted::default()).snapshot(), Some(full_bytes), &mut |shard| {
            shards.push(shard.bytes);
            Walk::On
        }).unwrap();
        for row in shards.iter().flat_map(|shard| snapshot::unpack(shard).unwrap()) {
            changes.put(row.table, row.key, row.value);
        }
        let loaded = Memory::default();
        loaded.commit(changes);
        prop_assert_eq!(dump(&fold_on(loaded, rest, Planted::default())), dump(&fold_all(&order, Planted::default())));
    }

    #[test]
    fn a_tag_is_what_the_rule_says(seed: u64, order: u64) {
        let history = History::random(seed);
        let memory = fold_all(&history.interleaved(order), Planted::default());
        let rows = memory.snapshot();
        let mut reverse: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
        for name in TAGS {
            let name: Tag = name.parse().unwrap();
            let claims: Claims<TagClaim> = row(&rows, Table::Tags, &key::tag(&repository(), &name)).unwrap().unwrap_or_default();
            let live: Vec<Digest> = claims.as_slice().iter().map(|claim| claim.value.digest).collect();
            prop_assert_eq!(&live, &history.claims_by_the_rule(&name));
            let entry = query::tag(&rows, &repository(), &name).unwrap();
            let pinned = history.pinned_by_the_rule(&name);
            prop_assert_eq!(entry.as_ref().map(|entry| entry.digest), pinned.or(live.last().copied()));
            let is_overridden = live.iter().any(|digest| pinned.is_some_and(|pinned| pinned != *digest));
            let is_conflict = live.len() > 1 || is_overridden;
            prop_assert_eq!(rows.get(Table::Conflicts, &key::tag(&repository(), &name)).unwrap().is_some(), is_conflict);
            if let Some(digest) = pinned {
                prop_assert!(entry.unwrap().is_locked, "{digest}");
                continue;
            }
            if let Some(digest) = live.last() {
                reverse.entry(*digest).or_default().push(name);
            }
        }
        for (digest, names) in reverse {
            let found = query::tags_of(&rows, &repository(), &digest).unwrap();
            prop_assert!(names.iter().all(|name| found.contains(name)));
        }
    }

    /// No interleaving of two live claims saw the other: they are an antichain.
    #[test]
    fn live_claims_had_not_seen_each_other(seed: u64, order: u64) {
        let history = History::random(seed);
        let memory = fold_all(&history.interleaved(order), Planted::default());
        let rows = memory.snapshot();
        for name in TAGS {
            let key = key::tag(&repository(), &name.parse().unwrap());
            let claims: Claims<TagClaim> = row(&rows, Table::Tags, &key).unwrap().unwrap_or_default();
            let mut origins: Vec<&Origin> = claims.as_slice().iter().map(|claim| &claim.origin).collect();
            origins.dedup();
            prop_assert_eq!(origins.len(), claims.as_slice().len(), "two live claims of one ledger");
        }
    }
}

#[test]
fn the_laws_notice_when_the_index_within_a_segment_is_passed_over() {
    let caught = (0..200).any(|seed| {
        let history = History::random(seed);
        let memory = fold_all(&history.interleaved(seed), Planted(Some(Bug::IndexNotCovered)));
        let rows = memory.snapshot();
        TAGS.into_iter().any(|name| {
            let name: Tag = name.parse().unwrap();
            let claims: Claims<TagClaim> = row(&rows, Table::Tags, &key::tag(&repository(), &name)).unwrap().unwrap_or_default();
            let live: Vec<Digest> = claims.as_slice().iter().map(|claim| claim.value.digest).collect();
            live != history.claims_by_the_rule(&name)
        })
    });
    assert!(caught);
}

/// The cases of the design, one by one.
#[test]
fn concurrent_tags_conflict_until_somebody_has_seen_both() {
    let name: Tag = "a".parse().unwrap();
    let [one, two, three] = [b"1", b"2", b"3"].map(|bytes| Digest::sha256(bytes));
    let tagged = |digest| vec![Event::tag(repository(), name.clone(), digest)];
    let wall = Timestamp::from_ms(1_000);
    let mut ledgers = vec![Vec::new(); REGIONS];
    let eu = write(0, &ledgers, &[0, 0, 0], wall, tagged(one));
    let us = write(1, &ledgers, &[0, 0, 0], Timestamp::from_ms(900), tagged(two));
    ledgers[0].push(eu);
    ledgers[1].push(us);
    // Written where both were seen, by a wall clock far behind.
    let ap = write(2, &ledgers, &[1, 1, 0], Timestamp::from_ms(5), tagged(three));
    let untag = write(0, &ledgers, &[1, 0, 0], wall, vec![Event::untag(repository(), name.clone())]);
    let entry = |order: &[&Segment]| query::tag(&fold_all(order, Planted::default()).snapshot(), &repository(), &name).unwrap();
    let (eu, us) = (&ledgers[0][0], &ledgers[1][0]);
    let conflict = entry(&[us, eu]).unwrap();
    assert_eq!((conflict.digest, conflict.losers), (one, vec![two]));
    for order in [[eu, us, &ap], [&ap, us, eu], [us, &ap, eu]] {
        let entry = entry(&order).unwrap();
        assert_eq!((entry.digest, entry.losers.len()), (three, 0));
    }
    // An untag takes what it saw, though it won; the concurrent claim survives, whichever comes first.
    for order in [[eu, &untag, us], [us, eu, &untag], [eu, us, &untag]] {
        assert_eq!(entry(&order).unwrap().digest, two);
    }
    assert_eq!(entry(&[eu, &untag]), None);
}
