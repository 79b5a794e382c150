//! A collector by hand: it reads what OTLP over HTTP brings, and hangs or refuses as a test wants.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::inbox::Inbox;
use super::wire::Head;

/// A running collector; it ends with the test's runtime.
#[derive(Clone)]
pub struct Collector {
    inbox: Inbox,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    heads: Vec<Head>,
    spans: Vec<Sent<Span>>,
    records: Vec<Sent<LogRecord>>,
    metrics: Vec<Sent<Metric>>,
}

/// What an edge has sent.
#[derive(Clone, Debug)]
pub struct Sent<T> {
    /// Of the edge.
    pub region: String,
    pub what: T,
}

/// The value of an attribute as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let pair = attributes.iter().find(|pair| pair.key == key)?;
    Some(match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(integer) => integer.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{key} is {other:?}"),
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sent<Span> {
    pub fn id(&self) -> String {
        hex(&self.what.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.what.parent_span_id)
    }

    pub fn text(&self, key: &str) -> String {
        attribute(&self.what.attributes, key).unwrap_or_default()
    }
}

impl Collector {
    pub async fn start() -> Collector {
        Collector::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(address: SocketAddr) -> Collector {
        let taken = Arc::<Mutex<Taken>>::default();
        let gathered = taken.clone();
        let inbox = Inbox::open(address, move |head, body, status| {
            if status == Some(200) {
                gathered.lock().expect("no panic meanwhile").take(head, body);
            }
        });
        Collector { inbox: inbox.await, taken }
    }

    /// The configuration's table for a collector there, with further lines.
    pub fn table_for(address: SocketAddr, lines: &str) -> String {
        format!("[otlp]\nendpoint = \"http://{address}\"\n{lines}")
    }

    pub fn table(&self, lines: &str) -> String {
        Collector::table_for(self.inbox.address, lines)
    }

    /// The next requests are answered so, and nothing of them is taken; those after them are.
    pub fn answer(&self, statuses: &[u16]) {
        self.inbox.answer(statuses);
    }

    /// Whether requests are read and never answered, nor taken.
    pub fn set_hanging(&self, is_hanging: bool) {
        self.inbox.set_hanging(is_hanging);
    }

    /// The heads of the requests that were taken.
    pub fn heads(&self) -> Vec<Head> {
        self.taken.lock().expect("no panic meanwhile").heads.clone()
    }

    pub fn spans(&self) -> Vec<Sent<Span>> {
        self.taken.lock().expect("no panic meanwhile").spans.clone()
    }

    /// Those of one trace, by its identifier in hexadecimal digits.
    pub fn spans_of(&self, trace: &str) -> Vec<Sent<Span>> {
        self.spans().into_iter().filter(|sent| hex(&sent.what.trace_id) == trace).collect()
    }

    pub fn records(&self) -> Vec<Sent<LogRecord>> {
        self.taken.lock().expect("no panic meanwhile").records.clone()
    }

    pub fn metrics(&self) -> Vec<Sent<Metric>> {
        self.taken.lock().expect("no panic meanwhile").metrics.clone()
    }
}

impl Taken {
    /// What is no request of the protocol's makes this panic, and is never taken.
    fn take(&mut self, head: &Head, body: &[u8]) {
        assert_eq!(head.header("content-type"), Some("application/x-protobuf"));
        let mut plain = Vec::new();
        match head.header("content-encoding") {
            Some("gzip") => GzDecoder::new(body).read_to_end(&mut plain).map(drop).expect("it is compressed"),
            None => plain.extend_from_slice(body),
            Some(other) => panic!("it is encoded as {other}"),
        }
        let region = |attributes: &[KeyValue]| {
            assert_eq!(attribute(attributes, "service.name").as_deref(), Some("outport"));
            attribute(attributes, "outport.region").expect("an edge has a region")
        };
        match head.start.as_str() {
            "POST /v1/traces HTTP/1.1" => {
                for sent in ExportTraceServiceRequest::decode(&plain[..]).expect("spans").resource_spans {
                    let region = region(&sent.resource.expect("a resource").attributes);
                    let spans = sent.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    self.spans.extend(spans.map(|what| Sent { region: region.clone(), what }));
                }
            }
            "POST /v1/logs HTTP/1.1" => {
                for sent in ExportLogsServiceRequest::decode(&plain[..]).expect("log records").resource_logs {
                    let region = region(&sent.resource.expect("a resource").attributes);
                    let records = sent.scope_logs.into_iter().flat_map(|scope| scope.log_records);
                    self.records.extend(records.map(|what| Sent { region: region.clone(), what }));
                }
            }
            "POST /v1/metrics HTTP/1.1" => {
                for sent in ExportMetricsServiceRequest::decode(&plain[..]).expect("metrics").resource_metrics {
                    let region = region(&sent.resource.expect("a resource").attributes);
                    let metrics = sent.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                    self.metrics.extend(metrics.map(|what| Sent { region: region.clone(), what }));
                }
            }
            other => panic!("{other:?} is none of the protocol's requests"),
        }
        self.heads.push(head.clone());
    }
}
