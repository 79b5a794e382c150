//! What edges of other regions are told. Each use case takes a [`Caller`], the proof that its caller is one; such a caller may read
//! everything that is hosted. Nobody is asked in turn: what is not here is not here.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Registry;
use crate::bucket::{SnapshotPart, Through};
use crate::cache::{Answer, CacheError, Freshness};
use crate::ledger::{Look, Origin, Segments};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::peers::Caller;
use crate::peers::protocol::{ClockReading, Found, MAX_BATCH_BYTES, MAX_BATCH_SEGMENTS, Status};
use crate::region::{found, found_manifest};
use crate::store::Content;

/// What another region wants to know of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Manifest(Reference),
    Blob(Digest),
}

/// What comes next in a ledger, and how far this region has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    pub segments: Segments,
    pub tail: u64,
}

impl Registry {
    /// Where this region stands, after a fresh look.
    ///
    /// # Errors
    /// `Unavailable`
    pub async fn tell_status(&self, _: &Caller) -> Result<Status, CacheError> {
        let ledger = &self.region()?.ledger;
        ledger.confirm(Look::Now).await?;
        let (origin, vector) = (ledger.origin(), ledger.vector()?);
        let clock = ledger.clock_of(origin)?;
        let seen: BTreeMap<String, u64> = vector.iter().map(|(origin, seq)| (origin.to_string(), seq)).collect();
        Ok(Status {
            region: origin.region.to_string(),
            incarnation: origin.incarnation.to_string(),
            seq: vector.get(origin),
            clock: ClockReading { ms: clock.ms, count: clock.count },
            imports: ledger.imports()?.0,
            seen,
        })
    }

    /// What follows a segment in this region's ledger, or in one that it imported: as many segments as go into one answer. Rests on a
    /// look of the given kind.
    ///
    /// # Errors
    /// `Unavailable`, also where only the look failed and there is nothing to tell.
    pub async fn tell_segments(&self, _: &Caller, origin: &Origin, after: u64, look: Look) -> Result<Next, CacheError> {
        let ledger = &self.region()?.ledger;
        let looked = ledger.confirm(look).await;
        let mut segments = ledger.segments_of(origin, after, MAX_BATCH_BYTES).await?;
        match &mut segments {
            Segments::Some(found) => found.truncate(MAX_BATCH_SEGMENTS),
            // What is committed can be told whether or not there is more.
            Segments::None | Segments::Unknown => looked?,
            Segments::Trimmed => {}
        }
        Ok(Next { segments, tail: ledger.vector()?.get(origin) })
    }

    /// The snapshots of this region's ledger, the latest last.
    ///
    /// # Errors
    /// `Absent` for another ledger; `Unavailable`.
    pub async fn tell_snapshots(&self, _: &Caller, origin: &Origin) -> Result<Vec<Through>, CacheError> {
        let ledger = &self.region()?.ledger;
        if origin == ledger.origin() { Ok(ledger.snapshots().await?) } else { Err(CacheError::Absent) }
    }

    /// An object of one of them, as it lies in the bucket: who takes it over verifies it.
    ///
    /// # Errors
    /// `Absent`; `Unavailable`.
    pub async fn tell_snapshot_part(
        &self,
        _: &Caller,
        origin: &Origin,
        (through, part): (Through, SnapshotPart),
    ) -> Result<Bytes, CacheError> {
        let ledger = &self.region()?.ledger;
        let found = if origin == ledger.origin() { ledger.snapshot_part(through, part).await? } else { None };
        found.ok_or(CacheError::Absent)
    }

    /// Returns when something new was folded here, of whatever ledger.
    ///
    /// # Errors
    /// The region is not open.
    pub fn folded(&self) -> Result<impl Future<Output = ()> + use<>, CacheError> {
        let mut folds = self.region()?.ledger.folds();
        folds.mark_unchanged();
        Ok(async move {
            // It ends only with the ledger.
            let _ = folds.changed().await;
        })
    }

    /// What is known here of a manifest or blob, after a fresh look.
    ///
    /// # Errors
    /// `Absent` only after that look; `Unavailable` where it fails, but for what is known already and cannot change.
    pub async fn tell_found(&self, _: &Caller, repository: &RepositoryName, wanted: &Told) -> Result<Found, CacheError> {
        if !self.is_hosted(repository) {
            return Err(CacheError::Absent);
        }
        let ledger = &self.region()?.ledger;
        let looked = ledger.confirm(Look::Now).await;
        let known = match wanted {
            Told::Manifest(Reference::Digest(digest)) => ledger.manifest(repository, digest)?.map(found_manifest),
            Told::Manifest(Reference::Tag(tag)) => {
                looked.clone()?;
                let digest = ledger.tag(repository, tag)?.map(|entry| entry.digest);
                digest.map(|digest| ledger.manifest(repository, &digest)).transpose()?.flatten().map(found_manifest)
            }
            Told::Blob(digest) => {
                // A manifest may be asked for where blobs are.
                let manifest = || Ok::<_, CacheError>(ledger.manifest(repository, digest)?.map(|entry| entry.content));
                let entry = ledger.blob(repository, digest)?.map_or_else(manifest, |entry| Ok(Some(entry)))?;
                entry.map(|entry| found(digest, entry))
            }
        };
        match known {
            Some(found) => Ok(found),
            None => {
                looked?;
                Err(CacheError::Absent)
            }
        }
    }

    /// The bytes of a hosted content that this region has: in this edge's memory, on its disk, or in the region's bucket.
    ///
    /// # Errors
    /// `Absent` when this region has none of it; `Unavailable` when it has, or nobody can tell, and they cannot be read now.
    pub async fn tell_content(&self, _: &Caller, digest: &Digest) -> Result<Answer<Content>, CacheError> {
        let ledger = &self.region()?.ledger;
        let entry = match ledger.places(digest)? {
            Some(entry) => entry,
            None => {
                ledger.confirm(Look::Now).await?;
                ledger.places(digest)?.ok_or(CacheError::Absent)?
            }
        };
        let here = self.inner.cache.hosted_here(&self.inner.region, digest, &entry).await?;
        let (value, source) = here.ok_or(CacheError::Absent)?;
        Ok(Answer { value, source, freshness: Freshness::Immutable })
    }
}
