//! Logs, traces and metrics for a collector: OpenTelemetry's protocol (OTLP 1.x, <https://opentelemetry.io/docs/specs/otlp/>) over HTTP, in
//! protobuf.
//!
//! ```text
//! lines       what the log leaves here       message     what is sent, in the protocol's own types
//! collector   one request, and its retries
//! ```
//! Nothing waits for the collector. Spans and lines go into a bounded queue each, metrics are read at an interval; for each of the three one
//! task sends, one request at a time. While the collector hangs, refuses or is away, a request is tried again for a while, the queues
//! fill, and what comes then is dropped and counted in `outport_otlp_dropped_total`. That something is wrong is logged once until it is
//! well again, and what this room logs, or is logged for what it does, is never exported.
//!
//! The messages are the protocol's own, generated (`opentelemetry-proto`); the way out is `dial`, with its resolver, address policy, TLS
//! and proxies. OpenTelemetry's SDK is not used: its providers and propagators are global, and several edges run in one process.

mod collector;
mod lines;
mod message;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use collector::{Collector, Parcel};
pub use lines::{Line, Lines};

use crate::clock::Clock;
use crate::config::{self, Signal};
use crate::dial::{DialError, Outside};
use crate::metrics::Metrics;
use crate::trace::{Span, Tracer};

/// Spans or lines in one request, at most.
const MAX_BATCH: usize = 512;
/// How long spans or lines gather before they are sent, unless so many are there before.
const GATHER: Duration = Duration::from_secs(1);
/// How long gauges may take to be brought up to date.
const REFRESH_TIME: Duration = Duration::from_secs(5);
/// How long an edge that ends waits for what it has still to send.
const CLOSE_TIME: Duration = Duration::from_secs(2);

tokio::task_local! {
    /// Set in tasks that export. (The key of a task-local holds nothing itself.)
    static EXPORTING: ();
}

/// Brings gauges up to date before they are read.
pub type Refresh = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Who exports.
#[derive(Clone, Debug)]
pub struct Identity {
    pub region: String,
    /// This process's own.
    pub node: String,
}

/// The exporter of one edge. Dropping it ends the exporting, with what waits.
#[derive(Default)]
pub struct Otlp {
    tracer: Tracer,
    exporting: Option<Exporting>,
}

struct Exporting {
    settings: config::Otlp,
    collector: Arc<Collector>,
    resource: Resource,
    clock: Clock,
    metrics: Metrics,
    closing: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

/// Whether the task at hand exports: what is logged then is not exported itself.
pub fn is_exporting() -> bool {
    EXPORTING.try_with(|()| ()).is_ok()
}

impl Otlp {
    /// Begins to send traces, where the configuration says so.
    ///
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn start(settings: Option<&config::Otlp>, identity: &Identity, outside: Outside) -> Result<Otlp, DialError> {
        let Some(settings) = settings else { return Ok(Otlp::default()) };
        let Outside { resolver, proxies, clock, metrics } = outside;
        let closing = watch::Sender::new(false);
        let collector = Arc::new(Collector::new(settings, (resolver, proxies), metrics.clone(), closing.subscribe())?);
        let resource = message::resource(identity);
        let exporting = Exporting { settings: settings.clone(), collector, resource, clock, metrics, closing, tasks: Mutex::default() };
        let tracer = exporting.traces();
        Ok(Otlp { tracer, exporting: Some(exporting) })
    }

    /// Begins the parts of requests.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Begins to send metrics, where the configuration says so.
    pub fn send_metrics(&self, refresh: Refresh) {
        if let Some(exporting) = self.wanted(Signal::Metrics) {
            exporting.metrics(refresh);
        }
    }

    /// Begins to send what comes there, where the configuration says so; from another exporter that does so it takes over when that ends.
    pub fn send_lines(&self, lines: &Lines) {
        if let Some(exporting) = self.wanted(Signal::Logs) {
            exporting.lines(lines);
        }
    }

    fn wanted(&self, signal: Signal) -> Option<&Exporting> {
        self.exporting.as_ref().filter(|exporting| exporting.settings.sends(signal))
    }

    /// Sends what waits, if the collector takes it at once, and ends.
    pub async fn close(self) {
        let Some(exporting) = self.exporting else { return };
        exporting.closing.send_replace(true);
        let mut tasks = exporting.tasks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = timeout(CLOSE_TIME, async { while tasks.join_next().await.is_some() {} }).await;
    }
}

impl Exporting {
    fn traces(&self) -> Tracer {
        if !self.settings.sends(Signal::Traces) {
            return Tracer::off();
        }
        let (tracer, spans) = Tracer::new(self.settings.sample.fraction(), self.settings.queue, self.clock.clone(), self.metrics.clone());
        let (resource, batches) = (self.resource.clone(), self.batches(Signal::Traces));
        let pack = move |spans: Vec<Span>| message::traces(&resource, spans).encode_to_vec();
        self.spawn(async move {
            let mut spans = spans;
            batches.send_all(&mut spans, pack).await;
        });
        tracer
    }

    fn lines(&self, lines: &Lines) {
        let (resource, batches, waiting) = (self.resource.clone(), self.batches(Signal::Logs), lines.waiting());
        let pack = move |lines: Vec<Line>| message::logs(&resource, lines).encode_to_vec();
        self.spawn(async move {
            let mut waiting = waiting.lock_owned().await;
            batches.send_all(&mut waiting, pack).await;
        });
    }

    fn metrics(&self, refresh: Refresh) {
        let (collector, mut closing, every) = (self.collector.clone(), self.closing.subscribe(), self.settings.interval);
        let (resource, metrics, clock) = (self.resource.clone(), self.metrics.clone(), self.clock.clone());
        self.spawn(async move {
            let mut turns = interval(every);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let is_last = tokio::select! {
                    _ = turns.tick() => false,
                    _ = closing.wait_for(|closing| *closing) => true,
                };
                let _ = timeout(REFRESH_TIME, refresh()).await;
                let (message, count) = message::metrics(&resource, &metrics.read(), clock.now_ns());
                let parcel = Parcel::new(Signal::Metrics, count, &message.encode_to_vec());
                // What is read next says the same and more.
                if timeout(every, collector.deliver(&parcel)).await.is_err() {
                    collector.dropped(&parcel, "attempts");
                }
                if is_last {
                    return;
                }
            }
        });
    }

    fn batches(&self, signal: Signal) -> Batches {
        Batches { signal, collector: self.collector.clone(), closing: self.closing.subscribe() }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(EXPORTING.scope((), work));
    }
}

/// Sends what waits in a queue, one batch after the other.
struct Batches {
    signal: Signal,
    collector: Arc<Collector>,
    closing: watch::Receiver<bool>,
}

impl Batches {
    /// Returns when nothing can come any more, or with the edge's end, once the queue is empty.
    async fn send_all<T: Send + 'static>(
        mut self,
        waiting: &mut mpsc::Receiver<T>,
        pack: impl Fn(Vec<T>) -> Vec<u8> + Clone + Send + 'static,
    ) {
        while let Some(batch) = self.next(waiting).await {
            let (signal, count, pack) = (self.signal, batch.len(), pack.clone());
            // A large batch takes a few milliseconds, in which requests are not to wait.
            let packed = spawn_blocking(move || Parcel::new(signal, count, &pack(batch))).await;
            if let Ok(parcel) = packed {
                self.collector.deliver(&parcel).await;
            }
        }
    }

    async fn next<T>(&mut self, waiting: &mut mpsc::Receiver<T>) -> Option<Vec<T>> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            _ = waiting.recv_many(&mut batch, MAX_BATCH) => {}
            // It is empty.
            _ = self.closing.wait_for(|closing| *closing) => {}
        }
        let until = Instant::now() + GATHER;
        while !batch.is_empty() && batch.len() < MAX_BATCH {
            let more = MAX_BATCH - batch.len();
            tokio::select! {
                biased;
                count = waiting.recv_many(&mut batch, more) => if count == 0 { break },
                () = sleep_until(until) => break,
                _ = self.closing.wait_for(|closing| *closing) => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

#[cfg(test)]
mod tests;
