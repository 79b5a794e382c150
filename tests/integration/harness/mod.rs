//! What the integration tests stand on: an origin registry that follows a script, a client that believes nothing, and edges.

#[cfg(test)]
mod checks;
pub mod client;
pub mod collector;
pub mod disk;
pub mod edge;
pub mod image;
pub mod inbox;
pub mod mount;
pub mod origin;
pub mod provider;
pub mod pull;
pub mod push;
pub mod receiver;
pub mod regions;
pub mod script;
pub mod serve;
pub mod tls;
pub mod token;
pub mod wire;
