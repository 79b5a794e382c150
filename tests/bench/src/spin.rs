//! One thread that never sleeps, over all connections. A server does not wake it, and so pays nothing for its client: the most that a
//! server can send is seen only so.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::{ACCEPT, body_length};
use crate::sys;

const HEAD_BYTES: usize = 4096;
/// How much is discarded at once: more than the kernel ever holds for a connection.
const DISCARD_BYTES: u64 = 64 << 20;
/// How long a connection is left alone after it was looked at, so that there is something to take.
const PAUSE: Duration = Duration::from_micros(20);

/// A complete answer with status 200.
pub struct Done {
    pub first_byte: Duration,
    pub whole: Duration,
    pub size_bytes: u64,
}

struct Asked<'a> {
    stream: TcpStream,
    path: &'a str,
    at: Instant,
    head: Vec<u8>,
    /// Until the whole head was here.
    first_byte: Duration,
    /// Size of the body and what is still to come, once the head is here.
    body: Option<(u64, u64)>,
}

/// Asks for `requests` paths, one after the other on each connection, and ends at the first failure.
pub fn spin(address: &str, host: &str, paths: &[&str], connections: usize, requests: usize) -> io::Result<Vec<Done>> {
    let mut numbers = 0..requests;
    let mut asked = Vec::new();
    for number in numbers.by_ref().take(connections) {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        asked.push(Asked::ask(stream, host, paths[number % paths.len()])?);
    }
    let mut done = Vec::new();
    while !asked.is_empty() {
        let looked = Instant::now();
        let mut index = 0;
        while let Some(each) = asked.get_mut(index) {
            let Some(finished) = each.look()? else {
                index += 1;
                continue;
            };
            done.push(finished);
            let stream = asked.swap_remove(index).stream;
            if let Some(number) = numbers.next() {
                asked.push(Asked::ask(stream, host, paths[number % paths.len()])?);
            }
        }
        while looked.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
    }
    Ok(done)
}

impl<'a> Asked<'a> {
    fn ask(mut stream: TcpStream, host: &str, path: &'a str) -> io::Result<Asked<'a>> {
        let at = Instant::now();
        // A request fits into what the kernel takes at once from a connection that was quiet.
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n\r\n").as_bytes())?;
        Ok(Asked { stream, path, at, head: Vec::new(), first_byte: Duration::ZERO, body: None })
    }

    /// Takes what is there. Returns the answer when it is complete.
    fn look(&mut self) -> io::Result<Option<Done>> {
        let taken = match &mut self.body {
            None => self.take_head(),
            Some((_, left)) => {
                sys::discard(&self.stream, usize::try_from((*left).min(DISCARD_BYTES)).unwrap_or(usize::MAX)).inspect(|count| {
                    *left -= *count as u64;
                })
            }
        };
        match taken {
            Ok(0) => return Err(io::Error::other(format!("{}: cut", self.path))),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(match self.body {
            Some((size_bytes, 0)) => Some(Done { first_byte: self.first_byte, whole: self.at.elapsed(), size_bytes }),
            _ => None,
        })
    }

    /// Reads on until the head is complete; the body's size is known then, and what of it came along is counted.
    fn take_head(&mut self) -> io::Result<usize> {
        let before = self.head.len();
        self.head.resize(before + HEAD_BYTES, 0);
        let outcome = self.stream.read(&mut self.head[before..]);
        self.head.truncate(before + outcome.as_ref().copied().unwrap_or(0));
        if let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&self.head[..end]);
            if !head.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(head));
            }
            let size_bytes = body_length(&head)?;
            self.first_byte = self.at.elapsed();
            self.body = Some((size_bytes, size_bytes.saturating_sub((self.head.len() - end - 4) as u64)));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Serves one connection; each answer comes in two pieces.
    fn serve(answers: &'static [[&'static str; 2]]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for pieces in answers {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        });
        address
    }

    #[test]
    fn answers_are_counted_to_their_last_byte() {
        let address = serve(&[
            ["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 5\r\n\r\nhello"],
            ["HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhel", "lo, "],
            ["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "you"],
        ]);
        let done = super::spin(&address, "test", &["/a", "/b"], 1, 3).unwrap();
        assert_eq!(done.iter().map(|each| each.size_bytes).collect::<Vec<_>>(), [5, 7, 3]);
        assert!(done.iter().all(|each| each.first_byte <= each.whole));
    }

    #[test]
    fn what_is_cut_or_refused_is_an_error() {
        let cut = serve(&[["HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhel", "lo"]]);
        assert!(super::spin(&cut, "test", &["/"], 1, 1).is_err());
        let refused = serve(&[["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ""]]);
        assert!(super::spin(&refused, "test", &["/"], 1, 1).is_err());
    }
}
