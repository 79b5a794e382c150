//! Digests: `algorithm:hex`, where the algorithm is sha256 or sha512 (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use sha2::{Sha256, Sha512};

/// The hash algorithms that the image specification registers and that this program can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub const fn hash_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Algorithm, DigestError> {
        match text {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

/// Bytes of a hash of the algorithm with the longest one.
const LONGEST_HASH: usize = 64;
/// Of `sha256:` and `sha512:` alike.
const PREFIX_BYTES: usize = 7;

/// The hash of a content, 32 or 64 bytes; copied freely, compared by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash, then zeros up to the longest algorithm's length.
    bytes: [u8; LONGEST_HASH],
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest is written algorithm:hex")]
    Form,
    #[error("the algorithm is not sha256 or sha512")]
    Algorithm,
    #[error("the hash is not lower-case hexadecimal of its algorithm's length")]
    Hex,
}

impl Digest {
    /// The digest of `bytes`, by sha256, the algorithm that every client understands.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut digester = Digester::new(algorithm);
        digester.update(bytes);
        digester.finish()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself: 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.hash_bytes()]
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        self.with_text(|text| text[PREFIX_BYTES..].to_owned())
    }

    /// The digest as it is written. Each answer and record tells one: no formatter for every byte, and no memory.
    pub fn with_text<T>(&self, tell: impl FnOnce(&str) -> T) -> T {
        const PAIRS: [[u8; 2]; 256] = hex_pairs();
        let mut text = [0; PREFIX_BYTES + 2 * LONGEST_HASH];
        let (prefix, hex) = text.split_at_mut(PREFIX_BYTES);
        let (algorithm, colon) = prefix.split_at_mut(PREFIX_BYTES - 1);
        algorithm.copy_from_slice(self.algorithm.as_str().as_bytes());
        colon[0] = b':';
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
        }
        let text = &text[..PREFIX_BYTES + 2 * self.algorithm.hash_bytes()];
        tell(str::from_utf8(text).expect("hexadecimal digits are ASCII"))
    }

    /// A digest from its parts; `None` when the length is not the algorithm's.
    pub fn from_parts(algorithm: Algorithm, hash: &[u8]) -> Option<Digest> {
        if hash.len() != algorithm.hash_bytes() {
            return None;
        }
        let mut bytes = [0; LONGEST_HASH];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Digest { algorithm, bytes })
    }
}

/// How each byte is written in hexadecimal.
const fn hex_pairs() -> [[u8; 2]; 256] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm: Algorithm = algorithm.parse()?;
        if hex.len() != algorithm.hash_bytes() * 2 {
            return Err(DigestError::Hex);
        }
        let mut bytes = [0; LONGEST_HASH];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest { algorithm, bytes })
    }
}

/// Upper case is refused: two spellings of one digest would be two keys.
fn nibble(character: u8) -> Result<u8, DigestError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(DigestError::Hex),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a content piece by piece.
#[derive(Clone)]
pub enum Digester {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Digester {
    pub fn new(algorithm: Algorithm) -> Digester {
        match algorithm {
            Algorithm::Sha256 => Digester::Sha256(sha2::Digest::new()),
            Algorithm::Sha512 => Digester::Sha512(sha2::Digest::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Digester::Sha256(hash) => sha2::Digest::update(hash, bytes),
            Digester::Sha512(hash) => sha2::Digest::update(hash, bytes),
        }
    }

    pub fn finish(self) -> Digest {
        let (algorithm, mut bytes) = match &self {
            Digester::Sha256(_) => (Algorithm::Sha256, [0; 64]),
            Digester::Sha512(_) => (Algorithm::Sha512, [0; 64]),
        };
        match self {
            Digester::Sha256(hash) => bytes[..32].copy_from_slice(&sha2::Digest::finalize(hash)),
            Digester::Sha512(hash) => bytes.copy_from_slice(&sha2::Digest::finalize(hash)),
        }
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_written() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        let long = Digest::of(Algorithm::Sha512, b"a");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert_eq!(Digest::from_parts(Algorithm::Sha512, long.as_bytes()), Some(long));
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for (text, why) in [
            ("", DigestError::Form),
            ("sha256", DigestError::Form),
            ("sha256:", DigestError::Hex),
            ("sha256:../x", DigestError::Hex),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("SHA256:e3b0", DigestError::Algorithm),
            (&EMPTY[..70], DigestError::Hex),
            (&format!("{EMPTY}0"), DigestError::Hex),
            (&upper, DigestError::Hex),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(why), "{text}");
        }
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(b"out");
        digester.update(b"port");
        assert_eq!(digester.finish(), Digest::sha256(b"outport"));
    }
}
