//! "Endpoints": each one through each status that it can answer, one request a row.

use outport::oci::Digest;

use super::lab::{IMAGE, INDEX, Lab, expect};
use super::{hosting, panics};
use crate::harness::edge::Settings;

/// One request and its answer. In targets and bodies `{manifest}`, `{image}` (its bytes), `{blob}` (which it needs), `{spare}` (which
/// nothing needs), `{absent}` (a digest that is nowhere), `{name}`, `{source}`
/// (another repository, which has `{mounted}`) and `{session}` (the location of a session just begun) are filled in. Each row finds the
/// repository as `prepare` made it.
struct Row {
    endpoint: &'static str,
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    /// The error's code, or nothing of a success.
    code: &'static str,
    /// A header that must be there, with a part of its value.
    header: (&'static str, &'static str),
}

const fn row(endpoint: &'static str, method: &'static str, target: &'static str, status: u16) -> Row {
    Row { endpoint, method, target, headers: &[], body: "", status, code: "", header: ("", "") }
}

impl Row {
    const fn code(self, code: &'static str) -> Row {
        Row { code, ..self }
    }

    const fn header(self, name: &'static str, value: &'static str) -> Row {
        Row { header: (name, value), ..self }
    }

    const fn body(self, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Row {
        Row { headers, body, ..self }
    }
}

const TYPED: &[(&str, &str)] = &[("Content-Type", IMAGE)];
const FIRST: &[(&str, &str)] = &[("Content-Range", "0-3")];
const LATER: &[(&str, &str)] = &[("Content-Range", "4-7")];
const GZIPPED: &[(&str, &str)] = &[("Content-Encoding", "gzip")];
const GZIPPED_IMAGE: &[(&str, &str)] = &[("Content-Type", IMAGE), ("Content-Encoding", "gzip")];
/// The content of `{blob}`.
const BLOB: &str = "blob";
const DIGEST: &str = "docker-content-digest";
const UPLOADS: &str = "/v2/{name}/blobs/uploads/";
const LOST: &str = "/v2/{name}/blobs/uploads/00000000-0000-0000-0000-000000000000?_state=AAAA";

const ROWS: &[Row] = &[
    row("end-1", "GET", "/v2/", 200).header("docker-distribution-api-version", "registry/2.0"),
    row("end-1", "HEAD", "/v2/", 200),
    row("end-1", "POST", "/v2/", 405).code("UNSUPPORTED").header("allow", "GET"),
    row("end-2", "GET", "/v2/{name}/blobs/{blob}", 200).header(DIGEST, "{blob}"),
    row("end-2", "HEAD", "/v2/{name}/blobs/{blob}", 200).header(DIGEST, "{blob}"),
    row("end-2", "HEAD", "/v2/{name}/blobs/{blob}", 200).header("content-length", "4"),
    row("end-2", "GET", "/v2/{name}/blobs/{blob}", 206).body(&[("Range", "bytes=1-2")], "").header("content-range", "bytes 1-2/4"),
    row("end-2", "GET", "/v2/{name}/blobs/{blob}", 416).body(&[("Range", "bytes=4-")], "").header("content-range", "bytes */4"),
    row("end-2", "GET", "/v2/{name}/blobs/{absent}", 404).code("BLOB_UNKNOWN"),
    row("end-2", "HEAD", "/v2/{name}/blobs/{absent}", 404),
    row("end-2", "GET", "/v2/{name}/none/blobs/{blob}", 404).code("BLOB_UNKNOWN"),
    row("end-2", "GET", "/v2/{name}/blobs/sha256:baddigeststring", 400).code("DIGEST_INVALID"),
    row("end-2", "GET", "/v2/UPPER/blobs/{blob}", 400).code("NAME_INVALID"),
    row("end-2", "PUT", "/v2/{name}/blobs/{blob}", 405).code("UNSUPPORTED").header("allow", "DELETE"),
    row("end-3", "GET", "/v2/{name}/manifests/v1", 200).header(DIGEST, "{manifest}"),
    row("end-3", "HEAD", "/v2/{name}/manifests/v1", 200).header(DIGEST, "{manifest}"),
    row("end-3", "HEAD", "/v2/{name}/manifests/{manifest}", 200).header("content-type", IMAGE),
    row("end-3", "GET", "/v2/{name}/manifests/{manifest}", 200).header(DIGEST, "{manifest}"),
    row("end-3", "GET", "/v2/{name}/manifests/none", 404).code("MANIFEST_UNKNOWN"),
    row("end-3", "HEAD", "/v2/{name}/manifests/none", 404),
    row("end-3", "GET", "/v2/{name}/manifests/{absent}", 404).code("MANIFEST_UNKNOWN"),
    row("end-3", "GET", "/v2/{name}/manifests/{blob}", 404).code("MANIFEST_UNKNOWN"),
    row("end-3", "GET", "/v2/{name}/manifests/-bad", 404).code("MANIFEST_UNKNOWN"),
    row("end-3", "GET", "/v2/{name}/none/manifests/v1", 404).code("MANIFEST_UNKNOWN"),
    row("end-3", "GET", "/v2/{name}/manifests/sha256:baddigeststring", 400).code("DIGEST_INVALID"),
    row("end-3", "GET", "/v2/a..b/manifests/v1", 400).code("NAME_INVALID"),
    row("end-3", "POST", "/v2/{name}/manifests/v1", 405).code("UNSUPPORTED").header("allow", "PUT"),
    row("end-4a", "POST", UPLOADS, 202).header("location", "/v2/{name}/blobs/uploads/"),
    row("end-4a", "POST", UPLOADS, 202).header("range", "0-0"),
    row("end-4a", "POST", "/v2/{name}/blobs/uploads", 202),
    row("end-4a", "POST", "/v2/UPPER/blobs/uploads/", 400).code("NAME_INVALID"),
    row("end-4a", "GET", UPLOADS, 405).code("UNSUPPORTED").header("allow", "POST"),
    row("end-4b", "POST", "/v2/{name}/blobs/uploads/?digest={blob}", 201).body(&[], BLOB).header("location", "/v2/{name}/blobs/{blob}"),
    row("end-4b", "POST", "/v2/{name}/blobs/uploads/?digest={absent}", 400).body(&[], BLOB).code("DIGEST_INVALID"),
    row("end-4b", "POST", "/v2/{name}/blobs/uploads/?digest=sha256:baddigeststring", 400).body(&[], BLOB).code("DIGEST_INVALID"),
    row("end-4b", "POST", "/v2/{name}/blobs/uploads/?digest={blob}", 415).body(GZIPPED, BLOB).code("UNSUPPORTED"),
    row("end-4c", "POST", "/v2/{name}/blobs/uploads/?digest-algorithm=sha256", 202),
    row("end-4c", "POST", "/v2/{name}/blobs/uploads/?digest-algorithm=sha512", 202),
    row("end-4c", "POST", "/v2/{name}/blobs/uploads/?digest-algorithm=crc32", 400).code("DIGEST_INVALID"),
    row("end-5", "PATCH", "{session}", 202).body(FIRST, BLOB).header("range", "0-3"),
    row("end-5", "PATCH", "{session}", 202).body(&[], BLOB).header("location", "/v2/{name}/blobs/uploads/"),
    row("end-5", "PATCH", "{session}", 416).body(LATER, BLOB).code("BLOB_UPLOAD_INVALID"),
    row("end-5", "PATCH", "{session}", 400).body(FIRST, "more than that").code("SIZE_INVALID"),
    row("end-5", "PATCH", "{session}", 415).body(GZIPPED, BLOB).code("UNSUPPORTED"),
    row("end-5", "PATCH", LOST, 404).body(&[], BLOB).code("BLOB_UPLOAD_UNKNOWN"),
    row("end-5", "POST", "{session}", 405).code("UNSUPPORTED").header("allow", "PATCH"),
    row("end-6", "PUT", "{session}&digest={blob}", 201).body(&[], BLOB).header("location", "/v2/{name}/blobs/{blob}"),
    row("end-6", "PUT", "{session}&digest={blob}", 201).body(FIRST, BLOB).header(DIGEST, "{blob}"),
    row("end-6", "PUT", "{session}&digest={blob}", 416).body(LATER, BLOB).code("BLOB_UPLOAD_INVALID"),
    row("end-6", "PUT", "{session}&digest={absent}", 400).body(&[], BLOB).code("DIGEST_INVALID"),
    row("end-6", "PUT", "{session}", 400).body(&[], BLOB).code("DIGEST_INVALID"),
    row("end-6", "PUT", "/v2/{name}/blobs/uploads/lost?digest={blob}", 404).body(&[], BLOB).code("BLOB_UPLOAD_UNKNOWN"),
    row("end-7a", "PUT", "/v2/{name}/manifests/v2", 201).body(TYPED, "{image}").header(DIGEST, "{manifest}"),
    row("end-7a", "PUT", "/v2/{name}/manifests/{manifest}", 201).body(TYPED, "{image}").header("location", "/manifests/{manifest}"),
    row("end-7a", "PUT", "/v2/{name}/manifests/v2", 400).body(TYPED, "{}").code("MANIFEST_INVALID"),
    row("end-7a", "PUT", "/v2/{name}/manifests/v2", 400).body(&[("Content-Type", INDEX)], "{image}").code("MANIFEST_INVALID"),
    row("end-7a", "PUT", "/v2/{name}/manifests/{absent}", 400).body(TYPED, "{image}").code("DIGEST_INVALID"),
    row("end-7a", "PUT", "/v2/{name}/manifests/-bad", 400).body(TYPED, "{image}"),
    row("end-7a", "PUT", "/v2/{name}/none/manifests/v1", 404).body(TYPED, "{image}").code("MANIFEST_BLOB_UNKNOWN"),
    row("end-7a", "PUT", "/v2/{name}/manifests/v2", 415).body(GZIPPED_IMAGE, "{image}").code("UNSUPPORTED"),
    row("end-7a", "PUT", "/v2/A/manifests/v1", 400).body(TYPED, "{image}").code("NAME_INVALID"),
    row("end-7b", "PUT", "/v2/{name}/manifests/{manifest}?tag=v2&tag=v3", 201).body(TYPED, "{image}").header("oci-tag", "v2"),
    row("end-7b", "PUT", "/v2/{name}/manifests/{manifest}?tag=.v2", 400).body(TYPED, "{image}"),
    row("end-8a", "GET", "/v2/{name}/tags/list", 200).header("content-type", "application/json"),
    row("end-8a", "GET", "/v2/{name}/none/tags/list", 404).code("NAME_UNKNOWN"),
    row("end-8a", "DELETE", "/v2/{name}/tags/list", 405).code("UNSUPPORTED").header("allow", "GET"),
    row("end-8b", "GET", "/v2/{name}/tags/list?n=1&last=a", 200),
    row("end-8b", "GET", "/v2/{name}/tags/list?n=x", 400),
    row("end-9", "DELETE", "/v2/{name}/manifests/v1", 202),
    row("end-9", "DELETE", "/v2/{name}/manifests/{manifest}", 202),
    row("end-9", "DELETE", "/v2/{name}/manifests/none", 404).code("MANIFEST_UNKNOWN"),
    row("end-9", "DELETE", "/v2/{name}/manifests/{absent}", 404).code("MANIFEST_UNKNOWN"),
    row("end-9", "DELETE", "/v2/{name}/none/manifests/{manifest}", 404),
    row("end-9", "DELETE", "/v2/{name}/manifests/sha256:baddigeststring", 400).code("DIGEST_INVALID"),
    row("end-10", "DELETE", "/v2/{name}/blobs/{spare}", 202),
    row("end-10", "DELETE", "/v2/{name}/blobs/{blob}", 405).code("UNSUPPORTED"),
    row("end-10", "DELETE", "/v2/{name}/blobs/{absent}", 404).code("BLOB_UNKNOWN"),
    row("end-10", "DELETE", "/v2/{name}/blobs/sha256:baddigeststring", 400).code("DIGEST_INVALID"),
    row("end-11", "POST", "/v2/{name}/blobs/uploads/?mount={mounted}&from={source}", 201).header("location", "/v2/{name}/blobs/{mounted}"),
    row("end-11", "POST", "/v2/{name}/blobs/uploads/?mount={mounted}&from={source}", 201).header(DIGEST, "{mounted}"),
    row("end-11", "POST", "/v2/{name}/blobs/uploads/?mount={absent}&from={source}", 202).header("location", "/blobs/uploads/"),
    row("end-11", "POST", "/v2/{name}/blobs/uploads/?mount={mounted}&from={name}/none", 202),
    row("end-12a", "GET", "/v2/{name}/referrers/{manifest}", 200).header("content-type", INDEX),
    row("end-12a", "GET", "/v2/{name}/referrers/{absent}", 200),
    row("end-12a", "GET", "/v2/{name}/referrers/sha256:baddigeststring", 400).code("DIGEST_INVALID"),
    row("end-12a", "PUT", "/v2/{name}/referrers/{manifest}", 405).code("UNSUPPORTED").header("allow", "GET"),
    row("end-12b", "GET", "/v2/{name}/referrers/{manifest}?artifactType=a/b", 200).header("oci-filters-applied", "artifactType"),
    row("end-13", "GET", "{session}", 204).header("range", "0-0"),
    row("end-13", "GET", "{session}", 204).header("location", "/v2/{name}/blobs/uploads/"),
    row("end-13", "HEAD", "{session}", 204),
    row("end-13", "GET", LOST, 404).code("BLOB_UPLOAD_UNKNOWN"),
    row("end-14", "DELETE", "{session}", 204),
    row("end-14", "DELETE", LOST, 404).code("BLOB_UPLOAD_UNKNOWN"),
    row("Endpoints", "GET", "/v2/{name}", 404).code("UNSUPPORTED"),
    row("Endpoints", "TRACE", "/v2/{name}/manifests/v1", 405).code("UNSUPPORTED"),
];

/// What the placeholders stand for.
struct Filling(Vec<(&'static str, String)>);

impl Filling {
    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
    }
}

/// A repository with an image tagged v1 and a spare blob, and another one with a blob to mount.
async fn prepare(lab: &Lab) -> Filling {
    let source = lab.beside("source");
    lab.upload(BLOB.as_bytes()).await;
    let image = super::lab::image_of(BLOB.as_bytes(), BLOB.as_bytes());
    let kept = lab.keep("v1", &image).await;
    Filling(vec![
        ("{name}", lab.name.clone()),
        ("{source}", source.name.clone()),
        ("{manifest}", kept.digest.to_string()),
        ("{blob}", Digest::sha256(BLOB.as_bytes()).to_string()),
        ("{spare}", lab.upload(b"spare").await.to_string()),
        ("{mounted}", source.upload(b"mounted").await.to_string()),
        ("{absent}", Digest::sha256(b"absent").to_string()),
        ("{image}", image.to_string()),
        ("{session}", lab.begin().await),
    ])
}

/// Sends a row's request and holds the answer to it.
async fn ask(lab: &Lab, row: &Row) {
    let filling = prepare(lab).await;
    let (target, body) = (filling.fill(row.target), filling.fill(row.body));
    let answer = lab.send(row.method, &target, row.headers, body.as_bytes()).await;
    let code = answer.error_code().unwrap_or_default();
    let (name, part) = row.header;
    let wanted = filling.fill(part);
    let has_header = name.is_empty() || answer.header(name).is_some_and(|value| value.contains(&wanted));
    let right = answer.status == row.status && (row.code.is_empty() || code == row.code) && has_header;
    let got = format!("{} {code} {:?}", answer.status, answer.head.headers);
    assert!(right, "{target}: expected {} {} {name} {wanted}\n    got {got}", row.status, row.code);
}

#[tokio::test]
async fn every_endpoint_answers_with_its_statuses() {
    let edge = hosting().start().await;
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let lab = Lab::new(edge.client.clone(), format!("spec/row-{number}"));
        if let Some(why) = panics(ask(&lab, row)).await {
            wrong.push(format!("{} {} {}\n    {why}", row.endpoint, row.method, row.target));
        }
    }
    edge.finish().await;
    assert!(wrong.is_empty(), "{} of {} rows are wrong:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

/// Each endpoint of the specification's table stands in a row.
#[test]
fn no_endpoint_is_left_out() {
    let walked: std::collections::BTreeSet<&str> = ROWS.iter().map(|row| row.endpoint).collect();
    for endpoint in [
        "end-1", "end-2", "end-3", "end-4a", "end-4b", "end-4c", "end-5", "end-6", "end-7a", "end-7b", "end-8a", "end-8b", "end-9",
        "end-10", "end-11", "end-12a", "end-12b", "end-13", "end-14",
    ] {
        assert!(walked.contains(endpoint), "{endpoint}");
    }
}

/// What may be done without signing in, with a password, and with one that may only read.
#[tokio::test]
async fn unauthorized_and_denied() {
    let settings = Settings::new()
        .access("anonymous_pull = [\"open/**\", \"canary.test/**\"]\nanonymous_push = []")
        .table("[bucket]\nurl = \"memory://\"");
    let password = settings.file("password", "secret");
    let principal =
        |name: &str, grants: &str| format!("[[principal]]\nname = \"{name}\"\npassword_files = [\"{}\"]\n{grants}", password.display());
    let settings =
        settings.table(&principal("writer", "push = [\"open/**\", \"team/**\"]")).table(&principal("reader", "pull = [\"team/**\"]"));
    let edge = settings.start().await;
    let signed = |name: &str| {
        use base64::Engine;
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{name}:secret")))
    };
    let lab = Lab::new(edge.client.clone(), "team/app".to_owned());
    let digest = Digest::sha256(b"x");
    for (user, push, status, code) in [
        (None, "team/app", 401, "UNAUTHORIZED"),
        (None, "open/app", 401, "UNAUTHORIZED"),
        (Some("reader"), "team/app", 403, "DENIED"),
        (Some("reader"), "open/app", 403, "DENIED"),
        (Some("reader"), "other/app", 404, "NAME_UNKNOWN"),
        (Some("writer"), "team/app", 202, ""),
        (Some("writer"), "open/app", 202, ""),
    ] {
        let authorization = user.map(signed);
        let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let answer = lab.send("POST", &format!("/v2/{push}/blobs/uploads/"), &headers, b"").await;
        assert_eq!((answer.status, answer.error_code().unwrap_or_default().as_str()), (status, code), "{user:?} {push}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        if status == 202 {
            continue;
        }
        for (method, rest) in
            [("PUT", "manifests/v1".to_owned()), ("DELETE", "manifests/v1".to_owned()), ("DELETE", format!("blobs/{digest}"))]
        {
            expect(&lab.send(method, &format!("/v2/{push}/{rest}"), &headers, b"").await, status);
        }
    }
    edge.finish().await;
}
