//! What a follower wants to know of a segment besides importing it.

use super::event::Event;
use super::identity::HybridTime;
use super::segment::{self, Object};
use crate::oci::{Digest, RepositoryName};

/// What stands in a segment, in short.
#[derive(Clone, Debug, PartialEq)]
pub struct Glance {
    /// When it was committed, by its writer's clock.
    pub clock: HybridTime,
    /// Content that it brings into repositories.
    pub contents: Vec<(RepositoryName, Digest)>,
    /// Whether it says nothing but that its writer is there.
    pub is_heartbeat: bool,
}

impl Glance {
    /// `None` for what is no segment, or a stub of one.
    pub fn at(object: &[u8]) -> Option<Glance> {
        let Ok(Object::Segment(segment)) = segment::decode(object) else { return None };
        let is_heartbeat = segment.events.iter().all(|event| matches!(event, Event::Heartbeat {}));
        let contents = segment.events.into_iter().filter_map(|event| match event {
            Event::Link { repository, digest } => Some((repository, digest)),
            Event::Manifest(manifest) => Some((manifest.repository, manifest.digest)),
            _ => None,
        });
        Some(Glance { clock: segment.header.clock, contents: contents.collect(), is_heartbeat })
    }
}
