//! Answers to edges of other regions.

use http::Response;
use http::request::Parts;

use super::admit::Site;
use super::body::Payload;
use super::error::{Failure, Subject};
use super::log::Record;
use super::respond;
use super::route::Question;
use super::service::{Http, within};
use crate::oci::Digest;
use crate::peers::Caller;
use crate::registry::Told;

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
            Question::Status | Question::Segments { .. } => Err(Failure::unavailable("not yet", None)),
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
