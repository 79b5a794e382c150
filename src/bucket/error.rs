//! What can go wrong with the object store, by what the caller does about it.

use std::error::Error as _;
use std::fmt::Write;
use std::io::ErrorKind;
use std::time::Duration;

use object_store::Error as StoreError;

/// Why a call failed. None of them says whether a write has landed: only reading back does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// It gave no usable answer in time. Later it may.
    #[error("the bucket is unavailable: {why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
    /// It does not let us: credentials, permissions, a missing bucket. Somebody has to change something.
    #[error("the bucket refuses: {0}")]
    Refused(String),
    /// Bytes that cannot be: larger than their limit, cut, or of no known form.
    #[error("broken content in the bucket: {0}")]
    Broken(String),
}

/// Why a bucket could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// `[bucket]` makes no client.
    #[error("not usable: {0}")]
    Settings(String),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The store lacks what the ledger's safety rests on.
    #[error("the bucket is not safe to use: {0}")]
    Unsafe(String),
    /// What lies there was written by another program, or by a version that this one does not understand.
    #[error("the bucket holds something else: {0}")]
    Format(String),
    /// Another region, which has not begun there. It may at any time.
    #[error("no such region is there yet: {0}")]
    NotYet(String),
}

impl OpenError {
    /// Whether trying again cannot help until somebody has changed the configuration, the store or this program.
    pub fn is_lasting(&self) -> bool {
        match self {
            OpenError::Settings(_) | OpenError::Unsafe(_) | OpenError::Format(_) => true,
            // A permission can be granted, and a bucket made, while this process waits.
            OpenError::Bucket(_) | OpenError::NotYet(_) => false,
        }
    }
}

impl BucketError {
    /// When the store wants to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            BucketError::Unavailable { retry_after, .. } => *retry_after,
            BucketError::Refused(_) | BucketError::Broken(_) => None,
        }
    }

    pub(super) fn unavailable(why: impl Into<String>) -> BucketError {
        BucketError::Unavailable { why: why.into(), retry_after: None }
    }

    /// The metrics' word for it.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            BucketError::Unavailable { .. } => "unavailable",
            BucketError::Refused(_) => "refused",
            BucketError::Broken(_) => "broken",
        }
    }
}

/// How a request ended that did not do what it was to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such object: confirmed.
    Absent,
    /// There is one already: as the store says, which may be wrong.
    Exists,
    Error(BucketError),
}

impl Failure {
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Failure::Absent => "absent",
            Failure::Exists => "exists",
            Failure::Error(error) => error.outcome(),
        }
    }

    /// For requests to which neither answer belongs.
    pub(super) fn into_error(self) -> BucketError {
        match self {
            Failure::Absent => BucketError::Refused("there is no such bucket or container".into()),
            Failure::Exists => BucketError::unavailable("it met a conflict"),
            Failure::Error(error) => error,
        }
    }
}

/// How long a store that asks for fewer requests is left alone. The client does not pass on what the store asked for.
const THROTTLED_PAUSE: Duration = Duration::from_secs(1);
/// The most characters of a store's own words: it may answer with a page.
const MAX_WORDS_CHARS: usize = 400;

/// Sorts the client's errors.
pub(super) fn judge(error: &StoreError) -> Failure {
    let words = words(error);
    let refused = |words| Failure::Error(BucketError::Refused(words));
    match error {
        StoreError::NotFound { .. } => judge_absence(words),
        StoreError::AlreadyExists { .. } => Failure::Exists,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => refused(words),
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } | StoreError::UnknownConfigurationKey { .. } => refused(words),
        StoreError::InvalidPath { .. } | StoreError::NotModified { .. } => Failure::Error(BucketError::Broken(words)),
        _ => Failure::Error(judge_words(error, words)),
    }
}

/// What stores say with 404 when not the object is missing but all of them.
const NO_BUCKET: &[&str] = &["NoSuchBucket", "ContainerNotFound", "bucket does not exist"];
/// What stands in a 404 of a proxy in front of the store that has lost it.
const NO_STORE: &[&str] = &["<html", "<HTML", "default backend", "404 page not found"];

/// A 404 is believed unless it tells of something else.
fn judge_absence(words: String) -> Failure {
    let tells = |of: &[&str]| of.iter().any(|word| words.contains(word));
    if tells(NO_BUCKET) {
        Failure::Error(BucketError::Refused(words))
    } else if tells(NO_STORE) {
        Failure::Error(BucketError::unavailable(words))
    } else {
        Failure::Absent
    }
}

fn judge_words(error: &StoreError, words: String) -> BucketError {
    if let Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) = io_kind(error) {
        return BucketError::Refused(words);
    }
    match status(&words) {
        Some(429 | 503) => BucketError::Unavailable { why: words, retry_after: Some(THROTTLED_PAUSE) },
        Some(416) => BucketError::Broken(words),
        // Such as an expired token, a wrong region, or a request that the store does not know.
        Some(400 | 401 | 403 | 404 | 405 | 411 | 413 | 501) => BucketError::Refused(words),
        // A range behind the end, as the client says it itself.
        _ if words.contains("object was only") => BucketError::Broken(words),
        // A bare redirect is the answer of another region's server.
        _ if words.contains("redirect without LOCATION") => BucketError::Refused(words),
        _ => BucketError::Unavailable { why: words, retry_after: None },
    }
}

/// The HTTP status in the client's words, which have it nowhere else for us; a test against a server holds this.
fn status(words: &str) -> Option<u16> {
    let (_, rest) = words.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn io_kind(error: &StoreError) -> Option<ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

/// The error in words, in one line and bounds. Sources are added as far as the text does not tell them already.
fn words(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        source = error.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_WORDS_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn each_error_has_its_kind() {
        let status = |status: &str| {
            generic(&format!("Error performing PUT http://x/y in 1ms - Server returned non-2xx status code: {status}: <x/>"))
        };
        for (error, kind) in [
            (status("503 Service Unavailable"), "unavailable"),
            (status("429 Too Many Requests"), "unavailable"),
            (status("500 Internal Server Error"), "unavailable"),
            (status("400 Bad Request"), "refused"),
            (status("501 Not Implemented"), "refused"),
            (status("416 Range Not Satisfiable"), "broken"),
            (generic("operation timed out"), "unavailable"),
            (generic("Wanted range starting at 2, but object was only 2 bytes long"), "broken"),
            (generic("Received redirect without LOCATION, this normally indicates an incorrectly configured region"), "refused"),
            (StoreError::NotFound { path: "x".into(), source: "x".into() }, "absent"),
            (StoreError::NotFound { path: "x".into(), source: "<Code>NoSuchKey</Code>".into() }, "absent"),
            (StoreError::NotFound { path: "x".into(), source: "<Code>NoSuchBucket</Code>".into() }, "refused"),
            (StoreError::NotFound { path: "x".into(), source: "<Code>ContainerNotFound</Code>".into() }, "refused"),
            (StoreError::NotFound { path: "x".into(), source: "<html><h1>404 Not Found</h1>".into() }, "unavailable"),
            (StoreError::AlreadyExists { path: "x".into(), source: "x".into() }, "exists"),
            (StoreError::PermissionDenied { path: "x".into(), source: "x".into() }, "refused"),
            (StoreError::Unauthenticated { path: "x".into(), source: "x".into() }, "refused"),
            (StoreError::Precondition { path: "x".into(), source: "x".into() }, "unavailable"),
            (generic_io(ErrorKind::PermissionDenied), "refused"),
            (generic_io(ErrorKind::ReadOnlyFilesystem), "refused"),
            (generic_io(ErrorKind::StorageFull), "unavailable"),
        ] {
            assert_eq!(judge(&error).outcome(), kind, "{error}");
        }
        let throttled = judge(&status("503 Slow Down"));
        assert!(matches!(throttled, Failure::Error(BucketError::Unavailable { retry_after: Some(_), .. })), "{throttled:?}");
    }

    fn generic_io(kind: ErrorKind) -> StoreError {
        StoreError::Generic { store: "LocalFileSystem", source: Box::new(std::io::Error::from(kind)) }
    }

    #[test]
    fn a_store_that_answers_with_a_page_is_quoted_in_bounds() {
        let Failure::Error(error) = judge(&generic(&"<p>\n".repeat(10_000))) else { panic!("an error") };
        assert!(error.to_string().len() < 600 && !error.to_string().contains('\n'), "{error}");
    }
}
