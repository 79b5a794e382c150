//! Name servers that fail, forget and lie, seen by a whole edge: it runs where `/etc/resolv.conf` names a server of the test's own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::own_octet;
use crate::harness::client::{Client, Response};
use crate::harness::image::Image;
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;

/// What the name server says of a name. Whatever it knows nothing of does not exist.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// This IPv4 address, for one second.
    Address(Ipv4Addr),
    NoName,
    Failure,
    Silence,
}

/// A name server on a loopback address of its own; it ends when it is dropped.
struct NameServer {
    table: Arc<Mutex<HashMap<&'static str, Reply>>>,
    serving: JoinHandle<()>,
}

impl NameServer {
    /// `None`, with the reason on standard error, where its port may not be bound.
    async fn start(host: Ipv4Addr) -> Option<NameServer> {
        let socket = match UdpSocket::bind((host, 53)).await {
            Ok(socket) => socket,
            Err(reason) => {
                eprintln!("skipped: no name server can run here: {reason}");
                return None;
            }
        };
        let table: Arc<Mutex<HashMap<&'static str, Reply>>> = Arc::default();
        let known = table.clone();
        let serving = tokio::spawn(async move {
            let mut packet = [0; 1_500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let answer = answer(&packet[..length], &known.lock().expect("no panic while the table is held"));
                if let Some(answer) = answer {
                    socket.send_to(&answer, peer).await.expect("a loopback");
                }
            }
        });
        Some(NameServer { table, serving })
    }

    fn says(&self, name: &'static str, reply: Reply) {
        self.table.lock().expect("no panic while the table is held").insert(name, reply);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(packet: &[u8], table: &HashMap<&'static str, Reply>) -> Option<Vec<u8>> {
    let asked = Message::from_vec(packet).expect("a query");
    let query = asked.queries[0].clone();
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    answer.add_query(query.clone());
    match table.get(query.name().to_ascii().trim_end_matches('.')).copied().unwrap_or(Reply::NoName) {
        Reply::Address(address) if query.query_type() == RecordType::A => {
            answer.add_answers([Record::from_rdata(query.name().clone(), 1, RData::from(IpAddr::V4(address)))]);
        }
        Reply::Address(_) => {}
        Reply::NoName => answer.metadata.response_code = ResponseCode::NXDomain,
        Reply::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Reply::Silence => return None,
    }
    Some(answer.to_vec().expect("an answer"))
}

/// The name of both upstreams' host, and the time after which an address of it is asked for again.
const NAME: &str = "registry.rows.test";
const CANARY: &str = "canary.rows.test";
const TTL: Duration = Duration::from_millis(1_200);

/// An edge as a process whose name server is `names`, before an origin that it knows by name only.
struct Named {
    names: NameServer,
    origin: Origin,
    canary: Origin,
    image: Image,
    child: Child,
    client: Client,
    ops: Client,
    _dir: TempDir,
}

impl Named {
    /// Each test has a host of its own in 127.211/16, and its origin one in 127.66/16, the only network where upstreams may lie.
    async fn start(number: u8) -> Option<Named> {
        let host = Ipv4Addr::new(127, 211, own_octet(), number);
        let names = NameServer::start(host).await?;
        let origin = Origin::with(Setup { host: Ipv4Addr::new(127, 66, 0, number), ..Setup::default() }).await;
        let canary = Origin::with(Setup { host: Ipv4Addr::new(127, 66, 1, number), ..Setup::default() }).await;
        let image = Image::new(53, &[1_000, 200_000]);
        for origin in [&origin, &canary] {
            origin.push("app", "v1", &image);
        }
        for (name, origin) in [(NAME, &origin), (CANARY, &canary)] {
            let IpAddr::V4(address) = origin.address().ip() else { panic!("an IPv4 origin") };
            names.says(name, Reply::Address(address));
        }
        let dir = TempDir::with_prefix("outport-dns-").expect("a folder");
        let [registry, ops] = [5000, 5001].map(|port| SocketAddr::from((host, port)));
        let upstream = |name: &str, host: &str, origin: &Origin| {
            let port = origin.address().port();
            format!(
                "[[upstream]]\nname = \"{name}\"\nurl = \"http://{host}:{port}\"\nprivate_networks = [\"127.66.0.0/16\"]\n\
                 tag_ttl = \"0s\"\n"
            )
        };
        let config = format!(
            "data_dir = \"data\"\n[listen]\nregistry = \"{registry}\"\nops = \"{ops}\"\n[access]\nanonymous_pull = [\"**\"]\n\
             [cache]\nprefetch = 0\nnegative_ttl = \"0s\"\n[limits]\ndeadline = \"3s\"\n{}{}",
            upstream("origin.test", NAME, &origin),
            upstream("canary.test", CANARY, &canary)
        );
        std::fs::write(dir.path().join("outport.toml"), config).expect("a file");
        std::fs::write(dir.path().join("resolv.conf"), format!("nameserver {host}\noptions timeout:1 attempts:1\n")).expect("a file");
        let child = spawn(dir.path())?;
        let (client, ops) = (Client::new(registry), Client::new(ops));
        let mut edge = Named { names, origin, canary, image, child, client, ops, _dir: dir };
        edge.wait_until_ready().await;
        edge.pull("origin.test").await.expect("the image, by the name of its host");
        edge.pull("canary.test").await.expect("the canary");
        Some(edge)
    }

    async fn wait_until_ready(&mut self) {
        let since = Instant::now();
        while !self.ops.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
            assert!(since.elapsed() < Duration::from_secs(20), "the edge is not ready");
            assert_eq!(self.child.try_wait().expect("our own child"), None, "the edge ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pull(&self, upstream: &str) -> Result<Duration, String> {
        pull(&self.client, &format!("{upstream}/app"), "v1", &self.image).await
    }

    /// Asks for what is not cached.
    async fn ask(&self, tag: &str) -> Response {
        self.client.get(&format!("/v2/origin.test/app/manifests/{tag}")).await
    }

    /// Ends the origin's connections, so that the next request needs the name's address, and lets that one get old.
    async fn forget(&mut self) {
        self.origin.stop().await;
        self.origin.resume().await;
        tokio::time::sleep(TTL).await;
        self.origin.forget_requests();
    }

    async fn counts(&self, outcome: &str) -> bool {
        self.ops.get("/metrics").await.text().contains(&format!("outport_dns_lookups_total{{outcome=\"{outcome}\"}} "))
    }

    /// The name is right again, and the edge recovers by itself.
    async fn finish(self) {
        let IpAddr::V4(address) = self.origin.address().ip() else { panic!("an IPv4 origin") };
        self.names.says(NAME, Reply::Address(address));
        let since = Instant::now();
        while self.ask("v1").await.header("outport-freshness") == Some("stale") {
            assert!(since.elapsed() < Duration::from_secs(25), "it does not recover");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.pull("canary.test").await.expect("the canary is pulled");
        assert!(!self.canary.requests().is_empty());
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The edge, in a mount namespace where another file lies over `/etc/resolv.conf`. `None` where that is not allowed.
fn spawn(dir: &Path) -> Option<Child> {
    let allowed = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("skipped: no mount namespace can be made here");
        return None;
    }
    let script = "mount --bind resolv.conf /etc/resolv.conf && exec \"$0\" serve --config outport.toml >log 2>&1";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_outport")]).current_dir(dir).stdin(Stdio::null());
    Some(unshare.spawn().expect("what was allowed just now"))
}

#[tokio::test]
async fn fault_dns_fails_and_the_last_good_address_is_used() {
    let Some(mut edge) = Named::start(1).await else { return };
    for (reply, tag) in [(Reply::Silence, "v2"), (Reply::Failure, "v3")] {
        edge.names.says(NAME, reply);
        edge.origin.push("app", tag, &edge.image);
        edge.forget().await;
        let answer = edge.ask(tag).await;
        assert_eq!((answer.status, &answer.body), (200, &edge.image.manifest.bytes), "{reply:?}: {}", answer.text());
        assert!(answer.after < Duration::from_secs(3), "{reply:?}: {:?}", answer.after);
        assert_eq!(edge.origin.requests().len(), 1, "{reply:?}");
        let took = edge.pull("canary.test").await.expect("another name is nobody's trouble");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert!(edge.counts("stale").await);
    edge.finish().await;
}

#[tokio::test]
async fn fault_nxdomain_is_honoured() {
    let Some(mut edge) = Named::start(2).await else { return };
    edge.names.says(NAME, Reply::NoName);
    edge.forget().await;
    edge.origin.push("app", "v2", &edge.image);
    for _ in 0..3 {
        let answer = edge.ask("v2").await;
        assert_eq!((answer.status, answer.error_code().is_some()), (503, true), "{}", answer.text());
        let took = edge.pull("origin.test").await.expect("what is cached is served");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(edge.ask("v1").await.header("outport-freshness"), Some("stale"));
    }
    assert_eq!(edge.origin.requests().len(), 0, "a name that is gone has no address");
    // What was remembered is forgotten: when DNS fails next, nothing is dialled either.
    edge.names.says(NAME, Reply::Failure);
    assert_eq!(edge.ask("v2").await.status, 503);
    assert_eq!(edge.origin.requests().len(), 0);
    assert!(edge.counts("absent").await);
    edge.finish().await;
}

#[tokio::test]
async fn row_77_a_name_that_moves_to_a_private_address_is_refused_at_connect() {
    let Some(mut edge) = Named::start(3).await else { return };
    let trap = Ipv4Addr::new(127, 0, 0, 77);
    let trapped = tokio::net::TcpListener::bind((trap, edge.origin.address().port())).await.expect("a free address");
    edge.names.says(NAME, Reply::Address(trap));
    edge.forget().await;
    edge.origin.push("app", "v2", &edge.image);
    let answer = edge.ask("v2").await;
    assert_eq!((answer.status, answer.error_code().is_some()), (502, true), "{}", answer.text());
    edge.pull("origin.test").await.expect("what is cached is served");
    let connection = tokio::time::timeout(Duration::from_millis(300), trapped.accept()).await;
    assert!(connection.is_err(), "the address was dialled");
    edge.finish().await;
}
