//! The access log: one record for each request, written when its answer has ended. What it gathers goes into the audit record, too.
//!
//! What a client chose (agent, path of a request that went nowhere) is cleaned first: printable ASCII only, the rest escaped,
//! and cut to a length. Headers other than User-Agent and X-Request-Id, and query parameters, are never written.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use tokio::time::Instant;
use tracing::Level;

use super::acr::Acr;
use super::audit::Notes;
use super::connection::Connection;
use super::forwarded;
use super::route::{Action, Begin, Command, Push, Question, Wanted};
use crate::access::{Caller, Principal};
use crate::cache::{Answer, Freshness, Source};
use crate::journal::{OF_REQUESTS, TextLine, TextLog};
use crate::metrics::Metrics;
use crate::oci::RepositoryName;
use crate::records::AddressText;
use crate::registry::Told;
use crate::trace::{Answered, Attribute, Part};
use crate::traffic::{Traffic, Visit};

/// Characters of a client's text in a record, at most.
const MAX_TEXT_CHARS: usize = 256;

/// The kinds of requests, as metrics and the log tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Version,
    Ready,
    Catalog,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Upload sessions and what is done to them.
    Upload,
    /// Of a manifest.
    Push,
    Delete,
    /// What there is of repositories, tags and manifests, and their locks.
    Attributes,
    Forwards,
    Conflicts,
    Overview,
    Receipt,
    Wait,
    Audit,
    Logs,
    /// Of webhooks.
    Webhooks,
    /// What upstreams were spared.
    Offload,
    Top,
    Refresh,
    Prefetch,
    Exchange,
    SignIns,
    /// Principals, roles, network rules.
    Govern,
    /// Questions of other regions.
    Peer,
    Token,
    /// It went nowhere.
    Other,
}

/// How a body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// By us, because its content broke.
    Cut,
    /// By the client, or its connection.
    Left,
}

/// What is known of a request, gathered while it is answered.
#[derive(Debug)]
pub struct Record {
    metrics: Metrics,
    started: Instant,
    first_byte: Duration,
    pub(super) status: StatusCode,
    written: bool,
    pub(super) request_id: Box<str>,
    client: IpAddr,
    pub(super) method: Cow<'static, str>,
    pub(super) agent: Option<Box<str>>,
    /// Only for a request that went nowhere.
    path: Option<Box<str>>,
    pub(super) class: Class,
    pub(super) caller: Caller,
    pub upstream: Option<Arc<str>>,
    pub repository: Option<RepositoryName>,
    pub reference: Option<String>,
    source: Option<Source>,
    freshness: Option<Freshness>,
    pub cause: Option<Box<str>>,
    pub(super) notes: Notes,
    /// Where its line is left, if not as an event.
    text: Option<TextLog>,
    traffic: Option<Traffic>,
    /// Of the trace that it belongs to, if it does.
    part: Option<Part>,
}

impl Class {
    pub fn of(action: &Action) -> Class {
        match action {
            Action::Version => Class::Version,
            Action::Ready => Class::Ready,
            Action::Catalog(_) | Action::AcrCatalog(_) => Class::Catalog,
            Action::Read { wanted: Wanted::Manifest(_), .. } => Class::Manifest,
            Action::Read { wanted: Wanted::Blob(_), .. } => Class::Blob,
            Action::Read { wanted: Wanted::Receipt(_), .. } => Class::Receipt,
            Action::Read { wanted: Wanted::Tags(_), .. } => Class::Tags,
            Action::Read { wanted: Wanted::Referrers { .. }, .. } => Class::Referrers,
            Action::Write { wanted: Push::Manifest { .. }, .. } => Class::Push,
            Action::Write { wanted: Push::DeleteManifest(_) | Push::DeleteBlob(_), .. } => Class::Delete,
            Action::Write { .. } => Class::Upload,
            Action::Acr { wanted: Acr::DeleteRepository | Acr::DeleteTag(_), .. } => Class::Delete,
            Action::Acr { .. } => Class::Attributes,
            Action::Forwards => Class::Forwards,
            Action::Conflicts(_) => Class::Conflicts,
            Action::Overview => Class::Overview,
            Action::Wait(_) => Class::Wait,
            Action::Audit(_) => Class::Audit,
            Action::Logs(_) | Action::SearchLogs(_) => Class::Logs,
            Action::Webhooks | Action::Ping(_) => Class::Webhooks,
            Action::Offload => Class::Offload,
            Action::Watched => Class::Prefetch,
            Action::Top(_) => Class::Top,
            Action::Command(Command::Refresh) => Class::Refresh,
            Action::Command(Command::Prefetch) => Class::Prefetch,
            Action::Exchange => Class::Exchange,
            Action::SignIns => Class::SignIns,
            Action::Govern(_) => Class::Govern,
            Action::Peer(_) => Class::Peer,
            Action::Token(_) | Action::TokenForm => Class::Token,
        }
    }

    /// Whether it asks for what a registry is there for.
    const fn is_of_content(self) -> bool {
        matches!(self, Class::Manifest | Class::Blob | Class::Tags | Class::Referrers)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Version => "version",
            Class::Ready => "ready",
            Class::Catalog => "catalog",
            Class::Manifest => "manifest",
            Class::Blob => "blob",
            Class::Tags => "tags",
            Class::Referrers => "referrers",
            Class::Upload => "upload",
            Class::Push => "push",
            Class::Delete => "delete",
            Class::Attributes => "attributes",
            Class::Forwards => "forwards",
            Class::Conflicts => "conflicts",
            Class::Overview => "status",
            Class::Receipt => "receipt",
            Class::Wait => "wait",
            Class::Audit => "audit",
            Class::Logs => "logs",
            Class::Webhooks => "webhooks",
            Class::Offload => "offload",
            Class::Top => "top",
            Class::Refresh => "refresh",
            Class::Prefetch => "prefetch",
            Class::Exchange => "exchange",
            Class::SignIns => "login",
            Class::Govern => "govern",
            Class::Peer => "peer",
            Class::Token => "token",
            Class::Other => "other",
        }
    }
}

impl Record {
    /// Begins when a request's head is here.
    pub fn start(metrics: &Metrics, (method, headers): (&Method, &HeaderMap), connection: &Connection, request_id: String) -> Record {
        let client = forwarded::client(connection, headers);
        Record {
            metrics: metrics.clone(),
            started: Instant::now(),
            first_byte: Duration::ZERO,
            status: client_left(),
            written: false,
            request_id: request_id.into(),
            client,
            method: method_text(method),
            agent: agent(headers),
            path: None,
            class: Class::Other,
            caller: Caller { listener: connection.listener, ..Caller::anonymous(client) },
            upstream: None,
            repository: None,
            reference: None,
            source: None,
            freshness: None,
            cause: None,
            notes: Notes::default(),
            text: None,
            traffic: None,
            part: None,
        }
    }

    /// Where the request comes from, as far as those who may say so do.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// As it may be written.
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// From now on its end is counted there.
    pub fn counted_by(&mut self, traffic: &Traffic) {
        self.traffic = Some(traffic.clone());
    }

    /// Its line is all text, and left there.
    pub fn written_to(&mut self, log: Option<&TextLog>) {
        self.text = log.cloned();
    }

    /// It belongs to this trace.
    pub fn belongs_to(&mut self, part: Option<Part>) {
        self.part = part;
    }

    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// There is nothing where the request goes.
    pub fn went_nowhere(&mut self, path: &str) {
        self.path = Some(clean(path).into());
    }

    /// The request has been understood.
    pub fn routed(&mut self, action: &Action) {
        self.class = Class::of(action);
        self.notes.routed(action);
        self.reference = match action {
            Action::Read { wanted, .. } => match wanted {
                Wanted::Manifest(reference) | Wanted::Receipt(reference) => Some(reference.to_string()),
                Wanted::Blob(digest) | Wanted::Referrers { subject: digest, .. } => Some(digest.to_string()),
                Wanted::Tags(_) => None,
            },
            Action::Write { wanted, .. } => match wanted {
                Push::Manifest { reference, .. } | Push::DeleteManifest(reference) => Some(reference.to_string()),
                Push::DeleteBlob(digest) | Push::Finish { digest, .. } => Some(digest.to_string()),
                Push::Begin(Begin::Whole(digest) | Begin::Mount { digest, .. }) => Some(digest.to_string()),
                Push::Begin(Begin::Session(_)) | Push::Status(_) | Push::Chunk(_) | Push::Cancel(_) => None,
            },
            Action::Acr { wanted, .. } => wanted.reference(),
            Action::Peer(Question::Content(digest) | Question::Resolve { wanted: Told::Blob(digest), .. }) => Some(digest.to_string()),
            Action::Peer(Question::Resolve { wanted: Told::Manifest(reference), .. }) => Some(reference.to_string()),
            Action::Govern(governing) => governing.about(),
            Action::Ping(name) => Some(clean(name)),
            Action::Peer(Question::Segments { origin, .. } | Question::Snapshots(origin) | Question::SnapshotPart { origin, .. }) => {
                Some(origin.to_string())
            }
            _ => None,
        };
        if let Action::Peer(Question::Resolve { repository, .. }) = action {
            self.repository = Some(repository.clone());
        }
    }

    /// An edge of another region asks. No principal's name has a colon.
    pub fn asked_by(&mut self, region: &str) {
        self.metrics.authentication("accepted");
        self.caller.principal = Principal::Named(format!("region:{region}").into());
        self.caller.proof = "peer";
    }

    /// The caller is known, or its credentials were refused.
    pub fn authenticated<E>(&mut self, caller: Result<&Caller, &E>) {
        self.metrics.authentication(match caller.map(Caller::is_anonymous) {
            Ok(true) => "anonymous",
            Ok(false) => "accepted",
            Err(_) => "refused",
        });
        match caller {
            Ok(caller) => self.caller = caller.clone(),
            Err(_) => self.notes.unproved(),
        }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Something was found, here or there.
    pub fn found<T>(&mut self, answer: &Answer<T>) {
        self.source = Some(answer.source.clone());
        self.freshness = Some(answer.freshness);
    }

    /// The status line is on its way.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = status;
        self.first_byte = self.started.elapsed();
        self.metrics.first_byte(self.class.as_str(), self.source_label(), status, self.first_byte);
    }

    /// The end of an answer's body: counted and written.
    pub fn finish(&mut self, sent_bytes: u64, ending: Ending) {
        self.write(sent_bytes, ending);
    }

    fn write(&mut self, sent_bytes: u64, ending: Ending) {
        self.written = true;
        let whole = self.started.elapsed();
        self.metrics.request_finished(self.class.as_str(), self.source_label(), self.status, sent_bytes, whole);
        if let Some(upstream) = self.upstream.as_deref().filter(|_| self.class.is_of_content()) {
            self.metrics.proxied(upstream, self.source_label(), sent_bytes);
        }
        match &self.part {
            None => self.say(sent_bytes, whole, ending),
            // Here, too, where its body ends, which is in another task than it was answered in.
            Some(part) => {
                part.inside(|| self.say(sent_bytes, whole, ending));
                // A probe is nobody's work.
                if self.class != Class::Ready || part.has_parent() {
                    part.finish(|| self.answered_as(sent_bytes, ending));
                }
            }
        }
        self.count(sent_bytes);
        self.leave(sent_bytes, u64::try_from(whole.as_millis()).unwrap_or(u64::MAX), ending);
    }

    fn say(&self, sent_bytes: u64, whole: Duration, ending: Ending) {
        match &self.text {
            Some(log) if tracing::enabled!(target: OF_REQUESTS, Level::INFO) => {
                log.leave((Level::INFO, OF_REQUESTS), |line| self.write_fields(line, (sent_bytes, whole, ending)));
            }
            Some(_) => {}
            None => self.say_as_event(sent_bytes, whole, ending),
        }
    }

    /// What the event says, in the same order.
    fn write_fields(&self, line: &mut TextLine<'_>, (sent_bytes, whole, ending): (u64, Duration, Ending)) {
        line.text("id", &self.request_id);
        if let Some(part) = &self.part {
            line.display("trace_id", part.trace_id());
        }
        line.text("principal", self.caller.principal.as_str());
        line.address("client", AddressText(self.client));
        line.text("method", &self.method);
        line.text("route", self.class.as_str());
        line.maybe("path", self.path.as_deref());
        line.maybe("upstream", self.upstream.as_deref());
        line.maybe("repository", self.repository.as_ref().map(RepositoryName::as_str));
        line.maybe("reference", self.reference.as_deref());
        line.number("status", self.status.as_u16().into());
        line.maybe("source", self.source.as_ref().map(|_| self.source_label()));
        line.maybe("freshness", self.freshness.map(freshness_text));
        line.float("first_byte_ms", milliseconds(self.first_byte));
        line.float("whole_ms", milliseconds(whole));
        line.number("bytes", sent_bytes);
        line.text("ending", ending.as_str());
        line.maybe("cause", self.cause.as_deref().map(clean).as_deref());
        line.maybe("agent", self.agent.as_deref());
    }

    fn say_as_event(&self, sent_bytes: u64, whole: Duration, ending: Ending) {
        tracing::info!(
            target: OF_REQUESTS,
            id = &*self.request_id,
            trace_id = self.part.as_ref().map(|part| tracing::field::display(part.trace_id())),
            principal = self.caller.principal.as_str(),
            client = %AddressText(self.client),
            method = &*self.method,
            route = self.class.as_str(),
            path = self.path.as_deref(),
            upstream = self.upstream.as_deref(),
            repository = self.repository.as_ref().map(RepositoryName::as_str),
            reference = self.reference,
            status = self.status.as_u16(),
            source = self.source.as_ref().map(|_| self.source_label()),
            freshness = self.freshness.map(freshness_text),
            first_byte_ms = milliseconds(self.first_byte),
            whole_ms = milliseconds(whole),
            bytes = sent_bytes,
            ending = ending.as_str(),
            cause = self.cause.as_deref().map(clean),
            agent = self.agent.as_deref(),
        );
    }

    /// The same for its span.
    fn answered_as(&self, sent_bytes: u64, ending: Ending) -> Answered {
        let method = known_method(&self.method);
        let mut attributes: Vec<Attribute> = vec![
            ("http.request.method", method.into()),
            ("http.response.status_code", i64::from(self.status.as_u16()).into()),
            ("http.response.body.size", sent_bytes.into()),
            ("client.address", AddressText(self.client).to_string().into()),
            ("enduser.id", self.caller.principal.as_str().into()),
            ("outport.request_id", (&*self.request_id).into()),
            ("outport.route", self.class.as_str().into()),
            ("outport.ending", ending.as_str().into()),
        ];
        let texts = [
            ("http.request.method_original", Some(&*self.method).filter(|_| method == OTHER_METHOD)),
            ("url.path", self.path.as_deref()),
            ("user_agent.original", self.agent.as_deref()),
            ("outport.upstream", self.upstream.as_deref()),
            ("outport.repository", self.repository.as_ref().map(RepositoryName::as_str)),
            ("outport.reference", self.reference.as_deref()),
            ("outport.source", self.source.as_ref().map(|_| self.source_label())),
            ("outport.freshness", self.freshness.map(freshness_text)),
        ];
        attributes.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text?.into()))));
        attributes.extend(self.cause.as_deref().map(|cause| ("outport.cause", clean(cause).into())));
        let failure = match ending {
            _ if self.status.is_server_error() => Some(self.status.as_str()),
            Ending::Cut => Some("cut"),
            Ending::Complete | Ending::Left => None,
        };
        attributes.extend(failure.map(|word| ("error.type", word.into())));
        Answered {
            name: format!("{method} {}", self.class.as_str()),
            attributes,
            first_byte: Some(self.first_byte).filter(|after| !after.is_zero()),
            is_failed: failure.is_some(),
        }
    }

    /// Counts the request as one of its client. Health checks are nobody's.
    fn count(&self, sent_bytes: u64) {
        let Some(traffic) = self.traffic.as_ref().filter(|_| self.class != Class::Ready) else { return };
        let visit = Visit {
            client: self.client,
            principal: self.caller.principal.clone(),
            repository: self.repository.clone(),
            bytes: sent_bytes.saturating_add(self.notes.received_bytes()),
        };
        traffic.note(visit);
    }

    fn source_label(&self) -> &'static str {
        match self.source {
            Some(Source::Memory) => "memory",
            Some(Source::Disk) => "disk",
            Some(Source::Bucket) => "bucket",
            Some(Source::Region(_)) => "region",
            Some(Source::Upstream(_)) => "upstream",
            None => "none",
        }
    }
}

impl Drop for Record {
    /// A client that leaves before the answer's head takes the request along; it is written all the same.
    fn drop(&mut self) {
        if !self.written {
            self.write(0, Ending::Left);
        }
    }
}

/// 499, as nginx has it: nobody waits for a status any more.
fn client_left() -> StatusCode {
    StatusCode::from_u16(499).expect("status codes go from 100 to 999")
}

impl Ending {
    const fn as_str(self) -> &'static str {
        match self {
            Ending::Complete => "complete",
            Ending::Cut => "cut",
            Ending::Left => "left",
        }
    }
}

/// `Outport-Freshness`, and the same word in the log.
pub fn freshness_text(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Immutable => "immutable",
        Freshness::Fresh => "fresh",
        Freshness::Revalidated => "revalidated",
        Freshness::Stale => "stale",
    }
}

/// With three decimals: less than a microsecond is noise.
fn milliseconds(time: Duration) -> f64 {
    // As a number of 64 bits, which processors have: half a million years.
    time.as_micros() as u64 as f64 / 1000.0
}

/// A method of the client's own invention can be long.
fn method_text(method: &Method) -> Cow<'static, str> {
    match *method {
        Method::GET => "GET".into(),
        Method::HEAD => "HEAD".into(),
        _ => clean(method.as_str()).chars().take(16).collect::<String>().into(),
    }
}

/// What the semantic conventions call a method that they do not know: anybody can invent one, and spans are grouped by it.
const OTHER_METHOD: &str = "_OTHER";

fn known_method(method: &str) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    known.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD)
}

fn agent(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(header::USER_AGENT).map(|value| match str::from_utf8(value.as_bytes()) {
        Ok(text) => clean(text).into(),
        Err(_) => clean(&String::from_utf8_lossy(value.as_bytes())).into(),
    })
}

/// Printable ASCII as it is, everything else escaped: no terminal or log reader sees a control character or a look-alike.
pub(super) fn clean(text: &str) -> String {
    if text.len() <= MAX_TEXT_CHARS && text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut cleaned = String::with_capacity(text.len().min(MAX_TEXT_CHARS));
    for character in text.chars().take(MAX_TEXT_CHARS) {
        if matches!(character, ' '..='~') {
            cleaned.push(character);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(cleaned, "{}", character.escape_unicode());
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::trace::{Tracer, Value};
    use std::io;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The record of one request in both formats.
    fn written(target: &str, peer: &str, headers: &[(&str, &[u8])]) -> [String; 2] {
        [false, true].map(|json| {
            let sink = Sink::default();
            let writer = sink.clone();
            let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
            let mut request = http::Request::get(target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let head = request.body(()).unwrap().into_parts().0;
            let connection = Connection::plain(peer.parse().unwrap());
            let finish = || {
                let mut record = Record::start(&Metrics::new(), (&head.method, &head.headers), &connection, "id1".into());
                record.went_nowhere(head.uri.path());
                record.answered(StatusCode::NOT_FOUND);
                record.finish(7, Ending::Complete);
            };
            if json {
                tracing::subscriber::with_default(builder.json().finish(), finish);
            } else {
                tracing::subscriber::with_default(builder.finish(), finish);
            }
            String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
        })
    }

    #[test]
    fn row_85_a_mapped_address_is_written_as_ipv4() {
        for text in written("/v2/", "[::ffff:10.1.2.3]:99", &[]) {
            assert!(text.contains("10.1.2.3") && !text.contains("ffff"), "{text}");
        }
    }

    #[test]
    fn row_86_escape_codes_make_one_escaped_record() {
        // The header's parser refuses ESC itself; its one-character form (CSI) and direction marks come through.
        let agent = "evil\u{9b}2J\u{202e}\t\" status=200";
        for text in written("/v2/%1b%0a/x", "10.0.0.1:1", &[("user-agent", agent.as_bytes())]) {
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
            assert!(text.contains(r"u{9b}2J") && text.contains(r#"\" status=200"#), "{text}");
        }
        assert_eq!(clean("\u{1b}[2J\r\n"), r"\u{1b}[2J\u{d}\u{a}");
    }

    #[test]
    fn row_88_no_secret_is_written() {
        let headers: [(&str, &[u8]); 3] = [("authorization", b"Basic s3cret"), ("cookie", b"s3cret"), ("x-custom", b"s3cret")];
        for text in written("/v2/a/manifests/1?token=s3cret&ns=s3cret", "10.0.0.1:1", &headers) {
            assert!(text.contains("id1") && !text.contains("s3cret"), "{text}");
        }
    }

    /// Whatever a record has, its line is the same as the event's.
    #[test]
    fn a_line_without_an_event_is_the_events() {
        let (lines, mut taker) = crate::records::Trays::new(100);
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let texts = [None, Some("plain/1.0"), Some("a \"b\" \\ \u{e9}\u{1b}[2J")];
        let durations = [Duration::ZERO, Duration::from_micros(250), Duration::from_millis(3), Duration::from_micros(12_345_678)];
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = [("traceparent".parse().unwrap(), parent.parse().unwrap())].into_iter().collect();
        let records = (0..96_usize).map(|number| {
            let text = |turn: usize| texts[(number + turn) % texts.len()];
            let client = if number % 2 == 0 { "10.0.0.1:1" } else { "[2001:db8::1]:1" };
            let connection = Connection::plain(client.parse().unwrap());
            let mut record = Record::start(&Metrics::new(), (&Method::GET, &HeaderMap::new()), &connection, format!("id{number}"));
            record.belongs_to((number % 3 == 0).then(|| Tracer::default().begin(&traced)).flatten());
            record.agent = text(0).map(Into::into);
            record.path = text(1).map(Into::into);
            record.upstream = text(2).map(Into::into);
            record.repository = (number % 4 < 2).then(|| "a/b".parse().unwrap());
            record.reference = text(3).map(Into::into);
            record.cause = text(4).map(Into::into);
            record.source = (number % 5 > 0).then_some(Source::Memory);
            record.freshness = (number % 7 > 0).then_some(Freshness::Fresh);
            record.first_byte = durations[number % durations.len()];
            record.status = StatusCode::from_u16(200 + number as u16).unwrap();
            let said = (number as u64 * 1_000, durations[(number / 4) % durations.len()], Ending::Complete);
            (record, said)
        });
        let (mut ours, mut count) = (Vec::new(), 0);
        tracing::subscriber::with_default(subscriber, || {
            for (mut record, (sent_bytes, whole, ending)) in records {
                record.say(sent_bytes, whole, ending);
                record.written_to(Some(&TextLog::new(lines.clone(), Metrics::new())));
                record.say(sent_bytes, whole, ending);
                // Below the level nothing is left.
                tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || record.say(sent_bytes, whole, ending));
                record.written = true;
                count += 1;
            }
        });
        taker.take(|(), line| ours.push(String::from_utf8(line.to_vec()).unwrap()));
        let theirs = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let untimed = |line: &str| line.split_at(27).1.trim_end().to_owned();
        assert_eq!(ours.len(), count);
        assert_eq!(ours.iter().map(|line| untimed(line)).collect::<Vec<_>>(), theirs.lines().map(untimed).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_request_leaves_a_span_and_its_trace_is_in_the_log() {
        let (tracer, mut spans) = Tracer::new(1.0, 8, Clock::system(), Metrics::new());
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let head = http::Request::get("/v2/x").header("traceparent", parent).body(()).unwrap().into_parts().0;
        let connection = Connection::plain("10.0.0.1:1".parse().unwrap());
        let record = |part: Option<Part>, class: Class, status: StatusCode, ending: Ending| {
            let mut record = Record::start(&Metrics::new(), (&head.method, &head.headers), &connection, "id1".into());
            record.belongs_to(part);
            record.class = class;
            record.went_nowhere("/v2/x");
            record.answered(status);
            record.finish(7, ending);
        };
        tracing::subscriber::with_default(subscriber, || {
            record(tracer.begin(&head.headers), Class::Other, StatusCode::NOT_FOUND, Ending::Complete);
            record(tracer.begin(&HeaderMap::new()), Class::Ready, StatusCode::OK, Ending::Complete);
            record(tracer.begin(&head.headers), Class::Ready, StatusCode::SERVICE_UNAVAILABLE, Ending::Complete);
            record(tracer.begin(&HeaderMap::new()), Class::Blob, StatusCode::OK, Ending::Cut);
            record(None, Class::Blob, StatusCode::OK, Ending::Complete);
        });
        let span = spans.try_recv().unwrap();
        for (name, value) in [
            ("http.response.status_code", Value::from(404_i64)),
            ("http.response.body.size", Value::from(7_i64)),
            ("client.address", "10.0.0.1".into()),
            ("url.path", "/v2/x".into()),
            ("outport.request_id", "id1".into()),
        ] {
            assert!(span.attributes.contains(&(name, value)), "{name} is not as expected in {span:?}");
        }
        assert_eq!((span.name.as_str(), span.is_failed, span.events.len()), ("GET other", false, 1));
        // The probe that nobody else traces is not among them.
        assert_eq!([spans.try_recv().unwrap(), spans.try_recv().unwrap()].map(|span| span.is_failed), [true, true]);
        assert!(spans.try_recv().is_err());
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains(" trace_id=4bf92f3577b34da6a3ce929d0e0e4736 ") && !lines[4].contains("trace_id"), "{text}");
    }

    #[test]
    fn a_client_that_leaves_before_the_answer_is_counted() {
        let metrics = Metrics::new();
        let head = http::Request::get("/v2/").body(()).unwrap().into_parts().0;
        let connection = Connection::plain("10.0.0.1:1".parse().unwrap());
        drop(Record::start(&metrics, (&head.method, &head.headers), &connection, String::new()));
        let mut answered = Record::start(&metrics, (&head.method, &head.headers), &connection, String::new());
        answered.answered(StatusCode::OK);
        answered.finish(2, Ending::Complete);
        for status in ["499", "200"] {
            let line = format!(r#"outport_requests_total{{route="other",source="none",status="{status}"}} 1"#);
            assert!(metrics.render().contains(&line), "{status}");
        }
    }

    #[test]
    fn texts_of_clients_are_cut() {
        assert_eq!(clean(&"a".repeat(10_000)).len(), MAX_TEXT_CHARS);
        assert!(clean(&"\u{1b}".repeat(10_000)).len() <= MAX_TEXT_CHARS * 10);
    }
}
