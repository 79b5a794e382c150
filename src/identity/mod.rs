//! Who is asking: passwords of principals that are configured or were made at run time, by Basic authentication (RFC 7617). And what
//! owners change at run time.

mod control;
pub mod governance;
mod passwords;
mod throttle;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use subtle::{Choice, ConstantTimeEq};

use crate::access::{Caller, Principal};
use crate::config;
use crate::oci::Digest;

pub use control::{
    ADMIN, Control, GROUP, IdentityKind, IdentityRecord, KeyRecord, NUMBERS, Number, RoleRecord, RuleRecord, SecretRecord, assignee,
    secret_name,
};
pub use governance::Governance;
pub use passwords::Passwords;
pub use watch::Controls;

use passwords::Attempt;

/// The challenge of every 401. It is ours and never changes: containerd keeps one for each host.
pub const CHALLENGE: &str = r#"Basic realm="outport""#;

/// The longest credentials that are looked at, in bytes.
const MAX_CREDENTIALS_BYTES: usize = 8 * 1024;

/// The principals that can prove who they are.
pub struct Identity {
    entries: Vec<Entry>,
    /// Of principals that were made at run time.
    passwords: Option<Passwords>,
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
    /// Not looked at, because there was too much guessing, or too many come at a time: 429.
    #[error("too many attempts to sign in")]
    Throttled { retry_after: Duration },
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
        Identity { entries, passwords: None }
    }

    /// Beside those of the configuration, principals that were made at run time; and a limit to guessing.
    pub fn with_passwords(self, passwords: Passwords) -> Identity {
        Identity { passwords: Some(passwords), ..self }
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
        let principal = self.prove(name, password.get(1..).unwrap_or_default(), address).await?;
        Ok(Caller::new(principal, address, "basic"))
    }

    async fn prove(&self, name: &[u8], password: &[u8], address: IpAddr) -> Result<Principal, AuthError> {
        let configured = self.find(name, password);
        let Some(passwords) = &self.passwords else { return configured.ok_or(AuthError::Refused) };
        let attempt = Attempt { name, password, address, is_configured: self.is_configured(name) };
        match configured {
            Some(principal) => passwords.admit(attempt).await.map(|()| principal),
            None => passwords.verify(attempt).await.map(Principal::Named),
        }
    }

    fn is_configured(&self, name: &[u8]) -> bool {
        self.entries.iter().any(|entry| entry.principal.as_bytes() == name)
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
