//! What owners change at run time, below `/outport/v1/`:
//!
//! | path | GET | POST | PATCH | DELETE |
//! |---|---|---|---|---|
//! | `principals` | all | makes one: `{"name", "expires_in"?, "secret_expires_in"?}` | | |
//! | `principals/{name}` | this one | | `{"enabled"}` | deletes it |
//! | `principals/{name}/secrets/{1\|2}` | | replaces it: `{"expires_in"?}` | | removes it |
//! | `admin`, `admin/passwords/{1\|2}` | the same for the principal `admin`, which is there and disabled from the beginning | | | |
//! | `roles` | all | assigns one: `{"role", "principal", "repositories"?}` | | |
//! | `roles/{id}` | this one | | | revokes it |
//! | `rules` | all | adds one: `{"allow"?, "deny"?, "default"?, "roles"?, "force"?}` | | |
//! | `rules/{id}` | this one | | | removes it |
//!
//! Lists have `n` and `last`, as the catalogue has, and say whether there is `more`. GET is for those who may read settings, changing
//! rules for those who may change settings, everything else for those who assign roles. A change answers 200, or 201 where something
//! has a path that had none, with its `position` in the ledger; a secret is told once, in the answer to what made it. A body is
//! `application/json` and has no other fields. 400: it cannot be read; 404: there is no such thing; 409: it cannot be as things are, or
//! stands in the configuration.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::admit::Site;
use super::audit::Detail;
use super::body::Payload;
use super::error::Failure;
use super::intake::{Reuse, drain, json_body};
use super::respond;
use super::route::{RouteError, decoded, page};
use super::service::{Http, within};
use crate::access::{Caller, Operation, Permit};
use crate::clock::{Clock, Timestamp};
use crate::config::{is_user, parse_duration};
use crate::identity::governance::{Changed, Force, Governance, Made, NewPrincipal, Standing};
use crate::identity::{ADMIN, Number, RoleRecord, RuleRecord};
use crate::registry::Page;

const PREFIX: &[u8] = b"/outport/v1/";
const OUTPORT_POSITION: HeaderName = HeaderName::from_static("outport-position");
/// The longest id of an assignment or a rule, in characters.
const MAX_ID_CHARS: usize = 64;

const OF_COLLECTION: &str = "GET, HEAD, POST";
const OF_PRINCIPAL: &str = "GET, HEAD, PATCH, DELETE";
const OF_SECRET: &str = "POST, DELETE";
const OF_ITEM: &str = "GET, HEAD, DELETE";

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Governing {
    List(Collection, Page),
    Show(Item),
    Remove(Item),
    /// The body tells the rest.
    Create(Collection),
    /// Enables a principal, or disables it, as the body says.
    Switch(String),
    Regenerate(String, Number),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    Principals,
    Roles,
    Rules,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Principal(String),
    Secret(String, Number),
    Role(String),
    Rule(String),
}

/// `None`: the path leads elsewhere.
pub(super) fn route(method: &Method, path: &[u8], query: &str) -> Option<Result<Governing, RouteError>> {
    let below = path.strip_prefix(PREFIX)?;
    let segments: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
    let collection = |collection| Some(in_collection(method, query, collection));
    match segments.as_slice() {
        [b"principals"] => collection(Collection::Principals),
        [b"roles"] => collection(Collection::Roles),
        [b"rules"] => collection(Collection::Rules),
        [b"admin"] => Some(of_principal(method, ADMIN.to_owned())),
        [b"principals", name] => Some(principal(name).and_then(|name| of_principal(method, name))),
        [b"admin", b"passwords", number] => Some(of_secret(method, ADMIN.to_owned(), number)),
        [b"principals", name, b"secrets", number] => Some(principal(name).and_then(|name| of_secret(method, name, number))),
        [b"roles", id] => Some(own_id(id).and_then(|id| of_item(method, Item::Role(id)))),
        [b"rules", id] => Some(own_id(id).and_then(|id| of_item(method, Item::Rule(id)))),
        _ => None,
    }
}

fn in_collection(method: &Method, query: &str, collection: Collection) -> Result<Governing, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Governing::List(collection, page(query)?)),
        Method::POST => Ok(Governing::Create(collection)),
        _ => Err(RouteError::Method { allow: OF_COLLECTION }),
    }
}

fn of_principal(method: &Method, name: String) -> Result<Governing, RouteError> {
    match *method {
        Method::PATCH => Ok(Governing::Switch(name)),
        Method::GET | Method::HEAD | Method::DELETE => of_item(method, Item::Principal(name)),
        _ => Err(RouteError::Method { allow: OF_PRINCIPAL }),
    }
}

fn of_secret(method: &Method, name: String, number: &[u8]) -> Result<Governing, RouteError> {
    let number = Number::of_text(&decoded(number)?).ok_or(RouteError::Unknown)?;
    match *method {
        Method::POST => Ok(Governing::Regenerate(name, number)),
        Method::DELETE => Ok(Governing::Remove(Item::Secret(name, number))),
        _ => Err(RouteError::Method { allow: OF_SECRET }),
    }
}

fn of_item(method: &Method, item: Item) -> Result<Governing, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Governing::Show(item)),
        Method::DELETE => Ok(Governing::Remove(item)),
        _ => Err(RouteError::Method { allow: OF_ITEM }),
    }
}

fn principal(segment: &[u8]) -> Result<String, RouteError> {
    Ok(decoded(segment)?.into_owned()).and_then(|name| if is_user(&name) { Ok(name) } else { Err(RouteError::Unknown) })
}

fn own_id(segment: &[u8]) -> Result<String, RouteError> {
    let id = decoded(segment)?;
    let is_id = (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_id { Ok(id.into_owned()) } else { Err(RouteError::Unknown) }
}

impl Governing {
    /// What one must be allowed to do.
    pub(super) fn operation(&self) -> Operation {
        match self {
            Governing::List(..) | Governing::Show(_) => Operation::ReadSettings,
            Governing::Create(Collection::Rules) | Governing::Remove(Item::Rule(_)) => Operation::ChangeSettings,
            Governing::Create(_) | Governing::Remove(_) | Governing::Switch(_) | Governing::Regenerate(..) => Operation::AssignRoles,
        }
    }

    /// What it is about, for the log: a principal's name or an id. A new one has none yet.
    pub(super) fn about(&self) -> Option<String> {
        match self {
            Governing::List(..) | Governing::Create(_) => None,
            Governing::Show(item) | Governing::Remove(item) => Some(match item {
                Item::Principal(name) => name.clone(),
                Item::Secret(name, number) => format!("{name}/{}", number.as_str()),
                Item::Role(id) | Item::Rule(id) => id.clone(),
            }),
            Governing::Switch(name) => Some(name.clone()),
            Governing::Regenerate(name, number) => Some(format!("{name}/{}", number.as_str())),
        }
    }

    fn has_body(&self) -> bool {
        matches!(self, Governing::Create(_) | Governing::Switch(_) | Governing::Regenerate(..))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalFields {
    name: String,
    expires_in: Option<String>,
    secret_expires_in: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandingFields {
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFields {
    expires_in: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFields {
    role: String,
    principal: String,
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    default: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    force: bool,
}

/// Row 74: what is not understood is not overlooked.
fn fields<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::bad_command(error.to_string()))
}

/// When something ends that lasts for so long.
fn end(clock: &Clock, lasts: Option<String>) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = lasts else { return Ok(None) };
    let lasts = parse_duration(&text).map_err(|error| Failure::bad_command(format!("{text:?}: {error}")))?;
    if lasts < Duration::from_secs(1) {
        return Err(Failure::bad_command("what expires lasts for a second at least"));
    }
    Ok(Some(clock.now().plus(lasts)))
}

impl Http {
    /// Does what is wanted, and tells whether the connection goes on.
    pub(super) async fn govern<B>(
        &self,
        (permit, wanted): (Permit, &Governing),
        (site, caller): (&Site, &Caller),
        head: &Parts,
        body: B,
    ) -> (Result<Response<Payload>, Failure>, Reuse)
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (body, reuse) = match wanted.has_body() {
            true => json_body(site, head, body).await,
            false => (Ok(Bytes::new()), drain(head, body).await),
        };
        let done = async { self.obey_owner((permit, wanted), (site, caller), &body?).await };
        (within(self.request_timeout(), done).await, reuse)
    }

    async fn obey_owner(
        &self,
        (permit, wanted): (Permit, &Governing),
        (site, caller): (&Site, &Caller),
        body: &Bytes,
    ) -> Result<Response<Payload>, Failure> {
        let (governance, clock) = (self.governance(), self.clock());
        match wanted {
            Governing::List(collection, page) => list(governance, permit, *collection, page),
            Governing::Show(item) => show(governance, permit, item),
            Governing::Remove(item) => remove(governance, permit, item).await,
            Governing::Create(Collection::Principals) => {
                let PrincipalFields { name, expires_in, secret_expires_in } = fields(body)?;
                let new = NewPrincipal { name, expires: end(clock, expires_in)?, secret_expires: end(clock, secret_expires_in)? };
                let changed = governance.create_principal(permit, &new).await?;
                Ok(created(&format!("principals/{}", new.name), secrets(&new.name, changed)))
            }
            Governing::Create(Collection::Roles) => {
                let RoleFields { role, principal, repositories } = fields(body)?;
                let record = RoleRecord { role, to: principal, repositories };
                let detail = json!(record);
                let changed = governance.assign(permit, record).await?;
                Ok(detailed(created(&format!("roles/{}", changed.made), with_id(changed)), &detail))
            }
            Governing::Create(Collection::Rules) => {
                let RuleFields { allow, deny, default, roles, force } = fields(body)?;
                let force = if force { Force::Forced } else { Force::Careful };
                let record = RuleRecord { allow, deny, default, roles };
                let detail = json!(record);
                let changed = governance.add_rule(permit, record, (caller, &site.policy), force).await?;
                Ok(detailed(created(&format!("rules/{}", changed.made), with_id(changed)), &detail))
            }
            Governing::Switch(name) => {
                let StandingFields { enabled } = fields(body)?;
                let standing = if enabled { Standing::Enabled } else { Standing::Disabled };
                Ok(secrets(name, governance.set_standing(permit, name, standing).await?))
            }
            Governing::Regenerate(name, number) => {
                let SecretFields { expires_in } = fields(body)?;
                Ok(secrets(name, governance.regenerate(permit, (name, *number), end(clock, expires_in)?).await?))
            }
        }
    }
}

fn list(governance: &Governance, permit: Permit, collection: Collection, page: &Page) -> Result<Response<Payload>, Failure> {
    Ok(match collection {
        Collection::Principals => part("principals", page, &governance.principals(permit)?, |principal| &principal.name),
        Collection::Roles => part("roles", page, &governance.roles(permit)?, |role| &role.id),
        Collection::Rules => part("rules", page, &governance.rules(permit)?, |rule| &rule.id),
    })
}

/// A page of a list that is in order.
fn part<T: Clone + Serialize>(name: &str, page: &Page, all: &[T], key: impl Fn(&T) -> &str) -> Response<Payload> {
    let listed = page.of(all, key);
    answer(&json!({ name: listed.names, "more": listed.more }))
}

fn show(governance: &Governance, permit: Permit, item: &Item) -> Result<Response<Payload>, Failure> {
    Ok(answer(&match item {
        Item::Principal(name) | Item::Secret(name, _) => json!(governance.principal(permit, name)?),
        Item::Role(id) => json!(governance.role(permit, id)?),
        Item::Rule(id) => json!(governance.rule(permit, id)?),
    }))
}

async fn remove(governance: &Governance, permit: Permit, item: &Item) -> Result<Response<Payload>, Failure> {
    let changed = match item {
        Item::Principal(name) => governance.delete_principal(permit, name).await?,
        Item::Secret(name, number) => governance.remove_secret(permit, (name, *number)).await?,
        Item::Role(id) => governance.revoke(permit, id).await?,
        Item::Rule(id) => governance.remove_rule(permit, id).await?,
    };
    Ok(positioned(&changed, json!({})))
}

/// Secrets are told here, and never again.
fn secrets(name: &str, changed: Changed<Vec<Made>>) -> Response<Payload> {
    let secret = |made: &Made| {
        let mut told = json!({ "number": made.number.index() + 1, "secret": made.secret.expose() });
        if let Some(expires) = made.expires {
            told["expires_ms"] = json!(expires);
        }
        told
    };
    positioned(&changed, json!({ "name": name, "secrets": changed.made.iter().map(secret).collect::<Vec<_>>() }))
}

/// With what the audit record keeps of the change.
fn detailed(mut response: Response<Payload>, change: &Value) -> Response<Payload> {
    response.extensions_mut().insert(Detail(change.to_string().into()));
    response
}

fn with_id(changed: Changed<String>) -> Response<Payload> {
    positioned(&changed, json!({ "id": changed.made }))
}

fn positioned<T>(changed: &Changed<T>, mut body: Value) -> Response<Payload> {
    let position = changed.position.to_string();
    body["position"] = json!(position);
    let mut response = answer(&body);
    response.headers_mut().extend(HeaderValue::try_from(position).ok().map(|position| (OUTPORT_POSITION, position)));
    response
}

fn created(path: &str, mut response: Response<Payload>) -> Response<Payload> {
    *response.status_mut() = StatusCode::CREATED;
    let location = HeaderValue::try_from(format!("/outport/v1/{path}"));
    response.headers_mut().extend(location.ok().map(|location| (header::LOCATION, location)));
    response
}

/// Nobody on the way keeps it.
fn answer(body: &Value) -> Response<Payload> {
    let mut response = respond::json(body.to_string().into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, path: &str) -> Option<Result<Governing, RouteError>> {
        route(&method.parse().unwrap(), path.as_bytes(), "n=7&last=a")
    }

    #[test]
    fn each_path_has_its_methods() {
        let page = || Page { limit: 7, last: Some("a".into()) };
        let ci = || Item::Principal("ci".into());
        for (method, path, wanted, operation) in [
            ("GET", "principals", Governing::List(Collection::Principals, page()), Operation::ReadSettings),
            ("HEAD", "rules", Governing::List(Collection::Rules, page()), Operation::ReadSettings),
            ("POST", "principals", Governing::Create(Collection::Principals), Operation::AssignRoles),
            ("POST", "roles", Governing::Create(Collection::Roles), Operation::AssignRoles),
            ("POST", "rules", Governing::Create(Collection::Rules), Operation::ChangeSettings),
            ("GET", "principals/ci", Governing::Show(ci()), Operation::ReadSettings),
            ("GET", "principals/a%40b.c", Governing::Show(Item::Principal("a@b.c".into())), Operation::ReadSettings),
            ("PATCH", "principals/ci", Governing::Switch("ci".into()), Operation::AssignRoles),
            ("DELETE", "principals/ci", Governing::Remove(ci()), Operation::AssignRoles),
            ("POST", "principals/ci/secrets/2", Governing::Regenerate("ci".into(), Number::Second), Operation::AssignRoles),
            ("DELETE", "principals/ci/secrets/1", Governing::Remove(Item::Secret("ci".into(), Number::First)), Operation::AssignRoles),
            ("GET", "admin", Governing::Show(Item::Principal(ADMIN.into())), Operation::ReadSettings),
            ("PATCH", "admin", Governing::Switch(ADMIN.into()), Operation::AssignRoles),
            ("POST", "admin/passwords/1", Governing::Regenerate(ADMIN.into(), Number::First), Operation::AssignRoles),
            ("DELETE", "roles/01ABC", Governing::Remove(Item::Role("01ABC".into())), Operation::AssignRoles),
            ("GET", "rules/config-1", Governing::Show(Item::Rule("config-1".into())), Operation::ReadSettings),
            ("DELETE", "rules/01ABC", Governing::Remove(Item::Rule("01ABC".into())), Operation::ChangeSettings),
        ] {
            assert_eq!(routed(method, &format!("/outport/v1/{path}")), Some(Ok(wanted.clone())), "{method} {path}");
            assert_eq!(wanted.operation(), operation, "{method} {path}");
        }
    }

    #[test]
    fn what_there_is_not_is_told() {
        for (method, path, allow) in [
            ("PUT", "principals", OF_COLLECTION),
            ("DELETE", "roles", OF_COLLECTION),
            ("POST", "principals/ci", OF_PRINCIPAL),
            ("POST", "admin", OF_PRINCIPAL),
            ("GET", "principals/ci/secrets/1", OF_SECRET),
            ("PATCH", "rules/1", OF_ITEM),
        ] {
            assert_eq!(routed(method, &format!("/outport/v1/{path}")), Some(Err(RouteError::Method { allow })), "{method} {path}");
        }
        for path in ["principals/a%2Fb", "principals/", "principals/anonymous", "principals/ci/secrets/3", "roles/a.b", "rules/"] {
            assert_eq!(routed("GET", &format!("/outport/v1/{path}")), Some(Err(RouteError::Unknown)), "{path}");
        }
        for path in ["/outport/v1/principal", "/outport/v1/principals/ci/secrets", "/outport/v1/status", "/v2/principals"] {
            assert_eq!(routed("GET", path), None, "{path}");
        }
    }

    #[test]
    fn row_74_other_fields_are_refused() {
        fn verdict<T: DeserializeOwned>(body: &str) -> u16 {
            fields::<T>(&Bytes::copy_from_slice(body.as_bytes())).map_or_else(|failure| failure.status.as_u16(), |_| 200)
        }
        for (status, found) in [
            (200, verdict::<PrincipalFields>(r#"{"name": "ci", "expires_in": "90d"}"#)),
            (400, verdict::<PrincipalFields>(r#"{"name": "ci", "role": "Owner"}"#)),
            (400, verdict::<PrincipalFields>(r#"{"name": "ci", "name": "root"}"#)),
            (400, verdict::<PrincipalFields>(r#"{}"#)),
            (200, verdict::<StandingFields>(r#"{"enabled": true}"#)),
            (400, verdict::<StandingFields>(r#"{"enabled": "true"}"#)),
            (400, verdict::<StandingFields>(r#"{"enabled": true, "kind": "admin"}"#)),
            (200, verdict::<SecretFields>(r#"{}"#)),
            (400, verdict::<SecretFields>(r#"{"secret": "mine"}"#)),
            (200, verdict::<RoleFields>(r#"{"role": "Owner", "principal": "ci"}"#)),
            (400, verdict::<RoleFields>(r#"{"role": "Owner", "principal": "ci", "group": "all"}"#)),
            (200, verdict::<RuleFields>(r#"{"allow": ["10.0.0.0/8"]}"#)),
            (400, verdict::<RuleFields>(r#"{"allow": ["10.0.0.0/8"], "id": "1"}"#)),
            (400, verdict::<RuleFields>(r#"{"allow": []} x"#)),
        ] {
            assert_eq!(found, status);
        }
    }

    #[test]
    fn what_lasts_has_an_end() {
        let clock = Clock::manual(Timestamp::from_ms(1_000));
        assert_eq!(end(&clock, None).unwrap(), None);
        assert_eq!(end(&clock, Some("2s".into())).unwrap(), Some(Timestamp::from_ms(3_000)));
        for text in ["0s", "", "soon", "10ms"] {
            assert!(end(&clock, Some(text.into())).is_err(), "{text}");
        }
    }
}
