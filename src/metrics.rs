//! All metrics of an edge: the only module that knows the `prometheus` crate.
//!
//! Names have the prefix `outport_` and base units (seconds, bytes). Labels are bounded: routes, sources and outcomes are fixed
//! words, upstreams come from the configuration. A repository, tag, digest or address is never a label.

mod reading;

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::core::{Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use reading::{Distribution, Family, Point, Points};

/// Seconds, from a warm manifest to a large cold blob.
const TIME_BUCKETS_S: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The metrics of one edge, in a registry of its own. Cloning is cheap: all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

/// Where answers of one kind are counted.
#[derive(Debug)]
struct Answers {
    count: IntCounter,
    bytes: IntCounter,
    first_byte_seconds: Histogram,
    seconds: Histogram,
}

/// Where what clients got of an upstream's is counted, from one source.
#[derive(Debug)]
struct Proxied {
    upstream: Box<str>,
    source: &'static str,
    requests: IntCounter,
    bytes: IntCounter,
}

/// What is counted of one record. Cloning is cheap: all clones count together.
#[derive(Clone, Debug)]
pub struct Recorded {
    written: IntCounter,
    dropped: IntCounterVec,
    shipments: IntCounterVec,
    shipped_bytes: IntCounter,
    removed: IntCounter,
    waiting_bytes: IntGauge,
    oldest_unshipped_seconds: IntGauge,
}

/// What is counted.
#[derive(Debug)]
pub struct Families {
    registry: Registry,
    /// Of each kind of answer that there was, by the addresses of its words and its status: each request looks here once, and not in
    /// every family by all its words. As bounded as those words are.
    answers: RwLock<HashMap<(usize, usize, u16), Answers, foldhash::fast::RandomState>>,
    /// The same for upstreams, of which there are few.
    proxied: RwLock<Vec<Proxied>>,
    requests: IntCounterVec,
    response_bytes: IntCounterVec,
    first_byte_seconds: HistogramVec,
    request_seconds: HistogramVec,
    /// Client connections that are open.
    pub connections: IntGauge,
    /// Connections ended by the server for a reason: header_timeout, idle, slow_body, slow_reader,
    /// request_timeout, flood, malformed.
    connections_refused: IntCounterVec,
    /// By what came of it: each request counts here.
    authentications: [(&'static str, IntCounter); 3],
    identity_providers: IntCounterVec,
    password_checks: IntCounterVec,
    limited: IntCounterVec,
    /// Upstream transfers of blobs under way.
    pub fills_in_flight: IntGauge,
    /// Clients that stream from a transfer under way.
    pub fill_waiters: IntGauge,
    /// Transfers taken up again with a Range request after a break.
    pub fills_resumed: IntCounter,
    fills: IntCounterVec,
    prefetched: IntCounter,
    upstream_requests: IntCounterVec,
    upstream_seconds: HistogramVec,
    upstream_bytes: IntCounterVec,
    upstream_breaker_open: IntGaugeVec,
    upstream_rate_limit_remaining: IntGaugeVec,
    upstream_retries: IntCounterVec,
    dns_lookups: IntCounterVec,
    cache_bytes: IntGaugeVec,
    cache_limit_bytes: IntGaugeVec,
    cache_entries: IntGaugeVec,
    cache_evictions: IntCounterVec,
    cache_corrupt: IntCounter,
    /// 1 while the cache's disk takes no writes and blobs pass through uncached.
    pub disk_unwritable: IntGauge,
    disk_bytes: IntGauge,
    disk_free_bytes: IntGauge,
    /// 1 while this edge says that it can serve.
    pub ready: IntGauge,
    /// 1 while the region's bucket is open.
    pub region_open: IntGauge,
    /// 1 while this region takes no pushes.
    pub ledger_fenced: IntGauge,
    build_info: IntGaugeVec,
    peer_visible: IntGaugeVec,
    stale_answers: IntCounterVec,
    bucket_requests: IntCounterVec,
    bucket_seconds: HistogramVec,
    bucket_bytes: IntCounterVec,
    peer_bucket_requests: IntCounterVec,
    peer_bucket_bytes: IntCounterVec,
    /// How far the bucket's clock is ahead of this edge's, in seconds, as the last opening saw it.
    pub bucket_clock_ahead: IntGauge,
    /// Upload sessions that are open on this node.
    pub uploads_open: IntGauge,
    uploads: IntCounterVec,
    config_reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    /// Log lines that were dropped because the sink was full.
    pub log_dropped: IntCounter,
    /// Answers to heads that came before.
    pub repeated: IntCounter,
    ledger_position: IntGauge,
    ledger_appends: IntCounterVec,
    ledger_append_seconds: HistogramVec,
    ledger_attempts: IntCounterVec,
    import_attempts: IntCounterVec,
    ledger_folded: IntCounter,
    ledger_fold_seconds: HistogramVec,
    ledger_rebuilds: IntCounterVec,
    ledger_snapshots: IntCounterVec,
    ledger_trimmed: IntCounterVec,
    tail_looks: IntCounterVec,
    forward_pending: IntGauge,
    forward_oldest_seconds: IntGauge,
    forwards: IntCounterVec,
    sibling_requests: IntCounterVec,
    peer_requests: IntCounterVec,
    peer_bytes: IntCounterVec,
    peer_behind_events: IntGaugeVec,
    peer_behind_seconds: GaugeVec,
    peer_refused: IntCounterVec,
    region_questions: IntCounterVec,
    visible_lag_seconds: HistogramVec,
    oldest_unreplicated_push_seconds: GaugeVec,
    tag_conflicts: IntGauge,
    copies: IntCounterVec,
    copied_bytes: IntCounterVec,
    copies_pending: IntGauge,
    copies_pending_bytes: IntGauge,
    pub audit: Recorded,
    pub central_log: Recorded,
    webhook_deliveries: IntCounterVec,
    webhook_dropped: IntCounterVec,
    webhook_waiting: IntGaugeVec,
    webhook_oldest_seconds: IntGaugeVec,
    watched_prefetches: IntCounterVec,
    watched_images: IntGauge,
    watched_oldest_seconds: IntGauge,
    proxied_requests: IntCounterVec,
    proxied_bytes: IntCounterVec,
    otlp_sent: IntCounterVec,
    otlp_dropped: IntCounterVec,
    otlp_requests: IntCounterVec,
}

/// What clients got of an upstream's content, and what the upstream was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamFigures {
    pub requests: u64,
    /// Those that were answered with what was here already.
    pub hits: u64,
    pub bytes: u64,
    pub upstream_requests: u64,
    pub upstream_bytes: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// Registers metrics as they are built; a name given twice is a mistake in this file.
struct Builder(Registry);

impl Builder {
    fn keep<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("the names and labels in this file are valid");
        self.0.register(Box::new(collector.clone())).expect("each name stands once in this file");
        collector
    }

    fn counter<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericCounter<P> {
        self.keep(GenericCounter::new(name, help))
    }

    fn counters<P: Atomic + 'static>(&self, name: &str, help: &str, labels: &[&str]) -> GenericCounterVec<P> {
        self.keep(GenericCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericGauge<P> {
        self.keep(GenericGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.keep(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn times(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(TIME_BUCKETS_S.to_vec()), labels))
    }
}

/// The counters for each word that a label can be, so that nobody looks for them.
fn each_word<const N: usize>(counters: &IntCounterVec, words: [&'static str; N]) -> [(&'static str, IntCounter); N] {
    words.map(|word| (word, counters.with_label_values(&[word])))
}

impl Recorded {
    /// Entries reached the disk.
    pub fn written(&self, count: u64) {
        self.written.inc_by(count);
    }

    /// `reason` is `queue` (too many at once), `disk` (it takes no writes) or `space` (the bucket took nothing for too long).
    pub fn dropped(&self, reason: &'static str, count: u64) {
        self.dropped.with_label_values(&[reason]).inc_by(count);
    }

    /// `outcome` is `shipped` or `failed`.
    pub fn shipment(&self, outcome: &'static str, bytes: u64) {
        self.shipments.with_label_values(&[outcome]).inc();
        self.shipped_bytes.inc_by(bytes);
    }

    pub fn removed(&self, files: u64) {
        self.removed.inc_by(files);
    }

    /// What is not in the bucket yet.
    pub fn waiting(&self, bytes: u64, oldest: Duration) {
        self.waiting_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.oldest_unshipped_seconds.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let build = Builder(Registry::new());
        let registry = build.0.clone();
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("nothing else has the process metrics' names");
        Metrics(Arc::new(Families {
            answers: RwLock::default(),
            proxied: RwLock::default(),
            requests: build.counters("outport_requests_total", "Requests answered.", &["route", "source", "status"]),
            response_bytes: build.counters("outport_response_bytes_total", "Bytes of bodies sent to clients.", &["route", "source"]),
            first_byte_seconds: build.times(
                "outport_first_byte_seconds",
                "Time from a request's head to the answer's.",
                &["route", "source"],
            ),
            request_seconds: build.times(
                "outport_request_seconds",
                "Time from a request's head to the end of its answer.",
                &["route", "source"],
            ),
            connections: build.gauge("outport_connections", "Client connections that are open."),
            connections_refused: build.counters(
                "outport_connections_refused_total",
                "Connections that the server ended, by reason.",
                &["reason"],
            ),
            authentications: each_word(
                &build.counters("outport_authentications_total", "Requests by how their caller was authenticated.", &["outcome"]),
                ["anonymous", "accepted", "refused"],
            ),
            identity_providers: build.counters(
                "outport_identity_provider_fetches_total",
                "Attempts to fetch the keys of identity providers.",
                &["outcome"],
            ),
            password_checks: build.counters(
                "outport_password_checks_total",
                "Passwords of principals made at run time, and attempts that were not looked at, by what was done.",
                &["outcome"],
            ),
            limited: build.counters(
                "outport_limited_total",
                "Requests refused, and pauses of bodies, because a client takes more than its share; by what it takes.",
                &["what"],
            ),
            fills_in_flight: build.gauge("outport_fills_in_flight", "Blob transfers from upstreams under way."),
            fill_waiters: build.gauge("outport_fill_waiters", "Clients that stream from a transfer under way."),
            fills_resumed: build.counter("outport_fills_resumed_total", "Transfers taken up again with a Range request after a break."),
            fills: build.counters("outport_fills_total", "Blob transfers from upstreams that ended.", &["upstream", "outcome"]),
            prefetched: build.counter("outport_prefetched_blobs_total", "Transfers begun ahead of any client's request."),
            upstream_requests: build.counters("outport_upstream_requests_total", "Requests to upstreams.", &["upstream", "outcome"]),
            upstream_seconds: build.times(
                "outport_upstream_first_byte_seconds",
                "Time to the head of an upstream's answer.",
                &["upstream"],
            ),
            upstream_bytes: build.counters("outport_upstream_bytes_total", "Bytes of bodies received from upstreams.", &["upstream"]),
            upstream_breaker_open: build.gauges(
                "outport_upstream_breaker_open",
                "1 while the circuit to this upstream is open.",
                &["upstream"],
            ),
            upstream_rate_limit_remaining: build.gauges(
                "outport_upstream_rate_limit_remaining",
                "Requests left, as the upstream last told it.",
                &["upstream"],
            ),
            upstream_retries: build.counters(
                "outport_upstream_retries_total",
                "Requests to upstreams that were sent again.",
                &["upstream"],
            ),
            dns_lookups: build.counters(
                "outport_dns_lookups_total",
                "Name look-ups by outcome: answered, cached, stale, absent, failed.",
                &["outcome"],
            ),
            cache_bytes: build.gauges("outport_cache_bytes", "Bytes held by a tier of the cache.", &["tier"]),
            cache_limit_bytes: build.gauges("outport_cache_limit_bytes", "Bytes that a tier of the cache may hold.", &["tier"]),
            cache_entries: build.gauges("outport_cache_entries", "Entries of a tier of the cache.", &["tier"]),
            cache_evictions: build.counters("outport_cache_evictions_total", "Entries evicted to make room.", &["tier"]),
            cache_corrupt: build.counter("outport_cache_corrupt_total", "Cached files whose bytes no longer matched their digest."),
            disk_unwritable: build
                .gauge("outport_disk_unwritable", "1 while the cache's disk takes no writes and blobs pass through uncached."),
            disk_bytes: build.gauge("outport_disk_bytes", "Size of the file system that has the cache."),
            disk_free_bytes: build.gauge("outport_disk_free_bytes", "What is free of it."),
            ready: build.gauge("outport_ready", "1 while this edge says that it can serve."),
            region_open: build.gauge("outport_region_open", "1 while the region's bucket is open to this edge."),
            ledger_fenced: build
                .gauge("outport_ledger_fenced", "1 while this region takes no pushes, since others know more than its bucket has."),
            build_info: build.gauges("outport_build_info", "Always 1: which program this is, and in which region.", &["region", "version"]),
            peer_visible: build.gauges(
                "outport_peer_visible",
                "1 while another region can be asked, by its edges or its bucket.",
                &["region"],
            ),
            stale_answers: build.counters("outport_stale_answers_total", "Answers served past their time to live.", &["upstream"]),
            bucket_requests: build.counters("outport_bucket_requests_total", "Requests to the region's bucket.", &["verb", "outcome"]),
            bucket_seconds: build.times("outport_bucket_request_seconds", "Time to the answer of the region's bucket.", &["verb"]),
            bucket_bytes: build.counters("outport_bucket_bytes_total", "Bytes of objects sent to the bucket or received.", &["direction"]),
            peer_bucket_requests: build.counters(
                "outport_peer_bucket_requests_total",
                "Requests to the buckets of other regions, all of which read.",
                &["region", "verb", "outcome"],
            ),
            peer_bucket_bytes: build.counters(
                "outport_peer_bucket_bytes_total",
                "Bytes of objects received from the buckets of other regions.",
                &["region"],
            ),
            bucket_clock_ahead: build.gauge(
                "outport_bucket_clock_ahead_seconds",
                "How far the bucket's clock is ahead of this edge's, as the last opening saw it.",
            ),
            uploads_open: build.gauge("outport_uploads_open", "Upload sessions that are open on this node."),
            uploads: build.counters("outport_uploads_total", "Upload sessions that ended, by how.", &["outcome"]),
            config_reloads: build.counters(
                "outport_config_reloads_total",
                "Reloads of the configuration or a certificate.",
                &["what", "outcome"],
            ),
            certificate_expiry: build.gauges(
                "outport_certificate_expiry_timestamp_seconds",
                "When a served certificate ends, in Unix time.",
                &["certificate"],
            ),
            repeated: build.counter(
                "outport_requests_repeated_total",
                "Requests answered by the bytes of their heads, which came before: a part of all.",
            ),
            log_dropped: build.counter("outport_log_dropped_total", "Log lines dropped because the sink was full."),
            ledger_position: build.gauge("outport_ledger_position", "The last segment of the own ledger that is in the index."),
            ledger_appends: build.counters("outport_ledger_appends_total", "Requests to append to the ledger.", &["outcome"]),
            ledger_append_seconds: build.times("outport_ledger_append_seconds", "Time that a caller waited for its append.", &["outcome"]),
            ledger_attempts: build.counters("outport_ledger_attempts_total", "Tries to create a segment.", &["outcome"]),
            import_attempts: build.counters("outport_import_attempts_total", "Tries to create an import.", &["outcome"]),
            ledger_folded: build.counter("outport_ledger_folded_segments_total", "Segments folded into the index."),
            ledger_fold_seconds: build.times("outport_ledger_fold_seconds", "Time to fold and commit what was read at one time.", &[]),
            ledger_snapshots: build.counters(
                "outport_ledger_snapshots_total",
                "Snapshots of the index, by what became of them.",
                &["outcome"],
            ),
            ledger_trimmed: build.counters("outport_ledger_trimmed_total", "Objects of the ledger that were trimmed.", &["kind"]),
            ledger_rebuilds: build.counters("outport_ledger_rebuilds_total", "Times that the index was thrown away.", &["reason"]),
            forward_pending: build.gauge("outport_forward_pending", "Pushed manifests that an upstream has not been given yet."),
            forward_oldest_seconds: build
                .gauge("outport_forward_oldest_seconds", "How long the oldest of them waits; 0 when there is none."),
            forwards: build.counters("outport_forwards_total", "Tries to pass a pushed manifest on to its upstream.", &["outcome"]),
            tail_looks: build.counters("outport_ledger_tail_looks_total", "Looks at the end of the ledger.", &["outcome"]),
            sibling_requests: build.counters(
                "outport_sibling_requests_total",
                "Requests of uploads that were passed on to the edge that began them.",
                &["outcome"],
            ),
            peer_requests: build.counters("outport_peer_requests_total", "Requests to edges of other regions.", &["region", "outcome"]),
            peer_bytes: build.counters("outport_peer_bytes_total", "Bytes of content received from other regions.", &["region"]),
            peer_behind_events: build.gauges(
                "outport_peer_behind_events",
                "Segments of another region's ledger that are known to be there and are not folded here.",
                &["region"],
            ),
            peer_behind_seconds: build.fractions(
                "outport_peer_behind_seconds",
                "The age of the oldest segment of another region that is not folded here; while that cannot be seen, the time since it \
                 could, and never 0.",
                &["region"],
            ),
            peer_refused: build.counters(
                "outport_peer_refused_total",
                "Ledgers of other regions that are not followed any further: somebody has to look.",
                &["region"],
            ),
            region_questions: build.counters(
                "outport_region_questions_total",
                "Names unknown here for which all other regions were asked.",
                &["outcome"],
            ),
            visible_lag_seconds: build.times(
                "outport_visible_lag_seconds",
                "From a segment's commit in another region, by its clock, to its being visible here.",
                &["region"],
            ),
            oldest_unreplicated_push_seconds: build.fractions(
                "outport_oldest_unreplicated_push_seconds",
                "The age of the oldest push to this region that another one does not know of (metadata), or of which a region has no \
                 copy that its policy wants there (bytes); 0 when there is none.",
                &["what"],
            ),
            tag_conflicts: build.gauge("outport_tag_conflicts", "Tags that regions set without having seen each other's."),
            copies: build.counters("outport_copies_total", "Copies of contents from other regions.", &["region", "outcome"]),
            copied_bytes: build.counters("outport_copied_bytes_total", "Bytes of contents copied from other regions.", &["region"]),
            copies_pending: build.gauge("outport_copies_pending", "Contents that are to be copied to this region."),
            copies_pending_bytes: build.gauge("outport_copies_pending_bytes", "Their bytes together."),
            audit: Recorded {
                written: build.counter("outport_audit_written_total", "Entries of the audit record written to the disk."),
                dropped: build.counters("outport_audit_dropped_total", "Entries of the audit record lost, by why.", &["reason"]),
                shipments: build.counters("outport_audit_shipments_total", "Tries to send a file of the audit record.", &["outcome"]),
                shipped_bytes: build.counter("outport_audit_shipped_bytes_total", "Bytes of the audit record in the bucket, compressed."),
                removed: build.counter("outport_audit_removed_total", "Files of the audit record removed since they were too old."),
                waiting_bytes: build.gauge("outport_audit_waiting_bytes", "Bytes of the audit record that wait for the bucket."),
                oldest_unshipped_seconds: build.gauge(
                    "outport_audit_oldest_unshipped_seconds",
                    "The age of the oldest entry of the audit record that is not in the bucket; 0 without any.",
                ),
            },
            central_log: Recorded {
                written: build.counter("outport_central_log_written_total", "Entries of the central log written to the disk."),
                dropped: build.counters("outport_central_log_dropped_total", "Entries of the central log lost, by why.", &["reason"]),
                shipments: build.counters("outport_central_log_shipments_total", "Tries to send a file of the central log.", &["outcome"]),
                shipped_bytes: build
                    .counter("outport_central_log_shipped_bytes_total", "Bytes of the central log in the bucket, compressed."),
                removed: build.counter("outport_central_log_removed_total", "Files of the central log removed since they were too old."),
                waiting_bytes: build.gauge("outport_central_log_waiting_bytes", "Bytes of the central log that wait for the bucket."),
                oldest_unshipped_seconds: build.gauge(
                    "outport_central_log_oldest_unshipped_seconds",
                    "The age of the oldest entry of the central log that is not in the bucket; 0 without any.",
                ),
            },
            webhook_deliveries: build.counters("outport_webhook_deliveries_total", "Tries to tell a receiver.", &["webhook", "outcome"]),
            webhook_dropped: build.counters(
                "outport_webhook_dropped_total",
                "Events that a receiver is not told of any more, by why.",
                &["webhook", "reason"],
            ),
            webhook_waiting: build.gauges("outport_webhook_waiting", "Events that a receiver has not taken yet.", &["webhook"]),
            webhook_oldest_seconds: build.gauges(
                "outport_webhook_oldest_seconds",
                "The age of the oldest event that a receiver has not taken yet; 0 when there is none.",
                &["webhook"],
            ),
            watched_prefetches: build.counters("outport_watched_prefetches_total", "Rounds of images that are kept here.", &["outcome"]),
            watched_images: build.gauge("outport_watched_images", "Images that are kept here by the configuration."),
            watched_oldest_seconds: build.gauge(
                "outport_watched_oldest_success_seconds",
                "How long ago that of them was last seen to be here whole for which it is longest; 0 without any.",
            ),
            proxied_requests: build.counters(
                "outport_proxied_requests_total",
                "Requests of clients for content and lists of an upstream, by where the answer came from.",
                &["upstream", "source"],
            ),
            proxied_bytes: build.counters(
                "outport_proxied_bytes_total",
                "Bytes of bodies of the answers to them.",
                &["upstream", "source"],
            ),
            otlp_sent: build.counters(
                "outport_otlp_sent_total",
                "Spans, log records and data points that the collector took.",
                &["signal"],
            ),
            otlp_dropped: build.counters(
                "outport_otlp_dropped_total",
                "Spans, log records and data points that the collector does not get, by why.",
                &["signal", "reason"],
            ),
            otlp_requests: build.counters("outport_otlp_requests_total", "Requests to the collector.", &["signal", "outcome"]),
            registry,
        }))
    }
}

impl Families {
    /// A request to an edge of another region has ended: answered, denied, refused, unavailable, broken or left.
    pub fn peer_request(&self, region: &str, outcome: &'static str) {
        self.peer_requests.with_label_values(&[region, outcome]).inc();
    }

    /// Content came from another region.
    pub fn peer_bytes(&self, region: &str, count: u64) {
        self.peer_bytes.with_label_values(&[region]).inc_by(count);
    }

    /// Every metric that there is so far, as it stands.
    pub fn read(&self) -> Vec<Family> {
        self.registry.gather().iter().filter_map(Family::of).collect()
    }

    /// Every metric in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// An answer's head is on its way; `source` is `memory`, `disk`, `bucket`, `region`, `upstream` or `none`.
    pub fn first_byte(&self, route: &'static str, source: &'static str, status: http::StatusCode, after: Duration) {
        self.answers((route, source, status), |answers| answers.first_byte_seconds.observe(after.as_secs_f64()));
    }

    /// An answer is complete or was cut.
    pub fn request_finished(&self, route: &'static str, source: &'static str, status: http::StatusCode, bytes: u64, after: Duration) {
        self.answers((route, source, status), |answers| {
            answers.count.inc();
            answers.bytes.inc_by(bytes);
            answers.seconds.observe(after.as_secs_f64());
        });
    }

    fn answers(&self, (route, source, status): (&'static str, &'static str, http::StatusCode), add: impl Fn(&Answers)) {
        let kind = (route.as_ptr() as usize, source.as_ptr() as usize, status.as_u16());
        if let Some(known) = self.answers.read().unwrap_or_else(PoisonError::into_inner).get(&kind) {
            return add(known);
        }
        let answers = Answers {
            count: self.requests.with_label_values(&[route, source, status.as_str()]),
            bytes: self.response_bytes.with_label_values(&[route, source]),
            first_byte_seconds: self.first_byte_seconds.with_label_values(&[route, source]),
            seconds: self.request_seconds.with_label_values(&[route, source]),
        };
        add(self.answers.write().unwrap_or_else(PoisonError::into_inner).entry(kind).or_insert(answers));
    }

    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// `outcome` is `anonymous`, `accepted` or `refused`.
    pub fn authentication(&self, outcome: &'static str) {
        if let Some((_, count)) = self.authentications.iter().find(|(word, _)| *word == outcome) {
            count.inc();
        }
    }

    /// `outcome` is `fetched` or `failed`.
    pub fn identity_provider(&self, outcome: &'static str) {
        self.identity_providers.with_label_values(&[outcome]).inc();
    }

    /// `outcome` is `hashed`, `remembered` or `throttled`.
    pub fn password_check(&self, outcome: &'static str) {
        self.password_checks.with_label_values(&[outcome]).inc();
    }

    /// `what` is `requests` or `bytes`.
    pub fn limited(&self, what: &'static str) {
        self.limited.with_label_values(&[what]).inc();
    }

    /// `outcome` is `complete`, `mismatch`, `broken` or `refused`.
    pub fn fill_ended(&self, upstream: &str, outcome: &'static str) {
        self.fills.with_label_values(&[upstream, outcome]).inc();
    }

    pub fn prefetched(&self) {
        self.prefetched.inc();
    }

    /// `outcome` is a status class (`2xx` ...) or what went wrong: `timeout`, `connect`, `dns`, `refused`, `broken`, `breaker`.
    pub fn upstream_request(&self, upstream: &str, outcome: &'static str, after: Duration) {
        self.upstream_requests.with_label_values(&[upstream, outcome]).inc();
        self.upstream_seconds.with_label_values(&[upstream]).observe(after.as_secs_f64());
    }

    pub fn upstream_bytes(&self, upstream: &str, bytes: u64) {
        self.upstream_bytes.with_label_values(&[upstream]).inc_by(bytes);
    }

    pub fn upstream_breaker(&self, upstream: &str, open: bool) {
        self.upstream_breaker_open.with_label_values(&[upstream]).set(open.into());
    }

    pub fn upstream_rate_limit_remaining(&self, upstream: &str, requests: i64) {
        self.upstream_rate_limit_remaining.with_label_values(&[upstream]).set(requests);
    }

    pub fn upstream_retry(&self, upstream: &str) {
        self.upstream_retries.with_label_values(&[upstream]).inc();
    }

    /// `outcome` is `answered`, `cached`, `stale`, `absent` or `failed`.
    pub fn dns_lookup(&self, outcome: &'static str) {
        self.dns_lookups.with_label_values(&[outcome]).inc();
    }

    /// What a tier (`memory`, `disk`) holds now.
    pub fn cache_size(&self, tier: &'static str, bytes: u64, entries: u64) {
        self.cache_bytes.with_label_values(&[tier]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cache_entries.with_label_values(&[tier]).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub fn cache_limit(&self, tier: &'static str, bytes: u64) {
        self.cache_limit_bytes.with_label_values(&[tier]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub fn cache_evicted(&self, tier: &'static str) {
        self.cache_evictions.with_label_values(&[tier]).inc();
    }

    pub fn cache_corrupt(&self) {
        self.cache_corrupt.inc();
    }

    pub fn stale_answer(&self, upstream: &str) {
        self.stale_answers.with_label_values(&[upstream]).inc();
    }

    /// `verb` is the room's word for the request; `outcome` is `done`, `exists`, `absent`, `unavailable`, `refused` or `broken`.
    pub fn bucket_request(&self, verb: &'static str, outcome: &'static str, after: Duration) {
        self.bucket_requests.with_label_values(&[verb, outcome]).inc();
        self.bucket_seconds.with_label_values(&[verb]).observe(after.as_secs_f64());
    }

    /// `direction` is `sent` or `received`.
    pub fn bucket_bytes(&self, direction: &'static str, bytes: u64) {
        self.bucket_bytes.with_label_values(&[direction]).inc_by(bytes);
    }

    /// One request to the bucket of another region.
    pub fn peer_bucket_request(&self, region: &str, verb: &'static str, outcome: &'static str) {
        self.peer_bucket_requests.with_label_values(&[region, verb, outcome]).inc();
    }

    /// Bytes of objects that came from the bucket of another region.
    pub fn peer_bucket_bytes(&self, region: &str, bytes: u64) {
        self.peer_bucket_bytes.with_label_values(&[region]).inc_by(bytes);
    }

    /// `outcome` is `complete`, `failed`, `cancelled` or `expired`.
    pub fn upload_ended(&self, outcome: &'static str) {
        self.uploads.with_label_values(&[outcome]).inc();
    }

    /// `what` is `config` or `certificate`; `outcome` is `applied`, `rejected` or `unchanged`.
    pub fn reload(&self, what: &'static str, outcome: &'static str) {
        self.config_reloads.with_label_values(&[what, outcome]).inc();
    }

    /// `certificate` is its place in the configuration: `tls`, `tls.also[0]`.
    pub fn certificate_expiry(&self, certificate: &str, unix_s: i64) {
        self.certificate_expiry.with_label_values(&[certificate]).set(unix_s);
    }

    /// `outcome` is `committed`, `rejected` or `unavailable`.
    pub fn ledger_append(&self, outcome: &'static str, after: Duration) {
        self.ledger_appends.with_label_values(&[outcome]).inc();
        self.ledger_append_seconds.with_label_values(&[outcome]).observe(after.as_secs_f64());
    }

    /// `outcome` is `committed`, `lost` (another node's has the number) or `unsettled`.
    pub fn import_attempt(&self, outcome: &'static str) {
        self.import_attempts.with_label_values(&[outcome]).inc();
    }

    /// `outcome` is `committed`, `lost` (another's segment has the number) or `unsettled`.
    pub fn ledger_attempt(&self, outcome: &'static str) {
        self.ledger_attempts.with_label_values(&[outcome]).inc();
    }

    pub fn ledger_folded(&self, position: u64, segments: u64, after: Duration) {
        self.ledger_position.set(i64::try_from(position).unwrap_or(i64::MAX));
        self.ledger_folded.inc_by(segments);
        self.ledger_fold_seconds.with_label_values::<&str>(&[]).observe(after.as_secs_f64());
    }

    /// `reason` is `diverged` or `damaged`.
    pub fn ledger_rebuilt(&self, reason: &'static str) {
        self.ledger_rebuilds.with_label_values(&[reason]).inc();
    }

    /// A snapshot was made, overtaken by another node's, or refused.
    pub fn ledger_snapshot(&self, outcome: &'static str) {
        self.ledger_snapshots.with_label_values(&[outcome]).inc();
    }

    /// A round of trimming.
    pub fn ledger_trimmed(&self, segments: u64, imports: u64) {
        self.ledger_trimmed.with_label_values(&["segment"]).inc_by(segments);
        self.ledger_trimmed.with_label_values(&["import"]).inc_by(imports);
    }

    /// How much waits to be passed on, and how long the oldest of it.
    pub fn forwards_waiting(&self, count: usize, oldest: Duration) {
        self.forward_pending.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.forward_oldest_seconds.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }

    /// `outcome` is `passed`, `gone`, `unavailable` or `refused`.
    pub fn forward_ended(&self, outcome: &'static str) {
        self.forwards.with_label_values(&[outcome]).inc();
    }

    pub fn disk_space(&self, bytes: u64, free_bytes: u64) {
        self.disk_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.disk_free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
    }

    /// Which program this is, and in which region it runs.
    pub fn runs(&self, region: &str, version: &str) {
        self.build_info.with_label_values(&[region, version]).set(1);
    }

    /// Whether another region can be seen.
    pub fn peer_visible(&self, region: &str, visible: bool) {
        self.peer_visible.with_label_values(&[region]).set(visible.into());
    }

    /// How far this region is behind another one.
    pub fn peer_behind(&self, region: &str, segments: u64, time: Duration) {
        self.peer_behind_events.with_label_values(&[region]).set(i64::try_from(segments).unwrap_or(i64::MAX));
        self.peer_behind_seconds.with_label_values(&[region]).set(time.as_secs_f64());
    }

    /// The ledger of a region is not followed any further.
    pub fn peer_refused(&self, region: &str) {
        self.peer_refused.with_label_values(&[region]).inc();
    }

    /// `outcome` is `found`, `denied` or `blind`.
    pub fn region_asked(&self, outcome: &'static str) {
        self.region_questions.with_label_values(&[outcome]).inc();
    }

    /// From a commit in another region to its being visible here.
    pub fn visible_lag(&self, region: &str, time: Duration) {
        self.visible_lag_seconds.with_label_values(&[region]).observe(time.as_secs_f64());
    }

    /// `what` is `metadata` or `bytes`.
    pub fn oldest_unreplicated_push(&self, what: &'static str, age: Duration) {
        self.oldest_unreplicated_push_seconds.with_label_values(&[what]).set(age.as_secs_f64());
    }

    pub fn conflicts(&self, count: usize) {
        self.tag_conflicts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// `outcome` is `complete`, `needless`, `mismatch` or `broken`.
    pub fn copy_ended(&self, region: &str, outcome: &'static str) {
        self.copies.with_label_values(&[region, outcome]).inc();
    }

    pub fn copied_bytes(&self, region: &str, count: u64) {
        self.copied_bytes.with_label_values(&[region]).inc_by(count);
    }

    /// What is to be copied here.
    pub fn copies_waiting(&self, contents: usize, bytes: u64) {
        self.copies_pending.set(i64::try_from(contents).unwrap_or(i64::MAX));
        self.copies_pending_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// `outcome` is `delivered`, `failed` or `gone`.
    pub fn webhook_delivery(&self, webhook: &str, outcome: &'static str) {
        self.webhook_deliveries.with_label_values(&[webhook, outcome]).inc();
    }

    /// `reason` is `queue`, `attempts`, `age`, `gone` or `removed`.
    pub fn webhook_dropped(&self, webhook: &str, reason: &'static str, count: u64) {
        self.webhook_dropped.with_label_values(&[webhook, reason]).inc_by(count);
    }

    /// How much waits for a receiver, and how long the oldest of it.
    pub fn webhook_waiting(&self, webhook: &str, count: usize, oldest: Duration) {
        self.webhook_waiting.with_label_values(&[webhook]).set(i64::try_from(count).unwrap_or(i64::MAX));
        self.webhook_oldest_seconds.with_label_values(&[webhook]).set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }

    /// `outcome` is `held` or `failed`.
    pub fn watched_prefetch(&self, outcome: &'static str) {
        self.watched_prefetches.with_label_values(&[outcome]).inc();
    }

    /// How many images are kept here, and how long ago that of them was last seen whole for which it is longest.
    pub fn watched(&self, images: usize, oldest: Duration) {
        self.watched_images.set(i64::try_from(images).unwrap_or(i64::MAX));
        self.watched_oldest_seconds.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }

    /// A client got something of an upstream's; `source` as in [`first_byte`](Self::first_byte).
    pub fn proxied(&self, upstream: &str, source: &'static str, bytes: u64) {
        let add = |proxied: &Proxied| {
            proxied.requests.inc();
            proxied.bytes.inc_by(bytes);
        };
        let is_it = |proxied: &&Proxied| *proxied.upstream == *upstream && proxied.source == source;
        if let Some(known) = self.proxied.read().unwrap_or_else(PoisonError::into_inner).iter().find(is_it) {
            return add(known);
        }
        let labels = [upstream, source];
        let requests = self.proxied_requests.with_label_values(&labels);
        let proxied = Proxied { upstream: upstream.into(), source, requests, bytes: self.proxied_bytes.with_label_values(&labels) };
        add(&proxied);
        let mut all = self.proxied.write().unwrap_or_else(PoisonError::into_inner);
        // Another request may have been first.
        if !all.iter().any(|known| is_it(&known)) {
            all.push(proxied);
        }
    }

    /// What was counted of each upstream, by name.
    pub fn upstream_figures(&self) -> BTreeMap<String, UpstreamFigures> {
        let mut found: BTreeMap<String, UpstreamFigures> = BTreeMap::new();
        let mut each = |counters: &IntCounterVec, add: &dyn Fn(&mut UpstreamFigures, &str, u64)| {
            for family in counters.collect() {
                for metric in family.get_metric() {
                    let label =
                        |wanted: &[&str]| metric.get_label().iter().find(|label| wanted.contains(&label.name())).map(|label| label.value());
                    let (Some(upstream), kind) = (label(&["upstream"]), label(&["source", "outcome"])) else { continue };
                    add(found.entry(upstream.to_owned()).or_default(), kind.unwrap_or_default(), metric.get_counter().get_value() as u64);
                }
            }
        };
        each(&self.proxied_requests, &|figures, source, count| {
            figures.requests += count;
            figures.hits += if matches!(source, "memory" | "disk" | "bucket" | "region") { count } else { 0 };
        });
        each(&self.proxied_bytes, &|figures, _, bytes| figures.bytes += bytes);
        // What never got there was not asked for.
        let arrived = |outcome: &str| outcome.starts_with(|first: char| first.is_ascii_digit()) || matches!(outcome, "timeout" | "broken");
        each(&self.upstream_requests, &|figures, outcome, count| figures.upstream_requests += if arrived(outcome) { count } else { 0 });
        each(&self.upstream_bytes, &|figures, _, bytes| figures.upstream_bytes += bytes);
        found
    }

    /// The collector took so much; `signal` is `traces`, `logs` or `metrics`.
    pub fn otlp_sent(&self, signal: &'static str, count: u64) {
        self.otlp_sent.with_label_values(&[signal]).inc_by(count);
    }

    /// `reason` is `queue` (too many at once, or the collector is too slow), `refused` (by the collector), `attempts` (it did not answer)
    /// or `shutdown`.
    pub fn otlp_dropped(&self, signal: &'static str, reason: &'static str, count: u64) {
        self.otlp_dropped.with_label_values(&[signal, reason]).inc_by(count);
    }

    /// `outcome` is `taken`, `refused` or `failed`.
    pub fn otlp_request(&self, signal: &'static str, outcome: &'static str) {
        self.otlp_requests.with_label_values(&[signal, outcome]).inc();
    }

    /// `outcome` is `confirmed` or `failed`.
    pub fn tail_look(&self, outcome: &'static str) {
        self.tail_looks.with_label_values(&[outcome]).inc();
    }

    /// `outcome` is `answered`, `gone`, `broken` or `left`.
    pub fn sibling_request(&self, outcome: &'static str) {
        self.sibling_requests.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_an_upstream_are_those_that_were_counted() {
        let metrics = Metrics::new();
        for (source, bytes) in [("upstream", 100), ("disk", 100), ("memory", 10), ("none", 0)] {
            metrics.proxied("a.test", source, bytes);
        }
        for outcome in ["2xx", "timeout", "breaker", "dns"] {
            metrics.upstream_request("a.test", outcome, Duration::ZERO);
        }
        metrics.upstream_bytes("a.test", 100);
        metrics.upstream_bytes("b.test", 7);
        let figures = metrics.upstream_figures();
        let a = UpstreamFigures { requests: 4, hits: 2, bytes: 210, upstream_requests: 2, upstream_bytes: 100 };
        assert_eq!(figures["a.test"], a);
        assert_eq!(figures["b.test"], UpstreamFigures { upstream_bytes: 7, ..UpstreamFigures::default() });
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.request_finished("blob", "disk", http::StatusCode::OK, 7, Duration::from_millis(3));
        metrics.clone().cache_size("disk", 10, 2);
        let text = metrics.render();
        assert!(text.contains(r#"outport_requests_total{route="blob",source="disk",status="200"} 1"#), "{text}");
        assert!(text.contains(r#"outport_cache_entries{tier="disk"} 2"#), "{text}");
    }
}
