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
use super::{Bucket, ForeignBucket, OpenError};
use crate::clock::{Clock, Timestamp};
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

    /// The same in an incarnation of its own name: several regions may share the store, or have one each.
    pub(crate) fn simulated_as(node: &SimulatedNode, region: &str, incarnation: &str, clock: Clock) -> Bucket {
        Bucket::new(wire(node, clock), region, incarnation)
    }

    /// The same, opened as any other: with the start-up probe and `format.json`.
    pub(crate) async fn open_simulated(node: &SimulatedNode, region: &str, clock: Clock) -> Result<Bucket, OpenError> {
        Bucket::open_over(wire(node, clock), region).await
    }
}

impl ForeignBucket {
    /// What one node reads of another region's root, without opening.
    pub(crate) fn simulated(node: &SimulatedNode, region: &str, incarnation: &str) -> ForeignBucket {
        ForeignBucket::of(wire_abroad(node, region), region, incarnation)
    }

    /// The same, opened as any other: the incarnation in force is found, and its format checked.
    pub(crate) async fn open_simulated(node: &SimulatedNode, region: &str) -> Result<ForeignBucket, OpenError> {
        ForeignBucket::open_over(wire_abroad(node, region), region).await
    }
}

/// Readers take no time from the clock.
fn wire_abroad(node: &SimulatedNode, region: &str) -> Wire {
    Wire { abroad: Some(region.into()), ..wire(node, Clock::manual(Timestamp::from_ms(0))) }
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
        abroad: None,
    }
}
