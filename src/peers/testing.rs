//! Edges of another region, played by hand: each answer is written down before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::RemoteEdges;
use super::badge::Badge;
use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::dial::Resolver;
use crate::metrics::Metrics;

pub const TOKEN: &str = "a token of two regions";

/// An edge that gives its answers one after the other, each on a connection of its own.
pub struct Played {
    pub address: SocketAddr,
    /// The heads that came, in lower case, each with what of its body came with it.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Played {
    pub async fn new(answers: Vec<String>) -> Played {
        Played::at(SocketAddr::from(([127, 0, 0, 1], 0)), answers).await
    }

    pub async fn at(address: SocketAddr, answers: Vec<String>) -> Played {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (mut answers, log) = (VecDeque::from(answers), heard.clone());
        tokio::spawn(async move {
            while let Some(answer) = answers.pop_front() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|length| length.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                stream.read_exact(&mut body).await.unwrap();
                log.lock().unwrap().push(head + &String::from_utf8(body).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Played { address, heard }
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

pub fn answer(status: &str, lines: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{lines}\r\n{body}", body.len())
}

/// The same, with the mark of the peer.
pub fn vouched(status: &str, lines: &str, body: &str) -> String {
    let mut mark = HeaderMap::new();
    Badge::of_peers(&Secret::new(TOKEN.to_owned())).put_on_answer(&mut mark);
    answer(status, &format!("outport-peer: {}\r\n{lines}", mark["outport-peer"].to_str().unwrap()), body)
}

pub fn edges(addresses: &[SocketAddr], clock: Clock) -> RemoteEdges {
    let peer = config::Peer {
        region: "us".to_owned(),
        bucket: None,
        edges: addresses.iter().map(|address| format!("http://{address}").parse().unwrap()).collect(),
        token: Some(Secret::new(TOKEN.to_owned())),
        ca_file: None,
        clients: Vec::new(),
    };
    let resolver = Resolver::with_config(SocketAddr::from(([127, 0, 0, 1], 9)), "", Clock::system(), Metrics::new()).unwrap();
    RemoteEdges::new(&peer, Duration::from_secs(10), resolver, clock, Metrics::new()).unwrap().expect("it has edges")
}
