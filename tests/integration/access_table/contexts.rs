//! The table in context: by what callers prove who they are, where they ask from, which edge they ask, before and after all that they
//! have is revoked, and in a region that is cut off meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::callers::{Caller, Held, Standing};
use super::{Asked, Counts, OPEN, fill};
use crate::harness::client::{Client, Response};
use crate::harness::edge::{Settings, TestEdge};
use crate::harness::image::Image;
use crate::harness::provider::Provider;
use crate::harness::pull::pull;
use crate::harness::regions::{Reach, World, until};
use crate::harness::tls::Authority;

const REPOSITORIES: [&str; 2] = ["team/app", "other/app"];
const TEAM: Held = Held::Below("team/");
/// Where nobody is let in, and where AcrPush does not count.
const RULES: &str = r#"
[[rule]]
default = "allow"
deny = ["127.0.0.3/32"]
[[rule]]
roles = ["AcrPush"]
default = "allow"
deny = ["127.0.0.4/32"]
"#;
const DENIED: &str = "127.0.0.3";
const WITHOUT_PUSH: &str = "127.0.0.4";
/// How long a change of rights may take to be in force on each edge of its region.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);

/// How somebody proves who it is.
#[derive(Clone)]
enum Proof {
    Nothing,
    Basic(String, String),
    Bearer(String),
    Certificate,
}

/// Somebody, as it is before and after all is revoked.
struct Member {
    before: Caller,
    after: Caller,
    proof: Proof,
}

impl Member {
    fn new(before: Caller, proof: Proof) -> Member {
        let after = Caller { role: None, ..before.clone() };
        Member { before, after, proof }
    }

    /// One whom nobody believes afterwards.
    fn ending(before: Caller, proof: Proof) -> Member {
        Member { after: Caller::refused(&before.name), ..Member::new(before, proof) }
    }

    fn client(&self, edge: &Reached) -> Client {
        match &self.proof {
            Proof::Nothing => edge.plain.clone(),
            Proof::Basic(name, secret) => edge.plain.clone().with_basic(name, secret),
            Proof::Bearer(token) => edge.plain.clone().with_bearer(token),
            Proof::Certificate => edge.certified.clone(),
        }
    }
}

/// Ways to an edge: as anybody, and with a certificate of one's own where it asks for one.
struct Reached {
    plain: Client,
    certified: Client,
}

impl Reached {
    fn from(&self, address: &str) -> Reached {
        Reached { plain: self.plain.clone().from(address), certified: self.certified.clone().from(address) }
    }

    fn root(&self) -> Client {
        self.plain.clone().with_basic("root", "secret")
    }
}

/// Everybody of the table, and what has to be taken back so that they have nothing.
#[derive(Default)]
struct Everybody {
    members: Vec<Member>,
    roles: Vec<String>,
    principals: Vec<String>,
}

async fn done(answer: Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    answer.json()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

async fn create(root: &Client, name: &str, more: Value) -> String {
    let mut asked = json!({ "name": name });
    asked.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    text(&done(root.post("/outport/v1/principals", &asked).await, 201).await["secrets"][0]["secret"])
}

/// An access token for everything in the repositories of the table.
async fn access_token(client: &Client) -> String {
    let scopes: String = REPOSITORIES
        .iter()
        .chain([&super::ABSENT])
        .map(|name| format!("&scope=repository:{name}:pull,push,delete,metadata_read,metadata_write"))
        .collect();
    text(&done(client.get(&format!("/oauth2/token?service=x{scopes}")).await, 200).await["token"])
}

/// Somebody signs in at the provider and shows the registry's refresh token from then on.
async fn exchange(edge: &Client, token: &str) -> Client {
    let answer = edge.post_form("/oauth2/exchange", &format!("grant_type=access_token&service=x&access_token={token}")).await;
    let refresh = text(&done(answer, 200).await["refresh_token"]);
    edge.clone().with_basic("00000000-0000-0000-0000-000000000000", &refresh)
}

impl Everybody {
    async fn assign(&mut self, root: &Client, to: &str, (role, held): (&str, Held)) {
        let mut asked = json!({ "role": role, "principal": to });
        if let Some(pattern) = held.pattern() {
            asked["repositories"] = json!([pattern]);
        }
        self.roles.push(text(&done(root.post("/outport/v1/roles", &asked).await, 201).await["id"]));
    }

    /// Makes them by requests to an edge.
    async fn make(edge: &Reached, provider: &Provider) -> Everybody {
        let (root, mut all) = (edge.root(), Everybody::default());
        all.members.push(Member::new(Caller::anonymous(), Proof::Nothing));
        for caller in Caller::of_roles() {
            let secret = create(&root, &caller.name, Value::Null).await;
            if let Some(role) = caller.role {
                all.assign(&root, &caller.name, role).await;
            }
            let proof = Proof::Basic(caller.name.clone(), secret);
            all.members.push(Member::new(caller, proof));
        }
        // Those with tokens. Of one the role is taken back, the other one is disabled.
        for name in ["by-token", "by-token-of-one-disabled"] {
            let secret = create(&root, name, Value::Null).await;
            all.assign(&root, name, ("Contributor", TEAM)).await;
            let client = edge.plain.clone().with_basic(name, &secret);
            until("the role is in force", || async { client.get("/v2/team/app/tags/list").await.status == 200 }).await;
            let (caller, proof) = (Caller::proven(name, Some(("Contributor", TEAM))), Proof::Bearer(access_token(&client).await));
            all.members.push(if name == "by-token" { Member::new(caller, proof) } else { Member::ending(caller, proof) });
        }
        all.principals.push("by-token-of-one-disabled".to_owned());
        // Those who sign in elsewhere, in and out of a group that has a role.
        all.assign(&root, "group:builders", ("AcrPush", TEAM)).await;
        for (name, groups, role) in
            [("member@example.com", &["builders"][..], Some(("AcrPush", TEAM))), ("stranger@example.com", &["others"], None)]
        {
            let signed_in = exchange(&edge.plain, &provider.token(name, groups)).await;
            if role.is_some() {
                until("the group's role is in force", || async {
                    let granted = signed_in.get("/oauth2/token?service=x&scope=repository:team/app:pull").await;
                    granted.json()["scope"] == "repository:team/app:pull"
                })
                .await;
            }
            all.members.push(Member::new(Caller::proven(name, role), Proof::Bearer(access_token(&signed_in).await)));
        }
        // Those whom nobody believes.
        let disabled = create(&root, "disabled", Value::Null).await;
        all.assign(&root, "disabled", ("Contributor", Held::Everywhere)).await;
        done(root.send_with("PATCH", "/outport/v1/principals/disabled", &JSON, br#"{"enabled": false}"#).await, 200).await;
        let expired = create(&root, "expired", json!({ "expires_in": "1s" })).await;
        all.assign(&root, "expired", ("Contributor", Held::Everywhere)).await;
        let nobodys = [
            ("disabled", Proof::Basic("disabled".to_owned(), disabled)),
            ("expired", Proof::Basic("expired".to_owned(), expired)),
            ("unknown", Proof::Basic("unknown".to_owned(), "secret".to_owned())),
            ("a peer region", Proof::Bearer("a token of all regions".to_owned())),
        ];
        all.members.extend(nobodys.map(|(name, proof)| Member::ending(Caller::refused(name), proof)));
        // The admin user, by either password.
        let enabled = root.send_with("PATCH", "/outport/v1/admin", &JSON, br#"{"enabled": true}"#).await;
        for secret in done(enabled, 200).await["secrets"].as_array().expect("two passwords") {
            let caller = Caller::proven(&format!("admin {}", secret["number"]), Some(("Contributor", Held::Everywhere)));
            all.members.push(Member::ending(caller, Proof::Basic("admin".to_owned(), text(&secret["secret"]))));
        }
        all
    }

    /// Takes back all that was given.
    async fn revoke(&self, root: &Client) {
        for role in &self.roles {
            done(root.send_with("DELETE", &format!("/outport/v1/roles/{role}"), &[], b"").await, 200).await;
        }
        for name in &self.principals {
            let target = format!("/outport/v1/principals/{name}");
            done(root.send_with("PATCH", &target, &JSON, br#"{"enabled": false}"#).await, 200).await;
        }
        done(root.send_with("PATCH", "/outport/v1/admin", &JSON, br#"{"enabled": false}"#).await, 200).await;
    }

    /// Whether the last that was given, which is the admin user's, is in force at an edge; what is earlier in a ledger is in force no
    /// later.
    async fn are_known_at(&self, edge: &Reached, is_given: bool) -> bool {
        let last = self.members.iter().rfind(|member| member.before.name.starts_with("admin")).expect("the admin user");
        (last.client(edge).get("/v2/team/app/tags/list").await.status == 200) == is_given
    }

    async fn become_known_at(&self, edge: &Reached, is_given: bool) -> Duration {
        let what = if is_given { "rights are in force" } else { "rights are taken back" };
        until(what, || self.are_known_at(edge, is_given)).await
    }

    /// Asks an edge for everything, by everybody; `as_seen` tells what they are there.
    async fn ask(&self, edge: &Reached, owner: &Client, image: &Image, context: &Context<'_>) -> Counts {
        let mut counts = Counts::default();
        for (number, member) in self.members.iter().enumerate() {
            let client = member.client(edge);
            let asked = Asked { client: &client, owner, image, is_alone: context.is_alone };
            let caller = (context.as_seen)(member);
            counts.add(asked.for_everything(&caller, &REPOSITORIES, &format!("{}-{number}", context.name)).await);
        }
        counts
    }
}

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// What the table is asked in.
struct Context<'a> {
    name: &'static str,
    as_seen: &'a dyn Fn(&Member) -> Caller,
    is_alone: bool,
}

impl<'a> Context<'a> {
    fn new(name: &'static str, as_seen: &'a dyn Fn(&Member) -> Caller) -> Context<'a> {
        Context { name, as_seen, is_alone: false }
    }
}

fn before(member: &Member) -> Caller {
    member.before.clone()
}

fn after(member: &Member) -> Caller {
    member.after.clone()
}

/// From an address that is denied to everybody.
fn kept_out(member: &Member) -> Caller {
    Caller { standing: Standing::KeptOut, ..member.before.clone() }
}

/// From an address where AcrPush counts for nothing.
fn without_push(member: &Member) -> Caller {
    Caller { role: member.before.role.filter(|(role, _)| *role != "AcrPush"), ..member.before.clone() }
}

fn with_owner(settings: Settings) -> Settings {
    settings.pusher("root", "[]", "[]").table("[[role]]\nrole = \"Owner\"\nprincipals = [\"root\"]")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_holds_on_each_edge_from_each_address_and_after_revocation() {
    let (bucket, provider) = (TempDir::with_prefix("outport-bucket-").expect("a folder"), Provider::start().await);
    let (authority, clients) = (Authority::new("Edges' authority"), Authority::new("Clients' authority"));
    let own = clients.issue(&["certified"]);
    let mut edges: Vec<TestEdge> = Vec::new();
    let mut reached: Vec<Reached> = Vec::new();
    for _ in 0..2 {
        let (pair, settings) = (authority.issue(&["edge.test"]), with_owner(Settings::new().access(OPEN)));
        let files = [("tls.crt", pair.certificate_pem), ("tls.key", pair.key_pem), ("clients.crt", clients.pem())];
        let [cert, key, ca] = files.map(|(name, text)| settings.file(name, &text).display().to_string());
        let certified = "[[principal]]\nname = \"certified\"\ncertificates = [\"CN=certified\"]";
        let tls = format!("[tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\nclient_ca_file = \"{ca}\"");
        let bucket = format!("[bucket]\nurl = \"file://{}\"", bucket.path().display());
        let settings = settings.table(certified).table(&tls).table(&bucket).table(RULES).table(&provider.table(""));
        let edge = settings.with_tls(&authority, "edge.test").start().await;
        let certified = edge.client.clone().with_tls(authority.client_showing(&own), "edge.test");
        reached.push(Reached { plain: edge.client.clone(), certified });
        edges.push(edge);
    }
    let ([here, there], image) = ([&reached[0], &reached[1]], Image::new(11, &[3_000]));
    fill(&here.root(), &image).await;
    let mut everybody = Everybody::make(here, &provider).await;
    everybody.assign(&here.root(), "certified", ("AcrPush", TEAM)).await;
    everybody.members.push(Member::new(Caller::proven("certified", Some(("AcrPush", TEAM))), Proof::Certificate));
    until("the last role is in force", || async { here.certified.get("/v2/team/app/tags/list").await.status == 200 }).await;
    let took = until("and at the other edge", || async { there.certified.get("/v2/team/app/tags/list").await.status == 200 }).await;
    assert!(took < IN_FORCE_WITHIN, "{took:?}");

    let owner = here.root();
    let mut counts = Counts::default();
    for (edge, name, as_seen) in [
        (&reached[0], "here", &before as &dyn Fn(&Member) -> Caller),
        (&reached[1], "there", &before),
        (&here.from(DENIED), "denied-here", &kept_out),
        (&there.from(DENIED), "denied-there", &kept_out),
        (&there.from(WITHOUT_PUSH), "without-push", &without_push),
    ] {
        counts.add(everybody.ask(edge, &owner, &image, &Context::new(name, as_seen)).await);
    }
    everybody.revoke(&owner).await;
    for (edge, name) in [(here, "revoked-here"), (there, "revoked-there")] {
        let took = everybody.become_known_at(edge, false).await;
        println!("{name}: after {took:?}");
        assert!(took < IN_FORCE_WITHIN, "{took:?}");
        counts.add(everybody.ask(edge, &owner, &image, &Context::new(name, &after)).await);
    }
    println!("{counts:?}");
    assert!(counts.allowed > 1_000 && counts.denied > 5_000, "{counts:?}");
    for edge in edges {
        edge.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_honours_what_it_knew() {
    let provider = Provider::start().await;
    let table = provider.table("");
    let complete = |_: &str, settings: Settings| with_owner(settings.access(OPEN)).table(&table);
    let world = World::start_with(&["eu", "us"], complete, Reach::Edges).await;
    let [eu, us] = ["eu", "us"].map(|name| Reached { plain: world.client(name).clone(), certified: world.client(name).clone() });
    let image = Image::new(12, &[3_000]);
    fill(&eu.root(), &image).await;
    let everybody = Everybody::make(&eu, &provider).await;
    let mut counts = Counts::default();
    for (edge, name) in [(&eu, "eu"), (&us, "us")] {
        everybody.become_known_at(edge, true).await;
        // What a region has seen itself it has when it is alone.
        for repository in super::REPOSITORIES {
            pull(&edge.root(), repository, super::TAG, &image).await.expect("the owner's image");
        }
        counts.add(everybody.ask(edge, &edge.root(), &image, &Context::new(name, &before)).await);
    }
    world.cut_off("us");
    everybody.revoke(&eu.root()).await;
    everybody.become_known_at(&eu, false).await;
    for (edge, name, as_seen) in [(&eu, "eu-alone", &after as &dyn Fn(&Member) -> Caller), (&us, "us-alone", &before)] {
        let context = Context { is_alone: true, ..Context::new(name, as_seen) };
        counts.add(everybody.ask(edge, &edge.root(), &image, &context).await);
    }
    world.mend("us");
    let took = everybody.become_known_at(&us, false).await;
    println!("refused {took:?} after the regions met again; {counts:?}");
    for (edge, name) in [(&eu, "eu-after"), (&us, "us-after")] {
        counts.add(everybody.ask(edge, &edge.root(), &image, &Context::new(name, &after)).await);
    }
    assert!(counts.allowed > 1_000 && counts.denied > 3_000, "{counts:?}");
    world.finish().await;
}
