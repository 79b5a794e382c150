//! Another region as this one reaches it: through its edges while they answer, else straight at its store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::bucket::{ForeignBucket, OpenError, SnapshotPart, Through};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::ledger::{self, Attributes, BlobEntry, ManifestEntry, ManifestFacts, Origin, Place, Snapshots, Source};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::peers::protocol::Found;
use crate::peers::{Batch, PeerError, RemoteEdges, Segments, Wanted};

/// A store that could not be opened is tried again after this time.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Another region. Cloning is cheap.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    edges: Option<RemoteEdges>,
    store: Option<Store>,
}

/// A store that is opened when it is first needed.
struct Store {
    settings: config::Bucket,
    clock: Clock,
    metrics: Metrics,
    /// Held while it is opened, so that many who need it open it once.
    state: Mutex<State>,
}

enum State {
    Closed,
    Open(ForeignBucket),
    Failed { until: Timestamp, error: OpenError },
}

/// Who said what a ledger has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// They may have held their answer back.
    Edges,
    /// It cannot wait.
    Store,
}

impl Peer {
    /// `edges` are those of this peer, if it has any.
    pub fn new(settings: &config::Peer, edges: Option<RemoteEdges>, clock: Clock, metrics: Metrics) -> Peer {
        let store = settings.bucket.clone().map(|settings| Store { settings, clock, metrics, state: Mutex::new(State::Closed) });
        Peer(Arc::new(Inner { name: settings.region.as_str().into(), edges, store }))
    }

    /// The region's name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    pub fn edges(&self) -> Option<&RemoteEdges> {
        self.0.edges.as_ref()
    }

    /// The region's store, at the incarnation that was in force when it was opened; `None` if it is not configured.
    ///
    /// # Errors
    /// It cannot be opened now, or could not a moment ago.
    pub async fn store(&self) -> Result<Option<ForeignBucket>, OpenError> {
        let Some(store) = &self.0.store else { return Ok(None) };
        store.get(&self.0.name).await.map(Some)
    }

    /// The root of one of the region's incarnations in its store, for what its edges do not say for this reason.
    async fn root_of(&self, origin: &Origin, why: PeerError) -> Result<ForeignBucket, String> {
        match self.store().await {
            Ok(Some(store)) => Ok(rooted(&store, origin)),
            Ok(None) => Err(why.to_string()),
            Err(error) => Err(format!("{why}; its store: {error}")),
        }
    }

    /// Opens the store anew when it is next needed: it may have moved, or the region has begun another incarnation.
    pub async fn forget_store(&self) {
        if let Some(store) = &self.0.store {
            *store.state.lock().await = State::Closed;
        }
    }

    /// What follows segment `after` in a ledger: from an edge, which may hold its answer back for `wait`, or from the store.
    ///
    /// # Errors
    /// Neither says anything. [`PeerError::Denied`] is not among the errors.
    pub async fn segments(&self, origin: &Origin, after: u64, wait: Option<Duration>) -> Result<(Batch, Via), PeerError> {
        let asked = match self.edges() {
            Some(edges) => edges.segments(&origin.to_string(), after, wait).await.map(|batch| (batch, Via::Edges)),
            None => Err(no_edges()),
        };
        let Err(error) = asked else { return asked };
        match self.store().await {
            Ok(None) => Err(error),
            Ok(Some(store)) => {
                let stored = self.stored(&store, origin, after).await;
                if stored.is_err() {
                    self.forget_store().await;
                }
                Ok((Batch { segments: stored?, tail: None }, Via::Store))
            }
            Err(why) => Err(PeerError::unavailable(format!("{error}; its store: {why}"))),
        }
    }

    /// What its store has of a ledger, its own or one that it imported.
    async fn stored(&self, store: &ForeignBucket, origin: &Origin, after: u64) -> Result<Segments, PeerError> {
        let root = if origin.region == *self.name() { rooted(store, origin) } else { store.clone() };
        let found = Source::segments(&root, origin, after, Duration::ZERO).await.map_err(PeerError::unavailable)?;
        Ok(match found {
            ledger::Segments::Some(found) => Segments::Some(found),
            ledger::Segments::None => Segments::None,
            ledger::Segments::Trimmed => Segments::Trimmed,
            ledger::Segments::Unknown => Segments::Unknown,
        })
    }

    /// What the region knows of a manifest, by its edges; `None` if it says that it has none.
    ///
    /// # Errors
    /// It says nothing. [`PeerError::Denied`] is not among the errors.
    pub async fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Option<ManifestEntry>, PeerError> {
        let Some(found) = self.resolve(repository, Wanted::Manifest(reference)).await? else { return Ok(None) };
        let facts: Option<ManifestFacts> = found.facts.clone().map(serde_json::from_value).transpose().map_err(broken)?;
        let facts = facts.ok_or_else(|| PeerError::Broken("a manifest without its facts".to_owned()))?;
        let is_asked = match reference {
            Reference::Digest(digest) => found.digest == *digest,
            Reference::Tag(_) => true,
        };
        if !is_asked || facts.size_bytes != found.size_bytes {
            return Err(PeerError::Broken("another manifest than the one asked for".to_owned()));
        }
        let created_at = Timestamp::from_ms(found.created_ms.unwrap_or_default());
        // What locks it its region minds before it tells of it.
        let attributes = Attributes::default();
        Ok(Some(ManifestEntry { digest: found.digest, facts, created_at, updated_at: created_at, content: entry(found)?, attributes }))
    }

    /// The same of a blob that may be read through a repository.
    ///
    /// # Errors
    /// As for a manifest.
    pub async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<BlobEntry>, PeerError> {
        match self.resolve(repository, Wanted::Blob(digest)).await? {
            Some(found) if found.digest == *digest => entry(found).map(Some),
            Some(_) => Err(PeerError::Broken("another blob than the one asked for".to_owned())),
            None => Ok(None),
        }
    }

    async fn resolve(&self, repository: &RepositoryName, wanted: Wanted<'_>) -> Result<Option<Found>, PeerError> {
        let edges = self.edges().ok_or_else(no_edges)?;
        match edges.resolve(repository, wanted).await {
            Ok(found) => Ok(Some(found)),
            Err(PeerError::Denied) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// At its edges, else in its store.
impl Snapshots for Peer {
    async fn list(&self, of: &Origin) -> Result<Vec<Through>, String> {
        let told = match self.edges() {
            Some(edges) => edges.snapshots(&of.to_string()).await,
            None => Err(no_edges()),
        };
        match told {
            Ok(told) => told.iter().map(|text| text.parse().map_err(|_| format!("{text:?} is no snapshot's name"))).collect(),
            Err(why) => self.root_of(of, why).await?.list(of).await,
        }
    }

    async fn part(&self, of: &Origin, through: Through, part: SnapshotPart) -> Result<Option<Bytes>, String> {
        let told = match self.edges() {
            Some(edges) => edges.snapshot_part(&of.to_string(), &through.to_string(), &part.to_string()).await,
            None => Err(no_edges()),
        };
        match told {
            Ok(bytes) => Ok(Some(bytes)),
            Err(PeerError::Denied) => Ok(None),
            Err(why) => self.root_of(of, why).await?.part(of, through, part).await,
        }
    }
}

impl Store {
    async fn get(&self, region: &str) -> Result<ForeignBucket, OpenError> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Open(store) => return Ok(store.clone()),
            State::Failed { until, error } if self.clock.now() < *until => return Err(error.clone()),
            State::Closed | State::Failed { .. } => {}
        }
        let opened = ForeignBucket::open(&self.settings, region, self.clock.clone(), self.metrics.clone()).await;
        *state = match &opened {
            Ok(store) => State::Open(store.clone()),
            Err(error) => State::Failed { until: self.clock.now().plus(OPEN_AGAIN_AFTER), error: error.clone() },
        };
        opened
    }
}

/// The root of an origin in its region's store.
pub(super) fn rooted(store: &ForeignBucket, origin: &Origin) -> ForeignBucket {
    if *store.incarnation() == *origin.incarnation { store.clone() } else { store.at_incarnation(&origin.incarnation) }
}

/// What another region says of a content. Bytes that it sends along are checked.
fn entry(found: Found) -> Result<BlobEntry, PeerError> {
    let Found { digest, size_bytes, inline, places, .. } = found;
    let is_true = |bytes: &bytes::Bytes| bytes.len() as u64 == size_bytes && Digest::of(digest.algorithm(), bytes) == digest;
    if !inline.as_ref().is_none_or(is_true) {
        return Err(PeerError::Broken(format!("other bytes than those of {digest}")));
    }
    let places = places.iter().map(|place| place.parse()).collect::<Result<Vec<Place>, _>>().map_err(broken)?;
    Ok(BlobEntry { size_bytes, inline, places })
}

/// What an edge says of a content to another region.
pub fn found(digest: &Digest, content: BlobEntry) -> Found {
    let BlobEntry { size_bytes, inline, places } = content;
    let places = places.iter().map(Place::to_string).collect();
    Found { digest: *digest, media_type: None, size_bytes, inline, places, created_ms: None, facts: None }
}

/// The same of a manifest.
pub fn found_manifest(manifest: ManifestEntry) -> Found {
    let ManifestEntry { digest, facts, created_at, content, .. } = manifest;
    Found {
        media_type: Some(facts.media_type.clone()),
        created_ms: Some(created_at.as_ms()),
        facts: serde_json::to_value(&facts).ok(),
        ..found(&digest, content)
    }
}

fn no_edges() -> PeerError {
    PeerError::unavailable("no edges of it are configured")
}

fn broken(error: impl fmt::Display) -> PeerError {
    PeerError::Broken(error.to_string())
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, edges, store } = &*self.0;
        f.debug_struct("Peer").field("name", name).field("edges", edges).field("has_store", &store.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Bucket;
    use crate::ledger::{Event, Ledger, Place, Pulled};
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use ulid::Ulid;

    /// A region in a folder, and how others reach it.
    async fn region(name: &str, folder: &std::path::Path) -> (Ledger, Peer) {
        let settings = config::Bucket {
            place: config::BucketPlace::File(folder.join(name)),
            options: BTreeMap::new(),
            ca_file: None,
            request_timeout: Duration::from_secs(5),
            part_size: config::ByteSize(5 << 20),
        };
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let bucket = Bucket::open(&settings, name, clock.clone(), metrics.clone()).await.unwrap();
        let index = ledger::Settings { index: ledger::IndexPlace::Memory, node: "edge".to_owned(), regions: ledger::Regions::Many };
        let ledger = Ledger::open(bucket, index, clock.clone(), metrics.clone()).await.unwrap();
        let peer = config::Peer {
            region: name.to_owned(),
            bucket: Some(settings),
            edges: Vec::new(),
            token: None,
            ca_file: None,
            clients: Vec::new(),
        };
        (ledger, Peer::new(&peer, None, clock, metrics))
    }

    #[tokio::test]
    async fn a_store_tells_the_ledgers_that_its_region_imported_too() {
        let folder = tempfile::tempdir().unwrap();
        let ((eu, at_eu), (us, at_us)) = (region("eu", folder.path()).await, region("us", folder.path()).await);
        for _ in 0..3 {
            us.append(vec![Event::Heartbeat {}]).await.unwrap();
        }
        assert!(matches!(at_eu.segments(us.origin(), 0, None).await, Ok((Batch { segments: Segments::Unknown, .. }, Via::Store))));
        let (told, _) = at_us.segments(us.origin(), 1, None).await.unwrap();
        let Segments::Some(found) = told.segments else { panic!("{told:?}") };
        assert_eq!(found.len(), 2);
        assert!(matches!(
            eu.pull(&at_us.root_of(us.origin(), no_edges()).await.unwrap(), us.origin(), Duration::ZERO).await,
            Ok(Pulled::Some(3))
        ));
        for (at, after) in [(&at_eu, 1), (&at_us, 1)] {
            assert_eq!(at.segments(us.origin(), after, None).await.unwrap().0.segments, Segments::Some(found.clone()), "{at:?}");
        }
        assert_eq!(at_eu.segments(us.origin(), 3, None).await.unwrap().0.segments, Segments::None);
    }

    fn manifest(bytes: &'static [u8], inline: Option<&'static [u8]>) -> ManifestEntry {
        let facts = ManifestFacts { media_type: "a/b".to_owned(), size_bytes: bytes.len() as u64, ..ManifestFacts::default() };
        let places = vec![Place { origin: Origin::new("us", "01"), key: Ulid::from_parts(1, 2) }];
        let content = BlobEntry { size_bytes: bytes.len() as u64, inline: inline.map(Bytes::from_static), places };
        let (created_at, attributes) = (Timestamp::from_ms(7), Attributes::default());
        ManifestEntry { digest: Digest::sha256(bytes), facts, created_at, updated_at: created_at, content, attributes }
    }

    #[test]
    fn an_entry_comes_over_as_it_is() {
        for inline in [None, Some(&b"{}"[..])] {
            let manifest = manifest(b"{}", inline);
            let told = found_manifest(manifest.clone());
            let told: Found = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
            assert_eq!(serde_json::from_value::<ManifestFacts>(told.facts.clone().unwrap()).unwrap(), manifest.facts);
            assert_eq!(entry(told).unwrap(), manifest.content);
        }
    }

    /// A region that has not begun yet may have begun a moment later.
    #[tokio::test]
    async fn a_store_that_is_not_there_yet_is_tried_again_after_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let (place, clock) = (folder.path().join("bucket"), Clock::manual(Timestamp::from_ms(1_000)));
        let (request_timeout, part_size) = (Duration::from_secs(1), config::ByteSize(5 << 20));
        let at = config::BucketPlace::File(place.clone());
        let settings = config::Bucket { place: at, options: BTreeMap::new(), ca_file: None, request_timeout, part_size };
        let configured = config::Peer {
            region: "us".to_owned(),
            bucket: Some(settings.clone()),
            edges: Vec::new(),
            token: None,
            ca_file: None,
            clients: Vec::new(),
        };
        let peer = Peer::new(&configured, None, clock.clone(), Metrics::new());
        assert!(matches!(peer.store().await, Err(OpenError::NotYet(_))));
        std::fs::create_dir(&place).unwrap();
        Bucket::open(&settings, "us", clock.clone(), Metrics::new()).await.unwrap();
        for (after_ms, is_open) in [(999, false), (1, true)] {
            clock.advance(Duration::from_millis(after_ms));
            assert_eq!(peer.store().await.is_ok(), is_open, "{after_ms}");
        }
    }

    #[test]
    fn bytes_and_places_that_are_not_true_are_refused() {
        assert!(matches!(entry(found_manifest(manifest(b"{}", Some(b"[]")))), Err(PeerError::Broken(_))));
        assert!(matches!(entry(found_manifest(manifest(b"{}", Some(b"{} ")))), Err(PeerError::Broken(_))));
        let told = Found { places: vec!["us/1".to_owned()], ..found_manifest(manifest(b"{}", None)) };
        assert!(matches!(entry(told), Err(PeerError::Broken(_))));
    }
}
