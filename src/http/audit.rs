//! The audit record: what a request leaves in it, and `GET /outport/v1/audit`, which looks for what requests left.
//!
//! Each request that was understood leaves one entry when its answer has ended, whatever became of it. Health checks leave none, nor does
//! what edges of other regions ask all the time to follow this one, nor a request that another edge of this region passed on: that one
//! has written it down, with the client's address.

use http::{HeaderName, Response, StatusCode, header};

use super::body::Payload;
use super::error::Failure;
use super::governance::{Collection, Governing, Item};
use super::log::{Ending, Record, clean};
use super::route::{Action, Begin, Command, Push, Question, RouteError, Wanted, parameter};
use super::search::{read, wanted};
use crate::access;
use crate::audit::{Audit, Event, Filter, Outcome, Query};
use crate::oci::{Digest, Reference};
use crate::registry::Told;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a request's record keeps for the audit record.
#[derive(Debug, Default)]
pub(super) struct Notes {
    audit: Option<Audit>,
    /// The record's word for what is to be done; `None` for what leaves no entry.
    action: Option<&'static str>,
    digest: Option<Digest>,
    /// Of a push.
    received_bytes: Option<u64>,
    denies: bool,
    /// Why it was refused; and of a change that was made, what it is where no digest says it.
    note: Option<Box<str>>,
}

/// What a request has changed, with its answer on the way to the record.
#[derive(Clone, Debug)]
pub(super) struct Detail(pub(super) Box<str>);

impl Notes {
    /// The credentials are refused.
    pub(super) fn unproved(&mut self) {
        self.denies = true;
        self.note = Some("the credentials are not accepted".into());
    }

    /// What came with a push.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.unwrap_or_default()
    }

    /// The request has been understood.
    pub(super) fn routed(&mut self, action: &Action) {
        self.action = word(action);
        self.digest = digest(action);
    }
}

impl Record {
    /// From now on its end leaves an entry.
    pub fn audited_by(&mut self, audit: &Audit) {
        self.notes.audit = Some(audit.clone());
    }

    /// The answer is a refusal.
    pub fn refused(&mut self, failure: &Failure) {
        self.notes.denies |= failure.is_denial();
        self.notes.note = Some(failure.why());
    }

    /// So much of a push has come.
    pub fn received(&mut self, bytes: u64) {
        self.notes.received_bytes = Some(bytes);
    }

    /// What was asked for is this.
    pub fn is_about(&mut self, digest: &Digest) {
        self.notes.digest = Some(*digest);
    }

    /// What the answer says of its content.
    pub fn named(&mut self, answer: &mut Response<Payload>) {
        if let Some(Detail(text)) = answer.extensions_mut().remove() {
            self.notes.note = Some(text);
        }
        let headers = answer.headers();
        // A request that names a digest is answered about that one.
        if self.notes.digest.is_none() {
            self.notes.digest = headers.get(&DOCKER_CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse().ok());
        }
        if self.reference.is_none() && self.notes.action.is_some_and(|action| matches!(action, "principal" | "role" | "rule")) {
            // What was made has its name from the answer.
            let made = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()?.rsplit('/').next());
            self.reference = made.map(clean);
        }
    }

    /// Leaves the entry, with what of this record is needed no more.
    pub(super) fn leave(&mut self, sent_bytes: u64, took_ms: u64, ending: Ending) {
        let (Some(audit), Some(action)) = (self.notes.audit.take(), self.notes.action) else { return };
        let outcome = self.outcome(ending);
        if !audit.wants(action, outcome) {
            return;
        }
        let note = self.notes.note.take().map(|note| clean(&note).into());
        let (detail, why) = match (note, ending) {
            (note, _) if outcome == Outcome::Allowed => (note, None),
            (Some(why), _) => (None, Some(why)),
            (None, Ending::Cut) => (None, Some("the content broke".into())),
            (None, Ending::Left) => (None, Some("the client left".into())),
            (None, Ending::Complete) => (None, self.status.canonical_reason().map(Into::into)),
        };
        let is_refused = self.status.is_client_error() || self.status.is_server_error();
        audit.record(&Event {
            request: std::mem::take(&mut self.request_id).into(),
            principal: self.caller.principal.clone(),
            proof: self.caller.proof.into(),
            address: Some(self.caller.address),
            agent: self.agent.take().map(String::from),
            action: action.into(),
            route: self.class.as_str().into(),
            method: std::mem::take(&mut self.method),
            upstream: self.upstream.take(),
            repository: self.repository.take(),
            reference: self.reference.take(),
            digest: self.notes.digest,
            detail,
            bytes: self.notes.received_bytes.unwrap_or(if is_refused { 0 } else { sent_bytes }),
            took_ms,
            status: self.status.as_u16(),
            outcome,
            why,
        });
    }

    fn outcome(&self, ending: Ending) -> Outcome {
        if self.notes.denies || matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            Outcome::Denied
        } else if ending != Ending::Complete || self.status.is_client_error() || self.status.is_server_error() {
            Outcome::Failed
        } else {
            Outcome::Allowed
        }
    }
}

/// The record's word for what is to be done. Whoever adds an action decides here whether it leaves an entry.
fn word(action: &Action) -> Option<&'static str> {
    Some(match action {
        Action::Ready | Action::SignIns => return None,
        Action::Peer(Question::Status | Question::Segments { .. } | Question::Resolve { .. }) => return None,
        Action::Peer(Question::Snapshots(_) | Question::SnapshotPart { .. }) => return None,
        Action::Peer(Question::Content(_)) => "copy",
        Action::Peer(Question::Audit(_)) | Action::Audit(_) => "audit",
        Action::Peer(Question::Logs(_)) | Action::Logs(_) | Action::SearchLogs(_) => "logs",
        Action::Version | Action::Token(_) | Action::TokenForm | Action::Exchange => "authenticate",
        Action::Govern(Governing::List(..) | Governing::Show(_)) => "list",
        Action::Govern(governing) => match governing {
            Governing::Remove(Item::Role(_)) | Governing::Create(Collection::Roles) => "role",
            Governing::Remove(Item::Rule(_)) | Governing::Create(Collection::Rules) => "rule",
            _ => "principal",
        },
        Action::Read { wanted: Wanted::Manifest(_) | Wanted::Blob(_), .. } => "pull",
        Action::Read { wanted: Wanted::Tags(_) | Wanted::Referrers { .. } | Wanted::Receipt(_), .. } | Action::Catalog(_) => "list",
        Action::AcrCatalog(_) => "list",
        Action::Acr { wanted, .. } => match wanted.action() {
            access::Action::Delete => "delete",
            access::Action::MetadataWrite => "lock",
            _ => "list",
        },
        Action::Forwards | Action::Conflicts(_) | Action::Overview | Action::Top(_) | Action::Wait(_) => "list",
        Action::Webhooks | Action::Offload | Action::Watched => "list",
        Action::Ping(_) => "webhook",
        Action::Write { wanted: Push::DeleteManifest(_) | Push::DeleteBlob(_), .. } => "delete",
        Action::Write { .. } => "push",
        Action::Command(Command::Refresh) => "refresh",
        Action::Command(Command::Prefetch) => "prefetch",
    })
}

/// What is to be read or written, where the request names it by its digest.
fn digest(action: &Action) -> Option<Digest> {
    match action {
        Action::Read { wanted: Wanted::Manifest(Reference::Digest(digest)) | Wanted::Receipt(Reference::Digest(digest)), .. }
        | Action::Read { wanted: Wanted::Blob(digest) | Wanted::Referrers { subject: digest, .. }, .. }
        | Action::Write { wanted: Push::Manifest { reference: Reference::Digest(digest), .. }, .. }
        | Action::Write { wanted: Push::DeleteManifest(Reference::Digest(digest)) | Push::DeleteBlob(digest), .. }
        | Action::Write { wanted: Push::Finish { digest, .. }, .. }
        | Action::Write { wanted: Push::Begin(Begin::Whole(digest) | Begin::Mount { digest, .. }), .. }
        | Action::Peer(Question::Content(digest) | Question::Resolve { wanted: Told::Blob(digest), .. }) => Some(*digest),
        _ => None,
    }
}

/// `principal`, `action`, `repository` (a pattern), `outcome`, `address` (one, or a range), and what every search has.
pub fn search(query: &str) -> Result<Query, RouteError> {
    let filter = Filter {
        principal: parameter(query, "principal"),
        action: parameter(query, "action"),
        repository: read(query, "repository")?,
        outcome: read(query, "outcome")?,
        address: read(query, "address")?,
    };
    wanted(query, filter)
}
