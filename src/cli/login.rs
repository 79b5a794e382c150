//! `outport login` and `outport logout`: sign in at the identity provider that a registry names (device flow, RFC 8628) or with a token
//! that is given, and leave a credential that docker, podman, skopeo and Helm use.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use url::Url;

use super::credentials::{CredentialError, DockerConfig};
use super::web::{Reach, Registry, Web, WebError, exchange, shown};
use crate::config::process_environment;

/// The longest token that is read.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// How long somebody may take to sign in, whatever the provider says.
const MAX_SIGN_IN_TIME: Duration = Duration::from_secs(30 * 60);
/// Between two questions whether somebody has signed in (RFC 8628, section 3.5): where the provider says nothing, at most, and how much
/// more each time it says `slow_down`.
const POLL_EVERY: Duration = Duration::from_secs(5);
const MAX_POLL_PAUSE: Duration = Duration::from_secs(60);
const SLOW_DOWN: Duration = Duration::from_secs(5);
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The registry, as it stands before the names of its images
    registry: String,
    /// Sign in with the provider's token on the standard input, instead of in a browser
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
    /// Sign in with the provider's token in this file, instead of in a browser
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The provider to sign in at, where the registry names several
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogoutArguments {
    /// The registry, as it stands before the names of its images
    registry: String,
}

impl From<CredentialError> for WebError {
    fn from(error: CredentialError) -> WebError {
        WebError::Failed(error.to_string())
    }
}

/// Exit code 0 when a credential is stored, 1 when somebody refused, 64 for a usage error, 69 when a server cannot be asked, 75 when it
/// could not tell.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match block_on(login(arguments)) {
        Ok(done) if arguments.json => println!("{done}"),
        Ok(done) => {
            let text = |name: &str| shown(done[name].as_str().unwrap_or("unknown"));
            println!("signed in to {} as {}; the credential is with {}", text("registry"), text("principal"), text("stored"));
        }
        Err(error) => {
            eprintln!("outport login: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

pub(super) fn run_logout(arguments: &LogoutArguments) -> ExitCode {
    let erase = || {
        let registry = Registry::parse(&arguments.registry, &Reach::default())?;
        Ok(DockerConfig::find(process_environment)?.erase(&registry.host)?)
    };
    match erase() {
        Ok(Some(place)) => println!("the credential for {} is removed from {place}", arguments.registry),
        Ok(None) => println!("there was no credential for {}", arguments.registry),
        Err(error) => {
            let error: WebError = error;
            eprintln!("outport logout: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

/// Runs a command's only task.
pub(super) fn block_on<T>(task: impl Future<Output = Result<T, WebError>>) -> Result<T, WebError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|why| WebError::Failed(why.to_string()))?.block_on(task)
}

async fn login(arguments: &Arguments) -> Result<Value, WebError> {
    let registry = Registry::parse(&arguments.registry, &arguments.reach)?;
    let web = Web::new(arguments.reach.ca_file.as_deref())?;
    // Found before anybody signs in.
    let docker = DockerConfig::find(process_environment)?;
    let token = match &arguments.token_file {
        Some(path) => read_token_file(path)?,
        None if arguments.token_stdin => read_token(io::stdin(), "the standard input")?,
        None => sign_in(&web, &registry, arguments.issuer.as_deref()).await?,
    };
    let token = exchange(&web, &registry, &token).await?;
    let place = docker.store(&registry.host, &token)?;
    let claims = claims(&token).unwrap_or_default();
    Ok(json!({ "registry": registry.host, "principal": claims["sub"], "stored": place.to_string(), "expires": claims["exp"] }))
}

/// The token in a file.
pub(super) fn read_token_file(path: &Path) -> Result<String, WebError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|why| WebError::Usage(format!("{name}: {why}")))?;
    read_token(file, &name)
}

fn read_token(source: impl Read, name: &str) -> Result<String, WebError> {
    let mut text = String::new();
    source.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(|why| WebError::Usage(format!("{name}: {why}")))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(WebError::Usage(format!("{name} holds no token")));
    }
    Ok(token.to_owned())
}

/// What a token says, for showing: whether it is true is for others to judge.
pub(super) fn claims(token: &str) -> Option<Value> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok().filter(Value::is_object)
}

/// Where people sign in for a registry, as it tells.
struct Provider {
    client_id: String,
    audience: String,
    scope: String,
    device_endpoint: Url,
    token_endpoint: Url,
    /// For messages.
    host: String,
}

impl Provider {
    /// The one of this issuer; without one, the only one.
    fn choose(told: &Value, issuer: Option<&str>) -> Result<Provider, WebError> {
        let providers = told["providers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |provider: &Value| shown(provider["issuer"].as_str().unwrap_or_default());
        let names = || providers.iter().map(name).collect::<Vec<_>>().join(", ");
        let matching: Vec<&Value> =
            providers.iter().filter(|provider| issuer.is_none_or(|issuer| provider["issuer"].as_str() == Some(issuer))).collect();
        let provider = match matching.as_slice() {
            [only] => *only,
            [] if providers.is_empty() => {
                return Err(WebError::Usage("the registry names no provider to sign in at: give a token with --token-stdin".to_owned()));
            }
            [] => return Err(WebError::Usage(format!("the registry does not name this provider, but {}", names()))),
            _ => return Err(WebError::Usage(format!("choose a provider with --issuer: {}", names()))),
        };
        let text = |key: &str| provider[key].as_str().map(str::to_owned);
        let url = |key: &str| text(key).and_then(|text| text.parse::<Url>().ok()).filter(is_safe);
        let ends = url("device_authorization_endpoint").zip(url("token_endpoint"));
        let ends =
            ends.ok_or_else(|| WebError::Failed(format!("{} has no device flow: give a token with --token-stdin", name(provider))))?;
        let told = text("client_id").zip(text("audience")).zip(text("scope"));
        let ((client_id, audience), scope) = told.ok_or_else(|| WebError::Failed("the registry's answer is not complete".to_owned()))?;
        let host = ends.0.host_str().unwrap_or_default().to_owned();
        Ok(Provider { client_id, audience, scope, device_endpoint: ends.0, token_endpoint: ends.1, host })
    }
}

/// Nobody but the provider may read what is sent to it.
fn is_safe(url: &Url) -> bool {
    let here = || url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
    url.scheme() == "https" || (url.scheme() == "http" && here())
}

/// Lets somebody sign in with a browser, anywhere, and returns the provider's token.
async fn sign_in(web: &Web, registry: &Registry, issuer: Option<&str>) -> Result<String, WebError> {
    let told = web.get(&registry.at("/outport/v1/login")).await?.success(&registry.host)?;
    let provider = Provider::choose(&told, issuer)?;
    let fields = [("client_id", provider.client_id.as_str()), ("scope", &provider.scope)];
    let begun = web.post(&provider.device_endpoint, &fields).await?.success(&provider.host)?;
    let text = |key: &str| begun[key].as_str();
    let (Some(code), Some(user_code), Some(place)) = (text("device_code"), text("user_code"), text("verification_uri")) else {
        return Err(WebError::Failed(format!("{} begins no device flow", provider.host)));
    };
    eprintln!("To sign in, open {} and enter the code {}", shown(place), shown(user_code));
    if let Some(complete) = text("verification_uri_complete") {
        eprintln!("or open {}", shown(complete));
    }
    let seconds = |key: &str| begun[key].as_u64().map(Duration::from_secs);
    let pause = seconds("interval").unwrap_or(POLL_EVERY);
    let deadline = Instant::now() + seconds("expires_in").unwrap_or(MAX_SIGN_IN_TIME).min(MAX_SIGN_IN_TIME);
    let granted = wait_for_grant(web, &provider, code, pause, deadline).await?;
    chosen(&granted, &provider.audience).ok_or_else(|| {
        WebError::Failed(format!("none of the provider's tokens is for {}: the client is not configured for it", shown(&provider.audience)))
    })
}

async fn wait_for_grant(web: &Web, provider: &Provider, code: &str, pause: Duration, deadline: Instant) -> Result<Value, WebError> {
    let mut pause = pause;
    loop {
        pause = pause.clamp(Duration::from_secs(1), MAX_POLL_PAUSE);
        sleep(pause).await;
        if Instant::now() > deadline {
            return Err(WebError::Failed("nobody signed in in time".to_owned()));
        }
        let fields = [("grant_type", DEVICE_GRANT), ("device_code", code), ("client_id", provider.client_id.as_str())];
        let answer = match web.post(&provider.token_endpoint, &fields).await {
            Ok(answer) => answer,
            // RFC 8628, section 3.5: who cannot be asked is asked less often.
            Err(WebError::Unavailable(..)) => {
                pause *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        match answer.json["error"].as_str() {
            Some("authorization_pending") => {}
            Some("slow_down") => pause += SLOW_DOWN,
            Some("expired_token") => return Err(WebError::Failed("nobody signed in in time".to_owned())),
            Some("access_denied") => return Err(WebError::Failed("the sign-in was refused".to_owned())),
            _ => return answer.success(&provider.host),
        }
    }
}

/// The token that is for this audience: an access token for the registry, or the identity token of a client that stands for it.
fn chosen(granted: &Value, audience: &str) -> Option<String> {
    let is_for = |token: &&str| {
        claims(token).is_some_and(|claims| match &claims["aud"] {
            Value::Array(all) => all.iter().any(|each| each == audience),
            only => only == audience,
        })
    };
    ["access_token", "id_token"].iter().filter_map(|key| granted[*key].as_str()).find(is_for).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn provider(issuer: &str) -> Value {
        json!({
            "issuer": issuer, "client_id": "cli", "audience": "a", "scope": "openid",
            "device_authorization_endpoint": format!("{issuer}/device"), "token_endpoint": format!("{issuer}/token"),
        })
    }

    #[test]
    fn the_token_for_the_registry_is_chosen() {
        let (other, ours) = (token(&json!({ "aud": "graph" })), token(&json!({ "aud": ["x", "a"] })));
        for (granted, expected) in [
            (json!({ "access_token": "opaque", "id_token": ours }), Some(&ours)),
            (json!({ "access_token": other, "id_token": ours }), Some(&ours)),
            (json!({ "access_token": ours, "id_token": other }), Some(&ours)),
            (json!({ "access_token": other }), None),
            (json!({}), None),
        ] {
            assert_eq!(chosen(&granted, "a").as_ref(), expected, "{granted}");
        }
    }

    #[test]
    fn a_provider_is_chosen_by_its_issuer() {
        let two = json!({ "providers": [provider("https://a.example"), provider("https://b.example")] });
        let chosen = Provider::choose(&two, Some("https://b.example")).unwrap();
        assert_eq!((chosen.host.as_str(), chosen.token_endpoint.as_str()), ("b.example", "https://b.example/token"));
        assert!(Provider::choose(&json!({ "providers": [provider("http://127.0.0.1:1")] }), None).is_ok());
        let mut without_flow = provider("https://a.example");
        without_flow["device_authorization_endpoint"] = Value::Null;
        for (told, issuer, said) in [
            (two.clone(), None, "choose a provider with --issuer: https://a.example, https://b.example"),
            (two, Some("https://c.example"), "the registry does not name this provider, but https://a.example, https://b.example"),
            (json!({}), None, "the registry names no provider to sign in at: give a token with --token-stdin"),
            (json!({ "providers": [without_flow] }), None, "https://a.example has no device flow: give a token with --token-stdin"),
            (
                json!({ "providers": [provider("http://a.example")] }),
                None,
                "http://a.example has no device flow: give a token with --token-stdin",
            ),
        ] {
            assert_eq!(Provider::choose(&told, issuer).err().unwrap().to_string(), said);
        }
    }

    #[test]
    fn a_token_is_read_without_what_surrounds_it() {
        assert_eq!(read_token(" a.b.c\n".as_bytes(), "x").unwrap(), "a.b.c");
        for text in ["", "\n", "a b", "a\nb"] {
            assert_eq!(read_token(text.as_bytes(), "x").unwrap_err().to_string(), "x holds no token", "{text:?}");
        }
        assert_eq!(claims(&token(&json!({ "sub": "ann" }))).unwrap()["sub"], "ann");
        assert!(claims("opaque").is_none() && claims("a.b.c").is_none());
    }
}
