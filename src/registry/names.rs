//! Which upstream and which repository a request means.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{self, path_prefix};
use crate::oci::{Image, RepositoryName};

/// The parts of a request that can name an upstream, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing<'a> {
    /// The name in the path, before any prefix is taken off.
    pub name: &'a RepositoryName,
    /// `?ns=`, as containerd sends it to a mirror.
    pub ns: Option<&'a str>,
    /// The Host header or `:authority`, port included.
    pub host: Option<&'a str>,
}

/// Where a request goes. The full name is what grants and locks speak of; it is the same for all three ways of addressing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// With the upstream's name in front; for a hosted repository, its name.
    pub repository: RepositoryName,
    /// The upstream that `ns` or the Host named: echoed as `OCI-Namespace` when it was `ns`.
    pub upstream: Option<Arc<str>>,
}

/// The names of the configured upstreams.
#[derive(Clone, Debug, Default)]
pub struct Names {
    upstreams: Vec<Arc<str>>,
    hosts: HashMap<String, Arc<str>, foldhash::fast::RandomState>,
}

/// `ns` names no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such upstream")]
pub struct UnknownNamespace;

impl Names {
    pub fn new(upstreams: &[config::Upstream]) -> Names {
        let mut names = Names::default();
        for upstream in upstreams {
            let name: Arc<str> = upstream.name.as_str().into();
            names.hosts.extend(upstream.hosts.iter().map(|host| (host.to_ascii_lowercase(), name.clone())));
            names.upstreams.push(name);
        }
        names
    }

    /// Finds what a request means: `ns` first, then a Host of the configuration, then a prefix of the path, else hosted.
    pub fn resolve(&self, addressing: Addressing<'_>) -> Result<Target, UnknownNamespace> {
        let named = match addressing.ns {
            Some(ns) => Some(self.by_namespace(ns).ok_or(UnknownNamespace)?),
            None => addressing.host.and_then(|host| self.by_host(host)),
        };
        match named {
            Some(upstream) => Ok(Target { repository: full_name(upstream, addressing.name.as_str())?, upstream: Some(upstream.clone()) }),
            None => self.by_prefix(addressing.name),
        }
    }

    /// The full name of an image's repository.
    pub fn of_image(&self, image: &Image) -> Result<RepositoryName, UnknownNamespace> {
        let addressing = Addressing { name: &image.name, ns: image.ns.as_deref(), host: None };
        self.resolve(addressing).map(|target| target.repository)
    }

    /// The upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> impl Iterator<Item = &str> {
        self.upstreams.iter().map(AsRef::as_ref)
    }

    /// A key into the configured upstreams, never an address to dial. containerd may add the port that the scheme implies.
    fn by_namespace(&self, ns: &str) -> Option<&Arc<str>> {
        let bare = ns.strip_suffix(":443").or_else(|| ns.strip_suffix(":80")).unwrap_or(ns);
        self.upstreams.iter().find(|name| ***name == *ns).or_else(|| self.upstreams.iter().find(|name| ***name == *bare))
    }

    /// The upstream that a Host (port included or not) or a TLS server name stands for.
    pub fn by_host(&self, host: &str) -> Option<&Arc<str>> {
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        let without_port = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
        self.hosts.get(&*host).or_else(|| self.hosts.get(without_port))
    }

    fn by_prefix(&self, name: &RepositoryName) -> Result<Target, UnknownNamespace> {
        let first = name.first_component();
        let upstream = self.upstreams.iter().find(|upstream| path_prefix(upstream) == first);
        match upstream.zip(name.as_str().split_once('/')) {
            Some((upstream, (_, rest))) => {
                // Most names are full as they come.
                let repository = if is_bare(upstream, rest) { full_name(upstream, rest)? } else { name.clone() };
                Ok(Target { repository, upstream: Some(upstream.clone()) })
            }
            None => Ok(Target { repository: name.clone(), upstream: None }),
        }
    }
}

/// A bare Docker Hub name is an official image's and lies under `library/`.
fn is_bare(upstream: &str, rest: &str) -> bool {
    upstream == "docker.io" && !rest.contains('/')
}

/// The full name of `rest` at `upstream`.
fn full_name(upstream: &str, rest: &str) -> Result<RepositoryName, UnknownNamespace> {
    let library = if is_bare(upstream, rest) { "library/" } else { "" };
    format!("{}/{library}{rest}", path_prefix(upstream)).parse().map_err(|_| UnknownNamespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            upstreams: vec!["docker.io".into(), "ghcr.io".into(), "registry.local:5000".into()],
            hosts: [("hub.example.com".into(), "docker.io".into())].into_iter().collect(),
        }
    }

    fn resolve(name: &str, ns: Option<&str>, host: Option<&str>) -> Option<(String, Option<String>)> {
        let name = name.parse().unwrap();
        let target = names().resolve(Addressing { name: &name, ns, host }).ok()?;
        Some((target.repository.to_string(), target.upstream.map(|upstream| upstream.to_string())))
    }

    #[test]
    fn three_ways_in_one_repository_out() {
        let alpine = Some(("docker.io/library/alpine".to_owned(), Some("docker.io".to_owned())));
        assert_eq!(resolve("library/alpine", Some("docker.io"), None), alpine);
        assert_eq!(resolve("alpine", Some("docker.io:443"), Some("edge:5000")), alpine);
        assert_eq!(resolve("docker.io/library/alpine", None, Some("edge")), alpine);
        assert_eq!(resolve("docker.io/alpine", None, None), alpine);
        assert_eq!(resolve("alpine", None, Some("HUB.example.com:8443")), alpine);
        assert_eq!(resolve("registry.local_5000/a", None, None), resolve("a", Some("registry.local:5000"), None));
    }

    #[test]
    fn a_namespace_is_a_key_and_nothing_else() {
        for ns in ["", "127.0.0.1:5000", "user@docker.io", "docker.io/x", "registry-1.docker.io", "docker.io:8080", "DOCKER.IO"] {
            assert_eq!(resolve("a", Some(ns), None), None, "{ns}");
        }
    }

    #[test]
    fn what_no_upstream_claims_is_hosted() {
        assert_eq!(resolve("team/app", None, Some("edge")), Some(("team/app".into(), None)));
        assert_eq!(resolve("docker.io", None, None), Some(("docker.io".into(), None)));
    }
}
