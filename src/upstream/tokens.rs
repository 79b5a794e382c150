//! Bearer tokens: asked for once for each scope, whoever waits, and kept until shortly before they end
//! (distribution-spec's companion documents "Token Authentication" and "OAuth2 Token Authentication").

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use tokio::time::timeout;
use url::Url;
use url::form_urlencoded::Serializer;

use super::error::{Failure, UpstreamError};
use super::sending::Sending;
use super::wire::{Body, Wire, discard};
use super::{AGENT, headers};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::trace;

/// Scopes whose tokens are kept, for each address of an upstream.
const MAX_TOKENS: u64 = 10_000;
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A token lives this long unless told otherwise, and at least: the specification promises it, and some servers tell less by
/// mistake. One that ends sooner is noticed by its 401 and replaced.
const LEAST_LIFE: Duration = Duration::from_secs(60);
/// A longer life is not believed: access that was withdrawn must not go on for days.
const LONGEST_LIFE: Duration = Duration::from_secs(3_600);

/// A user name and password.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret,
}

impl Credentials {
    /// The `Authorization` header (RFC 7617), marked so that nothing prints it.
    pub(super) fn basic(&self) -> HeaderValue {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password.expose()));
        let mut value = HeaderValue::from_str(&format!("Basic {pair}")).expect("base64 is ASCII");
        value.set_sensitive(true);
        value
    }
}

/// What a token is for. The realm has passed `origin::realm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// One scope, or several with spaces between.
    pub(super) scope: String,
}

/// The tokens of one address of an upstream. They are not shared with its other addresses, which may not have its credentials.
pub(super) struct Tokens {
    issuer: Arc<Issuer>,
    /// By moka's rules only the number is bounded; whether a token still holds is judged when it is used.
    kept: moka::sync::Cache<Key, Pending>,
}

type Pending = Shared<BoxFuture<'static, Result<Token, Failure>>>;

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    from: Timestamp,
    /// Counted from `from`, with a tenth of its life left.
    usable: Duration,
}

impl Token {
    /// Also false when the clock was set back to before it was issued.
    fn is_usable(&self, now: Timestamp) -> bool {
        self.from <= now && now.since(self.from) < self.usable
    }
}

struct Issuer {
    wire: Arc<Wire>,
    credentials: Option<Arc<Credentials>>,
}

impl Tokens {
    pub(super) fn new(wire: Arc<Wire>, credentials: Option<Arc<Credentials>>) -> Tokens {
        Tokens { issuer: Arc::new(Issuer { wire, credentials }), kept: moka::sync::Cache::new(MAX_TOKENS) }
    }

    /// The `Authorization` header for `key`: one that is kept, one that somebody else is just fetching, or a new one. `rejected`
    /// is a header that the upstream has just refused.
    pub(super) async fn authorization(&self, key: Key, rejected: Option<&HeaderValue>) -> Result<HeaderValue, Failure> {
        let now = self.issuer.wire.clock.now();
        let is_spent = |pending: &Pending| match pending.peek() {
            None => false,
            Some(Err(_)) => true,
            Some(Ok(token)) => !token.is_usable(now) || Some(&token.authorization) == rejected,
        };
        let pending = self.kept.entry(key.clone()).or_insert_with_if(|| self.fetch(key), is_spent).into_value();
        Ok(pending.await?.authorization)
    }

    /// Starts fetching. The task belongs to no caller, so that one that leaves takes nothing from the others; it is bounded in time.
    fn fetch(&self, key: Key) -> Pending {
        let issuer = self.issuer.clone();
        let limit = issuer.wire.connect_timeout + 2 * issuer.wire.read_timeout;
        // It belongs to the trace of who needs it first.
        let task = tokio::spawn(trace::carried(async move {
            timeout(limit, issuer.issue(&key)).await.unwrap_or_else(|_| Err(Failure::timeout("timed out waiting for a token")))
        }));
        async move { task.await.unwrap_or_else(|_| Err(Failure::timeout("the token request was dropped"))) }.boxed().shared()
    }
}

impl Issuer {
    /// Asks with GET, and with a form where the realm knows only that.
    async fn issue(&self, key: &Key) -> Result<Token, Failure> {
        let basic = self.credentials.as_ref().map(|credentials| credentials.basic());
        match (self.ask(get(key, basic)?).await?, &self.credentials) {
            (Reply::Token(token), _) => Ok(token),
            (Reply::OtherMethod, None) => Err(Failure::answer(UpstreamError::Denied)),
            (Reply::OtherMethod, Some(credentials)) => match self.ask(post(key, credentials)?).await? {
                Reply::Token(token) => Ok(token),
                Reply::OtherMethod => Err(Failure::wrong("the token realm answers neither GET nor POST")),
            },
        }
    }

    async fn ask(&self, request: Request<Sending>) -> Result<Reply, Failure> {
        let response = self.wire.send(request).await?;
        let (head, incoming) = response.into_parts();
        if head.status == StatusCode::OK {
            let body = Body { incoming, wire: self.wire.clone() };
            let answer = body.whole(MAX_ANSWER_BYTES).await.map_err(|error| match error {
                UpstreamError::WrongAnswer(_) => Failure::answer(error),
                _ => Failure::passing(error),
            })?;
            return Ok(Reply::Token(token(&answer, self.wire.clock.now())?));
        }
        discard(incoming).await;
        let unavailable =
            |retry_after| UpstreamError::Unavailable { why: format!("its token realm answered {}", head.status), retry_after };
        let retry_after = headers::retry_after(&head.headers, self.wire.clock.now());
        Err(match head.status.as_u16() {
            404 | 405 => return Ok(Reply::OtherMethod),
            400 | 401 | 403 => Failure::answer(UpstreamError::Denied),
            429 => Failure::answer(unavailable(retry_after)),
            502..=504 if retry_after.is_none() => Failure::passing(unavailable(None)),
            500.. => Failure::lasting(unavailable(retry_after)),
            _ => Failure::wrong(format!("its token realm answered {}", head.status)),
        })
    }
}

enum Reply {
    Token(Token),
    /// 404 or 405: not asked like this.
    OtherMethod,
}

fn get(key: &Key, basic: Option<HeaderValue>) -> Result<Request<Sending>, Failure> {
    let mut url = key.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        for scope in key.scope.split_ascii_whitespace() {
            query.append_pair("scope", scope);
        }
    }
    let mut request = base(Method::GET, &url, Bytes::new())?;
    if let Some(basic) = basic {
        request.headers_mut().insert(AUTHORIZATION, basic);
    }
    Ok(request)
}

/// The OAuth2 form, where the credentials stand in the body.
fn post(key: &Key, credentials: &Credentials) -> Result<Request<Sending>, Failure> {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "password");
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    form.append_pair("scope", &key.scope).append_pair("client_id", "outport");
    form.append_pair("username", &credentials.username).append_pair("password", credentials.password.expose());
    let mut request = base(Method::POST, &key.realm, form.finish().into())?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Ok(request)
}

fn base(method: Method, url: &Url, body: Bytes) -> Result<Request<Sending>, Failure> {
    let request = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity");
    request.body(Sending::bytes(body)).map_err(|_| Failure::wrong("a token realm that is no URI"))
}

/// Reads a token server's answer: `token`, or `access_token` as OAuth2 calls it.
fn token(answer: &[u8], now: Timestamp) -> Result<Token, Failure> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        /// Seconds; what is no whole number counts as untold.
        expires_in: Option<serde_json::Value>,
    }
    // The parser's message could quote the answer.
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| Failure::wrong("its token realm's answer is not a token"))?;
    let text = [answer.token, answer.access_token].into_iter().flatten().find(|text| !text.is_empty());
    let text = text.ok_or_else(|| Failure::wrong("its token realm's answer has no token"))?;
    let mut authorization =
        HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| Failure::wrong("a token that cannot stand in a header"))?;
    authorization.set_sensitive(true);
    let told = answer.expires_in.and_then(|seconds| seconds.as_u64()).map(Duration::from_secs);
    let life = told.unwrap_or(LEAST_LIFE).clamp(LEAST_LIFE, LONGEST_LIFE);
    Ok(Token { authorization, from: now, usable: life * 9 / 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_token_servers() {
        let now = Timestamp::from_ms(1_000);
        for (answer, expected) in [
            (r#"{"token":"t"}"#, Some(("Bearer t", 54))),
            (r#"{"token":"t","access_token":"a","expires_in":300}"#, Some(("Bearer t", 270))),
            (r#"{"access_token":"a","expires_in":5}"#, Some(("Bearer a", 54))),
            (r#"{"token":"","access_token":"a","expires_in":99999999999}"#, Some(("Bearer a", 3_240))),
            (r#"{"token":"t","expires_in":"soon"}"#, Some(("Bearer t", 54))),
            (r#"{"token":"t","expires_in":-1}"#, Some(("Bearer t", 54))),
            (r#"{"token":"a\r\nb"}"#, None),
            (r#"{"token":""}"#, None),
            (r#"{}"#, None),
            (r#"<html>"#, None),
        ] {
            let found = token(answer.as_bytes(), now).ok();
            let found = found.as_ref().map(|token| (token.authorization.to_str().unwrap(), token.usable.as_secs()));
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn a_token_ends_and_a_clock_set_back_ends_it_too() {
        let now = Timestamp::from_ms(1_000_000);
        let token = token(br#"{"token":"t"}"#, now).unwrap();
        assert!(token.is_usable(now) && token.is_usable(now.plus(Duration::from_secs(53))));
        assert!(!token.is_usable(now.plus(Duration::from_secs(54))));
        assert!(!token.is_usable(Timestamp::from_ms(0)));
        assert_eq!(format!("{:?}", token.authorization), "Sensitive");
    }
}
