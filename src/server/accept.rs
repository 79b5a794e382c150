//! Taking connections from the kernel without spinning when it has none to give.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// The pause after the first failure; it doubles from failure to failure.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The next connection from `accept`, however often it fails before.
///
/// Out of descriptors or memory, only time helps: transfers in flight finish and give theirs back, and clients wait in the kernel's
/// queue. Every other error belongs to one connection, which is gone (accept(2)).
pub async fn next<T, F>(mut accept: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "no connection can be accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|raw| exhausted.iter().any(|errno| errno.raw_os_error() == raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn out_of_descriptors_accept_backs_off_and_recovers() {
        for (errno, tries, least_ms, most_ms) in
            [(Errno::MFILE, 9, 3_000, 4_000), (Errno::NFILE, 4, 150, 200), (Errno::CONNABORTED, 1_000, 0, 5)]
        {
            let began = Instant::now();
            let mut left = tries;
            let accepted = next(|| {
                left -= 1;
                let accepted = if left < 0 { Ok("a connection") } else { Err(io::Error::from_raw_os_error(errno.raw_os_error())) };
                std::future::ready(accepted)
            })
            .await;
            assert_eq!(accepted, "a connection");
            let waited = began.elapsed().as_millis();
            assert!((least_ms..=most_ms).contains(&waited), "{errno:?} waited {waited} ms");
        }
    }
}
