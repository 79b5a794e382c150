//! A store that misbehaves by plan, shared by several nodes: for simulations under tokio's paused clock, the same for the same seed.
//!
//! [`SimulatedStore`] holds the objects; each [`SimulatedNode`] is one edge's client of it, with faults of its own. Requests run as
//! tasks of their own: one whose caller gave up, or "crashed", takes its effect all the same, as packets on their way do.

mod faults;
mod node;
mod tests;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use faults::{Fault, Faults};
pub(crate) use node::SimulatedNode;
pub(crate) use world::SimulatedStore;

pub(crate) use super::wire::Verb;
use super::wire::{Sending, Wire};
use super::{Bucket, OpenError};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The incarnation of a bucket made by [`Bucket::simulated`].
pub(crate) const INCARNATION: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
/// Small, so that a simulation needs few bytes for an upload in parts.
pub(crate) const PART_BYTES: usize = 64 << 10;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Bucket {
    /// A bucket of one node over a simulated store, without opening: nothing is asked of the store, and all nodes are in the same
    /// incarnation. `clock` is the node's, which may be wrong.
    pub(crate) fn simulated(node: &SimulatedNode, region: &str, clock: Clock) -> Bucket {
        Bucket::new(wire(node, clock), region, INCARNATION)
    }

    /// The same, opened as any other: with the start-up probe and `format.json`.
    pub(crate) async fn open_simulated(node: &SimulatedNode, region: &str, clock: Clock) -> Result<Bucket, OpenError> {
        Bucket::open_over(wire(node, clock), region).await
    }
}

fn wire(node: &SimulatedNode, clock: Clock) -> Wire {
    Wire {
        store: Arc::new(node.clone()),
        sending: Sending::Parts(Arc::new(node.clone())),
        prefix: String::new(),
        request_timeout: REQUEST_TIMEOUT,
        part_bytes: PART_BYTES,
        clock,
        random: Arc::new(Mutex::new(node.fork_random())),
        metrics: Metrics::new(),
    }
}
