//! Which of several edges a machine should ask first: by its zone, and by how far away they are.

use std::cmp::Reverse;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use url::Url;

use super::{Arguments, At};

/// Connections for each edge: the fastest counts, since whatever else happens on the way only makes one slower.
const TRIES: usize = 3;
/// An edge that is further away than this is no better than one that is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same arguments with the edges in the order in which they are to be tried. Those that nothing tells apart stay in theirs.
pub(super) fn ordered(arguments: &Arguments) -> Arguments {
    let mut arguments = arguments.clone();
    let zone = arguments.zone.clone();
    let away = if arguments.nearest { distances(&arguments.edge) } else { vec![None; arguments.edge.len()] };
    let mut found: Vec<(At, Option<Duration>)> = arguments.edge.drain(..).zip(away).collect();
    found.sort_by_key(|(at, away)| {
        let is_of_zone = zone.is_some() && at.zone == zone;
        (Reverse(is_of_zone), away.is_none(), *away)
    });
    if arguments.nearest {
        for (at, away) in &found {
            let away = away.map_or_else(|| "takes no connection".to_owned(), |away| format!("{:.1} ms away", away.as_secs_f64() * 1e3));
            eprintln!("note: {} {away}", at.url);
        }
    }
    arguments.edge = found.into_iter().map(|(at, _)| at).collect();
    arguments
}

/// What a connection to each takes, all of them at once.
fn distances(edges: &[At]) -> Vec<Option<Duration>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = edges.iter().map(|at| scope.spawn(|| distance(&at.url))).collect();
        asked.into_iter().map(|asked| asked.join().ok().flatten()).collect()
    })
}

/// A TCP handshake is one round trip.
fn distance(url: &Url) -> Option<Duration> {
    let port = url.port_or_known_default()?;
    // A URL has an IPv6 address in brackets.
    let host = url.host_str()?.trim_matches(['[', ']']);
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().ok()?.collect();
    (0..TRIES).flat_map(|_| addresses.iter().filter_map(|address| connect(*address))).min()
}

fn connect(address: SocketAddr) -> Option<Duration> {
    let began = Instant::now();
    TcpStream::connect_timeout(&address, PATIENCE).ok().map(|_| began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mirror_config::{Format, tests};
    use std::net::TcpListener;

    fn arguments(edges: &[&str], zone: Option<&str>, nearest: bool) -> Arguments {
        let (zone, edges) = (zone.map(str::to_owned), edges.join(" "));
        Arguments { zone, nearest, ..tests::arguments(&edges, Format::Containerd) }
    }

    fn order(arguments: &Arguments) -> Vec<String> {
        ordered(arguments).edge.iter().map(|at| at.url.to_string()).collect()
    }

    #[test]
    fn an_edge_may_say_its_zone() {
        let at = |text: &str| text.parse::<At>();
        assert_eq!(at("a=https://edge").unwrap(), At { zone: Some("a".to_owned()), url: "https://edge".parse().unwrap() });
        for (text, url) in [("https://edge", "https://edge"), ("https://edge/?a=b", "https://edge/?a=b")] {
            assert_eq!(at(text).unwrap(), At { zone: None, url: url.parse().unwrap() });
        }
        assert!(at("a=edge").is_err() && at("edge").is_err());
    }

    #[test]
    fn the_own_zone_goes_first_and_else_nothing_changes() {
        let edges = ["a=https://one", "b=https://two", "https://three", "b=https://four"];
        assert_eq!(order(&arguments(&edges, Some("b"), false)), ["https://two/", "https://four/", "https://one/", "https://three/"]);
        assert_eq!(order(&arguments(&edges, Some("c"), false)), order(&arguments(&edges, None, false)));
        assert_eq!(order(&arguments(&edges, None, false))[0], "https://one/");
    }

    #[test]
    fn who_takes_no_connection_goes_last() {
        let (there, gone) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = |listener: &TcpListener| format!("http://{}/", listener.local_addr().unwrap());
        let (there_url, gone_url) = (url(&there), url(&gone));
        drop(gone);
        assert_eq!(order(&arguments(&[&gone_url, &there_url], None, true)), [there_url.clone(), gone_url.clone()]);
        // The zone is somebody's word, the distance only decides within it.
        let of_zone = format!("z={gone_url}");
        assert_eq!(order(&arguments(&[&there_url, &of_zone], Some("z"), true)), [gone_url, there_url]);
    }
}
