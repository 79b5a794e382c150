//! Pushing to an upstream itself, never to a mirror: a blob by POST and one PUT of the whole, a manifest by one PUT
//! (distribution-spec 1.1, "Pushing a blob monolithically", "Mounting a blob from another repository", "Pushing Manifests").
//!
//! A PUT whose session is doubtful is not repeated: the next try begins a session of its own, and the old one is the upstream's to end.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, Method, StatusCode};
use serde_json::Value;

use super::endpoint::{Ask, Endpoint, Landed, Load, Scope, Session};
use super::error::{Failure, UpstreamError};
use super::sending::{ContentStream, Outgoing};
use super::wire::discard;
use super::{content, headers, lists};
use crate::oci::{Descriptor, Digest, INDEX_MEDIA_TYPE, MAX_MANIFEST_BYTES, Reference, RepositoryName, referrers_index};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCTETS: &str = "application/octet-stream";
/// How long an upstream may take to answer once it has all of a blob: some copy it within their store first.
const COMMIT_TIME: Duration = Duration::from_secs(120);

/// A blob to be pushed.
#[derive(Clone, Copy)]
pub struct BlobPush<'a> {
    pub digest: &'a Digest,
    pub content: Outgoing<'a>,
    /// A repository of the upstream that has it too, perhaps.
    pub from: Option<&'a RepositoryName>,
}

/// How a blob came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobPushed {
    /// It was there before.
    Present,
    Mounted,
    Sent,
}

/// A manifest to be pushed: its exact bytes and type.
#[derive(Clone, Copy, Debug)]
pub struct ManifestPush<'a> {
    pub digest: &'a Digest,
    pub media_type: &'a str,
    pub bytes: &'a Bytes,
}

/// What an upstream says of a manifest's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectNoted {
    /// It lists the manifest among the referrers.
    Yes,
    /// It knows no referrers: a client has to keep the list under the fallback tag. Said of a manifest without a subject, too.
    No,
}

pub(super) async fn blob(endpoint: &Endpoint, repository: &RepositoryName, blob: &BlobPush<'_>) -> Result<BlobPushed, UpstreamError> {
    let path = format!("{repository}/blobs/{}", blob.digest);
    let scope = Scope::Push { into: repository, from: None };
    match endpoint.ask(&Ask { method: Method::HEAD, path: &path, query: None, accept: "*/*", from: 0, scope, load: None }).await {
        Ok(_) => return Ok(BlobPushed::Present),
        // Not every storage behind a redirect answers HEAD.
        Err(UpstreamError::Absent | UpstreamError::WrongAnswer(_)) => {}
        Err(error) => return Err(error),
    }
    endpoint.persistently(&path, || upload(endpoint, repository, blob)).await.map(|(pushed, _)| pushed)
}

/// One try: a session, and all of the content.
async fn upload(endpoint: &Endpoint, repository: &RepositoryName, blob: &BlobPush<'_>) -> Result<BlobPushed, Failure> {
    let begun = begin(endpoint, repository, blob).await?;
    let session = match begun.response.status() {
        StatusCode::CREATED if blob.from.is_some() => None,
        StatusCode::ACCEPTED => Some(endpoint.session(&begun)?),
        status => return Err(Failure::wrong(format!("it answered {status} to the beginning of an upload"))),
    };
    discard(begun.response.into_body()).await;
    let Some(mut session) = session else { return Ok(BlobPushed::Mounted) };
    session.url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
    let put = load(OCTETS, blob.content, Some(&session), Some(COMMIT_TIME));
    let path = format!("{repository}/blobs/uploads/");
    let landed = endpoint.attempt(&ask(Method::PUT, &path, None, Scope::Push { into: repository, from: None }, put)).await;
    let landed = landed.map_err(|failure| match failure.error {
        UpstreamError::Absent => Failure::passing(UpstreamError::unavailable("it lost the upload session")),
        _ => failure,
    })?;
    created(&landed, blob.digest)?;
    discard(landed.response.into_body()).await;
    Ok(BlobPushed::Sent)
}

/// Begins an upload, or mounts. An upstream that refuses to mount may well take the bytes.
async fn begin(endpoint: &Endpoint, repository: &RepositoryName, blob: &BlobPush<'_>) -> Result<Landed, Failure> {
    let path = format!("{repository}/blobs/uploads/");
    let nothing = Outgoing { size_bytes: 0, open: &nothing };
    if let Some(from) = blob.from {
        let query = format!("mount={}&from={from}", blob.digest);
        let scope = Scope::Push { into: repository, from: Some(from) };
        match endpoint.attempt(&ask(Method::POST, &path, Some(&query), scope, load(OCTETS, nothing, None, None))).await {
            Err(Failure { error: UpstreamError::Denied | UpstreamError::Absent | UpstreamError::WrongAnswer(_), .. }) => {}
            begun => return begun,
        }
    }
    let scope = Scope::Push { into: repository, from: None };
    let begun = endpoint.attempt(&ask(Method::POST, &path, None, scope, load(OCTETS, nothing, None, None))).await;
    begun.map_err(|failure| match failure.error {
        UpstreamError::Absent => no_repository(),
        _ => failure,
    })
}

fn no_repository() -> Failure {
    Failure::wrong("it has no such repository, and makes none for a push")
}

fn nothing() -> ContentStream {
    Box::pin(stream::empty())
}

fn ask<'a>(method: Method, path: &'a str, query: Option<&'a str>, scope: Scope<'a>, load: Load<'a>) -> Ask<'a> {
    Ask { method, path, query, accept: "application/json, */*;q=0.5", from: 0, scope, load: Some(load) }
}

fn load<'a>(media_type: &'a str, content: Outgoing<'a>, session: Option<&'a Session>, patience: Option<Duration>) -> Load<'a> {
    Load { media_type, content, session, patience }
}

/// Whether the answer says that the content is there, under its digest.
fn created(landed: &Landed, digest: &Digest) -> Result<(), Failure> {
    let status = landed.response.status();
    if status == StatusCode::ACCEPTED {
        return Err(Failure::wrong(format!("it answered {status} where 201 was due")));
    }
    match headers::content_digest(landed.response.headers()) {
        Ok(Some(told)) if told.algorithm() == digest.algorithm() && told != *digest => {
            Err(Failure::wrong(format!("it took {digest} for {told}")))
        }
        // One that cannot be read says nothing.
        _ => Ok(()),
    }
}

pub(super) async fn manifest(
    endpoint: &Endpoint,
    repository: &RepositoryName,
    reference: &Reference,
    manifest: &ManifestPush<'_>,
) -> Result<SubjectNoted, UpstreamError> {
    let path = format!("{repository}/manifests/{reference}");
    let open = || -> ContentStream { Box::pin(stream::iter([Ok(manifest.bytes.clone())])) };
    let content = Outgoing { size_bytes: manifest.bytes.len() as u64, open: &open };
    let put = load(manifest.media_type, content, None, None);
    let put = ask(Method::PUT, &path, None, Scope::Push { into: repository, from: None }, put);
    let attempt = || async {
        let landed = endpoint.attempt(&put).await.map_err(|failure| match failure.error {
            UpstreamError::Absent => no_repository(),
            _ => failure,
        })?;
        created(&landed, manifest.digest)?;
        let noted = if landed.response.headers().contains_key(OCI_SUBJECT) { SubjectNoted::Yes } else { SubjectNoted::No };
        discard(landed.response.into_body()).await;
        Ok(noted)
    };
    endpoint.persistently(&path, attempt).await.map(|(noted, _)| noted)
}

/// Adds a manifest to the list of referrers that is kept under its subject's fallback tag (distribution-spec 1.1, "Pushing Manifests
/// with Subject", "Referrers Tag Schema"). Two clients that do so at once may lose one of the two: that is the schema's own weakness.
pub(super) async fn list_referrer(
    endpoint: &Endpoint,
    repository: &RepositoryName,
    subject: &Digest,
    referrer: &Descriptor,
) -> Result<(), UpstreamError> {
    let Some(tag) = lists::fallback_tag(subject) else { return Ok(()) };
    let reference = Reference::Tag(tag);
    let index = match content::manifest(endpoint, repository, &reference).await {
        Ok(index) => Some(index.bytes),
        Err(UpstreamError::Absent) => None,
        Err(error) => return Err(error),
    };
    let Some(bytes) = with_referrer(index.as_deref(), referrer) else { return Ok(()) };
    let bytes = Bytes::from(bytes);
    let push = ManifestPush { digest: &Digest::sha256(&bytes), media_type: INDEX_MEDIA_TYPE, bytes: &bytes };
    manifest(endpoint, repository, &reference, &push).await.map(|_| ())
}

/// The index with one more entry, the others as they are; `None` where there is nothing to change, or where it is no index.
fn with_referrer(index: Option<&[u8]>, referrer: &Descriptor) -> Option<Vec<u8>> {
    let Some(index) = index else { return Some(referrers_index(std::slice::from_ref(referrer))) };
    let mut index: Value = serde_json::from_slice(index).ok()?;
    let entries = index.get_mut("manifests")?.as_array_mut()?;
    let digest = referrer.digest.to_string();
    if entries.iter().any(|entry| entry.get("digest").and_then(Value::as_str) == Some(digest.as_str())) {
        return None;
    }
    entries.push(serde_json::to_value(referrer).ok()?);
    serde_json::to_vec(&index).ok().filter(|bytes| bytes.len() <= MAX_MANIFEST_BYTES)
}
