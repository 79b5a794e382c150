//! What a ledger of one region means, said again as simply as possible: sets, changed one event after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::super::event::{Content, ContentKind, Event, ManifestFacts};
use super::super::identity::Place;
use crate::oci::Digest;

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub tags: BTreeMap<(String, String), Digest>,
    pub manifests: BTreeMap<(String, Digest), ManifestFacts>,
    pub links: BTreeSet<(String, Digest)>,
    named: BTreeMap<Place, Digest>,
    inline: BTreeSet<Digest>,
    gone: BTreeSet<Place>,
}

impl Model {
    fn is_live(&self, digest: &Digest) -> bool {
        self.inline.contains(digest) || self.named.iter().any(|(place, of)| of == digest && !self.gone.contains(place))
    }

    fn takes_content(&self, digest: &Digest, content: &Content) -> bool {
        match content {
            Content::Inline(_) => true,
            Content::Key(place) => !self.gone.contains(place) && self.named.get(place).is_none_or(|of| of == digest),
        }
    }

    fn needs(&self, repository: &str, digest: &Digest) -> bool {
        self.manifests.iter().any(|((of, _), facts)| of == repository && (facts.blobs.contains(digest) || facts.manifests.contains(digest)))
    }

    /// Whether the event may follow.
    pub fn takes(&self, event: &Event) -> bool {
        match event {
            Event::Blob { digest, content, .. } => self.takes_content(digest, content),
            Event::Link { digest, .. } => self.is_live(digest),
            Event::Manifest(manifest) => {
                let repository = manifest.repository.to_string();
                let has_blob = |digest: &Digest| self.is_live(digest) && self.links.contains(&(repository.clone(), *digest));
                let has_manifest = |digest: &Digest| self.manifests.contains_key(&(repository.clone(), *digest));
                self.takes_content(&manifest.digest, &manifest.content)
                    && manifest.facts.blobs.iter().all(has_blob)
                    && manifest.facts.manifests.iter().all(has_manifest)
            }
            Event::Tag { repository, digest, .. } => self.manifests.contains_key(&(repository.to_string(), *digest)),
            Event::Untag { repository, tag } => self.tags.contains_key(&(repository.to_string(), tag.to_string())),
            Event::Delete { repository, digest, kind } => {
                let name = (repository.to_string(), *digest);
                let is_there = match kind {
                    ContentKind::Manifest => self.manifests.contains_key(&name),
                    ContentKind::Blob => self.links.contains(&name),
                };
                is_there && !self.needs(&name.0, digest)
            }
            Event::Abandon { places } => places.iter().all(|place| !self.named.contains_key(place)),
            _ => true,
        }
    }

    pub fn fold(&mut self, event: &Event) {
        match event {
            Event::Blob { digest, content, .. } => self.name(digest, content),
            Event::Link { repository, digest } => drop(self.links.insert((repository.to_string(), *digest))),
            Event::Manifest(manifest) => {
                self.name(&manifest.digest, &manifest.content);
                self.manifests.insert((manifest.repository.to_string(), manifest.digest), manifest.facts.clone());
            }
            Event::Tag { repository, tag, digest, .. } => {
                self.tags.insert((repository.to_string(), tag.to_string()), *digest);
            }
            Event::Untag { repository, tag } => drop(self.tags.remove(&(repository.to_string(), tag.to_string()))),
            Event::Delete { repository, digest, kind: ContentKind::Manifest } => {
                let repository = repository.to_string();
                self.manifests.remove(&(repository.clone(), *digest));
                self.tags.retain(|(of, _), named| !(*of == repository && named == digest));
            }
            Event::Delete { repository, digest, kind: ContentKind::Blob } => {
                self.links.remove(&(repository.to_string(), *digest));
            }
            Event::Abandon { places } => self.gone.extend(places.iter().cloned()),
            _ => {}
        }
    }

    fn name(&mut self, digest: &Digest, content: &Content) {
        match content {
            Content::Inline(_) => drop(self.inline.insert(*digest)),
            Content::Key(place) => drop(self.named.insert(place.clone(), *digest)),
        }
    }

    /// Whether all of a caller's events may follow, one after the other.
    pub fn takes_all(&self, events: &[Event]) -> bool {
        let mut state = self.clone();
        events.iter().all(|event| {
            let takes = state.takes(event);
            state.fold(event);
            takes
        })
    }
}
