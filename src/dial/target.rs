//! Where a request goes, parsed once from its URI.

use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;
use rustls::pki_types::ServerName;

use super::DialError;

/// A DNS name in text form is at most this long without its final dot (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Host, port and scheme of a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub host: Host,
    pub port: u16,
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls,
}

/// A host as written in a URI. There is no third kind: what is neither is not dialled, so that no spelling of an address
/// reaches a resolver that would understand it (`0x7f.1`, `2130706433`, `127.1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    /// `localhost` or a name below it: always this machine (RFC 6761, 6.3).
    Local(String),
    /// A name for DNS in lower case, perhaps with a final dot.
    Name(String),
}

impl Target {
    /// # Errors
    /// [`DialError::Target`]
    pub(super) fn of(uri: &Uri) -> Result<Target, DialError> {
        let refuse = |why| DialError::Target { target: uri.host().unwrap_or_default().to_owned(), why };
        let transport = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => Transport::Plain,
            Some(scheme) if *scheme == Scheme::HTTPS => Transport::Tls,
            _ => return Err(refuse("the scheme is neither http nor https")),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refuse("a URL with credentials in it"));
        }
        let host = Host::parse(uri.host().unwrap_or_default()).map_err(refuse)?;
        let port = uri.port_u16().unwrap_or(match transport {
            Transport::Plain => 80,
            Transport::Tls => 443,
        });
        Ok(Target { host, port, transport })
    }
}

impl Host {
    /// Reads a URI's host: IPv6 in brackets (or, elsewhere than in a URI, without), IPv4 as four decimal numbers, else a DNS name.
    ///
    /// # Errors
    /// Why it is none of these.
    pub(super) fn parse(text: &str) -> Result<Host, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
            return address.map(|v6| Host::Address(IpAddr::V6(v6))).ok_or("not an IPv6 address");
        }
        if let Ok(address) = text.parse() {
            return Ok(Host::Address(address));
        }
        let name = text.to_ascii_lowercase();
        let bare = name.strip_suffix('.').unwrap_or(&name);
        if bare.is_empty() || bare.len() > MAX_NAME_BYTES || !bare.split('.').all(is_label) {
            return Err("not a DNS name");
        }
        // The last label of a name is never a number; parsers that think otherwise read such a host as an IPv4 address
        // (WHATWG URL, "ends in a number").
        if bare.rsplit('.').next().is_some_and(is_number) {
            return Err("an unusual spelling of an address");
        }
        if bare == "localhost" || bare.ends_with(".localhost") {
            return Ok(Host::Local(bare.to_owned()));
        }
        Ok(Host::Name(name))
    }

    /// # Errors
    /// [`DialError::Target`]
    pub(super) fn parse_name(text: &str) -> Result<Host, DialError> {
        Host::parse(text).map_err(|why| DialError::Target { target: text.to_owned(), why })
    }

    /// The name that the server's certificate must be for.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, DialError> {
        let refuse = || DialError::Target { target: self.to_string(), why: "no server name for TLS" };
        match self {
            Host::Address(address) => Ok(ServerName::from(*address)),
            Host::Local(name) | Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|_| refuse()),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Local(name) | Host::Name(name) => f.write_str(name),
        }
    }
}

/// Letters, digits, hyphens, and the underscore that private zones use.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_and_nothing_between() {
        let address = |text: &str| Ok(Host::Address(text.parse().unwrap()));
        let name = |text: &str| Ok(Host::Name(text.to_owned()));
        for (text, expected) in [
            ("127.0.0.1", address("127.0.0.1")),
            ("[::1]", address("::1")),
            ("[::ffff:10.0.0.1]", address("::ffff:10.0.0.1")),
            ("Registry-1.Docker.IO", name("registry-1.docker.io")),
            ("registry.example.", name("registry.example.")),
            ("3com.example", name("3com.example")),
            ("LocalHost.", Ok(Host::Local("localhost".to_owned()))),
            ("a.localhost", Ok(Host::Local("a.localhost".to_owned()))),
            ("2130706433", Err("an unusual spelling of an address")),
            ("0x7f000001", Err("an unusual spelling of an address")),
            ("0x7f.1", Err("an unusual spelling of an address")),
            ("127.1", Err("an unusual spelling of an address")),
            ("127.1.", Err("an unusual spelling of an address")),
            ("0177.0.0.1", Err("an unusual spelling of an address")),
            ("127.0.0.1.", Err("an unusual spelling of an address")),
            ("127.0.0.0x1", Err("an unusual spelling of an address")),
            ("1.2.3.4.5", Err("an unusual spelling of an address")),
            ("256.0.0.1", Err("an unusual spelling of an address")),
            ("[fe80::1%25eth0]", Err("not an IPv6 address")),
            ("[v1.x]", Err("not an IPv6 address")),
            ("", Err("not a DNS name")),
            (".", Err("not a DNS name")),
            ("a..b", Err("not a DNS name")),
            ("a%2eb", Err("not a DNS name")),
            ("127。0。0。1", Err("not a DNS name")),
        ] {
            assert_eq!(Host::parse(text), expected, "{text}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)), Err("not a DNS name"));
        assert_eq!(Host::parse(&["a.", &"abc.".repeat(63), "abc"].concat()), Err("not a DNS name"));
    }

    #[test]
    fn a_target_has_the_port_of_its_scheme() {
        let target = |text: &str| Target::of(&text.parse().unwrap());
        assert_eq!(target("http://a.example/x").unwrap().port, 80);
        assert_eq!(target("https://a.example/x").unwrap().port, 443);
        assert_eq!(target("https://[::1]:5000/").unwrap().port, 5000);
        for refused in ["ftp://a.example/", "/v2/", "http://user:word@a.example/", "http://127.1/"] {
            assert!(matches!(target(refused), Err(DialError::Target { .. })), "{refused}");
        }
        let error = target("http://user:word@a.example/").unwrap_err().to_string();
        assert!(!error.contains("word"), "{error}");
    }
}
