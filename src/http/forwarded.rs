//! Where a request comes from: what trusted proxies wrote into its head, and nothing that anybody else did.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use super::connection::Connection;
use crate::access::{canonical, is_in};
use crate::config::ForwardingHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies before proxies that are followed, at most.
const MAX_HOPS: usize = 32;

/// The address that a request comes from. Each proxy adds to the right whom it took the request from, so the list is read from there:
/// what the first one that is not trusted says of others is its own invention. Where a trusted proxy names nobody, it is the client.
pub fn client(connection: &Connection, headers: &HeaderMap) -> IpAddr {
    let (proxies, mut nearest) = (&connection.proxies, canonical(connection.client));
    if !is_in(&proxies.ranges, nearest) {
        return nearest;
    }
    let name = match proxies.header {
        ForwardingHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardingHeader::Forwarded => FORWARDED,
    };
    let lines = headers.get_all(name).iter().rev();
    // What is no text ends the list: to its left nothing can be told.
    let elements = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    for element in elements.take(MAX_HOPS) {
        let address = match proxies.header {
            ForwardingHeader::XForwardedFor => address(element.trim()),
            ForwardingHeader::Forwarded => forwarded_for(element),
        };
        let Some(address) = address else { break };
        nearest = address;
        if !is_in(&proxies.ranges, nearest) {
            break;
        }
    }
    nearest
}

/// The node that one element of `Forwarded` names (RFC 7239, section 4). No address has a comma or a semicolon, so that quotes need not
/// be told apart: a quoted one that is cut makes an element that cannot be read.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let (node, None) = (nodes.next()?, nodes.next()) else { return None };
    let unquoted = node.strip_prefix('"').map_or(Some(node), |rest| rest.strip_suffix('"'))?;
    address(unquoted)
}

/// An address, with a port or without, IPv6 in brackets or without.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed).map(canonical)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::config::TrustedProxies;

    fn client_of(peer: &str, header: ForwardingHeader, lines: &[(&str, &str)]) -> String {
        let ranges = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec();
        let proxies = Arc::new(TrustedProxies { ranges, header, proxy_protocol: false });
        let connection = Connection { proxies, ..Connection::plain(SocketAddr::new(peer.parse().unwrap(), 1)) };
        let headers = lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()));
        client(&connection, &headers.collect()).to_string()
    }

    #[test]
    fn row_84_only_trusted_proxies_say_where_a_client_is() {
        let by = |peer: &str, lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            client_of(peer, ForwardingHeader::XForwardedFor, &lines)
        };
        for (peer, lines, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("fd00::1", &["2001:db8::9"], "2001:db8::9"),
            // The client's own invention stands to the left of where it really is.
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9 , 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::9]:4711"], "2001:db8::9"),
            ("10.0.0.1", &["[2001:db8::9]"], "2001:db8::9"),
            // Who cannot be told is whoever told it.
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(by(peer, lines), expected, "{peer} {lines:?}");
        }
        let long = vec!["10.0.0.2"; 1000].join(",");
        assert_eq!(by("10.0.0.1", &[&format!("203.0.113.9,{long}")]), "10.0.0.2");
    }

    #[test]
    fn row_84_a_header_that_the_proxies_do_not_write_says_nothing() {
        let both = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "203.0.113.9"), ("x-real-ip", "198.51.100.2")];
        assert_eq!(client_of("10.0.0.1", ForwardingHeader::XForwardedFor, &both), "203.0.113.9");
        assert_eq!(client_of("10.0.0.1", ForwardingHeader::Forwarded, &both), "198.51.100.1");
        assert_eq!(client_of("10.0.0.1", ForwardingHeader::Forwarded, &both[1..]), "10.0.0.1");
    }

    #[test]
    fn elements_of_forwarded() {
        for (value, expected) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("For=\"203.0.113.9:80\";proto=https;by=10.0.0.1", "203.0.113.9"),
            ("proto=http; for=\"[2001:db8::9]:80\"", "2001:db8::9"),
            ("for=198.51.100.1, for=203.0.113.9", "203.0.113.9"),
            ("for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("for=203.0.113.9;for=198.51.100.1", "10.0.0.1"),
            ("for=\"203.0.113.9", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client_of("10.0.0.1", ForwardingHeader::Forwarded, &[("forwarded", value)]), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn row_84_whatever_a_stranger_writes_its_own_address_counts(value in "[ -~]{0,60}") {
            for header in [ForwardingHeader::XForwardedFor, ForwardingHeader::Forwarded] {
                let lines = [("x-forwarded-for", value.as_str()), ("forwarded", value.as_str())];
                prop_assert_eq!(client_of("192.0.2.1", header, &lines), "192.0.2.1");
            }
        }

        #[test]
        fn row_84_whatever_stands_to_the_left_the_last_stranger_counts(value in "[ -~]{0,60}") {
            let lines = [("x-forwarded-for", format!("{value},203.0.113.9"))];
            let lines = lines.each_ref().map(|(name, value)| (*name, value.as_str()));
            prop_assert_eq!(client_of("10.0.0.1", ForwardingHeader::XForwardedFor, &lines), "203.0.113.9");
        }
    }
}
