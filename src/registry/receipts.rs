//! Receipts: which regions know of a push, and which hold its bytes; and waiting until they do.
//!
//! A region *knows* an image when it has folded the events that make it visible, by its own word: what it wrote as seen into its
//! ledger, or what its edges say now. It *holds* the bytes that it has places for, or that travel in the ledger, once it knows of them.
//! Of a region that cannot be asked nothing is said that is not proven: what it knew it knows still, and the rest is not told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::Registry;
use super::witness::Heard;
use crate::access::Access;
use crate::cache::CacheError;
use crate::clock::Timestamp;
use crate::ledger::{BlobEntry, EventEntry, Ledger, LedgerError, Look, NamedEntry, Origin, Position, Standing, VersionVector};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::replication::PeerLag;

/// What a region said so long ago is not asked for again, for a receipt and while somebody waits.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(1);
const AWAITED_FRESH_FOR: Duration = Duration::from_millis(500);
/// Between two looks of one who waits there is this time at least, however much is folded meanwhile.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// How long other regions are asked for an image that is not known here.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(500);

/// What a region has to do before a wait for it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Known,
    /// All of them, and the image is known.
    Bytes,
}

/// Which regions are waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// The own one and all others that did not leave.
    All,
    /// So many, the own one among them.
    AtLeast(usize),
    Named(Vec<String>),
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// For pulling from the image's repository.
    Image(Access, Reference, Hold),
    /// A state of a region's ledger: it is known, or it is not.
    Position(Position),
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReceipt>,
    /// Of the push, or what was asked for.
    pub position: String,
    /// The own region first.
    pub regions: Vec<RegionReceipt>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageReceipt {
    pub repository: RepositoryName,
    pub reference: String,
    pub digest: Digest,
    pub pushed_at_ms: u64,
    /// The manifest, those below it, and their blobs, each once.
    pub contents: usize,
    pub bytes_total: u64,
    /// Contents of which no region has the bytes any more.
    pub contents_lost: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionReceipt {
    pub region: Arc<str>,
    /// Whether it could be asked, a second ago at most. What it knew before stands in any case.
    pub visible: bool,
    /// When it was last heard of, while it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind_since_ms: Option<u64>,
    /// `None`: it cannot be told.
    pub known: Option<bool>,
    /// When it was committed there, or when this edge saw that it is known; nothing if it was known before this edge looked.
    pub known_at_ms: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Held>,
    #[serde(skip)]
    has_left: bool,
}

/// How much of an image a region has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    pub bytes_held: u64,
    pub bytes_total: u64,
    /// When the last of it came.
    pub held_at_ms: Option<u64>,
    /// The region serves all of it by itself.
    pub complete: bool,
}

/// Why a wait is over without what was waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum WaitError {
    /// No such region is configured.
    UnknownRegion(String),
    /// Of so many regions there are only these.
    TooFewRegions(usize),
    /// The time is over, or the edge ends.
    NotYet(Box<Receipt>, Vec<String>),
    Cache(CacheError),
}

impl From<CacheError> for WaitError {
    fn from(error: CacheError) -> WaitError {
        WaitError::Cache(error)
    }
}

/// One region as it stands to all events.
pub(super) struct Stand {
    pub region: Arc<str>,
    pub origin: Option<Origin>,
    pub seen: VersionVector,
    /// Why it cannot be asked, and since when.
    pub blind: Option<(String, Timestamp)>,
    has_left: bool,
}

impl Stand {
    /// Whether it has folded an event; `None` where that cannot be told.
    fn knows(&self, origin: &Origin, seq: u64) -> Option<bool> {
        let is_own = self.origin.as_ref() == Some(origin);
        let is_known = is_own || self.seen.covers(origin, seq);
        if is_known || self.blind.is_none() { Some(is_known) } else { None }
    }

    fn knows_all<'a>(&self, mut events: impl Iterator<Item = &'a EventEntry>) -> Option<bool> {
        events.try_fold(true, |all, event| self.knows(&event.origin, event.seq).map(|is_known| all && is_known))
    }
}

impl RegionReceipt {
    fn holds(&self, hold: Hold) -> bool {
        self.known == Some(true)
            && match hold {
                Hold::Known => true,
                Hold::Bytes => self.bytes.as_ref().is_some_and(|bytes| bytes.complete),
            }
    }

    /// What is missing here, for people.
    fn lacks(&self, hold: Hold) -> String {
        let region = &self.region;
        let blind = if self.visible { "" } else { ", and cannot be asked now" };
        match (&self.bytes, self.known) {
            (_, None) => format!("{region} cannot be asked now"),
            (_, Some(false)) => format!("{region} does not know it yet{blind}"),
            (Some(bytes), _) if hold == Hold::Bytes => {
                format!("{region} holds {} of {} bytes{blind}", bytes.bytes_held, bytes.bytes_total)
            }
            (_, Some(true)) => format!("{region} knows it"),
        }
    }
}

impl Receipt {
    /// What is missing before the regions of `breadth` hold it; empty when they do.
    fn lacking(&self, breadth: &Breadth, hold: Hold) -> Vec<String> {
        let lacking = |region: &&RegionReceipt| !region.holds(hold);
        let all: Vec<&RegionReceipt> = match breadth {
            Breadth::All => self.regions.iter().filter(|region| !region.has_left).collect(),
            Breadth::Named(names) => self.regions.iter().filter(|region| names.iter().any(|name| **name == *region.region)).collect(),
            Breadth::AtLeast(count) => {
                if self.regions.iter().filter(|region| region.holds(hold)).count() >= *count {
                    return Vec::new();
                }
                self.regions.iter().collect()
            }
        };
        all.into_iter().filter(lacking).map(|region| region.lacks(hold)).collect()
    }
}

impl Registry {
    /// Where an image is: of all regions, as far as they can be asked within half a second.
    ///
    /// # Errors
    /// `Absent`: no region that can be asked knows it. `Unavailable`
    pub async fn receipt(&self, access: &Access, reference: &Reference) -> Result<Receipt, CacheError> {
        let repository = access.repository();
        if !self.is_hosted(repository) {
            return Err(CacheError::Absent);
        }
        self.learn(repository, reference).await?;
        let stands = self.stands(FRESH_FOR).await?;
        self.image_receipt(repository, reference, &stands)
    }

    /// Waits until the regions have what is awaited, or `ended` or the time is over.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn wait(
        &self,
        awaited: &Awaited,
        breadth: &Breadth,
        within: Duration,
        ended: impl Future<Output = ()>,
    ) -> Result<Receipt, WaitError> {
        self.check_regions(awaited, breadth)?;
        let (deadline, mut ended) = (Instant::now() + within, std::pin::pin!(ended));
        if let Awaited::Image(access, reference, _) = awaited {
            if !self.is_hosted(access.repository()) {
                return Err(CacheError::Absent.into());
            }
            self.learn(access.repository(), reference).await?;
        }
        let hold = match awaited {
            Awaited::Image(_, _, hold) => *hold,
            Awaited::Position(_) => Hold::Known,
        };
        loop {
            // Begun before the look: what is folded behind it ends the pause.
            let folded = self.folded()?;
            let receipt = self.look(awaited).await?;
            let lacking = receipt.lacking(breadth, hold);
            if lacking.is_empty() {
                return Ok(receipt);
            }
            let next = deadline.min(Instant::now() + AWAITED_FRESH_FOR);
            let pause = async {
                sleep(LEAST_PAUSE).await;
                folded.await;
            };
            tokio::select! {
                () = pause => {}
                () = sleep_until(next) => {}
                () = &mut ended => return Err(WaitError::NotYet(Box::new(receipt), lacking)),
            }
            if Instant::now() >= deadline {
                return Err(WaitError::NotYet(Box::new(receipt), lacking));
            }
        }
    }

    async fn look(&self, awaited: &Awaited) -> Result<Receipt, CacheError> {
        // Other nodes of the region append too. What is known is told while the bucket is away.
        let _ = self.region()?.ledger.confirm(Look::Recent).await;
        let stands = self.stands(AWAITED_FRESH_FOR).await?;
        match awaited {
            Awaited::Image(access, reference, _) => self.image_receipt(access.repository(), reference, &stands),
            Awaited::Position(position) => Ok(self.position_receipt(position, &stands)),
        }
    }

    /// All regions that are spoken of are configured here.
    fn check_regions(&self, awaited: &Awaited, breadth: &Breadth) -> Result<(), WaitError> {
        let own = self.inner.replication.own_region();
        let regions: Vec<&str> = std::iter::once(own).chain(self.inner.witnesses.regions()).map(|region| &**region).collect();
        let mut named: Vec<&str> = match breadth {
            Breadth::AtLeast(count) if *count > regions.len() => return Err(WaitError::TooFewRegions(regions.len())),
            Breadth::All | Breadth::AtLeast(_) => Vec::new(),
            Breadth::Named(names) => names.iter().map(String::as_str).collect(),
        };
        if let Awaited::Position(position) = awaited {
            named.push(position.region());
        }
        match named.iter().find(|name| !regions.contains(name)) {
            Some(name) => Err(WaitError::UnknownRegion((*name).to_owned())),
            None => Ok(()),
        }
    }

    /// Sees to it that an image is known here, if any region that can be asked has it.
    async fn learn(&self, repository: &RepositoryName, reference: &Reference) -> Result<(), CacheError> {
        let ask = |ledger: &Ledger| ledger.named(repository, reference);
        if self.find(ask).await?.is_some() || !self.inner.replication.has_peers() {
            return Ok(());
        }
        let blind = self.inner.replication.catch_up(CATCH_UP_PATIENCE).await.blind;
        if blind.is_empty() || self.region()?.ledger.named(repository, reference)?.is_some() {
            return Ok(());
        }
        let why = format!("not known here, and these regions cannot tell: {}", blind.join(", "));
        Err(CacheError::Unavailable { why, retry_after: None })
    }

    /// All regions, the own one first.
    pub(super) async fn stands(&self, fresh_for: Duration) -> Result<Vec<Stand>, CacheError> {
        let ledger = &self.region()?.ledger;
        let heard = self.inner.witnesses.hear(fresh_for).await;
        let lags = self.inner.replication.lag();
        let left = regions_that_left(ledger)?;
        let own = ledger.origin();
        let mut stands = vec![Stand {
            region: own.region.clone(),
            origin: Some(own.clone()),
            seen: ledger.vector()?,
            blind: None,
            has_left: left.contains(&own.region),
        }];
        for (region, heard) in self.inner.witnesses.regions().zip(heard) {
            let lag = lags.iter().find(|lag| lag.region == *region);
            let (origin, seen) = proven(ledger, region, heard.as_ref())?;
            stands.push(Stand { region: region.clone(), origin, seen, blind: blind(heard, lag), has_left: left.contains(region) });
        }
        Ok(stands)
    }

    fn image_receipt(&self, repository: &RepositoryName, reference: &Reference, stands: &[Stand]) -> Result<Receipt, CacheError> {
        let ledger = &self.region()?.ledger;
        let named = ledger.named(repository, reference)?.ok_or(CacheError::Absent)?;
        let contents = ledger.contents_of(repository, &named.digest)?;
        let bytes_total = contents.iter().map(|(_, entry)| entry.size_bytes).sum();
        let image = ImageReceipt {
            repository: repository.clone(),
            reference: reference.to_string(),
            digest: named.digest,
            pushed_at_ms: named.push.at.as_ms(),
            contents: contents.len(),
            bytes_total,
            contents_lost: contents.iter().filter(|(_, entry)| is_lost(entry)).count(),
        };
        let mut regions = Vec::with_capacity(stands.len());
        for stand in stands {
            let known = stand.knows_all(named.events());
            let known_at = self.known_at(stand, &named, known);
            let bytes = Some(held(ledger, stand, &contents, (known, known_at))?);
            regions.push(RegionReceipt { bytes, ..region_receipt(stand, known, known_at) });
        }
        Ok(Receipt { image: Some(image), position: named.position().to_string(), regions })
    }

    fn known_at(&self, stand: &Stand, named: &NamedEntry, known: Option<bool>) -> Option<Timestamp> {
        let is_own = |event: &EventEntry| Some(&event.origin) == stand.origin.as_ref();
        let newest = named.events().max_by_key(|event| (event.at, event.seq))?;
        if known == Some(true) && is_own(newest) {
            return Some(newest.at);
        }
        self.inner.witnesses.first_known(&stand.region, (&named.push.origin, named.push.seq), known == Some(true))
    }

    fn position_receipt(&self, position: &Position, stands: &[Stand]) -> Receipt {
        let (origin, seq) = (&position.origin, position.seq);
        let receipt = |stand: &Stand| {
            // What is not committed yet is known nowhere, not even where it will be.
            let is_known = stand.seen.covers(origin, seq);
            let known = (is_known || stand.blind.is_none()).then_some(is_known);
            region_receipt(stand, known, self.inner.witnesses.first_known(&stand.region, (origin, seq), is_known))
        };
        Receipt { image: None, position: position.to_string(), regions: stands.iter().map(receipt).collect() }
    }
}

fn region_receipt(stand: &Stand, known: Option<bool>, known_at: Option<Timestamp>) -> RegionReceipt {
    RegionReceipt {
        region: stand.region.clone(),
        visible: stand.blind.is_none(),
        blind_since_ms: stand.blind.as_ref().map(|(_, since)| since.as_ms()),
        known,
        known_at_ms: known_at.map(Timestamp::as_ms),
        bytes: None,
        has_left: stand.has_left,
    }
}

/// What a region is proven to have folded: by its ledger as far as that came here, and by what it said itself. Of two incarnations the
/// later one counts; their names sort by the time they were begun.
fn proven(ledger: &Ledger, region: &str, heard: Option<&Heard>) -> Result<(Option<Origin>, VersionVector), LedgerError> {
    let written = ledger.incarnation_of(region)?;
    let told = heard.and_then(|heard| heard.origin.clone());
    let origin = written.clone().max(told.clone());
    let mut seen = VersionVector::default();
    let Some(latest) = &origin else { return Ok((None, seen)) };
    if written.as_ref() == Some(latest) {
        ledger.seen_by(latest)?.iter().for_each(|(origin, seq)| seen.raise(origin.clone(), seq));
        seen.raise(latest.clone(), ledger.vector()?.get(latest));
    }
    if let Some(heard) = heard.filter(|heard| heard.origin.as_ref() == Some(latest)) {
        heard.seen.iter().for_each(|(origin, seq)| seen.raise(origin.clone(), seq));
    }
    Ok((origin, seen))
}

/// Why a region cannot be asked, and when it was last heard of. One that has no edges is read in its store.
fn blind(heard: Option<Heard>, lag: Option<&PeerLag>) -> Option<(String, Timestamp)> {
    let seen_at = lag.map(|lag| lag.seen_at).unwrap_or_default();
    match heard {
        Some(heard) => heard.silent.map(|why| (why, seen_at.max(heard.at.unwrap_or_default()))),
        None => lag.and_then(|lag| lag.blind.clone()).map(|why| (why, seen_at)),
    }
}

/// Regions all of whose incarnations that the ledgers speak of are on their way out.
fn regions_that_left(ledger: &Ledger) -> Result<BTreeSet<Arc<str>>, LedgerError> {
    let members = ledger.members()?;
    let is_in = |region: &Arc<str>| members.iter().any(|member| member.origin.region == *region && member.standing == Standing::Joined);
    Ok(members.iter().map(|member| member.origin.region.clone()).filter(|region| !is_in(region)).collect())
}

fn is_lost(entry: &BlobEntry) -> bool {
    entry.inline.is_none() && entry.places.is_empty()
}

/// How much of it a region has. What travels in the ledger is there with the knowledge of it.
fn held(
    ledger: &Ledger,
    stand: &Stand,
    contents: &[(Digest, BlobEntry)],
    (known, known_at): (Option<bool>, Option<Timestamp>),
) -> Result<Held, LedgerError> {
    let (mut bytes_held, mut held_all, mut last) = (0, true, Some(Timestamp::default()));
    for (_, entry) in contents {
        let since = ledger.held_since(&stand.region, entry)?;
        if let Some(since) = since {
            last = last.max(Some(since));
        } else if entry.inline.is_some() && known == Some(true) {
            last = last.zip(known_at).map(|(last, known_at)| last.max(known_at));
        } else {
            held_all = false;
            continue;
        }
        bytes_held += entry.size_bytes;
    }
    let complete = held_all && known == Some(true);
    Ok(Held {
        bytes_held,
        bytes_total: contents.iter().map(|(_, entry)| entry.size_bytes).sum(),
        held_at_ms: last.filter(|_| complete).map(Timestamp::as_ms),
        complete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, known: Option<bool>, held: u64) -> RegionReceipt {
        RegionReceipt {
            region: name.into(),
            visible: known.is_some(),
            blind_since_ms: None,
            known,
            known_at_ms: None,
            bytes: Some(Held { bytes_held: held, bytes_total: 5, held_at_ms: None, complete: known == Some(true) && held == 5 }),
            has_left: name == "left",
        }
    }

    fn receipt() -> Receipt {
        let regions = vec![region("eu", Some(true), 5), region("us", Some(true), 3), region("ap", None, 0), region("left", Some(false), 0)];
        Receipt { image: None, position: "eu.01@1".to_owned(), regions }
    }

    #[test]
    fn who_is_missing_depends_on_what_is_waited_for() {
        let named = |names: &[&str]| Breadth::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (breadth, hold, lacking) in [
            (Breadth::All, Hold::Bytes, &["us holds 3 of 5 bytes", "ap cannot be asked now"][..]),
            (Breadth::All, Hold::Known, &["ap cannot be asked now"]),
            (named(&["eu"]), Hold::Bytes, &[]),
            (named(&["eu", "us"]), Hold::Known, &[]),
            (named(&["left"]), Hold::Known, &["left does not know it yet"]),
            (Breadth::AtLeast(2), Hold::Known, &[]),
            (Breadth::AtLeast(1), Hold::Bytes, &[]),
            (Breadth::AtLeast(0), Hold::Bytes, &[]),
            (Breadth::AtLeast(2), Hold::Bytes, &["us holds 3 of 5 bytes", "ap cannot be asked now", "left does not know it yet"]),
        ] {
            assert_eq!(receipt().lacking(&breadth, hold), lacking, "{breadth:?} {hold:?}");
        }
    }

    #[test]
    fn a_region_that_cannot_be_asked_is_believed_what_it_proved_and_nothing_else() {
        let (eu, us) = (Origin::new("eu", "1"), Origin::new("us", "1"));
        let mut seen = VersionVector::default();
        seen.raise(eu.clone(), 3);
        let stand = |blind: Option<(String, Timestamp)>| Stand {
            region: "us".into(),
            origin: Some(us.clone()),
            seen: seen.clone(),
            blind,
            has_left: false,
        };
        let (seeing, blind) = (stand(None), stand(Some(("no route".to_owned(), Timestamp::default()))));
        for (origin, seq, told, told_blind) in
            [(&eu, 3, Some(true), Some(true)), (&eu, 4, Some(false), None), (&us, 9, Some(true), Some(true))]
        {
            assert_eq!((seeing.knows(origin, seq), blind.knows(origin, seq)), (told, told_blind), "{origin} {seq}");
        }
    }

    #[test]
    fn a_region_is_blind_when_it_does_not_answer_whatever_was_read_of_it() {
        let lag = |blind: Option<&str>| PeerLag {
            region: "us".into(),
            incarnation: None,
            tail: 0,
            folded: 0,
            behind_events: 0,
            behind_ms: 0,
            blind: blind.map(str::to_owned),
            seen_at: Timestamp::from_ms(7),
            seen_of_us: 0,
        };
        let silent = Heard { silent: Some("no route".to_owned()), at: Some(Timestamp::from_ms(5)), ..Heard::default() };
        for (heard, lag, told) in [
            (Some(silent), lag(None), Some(("no route", 7))),
            (Some(Heard::default()), lag(Some("refused")), None),
            (None, lag(Some("refused")), Some(("refused", 7))),
            (None, lag(None), None),
        ] {
            let told = told.map(|(why, since): (&str, u64)| (why.to_owned(), Timestamp::from_ms(since)));
            assert_eq!(blind(heard, Some(&lag)), told);
        }
    }
}
