//! The lives of the own region. It joins when it first writes; when others declared it lost, it begins a new incarnation, and whoever
//! runs in a new one takes over from the ones before it, before the region opens: until then it would deny what they had.
//!
//! A bucket that was set back is another matter: what stands in it is old, and somebody has to know why. There the region takes no
//! pushes until an operator begins the new incarnation (`outport region renew`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::remote::Through;
use super::{Inner, Nodes};
use crate::bucket::{Bucket, ForeignBucket};
use crate::ledger::{Event, Ledger, Look, Origin, Recovered, Segments, Source, Standing};
use crate::region::{Open, Region};

/// Between looks at whether this incarnation is still the one in force.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// And when this one takes no pushes.
const LOOK_WHEN_FENCED: Duration = Duration::from_secs(2);
/// Nodes of a region that start together begin to take over at moments this far apart: the region is not open meanwhile.
const STAGGER: Duration = Duration::from_secs(1);
/// Between attempts at what must be done.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells when another incarnation is in force: this process can do nothing more for its region but end, and start in that one.
#[derive(Debug)]
pub struct Superseded(watch::Receiver<bool>);

impl Superseded {
    pub(super) fn new(told: watch::Receiver<bool>) -> Superseded {
        Superseded(told)
    }

    /// Never returns while this one is in force.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|is_superseded| *is_superseded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub(super) async fn watch(inner: Arc<Inner>, tell: watch::Sender<bool>) {
    inner.opened().await;
    let Ok(open) = inner.region.get() else { return };
    while let Err(why) = join(open).await {
        tracing::warn!(%why, "this region has not joined the others yet");
        sleep(PAUSE).await;
    }
    loop {
        let is_lost = is_lost(&open.ledger);
        if is_lost {
            begin_anew(open).await;
        }
        match open.bucket.is_in_force().await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("another incarnation of this region is in force");
                tell.send_replace(true);
                return;
            }
            Err(why) => tracing::debug!(%why, "whether this incarnation is in force cannot be told"),
        }
        if is_lost {
            sleep(LOOK_WHEN_FENCED).await;
        } else {
            until_lost(&open.ledger, LOOK_EVERY).await;
        }
    }
}

/// Waits for the time, or until others are heard to have declared this region lost.
async fn until_lost(ledger: &Ledger, within: Duration) {
    let mut folds = ledger.folds();
    let heard = async { while !is_lost(ledger) && folds.changed().await.is_ok() {} };
    let _ = timeout(within, heard).await;
}

fn is_lost(ledger: &Ledger) -> bool {
    ledger.cut(ledger.origin()).is_ok_and(|cut| cut.is_some())
}

async fn begin_anew(open: &Open) {
    match open.bucket.begin_incarnation().await {
        Ok(next) => tracing::warn!(incarnation = next.incarnation(), "this region was declared lost, and begins anew"),
        Err(why) => tracing::error!(%why, "this region was declared lost, and cannot begin anew yet"),
    }
}

fn words(why: impl std::fmt::Display) -> String {
    why.to_string()
}

/// Says that this incarnation is a member.
async fn join(open: &Open) -> Result<(), String> {
    // An index that was just made may not know of it yet.
    open.ledger.confirm(Look::Now).await.map_err(words)?;
    let own = open.ledger.origin();
    if open.ledger.standing(own).map_err(words)?.is_none() {
        let joined = Event::Member { origin: own.clone(), standing: Standing::Joined };
        open.ledger.append(vec![joined]).await.map_err(words)?;
    }
    Ok(())
}

/// Takes over from the incarnations before this one, which denies what they had until that is done. Tells what came of those that had
/// something.
///
/// # Errors
/// It can be tried again.
pub async fn inherit(region: &Region, bucket: &Bucket, ledger: &Ledger, nodes: Nodes) -> Result<Vec<Recovered>, String> {
    inherit_through(&region.peers().iter().map(|peer| Through(peer)).collect::<Vec<_>>(), bucket, ledger, nodes).await
}

pub(super) async fn inherit_through(
    others: &[Through<'_>],
    bucket: &Bucket,
    ledger: &Ledger,
    nodes: Nodes,
) -> Result<Vec<Recovered>, String> {
    let mut inherited = Vec::new();
    for earlier in bucket.earlier_incarnations().await.map_err(words)? {
        let root = bucket.earlier(&earlier);
        if is_taken_over(ledger, &root).await? {
            continue;
        }
        if nodes == Nodes::Several {
            // Of many that start together one does it, and the others find it done.
            sleep(STAGGER.mul_f64(fastrand::f64())).await;
            if is_taken_over(ledger, &root).await? {
                continue;
            }
        }
        let recovered = ledger.recover(&root, others).await.map_err(words)?;
        let Recovered { imported, appended, rejected } = recovered;
        tracing::warn!(incarnation = earlier, imported, appended, rejected, "this region took over from an earlier incarnation");
        inherited.push(recovered);
    }
    Ok(inherited)
}

/// Whether there is nothing to take over from an earlier incarnation. Who declares it lost removes it as well, and that word may arrive
/// here first: what stands behind the cut is still to be had then, and only here.
async fn is_taken_over(ledger: &Ledger, earlier: &ForeignBucket) -> Result<bool, String> {
    let origin = Origin::new(earlier.region(), earlier.incarnation());
    ledger.confirm(Look::Now).await.map_err(words)?;
    if ledger.standing(&origin).map_err(words)? != Some(Standing::Removed) {
        return Ok(false);
    }
    if ledger.cut(&origin).map_err(words)?.is_none() {
        return Ok(true);
    }
    let folded = ledger.vector().map_err(words)?.get(&origin);
    Ok(!matches!(earlier.segments(&origin, folded, Duration::ZERO).await?, Segments::Some(_)))
}
