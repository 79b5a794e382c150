//! Requests that come again, byte for byte: their answers and their records are as if each had been read anew, and what an answer depends
//! on is asked each time.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::client::{Client, Response};
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::regions::until;
use crate::reads::V1;

/// A header that changes nothing, and that no head has which is known by its bytes.
const OTHER: (&str, &str) = ("X-Other", "1");
const REPEATED: &str = "outport_requests_repeated_total";
/// What is counted of requests, and of nothing that goes on beside them.
const OF_REQUESTS: [&str; 8] = [
    "outport_request",
    "outport_response_bytes",
    "outport_first_byte",
    "outport_authentications",
    "outport_password_checks",
    "outport_proxied",
    "outport_limited",
    "outport_stale",
];

/// What has been counted so far, by series.
async fn counted(edge: &EdgeProcess) -> BTreeMap<String, f64> {
    let metrics = edge.metrics().await;
    let line = |line: &str| line.rsplit_once(' ').and_then(|(series, value)| Some((series.to_owned(), value.parse().ok()?)));
    metrics.lines().filter(|line| line.starts_with("outport_")).filter_map(line).collect()
}

async fn repeated(edge: &EdgeProcess) -> f64 {
    counted(edge).await[REPEATED]
}

/// Asks until the same request is answered by its bytes.
async fn known(edge: &EdgeProcess, client: &Client, method: &str, target: &str) {
    until("it is known by its bytes", || async {
        let before = repeated(edge).await;
        client.send(method, target, &[]).await.expect("an answer");
        repeated(edge).await > before
    })
    .await;
}

/// The head but for what belongs to one answer, and the body.
fn content(answer: &Response) -> (String, BTreeMap<&str, &str>, Vec<u8>) {
    let headers = answer.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut headers: BTreeMap<_, _> = headers.collect();
    assert_eq!(headers.len(), answer.head.headers.len(), "each header once: {:?}", answer.head);
    assert_eq!(headers.remove("x-request-id").map(str::len), Some(26));
    assert!(headers.remove("date").is_some_and(|date| date.len() == 29 && date.ends_with(" GMT")), "{:?}", answer.head);
    (answer.head.start.clone(), headers, answer.body.to_vec())
}

/// The log's line of a request, without its times and the identifier.
async fn line(edge: &EdgeProcess, answer: &Response) -> String {
    let id = answer.header("x-request-id").expect("an identifier");
    let mine = || edge.log_text().lines().find(|line| line.contains(id)).map(str::to_owned);
    until("it is in the log", async || mine().is_some()).await;
    let line = mine().expect("it is there").replace(id, "");
    let fields = line.split(' ').skip(1).filter(|field| !field.starts_with("first_byte_ms=") && !field.starts_with("whole_ms="));
    fields.collect::<Vec<_>>().join(" ")
}

/// What the audit record has of a request, but for when it was.
async fn entry(auditor: &Client, answer: &Response) -> serde_json::Value {
    let id = answer.header("x-request-id").expect("an identifier");
    let found = auditor.get("/outport/v1/audit?limit=1000&action=pull").await;
    assert_eq!(found.status, 200, "{}", found.text());
    let mut entries = found.json()["entries"].as_array().cloned().expect("a list");
    entries.retain(|entry| entry["request"] == id);
    let [entry] = &mut entries[..] else { panic!("{} entries of {id}", entries.len()) };
    let fields = entry.as_object_mut().expect("fields");
    fields.retain(|name, _| !["request", "id", "time", "took_ms"].contains(&name.as_str()));
    entry.take()
}

async fn token(client: &Client) -> String {
    let answer = client.get("/oauth2/token?service=x&scope=repository:origin.test/app:pull").await;
    answer.json()["token"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

/// Everybody may pull `origin.test/**`, and so may `reader`; `auditor` reads the record, and may push.
fn settings(origin: &Origin) -> Settings {
    let settings = Settings::new().access("anonymous_pull = [\"origin.test/**\", \"canary.test/**\"]");
    let settings = settings.pusher("reader", "[\"origin.test/**\"]", "[]").pusher("auditor", "[]", "[\"origin.test/**\"]");
    settings.table("[[role]]\nrole = \"Contributor\"\nprincipals = [\"auditor\"]").upstream("origin.test", origin)
}

#[tokio::test]
async fn answers_and_records_are_as_if_it_had_been_read() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000]));
    origin.push("app", "v1", &image);
    let edge = settings(&origin).spawn().await;
    let anyone = edge.client.without_headers();
    let auditor = anyone.clone().with_basic("auditor", "secret");
    let bearer = anyone.clone().with_bearer(&token(&anyone.clone().with_basic("reader", "secret")).await).with("User-Agent", "a/1 \"b\"");
    let by_digest = format!("/v2/origin.test/app/manifests/{}", image.digest());
    for (client, target, name, proof) in [
        (&anyone, V1, "anonymous", "none"),
        (&anyone, &by_digest, "anonymous", "none"),
        (&anyone, "/v2/app/manifests/v1?ns=origin.test", "anonymous", "none"),
        (&bearer, V1, "reader", "token:basic"),
        (&bearer, "/v2/app/manifests/v1?ns=origin.test", "reader", "token:basic"),
    ] {
        for method in ["GET", "HEAD"] {
            known(&edge, client, method, target).await;
            let zero = counted(&edge).await;
            let ordinary = client.send(method, target, &[OTHER]).await.expect("an answer");
            let first = counted(&edge).await;
            let again = client.send(method, target, &[]).await.expect("an answer");
            let second = counted(&edge).await;
            assert_eq!(content(&again), content(&ordinary), "{method} {target}");
            let body = if method == "GET" { &image.manifest.bytes[..] } else { &[] };
            assert_eq!((again.status, &again.body[..], again.header("outport-source")), (200, body, Some("memory")));
            assert_eq!(again.header("oci-namespace"), target.contains("ns=").then_some("origin.test"));
            assert_eq!(line(&edge, &again).await, line(&edge, &ordinary).await);
            let (again, ordinary) = (entry(&auditor, &again).await, entry(&auditor, &ordinary).await);
            assert_eq!(again, ordinary);
            assert_eq!((&again["principal"], &again["proof"]), (&json!(name), &json!(proof)));
            let grown =
                |from: &BTreeMap<String, f64>, to: &BTreeMap<String, f64>, series: &str| to[series] - from.get(series).unwrap_or(&0.0);
            let counts = second.keys().filter(|series| OF_REQUESTS.iter().any(|of_requests| series.starts_with(of_requests)));
            let counts =
                counts.filter(|series| series.split('{').next().is_some_and(|name| name.ends_with("_total") || name.ends_with("_count")));
            let mut seen = 0;
            for series in counts {
                let (ordinary, again) = (grown(&zero, &first, series), grown(&first, &second, series));
                assert_eq!(again - ordinary, f64::from(u8::from(series == REPEATED)), "{method} {target}: {series}");
                seen += usize::from(again > 0.0);
            }
            assert!(seen >= 5, "answers, bytes, authentications, the upstream's share");
        }
    }
    edge.finish().await;
}

#[tokio::test]
async fn what_an_answer_depends_on_is_asked_each_time() {
    let (origin, images) = (Origin::start().await, [Image::new(1, &[5_000]), Image::new(2, &[5_000])]);
    origin.push("app", "v1", &images[0]);
    let mut edge = settings(&origin).spawn().await;
    let good = edge.config_text();
    let anyone = edge.client.without_headers().from("127.0.0.5");
    let reader = anyone.clone().with_basic("reader", "secret");
    let bearer = anyone.clone().with_bearer(&token(&reader).await);
    for client in [&anyone, &bearer] {
        known(&edge, client, "GET", V1).await;
    }

    // The tag moves.
    origin.push("app", "v1", &images[1]);
    let refreshed =
        anyone.clone().with_basic("auditor", "secret").post("/outport/v1/refresh", &json!({"image": "origin.test/app:v1"})).await;
    assert_eq!(refreshed.json()["digest"].as_str(), Some(images[1].digest()), "{}", refreshed.text());
    for client in [&anyone, &bearer, &anyone, &bearer] {
        assert_eq!(client.get(V1).await.header("docker-content-digest"), Some(images[1].digest()));
    }

    // What each change of the configuration makes of the two.
    let nobody = good.replace("anonymous_pull = [\"origin.test/**\", ", "anonymous_pull = [");
    let no_reader = nobody.replace("name = \"reader\"", "name = \"other\"");
    let elsewhere = good.replace("name = \"origin.test\"", "name = \"moved.test\"");
    assert!(nobody != good && no_reader != nobody && elsewhere != good);
    let denied = format!("{good}\n[[rule]]\ndefault = \"allow\"\ndeny = [\"127.0.0.5/32\"]\n");
    for (what, text, of_anyone, of_bearer) in [
        ("anonymous pull ends", &nobody, 401, 200),
        ("the reader is gone", &no_reader, 401, 401),
        ("all is as it was", &good, 200, 200),
        ("the upstream is gone", &elsewhere, 404, 404),
        ("it is there again", &good, 200, 200),
        ("the address is denied", &denied, 403, 403),
    ] {
        for client in [&anyone, &bearer] {
            if client.get(V1).await.status == 200 {
                known(&edge, client, "GET", V1).await;
            }
        }
        edge.rewrite(|now| now.clone_from(text));
        edge.signal(Signal::HUP);
        for (client, status) in [(&anyone, of_anyone), (&bearer, of_bearer)] {
            until(what, async || client.get(V1).await.status == status).await;
            assert_eq!(client.get(V1).await.status, status, "{what}");
        }
    }
    edge.finish().await;
}
