//! A whole repository is deleted: all its tags and manifests, so many in one append, what refers to others before what it refers to.

use std::collections::HashSet;
use std::time::Duration;

use super::Registry;
use super::abroad::PUSH_PATIENCE;
use super::push::PushError;
use crate::access::Access;
use crate::ledger::{AppendError, Attributes, ContentKind, Event, Ledger, LedgerError, Look, Position, Rejected};
use crate::oci::{Digest, RepositoryName, Tag};

/// Manifests that are read at a time, and events of one append.
const BATCH: usize = 512;
/// Manifests that one request deletes, at most; who asks again deletes more.
const MAX_REMOVED: usize = 100_000;
/// When to come back for what is left.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often what was changed meanwhile is looked at again.
const ATTEMPTS: u32 = 4;

/// What is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Removed {
    pub manifests: Vec<Digest>,
    pub tags: Vec<Tag>,
    /// Where that stands; nowhere, if there was nothing.
    pub position: Option<Position>,
}

impl Registry {
    /// Nothing of it is deleted while something in it is locked against that. A lock that comes while it is being deleted ends it.
    ///
    /// # Errors
    /// `Proxied`; `RepositoryUnknown`; `Denied`; `Unavailable`, when part of it may be gone.
    pub async fn delete_repository(&self, access: &Access) -> Result<Removed, PushError> {
        let repository = self.pushed_here(access)?;
        let ledger = &self.region()?.ledger;
        if self.inner.replication.has_peers() {
            // What others pushed goes too, as far as that is known in time.
            self.inner.replication.catch_up(PUSH_PATIENCE).await;
        }
        ledger.confirm(Look::Now).await?;
        if ledger.repository(repository)?.is_none() {
            return Err(PushError::RepositoryUnknown);
        }
        if let Some(what) = ledger.lock_against_deletion(repository)? {
            return Err(PushError::Denied(Rejected::Locked(what).to_string()));
        }
        let mut removal = Removal { ledger, repository, events: Vec::new(), gone: HashSet::new(), removed: Removed::default() };
        for attempt in 1.. {
            match removal.run().await {
                Err(AppendError::Rejected(why)) if is_changed(&why) && attempt < ATTEMPTS => removal.begin_again(),
                outcome => {
                    outcome.map_err(|error| match error {
                        AppendError::Rejected(why) if is_changed(&why) => {
                            PushError::Unavailable { why: "the repository is changed all the time".to_owned(), retry_after: None }
                        }
                        error => error.into(),
                    })?;
                    break;
                }
            }
        }
        Ok(removal.removed)
    }
}

/// Somebody pushed or deleted meanwhile.
fn is_changed(why: &Rejected) -> bool {
    matches!(why, Rejected::ManifestUnknown(_) | Rejected::TagUnknown(_) | Rejected::InUse(_))
}

struct Removal<'a> {
    ledger: &'a Ledger,
    repository: &'a RepositoryName,
    /// Not appended yet.
    events: Vec<Event>,
    /// What the events that were made delete.
    gone: HashSet<Digest>,
    removed: Removed,
}

impl Removal<'_> {
    async fn run(&mut self) -> Result<(), AppendError> {
        let mut last = None;
        loop {
            let batch = self.ledger.manifests(self.repository, last.as_ref(), BATCH).map_err(unavailable)?;
            let Some(end) = batch.last() else { break };
            last = Some(end.digest);
            for entry in batch {
                self.remove(entry.digest, entry.facts.manifests).await?;
            }
        }
        self.flush().await?;
        // Tags whose manifest is not here.
        loop {
            let left = self.ledger.tags(self.repository, None, BATCH).map_err(unavailable)?;
            if left.is_empty() {
                break;
            }
            self.events.extend(left.iter().map(|entry| Event::untag(self.repository.clone(), entry.tag.clone())));
            self.removed.tags.extend(left.into_iter().map(|entry| entry.tag));
            self.flush().await?;
        }
        // What a lock would leave for a repository of the same name.
        if self.ledger.attributes(self.repository).map_err(unavailable)? != Attributes::default() {
            self.events.push(Event::lock_repository(self.repository.clone(), Attributes::default()));
        }
        self.flush().await
    }

    /// A manifest that no other one needs, and then those that only it needed.
    async fn remove(&mut self, digest: Digest, children: Vec<Digest>) -> Result<(), AppendError> {
        let mut waiting = vec![(digest, children)];
        while let Some((digest, children)) = waiting.pop() {
            let is_left = |needing: &Digest| *needing != digest && !self.gone.contains(needing);
            let is_needed = self.ledger.is_needed(self.repository, &digest, is_left).map_err(unavailable)?;
            if is_needed || self.gone.contains(&digest) {
                continue;
            }
            if self.removed.manifests.len() >= MAX_REMOVED {
                self.flush().await?;
                let why = format!("{MAX_REMOVED} manifests are deleted, and there are more");
                return Err(AppendError::Unavailable { why, retry_after: AGAIN_AFTER });
            }
            for tag in self.ledger.tags_of(self.repository, &digest).map_err(unavailable)? {
                // It goes with its manifest; said alone, it takes along what a lock left of it.
                self.say(Event::untag(self.repository.clone(), tag.clone())).await?;
                self.removed.tags.push(tag);
            }
            self.say(Event::delete(self.repository.clone(), digest, ContentKind::Manifest)).await?;
            self.gone.insert(digest);
            self.removed.manifests.push(digest);
            for child in children {
                if let Some(entry) = self.ledger.manifest(self.repository, &child).map_err(unavailable)? {
                    waiting.push((child, entry.facts.manifests));
                }
            }
        }
        Ok(())
    }

    async fn say(&mut self, event: Event) -> Result<(), AppendError> {
        self.events.push(event);
        if self.events.len() >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        if !self.events.is_empty() {
            self.removed.position = Some(self.ledger.append(std::mem::take(&mut self.events)).await?);
        }
        Ok(())
    }

    /// Of what was not appended nothing is gone.
    fn begin_again(&mut self) {
        self.events.clear();
        let is_gone = |digest: &Digest| self.ledger.manifest(self.repository, digest).is_ok_and(|entry| entry.is_none());
        self.gone.retain(is_gone);
        self.removed.manifests.retain(|digest| self.gone.contains(digest));
        self.removed.tags.retain(|tag| self.ledger.tag(self.repository, tag).is_ok_and(|entry| entry.is_none()));
    }
}

fn unavailable(why: LedgerError) -> AppendError {
    AppendError::Unavailable { why: why.to_string(), retry_after: AGAIN_AFTER }
}
