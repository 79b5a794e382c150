//! Pushing, without HTTP: what can be done to a hosted repository, and why it is not done.
//!
//! # The use cases
//! Each takes the [`Access`](crate::access::Access) of its caller, for [`Action::Push`](crate::access::Action::Push); a mount also
//! that for pulling from the repository it names, if the caller has it. Bytes come as an [`Inflow`](crate::inflow::Inflow).
//!
//! | use case | answers | errors besides those of every one |
//! |---|---|---|
//! | begin a session | a location | `TooManySessions` |
//! | begin with the whole blob | the blob's digest | those of a chunk and of finishing |
//! | mount | the blob's digest, or a session | none: what cannot be mounted is uploaded |
//! | status | a location, bytes received | `SessionUnknown` |
//! | append a chunk | a location, bytes received | `SessionUnknown`, `OutOfOrder`, `Length`, `TooLarge`, `Inflow` |
//! | finish | the blob's digest | those of a chunk, `DigestMismatch` |
//! | cancel | nothing | `SessionUnknown` |
//! | push a manifest | digest, tags set, subject | `Manifest`, `DigestMismatch`, `ReferencesUnknown`, `ReferenceSize`, `NotHeld` |
//! | delete a manifest or tag | nothing | `ManifestUnknown` |
//! | delete a blob | nothing | `BlobUnknown`, `Referenced` |
//!
//! Every one: `Proxied`, `Denied`, `Unavailable`. Those that change names, in a repository whose home is another region, are passed on to
//! that region by whoever calls ([`Registry::home_abroad`]); `HomeAway` where that cannot be. What is acknowledged has a position in the ledger, which goes with the answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;

use super::abroad::{POSITION_PATIENCE, PUSH_PATIENCE};
use super::{Asking, Registry};
use crate::access::{Access, Principal};
use crate::bucket::{BucketError, Key};
use crate::cache::CacheError;
use crate::config::Acknowledge;
use crate::inflow::{Inflow, InflowError};
use crate::ledger::{
    AppendError, Content, ContentKind, Event, INLINE_BYTES, LedgerError, Look, ManifestFacts, Origin, Place, Position, Rejected, Standing,
};
use crate::oci::{
    Algorithm, Chunk, Descriptor, Digest, InvalidManifest, MAX_MANIFEST_BYTES, PushedManifest, Reference, RepositoryName, SessionId, Tag,
};
use crate::region::NotOpen;
use crate::replication::NotHeld;
use crate::store::ContentError;
use crate::uploads::{Offset, Owner, UploadError, Uploaded};

/// Annotations that travel in the ledger, at most, in bytes.
const MAX_ANNOTATIONS_BYTES: usize = 32 * 1024;
/// How long a push waits for other regions to hold it.
const HOLD_PATIENCE: Duration = Duration::from_secs(30);
/// Repositories that a mount without `from` looks through for one that the caller may read.
const MAX_MOUNT_SOURCES: usize = 64;

/// Why something is not pushed or deleted. The http room has the one table from these to what clients are told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// There is none, it expired, its state is not one that we signed, or it belongs to somebody or something else: all the same.
    #[error("no such upload session")]
    SessionUnknown,
    /// The session stands, and has so many bytes.
    #[error("the chunk does not follow the {received_bytes} bytes that are here")]
    OutOfOrder { received_bytes: u64 },
    /// The body has another length than its head said.
    #[error("the body has not the length that was announced")]
    Length,
    /// The blob would be larger than `limits.max_blob`.
    #[error("a blob has at most {most_bytes} bytes")]
    TooLarge { most_bytes: u64 },
    /// `limits.uploads` are open.
    #[error("too many upload sessions are open")]
    TooManySessions { retry_after: Duration },
    /// The body did not come whole. What came of a chunk is kept: the session stands.
    #[error(transparent)]
    Inflow(#[from] InflowError),
    /// The content has another digest than the one it was pushed under. Of an upload nothing is kept.
    #[error("the content's digest is {found}")]
    DigestMismatch { found: Digest },
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// Not here, or only in repositories that are not this one: the same. Never empty.
    #[error("the manifest refers to what the repository has not")]
    ReferencesUnknown(Vec<Digest>),
    /// The manifest says another size than the content has.
    #[error("{digest} has {size_bytes} bytes")]
    ReferenceSize { digest: Digest, size_bytes: u64 },
    #[error("no such manifest")]
    ManifestUnknown,
    #[error("no such blob")]
    BlobUnknown,
    #[error("no such repository")]
    RepositoryUnknown,
    /// A live manifest of the repository needs the blob.
    #[error("a manifest of this repository refers to the blob")]
    Referenced,
    /// The repository belongs to an upstream: content comes from there only.
    #[error("the repository is an upstream's: nothing is pushed to it here")]
    Proxied,
    /// A lock, or a rule of the repository, forbids it, whoever asks.
    #[error("{0}")]
    Denied(String),
    /// The region that orders the repository's tags is not this one. Pushing by digest goes on.
    #[error("tags of this repository are set in its home, region {home}")]
    HomeAway { home: String, why: String },
    /// It is committed, and other regions that shall have it too do not yet. Trying again waits again.
    #[error("committed here, not yet held by {others} other regions")]
    NotHeld { others: usize },
    /// It is not known whether it was done, or it cannot be done now. Trying again is safe.
    #[error("{why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
}

/// Who pushes where.
#[derive(Clone, Copy, Debug)]
pub struct Pusher<'a> {
    /// For pushing to this repository.
    pub access: &'a Access,
    pub principal: &'a Principal,
}

impl Pusher<'_> {
    fn owner(&self) -> Owner {
        Owner { principal: self.principal.clone(), repository: self.access.repository().clone() }
    }
}

/// What a manifest's push made.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedTo {
    pub digest: Digest,
    pub subject: Option<Digest>,
    pub position: Position,
}

impl Registry {
    /// The other region in which names of a repository are set and taken away; `None` where this one may.
    pub fn home_abroad(&self, repository: &RepositoryName) -> Option<String> {
        let home = self.policy(repository)?.home.filter(|home| **home != **self.inner.replication.own_name())?;
        self.is_hosted(repository).then_some(home)
    }

    /// Waits until what was done in another region is known here too, if that comes in time.
    pub async fn await_position(&self, position: &Position) {
        if !self.inner.replication.reach(position, POSITION_PATIENCE).await {
            tracing::debug!(%position, "what was passed on is not known here yet");
        }
    }

    fn hosted<'a>(&self, pusher: &Pusher<'a>) -> Result<&'a RepositoryName, PushError> {
        self.pushed_here(pusher.access)
    }

    /// A repository of an upstream takes no pushes, and a region that leaves takes none.
    pub(super) fn pushed_here<'a>(&self, access: &'a Access) -> Result<&'a RepositoryName, PushError> {
        let repository = access.repository();
        if !self.is_hosted(repository) {
            return Err(PushError::Proxied);
        }
        // While the region is not open, what is to be done says so.
        let standing = self.region().ok().map(|open| open.ledger.standing(open.ledger.origin())).transpose()?.flatten();
        match standing {
            Some(Standing::Leaving | Standing::Removed) => {
                Err(PushError::Unavailable { why: "this region leaves: push to another one".to_owned(), retry_after: None })
            }
            Some(Standing::Joined) | None => Ok(repository),
        }
    }

    pub fn begin_upload(&self, pusher: Pusher<'_>, algorithm: Algorithm) -> Result<SessionId, PushError> {
        self.hosted(&pusher)?;
        Ok(self.inner.uploads.begin(pusher.owner(), algorithm)?)
    }

    /// How many bytes are here.
    pub fn upload_status(&self, pusher: Pusher<'_>, id: &SessionId) -> Result<u64, PushError> {
        self.hosted(&pusher)?;
        Ok(self.inner.uploads.received_bytes(&pusher.owner(), id)?)
    }

    /// How many bytes are here then.
    pub async fn append_chunk(
        &self,
        pusher: Pusher<'_>,
        id: &SessionId,
        part: (Chunk, Offset),
        inflow: &mut Inflow,
    ) -> Result<u64, PushError> {
        self.hosted(&pusher)?;
        Ok(self.inner.uploads.append(&pusher.owner(), id, part, inflow).await?)
    }

    pub async fn finish_upload(
        &self,
        pusher: Pusher<'_>,
        id: &SessionId,
        (part, digest): ((Chunk, Offset), &Digest),
        inflow: &mut Inflow,
    ) -> Result<Position, PushError> {
        let repository = self.hosted(&pusher)?;
        let uploaded = self.inner.uploads.finish(&pusher.owner(), id, part, digest, inflow).await?;
        self.commit(repository, uploaded).await
    }

    /// The body is the whole blob.
    pub async fn push_blob(&self, pusher: Pusher<'_>, digest: &Digest, inflow: &mut Inflow) -> Result<Position, PushError> {
        let repository = self.hosted(&pusher)?;
        let uploaded = self.inner.uploads.whole(pusher.owner(), digest, inflow).await?;
        self.commit(repository, uploaded).await
    }

    pub fn cancel_upload(&self, pusher: Pusher<'_>, id: &SessionId) -> Result<(), PushError> {
        self.hosted(&pusher)?;
        Ok(self.inner.uploads.cancel(&pusher.owner(), id)?)
    }

    /// Makes a blob readable through a repository without its bytes being sent. `None` if that cannot be done: then it is uploaded.
    /// `source` is for pulling from the repository that the client named; without one, any that `readable` allows will do.
    pub async fn mount(
        &self,
        pusher: Pusher<'_>,
        digest: &Digest,
        source: Option<&Access>,
        readable: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Option<Position>, PushError> {
        let repository = self.hosted(&pusher)?;
        let ledger = &self.region()?.ledger;
        let here = match source {
            Some(source) if !self.is_hosted(source.repository()) => return Ok(self.mount_proxied(pusher, digest, source).await),
            // What a lock keeps from being read is not read in this way either.
            Some(source) if !ledger.attributes(source.repository())?.read => false,
            Some(source) => self.is_there_to_mount(source.repository(), digest).await,
            None => {
                // What cannot be told is not mounted.
                let _ = ledger.confirm(Look::Recent).await;
                let may_read = |name: &RepositoryName| readable(name) && ledger.attributes(name).is_ok_and(|attributes| attributes.read);
                ledger.repositories_with(digest, MAX_MOUNT_SOURCES).is_ok_and(|found| found.iter().any(may_read))
            }
        };
        if !here {
            return Ok(None);
        }
        match ledger.append(vec![Event::link(repository.clone(), *digest)]).await {
            Ok(position) => Ok(Some(position)),
            Err(AppendError::Rejected(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a repository has the blob, here or in another region: then a name is all that is needed.
    async fn is_there_to_mount(&self, source: &RepositoryName, digest: &Digest) -> bool {
        let find = || async { self.find(|ledger| ledger.blob(source, digest)).await.is_ok_and(|found| found.is_some()) };
        if find().await {
            return true;
        }
        // What cannot be told is not mounted.
        self.inner.replication.has_peers() && {
            self.inner.replication.catch_up(PUSH_PATIENCE).await;
            find().await
        }
    }

    /// Content of an upstream's becomes this region's own: durable before it is answered for.
    async fn mount_proxied(&self, pusher: Pusher<'_>, digest: &Digest, source: &Access) -> Option<Position> {
        let brought = async {
            let content = self.blob(source, digest, &Asking::default()).await?.value;
            let pieces = stream::unfold(content.whole(), async |mut region| match region.next(crate::inflow::MAX_BLOCK_BYTES).await {
                Ok(None) => None,
                Ok(Some(block)) => Some((Ok::<_, ContentError>(Frame::data(block)), region)),
                Err(error) => Some((Err(error), region)),
            });
            let mut inflow = Inflow::new(StreamBody::new(Box::pin(pieces)), u64::MAX);
            self.push_blob(pusher, digest, &mut inflow).await
        };
        let brought: Result<Position, PushError> = brought.await;
        brought.inspect_err(|error| tracing::debug!(%digest, %error, "a blob could not be mounted from an upstream")).ok()
    }

    /// Names an uploaded blob in the ledger. Goes on when the request is dropped.
    async fn commit(&self, repository: &RepositoryName, uploaded: Uploaded) -> Result<Position, PushError> {
        let (registry, repository) = (self.clone(), repository.clone());
        let committing = tokio::spawn(async move { registry.commit_now(&repository, uploaded).await });
        committing.await.unwrap_or_else(|_| Err(PushError::Unavailable { why: "the process is ending".to_owned(), retry_after: None }))
    }

    async fn commit_now(&self, repository: &RepositoryName, uploaded: Uploaded) -> Result<Position, PushError> {
        let open = self.region()?;
        let link = Event::link(repository.clone(), uploaded.digest);
        if open.ledger.places(&uploaded.digest)?.is_some_and(|entry| entry.is_in(&open.bucket)) {
            match open.ledger.append(vec![link.clone()]).await {
                Ok(position) => {
                    uploaded.discard(&open.bucket).await;
                    return Ok(position);
                }
                // Its place went meanwhile: then this one is needed.
                Err(AppendError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let blob = Event::blob(uploaded.digest, uploaded.size_bytes, uploaded.content.clone());
        let position = open.ledger.append(vec![blob, link]).await?;
        let (bucket, store) = (open.bucket.clone(), self.inner.store.clone());
        // Whoever pulls it first does not wait for this.
        tokio::spawn(async move { uploaded.keep(&bucket, &store).await });
        Ok(position)
    }

    /// Keeps a manifest, with the tag that it is pushed under and those besides.
    pub async fn push_manifest(
        &self,
        pusher: Pusher<'_>,
        (reference, tags): (&Reference, &[Tag]),
        content_type: Option<&str>,
        inflow: Inflow,
    ) -> Result<PushedTo, PushError> {
        let repository = self.hosted(&pusher)?;
        let bytes = match inflow.limited(MAX_MANIFEST_BYTES as u64).collect().await {
            Err(InflowError::TooLong { .. }) => return Err(InvalidManifest::TooLarge.into()),
            collected => collected?,
        };
        let manifest = PushedManifest::parse(&bytes, content_type)?;
        let digest = match reference {
            Reference::Digest(named) => Digest::of(named.algorithm(), &bytes),
            Reference::Tag(_) => Digest::sha256(&bytes),
        };
        if let Reference::Digest(named) = reference
            && digest != *named
        {
            return Err(PushError::DigestMismatch { found: digest });
        }
        let sparse = self.allows_sparse(repository);
        self.check_references(repository, &manifest, sparse).await?;
        let facts = self.facts(repository, &manifest, sparse)?;
        let subject = facts.subject;
        let content = self.place_manifest(bytes).await?;
        let mut events = vec![Event::manifest(repository.clone(), digest, content, facts)];
        let named = match reference {
            Reference::Tag(tag) => std::slice::from_ref(tag),
            Reference::Digest(_) => tags,
        };
        events.extend(named.iter().map(|tag| Event::tag(repository.clone(), tag.clone(), digest)));
        let position = self.region()?.ledger.append(events).await?;
        self.inner.forwarder.note(repository, &digest, named);
        if let Acknowledge::Regions(others) = self.inner.replication.policy(repository).acknowledge {
            self.inner.replication.hold((repository, &digest), &position, others, HOLD_PATIENCE).await?;
        }
        Ok(PushedTo { digest, subject, position })
    }

    /// Each reference is in the repository and has the size that the manifest says. What seems absent is looked for once more, after
    /// a fresh look: it may have been pushed through another node; and then after one at the other regions.
    async fn check_references(&self, repository: &RepositoryName, manifest: &PushedManifest, sparse: bool) -> Result<(), PushError> {
        let ledger = &self.region()?.ledger;
        let _ = ledger.confirm(Look::Recent).await;
        let mut absent = self.absent(repository, manifest, sparse)?;
        if !absent.is_empty() {
            ledger.confirm(Look::Now).await?;
            absent = self.absent(repository, manifest, sparse)?;
        }
        let mut blind = Vec::new();
        if !absent.is_empty() && self.inner.replication.has_peers() {
            blind = self.inner.replication.catch_up(PUSH_PATIENCE).await.blind;
            absent = self.absent(repository, manifest, sparse)?;
        }
        match (absent.is_empty(), blind.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(PushError::ReferencesUnknown(absent)),
            (false, false) => Err(cannot_tell(&blind)),
        }
    }

    /// Takes something away. What is unknown here may have been pushed in another region.
    async fn take_away(&self, events: impl Fn() -> Result<Vec<Event>, PushError>) -> Result<Position, PushError> {
        let (ledger, replication) = (&self.region()?.ledger, &self.inner.replication);
        let mut blind = Vec::new();
        let mut taken = ledger.append(events()?).await;
        if matches!(&taken, Err(AppendError::Rejected(why)) if is_unknown(why)) && replication.has_peers() {
            blind = replication.catch_up(PUSH_PATIENCE).await.blind;
            taken = ledger.append(events()?).await;
        }
        taken.map_err(|error| match error {
            AppendError::Rejected(why) if is_unknown(&why) && !blind.is_empty() => cannot_tell(&blind),
            AppendError::Rejected(Rejected::TagUnknown(_) | Rejected::ManifestUnknown(_)) => PushError::ManifestUnknown,
            AppendError::Rejected(Rejected::BlobUnknown(_)) => PushError::BlobUnknown,
            error => error.into(),
        })
    }

    fn absent(&self, repository: &RepositoryName, manifest: &PushedManifest, sparse: bool) -> Result<Vec<Digest>, PushError> {
        let ledger = &self.region()?.ledger;
        let mut absent = Vec::new();
        let mut check = |wanted: &Descriptor, found: Option<u64>| match found {
            Some(size_bytes) if size_bytes != wanted.size => Err(PushError::ReferenceSize { digest: wanted.digest, size_bytes }),
            Some(_) => Ok(()),
            None => {
                absent.push(wanted.digest);
                Ok(())
            }
        };
        for blob in &manifest.blobs {
            check(blob, ledger.blob(repository, &blob.digest)?.map(|entry| entry.size_bytes))?;
        }
        for child in &manifest.manifests {
            let found = ledger.manifest(repository, &child.digest)?.map(|entry| entry.facts.size_bytes);
            if found.is_some() || !sparse {
                check(child, found)?;
            }
        }
        Ok(absent)
    }

    fn facts(&self, repository: &RepositoryName, manifest: &PushedManifest, sparse: bool) -> Result<ManifestFacts, PushError> {
        let ledger = &self.region()?.ledger;
        let mut blobs: Vec<Digest> = manifest.blobs.iter().map(|blob| blob.digest).collect();
        // A foreign layer that was pushed all the same is kept like any other.
        for foreign in &manifest.foreign {
            if ledger.blob(repository, &foreign.digest)?.is_some() {
                blobs.push(foreign.digest);
            }
        }
        let annotations = (!manifest.annotations.is_empty()).then(|| manifest.annotations.clone());
        let length: usize = manifest.annotations.iter().map(|(key, text)| key.len() + text.len()).sum();
        Ok(ManifestFacts {
            media_type: manifest.media_type.to_owned(),
            size_bytes: manifest.size_bytes,
            blobs,
            manifests: manifest.manifests.iter().map(|child| child.digest).collect(),
            sparse,
            subject: manifest.subject.as_ref().map(|subject| subject.digest),
            artifact_type: manifest.artifact_type.clone(),
            annotations: annotations.filter(|_| length <= MAX_ANNOTATIONS_BYTES),
            abridged: length > MAX_ANNOTATIONS_BYTES,
        })
    }

    /// A manifest that the ledger cannot carry gets a key of its own.
    async fn place_manifest(&self, bytes: bytes::Bytes) -> Result<Content, PushError> {
        if bytes.len() <= INLINE_BYTES {
            return Ok(Content::Inline(bytes));
        }
        let bucket = &self.region()?.bucket;
        let key = bucket.fresh_ulid();
        let mut object = bucket.upload(&Key::Blob(key)).await?;
        object.write(bytes).await?;
        object.finish().await?;
        Ok(Content::Key(Place { origin: Origin::of(bucket), key }))
    }

    /// A tag goes alone; a manifest goes with its tags.
    pub async fn delete_manifest(&self, pusher: Pusher<'_>, reference: &Reference) -> Result<Position, PushError> {
        let repository = self.hosted(&pusher)?;
        self.take_away(|| self.removal(repository, reference)).await
    }

    pub async fn delete_blob(&self, pusher: Pusher<'_>, digest: &Digest) -> Result<Position, PushError> {
        let repository = self.hosted(&pusher)?;
        self.take_away(|| Ok(vec![Event::delete(repository.clone(), *digest, ContentKind::Blob)])).await
    }
}

/// What a region that cannot be asked may have.
fn cannot_tell(blind: &[Arc<str>]) -> PushError {
    PushError::Unavailable { why: format!("not known here, and these regions cannot tell: {}", blind.join(", ")), retry_after: None }
}

fn is_unknown(why: &Rejected) -> bool {
    matches!(why, Rejected::TagUnknown(_) | Rejected::ManifestUnknown(_) | Rejected::BlobUnknown(_))
}

impl From<NotHeld> for PushError {
    fn from(error: NotHeld) -> PushError {
        PushError::NotHeld { others: error.wanted }
    }
}

impl From<UploadError> for PushError {
    fn from(error: UploadError) -> PushError {
        match error {
            UploadError::Unknown => PushError::SessionUnknown,
            UploadError::OutOfOrder { received_bytes } => PushError::OutOfOrder { received_bytes },
            UploadError::Length => PushError::Length,
            UploadError::TooLarge { most_bytes } => PushError::TooLarge { most_bytes },
            UploadError::TooMany { retry_after } => PushError::TooManySessions { retry_after },
            UploadError::Inflow(error) => PushError::Inflow(error),
            UploadError::Mismatch { found } => PushError::DigestMismatch { found },
            UploadError::Unavailable { why, retry_after } => PushError::Unavailable { why, retry_after },
        }
    }
}

impl From<AppendError> for PushError {
    fn from(error: AppendError) -> PushError {
        match error {
            AppendError::Unavailable { why, retry_after } => PushError::Unavailable { why, retry_after: Some(retry_after) },
            AppendError::Rejected(Rejected::ReferencesUnknown(digests)) => PushError::ReferencesUnknown(digests),
            AppendError::Rejected(Rejected::InUse(_)) => PushError::Referenced,
            AppendError::Rejected(Rejected::TooLarge) => InvalidManifest::TooLarge.into(),
            AppendError::Rejected(why @ Rejected::Locked(_)) => PushError::Denied(why.to_string()),
            // A place was swept or a blob collected between the upload's end and its event: trying again is safe.
            AppendError::Rejected(why) => PushError::Unavailable { why: why.to_string(), retry_after: None },
        }
    }
}

impl From<LedgerError> for PushError {
    fn from(error: LedgerError) -> PushError {
        PushError::Unavailable { why: error.to_string(), retry_after: None }
    }
}

impl From<NotOpen> for PushError {
    fn from(error: NotOpen) -> PushError {
        PushError::Unavailable { why: error.to_string(), retry_after: None }
    }
}

impl From<BucketError> for PushError {
    fn from(error: BucketError) -> PushError {
        UploadError::from(error).into()
    }
}

impl From<CacheError> for PushError {
    fn from(error: CacheError) -> PushError {
        match error {
            CacheError::Absent => PushError::BlobUnknown,
            CacheError::Unavailable { why, retry_after } => PushError::Unavailable { why, retry_after },
            CacheError::WrongAnswer(why) => PushError::Unavailable { why, retry_after: None },
            locked @ CacheError::Locked(_) => PushError::Denied(locked.to_string()),
        }
    }
}
