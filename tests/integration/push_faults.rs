//! Pushes while the disk, the object store or the process fails: what was acknowledged is there, the rest is refused or gone, pulls go
//! on, and nobody has to help.
//!
//! An object store that answers 503, loses answers, is late, says "already exists" of what is not there, or is cut off from one node is
//! simulated, with a seed: `bucket::testing` (`an_upload_survives_lost_answers`, `an_upload_that_fails_leaves_nothing`,
//! `a_late_request_takes_its_effect_though_nobody_waits`), `bucket::tests::opening_survives_a_rough_store_or_says_unavailable`,
//! `ledger::tests` (`an_answer_that_is_lost_leaves_one_segment`, `a_caller_is_told_in_time_and_the_attempt_goes_on_to_its_end`,
//! `what_cannot_be_read_stops_everything_and_is_passed_over_by_nobody`) and `ledger::simulation::the_invariants_hold_in_every_schedule`.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outport::oci::Digest;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::client::Client;
use crate::harness::disk::{files, flip};
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::{Image, digest_of};
use crate::harness::mount::Loop;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::regions::until;
use crate::specification::lab::{IMAGE, Lab, expect, image_of, location, refused};

const MIB: u64 = 1 << 20;
/// Within this time an edge works again after its trouble ended.
const RECOVERY: Duration = Duration::from_secs(15);

/// What became of a push.
#[derive(Debug, PartialEq)]
enum Pushed {
    Kept,
    /// 503, with the time after which to come again.
    Refused,
    /// There was no whole answer.
    Cut,
}

/// Pushes an image, each blob in one request, and its manifest.
async fn push(lab: &Lab, tag: &str, image: &Image) -> Pushed {
    let blobs = image.blobs.iter().map(|blob| ("POST", lab.at(format!("blobs/uploads/?digest={}", blob.digest())), blob.bytes()));
    let manifest = ("PUT", lab.at(format!("manifests/{tag}")), image.manifest.bytes.clone());
    for (method, target, body) in blobs.chain([manifest]) {
        let length = body.len().to_string();
        let answer = lab.send_framed(method, &target, &[("Content-Type", IMAGE), ("Content-Length", &length)], &body).await;
        let Ok(answer) = answer else { return Pushed::Cut };
        match answer.status {
            201 => {}
            503 => {
                assert_eq!(answer.error_code().as_deref(), Some("UNAVAILABLE"), "{}", answer.text());
                let wait: u64 = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
                assert!((1..=60).contains(&wait), "{wait}");
                return Pushed::Refused;
            }
            status => panic!("{method} {target}: {status} {}", answer.text()),
        }
    }
    Pushed::Kept
}

/// Pushes until it is accepted.
async fn push_at_last(lab: &Lab, tag: &str, image: &Image) {
    let since = Instant::now();
    while push(lab, tag, image).await != Pushed::Kept {
        assert!(since.elapsed() < RECOVERY, "still refused {RECOVERY:?} after the trouble ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn pulled(client: &Client, repository: &str, tag: &str, image: &Image) {
    pull(client, repository, tag, image).await.expect("an image");
}

fn hosting() -> Settings {
    Settings::new().open_to_pushes()
}

fn folder_table(folder: &Path) -> String {
    format!("[bucket]\nurl = \"file://{}\"", folder.display())
}

fn lab_of(edge: &EdgeProcess) -> Lab {
    Lab::new(edge.client.clone(), "faults/app".to_owned())
}

/// Images that the ledger carries, and that it does not.
fn image(seed: u64) -> Image {
    Image::new(seed, &[10_000, 60_000, 3 * MIB])
}

/// Pushes are refused while `break_it` holds, pulls go on, and after `mend` both work.
async fn refused_meanwhile(settings: Settings, break_it: impl FnOnce(), mend: impl FnOnce()) {
    let origin = Origin::start().await;
    let (proxied, uncached) = (Image::new(77, &[20_000, MIB]), Image::new(78, &[20_000, MIB]));
    origin.push("app", "v1", &proxied);
    origin.push("app", "v2", &uncached);
    let edge = settings.upstream("origin.test", &origin).spawn().await;
    let lab = lab_of(&edge);
    assert_eq!(push(&lab, "v1", &image(1)).await, Pushed::Kept);
    pulled(&edge.client, "origin.test/app", "v1", &proxied).await;
    break_it();
    for round in 0..2 {
        assert_eq!(push(&lab, "v2", &image(2)).await, Pushed::Refused);
        let small = Image::new(100 + round, &[10]);
        assert_eq!(push(&lab, "small", &small).await, Pushed::Refused);
        pulled(&edge.client, "faults/app", "v1", &image(1)).await;
        pulled(&edge.client, "origin.test/app", "v1", &proxied).await;
        pulled(&edge.client, "origin.test/app", "v2", &uncached).await;
    }
    mend();
    push_at_last(&lab, "v2", &image(2)).await;
    push_at_last(&lab, "v3", &image(3)).await;
    for (seed, tag) in [(1, "v1"), (2, "v2"), (3, "v3")] {
        pulled(&edge.client, "faults/app", tag, &image(seed)).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn fault_disk_full_under_a_local_bucket() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let filler = disk.path().join("filler");
    let settings = hosting().table(&folder_table(&disk.path().join("bucket")));
    refused_meanwhile(settings, || drop(disk.exhaust()), || std::fs::remove_file(filler).expect("our own file")).await;
}

#[tokio::test]
async fn fault_read_only_file_system_under_a_local_bucket() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let settings = hosting().table(&folder_table(&disk.path().join("bucket")));
    refused_meanwhile(settings, || disk.remount("ro"), || disk.remount("rw")).await;
}

/// The node's disk is only a cache and an index that can be made anew: whatever it does, what is acknowledged is in the bucket.
#[tokio::test]
async fn fault_disk_full_on_a_node_whose_bucket_is_elsewhere() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let elsewhere = TempDir::with_prefix("outport-bucket-").expect("a folder");
    let settings = || hosting().table(&folder_table(elsewhere.path()));
    let edge = settings().data_dir(&disk.path().join("data")).spawn().await;
    let lab = lab_of(&edge);
    assert_eq!(push(&lab, "v1", &image(1)).await, Pushed::Kept);
    let filler = disk.exhaust();
    let mut kept = vec![1];
    for seed in 2..20 {
        match push(&lab, &format!("v{seed}"), &image(seed)).await {
            Pushed::Kept => kept.push(seed),
            outcome => assert_eq!(outcome, Pushed::Refused),
        }
        pulled(&edge.client, "faults/app", "v1", &image(1)).await;
    }
    for seed in &kept {
        pulled(&edge.client, "faults/app", &format!("v{seed}"), &image(*seed)).await;
    }
    std::fs::remove_file(filler).expect("our own file");
    push_at_last(&lab, "last", &image(20)).await;
    edge.finish().await;
    // A node that has nothing but the bucket.
    let edge = settings().spawn().await;
    for seed in kept {
        pulled(&edge.client, "faults/app", &format!("v{seed}"), &image(seed)).await;
    }
    pulled(&edge.client, "faults/app", "last", &image(20)).await;
    edge.finish().await;
}

/// With the bucket in memory what comes by is copied to the node's disk, if that takes it.
#[tokio::test]
async fn fault_disk_full_where_copies_are_kept() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let settings = hosting().table("[bucket]\nurl = \"memory://\"").data_dir(&disk.path().join("data"));
    let edge = settings.spawn().await;
    let lab = lab_of(&edge);
    assert_eq!(push(&lab, "v1", &image(1)).await, Pushed::Kept);
    let filler = disk.exhaust();
    for seed in 2..6 {
        let outcome = push(&lab, &format!("v{seed}"), &image(seed)).await;
        assert_ne!(outcome, Pushed::Cut);
        if outcome == Pushed::Kept {
            pulled(&edge.client, "faults/app", &format!("v{seed}"), &image(seed)).await;
        }
        pulled(&edge.client, "faults/app", "v1", &image(1)).await;
    }
    std::fs::remove_file(filler).expect("our own file");
    push_at_last(&lab, "last", &image(6)).await;
    pulled(&edge.client, "faults/app", "last", &image(6)).await;
    edge.finish().await;
}

#[tokio::test]
async fn fault_bucket_away_at_the_start() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("an address that nobody listens on");
    let origin = Origin::start().await;
    let proxied = Image::new(1, &[20_000, MIB]);
    origin.push("app", "v1", &proxied);
    let settings = hosting().upstream("origin.test", &origin);
    let key = settings.file("s3.key", "a secret");
    let options = format!("aws_endpoint = \"http://{closed}\", aws_region = \"x\", allow_http = \"true\", aws_access_key_id = \"x\"");
    let secret = format!("options_from_files = {{ aws_secret_access_key = \"{}\" }}", key.display());
    let edge = settings.table(&format!("[bucket]\nurl = \"s3://bucket/prefix\"\noptions = {{ {options} }}\n{secret}")).spawn().await;
    let lab = lab_of(&edge);
    pulled(&edge.client, "origin.test/app", "v1", &proxied).await;
    assert_eq!(push(&lab, "v1", &image(1)).await, Pushed::Refused);
    let digest = digest_of(b"");
    for (method, target) in [
        ("POST", lab.at("blobs/uploads/")),
        ("POST", lab.at(format!("blobs/uploads/?mount={digest}&from=other"))),
        ("GET", lab.at("manifests/v1")),
        ("HEAD", lab.at("manifests/v1")),
        ("GET", lab.at(format!("manifests/{digest}"))),
        ("GET", lab.at(format!("blobs/{digest}"))),
        ("HEAD", lab.at(format!("blobs/{digest}"))),
        ("GET", lab.at("tags/list")),
        ("GET", lab.at(format!("referrers/{digest}"))),
        ("DELETE", lab.at("manifests/v1")),
        ("DELETE", lab.at(format!("blobs/{digest}"))),
    ] {
        let answer = lab.send(method, &target, &[], b"").await;
        assert_eq!(answer.status, 503, "{method} {target}: {}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{method} {target}: {:?}", answer.head);
        assert!(answer.head_after < Duration::from_secs(2), "{method} {target}: {:?}", answer.head_after);
    }
    let catalog = edge.client.get("/v2/_catalog").await;
    assert_eq!(catalog.status, 200, "what is cached is listed: {}", catalog.text());
    assert!(edge.ops.get("/readyz").await.text().contains("bucket"), "it is told");
    edge.finish().await;
}

/// The bucket's file that holds these bytes.
fn object_of(folder: &Path, bytes: &[u8]) -> PathBuf {
    let holds = |path: &PathBuf| std::fs::read(path).is_ok_and(|found| found == bytes);
    files(folder).into_iter().find(holds).expect("a file of the bucket's")
}

#[tokio::test]
async fn fault_a_flipped_byte_in_a_local_bucket() {
    let bucket = TempDir::with_prefix("outport-bucket-").expect("a folder");
    let mut edge = hosting().table(&folder_table(bucket.path())).spawn().await;
    let lab = lab_of(&edge);
    let image = image(1);
    assert_eq!(push(&lab, "v1", &image).await, Pushed::Kept);
    edge.kill();
    // One that is verified before anybody reads it, and one that is verified while it is read.
    let bad: Vec<(PathBuf, _)> = image.blobs[2..].iter().map(|blob| (object_of(bucket.path(), &blob.bytes()), blob)).collect();
    bad.iter().for_each(|(path, _)| flip(path));
    let flipped: Vec<_> = bad.iter().map(|(path, _)| std::fs::read(path).expect("a file")).collect();
    edge.start_again().await;
    for _ in 0..5 {
        for (_, blob) in &bad {
            let target = lab.at(format!("blobs/{}", blob.digest()));
            // As one that resumes. A part that ends earlier is not held back: it may be asked for while the rest still comes.
            let range = format!("bytes={}-", blob.size_bytes() / 2 - 5);
            if let Ok(answer) = edge.client.send("GET", &target, &[("Range", &range)]).await {
                assert_eq!(answer.status, 503, "{:?}", answer.head);
            }
            match edge.client.try_get(&target).await {
                Ok(answer) => assert_eq!(answer.status, 503, "{:?}", answer.head),
                // Cut before its end.
                Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut),
            }
        }
        // What is sound is served.
        for blob in &image.blobs[..2] {
            assert_eq!(edge.client.get(&lab.at(format!("blobs/{}", blob.digest()))).await.body, blob.bytes());
        }
    }
    let log = edge.log_text();
    for ((path, blob), flipped) in bad.iter().zip(flipped) {
        assert!(std::fs::read(path).expect("the file is kept") == flipped, "it is left as it is");
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(blob.digest())), "it is told: {}", blob.digest());
    }
    // The right bytes pushed once more do not make it worse.
    push(&lab, "v1", &image).await;
    edge.finish().await;
}

/// Edges of one region, over one folder.
struct Region {
    folder: TempDir,
}

impl Region {
    fn new() -> Region {
        Region { folder: TempDir::with_prefix("outport-bucket-").expect("a folder") }
    }

    async fn edge(&self) -> EdgeProcess {
        let settings = hosting().table(&folder_table(self.folder.path()));
        let token = settings.file("siblings.token", "what all edges of the region know");
        settings.table(&format!("[siblings]\nadvertise = \"http://{{registry}}\"\ntoken_file = \"{}\"", token.display())).spawn().await
    }
}

/// A push of `latest` that was acknowledged: its place in the ledger, and what it said.
#[derive(Clone, Debug)]
struct Moved {
    seq: u64,
    digest: String,
}

/// Pushes small images through a node until told to stop: each under a tag of its own, and then as `latest`.
async fn push_steadily(
    lab: Lab,
    node: &'static str,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> (HashMap<String, String>, Vec<Moved>) {
    let (mut tags, mut moves) = (HashMap::new(), Vec::new());
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (config, layer) = (format!("{{\"node\":\"{node}\",\"number\":{number}}}"), format!("layer {number} of {node}"));
        lab.upload(config.as_bytes()).await;
        lab.upload(layer.as_bytes()).await;
        let manifest = image_of(config.as_bytes(), layer.as_bytes()).to_string();
        let (tag, digest) = (format!("{node}-{number}"), digest_of(manifest.as_bytes()));
        expect(&lab.put(&tag, IMAGE, manifest.as_bytes()).await, 201);
        tags.insert(tag, digest.clone());
        let moved = lab.put("latest", IMAGE, manifest.as_bytes()).await;
        expect(&moved, 201);
        let position = moved.header("outport-position").and_then(|position| Some(position.rsplit_once('@')?.1)).expect("a position");
        moves.push(Moved { seq: position.parse().expect("a number"), digest });
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(number % 20)).await;
    }
    (tags, moves)
}

#[tokio::test]
async fn fault_sigstop_and_sigcont_of_a_node_writes_nothing_stale() {
    let region = Region::new();
    let (a, b) = (region.edge().await, region.edge().await);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let count = |node: usize| counts[node].load(Ordering::Relaxed);
    let pushing = [(lab_of(&a), "a", 0), (lab_of(&b), "b", 1)]
        .map(|(lab, node, number)| tokio::spawn(push_steadily(lab, node, stop.clone(), counts[number].clone())));
    for _ in 0..3 {
        let before = count(0);
        while count(0) < before + 3 {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        a.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (stopped, going) = (count(0), count(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(count(0) <= stopped + 1 && count(1) > going + 3, "the other node goes on by itself");
        a.signal(Signal::CONT);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut tags, mut moves) = (HashMap::new(), Vec::new());
    for pushing in pushing {
        let (more, moved) = pushing.await.expect("each push is acknowledged");
        tags.extend(more);
        assert!(moved.is_sorted_by_key(|moved| moved.seq), "one after the other");
        moves.extend(moved);
    }
    let last = moves.iter().max_by_key(|moved| moved.seq).expect("pushes").clone();
    assert_eq!(moves.iter().filter(|moved| moved.seq == last.seq).count(), 1, "two nodes have no place in common");
    // A third node folds the whole chain, each segment against the hash of the one before.
    let c = region.edge().await;
    for edge in [&a, &b, &c] {
        let lab = lab_of(edge);
        assert_eq!(lab.head("manifests/latest").await.header("docker-content-digest"), Some(last.digest.as_str()));
        for (tag, digest) in &tags {
            assert_eq!(lab.head(format!("manifests/{tag}")).await.header("docker-content-digest"), Some(digest.as_str()), "{tag}");
        }
    }
    for edge in [a, b, c] {
        edge.finish().await;
    }
}

#[tokio::test]
async fn fault_sigterm_during_pushes() {
    let bucket = TempDir::with_prefix("outport-bucket-").expect("a folder");
    let mut edge = hosting().limits("grace = \"1s\"").table(&folder_table(bucket.path())).spawn().await;
    let lab = lab_of(&edge);
    let session = lab.begin().await;
    let mut slow = edge.client.connect().await.expect("a connection");
    let head = format!("PATCH {session} HTTP/1.1\r\nHost: edge\r\nContent-Length: 3000000\r\n\r\n");
    slow.send(&[head.as_bytes(), &[7; 1_500_000]].concat()).await.expect("a part");
    let under_way = Arc::new(AtomicUsize::new(0));
    let pushing: Vec<_> = (0..4_u64)
        .map(|worker| {
            let (lab, under_way) = (lab.clone(), under_way.clone());
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for number in 0.. {
                    let seed = 1_000 * worker + number;
                    match push(&lab, &format!("v{seed}"), &Image::new(seed, &[100, 200_000])).await {
                        Pushed::Kept => {
                            kept.push(seed);
                            under_way.fetch_add(1, Ordering::Relaxed);
                        }
                        Pushed::Refused | Pushed::Cut => break,
                    }
                }
                kept
            })
        })
        .collect();
    until("pushes go on", || async { under_way.load(Ordering::Relaxed) > 8 }).await;
    edge.signal(Signal::TERM);
    let status = edge.wait(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}");
    let unfinished = slow.exchange("PATCH", Instant::now()).await;
    assert!(unfinished.as_ref().map_or(true, |answer| answer.status >= 400), "{:?}", unfinished.map(|answer| answer.status));
    let mut kept = Vec::new();
    for pushing in pushing {
        kept.extend(pushing.await.expect("no wrong answer"));
    }
    assert!(kept.len() > 4, "{kept:?}");
    edge.start_again().await;
    for seed in kept {
        pulled(&edge.client, "faults/app", &format!("v{seed}"), &Image::new(seed, &[100, 200_000])).await;
    }
    // Its edge knows nothing of it any more: the client begins again.
    refused(&lab.send("GET", &session, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(push(&lab, "again", &image(1)).await, Pushed::Kept);
    edge.finish().await;
}

#[tokio::test]
async fn fault_what_one_edge_acknowledged_the_other_has_at_once() {
    let region = Region::new();
    let edges = [region.edge().await, region.edge().await];
    for round in 0..100 {
        let (here, there) = (lab_of(&edges[round % 2]), lab_of(&edges[(round + 1) % 2]));
        // Its absence was known there a moment ago.
        expect(&there.head(format!("manifests/v{round}")).await, 404);
        let size = if round % 10 == 0 { 100_000 } else { 100 };
        let layer = vec![round as u8; size];
        let config = format!("{{\"round\":{round}}}");
        let (digest, _) = (here.upload(&layer).await, here.upload(config.as_bytes()).await);
        let blob = there.get(format!("blobs/{digest}")).await;
        expect(&blob, 200);
        assert_eq!(blob.body, layer);
        // Begun here, and the manifest through either.
        let by = if round % 4 < 2 { &here } else { &there };
        let kept = by.keep(&format!("v{round}"), &image_of(config.as_bytes(), &layer)).await;
        for lab in [&there, &here] {
            let answer = lab.get(format!("manifests/v{round}")).await;
            expect(&answer, 200);
            assert_eq!(answer.body, kept.bytes);
        }
    }
    for edge in edges {
        edge.finish().await;
    }
}

#[tokio::test]
async fn fault_a_session_is_finished_through_a_sibling_and_lost_with_its_owner() {
    let region = Region::new();
    let (mut owner, sibling) = (region.edge().await, region.edge().await);
    let (here, there) = (lab_of(&owner), lab_of(&sibling));
    let whole: Vec<u8> = (0..2_000_000).map(|at| (at / 7) as u8).collect();
    let digest = Digest::sha256(&whole);
    let mut session = here.begin().await;
    for (number, start) in (0..2_000_000).step_by(250_000).enumerate() {
        let lab = if number % 2 == 0 { &there } else { &here };
        let answer = lab.patch(&session, &format!("{start}-{}", start + 249_999), &whole[start..start + 250_000]).await;
        expect(&answer, 202);
        session = location(&answer);
        let status = there.send("GET", &session, &[], b"").await;
        expect(&status, 204);
        assert_eq!(status.header("range"), Some(format!("0-{}", start + 249_999).as_str()));
    }
    refused(&there.patch(&session, "0-4", b"01234").await, 416, "BLOB_UPLOAD_INVALID");
    expect(&there.close(&session, &digest, &[], b"").await, 201);
    for lab in [&there, &here] {
        assert!(lab.get(format!("blobs/{digest}")).await.body == whole, "other bytes");
        refused(&lab.send("GET", &session, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
    }
    let cancelled = here.begin().await;
    expect(&there.send("DELETE", &cancelled, &[], b"").await, 204);
    refused(&here.send("GET", &cancelled, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");

    let session = location(&here.patch(&here.begin().await, "0-249999", &whole[..250_000]).await);
    owner.kill();
    let close = format!("{session}&digest={digest}");
    for (method, target, body) in
        [("GET", &session, &b""[..]), ("PATCH", &session, &whole[250_000..]), ("PUT", &close, &whole[250_000..]), ("DELETE", &session, b"")]
    {
        let answer = there.send(method, target, &[], body).await;
        refused(&answer, 404, "BLOB_UPLOAD_UNKNOWN");
        assert!(answer.after < Duration::from_secs(2), "{method}: {:?}", answer.after);
    }
    expect(&there.close(&there.begin().await, &Digest::sha256(&whole[1..]), &[], &whole[1..]).await, 201);
    owner.start_again().await;
    refused(&there.send("GET", &session, &[], b"").await, 404, "BLOB_UPLOAD_UNKNOWN");
    for edge in [owner, sibling] {
        edge.finish().await;
    }
}
