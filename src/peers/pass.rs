//! One request to the owner of an upload, and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use url::{Position, Url};

use super::badge::OUTPORT_SIBLING;
use super::headers::end_to_end;
use super::members::Standing;
use super::outflow::{Outflow, outflow};
use super::{Inner, PassError, Passed};
use crate::dial::DialError;
use crate::inflow::Inflow;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Answers about uploads are heads, or errors of a few lines.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// From the head of an answer to its end.
const ANSWER_BODY_TIME: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) async fn pass(&self, owner: &Url, passed: Passed<'_>, inflow: &mut Inflow) -> Result<Response<Bytes>, PassError> {
        self.check(owner).await?;
        let (body, feed) = outflow(inflow);
        let request = self.request(owner, passed, body)?;
        // The feed lives until the answer is whole: dropping it cuts the body, and with it the connection.
        let feeding = feed.run();
        let answering = self.client.send(request);
        tokio::pin!(feeding, answering);
        let answer = tokio::select! {
            biased;
            answer = &mut answering => answer,
            fed = &mut feeding => {
                fed?;
                answering.await
            }
        };
        let (head, body) = answer.map_err(|error| failed(owner, error))?.into_parts();
        self.finish(owner, head, body).await
    }

    /// Whether there may be a sibling, other than this edge.
    async fn check(&self, owner: &Url) -> Result<(), PassError> {
        if *owner == self.own {
            return Err(gone(owner, "that is this edge"));
        }
        match self.members.judge(owner.host_str().unwrap_or_default()).await {
            Ok(Standing::Member) => Ok(()),
            Ok(Standing::Stranger) => Err(gone(owner, "DNS does not list it")),
            Err(why) => Err(PassError::Broken(why)),
        }
    }

    fn request(&self, owner: &Url, passed: Passed<'_>, body: Outflow) -> Result<Request<Outflow>, PassError> {
        let path = passed.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = &owner[Position::BeforeHost..Position::AfterPort];
        let uri = Uri::builder().scheme(owner.scheme()).authority(authority).path_and_query(path).build();
        let uri = uri.map_err(|_| gone(owner, "it has no address that can be dialled"))?;
        let headers = self.headers(passed, body.size_hint().exact());
        let mut request = Request::new(body);
        *request.method_mut() = passed.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn headers(&self, passed: Passed<'_>, size_bytes: Option<u64>) -> HeaderMap {
        let mut headers = end_to_end(passed.headers);
        // The body is framed anew. Whether it is wanted was asked and answered by reading it.
        for name in [header::CONTENT_LENGTH, header::EXPECT] {
            headers.remove(name);
        }
        if let Some(size_bytes) = size_bytes {
            headers.insert(header::CONTENT_LENGTH, size_bytes.into());
        }
        // The name that the client came by chooses a repository; HTTP/2 has it in the URI.
        if let Some(Ok(host)) = passed.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str())) {
            headers.insert(header::HOST, host);
        }
        if let Ok(id) = HeaderValue::from_str(passed.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        self.badge.put_on_request(&mut headers);
        headers
    }

    async fn finish<B>(&self, owner: &Url, mut head: Parts, body: B) -> Result<Response<Bytes>, PassError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !self.badge.is_on_answer(&head.headers) {
            return Err(gone(owner, "who answers there is no sibling"));
        }
        let whole = timeout(ANSWER_BODY_TIME, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
        let whole = whole.map_err(|_| PassError::Broken(format!("its answer took more than {ANSWER_BODY_TIME:?}")))?;
        let whole = whole.map_err(|error| PassError::Broken(format!("its answer broke: {error}")))?;
        head.headers = end_to_end(&head.headers);
        head.headers.remove(OUTPORT_SIBLING);
        Ok(Response::from_parts(head, whole.to_bytes()))
    }
}

/// A failed attempt to connect says that nobody is there, unless the failure is this edge's own.
fn failed(owner: &Url, error: DialError) -> PassError {
    let is_no_sibling = matches!(error, DialError::Refused { .. } | DialError::Target { .. });
    if is_no_sibling || error.nobody_is_there() { gone(owner, &error.to_string()) } else { PassError::Broken(error.to_string()) }
}

fn gone(owner: &Url, why: &str) -> PassError {
    tracing::info!(owner = owner.as_str(), why, "an upload is lost with the edge that began it");
    PassError::Gone
}
