//! What upstreams were spared: for each, what clients got and what it was asked for, since this edge started and in the last day.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::clock::{Clock, Timestamp};
use crate::metrics::{Metrics, UpstreamFigures};

const DAY: Duration = Duration::from_secs(86_400);
/// Between two samples: the last day is told as exactly as this.
const SAMPLE_EVERY: Duration = Duration::from_secs(900);
/// A day, and the sample before it.
const MAX_SAMPLES: usize = 97;

/// Counts in the background. Cloning is cheap; dropping the last clone ends it.
#[derive(Clone, Debug)]
pub struct Offload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    clock: Clock,
    samples: Arc<Mutex<Samples>>,
    sampling: AbortHandle,
}

/// The figures as they were at moments.
#[derive(Debug)]
struct Samples(VecDeque<(Timestamp, BTreeMap<String, UpstreamFigures>)>);

/// What an upstream was spared in a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spared {
    /// What clients asked for and got.
    pub requests: u64,
    pub bytes: u64,
    /// What the upstream was asked for, and sent.
    pub upstream_requests: u64,
    pub upstream_bytes: u64,
    pub saved_requests: u64,
    pub saved_bytes: u64,
    /// The share of requests that were answered with what was here; nothing where there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit_ratio: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamOffload {
    pub upstream: String,
    pub since_start: Spared,
    pub last_day: Spared,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub started_ms: u64,
    /// Where the last day begins: later than a day ago while this edge is younger.
    pub day_since_ms: u64,
    pub upstreams: Vec<UpstreamOffload>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

impl Offload {
    /// From now on.
    pub fn start(metrics: Metrics, clock: Clock) -> Offload {
        // An edge that starts again in the same process goes on counting.
        let samples = Arc::new(Mutex::new(Samples(VecDeque::from([(clock.now(), metrics.upstream_figures())]))));
        let sampling = {
            let (metrics, clock, samples) = (metrics.clone(), clock.clone(), samples.clone());
            tokio::spawn(async move {
                loop {
                    sleep(SAMPLE_EVERY).await;
                    samples.lock().unwrap_or_else(PoisonError::into_inner).take(clock.now(), metrics.upstream_figures());
                }
            })
        };
        Offload(Arc::new(Inner { metrics, clock, samples, sampling: sampling.abort_handle() }))
    }

    /// What these upstreams were spared.
    pub fn report<'a>(&self, upstreams: impl Iterator<Item = &'a str>) -> Report {
        let (now, figures) = (self.0.clock.now(), self.0.metrics.upstream_figures());
        let samples = self.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.report(upstreams, now, &figures)
    }
}

impl Samples {
    fn take(&mut self, now: Timestamp, figures: BTreeMap<String, UpstreamFigures>) {
        self.0.push_back((now, figures));
        // The first is where this edge started.
        while self.0.len() > MAX_SAMPLES + 1 {
            self.0.remove(1);
        }
    }

    fn report<'a>(&self, upstreams: impl Iterator<Item = &'a str>, now: Timestamp, figures: &BTreeMap<String, UpstreamFigures>) -> Report {
        let none = (now, BTreeMap::new());
        let start = self.0.front().unwrap_or(&none);
        let day = self.0.iter().rev().find(|(at, _)| now.since(*at) >= DAY).unwrap_or(start);
        let of = |figures: &BTreeMap<String, UpstreamFigures>, name: &str| figures.get(name).copied().unwrap_or_default();
        let offload = |name: &str| UpstreamOffload {
            upstream: name.to_owned(),
            since_start: spared(of(figures, name), of(&start.1, name)),
            last_day: spared(of(figures, name), of(&day.1, name)),
        };
        Report { started_ms: start.0.as_ms(), day_since_ms: day.0.as_ms(), upstreams: upstreams.map(offload).collect() }
    }
}

fn spared(now: UpstreamFigures, before: UpstreamFigures) -> Spared {
    let requests = now.requests - before.requests;
    let (bytes, upstream_bytes) = (now.bytes - before.bytes, now.upstream_bytes - before.upstream_bytes);
    let upstream_requests = now.upstream_requests - before.upstream_requests;
    let hits = now.hits - before.hits;
    Spared {
        requests,
        bytes,
        upstream_requests,
        upstream_bytes,
        // What is fetched ahead, or for nobody, may be more than clients asked for.
        saved_requests: requests.saturating_sub(upstream_requests),
        saved_bytes: bytes.saturating_sub(upstream_bytes),
        hit_ratio: (requests > 0).then(|| hits as f64 / requests as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(times: u64) -> BTreeMap<String, UpstreamFigures> {
        let figures = UpstreamFigures {
            requests: 10 * times,
            hits: 9 * times,
            bytes: 1_000 * times,
            upstream_requests: times,
            upstream_bytes: 100 * times,
        };
        BTreeMap::from([("a.test".to_owned(), figures)])
    }

    #[test]
    fn the_last_day_is_told_apart_from_what_was_before() {
        let at = |sample: u64| Timestamp::default().plus(SAMPLE_EVERY * u32::try_from(sample).unwrap());
        let mut samples = Samples(VecDeque::from([(at(0), BTreeMap::new())]));
        (1..=300).for_each(|sample| samples.take(at(sample), figures(sample)));
        assert_eq!(samples.0.len(), MAX_SAMPLES + 1);
        let report = samples.report(["a.test", "b.test"].into_iter(), at(300), &figures(300));
        assert_eq!((report.started_ms, report.day_since_ms), (0, at(204).as_ms()));
        let a = &report.upstreams[0];
        assert_eq!((a.since_start.requests, a.since_start.saved_requests, a.since_start.saved_bytes), (3_000, 2_700, 270_000));
        assert_eq!((a.last_day.requests, a.last_day.saved_requests, a.last_day.hit_ratio), (960, 864, Some(0.9)));
        assert_eq!((report.upstreams[1].since_start.requests, report.upstreams[1].since_start.hit_ratio), (0, None));
    }

    #[test]
    fn a_young_edge_has_no_day_behind_it() {
        let samples = Samples(VecDeque::from([(Timestamp::from_ms(5_000), BTreeMap::new())]));
        let report = samples.report(["a.test"].into_iter(), Timestamp::from_ms(9_000), &figures(1));
        assert_eq!((report.started_ms, report.day_since_ms), (5_000, 5_000));
        assert_eq!(report.upstreams[0].last_day, report.upstreams[0].since_start);
        // More than anybody asked for was fetched.
        let ahead = UpstreamFigures { upstream_bytes: 7, upstream_requests: 2, requests: 1, bytes: 1, hits: 0 };
        let spared = spared(ahead, UpstreamFigures::default());
        assert_eq!((spared.saved_requests, spared.saved_bytes), (0, 0));
    }
}
