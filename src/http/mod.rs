//! Requests to answers: route (pure), authorize, call, respond; one error table.

mod connection;

pub use connection::Connection;
