//! How keys are made: so that every list that is asked for is one range of one table.
//!
//! A repository's name ends with a zero byte, which no name has; a digest is its algorithm's byte (1: sha256, 2: sha512) and the
//! hash, so its first byte tells its length; numbers are big-endian; an origin stands last or ends with a zero byte.

use ulid::Ulid;

use super::super::event::{ControlKind, Lockable};
use super::super::identity::{Origin, Place};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};

/// What the keys of all rows of a repository begin with; the whole key in `Repositories` is without the zero byte.
pub fn repository(name: &RepositoryName) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.as_str().len() + 1 + 65);
    key.extend_from_slice(name.as_str().as_bytes());
    key.push(0);
    key
}

pub fn tag(name: &RepositoryName, tag: &Tag) -> Vec<u8> {
    tag_text(name, tag.as_str())
}

/// As [`tag`], with a text that need not be a tag: where a page begins.
pub fn tag_text(name: &RepositoryName, tag: &str) -> Vec<u8> {
    let mut key = repository(name);
    key.extend_from_slice(tag.as_bytes());
    key
}

/// Of `Manifests` and `Links`, and what the keys of `TagsOf`, `Referrers` and `Needs` begin with.
pub fn in_repository(name: &RepositoryName, digest: &Digest) -> Vec<u8> {
    let mut key = repository(name);
    push_digest(&mut key, digest);
    key
}

/// Of `Referrers` (subject, referrer) and `Needs` (referenced, needing).
pub fn two_digests(name: &RepositoryName, first: &Digest, second: &Digest) -> Vec<u8> {
    let mut key = in_repository(name, first);
    push_digest(&mut key, second);
    key
}

pub fn tag_of(name: &RepositoryName, digest: &Digest, tag: &Tag) -> Vec<u8> {
    let mut key = in_repository(name, digest);
    key.extend_from_slice(tag.as_str().as_bytes());
    key
}

pub fn digest(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(65);
    push_digest(&mut key, digest);
    key
}

pub fn linked(of: &Digest, name: &RepositoryName) -> Vec<u8> {
    let mut key = digest(of);
    key.extend_from_slice(name.as_str().as_bytes());
    key
}

/// Of `Locks`: a repository's own has nothing behind the name. No tag begins like a digest.
pub fn lock(name: &RepositoryName, of: Lockable<'_>) -> Vec<u8> {
    match of {
        Lockable::Repository => repository(name),
        Lockable::Tag(of) => tag(name, of),
        Lockable::Manifest(digest) => in_repository(name, digest),
    }
}

/// Of `Control`: what the keys of all records of a kind begin with, and the name.
pub fn control(kind: ControlKind, name: &str) -> Vec<u8> {
    let mut key = vec![kind as u8];
    key.extend_from_slice(name.as_bytes());
    key
}

pub fn place(place: &Place) -> Vec<u8> {
    let mut key = place_prefix(place.key).to_vec();
    key.extend_from_slice(place.origin.to_string().as_bytes());
    key
}

pub fn place_prefix(key: Ulid) -> [u8; 16] {
    key.to_bytes()
}

pub fn origin(origin: &Origin) -> Vec<u8> {
    origin.to_string().into_bytes()
}

/// Of `Forwards`: a tag has no colon, so it is not taken for a digest.
pub fn forward(name: &RepositoryName, reference: &Reference, upstream: &str) -> Vec<u8> {
    let mut key = repository(name);
    key.extend(reference.to_string().into_bytes());
    key.push(0);
    key.extend_from_slice(upstream.as_bytes());
    key
}

/// Of `Ahead`.
pub fn ahead(name: &[u8], of: &Origin) -> Vec<u8> {
    let mut key = name.to_vec();
    key.push(0);
    key.extend(origin(of));
    key
}

/// What the keys of `AheadUntil` of one origin begin with.
pub fn ahead_of(of: &Origin) -> Vec<u8> {
    let mut key = origin(of);
    key.push(0);
    key
}

/// Of `AheadUntil`.
pub fn ahead_until(of: &Origin, seq: u64, name: &[u8]) -> Vec<u8> {
    let mut key = ahead_of(of);
    key.extend_from_slice(&seq.to_be_bytes());
    key.extend_from_slice(name);
    key
}

fn push_digest(key: &mut Vec<u8>, digest: &Digest) {
    key.push(algorithm_byte(digest.algorithm()));
    key.extend_from_slice(digest.as_bytes());
}

/// A digest at the head of a key, and what follows it.
pub fn split_digest(key: &[u8]) -> Option<(Digest, &[u8])> {
    let (first, rest) = key.split_first()?;
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|algorithm| algorithm_byte(*algorithm) == *first)?;
    let (hash, rest) = rest.split_at_checked(algorithm.hash_bytes())?;
    Some((Digest::from_parts(algorithm, hash)?, rest))
}

pub fn algorithm_byte(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_no_prefix_of_another_and_lists_sort_by_name() {
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        let tags = ["a/b", "a/b-c", "a/b/c", "a/bc"].map(|text| tag(&name(text), &"t".parse().unwrap()));
        assert!(tags.is_sorted());
        assert_eq!(tags.iter().filter(|key| key.starts_with(&repository(&name("a/b")))).count(), 1);
        let mut long = [Digest::sha256(b"1"), Digest::of(Algorithm::Sha512, b"1")].map(|of| linked(&of, &name("a")));
        long.sort();
        assert_eq!(split_digest(&long[1]), Some((Digest::of(Algorithm::Sha512, b"1"), b"a".as_slice())));
        assert_eq!(split_digest(&[1, 2, 3]), None);
    }
}
