//! One manifest with all that it needs, on its way to an upstream.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::queue::{Key, Outcome};
use super::{Inner, content};
use crate::ledger::{AppendError, Event, Ledger, LedgerError, Look, ManifestEntry};
use crate::oci::{Algorithm, Descriptor, Digest, MAX_MANIFEST_BYTES, Reference, RepositoryName, Tag};
use crate::region::{NotOpen, Open};
use crate::upstream::{BlobPush, ContentStream, ManifestPush, Outgoing, SubjectNoted, Upstream, UpstreamError};

/// Blobs of one manifest on their way at one time.
const BLOBS_AT_ONCE: usize = 4;
/// How deep indexes and subjects may refer to one another.
const MAX_DEPTH: usize = 16;
/// Other repositories that are looked through for one that a blob can be mounted from.
const MOUNT_SOURCES: usize = 16;

/// Why it did not arrive.
enum Stopped {
    Unavailable { why: String, retry_after: Option<std::time::Duration> },
    Refused(String),
}

impl From<UpstreamError> for Stopped {
    fn from(error: UpstreamError) -> Stopped {
        match error {
            UpstreamError::Unavailable { retry_after, .. } => Stopped::Unavailable { why: error.to_string(), retry_after },
            UpstreamError::Broken(why) => not_now(why),
            UpstreamError::Absent | UpstreamError::Denied | UpstreamError::WrongAnswer(_) => Stopped::Refused(error.to_string()),
        }
    }
}

impl From<LedgerError> for Stopped {
    fn from(error: LedgerError) -> Stopped {
        not_now(error)
    }
}

impl From<AppendError> for Stopped {
    fn from(error: AppendError) -> Stopped {
        not_now(error)
    }
}

impl From<NotOpen> for Stopped {
    fn from(error: NotOpen) -> Stopped {
        not_now(error)
    }
}

fn not_now(why: impl ToString) -> Stopped {
    Stopped::Unavailable { why: why.to_string(), retry_after: None }
}

pub(super) struct Errand<'a> {
    pub inner: &'a Inner,
    pub key: &'a Key,
    pub upstream: &'a Upstream,
}

/// The errand, with the region at hand.
struct Journey<'a> {
    errand: &'a Errand<'a>,
    open: &'a Open,
    ledger: &'a Ledger,
    /// What the upstream has taken.
    taken: Vec<Event>,
}

impl Errand<'_> {
    /// Passes the manifest on, under those of the tags that still name it.
    pub async fn run(&self, tags: Vec<Tag>) -> Outcome {
        match self.attempt(tags).await {
            Ok(outcome) => outcome,
            Err(Stopped::Unavailable { why, retry_after }) => Outcome::Unavailable { why, retry_after },
            Err(Stopped::Refused(why)) => Outcome::Refused(why),
        }
    }

    async fn attempt(&self, tags: Vec<Tag>) -> Result<Outcome, Stopped> {
        let open = self.inner.region.get()?;
        open.ledger.confirm(Look::Recent).await?;
        let mut journey = Journey { errand: self, open, ledger: &open.ledger, taken: Vec::new() };
        let tags = journey.waiting_tags(&tags)?;
        if tags.is_empty() && !journey.waits(&Reference::Digest(self.key.digest))? {
            return Ok(Outcome::Gone);
        }
        let Some(entry) = open.ledger.manifest(&self.key.repository, &self.key.digest)? else { return Ok(Outcome::Gone) };
        let arrived = journey.manifest(&entry, &tags, 0).await;
        let taken = std::mem::take(&mut journey.taken);
        if !taken.is_empty() {
            // Of what broke off, too: the next try need not ask for it again.
            let noted = open.ledger.append(taken).await;
            arrived?;
            noted?;
            return Ok(Outcome::Passed);
        }
        arrived.map(|()| Outcome::Gone)
    }
}

impl Journey<'_> {
    fn repository(&self) -> &RepositoryName {
        &self.errand.key.repository
    }

    fn upstream(&self) -> &Upstream {
        self.errand.upstream
    }

    /// Whether a name stands here that the upstream was not given since its last push.
    fn waits(&self, reference: &Reference) -> Result<bool, LedgerError> {
        Ok(self.ledger.unforwarded_name(self.repository(), reference, self.upstream().name())?.is_some())
    }

    fn waiting_tags(&self, tags: &[Tag]) -> Result<Vec<Tag>, LedgerError> {
        let mut waiting = Vec::new();
        for tag in tags {
            let found = self.ledger.unforwarded_name(self.repository(), &Reference::Tag(tag.clone()), self.upstream().name())?;
            if found.is_some_and(|entry| entry.digest == self.errand.key.digest) {
                waiting.push(tag.clone());
            }
        }
        Ok(waiting)
    }

    /// A manifest, after all that it refers to.
    fn manifest<'b>(&'b mut self, entry: &'b ManifestEntry, tags: &'b [Tag], depth: usize) -> BoxFuture<'b, Result<(), Stopped>> {
        async move {
            if depth > MAX_DEPTH {
                return Err(Stopped::Refused(format!("manifests refer to one another more than {MAX_DEPTH} deep")));
            }
            for needed in entry.facts.subject.iter().chain(&entry.facts.manifests) {
                // A subject, or a part of a sparse index, may never have been here.
                let found = self.ledger.manifest(self.repository(), needed)?;
                if let Some(needed) = found
                    && self.waits(&Reference::Digest(needed.digest))?
                {
                    self.manifest(&needed, &[], depth + 1).await?;
                }
            }
            self.blobs(&entry.facts.blobs).await?;
            self.put(entry, tags).await
        }
        .boxed()
    }

    async fn blobs(&self, digests: &[Digest]) -> Result<(), Stopped> {
        // The first one alone: an upstream that did not answer for a while is asked by one request at a time, and refused to the others.
        let Some((first, rest)) = digests.split_first() else { return Ok(()) };
        self.blob(first).await?;
        let failed = &AtomicBool::new(false);
        let pushes = stream::iter(rest.to_vec())
            .map(|digest| async move { if failed.load(Ordering::Relaxed) { Ok(()) } else { self.blob(&digest).await } });
        let mut pushes = pin!(pushes.buffer_unordered(BLOBS_AT_ONCE));
        let mut outcome = Ok(());
        while let Some(pushed) = pushes.next().await {
            // What is under way is brought to its end: an upload that is left would be begun again from nothing.
            failed.fetch_or(pushed.is_err(), Ordering::Relaxed);
            outcome = outcome.and(pushed);
        }
        outcome
    }

    async fn blob(&self, digest: &Digest) -> Result<(), Stopped> {
        let entry = self.ledger.blob(self.repository(), digest)?;
        let entry = entry.ok_or_else(|| not_now(format!("the blob {digest} is not here")))?;
        let from = self.mount_source(digest)?;
        let open = || -> ContentStream { content::open((&self.errand.inner.region, self.open), digest, &entry) };
        let content = Outgoing { size_bytes: entry.size_bytes, open: &open };
        self.upstream().push_blob(self.repository(), &BlobPush { digest, content, from: from.as_ref() }).await?;
        Ok(())
    }

    /// Another repository of the upstream's that has the blob, or will have it.
    fn mount_source(&self, digest: &Digest) -> Result<Option<RepositoryName>, LedgerError> {
        let policies = self.errand.inner.policies();
        let goes_there = |name: &RepositoryName| policies.upstream(name).is_some_and(|to| to.name() == self.upstream().name());
        let found = self.ledger.repositories_with(digest, MOUNT_SOURCES)?;
        Ok(found.into_iter().find(|name| name != self.repository() && goes_there(name)))
    }

    /// Puts a manifest whose references are there.
    async fn put(&mut self, entry: &ManifestEntry, tags: &[Tag]) -> Result<(), Stopped> {
        let digest = entry.digest;
        let bytes =
            content::whole((&self.errand.inner.region, self.open), &digest, &entry.content, MAX_MANIFEST_BYTES).await.map_err(not_now)?;
        if Digest::of(digest.algorithm(), &bytes) != digest {
            return Err(not_now(format!("the bytes of {digest} are not its own")));
        }
        // A push by tag says nothing of another algorithm than sha256.
        if tags.is_empty() || digest.algorithm() != Algorithm::Sha256 {
            self.put_as(entry, &bytes, Reference::Digest(digest)).await?;
        }
        for tag in tags {
            // All the blobs went before: meanwhile the tag may have moved, and what it names now has a turn of its own.
            let _ = self.ledger.confirm(Look::Recent).await;
            if self.ledger.tag(self.repository(), tag)?.is_some_and(|found| found.digest == digest) {
                self.put_as(entry, &bytes, Reference::Tag(tag.clone())).await?;
            }
        }
        Ok(())
    }

    async fn put_as(&mut self, entry: &ManifestEntry, bytes: &Bytes, reference: Reference) -> Result<(), Stopped> {
        let push = ManifestPush { digest: &entry.digest, media_type: &entry.facts.media_type, bytes };
        let noted = self.upstream().push_manifest(self.repository(), &reference, &push).await?;
        if let (Some(subject), SubjectNoted::No) = (&entry.facts.subject, noted) {
            let _alone = self.errand.inner.referrers.lock().await;
            self.upstream().list_referrer(self.repository(), subject, &descriptor(entry)).await?;
        }
        let upstream: &Arc<str> = self.upstream().name();
        let note = |tag| Event::forwarded(self.repository().clone(), tag, entry.digest, upstream);
        let (itself, tagged) = (note(None), if let Reference::Tag(tag) = reference { Some(note(Some(tag))) } else { None });
        self.taken.extend(Some(itself).filter(|itself| !self.taken.contains(itself)).into_iter().chain(tagged));
        Ok(())
    }
}

/// How a list of referrers names it.
fn descriptor(entry: &ManifestEntry) -> Descriptor {
    let facts = &entry.facts;
    Descriptor {
        media_type: facts.media_type.clone(),
        digest: entry.digest,
        size: facts.size_bytes,
        urls: Vec::new(),
        platform: None,
        artifact_type: facts.artifact_type.clone(),
        annotations: facts.annotations.clone(),
    }
}
