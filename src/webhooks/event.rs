//! What receivers are told: the envelope of Azure Container Registry's webhooks, with outport's own actions in the same form.

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::WebhookAction;
use crate::oci::{Digest, RepositoryName, Tag};

/// One event, as all receivers get it. Its id is made of what happened: told again, it has the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub id: String,
    pub action: WebhookAction,
    pub repository: RepositoryName,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
    /// When it happened.
    pub at: Timestamp,
    pub body: Bytes,
}

/// What something happened to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Bytes of the manifest; `length` is the same once more, as Azure has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    pub repository: RepositoryName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Of a conflict: what else the tag was to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losers: Vec<Digest>,
}

/// The request that made it happen, as far as this edge still knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Request {
    pub id: String,
    pub host: String,
    pub method: String,
    pub useragent: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    timestamp: String,
    action: &'a str,
    region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a Request>,
}

impl Event {
    /// `identity` is what makes it one event and no other, beside its action.
    pub fn new(
        (action, identity): (WebhookAction, &[&str]),
        at: Timestamp,
        region: &str,
        target: &Target,
        request: Option<&Request>,
    ) -> Event {
        let id = id_of(action.as_str(), identity);
        let body = body(&id, action.as_str(), at, region, (Some(target), request));
        Event { id, action, repository: target.repository.clone(), tag: target.tag.clone(), digest: target.digest, at, body }
    }
}

/// Asks a receiver whether it is there.
pub(super) fn ping(id: &str, at: Timestamp, region: &str) -> Bytes {
    body(id, "ping", at, region, (None, None))
}

fn body(id: &str, action: &str, at: Timestamp, region: &str, (target, request): (Option<&Target>, Option<&Request>)) -> Bytes {
    let envelope = Envelope { id, timestamp: at.rfc3339(), action, region, target, request };
    serde_json::to_vec(&envelope).unwrap_or_default().into()
}

/// A UUID of version 8 (RFC 9562, section 5.8): the beginning of a hash of what it is for.
fn id_of(action: &str, identity: &[&str]) -> String {
    // None of the parts has such a byte in it.
    let text = std::iter::once(&action).chain(identity).fold(String::new(), |text, part| text + part + "\0");
    let hash = Digest::sha256(text.as_bytes());
    uuid(&hash.hex())
}

/// Of at least 32 hexadecimal digits.
pub(super) fn uuid(hex: &str) -> String {
    let variant = match hex.as_bytes()[16] {
        b'0' | b'4' | b'8' | b'c' => '8',
        b'1' | b'5' | b'9' | b'd' => '9',
        b'2' | b'6' | b'a' | b'e' => 'a',
        _ => 'b',
    };
    format!("{}-{}-8{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target() -> Target {
        Target {
            media_type: Some("application/vnd.oci.image.manifest.v1+json".into()),
            size: Some(524),
            digest: Some(Digest::sha256(b"a")),
            length: Some(524),
            repository: "team/app".parse().unwrap(),
            tag: Some("v1".parse().unwrap()),
            losers: Vec::new(),
        }
    }

    #[test]
    fn a_push_reads_as_azure_writes_it() {
        let request = Request { id: "r1".into(), host: "edge.example".into(), method: "PUT".into(), useragent: "docker/27".into() };
        let identity = (WebhookAction::Push, &["eu.01", "7", "2"][..]);
        let event = Event::new(identity, Timestamp::from_ms(1_000), "eu", &target(), Some(&request));
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        let digest = Digest::sha256(b"a").to_string();
        assert_eq!(
            body,
            json!({
                "id": event.id, "timestamp": "1970-01-01T00:00:01.000Z", "action": "push", "region": "eu",
                "target": {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 524, "digest": digest, "length": 524,
                    "repository": "team/app", "tag": "v1",
                },
                "request": {"id": "r1", "host": "edge.example", "method": "PUT", "useragent": "docker/27"},
            })
        );
        // Told again, whatever is known of the request, it is the same event.
        assert_eq!(Event::new(identity, Timestamp::from_ms(2_000), "eu", &target(), None).id, event.id);
        for other in [
            (WebhookAction::Delete, &["eu.01", "7", "2"][..]),
            (WebhookAction::Push, &["eu.01", "7", "3"]),
            (WebhookAction::Push, &["eu.01", "72"]),
        ] {
            assert_ne!(Event::new(other, Timestamp::from_ms(1_000), "eu", &target(), None).id, event.id);
        }
    }

    #[test]
    fn ids_are_uuids() {
        for seed in 0..64_u8 {
            let id = id_of("push", &[&seed.to_string()]);
            let parts: Vec<&str> = id.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
            assert!(parts[2].starts_with('8') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
        }
    }
}
