//! The forms of names that an operator writes.

use crate::oci::RepositoryName;

/// The most characters of a principal's name.
const MAX_PRINCIPAL_CHARS: usize = 128;
/// The most characters of a host name (RFC 1035, 2.3.4) without its port.
const MAX_HOST_CHARS: usize = 253;

/// A region: a DNS label in lower case (RFC 1035, 2.3.1), because it becomes part of names.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// An upstream's name: one component of a repository name, and a port or none.
pub(super) fn is_upstream(text: &str) -> bool {
    let (host, port) = split_port(text);
    port.is_none_or(is_port) && !host.contains('/') && path_prefix(text).parse::<RepositoryName>().is_ok()
}

/// How an upstream's name stands in front of a repository's: no path component has a colon, so `registry.local:5000` is written
/// `registry.local_5000`.
pub fn path_prefix(upstream: &str) -> String {
    upstream.replace(':', "_")
}

/// A host name or an IPv4 address, and a port or none.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = split_port(text);
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    port.is_none_or(is_port) && host.len() <= MAX_HOST_CHARS && host.split('.').all(label)
}

/// What else than a principal a name can begin with: other regions in the log, and groups where roles are assigned.
const NO_PRINCIPALS: [&str; 2] = ["region:", "group:"];

/// What can stand in a log line without quoting. Those who sign in at a provider have colons and slashes in their names, as in
/// `system:serviceaccount:team:app`.
pub fn is_principal(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-:/".contains(&byte);
    let is_other = text == "anonymous" || NO_PRINCIPALS.iter().any(|other| text.starts_with(other));
    (1..=MAX_PRINCIPAL_CHARS).contains(&text.len()) && text.bytes().all(fits) && !is_other
}

/// The name of a principal that signs in with a password: it can stand before the colon of Basic credentials (RFC 7617).
pub fn is_user(text: &str) -> bool {
    is_principal(text) && !text.contains([':', '/'])
}

/// An environment variable's name, as a shell can set it.
pub(super) fn is_variable(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(fits) && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(judge: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(judge(text), "{text:?}");
        }
        for text in bad {
            assert!(!judge(text), "{text:?}");
        }
    }

    #[test]
    fn names_have_their_forms() {
        let long = "a".repeat(300);
        table(is_label, &["eu-west", "a", "1"], &["", "EU", "-a", "a-", "a.b", &long[..64]]);
        table(
            is_upstream,
            &["docker.io", "registry.local:5000", "localhost:1"],
            &["", "a/b", "A.io", "a:", "a:0", "a:65536", "a:+5", "a:1:2", ":5", "http://a", "user@a", &long],
        );
        table(
            is_host,
            &["a", "Mirror.Example.com", "10.0.0.1:80", "x_y.local"],
            &["", ".", "a..b", "a/b", "-a", "a:x", "*.a", "[::1]", &long],
        );
        table(is_user, &["ci", "a@b.c", "x+y_z-1"], &["", "anonymous", "a:b", "a/b", "a b", "\u{e9}", &long]);
        table(
            is_principal,
            &["ci", "a@b.c", "system:serviceaccount:a:b", "k8s/a:b"],
            &["", "anonymous", "region:eu", "group:a", "a b", &long],
        );
        table(is_variable, &["A", "_x1"], &["", "1A", "A-B", "A=B", "p4$$"]);
    }
}
