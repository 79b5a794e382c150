//! What a target and a Host mean, remembered: many clients pull the same image, and the answer depends on nothing but names.
//!
//! Who may have it is decided each time. A reload of the configuration begins with nothing remembered.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;
use http::request::Parts;
use http::{Method, header};

use super::route::{Action, Wanted};
use crate::registry::Target;

/// Parts of the memory, so that threads seldom meet.
const PARTS: usize = 16;
/// What is remembered in a part, at most: when it is full it begins anew.
const MEANINGS: usize = 128;
/// The longest target and Host, in bytes together, that is remembered.
const MAX_BYTES: usize = 512;

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) action: Action,
    /// The one host that the request names; none at all only in HTTP/1.0.
    pub(super) host: Option<Arc<str>>,
    /// The upstream that the Host stands for.
    pub(super) by_host: Option<Arc<str>>,
    /// Where a read goes, once that has been found out.
    pub(super) target: Option<Target>,
}

/// The meanings of reads of content, by their texts.
#[derive(Debug, Default)]
pub struct Meanings {
    parts: [RwLock<HashMap<u64, Known, RandomState>>; PARTS],
    hasher: RandomState,
}

/// The hash finds it, the texts prove it.
#[derive(Debug)]
struct Known {
    target: Box<str>,
    host: Box<[u8]>,
    meaning: Meaning,
}

/// What the meaning of a request depends on.
#[derive(Clone, Copy)]
pub(super) struct Texts<'a> {
    target: &'a str,
    host: &'a [u8],
}

impl<'a> Texts<'a> {
    /// `None` for what is not remembered.
    pub(super) fn of(head: &'a Parts) -> Option<Texts<'a>> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return None;
        }
        let mut hosts = head.headers.get_all(header::HOST).iter();
        // HTTP/2 has the host in the target's authority. Where it stands twice the two have to be compared.
        let host = match (head.uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), None, _) => authority.as_str().as_bytes(),
            (None, Some(host), None) => host.as_bytes(),
            _ => return None,
        };
        let target = head.uri.path_and_query()?.as_str();
        (target.len() + host.len() <= MAX_BYTES).then_some(Texts { target, host })
    }
}

impl Meanings {
    pub(super) fn find(&self, texts: Texts<'_>) -> Option<Meaning> {
        let hash = self.hasher.hash_one((texts.target, texts.host));
        let part = self.parts[hash as usize % PARTS].read().unwrap_or_else(PoisonError::into_inner);
        let known = part.get(&hash)?;
        (*known.target == *texts.target && *known.host == *texts.host).then(|| known.meaning.clone())
    }

    /// Remembers it, if it is the kind of which many ask for the same.
    pub(super) fn remember(&self, texts: Texts<'_>, meaning: &Meaning) {
        if !matches!(meaning.action, Action::Read { wanted: Wanted::Manifest(_) | Wanted::Blob(_), .. }) {
            return;
        }
        let hash = self.hasher.hash_one((texts.target, texts.host));
        let known = Known { target: texts.target.into(), host: texts.host.into(), meaning: meaning.clone() };
        let mut part = self.parts[hash as usize % PARTS].write().unwrap_or_else(PoisonError::into_inner);
        if part.len() >= MEANINGS {
            part.clear();
        }
        part.insert(hash, known);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::http::route::route;

    fn head(method: &str, target: &str, host: Option<&str>) -> Parts {
        let request = Request::builder().method(method).uri(target);
        let request = host.into_iter().fold(request, |request, host| request.header("host", host));
        request.body(()).unwrap().into_parts().0
    }

    fn meaning(target: &str, host: &str) -> Meaning {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let action = route(&Method::GET, path.as_bytes(), query).unwrap();
        Meaning { action, host: Some(host.into()), by_host: None, target: None }
    }

    #[test]
    fn what_was_read_under_the_same_target_and_host_is_known() {
        let meanings = Meanings::default();
        let target = "/v2/a/manifests/1?ns=b";
        let asked = head("GET", target, Some("edge"));
        assert!(meanings.find(Texts::of(&asked).unwrap()).is_none());
        meanings.remember(Texts::of(&asked).unwrap(), &meaning(target, "edge"));
        for (method, target, host, known) in [
            ("GET", "/v2/a/manifests/1?ns=b", "edge", true),
            ("HEAD", "/v2/a/manifests/1?ns=b", "edge", true),
            ("GET", "https://edge/v2/a/manifests/1?ns=b", "", true),
            ("GET", "https://other/v2/a/manifests/1?ns=b", "", false),
            ("GET", "/v2/a/manifests/1?ns=b", "other", false),
            ("GET", "/v2/a/manifests/1?ns=c", "edge", false),
            ("GET", "/v2/a/manifests/1", "edge", false),
        ] {
            let asked = head(method, target, Some(host).filter(|host| !host.is_empty()));
            assert_eq!(meanings.find(Texts::of(&asked).unwrap()).is_some(), known, "{method} {target} {host}");
        }
    }

    #[test]
    fn only_reads_of_content_are_remembered() {
        let long = format!("/v2/{}/manifests/1", "a".repeat(MAX_BYTES));
        for (method, target, host) in [
            ("PUT", "/v2/a/manifests/1", Some("edge")),
            ("DELETE", "/v2/a/manifests/1", Some("edge")),
            ("GET", "/v2/a/manifests/1", None),
            ("GET", "https://edge/v2/a/manifests/1", Some("edge")),
            ("GET", &long, Some("edge")),
        ] {
            assert!(Texts::of(&head(method, target, host)).is_none(), "{method} {target}");
        }
        let meanings = Meanings::default();
        for target in ["/v2/", "/v2/a/tags/list", "/v2/_catalog", "/outport/v1/status"] {
            let asked = head("GET", target, Some("edge"));
            meanings.remember(Texts::of(&asked).unwrap(), &meaning(target, "edge"));
            assert!(meanings.find(Texts::of(&asked).unwrap()).is_none(), "{target}");
        }
    }

    #[test]
    fn a_flood_of_names_stays_within_bounds() {
        let meanings = Meanings::default();
        for number in 0..10 * PARTS * MEANINGS {
            let target = format!("/v2/a{number}/manifests/1");
            meanings.remember(Texts::of(&head("GET", &target, Some("edge"))).unwrap(), &meaning(&target, "edge"));
        }
        let count: usize = meanings.parts.iter().map(|part| part.read().unwrap().len()).sum();
        assert!((PARTS..=PARTS * MEANINGS).contains(&count), "{count}");
    }
}
