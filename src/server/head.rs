//! Is the head of an HTTP/1 request one that everybody reads in the same way? Pure: bytes in, verdict out.
//!
//! hyper reads heads leniently where RFC 9112 allows it: it takes a bare LF as the end of a line, drops `Content-Length` when
//! `Transfer-Encoding` is there too, folds equal lengths into one, and accepts any list of codings that ends in `chunked`. Each of
//! these is a way to smuggle a request past a proxy that reads it otherwise. So a head is judged here, as bytes, before hyper gets
//! it. `httparse`, which hyper uses, does the parsing: what it refuses hyper would have refused.

use std::mem::MaybeUninit;

use super::refusal::Refusal;

/// Bytes of a request's target, at most; RFC 9112 section 3 asks for at least 8,000.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;
/// Bytes of a whole head, at most.
pub const MAX_HEAD_BYTES: usize = 24 * 1024;
/// Header fields, at most: hyper's own bound.
const MAX_FIELDS: usize = 100;
/// Method, spaces and version beside the target.
const REQUEST_LINE_SLACK_BYTES: usize = 64;

/// How long the body that follows a head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// Looks for the end of a head as its bytes arrive; each byte is looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Bytes looked at.
    at: usize,
    line_start: usize,
    /// Whether the request line is behind us. Empty lines before it are allowed (RFC 9112 section 2.2).
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Partial,
    /// The head is the first so many bytes.
    End(usize),
    Refused(Refusal),
}

impl Scan {
    /// `bytes` starts where the head starts, and only ever grows from call to call.
    pub fn advance(&mut self, bytes: &[u8]) -> Found {
        while let Some(step) = bytes.get(self.at..).and_then(|fresh| memchr::memchr(b'\n', fresh)) {
            let line_end = self.at + step;
            let line = bytes.get(self.line_start..line_end).unwrap_or_default();
            self.at = line_end + 1;
            self.line_start = self.at;
            match line {
                b"\r" if self.begun => return self.bounded(self.at, Found::End(self.at)),
                b"\r" => {}
                [.., b'\r'] if !self.begun && line.len() > MAX_TARGET_BYTES + REQUEST_LINE_SLACK_BYTES => {
                    return Found::Refused(Refusal::TargetTooLong);
                }
                [.., b'\r'] => self.begun = true,
                _ => return Found::Refused(Refusal::Malformed),
            }
        }
        self.at = bytes.len();
        if !self.begun && bytes.len() - self.line_start > MAX_TARGET_BYTES + REQUEST_LINE_SLACK_BYTES {
            return Found::Refused(Refusal::TargetTooLong);
        }
        self.bounded(bytes.len(), Found::Partial)
    }

    fn bounded(&self, size_bytes: usize, found: Found) -> Found {
        if size_bytes > MAX_HEAD_BYTES { Found::Refused(Refusal::HeadTooLarge) } else { found }
    }
}

/// Judges a complete head, up to and including its empty line.
///
/// # Errors
/// The refusal that the client gets.
pub fn judge(head: &[u8]) -> Result<Framing, Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(size)) if size == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        _ => return Err(Refusal::Malformed),
    }
    let target = request.path.unwrap_or_default();
    if target.len() > MAX_TARGET_BYTES {
        return Err(Refusal::TargetTooLong);
    }
    if !target_is_clear(request.method.unwrap_or_default(), target) {
        return Err(Refusal::Malformed);
    }
    framing(request.headers, request.version)
}

/// Bytes that may stand anywhere in a path or a query.
const IS_ORDINARY: [bool; 256] = {
    let mut is_ordinary = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        is_ordinary[byte] = it.is_ascii_alphanumeric() || matches!(it, b'/' | b'-' | b'.' | b'_' | b':' | b'?' | b'=' | b'&' | b'%');
        byte += 1;
    }
    is_ordinary
};

/// The four forms of RFC 9112 section 3.2, each only where it belongs.
fn target_is_clear(method: &str, target: &str) -> bool {
    // What nearly all targets are made of is clear without being parsed.
    if target.starts_with('/') && method != "CONNECT" && target.bytes().fold(true, |all, byte| all & IS_ORDINARY[usize::from(byte)]) {
        return true;
    }
    let Ok(uri) = target.parse::<http::Uri>() else { return false };
    match method {
        "CONNECT" => uri.scheme().is_none() && uri.authority().is_some(),
        "OPTIONS" if target == "*" => true,
        _ => target.starts_with('/') || uri.scheme().is_some(),
    }
}

/// RFC 9112 section 6.3, without its leniencies: one length or one coding, never both.
fn framing(fields: &[httparse::Header<'_>], minor_version: Option<u8>) -> Result<Framing, Refusal> {
    let mut framing = None;
    for field in fields {
        let found = if field.name.eq_ignore_ascii_case("content-length") {
            Framing::Length(length(field.value)?)
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if minor_version != Some(1) || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed);
            }
            Framing::Chunked
        } else {
            continue;
        };
        if framing.replace(found).is_some() {
            return Err(Refusal::Malformed);
        }
    }
    Ok(framing.unwrap_or(Framing::Length(0)))
}

/// `1*DIGIT` and nothing else. The largest values have a meaning inside hyper, so they are refused like an overflow.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Malformed);
    }
    let digits = std::str::from_utf8(value).map_err(|_| Refusal::Malformed)?;
    let length: u64 = digits.parse().map_err(|_| Refusal::Malformed)?;
    if length > u64::MAX / 2 { Err(Refusal::Malformed) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_judged() {
        let malformed = Err(Refusal::Malformed);
        let fields: &[(&str, Result<Framing, Refusal>)] = &[
            ("", Ok(Framing::Length(0))),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("Transfer-Encoding: Chunked \r\n", Ok(Framing::Chunked)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", malformed),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", malformed),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", malformed),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", malformed),
            ("Content-Length: 5, 5\r\n", malformed),
            ("Content-Length: +5\r\n", malformed),
            ("Content-Length: 0x5\r\n", malformed),
            ("Content-Length: -1\r\n", malformed),
            ("Content-Length:\r\n", malformed),
            ("Content-Length: 18446744073709551616\r\n", malformed),
            ("Content-Length: 18446744073709551615\r\n", malformed),
            ("Transfer-Encoding: xchunked\r\n", malformed),
            ("Transfer-Encoding: gzip, chunked\r\n", malformed),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", malformed),
            ("Transfer-Encoding: \x0bchunked\r\n", malformed),
            ("A: b\r\n folded\r\n", malformed),
            (" A: b\r\n", malformed),
            ("A : b\r\n", malformed),
            ("A: b\0\r\n", malformed),
            ("nocolon\r\n", malformed),
            (": empty\r\n", malformed),
        ];
        for (fields, verdict) in fields {
            let head = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(judge(head.as_bytes()), *verdict, "{fields:?}");
        }
        let lines: &[(&str, Result<Framing, Refusal>)] = &[
            ("GET /v2/ HTTP/1.0\r\n\r\n", Ok(Framing::Length(0))),
            ("\r\nGET /v2/ HTTP/1.1\r\n\r\n", Ok(Framing::Length(0))),
            ("GET /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", malformed),
            ("GET  /v2/ HTTP/1.1\r\n\r\n", malformed),
            ("GET /v2/\r\n\r\n", malformed),
            ("GET /v2/ HTTP/2.0\r\n\r\n", malformed),
            ("G@T /v2/ HTTP/1.1\r\n\r\n", malformed),
            ("GET relative HTTP/1.1\r\n\r\n", malformed),
        ];
        for (head, verdict) in lines {
            assert_eq!(judge(head.as_bytes()), *verdict, "{head:?}");
        }
        for method in ["GET", "OPTIONS", "CONNECT"] {
            for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_control()) {
                for target in [vec![b'/', byte], vec![b'/', byte, b'/', byte], vec![b'/', b'?', byte]] {
                    let head = [method.as_bytes(), b" ", &target, b" HTTP/1.1\r\n\r\n"].concat();
                    let is_parsed = str::from_utf8(&target).is_ok_and(|target| target.parse::<http::Uri>().is_ok());
                    let is_clear = is_parsed && method != "CONNECT" && byte != b' ';
                    assert_eq!(judge(&head).is_ok(), is_clear, "{method} {target:?}");
                }
            }
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(judge(many.as_bytes()), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_arrives() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nrest";
        let end = bytes.len() - 4;
        assert_eq!(Scan::default().advance(bytes), Found::End(end));
        let mut scan = Scan::default();
        for size in 0..end {
            assert_eq!(scan.advance(&bytes[..size]), Found::Partial, "{size}");
        }
        assert_eq!(scan.advance(&bytes[..end]), Found::End(end));
    }

    #[test]
    fn a_head_has_bounds() {
        let cases = [
            ("GET / HTTP/1.1\n".to_owned(), Refusal::Malformed),
            ("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n".to_owned(), Refusal::Malformed),
            ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), Refusal::Malformed),
            (format!("GET /{}", "a".repeat(64 * 1024)), Refusal::TargetTooLong),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64 * 1024)), Refusal::TargetTooLong),
            (format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(64 * 1024)), Refusal::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(64 * 1024)), Refusal::HeadTooLarge),
        ];
        for (bytes, refusal) in cases {
            assert_eq!(Scan::default().advance(bytes.as_bytes()), Found::Refused(refusal), "{:.40}", bytes);
        }
    }
}
