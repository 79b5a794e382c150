//! Images that are kept here by the configuration: from time to time each is resolved, and what is missing is fetched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{Names, Prefetched, Registry};
use crate::cache::CacheError;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::metrics::Metrics;
use crate::oci::{Image, Reference, RepositoryName};

/// Images that are fetched at one time; what one image needs at a time is for its upstream to bound.
const AT_ONCE: usize = 2;
/// After a failure: the first pause, doubled each time up to the list's interval.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// So much of an interval is random, so that edges do not come in step.
const JITTER: f64 = 0.1;
/// The first round of each image is spread over so long.
const SPREAD: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3_600);

/// Keeps images here, in the background. Cloning is cheap; dropping the last clone ends it.
#[derive(Clone)]
pub struct Watched(Arc<Tasks>);

struct Tasks {
    inner: Arc<Inner>,
    running: AbortHandle,
}

struct Inner {
    registry: Registry,
    images: Mutex<Vec<Entry>>,
    changed: Notify,
    clock: Clock,
    metrics: Metrics,
}

/// An image of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wanted {
    repository: RepositoryName,
    reference: Reference,
    platform: Option<String>,
    every: Duration,
}

#[derive(Clone, Debug)]
struct Entry {
    /// As the configuration has it.
    text: String,
    wanted: Wanted,
    due: Instant,
    is_running: bool,
    failures: u32,
    since: Timestamp,
    held: Option<(Timestamp, Prefetched)>,
    error: Option<String>,
}

/// How an image stands, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchedImage {
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub every_ms: u64,
    /// When it was last seen to be here whole, and what it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub held: Option<Prefetched>,
    pub failures: u32,
    /// Why the last round failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Watched {
    /// Begins at once.
    pub fn start(registry: Registry, lists: &[config::Prefetch], names: &Names, clock: Clock, metrics: Metrics) -> Watched {
        let inner = Arc::new(Inner { registry, images: Mutex::default(), changed: Notify::new(), clock, metrics });
        let running = tokio::spawn(keep(inner.clone())).abort_handle();
        let watched = Watched(Arc::new(Tasks { inner, running }));
        watched.replace(lists, names);
        watched
    }

    /// From now on these are the images. One that was there before keeps its turn.
    pub fn replace(&self, lists: &[config::Prefetch], names: &Names) {
        let inner = &self.0.inner;
        {
            let mut images = inner.images();
            let earlier: HashMap<Wanted, Entry> = images.drain(..).map(|entry| (entry.wanted.clone(), entry)).collect();
            for (text, wanted) in lists.iter().flat_map(|list| wanted(list, names)) {
                if images.iter().all(|entry| entry.wanted != wanted) {
                    let entry = earlier.get(&wanted).cloned();
                    images.push(entry.unwrap_or_else(|| Entry::new(text, wanted, Instant::now(), inner.clock.now())));
                }
            }
        }
        inner.changed.notify_one();
    }

    /// The images of repositories that `readable` allows, in the order of the configuration.
    pub fn shown(&self, readable: impl Fn(&RepositoryName) -> bool) -> Vec<WatchedImage> {
        let images = self.0.inner.images();
        images.iter().filter(|entry| readable(&entry.wanted.repository)).map(Entry::shown).collect()
    }

    /// Brings the gauges up to date, before they are read.
    pub fn report(&self) {
        let inner = &self.0.inner;
        let (count, oldest) = {
            let images = inner.images();
            (images.len(), images.iter().map(Entry::seen_at).min())
        };
        inner.metrics.watched(count, oldest.map_or(Duration::ZERO, |at| inner.clock.now().since(at)));
    }

    /// Ends what is on its way.
    pub fn stop(&self) {
        self.0.running.abort();
    }
}

/// The images of a list. The configuration has judged them; an upstream that is gone has none.
fn wanted(list: &config::Prefetch, names: &Names) -> Vec<(String, Wanted)> {
    let resolved = list.images.iter().filter_map(|text| {
        let image: Image = text.parse().ok()?;
        let repository = names.of_image(&image).ok()?;
        let (platform, every) = (list.platform.clone(), list.every);
        Some((text.clone(), Wanted { repository, reference: image.reference, platform, every }))
    });
    resolved.collect()
}

impl Entry {
    fn new(text: String, wanted: Wanted, now: Instant, since: Timestamp) -> Entry {
        let due = now + SPREAD.min(wanted.every).mul_f64(fastrand::f64());
        Entry { text, wanted, due, is_running: false, failures: 0, since, held: None, error: None }
    }

    /// When it was last seen to be here whole, or first wanted.
    fn seen_at(&self) -> Timestamp {
        self.held.map_or(self.since, |(at, _)| at)
    }

    /// A round has ended. `chance` is of 1.
    fn settle(&mut self, outcome: Result<Prefetched, CacheError>, (now, at): (Instant, Timestamp), chance: f64) {
        self.is_running = false;
        let every = self.wanted.every;
        let pause = match outcome {
            Ok(held) => {
                (self.held, self.failures, self.error) = (Some((at, held)), 0, None);
                every
            }
            Err(error) => {
                (self.failures, self.error) = (self.failures.saturating_add(1), Some(error.to_string()));
                FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(every)
            }
        };
        self.due = now + pause.mul_f64(1.0 - JITTER + JITTER * chance);
    }

    fn shown(&self) -> WatchedImage {
        let Entry { text, wanted, held, failures, error, .. } = self;
        WatchedImage {
            image: text.clone(),
            platform: wanted.platform.clone(),
            every_ms: u64::try_from(wanted.every.as_millis()).unwrap_or(u64::MAX),
            held_ms: held.map(|(at, _)| at.as_ms()),
            held: held.map(|(_, held)| held),
            failures: *failures,
            error: error.clone(),
        }
    }
}

impl Inner {
    fn images(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is due for the longest time; it is on its way from now on.
    fn take(&self, now: Instant) -> Option<Wanted> {
        let mut images = self.images();
        let due = images.iter_mut().filter(|entry| !entry.is_running && entry.due <= now).min_by_key(|entry| entry.due)?;
        due.is_running = true;
        Some(due.wanted.clone())
    }

    fn next_due(&self) -> Option<Instant> {
        self.images().iter().filter(|entry| !entry.is_running).map(|entry| entry.due).min()
    }

    fn settle(&self, wanted: &Wanted, outcome: Result<Prefetched, CacheError>) {
        let (repository, reference) = (&wanted.repository, &wanted.reference);
        self.metrics.watched_prefetch(if outcome.is_ok() { "held" } else { "failed" });
        match &outcome {
            Ok(Prefetched { blobs, bytes, .. }) => tracing::debug!(%repository, %reference, blobs, bytes, "an image is here"),
            Err(error) => tracing::warn!(%repository, %reference, %error, "an image that shall be kept here could not be fetched"),
        }
        // A list that was replaced meanwhile may not have it any more.
        if let Some(entry) = self.images().iter_mut().find(|entry| entry.wanted == *wanted) {
            entry.settle(outcome, (Instant::now(), self.clock.now()), fastrand::f64());
        }
    }
}

async fn keep(inner: Arc<Inner>) {
    // Dropped with this task, and with it all that is on its way.
    let (mut running, mut wanted) = (JoinSet::new(), HashMap::<Id, Wanted>::new());
    loop {
        while running.len() < AT_ONCE {
            let Some(next) = inner.take(Instant::now()) else { break };
            let (registry, image) = (inner.registry.clone(), next.clone());
            let task = running
                .spawn(async move { registry.prefetch_watched(&image.repository, &image.reference, image.platform.as_deref()).await });
            wanted.insert(task.id(), next);
        }
        let next = inner.next_due().filter(|_| running.len() < AT_ONCE).unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = inner.changed.notified() => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => {
                        let why = "it broke off".to_owned();
                        (error.id(), Err(CacheError::Unavailable { why, retry_after: None }))
                    }
                };
                if let Some(image) = wanted.remove(&id) {
                    inner.settle(&image, outcome);
                }
            }
            () = sleep_until(next) => {}
        }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("images", &self.0.inner.images().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(every: u64) -> Entry {
        let wanted = Wanted {
            repository: "docker.io/library/alpine".parse().unwrap(),
            reference: "docker.io/library/alpine:3".parse::<Image>().unwrap().reference,
            platform: None,
            every: Duration::from_secs(every),
        };
        Entry::new("docker.io/library/alpine:3".to_owned(), wanted, Instant::now(), Timestamp::from_ms(1_000))
    }

    #[test]
    fn failures_back_off_up_to_the_interval_and_a_success_ends_them() {
        let (mut entry, now) = (entry(60), Instant::now());
        let failed = || Err(CacheError::Unavailable { why: "no route".to_owned(), retry_after: None });
        for seconds in [10, 20, 40, 60, 60] {
            entry.settle(failed(), (now, Timestamp::from_ms(2_000)), 1.0);
            assert_eq!(entry.due, now + Duration::from_secs(seconds));
        }
        assert_eq!((entry.seen_at().as_ms(), entry.shown().failures), (1_000, 5));
        assert!(entry.shown().error.is_some_and(|error| error.contains("no route")));
        let held = Prefetched { manifests: 1, blobs: 2, bytes: 3 };
        entry.settle(Ok(held), (now, Timestamp::from_ms(3_000)), 0.0);
        assert_eq!((entry.due, entry.seen_at().as_ms()), (now + Duration::from_secs(54), 3_000));
        let shown = serde_json::to_value(entry.shown()).unwrap();
        assert_eq!((shown["blobs"].as_u64(), shown.get("error"), shown["held_ms"].as_u64()), (Some(2), None, Some(3_000)));
    }
}
