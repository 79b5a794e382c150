//! What goes wrong at an origin: which requests, how, and how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    Ping,
    Token,
    Blob {
        repository: String,
        digest: String,
    },
    Manifest {
        repository: String,
        reference: String,
    },
    Tags {
        repository: String,
    },
    Referrers {
        repository: String,
        digest: String,
    },
    /// `session` is empty where an upload begins.
    Upload {
        repository: String,
        session: String,
    },
    Other,
}

impl Route {
    /// Reads a path without its query.
    pub fn of(path: &str) -> Route {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return if path == "/token" { Route::Token } else { Route::Other };
        };
        if rest.is_empty() {
            return Route::Ping;
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return Route::Tags { repository: repository.into() };
        }
        if let Some((repository, session)) = rest.rsplit_once("/blobs/uploads/") {
            return Route::Upload { repository: repository.into(), session: session.into() };
        }
        let mut parts = rest.rsplitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(digest), Some("blobs"), Some(name)) => Route::Blob { repository: name.into(), digest: digest.into() },
            (Some(reference), Some("manifests"), Some(name)) => Route::Manifest { repository: name.into(), reference: reference.into() },
            (Some(digest), Some("referrers"), Some(name)) => Route::Referrers { repository: name.into(), digest: digest.into() },
            _ => Route::Other,
        }
    }

    /// The repository that a token must cover.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Route::Blob { repository, .. }
            | Route::Manifest { repository, .. }
            | Route::Tags { repository }
            | Route::Upload { repository, .. }
            | Route::Referrers { repository, .. } => Some(repository),
            Route::Ping | Route::Token | Route::Other => None,
        }
    }
}

/// Which requests are meant.
#[derive(Clone, Debug)]
pub enum Match {
    /// All, the token endpoint's included.
    Any,
    /// All of a registry's own, the token endpoint's excluded.
    Registry,
    Token,
    Blobs,
    Blob(String),
    Manifests,
    /// The manifest of this tag or digest.
    Manifest(String),
    Tags,
    Referrers,
    Uploads,
    /// Whatever belongs to this repository.
    Repository(String),
    /// Those of another match that come with this method.
    Method(&'static str, Box<Match>),
}

impl Match {
    pub fn blob(digest: &str) -> Match {
        Match::Blob(digest.to_owned())
    }

    pub fn manifest(reference: &str) -> Match {
        Match::Manifest(reference.to_owned())
    }

    pub fn repository(name: &str) -> Match {
        Match::Repository(name.to_owned())
    }

    pub fn get(self) -> Match {
        Match::Method("GET", Box::new(self))
    }

    pub fn head(self) -> Match {
        Match::Method("HEAD", Box::new(self))
    }

    pub fn put(self) -> Match {
        Match::Method("PUT", Box::new(self))
    }

    pub fn fits(&self, method: &str, route: &Route) -> bool {
        match self {
            Match::Any => true,
            Match::Registry => *route != Route::Token,
            Match::Token => *route == Route::Token,
            Match::Blobs => matches!(route, Route::Blob { .. }),
            Match::Blob(wanted) => matches!(route, Route::Blob { digest, .. } if digest == wanted),
            Match::Manifests => matches!(route, Route::Manifest { .. }),
            Match::Manifest(wanted) => matches!(route, Route::Manifest { reference, .. } if reference == wanted),
            Match::Tags => matches!(route, Route::Tags { .. }),
            Match::Referrers => matches!(route, Route::Referrers { .. }),
            Match::Uploads => matches!(route, Route::Upload { .. }),
            Match::Repository(wanted) => route.repository() == Some(wanted),
            Match::Method(wanted, inner) => method == *wanted && inner.fits(method, route),
        }
    }
}

/// What goes wrong. Where bytes are counted, they are those of one answer's body.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with a specification-like error body and these headers.
    Status(u16, Vec<(String, String)>),
    /// 200 with this type and these bytes, whatever was asked.
    Instead { media_type: String, bytes: Vec<u8> },
    /// 200 with a manifest's type and JSON of so many bytes.
    Oversized(usize),
    /// The head is never sent.
    StallHead,
    /// The head is sent after this time.
    DelayHead(Duration),
    /// The right answer with further headers.
    Headers(Vec<(String, String)>),
    /// `Docker-Content-Digest` names something else.
    WrongDigestHeader,
    /// A Range is answered with the whole, 200.
    IgnoreRange,
    /// A Range is answered with 206, the right length and another place in `Content-Range` and body: from 0.
    WrongContentRange,
    /// One byte in the middle of the blob or manifest is another.
    WrongBytes,
    /// So many bytes a second.
    Slow(u64),
    /// Nothing more after so many bytes; the connection stays open.
    StallAfter(u64),
    /// The connection is closed after so many bytes, before the length that was promised.
    CutAfter(u64),
    /// The connection is reset after so many bytes.
    ResetAfter(u64),
    /// The body has no length and ends after so many bytes by the closing of the connection, as if it were complete.
    TruncateUntilClose(u64),
    /// The body has no length and ends properly, in chunks, after so many bytes.
    TruncateChunked(u64),
    /// The whole body, in chunks, without a length.
    WithoutLength,
}

/// At which point of an answer a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before anything is looked up, credentials included.
    Head,
    /// In an answer with a body, after credentials were accepted.
    Body,
}

impl Fault {
    pub fn status(status: u16) -> Fault {
        Fault::Status(status, Vec::new())
    }

    pub fn too_many(retry_after_s: u64) -> Fault {
        Fault::Status(429, vec![("Retry-After".into(), retry_after_s.to_string())])
    }

    /// A challenge of this text, whatever credentials came.
    pub fn challenge(text: &str) -> Fault {
        Fault::Status(401, vec![("WWW-Authenticate".into(), text.to_owned())])
    }

    pub fn redirect(url: &str) -> Fault {
        Fault::Status(307, vec![("Location".into(), url.to_owned())])
    }

    pub fn html() -> Fault {
        Fault::Instead { media_type: "text/html".into(), bytes: b"<html><body>Sign in to the guest network</body></html>".to_vec() }
    }

    pub fn rate_limit(limit: u64, remaining: u64) -> Fault {
        let header = |name: &str, value: u64| (name.to_owned(), format!("{value};w=21600"));
        Fault::Headers(vec![header("ratelimit-limit", limit), header("ratelimit-remaining", remaining)])
    }

    /// This fault for the first `count` requests that it fits.
    pub fn times(self, count: u64) -> Script {
        Script { fault: self, times: Times::First(count) }
    }

    /// This fault for every other request that it fits, the first one included.
    pub fn every_other(self) -> Script {
        Script { fault: self, times: Times::EveryOther }
    }

    pub fn phase(&self) -> Phase {
        match self {
            Fault::Status(..) | Fault::Instead { .. } | Fault::Oversized(_) | Fault::StallHead | Fault::DelayHead(_) => Phase::Head,
            _ => Phase::Body,
        }
    }
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    Always,
    First(u64),
    EveryOther,
}

/// A fault and how often it strikes.
#[derive(Clone, Debug)]
pub struct Script {
    pub fault: Fault,
    pub times: Times,
}

impl From<Fault> for Script {
    fn from(fault: Fault) -> Script {
        Script { fault, times: Times::Always }
    }
}

/// A script in force.
#[derive(Debug)]
pub struct Rule {
    pub matching: Match,
    pub script: Script,
    seen: AtomicU64,
}

impl Rule {
    pub fn new(matching: Match, script: Script) -> Rule {
        Rule { matching, script, seen: AtomicU64::new(0) }
    }

    /// The fault, if it strikes this request now; counts the request.
    pub fn strikes(&self, phase: Phase, method: &str, route: &Route) -> Option<Fault> {
        if self.script.fault.phase() != phase || !self.matching.fits(method, route) {
            return None;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        let strikes = match self.script.times {
            Times::Always => true,
            Times::First(count) => seen < count,
            Times::EveryOther => seen.is_multiple_of(2),
        };
        strikes.then(|| self.script.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_meaning() {
        let blob = Route::Blob { repository: "a/blobs".into(), digest: "sha256:1".into() };
        assert_eq!(Route::of("/v2/a/blobs/blobs/sha256:1"), blob);
        assert_eq!(Route::of("/v2/a/b/tags/list"), Route::Tags { repository: "a/b".into() });
        assert_eq!(Route::of("/v2/"), Route::Ping);
        let upload = |session: &str| Route::Upload { repository: "a/b".into(), session: session.into() };
        assert_eq!(Route::of("/v2/a/b/blobs/uploads/"), upload(""));
        assert_eq!(Route::of("/v2/a/b/blobs/uploads/7"), upload("7"));
        assert_eq!(Route::of("/v3/a/blobs/b"), Route::Other);
        assert_eq!(Route::of("/v2/a"), Route::Other);
    }

    #[test]
    fn a_fault_strikes_as_often_as_the_script_says() {
        let route = Route::of("/v2/a/blobs/sha256:1");
        let struck = |script: Script| {
            let rule = Rule::new(Match::blob("sha256:1").get(), script);
            assert!(rule.strikes(Phase::Body, "HEAD", &route).is_none());
            assert!(rule.strikes(Phase::Head, "GET", &route).is_none());
            (0..5).map(|_| u8::from(rule.strikes(Phase::Body, "GET", &route).is_some())).collect::<Vec<_>>()
        };
        assert_eq!(struck(Fault::CutAfter(1).into()), [1, 1, 1, 1, 1]);
        assert_eq!(struck(Fault::CutAfter(1).times(2)), [1, 1, 0, 0, 0]);
        assert_eq!(struck(Fault::CutAfter(1).every_other()), [1, 0, 1, 0, 1]);
    }
}
