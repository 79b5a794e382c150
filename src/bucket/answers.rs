//! What the answers of a real server become: the client's words for them are its own business, so a server is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::conformance::settings;
use super::{Bucket, BucketError, Created, Key, OpenError};
use crate::clock::Clock;
use crate::metrics::Metrics;

const TIMEOUT: Duration = Duration::from_millis(400);

/// What a server answers to a request's method; nothing at all if it is empty.
type Answer = Arc<dyn Fn(&str) -> &'static str + Send + Sync>;

/// A server that answers every request with the same bytes.
async fn server(answer: &'static str) -> (Bucket, Arc<AtomicU32>) {
    server_by_method(Arc::new(move |_| answer)).await
}

async fn server_by_method(answer: Answer) -> (Bucket, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    let text = format!("s3://images;endpoint={endpoint};allow_http=true;region=eu;access_key_id=a;secret_access_key=b");
    let mut settings = settings(&text);
    settings.request_timeout = TIMEOUT;
    let wire = super::connect::connect(&settings, Clock::system(), Metrics::new()).unwrap();
    (Bucket::new(wire, "eu", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), asked)
}

async fn serve(mut stream: TcpStream, answer: Answer) {
    let mut head = Vec::new();
    // Every body of these tests is small enough to come with its head or right after it.
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(count) if count > 0 => head.extend_from_slice(&more[..count]),
            _ => return,
        }
    }
    let answer = answer(std::str::from_utf8(&head).unwrap().split(' ').next().unwrap());
    if answer.is_empty() {
        return std::future::pending().await;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    // Read to the end, so that closing is no reset that overtakes the answer.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut head)).await;
}

const OK_CUT: &str = "HTTP/1.1 200 OK\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n01234";

fn kind<T>(outcome: &Result<T, BucketError>) -> &'static str {
    outcome.as_ref().map_or_else(BucketError::outcome, |_| "done")
}

macro_rules! answer {
    ($status:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    };
}

#[tokio::test]
async fn each_status_is_what_the_caller_can_do_about_it() {
    for (answer, reads, creates) in [
        (answer!("400 Bad Request"), "refused", "refused"),
        (answer!("401 Unauthorized"), "refused", "refused"),
        (answer!("403 Forbidden"), "refused", "refused"),
        (answer!("404 Not Found"), "done", "refused"),
        (answer!("301 Moved Permanently"), "refused", "refused"),
        (answer!("409 Conflict"), "unavailable", "done"),
        (answer!("412 Precondition Failed"), "unavailable", "done"),
        (answer!("416 Range Not Satisfiable"), "broken", "broken"),
        (answer!("501 Not Implemented"), "refused", "refused"),
    ] {
        let (bucket, _) = server(answer).await;
        let read = bucket.read(&Key::Status, 10).await;
        let created = bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await;
        assert_eq!((kind(&read), kind(&created)), (reads, creates), "{answer}{read:?} {created:?}");
        if let Ok(created) = created {
            assert_eq!(created, Created::Exists);
        }
        if let Ok(read) = read {
            assert_eq!(read, None);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_within_bounds() {
    for answer in [answer!("503 Slow Down"), answer!("429 Too Many Requests"), answer!("500 Internal Server Error")] {
        let (bucket, asked) = server(answer).await;
        let started = Instant::now();
        let created = bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await;
        let Err(BucketError::Unavailable { retry_after, .. }) = &created else { panic!("{answer}: {created:?}") };
        assert_eq!(retry_after.is_some(), !answer.contains("500"), "{answer}");
        assert!(asked.load(Ordering::Relaxed) >= 2, "{answer}");
        assert!(started.elapsed() < 3 * TIMEOUT, "{answer}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_unavailable_in_time() {
    let (bucket, asked) = server("").await;
    let started = Instant::now();
    assert_eq!(kind(&bucket.read(&Key::Status, 10).await), "unavailable");
    assert_eq!(kind(&bucket.create(&Key::Ledger(1), Bytes::from_static(b"x")).await), "unavailable");
    assert!(started.elapsed() < 5 * TIMEOUT, "{:?}", started.elapsed());
    assert!(asked.load(Ordering::Relaxed) >= 4);
}

#[tokio::test]
async fn content_that_is_cut_is_never_whole() {
    let (bucket, _) = server(OK_CUT).await;
    assert_eq!(kind(&bucket.read(&Key::Status, 10).await), "unavailable");
    let mut reader = bucket.open_object(&Key::Status, 0..u64::MAX).await.unwrap().unwrap();
    let mut got = 0;
    let end = loop {
        match reader.next().await {
            Ok(Some(bytes)) => got += bytes.len(),
            other => break other,
        }
    };
    assert_eq!((kind(&end), got <= 5), ("unavailable", true), "{end:?}");
    assert_eq!(reader.remaining(), got as u64..10);
}

#[tokio::test]
async fn a_server_that_is_not_there_and_a_wrong_password_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut settings = settings(&format!("s3://images;endpoint=http://{address};allow_http=true;access_key_id=a;secret_access_key=b"));
    settings.request_timeout = TIMEOUT;
    let error = Bucket::open(&settings, "eu", Clock::system(), Metrics::new()).await.unwrap_err();
    assert!(matches!(error, OpenError::Bucket(BucketError::Unavailable { .. })), "{error}");

    let (bucket, _) = server(answer!("403 Forbidden")).await;
    let error = super::probe::examine(bucket.wire(), "eu").await.unwrap_err();
    assert!(matches!(error, OpenError::Bucket(BucketError::Refused(_))), "{error}");
}

const PUT_DONE: &str = "HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_store_that_is_not_safe_is_refused_with_the_reason() {
    let cases: [(Answer, &str); 3] = [
        // What is not there is forbidden, as without the permission to list.
        (Arc::new(|method| if method == "GET" { answer!("403 Forbidden") } else { PUT_DONE }), "s3:ListBucket"),
        // If-None-Match is ignored.
        (Arc::new(|method| if method == "GET" { answer!("404 Not Found") } else { PUT_DONE }), "8 of 8 creates of one key succeeded"),
        // Nobody ever wins.
        (
            Arc::new(|method| match method {
                "GET" => answer!("404 Not Found"),
                "PUT" => answer!("412 Precondition Failed"),
                _ => PUT_DONE,
            }),
            "none of 8 creates",
        ),
    ];
    for (answer, why) in cases {
        let (bucket, _) = server_by_method(answer).await;
        let error = super::probe::examine(bucket.wire(), "eu").await.unwrap_err();
        assert!(matches!(&error, OpenError::Unsafe(said) if said.contains(why)), "{error}");
        assert!(error.is_lasting());
    }
}
