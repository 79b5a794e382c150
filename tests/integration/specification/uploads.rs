//! "Pushing blobs", "Mounting a blob from another repository", "Cancel a blob upload".

use outport::oci::Digest;

use super::lab::{Lab, and, expect, location, refused, sha512};
use super::{Clause, clauses, walk};

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// Whether a blob can be pulled, whole, from where a Location says it is.
async fn pullable(lab: &Lab, location: &str, bytes: &[u8]) {
    let pulled = lab.send("GET", location, &[], b"").await;
    expect(&pulled, 200);
    assert_eq!(pulled.body, bytes);
}

const PUSHING: &[Clause] = clauses! {
    "end-4a" "Upon success, the response MUST have a code of 202 Accepted, and MUST include the Location header." |lab| {
        let answer = lab.send("POST", &lab.at("blobs/uploads/"), &[], b"").await;
        expect(&answer, 202);
        assert_ne!(location(&answer), location(&lab.send("POST", &lab.at("blobs/uploads/"), &[], b"").await), "a unique session");
    }
    "end-6" "Upon successful completion of the request, the response MUST have code 201 Created and MUST have a Location: a pullable blob URL." |lab| {
        let (bytes, digest) = (b"POST then PUT", Digest::sha256(b"POST then PUT"));
        let session = lab.begin().await;
        let answer = lab.close(&session, &digest, &[OCTETS], bytes).await;
        expect(&answer, 201);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        pullable(&lab, &location(&answer), bytes).await;
    }
    "end-6" "A blob of no bytes is a blob." |lab| {
        let session = lab.begin().await;
        let answer = lab.close(&session, &Digest::sha256(b""), &[], b"").await;
        expect(&answer, 201);
        pullable(&lab, &location(&answer), b"").await;
    }
    "end-6" "The Digest MUST match the blob's digest: if the client provided digest is invalid, 400 Bad Request; nothing is kept." |lab| {
        let session = lab.begin().await;
        refused(&lab.close(&session, &Digest::sha256(b"other"), &[], b"bytes").await, 400, "DIGEST_INVALID");
        assert!(!lab.has_blob(&Digest::sha256(b"other")).await && !lab.has_blob(&Digest::sha256(b"bytes")).await);
    }
    "end-6" "If the client provided digest is invalid or uses an unsupported algorithm, the registry SHOULD respond with 400 Bad Request." |lab| {
        let upper = format!("sha256:{}", "A".repeat(64));
        for digest in ["sha256:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e", "latest", "", upper.as_str()] {
            let session = lab.begin().await;
            refused(&lab.send("PUT", &and(&session, &format!("digest={digest}")), &[], b"x").await, 400, "DIGEST_INVALID");
        }
        let session = lab.begin().await;
        refused(&lab.send("PUT", &session, &[], b"x").await, 400, "DIGEST_INVALID");
    }
    "end-4b" "Successful completion of the request MUST return a 201 Created and MUST include a Location: a pullable blob URL." |lab| {
        let (bytes, digest) = (b"single POST", Digest::sha256(b"single POST"));
        let answer = lab.send("POST", &lab.at(format!("blobs/uploads/?digest={digest}")), &[OCTETS], bytes).await;
        expect(&answer, 201);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        pullable(&lab, &location(&answer), bytes).await;
    }
    "end-4b" "The <digest> MUST match the blob's digest." |lab| {
        let target = lab.at(format!("blobs/uploads/?digest={}", Digest::sha256(b"other")));
        refused(&lab.send("POST", &target, &[OCTETS], b"bytes").await, 400, "DIGEST_INVALID");
        assert!(!lab.has_blob(&Digest::sha256(b"other")).await && !lab.has_blob(&Digest::sha256(b"bytes")).await);
    }
    "end-4c" "<algorithm>: the algorithm the registry should use for the blob, e.g. digest-algorithm=sha512." |lab| {
        let answer = lab.send("POST", &lab.at("blobs/uploads/?digest-algorithm=sha512"), &[], b"").await;
        expect(&answer, 202);
        let digest = sha512(b"in two chunks");
        let first = lab.patch(&location(&answer), "0-5", b"in two").await;
        expect(&first, 202);
        expect(&lab.close(&location(&first), &digest, &[("Content-Range", "6-12")], b" chunks").await, 201);
        pullable(&lab, &lab.at(format!("blobs/{digest}")), b"in two chunks").await;
        refused(&lab.send("POST", &lab.at("blobs/uploads/?digest-algorithm=md5"), &[], b"").await, 400, "DIGEST_INVALID");
    }
    "end-4a, end-4b" "sha512 works by every way, announced or not, and a blob is known by the digest it was pushed under." |lab| {
        for (number, way) in ["put", "post", "patch"].into_iter().enumerate() {
            let bytes = format!("sha512 by {way} {number}").into_bytes();
            let digest = sha512(&bytes);
            let answer = match way {
                "put" => lab.close(&lab.begin().await, &digest, &[], &bytes).await,
                "post" => lab.send("POST", &lab.at(format!("blobs/uploads/?digest={digest}")), &[], &bytes).await,
                _ => {
                    let chunk = lab.send("PATCH", &lab.begin().await, &[], &bytes).await;
                    lab.close(&location(&chunk), &digest, &[], b"").await
                }
            };
            expect(&answer, 201);
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()), "{way}");
            assert!(lab.has_blob(&digest).await, "{way}");
            pullable(&lab, &location(&answer), &bytes).await;
        }
    }
    "end-5" "The response for each successful chunk upload MUST be 202 Accepted, and MUST have Location and Range: 0-<end-of-range>, the position of the last uploaded byte of the blob." |lab| {
        let mut session = lab.begin().await;
        for (range, chunk, last) in [("0-4", &b"01234"[..], "0-4"), ("5-5", b"5", "0-5"), ("6-9", b"6789", "0-9")] {
            let answer = lab.patch(&session, range, chunk).await;
            expect(&answer, 202);
            assert_eq!(answer.header("range"), Some(last));
            session = location(&answer);
        }
        expect(&lab.close(&session, &Digest::sha256(b"0123456789"), &[], b"").await, 201);
        pullable(&lab, &lab.at(format!("blobs/{}", Digest::sha256(b"0123456789"))), b"0123456789").await;
    }
    "end-5" "The final chunk MAY be uploaded using a PATCH request or it MAY be uploaded in the closing PUT request." |lab| {
        let first = lab.patch(&lab.begin().await, "0-4", b"01234").await;
        let answer = lab.close(&location(&first), &Digest::sha256(b"0123456789"), &[OCTETS, ("Content-Range", "5-9")], b"56789").await;
        expect(&answer, 201);
        pullable(&lab, &location(&answer), b"0123456789").await;
    }
    "end-5 (streamed)" "A body without Content-Range, with a length or in HTTP chunks, is appended (issue 303 of the specification)." |lab| {
        let answer = lab.send_framed("PATCH", &lab.begin().await, &[("Transfer-Encoding", "chunked"), OCTETS], b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
        let answer = answer.expect("an answer");
        expect(&answer, 202);
        assert_eq!(answer.header("range"), Some("0-4"));
        let more = lab.send("PATCH", &location(&answer), &[OCTETS], b"fg").await;
        expect(&more, 202);
        assert_eq!(more.header("range"), Some("0-6"));
        let target = and(&location(&more), &format!("digest={}", Digest::sha256(b"abcdefghi")));
        let closed = lab.send_framed("PUT", &target, &[("Transfer-Encoding", "chunked")], b"2\r\nhi\r\n0\r\n\r\n").await.expect("an answer");
        expect(&closed, 201);
        pullable(&lab, &location(&closed), b"abcdefghi").await;
    }
    "end-5" "Chunks MUST be uploaded in order. If a chunk is uploaded out of order, the registry MUST respond with 416." |lab| {
        let session = lab.begin().await;
        expect(&lab.patch(&session, "5-9", b"56789").await, 416);
        let first = lab.patch(&session, "0-4", b"01234").await;
        expect(&first, 202);
        for (range, chunk) in [("0-4", &b"01234"[..]), ("6-9", b"6789"), ("4-8", b"45678"), ("99-103", b"xxxxx")] {
            expect(&lab.patch(&location(&first), range, chunk).await, 416);
        }
        // "A GET request may be used to retrieve the current valid offset and upload location."
        let status = lab.send("GET", &location(&first), &[], b"").await;
        expect(&status, 204);
        assert_eq!(status.header("range"), Some("0-4"));
        expect(&lab.patch(&location(&status), "5-9", b"56789").await, 202);
        expect(&lab.close(&location(&status), &Digest::sha256(b"0123456789"), &[], b"").await, 201);
    }
    "end-6" "If the final chunk is uploaded out of order, the registry MUST respond with 416; the session goes on." |lab| {
        let first = lab.patch(&lab.begin().await, "0-4", b"01234").await;
        let digest = Digest::sha256(b"0123456789");
        expect(&lab.close(&location(&first), &digest, &[("Content-Range", "6-9")], b"6789").await, 416);
        expect(&lab.close(&location(&first), &digest, &[("Content-Range", "0-4")], b"56789").await, 416);
        expect(&lab.close(&location(&first), &digest, &[("Content-Range", "5-9")], b"56789").await, 201);
    }
    "end-5" "<range> MUST match ^[0-9]+-[0-9]+$ and be inclusive on both ends; <length> is the length of the chunk." |lab| {
        let session = lab.begin().await;
        for range in ["bytes=0-4", "bytes 0-4/5", "0-", "-4", "4-0", "a-b", "0-99999999999999999999"] {
            expect(&lab.patch(&session, range, b"01234").await, 416);
        }
        for (range, chunk) in [("0-5", &b"01234"[..]), ("0-3", b"01234"), ("0-0", b"")] {
            refused(&lab.patch(&session, range, chunk).await, 400, "SIZE_INVALID");
        }
        expect(&lab.patch(&session, "0-4", b"01234").await, 202);
    }
    "end-13" "The response to an active upload MUST be 204 No Content, and MUST have the headers Location and Range: 0-<end-of-range>." |lab| {
        let session = lab.begin().await;
        let status = lab.send("GET", &session, &[], b"").await;
        expect(&status, 204);
        assert_eq!((status.header("range"), status.header("content-length")), (Some("0-0"), None));
        let first = lab.patch(&location(&status), "0-9", b"0123456789").await;
        let status = lab.send("GET", &location(&first), &[], b"").await;
        expect(&status, 204);
        assert_eq!(status.header("range"), Some("0-9"));
    }
    "end-13" "A location obtained from any preceding POST or PATCH is good for the status." |lab| {
        let session = lab.begin().await;
        let first = lab.patch(&session, "0-4", b"01234").await;
        let second = lab.patch(&location(&first), "5-9", b"56789").await;
        for target in [session, location(&first), location(&second)] {
            let status = lab.send("GET", &target, &[], b"").await;
            expect(&status, 204);
            assert_eq!(status.header("range"), Some("0-9"));
        }
    }
    "end-14" "If successful, the response SHOULD be a 204 No Content; afterwards the session is not there." |lab| {
        let first = lab.patch(&lab.begin().await, "0-4", b"01234").await;
        let session = location(&first);
        expect(&lab.send("DELETE", &session, &[], b"").await, 204);
        for method in ["GET", "PATCH", "DELETE"] {
            refused(&lab.send(method, &session, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
        }
        refused(&lab.close(&session, &Digest::sha256(b"01234"), &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
        assert!(!lab.has_blob(&Digest::sha256(b"01234")).await);
    }
    "end-5, end-6, end-13, end-14" "404: an unknown session, one with another state, or another repository's; the true one goes on." |lab| {
        let session = lab.begin().await;
        let (path, query) = session.split_once('?').unwrap_or((&session, ""));
        let other = lab.beside("other");
        let moved = session.replacen(&lab.name, &other.name, 1);
        let swapped = lab.begin().await.split_once('?').map(|(path, _)| format!("{path}?{query}")).unwrap_or_default();
        let tampered = format!("{}x", session);
        for target in [path, &moved, &swapped, &tampered, &lab.at("blobs/uploads/00000000-0000-0000-0000-000000000000")] {
            let digest = Digest::sha256(b"x");
            refused(&lab.send("GET", target, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
            refused(&lab.send("PATCH", target, &[], b"x").await, 404, "BLOB_UPLOAD_UNKNOWN");
            refused(&lab.close(target, &digest, &[], b"x").await, 404, "BLOB_UPLOAD_UNKNOWN");
            refused(&lab.send("DELETE", target, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
        }
        expect(&lab.close(&session, &Digest::sha256(b"x"), &[], b"x").await, 201);
    }
    "end-6" "A session is closed with its PUT." |lab| {
        let (session, digest) = (lab.begin().await, Digest::sha256(b"once"));
        expect(&lab.close(&session, &digest, &[], b"once").await, 201);
        let again = lab.close(&session, &digest, &[], b"once").await;
        assert!(matches!(again.status, 201 | 404), "{}", again.status);
        refused(&lab.patch(&session, "0-3", b"more").await, 404, "BLOB_UPLOAD_UNKNOWN");
        pullable(&lab, &lab.at(format!("blobs/{digest}")), b"once").await;
    }
    "Layer Upload De-duplication" "If process A and B upload the same layer at the same time, both operations will proceed." |lab| {
        let (one, other, digest) = (lab.begin().await, lab.begin().await, Digest::sha256(b"the same layer"));
        let first = lab.patch(&one, "0-3", b"the ").await;
        expect(&first, 202);
        expect(&lab.close(&other, &digest, &[], b"the same layer").await, 201);
        expect(&lab.close(&location(&first), &digest, &[("Content-Range", "4-13")], b"same layer").await, 201);
    }
};

const MOUNTING: &[Clause] = clauses! {
    "end-11" "The response to a successful mount MUST be 201 Created, and MUST contain a Location." |lab| {
        let source = lab.beside("source");
        for digest in [source.upload(b"mounted").await, source.upload_as(sha512(b"mounted"), b"mounted").await] {
            assert!(!lab.has_blob(&digest).await, "a blob is seen in the repositories that it was pushed to");
            let answer = lab.send("POST", &lab.at(format!("blobs/uploads/?mount={digest}&from={}", source.name)), &[], b"").await;
            expect(&answer, 201);
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
            pullable(&lab, &location(&answer), b"mounted").await;
            assert!(lab.has_blob(&digest).await);
        }
    }
    "end-11" "The registry MAY treat the from parameter as optional, and it MAY cross-mount the blob if it can be found." |lab| {
        let digest = lab.beside("source").upload(b"mounted without from").await;
        let answer = lab.send("POST", &lab.at(format!("blobs/uploads/?mount={digest}")), &[], b"").await;
        expect(&answer, 201);
        pullable(&lab, &location(&answer), b"mounted without from").await;
    }
    "end-11" "If a registry is unable to mount the requested blob, it SHOULD return a 202: the upload session has begun." |lab| {
        let source = lab.beside("source");
        source.upload(b"something").await;
        let absent = Digest::sha256(b"absent");
        let present = Digest::sha256(b"something");
        let name = source.name.as_str();
        for query in [
            format!("mount={absent}&from={name}"),
            format!("mount={absent}&from=no/such/repository"),
            format!("mount={absent}"),
            format!("mount={present}&from=no/such/repository"),
            format!("mount={present}&from=..%2Fx"),
            format!("mount={present}&from="),
        ] {
            let answer = lab.send("POST", &lab.at(format!("blobs/uploads/?{query}")), &[], b"").await;
            expect(&answer, 202);
            assert!(!lab.has_blob(&present).await, "{query}");
            let bytes = format!("after {query}").into_bytes();
            expect(&lab.close(&location(&answer), &Digest::sha256(&bytes), &[], &bytes).await, 201);
        }
    }
    "end-11" "A mount of what is here already is a mount." |lab| {
        let digest = lab.upload(b"here").await;
        expect(&lab.send("POST", &lab.at(format!("blobs/uploads/?mount={digest}&from={}", lab.name)), &[], b"").await, 201);
    }
};

#[tokio::test]
async fn blobs_are_pushed() {
    walk(PUSHING).await;
}

#[tokio::test]
async fn blobs_are_mounted() {
    walk(MOUNTING).await;
}
