//! Entries for tests.

use ulid::Ulid;

use super::{Event, Outcome};
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::records::Entry;

/// A pull by a tag.
pub(super) fn pull(principal: &str, repository: &str) -> Event {
    Event {
        request: "id-1".to_owned(),
        principal: Principal::Named(principal.into()),
        proof: "basic".into(),
        address: "10.0.0.1".parse().ok(),
        agent: Some("podman/5".to_owned()),
        action: "pull".into(),
        route: "manifest".into(),
        method: "GET".into(),
        upstream: None,
        repository: repository.parse().ok(),
        reference: Some("v1".to_owned()),
        digest: Some(Digest::sha256(b"")),
        detail: None,
        bytes: 7,
        took_ms: 3,
        status: 200,
        outcome: Outcome::Allowed,
        why: None,
    }
}

pub(super) fn entry(at_ms: u64, event: Event) -> Entry<Event> {
    let time = Timestamp::from_ms(at_ms);
    Entry { time, id: Ulid::from_parts(at_ms, u128::from(at_ms)), region: "eu".into(), node: Ulid::from_parts(1, 2), lost: 0, event }
}
