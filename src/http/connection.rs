//! What is known of the connection that a request came on.

use std::net::SocketAddr;

/// The client's side of a connection, as the server established it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The socket's peer.
    pub peer: SocketAddr,
    pub tls: bool,
    /// The server name that a TLS client asked for, in lower case.
    pub server_name: Option<String>,
}
