//! A provider's public keys (RFC 7517), each pinned to what it may verify.

use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;

/// Keys of one provider, at most.
const MAX_KEYS: usize = 64;

/// A public key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    key: DecodingKey,
    /// Those of its `alg`, else those of its kind. Never HMAC.
    algorithms: Vec<Algorithm>,
}

/// As RFC 7517 and RFC 7518, section 6, write it; other members are of no interest.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

impl Key {
    /// Whether this is the private key's signature of `message`, made by an algorithm that this key is for.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.algorithms.contains(&algorithm) && crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }

    /// `None` for a key of another kind or purpose: a set may hold such keys beside ours (RFC 7517, section 5).
    fn read(jwk: serde_json::Value) -> Option<Key> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        if jwk.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (key, of_its_kind): (_, &[Algorithm]) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (
                DecodingKey::from_rsa_components(&jwk.n?, &jwk.e?),
                &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512],
            ),
            ("EC", Some("P-256")) => (DecodingKey::from_ec_components(&jwk.x?, &jwk.y?), &[Algorithm::ES256]),
            ("EC", Some("P-384")) => (DecodingKey::from_ec_components(&jwk.x?, &jwk.y?), &[Algorithm::ES384]),
            ("OKP", Some("Ed25519")) => (DecodingKey::from_ed_components(&jwk.x?), &[Algorithm::EdDSA]),
            _ => return None,
        };
        let algorithms = match jwk.alg {
            None => of_its_kind.to_vec(),
            Some(named) => vec![algorithm(&named).filter(|named| of_its_kind.contains(named))?],
        };
        Some(Key { id: jwk.kid, key: key.ok()?, algorithms })
    }
}

/// The algorithm of this name (RFC 7518, section 3.1; RFC 8037), if it is one of a key pair: neither `none` nor HMAC.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// The keys of a set that can verify tokens.
///
/// # Errors
/// A sentence that says why this is no such set.
pub(super) fn read_set(text: &[u8]) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_slice(text).map_err(|why| format!("its keys are no JSON Web Key Set: {why}"))?;
    let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).take(MAX_KEYS).collect();
    if keys.is_empty() { Err("none of its keys can verify tokens".to_owned()) } else { Ok(keys) }
}

/// The key of this id. A token without one can only mean the only key (RFC 7515, section 4.1.4; OpenID Connect Core 1.0, section 10.1).
pub(super) fn find<'a>(keys: &'a [Key], id: Option<&str>) -> Option<&'a Key> {
    match (id, keys) {
        (Some(id), _) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::oidc::testing::Signer;
    use serde_json::json;

    fn set(keys: &serde_json::Value) -> Result<Vec<Key>, String> {
        read_set(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_verifies_by_what_it_is_for() {
        let (rsa, ec) = (Signer::rsa("r"), Signer::ec("e"));
        let shown = |key: &Key| format!("{:?} {:?}", key.id, key.algorithms);
        let jwk = |signer: &Signer, name: &str, value: serde_json::Value| {
            let mut jwk = signer.jwk();
            jwk[name] = value;
            jwk
        };
        let keys = set(&json!([
            rsa.jwk(),
            jwk(&rsa, "alg", json!("PS256")),
            jwk(&ec, "use", json!("sig")),
            jwk(&ec, "use", json!("enc")),
            jwk(&ec, "crv", json!("P-521")),
            jwk(&rsa, "alg", json!("HS256")),
            jwk(&rsa, "alg", json!("ES256")),
            { "kty": "oct", "k": "c2VjcmV0", "kid": "o" },
            { "kty": "RSA", "kid": "without n" },
            "no key",
        ]))
        .unwrap();
        let all = r#"Some("r") [RS256, RS384, RS512, PS256, PS384, PS512]"#;
        assert_eq!(keys.iter().map(shown).collect::<Vec<_>>(), [all, r#"Some("r") [PS256]"#, r#"Some("e") [ES256]"#]);
        for nothing in [json!([]), json!([{ "kty": "oct", "k": "c2VjcmV0" }])] {
            assert_eq!(set(&nothing).unwrap_err(), "none of its keys can verify tokens");
        }
        assert!(read_set(b"<html>").unwrap_err().starts_with("its keys are no JSON Web Key Set"));
    }

    #[test]
    fn a_token_without_key_id_means_the_only_key() {
        let (one, other) = (Signer::ec("1"), Signer::ec("2"));
        let (alone, both) = (set(&json!([one.jwk()])).unwrap(), set(&json!([one.jwk(), other.jwk()])).unwrap());
        assert!(find(&alone, None).is_some() && find(&both, None).is_none());
        assert!(find(&both, Some("2")).is_some() && find(&both, Some("3")).is_none());
    }
}
