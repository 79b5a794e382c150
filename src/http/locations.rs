//! What the locations of upload sessions carry: the region in clear, and sealed the edge that has the session and the bytes that were
//! there. Other regions read the one and cannot read the other.

use http::HeaderMap;

use crate::oci::{SessionId, SessionRef, SessionState};
use crate::peers::{Seal, Siblings};
use crate::registry::push::PushError;

/// What stands in a location for an edge that has no siblings.
const ALONE: &str = "-";

/// What stands between the region and what is sealed.
const AFTER_REGION: char = '~';

/// The locations of one edge's sessions.
#[derive(Debug)]
pub struct Locations {
    region: String,
    owner: Owner,
}

/// Who may own a session, and what seals its locations.
#[derive(Debug)]
pub enum Owner {
    /// An edge without siblings: its sessions end with it, and so does the key.
    Alone(Box<Seal>),
    Shared(Siblings),
}

/// What a location says. It is true: only an edge of this region can have sealed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub owner: String,
    pub offset: u64,
}

impl Locations {
    pub fn new(region: &str, owner: Owner) -> Locations {
        Locations { region: region.to_owned(), owner }
    }

    pub(super) fn own(&self) -> &str {
        match &self.owner {
            Owner::Alone(_) => ALONE,
            Owner::Shared(siblings) => siblings.own().as_str(),
        }
    }

    pub(super) fn siblings(&self) -> Option<&Siblings> {
        match &self.owner {
            Owner::Alone(_) => None,
            Owner::Shared(siblings) => Some(siblings),
        }
    }

    /// The other region that has the session, as its location says.
    pub(super) fn abroad<'a>(&self, session: &'a SessionRef) -> Option<&'a str> {
        let (region, _) = session.state.as_ref()?.as_str().split_once(AFTER_REGION)?;
        (region != self.region).then_some(region)
    }

    /// Whether another edge of this region passed a request on.
    pub(super) fn is_passed_on(&self, headers: &HeaderMap) -> bool {
        self.siblings().is_some_and(|siblings| siblings.knows(headers))
    }

    /// Marks an answer as this edge's for a sibling that passed the request on.
    pub(super) fn vouch(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if let Some(siblings) = self.siblings() {
            siblings.vouch(asked, answer);
        }
    }

    /// What a session's location carries while so many bytes are here.
    pub(super) fn state(&self, id: &SessionId, offset: u64) -> Result<SessionState, PushError> {
        let text = format!("{id} {offset} {}", self.own());
        let sealed = match &self.owner {
            Owner::Alone(seal) => seal.seal(&text),
            Owner::Shared(siblings) => siblings.seal(&text),
        };
        format!("{}{AFTER_REGION}{sealed}", self.region).parse().map_err(|_| PushError::SessionUnknown)
    }

    /// A session without a state is somebody's guess.
    pub(super) fn read(&self, session: &SessionRef) -> Result<Location, PushError> {
        let state = session.state.as_ref().ok_or(PushError::SessionUnknown)?;
        let sealed = state.as_str().strip_prefix(self.region.as_str()).and_then(|rest| rest.strip_prefix(AFTER_REGION));
        let sealed = sealed.ok_or(PushError::SessionUnknown)?;
        let text = match &self.owner {
            Owner::Alone(seal) => seal.open(sealed),
            Owner::Shared(siblings) => siblings.open(sealed),
        };
        let location = text.as_deref().and_then(|text| {
            let (id, rest) = text.split_once(' ')?;
            let (offset, owner) = rest.split_once(' ')?;
            (id == session.id.as_str()).then_some(Location { owner: owner.to_owned(), offset: offset.parse().ok()? })
        });
        location.ok_or(PushError::SessionUnknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_42_a_location_that_was_changed_is_none() {
        let alone = |region: &str| Locations::new(region, Owner::Alone(Box::new(Seal::random())));
        let locations = alone("eu-1");
        let id: SessionId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let state = locations.state(&id, 77).unwrap();
        let session =
            |id: &str, state: Option<&str>| SessionRef { id: id.parse().unwrap(), state: state.map(|text| text.parse().unwrap()) };
        let own = Location { owner: ALONE.to_owned(), offset: 77 };
        assert_eq!(locations.read(&session(id.as_str(), Some(state.as_str()))), Ok(own));
        assert_eq!(locations.read(&session(id.as_str(), None)), Err(PushError::SessionUnknown));
        let mut changed = state.to_string();
        let last = if changed.ends_with('A') { "B" } else { "A" };
        changed.replace_range(changed.len() - 1.., last);
        let foreign = alone("eu-1").state(&id, 77).unwrap();
        let sealed = state.as_str().strip_prefix("eu-1~").unwrap();
        let moved = format!("us~{sealed}");
        let abroad = |state: &str| locations.abroad(&session(id.as_str(), Some(state))).map(str::to_owned);
        assert_eq!((abroad(state.as_str()), abroad(sealed), abroad(&moved)), (None, None, Some("us".to_owned())));
        for (id, state) in [
            (id.as_str(), changed.as_str()),
            (id.as_str(), sealed),
            (id.as_str(), &moved),
            ("other", state.as_str()),
            (id.as_str(), "x"),
            (id.as_str(), foreign.as_str()),
        ] {
            assert_eq!(locations.read(&session(id, Some(state))), Err(PushError::SessionUnknown), "{id} {state}");
        }
    }
}
