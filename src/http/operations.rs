//! What operators see besides the regions: `GET /outport/v1/webhooks`, `POST /outport/v1/webhooks/{name}/ping`,
//! `GET /outport/v1/offload`, and the images that are kept here at `GET /outport/v1/prefetch`.

use http::request::Parts;
use http::{HeaderValue, Response, header};
use serde_json::json;

use super::admit::{Site, host};
use super::body::Payload;
use super::error::Failure;
use super::log::Record;
use super::respond;
use super::upload::position;
use crate::access::{Access, Permit};
use crate::oci::RepositoryName;
use crate::offload::Offload;
use crate::registry::Watched;
use crate::webhooks::{Request, Webhooks};

/// What goes on beside requests.
#[derive(Clone, Debug)]
pub struct Operations {
    pub webhooks: Webhooks,
    pub watched: Watched,
    pub offload: Offload,
}

impl Operations {
    /// Brings the gauges up to date, before they are read.
    pub(super) fn report(&self) {
        self.webhooks.report();
        self.watched.report();
    }

    /// A change that was committed, with the request that made it: webhooks tell of both.
    pub(super) fn note(&self, reply: &Result<Response<Payload>, Failure>, access: &Access, (head, record): (&Parts, &Record)) {
        let Ok(response) = reply else { return };
        let Some(position) = position(response).filter(|_| response.status().is_success()) else { return };
        let request = || Request {
            id: record.request_id().to_owned(),
            host: host(head).ok().flatten().unwrap_or_default(),
            method: head.method.to_string(),
            useragent: record.agent().unwrap_or_default().to_owned(),
        };
        self.webhooks.note(&position, access.repository(), request);
    }
}

pub(super) fn webhooks(operations: &Operations, permit: Permit) -> Response<Payload> {
    private(json!({ "webhooks": operations.webhooks.shown(permit) }).to_string())
}

pub(super) async fn ping(operations: &Operations, permit: Permit, name: &str) -> Result<Response<Payload>, Failure> {
    let delivery = operations.webhooks.ping(permit, name).await;
    let delivery = delivery.ok_or_else(Failure::no_webhook)?;
    Ok(private(json!(delivery).to_string()))
}

pub(super) fn offload(operations: &Operations, site: &Site) -> Response<Payload> {
    private(json!(operations.offload.report(site.names.upstreams())).to_string())
}

pub(super) fn watched(operations: &Operations, readable: impl Fn(&RepositoryName) -> bool) -> Response<Payload> {
    private(json!({ "images": operations.watched.shown(readable) }).to_string())
}

/// Nobody on the way keeps it.
fn private(body: String) -> Response<Payload> {
    let mut response = respond::json(body.into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
