//! What can go wrong before the head of an answer is here.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a request has no answer, or why a [`Client`](super::Client) or [`Resolver`](super::Resolver) could not be made.
/// Hosts are those of the request's URI; no variant holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The URI is not `http` or `https`, has credentials in it, or its host is neither a DNS name nor an address in its usual
    /// spelling.
    #[error("{target:?} cannot be dialled: {why}")]
    Target { target: String, why: &'static str },
    /// DNS did not answer, or answered with an error, and never gave a good answer before.
    #[error("looking up {host} failed: {why}")]
    Resolve { host: String, why: String },
    /// DNS says that the name does not exist, or has no address.
    #[error("{host} has no address in DNS")]
    Absent { host: String },
    /// Every address of the host is closed to us by policy; `address` is the first of them.
    #[error("{host} is at {address}, {why}: not dialled unless private_networks of this upstream contains it")]
    Refused { host: String, address: IpAddr, why: &'static str },
    /// No address of the host took a TCP connection.
    #[error("connecting to {host} failed: {why}")]
    Connect { host: String, kind: io::ErrorKind, why: String },
    /// The TLS handshake failed: certificate not trusted, for another name, or no common version.
    #[error("TLS with {host} failed: {why}")]
    Tls { host: String, why: String },
    /// The proxy that the environment names refused the tunnel, or is of a kind that is not spoken.
    #[error("proxy {proxy}: {why}")]
    Proxy { proxy: String, why: String },
    #[error("timed out waiting for {0}")]
    Timeout(Wait),
    /// The connection was lost, or the peer spoke no HTTP, before the head of an answer was complete.
    #[error("connection lost before the answer: {why}")]
    Broken { why: String, sent: Sent },
    /// The configured certificate authorities cannot be read.
    #[error("{}: {why}", path.display())]
    CaFile { path: PathBuf, why: String },
    /// The system's DNS configuration cannot be read.
    #[error("DNS configuration: {why}")]
    System { why: String },
}

/// What was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// One of the upstream's `max_connections` to become free.
    Slot,
    /// A connection: resolution and TCP, with a proxy all that there is to it.
    Connection,
    /// TLS with a server that took the connection.
    Handshake,
    /// The head of the answer.
    Head,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wait::Slot => "a free connection",
            Wait::Connection => "a connection",
            Wait::Handshake => "the end of the TLS handshake",
            Wait::Head => "the head of the answer",
        })
    }
}

/// Whether any byte of the request may have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    No,
    Perhaps,
}

impl DialError {
    /// True when the server cannot have seen the request: sending it again repeats nothing.
    pub fn certainly_unsent(&self) -> bool {
        !matches!(self, DialError::Timeout(Wait::Head) | DialError::Broken { sent: Sent::Perhaps, .. })
    }

    /// True when it is known that nobody takes connections where the host is. False for what may be a fault of this machine, of DNS or of
    /// a configuration, and where somebody took the connection.
    pub fn nobody_is_there(&self) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
        match self {
            DialError::Connect { kind, .. } => {
                matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut)
            }
            DialError::Absent { .. } | DialError::Timeout(Wait::Connection) => true,
            _ => false,
        }
    }

    /// A fixed word for the metrics: `dns`, `refused`, `connect`, `tls`, `timeout` or `broken`.
    pub fn label(&self) -> &'static str {
        match self {
            DialError::Resolve { .. } | DialError::Absent { .. } | DialError::System { .. } => "dns",
            DialError::Refused { .. } | DialError::Target { .. } => "refused",
            DialError::Connect { .. } | DialError::Proxy { .. } => "connect",
            DialError::Tls { .. } | DialError::CaFile { .. } => "tls",
            DialError::Timeout(_) => "timeout",
            DialError::Broken { .. } => "broken",
        }
    }

    /// Finds our own error in what the pooled client reports, else says that the connection broke.
    pub(super) fn from_client(error: &(dyn Error + 'static)) -> DialError {
        if let Some(own) = causes(error).find_map(|cause| cause.downcast_ref::<DialError>()) {
            return own.clone();
        }
        // hyper marks a request as canceled only where it was handed back before its first byte was written.
        let canceled = causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled);
        DialError::Broken { why: chain(error), sent: if canceled { Sent::No } else { Sent::Perhaps } }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| (*cause).source())
}
