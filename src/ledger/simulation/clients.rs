//! Clients that push, tag, untag, delete, sweep and look, each through any node.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use super::super::event::{Content, ContentKind, Event, ManifestFacts};
use super::super::identity::{Origin, Place};
use super::super::{AppendError, Look};
use super::world::{Append, REGION, Shared, World};
use crate::bucket::testing::INCARNATION;
use crate::oci::{Digest, RepositoryName, Tag};

/// What clients know of each other: contents that somebody has pushed, and uploads that nobody has named.
#[derive(Default)]
pub(super) struct Pool {
    blobs: Vec<Digest>,
    manifests: Vec<Digest>,
    uploads: Vec<Place>,
    made: u64,
}

pub(super) struct Client {
    pub world: Shared,
    pub pool: std::sync::Arc<Mutex<Pool>>,
    pub random: fastrand::Rng,
    pub is_before_restore: bool,
}

impl Client {
    pub async fn run(mut self, rounds: u32) {
        for _ in 0..rounds {
            sleep(Duration::from_millis(self.random.u64(0..400))).await;
            match self.random.u32(0..20) {
                0..=5 => self.push().await,
                6..=8 => self.tag().await,
                9..=10 => self.untag().await,
                11 => self.tag_twice().await,
                12 => self.delete(ContentKind::Manifest).await,
                13 => self.delete(ContentKind::Blob).await,
                14 => self.upload().await,
                15..=16 => self.sweep().await,
                _ => self.look().await,
            }
        }
    }

    fn node(&mut self) -> usize {
        self.random.usize(0..self.world.nodes.len())
    }

    fn repository(&mut self) -> RepositoryName {
        ["app", "lib"][self.random.usize(0..2)].parse().unwrap()
    }

    fn tag_name(&mut self) -> Tag {
        ["a", "b"][self.random.usize(0..2)].parse().unwrap()
    }

    fn fresh_digest(&mut self) -> Digest {
        let mut pool = self.pool.lock().unwrap();
        pool.made += 1;
        Digest::sha256(&pool.made.to_be_bytes())
    }

    fn fresh_place(&mut self) -> Place {
        Place { origin: Origin::new(REGION, INCARNATION), key: Ulid::from_parts(1, self.random.u128(..)) }
    }

    fn known(&mut self, of: impl Fn(&Pool) -> &Vec<Digest>) -> Digest {
        let pool = self.pool.lock().unwrap();
        let known = of(&pool);
        // Mostly a recent one, so that clients meet.
        let last = known.len().min(4);
        if last == 0 { Digest::sha256(b"never pushed") } else { known[known.len() - 1 - self.random.usize(0..last)] }
    }

    /// A blob and its link, then a manifest that needs it and a tag: through two nodes, perhaps.
    async fn push(&mut self) {
        let (repository, blob, manifest) = (self.repository(), self.fresh_digest(), self.fresh_digest());
        let content = if self.random.bool() { Content::Inline(Bytes::from_static(b"config")) } else { Content::Key(self.fresh_place()) };
        let pushed = self.append(vec![Event::blob(blob, 6, content), Event::link(repository.clone(), blob)]).await;
        if pushed.is_err() && self.random.bool() {
            return;
        }
        self.pool.lock().unwrap().blobs.push(blob);
        let facts = ManifestFacts { media_type: "image".into(), size_bytes: 2, blobs: vec![blob], ..ManifestFacts::default() };
        let tag = self.tag_name();
        let events = vec![
            Event::manifest(repository.clone(), manifest, Content::Inline(Bytes::from_static(b"{}")), facts),
            Event::tag(repository, tag, manifest),
        ];
        let _ = self.append(events).await;
        self.pool.lock().unwrap().manifests.push(manifest);
    }

    async fn tag(&mut self) {
        let (repository, tag, digest) = (self.repository(), self.tag_name(), self.known(|pool| &pool.manifests));
        let _ = self.append(vec![Event::tag(repository, tag, digest)]).await;
    }

    async fn untag(&mut self) {
        let (repository, tag) = (self.repository(), self.tag_name());
        let _ = self.append(vec![Event::untag(repository, tag)]).await;
    }

    /// Two events on one name in one segment.
    async fn tag_twice(&mut self) {
        let (repository, tag) = (self.repository(), self.tag_name());
        let digests = [self.known(|pool| &pool.manifests), self.known(|pool| &pool.manifests)];
        let mut events: Vec<Event> = digests.map(|digest| Event::tag(repository.clone(), tag.clone(), digest)).into();
        if self.random.bool() {
            events.insert(1, Event::untag(repository, tag));
        }
        let _ = self.append(events).await;
    }

    async fn delete(&mut self, kind: ContentKind) {
        let repository = self.repository();
        let digest = match kind {
            ContentKind::Manifest => self.known(|pool| &pool.manifests),
            ContentKind::Blob => self.known(|pool| &pool.blobs),
        };
        let _ = self.append(vec![Event::delete(repository, digest, kind)]).await;
    }

    /// Bytes whose event comes late, so that a sweep may come first.
    async fn upload(&mut self) {
        let (place, digest, repository) = (self.fresh_place(), self.fresh_digest(), self.repository());
        self.pool.lock().unwrap().uploads.push(place.clone());
        sleep(Duration::from_millis(self.random.u64(0..2_000))).await;
        if self.append(vec![Event::blob(digest, 9, Content::Key(place))]).await.is_err() {
            return;
        }
        if self.append(vec![Event::link(repository, digest)]).await.is_ok() {
            self.pool.lock().unwrap().blobs.push(digest);
        }
    }

    async fn sweep(&mut self) {
        let Some(place) = self.pool.lock().unwrap().uploads.pop() else { return };
        let node = self.node();
        let ledger = self.world.ledger(node);
        if ledger.confirm(Look::Now).await.is_err() || ledger.is_named(place.key).unwrap() {
            return;
        }
        let _ = self.append(vec![Event::Abandon { places: vec![place] }]).await;
    }

    /// Some looks through one node, one shortly after the other.
    async fn look(&mut self) {
        let node = self.node();
        let looks = (0..3).map(|_| {
            let pause = Duration::from_millis(self.random.u64(0..150));
            (pause, if self.random.u32(0..3) > 0 { Look::Now } else { Look::Recent })
        });
        let looks: Vec<_> = looks.map(|(pause, how)| look_through(&self.world, node, (pause, how))).collect();
        join_all(looks).await;
    }

    /// Appends through any node, and records what the caller was told.
    pub async fn append(&mut self, events: Vec<Event>) -> Result<(), AppendError> {
        let node = self.node();
        self.append_through(node, events).await
    }

    pub async fn append_through(&mut self, node: usize, mut events: Vec<Event>) -> Result<(), AppendError> {
        let (marker, from) = {
            let mut record = self.world.record.lock().unwrap();
            record.numbered += 1;
            (format!("append-{}", record.numbered), record.acknowledged())
        };
        // Of a kind that is folded: others are never trimmed.
        events.insert(0, Event::forwarded("marks".parse().unwrap(), None, Digest::sha256(marker.as_bytes()), &marker));
        let ledger = self.world.ledger(node);
        let outcome = ledger.append(events.clone()).await;
        self.world.trace(format_args!("{marker} through edge-{node}: {outcome:?}"));
        let until = self.world.segments();
        let told = outcome.clone().map(|_| ());
        let others: Vec<usize> = (0..self.world.nodes.len()).filter(|other| *other != node && self.random.u32(0..4) == 0).collect();
        let is_before_restore = self.is_before_restore;
        self.world.record(Append { marker, events, from, until, outcome, is_before_restore });
        // Whoever hears of it looks for it elsewhere.
        if told.is_ok() {
            join_all(others.into_iter().map(|other| look_through(&self.world, other, (Duration::ZERO, Look::Now)))).await;
        }
        told
    }
}

/// A look must show what was acknowledged before it.
async fn look_through(world: &World, node: usize, (pause, how): (Duration, Look)) {
    sleep(pause).await;
    let (ledger, called) = (world.ledger(node), Instant::now());
    let since = if how == Look::Now { called } else { called.checked_sub(Duration::from_millis(250)).unwrap_or(called) };
    let must = world.record.lock().unwrap().acknowledged_at(since);
    let confirmed = ledger.confirm(how).await;
    let seq = ledger.position().unwrap().seq;
    world.trace(format_args!("look {how:?} through edge-{node}: {confirmed:?} {seq}"));
    if confirmed.is_ok() && seq < must {
        world.violation(format!("a look through edge-{node} showed {seq}, though {must} was acknowledged before"));
    }
    if called.elapsed() > Duration::from_secs(3) {
        world.violation("a look took more than its time".to_owned());
    }
}
