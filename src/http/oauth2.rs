//! Where tokens are had: `/oauth2/token` (distribution, "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 6749;
//! Azure Container Registry, "AAD-OAuth").
//!
//! - `GET`, with Basic or nothing: `scope` several times or with spaces between, `offline_token=true` for a refresh token as well.
//! - `POST` of a form: `grant_type` is `password` (with `username` and `password`; without them whoever the Authorization header says,
//!   which may be nobody: so Azure's clients ask for everybody's token), `refresh_token`, or `client_credentials` (with `client_id` and
//!   `client_secret`, or the header); `access_type=offline` for a refresh token as well.
//!
//! A refresh token also passes for the password of [`crate::identity::REFRESH_USER`]. `service` is not looked at: there is one.
//! Parameters that nobody knows are ignored, as RFC 6749, section 3.2, demands; those that stand twice are refused, as it does too.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use url::form_urlencoded;

use super::admit::{Site, host};
use super::body::Payload;
use super::challenge::{Reason, challenge};
use super::connection::Connection;
use super::error::Failure;
use super::intake::{Reuse, bounded_body, drain};
use super::log::Record;
use super::respond;
use super::route::RouteError;
use super::service::Http;
use crate::access::Scope;
use crate::identity::{Applicant, AuthError, Means, MintError};
use crate::registry::Addressing;

/// A form, at most, in bytes: the longest token, twice, in case each of its characters is encoded.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Scopes that one token is asked for, at most.
const MAX_SCOPES: usize = 100;

/// What a token is wanted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// As the client names repositories.
    pub scopes: Vec<Scope>,
    /// Whether a refresh token is wanted besides.
    pub offline: bool,
}

/// Reads the query of a GET. Scopes that name nothing of ours are left out: they grant nothing.
pub fn token_request(query: &str) -> Result<TokenRequest, RouteError> {
    let mut request = TokenRequest::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "scope" => request.scopes.extend(scopes(&value)),
            "offline_token" => request.offline = value == "true",
            _ => {}
        }
    }
    if request.scopes.len() > MAX_SCOPES { Err(RouteError::Parameter("scope")) } else { Ok(request) }
}

fn scopes(text: &str) -> impl Iterator<Item = Scope> {
    text.split(' ').filter_map(Scope::parse)
}

/// A refusal as RFC 6749, section 5.2, has it, and beside it as registries have theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    error: &'static str,
    description: &'static str,
}

impl Refusal {
    pub const fn request(description: &'static str) -> Refusal {
        Refusal { error: "invalid_request", description }
    }

    pub const fn grant(description: &'static str) -> Refusal {
        Refusal { error: "invalid_grant", description }
    }

    const CLIENT: Refusal = Refusal { error: "invalid_client", description: "the credentials are not accepted" };
    const GRANT_TYPE: Refusal =
        Refusal { error: "unsupported_grant_type", description: "a grant is password, refresh_token or client_credentials" };
    pub const EXCHANGE: Refusal = Refusal { error: "unsupported_grant_type", description: "an access_token is exchanged" };
    const SCOPE: Refusal = Refusal { error: "invalid_scope", description: "too many scopes for one token" };

    fn status(self) -> StatusCode {
        if self == Refusal::CLIENT { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST }
    }

    fn into_response(self) -> Response<Payload> {
        let Refusal { error, description } = self;
        let code = if error == "invalid_request" { "UNSUPPORTED" } else { "UNAUTHORIZED" };
        let errors = [serde_json::json!({ "code": code, "message": description })];
        let body = serde_json::json!({ "error": error, "error_description": description, "errors": errors });
        let mut response = respond::json(body.to_string().into());
        *response.status_mut() = self.status();
        response
    }
}

/// Why there is no token.
#[derive(Debug)]
pub enum NoToken {
    Refused(Refusal),
    Failed(Failure),
}

impl From<Refusal> for NoToken {
    fn from(refusal: Refusal) -> NoToken {
        NoToken::Refused(refusal)
    }
}

impl From<MintError> for NoToken {
    fn from(error: MintError) -> NoToken {
        match error {
            MintError::TooLong => NoToken::Refused(Refusal::SCOPE),
            MintError::Signing => NoToken::Failed(Failure::unavailable(error.to_string(), None)),
        }
    }
}

/// The fields of a form, each of which stands once.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// # Errors
    /// A field that stands twice.
    pub fn read(body: &[u8]) -> Result<Form, Refusal> {
        let mut fields: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
        fields.sort();
        match fields.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            true => Err(Refusal::request("a parameter stands twice")),
            false => Ok(Form(fields)),
        }
    }

    /// An empty field is one that is not there (RFC 6749, section 3.2).
    pub fn field(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// # Errors
    /// The field is not there.
    pub fn required(&self, name: &str, otherwise: &'static str) -> Result<&str, Refusal> {
        self.field(name).ok_or(Refusal::request(otherwise))
    }

    fn token_request(&self) -> Result<TokenRequest, Refusal> {
        let scopes: Vec<Scope> = self.field("scope").into_iter().flat_map(scopes).collect();
        if scopes.len() > MAX_SCOPES {
            return Err(Refusal::SCOPE);
        }
        Ok(TokenRequest { scopes, offline: self.field("access_type") == Some("offline") })
    }
}

/// A request for a token or a part of it, with what it came with.
pub type Asked<'a> = (&'a Site, &'a Parts, &'a Connection);

impl Http {
    /// `GET /oauth2/token`.
    pub(super) async fn token(
        &self,
        request: &TokenRequest,
        (site, head): (&Site, &Parts),
        record: &mut Record,
    ) -> Result<Response<Payload>, Failure> {
        let applied = site.identity.apply(head.headers.get_all(header::AUTHORIZATION), record.caller().address).await;
        let applied = applied.map(|applicant| applicant.on(record.caller().listener));
        record.authenticated(applied.as_ref().map(|applicant| &applicant.caller));
        issue(&applied?, request, (site, head)).map_err(|error| match error {
            NoToken::Refused(refusal) => Failure::bad_question(refusal.description),
            NoToken::Failed(failure) => failure,
        })
    }

    /// `POST /oauth2/token`.
    pub(super) async fn token_form<B>(
        &self,
        (site, head, connection): Asked<'_>,
        body: B,
        record: &mut Record,
    ) -> (Result<Response<Payload>, Failure>, Reuse)
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let form = match read_form((site, head), body).await {
            Ok(form) => form,
            Err((failed, reuse)) => return (answered(Err(failed), (site, head, connection)), reuse),
        };
        let answer = self.grant(&form, (site, head), record).await;
        (answered(answer, (site, head, connection)), Reuse::Keep)
    }

    async fn grant(&self, form: &Form, (site, head): (&Site, &Parts), record: &mut Record) -> Result<Response<Payload>, NoToken> {
        let request = form.token_request()?;
        let (address, headers) = (record.caller().address, head.headers.get_all(header::AUTHORIZATION));
        let (applied, refusal) = match form.required("grant_type", "there is no grant_type")? {
            "refresh_token" => {
                let token = form.required("refresh_token", "there is no refresh_token")?;
                (site.identity.redeem(token, address).await, Refusal::grant("the refresh token is not accepted"))
            }
            "password" => match form.field("username") {
                Some(name) => {
                    let password = form.required("password", "there is no password")?;
                    let applied = site.identity.apply_with(name.as_bytes(), password.as_bytes(), address).await;
                    (applied, Refusal::grant("the user name and password are not accepted"))
                }
                None => (site.identity.apply(headers, address).await, Refusal::CLIENT),
            },
            "client_credentials" => match form.field("client_secret") {
                Some(secret) => {
                    let id = form.required("client_id", "there is no client_id")?;
                    (site.identity.apply_with(id.as_bytes(), secret.as_bytes(), address).await, Refusal::CLIENT)
                }
                None => {
                    let applied = site.identity.apply(headers, address).await;
                    (applied.and_then(|applicant| applicant.named().ok_or(AuthError::Refused)), Refusal::CLIENT)
                }
            },
            _ => return Err(Refusal::GRANT_TYPE.into()),
        };
        let applied = applied.map(|applicant| applicant.on(record.caller().listener));
        record.authenticated(applied.as_ref().map(|applicant| &applicant.caller));
        let applicant = applied.map_err(|error| match error {
            AuthError::Refused | AuthError::InvalidToken => NoToken::Refused(refusal),
            _ => NoToken::Failed(error.into()),
        })?;
        issue(&applicant, &request, (site, head))
    }
}

/// Takes in a form.
///
/// # Errors
/// Why it is none, and whether its connection can go on.
pub async fn read_form<B>((site, head): (&Site, &Parts), body: B) -> Result<Form, (NoToken, Reuse)>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_form = |value: &HeaderValue| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    };
    if !head.headers.get(header::CONTENT_TYPE).is_some_and(is_form) {
        let refusal = Refusal::request("the body is application/x-www-form-urlencoded");
        return Err((refusal.into(), drain(head, body).await));
    }
    match tokio::time::timeout(site.deadline, bounded_body(body, MAX_FORM_BYTES)).await {
        Ok(Ok(bytes)) => Form::read(&bytes).map_err(|refusal| (refusal.into(), Reuse::Keep)),
        Ok(Err(failure)) => Err((NoToken::Failed(failure), Reuse::Close)),
        Err(_) => Err((Refusal::request("the body did not come").into(), Reuse::Close)),
    }
}

/// The answer to a form, with the challenge that a 401 has.
pub fn answered(answer: Result<Response<Payload>, NoToken>, (site, head, connection): Asked<'_>) -> Result<Response<Payload>, Failure> {
    match answer {
        Ok(response) => Ok(response),
        Err(NoToken::Failed(failure)) => Err(failure),
        Err(NoToken::Refused(refusal)) => {
            let mut response = refusal.into_response();
            let challenge = (refusal.status() == StatusCode::UNAUTHORIZED).then(|| challenge(Reason::Unknown, site, (head, connection)));
            response.headers_mut().extend(challenge.flatten().map(|value| (header::WWW_AUTHENTICATE, value)));
            Ok(response)
        }
    }
}

/// A token for what the applicant may do of what is asked for. Asking for more than that is no fault: the token is for less.
fn issue(applicant: &Applicant, request: &TokenRequest, (site, head): (&Site, &Parts)) -> Result<Response<Payload>, NoToken> {
    let no_tokens = || NoToken::Failed(RouteError::Unknown.into());
    let tokens = site.identity.tokens().ok_or_else(no_tokens)?;
    let asked = host(head).map_err(NoToken::Failed)?;
    let scopes: Vec<Scope> = request.scopes.iter().filter_map(|scope| full(scope, site, asked.as_deref())).collect();
    let granted = site.policy.grant(&applicant.caller, &scopes);
    let access = tokens.access_token(applicant.subject.as_ref(), &granted)?;
    let refresh = match &applicant.subject {
        Some(subject) if request.offline && applicant.means == Means::Credentials => Some(tokens.refresh_token(subject)?),
        _ => None,
    };
    let mut body = serde_json::json!({
        "token": access.token.expose(),
        "access_token": access.token.expose(),
        "token_type": "Bearer",
        "expires_in": access.ttl.as_secs(),
        "issued_at": access.issued.rfc3339(),
        "scope": granted.to_string(),
    });
    if let Some(refresh) = refresh {
        body["refresh_token"] = refresh.expose().into();
    }
    Ok(uncached(body))
}

/// A secret in JSON (RFC 6749, section 5.1).
pub fn uncached(body: serde_json::Value) -> Response<Payload> {
    let mut response = respond::json(body.to_string().into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// The scope with the repository's full name.
fn full(scope: &Scope, site: &Site, host: Option<&str>) -> Option<Scope> {
    match scope {
        Scope::Repository { name, actions } => {
            let target = site.names.resolve(Addressing { name, ns: None, host }).ok()?;
            Some(Scope::Repository { name: target.repository, actions: actions.clone() })
        }
        Scope::Catalog | Scope::Registry => Some(scope.clone()),
    }
}
