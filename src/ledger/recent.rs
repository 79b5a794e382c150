//! Own segments as they were written, the last of those that were folded or told: each is asked for by several edges of several regions,
//! and the bucket need not be asked for every one. Imports are kept in the same way, for who tells what came of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Segments that are kept, at most, and their bytes together.
const MAX_SEGMENTS: usize = 4_096;
const MAX_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
    /// Held by the one who reads for others what is not kept: those that follow a region ask for the same at about the same time.
    pub reading: tokio::sync::Mutex<()>,
}

/// Of more than there may be, those with the greatest numbers stay: who follows moves on.
#[derive(Debug, Default)]
struct Kept {
    by_number: BTreeMap<u64, Bytes>,
    bytes: usize,
}

impl Recent {
    /// A committed segment.
    pub fn keep(&self, seq: u64, bytes: Bytes) {
        let mut kept = self.lock();
        kept.bytes += bytes.len();
        if let Some(before) = kept.by_number.insert(seq, bytes) {
            kept.bytes -= before.len();
        }
        while kept.by_number.len() > MAX_SEGMENTS || kept.bytes > MAX_BYTES {
            let Some((_, bytes)) = kept.by_number.pop_first() else { return };
            kept.bytes -= bytes.len();
        }
    }

    pub fn get(&self, seq: u64) -> Option<Bytes> {
        self.lock().by_number.get(&seq).cloned()
    }

    /// What was folded turned out to be another ledger's.
    pub fn forget(&self) {
        *self.lock() = Kept::default();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_within_bounds() {
        let recent = Recent::default();
        let bytes = |seq: u64| Bytes::from(vec![seq as u8; 3]);
        (1..=5_000).for_each(|seq| recent.keep(seq, bytes(seq)));
        assert_eq!((recent.get(5_000), recent.get(905), recent.get(904)), (Some(bytes(5_000)), Some(bytes(905)), None));
        // One that is older than all that there is room for.
        recent.keep(1, bytes(1));
        assert_eq!(recent.get(1), None);
        for seq in 6_000..6_010 {
            recent.keep(seq, Bytes::from(vec![0; 1 << 20]));
        }
        assert_eq!((recent.get(5_000), recent.get(6_001), recent.get(6_002).map(|kept| kept.len())), (None, None, Some(1 << 20)));
        // The same once more takes no more room.
        recent.keep(6_009, Bytes::from(vec![0; 1 << 20]));
        assert!(recent.get(6_002).is_some());
        recent.forget();
        assert_eq!(recent.get(6_009), None);
    }
}
