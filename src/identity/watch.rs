//! Follows the control plane: what an owner changes in some region is in force here as soon as it is folded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::control::Control;
use crate::ledger::{Ledger, LedgerError, Look};
use crate::region::Region;

/// Where nobody asks for anything the ledger's tail is looked at this often: so long a revocation may take in its own region.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// Between two readings of all records, at least: each push folds something too.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// What the control plane says, now and from now on. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Controls {
    state: watch::Sender<Arc<Control>>,
    /// Held from the reading to the telling: what was read earlier does not come later.
    reading: Arc<Mutex<()>>,
    /// Where it is kept for a start while the bucket is away; `None`: nowhere.
    kept: Option<Arc<Path>>,
}

impl Controls {
    /// What was in force when this edge last ran, from this file, until the ledger tells what is.
    pub fn open(kept: PathBuf) -> Controls {
        let control = std::fs::read(&kept).ok().and_then(|text| match serde_json::from_slice(&text) {
            Ok(control) => Some(control),
            Err(why) => {
                tracing::warn!(%why, file = %kept.display(), "what was known of principals and roles cannot be read");
                None
            }
        });
        Controls { kept: Some(kept.into()), ..Controls::fixed(control.unwrap_or_default()) }
    }

    /// Without a ledger: what is given.
    pub fn fixed(control: Control) -> Controls {
        Controls { state: watch::Sender::new(Arc::new(control)), reading: Arc::default(), kept: None }
    }

    /// Takes over what is given, as if a ledger said it.
    #[cfg(test)]
    pub(super) fn set(&self, control: Control) {
        self.state.send_replace(Arc::new(control));
    }

    pub fn now(&self) -> Arc<Control> {
        self.state.borrow().clone()
    }

    /// Marked as changed whenever something is another than before.
    pub fn changes(&self) -> watch::Receiver<Arc<Control>> {
        self.state.subscribe()
    }

    /// Begins to follow the region's ledger. The task goes on for as long as the process does, or until it is aborted.
    pub fn follow(&self, region: Region) -> AbortHandle {
        let controls = self.clone();
        tokio::spawn(async move { controls.follow_ledger(&region.opened().await.ledger).await }).abort_handle()
    }

    async fn follow_ledger(&self, ledger: &Ledger) {
        let mut folds = ledger.folds();
        loop {
            folds.mark_unchanged();
            if let Err(why) = self.refresh(ledger) {
                tracing::warn!(%why, "principals and roles stay as they were");
            }
            sleep(READ_PAUSE).await;
            if timeout(LOOK_EVERY, folds.changed()).await.is_err() {
                // What cannot be looked at is looked at again: until then what was known is honoured.
                let _ = ledger.confirm(Look::Now).await;
            }
        }
    }

    /// Takes over what the ledger says as it is folded here, at once: for who has just changed something.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn refresh(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let _turn = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let control = Control::read(ledger)?;
        let is_new = self.state.send_if_modified(|known| {
            let is_new = **known != control;
            if is_new {
                *known = Arc::new(control);
            }
            is_new
        });
        if is_new {
            self.keep();
        }
        Ok(())
    }

    fn keep(&self) {
        let Some(path) = &self.kept else { return };
        let text = serde_json::to_vec(&*self.now()).unwrap_or_default();
        if let Err(why) = write_privately(path, &text) {
            tracing::warn!(%why, file = %path.display(), "a start while the bucket is away will not know of principals and roles");
        }
    }
}

/// Replaces a file that only this user may read.
pub(super) fn write_privately(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Bucket;
    use crate::bucket::testing::{INCARNATION, SimulatedStore};
    use crate::clock::{Clock, Timestamp};
    use crate::identity::RoleRecord;
    use crate::ledger::{self, ControlRecord, Event, IndexPlace, Regions};
    use crate::metrics::Metrics;

    async fn node(store: &SimulatedStore, name: &str) -> Ledger {
        let clock = Clock::manual(Timestamp::from_ms(1));
        let bucket = Bucket::simulated_as(&store.node(), "eu", INCARNATION, clock.clone());
        let settings = ledger::Settings { index: IndexPlace::Memory, node: name.to_owned(), regions: Regions::One };
        Ledger::open(bucket, settings, clock, Metrics::new()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_appended_is_in_force_soon_and_known_after_a_restart() {
        let store = SimulatedStore::new(1, Clock::manual(Timestamp::from_ms(1)));
        let (here, elsewhere) = (node(&store, "here").await, node(&store, "elsewhere").await);
        let folder = tempfile::tempdir().unwrap();
        let controls = Controls::open(folder.path().join("control.json"));
        let following = {
            let (controls, here) = (controls.clone(), here.clone());
            tokio::spawn(async move { controls.follow_ledger(&here).await })
        };
        let mut changes = controls.changes();
        let record = RoleRecord { role: "AcrPull".into(), to: "ci".into(), repositories: None };
        let event = |content| Event::Role(ControlRecord { name: "1".into(), content });
        elsewhere.append(vec![event(Some(serde_json::json!(record)))]).await.unwrap();
        timeout(Duration::from_secs(10), changes.changed()).await.expect("within ten seconds").unwrap();
        assert_eq!(controls.now().roles, [("1".to_owned(), record)]);
        assert_eq!(Controls::open(folder.path().join("control.json")).now(), controls.now());
        elsewhere.append(vec![event(None)]).await.unwrap();
        timeout(Duration::from_secs(10), changes.changed()).await.expect("within ten seconds").unwrap();
        assert_eq!(*controls.now(), Control::default());
        following.abort();
    }
}
