//! What an origin holds: bytes that come from a seed, images, indexes and artifacts.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What names an empty config blob: two bytes.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// `sha256:` and the hexadecimal digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The length of the block that is repeated: odd, so that no buffer's size divides it.
const BLOCK_BYTES: usize = 1_048_573;

/// A blob's bytes: made from a seed when they are asked for, so that a large one takes no memory, and quickly compared.
///
/// One random block is repeated; each repetition begins with its number, so that no part can stand for another.
#[derive(Clone, Debug)]
pub struct Blob {
    block: Bytes,
    size_bytes: u64,
    digest: String,
}

impl Blob {
    /// `size_bytes` bytes that depend on `seed` only.
    pub fn seeded(seed: u64, size_bytes: u64) -> Blob {
        let mut block = BytesMut::with_capacity(BLOCK_BYTES + 8);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ size_bytes;
        while block.len() < BLOCK_BYTES {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        block.truncate(BLOCK_BYTES);
        let mut blob = Blob { block: block.freeze(), size_bytes, digest: String::new() };
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < size_bytes {
            let part = blob.part(at, BLOCK_BYTES);
            hash.update(&part);
            at += part.len() as u64;
        }
        blob.digest = named(hash.finalize().as_slice());
        blob
    }

    /// These very bytes.
    pub fn held(bytes: impl Into<Bytes>) -> Blob {
        let block = bytes.into();
        Blob { size_bytes: block.len() as u64, digest: digest_of(&block), block }
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes from `at`, at least one and at most `max`; empty at the end.
    pub fn part(&self, at: u64, max: usize) -> Bytes {
        let rest = self.size_bytes.saturating_sub(at);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(max);
        if length == 0 {
            return Bytes::new();
        }
        let (number, within) = (at / self.block.len() as u64, (at % self.block.len() as u64) as usize);
        let length = length.min(self.block.len() - within);
        if number == 0 || within >= 8 {
            return self.block.slice(within..within + length);
        }
        let mut start = BytesMut::from(&self.block[within..within + length]);
        let mark = number.to_le_bytes();
        let marked = length.min(8 - within);
        start[..marked].copy_from_slice(&mark[within..within + marked]);
        start.freeze()
    }

    /// Whether `bytes` stand at `at` in this blob.
    pub fn matches(&self, at: u64, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let mut at = at;
        while !rest.is_empty() {
            // The numbered head of a block is compared by itself, so that the long remainder is not copied.
            let within = (at % self.block.len().max(1) as u64) as usize;
            let part = self.part(at, if within < 8 { 8 - within } else { rest.len() }.min(rest.len()));
            if part.is_empty() || rest[..part.len()] != part[..] {
                return false;
            }
            rest = &rest[part.len()..];
            at += part.len() as u64;
        }
        true
    }

    /// All of it, for small blobs.
    pub fn bytes(&self) -> Bytes {
        let mut whole = BytesMut::new();
        while (whole.len() as u64) < self.size_bytes {
            whole.extend_from_slice(&self.part(whole.len() as u64, BLOCK_BYTES));
        }
        whole.freeze()
    }
}

/// A manifest as it lies in a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Bytes,
    pub digest: String,
}

impl Manifest {
    pub fn new(media_type: &str, content: &Value) -> Manifest {
        Manifest::raw(media_type, serde_json::to_vec_pretty(content).expect("JSON values can be written"))
    }

    /// These very bytes.
    pub fn raw(media_type: &str, bytes: impl Into<Bytes>) -> Manifest {
        let bytes = bytes.into();
        Manifest { media_type: media_type.to_owned(), digest: digest_of(&bytes), bytes }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The digests of what it refers to and must be there: config, layers, the manifests of an index.
    pub fn references(&self) -> Vec<String> {
        let json = self.json();
        let lists = ["layers", "manifests", "blobs"].map(|name| json[name].as_array().cloned().unwrap_or_default());
        let all = lists.into_iter().flatten().chain([json["config"].clone()]);
        all.filter_map(|descriptor| descriptor["digest"].as_str().map(str::to_owned)).collect()
    }

    /// What points at it from an index.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image: its manifest and the blobs that it names, the config first.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Manifest,
    pub blobs: Vec<Blob>,
}

impl Image {
    /// An image with a layer of each of these sizes; all its bytes depend on `seed`.
    pub fn new(seed: u64, layer_sizes: &[u64]) -> Image {
        let layers: Vec<Blob> =
            layer_sizes.iter().enumerate().map(|(number, size)| Blob::seeded(seed.wrapping_mul(1000) + number as u64, *size)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "seed": seed, "rootfs": {"type": "layers", "diff_ids": []}});
        Image::of(Blob::held(config.to_string()), layers)
    }

    /// An image of given blobs.
    pub fn of(config: Blob, layers: Vec<Blob>) -> Image {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        });
        Image { manifest: Manifest::new(MANIFEST, &manifest), blobs: std::iter::once(config).chain(layers).collect() }
    }

    /// An artifact whose subject is `subject`.
    pub fn artifact(artifact_type: &str, subject: &Manifest, content: &str) -> Image {
        let (config, layer) = (Blob::held("{}"), Blob::held(content.to_owned()));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor(EMPTY, &config),
            "layers": [descriptor("text/plain", &layer)],
            "subject": subject.descriptor(),
            "annotations": {"org.example.content": content},
        });
        Image { manifest: Manifest::new(MANIFEST, &manifest), blobs: vec![config, layer] }
    }

    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }
}

/// An index of images for amd64 and arm64.
pub fn index_of(amd64: &Image, arm64: &Image) -> Manifest {
    let entry = |image: &Image, architecture: &str| {
        let mut entry = image.manifest.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    Manifest::new(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(amd64, "amd64"), entry(arm64, "arm64")]}))
}

/// How a referrers list, or the fallback tag's index, describes a manifest that has a subject.
pub fn referrer_entry(manifest: &Manifest) -> Value {
    let json = manifest.json();
    let mut entry = manifest.descriptor();
    entry["artifactType"] = if json["artifactType"].is_null() { json["config"]["mediaType"].clone() } else { json["artifactType"].clone() };
    if !json["annotations"].is_null() {
        entry["annotations"] = json["annotations"].clone();
    }
    entry
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest(), "size": blob.size_bytes()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_blob_is_the_same_in_any_parts() {
        let blob = Blob::seeded(7, 2 * BLOCK_BYTES as u64 + 100);
        let whole = blob.bytes();
        assert_eq!(whole.len() as u64, blob.size_bytes());
        assert_eq!(digest_of(&whole), blob.digest());
        for at in [0, 3, BLOCK_BYTES - 2, BLOCK_BYTES, BLOCK_BYTES + 5, 2 * BLOCK_BYTES + 1] {
            let part = blob.part(at as u64, 64);
            assert_eq!(part[..], whole[at..at + part.len()], "{at}");
            assert!(blob.matches(at as u64, &whole[at..]), "{at}");
        }
        assert_eq!(blob.part(blob.size_bytes(), 10).len(), 0);
        assert_ne!(blob.digest(), Blob::seeded(8, blob.size_bytes()).digest());
    }

    #[test]
    fn wrong_bytes_do_not_match() {
        let blob = Blob::seeded(7, 3 * BLOCK_BYTES as u64);
        let mut bytes = blob.bytes().to_vec();
        assert!(!blob.matches(BLOCK_BYTES as u64, &bytes[..100]), "a block does not stand for the next");
        assert!(!blob.matches(2 * BLOCK_BYTES as u64 + 1, &bytes[2 * BLOCK_BYTES..]), "too long");
        bytes[2 * BLOCK_BYTES + 77] ^= 1;
        assert!(!blob.matches(0, &bytes));
    }
}
