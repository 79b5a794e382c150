//! Why an upstream gave no answer: for callers by what they do about it, inside this room also by whom to blame.

use std::time::Duration;

use super::breaker::Verdict;
use crate::dial::DialError;

/// Why an upstream gave nothing. The variants are what callers treat differently; the texts hold no secret and no query string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream says that it has no such thing (404).
    #[error("the upstream has no such content")]
    Absent,
    /// The upstream will not show it to this edge (401 or 403), after authentication was tried as far as it is configured.
    #[error("the upstream denies access")]
    Denied,
    /// Nothing can be told now: no connection, a timeout, 429, a server error, or an open circuit.
    #[error("the upstream is unavailable: {why}")]
    Unavailable {
        why: String,
        /// How long not to ask again, where that is known.
        retry_after: Option<Duration>,
    },
    /// The upstream answered something that is not true, not possible or not allowed. Asking again is of no use.
    #[error("wrong answer of the upstream: {0}")]
    WrongAnswer(String),
    /// A body broke in the middle: the rest may be asked for.
    #[error("the upstream's answer broke off: {0}")]
    Broken(String),
}

impl UpstreamError {
    pub(super) fn unavailable(why: impl Into<String>) -> UpstreamError {
        UpstreamError::Unavailable { why: why.into(), retry_after: None }
    }

    pub(super) fn wrong(why: impl Into<String>) -> UpstreamError {
        UpstreamError::WrongAnswer(why.into())
    }
}

/// A request that brought no answer to use.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: UpstreamError,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The upstream answered: that is how it is, or it told when to come back.
    Answer,
    /// A passing fault, before any answer: worth another try.
    Passing,
    /// A fault that another try would meet again.
    Lasting,
    Timeout,
}

impl Failure {
    pub(super) fn answer(error: UpstreamError) -> Failure {
        Failure { error, cause: Cause::Answer }
    }

    pub(super) fn passing(error: UpstreamError) -> Failure {
        Failure { error, cause: Cause::Passing }
    }

    pub(super) fn lasting(error: UpstreamError) -> Failure {
        Failure { error, cause: Cause::Lasting }
    }

    pub(super) fn timeout(why: impl Into<String>) -> Failure {
        Failure { error: UpstreamError::unavailable(why), cause: Cause::Timeout }
    }

    pub(super) fn wrong(why: impl Into<String>) -> Failure {
        Failure::answer(UpstreamError::wrong(why))
    }

    /// Whether the same request, sent again at once, may fare better. A timeout may not: its caller has waited enough.
    pub(super) fn may_pass(&self) -> bool {
        self.cause == Cause::Passing
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.cause {
            Cause::Answer => Verdict::Alive,
            Cause::Passing | Cause::Lasting => Verdict::Fault,
            Cause::Timeout => Verdict::Timeout,
        }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Failure {
        let unavailable = UpstreamError::unavailable(error.to_string());
        match error {
            // The upstream named the host, in a redirect, a realm or its DNS zone: nothing is wrong with its servers.
            DialError::Refused { .. } | DialError::Target { .. } => Failure::wrong(error.to_string()),
            DialError::Timeout(wait) => Failure::timeout(format!("timed out waiting for {wait}")),
            DialError::Resolve { .. } | DialError::Connect { .. } | DialError::Proxy { .. } | DialError::Broken { .. } => {
                Failure::passing(unavailable)
            }
            DialError::Absent { .. } | DialError::Tls { .. } | DialError::CaFile { .. } | DialError::System { .. } => {
                Failure::lasting(unavailable)
            }
        }
    }
}
