//! What one request leaves in the record. The names of its fields are a contract, as are those of [`Entry`](crate::records::Entry).

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::access::Principal;
use crate::oci::{Digest, RepositoryName};
use crate::records::{Line, Note};

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

impl Note for Event {
    fn write(&self, line: &mut Line<'_>) {
        line.text("request", &self.request);
        line.text("principal", self.principal.as_str());
        line.text("proof", &self.proof);
        if let Some(address) = self.address {
            line.address("address", address);
        }
        line.maybe("agent", self.agent.as_deref());
        line.text("action", &self.action);
        line.text("route", &self.route);
        line.text("method", &self.method);
        line.maybe("upstream", self.upstream.as_deref());
        if let Some(repository) = &self.repository {
            line.plain("repository", repository.as_str());
        }
        line.maybe("reference", self.reference.as_deref());
        if let Some(digest) = &self.digest {
            digest.with_text(|text| line.plain("digest", text));
        }
        line.maybe("detail", self.detail.as_deref());
        line.number("bytes", self.bytes);
        line.number("took_ms", self.took_ms);
        line.number("status", self.status.into());
        line.plain("outcome", self.outcome.as_str());
        line.maybe("why", self.why.as_deref());
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

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::super::testing::{entry, pull};
    use super::*;
    use crate::records::Entry;

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
            assert_eq!(Entry::<Event>::read(&line[..line.len() / 2]), None, "a line that was cut");
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
