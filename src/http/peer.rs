//! Answers to edges of other regions.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use tokio::time::{Instant, sleep_until};

use super::admit::Site;
use super::body::Payload;
use super::error::{Failure, Subject};
use super::log::Record;
use super::respond;
use super::route::Question;
use super::search;
use super::service::{Http, within};
use crate::bucket::Through;
use crate::cache::CacheError;
use crate::ledger::{Look, Origin, Position, Segments};
use crate::oci::Digest;
use crate::peers::Caller;
use crate::peers::protocol::frame;
use crate::registry::{Next, Told};

const OUTPORT_POSITION: HeaderName = HeaderName::from_static("outport-position");
/// While an answer is held back, the tail is looked at this often: other nodes of the region append there too.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Http {
    pub(super) async fn tell(
        &self,
        caller: &Caller,
        question: &Question,
        (site, head): (&Site, &Parts),
        record: &mut Record,
    ) -> Result<Response<Payload>, Failure> {
        match question {
            Question::Resolve { repository, wanted } => {
                let subject = if matches!(wanted, Told::Blob(_)) { Subject::Blob } else { Subject::Manifest };
                let telling = async { Ok(self.registry_ref().tell_found(caller, repository, wanted).await) };
                let found = within(site.deadline, telling).await?.map_err(|error| Failure::from_cache(error, subject))?;
                Ok(respond::json(serde_json::json!(found).to_string().into()))
            }
            Question::Content(digest) => within(site.deadline, self.tell_content(caller, digest, head, record)).await,
            Question::Audit(query) => within(site.deadline, search::looked_here(self.audit(), caller, query, site.deadline)).await,
            Question::Logs(query) => within(site.deadline, search::looked_here(self.archive(), caller, query, site.deadline)).await,
            Question::Status => {
                let telling = async { Ok(self.registry_ref().tell_status(caller).await) };
                let status = within(site.deadline, telling).await?.map_err(unavailable)?;
                Ok(respond::json(serde_json::json!(status).to_string().into()))
            }
            Question::Segments { origin, after, wait } => {
                let next = self.next_segments(caller, (origin, *after), *wait, site.deadline).await?;
                segments(origin, next)
            }
            Question::Snapshots(origin) => {
                let telling = async { Ok(self.registry_ref().tell_snapshots(caller, origin).await) };
                let names: Vec<String> =
                    within(site.deadline, telling).await?.map_err(unavailable)?.iter().map(Through::to_string).collect();
                Ok(respond::json(serde_json::json!(names).to_string().into()))
            }
            Question::SnapshotPart { origin, through, part } => {
                let telling = async { Ok(self.registry_ref().tell_snapshot_part(caller, origin, (*through, *part)).await) };
                Ok(binary(within(site.deadline, telling).await?.map_err(unavailable)?))
            }
        }
    }

    /// What follows a segment: at once if there is something, else when there is, at most `wait` later.
    async fn next_segments(
        &self,
        caller: &Caller,
        (origin, after): (&Origin, u64),
        wait: Duration,
        deadline: Duration,
    ) -> Result<Next, Failure> {
        let until = Instant::now() + wait;
        let mut look = Look::Now;
        let mut held_back = None;
        loop {
            // Begun before the look: what is folded behind it ends the wait.
            let folded = self.registry_ref().folded().map_err(unavailable)?;
            let telling = async { Ok(self.registry_ref().tell_segments(caller, origin, after, look).await) };
            let next = within(deadline, telling).await?.map_err(unavailable)?;
            let is_final = next.segments != Segments::None || Instant::now() >= until;
            if is_final {
                return Ok(next);
            }
            if held_back.is_none() {
                held_back = Some(self.held_back().try_acquire().map_err(|_| Failure::too_many_waiting())?);
            }
            look = Look::Recent;
            tokio::select! {
                () = folded => {}
                () = sleep_until(until.min(Instant::now() + LOOK_AGAIN_AFTER)) => {}
                () = self.drained() => return Ok(next),
            }
        }
    }

    async fn tell_content(
        &self,
        caller: &Caller,
        digest: &Digest,
        head: &Parts,
        record: &mut Record,
    ) -> Result<Response<Payload>, Failure> {
        let answer = self.registry_ref().tell_content(caller, digest).await;
        let answer = answer.map_err(|error| Failure::from_cache(error, Subject::Blob))?;
        record.found(&answer);
        respond::blob(answer, digest, &head.headers)
    }
}

/// The answer about a ledger.
fn segments(origin: &Origin, next: Next) -> Result<Response<Payload>, Failure> {
    let mut response = match next.segments {
        Segments::Some(found) => binary(frame(&found)),
        Segments::None => {
            let mut response = Response::new(Payload::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Segments::Trimmed => return Err(Failure::trimmed()),
        Segments::Unknown => return Err(Failure::absent(Subject::Repository)),
    };
    let tail = Position { origin: origin.clone(), seq: next.tail };
    if let Ok(position) = HeaderValue::try_from(tail.to_string()) {
        response.headers_mut().insert(OUTPORT_POSITION, position);
    }
    Ok(response)
}

fn binary(bytes: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload::Bytes(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn unavailable(error: CacheError) -> Failure {
    Failure::from_cache(error, Subject::Repository)
}
