//! Where callers come from: trusted proxies and everybody else, network rules and listeners (hardening rows 84 and 85).

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::client::{Client, Closed};
use crate::harness::edge::{Settings, own_addresses};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::regions::until;

/// The proxy is at 127.0.0.2; neither 203.0.113.0/24 nor 127.0.0.3 is let in.
fn guarded() -> Settings {
    Settings::new()
        .listen("trusted_proxies = [\"127.0.0.2/32\"]")
        .table("[[rule]]\ndefault = \"allow\"\ndeny = [\"203.0.113.0/24\", \"127.0.0.3/32\"]")
}

async fn status(client: &Client, headers: &[(&str, &str)]) -> u16 {
    client.get_with("/v2/", headers).await.status
}

#[tokio::test]
async fn row_84_spoofed_forwarding_headers_change_nothing() {
    let edge = guarded().start().await;
    let (anybody, kept_out, proxy) = (edge.client.clone(), edge.client.clone().from("127.0.0.3"), edge.client.clone().from("127.0.0.2"));
    for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP"] {
        for value in ["198.51.100.1", "for=198.51.100.1", "127.0.0.1", "127.0.0.2, 127.0.0.2", "203.0.113.9", "for=203.0.113.9"] {
            assert_eq!(status(&anybody, &[(name, value)]).await, 200, "{name}: {value}");
            assert_eq!(status(&kept_out, &[(name, value)]).await, 403, "{name}: {value}");
        }
    }
    for (value, expected) in [
        ("198.51.100.1", 200),
        ("203.0.113.9", 403),
        ("198.51.100.1, 203.0.113.9", 403),
        ("203.0.113.9, 198.51.100.1", 200),
        ("203.0.113.9, 127.0.0.2", 403),
        ("203.0.113.9, nonsense", 200),
    ] {
        assert_eq!(status(&proxy, &[("X-Forwarded-For", value)]).await, expected, "{value}");
        assert_eq!(status(&proxy, &[("Forwarded", "for=203.0.113.9"), ("X-Forwarded-For", value)]).await, expected, "{value}");
    }
    // Health checks come from anywhere.
    assert_eq!(kept_out.get("/readyz").await.status, 200);
    let refused = kept_out.get("/v2/canary.test/bird/manifests/v1").await;
    assert_eq!((refused.status, refused.error_code().as_deref()), (403, Some("DENIED")));
    edge.finish().await;
}

#[tokio::test]
async fn row_84_the_header_is_the_one_that_the_proxies_write() {
    let edge = guarded().listen("forwarding_header = \"forwarded\"").start().await;
    let proxy = edge.client.clone().from("127.0.0.2");
    let spoofed = ("X-Forwarded-For", "198.51.100.1");
    for (value, expected) in [("for=\"203.0.113.9:80\";proto=https", 403), ("for=198.51.100.1", 200)] {
        assert_eq!(status(&proxy, &[("Forwarded", value), spoofed]).await, expected, "{value}");
    }
    edge.finish().await;
}

const GET: &str = "GET /v2/ HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";

fn version_2(address: [u8; 4]) -> Vec<u8> {
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &address, &[10, 0, 0, 1, 0, 80, 1, 187]].concat();
    [&header, GET.as_bytes()].concat()
}

async fn raw(client: &Client, bytes: &[u8]) -> (String, Closed) {
    let (answer, closed) = client.raw(bytes, Duration::from_secs(10)).await.expect("a connection");
    (answer.split("\r\n").next().unwrap_or_default().to_owned(), closed)
}

#[tokio::test]
async fn row_84_a_proxy_line_counts_from_the_proxy_alone() {
    let edge = guarded().listen("proxy_protocol = true").limits("header_timeout = \"1s\"").start().await;
    let (anybody, kept_out, proxy) = (edge.client.clone(), edge.client.clone().from("127.0.0.3"), edge.client.clone().from("127.0.0.2"));
    let line = |address: &str| format!("PROXY TCP4 {address} 10.0.0.1 56324 443\r\n{GET}").into_bytes();
    for (bytes, expected) in [
        (line("198.51.100.1"), "HTTP/1.1 200 OK"),
        (line("203.0.113.9"), "HTTP/1.1 403 Forbidden"),
        (version_2([198, 51, 100, 1]), "HTTP/1.1 200 OK"),
        (version_2([203, 0, 113, 9]), "HTTP/1.1 403 Forbidden"),
        // Its own health checks.
        (format!("PROXY UNKNOWN\r\n{GET}").into_bytes(), "HTTP/1.1 200 OK"),
        // It has to say whom it speaks for, at once.
        (GET.as_bytes().to_vec(), ""),
        (b"PROXY TCP4 198.51.100.1 ".to_vec(), ""),
        (Vec::new(), ""),
    ] {
        assert_eq!(raw(&proxy, &bytes).await, (expected.to_owned(), Closed::ByServer), "{:?}", String::from_utf8_lossy(&bytes));
    }
    // From others it is no request, and does not help.
    for client in [&anybody, &kept_out] {
        for bytes in [line("198.51.100.1"), version_2([198, 51, 100, 1])] {
            assert_eq!(raw(client, &bytes).await.0, "HTTP/1.1 400 Bad Request");
        }
    }
    assert_eq!((status(&anybody, &[]).await, status(&kept_out, &[]).await), (200, 403));
    edge.finish().await;
}

#[tokio::test]
async fn row_84_the_access_log_has_the_address_that_counts() {
    let edge = guarded().spawn().await;
    let (anybody, proxy) = (edge.client.clone().from("127.0.0.9"), edge.client.clone().from("127.0.0.2"));
    status(&anybody, &[("X-Forwarded-For", "198.51.100.1"), ("User-Agent", "spoofer")]).await;
    status(&proxy, &[("X-Forwarded-For", "198.51.100.1, ::ffff:198.51.100.2"), ("User-Agent", "behind a proxy")]).await;
    let line = |agent: &str| edge.log_text().lines().find(|line| line.contains(agent)).map(str::to_owned);
    // A line is written when its answer has ended, which the client may know first.
    until("both lines are written", || async { line("spoofer").is_some() && line("behind a proxy").is_some() }).await;
    for (agent, client) in [("spoofer", "client=127.0.0.9 "), ("behind a proxy", "client=198.51.100.2 ")] {
        assert!(line(agent).is_some_and(|line| line.contains(client)), "{:?}", line(agent));
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_85_a_mapped_address_gets_the_verdict_of_the_address() {
    let [beside, _] = own_addresses();
    let port = beside.port() + 1000 + (std::process::id() % 20_000) as u16;
    // A socket for both families sees IPv4 clients at mapped addresses.
    let edge = guarded().table(&format!("[[listen.also]]\naddress = \"[::]:{port}\"\ntrusted_proxies = [\"127.0.0.2/32\"]")).start().await;
    let both = Client::new(SocketAddr::from(([127, 0, 0, 1], port)));
    for (source, forwarded, expected) in [
        ("127.0.0.9", "203.0.113.9", 200),
        ("127.0.0.3", "198.51.100.1", 403),
        ("127.0.0.2", "203.0.113.9", 403),
        ("127.0.0.2", "::ffff:203.0.113.9", 403),
        ("127.0.0.2", "[::ffff:203.0.113.9]:80", 403),
        ("127.0.0.2", "::ffff:198.51.100.1", 200),
    ] {
        for client in [&both, &edge.client] {
            let client = client.clone().from(source);
            assert_eq!(status(&client, &[("X-Forwarded-For", forwarded)]).await, expected, "{source} {forwarded}");
        }
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_listener_has_rules_of_its_own() {
    let [beside, _] = own_addresses();
    let own = format!("[[listen.also]]\naddress = \"{beside}\"\nrules = [{{ allow = [\"127.0.0.3/32\"] }}]");
    let edge = guarded().table(&own).start().await;
    let beside = Client::new(beside);
    for (source, first, second) in [("127.0.0.1", 200, 403), ("127.0.0.3", 403, 200)] {
        assert_eq!(status(&edge.client.clone().from(source), &[]).await, first, "{source}");
        assert_eq!(status(&beside.clone().from(source), &[]).await, second, "{source}");
        assert_eq!(beside.clone().from(source).get("/readyz").await.status, 200);
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_role_can_count_on_one_listener_only() {
    let [beside, _] = own_addresses();
    let (origin, image) = (Origin::start().await, Image::new(5, &[100]));
    origin.push("app", "v1", &image);
    let edge = Settings::new()
        .access("anonymous_pull = [\"canary.test/**\"]")
        .pusher("reader", "[]", "[]")
        .upstream("origin.test", &origin)
        .table("[[role]]\nrole = \"AcrPull\"\nprincipals = [\"reader\"]\n[[rule]]\nroles = [\"AcrPull\"]")
        .table(&format!("[[listen.also]]\naddress = \"{beside}\"\nrules = [{{ allow = [\"127.0.0.0/8\"] }}]"))
        .start()
        .await;
    let reader = |client: Client| client.with_basic("reader", "secret");
    let target = "/v2/origin.test/app/manifests/v1";
    assert_eq!(reader(edge.client.clone()).get(target).await.status, 404);
    assert_eq!(reader(Client::new(beside)).get(target).await.status, 200);
    assert_eq!(reader(edge.client.clone()).get(target).await.status, 404, "also once it is cached");
    edge.finish().await;
}
