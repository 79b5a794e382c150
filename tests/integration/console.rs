//! The operators' listener: the console's files, and the interfaces that it asks, by the same rules as everywhere.

use serde_json::json;

use crate::harness::client::Client;
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::push::push;

const FROM_CONSOLE: (&str, &str) = ("X-Requested-With", "console");
const AS_BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml");

/// An edge with an owner and with somebody who may only pull one repository; the password of both is `secret`.
async fn edge() -> TestEdge {
    let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]").pusher("owner", "[\"**\"]", "[\"**\"]").pusher(
        "puller",
        "[\"team/open\"]",
        "[]",
    );
    settings.table("[[role]]\nrole = \"Owner\"\nprincipals = [\"owner\"]").start().await
}

fn at_ops(edge: &TestEdge, name: &str) -> Client {
    edge.ops.clone().with_basic(name, "secret")
}

#[tokio::test]
async fn browsers_get_the_console_and_others_a_list() {
    let edge = edge().await;
    let listed = edge.ops.get("/").await;
    assert!(listed.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) && listed.text().contains("/metrics"));
    let page = edge.ops.get_with("/", &[AS_BROWSER]).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'self'")));
    // All that the page names is there.
    let named = page.text().split(['"', '\'']).filter(|word| word.starts_with("/console/")).map(str::to_owned).collect::<Vec<_>>();
    assert!(!named.is_empty(), "{}", page.text());
    for path in named {
        let file = edge.ops.get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        let etag = file.header("etag").expect("it can be asked for again").to_owned();
        assert_eq!(edge.ops.get_with(&path, &[("If-None-Match", &etag)]).await.status, 304, "{path}");
    }
    // Clients of the registry have no use for it.
    assert_eq!(edge.client.get_with("/", &[AS_BROWSER]).await.status, 404);
    assert_eq!(edge.client.get("/console/index.html").await.status, 404);
    edge.finish().await;
}

#[tokio::test]
async fn what_the_console_asks_is_answered_as_everywhere() {
    let edge = edge().await;
    let owner = edge.client.clone().with_basic("owner", "secret");
    for repository in ["team/open", "team/closed"] {
        push(&owner, repository, Some("v1"), &Image::new(1, &[1_000])).await;
    }
    for path in ["/outport/v1/status", "/acr/v1/_catalog", "/outport/v1/offload"] {
        assert_eq!(edge.ops.get(path).await.status, edge.client.get(path).await.status, "{path}");
        assert_eq!(at_ops(&edge, "owner").get_with(path, &[FROM_CONSOLE]).await.status, 200, "{path}");
    }
    for path in ["/outport/v1/logs", "/outport/v1/audit", "/outport/v1/top"] {
        // A browser would ask by itself for what is answered so; the console asks in its own words.
        let nobody = edge.ops.get(path).await;
        assert_eq!((nobody.status, nobody.header("www-authenticate").is_some()), (401, true), "{path}");
        let nobody = edge.ops.get_with(path, &[FROM_CONSOLE]).await;
        assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, None), "{path}");
        assert_eq!(at_ops(&edge, "owner").get_with(path, &[FROM_CONSOLE]).await.status, 200, "{path}");
    }
    let puller = at_ops(&edge, "puller");
    for path in ["/outport/v1/logs", "/outport/v1/audit", "/outport/v1/top"] {
        assert_eq!(puller.get_with(path, &[FROM_CONSOLE]).await.status, 403, "{path}");
    }
    assert!(!puller.get("/acr/v1/_catalog").await.text().contains("closed"));
    assert_eq!(puller.get("/acr/v1/team/closed").await.status, 404);
    // Blobs, pushes and other regions' questions are for the registry's listener.
    for path in ["/v2/", "/v2/team/open/manifests/v1", "/oauth2/token"] {
        assert_eq!(at_ops(&edge, "owner").get(path).await.status, 404, "{path}");
    }
    edge.finish().await;
}

/// A page of another site can make a browser send a request, but not this header, which it would have to ask for first.
#[tokio::test]
async fn no_other_page_changes_anything() {
    let edge = edge().await;
    push(&edge.client.clone().with_basic("owner", "secret"), "team/open", Some("v1"), &Image::new(1, &[1_000])).await;
    let owner = at_ops(&edge, "owner");
    let lock = json!({ "deleteEnabled": false }).to_string();
    let path = "/acr/v1/team/open/_tags/v1";
    let json = ("Content-Type", "application/json");
    assert_eq!(owner.send_with("PATCH", path, &[json], lock.as_bytes()).await.status, 403);
    let is_open = |answer: serde_json::Value| answer["tag"]["changeableAttributes"]["deleteEnabled"] == true;
    assert!(is_open(owner.get(path).await.json()));
    assert_eq!(owner.send_with("PATCH", path, &[json, FROM_CONSOLE], lock.as_bytes()).await.status, 200);
    assert!(!is_open(owner.get(path).await.json()));
    // Asked beforehand, the edge allows no site.
    let asked = [("Origin", "https://evil.test"), ("Access-Control-Request-Method", "PATCH")];
    let answer = owner.send_with("OPTIONS", path, &asked, b"").await;
    assert!(answer.status >= 400 && answer.header("access-control-allow-origin").is_none(), "{}", answer.status);
    edge.finish().await;
}

#[tokio::test]
async fn lines_of_the_log_are_asked_for_by_number() {
    let edge = edge().await;
    let owner = edge.client.clone().with_basic("owner", "secret");
    let told = owner.get("/outport/v1/logs?lines=5&after=0").await;
    assert_eq!((told.status, told.json()), (200, json!({ "next": 0, "lines": [] })), "the log of this process is the tests'");
    for wrong in ["lines=0", "lines=x", "after=x", "requests=x"] {
        assert_eq!(owner.get(&format!("/outport/v1/logs?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(owner.post("/outport/v1/logs", &serde_json::Value::Null).await.status, 405);
    edge.finish().await;
}
