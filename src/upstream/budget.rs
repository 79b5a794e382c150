//! How often requests may be sent again: a share of the requests, so that a failing upstream is not hit harder than a sound one.

use std::sync::atomic::{AtomicU32, Ordering};

/// What one retry costs; each request earns `EARNED`.
const COST: u32 = 10;
const EARNED: u32 = 1;
/// Retries that can be saved up.
const BURST: u32 = 5;

/// A bucket that each request fills by a tenth of a retry: over time at most one request in ten is sent again.
#[derive(Debug)]
pub(super) struct Budget {
    saved: AtomicU32,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget { saved: AtomicU32::new(BURST * COST) }
    }

    /// A request was made for a caller.
    pub(super) fn earn(&self) {
        let add = |saved: u32| Some(saved.saturating_add(EARNED).min(BURST * COST));
        // The closure never declines.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes a retry out, if one is there.
    pub(super) fn spend(&self) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_tenth_and_a_small_burst() {
        let budget = Budget::new();
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.earn();
            while budget.spend() {
                retries += 1;
            }
        }
        // The first request finds the bucket full.
        assert_eq!(retries, (1_000 - 1) / 10 + BURST);
    }

    #[test]
    fn quiet_times_save_no_more_than_the_burst() {
        let budget = Budget::new();
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), BURST as usize);
    }
}
