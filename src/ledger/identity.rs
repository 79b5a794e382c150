//! Who wrote an event and when: the incarnation of a region, the hybrid clock, and what a writer had seen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::bucket::Bucket;
use crate::clock::Timestamp;

/// One life of a region: its ledger is numbered from 1 within it. Written `region.incarnation`; no region's name has a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub region: Arc<str>,
    pub incarnation: Arc<str>,
}

impl Origin {
    pub fn new(region: &str, incarnation: &str) -> Origin {
        Origin { region: region.into(), incarnation: incarnation.into() }
    }

    /// Whose bucket it is.
    pub fn of(bucket: &Bucket) -> Origin {
        Origin::new(bucket.region(), bucket.incarnation())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be read")]
pub struct IdentityError(String);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.region, self.incarnation)
    }
}

impl FromStr for Origin {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Origin, IdentityError> {
        match text.split_once('.') {
            Some((region, incarnation)) if !region.is_empty() && !incarnation.is_empty() => Ok(Origin::new(region, incarnation)),
            _ => Err(IdentityError(text.to_owned())),
        }
    }
}

/// Where bytes lie: a key below the root of a region. Written `region.incarnation/ulid`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub origin: Origin,
    pub key: Ulid,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin, self.key)
    }
}

impl FromStr for Place {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Place, IdentityError> {
        let (origin, key) = text.rsplit_once('/').ok_or_else(|| IdentityError(text.to_owned()))?;
        let key = key.parse().map_err(|_| IdentityError(text.to_owned()))?;
        Ok(Place { origin: origin.parse()?, key })
    }
}

/// The number of a segment in a ledger: what `Outport-Position` tells, written `region.incarnation@seq`. Every incarnation counts from 1:
/// without it an edge that has not heard yet that a region began anew would take a position for one that it passed long ago.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub origin: Origin,
    pub seq: u64,
}

impl Position {
    pub fn region(&self) -> &Arc<str> {
        &self.origin.region
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.origin, self.seq)
    }
}

impl FromStr for Position {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Position, IdentityError> {
        let fault = || IdentityError(text.to_owned());
        let (origin, seq) = text.split_once('@').ok_or_else(fault)?;
        Ok(Position { origin: origin.parse()?, seq: seq.parse().map_err(|_| fault())? })
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_text!(Origin);
serde_as_text!(Place);

/// A hybrid logical clock's reading: wall-clock milliseconds where they rose, and a count where they did not. Along a ledger it
/// rises, and it exceeds all that its writer had folded, so that a later event always beats those it saw, whatever wall clocks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HybridTime {
    pub ms: u64,
    pub count: u32,
}

impl HybridTime {
    /// The least reading that is neither before `now` nor up to `folded`, the greatest one that was folded.
    pub fn after(folded: HybridTime, now: Timestamp) -> HybridTime {
        if now.as_ms() > folded.ms {
            return HybridTime { ms: now.as_ms(), count: 0 };
        }
        match folded.count.checked_add(1) {
            Some(count) => HybridTime { ms: folded.ms, count },
            None => HybridTime { ms: folded.ms.saturating_add(1), count: 0 },
        }
    }

    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_ms(self.ms)
    }
}

/// The last segment of each ledger that its holder has folded: all before it are folded too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector(BTreeMap<Origin, u64>);

impl VersionVector {
    pub fn covers(&self, origin: &Origin, seq: u64) -> bool {
        self.0.get(origin).is_some_and(|last| seq <= *last)
    }

    /// The last segment of a ledger; 0 before its first.
    pub fn get(&self, origin: &Origin) -> u64 {
        self.0.get(origin).copied().unwrap_or_default()
    }

    pub fn raise(&mut self, origin: Origin, seq: u64) {
        let last = self.0.entry(origin).or_default();
        *last = (*last).max(seq);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.0.iter().map(|(origin, seq)| (origin, *seq))
    }

    /// Segments of all ledgers together.
    pub fn segments(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_as_written() {
        let origin = Origin::new("eu-1", "01J0");
        assert_eq!(origin.to_string().parse(), Ok(origin.clone()));
        let place = Place { origin: origin.clone(), key: Ulid::from_parts(5, 7) };
        assert_eq!(place.to_string().parse(), Ok(place));
        let position = Position { origin, seq: 12 };
        assert_eq!((position.to_string().as_str(), position.to_string().parse()), ("eu-1.01J0@12", Ok(position)));
        for bad in ["", ".", "a.", ".b", "a"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
        for bad in ["", "a.b", "a.b/", "a.b/x", "/01J0Q4Z2V7B8C9D0E1F2G3H4J5"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        for bad in ["", "@1", "a@1", ".b@1", "a.b@", "a.b@-1", "a.b@x", "a.b"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_clock_rises_whatever_the_wall_says() {
        let at = |ms, count| HybridTime { ms, count };
        for (folded, now_ms, next) in [
            (at(0, 0), 5, at(5, 0)),
            (at(5, 0), 5, at(5, 1)),
            (at(5, 3), 6, at(6, 0)),
            (at(600_000, 3), 6, at(600_000, 4)),
            (at(5, u32::MAX), 5, at(6, 0)),
        ] {
            let after = HybridTime::after(folded, Timestamp::from_ms(now_ms));
            assert_eq!(after, next);
            assert!(after > folded);
        }
    }
}
