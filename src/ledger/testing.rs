//! Ledgers over a simulated store, for this room's tests.

use super::core::{Core, Identity};
use super::identity::Origin;
use super::index::{Index, Memory};
use super::{Ledger, Regions};
use crate::bucket::Bucket;
use crate::bucket::testing::{INCARNATION, SimulatedNode};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

pub(super) fn ledger(node: &SimulatedNode, name: &str, rows: Memory) -> Ledger {
    let origin = Origin::new("eu", INCARNATION);
    let index = Index::in_memory(rows, &origin).unwrap();
    over(node, name, index)
}

pub(super) fn over(node: &SimulatedNode, name: &str, index: Index) -> Ledger {
    let clock = Clock::manual(Timestamp::from_ms(1_700_000_000_000));
    let bucket = Bucket::simulated(node, "eu", clock.clone());
    let identity = Identity { node: name.to_owned(), origin: Origin::new("eu", INCARNATION), regions: Regions::One };
    Ledger::over(Core::new(bucket, index, identity, clock, Metrics::new()))
}
