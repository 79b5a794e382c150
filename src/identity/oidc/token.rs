//! A provider's token (RFC 7519), judged strictly: OpenID Connect Core 1.0, section 3.1.3.7, and RFC 8725.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::OidcError;
use super::keys::{Key, algorithm};
use crate::clock::Timestamp;
use crate::config;
use crate::identity::{Proof, Subject};

/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the provider's clock may be ahead of this edge's.
const EARLY: Duration = Duration::from_secs(5 * 60);
/// How long a token is good after its end, since clocks differ.
const LATE: Duration = Duration::from_secs(60);
/// Groups of one token, and the bytes of one name, at most: longer lists go on without what is too much.
const MAX_GROUPS: usize = 512;
const MAX_GROUP_BYTES: usize = 256;

/// A token whose form is good; nothing in it is believed yet.
pub(super) struct Token<'a> {
    /// What is signed.
    message: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
    header: Header,
    claims: Claims,
    /// All claims, for those whose names the configuration says.
    named: Map<String, Value>,
}

/// The protected header (RFC 7515, section 4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    jwk: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
    crit: Option<IgnoredAny>,
}

/// The registered claims, with times as whole seconds: what is written otherwise is refused.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Audience::One(only) => only == wanted,
            Audience::Several(all) => all.iter().any(|each| each == wanted),
        }
    }
}

const fn refused<T>(why: &'static str) -> Result<T, OidcError> {
    Err(OidcError::Refused(why))
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn read(text: &'a str) -> Result<Token<'a>, OidcError> {
        if text.len() > MAX_TOKEN_BYTES {
            return refused("it is too long");
        }
        let Some((message, signature)) = text.rsplit_once('.') else { return refused("it is no signed token") };
        let Some((header, claims)) = message.split_once('.') else { return refused("it is no signed token") };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| OidcError::Refused("it is not written in base64url"));
        let (header, claims) = (decode(header)?, decode(claims)?);
        let Ok(header) = serde_json::from_slice::<Header>(&header) else { return refused("its header cannot be read") };
        let Some(algorithm) = algorithm(&header.alg) else { return refused("its algorithm is none of a key pair") };
        if header.jwk.is_some() || header.jku.is_some() || header.x5u.is_some() || header.x5c.is_some() {
            return refused("it brings its own key");
        }
        if header.crit.is_some() {
            return refused("it has a critical header that is not understood");
        }
        let Ok(named) = serde_json::from_slice(&claims) else { return refused("its claims are no JSON object") };
        let Ok(claims) = serde_json::from_slice(&claims) else { return refused("its registered claims cannot be read") };
        Ok(Token { message, signature, algorithm, header, claims, named })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Who it is about, if it is for this registry and good now. Nothing of it is proved before [`verify`](Self::verify).
    pub(super) fn subject(&self, settings: &config::Oidc, now: Timestamp) -> Result<Subject, OidcError> {
        let Claims { iss, aud, exp, iat, nbf } = &self.claims;
        if *iss != settings.issuer {
            return refused("its issuer is another");
        }
        if !aud.contains(&settings.audience) {
            return refused("it is for somebody else");
        }
        let now = now.as_ms() / 1_000;
        if exp.saturating_add(LATE.as_secs()) <= now {
            return refused("it has expired");
        }
        let latest = now.saturating_add(EARLY.as_secs());
        if *iat > latest || nbf.is_some_and(|nbf| nbf > latest) {
            return refused("it is not good yet");
        }
        let name = format!("{}{}", settings.prefix, self.name(&settings.name_claim)?);
        if !config::is_principal(&name) {
            return refused("its name cannot be a principal's");
        }
        Ok(Subject { name: name.into(), groups: self.groups(settings), proof: Proof::Oidc, secret: None })
    }

    /// An address that the provider says it has not verified is anybody's.
    fn name(&self, claim: &str) -> Result<&str, OidcError> {
        let email = |claim: &&str| *claim != "email" || self.named.get("email_verified") != Some(&Value::Bool(false));
        let candidates = [claim, "email", "sub"].into_iter().filter(email);
        let named = candidates.filter_map(|claim| self.named.get(claim)).next();
        named.and_then(Value::as_str).ok_or(OidcError::Refused("its name is no text"))
    }

    /// One name, or a list; what is no text counts as nothing, since groups only ever give.
    fn groups(&self, settings: &config::Oidc) -> Arc<[Arc<str>]> {
        let named = match self.named.get(&settings.groups_claim) {
            Some(Value::Array(names)) => names.as_slice(),
            Some(only) => std::slice::from_ref(only),
            None => &[],
        };
        let fitting = named.iter().filter_map(Value::as_str).filter(|name| (1..=MAX_GROUP_BYTES).contains(&name.len()));
        fitting.take(MAX_GROUPS).map(|name| format!("{}{name}", settings.prefix).into()).collect()
    }

    /// Whether the key signed it.
    pub(super) fn verify(&self, key: &Key) -> Result<(), OidcError> {
        if key.verifies(self.algorithm, self.message, self.signature) { Ok(()) } else { refused("its signature is not the provider's") }
    }
}
