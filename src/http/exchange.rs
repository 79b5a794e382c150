//! `POST /oauth2/exchange`: an identity provider's token for a refresh token of this registry, as Azure Container Registry has it
//! (Azure/acr, docs/AAD-OAuth.md); and `GET /outport/v1/login`: where people get such a token.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use url::form_urlencoded;

use super::admit::Site;
use super::body::Payload;
use super::error::Failure;
use super::log::Record;
use super::respond;
use super::service::within;
use crate::access::{Caller, Policy, Principal};
use crate::config::Secret;
use crate::identity::{OidcError, Subject};

/// The largest form that is read: a provider's token, and room to spare.
pub const MAX_FORM_BYTES: usize = 32 * 1024;

/// What names of groups one refresh token may hold, in bytes: clients send it in a header. Of more, those stay that a role is assigned to.
const MAX_GROUPS_BYTES: usize = 4 * 1024;

/// Azure's deprecated form brings the provider's refresh token too, which is of no use here.
const GRANT_TYPES: [&str; 2] = ["access_token", "access_token_refresh_token"];

/// The provider's token in a form. `service` and `tenant` change nothing: tokens are for the registry as a whole, and name their issuer.
fn provider_token(form: &[u8]) -> Result<Secret, Failure> {
    let (mut grant_type, mut token) = (None, None);
    for (name, value) in form_urlencoded::parse(form) {
        let place = match name.as_ref() {
            "grant_type" => &mut grant_type,
            "access_token" => &mut token,
            _ => continue,
        };
        // RFC 6749, section 3.2.
        if place.replace(value.into_owned()).is_some() {
            return Err(Failure::bad_command("a parameter stands twice"));
        }
    }
    if !grant_type.is_some_and(|grant_type| GRANT_TYPES.contains(&grant_type.as_str())) {
        return Err(Failure::bad_command("grant_type is access_token"));
    }
    token.filter(|token| !token.is_empty()).map(Secret::new).ok_or_else(|| Failure::bad_command("access_token is missing"))
}

/// The groups that fit into a token.
fn fitting(groups: &Arc<[Arc<str>]>, policy: &Policy) -> Arc<[Arc<str>]> {
    let size = |groups: &[Arc<str>]| groups.iter().map(|group| group.len()).sum::<usize>();
    if size(groups) <= MAX_GROUPS_BYTES {
        return groups.clone();
    }
    let mut room = MAX_GROUPS_BYTES;
    let fits = |group: &&Arc<str>| {
        let left = room.checked_sub(group.len()).filter(|_| policy.has_role_for_group(group));
        room = left.unwrap_or(room);
        left.is_some()
    };
    groups.iter().filter(fits).cloned().collect()
}

impl From<OidcError> for Failure {
    fn from(error: OidcError) -> Failure {
        match error {
            OidcError::Refused(_) => Failure::token_refused(error.to_string()),
            OidcError::Unavailable(_) => Failure::unavailable(error.to_string(), None),
        }
    }
}

/// Answers the form of an exchange.
pub(super) async fn exchange(site: &Site, form: &Bytes, record: &mut Record) -> Result<Response<Payload>, Failure> {
    let token = provider_token(form)?;
    let judged = within(site.deadline, async { Ok(site.identity.judge(token.expose()).await) }).await?;
    let caller = judged.as_ref().map(|subject| Caller {
        groups: subject.groups.clone(),
        ..Caller::new(Principal::Named(subject.name.clone()), record.caller().address, "oidc")
    });
    record.authenticated(caller.as_ref());
    let subject = judged?;
    let subject = Subject { groups: fitting(&subject.groups, &site.policy), ..subject };
    let token = site.identity.refresh_token(&subject).map_err(|why| Failure::unavailable(why.to_string(), None))?;
    Ok(respond::secret(&serde_json::json!({ "refresh_token": token.expose() })))
}

/// Tells where people sign in.
pub(super) fn sign_ins(site: &Site) -> Response<Payload> {
    respond::json(serde_json::json!({ "providers": site.identity.sign_ins() }).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Assignee, Assignment, Role};

    #[test]
    fn a_form_is_read_as_azures_clients_write_it() {
        for (form, token) in [
            ("grant_type=access_token&service=r&tenant=t&access_token=a.b.c", Ok("a.b.c")),
            ("access_token=a%2Bb&grant_type=access_token_refresh_token&refresh_token=r", Ok("a+b")),
            ("grant_type=refresh_token&refresh_token=r", Err(400)),
            ("access_token=a", Err(400)),
            ("grant_type=access_token", Err(400)),
            ("grant_type=access_token&access_token=", Err(400)),
            ("grant_type=access_token&access_token=a&access_token=b", Err(400)),
            ("grant_type=access_token&grant_type=access_token&access_token=a", Err(400)),
            ("", Err(400)),
            ("\u{0}=%ff&%", Err(400)),
        ] {
            let read = provider_token(form.as_bytes()).map(|token| token.expose().to_owned()).map_err(|failure| failure.status.as_u16());
            assert_eq!(read, token.map(str::to_owned), "{form}");
        }
    }

    #[test]
    fn of_too_many_groups_those_with_roles_stay() {
        let group = |number: usize| Arc::<str>::from(format!("group {number:0>94}"));
        let assignment = |number| Assignment { role: Role::AcrPull, to: Assignee::Group(group(number)), repositories: None };
        let policy = Policy { assignments: vec![assignment(3), assignment(99)], ..Policy::default() };
        let groups = |count| (0..count).map(group).collect::<Arc<[_]>>();
        assert_eq!(fitting(&groups(40), &policy).len(), 40);
        assert_eq!(fitting(&groups(100), &policy).as_ref(), [group(3), group(99)]);
        let all = Policy { assignments: (0..100).map(assignment).collect(), ..Policy::default() };
        assert_eq!(fitting(&groups(100), &all).len(), 40);
    }
}
