//! A content whose digest nobody knows before it is whole: an upload. It is hashed while it comes, and kept on the disk as well if that
//! is asked for and the disk takes it; what the disk does not take costs the upload nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::ingest::{Sink, Target};
use crate::oci::{Algorithm, Digest};

/// What becomes of the bytes besides their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// A copy on the disk.
    Copy,
    /// Nothing: they lie on the same machine already.
    HashOnly,
}

/// Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    /// Away while the blocking thread works, and for good when the process is ending.
    sink: Option<Sink>,
}

/// The process is ending, or a write was given up in its midst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the draft was given up")]
pub struct GivenUp;

impl Draft {
    pub(super) fn new(shared: Arc<Shared>, algorithm: Algorithm, keeping: Keeping) -> Draft {
        let target = match keeping {
            Keeping::Copy => Target::Unopened,
            Keeping::HashOnly => Target::Passing,
        };
        Draft { sink: Some(Sink::new(shared, algorithm, target)) }
    }

    /// Takes in the next bytes. Not to be given up in its midst: then the draft is worthless.
    pub async fn write(&mut self, blocks: Vec<Bytes>) -> Result<(), GivenUp> {
        let mut sink = self.sink.take().ok_or(GivenUp)?;
        let written = tokio::task::spawn_blocking(move || {
            sink.absorb(blocks);
            sink
        });
        self.sink = Some(written.await.map_err(|_| GivenUp)?);
        Ok(())
    }

    /// The digest of all that came.
    pub fn digest(&self) -> Result<Digest, GivenUp> {
        Ok(self.sink.as_ref().ok_or(GivenUp)?.digest())
    }

    /// Gives the copy its name, if there is one: it has this very digest.
    pub async fn keep(mut self) {
        if let Some(sink) = self.sink.take() {
            // Only an ending runtime does not run it.
            let _ = tokio::task::spawn_blocking(move || {
                let digest = sink.digest();
                sink.keep(digest);
            })
            .await;
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            super::ingest::discard(sink);
        }
    }
}
