//! The types that a key's value can have: how each is read from TOML, and written back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;
use url::Url;

use super::units::{ByteSize, parse_duration, show_duration};
use super::{Authorize, BucketPlace, ForwardingHeader, LogFormat, SIGNALS, Share, Signal, WEBHOOK_ACTIONS, WebhookAction};
use crate::access::{CertificateName, Otherwise, Pattern, ROLES, Role};

/// A value of one type.
pub(super) trait Value: Sized {
    /// With an article and an example, for the error about a wrong type.
    const WHAT: &'static str;

    /// Reads it. The error says what is wrong with a value of the right TOML type; `None` means that the type is another.
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>>;

    /// The TOML that reads back as this value.
    fn show(&self) -> String;
}

/// Reads one value; the error is a sentence that starts with the value, unless the value could hold a secret.
pub(super) fn read<T: Value>(value: &DeValue<'_>) -> Result<T, String> {
    T::read(value).unwrap_or_else(|| Err(format!("expected {}, found {}", T::WHAT, found(value))))
}

/// The type of a value, with its article.
pub(super) fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// TOML's quoting of a text.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A type that is a TOML text with a form of its own: `$read` makes it of the text or says what is wrong.
macro_rules! text_value {
    ($type:ty, $what:literal, $read:expr, $show:expr) => {
        impl Value for $type {
            const WHAT: &'static str = $what;

            fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
                let read: fn(&str) -> Result<$type, String> = $read;
                value.as_str().map(read)
            }

            fn show(&self) -> String {
                let show: fn(&$type) -> String = $show;
                quoted(&show(self))
            }
        }
    };
}

fn is(text: &str, why: impl std::fmt::Display) -> String {
    format!("{text:?} is {why}")
}

text_value!(String, "a text", |text| Ok(text.to_owned()), String::clone);
text_value!(PathBuf, "a path", |text| Ok(text.into()), |path| path.display().to_string());
text_value!(ByteSize, "a size such as \"512MiB\"", |text| text.parse().map_err(|why| is(text, why)), ByteSize::to_string);
text_value!(Duration, "a duration such as \"5m\"", |text| parse_duration(text).map_err(|why| is(text, why)), |duration| show_duration(
    *duration
));
text_value!(
    SocketAddr,
    "an address such as \"0.0.0.0:5000\"",
    |text| text.parse().map_err(|_| is(text, "not an address: an IP address and a port, such as \"0.0.0.0:5000\" or \"[::]:5000\"")),
    SocketAddr::to_string
);
text_value!(
    IpNet,
    "a network such as \"10.0.0.0/8\"",
    |text| text.parse().map_err(|_| is(text, "not a network: an IP address and a prefix length, such as \"10.0.0.0/8\"")),
    IpNet::to_string
);
text_value!(
    Pattern,
    "a pattern such as \"team/**\"",
    |text| text.parse().map_err(|why| format!("{text:?} is no pattern: {why}")),
    |pattern| pattern.as_str().to_owned()
);
text_value!(
    Role,
    "a role such as \"AcrPull\"",
    |text| text.parse().map_err(|_| is(text, format!("none of the roles {}", ROLES.map(Role::as_str).join(", ")))),
    Role::to_string
);
text_value!(
    Otherwise,
    "\"deny\" or \"allow\"",
    |text| match text {
        "deny" => Ok(Otherwise::Deny),
        "allow" => Ok(Otherwise::Allow),
        _ => Err(is(text, "neither \"deny\" nor \"allow\"")),
    },
    |otherwise| if *otherwise == Otherwise::Allow { "allow".to_owned() } else { "deny".to_owned() }
);
text_value!(
    CertificateName,
    "a certificate's name such as \"CN=ci\"",
    |text| text.parse().map_err(|why| format!("{text:?} names no certificate: {why}")),
    CertificateName::to_string
);
text_value!(
    ForwardingHeader,
    "\"x-forwarded-for\" or \"forwarded\"",
    |text| match text {
        "x-forwarded-for" => Ok(ForwardingHeader::XForwardedFor),
        "forwarded" => Ok(ForwardingHeader::Forwarded),
        _ => Err(is(text, "neither \"x-forwarded-for\" nor \"forwarded\"")),
    },
    |header| match header {
        ForwardingHeader::XForwardedFor => "x-forwarded-for".to_owned(),
        ForwardingHeader::Forwarded => "forwarded".to_owned(),
    }
);
text_value!(
    Authorize,
    "\"edge\" or \"upstream\"",
    |text| match text {
        "edge" => Ok(Authorize::Edge),
        "upstream" => Ok(Authorize::Upstream),
        _ => Err(is(text, "neither \"edge\" nor \"upstream\"")),
    },
    |authorize| if *authorize == Authorize::Upstream { "upstream".to_owned() } else { "edge".to_owned() }
);
text_value!(
    LogFormat,
    "\"text\" or \"json\"",
    |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(is(text, "neither \"text\" nor \"json\"")),
    },
    |format| match format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    }
);
text_value!(
    WebhookAction,
    "an action such as \"push\"",
    |text| {
        let known = WEBHOOK_ACTIONS.into_iter().find(|action| action.as_str() == text);
        known.ok_or_else(|| is(text, "not \"push\", \"delete\", \"conflict\" or \"available\""))
    },
    |action| action.as_str().to_owned()
);
text_value!(
    Signal,
    "a signal such as \"traces\"",
    |text| {
        let known = SIGNALS.into_iter().find(|signal| signal.as_str() == text);
        known.ok_or_else(|| is(text, "not \"traces\", \"logs\" or \"metrics\""))
    },
    |signal| signal.as_str().to_owned()
);
text_value!(Share, "a share such as \"10%\"", |text| text.parse().map_err(|why| is(text, why)), Share::to_string);
text_value!(BucketPlace, "a bucket's URL such as \"s3://images/outport\"", BucketPlace::read, BucketPlace::to_string);
text_value!(Url, "a URL such as \"https://registry.example.com\"", read_url, Url::to_string);

/// An http or https URL without credentials, query or fragment. The text is not repeated in errors: it may hold a password.
fn read_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("not a URL such as \"https://registry.example.com\": {why}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the URL must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold a user name or password: use username, and password_file or password_env".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the URL must have no ? and no #".to_owned());
    }
    Ok(url)
}

impl Value for bool {
    const WHAT: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        value.as_bool().map(Ok)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! integer_value {
    ($type:ty) => {
        impl Value for $type {
            const WHAT: &'static str = "a whole number";

            fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
                let integer = value.as_integer()?;
                let read = <$type>::from_str_radix(integer.as_str(), integer.radix());
                Some(read.map_err(|_| format!("{integer} is out of bounds")))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
}
integer_value!(usize);
integer_value!(u32);
