//! A manifest and all that it needs, and since when a region has all of it.

use std::collections::HashSet;

use super::query::BlobEntry;
use super::{Ledger, LedgerError};
use crate::clock::Timestamp;
use crate::oci::{Digest, RepositoryName};

/// Manifests below an index that are looked at, at most.
const MAX_MANIFESTS: usize = 10_000;

impl Ledger {
    /// A manifest and all that it needs, each once.
    ///
    /// # Errors
    /// Also for an index of very many manifests.
    pub fn contents_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<(Digest, BlobEntry)>, LedgerError> {
        let (mut found, mut waiting, mut seen, mut manifests) = (Vec::new(), vec![*digest], HashSet::from([*digest]), 0);
        while let Some(next) = waiting.pop() {
            manifests += 1;
            if manifests > MAX_MANIFESTS {
                return Err(LedgerError::Unavailable(format!("an image of more than {MAX_MANIFESTS} manifests")));
            }
            // What a sparse index names may not be there.
            let Some(entry) = self.manifest(repository, &next)? else { continue };
            for blob in entry.facts.blobs.iter().filter(|blob| seen.insert(**blob)).collect::<Vec<_>>() {
                let lost = BlobEntry { size_bytes: 0, inline: None, places: Vec::new() };
                found.push((*blob, self.places(blob)?.unwrap_or(lost)));
            }
            waiting.extend(entry.facts.manifests.iter().filter(|manifest| seen.insert(**manifest)));
            found.push((next, entry.content));
        }
        Ok(found)
    }

    /// Since when a region has a content in its bucket.
    ///
    /// # Errors
    /// The index cannot tell.
    pub fn held_since(&self, region: &str, entry: &BlobEntry) -> Result<Option<Timestamp>, LedgerError> {
        let mut first: Option<Timestamp> = None;
        for place in entry.places.iter().filter(|place| *place.origin.region == *region) {
            if let Some(entry) = self.place(place)?.filter(|entry| !entry.is_gone) {
                first = Some(first.map_or(entry.since, |first| first.min(entry.since)));
            }
        }
        Ok(first)
    }

    /// When the last of a manifest and of all that it needs came to a region; `None` while it has not all of it. What travels in the
    /// ledger is there with the knowledge of it.
    ///
    /// # Errors
    /// As [`contents_of`](Self::contents_of).
    pub fn whole_since(&self, region: &str, repository: &RepositoryName, digest: &Digest) -> Result<Option<Timestamp>, LedgerError> {
        let Some(entry) = self.manifest(repository, digest)? else { return Ok(None) };
        let mut last = entry.created_at;
        for (_, content) in self.contents_of(repository, digest)? {
            match self.held_since(region, &content)? {
                Some(since) => last = last.max(since),
                None if content.inline.is_some() => {}
                None => return Ok(None),
            }
        }
        Ok(Some(last))
    }
}
