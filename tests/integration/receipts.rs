//! Receipts, waits, conflicts and the operators' overview, with several regions.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Client, Response};
use crate::harness::image::Image;
use crate::harness::push::{push, push_blob, push_manifest};
use crate::harness::regions::{Reach, World, until};

const THREE: &[&str] = &["ap", "eu", "us"];
const TWO: &[&str] = &["eu", "us"];
const COPIED: &str = "[[hosted]]\npattern = \"all/**\"\nreplicate = \"all\"";

/// Beyond what travels in the ledger.
const LARGE: u64 = 300_000;

fn image(seed: u64) -> Image {
    Image::new(seed, &[LARGE, 1_000])
}

/// All that it consists of, each once.
fn size(image: &Image) -> u64 {
    let blobs: u64 = image.blobs.iter().map(|blob| blob.bytes().len() as u64).sum();
    blobs + image.manifest.bytes.len() as u64
}

async fn receipt(client: &Client, repository: &str, tag: &str) -> Response {
    client.get(&format!("/outport/v1/replication/{repository}/{tag}")).await
}

/// What a receipt says of a region.
fn of<'a>(receipt: &'a Value, region: &str) -> &'a Value {
    let regions = receipt["regions"].as_array().expect("a receipt has regions");
    regions.iter().find(|told| told["region"] == region).unwrap_or_else(|| panic!("{region} is not in {receipt}"))
}

async fn see_each_other(world: &World, regions: &[&str]) {
    for region in regions {
        until("regions see each other", || async { world.client(region).get("/v2/none/tags/list").await.status == 404 }).await;
    }
}

fn not_yet(answer: &Response) -> String {
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("UNAVAILABLE")), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    answer.json()["errors"][0]["detail"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_receipt_goes_from_unknown_to_known_to_held() {
    let world = World::start(THREE, COPIED).await;
    see_each_other(&world, THREE).await;
    let image = image(1);
    let eu = world.client("eu");
    assert_eq!(receipt(eu, "all/app", "v1").await.status, 404);
    world.cut_off("us");
    push(eu, "all/app", Some("v1"), &image).await;
    // What a region said is believed for a second.
    until("us is known to be away", || async { of(&receipt(eu, "all/app", "v1").await.json(), "us")["visible"] == false }).await;
    let told = receipt(eu, "all/app", "v1").await.json();
    assert_eq!((told["digest"].as_str(), told["bytes_total"].as_u64()), (Some(image.digest()), Some(size(&image))), "{told}");
    assert!(told["position"].as_str().is_some_and(|position| position.starts_with("eu.")), "{told}");
    let own = of(&told, "eu");
    assert_eq!((&own["known"], &own["complete"], &own["visible"]), (&true.into(), &true.into(), &true.into()), "{told}");
    assert_eq!((own["bytes_held"].as_u64(), own["known_at_ms"].as_u64()), (Some(size(&image)), told["pushed_at_ms"].as_u64()), "{told}");
    assert!(own["held_at_ms"].as_u64() >= told["pushed_at_ms"].as_u64(), "{told}");
    // Of the one that is cut off nothing is pretended.
    let away = of(&told, "us");
    assert_eq!((&away["visible"], &away["known"], &away["complete"]), (&false.into(), &Value::Null, &false.into()), "{told}");
    assert_eq!(away["bytes_held"], 0, "{told}");
    let since = away["blind_since_ms"].as_u64().expect("since when it is blind");
    assert!(since > 0 && since <= told["pushed_at_ms"].as_u64().unwrap_or_default() + 60_000, "{told}");
    until("ap holds it", || async { of(&receipt(eu, "all/app", "v1").await.json(), "ap")["complete"] == true }).await;
    world.mend("us");
    until("us knows it", || async { of(&receipt(eu, "all/app", "v1").await.json(), "us")["known"] == true }).await;
    until("us holds it and can be asked", || async {
        let told = receipt(eu, "all/app", "v1").await.json();
        of(&told, "us")["complete"] == true && of(&told, "us")["visible"] == true
    })
    .await;
    let told = receipt(eu, "all/app", "v1").await.json();
    let there = of(&told, "us");
    assert_eq!((there["bytes_held"].as_u64(), &there["visible"]), (Some(size(&image)), &true.into()), "{told}");
    // It was seen to come.
    assert!(there["known_at_ms"].as_u64() > told["pushed_at_ms"].as_u64() && there["held_at_ms"].is_u64(), "{told}");
    // Each region tells the same.
    for region in THREE {
        let told = receipt(world.client(region), "all/app", "v1").await.json();
        assert!(THREE.iter().all(|other| of(&told, other)["known"] == true), "{region}: {told}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_lazy_image_is_known_everywhere_and_held_where_it_was_pushed() {
    let world = World::start(TWO, "").await;
    let image = image(2);
    push(world.client("eu"), "lazy/app", Some("v1"), &image).await;
    let waited = world.client("us").get("/outport/v1/wait?image=lazy/app:v1&hold=known&timeout=10s").await;
    assert_eq!(waited.status, 200, "{}", waited.text());
    let told = waited.json();
    let us = of(&told, "us");
    // The manifest, the configuration and the small layer travel in the ledger.
    assert_eq!((us["known"].as_bool(), us["bytes_held"].as_u64()), (Some(true), Some(size(&image) - LARGE)), "{told}");
    assert_eq!((&us["complete"], &of(&told, "eu")["complete"]), (&false.into(), &true.into()), "{told}");
    let asked = Instant::now();
    let lacking = not_yet(&world.client("us").get("/outport/v1/wait?image=lazy/app:v1&timeout=300ms").await);
    assert_eq!(lacking, format!("us holds {} of {} bytes", size(&image) - LARGE, size(&image)));
    assert!(asked.elapsed() >= Duration::from_millis(300) && asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(world.client("us").get("/outport/v1/wait?image=lazy/app:v1&timeout=1s&regions=1").await.status, 200);
    assert_eq!(world.client("us").get("/outport/v1/wait?image=lazy/app:v1&timeout=1s&regions=eu").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_wait_returns_as_soon_as_it_is_held() {
    let world = World::start(THREE, COPIED).await;
    see_each_other(&world, THREE).await;
    for number in 0..3 {
        let (image, tag) = (image(10 + number), format!("v{number}"));
        push(world.client("eu"), "all/app", Some(&tag), &image).await;
        let waited = world.client("eu").get(&format!("/outport/v1/wait?image=all/app:{tag}&regions=all&timeout=20s")).await;
        assert_eq!(waited.status, 200, "{}", waited.text());
        let told = waited.json();
        assert!(THREE.iter().all(|region| of(&told, region)["complete"] == true), "{told}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_wait_for_a_region_that_is_away_ends_honestly_and_holds_when_it_is_back() {
    let world = World::start(THREE, COPIED).await;
    see_each_other(&world, THREE).await;
    world.cut_off("us");
    let image = image(20);
    let eu = world.client("eu");
    for blob in &image.blobs {
        push_blob(eu, "all/app", blob).await;
    }
    let pushed = push_manifest(eu, "all/app", Some("v1"), &image.manifest).await;
    let position = pushed.header("outport-position").expect("a push has a position").to_owned();
    let of_image = "/outport/v1/wait?image=all/app:v1&hold=known";
    let of_position = format!("/outport/v1/wait?position={position}");
    for target in [of_image, &of_position] {
        let lacking = not_yet(&eu.get(&format!("{target}&regions=all&timeout=2s")).await);
        assert_eq!(lacking, "us cannot be asked now");
        assert_eq!(eu.get(&format!("{target}&regions=2&timeout=20s")).await.status, 200, "{target}");
        assert_eq!(eu.get(&format!("{target}&regions=eu,ap&timeout=20s")).await.status, 200, "{target}");
    }
    let waiting = async { (eu.get(&format!("{of_image}&timeout=20s")).await, eu.get(&format!("{of_position}&timeout=20s")).await) };
    let mending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.mend("us");
    };
    let ((by_image, by_position), ()) = tokio::join!(waiting, mending);
    assert_eq!((by_image.status, by_position.status), (200, 200), "{} {}", by_image.text(), by_position.text());
    world.finish().await;
}

#[tokio::test]
async fn what_cannot_be_waited_for_is_refused_at_once() {
    let world = World::start(TWO, "").await;
    see_each_other(&world, TWO).await;
    let eu = world.client("eu");
    for (query, status) in [
        ("image=team/none:v1", 404),
        ("image=canary.test/bird:v1", 404),
        ("image=team/app:v1&regions=mars", 400),
        ("image=team/app:v1&regions=3", 400),
        ("position=mars.01@1", 400),
        ("position=eu.01@1&timeout=soon", 400),
        ("position=eu@1", 400),
        ("", 400),
    ] {
        let answer = eu.get(&format!("/outport/v1/wait?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    assert_eq!(eu.get("/outport/v1/replication/canary.test/bird/v1").await.status, 404);
    // A state that is still to come is known nowhere.
    assert_eq!(not_yet(&eu.get("/outport/v1/wait?position=eu.01@99&regions=eu&timeout=200ms").await), "eu does not know it yet");
    world.finish().await;
}

#[tokio::test]
async fn a_region_that_is_read_from_its_store_has_receipts_too() {
    let world = World::start_reaching(TWO, "", Reach::Stores).await;
    push(world.client("eu"), "team/app", Some("v1"), &image(30)).await;
    let waited = world.client("us").get("/outport/v1/wait?image=team/app:v1&hold=known&timeout=15s").await;
    assert_eq!(waited.status, 200, "{}", waited.text());
    assert_eq!(of(&waited.json(), "eu")["visible"], true);
    world.finish().await;
}

#[tokio::test]
async fn conflicts_are_listed_after_regions_pushed_apart_to_those_who_may_read_them() {
    let world = World::start(TWO, "").await;
    see_each_other(&world, TWO).await;
    let (ours, theirs) = (image(40), image(41));
    assert_eq!(world.client("eu").get("/outport/v1/conflicts").await.json()["conflicts"], serde_json::json!([]));
    world.cut_off("us");
    for repository in ["team/app", "team/web"] {
        push(world.client("eu"), repository, Some("v1"), &ours).await;
        push(world.client("us"), repository, Some("v1"), &theirs).await;
    }
    world.mend("us");
    for region in TWO {
        let client = world.client(region);
        until("the conflicts are known", || async {
            client.get("/outport/v1/conflicts").await.json()["conflicts"].as_array().is_some_and(|found| found.len() == 2)
        })
        .await;
        let first = client.get("/outport/v1/conflicts?n=1").await;
        assert_eq!(first.header("link"), Some("</outport/v1/conflicts?n=1&last=team%2Fapp%3Av1>; rel=\"next\""));
        let second = client.get("/outport/v1/conflicts?n=1&last=team%2Fapp%3Av1").await;
        for (answer, repository) in [(&first, "team/app"), (&second, "team/web")] {
            let told = answer.json()["conflicts"].clone();
            assert_eq!(told.as_array().map(Vec::len), Some(1), "{told}");
            let (conflict, winner) = (&told[0], theirs.digest());
            assert_eq!((conflict["repository"].as_str(), conflict["tag"].as_str()), (Some(repository), Some("v1")), "{told}");
            // us pushed later.
            assert_eq!((conflict["winner"].as_str(), &conflict["losers"]), (Some(winner), &serde_json::json!([ours.digest()])));
        }
        assert_eq!(second.header("link"), None);
        let overview = client.get("/outport/v1/status").await.json();
        assert_eq!(overview["ledger"]["conflicts"], 2, "{overview}");
    }
    // A push that has seen both ends it.
    push(world.client("eu"), "team/app", Some("v1"), &image(42)).await;
    let left = world.client("eu").get("/outport/v1/conflicts").await.json();
    assert_eq!(left["conflicts"].as_array().map(Vec::len), Some(1), "{left}");
    world.finish().await;
}

#[tokio::test]
async fn the_overview_tells_lag_and_blindness_and_why_only_to_operators() {
    let world = World::start(TWO, "").await;
    see_each_other(&world, TWO).await;
    push(world.client("eu"), "team/app", Some("v1"), &image(50)).await;
    let us = world.edge("us");
    let peer = || async { us.client.get("/outport/v1/status").await.json()["peers"][0].clone() };
    until("us is level", || async {
        let peer = peer().await;
        peer["behind_events"] == 0 && peer["visible"] == true && peer["folded"].as_u64().is_some_and(|folded| folded > 0)
    })
    .await;
    let overview = us.client.get("/outport/v1/status").await.json();
    assert_eq!((overview["region"].as_str(), &overview["ledger"]["fenced"]), (Some("us"), &Value::Null), "{overview}");
    assert!(overview["ledger"]["position"].as_str().is_some_and(|position| position.starts_with("us.")), "{overview}");
    assert_eq!(overview["backlog"]["contents"], 0, "{overview}");
    // The push is known in us: eu hears it when somebody wants to know.
    until("eu knows what us knows", || async {
        let seen = world.client("eu").get("/outport/v1/status").await.json();
        let known = seen["peers"][0]["seen_of_us"].to_string();
        seen["ledger"]["position"].as_str().and_then(|position| position.rsplit('@').next()) == Some(&known)
    })
    .await;
    world.cut_off("eu");
    until("us is blind", || async { peer().await["visible"] == false }).await;
    let told = peer().await;
    assert!(told["behind_ms"].as_u64().is_some_and(|ms| ms >= 1_000) && told["blind_since_ms"].is_u64(), "{told}");
    assert_eq!(told.get("blind"), None, "{told}");
    let all = us.ops.get("/status").await.json();
    assert!(all["peers"][0]["blind"].is_string(), "{all}");
    world.mend("eu");
    world.finish().await;
}
