//! `[tokens]`: how the tokens that this edge issues are signed, and how long they are good.

use std::time::Duration;

use super::Secret;
use super::reader::Section;
use super::schema::{HOUR, MINUTE, require_pem, seconds, secret_of_file};

#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The private key that signs, PEM; `None`: the edge makes one of its own.
    pub private_key: Option<Secret>,
    /// How long an access token is good.
    pub ttl: Duration,
}

pub(super) fn read(mut section: Section<'_, '_, '_>) -> Tokens {
    section.refuse("private_key", "a private key does not stand in the configuration: name its file in private_key_file");
    let file = section.optional_file("private_key_file");
    require_pem(&section, "private_key_file", file.as_ref(), "PRIVATE KEY-----");
    let private_key = file.and_then(|file| secret_of_file(&section, "private_key_file", &file));
    // The distribution specification promises its clients 60 seconds ("Token Authentication Specification").
    let ttl = section.bounded("ttl", seconds(5 * MINUTE), seconds(MINUTE)..=seconds(HOUR));
    section.finish();
    Tokens { private_key, ttl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{faults, parse};

    #[test]
    fn what_is_wrong_with_tokens_is_told() {
        assert_eq!(parse("").unwrap().tokens, Tokens { private_key: None, ttl: seconds(300) });
        assert_eq!(parse("[tokens]\nttl = \"1m\"").unwrap().tokens.ttl, seconds(60));
        for (text, expected) in [
            ("ttl = \"59s\"", r#"tokens.ttl: "59s" is out of bounds: "1m" to "1h""#),
            (
                "private_key = \"x\"",
                "tokens.private_key: a private key does not stand in the configuration: name its file in private_key_file",
            ),
            ("private_key_file = \"/dev/null\"", "tokens.private_key_file: cannot read /dev/null: it is not a file"),
        ] {
            let found = faults(&format!("[tokens]\n{text}"));
            assert!(found.len() == 1 && found[0].ends_with(&format!(" {expected}")), "{text}: {found:?}");
        }
    }
}
