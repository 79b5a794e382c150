//! Content of hosted repositories: from memory, from the disk, from a file of the bucket's on this machine, or by one transfer that
//! every reader follows, from the own region's bucket or from another region. Who may read it the ledger has said before.

use super::flight::{Early, Flights};
use super::{Cache, CacheError, SMALL_BLOB_BYTES, Source};
use crate::bucket::Bucket;
use crate::ledger::BlobEntry;
use crate::oci::Digest;
use crate::region::{NotOpen, ReadError, Reading, Region};
use crate::store::Content;

/// Where a content may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// From the own region alone. Transfers of this kind wait for no other region, so that two regions that ask each other never wait
    /// in a circle.
    Own,
    /// From any region.
    Everywhere,
}

impl Cache {
    /// A blob or manifest of a hosted repository. A small one is complete and verified when this returns, any other has its first byte.
    ///
    /// # Errors
    /// `Unavailable` when its bytes cannot be reached now.
    pub async fn hosted(&self, region: &Region, digest: &Digest, entry: &BlobEntry) -> Result<(Content, Source), CacheError> {
        if let Some(here) = self.here(&region.get()?.bucket, digest, entry).await {
            return Ok(here);
        }
        self.reach(region, digest, entry, Reach::Everywhere).await
    }

    /// The same, for another region: only what this one has; `None` if it has nothing of it.
    ///
    /// # Errors
    /// `Unavailable` when this region has it and it cannot be reached now.
    pub async fn hosted_here(&self, region: &Region, digest: &Digest, entry: &BlobEntry) -> Result<Option<(Content, Source)>, CacheError> {
        let bucket = &region.get()?.bucket;
        if let Some(here) = self.here(bucket, digest, entry).await {
            return Ok(Some(here));
        }
        if !entry.is_in(bucket) {
            return Ok(None);
        }
        self.reach(region, digest, entry, Reach::Own).await.map(Some)
    }

    /// What needs no transfer.
    async fn here(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Option<(Content, Source)> {
        if let Some(bytes) = &entry.inline {
            return Some((Content::from_memory(bytes.clone()), Source::Memory));
        }
        let (content, source) = self.at_hand(bucket, digest, entry).await?;
        match self.ready(&content).await {
            Ok(()) => Some((content, source)),
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob of this region was unreadable here");
                None
            }
        }
    }

    async fn reach(&self, region: &Region, digest: &Digest, entry: &BlobEntry, reach: Reach) -> Result<(Content, Source), CacheError> {
        let (content, source) = self.join(region, digest, entry, reach).await?;
        match self.ready(&content).await {
            // Nobody told a lie: a region's own bytes are damaged.
            Err(CacheError::WrongAnswer(why)) => Err(unavailable(&why)),
            outcome => outcome.map(|()| (content, source)),
        }
    }

    async fn ready(&self, content: &Content) -> Result<(), CacheError> {
        match content.size_bytes() {
            Some(size) if size <= SMALL_BLOB_BYTES => content.complete().await?,
            _ => content.started().await?,
        }
        Ok(())
    }

    async fn at_hand(&self, bucket: &Bucket, digest: &Digest, entry: &BlobEntry) -> Option<(Content, Source)> {
        if let Some(here) = self.blob_here(digest).await {
            return Some(here);
        }
        let path = entry.keys_in(bucket).find_map(|key| bucket.local_file(&key))?;
        let content = self.inner.store.bucket_file(digest, path).await?;
        Some((self.remembered(digest, content).await?, Source::Bucket))
    }

    async fn join(&self, region: &Region, digest: &Digest, entry: &BlobEntry, reach: Reach) -> Result<(Content, Source), CacheError> {
        let (cache, region, digest, entry) = (self.clone(), region.clone(), *digest, entry.clone());
        let filling = |early| async move { cache.fill_from(&region, &digest, (&entry, reach), &early).await };
        let under_way = self.inner.hosted.start((digest, reach), filling);
        Flights::<(Digest, Reach), _>::value(under_way).await?
    }

    /// Readers get the content with its first bytes.
    async fn fill_from(
        &self,
        region: &Region,
        digest: &Digest,
        (entry, reach): (&BlobEntry, Reach),
        early: &Early<Result<(Content, Source), CacheError>>,
    ) -> Option<Result<(Content, Source), CacheError>> {
        // Another transfer may have ended between the caller's look and this one's start.
        if let Some(here) = self.blob_here(digest).await {
            return Some(Ok(here));
        }
        let open = match region.get() {
            Ok(open) => open,
            Err(error) => return Some(Err(error.into())),
        };
        let mut reading = match reach {
            Reach::Own => Reading::own(&open.bucket, digest, entry),
            Reach::Everywhere => Reading::new(region, open, digest, entry),
        };
        let mut ingest = self.inner.store.ingest(*digest, Some(entry.size_bytes));
        let ended = |reading: &Reading, outcome| {
            self.inner.metrics.fill_ended(if reading.abroad().is_some() { "region" } else { "bucket" }, outcome);
        };
        loop {
            match reading.next().await {
                Ok(Some(bytes)) => {
                    if ingest.position() == 0 {
                        let source = reading.abroad().map_or(Source::Bucket, |name| Source::Region(name.clone()));
                        early.publish(Ok((ingest.content(), source)));
                    }
                    if let Err(error) = ingest.write(bytes).await {
                        ended(&reading, "broken");
                        return Some(Err(unavailable(&error.to_string())));
                    }
                }
                Ok(None) => {
                    let finished = ingest.finish().await;
                    ended(&reading, if finished.is_ok() { "complete" } else { "mismatch" });
                    return finished.err().map(|error| Err(unavailable(&error.to_string())));
                }
                Err(error) => {
                    ended(&reading, if ingest.position() > 0 { "broken" } else { "refused" });
                    ingest.abort(error.to_string());
                    return Some(Err(error.into()));
                }
            }
        }
    }
}

fn unavailable(why: &str) -> CacheError {
    CacheError::Unavailable { why: why.to_owned(), retry_after: None }
}

impl From<ReadError> for CacheError {
    fn from(error: ReadError) -> CacheError {
        CacheError::Unavailable { why: error.why, retry_after: error.retry_after }
    }
}

impl From<NotOpen> for CacheError {
    fn from(error: NotOpen) -> CacheError {
        unavailable(&error.to_string())
    }
}

impl From<crate::ledger::LedgerError> for CacheError {
    fn from(error: crate::ledger::LedgerError) -> CacheError {
        unavailable(&error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::bucket::Key;
    use crate::clock::Clock;
    use crate::config::{self, BucketPlace, ByteSize};
    use crate::ledger::{IndexPlace, Ledger, Origin, Place, Regions, Settings};
    use crate::metrics::Metrics;
    use crate::peers::testing::{Played, edges, vouched};
    use crate::region::Peer;
    use crate::store::{self, Store};

    /// A cache in a region that is open and has this peer.
    async fn cache(dir: &std::path::Path, peer: Peer) -> (Cache, Region) {
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let (request_timeout, part_size) = (Duration::from_secs(5), ByteSize(5 << 20));
        let settings = config::Bucket { place: BucketPlace::Memory, options: BTreeMap::new(), ca_file: None, request_timeout, part_size };
        let bucket = Bucket::open(&settings, "eu", clock.clone(), metrics.clone()).await.unwrap();
        let settings = Settings { index: IndexPlace::Memory, node: "edge".to_owned(), regions: Regions::Many };
        let ledger = Ledger::open(bucket.clone(), settings, clock.clone(), metrics.clone()).await.unwrap();
        let region = Region::with_peers(vec![peer]);
        region.open(bucket, ledger);
        let settings = store::Settings { dir: dir.to_owned(), max_bytes: 1 << 20 };
        let store = Store::open(settings, clock.clone(), metrics.clone()).await.unwrap();
        let settings = config::Cache {
            disk: ByteSize(1 << 20),
            memory: ByteSize(1 << 20),
            prefetch: 0,
            negative_ttl: Duration::ZERO,
            stale_after: Duration::from_secs(1),
        };
        (Cache::new(settings, store, clock, metrics), region)
    }

    /// The region us, whose edge gives these answers.
    async fn us(answers: Vec<String>) -> (Peer, Played) {
        let played = Played::new(answers).await;
        let edges = edges(&[played.address], Clock::system());
        let settings =
            config::Peer { region: "us".to_owned(), bucket: None, edges: Vec::new(), token: None, ca_file: None, clients: Vec::new() };
        (Peer::new(&settings, Some(edges), Clock::system(), Metrics::new()), played)
    }

    fn there(size_bytes: usize) -> BlobEntry {
        let place = Place { origin: Origin::new("us", "01"), key: ulid::Ulid::from_parts(1, 1) };
        BlobEntry { size_bytes: size_bytes as u64, inline: None, places: vec![place] }
    }

    #[tokio::test]
    async fn what_lies_in_another_region_is_fetched_once_and_kept_here() {
        let (dir, content) = (tempfile::tempdir().unwrap(), "x".repeat(200_000));
        let (peer, played) = us(vec![vouched("200 OK", "", &content)]).await;
        let (cache, region) = cache(dir.path(), peer).await;
        let (digest, entry) = (Digest::sha256(content.as_bytes()), there(content.len()));
        assert!(cache.hosted_here(&region, &digest, &entry).await.unwrap().is_none(), "another region is never told of a third one's");
        let (first, second) = tokio::join!(cache.hosted(&region, &digest, &entry), cache.hosted(&region, &digest, &entry));
        for (content_here, source) in [first.unwrap(), second.unwrap()] {
            assert_eq!((content_here.bytes().await.unwrap().len(), source), (content.len(), Source::Region("us".into())));
        }
        cache.idle().await;
        let (_, source) = cache.hosted(&region, &digest, &entry).await.unwrap();
        assert_eq!((source, played.heard().len()), (Source::Disk, 1));
        let told = cache.hosted_here(&region, &digest, &entry).await.unwrap();
        assert_eq!(told.map(|(_, source)| source), Some(Source::Disk), "what is on the disk is told");
    }

    #[tokio::test]
    async fn wrong_bytes_and_silence_of_another_region_are_no_content() {
        for answer in [vouched("200 OK", "", "wrong bytes"), vouched("404 Not Found", "", ""), vouched("503 Service Unavailable", "", "")] {
            let dir = tempfile::tempdir().unwrap();
            let (peer, _played) = us(vec![answer.clone()]).await;
            let (cache, region) = cache(dir.path(), peer).await;
            let outcome = cache.hosted(&region, &Digest::sha256(b"right bytes"), &there(11)).await;
            assert!(matches!(outcome, Err(CacheError::Unavailable { .. })), "{answer}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn another_region_is_told_what_the_own_bucket_has() {
        let dir = tempfile::tempdir().unwrap();
        let (peer, played) = us(Vec::new()).await;
        let (cache, region) = cache(dir.path(), peer).await;
        let bucket = &region.get().unwrap().bucket;
        let place = Place { origin: Origin::of(bucket), key: bucket.fresh_ulid() };
        bucket.create(&Key::Blob(place.key), Bytes::from_static(b"right bytes")).await.unwrap();
        let entry = BlobEntry { places: vec![place.clone()], ..there(11) };
        let told = cache.hosted_here(&region, &Digest::sha256(b"right bytes"), &entry).await.unwrap();
        assert_eq!(told.map(|(_, source)| source), Some(Source::Bucket));
        // What it lost is not sought elsewhere.
        let (lost, mut both) = (Place { key: bucket.fresh_ulid(), ..place }, there(5));
        both.places.push(lost);
        let outcome = cache.hosted_here(&region, &Digest::sha256(b"other"), &both).await;
        assert!(matches!(outcome, Err(CacheError::Unavailable { .. })), "{outcome:?}");
        assert_eq!(played.heard().len(), 0);
    }
}
