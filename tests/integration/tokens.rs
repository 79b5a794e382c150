//! Tokens over HTTP, as docker, containerd, ORAS and Azure's clients ask for them and show them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use outport::access::Scopes;
use outport::clock::{Clock, Timestamp};
use outport::config::{Config, Secret, process_environment};
use outport::edge::Edge;
use outport::identity::{Control, Controls, IdentityKind, IdentityRecord, Proof, REFRESH_USER, SigningKey, Sources, Subject, Tokens};
use outport::ledger::{ControlRecord, Event};
use outport::metrics::Metrics;
use outport::region::Region;
use serde_json::json;

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::pull::pull;
use crate::harness::push::push;
use crate::harness::regions::{Reach, World};

/// `writer` may push `team/**`, `reader` may pull it, everybody may pull `open/**`.
async fn edge() -> TestEdge {
    let settings = Settings::new().access("anonymous_pull = [\"open/**\", \"canary.test/**\"]\nanonymous_push = []");
    settings.pusher("writer", "[]", "[\"team/**\", \"open/**\"]").pusher("reader", "[\"team/**\"]", "[]").start().await
}

/// The parameters of a Bearer challenge.
fn challenge(answer: &Response) -> HashMap<String, String> {
    assert_eq!(answer.status, 401, "{}", answer.text());
    let header = answer.header("www-authenticate").expect("a 401 has a challenge");
    let parameters = header.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{header} is no Bearer challenge"));
    let parameter = |text: &str| {
        let (name, value) = text.split_once('=').expect("a parameter has a value");
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    // Only what stands between quotes has commas.
    parameters.split("\",").map(parameter).collect()
}

/// Follows a challenge, as this client.
async fn follow(client: &Client, challenge: &HashMap<String, String>) -> Response {
    let path = challenge["realm"].strip_prefix(&format!("http://{}", client.address())).expect("our own realm");
    let scope = challenge.get("scope").map(|scope| format!("&scope={scope}")).unwrap_or_default();
    client.get(&format!("{path}?service={}{scope}", challenge["service"])).await
}

fn token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["token"], &body["token_type"]), (&body["access_token"], &json!("Bearer")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    body["token"].as_str().expect("a token").to_owned()
}

/// A token for these scopes.
async fn token_for(client: &Client, scope: &str) -> String {
    token(&client.get(&format!("/oauth2/token?service=x&scope={scope}")).await)
}

/// A part of a token: its header, or its claims.
fn part(token: &str, number: usize) -> serde_json::Value {
    let part = token.split('.').nth(number).expect("a token has three parts");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn clients_follow_the_challenge_to_a_token() {
    let (edge, image) = (edge().await, Image::new(1, &[10_000]));
    let (anybody, writer) = (edge.client.clone(), edge.client.clone().with_basic("writer", "secret"));
    let ping = challenge(&anybody.get("/v2/").await);
    assert_eq!((ping["service"].as_str(), ping.get("scope")), (anybody.address().to_string().as_str(), None));
    let begun = challenge(&anybody.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await);
    assert_eq!(begun["scope"], "repository:team/app:pull,push");
    let pushing = token(&follow(&writer, &begun).await);
    assert_eq!(part(&pushing, 1)["access"], json!([{ "type": "repository", "name": "team/app", "actions": ["pull", "push"] }]));
    push(&anybody.clone().with_bearer(&pushing), "team/app", Some("v1"), &image).await;
    let reader = edge.client.clone().with_basic("reader", "secret");
    let pulling = token(&follow(&reader, &challenge(&anybody.get("/v2/team/app/manifests/v1").await)).await);
    pull(&anybody.clone().with_bearer(&pulling), "team/app", "v1", &image).await.expect("the reader's image");
    // Basic goes on being good without the detour.
    pull(&reader, "team/app", "v1", &image).await.expect("the reader's image");
    edge.finish().await;
}

#[tokio::test]
async fn everybody_gets_a_token_for_what_everybody_may() {
    let (edge, image) = (edge().await, Image::new(2, &[10_000]));
    push(&edge.client.clone().with_basic("writer", "secret"), "open/app", Some("v1"), &image).await;
    pull(&edge.client, "open/app", "v1", &image).await.expect("without any token");
    let anonymous =
        edge.client.clone().with_bearer(&token_for(&edge.client, "repository:open/app:pull,push%20repository:team/app:pull").await);
    assert_eq!(anonymous.get("/v2/").await.status, 200);
    pull(&anonymous, "open/app", "v1", &image).await.expect("with everybody's token");
    for target in ["/v2/team/app/manifests/v1", "/v2/open/other/manifests/v1"] {
        challenge(&anonymous.get(target).await);
    }
    // Azure's clients ask like this when they have no credential.
    let form = "grant_type=password&service=x&scope=repository%3Aopen%2Fapp%3Apull&refresh_token=";
    let azures = token(&edge.client.post_form("/oauth2/token", form).await);
    pull(&edge.client.clone().with_bearer(&azures), "open/app", "v1", &image).await.expect("with Azure's way");
    edge.finish().await;
}

#[tokio::test]
async fn row_66_a_token_reaches_no_further_than_its_scope_and_its_holder() {
    let (edge, image) = (edge().await, Image::new(3, &[10_000]));
    push(&edge.client.clone().with_basic("writer", "secret"), "team/app", Some("v1"), &image).await;
    let reader = edge.client.clone().with_basic("reader", "secret");
    let answer = reader.get("/oauth2/token?service=x&scope=repository:team/app:pull,push,delete&scope=repository:other/app:pull").await;
    assert_eq!(answer.json()["scope"], "repository:team/app:pull");
    let bearer = edge.client.clone().with_bearer(&token(&answer));
    pull(&bearer, "team/app", "v1", &image).await.expect("what it is for");
    assert_eq!(bearer.send_with("POST", "/v2/team/app/blobs/uploads/", &[], b"").await.status, 403);
    assert_eq!(bearer.send("DELETE", "/v2/team/app/manifests/v1", &[]).await.expect("an answer").status, 403);
    let other = challenge(&bearer.get("/v2/team/other/manifests/v1").await);
    assert_eq!((other["error"].as_str(), other["scope"].as_str()), ("insufficient_scope", "repository:team/other:pull"));
    assert_eq!(bearer.get("/v2/elsewhere/app/manifests/v1").await.status, 404, "where its holder may nothing either, nothing is told");
    assert_eq!(challenge(&bearer.get("/v2/_catalog").await)["scope"], "registry:catalog:*");
    let catalog = edge.client.clone().with_bearer(&token_for(&reader, "registry:catalog:*").await);
    assert_eq!(catalog.get("/v2/_catalog").await.json()["repositories"], json!(["team/app"]));
    assert_eq!(challenge(&catalog.get("/v2/team/app/manifests/v1").await)["error"], "insufficient_scope");
    edge.finish().await;
}

#[tokio::test]
async fn refresh_tokens_give_access_tokens_and_nothing_else() {
    let edge = edge().await;
    let (anybody, reader) = (&edge.client, edge.client.clone().with_basic("reader", "secret"));
    let login = reader.get("/oauth2/token?account=reader&client_id=docker&offline_token=true&service=x").await;
    assert_eq!(part(&token(&login), 1).get("access"), None, "nothing was asked for");
    assert!(reader.get("/oauth2/token?service=x").await.json().get("refresh_token").is_none());
    assert!(anybody.get("/oauth2/token?service=x&offline_token=true").await.json().get("refresh_token").is_none());
    let refresh = login.json()["refresh_token"].as_str().expect("a refresh token").to_owned();
    assert!(part(&refresh, 1)["exp"].as_u64() > part(&refresh, 1)["iat"].as_u64(), "Azure's clients look when it ends");
    let scope = "repository:team/app:pull";
    let form = format!("grant_type=refresh_token&service=x&client_id=docker&scope={scope}&access_type=offline&refresh_token={refresh}");
    let answer = anybody.post_form("/oauth2/token", &form).await;
    assert_eq!(
        anybody.clone().with_bearer(&token(&answer)).get("/v2/team/app/tags/list").await.status,
        404,
        "it is good, and there is nothing"
    );
    assert!(answer.json().get("refresh_token").is_none(), "it would last forever");
    let stands_in = anybody.clone().with_basic(REFRESH_USER, &refresh);
    assert_eq!(anybody.clone().with_bearer(&token_for(&stands_in, scope).await).get("/v2/team/app/tags/list").await.status, 404);
    let by_password = format!("grant_type=password&service=x&client_id=x&scope={scope}&username={REFRESH_USER}&password={refresh}");
    token(&anybody.post_form("/oauth2/token", &by_password).await);
    challenge(&stands_in.get("/v2/team/app/tags/list").await);
    assert_eq!(challenge(&anybody.clone().with_bearer(&refresh).get("/v2/team/app/tags/list").await)["error"], "invalid_token");
    edge.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_for_a_token_is_told() {
    let edge = edge().await;
    for (form, status, error) in [
        ("", 400, "invalid_request"),
        ("grant_type=", 400, "invalid_request"),
        ("grant_type=authorization_code&code=1", 400, "unsupported_grant_type"),
        ("grant_type=refresh_token", 400, "invalid_request"),
        ("grant_type=refresh_token&refresh_token=a.b.c", 400, "invalid_grant"),
        ("grant_type=password&username=reader", 400, "invalid_request"),
        ("grant_type=password&username=reader&password=wrong", 400, "invalid_grant"),
        ("grant_type=password&username=nobody&password=secret", 400, "invalid_grant"),
        ("grant_type=client_credentials", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=reader&client_secret=wrong", 401, "invalid_client"),
        ("grant_type=client_credentials&client_secret=secret", 400, "invalid_request"),
        ("grant_type=password&username=reader&password=secret&username=writer", 400, "invalid_request"),
        ("grant_type=password&username=reader&password=secret&more=1", 200, ""),
        ("grant_type=client_credentials&client_id=reader&client_secret=secret", 200, ""),
    ] {
        let answer = edge.client.post_form("/oauth2/token", form).await;
        assert_eq!((answer.status, answer.json()["error"].as_str().unwrap_or_default()), (status, error), "{form}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{form}");
    }
    let scopes = (0..101).map(|number| format!("repository:a{number}:pull")).collect::<Vec<_>>().join("%20");
    let many = format!("grant_type=password&username=reader&password=secret&scope={scopes}");
    assert_eq!(edge.client.post_form("/oauth2/token", &many).await.json()["error"], "invalid_scope");
    assert_eq!(edge.client.post("/oauth2/token", &json!({ "grant_type": "password" })).await.json()["error"], "invalid_request");
    let large = format!("grant_type=password&padding={}", "x".repeat(64 * 1024));
    assert_eq!(edge.client.post_form("/oauth2/token", &large).await.status, 413);
    let wrong = edge.client.clone().with_basic("reader", "wrong").get("/oauth2/token?service=x").await;
    assert!(wrong.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")), "a token does not lead to a token");
    assert_eq!((wrong.status, wrong.error_code().as_deref()), (401, Some("UNAUTHORIZED")));
    assert_eq!(edge.client.send("DELETE", "/oauth2/token", &[]).await.expect("an answer").status, 405);
    edge.finish().await;
}

/// What the edge signs with: its own file, as it keeps it.
fn signing_as(data_dir: &Path) -> Tokens {
    let text = std::fs::read_to_string(data_dir.join("token-key.pem")).expect("the edge keeps its key");
    let key = SigningKey::from_pem(&Secret::new(text)).expect("a key");
    let sources = Sources { region: Region::default(), controls: Controls::fixed(Control::default()), clock: Clock::system() };
    Tokens::new("test", key, Duration::from_secs(300), sources)
}

#[tokio::test]
async fn rows_63_to_65_tokens_that_are_not_ours_are_refused() {
    let edge = edge().await;
    let good = token_for(&edge.client.clone().with_basic("reader", "secret"), "repository:team/app:pull").await;
    let [header, claims, signature] = [0, 1, 2].map(|number| good.split('.').nth(number).expect("three parts").to_owned());
    let changed = |part: &str, from: &str, to: &str| {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("text");
        assert!(text.contains(from), "{from} is not in {text}");
        BASE64_URL_SAFE_NO_PAD.encode(text.replacen(from, to, 1))
    };
    let exp = part(&good, 1)["exp"].to_string();
    for forged in [
        format!("{}.{claims}.", changed(&header, "ES256", "none")),
        format!("{}.{claims}.{signature}", changed(&header, "ES256", "HS256")),
        format!("{}.{claims}.{signature}", changed(&header, r#""alg""#, r#""jku":"http://127.0.0.1:1/","alg""#)),
        format!("{header}.{}.{signature}", changed(&claims, &exp, &format!("\"{exp}\""))),
        format!("{header}.{}.{signature}", changed(&claims, &exp, &format!("{exp}.5"))),
        format!("{header}.{}.{signature}", changed(&claims, "team/app", "team/***")),
        format!("{header}.{}.{signature}", changed(&claims, r#""iss":"test""#, r#""iss":"us""#)),
        format!("{header}.{claims}"),
        "x".repeat(8_000),
    ] {
        let answer = edge.client.clone().with_bearer(&forged).get("/v2/team/app/tags/list").await;
        assert_eq!(challenge(&answer)["error"], "invalid_token", "{forged}");
    }
    assert_eq!(edge.client.clone().with_bearer(&good).get("/v2/team/app/tags/list").await.status, 404);
    edge.finish().await;
}

#[tokio::test]
async fn an_edge_keeps_its_key_over_a_restart() {
    let mut edge = edge().await;
    let reader = |edge: &TestEdge| edge.client.clone().with_basic("reader", "secret");
    let before = token_for(&reader(&edge), "repository:team/app:pull").await;
    edge.restart().await;
    assert_eq!(edge.client.clone().with_bearer(&before).get("/v2/team/app/tags/list").await.status, 404);
    let after = token_for(&reader(&edge), "repository:team/app:pull").await;
    assert_eq!(part(&before, 0)["kid"], part(&after, 0)["kid"]);
    edge.finish().await;
}

async fn until(what: &str, patience: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is_so().await {
        assert!(since.elapsed() < patience, "{what} takes longer than {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    since.elapsed()
}

#[tokio::test]
async fn a_key_that_is_replaced_takes_over_with_no_token_refused() {
    let pem = || SigningKey::generate().expect("a key").1.expose().to_owned();
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]").principal("reader", "secret", "team/**");
    let file = settings.file("signing.pem", &pem());
    let edge = settings.table(&format!("[tokens]\nprivate_key_file = \"{}\"\nttl = \"1m\"", file.display())).spawn().await;
    let reader = edge.client.clone().with_basic("reader", "secret");
    let first = token_for(&reader, "repository:team/app:pull").await;
    assert_eq!(part(&first, 1)["exp"].as_u64(), part(&first, 1)["iat"].as_u64().map(|iat| iat + 60));
    assert!(!edge.data_dir().join("token-key.pem").exists(), "it makes no key of its own");
    let is_good = async |token: &str| edge.client.clone().with_bearer(token).get("/v2/team/app/tags/list").await.status == 404;
    edge.replace_file("signing.pem", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n");
    let rejected = r#"outport_config_reloads_total{outcome="rejected",what="config"} 1"#;
    until("a bad key is reported", Duration::from_secs(20), async || edge.metrics().await.contains(rejected)).await;
    assert!(is_good(&first).await);
    edge.replace_file("signing.pem", &pem());
    until("the new key signs", Duration::from_secs(60), async || {
        let token = token_for(&reader, "repository:team/app:pull").await;
        assert!(is_good(&token).await && is_good(&first).await);
        part(&token, 0)["kid"] != part(&first, 0)["kid"]
    })
    .await;
    edge.finish().await;
}

#[tokio::test]
async fn a_token_of_one_region_is_good_in_another() {
    let passwords = tempfile::tempdir().expect("a folder");
    let file = passwords.path().join("ci");
    std::fs::write(&file, "secret").expect("a file");
    let principal = format!("[[principal]]\nname = \"ci\"\npassword_files = [\"{}\"]\npull = [\"team/**\"]", file.display());
    let world = World::start_each(&["eu", "us"], |_| principal.clone(), Reach::Edges).await;
    let token = token_for(&world.client("eu").clone().with_basic("ci", "secret"), "repository:team/app:pull").await;
    let us = world.client("us").clone().with_bearer(&token);
    until("the key is known in the other region", Duration::from_secs(40), async || us.get("/v2/team/app/tags/list").await.status == 404)
        .await;
    // It was verified there, so nothing of it needs the other region any more.
    world.cut_off("us");
    assert_eq!(us.get("/v2/").await.status, 200);
    world.mend("us");
    let forged = format!("{token}x");
    assert_eq!(challenge(&world.client("us").clone().with_bearer(&forged).get("/v2/").await)["error"], "invalid_token");
}

#[tokio::test]
async fn who_is_removed_from_the_control_plane_is_refused_within_ten_seconds() {
    let edge = edge().await;
    let config = Config::load(Some(&edge.config_path()), &process_environment).expect("its own configuration");
    let region = Edge::reach_region(&config, Metrics::new()).await.expect("its region");
    let ledger = &region.get().expect("it is open").ledger;
    let record =
        IdentityRecord { kind: IdentityKind::Service, enabled: true, created: Timestamp::from_ms(1), expires: None, secrets: [None, None] };
    let event = |content| Event::Identity(ControlRecord { name: "made".to_owned(), content });
    ledger.append(vec![event(Some(json!(record)))]).await.expect("it is appended");
    let subject = Subject { name: "made".into(), groups: [].into(), proof: Proof::Basic, secret: None };
    let token = signing_as(&edge.data_dir()).access_token(Some(&subject), &Scopes::default()).expect("a token").token;
    let bearer = edge.client.clone().with_bearer(token.expose());
    until("who was made is known", Duration::from_secs(10), async || bearer.get("/v2/").await.status == 200).await;
    ledger.append(vec![event(None)]).await.expect("it is appended");
    let took = until("who was removed is refused", Duration::from_secs(10), async || bearer.get("/v2/").await.status == 401).await;
    println!("refused after {took:?}");
    edge.finish().await;
}
