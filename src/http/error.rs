//! The one table from everything that can go wrong to what the client is told (distribution-spec 1.1, "Error Codes").
//!
//! What an upstream said stays in the log: clients get a fixed message, and a detail only where it repeats their own input's
//! rule. In the mirror role nothing is ever 429, because containerd repeats such a request at once.

use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use super::body::Payload;
use super::challenge::Reason;
use super::route::RouteError;
use crate::access::Denied;
use crate::cache::CacheError;
use crate::identity::AuthError;
use crate::identity::governance::GovernanceError;
use crate::inflow::InflowError;
use crate::oci::{ChunkError, Digest, InvalidManifest, ReceivedRange};
use crate::registry::UnknownNamespace;
use crate::registry::push::PushError;
use crate::store::ContentError;

/// Digests that a refusal lists, at most.
const MAX_LISTED_DIGESTS: usize = 32;

/// What an edge of another region has to bear.
const PEER_CHALLENGE: &str = r#"Bearer realm="outport peers""#;

/// What a caller is asked for that an upstream decides about: a name and a password that it has there.
const UPSTREAM_CHALLENGE: &str = r#"Basic realm="outport""#;

/// When to come back, where nobody said.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    code: &'static str,
    message: &'static str,
    detail: Option<Box<str>>,
    extra: Extra,
    /// For the log only: it may speak of upstreams.
    pub cause: Option<Box<str>>,
    /// Whether it is for who asks, whatever it looks like: the audit record tells what an absence hides.
    denies: bool,
}

/// The header that a refusal has besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    None,
    /// Which depends on the request.
    Challenge(Reason),
    /// For edges of other regions, which have tokens.
    PeerChallenge,
    /// Where an upstream decides.
    UpstreamChallenge,
    Allow(&'static str),
    RetryAfter {
        seconds: u64,
    },
    Size {
        bytes: u64,
    },
    /// What an upload session has.
    Received(ReceivedRange),
}

impl Extra {
    /// Whole seconds, rounded up, and at least one.
    fn later(retry_after: Option<Duration>) -> Extra {
        let time = retry_after.unwrap_or(RETRY_AFTER);
        Extra::RetryAfter { seconds: time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1) }
    }

    fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Extra::None | Extra::Challenge(_) => None,
            Extra::PeerChallenge => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(PEER_CHALLENGE))),
            Extra::UpstreamChallenge => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(UPSTREAM_CHALLENGE))),
            Extra::Allow(methods) => Some((header::ALLOW, HeaderValue::from_static(methods))),
            Extra::RetryAfter { seconds } => Some((header::RETRY_AFTER, seconds.into())),
            Extra::Size { bytes } => {
                Some((header::CONTENT_RANGE, HeaderValue::try_from(format!("bytes */{bytes}")).expect("digits are a header value")))
            }
            Extra::Received(range) => Some((header::RANGE, HeaderValue::try_from(range.to_string()).expect("digits are a header value"))),
        }
    }
}

/// What a request is about, which decides the words for its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Manifest,
    Blob,
    Repository,
}

impl Failure {
    const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Failure {
        Failure { status, code, message, detail: None, extra: Extra::None, cause: None, denies: false }
    }

    /// Whether it is for who asks, and not for what was asked.
    pub fn is_denial(&self) -> bool {
        self.denies || matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Why, for the audit record.
    pub fn why(&self) -> Box<str> {
        match (&self.cause, &self.detail) {
            (Some(cause), _) => cause.clone(),
            (None, Some(detail)) => format!("{}: {detail}", self.message).into(),
            (None, None) => self.message.into(),
        }
    }

    /// Confirmed absence. Denial to an authenticated caller is this very same answer.
    pub const fn absent(subject: Subject) -> Failure {
        let (code, message) = match subject {
            Subject::Manifest => ("MANIFEST_UNKNOWN", "manifest unknown"),
            Subject::Blob => ("BLOB_UNKNOWN", "blob unknown to registry"),
            Subject::Repository => ("NAME_UNKNOWN", "repository name not known to registry"),
        };
        Failure::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn denied(denied: Denied, subject: Subject) -> Failure {
        let hidden = || Failure { denies: true, ..Failure::absent(subject) }.because("the caller may not know of it");
        Failure::challenged(denied).unwrap_or_else(hidden)
    }

    /// `None` if no credentials or other ones would change anything.
    pub fn challenged(denied: Denied) -> Option<Failure> {
        let reason = if denied.insufficient_scope { Reason::InsufficientScope } else { Reason::Unknown };
        denied.authenticate.then(|| Failure::unauthorized_because(reason))
    }

    pub fn unauthorized() -> Failure {
        Failure::unauthorized_because(Reason::Unknown)
    }

    fn unauthorized_because(reason: Reason) -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required").with(Extra::Challenge(reason))
    }

    /// Why the caller is to be told how to come in, if it is. What it is told depends on the request and is no part of this.
    pub fn challenge(&self) -> Option<Reason> {
        match self.extra {
            Extra::Challenge(reason) => Some(reason),
            _ => None,
        }
    }

    /// An upstream says who may read this, and it is not known who asks.
    pub fn credentials_wanted() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required").with(Extra::UpstreamChallenge)
    }

    /// A provider's token establishes nobody. Why stays in the log.
    pub fn token_refused(why: impl Into<Box<str>>) -> Failure {
        Failure::unauthorized().because(why)
    }

    /// Who asks is no edge of a configured peer.
    pub fn no_peer() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "only edges of other regions may ask this").with(Extra::PeerChallenge)
    }

    /// What another region asks for was here once.
    pub const fn trimmed() -> Failure {
        Failure::new(StatusCode::GONE, "UNSUPPORTED", "these segments were trimmed")
    }

    /// As many wait already as may.
    pub fn too_many_waiting() -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "too many wait for news")
            .with(Extra::later(Some(Duration::from_secs(1))))
    }

    /// A client asks more often than it may. As of a mirror it is 503, on which containerd turns to the next one.
    pub fn too_many_requests(retry_after: Duration, of_a_mirror: bool) -> Failure {
        let (status, code) = match of_a_mirror {
            true => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            false => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        };
        Failure::new(status, code, "too many requests").with(Extra::later(Some(retry_after)))
    }

    /// The time is over, and not all is where it shall be: who waited comes again.
    pub fn not_yet(detail: impl Into<Box<str>>) -> Failure {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "not everywhere yet");
        Failure { detail: Some(detail.into()), ..failure.with(Extra::later(Some(Duration::from_secs(1)))) }
    }

    /// The caller may see the repository, but not do this to it.
    pub const fn forbidden() -> Failure {
        Failure::new(StatusCode::FORBIDDEN, "DENIED", "requested access to the resource is denied")
    }

    /// Network rules do not listen to where the caller comes from.
    pub const fn forbidden_address() -> Failure {
        Failure::new(StatusCode::FORBIDDEN, "DENIED", "requests from this address are not allowed")
    }

    pub fn from_cache(error: CacheError, subject: Subject) -> Failure {
        match error {
            CacheError::Absent => Failure::absent(subject),
            CacheError::Unavailable { why, retry_after } => Failure::unavailable(why, retry_after),
            CacheError::WrongAnswer(why) => Failure::wrong_answer(why),
            locked @ CacheError::Locked(_) => PushError::Denied(locked.to_string()).into(),
        }
    }

    /// It cannot be told now.
    pub fn unavailable(why: impl Into<Box<str>>, retry_after: Option<Duration>) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "this cannot be answered now: try again later")
            .with(Extra::later(retry_after))
            .because(why)
    }

    /// A body that was compressed on its way: its digest would be another than the content's.
    pub const fn encoded() -> Failure {
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED", "a body is sent without a Content-Encoding")
    }

    pub fn wrong_answer(why: impl Into<Box<str>>) -> Failure {
        Failure::new(StatusCode::BAD_GATEWAY, "UNKNOWN", "the upstream registry gave a wrong answer").because(why)
    }

    /// 416, with the length that there is.
    pub fn unsatisfiable(size_bytes: u64) -> Failure {
        Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", "the range lies past the end")
            .with(Extra::Size { bytes: size_bytes })
    }

    /// A missing, doubled, conflicting or unreadable Host (RFC 9112, section 3.2).
    pub const fn bad_host() -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "a request names one host")
    }

    /// The connection was made for another name than the request (RFC 9110, section 7.4).
    pub const fn misdirected() -> Failure {
        Failure::new(StatusCode::MISDIRECTED_REQUEST, "UNSUPPORTED", "the connection was made to another name than the Host")
    }

    /// An operator's command that cannot be read.
    /// The position that a request is for is none that this program gave out.
    pub fn bad_position() -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the position cannot be read")
    }

    pub fn bad_command(detail: impl Into<Box<str>>) -> Failure {
        Failure { detail: Some(detail.into()), ..Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the command cannot be read") }
    }

    /// The configuration has no receiver of this name.
    pub const fn no_webhook() -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such webhook")
    }

    /// It speaks of what there is not.
    pub fn bad_question(detail: impl Into<Box<str>>) -> Failure {
        Failure { detail: Some(detail.into()), ..Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the question cannot be answered") }
    }

    pub const fn body_too_large() -> Failure {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "the body is too large")
    }

    pub const fn not_json() -> Failure {
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED", "the body is application/json")
    }

    fn with(self, extra: Extra) -> Failure {
        Failure { extra, ..self }
    }

    fn because(self, why: impl Into<Box<str>>) -> Failure {
        Failure { cause: Some(why.into()), ..self }
    }

    /// `{"errors":[{"code","message","detail"}]}`.
    pub fn into_response(self) -> Response<Payload> {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(detail) = self.detail {
            error["detail"] = detail.as_ref().into();
        }
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Payload::Bytes(body.into()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.extra.header());
        response
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Failure {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        let detail = Some(error.to_string().into());
        let failure = match error {
            RouteError::TooLong => Failure::new(StatusCode::URI_TOO_LONG, "UNSUPPORTED", "the URI is too long"),
            RouteError::Method { allow } => {
                Failure::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported").with(Extra::Allow(allow))
            }
            RouteError::Unknown => Failure::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "the operation is unsupported"),
            RouteError::Name(_) | RouteError::Path => Failure::new(BAD, "NAME_INVALID", "invalid repository name"),
            // A tag that cannot be is absent like any other that is not there: same words, no detail.
            RouteError::Tag => return Failure::absent(Subject::Manifest),
            // The specification's list of codes has none for tags.
            RouteError::NewTag(_) => Failure::new(BAD, "MANIFEST_INVALID", "the tag is not valid"),
            RouteError::TooManyTags => Failure::new(StatusCode::URI_TOO_LONG, "UNSUPPORTED", "too many tags"),
            RouteError::Digest(_) => Failure::new(BAD, "DIGEST_INVALID", "the digest is not valid"),
            RouteError::NoDigest => Failure::new(BAD, "DIGEST_INVALID", "the digest is missing"),
            // A session that cannot be is gone like any other.
            RouteError::Session(_) => return PushError::SessionUnknown.into(),
            RouteError::Parameter(_) => Failure::new(BAD, "UNSUPPORTED", "the question cannot be read"),
            RouteError::PageSize => Failure::new(BAD, "PAGINATION_NUMBER_INVALID", "invalid number of results requested"),
        };
        Failure { detail, ..failure }
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Failure {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        let detail = Some(error.to_string().into());
        let failure = match error {
            // Row 82: what is absent, and what the caller may not see, are the same bytes.
            PushError::SessionUnknown => {
                return Failure::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
            }
            PushError::ManifestUnknown => return Failure::absent(Subject::Manifest),
            PushError::BlobUnknown => return Failure::absent(Subject::Blob),
            PushError::RepositoryUnknown => return Failure::absent(Subject::Repository),
            PushError::Manifest(error) => return error.into(),
            PushError::Inflow(error) => return error.into(),
            PushError::Unavailable { why, retry_after } => {
                return Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the region's storage cannot be written now")
                    .with(Extra::later(retry_after))
                    .because(why);
            }
            PushError::HomeAway { why, .. } => Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "the region that orders the tags of this repository cannot be reached now",
            )
            .with(Extra::later(None))
            .because(why),
            PushError::NotHeld { .. } => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the push is not yet as safe as it shall be")
                    .with(Extra::later(None))
            }
            // The specification's list of codes has none for ranges.
            PushError::OutOfOrder { received_bytes } => {
                Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", "the chunk is out of order")
                    .with(Extra::Received(ReceivedRange { received_bytes }))
            }
            PushError::Length => Failure::new(BAD, "SIZE_INVALID", "provided length did not match content length"),
            PushError::TooLarge { .. } => Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "the blob is too large"),
            PushError::TooManySessions { retry_after } => {
                Failure::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many uploads").with(Extra::later(Some(retry_after)))
            }
            PushError::DigestMismatch { .. } => Failure::new(BAD, "DIGEST_INVALID", "provided digest did not match uploaded content"),
            PushError::ReferencesUnknown(digests) => {
                let failure = Failure::new(
                    StatusCode::NOT_FOUND,
                    "MANIFEST_BLOB_UNKNOWN",
                    "manifest references a manifest or blob unknown to registry",
                );
                return Failure { detail: Some(list(&digests).into()), ..failure };
            }
            PushError::ReferenceSize { .. } => Failure::new(BAD, "MANIFEST_INVALID", "manifest invalid"),
            PushError::Referenced | PushError::Proxied => {
                Failure::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported").with(Extra::Allow("GET, HEAD"))
            }
            PushError::Denied(_) => Failure::forbidden(),
        };
        Failure { detail, ..failure }
    }
}

/// Digests in a line.
fn list(digests: &[Digest]) -> String {
    digests.iter().take(MAX_LISTED_DIGESTS).map(Digest::to_string).collect::<Vec<_>>().join(", ")
}

impl From<InvalidManifest> for Failure {
    fn from(error: InvalidManifest) -> Failure {
        let failure = match error {
            InvalidManifest::TooLarge => Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "the manifest is too large"),
            _ => Failure::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", "manifest invalid"),
        };
        Failure { detail: Some(error.to_string().into()), ..failure }
    }
}

impl From<InflowError> for Failure {
    fn from(error: InflowError) -> Failure {
        match error {
            // Nobody may be there to read it.
            InflowError::Left => Failure::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", "the body ended early"),
            InflowError::Slow => Failure::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "the body did not come in time"),
            InflowError::TooLong { .. } => Failure { detail: Some(error.to_string().into()), ..Failure::body_too_large() },
        }
    }
}

impl From<ChunkError> for Failure {
    fn from(error: ChunkError) -> Failure {
        let failure = match error {
            ChunkError::Range => Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", "the range is not valid"),
            ChunkError::Length => return PushError::Length.into(),
        };
        Failure { detail: Some(error.to_string().into()), ..failure }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Failure {
        match error {
            AuthError::Malformed => {
                Failure { denies: true, ..Failure::new(StatusCode::BAD_REQUEST, "UNAUTHORIZED", "the credentials cannot be read") }
            }
            AuthError::Refused => Failure::unauthorized().because(error.to_string()),
            AuthError::InvalidToken => Failure::unauthorized_because(Reason::InvalidToken).because(error.to_string()),
            AuthError::Throttled { retry_after } => {
                Failure::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many attempts to sign in")
                    .with(Extra::later(Some(retry_after)))
            }
        }
    }
}

impl From<GovernanceError> for Failure {
    fn from(error: GovernanceError) -> Failure {
        let detail = Some(error.to_string().into());
        let failure = match error {
            GovernanceError::Denied => return Failure::forbidden(),
            GovernanceError::Invalid(_) => Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the command cannot be read"),
            GovernanceError::Unknown(_) => Failure::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such thing"),
            GovernanceError::Conflict(_) => Failure::new(StatusCode::CONFLICT, "UNSUPPORTED", "this cannot be as things are"),
            GovernanceError::Unavailable { why, retry_after } => {
                return Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "this cannot be changed now: try again later")
                    .with(Extra::later(retry_after))
                    .because(why);
            }
        };
        Failure { detail, ..failure }
    }
}

impl From<UnknownNamespace> for Failure {
    fn from(_: UnknownNamespace) -> Failure {
        Failure::absent(Subject::Repository)
    }
}

impl From<ContentError> for Failure {
    /// Before the status line: afterwards the body is cut.
    fn from(error: ContentError) -> Failure {
        match error {
            ContentError::Mismatch => Failure::wrong_answer(error.to_string()),
            ContentError::Broken(_) | ContentError::Lagged | ContentError::Io(_) => Failure::unavailable(error.to_string(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AppendError, Rejected};
    use crate::oci::{DigestError, NameError, SessionError, TagError};

    fn unavailable(retry_after: Option<Duration>) -> Failure {
        Failure::from_cache(CacheError::Unavailable { why: "dial 10.0.0.1: secret".into(), retry_after }, Subject::Blob)
    }

    fn sent(failure: Failure) -> (u16, String, http::HeaderMap) {
        let (parts, payload) = failure.into_response().into_parts();
        let Payload::Bytes(bytes) = payload else { panic!("a failure has a body") };
        (parts.status.as_u16(), String::from_utf8(bytes.to_vec()).unwrap(), parts.headers)
    }

    #[test]
    fn each_failure_has_its_status_and_code() {
        for (failure, status, code) in [
            (RouteError::TooLong.into(), 414, "UNSUPPORTED"),
            (RouteError::Method { allow: "GET, HEAD" }.into(), 405, "UNSUPPORTED"),
            (RouteError::Unknown.into(), 404, "UNSUPPORTED"),
            (RouteError::Name(NameError::Form).into(), 400, "NAME_INVALID"),
            (RouteError::Path.into(), 400, "NAME_INVALID"),
            (RouteError::Tag.into(), 404, "MANIFEST_UNKNOWN"),
            (RouteError::Digest(DigestError::Hex).into(), 400, "DIGEST_INVALID"),
            (RouteError::PageSize.into(), 400, "PAGINATION_NUMBER_INVALID"),
            (RouteError::Parameter("after").into(), 400, "UNSUPPORTED"),
            (Failure::no_peer(), 401, "UNAUTHORIZED"),
            (Failure::trimmed(), 410, "UNSUPPORTED"),
            (Failure::too_many_waiting(), 503, "UNAVAILABLE"),
            (Failure::too_many_requests(Duration::ZERO, false), 429, "TOOMANYREQUESTS"),
            (Failure::too_many_requests(Duration::ZERO, true), 503, "UNAVAILABLE"),
            (Failure::not_yet("us does not know it yet"), 503, "UNAVAILABLE"),
            (AuthError::Malformed.into(), 400, "UNAUTHORIZED"),
            (AuthError::Refused.into(), 401, "UNAUTHORIZED"),
            (AuthError::InvalidToken.into(), 401, "UNAUTHORIZED"),
            (AuthError::Throttled { retry_after: Duration::ZERO }.into(), 429, "TOOMANYREQUESTS"),
            (GovernanceError::Denied.into(), 403, "DENIED"),
            (GovernanceError::Invalid("no name".into()).into(), 400, "UNSUPPORTED"),
            (GovernanceError::Unknown("principal x".into()).into(), 404, "NAME_UNKNOWN"),
            (GovernanceError::Conflict("it is fixed".into()).into(), 409, "UNSUPPORTED"),
            (GovernanceError::Unavailable { why: "away".into(), retry_after: None }.into(), 503, "UNAVAILABLE"),
            (UnknownNamespace.into(), 404, "NAME_UNKNOWN"),
            (ContentError::Mismatch.into(), 502, "UNKNOWN"),
            (ContentError::Broken("reset".into()).into(), 503, "UNAVAILABLE"),
            (ContentError::Io("EIO".into()).into(), 503, "UNAVAILABLE"),
            (Failure::from_cache(CacheError::Absent, Subject::Manifest), 404, "MANIFEST_UNKNOWN"),
            (Failure::from_cache(CacheError::Absent, Subject::Blob), 404, "BLOB_UNKNOWN"),
            (Failure::from_cache(CacheError::Absent, Subject::Repository), 404, "NAME_UNKNOWN"),
            (Failure::from_cache(CacheError::WrongAnswer("html".into()), Subject::Blob), 502, "UNKNOWN"),
            (unavailable(None), 503, "UNAVAILABLE"),
            (Failure::from_cache(CacheError::Locked("app:v1".into()), Subject::Manifest), 403, "DENIED"),
            (Failure::denied(Denied { authenticate: true, insufficient_scope: false }, Subject::Blob), 401, "UNAUTHORIZED"),
            (Failure::misdirected(), 421, "UNSUPPORTED"),
            (Failure::unsatisfiable(10), 416, "RANGE_INVALID"),
        ] {
            let (sent_status, body, headers) = sent(failure);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((sent_status, body["errors"][0]["code"].as_str().unwrap()), (status, code));
            assert!(body["errors"][0]["message"].is_string());
            assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        }
    }

    #[test]
    fn each_refused_push_has_its_status_and_code() {
        let (digest, second) = (Digest::sha256(b"a"), Duration::from_secs(1));
        for (failure, status, code) in [
            (RouteError::NewTag(TagError).into(), 400, "MANIFEST_INVALID"),
            (RouteError::TooManyTags.into(), 414, "UNSUPPORTED"),
            (RouteError::NoDigest.into(), 400, "DIGEST_INVALID"),
            (RouteError::Session(SessionError).into(), 404, "BLOB_UPLOAD_UNKNOWN"),
            (PushError::SessionUnknown.into(), 404, "BLOB_UPLOAD_UNKNOWN"),
            (PushError::OutOfOrder { received_bytes: 7 }.into(), 416, "BLOB_UPLOAD_INVALID"),
            (PushError::Length.into(), 400, "SIZE_INVALID"),
            (PushError::TooLarge { most_bytes: 7 }.into(), 413, "SIZE_INVALID"),
            (PushError::TooManySessions { retry_after: second }.into(), 429, "TOOMANYREQUESTS"),
            (PushError::Inflow(InflowError::Left).into(), 400, "BLOB_UPLOAD_INVALID"),
            (PushError::Inflow(InflowError::Slow).into(), 408, "BLOB_UPLOAD_INVALID"),
            (PushError::Inflow(InflowError::TooLong { most_bytes: 7 }).into(), 413, "SIZE_INVALID"),
            (PushError::DigestMismatch { found: digest }.into(), 400, "DIGEST_INVALID"),
            (PushError::Manifest(InvalidManifest::TooLarge).into(), 413, "SIZE_INVALID"),
            (PushError::Manifest(InvalidManifest::NoConfig).into(), 400, "MANIFEST_INVALID"),
            (PushError::ReferencesUnknown(vec![digest]).into(), 404, "MANIFEST_BLOB_UNKNOWN"),
            (PushError::ReferenceSize { digest, size_bytes: 7 }.into(), 400, "MANIFEST_INVALID"),
            (PushError::ManifestUnknown.into(), 404, "MANIFEST_UNKNOWN"),
            (PushError::BlobUnknown.into(), 404, "BLOB_UNKNOWN"),
            (PushError::RepositoryUnknown.into(), 404, "NAME_UNKNOWN"),
            (PushError::Referenced.into(), 405, "UNSUPPORTED"),
            (PushError::Proxied.into(), 405, "UNSUPPORTED"),
            (PushError::NotHeld { others: 1 }.into(), 503, "UNAVAILABLE"),
            (PushError::HomeAway { home: "eu".into(), why: "secret".into() }.into(), 503, "UNAVAILABLE"),
            (PushError::Denied("the tag is locked".into()).into(), 403, "DENIED"),
            (PushError::Unavailable { why: "secret".into(), retry_after: None }.into(), 503, "UNAVAILABLE"),
            (ChunkError::Range.into(), 416, "BLOB_UPLOAD_INVALID"),
            (ChunkError::Length.into(), 400, "SIZE_INVALID"),
            (Failure::encoded(), 415, "UNSUPPORTED"),
            (Failure::forbidden(), 403, "DENIED"),
        ] {
            let (sent_status, body, _) = sent(failure);
            assert!(!body.contains("secret"), "{body}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((sent_status, body["errors"][0]["code"].as_str().unwrap()), (status, code));
            // Distribution-spec 1.1, "Error Codes": these and no others.
            assert!(status >= 500 || CODES.contains(&code), "{code}");
        }
    }

    const CODES: [&str; 14] = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ];

    #[test]
    fn refused_pushes_carry_their_headers() {
        for (error, name, value) in [
            (PushError::OutOfOrder { received_bytes: 7 }, header::RANGE, "0-6"),
            (PushError::TooManySessions { retry_after: Duration::from_millis(1_500) }, header::RETRY_AFTER, "2"),
            (PushError::Unavailable { why: String::new(), retry_after: None }, header::RETRY_AFTER, "5"),
            (PushError::NotHeld { others: 1 }, header::RETRY_AFTER, "5"),
            (PushError::HomeAway { home: "eu".into(), why: String::new() }, header::RETRY_AFTER, "5"),
            (PushError::Proxied, header::ALLOW, "GET, HEAD"),
        ] {
            assert_eq!(sent(error.clone().into()).2[&name], value, "{error:?}");
        }
    }

    #[test]
    fn a_home_that_is_away_is_named() {
        let body = sent(PushError::HomeAway { home: "eu".into(), why: String::new() }.into()).1;
        assert!(body.contains("its home, region eu"), "{body}");
    }

    #[test]
    fn row_62_a_lock_refuses() {
        let error = AppendError::Rejected(Rejected::Locked("app:v1".to_owned()));
        let (status, body, _) = sent(PushError::from(error).into());
        assert_eq!(status, 403);
        assert!(body.contains("DENIED") && body.contains("app:v1"), "{body}");
    }

    #[test]
    fn row_56_what_is_missing_is_listed() {
        let digests: Vec<Digest> = (0..100_u8).map(|number| Digest::sha256(&[number])).collect();
        let body = sent(PushError::ReferencesUnknown(digests.clone()).into()).1;
        assert!(digests[..MAX_LISTED_DIGESTS].iter().all(|digest| body.contains(&digest.to_string())));
        assert!(!body.contains(&digests[MAX_LISTED_DIGESTS].to_string()));
    }

    #[test]
    fn rows_40_to_42_every_unknown_session_is_the_same_bytes() {
        assert_eq!(sent(PushError::SessionUnknown.into()), sent(RouteError::Session(SessionError).into()));
    }

    #[test]
    fn who_guesses_is_told_when_to_come_again() {
        let failure = AuthError::Throttled { retry_after: Duration::from_millis(1_500) };
        assert_eq!(sent(failure.into()).2[header::RETRY_AFTER], "2");
    }

    #[test]
    fn failures_carry_their_headers() {
        assert_eq!(Failure::unauthorized().challenge(), Some(Reason::Unknown));
        assert_eq!(Failure::from(AuthError::InvalidToken).challenge(), Some(Reason::InvalidToken));
        assert_eq!(sent(RouteError::Method { allow: "POST" }.into()).2[header::ALLOW], "POST");
        assert_eq!(sent(RouteError::Method { allow: "" }.into()).2[header::ALLOW], "");
        assert_eq!(sent(Failure::unsatisfiable(10)).2[header::CONTENT_RANGE], "bytes */10");
        for (given, told) in [(None, "5"), (Some(Duration::from_millis(1_200)), "2"), (Some(Duration::ZERO), "1")] {
            assert_eq!(sent(unavailable(given)).2[header::RETRY_AFTER], told);
        }
    }

    #[test]
    fn row_82_denied_and_absent_are_the_same_bytes() {
        for subject in [Subject::Manifest, Subject::Blob, Subject::Repository] {
            let denied = sent(Failure::denied(Denied { authenticate: false, insufficient_scope: false }, subject));
            assert_eq!(denied, sent(Failure::from_cache(CacheError::Absent, subject)));
        }
    }

    #[test]
    fn the_audit_record_knows_what_absence_hides() {
        for (failure, is_denial, why) in [
            (
                Failure::denied(Denied { authenticate: false, insufficient_scope: false }, Subject::Blob),
                true,
                "the caller may not know of it",
            ),
            (Failure::absent(Subject::Blob), false, "blob unknown to registry"),
            (Failure::unauthorized(), true, "authentication required"),
            (AuthError::Refused.into(), true, "the credentials are not accepted"),
            (AuthError::Malformed.into(), true, "the credentials cannot be read"),
            (Failure::forbidden_address(), true, "requests from this address are not allowed"),
            (PushError::Denied("the tag is locked".into()).into(), true, "requested access to the resource is denied: the tag is locked"),
            (unavailable(None), false, "dial 10.0.0.1: secret"),
        ] {
            assert_eq!((failure.is_denial(), &*failure.why()), (is_denial, why));
        }
    }

    #[test]
    fn row_88_what_an_upstream_said_stays_in_the_log() {
        let failure = unavailable(None);
        assert_eq!(failure.cause.as_deref(), Some("dial 10.0.0.1: secret"));
        let (_, body, headers) = sent(failure);
        assert!(!body.contains("secret") && !format!("{headers:?}").contains("secret"));
    }
}
