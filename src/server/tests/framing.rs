//! Bad input, rows 9 to 21: HTTP/1 requests that could be read in two ways.

use super::*;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// The status of each answer in what a connection said.
fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer.split(' ').next().unwrap()).collect()
}

/// Each request gets one answer with this status in the specification's JSON and ends the connection; nothing after it is served.
async fn refuses(status: &str, requests: &[String]) {
    let edge = Edge::plain(patient()).await;
    for request in requests {
        let answer = edge.exchange(format!("{request}{SMUGGLED}")).await;
        assert_eq!(statuses(&answer), [status], "{request:.200?}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("connection: close"), "{request:.200?}: {head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{request:.200?}: {answer}"));
        assert!(body["errors"][0]["code"].is_string(), "{body}");
        assert!(!edge.requests().iter().any(|seen| seen.contains("smuggled")), "{request:.200?}");
    }
    let malformed = format!("outport_connections_refused_total{{reason=\"malformed\"}} {}", requests.len());
    assert!(edge.counts(&malformed), "{malformed}");
    assert!(edge.exchange("GET /canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

fn with_fields(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|fields| format!("PUT /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")).collect()
}

#[tokio::test]
async fn row_09_long_targets_and_large_heads() {
    let long = "a".repeat(64 * 1024);
    refuses("414", &[format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), format!("GET /?{long}")]).await;
    let many = "A: b\r\n".repeat(101);
    refuses(
        "431",
        &[
            format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {long}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(10_000)),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn row_10_methods() {
    refuses("400", &["G@T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "\u{1} / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()]).await;
    refuses("405", &["CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned()]).await;
    let edge = Edge::plain(patient()).await;
    let requests = "TRACE /x HTTP/1.1\r\nHost: a\r\n\r\nJUNK /y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&edge.exchange(requests).await), ["200", "200"]);
    assert_eq!(edge.requests(), ["TRACE /x", "JUNK /y"], "the http room says what it thinks of them");
}

#[tokio::test]
async fn row_13_length_with_transfer_encoding() {
    let fields = ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"];
    refuses("400", &with_fields(&fields)).await;
}

#[tokio::test]
async fn row_14_conflicting_and_odd_lengths() {
    let fields = ["5\r\nContent-Length: 6", "5\r\nContent-Length: 5", "5, 5", "+5", "0x5", "-5", "", "5 5", "99999999999999999999"];
    refuses("400", &with_fields(&fields.map(|length| format!("Content-Length: {length}")).each_ref().map(String::as_str))).await;
}

#[tokio::test]
async fn row_15_odd_transfer_encodings() {
    let fields = ["xchunked", "gzip, chunked", "chunked, identity", "chunked\r\nTransfer-Encoding: chunked", "\"chunked\""];
    let mut requests = with_fields(&fields.map(|coding| format!("Transfer-Encoding: {coding}")).each_ref().map(String::as_str));
    requests.push("PUT /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned());
    refuses("400", &requests).await;
}

#[tokio::test]
async fn row_16_bad_chunks() {
    let chunks =
        ["zz\r\nabcde\r\n0\r\n\r\n", "5;a\nb\r\nabcde\r\n0\r\n\r\n", "5\nabcde\r\n0\r\n\r\n", "5\r\nabcdefg\r\n0\r\n\r\n", "-5\r\n"];
    let requests =
        |path: &str| chunks.map(|chunks| format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    refuses("400", &requests("/echo")).await;
    refuses("400", &requests("/ignored")).await;
}

#[tokio::test]
async fn row_17_a_body_that_nobody_reads_is_no_request() {
    let edge = Edge::plain(patient()).await;
    let with_body = format!("GET /cached HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    let answers = edge.exchange(format!("{with_body}GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(statuses(&answers), ["200", "200"], "drained: {answers}");
    assert_eq!(edge.requests(), ["GET /cached", "GET /next"]);

    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /cached HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc").await.unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream).await), ["200"], "closed when it cannot be drained");
}

#[tokio::test]
async fn row_18_upgrade_never_tunnels() {
    let edge = Edge::plain(patient()).await;
    let upgrade = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let answers = edge.exchange(format!("{upgrade}GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(statuses(&answers), ["200", "200"], "{answers}");
    assert_eq!(edge.requests(), ["GET /a", "GET /b"]);
    refuses("405", &["GET /switch HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned()]).await;
}

#[tokio::test]
async fn row_19_missing_double_and_conflicting_hosts() {
    let hosts = ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: \r\n", "Host: a@b\r\n", "Host: a b\r\n"];
    let mut requests = hosts.map(|hosts| format!("GET / HTTP/1.1\r\n{hosts}\r\n")).to_vec();
    requests.push("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());
    refuses("400", &requests).await;
}

#[tokio::test]
async fn row_21_line_ends_folds_and_spaces() {
    let requests = [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    refuses("400", &requests.map(str::to_owned)).await;
}

#[tokio::test]
async fn a_refusal_waits_for_the_answers_before_it() {
    let edge = Edge::plain(patient()).await;
    let answers = edge.exchange(format!("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nHost: a\r\n\r\nbad\n{SMUGGLED}")).await;
    assert_eq!(statuses(&answers), ["200", "200", "400"], "{answers}");
    assert_eq!(edge.requests(), ["GET /slow", "HEAD /b"]);
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_cut() {
    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    let body = "x".repeat(100_000);
    let requests = format!(
        "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n186A0\r\n{body}\r\n0\r\n\r\n"
    );
    for piece in requests.as_bytes().chunks(7_001) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answers = read_to_end(&mut stream).await;
    assert_eq!(answers.matches("100000 bytes").count(), 2, "{answers}");
}
