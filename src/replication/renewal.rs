//! The lives of the own region. It joins when it first writes; when others declared it lost, it begins a new incarnation, and whoever
//! runs in a new one takes over from the ones before it.
//!
//! A bucket that was set back is another matter: what stands in it is old, and somebody has to know why. There the region takes no
//! pushes until an operator begins the new incarnation (`outport region renew`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::remote::Through;
use super::{Inner, Nodes};
use crate::ledger::{Event, Ledger, LedgerError, Recovered, Standing};
use crate::region::Open;

/// Between looks at whether this incarnation is still the one in force.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// And when this one takes no pushes.
const LOOK_WHEN_FENCED: Duration = Duration::from_secs(2);
/// Between attempts at what must be done.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells when another incarnation is in force: this process can do nothing more for its region but end, and start in that one.
#[derive(Debug)]
pub struct Superseded(watch::Receiver<Option<String>>);

impl Superseded {
    pub(super) fn new(told: watch::Receiver<Option<String>>) -> Superseded {
        Superseded(told)
    }

    /// Returns the name of the new incarnation; never, while this one is in force.
    pub async fn wait(&mut self) -> String {
        let told = self.0.wait_for(Option::is_some).await.map(|told| told.clone());
        match told {
            Ok(Some(name)) => name,
            _ => std::future::pending().await,
        }
    }
}

pub(super) async fn watch(inner: Arc<Inner>, tell: watch::Sender<Option<String>>) {
    inner.opened().await;
    let Ok(open) = inner.region.get() else { return };
    while let Err(why) = join(&inner, open).await {
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
                tell.send_replace(Some("another incarnation".to_owned()));
                return;
            }
            Err(why) => tracing::debug!(%why, "whether this incarnation is in force cannot be told"),
        }
        sleep(if is_lost { LOOK_WHEN_FENCED } else { LOOK_EVERY }).await;
    }
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

/// Takes over from earlier incarnations, and says that this one is a member.
async fn join(inner: &Inner, open: &Open) -> Result<(), String> {
    let words = |why: &dyn std::fmt::Display| why.to_string();
    // An index that was just made may not know of it yet.
    open.ledger.confirm(crate::ledger::Look::Now).await.map_err(|why| words(&why))?;
    if inner.settings.nodes == Nodes::Several {
        // Of many that start together one does it, and the others find it done.
        sleep(PAUSE.mul_f64(fastrand::f64())).await;
        open.ledger.confirm(crate::ledger::Look::Now).await.map_err(|why| words(&why))?;
    }
    for earlier in open.bucket.earlier_incarnations().await.map_err(|why| words(&why))? {
        if is_removed(&open.ledger, &earlier).map_err(|why| words(&why))? {
            continue;
        }
        let sources: Vec<Through<'_>> = inner.links.iter().map(|link| Through(&*link.remote)).collect();
        let recovered = open.ledger.recover(&open.bucket.earlier(&earlier), &sources).await.map_err(|why| words(&why))?;
        let Recovered { imported, appended, rejected } = recovered;
        tracing::warn!(incarnation = earlier, imported, appended, rejected, "this region took over from an earlier incarnation");
    }
    let own = open.ledger.origin();
    let is_member = open.ledger.members().map_err(|why| words(&why))?.iter().any(|member| member.origin == *own);
    if !is_member {
        let joined = Event::Member { origin: own.clone(), standing: Standing::Joined };
        open.ledger.append(vec![joined]).await.map_err(|why| words(&why))?;
    }
    Ok(())
}

fn is_removed(ledger: &Ledger, incarnation: &str) -> Result<bool, LedgerError> {
    let is_it = |origin: &crate::ledger::Origin| origin.region == ledger.origin().region && *origin.incarnation == *incarnation;
    Ok(ledger.members()?.iter().any(|member| is_it(&member.origin) && member.standing == Standing::Removed))
}
