//! Lists with attributes: in the order of names or of times, a page at a time.

use std::collections::BTreeMap;

use super::Listed;
use crate::clock::Timestamp;

/// In which order a list goes. Times are those of the last change; what changed at the same time goes by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    ByName,
    OldestFirst,
    NewestFirst,
}

/// Which part of a list is wanted: at most `limit` items that come after `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub limit: usize,
    pub order: Order,
    pub after: Option<After>,
}

/// Where a list goes on: behind this name. Where it is ordered by times, behind the time too that it had then: it may have another one
/// by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    pub name: String,
    pub at: Option<Timestamp>,
}

/// A place in a list.
type Place = (u64, String);

impl Order {
    fn place(self, name: &str, at: Timestamp) -> Place {
        let rank = match self {
            Order::ByName => 0,
            Order::OldestFirst => at.as_ms(),
            Order::NewestFirst => u64::MAX - at.as_ms(),
        };
        (rank, name.to_owned())
    }
}

/// Takes one part of a list out of all its items, which come in any order. Never keeps more than one item beyond the page.
pub(super) struct Selection<T> {
    order: Order,
    limit: usize,
    after: Option<Place>,
    kept: BTreeMap<Place, T>,
}

impl<T> Selection<T> {
    /// `at_of` tells the time of the item where the list goes on, if the caller does not; where nobody knows, it starts anew.
    pub fn new(part: &Part, at_of: impl FnOnce(&str) -> Option<Timestamp>) -> Selection<T> {
        let after = part.after.as_ref().and_then(|after| match part.order {
            Order::ByName => Some(part.order.place(&after.name, Timestamp::default())),
            order => after.at.or_else(|| at_of(&after.name)).map(|at| order.place(&after.name, at)),
        });
        Selection { order: part.order, limit: part.limit, after, kept: BTreeMap::new() }
    }

    pub fn offer(&mut self, name: &str, at: Timestamp, item: T) {
        let place = self.order.place(name, at);
        if self.after.as_ref().is_some_and(|after| place <= *after) {
            return;
        }
        self.kept.insert(place, item);
        if self.kept.len() > self.limit + 1 {
            self.kept.pop_last();
        }
    }

    /// Whether items that come behind this name, in the order of names, can still be on the page.
    pub fn is_full(&self) -> bool {
        self.order == Order::ByName && self.kept.len() > self.limit
    }

    pub fn finish(mut self) -> Listed<T> {
        let more = self.kept.len() > self.limit;
        if more {
            self.kept.pop_last();
        }
        Listed { more: more && self.limit > 0, names: self.kept.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: [(&str, u64); 5] = [("c", 1), ("a", 3), ("e", 2), ("b", 2), ("d", 9)];

    fn pages(order: Order, limit: usize) -> Vec<Vec<&'static str>> {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let mut selection = Selection::new(&Part { limit, order, after: after.take() }, |_| None);
            for (name, ms) in ITEMS {
                selection.offer(name, Timestamp::from_ms(ms), (name, ms));
                assert!(selection.kept.len() <= limit + 1);
            }
            let Listed { names, more } = selection.finish();
            let last = *names.last().unwrap();
            pages.push(names.into_iter().map(|(name, _)| name).collect());
            if !more {
                return pages;
            }
            after = Some(After { name: last.0.to_owned(), at: Some(Timestamp::from_ms(last.1)) });
        }
    }

    #[test]
    fn pages_follow_one_another_in_every_order() {
        for (order, expected) in [(Order::ByName, "ab cd e"), (Order::OldestFirst, "cb ea d"), (Order::NewestFirst, "da be c")] {
            let told: Vec<String> = pages(order, 2).iter().map(|page| page.concat()).collect();
            assert_eq!(told.join(" "), expected, "{order:?}");
            assert_eq!(pages(order, 1).concat(), pages(order, 9).concat());
        }
    }

    #[test]
    fn a_place_without_its_time_is_looked_up_and_one_that_is_gone_is_the_beginning() {
        let first = |at_of: Option<u64>| {
            let after = Some(After { name: "e".to_owned(), at: None });
            let mut selection = Selection::new(&Part { limit: 1, order: Order::OldestFirst, after }, |_| at_of.map(Timestamp::from_ms));
            ITEMS.iter().for_each(|(name, ms)| selection.offer(name, Timestamp::from_ms(*ms), *name));
            selection.finish().names[0]
        };
        assert_eq!((first(Some(2)), first(None)), ("a", "c"));
    }

    #[test]
    fn an_empty_page_has_nothing_behind_it() {
        let mut selection = Selection::new(&Part { limit: 0, order: Order::ByName, after: None }, |_| None);
        selection.offer("a", Timestamp::default(), ());
        assert_eq!(selection.finish(), Listed { names: Vec::new(), more: false });
    }
}
