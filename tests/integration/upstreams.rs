//! The kinds of upstreams that there are: challenges, certificates, mirrors, and repositories that may not be asked for.

use std::time::Duration;

use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};
use crate::harness::tls::Authority;
use crate::harness::token::{Guard, Scheme, TokenBy};

/// An origin behind this guard with an image of five layers, and an edge that has its credentials.
async fn guarded(guard: Guard) -> (Origin, TestEdge, Image) {
    let (origin, image) = (Origin::with(guard).await, Image::new(1, &[2_000, 3_000, 4_000, 200_000, 300_000]));
    origin.push("app", "v1", &image);
    let settings = Settings::new();
    let password = settings.file("password", "origin-password\n");
    let lines = format!("username = \"origin-user\"\npassword_file = \"{}\"\ntag_ttl = \"0s\"", password.display());
    let edge = settings.upstream_with("origin.test", &origin, &lines).start().await;
    (origin, edge, image)
}

#[tokio::test]
async fn a_token_is_asked_for_once() {
    for by in [TokenBy::Get, TokenBy::PostOnly] {
        let (origin, edge, image) = guarded(Guard::new(Scheme::Bearer(by))).await;
        for _ in 0..3 {
            pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
        }
        let granted = origin.requests().iter().filter(|logged| logged.target.starts_with("/token") && logged.status() == 200).count();
        assert_eq!(granted, 1, "{by:?}");
        let refused = origin.requests().iter().filter(|logged| logged.status() == 401).count();
        assert!(refused <= 2, "{by:?}: {refused} challenges for {} requests", origin.requests().len());
        edge.finish().await;
    }
}

#[tokio::test]
async fn basic_credentials_are_sent_when_they_are_asked_for() {
    let (origin, edge, image) = guarded(Guard::new(Scheme::Basic)).await;
    for _ in 0..3 {
        pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    }
    let refused = origin.requests().iter().filter(|logged| logged.status() == 401).count();
    assert_eq!(refused, 1);
    edge.finish().await;
}

#[tokio::test]
async fn an_origin_that_asks_for_nothing_gets_no_credentials() {
    let (origin, edge, image) = guarded(Guard::open()).await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    assert_eq!(origin.authorizations().len(), 0, "{:?}", origin.authorizations());
    edge.finish().await;
}

#[tokio::test]
async fn a_token_that_ends_is_replaced_and_nobody_notices() {
    let guard = Guard { token_lifetime: Duration::from_secs(1), ..Guard::new(Scheme::Bearer(TokenBy::Get)) };
    let (origin, edge, image) = guarded(guard).await;
    for _ in 0..5 {
        pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(origin.count(&Match::Token) >= 2);
    edge.finish().await;
}

#[tokio::test]
async fn an_anonymous_token_opens_what_is_public() {
    let (origin, image) = (Origin::with(Guard::new(Scheme::Bearer(TokenBy::Get)).with_public(&["open"])).await, Image::new(1, &[5_000]));
    origin.push("open", "v1", &image);
    origin.push("closed", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).start().await;
    pull(&edge.client, "origin.test/open", "v1", &image).await.expect("the public image");
    let closed = edge.client.get("/v2/origin.test/closed/manifests/v1").await;
    assert_eq!((closed.status, closed.error_code().as_deref()), (404, Some("MANIFEST_UNKNOWN")));
    edge.finish().await;
}

#[tokio::test]
async fn wrong_credentials_are_not_tried_for_ever() {
    let (origin, edge, _) = guarded(Guard { password: "another".into(), ..Guard::new(Scheme::Bearer(TokenBy::Get)) }).await;
    for _ in 0..20 {
        let answer = edge.client.get("/v2/origin.test/app/manifests/v1").await;
        assert!(matches!(answer.status, 404 | 502 | 503), "{}", answer.status);
    }
    assert!(origin.requests().len() < 20, "{} requests with credentials that are refused", origin.requests().len());
    edge.finish().await;
}

#[tokio::test]
async fn an_upstream_with_an_authority_of_its_own() {
    let (authority, another) = (Authority::new("Upstream's authority"), Authority::new("Another"));
    let pair = authority.issue(&["127.0.0.1"]);
    let (origin, image) = (Origin::with(Setup { tls: Some(pair), ..Setup::default() }).await, Image::new(1, &[5_000, 300_000]));
    origin.push("app", "v1", &image);
    let settings = Settings::new();
    let (trusted, other) = (settings.file("ca.crt", &authority.pem()), settings.file("other.crt", &another.pem()));
    let edge = settings
        .upstream_with("trusted.test", &origin, &format!("ca_file = \"{}\"", trusted.display()))
        .upstream_with("other.test", &origin, &format!("ca_file = \"{}\"", other.display()))
        .upstream("plain.test", &origin)
        .start()
        .await;
    pull(&edge.client, "trusted.test/app", "v1", &image).await.expect("the image");
    let asked = origin.requests().len();
    for name in ["other.test", "plain.test"] {
        let answer = edge.client.get(&format!("/v2/{name}/app/manifests/v1")).await;
        assert!(matches!(answer.status, 502 | 503), "{name}: {}", answer.status);
    }
    assert_eq!(origin.requests().len(), asked, "nothing is said to an origin that is not trusted");
    edge.finish().await;
}

#[tokio::test]
async fn a_certificate_of_another_name_is_not_accepted() {
    let authority = Authority::new("Upstream's authority");
    let pair = authority.issue(&["registry.example.com"]);
    let origin = Origin::with(Setup { tls: Some(pair), ..Setup::default() }).await;
    let settings = Settings::new();
    let trusted = settings.file("ca.crt", &authority.pem());
    let edge = settings.upstream_with("origin.test", &origin, &format!("ca_file = \"{}\"", trusted.display())).start().await;
    assert!(matches!(edge.client.get("/v2/origin.test/app/manifests/v1").await.status, 502 | 503));
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

/// An upstream with a mirror, each with the same image.
async fn mirrored() -> (Origin, Origin, TestEdge, Image) {
    let (mirror, origin, image) = (Origin::start().await, Origin::start().await, Image::new(1, &[5_000, 300_000]));
    mirror.push("app", "v1", &image);
    origin.push("app", "v1", &image);
    let lines = format!("mirrors = [\"{}\"]\ntag_ttl = \"0s\"", mirror.url());
    let edge = Settings::new().cache("negative_ttl = \"0s\"").upstream_with("origin.test", &origin, &lines).start().await;
    (mirror, origin, edge, image)
}

#[tokio::test]
async fn a_mirror_is_asked_first() {
    let (mirror, origin, edge, image) = mirrored().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    assert!(mirror.count(&Match::Blobs) >= 3);
    assert_eq!(origin.requests().len(), 0);
    edge.finish().await;
}

#[tokio::test]
async fn behind_a_mirror_that_fails_stands_the_upstream_itself() {
    for fault in [Fault::status(500), Fault::status(404), Fault::too_many(60), Fault::html(), Fault::WrongBytes] {
        let (mirror, _origin, edge, image) = mirrored().await;
        mirror.script(Match::Manifests, fault.clone());
        let answer = edge.client.get("/v2/origin.test/app/manifests/v1").await;
        assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes), "{fault:?}");
        edge.finish().await;
    }
    let (mut mirror, _origin, edge, image) = mirrored().await;
    mirror.stop().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    edge.finish().await;
}

#[tokio::test]
async fn a_transfer_that_a_mirror_breaks_off_is_finished_by_the_upstream() {
    let (mut mirror, origin, edge, image) = mirrored().await;
    assert_eq!(edge.client.get("/v2/origin.test/app/manifests/v1").await.status, 200);
    let blob = &image.blobs[2];
    mirror.script(Match::Blobs.get(), Fault::StallAfter(100_000));
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let mut exchange = edge.client.open("GET", &path, &[]).await.expect("a head");
    mirror.stop().await;
    assert_eq!(exchange.compare(blob, 0).await.expect("a whole body").bytes, blob.size_bytes());
    let range = origin.requests().iter().find_map(|logged| logged.header("range").map(str::to_owned));
    assert!(range.is_some(), "it is taken up where the mirror left it");
    edge.finish().await;
}

#[tokio::test]
async fn credentials_are_not_for_mirrors() {
    let mirror = Origin::with(Guard::new(Scheme::Basic)).await;
    let origin = Origin::with(Guard::new(Scheme::Basic)).await;
    let image = Image::new(1, &[5_000]);
    mirror.push("app", "v1", &image);
    origin.push("app", "v1", &image);
    let settings = Settings::new();
    let password = settings.file("password", "origin-password");
    let lines = format!("mirrors = [\"{}\"]\nusername = \"origin-user\"\npassword_file = \"{}\"", mirror.url(), password.display());
    let edge = settings.upstream_with("origin.test", &origin, &lines).start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    assert_eq!(mirror.authorizations().len(), 0, "{:?}", mirror.authorizations());
    edge.finish().await;
}

#[tokio::test]
async fn what_the_configuration_does_not_allow_is_not_asked_for() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000]));
    for repository in ["team/app", "team/secret", "other/app"] {
        origin.push(repository, "v1", &image);
    }
    let lines = "allow = [\"team/*\"]\ndeny = [\"team/secret\"]";
    let edge = Settings::new().upstream_with("origin.test", &origin, lines).start().await;
    pull(&edge.client, "origin.test/team/app", "v1", &image).await.expect("the allowed image");
    let asked = origin.requests().len();
    for repository in ["team/secret", "other/app", "team/app/deeper"] {
        for rest in ["manifests/v1", "tags/list", &format!("manifests/{}", image.digest()), &format!("blobs/{}", image.blobs[1].digest())] {
            let answer = edge.client.get(&format!("/v2/origin.test/{repository}/{rest}")).await;
            assert_eq!(answer.status, 404, "{repository} {rest}");
        }
    }
    assert_eq!(origin.requests().len(), asked);
    edge.finish().await;
}

#[tokio::test]
async fn an_upstream_below_a_path_prefix() {
    let (origin, image) = (Origin::start().await, Image::new(1, &[5_000, 200_000]));
    // This origin has no prefix of its own: one below /v2/ shows as a part of the repository's name.
    origin.push("prefix/v2/app", "v1", &image);
    let edge = Settings::new().upstream_at("origin.test", &format!("{}/v2/prefix", origin.url()), "").start().await;
    pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
    edge.finish().await;
}
