//! Pushes one image of layers that no compression makes smaller, and prints one line of JSON with its times.
//!
//! Layers are made while they are sent, so that their size is nobody's memory: blocks that differ in a stamp. Their digests are known
//! before the clock starts.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench::client::{Client, Reply};
use bench::options::Options;
use serde_json::json;
use sha2::{Digest, Sha256};

const USAGE: &str =
    "push --address HOST:PORT --repository NAME --layers COUNT --layer-bytes SIZE [--way patch|put] [--seed 1] [--at-once 3]";

const BLOCK_BYTES: usize = 1 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// How the bytes of a blob are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// POST, one streamed PATCH and an empty PUT: docker, podman, skopeo.
    Patch,
    /// POST and one PUT: containerd, oras, helm.
    Put,
}

/// Bytes that are made anew whenever they are needed.
struct Layer {
    seed: u64,
    number: u64,
    size_bytes: u64,
}

struct Blob {
    digest: String,
    content: Content,
}

enum Content {
    Layer(Layer),
    Bytes(Vec<u8>),
}

struct Registry {
    address: String,
    repository: String,
    way: Way,
}

fn main() {
    let options = Options::from_command_line(USAGE, &["address", "repository", "layers", "layer-bytes", "way", "seed", "at-once"]);
    let way = match options.optional::<String>("way").as_deref() {
        None | Some("patch") => Way::Patch,
        Some("put") => Way::Put,
        Some(other) => fail(&format!("{other} is no way to push")),
    };
    let registry = Registry { address: options.required("address"), repository: options.required("repository"), way };
    let (count, size_bytes) = (options.required("layers"), options.required("layer-bytes"));
    let block = random_block();
    let seed = options.optional("seed").unwrap_or(1);
    let mut blobs: Vec<Blob> = (0..count).map(|number| Blob::of_layer(Layer { seed, number, size_bytes }, &block)).collect();
    let config = Blob::of_bytes(config_of(&blobs).into_bytes());
    let manifest = manifest_of(&config, &blobs);
    blobs.push(config);

    let started = Instant::now();
    let finals = push_blobs(&registry, &blobs, &block, options.optional("at-once").unwrap_or(3).max(1));
    let outcome = finals.and_then(|finals| push_manifest(&registry, &manifest).map(|()| finals));
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(finals) => {
            let size_bytes: u64 = blobs.iter().map(Blob::size_bytes).sum();
            let slowest_ms = finals.iter().max().map_or(0.0, |slowest| slowest.as_secs_f64() * 1e3);
            println!("{}", json!({ "seconds": seconds, "last_put_ms": slowest_ms, "bytes": size_bytes, "blobs": blobs.len() }));
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(fault: &str) -> ! {
    eprintln!("push: {fault}");
    std::process::exit(1)
}

/// The same in every run: runs differ by their seeds.
fn random_block() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..BLOCK_BYTES / size_of::<u64>()).flat_map(|_| next().to_le_bytes()).collect()
}

impl Layer {
    fn write(&self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        let mut block = block.to_vec();
        let mut left_bytes = self.size_bytes;
        for index in 0_u64.. {
            if left_bytes == 0 {
                break;
            }
            for (part, value) in block.chunks_exact_mut(size_of::<u64>()).zip([self.seed, self.number, index]) {
                part.copy_from_slice(&value.to_le_bytes());
            }
            let size = usize::try_from(left_bytes).map_or(block.len(), |left| left.min(block.len()));
            out.write_all(&block[..size])?;
            left_bytes -= size as u64;
        }
        Ok(())
    }
}

impl Blob {
    fn of_layer(layer: Layer, block: &[u8]) -> Blob {
        let mut hash = Hashing(Sha256::new());
        layer.write(block, &mut hash).unwrap_or_else(|error| fail(&error.to_string()));
        Blob { digest: name_of(&hash.0.finalize()), content: Content::Layer(layer) }
    }

    fn of_bytes(bytes: Vec<u8>) -> Blob {
        Blob { digest: name_of(&Sha256::digest(&bytes)), content: Content::Bytes(bytes) }
    }

    fn size_bytes(&self) -> u64 {
        match &self.content {
            Content::Layer(layer) => layer.size_bytes,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn write(&self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        match &self.content {
            Content::Layer(layer) => layer.write(block, out),
            Content::Bytes(bytes) => out.write_all(bytes),
        }
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name_of(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn config_of(layers: &[Blob]) -> String {
    // Layers that are not compressed have one name inside and outside.
    let inside: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
    json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": inside } }).to_string()
}

fn manifest_of(config: &Blob, layers: &[Blob]) -> String {
    let describe = |blob: &Blob, media_type| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes() });
    let layers: Vec<_> = layers.iter().map(|layer| describe(layer, LAYER)).collect();
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(config, CONFIG), "layers": layers }).to_string()
}

/// Pushes them, several at a time, and returns how long each last PUT waited for its answer.
fn push_blobs(registry: &Registry, blobs: &[Blob], block: &[u8], at_once: usize) -> io::Result<Vec<Duration>> {
    let (next, waits) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> io::Result<()> {
        let mut client = Client::new(&registry.address, &registry.address);
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let waited = push_blob(&mut client, registry, blob, block)?;
            waits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(waited);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker failed"))))
    })?;
    Ok(waits.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn push_blob(client: &mut Client, registry: &Registry, blob: &Blob, block: &[u8]) -> io::Result<Duration> {
    let begun = client.send("POST", &format!("/v2/{}/blobs/uploads/", registry.repository), "", 0, |_| Ok(()))?;
    let mut session = place_of(&expect(begun, 202)?)?;
    let fields = "Content-Type: application/octet-stream\r\n";
    if registry.way == Way::Patch {
        let sent = client.send("PATCH", &session, fields, blob.size_bytes(), |out| blob.write(block, out))?;
        session = place_of(&expect(sent, 202)?)?;
    }
    let finish = format!("{session}{}digest={}", if session.contains('?') { '&' } else { '?' }, blob.digest);
    let finished = match registry.way {
        Way::Patch => client.send("PUT", &finish, "", 0, |_| Ok(()))?,
        Way::Put => client.send("PUT", &finish, fields, blob.size_bytes(), |out| blob.write(block, out))?,
    };
    expect(finished, 201).map(|reply| reply.waited)
}

fn push_manifest(registry: &Registry, manifest: &str) -> io::Result<()> {
    let mut client = Client::new(&registry.address, &registry.address);
    let path = format!("/v2/{}/manifests/pushed", registry.repository);
    let fields = format!("Content-Type: {MANIFEST}\r\n");
    let reply = client.send("PUT", &path, &fields, manifest.len() as u64, |out| out.write_all(manifest.as_bytes()))?;
    expect(reply, 201).map(|_| ())
}

fn expect(reply: Reply, status: u16) -> io::Result<Reply> {
    if reply.status == status { Ok(reply) } else { Err(io::Error::other(format!("{} instead of {status}", reply.status))) }
}

/// Path and query of the Location, which may be absolute.
fn place_of(reply: &Reply) -> io::Result<String> {
    let location = reply.header("location").ok_or_else(|| io::Error::other("no Location"))?;
    let path = location.split_once("://").and_then(|(_, rest)| rest.find('/').and_then(|start| rest.get(start..)));
    Ok(path.unwrap_or(location).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(layer: &Layer) -> Vec<u8> {
        let mut bytes = Vec::new();
        layer.write(&random_block(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn layers_are_as_large_as_asked_and_differ() {
        let sizes = [0, 1, BLOCK_BYTES as u64 - 1, BLOCK_BYTES as u64, 3 * BLOCK_BYTES as u64 + 5];
        for size_bytes in sizes {
            assert_eq!(bytes_of(&Layer { seed: 1, number: 0, size_bytes }).len() as u64, size_bytes);
        }
        let long = bytes_of(&Layer { seed: 1, number: 0, size_bytes: 2 * BLOCK_BYTES as u64 });
        assert_ne!(long[..BLOCK_BYTES], long[BLOCK_BYTES..]);
        assert_ne!(long, bytes_of(&Layer { seed: 1, number: 1, size_bytes: 2 * BLOCK_BYTES as u64 }));
        assert_ne!(long, bytes_of(&Layer { seed: 2, number: 0, size_bytes: 2 * BLOCK_BYTES as u64 }));
    }

    #[test]
    fn a_digest_is_that_of_what_is_sent() {
        let layer = Layer { seed: 7, number: 3, size_bytes: 100_000 };
        let expected = Blob::of_bytes(bytes_of(&layer)).digest;
        assert_eq!(Blob::of_layer(layer, &random_block()).digest, expected);
        assert_eq!(Blob::of_bytes(Vec::new()).digest, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
