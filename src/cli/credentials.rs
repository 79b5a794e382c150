//! Docker's credentials, which podman, skopeo, buildah and Helm read too: `config.json`, or the credential helper that it names
//! (docker's "docker login" reference; the helpers' protocol is docker-credential-helpers').

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::identity::REFRESH_USER;

/// How docker's own helpers are told that a secret is a refresh token.
const HELPERS_USER: &str = "<token>";
/// The largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// How long a helper may take: it may ask its user something.
const HELPER_TIME: Duration = Duration::from_secs(120);
const HELPER_PAUSE: Duration = Duration::from_millis(10);

/// Why a credential was not stored or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("neither DOCKER_CONFIG nor HOME says where docker's configuration is")]
    NoHome,
    #[error("{}: {why}", path.display())]
    Io { path: PathBuf, why: io::Error },
    #[error("{} is no JSON object, or its auths is none: mend it first", .0.display())]
    Unreadable(PathBuf),
    #[error("{name}: {why}")]
    Helper { name: String, why: String },
}

/// Where a credential went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Helper(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Helper(name) => f.write_str(name),
        }
    }
}

/// A `config.json` of docker's.
pub(super) struct DockerConfig {
    path: PathBuf,
    /// Where helpers are looked for; `None`: where the system looks.
    helpers: Option<PathBuf>,
}

impl DockerConfig {
    /// The one that docker uses: in `$DOCKER_CONFIG`, else in `~/.docker`.
    pub(super) fn find(environment: impl Fn(&str) -> Option<String>) -> Result<DockerConfig, CredentialError> {
        let named = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = named("DOCKER_CONFIG").or_else(|| named("HOME").map(|home| home.join(".docker")));
        Ok(DockerConfig { path: folder.ok_or(CredentialError::NoHome)?.join("config.json"), helpers: None })
    }

    /// Stores a refresh token for a registry, with its helper if it has one, else in the file.
    pub(super) fn store(&self, registry: &str, token: &str) -> Result<Place, CredentialError> {
        let mut config = self.read()?;
        let helper = helper(&config, registry);
        let entry = match &helper {
            Some(helper) => {
                let credential = json!({ "ServerURL": registry, "Username": HELPERS_USER, "Secret": token });
                self.run(helper, "store", &credential.to_string())?;
                json!({})
            }
            // The name alone, as docker itself leaves it beside a token.
            None => json!({ "auth": STANDARD.encode(format!("{REFRESH_USER}:")), "identitytoken": token }),
        };
        self.auths(&mut config)?.insert(registry.to_owned(), entry);
        self.write(&config)?;
        Ok(helper.map_or_else(|| Place::File(self.path.clone()), Place::Helper))
    }

    /// Removes what is stored for a registry, and says from where; `None`: nothing was there.
    pub(super) fn erase(&self, registry: &str) -> Result<Option<Place>, CredentialError> {
        let mut config = self.read()?;
        let helper = helper(&config, registry);
        let was_there = self.auths(&mut config)?.remove(registry).is_some();
        if let Some(helper) = &helper {
            self.run(helper, "erase", registry)?;
        }
        if was_there {
            self.write(&config)?;
        }
        Ok(match helper {
            Some(helper) => Some(Place::Helper(helper)),
            None => was_there.then(|| Place::File(self.path.clone())),
        })
    }

    /// A file that is not there says nothing.
    fn read(&self) -> Result<Map<String, Value>, CredentialError> {
        let text = match fs::metadata(&self.path) {
            Ok(found) if found.len() > MAX_CONFIG_BYTES => return Err(CredentialError::Unreadable(self.path.clone())),
            Ok(_) => fs::read(&self.path).map_err(|why| self.failed(why))?,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(why) => return Err(self.failed(why)),
        };
        serde_json::from_slice(&text).map_err(|_| CredentialError::Unreadable(self.path.clone()))
    }

    fn auths<'a>(&self, config: &'a mut Map<String, Value>) -> Result<&'a mut Map<String, Value>, CredentialError> {
        let auths = config.entry("auths").or_insert_with(|| json!({}));
        auths.as_object_mut().ok_or_else(|| CredentialError::Unreadable(self.path.clone()))
    }

    /// In one step, for this user's eyes only. Where the file is a link, what it leads to is replaced.
    fn write(&self, config: &Map<String, Value>) -> Result<(), CredentialError> {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
        serde::Serialize::serialize(config, &mut serializer).map_err(|why| self.failed(io::Error::other(why)))?;
        let new = folder.join(format!(".config.json.{}", ulid::Ulid::generate()));
        let replace = || {
            fs::create_dir_all(folder)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        replace().map_err(|why| {
            // It may never have been made.
            let _ = fs::remove_file(&new);
            self.failed(why)
        })
    }

    fn failed(&self, why: io::Error) -> CredentialError {
        CredentialError::Io { path: self.path.clone(), why }
    }

    /// Runs a helper; what it is told goes to its standard input, where no other user sees it.
    fn run(&self, name: &str, action: &str, input: &str) -> Result<(), CredentialError> {
        let failed = |why: String| CredentialError::Helper { name: name.to_owned(), why };
        let program = self.helpers.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
        let mut command = Command::new(program);
        command.arg(action).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|why| failed(why.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read has its own reasons: its exit code tells.
            let _ = stdin.write_all(input.as_bytes());
        }
        let started = Instant::now();
        loop {
            match child.try_wait().map_err(|why| failed(why.to_string()))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(failed(format!("{action} failed, {status}"))),
                None if started.elapsed() > HELPER_TIME => {
                    // It may have ended just now.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("{action} took more than {} s", HELPER_TIME.as_secs())));
                }
                None => std::thread::sleep(HELPER_PAUSE),
            }
        }
    }
}

/// The program that keeps a registry's credential, if the configuration names one. Its name is no path.
fn helper(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let of_registry = config.get("credHelpers").and_then(|helpers| helpers.get(registry));
    let name = of_registry.or_else(|| config.get("credsStore"))?.as_str()?;
    (!name.is_empty() && !name.contains('/')).then(|| format!("docker-credential-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HOST: &str = "registry.example.com:5000";

    struct Bench {
        folder: tempfile::TempDir,
        docker: DockerConfig,
    }

    impl Bench {
        fn new(config: Option<&str>) -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let named = |name: &str| (name == "DOCKER_CONFIG").then(|| folder.path().join("docker").display().to_string());
            let docker = DockerConfig { helpers: Some(folder.path().to_owned()), ..DockerConfig::find(named).unwrap() };
            if let Some(config) = config {
                fs::create_dir(folder.path().join("docker")).unwrap();
                fs::write(&docker.path, config).unwrap();
            }
            Bench { folder, docker }
        }

        fn config(&self) -> Value {
            serde_json::from_slice(&fs::read(&self.docker.path).unwrap()).unwrap()
        }

        /// A helper that writes down what it was told.
        fn helper(&self, name: &str, exit: u8) -> PathBuf {
            let (path, heard) = (self.folder.path().join(name), self.folder.path().join(format!("{name}.heard")));
            fs::write(&path, format!("#!/bin/sh\n(echo \"$1\"; cat) >{}\nexit {exit}\n", heard.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            heard
        }
    }

    #[test]
    fn a_token_is_kept_in_the_file_beside_what_stands_there() {
        let bench = Bench::new(Some(r#"{"auths":{"other":{"auth":"eDp5"}},"detachKeys":"ctrl-a","proxies":{"b":1,"a":2}}"#));
        assert_eq!(bench.docker.store(HOST, "t1").unwrap(), Place::File(bench.docker.path.clone()));
        bench.docker.store(HOST, "t2").unwrap();
        let auth = "MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==";
        let expected = json!({
            "auths": { "other": { "auth": "eDp5" }, HOST: { "auth": auth, "identitytoken": "t2" } },
            "detachKeys": "ctrl-a", "proxies": { "b": 1, "a": 2 },
        });
        assert_eq!(bench.config(), expected);
        assert_eq!(fs::metadata(&bench.docker.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(bench.docker.path.parent().unwrap()).unwrap().count(), 1, "nothing is left lying about");
        assert!(bench.docker.erase(HOST).unwrap().is_some());
        assert_eq!(bench.config()["auths"], json!({ "other": { "auth": "eDp5" } }));
        assert_eq!(bench.docker.erase(HOST).unwrap(), None);
    }

    #[test]
    fn a_folder_is_made_and_a_link_is_followed() {
        let bench = Bench::new(None);
        bench.docker.store(HOST, "t").unwrap();
        assert_eq!(bench.config()["auths"][HOST]["identitytoken"], "t");
        let real = bench.folder.path().join("real.json");
        fs::rename(&bench.docker.path, &real).unwrap();
        std::os::unix::fs::symlink(&real, &bench.docker.path).unwrap();
        bench.docker.store("other", "u").unwrap();
        assert!(fs::symlink_metadata(&bench.docker.path).unwrap().is_symlink());
        assert!(fs::read_to_string(real).unwrap().contains("\"u\""));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_alone() {
        for text in ["", "[]", "{", r#"{"auths":[]}"#] {
            let bench = Bench::new(Some(text));
            assert!(matches!(bench.docker.store(HOST, "t"), Err(CredentialError::Unreadable(_))), "{text}");
            assert_eq!(fs::read_to_string(&bench.docker.path).unwrap(), text);
        }
    }

    #[test]
    fn a_helper_keeps_what_the_file_does_not() {
        let config = format!(r#"{{"credsStore":"all","credHelpers":{{"{HOST}":"one"}}}}"#);
        let bench = Bench::new(Some(&config));
        let (one, all) = (bench.helper("docker-credential-one", 0), bench.helper("docker-credential-all", 0));
        assert_eq!(bench.docker.store(HOST, "t").unwrap(), Place::Helper("docker-credential-one".to_owned()));
        let told = fs::read_to_string(&one).unwrap();
        let told = told.strip_prefix("store\n").unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(told, json!({ "ServerURL": HOST, "Username": "<token>", "Secret": "t" }));
        assert_eq!(bench.config()["auths"][HOST], json!({}), "docker lists it, and the file does not have it");
        assert!(bench.docker.erase(HOST).unwrap().is_some());
        assert_eq!(fs::read_to_string(&one).unwrap(), format!("erase\n{HOST}"));
        assert!(!all.exists());
        bench.docker.store("other", "t").unwrap();
        assert!(all.exists());
    }

    #[test]
    fn a_helper_that_fails_stores_nothing() {
        let bench = Bench::new(Some(r#"{"credsStore":"broken"}"#));
        assert!(matches!(bench.docker.store(HOST, "t"), Err(CredentialError::Helper { .. })), "there is no such program");
        bench.helper("docker-credential-broken", 1);
        let error = bench.docker.store(HOST, "secret-token").unwrap_err().to_string();
        assert!(error.contains("docker-credential-broken") && !error.contains("secret-token"), "{error}");
        assert_eq!(bench.config(), json!({ "credsStore": "broken" }));
        // A name that is a path is none.
        let bench = Bench::new(Some(r#"{"credsStore":"../evil"}"#));
        assert!(matches!(bench.docker.store(HOST, "t").unwrap(), Place::File(_)));
    }
}
