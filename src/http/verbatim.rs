//! Reads of warm manifests that came before, byte for byte: answered from the bytes of their heads, below hyper.
//!
//! A thousand nodes that pull one image send the same head. What it means was found out when hyper read it the first time, and is kept
//! under its bytes: so nothing is read in two ways, and nothing that differs in a single byte is taken for the same. What the answer
//! *depends on* is asked each time, as for every request: whether the address is admitted, who asks, what they may, how often they ask, what
//! the cache has. Whenever that takes more than a look, or leads to anything but the manifest, the request goes the ordinary way, and
//! nobody has heard of this attempt. A reload of the configuration begins with nothing remembered.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use memchr::memmem;

use super::admit::{Read, Site};
use super::connection::Connection;
use super::forwarded;
use super::log::{Ending, Record};
use super::meaning::{Meaning, Texts};
use super::nearer::OUTPORT_NEARER;
use super::request_id::X_REQUEST_ID;
use super::respond::{is_prepared, write_line};
use super::route::{Action, Wanted};
use super::service::{Http, OCI_NAMESPACE};
use super::top::share_of;
use crate::oci::Reference;
use crate::registry::Target;

/// Parts of the memory, so that threads seldom meet.
const PARTS: usize = 16;
/// Heads that are remembered in a part, at most: when it is full it begins anew.
const HEADS: usize = 64;
/// The longest head that is remembered, in bytes: with a token of this edge, and all the types that Docker accepts.
const MAX_BYTES: usize = 2 * 1024;
/// Of an answer's head, what is written for each request, about.
const OWN_BYTES: usize = 160;

/// The headers that a head may have. None of them changes the answer but the caller's credentials, which are judged each time.
const HEADERS: [HeaderName; 6] = [
    header::HOST,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    HeaderName::from_static("docker-distribution-api-version"),
];

/// The heads that are known.
#[derive(Debug, Default)]
pub struct Heads {
    parts: [RwLock<HashMap<u64, Arc<Known>, RandomState>>; PARTS],
    hasher: RandomState,
}

/// What a head means. The hash finds it, the bytes prove it.
pub(super) struct Known {
    bytes: Box<[u8]>,
    method: Method,
    pub(super) headers: HeaderMap,
    action: Action,
    reference: Reference,
    /// The upstream that the Host stands for.
    pub(super) by_host: Option<Arc<str>>,
    pub(super) target: Target,
    /// The value of `OCI-Namespace`, where the client has asked by `ns`.
    namespace: Option<HeaderValue>,
}

impl std::fmt::Debug for Known {
    /// Heads have credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({:?} {:?})", self.method, self.target)
    }
}

impl Known {
    /// `None` for one that may mean something else the next time.
    fn new(bytes: Box<[u8]>, head: &Parts, read: &Read, meaning: Meaning) -> Option<Known> {
        let (Wanted::Manifest(reference), Some(target)) = (&read.wanted, meaning.target) else { return None };
        let namespace = match read.ns.as_ref().and(target.upstream.as_deref()) {
            Some(upstream) => Some(HeaderValue::from_str(upstream).ok()?),
            None => None,
        };
        // hyper's are parts of all that it has read of the connection.
        let own = |(name, value): (&HeaderName, &HeaderValue)| Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?));
        Some(Known {
            method: head.method.clone(),
            headers: head.headers.iter().map(own).collect::<Option<_>>()?,
            action: meaning.action,
            reference: reference.clone(),
            by_host: meaning.by_host,
            target,
            namespace,
            bytes,
        })
    }
}

impl Heads {
    fn find(&self, head: &[u8]) -> Option<Arc<Known>> {
        let hash = self.hasher.hash_one(head);
        let part = self.parts[hash as usize % PARTS].read().unwrap_or_else(PoisonError::into_inner);
        part.get(&hash).filter(|known| *known.bytes == *head).cloned()
    }

    fn remember(&self, known: Known) {
        let hash = self.hasher.hash_one(&*known.bytes);
        let mut part = self.parts[hash as usize % PARTS].write().unwrap_or_else(PoisonError::into_inner);
        if part.len() >= HEADS {
            part.clear();
        }
        part.insert(hash, Arc::new(known));
    }
}

/// Whether these bytes may be a head that is remembered: one look, since each request is asked.
fn may_be_remembered(head: &[u8]) -> bool {
    let is_read = head.starts_with(b"GET /") || head.starts_with(b"HEAD /");
    is_read && head.len() <= MAX_BYTES && head.ends_with(b"\r\n\r\n") && memmem::find(head, b"/manifests/").is_some()
}

/// Whether these bytes are that head, and it has nothing on which an answer might depend unseen.
fn is_ordinary(bytes: &[u8], head: &Parts) -> bool {
    let is_token = |value: &HeaderValue| value.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "));
    let line = || format!("{} {} HTTP/1.1\r\n", head.method, head.uri.path_and_query().map_or("", |target| target.as_str()));
    head.headers.keys().all(|name| HEADERS.contains(name))
        // A password takes long to judge, and is not for keeping.
        && head.headers.get_all(header::AUTHORIZATION).iter().all(is_token)
        && head.version == Version::HTTP_11
        && head.uri.authority().is_none()
        && bytes.starts_with(line().as_bytes())
}

/// An answer that only has to be sent. Dropped before that, it is one whose client has left.
pub struct Prompt {
    head: Vec<u8>,
    body: Bytes,
    sent_bytes: usize,
    record: Option<Box<Record>>,
}

impl Prompt {
    /// One that appears in no log.
    #[cfg(test)]
    pub fn unrecorded(head: Vec<u8>, body: Bytes) -> Prompt {
        Prompt { head, body, sent_bytes: 0, record: None }
    }

    /// What is still to be sent.
    pub fn rest(&self) -> [&[u8]; 2] {
        let of_head = self.sent_bytes.min(self.head.len());
        [&self.head[of_head..], &self.body[self.sent_bytes - of_head..]]
    }

    /// So many bytes of the rest are sent.
    pub fn advance(&mut self, count: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(count).min(self.head.len() + self.body.len());
    }

    pub fn is_sent(&self) -> bool {
        self.sent_bytes == self.head.len() + self.body.len()
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        let ending = if self.is_sent() { Ending::Complete } else { Ending::Left };
        if let Some(record) = &mut self.record {
            record.finish(self.sent_bytes.saturating_sub(self.head.len()) as u64, ending);
        }
    }
}

impl Http {
    /// The answer to a head that is known, if it can be told at once. It may be called for the bytes of one whole head, between two
    /// requests of a connection; otherwise they are the connection's next request.
    pub fn prompt(&self, head: &[u8], connection: &Connection) -> Option<Prompt> {
        let site = self.site();
        match site.heads.find(head) {
            Some(known) => self.answer_again(&known, &site, connection),
            None => {
                connection.said.put(may_be_remembered(head).then(|| head.into()));
                None
            }
        }
    }

    /// A manifest has been answered at once: the next one who says the same is answered without reading it again.
    pub(super) fn remember(&self, site: &Site, (head, read): (&Parts, &Read), said: Option<Box<[u8]>>) {
        let Some(bytes) = said.filter(|bytes| is_ordinary(bytes, head)) else { return };
        let meaning = Texts::of(head).and_then(|texts| site.meanings.find(texts));
        let is_decided_here = |meaning: &Meaning| site.elsewhere(&meaning.action, meaning.host.as_deref()).is_none();
        let Some(meaning) = meaning.filter(is_decided_here) else { return };
        if let Some(known) = Known::new(bytes, head, read, meaning) {
            site.heads.remember(known);
        }
    }

    fn answer_again(&self, known: &Known, site: &Site, connection: &Connection) -> Option<Prompt> {
        let address = forwarded::client(connection, &known.headers);
        let (caller, access) = site.admit_again(known, connection, address)?;
        let answer = self.registry_ref().manifest_at_once(&access, &known.reference)?;
        let lines = &answer.value.prepared.get().filter(|prepared| is_prepared(&answer, prepared))?.lines;
        // From here on it is answered: what comes before this line leaves no trace.
        let lane = match site.limits.is_any().then(|| share_of(&caller)) {
            Some(client) => {
                self.fair().take(&site.limits, &client).ok()?;
                self.fair().lane(&site.limits, &client)
            }
            None => None,
        };
        let mut record = self.begin_record((&known.method, &known.headers), connection, true);
        record.belongs_to(self.begin_part(&known.headers));
        record.routed(&known.action);
        record.authenticated::<()>(Ok(&caller));
        record.upstream.clone_from(&known.target.upstream);
        record.repository = Some(known.target.repository.clone());
        record.found(&answer);
        record.is_about(&answer.value.digest);

        let mut head = Vec::with_capacity(lines.len() + OWN_BYTES);
        head.extend_from_slice(lines);
        let namespace = known.namespace.iter().map(|value| (OCI_NAMESPACE, value));
        for (name, value) in namespace.chain(site.nearer.to(address).map(|region| (OUTPORT_NEARER, region))) {
            write_line(&mut head, name.as_str(), value.as_bytes());
        }
        write_line(&mut head, X_REQUEST_ID.as_str(), record.request_id().as_bytes());
        write_line(&mut head, header::DATE.as_str(), &self.clock().now().http_date());
        head.extend_from_slice(b"\r\n");
        let body = if known.method == Method::HEAD { Bytes::new() } else { answer.value.bytes };
        if let Some(lane) = lane.filter(|_| !body.is_empty()) {
            lane.spend(body.len() as u64);
        }
        record.answered(StatusCode::OK);
        self.metrics().repeated.inc();
        Some(Prompt { head, body, sent_bytes: 0, record: Some(record) })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::access::{Caller, Grants, Policy};
    use crate::http::route::route;
    use crate::metrics::Metrics;

    const TARGET: &str = "/v2/a/manifests/1";

    /// A head as bytes and as hyper reads it.
    fn said(method: &str, target: &str, headers: &[(&str, &str)]) -> (Box<[u8]>, Parts) {
        let headers = [&[("host", "edge")], headers].concat();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = Request::builder().method(method).uri(target);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let bytes = format!("{method} {target} HTTP/1.1\r\n{lines}\r\n").into_bytes();
        (bytes.into(), request.body(()).unwrap().into_parts().0)
    }

    fn known(bytes: Box<[u8]>, head: &Parts, ns: Option<&str>) -> Known {
        let Ok(Action::Read { name, wanted, .. }) = route(&Method::GET, TARGET.as_bytes(), "") else { unreachable!("it is a read") };
        let anonymous = Grants { pull: vec!["**".parse().unwrap()], push: Vec::new() };
        let policy = Policy { anonymous, ..Policy::default() };
        let access = policy.authorize(&Caller::anonymous([10, 0, 0, 1].into()), &name, crate::access::Action::Pull).unwrap();
        let action = Action::Read { name: name.clone(), ns: ns.map(str::to_owned), wanted: wanted.clone() };
        let target = Some(Target { repository: name.clone(), upstream: Some("up.test".into()) });
        let read = Read { access, name, ns: ns.map(str::to_owned), wanted };
        Known::new(bytes, head, &read, Meaning { action, host: Some("edge".into()), by_host: None, target }).unwrap()
    }

    #[test]
    fn only_heads_whose_every_header_is_judged_are_known_by_their_bytes() {
        let long = "a".repeat(MAX_BYTES);
        for (method, target, headers, is_known) in [
            ("GET", TARGET, &[][..], true),
            ("HEAD", TARGET, &[], true),
            ("GET", "/v2/a/manifests/1?ns=b", &[("accept", "x"), ("accept", "y"), ("user-agent", "z")], true),
            ("GET", TARGET, &[("authorization", "Bearer abc")], true),
            ("GET", TARGET, &[("authorization", "bearer abc")], true),
            ("GET", TARGET, &[("authorization", "Basic YTpi")], false),
            ("GET", TARGET, &[("authorization", "Bearer abc"), ("authorization", "Basic YTpi")], false),
            ("GET", TARGET, &[("if-none-match", "\"a\"")], false),
            ("GET", TARGET, &[("range", "bytes=0-0")], false),
            ("GET", TARGET, &[("connection", "close")], false),
            ("GET", TARGET, &[("content-length", "0")], false),
            ("GET", TARGET, &[("traceparent", "00-1-2-01")], false),
            ("GET", TARGET, &[("x-request-id", "1")], false),
            ("GET", TARGET, &[("x-forwarded-for", "10.0.0.1")], false),
            ("GET", TARGET, &[("outport-position", "eu@1")], false),
            ("GET", TARGET, &[("outport-sibling", "x")], false),
            ("GET", TARGET, &[("accept", &long)], false),
            ("GET", "/v2/a/blobs/1", &[], false),
            ("GET", "http://edge/v2/a/manifests/1", &[], false),
            ("PUT", TARGET, &[], false),
        ] {
            let (bytes, head) = said(method, target, headers);
            assert_eq!(may_be_remembered(&bytes) && is_ordinary(&bytes, &head), is_known, "{method} {target} {headers:?}");
        }
        // Whoever mixes up two requests learns nothing from it.
        let (_, head) = said("GET", "/v2/b/manifests/1", &[]);
        assert!(!is_ordinary(&said("GET", TARGET, &[]).0, &head));
        let (bytes, mut head) = said("GET", TARGET, &[]);
        head.version = Version::HTTP_10;
        assert!(!is_ordinary(&bytes, &head));
    }

    #[test]
    fn a_head_is_known_by_all_its_bytes_and_a_flood_of_them_stays_within_bounds() {
        let heads = Heads::default();
        let (bytes, head) = said("GET", TARGET, &[("accept", "x")]);
        heads.remember(known(bytes.clone(), &head, None));
        assert!(heads.find(&bytes).is_some_and(|known| known.headers["accept"] == "x" && known.namespace.is_none()));
        for other in [said("GET", TARGET, &[("accept", "X")]).0, said("HEAD", TARGET, &[("accept", "x")]).0, Box::default()] {
            assert!(heads.find(&other).is_none());
        }
        assert!(heads.find(&[&bytes[..], &bytes[..]].concat()).is_none());
        assert_eq!(known(bytes.clone(), &head, Some("up.test")).namespace.unwrap(), "up.test");
        for number in 0..4 * PARTS * HEADS {
            let (bytes, head) = said("GET", TARGET, &[("user-agent", &number.to_string())]);
            heads.remember(known(bytes, &head, None));
        }
        let count: usize = heads.parts.iter().map(|part| part.read().unwrap().len()).sum();
        assert!((PARTS..=PARTS * HEADS).contains(&count), "{count}");
    }

    #[test]
    fn what_holds_a_head_does_not_print_it() {
        let (bytes, head) = said("GET", TARGET, &[("authorization", "Bearer secret")]);
        let said = super::super::connection::Said::default();
        said.put(Some(bytes.clone()));
        let heads = Heads::default();
        heads.remember(known(bytes.clone(), &head, None));
        let text = format!("{heads:?} {said:?}");
        assert!(!text.contains("secret") && !text.contains(&format!("{:?}", b's')), "{text}");
        assert_eq!((said.take(), said.take()), (Some(bytes), None));
    }

    #[test]
    fn an_answer_counts_what_was_sent_of_it() {
        for (sent, bytes) in [(0, 0), (3, 0), (4, 0), (6, 2), (9, 5)] {
            let (metrics, connection) = (Metrics::new(), Connection::plain("10.0.0.1:1".parse().unwrap()));
            let (_, head) = said("GET", TARGET, &[]);
            let mut record = Box::new(Record::start(&metrics, (&head.method, &head.headers), &connection, "id".to_owned()));
            record.answered(StatusCode::OK);
            let mut prompt = Prompt { head: b"head".to_vec(), body: Bytes::from_static(b"body!"), sent_bytes: 0, record: Some(record) };
            let whole = prompt.rest().concat();
            prompt.advance(sent);
            assert_eq!((&prompt.rest().concat()[..], prompt.is_sent()), (&whole[sent..], sent == 9));
            drop(prompt);
            let line = format!(r#"outport_response_bytes_total{{route="other",source="none"}} {bytes}"#);
            assert!(metrics.render().contains(&line), "{sent}: {}", metrics.render());
        }
    }
}
