//! What is sent, in the protocol's own types: each value becomes what the specification has for it.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as trace, ResourceSpans, ScopeSpans, SpanFlags, Status};
use tracing::Level;

use super::{Identity, Line};
use crate::metrics::{Distribution, Family, Point, Points};
use crate::trace::{Attribute, Context, Kind, Parent, Span, Value};

/// Where the process's own age stands among the metrics.
const STARTED: &str = "process_start_time_seconds";

/// Who speaks (semantic conventions for services).
pub(super) fn resource(identity: &Identity) -> Resource {
    let host = rustix::system::uname();
    let attributes = [
        ("service.name", "outport".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", identity.node.clone()),
        ("host.name", host.nodename().to_string_lossy().into_owned()),
        ("outport.region", identity.region.clone()),
    ];
    Resource { attributes: attributes.into_iter().map(|(key, value)| pair(key, text(value))).collect(), ..Resource::default() }
}

pub(super) fn traces(resource: &Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let spans = ScopeSpans { scope: scope(), spans: spans.into_iter().map(span).collect(), ..ScopeSpans::default() };
    let spans = ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

pub(super) fn logs(resource: &Resource, lines: Vec<Line>) -> ExportLogsServiceRequest {
    let lines = ScopeLogs { scope: scope(), log_records: lines.into_iter().map(record).collect(), ..ScopeLogs::default() };
    let lines = ResourceLogs { resource: Some(resource.clone()), scope_logs: vec![lines], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![lines] }
}

/// All metrics as they stand `now_ns`, and how many data points that are.
pub(super) fn metrics(resource: &Resource, families: &[Family], now_ns: u64) -> (ExportMetricsServiceRequest, usize) {
    let times = Times { began_ns: began_ns(families, now_ns), now_ns };
    let count = families.iter().map(|family| family.points.len()).sum();
    let metrics = families.iter().map(|family| metric(family, times)).collect();
    let metrics = ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() };
    let metrics = ResourceMetrics { resource: Some(resource.clone()), scope_metrics: vec![metrics], ..ResourceMetrics::default() };
    (ExportMetricsServiceRequest { resource_metrics: vec![metrics] }, count)
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = ("outport".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

fn text(text: String) -> any_value::Value {
    any_value::Value::StringValue(text)
}

fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn attribute((key, value): Attribute) -> KeyValue {
    let value = match value {
        Value::Text(value) => text(value),
        Value::Integer(value) => any_value::Value::IntValue(value),
        Value::Number(value) => any_value::Value::DoubleValue(value),
        Value::Flag(value) => any_value::Value::BoolValue(value),
    };
    pair(key, value)
}

fn state(context: &Context) -> String {
    context.state.as_ref().and_then(|state| state.to_str().ok()).unwrap_or_default().to_owned()
}

fn span(span: Span) -> trace::Span {
    let Span { context, parent, kind, name, began_ns, ended_ns, attributes, events, links, is_failed } = span;
    let (parent_span_id, of_parent) = match parent {
        None => (Vec::new(), 0),
        Some(Parent::Here(id)) => (id.to_bytes().to_vec(), SpanFlags::ContextHasIsRemoteMask as u32),
        Some(Parent::Remote(id)) => {
            (id.to_bytes().to_vec(), SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32)
        }
    };
    let kind = match kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    let event = |(name, time_unix_nano): (&str, u64)| Event { name: name.to_owned(), time_unix_nano, ..Event::default() };
    trace::Span {
        trace_id: context.trace_id.to_bytes().to_vec(),
        span_id: context.span_id.to_bytes().to_vec(),
        trace_state: state(&context),
        parent_span_id,
        flags: u32::from(context.flags()) | of_parent,
        name,
        kind: kind.into(),
        start_time_unix_nano: began_ns,
        end_time_unix_nano: ended_ns,
        attributes: attributes.into_iter().map(attribute).collect(),
        events: events.into_iter().map(event).collect(),
        links: links.iter().map(link).collect(),
        // What went well stays unset: whoever reads it decides that.
        status: is_failed.then(|| Status { code: StatusCode::Error.into(), ..Status::default() }),
        ..trace::Span::default()
    }
}

fn link(to: &Context) -> Link {
    Link {
        trace_id: to.trace_id.to_bytes().to_vec(),
        span_id: to.span_id.to_bytes().to_vec(),
        trace_state: state(to),
        flags: u32::from(to.flags()) | SpanFlags::ContextHasIsRemoteMask as u32,
        ..Link::default()
    }
}

fn record(line: Line) -> LogRecord {
    let Line { at_ns, level, target, message, attributes, context } = line;
    let severity = match level {
        Level::TRACE => SeverityNumber::Trace,
        Level::DEBUG => SeverityNumber::Debug,
        Level::INFO => SeverityNumber::Info,
        Level::WARN => SeverityNumber::Warn,
        Level::ERROR => SeverityNumber::Error,
    };
    let attributes = attributes.into_iter().map(attribute).chain([pair("outport.target", text(target.to_owned()))]);
    LogRecord {
        time_unix_nano: at_ns,
        observed_time_unix_nano: at_ns,
        severity_number: severity.into(),
        severity_text: level.as_str().to_owned(),
        // A line of a request has only fields.
        body: (!message.is_empty()).then(|| AnyValue { value: Some(text(message)) }),
        attributes: attributes.collect(),
        flags: context.as_ref().map(|context| context.flags().into()).unwrap_or_default(),
        trace_id: context.as_ref().map(|context| context.trace_id.to_bytes().to_vec()).unwrap_or_default(),
        span_id: context.as_ref().map(|context| context.span_id.to_bytes().to_vec()).unwrap_or_default(),
        ..LogRecord::default()
    }
}

#[derive(Clone, Copy)]
struct Times {
    began_ns: u64,
    now_ns: u64,
}

/// Since when is counted: as long as there is this process.
fn began_ns(families: &[Family], now_ns: u64) -> u64 {
    let started = families.iter().find(|family| family.name == STARTED).and_then(|family| match &family.points {
        Points::Gauges(points) => points.first().map(|point| (point.value * 1e9) as u64),
        Points::Sums(_) | Points::Histograms(_) => None,
    });
    started.unwrap_or(now_ns).min(now_ns)
}

/// The names are those of `/metrics`: whoever knows one finds it in both places.
fn metric(family: &Family, times: Times) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match &family.points {
        Points::Sums(points) => {
            let data_points = points.iter().map(|point| number(point, times)).collect();
            Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
        }
        // A gauge begins at no time.
        Points::Gauges(points) => {
            Data::Gauge(Gauge { data_points: points.iter().map(|point| number(point, Times { began_ns: 0, ..times })).collect() })
        }
        Points::Histograms(points) => {
            let data_points = points.iter().map(|point| histogram(point, times)).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
        }
    };
    let (name, description, unit) = (family.name.clone(), family.help.clone(), unit(&family.name).to_owned());
    Metric { name, description, unit, data: Some(data), ..Metric::default() }
}

/// As the Unified Code for Units of Measure writes it.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

fn labels<T>(point: &Point<T>) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| pair(name, text(value.clone()))).collect()
}

fn number(point: &Point<f64>, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(point),
        start_time_unix_nano: times.began_ns,
        time_unix_nano: times.now_ns,
        value: Some(number_data_point::Value::AsDouble(point.value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts what is at a bound or below; the protocol what lies between two bounds, and at the end what is above the last.
fn histogram(point: &Point<Distribution>, times: Times) -> HistogramDataPoint {
    let Distribution { count, sum, buckets } = &point.value;
    let (mut below, mut bucket_counts) = (0, Vec::with_capacity(buckets.len() + 1));
    for up_to in buckets.iter().map(|(_, count)| *count).chain([*count]) {
        bucket_counts.push(up_to.saturating_sub(below));
        below = up_to;
    }
    HistogramDataPoint {
        attributes: labels(point),
        start_time_unix_nano: times.began_ns,
        time_unix_nano: times.now_ns,
        count: *count,
        sum: Some(*sum),
        bucket_counts,
        explicit_bounds: buckets.iter().map(|(bound, _)| *bound).collect(),
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW_NS: u64 = 1_800_000_000_000_000_000;

    fn identity() -> Identity {
        Identity { region: "eu".to_owned(), node: "01J".to_owned() }
    }

    fn found<'a>(attributes: &'a [KeyValue], key: &str) -> &'a any_value::Value {
        let pair = attributes.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("no {key} in {attributes:?}"));
        pair.value.as_ref().and_then(|value| value.value.as_ref()).unwrap()
    }

    fn sent(families: &[Family]) -> Vec<Metric> {
        let (mut message, _) = metrics(&resource(&identity()), families, NOW_NS);
        message.resource_metrics.remove(0).scope_metrics.remove(0).metrics
    }

    fn point<T>(value: T) -> Point<T> {
        Point { labels: vec![("tier".to_owned(), "disk".to_owned())], value }
    }

    fn family(name: &str, points: Points) -> Family {
        Family { name: name.to_owned(), help: "What it is.".to_owned(), points }
    }

    #[test]
    fn who_speaks_is_told() {
        let attributes = resource(&identity()).attributes;
        for (key, value) in [("service.name", "outport"), ("service.instance.id", "01J"), ("outport.region", "eu")] {
            assert_eq!(*found(&attributes, key), text(value.to_owned()));
        }
    }

    #[test]
    fn a_counter_is_a_sum_since_the_process_began() {
        let started = family(STARTED, Points::Gauges(vec![point(1_799_999_999.5)]));
        let sent = sent(&[family("outport_cache_evictions_total", Points::Sums(vec![point(7.0)])), started]);
        let Some(Data::Sum(sum)) = &sent[0].data else { panic!("{sent:?}") };
        assert_eq!((sum.is_monotonic, sum.aggregation_temporality()), (true, AggregationTemporality::Cumulative));
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(7.0)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_799_999_999_500_000_000, NOW_NS));
        assert_eq!(*found(&point.attributes, "tier"), text("disk".to_owned()));
        assert_eq!((sent[0].name.as_str(), sent[0].description.as_str()), ("outport_cache_evictions_total", "What it is."));
    }

    #[test]
    fn a_gauge_is_a_gauge() {
        let sent = sent(&[family("outport_cache_bytes", Points::Gauges(vec![point(-0.5)]))]);
        let Some(Data::Gauge(gauge)) = &sent[0].data else { panic!("{sent:?}") };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(-0.5)));
        assert_eq!((gauge.data_points[0].start_time_unix_nano, sent[0].unit.as_str()), (0, "By"));
    }

    #[test]
    fn a_histogram_counts_between_its_bounds() {
        let value = Distribution { count: 10, sum: 12.5, buckets: vec![(0.5, 1), (1.0, 1), (2.5, 7)] };
        let families = [family("outport_request_seconds", Points::Histograms(vec![point(value)]))];
        let sent = sent(&families);
        let Some(Data::Histogram(histogram)) = &sent[0].data else { panic!("{sent:?}") };
        assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (10, Some(12.5)));
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 0, 6, 3][..], &[0.5, 1.0, 2.5][..]));
        // Without a start of the process it begins now.
        assert_eq!((point.start_time_unix_nano, sent[0].unit.as_str()), (NOW_NS, "s"));
        assert_eq!(metrics(&Resource::default(), &families, NOW_NS).1, 1);
    }

    #[test]
    fn units_follow_from_names() {
        for (name, expected) in [
            ("outport_response_bytes_total", "By"),
            ("outport_certificate_expiry_timestamp_seconds", "s"),
            ("process_cpu_seconds_total", "s"),
            ("outport_requests_total", ""),
            ("", ""),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
    }

    #[test]
    fn a_span_says_whose_it_is() {
        let mut remote = Context::root();
        remote.state = Some(HeaderValue::from_static("a=1"));
        let others = Context::root();
        let context = remote.child();
        let spans = [Some(Parent::Remote(remote.span_id)), Some(Parent::Here(remote.span_id)), None].map(|parent| Span {
            context: context.clone(),
            parent,
            kind: Kind::Server,
            name: "GET blob".to_owned(),
            began_ns: 1,
            ended_ns: 3,
            attributes: vec![("http.response.status_code", Value::from(200_i64)), ("outport.repository", "a/b".into())],
            events: vec![("first byte", 2)],
            links: vec![others.clone()],
            is_failed: parent.is_none(),
        });
        let mut message = traces(&Resource::default(), spans.to_vec());
        let sent = message.resource_spans.remove(0).scope_spans.remove(0).spans;
        assert_eq!(sent.iter().map(|span| span.flags).collect::<Vec<_>>(), [0x301, 0x101, 0x001]);
        let [first, _, last] = &sent[..] else { panic!("three spans") };
        assert_eq!((&first.trace_id[..], &first.span_id[..]), (&context.trace_id.to_bytes()[..], &context.span_id.to_bytes()[..]));
        assert_eq!((&first.parent_span_id[..], last.parent_span_id.len()), (&remote.span_id.to_bytes()[..], 0));
        assert_eq!((first.kind(), first.trace_state.as_str(), first.name.as_str()), (SpanKind::Server, "a=1", "GET blob"));
        assert_eq!((first.start_time_unix_nano, first.end_time_unix_nano, first.events[0].time_unix_nano), (1, 3, 2));
        assert_eq!(first.links[0].trace_id, others.trace_id.to_bytes());
        assert_eq!(*found(&first.attributes, "http.response.status_code"), any_value::Value::IntValue(200));
        assert_eq!((first.status.is_none(), last.status.as_ref().map(|status| status.code())), (true, Some(StatusCode::Error)));
    }

    #[test]
    fn a_line_says_how_bad_and_for_what() {
        let context = Context::root();
        let line = Line {
            at_ns: 5,
            level: Level::WARN,
            target: "outport::cache",
            message: "it is full".to_owned(),
            attributes: vec![("bytes", Value::from(7_i64)), ("held", true.into()), ("ratio", 0.5.into())],
            context: Some(context.clone()),
        };
        let bare = Line { message: String::new(), context: None, ..line.clone() };
        let mut message = logs(&Resource::default(), vec![line, bare]);
        let sent = message.resource_logs.remove(0).scope_logs.remove(0).log_records;
        assert_eq!((sent[0].severity_number(), sent[0].severity_text.as_str()), (SeverityNumber::Warn, "WARN"));
        assert_eq!((sent[0].time_unix_nano, sent[0].body.is_some(), sent[1].body.is_none()), (5, true, true));
        assert_eq!((&sent[0].trace_id[..], &sent[0].span_id[..]), (&context.trace_id.to_bytes()[..], &context.span_id.to_bytes()[..]));
        assert_eq!((sent[0].flags, sent[1].trace_id.len()), (1, 0));
        for (key, value) in [
            ("bytes", any_value::Value::IntValue(7)),
            ("held", any_value::Value::BoolValue(true)),
            ("ratio", any_value::Value::DoubleValue(0.5)),
            ("outport.target", text("outport::cache".to_owned())),
        ] {
            assert_eq!(*found(&sent[0].attributes, key), value);
        }
    }
}
