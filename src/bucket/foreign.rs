//! The root of another region, as this one reads it: with credentials that need no right to write, and no call that would use one.
//!
//! Nothing is created, probed or repaired there; a region that has not begun is [`OpenError::NotYet`], which is no reason to stop
//! asking. The one demand on the store beyond reading is that it tells what is not there: the end of the ledger is an absent
//! object. The read behind the last incarnation asks just that, so credentials that cannot tell are refused when the root is opened.

use std::ops::Range;

use bytes::Bytes;

use super::connect::connect_abroad;
use super::error::{BucketError, OpenError};
use super::key::Key;
use super::object::ObjectReader;
use super::sweep::ListedPart;
use super::wire::Wire;
use super::{Bucket, incarnations, open};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;

/// One incarnation's root of another region, to be read only. Cloning is cheap.
///
/// A folder that was moved away stays unavailable, as the own one does: open it again.
#[derive(Clone, Debug)]
pub struct ForeignBucket {
    /// What it could write with stays in here.
    root: Bucket,
}

impl ForeignBucket {
    /// Makes the client, finds the incarnation in force, and checks that this program may read it.
    ///
    /// # Errors
    /// See [`OpenError::is_lasting`]; [`OpenError::NotYet`] if the region has not begun in this store.
    pub async fn open(settings: &config::Bucket, region: &str, clock: Clock, metrics: Metrics) -> Result<ForeignBucket, OpenError> {
        ForeignBucket::open_over(connect_abroad(settings, region, clock, metrics)?, region).await
    }

    pub(super) async fn open_over(wire: Wire, region: &str) -> Result<ForeignBucket, OpenError> {
        let incarnation = find(&wire, region).await?;
        Ok(ForeignBucket::of(wire, region, &incarnation))
    }

    pub(super) fn of(wire: Wire, region: &str, incarnation: &str) -> ForeignBucket {
        ForeignBucket { root: Bucket::new(wire, region, incarnation) }
    }

    pub(super) fn root(&self) -> &Bucket {
        &self.root
    }

    #[cfg(test)]
    pub(super) fn metrics(&self) -> &Metrics {
        &self.root.wire().metrics
    }

    pub fn region(&self) -> &str {
        self.root.region()
    }

    pub fn incarnation(&self) -> &str {
        self.root.incarnation()
    }

    /// The incarnation that is in force now, if this program may read it: another than this one's once the region has begun anew.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn incarnation_now(&self) -> Result<String, OpenError> {
        find(self.root.wire(), self.region()).await
    }

    /// The root of another incarnation of the region in the same store. Nothing is asked.
    pub fn at_incarnation(&self, incarnation: &str) -> ForeignBucket {
        ForeignBucket::of(self.root.wire().clone(), self.region(), incarnation)
    }

    /// An earlier root of one's own region, which nobody writes to any more.
    fn earlier(of: &Bucket, incarnation: &str) -> ForeignBucket {
        ForeignBucket::of(of.wire().clone(), of.region(), incarnation)
    }

    /// The whole of an object; `None` if there is none, which is confirmed.
    ///
    /// # Errors
    /// [`BucketError::Broken`] for one that is larger than the limit.
    pub async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        self.root.read(key, limit_bytes).await
    }

    /// A range of an object, as [`Bucket::open_object`] gives it.
    ///
    /// # Errors
    /// [`BucketError::Broken`] for a range that begins at the object's end or behind it.
    pub async fn open_object(&self, key: &Key, range: Range<u64>) -> Result<Option<ObjectReader>, BucketError> {
        self.root.open_object(key, range).await
    }

    /// The objects of the region's snapshots: for a region that joins, and finds its peer's ledger trimmed.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn list_snapshots(&self) -> Result<Vec<ListedPart>, BucketError> {
        self.root.list_snapshots().await
    }
}

impl Bucket {
    /// The root of an earlier incarnation of this region, to be read only: places may still lie there. Nothing is asked.
    pub fn earlier(&self, incarnation: &str) -> ForeignBucket {
        ForeignBucket::earlier(self, incarnation)
    }

    /// The incarnations of this region before this one, the oldest first.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn earlier_incarnations(&self) -> Result<Vec<String>, OpenError> {
        let all = incarnations::all(self.wire(), self.region()).await?;
        Ok(all.into_iter().take_while(|incarnation| incarnation != self.incarnation()).collect())
    }
}

/// The incarnation in force, which this program may read.
async fn find(wire: &Wire, region: &str) -> Result<String, OpenError> {
    let not_yet = |what: &str| OpenError::NotYet(format!("{region} has no {what}"));
    let found = incarnations::in_force(wire, region).await?.ok_or_else(|| not_yet("incarnation"))?;
    open::may_be_read(wire, region, &found.incarnation).await?.ok_or_else(|| not_yet("format.json: it is just being made"))?;
    Ok(found.incarnation)
}
