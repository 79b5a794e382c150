//! Where credentials and requests may go: an upstream's own origin, its token realm, its redirect targets. Pure decisions;
//! that no address is a private one is `dial`'s to see, when it connects.

use url::{Host, Url};

/// Why a token realm gets no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RealmError {
    #[error("not an absolute http or https URL without credentials")]
    Form,
    #[error("plain http, and the upstream itself is not")]
    PlainHttp,
    #[error("neither on the upstream's registrable domain nor in token_hosts")]
    Foreign,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("its target is no http or https URL without credentials")]
    Form,
    #[error("it leads from https to plain http")]
    Downgrade,
}

/// The realm of a challenge as a URL, if `upstream` may have its tokens made there: on the same registrable domain (by the
/// public suffix list), the same address, or on one of `token_hosts` or below it; plain http only for an upstream that is plain
/// http itself, and then only on its own host or a listed one.
pub(super) fn realm(text: &str, upstream: &Url, token_hosts: &[String]) -> Result<Url, RealmError> {
    let mut realm = web_url(Url::parse(text).ok()).ok_or(RealmError::Form)?;
    realm.set_fragment(None);
    let listed = token_hosts.iter().any(|listed| is_listed(&realm, listed));
    if realm.scheme() == "http" {
        return match (upstream.scheme(), listed || same_host(&realm, upstream)) {
            ("http", true) => Ok(realm),
            ("http", false) => Err(RealmError::Foreign),
            _ => Err(RealmError::PlainHttp),
        };
    }
    if listed || same_host(&realm, upstream) || same_registrable_domain(&realm, upstream) { Ok(realm) } else { Err(RealmError::Foreign) }
}

/// Where a `Location` leads, seen from `from`.
pub(super) fn redirect(location: &str, from: &Url) -> Result<Url, RedirectError> {
    let target = web_url(from.join(location).ok()).ok_or(RedirectError::Form)?;
    if from.scheme() == "https" && target.scheme() == "http" {
        return Err(RedirectError::Downgrade);
    }
    Ok(target)
}

/// Whether an upstream's credentials may go where its uploads go on: to its own origin, or to a host that `token_hosts` names, which
/// gets them anyway; never to plain http from an upstream that is not.
pub(super) fn is_trusted(session: &Url, upstream: &Url, token_hosts: &[String]) -> bool {
    let listed = || token_hosts.iter().any(|listed| is_listed(session, listed));
    session.origin() == upstream.origin() || ((session.scheme() == "https" || upstream.scheme() == "http") && listed())
}

fn web_url(url: Option<Url>) -> Option<Url> {
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() && url.password().is_none())
}

/// A host as text to compare: lower case, no final dot.
fn host_of(url: &Url) -> &str {
    bare(url.host_str().unwrap_or_default())
}

fn bare(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn same_host(one: &Url, other: &Url) -> bool {
    host_of(one) == host_of(other)
}

fn is_listed(realm: &Url, listed: &str) -> bool {
    let (host, listed) = (host_of(realm), bare(listed).to_ascii_lowercase());
    let below = || {
        let is_suffix = psl::suffix_str(&listed).is_none_or(|suffix| suffix == listed);
        !is_suffix && is_name(realm) && host.strip_suffix(&listed).is_some_and(|rest| rest.ends_with('.'))
    };
    host == listed || below()
}

fn same_registrable_domain(one: &Url, other: &Url) -> bool {
    match (registrable_domain(one), registrable_domain(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The part of a name that somebody registered: `docker.io` of `auth.docker.io`. Addresses, single labels such as `localhost`
/// and public suffixes have none. Nor have internationalized names here, since the list is not in their ASCII form.
fn registrable_domain(url: &Url) -> Option<&str> {
    let host = host_of(url);
    if !is_name(url) || host.split('.').any(|label| label.starts_with("xn--")) {
        return None;
    }
    psl::domain_str(host)
}

fn is_name(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Domain(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms_on_the_own_registrable_domain_only() {
        use RealmError::{Foreign, Form, PlainHttp};
        let listed = ["auth.example.net".to_owned(), "Tokens.Example".to_owned(), "github.io".to_owned(), "10.0.0.1".to_owned()];
        for (upstream, text, verdict) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", Ok(())),
            ("https://registry-1.docker.io", "https://REGISTRY-1.docker.io:444/token", Ok(())),
            ("https://registry-1.docker.io", "https://auth.docker.io./token", Ok(())),
            ("https://registry-1.docker.io", "https://docker.io.evil.com/token", Err(Foreign)),
            ("https://registry-1.docker.io", "https://evildocker.io/token", Err(Foreign)),
            ("https://registry-1.docker.io", "http://auth.docker.io/token", Err(PlainHttp)),
            ("https://registry-1.docker.io", "https://user:word@auth.docker.io/token", Err(Form)),
            ("https://registry-1.docker.io", "https://auth.docker.io@evil.com/token", Err(Form)),
            ("https://registry-1.docker.io", "//auth.docker.io/token", Err(Form)),
            ("https://registry-1.docker.io", "file:///etc/passwd", Err(Form)),
            ("https://registry-1.docker.io", "", Err(Form)),
            ("https://foo.github.io", "https://foo.github.io/token", Ok(())),
            ("https://foo.github.io", "https://bar.github.io/token", Err(Foreign)),
            ("https://a.co.uk", "https://b.co.uk/token", Err(Foreign)),
            ("https://r.a.co.uk", "https://auth.a.co.uk/token", Ok(())),
            ("https://r.example.com", "https://auth.example.net/t", Ok(())),
            ("https://r.example.com", "https://deep.auth.example.net/t", Ok(())),
            ("https://r.example.com", "https://xauth.example.net/t", Err(Foreign)),
            ("https://r.example.com", "https://x.tokens.example/t", Ok(())),
            ("https://r.example.com", "https://bar.github.io/t", Err(Foreign)),
            ("https://r.example.com", "https://10.0.0.1/t", Ok(())),
            ("https://r.example.com", "https://[::ffff:10.0.0.1]/t", Err(Foreign)),
            ("https://r.example.com", "https://127.0.0.1/t", Err(Foreign)),
            ("https://r.example.com", "https://169.254.169.254/t", Err(Foreign)),
            ("https://127.0.0.1:5000", "https://127.0.0.1:5001/t", Ok(())),
            ("https://127.0.0.1:5000", "https://127.1:5001/t", Ok(())),
            ("https://10.0.0.1", "https://9.0.0.1/t", Err(Foreign)),
            ("https://localhost:5000", "https://localhost/t", Ok(())),
            ("https://localhost", "https://a.localhost/t", Err(Foreign)),
            ("https://registry", "https://auth/t", Err(Foreign)),
            ("http://registry.corp.test", "http://registry.corp.test:81/t", Ok(())),
            ("http://registry.corp.test", "http://auth.corp.test/t", Err(Foreign)),
            ("http://registry.corp.test", "https://auth.corp.test/t", Ok(())),
            ("http://registry.corp.test", "http://auth.example.net/t", Ok(())),
            ("https://registry.corp.test", "http://auth.example.net/t", Err(PlainHttp)),
            ("https://a.xn--55qx5d.cn", "https://b.xn--55qx5d.cn/t", Err(Foreign)),
        ] {
            let found = realm(text, &upstream.parse().unwrap(), &listed);
            assert_eq!(found.map(|_| ()), verdict, "{upstream} {text}");
        }
    }

    #[test]
    fn uploads_take_credentials_home_and_to_listed_hosts_only() {
        let listed = ["uploads.example.net".to_owned()];
        for (upstream, session, trusted) in [
            ("https://r.example.com", "https://r.example.com:443/v2/x?y", true),
            ("https://r.example.com", "https://r.example.com:444/v2/x", false),
            ("https://r.example.com", "https://up.r.example.com/v2/x", false),
            ("https://r.example.com", "https://uploads.example.net/x", true),
            ("https://r.example.com", "http://uploads.example.net/x", false),
            ("https://r.example.com", "https://uploads.example.net.evil.com/x", false),
            ("http://127.0.0.1:5000", "http://uploads.example.net/x", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/x", false),
        ] {
            assert_eq!(is_trusted(&session.parse().unwrap(), &upstream.parse().unwrap(), &listed), trusted, "{upstream} {session}");
        }
    }

    #[test]
    fn redirects_never_lose_tls_nor_carry_credentials() {
        for (from, location, target) in [
            ("https://r.example/v2/x", "https://cdn.example.net/b?sig=1", Ok("https://cdn.example.net/b?sig=1")),
            ("https://r.example/v2/x", "/other", Ok("https://r.example/other")),
            ("https://r.example/v2/x", "//cdn.example/b", Ok("https://cdn.example/b")),
            ("http://r.example/v2/x", "https://cdn.example/b", Ok("https://cdn.example/b")),
            ("http://r.example/v2/x", "http://cdn.example/b", Ok("http://cdn.example/b")),
            ("https://r.example/v2/x", "http://r.example/v2/x", Err(RedirectError::Downgrade)),
            ("https://r.example/v2/x", "https://user@r.example/v2/x", Err(RedirectError::Form)),
            ("https://r.example/v2/x", "ftp://r.example/", Err(RedirectError::Form)),
            ("https://r.example/v2/x", "https://", Err(RedirectError::Form)),
        ] {
            let found = redirect(location, &from.parse().unwrap());
            assert_eq!(found.as_ref().map(Url::as_str).map_err(|error| *error), target, "{from} {location}");
        }
    }
}
