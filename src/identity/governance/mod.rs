//! What owners change at run time: principals and their secrets, roles, network rules. A change is appended to the region's ledger, by
//! which all edges of all regions have it; here it is in force when this returns.
//!
//! Architecture invariant: a use case takes a [`Permit`], which only the policy makes, and looks at what it is for. What stands in the
//! configuration is fixed: it is shown, and changed there only.
//!
//! A change rests on what the ledger had when it was looked at. Where two edges, or two regions that do not see each other, change the
//! same record, the later one counts; a removal counts more than a change that had not seen it.

mod principals;
mod roles;
mod rules;
#[cfg(test)]
mod testing;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::control::Control;
use super::passwords::{Busy, Passwords};
use super::watch::Controls;
use crate::access::{Assignment, NetworkRule, Operation, Permit};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::{AppendError, ControlRecord, Event, Ledger, LedgerError, Look, Position};
use crate::region::{NotOpen, Region};

pub use principals::{Made, NewPrincipal, Principal, ShownSecret, Standing};
pub use roles::Role;
pub use rules::{Force, Rule};

/// What begins the id of an assignment or a rule that stands in the configuration.
const FIXED: &str = "config-";

/// Changes who may prove to be whom, and who may do what. Clones are the same one.
#[derive(Clone)]
pub struct Governance(Arc<Inner>);

struct Inner {
    region: Region,
    controls: Controls,
    passwords: Passwords,
    clock: Clock,
    fixed: RwLock<Arc<Fixed>>,
    /// Held from the look at what there is to the change.
    changing: Mutex<()>,
}

/// What stands in the configuration.
#[derive(Debug, Default)]
pub struct Fixed {
    principals: Vec<String>,
    roles: Vec<Assignment>,
    rules: Vec<NetworkRule>,
}

/// What a change has led to.
#[derive(Debug)]
pub struct Changed<T = ()> {
    /// Where it stands in the ledger.
    pub position: Position,
    pub made: T,
}

/// Why nothing was changed, or shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GovernanceError {
    /// The permit is for something else.
    #[error("not allowed")]
    Denied,
    #[error("{0}")]
    Invalid(String),
    #[error("there is no {0}")]
    Unknown(String),
    /// It cannot be as things are.
    #[error("{0}")]
    Conflict(String),
    /// It is not known whether it was done, or it cannot be done now. Trying again is safe.
    #[error("{why}")]
    Unavailable { why: String, retry_after: Option<Duration> },
}

impl Fixed {
    pub fn of(config: &Config) -> Fixed {
        let principals = config.principals.iter().map(|principal| principal.name.clone()).collect();
        Fixed { principals, roles: config.roles.clone(), rules: config.rules.clone() }
    }

    fn has_principal(&self, name: &str) -> bool {
        self.principals.iter().any(|fixed| fixed == name)
    }
}

impl Governance {
    pub fn new(region: Region, controls: Controls, passwords: Passwords, fixed: Fixed, clock: Clock) -> Governance {
        let fixed = RwLock::new(Arc::new(fixed));
        Governance(Arc::new(Inner { region, controls, passwords, clock, fixed, changing: Mutex::default() }))
    }

    /// Replaces what stands in the configuration.
    pub fn set_fixed(&self, fixed: Fixed) {
        *self.0.fixed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fixed);
    }

    fn fixed(&self) -> Arc<Fixed> {
        self.0.fixed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in force here.
    fn control(&self) -> Arc<Control> {
        self.0.controls.now()
    }

    /// Begins a change: what there is, as the region has it by now. Other changes by this edge wait.
    async fn begin(&self, permit: Permit, operation: Operation) -> Result<Change<'_>, GovernanceError> {
        demand(permit, operation)?;
        let turn = self.0.changing.lock().await;
        let ledger = &self.0.region.get()?.ledger;
        ledger.confirm(Look::Now).await?;
        Ok(Change { governance: self, ledger, control: Control::read(ledger)?, _turn: turn })
    }
}

/// A change that has begun.
struct Change<'a> {
    governance: &'a Governance,
    ledger: &'a Ledger,
    control: Control,
    _turn: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// All of the events or none.
    async fn append<T>(self, events: Vec<Event>, made: T) -> Result<Changed<T>, GovernanceError> {
        let position = self.ledger.append(events).await?;
        self.governance.0.controls.refresh(self.ledger)?;
        Ok(Changed { position, made })
    }

    /// Nothing has to be changed: it is so already.
    fn keep<T>(self, made: T) -> Result<Changed<T>, GovernanceError> {
        Ok(Changed { position: self.ledger.position()?, made })
    }
}

fn demand(permit: Permit, operation: Operation) -> Result<(), GovernanceError> {
    if permit.operation() == operation { Ok(()) } else { Err(GovernanceError::Denied) }
}

/// A record as it is written down.
fn written<T: serde::Serialize>(name: &str, record: &T) -> ControlRecord {
    ControlRecord { name: name.to_owned(), content: Some(serde_json::json!(record)) }
}

fn removed(name: &str) -> ControlRecord {
    ControlRecord { name: name.to_owned(), content: None }
}

fn fixed_id(index: usize) -> String {
    format!("{FIXED}{}", index + 1)
}

/// What has such an id is not changed at run time.
fn refuse_fixed(id: &str) -> Result<(), GovernanceError> {
    if id.starts_with(FIXED) { Err(in_configuration(id)) } else { Ok(()) }
}

fn in_configuration(name: &str) -> GovernanceError {
    GovernanceError::Conflict(format!("{name} stands in the configuration: it is changed there"))
}

/// No more than so many: each is looked at with each request.
fn refuse_beyond(count: usize, most: usize, what: &str) -> Result<(), GovernanceError> {
    if count < most {
        Ok(())
    } else {
        Err(GovernanceError::Conflict(format!("there are {most} {what} already, the most that there may be")))
    }
}

impl From<NotOpen> for GovernanceError {
    fn from(error: NotOpen) -> GovernanceError {
        GovernanceError::Unavailable { why: error.to_string(), retry_after: None }
    }
}

impl From<LedgerError> for GovernanceError {
    fn from(error: LedgerError) -> GovernanceError {
        GovernanceError::Unavailable { why: error.to_string(), retry_after: None }
    }
}

impl From<AppendError> for GovernanceError {
    fn from(error: AppendError) -> GovernanceError {
        match error {
            AppendError::Unavailable { why, retry_after } => GovernanceError::Unavailable { why, retry_after: Some(retry_after) },
            AppendError::Rejected(why) => GovernanceError::Conflict(why.to_string()),
        }
    }
}

impl From<Busy> for GovernanceError {
    fn from(busy: Busy) -> GovernanceError {
        GovernanceError::Unavailable { why: busy.to_string(), retry_after: Some(busy.retry_after()) }
    }
}

impl fmt::Debug for Governance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governance").field("fixed", &self.fixed()).finish_non_exhaustive()
    }
}
