//! Lists of an upstream: tags and referrers, page by page, all of it or nothing.

use bytes::Bytes;
use http::Method;
use url::Url;

use super::content::complete_and_plain;
use super::endpoint::{Ask, Endpoint, Scope};
use super::error::UpstreamError;
use super::headers;
use crate::oci::{Descriptor, Digest, INDEX_MEDIA_TYPE, MAX_MANIFEST_BYTES, Manifest, RepositoryName, Tag};

/// A list beyond one of these is refused: a part of it would look like the whole.
const MAX_PAGES: usize = 1_000;
const MAX_NAMES: usize = 100_000;
const MAX_LIST_BYTES: usize = 32 * 1024 * 1024;
const MAX_PAGE_BYTES: usize = MAX_MANIFEST_BYTES;
/// Names asked for on a page; upstreams give fewer as they like.
const PAGE: &str = "n=1000";
/// A fallback tag keeps this much of the hash (distribution-spec, "Referrers Tag Schema").
const MAX_TAG_HASH: usize = 64;

/// All tags of a repository, sorted, each once. What is no tag is left out: nobody could ask for it.
pub(super) async fn tags(endpoint: &Endpoint, repository: &RepositoryName) -> Result<Vec<Tag>, UpstreamError> {
    let mut tags = Vec::new();
    let path = format!("{repository}/tags/list");
    let ask = Ask {
        method: Method::GET,
        path: &path,
        query: Some(PAGE),
        accept: "application/json",
        from: 0,
        scope: Scope::Pull(repository),
        load: None,
    };
    pages(endpoint, ask, MAX_LIST_BYTES, |page, _| {
        tags.extend(tags_of(page)?);
        Ok(tags.len())
    })
    .await?;
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// Whether tags are shown at all.
pub(super) async fn tags_glimpse(endpoint: &Endpoint, repository: &RepositoryName) -> Result<(), UpstreamError> {
    let path = format!("{repository}/tags/list");
    let ask = Ask {
        method: Method::GET,
        path: &path,
        query: Some("n=1"),
        accept: "application/json",
        from: 0,
        scope: Scope::Pull(repository),
        load: None,
    };
    let answer = endpoint.ask(&ask).await?;
    complete_and_plain(&answer)?;
    tags_of(&answer.body.whole(MAX_PAGE_BYTES).await?).map(drop)
}

fn tags_of(page: &Bytes) -> Result<impl Iterator<Item = Tag> + use<>, UpstreamError> {
    #[derive(serde::Deserialize)]
    struct Page {
        /// `null` in a repository without tags, at some registries.
        tags: Option<Vec<String>>,
    }
    let page: Page = serde_json::from_slice(page).map_err(|error| UpstreamError::wrong(format!("a tag list: {error}")))?;
    Ok(page.tags.unwrap_or_default().into_iter().filter_map(|tag| tag.parse().ok()))
}

/// What the referrers API tells of `digest`.
///
/// # Errors
/// [`UpstreamError::Absent`] where the upstream has no such API.
pub(super) async fn referrers(endpoint: &Endpoint, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Descriptor>, UpstreamError> {
    let mut referrers = Vec::new();
    let path = format!("{repository}/referrers/{digest}");
    let ask = Ask {
        method: Method::GET,
        path: &path,
        query: None,
        accept: INDEX_MEDIA_TYPE,
        from: 0,
        scope: Scope::Pull(repository),
        load: None,
    };
    // Clients read no larger index either.
    pages(endpoint, ask, MAX_MANIFEST_BYTES, |page, media_type| {
        match Manifest::parse(page, media_type) {
            Ok(Manifest::Index(index)) => referrers.extend(index.manifests),
            Ok(Manifest::Image(_)) => return Err(UpstreamError::wrong("referrers that are no index")),
            Err(error) => return Err(UpstreamError::wrong(format!("referrers: {error}"))),
        }
        Ok(referrers.len())
    })
    .await?;
    Ok(referrers)
}

/// The tag under which clients keep referrers where there is no API for them.
pub(super) fn fallback_tag(digest: &Digest) -> Option<Tag> {
    let hash: String = digest.hex().chars().take(MAX_TAG_HASH).collect();
    format!("{}-{hash}", digest.algorithm().as_str()).parse().ok()
}

/// Asks for page after page, `max_bytes` in all. `take` gets a page and its media type, and returns how many names it has by now.
async fn pages(
    endpoint: &Endpoint,
    ask: Ask<'_>,
    max_bytes: usize,
    mut take: impl FnMut(&Bytes, &str) -> Result<usize, UpstreamError>,
) -> Result<(), UpstreamError> {
    let mut query = ask.query.map(str::to_owned);
    let mut left_bytes = max_bytes;
    for _ in 0..MAX_PAGES {
        let page_ask = Ask { query: query.as_deref(), method: ask.method.clone(), ..ask };
        let answer = endpoint.ask(&page_ask).await?;
        complete_and_plain(&answer)?;
        let next = match headers::next_link(&answer.headers) {
            Some(link) => next_query(link, &endpoint.url(ask.path, query.as_deref())?)?,
            None => None,
        };
        let page = answer.body.whole(MAX_PAGE_BYTES.min(left_bytes)).await?;
        left_bytes -= page.len();
        if take(&page, headers::content_type(&answer.headers))? > MAX_NAMES {
            return Err(UpstreamError::wrong(format!("a list of more than {MAX_NAMES} names")));
        }
        match next {
            Some(next) => query = Some(next),
            None => return Ok(()),
        }
    }
    Err(UpstreamError::wrong(format!("a list of more than {MAX_PAGES} pages")))
}

/// The query of the next page. Only the query is taken from a link: a registry behind a path prefix may not know its own path.
fn next_query(link: &str, current: &Url) -> Result<Option<String>, UpstreamError> {
    let target = current.join(link).map_err(|_| UpstreamError::wrong("a link to what is no URL"))?;
    if target.origin() != current.origin() {
        return Err(UpstreamError::wrong("a list that goes on at another host"));
    }
    if target.query() == current.query() {
        return Err(UpstreamError::wrong("a list that goes on with itself"));
    }
    Ok(target.query().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn links_stay_on_their_origin() {
        let current = "https://r.example/p/v2/a/tags/list?n=1".parse().unwrap();
        for (link, expected) in [
            ("/v2/a/tags/list?n=1&last=b", Ok(Some("n=1&last=b"))),
            ("https://r.example:443/v2/a/tags/list?last=b", Ok(Some("last=b"))),
            ("?last=b", Ok(Some("last=b"))),
            ("/v2/a/tags/list", Ok(None)),
            ("https://evil.example/v2/a/tags/list?last=b", Err(())),
            ("http://r.example/v2/a/tags/list?last=b", Err(())),
            ("//[", Err(())),
            ("?n=1", Err(())),
        ] {
            let found = next_query(link, &current).map_err(|_| ());
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|_| ()), expected, "{link}");
        }
    }

    #[test]
    fn fallback_tags_are_tags() {
        let digest = Digest::sha256(b"");
        assert_eq!(fallback_tag(&digest).unwrap().as_str(), format!("sha256-{}", digest.hex()));
        assert_eq!(fallback_tag(&Digest::of(Algorithm::Sha512, b"")).unwrap().as_str().len(), 7 + 64);
    }
}
