//! Files against their digests: when they are first opened by this process, when they changed, and all of them on request.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::content::Content;
use super::error::ContentError;
use super::growing::Growing;
use super::layout::{BUCKETS, bucket};
use super::stamp::Stamp;
use crate::oci::{Digest, Digester};

/// A file of at most this size is verified before anyone reads it; with a larger one only its end waits.
const SMALL_FILE_BYTES: u64 = 64 * 1024;
/// Read at once while hashing.
const CHUNK_BYTES: usize = 256 * 1024;
/// Verifications under way, beyond which the next ones wait.
pub(super) const VERIFICATIONS: usize = 4;

/// What a verification of the whole cache found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs that were read to their end.
    pub blobs: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Blobs whose bytes were not those of their digest, or could not be read: out of the way now.
    pub quarantined: Vec<Digest>,
    /// Ended early because the store was closed.
    pub stopped: bool,
}

enum Verdict {
    Good,
    Bad(ContentError),
    /// The store is being closed.
    Stopped,
}

/// Whose a file is, which decides what becomes of a bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The cache's: quarantined.
    Cache,
    /// The bucket's: told, and left to whoever can repair it.
    Bucket,
}

/// Looks a blob up on the disk and has it verified. Blocks; within a runtime.
pub(super) fn open(shared: &Arc<Shared>, digest: Digest) -> Option<Content> {
    open_file(shared, digest, &shared.layout.blob(&digest), Owner::Cache)
}

/// The same for a file of the bucket's.
pub(super) fn open_of_bucket(shared: &Arc<Shared>, digest: Digest, path: &Path) -> Option<Content> {
    open_file(shared, digest, path, Owner::Bucket)
}

fn open_file(shared: &Arc<Shared>, digest: Digest, path: &Path, owner: Owner) -> Option<Content> {
    let file = match File::open(path) {
        Ok(file) => Arc::new(file),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%digest, %error, "opening a blob");
            } else if owner == Owner::Cache && shared.index.knows(&digest) {
                shared.index.blob_gone(digest);
            }
            return None;
        }
    };
    let stamp = Stamp::of(&file).ok()?.0;
    if stamp.size_bytes > SMALL_FILE_BYTES {
        let (content, to_verify) = shared.files.insert_unverified(digest, file.clone(), stamp);
        if let Some(growing) = to_verify {
            tokio::runtime::Handle::current().spawn(verify_growing(shared.clone(), digest, file, (stamp, owner), growing));
        }
        return Some(content);
    }
    match verify(shared, &digest, &file, stamp) {
        Verdict::Good => {
            shared.files.insert(digest, file.clone(), stamp);
            Some(Content::from_file(file, stamp))
        }
        Verdict::Bad(why) => {
            condemn(shared, &digest, (stamp, owner), &why);
            None
        }
        Verdict::Stopped => None,
    }
}

/// Verifies a file that readers may already follow.
async fn verify_growing(shared: Arc<Shared>, digest: Digest, file: Arc<File>, (stamp, owner): (Stamp, Owner), growing: Arc<Growing>) {
    let Ok(permit) = shared.verifications.acquire().await else { return };
    let work = {
        let (shared, growing) = (shared.clone(), growing.clone());
        move || match verify(&shared, &digest, &file, stamp) {
            Verdict::Good => {
                shared.files.verified(&digest, &growing);
                growing.verified();
            }
            Verdict::Bad(why) => {
                condemn(&shared, &digest, (stamp, owner), &why);
                growing.fail(why);
            }
            Verdict::Stopped => {
                shared.files.remove_exactly(&digest, stamp);
                growing.fail(ContentError::Broken("the process is ending".into()));
            }
        }
    };
    if tokio::task::spawn_blocking(work).await.is_err() {
        growing.fail(ContentError::Broken("the process is ending".into()));
    }
    drop(permit);
}

/// Hashes a file to its end.
fn verify(shared: &Shared, digest: &Digest, file: &File, stamp: Stamp) -> Verdict {
    let mut digester = Digester::new(digest.algorithm());
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(stamp.size_bytes).unwrap_or(CHUNK_BYTES))];
    let mut offset = 0;
    while offset < stamp.size_bytes {
        if shared.stopping.load(Ordering::Relaxed) {
            return Verdict::Stopped;
        }
        let count = chunk.len().min((stamp.size_bytes - offset) as usize);
        if let Err(error) = file.read_exact_at(&mut chunk[..count], offset) {
            return Verdict::Bad(ContentError::Io(error.to_string()));
        }
        digester.update(&chunk[..count]);
        offset += count as u64;
    }
    // Also when somebody wrote to it meanwhile: whatever was hashed, it is not what is there.
    let unchanged = matches!(Stamp::of(file), Ok((now, _)) if now == stamp);
    if unchanged && digester.finish() == *digest { Verdict::Good } else { Verdict::Bad(ContentError::Mismatch) }
}

/// Takes a bad file out of all tables, and, if it is the cache's, out of the way.
fn condemn(shared: &Shared, digest: &Digest, (stamp, owner): (Stamp, Owner), why: &ContentError) {
    shared.metrics.cache_corrupt();
    shared.files.remove_exactly(digest, stamp);
    match owner {
        Owner::Bucket => tracing::error!(%digest, %why, "a blob of the bucket is bad: it is not served, and stays where it is"),
        Owner::Cache => {
            tracing::warn!(%digest, %why, "a cached blob is bad: quarantined");
            if let Err(error) = shared.layout.quarantine(digest, stamp) {
                tracing::warn!(%digest, %error, "moving a bad blob out of the way");
            }
            shared.index.blob_gone(*digest);
        }
    }
}

/// Hashes every blob. Blocks for long.
pub(super) fn verify_all(shared: &Shared) -> VerifyReport {
    let mut report = VerifyReport::default();
    for number in 0..BUCKETS {
        let (algorithm, first) = bucket(number);
        let digests = match shared.layout.list(algorithm, first) {
            Ok(digests) => digests,
            Err(error) => {
                tracing::warn!(%error, "listing cached blobs");
                continue;
            }
        };
        for digest in digests {
            // It may have been evicted meanwhile.
            let Ok(file) = File::open(shared.layout.blob(&digest)) else { continue };
            let Ok((stamp, _)) = Stamp::of(&file) else { continue };
            match verify(shared, &digest, &file, stamp) {
                Verdict::Good => {
                    report.blobs += 1;
                    report.size_bytes += stamp.size_bytes;
                }
                Verdict::Bad(why) => {
                    condemn(shared, &digest, (stamp, Owner::Cache), &why);
                    report.quarantined.push(digest);
                }
                Verdict::Stopped => return VerifyReport { stopped: true, ..report },
            }
        }
    }
    report
}
