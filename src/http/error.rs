//! The one table from everything that can go wrong to what the client is told (distribution-spec 1.1, "Error Codes").
//!
//! What an upstream said stays in the log: clients get a fixed message, and a detail only where it repeats their own input's
//! rule. In the mirror role nothing is ever 429, because containerd repeats such a request at once.

use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use super::body::Payload;
use super::route::RouteError;
use crate::access::Denied;
use crate::cache::CacheError;
use crate::identity::{AuthError, CHALLENGE};
use crate::registry::UnknownNamespace;
use crate::store::ContentError;

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
}

/// The header that a refusal has besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    None,
    Challenge,
    Allow(&'static str),
    RetryAfter { seconds: u64 },
    Size { bytes: u64 },
}

impl Extra {
    fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Extra::None => None,
            Extra::Challenge => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE))),
            Extra::Allow(methods) => Some((header::ALLOW, HeaderValue::from_static(methods))),
            Extra::RetryAfter { seconds } => Some((header::RETRY_AFTER, seconds.into())),
            Extra::Size { bytes } => {
                Some((header::CONTENT_RANGE, HeaderValue::try_from(format!("bytes */{bytes}")).expect("digits are a header value")))
            }
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
        Failure { status, code, message, detail: None, extra: Extra::None, cause: None }
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
        if denied.authenticate { Failure::unauthorized() } else { Failure::absent(subject) }
    }

    pub fn unauthorized() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required").with(Extra::Challenge)
    }

    /// The caller may see the repository, but not do this to it.
    pub const fn forbidden() -> Failure {
        Failure::new(StatusCode::FORBIDDEN, "DENIED", "requested access to the resource is denied")
    }

    pub fn from_cache(error: CacheError, subject: Subject) -> Failure {
        match error {
            CacheError::Absent => Failure::absent(subject),
            CacheError::Unavailable { why, retry_after } => Failure::unavailable(why, retry_after),
            CacheError::WrongAnswer(why) => Failure::wrong_answer(why),
        }
    }

    /// It cannot be told now.
    pub fn unavailable(why: impl Into<Box<str>>, retry_after: Option<Duration>) -> Failure {
        let time = retry_after.unwrap_or(RETRY_AFTER);
        let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1);
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the upstream registry cannot be asked now")
            .with(Extra::RetryAfter { seconds })
            .because(why)
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
    pub fn bad_command(detail: impl Into<Box<str>>) -> Failure {
        Failure { detail: Some(detail.into()), ..Failure::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the command cannot be read") }
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
            RouteError::Digest(_) => Failure::new(BAD, "DIGEST_INVALID", "the digest is not valid"),
            RouteError::PageSize => Failure::new(BAD, "PAGINATION_NUMBER_INVALID", "invalid number of results requested"),
        };
        Failure { detail, ..failure }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Failure {
        match error {
            AuthError::Malformed => Failure::new(StatusCode::BAD_REQUEST, "UNAUTHORIZED", "the credentials cannot be read"),
            AuthError::Refused => Failure::unauthorized(),
        }
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
    use crate::oci::{DigestError, NameError};

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
            (AuthError::Malformed.into(), 400, "UNAUTHORIZED"),
            (AuthError::Refused.into(), 401, "UNAUTHORIZED"),
            (UnknownNamespace.into(), 404, "NAME_UNKNOWN"),
            (ContentError::Mismatch.into(), 502, "UNKNOWN"),
            (ContentError::Broken("reset".into()).into(), 503, "UNAVAILABLE"),
            (ContentError::Io("EIO".into()).into(), 503, "UNAVAILABLE"),
            (Failure::from_cache(CacheError::Absent, Subject::Manifest), 404, "MANIFEST_UNKNOWN"),
            (Failure::from_cache(CacheError::Absent, Subject::Blob), 404, "BLOB_UNKNOWN"),
            (Failure::from_cache(CacheError::Absent, Subject::Repository), 404, "NAME_UNKNOWN"),
            (Failure::from_cache(CacheError::WrongAnswer("html".into()), Subject::Blob), 502, "UNKNOWN"),
            (unavailable(None), 503, "UNAVAILABLE"),
            (Failure::denied(Denied { authenticate: true }, Subject::Blob), 401, "UNAUTHORIZED"),
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
    fn failures_carry_their_headers() {
        assert_eq!(sent(Failure::unauthorized()).2[header::WWW_AUTHENTICATE], r#"Basic realm="outport""#);
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
            let denied = sent(Failure::denied(Denied { authenticate: false }, subject));
            assert_eq!(denied, sent(Failure::from_cache(CacheError::Absent, subject)));
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
