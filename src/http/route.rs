//! From a method, a path and a query to what is wanted: pure and total. After it no raw string travels.
//!
//! A path is split at `/` first and each segment is percent-decoded once after that, so an encoded slash is never a separator,
//! and what is encoded twice still has a `%` in it, which no name, tag or digest has.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode;

use crate::oci::{Digest, DigestError, NameError, Reference, RepositoryName, Tag};
use crate::registry::Page;

/// The longest path and query together, in bytes: a name and a `last` of 255 bytes each, fully encoded, and room to spare.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Names in one page of a list, at most, and when the client does not say. Large, since many clients do not follow `Link`.
pub const MAX_PAGE: usize = 10_000;

/// As much of `last`, `ns` or `artifactType` as is read: longer ones cannot name anything.
const MAX_PARAMETER_CHARS: usize = 512;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `/v2/`: does a registry answer here, and must I authenticate?
    Version,
    Catalog(Page),
    /// `/readyz` on the registry's listener, for health checks that look where the clients look.
    Ready,
    Read {
        /// As addressed: an upstream's prefix is still on it.
        name: RepositoryName,
        ns: Option<String>,
        wanted: Wanted,
    },
    /// An operator's command, whose image stands in the body.
    Command(Command),
}

/// What is wanted of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Manifest(Reference),
    Blob(Digest),
    Tags(Page),
    Referrers { subject: Digest, artifact_type: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Refresh,
    Prefetch,
}

/// Why a request asks for nothing that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("a path and query have at most {MAX_TARGET_BYTES} bytes")]
    TooLong,
    #[error("the method is not supported here")]
    Method { allow: &'static str },
    #[error("no such endpoint")]
    Unknown,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a path is UTF-8 without encoded or trailing slashes")]
    Path,
    #[error("no manifest can have this reference")]
    Tag,
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("n is a number")]
    PageSize,
}

/// Reads a request's target. `query` is what follows the question mark.
pub fn route(method: &Method, path: &[u8], query: &str) -> Result<Action, RouteError> {
    if path.len().saturating_add(query.len()) > MAX_TARGET_BYTES {
        return Err(RouteError::TooLong);
    }
    if !KNOWN_METHODS.contains(method) {
        return Err(RouteError::Method { allow: READ });
    }
    let endpoint = match path {
        b"/v2" | b"/v2/" => return reading(method).map(|()| Action::Version),
        b"/readyz" => return reading(method).map(|()| Action::Ready),
        b"/v2/_catalog" => return reading(method).and_then(|()| page(query).map(Action::Catalog)),
        b"/outport/v1/refresh" => return posting(method).map(|()| Action::Command(Command::Refresh)),
        b"/outport/v1/prefetch" => return posting(method).map(|()| Action::Command(Command::Prefetch)),
        _ => Endpoint::find(path)?,
    };
    if endpoint.word == Word::Uploads {
        return Err(RouteError::Method { allow: "" });
    }
    reading(method)?;
    let wanted = match endpoint.word {
        Word::Manifests => Wanted::Manifest(reference(&endpoint.rest)?),
        Word::Blobs | Word::Uploads => Wanted::Blob(endpoint.rest.parse()?),
        Word::Tags => Wanted::Tags(page(query)?),
        Word::Referrers => Wanted::Referrers { subject: endpoint.rest.parse()?, artifact_type: parameter(query, "artifactType") },
    };
    Ok(Action::Read { name: repository_name(&endpoint.name)?, ns: parameter(query, "ns"), wanted })
}

const KNOWN_METHODS: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
const READ: &str = "GET, HEAD";

fn reading(method: &Method) -> Result<(), RouteError> {
    if method == Method::GET || method == Method::HEAD { Ok(()) } else { Err(RouteError::Method { allow: READ }) }
}

fn posting(method: &Method) -> Result<(), RouteError> {
    if method == Method::POST { Ok(()) } else { Err(RouteError::Method { allow: "POST" }) }
}

/// The component of a path that tells what the components around it are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Manifests,
    Blobs,
    /// `blobs/uploads`: pushes, which this release does not take.
    Uploads,
    Tags,
    Referrers,
}

impl Word {
    fn of(segment: &str) -> Option<Word> {
        match segment {
            "manifests" => Some(Word::Manifests),
            "blobs" => Some(Word::Blobs),
            "referrers" => Some(Word::Referrers),
            _ => None,
        }
    }
}

/// A path below `/v2/`, taken apart but not yet parsed.
struct Endpoint<'a> {
    name: Vec<Cow<'a, str>>,
    word: Word,
    /// What follows the word: a tag or a digest.
    rest: String,
}

impl Endpoint<'_> {
    /// Components of a repository may be named like route words, so the last place where a word makes sense is the one that counts:
    /// `/v2/blobs/manifests/latest` is a manifest of the repository `blobs`, `/v2/a/manifests/blobs` one that is tagged `blobs`.
    fn find(path: &[u8]) -> Result<Endpoint<'_>, RouteError> {
        let below = path.strip_prefix(b"/v2/");
        let trimmed = below.unwrap_or_else(|| path.strip_prefix(b"/").unwrap_or(path));
        let mut segments = trimmed.split(|byte| *byte == b'/').map(decoded).collect::<Result<Vec<_>, _>>()?;
        if below.is_none() {
            // Row 2: an encoded slash is refused wherever it stands.
            return Err(if segments.iter().any(|segment| segment.contains('/')) { RouteError::Path } else { RouteError::Unknown });
        }
        let (word, at) = place_of_word(&segments).ok_or_else(|| what_is_wrong(&segments))?;
        if segments.last().is_some_and(|last| last.is_empty()) && word != Word::Uploads {
            return Err(RouteError::Path);
        }
        let rest = segments.split_off(at).into_iter().skip(1).collect::<Vec<_>>().join("/");
        Ok(Endpoint { name: segments, word, rest })
    }
}

/// The route word that counts, and where it stands.
fn place_of_word(segments: &[Cow<'_, str>]) -> Option<(Word, usize)> {
    let texts: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match texts.as_slice() {
        [name @ .., "tags", "list"] => return Some((Word::Tags, name.len())),
        [name @ .., "blobs", "uploads"] => return Some((Word::Uploads, name.len())),
        [.., before, _] if Word::of(before).is_some() => {}
        [name @ .., "blobs", "uploads", _] => return Some((Word::Uploads, name.len())),
        _ => {}
    }
    let followed = texts.len().saturating_sub(1);
    texts.iter().take(followed).enumerate().rev().find_map(|(at, text)| Some((Word::of(text)?, at)))
}

/// For a path under `/v2/` without a route word: a bad name is told from an endpoint that does not exist.
fn what_is_wrong(segments: &[Cow<'_, str>]) -> RouteError {
    match repository_name(segments) {
        Ok(_) => RouteError::Unknown,
        Err(error) => error,
    }
}

fn decoded(segment: &[u8]) -> Result<Cow<'_, str>, RouteError> {
    percent_decode(segment).decode_utf8().map_err(|_| RouteError::Path)
}

fn repository_name(segments: &[Cow<'_, str>]) -> Result<RepositoryName, RouteError> {
    if segments.iter().any(|segment| segment.contains('/')) {
        return Err(RouteError::Path);
    }
    Ok(segments.join("/").parse()?)
}

/// A text that can be no tag names no manifest; one with a colon is meant as a digest.
fn reference(text: &str) -> Result<Reference, RouteError> {
    if text.contains(':') {
        Ok(Reference::Digest(text.parse()?))
    } else {
        text.parse::<Tag>().map(Reference::Tag).map_err(|_| RouteError::Tag)
    }
}

fn page(query: &str) -> Result<Page, RouteError> {
    let limit = match parameter(query, "n") {
        None => MAX_PAGE,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Digits that overflow are a large number.
            digits.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE)
        }
        Some(_) => return Err(RouteError::PageSize),
    };
    Ok(Page { limit, last: parameter(query, "last").filter(|last| !last.is_empty()) })
}

/// The first parameter of this name, decoded. A plus sign stays one: media types have them, and nothing here has a space.
fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(percent_decode(value.as_bytes()).decode_utf8_lossy().chars().take(MAX_PARAMETER_CHARS).collect())
}

/// `?deep=1` on the operators' readiness check.
pub fn asks_deep(query: &str) -> bool {
    parameter(query, "deep").as_deref() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(target: &str) -> Result<Action, RouteError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&Method::GET, path.as_bytes(), query)
    }

    fn read(name: &str, wanted: Wanted) -> Result<Action, RouteError> {
        Ok(Action::Read { name: name.parse().unwrap(), ns: None, wanted })
    }

    fn tagged(tag: &str) -> Wanted {
        Wanted::Manifest(Reference::Tag(tag.parse().unwrap()))
    }

    fn digest() -> Digest {
        format!("sha256:{HEX}").parse().unwrap()
    }

    fn all(limit: usize) -> Page {
        Page { limit, last: None }
    }

    fn is_bad_name(result: Result<Action, RouteError>) -> bool {
        matches!(result, Err(RouteError::Name(_) | RouteError::Path))
    }

    #[test]
    fn endpoints_are_found() {
        for (target, action) in [
            ("/v2", Action::Version),
            ("/v2/", Action::Version),
            ("/v2/?x=y", Action::Version),
            ("/readyz", Action::Ready),
            ("/v2/_catalog?n=3", Action::Catalog(all(3))),
        ] {
            assert_eq!(get(target), Ok(action), "{target}");
        }
        assert_eq!(get("/v2/library/alpine/manifests/3"), read("library/alpine", tagged("3")));
        assert_eq!(get(&format!("/v2/a/manifests/sha256:{HEX}")), read("a", Wanted::Manifest(Reference::Digest(digest()))));
        assert_eq!(get(&format!("/v2/a/blobs/sha256%3A{HEX}")), read("a", Wanted::Blob(digest())));
        assert_eq!(get("/v2/a/b/tags/list"), read("a/b", Wanted::Tags(all(MAX_PAGE))));
        assert_eq!(
            get(&format!("/v2/a/referrers/sha256:{HEX}?artifactType=application/vnd.x%2Bjson")),
            read("a", Wanted::Referrers { subject: digest(), artifact_type: Some("application/vnd.x+json".into()) })
        );
        for command in [("/outport/v1/refresh", Command::Refresh), ("/outport/v1/prefetch", Command::Prefetch)] {
            assert_eq!(route(&Method::POST, command.0.as_bytes(), ""), Ok(Action::Command(command.1)));
        }
        for target in ["/", "", "/favicon.ico", "/v1/_ping", "/v2/library/alpine", "/v2x", "*"] {
            assert_eq!(get(target), Err(RouteError::Unknown), "{target}");
        }
    }

    #[test]
    fn row_1_dots_in_a_name_are_refused_however_they_are_written() {
        for name in ["..", "../x", "a/../b", "%2e%2e", "a/%2e%2e/b", "..%2f", "a%2f..%2fb", "%252e", "a/%252e%252e/b", "."] {
            for rest in ["manifests/latest".to_owned(), format!("blobs/sha256:{HEX}"), "tags/list".to_owned()] {
                assert!(is_bad_name(get(&format!("/v2/{name}/{rest}"))), "{name} {rest}");
            }
        }
        assert!(is_bad_name(get("/v2/../../etc/passwd")));
    }

    #[test]
    fn row_2_an_encoded_slash_is_refused() {
        for target in ["/%2F%2F..%2Fetc", "/v2/%2F%2F..%2Fetc", "/v2/a%2Fb/manifests/latest", "/v2/a%2fmanifests%2flatest"] {
            assert!(is_bad_name(get(target)), "{target}");
        }
    }

    #[test]
    fn row_3_names_outside_the_grammar_are_refused() {
        for target in [
            "/v2/Library/alpine/manifests/1",
            "/v2/a..b/manifests/1",
            "/v2/a//b/manifests/1",
            "/v2//manifests/1",
            "/v2/manifests/1",
            "/v2/tags/list",
            "/v2/a/tags/list/",
            "/v2/a/manifests/",
            "/v2/a/manifests/1/",
            "/v2/a/",
        ] {
            assert!(is_bad_name(get(target)), "{target}");
        }
    }

    #[test]
    fn row_4_a_name_has_at_most_255_bytes() {
        assert!(get(&format!("/v2/{}/manifests/1", "a".repeat(255))).is_ok());
        assert_eq!(get(&format!("/v2/{}/manifests/1", "a".repeat(256))), Err(RouteError::Name(NameError::Length)));
    }

    #[test]
    fn row_5_control_characters_and_odd_encodings_are_refused() {
        for name in ["a%00", "a%0d%0ab", "%c0%af", "a%c0%ae", "%d0%b0bc", "\u{430}bc", "a%ff", "a%", "a%zz", "a+b", "a%20b"] {
            assert!(is_bad_name(get(&format!("/v2/{name}/manifests/1"))), "{name}");
        }
        assert!(is_bad_name(route(&Method::GET, b"/v2/a\xff/manifests/1", "")));
    }

    #[test]
    fn row_6_repositories_may_be_named_like_route_words() {
        assert_eq!(get(&format!("/v2/blobs/blobs/sha256:{HEX}")), read("blobs", Wanted::Blob(digest())));
        assert_eq!(get("/v2/manifests/manifests/manifests"), read("manifests", tagged("manifests")));
        assert_eq!(get("/v2/tags/list/manifests/list"), read("tags/list", tagged("list")));
        assert_eq!(get("/v2/tags/list/tags/list"), read("tags/list", Wanted::Tags(all(MAX_PAGE))));
        assert_eq!(get("/v2/a/manifests/blobs/manifests/x"), read("a/manifests/blobs", tagged("x")));
        assert_eq!(get("/v2/a/blobs/uploads/manifests/x"), read("a/blobs/uploads", tagged("x")));
        assert_eq!(get("/v2/blobs/uploads/tags/list"), read("blobs/uploads", Wanted::Tags(all(MAX_PAGE))));
    }

    #[test]
    fn row_7_a_tag_that_cannot_be_names_no_manifest() {
        for tag in [".a", "-a", &"t".repeat(129), "a%20b", "b/c", "a%2Fb"] {
            assert_eq!(get(&format!("/v2/a/manifests/{tag}")), Err(RouteError::Tag), "{tag}");
        }
    }

    #[test]
    fn row_8_what_is_not_a_digest_is_refused() {
        let upper = HEX.to_uppercase();
        for digest in ["sha256:e3b0", &format!("sha256:{upper}"), "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../x", "latest"] {
            for word in ["blobs", "referrers"] {
                assert!(matches!(get(&format!("/v2/a/{word}/{digest}")), Err(RouteError::Digest(_))), "{word} {digest}");
            }
        }
        assert!(matches!(get("/v2/a/manifests/sha256:../x"), Err(RouteError::Digest(_))));
        assert!(matches!(get("/v2/a/blobs/sha256:%2e%2e%2fx"), Err(RouteError::Digest(_))));
    }

    #[test]
    fn row_9_a_long_target_is_refused() {
        assert_eq!(get(&format!("/v2/{}", "a".repeat(64 * 1024))), Err(RouteError::TooLong));
        assert_eq!(get(&format!("/v2/?{}", "a".repeat(64 * 1024))), Err(RouteError::TooLong));
    }

    #[test]
    fn row_10_methods_that_an_endpoint_has_not_are_refused() {
        let blob = format!("/v2/a/blobs/sha256:{HEX}");
        for (method, path, allow) in [
            ("TRACE", "/v2/", READ),
            ("CONNECT", "", READ),
            ("JUNK", "/v2/a/manifests/1", READ),
            ("POST", "/v2/", READ),
            ("PUT", "/v2/a/manifests/1", READ),
            ("PUT", "/v2/a/manifests/-bad", READ),
            ("DELETE", &blob, READ),
            ("POST", "/v2/a/tags/list", READ),
            ("POST", "/v2/a/blobs/uploads/", ""),
            ("POST", "/v2/a/blobs/uploads", ""),
            ("PATCH", "/v2/a/blobs/uploads/0b1c", ""),
            ("GET", "/v2/a/blobs/uploads/0b1c", ""),
            ("GET", "/outport/v1/refresh", "POST"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(route(&method, path.as_bytes(), ""), Err(RouteError::Method { allow }), "{method} {path}");
        }
    }

    #[test]
    fn row_11_page_sizes_are_capped_or_refused() {
        for (n, limit) in [("0", 0), ("5", 5), ("10001", MAX_PAGE), ("99999999999999999999999", MAX_PAGE)] {
            assert_eq!(get(&format!("/v2/_catalog?n={n}")), Ok(Action::Catalog(all(limit))), "{n}");
        }
        for n in ["-1", "", "many", "+5", "0x5", "5.0"] {
            assert_eq!(get(&format!("/v2/a/tags/list?n={n}")), Err(RouteError::PageSize), "{n}");
        }
    }

    #[test]
    fn row_12_any_last_is_a_place_in_the_list() {
        for (last, read) in [("v1", Some("v1")), ("", None), ("%ff", Some("\u{fffd}")), ("../..%00", Some("../..\0")), ("%zz", Some("%zz"))]
        {
            let page = Page { limit: MAX_PAGE, last: read.map(str::to_owned) };
            assert_eq!(get(&format!("/v2/_catalog?last={last}")), Ok(Action::Catalog(page)), "{last}");
        }
    }

    #[test]
    fn row_83_unknown_parameters_change_nothing() {
        assert_eq!(get("/v2/a/manifests/1?x=1&ns&foo=bar&&="), read("a", tagged("1")));
        let with_ns = get("/v2/a/manifests/1?x=1&ns=docker.io%3A443&ns=ghcr.io");
        assert!(matches!(with_ns, Ok(Action::Read { ns: Some(ns), .. }) if ns == "docker.io:443"));
    }

    proptest! {
        /// Whatever comes, no panic, and a name that comes out is one that parses.
        #[test]
        fn any_bytes_have_an_answer(path in proptest::collection::vec(any::<u8>(), 0..64), query in ".{0,40}") {
            let _ = route(&Method::GET, &path, &query);
        }

        #[test]
        fn a_routed_name_is_valid(
            segments in proptest::collection::vec("blobs|manifests|tags|list|uploads|referrers|[a-zA-Z.%/_:0-9-]{0,6}|%2[fFeE]|\\PC", 0..7),
            query in "(n=[0-9x]{0,3})?&?(last=[%a-f0-9]{0,6})?",
        ) {
            let path = format!("/v2/{}", segments.join("/"));
            if let Ok(Action::Read { name, .. }) = route(&Method::GET, path.as_bytes(), &query) {
                prop_assert!(name.as_str().parse::<RepositoryName>().is_ok());
                prop_assert!(path.contains(name.as_str()) || path.contains('%'), "{path} {name}");
            }
        }
    }
}
