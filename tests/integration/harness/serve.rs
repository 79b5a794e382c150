//! An origin's answers on the wire.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};

use super::image::{Blob, INDEX, MANIFEST, Manifest};
use super::origin::{Logged, State};
use super::script::{Fault, Phase, Route};
use super::token::Verdict;
use super::wire::{Head, Stream, read_head};

/// A body is written in parts of this size, in bytes.
const PART_BYTES: usize = 256 * 1024;

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub query: Vec<(String, String)>,
    pub route: Route,
    pub head: Head,
    body: Bytes,
}

impl Request {
    fn field(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What a token must cover.
    fn wanted(&self) -> Option<(&str, &str)> {
        let action = if matches!(self.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
        self.route.repository().map(|repository| (repository, action))
    }
}

/// What is answered, before a fault spoils it.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Blob,
    /// The part of the body that is sent.
    from: u64,
    to: u64,
}

/// Why a connection ends.
#[derive(Debug, PartialEq)]
enum End {
    KeepAlive,
    Close,
    Reset,
}

/// Answers requests on one connection until it ends. Returns whether it shall be reset.
pub async fn connection(state: Arc<State>, stream: Box<dyn Stream>) -> bool {
    let mut stream = BufStream::with_capacity(16 * 1024, 16 * 1024, stream);
    loop {
        let Ok(Some(request)) = read_request(&mut stream).await else { return false };
        match answer(&state, &request, &mut stream).await {
            Ok(End::KeepAlive) => {}
            Ok(End::Reset) => return true,
            Ok(End::Close) | Err(_) => {
                // An error to shut down means that the peer went first.
                let _ = stream.shutdown().await;
                return false;
            }
        }
    }
}

async fn read_request(stream: &mut BufStream<Box<dyn Stream>>) -> io::Result<Option<Request>> {
    let Some(head) = read_head(stream).await? else { return Ok(None) };
    let mut parts = head.start.split(' ');
    let (method, target) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut body = vec![0; head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request { route: Route::of(path), method, query: fields(query), head, body: body.into() }))
}

fn fields(text: impl AsRef<[u8]>) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text.as_ref()).into_owned().collect()
}

async fn answer(state: &State, request: &Request, stream: &mut BufStream<Box<dyn Stream>>) -> io::Result<End> {
    let logged = state.log(request);
    state.answering().await;
    let mut reply = None;
    for fault in state.strikes(Phase::Head, request) {
        match fault {
            Fault::StallHead => std::future::pending().await,
            Fault::DelayHead(time) => tokio::time::sleep(time).await,
            Fault::Status(status, headers) => reply = Some(Reply { headers, ..Reply::error(status, "FAULT") }),
            Fault::Instead { media_type, bytes } => reply = Some(Reply::whole(&media_type, Blob::held(bytes))),
            Fault::Oversized(size) => reply = Some(Reply::whole(MANIFEST, Blob::held(oversized(size)))),
            other => unreachable!("{other:?} strikes in the body"),
        }
    }
    let faults;
    let mut reply = match reply {
        Some(reply) => {
            faults = Vec::new();
            reply
        }
        None => {
            let reply = look_up(state, request);
            faults = if reply.status < 300 { state.strikes(Phase::Body, request) } else { Vec::new() };
            reply
        }
    };
    spoil_head(&mut reply, &faults, request);
    logged.status.store(reply.status, Ordering::Relaxed);
    send(state, request, &reply, &faults, &logged, stream).await
}

/// JSON that a parser accepts, so that only its size is wrong.
fn oversized(size: usize) -> Vec<u8> {
    let mut text = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).to_string().into_bytes();
    text.resize(size.max(text.len()), b' ');
    text
}

impl Reply {
    fn whole(media_type: &str, body: Blob) -> Reply {
        let headers = vec![("Content-Type".into(), media_type.into())];
        Reply { status: 200, headers, from: 0, to: body.size_bytes(), body }
    }

    fn error(status: u16, code: &str) -> Reply {
        let body = json!({"errors": [{"code": code, "message": "from the origin"}]}).to_string();
        Reply { status, ..Reply::whole("application/json", Blob::held(body)) }
    }

    fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn manifest(manifest: &Manifest) -> Reply {
        Reply::whole(&manifest.media_type, Blob::held(manifest.bytes.clone())).with("Docker-Content-Digest", &manifest.digest)
    }
}

fn look_up(state: &State, request: &Request) -> Reply {
    let authorization = request.head.header("authorization");
    let guard = state.guard();
    if request.route == Route::Token {
        let fields: Vec<_> = request.query.iter().cloned().chain(fields(&request.body)).collect();
        return match state.tokens.issue(&guard, &request.method, authorization, &fields) {
            Ok(token) => Reply::whole("application/json", Blob::held(token)),
            Err(status) => Reply::error(status, "UNAUTHORIZED"),
        };
    }
    let realm = format!("{}/token", state.url());
    if let Verdict::Challenge(text) = state.tokens.judge(&guard, &realm, authorization, request.wanted()) {
        return Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &text);
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return take(state, request);
    }
    let content = state.content.lock().expect("no panic while content is held");
    match &request.route {
        Route::Ping => Reply::whole("application/json", Blob::held("{}")),
        Route::Blob { repository, digest } => match content.blob(repository, digest) {
            Some(blob) => {
                Reply::whole("application/octet-stream", blob).with("Docker-Content-Digest", digest).with("Accept-Ranges", "bytes")
            }
            None => Reply::error(404, "BLOB_UNKNOWN"),
        },
        Route::Manifest { repository, reference } => match content.manifest(repository, reference) {
            Some(manifest) => Reply::manifest(manifest),
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
        },
        Route::Tags { repository } => match content.tags(repository) {
            Some(tags) => tag_page(repository, tags, request),
            None => Reply::error(404, "NAME_UNKNOWN"),
        },
        Route::Referrers { repository, digest } if state.has_referrers_api => {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": content.referrers(repository, digest)});
            Reply::whole(INDEX, Blob::held(index.to_string()))
        }
        _ => Reply::error(404, "UNSUPPORTED"),
    }
}

/// A push: the bytes are held, so that tests push little.
fn take(state: &State, request: &Request) -> Reply {
    let created = |digest: &str| Reply { status: 201, ..Reply::whole("text/plain", Blob::held("")) }.with("Docker-Content-Digest", digest);
    let mut content = state.content.lock().expect("no panic while content is held");
    let mut sessions = state.sessions.lock().expect("no panic while sessions are held");
    match (request.method.as_str(), &request.route) {
        ("POST", Route::Upload { repository, .. }) => {
            if let (Some(digest), Some(from)) = (request.field("mount"), request.field("from"))
                && let Some(blob) = content.blob(from, digest)
            {
                content.keep_blob(repository, blob);
                return created(digest);
            }
            let session = format!("session-{}", state.next_session());
            sessions.insert(session.clone());
            let location = format!("/v2/{repository}/blobs/uploads/{session}?state=kept");
            Reply { status: 202, ..Reply::whole("text/plain", Blob::held("")) }.with("Location", &location)
        }
        ("PUT", Route::Upload { repository, session }) => {
            let blob = Blob::held(request.body.clone());
            if !sessions.remove(session) || request.field("state") != Some("kept") {
                return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
            }
            if request.field("digest") != Some(blob.digest()) {
                return Reply::error(400, "DIGEST_INVALID");
            }
            let reply = created(blob.digest());
            content.keep_blob(repository, blob);
            reply
        }
        ("PUT", Route::Manifest { repository, reference }) => {
            let manifest = Manifest::raw(request.head.header("content-type").unwrap_or_default(), request.body.clone());
            let lacking = manifest
                .references()
                .into_iter()
                .find(|digest| content.blob(repository, digest).is_none() && content.manifest(repository, digest).is_none());
            if let Some(digest) = lacking {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN").with("X-Lacking", &digest);
            }
            let mut reply = created(&manifest.digest);
            if let (true, Some(subject)) = (state.has_referrers_api, manifest.json()["subject"]["digest"].as_str()) {
                reply = reply.with("OCI-Subject", subject);
            }
            content.keep_manifest(repository, Some(reference).filter(|tag| !tag.contains(':')).map(String::as_str), manifest);
            reply
        }
        _ => Reply::error(405, "UNSUPPORTED"),
    }
}

fn tag_page(repository: &str, tags: Vec<String>, request: &Request) -> Reply {
    let field = |name: &str| request.field(name);
    let rest: Vec<_> = tags.into_iter().filter(|tag| field("last").is_none_or(|last| tag.as_str() > last)).collect();
    let limit = field("n").and_then(|n| n.parse().ok()).unwrap_or(1000).min(1000);
    let page = &rest[..rest.len().min(limit)];
    let reply = Reply::whole("application/json", Blob::held(json!({"name": repository, "tags": page}).to_string()));
    match page.last() {
        Some(last) if page.len() < rest.len() => {
            reply.with("Link", &format!(r#"</v2/{repository}/tags/list?n={limit}&last={last}>; rel="next""#))
        }
        _ => reply,
    }
}

fn spoil_head(reply: &mut Reply, faults: &[Fault], request: &Request) {
    let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
    for fault in faults {
        match fault {
            Fault::Headers(headers) => reply.headers.extend_from_slice(headers),
            Fault::WrongDigestHeader => {
                reply.headers.retain(|(name, _)| name != "Docker-Content-Digest");
                reply.headers.push(("Docker-Content-Digest".into(), format!("sha256:{}", "0".repeat(64))));
            }
            _ => {}
        }
    }
    let ranged = reply.status == 200 && matches!(request.route, Route::Blob { .. }) && request.method == "GET";
    if !ranged || has(|fault| matches!(fault, Fault::IgnoreRange)) {
        return;
    }
    let size = reply.body.size_bytes();
    match request.head.header("range").and_then(|range| parse_range(range, size)) {
        None => {}
        Some((from, to)) if from >= to => {
            *reply = Reply::error(416, "RANGE_INVALID").with("Content-Range", &format!("bytes */{size}"));
        }
        Some((from, to)) => {
            let wrong = has(|fault| matches!(fault, Fault::WrongContentRange));
            (reply.from, reply.to) = if wrong { (0, to - from) } else { (from, to) };
            reply.status = 206;
            reply.headers.push(("Content-Range".into(), format!("bytes {}-{}/{size}", reply.from, reply.to - 1)));
        }
    }
}

/// The bounds of a single range, the end exclusive; `None` when it is to be ignored.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some((size.saturating_sub(last.parse().ok()?), size));
    }
    let to = if last.is_empty() { size } else { last.parse::<u64>().ok()?.checked_add(1)?.min(size) };
    Some((first.parse().ok()?, to))
}

/// What the faults do to a body, put together.
struct Spoilt {
    /// How much is sent.
    to: u64,
    end: End,
    stall: bool,
    flip: bool,
    rate: Option<u64>,
    framing: Sent,
}

#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Length,
    Chunked,
    UntilClose,
}

impl Spoilt {
    fn of(reply: &Reply, faults: &[Fault]) -> Spoilt {
        let mut spoilt = Spoilt { to: reply.to, end: End::KeepAlive, stall: false, flip: false, rate: None, framing: Sent::Length };
        for fault in faults {
            let until = |bytes: &u64| reply.to.min(reply.from + bytes);
            match fault {
                Fault::WrongBytes => spoilt.flip = true,
                Fault::Slow(rate) => spoilt.rate = Some(*rate),
                Fault::WithoutLength => spoilt.framing = Sent::Chunked,
                Fault::StallAfter(bytes) => (spoilt.to, spoilt.stall) = (until(bytes), true),
                Fault::CutAfter(bytes) => (spoilt.to, spoilt.end) = (until(bytes), End::Close),
                Fault::ResetAfter(bytes) => (spoilt.to, spoilt.end) = (until(bytes), End::Reset),
                Fault::TruncateChunked(bytes) => (spoilt.to, spoilt.framing) = (until(bytes), Sent::Chunked),
                Fault::TruncateUntilClose(bytes) => {
                    (spoilt.to, spoilt.framing, spoilt.end) = (until(bytes), Sent::UntilClose, End::Close);
                }
                _ => {}
            }
        }
        spoilt
    }
}

async fn send(
    state: &State,
    request: &Request,
    reply: &Reply,
    faults: &[Fault],
    logged: &Logged,
    stream: &mut BufStream<Box<dyn Stream>>,
) -> io::Result<End> {
    let spoilt = Spoilt::of(reply, faults);
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&match spoilt.framing {
        Sent::Length => format!("Content-Length: {}\r\n", reply.to - reply.from),
        Sent::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Sent::UntilClose => "Connection: close\r\n".to_owned(),
    });
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    if request.method == "HEAD" {
        return Ok(End::KeepAlive);
    }
    send_body(state, reply, &spoilt, logged, stream).await?;
    // Sent once for a request, so it cannot be there yet.
    let _ = logged.ended_at.set(Instant::now());
    if spoilt.stall {
        std::future::pending::<()>().await;
    }
    Ok(spoilt.end)
}

async fn send_body(
    state: &State,
    reply: &Reply,
    spoilt: &Spoilt,
    logged: &Logged,
    stream: &mut BufStream<Box<dyn Stream>>,
) -> io::Result<()> {
    const PACE: Duration = Duration::from_millis(20);
    let flip_at = reply.body.size_bytes() / 2;
    let mut pace = tokio::time::interval(PACE);
    let mut at = reply.from;
    while at < spoilt.to {
        state.answering().await;
        let most = spoilt.rate.map_or(PART_BYTES, |rate| (rate as usize / 50).max(1));
        let most = usize::try_from(spoilt.to - at).unwrap_or(usize::MAX).min(most);
        if spoilt.rate.is_some() {
            pace.tick().await;
        }
        let mut part = reply.body.part(at, most);
        if spoilt.flip && (at..at + part.len() as u64).contains(&flip_at) {
            let mut bytes = part.to_vec();
            bytes[(flip_at - at) as usize] ^= 1;
            part = bytes.into();
        }
        if spoilt.framing == Sent::Chunked {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
        }
        stream.write_all(&part).await?;
        if spoilt.framing == Sent::Chunked {
            stream.write_all(b"\r\n").await?;
        }
        stream.flush().await?;
        at += part.len() as u64;
        logged.sent_bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    if spoilt.framing == Sent::Chunked && spoilt.end == End::KeepAlive {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.flush().await
}
