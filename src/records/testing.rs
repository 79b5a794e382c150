//! A record for tests: who said what.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{Entry, Filter, Line, Mark, Nature, Note, RecordKind};
use crate::clock::Timestamp;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) who: String,
    pub(super) what: String,
}

impl Note for Said {
    fn write(&self, line: &mut Line<'_>) {
        line.text("who", &self.who);
        line.text("what", &self.what);
    }
}

/// What somebody said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Speaker(pub(super) Option<String>);

impl Filter for Speaker {
    type Event = Said;

    fn matches(&self, said: &Said) -> bool {
        self.0.as_ref().is_none_or(|who| *who == said.who)
    }

    fn marks(&self) -> Vec<Mark> {
        self.0.iter().map(|who| Mark::text("who", who)).collect()
    }

    fn words(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("who", self.0.clone())]
    }
}

pub(super) const NATURE: Nature = Nature { kind: RecordKind::Log, name: "record of talk", question: "talk", switch: "talk.enabled" };

pub(super) fn said(who: &str, what: &str) -> Said {
    Said { who: who.to_owned(), what: what.to_owned() }
}

pub(super) fn entry(at_ms: u64, who: &str, what: &str) -> Entry<Said> {
    let time = Timestamp::from_ms(at_ms);
    Entry {
        time,
        id: Ulid::from_parts(at_ms, u128::from(at_ms)),
        region: "eu".into(),
        node: Ulid::from_parts(1, 2),
        lost: 0,
        event: said(who, what),
    }
}
