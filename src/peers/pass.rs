//! One request that is passed on to another edge, and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use url::{Position, Url};

use super::badge::Badge;
use super::headers::end_to_end;
use super::members::Standing;
use super::outflow::{Outflow, outflow};
use super::{Inner, PassError, Passed};
use crate::dial::{self, DialError};
use crate::inflow::Inflow;
use crate::trace;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Answers about uploads and pushes are heads, or errors of a few lines.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// From the head of an answer to its end.
const ANSWER_BODY_TIME: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) async fn pass(&self, owner: &Url, passed: Passed<'_>, inflow: &mut Inflow) -> Result<Response<Bytes>, PassError> {
        self.check(owner).await?;
        let uri = target(owner, passed).ok_or_else(|| gone(owner, "it has no address that can be dialled"))?;
        let mut headers = forwarded(passed);
        // The name that the client came by chooses a repository; HTTP/2 has it in the URI.
        if let Some(host) = passed.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
            headers.insert(header::HOST, host);
        }
        self.badge.put_on_request(&mut headers);
        exchange(&self.client, &self.badge, (passed, uri, headers), inflow).await.map_err(|failure| match failure {
            Failed::Stranger => gone(owner, "who answers there is no sibling"),
            Failed::Dial(error) => failed(owner, error),
            Failed::Pass(error) => error,
        })
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
}

/// Where a request goes at another edge.
pub(super) fn target(edge: &Url, passed: Passed<'_>) -> Option<Uri> {
    let path = passed.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = &edge[Position::BeforeHost..Position::AfterPort];
    Uri::builder().scheme(edge.scheme()).authority(authority).path_and_query(path).build().ok()
}

/// The headers that go on, without those of the body, which is framed anew. Whether it is wanted was asked and answered by reading it.
pub(super) fn forwarded(passed: Passed<'_>) -> HeaderMap {
    let mut headers = end_to_end(passed.headers);
    for name in [header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    if let Ok(id) = HeaderValue::from_str(passed.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers
}

/// Why there is no answer.
pub(super) enum Failed {
    /// Somebody answered, without the mark that an edge puts there.
    Stranger,
    Dial(DialError),
    Pass(PassError),
}

/// Sends a request whose body streams as fast as it is taken, and returns the answer, if it bears the badge. Nothing of the body is
/// read before there is a connection.
pub(super) async fn exchange(
    client: &dial::Client<Outflow>,
    badge: &Badge,
    (passed, uri, mut headers): (Passed<'_>, Uri, HeaderMap),
    inflow: &mut Inflow,
) -> Result<Response<Bytes>, Failed> {
    let (body, feed) = outflow(inflow);
    if let Some(size_bytes) = body.size_hint().exact() {
        headers.insert(header::CONTENT_LENGTH, size_bytes.into());
    }
    let mut request = Request::new(body);
    *request.method_mut() = passed.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    // The feed lives until the answer is whole: dropping it cuts the body, and with it the connection.
    let feeding = feed.run();
    // In place of what the client said: this request is not the client's own.
    let host = request.uri().host().unwrap_or_default().to_owned();
    let call = trace::call(&mut request, ("outport.edge", &host));
    let answering = client.send(request);
    tokio::pin!(feeding, answering);
    let answer = tokio::select! {
        biased;
        answer = &mut answering => answer,
        fed = &mut feeding => {
            fed.map_err(Failed::Pass)?;
            answering.await
        }
    };
    call.ended(answer.as_ref().map(Response::status).map_err(DialError::label));
    let answer = answer.map_err(Failed::Dial)?;
    if !badge.is_on_answer(answer.headers()) {
        return Err(Failed::Stranger);
    }
    whole(answer, badge).await.map_err(Failed::Pass)
}

/// The whole of an answer, as the client gets it.
async fn whole<B>(answer: Response<B>, badge: &Badge) -> Result<Response<Bytes>, PassError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = answer.into_parts();
    let whole = timeout(ANSWER_BODY_TIME, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
    let whole = whole.map_err(|_| PassError::Broken(format!("its answer took more than {ANSWER_BODY_TIME:?}")))?;
    let whole = whole.map_err(|error| PassError::Broken(format!("its answer broke: {error}")))?;
    head.headers = end_to_end(&head.headers);
    badge.take_off(&mut head.headers);
    Ok(Response::from_parts(head, whole.to_bytes()))
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
