//! How an origin tells callers apart: Basic, or Bearer with a token endpoint of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// What an origin asks for before it answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    Nothing,
    Basic,
    /// Tokens from `/token`, by these methods.
    Bearer(TokenBy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenBy {
    Get,
    PostOnly,
}

/// Who may read what.
#[derive(Clone, Debug)]
pub struct Guard {
    pub scheme: Scheme,
    pub username: String,
    pub password: String,
    /// Repositories that a token without credentials covers.
    pub public: Vec<String>,
    /// Others who are known, and the repositories that each may read. Their passwords are `NAME-password`.
    pub readers: Vec<(String, Vec<String>)>,
    /// Where tokens are had, if not here.
    pub realm: Option<String>,
    pub token_lifetime: Duration,
}

impl Guard {
    pub fn open() -> Guard {
        Guard::new(Scheme::Nothing)
    }

    /// The user `origin-user` with the password `origin-password` may read everything, nobody else anything.
    pub fn new(scheme: Scheme) -> Guard {
        Guard {
            scheme,
            username: "origin-user".into(),
            password: "origin-password".into(),
            public: Vec::new(),
            readers: Vec::new(),
            realm: None,
            token_lifetime: Duration::from_secs(300),
        }
    }

    pub fn with_public(mut self, repositories: &[&str]) -> Guard {
        self.public = repositories.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub fn with_reader(mut self, name: &str, repositories: &[&str]) -> Guard {
        self.readers.push((name.into(), repositories.iter().map(|name| (*name).to_owned()).collect()));
        self
    }

    /// The value of an Authorization header that this guard accepts as Basic.
    pub fn basic(&self) -> String {
        basic(&self.username, &self.password)
    }

    /// What a reader with these credentials may read.
    fn reader(&self, authorization: &str) -> Option<&Vec<String>> {
        let found = self.readers.iter().find(|(name, _)| basic(name, &format!("{name}-password")) == authorization);
        found.map(|(_, repositories)| repositories)
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

/// The tokens that were issued.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, Token>>);

#[derive(Debug)]
struct Token {
    /// Repositories and what may be done to them.
    leave: BTreeSet<(String, String)>,
    ends: Instant,
}

/// What the guard says to a request.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Pass,
    /// 401 with this challenge.
    Challenge(String),
}

impl Tokens {
    /// Judges a request for `wanted`, a repository and what is done to it (or for the ping).
    pub fn judge(&self, guard: &Guard, realm: &str, authorization: Option<&str>, wanted: Option<(&str, &str)>) -> Verdict {
        match guard.scheme {
            Scheme::Nothing => Verdict::Pass,
            Scheme::Basic if authorization == Some(guard.basic().as_str()) => Verdict::Pass,
            Scheme::Basic => {
                let reader = authorization.and_then(|value| guard.reader(value));
                let may =
                    reader.is_some_and(|own| wanted.is_none_or(|(name, action)| action == "pull" && own.iter().any(|each| each == name)));
                if may { Verdict::Pass } else { Verdict::Challenge(r#"Basic realm="origin""#.into()) }
            }
            Scheme::Bearer(_) => {
                let tokens = self.0.lock().expect("no panic while tokens are held");
                let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).and_then(|token| tokens.get(token));
                let covered = |token: &Token| wanted.is_none_or(|(name, action)| token.leave.contains(&(name.into(), action.into())));
                if token.is_some_and(|token| token.ends > Instant::now() && covered(token)) {
                    return Verdict::Pass;
                }
                let realm = guard.realm.as_deref().unwrap_or(realm);
                let scope = wanted.map(|(name, action)| {
                    let actions = if action == "push" { "pull,push" } else { action };
                    format!(r#",scope="repository:{name}:{actions}""#)
                });
                let scope = scope.unwrap_or_default();
                Verdict::Challenge(format!(r#"Bearer realm="{realm}",service="origin"{scope}"#))
            }
        }
    }

    /// The token endpoint: the JSON of a token, or the status of a refusal.
    pub fn issue(&self, guard: &Guard, method: &str, authorization: Option<&str>, fields: &[(String, String)]) -> Result<String, u16> {
        match (&guard.scheme, method) {
            (Scheme::Bearer(TokenBy::Get), "GET") | (Scheme::Bearer(_), "POST") => {}
            (Scheme::Bearer(_), _) => return Err(405),
            _ => return Err(404),
        }
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let reader = authorization.and_then(|value| guard.reader(value)).cloned().unwrap_or_default();
        let known = match (method, authorization, field("username")) {
            (_, Some(value), _) if value == guard.basic() => true,
            (_, Some(value), _) if guard.reader(value).is_some() => false,
            (_, Some(_), _) => return Err(401),
            ("POST", None, Some(user)) if user == guard.username && field("password") == Some(&guard.password) => true,
            ("POST", None, Some(_)) => return Err(401),
            _ => false,
        };
        let asked = fields.iter().filter(|(key, _)| key == "scope").flat_map(|(_, value)| value.split(' '));
        let leave = asked
            .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .flat_map(|(name, actions)| actions.split(',').map(move |action| (name.to_owned(), action.to_owned())))
            .filter(|(name, action)| known || (action == "pull" && (guard.public.contains(name) || reader.contains(name))))
            .collect();
        let mut tokens = self.0.lock().expect("no panic while tokens are held");
        let token = format!("origin-token-{}", tokens.len());
        tokens.insert(token.clone(), Token { leave, ends: Instant::now() + guard.token_lifetime });
        Ok(serde_json::json!({"token": token, "access_token": token, "expires_in": guard.token_lifetime.as_secs()}).to_string())
    }
}
