//! `[oidc]`, or several as `[[oidc]]`: the OpenID Connect providers at which people and workloads sign in.

use std::path::PathBuf;

use ipnet::IpNet;
use url::Url;

use super::reader::Section;
use super::schema::{Owners, note, require_pem};

/// A provider whose tokens are exchanged for this registry's.
#[derive(Clone, Debug, PartialEq)]
pub struct Oidc {
    /// As its tokens name it, letter by letter (OpenID Connect Discovery 1.0, section 4.3).
    pub issuer: String,
    /// What its tokens for this registry are for: one of their audiences.
    pub audience: String,
    /// As what `outport login` signs people in; `None`: it does not.
    pub client_id: Option<String>,
    /// What `outport login` asks for.
    pub scope: String,
    /// The claim with the names of groups.
    pub groups_claim: String,
    /// The claim with the principal's name. A token without it has the name of its `email`, or of its `sub`.
    pub name_claim: String,
    /// Stands before the names of this provider's principals and groups.
    pub prefix: String,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Networks, besides public ones, in which the provider may lie.
    pub private_networks: Vec<IpNet>,
}

pub(super) fn read(root: &mut Section<'_, '_, '_>) -> Vec<Oidc> {
    let mut issuers = Owners::new();
    root.one_or_more("oidc").into_iter().filter_map(|section| read_one(section, &mut issuers)).collect()
}

fn read_one(mut section: Section<'_, '_, '_>, issuers: &mut Owners) -> Option<Oidc> {
    let issuer: Option<String> = section.required("issuer");
    if let Some(issuer) = &issuer {
        if let Err(why) = judge_issuer(issuer) {
            section.fault("issuer", why);
        } else if let Some(earlier) = note(issuers, issuer.clone(), section.path()) {
            section.fault("issuer", format!("{issuer:?} stands already in {earlier}"));
        }
    }
    let audience: Option<String> = section.required("audience");
    if audience.as_ref().is_some_and(String::is_empty) {
        section.fault("audience", "is empty");
    }
    let client_id: Option<String> = section.optional("client_id");
    let scope = section.or("scope", "openid profile email".to_owned());
    let groups_claim = section.or("groups_claim", "groups".to_owned());
    let name_claim = section.or("name_claim", "preferred_username".to_owned());
    let prefix = section.or("prefix", String::new());
    if !(prefix.is_empty() || super::is_principal(&prefix)) {
        section.fault("prefix", format!("{prefix:?} is not the beginning of a principal's name"));
    }
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let private_networks = section.list("private_networks");
    section.finish();
    let ca_file = ca_file.map(|file| file.path);
    Some(Oidc { issuer: issuer?, audience: audience?, client_id, scope, groups_claim, name_claim, prefix, ca_file, private_networks })
}

/// Whoever stands between could forge keys that come by plain HTTP.
fn judge_issuer(issuer: &str) -> Result<(), String> {
    let url = Url::parse(issuer).map_err(|why| format!("not a URL such as \"https://login.example.com\": {why}"))?;
    let here = url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
    match url.scheme() {
        "https" => {}
        "http" if here => {}
        _ => return Err("the URL must begin with https://".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("the URL must have no user name, no ? and no #".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{faults, parse};

    #[test]
    fn one_provider_or_several_are_read() {
        let one = parse("[oidc]\nissuer = \"https://login.example.com\"\naudience = \"outport\"").unwrap();
        assert_eq!((one.oidc.len(), one.oidc[0].groups_claim.as_str()), (1, "groups"));
        assert_eq!(one.oidc[0].issuer, "https://login.example.com", "not written anew");
        let several = r#"
            [[oidc]]
            issuer = "https://login.example.com/tenant/v2.0"
            audience = "outport"
            client_id = "cli"
            [[oidc]]
            issuer = "https://kubernetes.default.svc"
            audience = "outport"
            prefix = "k8s:"
            private_networks = ["10.0.0.0/8"]
        "#;
        let several = parse(several).unwrap();
        assert_eq!(several.oidc.iter().map(|each| each.prefix.as_str()).collect::<Vec<_>>(), ["", "k8s:"]);
    }

    #[test]
    fn what_is_wrong_with_a_provider_is_told() {
        let with = |line: &str| format!("[oidc]\naudience = \"a\"\n{line}");
        for (text, expected) in [
            (with("issuer = \"http://login.example.com\""), "oidc.issuer: the URL must begin with https://"),
            (with("issuer = \"https://login.example.com?x\""), "oidc.issuer: the URL must have no user name, no ? and no #"),
            (with("issuer = \"https://a\"\nprefix = \"group:\""), r#"oidc.prefix: "group:" is not the beginning of a principal's name"#),
            (with("issuer = \"https://a\"\naudience_x = \"\""), "oidc.audience_x: unknown key; did you mean audience?"),
            ("[oidc]\nissuer = \"https://a\"\naudience = \"\"".to_owned(), "oidc.audience: is empty"),
            (
                "[[oidc]]\nissuer = \"https://a\"\naudience = \"a\"\n[[oidc]]\nissuer = \"https://a\"\naudience = \"b\"".to_owned(),
                r#"oidc[1].issuer: "https://a" stands already in oidc[0]"#,
            ),
        ] {
            let found = faults(&text);
            assert!(found.len() == 1 && found[0].ends_with(&format!(" {expected}")), "{text}: {found:?}");
        }
        assert!(parse(&with("issuer = \"http://127.0.0.1:8080\"")).is_ok());
    }
}
