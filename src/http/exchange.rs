//! `POST /oauth2/exchange`: an identity provider's token for a refresh token of this registry, as Azure Container Registry has it
//! (Azure/acr, docs/AAD-OAuth.md); and `GET /outport/v1/login`: where people get such a token.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::admit::Site;
use super::body::Payload;
use super::error::Failure;
use super::intake::Reuse;
use super::log::Record;
use super::oauth2::{Asked, Form, NoToken, Refusal, answered, read_form, uncached};
use super::respond;
use super::route::RouteError;
use super::service::{Http, within};
use crate::access::{Caller, Policy, Principal};
use crate::identity::{OidcError, Subject};

/// What names of groups one refresh token may hold, in bytes: clients send it in a header. Of more, those stay that a role is assigned to.
const MAX_GROUPS_BYTES: usize = 4 * 1024;

/// Azure's deprecated form brings the provider's refresh token too, which is of no use here.
const GRANT_TYPES: [&str; 2] = ["access_token", "access_token_refresh_token"];

/// The provider's token in a form. `service` and `tenant` change nothing: tokens are for the registry as a whole, and name their issuer.
fn provider_token(form: &Form) -> Result<&str, Refusal> {
    let grant_type = form.required("grant_type", "there is no grant_type")?;
    if !GRANT_TYPES.contains(&grant_type) {
        return Err(Refusal::EXCHANGE);
    }
    form.required("access_token", "there is no access_token")
}

/// The groups that fit into a token.
fn fitting(groups: &Arc<[Arc<str>]>, policy: &Policy) -> Arc<[Arc<str>]> {
    let size = |groups: &[Arc<str>]| groups.iter().map(|group| group.len()).sum::<usize>();
    if size(groups) <= MAX_GROUPS_BYTES {
        return groups.clone();
    }
    let mut room = MAX_GROUPS_BYTES;
    let fits = |group: &&Arc<str>| {
        let left = room.checked_sub(group.len()).filter(|_| policy.assignments.has_group(group));
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

impl Http {
    /// `POST /oauth2/exchange`.
    pub(super) async fn exchange<B>(
        &self,
        (site, head, connection): Asked<'_>,
        body: B,
        record: &mut Record,
    ) -> (Result<Response<Payload>, Failure>, Reuse)
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (answer, reuse) = match read_form((site, head), body).await {
            Ok(form) => (exchanged(&form, site, record).await, Reuse::Keep),
            Err((failed, reuse)) => (Err(failed), reuse),
        };
        (answered(answer, (site, head, connection)), reuse)
    }
}

async fn exchanged(form: &Form, site: &Site, record: &mut Record) -> Result<Response<Payload>, NoToken> {
    let token = provider_token(form)?;
    let judged = within(site.deadline, async { Ok(site.identity.exchange(token).await) }).await.map_err(NoToken::Failed)?;
    let caller = judged.as_ref().map(|subject| Caller {
        groups: subject.groups.clone(),
        ..Caller::new(Principal::Named(subject.name.clone()), record.caller().address, "oidc")
    });
    record.authenticated(caller.as_ref());
    let subject = judged.map_err(|error| NoToken::Failed(error.into()))?;
    let subject = Subject { groups: fitting(&subject.groups, &site.policy), ..subject };
    let tokens = site.identity.tokens().ok_or_else(|| NoToken::Failed(RouteError::Unknown.into()))?;
    Ok(uncached(serde_json::json!({ "refresh_token": tokens.refresh_token(&subject)?.expose() })))
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
            ("grant_type=access_token&service=r&tenant=t&access_token=a.b.c", Some("a.b.c")),
            ("access_token=a%2Bb&grant_type=access_token_refresh_token&refresh_token=r", Some("a+b")),
            ("grant_type=refresh_token&refresh_token=r", None),
            ("access_token=a", None),
            ("grant_type=access_token", None),
            ("grant_type=access_token&access_token=", None),
            ("grant_type=access_token&access_token=a&access_token=b", None),
            ("grant_type=access_token&grant_type=access_token&access_token=a", None),
            ("", None),
            ("\u{0}=%ff&%", None),
        ] {
            let read = Form::read(form.as_bytes());
            assert_eq!(read.as_ref().ok().and_then(|form| provider_token(form).ok()), token, "{form}");
        }
    }

    #[test]
    fn of_too_many_groups_those_with_roles_stay() {
        let group = |number: usize| Arc::<str>::from(format!("group {number:0>94}"));
        let assignment = |number| Assignment { role: Role::AcrPull, to: Assignee::Group(group(number)), repositories: None };
        let policy = Policy { assignments: [assignment(3), assignment(99)].into_iter().collect(), ..Policy::default() };
        let groups = |count| (0..count).map(group).collect::<Arc<[_]>>();
        assert_eq!(fitting(&groups(40), &policy).len(), 40);
        assert_eq!(fitting(&groups(100), &policy).as_ref(), [group(3), group(99)]);
        let all = Policy { assignments: (0..100).map(assignment).collect(), ..Policy::default() };
        assert_eq!(fitting(&groups(100), &all).len(), 40);
    }
}
