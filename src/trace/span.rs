//! What is recorded of a piece of work.

use std::time::Duration;

use super::context::{Context, SpanId};

/// A piece of work that has ended. Times are nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub context: Context,
    pub parent: Option<Parent>,
    pub kind: Kind,
    pub name: String,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub attributes: Vec<Attribute>,
    pub events: Vec<(&'static str, u64)>,
    /// Whose work it waited for.
    pub links: Vec<Context>,
    pub is_failed: bool,
}

/// What a span is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A span of this edge.
    Here(SpanId),
    /// A span of who sent the request.
    Remote(SpanId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Server,
    /// A request that is sent.
    Client,
}

/// Names are those of OpenTelemetry's semantic conventions where they have one, others begin with `outport.`.
pub type Attribute = (&'static str, Value);

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Number(f64),
    Flag(bool),
}

/// What is known of a request at its end.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Of few kinds, so that spans can be grouped by it.
    pub name: String,
    pub attributes: Vec<Attribute>,
    /// From its head to that of its answer.
    pub first_byte: Option<Duration>,
    /// By this edge's fault.
    pub is_failed: bool,
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Value {
        Value::Integer(integer)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Flag(flag)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

/// What has no sign and does not fit becomes the greatest number.
impl From<u64> for Value {
    fn from(count: u64) -> Value {
        Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
