//! Manifests and blobs of an upstream: one request each, and every claim of the answer that can be checked is checked.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::endpoint::{Answer, Ask, Endpoint, Scope};
use super::error::UpstreamError;
use super::headers::{self, ContentRange};
use super::wire::Body;
use crate::oci::{Digest, MAX_MANIFEST_BYTES, Manifest, Reference, RepositoryName, is_manifest_media_type};

/// A manifest whose bytes were hashed: they are what was asked for by digest, and what the upstream's digest header says.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedManifest {
    /// By the algorithm that it was asked by, else the one that the upstream used, else sha256.
    pub digest: Digest,
    /// The Content-Type exactly as it came.
    pub media_type: Arc<str>,
    pub bytes: Bytes,
}

/// What HEAD tells of a manifest. Nothing of it is verified, except that it does not contradict the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// `None` where the upstream sends no digest header.
    pub digest: Option<Digest>,
    pub media_type: Arc<str>,
    pub size_bytes: Option<u64>,
}

/// A blob on its way. The bytes are not verified: who collects them hashes them. Dropping it ends the transfer.
pub struct BlobTransfer {
    /// Of the whole blob, as far as the upstream told.
    pub size_bytes: Option<u64>,
    /// Where in the blob the first byte of the body stands: what was asked for, or 0 if the upstream knows no ranges.
    pub from: u64,
    /// Bytes of the body still to come.
    left: Option<u64>,
    body: Body,
    endpoint: Arc<Endpoint>,
    /// Counts this transfer among the upstream's requests until it is dropped.
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for BlobTransfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobTransfer").field("size_bytes", &self.size_bytes).field("from", &self.from).finish_non_exhaustive()
    }
}

impl BlobTransfer {
    /// The next bytes, never empty; `None` only at the end that the upstream announced. Reading up to it lets the connection be
    /// used again. Dropping the future loses no bytes.
    ///
    /// # Errors
    /// [`UpstreamError::Broken`] when the body ends early or nothing comes for `read_timeout`; [`UpstreamError::WrongAnswer`]
    /// when more comes than was announced. The transfer is over then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let next = self.body.next().await.and_then(|bytes| self.count(bytes));
        if matches!(next, Err(UpstreamError::Broken(_))) {
            self.endpoint.body_broke();
        }
        next
    }

    fn count(&mut self, bytes: Option<Bytes>) -> Result<Option<Bytes>, UpstreamError> {
        match (&bytes, &mut self.left) {
            (None, Some(left)) if *left > 0 => Err(UpstreamError::Broken(format!("{left} bytes are missing"))),
            (Some(piece), Some(left)) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(|| UpstreamError::wrong("more bytes than announced"))?;
                Ok(bytes)
            }
            _ => Ok(bytes),
        }
    }
}

fn manifest_ask<'a>(method: Method, repository: &'a RepositoryName, path: &'a str) -> Ask<'a> {
    Ask { method, path, query: None, accept: Manifest::ACCEPT, from: 0, scope: Scope::Pull(repository), load: None }
}

pub(super) async fn manifest(
    endpoint: &Endpoint,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<FetchedManifest, UpstreamError> {
    let path = format!("{repository}/manifests/{reference}");
    let answer = endpoint.ask(&manifest_ask(Method::GET, repository, &path)).await?;
    let claimed = checked_head(&answer, reference)?;
    let media_type: Arc<str> = headers::content_type(&answer.headers).into();
    let bytes = answer.body.whole(MAX_MANIFEST_BYTES).await?;
    for digest in claimed.iter().chain(named_digest(reference)) {
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(UpstreamError::wrong(format!("a manifest that is not {digest}")));
        }
    }
    Manifest::parse(&bytes, &media_type).map_err(|error| UpstreamError::wrong(error.to_string()))?;
    let digest = named_digest(reference).copied().or(claimed).unwrap_or_else(|| Digest::sha256(&bytes));
    Ok(FetchedManifest { digest, media_type, bytes })
}

pub(super) async fn manifest_head(
    endpoint: &Endpoint,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<ManifestHead, UpstreamError> {
    let path = format!("{repository}/manifests/{reference}");
    let answer = endpoint.ask(&manifest_ask(Method::HEAD, repository, &path)).await?;
    let digest = checked_head(&answer, reference)?;
    let media_type = headers::content_type(&answer.headers).into();
    Ok(ManifestHead { digest, media_type, size_bytes: headers::content_length(&answer.headers) })
}

fn named_digest(reference: &Reference) -> Option<&Digest> {
    match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    }
}

/// Refuses a head that cannot be that of the manifest asked for; returns the digest that it claims.
fn checked_head(answer: &Answer, reference: &Reference) -> Result<Option<Digest>, UpstreamError> {
    complete_and_plain(answer)?;
    let media_type = headers::content_type(&answer.headers);
    if !is_manifest_media_type(media_type) {
        return Err(UpstreamError::wrong(format!("{media_type:?} for a manifest")));
    }
    if headers::content_length(&answer.headers).is_some_and(|length| length > MAX_MANIFEST_BYTES as u64) {
        return Err(UpstreamError::wrong(format!("a manifest of more than {MAX_MANIFEST_BYTES} bytes")));
    }
    let claimed = headers::content_digest(&answer.headers).map_err(|error| UpstreamError::wrong(format!("its digest header: {error}")))?;
    match (claimed, named_digest(reference)) {
        (Some(claimed), Some(named)) if claimed.algorithm() == named.algorithm() && claimed != *named => {
            Err(UpstreamError::wrong(format!("{claimed} where {named} was asked for")))
        }
        _ => Ok(claimed),
    }
}

/// 200, and no coding of the content that nobody asked for.
pub(super) fn complete_and_plain(answer: &Answer) -> Result<(), UpstreamError> {
    if answer.status != StatusCode::OK {
        return Err(UpstreamError::wrong(format!("{} where 200 was due", answer.status)));
    }
    plain(answer)
}

fn plain(answer: &Answer) -> Result<(), UpstreamError> {
    if headers::is_identity(&answer.headers) { Ok(()) } else { Err(UpstreamError::wrong("a Content-Encoding that was not asked for")) }
}

fn blob_ask<'a>(method: Method, repository: &'a RepositoryName, path: &'a str, from: u64) -> Ask<'a> {
    Ask { method, path, query: None, accept: "*/*", from, scope: Scope::Pull(repository), load: None }
}

pub(super) async fn blob(
    endpoint: Arc<Endpoint>,
    repository: &RepositoryName,
    digest: &Digest,
    from: u64,
) -> Result<BlobTransfer, UpstreamError> {
    let path = format!("{repository}/blobs/{digest}");
    let answer = endpoint.ask(&blob_ask(Method::GET, repository, &path, from)).await?;
    plain(&answer)?;
    let length = headers::content_length(&answer.headers);
    let (from, size_bytes, left) = match answer.status {
        StatusCode::OK => (0, length, length),
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            let value = headers::text(&answer.headers, CONTENT_RANGE).unwrap_or_default();
            let part = rest_of(value, from, length)?;
            (from, part.size_bytes, Some(part.last - part.first + 1))
        }
        status => return Err(UpstreamError::wrong(format!("it answered {status} for a blob"))),
    };
    Ok(BlobTransfer { size_bytes, from, left, body: answer.body, endpoint, _permit: answer.permit })
}

/// Reads the `Content-Range` of an answer to `bytes=from-`: exactly the rest, and as long as its `Content-Length`.
fn rest_of(value: &str, from: u64, length: Option<u64>) -> Result<ContentRange, UpstreamError> {
    let part = ContentRange::parse(value).filter(|part| {
        let to_the_end = part.size_bytes.is_none_or(|size| part.last == size - 1);
        // No overflow: `parse` leaves no part that is all of u64, since `from` is beyond 0.
        part.first == from && to_the_end && length.is_none_or(|length| length == part.last - part.first + 1)
    });
    part.ok_or_else(|| UpstreamError::wrong(format!("Content-Range {value:?} where the bytes from {from} were asked for")))
}

pub(super) async fn blob_head(endpoint: &Endpoint, repository: &RepositoryName, digest: &Digest) -> Result<u64, UpstreamError> {
    let path = format!("{repository}/blobs/{digest}");
    let answer = endpoint.ask(&blob_ask(Method::HEAD, repository, &path, 0)).await?;
    complete_and_plain(&answer)?;
    headers::content_length(&answer.headers).ok_or_else(|| UpstreamError::wrong("a blob's head without a length"))
}

/// Whether a blob is shown at all: by HEAD, and where that leads to a storage that knows only GET, by the head of the answer to that.
pub(super) async fn blob_glimpse(endpoint: &Endpoint, repository: &RepositoryName, digest: &Digest) -> Result<(), UpstreamError> {
    let path = format!("{repository}/blobs/{digest}");
    let answer = match endpoint.ask(&blob_ask(Method::HEAD, repository, &path, 0)).await {
        Err(UpstreamError::WrongAnswer(_)) => endpoint.ask(&blob_ask(Method::GET, repository, &path, 0)).await?,
        told => told?,
    };
    no_page(&answer)
}

/// A page for people, such as a request to sign in, is no yes, whatever its status.
pub(super) fn no_page(answer: &Answer) -> Result<(), UpstreamError> {
    let is_page = headers::content_type(&answer.headers).trim_start().to_ascii_lowercase().starts_with("text/html");
    if is_page { Err(UpstreamError::wrong("a page for people")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_that_was_asked_for_is_taken() {
        for (value, length, fits) in [
            ("bytes 5-9/10", Some(5), true),
            ("bytes 5-9/10", None, true),
            ("bytes 5-9/*", Some(5), true),
            ("bytes 5-8/10", Some(4), false),
            ("bytes 4-9/10", Some(6), false),
            ("bytes 6-9/10", Some(4), false),
            ("bytes 5-9/10", Some(6), false),
            ("bytes 0-9/10", Some(10), false),
            ("", Some(5), false),
        ] {
            assert_eq!(rest_of(value, 5, length).is_ok(), fits, "{value} {length:?}");
        }
    }
}
