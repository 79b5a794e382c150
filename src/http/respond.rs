//! From an answer of the registry to a response: pure.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::body::Payload;
use super::conditional::{Portion, is_unmodified, portion};
use super::error::Failure;
use super::log::freshness_text;
use super::request_id::X_REQUEST_ID;
use crate::cache::{Answer, Freshness, Prepared, Source, StoredManifest};
use crate::oci::{Descriptor, Digest, INDEX_MEDIA_TYPE, RangeParts, RepositoryName, Tag, referrers_index};
use crate::registry::{BlobHead, Conflict, Listed, Page, Pending, Prefetched};
use crate::store::Content;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OUTPORT_SOURCE: HeaderName = HeaderName::from_static("outport-source");
const OUTPORT_FRESHNESS: HeaderName = HeaderName::from_static("outport-freshness");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// What every answer has.
pub(super) const NO_SNIFF: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
/// What every answer of a registry has.
pub(super) const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Headers of an answer with content, at most, with those that the connection adds.
const CONTENT_HEADERS: usize = 12;
/// RFC 3986's unreserved characters may stand in a query as they are.
pub(super) const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The entity tag of a content: its digest, quoted.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// `/v2/`: a registry answers here and the caller may come in.
pub fn version() -> Response<Payload> {
    json(Bytes::from_static(b"{}"))
}

/// A digest as headers tell it: bare and as an entity tag, from the same bytes in memory.
struct Name {
    digest: HeaderValue,
    etag: HeaderValue,
}

impl Name {
    fn of(digest: &Digest) -> Name {
        let quoted = digest.with_text(|text| {
            let mut quoted = Vec::with_capacity(text.len() + 2);
            quoted.push(b'"');
            quoted.extend_from_slice(text.as_bytes());
            quoted.push(b'"');
            Bytes::from(quoted)
        });
        let bare = quoted.slice(1..quoted.len() - 1);
        let value = |bytes| HeaderValue::from_maybe_shared(bytes).expect("digests are visible ASCII");
        Name { digest: value(bare), etag: value(quoted) }
    }

    fn etag(&self) -> &str {
        self.etag.to_str().expect("digests are visible ASCII")
    }
}

/// A manifest: its exact bytes and type.
pub fn manifest(answer: Answer<StoredManifest>, headers: &HeaderMap) -> Result<Response<Payload>, Failure> {
    let manifest = &answer.value;
    if headers.contains_key(header::IF_NONE_MATCH) {
        let name = Name::of(&manifest.digest);
        if is_unmodified(headers, name.etag()) {
            return Ok(not_modified(&answer, name));
        }
    }
    let prepared = match manifest.prepared.get() {
        Some(prepared) => prepared,
        None => {
            let prepared = prepare(&answer)?;
            manifest.prepared.get_or_init(|| prepared)
        }
    };
    let mut response = Response::new(Payload::Bytes(manifest.bytes.clone()));
    let headers = response.headers_mut();
    // A copy of the whole takes a fraction of what it takes to find each one's place again.
    headers.clone_from(&prepared.headers);
    if !is_prepared(&answer, prepared) {
        provenance(headers, &answer);
    }
    Ok(response)
}

/// Whether a prepared head is this answer's.
pub(super) fn is_prepared(answer: &Answer<StoredManifest>, prepared: &Prepared) -> bool {
    answer.source == Source::Memory && answer.freshness == prepared.freshness
}

/// All that a manifest's headers say when it comes from memory, with a place for the one that belongs to one request.
fn prepare(answer: &Answer<StoredManifest>) -> Result<Prepared, Failure> {
    let manifest = &answer.value;
    let media_type = HeaderValue::from_str(&manifest.media_type).map_err(|_| Failure::wrong_answer("the media type is no header value"))?;
    let name = Name::of(&manifest.digest);
    let freshness = if answer.freshness == Freshness::Immutable { Freshness::Immutable } else { Freshness::Fresh };
    let always = [
        (DOCKER_CONTENT_DIGEST, name.digest),
        (header::ETAG, name.etag),
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_LENGTH, manifest.bytes.len().into()),
        NO_SNIFF,
        API_VERSION,
    ];
    let mut headers: HeaderMap = always.into_iter().collect();
    provenance(&mut headers, &Answer { value: (), source: Source::Memory, freshness });
    let lines = lines(&headers);
    headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
    Ok(Prepared { freshness, headers, lines })
}

/// The status line of an answer that is well and its headers, as hyper writes them.
fn lines(headers: &HeaderMap) -> Bytes {
    let mut lines = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in headers {
        write_line(&mut lines, name.as_str(), value.as_bytes());
    }
    lines.into()
}

/// Appends a header's line.
pub(super) fn write_line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// What a HEAD tells of a blob, and a GET whose entity tag still holds.
pub fn blob_head(answer: &Answer<BlobHead>, digest: &Digest, headers: &HeaderMap) -> Response<Payload> {
    let name = Name::of(digest);
    if is_unmodified(headers, name.etag()) {
        return not_modified(answer, name);
    }
    let mut response = content(Payload::Empty, answer, name);
    blob_headers(response.headers_mut());
    response.headers_mut().insert(header::CONTENT_LENGTH, answer.value.size_bytes.into());
    response
}

/// A blob or a part of it. Its first byte is here.
pub fn blob(answer: Answer<Content>, digest: &Digest, headers: &HeaderMap) -> Result<Response<Payload>, Failure> {
    let (name, size_bytes) = (Name::of(digest), answer.value.size_bytes());
    let (status, payload, range) = match portion(headers, name.etag(), size_bytes) {
        Portion::Whole => (StatusCode::OK, Payload::Region { region: answer.value.whole(), size_bytes }, None),
        Portion::Part(range) => {
            let payload = Payload::Region { region: answer.value.region(range.clone()), size_bytes: Some(range.end - range.start) };
            (StatusCode::PARTIAL_CONTENT, payload, Some(range))
        }
        Portion::Unsatisfiable => return Err(Failure::unsatisfiable(size_bytes.unwrap_or_default())),
    };
    let mut response = content(payload, &answer, name);
    *response.status_mut() = status;
    blob_headers(response.headers_mut());
    if let Some((range, size_bytes)) = range.zip(size_bytes) {
        insert_text(response.headers_mut(), header::CONTENT_RANGE, &RangeParts { range, size_bytes }.to_string());
    }
    Ok(response)
}

fn blob_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// How a list was asked for: what a link to its next page repeats.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    pub page: &'a Page,
    pub ns: Option<&'a str>,
}

/// Tags, under the name that the client used.
pub fn tags(answer: Answer<Listed<Tag>>, name: &RepositoryName, listing: Listing<'_>) -> Response<Payload> {
    let names: Vec<&str> = answer.value.names.iter().map(Tag::as_str).collect();
    let mut response = json(serde_json::json!({ "name": name, "tags": names }).to_string().into());
    link_next(response.headers_mut(), &format!("/v2/{name}/tags/list"), names.last().filter(|_| answer.value.more), listing);
    provenance(response.headers_mut(), &answer);
    response
}

pub fn catalog(listed: &Listed<RepositoryName>, listing: Listing<'_>) -> Response<Payload> {
    catalog_at("/v2/_catalog", listed, listing)
}

pub fn acr_catalog(listed: &Listed<RepositoryName>, listing: Listing<'_>) -> Response<Payload> {
    catalog_at("/acr/v1/_catalog", listed, listing)
}

fn catalog_at(path: &str, listed: &Listed<RepositoryName>, listing: Listing<'_>) -> Response<Payload> {
    let names: Vec<&str> = listed.names.iter().map(RepositoryName::as_str).collect();
    let mut response = json(serde_json::json!({ "repositories": names }).to_string().into());
    link_next(response.headers_mut(), path, names.last().filter(|_| listed.more), listing);
    response
}

pub fn conflicts(listed: &Listed<Conflict>, page: &Page) -> Response<Payload> {
    let mut response = json(serde_json::json!({ "conflicts": listed.names, "more": listed.more }).to_string().into());
    let last = listed.names.last().filter(|_| listed.more).map(Conflict::key);
    link_next(response.headers_mut(), "/outport/v1/conflicts", last.as_deref().as_ref(), Listing { page, ns: None });
    response
}

/// What is on its way to upstreams.
pub fn forwards(listed: &Listed<Pending>) -> Response<Payload> {
    json(serde_json::json!({ "forwards": listed.names, "more": listed.more }).to_string().into())
}

/// `Link` to what follows `last`, relative, so that it leads back to the host that the client asked.
fn link_next(headers: &mut HeaderMap, path: &str, last: Option<&&str>, listing: Listing<'_>) {
    let Some(last) = last else { return };
    let ns = listing.ns.map(|ns| format!("&ns={}", utf8_percent_encode(ns, IN_QUERY))).unwrap_or_default();
    let last = utf8_percent_encode(last, IN_QUERY);
    insert_text(headers, header::LINK, &format!("<{path}?n={}&last={last}{ns}>; rel=\"next\"", listing.page.limit));
}

/// How referrers were asked for: what a link to their next page repeats.
#[derive(Clone, Copy, Debug)]
pub struct ReferrersListing<'a> {
    pub name: &'a RepositoryName,
    pub ns: Option<&'a str>,
    pub subject: &'a Digest,
    pub artifact_type: Option<&'a str>,
}

/// Referrers: always an index, of those of one type where that was asked.
pub fn referrers(answer: Answer<Listed<Descriptor>>, listing: ReferrersListing<'_>) -> Response<Payload> {
    let Listed { names: entries, more } = &answer.value;
    let mut response = Response::new(Payload::Bytes(referrers_index(entries).into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(INDEX_MEDIA_TYPE));
    if listing.artifact_type.is_some() {
        headers.insert(OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = entries.last().filter(|_| *more) {
        let encoded = |key: &str, text: Option<&str>| text.map(|text| format!("&{key}={}", utf8_percent_encode(text, IN_QUERY)));
        let rest = [encoded("artifactType", listing.artifact_type), encoded("ns", listing.ns)].into_iter().flatten().collect::<String>();
        let path = format!("/v2/{}/referrers/{}?last={}{rest}", listing.name, listing.subject, last.digest);
        insert_text(headers, header::LINK, &format!("<{path}>; rel=\"next\""));
    }
    provenance(response.headers_mut(), &answer);
    response
}

/// What a refreshed reference leads to now.
pub fn refreshed(answer: &Answer<StoredManifest>) -> Response<Payload> {
    let StoredManifest { digest, media_type, bytes, .. } = &answer.value;
    let body = serde_json::json!({ "digest": digest, "mediaType": media_type.as_ref(), "size": bytes.len() });
    let mut response = json(body.to_string().into());
    provenance(response.headers_mut(), answer);
    response
}

pub fn prefetched(prefetched: Prefetched) -> Response<Payload> {
    json(serde_json::json!(prefetched).to_string().into())
}

/// An answer in JSON.
pub fn json(body: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload::Bytes(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// 200 with what all content has.
fn content<T>(payload: Payload, answer: &Answer<T>, name: Name) -> Response<Payload> {
    let mut response = Response::new(payload);
    let headers = response.headers_mut();
    // All that an answer will have fits without being moved.
    headers.reserve(CONTENT_HEADERS);
    headers.insert(DOCKER_CONTENT_DIGEST, name.digest);
    headers.insert(header::ETAG, name.etag);
    provenance(headers, answer);
    response
}

fn not_modified<T>(answer: &Answer<T>, name: Name) -> Response<Payload> {
    let mut response = Response::new(Payload::Empty);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, name.etag);
    provenance(response.headers_mut(), answer);
    response
}

/// Where an answer came from and how old it may be.
fn provenance<T>(headers: &mut HeaderMap, answer: &Answer<T>) {
    match &answer.source {
        Source::Memory => drop(headers.insert(OUTPORT_SOURCE, HeaderValue::from_static("memory"))),
        Source::Disk => drop(headers.insert(OUTPORT_SOURCE, HeaderValue::from_static("disk"))),
        Source::Bucket => drop(headers.insert(OUTPORT_SOURCE, HeaderValue::from_static("bucket"))),
        Source::Region(name) => insert_text(headers, OUTPORT_SOURCE, &format!("region={name}")),
        Source::Upstream(name) => insert_text(headers, OUTPORT_SOURCE, &format!("upstream={name}")),
    }
    headers.insert(OUTPORT_FRESHNESS, HeaderValue::from_static(freshness_text(answer.freshness)));
    if answer.freshness == Freshness::Stale {
        // The only code that the distribution specification allows.
        headers.insert(header::WARNING, HeaderValue::from_static(r#"299 - "stale: the upstream registry cannot be asked now""#));
    }
}

/// Inserts a text of our own making. A configured name that is no header value is left out rather than sent broken.
pub(super) fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer<T>(value: T) -> Answer<T> {
        Answer { value, source: Source::Disk, freshness: Freshness::Immutable }
    }

    fn ten_bytes() -> (Answer<Content>, Digest) {
        (answer(Content::from_memory(Bytes::from_static(b"0123456789"))), Digest::sha256(b"0123456789"))
    }

    fn asked(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    async fn bytes(response: Response<Payload>) -> Bytes {
        http_body_util::BodyExt::collect(super::super::body::Body::unrecorded(response.into_body())).await.unwrap().to_bytes()
    }

    fn stored(text: &'static [u8]) -> StoredManifest {
        StoredManifest::new(Digest::sha256(text), INDEX_MEDIA_TYPE.into(), Bytes::from_static(text))
    }

    #[tokio::test]
    async fn a_manifest_is_sent_as_it_is() {
        let stale = Answer { value: stored(b"{ }"), source: Source::Upstream("docker.io".into()), freshness: Freshness::Stale };
        let response = manifest(stale, &HeaderMap::new()).unwrap();
        let digest = Digest::sha256(b"{ }").to_string();
        for (name, value) in [
            ("content-type", INDEX_MEDIA_TYPE),
            ("content-length", "3"),
            ("docker-content-digest", &digest),
            ("etag", &format!("\"{digest}\"")),
            ("outport-source", "upstream=docker.io"),
            ("outport-freshness", "stale"),
            ("warning", r#"299 - "stale: the upstream registry cannot be asked now""#),
        ] {
            assert_eq!(response.headers()[name], value);
        }
        assert_eq!(bytes(response).await, "{ }");
    }

    #[tokio::test]
    async fn row_31_parts_are_exact() {
        for (range, part, told) in
            [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=7-", "789", "bytes 7-9/10"), ("bytes=-1", "9", "bytes 9-9/10")]
        {
            let (content, digest) = ten_bytes();
            let response = blob(content, &digest, &asked(&[(header::RANGE, range)])).unwrap();
            assert_eq!((response.status(), &response.headers()["content-range"]), (StatusCode::PARTIAL_CONTENT, &told.parse().unwrap()));
            assert_eq!(response.body().size_bytes(), Some(part.len() as u64));
            assert_eq!(bytes(response).await, part);
        }
    }

    #[test]
    fn row_32_past_the_end_tells_the_length() {
        let (content, digest) = ten_bytes();
        let response = blob(content, &digest, &asked(&[(header::RANGE, "bytes=10-")])).unwrap_err().into_response();
        assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(response.headers()["content-range"], "bytes */10");
    }

    #[tokio::test]
    async fn row_34_an_unreadable_range_gets_the_whole() {
        let (content, digest) = ten_bytes();
        let response = blob(content, &digest, &asked(&[(header::RANGE, "bytes=5-2")])).unwrap();
        assert_eq!((response.status(), &response.headers()["accept-ranges"]), (StatusCode::OK, &HeaderValue::from_static("bytes")));
        assert_eq!(response.headers()["docker-content-digest"], digest.to_string());
        assert_eq!(bytes(response).await, "0123456789");
    }

    #[tokio::test]
    async fn row_36_a_known_entity_tag_is_not_sent_again() {
        let (_, digest) = ten_bytes();
        let headers = asked(&[(header::IF_NONE_MATCH, &etag(&digest))]);
        let response = blob_head(&answer(BlobHead { size_bytes: 10 }), &digest, &headers);
        assert_eq!((response.status(), response.headers()["etag"].to_str().unwrap()), (StatusCode::NOT_MODIFIED, etag(&digest).as_str()));
        let headers = asked(&[(header::IF_NONE_MATCH, &etag(&stored(b"{ }").digest))]);
        let response = manifest(answer(stored(b"{ }")), &headers).unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(bytes(response).await.is_empty());
        let response = blob_head(&answer(BlobHead { size_bytes: 10 }), &digest, &HeaderMap::new());
        assert_eq!((response.status(), &response.headers()["content-length"]), (StatusCode::OK, &HeaderValue::from(10)));
    }

    #[tokio::test]
    async fn lists_link_to_their_next_page() {
        let (name, page): (RepositoryName, _) = ("a/b".parse().unwrap(), Page { limit: 2, last: None });
        let listed = |names: &[&str], more| Listed { names: names.iter().map(|name| name.parse().unwrap()).collect(), more };
        let listing = Listing { page: &page, ns: Some("registry.local:5000") };
        let response = tags(answer(listed(&["1", "v2.0"], true)), &name, listing);
        assert_eq!(response.headers()["link"], r#"</v2/a/b/tags/list?n=2&last=v2.0&ns=registry.local%3A5000>; rel="next""#);
        assert_eq!(bytes(response).await, r#"{"name":"a/b","tags":["1","v2.0"]}"#);
        let response = tags(answer(listed(&["1"], false)), &name, listing);
        assert!(!response.headers().contains_key("link"));
        let all = Listed { names: vec!["x/y".parse().unwrap()], more: true };
        let response = catalog(&all, Listing { page: &page, ns: None });
        assert_eq!(response.headers()["link"], r#"</v2/_catalog?n=2&last=x%2Fy>; rel="next""#);
        assert_eq!(bytes(response).await, r#"{"repositories":["x/y"]}"#);
    }

    #[test]
    fn row_11_an_empty_page_has_no_link() {
        let page = Page { limit: 0, last: None };
        let response = catalog(&Listed { names: Vec::new(), more: true }, Listing { page: &page, ns: None });
        assert!(!response.headers().contains_key("link"));
    }

    #[tokio::test]
    async fn referrers_are_an_index_with_a_link_to_what_follows() {
        let entry = |kind: &str| -> Descriptor {
            let digest = Digest::sha256(kind.as_bytes());
            serde_json::from_value(serde_json::json!({ "mediaType": "m", "digest": digest, "size": 1, "artifactType": kind })).unwrap()
        };
        let listed = |more| answer(Listed { names: vec![entry("sbom"), entry("signature")], more });
        let (name, subject) = ("a/b".parse().unwrap(), Digest::sha256(b"subject"));
        let listing = ReferrersListing { name: &name, ns: Some("x.io"), subject: &subject, artifact_type: Some("sbom") };
        let response = referrers(listed(true), listing);
        assert_eq!(response.headers()["oci-filters-applied"], "artifactType");
        assert_eq!(response.headers()["content-type"], INDEX_MEDIA_TYPE);
        let last = Digest::sha256(b"signature");
        let link = format!("</v2/a/b/referrers/{subject}?last={last}&artifactType=sbom&ns=x.io>; rel=\"next\"");
        assert_eq!(response.headers()["link"], link);
        let text = String::from_utf8(bytes(response).await.to_vec()).unwrap();
        assert!(text.contains("sbom") && text.contains("signature"), "{text}");
        let listing = ReferrersListing { artifact_type: None, ns: None, ..listing };
        let response = referrers(listed(false), listing);
        assert!(!response.headers().contains_key("oci-filters-applied") && !response.headers().contains_key("link"));
        let response = referrers(answer(Listed { names: Vec::new(), more: false }), listing);
        assert_eq!(response.status(), StatusCode::OK);
    }
}
