//! What all addresses of one upstream share: the connections and their number, the retry budget, what is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::error::{Failure, UpstreamError};
use super::headers::RateLimit;
use super::sending::Sending;
use crate::clock::Clock;
use crate::dial::{self, DialError};
use crate::metrics::Metrics;
use crate::trace;

/// A body of no interest is read this far and this long, so that its connection can be used again.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_millis(250);

pub(super) struct Wire {
    pub(super) name: Arc<str>,
    pub(super) client: dial::Client<Sending>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) budget: Budget,
    /// One permit for each request of a caller, until the end of its body.
    pub(super) permits: Arc<Semaphore>,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) rate_limit: Mutex<Option<RateLimit>>,
}

impl Wire {
    /// Leave to make one more request beside those under way.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        match timeout(self.read_timeout, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::unavailable("too many requests to it are under way")),
        }
    }

    /// One request, one head.
    pub(super) async fn send(&self, request: Request<Sending>) -> Result<Response<Incoming>, Failure> {
        self.send_patiently(request, self.read_timeout).await
    }

    /// The same, with another time for the head to come once the body was taken.
    pub(super) async fn send_patiently(&self, mut request: Request<Sending>, patience: Duration) -> Result<Response<Incoming>, Failure> {
        let (start, fate) = (Instant::now(), request.body().fate());
        let call = trace::call(&mut request, ("outport.upstream", &self.name));
        let result = self.client.send_until(request, fate.untouched_for(patience)).await;
        if let (Err(_), Some(why)) = (&result, fate.failed()) {
            // That the rest was not sent is not the upstream's fault.
            return Err(Failure::answer(UpstreamError::Broken(why)));
        }
        let outcome = match &result {
            Ok(response) => class(response.status()),
            Err(error) => error.label(),
        };
        self.metrics.upstream_request(&self.name, outcome, start.elapsed());
        call.ended(result.as_ref().map(Response::status).map_err(DialError::label));
        Ok(result?)
    }

    pub(super) fn note_rate_limit(&self, told: RateLimit) {
        self.metrics.upstream_rate_limit_remaining(&self.name, i64::try_from(told.remaining).unwrap_or(i64::MAX));
        *self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        // Too many requests: the one answer of this class that says something of the upstream's state.
        429 => "429",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

/// The body of an answer. Each wait for more of it is bounded by the upstream's `read_timeout`.
pub(super) struct Body {
    pub(super) incoming: Incoming,
    pub(super) wire: Arc<Wire>,
}

impl Body {
    /// The next bytes, never empty; `None` at a clean end.
    ///
    /// # Errors
    /// [`UpstreamError::Broken`]
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let frame = match timeout(self.wire.read_timeout, self.incoming.frame()).await {
                Err(_) => return Err(UpstreamError::Broken(format!("no bytes came for {:?}", self.wire.read_timeout))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(UpstreamError::Broken(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            // What is no data is a trailer, and says nothing that is wanted.
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                self.wire.metrics.upstream_bytes(&self.wire.name, bytes.len() as u64);
                return Ok(Some(bytes));
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// [`UpstreamError::WrongAnswer`] when there is more than `limit_bytes`; [`UpstreamError::Unavailable`] when it breaks.
    pub(super) async fn whole(mut self, limit_bytes: usize) -> Result<Bytes, UpstreamError> {
        let too_large = || UpstreamError::wrong(format!("a body of more than {limit_bytes} bytes"));
        if self.incoming.size_hint().lower() > limit_bytes as u64 {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        loop {
            match self.next().await {
                Ok(Some(bytes)) if whole.len() + bytes.len() > limit_bytes => return Err(too_large()),
                Ok(Some(bytes)) => whole.extend_from_slice(&bytes),
                Ok(None) => return Ok(whole.freeze()),
                Err(UpstreamError::Broken(why)) => return Err(UpstreamError::unavailable(why)),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads what is left of an answer, if it is little and comes at once: a connection with a body unread cannot be used again.
pub(super) async fn discard(mut incoming: Incoming) {
    let mut left = MAX_DISCARDED_BYTES;
    let read_to_end = async {
        while let Some(Ok(frame)) = incoming.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Too slow: the connection is closed instead.
    let _ = timeout(DISCARD_TIME, read_to_end).await;
}
