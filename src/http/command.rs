//! Operators' commands: `POST /outport/v1/refresh` and `/outport/v1/prefetch`, with `{"image": ..., "platform": ...}`.

use bytes::Bytes;
use serde::Deserialize;

use super::admit::Site;
use super::error::Failure;
use super::log::Record;
use crate::access::{Access, Action};
use crate::oci::{Image, ImageError, Reference, is_platform};
use crate::registry::Addressing;

/// The largest body of a command.
pub const MAX_COMMAND_BYTES: usize = 16 * 1024;

/// A command that its caller may give.
#[derive(Debug, PartialEq)]
pub struct Order {
    pub access: Access,
    pub reference: Reference,
    /// `os/architecture`, or with a variant behind another slash.
    pub platform: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    image: String,
    platform: Option<String>,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        Failure::bad_command(error.to_string())
    }
}

/// Reads a command and authorizes it: it needs the right to push to its repository.
pub fn authorize(site: &Site, body: &Bytes, record: &mut Record) -> Result<Order, Failure> {
    let fields: Fields = serde_json::from_slice(body).map_err(|error| Failure::bad_command(error.to_string()))?;
    if !fields.platform.as_deref().is_none_or(is_platform) {
        return Err(Failure::bad_command("a platform is os/architecture, as in linux/arm64"));
    }
    let image: Image = fields.image.parse()?;
    let target = site.names.resolve(Addressing { name: &image.name, ns: image.ns.as_deref(), host: None })?;
    record.upstream = target.upstream;
    record.repository = Some(target.repository.clone());
    record.reference = Some(image.reference.to_string());
    let access = site.authorize_write(record.caller(), &target.repository, Action::Push)?;
    Ok(Order { access, reference: image.reference, platform: fields.platform })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Grants, Policy};
    use crate::http::Connection;
    use crate::identity::Identity;
    use crate::metrics::Metrics;
    use crate::registry::Names;

    fn authorized(anonymous: Grants, body: &str) -> Result<Order, u16> {
        let policy = Policy { anonymous, ..Policy::default() };
        let (names, identity, tokens) = (Names::default(), Identity::new(&[]), crate::peers::Tokens::default());
        let (vouching, deadline) = (crate::registry::Vouching::default(), std::time::Duration::from_secs(10));
        let limits = crate::config::ClientLimits::default();
        let nearer = crate::http::Nearer::default();
        let meanings = crate::http::Meanings::default();
        let heads = crate::http::Heads::default();
        let site = Site { names, meanings, heads, identity, policy, tokens, vouching, public_url: None, deadline, limits, nearer };
        let head = http::Request::post("/outport/v1/refresh").body(()).unwrap().into_parts().0;
        let connection = Connection::plain("10.0.0.1:1".parse().unwrap());
        let mut record = Record::start(&Metrics::new(), (&head.method, &head.headers), &connection, String::new());
        authorize(&site, &Bytes::copy_from_slice(body.as_bytes()), &mut record).map_err(|failure| failure.status.as_u16())
    }

    fn all() -> Grants {
        Grants { pull: Vec::new(), push: vec!["**".parse().unwrap()] }
    }

    #[test]
    fn row_74_what_cannot_be_read_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"image":""}"#,
            r#"{"image":"A"}"#,
            r#"{"image":"a:-"}"#,
            r#"{"image":"a@sha256:0"}"#,
            r#"{"image":"a","force":true}"#,
            r#"{"image":"a"} x"#,
            r#"{"image":"a","platform":"linux"}"#,
            r#"{"image":"a","platform":"linux/arm64\n"}"#,
        ] {
            assert_eq!(authorized(all(), body), Err(400), "{body}");
        }
    }

    #[test]
    fn a_command_needs_the_right_to_push() {
        let body = r#"{"image":"a/b:1","platform":"linux/arm/v7"}"#;
        let order = authorized(all(), body).unwrap();
        assert_eq!(order.platform.as_deref(), Some("linux/arm/v7"));
        assert_eq!(authorized(Grants { pull: vec!["**".parse().unwrap()], push: Vec::new() }, body), Err(401));
    }
}
