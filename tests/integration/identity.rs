//! Who signs in at an identity provider: the exchange of its tokens for this registry's, and what their bearers may do.

use serde_json::{Value, json};

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::provider::Provider;
use crate::harness::pull::pull;
use crate::harness::push::push;

const ROLES: &str = r#"
[[role]]
role = "AcrPull"
principals = ["group:builders"]
repositories = ["team/**"]
[[role]]
role = "AcrPush"
principals = ["system:serviceaccount:ci:pusher"]
repositories = ["team/**"]
"#;

/// A provider, and an edge with an image of the team's on which only members of `builders` may pull.
struct Bench {
    provider: Provider,
    edge: TestEdge,
    image: Image,
}

impl Bench {
    async fn new() -> Bench {
        let (provider, image) = (Provider::start().await, Image::new(63, &[5_000, 100_000]));
        let settings = Settings::new().access("anonymous_pull = [\"canary.test/**\"]");
        let settings = settings.pusher("ci", "[]", "[\"team/**\"]").table(ROLES).table(&provider.table("client_id = \"cli\""));
        let edge = settings.start().await;
        push(&edge.client.clone().with_basic("ci", "secret"), "team/app", Some("v1"), &image).await;
        Bench { provider, edge, image }
    }

    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let form_type = [("Content-Type", "application/x-www-form-urlencoded")];
        self.edge.client.without_headers().send_with("POST", path, &form_type, form.as_bytes()).await
    }

    /// As Azure's clients do it.
    async fn exchange(&self, token: &str) -> Response {
        let fields = [("grant_type", "access_token"), ("service", "registry"), ("tenant", "t"), ("access_token", token)];
        self.form("/oauth2/exchange", &fields).await
    }

    /// The refresh token that a provider's token is exchanged for.
    async fn refresh_token(&self, token: &str) -> String {
        let answer = self.exchange(token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.json()["refresh_token"].as_str().expect("a refresh token").to_owned()
    }

    /// A client with an access token for this scope.
    async fn client(&self, refresh_token: &str, scope: &str) -> Client {
        let fields = [("grant_type", "refresh_token"), ("service", "registry"), ("scope", scope), ("refresh_token", refresh_token)];
        let answer = self.form("/oauth2/token", &fields).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let token = answer.json()["access_token"].as_str().expect("an access token").to_owned();
        self.edge.client.without_headers().with("Authorization", &format!("Bearer {token}"))
    }
}

#[tokio::test]
async fn members_of_a_group_pull_what_its_role_lets_them() {
    let bench = Bench::new().await;
    let ann = bench.refresh_token(&bench.provider.token("ann@example.com", &["builders", "others"])).await;
    let client = bench.client(&ann, "repository:team/app:pull,push").await;
    pull(&client, "team/app", "v1", &bench.image).await.expect("builders pull");
    // Docker's way: the refresh token stands for a password.
    let basic = bench.edge.client.without_headers().with_basic("00000000-0000-0000-0000-000000000000", &ann);
    let answer = basic.get("/oauth2/token?service=registry&scope=repository:team/app:pull").await;
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let client = bench.edge.client.without_headers().with("Authorization", &format!("Bearer {token}"));
    pull(&client, "team/app", "v1", &bench.image).await.expect("builders pull");
    // It is no access token itself.
    let bearer = bench.edge.client.without_headers().with("Authorization", &format!("Bearer {ann}"));
    assert_eq!(bearer.get("/v2/team/app/manifests/v1").await.status, 401);

    // Without the group, or with another's, there is nothing to be seen.
    for groups in [&["others"][..], &[]] {
        let bob = bench.refresh_token(&bench.provider.token("bob", groups)).await;
        let client = bench.client(&bob, "repository:team/app:pull").await;
        assert_ne!(client.get("/v2/team/app/manifests/v1").await.status, 200, "{groups:?}");
    }
    bench.edge.finish().await;
}

#[tokio::test]
async fn a_workload_pushes_under_the_name_of_its_service_account() {
    let bench = Bench::new().await;
    let pusher = bench.refresh_token(&bench.provider.token("system:serviceaccount:ci:pusher", &[])).await;
    let client = bench.client(&pusher, "repository:team/other:pull,push").await;
    push(&client, "team/other", Some("v1"), &bench.image).await;
    pull(&client, "team/other", "v1", &bench.image).await.expect("who pushes pulls");
    bench.edge.finish().await;
}

#[tokio::test]
async fn rows_63_to_65_a_providers_token_that_is_not_good_is_401() {
    let bench = Bench::new().await;
    let good = bench.provider.claims("ann", &["builders"]);
    let now = good["iat"].as_u64().expect("seconds");
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        bench.provider.sign(&claims)
    };
    let token = bench.provider.sign(&good);
    let (message, signature) = token.rsplit_once('.').expect("a signed token");
    let forger = Provider::start().await;
    let refused = [
        format!("eyJhbGciOiJub25lIn0.{}.", message.split_once('.').expect("two parts").1),
        format!("{message}."),
        format!("{message}.{}", signature.chars().rev().collect::<String>()),
        forger.sign(&good),
        changed("exp", json!((now + 600).to_string())),
        changed("exp", json!(now as f64 + 600.5)),
        changed("exp", Value::Null),
        changed("nbf", json!(now.to_string())),
        changed("exp", json!(now - 300)),
        changed("nbf", json!(now + 3_600)),
        changed("iss", json!(forger.issuer())),
        changed("aud", json!("somebody else")),
        changed("preferred_username", json!("ci")),
        changed("preferred_username", json!("region:us")),
        "garbage".to_owned(),
    ];
    let mut bodies = Vec::new();
    for token in refused {
        let answer = bench.exchange(&token).await;
        assert_eq!(answer.status, 401, "{token}: {}", answer.text());
        assert!(answer.header("www-authenticate").is_some(), "{token}");
        bodies.push(answer.text());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "what was wrong is not told: {bodies:?}");
    assert_eq!(forger.asked_for_keys(), 0);
    assert_eq!(bench.exchange(&token).await.status, 200);
    for fields in [&[("grant_type", "access_token")][..], &[("grant_type", "refresh_token"), ("refresh_token", "x")], &[]] {
        assert_eq!(bench.form("/oauth2/exchange", fields).await.status, 400, "{fields:?}");
    }
    bench.edge.finish().await;
}

#[tokio::test]
async fn row_68_random_key_ids_fetch_no_keys() {
    let bench = Bench::new().await;
    assert_eq!(bench.exchange(&bench.provider.token("ann", &[])).await.status, 200);
    let before = bench.provider.asked_for_keys();
    let claims = bench.provider.claims("ann", &[]);
    for number in 0..200 {
        assert_eq!(bench.exchange(&bench.provider.sign_as(&format!("random-{number}"), &claims)).await.status, 401);
    }
    assert!(bench.provider.asked_for_keys() <= before + 1, "at most one fetch a minute");
    bench.edge.finish().await;
}

#[tokio::test]
async fn a_provider_that_is_down_keeps_nobody_out() {
    let bench = Bench::new().await;
    let ann = bench.refresh_token(&bench.provider.token("ann", &["builders"])).await;
    bench.provider.set_down(true);
    // Neither those who have signed in, nor those who come with a token that it signed before.
    let client = bench.client(&ann, "repository:team/app:pull").await;
    pull(&client, "team/app", "v1", &bench.image).await.expect("a pull while the provider is down");
    let bob = bench.refresh_token(&bench.provider.token("bob", &["builders"])).await;
    let client = bench.client(&bob, "repository:team/app:pull").await;
    pull(&client, "team/app", "v1", &bench.image).await.expect("a pull while the provider is down");
    bench.edge.finish().await;
}

#[tokio::test]
async fn a_provider_that_never_answered_is_503() {
    let provider = Provider::start().await;
    provider.set_down(true);
    let settings = Settings::new().limits("deadline = \"2s\"").cache("stale_after = \"1s\"").table(&provider.table(""));
    let edge = settings.start().await;
    let form = format!("grant_type=access_token&access_token={}", provider.token("ann", &[]));
    let form_type = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = edge.client.send_with("POST", "/oauth2/exchange", &form_type, form.as_bytes()).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert!(edge.metrics().await.contains(r#"outport_identity_provider_fetches_total{outcome="failed"}"#));
    edge.finish().await;
}

#[tokio::test]
async fn the_edge_tells_where_people_sign_in() {
    let bench = Bench::new().await;
    let answer = bench.edge.client.without_headers().get("/outport/v1/login").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let provider = &answer.json()["providers"][0];
    assert_eq!((&provider["issuer"], &provider["client_id"]), (&json!(bench.provider.issuer()), &json!("cli")));
    bench.edge.finish().await;
    // Where nobody signs in there is nothing to tell, and nothing to exchange.
    let edge = Settings::new().start().await;
    assert_eq!(edge.client.get("/outport/v1/login").await.json(), json!({ "providers": [] }));
    edge.finish().await;
}
