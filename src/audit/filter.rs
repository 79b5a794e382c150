//! What is looked for in the record.

use super::event::{Event, Outcome};
use crate::access::Pattern;
use crate::records::{self, Addresses, Mark};

/// The newest entries that fulfil all that is said.
pub type Query = records::Query<Filter>;

/// What must be so of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub principal: Option<String>,
    pub action: Option<String>,
    pub repository: Option<Pattern>,
    pub outcome: Option<Outcome>,
    pub address: Option<Addresses>,
}

impl records::Filter for Filter {
    type Event = Event;

    fn matches(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.principal, event.principal.as_str())
            && is(&self.action, &event.action)
            && self.outcome.is_none_or(|outcome| outcome == event.outcome)
            && self.repository.as_ref().is_none_or(|pattern| event.repository.as_ref().is_some_and(|name| pattern.matches(name)))
            && self.address.is_none_or(|addresses| event.address.is_some_and(|address| addresses.contain(address)))
    }

    fn marks(&self) -> Vec<Mark> {
        let principal = self.principal.as_ref().map(|name| Mark::text("principal", name));
        let action = self.action.as_ref().map(|action| Mark::text("action", action));
        let repository = self.repository.as_ref().map(|pattern| Mark::repository("repository", pattern));
        let outcome = self.outcome.map(|outcome| Mark::text("outcome", outcome.as_str()));
        [principal, action, repository, outcome].into_iter().flatten().collect()
    }

    fn words(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("principal", self.principal.clone()),
            ("action", self.action.clone()),
            ("repository", self.repository.as_ref().map(|pattern| pattern.as_str().to_owned())),
            ("outcome", self.outcome.map(|outcome| outcome.as_str().to_owned())),
            ("address", self.address.map(|addresses| addresses.to_string())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pull;
    use super::*;
    use crate::records::Filter as _;

    #[test]
    fn each_filter_is_heeded() {
        let at_home = pull("ci", "team/app");
        let away = Event { address: None, repository: None, outcome: Outcome::Denied, ..pull("bob", "a") };
        let all = Filter::default;
        for (filter, matches_home, matches_away) in [
            (all(), true, true),
            (Filter { principal: Some("ci".into()), ..all() }, true, false),
            (Filter { principal: Some("c".into()), ..all() }, false, false),
            (Filter { action: Some("pull".into()), ..all() }, true, true),
            (Filter { action: Some("push".into()), ..all() }, false, false),
            (Filter { repository: "team/**".parse().ok(), ..all() }, true, false),
            (Filter { repository: "team".parse().ok(), ..all() }, false, false),
            (Filter { outcome: Some(Outcome::Denied), ..all() }, false, true),
            (Filter { address: "10.0.0.1".parse().ok(), ..all() }, true, false),
            (Filter { address: "10.0.0.0/8".parse().ok(), ..all() }, true, false),
            (Filter { address: "::ffff:10.0.0.1".parse().ok(), ..all() }, true, false),
            (Filter { address: "192.0.2.0/24".parse().ok(), ..all() }, false, false),
            (Filter { principal: Some("ci".into()), outcome: Some(Outcome::Denied), ..all() }, false, false),
        ] {
            assert_eq!((filter.matches(&at_home), filter.matches(&away)), (matches_home, matches_away), "{filter:?}");
        }
    }
}
