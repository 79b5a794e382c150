//! Notices that the configuration, or a file it refers to, has changed.
//!
//! The files are looked at every two seconds. Notifications of the kernel would be quicker, but they follow inodes: Kubernetes replaces
//! a mounted volume by swapping a symbolic link in a folder above the file, network file systems send none, and an editor's rename ends
//! the watch. A look follows links to whatever lies there now, and costs one system call for each file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::files::Stamp;
use super::{ConfigErrors, Loaded};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

type SharedEnvironment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Yields each new configuration.
pub struct Watcher {
    path: Option<PathBuf>,
    environment: SharedEnvironment,
    files: Arc<[(PathBuf, Stamp)]>,
    /// `None` where signals are not ours to take.
    hangup: Option<Signal>,
    poll: Interval,
    /// Something has changed that no caller knows of yet.
    due: bool,
}

impl Watcher {
    /// Watches what `loaded` was read from. `path` is what was given to [`Loaded::load`]. From here on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// When the process cannot listen for SIGHUP. Call it inside a tokio runtime with I/O and time.
    pub fn new(
        path: Option<&Path>,
        environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        loaded: &Loaded,
    ) -> io::Result<Watcher> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(Watcher { hangup: Some(hangup), ..Watcher::of_files(path, Arc::new(environment), loaded) })
    }

    fn of_files(path: Option<&Path>, environment: SharedEnvironment, loaded: &Loaded) -> Watcher {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watcher { path: path.map(Path::to_owned), environment, files: loaded.files.as_slice().into(), hangup: None, poll, due: false }
    }

    /// Waits for SIGHUP or for a changed file, and reads everything again. The new configuration may equal the old one: then a
    /// certificate or a comment has changed, or a signal came. May be cancelled at any time: the next call goes on.
    ///
    /// # Errors
    /// The faults of the new configuration: the caller goes on with the old one, and may call again. One state of the files is
    /// reported once.
    pub async fn changed(&mut self) -> Result<Loaded, ConfigErrors> {
        while !self.due {
            self.due = tokio::select! {
                () = hung_up(self.hangup.as_mut()) => true,
                _ = self.poll.tick() => self.files_differ().await,
            };
        }
        let outcome = self.reload().await;
        self.due = false;
        outcome
    }

    async fn files_differ(&self) -> bool {
        let files = self.files.clone();
        off_thread(move || files.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)).await
    }

    async fn reload(&mut self) -> Result<Loaded, ConfigErrors> {
        let (path, environment) = (self.path.clone(), self.environment.clone());
        let outcome = off_thread(move || Loaded::load(path.as_deref(), &*environment)).await;
        let files = match &outcome {
            Ok(loaded) => &loaded.files,
            Err(errors) => &errors.files,
        };
        self.files = files.as_slice().into();
        outcome
    }
}

/// Waits for the signal. Should no more signals come, the files are still watched.
async fn hung_up(hangup: Option<&mut Signal>) {
    if let Some(hangup) = hangup
        && hangup.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Runs what touches files where it may block.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down and drops this future soon.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder laid out as Kubernetes mounts a secret: `outport.toml -> ..data/outport.toml`, `..data -> one`.
    struct Mounted {
        folder: tempfile::TempDir,
    }

    impl Mounted {
        fn new(version: &str, region: &str) -> Mounted {
            let mounted = Mounted { folder: tempfile::tempdir().unwrap() };
            for name in ["outport.toml", "password"] {
                std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.path(name)).unwrap();
            }
            mounted.publish(version, region, "secret");
            mounted
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Writes a new version and swaps the link to it.
        fn publish(&self, version: &str, region: &str, password: &str) {
            std::fs::create_dir(self.path(version)).unwrap();
            let text = format!("region = '{region}'\n[[principal]]\nname = 'a'\npassword_files = ['password']\n");
            std::fs::write(self.path(version).join("outport.toml"), text).unwrap();
            std::fs::write(self.path(version).join("password"), password).unwrap();
            std::os::unix::fs::symlink(version, self.path("..new")).unwrap();
            std::fs::rename(self.path("..new"), self.path("..data")).unwrap();
        }

        fn watch(&self) -> Watcher {
            let path = self.path("outport.toml");
            let loaded = Loaded::load(Some(&path), &|_| None).unwrap();
            // The signal of one test would reach the others.
            Watcher::of_files(Some(&path), Arc::new(|_| None), &loaded)
        }
    }

    /// No news for longer than several looks take.
    async fn quiet(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(POLL_INTERVAL * 3, watcher.changed()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_swapped_link_is_noticed_once() {
        let mounted = Mounted::new("one", "first");
        let mut watcher = mounted.watch();
        assert!(quiet(&mut watcher).await);
        mounted.publish("two", "second", "secret");
        assert_eq!(watcher.changed().await.unwrap().config.region, "second");
        assert!(quiet(&mut watcher).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_secret_is_noticed() {
        let mounted = Mounted::new("one", "first");
        let mut watcher = mounted.watch();
        std::fs::write(mounted.path("password"), "another secret").unwrap();
        assert_eq!(watcher.changed().await.unwrap().config.principals[0].passwords[0].expose(), "another secret");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_reported_once_and_mended_by_the_file_that_was_missing() {
        let mounted = Mounted::new("one", "first");
        let mut watcher = mounted.watch();
        std::fs::remove_file(mounted.path("one/password")).unwrap();
        let errors = watcher.changed().await.unwrap_err();
        assert_eq!(errors.problems[0].key, "principal[0].password_files[0]");
        assert!(quiet(&mut watcher).await);
        std::fs::write(mounted.path("one/password"), "back").unwrap();
        assert_eq!(watcher.changed().await.unwrap().config.principals[0].passwords[0].expose(), "back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hangup_reads_everything_again() {
        let mounted = Mounted::new("one", "first");
        let path = mounted.path("outport.toml");
        let loaded = Loaded::load(Some(&path), &|_| None).unwrap();
        let mut watcher = Watcher::new(Some(&path), |_| None, &loaded).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        assert_eq!(watcher.changed().await.unwrap().config.region, "first");
    }
}
