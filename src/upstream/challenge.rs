//! What an upstream wants to see before it answers: the `WWW-Authenticate` header (RFC 9110, 11.6.1).

/// A header longer than this is ignored.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// More challenges or parameters than this are not read.
const MAX_CHALLENGES: usize = 16;
const MAX_PARAMETERS: usize = 32;

/// One challenge of a kind that registries use; others are passed over. The texts are the server's: not yet to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Ask `realm` for a token (distribution-spec's token authentication; RFC 6750 has the scheme).
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// Send the user name and password (RFC 7617).
    Basic,
}

/// Reads one `WWW-Authenticate` header, in which several challenges may stand. What comes after the first thing that cannot be
/// read is left out; so is a challenge that names a parameter twice or a Bearer challenge without a realm. Never fails.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    if header.len() > MAX_HEADER_BYTES {
        return challenges;
    }
    let mut cursor = Cursor { rest: header };
    for _ in 0..MAX_CHALLENGES {
        let Some((scheme, parameters)) = cursor.challenge() else { break };
        challenges.extend(recognize(scheme, parameters));
    }
    challenges
}

/// Parameters in their order, names in lower case.
type Parameters = Vec<(String, String)>;

fn recognize(scheme: &str, parameters: Parameters) -> Option<Challenge> {
    let mut names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        return None;
    }
    let find = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(Challenge::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") })
    } else {
        scheme.eq_ignore_ascii_case("basic").then_some(Challenge::Basic)
    }
}

/// What is left to read.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// `auth-scheme [ 1*SP ( token68 / #auth-param ) ]`, and the commas before it.
    fn challenge(&mut self) -> Option<(&'a str, Parameters)> {
        self.skip([' ', '\t', ',']);
        let scheme = self.token()?;
        if !self.rest.is_empty() && !self.rest.starts_with([' ', '\t', ',']) {
            return None;
        }
        self.skip([' ', '\t']);
        if self.token68() {
            return Some((scheme, Parameters::new()));
        }
        let mut parameters = Parameters::new();
        while parameters.len() < MAX_PARAMETERS && self.at_parameter() {
            parameters.push(self.parameter()?);
        }
        Some((scheme, parameters))
    }

    /// Whether a name with `=` comes next. Without the `=` it is the scheme of the next challenge.
    fn at_parameter(&self) -> bool {
        let mut ahead = Cursor { rest: self.rest };
        ahead.skip([' ', '\t', ',']);
        ahead.token().is_some() && {
            ahead.skip([' ', '\t']);
            ahead.rest.starts_with('=')
        }
    }

    /// `token BWS "=" BWS ( token / quoted-string )`
    fn parameter(&mut self) -> Option<(String, String)> {
        self.skip([' ', '\t', ',']);
        let name = self.token()?.to_ascii_lowercase();
        self.skip([' ', '\t']);
        self.rest = self.rest.strip_prefix('=')?;
        self.skip([' ', '\t']);
        let value = if self.rest.starts_with('"') { self.quoted()? } else { self.token()?.to_owned() };
        Some((name, value))
    }

    /// Passes over a `token68` (Negotiate has one). It fills its place up to the next comma, which a parameter never does.
    fn token68(&mut self) -> bool {
        let is_token68 = |character: char| character.is_ascii_alphanumeric() || "-._~+/".contains(character);
        let after = self.rest.trim_start_matches(is_token68);
        if after.len() == self.rest.len() {
            return false;
        }
        let after = after.trim_start_matches('=').trim_start_matches([' ', '\t']);
        let ends = after.is_empty() || after.starts_with(',');
        if ends {
            self.rest = after;
        }
        ends
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |character: char| character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character);
        let end = self.rest.find(|character| !is_token(character)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A quoted string without its quotes, `\x` read as `x`; `None` when it has no end.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.strip_prefix('"')?.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => value.push(characters.next()?),
                plain => value.push(plain),
            }
        }
        self.rest = characters.as_str();
        Some(value)
    }

    fn skip<const N: usize>(&mut self, these: [char; N]) {
        self.rest = self.rest.trim_start_matches(these);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
    }

    #[test]
    fn headers_of_registries_and_of_the_rfc() {
        for (header, challenges) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/alpine:pull"))],
            ),
            (r#"bearer Realm = "https://a/\"t\\" , error="x""#, vec![bearer("https://a/\"t\\", None, None)]),
            (r#"Bearer realm=plain"#, vec![bearer("plain", None, None)]),
            (r#"Basic realm="r""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (r#"Basic, Bearer realm="a""#, vec![Challenge::Basic, bearer("a", None, None)]),
            (r#"Bearer realm="a",service="s, t", Basic realm="b""#, vec![bearer("a", Some("s, t"), None), Challenge::Basic]),
            (r#"Negotiate YWJj/+==, , Basic realm="b""#, vec![Challenge::Basic]),
            (r#"Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple""#, vec![Challenge::Basic]),
            (r#"Negotiate,Basic realm="b""#, vec![Challenge::Basic]),
        ] {
            assert_eq!(parse(header), challenges, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for header in [
            "",
            ",",
            "Bearer",
            "Bearer token68==",
            r#"Bearer service="s""#,
            r#"Bearer realm="no end"#,
            r#"Bearer realm="ends in an escape\"#,
            r#"Bearer realm="a", realm="b""#,
            r#"Bearer realm="#,
            r#""Bearer" realm="a""#,
            "Bearer\u{a0}realm=a",
            &format!("Bearer realm={}", "a".repeat(MAX_HEADER_BYTES)),
        ] {
            assert_eq!(parse(header), Vec::new(), "{header}");
        }
        assert_eq!(parse(&"Basic,".repeat(100)).len(), MAX_CHALLENGES);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(header in ".*", like in r#"([Bb]earer|Basic|x)?[ =,"\\a-z]{0,40}"#) {
            parse(&header);
            parse(&like);
        }

        #[test]
        fn a_quoted_realm_reads_back(realm in ".*") {
            let quoted = realm.replace('\\', r"\\").replace('"', r#"\""#);
            let expected = if quoted.len() + 16 > MAX_HEADER_BYTES { Vec::new() } else { vec![bearer(&realm, None, None)] };
            prop_assert_eq!(parse(&format!(r#"Bearer realm="{quoted}""#)), expected);
        }
    }
}
