//! Reading an object piece by piece.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload};

use super::error::BucketError;
use super::local::of_disk;
use super::wire::Wire;

/// What is read from a file at a time.
const FILE_READ_BYTES: u64 = 256 << 10;

/// The content of an object, or a range of it.
pub struct ObjectReader {
    wire: Wire,
    source: Source,
    /// What is still to come.
    range: Range<u64>,
    object_bytes: u64,
}

enum Source {
    File(Arc<File>),
    Stream(BoxStream<'static, object_store::Result<Bytes>>),
}

impl ObjectReader {
    pub(super) async fn open(wire: &Wire, path: &Path, range: Range<u64>) -> Result<Option<ObjectReader>, BucketError> {
        if range.is_empty() {
            // No store takes such a range, but whether the object is there was asked all the same.
            let source = Source::Stream(Box::pin(futures_util::stream::empty()));
            let found = wire.head(path).await?;
            return Ok(found.map(|found| ObjectReader { wire: wire.clone(), source, range: 0..0, object_bytes: found.size }));
        }
        let range = match (range.start, range.end) {
            (0, u64::MAX) => None,
            (start, u64::MAX) => Some(GetRange::Offset(start)),
            _ => Some(GetRange::Bounded(range)),
        };
        let found = wire.open(path, GetOptions { range, ..GetOptions::default() }).await?;
        Ok(found.map(|found| ObjectReader::new(wire.clone(), found)))
    }

    fn new(wire: Wire, found: GetResult) -> ObjectReader {
        let (range, object_bytes) = (found.range, found.meta.size);
        let source = match found.payload {
            GetResultPayload::File(file, _) => Source::File(Arc::new(file)),
            GetResultPayload::Stream(stream) => Source::Stream(stream),
        };
        ObjectReader { wire, source, range, object_bytes }
    }

    /// The size of the whole object.
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// What is still to come, as positions in the object. At first it is what was asked for, cut at the object's end.
    pub fn remaining(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The next bytes; `None` at the end of the range, when all of it has come.
    ///
    /// # Errors
    /// The rest can be asked for anew from [`remaining`](Self::remaining).
    pub async fn next(&mut self) -> Result<Option<Bytes>, BucketError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let bytes = match &mut self.source {
            Source::File(file) => Some(read_file(file.clone(), self.range.clone()).await?),
            Source::Stream(stream) => self.wire.next(stream).await.map_err(super::error::Failure::into_error)?,
        };
        let Some(bytes) = bytes.filter(|bytes| bytes.len() as u64 <= self.range.end - self.range.start) else {
            return Err(BucketError::unavailable("the content ended early or late"));
        };
        self.range.start += bytes.len() as u64;
        self.wire.count_bytes("received", bytes.len() as u64);
        Ok(Some(bytes))
    }
}

async fn read_file(file: Arc<File>, range: Range<u64>) -> Result<Bytes, BucketError> {
    let length = (range.end - range.start).min(FILE_READ_BYTES) as usize;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map(|()| bytes.into())
    });
    match read.await {
        Ok(bytes) => bytes.map_err(|error| of_disk(&error)),
        Err(_) => Err(BucketError::unavailable("the process is ending")),
    }
}
