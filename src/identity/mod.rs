//! Who is asking: by name and password (Basic, RFC 7617), for principals that are configured or were made at run time; by a token that
//! some edge issued (Bearer, RFC 6750); or by a client certificate. And what owners change at run time.

mod certificate;
mod claims;
mod control;
mod credentials;
pub mod governance;
mod keyring;
mod keys;
mod oidc;
mod passwords;
mod standing;
mod throttle;
mod tokens;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use subtle::{Choice, ConstantTimeEq};

use crate::access::{Caller, Principal};
use crate::config;
use crate::oci::Digest;

pub use certificate::{Authorities, ClientCertificate};
pub use claims::{MAX_TOKEN_BYTES, MintError, Proof, Subject};
pub use control::{
    ADMIN, Control, GROUP, IdentityKind, IdentityRecord, KeyRecord, NUMBERS, Number, RoleRecord, RuleRecord, SecretId, SecretRecord,
    assignee, secret_name,
};
pub use credentials::Credentials;
pub use governance::Governance;
pub use keys::{KeyError, SigningKey};
pub use oidc::{Oidc, OidcError, SignIn};
pub use passwords::Passwords;
pub use tokens::{AccessToken, REFRESH_TTL, Sources, Tokens};
pub use watch::Controls;

use certificate::Certified;
use passwords::Attempt;
use standing::Standings;

/// The user name that goes with a refresh token where clients know only names and passwords (Azure Container Registry has the same).
pub const REFRESH_USER: &str = "00000000-0000-0000-0000-000000000000";

/// The principals that can prove who they are.
pub struct Identity {
    entries: Vec<Entry>,
    standings: Standings,
    /// `None`: no token is accepted.
    tokens: Option<Tokens>,
    certified: Certified,
    /// `None`: nobody signs in at a provider.
    oidc: Option<Oidc>,
    /// Of principals that were made at run time.
    passwords: Option<Passwords>,
}

/// Who asks for a token.
#[derive(Debug)]
pub struct Applicant {
    pub caller: Caller,
    /// `None`: everybody.
    pub subject: Option<Subject>,
    pub means: Means,
}

/// By what somebody asks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By nothing, or by what is good until it is taken away.
    Credentials,
    /// By a refresh token, which earns no other: it could be made to last forever.
    RefreshToken,
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
    /// A token that is not, or not any more, good: 401, and another one may be (RFC 6750, section 3.1).
    #[error("the token is not accepted")]
    InvalidToken,
    /// Not looked at, because there was too much guessing, or too many come at a time: 429.
    #[error("too many attempts to sign in")]
    Throttled { retry_after: Duration },
}

impl Identity {
    /// By the passwords of these principals.
    pub fn new(principals: &[config::Principal]) -> Identity {
        let hash = |text: &str| Digest::sha256(text.as_bytes());
        let with_passwords = principals.iter().filter(|principal| !principal.passwords.is_empty());
        let entries = with_passwords
            .map(|principal| Entry {
                principal: principal.name.as_str().into(),
                name: hash(&principal.name),
                passwords: principal.passwords.iter().map(|password| hash(password.expose())).collect(),
            })
            .collect();
        let standings = Standings::new(principals, &Control::default());
        Identity { entries, standings, tokens: None, certified: Certified::new(principals), oidc: None, passwords: None }
    }

    /// And by tokens, of those who have not been taken away since.
    pub fn with_tokens(self, tokens: Tokens, principals: &[config::Principal], control: &Control) -> Identity {
        Identity { standings: Standings::new(principals, control), tokens: Some(tokens), ..self }
    }

    /// Establishes the caller of a request without an `Authorization` header by the certificate of its connection; `None` if that is
    /// nobody's here.
    pub fn by_certificate(&self, certificate: &ClientCertificate, address: IpAddr) -> Option<Caller> {
        Some(Caller::new(self.certified.find(certificate)?, address, "certificate"))
    }

    /// And by tokens of identity providers, which are exchanged for our own.
    pub fn with_providers(self, oidc: Oidc) -> Identity {
        Identity { oidc: Some(oidc), ..self }
    }

    /// Establishes whom a provider's token is about.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn exchange(&self, token: &str) -> Result<Subject, OidcError> {
        let (Some(oidc), Some(tokens)) = (&self.oidc, &self.tokens) else { return Err(OidcError::Refused("no provider is configured")) };
        let subject = oidc.verify(token).await?;
        if !self.standings.admit(&subject, tokens.clock().now()) {
            return Err(OidcError::Refused("its name is that of a principal of this registry"));
        }
        Ok(subject)
    }

    /// Where people sign in to get such a token.
    pub fn sign_ins(&self) -> Vec<SignIn> {
        self.oidc.as_ref().map(Oidc::sign_ins).unwrap_or_default()
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
        match Credentials::read(authorization)? {
            None => Ok(Caller::anonymous(address)),
            Some(Credentials::Basic { name, password }) => Box::pin(self.sign_in(&name, &password, address)).await,
            Some(Credentials::Bearer(token)) => self.bear(token, address).await,
        }
    }

    /// Establishes who has this password.
    ///
    /// # Errors
    /// [`AuthError::Refused`].
    pub async fn sign_in(&self, name: &[u8], password: &[u8], address: IpAddr) -> Result<Caller, AuthError> {
        let (principal, _) = self.prove(name, password, address).await?;
        Ok(Caller::new(principal, address, "basic"))
    }

    /// Who bears an access token. One that was seen before allocates nothing.
    async fn bear(&self, token: &str, address: IpAddr) -> Result<Caller, AuthError> {
        let tokens = self.tokens.as_ref().ok_or(AuthError::InvalidToken)?;
        let verdict = tokens.verify(token).await.ok_or(AuthError::InvalidToken)?;
        let is_gone = |subject| !self.standings.admit(subject, tokens.clock().now());
        if verdict.subject.as_ref().is_some_and(is_gone) {
            return Err(AuthError::InvalidToken);
        }
        Ok(verdict.caller(address))
    }

    /// Establishes who asks for a token, from all `Authorization` headers: as [`Identity::authenticate`], but a refresh token stands for
    /// a password, and an access token for nothing.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn apply<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a HeaderValue>,
        address: IpAddr,
    ) -> Result<Applicant, AuthError> {
        match Credentials::read(authorization)? {
            None => Ok(Applicant::new(Caller::anonymous(address))),
            Some(Credentials::Basic { name, password }) => self.apply_with(&name, &password, address).await,
            Some(Credentials::Bearer(_)) => Err(AuthError::Refused),
        }
    }

    /// Establishes who asks for a token by a name and a password.
    ///
    /// # Errors
    /// [`AuthError::Refused`].
    pub async fn apply_with(&self, name: &[u8], password: &[u8], address: IpAddr) -> Result<Applicant, AuthError> {
        if name != REFRESH_USER.as_bytes() {
            let (principal, secret) = self.prove(name, password, address).await?;
            return Ok(Applicant::new(Caller::new(principal, address, "basic")).by(secret));
        }
        let token = std::str::from_utf8(password).map_err(|_| AuthError::Refused)?;
        self.redeem(token, address).await
    }

    /// Establishes whose refresh token this is.
    ///
    /// # Errors
    /// [`AuthError::Refused`].
    pub async fn redeem(&self, token: &str, address: IpAddr) -> Result<Applicant, AuthError> {
        let tokens = self.tokens.as_ref().ok_or(AuthError::Refused)?;
        let subject = tokens.redeem(token).await.ok_or(AuthError::Refused)?;
        if !self.standings.admit(&subject, tokens.clock().now()) {
            return Err(AuthError::Refused);
        }
        let mut caller = Caller::new(Principal::Named(subject.name.clone()), address, Proof::of_token(Some(subject.proof)));
        caller.groups = subject.groups.clone();
        Ok(Applicant { caller, subject: Some(subject), means: Means::RefreshToken })
    }

    /// What issues tokens; `None` where none is accepted.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Whose password it is, and which secret, if its owner was made at run time.
    async fn prove(&self, name: &[u8], password: &[u8], address: IpAddr) -> Result<(Principal, Option<SecretId>), AuthError> {
        let configured = self.find(name, password);
        let Some(passwords) = &self.passwords else { return configured.map(|principal| (principal, None)).ok_or(AuthError::Refused) };
        let attempt = Attempt { name, password, address, is_configured: self.is_configured(name) };
        match configured {
            Some(principal) => passwords.admit(attempt).await.map(|()| (principal, None)),
            None => passwords.verify(attempt).await.map(|(name, secret)| (Principal::Named(name), Some(secret))),
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

impl Applicant {
    fn new(caller: Caller) -> Applicant {
        let subject = match (&caller.principal, Proof::of_word(caller.proof)) {
            (Principal::Named(name), Some(proof)) => {
                Some(Subject { name: name.clone(), groups: caller.groups.clone(), proof, secret: None })
            }
            _ => None,
        };
        Applicant { caller, subject, means: Means::Credentials }
    }

    /// Tokens end with the secret that they were had by.
    fn by(mut self, secret: Option<SecretId>) -> Applicant {
        if let Some(subject) = &mut self.subject {
            subject.secret = secret;
        }
        self
    }

    /// On which listener the request came: it may have network rules of its own.
    pub fn on(mut self, listener: usize) -> Applicant {
        self.caller.listener = listener;
        self
    }

    /// If it is somebody.
    pub fn named(self) -> Option<Applicant> {
        Some(self).filter(|applicant| applicant.subject.is_some())
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
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use futures_util::FutureExt;

    fn identity() -> Identity {
        let principal = |name: &str, passwords: &[&str]| config::Principal {
            name: name.to_owned(),
            passwords: passwords.iter().map(|text| config::Secret::new((*text).to_owned())).collect(),
            certificates: Vec::new(),
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
        assert_eq!(authenticate(&identity(), [&HeaderValue::from_static("Negotiate abc")]), Err(AuthError::Refused));
        assert_eq!(authenticate(&identity(), [&HeaderValue::from_static("Bearer abc")]), Err(AuthError::InvalidToken));
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
            certificates: Vec::new(),
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
