//! "Listing Tags", "Listing Referrers", "Content Management".

use std::collections::BTreeSet;

use outport::oci::Digest;
use serde_json::{Value, json};

use super::lab::{CONFIG, IMAGE, INDEX, Kept, Lab, expect, image_of, refused, sha512, with};
use super::{Clause, clauses, walk};

/// Pushes one image under many tags.
async fn tagged(lab: &Lab, tags: &[&str]) {
    let manifest = lab.prepared("tagged").await.to_string();
    for tag in tags {
        expect(&lab.put(tag, IMAGE, manifest.as_bytes()).await, 201);
    }
}

/// Pushes an artifact about `subject`.
async fn about(lab: &Lab, subject: &Kept, text: &str, artifact_type: Option<&str>) -> Kept {
    let manifest = with(lab.prepared(text).await, "subject", subject.descriptor());
    let manifest = with(manifest, "annotations", json!({ "org.example.text": text }));
    let manifest = match artifact_type {
        Some(artifact_type) => with(manifest, "artifactType", artifact_type),
        None => manifest,
    };
    lab.keep_untagged(&manifest).await
}

fn digests(descriptors: &[Value]) -> BTreeSet<String> {
    descriptors.iter().map(|descriptor| descriptor["digest"].as_str().expect("a digest").to_owned()).collect()
}

fn named(kept: &[&Kept]) -> BTreeSet<String> {
    kept.iter().map(|kept| kept.digest.to_string()).collect()
}

const TAGS: &[Clause] = clauses! {
    "end-8a" "Assuming a repository is found, this request MUST return 200 OK; the tags MUST be in lexical or ASCIIbetical order." |lab| {
        tagged(&lab, &["b", "a", "C", "v10", "v2", "_x"]).await;
        assert_eq!(lab.tags().await, ["C", "_x", "a", "b", "v10", "v2"]);
        assert_eq!(lab.get("tags/list").await.header("link"), None);
    }
    "end-8a" "The list of tags MAY be empty if there are no tags on the repository." |lab| {
        let manifest = lab.prepared("untagged").await;
        lab.keep_untagged(&manifest).await;
        assert_eq!(lab.tags().await, Vec::<String>::new());
    }
    "end-8a" "An attempt to pull a nonexistent repository MUST return response code 404 Not Found." |lab| {
        refused(&lab.get("tags/list").await, 404, "NAME_UNKNOWN");
        refused(&lab.get("manifests/latest").await, 404, "MANIFEST_UNKNOWN");
    }
    "end-8b" "The response MUST include <int> results, or a Link header set according to RFC 5988 with rel=next." |lab| {
        tagged(&lab, &["a", "b", "c", "d", "e"]).await;
        for (size, pages) in [(1, 5), (2, 3), (4, 2), (5, 1), (6, 1)] {
            let (tags, count) = lab.pages(&lab.at(format!("tags/list?n={size}")), "tags").await;
            assert_eq!((json!(tags), count), (json!(["a", "b", "c", "d", "e"]), pages), "{size}");
        }
    }
    "end-8b" "When n is zero, this endpoint MUST return an empty list, and MUST NOT include a Link header." |lab| {
        tagged(&lab, &["a"]).await;
        let answer = lab.get("tags/list?n=0").await;
        expect(&answer, 200);
        assert_eq!((&answer.json()["tags"], answer.header("link")), (&json!([]), None));
    }
    "end-8b" "<tagname> will not be included in the results, but up to <int> tags after <tagname> will be returned; n is OPTIONAL." |lab| {
        tagged(&lab, &["a", "b", "c", "d"]).await;
        for (query, tags) in [
            ("n=2&last=a", json!(["b", "c"])),
            ("last=b", json!(["c", "d"])),
            ("last=bb", json!(["c", "d"])),
            ("last=d", json!([])),
            ("n=9&last=zzz", json!([])),
        ] {
            let answer = lab.get(format!("tags/list?{query}")).await;
            expect(&answer, 200);
            assert_eq!(answer.json()["tags"], tags, "{query}");
        }
    }
    "end-8b" "<int> is an integer." |lab| {
        tagged(&lab, &["a"]).await;
        for n in ["-1", "many", ""] {
            expect(&lab.get(format!("tags/list?n={n}")).await, 400);
        }
        expect(&lab.get("tags/list?n=99999999999999999999").await, 200);
    }
};

const REFERRERS: &[Clause] = clauses! {
    "end-12a" "If a query results in no matching referrers, an empty manifest list MUST be returned; the registry MUST NOT return a 404." |lab| {
        assert!(lab.referrers(&Digest::sha256(b"of an unknown repository")).await.is_empty());
        let image = lab.image("v1").await;
        for subject in [image.digest, Digest::sha256(b"unknown"), sha512(b"unknown")] {
            assert!(lab.referrers(&subject).await.is_empty());
        }
    }
    "end-12a" "If the request is invalid, such as a <digest> with an invalid syntax, a 400 Bad Request MUST be returned." |lab| {
        for digest in ["sha256:baddigeststring", "latest", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            refused(&lab.get(format!("referrers/{digest}")).await, 400, "DIGEST_INVALID");
        }
    }
    "end-12a" "Each descriptor is of a manifest with a subject field that specifies <digest>; it MUST include the artifactType and annotations." |lab| {
        let subject = lab.image("v1").await;
        let typed = about(&lab, &subject, "typed", Some("example/sbom")).await;
        let untyped = about(&lab, &subject, "untyped", None).await;
        let other = lab.image("other").await;
        about(&lab, &other, "of another", Some("example/sbom")).await;
        let list = lab.referrers(&subject.digest).await;
        assert_eq!(digests(&list), named(&[&typed, &untyped]));
        for entry in list {
            let (kept, artifact_type, text) = match entry["digest"] == typed.digest.to_string().as_str() {
                true => (&typed, "example/sbom", "typed"),
                // "If the artifactType is empty or missing, the value MUST be set to the config descriptor mediaType value."
                false => (&untyped, CONFIG, "untyped"),
            };
            assert_eq!((&entry["artifactType"], &entry["size"]), (&json!(artifact_type), &json!(kept.bytes.len())));
            assert_eq!((&entry["mediaType"], &entry["annotations"]), (&json!(IMAGE), &json!({ "org.example.text": text })));
        }
    }
    "end-12a" "If the artifactType is empty or missing in an index, the artifactType MUST be omitted." |lab| {
        let subject = lab.image("v1").await;
        let index = |text: &str| {
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject.descriptor(), "annotations": { "text": text } })
        };
        lab.keep_untagged(&index("missing")).await;
        lab.keep_untagged(&with(index("empty"), "artifactType", "")).await;
        lab.keep_untagged(&with(index("there"), "artifactType", "example/set")).await;
        let list = lab.referrers(&subject.digest).await;
        assert_eq!(list.len(), 3);
        for entry in list {
            assert_eq!(entry["mediaType"], INDEX);
            let expected = if entry["annotations"]["text"] == "there" { json!("example/set") } else { Value::Null };
            assert_eq!(entry.get("artifactType").unwrap_or(&Value::Null), &expected);
        }
    }
    "end-12a" "Docker images and artifact manifests refer too; a subject may be known by its sha512." |lab| {
        let image = lab.prepared("subject").await.to_string();
        let subject = sha512(image.as_bytes());
        expect(&lab.put(&subject.to_string(), IMAGE, image.as_bytes()).await, 201);
        let described = json!({ "mediaType": IMAGE, "digest": subject.to_string(), "size": image.len() });
        let artifact = json!({
            "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "example/x", "blobs": [], "subject": described
        });
        let docker = with(lab.prepared("docker").await, "mediaType", "application/vnd.docker.distribution.manifest.v2+json");
        let kept = [lab.keep_untagged(&artifact).await, lab.keep_untagged(&with(docker, "subject", described)).await];
        assert_eq!(digests(&lab.referrers(&subject).await), named(&[&kept[0], &kept[1]]));
    }
    "end-12b" "If filtering is requested and applied, the response MUST include a header OCI-Filters-Applied: artifactType." |lab| {
        let subject = lab.image("v1").await;
        let sbom = about(&lab, &subject, "sbom", Some("application/vnd.example.sbom.v1+json")).await;
        let untyped = about(&lab, &subject, "untyped", None).await;
        about(&lab, &subject, "signature", Some("example/signature")).await;
        for (artifact_type, expected) in [
            ("application/vnd.example.sbom.v1%2Bjson", named(&[&sbom])),
            ("application/vnd.example.sbom.v1+json", named(&[&sbom])),
            ("application%2Fvnd.oci.image.config.v1%2Bjson", named(&[&untyped])),
            ("example/none", named(&[])),
        ] {
            let answer = lab.get(format!("referrers/{}?artifactType={artifact_type}", subject.digest)).await;
            expect(&answer, 200);
            assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
            assert_eq!(answer.header("content-type"), Some(INDEX));
            assert_eq!(digests(answer.json()["manifests"].as_array().expect("a list")), expected, "{artifact_type}");
        }
        let whole = lab.get(format!("referrers/{}", subject.digest)).await;
        assert_eq!((whole.header("oci-filters-applied"), whole.json()["manifests"].as_array().map(Vec::len)), (None, Some(3)));
    }
    "end-12a" "A Link header MUST be included in the response when the descriptor list cannot be returned in a single manifest." |lab| {
        const MIB: usize = 1 << 20;
        let subject = lab.image("v1").await;
        let (config, mut expected) = (lab.upload(b"{}").await, BTreeSet::new());
        assert_eq!(config, Digest::sha256(b"{}"));
        for number in 0..6 {
            // Six of a megabyte each: more than a manifest of 4 MiB can list.
            let annotations = json!({ "org.example.long": format!("{number}{}", "x".repeat(MIB)) });
            let manifest = with(with(image_of(b"{}", b"{}"), "subject", subject.descriptor()), "annotations", annotations);
            expected.insert(lab.keep_untagged(&manifest).await.digest.to_string());
        }
        for query in ["", "?artifactType=application/vnd.oci.image.config.v1%2Bjson"] {
            let first = lab.at(format!("referrers/{}{query}", subject.digest));
            let page = lab.send("GET", &first, &[], b"").await;
            assert!(page.body.len() <= 4 * MIB && page.header("link").is_some(), "{} bytes", page.body.len());
            let (list, pages) = lab.pages(&first, "manifests").await;
            assert!(pages > 1 && list.len() == expected.len(), "different descriptors in each: {} on {pages} pages", list.len());
            assert_eq!(digests(&list), expected);
        }
    }
    "end-12a" "A referrer that is deleted is listed no longer; one whose subject is deleted still is." |lab| {
        let subject = lab.image("v1").await;
        let (one, other) = (about(&lab, &subject, "one", None).await, about(&lab, &subject, "other", None).await);
        expect(&lab.delete(format!("manifests/{}", one.digest)).await, 202);
        assert_eq!(digests(&lab.referrers(&subject.digest).await), named(&[&other]));
        expect(&lab.delete(format!("manifests/{}", subject.digest)).await, 202);
        assert_eq!(digests(&lab.referrers(&subject.digest).await), named(&[&other]));
    }
};

const DELETING: &[Clause] = clauses! {
    "end-9" "To delete a tag: upon success 202 Accepted. Once deleted, a GET to the tag will return a 404; the manifest stays." |lab| {
        let image = lab.image("v1").await;
        expect(&lab.put("v2", IMAGE, &image.bytes).await, 201);
        expect(&lab.delete("manifests/v1").await, 202);
        refused(&lab.get("manifests/v1").await, 404, "MANIFEST_UNKNOWN");
        expect(&lab.get("manifests/v2").await, 200);
        expect(&lab.get(format!("manifests/{}", image.digest)).await, 200);
        assert_eq!(lab.tags().await, ["v2"]);
        refused(&lab.delete("manifests/v1").await, 404, "MANIFEST_UNKNOWN");
    }
    "end-9" "Once a manifest is deleted, a GET to its digest and any tag pointing to that digest will return a 404." |lab| {
        let (image, other) = (lab.image("v1").await, lab.image("other").await);
        expect(&lab.put("v2", IMAGE, &image.bytes).await, 201);
        expect(&lab.delete(format!("manifests/{}", image.digest)).await, 202);
        for reference in ["v1".to_owned(), "v2".to_owned(), image.digest.to_string()] {
            refused(&lab.get(format!("manifests/{reference}")).await, 404, "MANIFEST_UNKNOWN");
            expect(&lab.head(format!("manifests/{reference}")).await, 404);
        }
        assert_eq!(lab.tags().await, ["other"]);
        expect(&lab.get(format!("manifests/{}", other.digest)).await, 200);
        refused(&lab.delete(format!("manifests/{}", image.digest)).await, 404, "MANIFEST_UNKNOWN");
    }
    "end-9" "If the repository does not exist, the response MUST return 404 Not Found." |lab| {
        expect(&lab.delete(format!("manifests/{}", Digest::sha256(b"x"))).await, 404);
        expect(&lab.delete("manifests/latest").await, 404);
        expect(&lab.delete(format!("blobs/{}", Digest::sha256(b"x"))).await, 404);
    }
    "end-9" "What was deleted can be pushed again." |lab| {
        let image = lab.image("v1").await;
        expect(&lab.delete(format!("manifests/{}", image.digest)).await, 202);
        expect(&lab.put("v1", IMAGE, &image.bytes).await, 201);
        assert_eq!(lab.get("manifests/v1").await.body, image.bytes);
    }
    "end-10" "Upon success, the registry MUST respond with code 202 Accepted. If the blob is not found, a 404 Not Found code MUST be returned." |lab| {
        let beside = lab.beside("beside");
        for digest in [lab.upload(b"to be deleted").await, lab.upload_as(sha512(b"to be deleted"), b"to be deleted").await] {
            let mounted = beside.send("POST", &beside.at(format!("blobs/uploads/?mount={digest}&from={}", lab.name)), &[], b"").await;
            expect(&mounted, 201);
            expect(&lab.delete(format!("blobs/{digest}")).await, 202);
            refused(&lab.get(format!("blobs/{digest}")).await, 404, "BLOB_UNKNOWN");
            refused(&lab.delete(format!("blobs/{digest}")).await, 404, "BLOB_UNKNOWN");
            assert!(beside.has_blob(&digest).await, "another repository keeps it");
        }
    }
    "end-10" "A blob that a manifest needs is not deleted (405); once that is deleted, it is." |lab| {
        let image = lab.image("v1").await;
        let layer = Digest::sha256(b"layer of v1");
        refused(&lab.delete(format!("blobs/{layer}")).await, 405, "UNSUPPORTED");
        assert!(lab.has_blob(&layer).await);
        expect(&lab.delete(format!("manifests/{}", image.digest)).await, 202);
        expect(&lab.delete(format!("blobs/{layer}")).await, 202);
        refused(&lab.put("v1", IMAGE, &image.bytes).await, 404, "MANIFEST_BLOB_UNKNOWN");
    }
};

#[tokio::test]
async fn tags_are_listed() {
    walk(TAGS).await;
}

#[tokio::test]
async fn referrers_are_listed() {
    walk(REFERRERS).await;
}

#[tokio::test]
async fn content_is_deleted() {
    walk(DELETING).await;
}
