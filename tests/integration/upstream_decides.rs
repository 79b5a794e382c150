//! Upstreams that say themselves who reads what (`authorize = "upstream"`): each caller is asked about with its own credentials, and what
//! one of them brought in is not there for another (hardening rows 82, 83 and 88).

use std::time::Duration;

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};
use crate::harness::token::{Guard, Scheme, TokenBy};

/// alice may read `team-a/app` at the origin, and bob `team-b/app`. The edge has no credentials there.
struct Private {
    origin: Origin,
    edge: TestEdge,
    secret: Image,
}

fn guard(scheme: Scheme) -> Guard {
    Guard::new(scheme).with_reader("alice", &["team-a/app"]).with_reader("bob", &["team-b/app"])
}

async fn private_origin(scheme: Scheme) -> (Origin, Image) {
    let origin = Origin::with(guard(scheme)).await;
    let secret = Image::new(82, &[5_000, 300_000]);
    origin.push("team-a/app", "v1", &secret);
    origin.attach("team-a/app", &Image::artifact("application/x-signature", &secret.manifest, "alice signed"));
    origin.push("team-b/app", "v1", &Image::new(83, &[6_000]));
    (origin, secret)
}

/// An owner of the registry has nothing to say about what is the upstream's to decide.
fn settings() -> Settings {
    Settings::new()
        .access("anonymous_pull = [\"canary.test/**\"]")
        .pusher("owner", "[\"**\"]", "[\"**\"]")
        .table("[[role]]\nrole = \"Owner\"\nprincipals = [\"owner\"]")
}

impl Private {
    async fn new(scheme: Scheme, lines: &str) -> Private {
        let (origin, secret) = private_origin(scheme).await;
        let lines = format!("authorize = \"upstream\"\nhosts = [\"origin.edge.test\"]\n{lines}");
        let edge = settings().upstream_with("origin.test", &origin, &lines).start().await;
        Private { origin, edge, secret }
    }

    fn client(&self, name: &str) -> Client {
        self.edge.client.clone().with_basic(name, &format!("{name}-password"))
    }

    async fn alice_pulls(&self) {
        let alice = self.client("alice");
        pull(&alice, "origin.test/team-a/app", "v1", &self.secret).await.expect("alice's own image");
        let referrers = alice.get(&format!("/v2/origin.test/team-a/app/referrers/{}", self.secret.digest())).await;
        assert_eq!(referrers.json()["manifests"].as_array().map(Vec::len), Some(1), "{}", referrers.text());
        assert_eq!(alice.get("/v2/origin.test/team-a/app/tags/list").await.json()["tags"][0], "v1");
    }

    fn questions(&self) -> Vec<(&'static str, String, Option<&'static str>)> {
        let (manifest, layer) = (self.secret.digest(), self.secret.blobs[2].digest());
        let mut questions = Vec::new();
        for method in ["GET", "HEAD"] {
            questions.push((method, "manifests/v1".to_owned(), None));
            questions.push((method, format!("manifests/{manifest}"), None));
            questions.push((method, format!("blobs/{manifest}"), None));
            for range in [None, Some("bytes=0-9"), Some("bytes=999999999-")] {
                questions.push((method, format!("blobs/{layer}"), range));
            }
            questions.push((method, format!("referrers/{manifest}"), None));
            questions.push((method, "tags/list".to_owned(), None));
        }
        questions
    }
}

async fn ask(client: &Client, method: &str, repository: &str, rest: &str, range: Option<&str>) -> Response {
    let headers: Vec<_> = range.map(|range| ("Range", range)).into_iter().collect();
    client.send(method, &format!("/v2/{repository}/{rest}"), &headers).await.expect("a whole answer")
}

/// An answer without what differs between any two.
fn essence(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let fixed = |name: &str| name != "date" && !name.ends_with("request-id");
    let headers = answer.head.headers.iter().filter(|(name, _)| fixed(name)).cloned().collect();
    (answer.status, headers, answer.text())
}

async fn denied_and_absent_look_the_same(scheme: Scheme) {
    let private = Private::new(scheme, "").await;
    private.alice_pulls().await;
    let (bob, mallory, owner) =
        (private.client("bob"), private.client("mallory"), private.edge.client.clone().with_basic("owner", "secret"));
    for (method, rest, range) in private.questions() {
        for client in [&bob, &mallory, &owner] {
            let denied = essence(&ask(client, method, "origin.test/team-a/app", &rest, range).await);
            let absent = essence(&ask(client, method, "origin.test/team-a/no-such-app", &rest, range).await);
            assert_eq!((denied.0, &denied), (404, &absent), "{method} {rest} {range:?}");
        }
        let of_another = ask(&bob, method, "origin.test/team-b/app", &rest, range).await;
        if rest.contains("sha256:") && !rest.starts_with("referrers") {
            assert_eq!(of_another.status, 404, "{method} {rest} {range:?}: a digest of another repository");
        }
        assert!(!of_another.text().contains("alice signed"), "{method} {rest}");
        for target in ["origin.test/team-a/app", "origin.test/team-a/no-such-app"] {
            let stranger = ask(&private.edge.client, method, target, &rest, range).await;
            assert_eq!((stranger.status, stranger.header("www-authenticate")), (401, Some("Basic realm=\"outport\"")), "{target} {rest}");
        }
    }
    for client in [&bob, &owner, &private.client("alice")] {
        assert!(!client.get("/v2/_catalog").await.text().contains("team-a"), "the catalogue is this edge's to show, and it does not know");
    }
    private.edge.finish().await;
}

#[tokio::test]
async fn row_82_denied_and_absent_look_the_same_where_the_upstream_decides_by_tokens() {
    denied_and_absent_look_the_same(Scheme::Bearer(TokenBy::Get)).await;
}

#[tokio::test]
async fn row_82_denied_and_absent_look_the_same_where_the_upstream_decides_by_passwords() {
    denied_and_absent_look_the_same(Scheme::Basic).await;
}

#[tokio::test]
async fn row_82_a_caller_with_leave_gets_what_another_brought_in() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "").await;
    private.alice_pulls().await;
    private.origin.set_guard(guard(Scheme::Bearer(TokenBy::Get)).with_reader("carol", &["team-a/app"]));
    let carol = private.client("carol");
    let first = carol.get("/v2/origin.test/team-a/app/manifests/v1").await;
    assert_eq!((first.status, first.header("outport-source")), (200, Some("memory")));
    pull(&carol, "origin.test/team-a/app", "v1", &private.secret).await.expect("what alice may read, carol may");
    for blob in &private.secret.blobs {
        assert_eq!(private.origin.transfers(blob.digest()), 1, "it came once");
    }
    private.edge.finish().await;
}

#[tokio::test]
async fn the_upstream_is_asked_once_in_its_time() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "").await;
    private.alice_pulls().await;
    let (alice, asked) = (private.client("alice"), private.origin.requests().len());
    for (method, rest, range) in private.questions() {
        ask(&alice, method, "origin.test/team-a/app", &rest, range).await;
    }
    let later = private.origin.requests()[asked..]
        .iter()
        .filter(|logged| !logged.target.contains(&format!("blobs/{}", private.secret.digest())))
        .count();
    assert_eq!(later, 0, "but for the one digest that was never asked for as a blob");
    private.edge.finish().await;
}

#[tokio::test]
async fn what_the_upstream_takes_back_ends_with_the_time_of_its_yes() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "tag_ttl = \"1h\"\nauthorization_ttl = \"1s\"").await;
    private.alice_pulls().await;
    // Tokens that were made before do not help.
    private.origin.set_guard(Guard::new(Scheme::Bearer(TokenBy::Get)).with_reader("bob", &["team-b/app"]));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for (method, rest, range) in private.questions() {
        let answer = ask(&private.client("alice"), method, "origin.test/team-a/app", &rest, range).await;
        assert_eq!(answer.status, 404, "{method} {rest} {range:?}");
    }
    private.edge.finish().await;
}

#[tokio::test]
async fn what_one_caller_is_refused_others_still_get() {
    let private = Private::new(Scheme::Basic, "").await;
    let readers = |names: &[&str]| {
        let guard = Guard::new(Scheme::Basic);
        names.iter().fold(guard, |guard, name| guard.with_reader(name, &["team-a/app"]))
    };
    private.origin.set_guard(readers(&["alice", "carol"]));
    for name in ["alice", "carol"] {
        assert_eq!(private.client(name).get("/v2/origin.test/team-a/app/manifests/v1").await.status, 200, "{name}");
    }
    // What is fetched by her yes of a moment ago, the upstream shows her no more.
    private.origin.set_guard(readers(&["carol"]));
    for blob in &private.secret.blobs {
        let target = format!("/v2/origin.test/team-a/app/blobs/{}", blob.digest());
        assert_eq!(private.client("alice").get(&target).await.status, 404);
        assert_eq!(private.client("carol").get(&target).await.status, 200);
    }
    private.edge.finish().await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_asked_gives_no_leave_to_who_had_none() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "").await;
    private.alice_pulls().await;
    private.origin.script(Match::Any, Fault::status(503));
    let target = "/v2/origin.test/team-a/app/manifests/v1";
    assert_eq!(private.client("alice").get(target).await.status, 200, "its yes holds for its time");
    assert_eq!(private.client("bob").get(target).await.status, 503);
    private.edge.finish().await;
}

#[tokio::test]
async fn a_host_name_of_the_upstream_s_own_lets_clients_sign_in_there() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "").await;
    let at = [("Host", "origin.edge.test")];
    let challenged = private.edge.client.get_with("/v2/", &at).await;
    assert_eq!((challenged.status, challenged.header("www-authenticate")), (401, Some("Basic realm=\"outport\"")));
    for (name, expected) in [("alice", 200), ("bob", 200), ("mallory", 401), ("owner", 401)] {
        assert_eq!(private.client(name).get_with("/v2/", &at).await.status, expected, "{name}");
    }
    assert_eq!(private.client("alice").get_with("/v2/team-a/app/manifests/v1", &at).await.status, 200);
    assert_eq!(private.client("alice").get("/v2/team-a/app/manifests/v1?ns=origin.test").await.status, 200);
    // Elsewhere they are nobody's.
    assert_eq!(private.client("alice").get("/v2/").await.status, 401);
    private.edge.finish().await;
}

#[tokio::test]
async fn nothing_is_pushed_and_no_command_is_obeyed_there() {
    let private = Private::new(Scheme::Basic, "").await;
    private.alice_pulls().await;
    let digest = private.secret.blobs[0].digest();
    for (method, target) in [
        ("POST", "/v2/origin.test/team-a/app/blobs/uploads/".to_owned()),
        ("DELETE", "/v2/origin.test/team-a/app/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/origin.test/team-a/app/blobs/{digest}")),
    ] {
        let sent = async |client: &Client| client.send(method, &target, &[("Content-Length", "0")]).await.expect("an answer").status;
        assert_eq!((sent(&private.client("alice")).await, sent(&private.edge.client).await), (405, 401), "{method} {target}");
    }
    let owner = private.edge.client.clone().with_basic("owner", "secret");
    for command in ["refresh", "prefetch"] {
        let answer = owner.post(&format!("/outport/v1/{command}"), &serde_json::json!({"image": "origin.test/team-a/app:v1"})).await;
        assert_eq!(answer.status, 404, "{command}");
    }
    // A mount from there is one from nowhere.
    let mount = format!("/v2/mine/app/blobs/uploads/?mount={digest}&from=origin.test/team-a/app");
    assert_eq!(owner.send("POST", &mount, &[("Content-Length", "0")]).await.expect("an answer").status, 202);
    private.edge.finish().await;
}

#[tokio::test]
async fn row_83_nothing_that_a_caller_adds_makes_another_entry_or_another_caller() {
    let private = Private::new(Scheme::Bearer(TokenBy::Get), "").await;
    private.alice_pulls().await;
    let (alice, bob, asked) = (private.client("alice"), private.client("bob"), private.origin.requests().len());
    for header in ["X-Forwarded-Host", "X-Forwarded-User", "X-Remote-User", "Forwarded", "X-Original-URL"] {
        let answer = alice.get_with("/v2/origin.test/team-a/app/manifests/v1?x=1", &[(header, "alice")]).await;
        assert_eq!((answer.status, &answer.body), (200, &private.secret.manifest.bytes), "{header}");
        assert_eq!(bob.get_with("/v2/origin.test/team-a/app/manifests/v1?user=alice", &[(header, "alice")]).await.status, 404, "{header}");
    }
    // For bob: one challenge, one token, one refusal.
    assert!(private.origin.requests().len() - asked <= 8, "{:?}", private.origin.requests());
    private.edge.finish().await;
}

#[tokio::test]
async fn row_88_a_caller_s_credentials_go_to_the_upstream_and_nowhere_else() {
    let (origin, secret) = private_origin(Scheme::Bearer(TokenBy::Get)).await;
    let elsewhere = Origin::start().await;
    let settings = settings().log("level = \"trace\"").upstream("other.test", &elsewhere);
    let edge = settings.upstream_with("origin.test", &origin, "authorize = \"upstream\"").spawn().await;
    let alice = edge.client.clone().with_basic("alice", "alice-password");
    pull(&alice, "origin.test/team-a/app", "v1", &secret).await.expect("alice's own image");
    for (name, target) in [("alice", "team-b/app"), ("mallory", "team-a/app")] {
        let client = edge.client.clone().with_basic(name, &format!("{name}-password"));
        assert_eq!(client.get(&format!("/v2/origin.test/{target}/manifests/v1")).await.status, 404);
    }
    alice.get("/v2/other.test/app/manifests/v1").await;
    assert!(elsewhere.authorizations().is_empty());
    let (log, metrics) = (edge.log_text(), edge.metrics().await);
    assert!(log.contains("principal=\"upstream:origin.test\""), "the log tells by whose word");
    for planted in ["alice-password", "mallory-password", "YWxpY2U6", "bWFsbG9yeT", "alice", "mallory"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(planted)).collect();
        assert!(lines.is_empty() && !metrics.contains(planted), "{planted}: {lines:?}");
    }
    edge.finish().await;
}
