//! The other edges of this region: who they are, and how the requests of an upload reach the edge that began it.

mod seal;

pub use seal::{MAX_SEALED_CHARS, MAX_TEXT_BYTES, Seal};
