//! What was fetched for one caller is not there for another (hardening rows 82 and 83).

use std::time::Duration;

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};
use crate::harness::token::{Guard, Scheme, TokenBy};

/// A private origin with `team-a/app` and `team-b/app`, and an edge where alice reads the first and bob the second.
struct Teams {
    origin: Origin,
    edge: TestEdge,
    alice: Client,
    bob: Client,
    secret: Image,
}

impl Teams {
    async fn new(lines: &str) -> Teams {
        let origin = Origin::with(Guard::new(Scheme::Bearer(TokenBy::Get))).await;
        let secret = Image::new(82, &[5_000, 300_000]);
        origin.push("team-a/app", "v1", &secret);
        origin.attach("team-a/app", &Image::artifact("application/x-signature", &secret.manifest, "alice signed"));
        origin.push("team-b/app", "v1", &Image::new(83, &[6_000]));
        let settings = Settings::new()
            .access("anonymous_pull = [\"canary.test/**\"]")
            .principal("alice", "alice-password", "origin.test/team-a/**")
            .principal("bob", "bob-password", "origin.test/team-b/**");
        let password = settings.file("password", "origin-password");
        let lines = format!("username = \"origin-user\"\npassword_file = \"{}\"\n{lines}", password.display());
        let edge = settings.upstream_with("origin.test", &origin, &lines).start().await;
        let alice = edge.client.clone().with_basic("alice", "alice-password");
        let bob = edge.client.clone().with_basic("bob", "bob-password");
        Teams { origin, edge, alice, bob, secret }
    }

    async fn alice_pulls(&self) {
        pull(&self.alice, "origin.test/team-a/app", "v1", &self.secret).await.expect("alice's own image");
        let subject = format!("/v2/origin.test/team-a/app/referrers/{}", self.secret.digest());
        let referrers = self.alice.get(&subject).await;
        assert_eq!(referrers.json()["manifests"].as_array().map(Vec::len), Some(1), "{}", referrers.text());
        assert_eq!(self.alice.get("/v2/origin.test/team-a/app/tags/list").await.status, 200);
    }

    /// What is asked of a repository: method, the rest of the path, and a Range.
    fn questions(&self) -> Vec<(&'static str, String, Option<&'static str>)> {
        let (manifest, layer, config) = (self.secret.digest(), self.secret.blobs[2].digest(), self.secret.blobs[0].digest());
        let mut questions = Vec::new();
        for method in ["GET", "HEAD"] {
            questions.push((method, "manifests/v1".to_owned(), None));
            questions.push((method, format!("manifests/{manifest}"), None));
            questions.push((method, format!("blobs/{manifest}"), None));
            for blob in [layer, config] {
                questions.push((method, format!("blobs/{blob}"), None));
                questions.push((method, format!("blobs/{blob}"), Some("bytes=0-9")));
                questions.push((method, format!("blobs/{blob}"), Some("bytes=999999999-")));
            }
            questions.push((method, format!("referrers/{manifest}"), None));
            questions.push((method, "tags/list".to_owned(), None));
        }
        questions
    }
}

/// An answer without what differs between any two: time, the request's own number, and its own name, which the challenge repeats.
fn essence(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let fixed = |name: &str| name != "date" && !name.ends_with("request-id");
    let headers = answer.head.headers.iter().filter(|(name, _)| fixed(name));
    let headers = headers.map(|(name, value)| (name.clone(), value.replace("team-a/no-such-app:", "team-a/app:"))).collect();
    (answer.status, headers, answer.text())
}

async fn ask(client: &Client, method: &str, repository: &str, rest: &str, range: Option<&str>) -> Response {
    let headers: Vec<_> = range.map(|range| ("Range", range)).into_iter().collect();
    client.send(method, &format!("/v2/{repository}/{rest}"), &headers).await.expect("a whole answer")
}

#[tokio::test]
async fn row_82_denied_and_absent_look_the_same() {
    let teams = Teams::new("").await;
    teams.alice_pulls().await;
    let asked = teams.origin.requests().len();
    for (method, rest, range) in teams.questions() {
        let denied = essence(&ask(&teams.bob, method, "origin.test/team-a/app", &rest, range).await);
        let absent = essence(&ask(&teams.bob, method, "origin.test/team-a/no-such-app", &rest, range).await);
        assert_eq!(denied, absent, "{method} {rest} {range:?}");
        assert_eq!(denied.0, 404, "{method} {rest} {range:?}");
        let confirmed = essence(&ask(&teams.bob, method, "origin.test/team-b/no-such-app", &rest, range).await);
        if !rest.starts_with("referrers") {
            assert_eq!(denied, confirmed, "{method} {rest} {range:?}: a repository that bob may read and that is absent");
        }

        let stranger = essence(&ask(&teams.edge.client, method, "origin.test/team-a/app", &rest, range).await);
        let nowhere = essence(&ask(&teams.edge.client, method, "origin.test/team-a/no-such-app", &rest, range).await);
        assert_eq!((stranger.0, &stranger), (401, &nowhere), "{method} {rest} {range:?}");
    }
    let about_a = |logged: &std::sync::Arc<crate::harness::origin::Logged>| logged.target.contains("team-a");
    assert!(!teams.origin.requests()[asked..].iter().any(about_a), "what bob asks about team-a does not reach the origin");
    teams.edge.finish().await;
}

#[tokio::test]
async fn row_82_a_digest_is_not_served_through_another_repository() {
    let teams = Teams::new("").await;
    teams.alice_pulls().await;
    for (method, rest, range) in teams.questions() {
        let answer = ask(&teams.bob, method, "origin.test/team-b/app", &rest, range).await;
        if rest.contains("sha256:") && !rest.starts_with("referrers") {
            assert_eq!(answer.status, 404, "{method} {rest} {range:?}");
        }
        assert!(!answer.text().contains("alice signed"), "{method} {rest}: {}", answer.text());
    }
    // A blob that the upstream has in both is each's own.
    let shared = &teams.secret.blobs[2];
    teams.origin.push_blob("team-b/shared", shared);
    let answer = teams.bob.get(&format!("/v2/origin.test/team-b/shared/blobs/{}", shared.digest())).await;
    assert_eq!((answer.status, answer.body), (200, shared.bytes()));
    assert_eq!(teams.origin.transfers(shared.digest()), 1, "it was fetched for alice, and the upstream was asked whether bob has it");
    teams.edge.finish().await;
}

#[tokio::test]
async fn row_82_a_digest_is_not_served_through_another_upstream() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let image = Image::new(1, &[300_000]);
    origin.push("app", "v1", &image);
    other.push("app", "v1", &Image::new(2, &[10]));
    let edge = Settings::new().upstream("origin.test", &origin).upstream("other.test", &other).start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    for path in [format!("manifests/{}", image.digest()), format!("blobs/{}", image.blobs[1].digest())] {
        assert_eq!(edge.client.get(&format!("/v2/other.test/app/{path}")).await.status, 404, "{path}");
    }
    edge.finish().await;
}

#[tokio::test]
async fn the_catalogue_shows_only_what_the_caller_may_read() {
    let teams = Teams::new("").await;
    teams.alice_pulls().await;
    assert_eq!(teams.bob.get("/v2/origin.test/team-b/app/manifests/v1").await.status, 200);
    let names = |answer: Response| answer.json()["repositories"].as_array().cloned().unwrap_or_default();
    assert_eq!(names(teams.alice.get("/v2/_catalog").await), ["origin.test/team-a/app"]);
    assert_eq!(names(teams.bob.get("/v2/_catalog").await), ["origin.test/team-b/app"]);
    assert_eq!(names(teams.bob.get("/v2/_catalog?n=1").await), ["origin.test/team-b/app"]);
    for answer in [teams.edge.client.get("/v2/_catalog").await, teams.edge.client.get("/v2/_catalog?last=origin.test").await] {
        assert!(!answer.text().contains("team-"), "{}", answer.text());
    }
    teams.edge.finish().await;
}

#[tokio::test]
async fn wrong_credentials_are_401_also_where_anybody_may_pull() {
    let teams = Teams::new("").await;
    teams.alice_pulls().await;
    for (name, password) in [("alice", "wrong"), ("alice", ""), ("mallory", "alice-password"), ("", "alice-password")] {
        let client = teams.edge.client.clone().with_basic(name, password);
        assert_eq!(client.get("/v2/origin.test/team-a/app/manifests/v1").await.status, 401, "{name}");
        assert_eq!(client.get("/v2/").await.status, 401, "{name}");
    }
    for authorization in ["Basic", "Basic !!!", "Bearer origin-token-0", "Negotiate abc", ""] {
        let answer = teams.edge.client.get_with("/v2/origin.test/team-a/app/manifests/v1", &[("Authorization", authorization)]).await;
        assert!(matches!(answer.status, 400 | 401), "{authorization}: {}", answer.status);
    }
    assert_eq!(teams.alice.get("/v2/").await.status, 200);
    teams.edge.finish().await;
}

/// The upstream closes or removes a repository: past the authorization time nothing of it is served, not even stale.
async fn withdrawn(fault: Fault) {
    let teams = Teams::new("tag_ttl = \"0s\"\nauthorization_ttl = \"1s\"").await;
    teams.alice_pulls().await;
    teams.origin.script(Match::repository("team-a/app"), fault.clone());
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    for (method, rest, range) in teams.questions() {
        let answer = ask(&teams.alice, method, "origin.test/team-a/app", &rest, range).await;
        // Referrers are always a list; of a repository that is gone it is empty.
        let is_empty_list = answer.status == 200 && rest.starts_with("referrers") && !answer.text().contains("sha256:");
        assert!(answer.status == 404 || is_empty_list, "{method} {rest} {range:?} after {fault:?}: {} {}", answer.status, answer.text());
    }
    teams.origin.blackhole();
    let answer = teams.alice.get("/v2/origin.test/team-a/app/manifests/v1").await;
    assert!(matches!(answer.status, 404 | 503), "an outage does not bring it back: {}", answer.status);
    teams.edge.finish().await;
}

#[tokio::test]
async fn what_the_upstream_denies_is_not_served_stale() {
    withdrawn(Fault::status(403)).await;
}

#[tokio::test]
async fn what_the_upstream_no_longer_lets_us_see_is_not_served_stale() {
    withdrawn(Fault::challenge(r#"Basic realm="closed""#)).await;
}

#[tokio::test]
async fn what_the_upstream_removed_is_not_served_stale() {
    withdrawn(Fault::status(404)).await;
}

#[tokio::test]
async fn row_83_forwarding_headers_and_extra_queries_reach_the_same_entry() {
    let origin = Origin::start().await;
    let image = Image::new(83, &[5_000, 300_000]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    let asked = origin.requests().len();
    let layer = format!("/v2/origin.test/app/blobs/{}", image.blobs[2].digest());
    for header in ["X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Original-URL", "X-Rewrite-URL"] {
        let answer = edge.client.get_with("/v2/origin.test/app/manifests/v1", &[(header, "evil.example.com")]).await;
        assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes), "{header}");
        assert!(!format!("{:?}", answer.head).contains("evil.example.com"), "{header}: {:?}", answer.head);
    }
    for query in ["?x=1", "?cachebuster=2&cachebuster=3", "?", "?digest=sha256:0"] {
        assert_eq!(edge.client.get(&format!("/v2/origin.test/app/manifests/v1{query}")).await.body, image.manifest.bytes, "{query}");
        assert_eq!(edge.client.get(&format!("{layer}{query}")).await.status, 200, "{query}");
    }
    assert_eq!(origin.requests().len(), asked);
    edge.finish().await;
}
