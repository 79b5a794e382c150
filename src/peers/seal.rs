//! Texts that only this region's edges can make: what a client carries in the location of its upload, from one request to the next.
//!
//! A sealed text is base64 of the text and its HMAC-SHA-256. It is not hidden: whoever carries it can read it. The key is derived from
//! the siblings' token, so that the token itself authenticates nothing directly, and a seal is good for nothing else that the token
//! proves.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use aws_lc_rs::rand::SystemRandom;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::Secret;

/// Of a sealed text, at most: it stands in the query of a URL.
pub const MAX_SEALED_CHARS: usize = 1_000;
/// Of a text that can be sealed and opened again.
pub const MAX_TEXT_BYTES: usize = MAX_SEALED_CHARS / 4 * 3 - TAG_BYTES;
const TAG_BYTES: usize = 32;
/// What the key is for. The number is that of the form above: another form has another, and opens none of these.
const PURPOSE: &str = "outport, locations of uploads, 1";

/// Seals and opens with one key.
#[derive(Clone, Debug)]
pub struct Seal(Key);

impl Seal {
    /// With a key that nobody else has, now or after a restart: for an edge that stands alone.
    pub fn random() -> Seal {
        Seal(Key::generate(HMAC_SHA256, &SystemRandom::new()).expect("the system gives random bytes"))
    }

    /// With the key of all edges that have this token.
    pub fn from_token(token: &Secret) -> Seal {
        Seal(Key::new(HMAC_SHA256, derive(token, PURPOSE).as_ref()))
    }

    /// Letters, digits, `-` and `_`. A text of more than [`MAX_TEXT_BYTES`] is sealed, and never opened again.
    pub fn seal(&self, text: &str) -> String {
        let tag = hmac::sign(&self.0, text.as_bytes());
        URL_SAFE_NO_PAD.encode([text.as_bytes(), tag.as_ref()].concat())
    }

    /// The text, if it was sealed with this key and nobody has touched it. Each text has one sealed form only.
    pub fn open(&self, sealed: &str) -> Option<String> {
        if sealed.len() > MAX_SEALED_CHARS {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let tag = bytes.split_off(bytes.len().checked_sub(TAG_BYTES)?);
        hmac::verify(&self.0, &bytes, &tag).ok()?;
        String::from_utf8(bytes).ok()
    }
}

/// What stands for the token where it is used for one purpose.
pub(super) fn derive(token: &Secret, purpose: &str) -> hmac::Tag {
    hmac::sign(&Key::new(HMAC_SHA256, token.expose().as_bytes()), purpose.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::from_token(&Secret::new("0123456789abcdef".to_owned()))
    }

    #[test]
    fn what_one_edge_seals_every_edge_with_the_token_opens() {
        let longest = "x".repeat(MAX_TEXT_BYTES);
        for text in ["", "http://10.0.0.7:5000/ 01ARZ3NDEKTSV4RRFFQ69G5FAV 12", "\u{e9}\0\n", &longest] {
            let sealed = seal().seal(text);
            assert!(sealed.len() <= MAX_SEALED_CHARS, "{}", sealed.len());
            assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{sealed}");
            assert_eq!(seal().open(&sealed).as_deref(), Some(text));
        }
        assert_eq!(seal().open(&seal().seal(&(longest + "x"))), None);
    }

    #[test]
    fn others_cannot_make_one() {
        let sealed = seal().seal("http://10.0.0.7:5000/ a 0");
        let other = Seal::from_token(&Secret::new("0123456789abcdeF".to_owned()));
        assert_eq!((other.open(&sealed), Seal::random().open(&sealed)), (None, None));
        let alone = Seal::random();
        assert_eq!(alone.open(&alone.seal("a")).as_deref(), Some("a"));
        assert_eq!(alone.clone().open(&alone.seal("a")).as_deref(), Some("a"));
        // A tag under the token itself, which is sent to siblings in another form, is none.
        let token = Key::new(HMAC_SHA256, b"0123456789abcdef");
        let forged = URL_SAFE_NO_PAD.encode([&b"a"[..], hmac::sign(&token, b"a").as_ref()].concat());
        assert_eq!(seal().open(&forged), None);
        for forged in ["", "a", "AAAA", &"A".repeat(43), &"A".repeat(1_000), &"A".repeat(100_000), "\u{e9}", &format!("{sealed}=")] {
            assert_eq!(seal().open(forged), None, "{forged}");
        }
    }

    #[test]
    fn one_that_was_touched_is_none() {
        let sealed = seal().seal("http://10.0.0.7:5000/ a 0");
        for at in 0..sealed.len() {
            for replacement in "AB09-_.= ".chars().filter(|other| !sealed[at..].starts_with(*other)) {
                let mut touched = sealed.clone();
                touched.replace_range(at..=at, &replacement.to_string());
                assert_eq!(seal().open(&touched), None, "{touched}");
            }
            assert_eq!(seal().open(&sealed[..at]), None);
            assert_eq!(seal().open(&sealed[at + 1..]), None);
        }
    }

    #[test]
    fn a_key_does_not_print() {
        assert!(!format!("{:?}", seal()).contains("0123456789abcdef"));
    }
}
