//! The own segments that were folded last, as they were written: several regions ask for each of them, one after the other, and the
//! bucket need not be asked for every one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Segments that are kept, at most, and their bytes together.
const MAX_SEGMENTS: usize = 256;
const MAX_BYTES: usize = 8 << 20;

/// Without gaps: each has the number after that of the one before it.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(u64, Bytes)>>);

impl Recent {
    /// A segment was folded.
    pub fn keep(&self, seq: u64, bytes: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.back().is_some_and(|(last, _)| *last + 1 != seq) {
            kept.clear();
        }
        kept.push_back((seq, bytes));
        let mut total: usize = kept.iter().map(|(_, bytes)| bytes.len()).sum();
        while kept.len() > MAX_SEGMENTS || total > MAX_BYTES {
            let Some((_, bytes)) = kept.pop_front() else { return };
            total -= bytes.len();
        }
    }

    /// Those behind a number, if the first of them is kept.
    pub fn behind(&self, after: u64) -> Option<Vec<Bytes>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.iter().position(|(seq, _)| *seq == after + 1)?;
        Some(kept.iter().skip(first).map(|(_, bytes)| bytes.clone()).collect())
    }

    /// What was folded turned out to be another ledger's.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_without_gaps_and_within_bounds() {
        let recent = Recent::default();
        let bytes = |seq: u64| Bytes::from(vec![seq as u8; 3]);
        (1..=300).for_each(|seq| recent.keep(seq, bytes(seq)));
        assert_eq!(recent.behind(298), Some(vec![bytes(299), bytes(300)]));
        assert_eq!((recent.behind(300), recent.behind(10)), (None, None));
        assert_eq!(recent.behind(44).map(|kept| kept.len()), Some(MAX_SEGMENTS));
        recent.keep(400, bytes(1));
        assert_eq!((recent.behind(298), recent.behind(399)), (None, Some(vec![bytes(1)])));
        for seq in 401..410 {
            recent.keep(seq, Bytes::from(vec![0; 1 << 20]));
        }
        assert_eq!(recent.behind(401).map(|kept| kept.len()), Some(8));
        recent.forget();
        assert_eq!(recent.behind(408), None);
    }
}
