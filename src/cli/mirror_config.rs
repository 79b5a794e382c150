//! `outport mirror-config`: what container engines need to pull through an edge, in their own formats.
//!
//! - containerd: `hosts.toml` for each registry, and `_default` for all others (containerd's docs/hosts.md). containerd tells the edge
//!   with `?ns=` which registry it means.
//! - podman, buildah, skopeo: a drop-in of containers-registries.conf(5). The edge is addressed by path prefix.
//! - docker: `registry-mirrors` of daemon.json. It mirrors Docker Hub alone and does not name it, so the edge must know by the Host.

mod nearest;
mod stay;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use serde_json::{Map, Value};
use url::Url;

use super::{FAILED, USAGE};
use crate::config::{Config, Upstream, process_environment};

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Where clients reach the edge: scheme, host and port. May be given several times: they are tried in this order
    #[arg(long, value_name = "[ZONE=]URL", required_unless_present = "remove")]
    pub edge: Vec<At>,
    /// Edges of this zone go before the others
    #[arg(long, value_name = "ZONE", requires = "edge")]
    pub zone: Option<String>,
    /// The nearest edge first, by the time that a connection from this machine takes; those that take none go last
    #[arg(long, requires = "edge")]
    pub nearest: bool,
    /// Whose configuration to write
    #[arg(long, value_enum, default_value_t = Format::Containerd)]
    pub format: Format,
    /// The certificate authority of the edge, as a path on the client's machine
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The same, to be copied beside the file of --default-only
    #[arg(long, value_name = "FILE", requires = "default_only", conflicts_with = "ca_file")]
    pub ca_copy: Option<PathBuf>,
    /// Write the files into this folder instead of printing them
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Write _default alone, for the registries that have no file of their own: containerd's, and no configuration is read
    #[arg(long, requires = "output", conflicts_with = "format")]
    pub default_only: bool,
    /// Stay, put back what is changed or lost, and remove it at the end (SIGTERM, Ctrl-C)
    #[arg(long, requires = "default_only")]
    pub hold: bool,
    /// Remove from the folder what --default-only has written, and nothing else
    #[arg(long, requires = "output", conflicts_with_all = ["edge", "format", "ca_file", "default_only"])]
    pub remove: bool,
}

/// An edge, and perhaps the zone in which it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    zone: Option<String>,
    url: Url,
}

impl FromStr for At {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<At, url::ParseError> {
        // A scheme has no `=`, and what stands behind `://` may have one.
        match text.split_once('=').filter(|(zone, _)| !zone.is_empty() && !zone.contains([':', '/'])) {
            Some((zone, url)) => Ok(At { zone: Some(zone.to_owned()), url: url.parse()? }),
            None => Ok(At { zone: None, url: text.parse()? }),
        }
    }
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Files for /etc/containerd/certs.d
    Containerd,
    /// A file for /etc/containers/registries.conf.d; buildah and skopeo read it too
    Podman,
    /// /etc/docker/daemon.json
    Docker,
}

/// A file for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFile {
    /// Relative to the folder that the engine reads.
    pub path: PathBuf,
    pub text: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum MirrorConfigError {
    #[error("--edge must be http:// or https:// with a host, and without path, user name, ? and #")]
    Edge,
    #[error("docker can mirror docker.io alone, and the configuration has no upstream of that name")]
    NoDockerHub,
    #[error("{0} was not written by outport: move it away first")]
    Foreign(PathBuf),
    #[error("daemon.json is no JSON object, or a list of registries in it is no list: mend it first")]
    DaemonJson,
    #[error("cannot read or write {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// By this line a later run knows its own files.
const MARK: &str = "# Written by outport mirror-config.";
const DAEMON_JSON: &str = "daemon.json";
/// How long containerd tries to connect to the edge before it goes to the origin; its default of 30 s would stall pods. Known since
/// containerd 2.1; older ones skip the key.
const CONTAINERD_DIAL_TIMEOUT: &str = "5s";

/// Prints the files for the upstreams of the configuration, or writes them. What is left to do by hand goes to the error output. Exit
/// code 0 when done, 64 for a wrong configuration or URL, 1 when a file cannot be written.
pub fn run(config_path: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let arguments = &nearest::ordered(arguments);
    let outcome = match &arguments.output {
        Some(folder) if arguments.remove => stay::remove(folder),
        Some(folder) if arguments.default_only => stay::put_default(folder, arguments),
        _ => {
            let config = match Config::load(config_path, &process_environment) {
                Ok(config) => config,
                Err(errors) => {
                    eprintln!("{errors}");
                    return ExitCode::from(USAGE);
                }
            };
            let delivered = deliver(&config, arguments, &mut io::stdout());
            delivered.map(|()| notes(&config, arguments).iter().for_each(|note| eprintln!("note: {note}")))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            match error {
                MirrorConfigError::Edge | MirrorConfigError::NoDockerHub => ExitCode::from(USAGE),
                _ => ExitCode::from(FAILED),
            }
        }
    }
}

fn deliver(config: &Config, arguments: &Arguments, output: &mut dyn io::Write) -> Result<(), MirrorConfigError> {
    match &arguments.output {
        None => files(config, arguments, None)?.iter().try_for_each(|file| print(file, arguments.format, output)),
        Some(folder) => {
            let earlier = match arguments.format {
                Format::Docker => read_if_there(&folder.join(DAEMON_JSON))?,
                Format::Containerd | Format::Podman => None,
            };
            write_all(folder, files(config, arguments, earlier.as_deref())?, arguments.format)
        }
    }
}

fn print(file: &ClientFile, format: Format, output: &mut dyn io::Write) -> Result<(), MirrorConfigError> {
    let written = match format {
        // JSON has no comments, and there is only one file.
        Format::Docker => write!(output, "{}", file.text),
        Format::Containerd | Format::Podman => writeln!(output, "# {}\n{}", file.path.display(), file.text),
    };
    written.map_err(|error| MirrorConfigError::Io("the output".into(), error))
}

/// The files for an engine. `daemon_json` is what docker has now: everything else in it is kept. No input or output takes place.
///
/// # Errors
/// When the edge's URL is none that engines can use, or docker is asked to mirror what it cannot, or `daemon_json` is of another form.
pub fn files(config: &Config, arguments: &Arguments, daemon_json: Option<&str>) -> Result<Vec<ClientFile>, MirrorConfigError> {
    let edges = Edge::all(arguments).ok_or(MirrorConfigError::Edge)?;
    match arguments.format {
        Format::Containerd => Ok(containerd(config, &edges)),
        Format::Podman => Ok(vec![ClientFile { path: "50-outport.conf".into(), text: podman(config, &edges) }]),
        Format::Docker => {
            docker_hub(config).ok_or(MirrorConfigError::NoDockerHub)?;
            let text = docker(&edges, daemon_json.unwrap_or("{}")).ok_or(MirrorConfigError::DaemonJson)?;
            Ok(vec![ClientFile { path: DAEMON_JSON.into(), text }])
        }
    }
}

/// The edge as its clients name it.
struct Edge {
    /// `https://edge.example.com`: no slash at the end, containerd would double it.
    origin: String,
    /// `edge.example.com:5000`; the port is left out if the scheme implies it.
    authority: String,
    plain: bool,
    ca_file: Option<String>,
}

impl Edge {
    /// In the order in which they are tried; `None` if one of them is none that engines can use.
    fn all(arguments: &Arguments) -> Option<Vec<Edge>> {
        arguments.edge.iter().map(|at| Edge::new(&at.url, arguments.ca_file.as_deref())).collect()
    }

    fn new(url: &Url, ca_file: Option<&Path>) -> Option<Edge> {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !bare || url.password().is_some() || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let authority = authority(url)?;
        // A relative path would be taken from the folder of each file.
        let ca_file = ca_file.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string());
        Some(Edge { origin: format!("{}://{authority}", url.scheme()), authority, plain: url.scheme() == "http", ca_file })
    }
}

/// Host and port; the port is left out if the scheme implies it.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Where the upstream itself is, without a slash at the end.
fn without_slash(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn containerd(config: &Config, edges: &[Edge]) -> Vec<ClientFile> {
    let default = ClientFile { path: "_default/hosts.toml".into(), text: hosts_toml(edges, None) };
    let each = config.upstreams.iter().map(|upstream| {
        // In folder names containerd looks for `_5000_` before `:5000`; the former works on every system.
        let folder = upstream.name.split_once(':').map_or_else(|| upstream.name.clone(), |(host, port)| format!("{host}_{port}_"));
        ClientFile { path: Path::new(&folder).join("hosts.toml"), text: hosts_toml(edges, Some(upstream)) }
    });
    std::iter::once(default).chain(each).collect()
}

/// The edges first, then the origin. Without an upstream containerd falls back to the registry that the image names.
fn hosts_toml(edges: &[Edge], upstream: Option<&Upstream>) -> String {
    let mut text = format!("{MARK}\n");
    if let Some(upstream) = upstream {
        text.push_str(&format!("server = {}\n", quoted(without_slash(&upstream.url))));
    }
    for edge in edges {
        text.push_str(&format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", quoted(&edge.origin)));
        text.push_str(&format!("dial_timeout = {}\n", quoted(CONTAINERD_DIAL_TIMEOUT)));
        if let Some(ca_file) = &edge.ca_file {
            text.push_str(&format!("ca = {}\n", quoted(ca_file)));
        }
    }
    text
}

/// One table for each upstream: the edges are tried first, then the origin.
fn podman(config: &Config, edges: &[Edge]) -> String {
    let mut text = format!("{MARK}\n");
    for upstream in &config.upstreams {
        // Podman knows where Docker Hub is. It cannot ask below a path prefix (`/prefix/v2/`), so then the name has to do.
        let location = match authority(&upstream.url) {
            Some(authority) if upstream.name != "docker.io" && upstream.url.path() == "/" => authority,
            _ => upstream.name.clone(),
        };
        text.push_str(&format!("\n[[registry]]\nprefix = {}\nlocation = {}\n", quoted(&upstream.name), quoted(&location)));
        if upstream.url.scheme() == "http" {
            text.push_str("insecure = true\n");
        }
        for edge in edges {
            let mirror = format!("{}/{}", edge.authority, upstream.path_prefix());
            text.push_str(&format!("\n[[registry.mirror]]\nlocation = {}\n", quoted(&mirror)));
            if edge.plain {
                text.push_str("insecure = true\n");
            }
        }
    }
    text
}

/// The daemon's settings with the edges as the first mirrors; what else they say stays. `None` if they have another form.
fn docker(edges: &[Edge], daemon_json: &str) -> Option<String> {
    let mut settings: Map<String, Value> = serde_json::from_str(daemon_json).ok()?;
    for edge in edges.iter().rev() {
        put_first(&mut settings, "registry-mirrors", &edge.origin)?;
        if edge.plain {
            put_first(&mut settings, "insecure-registries", &edge.authority)?;
        }
    }
    Some(format!("{:#}\n", Value::Object(settings)))
}

fn put_first(settings: &mut Map<String, Value>, key: &str, text: &str) -> Option<()> {
    let list = settings.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
    list.retain(|other| other.as_str().is_none_or(|other| other.trim_end_matches('/') != text));
    list.insert(0, text.into());
    Some(())
}

fn docker_hub(config: &Config) -> Option<&Upstream> {
    config.upstreams.iter().find(|upstream| upstream.name == "docker.io")
}

/// What the files cannot say.
pub fn notes(config: &Config, arguments: &Arguments) -> Vec<String> {
    let edges = Edge::all(arguments).unwrap_or_default();
    let mut notes = Vec::new();
    let certificates = match arguments.format {
        Format::Containerd => None,
        Format::Podman => Some("/etc/containers/certs.d"),
        Format::Docker => Some("/etc/docker/certs.d"),
    };
    for edge in &edges {
        if let Some((folder, ca_file)) = certificates.zip(edge.ca_file.as_ref()) {
            notes.push(format!("copy {ca_file} to {folder}/{}/ca.crt", edge.authority));
        }
    }
    match arguments.format {
        Format::Containerd => {
            notes.push("containerd must have config_path = \"/etc/containerd/certs.d\" in its registry settings".to_owned())
        }
        Format::Podman => {}
        Format::Docker => {
            for edge in &edges {
                let host = edge.authority.rsplit_once(':').map_or(edge.authority.as_str(), |(host, _)| host);
                let known = |name: &String| name.eq_ignore_ascii_case(host) || name.eq_ignore_ascii_case(&edge.authority);
                if !docker_hub(config).is_some_and(|upstream| upstream.hosts.iter().any(known)) {
                    notes.push(format!(
                        "docker does not say that it means docker.io: put {host:?} among the hosts of that upstream at the edge"
                    ));
                }
            }
            notes.push("restart docker to have it read daemon.json".to_owned());
        }
    }
    notes
}

fn write_all(folder: &Path, files: Vec<ClientFile>, format: Format) -> Result<(), MirrorConfigError> {
    // All are looked at before the first is written. daemon.json belongs to others too, and what they wrote is in the new text.
    if format != Format::Docker {
        for path in files.iter().map(|file| folder.join(&file.path)) {
            if read_if_there(&path)?.is_some_and(|text| !text.starts_with(MARK)) {
                return Err(MirrorConfigError::Foreign(path));
            }
        }
    }
    files.into_iter().try_for_each(|file| {
        let path = folder.join(file.path);
        replace(&path, &file.text).map_err(|error| MirrorConfigError::Io(path, error))
    })
}

fn read_if_there(path: &Path) -> Result<Option<String>, MirrorConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(MirrorConfigError::Io(path.to_owned(), error)),
    }
}

/// Writes beside the file and renames, so that the engine sees the old file or the new one. A link stays, and so do the permissions.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{}.new", std::process::id()));
    // Left by one that was killed: in a container every process has the same number.
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::File::create_new(&beside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        if let Ok(earlier) = std::fs::metadata(&path) {
            file.set_permissions(earlier.permissions())?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, &path)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let text = "[[upstream]]\nname = 'docker.io'\nurl = 'https://registry-1.docker.io'\nhosts = ['hub.example.com']
            [[upstream]]\nname = 'registry.local:5000'\nurl = 'http://10.0.0.9:5000'
            [[upstream]]\nname = 'deep.io'\nurl = 'https://deep.io/prefix/'";
        Config::parse(text, Path::new(""), &|_| None).unwrap()
    }

    /// For edges with spaces between them.
    pub(super) fn arguments(edge: &str, format: Format) -> Arguments {
        Arguments {
            edge: edge.split(' ').map(|edge| edge.parse().unwrap()).collect(),
            zone: None,
            nearest: false,
            format,
            ca_file: None,
            ca_copy: None,
            output: None,
            default_only: false,
            hold: false,
            remove: false,
        }
    }

    fn tables(edge: &str, format: Format, ca_file: Option<&str>) -> Vec<(String, toml::Table)> {
        let arguments = Arguments { ca_file: ca_file.map(PathBuf::from), ..arguments(edge, format) };
        let files = files(&config(), &arguments, None).unwrap();
        files.into_iter().map(|file| (file.path.display().to_string(), file.text.parse().unwrap())).collect()
    }

    fn toml(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn containerd_gets_a_default_and_a_folder_for_each_upstream() {
        let host = "[host.\"https://edge.example.com\"]\ncapabilities = ['pull', 'resolve']\ndial_timeout = '5s'\nca = '/ca.crt'";
        assert_eq!(
            tables("https://edge.example.com:443/", Format::Containerd, Some("/ca.crt")),
            [
                ("_default/hosts.toml".to_owned(), toml(host)),
                ("docker.io/hosts.toml".to_owned(), toml(&format!("server = 'https://registry-1.docker.io'\n{host}"))),
                ("registry.local_5000_/hosts.toml".to_owned(), toml(&format!("server = 'http://10.0.0.9:5000'\n{host}"))),
                ("deep.io/hosts.toml".to_owned(), toml(&format!("server = 'https://deep.io/prefix'\n{host}"))),
            ]
        );
        let plain = tables("http://127.0.0.1:5000", Format::Containerd, None);
        let expected = "[host.\"http://127.0.0.1:5000\"]\ncapabilities = ['pull', 'resolve']\ndial_timeout = '5s'";
        assert_eq!(plain[0].1, toml(expected));
    }

    #[test]
    fn podman_addresses_the_edge_by_prefix_and_falls_back() {
        let expected = "[[registry]]\nprefix = 'docker.io'\nlocation = 'docker.io'
            [[registry.mirror]]\nlocation = '127.0.0.1:5000/docker.io'\ninsecure = true
            [[registry]]\nprefix = 'registry.local:5000'\nlocation = '10.0.0.9:5000'\ninsecure = true
            [[registry.mirror]]\nlocation = '127.0.0.1:5000/registry.local_5000'\ninsecure = true
            [[registry]]\nprefix = 'deep.io'\nlocation = 'deep.io'
            [[registry.mirror]]\nlocation = '127.0.0.1:5000/deep.io'\ninsecure = true";
        assert_eq!(tables("http://127.0.0.1:5000", Format::Podman, None), [("50-outport.conf".to_owned(), toml(expected))]);
        let secure = &tables("https://edge", Format::Podman, None)[0].1;
        assert!(secure["registry"][0]["mirror"][0].get("insecure").is_none());
    }

    #[test]
    fn docker_keeps_its_other_settings() {
        let docker = |edge: &str, earlier: Option<&str>| {
            let files = files(&config(), &arguments(edge, Format::Docker), earlier)?;
            Ok::<Value, MirrorConfigError>(serde_json::from_str(&files[0].text).unwrap())
        };
        assert_eq!(
            docker("https://hub.example.com", None).unwrap(),
            serde_json::json!({ "registry-mirrors": ["https://hub.example.com"] })
        );
        let earlier =
            r#"{"debug": true, "registry-mirrors": ["https://other", "http://edge:5000/"], "insecure-registries": ["10.0.0.0/8"]}"#;
        assert_eq!(
            docker("http://edge:5000", Some(earlier)).unwrap(),
            serde_json::json!({
                "debug": true,
                "registry-mirrors": ["http://edge:5000", "https://other"],
                "insecure-registries": ["edge:5000", "10.0.0.0/8"],
            })
        );
        for broken in ["", "[]", "{\"registry-mirrors\": 5}"] {
            assert!(matches!(docker("http://edge", Some(broken)), Err(MirrorConfigError::DaemonJson)), "{broken}");
        }
        let none = Config::parse("", Path::new(""), &|_| None).unwrap();
        assert!(matches!(files(&none, &arguments("http://edge", Format::Docker), None), Err(MirrorConfigError::NoDockerHub)));
    }

    #[test]
    fn several_edges_are_tried_in_order_and_then_the_origin() {
        let edges = "https://near.example.com http://far.example.com:5000";
        let places = |text: &str, wanted: [&str; 2]| wanted.map(|word| text.find(word).unwrap_or_else(|| panic!("{word}: {text}")));
        for format in [Format::Containerd, Format::Podman, Format::Docker] {
            let files = files(&config(), &arguments(edges, format), None).unwrap();
            // Docker's file has another list before that of its mirrors.
            let text = files[0].text.rsplit("registry-mirrors").next().unwrap_or_default();
            let [near, far] = places(text, ["near.example.com", "far.example.com:5000"]);
            assert!(near < far, "{text}");
        }
        let hosts = toml(
            "[host.'https://near.example.com']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '5s'
            [host.'http://far.example.com:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '5s'",
        );
        assert_eq!(tables(edges, Format::Containerd, None)[0].1, hosts);
        let notes = notes(&config(), &arguments(edges, Format::Docker)).join("\n");
        assert!(notes.contains("near.example.com") && notes.contains("far.example.com"), "{notes}");
    }

    #[test]
    fn an_edge_is_a_scheme_a_host_and_a_port() {
        for edge in ["ftp://edge", "https://edge/path", "https://edge/?a", "https://edge/#a", "https://u@edge", "https://:p@edge"] {
            let refused = files(&config(), &arguments(edge, Format::Containerd), None);
            assert!(matches!(refused, Err(MirrorConfigError::Edge)), "{edge}");
        }
    }

    #[test]
    fn notes_tell_what_files_cannot() {
        let notes =
            |edge: &str, format| notes(&config(), &Arguments { ca_file: Some("/ca.crt".into()), ..arguments(edge, format) }).join("\n");
        assert!(notes("https://edge:8443", Format::Docker).contains("copy /ca.crt to /etc/docker/certs.d/edge:8443/ca.crt"));
        assert!(notes("https://edge:8443", Format::Docker).contains("put \"edge\" among the hosts"));
        assert!(!notes("https://hub.example.com:8443", Format::Docker).contains("among the hosts"));
        assert!(notes("https://edge", Format::Podman).contains("/etc/containers/certs.d/edge/ca.crt"));
        assert!(notes("https://edge", Format::Containerd).contains("config_path"));
    }

    #[test]
    fn own_files_are_replaced_and_others_never() {
        let folder = tempfile::tempdir().unwrap();
        let write = |format, edge: &str| {
            let arguments = Arguments { output: Some(folder.path().to_owned()), ..arguments(edge, format) };
            deliver(&config(), &arguments, &mut Vec::new())
        };
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        for edge in ["https://one", "https://two"] {
            write(Format::Containerd, edge).unwrap();
            assert!(read("docker.io/hosts.toml").contains(edge));
        }
        std::fs::write(folder.path().join("docker.io/hosts.toml"), "server = 'mine'").unwrap();
        assert!(matches!(write(Format::Containerd, "https://three"), Err(MirrorConfigError::Foreign(_))));
        assert_eq!(read("docker.io/hosts.toml"), "server = 'mine'");
        assert!(read("_default/hosts.toml").contains("https://two"), "nothing is written when one file is refused");

        let (daemon, real) = (folder.path().join("daemon.json"), folder.path().join("real.json"));
        std::fs::write(&real, "{\"debug\": true}").unwrap();
        std::fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&real, &daemon).unwrap();
        write(Format::Docker, "https://one").unwrap();
        assert!(daemon.is_symlink());
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&real.metadata().unwrap()) & 0o777, 0o600);
        assert!(read("daemon.json").contains("debug") && read("daemon.json").contains("https://one"));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
    }

    #[test]
    fn what_is_printed_names_each_file() {
        let mut output = Vec::new();
        deliver(&config(), &arguments("https://edge", Format::Containerd), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        for path in ["# _default/hosts.toml\n", "# docker.io/hosts.toml\n", "# registry.local_5000_/hosts.toml\n"] {
            assert!(output.contains(path), "{output}");
        }
    }
}
