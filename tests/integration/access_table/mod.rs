//! Who may do what: a table of callers, operations, repositories and contexts, run against the real surface.
//!
//! What is right is said here once more, in words of its own: nothing of the product's `access` room is used.

mod callers;
mod contexts;
mod operations;

use std::sync::atomic::{AtomicU16, Ordering};

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::push::push;
use callers::{Caller, Right, Standing};
use operations::{TAG, operations};

/// Hosted repositories with the same image in each.
const REPOSITORIES: [&str; 3] = ["open/app", "team/app", "other/app"];
/// One that there is not, in a part of the name space in which nobody but holders of roles on the registry may anything.
const ABSENT: &str = "absent/app";

/// What anybody may.
const OPEN: &str = "anonymous_pull = [\"open/**\", \"canary.test/**\"]";

/// What a client can tell two answers apart by.
fn shown(answer: &Response, repository: &str) -> (u16, String, Option<String>) {
    (
        answer.status,
        answer.text().replace(repository, "NAME"),
        answer.header("www-authenticate").map(|text| text.replace(repository, "NAME")),
    )
}

/// Whom an edge is asked by, and by whom it is seen what came of it.
struct Asked<'a> {
    client: &'a Client,
    owner: &'a Client,
    image: &'a Image,
    /// Whether other regions are away: what the edge does not know may be there, and who would wait for them is not asked to.
    is_alone: bool,
}

/// How many operations were allowed, and how many denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    allowed: u32,
    denied: u32,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.allowed += other.allowed;
        self.denied += other.denied;
    }
}

impl Asked<'_> {
    /// Asks for everything in these repositories; `mark` is this question's own.
    async fn for_everything(&self, caller: &Caller, repositories: &[&str], mark: &str) -> Counts {
        let mut counts = Counts::default();
        let mut absent = Vec::new();
        for operation in operations(ABSENT, self.image, mark) {
            // Who may something there is told that there is nothing; and who is refused is not asked twice, for each question costs a
            // slow hash.
            let is_compared = !caller.may(operation.right, ABSENT) && caller.standing != Standing::Refused;
            let answer = if is_compared { Some(operation.ask(&self.client_of(caller)).await) } else { None };
            absent.push(answer.map(|answer| shown(&answer, ABSENT)));
        }
        // Who is refused gains nothing by asking for another one, and may not fail too often.
        let repositories = if caller.standing == Standing::Refused { &repositories[..1] } else { repositories };
        for repository in repositories {
            counts.add(self.for_everything_in(caller, repository, mark, &absent).await);
        }
        counts
    }

    async fn for_everything_in(
        &self,
        caller: &Caller,
        repository: &str,
        mark: &str,
        absent: &[Option<(u16, String, Option<String>)>],
    ) -> Counts {
        let mut counts = Counts::default();
        let manifest = |tag: &str| format!("/v2/{repository}/manifests/{tag}-{mark}");
        let media_type = [("Content-Type", self.image.manifest.media_type.as_str())];
        for tag in ["doomed", "doomed-too"] {
            assert_eq!(self.owner.send_with("PUT", &manifest(tag), &media_type, &self.image.manifest.bytes).await.status, 201);
        }
        let asked = operations(repository, self.image, mark);
        for (operation, absent) in asked.iter().zip(absent) {
            let (may, case) = (caller.may(operation.right, repository), format!("{mark}: {caller:?} {} {repository}", operation.name));
            if may && self.is_alone && operation.name == "wait" {
                continue;
            }
            let answer = operation.ask(&self.client_of(caller)).await;
            if may {
                counts.allowed += 1;
                assert_eq!(answer.status, operation.done, "{case}: {}", answer.text());
                continue;
            }
            counts.denied += 1;
            let may_know =
                caller.may(Right::Pull, repository) && matches!(operation.right, Right::Push | Right::Delete | Right::WriteMetadata);
            let (status, code) = caller.denial(may_know);
            assert_eq!(answer.status, status, "{case}: {}", answer.text());
            if code.is_some() && operation.has_body() {
                assert_eq!(answer.error_code().as_deref(), code, "{case}");
            }
            // What is denied looks as what is not there.
            if let Some(absent) = absent.as_ref().filter(|_| !may_know) {
                assert_eq!(&shown(&answer, repository), absent, "{case}");
            }
        }
        self.nothing_came_of_what_was_denied(caller, repository, &manifest).await;
        counts
    }

    /// Guessing is limited for each address: who is refused comes from another one each time.
    fn client_of(&self, caller: &Caller) -> Client {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        if caller.standing != Standing::Refused {
            return self.client.clone();
        }
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.client.clone().from(&format!("127.202.{high}.{low}"))
    }

    async fn nothing_came_of_what_was_denied(&self, caller: &Caller, repository: &str, manifest: &impl Fn(&str) -> String) {
        let absent = if self.is_alone { 503 } else { 404 };
        for (right, tag, expected) in [(Right::Delete, "doomed", 200), (Right::Delete, "doomed-too", 200), (Right::Push, "pushed", absent)]
        {
            if !caller.may(right, repository) {
                assert_eq!(self.owner.get(&manifest(tag)).await.status, expected, "{caller:?} {tag} {repository}");
            }
        }
    }
}

/// With somebody who has the password `secret` and this role.
fn with(settings: Settings, caller: &Caller) -> Settings {
    let settings = settings.pusher(&caller.name, "[]", "[]");
    let Some((role, held)) = caller.role else { return settings };
    let repositories = held.pattern().map(|pattern| format!("repositories = [\"{pattern}\"]\n")).unwrap_or_default();
    settings.table(&format!("[[role]]\nrole = \"{role}\"\nprincipals = [\"{}\"]\n{repositories}", caller.name))
}

async fn fill(owner: &Client, image: &Image) {
    for repository in REPOSITORIES {
        push(owner, repository, Some(TAG), image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_what_the_table_says_and_nothing_else() {
    let callers: Vec<Caller> = [Caller::anonymous()].into_iter().chain(Caller::of_roles()).collect();
    let named = callers.iter().filter(|caller| caller.standing == Standing::Proven);
    let (edge, image): (TestEdge, _) = (named.fold(Settings::new().access(OPEN), with).start().await, Image::new(7, &[3_000]));
    let owner = edge.client.clone().with_basic("Owner-all", "secret");
    fill(&owner, &image).await;
    let mut counts = Counts::default();
    for (number, caller) in callers.iter().enumerate() {
        let client = match caller.standing {
            Standing::Proven => edge.client.clone().with_basic(&caller.name, "secret"),
            _ => edge.client.clone(),
        };
        let asked = Asked { client: &client, owner: &owner, image: &image, is_alone: false };
        counts.add(asked.for_everything(caller, &REPOSITORIES, &number.to_string()).await);
    }
    assert!(counts.allowed > 200 && counts.denied > 200, "{counts:?}");
    edge.finish().await;
}
