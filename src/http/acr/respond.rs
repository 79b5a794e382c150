//! Answers as Azure's client libraries read them: pure.

use http::{HeaderMap, Response, StatusCode, header};
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::Call;
use super::route::AT_PARAMETER;
use crate::clock::Timestamp;
use crate::http::body::Payload;
use crate::http::respond::{IN_QUERY, insert_text, json as answer};
use crate::http::upload;
use crate::ledger::Attributes;
use crate::oci::{Digest, Tag};
use crate::registry::{Listed, ManifestProperties, Order, Part, Platform, Removed, RepositoryProperties, TagProperties};

fn changeable(attributes: Attributes) -> Value {
    let Attributes { read, write, delete, list } = attributes;
    json!({ "deleteEnabled": delete, "writeEnabled": write, "readEnabled": read, "listEnabled": list })
}

pub(super) fn repository(call: &Call, properties: &RepositoryProperties) -> Response<Payload> {
    let body = json!({
        "registry": call.registry,
        "imageName": call.name,
        "createdTime": properties.created_at.rfc3339(),
        "lastUpdateTime": properties.updated_at.rfc3339(),
        "manifestCount": properties.manifests,
        "tagCount": properties.tags,
        "changeableAttributes": changeable(properties.attributes),
    });
    answer(body.to_string().into())
}

pub(super) fn tag(call: &Call, properties: &TagProperties) -> Response<Payload> {
    answer(json!({ "registry": call.registry, "imageName": call.name, "tag": tag_json(properties) }).to_string().into())
}

fn tag_json(properties: &TagProperties) -> Value {
    json!({
        "name": properties.tag,
        "digest": properties.digest,
        "createdTime": properties.created_at.rfc3339(),
        "lastUpdateTime": properties.updated_at.rfc3339(),
        "signed": false,
        "changeableAttributes": changeable(properties.attributes),
    })
}

/// `part` and `of` are what a link to the next page repeats.
pub(super) fn tags(call: &Call, listed: &Listed<TagProperties>, (part, of): (&Part, Option<&Digest>)) -> Response<Payload> {
    let tags: Vec<Value> = listed.names.iter().map(tag_json).collect();
    let mut response = answer(json!({ "registry": call.registry, "imageName": call.name, "tags": tags }).to_string().into());
    if let Some(last) = listed.names.last().filter(|_| listed.more) {
        let digest = of.map(|digest| format!("&digest={digest}")).unwrap_or_default();
        let path = format!("/acr/v1/{}/_tags", call.name);
        link(response.headers_mut(), call, &path, (last.tag.as_str(), last.updated_at), (part, &digest));
    }
    response
}

pub(super) fn manifest(call: &Call, properties: &ManifestProperties) -> Response<Payload> {
    answer(json!({ "registry": call.registry, "imageName": call.name, "manifest": manifest_json(properties) }).to_string().into())
}

/// What is not known is left out.
fn manifest_json(properties: &ManifestProperties) -> Value {
    let details = &properties.details;
    let mut body = json!({
        "digest": properties.digest,
        "createdTime": properties.created_at.rfc3339(),
        "lastUpdateTime": properties.updated_at.rfc3339(),
        "changeableAttributes": changeable(properties.attributes),
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("imageSize", details.image_size_bytes.map(Value::from));
    set("mediaType", properties.media_type.as_deref().map(Value::from));
    set("configMediaType", details.config_media_type.as_deref().map(Value::from));
    set("architecture", details.platform.as_ref().map(|platform| platform.architecture.as_str().into()));
    set("os", details.platform.as_ref().map(|platform| platform.os.as_str().into()));
    // Azure leaves them out too where there are none.
    set("tags", (!properties.tags.is_empty()).then(|| properties.tags.iter().map(Tag::as_str).collect()));
    set("references", (!details.references.is_empty()).then(|| details.references.iter().map(reference_json).collect()));
    body
}

fn reference_json((digest, platform): &(Digest, Option<Platform>)) -> Value {
    match platform {
        Some(Platform { architecture, os }) => json!({ "digest": digest, "architecture": architecture, "os": os }),
        None => json!({ "digest": digest }),
    }
}

pub(super) fn manifests(call: &Call, listed: &Listed<ManifestProperties>, part: &Part) -> Response<Payload> {
    let manifests: Vec<Value> = listed.names.iter().map(manifest_json).collect();
    let mut response = answer(json!({ "registry": call.registry, "imageName": call.name, "manifests": manifests }).to_string().into());
    if let Some(last) = listed.names.last().filter(|_| listed.more) {
        let path = format!("/acr/v1/{}/_manifests", call.name);
        link(response.headers_mut(), call, &path, (&last.digest.to_string(), last.updated_at), (part, ""));
    }
    response
}

/// `Link` to what follows, relative, so that it leads back to the host that the client asked.
fn link(headers: &mut HeaderMap, call: &Call, path: &str, (last, at): (&str, Timestamp), (part, rest): (&Part, &str)) {
    let order = match part.order {
        Order::ByName => String::new(),
        Order::OldestFirst => format!("&orderby=timeasc&{AT_PARAMETER}={}", at.as_ms()),
        Order::NewestFirst => format!("&orderby=timedesc&{AT_PARAMETER}={}", at.as_ms()),
    };
    let ns = call.ns.as_deref().map(|ns| format!("&ns={}", utf8_percent_encode(ns, IN_QUERY))).unwrap_or_default();
    let last = utf8_percent_encode(last, IN_QUERY);
    insert_text(headers, header::LINK, &format!("<{path}?last={last}&n={}{order}{rest}{ns}>; rel=\"next\"", part.limit));
}

/// 202: what a repository had.
pub(super) fn removed(removed: &Removed) -> Response<Payload> {
    let body = json!({ "manifestsDeleted": removed.manifests, "tagsDeleted": removed.tags });
    let mut response = answer(body.to_string().into());
    *response.status_mut() = StatusCode::ACCEPTED;
    if let Some(position) = &removed.position {
        upload::insert_position(response.headers_mut(), &position.to_string());
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::access::{Action, Caller, Grants, Policy};
    use crate::http::acr::Acr;
    use crate::registry::{After, Details};

    fn call() -> Call {
        let anonymous = Grants { pull: vec!["**".parse().unwrap()], push: Vec::new() };
        let policy = Policy { anonymous, ..Policy::default() };
        let name = "team/app".parse().unwrap();
        let caller = Caller::anonymous(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let access = policy.authorize(&caller, &name, Action::MetadataRead).unwrap();
        Call { access, name, ns: None, registry: "edge:5000".to_owned(), wanted: Acr::Repository }
    }

    fn body(response: Response<Payload>) -> Value {
        let Payload::Bytes(bytes) = response.into_body() else { panic!("an answer has a body") };
        serde_json::from_slice(&bytes).unwrap()
    }

    fn a_tag(attributes: Attributes) -> TagProperties {
        let (created_at, updated_at) = (Timestamp::from_ms(0), Timestamp::from_ms(1_500));
        TagProperties { tag: "v1".parse().unwrap(), digest: Digest::sha256(b"x"), created_at, updated_at, attributes }
    }

    #[test]
    fn a_repository_and_a_tag_are_told_as_azure_does() {
        let attributes = Attributes { write: false, ..Attributes::default() };
        let (created_at, updated_at) = (Timestamp::from_ms(0), Timestamp::from_ms(1_500));
        let told = body(repository(&call(), &RepositoryProperties { created_at, updated_at, tags: 2, manifests: 3, attributes }));
        let changeable = json!({"deleteEnabled": true, "writeEnabled": false, "readEnabled": true, "listEnabled": true});
        let expected = json!({"registry": "edge:5000", "imageName": "team/app", "createdTime": "1970-01-01T00:00:00.000Z",
            "lastUpdateTime": "1970-01-01T00:00:01.500Z", "manifestCount": 3, "tagCount": 2, "changeableAttributes": changeable});
        assert_eq!(told, expected);
        let told = body(tag(&call(), &a_tag(attributes)));
        let expected = json!({"name": "v1", "digest": Digest::sha256(b"x"), "createdTime": "1970-01-01T00:00:00.000Z",
            "lastUpdateTime": "1970-01-01T00:00:01.500Z", "signed": false, "changeableAttributes": changeable});
        assert_eq!(told, json!({"registry": "edge:5000", "imageName": "team/app", "tag": expected}));
    }

    #[test]
    fn of_a_manifest_is_told_what_is_known() {
        let digest = Digest::sha256(b"x");
        let at = Timestamp::from_ms(0);
        let bare = ManifestProperties {
            digest,
            media_type: None,
            created_at: at,
            updated_at: at,
            tags: Vec::new(),
            attributes: Attributes::default(),
            details: Details::default(),
        };
        let told = body(manifest(&call(), &bare))["manifest"].clone();
        let names: Vec<&String> = told.as_object().unwrap().keys().collect();
        assert_eq!(names, ["changeableAttributes", "createdTime", "digest", "lastUpdateTime"]);
        let platform = Some(Platform { architecture: "arm64".to_owned(), os: "linux".to_owned() });
        let details = Details {
            image_size_bytes: Some(7),
            config_media_type: Some("a/b".to_owned()),
            platform: platform.clone(),
            references: vec![(digest, platform), (digest, None)],
        };
        let whole = ManifestProperties { media_type: Some("m".to_owned()), tags: vec!["v1".parse().unwrap()], details, ..bare };
        let told = body(manifest(&call(), &whole))["manifest"].clone();
        for (name, value) in [
            ("imageSize", json!(7)),
            ("architecture", json!("arm64")),
            ("os", json!("linux")),
            ("mediaType", json!("m")),
            ("configMediaType", json!("a/b")),
            ("tags", json!(["v1"])),
            ("references", json!([{"digest": digest, "architecture": "arm64", "os": "linux"}, {"digest": digest}])),
        ] {
            assert_eq!(told[name], value, "{name}");
        }
    }

    #[test]
    fn lists_link_to_what_follows_in_their_order() {
        let listed = |more| Listed { names: vec![a_tag(Attributes::default())], more };
        let part = |order| Part { limit: 1, order, after: Some(After { name: "a".to_owned(), at: None }) };
        for (order, query) in [
            (Order::ByName, "last=v1&n=1"),
            (Order::OldestFirst, "last=v1&n=1&orderby=timeasc&_at=1500"),
            (Order::NewestFirst, "last=v1&n=1&orderby=timedesc&_at=1500"),
        ] {
            let response = tags(&call(), &listed(true), (&part(order), None));
            assert_eq!(response.headers()["link"], format!("</acr/v1/team/app/_tags?{query}>; rel=\"next\""));
        }
        let digest = Digest::sha256(b"x");
        let call = Call { ns: Some("docker.io".to_owned()), ..call() };
        let response = tags(&call, &listed(true), (&part(Order::ByName), Some(&digest)));
        let link = format!("</acr/v1/team/app/_tags?last=v1&n=1&digest={digest}&ns=docker.io>; rel=\"next\"");
        assert_eq!(response.headers()["link"], link);
        assert!(!tags(&call, &listed(false), (&part(Order::ByName), None)).headers().contains_key("link"));
    }

    #[test]
    fn what_was_deleted_is_listed() {
        let response = removed(&Removed { manifests: vec![Digest::sha256(b"x")], tags: vec!["v1".parse().unwrap()], position: None });
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(body(response), json!({"manifestsDeleted": [Digest::sha256(b"x")], "tagsDeleted": ["v1"]}));
    }
}
