//! What tokens say (RFC 7519), strictly: a claim that is missing, doubled or of another type makes the whole token unreadable. Times
//! are whole seconds; RFC 7519 would allow fractions, and our own tokens have none.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::control::SecretId;
use super::keys::{PublicKey, SigningKey};
use crate::access::{Scope, Scopes};
use crate::clock::Timestamp;

/// A token in its compact form, at most, in bytes. The server takes heads of 24 KiB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Clocks of edges may be this far apart: so long before its time and after it a token is still good.
pub const LEEWAY: Duration = Duration::from_secs(5 * 60);

/// Whom tokens are for: the registry, which is all its regions, whatever host names they go by.
const REGISTRY: &str = "outport";
/// Whom refresh tokens are for.
const TOKEN_ENDPOINT: &str = "outport/oauth2/token";

/// How somebody proved who it is before it got a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// A name and its password.
    Basic,
    /// A client certificate.
    Certificate,
    /// A token of an identity provider.
    Oidc,
}

impl Proof {
    /// By the word that a caller has for it; `None` for what earns no token.
    pub fn of_word(word: &str) -> Option<Proof> {
        match word {
            "basic" => Some(Proof::Basic),
            "certificate" => Some(Proof::Certificate),
            "oidc" => Some(Proof::Oidc),
            _ => None,
        }
    }

    /// What the record says of a caller that shows a token which was had by it; `None`: by nothing.
    pub(super) fn of_token(proof: Option<Proof>) -> &'static str {
        match proof {
            None => "token",
            Some(Proof::Basic) => "token:basic",
            Some(Proof::Certificate) => "token:certificate",
            Some(Proof::Oidc) => "token:oidc",
        }
    }
}

/// Somebody who has proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub name: Arc<str>,
    /// As the identity provider names them.
    pub groups: Arc<[Arc<str>]>,
    pub proof: Proof,
    /// By which secret, if it was one that can be replaced at run time.
    pub secret: Option<SecretId>,
}

/// A kind of token. No kind is taken for the other: type and audience differ (RFC 8725, sections 3.9 and 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Access,
    Refresh,
}

impl Kind {
    /// RFC 9068, section 2.1, has a type for access tokens; the other is ours.
    fn media_type(self) -> &'static str {
        match self {
            Kind::Access => "at+jwt",
            Kind::Refresh => "rt+jwt",
        }
    }

    fn audience(self) -> &'static str {
        match self {
            Kind::Access => REGISTRY,
            Kind::Refresh => TOKEN_ENDPOINT,
        }
    }
}

/// The claims of both kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The region whose edge issued it.
    pub iss: String,
    aud: String,
    /// Left out for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    groups: Arc<[Arc<str>]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<SecretId>,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    /// Only of an access token (distribution, "Token Authentication Implementation").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    access: Vec<Resource>,
}

fn is_empty(groups: &Arc<[Arc<str>]>) -> bool {
    groups.is_empty()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Resource {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

impl Resource {
    /// Scopes by which nothing may be done are left out.
    fn of(scope: &Scope) -> Option<Resource> {
        let text = scope.to_string();
        let ((r#type, rest), (_, actions)) = text.split_once(':').zip(text.rsplit_once(':'))?;
        let name = rest.strip_suffix(actions)?.strip_suffix(':')?;
        let actions: Vec<String> = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
        (!actions.is_empty()).then(|| Resource { r#type: r#type.to_owned(), name: name.to_owned(), actions })
    }

    fn scope(&self) -> Option<Scope> {
        Scope::parse(&format!("{}:{}:{}", self.r#type, self.name, self.actions.join(",")))
    }
}

/// Why a token cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("a token would be longer than {MAX_TOKEN_BYTES} bytes: ask for fewer scopes")]
    TooLong,
    #[error("the token cannot be signed")]
    Signing,
}

/// What a token is to say of time and origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issue<'a> {
    pub region: &'a str,
    pub now: Timestamp,
    pub ttl: Duration,
}

impl Claims {
    pub fn new(kind: Kind, subject: Option<&Subject>, scopes: &Scopes, issue: Issue<'_>) -> Claims {
        let iat = seconds(issue.now);
        Claims {
            iss: issue.region.to_owned(),
            aud: kind.audience().to_owned(),
            sub: subject.map(|subject| subject.name.clone()),
            groups: subject.map(|subject| subject.groups.clone()).unwrap_or_default(),
            proof: subject.map(|subject| subject.proof),
            secret: subject.and_then(|subject| subject.secret),
            iat,
            nbf: iat,
            exp: iat.saturating_add(issue.ttl.as_secs()),
            jti: Ulid::generate().to_string(),
            access: scopes.iter().filter_map(Resource::of).collect(),
        }
    }

    /// The compact form (RFC 7515, section 7.1).
    pub fn sign(&self, kind: Kind, key: &SigningKey) -> Result<String, MintError> {
        let token = encode(&header(kind, key.public()), self, key.private()).map_err(|_| MintError::Signing)?;
        if token.len() > MAX_TOKEN_BYTES { Err(MintError::TooLong) } else { Ok(token) }
    }

    /// Who has the token; `None`: everybody.
    pub fn subject(&self) -> Option<Subject> {
        let (name, proof) = self.sub.clone().zip(self.proof)?;
        Some(Subject { name, groups: self.groups.clone(), proof, secret: self.secret })
    }

    pub fn scopes(&self) -> Scopes {
        Scopes::new(self.access.iter().filter_map(Resource::scope))
    }

    /// When it begins to be good, and from when on it is not any more, on clocks that are as far off as may be.
    pub fn bounds(&self) -> (Timestamp, Timestamp) {
        let at = |seconds: u64| Timestamp::from_ms(seconds.saturating_mul(1_000));
        (Timestamp::from_ms(at(self.nbf).as_ms().saturating_sub(LEEWAY.as_millis() as u64)), at(self.exp).plus(LEEWAY))
    }
}

fn seconds(at: Timestamp) -> u64 {
    at.as_ms() / 1_000
}

fn header(kind: Kind, key: &PublicKey) -> Header {
    let (typ, kid) = (Some(kind.media_type().to_owned()), Some(key.id().to_string()));
    Header { typ, kid, ..Header::new(Algorithm::ES256) }
}

/// The key that a token says it was signed with. Nothing of that is believed yet.
pub(super) fn key_id(token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    decode_header(token).ok()?.kid
}

/// What a token says, if it is of this kind and this key signed it. Its time is not judged.
///
/// The header has to be the very one that we write: `alg` is pinned, and `jwk`, `jku`, `x5u`, `x5c`, `crit` and whatever else could
/// lead to another key are refused by their presence.
pub(super) fn read(token: &str, kind: Kind, key: &PublicKey) -> Option<Claims> {
    if decode_header(token).ok()? != header(kind, key) {
        return None;
    }
    let claims: Claims = verified(token, key)?;
    let is_whole = claims.aud == kind.audience() && claims.sub.is_some() == claims.proof.is_some();
    Some(claims).filter(|_| is_whole)
}

/// The crate judges the signature alone: it rounds fractions in times and asks the system's clock.
fn verified<T: DeserializeOwned>(token: &str, key: &PublicKey) -> Option<T> {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims = HashSet::new();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    decode(token, key.decoding(), &validation).ok().map(|data| data.claims)
}
