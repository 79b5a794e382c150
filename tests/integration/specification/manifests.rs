//! "Pushing Manifests", "Pushing Manifests with Subject", and what pulls of them answer.

use outport::oci::Digest;
use serde_json::{Value, json};

use super::lab::{CONFIG, IMAGE, INDEX, LAYER, Lab, and, descriptor, expect, image_of, location, refused, sha512, with};
use super::{Clause, clauses, walk};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MIB: usize = 1 << 20;

fn index_of(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// Whether a reference leads to these very bytes, by GET and by HEAD.
async fn pulls(lab: &Lab, reference: &str, media_type: &str, bytes: &[u8]) {
    let target = format!("manifests/{reference}");
    let (got, head) = (lab.get(&target).await, lab.head(&target).await);
    expect(&got, 200);
    expect(&head, 200);
    assert_eq!(got.body, bytes);
    for answer in [&got, &head] {
        assert_eq!(answer.header("content-type"), Some(media_type));
        assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        let digest: Digest = answer.header("docker-content-digest").expect("a digest").parse().expect("one of ours");
        assert_eq!(digest, Digest::of(digest.algorithm(), bytes));
    }
}

const PUSHING: &[Clause] = clauses! {
    "end-7a" "Upon a successful upload, the registry MUST return response code 201 Created, and MUST have a Location: a pullable manifest URL." |lab| {
        let manifest = lab.prepared("created").await.to_string();
        for reference in ["v1".to_owned(), Digest::sha256(manifest.as_bytes()).to_string()] {
            let answer = lab.put(&reference, IMAGE, manifest.as_bytes()).await;
            expect(&answer, 201);
            assert_eq!(answer.header("docker-content-digest"), Some(Digest::sha256(manifest.as_bytes()).to_string().as_str()));
            let pulled = lab.send("GET", &location(&answer), &[], b"").await;
            assert_eq!(pulled.body, manifest.as_bytes());
        }
    }
    "end-7a" "The registry MUST store the manifest in the exact byte representation provided by the client." |lab| {
        let manifest = lab.prepared("exact").await;
        let pretty = format!("\n{}\n\t ", serde_json::to_string_pretty(&manifest).expect("JSON"));
        expect(&lab.put("exact", IMAGE, pretty.as_bytes()).await, 201);
        pulls(&lab, "exact", IMAGE, pretty.as_bytes()).await;
        pulls(&lab, &Digest::sha256(pretty.as_bytes()).to_string(), IMAGE, pretty.as_bytes()).await;
    }
    "end-7a" "The registry SHOULD ignore parameters on the Content-Type header, and SHOULD NOT include them in its own." |lab| {
        let manifest = lab.prepared("parameters").await.to_string();
        expect(&lab.put("v1", &format!("{IMAGE}; charset=utf-8"), manifest.as_bytes()).await, 201);
        pulls(&lab, "v1", IMAGE, manifest.as_bytes()).await;
    }
    "end-7a" "If a manifest includes a mediaType field, clients MUST set the Content-Type header to the value specified by it." |lab| {
        let manifest = lab.prepared("types").await;
        refused(&lab.put("v1", INDEX, manifest.to_string().as_bytes()).await, 400, "MANIFEST_INVALID");
        refused(&lab.put("v1", DOCKER_IMAGE, manifest.to_string().as_bytes()).await, 400, "MANIFEST_INVALID");
        let mut untyped = manifest;
        untyped.as_object_mut().expect("an object").remove("mediaType");
        expect(&lab.put("v1", IMAGE, untyped.to_string().as_bytes()).await, 201);
        pulls(&lab, "v1", IMAGE, untyped.to_string().as_bytes()).await;
    }
    "end-7a" "<tag-or-digest> MUST be either a digest or a tag: at most 128 characters of [a-zA-Z0-9_][a-zA-Z0-9._-]*." |lab| {
        let manifest = lab.prepared("tags").await.to_string();
        for tag in ["a", "_", "V1.2-rc_3", &"t".repeat(128)] {
            expect(&lab.put(tag, IMAGE, manifest.as_bytes()).await, 201);
            pulls(&lab, tag, IMAGE, manifest.as_bytes()).await;
        }
        for tag in [".a", "-a", "a%20b", "a+b", &"t".repeat(129)] {
            expect(&lab.put(tag, IMAGE, manifest.as_bytes()).await, 400);
            expect(&lab.get(format!("manifests/{tag}")).await, 404);
        }
    }
    "end-7a" "The Docker-Content-Digest MUST be equal to the client provided digest: a manifest is not kept under another." |lab| {
        let manifest = lab.prepared("digests").await.to_string();
        for digest in [Digest::sha256(b"other"), sha512(b"other")] {
            refused(&lab.put(&digest.to_string(), IMAGE, manifest.as_bytes()).await, 400, "DIGEST_INVALID");
            expect(&lab.get(format!("manifests/{digest}")).await, 404);
        }
        refused(&lab.put("sha256:baddigeststring", IMAGE, manifest.as_bytes()).await, 400, "DIGEST_INVALID");
    }
    "end-7a" "A tag is moved by a push; the manifest that it led to stays." |lab| {
        let (first, second) = (lab.image("one").await, lab.image("other").await);
        expect(&lab.put("one", IMAGE, &second.bytes).await, 201);
        pulls(&lab, "one", IMAGE, &second.bytes).await;
        pulls(&lab, &first.digest.to_string(), IMAGE, &first.bytes).await;
    }
    "end-7a" "A registry MAY reject a manifest with descriptors that reference a manifest or blob that does not exist; then it MUST result in MANIFEST_BLOB_UNKNOWN errors." |lab| {
        let (here, elsewhere) = (lab.upload(b"{}").await, lab.beside("elsewhere"));
        elsewhere.upload(b"layer").await;
        let absent = descriptor(LAYER, b"nowhere");
        for manifest in [
            image_of(b"{}", b"nowhere"),
            image_of(b"nowhere", b"{}"),
            image_of(b"{}", b"layer"),
            with(image_of(b"{}", b"{}"), "layers", vec![descriptor(LAYER, b"{}"), absent.clone()]),
            index_of(&[descriptor(IMAGE, b"nowhere")]),
            index_of(&[with(absent, "mediaType", INDEX)]),
            // A blob is no manifest.
            index_of(&[json!({ "mediaType": IMAGE, "digest": here.to_string(), "size": 2 })]),
        ] {
            let media_type = manifest["mediaType"].as_str().expect("a type").to_owned();
            refused(&lab.put("v1", &media_type, manifest.to_string().as_bytes()).await, 404, "MANIFEST_BLOB_UNKNOWN");
            expect(&lab.get("manifests/v1").await, 404);
        }
    }
    "end-7a" "The list of blobs MAY be empty." |lab| {
        lab.upload(b"{}").await;
        for layers in [json!([]), Value::Null] {
            let kept = lab.keep("v1", &with(image_of(b"{}", b""), "layers", layers)).await;
            pulls(&lab, "v1", IMAGE, &kept.bytes).await;
        }
    }
    "end-7a" "Client and registry implementations SHOULD expect to be able to support manifest pushes of at least 4 megabytes; above a limit, 413." |lab| {
        let mut manifest = lab.prepared("large").await.to_string().into_bytes();
        manifest.resize(4 * MIB, b' ');
        expect(&lab.put("large", IMAGE, &manifest).await, 201);
        pulls(&lab, "large", IMAGE, &manifest).await;
        manifest.push(b' ');
        expect(&lab.put("larger", IMAGE, &manifest).await, 413);
        expect(&lab.get("manifests/larger").await, 404);
    }
    "Manifest" "What is no manifest is refused." |lab| {
        let good = lab.prepared("good").await;
        for (media_type, body) in [
            (IMAGE, String::new()),
            (IMAGE, "<html>".to_owned()),
            (IMAGE, "[]".to_owned()),
            (IMAGE, format!("{good} {{}}")),
            (IMAGE, good.to_string().replacen('{', r#"{"schemaVersion":2,"#, 1)),
            (IMAGE, with(good.clone(), "manifests", json!([])).to_string()),
            (IMAGE, with(good.clone(), "schemaVersion", 1).to_string()),
            ("text/html", good.to_string()),
            ("application/vnd.example.unknown+json", with(good.clone(), "mediaType", "application/vnd.example.unknown+json").to_string()),
            (INDEX, with(index_of(&[]), "layers", json!([])).to_string()),
        ] {
            refused(&lab.put("v1", media_type, body.as_bytes()).await, 400, "MANIFEST_INVALID");
        }
        let mut lying = good;
        lying["layers"][0]["size"] = json!(1);
        refused(&lab.put("v1", IMAGE, lying.to_string().as_bytes()).await, 400, "MANIFEST_INVALID");
    }
    "image-spec, image-index.md" "Indexes list manifests, indexes among them; each is pulled by its digest." |lab| {
        let (one, other) = (lab.image("one").await, lab.image("other").await);
        let inner = lab.keep_untagged(&index_of(&[other.descriptor()])).await;
        let outer = lab.keep("outer", &index_of(&[one.descriptor(), inner.descriptor()])).await;
        for kept in [&one, &other, &inner, &outer] {
            pulls(&lab, &kept.digest.to_string(), &kept.media_type, &kept.bytes).await;
        }
        pulls(&lab, "outer", INDEX, &outer.bytes).await;
    }
    "image-spec, image-index.md" "An index whose manifests are not all here is kept where the operator allows it." |lab| {
        let sparse = lab.elsewhere("sparse/repository");
        let index = index_of(&[sparse.image("one").await.descriptor(), descriptor(IMAGE, b"another platform")]);
        let kept = sparse.keep("v1", &index).await;
        pulls(&sparse, "v1", INDEX, &kept.bytes).await;
        expect(&sparse.get(format!("manifests/{}", Digest::sha256(b"another platform"))).await, 404);
    }
    "Manifest (legacy manifests)" "Docker's schema 2 images and lists, and artifact manifests, are kept as they are." |lab| {
        let image = with(lab.prepared("docker").await, "mediaType", DOCKER_IMAGE);
        let image = lab.keep("image", &image).await;
        let list = lab.keep("list", &with(index_of(&[image.descriptor()]), "mediaType", DOCKER_LIST)).await;
        let artifact = "application/vnd.oci.artifact.manifest.v1+json";
        lab.upload(b"sbom").await;
        let artifact = json!({ "mediaType": artifact, "artifactType": "example/sbom", "blobs": [descriptor("text/plain", b"sbom")] });
        let artifact = lab.keep("artifact", &artifact).await;
        for (tag, kept) in [("image", image), ("list", list), ("artifact", artifact)] {
            pulls(&lab, tag, &kept.media_type, &kept.bytes).await;
        }
    }
    "image-spec, layer.md" "Layers that lie elsewhere are not demanded." |lab| {
        lab.upload(b"{}").await;
        let urls = json!(["https://store.example.com/blob"]);
        let layers = json!([
            with(descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"one"), "urls", urls.clone()),
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"two"),
            with(descriptor(LAYER, b"three"), "urls", urls),
        ]);
        let kept = lab.keep("foreign", &with(image_of(b"{}", b""), "layers", layers)).await;
        pulls(&lab, "foreign", IMAGE, &kept.bytes).await;
    }
    "image-spec, manifest.md and descriptor.md" "Fields that are not known, and data in descriptors, are kept." |lab| {
        lab.upload(b"{}").await;
        let config = with(descriptor(CONFIG, b"{}"), "data", "e30=");
        let kept = lab.keep("v1", &with(with(image_of(b"{}", b"{}"), "config", config), "org.example.custom", json!({ "a": [1, 2.5] }))).await;
        pulls(&lab, "v1", IMAGE, &kept.bytes).await;
    }
    "Digest" "A manifest pushed by a sha512 digest is pulled by it, and its answers tell that digest." |lab| {
        let (config, layer) = (b"{\"sha\":512}", b"layer of sha512");
        for bytes in [&config[..], layer] {
            lab.upload_as(sha512(bytes), bytes).await;
        }
        let named = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": sha512(bytes).to_string(), "size": bytes.len() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": named(CONFIG, config), "layers": [named(LAYER, layer)] });
        let bytes = manifest.to_string().into_bytes();
        let digest = sha512(&bytes);
        let answer = lab.put(&digest.to_string(), IMAGE, &bytes).await;
        expect(&answer, 201);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        pulls(&lab, &digest.to_string(), IMAGE, &bytes).await;
        assert_eq!(lab.get(format!("manifests/{digest}")).await.header("docker-content-digest"), Some(digest.to_string().as_str()));
    }
};

const TAGGING: &[Clause] = clauses! {
    "end-7b" "The registry MUST include an OCI-Tag response header for each accepted tag." |lab| {
        let manifest = lab.prepared("tagged").await.to_string();
        for digest in [Digest::sha256(manifest.as_bytes()), sha512(manifest.as_bytes())] {
            let tags: Vec<String> = ["1.2.3", "1.2", "1", "latest"].map(|tag| format!("{tag}-{}", digest.algorithm().as_str())).into();
            let target = tags.iter().fold(lab.at(format!("manifests/{digest}")), |target, tag| and(&target, &format!("tag={tag}")));
            let answer = lab.send("PUT", &target, &[("Content-Type", IMAGE)], manifest.as_bytes()).await;
            expect(&answer, 201);
            assert_eq!(accepted(&answer), tags);
            for tag in &tags {
                pulls(&lab, tag, IMAGE, manifest.as_bytes()).await;
            }
        }
    }
    "end-7b" "A registry SHOULD support pushing at least 10 tags per request, and MAY return 414 if too many tags are included." |lab| {
        let manifest = lab.prepared("many").await.to_string();
        let target = |count: usize| {
            let tags: Vec<String> = (0..count).map(|number| format!("tag={number:0>100}")).collect();
            lab.at(format!("manifests/{}?{}", Digest::sha256(manifest.as_bytes()), tags.join("&")))
        };
        let answer = lab.send("PUT", &target(10), &[("Content-Type", IMAGE)], manifest.as_bytes()).await;
        expect(&answer, 201);
        assert_eq!((accepted(&answer).len(), lab.tags().await.len()), (10, 10));
        expect(&lab.send("PUT", &target(300), &[("Content-Type", IMAGE)], manifest.as_bytes()).await, 414);
        assert_eq!(lab.tags().await.len(), 10);
    }
    "end-7b" "One tag that cannot be refuses them all." |lab| {
        let manifest = lab.prepared("bad").await.to_string();
        let target = lab.at(format!("manifests/{}?tag=good&tag=-bad", Digest::sha256(manifest.as_bytes())));
        expect(&lab.send("PUT", &target, &[("Content-Type", IMAGE)], manifest.as_bytes()).await, 400);
        expect(&lab.get("manifests/good").await, 404);
    }
    "end-7b" "Only a push by digest has tag parameters." |lab| {
        let manifest = lab.prepared("by tag").await.to_string();
        let answer = lab.send("PUT", &lab.at("manifests/one?tag=other"), &[("Content-Type", IMAGE)], manifest.as_bytes()).await;
        expect(&answer, 201);
        assert_eq!(accepted(&answer), Vec::<String>::new());
        assert_eq!(lab.tags().await, ["one"]);
    }
};

/// The tags of all OCI-Tag headers (RFC 9110, section 5: several headers are one list).
fn accepted(answer: &crate::harness::client::Response) -> Vec<String> {
    let headers = answer.head.headers.iter().filter(|(name, _)| name == "oci-tag");
    headers.flat_map(|(_, value)| value.split(',').map(|tag| tag.trim().to_owned()).collect::<Vec<_>>()).collect()
}

const SUBJECTS: &[Clause] = clauses! {
    "end-7a" "A registry that supports the referrers API MUST respond with OCI-Subject: <subject digest>." |lab| {
        let subject = lab.image("subject").await;
        let manifest = with(lab.prepared("about").await, "subject", subject.descriptor());
        let index = with(index_of(&[]), "subject", subject.descriptor());
        for (media_type, manifest) in [(IMAGE, manifest), (INDEX, index)] {
            let bytes = manifest.to_string();
            let answer = lab.put(&Digest::sha256(bytes.as_bytes()).to_string(), media_type, bytes.as_bytes()).await;
            expect(&answer, 201);
            assert_eq!(answer.header("oci-subject"), Some(subject.digest.to_string().as_str()));
        }
        let plain = lab.prepared("plain").await.to_string();
        assert_eq!(lab.put("plain", IMAGE, plain.as_bytes()).await.header("oci-subject"), None);
    }
    "Push" "A registry MUST initially accept an otherwise valid manifest with a subject field that references a manifest that does not exist." |lab| {
        for subject in [Digest::sha256(b"not here"), sha512(b"not here")] {
            let described = json!({ "mediaType": IMAGE, "digest": subject.to_string(), "size": 8 });
            let manifest = with(lab.prepared("early").await, "subject", described).to_string();
            let answer = lab.put(&Digest::sha256(manifest.as_bytes()).to_string(), IMAGE, manifest.as_bytes()).await;
            expect(&answer, 201);
            assert_eq!(answer.header("oci-subject"), Some(subject.to_string().as_str()));
            assert_eq!(lab.referrers(&subject).await.len(), 1);
        }
    }
};

#[tokio::test]
async fn manifests_are_pushed() {
    walk(PUSHING).await;
}

#[tokio::test]
async fn manifests_are_tagged_by_parameters() {
    walk(TAGGING).await;
}

#[tokio::test]
async fn manifests_have_subjects() {
    walk(SUBJECTS).await;
}
