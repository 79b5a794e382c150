//! A region in which tests govern.

use super::{Fixed, Governance};
use crate::access::{Assignee, Assignment, Caller, Operation, Permit, Policy, Role};
use crate::bucket::Bucket;
use crate::bucket::testing::{INCARNATION, SimulatedStore};
use crate::clock::{Clock, Timestamp};
use crate::identity::{Control, Controls, Passwords};
use crate::ledger::{self, IndexPlace, Ledger, Regions};
use crate::metrics::Metrics;
use crate::region::Region;

pub struct World {
    pub governance: Governance,
    pub passwords: Passwords,
    pub ledger: Ledger,
    pub clock: Clock,
    _store: SimulatedStore,
}

impl World {
    /// Nobody is there, and nothing stands in the configuration.
    pub async fn new() -> World {
        let (clock, metrics) = (Clock::manual(Timestamp::from_ms(1_000_000)), Metrics::new());
        let store = SimulatedStore::new(1, clock.clone());
        let bucket = Bucket::simulated_as(&store.node(), "eu", INCARNATION, clock.clone());
        let settings = ledger::Settings { index: IndexPlace::Memory, node: "here".to_owned(), regions: Regions::One };
        let ledger = Ledger::open(bucket.clone(), settings, clock.clone(), metrics.clone()).await.unwrap();
        let region = Region::default();
        region.open(bucket, ledger.clone());
        let controls = Controls::fixed(Control::default());
        let passwords = Passwords::new(controls.clone(), clock.clone(), metrics);
        let governance = Governance::new(region, controls, passwords.clone(), Fixed::default(), clock.clone());
        World { governance, passwords, ledger, clock, _store: store }
    }
}

/// An owner's.
pub fn permit(operation: Operation) -> Permit {
    let assignment = Assignment { role: Role::Owner, to: Assignee::Principal("root".into()), repositories: None };
    let policy = Policy { assignments: [assignment].into_iter().collect(), ..Policy::default() };
    policy.permit(&Caller::named("root"), operation).expect("an owner may do everything")
}
