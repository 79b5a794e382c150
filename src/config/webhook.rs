//! `[[webhook]]`: who is told what happens to images that are pushed here.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use ipnet::IpNet;
use url::Url;

use super::Secret;
use super::reader::Section;
use super::schema::{
    DAY, Given, MILLISECONDS_100, MINUTE, Owners, SecretKeys, note, read_secret, require_pem, seconds, warn_of_plain_secret,
};
use crate::access::Pattern;

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookAction {
    /// A manifest was pushed in this region.
    Push,
    /// A manifest or a tag was deleted in this region.
    Delete,
    /// A tag of this region prevails over one that another region had set.
    Conflict,
    /// This region holds all bytes of an image.
    Available,
}

/// All of them.
pub const WEBHOOK_ACTIONS: [WebhookAction; 4] =
    [WebhookAction::Push, WebhookAction::Delete, WebhookAction::Conflict, WebhookAction::Available];

impl WebhookAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            WebhookAction::Push => "push",
            WebhookAction::Delete => "delete",
            WebhookAction::Conflict => "conflict",
            WebhookAction::Available => "available",
        }
    }
}

/// A receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub name: String,
    pub url: Url,
    /// What signs; where it begins with `whsec_`, the rest is base64 of the key.
    pub secret: Secret,
    /// The value of the Authorization header.
    pub authorization: Option<Secret>,
    /// What is told; empty means everything.
    pub actions: Vec<WebhookAction>,
    /// Of which repositories; empty means all.
    pub repositories: Vec<Pattern>,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Networks, besides public ones, in which the receiver may lie.
    pub private_networks: Vec<IpNet>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries, at most, and how old an event may become.
    pub attempts: u32,
    pub max_age: Duration,
    /// Events that wait, at most.
    pub queue: usize,
}

/// Before the base64 of a key (Standard Webhooks).
pub const KEY_PREFIX: &str = "whsec_";
/// What signs must not be guessed.
const MIN_SECRET_BYTES: usize = 16;
const MAX_NAME_CHARS: usize = 63;

const SECRET: SecretKeys = SecretKeys { inline: "secret", file: "secret_file", variable: "secret_env", what: "a secret" };
const AUTHORIZATION: SecretKeys =
    SecretKeys { inline: "authorization", file: "authorization_file", variable: "authorization_env", what: "a credential" };

pub(super) fn read(root: &mut Section<'_, '_, '_>) -> Vec<Webhook> {
    let mut names = Owners::new();
    root.sections("webhook").into_iter().filter_map(|section| read_one(section, &mut names)).collect()
}

fn read_one(mut section: Section<'_, '_, '_>, names: &mut Owners) -> Option<Webhook> {
    let name: Option<String> = section.required("name");
    if let Some(name) = &name {
        if !is_name(name) {
            section.fault("name", format!("{name:?} is not a webhook's name: 1 to {MAX_NAME_CHARS} letters, digits, - and _"));
        } else if let Some(earlier) = note(names, name.clone(), section.path()) {
            section.fault("name", format!("{name:?} stands already in {earlier}"));
        }
    }
    let url = read_url(&mut section);
    let given = read_secret(&mut section, SECRET);
    match &given {
        Given::Nothing => section.fault("secret_file", "is missing: name a file, or a variable in secret_env"),
        Given::Secret(secret) => {
            if let Err(why) = judge_secret(secret) {
                section.fault("secret_file", why);
            }
        }
        Given::Broken => {}
    }
    let authorization = read_secret(&mut section, AUTHORIZATION).into_secret();
    if let Some(authorization) = &authorization {
        if HeaderValue::from_str(authorization.expose()).is_err() {
            section.fault("authorization_file", "is not the value of a header");
        }
        warn_of_plain_secret(&section, "url", url.as_slice(), "the credential");
    }
    let actions = section.list("actions");
    let repositories = section.list("repositories");
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let private_networks = section.list("private_networks");
    let timeout = section.bounded("timeout", seconds(10), MILLISECONDS_100..=seconds(MINUTE));
    let attempts = section.bounded("attempts", 12, 1..=100);
    let max_age = section.bounded("max_age", seconds(DAY), seconds(1)..=seconds(7 * DAY));
    let queue = section.bounded("queue", 1_000, 1..=100_000);
    section.finish();
    Some(Webhook {
        name: name?,
        url: url?,
        secret: given.into_secret()?,
        authorization,
        actions,
        repositories,
        ca_file: ca_file.map(|file| file.path),
        private_networks,
        timeout,
        attempts,
        max_age,
        queue,
    })
}

/// Other than those of upstreams it may have a query. It is not repeated: it may be a secret as a whole.
fn read_url(section: &mut Section<'_, '_, '_>) -> Option<Url> {
    let text: String = section.required("url")?;
    let judged = match Url::parse(&text) {
        Err(why) => Err(format!("not a URL such as \"https://ci.example.com/hook\": {why}")),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => Err("the URL must begin with http:// or https://".to_owned()),
        Ok(url) if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() => {
            Err("has a user name, a password or a #: credentials go into authorization_file".to_owned())
        }
        Ok(url) => Ok(url),
    };
    judged.map_err(|why| section.fault("url", why)).ok()
}

/// It stands in paths and labels.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(fits)
}

fn judge_secret(secret: &Secret) -> Result<(), String> {
    let bytes = match secret.expose().strip_prefix(KEY_PREFIX) {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| format!("is not base64 behind {KEY_PREFIX}"))?.len(),
        None => secret.expose().len(),
    };
    if bytes < MIN_SECRET_BYTES { Err(format!("is too short: a secret has at least {MIN_SECRET_BYTES} bytes")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{faults, parse};
    use crate::config::{Config, WebhookAction};

    fn with(lines: &str, secret: &str) -> Result<Config, String> {
        let text = format!("[[webhook]]\nname = \"ci\"\nurl = \"https://ci.example.com/hook\"\nsecret_env = \"S\"\n{lines}");
        let environment = |name: &str| (name == "S").then(|| secret.to_owned());
        Config::parse(&text, std::path::Path::new("/nowhere"), &environment).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_webhook_tells_everything_unless_it_says_what() {
        let config = with("", "0123456789abcdef").unwrap();
        let hook = &config.webhooks[0];
        assert_eq!((hook.actions.len(), hook.repositories.len(), hook.attempts, hook.queue), (0, 0, 12, 1_000));
        let config = with("actions = [\"push\", \"available\"]\nrepositories = [\"team/**\"]", "whsec_MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        assert_eq!(config.webhooks[0].actions, [WebhookAction::Push, WebhookAction::Available]);
        assert!(parse("").unwrap().webhooks.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_webhook_is_told_with_its_key() {
        for (lines, secret, expected) in [
            ("actions = [\"pull\"]", "0123456789abcdef", "webhook[0].actions[0]: \"pull\" is not "),
            ("", "short", "webhook[0].secret_file: is too short: a secret has at least 16 bytes"),
            ("", "whsec_***", "webhook[0].secret_file: is not base64 behind whsec_"),
            ("queue = 0", "0123456789abcdef", "webhook[0].queue: 0 is out of bounds: 1 to 100000"),
            (
                "authorization = \"Bearer x\"",
                "0123456789abcdef",
                "webhook[0].authorization: a credential does not stand in the configuration",
            ),
            (
                "[[webhook]]\nname = \"ci\"\nurl = \"https://x\"\nsecret_env = \"S\"",
                "0123456789abcdef",
                "webhook[1].name: \"ci\" stands already in webhook[0]",
            ),
        ] {
            let found = with(lines, secret).unwrap_err();
            assert!(found.contains(expected), "{lines}: {found}");
        }
        let found = faults("[[webhook]]\nname = \"a/b\"\nurl = \"https://me:x@ci.example.com\"");
        let has = |start: &str| found.iter().any(|fault| fault.contains(start));
        assert!(has("webhook[0].name: ") && has("webhook[0].url: ") && has("webhook[0].secret_file: is missing"), "{found:?}");
    }
}
