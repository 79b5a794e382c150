//! What the locations of upload sessions carry, sealed: the edge that has the session, and the bytes that were there.

use http::HeaderMap;

use crate::oci::{SessionId, SessionRef, SessionState};
use crate::peers::{Seal, Siblings};
use crate::registry::push::PushError;

/// What stands in a location for an edge that has no siblings.
const ALONE: &str = "-";

/// Who may own a session, and what seals its locations.
#[derive(Debug)]
pub enum Locations {
    /// An edge without siblings: its sessions end with it, and so does the key.
    Alone(Box<Seal>),
    Region(Siblings),
}

/// What a location says. It is true: only an edge of this region can have sealed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub owner: String,
    pub offset: u64,
}

impl Locations {
    pub(super) fn own(&self) -> &str {
        match self {
            Locations::Alone(_) => ALONE,
            Locations::Region(siblings) => siblings.own().as_str(),
        }
    }

    /// Marks an answer as this edge's for a sibling that passed the request on.
    pub(super) fn vouch(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if let Locations::Region(siblings) = self {
            siblings.vouch(asked, answer);
        }
    }

    /// What a session's location carries while so many bytes are here.
    pub(super) fn state(&self, id: &SessionId, offset: u64) -> Result<SessionState, PushError> {
        let text = format!("{id} {offset} {}", self.own());
        let sealed = match self {
            Locations::Alone(seal) => seal.seal(&text),
            Locations::Region(siblings) => siblings.seal(&text),
        };
        sealed.parse().map_err(|_| PushError::SessionUnknown)
    }

    /// A session without a state is somebody's guess.
    pub(super) fn read(&self, session: &SessionRef) -> Result<Location, PushError> {
        let state = session.state.as_ref().ok_or(PushError::SessionUnknown)?;
        let text = match self {
            Locations::Alone(seal) => seal.open(state.as_str()),
            Locations::Region(siblings) => siblings.open(state.as_str()),
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
        let locations = Locations::Alone(Box::new(Seal::random()));
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
        let foreign = Locations::Alone(Box::new(Seal::random())).state(&id, 77).unwrap();
        for (id, state) in [(id.as_str(), changed.as_str()), ("other", state.as_str()), (id.as_str(), "x"), (id.as_str(), foreign.as_str())]
        {
            assert_eq!(locations.read(&session(id, Some(state))), Err(PushError::SessionUnknown), "{id} {state}");
        }
    }
}
