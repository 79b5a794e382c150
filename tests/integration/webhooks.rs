//! Webhooks: what receivers are told, by whom and how often, while they take it, fail, hang or are away.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::client::Client;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::{Image, index_of};
use crate::harness::push::{push, push_blob, push_manifest};
use crate::harness::receiver::Receiver;
use crate::harness::regions::{Reach, World, metric, until};

/// Longer than an edge takes to look at what it has committed.
const A_WHILE: Duration = Duration::from_secs(3);

/// Anybody may push, `root` is the owner, and a receiver is told.
fn settings(receiver: &Receiver, lines: &str) -> Settings {
    let settings = Settings::new().open_to_pushes().pusher("root", "[]", "[]").pusher("reader", "[]", "[]");
    let roles = "[[role]]\nrole = \"Owner\"\nprincipals = [\"root\"]\n[[role]]\nrole = \"Reader\"\nprincipals = [\"reader\"]\n";
    let table = receiver.table(&settings, lines);
    settings.table(roles).table(&table)
}

fn with_role(edge: &TestEdge, name: &str) -> Client {
    edge.client.clone().with_basic(name, "secret")
}

/// How a receiver stands, as its edge tells.
async fn shown(edge: &TestEdge) -> Value {
    let answer = with_role(edge, "reader").get("/outport/v1/webhooks").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["webhooks"][0].clone()
}

/// Waits for an event of this action.
async fn told(receiver: &Receiver, action: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} events of {action} are told"), || async { receiver.taken(action).len() >= count }).await;
    receiver.taken(action)
}

#[tokio::test]
async fn pushes_and_deletions_are_told_signed_and_once() {
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "").start().await;
    let (client, image) = (edge.client.clone().with("User-Agent", "docker/27"), Image::new(1, &[300_000, 1_000]));
    for blob in &image.blobs {
        push_blob(&client, "team/app", blob).await;
    }
    let pushed = push_manifest(&client, "team/app", Some("v1"), &image.manifest).await;
    let told_push = told(&receiver, "push", 1).await.remove(0);
    let target = json!({
        "mediaType": image.manifest.media_type, "size": image.manifest.bytes.len(), "digest": image.digest(),
        "length": image.manifest.bytes.len(), "repository": "team/app", "tag": "v1",
    });
    assert_eq!((&told_push["target"], told_push["region"].as_str()), (&target, Some("test")));
    let request = json!({
        "id": pushed.header("x-request-id"), "host": edge.address().to_string(), "method": "PUT", "useragent": "docker/27",
    });
    assert_eq!(told_push["request"], request);
    // All of it is here.
    let available = told(&receiver, "available", 1).await.remove(0);
    assert_eq!((&available["target"], available["region"].as_str()), (&target, Some("test")));

    // A lock says the tag again; that is no push.
    for attributes in [&br#"{"writeEnabled":false}"#[..], br#"{"writeEnabled":true}"#] {
        let json = [("Content-Type", "application/json")];
        assert_eq!(with_role(&edge, "root").send_with("PATCH", "/acr/v1/team/app/_tags/v1", &json, attributes).await.status, 200);
    }
    // The same under another name, and another one by its digest alone.
    push_manifest(&client, "team/app", Some("v2"), &image.manifest).await;
    push(&client, "team/other", None, &Image::new(2, &[100])).await;
    let mut names: Vec<Value> = told(&receiver, "push", 3).await.iter().map(|event| event["target"]["tag"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, [json!("v1"), json!("v2"), Value::Null]);

    client.send_with("DELETE", "/v2/team/app/manifests/v2", &[], b"").await;
    let path = format!("/v2/team/app/manifests/{}", image.digest());
    assert_eq!(client.send_with("DELETE", &path, &[], b"").await.status, 202);
    let deletions = told(&receiver, "delete", 2).await;
    assert!(deletions.iter().any(|event| event["target"] == json!({"repository": "team/app", "tag": "v2"})), "{deletions:?}");
    let whole = deletions.iter().find(|event| event["target"]["digest"] == image.digest()).expect("the manifest's end is told");
    assert_eq!((&whole["target"]["mediaType"], &whole["request"]["method"]), (&json!(image.manifest.media_type), &json!("DELETE")));

    tokio::time::sleep(A_WHILE).await;
    let got = receiver.got();
    let mut ids: Vec<&str> = got.iter().map(|got| got.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), got.len(), "each is told once");
    assert_eq!(receiver.taken("push").len(), 3, "{:?}", receiver.taken("push"));
    edge.finish().await;
}

#[tokio::test]
async fn what_belongs_to_an_index_is_told_with_it() {
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "actions = [\"push\", \"available\"]\nrepositories = [\"team/**\"]").start().await;
    let (amd64, arm64) = (Image::new(1, &[1_000]), Image::new(2, &[1_000]));
    for image in [&amd64, &arm64] {
        push(&edge.client, "team/app", None, image).await;
        push(&edge.client, "other/app", Some("v1"), image).await;
    }
    let index = index_of(&amd64, &arm64);
    assert_eq!(push_manifest(&edge.client, "team/app", Some("v1"), &index).await.status, 201);
    until("the index is available", || async {
        receiver.taken("available").iter().any(|event| event["target"]["digest"] == index.digest.as_str())
    })
    .await;
    assert_eq!(told(&receiver, "push", 3).await.len(), 3);
    tokio::time::sleep(A_WHILE).await;
    assert!(receiver.got().iter().all(|got| got.event["target"]["repository"] == "team/app"));
    edge.finish().await;
}

#[tokio::test]
async fn a_receiver_that_fails_is_told_again_until_it_wants_no_more() {
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "actions = [\"push\"]").start().await;
    receiver.answer(&[500, 302]);
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
    told(&receiver, "push", 1).await;
    let got = receiver.got();
    assert_eq!(got.iter().map(|got| got.status).collect::<Vec<_>>(), [Some(500), Some(302), Some(200)]);
    assert!(got.iter().all(|one| one.id() == got[0].id()), "it is the same event each time");
    let delivered = "outport_webhook_deliveries_total{outcome=\"delivered\",webhook=\"hook\"}";
    until("it is counted", || async { metric(&edge, delivered).await == 1.0 }).await;
    assert_eq!(metric(&edge, "outport_webhook_deliveries_total{outcome=\"failed\",webhook=\"hook\"}").await, 2.0);
    receiver.answer(&[410]);
    push(&edge.client, "team/app", Some("v2"), &Image::new(2, &[100])).await;
    until("it is dropped", || async { metric(&edge, "outport_webhook_dropped_total{reason=\"gone\",webhook=\"hook\"}").await == 1.0 })
        .await;
    let shown = shown(&edge).await;
    let outcomes = json!([["gone", 1, 410], ["delivered", 3, 200]]);
    let found: Vec<Value> =
        shown["deliveries"].as_array().unwrap().iter().map(|one| json!([one["outcome"], one["tries"], one["status"]])).collect();
    assert_eq!(Value::from(found), outcomes);
    assert_eq!((&shown["waiting"], shown["url"].as_str().unwrap().contains("x=1")), (&json!(0), false));
    edge.finish().await;
}

#[tokio::test]
async fn a_push_waits_for_no_receiver_and_what_waits_is_bounded() {
    const PUSHES: usize = 20;
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "actions = [\"push\"]\nqueue = 6\ntimeout = \"4s\"").start().await;
    receiver.set_hanging(true);
    let image = Image::new(1, &[100]);
    push(&edge.client, "team/app", Some("v0"), &image).await;
    until("the receiver hangs", || async { !receiver.got().is_empty() }).await;
    for number in 1..PUSHES {
        let began = Instant::now();
        let pushed = push_manifest(&edge.client, "team/app", Some(&format!("v{number}")), &image.manifest).await;
        assert_eq!(pushed.status, 201);
        assert!(began.elapsed() < Duration::from_secs(3), "a push took {:?}", began.elapsed());
    }
    let dropped = "outport_webhook_dropped_total{reason=\"queue\",webhook=\"hook\"}";
    until("the oldest are dropped", || async { metric(&edge, dropped).await == (PUSHES - 6) as f64 }).await;
    assert_eq!(metric(&edge, "outport_webhook_waiting{webhook=\"hook\"}").await, 6.0);
    assert_eq!(shown(&edge).await["waiting"], 6);
    receiver.set_hanging(false);
    let pushes = told(&receiver, "push", 6).await;
    let tags: Vec<&str> = pushes.iter().filter_map(|event| event["target"]["tag"].as_str()).collect();
    assert!(tags.contains(&"v19") && tags.len() == 6, "{tags:?}");
    until("nothing waits", || async { metric(&edge, "outport_webhook_waiting{webhook=\"hook\"}").await == 0.0 }).await;
    edge.finish().await;
}

#[tokio::test]
async fn who_is_away_is_told_after_a_restart() {
    // Nobody is there for now.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let nobody = Receiver::start().await;
    let settings = settings(&nobody, "actions = [\"push\"]").table(&format!(
        "[[webhook]]\nname = \"later\"\nurl = \"http://{address}/hook?x=1\"\nsecret_file = \"webhook-secret\"\nactions = [\"push\"]"
    ));
    let mut edge = settings.start().await;
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
    told(&nobody, "push", 1).await;
    until("it is tried", || async { metric(&edge, "outport_webhook_deliveries_total{outcome=\"failed\",webhook=\"later\"}").await > 0.0 })
        .await;
    edge.restart().await;
    let receiver = Receiver::start_at(address).await;
    let later = told(&receiver, "push", 1).await.remove(0);
    assert_eq!((&later["id"], later["target"]["tag"].as_str()), (&nobody.taken("push")[0]["id"], Some("v1")));
    // Who was told is not told again, and is told what comes now.
    push(&edge.client, "team/app", Some("v2"), &Image::new(2, &[100])).await;
    assert_eq!(told(&nobody, "push", 2).await.len(), 2);
    assert_eq!(nobody.got().len(), 2);
    edge.finish().await;
}

#[tokio::test]
async fn a_killed_edge_tells_what_it_had_committed() {
    let receiver = Receiver::start().await;
    receiver.set_hanging(true);
    let mut edge = settings(&receiver, "actions = [\"push\"]").spawn().await;
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
    edge.kill();
    receiver.set_hanging(false);
    edge.start_again().await;
    let pushes = told(&receiver, "push", 1).await;
    assert_eq!(pushes[0]["target"]["tag"], "v1");
    edge.finish().await;
}

#[tokio::test]
async fn a_reload_takes_effect() {
    let (first, second) = (Receiver::start().await, Receiver::start().await);
    let mut edge = settings(&first, "actions = [\"push\"]").spawn().await;
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
    told(&first, "push", 1).await;
    let (from, to) = (first.address.to_string(), second.address.to_string());
    edge.rewrite(|text| *text = text.replace(&from, &to));
    edge.signal(Signal::HUP);
    until("it is taken over", || async {
        edge.metrics().await.contains("outport_config_reloads_total{outcome=\"applied\",what=\"config\"} 1")
    })
    .await;
    push(&edge.client, "team/app", Some("v2"), &Image::new(2, &[100])).await;
    let pushes = told(&second, "push", 1).await;
    assert_eq!((pushes.len(), pushes[0]["target"]["tag"].as_str(), first.got().len()), (1, Some("v2"), 1));
    edge.finish().await;
}

#[tokio::test]
async fn other_regions_tell_what_is_theirs() {
    let receiver = Receiver::start().await;
    let world = World::start_with(
        &["eu", "us"],
        |_, settings| {
            let table = receiver.table(&settings, "");
            settings.open_to_pushes().table("[[hosted]]\npattern = \"team/**\"\nreplicate = \"all\"").table(&table)
        },
        Reach::Edges,
    )
    .await;
    let image = Image::new(1, &[300_000, 1_000]);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    let available = told(&receiver, "available", 2).await;
    let mut regions: Vec<&str> = available.iter().filter_map(|event| event["region"].as_str()).collect();
    regions.sort_unstable();
    assert_eq!(regions, ["eu", "us"]);
    assert!(available.iter().all(|event| event["target"]["digest"] == image.digest()));
    // What travels in the ledger needs no copy.
    let small = Image::new(2, &[100]);
    push(world.client("us"), "team/small", Some("v1"), &small).await;
    let of_small = || receiver.taken("available").into_iter().filter(|event| event["target"]["repository"] == "team/small").count();
    until("both regions have it", || async { of_small() == 2 }).await;

    world.cut_off("us");
    let (ours, theirs) = (Image::new(3, &[1_000]), Image::new(4, &[1_000]));
    push(world.client("eu"), "team/app", Some("latest"), &ours).await;
    push(world.client("us"), "team/app", Some("latest"), &theirs).await;
    assert_eq!(receiver.taken("conflict").len(), 0);
    world.mend("us");
    let conflict = told(&receiver, "conflict", 1).await.remove(0);
    let prevails = world.client("us").get("/v2/team/app/manifests/latest").await.header("docker-content-digest").unwrap().to_owned();
    let (region, loser) = if prevails == ours.digest() { ("eu", &theirs) } else { ("us", &ours) };
    assert_eq!(conflict["target"]["digest"], prevails);
    assert_eq!((&conflict["region"], &conflict["target"]["losers"]), (&json!(region), &json!([loser.digest()])));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(receiver.taken("conflict").len(), 1);
    let mut pushes: Vec<String> =
        receiver.taken("push").iter().map(|event| format!("{} {}", event["region"], event["target"]["repository"])).collect();
    pushes.sort();
    assert_eq!(pushes, ["\"eu\" \"team/app\"", "\"eu\" \"team/app\"", "\"us\" \"team/app\"", "\"us\" \"team/small\""]);
    world.finish().await;
}

#[tokio::test]
async fn only_those_who_may_see_receivers_and_ping_them() {
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "").start().await;
    for (who, list, ping) in [(None, 401, 401), (Some("reader"), 200, 403), (Some("root"), 200, 200)] {
        let client = who.map_or_else(|| edge.client.clone(), |name| with_role(&edge, name));
        assert_eq!(client.get("/outport/v1/webhooks").await.status, list, "{who:?}");
        assert_eq!(client.send_with("POST", "/outport/v1/webhooks/hook/ping", &[], b"").await.status, ping, "{who:?}");
    }
    let root = with_role(&edge, "root");
    assert_eq!(root.send_with("POST", "/outport/v1/webhooks/none/ping", &[], b"").await.status, 404);
    let ping = receiver.taken("ping").remove(0);
    assert_eq!((ping.get("target"), ping["region"].as_str(), receiver.taken("ping").len()), (None, Some("test"), 1));
    receiver.answer(&[503]);
    let refused = root.send_with("POST", "/outport/v1/webhooks/hook/ping", &[], b"").await;
    assert_eq!((refused.status, refused.json()["outcome"].as_str(), refused.json()["status"].as_u64()), (200, Some("failed"), Some(503)));
    edge.finish().await;
}

fn outport(edge: &TestEdge, arguments: &[&str]) -> Output {
    let (url, password) = (format!("http://{}", edge.address()), edge.config_path().with_file_name("root.password"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_outport"));
    command.args(arguments).args(["--edge", &url, "--username", "root", "--password-file"]).arg(password);
    tokio::task::block_in_place(|| command.output().expect("the binary runs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_show_receivers_and_events() {
    let receiver = Receiver::start().await;
    let edge = settings(&receiver, "actions = [\"push\"]").start().await;
    push(&edge.client, "team/app", Some("v1"), &Image::new(1, &[100])).await;
    told(&receiver, "push", 1).await;
    let text = |output: &Output| String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    let list = outport(&edge, &["webhook", "list"]);
    assert!(list.status.success() && text(&list).contains("hook  http://127.0.0.1:"), "{}", text(&list));
    until("the event is shown", || async { text(&outport(&edge, &["webhook", "events", "hook"])).contains("team/app:v1") }).await;
    let ping = outport(&edge, &["webhook", "ping", "hook"]);
    assert!(ping.status.success() && text(&ping).contains("it answered 200"), "{}", text(&ping));
    receiver.answer(&[500]);
    let refused = outport(&edge, &["webhook", "ping", "hook"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let unknown = outport(&edge, &["webhook", "events", "none"]);
    assert!(unknown.status.code() == Some(1) && text(&unknown).contains("there is no webhook"), "{}", text(&unknown));
    edge.finish().await;
}
