//! What was pushed here and is not elsewhere yet: how old the oldest of it is, for what ledgers say and for bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::policy::chosen;
use crate::clock::Timestamp;
use crate::ledger::{Glance, Ledger, LedgerError, Segments};
use crate::oci::{Digest, RepositoryName};

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Segments before the process began that are looked through for bytes that are not where they belong: the oldest first, and few in each
/// look, one after the other, since a store that many edges start at may be slow.
const LOOK_BACK: u64 = 4_096;
const LOOKED_BACK: usize = 16;
const TRIMMED_STEP: u64 = 32;
/// Bytes of segments that are read at a time, and times of one look.
const READ_BYTES: usize = 4 << 20;
const MAX_READS: usize = 16;
/// Contents that are not where they belong, at most; of more the oldest are known, which is what is asked for.
const MAX_PENDING: usize = 50_000;
/// How many of them one look asks about.
const CHECKED: usize = 2_000;

/// How old the oldest push is that is not elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Oldest {
    /// Some peer does not know of it.
    pub metadata: Option<Timestamp>,
    /// Some region that shall hold a copy does not.
    pub bytes: Option<Timestamp>,
}

type Content = (RepositoryName, Digest);

/// Only its own task has one.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The last own segment whose contents are in here.
    read: Option<u64>,
    /// What is before the process began and was not looked through yet: behind its start, up to its end.
    unread: Range<u64>,
    /// By when they were pushed.
    pending: BTreeMap<(Timestamp, u64), Vec<Content>>,
    count: usize,
    /// The first segment that some peer has not, and when it was committed.
    first_unseen: Option<(u64, Timestamp)>,
}

impl Backlog {
    pub async fn look(&mut self, inner: &Inner, ledger: &Ledger) -> Result<Oldest, LedgerError> {
        if inner.links.is_empty() {
            return Ok(Oldest::default());
        }
        Ok(Oldest { metadata: self.metadata(inner, ledger).await?, bytes: self.bytes(inner, ledger).await? })
    }

    async fn metadata(&mut self, inner: &Inner, ledger: &Ledger) -> Result<Option<Timestamp>, LedgerError> {
        let seen = inner.links.iter().map(|link| inner.seen_of_us(ledger, link)).min().unwrap_or_default();
        if seen >= ledger.position()?.seq {
            self.first_unseen = None;
            return Ok(None);
        }
        if let Some((seq, at)) = self.first_unseen.filter(|(seq, _)| *seq == seen + 1) {
            self.first_unseen = Some((seq, at));
            return Ok(Some(at));
        }
        let Segments::Some(found) = ledger.segments_of(ledger.origin(), seen, 1).await? else { return Ok(None) };
        let at = found.first().and_then(|bytes| Glance::at(bytes)).map(|glance| glance.clock.timestamp());
        self.first_unseen = at.map(|at| (seen + 1, at));
        Ok(at)
    }

    async fn bytes(&mut self, inner: &Inner, ledger: &Ledger) -> Result<Option<Timestamp>, LedgerError> {
        if inner.policies().are_lazy() {
            *self = Backlog { first_unseen: self.first_unseen, ..Backlog::default() };
            return Ok(None);
        }
        self.read_on(ledger).await?;
        self.look_back(ledger).await?;
        let members = inner.members(ledger)?;
        self.drop_held(inner, ledger, &members)?;
        Ok(self.pending.first_key_value().map(|((at, _), _)| *at))
    }

    /// Takes in what was pushed since the last look.
    async fn read_on(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let tail = ledger.position()?.seq;
        if self.read.is_none() {
            self.unread = tail.saturating_sub(LOOK_BACK)..tail;
        }
        // Moved with each batch: what was taken in counts once, also when the next one fails.
        let mut read = *self.read.get_or_insert(tail);
        for _ in 0..MAX_READS {
            if self.count >= MAX_PENDING {
                break;
            }
            match ledger.segments_of(ledger.origin(), read, READ_BYTES).await? {
                Segments::Some(found) => {
                    for bytes in found {
                        read += 1;
                        self.take_in(read, &bytes);
                    }
                }
                // What was trimmed is everywhere.
                Segments::Trimmed => read = tail,
                Segments::None | Segments::Unknown => break,
            }
            self.read = Some(read);
        }
        Ok(())
    }

    /// Takes in some of what was pushed before the process began.
    async fn look_back(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        for _ in 0..LOOKED_BACK {
            if self.unread.is_empty() || self.count >= MAX_PENDING {
                break;
            }
            match ledger.segments_of(ledger.origin(), self.unread.start, 1).await? {
                Segments::Some(found) => {
                    for bytes in found {
                        self.unread.start += 1;
                        self.take_in(self.unread.start, &bytes);
                    }
                }
                // What was trimmed is everywhere, and the oldest are trimmed first.
                Segments::Trimmed => self.unread.start = (self.unread.start + TRIMMED_STEP).min(self.unread.end),
                Segments::None | Segments::Unknown => break,
            }
        }
        Ok(())
    }

    fn take_in(&mut self, seq: u64, segment: &[u8]) {
        if let Some(glance) = Glance::at(segment).filter(|glance| !glance.contents.is_empty()) {
            self.count += glance.contents.len();
            self.pending.insert((glance.clock.timestamp(), seq), glance.contents);
        }
    }

    /// Forgets what is where it belongs, the oldest first.
    fn drop_held(&mut self, inner: &Inner, ledger: &Ledger, members: &BTreeSet<Arc<str>>) -> Result<(), LedgerError> {
        let policies = inner.policies();
        let mut left = CHECKED;
        let mut done = Vec::new();
        for (key, contents) in &mut self.pending {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(contents.len());
            let before = contents.len();
            let mut failed = None;
            contents.retain(|(repository, digest)| match is_missing(ledger, policies.of(repository), digest, members) {
                Ok(is_missing) => is_missing,
                Err(why) => {
                    failed = Some(why);
                    true
                }
            });
            if let Some(why) = failed {
                return Err(why);
            }
            self.count -= before - contents.len();
            if contents.is_empty() {
                done.push(*key);
            }
        }
        for key in done {
            self.pending.remove(&key);
        }
        Ok(())
    }
}

/// Whether a region that shall hold a copy has none.
fn is_missing(ledger: &Ledger, policy: super::policy::Policy, digest: &Digest, members: &BTreeSet<Arc<str>>) -> Result<bool, LedgerError> {
    // What is gone, and what travels in the ledger itself, is missing nowhere.
    let Some(entry) = ledger.places(digest)?.filter(|entry| entry.inline.is_none()) else { return Ok(false) };
    let holding = entry.places.iter().map(|place| place.origin.region.clone()).collect();
    Ok(!chosen(policy, digest, members, &holding).is_empty())
}
