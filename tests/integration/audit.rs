//! The audit record over HTTP: every request that was authenticated leaves one entry, in whatever way it ends; the record is searched in
//! all regions; and nothing that happens to it holds up a pull.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::{Client, Response};
use crate::harness::disk::files;
use crate::harness::edge::Settings;
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::push::push;
use crate::harness::regions::{Reach, World, metric, until};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// Somebody who may read the record, and how often files are sent to the bucket.
fn auditor(folder: &TempDir) -> String {
    let file = folder.path().join("auditor.password");
    std::fs::write(&file, "secret").expect("a writable folder");
    format!(
        "[[principal]]\nname = \"auditor\"\npassword_files = [\"{}\"]\n[[role]]\nrole = \"Contributor\"\nprincipals = [\"auditor\"]\n\
         [audit]\nship_after = \"1s\"",
        file.display()
    )
}

/// An edge with an auditor; `ci` may push and pull `team/**`, `stranger` nothing, and nobody anything without signing in.
fn settings(folder: &TempDir) -> Settings {
    Settings::new()
        .access("anonymous_pull = [\"canary.test/**\"]")
        .pusher("ci", "[\"origin.test/**\"]", "[\"team/**\"]")
        .pusher("stranger", "[]", "[]")
        .table(&auditor(folder))
}

fn as_auditor(client: &Client) -> Client {
    client.without_headers().with_basic("auditor", "secret")
}

async fn search(client: &Client, query: &str) -> Value {
    let answer = as_auditor(client).get(&format!("/outport/v1/audit?limit=1000&{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn entries(answer: &Value) -> Vec<Value> {
    answer["entries"].as_array().expect("a list").clone()
}

/// What the record has of one request.
fn of(all: &[Value], request: &str) -> Vec<Value> {
    all.iter().filter(|entry| entry["request"] == request).cloned().collect()
}

/// A request, with headers and a body of its own, and what is recorded of it: principal, proof, action, status and outcome.
struct Call<'a> {
    client: &'a Client,
    method: &'a str,
    target: &'a str,
    sent: (&'a [(&'a str, &'a str)], &'a [u8]),
    expected: Value,
}

fn call<'a>(client: &'a Client, method: &'a str, target: &'a str, sent: (&'a [(&'a str, &'a str)], &'a [u8]), expected: Value) -> Call<'a> {
    Call { client, method, target, sent, expected }
}

#[tokio::test]
async fn each_kind_of_request_leaves_one_entry() {
    let folder = TempDir::new().unwrap();
    let (origin, proxied) = (Origin::start().await, Image::new(1, &[5_000]));
    origin.push("app", "v1", &proxied);
    let edge = settings(&folder).upstream("origin.test", &origin).start().await;
    let anyone = edge.client.without_headers();
    let (ci, stranger) = (anyone.clone().with_basic("ci", "secret"), anyone.clone().with_basic("stranger", "secret"));
    let wrong = anyone.clone().with_basic("ci", "wrong");
    let image = Image::new(2, &[3_000]);
    let (blob, manifest) = (&image.blobs[1], &image.manifest);
    let upload = format!("/v2/team/app/blobs/uploads/?digest={}", blob.digest());
    let begin = "/v2/team/app/blobs/uploads/".to_owned();
    let by_tag = "/v2/team/app/manifests/v1".to_owned();
    let by_digest = format!("/v2/team/app/manifests/{}", manifest.digest);
    let blob_path = format!("/v2/team/app/blobs/{}", blob.digest());
    let prefetched = json!({ "image": "origin.test/app:v1" }).to_string().into_bytes();
    push(&ci, "team/app", Some("before"), &image).await;
    let typed: &[(&str, &str)] = &[("Content-Type", &manifest.media_type)];
    let (none, empty, blob_bytes): (&[(&str, &str)], &[u8], _) = (&[], b"", blob.bytes());

    let (role, rule): (&[u8], &[u8]) = (br#"{"role": "Owner", "principal": "ci"}"#, br#"{"allow": ["127.0.0.0/8"], "default": "allow"}"#);
    let auditor = as_auditor(&edge.client);
    let requests = [
        call(&anyone, "GET", "/v2/", (none, empty), json!(["anonymous", "none", "authenticate", 401, "denied"])),
        call(&wrong, "GET", "/v2/", (none, empty), json!(["anonymous", "none", "authenticate", 401, "denied"])),
        call(&ci, "GET", "/v2/", (none, empty), json!(["ci", "basic", "authenticate", 200, "allowed"])),
        call(&ci, "POST", &upload, (none, &blob_bytes), json!(["ci", "basic", "push", 201, "allowed"])),
        call(&ci, "POST", &begin, (none, empty), json!(["ci", "basic", "push", 202, "allowed"])),
        call(&ci, "PUT", &by_tag, (typed, &manifest.bytes), json!(["ci", "basic", "push", 201, "allowed"])),
        call(&ci, "GET", &by_tag, (none, empty), json!(["ci", "basic", "pull", 200, "allowed"])),
        call(&ci, "HEAD", &by_digest, (none, empty), json!(["ci", "basic", "pull", 200, "allowed"])),
        call(&ci, "GET", &blob_path, (none, empty), json!(["ci", "basic", "pull", 200, "allowed"])),
        call(&ci, "GET", "/v2/team/app/manifests/none", (none, empty), json!(["ci", "basic", "pull", 404, "failed"])),
        // Who may not know of it gets the same answer, and the record knows the difference.
        call(&stranger, "GET", &by_tag, (none, empty), json!(["stranger", "basic", "pull", 404, "denied"])),
        call(&anyone, "GET", &by_tag, (none, empty), json!(["anonymous", "none", "pull", 401, "denied"])),
        call(&stranger, "PUT", &by_tag, (typed, &manifest.bytes), json!(["stranger", "basic", "push", 404, "denied"])),
        call(&ci, "GET", "/v2/team/app/tags/list", (none, empty), json!(["ci", "basic", "list", 200, "allowed"])),
        call(&ci, "GET", "/v2/_catalog", (none, empty), json!(["ci", "basic", "list", 200, "allowed"])),
        call(&ci, "GET", "/v2/origin.test/app/manifests/v1", (none, empty), json!(["ci", "basic", "pull", 200, "allowed"])),
        call(&ci, "POST", "/outport/v1/prefetch", (JSON, &prefetched), json!(["ci", "basic", "prefetch", 403, "denied"])),
        call(&ci, "GET", "/outport/v1/status", (none, empty), json!(["ci", "basic", "list", 200, "allowed"])),
        call(&ci, "GET", "/outport/v1/audit", (none, empty), json!(["ci", "basic", "audit", 403, "denied"])),
        call(&ci, "POST", "/outport/v1/roles", (JSON, role), json!(["ci", "basic", "role", 403, "denied"])),
        call(&auditor, "POST", "/outport/v1/rules", (JSON, rule), json!(["auditor", "basic", "rule", 201, "allowed"])),
        call(&ci, "DELETE", &by_tag, (none, empty), json!(["ci", "basic", "delete", 202, "allowed"])),
    ];
    for (number, Call { client, method, target, sent: (headers, body), expected }) in requests.iter().enumerate() {
        let id = format!("request-{number}");
        let headers = [*headers, &[("X-Request-Id", id.as_str()), ("User-Agent", "tester/1")]].concat();
        let answer: Response = if *method == "HEAD" || *method == "GET" {
            client.send(method, target, &headers).await.expect("an answer")
        } else {
            client.send_with(method, target, &headers, body).await
        };
        assert_eq!(json!(answer.status), expected[3], "{method} {target}: {}", answer.text());
    }
    // These leave none.
    for target in ["/readyz", "/nowhere", "/v2/UPPER/manifests/v1"] {
        anyone.get_with(target, &[("X-Request-Id", "unrecorded")]).await;
    }

    let all = entries(&search(&edge.client, "").await);
    for (number, Call { method, target, expected, .. }) in requests.iter().enumerate() {
        let found = of(&all, &format!("request-{number}"));
        assert_eq!(found.len(), 1, "{method} {target}: {found:?}");
        let entry = &found[0];
        let told = json!([entry["principal"], entry["proof"], entry["action"], entry["status"], entry["outcome"]]);
        assert_eq!(&told, expected, "{method} {target}: {entry}");
        for (field, value) in [("address", "127.0.0.1"), ("agent", "tester/1"), ("region", "test"), ("method", method)] {
            assert_eq!(entry[field], value, "{method} {target}: {entry}");
        }
        assert_eq!(entry["why"].is_string(), entry["outcome"] != "allowed", "{entry}");
        if target.contains("team/app") {
            assert_eq!(entry["repository"], "team/app", "{entry}");
        }
    }
    assert_eq!(of(&all, "unrecorded"), Vec::<Value>::new());
    let field = |number: usize, name: &str| of(&all, &format!("request-{number}"))[0][name].clone();
    // What was pushed and pulled, and how much of it.
    assert_eq!((field(3, "digest"), field(3, "bytes")), (json!(blob.digest()), json!(3_000)));
    assert_eq!((field(5, "reference"), field(5, "bytes")), (json!("v1"), json!(manifest.bytes.len())));
    assert_eq!((field(6, "digest"), field(6, "bytes")), (json!(manifest.digest), json!(manifest.bytes.len())));
    assert_eq!((field(7, "digest"), field(7, "bytes")), (json!(manifest.digest), json!(0)));
    assert_eq!((field(8, "bytes"), field(9, "bytes")), (json!(3_000), json!(0)));
    assert_eq!((field(1, "why"), field(10, "why")), (json!("the credentials are not accepted"), json!("the caller may not know of it")));
    assert_eq!((field(15, "upstream"), field(15, "repository")), (json!("origin.test"), json!("origin.test/app")));
    assert!(field(20, "reference").is_string(), "the name of the rule");
    let detail: Value = serde_json::from_str(field(20, "detail").as_str().unwrap()).unwrap();
    assert_eq!((detail["allow"].clone(), detail["default"].clone()), (json!(["127.0.0.0/8"]), json!("allow")));
    // The newest first; and the search itself is in the next one.
    let times: Vec<&str> = all.iter().filter_map(|entry| entry["time"].as_str()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older));
    let own = entries(&search(&edge.client, "action=audit&principal=auditor").await);
    assert_eq!(own.len(), 1, "{own:?}");
    let denied = entries(&search(&edge.client, "outcome=denied&principal=stranger&repository=team/**&address=127.0.0.0/8&since=1h").await);
    assert_eq!(denied.len(), 2, "{denied:?}");
    edge.finish().await;
}

#[tokio::test]
async fn the_record_is_for_those_who_may_read_it() {
    let folder = TempDir::new().unwrap();
    let edge = settings(&folder).start().await;
    let anyone = edge.client.without_headers();
    assert_eq!(anyone.get("/outport/v1/audit").await.status, 401);
    assert_eq!(anyone.clone().with_basic("ci", "secret").get("/outport/v1/audit").await.status, 403);
    let auditor = as_auditor(&edge.client);
    assert_eq!(auditor.get("/outport/v1/audit?since=yesterday").await.status, 400);
    assert_eq!(auditor.get("/outport/v1/audit?region=mars").await.status, 400);
    assert_eq!(auditor.get("/outport/v1/peer/audit").await.status, 404, "nobody is a peer here");
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_search_looks_in_all_regions() {
    let folder = TempDir::new().unwrap();
    let world = World::start(&["eu", "us"], &auditor(&folder)).await;
    for region in ["eu", "us"] {
        push(world.client(region), &format!("team/{region}"), Some("v1"), &Image::new(3, &[1_000])).await;
    }
    let of_manifests = "action=push&repository=team/*&principal=anonymous";
    let answer = search(world.client("eu"), of_manifests).await;
    for region in ["eu", "us"] {
        let of_region: Vec<_> = entries(&answer).into_iter().filter(|entry| entry["region"] == region).collect();
        assert!(!of_region.is_empty() && of_region.iter().all(|entry| entry["repository"] == format!("team/{region}")), "{answer}");
    }
    assert_eq!(answer["regions"], json!([{"region": "eu", "complete": true}, {"region": "us", "complete": true}]));
    let only = search(world.client("eu"), &format!("{of_manifests}&region=us")).await;
    assert!(entries(&only).iter().all(|entry| entry["region"] == "us") && !entries(&only).is_empty(), "{only}");
    // That region knows who asked.
    let asked = entries(&search(world.client("us"), "action=audit&principal=region:eu").await);
    assert!(!asked.is_empty() && asked.iter().all(|entry| entry["proof"] == "peer"), "{asked:?}");

    world.cut_off("us");
    let apart = search(world.client("eu"), of_manifests).await;
    assert!(entries(&apart).iter().all(|entry| entry["region"] == "eu") && !entries(&apart).is_empty(), "{apart}");
    let told: Vec<_> = apart["regions"].as_array().unwrap().iter().map(|one| (&one["region"], &one["complete"])).collect();
    assert_eq!(told, [(&json!("eu"), &json!(true)), (&json!("us"), &json!(false))], "{apart}");
    assert!(apart["regions"][1]["why"].is_string(), "{apart}");
    world.mend("us");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_edges_cannot_be_asked_is_looked_up_in_its_store() {
    let folder = TempDir::new().unwrap();
    let world = World::start_reaching(&["eu", "us"], &auditor(&folder), Reach::Stores).await;
    push(world.client("us"), "team/app", Some("v1"), &Image::new(4, &[1_000])).await;
    until("the store of us has what was done there", || async {
        let answer = search(world.client("eu"), "action=push&region=us").await;
        entries(&answer).iter().any(|entry| entry["reference"] == "v1") && answer["regions"][0]["complete"] == true
    })
    .await;
    world.finish().await;
}

/// The lines of all files that wait here.
fn waiting(data_dir: &Path) -> Vec<String> {
    let of_record = files(&data_dir.join("audit")).into_iter().filter(|file| file.file_name().is_some_and(|name| name != "node"));
    of_record.flat_map(|file| std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_or_a_bucket_that_takes_nothing_holds_up_no_pull() {
    let folder = TempDir::new().unwrap();
    let (origin, image) = (Origin::start().await, Image::new(5, &[5_000]));
    origin.push("app", "v1", &image);
    let settings = settings(&folder).upstream("origin.test", &origin).open_to_pushes();
    // A file where the folder should be.
    let audit = settings.data_path().join("audit");
    std::fs::create_dir_all(settings.data_path()).unwrap();
    std::fs::write(&audit, "in the way").unwrap();
    let edge = settings.start().await;
    let pulls = async |count: usize| {
        for _ in 0..count {
            let took = pull(&edge.client, "origin.test/app", "v1", &image).await.expect("an image");
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
    };
    pulls(5).await;
    let dropped = r#"outport_audit_dropped_total{reason="disk"}"#;
    until("what is lost is counted", || async { metric(&edge, dropped).await >= 15.0 }).await;
    std::fs::remove_file(&audit).unwrap();
    until("the disk is tried again, and the next entry tells what was lost", || async {
        pulls(1).await;
        entries(&search(&edge.client, "").await).iter().any(|entry| entry["lost"].as_u64().is_some_and(|lost| lost >= 15))
    })
    .await;

    // The bucket's folder goes away.
    let (bucket, aside) = (edge.data_dir().join("bucket"), edge.data_dir().join("aside"));
    std::fs::rename(&bucket, &aside).unwrap();
    pulls(5).await;
    until("entries wait, and that is told", || async {
        metric(&edge, r#"outport_audit_shipments_total{outcome="failed"}"#).await > 0.0
            && metric(&edge, "outport_audit_oldest_unshipped_seconds").await >= 1.0
    })
    .await;
    pulls(5).await;
    let answer = search(&edge.client, "action=pull").await;
    assert!(!entries(&answer).is_empty() && answer["regions"][0]["complete"] == false, "{answer}");
    std::fs::rename(&aside, &bucket).unwrap();
    until("the bucket has all that waited", || async {
        waiting(&edge.data_dir()).is_empty() && metric(&edge, "outport_audit_waiting_bytes").await == 0.0
    })
    .await;
    assert_eq!(metric(&edge, r#"outport_audit_dropped_total{reason="space"}"#).await, 0.0);
    edge.finish().await;
}

#[tokio::test]
async fn what_a_killed_edge_had_not_shipped_is_found_after_its_next_start() {
    let folder = TempDir::new().unwrap();
    let mut edge = settings(&folder).spawn().await;
    let ci = edge.client.clone().with_basic("ci", "secret");
    assert_eq!(ci.get_with("/v2/", &[("X-Request-Id", "before")]).await.status, 200);
    until("it is written", || async {
        waiting(&edge.data_dir()).iter().any(|line| line.contains("before")) || shipped(&edge.metrics().await)
    })
    .await;
    edge.kill();
    edge.start_again().await;
    until("it is found", || async { of(&entries(&search(&edge.client, "principal=ci").await), "before").len() == 1 }).await;
    edge.finish().await;
}

fn shipped(metrics: &str) -> bool {
    metrics.contains(r#"outport_audit_shipments_total{outcome="shipped"}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_search_the_record_and_leave_entries_in_it() {
    let folder = TempDir::new().unwrap();
    let edge = settings(&folder).start().await;
    let config = edge.config_path();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outport"));
        command.arg("--config").arg(&config).args(arguments);
        tokio::task::block_in_place(|| command.output()).expect("the binary runs")
    };
    let password = folder.path().join("auditor.password").display().to_string();
    let as_auditor = ["--username", "auditor", "--password-file", &password];
    let ci = edge.client.clone().with_basic("ci", "secret");
    assert_eq!(ci.get("/v2/team/app/manifests/v1").await.status, 404);

    let left = run(&["region", "leave", "--yes"]);
    assert!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
    let told = run(&["region", "leave"]);
    assert_eq!(told.status.code(), Some(64), "what is only told leaves nothing");

    let shown = run(&[&["audit", "--since", "1h", "--json"][..], &as_auditor].concat());
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let answer: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let commands: Vec<_> = entries(&answer).into_iter().filter(|entry| entry["action"] == "region").collect();
    assert_eq!(commands.len(), 1, "{answer}");
    assert_eq!((&commands[0]["route"], &commands[0]["proof"]), (&json!("leave"), &json!("bucket")));
    let table = run(&[&["audit", "--principal", "ci", "--outcome", "failed"][..], &as_auditor].concat());
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.starts_with("TIME") && table.contains("team/app:v1") && table.contains("manifest unknown"), "{table}");
    assert_eq!(run(&["audit", "--outcome", "good"]).status.code(), Some(64));
    assert_eq!(run(&["audit"]).status.code(), Some(1), "nobody in particular may not");
    edge.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart() {
    let folder = TempDir::new().unwrap();
    let (origin, image) = (Origin::start().await, Image::new(6, &[30_000_000]));
    origin.push("app", "v1", &image);
    let edge = settings(&folder).upstream("origin.test", &origin).start().await;
    let ci = edge.client.clone().with_basic("ci", "secret");
    let target = format!("/v2/origin.test/app/blobs/{}", image.blobs[1].digest());
    let exchange = ci.open("GET", &target, &[("X-Request-Id", "left")]).await.expect("a head");
    assert_eq!(exchange.status, 200);
    drop(exchange);
    let since = Instant::now();
    until("its entry is there", || async {
        let found = of(&entries(&search(&edge.client, "").await), "left");
        found.len() == 1 && found[0]["outcome"] == "failed" && found[0]["why"] == "the client left"
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(15));
    edge.finish().await;
}
