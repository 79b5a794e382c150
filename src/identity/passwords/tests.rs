use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Instant;

use super::*;
use crate::identity::{IdentityKind, IdentityRecord, SecretRecord};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Hashes of `one` and `two`, made once: each takes some ten milliseconds.
async fn hashes() -> [String; 2] {
    static HASHES: OnceLock<[String; 2]> = OnceLock::new();
    if let Some(hashes) = HASHES.get() {
        return hashes.clone();
    }
    let hashing = Hashing::new();
    let hash = async |text: &str| hashing.hash(&Secret::new(text.to_owned())).await.unwrap();
    let hashes = [hash("one").await, hash("two").await];
    HASHES.get_or_init(|| hashes).clone()
}

/// `ci` with both secrets.
async fn ci() -> IdentityRecord {
    let secret = |hash: String| Some(SecretRecord { hash, created: Timestamp::from_ms(1), expires: None });
    let secrets = hashes().await.map(secret);
    IdentityRecord { kind: IdentityKind::Service, enabled: true, created: Timestamp::from_ms(1), expires: None, secrets }
}

struct World {
    passwords: Passwords,
    controls: Controls,
    clock: Clock,
    metrics: Metrics,
}

impl World {
    async fn new() -> World {
        World::with(ci().await)
    }

    fn with(ci: IdentityRecord) -> World {
        let (controls, clock, metrics) = (Controls::fixed(control(ci)), Clock::manual(Timestamp::from_ms(1_000_000)), Metrics::new());
        let passwords = Passwords::new(controls.clone(), clock.clone(), metrics.clone());
        World { passwords, controls, clock, metrics }
    }

    fn set(&self, ci: IdentityRecord) {
        self.controls.set(control(ci));
    }

    async fn try_from(&self, name: &str, password: &str, address: IpAddr) -> Result<Arc<str>, AuthError> {
        self.passwords
            .verify(Attempt { name: name.as_bytes(), password: password.as_bytes(), address, is_configured: false })
            .await
            .map(|(name, _)| name)
    }

    async fn try_here(&self, name: &str, password: &str) -> Result<Arc<str>, AuthError> {
        self.try_from(name, password, HERE).await
    }

    fn checks(&self, outcome: &str) -> u64 {
        let start = format!("outport_password_checks_total{{outcome=\"{outcome}\"}} ");
        self.metrics.render().lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
    }
}

fn control(ci: IdentityRecord) -> Control {
    Control { identities: [("ci".into(), ci)].into(), ..Control::default() }
}

#[tokio::test]
async fn either_secret_proves_its_owner_and_nothing_else_does() {
    let world = World::new().await;
    for password in ["one", "two", "one"] {
        assert_eq!(world.try_here("ci", password).await, Ok("ci".into()), "{password}");
    }
    for (name, password) in [("ci", "three"), ("ci", ""), ("CI", "one"), ("cd", "one"), ("", ""), ("c\u{0}i", "one")] {
        assert_eq!(world.try_here(name, password).await, Err(AuthError::Refused), "{name} {password}");
    }
    let hidden = Attempt { name: b"ci", password: b"one", address: HERE, is_configured: true };
    assert_eq!(world.passwords.verify(hidden).await, Err(AuthError::Refused), "the configuration has a ci of its own");
}

#[tokio::test]
async fn a_success_is_remembered_for_a_bounded_time() {
    let world = World::new().await;
    for _ in 0..100 {
        world.try_here("ci", "one").await.unwrap();
    }
    assert_eq!((world.checks("hashed"), world.checks("remembered")), (1, 99));
    world.clock.advance(REMEMBERED);
    world.try_here("ci", "one").await.unwrap();
    assert_eq!(world.checks("hashed"), 2);
    world.try_from("ci", "one", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))).await.unwrap();
    assert_eq!(world.checks("hashed"), 3, "elsewhere it is proved again");
    assert_eq!(world.try_here("ci", "three").await, Err(AuthError::Refused));
    assert_eq!(world.try_here("ci", "three").await, Err(AuthError::Refused));
    assert_eq!(world.checks("hashed"), 5, "a failure is not remembered");
}

#[tokio::test]
async fn who_comes_with_the_same_meanwhile_waits_for_the_same_hash() {
    let world = World::new().await;
    let all = futures_util::future::join_all((0..200).map(|_| world.try_here("ci", "one"))).await;
    assert!(all.into_iter().all(|one| one.is_ok()));
    assert_eq!(world.checks("hashed"), 1);
}

#[tokio::test]
async fn row_72_a_replaced_secret_is_refused_at_once_and_the_other_one_works() {
    let world = World::new().await;
    let [one, two] = ci().await.secrets;
    world.try_here("ci", "one").await.unwrap();
    world.try_here("ci", "two").await.unwrap();
    let hash = world.passwords.hash(&Secret::new("new".to_owned())).await.unwrap();
    let secrets = [one.map(|one| SecretRecord { hash, ..one }), two];
    world.set(IdentityRecord { secrets, ..ci().await });
    let hashed = world.checks("hashed");
    assert_eq!(world.try_here("ci", "two").await, Ok("ci".into()));
    assert_eq!(world.checks("hashed"), hashed, "the other one is still remembered");
    assert_eq!(world.try_here("ci", "one").await, Err(AuthError::Refused));
    assert_eq!(world.try_here("ci", "new").await, Ok("ci".into()));
}

#[tokio::test]
async fn what_expires_or_is_disabled_or_removed_is_refused_though_it_is_remembered() {
    let world = World::new().await;
    let soon = world.clock.now().plus(Duration::from_secs(10));
    let [one, two] = ci().await.secrets;
    world.set(IdentityRecord { secrets: [one.map(|one| SecretRecord { expires: Some(soon), ..one }), two], ..ci().await });
    world.try_here("ci", "one").await.unwrap();
    world.try_here("ci", "two").await.unwrap();
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.try_here("ci", "one").await, Err(AuthError::Refused), "an expired secret");
    world.try_here("ci", "two").await.unwrap();
    world.set(IdentityRecord { expires: Some(soon), ..ci().await });
    assert_eq!(world.try_here("ci", "two").await, Err(AuthError::Refused), "an expired principal");
    world.set(ci().await);
    world.try_here("ci", "two").await.unwrap();
    world.set(IdentityRecord { enabled: false, ..ci().await });
    assert_eq!(world.try_here("ci", "two").await, Err(AuthError::Refused), "a disabled principal");
    world.controls.set(Control::default());
    assert_eq!(world.try_here("ci", "two").await, Err(AuthError::Refused), "a removed principal");
}

#[tokio::test]
async fn row_69_guessing_is_bounded_and_holds_up_nobody_who_is_known() {
    let world = World::new().await;
    world.try_here("ci", "two").await.unwrap();
    let mut limited = 0;
    for number in 0..1_000 {
        match world.try_here("ci", &format!("guess {number}")).await {
            Err(AuthError::Throttled { retry_after }) => {
                assert!(!retry_after.is_zero());
                limited += 1;
            }
            other => assert_eq!(other, Err(AuthError::Refused)),
        }
        assert_eq!(world.try_here("ci", "two").await, Ok("ci".into()));
    }
    assert!(limited > 900 && world.checks("hashed") < 100, "{limited} were limited");
    assert!(matches!(world.try_here("ci", "one").await, Err(AuthError::Throttled { .. })), "not even what is right is looked at");
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.try_here("ci", "one").await, Ok("ci".into()));
}

#[tokio::test]
async fn a_name_of_the_configuration_is_guessed_as_slowly() {
    let world = World::new().await;
    let attempt = |password: &'static str, last: u8| Attempt {
        name: b"root",
        password: password.as_bytes(),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        is_configured: true,
    };
    world.passwords.admit(attempt("right", 1)).await.unwrap();
    while world.passwords.verify(attempt("wrong", 1)).await == Err(AuthError::Refused) {}
    world.passwords.admit(attempt("right", 1)).await.expect("it was used here before");
    assert!(matches!(world.passwords.admit(attempt("other", 1)).await, Err(AuthError::Throttled { .. })));
    world.passwords.admit(attempt("other", 2)).await.expect("elsewhere nobody guessed");
}

/// The middle one of an odd number of times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn row_70_known_and_unknown_names_take_the_same_time() {
    const ROUNDS: u8 = 15;
    let with_one = IdentityRecord { secrets: [None, ci().await.secrets[1].clone()], ..ci().await };
    let disabled = IdentityRecord { enabled: false, ..ci().await };
    let worlds = [World::new().await, World::with(with_one), World::with(disabled)];
    let names = [("both secrets", 0, "ci"), ("one secret", 1, "ci"), ("disabled", 2, "ci"), ("unknown", 0, "nobody"), ("long", 0, "x")];
    let mut times = vec![Vec::new(); names.len()];
    // In turns, so that what else the machine does meets all of them.
    for round in 0..ROUNDS {
        for ((_, world, name), times) in names.iter().zip(&mut times) {
            let address = IpAddr::V4(Ipv4Addr::new(10, 1, 0, round));
            let started = Instant::now();
            assert_eq!(worlds[*world].try_from(name, &format!("wrong {round}"), address).await, Err(AuthError::Refused));
            times.push(started.elapsed());
        }
    }
    let medians: Vec<Duration> = times.into_iter().map(median).collect();
    let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
    assert!(*most < *least * 2, "{names:?}: {medians:?}");
}

#[test]
fn secrets_are_long_and_never_the_same() {
    let (one, other) = (new_secret(), new_secret());
    assert_eq!(one.expose().len(), 43);
    assert_ne!(one, other);
    assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
}

#[tokio::test]
async fn row_88_nothing_secret_prints() {
    let world = World::new().await;
    world.try_here("ci", "one").await.unwrap();
    assert_eq!(format!("{:?}", world.passwords), "Passwords(...)");
}
