//! One repository of an edge, what can be asked about it, and what every answer is held to.

use std::time::Instant;

use outport::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::harness::client::{Client, Response};

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// "The `code` field MUST be one of the following" (Error Codes).
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
/// Codes of the registry that the specification grew out of, for what the list has no word for: a bad `n`, a bad `Range` of a read.
const OLDER_CODES: [&str; 2] = ["PAGINATION_NUMBER_INVALID", "RANGE_INVALID"];

/// "The client SHOULD include an Accept header indicating which manifest content types it supports" (Pulling manifests).
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json, */*";

/// A repository.
#[derive(Clone)]
pub struct Lab {
    client: Client,
    pub name: String,
}

/// A manifest that was pushed.
#[derive(Clone, Debug)]
pub struct Kept {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub media_type: String,
}

impl Kept {
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len() })
}

/// An image of these two blobs.
pub fn image_of(config: &[u8], layer: &[u8]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, config), "layers": [descriptor(LAYER, layer)] })
}

pub fn with(mut manifest: Value, key: &str, value: impl Into<Value>) -> Value {
    manifest[key] = value.into();
    manifest
}

/// A target with one more parameter.
pub fn and(target: &str, parameter: &str) -> String {
    format!("{target}{}{parameter}", if target.contains('?') { '&' } else { '?' })
}

impl Lab {
    pub fn new(client: Client, name: String) -> Lab {
        Lab { client, name }
    }

    /// Another repository beside this one.
    pub fn beside(&self, name: &str) -> Lab {
        Lab { client: self.client.clone(), name: format!("{}/{name}", self.name) }
    }

    /// Another repository of the same edge, by its whole name.
    pub fn elsewhere(&self, name: &str) -> Lab {
        Lab { client: self.client.clone(), name: name.to_owned() }
    }

    /// The target of something in this repository.
    pub fn at(&self, rest: impl AsRef<str>) -> String {
        format!("/v2/{}/{}", self.name, rest.as_ref())
    }

    /// Sends a request with a body and holds the answer to what holds for all. `target` is a path with its query.
    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let length = body.len().to_string();
        let framed = [headers, &[("Content-Length", length.as_str())]].concat();
        let answer = self.send_framed(method, target, &framed, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Sends a request whose headers say how long its body is.
    pub async fn send_framed(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Response> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nAccept: {ACCEPT}\r\n", self.client.address());
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let started = Instant::now();
        let mut wire = self.client.connect().await?;
        // A registry may refuse, and close, before it has read everything: what it says counts.
        let _ = wire.send(&[head.as_bytes(), body].concat()).await;
        let answer = wire.exchange(method, started).await?.whole().await?;
        check_errors(method, target, &answer);
        Ok(answer)
    }

    pub async fn get(&self, rest: impl AsRef<str>) -> Response {
        self.send("GET", &self.at(rest), &[], b"").await
    }

    pub async fn head(&self, rest: impl AsRef<str>) -> Response {
        self.send("HEAD", &self.at(rest), &[], b"").await
    }

    pub async fn delete(&self, rest: impl AsRef<str>) -> Response {
        self.send("DELETE", &self.at(rest), &[], b"").await
    }

    /// Begins an upload (end-4a); the location.
    pub async fn begin(&self) -> String {
        let answer = self.send("POST", &self.at("blobs/uploads/"), &[], b"").await;
        expect(&answer, 202);
        location(&answer)
    }

    /// A PATCH of a chunk that says where it belongs.
    pub async fn patch(&self, location: &str, range: &str, chunk: &[u8]) -> Response {
        self.send("PATCH", location, &[("Content-Type", "application/octet-stream"), ("Content-Range", range)], chunk).await
    }

    /// The closing PUT, with a chunk or without.
    pub async fn close(&self, location: &str, digest: &Digest, headers: &[(&str, &str)], chunk: &[u8]) -> Response {
        self.send("PUT", &and(location, &format!("digest={digest}")), headers, chunk).await
    }

    /// Uploads a blob by POST and PUT.
    pub async fn upload(&self, bytes: &[u8]) -> Digest {
        self.upload_as(Digest::sha256(bytes), bytes).await
    }

    pub async fn upload_as(&self, digest: Digest, bytes: &[u8]) -> Digest {
        let location = self.begin().await;
        expect(&self.close(&location, &digest, &[], bytes).await, 201);
        digest
    }

    pub async fn has_blob(&self, digest: &Digest) -> bool {
        let answer = self.head(format!("blobs/{digest}")).await;
        assert!(matches!(answer.status, 200 | 404), "{}", answer.status);
        answer.status == 200
    }

    /// Pushes a manifest's very bytes.
    pub async fn put(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Response {
        self.send("PUT", &self.at(format!("manifests/{reference}")), &[("Content-Type", media_type)], bytes).await
    }

    /// Pushes a manifest that must be accepted.
    pub async fn keep(&self, reference: &str, manifest: &Value) -> Kept {
        let media_type = manifest["mediaType"].as_str().expect("a type").to_owned();
        let bytes = manifest.to_string().into_bytes();
        let answer = self.put(reference, &media_type, &bytes).await;
        expect(&answer, 201);
        Kept { digest: Digest::sha256(&bytes), bytes, media_type }
    }

    /// Pushes a manifest by its digest.
    pub async fn keep_untagged(&self, manifest: &Value) -> Kept {
        self.keep(&Digest::sha256(manifest.to_string().as_bytes()).to_string(), manifest).await
    }

    /// Pushes a small image with its blobs.
    pub async fn image(&self, tag: &str) -> Kept {
        let (config, layer) = (format!("{{\"tag\":\"{tag}\"}}"), format!("layer of {tag}"));
        self.upload(config.as_bytes()).await;
        self.upload(layer.as_bytes()).await;
        self.keep(tag, &image_of(config.as_bytes(), layer.as_bytes())).await
    }

    /// The blobs of an image that is not pushed yet, and its manifest.
    pub async fn prepared(&self, text: &str) -> Value {
        let (config, layer) = (format!("{{\"text\":\"{text}\"}}"), format!("layer of {text}"));
        self.upload(config.as_bytes()).await;
        self.upload(layer.as_bytes()).await;
        image_of(config.as_bytes(), layer.as_bytes())
    }

    /// All entries of a list and the number of its pages, following `Link: <...>; rel="next"`.
    pub async fn pages(&self, first: &str, entries: &str) -> (Vec<Value>, usize) {
        let (mut all, mut count, mut next) = (Vec::new(), 0, Some(first.to_owned()));
        while let Some(target) = next {
            let page = self.send("GET", &target, &[], b"").await;
            expect(&page, 200);
            all.extend(page.json()[entries].as_array().expect("a list").clone());
            count += 1;
            assert!(count < 1000, "the pages have no end");
            next = page.header("link").map(|link| {
                let (target, relation) = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("RFC 5988");
                assert_eq!(relation.replace(' ', ""), ";rel=\"next\"", "{link}");
                target.to_owned()
            });
        }
        (all, count)
    }

    pub async fn tags(&self) -> Vec<String> {
        let answer = self.get("tags/list").await;
        expect(&answer, 200);
        assert_eq!(answer.json()["name"], self.name.as_str());
        answer.json()["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().expect("a tag").to_owned()).collect()
    }

    /// The descriptors of what refers to a digest.
    pub async fn referrers(&self, subject: &Digest) -> Vec<Value> {
        let answer = self.get(format!("referrers/{subject}")).await;
        expect(&answer, 200);
        assert_eq!(answer.header("content-type"), Some(INDEX));
        let index = answer.json();
        assert_eq!((index["schemaVersion"].as_u64(), index["mediaType"].as_str()), (Some(2), Some(INDEX)));
        index["manifests"].as_array().expect("manifests").clone()
    }
}

/// "If the response body is in JSON format, it MUST have the following format" (Error Codes); ours always is.
fn check_errors(method: &str, target: &str, answer: &Response) {
    if !(400..500).contains(&answer.status) || method == "HEAD" {
        return;
    }
    let code = answer.error_code().unwrap_or_default();
    assert!(
        CODES.contains(&code.as_str()) || OLDER_CODES.contains(&code.as_str()),
        "{method} {target}: {} {}",
        answer.status,
        answer.text()
    );
}

/// Fails with what was answered.
#[track_caller]
pub fn expect(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{} {:?}", answer.text(), answer.head.headers);
}

/// Fails unless the answer has this status and this error's code.
#[track_caller]
pub fn refused(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (status, Some(code)), "{}", answer.text());
}

#[track_caller]
pub fn location(answer: &Response) -> String {
    let location = answer.header("location").expect("a Location");
    assert!(location.starts_with("/v2/"), "a location is relative: {location}");
    location.to_owned()
}

pub fn sha512(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha512, bytes)
}
