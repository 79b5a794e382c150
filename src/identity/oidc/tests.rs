use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::provider::REFRESH_EVERY;
use super::testing::{AUDIENCE, Played, Signer};
use super::{Oidc, OidcError};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::dial::{Proxies, Resolver};
use crate::identity::Subject;
use crate::metrics::Metrics;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_ms(1_800_000_000_000))
}

fn start(settings: &[config::Oidc], clock: &Clock) -> Oidc {
    let resolver = Resolver::with_config(SocketAddr::from(([127, 0, 0, 1], 9)), "", Clock::system(), Metrics::new()).unwrap();
    Oidc::start(settings, resolver, Proxies::none(), clock.clone(), Metrics::new()).unwrap()
}

fn with(mut claims: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn names(subject: &Subject) -> (&str, Vec<&str>) {
    (&subject.name, subject.groups.iter().map(AsRef::as_ref).collect())
}

/// The verdict of a provider with one key on its token with these changes to its claims.
struct Bench {
    clock: Clock,
    signer: Signer,
    played: Played,
    oidc: Oidc,
}

impl Bench {
    async fn new(signer: Signer) -> Bench {
        let (clock, played) = (clock(), Played::start(&[&signer]).await);
        let oidc = start(&[played.settings()], &clock);
        Bench { clock, signer, played, oidc }
    }

    fn claims(&self, changes: &Value) -> Value {
        with(self.played.claims(&self.clock), changes)
    }

    async fn judge(&self, changes: &Value) -> Result<Subject, OidcError> {
        self.oidc.verify(&self.signer.token(&self.claims(changes))).await
    }
}

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_token_says_who_somebody_is() {
    let bench = Bench::new(Signer::ec("1")).await;
    let ann = bench.judge(&json!({})).await.unwrap();
    assert_eq!(names(&ann), ("ann", vec!["builders", "all of us"]));
    for (changes, name, groups) in [
        (json!({ "preferred_username": null, "email": "ann@example.com", "groups": null }), "ann@example.com", vec![]),
        (json!({ "preferred_username": null, "email": "ann@example.com", "email_verified": false }), "1", vec!["builders", "all of us"]),
        (json!({ "preferred_username": null, "groups": "only" }), "1", vec!["only"]),
        (json!({ "groups": ["a", 1, "", ["b"], "c"] }), "ann", vec!["a", "c"]),
        (json!({ "aud": ["other", AUDIENCE] }), "ann", vec!["builders", "all of us"]),
        (
            json!({ "nbf": null, "preferred_username": null, "sub": "system:serviceaccount:team:app" }),
            "system:serviceaccount:team:app",
            vec!["builders", "all of us"],
        ),
    ] {
        assert_eq!(names(&bench.judge(&changes).await.unwrap()), (name, groups), "{changes}");
    }
    for name in ["anonymous", "region:eu", "group:builders", "a b", "a\n", "\u{e9}", ""] {
        let verdict = bench.judge(&json!({ "preferred_username": name })).await;
        assert_eq!(verdict, Err(OidcError::Refused("its name cannot be a principal's")), "{name:?}");
    }
    assert!(bench.judge(&json!({ "preferred_username": ["ann"] })).await.is_err());
}

#[tokio::test]
async fn each_provider_has_its_own_keys_claims_and_prefix() {
    let clock = clock();
    let (one, other) = (Signer::ec("same id"), Signer::rsa("same id"));
    let (people, cluster) = (Played::start(&[&one]).await, Played::start(&[&other]).await);
    let settings =
        config::Oidc { prefix: "k8s:".to_owned(), name_claim: "sub".to_owned(), groups_claim: "teams".to_owned(), ..cluster.settings() };
    let oidc = start(&[people.settings(), settings], &clock);
    let ann = oidc.verify(&one.token(&people.claims(&clock))).await.unwrap();
    assert_eq!(ann.name.as_ref(), "ann");
    let claims = with(cluster.claims(&clock), &json!({ "sub": "ann", "teams": ["builders"] }));
    let other_ann = oidc.verify(&other.token(&claims)).await.unwrap();
    assert_eq!(names(&other_ann), ("k8s:ann", vec!["k8s:builders"]));
    // What one provider signs says nothing about another's people.
    assert!(oidc.verify(&other.token(&people.claims(&clock))).await.is_err());
    let signed_otherwise = other.signed(&json!({ "alg": "PS256", "kid": "same id" }), &claims);
    assert!(oidc.verify(&signed_otherwise).await.is_ok());
}

#[tokio::test]
async fn row_63_a_token_chooses_neither_its_algorithm_nor_its_key() {
    let bench = Bench::new(Signer::rsa("1")).await;
    let claims = bench.claims(&json!({}));
    let fetches = |bench: &Bench| bench.played.origin.requests().len();
    assert!(bench.oidc.verify(&bench.signer.token(&claims)).await.is_ok());
    let before = fetches(&bench);
    for header in [
        json!({ "alg": "none", "kid": "1" }),
        json!({ "alg": "None", "kid": "1" }),
        json!({ "alg": "HS256", "kid": "1" }),
        json!({ "alg": "ES256", "kid": "1" }),
        json!({ "alg": "RS256", "kid": "1", "jwk": Signer::rsa("1").jwk() }),
        json!({ "alg": "RS256", "kid": "1", "jku": format!("{}/keys", bench.played.issuer()) }),
        json!({ "alg": "RS256", "kid": "1", "x5u": "https://keys.example.net/" }),
        json!({ "alg": "RS256", "kid": "1", "x5c": ["MII"] }),
        json!({ "alg": "RS256", "kid": "1", "crit": ["exp"] }),
        json!({ "kid": "1" }),
    ] {
        let token = bench.signer.signed(&header, &claims);
        assert!(matches!(bench.oidc.verify(&token).await, Err(OidcError::Refused(_))), "{header}");
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert!(matches!(bench.oidc.verify(&unsigned).await, Err(OidcError::Refused(_))), "{header}, unsigned");
    }
    // The public key taken for a shared secret.
    let message = format!("{}.{}", encode(r#"{"alg":"HS256","kid":"1"}"#), encode(claims.to_string()));
    for secret in [bench.signer.public_der(), bench.signer.jwk().to_string().into_bytes()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        assert!(bench.oidc.verify(&format!("{message}.{}", encode(tag))).await.is_err());
    }
    // Another key of the same id.
    assert!(bench.oidc.verify(&Signer::rsa("1").token(&claims)).await.is_err());
    assert_eq!(fetches(&bench), before, "nothing was fetched");
}

#[tokio::test]
async fn row_64_times_are_whole_numbers_and_there() {
    let bench = Bench::new(Signer::ec("1")).await;
    let now = bench.clock.now().as_ms() / 1_000;
    for name in ["exp", "nbf", "iat"] {
        let later = if name == "exp" { now + 600 } else { now };
        for value in [json!(later.to_string()), json!(later as f64 + 0.5), json!(later as f64), json!([later]), json!(true), json!(-1)] {
            let changes = json!({ name: value });
            assert!(matches!(bench.judge(&changes).await, Err(OidcError::Refused(_))), "{changes}");
        }
        // A provider need not say from when on its token is good (OpenID Connect Core 1.0, section 2).
        let absent = bench.judge(&json!({ name: null })).await;
        assert_eq!(absent.is_ok(), name == "nbf", "{name}");
    }
}

#[tokio::test]
async fn row_65_another_issuer_or_audience_and_expired_tokens_are_refused() {
    let bench = Bench::new(Signer::ec("1")).await;
    let now = bench.clock.now().as_ms() / 1_000;
    let issuer = bench.played.issuer();
    for (changes, good) in [
        (json!({ "iss": format!("{issuer}/") }), false),
        (json!({ "iss": issuer.to_uppercase() }), false),
        (json!({ "iss": [issuer] }), false),
        (json!({ "iss": null }), false),
        (json!({ "aud": "registry.example.com.evil" }), false),
        (json!({ "aud": [] }), false),
        (json!({ "aud": null }), false),
        (json!({ "aud": { "registry.example.com": true } }), false),
        (json!({ "exp": now - 60 }), false),
        (json!({ "exp": now - 59 }), true),
        (json!({ "exp": 0 }), false),
        // Clocks that differ by five minutes.
        (json!({ "iat": now + 300, "nbf": now + 300 }), true),
        (json!({ "iat": now + 301 }), false),
        (json!({ "nbf": now + 301 }), false),
    ] {
        assert_eq!(bench.judge(&changes).await.is_ok(), good, "{changes}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &"x".repeat(20_000), "eyJhbGciOiJFUzI1NiJ9.e30."] {
        assert!(matches!(bench.oidc.verify(text).await, Err(OidcError::Refused(_))), "{text}");
    }
}

#[tokio::test]
async fn row_68_unknown_keys_fetch_the_set_once_a_minute() {
    let bench = Bench::new(Signer::ec("1")).await;
    bench.judge(&json!({})).await.unwrap();
    assert_eq!(bench.played.fetches(), 1);
    let claims = bench.claims(&json!({}));
    let unknown = |number: usize| bench.signer.signed(&json!({ "alg": "ES256", "kid": format!("random {number}") }), &claims);
    for minute in 1..=3 {
        for number in 0..3_334 {
            assert!(matches!(bench.oidc.verify(&unknown(number)).await, Err(OidcError::Refused(_))));
        }
        assert_eq!(bench.played.fetches(), minute);
        bench.clock.advance(Duration::from_secs(61));
    }
    assert!(bench.judge(&json!({})).await.is_ok());
}

#[tokio::test]
async fn many_unknown_keys_at_one_time_share_one_fetch() {
    let bench = Bench::new(Signer::ec("1")).await;
    bench.judge(&json!({})).await.unwrap();
    bench.clock.advance(Duration::from_secs(61));
    let new = Signer::ec("2");
    bench.played.publish(&[&bench.signer, &new]);
    let (token, unknown) = (new.token(&bench.claims(&json!({}))), Signer::ec("3").token(&bench.claims(&json!({}))));
    let all = futures_util::future::join_all((0..50).flat_map(|_| [&token, &unknown]).map(|token| bench.oidc.verify(token))).await;
    assert_eq!(all.iter().filter(|verdict| verdict.is_ok()).count(), 50, "a rotated key is found");
    assert_eq!(bench.played.fetches(), 2);
}

#[tokio::test]
async fn keys_that_are_known_are_used_while_the_provider_is_down() {
    let bench = Bench::new(Signer::ec("1")).await;
    bench.judge(&json!({})).await.unwrap();
    bench.played.break_down();
    bench.clock.advance(Duration::from_secs(61));
    let unknown = Signer::ec("2").token(&bench.claims(&json!({})));
    assert!(matches!(bench.oidc.verify(&unknown).await, Err(OidcError::Refused(_))));
    assert!(bench.played.origin.requests().len() > 2, "it was asked, and did not answer");
    assert!(bench.judge(&json!({})).await.is_ok());
    // A configuration that changes something else of the provider goes on with its keys.
    let changed = config::Oidc { prefix: "p:".to_owned(), ..bench.played.settings() };
    bench.oidc.replace(bench.oidc.prepare(&[changed]).unwrap());
    assert_eq!(bench.judge(&json!({})).await.unwrap().name.as_ref(), "p:ann");
    bench.oidc.replace(bench.oidc.prepare(&[]).unwrap());
    assert_eq!(bench.judge(&json!({})).await, Err(OidcError::Refused("its issuer is not configured")));
}

#[tokio::test]
async fn keys_are_fetched_again_in_the_background_and_withdrawn_ones_forgotten() {
    let bench = Bench::new(Signer::ec("1")).await;
    bench.judge(&json!({})).await.unwrap();
    bench.played.publish(&[&Signer::ec("2")]);
    // Only the wait is shortened: sockets need time that passes.
    tokio::time::pause();
    tokio::time::advance(REFRESH_EVERY).await;
    tokio::time::resume();
    let forgotten = async {
        while bench.judge(&json!({})).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), forgotten).await.expect("the withdrawn key is forgotten");
    assert_eq!(bench.played.fetches(), 2, "nobody asked for it");
}

#[tokio::test]
async fn a_provider_that_never_answered_makes_no_verdict() {
    let (clock, signer) = (clock(), Signer::ec("1"));
    let played = Played::start(&[&signer]).await;
    played.break_down();
    let oidc = start(&[played.settings()], &clock);
    let token = signer.token(&played.claims(&clock));
    assert_eq!(oidc.verify(&token).await, Err(OidcError::Unavailable(played.issuer())));
    // What is certainly wrong is refused all the same.
    assert!(matches!(oidc.verify("a.b.c").await, Err(OidcError::Refused(_))));
    played.publish(&[&signer]);
    clock.advance(Duration::from_secs(61));
    assert!(oidc.verify(&token).await.is_ok());
}

#[tokio::test]
async fn a_provider_of_another_name_has_no_keys() {
    let (clock, signer) = (clock(), Signer::ec("1"));
    let played = Played::start(&[&signer]).await;
    let issuer = format!("http://localhost:{}", played.origin.address.port());
    let oidc = start(&[config::Oidc { issuer: issuer.clone(), ..played.settings() }], &clock);
    let token = signer.token(&with(played.claims(&clock), &json!({ "iss": issuer })));
    assert_eq!(oidc.verify(&token).await, Err(OidcError::Unavailable(issuer)));
    assert_eq!(played.fetches(), 0);
}

#[tokio::test]
async fn people_sign_in_where_the_configuration_says_as_what() {
    let (clock, signer) = (clock(), Signer::ec("1"));
    let played = Played::start(&[&signer]).await;
    assert_eq!(start(&[played.settings()], &clock).sign_ins(), []);
    let oidc = start(&[config::Oidc { client_id: Some("cli".to_owned()), ..played.settings() }], &clock);
    oidc.verify(&signer.token(&played.claims(&clock))).await.unwrap();
    let sign_in = oidc.sign_ins().remove(0);
    assert_eq!((sign_in.client_id.as_str(), sign_in.issuer), ("cli", played.issuer()));
    assert_eq!(sign_in.device_authorization_endpoint.unwrap(), format!("{}/device", played.issuer()));
}
