//! `Outport-Nearer`: a client whose network lies nearer to another region is told so in every answer, and is answered all the same. Nobody
//! is redirected: what a client does about it is its operator's decision (`mirror-config --nearest`, another record in the DNS).

use std::net::IpAddr;

use http::HeaderValue;
use http::header::HeaderName;
use ipnet::IpNet;

use crate::access::{canonical, longest_that_holds};
use crate::config;

pub(super) const OUTPORT_NEARER: HeaderName = HeaderName::from_static("outport-nearer");

/// Which networks are whose, by the `clients` of each `[[peer]]`.
#[derive(Clone, Debug, Default)]
pub struct Nearer(Vec<(Vec<IpNet>, HeaderValue)>);

impl Nearer {
    pub fn new(peers: &[config::Peer]) -> Nearer {
        let told = peers.iter().filter(|peer| !peer.clients.is_empty());
        // The configuration takes a region's name only if it is one for the DNS.
        Nearer(told.filter_map(|peer| Some((peer.clients.clone(), HeaderValue::from_str(&peer.region).ok()?))).collect())
    }

    /// The region that is nearer to a client: the one with the longest network that holds its address; of equals, the first.
    pub(super) fn to(&self, client: IpAddr) -> Option<&HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let client = canonical(client);
        let held = self.0.iter().filter_map(|(networks, region)| Some((longest_that_holds(networks, client)?, region)));
        held.rev().max_by_key(|(prefix, _)| *prefix).map(|(_, region)| region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(region: &str, clients: &[&str]) -> config::Peer {
        let clients = clients.iter().map(|network| network.parse().unwrap()).collect();
        config::Peer { region: region.to_owned(), bucket: None, edges: Vec::new(), token: None, ca_file: None, clients }
    }

    #[test]
    fn the_longest_network_tells_and_who_is_in_none_is_told_nothing() {
        let nearer = Nearer::new(&[
            peer("us", &["10.0.0.0/8", "2001:db8::/32"]),
            peer("ap", &["10.7.0.0/16", "10.8.0.0/16"]),
            peer("sa", &["10.8.0.0/16"]),
            peer("af", &[]),
        ]);
        for (client, region) in [
            ("10.1.2.3", Some("us")),
            ("10.7.2.3", Some("ap")),
            ("::ffff:10.7.2.3", Some("ap")),
            ("10.8.0.1", Some("ap")),
            ("2001:db8::1", Some("us")),
            ("192.0.2.1", None),
            ("2001:db9::1", None),
        ] {
            assert_eq!(nearer.to(client.parse().unwrap()).map(|region| region.to_str().unwrap()), region, "{client}");
        }
        assert_eq!(Nearer::default().to("10.1.2.3".parse().unwrap()), None);
    }
}
