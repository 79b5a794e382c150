//! Who may do what: a table of callers, operations and repositories, run against the real surface.
//!
//! What is right is said here once more, in words of its own: nothing of the product's `access` room is used. A new route is no
//! operation of this table until somebody has put it there: [`operations_of`] names every kind of request and does not compile without.

use std::collections::BTreeSet;

use outport::http::route::{Acr, Action, Begin, Push, Wanted, route};

use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::push::push;

/// Hosted repositories with the same image in each.
const REPOSITORIES: [&str; 3] = ["open/app", "team/app", "other/app"];
/// One that there is not, in a part of the name space in which nobody but holders of roles on the registry may anything.
const ABSENT: &str = "absent/app";
const TAG: &str = "v1";

/// What somebody may do to a repository, in the words of the table of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Pull,
    Push,
    Delete,
    ReadMetadata,
    WriteMetadata,
}

/// The table of roles (Azure Container Registry, "Roles and permissions"): what each lets one do.
const ROLES: [(&str, &[Right]); 6] = [
    ("AcrPull", &[Right::Pull, Right::ReadMetadata]),
    ("AcrPush", &[Right::Pull, Right::Push, Right::ReadMetadata]),
    ("AcrDelete", &[Right::Delete, Right::ReadMetadata]),
    ("Reader", &[Right::Pull, Right::ReadMetadata]),
    ("Contributor", &[Right::Pull, Right::Push, Right::Delete, Right::ReadMetadata, Right::WriteMetadata]),
    ("Owner", &[Right::Pull, Right::Push, Right::Delete, Right::ReadMetadata, Right::WriteMetadata]),
];

/// Somebody who asks.
#[derive(Clone, Debug)]
struct Caller {
    name: Option<String>,
    /// The role, and the beginning of the repositories' names on which it is held; nothing for all.
    role: Option<(&'static str, &'static str)>,
}

impl Caller {
    fn all() -> Vec<Caller> {
        let mut callers = vec![Caller { name: None, role: None }, Caller { name: Some("nobody".to_owned()), role: None }];
        for (role, _) in ROLES {
            for (kind, below) in [("all", ""), ("team", "team/")] {
                callers.push(Caller { name: Some(format!("{role}-{kind}")), role: Some((role, below)) });
            }
        }
        callers
    }

    fn may(&self, right: Right, repository: &str) -> bool {
        let everybody = repository.starts_with("open/") && matches!(right, Right::Pull | Right::ReadMetadata);
        let has = |(role, below): (&str, &str)| {
            let rights = ROLES.iter().find(|(name, _)| *name == role).map(|(_, rights)| *rights).unwrap_or_default();
            repository.starts_with(below) && rights.contains(&right)
        };
        everybody || self.role.is_some_and(has)
    }

    fn client(&self, edge: &TestEdge) -> Client {
        match &self.name {
            Some(name) => edge.client.clone().with_basic(name, "secret"),
            None => edge.client.clone(),
        }
    }
}

/// A request of the table, in a repository.
struct Operation {
    name: &'static str,
    right: Right,
    method: &'static str,
    target: String,
    content_type: &'static str,
    body: Vec<u8>,
    /// What those are answered who may.
    done: u16,
}

impl Operation {
    async fn ask(&self, client: &Client) -> Response {
        let headers: &[(&str, &str)] = if self.content_type.is_empty() { &[] } else { &[("Content-Type", self.content_type)] };
        client.send_with(self.method, &self.target, headers, &self.body).await
    }
}

/// Every operation on a repository; `mark` makes what they leave behind differ from that of others.
fn operations(repository: &str, image: &Image, mark: &str) -> Vec<Operation> {
    let (manifest, blob) = (image.digest(), image.blobs[1].digest());
    let read =
        |name, right, target: String| Operation { name, right, method: "GET", target, content_type: "", body: Vec::new(), done: 200 };
    let head = |name, target: String| Operation { method: "HEAD", ..read(name, Right::Pull, target) };
    let write = |name, right, method, target: String, done| Operation { method, done, ..read(name, right, target) };
    let of = |rest: String| format!("/v2/{repository}/{rest}");
    let azure = |rest: String| format!("/acr/v1/{repository}{rest}");
    let change = |name, target| Operation {
        content_type: "application/json",
        body: br#"{"readEnabled":true}"#.to_vec(),
        ..write(name, Right::WriteMetadata, "PATCH", target, 200)
    };
    vec![
        read("manifest by tag", Right::Pull, of(format!("manifests/{TAG}"))),
        read("manifest by digest", Right::Pull, of(format!("manifests/{manifest}"))),
        head("head of a manifest", of(format!("manifests/{TAG}"))),
        read("blob", Right::Pull, of(format!("blobs/{blob}"))),
        read("manifest as a blob", Right::Pull, of(format!("blobs/{manifest}"))),
        head("head of a blob", of(format!("blobs/{blob}"))),
        read("tags", Right::ReadMetadata, of("tags/list".to_owned())),
        read("referrers", Right::Pull, of(format!("referrers/{manifest}"))),
        read("receipt", Right::Pull, format!("/outport/v1/replication/{repository}/{TAG}")),
        read("wait", Right::Pull, format!("/outport/v1/wait?image={repository}:{TAG}")),
        write("begin an upload", Right::Push, "POST", of("blobs/uploads/".to_owned()), 202),
        write("mount", Right::Push, "POST", of(format!("blobs/uploads/?mount={blob}&from={repository}")), 201),
        Operation {
            content_type: "application/octet-stream",
            body: image.blobs[1].bytes().to_vec(),
            ..write("blob at once", Right::Push, "POST", of(format!("blobs/uploads/?digest={blob}")), 201)
        },
        Operation {
            content_type: "application/vnd.oci.image.manifest.v1+json",
            body: image.manifest.bytes.to_vec(),
            ..write("push a tag", Right::Push, "PUT", of(format!("manifests/pushed-{mark}")), 201)
        },
        write("delete a tag", Right::Delete, "DELETE", of(format!("manifests/doomed-{mark}")), 202),
        read("attributes", Right::ReadMetadata, azure(String::new())),
        read("attributes of tags", Right::ReadMetadata, azure("/_tags".to_owned())),
        read("attributes of a tag", Right::ReadMetadata, azure(format!("/_tags/{TAG}"))),
        read("attributes of manifests", Right::ReadMetadata, azure("/_manifests".to_owned())),
        read("attributes of a manifest", Right::ReadMetadata, azure(format!("/_manifests/{manifest}"))),
        change("change a repository", azure(String::new())),
        change("change a tag", azure(format!("/_tags/{TAG}"))),
        change("change a manifest", azure(format!("/_manifests/{manifest}"))),
        write("delete a tag as Azure does", Right::Delete, "DELETE", azure(format!("/_tags/doomed-too-{mark}")), 202),
    ]
}

/// The operations of this table that stand for a kind of request. Whoever adds a kind has to say here which; those that belong to no
/// repository have tests of their own.
fn operations_of(action: &Action) -> &'static str {
    match action {
        Action::Version | Action::Ready | Action::Catalog(_) | Action::AcrCatalog(_) => "registry",
        Action::Forwards | Action::Conflicts(_) | Action::Overview | Action::Audit(_) => "settings",
        Action::Exchange | Action::SignIns | Action::Token(_) | Action::TokenForm => "signing in",
        Action::Govern(_) => "governing",
        Action::Wait(_) => "wait",
        Action::Command(_) => "command",
        Action::Peer(_) => "peer",
        Action::Read { wanted, .. } => match wanted {
            Wanted::Manifest(_) => "manifest",
            Wanted::Blob(_) => "blob",
            Wanted::Receipt(_) => "receipt",
            Wanted::Tags(_) => "tags",
            Wanted::Referrers { .. } => "referrers",
        },
        Action::Acr { wanted, .. } => match wanted {
            Acr::Repository | Acr::Tags { .. } | Acr::Tag(_) | Acr::Manifests(_) | Acr::Manifest(_) => "attributes",
            Acr::ChangeRepository | Acr::ChangeTag(_) | Acr::ChangeManifest(_) => "change",
            // A whole repository's end is a test of its own: nothing would be left to ask for.
            Acr::DeleteTag(_) | Acr::DeleteRepository => "delete attributes",
        },
        Action::Write { wanted, .. } => match wanted {
            Push::Begin(Begin::Session(_)) => "begin",
            Push::Begin(Begin::Whole(_)) => "whole",
            Push::Begin(Begin::Mount { .. }) => "mount",
            Push::Manifest { .. } => "push",
            Push::DeleteManifest(_) => "delete",
            // A session is its owner's alone, and a blob is deleted as a manifest is.
            Push::DeleteBlob(_) | Push::Status(_) | Push::Chunk(_) | Push::Finish { .. } | Push::Cancel(_) => "session",
        },
    }
}

#[test]
fn the_table_has_every_kind_of_request_on_a_repository() {
    let image = Image::new(1, &[100]);
    let found: BTreeSet<&str> = operations("team/app", &image, "x")
        .iter()
        .map(|operation| {
            let (path, query) = operation.target.split_once('?').unwrap_or((&operation.target, ""));
            let action = route(&operation.method.parse().expect("a method"), path.as_bytes(), query);
            operations_of(&action.unwrap_or_else(|error| panic!("{}: {error}", operation.name)))
        })
        .collect();
    let expected = [
        "attributes",
        "begin",
        "blob",
        "change",
        "delete",
        "delete attributes",
        "manifest",
        "mount",
        "push",
        "receipt",
        "referrers",
        "tags",
        "wait",
        "whole",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

/// What a client can tell two answers apart by.
fn shown(answer: &Response, repository: &str) -> (u16, String, Option<String>) {
    (
        answer.status,
        answer.text().replace(repository, "NAME"),
        answer.header("www-authenticate").map(|text| text.replace(repository, "NAME")),
    )
}

async fn edge(callers: &[Caller]) -> TestEdge {
    let mut settings = Settings::new().access("anonymous_pull = [\"open/**\", \"canary.test/**\"]");
    for caller in callers {
        let Some(name) = &caller.name else { continue };
        settings = settings.pusher(name, "[]", "[]");
        if let Some((role, below)) = caller.role {
            let repositories = if below.is_empty() { String::new() } else { format!("repositories = [\"{below}**\"]\n") };
            settings = settings.table(&format!("[[role]]\nrole = \"{role}\"\nprincipals = [\"{name}\"]\n{repositories}"));
        }
    }
    settings.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_what_the_table_says_and_nothing_else() {
    let callers = Caller::all();
    let (edge, image) = (edge(&callers).await, Image::new(7, &[3_000]));
    let owner = edge.client.clone().with_basic("Owner-all", "secret");
    for repository in REPOSITORIES {
        push(&owner, repository, Some(TAG), &image).await;
    }
    let mut counts = [0, 0];
    for (number, caller) in callers.iter().enumerate() {
        let client = caller.client(&edge);
        for repository in REPOSITORIES {
            let doomed = |what: &str| format!("/v2/{repository}/manifests/{what}-{number}");
            let media_type = [("Content-Type", image.manifest.media_type.as_str())];
            for tag in [doomed("doomed"), doomed("doomed-too")] {
                assert_eq!(owner.send_with("PUT", &tag, &media_type, &image.manifest.bytes).await.status, 201);
            }
            for operation in operations(repository, &image, &number.to_string()) {
                let (answer, case) = (operation.ask(&client).await, format!("{caller:?} {} {repository}", operation.name));
                let is_allowed = caller.may(operation.right, repository);
                counts[usize::from(is_allowed)] += 1;
                if is_allowed {
                    assert_eq!(answer.status, operation.done, "{case}: {}", answer.text());
                    continue;
                }
                let may_know =
                    caller.may(Right::Pull, repository) && matches!(operation.right, Right::Push | Right::Delete | Right::WriteMetadata);
                match &caller.name {
                    None => assert_eq!(answer.status, 401, "{case}: {}", answer.text()),
                    Some(_) if may_know => assert_eq!((answer.status, answer.error_code().as_deref()), (403, Some("DENIED")), "{case}"),
                    Some(_) => assert_eq!(answer.status, 404, "{case}: {}", answer.text()),
                }
                // What is denied looks as what is not there.
                if !may_know {
                    let absent = operations(ABSENT, &image, &number.to_string()).into_iter().find(|other| other.name == operation.name);
                    let absent = absent.expect("the same operation").ask(&client).await;
                    if !caller.may(operation.right, ABSENT) {
                        assert_eq!(shown(&answer, repository), shown(&absent, ABSENT), "{case}");
                    }
                }
                // And nothing came of it.
                if operation.name == "delete a tag" {
                    assert_eq!(owner.get(&doomed("doomed")).await.status, 200, "{case}");
                }
                if operation.name == "delete a tag as Azure does" {
                    assert_eq!(owner.get(&doomed("doomed-too")).await.status, 200, "{case}");
                }
                if operation.name == "push a tag" {
                    let pushed = format!("/v2/{repository}/manifests/pushed-{number}");
                    assert_eq!(owner.get(&pushed).await.status, 404, "{case}");
                }
            }
        }
    }
    assert!(counts[0] > 200 && counts[1] > 200, "{counts:?}");
    edge.finish().await;
}
