//! HTTP/2: bad input, rows 24 to 30, and that good clients are served. The bad clients write their frames by hand (RFC 9113).

use super::*;

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;

/// `GET https://a/` in HPACK (RFC 7541): three indexed fields, and `:authority: a` as a literal.
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

#[derive(Debug)]
struct Received {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Received {
    fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

async fn connect(edge: &Edge, identity: &Identity) -> TlsStream<TcpStream> {
    tls_connect(edge, &identity.certificate, "edge.test", &["h2"]).await.unwrap()
}

/// Sends bytes while reading frames until the server closes, which it must.
async fn frames_until_the_end(stream: TlsStream<TcpStream>, bytes: Vec<u8>) -> Vec<Received> {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut frames = Vec::new();
    let reading = async {
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            frames.push(Received { kind: head[3], stream, payload });
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(8), reading).await;
    writing.abort();
    assert!(ended.is_ok(), "the connection was not closed after {frames:?}");
    frames
}

async fn ends_with_goaway(bytes: Vec<u8>) -> Edge {
    let (edge, identity) = Edge::tls(patient()).await;
    let frames = frames_until_the_end(connect(&edge, &identity).await, [hello(), bytes].concat()).await;
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
    let mut canary = tls_connect(&edge, &identity.certificate, "edge.test", &["http/1.1"]).await.unwrap();
    canary.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut canary).await.starts_with("HTTP/1.1 200"));
    edge
}

#[tokio::test]
async fn row_26_rapid_reset_ends_with_goaway() {
    let resets = (0..5_000).flat_map(|index| {
        let stream = 2 * index + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, GET), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    let edge = ends_with_goaway(resets.collect()).await;
    assert!(edge.requests().len() < 1_000, "{} requests were begun", edge.requests().len());
}

#[tokio::test]
async fn row_27_continuation_flood_ends_with_goaway() {
    let mut flood = frame(HEADERS, END_STREAM, 1, GET);
    flood.extend(frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(10)).repeat(10_000));
    let edge = ends_with_goaway(flood).await;
    assert_eq!(edge.requests(), ["GET /"], "the canary alone");
}

#[tokio::test]
async fn row_28_frames_that_only_make_work_end_with_goaway() {
    let begin = frame(HEADERS, END_HEADERS, 1, GET);
    let floods = [
        frame(PING, 0, 0, &[0; 8]).repeat(20_000),
        frame(SETTINGS, 0, 0, &[]).repeat(20_000),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]).repeat(20_000),
        [begin, frame(0, 0, 1, &[]).repeat(20_000)].concat(),
        frame(99, 0, 0, &[]).repeat(20_000),
    ];
    for flood in floods {
        let kind = flood[3];
        let edge = ends_with_goaway(flood).await;
        // h2 may be the first to lose patience with empty DATA.
        assert!(edge.refused("flood") || kind == HEADERS, "{kind}: {}", edge.metrics.render());
    }
}

#[tokio::test]
async fn row_29_connection_specific_fields_are_a_protocol_error() {
    let (edge, identity) = Edge::tls(limits()).await;
    let fields = [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("keep-alive", "1"), ("te", "gzip")];
    let refused = fields.map(async |(name, value)| {
        let mut block = GET.to_vec();
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
        let request = [hello(), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)].concat();
        let frames = frames_until_the_end(connect(&edge, &identity).await, request).await;
        let reset = frames.iter().find(|frame| frame.kind == RST_STREAM).unwrap_or_else(|| panic!("{name}: {frames:?}"));
        assert_eq!((reset.stream, reset.error_code()), (1, PROTOCOL_ERROR), "{name}");
    });
    futures_util::future::join_all(refused).await;
    assert_eq!(edge.requests().len(), 0);
}

#[tokio::test]
async fn row_30_an_hpack_bomb_stays_small() {
    // A 4,000-byte field goes into the table, and is then referred to by one byte each, 4 MiB in a kilobyte.
    let mut block = [GET, &[0x40, 1, b'a', 0x7f, 0xa1, 0x1e]].concat();
    block.extend([b'x'; 4_000]);
    block.extend([0xbe; 1_000]);
    let (edge, identity) = Edge::tls(limits()).await;
    let request = [hello(), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)].concat();
    let frames = frames_until_the_end(connect(&edge, &identity).await, request).await;
    let status_431 = |frame: &&Received| frame.kind == HEADERS && frame.payload.windows(3).any(|part| part == b"431");
    let refused = frames.iter().any(|frame| frame.kind == RST_STREAM || (frame.kind == GOAWAY && frame.error_code() != 0));
    assert!(refused || frames.iter().find(status_431).is_some(), "{frames:?}");
    assert_eq!(edge.requests().len(), 0);
}

#[tokio::test]
async fn row_22_slow_http2_clients_are_cut() {
    let half_a_head = frame(HEADERS, END_STREAM, 1, GET);
    let cut_frame = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)[..10].to_vec();
    let openings = [Vec::new(), hello()[..10].to_vec(), hello(), [hello(), half_a_head].concat(), [hello(), cut_frame].concat()];
    let cut = openings.map(async |opening| {
        let (edge, identity) = Edge::tls(limits()).await;
        frames_until_the_end(connect(&edge, &identity).await, opening).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(edge.refused("header_timeout"), "{}", edge.metrics.render());
    });
    futures_util::future::join_all(cut).await;
}

#[tokio::test]
async fn row_23_slow_http2_bodies_are_cut() {
    let (edge, identity) = Edge::tls(Limits { min_body_rate: ByteSize(10_000), ..limits() }).await;
    let path = [0x83, 0x87, 0x04, 5, b'/', b'e', b'c', b'h', b'o', 0x41, 1, b'a'];
    let request = [hello(), frame(HEADERS, END_HEADERS, 1, &path), frame(0, 0, 1, b"and no more")].concat();
    frames_until_the_end(connect(&edge, &identity).await, request).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(edge.refused("slow_body"), "{}", edge.metrics.render());
}

#[tokio::test]
async fn quiet_http2_connections_are_closed_though_they_ping() {
    let (edge, identity) = Edge::tls(limits()).await;
    let request = [hello(), frame(HEADERS, END_STREAM | END_HEADERS, 1, GET), frame(PING, 0, 0, &[0; 8])].concat();
    let frames = frames_until_the_end(connect(&edge, &identity).await, request).await;
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
    assert!(edge.refused("idle"), "{}", edge.metrics.render());
}

#[tokio::test]
async fn row_24_http2_windows_that_stay_shut_are_cut() {
    let (edge, identity) = Edge::tls(limits()).await;
    let path = [0x82, 0x87, 0x04, 8, b'/', b'e', b'n', b'd', b'l', b'e', b's', b's', 0x41, 1, b'a'];
    let request = [hello(), frame(HEADERS, END_STREAM | END_HEADERS, 1, &path)].concat();
    let frames = frames_until_the_end(connect(&edge, &identity).await, request).await;
    let sent: usize = frames.iter().filter(|frame| frame.kind == 0).map(|frame| frame.payload.len()).sum();
    assert_eq!(sent, 65_535, "the window that every client gives");
    let held = edge.seen.handed_out_bytes.load(Ordering::Relaxed) - sent;
    assert!(held <= 128 * 1024, "{held} bytes");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(edge.refused("slow_reader"), "{}", edge.metrics.render());
}

/// A well-behaved client.
async fn client(edge: &Edge, identity: &Identity) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let (client, connection) = h2::client::handshake(connect(edge, identity).await).await.unwrap();
    let running = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, running)
}

/// Status and text of the answer to a GET.
async fn get(client: &mut h2::client::SendRequest<Bytes>, path: &str) -> Result<(u16, String), h2::Error> {
    std::future::poll_fn(|cx| client.poll_ready(cx)).await?;
    let request = Request::get(format!("https://edge.test{path}")).body(()).unwrap();
    let (response, mut body) = client.send_request(request, true)?.0.await?.into_parts();
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len()).unwrap();
        text.extend(part);
    }
    Ok((response.status.as_u16(), String::from_utf8(text).unwrap()))
}

#[tokio::test]
async fn http2_is_served() {
    let (edge, identity) = Edge::tls(patient()).await;
    let (mut client, running) = client(&edge, &identity).await;
    assert_eq!(get(&mut client, "/a").await.unwrap(), (200, "GET /a".to_owned()));
    let (status, large) = get(&mut client, "/large").await.unwrap();
    assert_eq!((status, large.len()), (200, LARGE_BYTES));
    let (status, refusal) = get(&mut client, &format!("/{}", "a".repeat(10_000))).await.unwrap();
    assert!(status == 414 && refusal.contains("UNSUPPORTED"), "{refusal}");
    running.abort();
}

#[tokio::test]
async fn row_19_http2_hosts_must_agree() {
    let (edge, identity) = Edge::tls(patient()).await;
    let (mut client, running) = client(&edge, &identity).await;
    let request = Request::get("https://edge.test/").header("host", "other.test").body(()).unwrap();
    assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 400);
    assert_eq!(edge.requests().len(), 0);
    running.abort();
}

#[tokio::test]
async fn an_http2_request_has_a_total_time_of_its_own() {
    let (edge, identity) = Edge::tls(Limits { request_timeout: Duration::from_millis(600), ..patient() }).await;
    let (client, running) = client(&edge, &identity).await;
    let (mut hanging, mut good) = (client.clone(), client);
    assert!(get(&mut hanging, "/hang").await.unwrap_err().is_reset());
    assert_eq!(get(&mut good, "/slow").await.unwrap(), (200, "GET /slow".to_owned()));
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_http2_load_fails_no_request() {
    let (edge, identity) = Edge::tls(patient()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (mut client, _running) = client(&edge, &identity).await;
        clients.push(tokio::spawn(async move {
            for answered in 0.. {
                match get(&mut client, "/a").await {
                    Ok(answer) => assert_eq!(answer, (200, "GET /a".to_owned())),
                    // GOAWAY without an error: the request was not begun, and the client knows it.
                    Err(error) if answered > 0 && error.reason() == Some(h2::Reason::NO_ERROR) => break,
                    Err(error) => panic!("request {answered}: {error}"),
                }
            }
        }));
    }
    let (mut slow, _running) = client(&edge, &identity).await;
    let in_service = tokio::spawn(async move { get(&mut slow, "/slow").await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    edge.server.drain(Duration::from_secs(10)).await;
    assert_eq!(in_service.await.unwrap().unwrap(), (200, "GET /slow".to_owned()));
    for client in clients {
        client.await.unwrap();
    }
}
