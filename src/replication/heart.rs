//! What a region has seen, the others learn from its segments. Where it imports and nobody pushes, it says so by itself.
//!
//! Only what others pushed is worth it: who answered each heartbeat with one would never be still.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::Inner;
use crate::clock::Timestamp;
use crate::ledger::{Event, Ledger, LedgerError, Origin, VersionVector};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a push of this region's own is waited for, which would tell it too.
const QUIET: Duration = Duration::from_secs(30);
/// How much longer the nodes wait that did not write the last import, at most.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(30);

/// What other regions said that is more than a heartbeat: the last such segment of each ledger.
#[derive(Debug, Default)]
pub(super) struct News(BTreeMap<Origin, u64>);

impl News {
    pub fn heard(&mut self, origin: &Origin, seq: u64) {
        let last = self.0.entry(origin.clone()).or_default();
        *last = (*last).max(seq);
    }

    /// Whether the own ledger has said that all of it was seen.
    fn are_told(&self, told: &VersionVector) -> bool {
        self.0.iter().all(|(origin, seq)| told.covers(origin, *seq))
    }
}

pub(super) async fn beat(inner: Arc<Inner>) {
    let ledger = inner.opened().await.clone();
    remember(&inner, &ledger);
    let mut untold_since: Option<Timestamp> = None;
    let patience = LEFT_TO_OTHERS.mul_f64(fastrand::f64());
    loop {
        sleep(LOOK_EVERY).await;
        let now = inner.clock.now();
        match is_told(&inner, &ledger) {
            Ok(false) => {
                let since = *untold_since.get_or_insert(now);
                let wait = if is_importer(&ledger) { QUIET } else { QUIET + patience };
                if now.since(since) >= wait {
                    untold_since = None;
                    if let Err(why) = ledger.append(vec![Event::Heartbeat {}]).await {
                        tracing::debug!(%why, "a heartbeat could not be appended");
                    }
                }
            }
            Ok(true) => untold_since = None,
            Err(why) => tracing::debug!(%why, "whether others know what was seen here cannot be told"),
        }
    }
}

/// What was imported before this process began, or taken over as a whole, may not have been told either.
pub(super) fn remember(inner: &Inner, ledger: &Ledger) {
    let Ok(vector) = ledger.vector() else { return };
    let mut news = inner.news.lock().unwrap_or_else(PoisonError::into_inner);
    for (origin, seq) in vector.iter().filter(|(origin, _)| *origin != ledger.origin()) {
        news.heard(origin, seq);
    }
}

fn is_told(inner: &Inner, ledger: &Ledger) -> Result<bool, LedgerError> {
    let told = ledger.seen_by(ledger.origin())?;
    Ok(inner.news.lock().unwrap_or_else(PoisonError::into_inner).are_told(&told))
}

/// Whether this node wrote the last import.
pub(super) fn is_importer(ledger: &Ledger) -> bool {
    ledger.imports().is_ok_and(|(number, node)| number == 0 || node == ledger.node())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_when_the_own_ledger_has_seen_them() {
        let (us, ap) = (Origin::new("us", "1"), Origin::new("ap", "1"));
        let mut news = News::default();
        let mut told = VersionVector::default();
        assert!(news.are_told(&told));
        news.heard(&us, 5);
        news.heard(&us, 3);
        news.heard(&ap, 2);
        told.raise(us.clone(), 4);
        assert!(!news.are_told(&told));
        told.raise(ap, 2);
        assert!(!news.are_told(&told));
        told.raise(us, 9);
        assert!(news.are_told(&told));
    }
}
