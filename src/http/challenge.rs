//! What a 401 says of how to come in (RFC 9110, section 11.6.1; RFC 6750, section 3): always our own realm and service, at the name by
//! which the client reached us.

use http::header::HeaderValue;
use http::request::Parts;

use super::admit::{Site, host};
use super::connection::Connection;
use super::route::{Action, Push, TOKEN_PATH, route};
use crate::access::{CATALOG, REGISTRY};
use crate::registry::Addressing;

/// Below it lies what gives tokens.
const TOKEN_SERVICE: &str = "/oauth2/";
/// Below it lies what belongs to no repository.
const OPERATORS: &str = "/outport/v1/";

/// Why a request is challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It showed nothing, or a password that is not accepted.
    Unknown,
    /// It showed a token that is not good, or not any more.
    InvalidToken,
    /// It showed a token that does not reach so far.
    InsufficientScope,
}

/// The value of `WWW-Authenticate`. `None` if there is no name for this edge: it has no public one, and the request names no host.
pub fn challenge(reason: Reason, site: &Site, (head, connection): (&Parts, &Connection)) -> Option<HeaderValue> {
    let asked = host(head).ok().flatten();
    let service = service(site, asked.as_deref())?;
    if head.uri.path().starts_with(TOKEN_SERVICE) {
        // Who cannot have a token is not sent for one.
        return HeaderValue::try_from(format!(r#"Basic realm="{service}""#)).ok();
    }
    let scheme = match &site.public_url {
        Some(url) => url.scheme(),
        None if connection.tls => "https",
        None => "http",
    };
    let scope = scope(site, head, (asked.as_deref(), &service)).map(|scope| format!(r#",scope="{scope}""#)).unwrap_or_default();
    let error = match reason {
        Reason::Unknown => "",
        Reason::InvalidToken => r#",error="invalid_token""#,
        Reason::InsufficientScope => r#",error="insufficient_scope""#,
    };
    HeaderValue::try_from(format!(r#"Bearer realm="{scheme}://{service}{TOKEN_PATH}",service="{service}"{scope}{error}"#)).ok()
}

/// The name of this edge for this client, with its port. A host name that stands for an upstream is one of ours, and repositories have
/// other names there: a client that came by it goes on by it.
fn service(site: &Site, asked: Option<&str>) -> Option<String> {
    let is_upstreams = |host: &&str| site.names.by_host(host).is_some();
    let public = site.public_url.as_ref().and_then(|url| {
        let name = url.host_str()?;
        Some(url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")))
    });
    asked.filter(is_upstreams).map(str::to_owned).or(public).or_else(|| asked.map(str::to_owned))
}

/// What a token needs for this request; `None` where it needs nothing, or where only the body tells.
fn scope(site: &Site, head: &Parts, (asked, service): (Option<&str>, &str)) -> Option<String> {
    let action = route(&head.method, head.uri.path().as_bytes(), head.uri.query().unwrap_or_default()).ok()?;
    let (name, ns, actions) = match &action {
        Action::Catalog(_) | Action::AcrCatalog(_) => return Some(CATALOG.to_owned()),
        Action::Command(_) | Action::Wait(_) => return None,
        Action::Read { name, ns, .. } => (name, ns.as_deref(), "pull"),
        Action::Write { name, ns, wanted: Push::DeleteManifest(_) | Push::DeleteBlob(_) } => (name, ns.as_deref(), "delete"),
        Action::Write { name, ns, .. } => (name, ns.as_deref(), "pull,push"),
        Action::Acr { name, ns, wanted } => (name, ns.as_deref(), wanted.action().as_str()),
        _ => return head.uri.path().starts_with(OPERATORS).then(|| REGISTRY.to_owned()),
    };
    let resolve = |name, ns, host| site.names.resolve(Addressing { name, ns, host }).ok().map(|target| target.repository);
    let repository = resolve(name, ns, asked)?;
    // The token endpoint knows the host that it is asked by, and no `ns`: there the name must mean the same.
    let is_same = |name| resolve(name, None, Some(service)).as_ref() == Some(&repository);
    let name = if is_same(name) { name } else { &repository };
    Some(format!("repository:{name}:{actions}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Policy;
    use crate::config::Config;
    use crate::identity::Identity;
    use crate::peers::Tokens;
    use crate::registry::Names;
    use http::Request;

    /// One upstream with a host name of its own.
    fn site(public_url: Option<&str>) -> Site {
        let text = "[[upstream]]\nname = \"docker.io\"\nurl = \"https://registry-1.docker.io\"\nhosts = [\"hub.example.com\"]";
        let config = Config::parse(text, std::path::Path::new("/"), &|_| None).unwrap();
        Site {
            names: Names::new(&config.upstreams),
            meanings: crate::http::Meanings::default(),
            heads: crate::http::Heads::default(),
            identity: Identity::new(&[]),
            policy: Policy::default(),
            tokens: Tokens::default(),
            vouching: crate::registry::Vouching::default(),
            public_url: public_url.map(|url| url.parse().unwrap()),
            deadline: std::time::Duration::from_secs(10),
            limits: config.limits.client,
            nearer: crate::http::Nearer::default(),
        }
    }

    fn challenged(site: &Site, (method, target, host): (&str, &str, &str), tls: bool, reason: Reason) -> String {
        let head = Request::builder().method(method).uri(target).header("host", host).body(()).unwrap().into_parts().0;
        let connection = Connection { tls, ..Connection::plain("10.0.0.1:1".parse().unwrap()) };
        challenge(reason, site, (&head, &connection)).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_realm_is_ours_as_the_client_knows_us() {
        for (public_url, host, tls, place) in [
            (None, "edge:5000", false, ("http", "edge:5000")),
            (None, "edge.example.com", true, ("https", "edge.example.com")),
            (Some("https://registry.example.com"), "10.0.0.7:8443", false, ("https", "registry.example.com")),
            (Some("https://registry.example.com:8443"), "edge", true, ("https", "registry.example.com:8443")),
            (Some("https://registry.example.com"), "hub.example.com", false, ("https", "hub.example.com")),
        ] {
            let told = challenged(&site(public_url), ("GET", "/v2/", host), tls, Reason::Unknown);
            assert_eq!(told, format!(r#"Bearer realm="{}://{1}/oauth2/token",service="{1}""#, place.0, place.1));
        }
    }

    #[test]
    fn the_scope_is_what_the_request_needs() {
        let digest = crate::oci::Digest::sha256(b"");
        for (method, target, host, scope) in [
            ("GET", "/v2/team/app/manifests/v1", "edge", "repository:team/app:pull"),
            ("HEAD", &format!("/v2/team/app/blobs/{digest}"), "edge", "repository:team/app:pull"),
            ("GET", "/v2/team/app/tags/list", "edge", "repository:team/app:pull"),
            ("POST", "/v2/team/app/blobs/uploads/", "edge", "repository:team/app:pull,push"),
            ("PUT", "/v2/team/app/manifests/v1", "edge", "repository:team/app:pull,push"),
            ("DELETE", "/v2/team/app/manifests/v1", "edge", "repository:team/app:delete"),
            ("GET", "/v2/_catalog", "edge", "registry:catalog:*"),
            ("GET", "/acr/v1/_catalog", "edge", "registry:catalog:*"),
            ("GET", "/acr/v1/team%2Fapp/_tags", "edge", "repository:team/app:metadata_read"),
            ("PATCH", "/acr/v1/team/app/_tags/v1", "edge", "repository:team/app:metadata_write"),
            ("DELETE", "/acr/v1/team/app", "edge", "repository:team/app:delete"),
            ("GET", "/outport/v1/forwards", "edge", "registry:outport:*"),
            // The same repository by its three ways in: each time by the name that it has where the token is asked for.
            ("GET", "/v2/docker.io/library/a/manifests/1", "edge", "repository:docker.io/library/a:pull"),
            ("GET", "/v2/library/a/manifests/1?ns=docker.io", "edge", "repository:docker.io/library/a:pull"),
            ("GET", "/v2/library/a/manifests/1", "hub.example.com", "repository:library/a:pull"),
            ("GET", "/v2/library/a/manifests/1?ns=docker.io", "hub.example.com", "repository:library/a:pull"),
        ] {
            let told = challenged(&site(None), (method, target, host), true, Reason::Unknown);
            assert!(told.ends_with(&format!(r#",scope="{scope}""#)), "{method} {target}: {told}");
        }
    }

    #[test]
    fn the_reason_is_told() {
        let told = |reason| challenged(&site(None), ("GET", "/v2/", "edge"), true, reason);
        assert!(told(Reason::InvalidToken).ends_with(r#",service="edge",error="invalid_token""#));
        assert!(told(Reason::InsufficientScope).ends_with(r#",service="edge",error="insufficient_scope""#));
    }

    #[test]
    fn who_asks_for_tokens_is_not_sent_for_tokens() {
        assert_eq!(challenged(&site(None), ("GET", "/oauth2/token", "edge"), true, Reason::Unknown), r#"Basic realm="edge""#);
    }
}
