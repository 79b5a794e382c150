//! One node's client of the shared objects, and what goes wrong on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::faults::between;
use super::world::{World, exists, lock, words};
use super::{Fault, Faults, SimulatedStore, Verb};

/// One node's client. Clones are the same node.
#[derive(Clone)]
pub(crate) struct SimulatedNode {
    world: SimulatedStore,
    state: Arc<Mutex<State>>,
}

struct State {
    random: fastrand::Rng,
    faults: Faults,
    planned: VecDeque<(Verb, Fault)>,
    is_cut_off: bool,
    requests: BTreeMap<Verb, u64>,
}

/// One request's fate, drawn when it is made.
struct Fate {
    fault: Option<Fault>,
    there: Duration,
    back: Duration,
    fails_at_once: bool,
}

impl SimulatedStore {
    /// One more node, without faults until it is given some.
    pub(crate) fn node(&self) -> SimulatedNode {
        let random = lock(&self.0).random.fork();
        let state = State { random, faults: Faults::NONE, planned: VecDeque::new(), is_cut_off: false, requests: BTreeMap::new() };
        SimulatedNode { world: self.clone(), state: Arc::new(Mutex::new(state)) }
    }
}

impl SimulatedNode {
    pub(crate) fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// What happens to the next request of this kind that has no plan yet.
    pub(crate) fn plan(&self, verb: Verb, fault: Fault) {
        lock(&self.state).planned.push_back((verb, fault));
    }

    /// Cuts the node off from the store: requests fail or hang, answers on their way are lost.
    pub(crate) fn cut_off(&self) {
        lock(&self.state).is_cut_off = true;
    }

    pub(crate) fn heal(&self) {
        lock(&self.state).is_cut_off = false;
    }

    /// How many requests of this kind this node has made.
    pub(crate) fn requests(&self, verb: Verb) -> u64 {
        lock(&self.state).requests.get(&verb).copied().unwrap_or_default()
    }

    pub(super) fn fork_random(&self) -> fastrand::Rng {
        lock(&self.state).random.fork()
    }

    fn is_cut_off(&self) -> bool {
        lock(&self.state).is_cut_off
    }

    fn fate(&self, verb: Verb) -> Fate {
        *lock(&self.world.0).requests.entry(verb).or_default() += 1;
        let mut state = lock(&self.state);
        *state.requests.entry(verb).or_default() += 1;
        let State { random, faults, planned, .. } = &mut *state;
        let drawn = faults.draw(verb, random);
        let (there, back) = (between(&faults.latency, random), between(&faults.latency, random));
        let fails_at_once = random.bool();
        let planned = planned.iter().position(|(of, _)| *of == verb).and_then(|at| planned.remove(at));
        Fate { fault: planned.map(|(_, fault)| fault).or(drawn), there, back, fails_at_once }
    }

    /// Makes one request. `effect` is what it does to the objects.
    async fn request<T: Send + 'static>(
        &self,
        verb: Verb,
        path: &str,
        effect: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fate = self.fate(verb);
        if self.is_cut_off() {
            return self.never(fate.fails_at_once).await;
        }
        let there = match fate.fault {
            Some(Fault::Late(time)) => time,
            _ => fate.there,
        };
        let is_done = !matches!(fate.fault, Some(Fault::ErrorBefore | Fault::Throttled | Fault::FalseExists | Fault::Hang));
        let node = self.clone();
        let done = tokio::spawn(async move {
            pause(there).await;
            // A request that is cut off on its way is not done.
            (is_done && !node.is_cut_off()).then(|| effect(&mut lock(&node.world.0)))
        });
        let outcome = done.await.map_err(|_| words("the simulation has ended"))?;
        pause(fate.back).await;
        if self.is_cut_off() {
            return self.never(false).await;
        }
        match (fate.fault, outcome) {
            (None | Some(Fault::Late(_)), Some(outcome)) => outcome,
            (Some(Fault::ErrorBefore | Fault::ErrorAfter), _) => Err(words("Server returned non-2xx status code: 500 Simulated")),
            (Some(Fault::Throttled), _) => Err(words("Server returned non-2xx status code: 503 Slow Down")),
            (Some(Fault::FalseExists | Fault::ExistsAfter), _) => Err(exists(path)),
            (Some(Fault::Lost | Fault::Hang), _) | (_, None) => self.never(false).await,
        }
    }

    /// No answer comes, or at once the error of a network that is not there.
    async fn never<T>(&self, fails_at_once: bool) -> Result<T> {
        if fails_at_once {
            return Err(words("error sending request: connection refused"));
        }
        std::future::pending().await
    }

    fn listing(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (node, after) = (self.clone(), after.map(Path::to_string));
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let request = async move {
            let path = folder.clone();
            let listed = node.request(Verb::List, &path, move |world| {
                let paths =
                    world.objects.keys().filter(|path| path.starts_with(&folder) && after.as_ref().is_none_or(|after| *path > after));
                paths.map(|path| world.meta(path)).collect::<Result<Vec<_>>>()
            });
            let mut listed = listed.await?;
            // The order of a listing means nothing.
            lock(&node.state).random.shuffle(&mut listed);
            Ok::<_, Error>(stream::iter(listed.into_iter().map(Ok)))
        };
        stream::once(request).try_flatten().boxed()
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn put_result() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: Default::default() }
}

impl fmt::Debug for SimulatedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedNode")
    }
}

impl fmt::Display for SimulatedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

#[async_trait]
impl ObjectStore for SimulatedNode {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (path, bytes) = (location.to_string(), Bytes::from(payload));
        let creates = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            // Not every store has it, so that nothing may ask for it.
            PutMode::Update(_) => return Err(words("conditional updates are not simulated")),
        };
        let verb = if creates { Verb::Create } else { Verb::Put };
        let target = path.clone();
        self.request(verb, &path, move |world| match creates {
            true => world.create(&target, bytes),
            false => {
                world.put(&target, bytes);
                Ok(())
            }
        })
        .await?;
        Ok(put_result())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(words("parts are sent by number"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = match (options.head, &options.range) {
            (true, _) => Verb::Head,
            (false, None) => Verb::Read,
            (false, Some(_)) => Verb::Open,
        };
        let path = location.to_string();
        let target = path.clone();
        let (meta, range, bytes) = self.request(verb, &path, move |world| world.get(&target, &options)).await?;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let node = self.clone();
        let delete = move |location: Path| {
            let (node, path) = (node.clone(), location.to_string());
            async move {
                let target = path.clone();
                node.request(Verb::Delete, &path, move |world| {
                    world.objects.remove(&target);
                    Ok(())
                })
                .await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(offset))
    }

    /// Only the folders of one are told, which is what is asked for.
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let path = folder.clone();
        self.request(Verb::List, &path, move |world| {
            let below = world.objects.keys().filter_map(|path| path.strip_prefix(&folder)?.split_once('/'));
            let names: BTreeSet<&str> = below.map(|(name, _)| name).collect();
            let common_prefixes = names.into_iter().map(|name| Path::from(format!("{folder}{name}"))).collect();
            Ok(ListResult { common_prefixes, objects: Vec::new(), extensions: Default::default() })
        })
        .await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(words("copies are not simulated"))
    }
}

#[async_trait]
impl MultipartStore for SimulatedNode {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.request(Verb::Begin, path.as_ref(), |world| {
            world.begun += 1;
            let id = format!("upload-{}", world.begun);
            world.uploads.insert(id.clone(), BTreeMap::new());
            Ok(id)
        })
        .await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        let (id, bytes) = (id.clone(), Bytes::from(data));
        self.request(Verb::Part, path.as_ref(), move |world| {
            world.upload(&id)?.insert(index, bytes);
            Ok(PartId { content_id: index.to_string() })
        })
        .await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let (id, target) = (id.clone(), path.to_string());
        self.request(Verb::Complete, path.as_ref(), move |world| world.complete(&target, &id, parts.len())).await?;
        Ok(put_result())
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let id = id.clone();
        self.request(Verb::Abort, path.as_ref(), move |world| {
            world.uploads.remove(&id);
            Ok(())
        })
        .await
    }
}
