use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

use super::files::Files;
use super::*;

const REFERENCE: &str = include_str!("../../config/reference.toml");

fn no_environment(_: &str) -> Option<String> {
    None
}

pub(super) fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/nowhere"), &no_environment)
}

/// The faults, each as `line: key: message`.
pub(super) fn faults(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors.lines().map(|line| line.strip_prefix("configuration:").unwrap_or(&line).trim_start().to_owned()).collect()
}

/// A folder with files that only their owner may read.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    folder
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

#[test]
fn an_empty_text_is_a_locked_edge_on_loopback() {
    let config = parse("").unwrap();
    assert!(config.listen.registry.ip().is_loopback() && config.listen.ops.ip().is_loopback());
    assert_eq!((config.upstreams.len(), config.access), (0, Access::default()));
    assert_eq!(config.data_dir, Path::new("/nowhere/outport-data"));
}

#[test]
fn the_embedded_default_is_used_without_a_file() {
    let loaded = Loaded::load(None, &no_environment).unwrap();
    let names: Vec<&str> = loaded.config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "mcr.microsoft.com", "public.ecr.aws"]);
    assert_eq!(loaded.config.upstreams[0].url.as_str(), "https://registry-1.docker.io/");
    assert_eq!(loaded.config.listen.registry.to_string(), "127.0.0.1:5000");
    assert_eq!(loaded.config.listen.ops.to_string(), "127.0.0.1:5001");
    assert_eq!(loaded.config.data_dir, Path::new("./outport-data"));
    assert_eq!(loaded.config.access.anonymous_pull, loaded.config.access.anonymous_push);
    assert_eq!(loaded.config.access.anonymous_pull[0].as_str(), "**");
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_argument_comes_before_the_variable_and_paths_begin_beside_the_file() {
    let folder = folder(&[("one.toml", "region = 'one'"), ("two.toml", "region = 'two'\ndata_dir = 'data'")]);
    let two = folder.path().join("two.toml");
    let environment = |name: &str| (name == "OUTPORT_CONFIG").then(|| two.display().to_string());
    let config = Config::load(None, &environment).unwrap();
    assert_eq!((config.region.as_str(), config.data_dir), ("two", folder.path().join("data")));
    assert_eq!(Config::load(Some(&folder.path().join("one.toml")), &environment).unwrap().region, "one");
    let missing = Config::load(Some(&folder.path().join("none.toml")), &environment).unwrap_err();
    assert!(missing.to_string().contains("none.toml: cannot read "), "{missing}");
    // A set but empty variable is the shell's way to unset it.
    assert_eq!(Config::load(None, &|_| Some(String::new())).unwrap().upstreams.len(), 7);
}

#[test]
fn every_fault_is_reported_at_once_with_line_and_key() {
    let text = r#"region = "EU"
colour = "red"
[listen]
registry = "localhost"
opps = "127.0.0.1:1"
[cache]
disk = 5
memory = "5GB"
prefetch = 65
[log]
level = true
[[upstream]]
name = "docker.io"
url = "ftp://x"
[[upstream]]
name = "ghcr.io"
url = "https://ghcr.io"
tag_ttl = "5x"
allow = ["ok/*", "NO", 7]
password = "hunter2"
[[principal]]
"#;
    assert_eq!(
        faults(text),
        [
            r#"1: region: "EU" is not a region: 1 to 63 lower-case letters, digits and hyphens inside"#,
            "2: colour: unknown key",
            r#"4: listen.registry: "localhost" is not an address: an IP address and a port, such as "0.0.0.0:5000" or "[::]:5000""#,
            "5: listen.opps: unknown key; did you mean ops?",
            r#"7: cache.disk: expected a size such as "512MiB", found an integer"#,
            r#"8: cache.memory: "5GB" is not a size: a whole number with B, KiB, MiB, GiB or TiB, such as "512MiB""#,
            "9: cache.prefetch: 65 is out of bounds: 0 to 64",
            "11: log.level: expected a text, found true or false",
            "14: upstream[0].url: the URL must begin with http:// or https://",
            r#"18: upstream[1].tag_ttl: "5x" is not a duration: a whole number with ms, s, m, h or d, such as "5m""#,
            r#"19: upstream[1].allow[1]: "NO" is no pattern: a pattern is a repository name in which * stands for a run without /, and ** for any run"#,
            r#"19: upstream[1].allow[2]: expected a pattern such as "team/**", found an integer"#,
            "20: upstream[1].password: a password does not stand in the configuration: name its file in password_file, or its variable in password_env",
            "21: principal[0].name: is missing",
            "21: principal[0].password_files: is missing: name one file or two, or variables in password_envs",
        ]
    );
}

#[test]
fn faults_of_one_kind() {
    let upstream = |rest: &str| format!("[[upstream]]\nname = 'a.io'\nurl = 'https://a.io'\n{rest}");
    let peer = |rest: &str| format!("[[peer]]\nregion = 'us'\nbucket.url = 's3://x'\n{rest}");
    for (text, expected) in [
        ("region = ", "1: string values must be quoted"),
        ("listen = 3", "1: listen: expected a table [listen], found an integer"),
        ("[upstream]\nname = 'a.io'", "1: upstream: expected a list of tables, each beginning with [[upstream]]"),
        ("upstream = [1]", "1: upstream: expected a list of tables, each beginning with [[upstream]]"),
        ("listen.registry = '127.0.0.1:5001'", "1: listen.ops: 127.0.0.1:5001 is taken by listen.registry (127.0.0.1:5001)"),
        ("listen.ops = '0.0.0.0:5000'", "1: listen.ops: 0.0.0.0:5000 is taken by listen.registry (127.0.0.1:5000)"),
        (
            "[[listen.also]]\naddress = '127.0.0.1:5000'",
            "2: listen.also[0].address: 127.0.0.1:5000 is taken by listen.registry (127.0.0.1:5000)",
        ),
        (
            "[[listen.also]]\naddress = '127.0.0.1:1'\ntls = true",
            "3: listen.also[0].tls: is true, but there is no [tls] with a certificate",
        ),
        ("[listen]\npublic_url = 'https://a/b'", "2: listen.public_url: has a path: only a scheme, a host and a port are possible"),
        ("limits.deadline = '0s'", r#"1: limits.deadline: "0s" is out of bounds: "100ms" to "5m""#),
        ("limits.connections = 0", "1: limits.connections: 0 is out of bounds: 1 to 1000000"),
        ("limits.streams = -1", "1: limits.streams: -1 is out of bounds"),
        ("limits.deadline = '1s'", "0: cache.stale_after: is longer than limits.deadline, so that nothing stale would ever be served"),
        (
            "limits.client_bandwidth = '63KiB'",
            "1: limits.client_bandwidth: is less than 64KiB, of which one block of an answer is the half",
        ),
        ("limits.request_timeout = '5s'", "1: limits.deadline: is longer than limits.request_timeout"),
        ("log.level = 'a=b=c'", "1: log.level: \"a=b=c\" is not a filter"),
        ("log.level = 'warn,infoo'", r#"1: log.level: "infoo" is not a level: off, error, warn, info, debug or trace"#),
        (&upstream("username = 'a:b'"), "4: upstream[0].username: is empty or has a colon"),
        ("log.format = 'xml'", r#"1: log.format: "xml" is neither "text" nor "json""#),
        ("data_dir = ''", "1: data_dir: is empty"),
        ("'a\\nb' = 1", r#"1: "a\\nb": unknown key"#),
        ("[tls]", "1: tls.cert_file: is missing"),
        (&upstream("[[upstream]]\nname = 'a.io'\nurl = 'https://b'"), r#"5: upstream[1].name: "a.io" stands already in upstream[0]"#),
        (&upstream("hosts = ['x', 'X']"), r#"4: upstream[0].hosts[1]: "X" stands already in upstream[0]"#),
        (&upstream("hosts = ['http://x']"), r#"4: upstream[0].hosts[0]: "http://x" is not a host name, with a port or without"#),
        (&upstream("token_hosts = ['x:1']"), r#"4: upstream[0].token_hosts[0]: "x:1" is not a host name without a port"#),
        (&upstream("private_networks = ['10.0.0.1']"), r#"4: upstream[0].private_networks[0]: "10.0.0.1" is not a network"#),
        (&upstream("username = 'u'"), "4: upstream[0].username: has no password: add password_file or password_env"),
        (&upstream("mirrors = ['https://u:hunter2@b']"), "4: upstream[0].mirrors[0]: a URL must not hold a user name or password"),
        (&upstream("username = 'u'\npassword_env = 'NONE'"), "5: upstream[0].password_env: the environment variable \"NONE\" is not set"),
        (&upstream("username = 'u'\npassword_env = 'p4$$'"), "5: upstream[0].password_env: is not the name of an environment variable"),
        (
            &upstream("username = 'u'\npassword_file = 'p'"),
            "5: upstream[0].password_file: cannot read /nowhere/p: No such file or directory",
        ),
        ("bucket.url = 'ftp://x'", "1: bucket.url: the URL must begin with file:///, s3://, az:// or gs://, or be memory://"),
        ("bucket.url = 's3://me:hunter2@x/y'", "1: bucket.url: not of the form s3://bucket/prefix"),
        ("bucket.url = 'gs://x/../y'", "1: bucket.url: not of the form gs://bucket/prefix"),
        ("bucket.url = 'file://x/y'", "1: bucket.url: not of the form file:///absolute/path"),
        ("bucket.part_size = '4MiB'", r#"1: bucket.part_size: "4MiB" is out of bounds: "5MiB" to "256MiB""#),
        ("bucket.options = 5", "1: bucket.options: expected a table [bucket.options], each value a text"),
        ("bucket.options.region = 5", "1: bucket.options.region: expected a text, found an integer"),
        ("bucket.options.region = 'x'", "1: bucket.options: file:///nowhere/outport-data/bucket takes no options"),
        (
            "bucket.url = 's3://x'\nbucket.options.aws_secret_access_key = 'hunter2'",
            r#"2: bucket.options: the value of "aws_secret_access_key" does not stand in the configuration"#,
        ),
        (
            "bucket.url = 's3://x'\nbucket.options_from_env.token = 'NONE'",
            r#"2: bucket.options_from_env: the environment variable "NONE" is not set"#,
        ),
        ("[[upstream]]\nname = 'a/b'\nurl = 'https://b'", r#"2: upstream[0].name: "a/b" is not an upstream's name"#),
        ("[siblings]\nadvertise = 'https://a:1/x'\ntoken_env = 'A'", "2: siblings.advertise: has a path"),
        ("[siblings]\ntoken_env = 'A'", "1: siblings.advertise: is missing: write it, or name a variable in advertise_env"),
        ("[siblings]\nadvertise = 'https://a:1'", "1: siblings.token_file: is missing: name a file, or a variable in token_env"),
        ("[siblings]\nadvertise = 'https://a'\ntoken = 'hunter2'", "3: siblings.token: a token does not stand in the configuration"),
        ("[siblings]\nadvertise = 'https://a'\ndns = 'b:1'", "3: siblings.dns: is not a host name without a port"),
        ("[[hosted]]", "1: hosted[0].pattern: is missing"),
        ("[[hosted]]\npattern = 'a'\nreplicate = 'most'", r#"3: hosted[0].replicate: "most" is neither "lazy" nor "all" nor a number"#),
        ("[[hosted]]\npattern = 'a'\nreplicate = 1", "3: hosted[0].replicate: 1 other regions are asked for, and 0 are configured"),
        ("[[hosted]]\npattern = 'a'\nreplicate = 0", "3: hosted[0].replicate: 0 other regions"),
        ("[[hosted]]\npattern = 'a'\nreplicate = true", "3: hosted[0].replicate: expected \"lazy\", \"all\" or a number of other regions"),
        ("[[hosted]]\npattern = 'a'\nacknowledge = { regions = 2 }", "3: hosted[0].acknowledge: 2 other regions are asked for"),
        ("[[hosted]]\npattern = 'a'\nacknowledge = { region = 2 }", "3: hosted[0].acknowledge: expected \"store\" or { regions = 1 }"),
        ("bucket.acknowledge = { regions = 1 }", "1: bucket.acknowledge: 1 other regions are asked for, and 0 are configured"),
        ("bucket.acknowledge = 'disk'", r#"1: bucket.acknowledge: "disk" is neither "store" nor"#),
        ("[[hosted]]\npattern = 'a'\nhome = 'us'", r#"3: hosted[0].home: "us" is neither this region nor a [[peer]]"#),
        ("[[peer]]", "1: peer[0].region: is missing"),
        ("[[peer]]\nregion = 'US'", r#"2: peer[0].region: "US" is not a region"#),
        ("[[peer]]\nregion = 'local'", r#"2: peer[0].region: "local" stands already in region"#),
        ("[[peer]]\nregion = 'us'", "1: peer[0].edges: is missing, and so is [peer.bucket]"),
        (&peer("[[peer]]\nregion = 'us'"), r#"5: peer[1].region: "us" stands already in peer[0]"#),
        ("[[peer]]\nregion = 'us'\nedges = ['https://a']", "1: peer[0].token_file: is missing: name a file"),
        ("[[peer]]\nregion = 'us'\nedges = ['https://a/b']", "3: peer[0].edges[0]: has a path"),
        ("[[peer]]\nregion = 'us'\nedges = ['s3://a']", "3: peer[0].edges[0]: the URL must begin with http:// or https://"),
        (&peer("token_file = 'none'"), "4: peer[0].token_file: cannot read /nowhere/none: No such file or directory"),
        (&peer("token = 'hunter2'"), "4: peer[0].token: a token does not stand in the configuration"),
        ("[[peer]]\nregion = 'us'\nbucket.url = 'memory://'", "3: peer[0].bucket.url: memory:// is this process's own"),
        ("[[peer]]\nregion = 'us'\nbucket = {}", "3: peer[0].bucket.url: is missing"),
        (&peer("bucket.part_size = '8MiB'"), "4: peer[0].bucket.part_size: unknown key"),
        (
            &peer("bucket.options.token = 'hunter2'"),
            r#"4: peer[0].bucket.options: the value of "token" does not stand in the configuration"#,
        ),
        ("replication.bandwidth = '0B'", "1: replication.bandwidth: is 0: leave it out for no limit"),
        ("replication.hours = ['22-6']", r#"1: replication.hours[0]: "22-6" is not a part of the day in UTC"#),
        ("replication.follow_interval = '1ms'", r#"1: replication.follow_interval: "1ms" is out of bounds: "200ms" to "1m""#),
        ("[[hosted]]\npattern = 'a/**'\nforward_to = 'b.io'", r#"3: hosted[0].forward_to: "b.io" is no upstream of this configuration"#),
        ("[[hosted]]\npattern = 'a'\n[[hosted]]\npattern = 'a'", r#"4: hosted[1].pattern: "a" stands already in hosted[0]"#),
        (&upstream("[[hosted]]\npattern = 'a.io/*'"), r#"5: hosted[0].pattern: repositories below "a.io" are the upstream "a.io"'s"#),
        ("limits.max_blob = '0B'", r#"1: limits.max_blob: "0B" is out of bounds: "1MiB" to "5TiB""#),
        ("[[principal]]\nname = 'anonymous'\npassword_envs = ['A']", r#"2: principal[0].name: "anonymous" is not a principal's name"#),
        ("[[principal]]\nname = 'a'\npassword_envs = ['A', 'B', 'C']", "1: principal[0].password_files: 3 passwords: at most 2"),
        ("[[principal]]\nname = 'a'\npassword_file = 'x'", "3: principal[0].password_file: write password_files = [...]"),
    ] {
        let faults =
            faults(text).into_iter().map(|line| if line.starts_with(|c: char| c.is_ascii_digit()) { line } else { format!("0: {line}") });
        let faults: Vec<String> = faults.collect();
        assert!(faults.iter().any(|line| line.starts_with(expected)), "{text}\nexpected {expected}\ngot {faults:#?}");
        assert!(!faults.concat().contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn port_0_is_free_every_time() {
    assert!(parse("[listen]\nregistry = '127.0.0.1:0'\nops = '127.0.0.1:0'").is_ok());
    assert!(parse("[listen]\nregistry = '127.0.0.1:80'\nops = '[::1]:80'").is_ok());
}

#[test]
fn filters_of_the_log_are_levels_of_parts() {
    for level in ["info", "WARN", "off", "warn,outport=debug", "outport::cache=trace, error", "outport[fill{a}]=debug"] {
        assert_eq!(parse(&format!("log.level = '{level}'")).unwrap().log.level, level);
    }
}

#[test]
fn secrets_come_from_files_and_variables() {
    let folder = folder(&[("p1", "one\n"), ("p2", "two\r\n"), ("json", "{\n  \"a\": 1\n}\n"), ("empty", "\n")]);
    let environment = |name: &str| HashMap::from([("THREE", "three"), ("EMPTY", "")]).get(name).map(|value| (*value).to_owned());
    let parse = |text: &str| Config::parse(text, folder.path(), &environment);
    let text = "[[principal]]\nname = 'a'\npassword_files = ['p1', 'p2']\n[[principal]]\nname = 'b'\npassword_files = ['p1']\npassword_envs = ['THREE']
        [[upstream]]\nname = 'g.io'\nurl = 'https://g.io'\nusername = '_json_key'\npassword_file = 'json'";
    let config = parse(text).unwrap();
    let exposed: Vec<&str> = config.principals.iter().flat_map(|principal| &principal.passwords).map(Secret::expose).collect();
    assert_eq!(exposed, ["one", "two", "one", "three"]);
    assert_eq!(config.upstreams[0].password.as_ref().map(Secret::expose), Some("{\n  \"a\": 1\n}"));
    assert!(!format!("{config:?}").contains("three"));

    let errors = parse("[[principal]]\nname = 'a'\npassword_files = ['empty']\npassword_envs = ['EMPTY']").unwrap_err().to_string();
    assert!(errors.contains("principal[0].password_files: ") && errors.contains("empty is empty"), "{errors}");
    assert!(errors.contains("principal[0].password_envs: the environment variable EMPTY is empty"), "{errors}");
}

#[test]
fn siblings_share_a_token() {
    let folder = folder(&[("token", "0123456789abcdef\n"), ("short", "0123456789abcde\n"), ("ca.crt", CERTIFICATE)]);
    let parse =
        |rest: &str| Config::parse(&format!("[siblings]\nadvertise = 'http://10.0.0.7:5000'\n{rest}"), folder.path(), &no_environment);
    let siblings = parse("dns = 'edges.local'\ntoken_file = 'token'\nca_file = 'ca.crt'").unwrap().siblings.unwrap();
    assert_eq!((siblings.advertise.as_str(), siblings.dns.as_deref()), ("http://10.0.0.7:5000/", Some("edges.local")));
    assert_eq!((siblings.token.expose(), siblings.ca_file), ("0123456789abcdef", Some(folder.path().join("ca.crt"))));
    let errors = parse("token_file = 'short'").unwrap_err().to_string();
    assert!(errors.contains("siblings.token_file: is too short"), "{errors}");
    assert_eq!(Config::parse("", folder.path(), &no_environment).unwrap().siblings, None);
}

#[test]
fn where_an_edge_is_may_stand_in_its_environment() {
    let folder = folder(&[("token", "0123456789abcdef\n")]);
    let environment = |name: &str| match name {
        "GOOD" => Some("https://10.0.0.7:8443".to_owned()),
        "PATH" => Some("https://10.0.0.7:8443/x".to_owned()),
        "BAD" => Some("10.0.0.7".to_owned()),
        _ => None,
    };
    let parse = |rest: &str| Config::parse(&format!("[siblings]\ntoken_file = 'token'\n{rest}"), folder.path(), &environment);
    let siblings = parse("advertise_env = 'GOOD'\ntls_name = 'registry.example.com'").unwrap().siblings.unwrap();
    assert_eq!((siblings.advertise.as_str(), siblings.tls_name.as_deref()), ("https://10.0.0.7:8443/", Some("registry.example.com")));
    for (text, expected) in [
        (
            "advertise = 'https://a'\nadvertise_env = 'GOOD'",
            "siblings.advertise_env: stands beside advertise: only one of them is possible",
        ),
        ("advertise_env = 'PATH'", "siblings.advertise_env: has a path: only a scheme, a host and a port are possible"),
        ("advertise_env = 'BAD'", "siblings.advertise_env: the environment variable BAD: "),
        ("advertise_env = 'NONE'", "siblings.advertise_env: the environment variable \"NONE\" is not set"),
        ("advertise_env = 'GOOD'\ntls_name = 'a:1'", "siblings.tls_name: is not a host name without a port"),
    ] {
        let errors = parse(text).unwrap_err().to_string();
        assert!(errors.contains(expected), "{text}: {errors}");
    }
}

#[test]
fn hosted_repositories_have_their_policies() {
    let text =
        "[[upstream]]\nname = 'a.io'\nurl = 'https://a.io'\n[[hosted]]\npattern = 'team/**'\nforward_to = 'a.io'\nsparse_indexes = true
        [[hosted]]\npattern = '**'";
    let hosted = parse(text).unwrap().hosted;
    let shown: Vec<_> = hosted.iter().map(|each| (each.pattern.as_str(), each.forward_to.as_deref(), each.sparse_indexes)).collect();
    assert_eq!(shown, [("team/**", Some("a.io"), true), ("**", None, false)]);
}

#[test]
fn peers_are_regions_with_edges_or_a_store() {
    let folder = folder(&[("token", "0123456789abcdef\n"), ("ca.crt", CERTIFICATE)]);
    let path = folder.path().join("outport.toml");
    let text = "bucket.acknowledge = { regions = 1 }
        [[peer]]\nregion = 'us'\nedges = ['https://us.example', 'http://10.0.0.1:5000']\ntoken_file = 'token'\nca_file = 'ca.crt'
        [peer.bucket]\nurl = 's3://us'\noptions.region = 'us-east-1'
        [[peer]]\nregion = 'ap'\nbucket.url = 'file:///srv/ap'
        [[hosted]]\npattern = 'a'\nreplicate = 2\nhome = 'ap'
        [[hosted]]\npattern = 'b'\nreplicate = 'all'\nacknowledge = 'store'\nhome = 'local'
        [replication]\nbandwidth = '10MiB'\nhours = ['22:00-06:00']\nfollow_interval = '5s'";
    std::fs::write(&path, text).unwrap();
    let loaded = Loaded::load(Some(&path), &no_environment).unwrap();
    let [us, ap] = &loaded.config.peers[..] else { panic!("two peers") };
    let edges: Vec<&str> = us.edges.iter().map(url::Url::as_str).collect();
    assert_eq!((us.region.as_str(), edges), ("us", vec!["https://us.example/", "http://10.0.0.1:5000/"]));
    assert_eq!((us.token.as_ref().map(Secret::expose), &us.ca_file), (Some("0123456789abcdef"), &Some(folder.path().join("ca.crt"))));
    assert_eq!(us.bucket.as_ref().map(|bucket| bucket.place.to_string()).as_deref(), Some("s3://us"));
    assert_eq!((ap.edges.len(), ap.token.is_none(), ap.bucket.is_some()), (0, true, true));
    let shown: Vec<_> = loaded.config.hosted.iter().map(|each| (each.replicate, each.acknowledge, each.home.as_deref())).collect();
    assert_eq!(shown, [(Replicate::Regions(2), Acknowledge::Regions(1), Some("ap")), (Replicate::All, Acknowledge::Store, Some("local"))]);
    assert_eq!((loaded.config.acknowledge, loaded.config.replication.bandwidth), (Acknowledge::Regions(1), Some(ByteSize(10 << 20))));
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["peer[0].edges: is plain HTTP: the token travels unprotected"]);
}

#[test]
fn a_bucket_is_a_place_and_options() {
    let place = |url: &str| parse(&format!("bucket.url = '{url}'")).unwrap().bucket.place;
    let (name, prefix) = ("images".to_owned(), "outport/eu".to_owned());
    assert_eq!(parse("").unwrap().bucket.place, BucketPlace::File("/nowhere/outport-data/bucket".into()));
    assert_eq!(place("file:///srv/a%20b"), BucketPlace::File("/srv/a b".into()));
    assert_eq!(place("memory://"), BucketPlace::Memory);
    assert_eq!(place("s3://images/outport/eu/"), BucketPlace::S3 { bucket: name.clone(), prefix: prefix.clone() });
    assert_eq!(place("az://images/outport/eu"), BucketPlace::Azure { container: name.clone(), prefix });
    assert_eq!(place("gs://images"), BucketPlace::Google { bucket: name, prefix: String::new() });
    for url in ["file:///srv/a%20b", "memory://", "s3://images/outport/eu", "az://images", "gs://images/x"] {
        assert_eq!(place(url).to_string(), url);
    }
    let folder = folder(&[("key", "from-a-file\n")]);
    let environment = |name: &str| (name == "KEY_ID").then(|| "from-a-variable".to_owned());
    let text = "[bucket]\nurl = 's3://images'\noptions.region = 'eu'\noptions_from_files.secret_access_key = 'key'
        options_from_env.access_key_id = 'KEY_ID'";
    let bucket = Config::parse(text, folder.path(), &environment).unwrap().bucket;
    let exposed: Vec<(&str, &str)> = bucket.options.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(exposed, [("access_key_id", "from-a-variable"), ("region", "eu"), ("secret_access_key", "from-a-file")]);
    assert!(!format!("{bucket:?}").contains("from-a"));
}

#[test]
fn certificates_must_look_like_pem() {
    let folder = folder(&[("tls.crt", CERTIFICATE), ("tls.key", KEY), ("no.pem", "hello")]);
    let parse = |text: &str| Config::parse(text, folder.path(), &no_environment);
    let config = parse("[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'").unwrap();
    let expected = CertificateFiles { cert_file: folder.path().join("tls.crt"), key_file: folder.path().join("tls.key") };
    assert_eq!(config.tls.unwrap().certificates, [expected]);
    let swapped = parse("[tls]\ncert_file = 'tls.key'\nkey_file = 'tls.crt'").unwrap_err().to_string();
    assert!(swapped.contains("tls.cert_file: ") && swapped.contains("tls.key_file: "), "{swapped}");
    let text = "[[upstream]]\nname = 'a.io'\nurl = 'https://a.io'\nca_file = 'no.pem'";
    let errors = parse(text).unwrap_err().to_string();
    assert!(errors.contains("configuration:4: upstream[0].ca_file: ") && errors.contains("is not PEM"), "{errors}");
}

#[test]
fn what_is_no_small_text_file_is_refused() {
    let folder = folder(&[("large", &"x".repeat((1 << 20) + 1))]);
    std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    for (name, why) in [("large", "larger than 1MiB"), ("binary", "not UTF-8"), ("pipe", "not a file"), (".", "not a file")] {
        let errors = Config::load(Some(&folder.path().join(name)), &no_environment).unwrap_err().to_string();
        assert!(errors.contains(why), "{errors}");
    }
}

#[test]
fn what_is_hardly_wanted_is_a_warning() {
    let folder = folder(&[("p", "secret")]);
    std::fs::set_permissions(folder.path().join("p"), PermissionsExt::from_mode(0o644)).unwrap();
    let path = folder.path().join("outport.toml");
    let text = "[listen]\nregistry = '0.0.0.0:80'\n[access]\nanonymous_push = ['team/*']\n[[upstream]]
name = 'a.io'\nurl = 'http://a.io'\nusername = 'u'\npassword_file = 'p'\n";
    std::fs::write(&path, text).unwrap();
    let loaded = Loaded::load(Some(&path), &no_environment).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(|warning| format!("{} {warning}", warning.line)).collect();
    let folder = folder.path().display();
    assert_eq!(
        warnings,
        [
            "2 listen.registry: 0.0.0.0:80 is off loopback and speaks plain HTTP: passwords and images travel unprotected".to_owned(),
            "2 listen.registry: is off loopback while access.anonymous_push lets anybody push".to_owned(),
            "7 upstream[0].url: is plain HTTP: the password travels unprotected".to_owned(),
            format!("9 upstream[0].password_file: {folder}/p can be read by every user of this machine: take that right away (chmod o-r)"),
        ]
    );
    assert!(loaded.warning_lines().next().unwrap().starts_with(&format!("{}:2: listen.registry: ", path.display())));
}

/// The reference with everything switched on.
fn uncommented() -> String {
    let switched_off =
        |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '['));
    REFERENCE.lines().map(|line| if switched_off(&line) { &line[1..] } else { line }).fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").unwrap();
        all
    })
}

/// Each leaf of a document: its shape, its value as TOML, and the comment above it.
fn leaves(text: &str) -> HashMap<String, (String, String)> {
    fn walk(shape: &str, value: &DeValue<'_>, start: usize, text: &str, found: &mut HashMap<String, (String, String)>) {
        match value {
            DeValue::Table(table) => table.iter().for_each(|(key, value)| {
                let shape = if shape.is_empty() { key.get_ref().to_string() } else { format!("{shape}.{}", key.get_ref()) };
                walk(&shape, value.get_ref(), key.span().start, text, found);
            }),
            DeValue::Array(elements) if elements.iter().any(|element| element.get_ref().is_table()) => {
                elements.iter().for_each(|element| walk(&format!("{shape}[]"), element.get_ref(), 0, text, found));
            }
            _ => {
                let (above, rest) = text.split_at(start);
                let comment = above.trim_end().lines().last().unwrap_or_default().to_owned();
                let shown = rest.lines().next().and_then(|line| line.split_once(" = ")).unwrap().1.to_owned();
                assert!(comment.starts_with("# "), "{shape} has no comment");
                assert!(found.insert(shape.to_owned(), (shown, comment)).is_none(), "{shape} stands twice");
            }
        }
    }
    let mut found = HashMap::new();
    walk("", &DeValue::Table(DeTable::parse(text).unwrap().into_inner()), 0, text, &mut found);
    found
}

#[test]
fn the_reference_lists_every_key_with_its_default_and_bounds() {
    let folder = folder(&[("tls.crt", CERTIFICATE), ("tls.key", KEY), ("other.crt", CERTIFICATE), ("other.key", KEY)]);
    std::fs::write(folder.path().join("ca.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("siblings.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("clients.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("password"), "secret").unwrap();
    std::fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
    std::fs::write(folder.path().join("peer-token"), "0123456789abcdef").unwrap();
    std::fs::write(folder.path().join("peer.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("oidc.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("token-key.pem"), KEY).unwrap();
    std::fs::write(folder.path().join("webhook.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("otlp.crt"), CERTIFICATE).unwrap();
    std::fs::write(folder.path().join("webhook-secret"), "0123456789abcdef").unwrap();
    let text = uncommented();
    let (_, findings) = load::read(&text, folder.path(), &no_environment, Files::default());
    let faults: Vec<String> = findings.faults.iter().map(ToString::to_string).collect();
    // Nothing in the file is unknown to the code, and every example is well formed.
    assert_eq!(
        faults,
        [
            r#"listen.also[0].rules[0].allow: lets nobody in: name ranges, or set default = "allow""#,
            r#"bucket.options_from_env: the environment variable "BUCKET_KEY_ID" is not set"#,
            r#"otlp.headers_from_env: the environment variable "OTLP_API_KEY" is not set"#,
            "siblings.advertise_env: stands beside advertise: only one of them is possible",
            "siblings.token_env: stands beside token_file: only one of them is possible",
            "peer[0].token_env: stands beside token_file: only one of them is possible",
            r#"peer[0].bucket.options_from_env: the environment variable "PEER_KEY_ID" is not set"#,
            "upstream[0].password_env: stands beside password_file: only one of them is possible",
            "webhook[0].secret_env: stands beside secret_file: only one of them is possible",
            "webhook[0].authorization_env: stands beside authorization_file: only one of them is possible",
            "prefetch[0].images: is missing: name images, each with its upstream's name in front",
            "principal[0].password_files: is missing: name one file or two, or variables in password_envs",
            r#"role[0].principals: is missing: name principals, or groups as "group:NAME""#,
            r#"rule[0].allow: lets nobody in: name ranges, or set default = "allow""#,
        ]
    );
    let mut leaves = leaves(&text);
    for key in findings.keys {
        let (shown, comment) = leaves.remove(&key.shape).unwrap_or_else(|| panic!("{} is not in config/reference.toml", key.shape));
        let exemplary = comment.contains("(required") || comment.contains("(optional");
        assert_eq!(key.default.is_none(), exemplary, "{}: (required) or (optional), if and only if there is no default", key.shape);
        if let Some(default) = key.default {
            assert_eq!(shown, default, "default of {}", key.shape);
        }
        if let Some((least, greatest)) = key.bounds {
            let bounds = format!("; {} to {}", least.trim_matches('"'), greatest.trim_matches('"'));
            assert!(comment.contains(&bounds), "{}: {bounds} is not in {comment:?}", key.shape);
        }
    }
    assert_eq!(leaves, HashMap::new(), "config/reference.toml lists what the code does not read");
}

#[test]
fn the_reference_as_it_stands_changes_nothing() {
    assert_eq!(parse(REFERENCE).unwrap(), parse("").unwrap());
}

#[test]
fn every_example_is_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let examples: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(examples.len() >= 2, "{examples:?}");
    for example in examples {
        Loaded::load(Some(&example), &no_environment).unwrap();
    }
}

#[test]
fn what_needs_a_restart_is_named() {
    let old = Config::load(None, &no_environment).unwrap();
    let all = "region = 'x'\ndata_dir = 'x'\n[listen]\nregistry = '127.0.0.1:1'\nops = '127.0.0.1:2'\n[[listen.also]]\naddress = '127.0.0.1:3'
        [cache]\ndisk = '1GiB'\nmemory = '1GiB'\nprefetch = 0\n[limits]\nconnections = 1\nstreams = 1\n[log]\nformat = 'json'\nlevel = 'warn'\ncentral = true";
    let new = parse(all).unwrap();
    let fixed =
        ["region", "data_dir", "listen.registry", "listen.ops", "listen.also", "cache", "bucket", "limits", "log.format", "log.central"];
    assert_eq!(old.fixed_changes(&new), fixed);
    let client = ClientLimits { requests: 1, burst: 2, bandwidth: ByteSize(1 << 20) };
    let limits = Limits { deadline: Duration::from_secs(1), grace: Duration::ZERO, client, ..old.limits.clone() };
    let fluid = Config {
        limits,
        upstreams: Vec::new(),
        hosted: parse("[[hosted]]\npattern = '**'").unwrap().hosted,
        access: Access::default(),
        log: Log { level: "warn".into(), ..old.log.clone() },
        ..old.clone()
    };
    assert_eq!(old.fixed_changes(&fluid), Vec::<&str>::new());
    let tls = |cert: &str| {
        Some(Tls {
            certificates: vec![CertificateFiles { cert_file: cert.into(), key_file: "k".into() }],
            client_ca_file: None,
            http2: true,
        })
    };
    let (one, other) = (Config { tls: tls("a"), ..old.clone() }, Config { tls: tls("b"), ..old.clone() });
    assert_eq!((old.fixed_changes(&one), one.fixed_changes(&other)), (vec!["tls"], vec![]));
    let token = Secret::new("t".into());
    let siblings = Siblings { advertise: "https://a".parse().unwrap(), tls_name: None, dns: None, token, ca_file: None };
    assert_eq!(old.fixed_changes(&Config { siblings: Some(siblings), ..old.clone() }), ["siblings"]);
    let otlp = parse("otlp.endpoint = 'http://127.0.0.1:4318'").unwrap().otlp;
    assert_eq!(old.fixed_changes(&Config { otlp, ..old.clone() }), ["otlp"]);
    let peers = parse("[[peer]]\nregion = 'us'\nbucket.url = 's3://x'\n[replication]\nhours = ['00:00-01:00']").unwrap();
    assert_eq!(old.fixed_changes(&Config { peers: peers.peers, replication: peers.replication, ..old.clone() }), ["peer", "replication"]);
}

/// Lines that come close to a configuration.
fn line() -> impl Strategy<Value = String> {
    let keys = ["region", "listen", "registry", "disk", "tag_ttl", "url", "name", "mirrors", "password", "x"];
    let values =
        ["'a'", "5", "-1", "[]", "[1, 'a']", "{}", "{ a = 1 }", "true", "1.5", "1979-05-27", "'5m'", "'https://a'", "\"\\u00e9\"", ""];
    let headers = [
        "[listen]",
        "[cache]",
        "[[upstream]]",
        "[[listen.also]]",
        "[tls]",
        "[[tls.also]]",
        "[[principal]]",
        "[[hosted]]",
        "[siblings]",
        "[[peer]]",
        "[peer.bucket]",
        "[replication]",
        "[otlp]",
        "[upstream.x]",
        "[",
    ];
    prop_oneof![
        (proptest::sample::select(keys.to_vec()), proptest::sample::select(values.to_vec()))
            .prop_map(|(key, value)| format!("{key} = {value}")),
        proptest::sample::select(headers.to_vec()).prop_map(str::to_owned),
        ".{0,20}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_document_makes_it_panic(lines in proptest::collection::vec(line(), 0..20)) {
        if let Err(errors) = parse(&lines.join("\n")) {
            prop_assert!(!errors.problems.is_empty());
            prop_assert_eq!(errors.to_string().lines().count() >= errors.problems.len(), true);
        }
    }
}
