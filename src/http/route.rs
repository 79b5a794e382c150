//! From a method, a path and a query to what is wanted: pure and total. After it no raw string travels.
//!
//! A path is split at `/` first and each segment is percent-decoded once after that, so an encoded slash is never a separator,
//! and what is encoded twice still has a `%` in it, which no name, tag or digest has.

use std::borrow::Cow;
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode;

use super::acr;
pub use super::acr::Acr;
use super::audit::search;
use super::governance::{self, Governing};
use super::logs;
use super::oauth2::{self, TokenRequest};
use super::receipts::{self, Wait};
use super::top;
use crate::audit;
use crate::bucket::{SnapshotPart, Through};
use crate::journal::{self, Excerpt};
use crate::ledger::Origin;
use crate::oci::{Algorithm, Digest, DigestError, NameError, Reference, RepositoryName, SessionError, SessionRef, Tag, TagError};
use crate::peers::protocol::MAX_WAIT;
use crate::registry::{Page, Told};

/// The longest path and query together, in bytes: a name and a `last` of 255 bytes each, fully encoded, and room to spare.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Names in one page of a list, at most, and when the client does not say. Large, since many clients do not follow `Link`.
pub const MAX_PAGE: usize = 10_000;

/// As much of `last`, `ns` or `artifactType` as is read: longer ones cannot name anything.
const MAX_PARAMETER_CHARS: usize = 512;

/// Tags that one push may set. The specification asks for 10 ("Pushing Manifests"); more is answered 414, as it allows.
pub const MAX_TAGS: usize = 100;

/// The query parameter of a session's location that holds its signed state.
pub const STATE_PARAMETER: &str = "_state";

/// Where tokens are had.
pub const TOKEN_PATH: &str = "/oauth2/token";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `/v2/`: does a registry answer here, and must I authenticate?
    Version,
    Catalog(Page),
    /// The same at `/acr/v1/_catalog`.
    AcrCatalog(Page),
    /// `/readyz` on the registry's listener, for health checks that look where the clients look.
    Ready,
    Read {
        /// As addressed: an upstream's prefix is still on it.
        name: RepositoryName,
        ns: Option<String>,
        wanted: Wanted,
    },
    Write {
        name: RepositoryName,
        ns: Option<String>,
        wanted: Push,
    },
    /// Azure Container Registry's own interface: attributes, locks, lists of them.
    Acr {
        name: RepositoryName,
        ns: Option<String>,
        wanted: Acr,
    },
    /// What is on its way to upstreams, of what the caller may read.
    Forwards,
    /// Tags that regions set without having seen each other's, of what the caller may read.
    Conflicts(Page),
    /// This edge and the regions at one glance.
    Overview,
    /// The answer comes when regions have something.
    Wait(Wait),
    /// An operator's command, whose image stands in the body.
    Command(Command),
    /// Who did what.
    Audit(audit::Query),
    /// The last lines of this edge's log.
    Logs(Excerpt),
    /// Lines of the logs of all edges, where they are kept.
    SearchLogs(Box<journal::Query>),
    /// Who is told of what happens, and what came of it.
    Webhooks,
    /// The receiver of this name is told something now.
    Ping(String),
    /// What upstreams were spared.
    Offload,
    /// Images that are kept here, of those that the caller may read.
    Watched,
    /// Who asks how much.
    Top(top::Query),
    /// A provider's token for a refresh token.
    Exchange,
    /// Where people sign in.
    SignIns,
    /// Who there is, and who may do what.
    Govern(Governing),
    /// An edge of another region wants to know.
    Peer(Question),
    /// A token, for whom the headers name.
    Token(TokenRequest),
    /// A token, for whom the body names.
    TokenForm,
}

/// What edges of other regions ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where does this region stand?
    Status,
    /// What follows a segment in this ledger?
    Segments {
        origin: Origin,
        after: u64,
        /// How long the answer may be held back until there is something.
        wait: Duration,
    },
    /// Which snapshots are there of the region's own ledger?
    Snapshots(Origin),
    /// The bytes of an object of one of them.
    SnapshotPart { origin: Origin, through: Through, part: SnapshotPart },
    /// What is known of this in a repository?
    Resolve { repository: RepositoryName, wanted: Told },
    /// The bytes that this region has.
    Content(Digest),
    /// Who did what here? The asking region has found out who may know.
    Audit(audit::Query),
    /// Which lines of the logs are here?
    Logs(Box<journal::Query>),
}

/// What is wanted of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Manifest(Reference),
    Blob(Digest),
    /// Which regions know a manifest and hold its bytes.
    Receipt(Reference),
    Tags(Page),
    Referrers {
        subject: Digest,
        artifact_type: Option<String>,
        /// Those behind this one.
        last: Option<Digest>,
    },
}

/// What is to be done to a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    Begin(Begin),
    /// How much of it is here?
    Status(SessionRef),
    Chunk(SessionRef),
    /// The last chunk, or nothing, and the digest of the whole.
    Finish {
        session: SessionRef,
        digest: Digest,
    },
    Cancel(SessionRef),
    Manifest {
        reference: Reference,
        /// To be set besides; only of a push by digest, each once, in the client's order.
        tags: Vec<Tag>,
    },
    DeleteManifest(Reference),
    DeleteBlob(Digest),
}

/// How an upload begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With a session, whose content the client will probably name by a digest of this algorithm.
    Session(Algorithm),
    /// At once: the body is the whole blob.
    Whole(Digest),
    /// With nothing, if the blob is at hand; else with a session.
    Mount {
        digest: Digest,
        /// Where the client knows it to be. A name that no repository can have is one that has no blobs.
        from: Option<RepositoryName>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Refresh,
    Prefetch,
}

/// Why a request asks for nothing that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("a path and query have at most {MAX_TARGET_BYTES} bytes")]
    TooLong,
    #[error("the method is not supported here")]
    Method { allow: &'static str },
    #[error("no such endpoint")]
    Unknown,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a path is UTF-8 without encoded or trailing slashes")]
    Path,
    #[error("no manifest can have this reference")]
    Tag,
    /// Of a push: where it would only be read, such a tag is absent.
    #[error(transparent)]
    NewTag(#[from] TagError),
    #[error("one push sets at most {MAX_TAGS} tags")]
    TooManyTags,
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("an upload is finished with the digest of the whole")]
    NoDigest,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("n is a number")]
    PageSize,
    #[error("the parameter {0} is missing or cannot be read")]
    Parameter(&'static str),
}

/// Reads a request's target. `query` is what follows the question mark.
pub fn route(method: &Method, path: &[u8], query: &str) -> Result<Action, RouteError> {
    if path.len().saturating_add(query.len()) > MAX_TARGET_BYTES {
        return Err(RouteError::TooLong);
    }
    if !KNOWN_METHODS.contains(method) {
        return Err(RouteError::Method { allow: READ });
    }
    let endpoint = match path {
        b"/v2" | b"/v2/" => return reading(method).map(|()| Action::Version),
        b"/readyz" => return reading(method).map(|()| Action::Ready),
        b"/v2/_catalog" => return reading(method).and_then(|()| page(query).map(Action::Catalog)),
        b"/outport/v1/forwards" => return reading(method).map(|()| Action::Forwards),
        b"/outport/v1/conflicts" => return reading(method).and_then(|()| page(query).map(Action::Conflicts)),
        b"/outport/v1/status" => return reading(method).map(|()| Action::Overview),
        b"/outport/v1/wait" => return reading(method).and_then(|()| receipts::wait(query).map(Action::Wait)),
        b"/outport/v1/refresh" => return posting(method).map(|()| Action::Command(Command::Refresh)),
        b"/outport/v1/prefetch" => return prefetch(method),
        b"/outport/v1/offload" => return reading(method).map(|()| Action::Offload),
        b"/outport/v1/webhooks" => return reading(method).map(|()| Action::Webhooks),
        b"/oauth2/exchange" => return posting(method).map(|()| Action::Exchange),
        b"/outport/v1/login" => return reading(method).map(|()| Action::SignIns),
        path if path == TOKEN_PATH.as_bytes() => return token(method, query),
        b"/outport/v1/audit" => return reading(method).and_then(|()| search(query).map(Action::Audit)),
        b"/outport/v1/logs" => return reading(method).and_then(|()| logs::action(query)),
        b"/outport/v1/top" => return reading(method).and_then(|()| top::query(query).map(Action::Top)),
        b"/outport/v1/peer/audit" => return reading(method).and_then(|()| search(query)).map(|query| Action::Peer(Question::Audit(query))),
        b"/outport/v1/peer/logs" => {
            return reading(method).and_then(|()| logs::search(query)).map(|query| Action::Peer(Question::Logs(query)));
        }
        b"/outport/v1/ledger" => return reading(method).map(|()| Action::Peer(Question::Status)),
        b"/outport/v1/resolve" => return reading(method).and_then(|()| resolve(query)).map(Action::Peer),
        _ => {
            if let Some(asked) = path.strip_prefix(b"/outport/v1/ledger/") {
                return reading(method).and_then(|()| ledger(asked, query)).map(Action::Peer);
            }
            if let Some(digest) = path.strip_prefix(b"/outport/v1/content/") {
                return reading(method).and_then(|()| Ok(Action::Peer(Question::Content(decoded(digest)?.parse()?))));
            }
            if let Some(rest) = path.strip_prefix(b"/acr/v1/") {
                return acr::route(method, rest, query);
            }
            if let Some(image) = path.strip_prefix(b"/outport/v1/replication/") {
                return reading(method).and_then(|()| receipt(image, query));
            }
            if let Some(name) = path.strip_prefix(b"/outport/v1/webhooks/").and_then(|rest| rest.strip_suffix(b"/ping")) {
                return posting(method).and_then(|()| Ok(Action::Ping(decoded(name)?.into_owned())));
            }
            if let Some(governing) = governance::route(method, path, query) {
                return governing.map(Action::Govern);
            }
            Endpoint::find(path)?
        }
    };
    let (ns, rest) = (parameter(query, "ns"), &*endpoint.rest);
    let doing = match endpoint.word {
        Word::Manifests => manifests(method, rest, query)?,
        Word::Blobs => blobs(method, rest)?,
        Word::Uploads => Doing::Write(uploads(method, rest, query)?),
        Word::Tags => reading(method).and_then(|()| page(query)).map(|page| Doing::Read(Wanted::Tags(page)))?,
        Word::Referrers => {
            reading(method)?;
            let last = parameter(query, "last").map(|last| last.parse()).transpose()?;
            Doing::Read(Wanted::Referrers { subject: rest.parse()?, artifact_type: parameter(query, "artifactType"), last })
        }
    };
    let name = repository_name(&endpoint.name)?;
    Ok(match doing {
        Doing::Read(wanted) => Action::Read { name, ns, wanted },
        Doing::Write(wanted) => Action::Write { name, ns, wanted },
    })
}

/// `{name}/{reference}`
fn receipt(image: &[u8], query: &str) -> Result<Action, RouteError> {
    let mut segments = image.split(|byte| *byte == b'/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let last = segments.pop().unwrap_or_default();
    if last.is_empty() {
        return Err(RouteError::Path);
    }
    let wanted = Wanted::Receipt(reference(&last)?);
    Ok(Action::Read { name: repository_name(&segments)?, ns: parameter(query, "ns"), wanted })
}

/// `ORIGIN`, `ORIGIN/snapshots` or `ORIGIN/snapshots/SNAPSHOT/PART`.
fn ledger(asked: &[u8], query: &str) -> Result<Question, RouteError> {
    let parts = asked.split(|byte| *byte == b'/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let mut parts = parts.iter().map(AsRef::as_ref);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let origin = parts.next().filter(|origin: &&str| origin.bytes().all(fits)).and_then(|origin| origin.parse().ok());
    let origin: Origin = origin.ok_or(RouteError::Unknown)?;
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) => segments(origin, query),
        (Some("snapshots"), None, ..) => Ok(Question::Snapshots(origin)),
        (Some("snapshots"), Some(through), Some(part), None) => {
            let unknown = |_| RouteError::Unknown;
            Ok(Question::SnapshotPart { origin, through: through.parse().map_err(unknown)?, part: part.parse().map_err(unknown)? })
        }
        _ => Err(RouteError::Unknown),
    }
}

/// `after=SEQ`, and perhaps `wait=SECONDS`.
fn segments(origin: Origin, query: &str) -> Result<Question, RouteError> {
    let number = |name| {
        parameter(query, name).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())).and_then(|digits| digits.parse().ok())
    };
    let wait = if has(query, "wait") { number("wait").ok_or(RouteError::Parameter("wait"))? } else { 0 };
    let after = number("after").ok_or(RouteError::Parameter("after"))?;
    Ok(Question::Segments { origin, after, wait: Duration::from_secs(wait).min(MAX_WAIT) })
}

/// `repository=NAME`, and `reference=TAG|DIGEST` or `blob=DIGEST`.
fn resolve(query: &str) -> Result<Question, RouteError> {
    let repository = parameter(query, "repository").ok_or(RouteError::Parameter("repository"))?.parse()?;
    let wanted = match (parameter(query, "reference"), parameter(query, "blob")) {
        (Some(text), None) => Told::Manifest(reference(&text)?),
        (None, Some(digest)) => Told::Blob(digest.parse()?),
        _ => return Err(RouteError::Parameter("reference")),
    };
    Ok(Question::Resolve { repository, wanted })
}

const KNOWN_METHODS: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
const READ: &str = "GET, HEAD";
const OF_MANIFESTS: &str = "GET, HEAD, PUT, DELETE";
const OF_BLOBS: &str = "GET, HEAD, DELETE";
const OF_UPLOADS: &str = "POST";
const OF_SESSIONS: &str = "GET, HEAD, PATCH, PUT, DELETE";

pub(super) fn reading(method: &Method) -> Result<(), RouteError> {
    if method == Method::GET || method == Method::HEAD { Ok(()) } else { Err(RouteError::Method { allow: READ }) }
}

fn posting(method: &Method) -> Result<(), RouteError> {
    if method == Method::POST { Ok(()) } else { Err(RouteError::Method { allow: "POST" }) }
}

fn prefetch(method: &Method) -> Result<Action, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Action::Watched),
        Method::POST => Ok(Action::Command(Command::Prefetch)),
        _ => Err(RouteError::Method { allow: "GET, HEAD, POST" }),
    }
}

fn token(method: &Method, query: &str) -> Result<Action, RouteError> {
    match *method {
        Method::GET | Method::HEAD => oauth2::token_request(query).map(Action::Token),
        Method::POST => Ok(Action::TokenForm),
        _ => Err(RouteError::Method { allow: "GET, HEAD, POST" }),
    }
}

/// What is wanted, before its repository is known.
enum Doing {
    Read(Wanted),
    Write(Push),
}

fn manifests(method: &Method, rest: &str, query: &str) -> Result<Doing, RouteError> {
    Ok(match *method {
        Method::GET | Method::HEAD => Doing::Read(Wanted::Manifest(reference(rest)?)),
        Method::PUT => {
            let reference = new_reference(rest)?;
            let tags = match reference {
                Reference::Digest(_) => new_tags(query)?,
                Reference::Tag(_) => Vec::new(),
            };
            Doing::Write(Push::Manifest { reference, tags })
        }
        Method::DELETE => Doing::Write(Push::DeleteManifest(reference(rest)?)),
        _ => return Err(RouteError::Method { allow: OF_MANIFESTS }),
    })
}

fn blobs(method: &Method, rest: &str) -> Result<Doing, RouteError> {
    Ok(match *method {
        Method::GET | Method::HEAD => Doing::Read(Wanted::Blob(rest.parse()?)),
        Method::DELETE => Doing::Write(Push::DeleteBlob(rest.parse()?)),
        _ => return Err(RouteError::Method { allow: OF_BLOBS }),
    })
}

/// `rest` is `uploads`, `uploads/` or `uploads/<id>`.
fn uploads(method: &Method, rest: &str, query: &str) -> Result<Push, RouteError> {
    let id = rest.split_once('/').map_or("", |(_, id)| id);
    if id.is_empty() {
        return if method == Method::POST { begin(query).map(Push::Begin) } else { Err(RouteError::Method { allow: OF_UPLOADS }) };
    }
    if ![Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE].contains(method) {
        return Err(RouteError::Method { allow: OF_SESSIONS });
    }
    let state = values(query, STATE_PARAMETER).next().map(|state| state.parse()).transpose()?;
    let session = SessionRef { id: id.parse()?, state };
    Ok(match *method {
        Method::PATCH => Push::Chunk(session),
        Method::PUT => Push::Finish { session, digest: values(query, "digest").next().ok_or(RouteError::NoDigest)?.parse()? },
        Method::DELETE => Push::Cancel(session),
        _ => Push::Status(session),
    })
}

/// A mount goes before everything else: one that cannot be done becomes a session.
fn begin(query: &str) -> Result<Begin, RouteError> {
    if let Some(digest) = values(query, "mount").next() {
        // Row 50: what `from` says, be it nonsense, must not tell the answers apart.
        let from = values(query, "from").next();
        return Ok(match (from.as_ref().map(|name| name.parse()), digest.parse()?) {
            (None, digest) => Begin::Mount { digest, from: None },
            (Some(Ok(from)), digest) => Begin::Mount { digest, from: Some(from) },
            (Some(Err(_)), digest) => Begin::Session(digest.algorithm()),
        });
    }
    if let Some(digest) = values(query, "digest").next() {
        return Ok(Begin::Whole(digest.parse()?));
    }
    let algorithm = values(query, "digest-algorithm").next().map(|algorithm| algorithm.parse()).transpose()?;
    Ok(Begin::Session(algorithm.unwrap_or(Algorithm::Sha256)))
}

/// The `tag` parameters of a push by digest.
fn new_tags(query: &str) -> Result<Vec<Tag>, RouteError> {
    let mut tags: Vec<Tag> = Vec::new();
    for text in values(query, "tag") {
        let tag = text.parse()?;
        if tags.contains(&tag) {
            continue;
        }
        if tags.len() == MAX_TAGS {
            return Err(RouteError::TooManyTags);
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// The component of a path that tells what the components around it are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Manifests,
    Blobs,
    /// `blobs/uploads`, and what may follow it.
    Uploads,
    Tags,
    Referrers,
}

impl Word {
    fn of(segment: &str) -> Option<Word> {
        match segment {
            "manifests" => Some(Word::Manifests),
            "blobs" => Some(Word::Blobs),
            "referrers" => Some(Word::Referrers),
            _ => None,
        }
    }
}

/// A path below `/v2/`, taken apart but not yet parsed.
struct Endpoint<'a> {
    name: Vec<Cow<'a, str>>,
    word: Word,
    /// What follows the word: a tag or a digest.
    rest: Cow<'a, str>,
}

/// A path has so many, mostly.
const SEGMENTS: usize = 8;

impl Endpoint<'_> {
    /// Components of a repository may be named like route words, so the last place where a word makes sense is the one that counts:
    /// `/v2/blobs/manifests/latest` is a manifest of the repository `blobs`, `/v2/a/manifests/blobs` one that is tagged `blobs`.
    fn find(path: &[u8]) -> Result<Endpoint<'_>, RouteError> {
        let below = path.strip_prefix(b"/v2/");
        let trimmed = below.unwrap_or_else(|| path.strip_prefix(b"/").unwrap_or(path));
        let mut segments = Vec::with_capacity(SEGMENTS);
        for segment in trimmed.split(|byte| *byte == b'/') {
            segments.push(decoded(segment)?);
        }
        if below.is_none() {
            // Row 2: an encoded slash is refused wherever it stands.
            return Err(if segments.iter().any(|segment| segment.contains('/')) { RouteError::Path } else { RouteError::Unknown });
        }
        let (word, at) = place_of_word(&segments).ok_or_else(|| what_is_wrong(&segments))?;
        if segments.last().is_some_and(|last| last.is_empty()) && word != Word::Uploads {
            return Err(RouteError::Path);
        }
        let rest = match segments.len() - at {
            2 => segments.pop().unwrap_or_default(),
            _ => Cow::Owned(segments[at + 1..].join("/")),
        };
        segments.truncate(at);
        Ok(Endpoint { name: segments, word, rest })
    }
}

/// The route word that counts, and where it stands.
fn place_of_word(segments: &[Cow<'_, str>]) -> Option<(Word, usize)> {
    let from_end = |count: usize| segments.len().checked_sub(count).map(|at| (&*segments[at], at));
    let (last, before, third) = (from_end(1), from_end(2), from_end(3));
    match (third, before, last) {
        (_, Some(("tags", at)), Some(("list", _))) => return Some((Word::Tags, at)),
        (_, Some(("blobs", at)), Some(("uploads", _))) => return Some((Word::Uploads, at)),
        (_, Some((text, _)), _) if Word::of(text).is_some() => {}
        (Some(("blobs", at)), Some(("uploads", _)), _) => return Some((Word::Uploads, at)),
        _ => {}
    }
    let followed = segments.len().saturating_sub(1);
    segments.iter().take(followed).enumerate().rev().find_map(|(at, text)| Some((Word::of(text)?, at)))
}

/// For a path under `/v2/` without a route word: a bad name is told from an endpoint that does not exist.
fn what_is_wrong(segments: &[Cow<'_, str>]) -> RouteError {
    match repository_name(segments) {
        Ok(_) if segments.iter().any(|segment| segment.contains('/')) => RouteError::Path,
        Ok(_) => RouteError::Unknown,
        Err(error) => error,
    }
}

pub(super) fn decoded(segment: &[u8]) -> Result<Cow<'_, str>, RouteError> {
    if !segment.contains(&b'%') {
        return str::from_utf8(segment).map(Cow::Borrowed).map_err(|_| RouteError::Path);
    }
    percent_decode(segment).decode_utf8().map_err(|_| RouteError::Path)
}

/// Azure's clients encode the slashes of a name, all of them: then the name is one segment, and is judged like any other. Elsewhere an
/// encoded slash is refused.
pub(super) fn repository_name(segments: &[Cow<'_, str>]) -> Result<RepositoryName, RouteError> {
    if segments.len() > 1 && segments.iter().any(|segment| segment.contains('/')) {
        return Err(RouteError::Path);
    }
    Ok(segments.join("/").parse()?)
}

/// A text that can be no tag names no manifest; one with a colon is meant as a digest.
fn reference(text: &str) -> Result<Reference, RouteError> {
    if text.contains(':') {
        Ok(Reference::Digest(text.parse()?))
    } else {
        text.parse::<Tag>().map(Reference::Tag).map_err(|_| RouteError::Tag)
    }
}

/// Where a tag is to be set, one that cannot be is an error of the client's.
fn new_reference(text: &str) -> Result<Reference, RouteError> {
    if text.contains(':') { Ok(Reference::Digest(text.parse()?)) } else { Ok(Reference::Tag(text.parse()?)) }
}

pub(super) fn page(query: &str) -> Result<Page, RouteError> {
    let limit = match parameter(query, "n") {
        None => MAX_PAGE,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Digits that overflow are a large number.
            digits.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE)
        }
        Some(_) => return Err(RouteError::PageSize),
    };
    Ok(Page { limit, last: parameter(query, "last").filter(|last| !last.is_empty()) })
}

/// The values of all parameters of this name, decoded. A plus sign stays one: media types have them, and nothing here has a space.
fn values<'a>(query: &'a str, name: &'static str) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| percent_decode(value.as_bytes()).decode_utf8_lossy())
}

pub(super) fn has(query: &str, name: &'static str) -> bool {
    values(query, name).next().is_some()
}

/// The first parameter of this name, cut to a length.
pub(super) fn parameter(query: &str, name: &'static str) -> Option<String> {
    values(query, name).next().map(|value| value.chars().take(MAX_PARAMETER_CHARS).collect())
}

/// `?deep=1` on the operators' readiness check.
pub fn asks_deep(query: &str) -> bool {
    parameter(query, "deep").as_deref() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::MAX_LIMIT;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(target: &str) -> Result<Action, RouteError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&Method::GET, path.as_bytes(), query)
    }

    fn send(method: &str, target: &str) -> Result<Action, RouteError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&Method::from_bytes(method.as_bytes()).unwrap(), path.as_bytes(), query)
    }

    fn write(name: &str, wanted: Push) -> Result<Action, RouteError> {
        Ok(Action::Write { name: name.parse().unwrap(), ns: None, wanted })
    }

    fn read(name: &str, wanted: Wanted) -> Result<Action, RouteError> {
        Ok(Action::Read { name: name.parse().unwrap(), ns: None, wanted })
    }

    fn tagged(tag: &str) -> Wanted {
        Wanted::Manifest(Reference::Tag(tag.parse().unwrap()))
    }

    fn digest() -> Digest {
        format!("sha256:{HEX}").parse().unwrap()
    }

    fn all(limit: usize) -> Page {
        Page { limit, last: None }
    }

    fn is_bad_name(result: Result<Action, RouteError>) -> bool {
        matches!(result, Err(RouteError::Name(_) | RouteError::Path))
    }

    #[test]
    fn endpoints_are_found() {
        for (target, action) in [
            ("/v2", Action::Version),
            ("/v2/", Action::Version),
            ("/v2/?x=y", Action::Version),
            ("/readyz", Action::Ready),
            ("/v2/_catalog?n=3", Action::Catalog(all(3))),
            ("/outport/v1/forwards", Action::Forwards),
            ("/outport/v1/login", Action::SignIns),
            ("/outport/v1/webhooks", Action::Webhooks),
            ("/outport/v1/offload", Action::Offload),
            ("/outport/v1/prefetch", Action::Watched),
        ] {
            assert_eq!(get(target), Ok(action), "{target}");
        }
        assert_eq!(get("/v2/library/alpine/manifests/3"), read("library/alpine", tagged("3")));
        assert_eq!(get(&format!("/v2/a/manifests/sha256:{HEX}")), read("a", Wanted::Manifest(Reference::Digest(digest()))));
        assert_eq!(get(&format!("/v2/a/blobs/sha256%3A{HEX}")), read("a", Wanted::Blob(digest())));
        assert_eq!(get("/v2/a/b/tags/list"), read("a/b", Wanted::Tags(all(MAX_PAGE))));
        assert_eq!(
            get(&format!("/v2/a/referrers/sha256:{HEX}?artifactType=application/vnd.x%2Bjson")),
            read("a", Wanted::Referrers { subject: digest(), artifact_type: Some("application/vnd.x+json".into()), last: None })
        );
        for command in [("/outport/v1/refresh", Command::Refresh), ("/outport/v1/prefetch", Command::Prefetch)] {
            assert_eq!(route(&Method::POST, command.0.as_bytes(), ""), Ok(Action::Command(command.1)));
        }
        assert_eq!(send("POST", "/oauth2/exchange"), Ok(Action::Exchange));
        assert_eq!(send("POST", "/outport/v1/webhooks/ci/ping"), Ok(Action::Ping("ci".into())));
        assert_eq!(send("GET", "/outport/v1/webhooks/ci/ping"), Err(RouteError::Method { allow: "POST" }));
        assert_eq!(send("PUT", "/outport/v1/prefetch"), Err(RouteError::Method { allow: "GET, HEAD, POST" }));
        for target in ["/", "", "/favicon.ico", "/v1/_ping", "/v2/library/alpine", "/v2x", "*"] {
            assert_eq!(get(target), Err(RouteError::Unknown), "{target}");
        }
    }

    #[test]
    fn row_1_dots_in_a_name_are_refused_however_they_are_written() {
        for name in ["..", "../x", "a/../b", "%2e%2e", "a/%2e%2e/b", "..%2f", "a%2f..%2fb", "%252e", "a/%252e%252e/b", "."] {
            for rest in ["manifests/latest".to_owned(), format!("blobs/sha256:{HEX}"), "tags/list".to_owned()] {
                assert!(is_bad_name(get(&format!("/v2/{name}/{rest}"))), "{name} {rest}");
            }
        }
        assert!(is_bad_name(get("/v2/../../etc/passwd")));
    }

    #[test]
    fn row_2_an_encoded_slash_is_refused() {
        for target in [
            "/%2F%2F..%2Fetc",
            "/v2/%2F%2F..%2Fetc",
            "/v2/%2F%2F..%2Fetc/manifests/latest",
            "/v2/a%2Fb/c/manifests/latest",
            "/v2/a%2F%2Fb/manifests/latest",
            "/v2/a%2F..%2Fb/manifests/latest",
            "/v2/a%252Fb/manifests/latest",
            "/v2/a%2fmanifests%2flatest",
        ] {
            assert!(is_bad_name(get(target)), "{target}");
        }
        // But for a whole name, as Azure's clients write it.
        assert_eq!(get("/v2/a%2Fb/manifests/latest"), read("a/b", tagged("latest")));
        assert_eq!(get("/v2/a%2Fmanifests%2fb/manifests/latest"), read("a/manifests/b", tagged("latest")));
    }

    #[test]
    fn row_3_names_outside_the_grammar_are_refused() {
        for target in [
            "/v2/Library/alpine/manifests/1",
            "/v2/a..b/manifests/1",
            "/v2/a//b/manifests/1",
            "/v2//manifests/1",
            "/v2/manifests/1",
            "/v2/tags/list",
            "/v2/a/tags/list/",
            "/v2/a/manifests/",
            "/v2/a/manifests/1/",
            "/v2/a/",
        ] {
            assert!(is_bad_name(get(target)), "{target}");
        }
    }

    #[test]
    fn row_4_a_name_has_at_most_255_bytes() {
        assert!(get(&format!("/v2/{}/manifests/1", "a".repeat(255))).is_ok());
        assert_eq!(get(&format!("/v2/{}/manifests/1", "a".repeat(256))), Err(RouteError::Name(NameError::Length)));
    }

    #[test]
    fn row_5_control_characters_and_odd_encodings_are_refused() {
        for name in ["a%00", "a%0d%0ab", "%c0%af", "a%c0%ae", "%d0%b0bc", "\u{430}bc", "a%ff", "a%", "a%zz", "a+b", "a%20b"] {
            assert!(is_bad_name(get(&format!("/v2/{name}/manifests/1"))), "{name}");
        }
        assert!(is_bad_name(route(&Method::GET, b"/v2/a\xff/manifests/1", "")));
    }

    #[test]
    fn row_6_repositories_may_be_named_like_route_words() {
        assert_eq!(get(&format!("/v2/blobs/blobs/sha256:{HEX}")), read("blobs", Wanted::Blob(digest())));
        assert_eq!(get("/v2/manifests/manifests/manifests"), read("manifests", tagged("manifests")));
        assert_eq!(get("/v2/tags/list/manifests/list"), read("tags/list", tagged("list")));
        assert_eq!(get("/v2/tags/list/tags/list"), read("tags/list", Wanted::Tags(all(MAX_PAGE))));
        assert_eq!(get("/v2/a/manifests/blobs/manifests/x"), read("a/manifests/blobs", tagged("x")));
        assert_eq!(get("/v2/a/blobs/uploads/manifests/x"), read("a/blobs/uploads", tagged("x")));
        assert_eq!(get("/v2/blobs/uploads/tags/list"), read("blobs/uploads", Wanted::Tags(all(MAX_PAGE))));
    }

    #[test]
    fn row_7_a_tag_that_cannot_be_names_no_manifest() {
        for tag in [".a", "-a", &"t".repeat(129), "a%20b", "b/c", "a%2Fb"] {
            assert_eq!(get(&format!("/v2/a/manifests/{tag}")), Err(RouteError::Tag), "{tag}");
        }
    }

    #[test]
    fn row_8_what_is_not_a_digest_is_refused() {
        let upper = HEX.to_uppercase();
        for digest in ["sha256:e3b0", &format!("sha256:{upper}"), "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../x", "latest"] {
            for word in ["blobs", "referrers"] {
                assert!(matches!(get(&format!("/v2/a/{word}/{digest}")), Err(RouteError::Digest(_))), "{word} {digest}");
            }
        }
        assert!(matches!(get("/v2/a/manifests/sha256:../x"), Err(RouteError::Digest(_))));
        assert!(matches!(get("/v2/a/blobs/sha256:%2e%2e%2fx"), Err(RouteError::Digest(_))));
    }

    #[test]
    fn row_9_a_long_target_is_refused() {
        assert_eq!(get(&format!("/v2/{}", "a".repeat(64 * 1024))), Err(RouteError::TooLong));
        assert_eq!(get(&format!("/v2/?{}", "a".repeat(64 * 1024))), Err(RouteError::TooLong));
    }

    #[test]
    fn row_10_methods_that_an_endpoint_has_not_are_refused() {
        let blob = format!("/v2/a/blobs/sha256:{HEX}");
        for (method, path, allow) in [
            ("TRACE", "/v2/", READ),
            ("CONNECT", "", READ),
            ("JUNK", "/v2/a/manifests/1", READ),
            ("POST", "/v2/", READ),
            ("POST", "/v2/a/manifests/1", OF_MANIFESTS),
            ("PATCH", "/v2/a/manifests/-bad", OF_MANIFESTS),
            ("OPTIONS", "/v2/a/manifests/1", OF_MANIFESTS),
            ("PUT", &blob, OF_BLOBS),
            ("POST", "/v2/a/blobs/sha256:x", OF_BLOBS),
            ("POST", "/v2/a/tags/list", READ),
            ("DELETE", "/v2/a/tags/list", READ),
            ("PUT", "/v2/a/referrers/sha256:x", READ),
            ("DELETE", "/v2/_catalog", READ),
            ("GET", "/v2/a/blobs/uploads/", OF_UPLOADS),
            ("PUT", "/v2/a/blobs/uploads", OF_UPLOADS),
            ("DELETE", "/v2/a/blobs/uploads/", OF_UPLOADS),
            ("POST", "/v2/a/blobs/uploads/0b1c", OF_SESSIONS),
            ("OPTIONS", "/v2/a/blobs/uploads/a%2fb", OF_SESSIONS),
            ("GET", "/outport/v1/refresh", "POST"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(route(&method, path.as_bytes(), ""), Err(RouteError::Method { allow }), "{method} {path}");
        }
    }

    #[test]
    fn uploads_are_begun_in_every_way() {
        let (sha256, sha512) = (digest(), Digest::of(Algorithm::Sha512, b""));
        let session = |algorithm| Begin::Session(algorithm);
        let mount = |from: Option<&str>| Begin::Mount { digest: sha256, from: from.map(|name| name.parse().unwrap()) };
        for (query, begin) in [
            (String::new(), session(Algorithm::Sha256)),
            ("digest-algorithm=sha512".into(), session(Algorithm::Sha512)),
            ("digest-algorithm=sha256&x=y".into(), session(Algorithm::Sha256)),
            (format!("digest={sha256}"), Begin::Whole(sha256)),
            (format!("digest=sha512%3A{}", sha512.hex()), Begin::Whole(sha512)),
            (format!("mount={sha256}"), mount(None)),
            (format!("mount={sha256}&from=library/alpine"), mount(Some("library/alpine"))),
            (format!("from=a%2Fb&mount={sha256}"), mount(Some("a/b"))),
            (format!("mount={sha256}&from=a&digest={sha512}"), mount(Some("a"))),
            // Row 50: nonsense is a repository that has nothing.
            (format!("mount={sha512}&from=../x"), session(Algorithm::Sha512)),
            (format!("mount={sha256}&from="), session(Algorithm::Sha256)),
            ("from=library/alpine".into(), session(Algorithm::Sha256)),
        ] {
            for path in ["/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads"] {
                assert_eq!(send("POST", &format!("{path}?{query}")), write("a/b", Push::Begin(begin.clone())), "{path} {query}");
            }
        }
        for query in ["digest=", "digest=sha256:x", "digest=md5:0", "mount=latest", "digest-algorithm=blake3", "digest-algorithm="] {
            assert!(matches!(send("POST", &format!("/v2/a/blobs/uploads/?{query}")), Err(RouteError::Digest(_))), "{query}");
        }
    }

    #[test]
    fn a_session_is_named_by_its_location() {
        let digest = digest();
        let session =
            |state: Option<&str>| SessionRef { id: "01ARZ3-x".parse().unwrap(), state: state.map(|state| state.parse().unwrap()) };
        let finish = |state| Push::Finish { session: session(state), digest };
        for (method, query, push) in [
            ("GET", "", Push::Status(session(None))),
            ("HEAD", "_state=abc", Push::Status(session(Some("abc")))),
            ("PATCH", "_state=a.b-c_d%3D%3D", Push::Chunk(session(Some("a.b-c_d==")))),
            ("PUT", &format!("_state=abc&digest={digest}"), finish(Some("abc"))),
            ("PUT", &format!("digest=sha256%3A{HEX}&_state=abc&x"), finish(Some("abc"))),
            ("PUT", &format!("digest={digest}"), finish(None)),
            ("DELETE", "_state=abc&_state=def", Push::Cancel(session(Some("abc")))),
        ] {
            assert_eq!(send(method, &format!("/v2/a/b/blobs/uploads/01ARZ3-x?{query}")), write("a/b", push), "{method} {query}");
        }
        let long = "a".repeat(2000);
        for (method, rest, error) in [
            ("PUT", "id?_state=abc", RouteError::NoDigest),
            ("PUT", "id?digest=sha256:../x", RouteError::Digest(DigestError::Hex)),
            // Row 42: what no Location of ours can have is a session that is not there.
            ("GET", "a%2Fb", RouteError::Session(SessionError)),
            ("GET", "a%20b", RouteError::Session(SessionError)),
            ("PATCH", "id?_state=", RouteError::Session(SessionError)),
            ("PATCH", "id?_state=a%2Fb", RouteError::Session(SessionError)),
            ("DELETE", &format!("id?_state={long}"), RouteError::Session(SessionError)),
        ] {
            assert_eq!(send(method, &format!("/v2/a/blobs/uploads/{rest}")), Err(error), "{method} {rest}");
        }
    }

    #[test]
    fn manifests_and_blobs_are_written_and_deleted() {
        let (digest, sha512) = (digest(), Digest::of(Algorithm::Sha512, b""));
        let by_digest = |digest, tags: &[&str]| Push::Manifest {
            reference: Reference::Digest(digest),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        };
        let tagged = |tag: &str| Reference::Tag(tag.parse().unwrap());
        for (method, target, push) in [
            ("PUT", "manifests/v1".to_owned(), Push::Manifest { reference: tagged("v1"), tags: Vec::new() }),
            ("PUT", "manifests/v1?tag=v2".to_owned(), Push::Manifest { reference: tagged("v1"), tags: Vec::new() }),
            ("PUT", format!("manifests/{digest}"), by_digest(digest, &[])),
            ("PUT", format!("manifests/{sha512}?tag=1.2.3&tag=1.2&tag=1.2.3&tag=_x"), by_digest(sha512, &["1.2.3", "1.2", "_x"])),
            ("DELETE", "manifests/v1".to_owned(), Push::DeleteManifest(tagged("v1"))),
            ("DELETE", format!("manifests/{sha512}"), Push::DeleteManifest(Reference::Digest(sha512))),
            ("DELETE", format!("blobs/{digest}"), Push::DeleteBlob(digest)),
        ] {
            assert_eq!(send(method, &format!("/v2/a/b/{target}")), write("a/b", push), "{method} {target}");
        }
        assert!(matches!(send("DELETE", "/v2/a/blobs/latest"), Err(RouteError::Digest(_))));
        // Row 6: names that are route words.
        let written = write("blobs/uploads", Push::DeleteManifest(tagged("uploads")));
        assert_eq!(send("DELETE", "/v2/blobs/uploads/manifests/uploads"), written);
        let begun = write("a/manifests", Push::Begin(Begin::Session(Algorithm::Sha256)));
        assert_eq!(send("POST", "/v2/a/manifests/blobs/uploads/"), begun);
        assert!(matches!(send("PATCH", "/v2/a/blobs/uploads/manifests"), Ok(Action::Write { wanted: Push::Chunk(_), .. })));
    }

    #[test]
    fn row_7_a_tag_that_cannot_be_is_a_bad_request_where_it_is_pushed() {
        for tag in [".a", "-a", &"t".repeat(129), "a%20b", "b/c", "a%2Fb", "%c3%a9"] {
            assert_eq!(send("PUT", &format!("/v2/a/manifests/{tag}")), Err(RouteError::NewTag(TagError)), "{tag}");
            assert_eq!(send("DELETE", &format!("/v2/a/manifests/{tag}")), Err(RouteError::Tag), "{tag}");
        }
        for tag in ["", "-a", "a+b", "a%2Cb", &"t".repeat(129)] {
            assert_eq!(send("PUT", &format!("/v2/a/manifests/{}?tag=ok&tag={tag}", digest())), Err(RouteError::NewTag(TagError)), "{tag}");
        }
    }

    #[test]
    fn row_61_a_push_sets_so_many_tags() {
        let target = |count: usize, length: usize| {
            let tags: Vec<String> = (0..count).map(|number| format!("tag={number:0length$}")).collect();
            format!("/v2/a/manifests/{}?{}", digest(), tags.join("&"))
        };
        for (count, length) in [(10, 128), (MAX_TAGS, 60)] {
            let routed = send("PUT", &target(count, length));
            assert!(matches!(&routed, Ok(Action::Write { wanted: Push::Manifest { tags, .. }, .. }) if tags.len() == count), "{routed:?}");
        }
        assert_eq!(send("PUT", &target(MAX_TAGS + 1, 4)), Err(RouteError::TooManyTags));
        assert_eq!(send("PUT", &target(10_000, 1)), Err(RouteError::TooLong));
    }

    #[test]
    fn other_regions_ask_their_questions() {
        let (asked, digest) = (|target: &str| get(target).map_err(|error| error.to_string()), digest());
        let peer = |question| Ok(Action::Peer(question));
        let after = |after, seconds| {
            peer(Question::Segments { origin: Origin::new("us", "01J0"), after, wait: std::time::Duration::from_secs(seconds) })
        };
        let resolve = |wanted| peer(Question::Resolve { repository: "a/b".parse().unwrap(), wanted });
        assert_eq!(asked("/outport/v1/ledger"), peer(Question::Status));
        assert_eq!(asked("/outport/v1/ledger/us.01J0?after=0"), after(0, 0));
        assert_eq!(asked("/outport/v1/ledger/us%2E01J0?wait=5&after=7"), after(7, 5));
        assert_eq!(asked("/outport/v1/ledger/us.01J0?after=7&wait=99"), after(7, 30));
        let origin = Origin::new("us", "01J0");
        assert_eq!(asked("/outport/v1/ledger/us.01J0/snapshots"), peer(Question::Snapshots(origin.clone())));
        for part in [SnapshotPart::Manifest, SnapshotPart::Shard { attempt: ulid::Ulid::from_parts(1, 1), number: 12 }] {
            let through = Through { ledger: 7, imports: 3 };
            let question = Question::SnapshotPart { origin: origin.clone(), through, part };
            assert_eq!(asked(&format!("/outport/v1/ledger/us.01J0/snapshots/{through}/{part}")), peer(question));
        }
        assert_eq!(
            asked("/outport/v1/resolve?repository=a%2Fb&reference=v1"),
            resolve(Told::Manifest(Reference::Tag("v1".parse().unwrap())))
        );
        assert_eq!(
            asked(&format!("/outport/v1/resolve?repository=a/b&reference=sha256%3A{HEX}")),
            resolve(Told::Manifest(Reference::Digest(digest)))
        );
        assert_eq!(asked(&format!("/outport/v1/resolve?repository=a/b&blob={digest}")), resolve(Told::Blob(digest)));
        assert_eq!(asked(&format!("/outport/v1/content/{digest}")), peer(Question::Content(digest)));
        for target in [
            "/outport/v1/ledger/us.01J0".to_owned(),
            "/outport/v1/ledger/us.01J0?after=-1".to_owned(),
            "/outport/v1/ledger/us.01J0?after=".to_owned(),
            "/outport/v1/ledger/us.01J0?after=99999999999999999999".to_owned(),
            "/outport/v1/ledger/us.01J0?after=1&wait=x".to_owned(),
            "/outport/v1/ledger/us?after=1".to_owned(),
            "/outport/v1/ledger/?after=1".to_owned(),
            "/outport/v1/ledger/us.01J0%2F..?after=1".to_owned(),
            "/outport/v1/ledger/us.01J0/?after=1".to_owned(),
            "/outport/v1/ledger/us.01J0/segments".to_owned(),
            "/outport/v1/ledger/us.01J0%2Fsnapshots".to_owned(),
            "/outport/v1/ledger/us.01J0/snapshots/".to_owned(),
            "/outport/v1/ledger/us.01J0/snapshots/../manifest".to_owned(),
            "/outport/v1/ledger/us.01J0/snapshots/7-3".to_owned(),
            "/outport/v1/ledger/us.01J0/snapshots/7-3/..".to_owned(),
            "/outport/v1/ledger/us.01J0/snapshots/7-3/manifest/x".to_owned(),
            "/outport/v1/resolve".to_owned(),
            "/outport/v1/resolve?repository=a".to_owned(),
            "/outport/v1/resolve?repository=A&reference=v1".to_owned(),
            format!("/outport/v1/resolve?repository=a&reference=v1&blob={digest}"),
            "/outport/v1/resolve?repository=a&blob=v1".to_owned(),
            "/outport/v1/content/".to_owned(),
            "/outport/v1/content/sha256:0".to_owned(),
        ] {
            assert!(get(&target).is_err(), "{target}");
        }
        for target in ["/outport/v1/ledger", "/outport/v1/ledger/us.01?after=0", "/outport/v1/resolve", "/outport/v1/content/x"] {
            assert_eq!(send("POST", target), Err(RouteError::Method { allow: READ }), "{target}");
        }
    }

    #[test]
    fn the_audit_record_is_asked_by_people_and_by_other_regions() {
        let asked = |target: &str| get(target).map_err(|error| error.to_string());
        let filter = audit::Filter { outcome: Some(audit::Outcome::Denied), ..Default::default() };
        let query = audit::Query { filter, limit: 5, regions: vec!["eu".into(), "us".into()], ..Default::default() };
        assert_eq!(asked("/outport/v1/audit"), Ok(Action::Audit(audit::Query::default())));
        assert_eq!(asked(&format!("/outport/v1/audit?{}", query.to_url())), Ok(Action::Audit(query.clone())));
        assert_eq!(asked(&format!("/outport/v1/peer/audit?{}", query.to_url())), Ok(Action::Peer(Question::Audit(query))));
        for (parameter, value) in [
            ("since", "yesterday"),
            ("until", "2026"),
            ("repository", "NO"),
            ("outcome", "good"),
            ("address", "10.0.0"),
            ("limit", "-1"),
            ("region", "eu,,us"),
            ("within", "soon"),
        ] {
            assert_eq!(get(&format!("/outport/v1/audit?{parameter}={value}")), Err(RouteError::Parameter(parameter)), "{value}");
        }
        let limit = |text: &str| match get(&format!("/outport/v1/audit?limit={text}")) {
            Ok(Action::Audit(query)) => query.limit,
            other => panic!("{other:?}"),
        };
        assert_eq!((limit("0"), limit("7"), limit("99999")), (1, 7, MAX_LIMIT));
        assert_eq!(send("POST", "/outport/v1/audit"), Err(RouteError::Method { allow: READ }));
    }

    #[test]
    fn the_log_is_its_last_lines_unless_a_search_is_asked_for() {
        let last = |with_requests| Action::Logs(Excerpt { after: None, lines: 200, with_requests });
        assert_eq!((get("/outport/v1/logs"), get("/outport/v1/logs?requests=no")), (Ok(last(true)), Ok(last(false))));
        let filter = journal::Filter {
            level: "warn".parse().ok(),
            principal: Some("ci".into()),
            repository: "team/**".parse().ok(),
            route: Some("manifest".into()),
            status: "5xx".parse().ok(),
            address: "10.0.0.0/8".parse().ok(),
            request: Some("r 1".into()),
            text: Some("no route".into()),
            no_requests: true,
        };
        let query = Box::new(journal::Query { since: "1h".parse().ok(), until: "1m".parse().ok(), filter, limit: 7, ..Default::default() });
        assert_eq!(get(&format!("/outport/v1/logs?{}", query.to_url())), Ok(Action::SearchLogs(query.clone())));
        assert_eq!(get(&format!("/outport/v1/peer/logs?{}", query.to_url())), Ok(Action::Peer(Question::Logs(query))));
        assert_eq!(get("/outport/v1/peer/logs"), Ok(Action::Peer(Question::Logs(Box::default()))));
        for (parameter, value) in [("level", "loud"), ("status", "5"), ("repository", "NO"), ("address", "10"), ("since", "then")] {
            assert_eq!(get(&format!("/outport/v1/logs?{parameter}={value}")), Err(RouteError::Parameter(parameter)), "{value}");
        }
        for parameter in ["after", "lines"] {
            assert_eq!(get(&format!("/outport/v1/logs?since=1h&{parameter}=1")), Err(RouteError::Parameter(parameter)));
        }
        for target in ["/outport/v1/logs?since=1h", "/outport/v1/peer/logs"] {
            assert_eq!(send("POST", target), Err(RouteError::Method { allow: READ }));
        }
    }

    #[test]
    fn row_11_page_sizes_are_capped_or_refused() {
        for (n, limit) in [("0", 0), ("5", 5), ("10001", MAX_PAGE), ("99999999999999999999999", MAX_PAGE)] {
            assert_eq!(get(&format!("/v2/_catalog?n={n}")), Ok(Action::Catalog(all(limit))), "{n}");
        }
        for n in ["-1", "", "many", "+5", "0x5", "5.0"] {
            assert_eq!(get(&format!("/v2/a/tags/list?n={n}")), Err(RouteError::PageSize), "{n}");
        }
    }

    #[test]
    fn row_12_any_last_is_a_place_in_the_list() {
        for (last, read) in [("v1", Some("v1")), ("", None), ("%ff", Some("\u{fffd}")), ("../..%00", Some("../..\0")), ("%zz", Some("%zz"))]
        {
            let page = Page { limit: MAX_PAGE, last: read.map(str::to_owned) };
            assert_eq!(get(&format!("/v2/_catalog?last={last}")), Ok(Action::Catalog(page)), "{last}");
        }
    }

    #[test]
    fn row_83_unknown_parameters_change_nothing() {
        assert_eq!(get("/v2/a/manifests/1?x=1&ns&foo=bar&&="), read("a", tagged("1")));
        let with_ns = get("/v2/a/manifests/1?x=1&ns=docker.io%3A443&ns=ghcr.io");
        assert!(matches!(with_ns, Ok(Action::Read { ns: Some(ns), .. }) if ns == "docker.io:443"));
    }

    proptest! {
        /// Whatever comes, no panic, and a name that comes out is one that parses.
        #[test]
        fn any_bytes_have_an_answer(path in proptest::collection::vec(any::<u8>(), 0..64), query in ".{0,40}") {
            for method in KNOWN_METHODS {
                let _ = route(&method, &path, &query);
            }
        }

        #[test]
        fn a_routed_name_is_valid(
            segments in proptest::collection::vec("blobs|manifests|tags|list|uploads|referrers|[a-zA-Z.%/_:0-9-]{0,6}|%2[fFeE]|\\PC", 0..7),
            query in "(n=[0-9x]{0,3})?&?(last=[%a-f0-9]{0,6})?",
        ) {
            let path = format!("/v2/{}", segments.join("/"));
            for method in KNOWN_METHODS {
                if let Ok(Action::Read { name, .. } | Action::Write { name, .. }) = route(&method, path.as_bytes(), &query) {
                    prop_assert!(name.as_str().parse::<RepositoryName>().is_ok());
                    prop_assert!(path.contains(name.as_str()) || path.contains('%'), "{path} {name}");
                }
            }
        }
    }
}
