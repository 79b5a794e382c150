//! One entry of a record: a line of JSON. The names of its fields are a contract; readers pass over those that they do not know.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::clock::Timestamp;

/// What can be written into a record.
pub trait Note: Send + 'static {
    /// Adds its fields to a line.
    fn write(&self, line: &mut Line<'_>);
}

/// Something in its place: when, where, and which one of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry<E> {
    /// When it was noted, by the node's clock.
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    /// Nothing else has it. Of one node, in the order of writing.
    #[serde(with = "ulid_text")]
    pub id: Ulid,
    pub region: Arc<str>,
    #[serde(with = "ulid_text")]
    pub node: Ulid,
    /// How many entries of this node were lost since the one before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
    #[serde(flatten)]
    pub event: E,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An entry without what happened.
#[derive(Deserialize)]
struct Place {
    #[serde(with = "rfc3339")]
    time: Timestamp,
    #[serde(with = "ulid_text")]
    id: Ulid,
    region: Arc<str>,
    #[serde(with = "ulid_text")]
    node: Ulid,
    #[serde(default)]
    lost: u64,
}

impl<E> Entry<E> {
    /// Appends its line: the same that `serde_json` writes, which took a ninth of all instructions of a warm manifest request, since it
    /// looks at each byte of each text for what has to be escaped.
    pub fn write_line(&self, lines: &mut Vec<u8>)
    where
        E: Note,
    {
        let Entry { time, id, region, node, lost, event } = self;
        let mut event_alone = Vec::new();
        let mut line = Line::behind(&mut event_alone);
        event.write(&mut line);
        line.end();
        Places::new(region, *node).write_line(lines, (*time, *id), *lost, &event_alone);
    }

    /// Reads a line; `None` for one that was cut, or is no entry. Twice, and with nothing kept of what is not wanted: the place's fields
    /// beside the event's, as serde has them flattened, would all be copied first.
    pub fn read(line: &[u8]) -> Option<Entry<E>>
    where
        E: DeserializeOwned,
    {
        let Place { time, id, region, node, lost } = serde_json::from_slice(line).ok()?;
        Some(Entry { time, id, region, node, lost, event: serde_json::from_slice(line).ok()? })
    }
}

/// Puts what happened into its place: all entries of one node.
pub(super) struct Places {
    /// Region and node, as they stand in each line.
    of_all: Vec<u8>,
    /// The time of the last one, as text: many entries have the same.
    time: (Timestamp, String),
}

impl Places {
    pub(super) fn new(region: &str, node: Ulid) -> Places {
        let mut of_all = Vec::new();
        let mut line = Line::behind(&mut of_all);
        line.text("region", region);
        line.text("node", node.array_to_str(&mut [0; ulid::ULID_LEN]));
        Places { of_all, time: (Timestamp::default(), Timestamp::default().rfc3339()) }
    }

    /// Appends a line. `event` is what stands behind the place, from its comma to the end of the object.
    pub(super) fn write_line(&mut self, lines: &mut Vec<u8>, (time, id): (Timestamp, Ulid), lost: u64, event: &[u8]) {
        if self.time.0 != time {
            self.time = (time, time.rfc3339());
        }
        let mut line = Line::begin(lines);
        line.plain("time", &self.time.1);
        line.plain("id", id.array_to_str(&mut [0; ulid::ULID_LEN]));
        lines.extend_from_slice(&self.of_all);
        if lost > 0 {
            Line::behind(lines).number("lost", lost);
        }
        lines.extend_from_slice(event);
        lines.push(b'\n');
    }
}

/// An address as everybody writes it; IPv4, which most are, without the standard library's formatter.
pub struct AddressText(pub IpAddr);

impl AddressText {
    /// Appends it to a line.
    pub fn write(self, line: &mut Vec<u8>) {
        match self.0 {
            IpAddr::V4(address) => with_ipv4_text(address, |text| line.extend_from_slice(text)),
            IpAddr::V6(address) => line.extend_from_slice(address.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => with_ipv4_text(address, |text| f.write_str(str::from_utf8(text).expect("digits are ASCII"))),
            IpAddr::V6(address) => write!(f, "{address}"),
        }
    }
}

/// The digits of each octet, and how many they are.
const OCTETS: [([u8; 3], usize); 256] = {
    let mut octets = [([0; 3], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let digits = [b'0' + (octet / 100) as u8, b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8];
        octets[octet] = match octet {
            0..10 => ([digits[2], 0, 0], 1),
            10..100 => ([digits[1], digits[2], 0], 2),
            _ => (digits, 3),
        };
        octet += 1;
    }
    octets
};

#[inline]
fn with_ipv4_text<T>(address: Ipv4Addr, take: impl FnOnce(&[u8]) -> T) -> T {
    // With a point behind each of them.
    let (mut text, mut end) = ([0; 16], 0);
    for octet in address.octets() {
        let (digits, count) = OCTETS[usize::from(octet)];
        text[end..end + 3].copy_from_slice(&digits);
        text[end + count] = b'.';
        end += count + 1;
    }
    take(&text[..end - 1])
}

/// One object in JSON, field by field, without blanks.
pub struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Line<'a> {
    /// Begins an object behind what is there.
    pub fn begin(bytes: &'a mut Vec<u8>) -> Line<'a> {
        Line { bytes, separator: b'{' }
    }

    /// Goes on with an object that has fields already, wherever they are.
    pub fn behind(bytes: &'a mut Vec<u8>) -> Line<'a> {
        Line { bytes, separator: b',' }
    }

    /// Goes on with an object of which all that is there is the beginning.
    pub fn go_on(bytes: &'a mut Vec<u8>) -> Line<'a> {
        let separator = if bytes.is_empty() { b'{' } else { b',' };
        Line { bytes, separator }
    }

    /// A name with what stands around it. Where it is called the name is known, and all of this a few stores.
    #[inline(always)]
    fn name(&mut self, name: &str, behind: &[u8]) {
        let (from, separator) = (self.bytes.len(), std::mem::replace(&mut self.separator, b','));
        let (opened, named) = (2, 2 + name.len());
        self.bytes.resize(from + named + behind.len(), separator);
        let place = &mut self.bytes[from..];
        place[1] = b'"';
        place[opened..named].copy_from_slice(name.as_bytes());
        place[named..].copy_from_slice(behind);
    }

    #[inline(always)]
    pub fn text(&mut self, name: &str, value: &str) {
        if is_plain(value) {
            self.plain(name, value);
        } else {
            self.value(name, value);
        }
    }

    /// A text that stands between quotes as it is ([`is_plain`]).
    #[inline(always)]
    pub fn plain(&mut self, name: &str, value: &str) {
        debug_assert!(is_plain(value), "{value:?}");
        self.quoted(name, value.as_bytes());
    }

    #[inline(always)]
    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.name(name, b"\":\"");
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'"');
    }

    #[inline(always)]
    pub fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub fn address(&mut self, name: &str, value: IpAddr) {
        match value {
            IpAddr::V4(address) => with_ipv4_text(address, |text| self.quoted(name, text)),
            IpAddr::V6(address) => self.plain(name, &address.to_string()),
        }
    }

    #[inline(always)]
    pub fn number(&mut self, name: &str, value: u64) {
        self.name(name, b"\":");
        self.bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Any value; one that has no form in JSON is null.
    pub fn value<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.name(name, b"\":");
        let start = self.bytes.len();
        if serde_json::to_writer(&mut *self.bytes, value).is_err() {
            self.bytes.truncate(start);
            self.bytes.extend_from_slice(b"null");
        }
    }

    /// An object that is there but for its end.
    pub fn unfinished(&mut self, name: &str, object: &[u8]) {
        self.name(name, b"\":");
        self.bytes.extend_from_slice(object);
        self.bytes.push(b'}');
    }

    pub fn end(self) {
        if self.separator == b'{' {
            self.bytes.push(b'{');
        }
        self.bytes.push(b'}');
    }
}

/// Whether a text stands between quotes as it is: printable ASCII, no quotes and no backslashes. Eight bytes at a time, since most texts of
/// a line are short: compilers look at sixteen at a time, and one by one at the rest.
#[inline]
pub fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    // The last eight may have been looked at in part before.
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.iter().all(|byte| is_plain_byte(*byte)) };
    let (words, _) = bytes.as_chunks::<8>();
    let special = words.iter().fold(special_bytes(*last), |found, word| found | special_bytes(*word));
    special & HIGH == 0
}

const fn is_plain_byte(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

const EACH: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = EACH * 0x80;

/// Has a high bit if any of eight bytes is not plain. A byte that is not ASCII has one itself; the others are below 0x80, so that what is
/// subtracted borrows, and what is added carries, only where there is something to find (after S. E. Anderson, "Bit Twiddling Hacks",
/// haszero).
const fn special_bytes(bytes: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(bytes);
    let below_space = word.wrapping_sub(EACH * b' ' as u64);
    let delete = word.wrapping_add(EACH);
    let quote = (word ^ (EACH * b'"' as u64)).wrapping_sub(EACH);
    let backslash = (word ^ (EACH * b'\\' as u64)).wrapping_sub(EACH);
    word | below_space | delete | quote | backslash
}

mod rfc3339 {
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Serializer, Timestamp};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.rfc3339())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Timestamp::of_rfc3339(&text).ok_or_else(|| D::Error::custom("not a time of RFC 3339"))
    }
}

mod ulid_text {
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Serializer, Ulid};

    pub(super) fn serialize<S: Serializer>(value: &Ulid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.array_to_str(&mut [0; ulid::ULID_LEN]))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ulid, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not of the form of an identifier"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Said, entry};
    use super::*;

    #[test]
    fn a_line_reads_back_and_is_what_everybody_writes() {
        for (lost, what) in [(0, "plain"), (9, "a \"change\" of C:\\ and \u{e9}\u{1b}")] {
            let entry = Entry { lost, ..entry(1_795_949_111_120, "ci", what) };
            let mut line = Vec::new();
            entry.write_line(&mut line);
            assert_eq!(line, [serde_json::to_vec(&entry).unwrap().as_slice(), b"\n"].concat());
            assert_eq!(Entry::read(&line), Some(entry));
            assert_eq!(Entry::<Said>::read(&line[..line.len() / 2]), None, "a line that was cut");
        }
    }

    #[test]
    fn every_byte_at_every_place_is_told_plain_or_not() {
        for length in 0..42 {
            assert!(is_plain(&"~ a".repeat(14)[..length]));
            for at in 0..length {
                for character in '\0'..='\u{ff}' {
                    let mut text = "x".repeat(length);
                    text.replace_range(at..=at, character.encode_utf8(&mut [0; 2]));
                    let plain = (' '..='~').contains(&character) && character != '"' && character != '\\';
                    assert_eq!(is_plain(&text), plain, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        let v4 = [[0, 9, 10, 99], [100, 199, 200, 255], [127, 0, 0, 1], [1, 20, 3, 40]].map(IpAddr::from);
        let v6 = ["::", "2001:db8::9", "::ffff:10.0.0.1"].map(|text| text.parse().unwrap());
        for address in v4.into_iter().chain(v6) {
            assert_eq!(AddressText(address).to_string(), address.to_string());
            let mut bytes = Vec::new();
            Line::begin(&mut bytes).address("address", address);
            assert_eq!(String::from_utf8(bytes).unwrap(), format!(r#"{{"address":"{address}""#));
        }
    }

    #[test]
    fn fields_of_later_versions_are_passed_over() {
        let mut line = Vec::new();
        entry(5, "ci", "hello").write_line(&mut line);
        let later = String::from_utf8(line).unwrap().replacen('{', "{\"colour\":{\"red\":1},", 1);
        assert_eq!(Entry::read(later.as_bytes()), Some(entry(5, "ci", "hello")));
    }

    #[test]
    fn an_object_is_written_in_parts_and_may_be_empty() {
        let mut bytes = Vec::new();
        Line::begin(&mut bytes).end();
        assert_eq!(bytes, b"{}");
        bytes.clear();
        Line::go_on(&mut bytes).number("one", 1);
        let mut line = Line::go_on(&mut bytes);
        line.value("two", &f64::NAN);
        line.value("three", &-0.5);
        line.unfinished("four", b"{\"a\":0");
        line.maybe("five", None);
        line.end();
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"one":1,"two":null,"three":-0.5,"four":{"a":0}}"#);
    }
}
