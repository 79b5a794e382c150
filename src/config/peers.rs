//! `[[peer]]` and `[replication]`: the other regions, and how content reaches this one. What repositories say about it stands in
//! `[[hosted]]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;
use url::Url;

use super::bucket::{self, Bucket};
use super::reader::Section;
use super::schema::{Owners, TokenNeed, note, read_token, require_pem, seconds, warn_of_plain_secret};
use super::value::Value;
use super::{ByteSize, Secret, names};
use crate::clock::Timestamp;

/// Another region, whose ledger is followed and whose content is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub region: String,
    /// Its store, which is read where its edges do not answer.
    pub bucket: Option<Bucket>,
    /// Its edges, each as scheme, host and port, in the order in which they are asked.
    pub edges: Vec<Url>,
    /// The same on both sides: proves the one region's edges to the other's. Always there where edges are.
    pub token: Option<Secret>,
    /// Further certificate authorities of the edges, PEM.
    pub ca_file: Option<PathBuf>,
    /// The networks to whose clients it is nearer than this region: they are told so.
    pub clients: Vec<IpNet>,
}

/// How what other regions have comes here.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Bytes a second that copies take from one region, at most; `None` for no limit.
    pub bandwidth: Option<ByteSize>,
    /// When copies run; empty for always.
    pub hours: Vec<Hours>,
    /// How old this region's knowledge of another one is at most while nothing is in the way, where it cannot be told at once.
    pub follow_interval: Duration,
}

impl Replication {
    /// Whether copies run at this time.
    pub fn copies_at(&self, now: Timestamp) -> bool {
        self.hours.is_empty() || self.hours.iter().any(|hours| hours.contain(now))
    }
}

/// A part of each day in UTC, written `22:00-06:00`. Its end does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    first_minute: u16,
    end_minute: u16,
}

const DAY_MINUTES: u16 = 24 * 60;
const MINUTE_MS: u64 = 60_000;

impl Hours {
    fn read(text: &str) -> Result<Hours, String> {
        let fault = || format!("{text:?} is not a part of the day in UTC, such as \"22:00-06:00\"");
        let (first, end) = text.split_once('-').ok_or_else(fault)?;
        let (first_minute, end_minute) = (minute_of_day(first).ok_or_else(fault)?, minute_of_day(end).ok_or_else(fault)?);
        if first_minute == DAY_MINUTES || first_minute == end_minute {
            return Err(fault());
        }
        Ok(Hours { first_minute, end_minute })
    }

    /// A part whose end is before its beginning goes over midnight.
    fn contain(self, now: Timestamp) -> bool {
        let minute = (now.as_ms() / MINUTE_MS % u64::from(DAY_MINUTES)) as u16;
        let (begun, goes_on) = (minute >= self.first_minute, minute < self.end_minute);
        if self.first_minute < self.end_minute { begun && goes_on } else { begun || goes_on }
    }
}

/// `HH:MM`, from 00:00 to 24:00.
fn minute_of_day(text: &str) -> Option<u16> {
    let number = |digits: &str| (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?;
    let (hours, minutes): (u16, u16) = text.split_once(':').and_then(|(hours, minutes)| Some((number(hours)?, number(minutes)?)))?;
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hours { first_minute, end_minute } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", first_minute / 60, first_minute % 60, end_minute / 60, end_minute % 60)
    }
}

impl Value for Hours {
    const WHAT: &'static str = "a part of the day in UTC such as \"22:00-06:00\"";

    fn read(value: &DeValue<'_>) -> Option<Result<Hours, String>> {
        value.as_str().map(Hours::read)
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// Where the content of a repository lies besides the region that it was pushed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicate {
    /// Where it is asked for.
    Lazy,
    /// In every region.
    All,
    /// In so many other regions, at least one.
    Regions(usize),
}

impl Value for Replicate {
    const WHAT: &'static str = "\"lazy\", \"all\" or a number of other regions";

    fn read(value: &DeValue<'_>) -> Option<Result<Replicate, String>> {
        match value.as_str() {
            Some("lazy") => Some(Ok(Replicate::Lazy)),
            Some("all") => Some(Ok(Replicate::All)),
            Some(text) => Some(Err(format!("{text:?} is neither \"lazy\" nor \"all\" nor a number of other regions"))),
            None => usize::read(value).map(|read| read.and_then(|count| at_least_one(count).map(Replicate::Regions))),
        }
    }

    fn show(&self) -> String {
        match self {
            Replicate::Lazy => "\"lazy\"".to_owned(),
            Replicate::All => "\"all\"".to_owned(),
            Replicate::Regions(count) => count.show(),
        }
    }
}

/// What has happened when a push is answered with 201.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// It is in the region's own store.
    #[default]
    Store,
    /// So many other regions have its bytes too, at least one.
    Regions(usize),
}

impl Value for Acknowledge {
    const WHAT: &'static str = "\"store\" or { regions = 1 }";

    fn read(value: &DeValue<'_>) -> Option<Result<Acknowledge, String>> {
        if let Some(text) = value.as_str() {
            let known = (text == "store").then_some(Acknowledge::Store);
            return Some(known.ok_or_else(|| format!("{text:?} is neither \"store\" nor {{ regions = 1 }}")));
        }
        let table = value.as_table()?;
        let regions = table.get("regions").filter(|_| table.len() == 1)?;
        usize::read(regions.get_ref()).map(|read| read.and_then(|count| at_least_one(count).map(Acknowledge::Regions)))
    }

    fn show(&self) -> String {
        match self {
            Acknowledge::Store => "\"store\"".to_owned(),
            Acknowledge::Regions(count) => format!("{{ regions = {count} }}"),
        }
    }
}

fn at_least_one(count: usize) -> Result<usize, String> {
    if count == 0 { Err("0 other regions: leave it out, or name at least 1".to_owned()) } else { Ok(count) }
}

/// What a repository may say of other regions.
#[derive(Clone, Copy)]
pub(super) struct Regions<'a> {
    pub(super) own: &'a str,
    pub(super) peers: &'a [Peer],
}

impl Regions<'_> {
    pub(super) fn check_replicate(self, section: &Section<'_, '_, '_>, replicate: Replicate) {
        if let Replicate::Regions(count) = replicate {
            self.check_count(section, "replicate", count);
        }
    }

    pub(super) fn check_acknowledge(self, section: &Section<'_, '_, '_>, acknowledge: Acknowledge) {
        if let Acknowledge::Regions(count) = acknowledge {
            self.check_count(section, "acknowledge", count);
        }
    }

    fn check_count(self, section: &Section<'_, '_, '_>, key: &'static str, count: usize) {
        let known = self.peers.len();
        if count > known {
            section.fault(key, format!("{count} other regions are asked for, and {known} are configured as [[peer]]"));
        }
    }

    pub(super) fn check_home(self, section: &Section<'_, '_, '_>, home: Option<&str>) {
        let known = |name: &str| name == self.own || self.peers.iter().any(|peer| peer.region == name);
        if let Some(name) = home.filter(|name| !known(name)) {
            section.fault("home", format!("{name:?} is neither this region nor a [[peer]] of this configuration"));
        }
    }
}

pub(super) fn read(root: &mut Section<'_, '_, '_>, own: &str) -> Vec<Peer> {
    let mut taken = Owners::from([(own.to_owned(), "region".to_owned())]);
    root.sections("peer").into_iter().filter_map(|section| read_peer(section, &mut taken)).collect()
}

fn read_peer(mut section: Section<'_, '_, '_>, taken: &mut Owners) -> Option<Peer> {
    let region: Option<String> = section.required("region");
    if let Some(name) = &region {
        if !names::is_label(name) {
            section.fault("region", format!("{name:?} is not a region: 1 to 63 lower-case letters, digits and hyphens inside"));
        } else if let Some(earlier) = note(taken, name.clone(), section.path()) {
            section.fault("region", format!("{name:?} stands already in {earlier}"));
        }
    }
    let edges: Vec<Url> = section.list("edges");
    for (index, _) in edges.iter().enumerate().filter(|(_, url)| url.path() != "/") {
        section.fault_at("edges", index, "has a path: only a scheme, a host and a port are possible");
    }
    warn_of_plain_secret(&section, "edges", &edges, "the token");
    let bucket = section.optional_section("bucket").and_then(bucket::read_foreign);
    if edges.is_empty() && bucket.is_none() {
        section.fault("edges", "is missing, and so is [peer.bucket]: one of them is needed to read the region");
    }
    let token = read_token(&mut section, if edges.is_empty() { TokenNeed::IfGiven } else { TokenNeed::Always });
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let clients = section.list("clients");
    section.finish();
    Some(Peer { region: region?, bucket, edges, token, ca_file: ca_file.map(|file| file.path), clients })
}

pub(super) fn read_replication(mut section: Section<'_, '_, '_>) -> Replication {
    let bandwidth: Option<ByteSize> = section.optional("bandwidth");
    if bandwidth == Some(ByteSize(0)) {
        section.fault("bandwidth", "is 0: leave it out for no limit");
    }
    let replication = Replication {
        bandwidth,
        hours: section.list("hours"),
        follow_interval: section.bounded("follow_interval", seconds(1), Duration::from_millis(200)..=seconds(60)),
    };
    section.finish();
    replication
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_run_in_their_hours() {
        let at = |text: &str| {
            Timestamp::from_ms(1_000 * u64::from(DAY_MINUTES) * MINUTE_MS + u64::from(minute_of_day(text).unwrap()) * MINUTE_MS)
        };
        let replication = |hours: &[&str]| Replication {
            bandwidth: None,
            hours: hours.iter().map(|text| Hours::read(text).unwrap()).collect(),
            follow_interval: seconds(1),
        };
        for (hours, inside, outside) in [
            (&[][..], &["00:00", "12:00"][..], &[][..]),
            (&["22:00-06:00"], &["22:00", "23:59", "00:00", "05:59"], &["06:00", "21:59"]),
            (&["01:30-02:00", "12:00-24:00"], &["01:30", "12:00", "23:59"], &["00:00", "02:00", "11:59"]),
        ] {
            for text in inside {
                assert!(replication(hours).copies_at(at(text)), "{hours:?} {text}");
            }
            for text in outside {
                assert!(!replication(hours).copies_at(at(text)), "{hours:?} {text}");
            }
        }
        for bad in ["", "22-06", "22:00", "22:00-22:00", "24:00-06:00", "22:00-24:01", "22:60-23:00", "2:00-6:00", "+2:00-06:00"] {
            assert!(Hours::read(bad).is_err(), "{bad}");
        }
        assert_eq!(Hours::read("22:00-24:00").unwrap().show(), "\"22:00-24:00\"");
    }
}
