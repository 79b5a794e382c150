use std::net::Ipv4Addr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::*;
use crate::access::Scope;
use crate::bucket::Bucket;
use crate::bucket::testing::{INCARNATION, SimulatedNode, SimulatedStore, Verb};
use crate::config;
use crate::identity::{AuthError, Control, Identity, IdentityKind, IdentityRecord, Means};
use crate::ledger::{self, IndexPlace, Regions};
use crate::metrics::Metrics;

const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const NOW_S: u64 = NOW.as_ms() / 1_000;
const TTL: Duration = Duration::from_secs(300);
const LEEWAY_S: u64 = claims::LEEWAY.as_secs();
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

fn tokens_with(key: SigningKey, controls: Controls, clock: &Clock) -> Tokens {
    Tokens::new("eu", key, TTL, Sources { region: Region::default(), controls, clock: clock.clone() })
}

/// An edge that knows no keys but its own.
fn alone() -> (Tokens, SigningKey, Clock) {
    let (key, clock) = (key(), Clock::manual(NOW));
    (tokens_with(key.clone(), Controls::fixed(Control::default()), &clock), key, clock)
}

fn subject(name: &str) -> Subject {
    Subject { name: name.into(), groups: ["builders".into()].into(), proof: Proof::Basic, secret: None }
}

fn scopes(texts: &[&str]) -> Scopes {
    Scopes::new(texts.iter().map(|text| Scope::parse(text).unwrap()))
}

/// A control plane that has this key.
fn knowing(key: &SigningKey, region: &str, until: Timestamp) -> Controls {
    let record = KeyRecord { jwk: key.public().jwk(), region: region.to_owned(), until };
    Controls::fixed(Control { keys: [(key.public().id().to_string(), record)].into(), ..Control::default() })
}

fn base64(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The header that we would write, with these members changed; null takes one away.
fn header(key: &SigningKey, changes: &Value) -> Value {
    changed(json!({ "typ": "at+jwt", "alg": "ES256", "kid": &**key.public().id() }), changes)
}

/// The claims that we would write.
fn claims(changes: &Value) -> Value {
    let claims = json!({
        "iss": "eu", "aud": "outport", "sub": "ci", "proof": "basic", "jti": "1", "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 300,
        "access": [{ "type": "repository", "name": "team/app", "actions": ["pull"] }],
    });
    changed(claims, changes)
}

fn changed(mut value: Value, changes: &Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => value.as_object_mut().unwrap().remove(name),
            change => value.as_object_mut().unwrap().insert(name.clone(), change.clone()),
        };
    }
    value
}

/// Signed by `private`, whatever the header says of that.
fn signed(header: &Value, claims: &str, private: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = crypto::sign(message.as_bytes(), private, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn forged(key: &SigningKey, header_changes: &Value, claim_changes: &Value) -> String {
    signed(&header(key, header_changes), &claims(claim_changes).to_string(), key.private(), Algorithm::ES256)
}

#[tokio::test]
async fn a_token_says_who_bears_it_and_what_it_is_good_for() {
    let (tokens, _, _) = alone();
    let scopes = scopes(&["repository:team/app:pull,push", "repository:a:", "registry:catalog:*", "registry:outport:*"]);
    let issued = tokens.access_token(Some(&subject("ci")), &scopes).unwrap();
    assert_eq!((issued.issued, issued.ttl), (NOW, TTL));
    for _ in 0..2 {
        let caller = tokens.verify(issued.token.expose()).await.unwrap().caller(HERE);
        assert_eq!((caller.principal, caller.proof), (Principal::Named("ci".into()), "token:basic"));
        assert_eq!(caller.groups, ["builders".into()].into());
        assert_eq!(caller.scopes.unwrap().to_string(), "repository:team/app:pull,push registry:catalog:* registry:outport:*");
    }
    let everybodys = tokens.access_token(None, &Scopes::default()).unwrap();
    let caller = tokens.verify(everybodys.token.expose()).await.unwrap().caller(HERE);
    assert_eq!((caller.principal, caller.proof, caller.scopes), (Principal::Anonymous, "token", Some(Arc::default())));
}

/// A request that bears a token known here costs its hash and a look-up: the caller's name, groups and scopes are shared.
#[test]
fn a_token_that_was_seen_before_allocates_nothing() {
    const REQUESTS: u64 = 10_000;
    // What the cache of verdicts allocates now and then, to put its notes of who was read in order.
    const ALLOCATIONS_MOST: u64 = REQUESTS / 100;
    let (tokens, _, _) = alone();
    let issued = tokens.access_token(Some(&subject("ci")), &scopes(&["repository:team/app:pull"])).unwrap();
    let principals =
        [config::Principal { name: "ci".to_owned(), passwords: Vec::new(), certificates: Vec::new(), pull: Vec::new(), push: Vec::new() }];
    let identity = Identity::new(&principals).with_tokens(tokens, &principals, &Control::default());
    let header = HeaderValue::try_from(format!("Bearer {}", issued.token.expose())).unwrap();
    let ask = || identity.authenticate([&header], HERE).now_or_never().expect("nothing here waits").expect("a good token");
    assert_eq!(ask().proof, "token:basic");
    let measured = allocation_counter::measure(|| {
        for _ in 0..REQUESTS {
            std::hint::black_box(ask());
        }
    });
    println!("{} allocations, {} bytes for {REQUESTS} requests", measured.count_total, measured.bytes_total);
    assert!(measured.count_total <= ALLOCATIONS_MOST, "{measured:?}");
}

#[tokio::test]
async fn a_token_that_would_be_too_long_is_not_made() {
    let (tokens, _, _) = alone();
    let many: Vec<Scope> = (0..500).map(|number| Scope::parse(&format!("repository:team/app{number}:pull")).unwrap()).collect();
    assert_eq!(tokens.access_token(None, &Scopes::new(many)).unwrap_err(), MintError::TooLong);
}

#[tokio::test]
async fn row_63_the_header_leads_to_no_other_key_or_algorithm() {
    let (tokens, own, _) = alone();
    assert!(tokens.verify(&forged(&own, &json!({}), &json!({}))).await.is_some(), "what is not changed is good");
    let thief = key();
    let unsigned = |alg: &str| format!("{}.{}.", base64(&header(&own, &json!({ "alg": alg }))), base64(&claims(&json!({}))));
    let public = own.public().jwk();
    let point = [&public["x"], &public["y"]].map(|part| URL_SAFE_NO_PAD.decode(part.as_str().unwrap()).unwrap()).concat();
    let as_secret = [public.to_string().into_bytes(), point.clone(), [&[4], &point[..]].concat(), own.public().id().as_bytes().to_vec()];
    let by_hmac = as_secret.map(|secret| {
        let (header, secret) = (header(&own, &json!({ "alg": "HS256" })), EncodingKey::from_secret(&secret));
        signed(&header, &claims(&json!({})).to_string(), &secret, Algorithm::HS256)
    });
    let stolen = |changes: Value| signed(&header(&own, &changes), &claims(&json!({})).to_string(), thief.private(), Algorithm::ES256);
    let mut all = vec![unsigned("none"), unsigned("None"), unsigned("ES256"), unsigned("RS256")];
    all.extend(by_hmac);
    all.extend([
        stolen(json!({})),
        stolen(json!({ "jwk": thief.public().jwk() })),
        stolen(json!({ "jwk": thief.public().jwk(), "kid": &**thief.public().id() })),
        stolen(json!({ "jku": "http://127.0.0.1:1/keys", "kid": "x" })),
        stolen(json!({ "x5u": "http://127.0.0.1:1/keys" })),
        stolen(json!({ "x5c": ["AA=="] })),
    ]);
    // Signed by us, but with a header that we do not write.
    for changes in [
        json!({ "jwk": own.public().jwk() }),
        json!({ "jku": "http://127.0.0.1:1/keys" }),
        json!({ "crit": ["exp"] }),
        json!({ "kid": null }),
        json!({ "kid": "../../token-key.pem" }),
        json!({ "typ": null }),
        json!({ "typ": "JWT" }),
        json!({ "more": true }),
        json!({ "alg": "ES384" }),
        json!({ "alg": null }),
    ] {
        all.push(forged(&own, &changes, &json!({})));
    }
    let good = forged(&own, &json!({}), &json!({}));
    all.extend(["", ".", "..", "a.b", "a.b.c.d", "\u{e9}.b.c"].map(str::to_owned));
    all.extend([format!("{good}."), format!("{good}="), format!(" {good}"), good[..good.len() - 1].to_owned(), format!("{good}A")]);
    for token in all {
        assert!(tokens.verify(&token).await.is_none() && tokens.redeem(&token).await.is_none(), "{token}");
    }
}

#[tokio::test]
async fn row_64_times_are_whole_numbers() {
    let (tokens, own, _) = alone();
    for name in ["exp", "nbf", "iat"] {
        let soon = NOW_S + 100;
        for value in [
            json!(soon.to_string()),
            json!(soon as f64 + 0.5),
            json!(null),
            json!(-1),
            json!([soon]),
            json!({}),
            json!(true),
            json!("never"),
        ] {
            let token = forged(&own, &json!({}), &json!({ name: value }));
            assert!(tokens.verify(&token).await.is_none(), "{name} {value}");
        }
        let text = claims(&json!({})).to_string();
        for more in [format!(r#"{{"{name}":1e9,"#), format!(r#"{{"{name}":{soon},"#), format!(r#"{{"{name}":null,"#)] {
            let doubled = signed(&header(&own, &json!({})), &text.replacen('{', &more, 1), own.private(), Algorithm::ES256);
            assert!(tokens.verify(&doubled).await.is_none(), "{more}");
        }
    }
}

#[tokio::test]
async fn row_65_another_issuer_or_audience_and_expired_tokens_are_refused() {
    let (tokens, own, clock) = alone();
    for changes in [
        json!({ "iss": "us" }),
        json!({ "iss": null }),
        json!({ "iss": ["eu"] }),
        json!({ "aud": "other" }),
        json!({ "aud": "outport/oauth2/token" }),
        json!({ "aud": ["outport"] }),
        json!({ "aud": null }),
        json!({ "exp": NOW_S - LEEWAY_S }),
        json!({ "exp": 0 }),
        json!({ "nbf": NOW_S + LEEWAY_S + 1 }),
        json!({ "nbf": u64::MAX, "exp": u64::MAX }),
        json!({ "sub": null }),
        json!({ "proof": null }),
        json!({ "proof": "trust me" }),
        json!({ "sub": 1 }),
        json!({ "jti": null }),
    ] {
        assert!(tokens.verify(&forged(&own, &json!({}), &changes)).await.is_none(), "{changes}");
    }
    // Clocks may be five minutes apart.
    for changes in [json!({ "exp": NOW_S - LEEWAY_S + 1 }), json!({ "nbf": NOW_S + LEEWAY_S }), json!({ "exp": u64::MAX })] {
        assert!(tokens.verify(&forged(&own, &json!({}), &changes)).await.is_some(), "{changes}");
    }
    let token = tokens.access_token(None, &Scopes::default()).unwrap().token;
    assert!(tokens.verify(token.expose()).await.is_some());
    clock.advance(TTL + claims::LEEWAY);
    assert!(tokens.verify(token.expose()).await.is_none(), "what was remembered ends in time");
}

#[tokio::test]
async fn clocks_of_edges_may_be_five_minutes_apart() {
    let (key, ahead) = (key(), Clock::manual(NOW.plus(Duration::from_secs(300))));
    let behind = Clock::manual(NOW);
    let until = NOW.plus(Duration::from_secs(3_600));
    let (one, other) =
        (tokens_with(key.clone(), knowing(&key, "eu", until), &ahead), tokens_with(key, Controls::fixed(Control::default()), &behind));
    let early = one.access_token(None, &Scopes::default()).unwrap().token;
    let late = other.access_token(None, &Scopes::default()).unwrap().token;
    assert!(other.verify(early.expose()).await.is_some() && one.verify(late.expose()).await.is_some());
}

#[tokio::test]
async fn one_kind_of_token_does_not_pass_for_the_other() {
    let (tokens, _, clock) = alone();
    let (refresh, access) = (tokens.refresh_token(&subject("ci")).unwrap(), tokens.access_token(Some(&subject("ci")), &Scopes::default()));
    assert_eq!(tokens.redeem(refresh.expose()).await, Some(subject("ci")));
    assert!(tokens.verify(refresh.expose()).await.is_none());
    assert_eq!(tokens.redeem(access.unwrap().token.expose()).await, None);
    clock.advance(REFRESH_TTL + claims::LEEWAY);
    assert_eq!(tokens.redeem(refresh.expose()).await, None);
}

#[tokio::test]
async fn a_region_is_believed_in_its_own_name_while_its_key_is_known() {
    let (theirs, clock) = (key(), Clock::manual(NOW));
    let us = Tokens::new(
        "us",
        theirs.clone(),
        TTL,
        Sources { region: Region::default(), controls: Controls::fixed(Control::default()), clock: clock.clone() },
    );
    let token = us.access_token(Some(&subject("ci")), &Scopes::default()).unwrap().token;
    let until = NOW.plus(Duration::from_secs(60));
    let eu = tokens_with(key(), knowing(&theirs, "us", until), &clock);
    assert!(eu.verify(token.expose()).await.is_some());
    assert!(tokens_with(key(), knowing(&theirs, "apac", until), &clock).verify(token.expose()).await.is_none());
    assert!(eu.verify(&forged(&theirs, &json!({}), &json!({}))).await.is_none(), "us says that it is eu");
    clock.advance(Duration::from_secs(60));
    assert!(eu.verify(token.expose()).await.is_none(), "the key is over, and the token with it");
}

#[tokio::test]
async fn what_was_remembered_of_a_removed_key_is_forgotten() {
    let (theirs, clock) = (key(), Clock::manual(NOW));
    let eu = tokens_with(key(), knowing(&theirs, "us", NOW.plus(TTL)), &clock);
    let token = forged(&theirs, &json!({}), &json!({ "iss": "us" }));
    assert!(eu.verify(&token).await.is_some());
    eu.know(&HashMap::new());
    assert!(eu.verify(&token).await.is_none());
}

fn bearer(token: &Secret) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer {}", token.expose())).unwrap()
}

fn basic(name: &str, password: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))).unwrap()
}

#[tokio::test]
async fn a_principal_that_is_gone_is_refused_though_its_tokens_are_good() {
    let (tokens, _, _) = alone();
    let (access, refresh) =
        (tokens.access_token(Some(&subject("ci")), &Scopes::default()).unwrap().token, tokens.refresh_token(&subject("ci")).unwrap());
    let record = |enabled| IdentityRecord {
        kind: IdentityKind::Service,
        enabled,
        created: NOW,
        expires: Some(NOW.plus(TTL)),
        secrets: [None, None],
    };
    let with = |enabled: Option<bool>| {
        let identities = enabled.map(|enabled| ("ci".into(), record(enabled))).into_iter().collect();
        Identity::new(&[]).with_tokens(tokens.clone(), &[], &Control { identities, ..Control::default() })
    };
    let there = with(Some(true));
    assert!(there.authenticate([&bearer(&access)], HERE).await.is_ok() && there.redeem(refresh.expose(), HERE).await.is_ok());
    for gone in [with(Some(false)), with(None)] {
        assert_eq!(gone.authenticate([&bearer(&access)], HERE).await, Err(AuthError::InvalidToken));
        assert_eq!(gone.redeem(refresh.expose(), HERE).await.unwrap_err(), AuthError::Refused);
    }
    tokens.clock().advance(TTL);
    assert_eq!(there.authenticate([&bearer(&access)], HERE).await, Err(AuthError::InvalidToken), "the principal is over");
}

#[tokio::test]
async fn a_refresh_token_passes_for_a_password_where_tokens_are_had_and_nowhere_else() {
    let (tokens, _, _) = alone();
    let ci = config::Principal {
        name: "ci".into(),
        passwords: vec![Secret::new("pass".into())],
        certificates: Vec::new(),
        pull: Vec::new(),
        push: Vec::new(),
    };
    let principals = [ci];
    let identity = Identity::new(&principals).with_tokens(tokens.clone(), &principals, &Control::default());
    let refresh = tokens.refresh_token(&subject("ci")).unwrap();
    let stands_in = basic(crate::identity::REFRESH_USER, refresh.expose());
    let applicant = identity.apply([&stands_in], HERE).await.unwrap();
    assert_eq!((applicant.subject, applicant.means), (Some(subject("ci")), Means::RefreshToken));
    assert_eq!(applicant.caller.groups, ["builders".into()].into());
    assert_eq!(identity.authenticate([&stands_in], HERE).await, Err(AuthError::Refused));
    let applicant = identity.apply([&basic("ci", "pass")], HERE).await.unwrap();
    assert_eq!((applicant.caller.proof, applicant.means), ("basic", Means::Credentials));
    let access = tokens.access_token(Some(&subject("ci")), &Scopes::default()).unwrap().token;
    assert_eq!(identity.apply([&bearer(&access)], HERE).await.unwrap_err(), AuthError::Refused);
    assert!(identity.apply([], HERE).await.unwrap().subject.is_none());
}

async fn open_region(node: &SimulatedNode, name: &str) -> Region {
    let clock = Clock::manual(NOW);
    let bucket = Bucket::simulated_as(node, "eu", INCARNATION, clock.clone());
    let settings = ledger::Settings { index: IndexPlace::Memory, node: name.to_owned(), regions: Regions::One };
    let ledger = Ledger::open(bucket.clone(), settings, clock, Metrics::new()).await.unwrap();
    let region = Region::default();
    region.open(bucket, ledger);
    region
}

/// An edge of the region "eu", and its client of the store.
async fn edge(store: &SimulatedStore, name: &str) -> (Tokens, SimulatedNode) {
    let node = store.node();
    let sources =
        Sources { region: open_region(&node, name).await, controls: Controls::fixed(Control::default()), clock: Clock::manual(NOW) };
    (Tokens::new("eu", key(), TTL, sources), node)
}

#[tokio::test(start_paused = true)]
async fn another_edge_looks_for_a_key_that_was_just_published() {
    let store = SimulatedStore::new(1, Clock::manual(NOW));
    let ((here, _), (there, _)) = (edge(&store, "here").await, edge(&store, "there").await);
    let token = here.access_token(None, &Scopes::default()).unwrap().token;
    assert!(there.verify(token.expose()).await.is_none(), "nobody has told it of the key");
    here.publish(&here.0.region.get().unwrap().ledger).await.unwrap();
    assert!(there.verify(token.expose()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn made_up_keys_cost_a_few_looks_in_a_second() {
    let store = SimulatedStore::new(1, Clock::manual(NOW));
    let (tokens, node) = edge(&store, "here").await;
    let asked = || [Verb::Read, Verb::Open, Verb::Head, Verb::List].map(|verb| node.requests(verb)).iter().sum::<u64>();
    let (stranger, before, started) = (key(), asked(), Instant::now());
    let one = |number: u32| {
        let (token, tokens) = (forged(&stranger, &json!({ "kid": number.to_string() }), &json!({})), tokens.clone());
        async move { tokens.verify(&token).await.is_some() }
    };
    for burst in 0..5 {
        let verified = futures_util::future::join_all((0..200).map(|number| one(burst * 200 + number))).await;
        assert!(verified.iter().all(|good| !good));
    }
    let looks = started.elapsed().as_millis() / LOOK_PAUSE.as_millis() + 1;
    assert!(looks <= 6 && u128::from(asked() - before) <= 3 * looks, "{looks} {}", asked() - before);
}

#[tokio::test(start_paused = true)]
async fn keys_rotate_with_no_token_refused() {
    let store = SimulatedStore::new(1, Clock::manual(NOW));
    let ((here, _), (there, _)) = (edge(&store, "here").await, edge(&store, "there").await);
    let following = [here.follow(), there.follow()];
    let (first, second) = (here.read().own().public().id().clone(), key());
    let before = here.access_token(None, &Scopes::default()).unwrap().token;
    sleep(Duration::from_secs(1)).await;
    here.reload(second.clone(), TTL);
    let mut signed = Vec::new();
    for _ in 0..60 {
        let token = here.access_token(None, &Scopes::default()).unwrap().token;
        assert!(here.verify(token.expose()).await.is_some() && there.verify(token.expose()).await.is_some());
        signed.push(claims::key_id(token.expose()).unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    signed.dedup();
    assert_eq!(signed, [&*first, &**second.public().id()]);
    assert!(here.verify(before.expose()).await.is_some() && there.verify(before.expose()).await.is_some());
    following.iter().for_each(AbortHandle::abort);
}

#[test]
fn row_88_no_key_and_no_token_prints() {
    let (tokens, own, _) = alone();
    let token = tokens.access_token(None, &Scopes::default()).unwrap();
    let shown = format!("{tokens:?} {own:?} {token:?}");
    assert!(!shown.contains(token.token.expose()) && shown.contains("Secret(...)"), "{shown}");
}
