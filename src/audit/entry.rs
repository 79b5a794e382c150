//! One entry of the record: a line of JSON. The names of its fields are a contract; readers pass over those that they do not know.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::access::Principal;
use crate::clock::Timestamp;
use crate::oci::{Digest, RepositoryName};

/// What became of what somebody wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// Who asked may not, or did not prove who it is.
    Denied,
    /// It was not done, or not to its end, for another reason.
    Failed,
}

/// What one request leaves. Everything in it is fit to be written: no control characters, no secrets, bounded lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The request's `X-Request-Id`; the edges that passed it on to each other log it under the same.
    pub request: String,
    /// Who asked: `anonymous` also where credentials were refused.
    #[serde(with = "principal")]
    pub principal: Principal,
    /// How that was proved: `none`, `basic`, `token`, `certificate`, `peer`, ...
    pub proof: Cow<'static, str>,
    /// Where the request came from; nothing for a command that went at the bucket directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What was to be done: `pull`, `push`, `delete`, `list`, `authenticate`, ...
    pub action: Cow<'static, str>,
    /// To which kind of thing, as the access log has it: `manifest`, `blob`, `upload`, ...
    pub route: Cow<'static, str>,
    pub method: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// As it was asked for: a tag or a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What was changed, where no digest says it: the role and who has it on what, or the rule, in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// Of content: sent, or received where something was pushed.
    pub bytes: u64,
    /// From the request's head to the end of the answer.
    pub took_ms: u64,
    pub status: u16,
    pub outcome: Outcome,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Box<str>>,
}

/// An event in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When the answer had ended, by the node's clock.
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
    pub event: Event,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
}

/// The word for no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an outcome is allowed, denied or failed")]
pub struct OutcomeError;

impl FromStr for Outcome {
    type Err = OutcomeError;

    fn from_str(text: &str) -> Result<Outcome, OutcomeError> {
        [Outcome::Allowed, Outcome::Denied, Outcome::Failed].into_iter().find(|outcome| outcome.as_str() == text).ok_or(OutcomeError)
    }
}

impl Entry {
    /// Appends its line: the same that `serde_json` writes, which took a ninth of all instructions of a warm manifest request, since it
    /// looks at each byte of each text for what has to be escaped.
    pub(super) fn write_line(&self, lines: &mut Vec<u8>) {
        let Entry { time, id, region, node, lost, event } = self;
        let mut line = Line { bytes: lines, separator: b'{' };
        line.text("time", &time.rfc3339());
        line.text("id", id.array_to_str(&mut [0; ulid::ULID_LEN]));
        line.text("region", region);
        line.text("node", node.array_to_str(&mut [0; ulid::ULID_LEN]));
        if *lost > 0 {
            line.number("lost", *lost);
        }
        line.text("request", &event.request);
        line.text("principal", event.principal.as_str());
        line.text("proof", &event.proof);
        if let Some(address) = event.address {
            line.address("address", address);
        }
        line.maybe("agent", event.agent.as_deref());
        line.text("action", &event.action);
        line.text("route", &event.route);
        line.text("method", &event.method);
        line.maybe("upstream", event.upstream.as_deref());
        line.maybe("repository", event.repository.as_ref().map(RepositoryName::as_str));
        line.maybe("reference", event.reference.as_deref());
        if let Some(digest) = &event.digest {
            digest.with_text(|text| line.text("digest", text));
        }
        line.maybe("detail", event.detail.as_deref());
        line.number("bytes", event.bytes);
        line.number("took_ms", event.took_ms);
        line.number("status", event.status.into());
        line.text("outcome", event.outcome.as_str());
        line.maybe("why", event.why.as_deref());
        line.bytes.extend_from_slice(b"}\n");
    }

    /// Reads a line; `None` for one that was cut, or is no entry.
    pub(super) fn read(line: &[u8]) -> Option<Entry> {
        serde_json::from_slice(line).ok()
    }
}

/// One object in JSON, field by field.
struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    separator: u8,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        self.bytes.push(std::mem::replace(&mut self.separator, b','));
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        // All bytes are looked at, which a processor does many at a time.
        if value.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')) {
            self.bytes.push(b'"');
            self.bytes.extend_from_slice(value.as_bytes());
            self.bytes.push(b'"');
        } else {
            // Writing to memory cannot fail, and every text has a form in JSON.
            let _ = serde_json::to_writer(&mut *self.bytes, value);
        }
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn address(&mut self, name: &str, value: IpAddr) {
        self.name(name);
        self.bytes.push(b'"');
        match value {
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.bytes.push(b'.');
                    }
                    self.bytes.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            // Writing to memory cannot fail.
            IpAddr::V6(address) => drop(write!(self.bytes, "{address}")),
        }
        self.bytes.push(b'"');
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// No principal is called `anonymous`.
mod principal {
    use super::{Arc, Deserialize, Deserializer, Principal, Serializer};

    pub(super) fn serialize<S: Serializer>(principal: &Principal, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(principal.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Principal, D::Error> {
        let name = Arc::<str>::deserialize(deserializer)?;
        Ok(if *name == *Principal::Anonymous.as_str() { Principal::Anonymous } else { Principal::Named(name) })
    }
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
    use super::super::testing::{entry, pull};
    use super::*;

    #[test]
    fn the_names_of_the_fields_are_a_contract() {
        let mut line = Vec::new();
        entry(1_795_949_111_120, pull("ci", "team/app")).write_line(&mut line);
        let digest = Digest::sha256(b"");
        assert_eq!(
            String::from_utf8(line).unwrap(),
            format!(
                "{{\"time\":\"2026-11-29T10:45:11.120Z\",\"id\":\"{}\",\"region\":\"eu\",\"node\":\"{}\",\"request\":\"id-1\",\
                 \"principal\":\"ci\",\"proof\":\"basic\",\"address\":\"10.0.0.1\",\"agent\":\"podman/5\",\"action\":\"pull\",\
                 \"route\":\"manifest\",\"method\":\"GET\",\"repository\":\"team/app\",\"reference\":\"v1\",\"digest\":\"{digest}\",\
                 \"bytes\":7,\"took_ms\":3,\"status\":200,\"outcome\":\"allowed\"}}\n",
                Ulid::from_parts(1_795_949_111_120, 1_795_949_111_120),
                Ulid::from_parts(1, 2),
            )
        );
    }

    #[test]
    fn a_line_reads_back() {
        let denied = Event {
            principal: Principal::Anonymous,
            address: None,
            agent: None,
            repository: None,
            reference: None,
            digest: None,
            detail: Some("a \"change\" of C:\\ and é".into()),
            outcome: Outcome::Denied,
            why: Some("authentication required".into()),
            ..pull("ci", "a")
        };
        let whole = Event { upstream: Some("docker.io".into()), address: "2001:db8::1".parse().ok(), ..pull("ci", "team/app") };
        for entry in [entry(5, pull("ci", "team/app")), entry(6, whole), Entry { lost: 9, ..entry(7, denied) }] {
            let mut line = Vec::new();
            entry.write_line(&mut line);
            assert_eq!(line, [serde_json::to_vec(&entry).unwrap().as_slice(), b"\n"].concat());
            assert_eq!(Entry::read(&line), Some(entry));
            assert_eq!(Entry::read(&line[..line.len() / 2]), None, "a line that was cut");
        }
        assert_eq!("denied".parse(), Ok(Outcome::Denied));
        assert!("Denied".parse::<Outcome>().is_err());
    }

    #[test]
    fn fields_of_later_versions_are_passed_over() {
        let mut line = Vec::new();
        entry(5, pull("ci", "team/app")).write_line(&mut line);
        let later = String::from_utf8(line).unwrap().replacen('{', "{\"colour\":\"red\",", 1);
        assert_eq!(Entry::read(later.as_bytes()), Some(entry(5, pull("ci", "team/app"))));
    }
}
