//! Why a content cannot be read.

/// Why the bytes of a content cannot be had to their end. A body that meets it is cut, never ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("the transfer broke: {0}")]
    Broken(String),
    #[error("the bytes do not match their digest")]
    Mismatch,
    /// The disk takes no writes, and this reader was too slow for what memory holds. Another transfer can be begun for it.
    #[error("the reader fell behind a transfer that is not kept")]
    Lagged,
    #[error("reading failed: {0}")]
    Io(String),
}
