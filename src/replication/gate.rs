//! The one door through which segments of other regions reach the own bucket: several peers' go together, and while there is much to
//! import not more often than the cost of a request for each allows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::ledger::{Foreign, ImportError};
use crate::region::Region;

/// Between two imports, while there is always something to import; and while a client waits for one.
const PACE: Duration = Duration::from_millis(500);
const HASTY_PACE: Duration = Duration::from_millis(50);
/// So many go at once after a quiet time: a push is several segments, one shortly after the other.
const BURST: u32 = 4;
/// Offers that wait, at most: each follower has one, and each of its callers' rounds.
const QUEUE: usize = 256;
/// Bytes that are offered together, about: more is left for the next import.
const MAX_OFFERED_BYTES: usize = 8 << 20;

/// When segments are to be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Somebody waits for them.
    Now,
    Paced,
    /// With the next ones that somebody offers: these need what those may bring.
    Along,
}

struct Offer {
    segments: Vec<Foreign>,
    haste: Haste,
    tell: oneshot::Sender<Result<(), ImportError>>,
}

/// Until when imports are paid for: each costs `PACE`.
#[derive(Debug)]
struct Pace(Mutex<Instant>);

impl Pace {
    fn due(&self) -> Instant {
        let paid = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = PACE * (BURST - 1);
        paid.checked_sub(ahead).unwrap_or(paid)
    }

    fn spend(&self) {
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Those that clients waited for are not saved up for afterwards: the next is due in one pace at the latest.
        *paid = ((*paid).max(now) + PACE).min(now + PACE * BURST);
    }
}

#[derive(Debug)]
pub(super) struct Gate {
    offers: mpsc::Sender<Offer>,
    pace: Arc<Pace>,
    task: AbortHandle,
}

impl Gate {
    pub fn start(region: Region) -> Gate {
        let (offers, waiting) = mpsc::channel(QUEUE);
        let pace = Arc::new(Pace(Mutex::new(Instant::now())));
        Gate { offers, pace: pace.clone(), task: tokio::spawn(run(region, waiting, pace)).abort_handle() }
    }

    /// Waits until an import would go at once. Whoever asks a peer only then gets all that was written meanwhile.
    pub async fn due(&self) {
        sleep_until(self.pace.due()).await;
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

async fn run(region: Region, mut waiting: mpsc::Receiver<Offer>, pace: Arc<Pace>) {
    let mut last: Option<Instant> = None;
    let mut along: Vec<Offer> = Vec::new();
    while let Some(first) = waiting.recv().await {
        along.retain(|offer| !offer.tell.is_closed());
        if first.haste == Haste::Along {
            along.push(first);
            continue;
        }
        let mut offers = gather(first, (last, pace.due()), &mut waiting).await;
        offers.append(&mut along);
        let (segments, tell): (Vec<_>, Vec<_>) = offers.into_iter().map(|offer| (offer.segments, offer.tell)).unzip();
        let outcome = match region.get() {
            Ok(open) => open.ledger.import(segments.concat()).await,
            Err(why) => Err(ImportError::Unavailable(why.to_string())),
        };
        last = Some(Instant::now());
        pace.spend();
        for tell in tell {
            let _ = tell.send(outcome.clone());
        }
    }
}

/// The offers of one import: at once after a quiet time.
async fn gather(first: Offer, (last, paced): (Option<Instant>, Instant), waiting: &mut mpsc::Receiver<Offer>) -> Vec<Offer> {
    let hasty = last.map_or(paced, |last| paced.min(last + HASTY_PACE));
    let due = |haste| if haste == Haste::Now { hasty } else { paced };
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
    async fn a_few_imports_go_at_once_after_a_quiet_time_then_one_in_each_pace() {
        let start = Instant::now();
        let pace = Pace(Mutex::new(start));
        for made in 0..10 {
            sleep_until(pace.due()).await;
            assert_eq!(start.elapsed(), PACE * (made + 1_u32).saturating_sub(BURST), "import {made}");
            pace.spend();
        }
        // A long quiet time earns no more than the burst.
        tokio::time::sleep(PACE * 100).await;
        let begun = Instant::now();
        for _ in 0..=BURST {
            sleep_until(pace.due()).await;
            pace.spend();
        }
        assert_eq!(begun.elapsed(), PACE);
    }

    #[tokio::test(start_paused = true)]
    async fn imports_go_together_when_busy_and_soon_when_awaited() {
        let (queue, mut waiting) = mpsc::channel(8);
        let last = Instant::now();
        let paced = last + PACE;
        // Two before it is due are one import.
        queue.send(offer(Haste::Paced)).await.ok().unwrap();
        assert_eq!((gather(offer(Haste::Paced), (Some(last), paced), &mut waiting).await.len(), last.elapsed()), (2, PACE));
        // One for which a client waits takes the others with it.
        let last = Instant::now();
        let paced = last + PACE;
        queue.send(offer(Haste::Now)).await.ok().unwrap();
        assert_eq!((gather(offer(Haste::Paced), (Some(last), paced), &mut waiting).await.len(), last.elapsed()), (2, HASTY_PACE));
        // What is due goes at once.
        let begun = Instant::now();
        assert_eq!((gather(offer(Haste::Paced), (Some(last), begun), &mut waiting).await.len(), begun.elapsed()), (1, Duration::ZERO));
    }
}
