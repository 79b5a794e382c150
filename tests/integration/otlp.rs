//! Logs, traces and metrics for a collector: what it gets, what upstreams and other regions are told of a trace, and that nobody waits
//! for a collector that hangs or is away.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;

use crate::harness::client::Client;
use crate::harness::collector::{Collector, Sent, attribute, hex};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Blob, Image};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::push::push;
use crate::harness::regions::{World, metric, until};
use crate::harness::script::{Fault, Match};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "00f067aa0ba902b7";

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{SENDER}-{flags}")
}

/// Asks as a part of a trace.
fn part_of(client: &Client, parent: &str) -> Client {
    client.clone().with("traceparent", parent).with("tracestate", "vendor=1")
}

fn of_kind(spans: Vec<Sent<Span>>, kind: SpanKind) -> Vec<Sent<Span>> {
    spans.into_iter().filter(|sent| sent.what.kind() == kind).collect()
}

async fn pulled(client: &Client, tag: &str, image: &Image) {
    pull(client, "origin.test/app", tag, image).await.unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn a_pull_is_a_part_of_its_clients_trace_up_to_the_upstream() {
    let (collector, origin, image) = (Collector::start().await, Origin::start().await, Image::new(1, &[300_000]));
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).table(&collector.table("sample = \"0%\"")).start().await;
    let (client, requests) = (part_of(&edge.client, &parent(TRACE, "01")), 1 + image.blobs.len());
    pulled(&client, "v1", &image).await;
    until("the spans of the pull came", || async { of_kind(collector.spans_of(TRACE), SpanKind::Server).len() == requests }).await;
    let (servers, clients) = (of_kind(collector.spans_of(TRACE), SpanKind::Server), of_kind(collector.spans_of(TRACE), SpanKind::Client));
    for server in &servers {
        assert_eq!((server.parent().as_str(), server.region.as_str(), server.what.trace_state.as_str()), (SENDER, "test", "vendor=1"));
        assert_eq!((server.text("http.response.status_code"), server.text("outport.source")), ("200".into(), "upstream".into()));
        assert_eq!(server.text("outport.repository"), "origin.test/app");
        assert!(server.what.end_time_unix_nano >= server.what.start_time_unix_nano && !server.what.events.is_empty(), "{server:?}");
    }
    assert_eq!(servers.iter().filter(|server| server.what.name == "GET manifest").count(), 1);
    // Whatever the origin was asked, it was told which span asks, and that span belongs to a request of the client.
    assert_eq!(origin.requests().len(), clients.len());
    for asked in origin.requests() {
        let told = asked.header("traceparent").unwrap_or_else(|| panic!("{} belongs to no trace", asked.target));
        let asking = clients.iter().find(|client| told == format!("00-{TRACE}-{}-01", client.id()));
        let asking = asking.unwrap_or_else(|| panic!("nobody is {told} among {clients:?}"));
        assert!(servers.iter().any(|server| server.id() == asking.parent()), "{asking:?}");
        assert_eq!((asking.text("outport.upstream").as_str(), asked.header("tracestate")), ("origin.test", Some("vendor=1")));
        assert!(asking.text("url.full").ends_with(&asked.target), "{asking:?}");
    }

    // Warm, nobody else is asked.
    pulled(&client, "v1", &image).await;
    until("the spans of the warm pull came", || async { of_kind(collector.spans_of(TRACE), SpanKind::Server).len() == 2 * requests }).await;
    let warm = of_kind(collector.spans_of(TRACE), SpanKind::Server).split_off(requests);
    assert!(warm.iter().all(|server| matches!(server.text("outport.source").as_str(), "memory" | "disk")), "{warm:?}");
    assert_eq!(of_kind(collector.spans_of(TRACE), SpanKind::Client).len(), clients.len());
    edge.finish().await;
}

#[tokio::test]
async fn what_is_not_recorded_is_passed_on_as_it_came() {
    let (collector, origin) = (Collector::start().await, Origin::start().await);
    let recording = collector.table("sample = \"0%\"");
    let unsampled = parent(TRACE, "00");
    let sampled = parent(TRACE, "01");
    for (number, (table, sent, passed_on)) in [
        (recording.as_str(), Some(&unsampled), Some(&unsampled)),
        (recording.as_str(), None, None),
        ("", Some(&sampled), Some(&sampled)),
        ("", Some(&unsampled), Some(&unsampled)),
        ("", None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let image = Image::new(number as u64, &[1_000]);
        origin.push("app", "v1", &image);
        origin.forget_requests();
        let edge = Settings::new().upstream("origin.test", &origin).table(table).start().await;
        let client = sent.map_or(edge.client.clone(), |parent| part_of(&edge.client, parent));
        pulled(&client, "v1", &image).await;
        for asked in origin.requests() {
            assert_eq!(asked.header("traceparent"), passed_on.map(String::as_str), "case {number}");
            assert_eq!(asked.header("tracestate"), passed_on.map(|_| "vendor=1"), "case {number}");
        }
        assert!(origin.requests().len() > image.blobs.len());
        // What is not a traceparent is none, and goes nowhere.
        origin.push("app", "v2", &Image::new(100 + number as u64, &[10]));
        origin.forget_requests();
        assert_eq!(edge.client.clone().with("traceparent", "00-x").get("/v2/origin.test/app/manifests/v2").await.status, 200);
        assert!(origin.requests().iter().all(|asked| asked.header("traceparent").is_none()), "case {number}");
        edge.finish().await;
    }
    // An edge that ends has sent what it had.
    assert!(collector.spans().is_empty(), "{:?}", collector.spans());
}

#[tokio::test]
async fn a_transfer_belongs_to_who_began_it_and_others_refer_to_it() {
    let (collector, origin, blob) = (Collector::start().await, Origin::start().await, Blob::seeded(1, 300_000));
    origin.push_blob("app", &blob);
    origin.script(Match::Blobs, Fault::Slow(200_000));
    let edge = Settings::new().upstream("origin.test", &origin).table(&collector.table("sample = \"0%\"")).start().await;
    let target = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let first = {
        let (client, target) = (part_of(&edge.client, &parent(TRACE, "01")), target.clone());
        tokio::spawn(async move { client.get(&target).await.status })
    };
    until("the transfer has begun", || async { origin.count(&Match::Blobs) == 1 }).await;
    assert_eq!(part_of(&edge.client, &parent(OTHER_TRACE, "01")).get(&target).await.status, 200);
    assert_eq!(first.await.unwrap(), 200);
    until("both spans came", || async { !collector.spans_of(TRACE).is_empty() && !collector.spans_of(OTHER_TRACE).is_empty() }).await;
    until("the transfer's came", || async { of_kind(collector.spans_of(TRACE), SpanKind::Client).len() == 1 }).await;
    let began = of_kind(collector.spans_of(TRACE), SpanKind::Server).remove(0);
    let waited = collector.spans_of(OTHER_TRACE);
    assert_eq!(waited.len(), 1, "it has asked nobody itself: {waited:?}");
    let links: Vec<_> = waited[0].what.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(links, [(TRACE.to_owned(), began.id())]);
    assert_eq!(origin.count(&Match::Blobs), 1);
    edge.finish().await;
}

#[tokio::test]
async fn a_trace_goes_on_in_the_region_that_is_asked() {
    let collector = Collector::start().await;
    let world = World::start(&["eu", "us"], &collector.table("sample = \"0%\"\nsignals = [\"traces\"]")).await;
    let image = Image::new(1, &[300_000]);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    let client = part_of(world.client("us"), &parent(TRACE, "01"));
    let target = format!("/v2/team/app/blobs/{}", image.blobs[1].digest());
    until("it is read in the other region", || async { client.get(&target).await.status == 200 }).await;
    until("the trace is seen in both regions", || async {
        let spans = collector.spans_of(TRACE);
        let asking = |sent: &Sent<Span>| sent.region == "us" && sent.text("outport.peer") == "eu";
        let asked = |id: &str| spans.iter().any(|sent| sent.region == "eu" && sent.parent() == id && sent.what.kind() == SpanKind::Server);
        spans.iter().filter(|sent| asking(sent)).any(|sent| asked(&sent.id()))
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn logs_and_metrics_arrive_with_the_headers_that_are_configured() {
    let (collector, origin, image) = (Collector::start().await, Origin::start().await, Image::new(1, &[1_000]));
    origin.push("app", "v1", &image);
    let settings = Settings::new().upstream("origin.test", &origin);
    let secret = settings.file("otlp-authorization", "Bearer s3cret\n");
    let lines = format!(
        "interval = \"1s\"\nsample = \"0%\"\nheaders.x-tenant = \"eu\"\nheaders_from_files.authorization = \"{}\"",
        secret.display()
    );
    let edge = settings.table(&collector.table(&lines)).spawn().await;
    pulled(&part_of(&edge.client, &parent(TRACE, "01")), "v1", &image).await;

    let of_requests = || {
        let records = collector.records().into_iter().filter(|sent| hex(&sent.what.trace_id) == TRACE);
        records.filter(|sent| attribute(&sent.what.attributes, "outport.target").as_deref() == Some("outport::access")).collect::<Vec<_>>()
    };
    until("the lines of the requests came", || async { of_requests().len() == 1 + image.blobs.len() }).await;
    for sent in of_requests() {
        let field = |name| attribute(&sent.what.attributes, name);
        assert_eq!((field("status").as_deref(), field("trace_id").as_deref(), sent.region.as_str()), (Some("200"), Some(TRACE), "test"));
        assert_eq!((sent.what.severity_text.as_str(), field("repository").as_deref()), ("INFO", Some("origin.test/app")));
        let spans = of_kind(collector.spans_of(TRACE), SpanKind::Server);
        assert!(spans.is_empty() || spans.iter().any(|span| span.what.span_id == sent.what.span_id), "{sent:?}");
    }
    let text = edge.log_text();
    assert_eq!(text.lines().filter(|line| line.contains(&format!(" trace_id={TRACE} "))).count(), 1 + image.blobs.len(), "{text}");

    let counted = |name: &str| {
        let found = collector.metrics().into_iter().rev().find(|sent| sent.what.name == name);
        match found.and_then(|sent| sent.what.data) {
            Some(Data::Sum(sum)) => sum.data_points.len(),
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Histogram(histogram)) => histogram.data_points.len(),
            _ => 0,
        }
    };
    for name in ["outport_requests_total", "outport_ready", "outport_request_seconds", "outport_otlp_sent_total"] {
        until(&format!("{name} came"), || async { counted(name) > 0 }).await;
    }
    for head in collector.heads() {
        assert_eq!((head.header("authorization"), head.header("x-tenant")), (Some("Bearer s3cret"), Some("eu")));
    }
    assert!(!edge.log_text().contains("s3cret"));
    edge.finish().await;
    // What was said last is there, and nothing of the exporting itself.
    let said = |sent: &Sent<_>, what: &str| format!("{sent:?}").contains(what);
    assert!(collector.records().iter().any(|sent| said(sent, "draining")));
    assert!(!collector.records().iter().any(|sent| said(sent, "outport::otlp")));
}

/// Every request is a trace, and few wait.
const BUSY: &str = "sample = \"100%\"\nqueue = 16\ntimeout = \"500ms\"\nsignals = [\"traces\"]";

async fn dropped(edge: &TestEdge) -> f64 {
    metric(edge, "outport_otlp_dropped_total{reason=\"queue\",signal=\"traces\"}").await
}

#[tokio::test]
async fn a_collector_that_hangs_costs_pulls_nothing_and_drops_are_counted() {
    const PULLS: usize = 100;
    /// Far above what a warm request takes, and far below what waiting for the collector would.
    const PATIENCE: Duration = Duration::from_millis(400);
    let (collector, origin, image) = (Collector::start().await, Origin::start().await, Image::new(1, &[100_000]));
    origin.push("app", "v1", &image);
    collector.set_hanging(true);
    let edge = Settings::new().upstream("origin.test", &origin).table(&collector.table(BUSY)).start().await;
    pulled(&edge.client, "v1", &image).await;
    let (started, mut slow) = (Instant::now(), Vec::new());
    for _ in 0..PULLS {
        let began = Instant::now();
        pulled(&edge.client, "v1", &image).await;
        slow.extend(Some(began.elapsed()).filter(|took| *took > PATIENCE));
    }
    // A busy machine lets one or two wait.
    assert!(slow.len() < PULLS / 20, "of {PULLS} pulls in {:?} these were slow: {slow:?}", started.elapsed());
    until("spans were dropped", || async {
        pulled(&edge.client, "v1", &image).await;
        dropped(&edge).await > 0.0
    })
    .await;
    assert!(collector.spans().is_empty());
    // It gets what comes when it is well again.
    collector.set_hanging(false);
    until("the collector gets spans", || async {
        pulled(&edge.client, "v1", &image).await;
        !collector.spans().is_empty()
    })
    .await;
    assert!(metric(&edge, "outport_otlp_sent_total{signal=\"traces\"}").await > 0.0);
    edge.finish().await;
}

#[tokio::test]
async fn a_collector_that_was_away_gets_what_waited() {
    let address = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap().local_addr().unwrap();
    let (origin, image) = (Origin::start().await, Image::new(1, &[1_000]));
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).table(&Collector::table_for(address, BUSY)).start().await;
    pulled(&part_of(&edge.client, &parent(TRACE, "01")), "v1", &image).await;
    until("it was looked for in vain", || async {
        metric(&edge, "outport_otlp_requests_total{outcome=\"failed\",signal=\"traces\"}").await > 0.0
    })
    .await;
    let collector = Collector::start_at(address).await;
    until("the spans came", || async { of_kind(collector.spans_of(TRACE), SpanKind::Server).len() == 1 + image.blobs.len() }).await;
    assert_eq!(dropped(&edge).await, 0.0);
    edge.finish().await;
}

#[tokio::test]
async fn what_a_collector_refuses_is_dropped_and_what_it_puts_off_is_sent_again() {
    let collector = Collector::start().await;
    let edge = Settings::new().table(&collector.table(BUSY)).start().await;
    for (status, trace) in [(400, TRACE), (503, OTHER_TRACE)] {
        collector.answer(&[status]);
        assert_eq!(part_of(&edge.client, &parent(trace, "01")).get("/v2/").await.status, 200);
        let outcome = if status == 400 { "refused" } else { "failed" };
        let line = format!("outport_otlp_requests_total{{outcome=\"{outcome}\",signal=\"traces\"}}");
        until(&format!("{status} came"), || async { metric(&edge, &line).await > 0.0 }).await;
    }
    until("what was put off came", || async { !collector.spans_of(OTHER_TRACE).is_empty() }).await;
    assert_eq!(metric(&edge, "outport_otlp_dropped_total{reason=\"refused\",signal=\"traces\"}").await, 1.0);
    assert!(collector.spans_of(TRACE).is_empty());
    edge.finish().await;
}
