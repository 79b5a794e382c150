//! A client that believes nothing: its own sockets, and a body that is cut is an error.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::wire::{Framing, Head, Stream, read_head};

/// Bodies are read in parts of at most this size, in bytes.
const PART_BYTES: usize = 256 * 1024;
/// How long a test waits for the next byte before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where to ask, and how. Each request has a connection of its own unless `connect` is used.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, String)>,
    /// Where its connections come from, if not from where the system chooses.
    source: Option<IpAddr>,
    /// Sent with each request.
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Bytes,
    /// From the request to the answer's head.
    pub head_after: Duration,
    /// From the request to its last byte.
    pub after: Duration,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// The code of the first error in a body of the specification's form.
    pub fn error_code(&self) -> Option<String> {
        self.json()["errors"][0]["code"].as_str().map(str::to_owned)
    }
}

/// An answer whose head is here and whose body is read by and by.
pub struct Exchange {
    pub status: u16,
    pub head: Head,
    pub head_after: Duration,
    started: Instant,
    framing: Framing,
    wire: Wire,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address, tls: None, source: None, headers: Vec::new() }
    }

    /// Over TLS, asking for this server name.
    pub fn with_tls(mut self, config: Arc<ClientConfig>, server_name: &str) -> Client {
        self.tls = Some((config, server_name.to_owned()));
        self
    }

    /// From this address of this machine.
    pub fn from(mut self, source: &str) -> Client {
        self.source = Some(source.parse().expect("an address"));
        self
    }

    /// With this header in each request.
    pub fn with(mut self, name: &str, value: &str) -> Client {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with_basic(self, username: &str, password: &str) -> Client {
        use base64::Engine;
        let credentials = base64::prelude::BASE64_STANDARD.encode(format!("{username}:{password}"));
        self.with("Authorization", &format!("Basic {credentials}"))
    }

    pub fn with_bearer(self, token: &str) -> Client {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    /// A POST of a form.
    pub async fn post_form(&self, target: &str, form: &str) -> Response {
        self.send_with("POST", target, &[("Content-Type", "application/x-www-form-urlencoded")], form.as_bytes()).await
    }

    /// Without any header of its own: as anybody.
    pub fn without_headers(&self) -> Client {
        Client { headers: Vec::new(), ..self.clone() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn connect(&self) -> io::Result<Wire> {
        let stream = match self.source {
            None => TcpStream::connect(self.address).await?,
            Some(source) => {
                let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.bind(SocketAddr::new(source, 0))?;
                socket.connect(self.address).await?
            }
        };
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?)
            }
        };
        Ok(Wire { stream: BufReader::with_capacity(PART_BYTES, stream) })
    }

    /// The text of a request's head.
    fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !text.to_ascii_lowercase().contains("\r\nhost: ") {
            text.push_str(&format!("Host: {}\r\n", self.address));
        }
        text.push_str("\r\n");
        text
    }

    /// Sends a request and returns with the answer's head.
    pub async fn open(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<Exchange> {
        let started = Instant::now();
        let mut wire = self.connect().await?;
        wire.send(self.request(method, target, headers).as_bytes()).await?;
        wire.exchange(method, started).await
    }

    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        self.open(method, target, headers).await?.whole().await
    }

    /// A GET that must be answered completely, whatever its status.
    pub async fn get(&self, target: &str) -> Response {
        self.get_with(target, &[]).await
    }

    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.send("GET", target, headers).await.unwrap_or_else(|error| panic!("GET {target}: {error}"))
    }

    pub async fn head(&self, target: &str) -> Response {
        self.send("HEAD", target, &[]).await.unwrap_or_else(|error| panic!("HEAD {target}: {error}"))
    }

    /// A POST of JSON.
    pub async fn post(&self, target: &str, body: &serde_json::Value) -> Response {
        self.send_with("POST", target, &[("Content-Type", "application/json")], body.to_string().as_bytes()).await
    }

    /// A request with a body, and its length.
    pub async fn send_with(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let (started, length) = (Instant::now(), body.len().to_string());
        let head = self.request(method, target, &[headers, &[("Content-Length", length.as_str())]].concat());
        let exchange = async {
            let mut wire = self.connect().await?;
            wire.send(&[head.as_bytes(), body].concat()).await?;
            wire.exchange(method, started).await?.whole().await
        };
        exchange.await.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// A GET that may also be cut: the status, if a head came, and whether the whole body came.
    pub async fn try_get(&self, target: &str) -> io::Result<Response> {
        self.send("GET", target, &[]).await
    }

    /// Sends these bytes and returns all that comes back until the server closes or `wait` has passed, and whether it closed.
    pub async fn raw(&self, bytes: &[u8], wait: Duration) -> io::Result<(String, Closed)> {
        let mut wire = self.connect().await?;
        // A server may close before it has read everything; what it said first still counts.
        let _ = wire.send(bytes).await;
        let mut back = Vec::new();
        let closed = match tokio::time::timeout(wait, wire.stream.read_to_end(&mut back)).await {
            Ok(_) => Closed::ByServer,
            Err(_) => Closed::No,
        };
        Ok((String::from_utf8_lossy(&back).into_owned(), closed))
    }
}

/// Whether a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    ByServer,
    No,
}

/// A connection that is used by hand.
pub struct Wire {
    stream: BufReader<Box<dyn Stream>>,
}

impl Wire {
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await?;
        self.stream.get_mut().flush().await
    }

    /// Reads the head of the answer to a request that was sent at `started`.
    pub async fn exchange(mut self, method: &str, started: Instant) -> io::Result<Exchange> {
        let head = patiently(read_head(&mut self.stream)).await?;
        let head = head.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no answer"))?;
        let status: u16 = head.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let framing = if method == "HEAD" || status == 204 || status == 304 { Framing::Length(0) } else { Framing::of(&head)? };
        Ok(Exchange { status, head, head_after: started.elapsed(), started, framing, wire: self })
    }

    /// One request on this connection and its whole answer; the connection can be used again.
    pub async fn ask(self, method: &str, target: &str, host: &str) -> io::Result<(Response, Wire)> {
        self.ask_with(method, &format!("{target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    async fn ask_with(mut self, method: &str, rest: &str) -> io::Result<(Response, Wire)> {
        let started = Instant::now();
        self.send(format!("{method} {rest}").as_bytes()).await?;
        let mut exchange = self.exchange(method, started).await?;
        let response = exchange.read_whole().await?;
        Ok((response, exchange.wire))
    }
}

impl Exchange {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The next bytes of the body; empty at its proper end. An error when it was cut.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(PART_BYTES);
        let got = self.read(&mut buffer).await?;
        Ok(buffer.split_to(got).freeze())
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        patiently(self.framing.read(&mut self.wire.stream, into)).await
    }

    async fn read_whole(&mut self) -> io::Result<Response> {
        let mut body = BytesMut::new();
        loop {
            let part = self.next().await?;
            if part.is_empty() {
                break;
            }
            body.extend_from_slice(&part);
        }
        Ok(Response {
            status: self.status,
            head: self.head.clone(),
            body: body.freeze(),
            head_after: self.head_after,
            after: self.started.elapsed(),
        })
    }

    pub async fn whole(mut self) -> io::Result<Response> {
        self.read_whole().await
    }

    /// The whole answer, and the connection for what comes after it.
    pub async fn whole_and_more(mut self) -> io::Result<(Response, Wire)> {
        Ok((self.read_whole().await?, self.wire))
    }

    /// Reads to the end and checks each byte against `blob` from `at` on; returns how many there were and when the first one came.
    pub async fn compare(&mut self, blob: &super::image::Blob, at: u64) -> io::Result<Compared> {
        let mut compared = Compared { bytes: 0, first_byte_at: None };
        let mut buffer = vec![0; PART_BYTES];
        loop {
            let got = self.read(&mut buffer).await?;
            if got == 0 {
                return Ok(compared);
            }
            compared.first_byte_at.get_or_insert_with(Instant::now);
            let place = at + compared.bytes;
            assert!(blob.matches(place, &buffer[..got]), "wrong bytes at {place} of {}", blob.digest());
            compared.bytes += got as u64;
        }
    }
}

/// What a comparison found: only right bytes, so many.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub bytes: u64,
    pub first_byte_at: Option<Instant>,
}

async fn patiently<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came within a minute")),
    }
}
