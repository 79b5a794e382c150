//! A small HTTP/1.1 client: one connection, bodies of answers discarded in the kernel or read into memory, bodies of requests written
//! as they are made.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::sys;

/// The longest head of an answer that is read.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How much is discarded at once.
const DISCARD_BYTES: usize = 1 << 20;
/// How much is read and hashed at once: what container engines written in Go copy at a time, and more.
const VERIFY_BYTES: usize = 64 * 1024;
/// A server that is silent for so long has failed.
const SILENCE: Duration = Duration::from_secs(60);
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// What becomes of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Let go in the kernel.
    Discard,
    Keep,
    /// Read and hashed, as a container engine does.
    Verify,
}

impl FromStr for Body {
    type Err = ();

    fn from_str(word: &str) -> Result<Body, ()> {
        match word {
            "discard" => Ok(Body::Discard),
            "verify" => Ok(Body::Verify),
            _ => Err(()),
        }
    }
}

/// A complete answer with status 200.
pub struct Answer {
    /// From the request's start (the connection's, if it was opened for it) to the head of the answer with at least one byte of the body.
    pub first_byte: Duration,
    pub whole: Duration,
    pub size_bytes: u64,
    /// Empty unless the body was kept.
    pub kept: Vec<u8>,
    /// SHA-256 in hexadecimal, of a body that was verified.
    pub sha256: Option<String>,
}

/// What a request that is no GET came to.
pub struct Reply {
    pub status: u16,
    head: String,
    /// From the end of the request to the head of the answer.
    pub waited: Duration,
}

impl Reply {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// A connection that is opened when it is needed and kept open after that.
pub struct Client {
    address: String,
    host: String,
    stream: Option<TcpStream>,
}

impl Client {
    pub fn new(address: &str, host: &str) -> Client {
        Client { address: address.to_owned(), host: host.to_owned(), stream: None }
    }

    /// Asks for a path and reads the whole answer. Any status but 200 is an error, and after an error the connection is a new one.
    pub fn get(&mut self, path: &str, body: Body) -> io::Result<Answer> {
        let started = Instant::now();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.address)?,
        };
        let host = &self.host;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n\r\n").as_bytes())?;
        let (head, mut kept) = read_head(&mut stream)?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(head));
        }
        let size_bytes = body_length(&head)?;
        let mut read_bytes = kept.len() as u64;
        if read_bytes == 0 && size_bytes > 0 {
            // The head came alone. One byte of the body tells that the server has begun with it.
            kept.push(0);
            stream.read_exact(&mut kept)?;
            read_bytes = 1;
        }
        let first_byte = started.elapsed();
        let mut sha256 = None;
        match body {
            Body::Discard => {
                while read_bytes < size_bytes {
                    let most = usize::try_from(size_bytes - read_bytes).unwrap_or(usize::MAX).min(DISCARD_BYTES);
                    match sys::discard(&stream, most)? {
                        0 => return Err(io::Error::other(format!("{path}: cut after {read_bytes} of {size_bytes} bytes"))),
                        count => read_bytes += count as u64,
                    }
                }
                kept.clear();
            }
            Body::Verify => {
                let (mut hash, mut block) = (Sha256::new_with_prefix(&kept), vec![0; VERIFY_BYTES]);
                while read_bytes < size_bytes {
                    let most = usize::try_from(size_bytes - read_bytes).unwrap_or(usize::MAX).min(VERIFY_BYTES);
                    match stream.read(&mut block[..most])? {
                        0 => return Err(io::Error::other(format!("{path}: cut after {read_bytes} of {size_bytes} bytes"))),
                        count => {
                            hash.update(&block[..count]);
                            read_bytes += count as u64;
                        }
                    }
                }
                kept.clear();
                sha256 = Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            Body::Keep => {
                let left = size_bytes.saturating_sub(read_bytes);
                if (&mut stream).take(left).read_to_end(&mut kept)? as u64 != left {
                    return Err(io::Error::other(format!("{path}: cut short")));
                }
            }
        }
        self.stream = Some(stream);
        Ok(Answer { first_byte, whole: started.elapsed(), size_bytes, kept, sha256 })
    }

    /// Sends a request with a body of `size_bytes`, which `write` writes, and reads the answer whatever its status. `fields` are further
    /// lines of the head, each with its end.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        size_bytes: u64,
        write: impl FnOnce(&mut TcpStream) -> io::Result<()>,
    ) -> io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.address)?,
        };
        let host = &self.host;
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: {size_bytes}\r\n\r\n").as_bytes())?;
        write(&mut stream)?;
        let sent = Instant::now();
        let (head, rest) = read_head(&mut stream)?;
        let waited = sent.elapsed();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other(head.clone()))?;
        let left = body_length(&head).unwrap_or(0).saturating_sub(rest.len() as u64);
        io::copy(&mut (&mut stream).take(left), &mut io::sink())?;
        if !header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(Reply { status, head, waited })
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Reads an answer up to its body. Returns its head and what of the body came along.
fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = vec![0; MAX_HEAD_BYTES];
    let mut filled = 0;
    loop {
        let room = read.get_mut(filled..).filter(|room| !room.is_empty()).ok_or_else(|| io::Error::other("a very long head"))?;
        match stream.read(room)? {
            0 => return Err(io::Error::other("closed before an answer")),
            count => filled += count,
        }
        if let Some(end) = read[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok((String::from_utf8_lossy(&read[..end]).into_owned(), read[end + 4..filled].to_vec()));
        }
    }
}

pub(crate) fn body_length(head: &str) -> io::Result<u64> {
    let length = header(head, "content-length").and_then(|value| value.parse().ok());
    length.ok_or_else(|| io::Error::other(format!("no length in {head}")))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn serve_once(answer: &'static [u8]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        Client::new(&address, "test")
    }

    #[test]
    fn an_answer_is_read_whole() {
        let mut client = serve_once(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
        let answer = client.get("/", Body::Keep).unwrap();
        assert_eq!((answer.size_bytes, answer.kept.as_slice()), (5, &b"hello"[..]));
        let discarded = serve_once(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").get("/", Body::Discard).unwrap();
        assert_eq!((discarded.size_bytes, discarded.kept.len()), (5, 0));
        let verified = serve_once(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").get("/", Body::Verify).unwrap();
        assert_eq!(verified.sha256.as_deref(), Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"));
    }

    #[test]
    fn a_reply_is_read_whatever_its_status() {
        let mut client = serve_once(b"HTTP/1.1 202 Accepted\r\nLocation: /there?a=b\r\ncontent-length: 5\r\n\r\nhello");
        let reply = client.send("PATCH", "/", "Content-Type: text/plain\r\n", 4, |body| body.write_all(b"body")).unwrap();
        assert_eq!((reply.status, reply.header("location"), reply.header("range")), (202, Some("/there?a=b"), None));
        let mut empty = serve_once(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(empty.send("DELETE", "/", "", 0, |_| Ok(())).unwrap().status, 204);
        assert!(serve_once(b"HTTP/1.1\r\n\r\n").send("PUT", "/", "", 0, |_| Ok(())).is_err());
    }

    #[test]
    fn what_is_not_a_whole_answer_is_an_error() {
        let bad: [&[u8]; 5] = [
            b"",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        ];
        for answer in bad {
            assert!(serve_once(answer).get("/", Body::Keep).is_err(), "{}", String::from_utf8_lossy(answer));
            assert!(serve_once(answer).get("/", Body::Discard).is_err());
        }
    }
}
