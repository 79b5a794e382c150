//! The logs of all regions over HTTP: what one edge wrote is found from another, by whom, of what, how bad and when; nobody waits for it;
//! and where it is off there is none.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::Client;
use crate::harness::edge::{EdgeProcess, Settings, own_addresses};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::push::push;
use crate::harness::regions::until;

const KEPT: [&str; 4] = ["central = true", "ship_after = \"1s\"", "file_size = \"64KiB\"", "disk = \"1MiB\""];

/// `ci` may push and pull `team/**`; `auditor` may read the logs.
fn settings() -> Settings {
    let settings = Settings::new().pusher("ci", "[\"team/**\"]", "[\"team/**\"]").pusher("auditor", "[]", "[]");
    let settings = settings.table("[[role]]\nrole = \"Contributor\"\nprincipals = [\"auditor\"]");
    settings.access("anonymous_pull = [\"canary.test/**\", \"origin.test/**\"]")
}

fn central(settings: Settings) -> Settings {
    KEPT.into_iter().fold(settings, Settings::log)
}

async fn search(client: &Client, query: &str) -> Value {
    let answer = client.without_headers().with_basic("auditor", "secret").get(&format!("/outport/v1/logs?limit=1000&{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer.json()
}

fn entries(answer: &Value) -> Vec<Value> {
    answer["entries"].as_array().expect("a list").clone()
}

async fn found(client: &Client, query: &str) -> Vec<Value> {
    entries(&search(client, query).await)
}

async fn metric(edge: &EdgeProcess, start: &str) -> f64 {
    let metrics = edge.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok()).unwrap_or_default()
}

/// Two regions that ask each other.
async fn two_regions() -> (EdgeProcess, EdgeProcess) {
    let [eu, us]: [[SocketAddr; 2]; 2] = [own_addresses(), own_addresses()];
    let start = async |name, own, other, at: SocketAddr| {
        let settings = central(settings()).in_region(name, own);
        let token = settings.file("peer-token", "a token of all regions");
        let peer = format!("[[peer]]\nregion = \"{other}\"\nedges = [\"http://{at}\"]\ntoken_file = \"{}\"", token.display());
        settings.table(&peer).spawn().await
    };
    (start("eu", eu, "us", us[0]).await, start("us", us, "eu", eu[0]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_region_wrote_is_found_from_another() {
    let (eu, mut us) = two_regions().await;
    let ci = us.client.without_headers().with_basic("ci", "secret");
    push(&ci, "team/app", Some("v1"), &Image::new(1, &[3_000])).await;
    let target = "/v2/team/app/manifests/v1";
    assert_eq!(ci.get_with(target, &[("X-Request-Id", "the-pull"), ("User-Agent", "tester/1")]).await.status, 200);
    assert_eq!(ci.get("/v2/team/other/manifests/v1").await.status, 404);
    let as_ci = eu.client.without_headers().with_basic("ci", "secret");
    assert_eq!(as_ci.get("/v2/team/none/manifests/v1").await.status, 404);

    let pushed = found(&eu.client, "principal=ci&repository=team/app&route=push&since=1h").await;
    assert_eq!(pushed.len(), 1, "{pushed:?}");
    let told = json!([pushed[0]["region"], pushed[0]["target"], pushed[0]["fields"]["status"], pushed[0]["fields"]["reference"]]);
    assert_eq!(told, json!(["us", "outport::access", 201, "v1"]));
    let by_id = found(&eu.client, "request=the-pull").await;
    assert_eq!((by_id.len(), &by_id[0]["fields"]["agent"]), (1, &json!("tester/1")), "{by_id:?}");
    let pulled = found(&eu.client, "principal=ci&repository=team/**&route=manifest&status=2xx&address=127.0.0.0/8&since=1h").await;
    assert!(pulled.iter().any(|line| line == &by_id[0]), "{pulled:?}");
    let absent = found(&eu.client, "principal=ci&status=404&since=1h").await;
    assert!(absent.iter().any(|line| line["fields"]["repository"] == "team/other"), "{absent:?}");
    for query in ["principal=ci&until=1h", "principal=nobody", "repository=other/**", "principal=ci&status=5xx", "address=192.0.2.1"] {
        assert_eq!(found(&eu.client, query).await, Vec::<Value>::new(), "{query}");
    }
    // Of both regions, the newest first.
    let both = search(&eu.client, "principal=ci&since=1h").await;
    let regions: Vec<_> = entries(&both).iter().map(|line| line["region"].as_str().unwrap().to_owned()).collect();
    assert!(["eu", "us"].into_iter().all(|name| regions.iter().any(|region| region == name)), "{both}");
    assert_eq!(both["regions"], json!([{"region": "eu", "complete": true}, {"region": "us", "complete": true}]));
    let times: Vec<String> = entries(&both).iter().map(|line| line["time"].as_str().unwrap().to_owned()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older));
    let only = found(&eu.client, "principal=ci&region=eu").await;
    assert!(!only.is_empty() && only.iter().all(|line| line["region"] == "eu"), "{only:?}");

    // What is no request.
    us.rewrite(|text| text.push_str("\n[nonsense]\n"));
    us.signal(Signal::HUP);
    until("an error is found by its level and its words", || async {
        let errors = found(&eu.client, "level=error&since=1h&text=NONSENSE").await;
        let is_it = |line: &Value| line["region"] == "us" && line["level"] == "ERROR" && line["target"] == "outport::edge";
        !errors.is_empty() && errors.iter().all(is_it)
    })
    .await;
    let others = found(&eu.client, "requests=no&region=us&since=1h").await;
    assert!(others.len() > 1 && others.iter().all(|line| line["target"] != "outport::access"), "{others:?}");
    // All of it as it lies in the bucket.
    until("the bucket has it", || async { metric(&us, "outport_central_log_shipments_total{outcome=\"shipped\"}").await > 0.0 }).await;
    assert_eq!(found(&eu.client, "request=the-pull").await, by_id);

    us.kill();
    let apart = search(&eu.client, "principal=ci&since=1h").await;
    assert!(entries(&apart).iter().all(|line| line["region"] == "eu"), "{apart}");
    assert_eq!((&apart["regions"][1]["complete"], apart["regions"][1]["why"].is_string()), (&json!(false), true), "{apart}");
    us.rewrite(|text| *text = text.replace("\n[nonsense]\n", ""));
    us.start_again().await;
    until("and is asked again", || async { found(&eu.client, "request=the-pull").await == by_id }).await;
    us.finish().await;
    eu.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_finds_lines_and_only_those_who_may_read_them_do() {
    let edge = central(settings()).spawn().await;
    let folder = TempDir::new().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let url = format!("http://{}", edge.address());
    let run = |who: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outport"));
        command.args(["logs", "--edge", &url, "--username", who, "--password-file"]).arg(&password).args(arguments);
        tokio::task::block_in_place(|| command.output()).expect("the binary runs")
    };
    let ci = edge.client.without_headers().with_basic("ci", "secret");
    for tag in ["one", "two"] {
        assert_eq!(ci.get(&format!("/v2/team/app/manifests/{tag}")).await.status, 404);
    }
    let shown = run("auditor", &["--since", "1h", "--principal", "ci", "--status", "4xx"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(shown.status.success() && lines.len() == 2, "{text}{}", String::from_utf8_lossy(&shown.stderr));
    assert!(lines[0].contains(" test  INFO outport::access: ") && lines[0].contains("reference=\"one\""), "the oldest first: {text}");
    let shown = run("auditor", &["--repository", "team/**", "--json", "-n", "1"]);
    let answer: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!((entries(&answer).len(), &answer["more"], &entries(&answer)[0]["fields"]["reference"]), (1, &json!(true), &json!("two")));
    assert_eq!(run("auditor", &["--level", "loud"]).status.code(), Some(64));
    assert_eq!(run("ci", &["--since", "1h"]).status.code(), Some(1), "not everybody may");
    assert!(run("auditor", &["-n", "5"]).status.success(), "the last lines are there as ever");

    assert_eq!(edge.client.without_headers().get("/outport/v1/logs?since=1h").await.status, 401);
    assert_eq!(ci.get("/outport/v1/logs?since=1h").await.status, 403);
    let auditor = edge.client.without_headers().with_basic("auditor", "secret");
    for (query, status) in [("since=yesterday", 400), ("since=1h&lines=5", 400), ("region=mars", 400), ("level=warn", 200)] {
        assert_eq!(auditor.get(&format!("/outport/v1/logs?{query}")).await.status, status, "{query}");
    }
    assert_eq!(auditor.get("/outport/v1/peer/logs").await.status, 404, "nobody is a peer here");
    edge.finish().await;
}

/// An address that takes connections and never says anything.
fn silent() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_hangs_costs_pulls_nothing_and_what_is_lost_is_counted() {
    let (origin, image, (_held, bucket)) = (Origin::start().await, Image::new(2, &[5_000]), silent());
    origin.push("app", "v1", &image);
    let settings = central(settings()).upstream("origin.test", &origin);
    let key = settings.file("s3.key", "a secret");
    let options = format!("aws_endpoint = \"http://{bucket}\", aws_region = \"x\", allow_http = \"true\", aws_access_key_id = \"x\"");
    let secret = format!("options_from_files = {{ aws_secret_access_key = \"{}\" }}", key.display());
    let edge = settings.table(&format!("[bucket]\nurl = \"s3://bucket/prefix\"\noptions = {{ {options} }}\n{secret}")).spawn().await;
    let pulls = async |count: usize| {
        for _ in 0..count {
            let took = pull(&edge.client, "origin.test/app", "v1", &image).await.expect("an image");
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
    };
    pulls(3).await;
    // More than fits in log.disk.
    let agent = "a".repeat(250);
    let mut path = String::from("/nowhere");
    write!(path, "/{}", "b".repeat(240)).unwrap();
    let anyone = edge.client.without_headers();
    let lost = "outport_central_log_dropped_total{reason=\"space\"}";
    for round in 0.. {
        for _ in 0..100 {
            anyone.get_with(&path, &[("User-Agent", &agent)]).await;
        }
        pulls(1).await;
        if metric(&edge, lost).await > 0.0 {
            break;
        }
        assert!(round < 100, "nothing is lost, and the disk has room for 1 MiB");
    }
    assert!(metric(&edge, "outport_central_log_waiting_bytes").await <= f64::from(1 << 20));
    until("the next line tells how many are missing", || async {
        let answer = search(&edge.client, "since=1h").await;
        entries(&answer).iter().any(|line| line["lost"].as_u64().is_some_and(|lost| lost > 0)) && answer["regions"][0]["complete"] == false
    })
    .await;
    pulls(3).await;
    edge.finish().await;
}

#[tokio::test]
async fn where_it_is_off_nothing_is_kept_and_a_search_says_so() {
    let edge = settings().start().await;
    let answer = search(&edge.client, "level=warn").await;
    assert_eq!(answer["regions"], json!([{"region": "test", "complete": false, "why": "nothing is recorded here: log.central is off"}]));
    assert!(!edge.data_dir().join("log").exists());
    edge.finish().await;
}
