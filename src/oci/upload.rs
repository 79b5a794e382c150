//! What the `Location` of an upload session carries (distribution-spec, "POST then PUT": the location holds a unique session id and
//! may hold critical query parameters). Both parts are opaque here: their characters are checked, their meaning is the uploads room's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest id, in bytes: a UUID has 36, a ULID 26.
const MAX_ID_BYTES: usize = 64;
/// The longest state, in bytes: a region's name; and owner, offset and a signature, in base64.
const MAX_STATE_BYTES: usize = 1100;

/// The last component of a session's path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

/// The state in the query of a session's location: a region's name, a tilde, and what is signed, in base64's URL alphabet and dots.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionState(Arc<str>);

/// A session as a client names it. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef {
    pub id: SessionId,
    /// Clients keep the query of a Location; one without it is somebody's guess.
    pub state: Option<SessionState>,
}

/// No session's location has such a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no upload session has this location")]
pub struct SessionError;

fn is_part(text: &str, most_bytes: usize, others: &[u8]) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    (1..=most_bytes).contains(&text.len()) && text.bytes().all(fits)
}

macro_rules! part_type {
    ($name:ident, $most_bytes:ident, $others:literal) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = SessionError;

            fn from_str(text: &str) -> Result<$name, SessionError> {
                if is_part(text, $most_bytes, $others) { Ok($name(text.into())) } else { Err(SessionError) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
part_type!(SessionId, MAX_ID_BYTES, b"-_.=");
part_type!(SessionState, MAX_STATE_BYTES, b"-_.=~");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_location_have_their_characters() {
        for good in ["0", "018f6f3c-8c5b-7d3e-9f4b-1a2b3c4d5e6f", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "a.b_c-d=="] {
            assert_eq!(good.parse::<SessionId>().unwrap().as_str(), good);
            assert_eq!(good.parse::<SessionState>().unwrap().to_string(), good);
        }
        assert!("eu-1~a.b_c-d==".parse::<SessionState>().is_ok() && "eu-1~a".parse::<SessionId>().is_err());
        for bad in ["", "a/b", "a b", "a%2f", "a\0", "\u{e9}", "a+b", "a&b", &"a".repeat(MAX_STATE_BYTES + 1)] {
            assert_eq!(bad.parse::<SessionId>(), Err(SessionError), "{bad:?}");
            assert_eq!(bad.parse::<SessionState>(), Err(SessionError), "{bad:?}");
        }
        assert!("a".repeat(MAX_ID_BYTES + 1).parse::<SessionId>().is_err());
        assert!("a".repeat(MAX_STATE_BYTES).parse::<SessionState>().is_ok());
    }
}
