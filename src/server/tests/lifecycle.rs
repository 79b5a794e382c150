//! Drain: SIGTERM under load fails no request.

use super::*;
use tokio::time::Instant;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asks on one connection until the server says that it closes; every request that was sent must be answered.
async fn keep_asking(address: std::net::SocketAddr) -> usize {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for answered in 0.. {
        stream.write_all(REQUEST).await.unwrap();
        let answer = read_answer(&mut stream).await.unwrap_or_else(|error| panic!("request {answered}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /a"), "{answer}");
        if answer.contains("connection: close") {
            return answered;
        }
    }
    unreachable!("the server drains")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_fails_no_request() {
    let edge = Edge::plain(patient()).await;
    let address = edge.server.local_address();
    let clients: Vec<_> = (0..16).map(|_| tokio::spawn(keep_asking(address))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    edge.server.drain(Duration::from_secs(10)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert_eq!(edge.metrics.connections.get(), 0);
}

#[tokio::test]
async fn a_request_that_crosses_the_drain_is_served() {
    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    stream.write_all(REQUEST).await.unwrap();
    read_answer(&mut stream).await.unwrap();
    let draining = tokio::spawn(edge.server.drain(Duration::from_secs(5)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(REQUEST).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    draining.await.unwrap();
}

#[tokio::test]
async fn clients_in_the_kernels_queue_are_served() {
    // On one thread nothing is accepted between the connects and the drain.
    let edge = Edge::plain(patient()).await;
    let address = edge.server.local_address();
    let queued: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let draining = tokio::spawn(edge.server.drain(Duration::from_secs(5)));
    for mut stream in &queued {
        std::io::Write::write_all(&mut stream, REQUEST).unwrap();
    }
    for stream in queued {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    draining.await.unwrap();
}

#[tokio::test]
async fn requests_in_service_finish_and_quiet_connections_close() {
    let edge = Edge::plain(patient()).await;
    let (mut slow, mut quiet, mut unused) = (edge.connect().await, edge.connect().await, edge.connect().await);
    quiet.write_all(REQUEST).await.unwrap();
    read_answer(&mut quiet).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let address = edge.server.local_address();
    let draining = tokio::spawn(edge.server.drain(Duration::from_secs(5)));
    let answer = read_to_end(&mut slow).await;
    assert!(answer.contains("connection: close") && answer.ends_with("GET /slow"), "{answer}");
    assert_eq!(read_to_end(&mut quiet).await, "");
    assert_eq!(read_to_end(&mut unused).await, "");
    draining.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!edge.metrics.render().contains("connections_refused_total{"), "nobody did wrong");
}

#[tokio::test]
async fn what_outlives_the_grace_is_cut() {
    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    edge.server.drain(Duration::from_millis(200)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(edge.metrics.connections.get(), 0);
}

#[tokio::test]
async fn a_slow_reader_of_the_last_block_is_not_cut_by_the_drain() {
    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    // More than the socket's buffers hold, so that the answer's end waits in the server.
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let draining = tokio::spawn(edge.server.drain(Duration::from_secs(8)));
    tokio::time::sleep(Duration::from_millis(800)).await;
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer.len() - answer.find("\r\n\r\n").unwrap() - 4, LARGE_BYTES);
    draining.await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_connections() {
    let edge = Edge::plain(patient()).await;
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(edge);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let edge = Edge::plain(patient()).await;
    let address = edge.server.local_address();
    let service = |_, _| async { Response::new(Full::new(Bytes::new())) };
    let second = Server::bind(address, Mode::Plain, patient(), Metrics::new(), service).await;
    assert!(matches!(second, Err(super::super::ServerError::Bind { address: told, .. }) if told == address));
}
