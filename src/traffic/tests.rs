use std::net::Ipv4Addr;

use super::*;

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn traffic() -> (Traffic, Clock) {
    let clock = Clock::manual(START);
    (Traffic::new(clock.clone()), clock)
}

fn visit(client: &str, principal: Option<&str>, repository: Option<&str>, bytes: u64) -> Visit {
    Visit {
        client: client.parse().unwrap(),
        principal: principal.map_or(Principal::Anonymous, |name| Principal::Named(name.into())),
        repository: repository.map(|name| name.parse().unwrap()),
        bytes,
    }
}

fn first(traffic: &Traffic, by: By, measure: Measure) -> Vec<(String, u64)> {
    traffic.rank(by, (measure, Window::Minute), 2).names
}

#[test]
fn what_was_noted_is_told_by_kind_and_measure() {
    let (traffic, _) = traffic();
    for visit in [
        visit("10.0.0.1", Some("ci"), Some("team/app"), 5),
        visit("::ffff:10.0.0.1", Some("ci"), Some("team/base"), 5),
        visit("2001:db8:1:2::5", None, Some("team/app"), 100),
        visit("2001:db8:1:2:ff::6", Some("ann"), None, 0),
        visit("2001:db8:1:3::6", None, None, 0),
    ] {
        traffic.note(visit);
    }
    let told = |by, measure| first(&traffic, by, measure).iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
    assert_eq!(told(By::Client, Measure::Requests), ["10.0.0.1 2", "2001:db8:1:2::/64 2"]);
    assert_eq!(told(By::Client, Measure::Bytes), ["2001:db8:1:2::/64 100", "10.0.0.1 10"]);
    assert_eq!(told(By::Principal, Measure::Requests), ["ci 2", "ann 1"]);
    assert_eq!(told(By::Principal, Measure::Bytes), ["ci 10"]);
    assert_eq!(told(By::Repository, Measure::Requests), ["team/app 2", "team/base 1"]);
    assert_eq!(told(By::Repository, Measure::Bytes), ["team/app 105", "team/base 5"]);
    let clients = traffic.rank(By::Client, (Measure::Requests, Window::Day), 1);
    assert_eq!((clients.names.len(), clients.total, clients.error, clients.since), (1, 5, 0, START));
}

#[test]
fn nothing_is_lost_between_threads() {
    let (traffic, _) = traffic();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let traffic = &traffic;
            scope.spawn(move || {
                (0..5_000).for_each(|number| {
                    // Runs of ten, of one client after the other.
                    traffic.note(visit(&format!("10.0.0.{}", (number / 10 + thread) % 4), None, None, 2));
                });
            });
        }
    });
    for measure in [Measure::Requests, Measure::Bytes] {
        let ranking = traffic.rank(By::Client, (measure, Window::Minute), 9);
        let each = if measure == Measure::Bytes { 10_000 } else { 5_000 };
        assert_eq!((ranking.names.len(), ranking.total), (4, 4 * each));
        assert!(ranking.names.iter().all(|(_, count)| *count == each), "{ranking:?}");
    }
}

#[test]
fn neighbours_choose_different_lists() {
    for base in ["10.0.0.0", "2001:db8::"] {
        let neighbour = |number: u32| match base.parse().unwrap() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + number)),
            IpAddr::V6(first) => IpAddr::V6((first.to_bits() + (u128::from(number) << 64)).into()),
        };
        let chosen = (0..256).fold([0; LISTS], |mut chosen, number| {
            chosen[list_of(neighbour(number))] += 1;
            chosen
        });
        assert!(chosen.iter().all(|count| (8..=32).contains(count)), "{base}: {chosen:?}");
    }
}

#[test]
fn names_of_principals_are_cut() {
    let long = Principal::Named("é".repeat(1_000).into());
    assert_eq!(name(&long).unwrap().len(), 254);
}

/// A hundred thousand clients, each of them a principal with a repository, and one that asks a hundred times as often, spread evenly.
#[test]
fn one_at_a_hundred_times_the_others_rate_is_first_within_ten_seconds() {
    const OTHERS: u32 = 100_000;
    let (traffic, clock) = traffic();
    for number in 0..OTHERS {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
        traffic.note(visit(&address, Some(&format!("other-{number}")), Some(&format!("others/{number}")), 1));
        if number % 1_000 == 999 {
            traffic.note(visit("198.51.100.7", Some("noisy"), Some("noisy/app"), 1));
            clock.advance(Duration::from_millis(90));
        }
    }
    assert_eq!(clock.now().since(START), Duration::from_secs(9));
    for measure in [Measure::Requests, Measure::Bytes] {
        for (by, noisy) in [(By::Client, "198.51.100.7"), (By::Principal, "noisy"), (By::Repository, "noisy/app")] {
            let ranking = traffic.rank(by, (measure, Window::Minute), 2);
            let (name, count) = &ranking.names[0];
            assert!(name == noisy && *count >= 10 * ranking.names[1].1, "{ranking:?}");
            assert!((*count..=count + ranking.error).contains(&100), "{ranking:?}");
            assert_eq!(ranking.total, u64::from(OTHERS) + 100);
        }
    }
}

/// Floods of names that nobody has seen before, so that every bucket of every window is full, of each the last names several times.
#[test]
fn memory_stays_bounded_whatever_names_come() {
    const MOST_BYTES: i64 = 7 << 20;
    const AGAIN: u32 = 2_000;
    let (hours, minutes, seconds) = (Duration::from_secs(3 * 3600), Duration::from_secs(600), Duration::from_secs(10));
    let floods = [hours; 8].into_iter().chain([minutes; 6]).chain([seconds; 6]);
    let names: u32 = if std::env::var_os("OUTPORT_FULL").is_some() { 50_000 } else { 5_000 };
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        let (traffic, clock) = traffic();
        for (flood, step) in floods.enumerate() {
            clock.advance(step);
            for number in (0..names).chain((names - AGAIN..names).flat_map(|number| [number; 3])) {
                let number = flood as u32 * names + number;
                let address = Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
                let name = format!("attacker/with-names-of-forty-bytes-{number:0>7}");
                traffic.note(visit(&address, Some(&name), Some(&name), 1 + u64::from(number % 1_000)));
            }
        }
        kept = Some(traffic);
    });
    let day = kept.expect("it was measured").rank(By::Repository, (Measure::Bytes, Window::Day), 100);
    assert!(day.names.len() == 100 && day.error <= day.total / 100, "{day:?}");
    assert!((MOST_BYTES / 4..MOST_BYTES).contains(&counted.bytes_current), "{} KiB", counted.bytes_current >> 10);
}
