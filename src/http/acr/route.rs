//! From a path below `/acr/v1/` to what is wanted: pure and total. No repository's name has a component that begins with an underscore,
//! so `_tags`, `_manifests` and `_catalog` are never part of one.

use std::borrow::Cow;

use http::Method;

use crate::clock::Timestamp;
use crate::http::route::{Action, RouteError, decoded, page, parameter, reading, repository_name};
use crate::oci::{Digest, Tag};
use crate::registry::{After, Order, Part};

/// Items in one page of a list with attributes, at most, and when the client does not say.
pub const MAX_ITEMS: usize = 1_000;
const ITEMS: usize = 100;

/// The parameter of a link that tells the time of the item where the list goes on.
pub const AT_PARAMETER: &str = "_at";

const OF_REPOSITORIES: &str = "GET, HEAD, PATCH, DELETE";
const OF_TAGS: &str = "GET, HEAD, PATCH, DELETE";
const OF_MANIFESTS: &str = "GET, HEAD, PATCH";

/// What is wanted of a repository, or to be done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acr {
    Repository,
    ChangeRepository,
    DeleteRepository,
    Tags {
        part: Part,
        /// Only those of this manifest.
        digest: Option<Digest>,
    },
    Tag(Tag),
    ChangeTag(Tag),
    DeleteTag(Tag),
    Manifests(Part),
    Manifest(Digest),
    ChangeManifest(Digest),
}

/// Reads what stands behind `/acr/v1/`.
pub fn route(method: &Method, rest: &[u8], query: &str) -> Result<Action, RouteError> {
    let segments = rest.split(|byte| *byte == b'/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    if segments.last().is_some_and(|last| last.is_empty()) {
        return Err(RouteError::Path);
    }
    let texts: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
    let (name, wanted) = match texts.as_slice() {
        ["_catalog"] => return reading(method).and_then(|()| page(query).map(Action::AcrCatalog)),
        [name @ .., "_tags"] => (name, reading(method).and_then(|()| tags(query))?),
        [name @ .., "_manifests"] => (name, reading(method).and_then(|()| part(query).map(Acr::Manifests))?),
        [name @ .., "_tags", text] => (name, tag(method, text)?),
        [name @ .., "_manifests", text] => (name, manifest(method, text)?),
        name => (name, repository(method)?),
    };
    Ok(Action::Acr { name: repository_name(&segments[..name.len()])?, ns: parameter(query, "ns"), wanted })
}

fn repository(method: &Method) -> Result<Acr, RouteError> {
    Ok(match *method {
        Method::GET | Method::HEAD => Acr::Repository,
        Method::PATCH => Acr::ChangeRepository,
        Method::DELETE => Acr::DeleteRepository,
        _ => return Err(RouteError::Method { allow: OF_REPOSITORIES }),
    })
}

/// A text that can be no tag names none that is there.
fn tag(method: &Method, text: &str) -> Result<Acr, RouteError> {
    let wanted = match *method {
        Method::GET | Method::HEAD => Acr::Tag,
        Method::PATCH => Acr::ChangeTag,
        Method::DELETE => Acr::DeleteTag,
        _ => return Err(RouteError::Method { allow: OF_TAGS }),
    };
    text.parse().map(wanted).map_err(|_| RouteError::Tag)
}

fn manifest(method: &Method, text: &str) -> Result<Acr, RouteError> {
    let wanted = match *method {
        Method::GET | Method::HEAD => Acr::Manifest,
        Method::PATCH => Acr::ChangeManifest,
        _ => return Err(RouteError::Method { allow: OF_MANIFESTS }),
    };
    Ok(wanted(text.parse()?))
}

fn tags(query: &str) -> Result<Acr, RouteError> {
    let digest = parameter(query, "digest").map(|digest| digest.parse()).transpose()?;
    Ok(Acr::Tags { part: part(query)?, digest })
}

fn part(query: &str) -> Result<Part, RouteError> {
    let page = page(query)?;
    let limit = if parameter(query, "n").is_some() { page.limit.min(MAX_ITEMS) } else { ITEMS };
    let order = match parameter(query, "orderby").as_deref() {
        None | Some("" | "none") => Order::ByName,
        Some("timeasc") => Order::OldestFirst,
        Some("timedesc") => Order::NewestFirst,
        Some(_) => return Err(RouteError::Parameter("orderby")),
    };
    let at = parameter(query, AT_PARAMETER).and_then(|ms| ms.parse().ok()).map(Timestamp::from_ms);
    Ok(Part { limit, order, after: page.last.map(|name| After { name, at }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Page;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn ask(method: &str, target: &str) -> Result<Action, RouteError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        crate::http::route::route(&Method::from_bytes(method.as_bytes()).unwrap(), path.as_bytes(), query)
    }

    fn of(name: &str, wanted: Acr) -> Result<Action, RouteError> {
        Ok(Action::Acr { name: name.parse().unwrap(), ns: None, wanted })
    }

    #[test]
    fn requests_are_those_of_azures_clients() {
        let (tag, digest): (Tag, Digest) = ("v1.0".parse().unwrap(), format!("sha256:{HEX}").parse().unwrap());
        let part = Part { limit: ITEMS, order: Order::ByName, after: None };
        for (method, target, wanted) in [
            ("GET", "team/app?api-version=2021-07-01", Acr::Repository),
            ("PATCH", "team%2Fapp?api-version=2021-07-01", Acr::ChangeRepository),
            ("DELETE", "team%2Fapp", Acr::DeleteRepository),
            ("GET", "team%2Fapp/_tags", Acr::Tags { part: part.clone(), digest: None }),
            ("GET", &format!("team/app/_tags?digest=sha256%3A{HEX}"), Acr::Tags { part: part.clone(), digest: Some(digest) }),
            ("GET", "team/app/_tags/v1.0", Acr::Tag(tag.clone())),
            ("PATCH", "team%2Fapp/_tags/v1.0", Acr::ChangeTag(tag.clone())),
            ("DELETE", "team/app/_tags/v1.0", Acr::DeleteTag(tag)),
            ("GET", "team/app/_manifests", Acr::Manifests(part)),
            ("GET", &format!("team%2Fapp/_manifests/sha256%3A{HEX}"), Acr::Manifest(digest)),
            ("PATCH", &format!("team/app/_manifests/sha256:{HEX}"), Acr::ChangeManifest(digest)),
        ] {
            assert_eq!(ask(method, &format!("/acr/v1/{target}")), of("team/app", wanted), "{method} {target}");
        }
        assert_eq!(ask("GET", "/acr/v1/_catalog?n=2&last=a"), Ok(Action::AcrCatalog(Page { limit: 2, last: Some("a".to_owned()) })));
    }

    #[test]
    fn pages_are_bounded_and_ordered() {
        let read = |query: &str| match ask("GET", &format!("/acr/v1/a/_manifests?{query}")) {
            Ok(Action::Acr { wanted: Acr::Manifests(part), .. }) => Ok(part),
            other => Err(format!("{other:?}")),
        };
        let after = |name: &str, at: Option<u64>| Some(After { name: name.to_owned(), at: at.map(Timestamp::from_ms) });
        for (query, limit, order, after) in [
            ("n=5&orderby=timeasc", 5, Order::OldestFirst, None),
            ("n=100000&orderby=timedesc&last=x&_at=7", MAX_ITEMS, Order::NewestFirst, after("x", Some(7))),
            ("orderby=none&last=x&_at=seven", ITEMS, Order::ByName, after("x", None)),
        ] {
            assert_eq!(read(query), Ok(Part { limit, order, after }), "{query}");
        }
        assert_eq!(ask("GET", "/acr/v1/a/_tags?orderby=size"), Err(RouteError::Parameter("orderby")));
        assert_eq!(ask("GET", "/acr/v1/a/_tags?n=-1"), Err(RouteError::PageSize));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (method, target, error) in [
            ("GET", "/acr/v1/a/_tags/-x", RouteError::Tag),
            ("POST", "/acr/v1/a", RouteError::Method { allow: OF_REPOSITORIES }),
            ("PUT", "/acr/v1/a/_tags/x", RouteError::Method { allow: OF_TAGS }),
            ("DELETE", &format!("/acr/v1/a/_manifests/sha256:{HEX}"), RouteError::Method { allow: OF_MANIFESTS }),
            ("GET", "/acr/v1/a/", RouteError::Path),
            ("GET", "/acr/v1/", RouteError::Path),
            ("GET", "/acr/v1/a%2Fb/c", RouteError::Path),
            ("GET", "/acr/v2/a", RouteError::Unknown),
        ] {
            assert_eq!(ask(method, target), Err(error), "{method} {target}");
        }
        for target in ["/acr/v1/A", "/acr/v1/_tags", "/acr/v1/a/_tags/b/c", "/acr/v1/a/_manifests/x", "/acr/v1/..%2Fa", "/acr/v1/_tags/x"] {
            assert!(matches!(ask("GET", target), Err(RouteError::Name(_) | RouteError::Path | RouteError::Digest(_))), "{target}");
        }
    }
}
