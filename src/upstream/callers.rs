//! Callers who bring credentials of their own, to an upstream that decides itself who reads what.
//!
//! Each is a *view* of the upstream: the same connections and circuits, with the caller's credentials, and tokens that nobody else gets.
//! What the upstream said of a caller's right to a repository is remembered for `authorization_ttl`, and no longer: with that time the
//! view ends too, so that the next answer rests on a token that was made after it. Credentials are not what things are found by: a hash
//! of them is, under a key that ends with the process.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use aws_lc_rs::rand::SystemRandom;
use http::Method;
use tokio::sync::Mutex;

use super::endpoint::{Ask, Endpoint, Scope};
use super::error::UpstreamError;
use super::wire::discard;
use super::{Credentials, Upstream, Whose, content, lists};
use crate::access::Lent;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::oci::{Digest, Reference, RepositoryName};

/// Callers of one upstream that are remembered, and repositories that they asked for.
const MAX_CALLERS: u64 = 1_000;
const MAX_VERDICTS: u64 = 10_000;
/// How long a refusal is remembered: what is granted meanwhile is seen soon.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

/// What a caller wants to see first in a repository: by this it is found out whether it may read there.
#[derive(Clone, Copy, Debug)]
pub enum Glimpse<'a> {
    Manifest(&'a Reference),
    Blob(&'a Digest),
    Tags,
}

/// What an upstream is asked about a caller.
#[derive(Clone, Copy)]
enum Question<'a> {
    Repository(&'a RepositoryName, Glimpse<'a>),
    Registry,
}

/// By what a caller, or a caller in a repository, is found.
type Trace = [u8; 32];

pub(super) struct Callers {
    key: Key,
    /// By moka's rules only the number is bounded; whether one still holds is judged when it is used.
    views: moka::sync::Cache<Trace, View>,
    verdicts: moka::sync::Cache<Trace, Arc<Mutex<Option<Verdict>>>>,
}

#[derive(Clone)]
struct View {
    upstream: Arc<Upstream>,
    made_at: Timestamp,
}

#[derive(Clone, Copy)]
struct Verdict {
    says: Says,
    /// Of a yes, when the view was made by which it was had.
    since: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Yes,
    No,
}

impl Callers {
    pub(super) fn new() -> Callers {
        Callers {
            key: Key::generate(HMAC_SHA256, &SystemRandom::new()).expect("the system gives random bytes"),
            views: moka::sync::Cache::new(MAX_CALLERS),
            verdicts: moka::sync::Cache::new(MAX_VERDICTS),
        }
    }

    /// No user name that came by Basic authentication has a colon, and no repository's name a zero byte.
    fn trace(&self, lent: &Lent, repository: &str) -> Trace {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [repository, "\0", lent.username(), ":", lent.password()] {
            context.update(part.as_bytes());
        }
        let mut trace = [0; 32];
        trace.copy_from_slice(context.sign().as_ref());
        trace
    }
}

impl Upstream {
    /// Whether it is the upstream itself that says which caller may read what.
    pub fn decides(&self) -> bool {
        matches!(self.whose, Whose::EachCaller(_))
    }

    /// As a caller sees it: what is asked of the view is asked with the caller's credentials. Where the upstream does not decide, itself.
    pub fn as_seen_by(self: &Arc<Upstream>, lent: &Lent) -> Arc<Upstream> {
        match &self.whose {
            Whose::EachCaller(callers) => self.view(callers, lent).upstream,
            Whose::Edge | Whose::OneCaller => self.clone(),
        }
    }

    fn view(&self, callers: &Callers, lent: &Lent) -> View {
        let now = self.wire.clock.now();
        let make = || View { upstream: Arc::new(self.with_credentials(lent)), made_at: now };
        let is_over = |view: &View| !self.holds_since(view.made_at, now);
        callers.views.entry(callers.trace(lent, "")).or_insert_with_if(make, is_over).into_value()
    }

    /// False also when the clock was set back to before it.
    fn holds_since(&self, time: Timestamp, now: Timestamp) -> bool {
        time <= now && now.since(time) < self.authorization_ttl
    }

    fn with_credentials(&self, lent: &Lent) -> Upstream {
        let own = Credentials { username: lent.username().to_owned(), password: Secret::new(lent.password().to_owned()) };
        let own = Arc::new(own);
        let of_caller = |endpoint: &Arc<Endpoint>| {
            let is_home = endpoint.origin() == self.main.origin();
            Arc::new(endpoint.with_credentials(is_home.then(|| own.clone())))
        };
        Upstream {
            wire: self.wire.clone(),
            mirrors: self.mirrors.iter().map(of_caller).collect(),
            main: of_caller(&self.main),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            tag_ttl: self.tag_ttl,
            authorization_ttl: self.authorization_ttl,
            max_connections: self.max_connections,
            whose: Whose::OneCaller,
        }
    }

    /// Whether it answers one caller only: what it refuses, it may show to others.
    pub fn is_view(&self) -> bool {
        matches!(self.whose, Whose::OneCaller)
    }

    /// Asks the upstream, not its mirrors, whether the holder of these credentials may read a repository. Its answer about that
    /// repository is remembered; that something is absent is not.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] if it may not; [`UpstreamError::Absent`] if there is no such thing, which may mean the same; any other
    /// but `Broken` if it cannot be told.
    pub async fn vouches(&self, lent: &Lent, repository: &RepositoryName, wanted: Glimpse<'_>) -> Result<(), UpstreamError> {
        self.verdict(lent, Question::Repository(repository, wanted)).await
    }

    /// The same for the registry as a whole: whether it knows these credentials.
    ///
    /// # Errors
    /// As [`vouches`](Self::vouches).
    pub async fn welcomes(&self, lent: &Lent) -> Result<(), UpstreamError> {
        self.verdict(lent, Question::Registry).await
    }

    /// One question at a time for each caller and repository: who waits for it is spared its own if the answer is yes or no.
    async fn verdict(&self, lent: &Lent, question: Question<'_>) -> Result<(), UpstreamError> {
        let Whose::EachCaller(callers) = &self.whose else { return Err(UpstreamError::Denied) };
        let known = callers.verdicts.get_with(callers.trace(lent, question.subject()), Arc::default);
        let mut known = known.lock().await;
        let now = self.wire.clock.now();
        match *known {
            Some(Verdict { says: Says::Yes, since }) if self.holds_since(since, now) => return Ok(()),
            Some(Verdict { says: Says::No, since }) if self.holds_since(since, now) && now.since(since) < REFUSAL_TIME => {
                return Err(UpstreamError::Denied);
            }
            _ => *known = None,
        }
        let view = self.view(callers, lent);
        let told = question.put_to(&view.upstream.main).await;
        *known = match told {
            Ok(()) => Some(Verdict { says: Says::Yes, since: view.made_at }),
            Err(UpstreamError::Denied) => Some(Verdict { says: Says::No, since: now }),
            Err(_) => None,
        };
        told
    }
}

impl Question<'_> {
    /// What the answer is about.
    fn subject(&self) -> &str {
        match self {
            Question::Repository(repository, _) => repository.as_str(),
            // No repository is called like this.
            Question::Registry => "/",
        }
    }

    async fn put_to(&self, main: &Endpoint) -> Result<(), UpstreamError> {
        match *self {
            Question::Repository(repository, Glimpse::Manifest(reference)) => {
                content::manifest_head(main, repository, reference).await.map(drop)
            }
            Question::Repository(repository, Glimpse::Blob(digest)) => content::blob_glimpse(main, repository, digest).await,
            Question::Repository(repository, Glimpse::Tags) => lists::tags_glimpse(main, repository).await,
            Question::Registry => {
                let ask = Ask { method: Method::GET, path: "", query: None, accept: "*/*", from: 0, scope: Scope::Registry, load: None };
                let answer = main.ask(&ask).await?;
                content::no_page(&answer)?;
                discard(answer.body.incoming).await;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::testing::{Origin, Reply, Seen, config, reply};
    use super::super::tests::{name, tag, upstream_at};
    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::metrics::Metrics;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

    fn lent(user: &str) -> Lent {
        Lent::new(user.to_owned(), format!("{user}'s password"))
    }

    fn basic(user: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{user}'s password")))
    }

    /// alice may read `team/a` and nobody anything else; what is not there is 404 for everybody who is known.
    fn answer(seen: &Seen) -> Reply {
        let authorization = seen.header("authorization").unwrap_or_default();
        if ![basic("alice"), basic("bob")].iter().any(|known| known == authorization) {
            return reply(401, "").with("www-authenticate", r#"Basic realm="origin""#);
        }
        match seen.target.as_str() {
            "/v2/" => reply(200, "{}"),
            target if target.contains("team/a/") && authorization != basic("alice") => reply(403, ""),
            "/v2/team/a/manifests/page" => reply(200, "<html>").with("content-type", "text/html"),
            "/v2/team/a/manifests/v1" => reply(200, MANIFEST).with("content-type", IMAGE),
            "/v2/team/a/tags/list?n=1" => reply(200, r#"{"name":"team/a","tags":["v1"]}"#),
            _ => reply(404, ""),
        }
    }

    async fn deciding(ttl_s: u64) -> (Origin, Arc<Upstream>, Clock) {
        let origin = Origin::start(answer).await;
        let config = config::Upstream {
            authorize: config::Authorize::Upstream,
            authorization_ttl: Duration::from_secs(ttl_s),
            ..config(origin.url("/"))
        };
        let clock = Clock::manual(Timestamp::from_ms(1_000_000));
        (origin, Arc::new(upstream_at(&config, clock.clone(), Metrics::new())), clock)
    }

    #[tokio::test]
    async fn a_yes_is_asked_for_once_and_holds_for_its_time() {
        let (origin, upstream, clock) = deciding(60).await;
        let (repository, v1) = (name("team/a"), tag("v1"));
        let ask = async |user: &str, wanted: Glimpse<'_>| upstream.vouches(&lent(user), &repository, wanted).await;
        assert_eq!(ask("alice", Glimpse::Manifest(&v1)).await, Ok(()));
        let asked = origin.seen().len();
        for wanted in [Glimpse::Tags, Glimpse::Blob(&Digest::sha256(b"x")), Glimpse::Manifest(&v1)] {
            assert_eq!(ask("alice", wanted).await, Ok(()), "{wanted:?}");
        }
        assert_eq!(origin.seen().len(), asked, "the repository is what is asked about");
        for user in ["bob", "mallory"] {
            assert_eq!(ask(user, Glimpse::Manifest(&v1)).await, Err(UpstreamError::Denied), "{user}");
        }
        clock.advance(Duration::from_secs(59));
        let asked = origin.seen().len();
        assert_eq!(ask("alice", Glimpse::Tags).await, Ok(()));
        assert_eq!(origin.seen().len(), asked);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask("alice", Glimpse::Tags).await, Ok(()));
        assert!(origin.seen().len() > asked);
    }

    #[tokio::test]
    async fn a_refusal_is_remembered_briefly_and_absence_not_at_all() {
        let (origin, upstream, clock) = deciding(60).await;
        let ask = async |user: &str, repository: &str, reference: &str| {
            upstream.vouches(&lent(user), &name(repository), Glimpse::Manifest(&tag(reference))).await
        };
        assert_eq!(ask("bob", "team/a", "v1").await, Err(UpstreamError::Denied));
        let asked = origin.seen().len();
        assert_eq!(ask("bob", "team/a", "v2").await, Err(UpstreamError::Denied));
        assert_eq!(origin.seen().len(), asked);
        clock.advance(REFUSAL_TIME);
        assert_eq!(ask("bob", "team/a", "v1").await, Err(UpstreamError::Denied));
        assert_eq!(origin.seen().len(), asked + 1);
        assert_eq!(ask("alice", "team/b", "v1").await, Err(UpstreamError::Absent));
        assert_eq!(ask("alice", "team/a", "none").await, Err(UpstreamError::Absent));
        assert!(matches!(ask("alice", "team/a", "page").await, Err(UpstreamError::WrongAnswer(_))), "a page for people is no yes");
        assert_eq!(ask("alice", "team/a", "v1").await, Ok(()));
        assert_eq!(
            (upstream.welcomes(&lent("bob")).await, upstream.welcomes(&lent("mallory")).await),
            (Ok(()), Err(UpstreamError::Denied))
        );
    }

    #[tokio::test]
    async fn each_caller_asks_with_its_own_credentials() {
        let (origin, upstream, _) = deciding(60).await;
        let (repository, v1) = (name("team/a"), tag("v1"));
        let (alice, bob) = (upstream.as_seen_by(&lent("alice")), upstream.as_seen_by(&lent("bob")));
        assert!(alice.get_manifest(&repository, &v1).await.is_ok());
        assert_eq!(bob.get_manifest(&repository, &v1).await, Err(UpstreamError::Denied));
        assert_eq!(upstream.get_manifest(&repository, &v1).await, Err(UpstreamError::Denied), "it has none itself");
        assert!(Arc::ptr_eq(&alice, &upstream.as_seen_by(&lent("alice"))), "a view is kept");
        let sent: Vec<_> = origin.seen().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
        assert!(sent.contains(&basic("alice")) && sent.contains(&basic("bob")), "{sent:?}");
    }

    #[tokio::test]
    async fn callers_who_come_together_make_one_request() {
        let (origin, upstream, _) = deciding(60).await;
        let (repository, v1) = (name("team/a"), tag("v1"));
        let alice = lent("alice");
        let ask = || upstream.vouches(&alice, &repository, Glimpse::Manifest(&v1));
        for told in futures_util::future::join_all((0..20).map(|_| ask())).await {
            assert_eq!(told, Ok(()));
        }
        // One without credentials, which is challenged, and one with.
        assert_eq!(origin.seen().len(), 2);
    }
}
