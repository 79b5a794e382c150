//! What edges of two regions ask each other, over real sockets: who is answered, what is told, and uploads that cross from one region to
//! the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outport::oci::Digest;
use outport::peers::protocol::{Found, Status, unframe};

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge, own_addresses};
use crate::harness::image::{Blob, Image};
use crate::harness::push::{push, push_blob};
use crate::harness::regions::until;

const TOKEN: &str = "what both regions know";
/// Of a ledger up to its seventh segment, and of three imports.
const SNAPSHOT: &str = "00000000000000000007-00000000000000000003";

/// An edge of a region that takes pushes from anybody and has one peer.
fn region(name: &str, addresses: [SocketAddr; 2], peer: (&str, SocketAddr)) -> Settings {
    let settings = Settings::new().open_to_pushes().in_region(name, addresses);
    let token = settings.file("peer.token", TOKEN);
    settings.table(&format!("[[peer]]\nregion = \"{}\"\nedges = [\"http://{}\"]\ntoken_file = \"{}\"", peer.0, peer.1, token.display()))
}

/// Two regions that know each other.
fn regions() -> (Settings, Settings) {
    let (eu, us) = (own_addresses(), own_addresses());
    (region("eu", eu, ("us", us[0])), region("us", us, ("eu", eu[0])))
}

/// The edge of the region eu, and who may ask it as the region us.
async fn eu() -> (TestEdge, Client) {
    let edge = regions().0.start().await;
    let peer = edge.client.clone().with("Authorization", &format!("Bearer {TOKEN}"));
    (edge, peer)
}

async fn status(peer: &Client) -> Status {
    let answer = peer.get("/outport/v1/ledger").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("a status")
}

/// The region's ledger, and its end once it has said that it joined.
async fn joined(peer: &Client) -> (String, u64) {
    until("the region has joined", || async { status(peer).await.seq > 0 }).await;
    let Status { region, incarnation, seq, .. } = status(peer).await;
    (format!("{region}.{incarnation}"), seq)
}

async fn resolved(peer: &Client, query: &str) -> Found {
    let answer = peer.get(&format!("/outport/v1/resolve?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("what was found")
}

fn unavailable(answer: &Response) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("UNAVAILABLE")), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_to_whom_another_region_is_nearer_are_told_so_and_answered() {
    for (clients, told) in [("127.0.0.0/8", Some("us")), ("10.0.0.0/8", None)] {
        let edge = regions().0.table(&format!("clients = [\"{clients}\"]")).start().await;
        push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
        // The other region cannot tell of the last.
        for (path, status) in [("/v2/", 200), ("/v2/team/app/manifests/v1", 200), ("/readyz", 200), ("/v2/team/app/manifests/v2", 503)] {
            let answer = edge.client.get(path).await;
            assert_eq!((answer.status, answer.header("outport-nearer")), (status, told), "{path}");
        }
        edge.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_edge_of_a_peer_is_answered() {
    let (edge, peer) = eu().await;
    let alone = Settings::new().open_to_pushes().start().await;
    let digest = Digest::sha256(b"x");
    let targets = [
        "/outport/v1/ledger".to_owned(),
        "/outport/v1/ledger/eu.01?after=0".to_owned(),
        "/outport/v1/resolve?repository=a&reference=v1".to_owned(),
        format!("/outport/v1/content/{digest}"),
        "/outport/v1/ledger/eu.01/snapshots".to_owned(),
        format!("/outport/v1/ledger/eu.01/snapshots/{SNAPSHOT}/manifest"),
    ];
    for target in &targets {
        let known = peer.get(target).await;
        assert!([200, 404].contains(&known.status), "{target}: {}", known.text());
        assert!(known.header("outport-peer").is_some() && known.header("x-request-id").is_some());
        for credentials in [None, Some(format!("Bearer {TOKEN}!")), Some("Bearer".to_owned()), Some("Basic eDp5".to_owned())] {
            let client = credentials.iter().fold(edge.client.clone(), |client, value| client.with("Authorization", value));
            let refused = client.get(target).await;
            assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some(r#"Bearer realm="outport peers""#)), "{target}");
            assert!(refused.header("outport-peer").is_none() && !refused.text().contains(TOKEN));
        }
        let nobody = alone.client.clone().with("Authorization", &format!("Bearer {TOKEN}")).get(target).await;
        assert_eq!((nobody.status, nobody.header("outport-peer")), (404, None), "an edge without peers has no such thing");
        let posted = peer.send("POST", target, &[("Content-Length", "0")]).await.expect("an answer");
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    }
    // The token opens nothing else.
    assert_eq!(peer.get("/v2/").await.status, 401);
    alone.finish().await;
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_tells_where_it_stands_and_what_its_ledger_has() {
    let (edge, peer) = eu().await;
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[1_000, 200_000])).await;
    let told = status(&peer).await;
    assert_eq!((told.region.as_str(), told.imports), ("eu", 0));
    let origin = format!("eu.{}", told.incarnation);
    assert!(told.seq > 0 && told.clock.ms > 0 && told.seen[&origin] == told.seq, "{told:?}");

    let mut after = 0;
    while after < told.seq {
        let answer = peer.get(&format!("/outport/v1/ledger/{origin}?after={after}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")), "{}", answer.text());
        assert_eq!(answer.header("outport-position"), Some(format!("{origin}@{}", told.seq).as_str()));
        after += unframe(answer.body).expect("framed segments").len() as u64;
    }
    assert_eq!(after, told.seq, "no segment is told twice");
    for beyond in [told.seq, told.seq + 5, u64::MAX] {
        let answer = peer.get(&format!("/outport/v1/ledger/{origin}?after={beyond}")).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "nothing is behind the tail");
        assert_eq!(answer.header("outport-position"), Some(format!("{origin}@{}", told.seq).as_str()));
    }
    for (target, expected) in [
        ("eu.01ARZ3NDEKTSV4RRFFQ69G5FAV?after=0", 404),
        ("us.01ARZ3NDEKTSV4RRFFQ69G5FAV?after=0", 404),
        ("eu?after=0", 404),
        ("..%2F..%2Feu.x?after=0", 404),
        ("eu.x", 400),
        ("eu.x?after=-1", 400),
        ("eu.x?after=0&wait=soon", 400),
    ] {
        let answer = peer.get(&format!("/outport/v1/ledger/{target}")).await;
        assert_eq!(answer.status, expected, "{target}: {}", answer.text());
    }
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_tells_of_its_snapshots_and_of_nobody_elses() {
    let (edge, peer) = eu().await;
    let (origin, _) = joined(&peer).await;
    let of = |origin: &str, below: &str| format!("/outport/v1/ledger/{origin}/snapshots{below}");
    assert_eq!(peer.get(&of(&origin, "")).await.text(), "[]");
    assert_eq!(peer.get(&of(&origin, &format!("/{SNAPSHOT}/manifest"))).await.status, 404);
    // Their bytes are handed out as they are: who reads them verifies them. One without a manifest is none yet.
    let folder = edge.data_dir().join("bucket").join(&origin).join("snapshots");
    let (whole, begun) = (folder.join(SNAPSHOT), folder.join(format!("{:020}-{:020}", 9, 3)));
    let shard = "01ARZ3NDEKTSV4RRFFQ69G5FAV-000000";
    for (snapshot, part, text) in [(&whole, "manifest", "of seven"), (&whole, shard, "rows"), (&begun, shard, "more rows")] {
        std::fs::create_dir_all(snapshot).expect("our own folder");
        std::fs::write(snapshot.join(part), text).expect("our own folder");
    }
    let told: Vec<String> = serde_json::from_slice(&peer.get(&of(&origin, "")).await.body).expect("a list");
    assert_eq!(told, [SNAPSHOT]);
    for (part, text) in [("manifest", "of seven"), (shard, "rows")] {
        let answer = peer.get(&of(&origin, &format!("/{SNAPSHOT}/{part}"))).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
        assert_eq!(answer.text(), text);
    }
    for other in ["eu.01ARZ3NDEKTSV4RRFFQ69G5FAV", "us.01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        assert_eq!(peer.get(&of(other, "")).await.status, 404, "{other}");
        assert_eq!(peer.get(&of(other, &format!("/{SNAPSHOT}/manifest"))).await.status, 404, "{other}");
    }
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_something_is_pushed() {
    let (edge, peer) = eu().await;
    let (origin, end) = joined(&peer).await;
    let began = Instant::now();
    let nothing = peer.get(&format!("/outport/v1/ledger/{origin}?after={end}&wait=1")).await;
    assert_eq!(nothing.status, 204);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let waiting = {
        let (peer, target) = (peer.clone(), format!("/outport/v1/ledger/{origin}?after={end}&wait=30"));
        tokio::spawn(async move { peer.get(&target).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    push_blob(&edge.client, "team/app", &Blob::seeded(2, 100)).await;
    let told = waiting.await.expect("an answer");
    assert_eq!((told.status, unframe(told.body).map(|segments| segments.is_empty())), (200, Some(false)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_wait() {
    let (edge, peer) = eu().await;
    let (origin, end) = joined(&peer).await;
    let target = format!("/outport/v1/ledger/{origin}?after={end}");
    let wait = format!("{target}&wait=30");
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let (peer, wait) = (peer.clone(), wait.clone());
            tokio::spawn(async move { peer.get(&wait).await })
        })
        .collect();
    let began = Instant::now();
    while waiting.iter().filter(|task| task.is_finished()).count() < 44 {
        assert!(began.elapsed() < Duration::from_secs(20), "more than 256 wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(peer.get(&target).await.status, 204, "who does not wait is answered");
    push_blob(&edge.client, "team/app", &Blob::seeded(8, 100)).await;
    let answers = futures_util::future::join_all(waiting).await.into_iter().map(|answer| answer.expect("an answer"));
    let (told, refused): (Vec<_>, Vec<_>) = answers.partition(|answer| answer.status == 200);
    assert_eq!((told.len(), refused.len()), (256, 44));
    for answer in refused {
        unavailable(&answer);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_does_not_hold_up_a_drain() {
    let (edge, peer) = eu().await;
    let (origin, end) = joined(&peer).await;
    let waiting = tokio::spawn(async move { peer.get(&format!("/outport/v1/ledger/{origin}?after={end}&wait=30")).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    edge.finish().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(waiting.await.expect("an answer").status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_region_knows_is_resolved() {
    let (edge, peer) = eu().await;
    let image = Image::new(3, &[1_000, 200_000]);
    push(&edge.client, "team/app", Some("v1"), &image).await;
    for reference in ["v1", image.digest()] {
        let found = resolved(&peer, &format!("repository=team/app&reference={reference}")).await;
        assert_eq!(
            (found.digest.to_string().as_str(), found.media_type.as_deref()),
            (image.digest(), Some(image.manifest.media_type.as_str()))
        );
        assert_eq!(found.inline.as_deref(), Some(&image.manifest.bytes[..]), "a small manifest comes along");
        assert!(found.facts.is_some() && found.created_ms.is_some() && found.size_bytes == image.manifest.bytes.len() as u64);
    }
    for blob in &image.blobs {
        let found = resolved(&peer, &format!("repository=team%2Fapp&blob={}", blob.digest())).await;
        assert_eq!((found.digest.to_string().as_str(), found.size_bytes), (blob.digest(), blob.size_bytes()));
        assert!(found.inline.is_some() || found.places.iter().all(|place| place.starts_with("eu.")) && !found.places.is_empty());
    }
    let blob = image.blobs[0].digest();
    for query in [
        "repository=team/app&reference=v2".to_owned(),
        "repository=team/other&reference=v1".to_owned(),
        format!("repository=team/other&blob={blob}"),
        format!("repository=team/app&blob={}", Digest::sha256(b"never pushed")),
        // An upstream's is nobody's to tell.
        "repository=canary.test/bird&reference=v1".to_owned(),
    ] {
        assert_eq!(peer.get(&format!("/outport/v1/resolve?{query}")).await.status, 404, "{query}");
    }
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_told_whole_and_in_parts() {
    let (edge, peer) = eu().await;
    let (small, large) = (Blob::seeded(4, 100), Blob::seeded(5, 300_000));
    for blob in [&small, &large] {
        push_blob(&edge.client, "team/app", blob).await;
        let target = format!("/outport/v1/content/{}", blob.digest());
        let whole = peer.get(&target).await;
        assert_eq!((whole.status, &whole.body[..]), (200, &blob.bytes()[..]));
        let part = peer.get_with(&target, &[("Range", "bytes=40-59")]).await;
        assert_eq!((part.status, &part.body[..]), (206, &blob.bytes()[40..60]));
        assert_eq!(part.header("content-range"), Some(format!("bytes 40-59/{}", blob.size_bytes()).as_str()));
        let rest = peer.get_with(&target, &[("Range", &format!("bytes=40-{}", blob.size_bytes() - 1))]).await;
        assert_eq!((rest.status, &rest.body[..]), (206, &blob.bytes()[40..]));
        let beyond = peer.get_with(&target, &[("Range", &format!("bytes={}-", blob.size_bytes()))]).await;
        assert_eq!(beyond.status, 416);
    }
    assert_eq!(peer.get(&format!("/outport/v1/content/{}", Digest::sha256(b"never pushed"))).await.status, 404);
    edge.finish().await;
}

/// 404 is confirmed absence; what cannot be told is 503.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_bucket_a_region_denies_nothing() {
    let (edge, peer) = eu().await;
    let image = Image::new(6, &[1_000]);
    push(&edge.client, "team/app", Some("v1"), &image).await;
    let told = status(&peer).await;
    let (bucket, away) = (edge.data_dir().join("bucket"), edge.data_dir().join("away"));
    std::fs::rename(&bucket, &away).expect("our own folder");
    // What was looked at a moment ago is not looked at again.
    tokio::time::sleep(Duration::from_millis(400)).await;
    for target in [
        "/outport/v1/ledger".to_owned(),
        format!("/outport/v1/ledger/eu.{}?after={}", told.incarnation, told.seq),
        "/outport/v1/ledger/us.01ARZ3NDEKTSV4RRFFQ69G5FAV?after=0".to_owned(),
        format!("/outport/v1/ledger/eu.{}/snapshots", told.incarnation),
        format!("/outport/v1/ledger/eu.{}/snapshots/{SNAPSHOT}/manifest", told.incarnation),
        "/outport/v1/resolve?repository=team/app&reference=v1".to_owned(),
        "/outport/v1/resolve?repository=team/app&reference=v2".to_owned(),
        format!("/outport/v1/content/{}", Digest::sha256(b"never pushed")),
    ] {
        unavailable(&peer.get(&target).await);
    }
    // What cannot have changed is told all the same.
    let found = resolved(&peer, &format!("repository=team/app&reference={}", image.digest())).await;
    assert_eq!(found.digest.to_string(), image.digest());
    std::fs::rename(&away, &bucket).expect("our own folder");
    edge.finish().await;
}

fn location(answer: &Response) -> String {
    answer.header("location").expect("a location").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_in_any_region() {
    let (eu, us) = regions();
    let (eu, us) = (eu.start().await, us.start().await);
    let blob = Blob::seeded(7, 200_000);
    let bytes = blob.bytes();
    let begun = eu.client.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    assert!(begun.status == 202 && location(&begun).contains("=eu~"), "{}", location(&begun));
    let chunk = us.client.send_with("PATCH", &location(&begun), &[("Content-Range", "0-149999")], &bytes[..150_000]).await;
    assert_eq!((chunk.status, chunk.header("range")), (202, Some("0-149999")), "{}", chunk.text());
    assert!(location(&chunk).contains("=eu~") && chunk.header("outport-peer").is_none());
    let asked = us.client.get(&location(&chunk)).await;
    assert_eq!((asked.status, asked.header("range")), (204, Some("0-149999")));
    let close = format!("{}&digest={}", location(&asked), blob.digest());
    let closed = us.client.send_with("PUT", &close, &[("Content-Range", "150000-199999")], &bytes[150_000..]).await;
    assert_eq!(closed.status, 201, "{}", closed.text());
    assert!(closed.header("outport-position").is_some_and(|position| position.starts_with("eu.")));
    let pulled = eu.client.get(&format!("/v2/team/app/blobs/{}", blob.digest())).await;
    assert_eq!((pulled.status, &pulled.body[..]), (200, &bytes[..]));

    // Nobody knows the region, or it is not that region's, or what was sealed was changed.
    let begun = location(&eu.client.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await);
    for changed in [begun.replace("=eu~", "=ap~"), begun.replace("=eu~", "=us~"), begun.replace("=eu~", "="), format!("{begun}x")] {
        for edge in [&eu, &us] {
            let refused = edge.client.send_with("PATCH", &changed, &[], b"x").await;
            assert_eq!((refused.status, refused.error_code().as_deref()), (404, Some("BLOB_UPLOAD_UNKNOWN")), "{changed}");
        }
    }
    // With its region gone an upload is begun anew at once.
    eu.finish().await;
    let lost = us.client.send_with("PATCH", &begun, &[], b"x").await;
    assert_eq!((lost.status, lost.error_code().as_deref()), (404, Some("BLOB_UPLOAD_UNKNOWN")), "{}", lost.text());
    let metrics = us.metrics().await;
    for outcome in ["answered", "unavailable"] {
        assert!(metrics.contains(&format!("outport_peer_requests_total{{outcome=\"{outcome}\",region=\"eu\"}}")), "{metrics}");
    }
    us.finish().await;
}

/// Each of two regions takes the other's address for a third one's: a request does not go round.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_on_once_is_not_passed_on_again() {
    let (eu, us) = (own_addresses(), own_addresses());
    let (eu, us) = (region("eu", eu, ("ap", us[0])).start().await, region("us", us, ("ap", eu[0])).start().await);
    let begun = location(&eu.client.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await);
    let refused = us.client.send_with("PATCH", &begun.replace("=eu~", "=ap~"), &[], b"x").await;
    assert_eq!((refused.status, refused.error_code().as_deref()), (404, Some("BLOB_UPLOAD_UNKNOWN")), "{}", refused.text());
    eu.finish().await;
    us.finish().await;
}
