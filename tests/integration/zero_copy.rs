//! Blobs that the kernel sends from their files, and the same with that switched off: what a client receives is right, or is cut.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::time::Instant;

use crate::harness::client::{Exchange, Response, Wire};
use crate::harness::disk::{blob_file, wait_for_blob};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Blob, Image};
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::regions::until;

const MIB: u64 = 1 << 20;
/// More than the sockets of both sides take in at once.
const LARGE_BYTES: u64 = 48 * MIB;
const SMALL_BYTES: u64 = 3 * MIB + 17;

/// An edge that has an image of a small and a large layer on its disk.
struct Warm {
    origin: Origin,
    edge: TestEdge,
    small: Blob,
    large: Blob,
}

impl Warm {
    async fn new(sendfile: bool) -> Warm {
        let (origin, image) = (Origin::start().await, Image::new(1, &[SMALL_BYTES, LARGE_BYTES]));
        origin.push("app", "v1", &image);
        let settings = Settings::new().listen(&format!("sendfile = {sendfile}")).cache("disk = \"128MiB\"");
        let edge = settings.upstream("origin.test", &origin).start().await;
        pull(&edge.client, "origin.test/app", "v1", &image).await.expect("a pull");
        let (small, large) = (image.blobs[1].clone(), image.blobs[2].clone());
        for blob in [&small, &large] {
            wait_for_blob(&edge.data_dir(), blob.digest()).await;
        }
        let warm = Warm { origin, edge, small, large };
        let first_byte = async || warm.edge.client.get_with(&path(&warm.large), &[("Range", "bytes=0-0")]).await;
        let from_disk = async || first_byte().await.header("outport-source") == Some("disk");
        until("the blob is on the disk", from_disk).await;
        warm
    }

    async fn both() -> [Warm; 2] {
        [Warm::new(true).await, Warm::new(false).await]
    }

    /// The beginning of the large blob, as somebody reads it who then stops reading.
    async fn begun(&self) -> (Exchange, u64) {
        let mut exchange = self.edge.client.open("GET", &path(&self.large), &[]).await.expect("an answer");
        assert_eq!((exchange.status, exchange.header("outport-source")), (200, Some("disk")));
        let first = exchange.next().await.expect("the first bytes");
        assert!(self.large.matches(0, &first));
        (exchange, first.len() as u64)
    }

    /// Other images come, one for each seed, of which two and the large blob are more than the cache may hold.
    async fn fills_up(&self, seeds: Range<u64>) {
        for seed in seeds {
            let (tag, image) = (format!("v{seed}"), Image::new(seed, &[40 * MIB]));
            self.origin.push("app", &tag, &image);
            pull(&self.edge.client, "origin.test/app", &tag, &image).await.expect("a pull");
        }
    }

    async fn is_served_whole(&self) {
        let mut exchange = self.edge.client.open("GET", &path(&self.large), &[]).await.expect("an answer");
        assert_eq!(exchange.compare(&self.large, 0).await.expect("the whole").bytes, LARGE_BYTES);
    }
}

fn path(blob: &Blob) -> String {
    format!("/v2/origin.test/app/blobs/{}", blob.digest())
}

fn request(method: &str, blob: &Blob, rest: &str) -> String {
    format!("{method} {} HTTP/1.1\r\nHost: edge\r\n{rest}\r\n", path(blob))
}

async fn answer(wire: Wire, method: &str) -> (Response, Wire) {
    let exchange = wire.exchange(method, Instant::now()).await.expect("a head");
    exchange.whole_and_more().await.expect("a whole answer")
}

#[tokio::test]
async fn ranges_are_exact() {
    for Warm { edge, large, .. } in Warm::both().await {
        for (from, to) in [(0, 0), (0, MIB), (MIB - 1, MIB + 1), (5 * MIB + 3, 9 * MIB + 4), (LARGE_BYTES - 1, LARGE_BYTES - 1)] {
            let answer = edge.client.get_with(&path(&large), &[("Range", &format!("bytes={from}-{to}"))]).await;
            assert_eq!((answer.status, answer.body.len() as u64), (206, to - from + 1));
            assert!(large.matches(from, &answer.body), "{from} to {to}");
        }
        edge.finish().await;
    }
}

#[tokio::test]
async fn pipelined_answers_keep_their_order_and_their_ends() {
    for Warm { edge, small, large, .. } in Warm::both().await {
        let mut wire = edge.client.connect().await.expect("a connection");
        let manifest = "GET /v2/origin.test/app/manifests/v1 HTTP/1.1\r\nHost: edge\r\n\r\n";
        let requests = [
            request("GET", &small, ""),
            manifest.to_owned(),
            request("HEAD", &large, ""),
            request("GET", &large, "Range: bytes=1000000-3000000\r\n"),
            request("GET", &small, ""),
        ];
        wire.send(requests.concat().as_bytes()).await.expect("all requests");
        let (first, wire) = answer(wire, "GET").await;
        let (second, wire) = answer(wire, "GET").await;
        let (third, wire) = answer(wire, "HEAD").await;
        let (fourth, wire) = answer(wire, "GET").await;
        let (fifth, _) = answer(wire, "GET").await;
        assert_eq!([&first, &second, &third, &fourth, &fifth].map(|answer| answer.status), [200, 200, 200, 206, 200]);
        assert!(first.body == small.bytes() && fifth.body == small.bytes());
        assert_eq!(third.header("content-length"), Some(LARGE_BYTES.to_string().as_str()));
        assert!(fourth.body.len() == 2_000_001 && large.matches(1_000_000, &fourth.body));
        assert!(second.json()["layers"].is_array());
        edge.finish().await;
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_the_whole_and_the_end() {
    for Warm { edge, small, .. } in Warm::both().await {
        let mut wire = edge.client.connect().await.expect("a connection");
        wire.send(format!("GET {} HTTP/1.0\r\n\r\n", path(&small)).as_bytes()).await.expect("a request");
        let (whole, wire) = answer(wire, "GET").await;
        assert!(whole.body == small.bytes() && whole.header("content-length") == Some(SMALL_BYTES.to_string().as_str()));
        assert!(wire.exchange("GET", Instant::now()).await.is_err(), "the connection is at its end");
        edge.finish().await;
    }
}

/// As where other things need the memory: the kernel lets go of the file's pages again and again.
#[tokio::test]
async fn what_only_the_disk_has_is_sent_too() {
    for warm in Warm::both().await {
        let file = File::open(blob_file(&warm.edge.data_dir(), warm.large.digest()).expect("its file")).expect("it opens");
        let forget = || rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
        forget();
        let (mut exchange, mut at) = warm.begun().await;
        while let bytes = exchange.next().await.expect("the rest")
            && !bytes.is_empty()
        {
            assert!(warm.large.matches(at, &bytes), "at {at}");
            at += bytes.len() as u64;
            forget();
        }
        assert_eq!(at, LARGE_BYTES);
        warm.edge.finish().await;
    }
}

#[tokio::test]
async fn a_file_that_is_unlinked_meanwhile_is_served_to_its_end() {
    for warm in Warm::both().await {
        let (mut exchange, at) = warm.begun().await;
        fs::remove_file(blob_file(&warm.edge.data_dir(), warm.large.digest()).expect("its file")).expect("unlinked");
        assert_eq!(exchange.compare(&warm.large, at).await.expect("the rest").bytes, LARGE_BYTES - at);
        drop(exchange);
        // And is fetched again for who comes next.
        warm.is_served_whole().await;
        warm.edge.finish().await;
    }
}

#[tokio::test]
async fn a_file_that_is_read_is_evicted_when_that_is_over() {
    for warm in Warm::both().await {
        let (mut exchange, at) = warm.begun().await;
        warm.fills_up(2..6).await;
        let is_there = || blob_file(&warm.edge.data_dir(), warm.large.digest()).is_some();
        assert!(is_there(), "somebody reads it");
        assert_eq!(exchange.compare(&warm.large, at).await.expect("the rest").bytes, LARGE_BYTES - at);
        drop(exchange);
        // What was in use when its turn came goes to the end of the queue.
        for seed in 6..40 {
            if is_there() {
                warm.fills_up(seed..seed + 1).await;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
        assert!(!is_there(), "it is evicted");
        warm.edge.finish().await;
    }
}

#[tokio::test]
async fn a_file_that_is_cut_meanwhile_never_ends_like_a_whole_one() {
    for warm in Warm::both().await {
        let (mut exchange, at) = warm.begun().await;
        let file = blob_file(&warm.edge.data_dir(), warm.large.digest()).expect("its file");
        OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(LARGE_BYTES / 2)).expect("cut");
        let error = exchange.compare(&warm.large, at).await.expect_err("the body is cut");
        assert!(matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset), "{error}");
        warm.edge.finish().await;
    }
}

#[tokio::test]
async fn clients_that_leave_in_the_middle_disturb_nobody() {
    for warm in Warm::both().await {
        let (mut patient, at) = warm.begun().await;
        for _ in 0..20 {
            drop(warm.begun().await);
        }
        assert_eq!(patient.compare(&warm.large, at).await.expect("the rest").bytes, LARGE_BYTES - at);
        drop(patient);
        warm.is_served_whole().await;
        warm.edge.finish().await;
    }
}
