//! Requests that are answered below hyper, among those that are not.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::time::Instant;

use super::*;
use crate::http::Prompt;
use crate::server::Prompter;

const AGAIN: &[u8] = b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n";
/// As the prompter answers, and nobody else.
const PROMPTED: &str = "prompted: yes";

/// Knows all heads of `/again...` that come alone, and answers them as the service would.
fn prompter() -> Prompter {
    Prompter::new(|head, _| {
        let head = str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n").filter(|head| !head.contains("\r\n\r\n"))?;
        let line = head.split(" HTTP/1.1").next().filter(|line| line.starts_with("GET /again"))?;
        let body = if line.ends_with("/large") { "x".repeat(LARGE_BYTES) } else { line.to_owned() };
        let head = format!("HTTP/1.1 200 OK\r\n{PROMPTED}\r\ncontent-length: {}\r\n\r\n", body.len());
        Some(Prompt::unrecorded(head.into(), body.into()))
    })
}

async fn edge(mode: Mode, limits: Limits) -> Edge {
    Edge::start(Listening { prompter: Some(prompter()), ..mode.into() }, limits, Metrics::new()).await
}

/// One of a conversation's requests, and the body of its answer.
#[derive(Clone, Debug)]
enum Asked {
    Again(u8),
    Other(u8),
    Length(usize),
    Chunked(usize),
}

impl Asked {
    fn bytes(&self) -> String {
        match self {
            Asked::Again(number) => format!("GET /again/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            Asked::Other(number) => format!("GET /other/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            // What could be a head is a body here.
            Asked::Length(size) => format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{}", body(*size)),
            Asked::Chunked(size) => {
                let chunk = if *size == 0 { String::new() } else { format!("{size:x}\r\n{}\r\n", body(*size)) };
                format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n")
            }
        }
    }

    fn answer(&self) -> String {
        match self {
            Asked::Again(number) => format!("GET /again/{number}"),
            Asked::Other(number) => format!("GET /other/{number}"),
            Asked::Length(size) | Asked::Chunked(size) => format!("{size} bytes"),
        }
    }
}

fn body(size: usize) -> String {
    str::from_utf8(AGAIN).unwrap().chars().cycle().take(size).collect()
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        3 => any::<u8>().prop_map(Asked::Again),
        1 => any::<u8>().prop_map(Asked::Other),
        1 => (0..200_usize).prop_map(Asked::Length),
        1 => (0..200_usize).prop_map(Asked::Chunked),
    ]
}

/// How a conversation's bytes are cut: by requests, or anywhere.
fn pieces(asked: &[Asked], cuts: &[usize]) -> Vec<Vec<u8>> {
    let whole: Vec<u8> = asked.iter().flat_map(|asked| asked.bytes().into_bytes()).collect();
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (whole.len() + 1)).collect();
    if cuts.len().is_multiple_of(2) {
        places.extend(asked.iter().scan(0, |end, asked| {
            *end += asked.bytes().len();
            Some(*end)
        }));
    }
    places.extend([0, whole.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| whole[ends[0]..ends[1]].to_vec()).filter(|piece| !piece.is_empty()).collect()
}

/// However requests that are known and others arrive, one after the other or many at once, in pieces or whole: each is answered once, in
/// order, with its own answer.
#[test]
fn answers_come_in_order_whoever_gives_them() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let edge = runtime.block_on(edge(Mode::Plain, patient()));
    let prompted = AtomicUsize::new(0);
    let conversation = (vec(asked(), 1..12), vec(any::<usize>(), 0..6), any::<bool>());
    let outcome = TestRunner::default().run(&conversation, |(asked, cuts, waits)| {
        let answers = runtime.block_on(async {
            let mut stream = edge.connect().await;
            stream.set_nodelay(true).unwrap();
            let (mut reader, mut writer) = stream.split();
            let writing = async {
                for piece in pieces(&asked, &cuts) {
                    writer.write_all(&piece).await.unwrap();
                    if waits {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            let reading = async {
                let mut answers = Vec::new();
                for _ in &asked {
                    answers.push(read_answer(&mut reader).await.unwrap());
                }
                answers
            };
            tokio::join!(writing, reading).1
        });
        for (asked, answer) in asked.iter().zip(answers) {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            prop_assert_eq!(body, asked.answer());
            prop_assert!(head.starts_with("HTTP/1.1 200 OK"));
            prompted.fetch_add(head.contains(PROMPTED).into(), Ordering::Relaxed);
        }
        Ok(())
    });
    outcome.unwrap();
    let (prompted, others) = (prompted.into_inner(), edge.requests());
    assert!(prompted > 100, "{prompted} were answered below");
    assert!(others.iter().any(|seen| seen.starts_with("GET /again")), "and of those that were not alone, the others");
}

#[tokio::test]
async fn under_tls_it_is_the_same() {
    let identity = Identity::new(&["edge.test"]);
    let certificates = Certificates::load(&identity.tls(), Metrics::new()).unwrap();
    let edge = edge(Mode::Tls(certificates), patient()).await;
    let mut stream = tls_connect(&edge, &identity.certificate, "edge.test", &["http/1.1"]).await.unwrap();
    for request in [AGAIN, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n", AGAIN] {
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let answer = read_answer(&mut stream).await.unwrap();
        assert_eq!(answer.contains(PROMPTED), request == AGAIN, "{answer}");
    }
    assert_eq!(edge.requests(), ["GET /other"]);
}

/// What was asked first is still served, or much of its answer is still to be written, when the next head comes.
#[tokio::test]
async fn an_answer_that_is_on_its_way_comes_first_and_whole() {
    let large = "x".repeat(LARGE_BYTES);
    for (first, body) in [("/large", large.as_str()), ("/again/large", &large), ("/slow", "GET /slow")] {
        let edge = edge(Mode::Plain, patient()).await;
        let mut stream = edge.connect().await;
        for request in [format!("GET {first} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), AGAIN] {
            stream.write_all(request).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stream.write_all(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let answers = read_to_end(&mut stream).await;
        let bodies: Vec<&str> =
            answers.split("HTTP/1.1 200 OK\r\n").skip(1).map(|answer| answer.split_once("\r\n\r\n").unwrap().1).collect();
        assert_eq!(bodies.len(), 3, "{first}");
        assert!(bodies[0] == body, "{first}");
        assert_eq!(bodies[1..], ["GET /again", "GET /last"]);
    }
}

#[tokio::test]
async fn who_does_not_read_is_cut() {
    let edge = edge(Mode::Plain, limits()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /again/large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let began = Instant::now();
    while !edge.refused("slow_reader") {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", edge.metrics.render());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() >= limits().write_timeout);
    assert!(edge.requests().is_empty());
}

#[tokio::test]
async fn a_connection_is_idle_from_the_answers_end() {
    let edge = edge(Mode::Plain, limits()).await;
    let mut stream = edge.connect().await;
    for _ in 0..3 {
        tokio::time::sleep(limits().idle_timeout / 2).await;
        stream.write_all(AGAIN).await.unwrap();
        assert!(read_answer(&mut stream).await.unwrap().contains(PROMPTED));
    }
    let began = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(began.elapsed() >= limits().idle_timeout / 2 && edge.refused("idle"), "{:?}", began.elapsed());
    // A head that does not come to its end is a slow one, whatever came before.
    let mut stream = edge.connect().await;
    for bytes in [AGAIN, &AGAIN[..20]] {
        stream.write_all(bytes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(read_to_end(&mut stream).await.ends_with("GET /again") && edge.refused("header_timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_fails_no_request_and_tells_each_connection() {
    let edge = edge(Mode::Plain, patient()).await;
    let address = edge.server.local_address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                for answered in 0.. {
                    stream.write_all(AGAIN).await.unwrap();
                    let answer = read_answer(&mut stream).await.unwrap_or_else(|error| panic!("request {answered}: {error}"));
                    assert!(answer.ends_with("GET /again"), "{answer}");
                    if answer.contains("connection: close") {
                        return answered;
                    }
                }
                unreachable!("the server drains")
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    edge.server.drain(Duration::from_secs(10)).await;
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert_eq!(edge.metrics.connections.get(), 0);
}
