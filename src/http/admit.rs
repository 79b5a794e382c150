//! From the head of a request to a call that its caller may make: pure. Repository first, digest second.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Version, header};
use url::Url;

use super::acr::{self, Acr};
use super::connection::Connection;
use super::error::{Failure, Subject};
use super::governance::Governing;
use super::log::Record;
use super::meaning::{Meaning, Meanings, Texts};
use super::nearer::Nearer;
use super::oauth2::TokenRequest;
use super::receipts::Waiting;
use super::route::{Action, Begin, Command, Push, Question, RouteError, Wanted, route};
use super::top;
use super::upload::refuse_encoding;
use super::verbatim::{Heads, Known};
use crate::access::{self, Access, Caller, Denied, Operation, Permit, Policy};
use crate::audit;
use crate::config::ClientLimits;
use crate::identity::{AuthError, Identity};
use crate::journal::{self, Excerpt};
use crate::oci::RepositoryName;
use crate::peers::{self, Tokens};
use crate::registry::{Addressing, Names, Page, Vouching};

/// What a reload of the configuration replaces, all of it at once. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Site {
    pub names: Names,
    /// What was asked for before.
    pub meanings: Meanings,
    /// The same by the bytes in which it was asked for.
    pub heads: Heads,
    pub identity: Identity,
    pub policy: Policy,
    /// By which edges of other regions are known.
    pub tokens: Tokens,
    /// How clients reach this edge, where that cannot be told from the request.
    pub public_url: Option<Url>,
    /// The upstreams that decide themselves who reads what.
    pub vouching: Vouching,
    /// How long a client waits for an answer that needs an upstream.
    pub deadline: Duration,
    /// What one client may take.
    pub limits: ClientLimits,
    /// Whom another region is nearer to.
    pub nearer: Nearer,
}

/// A request that may be answered.
#[derive(Debug, PartialEq)]
pub enum Call {
    Version,
    Ready,
    Catalog(Page),
    AcrCatalog(Page),
    Forwards,
    Conflicts(Page),
    Overview,
    Wait(Waiting),
    Audit(Permit, audit::Query),
    Logs(Excerpt),
    SearchLogs(Permit, Box<journal::Query>),
    Webhooks(Permit),
    Ping(Permit, String),
    Offload,
    Watched,
    Top(Permit, top::Query),
    Read(Read),
    Write(Write),
    Acr(acr::Call),
    /// Authorized when its body has told the repository.
    Command(Command),
    /// The caller is known when the form in its body has told.
    Exchange,
    SignIns,
    Govern(Permit, Governing),
    Peer(peers::Caller, Question),
    Token(TokenRequest),
    /// Its body tells who asks for what.
    TokenForm,
}

#[derive(Debug, PartialEq)]
pub struct Read {
    pub access: Access,
    /// As the client addressed it.
    pub name: RepositoryName,
    pub ns: Option<String>,
    pub wanted: Wanted,
}

#[derive(Debug, PartialEq)]
pub struct Write {
    /// For pushing.
    pub access: Access,
    /// As the client addressed it.
    pub name: RepositoryName,
    pub wanted: Push,
    /// For pulling from the repository that a mount names, if the caller may. One that the caller may not read, and one that there is
    /// not, are the same (row 50).
    pub source: Option<Access>,
}

impl Push {
    pub(super) fn is_manifest(&self) -> bool {
        matches!(self, Push::Manifest { .. })
    }

    /// What one must be allowed to do.
    fn action(&self) -> access::Action {
        match self {
            Push::DeleteManifest(_) | Push::DeleteBlob(_) => access::Action::Delete,
            _ => access::Action::Push,
        }
    }
}

impl Wanted {
    /// What one must be allowed to do.
    pub(super) fn action(&self) -> access::Action {
        match self {
            Wanted::Tags(_) => access::Action::MetadataRead,
            _ => access::Action::Pull,
        }
    }

    /// What is absent when this is.
    pub fn subject(&self) -> Subject {
        match self {
            Wanted::Manifest(_) | Wanted::Receipt(_) => Subject::Manifest,
            Wanted::Blob(_) => Subject::Blob,
            Wanted::Tags(_) | Wanted::Referrers { .. } => Subject::Repository,
        }
    }
}

impl Site {
    /// Routes, checks the Host, authenticates and authorizes. What is learned on the way goes into the record.
    pub async fn admit(&self, head: &Parts, connection: &Connection, record: &mut Record) -> Result<Call, Failure> {
        let Meaning { action, host, by_host, target } = self.meaning(head, record)?;
        self.check_server_name(connection, by_host.as_ref())?;
        if action == Action::Ready {
            return Ok(Call::Ready);
        }
        if let Action::Peer(question) = action {
            return self.admit_peer(question, head, record);
        }
        // Before anybody's credentials are looked at: an address that is denied finds out nothing about them, and guesses none.
        if !self.policy.admits(record.caller()) {
            return Err(Failure::forbidden_address());
        }
        if matches!(action, Action::Exchange | Action::SignIns | Action::Token(_) | Action::TokenForm) {
            return Ok(applicant(action));
        }
        if let Some(elsewhere) = self.elsewhere(&action, host.as_deref()) {
            return Box::pin(self.admit_elsewhere(elsewhere, action, &head.headers, record)).await;
        }
        let caller = self.caller(&head.headers, connection, record.client()).await;
        record.authenticated(caller.as_ref());
        let caller = caller?;
        match action {
            Action::Version => self.admit_version(&caller),
            Action::Catalog(page) => self.permit(&caller, Operation::List).map(|_| Call::Catalog(page)),
            Action::AcrCatalog(page) => self.permit(&caller, Operation::List).map(|_| Call::AcrCatalog(page)),
            Action::Forwards => self.enter(&caller).map(|_| Call::Forwards),
            Action::Conflicts(page) => self.enter(&caller).map(|_| Call::Conflicts(page)),
            Action::Overview => self.enter(&caller).map(|_| Call::Overview),
            Action::Audit(query) => self.permit(&caller, Operation::ReadAudit).map(|permit| Call::Audit(permit, query)),
            // Its lines tell who did what.
            Action::Logs(excerpt) => self.permit(&caller, Operation::ReadAudit).map(|_| Call::Logs(excerpt)),
            Action::SearchLogs(query) => self.permit(&caller, Operation::ReadAudit).map(|permit| Call::SearchLogs(permit, query)),
            Action::Webhooks => self.permit(&caller, Operation::ReadSettings).map(Call::Webhooks),
            Action::Ping(name) => self.permit(&caller, Operation::ChangeSettings).map(|permit| Call::Ping(permit, name)),
            Action::Offload => self.enter(&caller).map(|()| Call::Offload),
            Action::Watched => self.enter(&caller).map(|()| Call::Watched),
            Action::Top(query) => self.permit(&caller, Operation::ReadAudit).map(|permit| Call::Top(permit, query)),
            Action::Wait(wait) => self.admit_wait(wait, &caller, record).map(Call::Wait),
            Action::Command(command) => self.enter(&caller).map(|_| Call::Command(command)),
            Action::Govern(governing) => self.permit(&caller, governing.operation()).map(|permit| Call::Govern(permit, governing)),
            Action::Ready => Ok(Call::Ready),
            Action::Peer(question) => self.admit_peer(question, head, record),
            Action::Acr { name, ns, wanted } => self.admit_acr((name, ns, wanted), &caller, (head, host.as_deref()), record).map(Call::Acr),
            Action::Exchange | Action::SignIns | Action::Token(_) | Action::TokenForm => Ok(applicant(action)),
            Action::Read { name, ns, wanted } => {
                let target = match target {
                    Some(target) => target,
                    None => self.names.resolve(Addressing { name: &name, ns: ns.as_deref(), host: host.as_deref() })?,
                };
                let decision = self.policy.authorize(&caller, &target.repository, wanted.action());
                record.upstream = target.upstream;
                record.repository = Some(target.repository);
                let access = decision.map_err(|denied| Failure::denied(denied, wanted.subject()))?;
                Ok(Call::Read(Read { access, name, ns, wanted }))
            }
            Action::Write { name, ns, wanted } => {
                let target = self.names.resolve(Addressing { name: &name, ns: ns.as_deref(), host: host.as_deref() })?;
                record.upstream = target.upstream;
                record.repository = Some(target.repository.clone());
                let access = self.authorize_write(&caller, &target.repository, wanted.action())?;
                refuse_encoding(&head.headers)?;
                let source = self.source(&caller, &wanted, host.as_deref());
                Ok(Call::Write(Write { access, name, wanted, source }))
            }
        }
    }

    /// The same for a read of which all is known but who may have it, without a word to anybody; `None` where that takes more than a look,
    /// or is no.
    pub(super) fn admit_again(&self, known: &Known, connection: &Connection, address: IpAddr) -> Option<(Caller, Access)> {
        self.check_server_name(connection, known.by_host.as_ref()).ok()?;
        if !self.policy.admits(&Caller { listener: connection.listener, ..Caller::anonymous(address) }) {
            return None;
        }
        let caller = self.caller(&known.headers, connection, address).now_or_never()?.ok()?;
        let access = self.policy.authorize(&caller, &known.target.repository, access::Action::Pull).ok()?;
        Some((caller, access))
    }

    /// What a request asks for: as it was found out before, where its words were the same.
    fn meaning(&self, head: &Parts, record: &mut Record) -> Result<Meaning, Failure> {
        let texts = Texts::of(head);
        if let Some(known) = texts.and_then(|texts| self.meanings.find(texts)) {
            record.routed(&known.action);
            return Ok(known);
        }
        let action = route(&head.method, head.uri.path().as_bytes(), head.uri.query().unwrap_or_default())
            .inspect_err(|_| record.went_nowhere(head.uri.path()))?;
        record.routed(&action);
        let host: Option<Arc<str>> = host(head)?.map(Into::into);
        let by_host = host.as_deref().and_then(|host| self.names.by_host(host)).cloned();
        let target = match &action {
            Action::Read { name, ns, .. } => self.names.resolve(Addressing { name, ns: ns.as_deref(), host: host.as_deref() }).ok(),
            _ => None,
        };
        let meaning = Meaning { action, host, by_host, target };
        if let Some(texts) = texts.filter(|_| meaning.target.is_some()) {
            self.meanings.remember(texts, &meaning);
        }
        Ok(meaning)
    }

    fn admit_acr(
        &self,
        (name, ns, wanted): (RepositoryName, Option<String>, Acr),
        caller: &Caller,
        (head, host): (&Parts, Option<&str>),
        record: &mut Record,
    ) -> Result<acr::Call, Failure> {
        let target = self.names.resolve(Addressing { name: &name, ns: ns.as_deref(), host })?;
        record.upstream = target.upstream;
        record.repository = Some(target.repository.clone());
        let access = match wanted.action() {
            access::Action::MetadataRead => {
                let decision = self.policy.authorize(caller, &target.repository, access::Action::MetadataRead);
                decision.map_err(|denied| Failure::denied(denied, wanted.subject()))?
            }
            action => self.authorize_write(caller, &target.repository, action)?,
        };
        refuse_encoding(&head.headers)?;
        Ok(acr::Call { access, name, ns, registry: host.unwrap_or_default().to_owned(), wanted })
    }

    /// Who asks: by the request's credentials, and where it has none, by the certificate of its connection.
    async fn caller(&self, headers: &HeaderMap, connection: &Connection, address: IpAddr) -> Result<Caller, AuthError> {
        let certificate = connection.certificate.as_ref().filter(|_| !headers.contains_key(header::AUTHORIZATION));
        let caller = match certificate.and_then(|certificate| self.identity.by_certificate(certificate, address)) {
            Some(caller) => caller,
            None => self.identity.authenticate(headers.get_all(header::AUTHORIZATION), address).await?,
        };
        Ok(Caller { listener: connection.listener, ..caller })
    }

    /// Edges of other regions have tokens. Where no region is configured there is nothing that they could ask.
    fn admit_peer(&self, question: Question, head: &Parts, record: &mut Record) -> Result<Call, Failure> {
        if self.tokens.is_empty() {
            return Err(RouteError::Unknown.into());
        }
        let caller = self.tokens.judge(&head.headers).ok_or_else(Failure::no_peer)?;
        record.asked_by(caller.region());
        Ok(Call::Peer(caller, question))
    }

    /// Docker, podman and skopeo sign in only if this asks for it, whatever is asked for afterwards. So it does where signing in leads
    /// further than not; who has no name gets everybody's token.
    fn admit_version(&self, caller: &Caller) -> Result<Call, Failure> {
        if caller.is_anonymous() && caller.scopes.is_none() && self.policy.has_named() {
            return Err(Failure::unauthorized());
        }
        self.enter(caller).map(|()| Call::Version)
    }

    /// Who may pull but not write is told so; to others the repository does not exist.
    pub fn authorize_write(&self, caller: &Caller, repository: &RepositoryName, action: access::Action) -> Result<Access, Failure> {
        self.policy.authorize(caller, repository, action).map_err(|denied| {
            let may_know = !denied.authenticate && self.policy.authorize(caller, repository, access::Action::Pull).is_ok();
            if may_know { Failure::forbidden() } else { Failure::denied(denied, Subject::Repository) }
        })
    }

    /// What a mount names, in the way in which the request names its own repository.
    fn source(&self, caller: &Caller, wanted: &Push, host: Option<&str>) -> Option<Access> {
        let Push::Begin(Begin::Mount { from: Some(from), .. }) = wanted else { return None };
        let target = self.names.resolve(Addressing { name: from, ns: None, host }).ok()?;
        self.policy.authorize(caller, &target.repository, access::Action::Pull).ok()
    }

    /// What names no repository is for those who may do anything at all.
    pub(super) fn enter(&self, caller: &Caller) -> Result<(), Failure> {
        if caller.is_anonymous() && !self.policy.has_anonymous() { Err(Failure::unauthorized()) } else { Ok(()) }
    }

    /// What belongs to no repository and needs a role on the registry.
    pub(super) fn permit(&self, caller: &Caller, operation: Operation) -> Result<Permit, Failure> {
        let refused = |denied: Denied| Failure::challenged(denied).unwrap_or_else(Failure::forbidden);
        self.policy.permit(caller, operation).map_err(refused)
    }

    /// A connection that was made to one upstream's name is not used for another's (RFC 9110, section 7.4).
    fn check_server_name(&self, connection: &Connection, by_host: Option<&Arc<str>>) -> Result<(), Failure> {
        let by_connection = connection.server_name.as_deref().and_then(|name| self.names.by_host(name));
        if by_connection.is_some() && by_connection != by_host { Err(Failure::misdirected()) } else { Ok(()) }
    }
}

/// Who asks for a token is authenticated where it is issued: a refresh token passes there for a password.
fn applicant(action: Action) -> Call {
    match action {
        Action::Token(request) => Call::Token(request),
        Action::Exchange => Call::Exchange,
        Action::SignIns => Call::SignIns,
        _ => Call::TokenForm,
    }
}

/// The one host that a request names; none at all only in HTTP/1.0.
pub(super) fn host(head: &Parts) -> Result<Option<String>, Failure> {
    let mut headers = head.headers.get_all(header::HOST).iter();
    let header = headers.next().map(|value| value.to_str()).transpose().map_err(|_| Failure::bad_host())?;
    if headers.next().is_some() {
        return Err(Failure::bad_host());
    }
    let host = match (head.uri.authority().map(Authority::as_str), header) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Failure::bad_host()),
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) if head.version == Version::HTTP_10 => return Ok(None),
        (None, None) => return Err(Failure::bad_host()),
    };
    let is_host = host.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'));
    if is_host { Ok(Some(host.to_owned())) } else { Err(Failure::bad_host()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Grants;
    use crate::config;
    use crate::metrics::Metrics;
    use base64::Engine;
    use futures_util::FutureExt;
    use http::Request;

    fn upstream(name: &str, host: &str) -> config::Upstream {
        config::Upstream {
            name: name.to_owned(),
            hosts: vec![host.to_owned()],
            url: "https://registry.example.com".parse().unwrap(),
            mirrors: Vec::new(),
            username: None,
            password: None,
            authorize: config::Authorize::Edge,
            ca_file: None,
            private_networks: Vec::new(),
            token_hosts: Vec::new(),
            tag_ttl: std::time::Duration::ZERO,
            authorization_ttl: std::time::Duration::ZERO,
            allow: Vec::new(),
            deny: Vec::new(),
            max_connections: 1,
            connect_timeout: std::time::Duration::ZERO,
            read_timeout: std::time::Duration::ZERO,
        }
    }

    fn principal(name: &str) -> config::Principal {
        let passwords = vec![config::Secret::new("pass".to_owned())];
        config::Principal { name: name.to_owned(), passwords, certificates: Vec::new(), pull: Vec::new(), push: Vec::new() }
    }

    /// Two upstreams with host names; `anonymous` may be pulled by everybody, all of ghcr.io by `ci`.
    fn site(anonymous: &[&str]) -> Site {
        let pull = |texts: &[&str]| Grants { pull: texts.iter().map(|text| text.parse().unwrap()).collect(), push: Vec::new() };
        Site {
            meanings: Meanings::default(),
            heads: Heads::default(),
            names: Names::new(&[upstream("docker.io", "hub.example.com"), upstream("ghcr.io", "gh.example.com")]),
            identity: Identity::new(&[principal("ci"), principal("stranger")]),
            policy: Policy { anonymous: pull(anonymous), principals: [("ci".into(), pull(&["ghcr.io/**"]))].into(), ..Policy::default() },
            tokens: Tokens::default(),
            public_url: None,
            vouching: Vouching::default(),
            deadline: Duration::from_secs(10),
            limits: ClientLimits::default(),
            nearer: Nearer::default(),
        }
    }

    fn connection(server_name: Option<&str>) -> Connection {
        Connection { tls: true, server_name: server_name.map(str::to_owned), ..Connection::plain("10.0.0.1:1".parse().unwrap()) }
    }

    fn admit_on(site: &Site, connection: &Connection, request: http::request::Builder) -> Result<Call, Failure> {
        let head = request.body(()).unwrap().into_parts().0;
        let mut record = Record::start(&Metrics::new(), (&head.method, &head.headers), connection, String::new());
        site.admit(&head, connection, &mut record).now_or_never().expect("nothing here waits")
    }

    fn admit(site: &Site, target: &str, user: Option<&str>) -> Result<Call, Failure> {
        let mut request = Request::get(target).header("host", "edge:5000");
        if let Some(user) = user {
            let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:pass"));
            request = request.header("authorization", format!("Basic {credentials}"));
        }
        admit_on(site, &connection(None), request)
    }

    fn status(result: Result<Call, Failure>) -> u16 {
        result.map_or_else(|failure| failure.status.as_u16(), |_| 200)
    }

    fn refusal(result: Result<Call, Failure>) -> String {
        let response = result.unwrap_err().into_response();
        let super::super::body::Payload::Bytes(bytes) = response.body() else { panic!("a refusal has a body") };
        format!("{} {:?} {bytes:?}", response.status(), response.headers())
    }

    const WAIT_FOR_POSITION: &str = "/outport/v1/wait?position=eu.01@1";

    #[test]
    fn a_receipt_is_for_those_who_may_pull() {
        let site = site(&["docker.io/**"]);
        for (name, user, expected) in [
            ("docker.io/library/alpine", None, 200),
            ("team/app", None, 401),
            ("team/app", Some("stranger"), 404),
            ("ghcr.io/o/r", Some("ci"), 200),
        ] {
            for target in [format!("/outport/v1/replication/{name}/v1"), format!("/outport/v1/wait?image={name}:v1")] {
                assert_eq!(status(admit(&site, &target, user)), expected, "{target} {user:?}");
            }
        }
    }

    #[test]
    fn what_names_no_repository_asks_for_credentials_where_nobody_is_anonymous() {
        for (anonymous, user, expected) in [
            (&["docker.io/**"][..], None, 200),
            (&[], None, 401),
            (&[], Some("ci"), 200),
            (&[], Some("unknown"), 401),
            (&["docker.io/**"], Some("unknown"), 401),
        ] {
            for target in [
                "/v2/_catalog",
                "/outport/v1/forwards",
                "/outport/v1/conflicts",
                "/outport/v1/status",
                "/outport/v1/offload",
                "/outport/v1/prefetch",
                WAIT_FOR_POSITION,
            ] {
                assert_eq!(status(admit(&site(anonymous), target, user)), expected, "{anonymous:?} {user:?} {target}");
            }
        }
        assert_eq!(status(admit(&site(&[]), "/readyz", None)), 200);
    }

    #[test]
    fn the_version_check_asks_for_credentials_where_they_lead_further() {
        for (anonymous, user, expected) in [
            (&["docker.io/**"][..], None, 401),
            (&[], None, 401),
            (&["docker.io/**"], Some("ci"), 200),
            (&["docker.io/**"], Some("unknown"), 401),
        ] {
            assert_eq!(status(admit(&site(anonymous), "/v2/", user)), expected, "{anonymous:?} {user:?}");
        }
        let Site { policy, .. } = site(&["**"]);
        let alike = Site { policy: Policy { principals: Default::default(), ..policy }, ..site(&[]) };
        assert_eq!(status(admit(&alike, "/v2/", None)), 200, "nobody may more than everybody");
    }

    #[test]
    fn who_asks_for_a_token_is_not_authenticated_yet() {
        for user in [None, Some("ci"), Some("unknown")] {
            let call = admit(&site(&[]), "/oauth2/token?service=x&scope=repository:a:pull+registry:catalog:*&offline_token=true", user);
            let Ok(Call::Token(request)) = call else { panic!("{call:?}") };
            assert!(request.offline && request.scopes.len() == 2, "{request:?}");
        }
        let far = crate::access::NetworkRule { allow: vec!["192.0.2.0/24".parse().unwrap()], ..Default::default() };
        let closed = Site { policy: Policy { rules: vec![far], ..Policy::default() }, ..site(&[]) };
        assert_eq!(status(admit(&closed, "/oauth2/token", None)), 403);
    }

    #[test]
    fn other_regions_are_known_by_their_tokens_alone() {
        let token = Some(config::Secret::new("0123456789abcdef".to_owned()));
        let peer = config::Peer { region: "us".to_owned(), bucket: None, edges: Vec::new(), token, ca_file: None, clients: Vec::new() };
        let with_peers = Site { tokens: Tokens::new(&[peer]), ..site(&["**"]) };
        let digest = crate::oci::Digest::sha256(b"");
        let targets = [
            "/outport/v1/ledger".to_owned(),
            "/outport/v1/ledger/us.01?after=0".to_owned(),
            "/outport/v1/resolve?repository=a&reference=v1".to_owned(),
            format!("/outport/v1/content/{digest}"),
        ];
        for target in &targets {
            let ask = |site: &Site, credentials: Option<&str>| {
                let request = Request::get(target.as_str()).header("host", "edge:5000");
                let request = credentials.into_iter().fold(request, |request, value| request.header("authorization", value));
                admit_on(site, &connection(None), request)
            };
            let Ok(Call::Peer(caller, _)) = ask(&with_peers, Some("Bearer 0123456789abcdef")) else { panic!("{target}") };
            assert_eq!(&**caller.region(), "us");
            for credentials in [None, Some("Bearer 0123456789abcdeF"), Some("Basic Y2k6cGFzcw=="), Some("nonsense")] {
                let refused = ask(&with_peers, credentials).unwrap_err().into_response();
                assert_eq!(
                    (refused.status().as_u16(), refused.headers()["www-authenticate"].to_str().unwrap()),
                    (401, r#"Bearer realm="outport peers""#)
                );
                assert_eq!(status(ask(&site(&["**"]), credentials)), 404, "without peers there is nothing to ask");
            }
        }
        let asked = Request::get("/v2/").header("host", "edge:5000").header("authorization", "Bearer 0123456789abcdef");
        assert_eq!(status(admit_on(&with_peers, &connection(None), asked)), 401, "a peer's token opens nothing else");
    }

    #[test]
    fn the_audit_record_is_for_those_who_have_the_role() {
        let assigned = |role, repositories| access::Assignment { role, to: access::Assignee::Principal("ci".into()), repositories };
        let all = || Some(vec!["**".parse().unwrap()]);
        for (assignment, expected) in [
            (None, 403),
            (Some(assigned(access::Role::Reader, None)), 403),
            (Some(assigned(access::Role::Owner, all())), 403),
            (Some(assigned(access::Role::Contributor, None)), 200),
            (Some(assigned(access::Role::Owner, None)), 200),
        ] {
            let mut site = site(&["**"]);
            site.policy.assignments.extend(assignment);
            assert_eq!(status(admit(&site, "/outport/v1/audit", Some("ci"))), expected);
            assert_eq!(status(admit(&site, "/outport/v1/audit", None)), 401);
        }
    }

    #[test]
    fn three_ways_in_are_one_repository() {
        let site = site(&["docker.io/**"]);
        let by_host = Request::get("/v2/alpine/manifests/3").header("host", "hub.example.com");
        for call in [
            admit(&site, "/v2/library/alpine/manifests/3?ns=docker.io", None),
            admit(&site, "/v2/docker.io/library/alpine/manifests/3", None),
            admit_on(&site, &connection(None), by_host),
        ] {
            let Ok(Call::Read(read)) = call else { panic!("{call:?}") };
            assert_eq!(read.access.repository().as_str(), "docker.io/library/alpine");
        }
    }

    #[test]
    fn row_6_the_authorized_repository_is_the_one_that_is_read() {
        let Ok(Call::Read(read)) = admit(&site(&["docker.io/**"]), "/v2/docker.io/blobs/manifests/tags/list", None) else {
            panic!("a list of tags")
        };
        assert_eq!(read.access.repository().as_str(), "docker.io/blobs/manifests");
        assert!(matches!(read.wanted, Wanted::Tags(_)));
        assert_eq!(status(admit(&site(&["docker.io/**"]), "/v2/ghcr.io/docker.io/tags/list/manifests/x", None)), 401);
    }

    #[test]
    fn row_75_a_namespace_is_a_key() {
        for ns in ["nowhere.example", "127.0.0.1:5000", "169.254.169.254", "user%40docker.io", "user:pass@docker.io", ""] {
            assert_eq!(status(admit(&site(&["**"]), &format!("/v2/a/manifests/1?ns={ns}"), None)), 404, "{ns}");
        }
    }

    #[test]
    fn row_82_who_may_not_read_learns_nothing() {
        let (site, digest) = (site(&["docker.io/**"]), crate::oci::Digest::sha256(b""));
        for path in ["manifests/1".to_owned(), format!("blobs/{digest}"), "tags/list".to_owned(), format!("referrers/{digest}")] {
            let target = format!("/v2/ghcr.io/team/secret/{path}");
            assert_eq!(status(admit(&site, &target, Some("ci"))), 200);
            let refused = admit(&site, &target, None).unwrap_err().into_response();
            assert_eq!(refused.status(), 401);
            let Ok(Call::Read(read)) = admit(&site, &target, Some("ci")) else { panic!("allowed") };
            let absent = Failure::absent(read.wanted.subject());
            assert_eq!(refusal(admit(&site, &target, Some("stranger"))), refusal(Err(absent)));
        }
    }

    /// `team/**` may be pulled by everybody and pushed by `ci`, who may also pull `private/*`.
    fn pushed_to() -> Site {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let ci = Grants { pull: parse(&["private/*"]), push: parse(&["team/**"]) };
        let anonymous = Grants { pull: parse(&["team/open"]), push: Vec::new() };
        let stranger = Grants { pull: parse(&["team/*"]), push: Vec::new() };
        let principals = [("ci".into(), ci), ("stranger".into(), stranger)].into();
        Site { policy: Policy { anonymous, principals, ..Policy::default() }, ..site(&[]) }
    }

    fn send(method: &str, target: &str, user: Option<&str>, headers: &[(&str, &str)]) -> Result<Call, Failure> {
        let mut request = Request::builder().method(method).uri(target).header("host", "edge:5000");
        if let Some(user) = user {
            let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:pass"));
            request = request.header("authorization", format!("Basic {credentials}"));
        }
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        admit_on(&pushed_to(), &connection(None), request)
    }

    #[test]
    fn who_may_not_push_is_told_no_more_than_who_may_not_pull() {
        let digest = crate::oci::Digest::sha256(b"");
        for (method, path) in [
            ("POST", "blobs/uploads/".to_owned()),
            ("GET", "blobs/uploads/x?_state=y".to_owned()),
            ("PATCH", "blobs/uploads/x?_state=y".to_owned()),
            ("PUT", format!("blobs/uploads/x?_state=y&digest={digest}")),
            ("DELETE", "blobs/uploads/x?_state=y".to_owned()),
            ("PUT", "manifests/v1".to_owned()),
            ("DELETE", "manifests/v1".to_owned()),
            ("DELETE", format!("blobs/{digest}")),
        ] {
            for (repository, user, expected) in [
                ("team/open", Some("ci"), 200),
                ("team/a/b", Some("ci"), 200),
                ("team/open", None, 401),
                ("team/open", Some("stranger"), 403),
                ("team/a/b", Some("stranger"), 404),
                ("private/a", Some("ci"), 403),
                ("nothing/a", Some("ci"), 404),
            ] {
                let admitted = send(method, &format!("/v2/{repository}/{path}"), user, &[]);
                assert_eq!(status(admitted), expected, "{method} {path} {repository} {user:?}");
            }
        }
    }

    #[test]
    fn row_50_a_mount_from_where_the_caller_may_not_read_is_one_from_nowhere() {
        let mount = |from: &str| {
            let digest = crate::oci::Digest::sha256(b"");
            let Ok(Call::Write(write)) = send("POST", &format!("/v2/team/a/blobs/uploads/?mount={digest}{from}"), Some("ci"), &[]) else {
                panic!("{from} is admitted")
            };
            write.source.map(|access| access.repository().to_string())
        };
        for (from, source) in [
            ("&from=private/a", Some("private/a")),
            ("&from=team/b/c", Some("team/b/c")),
            ("&from=secret/a", None),
            ("&from=..%2Fa", None),
            ("", None),
        ] {
            assert_eq!(mount(from).as_deref(), source, "{from}");
        }
    }

    #[test]
    fn row_49_an_encoded_body_is_refused_to_who_may_push() {
        for (encoding, user, expected) in [
            ("gzip", Some("ci"), 415),
            ("zstd, gzip", Some("ci"), 415),
            ("identity", Some("ci"), 200),
            ("gzip", None, 401),
            ("gzip", Some("stranger"), 403),
        ] {
            for (method, path) in [("PATCH", "blobs/uploads/x?_state=y"), ("PUT", "manifests/v1"), ("POST", "blobs/uploads/")] {
                let admitted = send(method, &format!("/v2/team/open/{path}"), user, &[("content-encoding", encoding)]);
                assert_eq!(status(admitted), expected, "{encoding} {user:?} {method}");
            }
        }
    }

    #[test]
    fn row_83_forwarding_headers_and_unknown_parameters_change_nothing() {
        let plain = admit(&site(&["**"]), "/v2/docker.io/library/a/manifests/1", None).unwrap();
        let request = Request::get("/v2/docker.io/library/a/manifests/1?utm=1&x")
            .header("host", "edge:5000")
            .header("x-forwarded-host", "gh.example.com")
            .header("forwarded", "host=gh.example.com");
        assert_eq!(admit_on(&site(&["**"]), &connection(None), request).unwrap(), plain);
    }

    #[test]
    fn row_19_a_request_names_one_host() {
        let get = || Request::get("/v2/_catalog");
        for (request, expected) in [
            (get(), 400),
            (get().version(Version::HTTP_10), 200),
            (get().header("host", "edge"), 200),
            (get().header("host", "[::1]:5000"), 200),
            (get().header("host", "edge").header("host", "edge"), 400),
            (get().header("host", "user@edge"), 400),
            (get().header("host", "edge/x"), 400),
            (get().header("host", ""), 400),
            (get().header("host", &b"\xff"[..]), 400),
            (Request::get("http://edge/v2/_catalog").header("host", "EDGE"), 200),
            (Request::get("http://edge/v2/_catalog").header("host", "other"), 400),
            (Request::get("https://edge/v2/_catalog").version(Version::HTTP_2), 200),
        ] {
            let text = format!("{request:?}");
            assert_eq!(status(admit_on(&site(&["**"]), &connection(None), request)), expected, "{text}");
        }
    }

    #[test]
    fn row_20_a_connection_for_one_upstream_is_not_used_for_another() {
        for (server_name, host, expected) in [
            (Some("hub.example.com"), "hub.example.com", 200),
            (Some("hub.example.com"), "HUB.example.com:443", 200),
            (Some("hub.example.com"), "gh.example.com", 421),
            (Some("hub.example.com"), "edge.example.com", 421),
            (Some("edge.example.com"), "edge.example.com", 200),
            (None, "hub.example.com", 200),
        ] {
            let request = Request::get("/v2/_catalog").header("host", host);
            assert_eq!(status(admit_on(&site(&["**"]), &connection(server_name), request)), expected, "{server_name:?} {host}");
        }
    }

    #[test]
    fn row_67_credentials_that_cannot_be_read_are_a_bad_request() {
        let get = || Request::get("/v2/").header("host", "edge");
        for (request, expected) in [
            (get().header("authorization", "Basic x").header("authorization", "Basic y"), 400),
            (get().header("authorization", "Basic ***"), 400),
            (get().header("authorization", format!("Basic {}", "A".repeat(64 * 1024))), 400),
            (get().header("authorization", "Bearer x"), 401),
        ] {
            assert_eq!(status(admit_on(&site(&["**"]), &connection(None), request)), expected);
        }
    }

    #[test]
    fn row_87_random_requests_make_no_new_series() {
        let (site, metrics, connection) = (site(&["**"]), Metrics::new(), connection(None));
        let ask = |number: u32| {
            let request = Request::builder()
                .method(["GET", &format!("M{number}")][number as usize % 2])
                .uri(format!("/v2/r{number}/manifests/{number}"))
                .header("host", format!("h{number}"))
                .header("user-agent", format!("agent/{number}"));
            let head = request.body(()).unwrap().into_parts().0;
            let mut record = Record::start(&metrics, (&head.method, &head.headers), &connection, String::new());
            let admitted = site.admit(&head, &connection, &mut record).now_or_never().expect("nothing here waits");
            let status = admitted.map_or_else(|failure| failure.status, |_| http::StatusCode::OK);
            record.answered(status);
            record.finish(0, super::super::log::Ending::Complete);
        };
        let series = || metrics.render().lines().filter(|line| line.starts_with("outport_")).count();
        (0..2).for_each(ask);
        let before = series();
        (2..1000).for_each(ask);
        assert_eq!(series(), before);
    }
}
