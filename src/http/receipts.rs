//! Where pushes are, and waiting until they are where they shall be: `GET /outport/v1/replication/{name}/{reference}` and
//! `GET /outport/v1/wait`; the operators' overview and the list of conflicts.

use std::time::Duration;

use http::Response;

use super::admit::Site;
use super::body::Payload;
use super::error::{Failure, Subject};
use super::log::Record;
use super::respond;
use super::route::{RouteError, parameter};
use super::service::Http;
use crate::access::{Action, Caller};
use crate::config::parse_duration;
use crate::ledger::Position;
use crate::oci::Image;
use crate::registry::{Addressing, Awaited, Breadth, Hold, Overview, Receipt, WaitError};

/// How long a wait takes at most, and where nobody says.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
const WAIT: Duration = Duration::from_secs(30);
/// Regions that one wait names, at most.
const MAX_REGIONS: usize = 64;

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub wished: Wished,
    pub breadth: Breadth,
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wished {
    Image(Image, Hold),
    Position(Position),
}

/// A wait that its caller may do.
#[derive(Debug, PartialEq)]
pub struct Waiting {
    pub awaited: Awaited,
    pub breadth: Breadth,
    pub within: Duration,
}

/// `image=NAME:TAG|NAME@DIGEST` with perhaps `hold=known|bytes`, or `position=REGION.INCARNATION@N`; perhaps `regions` and `timeout`.
pub fn wait(query: &str) -> Result<Wait, RouteError> {
    let wished = match (parameter(query, "image"), parameter(query, "position")) {
        (Some(image), None) => {
            let image = image.parse().map_err(|_| RouteError::Parameter("image"))?;
            Wished::Image(image, hold(parameter(query, "hold").as_deref())?)
        }
        (None, Some(position)) => Wished::Position(position.parse().map_err(|_| RouteError::Parameter("position"))?),
        _ => return Err(RouteError::Parameter("image")),
    };
    let within = match parameter(query, "timeout") {
        None => WAIT,
        Some(text) => parse_duration(&text).map_err(|_| RouteError::Parameter("timeout"))?.min(MAX_WAIT),
    };
    Ok(Wait { wished, breadth: breadth(parameter(query, "regions").as_deref())?, within })
}

fn hold(text: Option<&str>) -> Result<Hold, RouteError> {
    match text {
        None | Some("bytes") => Ok(Hold::Bytes),
        Some("known") => Ok(Hold::Known),
        Some(_) => Err(RouteError::Parameter("hold")),
    }
}

/// `all`, a number, or names with commas between them.
fn breadth(text: Option<&str>) -> Result<Breadth, RouteError> {
    let fault = RouteError::Parameter("regions");
    match text {
        None | Some("all") => Ok(Breadth::All),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Breadth::AtLeast).map_err(|_| fault)
        }
        Some(text) => {
            let names: Vec<String> = text.split(',').map(str::to_owned).collect();
            let is_list = names.len() <= MAX_REGIONS && names.iter().all(|name| !name.is_empty());
            if is_list { Ok(Breadth::Named(names)) } else { Err(fault) }
        }
    }
}

impl Site {
    /// Who waits for an image must be able to pull it; a position names no repository.
    pub(super) fn admit_wait(&self, wait: Wait, caller: &Caller, record: &mut Record) -> Result<Waiting, Failure> {
        let Wait { wished, breadth, within } = wait;
        let awaited = match wished {
            Wished::Position(position) => {
                self.enter(caller)?;
                Awaited::Position(position)
            }
            Wished::Image(image, hold) => {
                let target = self.names.resolve(Addressing { name: &image.name, ns: image.ns.as_deref(), host: None })?;
                let decision = self.policy.authorize(caller, &target.repository, Action::Pull);
                record.upstream = target.upstream;
                record.repository = Some(target.repository);
                record.reference = Some(image.reference.to_string());
                Awaited::Image(decision.map_err(|denied| Failure::denied(denied, Subject::Manifest))?, image.reference, hold)
            }
        };
        Ok(Waiting { awaited, breadth, within })
    }
}

impl Http {
    pub(super) async fn wait(&self, waiting: &Waiting) -> Result<Response<Payload>, Failure> {
        let _place = self.waiters().try_acquire().map_err(|_| Failure::too_many_waiting())?;
        let Waiting { awaited, breadth, within } = waiting;
        match self.registry_ref().wait(awaited, breadth, *within, self.drained()).await {
            Ok(receipt) => Ok(shown(&receipt)),
            Err(WaitError::Cache(error)) => Err(Failure::from_cache(error, Subject::Manifest)),
            Err(WaitError::NotYet(_, lacking)) => Err(Failure::not_yet(lacking.join("; "))),
            Err(WaitError::UnknownRegion(name)) => Err(Failure::bad_question(format!("no region {name:?} is configured here"))),
            Err(WaitError::TooFewRegions(count)) => Err(Failure::bad_question(format!("there are only {count} regions"))),
        }
    }

    /// To those who have signed in it is told why something does not work.
    pub(super) async fn overview(&self, caller: &Caller) -> Response<Payload> {
        let overview = self.registry_ref().overview().await;
        status(&if caller.is_anonymous() { overview.without_reasons() } else { overview })
    }
}

pub fn shown(receipt: &Receipt) -> Response<Payload> {
    respond::json(serde_json::json!(receipt).to_string().into())
}

pub fn status(overview: &Overview) -> Response<Payload> {
    respond::json(serde_json::json!(overview).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_what_where_and_how_long() {
        let image = |text: &str, hold| Wished::Image(text.parse().unwrap(), hold);
        let position = Wished::Position("eu.01@7".parse().unwrap());
        let named = |names: &[&str]| Breadth::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (query, wished, breadth, within) in [
            ("image=team/app:v1", image("team/app:v1", Hold::Bytes), Breadth::All, WAIT),
            ("image=team%2Fapp&hold=known&regions=2&timeout=5m", image("team/app", Hold::Known), Breadth::AtLeast(2), minutes(5)),
            ("position=eu.01%407&regions=us,ap&timeout=1d", position, named(&["us", "ap"]), MAX_WAIT),
        ] {
            assert_eq!(wait(query), Ok(Wait { wished, breadth, within }), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (query, parameter) in [
            ("", "image"),
            ("image=a&position=eu.01@1", "image"),
            ("image=A", "image"),
            ("position=eu.01", "position"),
            ("image=a&hold=all", "hold"),
            ("image=a&regions=", "regions"),
            ("image=a&regions=us,,ap", "regions"),
            ("image=a&regions=99999999999999999999999", "regions"),
            ("image=a&timeout=5", "timeout"),
        ] {
            assert_eq!(wait(query), Err(RouteError::Parameter(parameter)), "{query}");
        }
    }
}
