//! The node's disk: content-addressed blobs, the only writer, eviction, and the embedded index.

mod content;

pub use content::{Content, ContentError, Region};
