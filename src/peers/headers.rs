//! Which headers go with a message beyond one connection (RFC 9110, 7.6.1): pure.

use http::header::{self, HeaderMap, HeaderName};

/// Those of one connection, besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Without what belongs to the connection that it came on.
pub(super) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let kept = headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name) && !named.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let lines = [
            ("connection", "close, X-Mine"),
            ("connection", "keep-alive,, ,\u{7f}"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-authenticate", "Basic"),
            ("te", "trailers"),
            ("trailer", "X-Sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("authorization", "Basic eDp5"),
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("content-range", "0-4"),
        ];
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes());
        let lines = lines.iter().filter_map(|(name, text)| Some((HeaderName::from_static(name), value(text).ok()?)));
        let kept = end_to_end(&lines.collect());
        let mut kept: Vec<_> = kept.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["accept: a/b", "accept: c/d", "authorization: Basic eDp5", "content-range: 0-4"]);
    }
}
