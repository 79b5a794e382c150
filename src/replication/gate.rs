//! The one door through which segments of other regions reach the own bucket: several peers' go together, and while there is much to
//! import not more often than the cost of a request for each allows.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::ledger::{Foreign, ImportError};
use crate::region::Region;

/// Between two imports, while there is always something to import; and while a client waits for one.
const PACE: Duration = Duration::from_millis(500);
const HASTY_PACE: Duration = Duration::from_millis(50);
/// Offers that wait, at most: each follower has one, and each of its callers' rounds.
const QUEUE: usize = 256;
/// Bytes that are offered together, about: more is left for the next import.
const MAX_OFFERED_BYTES: usize = 8 << 20;

/// Whether somebody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    Now,
    Paced,
}

struct Offer {
    segments: Vec<Foreign>,
    haste: Haste,
    tell: oneshot::Sender<Result<(), ImportError>>,
}

#[derive(Debug)]
pub(super) struct Gate {
    offers: mpsc::Sender<Offer>,
    task: AbortHandle,
}

impl Gate {
    pub fn start(region: Region) -> Gate {
        let (offers, waiting) = mpsc::channel(QUEUE);
        Gate { offers, task: tokio::spawn(run(region, waiting)).abort_handle() }
    }

    /// Imports segments, with those of others. Whether these are among what was imported the ledger tells: an error may be another's.
    pub async fn offer(&self, segments: Vec<Foreign>, haste: Haste) -> Result<(), ImportError> {
        let (tell, outcome) = oneshot::channel();
        let ending = || ImportError::Unavailable("the process is ending".to_owned());
        self.offers.send(Offer { segments, haste, tell }).await.map_err(|_| ending())?;
        outcome.await.unwrap_or_else(|_| Err(ending()))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(region: Region, mut waiting: mpsc::Receiver<Offer>) {
    let mut last: Option<Instant> = None;
    while let Some(first) = waiting.recv().await {
        let offers = gather(first, last, &mut waiting).await;
        let (segments, tell): (Vec<_>, Vec<_>) = offers.into_iter().map(|offer| (offer.segments, offer.tell)).unzip();
        let outcome = match region.get() {
            Ok(open) => open.ledger.import(segments.concat()).await,
            Err(why) => Err(ImportError::Unavailable(why.to_string())),
        };
        last = Some(Instant::now());
        for tell in tell {
            let _ = tell.send(outcome.clone());
        }
    }
}

/// The offers of one import: at once after a quiet time.
async fn gather(first: Offer, last: Option<Instant>, waiting: &mut mpsc::Receiver<Offer>) -> Vec<Offer> {
    let pace = |haste| if haste == Haste::Now { HASTY_PACE } else { PACE };
    let due = |haste| last.map_or_else(Instant::now, |last| last + pace(haste));
    let (mut until, mut bytes) = (due(first.haste), bytes_of(&first));
    let mut offers = vec![first];
    loop {
        tokio::select! {
            biased;
            more = waiting.recv(), if bytes < MAX_OFFERED_BYTES => match more {
                Some(offer) => {
                    until = until.min(due(offer.haste));
                    bytes += bytes_of(&offer);
                    offers.push(offer);
                }
                None => return offers,
            },
            () = sleep_until(until) => return offers,
        }
    }
}

fn bytes_of(offer: &Offer) -> usize {
    offer.segments.iter().map(|segment| segment.bytes.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(haste: Haste) -> Offer {
        Offer { segments: Vec::new(), haste, tell: oneshot::channel().0 }
    }

    #[tokio::test(start_paused = true)]
    async fn imports_go_at_once_when_idle_together_when_busy_and_soon_when_awaited() {
        let (queue, mut waiting) = mpsc::channel(8);
        let start = Instant::now();
        assert_eq!((gather(offer(Haste::Paced), None, &mut waiting).await.len(), start.elapsed()), (1, Duration::ZERO));
        // Two within the pace are one import, at its end.
        let last = Instant::now();
        queue.send(offer(Haste::Paced)).await.ok().unwrap();
        assert_eq!((gather(offer(Haste::Paced), Some(last), &mut waiting).await.len(), last.elapsed()), (2, PACE));
        // One for which a client waits takes the others with it.
        let last = Instant::now();
        queue.send(offer(Haste::Now)).await.ok().unwrap();
        assert_eq!((gather(offer(Haste::Paced), Some(last), &mut waiting).await.len(), last.elapsed()), (2, HASTY_PACE));
        tokio::time::sleep(PACE).await;
        let begun = Instant::now();
        assert_eq!((gather(offer(Haste::Paced), Some(last), &mut waiting).await.len(), begun.elapsed()), (1, Duration::ZERO));
    }
}
