//! Repository names, tags and references (distribution-spec 1.1, "Pulling manifests").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use memchr::memchr;

use super::{Digest, DigestError};

/// The longest repository name, in bytes. The specification recommends that name and host together stay under 255.
pub const MAX_NAME_BYTES: usize = 255;

/// A repository's name: path components of lower-case letters and digits, joined by `/`; inside a component `.`, `_`, `__` or
/// hyphens may stand between letters and digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

/// Why a text is not a repository name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a repository name has 1 to {MAX_NAME_BYTES} bytes")]
    Length,
    #[error("a repository name is lower-case letters and digits, separated by one of . _ __ or hyphens, in components joined by /")]
    Form,
}

/// A tag: a letter, digit or `_`, then up to 127 more of those, `.` and `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag is a letter, digit or _, then at most 127 letters, digits, _ . or -")]
pub struct TagError;

/// What names a manifest inside a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error(transparent)]
    Tag(#[from] TagError),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `/`, or all of it.
    pub fn first_component(&self) -> &str {
        let name = self.as_str();
        &name[..memchr(b'/', name.as_bytes()).unwrap_or(name.len())]
    }

    /// The name without its first `count` components; `None` when nothing would be left.
    pub fn without_components(&self, count: usize) -> Option<RepositoryName> {
        let mut rest = self.as_str();
        for _ in 0..count {
            rest = &rest[memchr(b'/', rest.as_bytes())? + 1..];
        }
        Some(RepositoryName(rest.into()))
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RepositoryName, NameError> {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(NameError::Length);
        }
        if has_form(text.as_bytes()) { Ok(RepositoryName(text.into())) } else { Err(NameError::Form) }
    }
}

/// Components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by `/`: letters and digits at both ends, and between two runs of them one
/// separator. Each request has a name, so each byte is looked at once.
fn has_form(name: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !(name.first().is_some_and(alphanumeric) && name.last().is_some_and(alphanumeric)) {
        return false;
    }
    let mut rest = name;
    while let Some(at) = rest.iter().position(|byte| !alphanumeric(byte)) {
        let from_separator = &rest[at..];
        let separator_bytes = from_separator.iter().position(alphanumeric).unwrap_or(from_separator.len());
        let (separator, behind) = from_separator.split_at(separator_bytes);
        if !matches!(separator, b"/" | b"." | b"_" | b"__") && separator.iter().any(|byte| *byte != b'-') {
            return false;
        }
        rest = behind;
    }
    true
}

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let fits = match text.as_bytes() {
            [first, rest @ ..] => word(*first) && rest.len() <= 127 && rest.iter().all(|b| word(*b) || *b == b'.' || *b == b'-'),
            [] => false,
        };
        if fits { Ok(Tag(text.into())) } else { Err(TagError) }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// A text with a colon can only be a digest: no tag has one.
    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.contains(':') { Ok(Reference::Digest(text.parse()?)) } else { Ok(Reference::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

macro_rules! text_type {
    ($name:ident) => {
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
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_type!(RepositoryName);
text_type!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        let longest = "a".repeat(255);
        for good in ["a", "library/alpine", "a.b/c_d/e__f/g-h--i", "0/1", "blobs", "tags/list", "docker.io/library/x", &longest] {
            assert_eq!(good.parse::<RepositoryName>().as_ref().map(RepositoryName::as_str), Ok(good));
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a..b",
            "a.-b",
            "a___b",
            "A",
            "aB",
            "-a",
            "a-",
            "_a",
            "../etc",
            "a/../b",
            "a\0b",
            "a\r\nb",
            "\u{430}bc",
            "a b",
            "a%2fb",
            "a:b",
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad:?}");
        }
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameError::Length));
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "_", "V1.2-rc_3", &"t".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a:b", "a/b", "a b", "\u{e9}", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_colon_makes_a_reference_a_digest() {
        assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(Digest::sha256(b"").to_string().parse(), Ok(Reference::Digest(_))));
        assert!(matches!("sha256:zz".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("".parse::<Reference>(), Err(ReferenceError::Tag(_))));
    }

    #[test]
    fn components_are_cut_from_the_front() {
        let name: RepositoryName = "docker.io/library/alpine".parse().unwrap();
        assert_eq!(name.without_components(1).unwrap().as_str(), "library/alpine");
        assert!(name.without_components(3).is_none());
        assert_eq!((name.first_component(), name.without_components(2).unwrap().first_component()), ("docker.io", "alpine"));
    }
}
