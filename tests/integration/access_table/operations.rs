//! What is asked: every kind of request on a repository.
//!
//! A new route is no operation of this table until somebody has put it there: [`operations_of`] names every kind of request and does
//! not compile without.

use std::collections::BTreeSet;

use outport::http::route::{Acr, Action, Begin, Push, Wanted, route};

use super::callers::Right;
use crate::harness::client::{Client, Response};
use crate::harness::image::Image;

/// The tag of the image that is in each repository.
pub const TAG: &str = "v1";

/// A request of the table, in a repository.
pub struct Operation {
    pub name: &'static str,
    pub right: Right,
    method: &'static str,
    target: String,
    content_type: &'static str,
    body: Vec<u8>,
    /// What those are answered who may.
    pub done: u16,
}

impl Operation {
    /// Whether its answer has one, by which errors can be told apart.
    pub fn has_body(&self) -> bool {
        self.method != "HEAD"
    }

    pub async fn ask(&self, client: &Client) -> Response {
        let headers: &[(&str, &str)] = if self.content_type.is_empty() { &[] } else { &[("Content-Type", self.content_type)] };
        client.send_with(self.method, &self.target, headers, &self.body).await
    }
}

/// Every operation on a repository; `mark` makes what they leave behind differ from that of others.
pub fn operations(repository: &str, image: &Image, mark: &str) -> Vec<Operation> {
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
        Action::Forwards | Action::Conflicts(_) | Action::Overview => "settings",
        Action::Audit(_) | Action::Logs(_) | Action::SearchLogs(_) => "settings",
        Action::Webhooks | Action::Ping(_) | Action::Offload | Action::Watched | Action::Top(_) => "settings",
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
