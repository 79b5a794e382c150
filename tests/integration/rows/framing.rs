//! Requests that could be read in two ways, rows 13 to 21, and floods of frames, rows 26 to 28: plain and over TLS, against the whole edge.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{APP, WAIT, World, answers, statuses, with_certificate};
use crate::harness::client::{Client, Closed};
use crate::harness::edge::Settings;
use crate::harness::origin::Origin;
use crate::harness::tls::Authority;

/// Would be asked of the origin if it were taken for a request.
const SMUGGLED: &str = "GET /v2/origin.test/smuggled/manifests/v1 HTTP/1.1\r\nHost: edge\r\n\r\n";

/// A read and a command with these fields and a body in chunks, and what an attacker would have read as the next request.
fn with_fields(fields: &[&str]) -> Vec<String> {
    let lines = [format!("GET {APP}/manifests/v1"), "POST /outport/v1/refresh".to_owned(), "PUT /v2/origin.test/app/manifests/v1".into()];
    let rest = format!("5\r\nabcde\r\n0\r\n\r\n{SMUGGLED}");
    lines
        .iter()
        .flat_map(|line| fields.iter().map(move |fields| (line, fields)))
        .map(|(line, fields)| format!("{line} HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n{fields}\r\n\r\n{rest}"))
        .collect()
}

async fn worlds() -> [World; 2] {
    [World::plain().await, World::over_tls().await]
}

async fn all_are_refused(requests: Vec<String>) {
    for world in worlds().await {
        world.refuses(400, "UNSUPPORTED", &requests).await;
        world.finish_unasked().await;
    }
}

#[tokio::test]
async fn rows_13_to_15_lengths_and_codings_that_disagree() {
    let mut fields = vec!["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"];
    fields.extend(["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 6", "Content-Length: +5", "Content-Length: 0x5"]);
    fields.extend(["Content-Length: -5", "Content-Length: ", "Content-Length: 5 5", "Content-Length: 99999999999999999999"]);
    fields.extend(["Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity"]);
    fields.extend(["Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding:\x0bchunked"]);
    let mut requests = with_fields(&fields);
    let old = format!("GET {APP}/manifests/v1 HTTP/1.0\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    requests.push(old);
    all_are_refused(requests).await;
}

#[tokio::test]
async fn row_16_bad_chunks() {
    let chunks =
        ["zz\r\nabcde\r\n0\r\n\r\n", "5;a\nb\r\nabcde\r\n0\r\n\r\n", "5\nabcde\r\n0\r\n\r\n", "5\r\nabcdefg\r\n0\r\n\r\n", "-5\r\n"];
    let lines = [format!("GET {APP}/manifests/v1"), "POST /outport/v1/refresh".to_owned()];
    let fields = "HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
    let requests = chunks.iter().flat_map(|chunks| lines.iter().map(move |line| format!("{line} {fields}\r\n\r\n{chunks}{SMUGGLED}")));
    all_are_refused(requests.collect()).await;
}

#[tokio::test]
async fn row_17_a_body_on_a_cached_get_is_no_request() {
    for world in worlds().await {
        let body = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
        let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
        for body in [body, chunked] {
            let first = format!("GET {APP}/manifests/v1 HTTP/1.1\r\nHost: edge\r\n{body}");
            let next = "GET /v2/ HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
            let (text, closed) = world.client().raw(format!("{first}{next}").as_bytes(), WAIT).await.expect("a connection");
            assert_eq!((statuses(&text), closed), (vec![200, 200], Closed::ByServer), "drained: {text}");
            assert_eq!(answers(&text)[0].body.as_bytes(), &world.image.manifest.bytes[..]);
        }
        for length in ["1000000", "2000"] {
            let cut = format!("GET {APP}/manifests/v1 HTTP/1.1\r\nHost: edge\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}");
            let (text, closed) = world.client().raw(cut.as_bytes(), WAIT).await.expect("a connection");
            assert_eq!((statuses(&text), closed), (vec![200], Closed::ByServer), "closed when it cannot be drained: {text}");
        }
        world.finish_unasked().await;
    }
}

#[tokio::test]
async fn row_18_nothing_is_tunnelled() {
    for world in worlds().await {
        let next = "GET /v2/ HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
        let settings = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: h2c";
        for fields in [settings, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13", "Upgrade: TLS/1.3"] {
            let request = format!("GET {APP}/manifests/v1 HTTP/1.1\r\nHost: edge\r\n{fields}\r\n\r\n{next}");
            let (text, _) = world.client().raw(request.as_bytes(), WAIT).await.expect("a connection");
            assert_eq!(statuses(&text), [200, 200], "{fields}: {text}");
        }
        let connect = "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n";
        world.refuses(405, "UNSUPPORTED", [format!("{connect}{SMUGGLED}")]).await;
        world.finish_unasked().await;
    }
}

#[tokio::test]
async fn row_19_a_request_names_one_host() {
    let hosts = ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: \r\n", "Host: u@a\r\n", "Host: a b\r\n", "Host: a/b\r\n"];
    let line = format!("GET {APP}/manifests/v1");
    let mut requests = hosts.map(|hosts| format!("{line} HTTP/1.1\r\n{hosts}\r\n{SMUGGLED}")).to_vec();
    requests.push(format!("GET http://b{APP}/manifests/v1 HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"));
    requests.push(format!("GET http://u@a{APP}/manifests/v1 HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"));
    all_are_refused(requests).await;
}

#[tokio::test]
async fn row_21_line_ends_folds_and_spaces() {
    let line = format!("GET {APP}/manifests/v1");
    let requests = [
        format!("{line} HTTP/1.1\nHost: edge\n\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\nX: y\r\n\r\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\r\n\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\r\nX: y\r\n folded\r\n\r\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\r\nX: y\rz\r\n\r\n"),
        format!("{line} HTTP/1.1\r\nHost : edge\r\n\r\n"),
        format!("{line} HTTP/1.1\r\n Host: edge\r\n\r\n"),
        format!("{line} HTTP/1.1 \r\nHost: edge\r\n\r\n"),
        format!("{line}\t HTTP/1.1\r\nHost: edge\r\n\r\n"),
        format!("{line}\r\n\r\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\r\nX\0: y\r\n\r\n"),
        format!("{line} HTTP/1.1\r\nHost: edge\r\nX: y\0\r\n\r\n"),
    ];
    all_are_refused(requests.iter().map(|request| format!("{request}{SMUGGLED}")).collect()).await;
}

/// A TLS client that speaks HTTP/2.
fn h2_config(authority: &Authority) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&authority.client());
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn h2_client(client: &Client, config: &Arc<ClientConfig>, name: &'static str) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(client.address()).await.expect("a connection");
    let name = ServerName::try_from(name).expect("a name");
    let stream = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.expect("a handshake");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

async fn h2_get(sender: &mut SendRequest<Bytes>, url: &str) -> (u16, serde_json::Value) {
    let request = http::Request::get(url).body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true).expect("an open connection");
    let (head, mut body) = answer.await.expect("an answer").into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        bytes.extend(part.expect("the body"));
    }
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn row_20_a_connection_to_one_upstreams_name_is_not_used_for_anothers() {
    let names = ["edge.test", "hub.test", "gh.test"];
    let authority = Authority::new("Edge's authority");
    let (hub, gh) = (Origin::start().await, Origin::start().await);
    let settings = with_certificate(Settings::new(), &authority, &names);
    let settings = settings.upstream_with("hub.io", &hub, "hosts = [\"hub.test\"]").upstream_with("gh.io", &gh, "hosts = [\"gh.test\"]");
    let edge = settings.start().await;
    let cases = [
        ("hub.test", "hub.test", true),
        ("hub.test", "HUB.test:443", true),
        ("hub.test", "gh.test", false),
        ("gh.test", "hub.test:5000", false),
        ("hub.test", "edge.test", false),
        ("gh.test", "other.example.com", false),
        ("edge.test", "edge.test", true),
    ];
    for (server_name, host, served) in cases {
        let client = edge.client.clone().with_tls(authority.client(), server_name).with("Host", host);
        for target in ["/v2/", "/v2/app/manifests/v1"] {
            let answer = client.get(target).await;
            assert_eq!(answer.status != 421, served, "{server_name} {host} {target}");
            assert!(served || answer.error_code().as_deref() == Some("UNSUPPORTED"), "{server_name} {host}: {}", answer.text());
        }
        // Over HTTP/2 a browser or an engine may put requests for all names of a certificate on one connection (RFC 9113, 9.1.1).
        let mut sender = h2_client(&edge.client, &h2_config(&authority), server_name).await;
        let (status, body) = h2_get(&mut sender, &format!("https://{host}/v2/")).await;
        assert_eq!(status, if served { 200 } else { 421 }, "{server_name} {host}");
        assert!(served || body["errors"][0]["code"] == "UNSUPPORTED", "{server_name} {host}: {body}");
    }
    assert!(!hub.requests().is_empty() && gh.requests().is_empty(), "nothing for one upstream came by another's connection");
    edge.finish().await;
}

#[tokio::test]
async fn rows_26_to_28_floods_of_frames_end_the_connection() {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    // `GET https://edge.test/v2/app/x?ns=flood` would need a table; `/` is enough to be a request (RFC 7541).
    let headers =
        |flags, stream| frame(1, flags, stream, &[0x82, 0x87, 0x84, 0x41, 9, b'e', b'd', b'g', b'e', b'.', b't', b'e', b's', b't']);
    let resets = (0..5_000).flat_map(|index| [headers(5, 2 * index + 1), frame(3, 0, 2 * index + 1, &8_u32.to_be_bytes())].concat());
    let floods = [
        ("resets", resets.collect()),
        ("continuation", [headers(1, 1), frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(10)).repeat(10_000)].concat()),
        ("ping", frame(6, 0, 0, &[0; 8]).repeat(20_000)),
        ("settings", frame(4, 0, 0, &[]).repeat(20_000)),
        ("empty data", [headers(4, 1), frame(0, 0, 1, &[]).repeat(20_000)].concat()),
    ];
    let authority = Authority::new("Edge's authority");
    let edge = with_certificate(Settings::new(), &authority, &["edge.test"]).start().await;
    let client = edge.client.clone().with_tls(h2_config(&authority), "edge.test");
    for (kind, flood) in floods {
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), flood].concat();
        let (_, closed) = client.raw(&bytes, Duration::from_secs(15)).await.expect("a connection");
        assert_eq!(closed, Closed::ByServer, "{kind}");
        let mut canary = h2_client(&edge.client, &h2_config(&authority), "edge.test").await;
        assert_eq!(h2_get(&mut canary, "https://edge.test/v2/").await.0, 200, "after {kind}");
    }
    edge.finish().await;
}
