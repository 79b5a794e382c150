//! Azure Container Registry's own interface, `/acr/v1`: attributes of repositories, tags and manifests, in lists and one by one, and
//! locks. What its client libraries send and expect (api-version 2021-07-01), for hosted repositories and for what this edge holds of
//! upstreams'.
//!
//! | request | needs | answers |
//! |---|---|---|
//! | `GET _catalog?n&last` | a look at the catalogue | names |
//! | `GET NAME` | reading attributes | times, counts, attributes |
//! | `PATCH NAME` | changing attributes | the same |
//! | `DELETE NAME` | deleting | 202, what was deleted |
//! | `GET NAME/_tags?n&last&orderby&digest` | reading attributes | tags with times and attributes |
//! | `GET`, `PATCH`, `DELETE NAME/_tags/TAG` | as above | the tag; 202 |
//! | `GET NAME/_manifests?n&last&orderby` | reading attributes | manifests with sizes, platforms, tags |
//! | `GET`, `PATCH NAME/_manifests/DIGEST` | as above | the manifest |
//!
//! `PATCH` takes `{"readEnabled","writeEnabled","deleteEnabled","listEnabled"}`; what is left out stays.

mod respond;
mod route;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use serde::Deserialize;

pub use route::{Acr, route};

use super::admit::Site;
use super::body::Payload;
use super::error::{Failure, Subject};
use super::log::Record;
use super::service::{Http, within};
use super::upload;
use crate::access::{Access, Action};
use crate::inflow::{Inflow, InflowError};
use crate::ledger::Position;
use crate::oci::{Reference, RepositoryName};
use crate::registry::push::Pusher;
use crate::registry::{Changed, Changes};

/// The largest body of a change.
const MAX_CHANGE_BYTES: u64 = 16 * 1024;

/// A request that its caller may make.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub access: Access,
    /// As the client addressed it.
    pub name: RepositoryName,
    pub ns: Option<String>,
    /// The host that the client asked: answers repeat it.
    pub registry: String,
    pub wanted: Acr,
}

/// What a change says, in Azure's words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    read_enabled: Option<bool>,
    write_enabled: Option<bool>,
    delete_enabled: Option<bool>,
    list_enabled: Option<bool>,
}

impl Acr {
    /// What one must be allowed to do.
    pub fn action(&self) -> Action {
        match self {
            Acr::Repository | Acr::Tags { .. } | Acr::Tag(_) | Acr::Manifests(_) | Acr::Manifest(_) => Action::MetadataRead,
            Acr::ChangeRepository | Acr::ChangeTag(_) | Acr::ChangeManifest(_) => Action::MetadataWrite,
            Acr::DeleteRepository | Acr::DeleteTag(_) => Action::Delete,
        }
    }

    /// What is absent when this is.
    pub fn subject(&self) -> Subject {
        match self {
            Acr::Tag(_) | Acr::ChangeTag(_) | Acr::DeleteTag(_) | Acr::Manifest(_) | Acr::ChangeManifest(_) => Subject::Manifest,
            Acr::Repository | Acr::ChangeRepository | Acr::DeleteRepository | Acr::Tags { .. } | Acr::Manifests(_) => Subject::Repository,
        }
    }

    /// The tag or digest, for the log.
    pub fn reference(&self) -> Option<String> {
        match self {
            Acr::Tag(tag) | Acr::ChangeTag(tag) | Acr::DeleteTag(tag) => Some(tag.to_string()),
            Acr::Manifest(digest) | Acr::ChangeManifest(digest) => Some(digest.to_string()),
            Acr::Repository | Acr::ChangeRepository | Acr::DeleteRepository | Acr::Tags { .. } | Acr::Manifests(_) => None,
        }
    }
}

impl Http {
    pub(super) async fn acr(
        &self,
        call: &Call,
        (site, head): (&Site, &Parts),
        inflow: &mut Inflow,
        record: &Record,
    ) -> Result<Response<Payload>, Failure> {
        if call.wanted.action() == Action::MetadataRead {
            return within(site.deadline, self.attributes(call)).await;
        }
        let changing = async {
            // What orders the names of a repository orders their locks.
            match self.registry_ref().home_abroad(call.access.repository()) {
                Some(home) => self.pass_home(&home, (site, head), inflow, record).await,
                None => self.change(call, &head.headers, inflow, record).await,
            }
        };
        within(self.request_timeout(), changing).await
    }

    async fn attributes(&self, call: &Call) -> Result<Response<Payload>, Failure> {
        let (registry, access) = (self.registry_ref(), &call.access);
        let refused = |error| Failure::from_cache(error, call.wanted.subject());
        Ok(match &call.wanted {
            Acr::Tags { part, digest } => {
                let listed = registry.tag_list(access, part, digest.as_ref()).await.map_err(refused)?;
                respond::tags(call, &listed, (part, digest.as_ref()))
            }
            Acr::Manifests(part) => {
                let listed = registry.manifest_list(access, part).await.map_err(refused)?;
                respond::manifests(call, &listed, part)
            }
            Acr::Tag(tag) => respond::tag(call, &registry.tag_properties(access, tag).await.map_err(refused)?),
            Acr::Manifest(digest) => respond::manifest(call, &registry.manifest_properties(access, digest).await.map_err(refused)?),
            _ => respond::repository(call, &registry.repository_properties(access).await.map_err(refused)?),
        })
    }

    async fn change(&self, call: &Call, headers: &HeaderMap, inflow: &mut Inflow, record: &Record) -> Result<Response<Payload>, Failure> {
        let (registry, access) = (self.registry_ref(), &call.access);
        Ok(match &call.wanted {
            Acr::DeleteRepository => respond::removed(&registry.delete_repository(access).await?),
            Acr::DeleteTag(tag) => {
                let pusher = Pusher { access, principal: &record.caller().principal };
                upload::deleted(&registry.delete_manifest(pusher, &Reference::Tag(tag.clone())).await?.to_string())
            }
            Acr::ChangeTag(tag) => {
                let Changed { properties, position } = registry.change_tag(access, tag, changes(headers, inflow).await?).await?;
                at(respond::tag(call, &properties), position)
            }
            Acr::ChangeManifest(digest) => {
                let Changed { properties, position } = registry.change_manifest(access, digest, changes(headers, inflow).await?).await?;
                at(respond::manifest(call, &properties), position)
            }
            _ => {
                let Changed { properties, position } = registry.change_repository(access, changes(headers, inflow).await?).await?;
                at(respond::repository(call, &properties), position)
            }
        })
    }
}

/// With the position where it stands.
fn at(mut response: Response<Payload>, position: Option<Position>) -> Response<Payload> {
    if let Some(position) = position {
        upload::insert_position(response.headers_mut(), &position.to_string());
    }
    response
}

/// Reads the body of a change.
async fn changes(headers: &HeaderMap, inflow: &mut Inflow) -> Result<Changes, Failure> {
    let is_json = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b';').next() == Some(b"application/json");
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        // No page of another origin can send this type without asking first.
        return Err(Failure::not_json());
    }
    let body = std::mem::replace(inflow, Inflow::whole(Bytes::new()));
    match body.limited(MAX_CHANGE_BYTES).collect().await {
        Ok(bytes) => parse(&bytes),
        Err(InflowError::TooLong { .. }) => Err(Failure::body_too_large()),
        Err(error) => Err(error.into()),
    }
}

fn parse(bytes: &Bytes) -> Result<Changes, Failure> {
    let fields: Fields = serde_json::from_slice(bytes).map_err(|error| Failure::bad_command(error.to_string()))?;
    let Fields { read_enabled: read, write_enabled: write, delete_enabled: delete, list_enabled: list } = fields;
    Ok(Changes { read, write, delete, list })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_74_a_change_says_nothing_else() {
        let read = |body: &'static str| parse(&Bytes::from_static(body.as_bytes())).map_err(|failure| failure.status.as_u16());
        assert_eq!(
            read(r#"{"writeEnabled":false,"listEnabled":true,"readEnabled":null}"#),
            Ok(Changes { write: Some(false), list: Some(true), ..Changes::default() })
        );
        assert_eq!(read("{}"), Ok(Changes::default()));
        for body in ["", "[]", "1", r#"{"writeEnabled":"no"}"#, r#"{"writeEnabled":false,"owner":"me"}"#, r#"{"write":false}"#, "{} x"] {
            assert_eq!(read(body), Err(400), "{body}");
        }
    }
}
