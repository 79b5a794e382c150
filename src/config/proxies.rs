//! `trusted_proxies` and what belongs to it: who may say where the clients of a listener come from.

use ipnet::IpNet;

use super::reader::Section;

/// The proxies and load balancers before a listener. From nobody else is it believed where a client is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustedProxies {
    pub ranges: Vec<IpNet>,
    pub header: ForwardingHeader,
    /// Whether connections from them begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// The request header in which a proxy notes whom it speaks for. There is one: a proxy that writes one of them passes the other on as the
/// client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardingHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

pub(super) fn read(section: &mut Section<'_, '_, '_>) -> TrustedProxies {
    let ranges: Vec<IpNet> = section.list("trusted_proxies");
    let header = section.or("forwarding_header", ForwardingHeader::default());
    let proxy_protocol = section.or("proxy_protocol", false);
    if proxy_protocol && ranges.is_empty() {
        section.fault("proxy_protocol", "is true, but trusted_proxies names nobody who may use it");
    }
    if let Some(index) = ranges.iter().position(|range| range.prefix_len() == 0) {
        section.fault_at("trusted_proxies", index, "is everybody: any client could say that it comes from anywhere");
    }
    TrustedProxies { ranges, header, proxy_protocol }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{faults, parse};

    #[test]
    fn each_listener_has_its_own_proxies_and_rules() {
        let text = r#"
            [listen]
            trusted_proxies = ["10.0.0.1/32"]
            [[listen.also]]
            address = "127.0.0.1:5002"
            trusted_proxies = ["::1/128"]
            forwarding_header = "forwarded"
            proxy_protocol = true
            rules = [{ allow = ["192.168.0.0/16"] }, { default = "allow", roles = ["Owner"] }]
        "#;
        let listen = parse(text).unwrap().listen;
        assert_eq!(listen.proxies, TrustedProxies { ranges: vec!["10.0.0.1/32".parse().unwrap()], ..TrustedProxies::default() });
        let also = &listen.also[0];
        let ranges = vec!["::1/128".parse().unwrap()];
        assert_eq!(also.proxies, TrustedProxies { ranges, header: ForwardingHeader::Forwarded, proxy_protocol: true });
        assert_eq!(also.rules.len(), 2);
    }

    #[test]
    fn what_trusts_everybody_or_nobody_is_told() {
        for (lines, expected) in [
            ("proxy_protocol = true", "listen.proxy_protocol: is true, but trusted_proxies names nobody who may use it"),
            (
                "trusted_proxies = [\"10.0.0.0/8\", \"::/0\"]",
                "listen.trusted_proxies[1]: is everybody: any client could say that it comes from anywhere",
            ),
            ("forwarding_header = \"via\"", r#"listen.forwarding_header: "via" is neither "x-forwarded-for" nor "forwarded""#),
        ] {
            let found = faults(&format!("[listen]\n{lines}"));
            assert!(found.len() == 1 && found[0].ends_with(&format!(" {expected}")), "{lines}: {found:?}");
        }
    }
}
