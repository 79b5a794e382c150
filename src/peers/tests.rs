//! Two edges on this machine: one that passes requests on, and an owner that is played by hand, byte for byte, so that it can stall,
//! break and lie.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::{OUTPORT_SIBLING, PassError, Passed, Siblings};
use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::dial::Resolver;
use crate::dial::testing::{Authority, deaf_listener};
use crate::inflow::{Inflow, InflowError};
use crate::metrics::Metrics;

const TOKEN: &str = "a token of the tests";
const TARGET: &str = "/v2/a/b/blobs/uploads/01ARZ3?state=x.y%2D&digest=sha256%3Aab";

fn settings() -> config::Siblings {
    let token = Secret::new(TOKEN.to_owned());
    config::Siblings { advertise: "http://127.0.0.1:1".parse().unwrap(), tls_name: None, dns: None, token, ca_file: None }
}

fn edge(settings: &config::Siblings, answer_timeout: Duration, metrics: Metrics) -> Siblings {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let resolver = Resolver::with_config(nowhere, "127.0.0.1 edge.local\n", Clock::system(), metrics.clone()).unwrap();
    Siblings::new(settings, answer_timeout, resolver, Clock::system(), metrics).unwrap()
}

fn siblings() -> Siblings {
    edge(&settings(), Duration::from_secs(10), Metrics::new())
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// Passes a PATCH with these headers.
async fn patch(siblings: &Siblings, owner: &Url, lines: &[(&'static str, &str)], body: &mut Inflow) -> Result<Response<Bytes>, PassError> {
    let (uri, headers) = (TARGET.parse::<Uri>().unwrap(), headers(lines));
    let passed = Passed { method: &Method::PATCH, uri: &uri, headers: &headers, request_id: "id-1" };
    siblings.pass(owner, passed, body).await
}

/// Where an owner is played.
struct Stage(TcpListener);

impl Stage {
    async fn new() -> Stage {
        Stage(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> Url {
        format!("http://{}", self.0.local_addr().unwrap()).parse().unwrap()
    }

    /// The next connection, when the head of its request is here.
    async fn next(&self) -> Heard<TcpStream> {
        Heard::on(self.0.accept().await.unwrap().0).await
    }

    /// Answers one request whose body has these many bytes; tells its head and body.
    async fn answer(&self, body_bytes: usize, answer: &str) -> (String, String) {
        let mut heard = self.next().await;
        let mut body = vec![0; body_bytes];
        heard.stream.read_exact(&mut body).await.unwrap();
        heard.stream.write_all(answer.as_bytes()).await.unwrap();
        (heard.head, String::from_utf8(body).unwrap())
    }
}

/// A request that has begun.
struct Heard<S> {
    /// In lower case.
    head: String,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Heard<S> {
    async fn on(mut stream: S) -> Heard<S> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        Heard { head: String::from_utf8(head).unwrap().to_ascii_lowercase(), stream }
    }

    /// Everything that comes until the connection ends, however it does.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }
}

/// An answer with the mark of a sibling. The status line and further lines are given.
fn vouched(status: &str, lines: &str, body: &str) -> String {
    let mut mark = HeaderMap::new();
    siblings().0.badge.put_on_answer(&mut mark);
    let mark = mark[OUTPORT_SIBLING].to_str().unwrap();
    format!("HTTP/1.1 {status}\r\noutport-sibling: {mark}\r\ncontent-length: {}\r\n{lines}\r\n{body}", body.len())
}

fn accepted() -> String {
    vouched("202 Accepted", "", "")
}

/// A body without a declared length of blocks of 64 KiB, and how many bytes of it were taken so far.
fn counted(blocks: usize) -> (Inflow, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let block = Bytes::from(vec![b'x'; 64 * 1024]);
    let counter = taken.clone();
    let pieces = stream::iter(0..blocks).map(move |_| {
        counter.fetch_add(block.len() as u64, Ordering::Relaxed);
        Ok::<_, io::Error>(Frame::data(block.clone()))
    });
    (Inflow::new(StreamBody::new(pieces), u64::MAX), taken)
}

/// One block, then what is given.
fn begun(then: impl stream::Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Inflow {
    let block = stream::iter([Ok(Frame::data(Bytes::from_static(b"block")))]);
    Inflow::new(StreamBody::new(block.chain(then)), u64::MAX)
}

#[tokio::test]
async fn a_request_and_its_answer_pass_as_they_are() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let owner = stage.url();
    let sent = [
        ("host", "registry.example:443"),
        ("authorization", "Basic eDp5"),
        ("content-length", "5"),
        ("content-range", "10-14"),
        ("content-type", "application/octet-stream"),
        ("expect", "100-continue"),
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("outport-sibling", "forged"),
        ("x-request-id", "the client's"),
    ];
    let answer = vouched("202 Accepted", "connection: close, x-theirs\r\nx-theirs: 1\r\nrange: 0-14\r\nlocation: /v2/x?state=z\r\n", "{}");
    let mut body = Inflow::whole("12345");
    let (passed, (head, heard)) = tokio::join!(patch(&siblings, &owner, &sent, &mut body), stage.answer(5, &answer));

    let lines: Vec<_> = head.trim_end().split("\r\n").collect();
    assert_eq!((lines[0], heard.as_str()), ("patch /v2/a/b/blobs/uploads/01arz3?state=x.y%2d&digest=sha256%3aab http/1.1", "12345"));
    let mut others: Vec<_> = lines[1..].iter().filter(|line| !line.starts_with("outport-sibling: ")).copied().collect();
    others.sort_unstable();
    assert_eq!(
        others,
        [
            "authorization: basic edp5",
            "content-length: 5",
            "content-range: 10-14",
            "content-type: application/octet-stream",
            "host: registry.example:443",
            "x-request-id: id-1",
        ]
    );
    assert!(!head.contains("forged") && !head.contains(TOKEN), "{head}");

    let passed = passed.unwrap();
    assert_eq!((passed.status(), passed.body().as_ref()), (StatusCode::ACCEPTED, &b"{}"[..]));
    assert_eq!(passed.headers()[header::LOCATION], "/v2/x?state=z");
    for name in ["connection", "x-theirs", "outport-sibling"] {
        assert!(!passed.headers().contains_key(name), "{name}");
    }
}

/// What `knows` says at the owner is what keeps a request from going round.
#[tokio::test]
async fn a_request_that_was_passed_on_is_known_for_it_and_its_answer_vouched_for() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, own, mut body) = (stage.url(), edge(&settings(), Duration::from_secs(1), Metrics::new()), Inflow::whole(""));
    let playing = async {
        let heard = stage.0.accept().await.unwrap().0;
        let mut stream = heard;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mark = head.lines().find_map(|line| line.strip_prefix("outport-sibling: ")).unwrap();
        let asked = headers(&[("outport-sibling", mark)]);
        let mut answer = HeaderMap::new();
        own.vouch(&asked, &mut answer);
        stream.write_all(accepted().as_bytes()).await.unwrap();
        (own.knows(&asked), answer.len())
    };
    let (passed, known) = tokio::join!(patch(&siblings, &owner, &[("content-length", "0")], &mut body), playing);
    assert_eq!((passed.unwrap().status(), known), (StatusCode::ACCEPTED, (true, 1)));

    let mut answer = HeaderMap::new();
    for asked in [headers(&[]), headers(&[("outport-sibling", TOKEN)])] {
        own.vouch(&asked, &mut answer);
        assert!(!own.knows(&asked) && answer.is_empty(), "clients get no mark");
    }
}

#[tokio::test]
async fn hosts_of_http_2_and_empty_bodies_pass() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, mut body) = (stage.url(), Inflow::whole(""));
    let (uri, none) = (format!("https://registry.example{TARGET}").parse::<Uri>().unwrap(), HeaderMap::new());
    for method in [Method::PUT, Method::GET, Method::DELETE, Method::PATCH] {
        let passed = Passed { method: &method, uri: &uri, headers: &none, request_id: "id-1" };
        let answer = accepted();
        let (answered, (head, _)) = tokio::join!(siblings.pass(&owner, passed, &mut body), stage.answer(0, &answer));
        assert!(answered.is_ok());
        assert!(head.starts_with(&format!("{} /v2/a/b/", method.as_str().to_ascii_lowercase())), "{head}");
        assert!(head.contains("\r\nhost: registry.example\r\n") && head.contains("\r\ncontent-length: 0\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_body_streams_as_fast_as_the_owner_takes_it() {
    const BLOCKS: usize = 1_024;
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, (mut body, taken)) = (stage.url(), counted(BLOCKS));
    let playing = async {
        let mut heard = stage.next().await;
        assert!(heard.head.contains("\r\ntransfer-encoding: chunked\r\n"), "{}", heard.head);
        // What the kernel and the connection hold, and then nothing more, however long it takes.
        let mut before = u64::MAX;
        while before != taken.load(Ordering::Relaxed) {
            before = taken.load(Ordering::Relaxed);
            sleep(Duration::from_millis(300)).await;
        }
        let mut sum = 0_u64;
        let mut last = [0; 5];
        let mut buffer = vec![0; 256 * 1024];
        while last != *b"0\r\n\r\n" {
            let read = heard.stream.read(&mut buffer).await.unwrap();
            sum += buffer[..read].iter().filter(|byte| **byte == b'x').count() as u64;
            let tail = [&last[..], &buffer[..read]].concat();
            last.copy_from_slice(&tail[tail.len() - 5..]);
        }
        heard.stream.write_all(accepted().as_bytes()).await.unwrap();
        (before, sum)
    };
    let (passed, (before, sum)) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
    assert_eq!(passed.unwrap().status(), StatusCode::ACCEPTED);
    let whole = (BLOCKS * 64 * 1024) as u64;
    assert!(before < whole / 3, "{before} bytes were taken while the owner took none");
    assert_eq!((sum, body.is_drained()), (whole, true));
}

#[tokio::test]
async fn an_owner_that_is_gone_is_found_out_at_once_and_nothing_is_read() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (deaf, _held) = deaf_listener("127.0.0.1").await;
    let metrics = Metrics::new();
    let siblings = edge(&settings(), Duration::from_secs(10), metrics.clone());
    for (owner, least_ms, most_ms) in [(format!("http://{free}"), 0, 500), (format!("http://{deaf}"), 900, 2_500)] {
        let (began, (mut body, taken)) = (Instant::now(), counted(1));
        let passed = patch(&siblings, &owner.parse().unwrap(), &[("expect", "100-continue")], &mut body).await;
        assert_eq!(passed.err(), Some(PassError::Gone), "{owner}");
        let took_ms = began.elapsed().as_millis();
        assert!((least_ms..most_ms).contains(&took_ms), "{owner}: {took_ms} ms");
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
    assert!(metrics.render().contains(r#"outport_sibling_requests_total{outcome="gone"} 2"#));
}

#[tokio::test]
async fn what_no_sibling_can_be_is_gone_without_a_connection() {
    let stage = Stage::new().await;
    let port = stage.0.local_addr().unwrap().port();
    let own = config::Siblings { advertise: stage.url(), ..settings() };
    for owner in [
        stage.url().as_str(),
        &format!("ftp://127.0.0.1:{port}"),
        "http://169.254.169.254",
        "http://[fe80::1]:5000",
        "http://0.0.0.0",
        "http://a..b",
        "data:text",
    ] {
        let siblings = edge(&own, Duration::from_secs(10), Metrics::new());
        let passed = patch(&siblings, &owner.parse().unwrap(), &[], &mut Inflow::whole("a")).await;
        assert_eq!(passed.err(), Some(PassError::Gone), "{owner}");
    }
    assert!(timeout(Duration::from_millis(50), stage.0.accept()).await.is_err());
    // Another edge on the same host, and one that a name leads to; a name that DNS cannot tell is another matter.
    let siblings = siblings();
    for (host, is_answered) in [("127.0.0.1", true), ("localhost", true), ("edge.local", true), ("unknown.local", false)] {
        let (owner, mut body, answer) = (format!("http://{host}:{port}").parse().unwrap(), Inflow::whole("a"), accepted());
        let playing = async { if is_answered { stage.answer(1, &answer).await } else { Default::default() } };
        let (passed, _) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
        let passed = passed.map(|answer| answer.status().as_u16());
        assert!(matches!((&passed, is_answered), (Ok(202), true) | (Err(PassError::Broken(_)), false)), "{host}: {passed:?}");
    }
}

#[tokio::test]
async fn who_dns_does_not_list_gets_no_connection() {
    let stage = Stage::new().await;
    let settings =
        config::Siblings { advertise: "http://10.0.0.1:5000".parse().unwrap(), dns: Some("edge.local".to_owned()), ..settings() };
    let siblings = edge(&settings, Duration::from_secs(10), Metrics::new());
    let (owner, mut body, answer) = (stage.url(), Inflow::whole("a"), accepted());
    let (passed, _) = tokio::join!(patch(&siblings, &owner, &[], &mut body), stage.answer(1, &answer));
    assert!(passed.is_ok());
    let owner = format!("http://[::1]:{}", owner.port().unwrap()).parse().unwrap();
    assert_eq!(patch(&siblings, &owner, &[], &mut body).await.err(), Some(PassError::Gone));
}

#[tokio::test]
async fn nobody_can_tell_of_an_owner_that_breaks_in_the_midst_and_it_is_asked_once() {
    let (stage, metrics) = (Stage::new().await, Metrics::new());
    let siblings = edge(&settings(), Duration::from_secs(10), metrics.clone());
    let owner = stage.url();
    for read_bytes in [0, 5, 100_000] {
        let (mut body, _) = counted(1_024);
        let playing = async {
            let mut heard = stage.next().await;
            heard.stream.read_exact(&mut vec![0; read_bytes]).await.unwrap();
        };
        let (passed, ()) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
        assert!(matches!(passed, Err(PassError::Broken(_))), "{passed:?}");
    }
    assert!(timeout(Duration::from_millis(50), stage.0.accept()).await.is_err());
    assert!(metrics.render().contains(r#"outport_sibling_requests_total{outcome="broken"} 3"#));
}

#[tokio::test]
async fn an_answer_that_is_late_cut_or_too_large_is_none() {
    let stage = Stage::new().await;
    let (owner, siblings) = (stage.url(), edge(&settings(), Duration::from_millis(400), Metrics::new()));
    let large = vouched("200 OK", "", &"x".repeat(64 * 1024 + 1));
    let cut = vouched("200 OK", "", "whole").replace("whole", "who");
    for answer in [large.as_str(), &cut, "", "HTTP/1.1 2", "SSH-2.0-x\r\n"] {
        let mut body = Inflow::whole("a");
        let playing = async {
            let mut heard = stage.next().await;
            heard.stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                heard.rest().await;
            }
        };
        let (passed, ()) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
        assert!(matches!(passed, Err(PassError::Broken(_))), "{answer:.40}: {passed:?}");
    }
}

#[tokio::test]
async fn a_stranger_at_an_owners_old_address_is_no_owner() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let owner = stage.url();
    for answer in ["HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\n\r\n"] {
        let mut body = Inflow::whole("a");
        let (passed, _) = tokio::join!(patch(&siblings, &owner, &[], &mut body), stage.answer(1, answer));
        assert_eq!(passed.err(), Some(PassError::Gone));
    }
    // One that sends back what it got.
    let mut body = Inflow::whole("a");
    let echoing = async {
        let mut heard = Heard::on(stage.0.accept().await.unwrap().0).await;
        let mut mark = HeaderMap::new();
        siblings.0.badge.put_on_request(&mut mark);
        let mark = mark[OUTPORT_SIBLING].to_str().unwrap();
        assert!(heard.head.contains(&mark.to_ascii_lowercase()));
        let answer = format!("HTTP/1.1 200 OK\r\noutport-sibling: {mark}\r\ncontent-length: 0\r\n\r\n");
        heard.stream.write_all(answer.as_bytes()).await.unwrap();
    };
    let (passed, ()) = tokio::join!(patch(&siblings, &owner, &[], &mut body), echoing);
    assert_eq!(passed.err(), Some(PassError::Gone));
}

#[tokio::test]
async fn an_owner_may_answer_before_the_body_ends() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, mut body) = (stage.url(), begun(stream::pending()));
    let answer = vouched("404 Not Found", "", "{\"errors\":[]}");
    let (passed, _) = tokio::join!(patch(&siblings, &owner, &[], &mut body), stage.answer(1, &answer));
    assert_eq!(passed.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(!body.is_drained());
}

#[tokio::test]
async fn a_client_that_leaves_in_the_midst_leaves_a_cut_body_at_the_owner() {
    let (stage, metrics) = (Stage::new().await, Metrics::new());
    let siblings = edge(&settings(), Duration::from_secs(10), metrics.clone());
    let owner = stage.url();
    // HTTP/2: the body tells it.
    let mut body = begun(stream::iter([Err(io::ErrorKind::UnexpectedEof.into())]));
    let playing = async { stage.next().await.rest().await };
    let (passed, rest) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
    assert_eq!(passed.err(), Some(PassError::Inflow(InflowError::Left)));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    // A declared length that is not reached.
    let mut body = begun(stream::pending()).with_patience(Duration::from_millis(100));
    let playing = async { stage.next().await.rest().await };
    let (passed, rest) = tokio::join!(patch(&siblings, &owner, &[], &mut body), playing);
    assert_eq!(passed.err(), Some(PassError::Inflow(InflowError::Slow)));
    assert_eq!(rest, b"5\r\nblock\r\n");
    // HTTP/1: the request's task is dropped.
    let mut body = begun(stream::pending());
    let playing = async {
        let mut heard = stage.next().await;
        let mut first = [0; 10];
        heard.stream.read_exact(&mut first).await.unwrap();
        heard
    };
    let mut heard = tokio::select! {
        _ = patch(&siblings, &owner, &[], &mut body) => unreachable!("there is no answer"),
        heard = playing => heard,
    };
    let rest = timeout(Duration::from_secs(5), heard.rest()).await.expect("the connection ends with the request");
    assert_eq!(rest, b"");
    assert!(metrics.render().contains(r#"outport_sibling_requests_total{outcome="left"} 3"#));
}

#[tokio::test]
async fn each_request_has_a_connection_of_its_own() {
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, mut held) = (stage.url(), Vec::new());
    for _ in 0..2 {
        let mut body = Inflow::whole("");
        let playing = async {
            let mut heard = stage.next().await;
            heard.stream.write_all(accepted().as_bytes()).await.unwrap();
            heard.stream
        };
        let passing = async { tokio::join!(patch(&siblings, &owner, &[], &mut body), playing) };
        let (passed, stream) = timeout(Duration::from_secs(5), passing).await.expect("it comes on a new connection");
        assert!(passed.is_ok());
        held.push(stream);
    }
}

#[tokio::test]
async fn certificates_of_siblings_are_for_their_address_or_one_name() {
    let (authority, file, stage) = (Authority::new(), tempfile::NamedTempFile::new().unwrap(), Stage::new().await);
    std::fs::write(file.path(), authority.pem()).unwrap();
    let trusting = config::Siblings { ca_file: Some(file.path().to_owned()), ..settings() };
    let port = stage.0.local_addr().unwrap().port();
    let name = Some("registry.example.com");
    for (host, tls_name, certified, is_good) in [
        ("127.0.0.1", None, "127.0.0.1", true),
        ("localhost", None, "127.0.0.1", false),
        ("127.0.0.1", name, "registry.example.com", true),
        ("127.0.0.1", name, "127.0.0.1", false),
    ] {
        let trusting = config::Siblings { tls_name: tls_name.map(str::to_owned), ..trusting.clone() };
        let siblings = edge(&trusting, Duration::from_secs(10), Metrics::new());
        let (owner, mut body) = (format!("https://{host}:{port}").parse().unwrap(), Inflow::whole("a"));
        let acceptor = authority.acceptor(certified, &rustls::version::TLS13);
        let playing = async {
            let Ok(stream) = acceptor.accept(stage.0.accept().await.unwrap().0).await else { return };
            let mut heard = Heard::on(stream).await;
            heard.stream.read_u8().await.unwrap();
            heard.stream.write_all(accepted().as_bytes()).await.unwrap();
        };
        let (passed, ()) = tokio::join!(patch(&siblings, &owner, &[("host", "registry.example")], &mut body), playing);
        // Who has no certificate may be the owner with a wrong one: nobody can tell.
        let passed = passed.map(|answer| answer.status().as_u16());
        assert!(matches!((&passed, is_good), (Ok(202), true) | (Err(PassError::Broken(_)), false)), "{host}: {passed:?}");
    }
    let missing = config::Siblings { ca_file: Some("/nonexistent".into()), ..settings() };
    let resolver = Resolver::with_config(stage.0.local_addr().unwrap(), "", Clock::system(), Metrics::new()).unwrap();
    assert!(Siblings::new(&missing, Duration::ZERO, resolver, Clock::system(), Metrics::new()).is_err());
}

/// What is logged goes here.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged() {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (stage, siblings) = (Stage::new().await, siblings());
    let (owner, mut body) = (stage.url(), Inflow::whole("a"));
    for answer in [accepted().as_str(), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "no answer"] {
        let mut body = Inflow::whole("a");
        let (passed, _) = tokio::join!(patch(&siblings, &owner, &[("authorization", "Basic eDp5")], &mut body), stage.answer(1, answer));
        tracing::info!(?passed, ?siblings, "passed");
    }
    drop(stage);
    let passed = patch(&siblings, &owner, &[], &mut body).await;
    tracing::info!(?passed, sealing = ?siblings.0.seal, "passed");
    let mut marks = HeaderMap::new();
    siblings.0.badge.put_on_request(&mut marks);
    let mark = marks[OUTPORT_SIBLING].to_str().unwrap();
    let logged = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("an upload is lost with the edge that began it"), "{logged}");
    assert!(!logged.contains(TOKEN) && !logged.contains(mark) && !logged.contains("eDp5"), "{logged}");
}
