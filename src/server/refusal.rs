//! Answers that this room gives by itself: requests whose framing is not to be trusted. An HTTP/1
//! connection is closed after each.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

/// Why a request is refused before any use case sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The framing is wrong or could be read in two ways (RFC 9112 sections 2.2, 5, 6 and 11.2): 400.
    Malformed,
    /// The request's target is longer than [`super::head::MAX_TARGET_BYTES`]: 414.
    TargetTooLong,
    /// The head is larger than [`super::head::MAX_HEAD_BYTES`] or has too many fields: 431.
    HeadTooLarge,
    /// Something that would turn the connection into a tunnel (RFC 9110 sections 7.8 and 9.3.6): 405.
    Tunnel,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Malformed => StatusCode::BAD_REQUEST,
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The distribution specification's error body; no part of the request is repeated in it.
    fn body(self) -> &'static str {
        match self {
            Refusal::Malformed => r#"{"errors":[{"code":"UNSUPPORTED","message":"the request is malformed"}]}"#,
            Refusal::TargetTooLong => r#"{"errors":[{"code":"UNSUPPORTED","message":"the request's target is too long"}]}"#,
            Refusal::HeadTooLarge => r#"{"errors":[{"code":"UNSUPPORTED","message":"the request's header is too large"}]}"#,
            Refusal::Tunnel => r#"{"errors":[{"code":"UNSUPPORTED","message":"this server opens no tunnels"}]}"#,
        }
    }

    /// The answer. On HTTP/1 the doorway adds `Connection: close`, on which hyper closes.
    pub fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(self.body().as_bytes()));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Refusal::Tunnel {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_the_specifications_json() {
        for refusal in [Refusal::Malformed, Refusal::TargetTooLong, Refusal::HeadTooLarge, Refusal::Tunnel] {
            let response = refusal.response();
            assert!(response.status().is_client_error());
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["errors"][0]["code"], "UNSUPPORTED", "{refusal:?}");
            assert!(body["errors"][0]["message"].is_string(), "{refusal:?}");
        }
    }
}
