//! Real sockets, a real service, clients that misbehave.

mod certificates;
mod clients;
mod framing;
mod http2;
mod lifecycle;
mod limits;
mod prompts;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Certificates, Listening, Mode, Server};
use crate::config::{ByteSize, CertificateFiles, ClientLimits, Limits, Tls};
use crate::http::Connection;
use crate::metrics::Metrics;

/// Short enough for tests, long enough for a busy machine.
fn limits() -> Limits {
    Limits {
        connections: 1000,
        streams: 100,
        header_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(600),
        write_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_secs(20),
        min_body_rate: ByteSize(0),
        max_blob: ByteSize(1 << 30),
        uploads: 10,
        upload_ttl: Duration::from_secs(60),
        deadline: Duration::from_secs(1),
        grace: Duration::from_secs(1),
        client: ClientLimits::default(),
    }
}

/// Generous timers, for tests that are not about them.
fn patient() -> Limits {
    let long = Duration::from_secs(10);
    Limits { header_timeout: long, idle_timeout: long, write_timeout: long, ..limits() }
}

struct Edge {
    server: Server,
    seen: Seen,
    metrics: Metrics,
}

/// What the service saw.
#[derive(Clone, Default)]
struct Seen {
    requests: Arc<Mutex<Vec<String>>>,
    handed_out_bytes: Arc<AtomicUsize>,
}

impl Edge {
    async fn plain(limits: Limits) -> Edge {
        Edge::start(Mode::Plain, limits, Metrics::new()).await
    }

    async fn tls(limits: Limits) -> (Edge, Identity) {
        let identity = Identity::new(&["edge.test"]);
        let metrics = Metrics::new();
        let certificates = Certificates::load(&identity.tls(), metrics.clone()).unwrap();
        (Edge::start(Mode::Tls(certificates), limits, metrics).await, identity)
    }

    async fn start(listening: impl Into<Listening>, limits: Limits, metrics: Metrics) -> Edge {
        let seen = Seen::default();
        let service = {
            let seen = seen.clone();
            move |request, connection| answer(seen.clone(), request, connection)
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), listening, limits, metrics.clone(), service).await.unwrap();
        Edge { server, seen, metrics }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.local_address()).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may refuse and close before everything is sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        read_to_end(&mut stream).await
    }

    fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    fn counts(&self, metric: &str) -> bool {
        self.metrics.render().lines().any(|line| line == metric)
    }

    fn refused(&self, reason: &str) -> bool {
        self.counts(&format!("outport_connections_refused_total{{reason=\"{reason}\"}} 1"))
    }
}

/// Everything until the server closes, which it must within a few seconds.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match read {
        Err(_) => panic!("the connection was not closed after {answer:?}"),
        // A client that still sends when it is cut sees a reset.
        Ok(Err(error)) if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            panic!("{error} after {answer:?}")
        }
        Ok(_) => answer,
    }
}

/// One answer of known length from a connection that stays open.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Ok(text.into_owned());
            }
        }
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await?;
        answer.extend_from_slice(&byte);
    }
}

/// Who is at the other end, and whom its certificate proves.
fn client(connection: &Connection) -> String {
    let principal = crate::config::Principal {
        name: "ci".to_owned(),
        passwords: Vec::new(),
        certificates: vec!["CN=ci".parse().unwrap()],
        pull: Vec::new(),
        push: Vec::new(),
    };
    let identity = crate::identity::Identity::new(&[principal]);
    let certificate = connection.certificate.as_ref();
    let proved = certificate.and_then(|certificate| identity.by_certificate(certificate, connection.client));
    format!("{} {}", connection.client, proved.map_or("nobody".to_owned(), |caller| caller.principal.as_str().to_owned()))
}

type TestBody = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(seen: Seen, request: Request<Incoming>, connection: Arc<Connection>) -> Response<TestBody> {
    let line = format!("{} {}", request.method(), request.uri().path());
    seen.requests.lock().unwrap().push(line.clone());
    let text = |text: String| Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    match (request.method(), request.uri().path()) {
        (&Method::CONNECT, _) => text(String::new()),
        (_, "/echo") => match request.into_body().collect().await {
            Ok(body) => text(format!("{} bytes", body.to_bytes().len())),
            Err(_) => text("broken".to_owned()),
        },
        (_, "/slow") => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            text(line)
        }
        (_, "/hang") => std::future::pending().await,
        (_, "/switch") => {
            let mut response = text(String::new());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response
        }
        (_, "/endless") => Response::new(Endless::new(seen.handed_out_bytes).boxed_unsync()),
        (_, "/large") => text("x".repeat(LARGE_BYTES)),
        (_, "/connection") => text(format!("{connection:?}")),
        (_, "/client") => text(client(&connection)),
        _ => text(line),
    }
}

/// A body without end that, like the http room's, hands out one block at a time.
struct Endless {
    handed_out_bytes: Arc<AtomicUsize>,
    outstanding: Arc<Mutex<(bool, Option<Waker>)>>,
}

/// More than the kernel's buffers of a loopback connection hold.
const LARGE_BYTES: usize = 16 << 20;
const BLOCK_BYTES: usize = 16 * 1024;

impl Endless {
    fn new(handed_out_bytes: Arc<AtomicUsize>) -> Endless {
        Endless { handed_out_bytes, outstanding: Arc::default() }
    }
}

struct Block(Arc<Mutex<(bool, Option<Waker>)>>);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &[b'x'; BLOCK_BYTES]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut outstanding = self.0.lock().unwrap();
        outstanding.0 = false;
        if let Some(waker) = outstanding.1.take() {
            waker.wake();
        }
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut outstanding = self.outstanding.lock().unwrap();
        if outstanding.0 {
            outstanding.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        outstanding.0 = true;
        self.handed_out_bytes.fetch_add(BLOCK_BYTES, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Block(Arc::clone(&self.outstanding)))))))
    }
}

/// A certificate with its key, in files.
struct Identity {
    dir: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Identity {
    fn new(names: &[&str]) -> Identity {
        let identity = Identity { dir: tempfile::tempdir().unwrap(), certificate: CertificateDer::from(Vec::new()) };
        identity.replaced(names)
    }

    /// The same files with a new certificate for these names.
    fn replaced(mut self, names: &[&str]) -> Identity {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        std::fs::write(self.files().cert_file, cert.pem()).unwrap();
        std::fs::write(self.files().key_file, signing_key.serialize_pem()).unwrap();
        self.certificate = cert.der().clone();
        self
    }

    fn files(&self) -> CertificateFiles {
        CertificateFiles { cert_file: self.dir.path().join("cert.pem"), key_file: self.dir.path().join("key.pem") }
    }

    fn tls(&self) -> Tls {
        Tls { certificates: vec![self.files()], client_ca_file: None, http2: true }
    }
}

/// A client that trusts `certificate` alone.
fn connector(certificate: &CertificateDer<'static>, alpn: &[&str]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn tls_connect(edge: &Edge, certificate: &CertificateDer<'static>, name: &str, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector(certificate, alpn).connect(name, edge.connect().await).await
}
