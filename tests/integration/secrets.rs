//! What must not leak, and what must not grow: secrets in logs, metrics and errors; control characters in logs; metric series
//! (hardening rows 86 to 88).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::harness::disk::files;
use crate::harness::edge::Settings;
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};
use crate::harness::token::{Guard, Scheme, TokenBy};

/// Each is planted somewhere else.
const UPSTREAM_PASSWORD: &str = "planted-upstream-password";
const PRINCIPAL_PASSWORD: &str = "planted-principal-password";
const WRONG_PASSWORD: &str = "planted-wrong-password";
const QUERY: &str = "planted-query-token";
const SIGNATURE: &str = "planted-redirect-signature";
const BEARER: &str = "planted-bearer-token";
const COOKIE: &str = "planted-cookie";

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

/// All planted texts, and those in which they are sent.
fn planted() -> Vec<String> {
    let plain =
        [UPSTREAM_PASSWORD, PRINCIPAL_PASSWORD, WRONG_PASSWORD, QUERY, SIGNATURE, BEARER, COOKIE, "origin-token-"].map(str::to_owned);
    let pairs = [("origin-user", UPSTREAM_PASSWORD), ("alice", PRINCIPAL_PASSWORD), ("alice", WRONG_PASSWORD)];
    plain.into_iter().chain(pairs.map(|(name, password)| base64(&format!("{name}:{password}")))).collect()
}

fn assert_no_secret(place: &str, text: &str) {
    for secret in planted() {
        if let Some(at) = text.find(&secret) {
            let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
            panic!("{place} contains {secret}: {}", text[line..].lines().next().unwrap_or_default());
        }
    }
}

/// All that waits on the disk to be sent to the bucket, once something is in it.
async fn audit_record(data_dir: &Path, mark: &str) -> String {
    let since = std::time::Instant::now();
    loop {
        let texts = files(&data_dir.join("audit")).into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
        let record: String = texts.collect();
        if record.contains(mark) || since.elapsed() > Duration::from_secs(5) {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What an upstream may answer that has a secret in it, or that makes an edge talk.
fn faults() -> Vec<Fault> {
    vec![
        Fault::status(500),
        Fault::status(403),
        Fault::challenge(&format!(r#"Bearer realm="https://tokens.example.net/{QUERY}",service="{BEARER}""#)),
        Fault::redirect(&format!("http://127.0.0.9:1/x?X-Amz-Signature={SIGNATURE}")),
        Fault::redirect(&format!("http://127.0.0.1:1/x?X-Amz-Signature={SIGNATURE}")),
        Fault::redirect(&format!("http://user:{UPSTREAM_PASSWORD}@127.0.0.9:1/x")),
        Fault::Headers(vec![("Set-Cookie".into(), format!("session={COOKIE}"))]),
        Fault::StallHead,
        Fault::CutAfter(10),
        Fault::html(),
    ]
}

/// Everything that an edge does with credentials, well and badly, at this log level.
async fn row_88(level: &str, format: &str) {
    let guard = Guard { password: UPSTREAM_PASSWORD.into(), ..Guard::new(Scheme::Bearer(TokenBy::Get)) };
    let (origin, storage) = (Origin::with(guard.clone()).await, Origin::start().await);
    let image = Image::new(88, &[5_000, 300_000]);
    for origin in [&origin, &storage] {
        origin.push("app", "v1", &image);
    }
    // Long enough for the whole test: then it lies in plain on the disk.
    let settings = Settings::new()
        .table("[audit]\nship_after = \"1h\"")
        .log(&format!("level = \"{level}\""))
        .log(&format!("format = \"{format}\""))
        .access("anonymous_pull = [\"canary.test/**\"]")
        .principal("alice", PRINCIPAL_PASSWORD, "**");
    let password = settings.file("password", UPSTREAM_PASSWORD);
    let lines =
        format!("username = \"origin-user\"\npassword_file = \"{}\"\ntag_ttl = \"0s\"\nread_timeout = \"500ms\"", password.display());
    let mut settings = settings.cache("negative_ttl = \"0s\"").cache("stale_after = \"1s\"").limits("deadline = \"1s\"").upstream_with(
        "origin.test",
        &origin,
        &lines,
    );
    // An upstream for each fault, so that what one brings about hides nothing of the next.
    let mut faulty = Vec::new();
    for (number, fault) in faults().into_iter().enumerate() {
        let origin = Origin::with(guard.clone()).await;
        origin.push("app", "v1", &image);
        origin.script(Match::Registry, fault);
        settings = settings.upstream_with(&format!("faulty{number}.test"), &origin, &lines);
        faulty.push(origin);
    }
    let edge = settings.spawn().await;
    let alice = edge.client.clone().with_basic("alice", PRINCIPAL_PASSWORD);
    let mut said = String::new();

    let target = format!("{}/v2/app/blobs/{}?X-Amz-Signature={SIGNATURE}", storage.url(), image.blobs[2].digest());
    origin.script(Match::blob(image.blobs[2].digest()), Fault::redirect(&target));
    pull(&alice, "origin.test/app", "v1", &image).await.expect("alice's image");
    assert!(storage.requests()[0].target.contains(SIGNATURE), "the signature was sent where it belongs");

    let paths = ["manifests/v1", "manifests/v2", "tags/list", "blobs/sha256:bad", &format!("blobs/{}", image.blobs[2].digest())];
    for (number, origin) in faulty.iter().enumerate() {
        for path in paths {
            // A body may be cut.
            if let Ok(answer) = alice.try_get(&format!("/v2/faulty{number}.test/app/{path}?access_token={QUERY}")).await {
                said += &format!("{:?} {}", answer.head, answer.text());
            }
        }
        assert!(!origin.requests().is_empty(), "fault {number} was met");
    }
    let wrong = edge.client.clone().with_basic("alice", WRONG_PASSWORD);
    let bearer = edge.client.clone().with("Authorization", &format!("Bearer {BEARER}"));
    let odd = edge.client.clone().with("Authorization", BEARER).with("Cookie", &format!("session={COOKIE}"));
    for client in [wrong, bearer, odd] {
        for path in ["/v2/", "/v2/origin.test/app/manifests/v1", "/v2/_catalog"] {
            said += &client.get(path).await.text();
            said += &client.get(&format!("{path}?password={QUERY}")).await.text();
        }
    }
    let userinfo = format!("GET http://alice:{WRONG_PASSWORD}@edge/v2/ HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
    said += &edge.client.raw(userinfo.as_bytes(), Duration::from_secs(2)).await.expect("an answer").0;
    let junk = format!("GET /v2/ HTTP/1.1\r\nHost: edge\r\nAuthorization: Basic {WRONG_PASSWORD}\r\n bad: {BEARER}\r\n\r\n");
    said += &edge.client.raw(junk.as_bytes(), Duration::from_secs(2)).await.expect("an answer").0;

    assert_no_secret("an answer", &said);
    assert_no_secret("the metrics", &edge.metrics().await);
    let log = edge.log_text();
    assert!(log.contains("origin.test/app"), "the log tells what was asked: {log}");
    assert_no_secret("the log", &log);
    let record = audit_record(&edge.data_dir(), "origin.test/app").await;
    assert_no_secret("the audit record", &record);
    edge.finish().await;
}

#[tokio::test]
async fn row_88_planted_secrets_are_in_no_log_metric_or_error() {
    row_88("info", "json").await;
}

#[tokio::test]
async fn row_88_not_even_in_the_most_talkative_log() {
    row_88("trace", "text").await;
}

/// The names and labels of all series, without their values.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

#[tokio::test]
async fn row_87_the_number_of_series_does_not_grow() {
    const REQUESTS: usize = 2_000;
    let origin = Origin::start().await;
    let image = Image::new(1, &[5_000]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).principal("alice", "alice-password", "**").start().await;
    // A turn of everything first: each route, status and method that the rounds below bring about.
    let mut known = BTreeSet::new();
    for round in 0..REQUESTS {
        if round == REQUESTS / 10 {
            known = series(&edge.metrics().await);
        }
        let name = format!("origin.test/r{round}/x{}", round * 7919 % 1000);
        let target = match round % 10 {
            0 => format!("/v2/{name}/manifests/t{round}"),
            1 => format!("/v2/{name}/blobs/sha256:{round:064x}"),
            2 => format!("/v2/{name}/tags/list?n={round}"),
            3 => format!("/v2/{name}/referrers/sha256:{round:064x}"),
            4 => format!("/v2/app/manifests/v1?ns=ns{round}.example.com"),
            5 => format!("/{round}/nowhere"),
            6 => format!("/v2/UPPER{round}/manifests/v1"),
            7 => format!("/v2/_catalog?last={round}"),
            8 => "/v2/".to_owned(),
            _ => "/v2/origin.test/app/manifests/v1".to_owned(),
        };
        let method = match round / 10 % 5 {
            0..=2 => "GET".to_owned(),
            3 => "HEAD".to_owned(),
            _ => format!("M{round}"),
        };
        let (agent, host) = (format!("agent/{round}"), format!("host{round}.example.com"));
        let mut client = edge.client.clone().with("User-Agent", &agent).with("Host", &host);
        if round % 3 == 0 {
            client = client.with_basic(&format!("user{round}"), "x");
        }
        client.send(&method, &target, &[]).await.expect("an answer");
    }
    // From when on attempts at passwords are put off depends on how fast the machine is; one more status is no growth.
    let is_put_off = |series: &&String| series.contains("status=\"429\"");
    let grown: Vec<_> = series(&edge.metrics().await).difference(&known).filter(|series| !is_put_off(series)).cloned().collect();
    assert!(grown.is_empty(), "{grown:#?}");
    assert!(known.len() < 2_000, "{} series", known.len());
    edge.finish().await;
}

#[tokio::test]
async fn row_86_control_characters_make_one_escaped_record() {
    let origin = Origin::start().await;
    for format in ["json", "text"] {
        let settings = Settings::new().log(&format!("format = \"{format}\"")).table("[audit]\nship_after = \"1h\"");
        let edge = settings.upstream("origin.test", &origin).spawn().await;
        let agents: [&[u8]; 4] =
            [b"mark-a \x1b[31mred\x1b[0m", b"mark-b \xc2\x9b31m \xe2\x80\xae", b"mark-c \\n\\r \"quoted\" {x=1}", b"mark-d \ttab"];
        for agent in agents {
            let request =
                [b"GET /v2/origin.test/app/manifests/v1 HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nUser-Agent: ", agent, b"\r\n\r\n"];
            edge.client.raw(&request.concat(), Duration::from_secs(3)).await.expect("an answer");
        }
        for path in ["mark-e%0a%1b[31m", "mark-f%0d%0alevel=ERROR", "mark-g\x1b[2J", "mark-h%E2%80%AE", "mark-i\u{85}"] {
            let request = format!("GET /{path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
            edge.client.raw(request.as_bytes(), Duration::from_secs(3)).await.expect("an answer");
        }
        let since = std::time::Instant::now();
        while !edge.log_text().contains("mark-h") && since.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = edge.log_text();
        let wild = log.chars().filter(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{200e}'..='\u{202e}')).count();
        assert_eq!(wild, 0, "{log:?}");
        for mark in ["mark-b", "mark-c", "mark-d", "mark-e", "mark-f", "mark-h"] {
            assert_eq!(log.lines().filter(|line| line.contains(mark)).count(), 1, "{format} {mark}: {log}");
        }
        assert!(!log.lines().any(|line| line.starts_with("level=ERROR")), "{log}");
        let record = audit_record(&edge.data_dir(), "mark-d").await;
        assert!(record.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{record:?}");
        for mark in ["mark-b", "mark-c", "mark-d"] {
            assert_eq!(record.lines().filter(|line| line.contains(mark)).count(), 1, "{mark}: {record}");
        }
        edge.finish().await;
    }
}
