//! The integration tests: the edge as a whole against origins that challenge, limit, stall, cut and lie.

mod harness;
mod house;
