//! The real other region: its edges, else its store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::remote::{Batch, Known, KnownEntry, Name, Remote, Standing, Told};
use crate::bucket::{SnapshotPart, Through};
use crate::ledger::{Origin, Segments, Snapshots, VersionVector};
use crate::peers::{self, PeerError};
use crate::region::{Peer, Via};

impl Remote for Peer {
    fn region(&self) -> &Arc<str> {
        self.name()
    }

    fn status(&self) -> BoxFuture<'_, Result<Standing, String>> {
        stands(self).boxed()
    }

    fn segments<'a>(&'a self, origin: &'a Origin, after: u64, wait: Duration) -> BoxFuture<'a, Result<Batch, String>> {
        async move {
            let wait = Some(wait).filter(|wait| !wait.is_zero());
            let (batch, via) = Peer::segments(self, origin, after, wait).await.map_err(|why| why.to_string())?;
            let segments = match batch.segments {
                peers::Segments::Some(found) => Segments::Some(found),
                // The store has no end of a ledger that was given up for another.
                peers::Segments::None if via == Via::Store && has_begun_anew(self, origin).await => Segments::Unknown,
                peers::Segments::None => Segments::None,
                peers::Segments::Trimmed => Segments::Trimmed,
                peers::Segments::Unknown => Segments::Unknown,
            };
            Ok(Batch { segments, tail: batch.tail })
        }
        .boxed()
    }

    fn snapshots<'a>(&'a self, of: &'a Origin) -> BoxFuture<'a, Result<Vec<Through>, String>> {
        Snapshots::list(self, of).boxed()
    }

    fn snapshot_part<'a>(&'a self, of: &'a Origin, through: Through, part: SnapshotPart) -> BoxFuture<'a, Result<Option<Bytes>, String>> {
        Snapshots::part(self, of, through, part).boxed()
    }

    fn resolve<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Told> {
        async move {
            if self.edges().is_none() {
                return Told::Mute;
            }
            let told = match name {
                Name::Manifest(repository, reference) => {
                    self.manifest(repository, reference).await.map(|found| found.map(|found| KnownEntry::Manifest(Box::new(found))))
                }
                Name::Blob(repository, digest) => self.blob(repository, digest).await.map(|found| found.map(KnownEntry::Blob)),
            };
            match told {
                Ok(Some(entry)) => Told::Found(Box::new(Known { region: self.name().clone(), entry })),
                Ok(None) => Told::Denied,
                // Its store may tell what its edges do not.
                Err(PeerError::Unavailable { .. }) if matches!(self.store().await, Ok(Some(_))) => Told::Mute,
                Err(why) => Told::CannotTell(why.to_string()),
            }
        }
        .boxed()
    }
}

async fn stands(peer: &Peer) -> Result<Standing, String> {
    let told = match peer.edges() {
        Some(edges) => edges.status().await.map_err(|why| why.to_string()),
        None => Err("no edges of it are configured".to_owned()),
    };
    match told {
        Ok(status) => {
            let mut seen = VersionVector::default();
            for (origin, seq) in status.seen {
                seen.raise(origin.parse().map_err(|_| format!("{origin:?} is no ledger's name"))?, seq);
            }
            Ok(Standing { origin: Origin::new(&status.region, &status.incarnation), tail: Some(status.seq), seen })
        }
        Err(why) => {
            let store = peer.store().await.map_err(|error| format!("{why}; its store: {error}"))?.ok_or(why)?;
            let incarnation = store.incarnation_now().await.map_err(|error| error.to_string())?;
            if incarnation != store.incarnation() {
                peer.forget_store().await;
            }
            Ok(Standing { origin: Origin::new(peer.name(), &incarnation), tail: None, seen: VersionVector::default() })
        }
    }
}

/// Whether a region's store has another incarnation in force than that of a ledger of its.
async fn has_begun_anew(peer: &Peer, origin: &Origin) -> bool {
    match peer.store().await {
        Ok(Some(store)) if origin.region == *peer.name() => *store.incarnation() != *origin.incarnation,
        _ => false,
    }
}
