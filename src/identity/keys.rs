//! The keys by which tokens are signed and verified: ECDSA on P-256 with SHA-256 (`ES256`, RFC 7518, section 3.4).
//!
//! A private key is in this process's memory and in its file, and nowhere else. The public one travels as a JWK (RFC 7517) under its
//! thumbprint (RFC 7638), which is computed again wherever it arrives: no record can give one key the name of another.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use x509_parser::pem::parse_x509_pem;

use super::watch::write_privately;
use crate::config::Secret;
use crate::oci::Digest;

/// What a PKCS#8 private key is called in PEM (RFC 7468, section 10).
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// Characters in a line of PEM (RFC 7468, section 2).
const PEM_LINE_CHARS: usize = 64;
/// Bytes of one coordinate of a point on P-256.
const COORDINATE_BYTES: usize = 32;
/// What stands before the two coordinates of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Why a key cannot sign or verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is not PEM with a PRIVATE KEY (PKCS#8)")]
    NotPem,
    #[error("it is not a private key on the curve P-256")]
    NotP256,
    #[error("it is not a public key on the curve P-256")]
    NotPublic,
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// A private key, with its public one.
#[derive(Clone)]
pub struct SigningKey {
    private: EncodingKey,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    /// The public half only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(self.public.id()).finish()
    }
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate() -> Result<(SigningKey, Secret), KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.map_err(|_| KeyError::NoRandom)?;
        Ok((SigningKey::from_pkcs8(document.as_ref())?, pem(document.as_ref())))
    }

    /// From PKCS#8 in PEM.
    ///
    /// # Errors
    /// [`KeyError::NotPem`], [`KeyError::NotP256`].
    pub fn from_pem(text: &Secret) -> Result<SigningKey, KeyError> {
        let (_, block) = parse_x509_pem(text.expose().as_bytes()).map_err(|_| KeyError::NotPem)?;
        if block.label != PRIVATE_KEY {
            return Err(KeyError::NotPem);
        }
        SigningKey::from_pkcs8(&block.contents)
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<SigningKey, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).map_err(|_| KeyError::NotP256)?;
        let [UNCOMPRESSED, point @ ..] = pair.public_key().as_ref() else { return Err(KeyError::NotP256) };
        let (x, y) = point.split_at_checked(COORDINATE_BYTES).ok_or(KeyError::NotP256)?;
        let public = PublicKey::of(&Jwk::on_p256(URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))?;
        Ok(SigningKey { private: EncodingKey::from_ec_der(bytes), public })
    }

    /// The one that this edge made and keeps in a file; made now, if there is none that can be used.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`]. A file that cannot be written is no error: the key then ends with the process.
    pub fn kept(file: &Path) -> Result<SigningKey, KeyError> {
        match std::fs::read_to_string(file) {
            Ok(text) => match SigningKey::from_pem(&Secret::new(text)) {
                Ok(key) => return Ok(key),
                Err(why) => tracing::warn!(%why, file = %file.display(), "the key that signed tokens cannot be used: another is made"),
            },
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
            Err(why) => tracing::warn!(%why, file = %file.display(), "the key that signed tokens cannot be read: another is made"),
        }
        let (key, text) = SigningKey::generate()?;
        if let Err(why) = write_privately(file, text.expose().as_bytes()) {
            tracing::warn!(%why, file = %file.display(), "the key that signs tokens cannot be kept: the next start makes another");
        }
        Ok(key)
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn private(&self) -> &EncodingKey {
        &self.private
    }
}

/// PKCS#8 in PEM.
fn pem(der: &[u8]) -> Secret {
    let base64 = STANDARD.encode(der);
    let lines = base64.as_bytes().chunks(PEM_LINE_CHARS).map(String::from_utf8_lossy);
    let body = lines.fold(String::new(), |body, line| body + &line + "\n");
    Secret::new(format!("-----BEGIN {PRIVATE_KEY}-----\n{body}-----END {PRIVATE_KEY}-----\n"))
}

/// What verifies the tokens of one key.
#[derive(Clone)]
pub struct PublicKey {
    id: Arc<str>,
    jwk: Jwk,
    decoding: DecodingKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id).finish()
    }
}

/// A public key on P-256 as RFC 7517 writes it: the members that its thumbprint is made of, in their order (RFC 7638, section 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Jwk {
    crv: String,
    kty: String,
    x: String,
    y: String,
}

impl Jwk {
    fn on_p256(x: String, y: String) -> Jwk {
        Jwk { crv: "P-256".to_owned(), kty: "EC".to_owned(), x, y }
    }
}

impl PublicKey {
    /// From a JWK. Members that name no coordinate or curve are passed over.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`].
    pub fn from_jwk(jwk: &serde_json::Value) -> Result<PublicKey, KeyError> {
        PublicKey::of(&Jwk::deserialize(jwk).map_err(|_| KeyError::NotPublic)?)
    }

    fn of(jwk: &Jwk) -> Result<PublicKey, KeyError> {
        let is_coordinate = |text: &String| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == COORDINATE_BYTES);
        if *jwk != Jwk::on_p256(jwk.x.clone(), jwk.y.clone()) || !(is_coordinate(&jwk.x) && is_coordinate(&jwk.y)) {
            return Err(KeyError::NotPublic);
        }
        let decoding = DecodingKey::from_ec_components(&jwk.x, &jwk.y).map_err(|_| KeyError::NotPublic)?;
        let thumbprint = serde_json::to_vec(jwk).map_err(|_| KeyError::NotPublic)?;
        let id = URL_SAFE_NO_PAD.encode(Digest::sha256(&thumbprint).as_bytes());
        Ok(PublicKey { id: id.into(), jwk: jwk.clone(), decoding })
    }

    /// The thumbprint.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn jwk(&self) -> serde_json::Value {
        serde_json::json!(self.jwk)
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// RFC 7515, appendix A.3.1: a key, which RFC 7638 gives no thumbprint for; this one was computed with another program.
    const EXAMPLE: &str =
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn of_json(text: &str) -> Result<PublicKey, KeyError> {
        PublicKey::from_jwk(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_public_key_has_the_name_of_its_thumbprint() {
        let key = of_json(EXAMPLE).unwrap();
        assert_eq!(&**key.id(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
        assert_eq!(of_json(&EXAMPLE.replacen('{', r#"{"kid":"mine","use":"sig","#, 1)).unwrap().id(), key.id());
        assert_eq!(PublicKey::from_jwk(&key.jwk()).unwrap().id(), key.id());
    }

    #[test]
    fn what_is_no_key_on_the_curve_is_refused() {
        for (from, to) in [("EC", "RSA"), ("P-256", "P-384"), ("f83O", "f83"), ("f83O", "f8 O"), (r#""y""#, r#""z""#)] {
            assert_eq!(of_json(&EXAMPLE.replacen(from, to, 1)).unwrap_err(), KeyError::NotPublic, "{from} {to}");
        }
        for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"] {
            assert!(SigningKey::from_pem(&Secret::new(text.to_owned())).is_err(), "{text}");
        }
        let other_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        assert_eq!(SigningKey::from_pem(&Secret::new(other_curve)).unwrap_err(), KeyError::NotP256);
    }

    #[test]
    fn keys_of_other_programs_are_read() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = SigningKey::from_pem(&Secret::new(format!("A comment.\n{}", pair.serialize_pem()))).unwrap();
        let point = [key.public().jwk.x.as_str(), key.public().jwk.y.as_str()].map(|text| URL_SAFE_NO_PAD.decode(text).unwrap()).concat();
        assert!(rcgen::PublicKeyData::der_bytes(&pair).ends_with(&point));
    }

    #[test]
    fn an_edge_keeps_its_own_key_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token-key.pem");
        let first = SigningKey::kept(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::kept(&file).unwrap().public().id(), first.public().id());
        std::fs::write(&file, "damaged").unwrap();
        let second = SigningKey::kept(&file).unwrap();
        assert_ne!(second.public().id(), first.public().id());
        assert_eq!(SigningKey::kept(&file).unwrap().public().id(), second.public().id());
        assert!(SigningKey::kept(&folder.path().join("no/folder/token-key.pem")).is_ok());
    }

    #[test]
    fn a_private_key_does_not_print() {
        let (key, text) = SigningKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey({:?})", key.public().id()));
        assert_eq!(format!("{text:?}"), "Secret(...)");
    }
}
