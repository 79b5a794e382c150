//! Pulls one image or one blob as a container engine does, and prints one line of JSON with its times.
//!
//! An image: its manifest, then its blobs, several at a time, each on a connection that is kept. Bodies are discarded in the kernel, so
//! that only the server is measured, or read and verified against their digests, as every engine does before it uses them.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bench::client::{Body, Client};
use bench::options::Options;
use bench::percentile;
use serde_json::{Value, json};

const USAGE: &str =
    "pull --address HOST:PORT --repository NAME (--reference TAG | --blob DIGEST) [--at-once 3] [--bodies discard|verify] [--host NAME]";

struct Source {
    address: String,
    host: String,
    repository: String,
    bodies: Body,
}

/// How long each blob took to begin, in seconds, and how many bytes came.
#[derive(Default)]
struct Pulled {
    first_bytes: Vec<f64>,
    size_bytes: u64,
}

fn main() {
    let options = Options::from_command_line(USAGE, &["address", "repository", "reference", "blob", "at-once", "bodies", "host"]);
    let address: String = options.required("address");
    let host = options.optional("host").unwrap_or_else(|| address.clone());
    let bodies = options.optional("bodies").unwrap_or(Body::Discard);
    let source = Source { address, host, repository: options.required("repository"), bodies };
    let at_once = options.optional("at-once").unwrap_or(3).max(1);
    let started = Instant::now();
    let outcome = match options.optional::<String>("blob") {
        Some(digest) => pull_blobs(&source, &[digest], 1),
        None => list_blobs(&source, &options.required::<String>("reference")).and_then(|blobs| pull_blobs(&source, &blobs, at_once)),
    };
    let mut pulled = outcome.unwrap_or_else(|error| {
        eprintln!("pull: {error}");
        std::process::exit(1)
    });
    let first_byte_ms = percentile(&mut pulled.first_bytes, 0.5) * 1e3;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "seconds": seconds, "first_byte_ms": first_byte_ms, "bytes": pulled.size_bytes, "blobs": pulled.first_bytes.len() })
    );
}

/// The config and the layers of an image, in the order in which engines ask for them.
fn list_blobs(source: &Source, reference: &str) -> io::Result<Vec<String>> {
    let manifest =
        Client::new(&source.address, &source.host).get(&format!("/v2/{}/manifests/{reference}", source.repository), Body::Keep)?;
    let manifest: Value = serde_json::from_slice(&manifest.kept)?;
    let digest = |descriptor: &Value| descriptor.get("digest").and_then(Value::as_str).map(str::to_owned);
    let layers = manifest.get("layers").and_then(Value::as_array).ok_or_else(|| io::Error::other("not the manifest of an image"))?;
    let blobs: Option<Vec<_>> = manifest.get("config").into_iter().chain(layers).map(digest).collect();
    blobs.ok_or_else(|| io::Error::other("a descriptor without a digest"))
}

fn pull_blobs(source: &Source, blobs: &[String], at_once: usize) -> io::Result<Pulled> {
    let (next, pulled) = (AtomicUsize::new(0), Mutex::new(Pulled::default()));
    let work = || -> io::Result<()> {
        let mut client = Client::new(&source.address, &source.host);
        while let Some(digest) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = client.get(&format!("/v2/{}/blobs/{digest}", source.repository), source.bodies)?;
            if answer.sha256.as_ref().is_some_and(|found| *digest != format!("sha256:{found}")) {
                return Err(io::Error::other(format!("{digest}: the bytes are others")));
            }
            let mut pulled = pulled.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            pulled.first_bytes.push(answer.first_byte.as_secs_f64());
            pulled.size_bytes += answer.size_bytes;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker failed"))))
    })?;
    Ok(pulled.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}
