//! Which trace a piece of work belongs to, and the spans that this edge adds to it.
//!
//! A request that comes with a valid `traceparent` belongs to the trace that it names, and its sender has decided whether that is
//! recorded; of the others a share, drawn here, begins traces of its own. Requests that this edge sends for it are told where they
//! belong. That is so without a collector, too: then nothing is recorded, and what came is passed on as it came (W3C Trace Context,
//! section 4.1). A request that belongs to no trace costs one look for a header, and sends none.
//!
//! The [`Part`] of a request goes with its task, not through the arguments of every call between a listener and the upstream that may or
//! may not be asked. Tasks that are started for it take it along by [`carried`]. Work that several wait for belongs to whoever began it;
//! the others' spans refer to it ([`link`]). (The key of a task-local is a `static`. It holds nothing: what it leads to lives in tasks.)

mod context;
mod span;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::Either;
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use context::{Context, SpanId, TRACEPARENT, TRACESTATE, TraceId};
pub use span::{Answered, Attribute, Kind, Parent, Span, Value};

use crate::clock::Clock;
use crate::metrics::Metrics;

/// Pieces of work to which one span refers, at most.
const MAX_LINKS: usize = 32;

tokio::task_local! {
    static CURRENT: Part;
}

/// Begins the parts of requests. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    /// Of so many draws from all of 64 bits one in this share begins a trace; `None` for each.
    below: Option<u64>,
    ended: mpsc::Sender<Span>,
    clock: Clock,
    metrics: Metrics,
}

/// What a task works for. Cloning is cheap; all clones are one.
#[derive(Clone, Debug)]
pub struct Part(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Context,
    /// `None` where its sender does not want it recorded, or nothing here records.
    recorded: Option<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    recorder: Arc<Recorder>,
    parent: Option<SpanId>,
    began: Moment,
    links: Mutex<Vec<Context>>,
}

/// A point in time from which durations are measured.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at_ns: u64,
    instant: Instant,
}

impl Moment {
    fn now(clock: &Clock) -> Moment {
        Moment { at_ns: clock.now_ns(), instant: Instant::now() }
    }

    fn after(self, time: Duration) -> u64 {
        self.at_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    fn until_now(self) -> u64 {
        self.after(self.instant.elapsed())
    }
}

impl Recorder {
    fn draws(&self) -> bool {
        self.below.is_none_or(|below| fastrand::u64(..) < below)
    }

    fn take(&self, span: Span) {
        if self.ended.try_send(span).is_err() {
            self.metrics.otlp_dropped("traces", "queue", 1);
        }
    }
}

impl Tracer {
    /// Records nothing; what requests say of traces is passed on.
    pub fn off() -> Tracer {
        Tracer::default()
    }

    /// Spans that have ended can be taken from the receiver; `room` of them wait there, further ones are dropped and counted. `share`
    /// (0 to 1) of the requests that belong to no trace begin one.
    pub fn new(share: f64, room: usize, clock: Clock, metrics: Metrics) -> (Tracer, mpsc::Receiver<Span>) {
        let (ended, spans) = mpsc::channel(room);
        // 2^64 is exact; the product is cut to what 64 bits hold.
        let below = (share < 1.0).then_some((share * 18_446_744_073_709_551_616.0) as u64);
        (Tracer(Some(Arc::new(Recorder { below, ended, clock, metrics }))), spans)
    }

    /// The part of a request with these headers; `None` if it belongs to no trace.
    pub fn begin(&self, headers: &HeaderMap) -> Option<Part> {
        let parent = Context::of(headers);
        let (context, recorded) = match (&self.0, parent) {
            (None, None) => return None,
            (Some(recorder), None) if !recorder.draws() => return None,
            (Some(recorder), None) => (Context::root(), Some((recorder, None))),
            (Some(recorder), Some(parent)) if parent.is_sampled() => (parent.child(), Some((recorder, Some(parent.span_id)))),
            // Nothing stands between the sender and those that are asked for it.
            (_, Some(parent)) => (parent, None),
        };
        let recorded = recorded.map(|(recorder, parent)| Recorded {
            recorder: recorder.clone(),
            parent,
            began: Moment::now(&recorder.clock),
            links: Mutex::default(),
        });
        Some(Part(Arc::new(Inner { context, recorded })))
    }
}

impl Part {
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn trace_id(&self) -> TraceId {
        self.0.context.trace_id
    }

    /// Whether another one began the trace.
    pub fn has_parent(&self) -> bool {
        self.0.recorded.as_ref().is_none_or(|recorded| recorded.parent.is_some())
    }

    /// Does a work as a part of this.
    pub fn during<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// The same for a work that waits for nothing.
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// The request has been answered: its span ends now. What it was is only asked for a span that is recorded.
    pub fn finish(&self, answered: impl FnOnce() -> Answered) {
        let Inner { context, recorded: Some(recorded) } = &*self.0 else { return };
        let Answered { name, attributes, first_byte, is_failed } = answered();
        let span = Span {
            context: context.clone(),
            parent: recorded.parent.map(Parent::Remote),
            kind: Kind::Server,
            name,
            began_ns: recorded.began.at_ns,
            ended_ns: recorded.began.until_now(),
            attributes,
            events: first_byte.map(|after| ("first byte", recorded.began.after(after))).into_iter().collect(),
            links: std::mem::take(&mut *recorded.links.lock().unwrap_or_else(PoisonError::into_inner)),
            is_failed,
        };
        recorded.recorder.take(span);
    }
}

/// What the task at hand works for.
pub fn current() -> Option<Part> {
    CURRENT.try_with(Clone::clone).ok()
}

/// A work for a task of its own, as a part of what the task at hand works for.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    match current() {
        Some(part) => Either::Left(part.during(work)),
        None => Either::Right(work),
    }
}

/// The task at hand waits for what is done as a part of another trace, or of another request in this one.
pub fn link(other: &Context) {
    let _ = CURRENT.try_with(|part| {
        let Inner { context, recorded: Some(recorded) } = &*part.0 else { return };
        let mut links = recorded.links.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = context.span_id != other.span_id && links.iter().all(|known| known.span_id != other.span_id);
        if is_new && links.len() < MAX_LINKS {
            links.push(other.clone());
        }
    });
}

/// A request on its way to another server, up to the head of its answer. Dropped before it has [`ended`](Self::ended), it was given up.
#[derive(Debug, Default)]
pub struct Call(Option<Box<Calling>>);

#[derive(Debug)]
struct Calling {
    part: Part,
    context: Context,
    began: Moment,
    name: String,
    attributes: Vec<Attribute>,
    outcome: Result<StatusCode, &'static str>,
}

/// A request is about to be sent: it is told which trace it belongs to, if to any. `whom` says who is asked, as an attribute of the span.
pub fn call<B>(request: &mut Request<B>, whom: (&'static str, &str)) -> Call {
    let Some(part) = current() else { return Call::default() };
    let Inner { context, recorded } = &*part.0;
    let Some(recorded) = recorded else {
        context.put_on(request.headers_mut());
        return Call::default();
    };
    let context = context.child();
    context.put_on(request.headers_mut());
    let (method, uri) = (request.method(), request.uri());
    // Not the query: behind a redirect it is often what lets the bearer in.
    let url = format!("{}://{}{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |host| host.as_str()), uri.path());
    let mut attributes: Vec<Attribute> = vec![
        ("http.request.method", method.as_str().to_owned().into()),
        ("url.full", url.into()),
        ("server.address", uri.host().unwrap_or_default().to_owned().into()),
        (whom.0, whom.1.to_owned().into()),
    ];
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    attributes.extend(port.map(|port| ("server.port", i64::from(port).into())));
    let name = format!("{method} {}", whom.1);
    let began = Moment::now(&recorded.recorder.clock);
    Call(Some(Box::new(Calling { part: part.clone(), context, began, name, attributes, outcome: Err("cancelled") })))
}

impl Call {
    /// It was answered so, or went wrong: then a fixed word says how.
    pub fn ended(mut self, outcome: Result<StatusCode, &'static str>) {
        if let Some(calling) = &mut self.0 {
            calling.outcome = outcome;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(calling) = self.0.take() else { return };
        let Calling { part, context, began, name, mut attributes, outcome } = *calling;
        let Some(recorded) = &part.0.recorded else { return };
        attributes.extend(outcome.ok().map(|status| ("http.response.status_code", i64::from(status.as_u16()).into())));
        // As the semantic conventions have it: of who asks, each 4xx and 5xx is a failure.
        let failure = match outcome {
            Ok(status) => (status.as_u16() >= 400).then(|| status.as_str().to_owned()),
            Err(word) => Some(word.to_owned()),
        };
        let is_failed = failure.is_some();
        attributes.extend(failure.map(|word| ("error.type", word.into())));
        recorded.recorder.take(Span {
            context,
            parent: Some(Parent::Here(part.0.context.span_id)),
            kind: Kind::Client,
            name,
            began_ns: began.at_ns,
            ended_ns: began.until_now(),
            attributes,
            events: Vec::new(),
            links: Vec::new(),
            is_failed,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn headers(parent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(parent)), (TRACESTATE, HeaderValue::from_static("a=1"))])
    }

    fn tracer(share: f64, room: usize) -> (Tracer, mpsc::Receiver<Span>, Metrics) {
        let metrics = Metrics::new();
        let (tracer, spans) = Tracer::new(share, room, Clock::system(), metrics.clone());
        (tracer, spans, metrics)
    }

    fn answered() -> Answered {
        Answered { name: "GET blob".into(), attributes: Vec::new(), first_byte: Some(Duration::from_millis(3)), is_failed: false }
    }

    fn request() -> Request<()> {
        Request::get("https://a.test/v2/x?signature=s3cret").body(()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_told_whose_trace_it_belongs_to() {
        let (tracer, mut spans, _) = tracer(0.0, 8);
        let part = tracer.begin(&headers(SAMPLED)).unwrap();
        let sending = async {
            let mut request = request();
            call(&mut request, ("outport.upstream", "a.test")).ended(Ok(StatusCode::NOT_FOUND));
            request
        };
        let sent = part.clone().during(async { tokio::spawn(carried(sending)).await.unwrap() }).await;
        let sent = Context::of(sent.headers()).unwrap();
        part.finish(answered);
        let (client, server) = (spans.recv().await.unwrap(), spans.recv().await.unwrap());
        let parent = Context::of(&headers(SAMPLED)).unwrap();
        assert_eq!((server.kind, server.parent), (Kind::Server, Some(Parent::Remote(parent.span_id))));
        assert_eq!((client.kind, client.parent), (Kind::Client, Some(Parent::Here(server.context.span_id))));
        assert_eq!((&sent, &client.context.trace_id, &sent.state), (&client.context, &parent.trace_id, &parent.state));
        assert!(client.is_failed && !server.is_failed && server.ended_ns >= server.began_ns, "{client:?} {server:?}");
        assert_eq!(server.events, [("first byte", server.began_ns + 3_000_000)]);
        let shown = format!("{client:?}");
        assert!(shown.contains("https://a.test/v2/x") && !shown.contains("s3cret"), "{shown}");
    }

    #[tokio::test]
    async fn what_is_not_recorded_is_passed_on_as_it_came() {
        let (recording, mut spans, _) = tracer(1.0, 8);
        for (tracer, parent) in [(&Tracer::off(), SAMPLED), (&recording, UNSAMPLED)] {
            let part = tracer.begin(&headers(parent)).unwrap();
            let mut request = request();
            part.inside(|| call(&mut request, ("outport.upstream", "a.test")).ended(Ok(StatusCode::OK)));
            assert_eq!(request.headers()[TRACEPARENT], parent);
            assert_eq!(request.headers()[TRACESTATE], "a=1");
            part.finish(|| panic!("nobody records it"));
        }
        assert!(spans.try_recv().is_err() && Tracer::off().begin(&HeaderMap::new()).is_none());
        let mut request = request();
        call(&mut request, ("outport.upstream", "a.test")).ended(Ok(StatusCode::OK));
        assert!(request.headers().is_empty());
    }

    #[test]
    fn a_share_of_the_others_begins_a_trace() {
        for (share, least, most) in [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.1, 700, 1_300)] {
            let (tracer, _spans, _) = tracer(share, 1);
            let begun = (0..10_000).filter(|_| tracer.begin(&HeaderMap::new()).is_some()).count();
            assert!((least..=most).contains(&begun), "{share}: {begun}");
        }
    }

    #[test]
    fn spans_that_nobody_takes_are_dropped_and_counted() {
        let (tracer, mut spans, metrics) = tracer(1.0, 2);
        (0..5).for_each(|_| tracer.begin(&HeaderMap::new()).unwrap().finish(answered));
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
        let line = "outport_otlp_dropped_total{reason=\"queue\",signal=\"traces\"} 3";
        assert!(metrics.render().contains(line), "{}", metrics.render());
    }

    #[test]
    fn who_waits_for_anothers_work_refers_to_it() {
        let (tracer, mut spans, _) = tracer(1.0, 4);
        let (waits, others) = (tracer.begin(&HeaderMap::new()).unwrap(), Context::root());
        waits.inside(|| {
            for _ in 0..2 {
                link(&others);
                link(waits.context());
            }
            (0..2 * MAX_LINKS).for_each(|_| link(&Context::root()));
        });
        link(&others);
        waits.finish(answered);
        let links = spans.try_recv().unwrap().links;
        assert_eq!((links.len(), &links[0]), (MAX_LINKS, &others));
    }

    #[test]
    fn a_request_that_is_given_up_leaves_a_span() {
        let (tracer, mut spans, _) = tracer(1.0, 4);
        let part = tracer.begin(&HeaderMap::new()).unwrap();
        part.inside(|| drop(call(&mut request(), ("outport.region", "us"))));
        let span = spans.try_recv().unwrap();
        assert!(span.is_failed && span.attributes.contains(&("error.type", Value::from("cancelled".to_owned()))), "{span:?}");
    }
}
