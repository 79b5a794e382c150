//! Where callers may come from: lists of address ranges. An IPv4 address that is written as IPv6 is the IPv4 address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::role::Role;

/// What holds for an address that neither list names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    #[default]
    Deny,
    Allow,
}

/// One rule. Of the ranges that hold an address the longest decides; of equally long ones, denial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkRule {
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub otherwise: Otherwise,
    /// The roles that count only where this rule allows; none: the registry as a whole.
    pub roles: Vec<Role>,
}

impl NetworkRule {
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        match (longest_that_holds(&self.allow, address), longest_that_holds(&self.deny, address)) {
            (None, None) => self.otherwise == Otherwise::Allow,
            (allowed, denied) => allowed > denied,
        }
    }
}

/// Whether all rules for the registry as a whole let an address in.
pub fn admits(rules: &[NetworkRule], address: IpAddr) -> bool {
    rules.iter().filter(|rule| rule.roles.is_empty()).all(|rule| rule.allows(address))
}

/// Whether all rules for a role let it count at an address.
pub fn admits_role(rules: &[NetworkRule], role: Role, address: IpAddr) -> bool {
    rules.iter().filter(|rule| rule.roles.contains(&role)).all(|rule| rule.allows(address))
}

/// The bits of the longest range that holds an address, which is [`canonical`].
pub fn longest_that_holds(ranges: &[IpNet], address: IpAddr) -> Option<u8> {
    ranges.iter().filter(|range| holds(range, address)).map(IpNet::prefix_len).max()
}

/// Whether one of the ranges holds an address.
pub fn is_in(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = canonical(address);
    ranges.iter().any(|range| holds(range, address))
}

/// The address that is meant: an IPv4-mapped IPv6 address is IPv4 (RFC 4291, section 2.5.5.2).
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    }
}

/// What one client has: an IPv4 address, or a network of 64 bits, which is the least that anybody is given (RFC 6177).
pub fn client_network(address: IpAddr) -> IpAddr {
    const HOST: u128 = (1 << 64) - 1;
    match canonical(address) {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !HOST)),
        v4 => v4,
    }
}

/// A range of mapped addresses is the range of the addresses that are meant.
fn holds(range: &IpNet, address: IpAddr) -> bool {
    const MAPPED_BITS: u8 = 96;
    match (range, address) {
        (IpNet::V6(v6), IpAddr::V4(v4)) => v6.prefix_len() >= MAPPED_BITS && v6.contains(&v4.to_ipv6_mapped()),
        (IpNet::V6(v6), IpAddr::V6(address)) => v6.contains::<&Ipv6Addr>(&address),
        (range, address) => range.contains(&address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str], otherwise: Otherwise) -> NetworkRule {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        NetworkRule { allow: ranges(allow), deny: ranges(deny), otherwise, roles: Vec::new() }
    }

    #[test]
    fn the_longest_range_decides() {
        let some = rule(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16", "10.1.1.1/32"], Otherwise::Deny);
        let most = rule(&["192.0.2.7/32"], &["192.0.2.0/24", "198.51.100.0/24"], Otherwise::Allow);
        for (rule, address, allowed) in [
            (&some, "10.2.3.4", true),
            (&some, "10.1.2.3", false),
            (&some, "11.0.0.1", false),
            (&some, "2001:db8::1", true),
            (&some, "2001:db9::1", false),
            (&most, "192.0.2.7", true),
            (&most, "192.0.2.8", false),
            (&most, "203.0.113.1", true),
            (&most, "::1", true),
        ] {
            assert_eq!(rule.allows(address.parse().unwrap()), allowed, "{address}");
        }
        let same = rule(&["10.0.0.0/8"], &["10.0.0.0/8"], Otherwise::Allow);
        assert!(!same.allows("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn row_85_a_mapped_address_is_the_address() {
        for ranges in [&["10.0.0.0/8"][..], &["::ffff:10.0.0.0/104"]] {
            let rule = rule(ranges, &[], Otherwise::Deny);
            for (address, allowed) in [("10.0.0.1", true), ("::ffff:10.0.0.1", true), ("11.0.0.1", false), ("::ffff:11.0.0.1", false)] {
                assert_eq!(rule.allows(address.parse().unwrap()), allowed, "{ranges:?} {address}");
            }
        }
        let ranges = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_in(&ranges, "::ffff:10.0.0.1".parse().unwrap()) && !is_in(&ranges, "::ffff:11.0.0.1".parse().unwrap()));
        // A range of all IPv6 addresses says nothing of IPv4.
        assert!(!rule(&["::/0"], &[], Otherwise::Deny).allows("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn rules_for_roles_leave_the_others_alone() {
        let of_roles = NetworkRule { roles: vec![Role::AcrPush], ..rule(&["10.0.0.0/8"], &[], Otherwise::Deny) };
        let rules = [of_roles, rule(&["10.0.0.0/8", "192.0.2.0/24"], &[], Otherwise::Deny)];
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(admits(&rules, at("192.0.2.1")) && !admits(&rules, at("203.0.113.1")));
        assert!(!admits_role(&rules, Role::AcrPush, at("192.0.2.1")) && admits_role(&rules, Role::AcrPush, at("10.0.0.1")));
        assert!(admits_role(&rules, Role::AcrPull, at("192.0.2.1")));
    }
}
