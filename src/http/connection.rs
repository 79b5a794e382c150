//! What is known of the connection that a request came on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use super::outbox::Outbox;
use crate::access::canonical;
use crate::config::TrustedProxies;
use crate::identity::ClientCertificate;

/// The client's side of a connection, as the server established it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The socket's peer.
    pub peer: SocketAddr,
    /// Who is at the other end: the peer, or whom a trusted proxy named by the PROXY protocol.
    pub client: IpAddr,
    /// Who may say where a request comes from.
    pub proxies: Arc<TrustedProxies>,
    /// Which listener took it: 0 for the first one, then those beside it in their order.
    pub listener: usize,
    pub tls: bool,
    /// It was opened when there were many, and takes little memory rather than few steps.
    pub crowded: bool,
    /// The server name that a TLS client asked for, in lower case.
    pub server_name: Option<String>,
    /// What a TLS client has shown, and proved to be its own.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Where a body puts parts of files, if the connection sends them without copying.
    pub outbox: Option<Outbox>,
    /// The head of the request that comes next, if it may come again.
    pub said: Said,
}

/// A head as a client has sent it, from when it arrives until it is a request. Clones are one.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Option<Box<[u8]>>>>);

impl Said {
    pub(super) fn put(&self, head: Option<Box<[u8]>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }

    pub(super) fn take(&self) -> Option<Box<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Said {
    /// Heads have credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Said")
    }
}

impl Connection {
    /// A plain one that says nothing but where it comes from.
    pub fn plain(peer: SocketAddr) -> Connection {
        Connection {
            peer,
            client: canonical(peer.ip()),
            proxies: Arc::default(),
            listener: 0,
            tls: false,
            crowded: false,
            server_name: None,
            certificate: None,
            outbox: None,
            said: Said::default(),
        }
    }
}
