//! Lists that upstreams give: a repository's tags, a manifest's referrers. Believed as long as a tag, served stale like one.

use std::sync::Arc;

use super::flight::Flights;
use super::memory::Record;
use super::records::{Key, ListRecord};
use super::{Answer, Cache, CacheError, Freshness, Origin, Source};
use crate::oci::{Descriptor, Digest, Tag};
use crate::upstream::UpstreamError;

/// Lists being fetched.
type Lists<T> = Flights<Key, Result<Arc<ListRecord<T>>, CacheError>>;

impl Cache {
    /// All tags of a repository, in lexical order.
    pub async fn tags(&self, origin: &Origin) -> Result<Answer<Arc<ListRecord<Tag>>>, CacheError> {
        let owned = origin.clone();
        let ask = async move { owned.upstream.tags(&owned.remote).await };
        self.list(origin, Key::Tags(origin.repository.clone()), &self.inner.tags, ask).await
    }

    /// All manifests whose subject is `digest`.
    pub async fn referrers(&self, origin: &Origin, digest: &Digest) -> Result<Answer<Arc<ListRecord<Descriptor>>>, CacheError> {
        let (owned, subject) = (origin.clone(), *digest);
        let ask = async move { owned.upstream.referrers(&owned.remote, &subject).await };
        self.list(origin, Key::Referrers(origin.repository.clone(), subject), &self.inner.referrers, ask).await
    }

    async fn list<T: Send + Sync + 'static>(
        &self,
        origin: &Origin,
        key: Key,
        flights: &Lists<T>,
        ask: impl Future<Output = Result<Vec<T>, UpstreamError>> + Send + 'static,
    ) -> Result<Answer<Arc<ListRecord<T>>>, CacheError>
    where
        ListRecord<T>: Record,
    {
        let known = self.record::<ListRecord<T>>(&key).await;
        let mut closed = false;
        if let Some(list) = &known {
            closed = self.is_closed_since(&origin.repository, list.checked_at).await;
            if !closed && self.inner.clock.now().since(list.checked_at) < origin.upstream.tag_ttl() {
                return Ok(Answer { value: list.clone(), source: Source::Memory, freshness: Freshness::Fresh });
            }
        }
        match (self.refusal(&key), &known) {
            // It has just spoken nonsense and is not asked again so soon.
            (Some(CacheError::WrongAnswer(_)), Some(list)) if !closed => {
                self.inner.metrics.stale_answer(origin.upstream.name());
                return Ok(Answer { value: list.clone(), source: Source::Memory, freshness: Freshness::Stale });
            }
            (Some(refusal), _) => return Err(refusal),
            (None, _) => {}
        }
        let asked = self.start_list(origin, &key, flights, ask);
        let fetched = match &known {
            // A list takes many requests: its slowness says nothing about one. No upstream's name has a slash.
            Some(_) if !closed => self.patiently(&format!("{}/lists", origin.upstream.name()).into(), asked).await,
            _ => Some(asked.await),
        };
        match (fetched, known) {
            (Some(Ok(value)), _) => Ok(Answer { value, source: origin.source(), freshness: Freshness::Fresh }),
            (Some(Err(CacheError::Absent)), _) => Err(CacheError::Absent),
            (_, Some(value)) if !closed => {
                self.inner.metrics.stale_answer(origin.upstream.name());
                Ok(Answer { value, source: Source::Memory, freshness: Freshness::Stale })
            }
            (Some(Err(error)), _) => Err(error),
            (None, _) => Err(CacheError::Unavailable { why: "the upstream is slow".to_owned(), retry_after: None }),
        }
    }

    fn start_list<T, F>(
        &self,
        origin: &Origin,
        key: &Key,
        flights: &Lists<T>,
        ask: F,
    ) -> impl Future<Output = Result<Arc<ListRecord<T>>, CacheError>> + use<T, F>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<Vec<T>, UpstreamError>> + Send + 'static,
        ListRecord<T>: Record,
    {
        let (cache, owned, about) = (self.clone(), origin.clone(), key.clone());
        let asked = flights.start(key.clone(), |_| async move {
            Some(match ask.await {
                Ok(items) => Ok(cache.put_record(&about, ListRecord { items, checked_at: cache.inner.clock.now() })),
                Err(error) => {
                    let error = cache.refused(&owned, &about, error).await;
                    if error == CacheError::Absent {
                        cache.forget_record(&about);
                    }
                    Err(error)
                }
            })
        });
        async { Lists::<T>::value(asked).await? }
    }
}
