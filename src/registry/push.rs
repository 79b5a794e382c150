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
//! | push a manifest | digest, tags set, subject | `Manifest`, `DigestMismatch`, `ReferencesUnknown`, `ReferenceSize` |
//! | delete a manifest or tag | nothing | `ManifestUnknown` |
//! | delete a blob | nothing | `BlobUnknown`, `Referenced` |
//!
//! Every one: `Proxied`, `Denied`, `Unavailable`. What is acknowledged has a position in the ledger, which goes with the answer.

use std::time::Duration;

use crate::inflow::InflowError;
use crate::oci::{Digest, InvalidManifest};

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
    /// It is not known whether it was done, or it cannot be done now. Trying again is safe.
    #[error("{why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
}
