//! Who is asking. In this form: passwords of configured principals, by Basic authentication (RFC 7617).

mod control;
mod oidc;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use subtle::{Choice, ConstantTimeEq};

use crate::access::{Caller, Principal};
use crate::config;
use crate::oci::Digest;

pub use control::{Control, GROUP, IdentityKind, IdentityRecord, KeyRecord, RoleRecord, RuleRecord, SecretRecord, assignee};

pub use oidc::{Oidc, OidcError, SignIn};
pub use watch::Controls;

/// The challenge of every 401. It is ours and never changes: containerd keeps one for each host.
pub const CHALLENGE: &str = r#"Basic realm="outport""#;

/// The longest credentials that are looked at, in bytes.
const MAX_CREDENTIALS_BYTES: usize = 8 * 1024;

/// Somebody who has proved who it is: what a refresh token is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub name: Arc<str>,
    /// Groups that the identity provider named.
    pub groups: Arc<[Arc<str>]>,
    pub proof: Proof,
}

/// How somebody proved who it is before it got a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A token of an identity provider.
    Oidc,
}

/// The principals that can prove who they are.
pub struct Identity {
    entries: Vec<Entry>,
    /// `None`: nobody signs in at a provider.
    oidc: Option<Oidc>,
}

/// Hashes, so that comparing takes the same time whatever the lengths are. Passwords of services are long and random: a slow
/// hash would guard nothing here, since the configuration has them in clear.
struct Entry {
    principal: Arc<str>,
    name: Digest,
    passwords: Vec<Digest>,
}

/// Why credentials establish nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not to be read: 400.
    #[error("there is at most one Authorization header, and it is well formed")]
    Malformed,
    /// Read and not accepted: 401.
    #[error("the credentials are not accepted")]
    Refused,
}

impl Identity {
    pub fn new(principals: &[config::Principal]) -> Identity {
        let hash = |text: &str| Digest::sha256(text.as_bytes());
        let entries = principals
            .iter()
            .map(|principal| Entry {
                principal: principal.name.as_str().into(),
                name: hash(&principal.name),
                passwords: principal.passwords.iter().map(|password| hash(password.expose())).collect(),
            })
            .collect();
        Identity { entries, oidc: None }
    }

    /// And by tokens of identity providers, which are exchanged for our own.
    pub fn with_providers(self, oidc: Oidc) -> Identity {
        Identity { oidc: Some(oidc), ..self }
    }

    /// Establishes whom a provider's token is about. A name that a principal of this registry has is not the provider's to give.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn judge(&self, token: &str) -> Result<Subject, OidcError> {
        let oidc = self.oidc.as_ref().ok_or(OidcError::Refused("no provider is configured"))?;
        let subject = oidc.verify(token).await?;
        if self.entries.iter().any(|entry| entry.principal == subject.name) {
            return Err(OidcError::Refused("its name is that of a principal of this registry"));
        }
        Ok(subject)
    }

    /// Where people sign in to get such a token.
    pub fn sign_ins(&self) -> Vec<SignIn> {
        self.oidc.as_ref().map(Oidc::sign_ins).unwrap_or_default()
    }

    /// Until tokens land here.
    pub fn refresh_token(&self, _subject: &Subject) -> Result<config::Secret, OidcError> {
        Err(OidcError::Refused("no tokens yet"))
    }

    /// Establishes the caller from all `Authorization` headers of a request that came from an address; none at all is anonymous.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn authenticate<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a HeaderValue>,
        address: IpAddr,
    ) -> Result<Caller, AuthError> {
        let mut headers = authorization.into_iter();
        let Some(header) = headers.next() else { return Ok(Caller::anonymous(address)) };
        if headers.next().is_some() || header.len() > MAX_CREDENTIALS_BYTES {
            return Err(AuthError::Malformed);
        }
        let (scheme, credentials) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Malformed)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(AuthError::Refused);
        }
        let decoded = STANDARD.decode(credentials.trim()).map_err(|_| AuthError::Malformed)?;
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(AuthError::Malformed)?;
        let (name, password) = decoded.split_at(colon);
        let principal = self.find(name, password.get(1..).unwrap_or_default()).ok_or(AuthError::Refused)?;
        Ok(Caller::new(principal, address, "basic"))
    }

    /// Compares with every password of every principal, whatever matches: a known name costs what an unknown one costs.
    fn find(&self, name: &[u8], password: &[u8]) -> Option<Principal> {
        let (name, password) = (Digest::sha256(name), Digest::sha256(password));
        let mut found = None;
        for entry in &self.entries {
            let known = entry.passwords.iter().fold(Choice::from(0), |known, own| known | own.as_bytes().ct_eq(password.as_bytes()));
            if (known & entry.name.as_bytes().ct_eq(name.as_bytes())).into() {
                found = Some(Principal::Named(entry.principal.clone()));
            }
        }
        found
    }
}

impl fmt::Debug for Identity {
    /// The names only: a hash of a password is a secret too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.principal)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn identity() -> Identity {
        let principal = |name: &str, passwords: &[&str]| config::Principal {
            name: name.to_owned(),
            passwords: passwords.iter().map(|text| config::Secret::new((*text).to_owned())).collect(),
            pull: Vec::new(),
            push: Vec::new(),
        };
        Identity::new(&[principal("ci", &["first", "second:with colon"]), principal("other", &["third"])])
    }

    fn authenticate<'a>(identity: &Identity, authorization: impl IntoIterator<Item = &'a HeaderValue>) -> Result<Principal, AuthError> {
        let caller = identity.authenticate(authorization, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)).now_or_never();
        caller.expect("nothing here waits").map(|caller| caller.principal)
    }

    fn basic(user: &str, password: &str) -> HeaderValue {
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[test]
    fn both_passwords_of_a_principal_are_good() {
        for password in ["first", "second:with colon"] {
            assert_eq!(authenticate(&identity(), [&basic("ci", password)]), Ok(Principal::Named("ci".into())));
        }
        let spelled = HeaderValue::try_from(format!("bASIC  {}", STANDARD.encode("ci:first"))).unwrap();
        assert_eq!(authenticate(&identity(), [&spelled]), Ok(Principal::Named("ci".into())));
    }

    #[test]
    fn no_credentials_are_anonymous_and_wrong_ones_are_refused() {
        assert_eq!(authenticate(&identity(), []), Ok(Principal::Anonymous));
        for (user, password) in
            [("ci", "third"), ("ci", ""), ("nobody", "first"), ("", ""), ("CI", "first"), ("ci", "first "), ("", "first")]
        {
            assert_eq!(authenticate(&identity(), [&basic(user, password)]), Err(AuthError::Refused), "{user}:{password}");
        }
        assert_eq!(authenticate(&identity(), [&HeaderValue::from_static("Bearer abc")]), Err(AuthError::Refused));
    }

    #[test]
    fn row_67_double_malformed_and_oversized_credentials_are_refused() {
        let good = basic("ci", "first");
        assert_eq!(authenticate(&identity(), [&good, &good]), Err(AuthError::Malformed));
        for text in ["", "Basic", "Basic !!!", "Basic Y2k=", "garbage"] {
            assert_eq!(authenticate(&identity(), [&HeaderValue::from_static(text)]), Err(AuthError::Malformed), "{text}");
        }
        assert_eq!(authenticate(&identity(), [&basic("ci", &"x".repeat(64 * 1024))]), Err(AuthError::Malformed));
        assert_eq!(authenticate(&identity(), [&HeaderValue::from_bytes(b"Basic \xff").unwrap()]), Err(AuthError::Malformed));
    }

    #[test]
    fn row_71_passwords_that_differ_after_byte_72_are_different() {
        let long = "x".repeat(100);
        let principal = config::Principal {
            name: "ci".to_owned(),
            passwords: vec![config::Secret::new(format!("{long}a"))],
            pull: Vec::new(),
            push: Vec::new(),
        };
        let identity = Identity::new(&[principal]);
        assert!(authenticate(&identity, [&basic("ci", &format!("{long}a"))]).is_ok());
        assert_eq!(authenticate(&identity, [&basic("ci", &format!("{long}b"))]), Err(AuthError::Refused));
    }

    #[test]
    fn row_88_nothing_secret_prints() {
        let text = format!("{:?}", identity());
        assert_eq!(text, r#"["ci", "other"]"#);
    }
}
