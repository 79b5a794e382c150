//! Opening: which root, agreed by whom, and what is refused.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::testing::{Fault, Faults, SimulatedStore, Verb};
use super::{Bucket, BucketError, Key, OpenError, check};
use crate::bucket::conformance::{pattern, settings};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(1_700_000_000_000))
}

#[tokio::test(start_paused = true)]
async fn racing_nodes_agree_on_one_root() {
    for seed in 0..50 {
        let store = SimulatedStore::new(seed, clock());
        let nodes: Vec<_> = (0..5).map(|_| store.node()).collect();
        for node in &nodes {
            node.set_faults(Faults {
                false_exists: 100,
                exists_after: 100,
                latency: Duration::ZERO..Duration::from_millis(50),
                ..Faults::NONE
            });
        }
        let opened = join_all(nodes.iter().map(|node| Bucket::open_simulated(node, "eu", clock()))).await;
        let buckets: Vec<Bucket> = opened.into_iter().map(|bucket| bucket.unwrap()).collect();
        assert!(buckets.iter().all(|bucket| bucket.incarnation() == buckets[0].incarnation()), "{buckets:?}");
        let paths: Vec<String> = store.objects().into_keys().collect();
        let incarnation = buckets[0].incarnation();
        assert_eq!(paths, [format!("eu.{incarnation}/format.json"), "eu.incarnations/00000000000000000001".to_owned()]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_incarnation_is_in_force() {
    let store = SimulatedStore::new(1, clock());
    let first = Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap();
    let later = first.fresh_ulid();
    store.plant("eu.incarnations/00000000000000000002", format!(r#"{{"format":1,"region":"eu","incarnation":"{later}","why":"lost"}}"#));
    assert_eq!(Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap().incarnation(), later.to_string());
    store.remove("eu.incarnations/00000000000000000002");
    assert_eq!(Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap().incarnation(), first.incarnation());
    assert_ne!(Bucket::open_simulated(&store.node(), "us", clock()).await.unwrap().incarnation(), later.to_string());
}

#[tokio::test(start_paused = true)]
async fn racing_nodes_begin_one_incarnation() {
    for seed in 0..50 {
        let store = SimulatedStore::new(seed, clock());
        let first = Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap();
        let nodes: Vec<_> = (0..5).map(|_| store.node()).collect();
        let mut buckets = Vec::new();
        for node in &nodes {
            buckets.push(Bucket::open_simulated(node, "eu", clock()).await.unwrap());
            node.set_faults(Faults {
                false_exists: 100,
                exists_after: 100,
                latency: Duration::ZERO..Duration::from_millis(50),
                ..Faults::NONE
            });
        }
        assert_eq!(first.is_in_force().await, Ok(true));
        let begun = join_all(buckets.iter().map(Bucket::begin_incarnation)).await;
        let begun: Vec<Bucket> = begun.into_iter().map(|bucket| bucket.unwrap()).collect();
        assert!(begun.iter().all(|bucket| bucket.incarnation() == begun[0].incarnation()), "{begun:?}");
        assert_eq!((first.is_in_force().await, begun[0].is_in_force().await), (Ok(false), Ok(true)));
        // Once more, from a node that slept over it.
        assert_eq!(first.begin_incarnation().await.unwrap().incarnation(), begun[0].incarnation());
        assert_eq!(store.objects().keys().filter(|path| path.starts_with("eu.incarnations/")).count(), 2);
        // And the one after it.
        let third = begun[1].begin_incarnation().await.unwrap();
        assert_eq!(Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap().incarnation(), third.incarnation());
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_incarnations_that_is_gone_begins_nothing() {
    let store = SimulatedStore::new(1, clock());
    let bucket = Bucket::simulated(&store.node(), "eu", clock());
    assert!(matches!(bucket.is_in_force().await, Err(OpenError::Format(_))));
    assert!(matches!(bucket.begin_incarnation().await, Err(OpenError::Format(_))));
    assert!(store.objects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_refused() {
    let entry = "eu.incarnations/00000000000000000001";
    let root = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let named = format!(r#"{{"format":1,"region":"eu","incarnation":"{root}"}}"#);
    let format = |least: u32, region: &str| {
        format!(r#"{{"format":{least},"least_reader":{least},"least_writer":{least},"region":"{region}","incarnation":"{root}"}}"#)
    };
    for (planted, why) in [
        (vec![(entry.to_owned(), "hello".to_owned())], "expected value"),
        (vec![(entry.to_owned(), named.replace(r#""format":1"#, r#""format":2"#))], "an entry of the incarnations"),
        (vec![(entry.to_owned(), named.replace(r#""eu""#, r#""us""#))], "an entry of the incarnations"),
        (vec![(entry.to_owned(), named.replace(root, "../x"))], "an entry of the incarnations"),
        (vec![(entry.to_owned(), named.clone()), (format!("eu.{root}/format.json"), format(2, "eu"))], "use a newer one"),
        (vec![(entry.to_owned(), named.clone()), (format!("eu.{root}/format.json"), format(1, "us"))], "belongs there"),
    ] {
        let store = SimulatedStore::new(1, clock());
        for (path, text) in &planted {
            store.plant(path, text.clone());
        }
        let error = Bucket::open_simulated(&store.node(), "eu", clock()).await.unwrap_err();
        assert!(matches!(&error, OpenError::Format(said) if said.contains(why)), "{error}");
        assert!(error.is_lasting());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_reached_is_tried_again() {
    let store = SimulatedStore::new(1, clock());
    let node = store.node();
    node.cut_off();
    let error = Bucket::open_simulated(&node, "eu", clock()).await.unwrap_err();
    assert!(!error.is_lasting() && matches!(error, OpenError::Bucket(BucketError::Unavailable { .. })), "{error}");
    node.heal();
    assert!(Bucket::open_simulated(&node, "eu", clock()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn opening_survives_a_rough_store_or_says_unavailable() {
    let mut opened = 0;
    for seed in 0..200 {
        let store = SimulatedStore::new(seed, clock());
        let node = store.node();
        node.set_faults(Faults::ROUGH);
        match Bucket::open_simulated(&node, "eu", clock()).await {
            Ok(_) => opened += 1,
            Err(OpenError::Bucket(BucketError::Unavailable { .. })) => {}
            Err(other) => panic!("{seed}: {other}"),
        }
    }
    assert!(opened > 10, "{opened}");
}

#[tokio::test]
async fn abandoned_probes_are_removed_and_fresh_ones_left() {
    let clock = clock();
    let store = SimulatedStore::new(1, clock.clone());
    let bucket = Bucket::simulated(&store.node(), "eu", clock.clone());
    let old = format!("eu.probes/{}", bucket.fresh_ulid());
    store.plant(&old, "x");
    clock.advance(Duration::from_secs(2 * 3600));
    let fresh = format!("eu.probes/{}", bucket.fresh_ulid());
    store.plant(&fresh, "x");
    Bucket::open_simulated(&store.node(), "eu", clock).await.unwrap();
    assert!(!store.objects().contains_key(&old) && store.objects().contains_key(&fresh));
}

#[tokio::test]
async fn a_folder_is_opened_again_and_swept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&format!("file://{}/bucket", folder.path().display()));
    let clock = Clock::system();
    let open = || Bucket::open(&settings, "eu", clock.clone(), Metrics::new());
    let (one, two) = tokio::join!(open(), open());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.incarnation(), two.incarnation());

    let key = Key::Blob(one.fresh_ulid());
    let mut upload = one.upload(&key).await.unwrap();
    upload.write(pattern(3 << 20)).await.unwrap();
    let file = one.local_file(&key).unwrap();
    let staged = || std::fs::read_dir(file.parent().unwrap()).unwrap().count();
    assert!(!file.exists() && staged() == 1);
    // As after a kill: nobody removes it.
    std::mem::forget(upload);
    assert_eq!(two.remove_staged(Duration::from_secs(60)).await, Ok(0));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(two.remove_staged(Duration::from_millis(10)).await, Ok(1));
    assert_eq!(staged(), 0);
}

#[tokio::test]
async fn a_folder_that_was_taken_away_is_unavailable_and_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (place, away) = (folder.path().join("bucket"), folder.path().join("away"));
    let settings = settings(&format!("file://{}", place.display()));
    let bucket = Bucket::open(&settings, "eu", Clock::system(), Metrics::new()).await.unwrap();
    let (key, bytes) = (Key::Ledger(1), Bytes::from_static(b"x"));
    bucket.create(&key, bytes.clone()).await.unwrap();
    let mut upload = bucket.upload(&Key::Blob(bucket.fresh_ulid())).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    std::fs::rename(&place, &away).unwrap();
    for is_replaced in [false, true] {
        if is_replaced {
            // As a mount point shows when its disk is gone.
            std::fs::create_dir(&place).unwrap();
        }
        assert!(matches!(bucket.read(&key, 10).await, Err(BucketError::Unavailable { .. })));
        assert!(matches!(bucket.create(&Key::Ledger(2), bytes.clone()).await, Err(BucketError::Unavailable { .. })));
        assert!(matches!(bucket.upload(&Key::Blob(bucket.fresh_ulid())).await.map(drop), Err(BucketError::Unavailable { .. })));
        assert!(matches!(bucket.delete(&key).await, Err(BucketError::Unavailable { .. })));
        assert!(matches!(bucket.list_blobs(0, None).await, Err(BucketError::Unavailable { .. })));
    }
    assert!(matches!(upload.finish().await, Err(BucketError::Unavailable { .. })));
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(&away, &place).unwrap();
    assert_eq!(bucket.read(&key, 10).await, Ok(Some(bytes)));
}

#[tokio::test]
async fn an_upload_never_takes_the_place_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&format!("file://{}", folder.path().display()));
    let bucket = Bucket::open(&settings, "eu", Clock::system(), Metrics::new()).await.unwrap();
    let key = Key::Blob(bucket.fresh_ulid());
    bucket.create(&key, Bytes::from_static(b"there")).await.unwrap();
    let mut upload = bucket.upload(&key).await.unwrap();
    upload.write(Bytes::from_static(b"other")).await.unwrap();
    assert!(matches!(upload.finish().await, Err(BucketError::Broken(_))));
    assert_eq!(bucket.read(&key, 10).await, Ok(Some(Bytes::from_static(b"there"))));
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted() {
    let store = SimulatedStore::new(1, clock());
    let node = store.node();
    let bucket = Bucket::simulated(&node, "eu", clock());
    node.plan(Verb::Create, Fault::Throttled);
    let _ = bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await;
    let _ = bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await;
    let _ = bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await;
    let _ = bucket.read(&Key::Ledger(2), 1).await;
    let text = bucket.wire().metrics.render();
    for line in [
        r#"outport_bucket_requests_total{outcome="unavailable",verb="create"} 1"#,
        r#"outport_bucket_requests_total{outcome="done",verb="create"} 1"#,
        r#"outport_bucket_requests_total{outcome="exists",verb="create"} 1"#,
        r#"outport_bucket_requests_total{outcome="absent",verb="read"} 1"#,
        r#"outport_bucket_bytes_total{direction="sent"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[test]
fn options_are_the_clients_own() {
    for (text, fault) in [
        ("s3://images;region=eu;endpoint=http://127.0.0.1:1;allow_http=true;aws_server_side_encryption=AES256", None),
        ("az://images;account_name=x;access_key=AAAA", None),
        ("gs://images;base_url=http://127.0.0.1:1;skip_signature=true", None),
        ("s3://images;colour=red", Some("has no option \"colour\"")),
        ("s3://images;bucket=other", Some("is set by url or request_timeout")),
        ("az://images", Some("Account must be specified")),
    ] {
        let outcome = check(&settings(text));
        match fault {
            None => assert_eq!(outcome, Ok(()), "{text}"),
            Some(why) => assert!(outcome.as_ref().is_err_and(|error| error.to_string().contains(why)), "{text}: {outcome:?}"),
        }
    }
}
