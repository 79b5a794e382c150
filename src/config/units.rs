//! Sizes and durations with their units.

/// A number of bytes, written `512MiB`, `200GiB`, `64KiB`, `10B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);
