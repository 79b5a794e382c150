//! Requests about which an upstream decides: admitted by its word, with the credentials that the caller has there. They are Basic (RFC
//! 7617): a token is made for one registry, and this edge is another. They are not looked up among this edge's own principals, nor are
//! they written anywhere.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::admit::{Call, Read, Site};
use super::error::{Failure, Subject};
use super::log::Record;
use super::route::{Action, Wanted};
use super::service::within;
use crate::access::{Caller, Lent, Principal};
use crate::cache::CacheError;
use crate::identity::{AuthError, Credentials};
use crate::registry::push::PushError;
use crate::registry::{Addressing, Glimpse, Target};

/// The longest credentials that are looked at, in bytes.
const MAX_CREDENTIALS_BYTES: usize = 8 * 1024;

/// What such a request is about.
#[derive(Debug, PartialEq)]
pub(super) enum Elsewhere {
    Repository(Target),
    /// The version check under a host name that stands for this upstream alone: by it clients find out how to sign in.
    Upstream(String),
}

impl Site {
    /// Whether an upstream decides about a request.
    pub(super) fn elsewhere(&self, action: &Action, host: Option<&str>) -> Option<Elsewhere> {
        // As it is for most edges: their requests pay nothing for this.
        if self.policy.decided_elsewhere.is_empty() {
            return None;
        }
        match action {
            Action::Read { name, ns, .. } | Action::Write { name, ns, .. } => {
                // A name that leads nowhere is refused in its turn.
                let target = self.names.resolve(Addressing { name, ns: ns.as_deref(), host }).ok()?;
                self.policy.is_decided_elsewhere(&target.repository).then_some(Elsewhere::Repository(target))
            }
            Action::Version => {
                let upstream = self.names.by_host(host?)?;
                self.vouching.is_up_to(upstream).then(|| Elsewhere::Upstream(upstream.to_string()))
            }
            _ => None,
        }
    }

    /// Admits it if the upstream says so. What it does not show, and what it does not have, are the same answer.
    pub(super) async fn admit_elsewhere(
        &self,
        elsewhere: Elsewhere,
        action: Action,
        headers: &HeaderMap,
        record: &mut Record,
    ) -> Result<Call, Failure> {
        let lent = match lent(headers) {
            Ok(lent) => lent.ok_or_else(Failure::credentials_wanted)?,
            Err(error) => {
                record.authenticated(Err(&error));
                return Err(error.into());
            }
        };
        match (elsewhere, action) {
            (Elsewhere::Upstream(upstream), _) => {
                let asking = async { self.vouching.ask_for_entry(&lent, &upstream).await.map_err(entry_refused) };
                within(self.deadline, asking).await?;
                vouched_by(&upstream, record);
                Ok(Call::Version)
            }
            (Elsewhere::Repository(target), Action::Read { name, ns, wanted }) => {
                record.upstream = target.upstream.clone();
                record.repository = Some(target.repository.clone());
                let subject = wanted.subject();
                let glimpse = glimpse(&wanted).ok_or_else(|| Failure::absent(subject))?;
                let refused = |error| Failure::from_cache(error, subject);
                let asking = async { self.vouching.ask(lent, &target.repository, glimpse).await.map_err(refused) };
                let vouched = within(self.deadline, asking).await?;
                vouched_by(target.upstream.as_deref().unwrap_or_default(), record);
                let access = self.policy.authorize_vouched(record.caller(), &target.repository, wanted.action(), &vouched);
                let access = access.map_err(|denied| Failure::denied(denied, subject))?;
                Ok(Call::Read(Read { access, name, ns, wanted }))
            }
            // Nothing is pushed to an upstream's repositories, whoever asks.
            (Elsewhere::Repository(target), _) => {
                record.upstream = target.upstream;
                record.repository = Some(target.repository);
                Err(PushError::Proxied.into())
            }
        }
    }
}

/// No principal's name has a colon. The caller's own is a part of its credentials.
fn vouched_by(upstream: &str, record: &mut Record) {
    let principal = Principal::Named(format!("upstream:{upstream}").into());
    let caller = Caller { principal, proof: "upstream", ..record.caller().clone() };
    record.authenticated::<AuthError>(Ok(&caller));
}

/// Where nothing is shown, a refusal may say that it is one.
fn entry_refused(error: CacheError) -> Failure {
    match error {
        CacheError::Absent => Failure::credentials_wanted(),
        error => Failure::from_cache(error, Subject::Repository),
    }
}

/// By what it is found out whether something may be read; `None` for what no upstream has.
fn glimpse(wanted: &Wanted) -> Option<Glimpse<'_>> {
    match wanted {
        Wanted::Manifest(reference) => Some(Glimpse::Manifest(reference)),
        Wanted::Blob(digest) => Some(Glimpse::Blob(digest)),
        // That a manifest has no referrers, or is not there, says nothing of its repository.
        Wanted::Tags(_) | Wanted::Referrers { .. } => Some(Glimpse::Tags),
        Wanted::Receipt(_) => None,
    }
}

/// A user name and password, if the one `Authorization` header has them. What else it may have is good for other doors.
fn lent(headers: &HeaderMap) -> Result<Option<Lent>, AuthError> {
    let values = || headers.get_all(AUTHORIZATION).iter();
    if values().any(|value| value.len() > MAX_CREDENTIALS_BYTES) {
        return Err(AuthError::Malformed);
    }
    match Credentials::read(values()) {
        Ok(Some(Credentials::Basic { name, password })) => {
            let text = |bytes| String::from_utf8(bytes).map_err(|_| AuthError::Malformed);
            Ok(Some(Lent::new(text(name)?, text(password)?)))
        }
        Ok(None | Some(Credentials::Bearer(_))) | Err(AuthError::Refused) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&str]) -> Result<Option<(String, String)>, AuthError> {
        let headers = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect();
        lent(&headers).map(|lent| lent.map(|lent| (lent.username().to_owned(), lent.password().to_owned())))
    }

    #[test]
    fn only_a_name_and_a_password_are_lent() {
        let encoded = STANDARD.encode("alice:pass:word");
        let alice = Ok(Some(("alice".to_owned(), "pass:word".to_owned())));
        assert_eq!(read(&[&format!("Basic {encoded}")]), alice);
        assert_eq!(read(&[&format!("bASIC  {encoded}")]), alice);
        assert_eq!(read(&[&format!("Basic {}", STANDARD.encode(":"))]), Ok(Some((String::new(), String::new()))));
        for values in [&[][..], &["Bearer abc"], &["Negotiate abc"]] {
            assert_eq!(read(values), Ok(None), "{values:?}");
        }
        let (long, binary) = (format!("Basic {}", "A".repeat(MAX_CREDENTIALS_BYTES)), format!("Basic {}", STANDARD.encode(b"a:\xff")));
        for values in [&["Basic"][..], &["Basic !!!"], &["Basic YQ=="], &["Basic YTpi", "Basic YTpi"], &[&long], &[&binary], &[""]] {
            assert_eq!(read(values), Err(AuthError::Malformed), "{values:?}");
        }
    }
}
