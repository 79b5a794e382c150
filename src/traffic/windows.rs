//! Names over the last minute, hour and day: buckets of 10 seconds, 10 minutes and 3 hours, each added up from those below it.

use std::collections::VecDeque;
use std::hash::Hash;

use super::frequent::{Frequent, Summary};
use crate::clock::Timestamp;

/// What "the last" is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    #[default]
    Minute,
    Hour,
    Day,
}

pub const WINDOWS: [Window; 3] = [Window::Minute, Window::Hour, Window::Day];

/// Of a bucket that is over, the largest counters are kept.
const KEPT: usize = 512;

impl Window {
    /// How long a bucket is; each a multiple of the one before.
    const fn step_ms(self) -> u64 {
        match self {
            Window::Minute => 10_000,
            Window::Hour => 600_000,
            Window::Day => 3 * 3_600_000,
        }
    }

    /// Buckets, with the one that is open.
    const fn steps(self) -> u64 {
        match self {
            Window::Minute | Window::Hour => 6,
            Window::Day => 8,
        }
    }

    /// Names that are counted at one time: by twos lower than what fills a table of the hash map. The open bucket of the shortest
    /// window sees every name that there is, the others only those that were kept.
    const fn most_names(self) -> usize {
        match self {
            Window::Minute => 3_584,
            Window::Hour | Window::Day => 1_792,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Window::Minute => "minute",
            Window::Hour => "hour",
            Window::Day => "day",
        }
    }
}

/// One kind of names by one measure.
#[derive(Debug)]
pub struct Windows<K> {
    began: Timestamp,
    levels: [Level<K>; 3],
}

#[derive(Debug)]
struct Level<K> {
    window: Window,
    /// Of the open bucket: whole steps since 1970.
    number: u64,
    open: Frequent<K>,
    /// With their numbers, the oldest first.
    over: VecDeque<(u64, Summary<K>)>,
}

impl<K: Eq + Hash + Ord + Clone> Windows<K> {
    pub fn new(now: Timestamp) -> Windows<K> {
        let level = |window: Window| Level {
            window,
            number: now.as_ms() / window.step_ms(),
            open: Frequent::new(window.most_names()),
            over: VecDeque::new(),
        };
        Windows { began: now, levels: WINDOWS.map(level) }
    }

    /// What is added from now on belongs to this moment.
    pub fn advance(&mut self, now: Timestamp) {
        let shortest = &self.levels[0];
        let number = now.as_ms() / shortest.window.step_ms();
        if number <= shortest.number {
            // A clock that was set back a little counts on in the bucket that is open; after a leap nothing here is of any use.
            if number + 1 < shortest.number {
                *self = Windows::new(now);
            }
            return;
        }
        let mut ended = None;
        for level in &mut self.levels {
            if let Some(summary) = &ended {
                level.open.absorb(summary);
            }
            ended = level.advance(now);
            if ended.is_none() {
                break;
            }
        }
    }

    pub fn add(&mut self, name: &K, weight: u64) {
        self.levels[0].open.add(name, weight);
    }

    /// All of a window, and since when it was counted.
    pub fn last(&self, window: Window) -> (Frequent<K>, Timestamp) {
        // Nothing is lowered any more.
        let mut sum = Frequent::new(usize::MAX);
        let levels = self.levels.iter().filter(|level| level.window <= window);
        levels.for_each(|level| sum.absorb(&level.open.summary(usize::MAX)));
        let level = &self.levels[window as usize];
        level.over.iter().for_each(|(_, summary)| sum.absorb(summary));
        let first = (level.number + 1).saturating_sub(window.steps());
        (sum, self.began.max(Timestamp::from_ms(first * window.step_ms())))
    }
}

impl<K: Eq + Hash + Ord + Clone> Level<K> {
    /// Ends the open bucket if its time is over, and returns what is kept of it.
    fn advance(&mut self, now: Timestamp) -> Option<Summary<K>> {
        let number = now.as_ms() / self.window.step_ms();
        if number == self.number {
            return None;
        }
        let summary = std::mem::replace(&mut self.open, Frequent::new(self.window.most_names())).summary(KEPT);
        self.over.push_back((self.number, summary.clone()));
        self.number = number;
        while self.over.front().is_some_and(|(old, _)| old + self.window.steps() <= number) {
            self.over.pop_front();
        }
        Some(summary)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A whole number of days after 1970.
    const START: Timestamp = Timestamp::from_ms(20_000 * 86_400_000);

    fn counts(windows: &Windows<&'static str>) -> [Vec<(&'static str, u64)>; 3] {
        WINDOWS.map(|window| windows.last(window).0.first(9))
    }

    #[test]
    fn a_name_leaves_the_minute_then_the_hour_then_the_day() {
        let mut windows = Windows::new(START);
        windows.add(&"a", 3);
        let at = |seconds: u64| START.plus(Duration::from_secs(seconds));
        for (seconds, seen) in [
            (0, [3, 3, 3]),
            (9, [3, 3, 3]),
            (59, [3, 3, 3]),
            (60, [0, 3, 3]),
            (3_599, [0, 3, 3]),
            (3_600, [0, 0, 3]),
            (86_399, [0, 0, 3]),
            (86_400, [0, 0, 0]),
        ] {
            windows.advance(at(seconds));
            let found = counts(&windows).map(|names| names.first().map_or(0, |(_, count)| *count));
            assert_eq!(found, seen, "after {seconds} s");
        }
    }

    #[test]
    fn every_step_adds_up() {
        let mut windows = Windows::new(START);
        for second in 0..200_000 {
            windows.advance(START.plus(Duration::from_secs(second)));
            windows.add(&"a", 1);
            windows.add(&"b", 2);
        }
        for (window, shortest_s, longest_s) in [(Window::Minute, 50, 60), (Window::Hour, 3_000, 3_600), (Window::Day, 75_600, 86_400)] {
            let (sum, since) = windows.last(window);
            let count = sum.first(2)[1].1;
            assert_eq!((sum.first(1), sum.total(), sum.error()), (vec![("b", 2 * count)], 3 * count, 0));
            assert!((shortest_s..=longest_s).contains(&count), "{window:?}: {count}");
            assert_eq!(START.plus(Duration::from_secs(200_000)).since(since), Duration::from_secs(count), "{window:?}");
        }
    }

    #[test]
    fn a_pause_leaves_nothing_behind_and_a_leap_back_begins_anew() {
        let mut windows = Windows::new(START);
        windows.add(&"a", 1);
        windows.advance(START.plus(Duration::from_secs(7_200)));
        assert_eq!(counts(&windows), [vec![], vec![], vec![("a", 1)]]);
        windows.add(&"b", 1);
        // As when the clock is corrected.
        windows.advance(START.plus(Duration::from_millis(7_199_990)));
        assert_eq!(counts(&windows), [vec![("b", 1)], vec![("b", 1)], vec![("a", 1), ("b", 1)]]);
        windows.advance(START);
        assert_eq!(counts(&windows), [vec![], vec![], vec![]]);
        windows.add(&"c", 1);
        assert_eq!(counts(&windows), [vec![("c", 1)], vec![("c", 1)], vec![("c", 1)]]);
    }

    #[test]
    fn of_a_bucket_that_is_over_the_largest_stay() {
        let mut windows = Windows::new(START);
        for name in 0..2_000_u64 {
            windows.add(&name, 1 + name / 1_000 + 500 * u64::from(name == 7));
        }
        windows.advance(START.plus(Duration::from_secs(10)));
        let (sum, _) = windows.last(Window::Minute);
        assert_eq!((sum.first(2), sum.total(), sum.error()), (vec![(7, 499)], 3_500, 2));
    }
}
