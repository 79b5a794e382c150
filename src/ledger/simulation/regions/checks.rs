//! What must hold when a schedule of several regions has ended: nothing acknowledged is lost, all regions say the same, and that is what
//! the rules say of all events together.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::super::event::{ContentKind, Event};
use super::super::super::identity::{Origin, VersionVector};
use super::super::super::import;
use super::super::super::segment::{self, Header, Object, Segment};
use super::super::super::{HybridTime, Ledger, Look};
use super::super::checks::{Dump, dump};
use super::clients::{REPOSITORIES, TAGS, check_servable};
use super::world::{Shared, World};
use crate::bucket::testing::INCARNATION;
use crate::oci::{Digest, RepositoryName};

/// All segments that count, by ledger and number.
pub(super) struct History(BTreeMap<(Origin, u64), Segment>);

/// The objects of a folder of a region's root, from 1 on.
fn objects(world: &World, (region, origin): (usize, &Origin), folder: &str) -> Vec<Bytes> {
    let all = world.regions[region].store.objects();
    (1..).map_while(|number| all.get(&format!("{origin}/{folder}/{number:020}")).cloned()).collect()
}

/// What a region has of the others, by its last import.
pub(super) fn imported(world: &World, region: usize) -> VersionVector {
    match objects(world, (region, &world.regions[region].origin()), "imports").last().map(import::decode) {
        Some(Ok(import::Object::Import(import))) => import.header.seen,
        _ => VersionVector::default(),
    }
}

pub(super) fn is_trusted(world: &World, region: usize) -> bool {
    let record = world.record.lock().unwrap();
    record.is_recovered || (record.lost != Some(region) && record.restored.is_none_or(|(restored, _)| restored != region))
}

impl History {
    /// Collects what stands in all stores, and finds what is wrong with it.
    pub fn read(world: &Shared) -> History {
        let mut found: BTreeMap<(Origin, u64), Bytes> = BTreeMap::new();
        let mut keep = |at: (Origin, u64), bytes: Bytes| {
            let known = found.entry(at.clone()).or_insert_with(|| bytes.clone());
            if *known != bytes {
                world.violation(format!("there are two segments {} of {}", at.1, at.0));
            }
        };
        let is_forked = world.record.lock().unwrap().is_forked;
        let restored = world.record.lock().unwrap().restored.map(|(region, _)| region);
        for region in 0..world.regions.len() {
            for origin in &world.regions[region].lives() {
                let vectors = check_imports(world, (region, origin), &mut keep);
                if is_forked && restored == Some(region) && *origin.incarnation == *INCARNATION {
                    continue;
                }
                for (index, bytes) in objects(world, (region, origin), "ledger").into_iter().enumerate() {
                    keep((origin.clone(), index as u64 + 1), bytes.clone());
                    check_seen(world, &bytes, &vectors);
                }
            }
        }
        let mut history = BTreeMap::new();
        for (at, bytes) in found {
            match segment::decode(&bytes) {
                Ok(Object::Segment(segment)) => drop(history.insert(at, segment)),
                other => world.violation(format!("segment {} of {} is {other:?}", at.1, at.0)),
            }
        }
        let history = History(history);
        history.check_chains(world);
        history
    }

    /// Each follows the one before it, and its clock exceeds those of all that it has seen.
    fn check_chains(&self, world: &World) {
        let clock_of = |origin: &Origin, seq: u64| self.0.get(&(origin.clone(), seq)).map_or(HybridTime::default(), |of| of.header.clock);
        for ((origin, seq), Segment { header, .. }) in &self.0 {
            let mut seen: Vec<HybridTime> = header.seen.iter().map(|(other, seq)| clock_of(other, seq)).collect();
            seen.push(clock_of(origin, seq - 1));
            if seen.iter().any(|clock| header.clock <= *clock) {
                world.violation(format!("the clock of segment {seq} of {origin} does not exceed what it has seen"));
            }
        }
    }

    /// Without what no survivor has of a region that is lost, or was set back.
    pub fn counted(mut self, vector: &VersionVector) -> History {
        self.0.retain(|(origin, seq), _| vector.covers(origin, *seq));
        self
    }

    fn events(&self) -> impl Iterator<Item = At<'_>> {
        let of = |segment: &'_ Segment| segment.events.len();
        self.0.values().flat_map(move |segment| {
            (0..of(segment)).map(move |index| At { header: &segment.header, index, event: &segment.events[index] })
        })
    }

    /// What was acknowledged stands where it was said to, whole and once.
    pub fn check_appends(&self, world: &World, vector: &VersionVector) {
        let mut found: BTreeMap<&str, Vec<At<'_>>> = BTreeMap::new();
        for at in self.events() {
            if let Event::Rule(record) = at.event
                && let Some(marker) = record.content.as_ref().and_then(|content| content.as_str())
            {
                found.entry(marker).or_default().push(at);
            }
        }
        let record = world.record.lock().unwrap();
        let mut wrong = Vec::new();
        for append in &record.appends {
            let at = found.get(append.marker.as_str()).map(Vec::as_slice).unwrap_or_default();
            // What was written after a bucket was set back, and nobody could be asked, nobody follows.
            let is_forked = record.is_forked && record.restored.is_some_and(|(region, _)| region == append.region);
            let right = match &append.outcome {
                // In one life or the other; of before the restore, only if somebody else has seen it.
                Ok(_) if is_forked => at.len() <= 1,
                // Only what nobody else has of a region that is gone may be gone.
                Ok(position) if !vector.covers(&append.origin, position.seq) => !(record.is_recovered && record.lost.is_some()),
                Ok(position) => at.len() == 1 && at[0].header.seq == position.seq && at[0].header.origin == append.origin,
                Err(_) => at.len() <= 1,
            };
            if !right {
                wrong.push(format!(
                    "{} of {:?} was told {:?}, and stands {} times",
                    append.marker,
                    append.events,
                    append.outcome,
                    at.len()
                ));
            }
        }
        drop(record);
        wrong.into_iter().for_each(|what| world.violation(what));
    }

    /// The digests of live claims on a tag, the winner last, and what a lock pins it to.
    fn tag(&self, repository: &RepositoryName, name: &str) -> (Vec<Digest>, Option<Digest>) {
        let is_tag = |event: &Event| match event {
            Event::Tag { repository: of, tag, digest, .. } if of == repository && tag.as_str() == name => Some(*digest),
            _ => None,
        };
        let is_lock = |event: &Event| match event {
            Event::Lock { repository: of, tag: Some(tag), digest, .. } if of == repository && tag.as_str() == name => *digest,
            _ => None,
        };
        let ends = |event: &Event, digest: &Digest| match event {
            Event::Tag { repository: of, tag, .. } | Event::Untag { repository: of, tag } => of == repository && tag.as_str() == name,
            Event::Delete { repository: of, digest: named, kind: ContentKind::Manifest } => of == repository && named == digest,
            _ => false,
        };
        let mut live = self.live(is_tag, ends);
        let unlocks = |event: &Event| match event {
            Event::Untag { repository: of, tag } => of == repository && tag.as_str() == name,
            event => is_lock(event).is_some(),
        };
        let locks = self.live(is_lock, |event, _| unlocks(event));
        live.sort_by_key(|(rank, _)| rank.clone());
        (
            live.into_iter().map(|(_, digest)| digest).collect(),
            locks.into_iter().max_by_key(|(rank, _)| rank.clone()).map(|(_, digest)| digest),
        )
    }

    /// Claims that no event which ends them has seen.
    fn live(&self, claim: impl Fn(&Event) -> Option<Digest>, ends: impl Fn(&Event, &Digest) -> bool) -> Vec<(Rank, Digest)> {
        let claims = self.events().filter_map(|at| claim(at.event).map(|digest| (at, digest)));
        let alive = claims.filter(|(at, digest)| !self.events().any(|by| by.has_seen(at) && ends(by.event, digest)));
        alive.map(|(at, digest)| (at.rank(), digest)).collect()
    }

    /// Who has seen a lock does not move what it locks.
    pub fn check_locks(&self, world: &World) {
        let locks: Vec<_> = self
            .events()
            .filter_map(|at| match at.event {
                Event::Lock { repository, tag: Some(tag), digest: Some(digest), .. } => Some((at, repository, tag, *digest)),
                _ => None,
            })
            .collect();
        for by in self.events() {
            let (repository, tag) = match by.event {
                Event::Tag { repository, tag, .. } | Event::Untag { repository, tag } => (repository, tag),
                _ => continue,
            };
            let seen = locks.iter().filter(|(at, of, name, _)| *of == repository && *name == tag && by.has_seen(at));
            let Some((_, _, _, pinned)) = seen.max_by_key(|(at, ..)| at.rank()) else { continue };
            if !matches!(by.event, Event::Tag { digest, .. } if digest == pinned) {
                world.violation(format!("segment {} of {} moves a locked tag: {:?}", by.header.seq, by.header.origin, by.event));
            }
        }
    }

    /// Every region says what the rules say.
    pub fn check_node(&self, world: &World, at: (usize, usize), ledger: &Ledger) {
        for repository in REPOSITORIES.map(|name| name.parse::<RepositoryName>().unwrap()) {
            for name in TAGS {
                let (live, pinned) = self.tag(&repository, name);
                let expected = pinned.or(live.last().copied());
                let found = ledger.tag(&repository, &name.parse().unwrap()).unwrap().map(|entry| entry.digest);
                if found != expected {
                    let told = format!("edge-{} of {} says {found:?}, the rule says {expected:?}", at.1, world.regions[at.0].name);
                    world.violation(format!("{repository}:{name}: {told}"));
                }
            }
        }
        check_servable(world, at, ledger);
    }
}

type Rank = (HybridTime, Origin, u64, usize);

/// An event and where it stands.
#[derive(Clone, Copy)]
struct At<'a> {
    header: &'a Header,
    index: usize,
    event: &'a Event,
}

impl At<'_> {
    fn rank(&self) -> Rank {
        (self.header.clock, self.header.origin.clone(), self.header.seq, self.index)
    }

    fn has_seen(&self, other: &At<'_>) -> bool {
        match self.header.origin == other.header.origin {
            true => (other.header.seq, other.index) < (self.header.seq, self.index),
            false => self.header.seen.covers(&other.header.origin, other.header.seq),
        }
    }
}

/// The imports are a chain of whole segments; returns the vector after each.
fn check_imports(world: &World, (region, origin): (usize, &Origin), keep: &mut impl FnMut((Origin, u64), Bytes)) -> Vec<VersionVector> {
    let name = origin;
    let mut vectors = vec![VersionVector::default()];
    let mut previous = segment::no_segment();
    for bytes in objects(world, (region, origin), "imports") {
        let Ok(import::Object::Import(import)) = import::decode(&bytes) else {
            world.violation(format!("an import of {name} cannot be read"));
            break;
        };
        if import.header.previous != previous {
            world.violation(format!("import {} of {name} does not follow the one before it", import.header.number));
        }
        previous = segment::hash(&bytes);
        let mut vector = vectors.last().unwrap().clone();
        for bytes in import.segments {
            let Ok(Object::Segment(Segment { header, .. })) = segment::decode(&bytes) else { continue };
            if header.seq > vector.get(&header.origin) + 1 {
                world.violation(format!(
                    "import {} of {name} leaves a gap before {} of {}",
                    import.header.number, header.seq, header.origin
                ));
            }
            vector.raise(header.origin.clone(), header.seq);
            keep((header.origin, header.seq), bytes);
        }
        if vector != import.header.seen {
            world.violation(format!("import {} of {name} names another vector", import.header.number));
        }
        vectors.push(vector);
    }
    vectors
}

/// What a segment names as seen is what its import fixes.
fn check_seen(world: &World, bytes: &Bytes, vectors: &[VersionVector]) {
    let Ok(Object::Segment(Segment { header, .. })) = segment::decode(bytes) else { return };
    if vectors.get(header.imports as usize) != Some(&header.seen) {
        world.violation(format!("segment {} of {} has not seen what import {} fixes", header.seq, header.origin, header.imports));
    }
}

/// All rows but those that are one region's own.
fn shared(ledger: &Ledger) -> Dump {
    let all = ledger.0.core.index.read(|rows| Ok(dump(rows))).unwrap();
    all.into_iter().filter(|(table, ..)| !["imports", "wanted"].contains(table)).collect()
}

/// Waits until every trusted node has what every trusted region has; returns what that is.
pub(super) async fn drain(world: &Shared) -> Option<VersionVector> {
    const ROUNDS: u32 = 60;
    for _ in 0..ROUNDS {
        let mut vectors = Vec::new();
        for at in world.all_nodes().into_iter().filter(|(region, _)| is_trusted(world, *region)) {
            let ledger = world.ledger(at);
            if ledger.confirm(Look::Now).await.is_err() {
                break;
            }
            vectors.push(ledger.vector().unwrap());
        }
        let expected = world.all_nodes().into_iter().filter(|(region, _)| is_trusted(world, *region)).count();
        if vectors.len() == expected && vectors.iter().all(|vector| *vector == vectors[0]) {
            return vectors.pop();
        }
        world.appended.tell();
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    }
    None
}

pub(super) async fn check(world: &Shared) {
    let Some(vector) = drain(world).await else {
        return world.violation("the regions do not converge".to_owned());
    };
    let history = History::read(world).counted(&vector);
    history.check_appends(world, &vector);
    history.check_locks(world);
    check_cut(world, &vector);
    let mut first: Option<Dump> = None;
    for at in world.all_nodes().into_iter().filter(|(region, _)| is_trusted(world, *region)) {
        let ledger = world.ledger(at);
        history.check_node(world, at, &ledger);
        let rows = shared(&ledger);
        match &first {
            Some(first) if *first != rows => {
                let differs = first.iter().zip(&rows).find(|(one, other)| one != other).map_or("their length", |(one, _)| one.0);
                world.violation(format!("edge-{} of {} has other rows: {differs}", at.1, world.regions[at.0].name));
            }
            Some(_) => {}
            None => first = Some(rows),
        }
    }
}

/// Of a lost region nothing counts behind the cut.
fn check_cut(world: &World, vector: &VersionVector) {
    let (lost, is_recovered) = {
        let record = world.record.lock().unwrap();
        (record.lost, record.is_recovered)
    };
    let Some(lost) = lost.filter(|_| !is_recovered) else { return };
    let origin = &world.regions[lost].origin();
    let survivor = world.all_nodes().into_iter().find(|(region, _)| is_trusted(world, *region)).expect("somebody survives");
    let ledger = world.ledger(survivor);
    match ledger.cut(origin).unwrap() {
        Some(cut) if vector.get(origin) > cut => {
            world.violation(format!("{} segments of {origin} count, though it was lost behind {cut}", vector.get(origin)));
        }
        Some(_) => {}
        None => world.violation(format!("{origin} was declared lost, and nobody knows")),
    }
}
