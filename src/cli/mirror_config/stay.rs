//! containerd's `_default/hosts.toml` on a node, for as long as somebody holds it there: what the chart's DaemonSet of nodes runs.
//!
//! What somebody else wrote stays, and so does what lies beside it. Without `_default` containerd asks the registries themselves: a
//! node from which it was removed pulls as it did before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Arguments, Edge, MARK, MirrorConfigError, hosts_toml, read_if_there, replace};

/// How often the files are looked at: somebody who cleans up a node, or installs it anew, may take them away.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The folder that containerd reads for every registry without one of its own.
const DEFAULT: &str = "_default";
const HOSTS: &str = "hosts.toml";
/// The copy of the edge's authority, beside [`HOSTS`], which names it by this relative path: the node has another path to it than
/// this process.
const AUTHORITY: &str = "outport-ca.crt";

/// Writes `_default`, and with `--hold` keeps it there until the process is told to end.
pub(super) fn put_default(folder: &Path, arguments: &Arguments) -> Result<(), MirrorConfigError> {
    let mut edges = Edge::all(arguments).ok_or(MirrorConfigError::Edge)?;
    if arguments.ca_copy.is_some() {
        edges.iter_mut().for_each(|edge| edge.ca_file = Some(AUTHORITY.to_owned()));
    }
    let hosts = hosts_toml(&edges, None);
    let files = || {
        let authority =
            arguments.ca_copy.as_ref().map(|path| fs::read_to_string(path).map_err(|why| MirrorConfigError::Io(path.clone(), why)));
        let mut files = Vec::new();
        // The authority first: containerd reads a file as soon as it is there.
        if let Some(pem) = authority.transpose()? {
            files.push((folder.join(DEFAULT).join(AUTHORITY), format!("{MARK}\n{pem}")));
        }
        files.push((folder.join(DEFAULT).join(HOSTS), hosts.clone()));
        Ok(files)
    };
    put(&files()?)?;
    if arguments.hold { hold(folder, files) } else { Ok(()) }
}

/// All are looked at before the first is written.
fn put(files: &[(PathBuf, String)]) -> Result<usize, MirrorConfigError> {
    let mut changed = Vec::new();
    for (path, text) in files {
        match read_if_there(path)? {
            Some(found) if !found.starts_with(MARK) => return Err(MirrorConfigError::Foreign(path.clone())),
            Some(found) if found == *text => {}
            _ => changed.push((path, text)),
        }
    }
    changed.iter().try_for_each(|(path, text)| replace(path, text).map_err(|why| MirrorConfigError::Io(path.to_path_buf(), why)))?;
    Ok(changed.len())
}

/// A fault while it holds is told and tried again: pulls go on at the origins meanwhile.
fn hold(folder: &Path, files: impl Fn() -> Result<Vec<(PathBuf, String)>, MirrorConfigError>) -> Result<(), MirrorConfigError> {
    let unable = |why| MirrorConfigError::Io("signals".into(), why);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unable)?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        println!("containerd pulls through the edge until this ends: {}", folder.join(DEFAULT).join(HOSTS).display());
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => match files().and_then(|files| put(&files)) {
                    Ok(0) => {}
                    Ok(_) => println!("the files were changed or gone: they are there again"),
                    Err(error) => eprintln!("{error}"),
                },
            }
        }
    });
    ended.map_err(unable)?;
    remove(folder)
}

/// Takes away what bears the mark, and the folder if nothing else is in it.
pub(super) fn remove(folder: &Path) -> Result<(), MirrorConfigError> {
    let folder = folder.join(DEFAULT);
    // The authority last: as long as there are hosts they name it.
    for path in [folder.join(HOSTS), folder.join(AUTHORITY)] {
        if read_if_there(&path)?.is_some_and(|text| text.starts_with(MARK)) {
            fs::remove_file(&path).map_err(|why| MirrorConfigError::Io(path, why))?;
        }
    }
    match fs::remove_dir(&folder) {
        Err(why) if !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(MirrorConfigError::Io(folder, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mirror_config::{Format, tests};

    fn arguments(folder: &Path, ca_copy: Option<PathBuf>) -> Arguments {
        let output = Some(folder.to_owned());
        Arguments { ca_copy, output, default_only: true, ..tests::arguments("https://10.0.0.7:8443", Format::Containerd) }
    }

    #[test]
    fn the_default_comes_and_goes_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let (certs, pem) = (folder.path().join("certs.d"), folder.path().join("ca.pem"));
        fs::write(&pem, "-----BEGIN CERTIFICATE-----\n").unwrap();
        put_default(&certs, &arguments(&certs, Some(pem))).unwrap();
        let hosts: toml::Table = fs::read_to_string(certs.join("_default/hosts.toml")).unwrap().parse().unwrap();
        assert_eq!(hosts["host"]["https://10.0.0.7:8443"]["ca"].as_str(), Some("outport-ca.crt"));
        assert!(fs::read_to_string(certs.join("_default/outport-ca.crt")).unwrap().contains("BEGIN CERTIFICATE"));
        fs::create_dir(certs.join("docker.io")).unwrap();
        remove(&certs).unwrap();
        let left: Vec<_> = fs::read_dir(&certs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["docker.io"]);
        remove(&certs).unwrap();
    }

    #[test]
    fn what_somebody_else_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("_default/hosts.toml");
        fs::create_dir(folder.path().join("_default")).unwrap();
        fs::write(&hosts, "server = 'mine'").unwrap();
        let refused = put_default(folder.path(), &arguments(folder.path(), None));
        assert!(matches!(&refused, Err(MirrorConfigError::Foreign(path)) if *path == hosts));
        remove(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&hosts).unwrap(), "server = 'mine'");
    }
}
