//! What pushes say in their heads, and what their answers say (distribution-spec, "Push"): pure.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::body::Payload;
use super::error::Failure;
use super::route::STATE_PARAMETER;
use crate::ledger::Position;
use crate::oci::{Chunk, ChunkError, Digest, ReceivedRange, Reference, RepositoryName, SessionId, SessionState, Tag};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const OUTPORT_POSITION: HeaderName = HeaderName::from_static("outport-position");

/// A digest is that of the bytes as they are sent: nothing is inflated here, ever (row 49).
pub fn refuse_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let identity = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(identity) { Ok(()) } else { Err(Failure::encoded()) }
}

/// Where the body of a PATCH, or of a closing PUT, belongs.
pub fn chunk(headers: &HeaderMap) -> Result<Chunk, ChunkError> {
    let mut ranges = headers.get_all(header::CONTENT_RANGE).iter();
    let range = ranges.next().map(|range| range.to_str().map_err(|_| ChunkError::Range)).transpose()?;
    if ranges.next().is_some() {
        return Err(ChunkError::Range);
    }
    // That the length is digits and stands there once, the server room has seen to.
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    Chunk::parse(range, length)
}

/// A session that goes on, as its answers describe it.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// As the client addressed it.
    pub name: &'a RepositoryName,
    pub id: &'a SessionId,
    pub state: &'a SessionState,
    pub received_bytes: u64,
}

/// 202: a session was begun, or a chunk of it is here.
pub fn accepted(progress: Progress<'_>) -> Response<Payload> {
    session(StatusCode::ACCEPTED, progress)
}

/// 204: how far a session is.
pub fn status(progress: Progress<'_>) -> Response<Payload> {
    session(StatusCode::NO_CONTENT, progress)
}

/// 204: a session is gone.
pub fn cancelled() -> Response<Payload> {
    empty(StatusCode::NO_CONTENT)
}

/// 201: a blob is in the repository, uploaded or mounted.
pub fn blob_created(name: &RepositoryName, digest: &Digest, position: &str) -> Response<Payload> {
    created(&format!("/v2/{name}/blobs/{digest}"), digest, position)
}

/// A manifest that was kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub name: &'a RepositoryName,
    /// As it was pushed: by tag or by digest.
    pub reference: &'a Reference,
    pub digest: &'a Digest,
    /// Those that were set by parameters.
    pub tags: &'a [Tag],
    pub subject: Option<&'a Digest>,
    pub position: &'a str,
}

/// 201: a manifest is in the repository, and tags lead to it.
pub fn manifest_created(kept: Kept<'_>) -> Response<Payload> {
    let mut response = created(&format!("/v2/{}/manifests/{}", kept.name, kept.reference), kept.digest, kept.position);
    let headers = response.headers_mut();
    headers.extend(kept.tags.iter().map(|tag| (OCI_TAG, value(tag.as_str()))));
    headers.extend(kept.subject.map(|subject| (OCI_SUBJECT, value(&subject.to_string()))));
    response
}

/// 202: a manifest, a tag or a blob is no longer in the repository.
pub fn deleted(position: &str) -> Response<Payload> {
    let mut response = empty(StatusCode::ACCEPTED);
    response.headers_mut().insert(OUTPORT_POSITION, value(position));
    response
}

/// Where what was done stands.
pub fn insert_position(headers: &mut HeaderMap, position: &str) {
    headers.insert(OUTPORT_POSITION, value(position));
}

/// The position that the answer of another edge tells.
pub fn position<B>(answer: &Response<B>) -> Option<Position> {
    answer.headers().get(OUTPORT_POSITION)?.to_str().ok()?.parse().ok()
}

fn session(status: StatusCode, progress: Progress<'_>) -> Response<Payload> {
    let Progress { name, id, state, received_bytes } = progress;
    let mut response = empty(status);
    let headers = response.headers_mut();
    // Relative, so that it holds whatever name and scheme the client came by.
    headers.insert(header::LOCATION, value(&format!("/v2/{name}/blobs/uploads/{id}?{STATE_PARAMETER}={state}")));
    headers.insert(header::RANGE, value(&ReceivedRange { received_bytes }.to_string()));
    headers.insert(DOCKER_UPLOAD_UUID, value(id.as_str()));
    response
}

fn created(location: &str, digest: &Digest, position: &str) -> Response<Payload> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(location));
    headers.insert(DOCKER_CONTENT_DIGEST, value(&digest.to_string()));
    headers.insert(OUTPORT_POSITION, value(position));
    response
}

fn empty(status: StatusCode) -> Response<Payload> {
    let mut response = Response::new(Payload::Empty);
    *response.status_mut() = status;
    response
}

/// Names, tags, digests, ids, states and positions are printable ASCII.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(HeaderName, &[u8])]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn the_head_of_a_chunk_is_read() {
        let (range, length) = (header::CONTENT_RANGE, header::CONTENT_LENGTH);
        for (list, expected) in [
            (vec![], Ok(Chunk { first: None, size_bytes: None })),
            (vec![(length.clone(), &b"5"[..])], Ok(Chunk { first: None, size_bytes: Some(5) })),
            (vec![(range.clone(), b"5-9"), (length.clone(), b"5")], Ok(Chunk { first: Some(5), size_bytes: Some(5) })),
            (vec![(range.clone(), b"5-9"), (length, b"6")], Err(ChunkError::Length)),
            (vec![(range.clone(), b"0-1"), (range.clone(), b"0-1")], Err(ChunkError::Range)),
            (vec![(range, b"\xff")], Err(ChunkError::Range)),
        ] {
            let list: HeaderMap = headers(&list);
            assert_eq!(chunk(&list), expected, "{list:?}");
        }
    }

    #[test]
    fn row_49_only_identity_is_no_encoding() {
        for (encoding, good) in
            [(&b"identity"[..], true), (b" Identity ", true), (b"gzip", false), (b"", false), (b"identity, gzip", false)]
        {
            assert_eq!(refuse_encoding(&headers(&[(header::CONTENT_ENCODING, encoding)])).is_ok(), good, "{encoding:?}");
        }
        assert!(refuse_encoding(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_location_routes_back_to_its_session() {
        let (name, id, state) = ("a/b".parse().unwrap(), "018f-x".parse().unwrap(), "a.b_c-d==".parse().unwrap());
        let response = accepted(Progress { name: &name, id: &id, state: &state, received_bytes: 10 });
        assert_eq!((response.status(), &response.headers()[header::RANGE]), (StatusCode::ACCEPTED, &HeaderValue::from_static("0-9")));
        let location = response.headers()[header::LOCATION].to_str().unwrap();
        let (path, query) = location.split_once('?').unwrap();
        let routed = super::super::route::route(&http::Method::PATCH, path.as_bytes(), query).unwrap();
        let session = crate::oci::SessionRef { id, state: Some(state) };
        assert_eq!(routed, super::super::route::Action::Write { name, ns: None, wanted: super::super::route::Push::Chunk(session) });
    }

    #[test]
    fn a_kept_manifest_tells_its_tags_and_subject() {
        let (name, digest) = ("a/b".parse().unwrap(), Digest::sha256(b""));
        let tags: Vec<Tag> = ["v1", "v2"].map(|tag| tag.parse().unwrap()).into();
        let kept =
            Kept { name: &name, reference: &Reference::Digest(digest), digest: &digest, tags: &tags, subject: None, position: "eu.01@7" };
        let response = manifest_created(kept);
        assert_eq!(response.headers()[header::LOCATION], format!("/v2/a/b/manifests/{digest}"));
        assert_eq!(response.headers()[OUTPORT_POSITION], "eu.01@7");
        assert_eq!(response.headers().get_all(OCI_TAG).iter().collect::<Vec<_>>(), ["v1", "v2"]);
        assert!(!response.headers().contains_key(OCI_SUBJECT));
        let subject = Digest::sha256(b"subject");
        let response = manifest_created(Kept { subject: Some(&subject), ..kept });
        assert_eq!(response.headers()[OCI_SUBJECT], subject.to_string());
    }
}
