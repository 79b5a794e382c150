//! Signatures as Standard Webhooks has them (<https://www.standardwebhooks.com>): HMAC-SHA-256 of `ID.TIMESTAMP.BODY`.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::{KEY_PREFIX, Secret};

/// Signs with one receiver's secret.
#[derive(Debug)]
pub(super) struct Signer(Key);

impl Signer {
    pub fn new(secret: &Secret) -> Signer {
        let text = secret.expose();
        // The configuration has judged it.
        let decoded = text.strip_prefix(KEY_PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
        Signer(Key::new(HMAC_SHA256, decoded.as_deref().unwrap_or(text.as_bytes())))
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks' reference implementations.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let signer = Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()));
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_may_be_any_text_and_does_not_print() {
        let raw = Signer::new(&Secret::new("0123456789abcdef".to_owned()));
        let encoded = Signer::new(&Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZg==".to_owned()));
        assert_eq!(raw.sign("a", 1, b"b"), encoded.sign("a", 1, b"b"));
        assert_ne!(raw.sign("a", 1, b"b"), raw.sign("a", 2, b"b"));
        assert!(!format!("{raw:?}").contains("0123456789abcdef"));
    }
}
