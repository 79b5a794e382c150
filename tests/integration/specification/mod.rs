//! The OCI Distribution Specification, clause by clause: 1.1 and what its main branch added since (tag parameters, required digest
//! headers, cancelled uploads, sha512).
//!
//! `statuses` walks each endpoint through each of its statuses, one request a row. The other tables hold the sentences that need more
//! than one request, each with the clause that it is from. All clauses of a table are tried, and those that do not hold are reported
//! together.

mod discovery;
pub mod lab;
mod manifests;
mod statuses;
mod uploads;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;

use crate::harness::edge::Settings;
use lab::Lab;

/// A sentence of the specification, and what it is tried with.
struct Clause {
    /// The section, or the endpoint.
    id: &'static str,
    says: &'static str,
    holds: fn(Lab) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// An edge that hosts what is pushed to it, by anybody.
fn hosting() -> Settings {
    Settings::new()
        .access("anonymous_pull = [\"**\"]\nanonymous_push = [\"**\"]")
        .table("[bucket]\nurl = \"memory://\"")
        .table("[[hosted]]\npattern = \"sparse/**\"\nsparse_indexes = true")
}

/// Tries all clauses, each in a repository of its own, and reports those that do not hold.
async fn walk(clauses: &[Clause]) {
    let edge = hosting().start().await;
    let mut broken = Vec::new();
    for (number, clause) in clauses.iter().enumerate() {
        let lab = Lab::new(edge.client.clone(), format!("spec/clause-{number}"));
        if let Some(why) = panics((clause.holds)(lab)).await {
            broken.push(format!("{}: {}\n    {why}", clause.id, clause.says));
        }
    }
    edge.finish().await;
    assert!(broken.is_empty(), "{} of {} clauses do not hold:\n{}", broken.len(), clauses.len(), broken.join("\n"));
}

/// What a trial said when it failed, so that the others can go on.
async fn panics(trial: impl Future<Output = ()>) -> Option<String> {
    let panic = AssertUnwindSafe(trial).catch_unwind().await.err()?;
    let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
    Some(said.unwrap_or_else(|| "a panic without words".to_owned()))
}

/// Writes a table of clauses: `id "sentence" |lab| { ... }`.
macro_rules! clauses {
    ($($id:literal $says:literal |$lab:ident| $holds:block)*) => {
        &[$($crate::specification::Clause { id: $id, says: $says, holds: |$lab| Box::pin(async move $holds) }),*]
    };
}
use clauses;
