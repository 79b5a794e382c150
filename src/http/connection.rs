//! What is known of the connection that a request came on.

use std::net::SocketAddr;

use super::outbox::Outbox;

/// The client's side of a connection, as the server established it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The socket's peer.
    pub peer: SocketAddr,
    pub tls: bool,
    /// The server name that a TLS client asked for, in lower case.
    pub server_name: Option<String>,
    /// Where a body puts parts of files, if the connection sends them without copying.
    pub outbox: Option<Outbox>,
}
