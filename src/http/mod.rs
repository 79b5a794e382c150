//! Requests to answers: route (pure), authorize, call, respond; one error table.

mod acr;
mod admit;
mod audit;
mod body;
mod challenge;
mod command;
mod conditional;
mod connection;
mod error;
mod exchange;
mod forwarded;
mod governance;
mod intake;
mod locations;
mod log;
mod oauth2;
mod ops;
pub mod outbox;
mod peer;
mod push;
mod receipts;
mod request_id;
mod respond;
pub mod route;
mod service;
mod top;
mod upload;
mod vouched;

pub use admit::Site;
pub use body::{Body, BodyError, TLS_RECORD_BYTES};
pub use connection::Connection;
pub use governance::{Collection, Governing, Item};
pub use locations::{Locations, Owner};
pub use service::Http;
pub use top::{MAX_NAMES, NAMES};
