//! Clients that push, tag, untag, delete, lock, copy and look, each request through any node of any region.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use ulid::Ulid;

use super::super::super::event::{Attributes, Content, ContentKind, ControlRecord, Event, ManifestFacts};
use super::super::super::identity::Place;
use super::super::super::{AppendError, Ledger};
use super::checks::{imported, is_trusted};
use super::world::{Append, Shared, World};
use crate::oci::{Digest, RepositoryName, Tag};

pub(super) const REPOSITORIES: [&str; 2] = ["app", "lib"];
/// Tags that are moved, and tags that are locked.
pub(super) const TAGS: [&str; 4] = ["a", "b", "locked-1", "locked-2"];

/// An image that somebody has pushed.
#[derive(Clone)]
struct Image {
    repository: RepositoryName,
    manifest: Digest,
    blob: Digest,
}

impl Image {
    fn facts(&self) -> ManifestFacts {
        ManifestFacts { media_type: "image".into(), size_bytes: 2, blobs: vec![self.blob], ..ManifestFacts::default() }
    }

    fn events(&self, tag: Tag) -> Vec<Event> {
        let content = Content::Inline(Bytes::from_static(b"{}"));
        vec![
            Event::manifest(self.repository.clone(), self.manifest, content, self.facts()),
            Event::tag(self.repository.clone(), tag, self.manifest),
        ]
    }
}

#[derive(Default)]
pub(super) struct Pool {
    images: Vec<Image>,
    made: u64,
}

pub(super) struct Client {
    pub world: Shared,
    pub pool: Arc<Mutex<Pool>>,
    pub random: fastrand::Rng,
}

impl Client {
    pub async fn run(mut self, rounds: u32) {
        for _ in 0..rounds {
            sleep(Duration::from_millis(self.random.u64(0..900))).await;
            match self.random.u32(0..20) {
                0..=5 => self.push().await,
                6..=8 => self.tag().await,
                9 => self.untag().await,
                10 => self.delete(ContentKind::Manifest).await,
                11 => self.delete(ContentKind::Blob).await,
                12..=13 => self.lock().await,
                14..=15 => self.move_locked().await,
                16..=17 => self.copy().await,
                _ => self.look(),
            }
        }
    }

    fn anywhere(&mut self) -> (usize, usize) {
        let all = self.world.all_nodes();
        all[self.random.usize(0..all.len())]
    }

    fn repository(&mut self) -> RepositoryName {
        REPOSITORIES[self.random.usize(0..2)].parse().unwrap()
    }

    fn moved_tag(&mut self) -> Tag {
        TAGS[self.random.usize(0..2)].parse().unwrap()
    }

    fn locked_tag(&mut self) -> Tag {
        TAGS[self.random.usize(2..4)].parse().unwrap()
    }

    fn fresh_digest(&mut self) -> Digest {
        let mut pool = self.pool.lock().unwrap();
        pool.made += 1;
        Digest::sha256(&pool.made.to_be_bytes())
    }

    fn known(&mut self) -> Option<Image> {
        let pool = self.pool.lock().unwrap();
        // Mostly a recent one, so that clients meet.
        let last = pool.images.len().min(4);
        (last > 0).then(|| pool.images[pool.images.len() - 1 - self.random.usize(0..last)].clone())
    }

    /// A blob to one region, its manifest to the same one or another.
    async fn push(&mut self) {
        let (at, repository) = (self.anywhere(), self.repository());
        let image = Image { repository: repository.clone(), manifest: self.fresh_digest(), blob: self.fresh_digest() };
        let place = Place { origin: self.world.regions[at.0].origin(), key: Ulid::from_parts(1, self.random.u128(..)) };
        let content = if self.random.bool() { Content::Inline(Bytes::from_static(b"config")) } else { Content::Key(place) };
        if self.append(at, vec![Event::blob(image.blob, 6, content), Event::link(repository, image.blob)]).await.is_err() {
            return;
        }
        let (tag, elsewhere) = (self.moved_tag(), self.anywhere());
        let to = if self.random.u32(0..4) == 0 { elsewhere } else { at };
        if self.append(to, image.events(tag)).await.is_ok() {
            self.pool.lock().unwrap().images.push(image);
        }
    }

    async fn tag(&mut self) {
        let (at, tag) = (self.anywhere(), self.moved_tag());
        let Some(image) = self.known() else { return };
        let _ = self.append(at, image.events(tag)).await;
    }

    async fn untag(&mut self) {
        let (at, repository, tag) = (self.anywhere(), self.repository(), self.moved_tag());
        let _ = self.append(at, vec![Event::untag(repository, tag)]).await;
    }

    async fn delete(&mut self, kind: ContentKind) {
        let at = self.anywhere();
        let Some(image) = self.known() else { return };
        let digest = if kind == ContentKind::Manifest { image.manifest } else { image.blob };
        let _ = self.append(at, vec![Event::delete(image.repository, digest, kind)]).await;
    }

    /// Says once more what the tag stands for, so that a delete elsewhere that has not seen the lock takes nothing away.
    async fn lock(&mut self) {
        let (at, tag) = (self.anywhere(), self.locked_tag());
        let Some(image) = self.known() else { return };
        let mut events = image.events(tag.clone());
        events.push(Event::lock_tag(image.repository.clone(), tag, image.manifest, Attributes::LOCKED));
        let _ = self.append(at, events).await;
    }

    async fn move_locked(&mut self) {
        let (at, tag) = (self.anywhere(), self.locked_tag());
        let Some(image) = self.known() else { return };
        let events = if self.random.u32(0..4) == 0 { vec![Event::untag(image.repository, tag)] } else { image.events(tag) };
        let _ = self.append(at, events).await;
    }

    /// The region gets bytes of its own.
    async fn copy(&mut self) {
        let at = self.anywhere();
        let wanted = self.world.ledger(at).wanted(None, 4).unwrap();
        let Some(wanted) = wanted.into_iter().next() else { return };
        let place = Place { origin: self.world.regions[at.0].origin(), key: Ulid::from_parts(2, self.random.u128(..)) };
        let _ = self.append(at, vec![Event::Copy { digest: wanted.digest, size_bytes: wanted.size_bytes, place }]).await;
    }

    fn look(&mut self) {
        let at = self.anywhere();
        if is_trusted(&self.world, at.0) {
            check_servable(&self.world, at, &self.world.ledger(at));
        }
    }

    /// A node that starts asks the others what they have seen of its region, before it writes.
    fn ask_others(&self, at: (usize, usize)) {
        let must_ask = {
            let record = self.world.record.lock().unwrap();
            record.restored.is_some_and(|(region, _)| region == at.0) && !record.is_forked && !record.is_recovered
        };
        for other in (0..self.world.regions.len()).filter(|region| must_ask && *region != at.0) {
            self.world.ledger(at).compare_with(&imported(&self.world, other));
        }
    }

    pub async fn append(&mut self, at: (usize, usize), mut events: Vec<Event>) -> Result<(), AppendError> {
        let marker = {
            let mut record = self.world.record.lock().unwrap();
            record.numbered += 1;
            format!("append-{}", record.numbered)
        };
        // One record for each region, so that they do not become many.
        let mark = ControlRecord { name: format!("marks of {}", self.world.regions[at.0].name), content: Some(marker.as_str().into()) };
        events.insert(0, Event::Rule(mark));
        self.ask_others(at);
        let origin = self.world.regions[at.0].origin();
        let outcome = self.world.ledger(at).append(events.clone()).await;
        self.world.trace(format_args!("{marker} through edge-{} of {}: {outcome:?}", at.1, self.world.regions[at.0].name));
        let told = outcome.clone().map(|_| ());
        self.world.appended.tell();
        self.world.record.lock().unwrap().appends.push(Append { region: at.0, origin, marker, events, outcome });
        told
    }
}

/// What is visible at a node, at any time, has all that it needs.
pub(super) fn check_servable(world: &World, at: (usize, usize), ledger: &Ledger) {
    for repository in REPOSITORIES.map(|name| name.parse::<RepositoryName>().unwrap()) {
        for entry in ledger.tags(&repository, None, 100).unwrap() {
            let name = format!("{repository}:{} at edge-{} of {}", entry.tag, at.1, world.regions[at.0].name);
            let Some(manifest) = ledger.manifest(&repository, &entry.digest).unwrap() else {
                world.violation(format!("{name} has no manifest"));
                continue;
            };
            let is_there = |blob: &Digest| ledger.blob(&repository, blob).unwrap().is_some();
            if !manifest.facts.blobs.iter().all(is_there) {
                world.violation(format!("{name} has no blob"));
            }
        }
    }
}
