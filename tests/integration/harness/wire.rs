//! HTTP/1.1 on a socket, by hand: faults are made and seen on the wire, where a library would hide them.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite};

/// A plain or TLS connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The longest head that is read, in bytes.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// A request's or an answer's head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// The first line, without its line end.
    pub start: String,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a head up to its empty line; `None` when the connection ended before its first byte.
pub async fn read_head<R: AsyncBufRead + Unpin>(from: &mut R) -> io::Result<Option<Head>> {
    let mut head = Head::default();
    let mut read = 0;
    loop {
        let mut line = String::new();
        let got = from.read_line(&mut line).await?;
        read += got;
        if got == 0 {
            return if read == 0 { Ok(None) } else { Err(cut("the head was cut")) };
        }
        if read > MAX_HEAD_BYTES {
            return Err(io::Error::other("the head is too long"));
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(Some(head));
        }
        if head.start.is_empty() {
            head.start = line.to_owned();
        } else {
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("not a header: {line}")))?;
            head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// So many bytes of the chunk under way are still to come; `None` before the first chunk, the flag is set after the last.
    Chunked {
        in_chunk: u64,
        ended: bool,
    },
    UntilClose,
}

impl Framing {
    /// The framing of the answer to a GET.
    pub fn of(head: &Head) -> io::Result<Framing> {
        if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Ok(Framing::Chunked { in_chunk: 0, ended: false });
        }
        match head.header("content-length") {
            Some(length) => length.parse().map(Framing::Length).map_err(io::Error::other),
            None => Ok(Framing::UntilClose),
        }
    }

    /// Reads the next bytes of a body, at most as many as `into` has room for; 0 at its proper end, an error when it was cut.
    pub async fn read<R: AsyncBufRead + Unpin>(&mut self, from: &mut R, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Framing::Length(0) | Framing::Chunked { ended: true, .. } => Ok(0),
            Framing::Length(rest) => {
                let room = room(*rest, into.len());
                let got = from.read(&mut into[..room]).await?;
                if got == 0 {
                    return Err(cut(&format!("{rest} bytes are missing")));
                }
                *rest -= got as u64;
                Ok(got)
            }
            Framing::UntilClose => from.read(into).await,
            Framing::Chunked { in_chunk, ended } => {
                if *in_chunk == 0 {
                    *in_chunk = chunk_size(from).await?;
                    if *in_chunk == 0 {
                        *ended = true;
                        line(from).await?;
                        return Ok(0);
                    }
                }
                let room = room(*in_chunk, into.len());
                let got = from.read(&mut into[..room]).await?;
                if got == 0 {
                    return Err(cut("a chunk was cut"));
                }
                *in_chunk -= got as u64;
                if *in_chunk == 0 {
                    line(from).await?;
                }
                Ok(got)
            }
        }
    }
}

fn room(rest: u64, buffer: usize) -> usize {
    usize::try_from(rest).unwrap_or(usize::MAX).min(buffer)
}

async fn chunk_size<R: AsyncBufRead + Unpin>(from: &mut R) -> io::Result<u64> {
    let line = line(from).await?;
    u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(io::Error::other)
}

async fn line<R: AsyncBufRead + Unpin>(from: &mut R) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line).await?;
    if line.ends_with('\n') { Ok(line) } else { Err(cut("a line was cut")) }
}

fn cut(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(text: &str) -> Result<String, io::ErrorKind> {
        let mut from = text.as_bytes();
        let head = read_head(&mut from).await.unwrap().unwrap();
        let mut framing = Framing::of(&head).unwrap();
        let mut whole = Vec::new();
        let mut buffer = [0; 3];
        loop {
            match framing.read(&mut from, &mut buffer).await {
                Ok(0) => return Ok(String::from_utf8(whole).unwrap()),
                Ok(got) => whole.extend_from_slice(&buffer[..got]),
                Err(error) => return Err(error.kind()),
            }
        }
    }

    #[tokio::test]
    async fn a_body_ends_as_it_was_framed_or_is_known_to_be_cut() {
        let cut = Err(io::ErrorKind::UnexpectedEof);
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, more").await, Ok("hello".into()));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello").await, cut);
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nhello").await, Ok("hello".into()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n1\r\no\r\n0\r\n\r\n";
        assert_eq!(body(chunked).await, Ok("hello".into()));
        for missing in [2, 5, 6, 10] {
            assert_eq!(body(&chunked[..chunked.len() - missing]).await, cut, "{missing}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_cut_is_not_a_head() {
        assert_eq!(read_head(&mut "".as_bytes()).await.unwrap(), None);
        assert!(read_head(&mut "HTTP/1.1 200 OK\r\nA: b\r\n".as_bytes()).await.is_err());
        let head = read_head(&mut "HTTP/1.1 200 OK\r\nA-b: c: d \r\n\r\n".as_bytes()).await.unwrap().unwrap();
        assert_eq!(head.header("a-b"), Some("c: d"));
    }
}
