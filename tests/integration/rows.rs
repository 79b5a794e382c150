//! Bad input over real sockets against whole edges: names, targets, framing, connections and ranges (hardening rows 1 to 36),
//! pushes (rows 37 to 61), and faults that need a machine: the disk's fsync, name servers, poor links.

mod faults;
mod framing;
mod name_service;
mod names;
mod pushed_manifests;
mod pushes;
mod slow;

use std::time::Duration;

use crate::harness::client::{Client, Closed};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::tls::Authority;

const MIB: u64 = 1 << 20;
/// How long an edge may take to answer what it refuses.
const WAIT: Duration = Duration::from_secs(5);
const APP: &str = "/v2/origin.test/app";

/// An edge before an origin whose one image, `app:v1`, is cached.
struct World {
    origin: Origin,
    image: Image,
    edge: TestEdge,
}

impl World {
    async fn plain() -> World {
        World::with(Settings::new()).await
    }

    async fn over_tls() -> World {
        let authority = Authority::new("Edge's authority");
        World::with(with_certificate(Settings::new(), &authority, &["edge.test"])).await
    }

    async fn with(settings: Settings) -> World {
        let (origin, image) = (Origin::start().await, Image::new(36, &[5_000, 300_000]));
        origin.push("app", "v1", &image);
        let edge = settings.upstream("origin.test", &origin).start().await;
        pull(&edge.client, "origin.test/app", "v1", &image).await.expect("the image");
        origin.forget_requests();
        World { origin, image, edge }
    }

    fn client(&self) -> &Client {
        &self.edge.client
    }

    /// Each of these requests has one answer, with this status and code in the specification's JSON, and ends its connection.
    async fn refuses<R: AsRef<[u8]>>(&self, status: u16, code: &str, requests: impl IntoIterator<Item = R>) {
        refuses(self.client(), (status, code), requests).await;
    }

    /// Nobody but the canary was asked anything, and the edge still works.
    async fn finish_unasked(self) {
        let asked: Vec<_> = self.origin.requests().iter().map(|request| request.target.clone()).collect();
        assert!(asked.is_empty(), "the origin was asked {asked:?}");
        self.edge.finish().await;
    }
}

/// Each of these requests has one answer, with this status and code in the specification's JSON, and ends its connection.
async fn refuses<R: AsRef<[u8]>>(client: &Client, (status, code): (u16, &str), requests: impl IntoIterator<Item = R>) {
    for request in requests {
        let request = request.as_ref();
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let (text, closed) = client.raw(request, WAIT).await.expect("a connection");
        let answers = answers(&text);
        let [answer] = answers.as_slice() else { panic!("{shown:?}: {text:?}") };
        assert_eq!((answer.status, answer.code().as_deref()), (status, Some(code)), "{shown:?}: {text:?}");
        assert!(answer.head.contains("content-type: application/json"), "{shown:?}: {text:?}");
        assert_eq!(closed, Closed::ByServer, "{shown:?}");
    }
}

/// For an address in 127/8 that another run of these tests on this machine has not.
fn own_octet() -> u8 {
    u8::try_from(std::process::id() % 250).expect("less than 250")
}

/// A TLS listener whose certificate is for these names; clients ask for the first.
fn with_certificate(settings: Settings, authority: &Authority, names: &[&str]) -> Settings {
    let pair = authority.issue(names);
    let (cert, key) = (settings.file("tls.crt", &pair.certificate_pem), settings.file("tls.key", &pair.key_pem));
    let table = format!("[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"", cert.display(), key.display());
    settings.table(&table).with_tls(authority, names[0])
}

/// A GET by hand, after whose answer the connection is closed.
fn get(target: impl AsRef<[u8]>) -> Vec<u8> {
    request("GET", target)
}

fn request(method: &str, target: impl AsRef<[u8]>) -> Vec<u8> {
    [method.as_bytes(), b" ", target.as_ref(), b" HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n"].concat()
}

/// One answer of those that a connection said.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Answer {
    fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        body["errors"][0]["message"].as_str()?;
        body["errors"][0]["code"].as_str().map(str::to_owned)
    }
}

/// Takes apart what a connection said. Whatever is no answer, or more than one's length, counts as an answer of status 0.
fn answers(text: &str) -> Vec<Answer> {
    let (mut answers, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let head = head.to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|line| line.get(..3)?.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0_usize);
        let length = length.min(after.len());
        answers.push(Answer { status, head, body: after.get(..length).unwrap_or(after).to_owned() });
        rest = after.get(length..).unwrap_or_default();
    }
    answers
}

fn statuses(text: &str) -> Vec<u16> {
    answers(text).iter().map(|answer| answer.status).collect()
}
