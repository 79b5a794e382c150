//! Which upstream gets what is pushed to a repository.

use std::sync::Arc;

use crate::access::Pattern;
use crate::config;
use crate::oci::RepositoryName;
use crate::upstream::Upstream;

/// The policies of hosted repositories, as far as passing on goes: the first that matches counts, also when it names no upstream.
#[derive(Debug, Default)]
pub struct Policies(Vec<(Pattern, Option<Arc<Upstream>>)>);

impl Policies {
    /// `upstream` finds the upstreams of the same configuration by their names.
    pub fn new(hosted: &[config::Hosted], upstream: impl Fn(&str) -> Option<Arc<Upstream>>) -> Policies {
        Policies(hosted.iter().map(|policy| (policy.pattern.clone(), policy.forward_to.as_deref().and_then(&upstream))).collect())
    }

    /// Where a repository's pushes go.
    pub fn upstream(&self, repository: &RepositoryName) -> Option<&Arc<Upstream>> {
        self.0.iter().find(|(pattern, _)| pattern.matches(repository)).and_then(|(_, upstream)| upstream.as_ref())
    }

    /// Whether no repository's go anywhere.
    pub fn are_idle(&self) -> bool {
        self.0.iter().all(|(_, upstream)| upstream.is_none())
    }
}
