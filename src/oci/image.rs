//! An image as people write it, and the platforms that they choose by.

use std::str::FromStr;

use super::{Reference, RepositoryName};

/// An image as people write it: `docker.io/library/alpine:3`, `ghcr.io/o/r@sha256:...`, `registry.local:5000/a`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// A first component with a port is an upstream's name, which no repository can have.
    pub ns: Option<String>,
    pub name: RepositoryName,
    pub reference: Reference,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image: {0}")]
pub struct ImageError(String);

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Image, ImageError> {
        let bad = |error: &dyn std::fmt::Display| ImageError(error.to_string());
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let (path, tag) = match named.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (named, "latest"),
        };
        let (ns, name) = match path.split_once('/') {
            Some((first, rest)) if first.contains(':') => (Some(first.to_owned()), rest),
            _ => (None, path),
        };
        let reference = match digest {
            Some(digest) => Reference::Digest(digest.parse().map_err(|error| bad(&error))?),
            None => Reference::Tag(tag.parse().map_err(|error| bad(&error))?),
        };
        Ok(Image { ns, name: name.parse().map_err(|error| bad(&error))?, reference })
    }
}

/// `os/architecture`, or with a variant behind another slash.
pub fn is_platform(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    text.len() <= 64 && (2..=3).contains(&text.split('/').count()) && text.split('/').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_read_as_people_write_them() {
        let digest = super::super::Digest::sha256(b"");
        for (text, ns, name, reference) in [
            ("docker.io/library/alpine:3", None, "docker.io/library/alpine", "3"),
            ("docker.io/library/alpine", None, "docker.io/library/alpine", "latest"),
            ("registry.local:5000/a/b", Some("registry.local:5000"), "a/b", "latest"),
            ("registry.local:5000/a:v1", Some("registry.local:5000"), "a", "v1"),
            (&format!("ghcr.io/o/r:v1@{digest}"), None, "ghcr.io/o/r", &digest.to_string()),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!((image.ns.as_deref(), image.name.as_str(), image.reference.to_string().as_str()), (ns, name, reference));
        }
    }
}
