//! From what was committed and folded to events.
//!
//! | action | what it comes from | whose webhooks tell it |
//! |---|---|---|
//! | `push`, `delete` | a segment of the own ledger | those of the edge that wrote the segment |
//! | `available` | a push or a copy of the own ledger, or an import that names an image | those of the edge that wrote one or the other |
//! | `conflict` | any of these | the same, if the tag that prevails was set in this region |
//!
//! What was folded is looked at a moment later: then the index knows what else came at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::Noted;
use super::event::{Event, Target};
use crate::clock::Timestamp;
use crate::config::WebhookAction;
use crate::ledger::{self, Attributes, Chapter, ContentKind, Imported, Ledger, LedgerError};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// Repositories, and manifests of one, that are looked at for one content, at most.
const MAX_REPOSITORIES: usize = 1_000;
const MAX_NEEDING: usize = 1_000;
/// Repositories that are looked through for a manifest that has a key of its own, at most.
const MAX_SCANNED: usize = 10_000;
/// How far up from a content images are looked for: its manifest, an index, an index of those.
const MAX_HEIGHT: usize = 4;
/// Events whose ids are remembered: the same can be found by several ways.
const MAX_REMEMBERED: usize = 10_000;

type Name = (RepositoryName, Tag);
type Manifest = (RepositoryName, Digest);

/// Makes events. Only the reader has one.
pub(super) struct Teller<'a> {
    pub ledger: &'a Ledger,
    pub noted: &'a Noted,
    /// What anybody wants to hear.
    pub wanted: HashSet<WebhookAction>,
    pub told: &'a mut Remembered,
}

/// Ids of events that were told.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Remembered {
    /// Whether it is a new one; it is not from now on.
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Images and tags of which there may be something to tell.
#[derive(Debug, Default)]
struct Touched {
    /// With the tags that were set; none: whichever it has.
    images: BTreeMap<Manifest, BTreeSet<Tag>>,
    names: BTreeSet<Name>,
}

impl Touched {
    fn image(&mut self, repository: &RepositoryName, digest: &Digest, tag: Option<&Tag>) {
        self.images.entry((repository.clone(), *digest)).or_default().extend(tag.cloned());
    }
}

impl Teller<'_> {
    /// What a segment of the own ledger says.
    pub fn own(&mut self, chapter: &Chapter) -> Result<Vec<Arc<Event>>, LedgerError> {
        let (mut events, mut touched) = (Vec::new(), Touched::default());
        let mut facts: HashMap<Manifest, ledger::ManifestFacts> = HashMap::new();
        let tagged: HashSet<Manifest> = chapter.events.iter().filter_map(tagged).collect();
        // Who locks something says it again: that is no push.
        let mut again: HashSet<(RepositoryName, Option<Tag>, Digest)> = HashSet::new();
        for (index, event) in chapter.events.iter().enumerate() {
            match event {
                ledger::Event::Lock { repository, tag, digest: Some(digest), locked, attributes }
                    if !attributes.map_or(!*locked, Attributes::may_delete) =>
                {
                    again.extend([None, tag.clone()].into_iter().map(|tag| (repository.clone(), tag, *digest)));
                }
                ledger::Event::Manifest(manifest) => {
                    let image = (manifest.repository.clone(), manifest.digest);
                    facts.insert(image.clone(), manifest.facts.clone());
                    let is_again = again.remove(&(image.0.clone(), None, image.1));
                    if !is_again && !tagged.contains(&image) {
                        events.extend(self.push((chapter, index), &image, None, &facts)?);
                        touched.image(&image.0, &image.1, None);
                    }
                }
                ledger::Event::Tag { repository, tag, digest, .. } => {
                    touched.names.insert((repository.clone(), tag.clone()));
                    if !again.remove(&(repository.clone(), Some(tag.clone()), *digest)) {
                        events.extend(self.push((chapter, index), &(repository.clone(), *digest), Some(tag), &facts)?);
                        touched.image(repository, digest, Some(tag));
                    }
                }
                ledger::Event::Untag { repository, tag } => {
                    events.extend(self.delete((chapter, index), repository, (Some(tag), None))?);
                }
                ledger::Event::Delete { repository, digest, kind: ContentKind::Manifest } => {
                    events.extend(self.delete((chapter, index), repository, (None, Some(digest)))?);
                }
                ledger::Event::Copy { digest, .. } if self.wanted.contains(&WebhookAction::Available) => {
                    self.images_of(digest, &mut touched)?;
                }
                _ => {}
            }
        }
        events.extend(self.came(&touched, chapter.at)?);
        Ok(events)
    }

    /// What other regions' segments mean for this one.
    pub fn imported(&mut self, imported: &Imported) -> Result<Vec<Arc<Event>>, LedgerError> {
        let (mut touched, mut at) = (Touched::default(), Timestamp::default());
        for chapter in &imported.chapters {
            at = at.max(chapter.at);
            for event in &chapter.events {
                match event {
                    ledger::Event::Manifest(manifest) => touched.image(&manifest.repository, &manifest.digest, None),
                    ledger::Event::Tag { repository, tag, digest, .. } => {
                        touched.image(repository, digest, Some(tag));
                        touched.names.insert((repository.clone(), tag.clone()));
                    }
                    ledger::Event::Lock { repository, tag: Some(tag), .. } => {
                        touched.names.insert((repository.clone(), tag.clone()));
                    }
                    _ => {}
                }
            }
        }
        self.came(&touched, at)
    }

    fn came(&mut self, touched: &Touched, at: Timestamp) -> Result<Vec<Arc<Event>>, LedgerError> {
        let mut events = Vec::new();
        if self.wanted.contains(&WebhookAction::Available) {
            for (image, tags) in &touched.images {
                events.extend(self.available(image, tags)?);
            }
        }
        if self.wanted.contains(&WebhookAction::Conflict) {
            for name in &touched.names {
                events.extend(self.conflict(name, at)?);
            }
        }
        events.retain(|event| self.told.is_new(&event.id));
        Ok(events.into_iter().map(Arc::new).collect())
    }

    fn region(&self) -> &str {
        &self.ledger.origin().region
    }

    fn push(
        &self,
        (chapter, index): (&Chapter, usize),
        (repository, digest): &Manifest,
        tag: Option<&Tag>,
        facts: &HashMap<Manifest, ledger::ManifestFacts>,
    ) -> Result<Option<Arc<Event>>, LedgerError> {
        if !self.wanted.contains(&WebhookAction::Push) {
            return Ok(None);
        }
        let facts = match facts.get(&(repository.clone(), *digest)) {
            Some(facts) => Some(facts.clone()),
            None => self.ledger.known_facts(repository, digest)?,
        };
        let target = target((repository, tag, Some(digest)), facts);
        Ok(Some(self.happened(WebhookAction::Push, (chapter, index), &target, "PUT")))
    }

    fn delete(
        &self,
        (chapter, index): (&Chapter, usize),
        repository: &RepositoryName,
        (tag, digest): (Option<&Tag>, Option<&Digest>),
    ) -> Result<Option<Arc<Event>>, LedgerError> {
        if !self.wanted.contains(&WebhookAction::Delete) {
            return Ok(None);
        }
        let facts = digest.map(|digest| self.ledger.known_facts(repository, digest)).transpose()?.flatten();
        let target = target((repository, tag, digest), facts);
        Ok(Some(self.happened(WebhookAction::Delete, (chapter, index), &target, "DELETE")))
    }

    /// An event of the ledger is the same for whoever tells it, and whenever.
    fn happened(&self, action: WebhookAction, (chapter, index): (&Chapter, usize), target: &Target, method: &str) -> Arc<Event> {
        let (origin, seq, index) = (chapter.origin.to_string(), chapter.seq.to_string(), index.to_string());
        let request = self.noted.request((&chapter.origin, chapter.seq), &target.repository, method);
        Arc::new(Event::new((action, &[&origin, &seq, &index]), chapter.at, self.region(), target, Some(&request)))
    }

    /// The image of each of these tags, if this region has all of it.
    fn available(&self, (repository, digest): &Manifest, tags: &BTreeSet<Tag>) -> Result<Vec<Event>, LedgerError> {
        let since = match self.ledger.whole_since(self.region(), repository, digest) {
            Ok(since) => since,
            // An index of too many manifests.
            Err(LedgerError::Unavailable(why)) => {
                tracing::debug!(%repository, %digest, why, "whether an image is here whole cannot be told");
                None
            }
            Err(why) => return Err(why),
        };
        let Some(since) = since else { return Ok(Vec::new()) };
        let named = self.ledger.tags_of(repository, digest)?;
        let mut told: Vec<Option<Tag>> = named.into_iter().filter(|tag| tags.is_empty() || tags.contains(tag)).map(Some).collect();
        if told.is_empty() {
            // What belongs to an index is told of with that.
            if !tags.is_empty() || self.ledger.is_needed(repository, digest, |_| true)? {
                return Ok(Vec::new());
            }
            told.push(None);
        }
        let facts = self.ledger.known_facts(repository, digest)?;
        let event = |tag: Option<Tag>| {
            let target = target((repository, tag.as_ref(), Some(digest)), facts.clone());
            let (digest, since_ms) = (digest.to_string(), since.as_ms().to_string());
            let tag = tag.as_ref().map_or("", Tag::as_str);
            let identity = [self.region(), repository.as_str(), &digest, tag, &since_ms];
            Event::new((WebhookAction::Available, &identity), since, self.region(), &target, None)
        };
        Ok(told.into_iter().map(event).collect())
    }

    /// A tag that regions set without having seen each other's, and this one prevails.
    fn conflict(&self, (repository, tag): &Name, at: Timestamp) -> Result<Option<Event>, LedgerError> {
        let Some(entry) = self.ledger.tag(repository, tag)?.filter(|entry| !entry.losers.is_empty()) else { return Ok(None) };
        let named = self.ledger.named(repository, &Reference::Tag(tag.clone()))?;
        if named.is_none_or(|named| *named.push.origin.region != *self.region()) {
            return Ok(None);
        }
        let facts = self.ledger.known_facts(repository, &entry.digest)?;
        let mut losers: Vec<String> = entry.losers.iter().map(ToString::to_string).collect();
        losers.sort();
        let (winner, losers) = (entry.digest.to_string(), losers.join(" "));
        let target = Target { losers: entry.losers, ..target((repository, Some(tag), Some(&entry.digest)), facts) };
        let identity = [repository.as_str(), tag.as_str(), &winner, &losers];
        Ok(Some(Event::new((WebhookAction::Conflict, &identity), at, self.region(), &target, None)))
    }

    /// The images that a content belongs to.
    fn images_of(&self, digest: &Digest, touched: &mut Touched) -> Result<(), LedgerError> {
        let mut repositories = self.ledger.repositories_with(digest, MAX_REPOSITORIES)?;
        if repositories.is_empty() {
            repositories = self.repositories_of_manifest(digest)?;
        }
        for repository in &repositories {
            let mut level = vec![*digest];
            for _ in 0..MAX_HEIGHT {
                let mut above = BTreeSet::new();
                for content in &level {
                    if self.ledger.manifest(repository, content)?.is_some() {
                        touched.image(repository, content, None);
                    }
                    above.extend(self.ledger.needing(repository, content, MAX_NEEDING)?);
                }
                level = above.into_iter().take(MAX_NEEDING).collect();
            }
        }
        Ok(())
    }

    /// No table leads from a manifest to its repositories; only one that is too large for the ledger is ever copied.
    fn repositories_of_manifest(&self, digest: &Digest) -> Result<Vec<RepositoryName>, LedgerError> {
        let mut found = Vec::new();
        for entry in self.ledger.repositories(None, MAX_SCANNED)? {
            if self.ledger.manifest(&entry.name, digest)?.is_some() {
                found.push(entry.name);
            }
        }
        Ok(found)
    }
}

fn tagged(event: &ledger::Event) -> Option<Manifest> {
    match event {
        ledger::Event::Tag { repository, digest, .. } => Some((repository.clone(), *digest)),
        _ => None,
    }
}

fn target((repository, tag, digest): (&RepositoryName, Option<&Tag>, Option<&Digest>), facts: Option<ledger::ManifestFacts>) -> Target {
    let size = facts.as_ref().map(|facts| facts.size_bytes);
    Target {
        media_type: facts.map(|facts| facts.media_type),
        size,
        digest: digest.copied(),
        length: size,
        repository: repository.clone(),
        tag: tag.cloned(),
        losers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_remembered_for_a_while() {
        let mut told = Remembered::default();
        assert!(told.is_new("a") && !told.is_new("a"));
        for number in 0..MAX_REMEMBERED {
            assert!(told.is_new(&number.to_string()));
        }
        assert!(told.is_new("a"));
        assert_eq!(told.ids.len(), MAX_REMEMBERED);
    }
}
