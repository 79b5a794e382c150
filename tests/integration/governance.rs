//! What owners change at run time, over HTTP and by commands: principals and their secrets, the admin user, roles and network rules;
//! who may change them, and that guessing passwords is bounded (hardening rows 69, 72 to 74).

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::harness::client::{Client, Response};
use crate::harness::edge::{EdgeProcess, Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::pull::pull;
use crate::harness::push::push;
use crate::harness::regions::{Reach, World, until};

const PRINCIPALS: &str = "/outport/v1/principals";
const ROLES: &str = "/outport/v1/roles";
const RULES: &str = "/outport/v1/rules";
const ADMIN: &str = "/outport/v1/admin";
/// How long a revocation may take on any edge of its region.
const REVOKED_WITHIN: Duration = Duration::from_secs(10);

/// Nobody is anonymous, and `root` is the owner.
fn settings() -> Settings {
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]").pusher("root", "[]", "[]");
    settings.table("[[role]]\nrole = \"Owner\"\nprincipals = [\"root\"]")
}

fn root(client: &Client) -> Client {
    client.clone().with_basic("root", "secret")
}

async fn patch(client: &Client, target: &str, body: &Value) -> Response {
    client.send_with("PATCH", target, &[("Content-Type", "application/json")], body.to_string().as_bytes()).await
}

async fn delete(client: &Client, target: &str) -> Response {
    client.send_with("DELETE", target, &[], b"").await
}

/// The secrets that an answer tells.
fn secrets(answer: &Response) -> Vec<String> {
    let told = answer.json()["secrets"].clone();
    let texts = told.as_array().into_iter().flatten().filter_map(|made| made["secret"].as_str());
    texts.map(str::to_owned).collect()
}

/// Makes a principal and returns its first secret.
async fn create(root: &Client, name: &str) -> String {
    let answer = root.post(PRINCIPALS, &json!({ "name": name })).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    secrets(&answer).remove(0)
}

/// Assigns a role and returns the assignment's id.
async fn assign(root: &Client, role: &Value) -> String {
    let answer = root.post(ROLES, role).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// What somebody who signs in with this is answered at the door.
async fn at_the_door(client: &Client, name: &str, secret: &str) -> u16 {
    client.without_headers().with_basic(name, secret).get("/v2/").await.status
}

/// Waits until somebody may push: who may not is answered as if there were nothing.
async fn comes_to_push(client: &Client) {
    until("it may push", || async { begins_push(client).await == 202 }).await;
}

async fn begins_push(client: &Client) -> u16 {
    client.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await.status
}

async fn becomes(what: &str, expected: u16, client: &Client, target: &str) {
    until(what, || async { client.get(target).await.status == expected }).await;
}

#[tokio::test]
async fn a_principal_does_what_its_roles_say_until_they_are_revoked() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    let answer = root.post(PRINCIPALS, &json!({ "name": "ci" })).await;
    assert_eq!((answer.status, answer.header("location")), (201, Some("/outport/v1/principals/ci")), "{}", answer.text());
    assert_eq!((answer.header("cache-control"), answer.header("outport-position")), (Some("no-store"), answer.json()["position"].as_str()));
    let ci = edge.client.clone().with_basic("ci", &secrets(&answer)[0]);
    assert_eq!(ci.get("/v2/").await.status, 200, "it is known at once");
    let id = assign(&root, &json!({ "role": "AcrPush", "principal": "ci", "repositories": ["team/**"] })).await;
    comes_to_push(&ci).await;
    let image = Image::new(1, &[1_000]);
    push(&ci, "team/app", Some("v1"), &image).await;
    pull(&ci, "team/app", "v1", &image).await.expect("its own image");
    assert_eq!(ci.send_with("POST", "/v2/other/app/blobs/uploads/", &[], b"").await.status, 404, "it is no other repository's");
    assert_eq!(delete(&ci, "/v2/team/app/manifests/v1").await.status, 403, "AcrPush deletes nothing");
    let shown = root.get(&format!("{ROLES}/{id}")).await.json();
    assert_eq!((&shown["principal"], &shown["repositories"], &shown["fixed"]), (&json!("ci"), &json!(["team/**"]), &json!(false)));
    assert_eq!(delete(&root, &format!("{ROLES}/{id}")).await.status, 200);
    becomes("what was revoked is gone", 404, &ci, "/v2/team/app/manifests/v1").await;
    assert_eq!(ci.get("/v2/").await.status, 200);
    assert_eq!(patch(&root, &format!("{PRINCIPALS}/ci"), &json!({ "enabled": false })).await.status, 200);
    assert_eq!(ci.get("/v2/").await.status, 401, "a disabled principal");
    assert_eq!(patch(&root, &format!("{PRINCIPALS}/ci"), &json!({ "enabled": true })).await.status, 200);
    assert_eq!(ci.get("/v2/").await.status, 200);
    assert_eq!(delete(&root, &format!("{PRINCIPALS}/ci")).await.status, 200);
    assert_eq!((ci.get("/v2/").await.status, root.get(&format!("{PRINCIPALS}/ci")).await.status), (401, 404));
    edge.finish().await;
}

#[tokio::test]
async fn nobody_gives_more_than_they_may() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    let mut clients = vec![("nobody", edge.client.clone()), ("Owner", root.clone())];
    for role in ["AcrPull", "AcrPush", "AcrDelete", "Reader", "Contributor"] {
        let secret = create(&root, role).await;
        assign(&root, &json!({ "role": role, "principal": role })).await;
        clients.push((role, edge.client.clone().with_basic(role, &secret)));
    }
    let on_some = create(&root, "half").await;
    assign(&root, &json!({ "role": "Owner", "principal": "half", "repositories": ["team/**"] })).await;
    clients.push(("half", edge.client.clone().with_basic("half", &on_some)));
    let contributor = clients.iter().find(|(role, _)| *role == "Contributor").map(|(_, client)| client).expect("there is one");
    becomes("the last role is in force", 200, contributor, RULES).await;
    // Reads, then what takes an owner, then rules.
    for (who, client) in &clients {
        let expected = match *who {
            "nobody" => [401, 401, 401],
            "Owner" => [200, 201, 201],
            "Contributor" => [200, 403, 201],
            "Reader" => [200, 403, 403],
            _ => [403, 403, 403],
        };
        for target in [PRINCIPALS, "/outport/v1/principals/root", ADMIN, ROLES, "/outport/v1/roles/config-1", RULES] {
            assert_eq!(client.get(target).await.status, expected[0], "{who} reads {target}");
        }
        let new = json!({ "name": format!("made-by-{who}") });
        assert_eq!(client.post(PRINCIPALS, &new).await.status, expected[1], "{who} makes a principal");
        let role = json!({ "role": "AcrPull", "principal": "half", "repositories": ["lab/*"] });
        assert_eq!(client.post(ROLES, &role).await.status, expected[1], "{who} assigns a role");
        let rule = json!({ "allow": ["127.0.0.0/8"], "roles": ["Reader"] });
        assert_eq!(client.post(RULES, &rule).await.status, expected[2], "{who} adds a rule");
        if *who != "Owner" {
            let refused = expected[1];
            for (target, body) in [("/outport/v1/principals/half", json!({ "enabled": false })), (ADMIN, json!({ "enabled": true }))] {
                assert_eq!(patch(client, target, &body).await.status, refused, "{who} {target}");
            }
            for target in ["/outport/v1/principals/half/secrets/1", "/outport/v1/admin/passwords/1"] {
                assert_eq!(client.post(target, &json!({})).await.status, refused, "{who} {target}");
            }
            for target in ["/outport/v1/principals/half", "/outport/v1/principals/half/secrets/1", "/outport/v1/roles/01A"] {
                assert_eq!(delete(client, target).await.status, refused, "{who} {target}");
            }
        }
    }
    assert_eq!(at_the_door(&edge.client, "half", &on_some).await, 200);
    edge.finish().await;
}

#[tokio::test]
async fn row_67_double_malformed_and_endless_credentials_are_refused() {
    let edge = settings().start().await;
    let good = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode("root:secret"));
    let unknown = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode("nobody:secret"));
    let long = format!("Basic {}", "eDp5".repeat(16 * 1024));
    for (headers, expected) in [
        (vec![good.as_str()], &[200][..]),
        (vec![&*good, &*good], &[400]),
        (vec!["Basic"], &[400]),
        (vec!["Basic !!!"], &[400]),
        (vec!["Basic bm9jb2xvbg=="], &[400]),
        (vec!["Digest username=root"], &[401]),
        (vec![&*unknown], &[401]),
        (vec![&*long], &[400, 431]),
    ] {
        let client = headers.iter().fold(edge.client.without_headers(), |client, value| client.with("Authorization", value));
        let status = client.get("/v2/").await.status;
        assert!(
            expected.contains(&status),
            "{status}: {:?}",
            headers.iter().map(|value| &value[..value.len().min(40)]).collect::<Vec<_>>()
        );
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_74_what_is_not_understood_is_not_overlooked() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    create(&root, "ci").await;
    let json = [("Content-Type", "application/json")];
    for (method, target, body) in [
        ("POST", PRINCIPALS, r#"{"name": "new", "role": "Owner"}"#),
        ("POST", PRINCIPALS, r#"{"name": "new", "secret": "mine"}"#),
        ("POST", PRINCIPALS, r#"{"name": "a b"}"#),
        ("POST", PRINCIPALS, r#"{"name": "new", "expires_in": "soon"}"#),
        ("POST", PRINCIPALS, r#"[]"#),
        ("POST", PRINCIPALS, ""),
        ("PATCH", "/outport/v1/principals/ci", r#"{"enabled": false, "kind": "admin"}"#),
        ("PATCH", ADMIN, r#"{}"#),
        ("POST", "/outport/v1/principals/ci/secrets/1", r#"{"secret": "mine"}"#),
        ("POST", ROLES, r#"{"role": "Owner", "principal": "ci", "scope": "/"}"#),
        ("POST", ROLES, r#"{"role": "King", "principal": "ci"}"#),
        ("POST", RULES, r#"{"allow": ["10.0.0.0/8"], "action": "allow"}"#),
        ("POST", RULES, r#"{"allow": ["10.0.0.0"]}"#),
    ] {
        let answer = root.send_with(method, target, &json, body.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.error_code().as_deref()),
            (400, Some("UNSUPPORTED")),
            "{method} {target} {body}: {}",
            answer.text()
        );
    }
    for headers in [&[][..], &[("Content-Type", "text/plain")], &[("Content-Type", "application/x-www-form-urlencoded")]] {
        assert_eq!(root.send_with("POST", PRINCIPALS, headers, br#"{"name": "new"}"#).await.status, 415, "{headers:?}");
    }
    let large = format!(r#"{{"name": "{}"}}"#, "a".repeat(20_000));
    assert_eq!(root.send_with("POST", PRINCIPALS, &json, large.as_bytes()).await.status, 413);
    for (method, target, allow) in [
        ("PUT", PRINCIPALS, "GET, HEAD, POST"),
        ("POST", "/outport/v1/principals/ci", "GET, HEAD, PATCH, DELETE"),
        ("GET", "/outport/v1/principals/ci/secrets/1", "POST, DELETE"),
    ] {
        let answer = root.send_with(method, target, &json, b"{}").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {target}");
    }
    for (body, expected) in [(r#"{"name": "ci"}"#, 409), (r#"{"name": "root"}"#, 409), (r#"{"name": "admin"}"#, 409)] {
        assert_eq!(root.send_with("POST", PRINCIPALS, &json, body.as_bytes()).await.status, expected, "{body}");
    }
    for (target, expected) in [("/outport/v1/principals/root", 409), ("/outport/v1/roles/config-1", 409), ("/outport/v1/rules/01A", 404)] {
        assert_eq!(delete(&root, target).await.status, expected, "{target}");
    }
    let listed = root.get(&format!("{PRINCIPALS}?n=2")).await.json();
    assert_eq!(listed["principals"].as_array().map(Vec::len), Some(2), "{listed}");
    let names: Vec<_> = listed["principals"].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
    assert_eq!((names, &listed["more"]), (vec![json!("admin"), json!("ci")], &json!(true)));
    edge.finish().await;
}

#[tokio::test]
async fn row_73_the_admin_user_is_refused_until_it_is_enabled() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    for (name, password) in [("admin", "admin"), ("admin", "password"), ("admin", ""), ("root", "root"), ("test", "test")] {
        assert_eq!(at_the_door(&edge.client, name, password).await, 401, "{name} {password}");
    }
    assert_eq!(root.get(ADMIN).await.json(), json!({ "name": "admin", "kind": "admin", "enabled": false, "secrets": [] }));
    let enabled = patch(&root, ADMIN, &json!({ "enabled": true })).await;
    let passwords = secrets(&enabled);
    assert_eq!((enabled.status, passwords.len()), (200, 2), "{}", enabled.text());
    let admin = edge.client.clone().with_basic("admin", &passwords[1]);
    comes_to_push(&admin).await;
    push(&admin, "team/app", Some("v1"), &Image::new(1, &[1_000])).await;
    assert_eq!(admin.get(PRINCIPALS).await.status, 403, "settings are not its own");
    assert_eq!(patch(&root, ADMIN, &json!({ "enabled": false })).await.status, 200);
    for password in &passwords {
        assert_eq!(at_the_door(&edge.client, "admin", password).await, 401);
    }
    edge.finish().await;
}

#[tokio::test]
async fn rules_hold_at_once_and_who_would_be_kept_out_is_asked_to_force_them() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    let ci = edge.client.clone().with_basic("ci", &create(&root, "ci").await);
    for role in ["AcrPull", "AcrPush"] {
        assign(&root, &json!({ "role": role, "principal": "ci" })).await;
    }
    comes_to_push(&ci).await;
    push(&ci, "team/app", Some("v1"), &Image::new(1, &[1_000])).await;
    let elsewhere = json!({ "allow": ["192.0.2.0/24"] });
    let refused = root.post(RULES, &elsewhere).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("127.0.0.1"), "{}", refused.text());
    let for_pushes = root.post(RULES, &json!({ "allow": ["192.0.2.0/24"], "roles": ["AcrPush"] })).await;
    assert_eq!(for_pushes.status, 201, "{}", for_pushes.text());
    until("pushes come from elsewhere only", || async { begins_push(&ci).await == 403 }).await;
    assert_eq!(ci.get("/v2/team/app/manifests/v1").await.status, 200);
    let id = for_pushes.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(delete(&root, &format!("{RULES}/{id}")).await.status, 200);
    comes_to_push(&ci).await;
    let forced = root.post(RULES, &json!({ "allow": ["192.0.2.0/24"], "force": true })).await;
    assert_eq!(forced.status, 201, "{}", forced.text());
    // Nobody comes in any more, not even the canary.
    becomes("nobody comes in", 403, &edge.client, "/v2/canary.test/bird/manifests/v1").await;
    becomes("nor does an owner", 403, &root, RULES).await;
}

/// Pulls over and over until told to stop; any failure is one. Returns how often.
fn keep_pulling(client: Client, image: &Image, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<Result<u64, String>> {
    let (image, stop) = (image.clone(), stop.clone());
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            pull(&client, "team/app", "v1", &image).await?;
            count += 1;
        }
        Ok(count)
    })
}

/// A folder with root's password, and the tables that make it the owner.
fn owner() -> (TempDir, String) {
    let folder = TempDir::with_prefix("outport-owner-").expect("a folder");
    let file = folder.path().join("root.password");
    std::fs::write(&file, "secret").expect("a writable folder");
    let principal = format!("[[principal]]\nname = \"root\"\npassword_files = [\"{}\"]\n", file.display());
    (folder, format!("{principal}[[role]]\nrole = \"Owner\"\nprincipals = [\"root\"]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn row_72_either_admin_password_is_replaced_under_load_in_every_region() {
    let (_folder, tables) = owner();
    let world = World::start_each(&["eu", "us"], |_| tables.clone(), Reach::Edges).await;
    let image = Image::new(72, &[1_000, 50_000]);
    push(world.client("eu"), "team/app", Some("v1"), &image).await;
    let root = root(world.client("eu"));
    let mut passwords = secrets(&patch(&root, ADMIN, &json!({ "enabled": true })).await);
    for region in ["eu", "us"] {
        let client = world.client(region);
        until("the admin user is known", || async { self::root(client).get(ADMIN).await.json()["secrets"][1].is_object() }).await;
        until("and the image", || async { pull(client, "team/app", "v1", &image).await.is_ok() }).await;
    }
    for round in 0..4 {
        let (replaced, other) = (round % 2, 1 - round % 2);
        let stop = Arc::new(AtomicBool::new(false));
        let pulling: Vec<_> = ["eu", "eu", "us", "us"]
            .map(|region| keep_pulling(world.client(region).clone().with_basic("admin", &passwords[other]), &image, &stop))
            .into();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let old = passwords[replaced].clone();
        let answer = root.post(&format!("{ADMIN}/passwords/{}", replaced + 1), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        passwords[replaced] = secrets(&answer).remove(0);
        for region in ["eu", "us"] {
            let client = world.client(region);
            let took = until("the old one is refused", || async { at_the_door(client, "admin", &old).await == 401 }).await;
            assert!(took < REVOKED_WITHIN, "{region}: {took:?}");
            assert_eq!(at_the_door(client, "admin", &passwords[replaced]).await, 200, "{region}: the new one works");
        }
        stop.store(true, Ordering::Relaxed);
        for pulling in pulling {
            assert!(pulling.await.expect("no panic").expect("no pull with the other password fails") > 0);
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn row_72_tokens_end_with_the_secret_that_they_were_had_by() {
    let edge = settings().start().await;
    let root = root(&edge.client);
    let first = create(&root, "ci").await;
    let second = secrets(&root.post("/outport/v1/principals/ci/secrets/2", &json!({})).await).remove(0);
    assign(&root, &json!({ "role": "AcrPush", "principal": "ci" })).await;
    comes_to_push(&edge.client.clone().with_basic("ci", &first)).await;
    let tokens = async |secret: &str| {
        let target = "/oauth2/token?service=x&offline_token=true&scope=repository:team/app:pull,push";
        let answer = edge.client.clone().with_basic("ci", secret).get(target).await.json();
        ["token", "refresh_token"].map(|name| answer[name].as_str().unwrap_or_default().to_owned())
    };
    let push = async |token: &str| begins_push(&edge.client.clone().with_bearer(token)).await;
    let redeem = async |refresh: &str| {
        let form = format!("grant_type=refresh_token&service=x&scope=repository:team/app:push&refresh_token={refresh}");
        edge.client.post_form("/oauth2/token", &form).await
    };
    let ([old, old_refresh], [other, other_refresh]) = (tokens(&first).await, tokens(&second).await);
    let renewed = redeem(&old_refresh).await.json()["access_token"].as_str().expect("a token").to_owned();
    for token in [&old, &other, &renewed] {
        assert_eq!(push(token).await, 202);
    }
    root.post("/outport/v1/principals/ci/secrets/1", &json!({})).await;
    until("its tokens are refused", || async { push(&old).await == 401 }).await;
    assert_eq!((push(&renewed).await, redeem(&old_refresh).await.status), (401, 400), "and what came from them");
    assert_eq!((push(&other).await, redeem(&other_refresh).await.status), (202, 200), "the other secret's stay good");
    edge.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_72_another_edge_of_the_region_refuses_the_old_one_within_ten_seconds() {
    let bucket = TempDir::with_prefix("outport-bucket-").expect("a folder");
    let table = format!("[bucket]\nurl = \"file://{}\"", bucket.path().display());
    let (here, there) = (settings().table(&table).start().await, settings().table(&table).start().await);
    let root = root(&here.client);
    let first = create(&root, "ci").await;
    let second = secrets(&root.post("/outport/v1/principals/ci/secrets/2", &json!({})).await).remove(0);
    let root_there = self::root(&there.client);
    let known = || async { root_there.get("/outport/v1/principals/ci").await.json()["secrets"][1].is_object() };
    let took = until("both secrets are known there", known).await;
    assert!(took < REVOKED_WITHIN, "{took:?}");
    for secret in [&first, &second] {
        assert_eq!(at_the_door(&there.client, "ci", secret).await, 200);
    }
    root.post("/outport/v1/principals/ci/secrets/1", &json!({})).await;
    assert_eq!(at_the_door(&here.client, "ci", &first).await, 401, "here at once");
    let took = until("it is refused there", || async { at_the_door(&there.client, "ci", &first).await == 401 }).await;
    assert!(took < REVOKED_WITHIN, "{took:?}");
    assert_eq!(at_the_door(&there.client, "ci", &second).await, 200, "the other one works");
    here.finish().await;
    there.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_the_bucket_is_away_honours_what_was_known() {
    let mut edge = settings().spawn().await;
    let root = root(&edge.client);
    let (good, bad) = (create(&root, "good").await, create(&root, "bad").await);
    assign(&root, &json!({ "role": "Reader", "principal": "good" })).await;
    patch(&root, "/outport/v1/principals/bad", &json!({ "enabled": false })).await;
    let client = edge.client.clone().with_basic("good", &good);
    becomes("the role is in force", 200, &client, ROLES).await;
    stop(&mut edge).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let options = format!("aws_endpoint = \"http://{closed}\", aws_region = \"x\", allow_http = \"true\", aws_access_key_id = \"x\"");
    edge.replace_file("s3.key", "a secret");
    let table = format!(
        "[bucket]\nurl = \"s3://bucket/prefix\"\noptions = {{ {options} }}\noptions_from_files = {{ aws_secret_access_key = \"s3.key\" }}"
    );
    edge.rewrite(|text| text.push_str(&format!("\n{table}\n")));
    edge.start_again().await;
    assert_eq!((client.get("/v2/").await.status, client.get(ROLES).await.status), (200, 200));
    assert_eq!(at_the_door(&edge.client, "bad", &bad).await, 401);
    let refused = root.post(PRINCIPALS, &json!({ "name": "new" })).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true), "{}", refused.text());
    edge.finish().await;
}

async fn stop(edge: &mut EdgeProcess) {
    edge.signal(Signal::TERM);
    assert!(edge.wait(Duration::from_secs(40)).await.success());
}

/// Guesses twice from an address, on a connection of its own, and returns how often that was refused and how often limited. `salt` makes
/// its guesses different from others'.
async fn guess(edge: SocketAddr, from: Ipv4Addr, name: String, salt: u32) -> (u32, u32) {
    let (mut refused, mut limited) = (0, 0);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of this machine");
    let mut stream = socket.connect(edge).await.expect("a connection");
    let mut buffer = vec![0; 4096];
    for number in 0..2 {
        let pair = base64::prelude::BASE64_STANDARD.encode(format!("{name}:guess {salt} {number}"));
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: edge\r\nAuthorization: Basic {pair}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the connection stays");
        let got = stream.read(&mut buffer).await.expect("an answer");
        let text = String::from_utf8_lossy(&buffer[..got]).to_ascii_lowercase();
        if text.starts_with("http/1.1 429") {
            assert!(text.contains("retry-after: ") && text.contains("toomanyrequests"), "{text}");
            limited += 1;
        } else {
            assert!(text.starts_with("http/1.1 401"), "{text}");
            refused += 1;
        }
    }
    (refused, limited)
}

/// The time that 95 of 100 pulls of a cached image stay below.
async fn pulls(client: &Client, image: &Image, count: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(pull(client, "team/app", "v1", image).await.expect("a cached image"));
    }
    times.sort_unstable();
    times[count * 95 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn row_69_a_thousand_wrong_passwords_are_429_and_others_notice_little() {
    let edge = settings().spawn().await;
    let root = root(&edge.client);
    let ci = edge.client.clone().with_basic("ci", &create(&root, "ci").await);
    assign(&root, &json!({ "role": "AcrPush", "principal": "ci" })).await;
    comes_to_push(&ci).await;
    let image = Image::new(69, &[1_000]);
    push(&ci, "team/app", Some("v1"), &image).await;
    let before = pulls(&ci, &image, 100).await;
    let (address, started) = (edge.address(), Instant::now());
    // From one address by the name of somebody who pulls meanwhile, and from some others by other names.
    let from = |number: u8| Ipv4Addr::new(127, 200, 1, number);
    let mut guessing: Vec<_> = (0..500).map(|salt| tokio::spawn(guess(address, from(1), "ci".to_owned(), salt))).collect();
    guessing.extend((2..7).map(|number| tokio::spawn(guess(address, from(number), format!("user{number}"), 0))));
    let during = pulls(&ci, &image, 100).await;
    let (mut refused, mut limited) = (0, 0);
    for guessing in guessing {
        let (one, other) = guessing.await.expect("each guess is answered");
        (refused, limited) = (refused + one, limited + other);
    }
    let took = started.elapsed();
    let metrics = edge.metrics().await;
    let hashed: f64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("outport_password_checks_total{outcome=\"hashed\"} ")?.parse().ok())
        .expect("hashes are counted");
    assert!(limited > 900, "{refused} were refused and {limited} limited in {took:?}");
    assert!(f64::from(refused) <= hashed && hashed < 110.0, "{refused} were refused and {hashed} hashed in {took:?}");
    assert!(during < before * 20 + Duration::from_millis(500), "{before:?} before, {during:?} during");
    edge.finish().await;
}

/// `outport` with the configuration of an edge, as root.
fn outport(edge: &TestEdge, arguments: &[&str]) -> Output {
    let (config, password) = (edge.config_path(), edge.config_path().with_file_name("root.password"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_outport"));
    command.arg("--config").arg(config).args(arguments);
    command.args(["--username", "root", "--password-file"]).arg(password).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn done(edge: &TestEdge, arguments: &[&str]) -> String {
    let output = outport(edge, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_what_owners_do() {
    let edge = settings().start().await;
    let secret = done(&edge, &["principal", "create", "ci", "--secret-expires-in", "90d"]);
    assert_eq!(secret.trim_end().len(), 43, "a secret and nothing else: {secret}");
    assert_eq!(at_the_door(&edge.client, "ci", secret.trim_end()).await, 200);
    let second = done(&edge, &["principal", "regenerate", "ci", "2", "--json"]);
    let second: Value = serde_json::from_str(&second).expect("JSON");
    assert_eq!((&second["secrets"][0]["number"], &second["name"]), (&json!(2), &json!("ci")), "{second}");
    done(&edge, &["principal", "remove-secret", "ci", "1"]);
    assert_eq!(at_the_door(&edge.client, "ci", secret.trim_end()).await, 401);
    let listed = done(&edge, &["principal", "list"]);
    assert!(listed.lines().any(|line| line.starts_with("ci ")) && listed.lines().any(|line| line.starts_with("root ")), "{listed}");
    let id = done(&edge, &["role", "assign", "AcrPush", "ci", "--repository", "team/**"]);
    let roles: Value = serde_json::from_str(&done(&edge, &["role", "list", "--json"])).expect("JSON");
    assert_eq!(roles["roles"].as_array().map(Vec::len), Some(2), "{roles}");
    assert_eq!(done(&edge, &["role", "revoke", id.trim_end()]), "");
    let refused = outport(&edge, &["rule", "add", "--allow", "192.0.2.0/24"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    let rule = done(&edge, &["rule", "add", "--allow", "127.0.0.0/8", "--allow", "10.0.0.0/8"]);
    assert!(done(&edge, &["rule", "list"]).contains("10.0.0.0/8"));
    done(&edge, &["rule", "remove", rule.trim_end()]);
    let passwords = done(&edge, &["admin", "enable"]);
    assert_eq!(passwords.lines().count(), 2, "{passwords}");
    let first = done(&edge, &["admin", "regenerate", "1"]);
    assert_eq!(at_the_door(&edge.client, "admin", first.trim_end()).await, 200);
    done(&edge, &["admin", "disable"]);
    assert!(done(&edge, &["admin", "show"]).contains("disabled"));
    done(&edge, &["principal", "delete", "ci"]);
    for (arguments, code) in [
        (&["principal", "show", "ci"][..], 1),
        (&["principal", "delete", "root"], 1),
        (&["role", "assign", "King", "ci"], 64),
        (&["principal", "regenerate", "ci", "3"], 64),
    ] {
        assert_eq!(outport(&edge, arguments).status.code(), Some(code), "{arguments:?}");
    }
    for arguments in [&["principal"][..], &["principal", "create"], &["role", "assign"], &["rule", "add"], &["admin", "regenerate"]] {
        let help = Command::new(env!("CARGO_BIN_EXE_outport")).args(arguments).arg("--help").output().expect("the binary runs");
        assert!(String::from_utf8_lossy(&help.stdout).contains("Example"), "{arguments:?}");
    }
    edge.finish().await;
}
