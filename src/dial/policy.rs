//! Which addresses may be dialled. Judged on the very addresses that are dialled, after resolution, so that a name which
//! changes its address between check and connection (rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::DialError;
use super::target::Host;

/// One upstream's address policy: the public internet, and what the operator opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    networks: Vec<IpNet>,
    literals: Vec<IpAddr>,
    localhost: Localhost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Localhost {
    #[default]
    Closed,
    Named,
}

impl Policy {
    /// `named_hosts` are those that the configuration writes literally. An address among them opens itself, `localhost` opens
    /// itself; a DNS name opens nothing, since whoever runs its zone chooses the address.
    pub(super) fn new(networks: Vec<IpNet>, named_hosts: &[String]) -> Policy {
        let mut policy = Policy { networks, ..Policy::default() };
        for named in named_hosts {
            match Host::parse(named) {
                Ok(Host::Address(address)) => policy.literals.push(address.to_canonical()),
                Ok(Host::Local(name)) if name == "localhost" => policy.localhost = Localhost::Named,
                Ok(Host::Local(_) | Host::Name(_)) | Err(_) => {}
            }
        }
        policy
    }

    /// The addresses of `host` that may be dialled, in their order, IPv4-mapped ones as IPv4.
    ///
    /// # Errors
    /// [`DialError::Refused`] when none is left.
    pub(super) fn admitted(&self, host: &Host, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, DialError> {
        let mut admitted = Vec::new();
        let mut refused = None;
        for address in addresses.iter().map(IpAddr::to_canonical) {
            match special_use(address) {
                Some(why) if !self.opens(host, address) => {
                    refused.get_or_insert((address, why));
                }
                _ => admitted.push(address),
            }
        }
        match refused {
            Some((address, why)) if admitted.is_empty() => Err(DialError::Refused { host: host.to_string(), address, why }),
            _ => Ok(admitted),
        }
    }

    fn opens(&self, host: &Host, address: IpAddr) -> bool {
        let named = match host {
            Host::Address(_) => self.literals.contains(&address),
            Host::Local(name) => name == "localhost" && self.localhost == Localhost::Named,
            Host::Name(_) => false,
        };
        let inner = embedded(address).map(IpAddr::V4);
        named || self.networks.iter().any(|network| network.contains(&address) || inner.is_some_and(|inner| network.contains(&inner)))
    }
}

/// Why an address is not one of the public internet; `None` for one that is. After the IANA registries of special-purpose
/// addresses (RFC 6890): for IPv6 everything outside global unicast is special.
fn special_use(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) => special_use_v4(v4),
        IpAddr::V6(v6) => special_use_v6(v6),
    }
}

fn special_use_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "an unspecified address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address (RFC 1918)",
        [100, 64..=127, ..] => "a carrier's private address (RFC 6598)",
        [127, ..] => "a loopback address",
        [169, 254, ..] => "a link-local address",
        [192, 0, 0, _] | [192, 88, 99, _] => "an address for protocols",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "an address for documentation",
        [198, 18..=19, ..] => "an address for benchmarks",
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved address",
        // Public by its range, yet it answers inside every virtual machine on Azure, as 169.254.169.254 does.
        [168, 63, 129, 16] => "a cloud platform's own address",
        _ => return None,
    })
}

fn special_use_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = embedded(IpAddr::V6(address)) {
        return special_use_v4(inner);
    }
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "an unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        [0xfc00..=0xfdff, ..] => "a private address (RFC 4193)",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "an address for documentation",
        // Teredo among them, which hides an IPv4 address.
        [0x2001, 0..=0x1ff, ..] => "an address for protocols",
        [0x2000..=0x3fff, ..] => return None,
        _ => "a reserved address",
    })
}

/// The IPv4 address that a packet to this IPv6 address ends at: NAT64's well-known prefix (RFC 6052), 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    match (v6.segments(), v6.octets()) {
        ([0x64, 0xff9b, 0, 0, 0, 0, ..], [.., a, b, c, d]) | ([0x2002, ..], [_, _, a, b, c, d, ..]) => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(policy: &Policy, host: &str, address: &str) -> bool {
        policy.admitted(&Host::parse(host).unwrap(), &[address.parse().unwrap()]).is_ok()
    }

    #[test]
    fn the_public_internet_is_open_and_nothing_else() {
        let policy = Policy::default();
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "169.253.0.1",
            "198.17.0.1",
            "223.255.255.255",
            "2606:4700::1",
            "2001:4860::1",
            "3fff:1000::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(admits(&policy, "a.example", public), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!admits(&policy, "a.example", special), "{special}");
        }
    }

    #[test]
    fn private_networks_open_what_they_contain_in_every_spelling() {
        let policy = Policy::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], &[]);
        for open in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1", "fd12::1"] {
            assert!(admits(&policy, "a.example", open), "{open}");
        }
        for closed in ["127.0.0.1", "192.168.0.1", "fc00::1", "::10.1.2.3", "::ffff:192.168.0.1"] {
            assert!(!admits(&policy, "a.example", closed), "{closed}");
        }
    }

    #[test]
    fn a_named_literal_opens_itself_only() {
        let names = ["10.0.0.5", "::1", "[fd00::7]", "localhost", "internal.example"].map(str::to_owned);
        let policy = Policy::new(Vec::new(), &names);
        for (host, address, open) in [
            ("10.0.0.5", "10.0.0.5", true),
            ("[::ffff:10.0.0.5]", "::ffff:10.0.0.5", true),
            ("10.0.0.6", "10.0.0.6", false),
            ("[::1]", "::1", true),
            ("[fd00::7]", "fd00::7", true),
            ("localhost", "127.0.0.1", true),
            ("localhost", "::1", true),
            ("other.localhost", "127.0.0.1", false),
            // A name opens nothing, even one that the configuration names or that points at a named literal.
            ("internal.example", "10.0.0.5", false),
            ("evil.example", "10.0.0.5", false),
            ("evil.example", "127.0.0.1", false),
        ] {
            assert_eq!(admits(&policy, host, address), open, "{host} at {address}");
        }
        assert!(!admits(&Policy::default(), "localhost", "127.0.0.1"));
    }

    #[test]
    fn refused_addresses_are_left_out_while_others_are_there() {
        let host = Host::parse("a.example").unwrap();
        let addresses = ["127.0.0.1", "::ffff:1.1.1.1", "2606:4700::1"].map(|text| text.parse().unwrap());
        let left = Policy::default().admitted(&host, &addresses).unwrap();
        assert_eq!(left, ["1.1.1.1", "2606:4700::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        let error = Policy::default().admitted(&host, &addresses[..1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.example is at 127.0.0.1, a loopback address: not dialled unless private_networks of this upstream contains it"
        );
    }
}
