//! The collector: one request, what its answer means, and when it is sent again (OTLP specification, "OTLP/HTTP Response").

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::{self, SIGNALS, Signal};
use crate::dial::{self, Client, DialError, Proxies, Resolver};
use crate::metrics::Metrics;

/// How often a message is sent, at most. With the pauses in between that takes minutes.
const MAX_TRIES: u32 = 10;
/// The pause after the first try; doubled after each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What a `Retry-After` is cut to.
const LONGEST_TOLD: Duration = Duration::from_secs(60);
/// Smaller messages are sent as they are.
const MIN_COMPRESSED_BYTES: usize = 1024;
/// Of an answer so much is read, and for so long.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const ANSWER_TIME: Duration = Duration::from_secs(1);

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("outport/", env!("CARGO_PKG_VERSION")));
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// A message that is ready to be sent.
pub(super) struct Parcel {
    signal: Signal,
    /// Spans, lines or data points in it.
    count: u64,
    body: Bytes,
    is_compressed: bool,
}

impl Parcel {
    pub fn new(signal: Signal, count: usize, message: &[u8]) -> Parcel {
        let compressed = (message.len() >= MIN_COMPRESSED_BYTES).then(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(message).and_then(|()| encoder.finish())
        });
        // Writing into memory does not fail.
        let (body, is_compressed) = match compressed {
            Some(Ok(compressed)) => (compressed.into(), true),
            Some(Err(_)) | None => (Bytes::copy_from_slice(message), false),
        };
        Parcel { signal, count: count as u64, body, is_compressed }
    }
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was taken, but for so many spans, lines or data points.
    Taken { rejected: u64, why: String },
    /// To send it again would be the same.
    Refused(String),
    /// It may be taken later; perhaps it was said when.
    Later { why: String, after: Option<Duration> },
}

pub(super) struct Collector {
    client: Client,
    /// Where each signal goes, as [`SIGNALS`] has them.
    targets: [Uri; SIGNALS.len()],
    headers: HeaderMap,
    timeout: Duration,
    /// Of each signal: the last request was not taken.
    failing: [AtomicBool; SIGNALS.len()],
    metrics: Metrics,
    closing: watch::Receiver<bool>,
}

impl Collector {
    /// # Errors
    /// [`DialError::CaFile`]; [`DialError::Target`] for a URL that cannot be asked for.
    pub fn new(
        settings: &config::Otlp,
        (resolver, proxies): (Resolver, Proxies),
        metrics: Metrics,
        closing: watch::Receiver<bool>,
    ) -> Result<Collector, DialError> {
        let dialled = dial::Settings {
            ca_file: settings.ca_file.clone(),
            private_networks: settings.private_networks.clone(),
            named_hosts: settings.endpoint.host_str().map(str::to_owned).into_iter().collect(),
            connect_timeout: settings.timeout,
            read_timeout: settings.timeout,
            max_connections: SIGNALS.len(),
            max_idle: SIGNALS.len(),
            server_name: None,
        };
        let base = settings.endpoint.as_str().trim_end_matches('/');
        let target = |signal: Signal| {
            let text = format!("{base}/v1/{}", signal.as_str());
            text.parse::<Uri>().map_err(|_| DialError::Target { target: text, why: "it is no URI" })
        };
        let [traces, logs, metrics_target] = SIGNALS.map(target);
        let mut headers: HeaderMap = [(header::CONTENT_TYPE, PROTOBUF), (header::USER_AGENT, USER_AGENT)].into_iter().collect();
        for (name, value) in &settings.headers {
            // Both were judged with the configuration.
            if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::from_str(value.expose())) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Ok(Collector {
            client: Client::new(dialled, resolver, proxies)?,
            targets: [traces?, logs?, metrics_target?],
            headers,
            timeout: settings.timeout,
            failing: Default::default(),
            metrics,
            closing,
        })
    }

    /// Sends a message until it is taken or refused, or was tried often enough; while the edge ends, once.
    pub async fn deliver(&self, parcel: &Parcel) {
        let mut closing = self.closing.clone();
        for tries in 1..=MAX_TRIES {
            let is_last = tries == MAX_TRIES || *closing.borrow();
            let outcome = self.attempt(parcel).await;
            self.note(parcel.signal, &outcome);
            match outcome {
                Outcome::Taken { rejected, .. } => {
                    let rejected = rejected.min(parcel.count);
                    self.metrics.otlp_sent(parcel.signal.as_str(), parcel.count - rejected);
                    self.metrics.otlp_dropped(parcel.signal.as_str(), "refused", rejected);
                    return;
                }
                Outcome::Refused(_) => return self.dropped(parcel, "refused"),
                Outcome::Later { .. } if is_last => {
                    return self.dropped(parcel, if tries == MAX_TRIES { "attempts" } else { "shutdown" });
                }
                Outcome::Later { after, .. } => {
                    tokio::select! {
                        () = sleep(pause(tries, after, fastrand::f64())) => {}
                        _ = closing.wait_for(|closing| *closing) => {}
                    }
                }
            }
        }
    }

    /// The collector does not get this.
    pub fn dropped(&self, parcel: &Parcel, reason: &'static str) {
        self.metrics.otlp_dropped(parcel.signal.as_str(), reason, parcel.count);
    }

    /// Counts a try, and says it when things have changed: once, and not for each message.
    fn note(&self, signal: Signal, outcome: &Outcome) {
        let (word, why) = match outcome {
            Outcome::Taken { rejected: 0, .. } => ("taken", None),
            Outcome::Taken { why, .. } => ("taken", Some(why)),
            Outcome::Refused(why) => ("refused", Some(why)),
            Outcome::Later { why, .. } => ("failed", Some(why)),
        };
        self.metrics.otlp_request(signal.as_str(), word);
        let was_failing = self.failing[signal as usize].swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !was_failing => {
                tracing::warn!(signal = signal.as_str(), why, "the collector does not take what it is sent; what is dropped is counted");
            }
            None if was_failing => tracing::info!(signal = signal.as_str(), "the collector takes what it is sent again"),
            _ => {}
        }
    }

    async fn attempt(&self, parcel: &Parcel) -> Outcome {
        let later = |why| Outcome::Later { why, after: None };
        let answer = match timeout(self.timeout, self.client.send(self.request(parcel))).await {
            Err(_) => return later("no answer in time".to_owned()),
            Ok(Err(error)) => return later(error.to_string()),
            Ok(Ok(answer)) => answer,
        };
        let (head, body) = answer.into_parts();
        let body = timeout(ANSWER_TIME, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
        let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        judge(head.status, &head.headers, &body)
    }

    fn request(&self, parcel: &Parcel) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(parcel.body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.targets[parcel.signal as usize].clone();
        *request.headers_mut() = self.headers.clone();
        if parcel.is_compressed {
            request.headers_mut().insert(header::CONTENT_ENCODING, GZIP);
        }
        request
    }
}

/// What an answer means. A redirect is none of ours to follow: headers may be secrets.
fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    match status.as_u16() {
        200..300 => {
            // The answers of all three signals have the same form. One that is something else says nothing of a part that was not taken.
            let partly = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
            let (rejected, why) = partly.map(|partly| (partly.rejected_spans, partly.error_message)).unwrap_or_default();
            Outcome::Taken { rejected: u64::try_from(rejected).unwrap_or_default(), why }
        }
        429 | 502..=504 => Outcome::Later { why: status.to_string(), after: retry_after(headers) },
        _ => Outcome::Refused(status.to_string()),
    }
}

/// In seconds; a date is left to our own pauses.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// How long to wait after so many tries; `draw`, from 0 to 1, keeps edges from coming all at once.
fn pause(tries: u32, told: Option<Duration>, draw: f64) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(LONGEST_PAUSE);
    told.map_or_else(|| own.mul_f64(0.5 + draw / 2.0), |told| told.min(LONGEST_TOLD))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    use flate2::read::GzDecoder;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::super::tests::{outside, settings};
    use super::*;
    use crate::dial::Outside;

    #[tokio::test]
    async fn a_failure_is_said_once_until_it_is_over() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (metrics, sink, closing) = (Metrics::new(), Sink::default(), watch::Sender::new(false));
        let Outside { resolver, proxies, .. } = outside(&metrics);
        let nowhere = settings(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
        let collector = Collector::new(&nowhere, (resolver, proxies), metrics.clone(), closing.subscribe()).unwrap();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..3 {
                (0..100).for_each(|_| collector.note(Signal::Logs, &Outcome::Later { why: "gone".to_owned(), after: None }));
                (0..100).for_each(|_| collector.note(Signal::Logs, &Outcome::Taken { rejected: 0, why: String::new() }));
            }
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!((text.matches("does not take").count(), text.matches("takes what it is sent again").count()), (3, 3), "{text}");
        let counted = "outport_otlp_requests_total{outcome=\"failed\",signal=\"logs\"} 300";
        assert!(metrics.render().contains(counted), "{}", metrics.render());
    }

    #[test]
    fn only_what_may_pass_is_sent_again() {
        let headers = |after: &'static str| HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(after))]);
        let later = |status: u16, after| match judge(StatusCode::from_u16(status).unwrap(), &headers(after), b"") {
            Outcome::Later { after, .. } => Some(after),
            Outcome::Refused(_) => None,
            taken @ Outcome::Taken { .. } => panic!("{taken:?}"),
        };
        for (status, told, expected) in [
            (429, "7", Some(Some(Duration::from_secs(7)))),
            (502, "soon", Some(None)),
            (503, "Wed, 21 Oct 2026 07:28:00 GMT", Some(None)),
            (504, "-1", Some(None)),
            (301, "7", None),
            (400, "7", None),
            (401, "7", None),
            (413, "7", None),
            (500, "7", None),
            (501, "7", None),
        ] {
            assert_eq!(later(status, told), expected, "{status} {told}");
        }
    }

    #[test]
    fn a_part_that_was_not_taken_is_known() {
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() });
        let partly = ExportTraceServiceResponse { partial_success }.encode_to_vec();
        for (body, rejected, why) in [(&partly[..], 3, "too old"), (b"", 0, ""), (b"{}", 0, ""), (b"\xff\xff\xff", 0, "")] {
            let outcome = judge(StatusCode::OK, &HeaderMap::new(), body);
            assert_eq!(outcome, Outcome::Taken { rejected, why: why.to_owned() }, "{body:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let seconds = |tries, draw| pause(tries, None, draw).as_secs_f64();
        assert_eq!([1, 2, 3, 4, 5, 6, u32::MAX].map(|tries| seconds(tries, 1.0)), [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(seconds(1, 0.0), 0.5);
        assert_eq!(pause(1, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::MAX), 0.0), LONGEST_TOLD);
    }

    #[test]
    fn large_messages_are_compressed() {
        let large = vec![7; 100_000];
        let parcel = Parcel::new(Signal::Logs, 3, &large);
        let mut read = Vec::new();
        GzDecoder::new(&parcel.body[..]).read_to_end(&mut read).unwrap();
        assert!(parcel.is_compressed && parcel.body.len() < 10_000 && read == large);
        let small = Parcel::new(Signal::Logs, 1, b"small");
        assert!(!small.is_compressed && small.body == "small");
    }
}
