//! The console: a few files that a browser reads, part of the program. What it shows it asks of this edge's interfaces, as whoever signs
//! in there; the files themselves tell nothing.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::body::Payload;
use super::conditional::is_unmodified;
use super::respond;
use crate::oci::Digest;

/// Where the files are, beside the page itself.
const PREFIX: &str = "/console/";
/// A script or a style that is not one of these files is not run, wherever it came from.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'");

/// One of the console's files.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal) => {
        File { name: $name, bytes: include_bytes!(concat!("console/", $name)) }
    };
}

pub const INDEX: File = file!("index.html");
const FILES: &[File] = &[
    INDEX,
    file!("api.js"),
    file!("audit.js"),
    file!("charts.js"),
    file!("favicon.svg"),
    file!("live.js"),
    file!("log.js"),
    file!("main.js"),
    file!("metrics.js"),
    file!("noisy.js"),
    file!("origins.js"),
    file!("overview.js"),
    file!("page.js"),
    file!("pages.js"),
    file!("regions.js"),
    file!("repositories.js"),
    file!("search.js"),
    file!("style.css"),
    file!("system.js"),
    file!("uPlot.LICENSE.txt"),
    file!("uPlot.iife.min.js"),
    file!("uPlot.min.css"),
    file!("verdict.js"),
];

/// The file that a path names.
pub fn find(path: &str) -> Option<&'static File> {
    let name = path.strip_prefix(PREFIX)?;
    FILES.iter().find(|file| file.name == name)
}

pub fn answer(file: &File, headers: &HeaderMap) -> Response<Payload> {
    let etag = respond::etag(&Digest::sha256(file.bytes));
    let is_known = is_unmodified(headers, &etag);
    let mut response = Response::new(if is_known { Payload::Empty } else { Payload::Bytes(file.bytes.into()) });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type()));
    }
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(etag).ok().map(|etag| (header::ETAG, etag)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    response
}

impl File {
    fn content_type(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_served_with_a_type() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/console");
        let there: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let served: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(there, served);
        for file in FILES {
            assert_eq!(find(&format!("{PREFIX}{}", file.name)), Some(file));
        }
        assert_eq!((find("/console/"), find("/console/none.js"), find("/index.html")), (None, None, None));
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = answer(&INDEX, &HeaderMap::new());
        assert_eq!(
            (first.status(), &first.headers()[header::CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static("text/html; charset=utf-8"))
        );
        assert_eq!(first.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let asked = [(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone())].into_iter().collect();
        let again = answer(&INDEX, &asked);
        assert_eq!((again.status(), again.body().size_bytes()), (StatusCode::NOT_MODIFIED, Some(0)));
    }
}
