//! Peers for the tests of this room and of those above, on real sockets of this machine: a name server, a registry, proxies.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::link::Wire;

/// What the name server says about one name and family.
#[derive(Clone, Debug)]
pub enum Reply {
    Addresses(&'static [&'static str], u32),
    NoName,
    Failure,
    Silence,
}

/// A name server on UDP that answers from a table; NXDOMAIN for what is not in it. A name that has one family only has an
/// empty answer for the other.
#[derive(Clone)]
pub struct NameServer {
    pub address: SocketAddr,
    table: Arc<Mutex<HashMap<(String, RecordType), Reply>>>,
    queries: Arc<AtomicUsize>,
}

impl NameServer {
    pub async fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = NameServer { address: socket.local_addr().unwrap(), table: Arc::default(), queries: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            let mut packet = [0; 1_500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                if let Some(answer) = serving.answer(&packet[..length]) {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        server
    }

    /// `kind` is `RecordType::A` or `AAAA`; `name` has its final dot.
    pub fn set(&self, name: &str, kind: RecordType, reply: Reply) {
        self.table.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    pub fn set_both(&self, name: &str, reply: Reply) {
        self.set(name, RecordType::A, reply.clone());
        self.set(name, RecordType::AAAA, reply);
    }

    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }

    fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let asked = Message::from_vec(packet).unwrap();
        let query = asked.queries[0].clone();
        let table = self.table.lock().unwrap();
        let name = query.name().to_ascii();
        let known = table.keys().any(|(other, _)| *other == name);
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.add_query(query.clone());
        match table.get(&(name, query.query_type())) {
            Some(Reply::Addresses(addresses, ttl)) => {
                let data = addresses.iter().map(|text| RData::from(text.parse::<IpAddr>().unwrap()));
                answer.add_answers(data.map(|data| Record::from_rdata(query.name().clone(), *ttl, data)));
            }
            Some(Reply::Silence) => return None,
            Some(Reply::Failure) => answer.metadata.response_code = ResponseCode::ServFail,
            None if known => {}
            Some(Reply::NoName) | None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(answer.to_vec().unwrap())
    }
}

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// 200 with the body `ok`, connection kept.
    Answer,
    /// The same, and the connection is closed.
    AnswerAndClose,
    /// Half a head, then the connection is closed.
    Cut,
    /// Nothing, for ever.
    Hang,
}

/// An HTTP/1.1 server that keeps the heads of the requests it saw, and how many connections it took.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(script: Script) -> Server {
        Server::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), script, None)
    }

    pub async fn start_tls(script: Script, tls: TlsAcceptor) -> Server {
        Server::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), script, Some(tls))
    }

    pub fn listen(listener: TcpListener, script: Script, tls: Option<TlsAcceptor>) -> Server {
        let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let (serving, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serving.serve(stream, script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                                serving.serve(stream, script).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// The heads of all requests so far, in lower case.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A request's head starts the script; `CONNECT` starts a tunnel to its target if that is an address here.
    async fn serve(&self, mut stream: impl Wire, script: Script) {
        while let Some(head) = read_head(&mut stream).await {
            self.seen.lock().unwrap().push(head.clone());
            if let Some(target) = head.strip_prefix("connect ").and_then(|rest| rest.split(' ').next()) {
                return self.tunnel(stream, target).await;
            }
            let answer: &[u8] = match script {
                Script::Answer => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                Script::AnswerAndClose => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                Script::Cut => b"HTTP/1.1 200 OK\r\nConte",
                Script::Hang => return std::future::pending().await,
            };
            stream.write_all(answer).await.unwrap();
            if !matches!(script, Script::Answer) {
                let _ = stream.shutdown().await;
                return;
            }
        }
    }

    async fn tunnel(&self, mut stream: impl Wire, target: &str) {
        let Ok(mut onward) = TcpStream::connect(target).await else {
            let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
            return;
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
    }
}

async fn read_head(stream: &mut impl Wire) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok().map(|head| head.to_ascii_lowercase())
}

/// Fills the queue of a listener on `host` that accepts nothing, so that the system drops what comes next: a dead address. It stays so
/// for the rest of the test.
pub async fn deaf_listener(host: &str) -> (SocketAddr, Vec<TcpStream>) {
    let address: SocketAddr = format!("{host}:0").parse().unwrap();
    let socket = if address.is_ipv6() { TcpSocket::new_v6().unwrap() } else { TcpSocket::new_v4().unwrap() };
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
        held.push(stream.unwrap());
    }
    tokio::spawn(async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    });
    (address, held)
}

/// A certificate authority of the tests' own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Serves with a certificate for `host`, of the given protocol version.
    pub fn acceptor(&self, host: &str, version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
