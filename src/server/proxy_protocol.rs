//! The header by which a load balancer tells whom it speaks for, before anything else on a connection: the PROXY protocol, versions 1
//! and 2 (haproxy, "The PROXY protocol", sections 2.1 and 2.2). Nothing behind the header is read here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::access::canonical;

/// What a header of version 2 begins with. No text, and no TLS, begins like this.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_BYTES: usize = SIGNATURE.len() + 4;
/// What a header of version 1 begins with, and how long it can be with its line's end.
const WORD: &[u8] = b"PROXY ";
const MAX_LINE_BYTES: usize = 107;
/// Of a header of version 2 behind its fixed part: addresses, and what a balancer adds of its own (certificates' names, endpoints' ids).
const MAX_BODY_BYTES: usize = 4096;
/// Addresses and ports of version 2.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// So many more bytes, at least, belong to the header.
    Partial(usize),
    /// The whole header: the client's address, or none where the balancer speaks for itself, as in its health checks.
    Header(Option<IpAddr>),
    Malformed,
}

/// Judges what has come so far, which is never more than the header.
pub fn judge(bytes: &[u8]) -> Found {
    let begins = |whole: &[u8]| bytes.iter().zip(whole).all(|(one, other)| one == other);
    match SIGNATURE.len().checked_sub(bytes.len()) {
        // The shortest line of version 1 is longer than the signature of version 2.
        Some(missing @ 1..) if begins(SIGNATURE) || begins(WORD) => Found::Partial(missing),
        _ if begins(SIGNATURE) => binary(bytes),
        _ if begins(WORD) => line(bytes),
        _ => Found::Malformed,
    }
}

fn line(bytes: &[u8]) -> Found {
    let (text, missing) = match (bytes.strip_suffix(b"\r\n"), bytes.strip_suffix(b"\r")) {
        (Some(text), _) => (text, 0),
        (None, Some(text)) => (text, 1),
        (None, None) => (bytes, 2),
    };
    if bytes.len() + missing > MAX_LINE_BYTES || text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Found::Malformed;
    }
    if missing > 0 {
        return Found::Partial(missing);
    }
    let fields: Vec<&str> = std::str::from_utf8(text).unwrap_or_default().split(' ').collect();
    match fields[..] {
        ["PROXY", "UNKNOWN", ..] => Found::Header(None),
        ["PROXY", "TCP4", source, target, from, to] => addresses::<Ipv4Addr>([source, target], [from, to]),
        ["PROXY", "TCP6", source, target, from, to] => addresses::<Ipv6Addr>([source, target], [from, to]),
        _ => Found::Malformed,
    }
}

fn addresses<A: std::str::FromStr + Into<IpAddr>>([source, target]: [&str; 2], ports: [&str; 2]) -> Found {
    let is_port = |text: &&str| text.parse::<u16>().is_ok_and(|port| port.to_string() == **text);
    match (source.parse::<A>(), target.parse::<A>()) {
        (Ok(source), Ok(_)) if ports.iter().all(is_port) => Found::Header(Some(canonical(source.into()))),
        _ => Found::Malformed,
    }
}

fn binary(bytes: &[u8]) -> Found {
    let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) else { return Found::Partial(HEAD_BYTES - bytes.len()) };
    let &[command, family, high, low] = &head[SIGNATURE.len()..] else { return Found::Malformed };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let source = match (command, family) {
        // LOCAL: whatever follows is to be passed over. And what the sender cannot name.
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => IPV4_BYTES,
        (0x21, 0x21) => IPV6_BYTES,
        _ => return Found::Malformed,
    };
    if length > MAX_BODY_BYTES || length < source || body.len() > length {
        return Found::Malformed;
    }
    if body.len() < length {
        return Found::Partial(length - body.len());
    }
    let address = match source {
        IPV4_BYTES => body.first_chunk().copied().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into()),
        IPV6_BYTES => body.first_chunk().copied().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    Found::Header(address.map(canonical))
}

/// Reads the header and not a byte more. The caller bounds the time.
///
/// # Errors
/// The connection ended, or does not begin with a header (`InvalidData`).
pub async fn read<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<Option<IpAddr>> {
    let mut header = Vec::new();
    loop {
        let missing = match judge(&header) {
            Found::Partial(missing) => missing,
            Found::Header(client) => return Ok(client),
            Found::Malformed => return Err(io::ErrorKind::InvalidData.into()),
        };
        let so_far = header.len();
        header.resize(so_far + missing, 0);
        stream.read_exact(&mut header[so_far..]).await?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary_header(command: u8, family: u8, length: u16, body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &length.to_be_bytes(), body].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0, 80, 1, 187];

    fn address(text: &str) -> Found {
        Found::Header(Some(text.parse().unwrap()))
    }

    #[test]
    fn lines_of_version_1() {
        for (line, found) in [
            ("PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n", address("203.0.113.9")),
            ("PROXY TCP6 2001:db8::9 fd00::1 1 65535\r\n", address("2001:db8::9")),
            ("PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", address("203.0.113.9")),
            ("PROXY UNKNOWN\r\n", Found::Header(None)),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", Found::Header(None)),
            ("PROXY TCP4 203.0.113.9 10.0.0.1 56324\r\n", Found::Malformed),
            ("PROXY TCP4 203.0.113.9 10.0.0.1 56324 443 1\r\n", Found::Malformed),
            ("PROXY TCP4  203.0.113.9 10.0.0.1 56324 443\r\n", Found::Malformed),
            ("PROXY TCP4 203.0.113.09 10.0.0.1 56324 443\r\n", Found::Malformed),
            ("PROXY TCP4 203.0.113.9 10.0.0.1 056324 443\r\n", Found::Malformed),
            ("PROXY TCP4 203.0.113.9 10.0.0.1 +1 443\r\n", Found::Malformed),
            ("PROXY TCP4 203.0.113.9 10.0.0.1 1 65536\r\n", Found::Malformed),
            ("PROXY TCP4 2001:db8::9 fd00::1 1 2\r\n", Found::Malformed),
            ("PROXY TCP6 203.0.113.9 10.0.0.1 1 2\r\n", Found::Malformed),
            ("PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n", Found::Malformed),
            ("PROXY UNKNOWN a\nb\r\n", Found::Malformed),
            ("PROXY UNKNOWN a\rb\r\n", Found::Malformed),
            ("PROXY UNKNOWN", Found::Partial(2)),
            ("PROXY TCP4 a\n", Found::Malformed),
            ("PROXY UNKNOWN a\rb", Found::Malformed),
            ("proxy TCP4 203.0.113.9 10.0.0.1 1 2\r\n", Found::Malformed),
            ("GET / HTTP/1.1\r\n", Found::Malformed),
            ("\x16\x03\x01", Found::Malformed),
            ("PROX", Found::Partial(8)),
            ("", Found::Partial(12)),
        ] {
            assert_eq!(judge(line.as_bytes()), found, "{line:?}");
        }
        let long = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "a".repeat(bytes - 16));
        assert!(long(MAX_LINE_BYTES).len() == MAX_LINE_BYTES);
        assert_eq!(judge(&long(MAX_LINE_BYTES).as_bytes()[..MAX_LINE_BYTES - 1]), Found::Partial(1));
        assert_eq!(judge(&long(MAX_LINE_BYTES + 1).as_bytes()[..MAX_LINE_BYTES]), Found::Malformed);
    }

    #[test]
    fn headers_of_version_2() {
        let v6 = [[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9].as_slice(), &[0; 20]].concat();
        let with_more = [&V4[..], &[4, 0, 1, 0]].concat();
        for (header, found) in [
            (binary_header(0x21, 0x11, 12, &V4), address("203.0.113.9")),
            (binary_header(0x21, 0x21, 36, &v6), address("2001:db8::9")),
            (binary_header(0x21, 0x11, 16, &with_more), address("203.0.113.9")),
            (binary_header(0x20, 0x00, 0, &[]), Found::Header(None)),
            (binary_header(0x20, 0x11, 12, &V4), Found::Header(None)),
            (binary_header(0x21, 0x00, 0, &[]), Found::Header(None)),
            (binary_header(0x21, 0x11, 11, &V4[..11]), Found::Malformed),
            (binary_header(0x21, 0x12, 12, &V4), Found::Malformed),
            (binary_header(0x21, 0x31, 216, &[0; 216]), Found::Malformed),
            (binary_header(0x22, 0x11, 12, &V4), Found::Malformed),
            (binary_header(0x11, 0x11, 12, &V4), Found::Malformed),
            (binary_header(0x21, 0x11, 4097, &V4), Found::Malformed),
            (binary_header(0x21, 0x11, 4096, &V4), Found::Partial(4084)),
            (SIGNATURE.to_vec(), Found::Partial(4)),
        ] {
            assert_eq!(judge(&header), found, "{header:?}");
        }
    }

    #[tokio::test]
    async fn not_a_byte_behind_the_header_is_read() {
        for header in [b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n".to_vec(), binary_header(0x21, 0x11, 12, &V4)] {
            let stream = [&header[..], b"rest"].concat();
            let mut stream = &stream[..];
            assert_eq!(read(&mut stream).await.unwrap(), Some("203.0.113.9".parse().unwrap()));
            assert_eq!(stream, b"rest");
            for cut in 0..header.len() {
                assert_eq!(read(&mut &header[..cut]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_wanted_next_is_bounded_and_never_too_much(bytes in prop::collection::vec(any::<u8>(), 0..64), version in 0..3_usize) {
            let start: &[u8] = [&[][..], WORD, SIGNATURE][version];
            let mut bytes = [start, &bytes].concat();
            // As the reader does: it never has more than was asked for.
            let mut here = 0;
            while let Found::Partial(missing) = judge(&bytes[..here]) {
                prop_assert!((1..=MAX_BODY_BYTES).contains(&missing) && here + missing <= HEAD_BYTES + MAX_BODY_BYTES);
                here += missing;
                bytes.resize(bytes.len().max(here), b'x');
            }
        }

        #[test]
        fn any_address_is_read_back(source: [u8; 4], v6: [u8; 16], port: u16) {
            let (v4, v6) = (Ipv4Addr::from(source), Ipv6Addr::from(v6));
            let text = format!("PROXY TCP4 {v4} 10.0.0.1 {port} 443\r\n");
            prop_assert_eq!(judge(text.as_bytes()), Found::Header(Some(v4.into())));
            let text = format!("PROXY TCP6 {v6} ::1 {port} 443\r\n");
            prop_assert_eq!(judge(text.as_bytes()), Found::Header(Some(canonical(v6.into()))));
            let body = [&v6.octets()[..], &[0; 20]].concat();
            prop_assert_eq!(judge(&binary_header(0x21, 0x21, 36, &body)), Found::Header(Some(canonical(v6.into()))));
        }
    }
}
