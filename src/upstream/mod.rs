//! Origin registries.

mod breaker;
mod budget;
pub mod challenge;
mod headers;
mod origin;
