//! A region in memory that reads from another one, whose edge is played by hand and whose store is a folder.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::{ReadError, Reading};
use crate::bucket::{Bucket, Key, SnapshotPart, Through};
use crate::clock::Clock;
use crate::config::{self, BucketPlace};
use crate::ledger::{self, BlobEntry, IndexPlace, Ledger, Origin, Place, Regions, Snapshots};
use crate::metrics::Metrics;
use crate::oci::Digest;
use crate::peers::testing::{Played, edges, vouched};
use crate::peers::{Batch, Segments};
use crate::region::{Peer, Region, Via};

const CONTENT: &[u8] = b"0123456789";

fn bucket(place: BucketPlace) -> config::Bucket {
    let (request_timeout, part_size) = (Duration::from_secs(5), config::ByteSize(5 << 20));
    config::Bucket { place, options: BTreeMap::new(), ca_file: None, request_timeout, part_size }
}

async fn put(bucket: &Bucket, bytes: &'static [u8]) -> Place {
    let place = Place { origin: Origin::of(bucket), key: bucket.fresh_ulid() };
    bucket.create(&Key::Blob(place.key), Bytes::from_static(bytes)).await.unwrap();
    place
}

/// The region us in its store.
struct Us {
    bucket: Bucket,
    settings: config::Bucket,
    _folder: TempDir,
}

impl Us {
    async fn new() -> Us {
        let folder = tempfile::tempdir().unwrap();
        let settings = bucket(BucketPlace::File(folder.path().to_owned()));
        let bucket = Bucket::open(&settings, "us", Clock::system(), Metrics::new()).await.unwrap();
        Us { bucket, settings, _folder: folder }
    }

    /// As a peer with an edge that gives these answers, if there are any, and its store.
    async fn peer(&self, answers: Vec<String>) -> (Peer, Option<Played>) {
        let settings = config::Peer {
            region: "us".to_owned(),
            bucket: Some(self.settings.clone()),
            edges: Vec::new(),
            token: None,
            ca_file: None,
            clients: Vec::new(),
        };
        let played = if answers.is_empty() { None } else { Some(Played::new(answers).await) };
        let edges = played.as_ref().map(|played| edges(&[played.address], Clock::system()));
        (Peer::new(&settings, edges, Clock::system(), Metrics::new()), played)
    }
}

/// The own region, open.
async fn eu(peers: Vec<Peer>) -> Region {
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let bucket = Bucket::open(&bucket(BucketPlace::Memory), "eu", clock.clone(), metrics.clone()).await.unwrap();
    let settings = ledger::Settings { index: IndexPlace::Memory, node: "edge".to_owned(), regions: Regions::Many };
    let ledger = Ledger::open(bucket.clone(), settings, clock, metrics).await.unwrap();
    let region = Region::with_peers(peers);
    region.open(bucket, ledger);
    region
}

/// Reads the content, and tells from where its last byte came.
async fn read(region: &Region, places: Vec<Place>) -> Result<(Bytes, Option<String>), ReadError> {
    let entry = BlobEntry { size_bytes: CONTENT.len() as u64, inline: None, places };
    let mut reading = Reading::new(region, region.get().unwrap(), &Digest::sha256(CONTENT), &entry);
    let (mut whole, mut from) = (Vec::new(), None);
    while let Some(bytes) = reading.next().await? {
        whole.extend_from_slice(&bytes);
        from = reading.abroad().map(|name| name.to_string());
    }
    Ok((whole.into(), from))
}

fn whole(from: Option<&str>) -> Result<(Bytes, Option<String>), ReadError> {
    Ok((Bytes::from_static(CONTENT), from.map(str::to_owned)))
}

/// The bytes from a position to the end, of which `sent` come before the connection is cut.
fn part(from: usize, sent: &str) -> String {
    let all = std::str::from_utf8(&CONTENT[from..]).unwrap();
    vouched("206 Partial Content", &format!("content-range: bytes {from}-9/10\r\n"), all)
        .replace(&format!("\r\n\r\n{all}"), &format!("\r\n\r\n{sent}"))
}

#[tokio::test]
async fn what_is_in_the_own_bucket_is_read_there_and_what_went_from_it_elsewhere() {
    let us = Us::new().await;
    let (peer, played) = us.peer(vec![part(0, "0123456789")]).await;
    let region = eu(vec![peer]).await;
    let own = put(&region.get().unwrap().bucket, CONTENT).await;
    let there = put(&us.bucket, CONTENT).await;
    assert_eq!(read(&region, vec![there.clone(), own.clone()]).await, whole(None));
    assert!(played.as_ref().unwrap().heard().is_empty());
    region.get().unwrap().bucket.delete(&Key::Blob(own.key)).await.unwrap();
    assert_eq!(read(&region, vec![there, own]).await, whole(Some("us")));
    assert_eq!(played.unwrap().heard().len(), 1);
}

#[tokio::test]
async fn a_transfer_that_breaks_is_taken_up_again_where_it_broke() {
    let us = Us::new().await;
    let there = put(&us.bucket, CONTENT).await;
    let (peer, played) = us.peer(vec![part(0, "0123"), part(4, "45"), part(6, "6789")]).await;
    assert_eq!(read(&eu(vec![peer]).await, vec![there]).await, whole(Some("us")));
    let heard = played.unwrap().heard();
    for (head, range) in heard.iter().zip(["range: bytes=0-9\r\n", "range: bytes=4-9\r\n", "range: bytes=6-9\r\n"]) {
        assert!(head.contains(range), "{head}");
    }
    assert_eq!(heard.len(), 3);
}

#[tokio::test]
async fn the_store_is_read_where_the_edges_do_not_give_the_rest() {
    let us = Us::new().await;
    let there = put(&us.bucket, CONTENT).await;
    for answers in [
        vec![],
        vec![vouched("404 Not Found", "", "")],
        vec![vouched("503 Service Unavailable", "", "")],
        // The rest is other than what lies in the store: nobody reads the front twice.
        vec![part(0, "0123"), vouched("404 Not Found", "", "")],
    ] {
        let (peer, played) = us.peer(answers.clone()).await;
        assert_eq!(read(&eu(vec![peer]).await, vec![there.clone()]).await, whole(Some("us")), "{answers:?}");
        assert_eq!(played.map_or(0, |played| played.heard().len()), answers.len());
    }
}

#[tokio::test]
async fn what_nobody_gives_is_an_error() {
    let us = Us::new().await;
    let gone = Place { origin: Origin::of(&us.bucket), key: us.bucket.fresh_ulid() };
    let elsewhere = Place { origin: Origin::new("ap", "01"), ..gone.clone() };
    let region = eu(vec![us.peer(vec![vouched("404 Not Found", "", "")]).await.0]).await;
    for places in [vec![gone], vec![elsewhere], vec![]] {
        assert!(read(&region, places.clone()).await.is_err(), "{places:?}");
    }
}

#[tokio::test]
async fn segments_come_from_the_edges_else_from_the_store() {
    let us = Us::new().await;
    let origin = Origin::of(&us.bucket);
    for (seq, bytes) in [(1, b"one"), (2, b"two")] {
        us.bucket.create(&Key::Ledger(seq), Bytes::from_static(bytes)).await.unwrap();
    }
    let stored = |segments| Ok((Batch { segments, tail: None }, Via::Store));
    let (peer, _) = us.peer(vec![]).await;
    let both = Segments::Some(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    assert_eq!(peer.segments(&origin, 0, Some(Duration::from_secs(1))).await, stored(both));
    assert_eq!(peer.segments(&origin, 2, None).await, stored(Segments::None));
    assert_eq!(peer.segments(&Origin::new("ap", "01"), 0, None).await, stored(Segments::Unknown));
    let told = vouched("204 No Content", "outport-position: us.01@2\r\n", "");
    let (peer, _played) = us.peer(vec![told, vouched("503 Service Unavailable", "", "")]).await;
    assert_eq!(peer.segments(&origin, 0, None).await, Ok((Batch { segments: Segments::None, tail: Some(2) }, Via::Edges)));
    assert_eq!(peer.segments(&origin, 1, None).await, stored(Segments::Some(vec![Bytes::from_static(b"two")])));
}

#[tokio::test]
async fn snapshots_come_from_the_edges_else_from_the_store() {
    let us = Us::new().await;
    let (origin, through) = (Origin::of(&us.bucket), Through { ledger: 7, imports: 3 });
    us.bucket.create(&Key::Snapshot(through, SnapshotPart::Manifest), Bytes::from_static(b"stored")).await.unwrap();
    let stored = || Ok(Some(Bytes::from_static(b"stored")));
    for answers in [vec![], vec![vouched("404 Not Found", "", ""); 2], vec![vouched("503 Service Unavailable", "", ""); 2]] {
        let is_denied = answers.first().is_some_and(|answer| answer.contains("404"));
        let (peer, _played) = us.peer(answers).await;
        assert_eq!(Snapshots::list(&peer, &origin).await, Ok(vec![through]));
        let part = Snapshots::part(&peer, &origin, through, SnapshotPart::Manifest).await;
        assert_eq!(part, if is_denied { Ok(None) } else { stored() });
    }
    let later = Through { ledger: 9, imports: 3 };
    let (peer, _played) = us.peer(vec![vouched("200 OK", "", &format!("[\"{later}\"]")), vouched("200 OK", "", "told")]).await;
    assert_eq!(Snapshots::list(&peer, &origin).await, Ok(vec![later]));
    assert_eq!(Snapshots::part(&peer, &origin, through, SnapshotPart::Manifest).await, Ok(Some(Bytes::from_static(b"told"))));
}
