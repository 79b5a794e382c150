//! Bodies of requests: taken in whole where a command needs them, and out of the way where nothing does, so that the connection can go
//! on.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::admit::Site;
use super::command::MAX_COMMAND_BYTES;
use super::error::Failure;
use crate::inflow::Inflow;

/// A body that no read needs is taken in, so that its connection can go on, up to this many bytes and this time.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// Of a request that has to come again with credentials: Azure's clients send 4 MiB of a blob before they have any.
const UNASKED_BYTES: usize = 8 * 1024 * 1024;
const UNASKED_TIME: Duration = Duration::from_secs(10);

/// Whether a connection can carry another request after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Keep,
    /// Bytes of this request's body are still to come: nothing behind them may be read as a request.
    Close,
}

/// The body of a command, which says that it is JSON, and whether the connection goes on after it.
pub(super) async fn json_body<B>(site: &Site, head: &Parts, body: B) -> (Result<Bytes, Failure>, Reuse)
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_json = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b';').next() == Some(b"application/json");
    if !head.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        // No page of another origin can send this type without asking first.
        return (Err(Failure::not_json()), drain(head, body).await);
    }
    match tokio::time::timeout(site.deadline, command_body(body)).await {
        Ok(Ok(bytes)) => (Ok(bytes), Reuse::Keep),
        Ok(Err(failure)) => (Err(failure), Reuse::Close),
        Err(_) => (Err(Failure::bad_command("the body did not come")), Reuse::Close),
    }
}

async fn command_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    bounded_body(body, MAX_COMMAND_BYTES).await
}

/// A whole body that is small.
pub(super) async fn bounded_body<B>(body: B, most_bytes: usize) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, most_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::body_too_large()),
        Err(_) => Err(Failure::bad_command("the body did not come whole")),
    }
}

/// Takes in a small body that nobody reads. One that is larger, slow, or only offered (`Expect: 100-continue`) is left alone.
pub(super) async fn drain<B>(head: &Parts, body: B) -> Reuse
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    drain_within(head, body, (DRAIN_BYTES, DRAIN_TIME)).await
}

/// The same of a request that is only told to sign in: clients that sent a part of a blob along lose the challenge if the connection is
/// closed under them.
pub(super) async fn drain_unasked<B>(head: &Parts, body: B) -> Reuse
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    drain_within(head, body, (UNASKED_BYTES, UNASKED_TIME)).await
}

async fn drain_within<B>(head: &Parts, body: B, (most_bytes, most_time): (usize, Duration)) -> Reuse
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.is_end_stream() {
        return Reuse::Keep;
    }
    if head.headers.contains_key(header::EXPECT) || body.size_hint().lower() > most_bytes as u64 {
        return Reuse::Close;
    }
    let mut body = std::pin::pin!(Limited::new(body, most_bytes));
    let emptied = async {
        loop {
            match body.frame().await {
                None => return Reuse::Keep,
                Some(Ok(_)) => {}
                Some(Err(_)) => return Reuse::Close,
            }
        }
    };
    tokio::time::timeout(most_time, emptied).await.unwrap_or(Reuse::Close)
}

/// Takes in what a use case left of its body, under the same conditions as [`drain`].
pub(super) async fn drain_rest(head: &Parts, mut inflow: Inflow) -> Reuse {
    if inflow.is_drained() {
        return Reuse::Keep;
    }
    let rest_bytes = inflow.declared_bytes().unwrap_or_default().saturating_sub(inflow.received_bytes());
    let only_offered = head.headers.contains_key(header::EXPECT) && inflow.received_bytes() == 0;
    if only_offered || rest_bytes > DRAIN_BYTES as u64 {
        return Reuse::Close;
    }
    let most_bytes = inflow.received_bytes().saturating_add(DRAIN_BYTES as u64);
    inflow = inflow.limited(most_bytes);
    let emptied = async {
        while let Ok(Some(_)) = inflow.next().await {}
        if inflow.is_drained() { Reuse::Keep } else { Reuse::Close }
    };
    tokio::time::timeout(DRAIN_TIME, emptied).await.unwrap_or(Reuse::Close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_is_small() {
        let body = |size| http_body_util::Full::new(Bytes::from(vec![b' '; size]));
        assert_eq!(command_body(body(MAX_COMMAND_BYTES)).await.unwrap().len(), MAX_COMMAND_BYTES);
        assert_eq!(command_body(body(MAX_COMMAND_BYTES + 1)).await.unwrap_err().status, http::StatusCode::PAYLOAD_TOO_LARGE);
    }
}
