//! What commands that search a record have in common: when and where, what was not looked at, and following.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::ask::AskError;
use super::columns::printable;
use crate::records::{Entry, Filter, MAX_LIMIT, Moment, Query};

/// Between two looks while a record is followed.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// How far back a look goes then: what other nodes and regions did appears after a minute or so.
const FOLLOW_BACK: Duration = Duration::from_secs(300);

/// When and where something happened.
#[derive(Debug, clap::Args)]
pub(super) struct Window {
    /// From then on: a time such as 2026-11-29T10:45:11Z, or how long ago, such as 2h
    #[arg(long, value_name = "MOMENT")]
    since: Option<Moment>,
    /// Before then
    #[arg(long, value_name = "MOMENT", conflicts_with = "follow")]
    until: Option<Moment>,
    /// Only in this region; may be given several times
    #[arg(long, value_name = "REGION")]
    region: Vec<String>,
}

impl Window {
    pub(super) fn is_any(&self) -> bool {
        self.since.is_some() || self.until.is_some() || !self.region.is_empty()
    }

    pub(super) fn query<F>(&self, filter: F, limit: usize) -> Query<F> {
        Query { since: self.since, until: self.until, filter, limit, regions: self.region.clone(), within: None }
    }
}

/// Shows what is found now and what appears later, the oldest first, each once. Ends with an error, or when somebody ends it.
pub(super) fn follow<F: Filter>(
    mut query: Query<F>,
    ask: impl Fn(&Query<F>) -> Result<Value, AskError>,
    show: impl Fn(&[Entry<F::Event>]),
) -> Result<(), AskError> {
    let mut shown = BTreeSet::new();
    loop {
        let answer = ask(&query)?;
        let new: Vec<_> = entries::<F::Event>(&answer).into_iter().rev().filter(|entry| !shown.contains(&entry.id)).collect();
        if !new.is_empty() {
            show(&new);
        }
        shown.extend(new.iter().map(|entry| entry.id));
        // What lies further back than is looked at does not come again.
        while shown.len() > 4 * MAX_LIMIT {
            shown.pop_first();
        }
        query = Query { since: Some(Moment::Ago(FOLLOW_BACK)), limit: MAX_LIMIT, ..query };
        sleep(FOLLOW_EVERY);
    }
}

/// The newest first.
pub(super) fn entries<E: serde::de::DeserializeOwned>(answer: &Value) -> Vec<Entry<E>> {
    let list = answer["entries"].as_array().into_iter().flatten();
    list.filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect()
}

/// The regions that were not looked through, and how to see more.
pub(super) fn notes(answer: &Value, limit: &str) -> String {
    let mut text = String::new();
    for region in answer["regions"].as_array().into_iter().flatten().filter(|region| region["complete"] != true) {
        let (name, why) = (region["region"].as_str().unwrap_or("?"), region["why"].as_str().unwrap_or("?"));
        text.push_str(&format!("there may be more in {}: {}\n", printable(name), printable(why)));
    }
    if answer["more"] == true {
        text.push_str(&format!("there may be older entries: --until and {limit} show more\n"));
    }
    text
}
