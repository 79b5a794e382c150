//! The shared objects, without any fault.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectMeta, Result};

use super::Verb;
use crate::clock::{Clock, Timestamp};

/// The objects that all nodes see.
#[derive(Clone)]
pub(crate) struct SimulatedStore(pub(super) Arc<Mutex<World>>);

pub(super) struct World {
    pub(super) objects: BTreeMap<String, (Bytes, Timestamp)>,
    /// What was created first at each path, whatever took its place.
    first: BTreeMap<String, Bytes>,
    pub(super) uploads: BTreeMap<String, BTreeMap<usize, Bytes>>,
    pub(super) begun: u64,
    pub(super) requests: BTreeMap<Verb, u64>,
    clock: Clock,
    pub(super) random: fastrand::Rng,
}

impl SimulatedStore {
    /// `clock` is the store's own.
    pub(crate) fn new(seed: u64, clock: Clock) -> SimulatedStore {
        SimulatedStore(Arc::new(Mutex::new(World {
            objects: BTreeMap::new(),
            first: BTreeMap::new(),
            uploads: BTreeMap::new(),
            begun: 0,
            requests: BTreeMap::new(),
            clock,
            random: fastrand::Rng::with_seed(seed),
        })))
    }

    /// How many requests of this kind the nodes have made.
    pub(crate) fn requests(&self, verb: Verb) -> u64 {
        lock(&self.0).requests.get(&verb).copied().unwrap_or_default()
    }

    /// The paths of all objects, with their bytes.
    pub(crate) fn objects(&self) -> BTreeMap<String, Bytes> {
        lock(&self.0).objects.iter().map(|(path, (bytes, _))| (path.clone(), bytes.clone())).collect()
    }

    /// How many uploads in parts were neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        lock(&self.0).uploads.len()
    }

    /// Puts an object there, or another in its place, as no node would.
    pub(crate) fn plant(&self, path: &str, bytes: impl Into<Bytes>) {
        lock(&self.0).put(path, bytes.into());
    }

    pub(crate) fn remove(&self, path: &str) {
        let mut world = lock(&self.0);
        world.objects.remove(path);
        world.first.remove(path);
    }

    /// What nodes created first at each path, as it was then.
    pub(crate) fn first_created(&self) -> BTreeMap<String, Bytes> {
        lock(&self.0).first.clone()
    }
}

impl World {
    pub(super) fn put(&mut self, path: &str, bytes: Bytes) {
        let now = self.clock.now();
        self.objects.insert(path.to_owned(), (bytes, now));
    }

    pub(super) fn create(&mut self, path: &str, bytes: Bytes) -> Result<()> {
        if self.objects.contains_key(path) {
            return Err(exists(path));
        }
        self.first.entry(path.to_owned()).or_insert_with(|| bytes.clone());
        self.put(path, bytes);
        Ok(())
    }

    pub(super) fn meta(&self, path: &str) -> Result<ObjectMeta> {
        let (bytes, modified) = self.objects.get(path).ok_or_else(|| absent(path))?;
        let last_modified = (UNIX_EPOCH + Duration::from_millis(modified.as_ms())).into();
        Ok(ObjectMeta { location: Path::from(path), last_modified, size: bytes.len() as u64, e_tag: None, version: None })
    }

    pub(super) fn get(&self, path: &str, options: &GetOptions) -> Result<(ObjectMeta, Range<u64>, Bytes)> {
        let meta = self.meta(path)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| words(&error.to_string()))?,
            None => 0..meta.size,
        };
        let bytes = self.objects.get(path).map(|(bytes, _)| bytes.slice(range.start as usize..range.end as usize));
        Ok((meta, range, bytes.unwrap_or_default()))
    }

    pub(super) fn upload(&mut self, id: &str) -> Result<&mut BTreeMap<usize, Bytes>> {
        self.uploads.get_mut(id).ok_or_else(|| absent(id))
    }

    pub(super) fn complete(&mut self, path: &str, id: &str, parts: usize) -> Result<()> {
        let sent = self.upload(id)?;
        if sent.len() != parts {
            return Err(words("other parts were sent"));
        }
        let whole: Vec<u8> = sent.values().flat_map(|part| part.to_vec()).collect();
        self.uploads.remove(id);
        self.put(path, whole.into());
        Ok(())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn words(text: &str) -> Error {
    Error::Generic { store: "Simulated", source: text.into() }
}

pub(super) fn exists(path: &str) -> Error {
    Error::AlreadyExists { path: path.into(), source: "simulated".into() }
}

pub(super) fn absent(path: &str) -> Error {
    Error::NotFound { path: path.into(), source: "simulated".into() }
}
