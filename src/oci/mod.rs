//! The nouns of the OCI Distribution and Image Specifications, parsed once at the edge of the program.
//!
//! Everything here is pure: no input or output, no clock. A value of one of these types is valid by construction, so no raw
//! string for a repository, tag or digest travels further than `http/route`.

mod digest;
mod image;
mod json;
mod manifest;
mod name;
mod pushed;
mod range;
mod upload;

pub use digest::{Algorithm, Digest, DigestError, Digester};
pub use image::{Image, ImageError, is_platform};
pub use manifest::{
    Descriptor, INDEX_MEDIA_TYPE, MAX_MANIFEST_BYTES, Manifest, ManifestError, Platform, is_manifest_media_type, referrers_index,
};
pub use name::{NameError, Reference, RepositoryName, Tag, TagError};
pub use pushed::{InvalidManifest, PushedManifest};
pub use range::{ByteRange, Chunk, ChunkError, RangeOutcome, RangeParts, ReceivedRange};
pub use upload::{SessionError, SessionId, SessionRef, SessionState};
