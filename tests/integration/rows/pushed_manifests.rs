//! Manifests that are wrong or hostile, rows 52 to 61, over HTTP against whole edges.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use outport::oci::Digest;
use serde_json::json;
use tokio::net::TcpListener;

use super::MIB;
use crate::harness::client::Response;
use crate::harness::edge::{Settings, TestEdge};
use crate::specification::lab::{IMAGE, INDEX, LAYER, Lab, descriptor, expect, image_of, refused, sha512, with};

const MOST_BYTES: usize = 4 << 20;
/// What any one request on few things may take, on a busy machine and without optimisation.
const PROMPT: Duration = Duration::from_secs(3);

async fn hosted() -> (TestEdge, Lab) {
    let edge = Settings::new().open_to_pushes().start().await;
    let lab = Lab::new(edge.client.clone(), "rows/app".to_owned());
    (edge, lab)
}

/// JSON text made longer by spaces inside.
fn padded(manifest: &serde_json::Value, size: usize) -> Vec<u8> {
    let text = manifest.to_string();
    format!("{{{}{}", " ".repeat(size - text.len()), &text[1..]).into_bytes()
}

/// Nothing was kept under the tag or by the digest.
async fn is_absent(lab: &Lab, bytes: &[u8]) {
    for reference in ["v1".to_owned(), Digest::sha256(bytes).to_string(), sha512(bytes).to_string()] {
        expect(&lab.head(format!("manifests/{reference}")).await, 404);
    }
}

/// Each of these is refused with this status and code, and not kept.
async fn refuses(lab: &Lab, (status, code): (u16, &str), media_type: &str, manifests: impl IntoIterator<Item = Vec<u8>>) {
    for bytes in manifests {
        refused(&lab.put("v1", media_type, &bytes).await, status, code);
        is_absent(lab, &bytes).await;
    }
}

#[tokio::test]
async fn row_52_four_mebibytes_and_no_more() {
    let (edge, lab) = hosted().await;
    let image = lab.prepared("large").await;
    let (most, more) = (padded(&image, MOST_BYTES), padded(&image, MOST_BYTES + 1));
    refuses(&lab, (413, "SIZE_INVALID"), IMAGE, [more.clone()]).await;
    let chunked = [format!("{:x}\r\n", more.len()).as_bytes(), &more, b"\r\n0\r\n\r\n"].concat();
    let headers = [("Content-Type", IMAGE), ("Transfer-Encoding", "chunked")];
    let answer = lab.send_framed("PUT", &lab.at("manifests/v1"), &headers, &chunked).await.expect("an answer");
    refused(&answer, 413, "SIZE_INVALID");
    is_absent(&lab, &more).await;
    expect(&lab.put("v1", IMAGE, &most).await, 201);
    for reference in ["v1".to_owned(), Digest::sha256(&most).to_string()] {
        let answer = lab.get(format!("manifests/{reference}")).await;
        expect(&answer, 200);
        assert!(answer.body == most[..], "other bytes");
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_53_deep_and_wide_json() {
    let edge = Settings::new().open_to_pushes().spawn().await;
    let lab = Lab::new(edge.client.clone(), "rows/app".to_owned());
    let nested = |open: &str, close: &str, depth: usize| format!("{{\"x\":{}1{}}}", open.repeat(depth), close.repeat(depth)).into_bytes();
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|number| format!("\"{number:x}\":0")).collect();
        format!("{{{}}}", keys.join(",")).into_bytes()
    };
    let before = edge.resident_bytes();
    for (status, code, bytes) in [
        (400, "MANIFEST_INVALID", nested("[", "]", 10_000)),
        (400, "MANIFEST_INVALID", nested("{\"a\":", "}", 10_000)),
        (400, "MANIFEST_INVALID", vec![b'['; MOST_BYTES]),
        (400, "MANIFEST_INVALID", keys(400_000)),
        (400, "MANIFEST_INVALID", format!("[{}1]", "1,".repeat(2_000_000)).into_bytes()),
        // Those do not fit at all.
        (413, "SIZE_INVALID", keys(1_000_000)),
    ] {
        let since = Instant::now();
        let answers = join_all((0..4).map(|_| lab.put("v1", IMAGE, &bytes))).await;
        answers.iter().for_each(|answer| refused(answer, status, code));
        assert!(since.elapsed() < Duration::from_secs(10), "{:?} for {} bytes", since.elapsed(), bytes.len());
        let grown = edge.resident_bytes().saturating_sub(before);
        assert!(grown < 128 * MIB, "grown by {} MiB", grown / MIB);
        is_absent(&lab, &bytes).await;
    }
    lab.image("v1").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_54_double_keys_trailing_data_and_bad_utf_8() {
    let (edge, lab) = hosted().await;
    let image = lab.prepared("good").await.to_string();
    let twice = |key: &str, value: &str| image.replacen('{', &format!("{{\"{key}\":{value},"), 1).into_bytes();
    let manifests = [
        twice("schemaVersion", "2"),
        twice("layers", "[]"),
        twice("media\\u0054ype", &format!("\"{IMAGE}\"")),
        [image.as_bytes(), b"{}"].concat(),
        [image.as_bytes(), b"\0"].concat(),
        [image.as_bytes(), image.as_bytes()].concat(),
        [b"\xef\xbb\xbf", image.as_bytes()].concat(),
        [&image.as_bytes()[..image.len() - 1], b",\"x\":\"\xff\"}"].concat(),
        [&image.as_bytes()[..image.len() - 1], b",\"x\":\"\\ud800\"}"].concat(),
        [&image.as_bytes()[..image.len() - 1], b",\"x\":\"\xc0\xaf\"}"].concat(),
        image.as_bytes()[..image.len() - 1].to_vec(),
        Vec::new(),
    ];
    refuses(&lab, (400, "MANIFEST_INVALID"), IMAGE, manifests).await;
    expect(&lab.put("v1", IMAGE, image.as_bytes()).await, 201);
    edge.finish().await;
}

#[tokio::test]
async fn row_55_two_manifests_in_one_and_types_that_differ() {
    let (edge, lab) = hosted().await;
    let image = lab.prepared("good").await;
    let child = lab.keep("child", &lab.prepared("child").await).await.descriptor();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    let text = |value: &serde_json::Value| value.to_string().into_bytes();
    let both = with(image.clone(), "manifests", index["manifests"].clone());
    refuses(&lab, (400, "MANIFEST_INVALID"), IMAGE, [text(&both), text(&index), text(&with(image.clone(), "mediaType", INDEX))]).await;
    let both = with(index.clone(), "layers", image["layers"].clone());
    let with_config = with(index.clone(), "config", image["config"].clone());
    refuses(&lab, (400, "MANIFEST_INVALID"), INDEX, [text(&both), text(&with_config), text(&image)]).await;
    for wrong in ["application/json", "text/plain", "application/octet-stream", "?"] {
        refuses(&lab, (400, "MANIFEST_INVALID"), wrong, [text(&image)]).await;
    }
    expect(&lab.put("v1", INDEX, &text(&index)).await, 201);
    edge.finish().await;
}

/// An answer without what is another in every one.
fn likeness(answer: &Response) -> String {
    let head = answer.head.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
    format!("{} {:?} {}", answer.status, head.collect::<Vec<_>>(), answer.text())
}

#[tokio::test]
async fn row_56_a_reference_that_is_absent_or_another_repositorys() {
    let (edge, lab) = hosted().await;
    let other = lab.beside("other");
    lab.upload(b"{}").await;
    let image = image_of(b"{}", b"a layer");
    let child = image_of(b"{}", b"");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, child.to_string().as_bytes())] });
    let mut told = Vec::new();
    for round in 0..2 {
        for (media_type, manifest) in [(IMAGE, &image), (INDEX, &index)] {
            let bytes = manifest.to_string().into_bytes();
            let answer = lab.put("v1", media_type, &bytes).await;
            refused(&answer, 404, "MANIFEST_BLOB_UNKNOWN");
            is_absent(&lab, &bytes).await;
            told.push(likeness(&answer));
        }
        if round == 0 {
            for blob in [&b"{}"[..], b"a layer", b""] {
                other.upload(blob).await;
            }
            other.keep_untagged(&child).await;
        }
    }
    assert_eq!(told[..2], told[2..]);
    lab.upload(b"a layer").await;
    lab.upload(b"").await;
    lab.keep("v1", &image).await;
    lab.keep_untagged(&child).await;
    lab.keep("v2", &index).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_57_impossible_and_wrong_sizes() {
    let (edge, lab) = hosted().await;
    let image = lab.prepared("good").await.to_string();
    let layer = format!("\"size\":{}", "layer of good".len());
    assert!(image.contains(&layer));
    let sizes = [
        "-1",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551616",
        "1e3",
        "13.0",
        "1.5",
        "\"13\"",
        "null",
        "12",
        "14",
        "0",
    ];
    let manifests = sizes.map(|size| image.replace(&layer, &format!("\"size\":{size}")).into_bytes());
    refuses(&lab, (400, "MANIFEST_INVALID"), IMAGE, manifests).await;
    // Two of the largest are more than any size.
    let huge = |text: &[u8]| with(descriptor(LAYER, text), "size", i64::MAX);
    let both = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": huge(b"a"), "layers": [huge(b"b")] });
    refuses(&lab, (400, "MANIFEST_INVALID"), IMAGE, [both.to_string().into_bytes()]).await;
    expect(&lab.put("v1", IMAGE, image.as_bytes()).await, 201);
    edge.finish().await;
}

#[tokio::test]
async fn row_58_a_manifest_under_another_digest() {
    let (edge, lab) = hosted().await;
    let bytes = lab.prepared("good").await.to_string().into_bytes();
    let spaced = [&bytes[..], b"\n"].concat();
    for digest in [Digest::sha256(b"other"), sha512(b"other"), Digest::sha256(&spaced), sha512(&spaced)] {
        for parameters in ["", "?tag=v1"] {
            refused(&lab.put(&format!("{digest}{parameters}"), IMAGE, &bytes).await, 400, "DIGEST_INVALID");
            expect(&lab.head(format!("manifests/{digest}")).await, 404);
            is_absent(&lab, &bytes).await;
        }
    }
    for digest in [Digest::sha256(&bytes), sha512(&bytes)] {
        expect(&lab.put(&digest.to_string(), IMAGE, &bytes).await, 201);
        expect(&lab.head(format!("manifests/{digest}")).await, 200);
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_59_nothing_is_fetched_from_where_a_layer_says_it_is() {
    let metadata = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = metadata.local_addr().expect("an address");
    let (edge, lab) = hosted().await;
    let image = lab.prepared("good").await;
    let urls =
        [format!("http://{address}/latest/meta-data/"), format!("http://localhost:{}/", address.port()), "http://169.254.169.254/".into()];
    let foreign = with(descriptor(LAYER, b"elsewhere"), "urls", urls.to_vec());
    let named = with(descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"secret"), "urls", urls.to_vec());
    let digests = [Digest::sha256(b"elsewhere"), Digest::sha256(b"secret")];
    let image = with(image.clone(), "layers", vec![image["layers"][0].clone(), foreign, named]);
    let kept = lab.keep("v1", &image).await;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [with(kept.descriptor(), "urls", urls.to_vec())] });
    lab.keep("v2", &index).await;
    assert_eq!(lab.get("manifests/v1").await.body, kept.bytes);
    lab.referrers(&kept.digest).await;
    for digest in digests {
        refused(&lab.get(format!("blobs/{digest}")).await, 404, "BLOB_UNKNOWN");
        expect(&lab.head(format!("blobs/{digest}")).await, 404);
        for from in [String::new(), format!("&from={}", lab.name), format!("&from={address}/x"), "&from=169.254.169.254".into()] {
            expect(&lab.send("POST", &lab.at(format!("blobs/uploads/?mount={digest}{from}")), &[], b"").await, 202);
        }
    }
    let order = json!({ "reference": format!("{}:v1", lab.name) });
    for command in ["/outport/v1/prefetch", "/outport/v1/refresh"] {
        edge.client.post(command, &order).await;
    }
    let asked = tokio::time::timeout(Duration::from_millis(300), metadata.accept()).await;
    assert!(asked.is_err(), "somebody connected: {asked:?}");
    edge.finish().await;
}

#[tokio::test]
async fn row_60_a_deep_chain_of_indexes() {
    const DEPTH: usize = 200;
    let (mut edge, lab) = hosted().await;
    let mut chain = vec![lab.image("bottom").await];
    let prompt = |since: Instant, what: &str| assert!(since.elapsed() < PROMPT, "{what} took {:?}", since.elapsed());
    for _ in 0..DEPTH {
        let child = chain.last().expect("a manifest").descriptor();
        let since = Instant::now();
        chain.push(lab.keep_untagged(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] })).await);
        prompt(since, "a push");
    }
    let top = chain.last().expect("a manifest").clone();
    expect(&lab.put("top", INDEX, &top.bytes).await, 201);
    // What was kept is kept over a start.
    for restarts in [0, 1] {
        if restarts > 0 {
            edge.restart().await;
        }
        let lab = Lab::new(edge.client.clone(), lab.name.clone());
        for manifest in [&chain[0], &chain[DEPTH / 2], &top] {
            let since = Instant::now();
            assert_eq!(lab.get(format!("manifests/{}", manifest.digest)).await.body, manifest.bytes);
            lab.referrers(&manifest.digest).await;
            prompt(since, "a pull");
        }
        let since = Instant::now();
        assert_eq!(lab.get("manifests/top").await.body, top.bytes);
        assert_eq!(lab.tags().await, ["bottom", "top"]);
        expect(&lab.send("GET", "/v2/_catalog", &[], b"").await, 200);
        prompt(since, "listing");
    }
    let lab = Lab::new(edge.client.clone(), lab.name.clone());
    for needed in [&chain[0], &chain[DEPTH / 2]] {
        let since = Instant::now();
        refused(&lab.delete(format!("manifests/{}", needed.digest)).await, 405, "UNSUPPORTED");
        prompt(since, "a refused delete");
    }
    for manifest in chain.iter().rev().take(20) {
        let since = Instant::now();
        expect(&lab.delete(format!("manifests/{}", manifest.digest)).await, 202);
        expect(&lab.head(format!("manifests/{}", manifest.digest)).await, 404);
        prompt(since, "a delete");
    }
    assert_eq!(lab.tags().await, ["bottom"]);
    expect(&lab.head(format!("manifests/{}", chain[DEPTH - 20].digest)).await, 200);
    edge.finish().await;
}

#[tokio::test]
async fn row_61_ten_thousand_tags() {
    let (edge, lab) = hosted().await;
    let bytes = lab.prepared("good").await.to_string().into_bytes();
    let digest = Digest::sha256(&bytes);
    let tagged = |names: Vec<String>| format!("{digest}?{}", names.iter().map(|name| format!("tag={name}")).collect::<Vec<_>>().join("&"));
    let many = |count: usize| tagged((0..count).map(|number| format!("t{number}")).collect());
    for count in [101, 5_000, 10_000] {
        refused(&lab.put(&many(count), IMAGE, &bytes).await, 414, "UNSUPPORTED");
        is_absent(&lab, &bytes).await;
    }
    refused(&lab.put(&tagged(vec!["good".into(), "-bad".into()]), IMAGE, &bytes).await, 400, "MANIFEST_INVALID");
    refused(&lab.get("tags/list").await, 404, "NAME_UNKNOWN");
    expect(&lab.put(&many(100), IMAGE, &bytes).await, 201);
    assert_eq!(lab.tags().await.len(), 100);
    edge.finish().await;
}
