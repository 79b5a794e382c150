use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;

use super::*;
use crate::config::{Secret, Share};
use crate::dial::testing::{Script, Server};
use crate::dial::{Proxies, Resolver};
use crate::trace::Answered;

/// Everything goes to this address, with one header.
pub(super) fn settings(address: SocketAddr) -> config::Otlp {
    config::Otlp {
        endpoint: format!("http://{address}/base").parse().unwrap(),
        headers: BTreeMap::from([("x-tenant".to_owned(), Secret::new("eu".to_owned()))]),
        signals: Vec::new(),
        sample: Share::of_percent(100.0),
        interval: Duration::from_secs(60),
        timeout: Duration::from_millis(300),
        queue: 4,
        ca_file: None,
        private_networks: Vec::new(),
    }
}

pub(super) fn outside(metrics: &Metrics) -> Outside {
    let (clock, metrics) = (Clock::system(), metrics.clone());
    Outside { resolver: Resolver::new(clock.clone(), metrics.clone()).unwrap(), proxies: Proxies::none(), clock, metrics }
}

fn start(settings: &config::Otlp, metrics: &Metrics) -> Otlp {
    let identity = Identity { region: "eu".to_owned(), node: "01J".to_owned() };
    Otlp::start(Some(settings), &identity, outside(metrics)).unwrap()
}

fn leave_spans(otlp: &Otlp, count: usize) {
    for _ in 0..count {
        let answered = || Answered { name: "GET blob".to_owned(), attributes: Vec::new(), first_byte: None, is_failed: false };
        otlp.tracer().begin(&HeaderMap::new()).unwrap().finish(answered);
    }
}

fn counted(metrics: &Metrics, line: &str) {
    assert!(metrics.render().lines().any(|found| found == line), "{line} is not among\n{}", metrics.render());
}

#[tokio::test]
async fn what_waits_is_sent_when_the_edge_ends() {
    let (server, metrics) = (Server::start(Script::Answer).await, Metrics::new());
    let otlp = start(&config::Otlp { signals: vec![Signal::Traces], ..settings(server.address) }, &metrics);
    leave_spans(&otlp, 3);
    otlp.close().await;
    counted(&metrics, "outport_otlp_sent_total{signal=\"traces\"} 3");
    let head = &server.seen()[0];
    for part in
        ["post /base/v1/traces http/1.1\r\n", "x-tenant: eu\r\n", "content-type: application/x-protobuf\r\n", "user-agent: outport/"]
    {
        assert!(head.contains(part), "{head}");
    }
}

#[tokio::test]
async fn an_end_waits_for_no_collector_that_hangs() {
    let (server, metrics) = (Server::start(Script::Hang).await, Metrics::new());
    let otlp = start(&settings(server.address), &metrics);
    otlp.send_metrics(Box::new(|| Box::pin(std::future::pending())));
    leave_spans(&otlp, 20);
    let began = Instant::now();
    otlp.close().await;
    assert!(began.elapsed() < 2 * CLOSE_TIME, "{:?}", began.elapsed());
    counted(&metrics, "outport_otlp_dropped_total{reason=\"queue\",signal=\"traces\"} 16");
    counted(&metrics, "outport_otlp_dropped_total{reason=\"shutdown\",signal=\"traces\"} 4");
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_sent() {
    let (server, metrics) = (Server::start(Script::Answer).await, Metrics::new());
    let otlp = start(&config::Otlp { signals: vec![Signal::Logs], ..settings(server.address) }, &metrics);
    otlp.send_metrics(Box::new(|| panic!("nobody wants metrics")));
    assert!(otlp.tracer().begin(&HeaderMap::new()).is_none());
    assert_eq!(otlp.exporting.as_ref().unwrap().tasks.lock().unwrap().len(), 0);
    otlp.close().await;
    Otlp::default().close().await;
    assert!(server.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_gathers_and_is_bounded() {
    let (closing, metrics) = (watch::Sender::new(false), Metrics::new());
    let Outside { resolver, proxies, .. } = outside(&metrics);
    let nowhere = settings(SocketAddr::from(([127, 0, 0, 1], 9)));
    let collector = Arc::new(Collector::new(&nowhere, (resolver, proxies), metrics, closing.subscribe()).unwrap());
    let mut batches = Batches { signal: Signal::Logs, collector, closing: closing.subscribe() };
    let (sender, mut waiting) = mpsc::channel(1_000);
    (0..600).for_each(|number| sender.try_send(number).unwrap());
    let began = Instant::now();
    assert_eq!(batches.next(&mut waiting).await.map(|batch| batch.len()), Some(MAX_BATCH));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(batches.next(&mut waiting).await.map(|batch| batch.len()), Some(600 - MAX_BATCH));
    assert_eq!(began.elapsed(), GATHER);
    // At the end what is there goes at once, and then nothing is waited for.
    sender.try_send(600).unwrap();
    closing.send_replace(true);
    assert_eq!(batches.next(&mut waiting).await, Some(vec![600]));
    assert_eq!((batches.next(&mut waiting).await, began.elapsed()), (None, GATHER));
}
