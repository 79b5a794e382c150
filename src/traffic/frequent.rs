//! The most frequent names of a stream, in bounded memory.
//!
//! Counters for a bounded number of names (Misra and Gries, "Finding repeated elements", 1982; with weights, and with many counters lowered
//! at once: Anderson et al., "A High-Performance Algorithm for Identifying Frequent Items in Data Streams", IMC 2017). When all are taken,
//! each is lowered by their median, and those at zero make room: half of them or more.
//!
//! What is told of a name is at most what it had, and lacks at most [`error`](Frequent::error). Each lowering by `m` takes `m` from at
//! least half of the counters, and all that is taken was counted before, so that the error is at most `2 * total / most`. While there are
//! at most `most` names it is zero. Summaries can be added up, and the bound holds for the sum (Agarwal et al., "Mergeable summaries",
//! PODS 2012).

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Counters that are being counted.
#[derive(Clone, Debug)]
pub struct Frequent<K> {
    most: usize,
    counts: HashMap<K, u64, RandomState>,
    total: u64,
    error: u64,
}

/// The largest counters, when counting is over.
#[derive(Clone, Debug)]
pub struct Summary<K> {
    counts: Box<[(K, u64)]>,
    total: u64,
    error: u64,
}

impl<K: Eq + Hash + Ord + Clone> Frequent<K> {
    /// At most so many names are kept, at least two.
    pub fn new(most: usize) -> Frequent<K> {
        Frequent { most: most.max(2), counts: HashMap::default(), total: 0, error: 0 }
    }

    pub fn add(&mut self, name: &K, weight: u64) {
        self.total = self.total.saturating_add(weight);
        self.put(name, weight);
    }

    /// Adds all that a summary has.
    pub fn absorb(&mut self, summary: &Summary<K>) {
        self.total = self.total.saturating_add(summary.total);
        self.error = self.error.saturating_add(summary.error);
        summary.counts.iter().for_each(|(name, count)| self.put(name, *count));
    }

    /// The largest counters, at most so many; what it takes to leave out the others is part of the error.
    pub fn summary(&self, most: usize) -> Summary<K> {
        let mut counts: Vec<(K, u64)> = self.counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
        let mut error = self.error;
        if counts.len() > most {
            counts.select_nth_unstable_by(most, |one, other| other.1.cmp(&one.1));
            let left_out = counts[most].1;
            counts.truncate(most);
            counts.iter_mut().for_each(|(_, count)| *count -= left_out);
            counts.retain(|(_, count)| *count > 0);
            error = error.saturating_add(left_out);
        }
        Summary { counts: counts.into(), total: self.total, error }
    }

    /// The first names by their counts, at most so many.
    pub fn first(&self, most: usize) -> Vec<(K, u64)> {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_unstable_by(|one, other| other.1.cmp(one.1).then_with(|| one.0.cmp(other.0)));
        counts.into_iter().take(most).map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// All weight that was added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What a counter lacks at most; and what a name had at most that has no counter.
    pub fn error(&self) -> u64 {
        self.error
    }

    fn put(&mut self, name: &K, weight: u64) {
        if let Some(count) = self.counts.get_mut(name) {
            *count = count.saturating_add(weight);
        } else if weight > 0 {
            if self.counts.len() >= self.most {
                self.lower();
            }
            self.counts.insert(name.clone(), weight);
        }
    }

    fn lower(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let middle = counts.len() / 2;
        let median = *counts.select_nth_unstable(middle).1;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(median);
            *count > 0
        });
        self.error = self.error.saturating_add(median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(stream: &[(u8, u64)]) -> HashMap<u8, u64> {
        stream.iter().fold(HashMap::new(), |mut counts, (name, weight)| {
            *counts.entry(*name).or_default() += weight;
            counts
        })
    }

    /// Everything that is promised of counters over a stream that was counted exactly, too.
    fn keeps_its_word(found: &Frequent<u8>, stream: &[(u8, u64)], least_kept: u64) -> Result<(), TestCaseError> {
        let (exact, told) = (exact(stream), found.first(usize::MAX));
        let total: u64 = exact.values().sum();
        prop_assert_eq!(found.total(), total);
        prop_assert!(found.error() <= 2 * total / least_kept, "{} of {total}", found.error());
        for (name, true_count) in exact {
            let count = told.iter().find(|(found, _)| *found == name).map_or(0, |(_, count)| *count);
            prop_assert!(count <= true_count && true_count <= count + found.error(), "{name}: {count} of {true_count}, {found:?}");
        }
        prop_assert!(told.is_sorted_by(|one, other| one.1 >= other.1));
        Ok(())
    }

    fn streams() -> impl Strategy<Value = Vec<(u8, u64)>> {
        // Some names are much more frequent than others.
        let name = prop_oneof![0_u8..4, 0_u8..=255];
        let weight = prop_oneof![Just(1_u64), 0_u64..1_000];
        proptest::collection::vec((name, weight), 0..600)
    }

    proptest! {
        #[test]
        fn counts_are_as_right_as_is_said(stream in streams(), most in 2_usize..40) {
            let mut found = Frequent::new(most);
            stream.iter().for_each(|(name, weight)| found.add(name, *weight));
            prop_assert!(found.counts.len() <= most);
            keeps_its_word(&found, &stream, most as u64)?;
        }

        #[test]
        fn a_sum_of_summaries_is_as_right_as_is_said(stream in streams(), parts in 1_usize..6, most in 4_usize..40) {
            let mut sum = Frequent::new(most);
            for part in stream.chunks(stream.len().div_ceil(parts).max(1)) {
                let mut found = Frequent::new(most);
                part.iter().for_each(|(name, weight)| found.add(name, *weight));
                let summary = found.summary(most / 2);
                prop_assert!(summary.counts.len() <= most / 2);
                sum.absorb(&summary);
            }
            keeps_its_word(&sum, &stream, (most / 2) as u64)?;
        }
    }

    #[test]
    fn few_names_are_counted_exactly() {
        let mut found = Frequent::new(3);
        for (name, weight) in [("a", 5), ("b", 1), ("c", 2), ("b", 6), ("a", 0)] {
            found.add(&name, weight);
        }
        assert_eq!((found.first(2), found.total(), found.error()), (vec![("b", 7), ("a", 5)], 14, 0));
        found.add(&"d", 1);
        assert_eq!((found.first(9), found.total(), found.error()), (vec![("b", 2), ("d", 1)], 15, 5));
    }
}
