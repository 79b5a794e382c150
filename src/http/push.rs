//! Pushes: from an admitted write to its use case, and from there to the answer.
//!
//! A session's location carries, sealed, the edge that has it and the bytes that were there. A request that reaches another edge of the
//! region is passed on to that one; if it is gone, so is the session, and the client starts again at once. The region stands in clear
//! before what is sealed: a request that reaches an edge of another region is passed on to that region's edges. So is one that sets or
//! takes away a name in a repository whose home is another region.

use bytes::Bytes;
use http::header;
use http::request::Parts;
use http::{HeaderMap, Response};
use url::Url;

use super::admit::{Site, Write};
use super::body::Payload;
use super::error::Failure;
use super::locations::Location;
use super::log::Record;

use super::route::{Begin, Push};
use super::service::Http;
use super::upload::{self, Kept, Progress};
use crate::access::Action;
use crate::inflow::Inflow;
use crate::oci::{Algorithm, Reference, RepositoryName, SessionRef};
use crate::peers::{PassError, Passed};
use crate::region::Peer;
use crate::registry::push::{PushError, Pusher};

/// A write with what it came with.
struct Given<'a> {
    pusher: Pusher<'a>,
    name: &'a RepositoryName,
    headers: &'a HeaderMap,
}

impl Http {
    pub(super) async fn write(
        &self,
        write: &Write,
        (site, head): (&Site, &Parts),
        inflow: &mut Inflow,
        record: &Record,
    ) -> Result<Response<Payload>, Failure> {
        let caller = record.caller();
        let given =
            Given { pusher: Pusher { access: &write.access, principal: &caller.principal }, name: &write.name, headers: &head.headers };
        if let Some(session) = write.wanted.session() {
            if let Some(region) = self.locations().abroad(session) {
                return self.pass_abroad(region, (site, head), inflow, record).await;
            }
            let location = self.locations().read(session)?;
            return if location.owner == self.locations().own() {
                self.in_session(&given, (&write.wanted, session), location.offset, inflow).await
            } else {
                self.pass(&location, head, inflow, record).await
            };
        }
        let registry = self.registry_ref();
        if write.wanted.changes_names()
            && let Some(home) = registry.home_abroad(write.access.repository())
        {
            return self.pass_home(&home, (site, head), inflow, record).await;
        }
        match &write.wanted {
            Push::Begin(Begin::Session(algorithm)) => self.begin(&given, *algorithm),
            Push::Begin(Begin::Whole(digest)) => {
                let position = registry.push_blob(given.pusher, digest, inflow).await?;
                Ok(upload::blob_created(given.name, digest, &position.to_string()))
            }
            Push::Begin(Begin::Mount { digest, from }) => {
                let readable = |repository: &_| site.policy.authorize(caller, repository, Action::Pull).is_ok();
                // One that is named and may not be read is one that has nothing (row 50).
                let mounted = match (from, &write.source) {
                    (Some(_), None) => None,
                    (_, source) => registry.mount(given.pusher, digest, source.as_ref(), readable).await?,
                };
                match mounted {
                    Some(position) => Ok(upload::blob_created(given.name, digest, &position.to_string())),
                    None => self.begin(&given, digest.algorithm()),
                }
            }
            Push::Manifest { reference, tags } => {
                let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
                let body = std::mem::replace(inflow, Inflow::whole(Bytes::new()));
                let pushed = registry.push_manifest(given.pusher, (reference, tags), content_type, body).await?;
                Ok(upload::manifest_created(Kept {
                    name: given.name,
                    reference,
                    digest: &pushed.digest,
                    tags,
                    subject: pushed.subject.as_ref(),
                    position: &pushed.position.to_string(),
                }))
            }
            Push::DeleteManifest(reference) => Ok(upload::deleted(&registry.delete_manifest(given.pusher, reference).await?.to_string())),
            Push::DeleteBlob(digest) => Ok(upload::deleted(&registry.delete_blob(given.pusher, digest).await?.to_string())),
            // They have sessions.
            Push::Status(_) | Push::Chunk(_) | Push::Finish { .. } | Push::Cancel(_) => Err(PushError::SessionUnknown.into()),
        }
    }

    fn begin(&self, given: &Given<'_>, algorithm: Algorithm) -> Result<Response<Payload>, Failure> {
        let id = self.registry_ref().begin_upload(given.pusher, algorithm)?;
        let state = self.locations().state(&id, 0)?;
        Ok(upload::accepted(Progress { name: given.name, id: &id, state: &state, received_bytes: 0 }))
    }

    async fn in_session(
        &self,
        given: &Given<'_>,
        (wanted, session): (&Push, &SessionRef),
        offset: u64,
        inflow: &mut Inflow,
    ) -> Result<Response<Payload>, Failure> {
        let (registry, pusher, id) = (self.registry_ref(), given.pusher, &session.id);
        match wanted {
            Push::Status(_) => {
                let received_bytes = registry.upload_status(pusher, id)?;
                let state = self.locations().state(id, received_bytes)?;
                Ok(upload::status(Progress { name: given.name, id, state: &state, received_bytes }))
            }
            Push::Chunk(_) => {
                let part = (upload::chunk(given.headers)?, Some(offset));
                let received_bytes = registry.append_chunk(pusher, id, part, inflow).await?;
                let state = self.locations().state(id, received_bytes)?;
                Ok(upload::accepted(Progress { name: given.name, id, state: &state, received_bytes }))
            }
            Push::Finish { digest, .. } => {
                let part = (upload::chunk(given.headers)?, Some(offset));
                let position = registry.finish_upload(pusher, id, (part, digest), inflow).await?;
                Ok(upload::blob_created(given.name, digest, &position.to_string()))
            }
            _ => {
                registry.cancel_upload(pusher, id)?;
                Ok(upload::cancelled())
            }
        }
    }

    /// To the edge that has the session. What has been passed on once is not passed on again.
    async fn pass(&self, location: &Location, head: &Parts, inflow: &mut Inflow, record: &Record) -> Result<Response<Payload>, Failure> {
        let siblings = self.locations().siblings().ok_or(PushError::SessionUnknown)?;
        if siblings.knows(&head.headers) {
            return Err(PushError::SessionUnknown.into());
        }
        let owner = Url::parse(&location.owner).map_err(|_| PushError::SessionUnknown)?;
        let passed = Passed { method: &head.method, uri: &head.uri, headers: &head.headers, request_id: record.request_id() };
        passed_on(siblings.pass(&owner, passed, inflow).await)
    }

    /// To the region that has the session. What another region has passed on is not passed on again.
    async fn pass_abroad(
        &self,
        region: &str,
        (site, head): (&Site, &Parts),
        inflow: &mut Inflow,
        record: &Record,
    ) -> Result<Response<Payload>, Failure> {
        let edges = self.registry_ref().peer(region).and_then(Peer::edges).filter(|_| !site.tokens.has_passed(&head.headers));
        let edges = edges.ok_or(PushError::SessionUnknown)?;
        let passed = Passed { method: &head.method, uri: &head.uri, headers: &head.headers, request_id: record.request_id() };
        passed_on(edges.pass(passed, inflow).await)
    }

    /// To the region that orders what happens to the names of a repository. What it has done is here, if that comes in time, when this
    /// returns: whoever pushed through this edge reads it back here.
    pub(super) async fn pass_home(
        &self,
        home: &str,
        (site, head): (&Site, &Parts),
        inflow: &mut Inflow,
        record: &Record,
    ) -> Result<Response<Payload>, Failure> {
        let registry = self.registry_ref();
        let away = |why: &str| PushError::HomeAway { home: home.to_owned(), why: why.to_owned() };
        // Two regions may be configured to take each other for the home.
        if site.tokens.has_passed(&head.headers) {
            return Err(away("another region takes this one for the home").into());
        }
        let edges = registry.peer(home).and_then(Peer::edges).ok_or_else(|| away("none of its edges is configured"))?;
        let passed = Passed { method: &head.method, uri: &head.uri, headers: &head.headers, request_id: record.request_id() };
        let answer = edges.pass(passed, inflow).await.map_err(|error| match error {
            PassError::Gone => away("none of its edges takes connections"),
            PassError::Broken(why) => away(&why),
            PassError::Inflow(error) => PushError::Inflow(error),
        })?;
        if let Some(position) = upload::position(&answer) {
            registry.await_position(&position).await;
        }
        Ok(answer.map(Payload::Bytes))
    }
}

/// What a client hears of a request in a session that was passed on. A session whose edge is gone is lost: the client starts again.
fn passed_on(answer: Result<Response<Bytes>, PassError>) -> Result<Response<Payload>, Failure> {
    match answer {
        Ok(answer) => Ok(answer.map(Payload::Bytes)),
        Err(PassError::Gone) => Err(PushError::SessionUnknown.into()),
        Err(PassError::Broken(why)) => Err(PushError::Unavailable { why, retry_after: None }.into()),
        Err(PassError::Inflow(error)) => Err(PushError::Inflow(error).into()),
    }
}

impl Push {
    fn session(&self) -> Option<&SessionRef> {
        match self {
            Push::Status(session) | Push::Chunk(session) | Push::Finish { session, .. } | Push::Cancel(session) => Some(session),
            Push::Begin(_) | Push::Manifest { .. } | Push::DeleteManifest(_) | Push::DeleteBlob(_) => None,
        }
    }

    /// Whether it sets tags, or may take some away.
    fn changes_names(&self) -> bool {
        match self {
            Push::Manifest { reference: Reference::Tag(_), .. } | Push::DeleteManifest(_) => true,
            Push::Manifest { reference: Reference::Digest(_), tags } => !tags.is_empty(),
            Push::Begin(_) | Push::Status(_) | Push::Chunk(_) | Push::Finish { .. } | Push::Cancel(_) | Push::DeleteBlob(_) => false,
        }
    }
}
