//! `outport serve`: starts the edge, reloads its configuration, and drains it on SIGTERM.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{FAILED, UNAVAILABLE, USAGE, logging};
use crate::clock::Clock;
use crate::config::{Config, Loaded, Signal, Watcher, process_environment};
use crate::edge::Edge;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::otlp::Lines;

/// Tasks that a thread runs between two looks at what sockets have to say. With tokio's 61 a small request is seen only after as many
/// blobs have had their turns (256 KiB when this was measured): beside 64 pulls a core answers 280 manifests a second, with this 1,900, and
/// sends as much (`tests/bench/run`, "latency under load"). A look takes less than a microsecond.
const EVENT_INTERVAL: u32 = 4;

pub(super) fn run(config: Option<&Path>) -> ExitCode {
    let loaded = match Loaded::load(config, &process_environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(EVENT_INTERVAL).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outport: no runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    runtime.block_on(serve(config, loaded))
}

/// Raises the soft limit of open files to the hard one. The usual soft limit of 1,024 is for programs that use select(2); each
/// client takes a descriptor, and so does each blob that is being served.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: Option<&Path>, loaded: Loaded) -> ExitCode {
    let metrics = Metrics::new();
    let journal = if loaded.config.log.central { Journal::with_archive(Clock::system(), &metrics) } else { Journal::default() };
    let exported = loaded.config.otlp.as_ref().filter(|otlp| otlp.sends(Signal::Logs)).map(|otlp| Lines::new(otlp.queue, metrics.clone()));
    let log = match logging::start(&loaded.config.log, &metrics, journal.clone(), exported.clone()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("outport: {error}");
            return ExitCode::from(USAGE);
        }
    };
    raise_open_files_limit();
    for warning in loaded.warning_lines() {
        tracing::warn!("{warning}");
    }
    let signals = (Watcher::new(config, process_environment, &loaded), signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut watcher, mut terminate, mut interrupt) = match signals {
        (Ok(watcher), Ok(terminate), Ok(interrupt)) => (watcher, terminate, interrupt),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
            eprintln!("outport: signals cannot be received: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let mut edge = match Edge::start(loaded.config.clone(), metrics.clone(), journal.clone()).await {
        Ok(edge) => edge,
        Err(error) => {
            eprintln!("outport: {error}");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    exported.iter().for_each(|lines| edge.export_lines(lines));
    greet(&edge, &loaded.config);
    let (mut superseded, mut config_in_force) = (edge.superseded(), loaded.config.clone());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = superseded.wait() => {
                tracing::warn!("starting again in the incarnation that is in force");
                edge.shutdown().await;
                edge = match Edge::start(config_in_force.clone(), metrics.clone(), journal.clone()).await {
                    Ok(edge) => edge,
                    Err(error) => {
                        eprintln!("outport: {error}");
                        return ExitCode::from(UNAVAILABLE);
                    }
                };
                exported.iter().for_each(|lines| edge.export_lines(lines));
                superseded = edge.superseded();
            },
            changed = watcher.changed() => match changed {
                Ok(loaded) => {
                    for warning in loaded.warning_lines() {
                        tracing::warn!("{warning}");
                    }
                    if let Err(error) = log.set_level(&loaded.config.log.level) {
                        tracing::error!(%error, "the log's level stays as it was");
                    }
                    config_in_force = loaded.config.clone();
                    edge.reload(loaded.config);
                }
                Err(errors) => edge.reject(&errors),
            },
        }
    }
    tracing::info!("draining");
    edge.shutdown().await;
    ExitCode::SUCCESS
}

/// Tells a newcomer what to do next. Goes to standard output; logs go to standard error.
fn greet(edge: &Edge, config: &Config) {
    let address = edge.registry_address();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let base =
        config.listen.public_url.as_ref().map_or(format!("{scheme}://{address}"), |url| url.as_str().trim_end_matches('/').to_owned());
    let host = base.split_once("://").map_or(base.as_str(), |(_, host)| host);
    let example = config.upstreams.first().map_or("docker.io", |upstream| upstream.name.as_str()).replace(':', "_");
    let names = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>().join(", ");
    let push = if config.access.anonymous_push.is_empty() { " (as a [[principal]] that may push)" } else { "" };
    let insecure = if scheme == "http" { " --tls-verify=false" } else { "" };
    let text = format!(
        "outport {version} serves {base}\n\
         \n\
         \x20 upstreams   {names}\n\
         \x20 pull        podman pull{insecure} {host}/{example}/library/debian:12\n\
         \x20 push        podman push{insecure} IMAGE {host}/team/app:1{push}\n\
         \x20 containerd  outport mirror-config --edge {base} --output /etc/containerd/certs.d\n\
         \x20 health      http://{ops}/readyz   metrics  http://{ops}/metrics\n\
         \x20 bucket      {bucket}\n\
         \x20 cache       {cache}\n\
         \n\
         Stop it with Ctrl-C.\n",
        version = env!("CARGO_PKG_VERSION"),
        ops = edge.ops_address(),
        bucket = config.bucket.place,
        cache = config.data_dir.display(),
    );
    // Nobody may be reading.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
